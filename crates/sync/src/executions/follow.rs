//! Follows one execution to its end: asks the runtime, has [`Follower`] decide, and carries the decision out.

use std::{ops::ControlFlow, time::Duration};

use jiff::Timestamp;
use model::{
    Problem,
    execution::Execution,
    log::LogPart,
    name::ExecutionId,
    problem::Code,
    runtime::{ExecutionSpec, Seen, Started},
    variables::run_variables,
};
use store::{
    StoreError,
    executions::{Dispatched, Ended},
};
use tokio::sync::Notify;

use super::{
    end::{finish, forget},
    follower::{End, Follower, Step},
};
use crate::{DATABASE_RETRY, LeaderEpoch, Synchronizer};

/// An execution to follow.
#[derive(Debug)]
pub(super) struct Followed {
    /// The execution.
    pub(super) execution: Execution,
    /// Its revision and artifact.
    pub(super) with: Dispatched,
    /// Whether it was dispatched just now, so that the runtime does not know it yet.
    pub(super) is_fresh: bool,
}

/// Follows an execution to its end, through failures of the runtime and of the database. Cancels it when `cancel` is notified.
pub(super) async fn follow(sync: &Synchronizer, leader_epoch: &LeaderEpoch, run: &Followed, cancel: &Notify) {
    let id = &run.execution.id;
    let (fires_ticks, deadline) = (sync.runtime.fires_ticks(), sync.options.start_deadline);
    let mut follower = Follower::new(&run.execution, run.is_fresh, fires_ticks, deadline);
    loop {
        let is_cancelling = follower.is_cancelling();
        let next = async {
            match follower.known_stage() {
                Some(stage) => Ok(stage),
                None => sync.runtime.next(id, follower.seen()).await,
            }
        };
        let stage = tokio::select! {
            stage = next => stage,
            () = cancel.notified(), if !is_cancelling => {
                match sync.runtime.cancel(id, run.execution.job_id).await {
                    Ok(()) => follower.cancelled(),
                    Err(problem) => {
                        tracing::warn!(%problem, "an execution could not be cancelled; retrying");
                        cancel.notify_one();
                        if !leader_epoch.pause(follower.cancel_failed()).await {
                            return;
                        }
                    }
                }
                continue;
            }
            () = leader_epoch.over.cancelled() => return,
        };
        if let Err(problem) = &stage {
            tracing::warn!(%problem, "failed to follow an execution; retrying");
        }
        let step = follower.decide(stage, sync.clock.now());
        match carry_out(sync, leader_epoch, run, &mut follower, step).await {
            Ok(ControlFlow::Continue(pause)) if pause.is_zero() || leader_epoch.pause(pause).await => {}
            Err(error) if leader_epoch.survives(&error) && leader_epoch.pause(DATABASE_RETRY).await => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Carries a decision out. Continues after a pause, or breaks when the end of the execution is stored.
async fn carry_out(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    run: &Followed,
    follower: &mut Follower,
    step: Step,
) -> Result<ControlFlow<(), Duration>, StoreError> {
    let execution = &run.execution;
    match step {
        Step::Start => {
            let started = start(sync, execution, &run.with, follower).await?;
            if let Err(problem) = &started {
                tracing::warn!(%problem, "an execution could not be started");
            }
            let step = follower.start_ended(started, sync.clock.now());
            // A start leads to no other start.
            return Box::pin(carry_out(sync, leader_epoch, run, follower, step)).await;
        }
        Step::Restart(pause) => {
            // An object that the execution needs may be gone: reconcile the deployment, which recreates it.
            let mut tx = sync.db.write().await?;
            store::deployments::make_due(&mut tx, execution.job_id, sync.clock.now()).await?;
            tx.commit().await?;
            sync.db.notifications().deployments.notify_one();
            return Ok(ControlFlow::Continue(pause));
        }
        Step::Running { at, is_first } => {
            if is_first {
                sync.gauges.started(execution.submitted_at, Some(at));
            }
            record_running(sync, leader_epoch, &execution.id, at).await?;
            follower.recorded(Seen::Running);
        }
        Step::Held(problem) => {
            record_waiting(sync, leader_epoch, &execution.id, &problem).await?;
            follower.recorded(Seen::Held(problem));
        }
        Step::Cancel => {
            if let Err(problem) = sync.runtime.cancel(&execution.id, execution.job_id).await {
                tracing::warn!(%problem, "an execution whose start was given up could not be cancelled; retrying");
                return Ok(ControlFlow::Continue(follower.cancel_failed()));
            }
            follower.cancelled();
        }
        Step::Look(pause) => return Ok(ControlFlow::Continue(pause)),
        Step::End(end) => return record_end(sync, leader_epoch, execution, follower, &end).await,
    }
    Ok(ControlFlow::Continue(Duration::ZERO))
}

async fn record_end(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    execution: &Execution,
    follower: &mut Follower,
    end: &End,
) -> Result<ControlFlow<(), Duration>, StoreError> {
    let id = &execution.id;
    let log = if end.is_known { sync.runtime.log(id, LogPart::Whole).await } else { Ok(None) };
    let log = match log {
        Ok(log) => log,
        Err(problem) => {
            tracing::warn!(%problem, "failed to read the log of an execution; retrying");
            return Ok(ControlFlow::Continue(follower.log_failed()));
        }
    };
    let End { status, ref message, started_at, ended_at, .. } = *end;
    finish(sync, leader_epoch, id, &Ended { status, message, started_at, ended_at }, log.as_ref()).await?;
    if end.is_first {
        sync.gauges.started(execution.submitted_at, started_at);
    }
    if end.is_known {
        forget(sync, id, execution.job_id).await;
    }
    Ok(ControlFlow::Break(()))
}

async fn record_running(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    id: &ExecutionId,
    at: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    store::executions::running(&mut tx, leader_epoch.epoch, id, at).await?;
    tx.commit().await
}

async fn record_waiting(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    id: &ExecutionId,
    problem: &Problem,
) -> Result<(), StoreError> {
    tracing::warn!(%problem, "an execution can't start yet");
    let mut tx = sync.db.write().await?;
    store::executions::record_waiting(&mut tx, leader_epoch.epoch, id, &format!("{problem:#}")).await?;
    tx.commit().await
}

/// Has the runtime start an execution.
async fn start(
    sync: &Synchronizer,
    execution: &Execution,
    Dispatched { generation, artifact }: &Dispatched,
    follower: &mut Follower,
) -> Result<Result<Started, Problem>, StoreError> {
    let mut tx = sync.db.read().await?;
    let Some(revision) = store::revisions::find(&mut tx, execution.job_id, *generation).await? else {
        return Ok(Err(Problem::new(
            Code::ExecutionRevisionMissing,
            format!("The execution {} was not started.", execution.id),
            format!("The revision {generation} of its deployment is no longer kept (`revisions.keep`)."),
        )
        .follows("The execution ended.")
        .fix("Start the job again.")));
    };
    let archive = if sync.runtime.takes_sources() {
        let Some(archive) = store::sources::archive(&mut tx, execution.job_id, &revision.job_version).await? else {
            return Ok(Err(Problem::new(
                Code::ExecutionSourcesRemoved,
                format!("The execution {} was not started.", execution.id),
                format!("Its sources, version {}, were removed while it waited.", revision.job_version),
            )
            .follows("The execution ended.")
            .fix("Deploy the job again, then start it.")));
        };
        archive
    } else {
        Vec::new()
    };
    drop(tx);
    let team_secret = sync.team_secret(&execution.team).await?;
    let deployment_spec = sync.deployment_spec(&execution.job_name, &execution.team, team_secret, &revision);
    let mut variables = run_variables(&execution.id, &execution.op_id);
    match sync.token(&execution.job_name, &revision) {
        Ok(token) => variables.extend(token),
        Err(problem) => return Ok(Err(problem)),
    }
    let run = ExecutionSpec {
        id: execution.id.clone(),
        deployment_spec,
        artifact: artifact.clone(),
        archive,
        arguments: execution.arguments.clone(),
        started_by: execution.started_by.clone(),
        op_id: execution.op_id.clone(),
        variables,
        deadline_seconds: sync.options.run_deadline_seconds,
        backoff_limit: sync.options.run_backoff_limit,
    };
    follower.start_sent();
    Ok(sync.runtime.start(&run).await)
}
