//! The one place here that reads the environment.

use std::{ffi::OsString, path::PathBuf};

/// A variable that is set and not empty.
#[expect(clippy::disallowed_methods, reason = "a tool for developers has no configuration but its environment")]
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether a switch such as `HOLDFAST_TEST_LONG=1` is on.
pub fn is_on(name: &str) -> bool {
    variable(name).is_some_and(|value| value != "0" && value != "false")
}

/// The cargo that runs this, or the one in `PATH`.
pub fn cargo() -> OsString {
    variable("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The top folder of the workspace.
pub fn workspace() -> PathBuf {
    // This crate is two folders below it.
    let mut folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.pop();
    folder.pop();
    folder
}

/// The names of all variables that begin like this.
pub fn names(beginning: &str) -> Vec<OsString> {
    std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with(beginning)).collect()
}
