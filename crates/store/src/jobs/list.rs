//! Pages of live jobs.

use jiff::Timestamp;
use model::{
    execution::{Execution, Status as ExecutionStatus},
    glob::Glob,
    job::DataJob,
    rollout::Status as DeploymentStatus,
};
use sea_query::{
    CommonTableExpression, Condition, Expr, ExprTrait, Func, IntoTableRef, NullOrdering, Order, Query, SelectStatement,
    UnionType, WithClause,
};

use super::{
    query::{DeploymentFilter, JobQuery, JobSort, Measure, Search, SearchField},
    row::JobRow,
    strategy::{self, Counts, Decision, FOUND_MAX, Strategy},
};
use crate::{
    codec::instant_opt,
    db::{Tx, metered_rows, on},
    deployments::{self, Deployed, DeploymentDetail},
    dialect::Dialect,
    error::{Result, corrupt},
    executions::{self, ExecutionQuery, unpacked_bytes},
    like::{LikePattern, containing},
    meter::{RowBytes, bytes_of_json},
    sql::{Statement, Writer, any_of, bind_all, column, like, rows},
};

/// The columns of a list beside those of the job itself.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSummary {
    /// The job.
    pub job: DataJob,
    /// The last outcome of its rollout.
    pub deployment_status: DeploymentStatus,
    /// Whether its deployment is enabled; absent without one.
    pub deployment_enabled: Option<bool>,
    /// The next tick of its schedule.
    pub next_run: Option<Timestamp>,
    /// The status of the latest execution.
    pub last_execution_status: Option<ExecutionStatus>,
    /// When the latest execution started.
    pub last_execution_start: Option<Timestamp>,
    /// When the latest execution ended.
    pub last_execution_end: Option<Timestamp>,
    /// How long the latest execution took, in seconds.
    pub last_execution_duration_seconds: Option<i64>,
    /// Executions that succeeded.
    pub successful_executions: i64,
    /// Executions that failed, by whosever fault.
    pub failed_executions: i64,
    /// The reached deployment, if it was asked for.
    pub deployed: Option<Deployed>,
    /// A page of its executions, if it was asked for.
    pub executions: Vec<Execution>,
}

/// The columns of a page of jobs beside the jobs.
#[derive(Debug, Clone, Copy, Default)]
pub struct With<'a> {
    /// The reached deployments, with so much of each.
    pub deployments: Option<DeploymentDetail>,
    /// A page of the executions of each job. The query's conditions on jobs do not matter.
    pub executions: Option<&'a ExecutionQuery>,
    /// The number of jobs on all pages, which is known without counting.
    pub total: bool,
}

/// A page of jobs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<JobSummary>,
    /// How many there are on all pages; absent if it was not asked for, and on an empty page.
    pub total: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct SummaryRow {
    #[sqlx(flatten)]
    job: JobRow,
    deployment_status: String,
    deployment_enabled: Option<bool>,
    next_tick: Option<i64>,
    last_execution_status: Option<String>,
    last_execution_start: Option<i64>,
    last_execution_end: Option<i64>,
    last_execution_duration_seconds: Option<i64>,
    successful_executions: i64,
    failed_executions: i64,
    deployed: Option<String>,
    runs: Option<String>,
    total: Option<i64>,
}

impl RowBytes for SummaryRow {
    fn text_bytes(&self) -> usize {
        self.job.text_bytes() + self.deployed.as_deref().map_or(0, bytes_of_json) + unpacked_bytes(self.runs.as_deref())
    }
}

impl SummaryRow {
    fn summary(self, with: &With<'_>) -> Result<JobSummary> {
        let row = self;
        let job = DataJob::try_from(row.job)?;
        let (detail, limit) = with.executions.map_or_else(Default::default, |query| (query.detail, query.limit));
        let executions = executions::unpack(row.runs.as_deref(), (job.id, &job.name, &job.team), detail, limit)?;
        Ok(JobSummary {
            executions,
            deployed: row.deployed.as_deref().map(Deployed::unpack).transpose()?,
            job,
            deployment_status: DeploymentStatus::parse(&row.deployment_status)
                .ok_or_else(|| corrupt("a deployment status"))?,
            deployment_enabled: row.deployment_enabled,
            next_run: instant_opt(row.next_tick)?,
            last_execution_status: row
                .last_execution_status
                .map(|s| ExecutionStatus::parse(&s).ok_or_else(|| corrupt("an execution status")))
                .transpose()?,
            last_execution_start: instant_opt(row.last_execution_start)?,
            last_execution_end: instant_opt(row.last_execution_end)?,
            last_execution_duration_seconds: row.last_execution_duration_seconds,
            successful_executions: row.successful_executions,
            failed_executions: row.failed_executions,
        })
    }
}

