//! `cargo xtask demo`: compiles Holdfast and runs its own demo.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context, Result};
use devtools::{
    binary, cache, environment,
    progress::{self, Work},
    web,
};

/// How the demo runs.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// End after the execution, instead of leaving the service up until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Keep the data folder and the sample job.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: Options) -> Result<()> {
    if environment::variable("HOLDFAST_BIN").is_none() {
        web::build()?;
    }
    let compiling = Work::new("compiling Holdfast, once");
    let binary = progress::during_work(&compiling, |work| {
        binary::path_for_demo(|crates| work.at(format_args!("{crates} crates so far")))
    })?;
    let mut demo = Command::new(&binary);
    demo.arg("demo").arg("--cache-dir").arg(cache::service_folder()?);
    demo.args(options.once.then_some("--once")).args(options.keep.then_some("--keep"));
    // It replaces this process, so that signals and the exit code are its own.
    Err(demo.exec()).with_context(|| format!("{} can't be started", binary.display()))
}
