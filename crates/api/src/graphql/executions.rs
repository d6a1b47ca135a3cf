//! Executions in GraphQL: their own query, and those of each deployment in a page of jobs.

use std::collections::BTreeSet;

use app::queries::{self, Detail, ExecutionQuery, ExecutionSort};
use async_graphql::{Context, Enum, InputObject, InputType, Lookahead, Name, Pos, SelectionField, SimpleObject, Value};
use jiff::Timestamp;
use model::{
    Problem,
    deployment::RELEASE,
    execution::{Execution, Status, Type},
};

use super::{
    DateTime, Direction, RequestData, Window,
    document::{EXECUTIONS_DEFAULT, NESTED_DEFAULT},
    refused,
    resolve::{Eager, Rfc3339, ready_names, resolve},
    types::{DataJobContacts, DataJobDeploymentStatus, DataJobResources, DataJobSchedule},
};
use crate::{Api, LogsUrl};

/// The most names in a list of a filter.
const NAMES_MAX: usize = 1000;

/// By what executions can be sorted.
const SORTS: [(&str, ExecutionSort); 15] = [
    ("id", ExecutionSort::Id),
    ("type", ExecutionSort::Type),
    ("status", ExecutionSort::Status),
    ("startTime", ExecutionSort::StartTime),
    ("endTime", ExecutionSort::EndTime),
    ("startedBy", ExecutionSort::StartedBy),
    ("message", ExecutionSort::Message),
    ("opId", ExecutionSort::OpId),
    ("jobName", ExecutionSort::JobName),
    ("jobTeam", ExecutionSort::Team),
    ("jobSchedule", ExecutionSort::Schedule),
    ("jobVersion", ExecutionSort::JobVersion),
    ("vdkVersion", ExecutionSort::VdkVersion),
    ("lastDeployedDate", ExecutionSort::DeployedAt),
    ("lastDeployedBy", ExecutionSort::DeployedBy),
];

/// The status of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "Status")]
pub(super) enum DataJobExecutionStatus {
    Submitted,
    Running,
    Succeeded,
    Cancelled,
    Skipped,
    UserError,
    PlatformError,
}

/// The kind of start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "Type")]
pub(super) enum DataJobExecutionType {
    Manual,
    Scheduled,
}

/// A filter of executions. An absent field, null and an empty list do not filter.
#[derive(Debug, Clone, PartialEq, InputObject)]
pub(super) struct DataJobExecutionFilter {
    start_time_gte: Option<DateTime>,
    end_time_gte: Option<DateTime>,
    status_in: Option<Vec<Option<DataJobExecutionStatus>>>,
    job_name_in: Option<Vec<Option<String>>>,
    team_name_in: Option<Vec<Option<String>>>,
    start_time_lte: Option<DateTime>,
    end_time_lte: Option<DateTime>,
}

/// The order of executions.
#[derive(Debug, Clone, PartialEq, Eq, InputObject)]
pub(super) struct DataJobExecutionOrder {
    property: Option<String>,
    direction: Option<Direction>,
}

/// A page of executions.
#[derive(SimpleObject)]
pub(super) struct DataJobExecutionResponse {
    content: Eager<Option<Vec<Option<DataJobExecution>>>>,
    total_pages: Option<i64>,
    total_items: Option<i64>,
}

/// An execution of a job.
#[derive(Clone, SimpleObject)]
pub(super) struct DataJobExecution {
    id: Option<String>,
    #[graphql(name = "type")]
    kind: Option<DataJobExecutionType>,
    job_name: Option<String>,
    status: Option<DataJobExecutionStatus>,
    start_time: Option<Rfc3339>,
    end_time: Option<Rfc3339>,
    started_by: Option<String>,
    message: Option<String>,
    op_id: Option<String>,
    logs_url: Option<String>,
    deployment: Option<Box<DataJobExecutionDeployment>>,
}

/// The deployment of an execution. Before the revision is known it has the id alone.
#[derive(Clone, Default, SimpleObject)]
struct DataJobExecutionDeployment {
    id: Option<String>,
    enabled: Option<bool>,
    contacts: Option<DataJobContacts>,
    job_version: Option<String>,
    job_python_version: Option<String>,
    deployed_date: Option<Rfc3339>,
    deployed_by: Option<String>,
    mode: Option<String>,
    resources: Option<DataJobResources>,
    schedule: Option<DataJobSchedule>,
    vdk_version: Option<String>,
    status: Option<DataJobDeploymentStatus>,
}

