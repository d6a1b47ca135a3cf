//! Runs: one row each, from the accepted start to one final status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{
    artifact::Artifact,
    deployment::Deployment,
    execution::{Execution, ExecutionRevision, Status, Type},
    name::{ExecutionId, JobId, JobName, TeamName},
    runtime::{KnownRun, Ticked},
};

use crate::{
    bound::{Bound, Conditions, bind_all},
    codec::{self, from_json, instant, instant_opt, micros, to_json},
    db::{Tx, metered_rows, on},
    error::{Result, StoreError, corrupt},
    leases::{self, Epoch},
    meter::{RowBytes, bytes_of},
};

/// A start to store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewExecution<'a> {
    /// The job.
    pub job_id: JobId,
    /// The job's name.
    pub job_name: &'a JobName,
    /// What starts it.
    pub kind: Type,
    /// Who starts it.
    pub started_by: &'a str,
    /// The operation id; a tick's own execution id where absent.
    pub op_id: Option<&'a str>,
    /// The arguments as a JSON object.
    pub arguments: Option<&'a str>,
    /// The tick that starts it.
    pub scheduled_tick: Option<Timestamp>,
}

/// What came of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It is stored and holds the job's slot.
    Accepted(ExecutionId),
    /// Another run of the job is active; nothing was stored. The transaction is of no more use.
    SlotTaken,
}

/// Stores a start as SUBMITTED with the job's slot. The unique index decides between two starts of one instant.
pub async fn insert(tx: &mut Tx, new: &NewExecution<'_>, now: Timestamp) -> Result<Started> {
    /// Starts of one job in one second that are told apart by counting up.
    const TRIES: i64 = 1000;
    if let Some(tick) = new.scheduled_tick
        && !still_waits(tx, new.job_id, tick).await?
    {
        return Ok(Started::SlotTaken);
    }
    for taken in 0..TRIES {
        let id = match new.scheduled_tick {
            Some(tick) => ExecutionId::scheduled(new.job_name, tick.as_second()),
            None => ExecutionId::manual(new.job_name, now.as_second(), taken),
        };
        let done = on!(tx, c => sqlx::query(
            "insert into data_job_execution (execution_id, job_id, type, status, submitted_at, started_by, op_id,
                arguments, scheduled_tick, holds_slot, leader_epoch)
             values ($1, $2, $3, 'SUBMITTED', $4, $5, $6, $7, $8, true, 0)
             on conflict (execution_id) do nothing",
        )
        .bind(id.as_str())
        .bind(new.job_id.to_string())
        .bind(new.kind.as_str())
        .bind(micros(now))
        .bind(new.started_by)
        .bind(new.op_id.unwrap_or(id.as_str()))
        .bind(new.arguments)
        .bind(new.scheduled_tick.map(micros))
        .execute(c)
        .await
        .map(|done| done.rows_affected()));
        match done.map_err(StoreError::from) {
            Ok(1) => return Ok(Started::Accepted(id)),
            // The tick was recorded before: by this job, or by a namesake of the same minute.
            Ok(_) if new.scheduled_tick.is_some() => return Ok(Started::SlotTaken),
            Ok(_) => {}
            Err(StoreError::Constraint(_)) => return Ok(Started::SlotTaken),
            Err(error) => return Err(error),
        }
    }
    Ok(Started::SlotTaken)
}

/// Whether a tick still waits on a job that is alive, deployed and enabled; the job stays so until the end of the
/// transaction.
async fn still_waits(tx: &mut Tx, job_id: JobId, tick: Timestamp) -> Result<bool> {
    if !crate::jobs::lock(tx, job_id).await? {
        return Ok(false);
    }
    let row: Option<(i64,)> = on!(tx, c => sqlx::query_as(
        "select generation from deployment
         where job_id = $1 and removed_at is null and enabled = true and pending_tick = $2",
    )
    .bind(job_id.to_string())
    .bind(micros(tick))
    .fetch_optional(c)
    .await)?;
    Ok(row.is_some())
}

#[derive(sqlx::FromRow)]
struct ExecutionRow {
    execution_id: String,
    job_id: String,
    name: String,
    team: String,
    #[sqlx(rename = "type")]
    kind: String,
    status: String,
    submitted_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    started_by: String,
    op_id: String,
    message: Option<String>,
    arguments: Option<String>,
    scheduled_tick: Option<i64>,
    cancel_requested_at: Option<i64>,
    revision: Option<String>,
}

