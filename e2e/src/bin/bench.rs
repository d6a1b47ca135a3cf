//! Measures a release build through its API, and prints Markdown for `docs/benchmarks.md`.

#![expect(clippy::print_stdout, reason = "its figures are its output")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use devtools::progress::{say, seconds};
use e2e::{
    api::Api,
    job::Job,
    measure::{machine, memory, quantile},
    service::{Options, Service},
    wait::{let_pass, now_seconds, until},
};
use serde_json::{Value, json};

/// Figures of one machine, from one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many jobs the memory is measured with.
    #[arg(long, default_value_t = 1_000)]
    jobs: usize,
    /// How often each latency is measured.
    #[arg(long, default_value_t = 100)]
    rounds: usize,
}

/// Starts and runs are slow; their medians settle soon.
const STARTS: usize = 11;
const RUNS: usize = 15;
/// Between two runs, so that the end of one does not weigh on the start of the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How long nothing is asked before memory is read.
const REST: Duration = Duration::from_secs(5);
/// The pace at which a client looks whether a deployment is reached; it is part of what is measured.
const LOOK: Duration = Duration::from_millis(2);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let begun = Instant::now();
    let mut table = Table(Vec::new());

    say("· starts on an empty data folder");
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(Service::start().process().ready_after());
    }
    table.row("start to ready, empty data folder", &starts, None);

    let mut service = Service::start_with(Options::default().set("HOLDFAST_LOG", "warn"));
    let api = service.api();
    let_pass(REST).await;
    let idle = memory(service.process().id())?.0;
    table.figure("resident memory, idle", &format!("{idle:.1} MiB"), "");

    say("· deployments without installation");
    let job = probe(&service.beside());
    api.deployed(&job).await;
    table.row(
        "POST deployment → reached, no installation",
        &deployments(&api, &job, arguments.rounds).await,
        Some(200),
    );

    say("· runs, against bare `vdk run`");
    let (run, bare) = runs(&service, &api, &job).await?;
    table.row("POST execution → first line of the first step", &run, None);
    table.row("bare `vdk run` of the same job → the same line", &bare, None);
    table.differences("overhead of a run's start (differences of pairs; p50, and the middle half)", &run, &bare);

    say(format_args!("· {} jobs", arguments.jobs));
    let filled = fill(&api, arguments.jobs).await;
    table.figure(
        &format!("{} jobs created, uploaded, deployed and reached", arguments.jobs),
        &format!("{:.1} s", filled.as_secs_f64()),
        "",
    );
    let_pass(REST).await;
    table.figure(
        &format!("resident memory, {} jobs deployed", arguments.jobs),
        &format!("{:.1} MiB", memory(service.process().id())?.0),
        "",
    );
    let rounds = deployments(&api, &job, arguments.rounds).await;
    table.row(&format!("POST deployment → reached, among {} jobs", arguments.jobs), &rounds, Some(200));
    let mut restarts = Vec::new();
    for _ in 0..5 {
        service.stop();
        restarts.push(service.start_again());
    }
    table.row(&format!("start to ready, {} jobs deployed", arguments.jobs), &restarts, None);

    println!("{}\n", machine());
    table.print();
    say(format_args!("\nmeasured in {}", seconds(begun.elapsed())));
    Ok(())
}

struct Table(Vec<[String; 5]>);

impl Table {
    fn row(&mut self, what: &str, times: &[Duration], target_ms: Option<u32>) {
        let ms = |q| format!("{:.1} ms", 1000.0 * quantile(times, q).as_secs_f64());
        let target = target_ms.map_or(String::new(), |ms| format!("under {ms} ms"));
        self.0.push([what.into(), ms(0.5), ms(0.95), times.len().to_string(), target]);
    }

    fn figure(&mut self, what: &str, value: &str, target: &str) {
        self.0.push([what.into(), value.into(), String::new(), "1".into(), target.into()]);
    }

    /// The extra time of the first of each pair; the middle half beside it shows how much of that is noise.
    fn differences(&mut self, what: &str, longer: &[Duration], shorter: &[Duration]) {
        let mut all: Vec<f64> =
            longer.iter().zip(shorter).map(|(a, b)| 1000.0 * (a.as_secs_f64() - b.as_secs_f64())).collect();
        all.sort_by(f64::total_cmp);
        let (low, middle, high) = (all[all.len() / 4], all[all.len() / 2], all[all.len() * 3 / 4]);
        let half = format!("{low:.0} to {high:.0} ms");
        self.0.push([what.into(), format!("{middle:.0} ms"), half, all.len().to_string(), "under 100 ms".into()]);
    }