/// The most characters that are looked up in the index of trigrams: SQLite can't be interrupted while it compares the
/// places of each of them. The rest of a longer text is compared with the rows that were found.
const TRIGRAMS_MAX_CHARS: usize = 24;

impl JobSort {
    /// The sort key, without an index if not `indexed`, and whether it may be absent.
    fn key(self, dialect: Dialect, indexed: bool) -> (Expr, bool) {
        let (name, optional) = match self {
            Self::Name => ("j.name", false),
            Self::Team => ("j.team", false),
            Self::Description => {
                let hint = if indexed || dialect == Dialect::Postgres { "" } else { "+" };
                return (Expr::cust(format!("{hint}substr(j.description, 1, 100)")), false);
            }
            Self::NextRun => ("s.next_tick", true),
            Self::Contacts => ("j.contacts_present", false),
            Self::DeploymentStatus => ("j.deployment_status", false),
            Self::DeploymentEnabled => ("j.deployment_enabled", true),
            Self::Python => ("j.deployment_python", true),
            Self::LastExecutionStatus => ("j.last_execution_status", true),
            Self::LastExecutionTime => ("j.last_execution_end", true),
            Self::LastExecutionDuration => ("j.last_execution_duration_seconds", true),
            Self::SuccessfulExecutions => ("j.successful_executions", false),
            Self::FailedExecutions => ("j.failed_executions", false),
        };
        (dialect.column(indexed, name), optional)
    }
}

/// How the words of a job are looked for.
struct Words {
    /// A condition that the index `data_job_words` serves, where it helps.
    found: Option<Expr>,
    /// A condition on `data_job_text` as `t`, where the index does not say all.
    compared: Option<Expr>,
}

impl Words {
    /// The rows that hold them, of `data_job_text` as `t` among others if `with_text`.
    fn rows(self, with_text: bool) -> SelectStatement {
        let mut rows = Query::select();
        match self {
            Self { found: Some(found), compared: None } if !with_text => rows.from("data_job_words").and_where(found),
            Self { found: Some(found), compared } => rows
                .from("data_job_words")
                .cross_join("data_job_text".into_table_ref().alias("t"))
                .and_where(Expr::cust("t.text_id = data_job_words.rowid"))
                .and_where(found)
                .and_where_option(compared),
            Self { found: None, compared } => rows.from_as("data_job_text", "t").and_where_option(compared),
        };
        rows
    }
}

/// The Python versions that jobs are deployed with, as `p`: a few steps along their index, however many jobs there are.
fn python_versions() -> SelectStatement {
    let first = Query::select()
        .expr(column("f.deployment_python").min())
        .from_as("data_job", "f")
        .and_where(column("f.deleted_at").is_null())
        .to_owned();
    let next = Query::select()
        .expr(column("n.deployment_python").min())
        .from_as("data_job", "n")
        .and_where(column("n.deleted_at").is_null())
        .and_where(column("n.deployment_python").gt(column("v.p")))
        .to_owned();
    let rest = Query::select()
        .expr(Expr::SubQuery(None, Box::new(next.into())))
        .from("v")
        .and_where(column("v.p").is_not_null())
        .to_owned();
    let mut versions = CommonTableExpression::new();
    versions.table_name("v").column("p").query(first.clone().union(UnionType::All, rest).to_owned());
    Query::select()
        .column("p")
        .from("v")
        .with_cte(WithClause::new().recursive(true).cte(versions).to_owned())
        .to_owned()
}

/// The conditions of a query, in the form that its strategy is best served with.
struct Filter {
    dialect: Dialect,
    strategy: Strategy,
}

impl Filter {
    /// A column of a condition: its index is used unless the order is scanned.
    fn column(&self, name: &'static str) -> Expr {
        self.dialect.column(self.strategy != Strategy::ScanOrder, name)
    }

