//! Data jobs in GraphQL.

use app::queries::{
    DeploymentDetail, DeploymentFilter, Detail, JobPageRequest, JobQuery, JobSort, JobSummary, Measure, Search,
    SearchField,
};
use async_graphql::{ComplexObject, Context, InputObject, Lookahead, SimpleObject};
use jiff::Timestamp;
use model::{
    Problem,
    deployment::Deployment,
    execution::Status as ExecutionStatus,
    glob::{Glob, GlobPart},
    name::excerpt,
    rollout::Status,
};

use super::{
    Direction, RequestData, Window,
    document::{JOBS_DEFAULT, ROWS_MAX},
    executions::{self, DataJobExecution, DataJobExecutionFilter, DataJobExecutionOrder, DataJobExecutionStatus},
    refused,
    resolve::{Eager, Rfc3339, resolve},
    types::{DataJobContacts, DataJobDeploymentStatus, DataJobResources, DataJobSchedule},
};
use crate::Api;

/// The longest pattern of a predicate and the longest search. Names of teams have at most 100 characters.
const PATTERN_MAX_CHARS: usize = 200;

/// The most wildcards in a pattern: each may try every place of a text.
const WILDCARDS_MAX: usize = 8;

/// A property of jobs in predicates.
#[derive(Clone, Copy)]
struct Property {
    name: &'static str,
    sort: Option<JobSort>,
    filter: Filter,
}

const fn property(name: &'static str, sort: Option<JobSort>, filter: Filter) -> Property {
    Property { name, sort, filter }
}

/// By what jobs can be sorted and filtered.
const PROPERTIES: [Property; 16] = [
    property("jobName", Some(JobSort::Name), Filter::Name),
    property("config.team", Some(JobSort::Team), Filter::Team),
    property("config.description", Some(JobSort::Description), Filter::Description),
    // Upstream accepts these two and ignores them.
    property("config.sourceUrl", None, Filter::Ignored),
    property("config.schedule.scheduleCron", None, Filter::Ignored),
    property("config.schedule.nextRunEpochSeconds", Some(JobSort::NextRun), Filter::Range(Measure::NextRun)),
    property("config.contacts.present", Some(JobSort::Contacts), Filter::Ignored),
    property("deployments.enabled", Some(JobSort::DeploymentEnabled), Filter::Enabled),
    property("deployments.status", Some(JobSort::DeploymentStatus), Filter::Status),
    property("deployments.jobPythonVersion", Some(JobSort::Python), Filter::Python),
    property("deployments.lastExecutionStatus", Some(JobSort::LastExecutionStatus), Filter::LastExecutionStatus),
    property(
        "deployments.lastExecutionTime",
        Some(JobSort::LastExecutionTime),
        Filter::Range(Measure::LastExecutionTime),
    ),
    property(
        "deployments.lastExecutionDuration",
        Some(JobSort::LastExecutionDuration),
        Filter::Range(Measure::LastExecutionDuration),
    ),
    property(
        "deployments.successfulExecutions",
        Some(JobSort::SuccessfulExecutions),
        Filter::Range(Measure::SuccessfulExecutions),
    ),
    property("deployments.failedExecutions", Some(JobSort::FailedExecutions), Filter::Range(Measure::FailedExecutions)),
    property("config.contacts", Some(JobSort::Contacts), Filter::Ignored),
];

/// How a pattern of a property is understood.
#[derive(Clone, Copy)]
enum Filter {
    Name,
    Team,
    Description,
    Python,
    Enabled,
    Status,
    LastExecutionStatus,
    Range(Measure),
    Ignored,
}

