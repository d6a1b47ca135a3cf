//! The secrets of jobs, encrypted at rest.
//!
//! XChaCha20-Poly1305 with a random 192-bit nonce; the associated data binds table, job and key, so that a ciphertext moved
//! to another row does not decrypt. The database holds a fingerprint of the key: a service with another key file refuses
//! to start instead of failing at the first read.

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, AeadCore, KeyInit, OsRng, Payload},
};
use jiff::Timestamp;
use model::name::JobId;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::{Digest, Sha256};

use crate::{Db, Result, Tx, corrupt, db::on, micros};

/// A key of 256 bits.
pub struct SecretKey {
    id: String,
    key: SecretBox<[u8; 32]>,
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SecretKey {
    /// A key from its bytes. Its id is the first 16 hexadecimal digits of a hash of them.
    pub fn new(bytes: [u8; 32]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"holdfast key id 1");
        hash.update(bytes);
        Self { id: hex::encode(&hash.finalize()[..8]), key: SecretBox::new(Box::new(bytes)) }
    }

    /// A fresh random key, as bytes to be kept.
    pub fn generate() -> [u8; 32] {
        XChaCha20Poly1305::generate_key(&mut OsRng).into()
    }

    /// Names the key without telling it.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.key.expose_secret().into())
    }

    /// Encrypts a text with a fresh nonce, bound to the row that it is for.
    pub(crate) fn seal(&self, bound_to: &str, text: &str) -> Result<(Vec<u8>, Vec<u8>)> {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let payload = Payload { msg: text.as_bytes(), aad: bound_to.as_bytes() };
        let ciphertext =
            self.cipher().encrypt(&nonce, payload).map_err(|_| corrupt("a secret too large to encrypt"))?;
        Ok((nonce.to_vec(), ciphertext))
    }

    /// The text that was sealed for this row; `None` when it was another row, another key, or is damaged.
    pub(crate) fn open(&self, bound_to: &str, nonce: Vec<u8>, ciphertext: &[u8]) -> Option<SecretString> {
        let nonce: [u8; 24] = nonce.try_into().ok()?;
        let payload = Payload { msg: ciphertext, aad: bound_to.as_bytes() };
        let plain = self.cipher().decrypt(XNonce::from_slice(&nonce), payload).ok()?;
        Some(String::from_utf8(plain).ok()?.into())
    }

    fn bound_to(&self, job_id: JobId) -> String {
        format!("job_secret/{job_id}/{}", self.id)
    }
}

/// Records the key that this database's secrets are encrypted with, or tells which one it is when it is another.
pub async fn claim_key(db: &Db, key: &SecretKey) -> Result<std::result::Result<(), String>> {
    let mut tx = db.write().await?;
    let (known,): (String,) = on!(&mut tx, c => sqlx::query_as(
        "insert into service_state (name, value) values ('secret_key_id', $1)
         on conflict (name) do update set value = service_state.value returning value",
    )
    .bind(key.id())
    .fetch_one(c)
    .await)?;
    tx.commit().await?;
    Ok(if known == key.id() { Ok(()) } else { Err(known) })
}

/// The object as JSON text; absent when none was stored.
pub async fn find(tx: &mut Tx, key: &SecretKey, job_id: JobId) -> Result<Option<SecretString>> {
    let row: Option<(Vec<u8>, Vec<u8>)> = on!(tx, c => sqlx::query_as(
        "select nonce, ciphertext from job_secret where job_id = $1",
    )
    .bind(job_id.to_string())
    .fetch_optional(c)
    .await)?;
    row.map(|(nonce, ciphertext)| {
        key.open(&key.bound_to(job_id), nonce, &ciphertext)
            .ok_or_else(|| corrupt(format!("secrets of the job {job_id}")))
    })
    .transpose()
}

/// Replaces the object.
pub async fn replace(
    tx: &mut Tx,
    key: &SecretKey,
    job_id: JobId,
    content: &SecretString,
    by: &str,
    now: Timestamp,
) -> Result<()> {
    let (nonce, ciphertext) = key.seal(&key.bound_to(job_id), content.expose_secret())?;
    on!(tx, c => sqlx::query(
        "insert into job_secret (job_id, key_id, nonce, ciphertext, updated_at, updated_by)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (job_id) do update set key_id = excluded.key_id, nonce = excluded.nonce,
            ciphertext = excluded.ciphertext, updated_at = excluded.updated_at, updated_by = excluded.updated_by",
    )
    .bind(job_id.to_string())
    .bind(key.id())
    .bind(nonce)
    .bind(ciphertext)
    .bind(micros(now))
    .bind(by)
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// The id of the key that this database's secrets are encrypted with; absent before the first start.
pub async fn known_key(db: &Db) -> Result<Option<String>> {
    let mut tx = db.read().await?;
    let row: Option<(String,)> = on!(&mut tx, c => sqlx::query_as(
        "select value from service_state where name = 'secret_key_id'",
    )
    .fetch_optional(c)
    .await)?;
    Ok(row.map(|(id,)| id))
}
