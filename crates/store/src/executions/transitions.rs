//! The way of a run from the accepted start to its one final status.

use jiff::Timestamp;
use model::{
    artifact::Artifact,
    execution::{Status, Type},
    name::{ExecutionId, JobId, JobName},
    runtime::ScheduledExecution,
};

use crate::{
    artifact,
    codec::micros,
    db::{Tx, on},
    dialect::Dialect,
    error::{Result, StoreError},
    jobs,
    leases::{self, Epoch},
};

/// A start to store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewExecution<'a> {
    /// The job.
    pub job_id: JobId,
    /// The job's name.
    pub job_name: &'a JobName,
    /// The kind of start.
    pub kind: Type,
    /// The user who starts it.
    pub started_by: &'a str,
    /// The operation id; a tick's own execution id where absent.
    pub op_id: Option<&'a str>,
    /// The arguments as a JSON object.
    pub arguments: Option<&'a str>,
    /// The tick that starts it.
    pub scheduled_tick: Option<Timestamp>,
}

/// The outcome of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It is stored and holds the job's slot.
    Accepted(ExecutionId),
    /// Another run of the job is active; nothing was stored. The transaction is of no more use.
    SlotTaken,
}

/// Stores a start as SUBMITTED with the job's slot. The unique index decides between two starts of one instant.
pub async fn insert(tx: &mut Tx, new: &NewExecution<'_>, now: Timestamp) -> Result<Started> {
    /// Starts of one job in one second that are distinguished by a counter.
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
            "insert into data_job_execution (execution_id, job_number, type, status, submitted_at, started_by, op_id,
                arguments, scheduled_tick, holds_slot, leader_epoch)
             values ($1, (select number from data_job where job_id = $2), $3, 'SUBMITTED', $4, $5, $6, $7, $8, true, 0)
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
            // The tick was recorded before: by this job, or by another job of the same name in the same minute.
            Ok(_) if new.scheduled_tick.is_some() => return Ok(Started::SlotTaken),
            Ok(_) => {}
            // The id is checked first: what is left are the slot and the tick.
            Err(error) if error.is_of_unique_index() => return Ok(Started::SlotTaken),
            Err(error) => return Err(error),
        }
    }
    // A second has more starts than ids: the next one has ids again.
    Err(StoreError::PoolExhausted)
}

