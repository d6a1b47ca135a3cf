//! Pages of live jobs.
//!
//! A page costs the page. Each order has an index; where conditions narrow the list to few jobs, those are found first
//! and sorted, and where they leave many, the index of the order is walked until the page is full. Which of both is
//! decided by counting, up to a limit: neither database can know it of conditions that are bound later. By name, jobs of
//! one state are walked along that state's own index, for states and names may go together; so may words and names.

use jiff::Timestamp;
use model::{execution::Status as ExecutionStatus, job::DataJob, rollout::Status as DeploymentStatus};

use super::row::JobRow;
use crate::{
    bound::{Bound, Conditions, bind_all},
    codec::{instant_opt, storable},
    db::{Tx, metered_rows, on},
    dialect::Dialect,
    error::{Result, StoreError, corrupt},
    meter::RowBytes,
};

/// What a list shows of a job beside the job itself.
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
    /// How the latest execution stands.
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
}

impl RowBytes for SummaryRow {
    fn text_bytes(&self) -> usize {
        self.job.text_bytes()
    }
}

impl TryFrom<SummaryRow> for JobSummary {
    type Error = StoreError;

    fn try_from(row: SummaryRow) -> Result<Self> {
        Ok(Self {
            job: row.job.try_into()?,
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

/// By what a list of jobs is sorted. The name settles what is equal, what is absent comes last both ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JobSort {
    /// By name.
    #[default]
    Name,
    /// By team.
    Team,
    /// By the first hundred characters of the description.
    Description,
    /// By the next tick; jobs of one schedule stand together.
    NextRun,
    /// By whether anybody hears of it.
    Contacts,
    /// By the outcome of the rollout.
    DeploymentStatus,
    /// Enabled ones first, then disabled ones.
    DeploymentEnabled,
    /// By the Python version that it runs with.
    Python,
    /// By the status of the latest execution.
    LastExecutionStatus,
    /// By the end of the latest execution.
    LastExecutionTime,
    /// By the duration of the latest execution.
    LastExecutionDuration,
    /// By the count of successes.
    SuccessfulExecutions,
    /// By the count of failures.
    FailedExecutions,
}

impl JobSort {
    /// The column, and whether it may be absent.
    fn column(self) -> (&'static str, bool) {
        match self {
            Self::Name => ("j.name", false),
            Self::Team => ("j.team", false),
            Self::Description => ("substr(j.description, 1, 100)", false),
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
        }
    }
}

/// Whether a job has a deployment that was reached, and whether ticks are on for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeploymentFilter {
    /// Deployed and ticks on.
    Enabled,
    /// Deployed and ticks off.
    Disabled,
    /// Not deployed.
    NotDeployed,
}

/// What a range is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The next tick, in seconds since 1970.
    NextRun,
    /// The end of the latest execution, in seconds since 1970.
    LastExecutionTime,
    /// The duration of the latest execution, in seconds.
    LastExecutionDuration,
    /// How many executions succeeded.
    SuccessfulExecutions,
    /// How many executions failed.
    FailedExecutions,
}

/// Where a search looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchField {
    /// In the name.
    Name,
    /// In the team.
    Team,
    /// In the description.
    Description,
    /// In the cron expression.
    Cron,
    /// In the digits of the next tick, in seconds since 1970; -1 where there is none.
    NextRun,
    /// In the Python version of the deployment.
    Python,
    /// The whole of `enabled`, `disabled` or `not_deployed`.
    DeploymentEnabled,
    /// The whole of the latest execution's status.
    LastExecutionStatus,
}

/// A text that one of several fields has to hold, in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The text.
    pub text: String,
    /// Where it is looked for.
    pub fields: Vec<SearchField>,
}

impl From<&str> for Search {
    /// A search in names.
    fn from(text: &str) -> Self {
        Self { text: text.into(), fields: vec![SearchField::Name] }
    }
}

