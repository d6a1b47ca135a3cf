//! Generations of a deployment and audit events as JSON: additions to the public API.

use std::sync::Arc;

use app::history::{Page, PageRequest, RecordedEvent};
use axum::{Json, extract::State, http::StatusCode};
use model::{deployment::Deployment, difference::Difference};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    JobPath, PartPath,
    deployments::ResourcesBody,
    jobs::{ContactsBody, ScheduleBody},
};
use crate::{
    Api,
    caller::RequestCaller,
    error::ApiResult,
    input::{Path, Query},
    openapi::names::DataJobMode,
};

/// The team, the job, the deployment and a generation in a path.
type RevisionPath = Path<(String, String, String, i64)>;

/// A generation of a deployment, whole. It never changes.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobDeploymentRevision {
    /// Counts the accepted changes of what belongs to the job's name.
    #[schema(minimum = 1, example = 3)]
    generation: i64,
    /// The source.
    #[schema(pattern = "^[0-9a-f]{40}$", example = "78ea24478fce7ccd34444e8b04647abec70e7d4d")]
    job_version: String,
    /// The Python version.
    #[schema(example = "3.11")]
    python_version: String,
    /// What the request asked for; null follows the service's default of that time.
    #[schema(example = "3.11")]
    python_version_asked: Option<String>,
    /// The VDK version.
    #[schema(example = "0.2.1810444937")]
    vdk_version: String,
    /// What the request asked for; null follows the service's default of that time.
    #[schema(example = "0.2.1810444937")]
    vdk_version_asked: Option<String>,
    /// Whether the schedule starts runs.
    enabled: bool,
    /// What it is for.
    #[schema(value_type = DataJobMode)]
    mode: &'static str,
    /// What a run may use.
    resources: ResourcesBody,
    /// When the job runs by itself.
    schedule: ScheduleBody,
    /// Who hears of what.
    contacts: ContactsBody,
    /// The type of database that the job's SQL runs on by default; null when there is none.
    db_default_type: Option<String>,
    /// Whether runs are reported.
    enable_execution_notifications: bool,
    /// Who asked for it.
    #[schema(example = "anonymous")]
    deployed_by: String,
    /// When it was asked for.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    deployed_date: String,
}

/// Generations, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobDeploymentRevisionPage)]
pub(crate) struct RevisionPage {
    /// The generations.
    revisions: Vec<DataJobDeploymentRevision>,
    /// The `before` of the next page; null on the last one.
    next_before: Option<i64>,
}

/// What differs from one generation to another.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobDeploymentDiff)]
pub(crate) struct RevisionDiff {
    /// The first generation.
    #[schema(example = 1)]
    from: i64,
    /// The second.
    #[schema(example = 2)]
    to: i64,
    /// What differs, field by field; who asked and when is left out.
    #[schema(value_type = Vec<FieldChange>)]
    changes: Vec<Difference>,
}

/// One field that differs.
#[derive(ToSchema)]
#[schema(as = DataJobDeploymentChangedField)]
#[expect(dead_code, reason = "for the document; the model makes the value")]
struct FieldChange {
    /// Its name, with a dot before the name of a part.
    #[schema(example = "resources.memory_limit")]
    field: String,
    /// Its value in the first generation: any JSON.
    from: serde_json::Value,
    /// Its value in the second: any JSON.
    to: serde_json::Value,
}

/// Who changed what, and by which request.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobAuditEvent)]
struct AuditEvent {
    /// Ascends with time.
    #[schema(example = 17)]
    id: i64,
    /// When.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    date: String,
    /// Who.
    #[schema(example = "anonymous")]
    by: String,
    /// The operation id of the request.
    #[schema(example = "5f3c9a0d1b2e4f67")]
    op_id: String,
    /// What, such as `job.create`, `job.update`, `job.move`, `deployment.change`, `deployment.rollback`, `sources.upload` or
    /// `execution.start`.
    #[schema(example = "deployment.change")]
    action: String,
    /// The team of the job at that time.
    #[schema(example = "my-team")]
    team: Option<String>,
    /// The generation that it became; null where none did.
    #[schema(example = 3)]
    generation: Option<i64>,
    /// What else is to be said of it, such as the id of a run.
    detail: Option<String>,
}

/// Audit events, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobAuditEventPage)]
pub(crate) struct AuditEventPage {
    /// The events.
    events: Vec<AuditEvent>,
    /// The `before` of the next page; null on the last one.
    next_before: Option<i64>,
}

