//! `cargo xtask test`

use std::{
    process::Command,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Instant,
};

use anyhow::Result;
use devtools::{
    binary::{self, Profile},
    client,
    cluster::{self, Building},
    environment::variable,
    progress::{say, seconds},
    promtool, schemathesis,
};
use signal_hook::consts::SIGINT;

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
    if variable("HOLDFAST_TEST_KUBECONFIG").is_some() {
        return run_tests(options, begun);
    }
    // Ctrl-C ends cargo and its tests; what was begun for them is ended here.
    signal_hook::flag::register(SIGINT, Arc::new(AtomicBool::new(false)))?;
    let state = cluster::default_state()?;
    // Who brought one up before keeps it.
    let was_up = cluster::is_up(&state);
    // Compiling Kubernetes takes longest of all, so it begins first. A choice of tests may not need it; one that does has
    // it built.
    let building = if options.filters.is_empty() {
        let mut build = Command::new("nice");
        Some(Building::start(build.args(["-n", "10"]).arg(std::env::current_exe()?).args(["cluster", "build"]))?)
    } else {
        None
    };
    let outcome = run_tests(options, begun);
    let built = match building {
        Some(building) if outcome.is_ok() => building.finish(),
        // What failed without a cluster is told at once.
        given_up => {
            drop(given_up);
            Ok(())
        }
    };
    let ended = if was_up || !cluster::is_up(&state) { Ok(true) } else { cluster::down_unless_used(&state) };
    if let Ok(false) = ended {
        say("· the test cluster is left to another run; `cargo xtask cluster down` ends it");
    }
    outcome.and(built).and(ended.map(drop))
}

fn run_tests(options: &Options, begun: Instant) -> Result<()> {
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