/// Which page of which jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobQuery {
    /// Patterns of names with `%` for anything; each must match, in any case.
    pub names: Vec<String>,
    /// Patterns of teams with `%` for anything; each must match, in any case.
    pub teams: Vec<String>,
    /// The teams that the caller may read, by their exact names; empty when that is all.
    pub readable_teams: Vec<String>,
    /// Texts that the description contains, in any case.
    pub descriptions: Vec<String>,
    /// Texts that the Python version of the deployment contains.
    pub pythons: Vec<String>,
    /// Figures with the least and the most that they may be.
    pub ranges: Vec<(Measure, i64, i64)>,
    /// A text that one of several fields contains.
    pub search: Option<Search>,
    /// Deployed, and how.
    pub deployment: Option<DeploymentFilter>,
    /// The outcome of the rollout.
    pub deployment_status: Option<DeploymentStatus>,
    /// The status of the latest execution.
    pub last_execution_status: Option<ExecutionStatus>,
    /// The order.
    pub sort: JobSort,
    /// Whether the order is turned round.
    pub descending: bool,
    /// How many jobs the page has at most.
    pub limit: i64,
    /// How many jobs come before it.
    pub offset: i64,
}

/// Jobs that are found and sorted rather than met along an order.
const FOUND_MAX: i64 = 1000;

/// The fewest characters that an index of trigrams helps with.
const TRIGRAM_CHARS: usize = 3;

/// The most characters that are looked up in the index of trigrams: SQLite can't be interrupted while it compares the
/// places of each of them. The rest of a longer text is compared with the rows that were found.
const TRIGRAMS_MAX_CHARS: usize = 24;

/// How the jobs of a page are come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the indexes of the conditions; then they are sorted.
    Find,
    /// Along the index of the order; the conditions are looked at on the way.
    Walk,
}

/// A pattern as an index can serve it.
#[derive(Debug, PartialEq, Eq)]
enum Shape {
    /// No wildcard.
    Equal(String),
    /// Begins with this; `whole` when that is all that it says.
    Like { prefix: String, whole: bool },
}

impl Shape {
    fn of(pattern: &str) -> Self {
        let mut text = String::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' | '_' => return Self::Like { prefix: text, whole: c == '%' && chars.as_str().is_empty() },
                '\\' => text.push(chars.next().unwrap_or(c)),
                c => text.push(c),
            }
        }
        Self::Equal(text)
    }
}

/// How the words of a job are looked for.
struct Words {
    /// A condition that the index `data_job_words` serves, where it helps.
    found: Option<String>,
    /// A condition on `data_job_text` as `t`, where the index does not say all.
    compared: Option<String>,
}

impl Words {
    /// The tables with their conditions, `t` among them if `with_text`.
    fn rows(&self, with_text: bool) -> String {
        const JOINED: &str = "data_job_words cross join data_job_text t where t.text_id = data_job_words.rowid and ";
        match (&self.found, &self.compared) {
            (Some(found), Some(compared)) => format!("{JOINED}{found} and {compared}"),
            (Some(found), None) if with_text => format!("{JOINED}{found}"),
            (Some(found), None) => format!("data_job_words where {found}"),
            (None, compared) => format!("data_job_text t where {}", compared.as_deref().unwrap_or("true")),
        }
    }
}

/// Conditions on jobs, one after the other.
struct Narrowing {
    conditions: Conditions,
    way: Way,
    shared: bool,
}

/// The Python versions that jobs are deployed with, as `p`: a few steps along their index, however many jobs there are.
const PYTHONS: &str = "with recursive v(p) as (
        select min(f.deployment_python) from data_job f where f.deleted_at is null
        union all
        select (select min(n.deployment_python) from data_job n where n.deleted_at is null and n.deployment_python > v.p)
        from v where v.p is not null)
    select p from v";

