//! Counts of ended executions by the hour of their start, and of live jobs. Triggers of the database keep them, whatever
//! stores or deletes executions and jobs.

use crate::{
    db::{Tx, on},
    dialect::Dialect,
    error::Result,
};

/// Sums up live jobs, and hours that have more than one row, at most `limit` rows in a call. Returns how many rows it read.
///
/// PostgreSQL has a row for each change, so that transactions do not wait for each other. SQLite has one writer, and one row
/// for each hour.
pub async fn sum_up(tx: &mut Tx, limit: i64) -> Result<u64> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(0);
    }
    // Its changes are few.
    on!(tx, c => sqlx::query(
        "with gone as (delete from job_count where (select count(*) from job_count) > 1 returning jobs)
         insert into job_count (jobs) select cast(sum(jobs) as bigint) from gone having count(*) > 0",
    )
    .execute(c)
    .await
    .map(drop))?;
    let (rows,): (i64,) = on!(tx, c => sqlx::query_as(
        "with gone as (
            delete from execution_count where ctid = any (array(
                select c.ctid from execution_count c
                where c.hour in (select hour from execution_count group by hour having count(*) > 1)
                order by c.hour limit $1))
            returning hour, executions),
         kept as (
            insert into execution_count (hour, executions)
            select hour, cast(sum(executions) as bigint) from gone group by hour having sum(executions) <> 0)
         select count(*) from gone",
    )
    .bind(limit)
    .fetch_one(c)
    .await)?;
    Ok(rows.unsigned_abs())
}
