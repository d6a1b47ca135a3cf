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
use crate::{Synchronizer, Term};

/// Reconciles each deployment that is due, until the leader epoch is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    let (swept, waves) = watch::channel(Outdated::default());
    tokio::join!(
        reconcile_due(sync, term),
        resync_periodically(sync, term, &swept),
        images::check_periodically(sync, term),
        waves::run(sync, term, waves)
    );
}
