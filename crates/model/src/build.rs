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

/// Builds artifacts of executions: resolves packages, or names or assembles images.
///
/// The same inputs lead to the same artifact. A cancelled build leaves no result, and may be repeated with the same inputs,
/// also by another instance.
pub trait ArtifactBuilder: Send + Sync + fmt::Debug {
    /// The name of the builder. Rows of builds have it, so that no other builder continues them.
    fn name(&self) -> &'static str;

    /// The part of the builder's configuration that affects deployments. If it changes, they are rolled out again.
    fn fingerprint(&self, deployment_spec: &DeploymentSpec) -> String;

    /// The inputs of the artifact of a deployment.
    ///
    /// # Errors
    /// A user error if the deployment's requirements can't be read or are not allowed.
    fn inputs(&self, request: &ArtifactRequest<'_>) -> Result<BuildInputs, Problem>;

    /// The artifact, if it needs no build.
    fn known(&self, inputs: &BuildInputs) -> Option<Artifact>;

    /// Builds the artifact.
    ///
    /// # Errors
    /// The user's when no artifact can follow from the inputs; the platform's when trying again may help.
    fn build<'a>(&'a self, inputs: &'a BuildInputs, report: Report<'a>) -> BoxFuture<'a, Result<Built, Problem>>;

    /// Whether an artifact that was built is still where runs get it from.
    ///
    /// # Errors
    /// The platform's, if that can't be decided now.
    fn exists<'a>(&'a self, _artifact: &'a Artifact) -> BoxFuture<'a, Result<bool, Problem>> {
        Box::pin(std::future::ready(Ok(true)))
    }
}

/// Takes how far a build is.
pub type Report<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The current step.
    pub phase: Phase,
    /// The bytes that this phase wrote or sent so far.
    pub bytes: u64,
}

/// The steps of a build.
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

/// Stored inputs of a build: sources, and locks of builds before.
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

/// A request for the artifact of a deployment.
#[derive(Debug, Clone, Copy)]
pub struct ArtifactRequest<'a> {
    /// The deployment.
    pub deployment_spec: &'a DeploymentSpec,
    /// The requirements of its source; absent when the source is not in the database.
    pub requirements: Option<&'a str>,
}

/// The inputs of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildInputs {
    /// The key of the build.
    pub key: BuildKey,
    /// The inputs, in the builder's own format; rows store them.
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
