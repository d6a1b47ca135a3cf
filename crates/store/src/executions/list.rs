//! Pages of runs.

use jiff::Timestamp;
use model::{
    execution::{Execution, Status},
    name::JobId,
};
use sea_query::{
    BinOper, CommonTableExpression, Condition, Expr, ExprTrait, Func, IntoTableRef, NullOrdering, Order,
    OrderedStatement, Query, SelectStatement, UnionType, WindowStatement,
};

use super::{
    packed::{OfJob, PackedRow, members},
    row::{COLUMNS, Detail, ExecutionRow, REVISION, executions},
};
use crate::{
    codec::micros,
    db::{Tx, metered_rows, on},
    dialect::Dialect,
    error::Result,
    sql::{Statement, any_of, bind_all, column, rows},
};

/// The sort order of a list of runs; equal values are sorted by id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExecutionSort {
    /// By the start (the acceptance, as long as it has not started).
    #[default]
    StartTime,
    /// By the end.
    EndTime,
    /// By status.
    Status,
    /// By the kind of start.
    Type,
    /// By the job's name.
    JobName,
    /// By id.
    Id,
    /// By the user who started it.
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
    /// By the user who deployed it.
    DeployedBy,
}

/// When a run started; when it was accepted, as long as it has not.
const START: &str = "e.start_at";

/// Where the revisions are that a list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Revised {
    /// In their table: they are looked up for each execution, which is right where these are few.
    Stored,
    /// In `keys` as `k`, where each revision was read once.
    Read,
}

impl ExecutionSort {
    /// The member of a revision that is sorted by.
    fn member(self) -> Option<&'static str> {
        match self {
            Self::JobVersion => Some("job_version"),
            Self::VdkVersion => Some("vdk_version"),
            Self::Schedule => Some("schedule_cron"),
            Self::DeployedBy => Some("deployed_by"),
            _ => None,
        }
    }

    /// The sort key, and whether it may be absent.
    fn key(self, dialect: Dialect, revised: Revised) -> (Expr, bool) {
        if let Some(member) = self.member() {
            let (own, collation) = match dialect {
                Dialect::Postgres => ("cast(e.revision as json)", " collate \"C\""),
                Dialect::Sqlite => ("e.revision", ""),
            };
            let stored = match (revised, dialect) {
                (Revised::Read, _) => "k.member".to_owned(),
                (Revised::Stored, Dialect::Postgres) => in_revision(&format!("cast(v.content as json) ->> '{member}'")),
                (Revised::Stored, Dialect::Sqlite) => in_revision(&format!("v.content ->> '{member}'")),
            };
            return (Expr::cust(format!("coalesce({own} ->> '{member}', {stored}){collation}")), true);
        }
        match self {
            Self::JobVersion | Self::VdkVersion | Self::Schedule | Self::DeployedBy => unreachable!("a member"),
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
            Self::DeployedAt => (Expr::cust(in_revision("v.created_at")), true),
        }
    }

    /// The sort column of runs as `e` with their jobs as `j`, and whether it may be null: equal values are sorted by id.
    fn keys(self, dialect: Dialect, revised: Revised) -> Vec<(Expr, bool)> {
        let mut keys = vec![self.key(dialect, revised)];
        // As the index has it.
        if self == Self::Status {
            keys.push((Expr::cust(START), false));
        }
        if self != Self::Id {
            keys.push((column("e.execution_id"), false));
        }
        keys
    }
}

