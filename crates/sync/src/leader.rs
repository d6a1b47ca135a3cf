//! One leader at a time, by a row with an epoch.
//!
//! No clock of another machine is compared: a follower takes over when the row stood unchanged for the lease's time on its
//! own monotonic clock.

use std::time::Duration;

use store::leases::{self, Epoch, SYNCHRONIZER};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{DATABASE_RETRY, Synchronizer, Term};

/// Waits for leadership. `None` when the service stops first.
pub(crate) async fn acquire(sync: &Synchronizer, shutdown: &CancellationToken) -> Option<Epoch> {
    let mut watched: Option<(leases::Lease, Instant)> = None;
    loop {
        let delay = match try_acquire(sync, &mut watched).await {
            Ok(Some(epoch)) => return Some(epoch),
            Ok(None) => sync.options.lease / 5,
            Err(error) => {
                tracing::warn!(%error, "the lease can't be read; trying again");
                DATABASE_RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shutdown.cancelled() => return None,
        }
    }
}

async fn try_acquire(
    sync: &Synchronizer,
    watched: &mut Option<(leases::Lease, Instant)>,
) -> Result<Option<Epoch>, store::StoreError> {
    let lease = leases::find(&sync.db, SYNCHRONIZER).await?;
    let Some(lease) = lease else {
        return leases::take(&sync.db, SYNCHRONIZER, &sync.options.holder, None).await;
    };
    let since = match watched {
        Some((seen, since)) if *seen == lease => *since,
        _ => {
            let now = Instant::now();
            *watched = Some((lease.clone(), now));
            now
        }
    };
    // An empty holder is one that stepped down.
    if sync.options.exclusive || lease.holder.is_empty() || since.elapsed() >= sync.options.lease {
        return leases::take(&sync.db, SYNCHRONIZER, &sync.options.holder, Some(&lease)).await;
    }
    Ok(None)
}

/// Shows signs of life until the term is over, and steps down at the end of the service.
pub(crate) async fn renew(sync: &Synchronizer, term: &Term) {
    let mut alive = Instant::now();
    while term.pause(sync.options.lease / 3).await {
        match tokio::time::timeout(sync.options.lease / 3, leases::renew(&sync.db, SYNCHRONIZER, term.epoch)).await {
            Ok(Ok(true)) => alive = Instant::now(),
            Ok(Ok(false)) => {
                tracing::warn!(epoch = term.epoch.0, "another instance leads");
                term.over.cancel();
            }
            Ok(Err(error)) => tracing::warn!(%error, "the lease can't be renewed; trying again"),
            Err(_) => tracing::warn!("the database takes too long to renew the lease; trying again"),
        }
        if !sync.options.exclusive && alive.elapsed() >= sync.options.lease {
            tracing::warn!(epoch = term.epoch.0, "the lease ran out; this instance stops leading");
            term.over.cancel();
        }
    }
    let step_down = leases::step_down(&sync.db, SYNCHRONIZER, term.epoch);
    if tokio::time::timeout(Duration::from_secs(1), step_down).await.is_err() {
        tracing::warn!("the lease could not be handed on; another instance takes it when it has run out");
    }
}
