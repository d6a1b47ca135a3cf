//! Tokens of deployed jobs: the credential of a deployment, and the short token that it is exchanged for.
//!
//! Nothing of them is stored. Both are texts encrypted with keys that follow from the instances' secret key, so that every
//! instance with that key reads what another one made; they name the key, so that a replaced key stays valid
//! as long as an instance has it. The deployment that a credential is for is looked up when it is exchanged.

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, AeadCore, KeyInit, OsRng, Payload},
};
use jiff::Timestamp;
use model::name::{JobId, JobName};
use secrecy::SecretString;

use crate::{
    codec::{self, instant, micros},
    db::{Tx, on},
    error::{Result, corrupt},
    keys::{KeyRing, SecretKey},
};

/// The prefix of a credential.
const CREDENTIAL: &str = "hfc1";

/// The prefix of a short-lived token.
const ACCESS: &str = "hfa1";

/// The longest text that is read.
const TEXT_MAX_BYTES: usize = 1024;

/// The deployment that a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credential {
    /// The job.
    pub job_id: JobId,
    /// The generation of its deployment.
    pub generation: i64,
}

/// The content of a short-lived token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The job.
    pub job_id: JobId,
    /// Its name.
    pub job_name: JobName,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

impl Credential {
    /// The credential as the job gets it. Two of one deployment differ, and both count.
    pub fn seal(&self, ring: &KeyRing) -> Result<SecretString> {
        seal(ring, CREDENTIAL, &format!("{} {}", self.job_id, self.generation))
    }

    /// Reads a credential; `None` for any other text.
    pub fn read(ring: &KeyRing, text: &str) -> Option<Self> {
        let plain = open(ring, CREDENTIAL, text)?;
        let (job_id, generation) = plain.split_once(' ')?;
        Some(Self { job_id: codec::job_id(job_id).ok()?, generation: generation.parse().ok()? })
    }
}

impl Access {
    /// The token as the job sends it.
    pub fn seal(&self, ring: &KeyRing) -> Result<SecretString> {
        seal(ring, ACCESS, &format!("{} {} {}", self.job_id, micros(self.expires_at), self.job_name.as_str()))
    }

    /// Whether a text looks like such a token.
    pub fn is_one(text: &str) -> bool {
        text.split_once('.').is_some_and(|(kind, _)| kind == ACCESS)
    }

    /// Reads a token, whether it is still valid or not; `None` for any other text.
    pub fn read(ring: &KeyRing, text: &str) -> Option<Self> {
        let plain = open(ring, ACCESS, text)?;
        let mut parts = plain.splitn(3, ' ');
        let (job_id, expires_at, job_name) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            job_id: codec::job_id(job_id).ok()?,
            job_name: JobName::parse(job_name).ok()?,
            expires_at: instant(expires_at.parse().ok()?).ok()?,
        })
    }
}

/// The name of the credential's job, as long as the credential is valid: the job is alive, and the deployment is desired,
/// rolled out, or was used by an active run.
pub async fn holder(tx: &mut Tx, credential: &Credential) -> Result<Option<JobName>> {
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as(
        "select j.name from data_job j
         where j.job_id = $1 and j.deleted_at is null
           and (exists (select 1 from deployment d where d.job_id = j.job_id and d.generation = $2)
                or exists (select 1 from rollout r where r.job_id = j.job_id and r.reached_generation = $2)
                or exists (select 1 from data_job_execution e
                           where e.job_number = j.number and e.status in ('SUBMITTED', 'RUNNING') and e.generation = $2))",
    )
    .bind(credential.job_id.to_string())
    .bind(credential.generation)
    .fetch_optional(c)
    .await)?;
    row.map(|(name,)| JobName::parse(&name).map_err(|_| corrupt("a job name"))).transpose()
}

fn cipher(key: &SecretKey, kind: &str) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&key.derive(&format!("job token {kind}")).into())
}

fn seal(ring: &KeyRing, kind: &str, plain: &str) -> Result<SecretString> {
    let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
    let payload = Payload { msg: plain.as_bytes(), aad: kind.as_bytes() };
    let key = ring.all().into_iter().next().ok_or_else(|| corrupt("no key is loaded"))?;
    let sealed = cipher(&key, kind).encrypt(&nonce, payload).map_err(|_| corrupt("a token too large to seal"))?;
    Ok(format!("{kind}.{}.{}{}", key.id(), hex::encode(nonce), hex::encode(sealed)).into())
}

/// The text, when it was encrypted with this key for this purpose.
fn open(ring: &KeyRing, kind: &str, text: &str) -> Option<String> {
    if text.len() > TEXT_MAX_BYTES {
        return None;
    }
    let rest = text.strip_prefix(kind)?.strip_prefix('.')?;
    let (key_id, sealed) = rest.split_once('.')?;
    let key = ring.all().into_iter().find(|key| key.id() == key_id)?;
    let sealed = hex::decode(sealed).ok()?;
    let (nonce, sealed) = sealed.split_at_checked(24)?;
    let payload = Payload { msg: sealed, aad: kind.as_bytes() };
    let plain = cipher(&key, kind).decrypt(XNonce::from_slice(nonce), payload).ok()?;
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_token_is_read_with_its_key_for_its_purpose_and_not_otherwise() {
        let ring = |byte| KeyRing::from(SecretKey::new([byte; 32]));
        let (key, other) = (ring(7), ring(8));
        let credential = Credential { job_id: JobId(Uuid::from_u128(1)), generation: 3 };
        let access = Access {
            job_id: credential.job_id,
            job_name: JobName::parse("daily-sales").unwrap(),
            expires_at: Timestamp::from_second(1_710_000_000).unwrap(),
        };
        let (long, short) = (credential.seal(&key).unwrap(), access.seal(&key).unwrap());
        let (long, short) = (long.expose_secret(), short.expose_secret());
        assert_eq!(Credential::read(&key, long), Some(credential));
        assert_eq!(Access::read(&key, short), Some(access));
        assert!(Access::is_one(short) && !Access::is_one(long) && !Access::is_one("eyJh.e30.x"));
        assert_ne!(credential.seal(&key).unwrap().expose_secret(), long);

        assert_eq!(Credential::read(&other, long), None);
        assert_eq!(Access::read(&other, short), None);
        // One for the other, and with what names the other.
        assert_eq!((Access::read(&key, long), Credential::read(&key, short)), (None, None));
        assert_eq!(Access::read(&key, &long.replacen(CREDENTIAL, ACCESS, 1)), None);
        for at in [0, 4, 10, 22, 80, long.len() - 1] {
            let mut bytes = long.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(Credential::read(&key, std::str::from_utf8(&bytes).unwrap()), None, "{at}");
        }
        for text in ["", "hfc1", "hfc1..", "hfc1.x.y", &long[..40], &"a".repeat(5000)] {
            assert_eq!(Credential::read(&key, text), None, "{text}");
        }
    }
}