/// A value of the revision that an execution as `e` of a job as `j` refers to.
fn in_revision(value: &str) -> String {
    format!("(select {value} from deployment_revision v where v.job_id = j.job_id and v.generation = e.generation)")
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
    /// The columns of an execution that a query needs.
    pub detail: Detail,
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

    /// Whether the newest executions of a job that the database keeps packed are all that it finds.
    fn is_of_newest(&self) -> bool {
        let of_same_jobs = Self {
            limit: self.limit,
            jobs: self.jobs.clone(),
            job_names: self.job_names.clone(),
            teams: self.teams.clone(),
            ..newest()
        };
        self.limit <= NEWEST && *self == of_same_jobs
    }

    /// Whether all executions are sorted by status.
    fn is_by_status(&self) -> bool {
        self.sort == ExecutionSort::Status && self.statuses.is_empty() && !self.names_jobs()
    }

    /// The conditions on runs; an index of statuses may be used if `by_status`.
    fn of_runs(&self, dialect: Dialect, by_status: bool) -> Condition {
        let statuses = self.statuses.iter().map(|status| status.as_str().to_owned()).collect();
        // The stock client in a run skips itself when it sees any other active id: only the one that holds the slot counts.
        let active = self.is_of_active().then(|| Expr::cust("e.holds_slot and e.status in ('SUBMITTED', 'RUNNING')"));
        // The index of statuses has all but this one.
        let indexed = !self.statuses.is_empty() && !self.statuses.contains(&Status::Succeeded);
        Condition::all()
            .add_option(any_of(dialect.column(by_status, "e.status"), statuses))
            .add_option((by_status && indexed).then(|| Expr::cust("e.status <> 'SUCCEEDED'")))
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

    /// How many runs it finds, deleted jobs included, by the counts of whole hours. `None` where these do not help.
    fn by_hours(&self, dialect: Dialect) -> Option<Expr> {
        const HOUR: i64 = 3_600_000_000;
        let is_of_starts =
            !self.names_jobs() && self.statuses.is_empty() && self.ended_from.is_none() && self.ended_until.is_none();
        if !is_of_starts {
            return None;
        }
        let from = self.started_from.map(micros);
        let after = self.started_until.map(|until| micros(until) + 1);
        // The first whole hour, and the one after the last.
        let first = from.map(|from| from.div_euclid(HOUR) + i64::from(from.rem_euclid(HOUR) != 0));
        let end = after.map(|after| after.div_euclid(HOUR));
        if let (Some(first), Some(end)) = (first, end)
            && first >= end
        {
            return None;
        }
        let number = |select: &mut SelectStatement| Expr::SubQuery(None, Box::new(select.take().into()));
        let starts = |start: Expr, least: Option<i64>, after: Option<i64>| {
            Condition::all()
                .add_option(least.map(|least| start.clone().gte(least)))
                .add_option(after.map(|after| start.lt(after)))
        };
        let runs = || {
            let mut runs = Query::select();
            runs.expr(Func::count(Expr::cust("*"))).from_as("data_job_execution", "e");
            runs
        };
        let mut all = number(
            Query::select()
                .expr(Expr::cust("cast(coalesce(sum(c.executions), 0) as bigint)"))
                .from_as("execution_count", "c")
                .and_where_option(first.map(|first| column("c.hour").gte(first)))
                .and_where_option(end.map(|end| column("c.hour").lt(end))),
        );
        // By the index of active ones: along the starts, SQLite would read all that began in these hours.
        let active = starts(dialect.without_index(START), first.map(|hour| hour * HOUR), end.map(|hour| hour * HOUR));
        all = all.add(number(runs().and_where(Expr::cust("e.status in ('SUBMITTED', 'RUNNING')")).cond_where(active)));
        // The parts of hours at the beginning and at the end.
        if let (Some(from), Some(first)) = (from, first) {
            all = all.add(number(runs().cond_where(starts(column(START), Some(from), Some(first * HOUR)))));
        }
        if let (Some(after), Some(end)) = (after, end) {
            all = all.add(number(runs().cond_where(starts(column(START), Some(end * HOUR), Some(after)))));
        }
        Some(all)
    }

    /// Selects the columns of each run.
    fn select(&self) -> SelectStatement {
        let mut select = Query::select();
        for name in COLUMNS.split(',').map(str::trim) {
            if name == "e.arguments" && self.detail < Detail::Whole {
                select.expr_as(Expr::cust(NO_TEXT), "arguments");
            } else {
                select.expr(column(name));
            }
        }
        let revision = if self.detail < Detail::Revision { NO_TEXT } else { REVISION };
        select.expr_as(Expr::cust(revision), "revision");
        select
    }

    /// Sorts runs, null values last.
    fn order(&self, select: &mut SelectStatement, keys: Vec<(Expr, bool)>) {
        for (key, is_optional) in keys {
            self.order_by(select, key, is_optional);
        }
    }

    fn order_by(&self, ordered: &mut impl OrderedStatement, key: Expr, is_optional: bool) {
        let order = if self.descending { Order::Desc } else { Order::Asc };
        if is_optional {
            ordered.order_by_expr_with_nulls(key, order, NullOrdering::Last);
        } else {
            ordered.order_by_expr(key, order);
        }
    }

    /// Cuts the page out.
    fn window(&self, select: &mut SelectStatement) {
        select.limit(rows(self.limit)).offset(rows(self.offset));
    }
}

/// How many executions of each job the table `newest_executions` has.
pub(super) const NEWEST: i64 = 10;

/// The newest executions, as the table `newest_executions` has them of each job.
pub(super) fn newest() -> ExecutionQuery {
    ExecutionQuery { descending: true, detail: Detail::Status, ..ExecutionQuery::default() }
}

/// A text that is not wanted.
const NO_TEXT: &str = "cast(null as text)";

/// Jobs whose runs are found and sorted rather than met along an order.
const FEW_JOBS_MAX: i64 = 1000;

/// One page of the runs that a query finds.
pub async fn page(tx: &mut Tx, query: &ExecutionQuery) -> Result<Vec<Execution>> {
    if query.limit <= 0 {
        return Ok(Vec::new());
    }
    let dialect = tx.dialect();
    let jobs_first = dialect == Dialect::Postgres && query.names_teams_of_few_jobs(tx).await?;
    let is_turned =
        dialect == Dialect::Postgres && query.sort == ExecutionSort::EndTime && query.descending && !query.names_jobs();
    let parts: &[Part] = if is_turned {
        // Turned round, the index of ends has first what has to come last.
        &[Part::Ended, Part::All]
    } else if query.is_by_status() {
        &[Part::FirstStatuses, Part::All]
    } else {
        &[Part::All]
    };
    for part in parts {
        let Statement { sql, values } = Statement::of(dialect, &statement(query, dialect, jobs_first, *part));
        let rows = metered_rows!(tx, bind_all!(sqlx::query_as::<_, ExecutionRow>(sqlx::AssertSqlSafe(sql)), values))?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == query.limit);
        let has_all = *part == Part::Ended && query.ended_from.or(query.ended_until).is_some();
        if *part == Part::All || is_full || has_all {
            return executions(rows);
        }
    }
    Ok(Vec::new())
}

