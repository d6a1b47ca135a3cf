//! Under which preconditions a caller asks: only when nothing changed meanwhile, and only once.

use sha2::{Digest, Sha256};

use crate::{Problem, deployment::Deployment, digest, job::DataJob, problem::Code};

/// The preconditions of a request. The default has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// The precondition of the change.
    pub precondition: Option<Precondition>,
    /// The idempotency key.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A precondition (`If-Match`, `If-None-Match`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// It exists.
    Exists,
    /// It does not exist.
    Absent,
    /// It is as one of these tags say.
    Matches(Vec<String>),
}

/// A name that the caller gave to a request, so that the service carries it out once, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The name.
    pub key: String,
    /// A hash of all that the request says.
    pub request_hash: String,
}

impl IdempotencyKey {
    /// The longest key, in characters.
    pub const KEY_MAX_CHARS: usize = 255;

    /// The name of a request that says these parts.
    pub fn new(key: String, parts: &[&[u8]]) -> Self {
        Self { key, request_hash: hex::encode(hash(parts)) }
    }
}

/// An idempotency key whose request body has not been read yet.
///
/// The hash of the request covers its method, its URL and the SHA-256 digest of its body, so that a large body can be
/// hashed while it is stored, without being in memory as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingIdempotencyKey {
    key: String,
    method: String,
    url: String,
}

impl PendingIdempotencyKey {
    /// The key of a request with this method and this URL.
    pub fn new(key: String, method: &str, url: &str) -> Self {
        Self { key, method: method.to_owned(), url: url.to_owned() }
    }

    /// Completes the key with the request's body.
    #[must_use]
    pub fn with_body(self, body: &[u8]) -> IdempotencyKey {
        self.with_body_digest(&Sha256::digest(body).into())
    }

    /// Completes the key with the SHA-256 digest of the request's body.
    #[must_use]
    pub fn with_body_digest(self, sha256: &[u8; 32]) -> IdempotencyKey {
        IdempotencyKey::new(self.key, &[self.method.as_bytes(), self.url.as_bytes(), sha256])
    }
}

/// Which version of a thing it is. Two versions have different tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag(String);

impl EntityTag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag of a representation that shows more than the version does: it changes with either.
    #[must_use]
    pub fn for_representation(&self, representation: &[u8]) -> Self {
        Self(format!("{}.{}", self.0, short_hash(&[representation])))
    }

    /// Whether a tag that a caller holds is of this version, whatever more its representation showed.
    fn same_version(&self, held: &str) -> bool {
        held.split_once('.').map_or(held, |(version, _)| version) == self.0
    }
}

impl DataJob {
    /// The ETag of the job: a hash of all that its owner set. A new job with the same name has another one.
    pub fn etag(&self) -> EntityTag {
        let Self { id, name, team, description, config } = self;
        let config = serde_json::to_vec(config).expect("a configuration has string keys");
        let id = id.to_string();
        EntityTag(format!(
            "j{}",
            short_hash(&[
                id.as_bytes(),
                name.as_str().as_bytes(),
                team.as_str().as_bytes(),
                description.as_bytes(),
                &config
            ])
        ))
    }
}

impl Deployment {
    /// The version of the deployment: its generation, which never comes twice under a job's name.
    pub fn etag(&self) -> EntityTag {
        EntityTag(format!("g{}", self.generation))
    }
}

/// A hash of several parts, none of which runs into the next.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    digest::of_parts(b"", u64::to_be_bytes, parts)
}

fn short_hash(parts: &[&[u8]]) -> String {
    hex::encode(&hash(parts)[..8])
}

