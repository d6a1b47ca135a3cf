//! Sets of words on the wire, for the document: the model reads and writes them, and a test holds the two together.
#![expect(dead_code, reason = "the document reads the names, nothing makes a value")]

use utoipa::ToSchema;

/// What a deployment is for. It is kept and given back, and changes nothing else.
#[derive(ToSchema)]
#[schema(as = DataJobMode, rename_all = "snake_case")]
pub(crate) enum DataJobMode {
    Testing,
    Release,
}

/// How far a run is, or how it ended: `submitted` and `running` may change, all others are final.
#[derive(ToSchema)]
#[schema(as = DataJobExecutionStatus, rename_all = "snake_case")]
pub(crate) enum ExecutionStatus {
    Submitted,
    Running,
    Succeeded,
    Cancelled,
    Skipped,
    UserError,
    PlatformError,
}

/// Who started a run: somebody by hand, or the schedule.
#[derive(ToSchema)]
#[schema(as = DataJobExecutionType, rename_all = "snake_case")]
pub(crate) enum ExecutionType {
    Manual,
    Scheduled,
}

/// The last outcome of a rollout.
#[derive(ToSchema)]
#[schema(as = DataJobRolloutStatus, rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum RolloutStatus {
    None,
    Success,
    PlatformError,
    UserError,
}

/// Where a rollout stands: on its way, reached, tried again after a fault of the platform, or waiting for a change.
#[derive(ToSchema)]
#[schema(as = DataJobRolloutPhase, rename_all = "snake_case")]
pub(crate) enum RolloutPhase {
    Pending,
    Reached,
    Retrying,
    Failed,
}

/// Whose move it is: the user's, whose request or job has to change, or the platform's, which tries again by itself.
#[derive(ToSchema)]
#[schema(as = Fault, rename_all = "snake_case")]
pub(crate) enum FaultName {
    User,
    Platform,
}

/// Bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(crate) struct Binary(Vec<u8>);
