//! The full resync: compares every deployment with what exists of it, in case a change was not heard of.

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
use crate::{DATABASE_RETRY, Synchronizer, Term};

/// Deployments that a sweep reads at once.
const SWEEP_PAGE: i64 = 500;

/// At the start of a term and then at its interval: the net below the watch.
pub(super) async fn resync_periodically(sync: &Synchronizer, term: &Term, swept: &watch::Sender<Outdated>) {
    let mut orphans = Vec::new();
    loop {
        let swept_all = async {
            let outdated = resync(sync, term).await?;
            find_orphans(sync, &mut orphans).await?;
            Ok(outdated)
        };
        let pause = match swept_all.await {
            Ok(outdated) => {
                swept.send_replace(outdated);
                sync.options.sweep_interval
            }
            Err(error) if term.survives(&error) => DATABASE_RETRY,
            Err(_) => return,
        };
        if !term.pause(pause).await {
            return;
        }
    }
}

/// Compares every deployment with what exists of it, and makes due what is out of step; what only the configuration made
/// so is answered. Nothing is written when all is as it should be.
async fn resync(sync: &Synchronizer, term: &Term) -> Result<Outdated, StoreError> {
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
        if term.over.is_cancelled() {
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

/// Looks for what stands under this service's mark and has no row; `known` is what was found before.
async fn find_orphans(sync: &Synchronizer, known: &mut Vec<KnownDeployment>) -> Result<(), StoreError> {
    match orphans(&sync.db, &*sync.runtime).await? {
        Ok(found) => {
            orphans::report(&found, known);
            sync.gauges.orphaned(found.len());
            *known = found;
        }
        Err(problem) => tracing::debug!(%problem, "orphans can't be looked for now"),
    }
    Ok(())
}

/// What was found in a comparison.
pub(crate) struct Found {
    /// How many were made due.
    out_of_sync: usize,
    /// What is as it was made, by a configuration that is no longer this one. It is not due for that: see [`super::waves`].
    outdated: Vec<JobName>,
}

/// Compares some deployments with what exists of them, and makes due what is out of step by itself.
pub(crate) async fn enqueue_out_of_sync(sync: &Synchronizer, some: &[Work]) -> Result<Found, StoreError> {
    let (mut due, mut outdated) = (Vec::new(), Vec::new());
    for work in some {
        let (_, inputs) = inputs_of(sync, work);
        // What can't be looked at now is not out of step for that.
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

/// How a deployment and what exists of it go together.
enum Step {
    /// A look would change nothing.
    Settled,
    /// What exists is as it was made, and the configuration is another one now.
    Outdated,
    /// There is something to do.
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
        // It is due at its own time.
        Plan::Wait(_) => Step::Settled,
        Plan::Blocked(problem) if work.rollout.problem.as_ref() == Some(&problem) => Step::Settled,
        Plan::Apply(Reason::Configuration) if matches!(observed, Observed::Present { .. }) => Step::Outdated,
        Plan::Nothing | Plan::Blocked(_) | Plan::Apply(_) | Plan::Remove => Step::Out,
    }
}
