//! Pages of runs.

use jiff::Timestamp;
use model::{
    execution::{Execution, Status, Type},
    name::{JobId, JobName, TeamName},
};

use super::row::{COLUMNS, ExecutionRow, execution_id, executions, revision};
use crate::{
    bound::{Bound, Conditions, bind_all},
    codec::{self, from_json, instant, instant_opt, micros},
    db::{Tx, metered_rows, on},
    dialect::Dialect,
    error::{Result, corrupt},
    meter::{RowBytes, bytes_of},
};

/// By what a list of runs is sorted; the id settles what is equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExecutionSort {
    /// By the start (the acceptance, as long as it has not started).
    #[default]
    StartTime,
    /// By the end.
    EndTime,
    /// By status.
    Status,
    /// By what started it.
    Type,
    /// By the job's name.
    JobName,
    /// By id.
    Id,
    /// By who started it.
    StartedBy,
    /// By message.
    Message,
    /// By operation id.
    OpId,
    /// By the job's team.
    Team,
    /// By the source version that it runs.
    JobVersion,
    /// By the VDK version that it runs with.
    VdkVersion,
    /// By the cron expression that it was deployed with.
    Schedule,
    /// By when its deployment was asked for.
    DeployedAt,
    /// By who asked for its deployment.
    DeployedBy,
}

/// When a run started; when it was accepted, as long as it has not.
const START: &str = "coalesce(e.started_at, e.submitted_at)";

impl ExecutionSort {
    /// What is sorted by, and whether it may be absent.
    fn column(self, shared: bool) -> (String, bool) {
        let revision = |member: &str| {
            let json = if shared { "cast(e.revision as json)" } else { "e.revision" };
            (format!("({json} ->> '{member}')"), true)
        };
        match self {
            Self::StartTime => (START.into(), false),
            Self::EndTime => ("e.ended_at".into(), true),
            Self::Status => ("e.status".into(), false),
            Self::Type => ("e.type".into(), false),
            Self::JobName => ("j.name".into(), false),
            Self::Id => ("e.execution_id".into(), false),
            Self::StartedBy => ("e.started_by".into(), false),
            Self::Message => ("e.message".into(), true),
            Self::OpId => ("e.op_id".into(), false),
            Self::Team => ("j.team".into(), false),
            Self::JobVersion => revision("job_version"),
            Self::VdkVersion => revision("vdk_version"),
            Self::Schedule => revision("schedule_cron"),
            Self::DeployedAt => (
                "(select v.created_at from deployment_revision v where v.job_id = e.job_id
                    and v.generation = e.generation)"
                    .into(),
                true,
            ),
            Self::DeployedBy => revision("deployed_by"),
        }
    }

    /// What follows `order by`: what is absent comes last, the id settles what is equal.
    fn order(self, descending: bool, shared: bool) -> String {
        let direction = if descending { "desc" } else { "asc" };
        let (column, optional) = self.column(shared);
        let last = if optional { " nulls last" } else { "" };
        match self {
            Self::Id => format!("{column} {direction}"),
            // As the index has it.
            Self::Status => format!("{column} {direction}, {START} {direction}, e.execution_id {direction}"),
            _ => {
                let collated = if shared && column.contains("->>") { " collate \"C\"" } else { "" };
                format!("{column}{collated} {direction}{last}, e.execution_id {direction}")
            }
        }
    }
}

/// Which page of which runs. An empty list means "any".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecutionQuery {
    /// Of these jobs.
    pub jobs: Vec<JobId>,
    /// Of jobs with these names.
    pub job_names: Vec<String>,
    /// Of jobs of these teams.
    pub teams: Vec<String>,
    /// In these statuses.
    pub statuses: Vec<Status>,
    /// Started at or after.
    pub started_from: Option<Timestamp>,
    /// Started at or before.
    pub started_until: Option<Timestamp>,
    /// Ended at or after.
    pub ended_from: Option<Timestamp>,
    /// Ended at or before.
    pub ended_until: Option<Timestamp>,
    /// The order.
    pub sort: ExecutionSort,
    /// Whether the order is turned round.
    pub descending: bool,
    /// How many runs the page has at most; for each job when the list is by job.
    pub limit: i64,
    /// How many come before it.
    pub offset: i64,
    /// What of a run is wanted.
    pub detail: Detail,
}

