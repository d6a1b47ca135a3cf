//! The `holdfast` binary, as cargo builds it.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::environment::{cargo, variable, workspace};

/// How it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As tests and the demo use it.
    Dev,
    /// As it is shipped and measured.
    Release,
}

/// The path of the binary: the one that `HOLDFAST_BIN` names, else it is built.
///
/// # Errors
/// When it does not compile.
pub fn path(profile: Profile) -> Result<PathBuf> {
    match variable("HOLDFAST_BIN") {
        // Programs of tests run in the folders of their crates; a relative path is one from the top.
        Some(given) => Ok(workspace().join(given)),
        None => build(profile),
    }
}

/// Builds it and says where it is. Cargo shows its own progress.
///
/// # Errors
/// When it does not compile.
pub fn build(profile: Profile) -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    // The whole workspace is chosen, so that libraries get the same features as in `cargo test --workspace`.
    command.args(["build", "--workspace", "--bin", "holdfast", "--message-format=json-render-diagnostics"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let mut child = command
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo cannot be started")?;
    let messages = child.stdout.take().context("cargo has no output")?;
    let mut found = None;
    for line in BufReader::new(messages).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line?) else { continue };
        if message["target"]["name"] == "holdfast"
            && let Some(executable) = message["executable"].as_str()
        {
            found = Some(PathBuf::from(executable));
        }
    }
    if !child.wait()?.success() {
        bail!("holdfast does not compile; cargo's words are above");
    }
    found.context("cargo built no binary with the name holdfast")
}