/// The fields below `content` that a search can look at, and where it looks then. The last three find nothing.
const SEARCHED: [(&[&str], Option<SearchField>); 11] = [
    (&["jobName"], Some(SearchField::Name)),
    (&["config", "team"], Some(SearchField::Team)),
    (&["config", "description"], Some(SearchField::Description)),
    (&["config", "schedule", "scheduleCron"], Some(SearchField::Cron)),
    (&["config", "schedule", "nextRunEpochSeconds"], Some(SearchField::NextRun)),
    (&["deployments", "enabled"], Some(SearchField::DeploymentEnabled)),
    (&["deployments", "jobPythonVersion"], Some(SearchField::Python)),
    (&["deployments", "lastExecutionStatus"], Some(SearchField::LastExecutionStatus)),
    (&["config", "sourceUrl"], None),
    (&["deployments", "lastExecutionTime"], None),
    (&["deployments", "lastExecutionDuration"], None),
];

/// The fields of a deployment that [`app::queries::Deployed`] has only with the whole deployment.
const WHOLE_DEPLOYMENT: [&str; 6] = ["contacts", "jobVersion", "mode", "resources", "schedule", "vdkVersion"];

/// A filter, a sort, or both. A null pattern does not filter, and a null sort does not sort.
#[derive(Debug, Clone, InputObject)]
pub(super) struct Predicate {
    property: Option<String>,
    pattern: Option<String>,
    sort: Option<Direction>,
}

/// A page of data jobs.
#[derive(SimpleObject)]
pub(super) struct DataJobPage {
    content: Eager<Option<Vec<Option<DataJob>>>>,
    total_pages: Option<i64>,
    total_items: Option<i64>,
}

/// A data job.
#[derive(SimpleObject)]
struct DataJob {
    job_name: Option<String>,
    config: Option<DataJobConfig>,
    deployments: Option<Vec<Option<DataJobDeployment>>>,
}

/// The configuration of a job.
#[derive(SimpleObject)]
struct DataJobConfig {
    team: Option<String>,
    description: Option<String>,
    schedule: Option<DataJobSchedule>,
    contacts: Option<DataJobContacts>,
    generate_keytab: Option<bool>,
    source_url: Option<String>,
    logs_url: Option<String>,
}

/// The reached deployment of a job.
#[derive(SimpleObject)]
#[graphql(complex)]
struct DataJobDeployment {
    id: Option<String>,
    enabled: Option<bool>,
    contacts: Option<DataJobContacts>,
    job_version: Option<String>,
    job_python_version: Option<String>,
    last_deployed_date: Option<Rfc3339>,
    last_deployed_by: Option<String>,
    mode: Option<String>,
    resources: Option<DataJobResources>,
    schedule: Option<DataJobSchedule>,
    vdk_version: Option<String>,
    status: Option<DataJobDeploymentStatus>,
    last_execution_status: Option<DataJobExecutionStatus>,
    last_execution_time: Option<Rfc3339>,
    last_execution_duration: Option<i64>,
    successful_executions: Option<i64>,
    failed_executions: Option<i64>,
    #[graphql(skip)]
    runs: Vec<DataJobExecution>,
}

#[ComplexObject]
impl DataJobDeployment {
    /// The executions of the job, the latest first unless an order is given.
    async fn executions(
        &self,
        #[graphql(name = "pageNumber")] _page_number: Option<i32>,
        #[graphql(name = "pageSize")] _page_size: Option<i32>,
        #[graphql(name = "filter")] _filter: Option<DataJobExecutionFilter>,
        #[graphql(name = "order")] _order: Option<DataJobExecutionOrder>,
    ) -> Option<Vec<Option<DataJobExecution>>> {
        Some(self.runs.iter().cloned().map(Some).collect())
    }
}

resolve!(DataJob { "jobName": job_name, "config": config, "deployments": deployments });

resolve!(DataJobConfig {
    "team": team,
    "description": description,
    "schedule": schedule,
    "contacts": contacts,
    "generateKeytab": generate_keytab,
    "sourceUrl": source_url,
    "logsUrl": logs_url,
});

