//! The encryption keys of the secrets. The database names the active one, which new values are encrypted with.
//!
//! Each row names its key and is read with that one. New values are encrypted with the active key, which the transaction of
//! the write reads and locks: no new row can use a key that was active before, so a key that no row needs can be removed. Keys are files of the instances and never in the database.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use chacha20poly1305::{
    XChaCha20Poly1305,
    aead::{KeyInit, OsRng},
};
use hkdf::Hkdf;
use secrecy::{ExposeSecret, SecretBox};
use sha2::{Digest, Sha256};

use crate::{
    db::{Db, Tx, on},
    error::{Result, StoreError},
};

/// A key of 256 bits.
pub struct SecretKey {
    id: String,
    key: SecretBox<[u8; 32]>,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

    /// Another key that follows from this one and a label, for another purpose. It does not reveal this key.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        let mut derived = [0; 32];
        Hkdf::<Sha256>::new(Some(b"holdfast derived key 1"), self.key.expose_secret())
            .expand(label.as_bytes(), &mut derived)
            .expect("32 bytes are within what the function can give");
        derived
    }

    pub(crate) fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.key.expose_secret().into())
    }
}

/// Reads the keys of this instance from where they are kept.
pub type Source = Box<dyn Fn() -> Vec<SecretKey> + Send + Sync>;

/// The keys that this instance has. It can change while the service runs.
pub struct KeyRing {
    known: RwLock<Known>,
    source: Source,
}

#[derive(Debug, Clone, Default)]
struct Known {
    keys: BTreeMap<String, Arc<SecretKey>>,
    active: String,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.known().fmt(f)
    }
}

impl From<SecretKey> for KeyRing {
    /// A set of one key that never changes.
    fn from(key: SecretKey) -> Self {
        let active = key.id.clone();
        let keys = BTreeMap::from([(active.clone(), Arc::new(key))]);
        Self { known: RwLock::new(Known { keys, active }), source: Box::new(Vec::new) }
    }
}

impl KeyRing {
    /// The keys in `source`. `active` is the id of the active one.
    pub fn new(source: Source, active: String) -> Self {
        let ring = Self { known: RwLock::new(Known { keys: BTreeMap::new(), active }), source };
        ring.reload();
        ring
    }

    // The value under the lock is replaced as a whole, so that a panic elsewhere left no partial state.
    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the keys again. The ids of those that came and of those that went.
    pub fn reload(&self) -> (Vec<String>, Vec<String>) {
        let found = (self.source)();
        if found.is_empty() {
            // A folder that can't be read at the moment takes no key away.
            return (Vec::new(), Vec::new());
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let keys: BTreeMap<_, _> = found
            .into_iter()
            .map(|key| {
                let same = known.keys.get(&key.id).cloned();
                (key.id.clone(), same.unwrap_or_else(|| Arc::new(key)))
            })
            .collect();
        let came = keys.keys().filter(|id| !known.keys.contains_key(*id)).cloned().collect();
        let went = known.keys.keys().filter(|id| !keys.contains_key(*id)).cloned().collect();
        known.keys = keys;
        (came, went)
    }

    /// The key of this id. One that is not known yet is looked for where keys are kept.
    ///
    /// # Errors
    /// [`StoreError::KeyMissing`] when this instance does not have it.
    pub fn key(&self, id: &str) -> Result<Arc<SecretKey>> {
        if let Some(key) = self.known().keys.get(id) {
            return Ok(Arc::clone(key));
        }
        self.reload();
        self.known().keys.get(id).cloned().ok_or_else(|| StoreError::KeyMissing { key_id: id.to_owned() })
    }

    /// The ids of the keys, sorted.
    pub fn ids(&self) -> Vec<String> {
        self.known().keys.into_keys().collect()
    }

    /// Remembers which key is the active one. Answers whether another was before.
    pub fn set_active(&self, id: &str) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let changed = known.active != id;
        if changed {
            id.clone_into(&mut known.active);
        }
        changed
    }

    /// Whether the active key, as far as is known, is none of this instance's.
    pub fn lacks_active(&self) -> bool {
        let known = self.known();
        !known.keys.contains_key(&known.active)
    }

    /// All keys, the active one first: texts under a former one can still be read.
    pub fn all(&self) -> Vec<Arc<SecretKey>> {
        let Known { keys, active } = self.known();
        let mut all: Vec<_> = keys.into_values().collect();
        all.sort_by_key(|key| key.id != active);
        all
    }

    /// A key for another purpose, from the active one; from another one as long as this instance lacks that.
    /// [`SecretKey::derive`] of [`KeyRing::all`] finds it again after a rotation.
    ///
    /// # Panics
    /// When there is no key at all, with which no service starts.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        self.all().first().expect("there is at least one key").derive(label)
    }
}

/// The id of the active key; absent before the first start.
pub async fn active(db: &Db) -> Result<Option<String>> {
    active_in(&mut db.read().await?, "").await
}

/// The id of the active key, kept as it is until the end of a transaction that changes it, or needs that it holds.
pub async fn lock_active(tx: &mut Tx) -> Result<Option<String>> {
    let locking = tx.locking("for update");
    active_in(tx, locking).await
}

async fn active_in(tx: &mut Tx, locking: &str) -> Result<Option<String>> {
    let sql = format!("select value from service_state where name = 'secret_key_id' {locking}");
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_optional(c).await)?;
    Ok(row.map(|(id,)| id))
}