    /// The words of jobs that have this text in one of the columns.
    fn words(&self, columns: &[&'static str], text: &str) -> Words {
        let text = text.to_lowercase();
        let by_trigrams =
            self.dialect == Dialect::Sqlite && self.strategy != Strategy::ScanOrder && strategy::has_trigrams(&text);
        let found = by_trigrams.then(|| {
            let start: String = text.chars().take(TRIGRAMS_MAX_CHARS).collect();
            let phrase = format!("{{{}}} : \"{}\"", columns.join(" "), start.replace('"', "\"\""));
            Expr::cust("data_job_words").binary(sea_query::BinOper::Custom("match"), phrase)
        });
        let compared = (!by_trigrams || text.chars().count() > TRIGRAMS_MAX_CHARS).then(|| {
            let contains = |name: &&'static str| Expr::col(("t", *name)).like(like(containing(&text)));
            columns.iter().map(contains).reduce(Expr::or).unwrap_or_else(nowhere)
        });
        Words { found, compared }
    }

    /// That one of the columns contains a text.
    fn contains(&self, columns: &[&'static str], text: &str) -> Expr {
        let Words { found, compared } = self.words(columns, text);
        let mut texts = Query::select();
        texts.from_as("data_job_text", "t");
        if self.strategy == Strategy::ScanOrder {
            texts.expr(Expr::cust("1")).and_where(column("t.job_id").equals(("j", "job_id")));
            return Expr::exists(texts.and_where_option(compared).to_owned());
        }
        if let Some(found) = found {
            let words = Query::select().expr(Expr::cust("rowid")).from("data_job_words").and_where(found).to_owned();
            texts.and_where(column("t.text_id").in_subquery(words));
        }
        texts.column(("t", "job_id")).and_where_option(compared);
        column("j.job_id").in_subquery(texts)
    }

    fn pattern(&self, name: &'static str, pattern: &Glob) -> Condition {
        let all = Condition::all();
        match LikePattern::of(&pattern.to_lowercase()) {
            LikePattern::Equal(text) => all.add(self.column(name).eq(text)),
            LikePattern::Prefix { prefix, rest } => {
                let after = format!("{prefix}\u{10FFFF}");
                let has_prefix = !prefix.is_empty();
                all.add_option(has_prefix.then(|| self.column(name).gte(prefix)))
                    .add_option(has_prefix.then(|| self.column(name).lt(after)))
                    .add_option(rest.map(|rest| self.column(name).like(like(rest))))
            }
        }
    }

    fn range(&self, measure: Measure, least: i64, most: i64) -> Condition {
        const SECOND: i64 = 1_000_000;
        let in_micros = matches!(measure, Measure::NextRun | Measure::LastExecutionTime);
        let (least, most) = if in_micros {
            (least.saturating_mul(SECOND), most.saturating_mul(SECOND).saturating_add(SECOND - 1))
        } else {
            (least, most)
        };
        let within = |column: Expr| Condition::all().add(column.clone().gte(least)).add(column.lte(most));
        match measure {
            Measure::NextRun => {
                let schedules = Query::select()
                    .column(("n", "schedule_id"))
                    .from_as("schedule", "n")
                    .cond_where(within(column("n.next_tick")))
                    .to_owned();
                Condition::all().add(self.column("j.schedule_id").in_subquery(schedules))
            }
            Measure::LastExecutionTime => within(self.column("j.last_execution_end")),
            Measure::LastExecutionDuration => within(self.column("j.last_execution_duration_seconds")),
            Measure::SuccessfulExecutions => within(self.column("j.successful_executions")),
            Measure::FailedExecutions => within(self.column("j.failed_executions")),
        }
    }

    fn search(&self, search: &Search) -> Condition {
        let mut either = Condition::any();
        let columns = search.columns();
        if !columns.is_empty() {
            either = either.add(self.contains(&columns, &search.text));
        }
        let text = search.text.to_lowercase();
        if search.looks_for_a_number() {
            let digits = Expr::cust("cast(coalesce(n.next_tick / 1000000, -1) as text)");
            let schedules = Query::select()
                .column(("n", "schedule_id"))
                .from_as("schedule", "n")
                .and_where(digits.like(like(containing(&text))))
                .to_owned();
            either = either.add(column("j.schedule_id").in_subquery(schedules));
            if "-1".contains(&text) {
                either = either.add(column("j.schedule_id").is_null());
            }
        }
        if search.fields.contains(&SearchField::DeploymentEnabled) {
            let enabled = match text.as_str() {
                "enabled" => Some(DeploymentFilter::Enabled),
                "disabled" => Some(DeploymentFilter::Disabled),
                "not_deployed" => Some(DeploymentFilter::NotDeployed),
                _ => None,
            };
            either = either.add_option(enabled.map(|filter| filter.of(column("j.deployment_enabled"))));
        }
        if let Some(status) = search.status() {
            either = either.add(column("j.last_execution_status").eq(status.as_str()));
        }
        // A text that none of the fields can hold matches nothing.
        if either.is_empty() { either.add(nowhere()) } else { either }
    }
}

impl DeploymentFilter {
    fn of(self, enabled: Expr) -> Expr {
        match self {
            Self::Enabled => enabled.eq(Expr::Constant(true.into())),
            Self::Disabled => enabled.eq(Expr::Constant(false.into())),
            Self::NotDeployed => enabled.is_null(),
        }
    }
}

/// A condition that no row fulfils.
fn nowhere() -> Expr {
    Expr::cust("1 = 0")
}

impl JobQuery {
    /// The conditions on jobs as `j`; `pythons` are the Python versions that it is about, where they are known.
    fn conditions(&self, dialect: Dialect, strategy: Strategy, pythons: Option<&[String]>) -> Condition {
        let filter = Filter { dialect, strategy };
        let mut all = Condition::all().add(column("j.deleted_at").is_null());
        for name in &self.names {
            all = all.add(filter.pattern("j.name", name));
        }
        for team in &self.teams {
            all = all.add(filter.pattern("j.team_lower", team));
        }
        let lower = self.readable_teams.iter().map(|team| team.to_lowercase()).collect();
        all = all
            .add_option(any_of(filter.column("j.team_lower"), lower))
            .add_option(any_of(filter.column("j.team"), self.readable_teams.clone()));
        for text in &self.descriptions {
            all = all.add(filter.contains(&["description"], text));
        }
        for (measure, least, most) in &self.ranges {
            all = all.add(filter.range(*measure, *least, *most));
        }
        if let Some(search) = &self.search {
            all = all.add(filter.search(search));
        }
        let indexes = strategy::state_indexes(self, strategy, pythons.map(<[String]>::len));
        match pythons {
            None => {
                for text in &self.pythons {
                    let contains = column("p").like(like(containing(&text.to_lowercase())));
                    let versions = python_versions().and_where(contains).to_owned();
                    all = all.add(column("j.deployment_python").in_subquery(versions));
                }
            }
            Some([]) => all = all.add(nowhere()),
            Some([version]) => {
                all = all.add(dialect.column(indexes.python, "j.deployment_python").eq(version.as_str()));
            }
            Some(versions) => {
                all = all.add(dialect.column(indexes.python, "j.deployment_python").is_in(versions.to_vec()));
            }
        }
        if let Some(status) = self.last_execution_status {
            let column = dialect.column(indexes.last_execution, "j.last_execution_status");
            all = all.add(column.eq(status.as_str()));
        }
        if let Some(status) = self.deployment_status {
            all = all.add(dialect.column(indexes.rollout, "j.deployment_status").eq(status.as_str()));
        }
        if let Some(deployment) = self.deployment {
            all = all.add(deployment.of(dialect.column(indexes.enabled, "j.deployment_enabled")));
        }
        all
    }

    fn order(&self) -> Order {
        if self.descending { Order::Desc } else { Order::Asc }
    }

    /// Ascending means that enabled deployments come first.
    fn order_of_key(&self) -> Order {
        match self.sort {
            JobSort::DeploymentEnabled if self.descending => Order::Asc,
            JobSort::DeploymentEnabled => Order::Desc,
            _ => self.order(),
        }
    }

    /// Whether null values come last in an order whose index has them first: PostgreSQL sorts then.
    fn is_turned(&self, dialect: Dialect) -> bool {
        let (_, is_optional) = self.sort.key(dialect, true);
        let is_desc = matches!(self.order_of_key(), Order::Desc);
        let has_own_way = matches!(self.sort, JobSort::NextRun | JobSort::Python);
        dialect == Dialect::Postgres && is_optional && is_desc && !has_own_way
    }

    /// Sorts jobs as `j` with their schedules as `s`; SQLite uses an index of the order only if `indexed`.
    fn sort(&self, select: &mut SelectStatement, dialect: Dialect, indexed: bool, part: Part) {
        let (key, optional) = self.sort.key(dialect, indexed);
        let order = self.order_of_key();
        if self.sort == JobSort::Python {
            // By number: 3.9 is shorter than 3.10.
            let length = Expr::cust("length(j.deployment_python)");
            select.order_by_expr_with_nulls(length, order.clone(), NullOrdering::Last);
        }
        if optional && part == Part::All {
            select.order_by_expr_with_nulls(key, order.clone(), NullOrdering::Last);
        } else {
            select.order_by_expr(key, order.clone());
        }
        if self.sort == JobSort::NextRun {
            select.order_by(("j", "schedule_id"), order.clone());
        }
        // A second time would keep SQLite from an index that continues with another column.
        if self.sort != JobSort::Name {
            select.order_by_expr(dialect.column(indexed, "j.name"), order);
        }
    }

    /// Cuts the page out.
    fn window<'s>(&self, select: &'s mut SelectStatement) -> &'s mut SelectStatement {
        select.limit(rows(self.limit)).offset(rows(self.offset))
    }
}