resolve!(DataJobDeployment {
    "id": id,
    "enabled": enabled,
    "contacts": contacts,
    "jobVersion": job_version,
    "jobPythonVersion": job_python_version,
    "lastDeployedDate": last_deployed_date,
    "lastDeployedBy": last_deployed_by,
    "mode": mode,
    "resources": resources,
    "schedule": schedule,
    "vdkVersion": vdk_version,
    "status": status,
    "lastExecutionStatus": last_execution_status,
    "lastExecutionTime": last_execution_time,
    "lastExecutionDuration": last_execution_duration,
    "successfulExecutions": successful_executions,
    "failedExecutions": failed_executions,
    "executions": runs,
});

/// The objects here with the fields that are answered.
#[cfg(test)]
pub(super) const FIELDS: &[(&str, &[&str])] = &[
    ("DataJob", DataJob::FIELDS),
    ("DataJobConfig", DataJobConfig::FIELDS),
    ("DataJobDeployment", DataJobDeployment::FIELDS),
];

impl DataJob {
    fn new(api: &Api, summary: JobSummary, of_runs: Detail, now: Timestamp) -> Self {
        let job = summary.job;
        let deployment = summary.deployed.map(|deployed| {
            let whole = deployed.whole.as_deref();
            let schedule =
                |whole: &Deployment| DataJobSchedule::with_next_run(whole.schedule_cron.clone(), summary.next_run);
            DataJobDeployment {
                id: Some(job.name.to_string()),
                enabled: Some(deployed.enabled),
                contacts: whole.map(|whole| DataJobContacts::from(&whole.contacts)),
                job_version: whole.map(|whole| whole.job_version.to_string()),
                job_python_version: Some(deployed.python_version.to_string()),
                last_deployed_date: Some(Rfc3339(deployed.deployed_at)),
                last_deployed_by: Some(deployed.deployed_by),
                mode: whole.map(|whole| whole.mode.as_str().into()),
                resources: whole.map(|whole| whole.resources.into()),
                schedule: whole.map(schedule),
                vdk_version: whole.map(|whole| whole.vdk_version.clone()),
                status: Some(deployed.status.into()),
                last_execution_status: summary.last_execution_status.map(Into::into),
                last_execution_time: summary.last_execution_end.map(Rfc3339),
                last_execution_duration: summary.last_execution_duration_seconds,
                successful_executions: Some(summary.successful_executions),
                failed_executions: Some(summary.failed_executions),
                runs: summary.executions.into_iter().map(|run| DataJobExecution::new(api, run, of_runs, now)).collect(),
            }
        });
        Self {
            job_name: Some(job.name.to_string()),
            config: Some(DataJobConfig {
                team: Some(job.team.to_string()),
                source_url: api.source_url_template.as_ref().map(|template| template.of_job(&job)),
                logs_url: None,
                description: Some(job.description),
                contacts: Some(DataJobContacts::from(&job.config.contacts)),
                schedule: Some(DataJobSchedule::with_next_run(job.config.schedule_cron, summary.next_run)),
                generate_keytab: Some(job.config.generate_keytab),
            }),
            deployments: deployment.map(|deployment| vec![Some(deployment)]),
        }
    }
}

