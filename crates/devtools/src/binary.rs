//! The `holdfast` binary, as cargo builds it.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::environment::{cargo, variable, workspace};

/// How it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As tests and the demo use it.
    Dev,
    /// As it is measured.
    Release,
    /// As it is shipped, with debug information.
    Dist,
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
    // The whole workspace is chosen, so that libraries get the same features as in `cargo test --workspace`.
    let mut arguments = vec!["build", "--workspace", "--bin", "holdfast"];
    match profile {
        Profile::Dev => {}
        Profile::Release => arguments.push("--release"),
        Profile::Dist => arguments.extend(["--profile", "dist"]),
    }
    let built = compile(&arguments)?.into_iter().find(|built| built.target == "holdfast");
    built.map(|built| built.path).context("cargo built no binary with the name holdfast")
}

/// A program that cargo has compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// The name of the target.
    pub target: String,
    /// The folder of its package.
    pub package: PathBuf,
    /// Whether it is a program of tests.
    pub is_test: bool,
    /// Where it is.
    pub path: PathBuf,
}

/// Runs a cargo command that compiles, and gives the programs that come of it. Cargo shows its own progress.
///
/// # Errors
/// When something does not compile.
pub fn compile(arguments: &[&str]) -> Result<Vec<Executable>> {
    let mut child = Command::new(cargo())
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo cannot be started")?;
    let messages = child.stdout.take().context("cargo has no output")?;
    let mut built = Vec::new();
    for line in BufReader::new(messages).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line?) else { continue };
        let Some(path) = message["executable"].as_str() else { continue };
        let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
        built.push(Executable {
            target: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
            package: manifest.parent().unwrap_or(manifest).to_owned(),
            is_test: message["profile"]["test"] == true,
            path: path.into(),
        });
    }
    if !child.wait()?.success() {
        bail!("`cargo {}` failed; cargo's words are above", arguments.join(" "));
    }
    Ok(built)
}
