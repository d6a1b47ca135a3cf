//! Deleted jobs that can be restored: additions to the public API.

use std::sync::Arc;

use app::jobs::{Deleted, Undeleted};
use axum::{Json, extract::State, http::header::LOCATION, response::IntoResponse};
use jiff::Timestamp;
use model::{Problem, name::JobId, problem::Code};
use serde::Serialize;
use utoipa::ToSchema;

use super::JobPath;
use crate::{
    Api,
    caller::RequestCaller,
    error::ApiResult,
    input::{Path, Query},
    links,
};

/// A deleted job that can be restored.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeletedDataJob {
    /// The name of the job.
    #[schema(example = "my-first-job")]
    job_name: String,
    /// The team of the job.
    #[schema(example = "my-team")]
    team: String,
    /// Free text.
    description: String,
    /// The time of the deletion.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    deleted_date: String,
    /// The user who deleted the job; null if unknown.
    #[schema(example = "anonymous")]
    deleted_by: Option<String>,
    /// The revision of the job's deployment; null if it had none.
    #[schema(example = 3)]
    revision: Option<i64>,
}

/// Deleted jobs, the latest deletion first.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeletedDataJobPage {
    /// The jobs.
    jobs: Vec<DeletedDataJob>,
    /// The `before` of the next page; null on the last one.
    #[schema(example = "1710000000000000.00000000-0000-0000-0000-000000000001")]
    next_before: Option<String>,
}

/// The result of a restoration.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobUndeleted {
    /// The job's name.
    #[schema(example = "my-first-job")]
    job_name: String,
    /// The team that owns the job.
    #[schema(example = "my-team")]
    team: String,
    /// The new generation of the deployment; null if the job has none.
    #[schema(example = 4)]
    revision: Option<i64>,
    /// The reason why the deployment was not restored; null if it was, or if there was none.
    problem: Option<UndeleteProblem>,
}

/// The reason why a deployment was not restored.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobUndeleteProblem)]
struct UndeleteProblem {
    /// The failure, with the name of the object.
    what: String,
    /// The cause of the failure.
    why: String,
    /// The consequences of the failure.
    consequences: String,
    /// The next step.
    countermeasures: String,
    /// Which problem it is, as in an error body. All codes are in docs/errors.md.
    #[schema(value_type = String, example = "restored_sources_missing")]
    code: Code,
}

impl From<Deleted> for DeletedDataJob {
    fn from(deleted: Deleted) -> Self {
        Self {
            job_name: deleted.job.name.to_string(),
            team: deleted.job.team.to_string(),
            description: deleted.job.description,
            deleted_date: deleted.at.to_string(),
            deleted_by: deleted.by,
            revision: deleted.generation,
        }
    }
}

/// The beginning of a page, from the previous page.
fn before(text: &str) -> Result<(Timestamp, JobId), Problem> {
    let read = || {
        let (micros, id) = text.split_once('.')?;
        let at = Timestamp::from_microsecond(micros.parse().ok()?).ok()?;
        Some((at, JobId(id.parse().ok()?)))
    };
    read().ok_or_else(|| {
        Problem::new(
            Code::QueryParameterInvalid,
            "The deleted jobs were not listed.",
            "before is not a next_before of an earlier page.",
        )
        .nothing_returned()
        .fix("Send the next_before of the page before, or leave it out.")
    })
}

/// Lists the deleted jobs of a team that can be restored.
///
/// The latest deletion comes first. The operator of the service sets for how many days a deleted job is kept.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs",
    params(
        (
            "before" = Option<String>, Query,
            pattern = "^([0-9]{1,17}\\.[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?$",
            description = "Only jobs that were deleted before the last one of a page: `next_before` of that page.",
        ),
        (
            "limit" = Option<i64>, Query, minimum = 1, maximum = 1000, example = 100,
            description = "The maximum number of entries; 100 by default.",
        ),
    ),
    responses((status = 200, description = "A page of deleted jobs.", body = DeletedDataJobPage))
)]
pub(crate) async fn data_job_deleted_list(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path(team): Path<String>,
    query: Query,
) -> ApiResult<Json<DeletedDataJobPage>> {
    let before = query.text("before").map(before).transpose()?;
    let (jobs, next) = app::jobs::deleted(&api.db, &caller, &team, before, query.number("limit")?).await?;
    Ok(Json(DeletedDataJobPage {
        jobs: jobs.into_iter().map(Into::into).collect(),
        next_before: next.map(|(at, id)| format!("{}.{id}", at.as_microsecond())),
    }))
}

/// Restores a deleted data job.
///
/// Properties, secrets, source, history and deployment are restored; scheduled times before the restoration are not run. Of several
/// deleted jobs with this name, the latest is restored.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs",
    responses(
        (
            status = 200, description = "The job was restored.", body = DataJobUndeleted,
            headers(("Location" = String, description = "The URL of the job."))
        ),
        (status = 404, description = "No deleted job of this name is kept for this team."),
        (status = 409, description = "A job of this name exists, in this team or another."),
    )
)]
pub(crate) async fn data_job_undelete(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
) -> ApiResult<impl IntoResponse> {
    let (db, clock, zone) = (&api.db, &*api.clock, &api.default_zone);
    let Undeleted { generation: revision, problem } =
        app::jobs::undelete(db, clock, &caller, zone, &api.versions, &team, &name).await?;
    let location = links::job(&team, &name);
    let problem = problem.map(|p| UndeleteProblem {
        what: p.what,
        why: p.why,
        consequences: p.consequences,
        countermeasures: p.countermeasures,
        code: p.code,
    });
    Ok(([(LOCATION, location)], Json(DataJobUndeleted { job_name: name, team, revision, problem })))
}
