//! Limits per principal: how many uploads and starts, and how expensive queries, one caller may have in a minute.
//!
//! Each is a bucket that is full at first and refills evenly. It protects other callers from one that runs wild, and is far
//! above what clients do; fairness within a moment comes from places ([`app::places`]), not from here. Each instance of the
//! service counts for itself.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use model::{
    Problem,
    access::{Caller, Identity},
    clock::SharedClock,
    problem::Code,
};

use crate::error::ApiError;

/// The most principals whose buckets are not full at the same time.
const BUCKETS_MAX: usize = 10_000;

/// A bucket counts in parts of a unit, so that it gains whole numbers of them in each microsecond.
const PARTS: i128 = 60_000_000;

/// The limits of one principal per minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrincipalLimits {
    /// Uploads of sources.
    pub uploads_per_minute: u64,
    /// Manual executions.
    pub starts_per_minute: u64,
    /// The cost of GraphQL queries, in rows.
    pub query_cost_per_minute: u64,
}

/// The recent requests of every principal.
#[derive(Debug)]
pub struct Principals {
    clock: SharedClock,
    uploads: Buckets,
    starts: Buckets,
    queries: Buckets,
}

/// The name under which a caller's requests are counted; absent while authentication is off, because all callers are alike then.
pub(crate) fn principal(caller: &Caller) -> Option<&str> {
    match caller.identity {
        Identity::AuthDisabled => None,
        _ => Some(&caller.principal),
    }
}

impl Principals {
    /// No request came yet.
    pub fn new(limits: PrincipalLimits, clock: SharedClock) -> Self {
        let PrincipalLimits { uploads_per_minute, starts_per_minute, query_cost_per_minute } = limits;
        Self {
            clock,
            uploads: Buckets::new("uploads", "uploads_per_minute", uploads_per_minute),
            starts: Buckets::new("starts", "starts_per_minute", starts_per_minute),
            queries: Buckets::new("rows of queries", "query_cost_per_minute", query_cost_per_minute),
        }
    }

    /// Counts an upload.
    pub(crate) fn charge_upload(&self, caller: &Caller) -> Result<(), ApiError> {
        self.charge(&self.uploads, caller, 1)
    }

    /// Counts a start.
    pub(crate) fn charge_start(&self, caller: &Caller) -> Result<(), ApiError> {
        self.charge(&self.starts, caller, 1)
    }

    /// Counts a query. A query that costs more than a minute's worth is let through when nothing was asked before.
    pub(crate) fn charge_query(&self, caller: &Caller, cost: u64) -> Result<(), ApiError> {
        self.charge(&self.queries, caller, cost)
    }

    fn charge(&self, buckets: &Buckets, caller: &Caller, cost: u64) -> Result<(), ApiError> {
        let Some(principal) = principal(caller) else { return Ok(()) };
        buckets.take(principal, cost, self.clock.now()).map_err(|retry_after_seconds| {
            let Buckets { what, setting, per_minute, .. } = buckets;
            let problem = Problem::new(
                Code::RateLimitExceeded,
                "The request was rejected.",
                format!("Too many {what} of one caller per minute (limit {per_minute}, `{setting}`)."),
            )
            .nothing_changed()
            .fix(format!("Retry in {retry_after_seconds} seconds."));
            ApiError::from(problem).retry_after(retry_after_seconds)
        })
    }
}

/// The buckets of one limit.
#[derive(Debug)]
struct Buckets {
    what: &'static str,
    setting: &'static str,
    per_minute: u64,
    used: Mutex<HashMap<String, Bucket>>,
}

/// How much was left in a bucket at an instant, in parts. Less than nothing after an expensive query.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: i128,
    at: Timestamp,
}

impl Buckets {
    fn new(what: &'static str, setting: &'static str, per_minute: u64) -> Self {
        Self { what, setting, per_minute, used: Mutex::default() }
    }