resolve!(DataJobExecution {
    "id": id,
    "type": kind,
    "jobName": job_name,
    "status": status,
    "startTime": start_time,
    "endTime": end_time,
    "startedBy": started_by,
    "message": message,
    "opId": op_id,
    "logsUrl": logs_url,
    "deployment": deployment,
});

resolve!(DataJobExecutionDeployment {
    "id": id,
    "enabled": enabled,
    "contacts": contacts,
    "jobVersion": job_version,
    "jobPythonVersion": job_python_version,
    "deployedDate": deployed_date,
    "deployedBy": deployed_by,
    "mode": mode,
    "resources": resources,
    "schedule": schedule,
    "vdkVersion": vdk_version,
    "status": status,
});

ready_names!(DataJobExecutionStatus, DataJobExecutionType);

/// The objects here with the fields that are answered.
#[cfg(test)]
pub(super) const FIELDS: &[(&str, &[&str])] = &[
    ("DataJobExecution", DataJobExecution::FIELDS),
    ("DataJobExecutionDeployment", DataJobExecutionDeployment::FIELDS),
];

impl DataJobExecution {
    /// The fields of an execution that was read with this detail.
    pub(super) fn new(api: &Api, run: Execution, detail: Detail, now: Timestamp) -> Self {
        let logs_url = api.logs_url.as_ref().map(|template| template.of_execution(&run, now));
        let id = || Some(RELEASE.to_owned());
        let deployment = match run.revision {
            None => (detail == Detail::Revision)
                .then(|| Box::new(DataJobExecutionDeployment { id: id(), ..Default::default() })),
            Some(revision) => Some(Box::new(DataJobExecutionDeployment {
                id: id(),
                enabled: revision.enabled,
                contacts: None,
                job_version: revision.job_version.map(|version| version.to_string()),
                job_python_version: revision.python_version.map(|version| version.to_string()),
                deployed_date: revision.deployed_at.map(Rfc3339),
                deployed_by: revision.deployed_by,
                mode: revision.mode.map(|mode| mode.as_str().into()),
                resources: revision.resources.map(Into::into),
                schedule: Some(DataJobSchedule::new(revision.schedule_cron)),
                vdk_version: revision.vdk_version,
                status: None,
            })),
        };
        Self {
            id: Some(run.id.into()),
            kind: Some(run.kind.into()),
            job_name: Some(run.job_name.into()),
            status: Some(run.status.into()),
            start_time: Some(Rfc3339(run.started_at.unwrap_or(run.submitted_at))),
            end_time: run.ended_at.map(Rfc3339),
            started_by: Some(run.started_by),
            message: run.message,
            op_id: Some(run.op_id),
            // Upstream returns an empty text without a template.
            logs_url: Some(logs_url.unwrap_or_default()),
            deployment,
        }
    }
}

/// Resolves `executions` of the query.
pub(super) async fn page(
    ctx: &Context<'_>,
    page_number: Option<i32>,
    page_size: Option<i32>,
    filter: Option<DataJobExecutionFilter>,
    order: Option<DataJobExecutionOrder>,
) -> Result<DataJobExecutionResponse, Problem> {
    let RequestData { api, caller, db, turn, .. } = RequestData::of(ctx);
    let window = Window::new(page_number, page_size, EXECUTIONS_DEFAULT)?;
    let mut query = query(&window, filter, order)?;
    let asked = ctx.look_ahead();
    let with_total = asked.field("totalItems").exists() || asked.field("totalPages").exists();
    if !asked.field("content").exists() {
        query.limit = 0;
    }
    query.detail = detail(api, &asked.field("content"));
    let _turn = turn.lock().await;
    let page = queries::executions(db, caller, &query, with_total).await?;
    let now = api.clock.now();
    let answered = |run| Some(DataJobExecution::new(api, run, query.detail, now));
    Ok(DataJobExecutionResponse {
        content: Eager(Some(page.content.into_iter().map(answered).collect())),
        total_pages: page.total.map(|total| window.pages(total)),
        total_items: page.total,
    })
}

