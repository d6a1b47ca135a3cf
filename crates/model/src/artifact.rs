//! Artifacts that executions run from, and the state that a runtime keeps of its objects.

use crate::lock::LockKey;

/// The state that a runtime keeps of an object that it created. The content is private to the runtime; rows store it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastApplied(String);

impl LastApplied {
    /// The words as they are stored.
    pub fn new(words: String) -> Self {
        Self(words)
    }

    /// The words as they are stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The artifact that a deployment's executions run from, beside its sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Artifact {
    /// Packages, which are installed where the run is.
    Packages(LockKey),
    /// An image by its full name, which has packages and source.
    Image(String),
}
