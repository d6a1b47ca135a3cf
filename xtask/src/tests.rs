//! `cargo xtask test`

use std::{thread, time::Instant};

use anyhow::Result;
use xtask::{
    binary::{self, Profile},
    client,
    environment::variable,
    progress::{say, seconds},
    promtool, schemathesis,
};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run what repeats and counts with its large counts.
    #[arg(long)]
    long: bool,
    /// Run only tests whose name contains one of these.
    filters: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    // Whatever takes long is made here, where its progress is seen; a test's output is held back.
    let client = client::install()?;
    say(format_args!("· stock client: {}", client.vdk().display()));
    schemathesis::install()?;
    promtool::install()?;
    let built = binary::path(Profile::Dev)?;
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    if !options.filters.is_empty() {
        arguments.push("--");
        arguments.extend(options.filters.iter().map(String::as_str));
    }
    // End-to-end tests wait more than they compute.
    let threads = match variable("RUST_TEST_THREADS") {
        Some(given) => given.to_string_lossy().into_owned(),
        None => thread::available_parallelism().map_or(2, usize::from).max(4).to_string(),
    };
    let built = built.to_string_lossy();
    let mut variables = vec![("HOLDFAST_BIN", &*built), ("RUST_TEST_THREADS", &threads)];
    if options.long {
        variables.push(("HOLDFAST_TEST_LONG", "1"));
    }
    let outcome = super::run_cargo(&arguments, &variables);
    say(format_args!("· tests took {}", seconds(begun.elapsed())));
    outcome
}
