//! Retention: executions, logs, revisions, uploads, deleted jobs, idempotency keys, builds, schedules, audit events and
//! environments that are not kept any longer.
//!
//! A kind that fails does not stop the others, and is retried in the next round.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::clock::Clock;
use store::{
    Db, StoreError, Tx,
    executions::newest,
    leases::{self, Epoch},
    retention::{self, JOBS_MAX, ROWS_MAX},
};
use tokio_util::sync::CancellationToken;

pub use crate::gauges::{Kind, Step};
use crate::{LeaderEpoch, Synchronizer, gauges::Gauges};

/// The pause between two rounds.
const INTERVAL: Duration = Duration::from_secs(600);

/// A transaction that takes longer is followed by smaller ones, because other writers wait for it.
const TRANSACTION_LONG: Duration = Duration::from_millis(100);

/// A transaction that takes less time is followed by larger ones.
const TRANSACTION_SHORT: Duration = Duration::from_millis(40);

/// The most rows of the first transaction, and of transactions that always take too long.
const ROWS_FIRST: u32 = 125;
const ROWS_LEAST: u32 = 20;

/// How long builds are kept that failed or that no rollout waits for.
const BUILDS_KEEP: SignedDuration = SignedDuration::from_hours(24);

/// How long revisions that were replaced and uploads are kept whatever their number. Work in progress with one, such as a
/// rollout or a deployment after an upload, ends earlier.
const RECENT_KEEP: SignedDuration = SignedDuration::from_hours(24);

/// The retention rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// How long ended executions are kept.
    pub executions_keep: SignedDuration,
    /// How many of a job's newest executions are kept, however old.
    pub executions_keep_per_job: i64,
    /// How long the logs of ended executions are kept.
    pub logs_keep: SignedDuration,
    /// The most bytes of all stored logs; above that the oldest are removed.
    pub logs_max_bytes: i64,
    /// How many of a job's newest revisions are kept, and of its newest uploads.
    pub revisions_keep_per_job: i64,
    /// How long a deleted job can be restored.
    pub deleted_jobs_keep: SignedDuration,
    /// How long audit events are kept.
    pub audit_keep: SignedDuration,
}

/// Runs retention until the leader epoch is over.
pub(crate) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    // Other work has priority when the service starts.
    let mut delay = Duration::from_secs(30);
    let mut retention = Retention::new(&sync.db, &*sync.clock, &sync.options.retention, &sync.gauges);
    while leader_epoch.pause(delay).await {
        delay = INTERVAL;
        let removed = match retention.round(leader_epoch.epoch, &leader_epoch.over).await {
            Ok(steps) => steps.iter().all(|step| !step.failed),
            Err(error) => {
                if !leader_epoch.survives(&error) {
                    return;
                }
                false
            }
        };
        let removed = removed & remove_environments(sync).await;
        sync.gauges.cleaned_up(removed);
    }
}

/// Removes environments that no row refers to. `false` when that failed.
async fn remove_environments(sync: &Synchronizer) -> bool {
    let removed = async {
        let keep = store::locks::in_use(&mut sync.db.read().await?).await?;
        sync.runtime.clean_up(&keep).await
    };
    let Err(problem) = removed.await else { return true };
    tracing::warn!(kind = Kind::Environments.as_str(), %problem, "retention failed; retrying in the next round");
    sync.gauges.retention.failed(Kind::Environments);
    false
}

/// Removes rows that are not kept any longer.
#[derive(Debug)]
pub struct Retention<'a> {
    db: &'a Db,
    clock: &'a dyn Clock,
    rules: &'a Rules,
    gauges: &'a Gauges,
    /// Whether the size of every log is known, because this leader stores every log with its size.
    measured: bool,
    /// Whether the newest executions of every job are packed, because triggers do so from then on.
    packed: bool,
}

