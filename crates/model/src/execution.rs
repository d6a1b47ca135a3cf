//! Executions of data jobs, from the accepted start to the one final status.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Problem,
    deployment::Mode,
    name::{ExecutionId, JobId, JobName, TeamName},
    problem::Code,
    python::PythonVersion,
    resources::Resources,
    source::SourceVersion,
};

/// The status of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Accepted and stored; no process runs yet.
    Submitted,
    /// The job's process was started.
    Running,
    /// It succeeded.
    Succeeded,
    /// It was cancelled, and no process of it is left.
    Cancelled,
    /// It did not run, because another execution of the job was active.
    Skipped,
    /// It failed because of the job's code, configuration or requirements.
    UserError,
    /// It failed because of the service or something that the service depends on.
    PlatformError,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 7] = [
        Self::Submitted,
        Self::Running,
        Self::Succeeded,
        Self::Cancelled,
        Self::Skipped,
        Self::UserError,
        Self::PlatformError,
    ];

    /// The value in rows and in GraphQL; REST has it in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "SUBMITTED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Cancelled => "CANCELLED",
            Self::Skipped => "SKIPPED",
            Self::UserError => "USER_ERROR",
            Self::PlatformError => "PLATFORM_ERROR",
        }
    }

    /// Reads the value, in any case.
    pub fn parse(raw: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(raw))
    }

    /// Whether it is final.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Submitted | Self::Running)
    }

    /// The statuses that may precede this one.
    pub fn may_follow(self) -> &'static [Self] {
        match self {
            Self::Submitted => &[],
            Self::Running => &[Self::Submitted],
            Self::Succeeded => &[Self::Running],
            Self::Skipped | Self::Cancelled | Self::UserError | Self::PlatformError => {
                &[Self::Submitted, Self::Running]
            }
        }
    }
}

/// The trigger of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Type {
    /// A request.
    Manual,
    /// Its schedule.
    Scheduled,
}

impl Type {
    /// The value in rows and in GraphQL; REST has it in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "MANUAL",
            Self::Scheduled => "SCHEDULED",
        }
    }

    /// Reads the value, in any case.
    pub fn parse(raw: &str) -> Option<Self> {
        [Self::Manual, Self::Scheduled].into_iter().find(|t| t.as_str().eq_ignore_ascii_case(raw))
    }
}

/// An execution. It refers to an immutable revision, so that its history outlives later deployments.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    /// The id; never reused.
    pub id: ExecutionId,
    /// The job.
    pub job_id: JobId,
    /// The job's name.
    pub job_name: JobName,
    /// The job's team at the time of reading.
    pub team: TeamName,
    /// Its trigger.
    pub kind: Type,
    /// Its status.
    pub status: Status,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// When the job's process was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// `<given>/<user>` for a request, `scheduled/runtime` for a scheduled execution.
    pub started_by: String,
    /// The operation id of the request; the execution's own id for a scheduled one.
    pub op_id: String,
    /// The result, for people.
    pub message: Option<String>,
    /// The arguments as a JSON object; absent when none were given.
    pub arguments: Option<String>,
    /// The scheduled time that started it.
    pub scheduled_tick: Option<Timestamp>,
    /// When its cancellation was requested.
    pub cancel_requested_at: Option<Timestamp>,
    /// The revision that it runs; absent until it starts for the first deployment of a job.
    pub revision: Option<ExecutionRevision>,
}

/// The revision that an execution runs. Unknown fields are absent: an execution of another service may have been recorded
/// with a part of its revision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecutionRevision {
    /// The number of the revision.
    pub generation: Option<i64>,
    /// The source.
    pub job_version: Option<SourceVersion>,
    /// The Python version.
    pub python_version: Option<PythonVersion>,
    /// The VDK version.
    pub vdk_version: Option<String>,
    /// The wire's mode.
    pub mode: Option<Mode>,
    /// Whether the schedule was enabled.
    pub enabled: Option<bool>,
    /// The cron expression.
    pub schedule_cron: Option<String>,
    /// Its CPU and memory.
    pub resources: Option<Resources>,
    /// The user who deployed it.
    pub deployed_by: Option<String>,
    /// The time of the deployment.
    pub deployed_at: Option<Timestamp>,
}