fn query(
    window: &Window,
    filter: Option<DataJobExecutionFilter>,
    order: Option<DataJobExecutionOrder>,
) -> Result<ExecutionQuery, Problem> {
    // The newest first: the command line client takes the first one for the latest.
    let mut query =
        ExecutionQuery { descending: true, limit: window.limit, offset: window.offset, ..ExecutionQuery::default() };
    if let Some(order) = order
        && let Some(property) = order.property
    {
        let known = SORTS.iter().find(|(name, _)| *name == property);
        let Some((_, sort)) = known else {
            let names: Vec<_> = SORTS.iter().map(|(name, _)| *name).collect();
            return Err(refused(format!(
                "order.property: executions can't be sorted by {}; they can by {}.",
                model::name::excerpt(&property),
                names.join(", ")
            )));
        };
        query.sort = *sort;
        query.descending = order.direction == Some(Direction::Desc);
    }
    if let Some(filter) = filter {
        query.job_names = distinct("jobNameIn", filter.job_name_in)?;
        query.teams = distinct("teamNameIn", filter.team_name_in)?;
        for status in filter.status_in.into_iter().flatten().flatten().map(Status::from) {
            if !query.statuses.contains(&status) {
                query.statuses.push(status);
            }
        }
        query.started_from = filter.start_time_gte.map(|at| at.0);
        query.started_until = filter.start_time_lte.map(|at| at.0);
        query.ended_from = filter.end_time_gte.map(|at| at.0);
        query.ended_until = filter.end_time_lte.map(|at| at.0);
    }
    Ok(query)
}

/// The names of a list, each once.
fn distinct(list: &str, names: Option<Vec<Option<String>>>) -> Result<Vec<String>, Problem> {
    let names: BTreeSet<String> = names.into_iter().flatten().flatten().collect();
    if names.len() > NAMES_MAX {
        return Err(refused(format!("filter.{list}: it has too many names (limit {NAMES_MAX}).")));
    }
    Ok(names.into_iter().collect())
}

/// The detail that the selected fields of executions need.
pub(super) fn detail(api: &Api, runs: &Lookahead<'_>) -> Detail {
    let is_selected = |name: &&str| runs.field(name).exists();
    if is_selected(&"deployment") {
        Detail::Revision
    } else if is_selected(&"startedBy") {
        Detail::Run
    } else if ["type", "startTime", "endTime", "opId"].iter().any(is_selected)
        || api.logs_url.as_ref().is_some_and(LogsUrl::has_outcome) && is_selected(&"logsUrl")
    {
        Detail::Outcome
    } else {
        Detail::Status
    }
}

/// The query of the executions of deployments; `None` if they are not selected. The arguments are read ahead, so that one statement
/// reads the executions of all deployments on a page.
pub(super) fn nested(selections: &[SelectionField<'_>], detail: Detail) -> Result<Option<ExecutionQuery>, Problem> {
    let mut asked = None;
    for selection in selections {
        let arguments = selection
            .arguments()
            .map_err(|error| refused(format!("executions: {}.", error.message.trim_end_matches('.'))))?;
        let window =
            Window::new(argument(&arguments, "pageNumber")?, argument(&arguments, "pageSize")?, NESTED_DEFAULT)?;
        let mut query = query(&window, argument(&arguments, "filter")?, argument(&arguments, "order")?)?;
        query.detail = detail;
        if asked.as_ref().is_some_and(|other| *other != query) {
            return Err(refused("executions: it is selected twice with different arguments.")
                .fix("Select the executions of deployments once, or send two queries."));
        }
        asked = Some(query);
    }
    Ok(asked)
}

fn argument<T: InputType>(arguments: &[(Name, Value)], name: &str) -> Result<Option<T>, Problem> {
    match arguments.iter().find(|(known, _)| known == name) {
        None | Some((_, Value::Null)) => Ok(None),
        Some((_, value)) => T::parse(Some(value.clone())).map(Some).map_err(|error| {
            refused(format!("executions.{name}: {}.", error.into_server_error(Pos::default()).message))
        }),
    }
}
