//! The audit trail: each change with its user, time and request.

use jiff::Timestamp;
use model::{
    access::Caller,
    name::{JobId, TeamName},
};

use crate::{
    codec::{instant, micros},
    db::{Tx, metered_rows, on},
    error::Result,
    meter::{RowBytes, bytes_of},
};

/// An accepted change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// The action, such as `job.create`.
    pub action: &'static str,
    /// The job.
    pub job_id: JobId,
    /// The job's name.
    pub job_name: &'a str,
    /// The job's team.
    pub team: &'a str,
    /// The generation that it made.
    pub generation: Option<i64>,
    /// More, never a secret.
    pub detail: Option<String>,
}

/// Keeps an event, in the transaction of the change.
pub async fn record(tx: &mut Tx, caller: &Caller, event: &Event<'_>, now: Timestamp) -> Result<()> {
    on!(tx, c => sqlx::query(
        "insert into audit_event (at, by, op_id, action, job_id, job_name, team, generation, detail)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(micros(now))
    .bind(&caller.user)
    .bind(&caller.op_id)
    .bind(event.action)
    .bind(event.job_id.to_string())
    .bind(event.job_name)
    .bind(event.team)
    .bind(event.generation)
    .bind(&event.detail)
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// Keeps an event that is about a team and none of its jobs, in the transaction of the change.
pub async fn record_of_team(
    tx: &mut Tx,
    caller: &Caller,
    action: &'static str,
    team: &TeamName,
    now: Timestamp,
) -> Result<()> {
    on!(tx, c => sqlx::query("insert into audit_event (at, by, op_id, action, team) values ($1, $2, $3, $4, $5)")
        .bind(micros(now))
        .bind(&caller.user)
        .bind(&caller.op_id)
        .bind(action)
        .bind(team.as_str())
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// Keeps an event that is about the service itself, in the transaction of the change.
pub async fn record_of_service(
    tx: &mut Tx,
    caller: &Caller,
    action: &'static str,
    detail: String,
    now: Timestamp,
) -> Result<()> {
    on!(tx, c => sqlx::query("insert into audit_event (at, by, op_id, action, detail) values ($1, $2, $3, $4, $5)")
        .bind(micros(now))
        .bind(&caller.user)
        .bind(&caller.op_id)
        .bind(action)
        .bind(detail)
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// An event that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Counts the events of the service.
    pub id: i64,
    /// When it happened.
    pub at: Timestamp,
    /// Who did it.
    pub by: String,
    /// By which request.
    pub op_id: String,
    /// The action.
    pub action: String,
    /// The job's team after it.
    pub team: Option<String>,
    /// The generation that it made.
    pub generation: Option<i64>,
    /// More.
    pub detail: Option<String>,
}

#[derive(sqlx::FromRow)]
struct KeptRow {
    event_id: i64,
    at: i64,
    by: String,
    op_id: String,
    action: String,
    team: Option<String>,
    generation: Option<i64>,
    detail: Option<String>,
}

impl RowBytes for KeptRow {
    fn text_bytes(&self) -> usize {
        bytes_of([Some(&self.by), Some(&self.op_id), Some(&self.action), self.team.as_ref(), self.detail.as_ref()])
    }
}

/// The events of a job below the id `before`, newest first, at most `limit`, without those of another job of that name.
pub async fn page(tx: &mut Tx, job_id: JobId, before: i64, limit: i64) -> Result<Vec<RecordedEvent>> {
    let rows = metered_rows!(
        tx,
        sqlx::query_as::<_, KeptRow>(
            "select event_id, at, by, op_id, action, team, generation, detail from audit_event
         where job_id = $1 and event_id < $2 order by event_id desc limit $3",
        )
        .bind(job_id.to_string())
        .bind(before)
        .bind(limit)
    )?;
    rows.into_iter()
        .map(|row| {
            Ok(RecordedEvent {
                id: row.event_id,
                at: instant(row.at)?,
                by: row.by,
                op_id: row.op_id,
                action: row.action,
                team: row.team,
                generation: row.generation,
                detail: row.detail,
            })
        })
        .collect()
}

/// Deletes events that happened before `before`, at most `limit` in a call. Returns how many were deleted.
pub async fn purge(tx: &mut Tx, before: Timestamp, limit: i64) -> Result<u64> {
    let done = on!(tx, c => sqlx::query(
        "delete from audit_event where event_id in
            (select event_id from audit_event where at < $1 order by at limit $2)",
    )
    .bind(micros(before))
    .bind(limit)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done)
}
