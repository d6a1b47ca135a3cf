//! The progress of rollouts, and the problems that prevent them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Problem,
    artifact::{Artifact, LastApplied},
    deployment::Deployment,
};

/// The last outcome of a rollout, in the words of the public API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Nothing was reached or failed yet.
    #[default]
    None,
    /// The wanted generation was reached.
    Success,
    /// The service could not reach it and tries again.
    PlatformError,
    /// It can't be reached as it is; a change is needed.
    UserError,
}

impl Status {
    /// The value on the wire and in rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Success => "SUCCESS",
            Self::PlatformError => "PLATFORM_ERROR",
            Self::UserError => "USER_ERROR",
        }
    }

    /// Reads the value.
    pub fn parse(raw: &str) -> Option<Self> {
        [Self::None, Self::Success, Self::PlatformError, Self::UserError].into_iter().find(|s| s.as_str() == raw)
    }
}

/// The progress of a rollout: the last deployed revision, and the current problem.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rollout {
    /// The generation that runs; absent before the first success.
    pub reached_generation: Option<i64>,
    /// The hash of all that went into what runs: generation, configuration and renderer.
    pub inputs_hash: Option<String>,
    /// The artifact of the deployed state.
    pub artifact: Option<Artifact>,
    /// The state that the runtime returned for it.
    pub last_applied: Option<LastApplied>,
    /// When it was reached.
    pub reached_at: Option<Timestamp>,
    /// The last outcome.
    pub status: Status,
    /// The inputs that the last outcome speaks of.
    pub tried_inputs_hash: Option<String>,
    /// The generation that the last outcome speaks of.
    pub tried_generation: Option<i64>,
    /// The problem that prevents it.
    pub problem: Option<Problem>,
    /// Tries of this generation so far.
    pub attempts: i32,
    /// When the next try is due, after a platform error.
    pub retry_at: Option<Timestamp>,
    /// Counts every write of this row; a write names the count that it read.
    pub row_version: i64,
}

/// The phase of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The wanted generation is on its way.
    Pending,
    /// The wanted generation runs.
    Reached,
    /// The platform failed it, and it is tried again.
    Retrying,
    /// It can't be reached as it is, and waits for a change.
    Failed,
}

impl Phase {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Reached => "reached",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
        }
    }
}

impl Rollout {
    /// The phase of the rollout of the desired state.
    pub fn phase(&self, wanted: &Deployment) -> Phase {
        let tried_this = self.tried_generation == Some(wanted.generation);
        match self.status {
            Status::Success if self.reached_generation == Some(wanted.generation) => Phase::Reached,
            Status::PlatformError if tried_this => Phase::Retrying,
            Status::UserError if tried_this => Phase::Failed,
            _ => Phase::Pending,
        }
    }
}
