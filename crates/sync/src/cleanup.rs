//! Retention: ended executions with their logs, deleted jobs, names of requests, schedules and environments that nobody needs.

use std::time::Duration;

use jiff::SignedDuration;
use store::{StoreError, leases};

use crate::{Synchronizer, Term};

/// How often something is cleaned up.
const INTERVAL: Duration = Duration::from_secs(600);

/// Rows removed in one transaction, so that no writer waits long.
const BATCH: i64 = 500;

/// How long builds are kept that failed, or that nobody waits for any more.
const BUILDS_KEEP: SignedDuration = SignedDuration::from_hours(24);

/// Cleans up until the term is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    // The start of a service has better things to do.
    let mut delay = Duration::from_secs(30);
    while term.pause(delay).await {
        delay = INTERVAL;
        let done = round(sync, term).await;
        sync.gauges.cleaned_up(done.is_ok());
        if let Err(error) = done
            && !term.survives(&error)
        {
            return;
        }
    }
}

async fn round(sync: &Synchronizer, term: &Term) -> Result<(), StoreError> {
    let now = sync.clock.now();
    let (mut executions, mut jobs) = (0, 0);
    loop {
        let mut tx = sync.db.write().await?;
        leases::fence(&mut tx, term.epoch).await?;
        let before = now - sync.options.executions_keep;
        let done =
            store::retention::purge_executions(&mut tx, before, sync.options.executions_keep_per_job, BATCH).await?;
        tx.commit().await?;
        executions += done;
        if done == 0 || term.over.is_cancelled() {
            break;
        }
    }
    loop {
        let mut tx = sync.db.write().await?;
        leases::fence(&mut tx, term.epoch).await?;
        let done = store::retention::purge_deleted_jobs(&mut tx, now - sync.options.deleted_jobs_keep, 10).await?;
        tx.commit().await?;
        jobs += done;
        if done == 0 || term.over.is_cancelled() {
            break;
        }
    }
    loop {
        let mut tx = sync.db.write().await?;
        leases::fence(&mut tx, term.epoch).await?;
        let done = store::idempotency::purge(&mut tx, now, BATCH).await?;
        tx.commit().await?;
        if done == 0 || term.over.is_cancelled() {
            break;
        }
    }
    let mut looked_at = None;
    loop {
        let mut tx = sync.db.write().await?;
        leases::fence(&mut tx, term.epoch).await?;
        looked_at = store::retention::purge_removed_sources(&mut tx, looked_at.as_ref(), 10).await?;
        tx.commit().await?;
        if looked_at.is_none() || term.over.is_cancelled() {
            break;
        }
    }
    let mut tx = sync.db.write().await?;
    leases::fence(&mut tx, term.epoch).await?;
    store::builds::purge(&mut tx, now - BUILDS_KEEP).await?;
    store::schedules::purge_unused(&mut tx).await?;
    let keep = store::locks::in_use(&mut tx).await?;
    tx.commit().await?;
    if let Err(problem) = sync.runtime.clean_up(&keep).await {
        tracing::warn!(%problem, "environments were not cleaned up");
    }
    let audit_events = crate::audit_retention::clean_up(sync, term).await?;
    if executions + jobs + audit_events > 0 {
        tracing::info!(executions, jobs, audit_events, "cleaned up");
    }
    Ok(())
}