impl<'a> Retention<'a> {
    /// The state at the beginning of a leader epoch.
    pub fn new(db: &'a Db, clock: &'a dyn Clock, rules: &'a Rules, gauges: &'a Gauges) -> Self {
        Self { db, clock, rules, gauges, measured: false, packed: false }
    }

    /// Removes all rows that are not kept any longer, one kind after the other.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another instance leads.
    pub async fn round(&mut self, epoch: Epoch, over: &CancellationToken) -> Result<Vec<Step>, StoreError> {
        let mut steps = Vec::new();
        for kind in Kind::ROWS {
            if over.is_cancelled() {
                break;
            }
            let mut work = Work {
                db: self.db,
                clock: self.clock,
                epoch,
                over,
                now: self.clock.now(),
                transactions: Vec::new(),
                rows_max: ROWS_FIRST,
            };
            let removed = self.remove(kind, &mut work).await;
            let step = Step { kind, transactions: work.transactions, failed: removed.is_err() };
            self.gauges.retention.stepped(&step);
            if step.removed() > 0 {
                tracing::info!(
                    kind = kind.as_str(),
                    removed = step.removed(),
                    transactions = step.transactions.len(),
                    longest_milliseconds = step.longest().as_millis(),
                    "removed what is not kept any longer"
                );
            }
            steps.push(step);
            match removed {
                Ok(()) => {}
                Err(error @ StoreError::Fenced { .. }) => return Err(error),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(kind = kind.as_str(), %error, cause, "retention failed; retrying in the next round");
                }
            }
        }
        Ok(steps)
    }

    async fn remove(&mut self, kind: Kind, work: &mut Work<'_>) -> Result<(), StoreError> {
        match kind {
            Kind::Logs => {
                if !self.measured {
                    measure_logs(work).await?;
                    self.measured = !work.is_over();
                }
                self.logs(work).await
            }
            Kind::Executions => {
                if !self.packed {
                    pack_newest_executions(work).await?;
                    self.packed = !work.is_over();
                }
                self.executions(work).await
            }
            Kind::Revisions => self.revisions(work).await,
            Kind::Uploads => self.uploads(work).await,
            Kind::Jobs => self.jobs(work).await,
            Kind::Schedules => schedules(work).await,
            Kind::IdempotencyKeys | Kind::Builds | Kind::AuditEvents => self.by_age(kind, work).await,
            Kind::ExecutionCounts => execution_counts(work).await,
            Kind::Environments => Ok(()),
        }
    }

    async fn logs(&self, work: &mut Work<'_>) -> Result<(), StoreError> {
        let mut total = retention::logs::total_bytes(&mut work.db.read().await?).await?;
        self.gauges.retention.logs_stored(total, self.rules.logs_max_bytes);
        let before = work.now - self.rules.logs_keep;
        while !work.is_over() {
            let excess = total - self.rules.logs_max_bytes;
            let old = retention::logs::find(&mut work.db.read().await?, before, excess, work.rows_max).await?;
            if old.is_empty() {
                break;
            }
            let mut write = work.write().await?;
            let removed = retention::logs::remove(&mut write.tx, &old).await?;
            work.commit(write, removed).await?;
            total -= old.iter().map(|log| log.bytes).sum::<i64>();
            self.gauges.retention.logs_stored(total, self.rules.logs_max_bytes);
        }
        Ok(())
    }

    async fn executions(&self, work: &mut Work<'_>) -> Result<(), StoreError> {
        let before = work.now - self.rules.executions_keep;
        let mut next = Some(retention::executions::Position::default());
        while let Some(from) = next.filter(|_| !work.is_over()) {
            let keep = self.rules.executions_keep_per_job;
            let mut tx = work.db.read().await?;
            let found = retention::executions::find(&mut tx, before, keep, &from, work.rows_max).await?;
            drop(tx);
            if !found.old.is_empty() {
                let mut write = work.write().await?;
                let removed = retention::executions::remove(&mut write.tx, before, &found.old).await?;
                work.commit(write, removed).await?;
            }
            next = found.next;
        }
        Ok(())
    }

    async fn revisions(&self, work: &mut Work<'_>) -> Result<(), StoreError> {
        let replaced_before = work.now - RECENT_KEEP;
        let mut next = Some(String::new());
        while let Some(from) = next.filter(|_| !work.is_over()) {
            let keep = self.rules.revisions_keep_per_job;
            let found = retention::revisions::find(&mut work.db.read().await?, replaced_before, keep, &from).await?;
            let mut removed = 0;
            if !found.old.is_empty() {
                let mut write = work.write().await?;
                removed = retention::revisions::remove(&mut write.tx, replaced_before, &found.old).await?;
                work.commit(write, removed).await?;
            }
            // A job is returned again as long as revisions of it are removed.
            next = found.next.filter(|next| removed > 0 || *next != from);
        }
        Ok(())
    }

    async fn uploads(&self, work: &mut Work<'_>) -> Result<(), StoreError> {
        let before = work.now - RECENT_KEEP;
        let mut next = Some(retention::sources::Position::default());
        while let Some(from) = next.filter(|_| !work.is_over()) {
            let keep = self.rules.revisions_keep_per_job;
            let found = retention::sources::find(&mut work.db.read().await?, before, keep, &from).await?;
            if !found.old.is_empty() {
                let mut write = work.write().await?;
                let removed = retention::sources::remove(&mut write.tx, &found.old).await?;
                work.commit(write, removed).await?;
            }
            next = found.next;
        }
        Ok(())
    }

    async fn jobs(&self, work: &mut Work<'_>) -> Result<(), StoreError> {
        let before = work.now - self.rules.deleted_jobs_keep;
        let mut after = None;
        loop {
            let found = retention::jobs::find(&mut work.db.read().await?, before, after).await?;
            let Some(last) = found.last() else { return Ok(()) };
            after = Some(*last);
            for job in found {
                let mut write = work.write().await?;
                let mut goes_on = retention::jobs::begin(&mut write.tx, job, before, work.now).await?;
                work.commit(write, 0).await?;
                while goes_on && !work.is_over() {
                    let part = retention::jobs::next_part(&mut work.db.read().await?, job, work.rows_max).await?;
                    let is_last = part == retention::jobs::Part::Rest;
                    let mut write = work.write().await?;
                    let removed = retention::jobs::remove(&mut write.tx, job, &part).await?;
                    work.commit(write, u64::from(removed && is_last)).await?;
                    goes_on = removed && !is_last;
                }
            }
            if work.is_over() {
                return Ok(());
            }
        }
    }

    /// Deletes rows by their age alone.
    async fn by_age(&self, kind: Kind, work: &mut Work<'_>) -> Result<(), StoreError> {
        let (now, rows_max) = (work.now, i64::from(ROWS_MAX));
        while !work.is_over() {
            let mut write = work.write().await?;
            let removed = match kind {
                Kind::IdempotencyKeys => store::idempotency::purge(&mut write.tx, now, rows_max).await?,
                Kind::Builds => store::builds::purge(&mut write.tx, now - BUILDS_KEEP, rows_max).await?,
                Kind::AuditEvents => store::audit::purge(&mut write.tx, now - self.rules.audit_keep, rows_max).await?,
                _ => 0,
            };
            work.commit(write, removed).await?;
            if removed < ROWS_MAX.into() {
                break;
            }
        }
        Ok(())
    }
}