/// What of a run is read; less costs less where there are many. What is left out comes as absent, or as an empty text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Which one it is, how it stands and when it was: identifiers, type, status, times, message.
    Outcome,
    /// All but what it runs and its arguments.
    Run,
    /// All but its arguments.
    Revision,
    /// All of it.
    #[default]
    Whole,
}

impl ExecutionQuery {
    /// Whether it is about some jobs.
    fn names_jobs(&self) -> bool {
        !(self.jobs.is_empty() && self.job_names.is_empty() && self.teams.is_empty())
    }

    /// Whether it is about some jobs that may be more than one.
    fn is_of_several_jobs(&self) -> bool {
        !self.teams.is_empty() || self.jobs.len() > 1 || self.job_names.len() > 1
    }

    /// Whether it is about the jobs of some teams, and these are few; they are counted up to a limit.
    async fn names_teams_of_few_jobs(&self, tx: &mut Tx) -> Result<bool> {
        if self.teams.is_empty() {
            return Ok(false);
        }
        let mut jobs = Conditions { sql: "j.deleted_at is null".into(), bound: Vec::new() };
        self.of_jobs(&mut jobs);
        let sql = format!(
            "select count(*) from (select 1 from data_job j where {} limit {}) found",
            jobs.sql,
            FEW_JOBS_MAX + 1
        );
        let (count,): (i64,) =
            on!(tx, c => bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), jobs.bound).fetch_one(c).await)?;
        Ok(count <= FEW_JOBS_MAX)
    }

    /// The conditions on jobs.
    fn of_jobs(&self, conditions: &mut Conditions) {
        for (column, values) in [
            ("j.job_id", self.jobs.iter().map(ToString::to_string).collect()),
            ("j.name", self.job_names.clone()),
            ("j.team", self.teams.clone()),
        ] {
            any_of(conditions, column, values);
        }
    }

    /// The conditions on runs.
    fn of_runs(&self, conditions: &mut Conditions, shared: bool) {
        let active = !self.statuses.is_empty() && self.statuses.iter().all(|s| !s.is_final());
        // Several of them are met along the order: their own index would have them all sorted first.
        let aside = self.statuses.len() > 1 && !active && !shared;
        let column = if aside { "+e.status" } else { "e.status" };
        any_of(conditions, column, self.statuses.iter().map(|s| s.as_str().to_owned()).collect());
        for (column, operator, at) in [
            (START, ">=", self.started_from),
            (START, "<=", self.started_until),
            ("e.ended_at", ">=", self.ended_from),
            ("e.ended_at", "<=", self.ended_until),
        ] {
            if let Some(at) = at {
                let mark = conditions.bind(Bound::Int(micros(at)));
                conditions.and(&format!("{column} {operator} {mark}"));
            }
        }
        // The stock client in a run skips itself when it sees any other active id: only the one that holds the slot counts.
        if active {
            conditions.and("e.holds_slot and e.status in ('SUBMITTED', 'RUNNING')");
        }
    }

    fn columns(&self) -> String {
        let mut columns = COLUMNS.to_owned();
        for (column, needed) in [("e.revision", Detail::Revision), ("e.arguments", Detail::Whole)] {
            if self.detail < needed {
                let name = column.trim_start_matches("e.");
                columns = columns.replace(column, &format!("cast(null as text) as {name}"));
            }
        }
        columns
    }
}

fn any_of(conditions: &mut Conditions, column: &str, values: Vec<String>) {
    if values.is_empty() {
        return;
    }
    let marks: Vec<_> = values.into_iter().map(|value| conditions.text(value)).collect();
    conditions.and(&format!("{column} in ({})", marks.join(", ")));
}

/// Has PostgreSQL find the jobs first. By itself it takes the runs in their order and looks at the job of each, which is
/// long where the jobs are few among many.
const FEW_JOBS: &str =
    "with few as materialized (select j.job_id, j.name, j.team, j.deleted_at from data_job j where {jobs}) ";

/// Jobs whose runs are found and sorted rather than met along an order.
const FEW_JOBS_MAX: i64 = 1000;

