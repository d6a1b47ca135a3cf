//! The queue of deployments that are due: many are reconciled at once, each by one task at a time.

use std::{sync::Arc, time::Duration};

use model::name::JobId;
use store::StoreError;
use tokio_util::task::JoinMap;
use tracing::Instrument;

use super::reconcile::{Pools, carry_out};
use crate::{DATABASE_RETRY, LeaderEpoch, PANIC_PAUSE, Pause, Synchronizer};

/// The most reconciliations at once, without those that install or wait for an installation.
const RECONCILIATIONS_MAX: usize = 1000;

/// The most deployments that install or wait for an installation; no other reconciliation begins above it.
const INSTALLING_MAX: usize = 10_000;

/// The longest pause between two queries for due deployments, because a notification of another instance may be lost.
const POLL_MAX: Duration = Duration::from_secs(5);

/// Reconciliations that end within this time are followed by one query for due deployments, not by one each: thousands may end
/// at once.
const GATHER: Duration = Duration::from_millis(20);

/// Reconciles each deployment that is due, until the leader epoch is over.
pub(super) async fn reconcile_due(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    let pools = Arc::new(Pools::new(&sync.options));
    let mut reconciliations: JoinMap<JobId, ()> = JoinMap::new();
    loop {
        let found = find_due(sync, &reconciliations, pools.installing()).await;
        sync.gauges.queue_polled(found.is_ok());
        let pause = match found {
            Ok((due, pause)) => {
                for job_id in due {
                    let (sync, leader_epoch, pools) = (sync.clone(), leader_epoch.clone(), pools.clone());
                    reconciliations.spawn(job_id, async move { reconcile(&sync, &leader_epoch, &pools, job_id).await });
                }
                pause
            }
            Err(error) if leader_epoch.survives(&error) => DATABASE_RETRY.into(),
            Err(_) => break,
        };
        tokio::select! {
            () = leader_epoch.over.cancelled() => break,
            () = sync.db.notifications().deployments.notified() => {}
            () = pause.pass(&*sync.clock) => {}
            Some(ended) = reconciliations.join_next() => {
                if !leader_epoch.pause(GATHER).await {
                    break;
                }
                let mut ended = Some(ended);
                while let Some((job_id, end)) = ended {
                    if let Err(error) = end {
                        sync.gauges.panicked("deployment");
                        tracing::error!(%error, job = %job_id, retry_in = ?PANIC_PAUSE, "reconciling a deployment panicked; retrying");
                        // Its key stays occupied for the pause, so that it can't be retried in a loop.
                        let leader_epoch = leader_epoch.clone();
                        reconciliations.spawn(job_id, async move {
                            leader_epoch.pause(PANIC_PAUSE).await;
                        });
                    }
                    ended = reconciliations.try_join_next();
                }
            }
        }
    }
    reconciliations.shutdown().await;
}

/// The deployments to reconcile now, and the pause until the next one is due.
async fn find_due(
    sync: &Synchronizer,
    in_flight: &JoinMap<JobId, ()>,
    installing: usize,
) -> Result<(Vec<JobId>, Pause), StoreError> {
    let now = sync.clock.now();
    let mut tx = sync.db.read().await?;
    let free = free(in_flight.len(), installing);
    // Deployments that are being reconciled are due as well.
    let limit = i64::try_from(free + in_flight.len()).unwrap_or(i64::MAX);
    let due = store::deployments::due(&mut tx, now, limit).await?;
    let next = store::deployments::next_due(&mut tx, now).await?;
    let due = due.into_iter().filter(|id| !in_flight.contains_key(id)).take(free).collect();
    Ok((due, Pause { until: next, most: POLL_MAX }))
}

/// How many reconciliations can begin.
fn free(in_flight: usize, installing: usize) -> usize {
    RECONCILIATIONS_MAX
        .saturating_sub(in_flight.saturating_sub(installing))
        .min((RECONCILIATIONS_MAX + INSTALLING_MAX).saturating_sub(in_flight))
}

/// Reconciles one deployment. After a failure of the database, only its own key pauses.
async fn reconcile(sync: &Synchronizer, leader_epoch: &LeaderEpoch, pools: &Pools, job_id: JobId) {
    if let Err(error) = try_reconcile(sync, leader_epoch, pools, job_id).await
        && leader_epoch.survives(&error)
    {
        leader_epoch.pause(DATABASE_RETRY).await;
    }
}

async fn try_reconcile(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    pools: &Pools,
    job_id: JobId,
) -> Result<(), StoreError> {
    let place = pools.reconcile().await;
    let work = {
        let mut tx = sync.db.read().await?;
        store::deployments::work(&mut tx, job_id).await?
    };
    let Some(mut work) = work else {
        // Its last row was removed while the key was due.
        let mut tx = sync.db.write().await?;
        store::deployments::forget(&mut tx, leader_epoch.epoch, job_id).await?;
        return tx.commit().await;
    };
    if work.team_secret.is_none() {
        work.team_secret = sync.team_secret(&work.team).await?;
    }
    // On each line, at every log level.
    let span = tracing::error_span!(
        "deployment",
        job = %work.job_name,
        revision = work.deployment.generation,
        epoch = leader_epoch.epoch.0,
        op_id = tracing::field::Empty,
    );
    Box::pin(carry_out(sync, leader_epoch, pools, place, &work).instrument(span)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_takes_no_place_of_a_look() {
        for (in_flight, installing, expected) in [
            (0, 0, 1000),
            (999, 0, 1),
            (1000, 0, 0),
            (1000, 1000, 1000),
            (1500, 600, 100),
            (10_900, 10_000, 100),
            (11_000, 11_000, 0),
            // It ended since its installation was counted.
            (3, 5, 1000),
        ] {
            assert_eq!(free(in_flight, installing), expected, "{in_flight} in flight, {installing} installing");
        }
    }
}