const COLUMNS: &str = "e.execution_id, e.job_id, j.name, j.team, e.type, e.status, e.submitted_at, e.started_at,
    e.ended_at, e.started_by, e.op_id, e.message, e.arguments, e.scheduled_tick, e.cancel_requested_at, e.revision";

impl RowBytes for ExecutionRow {
    fn text_bytes(&self) -> usize {
        let texts = [&self.execution_id, &self.name, &self.team, &self.started_by, &self.op_id];
        let optional = [self.message.as_ref(), self.arguments.as_ref(), self.revision.as_ref()];
        bytes_of(texts.map(Some).into_iter().chain(optional))
    }
}

impl TryFrom<ExecutionRow> for Execution {
    type Error = StoreError;

    fn try_from(row: ExecutionRow) -> Result<Self> {
        Ok(Self {
            id: execution_id(&row.execution_id)?,
            job_id: codec::job_id(&row.job_id)?,
            job_name: JobName::parse(&row.name).map_err(|_| corrupt("a job name"))?,
            team: TeamName::parse(&row.team).map_err(|_| corrupt("a team name"))?,
            kind: Type::parse(&row.kind).ok_or_else(|| corrupt("an execution type"))?,
            status: Status::parse(&row.status).ok_or_else(|| corrupt("an execution status"))?,
            submitted_at: instant(row.submitted_at)?,
            started_at: instant_opt(row.started_at)?,
            ended_at: instant_opt(row.ended_at)?,
            started_by: row.started_by,
            op_id: row.op_id,
            message: row.message,
            arguments: row.arguments,
            scheduled_tick: instant_opt(row.scheduled_tick)?,
            cancel_requested_at: instant_opt(row.cancel_requested_at)?,
            revision: revision(row.revision)?,
        })
    }
}

fn revision(text: Option<String>) -> Result<Option<ExecutionRevision>> {
    let deployment = text.map(|text| from_json::<Deployment>("the revision of an execution", &text)).transpose()?;
    Ok(deployment.as_ref().map(ExecutionRevision::from))
}

fn execution_id(raw: &str) -> Result<ExecutionId> {
    ExecutionId::parse(raw).ok_or_else(|| corrupt("an execution id"))
}

fn executions(rows: Vec<ExecutionRow>) -> Result<Vec<Execution>> {
    rows.into_iter().map(Execution::try_from).collect()
}

/// The run of this id.
pub async fn find(tx: &mut Tx, id: &ExecutionId) -> Result<Option<Execution>> {
    let sql = format!(
        "select {COLUMNS} from data_job_execution e join data_job j on j.job_id = e.job_id where e.execution_id = $1"
    );
    let row: Option<ExecutionRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(id.as_str())
        .fetch_optional(c)
        .await)?;
    row.map(Execution::try_from).transpose()
}

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
    let shared = tx.is_shared();
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
    let Conditions { sql, bound } = by_job(query, tx.is_shared());
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
    query.of_runs(&mut conditions, tx.is_shared());
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

/// What the loop that moves runs on has to know of an active one.
#[derive(Debug, Clone, PartialEq)]
pub struct Active {
    /// The run.
    pub execution: Execution,
    /// What it was handed over with; absent as long as it was not.
    pub handed_over: Option<HandedOver>,
    /// The epoch of the leader that moved it on last.
    pub epoch: Epoch,
}

/// What is not as it should be of the runs that a place knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Runs that ticks started and that have no row yet.
    pub new: Vec<(ExecutionId, Ticked)>,
    /// Runs whose end is stored and that are still there.
    pub over: Vec<ExecutionId>,
}

/// Compares the runs that a place knows with their rows.
pub async fn unsettled(tx: &mut Tx, known: Vec<KnownRun>) -> Result<Unsettled> {
    /// Ids in a statement.
    const AT_ONCE: usize = 500;
    let mut unsettled = Unsettled::default();
    for some in known.chunks(AT_ONCE) {
        let marks: Vec<_> = (1..=some.len()).map(|n| format!("${n}")).collect();
        let sql =
            format!("select execution_id, status from data_job_execution where execution_id in ({})", marks.join(", "));
        let rows: Vec<(String, String)> = on!(tx, c => {
            let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql));
            for run in some {
                statement = statement.bind(run.id.as_str());
            }
            statement.fetch_all(c).await
        })?;
        let statuses: std::collections::HashMap<_, _> = rows.into_iter().collect();
        for run in some {
            match (statuses.get(run.id.as_str()), &run.ticked) {
                (Some(status), _) if Status::parse(status).is_some_and(Status::is_final) => {
                    unsettled.over.push(run.id.clone());
                }
                (None, Some(ticked)) => unsettled.new.push((run.id.clone(), ticked.clone())),
                _ => {}
            }
        }
    }
    Ok(unsettled)
}

