//! Makes what runs follow what is wanted: one key at a time for each deployment, many deployments at once.

mod orphans;
mod wave;

use std::{collections::HashSet, sync::Arc, time::Duration};

use image::requirements;
use jiff::SignedDuration;
use model::{
    Problem,
    artifact::{Artifact, Mark},
    lock::{Lock, LockInputs},
    name::{JobId, JobName},
    plan::{self, Desired, Plan, Reason, inputs_hash, plan},
    problem::Fault,
    runtime::{Blueprint, KnownDeployment, Observed, Target, Wanted},
};
use store::{
    StoreError,
    deployments::{Outcome, Work},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    task::JoinSet,
};
use tracing::{Instrument, Span};

pub use self::orphans::orphans;
use self::wave::Concerned;

use crate::{Builder, DATABASE_RETRY, Options, Synchronizer, Term, until};

/// The most looks that are begun before others end. Those that install wait for their turn without holding up the rest.
const IN_FLIGHT_MAX: usize = 1000;

/// The pause before a deployment is looked at again that could not be looked at, as if so many tries had failed.
const LOOK_AGAIN_ATTEMPT: i32 = 5;

/// The longest pause between two looks for what is due: a bell that another instance rang may not have been heard.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Looks that end within this time are followed by one question for what is due, not by one each: thousands may end at
/// once.
const GATHER: Duration = Duration::from_millis(20);

/// The pause before a removal is looked at again that was held back.
const HELD_BACK: SignedDuration = SignedDuration::from_secs(60);

/// Deployments that a sweep reads at once.
const SWEEP_PAGE: i64 = 500;

/// Looks at each deployment that is due until the term is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    let (swept, waves) = watch::channel(Concerned::default());
    tokio::join!(look_at_due(sync, term), sweep_again_and_again(sync, term, &swept), wave::run(sync, term, waves));
}

async fn look_at_due(sync: &Synchronizer, term: &Term) {
    let pools = Arc::new(Pools {
        looks: Semaphore::new(sync.options.parallelism),
        builds: Semaphore::new(sync.options.builds_parallelism),
    });
    let mut in_flight = HashSet::new();
    let mut looks: JoinSet<(JobId, bool)> = JoinSet::new();
    loop {
        let found = find_due(sync, &in_flight).await;
        sync.gauges.looked(found.is_ok());
        let wait = match found {
            Ok((due, wait)) => {
                for job_id in due {
                    in_flight.insert(job_id);
                    let (sync, term, pools) = (sync.clone(), term.clone(), pools.clone());
                    looks.spawn(async move { (job_id, look(&sync, &term, &pools, job_id).await) });
                }
                wait
            }
            Err(error) if term.survives(&error) => DATABASE_RETRY,
            Err(_) => break,
        };
        tokio::select! {
            () = term.over.cancelled() => break,
            () = sync.db.wake().deployments.notified() => {}
            () = tokio::time::sleep(wait) => {}
            Some(ended) = looks.join_next() => {
                if !term.pause(GATHER).await {
                    break;
                }
                let mut ended = Some(ended);
                while let Some(end) = ended {
                    match end {
                        Ok((job_id, done)) => {
                            if !done && !term.pause(Duration::from_millis(50)).await {
                                break;
                            }
                            in_flight.remove(&job_id);
                        }
                        // A look that panicked keeps its key until the next term, so that it can't spin.
                        Err(error) => tracing::error!(%error, "a look at a deployment failed unexpectedly"),
                    }
                    ended = looks.try_join_next();
                }
            }
        }
    }
    looks.shutdown().await;
}

/// Looks wait for no build; builds wait for each other.
struct Pools {
    looks: Semaphore,
    builds: Semaphore,
}

