//! Locks of dependencies by their inputs.

use jiff::Timestamp;
use model::lock::{Lock, LockKey};

use crate::{
    codec::micros,
    db::{Tx, on},
    error::{Result, corrupt},
};

/// The lock of a key.
pub async fn find(tx: &mut Tx, key: &LockKey) -> Result<Option<Lock>> {
    let row: Option<(String, String)> = on!(tx, c => sqlx::query_as(
        "select python_version, content from dependency_lock where lock_key = $1",
    )
    .bind(key.as_str())
    .fetch_optional(c)
    .await)?;
    row.map(|(python, text)| {
        let python_version = python.parse().map_err(|_| corrupt("a Python version"))?;
        Ok(Lock { key: key.clone(), python_version, text })
    })
    .transpose()
}

/// Stores a lock. The first one stored under a key stays.
pub async fn insert(tx: &mut Tx, lock: &Lock, now: Timestamp) -> Result<()> {
    on!(tx, c => sqlx::query(
        "insert into dependency_lock (lock_key, python_version, content, created_at) values ($1, $2, $3, $4)
         on conflict do nothing",
    )
    .bind(lock.key.as_str())
    .bind(lock.python_version.to_string())
    .bind(&lock.text)
    .bind(micros(now))
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// The locks that a deployed revision or an active execution needs.
pub async fn in_use(tx: &mut Tx) -> Result<Vec<LockKey>> {
    let rows: Vec<(String,)> = on!(tx, c => sqlx::query_as(
        "select lock_key from rollout where lock_key is not null
         union select lock_key from data_job_execution where holds_slot and lock_key is not null
         order by lock_key",
    )
    .fetch_all(c)
    .await)?;
    Ok(rows.into_iter().map(|(key,)| LockKey::stored(key)).collect())
}