impl From<Deployment> for DataJobDeploymentRevision {
    fn from(revision: Deployment) -> Self {
        Self {
            generation: revision.generation,
            job_version: revision.job_version.to_string(),
            python_version: revision.python_version.to_string(),
            python_version_asked: revision.python_version_asked.map(|version| version.to_string()),
            vdk_version: revision.vdk_version,
            vdk_version_asked: revision.vdk_version_asked,
            enabled: revision.enabled,
            mode: revision.mode.as_str(),
            resources: revision.resources.into(),
            schedule: ScheduleBody { schedule_cron: revision.schedule_cron },
            contacts: ContactsBody::from(&revision.contacts),
            db_default_type: revision.db_default_type,
            enable_execution_notifications: revision.enable_execution_notifications,
            deployed_by: revision.deployed_by,
            deployed_date: revision.deployed_at.to_string(),
        }
    }
}

impl From<RecordedEvent> for AuditEvent {
    fn from(event: RecordedEvent) -> Self {
        Self {
            id: event.id,
            date: event.at.to_string(),
            by: event.by,
            op_id: event.op_id,
            action: event.action,
            team: event.team,
            generation: event.generation,
            detail: event.detail,
        }
    }
}

fn page_request(query: &Query) -> ApiResult<PageRequest> {
    Ok(PageRequest { before: query.number("before")?, limit: query.number("limit")? })
}

/// Lists the generations of a deployment.
///
/// Newest first, also of a deployment that was removed since.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Deployment",
    params(
        (
            "before" = Option<i64>, Query,
            description = "Only what is older than the entry of this number: `next_before` of the page before.",
        ),
        (
            "limit" = Option<i64>, Query, minimum = 1, maximum = 1000, example = 100,
            description = "How many entries at most; 100 by default.",
        ),
    ),
    responses(
        (status = 200, description = "A page of generations.", body = RevisionPage),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment of this id."),
    )
)]
pub(crate) async fn deployment_revision_list(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
    query: Query,
) -> ApiResult<Json<RevisionPage>> {
    let Page { content, next_before } =
        app::history::revisions(&api.metered_db(), &caller, &team, &name, &id, page_request(&query)?).await?;
    Ok(Json(RevisionPage { revisions: content.into_iter().map(Into::into).collect(), next_before }))
}

/// Reads a generation of a deployment.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Deployment",
    responses(
        (status = 200, description = "The generation.", body = DataJobDeploymentRevision),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment or generation of this id."),
    )
)]
pub(crate) async fn deployment_revision_read(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id, generation)): RevisionPath,
) -> ApiResult<Json<DataJobDeploymentRevision>> {
    Ok(Json(app::history::revision(&api.db, &caller, &team, &name, &id, generation).await?.into()))
}

/// Compares two generations of a deployment.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Deployment",
    responses(
        (status = 200, description = "What differs.", body = RevisionDiff),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment or generation of this id."),
    )
)]
pub(crate) async fn deployment_revision_diff(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id, from, to)): Path<(String, String, String, i64, i64)>,
) -> ApiResult<Json<RevisionDiff>> {
    let changes = app::history::differences(&api.db, &caller, &team, &name, &id, (from, to)).await?;
    Ok(Json(RevisionDiff { from, to, changes }))
}

/// Makes an old generation the wanted one again.
///
/// As a new generation: source, versions, switch, resources, and what it had of the job, which the job takes back too. A
/// deployment that was removed comes back that way.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs Deployment",
    responses(
        (status = 202, description = "It is stored."),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment or generation of this id."),
        (status = 409, description = "Its source was removed, or its Python version is not on offer any more."),
    )
)]
pub(crate) async fn deployment_rollback(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id, generation)): RevisionPath,
) -> ApiResult<StatusCode> {
    let (db, clock, zone) = (&api.db, &*api.clock, &api.default_zone);
    app::history::roll_back(db, clock, &caller, zone, &api.versions, &team, &name, (&id, generation)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Lists who changed what of a data job.
///
/// Newest first. A namesake that was deleted before is not told of.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs",
    params(
        (
            "before" = Option<i64>, Query,
            description = "Only what is older than the entry of this number: `next_before` of the page before.",
        ),
        (
            "limit" = Option<i64>, Query, minimum = 1, maximum = 1000, example = 100,
            description = "How many entries at most; 100 by default.",
        ),
    ),
    responses(
        (status = 200, description = "A page of events.", body = AuditEventPage),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn data_job_audit_event_list(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
    query: Query,
) -> ApiResult<Json<AuditEventPage>> {
    let Page { content, next_before } =
        app::history::events(&api.metered_db(), &caller, &team, &name, page_request(&query)?).await?;
    Ok(Json(AuditEventPage { events: content.into_iter().map(Into::into).collect(), next_before }))
}
