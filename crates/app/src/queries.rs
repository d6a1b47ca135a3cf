//! Lists of jobs and executions for GraphQL and pages: one SQL statement per level, for any size of page.

use model::{Problem, access::Caller, execution::Execution, problem::Code};
use store::{CALLERS_READ_SECONDS_MAX, Db, StoreError, Tx, jobs::With};
pub use store::{
    deployments::{Deployed, DeploymentDetail},
    executions::{Detail, ExecutionQuery, ExecutionSort},
    jobs::{DeploymentFilter, JobQuery, JobSort, JobSummary, Measure, Search, SearchField},
};

/// The most jobs or executions on one page.
pub const PAGE_MAX: i64 = 1000;

/// The parts that a page of jobs includes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobPageRequest {
    /// Which jobs.
    pub query: JobQuery,
    /// Whether to count all that match.
    pub with_total: bool,
    /// How much to bring of the reached deployments.
    pub deployments: Option<DeploymentDetail>,
    /// Which runs of each job to bring; its `limit` and `offset` count within a job.
    pub executions: Option<ExecutionQuery>,
}

/// A page and the total.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The entries of the page.
    pub content: Vec<T>,
    /// The total of all pages; absent if it was not requested.
    pub total: Option<i64>,
}

impl<T> Page<T> {
    fn empty(with_total: bool) -> Self {
        Self { content: Vec::new(), total: with_total.then_some(0) }
    }
}

/// A page of jobs, of the teams that the caller may read.
pub async fn jobs(db: &Db, caller: &Caller, request: &JobPageRequest) -> Result<Page<JobSummary>, Problem> {
    let narrowed;
    let request = match caller.may_list().await? {
        None => request,
        Some(teams) if teams.is_empty() => return Ok(Page::empty(request.with_total)),
        Some(teams) => {
            let readable_teams = teams.iter().cloned().collect();
            let query = JobQuery { readable_teams, ..request.query.clone() };
            narrowed = JobPageRequest { query, ..request.clone() };
            &narrowed
        }
    };
    read_jobs(db, request).await.map_err(too_expensive)
}

async fn read_jobs(db: &Db, request: &JobPageRequest) -> Result<Page<JobSummary>, StoreError> {
    if is_search(&request.query) {
        return read_jobs_in(&mut db.read_search().await?, request).await;
    }
    if !store::jobs::is_one_statement(&request.query, request.with_total) {
        return read_jobs_in(&mut db.read().await?, request).await;
    }
    let mut read = db.read_once();
    loop {
        let mut tx = read.begin().await?;
        let with = With { total: request.with_total, ..with(request) };
        let page = store::jobs::page_of(&mut tx, &request.query, None, &with).await;
        if read.is_again(&page) {
            continue;
        }
        let page = page?;
        // An empty page does not know how many there are.
        let is_unknown = request.with_total && page.total.is_none();
        let total = if is_unknown { Some(store::jobs::count(&mut tx, &request.query).await?) } else { page.total };
        return Ok(Page { content: page.jobs, total });
    }
}

async fn read_jobs_in(tx: &mut Tx, request: &JobPageRequest) -> Result<Page<JobSummary>, StoreError> {
    // The number of all decides how they are found.
    let total = if request.with_total { Some(store::jobs::count(tx, &request.query).await?) } else { None };
    let page = store::jobs::page_of(tx, &request.query, total, &with(request)).await?;
    Ok(Page { content: page.jobs, total })
}

fn with(request: &JobPageRequest) -> With<'_> {
    With { deployments: request.deployments, executions: request.executions.as_ref(), total: false }
}

/// The largest offset of a page that is not a search, because the database reads the rows before a page.
const PASSED_MAX: i64 = 100_000;

/// Whether the texts of all jobs may have to be searched.
fn is_search(query: &JobQuery) -> bool {
    query.search.is_some()
        || !query.descriptions.is_empty()
        || query.names.iter().chain(&query.teams).any(|pattern| !pattern.is_beginning())
        || query.offset > PASSED_MAX
}

/// Whether all executions may have to be sorted, because no index has the order.
fn is_sorted_whole(query: &ExecutionQuery) -> bool {
    use ExecutionSort::{EndTime, Id, StartTime, Status};
    let by_index = matches!(query.sort, StartTime | EndTime | Status | Id);
    !by_index && query.jobs.is_empty() && query.job_names.is_empty() || query.offset > PASSED_MAX
}

/// The problem of a list that could not be read. A list that takes too long is a user error: the client must request less.
fn too_expensive(error: StoreError) -> Problem {
    match error {
        StoreError::TooExpensive(_) => Problem::new(
            Code::QueryTooExpensive,
            "The query was cancelled.",
            format!("The database took too long for it (limit {CALLERS_READ_SECONDS_MAX} seconds)."),
        )
        .nothing_returned()
        .fix("Use fewer or longer filters, one team, or smaller pages."),
        error => error.into(),
    }
}

/// A page of executions, of the teams that the caller may read.
pub async fn executions(
    db: &Db,
    caller: &Caller,
    query: &ExecutionQuery,
    with_total: bool,
) -> Result<Page<Execution>, Problem> {
    let narrowed;
    let query = match caller.may_list().await? {
        None => query,
        Some(readable) => {
            let asked = &query.teams;
            let teams: Vec<_> =
                readable.iter().filter(|team| asked.is_empty() || asked.contains(team)).cloned().collect();
            if teams.is_empty() {
                return Ok(Page::empty(with_total));
            }
            narrowed = ExecutionQuery { teams, ..query.clone() };
            &narrowed
        }
    };
    read_executions(db, query, with_total).await.map_err(too_expensive)
}

async fn read_executions(db: &Db, query: &ExecutionQuery, with_total: bool) -> Result<Page<Execution>, StoreError> {
    let mut tx = if is_sorted_whole(query) { db.read_search().await? } else { db.read().await? };
    let content = store::executions::page(&mut tx, query).await?;
    let total = if with_total { Some(store::executions::count(&mut tx, query).await?) } else { None };
    Ok(Page { content, total })
}
