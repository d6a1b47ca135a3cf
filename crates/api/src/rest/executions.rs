//! Runs as JSON: start, list, read, cancel, logs.

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

/// How a run is started.
#[derive(Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
#[schema(example = json!({ "started_by": "manual/vdk-control-cli", "args": { "day": "2024-03-09" } }))]
pub(crate) struct DataJobExecutionRequest {
    /// Where the start comes from; the user's name is put behind it.
    #[schema(max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$", example = "manual/vdk-control-cli")]
    started_by: Option<String>,
    /// Arguments for the job's steps, at most 100 KiB (102400 bytes) as JSON; numbers are kept digit by digit.
    #[schema(value_type = Option<Object>)]
    args: Option<JsonObject>,
}

/// A run.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobExecution {
    /// The id of the run: the job's name and a number.
    #[schema(pattern = "^[a-z][a-z0-9-]{0,62}$", example = "my-first-job-1710000000")]
    id: String,
    /// The job.
    #[schema(example = "my-first-job")]
    job_name: String,
    /// How far it is, or how it ended.
    #[schema(value_type = ExecutionStatus)]
    status: String,
    /// Who started it.
    #[serde(rename = "type")]
    #[schema(value_type = ExecutionType)]
    kind: String,
    /// When it began to run; when it was accepted, as long as it does not run.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    start_time: String,
    /// When it ended; absent until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime, example = "2024-03-09T16:00:12Z")]
    end_time: Option<String>,
    /// Where the start came from, and the user.
    #[schema(example = "manual/vdk-control-cli/anonymous")]
    started_by: String,
    /// Where its log can be looked at, when the operator keeps logs elsewhere; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    logs_url: Option<String>,
    /// What is to be said of its status; absent as long as there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "Success")]
    message: Option<String>,
    /// The operation id of the request that started it.
    #[schema(example = "5f3c9a0d1b2e4f67")]
    op_id: String,
    /// What it runs.
    deployment: DataJobDeployment,
}

/// What a run runs. The object is always there, for clients look into it without asking; only the id is as long as the rest is
/// not settled.
#[derive(Serialize, ToSchema)]
struct DataJobDeployment {
    /// Always `release`.
    #[schema(value_type = String, example = "release")]
    id: &'static str,
    #[serde(flatten)]
    #[schema(value_type = Revision)]
    revision: Option<Revision>,
}

/// The revision that an execution runs; nothing as long as that is not settled. Of an execution that another service
/// recorded, only the known fields are there.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobExecutionRevision)]
struct Revision {
    /// The VDK version that it runs with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "0.2.1810444937")]
    vdk_version: Option<String>,
    /// The source that it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[0-9a-f]{40}$", example = "78ea24478fce7ccd34444e8b04647abec70e7d4d")]
    job_version: Option<String>,
    /// The Python version that it runs with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "3.11")]
    python_version: Option<String>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = DataJobMode)]
    mode: Option<&'static str>,
    /// Whether the schedule starts runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    enabled: Option<bool>,
    /// Who asked for the deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "anonymous")]
    deployed_by: Option<String>,
    /// When it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime, example = "2024-03-09T16:00:00Z")]
    deployed_date: Option<String>,
    /// When the job runs by itself.
    #[schema(required = false)]
    schedule: ScheduleBody,
    /// What a run may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    resources: Option<ResourcesBody>,
}

/// The log of a run.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobExecutionLogs {
    /// The text; of a very long log the beginning and the end.
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
            id: run.id.to_string(),
            job_name: run.job_name.to_string(),
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

/// The statuses asked for, repeated or with commas between them; none means any. A status that does not exist is not
/// found, as clients of the reference know it.
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

/// Lists the runs of a data job.
///
/// Newest first, at most 1000.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Execution",
    params((
        "execution_status" = Option<Vec<ExecutionStatus>>, Query,
        description = "Only runs in one of these statuses, repeated or with commas between them; absent means any.",
    )),
    responses(
        (status = 200, description = "The runs.", body = Vec<DataJobExecution>),
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

/// Lists the runs of a deployment.
///
/// Newest first, at most 1000.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Execution",
    params((
        "execution_status" = Option<Vec<ExecutionStatus>>, Query,
        description = "Only runs in one of these statuses, repeated or with commas between them; absent means any.",
    )),
    responses(
        (status = 200, description = "The runs.", body = Vec<DataJobExecution>),
        (status = 404, description = "The job is unknown or belongs to another team, has no deployment of this id, \
                or there is no such status."),
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
/// It is stored as a run when this answers, and runs as soon as there is room. One run of a job at a time.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs Execution",
    request_body(content = Option<DataJobExecutionRequest>, description = "How to start it; may be left out."),
    responses(
        (
            status = 202, description = "It is stored.",
            headers(("Location" = String, description = "The address of the run; its last part is the run's id."))
        ),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment."),
        (status = 409, description = "A run of the job is active."),
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

/// Reads a run.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Execution",
    responses(
        (status = 200, description = "The run.", body = DataJobExecution),
        (status = 404, description = "The job is unknown or belongs to another team, or has no run of this id."),
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

/// Cancels a run.
///
/// It is `cancelled` when nothing of it is left; a run that ends first keeps its true status.
#[utoipa::path(
    delete,
    path = "",
    tag = "Data Jobs Execution",
    responses(
        (status = 200, description = "Its end is asked for."),
        (status = 400, description = "It is over already."),
        (status = 404, description = "The job is unknown or belongs to another team, or has no run of this id."),
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

/// Reads the log of a run.
///
/// What there is so far, of a run in progress.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Execution",
    params((
        "tail_lines" = Option<i64>, Query,
        description = "Only so many of its last lines; 0, the default, and less mean all of it.", example = 100,
    )),
    responses(
        (status = 200, description = "The log.", body = DataJobExecutionLogs),
        (status = 404, description = "The job is unknown or belongs to another team, or has no run of this id."),
        (status = 409, description = "The run is in progress on another machine than the instance that was asked."),
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
