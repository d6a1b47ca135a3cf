//! Enumerations of the OpenAPI document. The model reads and writes their values; a test compares both.
#![expect(dead_code, reason = "the document reads the names, nothing makes a value")]

use utoipa::ToSchema;

/// The mode of a deployment; stored and returned without effect.
#[derive(ToSchema)]
#[schema(as = DataJobMode, rename_all = "snake_case")]
pub(crate) enum DataJobMode {
    Testing,
    Release,
}

/// The status of an execution: `submitted` and `running` may change, all others are final.
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

/// The kind of start: by a user, or by the schedule.
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

/// The phase of a rollout: in progress, reached, to be retried after a platform error, or waiting for a change.
#[derive(ToSchema)]
#[schema(as = DataJobRolloutPhase, rename_all = "snake_case")]
pub(crate) enum RolloutPhase {
    Pending,
    RolledOut,
    Retrying,
    Failed,
}

/// The party that has to act: the user, who has to change a request or the job, or the platform, which retries automatically.
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