impl Narrowing {
    /// What keeps SQLite from using an index for what follows.
    fn aside(&self, aside: bool) -> &'static str {
        if aside && !self.shared { "+" } else { "" }
    }

    /// The words of jobs that have this text in one of the columns.
    fn words(&mut self, columns: &[&str], text: &str) -> Words {
        let text = text.to_lowercase();
        let chars = text.chars().count();
        let by_trigrams = !self.shared && self.way == Way::Find && chars >= TRIGRAM_CHARS;
        let found = by_trigrams.then(|| {
            let start: String = text.chars().take(TRIGRAMS_MAX_CHARS).collect();
            let phrase = format!("{{{}}} : \"{}\"", columns.join(" "), start.replace('"', "\"\""));
            let mark = self.conditions.text(phrase);
            format!("data_job_words match {mark}")
        });
        let compared = (!by_trigrams || chars > TRIGRAMS_MAX_CHARS).then(|| {
            let mark = self.conditions.text(format!("%{}%", escape_like(&text)));
            let likes: Vec<_> = columns.iter().map(|column| format!("t.{column} like {mark} escape '\\'")).collect();
            format!("({})", likes.join(" or "))
        });
        Words { found, compared }
    }

    /// That one of the columns contains a text.
    fn contains(&mut self, columns: &[&str], text: &str) -> String {
        let words = self.words(columns, text);
        match self.way {
            Way::Find => {
                let of_index = "t.text_id in (select rowid from data_job_words where ";
                let found = words.found.map(|found| format!("{of_index}{found})"));
                let both: Vec<_> = found.into_iter().chain(words.compared).collect();
                format!("j.job_id in (select t.job_id from data_job_text t where {})", both.join(" and "))
            }
            Way::Walk => {
                let compared = words.compared.unwrap_or_default();
                format!("exists (select 1 from data_job_text t where t.job_id = j.job_id and {compared})")
            }
        }
    }

    /// That the Python version contains a text.
    fn python(&mut self, text: &str) {
        let mark = self.conditions.text(format!("%{}%", escape_like(&text.to_lowercase())));
        self.conditions.and(&format!("j.deployment_python in ({PYTHONS} where p like {mark} escape '\\')"));
    }

    /// That a column has one of these values.
    fn any_of(&mut self, aside: bool, column: &str, values: &[String]) {
        let aside = self.aside(aside);
        let marks: Vec<_> = values.iter().map(|value| self.conditions.text(value)).collect();
        let condition = match marks.as_slice() {
            [] => "1 = 0".into(),
            [mark] => format!("{aside}{column} = {mark}"),
            marks => format!("{aside}{column} in ({})", marks.join(", ")),
        };
        self.conditions.and(&condition);
    }

    fn pattern(&mut self, column: &str, pattern: &str) {
        let pattern = pattern.to_lowercase();
        let aside = self.aside(self.way == Way::Walk);
        let (prefix, whole) = match Shape::of(&pattern) {
            Shape::Equal(text) => {
                let mark = self.conditions.text(text);
                return self.conditions.and(&format!("{aside}{column} = {mark}"));
            }
            Shape::Like { prefix, whole } => (prefix, whole),
        };
        if !prefix.is_empty() {
            let (from, to) = (self.conditions.text(&prefix), self.conditions.text(format!("{prefix}\u{10FFFF}")));
            self.conditions.and(&format!("{aside}{column} >= {from} and {aside}{column} < {to}"));
        }
        if !whole {
            let mark = self.conditions.text(pattern);
            self.conditions.and(&format!("{aside}{column} like {mark} escape '\\'"));
        }
    }

    fn range(&mut self, measure: Measure, least: i64, most: i64) {
        const SECOND: i64 = 1_000_000;
        let in_micros = matches!(measure, Measure::NextRun | Measure::LastExecutionTime);
        let (least, most) = if in_micros {
            (least.saturating_mul(SECOND), most.saturating_mul(SECOND).saturating_add(SECOND - 1))
        } else {
            (least, most)
        };
        let (from, to) = (self.conditions.bind(Bound::Int(least)), self.conditions.bind(Bound::Int(most)));
        let aside = self.aside(self.way == Way::Walk);
        let condition = match measure {
            Measure::NextRun => format!(
                "{aside}j.schedule_id in (select n.schedule_id from schedule n
                    where n.next_tick >= {from} and n.next_tick <= {to})"
            ),
            Measure::LastExecutionTime => {
                format!("{aside}j.last_execution_end >= {from} and {aside}j.last_execution_end <= {to}")
            }
            Measure::LastExecutionDuration => format!(
                "{aside}j.last_execution_duration_seconds >= {from} and {aside}j.last_execution_duration_seconds <= {to}"
            ),
            Measure::SuccessfulExecutions => {
                format!("{aside}j.successful_executions >= {from} and {aside}j.successful_executions <= {to}")
            }
            Measure::FailedExecutions => {
                format!("{aside}j.failed_executions >= {from} and {aside}j.failed_executions <= {to}")
            }
        };
        self.conditions.and(&condition);
    }

    fn search(&mut self, search: &Search) {
        let mut either = Vec::new();
        let columns = search.columns();
        if !columns.is_empty() {
            either.push(self.contains(&columns, &search.text));
        }
        let text = search.text.to_lowercase();
        if search.looks_for_a_number() {
            let mark = self.conditions.text(format!("%{}%", escape_like(&text)));
            either.push(format!(
                "j.schedule_id in (select n.schedule_id from schedule n
                    where cast(coalesce(n.next_tick / 1000000, -1) as text) like {mark} escape '\\')"
            ));
            if "-1".contains(&text) {
                either.push("j.schedule_id is null".into());
            }
        }
        if search.fields.contains(&SearchField::DeploymentEnabled) {
            match text.as_str() {
                "enabled" => either.push("j.deployment_enabled = true".into()),
                "disabled" => either.push("j.deployment_enabled = false".into()),
                "not_deployed" => either.push("j.deployment_enabled is null".into()),
                _ => {}
            }
        }
        if let Some(status) = search.status() {
            let mark = self.conditions.text(status.as_str());
            either.push(format!("j.last_execution_status = {mark}"));
        }
        // What none of the fields can hold is found nowhere.
        let condition = if either.is_empty() { "1 = 0".into() } else { format!("({})", either.join(" or ")) };
        self.conditions.and(&condition);
    }
}

