//! Measures the resident memory of a release build under worst-case requests, and prints Markdown for
//! `docs/benchmarks.md`.

#![expect(clippy::print_stdout, reason = "its figures are its output")]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use devtools::progress::say;
use e2e::{
    api::Api,
    hostile::{self, SlowReader},
    issuer::Issuer,
    job::Job,
    measure::{Fleet, Rollouts, load, memory},
    service::{Options, Service},
    vdk,
};
use reqwest::{Client, Method};
use serde_json::json;
use testing::Database;

const MIB: usize = 1024 * 1024;

/// How long one request may take before it counts as failed.
const LONGEST: Duration = Duration::from_secs(120);

/// How long the service rests before its memory afterwards is read.
const REST: Duration = Duration::from_secs(15);

/// The largest page that a client of the contract asks for, with all that it shows.
const PAGE: &str = "query($size: Int) { jobs(pageNumber: 1, pageSize: $size) { content { jobName config { team \
    description schedule { scheduleCron } } deployments { id enabled status lastDeployedDate executions(pageNumber: 1, \
    pageSize: 10) { id status startTime endTime message } } } totalItems } }";

#[derive(Debug, Parser)]
struct Arguments {
    /// Another build to measure.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Requests of each kind at once.
    #[arg(long, default_value_t = 32)]
    requests: usize,
    /// How many jobs the lists and the metrics endpoint have.
    #[arg(long, default_value_t = 2_000)]
    jobs: usize,
    /// How many levels of fragments the GraphQL attack has: a build without a limit takes twice the memory for each.
    #[arg(long, default_value_t = 16)]
    fragments: usize,
    /// How long readers that do not read, and bodies that never end, are kept, in seconds.
    #[arg(long, default_value_t = 20)]
    hold_seconds: u64,
    /// Only the kinds whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// Stands for the status of a connection that is open and has no response.
const NO_RESPONSE: u16 = 0;

/// The outcome of the requests of one kind.
#[derive(Debug, Default)]
struct Outcomes {
    statuses: BTreeMap<u16, usize>,
    failed: usize,
}

impl Outcomes {
    fn add(&mut self, status: Option<u16>) {
        match status {
            Some(status) => *self.statuses.entry(status).or_default() += 1,
            None => self.failed += 1,
        }
    }

    fn shown(&self) -> String {
        let named = |status: u16| if status == NO_RESPONSE { "no response".into() } else { status.to_string() };
        let all: Vec<_> = self.statuses.iter().map(|(status, count)| format!("{count} × {}", named(*status))).collect();
        if all.is_empty() { "none".into() } else { all.join(", ") }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("{}\n", load());
    println!("| kind | requests | responses | failed connections | at rest before | peak | at rest after | seconds |");
    println!("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |");
    graphql(&arguments).await?;
    uploads(&arguments).await?;
    downloads(&arguments).await?;
    json_bodies(&arguments).await?;
    keyed(&arguments).await?;
    metrics(&arguments).await?;
    logs(&arguments).await
}

impl Arguments {
    fn wants(&self, kind: &str) -> bool {
        kind.contains(&self.only)
    }

    fn options(&self) -> Options {
        Options { binary: self.binary.clone(), ..Options::default().set("HOLDFAST_LOG", "error") }
    }

    fn hold(&self) -> Duration {
        Duration::from_secs(self.hold_seconds)
    }

