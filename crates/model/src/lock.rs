//! The exact packages of a deployment.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{BoxFuture, Problem, digest, python::PythonVersion};

/// The inputs of a lock. Deployments with the same inputs share one lock, and so one environment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResolutionInputs {
    /// The minor version of Python that the packages are chosen for.
    pub python_version: PythonVersion,
    /// The VDK distribution and its version as a requirement, `quickstart-vdk==0.2.1810444937`. Empty where VDK comes from
    /// elsewhere.
    pub vdk_requirement: String,
    /// The operator's constraints, one per line.
    pub constraints: String,
    /// The job's requirements, normalised: one per line, no comments, sorted.
    pub requirements: String,
    /// The platform of an image that the packages are chosen for, as the installer names it; absent for this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

impl ResolutionInputs {
    /// The key of the lock: SHA-256 over every input, each preceded by its length, in hexadecimal.
    pub fn key(&self) -> LockKey {
        let parts = [&self.python_version.to_string(), &self.vdk_requirement, &self.constraints, &self.requirements];
        let hash = digest::of_parts(b"holdfast lock 1", u64::to_le_bytes, parts);
        LockKey(match &self.platform {
            Some(platform) => hex::encode(digest::of_parts(&hash, u64::to_le_bytes, [platform])),
            None => hex::encode(hash),
        })
    }
}

/// The key of a lock: 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LockKey(String);

impl LockKey {
    /// Takes a key that was stored.
    pub fn stored(raw: String) -> Self {
        Self(raw)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Every package of an environment, pinned, with its hashes: VDK's and the job's in one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The key of its inputs.
    pub key: LockKey,
    /// The minor version of Python that it is for.
    pub python_version: PythonVersion,
    /// `name==version --hash=sha256:…` lines, in pip's requirements format.
    pub text: String,
}

/// Resolves a set of inputs to packages.
pub trait Resolver: Send + Sync + fmt::Debug {
    /// Chooses the packages.
    ///
    /// # Errors
    /// A user's problem when the requirements contradict each other or name what does not exist; a platform's problem when
    /// the package index can't be reached.
    fn lock<'a>(&'a self, inputs: &'a ResolutionInputs) -> BoxFuture<'a, Result<Lock, Problem>>;
}
