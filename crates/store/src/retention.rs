//! Deletes old rows: executions, logs, revisions, uploads, and deleted jobs.
//!
//! Every kind finds its candidates in a transaction that only reads, and deletes them in a short one that writes: at most
//! [`ROWS_MAX`] rows (fewer if the caller asks for fewer), [`BYTES_MAX`] of logs or archives and [`JOBS_MAX`] jobs at a time, so that no
//! other writer waits long.
//! A walk over all jobs goes by their ids, a page at a time.

pub mod executions;
pub mod jobs;
pub mod logs;
pub mod revisions;
pub mod sources;

use crate::{
    db::{Tx, on},
    error::Result,
};

/// The most rows that one transaction deletes. A log has a row for each 256 KiB.
pub const ROWS_MAX: u32 = 500;

/// The most bytes of logs or archives that one transaction deletes, unless a single one has more.
pub const BYTES_MAX: i64 = 16 * 1024 * 1024;

/// The most jobs whose rows one transaction locks.
pub const JOBS_MAX: usize = 50;

/// How many jobs one read checks.
const JOBS_PAGE: i64 = 500;

/// The used part of what one transaction may delete.
#[derive(Debug)]
struct Load {
    rows_max: u32,
    rows: u32,
    bytes: i64,
}

impl Load {
    /// Returns an empty load with this limit of rows.
    fn new(rows_max: u32) -> Self {
        Self { rows_max: rows_max.min(ROWS_MAX), rows: 0, bytes: 0 }
    }

    /// Adds an item if the transaction's limits allow it, and returns whether it did. The first item is always added.
    fn takes(&mut self, rows: u32, bytes: i64) -> bool {
        let fits = self.rows.saturating_add(rows) <= self.rows_max && self.bytes + bytes <= BYTES_MAX;
        if fits || self.rows == 0 {
            self.rows = self.rows.saturating_add(rows);
            self.bytes += bytes;
            return true;
        }
        false
    }

    /// Adds a stored log of this size, as [`Self::takes`].
    fn takes_log(&mut self, bytes: i64) -> bool {
        self.takes(logs::rows_of(bytes), bytes)
    }
}

/// A page of jobs: the id of each, and the result of a scalar statement about it.
async fn job_page(tx: &mut Tx, from: &str, keep: i64, of_each: &'static str) -> Result<Vec<(String, Option<i64>)>> {
    let sql = format!(
        "select j.job_id, ({of_each}) as newest_over from data_job j where j.job_id >= $1 order by j.job_id limit $3"
    );
    Ok(on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(from)
        .bind(keep)
        .bind(JOBS_PAGE)
        .fetch_all(c)
        .await)?)
}

/// Whether there may be jobs after this page.
fn is_full(page: usize) -> bool {
    i64::try_from(page).is_ok_and(|count| count == JOBS_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_takes_its_limits_and_always_one_item() {
        let mut load = Load::new(ROWS_MAX);
        assert!(load.takes(ROWS_MAX + 1, BYTES_MAX + 1), "the first one, however large");
        assert!(!load.takes(1, 0));
        for (rows_max, taken) in [(3, 3), (ROWS_MAX, ROWS_MAX), (ROWS_MAX + 1, ROWS_MAX)] {
            let mut load = Load::new(rows_max);
            assert!((0..taken).all(|_| load.takes(1, 0)));
            assert!(!load.takes(1, 0));
        }
        let mut load = Load::new(ROWS_MAX);
        assert!(load.takes(1, BYTES_MAX) && load.takes(1, 0) && !load.takes(1, 1));
    }
}