/// Which executions of a list are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    /// Those that are over.
    Ended,
    /// In an order of statuses, those with a status that comes before [`Status::Succeeded`]: they have an index.
    FirstStatuses,
}

/// The statement of a page.
///
/// With `jobs_first` PostgreSQL finds the jobs first. Otherwise it takes the runs in their order and checks the job of
/// each, which is long where the jobs are few among many.
fn statement(query: &ExecutionQuery, dialect: Dialect, jobs_first: bool, part: Part) -> SelectStatement {
    let by_job = query.names_jobs() || matches!(query.sort, ExecutionSort::JobName | ExecutionSort::Team);
    let member = query.sort.member().filter(|_| !query.names_jobs());
    let revised = if member.is_some() { Revised::Read } else { Revised::Stored };
    let keys = || {
        let mut keys = query.sort.keys(dialect, revised);
        if part == Part::Ended {
            keys[0].1 = false;
        }
        keys
    };
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
            .and_where(column("j.number").equals(("e", "job_number")))
            .cond_where(query.live_jobs())
            .cond_where(query.of_runs_on_page(dialect));
        if revised == Revised::Read {
            let same = Condition::all()
                .add(column("k.job_id").equals(("j", "job_id")))
                .add(column("k.generation").equals(("e", "generation")));
            select.left_join("keys".into_table_ref().alias("k"), same);
        }
        select.and_where_option(match part {
            Part::All => None,
            Part::Ended => Some(column("e.ended_at").is_not_null()),
            Part::FirstStatuses if query.descending => Some(Expr::cust(AFTER_SUCCEEDED)),
            Part::FirstStatuses => Some(Expr::cust(BEFORE_SUCCEEDED)),
        });
        query.order(&mut select, keys());
        query.window(&mut select);
        select
    };
    let is_by_status = query.is_by_status() && part == Part::All;
    let mut page = if is_by_status || query.is_of_several_jobs() {
        // All that are found are sorted: of those that don't come onto the page only what an index has is read.
        let ids = if is_by_status {
            of_each_status(query, dialect)
        } else {
            found(Query::select().column(("e", "execution_id")).to_owned())
        };
        let mut page = query.select();
        page.from_subquery(ids, "p")
            .cross_join("data_job_execution".into_table_ref().alias("e"))
            .cross_join("data_job".into_table_ref().alias("j"))
            .and_where(column("e.execution_id").equals(("p", "execution_id")))
            .and_where(column("j.number").equals(("e", "job_number")));
        query.order(&mut page, keys());
        if is_by_status {
            query.window(&mut page);
        }
        page
    } else {
        found(query.select())
    };
    if jobs_first {
        let jobs = Query::select()
            .columns(["number", "job_id", "name", "team", "deleted_at"].map(|name| ("j", name)))
            .from_as("data_job", "j")
            .cond_where(query.live_jobs())
            .to_owned();
        page.with_cte(CommonTableExpression::new().table_name("few").query(jobs).materialized(true).to_owned());
    }
    if let Some(member) = member {
        page.with_cte(
            CommonTableExpression::new()
                .table_name("keys")
                .query(revision_keys(member, dialect))
                .materialized(true)
                .to_owned(),
        );
    }
    page
}

