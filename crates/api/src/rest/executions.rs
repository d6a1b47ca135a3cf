//! Runs as JSON: start, list, read, cancel, logs.

use std::sync::Arc;

use app::{JsonObject, executions::StartRequest};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::LOCATION},
    response::IntoResponse,
};
use model::{
    Problem,
    execution::{Execution, Status},
    name::shown,
};
use serde::{Deserialize, Serialize};

use super::{JobPath, PartPath, deployments::ResourcesBody, jobs::ScheduleBody};
use crate::{
    Api,
    caller::By,
    error::Answer,
    input::{OptionalJsonBody, Path, Query},
    links,
};

#[derive(Default, Deserialize)]
#[serde(expecting = "a JSON object")]
pub(crate) struct DataJobExecutionRequest {
    started_by: Option<String>,
    args: Option<JsonObject>,
}

/// A run on the wire. Its deployment is always an object, for clients look into it without asking.
#[derive(Serialize)]
pub(crate) struct DataJobExecution {
    id: String,
    job_name: String,
    status: String,
    #[serde(rename = "type")]
    kind: String,
    start_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
    started_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    op_id: String,
    deployment: DataJobDeployment,
}

/// What a run runs; only the id as long as that is not settled.
#[derive(Serialize)]
struct DataJobDeployment {
    id: String,
    #[serde(flatten)]
    revision: Option<Revision>,
}

#[derive(Serialize)]
struct Revision {
    vdk_version: String,
    job_version: String,
    python_version: String,
    mode: &'static str,
    enabled: bool,
    deployed_by: String,
    deployed_date: String,
    schedule: ScheduleBody,
    resources: ResourcesBody,
}

#[derive(Serialize)]
pub(crate) struct DataJobExecutionLogs {
    logs: String,
}

impl DataJobExecution {
    fn new(api: &Api, run: Execution) -> Self {
        let logs_url = api.logs_url_template.as_ref().map(|template| template.of_execution(&run, api.clock.now()));
        let id = run.job_name.to_string();
        let revision = run.revision.map(|revision| Revision {
            vdk_version: revision.vdk_version,
            job_version: revision.job_version.to_string(),
            python_version: revision.python_version.to_string(),
            mode: revision.mode.as_str(),
            enabled: revision.enabled,
            deployed_by: revision.deployed_by,
            deployed_date: revision.deployed_at.to_string(),
            schedule: ScheduleBody { schedule_cron: revision.schedule_cron },
            resources: revision.resources.into(),
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
            deployment: DataJobDeployment { id, revision },
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
                Problem::not_found(
                    "The executions were not listed.",
                    format!("execution_status: {} is none; known are {}.", shown(value), known.join(", ")),
                )
                .fix("Use one of the known statuses.")
            })
        })
        .collect()
}

/// The runs of a job, newest first.
pub(crate) async fn data_job_execution_list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
    query: Query,
) -> Answer<Json<Vec<DataJobExecution>>> {
    let runs = app::executions::list(&api.db, &caller, &team, &name, None, &statuses(&query)?).await?;
    Ok(Json(runs.into_iter().map(|run| DataJobExecution::new(&api, run)).collect()))
}

/// The runs of a job's deployment, newest first.
pub(crate) async fn data_job_deployment_execution_list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
    query: Query,
) -> Answer<Json<Vec<DataJobExecution>>> {
    let runs = app::executions::list(&api.db, &caller, &team, &name, Some(&id), &statuses(&query)?).await?;
    Ok(Json(runs.into_iter().map(|run| DataJobExecution::new(&api, run)).collect()))
}

/// Starts a job: 202 with the address of the run, which is where the client takes its id from.
pub(crate) async fn data_job_execution_start(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
    OptionalJsonBody(body): OptionalJsonBody<DataJobExecutionRequest>,
) -> Answer<impl IntoResponse> {
    let request =
        StartRequest { started_by: body.started_by, arguments: body.args.filter(|arguments| !arguments.is_empty()) };
    let run = app::executions::start(&api.db, &*api.clock, &caller, &team, &name, &id, &request).await?;
    Ok((StatusCode::ACCEPTED, [(LOCATION, links::execution(&team, &name, &run))]))
}

/// One run.
pub(crate) async fn data_job_execution_read(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
) -> Answer<Json<DataJobExecution>> {
    let run = app::executions::read(&api.db, &caller, &team, &name, &id).await?;
    Ok(Json(DataJobExecution::new(&api, run)))
}

/// Asks for the end of a run: 200.
pub(crate) async fn data_job_execution_cancel(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
) -> Answer<StatusCode> {
    app::executions::cancel(&api.db, &*api.clock, &caller, &team, &name, &id).await?;
    Ok(StatusCode::OK)
}

/// The log of a run, or its last `tail_lines` lines; zero and less mean all of it.
pub(crate) async fn data_job_logs_download(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
    query: Query,
) -> Answer<Json<DataJobExecutionLogs>> {
    let tail: i64 = query.number("tail_lines")?.unwrap_or(0);
    let log = app::executions::log(&api.db, &*api.runtime, &caller, &team, &name, &id).await?;
    let logs = match usize::try_from(tail) {
        Ok(lines) if lines > 0 => log.tail(lines).to_owned(),
        _ => log.text,
    };
    Ok(Json(DataJobExecutionLogs { logs }))
}
