//! The revision and artifact of an execution: chosen and recorded once, before the start.

use model::{
    execution::{Execution, Status},
    rollout::Status as RolloutStatus,
};
use store::{
    StoreError,
    executions::{Dispatched, Ended},
};

use super::end::{end_unstarted, finish};
use crate::{LeaderEpoch, Synchronizer};

/// Chooses the revision and artifact of an execution and records them. `None` when it has to keep waiting, or ended because it
/// can never start.
pub(super) async fn dispatch(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    execution: &Execution,
) -> Result<Option<Dispatched>, StoreError> {
    let (wanted, rollout) = {
        let mut tx = sync.db.read().await?;
        let wanted = store::deployments::find(&mut tx, execution.job_id).await?;
        let rollout = store::deployments::rollout(&mut tx, execution.job_id).await?.unwrap_or_default();
        (wanted, rollout)
    };
    if wanted.is_none() {
        let message = "Cancelled: the deployment of the job was removed before the run started.";
        end_unstarted(sync, leader_epoch, execution, Status::Cancelled, message).await?;
        return Ok(None);
    }
    let (Some(generation), Some(artifact)) = (rollout.reached_generation, rollout.artifact) else {
        // The execution waits for the first deployment, and fails with it.
        if let (RolloutStatus::UserError, Some(problem)) = (rollout.status, &rollout.problem) {
            let message =
                format!("User error. The job's first deployment failed. {problem} {}", problem.countermeasures);
            end_unstarted(sync, leader_epoch, execution, Status::UserError, &message).await?;
        } else if sync.clock.now() - sync.options.start_deadline > execution.submitted_at {
            let why = rollout
                .problem
                .as_ref()
                .map_or_else(String::new, |problem| format!("{problem} {}", problem.countermeasures));
            let message = format!(
                "Platform error. The job's first deployment was not ready {} seconds after the start was accepted. {why}",
                sync.options.start_deadline.as_secs()
            );
            end_unstarted(sync, leader_epoch, execution, Status::PlatformError, &message).await?;
        }
        return Ok(None);
    };
    let mut tx = sync.db.write().await?;
    let with = Dispatched { generation, artifact };
    let stored = store::executions::dispatch(&mut tx, leader_epoch.epoch, &execution.id, &with).await?;
    tx.commit().await?;
    Ok(stored.then_some(with))
}

/// Ends an execution that was dispatched to a host that the operator gave up. It may have done part of its work.
pub(super) async fn end_abandoned(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    execution: &Execution,
) -> Result<(), StoreError> {
    let message = "Platform error. The execution ran on a host that the operator replaced (`holdfast take-over`), so its \
        result is not known. It is not repeated, because it may have done part of its work; start it again when that is \
        safe.";
    let started_at = execution.started_at;
    let ended = Ended { status: Status::PlatformError, message, started_at, ended_at: sync.clock.now() };
    finish(sync, leader_epoch, &execution.id, &ended, None).await
}