    /// Takes `cost` out of a principal's bucket, or says after how many seconds that is possible.
    fn take(&self, principal: &str, cost: u64, now: Timestamp) -> Result<(), u64> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let full = self.full();
        let left = used.get(principal).map_or(full, |bucket| self.refilled(*bucket, now));
        let needed = (i128::from(cost) * PARTS).min(full);
        if left < needed {
            let per_second = i128::from(self.per_minute) * 1_000_000;
            let seconds = (needed - left + per_second - 1) / per_second.max(1);
            return Err(u64::try_from(seconds).unwrap_or(u64::MAX).max(1));
        }
        let bucket = Bucket { left: left - i128::from(cost) * PARTS, at: now };
        if let Some(known) = used.get_mut(principal) {
            *known = bucket;
            return Ok(());
        }
        if used.len() >= BUCKETS_MAX {
            used.retain(|_, bucket| self.refilled(*bucket, now) < full);
        }
        if used.len() >= BUCKETS_MAX {
            let fullest = used.iter().max_by_key(|(_, bucket)| self.refilled(**bucket, now));
            if let Some(name) = fullest.map(|(name, _)| name.clone()) {
                used.remove(&name);
            }
        }
        used.insert(principal.to_owned(), bucket);
        Ok(())
    }

    fn full(&self) -> i128 {
        i128::from(self.per_minute) * PARTS
    }

    /// The number of parts left in a bucket now. A clock that was set back adds nothing.
    fn refilled(&self, bucket: Bucket, now: Timestamp) -> i128 {
        let passed = (now.as_microsecond() - bucket.at.as_microsecond()).max(0);
        (bucket.left + i128::from(passed) * i128::from(self.per_minute)).min(self.full())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_bucket_is_full_at_first_and_refills_evenly() {
        let buckets = Buckets::new("uploads", "uploads_per_minute", 60);
        for _ in 0..60 {
            assert_eq!(buckets.take("ann", 1, at(0)), Ok(()));
        }
        assert_eq!(buckets.take("ann", 1, at(0)), Err(1));
        assert_eq!(buckets.take("ben", 1, at(0)), Ok(()));
        assert_eq!(buckets.take("ann", 1, at(1)), Ok(()));
        assert_eq!(buckets.take("ann", 10, at(1)), Err(10));
        assert_eq!(buckets.take("ann", 10, at(11)), Ok(()));
        // However long nothing was done, no more than a minute's worth is there.
        assert_eq!(buckets.take("ann", 60, at(3600)), Ok(()));
        assert_eq!(buckets.take("ann", 1, at(3600)), Err(1));
        // The clock was set back.
        assert_eq!(buckets.take("ann", 1, at(0)), Err(1));
    }

    #[test]
    fn a_query_above_the_limit_of_a_minute_runs_once_and_uses_up_later_minutes() {
        let buckets = Buckets::new("rows of queries", "query_cost_per_minute", 600);
        assert_eq!(buckets.take("ann", 1800, at(0)), Ok(()));
        assert_eq!(buckets.take("ann", 1, at(0)), Err(121));
        assert_eq!(buckets.take("ann", 1, at(120)), Err(1));
        assert_eq!(buckets.take("ann", 1, at(121)), Ok(()));
        assert_eq!(buckets.take("ben", u64::MAX, at(0)), Ok(()));
        assert!(buckets.take("ben", 1, at(0)).is_err());
    }

    #[test]
    fn the_number_of_buckets_is_limited_and_the_emptiest_ones_stay() {
        let buckets = Buckets::new("uploads", "uploads_per_minute", 2);
        assert_eq!(buckets.take("wild", 2, at(0)), Ok(()));
        for number in 0..BUCKETS_MAX + 100 {
            assert_eq!(buckets.take(&format!("user {number}"), 1, at(0)), Ok(()));
        }
        assert_eq!(buckets.used.lock().unwrap().len(), BUCKETS_MAX);
        assert_eq!(buckets.take("wild", 1, at(0)), Err(30));
        // Full ones are forgotten first.
        assert_eq!(buckets.take("late", 1, at(60)), Ok(()));
        assert_eq!(buckets.used.lock().unwrap().len(), 1);
    }
}
