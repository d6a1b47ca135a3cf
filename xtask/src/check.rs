//! `cargo xtask check`

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use devtools::{
    cache,
    environment::workspace,
    progress::{self, say, seconds},
};

use super::run_cargo;

/// The parts to leave out.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Leave out licences, sources, bans and advisories of dependencies.
    #[arg(long, conflicts_with = "advisories")]
    no_audit: bool,
    /// Whether the check fails when the database of advisories can't be fetched.
    #[arg(long, value_enum, default_value_t = Advisories::IfReachable)]
    advisories: Advisories,
}

/// The result of the check if the database of advisories can't be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Advisories {
    /// It fails: for machines that reach the database, such as those that build releases.
    Required,
    /// It warns that advisories were not checked.
    IfReachable,
}

/// The version of cargo-deny that is installed; a newer one can judge otherwise.
const CARGO_DENY: &str = "0.20.2";

pub(crate) fn run(options: Options) -> Result<()> {
    let begun = Instant::now();
    run_cargo(&["fmt", "--all", "--check"], &[])?;
    run_cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    // The whole workspace is chosen, so that nothing is compiled with other features than for the tests.
    run_cargo(&["test", "--workspace", "--test", "architecture"], &[])?;
    run_cargo(
        &["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    if options.no_audit {
        say("· dependencies were not audited, as asked");
    } else {
        audit(options.advisories)?;
    }
    say(format_args!("✓ all checks passed ({})", seconds(begun.elapsed())));
    Ok(())
}

/// Licences, sources and bans need no more than the packages themselves; advisories are a database that has to be fetched.
fn audit(advisories: Advisories) -> Result<()> {
    let tool = cargo_deny()?;
    let deny = |arguments: &[&str]| -> Result<bool> {
        let status = Command::new(&tool)
            .arg("deny")
            .args(arguments)
            .current_dir(workspace())
            .stdin(Stdio::null())
            .status()
            .context("cargo-deny cannot be started")?;
        Ok(status.success())
    };
    say("· cargo deny check bans licenses sources");
    if !deny(&["check", "--hide-inclusion-graph", "bans", "licenses", "sources"])? {
        bail!("the audit of dependencies failed; deny.toml has the rules");
    }
    let fetched = progress::during("fetching the database of advisories", || {
        let output = Command::new(&tool)
            .args(["deny", "fetch", "db"])
            .current_dir(workspace())
            .stdin(Stdio::null())
            .output()
            .context("cargo-deny cannot be started")?;
        Ok(output.status.success())
    })?;
    if !fetched && advisories == Advisories::Required {
        bail!("advisories were not checked: their database can't be fetched, and --advisories required was given");
    }
    if !fetched {
        say("! advisories were NOT checked: their database can't be reached from here");
    } else if !deny(&["check", "--disable-fetch", "--hide-inclusion-graph", "advisories"])? {
        bail!("there are advisories against dependencies; they are named above");
    }
    Ok(())
}

/// The tool in `PATH`, else the one in the cache, which is compiled once.
fn cargo_deny() -> Result<PathBuf> {
    let starts = |tool: &PathBuf| {
        Command::new(tool)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let installed = PathBuf::from("cargo-deny");
    if starts(&installed) {
        return Ok(installed);
    }
    let root = cache::folder()?.join("tools");
    let cached = root.join("bin/cargo-deny");
    let _lock = cache::lock("tools")?;
    if !starts(&cached) {
        say("· cargo-deny is compiled into the cache, once; `cargo xtask check --no-audit` goes without");
        let root = root.to_string_lossy();
        run_cargo(&["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--root", &root], &[])?;
    }
    Ok(cached)
}