    /// Sends the requests of a kind at once, and prints its line. `one` keeps what it holds until all of them are there.
    async fn measure<F, T>(&self, kind: &str, service: &mut Service, one: impl Fn(usize) -> F) -> Result<()>
    where
        F: Future<Output = (Option<u16>, T)> + Send + 'static,
        T: Send + 'static,
    {
        say(format_args!("· {kind}"));
        let process = service.process().id();
        // From here on the peak counts again; where that is not allowed, it is the peak since the start.
        let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
        let (before, _) = memory(process)?;
        let begun = Instant::now();
        let sent: Vec<_> = (0..self.requests).map(|number| tokio::spawn(one(number))).collect();
        let (mut outcomes, mut held) = (Outcomes::default(), Vec::new());
        for each in sent {
            let (status, holds) = each.await?;
            outcomes.add(status);
            held.push(holds);
        }
        let took = begun.elapsed();
        ensure!(service.is_running(), "{kind}: the service ended\n{}", service.log());
        let (_, peak) = memory(process)?;
        drop(held);
        tokio::time::sleep(REST).await;
        let (after, _) = memory(process)?;
        println!(
            "| {kind} | {} | {} | {} | {before:.0} MiB | **{peak:.0} MiB** | {after:.0} MiB | {:.0} |",
            self.requests,
            outcomes.shown(),
            outcomes.failed,
            took.as_secs_f64()
        );
        Ok(())
    }
}

fn http() -> Result<Client> {
    Ok(Client::builder().no_proxy().timeout(LONGEST).pool_max_idle_per_host(0).build()?)
}

/// Sends a request and reads its response to the end.
async fn status(request: reqwest::RequestBuilder) -> (Option<u16>, ()) {
    let Ok(response) = request.send().await else { return (None, ()) };
    let status = response.status().as_u16();
    (response.bytes().await.is_ok().then_some(status), ())
}

async fn graphql(arguments: &Arguments) -> Result<()> {
    let many = |count: usize| {
        let pages: Vec<_> = (0..count)
            .map(|number| {
                format!(
                    "a{number}: jobs(pageNumber: 1, pageSize: 1000) {{ content {{ jobName deployments {{ \
                    executions(pageNumber: 1, pageSize: 100) {{ id deployment {{ id jobVersion }} }} }} }} }}"
                )
            })
            .collect();
        format!("{{ {} }}", pages.join(" "))
    };
    let patterns: Vec<_> =
        (0..400).map(|_| json!({"property": "config.description", "pattern": "*a*b*c*d*e*"})).collect();
    let predicates =
        "query($filter: [Predicate]) { jobs(pageNumber: 1, pageSize: 10, filter: $filter) { totalItems } }";
    let documents = [
        ("GraphQL: a page of 100 jobs", json!({"query": PAGE, "variables": {"size": 100}})),
        ("GraphQL: a page of 1,000 jobs", json!({"query": PAGE, "variables": {"size": 1000}})),
        ("GraphQL: one page with 100 executions of each job", json!({"query": many(1)})),
        ("GraphQL: 14 such pages", json!({"query": many(14)})),
        ("GraphQL: nested fragments", json!({"query": hostile::fragments(arguments.fragments)})),
        ("GraphQL: 400 patterns", json!({"query": predicates, "variables": {"filter": patterns}})),
    ];
    for (kind, body) in documents.into_iter().filter(|(kind, _)| arguments.wants(kind)) {
        let mut fleet = Fleet::start(Database::Sqlite, arguments.jobs, 20, Rollouts::Done, arguments.options())?;
        let (http, url) = (http()?, format!("{}/data-jobs/graphql", fleet.service.url()));
        let body = body.to_string();
        let send = |_| status(http.post(&url).header("content-type", "application/json").body(body.clone()));
        arguments.measure(kind, &mut fleet.service, send).await?;
    }
    Ok(())
}

/// Makes an archive.
type Archive = fn() -> Vec<u8>;

async fn uploads(arguments: &Arguments) -> Result<()> {
    let kinds: [(&str, Archive); 3] = [
        ("uploads: 256 MiB of zeros in 260 KB", || hostile::zeros(256)),
        ("uploads: an archive of 600,000 entries", || hostile::entries(600_000)),
        ("uploads: 32 MiB of noise", || hostile::noise(32 * MIB - 1024, 1)),
    ];
    for (kind, archive) in kinds.into_iter().filter(|(kind, _)| arguments.wants(kind)) {
        let mut service = Service::try_start(arguments.options())?;
        let api = service.api();
        for number in 0..arguments.requests {
            let _ = api.create(&format!("upload-{number}")).await.ok();
        }
        let (http, archive) = (http()?, shared(archive()));
        let send = |number| {
            let url = api.url(&format!("/jobs/upload-{number}/sources"));
            status(http.post(url).header("content-type", "application/octet-stream").body(archive.clone()))
        };
        arguments.measure(kind, &mut service, send).await?;
    }
    Ok(())
}

/// Bytes that requests share.
fn shared(bytes: Vec<u8>) -> axum::body::Bytes {
    bytes.into()
}

/// Reads the status of a response, and keeps the connection without reading for some time.
async fn unread(url: String, hold: Duration) -> (Option<u16>, Option<SlowReader>) {
    let begun = Instant::now();
    let Ok(reader) = SlowReader::get(&url, LONGEST).await else { return (None, None) };
    tokio::time::sleep(hold.saturating_sub(begun.elapsed())).await;
    (Some(reader.status.unwrap_or(NO_RESPONSE)), Some(reader))
}

async fn downloads(arguments: &Arguments) -> Result<()> {
    const KIND: &str = "downloads: 32 MiB of sources, readers that do not read";
    if !arguments.wants(KIND) {
        return Ok(());
    }
    let mut service = Service::try_start(arguments.options())?;
    let api = service.api();
    let _ = api.create("download").await.ok();
    let _ = api.upload("download", hostile::noise(32 * MIB - 1024, 1)).await.ok();
    // Its memory of the upload is no part of it.
    tokio::time::sleep(REST).await;
    let hold = arguments.hold();
    arguments.measure(KIND, &mut service, |_| unread(api.url("/jobs/download/sources"), hold)).await
}

async fn json_bodies(arguments: &Arguments) -> Result<()> {
    const WHOLE: &str = "JSON: whole bodies of 2 MiB";
    const HALF: &str = "JSON: half-sent bodies of 2 MiB";
    let elements = "[],".repeat((2 * MIB - 400) / 3);
    let body = format!("{{\"job_name\":\"many-values\",\"ignored\":[{elements}0]}}");
    for kind in [WHOLE, HALF].into_iter().filter(|kind| arguments.wants(kind)) {
        let mut service = Service::try_start(arguments.options())?;
        let url = service.api().url("/jobs?name=many-values");
        if kind == WHOLE {
            let http = http()?;
            let send = |_| status(http.post(&url).header("content-type", "application/json").body(body.clone()));
            arguments.measure(kind, &mut service, send).await?;
        } else {
            let (body, hold) = (Arc::new(body.clone()), arguments.hold());
            let send = |_| half(url.clone(), "Content-Type: application/json\r\n", 2 * MIB, Arc::clone(&body), hold);
            arguments.measure(kind, &mut service, send).await?;
        }
    }
    Ok(())
}

/// Sends a body up to its last KiB, and keeps the connection for some time.
async fn half(
    url: String,
    headers: &'static str,
    announced: usize,
    body: Arc<String>,
    hold: Duration,
) -> (Option<u16>, Option<tokio::net::TcpStream>) {
    let part = &body.as_bytes()[..body.len().min(announced - 1024)];
    match hostile::half_sent(&url, headers, announced, part, hold).await {
        Ok((connection, status)) => (Some(status.unwrap_or(NO_RESPONSE)), Some(connection)),
        Err(_) => (None, None),
    }
}

async fn keyed(arguments: &Arguments) -> Result<()> {
    const HEADERS: &str = "Content-Type: application/octet-stream\r\nIdempotency-Key: a-key\r\n";
    let kinds = [
        ("keyed POSTs: half-sent 31 MiB, without a token", "/data-jobs/oauth2/token"),
        ("keyed POSTs: half-sent 31 MiB, to another open route", "/data-jobs/oauth-credentials/client-ids"),
    ];
    for (kind, path) in kinds.into_iter().filter(|(kind, _)| arguments.wants(kind)) {
        let issuer = Issuer::start().await;
        let mut service = Service::try_start(issuer.trusted(arguments.options()))?;
        let url = format!("{}{path}", service.url());
        let (body, hold) = (Arc::new("x".repeat(31 * MIB)), arguments.hold());
        let send = |_| half(url.clone(), HEADERS, 31 * MIB, Arc::clone(&body), hold);
        arguments.measure(kind, &mut service, send).await?;
    }
    Ok(())
}

async fn metrics(arguments: &Arguments) -> Result<()> {
    const KIND: &str = "metrics: readers that do not read";
    if !arguments.wants(KIND) {
        return Ok(());
    }
    let mut fleet = Fleet::start(Database::Sqlite, arguments.jobs, 1, Rollouts::Done, arguments.options())?;
    let api = fleet.service.api();
    // A series for each method, route and status that was seen.
    for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        for path in ["", "/jobs", "/jobs/a/keytab", "/jobs/a/sources", "/jobs/a/deployments", "/jobs/a/executions"] {
            let _ = api.try_send_to(method.clone(), &api.url(path), None).await;
        }
    }
    let (url, hold) = (format!("{}/data-jobs/debug/prometheus", fleet.service.url()), arguments.hold());
    arguments.measure(KIND, &mut fleet.service, |_| unread(url.clone(), hold)).await
}

async fn logs(arguments: &Arguments) -> Result<()> {
    const ENDED: &str = "logs: 4 MiB of an ended execution, readers that do not read";
    const RUNNING: &str = "logs: 4 MiB of a running execution, readers that do not read";
    if !arguments.wants(ENDED) && !arguments.wants(RUNNING) {
        return Ok(());
    }
    vdk::client();
    let mut service = Service::try_start(arguments.options())?;
    let api = service.api();
    let print = "for number in range(41_000): print('x' * 99)\nsys.stdout.flush()\n";
    let ended = run(&api, &Job::new("ended-job").step("10_print.py", print)).await?;
    let _ = api.ended("ended-job", &ended).await;
    let waits = format!("{print}print('all of it is there', flush=True)\ntime.sleep(900)\n");
    let running = run(&api, &Job::new("running-job").step("10_print.py", &waits)).await?;
    let _ = api.log_says("running-job", &running, "all of it is there").await;
    let hold = arguments.hold();
    for (kind, job, id) in [(ENDED, "ended-job", &ended), (RUNNING, "running-job", &running)] {
        if arguments.wants(kind) {
            tokio::time::sleep(REST).await;
            let url = api.url(&format!("/jobs/{job}/executions/{id}/logs"));
            arguments.measure(kind, &mut service, |_| unread(url.clone(), hold)).await?;
        }
    }
    let _ = api.cancel("running-job", &running).await;
    let _ = api.ended("running-job", &running).await;
    Ok(())
}

/// Deploys a job and starts it.
async fn run(api: &Api, job: &Job) -> Result<String> {
    api.deployed(job).await;
    let answer = api.start(job.name()).await.is(202);
    let id = answer.location_id();
    ensure!(!id.is_empty(), "no execution");
    Some(id).context("an execution")
}
