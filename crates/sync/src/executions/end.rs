//! The end of an execution: one transaction, and then the cleanup in the runtime.

use model::{
    execution::{Execution, Status},
    log::LogChunk,
    name::{ExecutionId, JobId},
};
use store::{StoreError, executions::Ended};

use crate::{LeaderEpoch, Synchronizer};

/// Gives an execution that is unknown to the runtime its final status.
pub(super) async fn end_unstarted(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    execution: &Execution,
    status: Status,
    message: &str,
) -> Result<(), StoreError> {
    let ended = Ended { status, message, started_at: None, ended_at: sync.clock.now() };
    finish(sync, leader_epoch, &execution.id, &ended, None).await
}

/// Stores the final status of an execution with its log, in one transaction.
pub(super) async fn finish(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    id: &ExecutionId,
    ended: &Ended<'_>,
    log: Option<&LogChunk>,
) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    let changed = store::executions::finish(&mut tx, leader_epoch.epoch, id, ended).await?;
    if let Some(log) = log.filter(|_| changed) {
        store::logs::replace(&mut tx, id, log).await?;
    }
    tx.commit().await?;
    if changed {
        sync.gauges.ended(ended.status);
        tracing::info!(execution = %id, status = ended.status.as_str(), "an execution ended");
    }
    sync.db.notifications().schedules.notify_one();
    sync.db.notifications().executions.notify_one();
    Ok(())
}

/// Removes the rest of an execution from the runtime. `false` when that failed and is retried later.
pub(super) async fn forget(sync: &Synchronizer, id: &ExecutionId, job_id: JobId) -> bool {
    let forgotten = sync.runtime.forget(id, job_id).await;
    if let Err(problem) = &forgotten {
        tracing::warn!(execution = %id, %problem, "the rest of an execution could not be removed; retrying later");
    }
    forgotten.is_ok()
}
