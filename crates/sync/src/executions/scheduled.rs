//! Executions that the runtime knows and the database does not: scheduled ones get their rows, and the rest of ended ones is
//! removed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use model::{
    name::{ExecutionId, JobId},
    runtime::ScheduledExecution,
};
use store::{
    StoreError,
    executions::{Dispatched, Recorded},
};
use tokio::sync::Semaphore;
use tokio_util::task::JoinMap;

use super::end::forget;
use crate::{LeaderEpoch, Synchronizer};

/// The most ended executions whose rest is removed at the same time.
const FORGETS_MAX: usize = 8;

/// The pause before a failed removal is retried.
const FORGET_RETRY: Duration = Duration::from_secs(30);

/// The most identifiers in a log line.
const NAMED_MAX: usize = 10;

/// Removes the rest of executions whose end is stored, beside the rounds, so that no start or cancellation waits for it.
pub(super) struct Strays {
    tasks: JoinMap<ExecutionId, ()>,
    places: Arc<Semaphore>,
    /// Whether the executions of the runtime were listed in this leader epoch.
    were_listed: bool,
}

impl Default for Strays {
    fn default() -> Self {
        Self { tasks: JoinMap::new(), places: Arc::new(Semaphore::new(FORGETS_MAX)), were_listed: false }
    }
}

impl Strays {
    /// Begins to remove the rest of these, except those that are being removed already.
    fn forget(&mut self, sync: &Synchronizer, over: impl Iterator<Item = (ExecutionId, JobId)>) {
        while let Some((id, ended)) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                sync.gauges.panicked("removal");
                tracing::error!(%error, execution = %id, "removing an ended execution panicked; retrying");
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

    /// Stops at the end of the leader epoch.
    pub(super) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Records each execution that the runtime itself started at a scheduled time, also if it ended meanwhile. A runtime that
/// starts none (the local one) is listed once per leader epoch, to find folders of ended executions.
pub(super) async fn record_scheduled<F: Sync>(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    followed: &HashMap<ExecutionId, F>,
    strays: &mut Strays,
) -> Result<(), StoreError> {
    if strays.were_listed && !sync.runtime.fires_ticks() {
        return Ok(());
    }
    let known = match sync.runtime.runs().await {
        // A followed execution has its row, and its follower removes the rest of it.
        Ok(known) => known.into_iter().filter(|run| !followed.contains_key(&run.id)).collect(),
        Err(problem) => {
            tracing::debug!(%problem, "failed to list scheduled executions; retrying in the next round");
            return Ok(());
        }
    };
    let unsettled = {
        let mut tx = sync.db.read().await?;
        store::executions::unsettled(&mut tx, known).await?
    };
    strays.forget(sync, unsettled.over.into_iter());
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
        let recorded =
            store::executions::record_scheduled(&mut tx, leader_epoch.epoch, &id, &run, with.as_ref()).await?;
        tx.commit().await?;
        match recorded {
            Recorded::Known => {}
            Recorded::Alone => {
                tracing::info!(execution = %id, tick = %run.tick, "the runtime started a scheduled execution");
            }
            Recorded::Beside => {
                sync.gauges.overlapped();
                tracing::warn!(
                    execution = %id,
                    tick = %run.tick,
                    "the runtime started a scheduled execution although another one of the job seems to be in progress"
                );
            }
        }
    }
    Ok(())
}

/// The generation and artifact of a scheduled execution: those that it names, or else the deployed ones.
async fn ran(sync: &Synchronizer, run: &ScheduledExecution) -> Result<Option<Dispatched>, StoreError> {
    let mut tx = sync.db.read().await?;
    let rollout = store::deployments::rollout(&mut tx, run.job_id).await?.unwrap_or_default();
    let Some(generation) = run.generation.or(rollout.reached_generation) else { return Ok(None) };
    Ok(rollout.artifact.map(|artifact| Dispatched { generation, artifact }))
}
