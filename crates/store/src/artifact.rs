//! The two columns of an artifact.

use model::{artifact::Artifact, lock::LockKey};

/// The artifact of a run, from its two columns.
pub(crate) fn of_columns(lock_key: Option<String>, image: Option<String>) -> Option<Artifact> {
    image.map(Artifact::Image).or_else(|| lock_key.map(LockKey::stored).map(Artifact::Packages))
}

/// The two columns of an artifact.
pub(crate) fn columns(artifact: &Artifact) -> (Option<&str>, Option<&str>) {
    match artifact {
        Artifact::Packages(lock_key) => (Some(lock_key.as_str()), None),
        Artifact::Image(name) => (None, Some(name)),
    }
}