/// The executions that a page by status may have: as many before [`Status::Succeeded`], of it and after it as there are up to
/// the end of the page. The former and the latter have an index, and those of that one status are met along their starts.
fn of_each_status(query: &ExecutionQuery, dialect: Dialect) -> SelectStatement {
    let part = |statuses: &'static str, sort: ExecutionSort| {
        let mut select = Query::select();
        select
            .column(("e", "execution_id"))
            .from_as("data_job_execution", "e")
            .cross_join("data_job".into_table_ref().alias("j"))
            .and_where(column("j.number").equals(("e", "job_number")))
            .cond_where(query.live_jobs())
            .cond_where(query.of_runs_on_page(dialect))
            .and_where(Expr::cust(statuses));
        query.order(&mut select, sort.keys(dialect, Revised::Stored));
        select.limit(rows(query.limit) + rows(query.offset));
        Query::select().column("execution_id").from_subquery(select, "part").to_owned()
    };
    part(BEFORE_SUCCEEDED, ExecutionSort::Status)
        .union(UnionType::All, part("e.status = 'SUCCEEDED'", ExecutionSort::StartTime))
        .union(UnionType::All, part(AFTER_SUCCEEDED, ExecutionSort::Status))
        .to_owned()
}

/// The statuses on both sides of [`Status::Succeeded`], which their index leaves out.
const BEFORE_SUCCEEDED: &str = "e.status < 'SUCCEEDED' and e.status <> 'SUCCEEDED'";
const AFTER_SUCCEEDED: &str = "e.status > 'SUCCEEDED' and e.status <> 'SUCCEEDED'";

/// A member of every revision. There are many executions of each, and its JSON is read once.
fn revision_keys(member: &str, dialect: Dialect) -> SelectStatement {
    let content = match dialect {
        Dialect::Postgres => "cast(v.content as json)",
        Dialect::Sqlite => "v.content",
    };
    Query::select()
        .columns(["job_id", "generation"].map(|name| ("v", name)))
        .expr_as(Expr::cust(format!("{content} ->> '{member}'")), "member")
        .from_as("deployment_revision", "v")
        .to_owned()
}

