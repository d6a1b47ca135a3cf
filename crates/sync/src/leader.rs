//! Leader election: at most one leader at a time, by a row with an epoch.
//!
//! No clock of another machine is compared. A follower takes over when the row has not changed for most of the lease on the
//! follower's boot clock; a leader that could not renew the lease stops before that on its own.
//!
//! ```text
//! |--- a renewal reaches the row ---|
//! 0       0.2 the next one is due      0.75 the leader stops   0.85 a follower takes over    1 the lease expires
//! ```

use std::time::Duration;

use model::plan::RENDERER_VERSION;
use store::leases::{self, Candidate, Epoch, SYNCHRONIZER, Taken};
use tokio_util::sync::CancellationToken;

use crate::{DATABASE_RETRY, LeaderEpoch, Synchronizer, configuration};

/// The longest pause between two looks of a follower at the lease.
const POLL_MAX: Duration = Duration::from_millis(400);

/// The share of the lease for which a leader continues without a renewal, and for which a follower waits for one.
const LEADER_STOPS: f64 = 0.75;
const FOLLOWER_TAKES_OVER: f64 = 0.85;

/// The share of the lease in which a leader may begin a change in a cluster, and the longest duration of one change. A lease
/// that leaves no time between two renewals is rejected where it is set.
const WRITES_BEGIN: f64 = 0.5;
const CHANGE_MAX: Duration = model::runtime::CHANGE_MAX;

/// The pause of an instance that may not lead because its version is too old.
const OUTDATED_PAUSE: Duration = Duration::from_secs(10);

/// How long a leader may take to release the lease.
const RELEASE_MAX: Duration = Duration::from_secs(1);

/// A lease that this instance took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acquired {
    pub(crate) epoch: Epoch,
    /// On the boot clock, from before the statement was sent: its result may have arrived late.
    pub(crate) alive: Duration,
}

/// Waits for leadership. `None` when the service stops first.
pub(crate) async fn acquire(sync: &Synchronizer, shutdown: &CancellationToken) -> Option<Acquired> {
    let mut watched: Option<(leases::Lease, Duration)> = None;
    let look = POLL_MAX.min(sync.options.lease / 20);
    let (mut runs_elsewhere, mut is_outdated) = (false, false);
    let configuration = configuration::fingerprint(sync);
    let mut differs_in = None;
    loop {
        sync.gauges.beat("leadership");
        let delay = match read_lease(sync, &configuration, &mut watched).await {
            Ok(Seen::Free(acquired)) => {
                sync.gauges.configuration_differs(false);
                return Some(acquired);
            }
            Ok(Seen::Taken) => {
                runs_elsewhere = false;
                if let Some((lease, _)) = &watched {
                    compare_configuration(sync, &configuration, lease, &mut differs_in);
                }
                look
            }
            Ok(Seen::RunsElsewhere(host)) => {
                if !std::mem::replace(&mut runs_elsewhere, true) {
                    tracing::warn!(
                        host,
                        "the host of local executions is another machine or data folder; this instance serves requests \
                         and never leads"
                    );
                }
                watched = None;
                look
            }
            Ok(Seen::Outdated(renderer)) => {
                if !std::mem::replace(&mut is_outdated, true) {
                    tracing::warn!(
                        renderer,
                        own = RENDERER_VERSION,
                        "an instance with a newer version has led; this one serves requests and never \
                         leads. Update it"
                    );
                }
                OUTDATED_PAUSE
            }
            Err(error) => {
                tracing::warn!(%error, "the lease can't be read; retrying");
                // No lease expires while no leader could renew it.
                watched = None;
                DATABASE_RETRY
            }
        };
        tokio::select! {
            () = sync.clock.sleep(delay) => {}
            () = sync.db.notifications().leadership.notified() => {}
            () = shutdown.cancelled() => return None,
        }
    }
}

/// The result of an attempt to lead.
enum Seen {
    /// This instance leads now.
    Free(Acquired),
    /// The lease is free, but an instance with this higher version of the renderer has led.
    Outdated(i64),
    /// Another instance leads, or was faster.
    Taken,
    /// This instance has no access to the executions that a leader must follow.
    RunsElsewhere(String),
}

/// Warns once per leader epoch when the leader has another configuration than this instance.
fn compare_configuration(sync: &Synchronizer, own: &str, lease: &leases::Lease, differs_in: &mut Option<i64>) {
    let differs = lease.configuration.as_deref().is_some_and(|of_leader| of_leader != own);
    sync.gauges.configuration_differs(differs);
    if differs && differs_in.replace(lease.epoch) != Some(lease.epoch) {
        tracing::warn!(
            leader = lease.holder,
            epoch = lease.epoch,
            "the leader has another configuration than this instance: each change of leadership would roll out all \
             deployments again. Give both the same configuration"
        );
    }
}