/// What recording a run of a tick found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It was recorded before, or its job is not known here.
    Known,
    /// It is the one run of its job that is in progress.
    Alone,
    /// Another run of its job is in progress, as far as the rows have it: that one may just have ended.
    Beside,
}

/// Records a run that a tick started in a cluster. It holds its job's slot, unless another run does: then the two overlap,
/// and both are told.
pub async fn record_ticked(
    tx: &mut Tx,
    epoch: Epoch,
    id: &ExecutionId,
    run: &Ticked,
    with: Option<&HandedOver>,
) -> Result<Recorded> {
    leases::fence(tx, epoch).await?;
    crate::jobs::lock(tx, run.job_id).await?;
    let (lock_key, image) = with.map_or((None, None), |with| crate::deployments::columns(&with.artifact));
    let alone: Option<(bool,)> = on!(tx, c => sqlx::query_as(
        "insert into data_job_execution (execution_id, job_id, type, status, submitted_at, started_by, op_id, scheduled_tick,
            holds_slot, leader_epoch, generation, revision, lock_key, image)
         select $1, j.job_id, 'SCHEDULED', 'SUBMITTED', $3, 'scheduled/runtime', $1, $4,
            not exists (select 1 from data_job_execution e where e.job_id = j.job_id and e.holds_slot), $5, $6, $7, $8, $9
         from data_job j where j.job_id = $2
         on conflict do nothing returning holds_slot",
    )
    .bind(id.as_str())
    .bind(run.job_id.to_string())
    .bind(micros(run.created_at))
    .bind(micros(run.tick))
    .bind(epoch.0)
    .bind(with.map(|with| with.revision.generation))
    .bind(with.map(|with| to_json(&with.revision)))
    .bind(lock_key)
    .bind(image)
    .fetch_optional(c)
    .await)?;
    Ok(match alone {
        None => Recorded::Known,
        Some((true,)) => Recorded::Alone,
        Some((false,)) => Recorded::Beside,
    })
}

/// Tells what keeps a run from starting. `false` when it has started.
pub async fn held(tx: &mut Tx, epoch: Epoch, id: &ExecutionId, message: &str) -> Result<bool> {
    leases::fence(tx, epoch).await?;
    let done = on!(tx, c => sqlx::query(
        "update data_job_execution set message = $2, leader_epoch = $3
         where execution_id = $1 and status = 'SUBMITTED' and leader_epoch <= $3",
    )
    .bind(id.as_str())
    .bind(message.replace('\0', "\u{FFFD}"))
    .bind(epoch.0)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done == 1)
}

/// What a run is handed over with.
#[derive(Debug, Clone, PartialEq)]
pub struct HandedOver {
    /// The deployment that it runs.
    pub revision: Deployment,
    /// What it is made of.
    pub artifact: Artifact,
}

/// The active runs in the order of their acceptance, at most `limit`.
pub async fn active(tx: &mut Tx, limit: i64) -> Result<Vec<Active>> {
    #[derive(sqlx::FromRow)]
    struct ActiveRow {
        #[sqlx(flatten)]
        execution: ExecutionRow,
        lock_key: Option<String>,
        image: Option<String>,
        leader_epoch: i64,
    }
    let sql = format!(
        "select {COLUMNS}, e.lock_key, e.image, e.leader_epoch from data_job_execution e join data_job j on j.job_id = e.job_id
         where e.status in ('SUBMITTED', 'RUNNING') order by e.submitted_at, e.execution_id limit {limit}"
    );
    let rows: Vec<ActiveRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(c).await)?;
    rows.into_iter()
        .map(|ActiveRow { execution, lock_key, image, leader_epoch }| {
            let handed_over = match (&execution.revision, crate::deployments::artifact(lock_key, image)) {
                (Some(text), Some(artifact)) => {
                    Some(HandedOver { revision: from_json("the revision of an execution", text)?, artifact })
                }
                _ => None,
            };
            Ok(Active { handed_over, epoch: Epoch(leader_epoch), execution: execution.try_into()? })
        })
        .collect()
}