/// The end of an execution, as the runtime observed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionEnd {
    /// When the job's process was started; absent when it never was.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Why it ended.
    pub cause: EndCause,
    /// The content of the job's termination message file, cut at 4 KiB.
    pub termination_message: Option<String>,
}

/// The cause of an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The process ended with this exit code (128 + the signal's number after a signal).
    Exited(i32),
    /// It was cancelled.
    Cancelled,
    /// It was stopped because it ran longer than this many seconds.
    DeadlineExceeded(u64),
    /// It was stopped because it used more memory than it may.
    OutOfMemory,
    /// It was stopped because it used more disk space than it may, as this says.
    OutOfDisk(String),
    /// Its supervisor died (with the machine, or killed) before it could record an end.
    Lost,
    /// The process could not be started, for this reason.
    NotStarted(String),
    /// The node that it ran on was lost or evicted it; the text says which.
    TakenAway(String),
}

/// The words of VDK for an end; old releases write one of them as plain text.
const TERMINATION_WORDS: [&str; 4] = ["Success", "User error", "Platform error", "Skipped"];

/// The `status` in the JSON object of VDK's termination message, or the message itself where it is one of VDK's words. Any
/// other text is not VDK's: a cluster may put the end of the log there.
fn termination_status(raw: Option<&str>) -> Option<String> {
    #[derive(Deserialize)]
    struct Message {
        status: String,
    }
    let text = raw?;
    let plain = text.trim();
    if TERMINATION_WORDS.contains(&plain) {
        return Some(plain.to_owned());
    }
    serde_json::from_str::<Message>(text).ok().map(|m| m.status)
}

/// The final status of an ended execution, and a message for people.
///
/// The job's own words decide when it left any; without them the exit code does. A "Success" beside a failing exit code
/// is ignored: the `vdk` client reports it when the job's folder is missing.
pub fn outcome(end: &ExecutionEnd) -> (Status, String) {
    let code = match &end.cause {
        EndCause::Cancelled => return (Status::Cancelled, "Cancelled on request.".into()),
        EndCause::DeadlineExceeded(seconds) => {
            return (
                Status::UserError,
                format!(
                    "User error. The execution was stopped because it took longer than {seconds} seconds \
                     (`run.deadline_seconds`). Make the job faster, split it, or ask the operator for a longer deadline."
                ),
            );
        }
        EndCause::OutOfMemory => {
            return (
                Status::UserError,
                "User error. The execution was stopped because it used more memory than its limit. Process the data in \
                 smaller parts, or raise the deployment's memory_limit."
                    .into(),
            );
        }
        EndCause::OutOfDisk(told) => {
            return (
                Status::UserError,
                format!(
                    "User error. The execution was stopped because it used more disk space than its limit: {told}. Process \
                     the data in smaller parts, or ask the operator for a higher limit."
                ),
            );
        }
        EndCause::Lost => {
            return (
                Status::PlatformError,
                "Platform error. The supervisor of the execution ended without recording a result: the machine \
                 restarted, or the process was killed. The execution is not repeated, because it may have done part of \
                 its work; start it again when that is safe."
                    .into(),
            );
        }
        EndCause::NotStarted(why) => {
            return (Status::PlatformError, format!("Platform error. The execution could not be started: {why}"));
        }
        EndCause::TakenAway(why) => {
            return (
                Status::PlatformError,
                format!(
                    "Platform error. The execution was ended from outside: {why}. It is not repeated, because it may have \
                     done part of its work; start it again when that is safe."
                ),
            );
        }
        EndCause::Exited(code) => *code,
    };
    match (termination_status(end.termination_message.as_deref()).as_deref(), code) {
        (Some("Success") | None, 0) => (Status::Succeeded, "Success".into()),
        (Some("Skipped"), _) => {
            (Status::Skipped, "Skipping job execution due to another parallel running execution.".into())
        }
        (Some("User error"), _) => (
            Status::UserError,
            format!(
                "User error. A step of the job failed and the run ended with exit code {code}. The last lines of the \
                 log name the step and the reason."
            ),
        ),
        (Some("Platform error"), _) => (
            Status::PlatformError,
            format!(
                "Platform error. Something that the job depends on failed and the run ended with exit code {code}. \
                 The last lines of the log name it; start the job again when it is back."
            ),
        ),
        (None, 137 | 143) => (
            Status::PlatformError,
            format!(
                "Platform error. The job's process was killed from outside (exit code {code}) before it reported a \
                 result. Start it again; if it happens again, find out what ends processes on that machine."
            ),
        ),
        (said, _) => (
            Status::PlatformError,
            format!(
                "Platform error. The execution ended with exit code {code} and {}. See its log.",
                said.map_or_else(
                    || "reported no result".to_owned(),
                    |s| format!("reported {}", crate::name::excerpt(s))
                )
            ),
        ),
    }
}