impl Search {
    /// The fields that are words.
    fn columns(&self) -> Vec<&'static str> {
        let column = |field: &SearchField| match field {
            SearchField::Name => Some("name"),
            SearchField::Team => Some("team"),
            SearchField::Description => Some("description"),
            SearchField::Cron => Some("cron"),
            SearchField::Python => Some("python"),
            SearchField::NextRun | SearchField::DeploymentEnabled | SearchField::LastExecutionStatus => None,
        };
        self.fields.iter().filter_map(column).collect()
    }

    fn looks_for_a_number(&self) -> bool {
        self.fields.contains(&SearchField::NextRun)
            && !self.text.is_empty()
            && self.text.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    }

    fn status(&self) -> Option<ExecutionStatus> {
        let asked = self.fields.contains(&SearchField::LastExecutionStatus);
        asked.then(|| ExecutionStatus::parse(&self.text.to_ascii_uppercase())).flatten()
    }

    /// Whether it can be fulfilled by words alone.
    fn is_of_words(&self) -> bool {
        let states = ["enabled", "disabled", "not_deployed"];
        !(self.columns().is_empty()
            || self.looks_for_a_number()
            || self.status().is_some()
            || self.fields.contains(&SearchField::DeploymentEnabled)
                && states.contains(&self.text.to_lowercase().as_str()))
    }
}

impl JobQuery {
    fn conditions(&self, way: Way, shared: bool, pythons: Option<&[String]>) -> Result<Conditions> {
        let conditions = Conditions { sql: "j.deleted_at is null".into(), bound: Vec::new() };
        let mut narrowing = Narrowing { conditions, way, shared };
        for name in &self.names {
            narrowing.pattern("j.name", name);
        }
        for team in &self.teams {
            narrowing.pattern("j.team_lower", team);
        }
        if !self.readable_teams.is_empty() {
            let aside = narrowing.aside(way == Way::Walk);
            for (column, teams) in [
                ("j.team_lower", self.readable_teams.iter().map(|team| team.to_lowercase()).collect()),
                ("j.team", self.readable_teams.clone()),
            ] {
                let marks: Vec<_> = teams.into_iter().map(|team| narrowing.conditions.text(team)).collect();
                narrowing.conditions.and(&format!("{aside}{column} in ({})", marks.join(", ")));
            }
        }
        for text in &self.descriptions {
            let contains = narrowing.contains(&["description"], text);
            narrowing.conditions.and(&contains);
        }
        for (measure, least, most) in &self.ranges {
            narrowing.range(*measure, *least, *most);
        }
        if let Some(search) = &self.search {
            narrowing.search(search);
        }
        if pythons.is_none() {
            for text in &self.pythons {
                narrowing.python(text);
            }
        }
        // The index of each state has its jobs in the order of their names: there one state is walked along, and the
        // others are looked at on the way. Otherwise half of all jobs may share a state, and any other condition serves
        // better.
        let along = way == Way::Walk && self.sort == JobSort::Name;
        let mut taken = !along && (way == Way::Walk || narrowing.conditions.sql.contains(" and "));
        if let Some(known) = pythons {
            narrowing.any_of(taken || way == Way::Walk && known.len() > 1, "j.deployment_python", known);
            taken |= way == Way::Find || known.len() == 1;
        }
        for (column, status) in [
            ("j.last_execution_status", self.last_execution_status.map(ExecutionStatus::as_str)),
            ("j.deployment_status", self.deployment_status.map(DeploymentStatus::as_str)),
        ] {
            if let Some(status) = status {
                narrowing.any_of(taken, column, &[status.to_owned()]);
                taken |= along;
            }
        }
        let aside = narrowing.aside(taken);
        let deployment = match self.deployment {
            Some(DeploymentFilter::Enabled) => "= true",
            Some(DeploymentFilter::Disabled) => "= false",
            Some(DeploymentFilter::NotDeployed) => "is null",
            None => "",
        };
        if !deployment.is_empty() {
            narrowing.conditions.and(&format!("{aside}j.deployment_enabled {deployment}"));
        }
        storable(narrowing.conditions.texts())?;
        Ok(narrowing.conditions)
    }