impl Preconditions {
    /// Checks what has to hold of a thing whose version is `current`; `None` when it does not exist. Called with the row
    /// locked, so that it still holds when the change is made.
    ///
    /// # Errors
    /// [`crate::problem::Kind::PreconditionFailed`] when it does not hold.
    pub fn check(&self, thing: &str, current: Option<&EntityTag>) -> Result<(), Problem> {
        let why = match (&self.precondition, current) {
            (None, _) | (Some(Precondition::Exists), Some(_)) | (Some(Precondition::Absent), None) => return Ok(()),
            (Some(Precondition::Matches(etags)), Some(current))
                if etags.iter().any(|held| current.same_version(held)) =>
            {
                return Ok(());
            }
            (Some(Precondition::Matches(_)), Some(current)) => {
                format!("If-Match failed: its ETag is \"{}\" now.", current.as_str())
            }
            (Some(Precondition::Absent), Some(_)) => "If-None-Match failed: it exists.".to_owned(),
            (Some(Precondition::Exists | Precondition::Matches(_)), None) => {
                "If-Match failed: it does not exist.".to_owned()
            }
        };
        Err(Problem::new(Code::PreconditionFailed, format!("The {thing} was not changed."), why).nothing_changed().fix(
            match current {
                Some(_) => format!("Read the {thing} again, then retry with its new ETag as If-Match."),
                None => format!("Read the {thing} again, then retry without If-Match if it is missing on purpose."),
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        job::JobConfig,
        name::{JobId, JobName, TeamName},
        problem::Kind,
    };

    fn job(n: u128, description: &str) -> DataJob {
        DataJob {
            id: JobId(Uuid::from_u128(n)),
            name: JobName::parse("example-job").unwrap(),
            team: TeamName::parse("a team").unwrap(),
            description: description.into(),
            config: JobConfig::default(),
        }
    }

    #[test]
    fn a_key_stands_for_one_method_one_url_and_one_body() {
        let key = |method: &str, url: &str| PendingIdempotencyKey::new("k".into(), method, url);
        let whole = key("POST", "/a?b=c").with_body(b"body");
        assert_eq!(whole, key("POST", "/a?b=c").with_body_digest(&Sha256::digest(b"body").into()));
        assert_eq!(whole.key, "k");
        for other in [
            key("PUT", "/a?b=c").with_body(b"body"),
            key("POST", "/a?b=d").with_body(b"body"),
            key("POST", "/a?b=c").with_body(b"bodx"),
            key("POST", "/a?b=cb").with_body(b"ody"),
        ] {
            assert_ne!(whole.request_hash, other.request_hash);
        }
        assert_ne!(key("PUT", "/a").with_body(b"").request_hash, key("PUT/", "a").with_body(b"").request_hash);
    }

    #[test]
    fn an_etag_changes_with_its_version_and_is_known_with_what_was_shown_beside_it() {
        let etag = job(1, "a").etag();
        assert_eq!(etag, job(1, "a").etag());
        assert!(etag != job(1, "b").etag() && etag != job(2, "a").etag());
        let preconditions = |precondition| Preconditions { precondition: Some(precondition), idempotency_key: None };
        let is = |held: &str| preconditions(Precondition::Matches(vec!["x".into(), held.to_owned()]));
        assert_eq!(is(etag.as_str()).check("job", Some(&etag)), Ok(()));
        assert_eq!(is(etag.for_representation(b"pending").as_str()).check("job", Some(&etag)), Ok(()));
        assert!(etag.for_representation(b"pending") != etag.for_representation(b"rolled_out"));
        for (preconditions, current) in [
            (is(job(1, "b").etag().as_str()), Some(&etag)),
            (is(""), Some(&etag)),
            (is(&etag.as_str()[1..]), Some(&etag)),
            (is(etag.as_str()), None),
            (preconditions(Precondition::Exists), None),
            (preconditions(Precondition::Absent), Some(&etag)),
        ] {
            assert_eq!(
                preconditions.check("job", current).unwrap_err().kind,
                Kind::PreconditionFailed,
                "{preconditions:?}"
            );
        }
        for (preconditions, current) in [
            (preconditions(Precondition::Exists), Some(&etag)),
            (preconditions(Precondition::Absent), None),
            (Preconditions::default(), None),
        ] {
            assert_eq!(preconditions.check("job", current), Ok(()), "{preconditions:?}");
        }
    }
}
