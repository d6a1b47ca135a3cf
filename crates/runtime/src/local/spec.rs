//! The input of a supervisor: the file `spec.json` of a run folder.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use model::name::ExecutionId;
use sandbox::SandboxPolicy;
use serde::{Deserialize, Serialize};

/// Everything that a supervisor needs. Nothing is read from its environment or from any configuration.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) id: ExecutionId,
    /// The run folder's own path.
    pub(super) folder: PathBuf,
    /// The environment that the job runs in.
    pub(super) environment: PathBuf,
    /// Locked (shared) while the run lasts, so that the environment stays.
    pub(super) environment_lock: PathBuf,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// The job's whole environment, except for the variables that differ by attempt.
    pub(super) variables: BTreeMap<String, String>,
    pub(super) deadline_seconds: u64,
    /// Between the request to end (SIGTERM) and the end (SIGKILL).
    pub(super) grace_milliseconds: u64,
    pub(super) backoff_limit: u32,
    /// Before the second attempt; doubles with each.
    pub(super) backoff_milliseconds: u64,
    pub(super) log_max_bytes: u64,
    /// The sandbox policy of the job.
    pub(super) sandbox_policy: SandboxPolicy,
}

impl Spec {
    pub(super) const FILE: &str = "spec.json";

    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join(Self::FILE))?)?)
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_milliseconds)
    }

    /// How long to wait before attempt number `attempt` (2, 3, …): as Kubernetes does it, doubling up to six minutes.
    pub(super) fn backoff_before(&self, attempt: u32) -> Duration {
        const MOST: Duration = Duration::from_secs(360);
        let factor = 1_u64 << attempt.saturating_sub(2).min(16);
        Duration::from_millis(self.backoff_milliseconds.saturating_mul(factor)).min(MOST)
    }
}
