//! Who changed what, when, and by which request.

use jiff::Timestamp;
use model::{access::Caller, name::JobId};

use crate::{Result, Tx, db::on, micros};

/// An accepted change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// What was done, such as `job.create`.
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