    fn print(&self) {
        println!("| what | p50 or value | p95 | measured | target |");
        println!("| --- | ---: | ---: | ---: | --- |");
        for row in &self.0 {
            println!("| {} |", row.join(" | "));
        }
    }
}

/// A job whose step writes down when and how it was started.
fn probe(folder: &Path) -> Job {
    let note = folder.join("note.json");
    let body = format!(
        "import json\n\
         now = time.time()\n\
         with open('{0}.new', 'w') as note: json.dump([now, sys.executable, dict(os.environ)], note)\n\
         os.rename('{0}.new', '{0}')",
        note.display()
    );
    Job::new("bench-job").step("10_step.py", &body)
}

async fn deployments(api: &Api, job: &Job, rounds: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for round in 0..rounds {
        job.put("note.txt", &format!("{} {round}", now_seconds()));
        let answer = api.upload(job.name(), job.archive()).await.ok().json();
        let version = answer["version_sha"].as_str().expect("version_sha").to_owned();
        let path = format!("/jobs/{}/deployments", job.name());
        let begun = Instant::now();
        let _ = api.post(&path, &json!({ "job_version": version })).await.ok();
        while api.get(&path).await.ok().json()[0]["job_version"] != version.as_str() {
            let_pass(LOOK).await;
        }
        times.push(begun.elapsed());
    }
    times
}

#[expect(clippy::disallowed_methods, reason = "compared with the clock that the step reads")]
fn clock() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

/// From the request, and from the start of the process, to the first line of the step.
async fn runs(service: &Service, api: &Api, job: &Job) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let note = service.beside().join("note.json");
    let read = || -> Result<(f64, PathBuf, BTreeMap<String, String>)> {
        let value: Value = serde_json::from_slice(&fs::read(&note)?)?;
        Ok((
            value[0].as_f64().context("a time")?,
            value[1].as_str().context("an interpreter")?.into(),
            serde_json::from_value(value[2].clone())?,
        ))
    };
    let (mut run, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let_pass(PAUSE).await;
        let asked = clock();
        let id = api.started(job.name()).await;
        api.has_status(job.name(), &id, "succeeded").await;
        let (at, python, variables) = read()?;
        run.push(Duration::from_secs_f64((at - asked).max(0.0)));

        fs::remove_file(&note)?;
        let folder = tempfile::tempdir()?;
        let vdk = python.with_file_name("vdk");
        let_pass(PAUSE).await;
        let asked = clock();
        let output = Command::new(&vdk)
            .args(["run", job.name()])
            .env_clear()
            .envs(variables)
            .env("VDK_TERMINATION_MESSAGE_WRITER_OUTPUT_FILE", folder.path().join("message"))
            .env("TMPDIR", folder.path())
            .env("VDK_TEMPORARY_WRITE_DIRECTORY", folder.path())
            .current_dir(job.parent())
            .output()
            .with_context(|| format!("{} can't be started", vdk.display()))?;
        ensure!(output.status.success(), "vdk run: {}", String::from_utf8_lossy(&output.stderr));
        let (at, ..) = read()?;
        bare.push(Duration::from_secs_f64((at - asked).max(0.0)));
    }
    Ok((run, bare))
}

async fn fill(api: &Api, jobs: usize) -> Duration {
    let begun = Instant::now();
    for number in 0..jobs {
        let job = Job::new(&format!("bench-job-{number:05}")).step("10_step.py", "pass");
        let _ = api.create(job.name()).await.ok();
        api.deploy(&job).await;
    }
    let query = "{ jobs(pageNumber: 1, pageSize: 1, filter: [{ property: \"deployments.enabled\", pattern: \"enabled\" }]) \
                 { content { jobName } totalItems } }";
    until(format!("{jobs} jobs are deployed"), Duration::from_secs(600), async || {
        let total = api.query(query).await.ok().json()["data"]["totalItems"].as_u64();
        (total >= u64::try_from(jobs).ok()).then_some(())
    })
    .await;
    begun.elapsed()
}
