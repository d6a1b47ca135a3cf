//! Runs that the runtime knows and the rows do not: those of scheduled times get their rows, and what is left of ended ones
//! goes.

use std::{collections::HashMap, sync::Arc};

use model::{name::ExecutionId, runtime::Ticked};
use store::{
    StoreError,
    executions::{HandedOver, Recorded},
};
use tokio::sync::Notify;

use super::end::forget;
use crate::{Synchronizer, Term};

/// Gives a row to each run that a tick started where ticks need no service, also to those that ended meanwhile.
pub(super) async fn record_scheduled(
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

/// Drops what is left of runs whose end was stored before the last instance could drop it.
pub(super) async fn forget_strays(sync: &Synchronizer) {
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
