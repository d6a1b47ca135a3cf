//! The `holdfast` binary, as cargo builds it.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    cache,
    command::Log,
    environment::{cargo, variable, workspace},
};

/// How it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As tests and the demo use it.
    Dev,
    /// As it is measured.
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
    // The whole workspace is chosen, so that libraries get the same features as in `cargo test --workspace`.
    let mut arguments = vec!["build", "--workspace", "--bin", "holdfast"];
    match profile {
        Profile::Dev => {}
        Profile::Release => arguments.push("--release"),
    }
    holdfast_of(compile(&arguments)?)
}

/// Builds the release binary of another checkout, in that checkout's own target folder.
///
/// # Errors
/// When it does not compile.
pub fn build_at(checkout: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(cargo());
    cargo.args(["build", "--workspace", "--bin", "holdfast", "--release"]).env_remove("CARGO_TARGET_DIR");
    let built = compile_at(checkout, cargo.stdin(Stdio::null()).stdout(Stdio::piped()), |_| ())?;
    holdfast_of(built).with_context(|| format!("the checkout at {}", checkout.display()))
}

fn holdfast_of(built: Vec<Executable>) -> Result<PathBuf> {
    let built = built.into_iter().find(|built| built.target == "holdfast");
    built.map(|built| built.path).context("cargo built no binary with the name holdfast")
}

/// Builds the binary as it is shipped, by a linker for an old glibc, so that it runs on each distribution that has at least that one.
/// `compiler` is cargo-zigbuild, which needs `zig` in `path`.
///
/// # Errors
/// When it does not compile.
pub fn build_portable(compiler: &Path, path: &OsStr, target: &str, flags: &str) -> Result<PathBuf> {
    let mut command = Command::new(compiler);
    command.args(["zigbuild", "--workspace", "--bin", "holdfast", "--profile", "dist", "--locked", "--target", target]);
    command.env("PATH", path).env("CARGO_ENCODED_RUSTFLAGS", flags);
    let built = compile_at(&workspace(), command.stdin(Stdio::null()).stdout(Stdio::piped()), |_| ());
    holdfast_of(built.context("cargo zigbuild failed; its words are above")?)
}

/// The path of the binary for the demo, which is compiled as fast as possible, or the one that `HOLDFAST_BIN` names. `done` hears
/// how many crates are compiled, and cargo's own output is shown if it fails.
///
/// # Errors
/// When it does not compile.
pub fn path_for_demo(done: impl FnMut(usize)) -> Result<PathBuf> {
    if let Some(given) = variable("HOLDFAST_BIN") {
        return Ok(workspace().join(given));
    }
    let log = Log::begin(cache::folder()?.join("compile.log"))?;
    let mut cargo = Command::new(cargo());
    let command =
        log.collect(cargo.args(["build", "--profile", "demo", "--package", "holdfast", "--bin", "holdfast"]))?;
    let built = compile_with(command.stdout(Stdio::piped()), done).with_context(|| log.to_string())?;
    holdfast_of(built)
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
    let mut command = Command::new(cargo());
    compile_with(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()), |_| ())
        .with_context(|| format!("`cargo {}` failed; cargo's words are above", arguments.join(" ")))
}

/// The same with a command; `done` hears how many crates are compiled.
fn compile_with(command: &mut Command, done: impl FnMut(usize)) -> Result<Vec<Executable>> {
    compile_at(&workspace(), command, done)
}

/// The same in a checkout.
fn compile_at(checkout: &Path, command: &mut Command, mut done: impl FnMut(usize)) -> Result<Vec<Executable>> {
    let mut child = command
        .arg("--message-format=json-render-diagnostics")
        .current_dir(checkout)
        .spawn()
        .context("cargo cannot be started")?;
    let messages = child.stdout.take().context("cargo has no output")?;
    let (mut built, mut crates) = (Vec::new(), 0);
    for line in BufReader::new(messages).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line?) else { continue };
        if message["reason"] == "compiler-artifact" {
            crates += 1;
            done(crates);
        }
        let Some(path) = message["executable"].as_str() else { continue };
        let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
        built.push(Executable {
            target: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
            package: manifest.parent().unwrap_or(manifest).to_owned(),
            is_test: message["profile"]["test"] == true,
            path: path.into(),
        });
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo ended with {status}");
    }
    Ok(built)
}
