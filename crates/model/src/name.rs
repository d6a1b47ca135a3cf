//! Names that are checked once, when they come in.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Problem, problem::Code};

/// The name of a data job: 6 to 50 characters, a lower-case letter first, then lower-case letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobName(String);

impl JobName {
    /// The fewest characters that a name has.
    pub const MIN_CHARS: usize = 6;
    /// The most characters that a name has.
    pub const MAX_CHARS: usize = 50;

    /// Checks a name. [`crate::problem::Kind::Invalid`] says which rule it breaks.
    pub fn parse(raw: &str) -> Result<Self, Problem> {
        let length = raw.chars().count();
        let why = if !(Self::MIN_CHARS..=Self::MAX_CHARS).contains(&length) {
            format!("A name has {} to {} characters; this one has {length}.", Self::MIN_CHARS, Self::MAX_CHARS)
        } else if !raw.starts_with(|c: char| c.is_ascii_lowercase()) {
            "A name starts with a lower-case letter from a to z.".into()
        } else if let Some(bad) = raw.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
            format!("A name has lower-case letters, digits and hyphens only; this one has {bad:?}.")
        } else {
            return Ok(Self(raw.to_owned()));
        };
        Err(Problem::new(Code::JobNameInvalid, format!("The data job name {} is not valid.", excerpt(raw)), why)
            .nothing_changed()
            .fix("Choose a name such as \"daily-sales-report\"."))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a team: 1 to 100 characters without control characters or slashes; spaces are fine inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TeamName(String);

impl TeamName {
    /// The most characters that a name has.
    pub const MAX_CHARS: usize = 100;

    /// Checks a name. [`crate::problem::Kind::Invalid`] says which rule it breaks.
    pub fn parse(raw: &str) -> Result<Self, Problem> {
        let why = if raw.trim().is_empty() {
            "A team name is not empty.".to_owned()
        } else if raw.trim() != raw {
            "A team name neither starts nor ends with white space.".into()
        } else if raw.chars().count() > Self::MAX_CHARS {
            format!("A team name has at most {} characters.", Self::MAX_CHARS)
        } else if raw.chars().any(|c| c.is_control() || c == '/' || c == '\\') {
            "A team name has no control characters and no slashes.".into()
        } else {
            return Ok(Self(raw.to_owned()));
        };
        Err(Problem::new(Code::TeamNameInvalid, format!("The team name {} is not valid.", excerpt(raw)), why)
            .nothing_changed()
            .fix("Choose a name such as \"Team One\"."))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The key of a data job that outlives renames of its team and is never reused after a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

/// The id of an execution: `<job>-<epoch seconds>` for a manual execution, `<job>-<epoch minutes>`
/// for a scheduled one; a suffix makes it unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExecutionId(String);

impl ExecutionId {
    /// Takes an id that the service made, or one that a client names: 1 to 63 characters of `[a-z0-9-]`, so that it is
    /// also a safe file name and a valid object name.
    pub fn parse(raw: &str) -> Option<Self> {
        Self::fits(raw).then(|| Self(raw.to_owned()))
    }

    /// Takes a text of an id, without copying it.
    pub fn from_text(text: String) -> Option<Self> {
        Self::fits(&text).then_some(Self(text))
    }

    fn fits(raw: &str) -> bool {
        (1..=63).contains(&raw.len())
            && raw.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !raw.starts_with('-')
    }

    /// The id of a manual execution in this second, increased by `taken`.
    pub fn manual(job: &JobName, epoch_seconds: i64, taken: i64) -> Self {
        Self(format!("{job}-{}", epoch_seconds + taken))
    }

    /// The id of a scheduled execution, as the CronJob controller names it.
    pub fn scheduled(job: &JobName, tick_epoch_seconds: i64) -> Self {
        Self(format!("{job}-{}", tick_epoch_seconds.div_euclid(60)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! display_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_as_text!(JobName, TeamName, JobId, ExecutionId);

macro_rules! into_text {
    ($($name:ident),*) => {$(
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}
into_text!(JobName, TeamName, ExecutionId);

/// A user's text in quotes, shortened, fit for an error message.
pub fn excerpt(raw: &str) -> String {
    const MOST_CHARS: usize = 60;
    if raw.chars().count() > MOST_CHARS {
        format!("{:?}…", raw.chars().take(MOST_CHARS).collect::<String>())
    } else {
        format!("{raw:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_name_has_6_to_50_characters_of_the_pattern() {
        for good in ["abcdef", "a-----", "a12345", &"a".repeat(50)] {
            assert!(JobName::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["", "abcde", &"a".repeat(51), "Abcdef", "1abcdef", "-abcdef", "abc_def", "abc def", "abcdé-", "abcdef\n"]
        {
            let problem = JobName::parse(bad).unwrap_err();
            assert_eq!(problem.kind, crate::problem::Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn a_team_name_may_have_spaces_inside_and_no_slash() {
        for good in ["team", "my team", "Team Ä", "a"] {
            assert!(TeamName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", " ", " team", "team ", "a/b", "a\\b", "a\nb", &"t".repeat(101)] {
            assert!(TeamName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_execution_id_is_a_safe_file_name() {
        for bad in ["", "..", "a/b", "A", "-a", "a b", &"a".repeat(64)] {
            assert!(ExecutionId::parse(bad).is_none(), "{bad:?}");
        }
        let job = JobName::parse(&"j".repeat(50)).unwrap();
        assert!(ExecutionId::parse(ExecutionId::manual(&job, 1_795_000_000, 0).as_str()).is_some());
        assert_eq!(ExecutionId::scheduled(&job, 600).as_str(), format!("{job}-10"));
    }
}
