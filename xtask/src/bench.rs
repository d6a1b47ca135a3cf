//! `cargo xtask bench`

use std::path::PathBuf;

use anyhow::Result;
use devtools::{
    binary::{self, Profile},
    client,
};

/// How much to measure.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// How many jobs the memory is measured with.
    #[arg(long, default_value_t = 1_000)]
    jobs: u32,
    /// How often each latency is measured.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
}

/// Other measurements.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Lists, reads and starts on generated fleets.
    Api {
        /// On which database.
        #[arg(long, default_value = "both", value_parser = ["sqlite", "postgres", "both"])]
        database: String,
        /// The sizes of the fleets, with commas between.
        #[arg(long, default_value = "1000,10000,100000")]
        jobs: String,
        /// How many executions each deployed job has.
        #[arg(long, default_value_t = 20)]
        runs: u32,
        /// How long each request is repeated by each number of clients.
        #[arg(long, default_value_t = 2)]
        seconds: u32,
        /// Only the requests whose name contains this, and nothing else.
        #[arg(long)]
        only: Option<String>,
        /// A checkout of another commit, which is built and measured in turn with this one.
        #[arg(long)]
        against: Option<PathBuf>,
        /// A folder with another build, `holdfast` and the example `fill` of `store`, which is measured so instead.
        #[arg(long, conflicts_with = "against")]
        against_built: Option<PathBuf>,
    },
    /// Resident memory under worst-case requests of each kind.
    Memory {
        /// Another build to measure, such as one of an older commit.
        #[arg(long)]
        binary: Option<PathBuf>,
        /// Requests of each kind at once.
        #[arg(long, default_value_t = 32)]
        requests: u32,
        /// How many jobs the lists and the metrics endpoint have.
        #[arg(long, default_value_t = 2_000)]
        jobs: u32,
        /// How many levels of fragments the GraphQL attack has.
        #[arg(long, default_value_t = 16)]
        fragments: u32,
        /// Only the kinds whose name contains this.
        #[arg(long, default_value = "")]
        only: String,
    },
    /// One round of retention on a generated fleet, with a writer beside it.
    Retention {
        /// On which database.
        #[arg(long, default_value = "both", value_parser = ["sqlite", "postgres", "both"])]
        database: String,
        /// How many jobs there are; nine in ten have executions.
        #[arg(long, default_value_t = 10_000)]
        jobs: u32,
        /// How many executions each of these has.
        #[arg(long, default_value_t = 112)]
        runs: u32,
        /// Measure a debug build, which is made sooner.
        #[arg(long)]
        debug: bool,
    },
    /// How images of jobs are assembled, beside buildah.
    Image {
        /// How often each step is measured.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// How a real cluster follows the database, at many deployments.
    Sync {
        /// How many deployments there are.
        #[arg(long, default_value_t = 10_000)]
        deployments: u32,
        /// On which database.
        #[arg(long, default_value = "sqlite", value_parser = ["sqlite", "postgres"])]
        database: String,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.part {
        None => {
            client::install()?;
            let (jobs, rounds) = (options.jobs.to_string(), options.rounds.to_string());
            bench("bench", &["--jobs", &jobs, "--rounds", &rounds])
        }
        Some(Part::Api { database, jobs, runs, seconds, only, against, against_built }) => {
            client::install()?;
            let (runs, seconds) = (runs.to_string(), seconds.to_string());
            let arguments = ["--database", database, "--jobs", jobs, "--runs", &runs, "--seconds", &seconds];
            let only: Vec<&str> = only.iter().flat_map(|only| ["--only", only]).collect();
            let others = [("--against", against), ("--against-built", against_built)];
            let others: Vec<(&str, String)> = others
                .into_iter()
                .filter_map(|(flag, path)| Some((flag, path.as_ref()?.to_string_lossy().into_owned())))
                .collect();
            let others: Vec<&str> = others.iter().flat_map(|(flag, path)| [*flag, path.as_str()]).collect();
            bench("bench_api", &[&arguments[..], &only, &others].concat())
        }
        Some(Part::Memory { binary, requests, jobs, fragments, only }) => {
            client::install()?;
            let (requests, jobs, fragments) = (requests.to_string(), jobs.to_string(), fragments.to_string());
            let arguments = ["--requests", &requests, "--jobs", &jobs, "--fragments", &fragments, "--only", only];
            let binary = binary.as_ref().map(|path| path.to_string_lossy().into_owned());
            let binary: Vec<&str> = binary.iter().flat_map(|path| ["--binary", path]).collect();
            bench("bench_memory", &[&arguments[..], &binary].concat())
        }
        Some(Part::Retention { database, jobs, runs, debug }) => {
            let (jobs, runs) = (jobs.to_string(), runs.to_string());
            let arguments = ["--database", database, "--jobs", &jobs, "--runs", &runs];
            let profile: &[&str] = if *debug { &[] } else { &["--release"] };
            let run = ["run", "--quiet", "--package", "e2e", "--bin", "bench_retention"];
            super::run_cargo(&[&run[..], profile, &["--"], &arguments].concat(), &[])
        }
        Some(Part::Image { rounds }) => bench("bench_image", &["--rounds", &rounds.to_string()]),
        Some(Part::Sync { deployments, database }) => {
            bench("bench_sync", &["--deployments", &deployments.to_string(), "--database", database])
        }
    }
}

/// Runs one of the programs that measure, on a release build.
fn bench(program: &str, arguments: &[&str]) -> Result<()> {
    let built = binary::path(Profile::Release)?;
    let run = ["run", "--quiet", "--package", "e2e", "--bin", program, "--"];
    super::run_cargo(&[&run[..], arguments].concat(), &[("HOLDFAST_BIN", &built.to_string_lossy())])
}