    /// Whether there is no condition but (if `but_names`) on the name.
    fn is_open(&self, but_names: bool) -> bool {
        let only = Self {
            names: if but_names { self.names.clone() } else { Vec::new() },
            sort: self.sort,
            descending: self.descending,
            limit: self.limit,
            offset: self.offset,
            ..Self::default()
        };
        *self == only
    }

    /// The one text that is looked for when nothing else is, with its columns.
    fn only_words(&self) -> Option<(Vec<&'static str>, &str)> {
        let (mut rest, mut words) = (self.clone(), Vec::new());
        rest.descriptions.clear();
        rest.search = None;
        words.extend(self.descriptions.iter().map(|text| (vec!["description"], text.as_str())));
        if let Some(search) = &self.search {
            if !search.is_of_words() {
                return None;
            }
            words.push((search.columns(), search.text.as_str()));
        }
        (rest.is_open(false) && words.len() == 1).then(|| words.swap_remove(0))
    }
}

/// Text as a part of a `like` pattern that means itself, with `\` as the escape.
pub fn escape_like(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

const COLUMNS: &str = "j.job_id, j.name, j.team, j.description, j.db_default_type, j.contacts, j.schedule_cron,
    j.generate_keytab, j.enable_execution_notifications, j.notification_delay_period_minutes, j.deployment_status,
    j.deployment_enabled, j.last_execution_status, j.last_execution_start, j.last_execution_end,
    j.last_execution_duration_seconds, j.successful_executions, j.failed_executions, j.schedule_id";

/// One page of the jobs that a query finds.
pub async fn page(tx: &mut Tx, query: &JobQuery) -> Result<Vec<JobSummary>> {
    page_of(tx, query, None).await
}

/// One page of the jobs that a query finds; `found` is how many it finds in all, where that is known.
pub async fn page_of(tx: &mut Tx, query: &JobQuery, found: Option<i64>) -> Result<Vec<JobSummary>> {
    if query.limit <= 0 || found.is_some_and(|found| found <= query.offset) {
        return Ok(Vec::new());
    }
    let exact = query.names.iter().any(|name| matches!(Shape::of(name), Shape::Equal(_)));
    let way = if exact {
        Way::Find
    } else if query.is_open(query.sort == JobSort::Name) {
        Way::Walk
    } else {
        let known = found;
        let found = match found {
            Some(found) => found,
            None => probe(tx, query).await?,
        };
        if known.is_some()
            && found > FOUND_MAX
            && let Some(conditions) = words_by_name(query, tx.dialect() == Dialect::Postgres)?
            && is_a_part(tx, found).await?
        {
            return summaries(tx, conditions).await;
        }
        if found <= FOUND_MAX { Way::Find } else { Way::Walk }
    };
    let shared = tx.dialect() == Dialect::Postgres;
    let pythons = if query.pythons.is_empty() { None } else { Some(pythons(tx, query).await?) };
    // Names are found in their order.
    let by_name = query.sort == JobSort::Name && query.is_open(true);
    let conditions = query.conditions(if by_name { Way::Find } else { way }, shared, pythons.as_deref())?;
    let sql = match (query.sort, way) {
        (JobSort::NextRun, Way::Walk) => along_schedules(query, &conditions.sql),
        _ => sorted(query, &conditions.sql, way, shared),
    };
    summaries(tx, Conditions { sql, bound: conditions.bound }).await
}

async fn summaries(tx: &mut Tx, Conditions { sql, bound }: Conditions) -> Result<Vec<JobSummary>> {
    let rows = metered_rows!(tx, bind_all!(sqlx::query_as::<_, SummaryRow>(sqlx::AssertSqlSafe(sql)), bound))?;
    rows.into_iter().map(JobSummary::try_from).collect()
}

/// How many times less than all jobs are a part of them: fewer are quicker sorted than met by chance.
const PART: i64 = 3;

/// Whether so many jobs are a small part of all; PostgreSQL is asked for its estimate, for counting takes it long.
async fn is_a_part(tx: &mut Tx, found: i64) -> Result<bool> {
    let all = if tx.dialect() == Dialect::Postgres {
        "select cast(reltuples as bigint) from pg_class where oid = cast('data_job_text' as regclass)"
    } else {
        "select count(*) from data_job_text"
    };
    Ok(found * PART <= number(tx, all.into(), Vec::new()).await?)
}

/// The statement for jobs by name that are looked for by words alone, where there is an index of words. What is looked
/// for is often a part of the name: along the order of names, half of all jobs may come before the first.
fn words_by_name(query: &JobQuery, shared: bool) -> Result<Option<Conditions>> {
    let Some((columns, text)) = query.only_words().filter(|_| query.sort == JobSort::Name) else { return Ok(None) };
    let mut narrowing = Narrowing { conditions: Conditions::default(), way: Way::Find, shared };
    let words = narrowing.words(&columns, text);
    if words.found.is_none() && !shared {
        return Ok(None);
    }
    let texts = words.rows(true);
    storable(narrowing.conditions.texts())?;
    let direction = if query.descending { "desc" } else { "asc" };
    let aside = narrowing.aside(true);
    let sql = format!(
        "select {COLUMNS}, s.next_tick from data_job j left join schedule s on s.schedule_id = j.schedule_id
         where j.job_id in (select t.job_id from {texts} order by t.name {direction} limit {} offset {})
         order by {aside}j.name {direction}",
        query.limit, query.offset
    );
    Ok(Some(Conditions { sql, bound: narrowing.conditions.bound }))
}

fn sorted(query: &JobQuery, conditions: &str, way: Way, shared: bool) -> String {
    let (column, optional) = query.sort.column();
    let descending = query.descending != (query.sort == JobSort::DeploymentEnabled);
    let direction = if descending { "desc" } else { "asc" };
    let aside = if way == Way::Find && !shared { "+" } else { "" };
    let last = if optional { " nulls last" } else { "" };
    let schedule = if query.sort == JobSort::NextRun { format!("j.schedule_id {direction},") } else { String::new() };
    let order = if query.sort == JobSort::Name {
        // A second time would keep SQLite from an index that goes on with something else.
        format!("{aside}{column} {direction}")
    } else {
        format!("{aside}{column} {direction}{last}, {schedule} {aside}j.name {direction}")
    };
    let window = format!("limit {} offset {}", query.limit, query.offset);
    if way == Way::Walk && query.offset > 0 && query.sort != JobSort::NextRun {
        // What comes before the page is passed by without a look at its rows: PostgreSQL reads what is selected of each, and
        // an order's index has the name.
        let key = if shared { "name" } else { "job_id" };
        return format!(
            "select {COLUMNS}, s.next_tick
             from (select j.{key} as id from data_job j where {conditions} order by {order} {window}) p
             cross join data_job j left join schedule s on s.schedule_id = j.schedule_id
             where j.{key} = p.id and j.deleted_at is null order by {order}"
        );
    }
    format!(
        "select {COLUMNS}, s.next_tick from data_job j left join schedule s on s.schedule_id = j.schedule_id
         where {conditions} order by {order} {window}"
    )
}

/// Jobs by schedule, the schedules by their next tick, and after them the jobs that have none.
fn along_schedules(query: &JobQuery, conditions: &str) -> String {
    let direction = if query.descending { "desc" } else { "asc" };
    let (limit, offset) = (query.limit, query.offset);
    let scheduled =
        format!("from schedule s cross join data_job j where j.schedule_id = s.schedule_id and {conditions}");
    format!(
        "select * from (
            select * from (select {COLUMNS}, s.next_tick, 0 as part {scheduled}
                order by s.next_tick {direction} nulls last, s.schedule_id {direction}, j.name {direction}
                limit {limit} offset {offset}) a
            union all
            select * from (select {COLUMNS}, cast(null as bigint) as next_tick, 1 as part
                from data_job j where j.schedule_id is null and {conditions} order by j.name {direction}
                limit {limit} offset (select case when count(*) < {offset} then {offset} - count(*) else 0 end
                    from (select 1 {scheduled} limit {offset}) n)) b) p
         order by part, next_tick {direction} nulls last, schedule_id {direction} nulls last, name {direction}
         limit {limit}"
    )
}

