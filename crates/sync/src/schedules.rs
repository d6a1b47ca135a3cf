//! Scheduled times (ticks) by the rules of Kubernetes, for runtimes without a scheduler of their own. For the others only the
//! next tick of each schedule is stored, for lists.
//!
//! Of several ticks missed within the starting deadline only the latest runs; a tick during an active run waits and runs
//! after it; a schedule counts from the instant at which it was accepted. Everything is recomputed from wall time at least
//! each second. When the wall clock was set back, and now and then, schedules that wait for a tick of a wrong time are
//! corrected, so that a clock that jumps costs the ticks of the jump and stops no schedule.

use std::time::Duration;

use jiff::Timestamp;
use model::{clock::Clock, execution::Type, schedule::Schedule};
use store::{
    StoreError,
    executions::{NewExecution, Started},
    leases,
    schedules::{DueSchedule, PendingTick},
};

use crate::{DATABASE_RETRY, LeaderEpoch, Pause, Synchronizer};

/// The longest pause between two readings of the clock.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The most ticks that start executions in one round.
const PENDING_MAX: i64 = 500;

/// How often all next ticks are compared with the clock, in addition to when the clock was set back.
const CHECK_INTERVAL: Duration = Duration::from_secs(600);

/// The wall clock was set back when it lost more than this against the boot clock.
const SET_BACK: Duration = Duration::from_secs(1);

/// The `started_by` of a scheduled execution.
const STARTED_BY: &str = "scheduled/runtime";

/// When all next ticks were compared with the clock, and what both clocks showed in the last round.
#[derive(Debug, Default)]
struct Checks {
    next: Duration,
    last: Option<(Timestamp, Duration)>,
}

impl Checks {
    /// Whether it is time to compare all stored next ticks with their schedules.
    fn is_due(&mut self, clock: &dyn Clock) -> bool {
        let (wall, boot) = (clock.now(), clock.boot());
        let was_set_back = self.last.replace((wall, boot)).is_some_and(|(last_wall, last_boot)| {
            let expected = last_wall.saturating_add(boot.saturating_sub(last_boot));
            expected.is_ok_and(|expected| wall < expected - SET_BACK)
        });
        if was_set_back {
            tracing::warn!(%wall, "the wall clock was set back; the next scheduled times are computed again");
        }
        was_set_back || boot >= self.next
    }

    fn done(&mut self, clock: &dyn Clock) {
        self.next = clock.boot() + CHECK_INTERVAL;
    }
}

/// Starts executions at their ticks until the leader epoch is over, or only stores the next ticks if the runtime starts them.
pub(crate) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    let mut checks = Checks::default();
    let mut is_check_due = false;
    loop {
        is_check_due |= checks.is_due(&*sync.clock);
        let done = async {
            if is_check_due {
                correct(sync, leader_epoch).await?;
                checks.done(&*sync.clock);
                is_check_due = false;
            }
            round(sync, leader_epoch).await
        };
        let pause = match done.await {
            Ok(pause) => pause,
            Err(error) if leader_epoch.survives(&error) => DATABASE_RETRY.into(),
            Err(_) => return,
        };
        tokio::select! {
            () = leader_epoch.over.cancelled() => return,
            () = sync.db.notifications().schedules.notified() => {}
            () = pause.pass(&*sync.clock) => {}
        }
    }
}

/// Corrects schedules that wait for a later tick than the next one, because it was computed while a clock was wrong.
async fn correct(sync: &Synchronizer, leader_epoch: &LeaderEpoch) -> Result<(), StoreError> {
    let now = sync.clock.now();
    let mut after = None;
    loop {
        let page = {
            let mut tx = sync.db.read().await?;
            store::schedules::page(&mut tx, after, now).await?
        };
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        let next = |due: &DueSchedule| Schedule::parse(&due.cron, &due.zone).ok()?.next_after(now);
        let wrong: Vec<_> = page
            .into_iter()
            .filter_map(|due| next(&due).filter(|to| *to < due.next_tick).map(|to| (due, to)))
            .collect();
        if wrong.is_empty() {
            continue;
        }
        let mut tx = sync.db.write().await?;
        leases::fence(&mut tx, leader_epoch.epoch).await?;
        for (due, to) in &wrong {
            store::schedules::advance(&mut tx, due.id, due.next_tick, Some(*to)).await?;
        }
        tx.commit().await?;
        tracing::warn!(schedules = wrong.len(), "corrected schedules whose next tick was computed by a wrong clock");
    }
    let mut tx = sync.db.write().await?;
    leases::fence(&mut tx, leader_epoch.epoch).await?;
    store::schedules::drop_ticks_to_come(&mut tx, now).await?;
    store::schedules::count_from_now(&mut tx, now).await?;
    tx.commit().await
}

