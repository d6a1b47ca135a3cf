//! Data jobs: one row a live job, tombstones of deleted ones.

pub mod deleted;
mod list;
mod query;
mod row;
mod search_index;
mod strategy;

use jiff::Timestamp;
use model::{
    job::DataJob,
    name::{JobId, JobName, TeamName},
    rollout::Status as DeploymentStatus,
};

use crate::{
    codec::{micros, storable, to_json},
    db::{Tx, on},
    error::{Result, corrupt},
};
pub use list::{JobSummary, Page, With, count, is_one_statement, page, page_of};
pub use query::{DeploymentFilter, JobQuery, JobSort, Measure, Search, SearchField};
use row::{COLUMNS, JobRow, has_contacts};
pub(crate) use search_index::{complete, python as index_python};

/// Stores a new job. `false` when a live job has its name.
pub async fn insert(tx: &mut Tx, job: &DataJob, schedule: Option<i64>, by: &str, now: Timestamp) -> Result<bool> {
    let config = &job.config;
    storable([job.description.as_str(), config.db_default_type.as_deref().unwrap_or_default()])?;
    let done = on!(tx, c => sqlx::query(
        "insert into data_job (job_id, name, team, description, db_default_type, contacts, schedule_cron, schedule_id,
            generate_keytab, enable_execution_notifications, notification_delay_period_minutes, created_at, created_by,
            updated_at, row_version, deployment_status, successful_executions, failed_executions, team_lower,
            contacts_present)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $12, 1, 'NONE', 0, 0, $14, $15)
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
    .bind(job.team.as_str().to_lowercase())
    .bind(has_contacts(&config.contacts))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    if done == 1 {
        search_index::index(tx, job).await?;
    }
    Ok(done == 1)
}

/// Replaces description, team and configuration of a live job.
pub async fn update(tx: &mut Tx, job: &DataJob, schedule: Option<i64>, now: Timestamp) -> Result<()> {
    let config = &job.config;
    storable([job.description.as_str(), config.db_default_type.as_deref().unwrap_or_default()])?;
    on!(tx, c => sqlx::query(
        "update data_job set team = $2, description = $3, db_default_type = $4, contacts = $5, schedule_cron = $6,
            schedule_id = $7, generate_keytab = $8, enable_execution_notifications = $9,
            notification_delay_period_minutes = $10, updated_at = $11, row_version = row_version + 1, team_lower = $12,
            contacts_present = $13
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
    .bind(job.team.as_str().to_lowercase())
    .bind(has_contacts(&config.contacts))
    .execute(c)
    .await
    .map(drop))?;
    search_index::index(tx, job).await
}

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
/// the check and the change. Writers of a job's rows lock the job first, so that no two ever wait for each other.
pub async fn find_for_update(tx: &mut Tx, name: &JobName) -> Result<Option<DataJob>> {
    let locking = tx.locking("for no key update");
    let sql = format!("select {COLUMNS} from data_job where name = $1 and deleted_at is null {locking}");
    let row: Option<JobRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(name.as_str())
        .fetch_optional(c)
        .await)?;
    row.map(DataJob::try_from).transpose()
}

/// The team of a live job.
pub async fn team_of(tx: &mut Tx, id: JobId) -> Result<Option<TeamName>> {
    let sql = "select team from data_job where job_id = $1 and deleted_at is null";
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as(sql).bind(id.to_string()).fetch_optional(c).await)?;
    row.map(|(team,)| TeamName::parse(&team).map_err(|_| corrupt("a team name"))).transpose()
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
///
/// The tombstone has what an undelete needs: the user who deleted it, and which generation of its deployment was
/// desired then. A program of another version may restore it, so that its row counts as incomplete from now on.
pub async fn delete(tx: &mut Tx, id: JobId, by: &str, wanted: Option<i64>, now: Timestamp) -> Result<bool> {
    let done = on!(tx, c => sqlx::query(
        "update data_job set deleted_at = $2, deleted_by = $3, deleted_generation = $4, schedule_id = null,
            row_version = row_version + 1, deployment_status = 'NONE', deployment_enabled = null,
            deployment_python = null, team_lower = null
         where job_id = $1 and deleted_at is null",
    )
    .bind(id.to_string())
    .bind(micros(now))
    .bind(by)
    .bind(wanted)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    search_index::remove(tx, id).await?;
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

/// Keeps every other transaction that asks this from continuing until the end of this one, and returns a team that has live
/// jobs beside `team`; `but` is a job that does not count.
pub async fn other_team(tx: &mut Tx, team: &TeamName, but: JobId) -> Result<Option<TeamName>> {
    on!(tx, c => sqlx::query(
        "insert into service_state (name, value) values ('one_team', '')
         on conflict (name) do update set value = service_state.value",
    )
    .execute(c)
    .await
    .map(drop))?;
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as(
        "select team from data_job where deleted_at is null and team <> $1 and job_id <> $2 order by team limit 1",
    )
    .bind(team.as_str())
    .bind(but.to_string())
    .fetch_optional(c)
    .await)?;
    row.map(|(team,)| TeamName::parse(&team).map_err(|_| corrupt("a team name"))).transpose()
}

/// Teams that have live jobs, in the order of their names.
pub async fn teams(tx: &mut Tx, limit: i64) -> Result<Vec<TeamName>> {
    let rows: Vec<(String,)> = on!(tx, c => sqlx::query_as(
        "select distinct team from data_job where deleted_at is null order by team limit $1",
    )
    .bind(limit)
    .fetch_all(c)
    .await)?;
    rows.into_iter().map(|(team,)| TeamName::parse(&team).map_err(|_| corrupt("a team name"))).collect()
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