/// Records what a run is handed over with, before it is: whoever comes after a crash must know what it ran.
/// `false` when it is not SUBMITTED any more, or was handed over already.
pub async fn hand_over(tx: &mut Tx, epoch: Epoch, id: &ExecutionId, with: &HandedOver) -> Result<bool> {
    leases::fence(tx, epoch).await?;
    let (lock_key, image) = crate::deployments::columns(&with.artifact);
    let done = on!(tx, c => sqlx::query(
        "update data_job_execution set generation = $2, revision = $3, leader_epoch = $4, lock_key = $5, image = $6
         where execution_id = $1 and status = 'SUBMITTED' and revision is null and cancel_requested_at is null
           and leader_epoch <= $4",
    )
    .bind(id.as_str())
    .bind(with.revision.generation)
    .bind(to_json(&with.revision))
    .bind(epoch.0)
    .bind(lock_key)
    .bind(image)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done == 1)
}

/// Records that a run's process was started. `false` when it is not SUBMITTED any more.
pub async fn running(tx: &mut Tx, epoch: Epoch, id: &ExecutionId, started_at: Timestamp) -> Result<bool> {
    leases::fence(tx, epoch).await?;
    let done = on!(tx, c => sqlx::query(
        "update data_job_execution set status = 'RUNNING', started_at = $2, leader_epoch = $3, message = null
         where execution_id = $1 and status = 'SUBMITTED' and leader_epoch <= $3",
    )
    .bind(id.as_str())
    .bind(micros(started_at))
    .bind(epoch.0)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done == 1)
}

/// Keeps the job of a run as it is until the end of the transaction.
async fn lock_job(tx: &mut Tx, id: &ExecutionId) -> Result<()> {
    if !tx.is_shared() {
        return Ok(());
    }
    on!(tx, c => sqlx::query(
        "select job_id from data_job
         where job_id = (select job_id from data_job_execution where execution_id = $1) for no key update",
    )
    .bind(id.as_str())
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended<'a> {
    /// A final status.
    pub status: Status,
    /// For people.
    pub message: &'a str,
    /// When its process was started; absent when it never was.
    pub started_at: Option<Timestamp>,
    /// When nothing of it was left.
    pub ended_at: Timestamp,
}

/// Gives a run its one final status, frees the job's slot and keeps the job's summary true. `false` when it had one.
pub async fn finish(tx: &mut Tx, epoch: Epoch, id: &ExecutionId, ended: &Ended<'_>) -> Result<bool> {
    leases::fence(tx, epoch).await?;
    lock_job(tx, id).await?;
    // What a process said last may hold anything.
    let message = ended.message.replace('\0', "\u{FFFD}");
    if ended.status == Status::Succeeded {
        // A run that was not seen running passes through that status all the same.
        running(tx, epoch, id, ended.started_at.unwrap_or(ended.ended_at)).await?;
    }
    let from: Vec<_> = ended.status.may_follow().iter().map(|s| format!("'{}'", s.as_str())).collect();
    let sql = format!(
        "update data_job_execution set status = $2, message = $3, started_at = coalesce(started_at, $4), ended_at = $5,
            holds_slot = false, leader_epoch = $6
         where execution_id = $1 and status in ({}) and leader_epoch <= $6
         returning job_id, coalesce(started_at, submitted_at)",
        from.join(", ")
    );
    let row: Option<(String, i64)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(id.as_str())
        .bind(ended.status.as_str())
        .bind(message)
        .bind(ended.started_at.map(micros))
        .bind(micros(ended.ended_at))
        .bind(epoch.0)
        .fetch_optional(c)
        .await)?;
    let Some((job_id, started)) = row else { return Ok(false) };
    let end = micros(ended.ended_at);
    let failed = matches!(ended.status, Status::UserError | Status::PlatformError);
    on!(tx, c => sqlx::query(
        "update data_job set successful_executions = successful_executions + $2,
            failed_executions = failed_executions + $3 where job_id = $1",
    )
    .bind(&job_id)
    .bind(i64::from(ended.status == Status::Succeeded))
    .bind(i64::from(failed))
    .execute(c)
    .await
    .map(drop))?;
    on!(tx, c => sqlx::query(
        "update data_job set last_execution_id = $2, last_execution_status = $3, last_execution_start = $4,
            last_execution_end = $5, last_execution_duration_seconds = $6
         where job_id = $1 and (last_execution_end is null or last_execution_end <= $5)",
    )
    .bind(&job_id)
    .bind(id.as_str())
    .bind(ended.status.as_str())
    .bind(started)
    .bind(end)
    .bind((end - started).max(0) / 1_000_000)
    .execute(c)
    .await
    .map(drop))?;
    Ok(true)
}

