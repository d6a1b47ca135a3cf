//! How the artifact of a deployment is made: by a builder, from inputs that two deployments may share.

use std::fmt;

use crate::{
    BoxFuture, Problem,
    artifact::Artifact,
    lock::{Lock, LockKey},
    name::JobId,
    runtime::DeploymentSpec,
    source::SourceVersion,
};

/// Makes what runs are made of: chooses packages, or names or assembles images.
///
/// The same inputs lead to the same artifact. A build that is dropped before its end leaves nothing that counts, and may be
/// begun again with the same inputs, by another instance as well.
pub trait ArtifactBuilder: Send + Sync + fmt::Debug {
    /// The name of the builder. Rows of builds name it, so that no other builder takes them up.
    fn name(&self) -> &'static str;

    /// The configuration of the builder that goes into a deployment. A changed one deploys anew.
    fn fingerprint(&self, deployment_spec: &DeploymentSpec) -> String;

    /// The inputs that the artifact of a deployment follows from.
    ///
    /// # Errors
    /// The user's when the deployment asks for what can't be read or is not allowed.
    fn inputs(&self, request: &ArtifactRequest<'_>) -> Result<BuildInputs, Problem>;

    /// The artifact, when it follows from its inputs without a build.
    fn known(&self, inputs: &BuildInputs) -> Option<Artifact>;

    /// Builds the artifact.
    ///
    /// # Errors
    /// The user's when no artifact can follow from the inputs; the platform's when trying again may help.
    fn build<'a>(&'a self, inputs: &'a BuildInputs, report: Report<'a>) -> BoxFuture<'a, Result<Built, Problem>>;

    /// Whether an artifact that was built is still where runs get it from.
    ///
    /// # Errors
    /// The platform's, when that can't be told now.
    fn exists<'a>(&'a self, _artifact: &'a Artifact) -> BoxFuture<'a, Result<bool, Problem>> {
        Box::pin(std::future::ready(Ok(true)))
    }
}

/// Takes how far a build is.
pub type Report<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub phase: Phase,
    /// The bytes that this phase wrote or sent so far.
    pub bytes: u64,
}

/// What a build does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It chooses packages.
    Resolving,
    /// It writes layers.
    BuildingLayers,
    /// It sends layers to the registry.
    Pushing,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Resolving, Self::BuildingLayers, Self::Pushing];

    /// The value on the wire and in rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolving => "resolving",
            Self::BuildingLayers => "building_layers",
            Self::Pushing => "pushing",
        }
    }

    /// Reads the value.
    pub fn parse(raw: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == raw)
    }
}

/// What was stored before and a build needs: sources, and locks of builds before.
pub trait Stored: Send + Sync + fmt::Debug {
    /// The archive of a job's source.
    ///
    /// # Errors
    /// The platform's, when it can't be read now.
    fn source<'a>(
        &'a self,
        job_id: JobId,
        version: &'a SourceVersion,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Problem>>;

    /// A lock.
    ///
    /// # Errors
    /// The platform's, when it can't be read now.
    fn lock<'a>(&'a self, key: &'a LockKey) -> BoxFuture<'a, Result<Option<Lock>, Problem>>;
}

/// A deployment whose artifact is asked for.
#[derive(Debug, Clone, Copy)]
pub struct ArtifactRequest<'a> {
    /// The deployment.
    pub deployment_spec: &'a DeploymentSpec,
    /// The requirements of its source; absent when the source is not in the database.
    pub requirements: Option<&'a str>,
}

/// All that a build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildInputs {
    /// The key of the build.
    pub key: BuildKey,
    /// The inputs in words of the builder's own; rows keep them.
    pub content: String,
}

/// The key of a build: equal for equal inputs, and different for different inputs of all builders.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildKey(String);

impl BuildKey {
    /// A key that a builder made, or that was stored.
    pub fn new(key: String) -> Self {
        Self(key)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BuildKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The result of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The artifact. An image's name has the digest where the build decides it.
    pub artifact: Artifact,
    /// The packages that were chosen, to be stored with the artifact.
    pub locks: Vec<Lock>,
}