/// The key to encrypt with, which stays the active one until the end of the transaction.
///
/// # Errors
/// [`StoreError::KeyMissing`] when this instance does not have it: it must not write with another one, which could be
/// removed at any moment.
pub(crate) async fn key_to_encrypt_with(tx: &mut Tx, ring: &KeyRing) -> Result<Arc<SecretKey>> {
    let locking = tx.locking("for share");
    let id = match active_in(tx, locking).await? {
        Some(id) => id,
        None => claim(tx, &ring.known().active).await?,
    };
    ring.key(&id)
}

/// Makes a key the active one of a database that has none yet, and returns the active one.
pub async fn claim(tx: &mut Tx, id: &str) -> Result<String> {
    let (known,): (String,) = on!(tx, c => sqlx::query_as(
        "insert into service_state (name, value) values ('secret_key_id', $1)
         on conflict (name) do update set value = service_state.value returning value",
    )
    .bind(id)
    .fetch_one(c)
    .await)?;
    Ok(known)
}

/// Makes a key the active one. All instances write with it from the commit on; rows follow in the background.
pub async fn make_active(tx: &mut Tx, id: &str) -> Result<()> {
    on!(tx, c => sqlx::query("update service_state set value = $1 where name = 'secret_key_id'")
        .bind(id)
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// How many rows need each key, by key.
pub async fn needed(tx: &mut Tx) -> Result<Vec<(String, i64)>> {
    Ok(on!(tx, c => sqlx::query_as(
        "select key_id, cast(sum(n) as bigint) from (
            select key_id, count(*) as n from job_secret group by key_id
            union all select key_id, count(*) from team_credential group by key_id) as counted
         group by key_id order by key_id",
    )
    .fetch_all(c)
    .await)?)
}

/// How many rows need this key.
pub async fn needed_by(tx: &mut Tx, id: &str) -> Result<i64> {
    let (rows,): (i64,) = on!(tx, c => sqlx::query_as(
        "select (select count(*) from job_secret where key_id = $1)
            + (select count(*) from team_credential where key_id = $1)",
    )
    .bind(id)
    .fetch_one(c)
    .await)?;
    Ok(rows)
}

/// Whether a row is encrypted with another key than this one.
pub async fn any_other(tx: &mut Tx, id: &str) -> Result<bool> {
    // Two ranges of the index; an inequality would go through every row.
    let (any,): (bool,) = on!(tx, c => sqlx::query_as(
        "select exists (select 1 from job_secret where key_id < $1)
             or exists (select 1 from job_secret where key_id > $1)
             or exists (select 1 from team_credential where key_id < $1)
             or exists (select 1 from team_credential where key_id > $1)",
    )
    .bind(id)
    .fetch_one(c)
    .await)?;
    Ok(any)
}

/// The result of a batch of [`secrets::reencrypt`](crate::secrets::reencrypt) and its like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reencrypted {
    /// Rows that have the active key now.
    pub done: u64,
    /// The keys of rows that this instance can't read.
    pub missing: Vec<String>,
    /// Rows that their key does not open.
    pub damaged: u64,
    /// Where the next batch begins; absent after the last.
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_key_follows_from_key_and_label_and_a_rotation_keeps_the_former_one() {
        let (old, new) = (SecretKey::new([7; 32]), SecretKey::new([8; 32]));
        let derived = old.derive("job tokens");
        assert_eq!(derived, SecretKey::new([7; 32]).derive("job tokens"));
        assert!(![[7; 32], old.derive("job token"), new.derive("job tokens")].contains(&derived));

        let source = || vec![SecretKey::new([7; 32]), SecretKey::new([8; 32])];
        let ring = KeyRing::new(Box::new(source), old.id().to_owned());
        assert_eq!(ring.derive("job tokens"), derived);
        assert!(ring.set_active(new.id()) && !ring.set_active(new.id()));
        assert_eq!(ring.derive("job tokens"), new.derive("job tokens"));
        assert_eq!(ring.all()[1].derive("job tokens"), derived);
    }

    #[test]
    fn a_key_that_came_is_found_when_it_is_asked_for_and_an_empty_folder_takes_none_away() {
        let kept = Arc::new(RwLock::new(vec![[7; 32]]));
        let source = {
            let kept = Arc::clone(&kept);
            move || kept.read().unwrap().iter().copied().map(SecretKey::new).collect()
        };
        let (old, new) = (SecretKey::new([7; 32]), SecretKey::new([8; 32]));
        let ring = KeyRing::new(Box::new(source), old.id().to_owned());
        let missing = ring.key(new.id()).unwrap_err();
        assert!(matches!(&missing, StoreError::KeyMissing { key_id } if key_id == new.id()), "{missing}");
        kept.write().unwrap().push([8; 32]);
        assert_eq!(ring.key(new.id()).unwrap().id(), new.id());
        kept.write().unwrap().clear();
        assert_eq!(ring.reload(), (vec![], vec![]));
        assert!(ring.key(old.id()).is_ok());
        kept.write().unwrap().push([8; 32]);
        assert_eq!(ring.reload(), (vec![], vec![old.id().to_owned()]));
        assert!(ring.key(old.id()).is_err() && ring.lacks_active());
        assert!(ring.set_active(new.id()) && !ring.lacks_active());
        assert!(!format!("{ring:?}").contains("8, 8"));
    }
}
