//! Carries accepted starts to their one final status.
//!
//! A round looks at every active row. What was handed over has a task of its own that follows it from stage to stage;
//! what was not waits for its deployment and for room. After a restart the same rounds find the same rows: a run that the
//! runtime still knows is followed, one that it never got is handed over again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use model::{
    Problem,
    execution::{Execution, Status, outcome},
    log::LogChunk,
    name::ExecutionId,
    problem::Fault,
    rollout::Status as RolloutStatus,
    runtime::{Run, Seen, Stage, Started, Ticked},
    variables::run_variables,
};
use store::{
    StoreError,
    executions::{Active, Ended, HandedOver, Recorded},
};
use tokio::{sync::Notify, task::JoinSet};
use tracing::{Instrument, Span};

use crate::{DATABASE_RETRY, Synchronizer, Term, paragraph};

/// The most active rows that a round looks at.
const ACTIVE_MAX: i64 = 20_000;

/// The longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The longest pause between two tries to hand a run over, or to read its log.
const START_RETRY_MAX: Duration = Duration::from_secs(30);

/// Follows every active run until the term is over. The runs themselves go on.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    let mut followed: HashMap<ExecutionId, Arc<Notify>> = HashMap::new();
    let mut tasks: JoinSet<ExecutionId> = JoinSet::new();
    forget_strays(sync).await;
    loop {
        let wait = match round(sync, term, &mut followed, &mut tasks).await {
            Ok(()) => PAUSE_MAX,
            Err(error) if term.survives(&error) => DATABASE_RETRY,
            Err(_) => break,
        };
        tokio::select! {
            () = term.over.cancelled() => break,
            () = sync.db.wake().executions.notified() => {}
            () = tokio::time::sleep(wait) => {}
            Some(ended) = tasks.join_next() => match ended {
                Ok(id) => {
                    followed.remove(&id);
                }
                Err(error) => tracing::error!(%error, "following a run failed unexpectedly"),
            },
        }
    }
    tasks.shutdown().await;
}

async fn round(
    sync: &Synchronizer,
    term: &Term,
    followed: &mut HashMap<ExecutionId, Arc<Notify>>,
    tasks: &mut JoinSet<ExecutionId>,
) -> Result<(), StoreError> {
    sync.gauges.watched();
    record_ticked(sync, term, followed).await?;
    let (active, left_before) = {
        let mut tx = sync.db.read().await?;
        let active = store::executions::active(&mut tx, ACTIVE_MAX).await?;
        let site = match sync.runtime.site() {
            Some(_) => store::sites::find(&mut tx).await?,
            None => None,
        };
        (active, site.map(|site| site.since))
    };
    // What is under way counts before anything new does.
    let mut under_way = active.iter().filter(|run| run.handed_over.is_some()).count();
    for Active { execution, handed_over, epoch } in active {
        sync.gauges.beat("executions");
        let cancelled = execution.cancel_requested_at.is_some();
        if let Some(cancel) = followed.get(&execution.id) {
            if cancelled {
                cancel.notify_one();
            }
            continue;
        }
        let mut is_fresh = false;
        let with = match handed_over {
            Some(_) if left_before.is_some_and(|since| epoch < since) => {
                end_left_behind(sync, term, &execution).await?;
                continue;
            }
            Some(with) => with,
            None if cancelled => {
                end_unstarted(sync, term, &execution, Status::Cancelled, "Cancelled before it started.").await?;
                continue;
            }
            None if under_way.max(followed.len()) >= sync.runtime.parallel_runs_max() => continue,
            None => match hand_over(sync, term, &execution).await? {
                Some(with) => {
                    under_way += 1;
                    is_fresh = true;
                    with
                }
                None => continue,
            },
        };
        let cancel = Arc::new(Notify::new());
        if cancelled {
            cancel.notify_one();
        }
        followed.insert(execution.id.clone(), cancel.clone());
        let (sync, term) = (sync.clone(), term.clone());
        let span = span_of(&execution, &with, &term);
        let following = async move {
            let id = execution.id.clone();
            follow(&sync, &term, execution, with, is_fresh, &cancel).await;
            id
        };
        tasks.spawn(following.instrument(span));
    }
    Ok(())
}

