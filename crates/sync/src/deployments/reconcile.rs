//! Carries out the plan for one deployment, and records the outcome.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::SignedDuration;
use model::{
    Problem,
    artifact::{Artifact, LastApplied},
    build::{ArtifactRequest, BuildInputs},
    deployment::Deployment,
    lock::Lock,
    plan::{self, Desired, Plan, Reason, plan},
    problem::Fault,
    runtime::{ApplyRequest, DeploymentSpec, Observed, Target},
};
use store::{
    StoreError,
    builds::{Asked, Asking},
    deployments::{Outcome, Work},
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::Span;

use super::inputs::{inputs_of, target_of};
use crate::{LeaderEpoch, Options, Synchronizer};

/// The attempts by which the pause is chosen after a deployment could not be observed.
const OBSERVE_AGAIN_ATTEMPT: i32 = 5;

/// The pause before a removal that was held back is checked again.
const HELD_BACK: SignedDuration = SignedDuration::from_secs(60);

/// Limits of work at the same time. Reconciliations wait for no installation; installations wait for each other.
pub(super) struct Pools {
    reconciliations: Semaphore,
    installs: Semaphore,
    /// How many install, or wait for an installation.
    installing: AtomicUsize,
}

impl Pools {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            reconciliations: Semaphore::new(options.parallelism),
            installs: Semaphore::new(options.installs_parallelism),
            installing: AtomicUsize::new(0),
        }
    }

    /// A permit to reconcile.
    pub(super) async fn reconcile(&self) -> Option<SemaphorePermit<'_>> {
        self.reconciliations.acquire().await.ok()
    }

    /// A permit to install. A task that waits for it gives its permit to reconcile back, so that others can begin.
    async fn install(&self, sync: &Synchronizer) -> Installing<'_> {
        self.installing.fetch_add(1, Ordering::Relaxed);
        let mut installing = Installing { pools: self, place: None };
        sync.db.notifications().deployments.notify_one();
        installing.place = self.installs.acquire().await.ok();
        installing
    }

    /// How many install, or wait for an installation.
    pub(super) fn installing(&self) -> usize {
        self.installing.load(Ordering::Relaxed)
    }
}

/// An installation.
struct Installing<'a> {
    pools: &'a Pools,
    place: Option<SemaphorePermit<'a>>,
}

