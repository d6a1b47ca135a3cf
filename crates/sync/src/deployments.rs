//! Rolls out the desired deployments: many at once, each by one task at a time.

mod images;
mod inputs;
mod orphans;
mod queue;
mod reconcile;
mod resync;
mod waves;

use tokio::sync::watch;

pub use self::orphans::orphans;
pub(crate) use self::{inputs::fingerprint as fingerprint_of, resync::enqueue_out_of_sync};

use self::{queue::reconcile_due, resync::resync_periodically, waves::Outdated};
use crate::{LeaderEpoch, Synchronizer};

/// Reconciles each deployment that is due, until the leader epoch is over.
pub(crate) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    let (swept, waves) = watch::channel(Outdated::default());
    tokio::join!(
        reconcile_due(sync, leader_epoch),
        resync_periodically(sync, leader_epoch, &swept),
        images::check_periodically(sync, leader_epoch),
        waves::run(sync, leader_epoch, waves)
    );
}