/// Sums up counts of executions and of jobs, which are stored one by one.
async fn execution_counts(work: &mut Work<'_>) -> Result<(), StoreError> {
    while !work.is_over() {
        let mut write = work.write().await?;
        let summed_up = store::counts::sum_up_jobs(&mut write.tx, ROWS_MAX).await?;
        work.commit(write, summed_up).await?;
        if summed_up < ROWS_MAX.into() {
            break;
        }
    }
    let mut next = Some(i64::MIN);
    while let Some(from_hour) = next.filter(|_| !work.is_over()) {
        let found = store::counts::find_hour(&mut work.db.read().await?, from_hour).await?;
        let Some(from_hour) = found else { break };
        let mut write = work.write().await?;
        let done = store::counts::sum_up(&mut write.tx, from_hour, ROWS_MAX).await?;
        work.commit(write, done.rows).await?;
        next = done.next_hour;
    }
    Ok(())
}

/// Stores the sizes of logs that an earlier version stored without them.
async fn measure_logs(work: &mut Work<'_>) -> Result<(), StoreError> {
    let mut next = Some(String::new());
    while let Some(after) = next.filter(|_| !work.is_over()) {
        let found = retention::logs::find_unmeasured(&mut work.db.read().await?, &after).await?;
        if !found.executions.is_empty() {
            let mut write = work.write().await?;
            retention::logs::measure(&mut write.tx, &found.executions).await?;
            work.commit(write, 0).await?;
        }
        next = found.next;
    }
    Ok(())
}