const COLUMNS: [&str; 20] = [
    "number",
    "job_id",
    "name",
    "team",
    "description",
    "db_default_type",
    "contacts",
    "schedule_cron",
    "generate_keytab",
    "enable_execution_notifications",
    "notification_delay_period_minutes",
    "deployment_status",
    "deployment_enabled",
    "last_execution_status",
    "last_execution_start",
    "last_execution_end",
    "last_execution_duration_seconds",
    "successful_executions",
    "failed_executions",
    "schedule_id",
];

/// A `select` of the columns of a list, with jobs as `j` and their schedules as `s`.
fn select_summaries() -> SelectStatement {
    Query::select().columns(COLUMNS.map(|name| ("j", name))).column(("s", "next_tick")).to_owned()
}

/// The schedules of jobs beside them.
fn join_schedules(select: &mut SelectStatement) -> &mut SelectStatement {
    let schedules = "schedule".into_table_ref().alias("s");
    select.left_join(schedules, column("s.schedule_id").equals(("j", "schedule_id")))
}

/// One page of the jobs that a query finds.
pub async fn page(tx: &mut Tx, query: &JobQuery) -> Result<Vec<JobSummary>> {
    Ok(page_of(tx, query, None, &With::default()).await?.jobs)
}

/// Whether a page is read by a single statement: nothing has to be counted to decide how, and the total is known. A page whose
/// order is turned round may take a second statement, which reads all of it again.
pub fn is_one_statement(query: &JobQuery, with_total: bool) -> bool {
    // No dialect has more to count.
    let decision = strategy::decide(query, Dialect::Postgres, Counts::default());
    let needs_pythons = !query.pythons.is_empty() || query.sort == JobSort::Python;
    matches!(decision, Decision::Take(_)) && !needs_pythons && (!with_total || query.is_open(false))
}

