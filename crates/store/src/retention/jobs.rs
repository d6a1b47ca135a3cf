//! Retention of deleted jobs with all that was theirs.

use jiff::Timestamp;
use model::name::JobId;

use super::{Load, ROWS_MAX, sources};
use crate::{
    codec::{self, micros},
    db::{Tx, on},
    error::Result,
    jobs,
};

/// The most jobs that are found at once.
const FOUND_MAX: i64 = 100;

/// Nothing of the job `j` is deployed or in progress.
const IS_AT_REST: &str = "not exists (select 1 from deployment d where d.job_id = j.job_id)
     and not exists (select 1 from data_job_execution e where e.job_number = j.number
        and e.status in ('SUBMITTED', 'RUNNING'))";

/// Finds jobs that were deleted before `before` and of which nothing is deployed or in progress, and those whose purge has
/// begun. The ids are above `after`.
pub async fn find(tx: &mut Tx, before: Timestamp, after: Option<JobId>) -> Result<Vec<JobId>> {
    let sql = format!(
        "select j.job_id from data_job j
         where j.deleted_at is not null and (j.deleted_at < $1 or j.purge_begun_at is not null) and j.job_id > $2
            and {IS_AT_REST}
         order by j.job_id limit $3"
    );
    let ids: Vec<(String,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(micros(before))
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(FOUND_MAX)
        .fetch_all(c)
        .await)?;
    ids.iter().map(|(id,)| codec::job_id(id)).collect()
}

/// Marks a job as being purged: it can't be restored from now on. `false` when it was restored meanwhile.
pub async fn begin(tx: &mut Tx, job_id: JobId, before: Timestamp, now: Timestamp) -> Result<bool> {
    jobs::lock(tx, job_id).await?;
    let sql = format!(
        "update data_job as j set purge_begun_at = coalesce(j.purge_begun_at, $3)
         where j.job_id = $1 and j.deleted_at is not null and (j.deleted_at < $2 or j.purge_begun_at is not null)
            and {IS_AT_REST}"
    );
    let done = on!(tx, c => sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(job_id.to_string())
        .bind(micros(before))
        .bind(micros(now))
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?;
    Ok(done == 1)
}

/// A part of a job that is purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These executions, with their logs.
    Executions(Vec<String>),
    /// These uploads.
    Sources(Vec<sources::Old>),
    /// Revisions up to this generation.
    Revisions(i64),
    /// The last rows, with the job itself.
    Rest,
}

/// Finds the next part of a job whose purge has begun; executions with at most `rows_max` rows.
pub async fn next_part(tx: &mut Tx, job_id: JobId, rows_max: u32) -> Result<Part> {
    let rows: Vec<(String, i64)> = on!(tx, c => sqlx::query_as(
        "select e.execution_id, coalesce(l.bytes, 0) from data_job_execution e
         left join execution_log l on l.execution_id = e.execution_id
         where e.job_number = (select number from data_job where job_id = $1)
         order by e.start_at, e.execution_id limit $2",
    )
    .bind(job_id.to_string())
    .bind(i64::from(ROWS_MAX))
    .fetch_all(c)
    .await)?;
    let mut load = Load::new(rows_max);
    let executions: Vec<_> =
        rows.into_iter().take_while(|(_, bytes)| load.takes_log(*bytes)).map(|(id, _)| id).collect();
    if !executions.is_empty() {
        return Ok(Part::Executions(executions));
    }
    let found = sources::find_of_job(tx, job_id).await?;
    if !found.is_empty() {
        return Ok(Part::Sources(found));
    }
    let last: Option<(i64,)> = on!(tx, c => sqlx::query_as(
        "select generation from deployment_revision where job_id = $1 order by generation limit 1 offset $2",
    )
    .bind(job_id.to_string())
    .bind(i64::from(ROWS_MAX) - 1)
    .fetch_optional(c)
    .await)?;
    Ok(last.map_or(Part::Rest, |(generation,)| Part::Revisions(generation)))
}

/// Deletes a part of a job whose purge has begun. `false` when the job was restored by a program that knows no purge, and
/// nothing was deleted.
pub async fn remove(tx: &mut Tx, job_id: JobId, part: &Part) -> Result<bool> {
    let locking = tx.locking("for no key update");
    let sql = format!(
        "select job_id from data_job where job_id = $1 and deleted_at is not null and purge_begun_at is not null {locking}"
    );
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(job_id.to_string())
        .fetch_optional(c)
        .await)?;
    if row.is_none() {
        return Ok(false);
    }
    match part {
        Part::Executions(executions) => {
            for execution in executions {
                on!(tx, c => sqlx::query("delete from data_job_execution where execution_id = $1")
                    .bind(execution)
                    .execute(c)
                    .await
                    .map(drop))?;
            }
        }
        Part::Sources(old) => sources::remove_all(tx, job_id, old).await?,
        Part::Revisions(last_generation) => {
            on!(tx, c => sqlx::query("delete from deployment_revision where job_id = $1 and generation <= $2")
                .bind(job_id.to_string())
                .bind(last_generation)
                .execute(c)
                .await
                .map(drop))?;
        }
        Part::Rest => {
            for sql in [
                "delete from deployment_revision where job_id = $1",
                "delete from rollout where job_id = $1",
                "delete from job_properties where job_id = $1",
                "delete from job_secret where job_id = $1",
                "delete from data_job where job_id = $1",
            ] {
                on!(tx, c => sqlx::query(sql).bind(job_id.to_string()).execute(c).await.map(drop))?;
            }
        }
    }
    Ok(true)
}
