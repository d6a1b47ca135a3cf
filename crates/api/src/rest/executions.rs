//! Executions as JSON: start, list, read, cancel, logs.

use std::sync::Arc;

use app::{JsonObject, executions::StartRequest, logs::LogReader};
use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{
        StatusCode,
        header::{CONTENT_TYPE, LOCATION},
    },
    response::IntoResponse,
};
use model::{
    Problem,
    deployment::{Mode, RELEASE},
    execution::{Execution, Status},
    name::excerpt,
    problem::Code,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JobPath, PartPath, deployments::ResourcesBody, jobs::ScheduleBody};
use crate::{
    Api,
    caller::RequestCaller,
    error::ApiResult,
    input::{OptionalJsonBody, Path, Query},
    links,
    openapi::names::{DataJobMode, ExecutionStatus, ExecutionType},
    principals::principal,
    streams::Sending,
};

/// Bytes of a log that become one piece of JSON text.
const LOG_PIECE_BYTES: usize = 32 * 1024;

/// The start of an execution.
#[derive(Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
#[schema(example = json!({ "started_by": "manual/vdk-control-cli", "args": { "day": "2024-03-09" } }))]
pub(crate) struct DataJobExecutionRequest {
    /// The origin of the start; the service appends the user's name.
    #[schema(max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$", example = "manual/vdk-control-cli")]
    started_by: Option<String>,
    /// Arguments for the job's steps, at most 100 KiB (102400 bytes) as JSON; numbers are kept digit by digit.
    #[schema(value_type = Option<Object>)]
    args: Option<JsonObject>,
}

/// An execution.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobExecution {
    /// The id of the execution: the job's name and a number.
    #[schema(pattern = "^[a-z][a-z0-9-]{0,62}$", example = "my-first-job-1710000000")]
    id: String,
    /// The name of the job.
    #[schema(example = "my-first-job")]
    job_name: String,
    /// The status of the execution.
    #[schema(value_type = ExecutionStatus)]
    status: String,
    /// The kind of start.
    #[serde(rename = "type")]
    #[schema(value_type = ExecutionType)]
    kind: String,
    /// The start time; until the start, the time of the request.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    start_time: String,
    /// The end time; absent before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime, example = "2024-03-09T16:00:12Z")]
    end_time: Option<String>,
    /// The origin of the start, and the user.
    #[schema(example = "manual/vdk-control-cli/anonymous")]
    started_by: String,
    /// The URL of the log, if the operator stores logs elsewhere; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    logs_url: Option<String>,
    /// A message about the status; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "Success")]
    message: Option<String>,
    /// The operation id of the request that started the execution.
    #[schema(example = "5f3c9a0d1b2e4f67")]
    op_id: String,
    /// The deployment of the execution.
    deployment: DataJobDeployment,
}

/// The deployment of an execution. The object is always present, because clients read its fields without a check. Before the
/// revision is known it has the id alone.
#[derive(Serialize, ToSchema)]
struct DataJobDeployment {
    /// Always `release`.
    #[schema(value_type = String, example = "release")]
    id: &'static str,
    #[serde(flatten)]
    #[schema(value_type = Revision)]
    revision: Option<Revision>,
}

/// The revision of an execution; absent until it is known. An execution that another service recorded has the known fields
/// only.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobExecutionRevision)]
struct Revision {
    /// The VDK version of the execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "0.2.1810444937")]
    vdk_version: Option<String>,
    /// The source version of the execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[0-9a-f]{40}$", example = "78ea24478fce7ccd34444e8b04647abec70e7d4d")]
    job_version: Option<String>,
    /// The Python version of the execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "3.11")]
    python_version: Option<String>,
    /// The mode of the deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = DataJobMode)]
    mode: Option<&'static str>,
    /// Whether the schedule starts executions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    enabled: Option<bool>,
    /// The user who requested the deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "anonymous")]
    deployed_by: Option<String>,
    /// The time of the request for the deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime, example = "2024-03-09T16:00:00Z")]
    deployed_date: Option<String>,
    /// The schedule of the job.
    #[schema(required = false)]
    schedule: ScheduleBody,
    /// The resources of the execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    resources: Option<ResourcesBody>,
}

/// The log of an execution.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobExecutionLogs {
    /// The text of the log; a very long log has its beginning and its end.
    logs: String,
}

