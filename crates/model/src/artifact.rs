//! What runs are made of, and what a runtime remembers of what it made.

use crate::lock::LockKey;

/// What a runtime remembers of an object that it made. Its words are the runtime's own; rows keep them.
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

/// What a deployment's runs are made of beside its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Artifact {
    /// Packages, which are installed where the run is.
    Packages(LockKey),
    /// An image by its full name, which has packages and source.
    Image(String),
}