/// Resolves `jobs` of the query: what is selected decides what is fetched.
pub(super) async fn page(
    ctx: &Context<'_>,
    page_number: Option<i32>,
    page_size: Option<i32>,
    filter: Vec<Option<Predicate>>,
    search: Option<String>,
) -> Result<DataJobPage, Problem> {
    let asked_for = RequestData::of(ctx);
    let RequestData { api, caller, db, turn, .. } = asked_for;
    let window = Window::new(page_number, page_size, JOBS_DEFAULT)?;
    let asked = ctx.look_ahead();
    let with_total = asked.field("totalItems").exists() || asked.field("totalPages").exists();
    let deployments = asked.field("content").field("deployments");
    let runs = deployments.field("executions");
    let executions = executions::nested(&runs.selection_fields(), executions::detail(api, &runs))?;
    let rows = window.limit * (1 + executions.as_ref().map_or(0, |runs| runs.limit));
    if usize::try_from(rows).is_ok_and(|rows| rows > ROWS_MAX) {
        return Err(refused(format!("The page has too many jobs and executions (limit {ROWS_MAX})."))
            .fix("Ask for smaller pages."));
    }
    let filter: Vec<_> = filter.into_iter().flatten().collect();
    asked_for.count_predicates(filter.len())?;
    let Some(mut query) = query(filter.into_iter())? else {
        let (total_pages, total_items) = (with_total.then_some(1), with_total.then_some(0));
        return Ok(DataJobPage { content: Eager(Some(Vec::new())), total_pages, total_items });
    };
    if let Some(text) = &search {
        check_pattern("search", text.trim())?;
    }
    query.search =
        search.filter(|text| !text.trim().is_empty()).and_then(|text| searched(&asked.field("content"), text));
    query.limit = if asked.field("content").exists() { window.limit } else { 0 };
    query.offset = window.offset;
    let of_runs = executions.as_ref().map_or(Detail::default(), |runs| runs.detail);
    let is_whole = WHOLE_DEPLOYMENT.iter().any(|name| deployments.field(name).exists());
    let detail = if is_whole { DeploymentDetail::Whole } else { DeploymentDetail::Brief };
    let deployments = deployments.exists().then_some(detail);
    let request = JobPageRequest { query, with_total, deployments, executions };
    let _turn = turn.lock().await;
    let page = app::queries::jobs(db, caller, &request).await?;
    let now = api.clock.now();
    Ok(DataJobPage {
        content: Eager(Some(page.content.into_iter().map(|job| Some(DataJob::new(api, job, of_runs, now))).collect())),
        total_pages: page.total.map(|total| window.pages(total)),
        total_items: page.total,
    })
}

/// A search compares the selected fields, as in upstream. If none of them can be searched, it finds all jobs.
fn searched(content: &Lookahead<'_>, text: String) -> Option<Search> {
    let is_selected = |path: &[&str]| match path {
        [name] => content.field(name).exists(),
        [parent, name] => content.field(parent).field(name).exists(),
        [parent, child, name] => content.field(parent).field(child).field(name).exists(),
        _ => false,
    };
    let selected = SEARCHED.iter().filter(|(path, _)| is_selected(path));
    let fields: Vec<_> = selected.map(|(_, field)| *field).collect();
    (!fields.is_empty()).then(|| Search { text, fields: fields.into_iter().flatten().collect() })
}

/// The predicates as a query; `None` when no job can fulfil all of them.
fn query(predicates: impl Iterator<Item = Predicate>) -> Result<Option<JobQuery>, Problem> {
    let mut query = JobQuery::default();
    let mut possible = true;
    for predicate in predicates {
        let pattern = predicate.pattern.as_deref().map(str::trim).filter(|pattern| !pattern.is_empty());
        let Some(name) = predicate.property.as_deref() else {
            if pattern.is_none() && predicate.sort.is_none() {
                continue;
            }
            return Err(refused("filter: a predicate names no property."));
        };
        let Some(property) = PROPERTIES.iter().find(|known| known.name.eq_ignore_ascii_case(name)) else {
            let names: Vec<_> = PROPERTIES.iter().map(|known| known.name).collect();
            return Err(refused(format!(
                "filter: jobs have no property {} here; known are {}.",
                excerpt(name),
                names.join(", ")
            )));
        };
        if let (Some(direction), Some(sort)) = (predicate.sort, property.sort) {
            query.sort = sort;
            query.descending = direction == Direction::Desc;
        }
        if let Some(pattern) = pattern {
            check_pattern(property.name, pattern)?;
            possible &= narrow(&mut query, property, pattern)?;
        }
    }
    Ok(possible.then_some(query))
}