impl Drop for Installing<'_> {
    fn drop(&mut self) {
        self.pools.installing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Plans one deployment and carries the plan out.
pub(super) async fn carry_out(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    pools: &Pools,
    mut place: Option<SemaphorePermit<'_>>,
    work: &Work,
) -> Result<(), StoreError> {
    let job_id = work.deployment.job_id;
    let (deployment_spec, inputs) = inputs_of(sync, work);
    let target = target_of(work);
    let observed = match sync.runtime.observe(&target).await {
        Ok(observed) => observed,
        // A deployment that can't be observed keeps its status.
        Err(problem) if !work.removed && work.rollout.reached_generation == Some(work.deployment.generation) => {
            tracing::warn!(%problem, "a deployment can't be observed; retrying");
            let at = sync.clock.now() + plan::retry_delay(OBSERVE_AGAIN_ATTEMPT, jitter(sync));
            return record(sync, leader_epoch, work, &Outcome::Unchanged(Some(at))).await;
        }
        Err(problem) => return record_failure(sync, leader_epoch, work, &inputs, problem).await,
    };
    let desired = if work.removed { Desired::Removed } else { Desired::Deployment(&work.deployment) };
    let planned = plan(desired, &inputs, &work.rollout, &observed, sync.clock.now());
    tracing::debug!(?planned, "planned");
    let restores = plan::restores_deployed(&planned, &work.rollout, &observed);
    // A deployment that waits for its build is planned again afterwards.
    if restores || !matches!(planned, Plan::Apply(_)) {
        sync.gauges.planned(&planned);
    }
    if restores {
        drop(place.take());
        let _installing = pools.install(sync).await;
        match restore(sync, work, &target).await? {
            Ok(last_applied) => {
                let next = if let Plan::Wait(at) = planned { Some(at) } else { None };
                return record(sync, leader_epoch, work, &Outcome::Restored { last_applied, next }).await;
            }
            Err(problem) => {
                tracing::warn!(%problem, "the last good version could not be restored; retrying");
                let at = sync.clock.now() + plan::retry_delay(work.rollout.attempts.saturating_add(3), 1.0);
                return record(sync, leader_epoch, work, &Outcome::Unchanged(Some(at))).await;
            }
        }
    }
    match planned {
        Plan::Nothing if work.removed => record_removed(sync, leader_epoch, work).await,
        Plan::Wait(at) => record(sync, leader_epoch, work, &Outcome::Unchanged(Some(at))).await,
        Plan::Blocked(problem) if work.rollout.problem.as_ref() != Some(&problem) => {
            record_failure(sync, leader_epoch, work, &inputs, problem).await
        }
        Plan::Nothing | Plan::Blocked(_) => record(sync, leader_epoch, work, &Outcome::Unchanged(None)).await,
        Plan::Remove if observed != Observed::Missing && sync.holds_removals_back().await? => {
            tracing::debug!("the removal is held back, because too many deployments are to be removed at once");
            record(sync, leader_epoch, work, &Outcome::Unchanged(Some(sync.clock.now() + HELD_BACK))).await
        }
        Plan::Remove => match sync.runtime.remove(&target).await {
            Ok(()) => record_removed(sync, leader_epoch, work).await,
            Err(problem) => record_failure(sync, leader_epoch, work, &inputs, problem).await,
        },
        Plan::Apply(reason) => {
            let ready = match artifact_of(sync, leader_epoch, work, &deployment_spec).await? {
                Ok(Made::Waits) => {
                    tracing::debug!("waiting for the build");
                    return Ok(());
                }
                Ok(Made::Ready(artifact, lock)) => Ok((artifact, lock)),
                Err(problem) => Err(problem),
            };
            sync.gauges.planned(&Plan::Apply(reason));
            let (artifact, lock) = match ready {
                Ok(ready) => ready,
                Err(problem) => return record_failure(sync, leader_epoch, work, &inputs, problem).await,
            };
            let due = {
                let mut tx = sync.db.read().await?;
                if let Some(op_id) = store::deployments::op_id(&mut tx, job_id, work.deployment.generation).await? {
                    Span::current().record("op_id", op_id);
                }
                store::deployments::due_since(&mut tx, job_id).await?
            };
            // An installation has limits of its own, so that it delays no quick change.
            let mut installing = None;
            if !is_at_hand(sync, &target, &artifact).await {
                drop(place.take());
                installing = Some(pools.install(sync).await);
            }
            tracing::info!(?reason, "rolling out");
            if let Some(secret) = &deployment_spec.team_secret
                && model::team_secret::plain(&work.team).as_ref() != Some(secret)
            {
                tracing::warn!(
                    team = %work.team,
                    secret,
                    "the secret of the job's team has a suffix: the plain name belongs to another team"
                );
            }
            let ticks_after = ticks_after(work, reason, sync.clock.now());
            let rolling = Rolling { target, deployment_spec, inputs: inputs.clone(), artifact, lock, ticks_after };
            let begun = sync.clock.boot();
            let rolled_out = roll_out(sync, rolling).await;
            sync.gauges.applied(begun, &rolled_out);
            drop((place, installing));
            match rolled_out {
                Ok((artifact, last_applied)) => {
                    let outcome = Outcome::Reached { inputs_hash: inputs, artifact, last_applied };
                    record(sync, leader_epoch, work, &outcome).await?;
                    sync.gauges.reached(due, sync.clock.now());
                    tracing::info!("rolled out");
                    sync.db.notifications().executions.notify_one();
                    sync.db.notifications().schedules.notify_one();
                    Ok(())
                }
                Err(problem) => record_failure(sync, leader_epoch, work, &inputs, problem).await,
            }
        }
    }
}

/// The instant from which ticks count. A change counts from its acceptance; a mere repair makes up for no missed tick.
fn ticks_after(work: &Work, reason: Reason, now: jiff::Timestamp) -> jiff::Timestamp {
    let since = work.deployment.schedule_since;
    match reason {
        Reason::New | Reason::Changed if work.rollout.reached_at.is_none_or(|reached| since >= reached) => since,
        _ => now,
    }
}

/// Recreates the last good version for executions, while the desired generation can't be rolled out.
async fn restore(
    sync: &Synchronizer,
    work: &Work,
    target: &Target,
) -> Result<Result<Option<LastApplied>, Problem>, StoreError> {
    let rollout = &work.rollout;
    let (Some(generation), Some(inputs), Some(artifact)) =
        (rollout.reached_generation, &rollout.inputs_hash, &rollout.artifact)
    else {
        return Ok(Ok(rollout.last_applied.clone()));
    };
    let (deployment, lock) = {
        let mut tx = sync.db.read().await?;
        let deployment = store::revisions::find(&mut tx, work.deployment.job_id, generation).await?;
        let lock = match artifact {
            Artifact::Packages(key) => store::locks::find(&mut tx, key).await?.map(Some),
            Artifact::Image(_) => Some(None),
        };
        (deployment, lock)
    };
    let (Some(deployment), Some(lock)) = (deployment, lock) else {
        return Err(StoreError::Corrupt { what: format!("generation {generation} of the job {}", work.job_name) });
    };
    tracing::info!(restored = generation, "recreating the last good version");
    let token = match sync.token(&work.job_name, &deployment) {
        Ok(token) => token,
        Err(problem) => return Ok(Err(problem)),
    };
    let wanted = ApplyRequest {
        deployment_spec: sync.deployment_spec(&work.job_name, &work.team, work.team_secret.clone(), &deployment),
        inputs_hash: inputs.clone(),
        artifact: artifact.clone(),
        lock,
        token,
        ticks_after: sync.clock.now(),
    };
    let made = sync.runtime.apply(target, &wanted).await;
    sync.db.notifications().executions.notify_one();
    Ok(made)
}

/// The state of the artifact of a deployment.
enum Made {
    /// The artifact, and its packages where the runtime installs them.
    Ready(Artifact, Option<Lock>),
    /// The artifact is being built. The rollout stays due, and continues when the build has ended.
    Waits,
}

/// Finds the artifact of a deployment, and queues its build if there is none.
async fn artifact_of(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    work: &Work,
    deployment_spec: &DeploymentSpec,
) -> Result<Result<Made, Problem>, StoreError> {
    let request = ArtifactRequest { deployment_spec, requirements: work.requirements.as_deref() };
    let inputs = match sync.builder.inputs(&request) {
        Ok(inputs) => inputs,
        Err(problem) => return Ok(Err(problem)),
    };
    let built = if let Some(artifact) = sync.builder.known(&inputs) {
        Some(artifact)
    } else {
        let found = store::builds::built(&mut sync.db.read().await?, &inputs.key).await?;
        if let Some(artifact) = &found
            && is_lost(sync, artifact).await
        {
            let mut tx = sync.db.write().await?;
            store::builds::forget(&mut tx, leader_epoch.epoch, &inputs.key).await?;
            tx.commit().await?;
            None
        } else {
            found
        }
    };
    let artifact = match built {
        Some(artifact) => artifact,
        None => match ask(sync, leader_epoch, work, &inputs).await? {
            Asked::Built(artifact) => artifact,
            Asked::Failed(problem) => return Ok(Err(problem)),
            Asked::Waits => return Ok(Ok(Made::Waits)),
        },
    };
    let lock = match &artifact {
        Artifact::Image(_) => None,
        Artifact::Packages(key) => {
            let lock = store::locks::find(&mut sync.db.read().await?, key).await?;
            Some(lock.ok_or_else(|| StoreError::Corrupt { what: format!("the lock {key}") })?)
        }
    };
    Ok(Ok(Made::Ready(artifact, lock)))
}

/// Whether an artifact that was built is known to be gone. If that is unknown now, the artifact is used: the node
/// may have it.
async fn is_lost(sync: &Synchronizer, artifact: &Artifact) -> bool {
    match sync.builder.exists(artifact).await {
        Ok(exists) => {
            if !exists {
                tracing::warn!(?artifact, "an artifact that was built is gone; building it again");
            }
            !exists
        }
        Err(problem) => {
            tracing::warn!(%problem, "it is not known whether the artifact still exists; using it");
            false
        }
    }
}

async fn ask(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    work: &Work,
    inputs: &BuildInputs,
) -> Result<Asked, StoreError> {
    let Deployment { job_id, generation, .. } = work.deployment;
    let asking = Asking { job_id, generation, team: &work.team, builder: sync.builder.name() };
    let mut tx = sync.db.write().await?;
    let asked = store::builds::ask(&mut tx, leader_epoch.epoch, asking, inputs, sync.clock.now()).await?;
    tx.commit().await?;
    if asked == Asked::Waits {
        leader_epoch.builds.notify_one();
    }
    Ok(asked)
}

/// Whether the deployment can be made without an installation.
async fn is_at_hand(sync: &Synchronizer, target: &Target, artifact: &Artifact) -> bool {
    match artifact {
        Artifact::Image(_) => true,
        Artifact::Packages(_) => {
            let artifact = Some(artifact.clone());
            let target = Target { artifact, inputs_hash: Some(String::new()), ..target.clone() };
            matches!(sync.runtime.observe(&target).await, Ok(Observed::Present { .. }))
        }
    }
}

/// A rollout that was decided on.
struct Rolling {
    target: Target,
    deployment_spec: DeploymentSpec,
    inputs: String,
    artifact: Artifact,
    lock: Option<Lock>,
    ticks_after: jiff::Timestamp,
}

/// Has the runtime make the deployment.
async fn roll_out(sync: &Synchronizer, rolling: Rolling) -> Result<(Artifact, Option<LastApplied>), Problem> {
    let Rolling { target, deployment_spec, inputs, artifact, lock, ticks_after } = rolling;
    let token = sync.token(&deployment_spec.job_name, &deployment_spec.deployment)?;
    let wanted =
        ApplyRequest { deployment_spec, inputs_hash: inputs, artifact: artifact.clone(), lock, token, ticks_after };
    let last_applied = sync.runtime.apply(&target, &wanted).await?;
    Ok((artifact, last_applied))
}

/// Records the outcome of a reconciliation. A row that changed meanwhile stays due.
async fn record(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    work: &Work,
    outcome: &Outcome,
) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    let recorded = store::deployments::record(&mut tx, leader_epoch.epoch, work, outcome, sync.clock.now()).await?;
    tx.commit().await?;
    if recorded {
        sync.gauges.recorded(work.deployment.job_id, outcome, sync.clock.now());
    }
    Ok(())
}

