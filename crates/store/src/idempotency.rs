//! Requests that a caller gave a name, so that each is carried out once.
//!
//! The name is claimed and the outcome is kept in the transaction of the change: there is never one without the other.

use jiff::{SignedDuration, Timestamp};
use model::preconditions::IdempotencyKey;

use crate::{
    codec::micros,
    db::{Tx, on},
    error::{Result, corrupt},
};

/// How long a name is known.
pub const KEEP: SignedDuration = SignedDuration::from_hours(24);

/// The state of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The first request with this key.
    First,
    /// This request, which was carried out; the outcome that was kept.
    Repeated(String),
    /// Another request of the same caller.
    Another,
}

/// Claims the name of a request for this transaction. On PostgreSQL it waits for another one that carries out a request of
/// the same name and caller at this moment; SQLite has one writer.
pub async fn claim(tx: &mut Tx, caller: &str, once: &IdempotencyKey, now: Timestamp) -> Result<Claim> {
    // Twice at most: the row that was in the way can be swept between the two statements.
    for _ in 0..3 {
        let claimed = on!(tx, c => sqlx::query(
            "insert into idempotency_key (caller, key, request_hash, outcome, created_at) values ($1, $2, $3, '', $4)
             on conflict (caller, key) do update set request_hash = excluded.request_hash, outcome = '',
                created_at = excluded.created_at
             where idempotency_key.created_at < $5",
        )
        .bind(caller)
        .bind(&once.key)
        .bind(&once.request_hash)
        .bind(micros(now))
        .bind(micros(now - KEEP))
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?;
        if claimed == 1 {
            return Ok(Claim::First);
        }
        let known: Option<(String, String)> = on!(tx, c => sqlx::query_as(
            "select request_hash, outcome from idempotency_key where caller = $1 and key = $2",
        )
        .bind(caller)
        .bind(&once.key)
        .fetch_optional(c)
        .await)?;
        match known {
            Some((hash, outcome)) if hash == once.request_hash => return Ok(Claim::Repeated(outcome)),
            Some(_) => return Ok(Claim::Another),
            None => {}
        }
    }
    Err(corrupt("a name of a request that comes and goes"))
}

/// Keeps the outcome of a request whose name this transaction claimed.
pub async fn record(tx: &mut Tx, caller: &str, once: &IdempotencyKey, outcome: &str) -> Result<()> {
    on!(tx, c => sqlx::query("update idempotency_key set outcome = $3 where caller = $1 and key = $2")
        .bind(caller)
        .bind(&once.key)
        .bind(outcome)
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// Forgets names that are no longer known, at most `limit` at a time. Answers how many.
pub async fn purge(tx: &mut Tx, now: Timestamp, limit: i64) -> Result<u64> {
    Ok(on!(tx, c => sqlx::query(
        "delete from idempotency_key where (caller, key) in
            (select caller, key from idempotency_key where created_at < $1 order by created_at limit $2)",
    )
    .bind(micros(now - KEEP))
    .bind(limit)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?)
}