/// The Python versions that a query is about.
async fn pythons(tx: &mut Tx, query: &JobQuery) -> Result<Vec<String>> {
    let mut conditions = Conditions { sql: format!("{PYTHONS} where p is not null"), bound: Vec::new() };
    for text in &query.pythons {
        let mark = conditions.text(format!("%{}%", escape_like(&text.to_lowercase())));
        conditions.and(&format!("p like {mark} escape '\\'"));
    }
    storable(conditions.texts())?;
    let Conditions { sql, bound } = conditions;
    let rows: Vec<(String,)> =
        on!(tx, c => bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), bound).fetch_all(c).await)?;
    Ok(rows.into_iter().map(|(version,)| version).collect())
}

/// How many jobs a query finds, as far as a few more than [`FOUND_MAX`].
async fn probe(tx: &mut Tx, query: &JobQuery) -> Result<i64> {
    let Conditions { sql, bound } = rows_found(query, tx.dialect() == Dialect::Postgres)?;
    number(tx, format!("select count(*) from (select 1 {sql} limit {}) n", FOUND_MAX + 1), bound).await
}

/// How many jobs a query finds on all pages.
pub async fn count(tx: &mut Tx, query: &JobQuery) -> Result<i64> {
    let Conditions { sql, bound } = rows_found(query, tx.dialect() == Dialect::Postgres)?;
    number(tx, format!("select count(*) {sql}"), bound).await
}

