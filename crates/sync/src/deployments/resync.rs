//! The full resync: compares every deployment with its object, in case a change was not reported.

use model::{
    name::JobName,
    plan::{self, Desired, Plan, Reason, plan},
    runtime::{KnownDeployment, Observed},
};
use store::{StoreError, deployments::Work};
use tokio::sync::watch;

use super::{
    inputs::{inputs_of, make_due, target_of},
    orphans::{self, orphans},
    waves::Outdated,
};
use crate::{DATABASE_RETRY, LeaderEpoch, Synchronizer};

/// Deployments per read.
const SWEEP_PAGE: i64 = 500;

/// Runs at the start of a leader epoch and then at its interval, as a safety net below the watch.
pub(super) async fn resync_periodically(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    swept: &watch::Sender<Outdated>,
) {
    let mut orphans = Vec::new();
    loop {
        if let Err(problem) = sync.runtime.keep_shared().await {
            tracing::warn!(%problem, "what all deployments share was not written; retrying at the next full resync");
        }
        let swept_all = async {
            let outdated = resync(sync, leader_epoch).await?;
            find_orphans(sync, &mut orphans).await?;
            Ok(outdated)
        };
        let pause = match swept_all.await {
            Ok(outdated) => {
                swept.send_replace(outdated);
                sync.options.sweep_interval
            }
            Err(error) if leader_epoch.survives(&error) => DATABASE_RETRY,
            Err(_) => return,
        };
        if !leader_epoch.pause(pause).await {
            return;
        }
    }
}

/// Compares every deployment with its object, and makes those due that are out of sync. Returns those that differ only by the
/// configuration. Writes nothing when all are in sync.
async fn resync(sync: &Synchronizer, leader_epoch: &LeaderEpoch) -> Result<Outdated, StoreError> {
    let begun = sync.clock.now();
    let (mut after, mut checked, mut out_of_sync) = (None, 0, 0);
    let mut outdated = Vec::new();
    loop {
        let page = {
            let mut tx = sync.db.read().await?;
            store::deployments::page_of_work(&mut tx, after, SWEEP_PAGE).await?
        };
        let Some(last) = page.last() else { break };
        after = Some(last.deployment.job_id);
        checked += page.len();
        if leader_epoch.over.is_cancelled() {
            return Ok(Outdated::default());
        }
        let found = enqueue_out_of_sync(sync, &page).await?;
        out_of_sync += found.out_of_sync;
        outdated.extend(found.outdated);
    }
    let seconds = sync.clock.now().duration_since(begun).as_secs_f64();
    tracing::debug!(checked, out_of_sync, outdated = outdated.len(), seconds, "swept");
    Ok(Outdated { jobs: outdated, fleet: checked })
}

/// Looks for objects with the marks of this service that have no row; `known` are those that were found before.
async fn find_orphans(sync: &Synchronizer, known: &mut Vec<KnownDeployment>) -> Result<(), StoreError> {
    match orphans(&sync.db, &*sync.runtime).await? {
        Ok(found) => {
            orphans::report(&found, known);
            sync.gauges.orphaned(found.len());
            *known = found;
        }
        Err(problem) => tracing::debug!(%problem, "failed to look for orphans; retrying at the next full resync"),
    }
    Ok(())
}

/// The result of a comparison.
pub(crate) struct Found {
    /// How many were made due.
    out_of_sync: usize,
    /// Deployments that a former configuration made and that are otherwise in sync. They wait for a wave: see [`super::waves`].
    outdated: Vec<JobName>,
}

/// Compares some deployments with their objects, and makes those due that are out of sync for another reason than the
/// configuration.
pub(crate) async fn enqueue_out_of_sync(sync: &Synchronizer, some: &[Work]) -> Result<Found, StoreError> {
    let (mut due, mut outdated) = (Vec::new(), Vec::new());
    for work in some {
        let (_, inputs) = inputs_of(sync, work);
        // A deployment that can't be observed is not out of sync for that reason.
        let Ok(observed) = sync.runtime.observe(&target_of(work)).await else { continue };
        match step(work, &inputs, &observed, sync.clock.now()) {
            Step::Settled => {}
            Step::Outdated => outdated.push(work.job_name.clone()),
            Step::Out => due.push(work.deployment.job_id),
        }
    }
    make_due(sync, &due).await?;
    Ok(Found { out_of_sync: due.len(), outdated })
}

/// The result of a comparison of one deployment with its object.
enum Step {
    /// They are in sync.
    Settled,
    /// The object is unchanged, but a former configuration made it.
    Outdated,
    /// They are out of sync.
    Out,
}

fn step(work: &Work, inputs: &str, observed: &Observed, now: jiff::Timestamp) -> Step {
    let desired = if work.removed { Desired::Removed } else { Desired::Deployment(&work.deployment) };
    let planned = plan(desired, inputs, &work.rollout, observed, now);
    if plan::restores_deployed(&planned, &work.rollout, observed) {
        return Step::Out;
    }
    match planned {
        Plan::Nothing if !work.removed => Step::Settled,
        // It is retried at its own time.
        Plan::Wait(_) => Step::Settled,
        Plan::Blocked(problem) if work.rollout.problem.as_ref() == Some(&problem) => Step::Settled,
        Plan::Apply(Reason::Configuration) if matches!(observed, Observed::Present { .. }) => Step::Outdated,
        Plan::Nothing | Plan::Blocked(_) | Plan::Apply(_) | Plan::Remove => Step::Out,
    }
}
