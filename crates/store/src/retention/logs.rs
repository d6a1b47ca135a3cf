//! Retention of stored logs, which may go before their executions do.

use jiff::Timestamp;

use super::{Load, ROWS_MAX};
use crate::{
    codec::micros,
    db::{Tx, on},
    error::Result,
    logs::CHUNK_MAX_BYTES,
};

/// A stored log that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    execution: String,
    /// Its size.
    pub bytes: i64,
}

/// About how many rows an execution has with a log of this size: its own, the note of the size, and the pieces.
pub(super) fn rows_of(bytes: i64) -> u32 {
    let pieces = u64::try_from(bytes).unwrap_or(0).div_ceil(CHUNK_MAX_BYTES as u64);
    2 + u32::try_from(pieces).unwrap_or(u32::MAX - 2)
}

/// The size of all stored logs.
pub async fn total_bytes(tx: &mut Tx) -> Result<i64> {
    let (total,): (i64,) = on!(tx, c => sqlx::query_as("select cast(coalesce(sum(bytes), 0) as bigint) from execution_log")
            .fetch_one(c)
            .await)?;
    Ok(total)
}

/// Finds logs, the oldest first: those of executions that ended before `before`, and as many further ones as hold
/// `excess_bytes` in all. They are as many as one transaction can delete, with at most `rows_max` rows.
pub async fn find(tx: &mut Tx, before: Timestamp, excess_bytes: i64, rows_max: u32) -> Result<Vec<Old>> {
    let oldest: Vec<(String, i64, i64)> = on!(tx, c => sqlx::query_as(
        "select execution_id, ended_at, bytes from execution_log order by ended_at, execution_id limit $1",
    )
    .bind(i64::from(ROWS_MAX))
    .fetch_all(c)
    .await)?;
    let (mut load, mut left) = (Load::new(rows_max), excess_bytes);
    let mut old = Vec::new();
    for (execution, ended_at, bytes) in oldest {
        if (ended_at >= micros(before) && left <= 0) || !load.takes_log(bytes) {
            break;
        }
        left -= bytes;
        old.push(Old { execution, bytes });
    }
    Ok(old)
}

/// Deletes logs that [`find`] found, and leaves their executions. Returns how many there were.
pub async fn remove(tx: &mut Tx, old: &[Old]) -> Result<u64> {
    let mut removed = 0;
    for Old { execution, .. } in old {
        on!(tx, c => sqlx::query("delete from log_chunk where execution_id = $1")
            .bind(execution)
            .execute(c)
            .await
            .map(drop))?;
        removed += on!(tx, c => sqlx::query("delete from execution_log where execution_id = $1")
            .bind(execution)
            .execute(c)
            .await
            .map(|done| done.rows_affected()))?;
    }
    Ok(removed)
}

/// Logs whose size is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmeasured {
    /// Their executions.
    pub executions: Vec<String>,
    /// After which execution to look next; absent when all logs were checked.
    pub next: Option<String>,
}

/// Finds logs that a program without [`total_bytes`] stored, after an execution in the order of the ids.
pub async fn find_unmeasured(tx: &mut Tx, after: &str) -> Result<Unmeasured> {
    let page: Vec<(String, Option<i64>)> = on!(tx, c => sqlx::query_as(
        "select l.execution_id, s.bytes from log_chunk l left join execution_log s on s.execution_id = l.execution_id
         where l.execution_id > $1 and l.chunk = 0 order by l.execution_id limit $2",
    )
    .bind(after)
    .bind(i64::from(ROWS_MAX))
    .fetch_all(c)
    .await)?;
    let next = page.last().filter(|_| page.len() as u64 == u64::from(ROWS_MAX)).map(|(id, _)| id.clone());
    let executions = page.into_iter().filter(|(_, bytes)| bytes.is_none()).map(|(id, _)| id).collect();
    Ok(Unmeasured { executions, next })
}

/// Notes the sizes of logs that [`find_unmeasured`] found.
pub async fn measure(tx: &mut Tx, executions: &[String]) -> Result<()> {
    for execution in executions {
        on!(tx, c => sqlx::query(
            "insert into execution_log (execution_id, ended_at, bytes)
             select e.execution_id, coalesce(e.ended_at, e.submitted_at),
                (select cast(coalesce(sum(octet_length(l.content)), 0) as bigint) from log_chunk l
                    where l.execution_id = e.execution_id)
             from data_job_execution e where e.execution_id = $1
             on conflict (execution_id) do nothing",
        )
        .bind(execution)
        .execute(c)
        .await
        .map(drop))?;
    }
    Ok(())
}