/// Packs the newest executions of jobs whose executions were stored before there was a table for them.
async fn pack_newest_executions(work: &mut Work<'_>) -> Result<(), StoreError> {
    let mut next = Some(String::new());
    while let Some(after) = next.filter(|_| !work.is_over()) {
        let found = newest::find_missing(&mut work.db.read().await?, &after).await?;
        for jobs in found.jobs.chunks(JOBS_MAX) {
            let mut write = work.write().await?;
            newest::pack(&mut write.tx, jobs).await?;
            work.commit(write, 0).await?;
        }
        next = found.next;
    }
    Ok(())
}

async fn schedules(work: &mut Work<'_>) -> Result<(), StoreError> {
    while !work.is_over() {
        let unused = store::schedules::unused(&mut work.db.read().await?, ROWS_MAX.into()).await?;
        if unused.is_empty() {
            break;
        }
        let mut write = work.write().await?;
        let removed = store::schedules::remove_unused(&mut write.tx, &unused).await?;
        work.commit(write, removed).await?;
        if removed == 0 {
            break;
        }
    }
    Ok(())
}

/// A step in progress.
struct Work<'a> {
    db: &'a Db,
    clock: &'a dyn Clock,
    epoch: Epoch,
    over: &'a CancellationToken,
    now: Timestamp,
    transactions: Vec<(Duration, u64)>,
    /// The most rows of the next transaction.
    rows_max: u32,
}

/// A transaction of a step.
struct Write {
    tx: Tx,
    /// On the boot clock.
    begun: Duration,
}

impl Work<'_> {
    fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    async fn write(&self) -> Result<Write, StoreError> {
        let mut tx = self.db.write().await?;
        let begun = self.clock.boot();
        leases::fence(&mut tx, self.epoch).await?;
        Ok(Write { tx, begun })
    }

    async fn commit(&mut self, write: Write, removed: u64) -> Result<(), StoreError> {
        write.tx.commit().await?;
        let took = self.clock.boot().saturating_sub(write.begun);
        self.transactions.push((took, removed));
        self.rows_max = next_rows_max(self.rows_max, took);
        Ok(())
    }
}

/// The limit of rows for the next transaction after one with so many rows took this long.
fn next_rows_max(rows_max: u32, took: Duration) -> u32 {
    if took > TRANSACTION_LONG {
        (rows_max / 2).max(ROWS_LEAST)
    } else if took < TRANSACTION_SHORT {
        (rows_max * 2).min(ROWS_MAX)
    } else {
        rows_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_get_smaller_where_they_take_long_and_larger_again() {
        let after = |rows_max, milliseconds| next_rows_max(rows_max, Duration::from_millis(milliseconds));
        assert_eq!((after(100, 101), after(100, 70), after(100, 10)), (50, 100, 200));
        assert_eq!((after(ROWS_MAX, 1), after(300, 1)), (ROWS_MAX, ROWS_MAX));
        assert_eq!((after(ROWS_LEAST, 9000), after(30, 9000)), (ROWS_LEAST, ROWS_LEAST));
    }
}
