//! Texts that are encrypted at rest.
//!
//! XChaCha20-Poly1305 with a random 192-bit nonce; the associated data binds table, row and key, so that a ciphertext moved
//! to another row does not decrypt.

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, AeadCore, OsRng, Payload},
};
use model::name::JobId;
use secrecy::SecretString;

use crate::{
    error::{Result, StoreError, corrupt},
    keys::{KeyRing, Reencrypted, SecretKey},
};

/// The row that a text is encrypted for.
pub(crate) enum AssociatedData<'a> {
    /// The secrets of a job.
    JobSecret(JobId),
    /// The secret of a team's application.
    TeamCredential { team: &'a str, client_id: &'a str },
}

impl AssociatedData<'_> {
    /// A team has no slash in its name, and ids of jobs and keys are hexadecimal: no two rows are bound to the same text.
    fn aad(&self, key_id: &str) -> String {
        match self {
            Self::JobSecret(job_id) => format!("job_secret/{job_id}/{key_id}"),
            Self::TeamCredential { team, client_id } => format!("team_credential/{team}/{key_id}/{client_id}"),
        }
    }
}

/// A text as a row holds it.
#[derive(sqlx::FromRow)]
pub(crate) struct Encrypted {
    pub(crate) key_id: String,
    pub(crate) nonce: Vec<u8>,
    pub(crate) ciphertext: Vec<u8>,
}

impl Encrypted {
    /// Encrypts a text with a fresh nonce.
    pub(crate) fn new(key: &SecretKey, associated_data: &AssociatedData<'_>, text: &str) -> Result<Self> {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let aad = associated_data.aad(key.id());
        let payload = Payload { msg: text.as_bytes(), aad: aad.as_bytes() };
        let ciphertext = key.cipher().encrypt(&nonce, payload).map_err(|_| corrupt("a secret too large to encrypt"))?;
        Ok(Self { key_id: key.id().to_owned(), nonce: nonce.to_vec(), ciphertext })
    }

    /// The text, when it was encrypted for this place and is not damaged.
    ///
    /// # Errors
    /// [`StoreError::KeyMissing`] when this instance does not have the key, [`StoreError::Corrupt`] otherwise.
    pub(crate) fn open(&self, ring: &KeyRing, associated_data: &AssociatedData<'_>) -> Result<SecretString> {
        let key = ring.key(&self.key_id)?;
        let aad = associated_data.aad(&self.key_id);
        let opened = || {
            let nonce: [u8; 24] = self.nonce.as_slice().try_into().ok()?;
            let payload = Payload { msg: &self.ciphertext, aad: aad.as_bytes() };
            let plain = key.cipher().decrypt(XNonce::from_slice(&nonce), payload).ok()?;
            Some(String::from_utf8(plain).ok()?.into())
        };
        opened().ok_or_else(|| {
            corrupt(match associated_data {
                AssociatedData::JobSecret(job_id) => format!("secrets of the job {job_id}"),
                AssociatedData::TeamCredential { team, .. } => format!("credentials of the team {team}"),
            })
        })
    }
}

impl Reencrypted {
    /// Counts a row that can't be re-encrypted, and returns errors that stop the batch.
    pub(crate) fn skip(&mut self, error: StoreError) -> Result<()> {
        match error {
            StoreError::KeyMissing { key_id } => {
                if !self.missing.contains(&key_id) {
                    self.missing.push(key_id);
                }
            }
            StoreError::Corrupt { .. } => self.damaged += 1,
            error => return Err(error),
        }
        Ok(())
    }
}
