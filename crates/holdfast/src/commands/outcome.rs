//! Exit codes of commands that scripts use.

use std::process::ExitCode;

/// The outcome of a rollout or an execution, as an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It succeeded.
    Succeeded,
    /// The user has to change the job or its deployment.
    UserError,
    /// The platform failed.
    PlatformError,
    /// There was no outcome within the time limit.
    TimedOut,
}

impl Outcome {
    /// The exit codes for help texts. Code 2 is any other error, as for all commands.
    pub(crate) const HELP: &str = "Exit codes:\n  \
                                   0  success\n  \
                                   2  the command could not be carried out\n  \
                                   3  user error: the job or its deployment must be changed\n  \
                                   4  platform error\n  \
                                   5  no outcome within the time limit";

    /// The number of the exit code.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::UserError => 3,
            Self::PlatformError => 4,
            Self::TimedOut => 5,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.number())
    }
}
