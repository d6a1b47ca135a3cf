//! What the rows say of all live jobs at once, for whoever watches them.

use std::collections::HashMap;

use jiff::Timestamp;
use model::{deployment::Status as DeploymentStatus, execution::Status, job::Contacts, name::JobId};

use crate::{Result, Tx, corrupt, db::on, from_json, instant_opt};

/// A live job as far as it is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedJob {
    /// The key of its rows.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// Its team.
    pub team: String,
    /// Who hears of its runs; nobody when its notifications are off.
    pub contacts: Contacts,
    /// How long after a tick a missing start is reported, in minutes.
    pub notification_delay_minutes: i64,
    /// How its last rollout went.
    pub deployment: DeploymentStatus,
    /// The run that speaks for it.
    pub run: Option<WatchedRun>,
}

/// The run that speaks for a job: the active one, or the one that ended last and did not step aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedRun {
    /// Its id.
    pub id: String,
    /// Its status, which is never SKIPPED.
    pub status: Status,
}

#[derive(sqlx::FromRow)]
struct JobRow {
    job_id: String,
    name: String,
    team: String,
    contacts: String,
    enable_execution_notifications: bool,
    notification_delay_period_minutes: i64,
    deployment_status: String,
    last_execution_id: Option<String>,
    last_execution_status: Option<String>,
}

/// Every live job, in no order and from one state of the database, in three statements at most. What a job's last run
/// was stands with the job, so that it outlives the run's own row.
pub async fn jobs(tx: &mut Tx) -> Result<Vec<WatchedJob>> {
    let rows: Vec<JobRow> = on!(tx, c => sqlx::query_as(
        "select job_id, name, team, contacts, enable_execution_notifications, notification_delay_period_minutes,
            deployment_status, last_execution_id, last_execution_status
         from data_job where deleted_at is null",
    )
    .fetch_all(c)
    .await)?;
    let mut active = by_job(on!(tx, c => sqlx::query_as(
        "select job_id, execution_id, status from data_job_execution
         where holds_slot and status in ('SUBMITTED', 'RUNNING')",
    )
    .fetch_all(c)
    .await)?);
    let is_skipped = |row: &JobRow| row.last_execution_status.as_deref() == Some(Status::Skipped.as_str());
    let mut before = if rows.iter().any(is_skipped) { before_skipped(tx).await? } else { HashMap::new() };
    rows.into_iter()
        .map(|row| {
            let last = match active.remove(&row.job_id) {
                Some(run) => Some(run),
                None if is_skipped(&row) => before.remove(&row.job_id),
                None => row.last_execution_id.zip(row.last_execution_status),
            };
            let run = last
                .map(|(id, status)| {
                    let status = Status::parse(&status).ok_or_else(|| corrupt("an execution status"))?;
                    Ok::<_, crate::StoreError>(WatchedRun { id, status })
                })
                .transpose()?;
            Ok(WatchedJob {
                id: crate::job_id(&row.job_id)?,
                name: row.name,
                team: row.team,
                contacts: if row.enable_execution_notifications {
                    from_json("the contacts of a job", &row.contacts)?
                } else {
                    Contacts::default()
                },
                notification_delay_minutes: row.notification_delay_period_minutes,
                deployment: DeploymentStatus::parse(&row.deployment_status)
                    .ok_or_else(|| corrupt("a deployment status"))?,
                run,
            })
        })
        .collect()
}

/// Of each job whose last run stepped aside, the last one that did not.
async fn before_skipped(tx: &mut Tx) -> Result<HashMap<String, (String, String)>> {
    Ok(by_job(on!(tx, c => sqlx::query_as(
        "select j.job_id, e.execution_id, e.status from data_job j
         join data_job_execution e on e.execution_id = (
            select x.execution_id from data_job_execution x
            where x.job_id = j.job_id and x.ended_at is not null and x.status <> 'SKIPPED'
            order by coalesce(x.started_at, x.submitted_at) desc, x.execution_id desc limit 1)
         where j.deleted_at is null and j.last_execution_status = 'SKIPPED'",
    )
    .fetch_all(c)
    .await)?))
}

fn by_job(rows: Vec<(String, String, String)>) -> HashMap<String, (String, String)> {
    rows.into_iter().map(|(job_id, id, status)| (job_id, (id, status))).collect()
}

/// Since when a deployment has been due. `None` when it is not.
pub async fn due_since(tx: &mut Tx, job_id: JobId) -> Result<Option<Timestamp>> {
    let row: Option<(Option<i64>,)> = on!(tx, c => sqlx::query_as("select due_at from rollout where job_id = $1")
        .bind(job_id.to_string())
        .fetch_optional(c)
        .await)?;
    instant_opt(row.and_then(|(at,)| at))
}
