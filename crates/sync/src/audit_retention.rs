//! Retention of audit events, and sums of what executions are counted by.

use store::{StoreError, audit, counts, leases};

use crate::{Synchronizer, Term};

/// Events deleted in one transaction, so that no writer waits long.
const EVENTS_MAX: i64 = 500;

/// Counts that are summed up in one transaction.
const COUNTS_MAX: i64 = 10_000;

/// Deletes audit events that are old enough, and sums up counts of executions. Returns how many events were deleted.
pub(crate) async fn clean_up(sync: &Synchronizer, term: &Term) -> Result<u64, StoreError> {
    let before = sync.clock.now() - sync.options.audit_keep;
    let mut events = 0;
    loop {
        let mut tx = sync.db.write().await?;
        leases::fence(&mut tx, term.epoch).await?;
        let done = audit::purge(&mut tx, before, EVENTS_MAX).await?;
        tx.commit().await?;
        events += done;
        if done == 0 || term.over.is_cancelled() {
            break;
        }
    }
    loop {
        let mut tx = sync.db.write().await?;
        leases::fence(&mut tx, term.epoch).await?;
        let done = counts::sum_up(&mut tx, COUNTS_MAX).await?;
        tx.commit().await?;
        if done < COUNTS_MAX.unsigned_abs() || term.over.is_cancelled() {
            break;
        }
    }
    Ok(events)
}
