//! Makes what runs follow what is wanted: one key at a time for each deployment, many deployments at once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use image::requirements;
use model::{
    Problem,
    lock::{Lock, LockInputs},
    name::JobId,
    plan::{self, Desired, Plan, inputs_hash, plan},
    problem::Fault,
    runtime::{Observed, Target, Wanted},
};
use store::{
    StoreError,
    deployments::{Outcome, Work},
};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{DATABASE_RETRY, Options, Synchronizer, Term, until};

/// The most looks that are begun before others end. Those that install wait for their turn without holding up the rest.
const IN_FLIGHT_MAX: usize = 1000;

/// The longest pause between two looks for what is due: a bell that another instance rang may not have been heard.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Looks at each deployment that is due until the term is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    let pools = Arc::new(Pools {
        looks: Semaphore::new(sync.options.parallelism),
        builds: Semaphore::new(sync.options.builds_parallelism),
    });
    let mut in_flight = HashSet::new();
    let mut looks: JoinSet<(JobId, bool)> = JoinSet::new();
    let mut sweep = tokio::time::interval(sync.options.sweep_interval);
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
                match ended {
                    Ok((job_id, done)) => {
                        if !done && !term.pause(Duration::from_millis(50)).await {
                            break;
                        }
                        in_flight.remove(&job_id);
                    }
                    // A look that panicked keeps its key until the next term, so that it can't spin.
                    Err(error) => tracing::error!(%error, "a look at a deployment failed unexpectedly"),
                }
            }
            _ = sweep.tick() => {
                if let Err(error) = make_all_due(sync).await
                    && !term.survives(&error)
                {
                    break;
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

async fn make_all_due(sync: &Synchronizer) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    store::deployments::make_all_due(&mut tx, sync.clock.now()).await?;
    tx.commit().await
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
    let mut place = pools.looks.acquire().await.ok();
    let work = {
        let mut tx = sync.db.read().await?;
        store::deployments::work(&mut tx, job_id).await?
    };
    let Some(work) = work else {
        // Its last tombstone went while the key was due.
        let mut tx = sync.db.write().await?;
        store::deployments::forget(&mut tx, term.epoch, job_id).await?;
        return tx.commit().await;
    };
    let inputs = inputs_hash(&work.deployment, &fingerprint(sync));
    let target = Target {
        job_id,
        job_name: work.job_name.clone(),
        inputs_hash: work.rollout.inputs_hash.clone(),
        lock_key: work.rollout.lock_key.clone(),
    };
    let observed = match sync.runtime.observe(&target).await {
        Ok(observed) => observed,
        Err(problem) => return record_failure(sync, term, &work, &inputs, problem).await,
    };
    let desired = if work.removed { Desired::Removed } else { Desired::Deployment(&work.deployment) };
    let planned = plan(desired, &inputs, &work.rollout, &observed, sync.clock.now());
    tracing::debug!(job = %work.job_name, generation = work.deployment.generation, ?planned, "planned");
    sync.gauges.planned(&planned);
    if plan::restores_reached(&planned, &work.rollout, &observed) {
        drop(place.take());
        place = pools.builds.acquire().await.ok();
        if let Err(problem) = restore(sync, &work).await? {
            tracing::warn!(job = %work.job_name, %problem, "the last good version could not be made again yet");
            let at = sync.clock.now() + plan::retry_delay(work.rollout.attempts.saturating_add(3), 1.0);
            return record(sync, term, &work, &Outcome::Looked(Some(at))).await;
        }
    }
    match planned {
        Plan::Nothing if work.removed => record_removed(sync, term, &work).await,
        Plan::Wait(at) => record(sync, term, &work, &Outcome::Looked(Some(at))).await,
        Plan::Blocked(problem) if work.rollout.problem.as_ref() != Some(&problem) => {
            record_failure(sync, term, &work, &inputs, problem).await
        }
        Plan::Nothing | Plan::Blocked(_) => record(sync, term, &work, &Outcome::Looked(None)).await,
        Plan::Remove => match sync.runtime.remove(&target).await {
            Ok(()) => record_removed(sync, term, &work).await,
            Err(problem) => record_failure(sync, term, &work, &inputs, problem).await,
        },
        Plan::Apply(reason) => {
            let lock_inputs = match lock_inputs(sync, &work) {
                Ok(lock_inputs) => lock_inputs,
                Err(problem) => return record_failure(sync, term, &work, &inputs, problem).await,
            };
            let (known, due) = {
                let mut tx = sync.db.read().await?;
                let known = store::locks::find(&mut tx, &lock_inputs.key()).await?;
                (known, store::metrics::due_since(&mut tx, job_id).await?)
            };
            // What has to be chosen or installed first takes its time elsewhere, and holds up no quick change.
            if !is_installed(sync, &target, known.as_ref()).await {
                drop(place.take());
                place = pools.builds.acquire().await.ok();
            }
            tracing::info!(job = %work.job_name, generation = work.deployment.generation, ?reason, "rolling out");
            let begun = tokio::time::Instant::now();
            let rolled_out = roll_out(sync, &work, &inputs, &lock_inputs, known).await?;
            sync.gauges.applied(begun, &rolled_out);
            drop(place);
            match rolled_out {
                Ok(lock) => {
                    let outcome = Outcome::Reached { inputs_hash: inputs, lock_key: lock.key };
                    record(sync, term, &work, &outcome).await?;
                    sync.gauges.reached(due, sync.clock.now());
                    tracing::info!(job = %work.job_name, generation = work.deployment.generation, "reached");
                    sync.db.wake().executions.notify_one();
                    sync.db.wake().schedules.notify_one();
                    Ok(())
                }
                Err(problem) => record_failure(sync, term, &work, &inputs, problem).await,
            }
        }
    }
}

/// Makes what was reached again, for its runs, while the wanted generation can't be reached.
async fn restore(sync: &Synchronizer, work: &Work) -> Result<Result<(), Problem>, StoreError> {
    let rollout = &work.rollout;
    let (Some(generation), Some(inputs_hash), Some(key)) =
        (rollout.reached_generation, &rollout.inputs_hash, &rollout.lock_key)
    else {
        return Ok(Ok(()));
    };
    let (deployment, lock) = {
        let mut tx = sync.db.read().await?;
        let deployment = store::revisions::find(&mut tx, work.deployment.job_id, generation).await?;
        (deployment, store::locks::find(&mut tx, key).await?)
    };
    let (Some(deployment), Some(lock)) = (deployment, lock) else {
        return Err(StoreError::Corrupt { what: format!("generation {generation} of the job {}", work.job_name) });
    };
    tracing::info!(job = %work.job_name, generation, "making the last good version again");
    let wanted = Wanted {
        job_name: work.job_name.clone(),
        team: work.team.clone(),
        deployment,
        inputs_hash: inputs_hash.clone(),
        lock,
    };
    let made = sync.runtime.apply(&wanted).await;
    sync.db.wake().executions.notify_one();
    Ok(made)
}

/// What of the configuration goes into every deployment.
fn fingerprint(sync: &Synchronizer) -> String {
    let Options { vdk_distribution, vdk_constraints, .. } = &*sync.options;
    format!("{}\n{vdk_distribution}\n{vdk_constraints}", sync.runtime.fingerprint())
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

/// Whether the packages of a deployment are chosen and installed already.
async fn is_installed(sync: &Synchronizer, target: &Target, lock: Option<&Lock>) -> bool {
    let Some(lock) = lock else { return false };
    let target = Target { lock_key: Some(lock.key.clone()), inputs_hash: Some(String::new()), ..target.clone() };
    matches!(sync.runtime.observe(&target).await, Ok(Observed::Present { .. }))
}

/// Chooses the packages, unless that was done before, and has the runtime make the deployment.
async fn roll_out(
    sync: &Synchronizer,
    work: &Work,
    inputs: &str,
    lock_inputs: &LockInputs,
    known: Option<Lock>,
) -> Result<Result<Lock, Problem>, StoreError> {
    let lock = match known {
        Some(lock) => lock,
        None => match sync.resolver.lock(lock_inputs).await {
            Ok(lock) => {
                let mut tx = sync.db.write().await?;
                store::locks::insert(&mut tx, &lock, sync.clock.now()).await?;
                // The first one stored is the one that counts.
                let stored = store::locks::find(&mut tx, &lock.key).await?;
                tx.commit().await?;
                stored.unwrap_or(lock)
            }
            Err(problem) => return Ok(Err(problem)),
        },
    };
    let wanted = Wanted {
        job_name: work.job_name.clone(),
        team: work.team.clone(),
        deployment: work.deployment.clone(),
        inputs_hash: inputs.to_owned(),
        lock: lock.clone(),
    };
    Ok(sync.runtime.apply(&wanted).await.map(|()| lock))
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
    tracing::info!(job = %work.job_name, "the deployment is removed");
    Ok(())
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
            // The low bits of a random identifier spread what failed together.
            let jitter = f64::from(sync.clock.new_id().as_fields().0) / f64::from(u32::MAX);
            Some(sync.clock.now() + plan::retry_delay(attempts, jitter))
        }
    };
    tracing::warn!(job = %work.job_name, generation = work.deployment.generation, %problem, ?retry_at, "not rolled out");
    let outcome = Outcome::Failed { inputs_hash: inputs.to_owned(), problem, retry_at };
    record(sync, term, work, &outcome).await?;
    // Runs that wait for the first deployment end with it.
    sync.db.wake().executions.notify_one();
    Ok(())
}