/// Asks for the end of a run. `false` when it is over already.
pub async fn request_cancel(tx: &mut Tx, id: &ExecutionId, now: Timestamp) -> Result<bool> {
    let done = on!(tx, c => sqlx::query(
        "update data_job_execution set cancel_requested_at = coalesce(cancel_requested_at, $2)
         where execution_id = $1 and status in ('SUBMITTED', 'RUNNING')",
    )
    .bind(id.as_str())
    .bind(micros(now))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done == 1)
}

/// Asks for the end of every active run of a job.
pub async fn request_cancel_all(tx: &mut Tx, job_id: JobId, now: Timestamp) -> Result<u64> {
    let done = on!(tx, c => sqlx::query(
        "update data_job_execution set cancel_requested_at = coalesce(cancel_requested_at, $2)
         where job_id = $1 and status in ('SUBMITTED', 'RUNNING')",
    )
    .bind(job_id.to_string())
    .bind(micros(now))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done)
}

/// Removes runs that ended before `before`, with their logs, but for the newest `keep_a_job` of each job; at most `limit`
/// at a time. The counts of the jobs go down with them.
pub async fn purge(tx: &mut Tx, before: Timestamp, keep_a_job: i64, limit: i64) -> Result<u64> {
    let rows: Vec<(String, String, String)> = on!(tx, c => sqlx::query_as(
        "select execution_id, job_id, status from (
            select e.execution_id, e.job_id, e.status, e.ended_at, row_number() over (
                partition by e.job_id order by e.submitted_at desc, e.execution_id desc) as place
            from data_job_execution e
            where e.job_id in (select job_id from data_job_execution where ended_at < $1)) p
         where ended_at < $1 and place > $2 order by ended_at, execution_id limit $3",
    )
    .bind(micros(before))
    .bind(keep_a_job)
    .bind(limit)
    .fetch_all(c)
    .await)?;
    // A final status never changes, so that what was read stays true. Jobs come before runs and in order, as everywhere.
    let mut counts: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for (_, job_id, status) in &rows {
        let status = Status::parse(status).ok_or_else(|| corrupt("an execution status"))?;
        let (succeeded, failed) = counts.entry(job_id.clone()).or_default();
        *succeeded += i64::from(status == Status::Succeeded);
        *failed += i64::from(matches!(status, Status::UserError | Status::PlatformError));
    }
    for (job_id, (succeeded, failed)) in counts {
        on!(tx, c => sqlx::query(
            "update data_job set successful_executions = successful_executions - $2,
                failed_executions = failed_executions - $3 where job_id = $1",
        )
        .bind(job_id)
        .bind(succeeded)
        .bind(failed)
        .execute(c)
        .await
        .map(drop))?;
    }
    for (id, _, _) in &rows {
        on!(tx, c => sqlx::query("delete from data_job_execution where execution_id = $1")
            .bind(id)
            .execute(c)
            .await
            .map(drop))?;
    }
    Ok(rows.len() as u64)
}

/// Whether a tick of a job is recorded as a run.
pub async fn tick_recorded(tx: &mut Tx, job_id: JobId, tick: Timestamp) -> Result<bool> {
    let row: Option<(i64,)> = on!(tx, c => sqlx::query_as(
        "select submitted_at from data_job_execution where job_id = $1 and scheduled_tick = $2",
    )
    .bind(job_id.to_string())
    .bind(micros(tick))
    .fetch_optional(c)
    .await)?;
    Ok(row.is_some())
}

/// How many runs are in each active status.
pub async fn active_counts(tx: &mut Tx) -> Result<Vec<(Status, i64)>> {
    let rows: Vec<(String, i64)> = on!(tx, c => sqlx::query_as(
        "select status, count(*) from data_job_execution where status in ('SUBMITTED', 'RUNNING') group by status",
    )
    .fetch_all(c)
    .await)?;
    rows.into_iter()
        .map(|(status, count)| Ok((Status::parse(&status).ok_or_else(|| corrupt("an execution status"))?, count)))
        .collect()
}