/// One page of the jobs that a query finds, with what belongs to them, in the statement that finds them. `found` is how many it
/// finds in all, where that is known.
pub async fn page_of(tx: &mut Tx, query: &JobQuery, found: Option<i64>, with: &With<'_>) -> Result<Page> {
    if query.limit <= 0 || found.is_some_and(|found| found <= query.offset) {
        return Ok(Page::default());
    }
    let dialect = tx.dialect();
    let mut counts = Counts { total: found, ..Counts::default() };
    let strategy = loop {
        match strategy::decide(query, dialect, counts) {
            Decision::Take(strategy) => break strategy,
            Decision::Probe => counts.probed = Some(probe(tx, query).await?),
            Decision::CountAll => counts.all = Some(count_all(tx).await?),
        }
    };
    let is_of_words = strategy == Strategy::WordsByName;
    let filtered = if query.pythons.is_empty() || is_of_words { None } else { Some(pythons(tx, query).await?) };
    let along = match &filtered {
        _ if query.sort != JobSort::Python || strategy != Strategy::ScanOrder => None,
        Some(filtered) => Some(filtered.clone()),
        None => Some(pythons(tx, query).await?),
    };
    let pythons = Pythons { filtered, along };
    let is_turned = strategy == Strategy::ScanOrder && query.is_turned(dialect);
    let parts: &[Part] = if is_turned { &[Part::Present, Part::All] } else { &[Part::All] };
    for part in parts {
        let mut writer = Writer::new(dialect);
        with.write(&mut writer, |writer| write(writer, query, strategy, &pythons, *part));
        let Statement { sql, values } = writer.finish().storable()?;
        let rows = metered_rows!(tx, bind_all!(sqlx::query_as::<_, SummaryRow>(sqlx::AssertSqlSafe(sql)), values))?;
        if *part == Part::All || i64::try_from(rows.len()).is_ok_and(|rows| rows == query.limit) {
            let total = rows.first().and_then(|row| row.total);
            let jobs = rows.into_iter().map(|row| row.summary(with)).collect::<Result<_>>()?;
            return Ok(Page { jobs, total });
        }
    }
    Ok(Page::default())
}

impl With<'_> {
    /// Writes the statement of a page together with what belongs to its jobs.
    fn write(&self, writer: &mut Writer, page: impl FnOnce(&mut Writer)) {
        // Read first, in its order: the rest is read for the jobs of the page alone.
        writer.text("with p as materialized (");
        page(writer);
        writer.text(") select j.*, ");
        match self.deployments {
            Some(detail) => writer.text(&format!("({})", deployments::of_page(detail))),
            None => writer.text("cast(null as text)"),
        }
        writer.text(" as deployed, ");
        match self.executions.filter(|query| query.limit > 0) {
            Some(query) => {
                let executions = executions::packed(query, writer.dialect());
                writer.text("(");
                writer.select(&Query::select().expr(executions).to_owned());
                writer.text(")");
            }
            None => writer.text("cast(null as text)"),
        }
        let total = if self.total { format!("({TOTAL})") } else { "cast(null as bigint)".into() };
        writer.text(&format!(" as runs, {total} as total from p j"));
    }
}