async fn record_removed(sync: &Synchronizer, leader_epoch: &LeaderEpoch, work: &Work) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    store::deployments::record_removed(&mut tx, leader_epoch.epoch, work).await?;
    tx.commit().await?;
    sync.gauges.removed(work.deployment.job_id, sync.clock.now());
    tracing::info!("the deployment was removed");
    Ok(())
}

/// A number from 0 to 1 that spreads retries of simultaneous failures: the low bits of a random identifier.
fn jitter(sync: &Synchronizer) -> f64 {
    f64::from(sync.clock.new_id().as_fields().0) / f64::from(u32::MAX)
}

/// Records a failure: a platform error is retried later, a user error waits for a change.
async fn record_failure(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    work: &Work,
    inputs: &str,
    problem: Problem,
) -> Result<(), StoreError> {
    let retry_at = match problem.fault {
        Fault::User => None,
        Fault::Platform => {
            let same = work.rollout.tried_inputs_hash.as_deref() == Some(inputs);
            let attempts = if same { work.rollout.attempts.saturating_add(1) } else { 1 };
            Some(sync.clock.now() + plan::retry_delay(attempts, jitter(sync)))
        }
    };
    tracing::warn!(%problem, ?retry_at, "not rolled out");
    let outcome = Outcome::Failed { inputs_hash: inputs.to_owned(), problem, retry_at };
    record(sync, leader_epoch, work, &outcome).await?;
    // Executions that wait for the first deployment fail with it.
    sync.db.notifications().executions.notify_one();
    Ok(())
}