impl DataJobExecution {
    fn new(api: &Api, run: Execution) -> Self {
        let logs_url = api.logs_url.as_ref().map(|template| template.of_execution(&run, api.clock.now()));
        let revision = run.revision.map(|revision| Revision {
            vdk_version: revision.vdk_version,
            job_version: revision.job_version.map(|version| version.to_string()),
            python_version: revision.python_version.map(|version| version.to_string()),
            mode: revision.mode.map(Mode::as_str),
            enabled: revision.enabled,
            deployed_by: revision.deployed_by,
            deployed_date: revision.deployed_at.map(|at| at.to_string()),
            schedule: ScheduleBody { schedule_cron: revision.schedule_cron },
            resources: revision.resources.map(Into::into),
        });
        Self {
            id: run.id.into(),
            job_name: run.job_name.into(),
            status: run.status.as_str().to_ascii_lowercase(),
            kind: run.kind.as_str().to_ascii_lowercase(),
            start_time: run.started_at.unwrap_or(run.submitted_at).to_string(),
            end_time: run.ended_at.map(|at| at.to_string()),
            started_by: run.started_by,
            logs_url,
            message: run.message,
            op_id: run.op_id,
            deployment: DataJobDeployment { id: RELEASE, revision },
        }
    }
}

/// The requested statuses, repeated or separated by commas; none means any. An unknown status is 404, as upstream returns it.
fn statuses(query: &Query) -> Result<Vec<Status>, Problem> {
    query
        .all("execution_status")
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .map(|value| {
            Status::parse(value).ok_or_else(|| {
                let known: Vec<_> = Status::ALL.iter().map(|s| s.as_str().to_ascii_lowercase()).collect();
                Problem::new(
                    Code::ExecutionStatusUnknown,
                    "The executions were not listed.",
                    format!("execution_status {} does not exist; known are {}.", excerpt(value), known.join(", ")),
                )
                .nothing_returned()
                .fix("Use one of the known statuses.")
            })
        })
        .collect()
}

/// Lists the executions of a data job.
///
/// The newest 1000 at most, the newest last.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Execution",
    params((
        "execution_status" = Option<Vec<ExecutionStatus>>, Query,
        description = "Only executions in one of these statuses, repeated or separated by commas; absent means any.",
    )),
    responses(
        (status = 200, description = "The executions.", body = Vec<DataJobExecution>),
        (status = 404, description = "The job is unknown or belongs to another team, or there is no such status."),
    )
)]
pub(crate) async fn data_job_execution_list(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
    query: Query,
) -> ApiResult<Json<Vec<DataJobExecution>>> {
    let runs = app::executions::list(&api.metered_db(), &caller, &team, &name, None, &statuses(&query)?).await?;
    Ok(Json(runs.into_iter().map(|run| DataJobExecution::new(&api, run)).collect()))
}

/// Lists the executions of a deployment.
///
/// The newest 1000 at most, the newest last.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Execution",
    params((
        "execution_status" = Option<Vec<ExecutionStatus>>, Query,
        description = "Only executions in one of these statuses, repeated or separated by commas; absent means any.",
    )),
    responses(
        (status = 200, description = "The executions.", body = Vec<DataJobExecution>),
        (status = 404, description = "The job is unknown or belongs to another team, has no deployment of this id, or there is no such status."),
    )
)]
pub(crate) async fn data_job_deployment_execution_list(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
    query: Query,
) -> ApiResult<Json<Vec<DataJobExecution>>> {
    let runs = app::executions::list(&api.metered_db(), &caller, &team, &name, Some(&id), &statuses(&query)?).await?;
    Ok(Json(runs.into_iter().map(|run| DataJobExecution::new(&api, run)).collect()))
}

