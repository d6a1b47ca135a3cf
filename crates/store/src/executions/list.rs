//! Pages of runs.

use jiff::Timestamp;
use model::{
    execution::{Execution, Status, Type},
    name::{JobId, JobName, TeamName},
};
use sea_query::{
    BinOper, CommonTableExpression, Condition, Expr, ExprTrait, Func, IntoTableRef, NullOrdering, Order, Query,
    SelectStatement,
};

use super::row::{COLUMNS, ExecutionRow, execution_id, executions, revision};
use crate::{
    codec::{self, from_json, instant, instant_opt, micros},
    db::{Tx, metered_rows, on},
    dialect::Dialect,
    error::{Result, corrupt},
    meter::{RowBytes, bytes_of},
    sql::{Statement, any_of, bind_all, column, rows},
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
    fn key(self, dialect: Dialect) -> (Expr, bool) {
        let revision = |member: &str| {
            let key = match dialect {
                Dialect::Postgres => format!("(cast(e.revision as json) ->> '{member}') collate \"C\""),
                Dialect::Sqlite => format!("(e.revision ->> '{member}')"),
            };
            (Expr::cust(key), true)
        };
        match self {
            Self::StartTime => (Expr::cust(START), false),
            Self::EndTime => (column("e.ended_at"), true),
            Self::Status => (column("e.status"), false),
            Self::Type => (column("e.type"), false),
            Self::JobName => (column("j.name"), false),
            Self::Id => (column("e.execution_id"), false),
            Self::StartedBy => (column("e.started_by"), false),
            Self::Message => (column("e.message"), true),
            Self::OpId => (column("e.op_id"), false),
            Self::Team => (column("j.team"), false),
            Self::JobVersion => revision("job_version"),
            Self::VdkVersion => revision("vdk_version"),
            Self::Schedule => revision("schedule_cron"),
            Self::DeployedAt => {
                let asked_for = Query::select()
                    .column(("v", "created_at"))
                    .from_as("deployment_revision", "v")
                    .and_where(column("v.job_id").equals(("e", "job_id")))
                    .and_where(column("v.generation").equals(("e", "generation")))
                    .to_owned();
                (Expr::SubQuery(None, Box::new(asked_for.into())), true)
            }
            Self::DeployedBy => revision("deployed_by"),
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
        let jobs = Query::select()
            .expr(Expr::cust("1"))
            .from_as("data_job", "j")
            .cond_where(self.live_jobs())
            .limit(rows(FEW_JOBS_MAX + 1))
            .to_owned();
        let count = Query::select().expr(Func::count(Expr::cust("*"))).from_subquery(jobs, "found").to_owned();
        Ok(number(tx, Statement::of(tx.dialect(), &count)).await? <= FEW_JOBS_MAX)
    }

    /// The conditions on jobs.
    fn of_jobs(&self) -> Condition {
        Condition::all()
            .add_option(any_of(column("j.job_id"), self.jobs.iter().map(ToString::to_string).collect()))
            .add_option(any_of(column("j.name"), self.job_names.clone()))
            .add_option(any_of(column("j.team"), self.teams.clone()))
    }

    /// The conditions on jobs, and that these are alive.
    fn live_jobs(&self) -> Condition {
        Condition::all().add(column("j.deleted_at").is_null()).add(self.of_jobs())
    }

    /// Whether all statuses that it is about are active ones.
    fn is_of_active(&self) -> bool {
        !self.statuses.is_empty() && self.statuses.iter().all(|status| !status.is_final())
    }

    /// The conditions on runs; an index of statuses may be used if `by_status`.
    fn of_runs(&self, dialect: Dialect, by_status: bool) -> Condition {
        let statuses = self.statuses.iter().map(|status| status.as_str().to_owned()).collect();
        // The stock client in a run skips itself when it sees any other active id: only the one that holds the slot counts.
        let active = self.is_of_active().then(|| Expr::cust("e.holds_slot and e.status in ('SUBMITTED', 'RUNNING')"));
        Condition::all()
            .add_option(any_of(dialect.column(by_status, "e.status"), statuses))
            .add_option(self.started_from.map(|at| Expr::cust(START).gte(micros(at))))
            .add_option(self.started_until.map(|at| Expr::cust(START).lte(micros(at))))
            .add_option(self.ended_from.map(|at| column("e.ended_at").gte(micros(at))))
            .add_option(self.ended_until.map(|at| column("e.ended_at").lte(micros(at))))
            .add_option(active)
    }

    /// The conditions on the runs of a page. Several statuses are met along the order: their own index would have all of
    /// their runs sorted first.
    fn of_runs_on_page(&self, dialect: Dialect) -> Condition {
        self.of_runs(dialect, self.statuses.len() <= 1 || self.is_of_active())
    }

    /// Selects what is wanted of each run.
    fn select(&self) -> SelectStatement {
        let mut select = Query::select();
        for name in COLUMNS.split(',').map(str::trim) {
            let (is_wanted, alias) = match name {
                "e.revision" => (self.detail >= Detail::Revision, "revision"),
                "e.arguments" => (self.detail >= Detail::Whole, "arguments"),
                _ => (true, ""),
            };
            if is_wanted {
                select.expr(column(name));
            } else {
                select.expr_as(Expr::cust("cast(null as text)"), alias);
            }
        }
        select
    }

    /// Sorts runs as `e` with their jobs as `j`: what is absent comes last, the id settles what is equal.
    fn order(&self, select: &mut SelectStatement, dialect: Dialect, sort: ExecutionSort) {
        let order = if self.descending { Order::Desc } else { Order::Asc };
        let (key, optional) = sort.key(dialect);
        if optional {
            select.order_by_expr_with_nulls(key, order.clone(), NullOrdering::Last);
        } else {
            select.order_by_expr(key, order.clone());
        }
        // As the index has it.
        if sort == ExecutionSort::Status {
            select.order_by_expr(Expr::cust(START), order.clone());
        }
        if sort != ExecutionSort::Id {
            select.order_by(("e", "execution_id"), order);
        }
    }

    /// Cuts the page out.
    fn window(&self, select: &mut SelectStatement) {
        select.limit(rows(self.limit)).offset(rows(self.offset));
    }
}

/// Jobs whose runs are found and sorted rather than met along an order.
const FEW_JOBS_MAX: i64 = 1000;

/// One page of the runs that a query finds.
pub async fn page(tx: &mut Tx, query: &ExecutionQuery) -> Result<Vec<Execution>> {
    if query.limit <= 0 {
        return Ok(Vec::new());
    }
    let dialect = tx.dialect();
    let jobs_first = dialect == Dialect::Postgres && query.names_teams_of_few_jobs(tx).await?;
    let Statement { sql, values } = Statement::of(dialect, &statement(query, dialect, jobs_first));
    let rows = metered_rows!(tx, bind_all!(sqlx::query_as::<_, ExecutionRow>(sqlx::AssertSqlSafe(sql)), values))?;
    executions(rows)
}

/// The statement of a page.
///
/// With `jobs_first` PostgreSQL finds the jobs first. By itself it takes the runs in their order and looks at the job of
/// each, which is long where the jobs are few among many.
fn statement(query: &ExecutionQuery, dialect: Dialect, jobs_first: bool) -> SelectStatement {
    let by_job = query.names_jobs() || matches!(query.sort, ExecutionSort::JobName | ExecutionSort::Team);
    let found = |mut select: SelectStatement| {
        // SQLite takes the tables of a cross join in this order.
        if jobs_first {
            select.from_as("few", "j").cross_join("data_job_execution".into_table_ref().alias("e"));
        } else if by_job {
            select.from_as("data_job", "j").cross_join("data_job_execution".into_table_ref().alias("e"));
        } else {
            select.from_as("data_job_execution", "e").cross_join("data_job".into_table_ref().alias("j"));
        }
        select
            .and_where(column("j.job_id").equals(("e", "job_id")))
            .cond_where(query.live_jobs())
            .cond_where(query.of_runs_on_page(dialect));
        query.order(&mut select, dialect, query.sort);
        query.window(&mut select);
        select
    };
    let mut page = if query.is_of_several_jobs() {
        // All that are found are sorted: of those that don't come onto the page only what an index has is read.
        let ids = found(Query::select().column(("e", "execution_id")).to_owned());
        let mut page = query.select();
        page.from_subquery(ids, "p")
            .cross_join("data_job_execution".into_table_ref().alias("e"))
            .cross_join("data_job".into_table_ref().alias("j"))
            .and_where(column("e.execution_id").equals(("p", "execution_id")))
            .and_where(column("j.job_id").equals(("e", "job_id")));
        query.order(&mut page, dialect, query.sort);
        page
    } else {
        found(query.select())
    };
    if jobs_first {
        let jobs = Query::select()
            .columns(["job_id", "name", "team", "deleted_at"].map(|name| ("j", name)))
            .from_as("data_job", "j")
            .cond_where(query.live_jobs())
            .to_owned();
        page.with_cte(CommonTableExpression::new().table_name("few").query(jobs).materialized(true).to_owned());
    }
    page
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
    let Statement { sql, values } = Statement::of(tx.dialect(), &by_job(query, tx.dialect()));
    let rows = metered_rows!(tx, bind_all!(sqlx::query_as::<_, PackedRow>(sqlx::AssertSqlSafe(sql)), values))?;
    let mut executions = Vec::new();
    for row in rows {
        row.unpack(&mut executions)?;
    }
    Ok(executions)
}

fn by_job(query: &ExecutionQuery, dialect: Dialect) -> SelectStatement {
    // Runs of one job share its name and team.
    let sort = match query.sort {
        ExecutionSort::JobName | ExecutionSort::Team => ExecutionSort::Id,
        sort => sort,
    };
    let pack = match dialect {
        Dialect::Postgres => "json_build_array",
        Dialect::Sqlite => "json_array",
    };
    let members = query.detail.packed().into_iter().map(|name| match name {
        "null" => Expr::cust("null"),
        name => column(name),
    });
    let mut runs = Query::select();
    runs.expr_as(Func::cust(pack).args(members).cast_as("text"), "run")
        .from_as("data_job_execution", "e")
        .and_where(column("e.job_id").equals(("j", "job_id")))
        .cond_where(query.of_runs_on_page(dialect));
    query.order(&mut runs, dialect, sort);
    query.window(&mut runs);
    let array =
        Query::select().expr(Expr::cust("'[' || string_agg(p.run, ',') || ']'")).from_subquery(runs, "p").to_owned();
    Query::select()
        .columns(["job_id", "name", "team"].map(|name| ("j", name)))
        .expr_as(Expr::SubQuery(None, Box::new(array.into())), "runs")
        .from_as("data_job", "j")
        .cond_where(query.live_jobs())
        .to_owned()
}

/// How many runs a query finds on all pages.
pub async fn count(tx: &mut Tx, query: &ExecutionQuery) -> Result<i64> {
    number(tx, Statement::of(tx.dialect(), &count_of(query, tx.dialect()))).await
}

fn count_of(query: &ExecutionQuery, dialect: Dialect) -> SelectStatement {
    let of_jobs = |deleted: Expr| {
        Query::select()
            .expr(Func::count(Expr::cust("*")))
            .from_as("data_job", "j")
            .cross_join("data_job_execution".into_table_ref().alias("e"))
            .and_where(column("j.job_id").equals(("e", "job_id")))
            .and_where(deleted)
            .cond_where(query.of_jobs())
            .cond_where(query.of_runs(dialect, true))
            .to_owned()
    };
    if query.names_jobs() {
        return of_jobs(column("j.deleted_at").is_null());
    }
    // Without a look at each run's job: all of them but those of the few that are deleted.
    let all = Query::select()
        .expr(Func::count(Expr::cust("*")))
        .from_as("data_job_execution", "e")
        .cond_where(query.of_runs(dialect, true))
        .to_owned();
    let of_deleted = of_jobs(column("j.deleted_at").is_not_null());
    let count = |select: SelectStatement| Expr::SubQuery(None, Box::new(select.into()));
    Query::select().expr(count(all).binary(BinOper::Sub, count(of_deleted))).to_owned()
}

async fn number(tx: &mut Tx, Statement { sql, values }: Statement) -> Result<i64> {
    let (count,): (i64,) =
        on!(tx, c => bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), values).fetch_one(c).await)?;
    Ok(count)
}
