//! Data jobs: one row a live job, tombstones of deleted ones.

use jiff::Timestamp;
use model::{
    deployment::Status as DeploymentStatus,
    execution::Status as ExecutionStatus,
    job::{DataJob, JobConfig},
    name::{JobId, JobName, TeamName},
};

use crate::{Result, Tx, corrupt, db::on, from_json, instant_opt, micros, storable, to_json};

#[derive(sqlx::FromRow)]
pub(crate) struct JobRow {
    job_id: String,
    name: String,
    team: String,
    description: String,
    db_default_type: Option<String>,
    contacts: String,
    schedule_cron: Option<String>,
    generate_keytab: bool,
    enable_execution_notifications: bool,
    notification_delay_period_minutes: i64,
}

impl TryFrom<JobRow> for DataJob {
    type Error = crate::StoreError;

    fn try_from(row: JobRow) -> Result<Self> {
        Ok(Self {
            id: crate::job_id(&row.job_id)?,
            name: JobName::parse(&row.name).map_err(|_| corrupt("a job name"))?,
            team: TeamName::parse(&row.team).map_err(|_| corrupt("a team name"))?,
            description: row.description,
            config: JobConfig {
                db_default_type: row.db_default_type,
                contacts: from_json("the contacts of a job", &row.contacts)?,
                schedule_cron: row.schedule_cron,
                generate_keytab: row.generate_keytab,
                enable_execution_notifications: row.enable_execution_notifications,
                notification_delay_period_minutes: i32::try_from(row.notification_delay_period_minutes)
                    .map_err(|_| corrupt("a notification delay"))?,
            },
        })
    }
}

/// Stores a new job. `false` when a live job has its name.
pub async fn insert(tx: &mut Tx, job: &DataJob, schedule: Option<i64>, by: &str, now: Timestamp) -> Result<bool> {
    let config = &job.config;
    storable([job.description.as_str(), config.db_default_type.as_deref().unwrap_or_default()])?;
    let done = on!(tx, c => sqlx::query(
        "insert into data_job (job_id, name, team, description, db_default_type, contacts, schedule_cron, schedule_id,
            generate_keytab, enable_execution_notifications, notification_delay_period_minutes, created_at, created_by,
            updated_at, row_version, deployment_status, successful_executions, failed_executions)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $12, 1, 'NONE', 0, 0)
         on conflict do nothing",
    )
    .bind(job.id.to_string())
    .bind(job.name.as_str())
    .bind(job.team.as_str())
    .bind(&job.description)
    .bind(&config.db_default_type)
    .bind(to_json(&config.contacts))
    .bind(&config.schedule_cron)
    .bind(schedule)
    .bind(config.generate_keytab)
    .bind(config.enable_execution_notifications)
    .bind(i64::from(config.notification_delay_period_minutes))
    .bind(micros(now))
    .bind(by)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done == 1)
}

/// Replaces description, team and configuration of a live job.
pub async fn update(tx: &mut Tx, job: &DataJob, schedule: Option<i64>, now: Timestamp) -> Result<()> {
    let config = &job.config;
    storable([job.description.as_str(), config.db_default_type.as_deref().unwrap_or_default()])?;
    on!(tx, c => sqlx::query(
        "update data_job set team = $2, description = $3, db_default_type = $4, contacts = $5, schedule_cron = $6,
            schedule_id = $7, generate_keytab = $8, enable_execution_notifications = $9,
            notification_delay_period_minutes = $10, updated_at = $11, row_version = row_version + 1
         where job_id = $1 and deleted_at is null",
    )
    .bind(job.id.to_string())
    .bind(job.team.as_str())
    .bind(&job.description)
    .bind(&config.db_default_type)
    .bind(to_json(&config.contacts))
    .bind(&config.schedule_cron)
    .bind(schedule)
    .bind(config.generate_keytab)
    .bind(config.enable_execution_notifications)
    .bind(i64::from(config.notification_delay_period_minutes))
    .bind(micros(now))
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

const COLUMNS: &str = "job_id, name, team, description, db_default_type, contacts, schedule_cron, generate_keytab,
    enable_execution_notifications, notification_delay_period_minutes";

/// The live job of this name, whatever its team.
pub async fn find(tx: &mut Tx, name: &JobName) -> Result<Option<DataJob>> {
    let sql = format!("select {COLUMNS} from data_job where name = $1 and deleted_at is null");
    let row: Option<JobRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(name.as_str())
        .fetch_optional(c)
        .await)?;
    row.map(DataJob::try_from).transpose()
}

/// The live job of this name, whatever its team, kept as it is until the end of a transaction that writes.
///
/// It comes first in every verb that depends on the job: on PostgreSQL the job could otherwise be deleted or moved between
/// the look and the change. Who changes rows of a job locks the job first, so that no two ever wait for each other.
pub async fn find_for_update(tx: &mut Tx, name: &JobName) -> Result<Option<DataJob>> {
    let locking = tx.locking("for no key update");
    let sql = format!("select {COLUMNS} from data_job where name = $1 and deleted_at is null {locking}");
    let row: Option<JobRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(name.as_str())
        .fetch_optional(c)
        .await)?;
    row.map(DataJob::try_from).transpose()
}