/// Refuses a text that is long to look for.
fn check_pattern(name: &str, pattern: &str) -> Result<(), Problem> {
    if pattern.chars().count() > PATTERN_MAX_CHARS {
        return Err(refused(format!(
            "{name}: the text to look for is too long (limit {PATTERN_MAX_CHARS} characters)."
        )));
    }
    Ok(())
}

/// Refuses a pattern with too many of these wildcards.
fn check_wildcards(name: &str, pattern: &str, wildcards: &[char]) -> Result<(), Problem> {
    if pattern.matches(wildcards).count() > WILDCARDS_MAX {
        return Err(refused(format!("filter: {name} has too many wildcards (limit {WILDCARDS_MAX}).")));
    }
    Ok(())
}

/// Adds one pattern to a query. `false` when it contradicts another one.
fn narrow(query: &mut JobQuery, Property { name, filter, .. }: &Property, pattern: &str) -> Result<bool, Problem> {
    let unknown = |known: &str| refused(format!("filter: {name} is {}; known are {known}.", excerpt(pattern)));
    match *filter {
        Filter::Name if pattern.contains('*') => {
            // A question mark stands for one character where there is a star, too.
            check_wildcards(name, pattern, &['*', '?'])?;
            query.names.push(pattern.into());
        }
        Filter::Name => query.names.push(Glob::exact(pattern)),
        Filter::Team => {
            check_wildcards(name, pattern, &['%'])?;
            let wildcard = |character| (character == '%').then_some(GlobPart::AnyText);
            query.teams.push(Glob::parse(pattern, wildcard));
        }
        Filter::Description => query.descriptions.push(pattern.to_owned()),
        Filter::Python => query.pythons.push(pattern.to_owned()),
        Filter::Range(measure) => {
            let (least, most) = range(name, measure, pattern)?;
            query.ranges.push((measure, least, most));
        }
        Filter::Enabled => {
            let enabled = match pattern.to_ascii_lowercase().as_str() {
                "enabled" => DeploymentFilter::Enabled,
                "disabled" => DeploymentFilter::Disabled,
                "not_deployed" => DeploymentFilter::NotDeployed,
                _ => return Err(unknown("enabled, disabled, not_deployed")),
            };
            return Ok(*query.deployment.get_or_insert(enabled) == enabled);
        }
        Filter::Status => {
            let status = Status::parse(&pattern.to_ascii_uppercase())
                .ok_or_else(|| unknown("NONE, SUCCESS, PLATFORM_ERROR, USER_ERROR"))?;
            return Ok(*query.deployment_status.get_or_insert(status) == status);
        }
        Filter::LastExecutionStatus => {
            let status = ExecutionStatus::parse(pattern)
                .ok_or_else(|| unknown(&ExecutionStatus::ALL.map(ExecutionStatus::as_str).join(", ")))?;
            return Ok(*query.last_execution_status.get_or_insert(status) == status);
        }
        Filter::Ignored => {}
    }
    Ok(true)
}

/// Two numbers with a dash between; of seconds and counts also one alone.
fn range(name: &str, measure: Measure, pattern: &str) -> Result<(i64, i64), Problem> {
    let is_time = matches!(measure, Measure::NextRun | Measure::LastExecutionTime);
    let example = if is_time { "1619460302-1619546702 (seconds since 1970)" } else { "60-90, or 60" };
    let refused = |why: &str| refused(format!("filter: {name} is {}; {why}, as {example}.", excerpt(pattern)));
    let number = |text: &str| text.trim().parse::<u32>().ok().map(i64::from);
    let bounds = match pattern.split_once('-') {
        Some((least, most)) => number(least).zip(number(most)),
        None if is_time => None,
        None => number(pattern).map(|number| (number, number)),
    };
    match bounds {
        None => Err(refused("it must be two numbers with a dash between")),
        Some((least, most)) if least > most => Err(refused("the first number must not be above the second")),
        Some(bounds) => Ok(bounds),
    }
}