/// Which jobs of a list are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    /// Jobs that have a value in the sort column.
    Present,
}

/// Python versions, where they are known.
#[derive(Debug, Default)]
struct Pythons {
    /// Those that the query is about.
    filtered: Option<Vec<String>>,
    /// Those along which jobs are met.
    along: Option<Vec<String>>,
}

/// Writes the statement of a page.
fn write(writer: &mut Writer, query: &JobQuery, strategy: Strategy, pythons: &Pythons, part: Part) {
    let Pythons { filtered: pythons, along } = pythons;
    let pythons = pythons.as_deref();
    let dialect = writer.dialect();
    // Names are found in their order.
    let by_name = query.sort == JobSort::Name && query.is_open(true);
    let of_conditions = if by_name { Strategy::FilterThenSort } else { strategy };
    match (strategy, query.sort) {
        (Strategy::ScanOrder, JobSort::Python) => {
            let conditions = query.conditions(dialect, of_conditions, pythons);
            writer.select(&along_pythons(query, dialect, &conditions, along.as_deref().unwrap_or_default()));
        }
        (Strategy::WordsByName, _) => writer.select(&words_by_name(query, dialect)),
        (Strategy::ScanOrder, JobSort::NextRun) => {
            along_schedules(writer, query, &query.conditions(dialect, of_conditions, pythons));
        }
        _ => {
            let mut conditions = query.conditions(dialect, of_conditions, pythons);
            if part == Part::Present {
                conditions = conditions.add(query.sort.key(dialect, true).0.is_not_null());
            }
            writer.select(&sorted(query, dialect, strategy, conditions, part));
        }
    }
}

/// Jobs by name that are looked for by words alone, where there is an index of words.
fn words_by_name(query: &JobQuery, dialect: Dialect) -> SelectStatement {
    let (columns, text) = query.only_words().unwrap_or_default();
    let words = Filter { dialect, strategy: Strategy::WordsByName }.words(&columns, text);
    let mut page = words.rows(true);
    query.window(page.column(("t", "job_id")).order_by(("t", "name"), query.order()));
    let mut jobs = select_summaries();
    join_schedules(jobs.from_as("data_job", "j"))
        .and_where(column("j.job_id").in_subquery(page))
        .order_by_expr(dialect.without_index("j.name"), query.order());
    jobs
}

fn sorted(
    query: &JobQuery,
    dialect: Dialect,
    strategy: Strategy,
    conditions: Condition,
    part: Part,
) -> SelectStatement {
    let indexed = strategy == Strategy::ScanOrder;
    let mut jobs = select_summaries();
    if indexed && query.offset > 0 && query.sort != JobSort::NextRun {
        // The rows before the page are skipped without reading them: PostgreSQL reads the selected columns of each, and
        // an order's index has the name.
        let key = match dialect {
            Dialect::Postgres => "name",
            Dialect::Sqlite => "job_id",
        };
        let mut page = Query::select();
        page.expr_as(Expr::col(("j", key)), "id").from_as("data_job", "j").cond_where(conditions);
        query.sort(&mut page, dialect, indexed, part);
        query.window(&mut page);
        join_schedules(jobs.from_subquery(page, "p").cross_join("data_job".into_table_ref().alias("j")))
            .and_where(Expr::col(("j", key)).equals(("p", "id")))
            .and_where(column("j.deleted_at").is_null());
        query.sort(&mut jobs, dialect, indexed, part);
        return jobs;
    }
    join_schedules(jobs.from_as("data_job", "j")).cond_where(conditions);
    query.sort(&mut jobs, dialect, indexed, part);
    query.window(&mut jobs);
    jobs
}

/// Jobs by Python version, each version along its index in the order of names, and after them the jobs that have none.
///
/// An index has 3.10 before 3.9. The versions are few, so at most as many jobs of each as come onto the page or before it are met.
fn along_pythons(query: &JobQuery, dialect: Dialect, conditions: &Condition, versions: &[String]) -> SelectStatement {
    let mut versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    versions.sort_by_key(|version| (version.len(), *version));
    if query.descending {
        versions.reverse();
    }
    let python = || column("j.deployment_python");
    let of_each = versions.into_iter().map(|version| python().eq(version)).chain([python().is_null()]);
    let parts = of_each.enumerate().map(|(place, of_version)| {
        let mut part = Query::select();
        part.expr_as(Expr::cust(place.to_string()), "part")
            .columns([("j", "job_id"), ("j", "name")])
            .from_as("data_job", "j")
            .cond_where(conditions.clone())
            .and_where(of_version)
            .order_by(("j", "name"), query.order())
            .limit(rows(query.limit) + rows(query.offset));
        Query::select().columns(["part", "job_id", "name"]).from_subquery(part, "v").to_owned()
    });
    let mut page = Query::select();
    if let Some(parts) = parts.reduce(|mut all, part| all.union(UnionType::All, part).to_owned()) {
        page.columns(["part", "job_id"]).from_subquery(parts, "v");
    }
    query.window(page.order_by("part", Order::Asc).order_by("name", query.order()));
    let mut jobs = select_summaries();
    join_schedules(jobs.from_subquery(page, "p").cross_join("data_job".into_table_ref().alias("j")))
        .and_where(column("j.job_id").equals(("p", "job_id")))
        .order_by(("p", "part"), Order::Asc)
        .order_by_expr(dialect.without_index("j.name"), query.order());
    jobs
}

