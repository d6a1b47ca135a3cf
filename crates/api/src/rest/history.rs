//! Generations of a deployment and audit events as JSON: additions to the public API.

use std::sync::Arc;

use app::history::{Kept, Page, Part};
use axum::{Json, extract::State, http::StatusCode};
use model::deployment::{Deployment, Difference};
use serde::Serialize;

use super::{
    JobPath, PartPath,
    deployments::ResourcesBody,
    jobs::{ContactsBody, ScheduleBody},
};
use crate::{
    Api,
    caller::By,
    error::Answer,
    input::{Path, Query},
};

/// The team, the job, the deployment and a generation in a path.
type RevisionPath = Path<(String, String, String, i64)>;

/// A generation, whole.
#[derive(Serialize)]
pub(crate) struct DataJobDeploymentRevision {
    generation: i64,
    job_version: String,
    python_version: String,
    /// What the request asked for; null follows the service's default of that time.
    python_version_asked: Option<String>,
    vdk_version: String,
    vdk_version_asked: Option<String>,
    enabled: bool,
    mode: &'static str,
    resources: ResourcesBody,
    schedule: ScheduleBody,
    contacts: ContactsBody,
    db_default_type: Option<String>,
    enable_execution_notifications: bool,
    deployed_by: String,
    deployed_date: String,
}

#[derive(Serialize)]
pub(crate) struct RevisionPage {
    revisions: Vec<DataJobDeploymentRevision>,
    next_before: Option<i64>,
}

#[derive(Serialize)]
pub(crate) struct RevisionDiff {
    from: i64,
    to: i64,
    changes: Vec<Difference>,
}

#[derive(Serialize)]
struct AuditEvent {
    id: i64,
    date: String,
    by: String,
    op_id: String,
    action: String,
    team: Option<String>,
    generation: Option<i64>,
    detail: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct AuditEventPage {
    events: Vec<AuditEvent>,
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

impl From<Kept> for AuditEvent {
    fn from(event: Kept) -> Self {
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

fn part(query: &Query) -> Answer<Part> {
    Ok(Part { before: query.number("before")?, limit: query.number("limit")? })
}

/// The generations of a deployment, newest first.
pub(crate) async fn deployment_revision_list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
    query: Query,
) -> Answer<Json<RevisionPage>> {
    let Page { content, next_before } =
        app::history::revisions(&api.db, &caller, &team, &name, &id, part(&query)?).await?;
    Ok(Json(RevisionPage { revisions: content.into_iter().map(Into::into).collect(), next_before }))
}

/// One generation of a deployment.
pub(crate) async fn deployment_revision_read(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id, generation)): RevisionPath,
) -> Answer<Json<DataJobDeploymentRevision>> {
    Ok(Json(app::history::revision(&api.db, &caller, &team, &name, &id, generation).await?.into()))
}

/// What differs from one generation to another.
pub(crate) async fn deployment_revision_diff(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id, from, to)): Path<(String, String, String, i64, i64)>,
) -> Answer<Json<RevisionDiff>> {
    let changes = app::history::differences(&api.db, &caller, &team, &name, &id, (from, to)).await?;
    Ok(Json(RevisionDiff { from, to, changes }))
}

/// Makes an old generation the wanted one again: 202.
pub(crate) async fn deployment_rollback(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id, generation)): RevisionPath,
) -> Answer<StatusCode> {
    let (db, clock, zone) = (&api.db, &*api.clock, &api.default_zone);
    app::history::roll_back(db, clock, &caller, zone, &api.versions, &team, &name, (&id, generation)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Who changed what of a job, newest first.
pub(crate) async fn data_job_audit_event_list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
    query: Query,
) -> Answer<Json<AuditEventPage>> {
    let Page { content, next_before } = app::history::events(&api.db, &caller, &team, &name, part(&query)?).await?;
    Ok(Json(AuditEventPage { events: content.into_iter().map(Into::into).collect(), next_before }))
}