/// Whether a tick still waits on a job that is alive, deployed and enabled; the job stays so until the end of the
/// transaction.
async fn still_waits(tx: &mut Tx, job_id: JobId, tick: Timestamp) -> Result<bool> {
    if !jobs::lock(tx, job_id).await? {
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

/// The outcome of recording a scheduled execution.
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
/// and both are reported.
pub async fn record_scheduled(
    tx: &mut Tx,
    epoch: Epoch,
    id: &ExecutionId,
    run: &ScheduledExecution,
    with: Option<&Dispatched>,
) -> Result<Recorded> {
    leases::fence(tx, epoch).await?;
    jobs::lock(tx, run.job_id).await?;
    let (lock_key, image) = with.map_or((None, None), |with| artifact::columns(&with.artifact));
    let alone: Option<(bool,)> = on!(tx, c => sqlx::query_as(
        "insert into data_job_execution (execution_id, job_number, type, status, submitted_at, started_by, op_id,
            scheduled_tick, holds_slot, leader_epoch, generation, lock_key, image)
         select $1, j.number, 'SCHEDULED', 'SUBMITTED', $3, 'scheduled/runtime', $1, $4,
            not exists (select 1 from data_job_execution e where e.job_number = j.number and e.holds_slot), $5,
            (select v.generation from deployment_revision v where v.job_id = j.job_id and v.generation = $6), $7, $8
         from data_job j where j.job_id = $2
         on conflict do nothing returning holds_slot",
    )
    .bind(id.as_str())
    .bind(run.job_id.to_string())
    .bind(micros(run.created_at))
    .bind(micros(run.tick))
    .bind(epoch.0)
    .bind(with.map(|with| with.generation))
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

/// Records the reason why a run does not start. `false` when it has started.
pub async fn record_waiting(tx: &mut Tx, epoch: Epoch, id: &ExecutionId, message: &str) -> Result<bool> {
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

/// The revision and artifact that an execution is dispatched with.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatched {
    /// The revision that it runs, by its generation.
    pub generation: i64,
    /// Its artifact.
    pub artifact: Artifact,
}

/// Records the revision and artifact of a dispatch, before it: after a crash the next leader must know what it ran.
/// `false` when it is not SUBMITTED any more, was dispatched already, or the revision is kept no longer.
pub async fn dispatch(tx: &mut Tx, epoch: Epoch, id: &ExecutionId, with: &Dispatched) -> Result<bool> {
    leases::fence(tx, epoch).await?;
    // A revision that an execution refers to is not removed: who removes one has its job too.
    lock_job(tx, id).await?;
    let (lock_key, image) = artifact::columns(&with.artifact);
    let done = on!(tx, c => sqlx::query(
        "update data_job_execution set generation = $2, leader_epoch = $3, lock_key = $4, image = $5
         where execution_id = $1 and status = 'SUBMITTED' and generation is null and cancel_requested_at is null
           and leader_epoch <= $3
           and exists (select 1 from data_job j join deployment_revision v on v.job_id = j.job_id
               where j.number = data_job_execution.job_number and v.generation = $2)",
    )
    .bind(id.as_str())
    .bind(with.generation)
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
    if tx.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    on!(tx, c => sqlx::query(
        "select job_id from data_job
         where number = (select job_number from data_job_execution where execution_id = $1) for no key update",
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
    // The last message of a process may hold anything.
    let message = ended.message.replace('\0', "\u{FFFD}");
    let mut from = ended.status.may_follow().to_vec();
    let mut started_at = ended.started_at;
    if ended.status == Status::Succeeded {
        // A run that was not seen running passes through that status all the same.
        from.push(Status::Submitted);
        started_at = started_at.or(Some(ended.ended_at));
    }
    let from: Vec<_> = from.iter().map(|s| format!("'{}'", s.as_str())).collect();
    // The artifact of an ended run, and its leader, are not needed any more.
    let sql = format!(
        "update data_job_execution set status = $2, message = $3, started_at = coalesce(started_at, $4), ended_at = $5,
            holds_slot = false, leader_epoch = null, lock_key = null, image = null
         where execution_id = $1 and status in ({}) and leader_epoch <= $6
         returning job_number, coalesce(started_at, submitted_at)",
        from.join(", ")
    );
    let row: Option<(i64, i64)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(id.as_str())
        .bind(ended.status.as_str())
        .bind(message)
        .bind(started_at.map(micros))
        .bind(micros(ended.ended_at))
        .bind(epoch.0)
        .fetch_optional(c)
        .await)?;
    let Some((job_number, started)) = row else { return Ok(false) };
    let end = micros(ended.ended_at);
    let failed = matches!(ended.status, Status::UserError | Status::PlatformError);
    // In one statement: the row has an entry in many indexes, and each statement would write all of them again.
    on!(tx, c => sqlx::query(
        "update data_job set successful_executions = successful_executions + $2,
            failed_executions = failed_executions + $3,
            last_execution_id = case when last_execution_end > $7 then last_execution_id else $4 end,
            last_execution_status = case when last_execution_end > $7 then last_execution_status else $5 end,
            last_execution_start = case when last_execution_end > $7 then last_execution_start else $6 end,
            last_execution_end = case when last_execution_end > $7 then last_execution_end else $7 end,
            last_execution_duration_seconds =
                case when last_execution_end > $7 then last_execution_duration_seconds else $8 end
         where number = $1",
    )
    .bind(job_number)
    .bind(i64::from(ended.status == Status::Succeeded))
    .bind(i64::from(failed))
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
         where job_number = (select number from data_job where job_id = $1) and status in ('SUBMITTED', 'RUNNING')",
    )
    .bind(job_id.to_string())
    .bind(micros(now))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done)
}
