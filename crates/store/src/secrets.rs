//! The secrets of jobs, encrypted at rest.

use jiff::Timestamp;
use model::name::JobId;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    codec::{self, micros},
    db::{Tx, on},
    encrypted::{AssociatedData, Encrypted},
    error::Result,
    keys::{self, KeyRing, Reencrypted},
};

/// The object as JSON text; absent when none was stored.
pub async fn find(tx: &mut Tx, ring: &KeyRing, job_id: JobId) -> Result<Option<SecretString>> {
    let row: Option<Encrypted> = on!(tx, c => sqlx::query_as(
        "select key_id, nonce, ciphertext from job_secret where job_id = $1",
    )
    .bind(job_id.to_string())
    .fetch_optional(c)
    .await)?;
    row.map(|encrypted| encrypted.open(ring, &AssociatedData::JobSecret(job_id))).transpose()
}

/// Replaces the object.
pub async fn replace(
    tx: &mut Tx,
    ring: &KeyRing,
    job_id: JobId,
    content: &SecretString,
    by: &str,
    now: Timestamp,
) -> Result<()> {
    let key = keys::key_to_encrypt_with(tx, ring).await?;
    let encrypted = Encrypted::new(&key, &AssociatedData::JobSecret(job_id), content.expose_secret())?;
    on!(tx, c => sqlx::query(
        "insert into job_secret (job_id, key_id, nonce, ciphertext, updated_at, updated_by)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (job_id) do update set key_id = excluded.key_id, nonce = excluded.nonce,
            ciphertext = excluded.ciphertext, updated_at = excluded.updated_at, updated_by = excluded.updated_by",
    )
    .bind(job_id.to_string())
    .bind(encrypted.key_id)
    .bind(encrypted.nonce)
    .bind(encrypted.ciphertext)
    .bind(micros(now))
    .bind(by)
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Row {
    job_id: String,
    #[sqlx(flatten)]
    encrypted: Encrypted,
}

/// Re-encrypts values under another key with the active one, at most `limit` rows after the job `after`. Rows that
/// changed concurrently are left to the next time.
///
/// # Errors
/// [`StoreError::KeyMissing`](crate::StoreError::KeyMissing) when this instance does not have the active key.
pub async fn reencrypt(tx: &mut Tx, ring: &KeyRing, after: &str, limit: i64) -> Result<Reencrypted> {
    let key = keys::key_to_encrypt_with(tx, ring).await?;
    let sql = format!(
        "select job_id, key_id, nonce, ciphertext from job_secret where key_id <> $1 and job_id > $2
         order by job_id limit $3 {}",
        tx.locking("for update skip locked")
    );
    let rows: Vec<Row> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(key.id())
        .bind(after)
        .bind(limit)
        .fetch_all(c)
        .await)?;
    let mut reencrypted = Reencrypted::default();
    if i64::try_from(rows.len()).is_ok_and(|count| count == limit) {
        reencrypted.next = rows.last().map(|row| row.job_id.clone());
    }
    for Row { job_id, encrypted: old } in rows {
        let associated_data = AssociatedData::JobSecret(codec::job_id(&job_id)?);
        let text = match old.open(ring, &associated_data) {
            Ok(text) => text,
            Err(error) => {
                reencrypted.skip(error)?;
                continue;
            }
        };
        let new = Encrypted::new(&key, &associated_data, text.expose_secret())?;
        reencrypted.done += on!(tx, c => sqlx::query(
            "update job_secret set key_id = $2, nonce = $3, ciphertext = $4
             where job_id = $1 and key_id = $5 and nonce = $6",
        )
        .bind(job_id)
        .bind(new.key_id)
        .bind(new.nonce)
        .bind(new.ciphertext)
        .bind(old.key_id)
        .bind(old.nonce)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?;
    }
    Ok(reencrypted)
}