/// Keeps a job as it is until the end of the transaction. Answers whether it is alive.
pub(crate) async fn lock(tx: &mut Tx, id: JobId) -> Result<bool> {
    let sql = format!("select deleted_at from data_job where job_id = $1 {}", tx.locking("for no key update"));
    let row: Option<(Option<i64>,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(id.to_string())
        .fetch_optional(c)
        .await)?;
    Ok(matches!(row, Some((None,))))
}

/// The job of this id, deleted or not.
pub async fn by_id(tx: &mut Tx, id: JobId) -> Result<Option<DataJob>> {
    let sql = format!("select {COLUMNS} from data_job where job_id = $1");
    let row: Option<JobRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(id.to_string())
        .fetch_optional(c)
        .await)?;
    row.map(DataJob::try_from).transpose()
}

/// Turns a live job into a tombstone. `false` when it was none.
pub async fn delete(tx: &mut Tx, id: JobId, now: Timestamp) -> Result<bool> {
    let done = on!(tx, c => sqlx::query(
        "update data_job set deleted_at = $2, schedule_id = null, row_version = row_version + 1
         where job_id = $1 and deleted_at is null",
    )
    .bind(id.to_string())
    .bind(micros(now))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done == 1)
}

/// The next generation of a job name: one more than any before, also across a deletion.
pub async fn next_generation(tx: &mut Tx, name: &JobName) -> Result<i64> {
    let (generation,): (i64,) = on!(tx, c => sqlx::query_as(
        "insert into job_generation (name, generation) values ($1, 1)
         on conflict (name) do update set generation = job_generation.generation + 1
         returning generation",
    )
    .bind(name.as_str())
    .fetch_one(c)
    .await)?;
    Ok(generation)
}

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

/// By what a list of jobs is sorted; the name settles what is equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JobSort {
    /// By name.
    #[default]
    Name,
    /// By team.
    Team,
    /// By description.
    Description,
    /// By the next tick.
    NextRun,
    /// By the outcome of the rollout.
    DeploymentStatus,
    /// By whether ticks are on.
    DeploymentEnabled,
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
    fn column(self) -> &'static str {
        match self {
            Self::Name => "j.name",
            Self::Team => "j.team",
            Self::Description => "j.description",
            Self::NextRun => "s.next_tick",
            Self::DeploymentStatus => "j.deployment_status",
            Self::DeploymentEnabled => "j.deployment_enabled",
            Self::LastExecutionStatus => "j.last_execution_status",
            Self::LastExecutionTime => "j.last_execution_end",
            Self::LastExecutionDuration => "j.last_execution_duration_seconds",
            Self::SuccessfulExecutions => "j.successful_executions",
            Self::FailedExecutions => "j.failed_executions",
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

/// Which page of which jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobQuery {
    /// Patterns of names with `%` for anything; each must match, in any case.
    pub names: Vec<String>,
    /// Patterns of teams with `%` for anything; each must match.
    pub teams: Vec<String>,
    /// Texts that the description contains, in any case of ASCII letters.
    pub descriptions: Vec<String>,
    /// A text that the name contains, in any case.
    pub search: Option<String>,
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

impl JobQuery {
    /// The conditions as SQL, and what is bound to them in order from `$1`.
    fn conditions(&self) -> (String, Vec<String>) {
        let mut sql = String::from("j.deleted_at is null");
        let mut bound = Vec::new();
        let mut and = |condition: &str, value: String| {
            bound.push(value);
            sql.push_str(" and ");
            sql.push_str(&condition.replace('?', &format!("${}", bound.len())));
        };
        for name in &self.names {
            and("lower(j.name) like ? escape '\\'", name.to_ascii_lowercase());
        }
        for team in &self.teams {
            if team.contains('%') {
                and("j.team like ? escape '\\'", team.clone());
            } else {
                and("j.team = ?", unescape_like(team));
            }
        }
        for text in &self.descriptions {
            and("lower(j.description) like ? escape '\\'", format!("%{}%", escape_like(&text.to_ascii_lowercase())));
        }
        if let Some(text) = &self.search {
            and("lower(j.name) like ? escape '\\'", format!("%{}%", escape_like(&text.to_ascii_lowercase())));
        }
        if let Some(status) = self.deployment_status {
            and("j.deployment_status = ?", status.as_str().into());
        }
        if let Some(status) = self.last_execution_status {
            and("j.last_execution_status = ?", status.as_str().into());
        }
        match self.deployment {
            Some(DeploymentFilter::Enabled) => sql.push_str(" and j.deployment_enabled = true"),
            Some(DeploymentFilter::Disabled) => sql.push_str(" and j.deployment_enabled = false"),
            Some(DeploymentFilter::NotDeployed) => sql.push_str(" and j.deployment_enabled is null"),
            None => {}
        }
        (sql, bound)
    }
}

/// Text as a part of a `like` pattern that means itself, with `\` as the escape.
pub fn escape_like(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

fn unescape_like(pattern: &str) -> String {
    pattern.replace("\\%", "%").replace("\\_", "_").replace("\\\\", "\\")
}

/// One page of the jobs that a query finds.
pub async fn page(tx: &mut Tx, query: &JobQuery) -> Result<Vec<JobSummary>> {
    let (conditions, bound) = query.conditions();
    let (column, direction) = (query.sort.column(), if query.descending { "desc" } else { "asc" });
    let sql = format!(
        "select j.job_id, j.name, j.team, j.description, j.db_default_type, j.contacts, j.schedule_cron,
                j.generate_keytab, j.enable_execution_notifications, j.notification_delay_period_minutes,
                j.deployment_status, j.deployment_enabled, s.next_tick, j.last_execution_status,
                j.last_execution_start, j.last_execution_end, j.last_execution_duration_seconds, j.successful_executions, j.failed_executions
         from data_job j left join schedule s on s.schedule_id = j.schedule_id
         where {conditions}
         order by {column} {direction} nulls last, j.name {direction}
         limit {} offset {}",
        query.limit, query.offset
    );
    let rows: Vec<SummaryRow> = on!(tx, c => {
        let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql));
        for value in bound {
            statement = statement.bind(value);
        }
        statement.fetch_all(c).await
    })?;
    rows.into_iter()
        .map(|row| {
            Ok(JobSummary {
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
        })
        .collect()
}

/// How many jobs a query finds on all pages.
pub async fn count(tx: &mut Tx, query: &JobQuery) -> Result<i64> {
    let (conditions, bound) = query.conditions();
    let sql = format!("select count(*) from data_job j where {conditions}");
    let (count,): (i64,) = on!(tx, c => {
        let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql));
        for value in bound {
            statement = statement.bind(value);
        }
        statement.fetch_one(c).await
    })?;
    Ok(count)
}