/// What each line about a run has, whichever lines are wanted.
fn span_of(execution: &Execution, with: &HandedOver, term: &Term) -> Span {
    tracing::error_span!(
        "run",
        execution = %execution.id,
        job = %execution.job_name,
        generation = with.revision.generation,
        epoch = term.epoch.0,
        op_id = execution.op_id,
    )
}

/// Gives a row to each run that a tick started where ticks need no service, also to those that ended meanwhile.
async fn record_ticked(
    sync: &Synchronizer,
    term: &Term,
    followed: &HashMap<ExecutionId, Arc<Notify>>,
) -> Result<(), StoreError> {
    if !sync.runtime.fires_ticks() {
        return Ok(());
    }
    let known = match sync.runtime.runs().await {
        Ok(known) => known,
        Err(problem) => {
            tracing::debug!(%problem, "runs that ticks started are recorded later");
            return Ok(());
        }
    };
    let unsettled = {
        let mut tx = sync.db.read().await?;
        store::executions::unsettled(&mut tx, known).await?
    };
    for id in unsettled.over.iter().filter(|id| !followed.contains_key(*id)) {
        forget(sync, id).await;
    }
    for (id, run) in unsettled.new {
        let with = ran(sync, &run).await?;
        let mut tx = sync.db.write().await?;
        let recorded = store::executions::record_ticked(&mut tx, term.epoch, &id, &run, with.as_ref()).await?;
        tx.commit().await?;
        match recorded {
            Recorded::Known => {}
            Recorded::Alone => tracing::info!(execution = %id, tick = %run.tick, "a tick started a run"),
            Recorded::Beside => {
                sync.gauges.overlapped();
                tracing::warn!(
                    execution = %id,
                    tick = %run.tick,
                    "a tick started a run while another run of the same job is in progress, as far as is known"
                );
            }
        }
    }
    Ok(())
}

/// What a run of a tick runs: the generation that it names, or else the one that was reached.
async fn ran(sync: &Synchronizer, run: &Ticked) -> Result<Option<HandedOver>, StoreError> {
    let mut tx = sync.db.read().await?;
    let rollout = store::deployments::rollout(&mut tx, run.job_id).await?.unwrap_or_default();
    let Some(generation) = run.generation.or(rollout.reached_generation) else { return Ok(None) };
    let revision = store::revisions::find(&mut tx, run.job_id, generation).await?;
    Ok(revision.zip(rollout.artifact).map(|(revision, artifact)| HandedOver { revision, artifact }))
}

/// Chooses what a run runs and records it. `None` when it has to wait on, or ended because it never can start.
async fn hand_over(sync: &Synchronizer, term: &Term, execution: &Execution) -> Result<Option<HandedOver>, StoreError> {
    let (wanted, rollout, reached) = {
        let mut tx = sync.db.read().await?;
        let wanted = store::deployments::find(&mut tx, execution.job_id).await?;
        let rollout = store::deployments::rollout(&mut tx, execution.job_id).await?.unwrap_or_default();
        let reached = match rollout.reached_generation {
            Some(generation) => store::revisions::find(&mut tx, execution.job_id, generation).await?,
            None => None,
        };
        (wanted, rollout, reached)
    };
    if wanted.is_none() {
        let message = "Cancelled: the deployment of the job was removed before the run started.";
        end_unstarted(sync, term, execution, Status::Cancelled, message).await?;
        return Ok(None);
    }
    let (Some(revision), Some(artifact)) = (reached, rollout.artifact) else {
        // It waits for the first deployment, and fails with it.
        if let (RolloutStatus::UserError, Some(problem)) = (rollout.status, &rollout.problem) {
            let message = format!("User error. The job's first deployment failed. {}", paragraph(problem));
            end_unstarted(sync, term, execution, Status::UserError, &message).await?;
        } else if sync.clock.now() - sync.options.start_deadline > execution.submitted_at {
            let why = rollout.problem.as_ref().map_or_else(String::new, paragraph);
            let message = format!(
                "Platform error. The job's first deployment was not ready {} seconds after the start was accepted. {why}",
                sync.options.start_deadline.as_secs()
            );
            end_unstarted(sync, term, execution, Status::PlatformError, &message).await?;
        }
        return Ok(None);
    };
    let mut tx = sync.db.write().await?;
    let with = HandedOver { revision, artifact };
    let stored = store::executions::hand_over(&mut tx, term.epoch, &execution.id, &with).await?;
    tx.commit().await?;
    Ok(stored.then_some(with))
}