async fn round(sync: &Synchronizer, leader_epoch: &LeaderEpoch) -> Result<Pause, StoreError> {
    sync.gauges.beat("schedules");
    let now = sync.clock.now();
    let fires = !sync.runtime.fires_ticks();
    let (due, earliest, pending) = {
        let mut tx = sync.db.read().await?;
        let due = store::schedules::due(&mut tx, now).await?;
        let earliest = store::schedules::earliest(&mut tx).await?;
        let pending = if fires { store::schedules::pending(&mut tx, PENDING_MAX).await? } else { Vec::new() };
        (due, earliest, pending)
    };
    let next_tick = Pause { until: earliest, most: PAUSE_MAX };
    if due.is_empty() && pending.is_empty() {
        return Ok(next_tick);
    }
    let oldest = now - sync.options.start_deadline;
    let mut tx = sync.db.write().await?;
    leases::fence(&mut tx, leader_epoch.epoch).await?;
    store::schedules::lock(&mut tx, &due).await?;
    for schedule in &due {
        mark(&mut tx, schedule, now, fires.then_some(oldest)).await?;
    }
    if !fires {
        tx.commit().await?;
        return Ok(Duration::ZERO.into());
    }
    store::schedules::expire_ticks(&mut tx, oldest).await?;
    let pending = store::schedules::pending(&mut tx, PENDING_MAX).await?;
    tx.commit().await?;
    let mut started = false;
    for tick in &pending {
        sync.gauges.beat("schedules");
        started |= fire(sync, leader_epoch, tick, now).await?;
    }
    if started {
        sync.db.notifications().executions.notify_one();
    }
    Ok(if due.is_empty() { next_tick } else { Duration::ZERO.into() })
}

/// Advances a schedule. Marks its latest tick in the past, unless that is before `oldest`; without `oldest` it marks none.
async fn mark(
    tx: &mut store::Tx,
    due: &DueSchedule,
    now: Timestamp,
    oldest: Option<Timestamp>,
) -> Result<(), StoreError> {
    let Ok(schedule) = Schedule::parse(&due.cron, &due.zone) else {
        tracing::error!(cron = due.cron, zone = due.zone, "a stored schedule can't be parsed; it starts no executions");
        store::schedules::advance(tx, due.id, due.next_tick, None).await?;
        return Ok(());
    };
    let tick = schedule.latest_between(due.next_tick, now).unwrap_or(due.next_tick);
    if oldest.is_some_and(|oldest| tick >= oldest) {
        let deployments = store::schedules::mark_tick(tx, due.id, tick).await?;
        tracing::debug!(cron = due.cron, %tick, deployments, "a scheduled time was reached");
    }
    store::schedules::advance(tx, due.id, due.next_tick, schedule.next_after(now)).await?;
    Ok(())
}

/// Stores the execution of a tick. `false` when the job has another active execution; the tick keeps waiting.
async fn fire(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    tick: &PendingTick,
    now: Timestamp,
) -> Result<bool, StoreError> {
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
    leases::fence(&mut tx, leader_epoch.epoch).await?;
    if store::executions::tick_recorded(&mut tx, tick.job_id, tick.tick).await? {
        store::schedules::clear_tick(&mut tx, tick.job_id, tick.tick).await?;
        tx.commit().await?;
        return Ok(false);
    }
    let Started::Accepted(id) = store::executions::insert(&mut tx, &new, now).await? else { return Ok(false) };
    store::schedules::clear_tick(&mut tx, tick.job_id, tick.tick).await?;
    tx.commit().await?;
    sync.gauges.scheduled(tick.tick, sync.clock.now());
    tracing::info!(execution = %id, tick = %tick.tick, "a scheduled execution was created");
    Ok(true)
}
