//! Publishes the leader epoch to the runtime, so that the runtime can reject writes of an earlier leader.

use std::time::Duration;

use crate::{LeaderEpoch, Synchronizer};

/// The pause before a failed attempt is retried.
const RETRY: Duration = Duration::from_secs(10);

/// Retries until the epoch is published or over. No other loop waits for it, because the database fences its rows itself.
pub(crate) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    let mut said = None;
    while let Err(problem) = sync.runtime.lead(leader_epoch.epoch.0).await {
        if said.as_ref() != Some(&problem) {
            tracing::warn!(
                epoch = leader_epoch.epoch.0,
                problem = format!("{problem:#}"),
                "failed to publish the leader epoch; retrying"
            );
            said = Some(problem);
        }
        if !leader_epoch.pause(RETRY).await {
            return;
        }
    }
}