async fn read_lease(
    sync: &Synchronizer,
    configuration: &str,
    watched: &mut Option<(leases::Lease, Duration)>,
) -> Result<Seen, store::StoreError> {
    if let Some(here) = sync.runtime.host() {
        let mut tx = sync.db.read().await?;
        if let Some(host) = store::hosts::find(&mut tx).await?.filter(|host| host.id != here) {
            return Ok(Seen::RunsElsewhere(host.id));
        }
    }
    try_acquire(sync, configuration, watched).await
}

async fn try_acquire(
    sync: &Synchronizer,
    configuration: &str,
    watched: &mut Option<(leases::Lease, Duration)>,
) -> Result<Seen, store::StoreError> {
    let asked = sync.clock.boot();
    let lease = leases::find(&sync.db, SYNCHRONIZER).await?;
    let Some(lease) = lease else {
        return take(sync, configuration, None).await;
    };
    let since = match watched {
        Some((seen, since)) if *seen == lease => *since,
        _ => {
            let now = sync.clock.boot();
            *watched = Some((lease.clone(), now));
            now
        }
    };
    // A leader that released the lease leaves an empty holder. The row is as old as the instant before it was read.
    let unchanged = asked.saturating_sub(since);
    if sync.options.exclusive || lease.holder.is_empty() || unchanged >= sync.options.lease.mul_f64(FOLLOWER_TAKES_OVER)
    {
        return take(sync, configuration, Some(&lease)).await;
    }
    Ok(Seen::Taken)
}

/// Takes the lease. Gives up when the database takes so long that the lease would expire.
async fn take(
    sync: &Synchronizer,
    configuration: &str,
    seen: Option<&leases::Lease>,
) -> Result<Seen, store::StoreError> {
    let (holder, host) = (&*sync.options.holder, sync.runtime.host());
    let candidate = Candidate { holder, host, renderer: RENDERER_VERSION, configuration };
    let alive = sync.clock.boot();
    let taking = Box::pin(leases::take_at(&sync.db, SYNCHRONIZER, candidate, seen));
    let taken = if sync.options.exclusive {
        taking.await?
    } else {
        let Ok(taken) = sync.clock.timeout(sync.options.lease / 5, taking).await else {
            tracing::warn!("the database takes too long to grant the lease; retrying");
            return Ok(Seen::Taken);
        };
        taken?
    };
    Ok(match taken {
        Taken::Leads(epoch) => Seen::Free(Acquired { epoch, alive }),
        Taken::No => Seen::Taken,
        Taken::Outdated { renderer } => Seen::Outdated(renderer),
    })
}

/// Renews the lease until the leader epoch is over, and releases it when the service stops.
pub(crate) async fn renew(sync: &Synchronizer, leader_epoch: &LeaderEpoch, taken: Duration) {
    let lease = sync.options.lease;
    // A renewal counts from before it was sent.
    let mut alive = taken;
    let mut lost = false;
    let_write(sync, alive);
    while leader_epoch.pause((lease / 5).min(until_end(sync, alive, lease))).await {
        sync.gauges.beat("lease");
        let sent = sync.clock.boot();
        let renewing = Box::pin(leases::renew(&sync.db, SYNCHRONIZER, leader_epoch.epoch));
        let answer = if sync.options.exclusive {
            Ok(renewing.await)
        } else {
            sync.clock.timeout((lease / 5).min(until_end(sync, alive, lease)), renewing).await
        };
        match answer {
            Ok(Ok(true)) => {
                alive = sent;
                let_write(sync, alive);
            }
            Ok(Ok(false)) => {
                tracing::warn!(epoch = leader_epoch.epoch.0, "another instance leads");
                lost = true;
                leader_epoch.over.cancel();
            }
            Ok(Err(error)) => tracing::warn!(%error, "the lease can't be renewed; retrying"),
            Err(_) => tracing::warn!("the database takes too long to renew the lease; retrying"),
        }
        if !sync.options.exclusive && until_end(sync, alive, lease).is_zero() {
            tracing::warn!(epoch = leader_epoch.epoch.0, "the lease expired; this instance stops leading");
            leader_epoch.over.cancel();
        }
    }
    sync.runtime.may_write_until(Duration::ZERO);
    sync.runtime.resign();
    if lost {
        return;
    }
    let release = Box::pin(leases::release(&sync.db, SYNCHRONIZER, leader_epoch.epoch));
    if !matches!(sync.clock.timeout(RELEASE_MAX, release).await, Ok(Ok(()))) {
        tracing::warn!("the lease could not be released; another instance takes it when it expires");
    }
}

/// Allows changes in the cluster that end before a follower could lead.
fn let_write(sync: &Synchronizer, alive: Duration) {
    let lease = sync.options.lease;
    let time = lease.mul_f64(WRITES_BEGIN).min(lease.mul_f64(FOLLOWER_TAKES_OVER).saturating_sub(CHANGE_MAX));
    sync.runtime.may_write_until(if sync.options.exclusive { Duration::MAX } else { alive + time });
}

/// Time until a leader must stop whose last renewal was at `alive` on the boot clock.
fn until_end(sync: &Synchronizer, alive: Duration, lease: Duration) -> Duration {
    (alive + lease.mul_f64(LEADER_STOPS)).saturating_sub(sync.clock.boot())
}
