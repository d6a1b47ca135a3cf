//! Runs that the runtime knows and the rows do not: those of scheduled times get their rows, and what is left of ended ones
//! goes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use model::{
    name::{ExecutionId, JobId},
    runtime::ScheduledExecution,
};
use store::{
    StoreError,
    executions::{Dispatched, Recorded},
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::JoinMap;

use super::end::forget;
use crate::{Synchronizer, Term};

/// Ended executions of which the rest is dropped at the same time.
const FORGETS_MAX: usize = 8;

/// The pause before the rest of an ended execution is dropped once more.
const FORGET_RETRY: Duration = Duration::from_secs(30);

/// The most ids in a line of the log.
const NAMED_MAX: usize = 10;

/// Drops what is left of executions whose end is stored, beside the rounds: no start or cancellation waits for it.
pub(super) struct Strays {
    tasks: JoinMap<ExecutionId, ()>,
    places: Arc<Semaphore>,
    /// The runtime was asked for what it knows in this term.
    were_listed: bool,
}

impl Default for Strays {
    fn default() -> Self {
        Self { tasks: JoinMap::new(), places: Arc::new(Semaphore::new(FORGETS_MAX)), were_listed: false }
    }
}

impl Strays {
    /// Begins to drop what is left of these, but for those that are being dropped already.
    fn forget(&mut self, sync: &Synchronizer, over: impl Iterator<Item = (ExecutionId, JobId)>) {
        while let Some((id, ended)) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                sync.gauges.panicked("removal");
                tracing::error!(%error, execution = %id, "dropping an ended execution panicked; retrying");
            }
        }
        for (id, job_id) in over {
            if self.tasks.contains_key(&id) {
                continue;
            }
            let (sync, of, places) = (sync.clone(), id.clone(), self.places.clone());
            self.tasks.spawn(id, async move {
                let place = places.acquire().await;
                let is_dropped = forget(&sync, &of, job_id).await;
                drop(place);
                if !is_dropped {
                    sync.clock.sleep(FORGET_RETRY).await;
                }
            });
        }
    }

    /// Stops at the end of the term.
    pub(super) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Gives a row to each run that a tick started where ticks need no service, also to those that ended meanwhile. Where ticks
/// need the service, the runtime is asked once in a term what is left of ended ones.
pub(super) async fn record_scheduled(
    sync: &Synchronizer,
    term: &Term,
    followed: &HashMap<ExecutionId, Arc<Notify>>,
    strays: &mut Strays,
) -> Result<(), StoreError> {
    if strays.were_listed && !sync.runtime.fires_ticks() {
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
    strays.forget(sync, unsettled.over.into_iter().filter(|(id, _)| !followed.contains_key(id)));
    if !std::mem::replace(&mut strays.were_listed, true) && !unsettled.unknown.is_empty() {
        let names: Vec<_> = unsettled.unknown.iter().take(NAMED_MAX).map(ExecutionId::as_str).collect();
        tracing::warn!(
            count = unsettled.unknown.len(),
            names = names.join(", "),
            "the runtime has executions that are unknown to the database; they are left alone"
        );
    }
    for (id, run) in unsettled.new {
        let with = ran(sync, &run).await?;
        let mut tx = sync.db.write().await?;
        let recorded = store::executions::record_scheduled(&mut tx, term.epoch, &id, &run, with.as_ref()).await?;
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
async fn ran(sync: &Synchronizer, run: &ScheduledExecution) -> Result<Option<Dispatched>, StoreError> {
    let mut tx = sync.db.read().await?;
    let rollout = store::deployments::rollout(&mut tx, run.job_id).await?.unwrap_or_default();
    let Some(generation) = run.generation.or(rollout.reached_generation) else { return Ok(None) };
    Ok(rollout.artifact.map(|artifact| Dispatched { generation, artifact }))
}
