//! Retention of ended executions.

use jiff::Timestamp;
use model::{execution::Status, name::JobId};

use super::{JOBS_MAX, Load, ROWS_MAX, is_full, job_page};
use crate::{
    codec::{self, micros},
    db::{Tx, on},
    error::{Result, corrupt},
    jobs,
};

/// The position of the walk over all executions: at a job, after one of its executions in the order of their starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    job: String,
    start_at: i64,
    execution: String,
}

impl Default for Position {
    /// Before the first execution of the first job.
    fn default() -> Self {
        Self { job: String::new(), start_at: i64::MIN, execution: String::new() }
    }
}

/// Executions of one job that may go, all that ended before an instant from the first one to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    job_id: JobId,
    first: (i64, String),
    last: (i64, String),
}

/// The executions that one transaction can delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// By job.
    pub old: Vec<Old>,
    /// Where to look next; absent when all jobs were checked.
    pub next: Option<Position>,
}

/// When the newest execution that is over the number of those that are kept started.
const NEWEST_OVER: &str = "select e.start_at from data_job_execution e where e.job_number = j.number
     order by e.start_at desc limit 1 offset $2";

/// Finds executions that ended before `before` and are not among the newest `keep_per_job` of their job, with at most `rows_max`
/// rows.
pub async fn find(tx: &mut Tx, before: Timestamp, keep_per_job: i64, from: &Position, rows_max: u32) -> Result<Found> {
    let page = job_page(tx, &from.job, keep_per_job, NEWEST_OVER).await?;
    let (mut old, mut load): (Vec<Old>, Load) = (Vec::new(), Load::new(rows_max));
    let mut next = from.clone();
    for (job, newest_over) in &page {
        if *job != next.job {
            next = Position { job: job.clone(), ..Position::default() };
        }
        let Some(newest_over) = newest_over else { continue };
        let rows = candidates(tx, before, keep_per_job, *newest_over, &next).await?;
        for (start_at, execution, bytes) in &rows {
            let is_new = old.last().is_none_or(|last| last.job_id.to_string() != *job);
            if (is_new && old.len() == JOBS_MAX) || !load.takes_log(*bytes) {
                return Ok(Found { old, next: Some(next) });
            }
            let at = (*start_at, execution.clone());
            next = Position { start_at: at.0, execution: at.1.clone(), ..next };
            match old.last_mut() {
                Some(last) if !is_new => last.last = at,
                _ => old.push(Old { job_id: codec::job_id(job)?, first: at.clone(), last: at }),
            }
        }
        if rows.len() as u64 == u64::from(ROWS_MAX) {
            return Ok(Found { old, next: Some(next) });
        }
    }
    // The last job is checked once more, after all of its executions.
    let after = |(job, _): &(String, Option<i64>)| Position { job: job.clone(), start_at: i64::MAX, ..next.clone() };
    let next = page.last().filter(|_| is_full(page.len())).map(after);
    Ok(Found { old, next })
}

/// The oldest executions of the job at `from` that can go, with the size of their logs.
async fn candidates(
    tx: &mut Tx,
    before: Timestamp,
    keep: i64,
    newest_over: i64,
    from: &Position,
) -> Result<Vec<(i64, String, i64)>> {
    // Of those that started at one instant the ids decide.
    Ok(on!(tx, c => sqlx::query_as(
        "select e.start_at, e.execution_id, coalesce(l.bytes, 0) from data_job_execution e
         left join execution_log l on l.execution_id = e.execution_id
         where e.job_number = (select number from data_job where job_id = $1) and e.ended_at < $2
            and e.start_at <= $3 and e.start_at >= $4
            and (e.start_at, e.execution_id) > ($4, $5)
            and (e.start_at, e.execution_id) <= (select k.start_at, k.execution_id from data_job_execution k
                where k.job_number = (select number from data_job where job_id = $1)
                order by k.start_at desc, k.execution_id desc limit 1 offset $6)
         order by e.start_at, e.execution_id limit $7",
    )
    .bind(&from.job)
    .bind(micros(before))
    .bind(newest_over.min(micros(before)))
    .bind(from.start_at)
    .bind(&from.execution)
    .bind(keep)
    .bind(i64::from(ROWS_MAX))
    .fetch_all(c)
    .await)?)
}

/// Deletes executions that [`find`] found with the same `before`, with their logs. The counts of their jobs go down by those
/// that were deleted. Returns how many these were.
pub async fn remove(tx: &mut Tx, before: Timestamp, old: &[Old]) -> Result<u64> {
    let mut removed = 0;
    for Old { job_id, first, last } in old {
        jobs::lock(tx, *job_id).await?;
        let gone: Vec<(String,)> = on!(tx, c => sqlx::query_as(
            "delete from data_job_execution
             where job_number = (select number from data_job where job_id = $1) and ended_at < $2
                and start_at >= $3 and start_at <= $5
                and (start_at, execution_id) >= ($3, $4) and (start_at, execution_id) <= ($5, $6)
             returning status",
        )
        .bind(job_id.to_string())
        .bind(micros(before))
        .bind(first.0)
        .bind(&first.1)
        .bind(last.0)
        .bind(&last.1)
        .fetch_all(c)
        .await)?;
        removed += gone.len() as u64;
        let (mut succeeded, mut failed) = (0, 0);
        for (status,) in gone {
            let status = Status::parse(&status).ok_or_else(|| corrupt("an execution status"))?;
            succeeded += i64::from(status == Status::Succeeded);
            failed += i64::from(matches!(status, Status::UserError | Status::PlatformError));
        }
        if succeeded + failed > 0 {
            on!(tx, c => sqlx::query(
                "update data_job set successful_executions = successful_executions - $2,
                    failed_executions = failed_executions - $3 where job_id = $1",
            )
            .bind(job_id.to_string())
            .bind(succeeded)
            .bind(failed)
            .execute(c)
            .await
            .map(drop))?;
        }
    }
    Ok(removed)
}
