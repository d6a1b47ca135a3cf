//! Ticks by Kubernetes' rules, for runtimes that don't fire them by themselves.
//!
//! Of several ticks missed within the starting deadline only the latest runs; a tick during an active run waits and runs
//! after it; a schedule counts from the instant at which it was accepted. Everything is recomputed from wall time at least
//! each second, so that a clock that jumps costs a second.

use std::time::Duration;

use jiff::Timestamp;
use model::{execution::Type, schedule::Schedule};
use store::{
    StoreError,
    executions::{NewExecution, Started},
    leases,
    schedules::{DueSchedule, PendingTick},
};

use crate::{DATABASE_RETRY, Pause, Synchronizer, Term};

/// The longest pause between two looks at the clock.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Ticks that are turned into runs in one round.
const PENDING_MAX: i64 = 500;

/// Who starts a scheduled run, as executions have it.
const STARTED_BY: &str = "scheduled/runtime";

/// Fires ticks until the term is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    if sync.runtime.fires_ticks() {
        term.over.cancelled().await;
        return;
    }
    loop {
        let pause = match round(sync, term).await {
            Ok(pause) => pause,
            Err(error) if term.survives(&error) => DATABASE_RETRY.into(),
            Err(_) => return,
        };
        tokio::select! {
            () = term.over.cancelled() => return,
            () = sync.db.wake().schedules.notified() => {}
            () = pause.pass(&*sync.clock) => {}
        }
    }
}

async fn round(sync: &Synchronizer, term: &Term) -> Result<Pause, StoreError> {
    sync.gauges.beat("schedules");
    let now = sync.clock.now();
    let (due, earliest, pending) = {
        let mut tx = sync.db.read().await?;
        let due = store::schedules::due(&mut tx, now).await?;
        let earliest = store::schedules::earliest(&mut tx).await?;
        (due, earliest, store::schedules::pending(&mut tx, PENDING_MAX).await?)
    };
    let next_tick = Pause { until: earliest, most: PAUSE_MAX };
    if due.is_empty() && pending.is_empty() {
        return Ok(next_tick);
    }
    let oldest = now - sync.options.start_deadline;
    let mut tx = sync.db.write().await?;
    leases::fence(&mut tx, term.epoch).await?;
    store::schedules::lock(&mut tx, &due).await?;
    for schedule in &due {
        mark(&mut tx, schedule, now, oldest).await?;
    }
    store::schedules::expire_ticks(&mut tx, oldest).await?;
    let pending = store::schedules::pending(&mut tx, PENDING_MAX).await?;
    tx.commit().await?;
    let mut started = false;
    for tick in &pending {
        sync.gauges.beat("schedules");
        started |= fire(sync, term, tick, now).await?;
    }
    if started {
        sync.db.wake().executions.notify_one();
    }
    Ok(if due.is_empty() { next_tick } else { Duration::ZERO.into() })
}

/// Marks the latest tick of a schedule that has come, unless it is too old, and moves the schedule on.
async fn mark(tx: &mut store::Tx, due: &DueSchedule, now: Timestamp, oldest: Timestamp) -> Result<(), StoreError> {
    let Ok(schedule) = Schedule::parse(&due.cron, &due.zone) else {
        tracing::error!(cron = due.cron, zone = due.zone, "a stored schedule can't be read; it fires no more");
        store::schedules::advance(tx, due.id, due.next_tick, None).await?;
        return Ok(());
    };
    if let Some(tick) = schedule.latest_between(due.next_tick, now).or(Some(due.next_tick)).filter(|t| *t >= oldest) {
        let deployments = store::schedules::mark_tick(tx, due.id, tick).await?;
        tracing::debug!(cron = due.cron, %tick, deployments, "a tick fired");
    }
    store::schedules::advance(tx, due.id, due.next_tick, schedule.next_after(now)).await?;
    Ok(())
}

/// Stores the run of a tick. `false` when the job was not free after all; the tick waits on.
async fn fire(sync: &Synchronizer, term: &Term, tick: &PendingTick, now: Timestamp) -> Result<bool, StoreError> {
    let new = NewExecution {
        job_id: tick.job_id,
        job_name: &tick.job_name,
        kind: Type::Scheduled,
        started_by: STARTED_BY,
        op_id: None,
        arguments: None,
        scheduled_tick: Some(tick.tick),
    };
    let mut tx = sync.db.write().await?;
    leases::fence(&mut tx, term.epoch).await?;
    if store::executions::tick_recorded(&mut tx, tick.job_id, tick.tick).await? {
        store::schedules::clear_tick(&mut tx, tick.job_id, tick.tick).await?;
        tx.commit().await?;
        return Ok(false);
    }
    let Started::Accepted(id) = store::executions::insert(&mut tx, &new, now).await? else { return Ok(false) };
    store::schedules::clear_tick(&mut tx, tick.job_id, tick.tick).await?;
    tx.commit().await?;
    sync.gauges.ticked(tick.tick, sync.clock.now());
    tracing::info!(execution = %id, tick = %tick.tick, "a tick starts a run");
    Ok(true)
}
