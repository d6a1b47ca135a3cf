//! The error that people read: what happened, why, what follows, what to do, and whose fault it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The request or the job has to change; trying again as it is won't help.
    User,
    /// Something that the service depends on failed; the service tries again by itself.
    Platform,
}

/// What sort of problem it is. A transport maps it to its own codes; nothing here knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The input breaks a rule.
    Invalid,
    /// Nobody is known by the credentials given.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// The thing named does not exist.
    NotFound,
    /// The present state forbids it: a name taken, a run active, a run already over.
    Conflict,
    /// The thing is not as the caller says that it must be.
    PreconditionFailed,
    /// It contradicts what the caller said before.
    IdempotencyConflict,
    /// The input is larger than a limit.
    TooLarge,
    /// More work is waiting than the service takes on.
    Overloaded,
    /// Something that the service needs can't be reached at the moment.
    Unavailable,
    /// A fault of the service itself.
    Internal,
}

/// Four sentences for a person, a [`Kind`] for a machine and a [`Fault`] for both.
///
/// The sentences are the wire format of the API's error body, and are stored with a rollout or an execution that failed.
/// They never carry a secret. `{}` shows the first two, `{:#}` all of them in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What happened.
    pub what: String,
    /// Why it happened.
    pub why: String,
    /// What follows from it.
    pub consequences: String,
    /// What to do now.
    pub countermeasures: String,
    /// What sort of problem it is.
    pub kind: Kind,
    /// Whose move it is.
    pub fault: Fault,
}

impl Problem {
    fn of(kind: Kind, fault: Fault, what: impl Into<String>, why: impl Into<String>) -> Self {
        let (consequences, countermeasures) = match fault {
            Fault::User => ("Nothing was changed.", "Correct the request and send it again."),
            Fault::Platform => (
                "The request was not carried out.",
                "Try again in a moment; if it goes on, tell the operator of this service.",
            ),
        };
        Self {
            what: what.into(),
            why: why.into(),
            consequences: consequences.into(),
            countermeasures: countermeasures.into(),
            kind,
            fault,
        }
    }

    /// The four sentences.
    pub fn sentences(&self) -> [&str; 4] {
        [&self.what, &self.why, &self.consequences, &self.countermeasures]
    }

    /// The input breaks a rule.
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::Invalid, Fault::User, what, why)
    }

    /// The thing named does not exist.
    pub fn not_found(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::NotFound, Fault::User, what, why)
    }

    /// The present state forbids it.
    pub fn conflict(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::Conflict, Fault::User, what, why)
    }

    /// The thing is not as the caller says that it must be.
    pub fn precondition_failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::PreconditionFailed, Fault::User, what, why)
    }

    /// It contradicts what the caller said before.
    pub fn idempotency_conflict(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::IdempotencyConflict, Fault::User, what, why)
    }

    /// The input is larger than a limit.
    pub fn too_large(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::TooLarge, Fault::User, what, why)
    }

    /// The caller may not do this.
    pub fn forbidden(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::Forbidden, Fault::User, what, why)
    }

    /// More work is waiting than the service takes on.
    pub fn overloaded(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::Overloaded, Fault::Platform, what, why)
    }

    /// Something that the service needs can't be reached at the moment.
    pub fn unavailable(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::Unavailable, Fault::Platform, what, why)
    }

    /// A fault of the service itself.
    pub fn internal(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of(Kind::Internal, Fault::Platform, what, why)
    }

    /// The same problem as one that passes without a change of what is asked for.
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
        let problem = Problem::invalid("What.", "Why.").follows("So.").fix("Then.");
        assert_eq!(problem.to_string(), "What. Why.");
        assert_eq!(format!("{problem:#}"), "What. Why. So. Then.");
    }
}
