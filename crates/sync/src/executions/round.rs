//! Which runs are followed: a round looks at every active row.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use model::{
    execution::{Execution, Status},
    name::ExecutionId,
};
use store::{
    StoreError,
    executions::{Active, Dispatched},
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
use crate::{DATABASE_RETRY, PANIC_PAUSE, Synchronizer, Term};

/// The most active rows that a round looks at.
const ACTIVE_MAX: i64 = 20_000;

/// The most executions that wait for others beside the limit of executions at once.
const WAITING_MAX: usize = 64;

/// The longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Notifications and ends within this time are followed by one round, not by one each.
const GATHER: Duration = Duration::from_millis(20);

/// Follows every active run until the term is over. The runs themselves go on.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    let mut followed = Followers::default();
    let mut strays = Strays::default();
    loop {
        let wait = match round(sync, term, &mut followed, &mut strays).await {
            Ok(()) => PAUSE_MAX,
            Err(error) if term.survives(&error) => DATABASE_RETRY,
            Err(_) => break,
        };
        tokio::select! {
            () = term.over.cancelled() => break,
            () = sync.clock.sleep(wait) => continue,
            () = sync.db.notifications().executions.notified() => {}
            Some((id, ended)) = followed.tasks.join_next() => followed.ended(sync, term, id, ended),
        }
        if !term.pause(GATHER).await {
            break;
        }
        while let Some((id, ended)) = followed.tasks.try_join_next() {
            followed.ended(sync, term, id, ended);
        }
    }
    strays.stop().await;
    followed.tasks.shutdown().await;
}

/// The tasks that follow executions.
#[derive(Default)]
struct Followers {
    /// Notified when an execution is to be cancelled.
    cancels: HashMap<ExecutionId, Arc<Notify>>,
    tasks: JoinMap<ExecutionId, ()>,
}

impl Followers {
    /// A task is over. If it panicked, its execution is followed again after a pause.
    fn ended(&mut self, sync: &Synchronizer, term: &Term, id: ExecutionId, ended: Result<(), JoinError>) {
        let Err(error) = ended else {
            self.cancels.remove(&id);
            return;
        };
        sync.gauges.panicked("execution");
        tracing::error!(%error, execution = %id, retry_in = ?PANIC_PAUSE, "following an execution panicked; retrying");
        let term = term.clone();
        self.tasks.spawn(id, async move {
            term.pause(PANIC_PAUSE).await;
        });
    }
}

/// Follows what is followed by nobody yet, and has cancelled what is asked to end.
async fn round(
    sync: &Synchronizer,
    term: &Term,
    followed: &mut Followers,
    strays: &mut Strays,
) -> Result<(), StoreError> {
    sync.gauges.executions_checked();
    record_scheduled(sync, term, &followed.cancels, strays).await?;
    let (active, left_before) = {
        let mut tx = sync.db.read().await?;
        let active = store::executions::active(&mut tx, ACTIVE_MAX).await?;
        let host = match sync.runtime.host() {
            Some(_) => store::hosts::find(&mut tx).await?,
            None => None,
        };
        (active, host.map(|host| host.since))
    };
    // Executions in progress count before new ones, without those that wait for others.
    let waiting = waiting_for_children(&active);
    let dispatched = active.iter().filter(|run| run.dispatched.is_some()).count();
    let mut under_way = dispatched.saturating_sub(waiting.len());
    let unlisted = followed.cancels.len().saturating_sub(dispatched);
    for Active { execution, dispatched, epoch } in active {
        sync.gauges.beat("executions");
        let cancelled = execution.cancel_requested_at.is_some();
        if let Some(cancel) = followed.cancels.get(&execution.id) {
            if cancelled {
                cancel.notify_one();
            }
            continue;
        }
        let mut is_fresh = false;
        let with = match dispatched {
            Some(_) if left_before.is_some_and(|since| epoch < since) => {
                end_abandoned(sync, term, &execution).await?;
                continue;
            }
            Some(with) => with,
            None if cancelled => {
                end_unstarted(sync, term, &execution, Status::Cancelled, "Cancelled before it started.").await?;
                continue;
            }
            None if under_way + unlisted >= sync.runtime.parallel_runs_max() => continue,
            None => match dispatch(sync, term, &execution).await? {
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
        followed.cancels.insert(execution.id.clone(), cancel.clone());
        let (sync, term) = (sync.clone(), term.clone());
        let span = span_of(&execution, &with, &term);
        let id = execution.id.clone();
        let run = Followed { execution, with, is_fresh };
        let following = async move { follow(&sync, &term, &run, &cancel).await };
        followed.tasks.spawn(id, following.instrument(span));
    }
    Ok(())
}

/// The dispatched executions that wait for an execution which they started and which is not over. They take no place among
/// `parallel_runs`: a DAG of jobs that is nested deeper than that limit would wait for itself forever.
///
/// A child has the operation id of its parent and names the parent's job in `started_by`, as `vdk-dag` sends both. These
/// are words of a client, so the number is limited.
fn waiting_for_children(active: &[Active]) -> HashSet<ExecutionId> {
    let mut by_op_id: HashMap<&str, Vec<&Execution>> = HashMap::new();
    for run in active.iter().filter(|run| run.dispatched.is_some()) {
        by_op_id.entry(&run.execution.op_id).or_default().push(&run.execution);
    }
    let mut waiting = HashSet::new();
    for child in active {
        let child = &child.execution;
        for parent in by_op_id.get(child.op_id.as_str()).into_iter().flatten() {
            let name = parent.job_name.as_str();
            let mut senders = child.started_by.split('/').skip(1);
            if waiting.len() < WAITING_MAX
                && parent.id != child.id
                && senders.any(|sender| sender.strip_prefix("job:").unwrap_or(sender) == name)
            {
                waiting.insert(parent.id.clone());
            }
        }
    }
    waiting
}

/// What each line about a run has, whichever lines are wanted.
fn span_of(execution: &Execution, with: &Dispatched, term: &Term) -> Span {
    tracing::error_span!(
        "run",
        execution = %execution.id,
        job = %execution.job_name,
        generation = with.generation,
        epoch = term.epoch.0,
        op_id = execution.op_id,
    )
}