/// The conflict of a second start while an execution of the job is active. `active` is its id, unless it has just ended.
pub fn already_active(job: &JobName, active: Option<&ExecutionId>) -> Problem {
    let (why, fix) = match active {
        Some(id) => (
            format!("A job runs once at a time, and its execution {id} is active."),
            format!("Wait for it, or cancel it: `vdk execute --cancel -n {job} -t <team> -i {id}`."),
        ),
        None => (
            "A job runs once at a time, and another execution of it was active.".to_owned(),
            format!("Start the job again; `vdk execute --list -n {job} -t <team>` shows its executions."),
        ),
    };
    Problem::new(Code::ExecutionAlreadyActive, format!("The data job {job} was not started."), why)
        .follows("No execution was created; the active one continues.")
        .fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32, status: Option<&str>) -> ExecutionEnd {
        ExecutionEnd {
            started_at: Some(Timestamp::UNIX_EPOCH),
            ended_at: Timestamp::UNIX_EPOCH,
            cause: EndCause::Exited(code),
            termination_message: status.map(|s| format!(r#"{{"vdk_version":"0.3","status":"{s}"}}"#)),
        }
    }

    #[test]
    fn the_jobs_own_words_decide_and_the_exit_code_where_there_are_none() {
        for (code, said, status) in [
            (0, Some("Success"), Status::Succeeded),
            (0, None, Status::Succeeded),
            (1, Some("User error"), Status::UserError),
            (3, Some("User error"), Status::UserError),
            (1, Some("Platform error"), Status::PlatformError),
            (0, Some("Skipped"), Status::Skipped),
            (2, Some("Success"), Status::PlatformError),
            (0, Some("Whatever"), Status::PlatformError),
            (1, None, Status::PlatformError),
            (137, None, Status::PlatformError),
            (143, None, Status::PlatformError),
        ] {
            assert_eq!(outcome(&exited(code, said)).0, status, "{code} {said:?}");
        }
    }

    #[test]
    fn a_termination_message_in_plain_text_counts_when_it_is_one_of_vdks_words() {
        for (code, text, status) in [
            (1, "User error", Status::UserError),
            (0, "Skipped\n", Status::Skipped),
            (1, "Success", Status::PlatformError),
            (0, "the last line of a log", Status::Succeeded),
        ] {
            let end = ExecutionEnd { termination_message: Some(text.into()), ..exited(code, None) };
            assert_eq!(outcome(&end).0, status, "{code} {text}");
        }
    }

    #[test]
    fn a_final_status_is_followed_by_nothing() {
        for after in Status::ALL {
            for before in after.may_follow() {
                assert!(!before.is_final(), "{before:?} -> {after:?}");
            }
        }
        assert_eq!(Status::Running.may_follow(), [Status::Submitted]);
        assert_eq!(Status::Succeeded.may_follow(), [Status::Running]);
    }
}
