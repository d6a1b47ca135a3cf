//! The result of a check.

use serde::Serialize;

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Nothing has to be done.
    Ok {
        /// The facts.
        found: String,
    },
    /// The service works, but something should be changed.
    Warning {
        /// The fact.
        found: String,
        /// The command or the setting that changes it.
        fix: String,
    },
    /// The service can't work like this.
    Wrong {
        /// The fact.
        found: String,
        /// The command or the setting that fixes it.
        fix: String,
    },
    /// The configuration does not need it.
    Skipped {
        /// Why.
        found: String,
    },
}

impl Verdict {
    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self::Ok { found: found.into() }
    }

    pub(super) fn warning(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Warning { found: found.into(), fix: fix.into() }
    }

    pub(super) fn wrong(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Wrong { found: found.into(), fix: fix.into() }
    }

    pub(super) fn skipped(found: impl Into<String>) -> Self {
        Self::Skipped { found: found.into() }
    }
}