/// Jobs by schedule, the schedules by their next tick, and after them the jobs that have none.
///
/// How many of the latter come before the page is known to the statement alone, and the builder takes a number for an
/// offset but no expression: so the two parts are put together here.
fn along_schedules(writer: &mut Writer, query: &JobQuery, conditions: &Condition) {
    let (limit, offset) = (rows(query.limit), rows(query.offset));
    let order = query.order();
    let of_schedules = |select: &mut SelectStatement| {
        select
            .from_as("schedule", "s")
            .cross_join("data_job".into_table_ref().alias("j"))
            .and_where(column("j.schedule_id").equals(("s", "schedule_id")))
            .cond_where(conditions.clone());
    };
    let mut scheduled = select_summaries();
    scheduled.expr_as(Expr::cust("0"), "part");
    of_schedules(&mut scheduled);
    scheduled
        .order_by_expr_with_nulls(column("s.next_tick"), order.clone(), NullOrdering::Last)
        .order_by(("s", "schedule_id"), order.clone())
        .order_by(("j", "name"), order.clone());
    query.window(&mut scheduled);
    let mut unscheduled = Query::select();
    unscheduled
        .columns(COLUMNS.map(|name| ("j", name)))
        .expr_as(Expr::cust("cast(null as bigint)"), "next_tick")
        .expr_as(Expr::cust("1"), "part")
        .from_as("data_job", "j")
        .and_where(column("j.schedule_id").is_null())
        .cond_where(conditions.clone())
        .order_by(("j", "name"), order);
    let mut before = Query::select();
    before.expr(Expr::cust("1"));
    of_schedules(&mut before);
    before.limit(offset);

    let direction = if query.descending { "desc" } else { "asc" };
    writer.text("select * from (select * from (");
    writer.select(&scheduled);
    writer.text(") a union all select * from (");
    writer.select(&unscheduled);
    writer.text(&format!(
        " limit {limit} offset (select case when count(*) < {offset} then {offset} - count(*) else 0 end from ("
    ));
    writer.select(&before);
    writer.text(&format!(
        ") n)) b) p
         order by part, next_tick {direction} nulls last, schedule_id {direction} nulls last, name {direction}
         limit {limit}"
    ));
}

/// The Python versions that a query is about.
async fn pythons(tx: &mut Tx, query: &JobQuery) -> Result<Vec<String>> {
    let mut versions = python_versions();
    versions.and_where(column("p").is_not_null());
    for text in &query.pythons {
        versions.and_where(column("p").like(like(containing(&text.to_lowercase()))));
    }
    let Statement { sql, values } = Statement::of(tx.dialect(), &versions).storable()?;
    let rows: Vec<(String,)> =
        on!(tx, c => bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), values).fetch_all(c).await)?;
    Ok(rows.into_iter().map(|(version,)| version).collect())
}

/// How many jobs a query finds, as far as one more than [`FOUND_MAX`].
async fn probe(tx: &mut Tx, query: &JobQuery) -> Result<i64> {
    let mut found = rows_found(query, tx.dialect());
    found.expr(Expr::cust("1")).limit(rows(FOUND_MAX + 1));
    let count = Query::select().expr(Func::count(Expr::cust("*"))).from_subquery(found, "n").to_owned();
    number(tx, Statement::of(tx.dialect(), &count).storable()?).await
}

/// The number of all live jobs, which the database keeps count of.
const TOTAL: &str = "select cast(coalesce(sum(jobs), 0) as bigint) from job_count";

/// How many jobs a query finds on all pages.
pub async fn count(tx: &mut Tx, query: &JobQuery) -> Result<i64> {
    if query.is_open(false) {
        return number(tx, Statement { sql: TOTAL.into(), values: Vec::new() }).await;
    }
    let mut found = rows_found(query, tx.dialect());
    found.expr(Func::count(Expr::cust("*")));
    number(tx, Statement::of(tx.dialect(), &found).storable()?).await
}

