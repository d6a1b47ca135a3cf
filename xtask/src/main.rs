//! The one entry point for people and CI: `cargo xtask demo | web | check | test | bench | dist | image | chart | cluster`.

mod bench;
mod chart;
mod check;
mod cluster_command;
mod demo;
mod dist;
mod image;
mod tests;
mod web;

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;
use devtools::{
    environment::{cargo, workspace},
    progress::say,
};

/// Entry point of Holdfast: see it run, check it, test it, measure it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Start Holdfast on an empty data folder and take a data job from its creation to the log of its run.
    Demo(demo::Options),
    /// Build the web page, which the next compilation embeds.
    Web(web::Options),
    /// Check format, lints, the direction of dependencies, documentation, licences and advisories.
    Check(check::Options),
    /// Run all tests.
    Test(tests::Options),
    /// Measure, and print figures in Markdown.
    Bench(bench::Options),
    /// Compile the shipped files: the binary without symbols, and its debug information beside it.
    Dist(dist::Options),
    /// Assemble the image of the service from pinned Debian packages, without a container engine.
    Image(image::Options),
    /// Renew the generated parts of the Helm chart: the table of its README, and the settings in its schema.
    Chart,
    /// A Kubernetes cluster for tests, on this machine.
    Cluster(cluster_command::Options),
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Demo(options) => demo::run(options),
        Task::Web(options) => web::run(options),
        Task::Check(options) => check::run(options),
        Task::Test(options) => tests::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Dist(options) => dist::run(&options),
        Task::Image(options) => image::run(&options),
        Task::Chart => chart::run(),
        Task::Cluster(options) => cluster_command::run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("\nerror: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs cargo in the workspace, with its own output and progress.
fn run_cargo(arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    say(format_args!("· cargo {}", arguments.join(" ")));
    let status = Command::new(cargo())
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(workspace())
        .stdin(Stdio::null())
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status}); its words are above", arguments.join(" "));
    }
    Ok(())
}
