//! `cargo xtask bench`

use anyhow::Result;
use xtask::{
    binary::{self, Profile},
    client,
};

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many jobs the memory is measured with.
    #[arg(long, default_value_t = 1_000)]
    jobs: u32,
    /// How often each latency is measured.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    client::install()?;
    let built = binary::path(Profile::Release)?;
    let (jobs, rounds) = (options.jobs.to_string(), options.rounds.to_string());
    super::run_cargo(
        &["run", "--quiet", "--package", "e2e", "--bin", "bench", "--", "--jobs", &jobs, "--rounds", &rounds],
        &[("HOLDFAST_BIN", &built.to_string_lossy())],
    )
}
