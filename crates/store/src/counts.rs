//! Counts of ended executions by the hour of their start, and of live jobs. Triggers of the database keep them, whatever
//! stores or deletes executions and jobs.

use crate::{
    db::{Tx, on},
    dialect::Dialect,
    error::Result,
};

/// Sums up at most `rows_max` rows of the number of live jobs, at least 2, if there are several. Returns how many.
///
/// PostgreSQL has a row for each change, so that transactions do not wait for each other. SQLite has one writer, and one row.
pub async fn sum_up_jobs(tx: &mut Tx, rows_max: u32) -> Result<u64> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(0);
    }
    let (rows,): (i64,) = on!(tx, c => sqlx::query_as(
        "with gone as (
            delete from job_count where ctid = any (array(select ctid from job_count limit $1))
                and (select count(*) from (select 1 from job_count limit 2) few) > 1
            returning jobs),
         kept as (
            insert into job_count (jobs) select cast(sum(jobs) as bigint) from gone having count(*) > 0)
         select count(*) from gone",
    )
    .bind(i64::from(rows_max))
    .fetch_one(c)
    .await)?;
    Ok(rows.unsigned_abs())
}

/// The first hour, from an hour on, that has more than one row.
pub async fn find_hour(tx: &mut Tx, from_hour: i64) -> Result<Option<i64>> {
    let found: Option<(i64,)> = on!(tx, c => sqlx::query_as(
        "select hour from execution_count where hour >= $1 group by hour having count(*) > 1 order by hour limit 1",
    )
    .bind(from_hour)
    .fetch_optional(c)
    .await)?;
    Ok(found.map(|(hour,)| hour))
}

/// The result of [`sum_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SummedUp {
    /// How many rows were replaced by those of their hours.
    pub rows: u64,
    /// The hour to continue at; absent when there is no later row.
    pub next_hour: Option<i64>,
}

/// Sums up the hours that have more than one row among the first `rows_max` rows, at least 2, from an hour on.
///
/// As for jobs, only PostgreSQL has more than one row for an hour.
pub async fn sum_up(tx: &mut Tx, from_hour: i64, rows_max: u32) -> Result<SummedUp> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(SummedUp { rows: 0, next_hour: None });
    }
    let (rows, read, last_hour): (i64, i64, Option<i64>) = on!(tx, c => sqlx::query_as(
        "with few as materialized (
            select ctid as place, hour from execution_count where hour >= $1 order by hour limit $2),
         gone as (
            delete from execution_count where ctid = any (array(
                select place from few where hour in (select hour from few group by hour having count(*) > 1)))
            returning hour, executions),
         kept as (
            insert into execution_count (hour, executions)
            select hour, cast(sum(executions) as bigint) from gone group by hour having sum(executions) <> 0)
         select (select count(*) from gone), (select count(*) from few), (select max(hour) from few)",
    )
    .bind(from_hour)
    .bind(i64::from(rows_max))
    .fetch_one(c)
    .await)?;
    let next_hour = last_hour.filter(|_| read == i64::from(rows_max));
    Ok(SummedUp { rows: rows.unsigned_abs(), next_hour })
}