/// Ends a run that was handed over where this service does not look any more. It may have done part of its work.
async fn end_left_behind(sync: &Synchronizer, term: &Term, execution: &Execution) -> Result<(), StoreError> {
    let message = "Platform error. The run was left behind on a machine that the operator gave up, and its result is not \
        known. It is not repeated, because it may have done part of its work; start it again when that is safe.";
    let started_at = execution.started_at;
    let ended = Ended { status: Status::PlatformError, message, started_at, ended_at: sync.clock.now() };
    finish(sync, term, &execution.id, &ended, None).await
}

async fn end_unstarted(
    sync: &Synchronizer,
    term: &Term,
    execution: &Execution,
    status: Status,
    message: &str,
) -> Result<(), StoreError> {
    let ended = Ended { status, message, started_at: None, ended_at: sync.clock.now() };
    finish(sync, term, &execution.id, &ended, None).await
}

/// Gives a run its final status, with its log, in one transaction.
async fn finish(
    sync: &Synchronizer,
    term: &Term,
    id: &ExecutionId,
    ended: &Ended<'_>,
    log: Option<&LogChunk>,
) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    if let Some(log) = log {
        store::logs::replace(&mut tx, id, log).await?;
    }
    let changed = store::executions::finish(&mut tx, term.epoch, id, ended).await?;
    tx.commit().await?;
    if changed {
        sync.gauges.ended(ended.status);
        tracing::info!(execution = %id, status = ended.status.as_str(), "a run ended");
    }
    sync.db.wake().schedules.notify_one();
    sync.db.wake().executions.notify_one();
    Ok(())
}

