//! Archived logs, in pieces.

use model::{log::LogChunk, name::ExecutionId};

use crate::{
    db::{Tx, on},
    error::Result,
};

/// The most bytes of a log in one row.
pub(crate) const CHUNK_MAX_BYTES: usize = 256 * 1024;

/// Where a piece of a log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The index of the piece within its log.
    pub chunk: i64,
    /// The number of bytes before it; absent for a piece that an older version stored without counting.
    pub first_byte: Option<i64>,
    /// The number of line ends before it; absent likewise.
    pub first_line: Option<i64>,
}

impl LogPosition {
    fn of((chunk, first_byte, first_line): (i64, Option<i64>, Option<i64>)) -> Self {
        Self { chunk, first_byte, first_line }
    }
}

/// Stores the whole log of an ended execution, with its size; what was stored before goes. Characters that a database's text
/// can't hold are replaced.
pub async fn replace(tx: &mut Tx, id: &ExecutionId, log: &LogChunk) -> Result<()> {
    on!(tx, c => sqlx::query("delete from log_chunk where execution_id = $1")
        .bind(id.as_str())
        .execute(c)
        .await
        .map(drop))?;
    let text = log.text.replace('\0', "\u{FFFD}");
    let mut rest = text.as_str();
    let (mut chunk, mut first_byte, mut first_line) = (0_i64, 0_i64, 0_i64);
    while !rest.is_empty() {
        let mut end = CHUNK_MAX_BYTES.min(rest.len());
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, after) = rest.split_at(end);
        on!(tx, c => sqlx::query(
            "insert into log_chunk (execution_id, chunk, content, first_byte, first_line) values ($1, $2, $3, $4, $5)",
        )
        .bind(id.as_str())
        .bind(chunk)
        .bind(piece)
        .bind(first_byte)
        .bind(first_line)
        .execute(c)
        .await
        .map(drop))?;
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        first_byte += count(piece.len());
        first_line += count(piece.bytes().filter(|byte| *byte == b'\n').count());
        (rest, chunk) = (after, chunk + 1);
    }
    on!(tx, c => sqlx::query(
        "insert into execution_log (execution_id, ended_at, bytes)
         select execution_id, coalesce(ended_at, submitted_at), $2 from data_job_execution where execution_id = $1
         on conflict (execution_id) do update set ended_at = excluded.ended_at, bytes = excluded.bytes",
    )
    .bind(id.as_str())
    .bind(i64::try_from(text.len()).unwrap_or(i64::MAX))
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// The log of a run; absent when none was stored.
pub async fn find(tx: &mut Tx, id: &ExecutionId) -> Result<Option<LogChunk>> {
    let rows: Vec<(String,)> = on!(tx, c => sqlx::query_as(
        "select content from log_chunk where execution_id = $1 order by chunk",
    )
    .bind(id.as_str())
    .fetch_all(c)
    .await)?;
    Ok((!rows.is_empty()).then(|| LogChunk { text: rows.into_iter().map(|(t,)| t).collect(), omitted_bytes: 0 }))
}

/// Where the last piece of an execution's log begins; absent when none was stored.
pub async fn last_position(tx: &mut Tx, id: &ExecutionId) -> Result<Option<LogPosition>> {
    let row: Option<(i64, Option<i64>, Option<i64>)> = on!(tx, c => sqlx::query_as(
        "select chunk, first_byte, first_line from log_chunk where execution_id = $1 order by chunk desc limit 1",
    )
    .bind(id.as_str())
    .fetch_optional(c)
    .await)?;
    Ok(row.map(LogPosition::of))
}

/// Where the piece begins that has the end of this line of an execution's log, counted from 1; absent when there is none, or when the
/// pieces were not counted.
pub async fn position_of_line(tx: &mut Tx, id: &ExecutionId, line: i64) -> Result<Option<LogPosition>> {
    let row: Option<(i64, Option<i64>, Option<i64>)> = on!(tx, c => sqlx::query_as(
        "select chunk, first_byte, first_line from log_chunk where execution_id = $1 and first_line < $2 \
         order by chunk desc limit 1",
    )
    .bind(id.as_str())
    .bind(line)
    .fetch_optional(c)
    .await)?;
    Ok(row.map(LogPosition::of))
}

/// A piece of an execution's log; absent after the last one.
pub async fn chunk(tx: &mut Tx, id: &ExecutionId, chunk: i64) -> Result<Option<String>> {
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as(
        "select content from log_chunk where execution_id = $1 and chunk = $2",
    )
    .bind(id.as_str())
    .bind(chunk)
    .fetch_optional(c)
    .await)?;
    Ok(row.map(|(content,)| content))
}
