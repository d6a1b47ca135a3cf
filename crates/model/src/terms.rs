//! Under which terms a caller asks: only when nothing changed meanwhile, and only once.

use sha2::{Digest, Sha256};

use crate::{Problem, deployment::Deployment, job::DataJob};

/// The terms of a request. The default has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// What has to hold of the thing that is changed.
    pub only_if: Option<OnlyIf>,
    /// What makes a repetition known for one.
    pub once: Option<Once>,
}

/// What has to hold of a thing, or it is not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnlyIf {
    /// It exists.
    Exists,
    /// It does not exist.
    Absent,
    /// It is as one of these tags say.
    Is(Vec<String>),
}

/// A name that the caller gave to a request, so that the service carries it out once, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// The name.
    pub key: String,
    /// A hash of all that the request says.
    pub request_hash: String,
}

impl Once {
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
    pub fn with_body(self, body: &[u8]) -> Once {
        self.with_body_digest(&Sha256::digest(body).into())
    }

    /// Completes the key with the SHA-256 digest of the request's body.
    #[must_use]
    pub fn with_body_digest(self, sha256: &[u8; 32]) -> Once {
        Once::new(self.key, &[self.method.as_bytes(), self.url.as_bytes(), sha256])
    }
}

/// Which version of a thing it is. Two versions have different tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(String);

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag of a representation that shows more than the version does: it changes with either.
    #[must_use]
    pub fn showing(&self, representation: &[u8]) -> Self {
        Self(format!("{}.{}", self.0, short_hash(&[representation])))
    }

    /// Whether a tag that a caller holds is of this version, whatever more its representation showed.
    fn is_of(&self, held: &str) -> bool {
        held.split_once('.').map_or(held, |(version, _)| version) == self.0
    }
}

impl DataJob {
    /// The version of the job: what its owner set. A namesake has another one.
    pub fn tag(&self) -> Tag {
        let Self { id, name, team, description, config } = self;
        let config = serde_json::to_vec(config).expect("a configuration has string keys");
        let id = id.to_string();
        Tag(format!(
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
    pub fn tag(&self) -> Tag {
        Tag(format!("g{}", self.generation))
    }
}

/// A hash of several parts, none of which runs into the next.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn short_hash(parts: &[&[u8]]) -> String {
    hex::encode(&hash(parts)[..8])
}

impl Terms {
    /// Checks what has to hold of a thing whose version is `current`; `None` when it does not exist. Called with the row
    /// locked, so that it still holds when the change is made.
    ///
    /// # Errors
    /// [`crate::problem::Kind::Stale`] when it does not hold.
    pub fn check(&self, thing: &str, current: Option<&Tag>) -> Result<(), Problem> {
        let why = match (&self.only_if, current) {
            (None, _) | (Some(OnlyIf::Exists), Some(_)) | (Some(OnlyIf::Absent), None) => return Ok(()),
            (Some(OnlyIf::Is(tags)), Some(current)) if tags.iter().any(|held| current.is_of(held)) => return Ok(()),
            (Some(OnlyIf::Is(_)), Some(current)) => {
                format!(
                    "It is not as the request says: somebody changed it since, and its version is \"{}\" now.",
                    current.as_str()
                )
            }
            (Some(OnlyIf::Absent), Some(_)) => "The request says that it must not exist, and it does.".to_owned(),
            (Some(OnlyIf::Exists | OnlyIf::Is(_)), None) => {
                "The request says that it must exist, and it does not.".to_owned()
            }
        };
        Err(Problem::stale(format!("The {thing} was not changed."), why)
            .fix("Read it again, look at what changed, and send the request with the new tag."))
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
    fn a_tag_changes_with_what_it_stands_for_and_is_known_with_what_was_shown_beside_it() {
        let tag = job(1, "a").tag();
        assert_eq!(tag, job(1, "a").tag());
        assert!(tag != job(1, "b").tag() && tag != job(2, "a").tag());
        let terms = |only_if| Terms { only_if: Some(only_if), once: None };
        let is = |held: &str| terms(OnlyIf::Is(vec!["x".into(), held.to_owned()]));
        assert_eq!(is(tag.as_str()).check("job", Some(&tag)), Ok(()));
        assert_eq!(is(tag.showing(b"pending").as_str()).check("job", Some(&tag)), Ok(()));
        assert!(tag.showing(b"pending") != tag.showing(b"reached"));
        for (terms, current) in [
            (is(job(1, "b").tag().as_str()), Some(&tag)),
            (is(""), Some(&tag)),
            (is(&tag.as_str()[1..]), Some(&tag)),
            (is(tag.as_str()), None),
            (terms(OnlyIf::Exists), None),
            (terms(OnlyIf::Absent), Some(&tag)),
        ] {
            assert_eq!(terms.check("job", current).unwrap_err().kind, Kind::Stale, "{terms:?}");
        }
        for (terms, current) in
            [(terms(OnlyIf::Exists), Some(&tag)), (terms(OnlyIf::Absent), None), (Terms::default(), None)]
        {
            assert_eq!(terms.check("job", current), Ok(()), "{terms:?}");
        }
    }
}