/// One page of runs for each of a page of jobs, in one statement that reads no job's whole history. The runs of a job
/// are together, in the requested order.
pub async fn page_by_job(tx: &mut Tx, query: &ExecutionQuery) -> Result<Vec<Execution>> {
    if query.limit <= 0 {
        return Ok(Vec::new());
    }
    let mut executions = Vec::new();
    for row in packed_rows(tx, query).await? {
        executions.extend(row.unpack(query.detail, query.limit)?.executions);
    }
    Ok(executions)
}

/// One page of the executions of a live job. `None` when there is no such job.
pub async fn page_of_job(tx: &mut Tx, query: &ExecutionQuery) -> Result<Option<OfJob>> {
    let row = packed_rows(tx, query).await?.pop();
    row.map(|row| row.unpack(query.detail, query.limit)).transpose()
}

async fn packed_rows(tx: &mut Tx, query: &ExecutionQuery) -> Result<Vec<PackedRow>> {
    let jobs = Query::select()
        .columns(["job_id", "name", "team"].map(|name| ("j", name)))
        .expr_as(packed(query, tx.dialect()), "runs")
        .from_as("data_job", "j")
        .cond_where(query.live_jobs())
        .to_owned();
    let Statement { sql, values } = Statement::of(tx.dialect(), &jobs);
    Ok(metered_rows!(tx, bind_all!(sqlx::query_as::<_, PackedRow>(sqlx::AssertSqlSafe(sql)), values))?)
}

/// The executions of a job as `j` that a query finds, packed into one text, perhaps with more after them. The query's conditions on
/// jobs do not matter.
pub(crate) fn packed(query: &ExecutionQuery, dialect: Dialect) -> Expr {
    if query.is_of_newest() {
        let kept = Query::select()
            .column(("n", "packed"))
            .from_as("newest_executions", "n")
            .and_where(column("n.job_number").equals(("j", "number")))
            .to_owned();
        let found = found_and_packed(query, dialect);
        return Func::coalesce([Expr::SubQuery(None, Box::new(kept.into())), found]).into();
    }
    found_and_packed(query, dialect)
}