/// One page of the runs that a query finds.
pub async fn page(tx: &mut Tx, query: &ExecutionQuery) -> Result<Vec<Execution>> {
    if query.limit <= 0 {
        return Ok(Vec::new());
    }
    let shared = tx.dialect() == Dialect::Postgres;
    let mut jobs = Conditions { sql: "j.deleted_at is null".into(), bound: Vec::new() };
    query.of_jobs(&mut jobs);
    let mut conditions = Conditions { sql: jobs.sql.clone(), bound: jobs.bound };
    query.of_runs(&mut conditions, shared);
    // SQLite takes the tables of a cross join in this order.
    let tables = if query.names_jobs() || matches!(query.sort, ExecutionSort::JobName | ExecutionSort::Team) {
        "data_job j cross join data_job_execution e"
    } else {
        "data_job_execution e cross join data_job j"
    };
    let (first, tables) = if shared && query.names_teams_of_few_jobs(tx).await? {
        (FEW_JOBS.replace("{jobs}", &jobs.sql), "few j cross join data_job_execution e")
    } else {
        (String::new(), tables)
    };
    let (columns, order) = (query.columns(), query.sort.order(query.descending, shared));
    let found = |columns: &str| {
        format!(
            "select {columns} from {tables} where j.job_id = e.job_id and {} order by {order} limit {} offset {}",
            conditions.sql, query.limit, query.offset
        )
    };
    let sql = if query.is_of_several_jobs() {
        // All that are found are sorted: of those that don't come onto the page only what an index has is read.
        format!(
            "{first}select {columns}
             from ({}) p cross join data_job_execution e cross join data_job j
             where e.execution_id = p.execution_id and j.job_id = e.job_id order by {order}",
            found("e.execution_id")
        )
    } else {
        format!("{first}{}", found(&columns))
    };
    fetch(tx, sql, conditions.bound).await
}

/// A run as a page of jobs has it: an array in one text for each job. A row for each run would cost more than all else, and
/// each member costs, so the array ends where nothing more is wanted.
#[derive(serde::Deserialize)]
struct Packed(
    String,
    String,
    String,
    String,
    i64,
    Option<i64>,
    Option<i64>,
    Option<String>,
    #[serde(default)] String,
    #[serde(default)] Option<String>,
    #[serde(default)] Option<i64>,
    #[serde(default)] Option<i64>,
    #[serde(default)] Option<String>,
);

/// Memory of an unpacked execution, without its texts.
const UNPACKED_RUN_BYTES: usize = 512;

/// The members of [`Packed`] in their order.
const PACKED: [&str; 13] = [
    "e.execution_id",
    "e.type",
    "e.status",
    "e.op_id",
    "e.submitted_at",
    "e.started_at",
    "e.ended_at",
    "e.message",
    "e.started_by",
    "e.arguments",
    "e.scheduled_tick",
    "e.cancel_requested_at",
    "e.revision",
];

impl Detail {
    /// The members that are wanted.
    fn packed(self) -> Vec<&'static str> {
        match self {
            Self::Outcome => PACKED[..8].to_vec(),
            Self::Run => PACKED[..9].to_vec(),
            Self::Revision => PACKED.into_iter().map(|m| if m == "e.arguments" { "null" } else { m }).collect(),
            Self::Whole => PACKED.to_vec(),
        }
    }
}

#[derive(sqlx::FromRow)]
struct PackedRow {
    job_id: String,
    name: String,
    team: String,
    runs: Option<String>,
}

impl RowBytes for PackedRow {
    fn text_bytes(&self) -> usize {
        let runs = self.runs.as_ref().map_or(0, |runs| runs.matches("[\"").count());
        runs * UNPACKED_RUN_BYTES
            + bytes_of([Some(&self.job_id), Some(&self.name), Some(&self.team), self.runs.as_ref()])
    }
}

