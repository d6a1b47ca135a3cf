//! Which executions are followed. A round reads the identifier of every active execution, and the rest of its row only
//! while the execution is not followed yet.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use model::{
    execution::{Execution, Status},
    name::{ExecutionId, JobName},
};
use store::{
    StoreError,
    executions::{Active, ActiveId, Dispatched},
};
use tokio::{sync::Notify, task::JoinError};
use tokio_util::task::JoinMap;
use tracing::{Instrument, Span};

use super::{
    dispatch::{dispatch, end_abandoned},
    end::end_unstarted,
    follow::{Followed, follow},
    scheduled::{Strays, record_scheduled},
};
use crate::{DATABASE_RETRY, LeaderEpoch, PANIC_PAUSE, Synchronizer};

/// The most active executions in a round.
const ACTIVE_MAX: i64 = 20_000;

/// The most executions that wait for others beside the limit of executions at once.
const WAITING_MAX: usize = 64;

/// The longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Notifications and ends within this time are followed by one round, not by one each.
const GATHER: Duration = Duration::from_millis(20);

/// Follows every active execution until the leader epoch is over. The executions themselves continue.
pub(crate) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    let mut followed = Followers::default();
    let mut strays = Strays::default();
    loop {
        let wait = match round(sync, leader_epoch, &mut followed, &mut strays).await {
            Ok(()) => PAUSE_MAX,
            Err(error) if leader_epoch.survives(&error) => DATABASE_RETRY,
            Err(_) => break,
        };
        tokio::select! {
            () = leader_epoch.over.cancelled() => break,
            () = sync.clock.sleep(wait) => continue,
            () = sync.db.notifications().executions.notified() => {}
            Some((id, ended)) = followed.tasks.join_next() => followed.ended(sync, leader_epoch, id, ended),
        }
        if !leader_epoch.pause(GATHER).await {
            break;
        }
        while let Some((id, ended)) = followed.tasks.try_join_next() {
            followed.ended(sync, leader_epoch, id, ended);
        }
    }
    strays.stop().await;
    followed.tasks.shutdown().await;
}

/// The tasks that follow executions.
#[derive(Default)]
struct Followers {
    known: HashMap<ExecutionId, Known>,
    tasks: JoinMap<ExecutionId, ()>,
}

/// The part of a followed execution that rounds need, so that they do not read its row again.
#[derive(Debug)]
struct Known {
    /// Notified when the execution is to be cancelled.
    cancel: Arc<Notify>,
    origin: Origin,
}

/// Which request an execution comes from. Nothing of it ever changes.
#[derive(Debug, Clone)]
struct Origin {
    job_name: JobName,
    op_id: String,
    started_by: String,
}

impl Origin {
    fn of(execution: &Execution) -> Self {
        let Execution { job_name, op_id, started_by, .. } = execution;
        Self { job_name: job_name.clone(), op_id: op_id.clone(), started_by: started_by.clone() }
    }
}

impl Followers {
    /// Notes that a task is over. If it panicked, its execution is followed again after a pause.
    fn ended(
        &mut self,
        sync: &Synchronizer,
        leader_epoch: &LeaderEpoch,
        id: ExecutionId,
        ended: Result<(), JoinError>,
    ) {
        let Err(error) = ended else {
            self.known.remove(&id);
            return;
        };
        sync.gauges.panicked("execution");
        tracing::error!(%error, execution = %id, retry_in = ?PANIC_PAUSE, "following an execution panicked; retrying");
        let leader_epoch = leader_epoch.clone();
        self.tasks.spawn(id, async move {
            leader_epoch.pause(PANIC_PAUSE).await;
        });
    }
}

