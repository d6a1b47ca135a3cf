//! Measures one complete round of retention on a generated fleet, with a writer beside it, and prints Markdown for
//! `docs/benchmarks.md`.

#![expect(clippy::print_stdout, reason = "its figures are its output")]

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use devtools::environment::{cargo, workspace};
use e2e::measure::{Generator, Meter, Rollouts, load, machine, quantile};
use serde_json::Value;
use testing::{Database, Server};

/// Figures of one machine, from one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// On which database.
    #[arg(long, value_enum, default_value_t = Databases::Both)]
    database: Databases,
    /// How many jobs there are; nine in ten have executions.
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    /// How many executions each of these has, one an hour.
    #[arg(long, default_value_t = 112)]
    runs: usize,
    /// Executions of how many hours are kept.
    #[arg(long, default_value_t = 24)]
    keep_hours: u32,
    /// How many of its newest executions each job keeps.
    #[arg(long, default_value_t = 10)]
    keep_per_job: u32,
    /// A folder with the examples `fill` of `store` and `retention` of `sync`, where they were built before.
    #[arg(long)]
    examples: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Databases {
    Sqlite,
    Postgres,
    Both,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("{}\n", load());
    println!("| database | what | value |\n| --- | --- | ---: |");
    for database in [Database::Sqlite, Database::Postgresql] {
        match (arguments.database, database) {
            (Databases::Sqlite, Database::Postgresql) | (Databases::Postgres, Database::Sqlite) => {}
            _ => measure(database, &arguments)?,
        }
    }
    let build = if cfg!(debug_assertions) { "debug build" } else { "release build" };
    println!("\n{}", machine().replace("release build", build));
    Ok(())
}

fn measure(database: Database, arguments: &Arguments) -> Result<()> {
    let fresh = database.empty();
    let generator = Generator { checkout: &workspace(), built: arguments.examples.as_deref() };
    generator.fill(fresh.url(), arguments.jobs, arguments.runs, Rollouts::Done)?;
    if database == Database::Postgresql {
        // As the server does automatically some time later.
        fresh.psql("vacuum analyze");
    }
    let of_round = [fresh.url(), &arguments.keep_hours.to_string(), &arguments.keep_per_job.to_string()];
    let mut command = if let Some(folder) = &arguments.examples {
        Command::new(folder.join("retention"))
    } else {
        let mut command = Command::new(cargo());
        command.args(["run", "--quiet", "--package", "sync", "--example", "retention"]);
        // Built as this program is.
        command.args((!cfg!(debug_assertions)).then_some("--release")).arg("--");
        command
    };
    let mut measuring = command
        .args(of_round)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("the measuring program cannot be started")?;
    let mut output = BufReader::new(measuring.stdout.take().context("its output")?).lines();
    let mut input = measuring.stdin.take().context("its input")?;
    let mut next = || -> Result<String> { Ok(output.next().context("the measuring program ended")??) };
    ensure!(next()? == "waits", "the measuring program said something else");
    // Cargo becomes the program that it runs.
    let server = (database == Database::Postgresql).then(|| Server::shared().supervisor_id());
    let meter = Meter { service: measuring.id(), server };
    let before = meter.read()?;
    writeln!(input)?;
    let figures: Value = serde_json::from_str(&next()?)?;
    ensure!(next()? == "waits", "the measuring program said something else");
    let after = meter.read()?;
    drop(input);
    ensure!(measuring.wait()?.success(), "the measuring program failed");
    print(database, &figures, (after.0 - before.0, after.1 - before.1))
}

fn print(database: Database, figures: &Value, (own_ms, server_ms): (f64, f64)) -> Result<()> {
    let name = if database == Database::Sqlite { "SQLite" } else { "PostgreSQL" };
    let row = |what: &str, value: String| println!("| {name} | {what} | {value} |");
    let seconds = figures["seconds"].as_f64().context("seconds")?;
    row("the whole round", format!("{seconds:.1} s"));
    let mut longest: f64 = 0.0;
    for step in figures["steps"].as_array().context("steps")? {
        let kind = step["kind"].as_str().context("a kind")?;
        ensure!(step["failed"] == false, "{kind} failed");
        let step_longest = step["longest_ms"].as_f64().context("longest")?;
        longest = longest.max(step_longest);
        row(
            &format!("{kind}: removed, in transactions, at most in one, longest transaction"),
            format!("{}, {}, {}, {step_longest:.0} ms", step["removed"], step["transactions"], step["most_removed"]),
        );
    }
    row("longest write transaction", format!("{longest:.0} ms"));
    for (what, field) in
        [("50 writes a second without retention", "alone_ms"), ("50 writes a second beside it", "beside_ms")]
    {
        let times = figures[field].as_array().context("times")?;
        let times: Vec<Duration> = times
            .iter()
            .filter_map(Value::as_f64)
            .map(|ms| Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(Duration::MAX))
            .collect();
        if times.is_empty() {
            bail!("nothing was written");
        }
        let at = |share| quantile(&times, share).as_secs_f64() * 1000.0;
        row(
            &format!("{what}: p50 / p99 / longest, of {}", times.len()),
            format!("{:.1} / {:.1} / {:.0} ms", at(0.5), at(0.99), at(1.0)),
        );
    }
    row(
        "CPU time of the round and the writes (program + PostgreSQL)",
        format!("{:.1} s + {:.1} s", own_ms / 1000.0, server_ms / 1000.0),
    );
    Ok(())
}
