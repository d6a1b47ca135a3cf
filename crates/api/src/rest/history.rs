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

/// The team, the job, the deployment and a revision in a path.
type RevisionPath = Path<(String, String, String, i64)>;

/// A revision of a deployment. A revision never changes.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobDeploymentRevision {
    /// The number of the revision: accepted changes under the job's name are counted.
    #[schema(minimum = 1, example = 3)]
    revision: i64,
    /// The source version.
    #[schema(pattern = "^[0-9a-f]{40}$", example = "78ea24478fce7ccd34444e8b04647abec70e7d4d")]
    job_version: String,
    /// The Python version.
    #[schema(example = "3.11")]
    python_version: String,
    /// The version in the request; null followed the service's default of that time.
    #[schema(example = "3.11")]
    python_version_requested: Option<String>,
    /// The VDK version.
    #[schema(example = "0.2.1810444937")]
    vdk_version: String,
    /// The version in the request; null followed the service's default of that time.
    #[schema(example = "0.2.1810444937")]
    vdk_version_requested: Option<String>,
    /// Whether the schedule starts executions.
    enabled: bool,
    /// The mode of the deployment.
    #[schema(value_type = DataJobMode)]
    mode: &'static str,
    /// The resources of an execution.
    resources: ResourcesBody,
    /// The schedule.
    schedule: ScheduleBody,
    /// The mail addresses of notifications.
    contacts: ContactsBody,
    /// The type of database that the job's SQL runs on by default; null when there is none.
    db_default_type: Option<String>,
    /// Whether notifications about executions are sent.
    enable_execution_notifications: bool,
    /// The user who requested this generation.
    #[schema(example = "anonymous")]
    deployed_by: String,
    /// The time of the request for this generation.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    deployed_date: String,
}

/// Revisions, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobDeploymentRevisionPage)]
pub(crate) struct RevisionPage {
    /// The revisions.
    revisions: Vec<DataJobDeploymentRevision>,
    /// The `before` of the next page; null on the last one.
    next_before: Option<i64>,
}

/// The differences between two revisions.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobDeploymentDiff)]
pub(crate) struct RevisionDiff {
    /// The first revision.
    #[schema(example = 1)]
    from: i64,
    /// The second.
    #[schema(example = 2)]
    to: i64,
    /// The fields that differ, without the user and the time of the request.
    #[schema(value_type = Vec<FieldChange>)]
    changes: Vec<Difference>,
}

/// One field that differs.
#[derive(ToSchema)]
#[schema(as = DataJobDeploymentChangedField)]
#[expect(dead_code, reason = "for the document; the model makes the value")]
struct FieldChange {
    /// The name of the field, with a dot before the name of a part.
    #[schema(example = "resources.memory_limit")]
    field: String,
    /// The value in the first revision: any JSON.
    from: serde_json::Value,
    /// The value in the second generation: any JSON.
    to: serde_json::Value,
}

/// An audit event: a change, its user and its request.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobAuditEvent)]
struct AuditEvent {
    /// The number of the event; later events have larger numbers.
    #[schema(example = 17)]
    id: i64,
    /// The time of the change.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    date: String,
    /// The user.
    #[schema(example = "anonymous")]
    by: String,
    /// The operation id of the request.
    #[schema(example = "5f3c9a0d1b2e4f67")]
    op_id: String,
    /// The kind of change, such as `job.create`, `job.update`, `job.move`, `deployment.change`, `deployment.rollback`,
    /// `sources.upload` or `execution.start`.
    #[schema(example = "deployment.change")]
    action: String,
    /// The team of the job at that time.
    #[schema(example = "my-team")]
    team: Option<String>,
    /// The revision that the change created; null if it created none.
    #[schema(example = 3)]
    revision: Option<i64>,
    /// Further detail, such as the id of an execution.
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
            revision: revision.generation,
            job_version: revision.job_version.to_string(),
            python_version: revision.python_version.to_string(),
            python_version_requested: revision.python_version_asked.map(|version| version.to_string()),
            vdk_version: revision.vdk_version,
            vdk_version_requested: revision.vdk_version_asked,
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
            revision: event.generation,
            detail: event.detail,
        }
    }
}

fn page_request(query: &Query) -> ApiResult<PageRequest> {
    Ok(PageRequest { before: query.number("before")?, limit: query.number("limit")? })
}

/// Lists the revisions of a deployment.
///
/// The newest generation comes first. The revisions of a removed deployment are kept.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Deployment",
    params(
        (
            "before" = Option<i64>, Query,
            description = "Only entries older than the entry with this number: `next_before` of the previous page.",
        ),
        (
            "limit" = Option<i64>, Query, minimum = 1, maximum = 1000, example = 100,
            description = "The maximum number of entries; 100 by default.",
        ),
    ),
    responses(
        (status = 200, description = "A page of revisions.", body = RevisionPage),
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

/// Reads a revision of a deployment.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Deployment",
    responses(
        (status = 200, description = "The revision.", body = DataJobDeploymentRevision),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment or revision of this id."),
    )
)]
pub(crate) async fn deployment_revision_read(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id, revision)): RevisionPath,
) -> ApiResult<Json<DataJobDeploymentRevision>> {
    Ok(Json(app::history::revision(&api.db, &caller, &team, &name, &id, revision).await?.into()))
}

/// Compares two revisions of a deployment.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Deployment",
    responses(
        (status = 200, description = "The differences.", body = RevisionDiff),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment or revision of this id."),
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

/// Rolls back to an old revision.
///
/// The rollback creates a new revision with the source, versions, enabled flag, resources and job configuration of the old one.
/// The job gets that configuration too. A rollback also restores a removed deployment.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs Deployment",
    responses(
        (status = 202, description = "The change was accepted. The rollout starts within seconds."),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment or revision of this id."),
        (status = 409, description = "The source of that generation was removed, or its Python version is no longer available."),
    )
)]
pub(crate) async fn deployment_rollback(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id, revision)): RevisionPath,
) -> ApiResult<StatusCode> {
    let (db, clock, zone) = (&api.db, &*api.clock, &api.default_zone);
    app::history::roll_back(db, clock, &caller, zone, &api.versions, &team, &name, (&id, revision)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Lists the audit events of a data job.
///
/// The newest event comes first. Events of a deleted job that had the same name are not listed.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs",
    params(
        (
            "before" = Option<i64>, Query,
            description = "Only entries older than the entry with this number: `next_before` of the previous page.",
        ),
        (
            "limit" = Option<i64>, Query, minimum = 1, maximum = 1000, example = 100,
            description = "The maximum number of entries; 100 by default.",
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