/// Starts a data job.
///
/// The response means that the execution is stored. The execution starts as soon as there is capacity. A job has one active
/// execution at a time.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs Execution",
    request_body(content = Option<DataJobExecutionRequest>, description = "The start of the execution; optional."),
    responses(
        (
            status = 202, description = "The execution was accepted.",
            headers(("Location" = String, description = "The URL of the execution; its last segment is the id of the execution."))
        ),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment."),
        (status = 409, description = "An execution of the job is active."),
    )
)]
pub(crate) async fn data_job_execution_start(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
    OptionalJsonBody(body): OptionalJsonBody<DataJobExecutionRequest>,
) -> ApiResult<impl IntoResponse> {
    api.principals.charge_start(&caller)?;
    let request =
        StartRequest { started_by: body.started_by, arguments: body.args.filter(|arguments| !arguments.is_empty()) };
    let run = app::executions::start(&api.db, &*api.clock, &caller, &team, &name, &id, &request).await?;
    Ok((StatusCode::ACCEPTED, [(LOCATION, links::execution(&team, &name, &run))]))
}

/// Reads an execution.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Execution",
    responses(
        (status = 200, description = "The execution.", body = DataJobExecution),
        (status = 404, description = "The job is unknown or belongs to another team, or has no execution of this id."),
    )
)]
pub(crate) async fn data_job_execution_read(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
) -> ApiResult<Json<DataJobExecution>> {
    let run = app::executions::read(&api.db, &caller, &team, &name, &id).await?;
    Ok(Json(DataJobExecution::new(&api, run)))
}

/// Cancels an execution.
///
/// The status becomes `cancelled` when all its processes have ended. An execution that ends before keeps its own status.
#[utoipa::path(
    delete,
    path = "",
    tag = "Data Jobs Execution",
    responses(
        (status = 200, description = "The cancellation was accepted."),
        (status = 400, description = "The execution has ended already."),
        (status = 404, description = "The job is unknown or belongs to another team, or has no execution of this id."),
    )
)]
pub(crate) async fn data_job_execution_cancel(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
) -> ApiResult<StatusCode> {
    app::executions::cancel(&api.db, &*api.clock, &caller, &team, &name, &id).await?;
    Ok(StatusCode::OK)
}

/// Reads the log of an execution.
///
/// An execution in progress has the log so far.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Execution",
    params((
        "tail_lines" = Option<i64>, Query,
        description = "The number of last lines to return; 0, the default, and negative numbers return the whole log.", example = 100,
    )),
    responses(
        (status = 200, description = "The log.", body = DataJobExecutionLogs),
        (status = 404, description = "The job is unknown or belongs to another team, or has no execution of this id."),
        (status = 409, description = "The execution is in progress on another machine than this instance."),
    )
)]
pub(crate) async fn data_job_logs_download(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
    query: Query,
) -> ApiResult<impl IntoResponse> {
    let tail: i64 = query.number("tail_lines")?.unwrap_or(0);
    let tail = usize::try_from(tail).ok().filter(|lines| *lines > 0);
    let (runtime, live) = (&*api.runtime, &api.transfers.live_logs);
    let sending = Sending::begin(&api, &caller).await?;
    let place = (team.as_str(), name.as_str(), id.as_str());
    let log = app::executions::log(&api.db, runtime, live, &caller, principal(&caller), place, tail).await?;
    let body = sending.body(LogJson::Begins(log), LogJson::piece);
    Ok(([(CONTENT_TYPE, "application/json")], body))
}

/// A log as it becomes the body of [`DataJobExecutionLogs`].
enum LogJson {
    Begins(LogReader),
    /// The reader, a piece of its text, and how much of that was sent.
    Goes(LogReader, String, usize),
    Ended,
}

impl LogJson {
    async fn piece(self) -> Result<Option<(Bytes, Self)>, Problem> {
        let (mut reader, mut text, mut sent) = match self {
            Self::Begins(reader) => {
                let begin = Bytes::from_static(b"{\"logs\":\"");
                return Ok(Some((begin, Self::Goes(reader, String::new(), 0))));
            }
            Self::Goes(reader, text, sent) => (reader, text, sent),
            Self::Ended => return Ok(None),
        };
        while sent == text.len() {
            let Some(next) = reader.next_piece().await? else {
                return Ok(Some((Bytes::from_static(b"\"}"), Self::Ended)));
            };
            (text, sent) = (next, 0);
        }
        let rest = &text[sent..];
        let mut end = LOG_PIECE_BYTES.min(rest.len());
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let mut quoted = serde_json::to_vec(&rest[..end]).expect("a text is JSON");
        // Without its quotes.
        quoted.pop();
        let piece = Bytes::from(quoted).slice(1..);
        Ok(Some((piece, Self::Goes(reader, text, sent + end))))
    }
}
