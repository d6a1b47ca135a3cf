//! The error that people read: what happened, why, what follows, what to do, and who has to act.

use std::fmt;

use serde::{Deserialize, Serialize};

mod code;

pub use code::Code;

/// The party that has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The user: the request or the job has to change. Retrying it unchanged does not help.
    User,
    /// The platform: something that Holdfast depends on failed. Holdfast retries automatically.
    Platform,
}

/// The class of a problem. A transport maps it to its own codes, for example HTTP status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The input breaks a rule.
    Invalid,
    /// The request has no valid credentials.
    Unauthenticated,
    /// The caller is known and lacks the permission.
    Forbidden,
    /// The resource does not exist.
    NotFound,
    /// The current state forbids it: a name is taken, an execution is active or has ended.
    Conflict,
    /// A precondition of the request does not hold.
    PreconditionFailed,
    /// The request contradicts an earlier request with the same idempotency key.
    IdempotencyConflict,
    /// The input exceeds a limit.
    TooLarge,
    /// The service has more work than it accepts.
    Overloaded,
    /// Something that the service needs can't be reached at the moment.
    Unavailable,
    /// A bug in the service.
    Internal,
}

/// A failure in four sentences for people, with a [`Code`] for programs.
///
/// The four sentences and the code are the API's error body, and are stored with a rollout or an execution that failed. They
/// never hold a secret. `{}` shows the first two sentences, `{:#}` all four on one line.
///
/// [`Problem::new`] takes the first two. The third ([`Draft::follows`]) and the fourth ([`Consequence::fix`] or
/// [`Consequence::no_action`]) have no default, so that each problem says its own:
///
/// ```
/// # use model::problem::{Code, Problem};
/// let problem = Problem::new(Code::JobNameTaken, "The data job daily-sales was not created.", "The name is taken.")
///     .follows("Nothing was changed.")
///     .fix("Choose another name, or use the existing job.");
/// assert_eq!(problem.code.as_str(), "job_name_taken");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which problem it is. Rows of earlier versions have none.
    #[serde(default)]
    pub code: Code,
    /// The failure, with the name of the thing that failed.
    pub what: String,
    /// Why it happened.
    pub why: String,
    /// The consequences: the state after the failure.
    pub consequences: String,
    /// The way out: the command or the setting that helps.
    pub countermeasures: String,
    /// The class of the problem.
    pub kind: Kind,
    /// The party that has to act.
    pub fault: Fault,
}

/// A problem without its third and fourth sentence.
#[derive(Debug)]
#[must_use = "a problem needs its third and fourth sentence"]
pub struct Draft {
    code: Code,
    what: String,
    why: String,
}

/// A problem without its fourth sentence.
#[derive(Debug)]
#[must_use = "a problem needs its fourth sentence"]
pub struct Consequence(Draft, String);

impl Draft {
    /// Says what follows: the state after the failure, and what continues.
    pub fn follows(self, consequences: impl Into<String>) -> Consequence {
        Consequence(self, consequences.into())
    }

    /// Says that the request left everything as it was.
    pub fn nothing_changed(self) -> Consequence {
        self.follows("Nothing was changed.")
    }

    /// Says that the request to read something has no result.
    pub fn nothing_returned(self) -> Consequence {
        self.follows("No data was returned.")
    }

    /// Says that the rollout failed and the deployment before it stays in force.
    pub fn not_rolled_out(self) -> Consequence {
        self.follows("Any former deployment stays in force.")
    }
}

impl Consequence {
    /// Says what to do: the command or the setting that helps.
    pub fn fix(self, countermeasures: impl Into<String>) -> Problem {
        let Self(Draft { code, what, why }, consequences) = self;
        Problem {
            code,
            what,
            why,
            consequences,
            countermeasures: countermeasures.into(),
            kind: code.kind(),
            fault: code.fault(),
        }
    }

    /// Says that no action is needed, and what Holdfast does: "Holdfast recreates the CronJob and retries."
    pub fn no_action(self, holdfast: impl fmt::Display) -> Problem {
        self.fix(format!("No action needed: {holdfast}"))
    }
}

impl Problem {
    /// Begins a problem: what happened, with the name of the thing, and why, with the limit or the cause.
    #[expect(clippy::new_ret_no_self, reason = "the third and the fourth sentence follow")]
    pub fn new(code: Code, what: impl Into<String>, why: impl Into<String>) -> Draft {
        Draft { code, what: what.into(), why: why.into() }
    }

    /// The four sentences.
    pub fn sentences(&self) -> [&str; 4] {
        [&self.what, &self.why, &self.consequences, &self.countermeasures]
    }

    /// The same problem as a platform error: it can pass without a change by the user.
    #[must_use]
    pub fn of_platform(mut self) -> Self {
        self.fault = Fault::Platform;
        self
    }

    /// The same problem with another third sentence.
    #[must_use]
    pub fn follows(mut self, consequences: impl Into<String>) -> Self {
        self.consequences = consequences.into();
        self
    }

    /// The same problem with another fourth sentence.
    #[must_use]
    pub fn fix(mut self, countermeasures: impl Into<String>) -> Self {
        self.countermeasures = countermeasures.into();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentences = self.sentences();
        let shown = if f.alternate() { &sentences[..] } else { &sentences[..2] };
        f.write_str(&shown.join(" "))
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_in_two_sentences_and_in_four_when_all_of_it_is_asked_for() {
        let problem = Problem::new(Code::JobNotFound, "What.", "Why.").follows("So.").fix("Then.");
        assert_eq!(problem.to_string(), "What. Why.");
        assert_eq!(format!("{problem:#}"), "What. Why. So. Then.");
    }

    #[test]
    fn a_problem_has_the_kind_and_the_fault_of_its_code() {
        let problem =
            Problem::new(Code::ClusterUnreachable, "What.", "Why.").nothing_changed().no_action("Holdfast retries.");
        assert_eq!((problem.kind, problem.fault), (Kind::Unavailable, Fault::Platform));
        assert_eq!(problem.countermeasures, "No action needed: Holdfast retries.");
    }

    #[test]
    fn a_problem_that_was_stored_before_there_were_codes_is_read_as_unspecified() {
        let stored =
            r#"{"what":"A.","why":"B.","consequences":"C.","countermeasures":"D.","kind":"conflict","fault":"user"}"#;
        let problem: Problem = serde_json::from_str(stored).unwrap();
        assert_eq!((problem.code, problem.kind), (Code::Unspecified, Kind::Conflict));
        let with_code = serde_json::to_value(&problem).unwrap();
        assert_eq!(with_code["code"], "unspecified");
    }
}