/// How many jobs there are; PostgreSQL is asked for its estimate, for counting takes it long.
async fn count_all(tx: &mut Tx) -> Result<i64> {
    let sql = match tx.dialect() {
        Dialect::Postgres => {
            "select cast(reltuples as bigint) from pg_class where oid = cast('data_job_text' as regclass)"
        }
        Dialect::Sqlite => "select count(*) from data_job_text",
    };
    number(tx, Statement { sql: sql.into(), values: Vec::new() }).await
}

/// As many rows as a query finds jobs, without their columns.
fn rows_found(query: &JobQuery, dialect: Dialect) -> SelectStatement {
    let strategy = Strategy::FilterThenSort;
    if let Some((columns, text)) = query.only_words() {
        // Only live jobs have words.
        return Filter { dialect, strategy }.words(&columns, text).rows(false);
    }
    Query::select().from_as("data_job", "j").cond_where(query.conditions(dialect, strategy, None)).to_owned()
}

async fn number(tx: &mut Tx, Statement { sql, values }: Statement) -> Result<i64> {
    let (count,): (i64,) =
        on!(tx, c => bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), values).fetch_one(c).await)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plan of a walked page on SQLite, in one line.
    async fn plan(tx: &mut Tx, query: &JobQuery, pythons: Option<&[String]>) -> String {
        let conditions = query.conditions(Dialect::Sqlite, Strategy::ScanOrder, pythons);
        let select = sorted(query, Dialect::Sqlite, Strategy::ScanOrder, conditions, Part::All);
        let Statement { sql, values } = Statement::of(Dialect::Sqlite, &select);
        let sql = format!("explain query plan {sql}");
        let Tx::Sqlite(tx) = tx else { unreachable!("on SQLite") };
        let rows: Vec<(i64, i64, i64, String)> =
            bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), values).fetch_all(&mut **tx).await.unwrap();
        rows.into_iter().map(|(.., step)| step).collect::<Vec<_>>().join("; ")
    }

    #[tokio::test]
    async fn jobs_of_a_state_are_walked_along_its_index_by_name_and_along_the_order_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::Db::open_sqlite(&folder.path().join("test.db"), std::sync::Arc::new(clock::SystemClock))
            .await
            .unwrap();
        let mut tx = db.read().await.unwrap();
        let failed =
            JobQuery { last_execution_status: Some(ExecutionStatus::UserError), limit: 50, ..JobQuery::default() };
        let broken =
            JobQuery { deployment_status: Some(DeploymentStatus::UserError), limit: 50, ..JobQuery::default() };
        let absent = JobQuery { deployment: Some(DeploymentFilter::NotDeployed), limit: 50, ..JobQuery::default() };
        let python = JobQuery { pythons: vec!["3.12".into()], limit: 50, ..JobQuery::default() };
        let both = JobQuery { deployment_status: broken.deployment_status, ..failed.clone() };
        let one = Some(vec!["3.12".to_owned()]);
        for (query, pythons, index) in [
            (&failed, None, "data_job_by_last_status (last_execution_status=?)"),
            (&broken, None, "data_job_by_status (deployment_status=?)"),
            (&absent, None, "data_job_by_enabled (deployment_enabled=?)"),
            (&python, one.as_deref(), "data_job_by_python (deployment_python=?)"),
            (&both, None, "data_job_by_last_status (last_execution_status=?)"),
        ] {
            for (descending, offset) in [(false, 0), (true, 50)] {
                let by_name = plan(&mut tx, &JobQuery { descending, offset, ..query.clone() }, pythons).await;
                assert!(by_name.contains(&format!("SEARCH j USING INDEX {index}")), "{query:?}: {by_name}");
                let sort = JobSort::LastExecutionTime;
                let by_end = plan(&mut tx, &JobQuery { sort, descending, offset, ..query.clone() }, pythons).await;
                assert!(by_end.contains("SCAN j USING INDEX data_job_by_last_end"), "{query:?}: {by_end}");
            }
        }
    }

    #[tokio::test]
    async fn jobs_of_teams_that_begin_so_are_met_in_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::Db::open_sqlite(&folder.path().join("test.db"), std::sync::Arc::new(clock::SystemClock))
            .await
            .unwrap();
        let mut tx = db.read().await.unwrap();
        for descending in [false, true] {
            let query = JobQuery { teams: vec!["Team 09*".into()], descending, limit: 50, ..JobQuery::default() };
            let plan = plan(&mut tx, &query, None).await;
            let by_index = "SCAN j USING INDEX data_job_by_name_team; \
                SEARCH s USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
            assert_eq!(plan, by_index);
        }
    }
}