impl PackedRow {
    fn unpack(self, into: &mut Vec<Execution>) -> Result<()> {
        let Some(runs) = self.runs else { return Ok(()) };
        let job_id = codec::job_id(&self.job_id)?;
        let job_name = JobName::parse(&self.name).map_err(|_| corrupt("a job name"))?;
        let team = TeamName::parse(&self.team).map_err(|_| corrupt("a team name"))?;
        for run in from_json::<Vec<Packed>>("the runs of a job", &runs)? {
            into.push(Execution {
                id: execution_id(&run.0)?,
                job_id,
                job_name: job_name.clone(),
                team: team.clone(),
                kind: Type::parse(&run.1).ok_or_else(|| corrupt("an execution type"))?,
                status: Status::parse(&run.2).ok_or_else(|| corrupt("an execution status"))?,
                op_id: run.3,
                submitted_at: instant(run.4)?,
                started_at: instant_opt(run.5)?,
                ended_at: instant_opt(run.6)?,
                message: run.7,
                started_by: run.8,
                arguments: run.9,
                scheduled_tick: instant_opt(run.10)?,
                cancel_requested_at: instant_opt(run.11)?,
                revision: revision(run.12)?,
            });
        }
        Ok(())
    }
}

/// One page of runs for each of a page of jobs, in one statement that reads no job's whole history. The runs of a job
/// stand together, in the order that is asked for.
pub async fn page_by_job(tx: &mut Tx, query: &ExecutionQuery) -> Result<Vec<Execution>> {
    if query.limit <= 0 {
        return Ok(Vec::new());
    }
    let Conditions { sql, bound } = by_job(query, tx.dialect() == Dialect::Postgres);
    let rows = metered_rows!(tx, bind_all!(sqlx::query_as::<_, PackedRow>(sqlx::AssertSqlSafe(sql)), bound))?;
    let mut executions = Vec::new();
    for row in rows {
        row.unpack(&mut executions)?;
    }
    Ok(executions)
}

fn by_job(query: &ExecutionQuery, shared: bool) -> Conditions {
    let mut jobs = Conditions { sql: "j.deleted_at is null".into(), bound: Vec::new() };
    query.of_jobs(&mut jobs);
    let mut runs = Conditions { sql: "e.job_id = j.job_id".into(), bound: jobs.bound };
    query.of_runs(&mut runs, shared);
    // Runs of one job share its name and team.
    let sort = match query.sort {
        ExecutionSort::JobName | ExecutionSort::Team => ExecutionSort::Id,
        sort => sort,
    };
    let order = sort.order(query.descending, shared);
    let pack = if shared { "json_build_array" } else { "json_array" };
    let packed = query.detail.packed().join(", ");
    let sql = format!(
        "select j.job_id, j.name, j.team,
            (select '[' || string_agg(p.run, ',') || ']' from
                (select cast({pack}({packed}) as text) as run
                    from data_job_execution e where {} order by {order} limit {} offset {}) p) as runs
         from data_job j where {}",
        runs.sql, query.limit, query.offset, jobs.sql
    );
    Conditions { sql, bound: runs.bound }
}

async fn fetch(tx: &mut Tx, sql: String, bound: Vec<Bound>) -> Result<Vec<Execution>> {
    let rows = metered_rows!(tx, bind_all!(sqlx::query_as::<_, ExecutionRow>(sqlx::AssertSqlSafe(sql)), bound))?;
    executions(rows)
}

/// How many runs a query finds on all pages.
pub async fn count(tx: &mut Tx, query: &ExecutionQuery) -> Result<i64> {
    let mut conditions = Conditions::default();
    query.of_jobs(&mut conditions);
    query.of_runs(&mut conditions, tx.dialect() == Dialect::Postgres);
    let conditions = Conditions { sql: conditions.sql.replace("+e.status", "e.status"), ..conditions };
    let of_jobs = |deleted| {
        format!(
            "select count(*) from data_job j cross join data_job_execution e
             where j.job_id = e.job_id and j.deleted_at is {deleted}{}",
            conditions.sql
        )
    };
    // Without a look at each run's job: all of them but those of the few that are deleted.
    let sql = if query.names_jobs() {
        of_jobs("null")
    } else {
        format!(
            "select (select count(*) from data_job_execution e where true{}) - ({})",
            conditions.sql,
            of_jobs("not null")
        )
    };
    let (count,): (i64,) =
        on!(tx, c => bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), conditions.bound).fetch_one(c).await)?;
    Ok(count)
}