/// The same, looked up among all executions.
pub(super) fn found_and_packed(query: &ExecutionQuery, dialect: Dialect) -> Expr {
    // Runs of one job share its name and team.
    let sort = match query.sort {
        ExecutionSort::JobName | ExecutionSort::Team => ExecutionSort::Id,
        sort => sort,
    };
    let keys = sort.keys(dialect, Revised::Stored);
    // Sort keys have names on SQLite: an order can't look into other tables from within a subquery there.
    let names: Vec<_> = match dialect {
        Dialect::Postgres => keys.clone(),
        Dialect::Sqlite => keys
            .iter()
            .enumerate()
            .map(|(place, (_, is_optional))| (Expr::cust(format!("key_{place}")), *is_optional))
            .collect(),
    };
    let members = members(query.detail);
    let has_revisions = query.detail >= Detail::Revision;
    let mut runs = Query::select();
    if has_revisions {
        runs.expr(Expr::cust("e.*"));
    } else {
        runs.expr_as(Expr::cust(members.clone()), "run");
    }
    if dialect == Dialect::Sqlite {
        for (place, (key, _)) in keys.into_iter().enumerate() {
            runs.expr_as(key, format!("key_{place}"));
        }
    }
    runs.from_as("data_job_execution", "e")
        .and_where(column("e.job_number").equals(("j", "number")))
        .cond_where(query.of_runs_on_page(dialect));
    query.order(&mut runs, names.clone());
    query.window(&mut runs);
    if has_revisions {
        let mut order = WindowStatement::new();
        for (key, is_optional) in names.clone() {
            query.order_by(&mut order, key, is_optional);
        }
        let generation = Expr::cust("lag(case when e.revision is null then e.generation end)");
        let beside = Query::select()
            .expr(Expr::cust("e.*"))
            .expr_window_as(generation, order, "generation_before")
            .from_subquery(runs, "e")
            .to_owned();
        runs = Query::select();
        runs.expr_as(Expr::cust(members), "run").from_subquery(beside, "e");
        if dialect == Dialect::Sqlite {
            for place in 0..names.len() {
                runs.expr_as(Expr::cust(format!("e.key_{place}")), format!("key_{place}"));
            }
        }
    }
    match dialect {
        // The array of a subquery is in its order.
        Dialect::Postgres => {
            Expr::cust_with_expr("array_to_string(array $1, '')", Expr::SubQuery(None, Box::new(runs.into())))
        }
        Dialect::Sqlite => {
            let mut order = Vec::new();
            for (place, (_, is_optional)) in names.into_iter().enumerate() {
                if is_optional {
                    // Absent values come last. An aggregate takes no `nulls last`.
                    order.push(format!("p.key_{place} is null"));
                }
                order.push(format!("p.key_{place}{}", if query.descending { " desc" } else { "" }));
            }
            let aggregate = format!("string_agg(p.run, '' order by {})", order.join(", "));
            let list = Query::select().expr(Expr::cust(aggregate)).from_subquery(runs, "p").to_owned();
            Expr::SubQuery(None, Box::new(list.into()))
        }
    }
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
            .and_where(column("j.number").equals(("e", "job_number")))
            .and_where(deleted)
            .cond_where(query.of_jobs())
            .cond_where(query.of_runs(dialect, true))
            .to_owned()
    };
    if query.names_jobs() {
        return of_jobs(column("j.deleted_at").is_null());
    }
    let of_deleted = of_jobs(column("j.deleted_at").is_not_null());
    let count = |select: SelectStatement| Expr::SubQuery(None, Box::new(select.into()));
    if let Some(all) = query.by_hours(dialect) {
        return Query::select().expr(all.binary(BinOper::Sub, count(of_deleted))).to_owned();
    }
    // Without reading each run's job: all of them but those of the few that are deleted.
    let all = Query::select()
        .expr(Func::count(Expr::cust("*")))
        .from_as("data_job_execution", "e")
        .cond_where(query.of_runs(dialect, true))
        .to_owned();
    Query::select().expr(count(all).binary(BinOper::Sub, count(of_deleted))).to_owned()
}

async fn number(tx: &mut Tx, Statement { sql, values }: Statement) -> Result<i64> {
    let (count,): (i64,) =
        on!(tx, c => bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), values).fetch_one(c).await)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_total_since_a_time_reads_no_whole_hour_on_sqlite() {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::Db::open_sqlite(&folder.path().join("test.db"), std::sync::Arc::new(clock::SystemClock))
            .await
            .unwrap();
        let Tx::Sqlite(mut tx) = db.read().await.unwrap() else { unreachable!("on SQLite") };
        let at = |second| Timestamp::from_second(second).ok();
        let query = ExecutionQuery {
            started_from: at(1_700_000_000),
            started_until: at(1_700_009_999),
            ..ExecutionQuery::default()
        };
        let Statement { sql, values } = Statement::of(Dialect::Sqlite, &count_of(&query, Dialect::Sqlite));
        let sql = format!("explain query plan {sql}");
        let rows: Vec<(i64, i64, i64, String)> =
            bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), values).fetch_all(&mut *tx).await.unwrap();
        let executions: Vec<_> = rows.iter().map(|row| row.3.as_str()).filter(|step| step.contains(" e ")).collect();
        let [active, first, last, of_deleted] = executions[..] else { panic!("{rows:?}") };
        assert!(active.contains("data_job_execution_active"), "{active}");
        for part in [first, last] {
            assert!(part.contains("data_job_execution_starts (start_at>? AND start_at<?)"), "{part}");
        }
        assert!(of_deleted.contains("data_job_execution_job_starts"), "{of_deleted}");
    }
}