/// At the start of a term and then at its interval: the net below the watch.
async fn sweep_again_and_again(sync: &Synchronizer, term: &Term, swept: &watch::Sender<Concerned>) {
    let mut orphans = Vec::new();
    loop {
        let swept_all = async {
            let concerned = sweep(sync, term).await?;
            look_for_orphans(sync, &mut orphans).await?;
            Ok(concerned)
        };
        let pause = match swept_all.await {
            Ok(concerned) => {
                swept.send_replace(concerned);
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
async fn sweep(sync: &Synchronizer, term: &Term) -> Result<Concerned, StoreError> {
    let begun = sync.clock.now();
    let (mut after, mut looked_at, mut out_of_step) = (None, 0, 0);
    let mut concerned = Vec::new();
    loop {
        let page = {
            let mut tx = sync.db.read().await?;
            store::deployments::page_of_work(&mut tx, after, SWEEP_PAGE).await?
        };
        let Some(last) = page.last() else { break };
        after = Some(last.deployment.job_id);
        looked_at += page.len();
        if term.over.is_cancelled() {
            return Ok(Concerned::default());
        }
        let found = make_due_what_is_out_of_step(sync, &page).await?;
        out_of_step += found.out_of_step;
        concerned.extend(found.concerned);
    }
    let seconds = sync.clock.now().duration_since(begun).as_secs_f64();
    tracing::debug!(looked_at, out_of_step, concerned = concerned.len(), seconds, "swept");
    Ok(Concerned { jobs: concerned, fleet: looked_at })
}

/// Looks for what stands under this service's mark and has no row; `known` is what was found before.
async fn look_for_orphans(sync: &Synchronizer, known: &mut Vec<KnownDeployment>) -> Result<(), StoreError> {
    match orphans(&sync.db, &*sync.runtime).await? {
        Ok(found) => {
            orphans::tell(&found, known);
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
    out_of_step: usize,
    /// What is as it was made, by a configuration that is no longer this one. It is not due for that: see [`wave`].
    concerned: Vec<JobName>,
}

/// Compares some deployments with what exists of them, and makes due what is out of step by itself.
pub(crate) async fn make_due_what_is_out_of_step(sync: &Synchronizer, some: &[Work]) -> Result<Found, StoreError> {
    let (mut due, mut concerned) = (Vec::new(), Vec::new());
    for work in some {
        let (_, inputs) = inputs_of(sync, work);
        // What can't be looked at now is not out of step for that.
        let Ok(observed) = sync.runtime.observe(&target_of(work)).await else { continue };
        match step(work, &inputs, &observed, sync.clock.now()) {
            Step::Settled => {}
            Step::Concerned => concerned.push(work.job_name.clone()),
            Step::Out => due.push(work.deployment.job_id),
        }
    }
    make_due(sync, &due).await?;
    Ok(Found { out_of_step: due.len(), concerned })
}

async fn make_due(sync: &Synchronizer, jobs: &[JobId]) -> Result<(), StoreError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut tx = sync.db.write().await?;
    for job_id in jobs {
        store::deployments::make_due(&mut tx, *job_id, sync.clock.now()).await?;
    }
    tx.commit().await?;
    sync.db.wake().deployments.notify_one();
    Ok(())
}

/// How a deployment and what exists of it go together.
enum Step {
    /// A look would change nothing.
    Settled,
    /// What exists is as it was made, and the configuration is another one now.
    Concerned,
    /// There is something to do.
    Out,
}

fn step(work: &Work, inputs: &str, observed: &Observed, now: jiff::Timestamp) -> Step {
    let desired = if work.removed { Desired::Removed } else { Desired::Deployment(&work.deployment) };
    let planned = plan(desired, inputs, &work.rollout, observed, now);
    if plan::restores_reached(&planned, &work.rollout, observed) {
        return Step::Out;
    }
    match planned {
        Plan::Nothing if !work.removed => Step::Settled,
        // It is due at its own time.
        Plan::Wait(_) => Step::Settled,
        Plan::Blocked(problem) if work.rollout.problem.as_ref() == Some(&problem) => Step::Settled,
        Plan::Apply(Reason::Configuration) if matches!(observed, Observed::Present { .. }) => Step::Concerned,
        Plan::Nothing | Plan::Blocked(_) | Plan::Apply(_) | Plan::Remove => Step::Out,
    }
}

/// What a deployment is made from, and the hash of all that goes into it.
fn inputs_of(sync: &Synchronizer, work: &Work) -> (Blueprint, String) {
    let blueprint = sync.blueprint(&work.job_name, &work.team, work.team_secret.clone(), &work.deployment);
    let inputs = inputs_hash(&work.deployment, &fingerprint(sync, &blueprint));
    (blueprint, inputs)
}

fn target_of(work: &Work) -> Target {
    Target {
        job_id: work.deployment.job_id,
        job_name: work.job_name.clone(),
        inputs_hash: work.rollout.inputs_hash.clone(),
        artifact: work.rollout.artifact.clone(),
        mark: work.rollout.mark.clone(),
    }
}

/// The deployments to begin with now, and how long until the next one is due.
async fn find_due(sync: &Synchronizer, in_flight: &HashSet<JobId>) -> Result<(Vec<JobId>, Duration), StoreError> {
    let now = sync.clock.now();
    let mut tx = sync.db.read().await?;
    let free = IN_FLIGHT_MAX.saturating_sub(in_flight.len());
    let limit = i64::try_from(IN_FLIGHT_MAX).unwrap_or(i64::MAX);
    let due = store::deployments::due(&mut tx, now, limit).await?;
    let next = store::deployments::next_due(&mut tx, now).await?;
    let due = due.into_iter().filter(|id| !in_flight.contains(id)).take(free).collect();
    Ok((due, until(now, next, LOOK_MAX)))
}

/// Looks at one deployment and does what the plan says. `false` when the database failed and the key should rest a moment.
async fn look(sync: &Synchronizer, term: &Term, pools: &Pools, job_id: JobId) -> bool {
    match try_look(sync, term, pools, job_id).await {
        Ok(()) => true,
        Err(error) => {
            term.survives(&error);
            false
        }
    }
}

async fn try_look(sync: &Synchronizer, term: &Term, pools: &Pools, job_id: JobId) -> Result<(), StoreError> {
    let place = pools.looks.acquire().await.ok();
    let work = {
        let mut tx = sync.db.read().await?;
        store::deployments::work(&mut tx, job_id).await?
    };
    let Some(mut work) = work else {
        // Its last tombstone went while the key was due.
        let mut tx = sync.db.write().await?;
        store::deployments::forget(&mut tx, term.epoch, job_id).await?;
        return tx.commit().await;
    };
    if work.team_secret.is_none() {
        work.team_secret = sync.team_secret(&work.team).await?;
    }
    // On each line, whichever lines are wanted.
    let span = tracing::error_span!(
        "deployment",
        job = %work.job_name,
        generation = work.deployment.generation,
        epoch = term.epoch.0,
        op_id = tracing::field::Empty,
    );
    Box::pin(carry_out(sync, term, pools, place, &work).instrument(span)).await
}

/// Does what the plan says about a deployment.
async fn carry_out(
    sync: &Synchronizer,
    term: &Term,
    pools: &Pools,
    mut place: Option<SemaphorePermit<'_>>,
    work: &Work,
) -> Result<(), StoreError> {
    let job_id = work.deployment.job_id;
    let (blueprint, inputs) = inputs_of(sync, work);
    let target = target_of(work);
    let observed = match sync.runtime.observe(&target).await {
        Ok(observed) => observed,
        // What was reached is no worse for not being seen.
        Err(problem) if !work.removed && work.rollout.reached_generation == Some(work.deployment.generation) => {
            tracing::warn!(%problem, "a deployment can't be looked at now");
            let at = sync.clock.now() + plan::retry_delay(LOOK_AGAIN_ATTEMPT, jitter(sync));
            return record(sync, term, work, &Outcome::Looked(Some(at))).await;
        }
        Err(problem) => return record_failure(sync, term, work, &inputs, problem).await,
    };
    let desired = if work.removed { Desired::Removed } else { Desired::Deployment(&work.deployment) };
    let planned = plan(desired, &inputs, &work.rollout, &observed, sync.clock.now());
    tracing::debug!(?planned, "planned");
    sync.gauges.planned(&planned);
    if plan::restores_reached(&planned, &work.rollout, &observed) {
        drop(place.take());
        let _place = pools.builds.acquire().await.ok();
        match restore(sync, work, &target).await? {
            Ok(mark) => {
                let next = if let Plan::Wait(at) = planned { Some(at) } else { None };
                return record(sync, term, work, &Outcome::Restored { mark, next }).await;
            }
            Err(problem) => {
                tracing::warn!(%problem, "the last good version could not be made again yet");
                let at = sync.clock.now() + plan::retry_delay(work.rollout.attempts.saturating_add(3), 1.0);
                return record(sync, term, work, &Outcome::Looked(Some(at))).await;
            }
        }
    }
    match planned {
        Plan::Nothing if work.removed => record_removed(sync, term, work).await,
        Plan::Wait(at) => record(sync, term, work, &Outcome::Looked(Some(at))).await,
        Plan::Blocked(problem) if work.rollout.problem.as_ref() != Some(&problem) => {
            record_failure(sync, term, work, &inputs, problem).await
        }
        Plan::Nothing | Plan::Blocked(_) => record(sync, term, work, &Outcome::Looked(None)).await,
        Plan::Remove if observed != Observed::Missing && sync.holds_removals_back().await? => {
            tracing::debug!("the removal is held back: so many at once that nobody may have meant it");
            record(sync, term, work, &Outcome::Looked(Some(sync.clock.now() + HELD_BACK))).await
        }
        Plan::Remove => match sync.runtime.remove(&target).await {
            Ok(()) => record_removed(sync, term, work).await,
            Err(problem) => record_failure(sync, term, work, &inputs, problem).await,
        },
        Plan::Apply(reason) => {
            let made_of = match made_of(sync, work).await? {
                Ok(made_of) => made_of,
                Err(problem) => return record_failure(sync, term, work, &inputs, problem).await,
            };
            let due = {
                let mut tx = sync.db.read().await?;
                if let Some(op_id) = store::audit::op_id(&mut tx, job_id, work.deployment.generation).await? {
                    Span::current().record("op_id", op_id);
                }
                store::metrics::due_since(&mut tx, job_id).await?
            };
            // What has to be chosen or installed first takes its time elsewhere, and holds up no quick change.
            if !is_at_hand(sync, &target, &made_of).await {
                drop(place.take());
                place = pools.builds.acquire().await.ok();
            }
            tracing::info!(?reason, "rolling out");
            if let Some(secret) = &blueprint.team_secret
                && model::team_secret::plain(&work.team).as_ref() != Some(secret)
            {
                tracing::warn!(
                    team = %work.team,
                    secret,
                    "the secret of the job's team has a suffix: the plain name belongs to another team"
                );
            }
            let ticks_after = ticks_after(work, reason, sync.clock.now());
            let plan = Rolling { target, blueprint, inputs: inputs.clone(), ticks_after };
            let begun = tokio::time::Instant::now();
            let rolled_out = roll_out(sync, plan, made_of).await?;
            sync.gauges.applied(begun, &rolled_out);
            drop(place);
            match rolled_out {
                Ok((artifact, mark)) => {
                    let outcome = Outcome::Reached { inputs_hash: inputs, artifact, mark };
                    record(sync, term, work, &outcome).await?;
                    sync.gauges.reached(due, sync.clock.now());
                    tracing::info!("reached");
                    sync.db.wake().executions.notify_one();
                    sync.db.wake().schedules.notify_one();
                    Ok(())
                }
                Err(problem) => record_failure(sync, term, work, &inputs, problem).await,
            }
        }
    }
}

/// From when on ticks count. A change counts from its acceptance; what only puts back what was there makes up for nothing.
fn ticks_after(work: &Work, reason: Reason, now: jiff::Timestamp) -> jiff::Timestamp {
    let since = work.deployment.schedule_since;
    match reason {
        Reason::New | Reason::Changed if work.rollout.reached_at.is_none_or(|reached| since >= reached) => since,
        _ => now,
    }
}

/// Makes what was reached again, for its runs, while the wanted generation can't be reached.
async fn restore(
    sync: &Synchronizer,
    work: &Work,
    target: &Target,
) -> Result<Result<Option<Mark>, Problem>, StoreError> {
    let rollout = &work.rollout;
    let (Some(generation), Some(inputs), Some(artifact)) =
        (rollout.reached_generation, &rollout.inputs_hash, &rollout.artifact)
    else {
        return Ok(Ok(rollout.mark.clone()));
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
    tracing::info!(restored = generation, "making the last good version again");
    let token = match sync.token(&work.job_name, &deployment) {
        Ok(token) => token,
        Err(problem) => return Ok(Err(problem)),
    };
    let wanted = Wanted {
        blueprint: sync.blueprint(&work.job_name, &work.team, work.team_secret.clone(), &deployment),
        inputs_hash: inputs.clone(),
        artifact: artifact.clone(),
        lock,
        token,
        ticks_after: sync.clock.now(),
    };
    let made = sync.runtime.apply(target, &wanted).await;
    sync.db.wake().executions.notify_one();
    Ok(made)
}

/// All of the configuration that goes into a deployment.
fn fingerprint(sync: &Synchronizer, blueprint: &Blueprint) -> String {
    let runtime = sync.runtime.fingerprint(blueprint);
    match &sync.builder {
        Builder::Packages(_) => {
            let Options { vdk_distribution, vdk_constraints, .. } = &*sync.options;
            format!("{runtime}\n{vdk_distribution}\n{vdk_constraints}")
        }
        Builder::Prebuilt(name) => format!("{runtime}\n{}", name.of(blueprint)),
    }
}

/// What a deployment is to be made of, as far as it is known before anything is chosen.
enum MadeOf {
    /// Packages that follow from these inputs, and were chosen before or not.
    Packages(LockInputs, Option<Lock>),
    /// An image of this name.
    Image(String),
}

async fn made_of(sync: &Synchronizer, work: &Work) -> Result<Result<MadeOf, Problem>, StoreError> {
    Ok(match &sync.builder {
        Builder::Prebuilt(name) => {
            let blueprint = sync.blueprint(&work.job_name, &work.team, work.team_secret.clone(), &work.deployment);
            Ok(MadeOf::Image(name.of(&blueprint)))
        }
        Builder::Packages(_) => match lock_inputs(sync, work) {
            Ok(inputs) => {
                let mut tx = sync.db.read().await?;
                let known = store::locks::find(&mut tx, &inputs.key()).await?;
                Ok(MadeOf::Packages(inputs, known))
            }
            Err(problem) => Err(problem),
        },
    })
}

/// What the packages of a deployment follow from.
fn lock_inputs(sync: &Synchronizer, work: &Work) -> Result<LockInputs, Problem> {
    let raw = work.requirements.as_deref().ok_or_else(|| {
        Problem::internal(
            format!("Generation {} was not rolled out.", work.deployment.generation),
            "The source that it names is not in the database.",
        )
    })?;
    Ok(LockInputs {
        python_version: work.deployment.python_version,
        vdk_requirement: format!("{}=={}", sync.options.vdk_distribution, work.deployment.vdk_version),
        constraints: sync.options.vdk_constraints.clone(),
        requirements: requirements::normalise(raw)?,
    })
}

/// Whether nothing has to be chosen or installed before the deployment can be made.
async fn is_at_hand(sync: &Synchronizer, target: &Target, made_of: &MadeOf) -> bool {
    match made_of {
        MadeOf::Image(_) => true,
        MadeOf::Packages(_, None) => false,
        MadeOf::Packages(_, Some(lock)) => {
            let artifact = Some(Artifact::Packages(lock.key.clone()));
            let target = Target { artifact, inputs_hash: Some(String::new()), ..target.clone() };
            matches!(sync.runtime.observe(&target).await, Ok(Observed::Present { .. }))
        }
    }
}

/// A rollout that was decided on.
struct Rolling {
    target: Target,
    blueprint: Blueprint,
    inputs: String,
    ticks_after: jiff::Timestamp,
}

/// Chooses the packages, unless that was done before, and has the runtime make the deployment.
async fn roll_out(
    sync: &Synchronizer,
    rolling: Rolling,
    made_of: MadeOf,
) -> Result<Result<(Artifact, Option<Mark>), Problem>, StoreError> {
    let Rolling { target, blueprint, inputs, ticks_after } = rolling;
    let (artifact, lock) = match (made_of, &sync.builder) {
        (MadeOf::Image(name), _) => (Artifact::Image(name), None),
        (MadeOf::Packages(_, Some(lock)), _) => (Artifact::Packages(lock.key.clone()), Some(lock)),
        (MadeOf::Packages(lock_inputs, None), Builder::Packages(resolver)) => match resolver.lock(&lock_inputs).await {
            Ok(lock) => {
                let mut tx = sync.db.write().await?;
                store::locks::insert(&mut tx, &lock, sync.clock.now()).await?;
                // The first one stored is the one that counts.
                let stored = store::locks::find(&mut tx, &lock.key).await?;
                tx.commit().await?;
                let lock = stored.unwrap_or(lock);
                (Artifact::Packages(lock.key.clone()), Some(lock))
            }
            Err(problem) => return Ok(Err(problem)),
        },
        (MadeOf::Packages(..), Builder::Prebuilt(_)) => {
            return Ok(Err(Problem::internal(
                "Nothing was rolled out.",
                "Packages are not chosen where images come ready.",
            )));
        }
    };
    let token = match sync.token(&blueprint.job_name, &blueprint.deployment) {
        Ok(token) => token,
        Err(problem) => return Ok(Err(problem)),
    };
    let wanted = Wanted { blueprint, inputs_hash: inputs, artifact: artifact.clone(), lock, token, ticks_after };
    Ok(sync.runtime.apply(&target, &wanted).await.map(|mark| (artifact, mark)))
}

/// Records what became of a look. A row that moved meanwhile is still due and looked at again.
async fn record(sync: &Synchronizer, term: &Term, work: &Work, outcome: &Outcome) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    let recorded = store::deployments::record(&mut tx, term.epoch, work, outcome, sync.clock.now()).await?;
    tx.commit().await?;
    if recorded {
        sync.gauges.recorded(work.deployment.job_id, outcome, sync.clock.now());
    }
    Ok(())
}

async fn record_removed(sync: &Synchronizer, term: &Term, work: &Work) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    store::deployments::record_removed(&mut tx, term.epoch, work).await?;
    tx.commit().await?;
    sync.gauges.removed(work.deployment.job_id, sync.clock.now());
    tracing::info!("the deployment is removed");
    Ok(())
}

/// A number from 0 to 1 that spreads what failed together: the low bits of a random identifier.
fn jitter(sync: &Synchronizer) -> f64 {
    f64::from(sync.clock.new_id().as_fields().0) / f64::from(u32::MAX)
}

/// Records a failure: the platform's is tried again later, the user's waits for a change.
async fn record_failure(
    sync: &Synchronizer,
    term: &Term,
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
    record(sync, term, work, &outcome).await?;
    // Runs that wait for the first deployment end with it.
    sync.db.wake().executions.notify_one();
    Ok(())
}