/// What has as many rows as a query finds jobs.
fn rows_found(query: &JobQuery, shared: bool) -> Result<Conditions> {
    if let Some((columns, text)) = query.only_words() {
        let mut narrowing = Narrowing { conditions: Conditions::default(), way: Way::Find, shared };
        // Only live jobs have words.
        let words = narrowing.words(&columns, text);
        narrowing.conditions.sql = format!("from {}", words.rows(false));
        storable(narrowing.conditions.texts())?;
        return Ok(narrowing.conditions);
    }
    let mut conditions = query.conditions(Way::Find, shared, None)?;
    conditions.sql.insert_str(0, "from data_job j where ");
    Ok(conditions)
}

async fn number(tx: &mut Tx, sql: String, bound: Vec<Bound>) -> Result<i64> {
    let (count,): (i64,) = on!(tx, c => bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), bound).fetch_one(c).await)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plan of a walked page on SQLite, in one line.
    async fn plan(tx: &mut Tx, query: &JobQuery, pythons: Option<&[String]>) -> String {
        let conditions = query.conditions(Way::Walk, false, pythons).unwrap();
        let sql = format!("explain query plan {}", sorted(query, &conditions.sql, Way::Walk, false));
        let Tx::Sqlite(tx) = tx else { unreachable!("on SQLite") };
        let rows: Vec<(i64, i64, i64, String)> =
            bind_all!(sqlx::query_as(sqlx::AssertSqlSafe(sql)), conditions.bound).fetch_all(&mut **tx).await.unwrap();
        rows.into_iter().map(|(.., step)| step).collect::<Vec<_>>().join("; ")
    }

    #[tokio::test]
    async fn jobs_of_a_state_are_walked_along_its_index_by_name_and_along_the_order_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::Db::open_sqlite(&folder.path().join("test.db")).await.unwrap();
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
        let db = crate::Db::open_sqlite(&folder.path().join("test.db")).await.unwrap();
        let mut tx = db.read().await.unwrap();
        for descending in [false, true] {
            let query = JobQuery { teams: vec!["Team 09%".into()], descending, limit: 50, ..JobQuery::default() };
            let plan = plan(&mut tx, &query, None).await;
            let by_index = "SCAN j USING INDEX data_job_by_name_team; \
                SEARCH s USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
            assert_eq!(plan, by_index);
        }
    }

    #[test]
    fn a_pattern_is_taken_apart_at_its_wildcards() {
        let like = |prefix: &str, whole| Shape::Like { prefix: prefix.into(), whole };
        assert_eq!(Shape::of("a\\%b\\\\"), Shape::Equal("a%b\\".into()));
        assert_eq!(Shape::of("daily%"), like("daily", true));
        assert_eq!(Shape::of("%"), like("", true));
        assert_eq!(Shape::of("%sales-x%"), like("", false));
        assert_eq!(Shape::of("a%bcd"), like("a", false));
        assert_eq!(Shape::of("ab_"), like("ab", false));
    }
}