/// How many live jobs have each outcome of their rollout.
pub async fn deployment_counts(tx: &mut Tx) -> Result<Vec<(DeploymentStatus, i64)>> {
    let rows: Vec<(String, i64)> = on!(tx, c => sqlx::query_as(
        "select deployment_status, count(*) from data_job where deleted_at is null group by deployment_status",
    )
    .fetch_all(c)
    .await)?;
    rows.into_iter()
        .map(|(status, count)| {
            Ok((DeploymentStatus::parse(&status).ok_or_else(|| corrupt("a deployment status"))?, count))
        })
        .collect()
}

/// Removes what is left of jobs deleted before `before`, at most `limit` at a time: rows, sources, executions, logs.
/// Answers how many jobs went. A job with an active execution or with something still deployed stays.
pub async fn purge_deleted(tx: &mut Tx, before: Timestamp, limit: i64) -> Result<u64> {
    let sql = format!(
        "select j.job_id from data_job j
         where j.deleted_at < $1
           and not exists (select 1 from deployment d where d.job_id = j.job_id)
           and not exists (select 1 from data_job_execution e where e.job_id = j.job_id and e.holds_slot)
         order by j.deleted_at, j.job_id limit $2 {}",
        tx.locking("for update of j")
    );
    let ids: Vec<(String,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
    .bind(micros(before))
    .bind(limit)
    .fetch_all(c)
    .await)?;
    for (id,) in &ids {
        crate::sources::lock_archives(tx, id).await?;
        for sql in [
            "delete from log_chunk where execution_id in
                (select execution_id from data_job_execution where job_id = $1)",
            "delete from data_job_execution where job_id = $1",
            "delete from deployment_revision where job_id = $1",
            "delete from rollout where job_id = $1",
            "delete from job_properties where job_id = $1",
            "delete from job_secret where job_id = $1",
            "delete from archive_chunk where archive_hash in
                (select archive_hash from source_version s where s.job_id = $1
                    and not exists (select 1 from source_version o
                        where o.archive_hash = s.archive_hash and o.job_id <> s.job_id))",
            "delete from source_version where job_id = $1",
            "delete from data_job where job_id = $1",
        ] {
            on!(tx, c => sqlx::query(sql).bind(id).execute(c).await.map(drop))?;
        }
    }
    Ok(ids.len() as u64)
}