/// Begins to follow executions that are not followed yet, and cancels those whose cancellation was requested.
async fn round(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    followed: &mut Followers,
    strays: &mut Strays,
) -> Result<(), StoreError> {
    sync.gauges.executions_checked();
    record_scheduled(sync, leader_epoch, &followed.known, strays).await?;
    let (ids, active, left_before) = {
        let mut tx = sync.db.read().await?;
        let ids = store::executions::active_ids(&mut tx, ACTIVE_MAX).await?;
        let is_new = |active: &&ActiveId| !followed.known.contains_key(&active.id);
        let new: Vec<_> = ids.iter().filter(is_new).map(|active| active.id.clone()).collect();
        let active = store::executions::active(&mut tx, &new).await?;
        let host = match sync.runtime.host() {
            Some(_) => store::hosts::find(&mut tx).await?,
            None => None,
        };
        (ids, active, host.map(|host| host.since))
    };
    sync.gauges.beat("executions");
    let origins: Vec<_> = active.iter().map(|run| Origin::of(&run.execution)).collect();
    let mut lineage = Vec::with_capacity(ids.len());
    for (run, origin) in active.iter().zip(&origins) {
        lineage.push(Lineage { id: &run.execution.id, origin, is_dispatched: run.dispatched.is_some() });
    }
    for active in &ids {
        if let Some(known) = followed.known.get(&active.id) {
            if active.is_cancelled {
                known.cancel.notify_one();
            }
            lineage.push(Lineage { id: &active.id, origin: &known.origin, is_dispatched: true });
        }
    }
    // Executions in progress count before new ones, without those that wait for others.
    let dispatched = active.iter().filter(|run| run.dispatched.is_some()).count();
    let mut under_way = (followed.known.len() + dispatched).saturating_sub(waiting_for_children(&lineage));
    for (Active { execution, dispatched, epoch }, origin) in active.into_iter().zip(origins) {
        sync.gauges.beat("executions");
        let cancelled = execution.cancel_requested_at.is_some();
        let mut is_fresh = false;
        let with = match dispatched {
            Some(_) if left_before.is_some_and(|since| epoch < since) => {
                end_abandoned(sync, leader_epoch, &execution).await?;
                continue;
            }
            Some(with) => with,
            None if cancelled => {
                end_unstarted(sync, leader_epoch, &execution, Status::Cancelled, "Cancelled before it started.")
                    .await?;
                continue;
            }
            None if under_way >= sync.runtime.parallel_runs_max() => continue,
            None => match dispatch(sync, leader_epoch, &execution).await? {
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
        followed.known.insert(execution.id.clone(), Known { cancel: cancel.clone(), origin });
        let (sync, leader_epoch) = (sync.clone(), leader_epoch.clone());
        let span = span_of(&execution, &with, &leader_epoch);
        let id = execution.id.clone();
        let run = Followed { execution, with, is_fresh };
        let following = async move { follow(&sync, &leader_epoch, &run, &cancel).await };
        followed.tasks.spawn(id, following.instrument(span));
    }
    Ok(())
}

/// An active execution, where its parent and its children are looked for.
#[derive(Debug, Clone, Copy)]
struct Lineage<'a> {
    id: &'a ExecutionId,
    origin: &'a Origin,
    is_dispatched: bool,
}

/// The number of dispatched executions that wait for an execution which they started and which is not over. They take no
/// place among `parallel_runs`: a DAG of jobs that is nested deeper than that limit would wait for itself forever.
///
/// A child has the operation id of its parent and names the parent's job in `started_by`, as `vdk-dag` sends both. A client
/// chooses these texts, so the number is limited.
fn waiting_for_children(active: &[Lineage<'_>]) -> usize {
    let mut by_op_id: HashMap<&str, Vec<&Lineage<'_>>> = HashMap::new();
    for parent in active.iter().filter(|run| run.is_dispatched) {
        by_op_id.entry(&parent.origin.op_id).or_default().push(parent);
    }
    let mut waiting = HashSet::new();
    for child in active {
        for parent in by_op_id.get(child.origin.op_id.as_str()).into_iter().flatten() {
            let name = parent.origin.job_name.as_str();
            let mut senders = child.origin.started_by.split('/').skip(1);
            if parent.id != child.id && senders.any(|sender| sender.strip_prefix("job:").unwrap_or(sender) == name) {
                waiting.insert(parent.id);
            }
        }
    }
    waiting.len().min(WAITING_MAX)
}

/// The fields of each log line about an execution, at every log level.
fn span_of(execution: &Execution, with: &Dispatched, leader_epoch: &LeaderEpoch) -> Span {
    tracing::error_span!(
        "run",
        execution = %execution.id,
        job = %execution.job_name,
        revision = with.generation,
        epoch = leader_epoch.epoch.0,
        op_id = execution.op_id,
    )
}
