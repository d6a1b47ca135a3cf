//! The progress of rollouts, and the problems that prevent them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Problem,
    artifact::{Artifact, LastApplied},
    deployment::Deployment,
};

/// The last outcome of a rollout, with the names of the public API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// No attempt has ended yet.
    #[default]
    None,
    /// The desired revision was rolled out.
    Success,
    /// The rollout failed, and the service retries.
    PlatformError,
    /// The rollout failed, and needs a change by the user.
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
    /// The deployed revision; absent before the first success.
    pub reached_generation: Option<i64>,
    /// The hash of the inputs of the deployed state: revision, configuration and renderer.
    pub inputs_hash: Option<String>,
    /// The artifact of the deployed state.
    pub artifact: Option<Artifact>,
    /// The state that the runtime returned for it.
    pub last_applied: Option<LastApplied>,
    /// When it was rolled out.
    pub reached_at: Option<Timestamp>,
    /// The last outcome.
    pub status: Status,
    /// The inputs of the last outcome.
    pub tried_inputs_hash: Option<String>,
    /// The revision of the last outcome.
    pub tried_generation: Option<i64>,
    /// The problem that prevents it.
    pub problem: Option<Problem>,
    /// Attempts of this revision.
    pub attempts: i32,
    /// When the next attempt is due, after a platform error.
    pub retry_at: Option<Timestamp>,
    /// The version of this row (optimistic locking).
    pub row_version: i64,
}

/// The phase of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The rollout of the desired revision is in progress.
    Pending,
    /// The desired revision is deployed.
    RolledOut,
    /// The platform failed; Holdfast retries.
    Retrying,
    /// The rollout failed, and waits for a change by the user.
    Failed,
}

impl Phase {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::RolledOut => "rolled_out",
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
            Status::Success if self.reached_generation == Some(wanted.generation) => Phase::RolledOut,
            Status::PlatformError if tried_this => Phase::Retrying,
            Status::UserError if tried_this => Phase::Failed,
            _ => Phase::Pending,
        }
    }
}