/// Follows a run to its end, through failures of the runtime and of the database. A fresh one was handed over just now: the
/// runtime has nothing of it yet.
async fn follow(
    sync: &Synchronizer,
    term: &Term,
    execution: Execution,
    with: HandedOver,
    is_fresh: bool,
    cancel: &Notify,
) {
    let id = &execution.id;
    let (mut attempt, mut log_attempt) = (0_u32, 0_u32);
    let mut cancelling = false;
    let mut running = execution.status == Status::Running;
    let mut seen = if running { Seen::Running } else { Seen::Submitted };
    let mut is_known_unstarted = is_fresh;
    loop {
        let next = async {
            // A start that was never tried needs no look whether it was.
            if std::mem::take(&mut is_known_unstarted) {
                Ok(Stage::Unknown)
            } else {
                sync.runtime.next(id, &seen).await
            }
        };
        let stage = tokio::select! {
            stage = next => stage,
            () = cancel.notified(), if !cancelling => {
                match sync.runtime.cancel(id).await {
                    Ok(()) => cancelling = true,
                    Err(problem) => {
                        tracing::warn!(%problem, "a run could not be cancelled yet");
                        cancel.notify_one();
                        if !term.pause(DATABASE_RETRY).await {
                            return;
                        }
                        continue;
                    }
                }
                // What was never handed over has nothing to wait for.
                continue;
            }
            () = term.over.cancelled() => return,
        };
        let step = match stage {
            Ok(Stage::Held(problem)) => {
                let recorded = record_held(sync, term, id, &problem).await;
                seen = Seen::Held(problem);
                recorded
            }
            Ok(Stage::Running(at)) => {
                if !running {
                    sync.gauges.started(execution.submitted_at, Some(at));
                }
                running = true;
                seen = Seen::Running;
                record_running(sync, term, id, at).await
            }
            Ok(Stage::Ended(end)) => {
                let (status, message) = outcome(&end);
                let log = sync.runtime.log(id).await;
                match log {
                    Ok(log) => {
                        let ended =
                            Ended { status, message: &message, started_at: end.started_at, ended_at: end.ended_at };
                        match finish(sync, term, id, &ended, log.as_ref()).await {
                            Ok(()) => {
                                if !running {
                                    sync.gauges.started(execution.submitted_at, end.started_at);
                                }
                                forget(sync, id).await;
                                return;
                            }
                            Err(error) => Err(error),
                        }
                    }
                    Err(problem) => {
                        tracing::warn!(%problem, "the log of a run could not be read yet");
                        log_attempt += 1;
                        if !term.pause(START_RETRY_MAX.min(Duration::from_secs(1 << log_attempt.min(5)))).await {
                            return;
                        }
                        Ok(())
                    }
                }
            }
            Ok(Stage::Unknown) if running => {
                let message = "Platform error. The run vanished from where it ran without leaving a result: its folder or \
                    its objects were removed. It is not repeated, because it may have done part of its work; start it \
                    again when that is safe.";
                let ended = Ended {
                    status: Status::PlatformError,
                    message,
                    started_at: execution.started_at,
                    ended_at: sync.clock.now(),
                };
                match finish(sync, term, id, &ended, None).await {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
            Ok(Stage::Unknown) if cancelling => {
                match end_unstarted(sync, term, &execution, Status::Cancelled, "Cancelled before it started.").await {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
            // It came of a tick and is gone before anybody saw how it ended.
            Ok(Stage::Unknown) if execution.scheduled_tick.is_some() && sync.runtime.fires_ticks() => {
                let message = "Platform error. The run of this tick vanished from the cluster before its result was seen: \
                    somebody removed its Job. Whether it did its work is not known; start the job again when that is safe.";
                match end_unstarted(sync, term, &execution, Status::PlatformError, message).await {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
            Ok(Stage::Unknown) => match start(sync, &execution, &with).await {
                Ok(Ok(Started::Running)) => Ok(()),
                Ok(Ok(Started::SteppedAside { for_run })) => {
                    let message = format!(
                        "Skipping job execution due to another parallel running execution: {for_run}, which a tick started."
                    );
                    match end_unstarted(sync, term, &execution, Status::Skipped, &message).await {
                        Ok(()) => return,
                        Err(error) => Err(error),
                    }
                }
                Ok(Err(problem)) => {
                    attempt += 1;
                    match start_failed(sync, term, &execution, &problem).await {
                        Ok(true) => return,
                        Ok(false) => {
                            let delay = Duration::from_secs(1 << attempt.min(5)).min(START_RETRY_MAX);
                            if !term.pause(delay).await {
                                return;
                            }
                            Ok(())
                        }
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            },
            // All tries to start it were this instance's, and none got through in its time.
            Err(problem) if !running && is_fresh && is_past_deadline(sync, &execution) => {
                let message = format!("Platform error. {}", paragraph(&problem));
                match end_unstarted(sync, term, &execution, Status::PlatformError, &message).await {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
            Err(problem) => {
                tracing::warn!(%problem, "a run can't be followed at the moment");
                if !term.pause(DATABASE_RETRY).await {
                    return;
                }
                Ok(())
            }
        };
        if let Err(error) = step
            && !(term.survives(&error) && term.pause(DATABASE_RETRY).await)
        {
            return;
        }
    }
}

async fn record_running(
    sync: &Synchronizer,
    term: &Term,
    id: &ExecutionId,
    at: jiff::Timestamp,
) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    store::executions::running(&mut tx, term.epoch, id, at).await?;
    tx.commit().await
}

async fn record_held(sync: &Synchronizer, term: &Term, id: &ExecutionId, problem: &Problem) -> Result<(), StoreError> {
    tracing::warn!(%problem, "a run can't start yet");
    let mut tx = sync.db.write().await?;
    store::executions::held(&mut tx, term.epoch, id, &paragraph(problem)).await?;
    tx.commit().await
}

/// Hands a run to the runtime.
async fn start(
    sync: &Synchronizer,
    execution: &Execution,
    HandedOver { revision, artifact }: &HandedOver,
) -> Result<Result<Started, Problem>, StoreError> {
    let archive = if sync.runtime.takes_sources() {
        let mut tx = sync.db.read().await?;
        let Some(archive) = store::sources::archive(&mut tx, execution.job_id, &revision.job_version).await? else {
            return Ok(Err(Problem::not_found(
                "The run was not started.",
                "The source that it was to run was removed meanwhile.",
            )));
        };
        archive
    } else {
        Vec::new()
    };
    let team_secret = sync.team_secret(&execution.team).await?;
    let blueprint = sync.blueprint(&execution.job_name, &execution.team, team_secret, revision);
    let mut variables = run_variables(&execution.id, &execution.op_id);
    match sync.token(&execution.job_name, revision) {
        Ok(token) => variables.extend(token),
        Err(problem) => return Ok(Err(problem)),
    }
    let run = Run {
        id: execution.id.clone(),
        blueprint,
        artifact: artifact.clone(),
        archive,
        arguments: execution.arguments.clone(),
        started_by: execution.started_by.clone(),
        op_id: execution.op_id.clone(),
        variables,
        deadline_seconds: sync.options.run_deadline_seconds,
        backoff_limit: sync.options.run_backoff_limit,
    };
    Ok(sync.runtime.start(&run).await)
}

fn is_past_deadline(sync: &Synchronizer, execution: &Execution) -> bool {
    sync.clock.now() - sync.options.start_deadline > execution.submitted_at
}

/// Decides on a start that failed: the user's fault and a passed deadline end the run. `true` when it ended.
async fn start_failed(
    sync: &Synchronizer,
    term: &Term,
    execution: &Execution,
    problem: &Problem,
) -> Result<bool, StoreError> {
    tracing::warn!(%problem, "a run could not be started");
    let status = match problem.fault {
        Fault::User => Status::UserError,
        Fault::Platform if is_past_deadline(sync, execution) => Status::PlatformError,
        Fault::Platform => {
            // What the run needs may be gone: the deployment is looked at again, and made again where it is.
            let mut tx = sync.db.write().await?;
            store::deployments::make_due(&mut tx, execution.job_id, sync.clock.now()).await?;
            tx.commit().await?;
            sync.db.wake().deployments.notify_one();
            return Ok(false);
        }
    };
    let whose = if status == Status::UserError { "User error." } else { "Platform error." };
    end_unstarted(sync, term, execution, status, &format!("{whose} {}", paragraph(problem))).await?;
    Ok(true)
}

async fn forget(sync: &Synchronizer, id: &ExecutionId) {
    if let Err(problem) = sync.runtime.forget(id).await {
        tracing::warn!(execution = %id, %problem, "what is left of a run could not be removed");
    }
}

/// Drops what is left of runs whose end was stored before the last instance could drop it.
async fn forget_strays(sync: &Synchronizer) {
    let Ok(known) = sync.runtime.runs().await else { return };
    for id in known.into_iter().map(|run| run.id) {
        let Ok(mut tx) = sync.db.read().await else { return };
        match store::executions::find(&mut tx, &id).await {
            Ok(Some(execution)) if execution.status.is_final() => {
                drop(tx);
                forget(sync, &id).await;
            }
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => {
                tracing::warn!(execution = %id, "a run is known to the runtime and not to the database; it is left alone");
            }
        }
    }
}
