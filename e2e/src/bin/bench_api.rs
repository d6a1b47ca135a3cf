//! Measures lists, reads and starts of a release build on a generated fleet, and prints Markdown for
//! `docs/benchmarks.md`.

#![expect(clippy::print_stdout, reason = "its figures are its output")]

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};
use devtools::{binary, environment::workspace, progress::say};
use e2e::{
    measure::{Fleet, Generator, Meter, Rollouts, fleet_job, load, memory, quantile},
    service::Options,
    vdk,
};
use reqwest::Client;
use serde_json::{Value, json};
use testing::Database;

/// Figures of one machine, from one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// On which database.
    #[arg(long, value_enum, default_value_t = Databases::Both)]
    database: Databases,
    /// How many jobs the fleet has; several sizes are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    jobs: Vec<usize>,
    /// How many executions each deployed job has.
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// How long each request is repeated by each number of clients, in seconds for each fleet.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Only the requests whose name contains this, and nothing else.
    #[arg(long)]
    only: Option<String>,
    /// A checkout of another commit, which is built and measured in turn with this one on fleets of its own.
    #[arg(long)]
    against: Option<PathBuf>,
    /// A folder with another build that is measured so, with its programs `holdfast` and `fill`, the example of `store`.
    #[arg(long, conflicts_with = "against")]
    against_built: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Databases {
    Sqlite,
    Postgres,
    Both,
}

/// How long the stock client may take to list all jobs.
const LIST_MAX: Duration = Duration::from_secs(300);

/// In so many rounds the fleets are asked in turn, so that what else the machine does falls on all of them.
const ROUNDS: u32 = 4;

/// How many clients ask at once.
const CLIENTS: [usize; 3] = [1, 8, 32];

/// The operations page's list, as its GraphQL library sends it.
const PAGE: &str = "query jobsQuery($filter: [Predicate], $search: String, $pageNumber: Int, $pageSize: Int) { \
    jobs(pageNumber: $pageNumber, pageSize: $pageSize, filter: $filter, search: $search) { content { jobName config { \
    team description sourceUrl schedule { scheduleCron nextRunEpochSeconds __typename } contacts { notifiedOnJobSuccess \
    notifiedOnJobDeploy notifiedOnJobFailureUserError notifiedOnJobFailurePlatformError __typename } __typename } \
    deployments { id enabled lastDeployedDate lastDeployedBy lastExecutionStatus lastExecutionTime \
    lastExecutionDuration successfulExecutions failedExecutions jobPythonVersion executions(pageNumber: 1, pageSize: \
    10, order: {property: \"startTime\", direction: DESC}) { id status logsUrl message __typename } __typename } \
    __typename } totalPages totalItems __typename } }";

const NAMES: &str = "query($filter: [Predicate], $search: String) { jobs(pageNumber: 1, pageSize: 50, filter: $filter, \
    search: $search) { content { jobName config { team } } } }";

const TOTAL: &str = "query($filter: [Predicate], $search: String) { jobs(pageNumber: 1, pageSize: 50, filter: $filter, \
    search: $search) { totalItems content { jobName config { team description } } } }";

const RUNS: &str = "query($filter: DataJobExecutionFilter, $order: DataJobExecutionOrder) { executions(pageNumber: 1, \
    pageSize: 50, filter: $filter, order: $order) { content { id type jobName status startTime endTime startedBy \
    message opId logsUrl } } }";

const RUNS_WITH_TOTALS: &str = "query($filter: DataJobExecutionFilter, $order: DataJobExecutionOrder) { \
    executions(pageNumber: 1, pageSize: 50, filter: $filter, order: $order) { totalPages totalItems content { id type \
    jobName status startTime endTime startedBy message opId logsUrl } } }";

/// One request to measure.
struct Case {
    name: String,
    path: String,
    /// The times of upstream at 1,000 and 10,000 jobs (p50, ms).
    reference: &'static str,
    /// Whether more than one client is worth the time.
    pool_state: bool,
}

fn list(name: &str, query: &str, variables: &Value) -> Case {
    let mut url = reqwest::Url::parse("http://x/data-jobs/for-team/no-team-specified/jobs").expect("a URL");
    url.query_pairs_mut().append_pair("query", query).append_pair("variables", &variables.to_string());
    let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    Case { name: name.into(), path, reference: "", pool_state: false }
}

fn filter(property: &str, pattern: Option<&str>, sort: Option<&str>) -> Value {
    json!({"property": property, "pattern": pattern, "sort": sort})
}

/// Names of the fleet that are there at every size.
const JOB: &str = "daily-orders-000005";
const TEAM: &str = "Team 0000";

/// A filter that matches no execution of the fleet.
const NONE: &str = "running (none is)";

/// A pattern of the teams that begin as the last one of a fleet: a tenth of them where the fleet is a power of ten.
fn tenth_of_teams(jobs: usize) -> String {
    let last = (jobs / 100).max(1) - 1;
    let begin = last / 10usize.pow(last.checked_ilog10().unwrap_or(0));
    let width = 4 - last.checked_ilog10().unwrap_or(0) as usize;
    format!("Team {begin:0width$}%")
}

fn cases(jobs: usize) -> Vec<Case> {
    let whole = json!({"pageNumber": 1, "pageSize": 50, "search": "",
        "filter": [filter("jobName", None, Some("ASC"))]});
    let newest = json!({"property": "startTime", "direction": "DESC"});
    // All executions of the fleet.
    let since = json!({"filter": {"startTimeGte": "2020-01-01T00:00:00Z"}, "order": newest});
    let mut cases = vec![
        Case {
            reference: "150 / 1,201",
            pool_state: true,
            ..list("the operations page's list of 50 (with totals and 10 executions each)", PAGE, &whole)
        },
        Case { reference: "38 / 416", ..list("list of 50, names and teams", NAMES, &json!({})) },
        Case {
            name: "one job".into(),
            path: format!("/data-jobs/for-team/Team%200000/jobs/{JOB}"),
            reference: "2.7 / 3.3",
            pool_state: true,
        },
        Case {
            name: "a job's executions".into(),
            path: format!("/data-jobs/for-team/Team%200000/jobs/{JOB}/executions"),
            reference: "3.7 / 2.9",
            pool_state: true,
        },
        Case { reference: "35 / 250", pool_state: true, ..list("the 50 newest executions", RUNS, &json!({})) },
        list("the 50 newest executions since a time, with totals", RUNS_WITH_TOTALS, &since),
        list("the 50 newest executions, with totals", RUNS_WITH_TOTALS, &json!({"order": newest})),
    ];
    let enabled = [filter("deployments.enabled", Some("enabled"), None)];
    for (name, filters) in [
        ("name, equal", vec![filter("jobName", Some(&JOB.to_uppercase()), None)]),
        ("name, prefix", vec![filter("jobName", Some("daily-*"), None)]),
        ("team, equal", vec![filter("config.team", Some(TEAM), None)]),
        ("team, prefix that one job in ten has", vec![filter("config.team", Some(&tenth_of_teams(jobs)), None)]),
        (
            "team, by last execution",
            vec![filter("config.team", Some(TEAM), None), filter("deployments.lastExecutionTime", None, Some("DESC"))],
        ),
        (
            "name prefix, by last execution",
            vec![filter("jobName", Some("daily-*"), None), filter("deployments.lastExecutionTime", None, Some("DESC"))],
        ),
        (
            "enabled, by last execution",
            [&enabled[..], &[filter("deployments.lastExecutionTime", None, Some("DESC"))]].concat(),
        ),
        ("last execution's status", vec![filter("deployments.lastExecutionStatus", Some("USER_ERROR"), None)]),
        ("deployment's status", vec![filter("deployments.status", Some("USER_ERROR"), None)]),
        ("Python version", vec![filter("deployments.jobPythonVersion", Some("3.12"), None)]),
    ] {
        cases.push(list(&format!("filter: {name}"), NAMES, &json!({ "filter": filters })));
    }
    for property in [
        "jobName",
        "config.team",
        "config.description",
        "config.schedule.nextRunEpochSeconds",
        "config.contacts.present",
        "deployments.enabled",
        "deployments.status",
        "deployments.jobPythonVersion",
        "deployments.lastExecutionStatus",
        "deployments.lastExecutionTime",
        "deployments.lastExecutionDuration",
        "deployments.successfulExecutions",
        "deployments.failedExecutions",
    ] {
        for direction in ["ASC", "DESC"] {
            let variables = json!({"filter": [filter(property, None, Some(direction))]});
            cases.push(list(&format!("sort: {property} {direction}"), NAMES, &variables));
        }
    }
    cases.push(list("total: all", TOTAL, &json!({})));
    cases.push(list("total: enabled", TOTAL, &json!({ "filter": enabled })));
    for text in ["000005", "region 7 into", "sales", "warehouse"] {
        cases.push(list(&format!("total and search: {text:?}"), TOTAL, &json!({ "search": text })));
    }
    for property in ["startTime", "endTime", "status", "jobName", "id"] {
        let variables = json!({"order": {"property": property, "direction": "DESC"}});
        cases.push(list(&format!("executions, sort: {property} DESC"), RUNS, &variables));
    }
    for (name, filter) in [
        ("of a job", json!({"jobNameIn": [JOB]})),
        ("of a team", json!({"teamNameIn": [TEAM]})),
        ("failed", json!({"statusIn": ["USER_ERROR", "PLATFORM_ERROR"]})),
        (NONE, json!({"statusIn": ["RUNNING"]})),
    ] {
        cases.push(list(&format!("executions, filter: {name}"), RUNS, &json!({ "filter": filter })));
    }
    cases
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(!arguments.jobs.is_empty(), "--jobs names no size");
    println!("{}\n", load());
    for database in [Database::Sqlite, Database::Postgresql] {
        match (arguments.database, database) {
            (Databases::Sqlite, Database::Postgresql) | (Databases::Postgres, Database::Sqlite) => {}
            _ => measure(database, &arguments).await?,
        }
    }
    Ok(())
}

/// A commit that is measured.
#[derive(Debug, Clone)]
struct Build {
    name: &'static str,
    checkout: PathBuf,
    /// The folder of its generator, where that is built.
    generator: Option<PathBuf>,
    /// Its program, where it is not the one that `HOLDFAST_BIN` names.
    binary: Option<PathBuf>,
}

impl Build {
    /// This build, and the one that it is compared with.
    fn all(arguments: &Arguments) -> Result<Vec<Self>> {
        let mut all = vec![Self { name: "this", checkout: workspace(), generator: None, binary: None }];
        if let Some(checkout) = &arguments.against {
            let checkout = checkout.canonicalize()?;
            let binary = Some(binary::build_at(&checkout)?);
            all.push(Self { name: "the other", checkout, generator: None, binary });
        }
        if let Some(folder) = &arguments.against_built {
            let folder = folder.canonicalize()?;
            let binary = Some(folder.join("holdfast"));
            all.push(Self { name: "the other", checkout: workspace(), generator: Some(folder), binary });
        }
        Ok(all)
    }
}

/// A fleet of a size, and what is asked of it.
struct Measured {
    jobs: usize,
    build: &'static str,
    fleet: Fleet,
    meter: Meter,
    cases: Vec<Case>,
    starts: Vec<String>,
}

impl Measured {
    fn start(database: Database, jobs: usize, build: &Build, arguments: &Arguments) -> Result<Self> {
        say(format_args!("· {jobs} jobs with {} executions each", arguments.runs));
        let options = Options { binary: build.binary.clone(), ..Options::default() }.set("HOLDFAST_LOG", "error");
        let generator = Generator { checkout: &build.checkout, built: build.generator.as_deref() };
        let mut fleet = Fleet::start_by(generator, database, jobs, arguments.runs, Rollouts::Done, options)?;
        let (meter, starts) = (fleet.meter(), starts(fleet.service.url(), jobs));
        Ok(Self { jobs, build: build.name, fleet, meter, cases: cases(jobs), starts })
    }
}

impl Measured {
    fn title(&self, is_compared: bool) -> String {
        let jobs = thousands(self.jobs);
        if is_compared { format!("{jobs} jobs, {}", self.build) } else { format!("{jobs} jobs") }
    }
}

async fn measure(database: Database, arguments: &Arguments) -> Result<()> {
    let (name, is_server) = match database {
        Database::Sqlite => ("SQLite", false),
        Database::Postgresql => ("PostgreSQL", true),
    };
    say(format_args!("{name}"));
    let builds = Build::all(arguments)?;
    let mut fleets = Vec::new();
    for jobs in &arguments.jobs {
        for build in &builds {
            fleets.push(Measured::start(database, *jobs, build, arguments)?);
        }
    }
    let is_compared = builds.len() > 1;
    let http = Client::builder().no_proxy().timeout(Duration::from_secs(60)).build()?;
    println!("### {name}\n");
    let columns: Vec<_> = fleets.iter().map(|of| of.title(is_compared)).collect();
    let ratio =
        if is_compared { "the other to this: p50, CPU time, requests per second" } else { "largest to smallest" };
    println!("| request | clients | {} | {ratio} | reference |", columns.join(" | "));
    println!("| --- | ---: |{} ---: | --- |", " ---: |".repeat(fleets.len()));
    let only = arguments.only.as_deref().unwrap_or_default();
    let turn = Duration::from_secs(arguments.seconds) / ROUNDS;
    for (index, case) in fleets[0].cases.iter().enumerate().filter(|(_, case)| case.name.contains(only)) {
        let mut urls = Vec::new();
        for of in &fleets {
            let url = format!("{}{}", of.fleet.service.url(), of.cases[index].path);
            let answer = http.get(&url).send().await?.text().await?;
            let is_empty = answer.contains("\"content\":[]");
            ensure!(is_empty == case.name.contains(NONE), "{:?} measures nothing: it is answered {answer}", case.name);
            urls.push(url);
        }
        for clients in if case.pool_state { &CLIENTS[..] } else { &CLIENTS[..1] } {
            let mut figures = vec![Figures::default(); fleets.len()];
            for _ in 0..ROUNDS {
                for ((of, url), figures) in fleets.iter().zip(&urls).zip(&mut figures) {
                    figures.add(pool_state(&http, url, None, *clients, turn, of.meter).await?);
                }
            }
            row(case, *clients, &figures, is_server, is_compared);
        }
    }
    if !only.is_empty() {
        return Ok(());
    }
    let start = Case { name: "start (accepted, 202)".into(), path: String::new(), reference: "", pool_state: true };
    for (index, clients) in CLIENTS.iter().enumerate() {
        let mut figures = vec![Figures::default(); fleets.len()];
        for round in 0..ROUNDS as usize {
            for (of, figures) in fleets.iter().zip(&mut figures) {
                let parts = CLIENTS.len() * ROUNDS as usize;
                let part = of.starts.iter().skip(index * ROUNDS as usize + round).step_by(parts).cloned().collect();
                figures.add(pool_state(&http, "", Some(part), *clients, turn, of.meter).await?);
            }
        }
        row(&start, *clients, &figures, is_server, is_compared);
    }
    println!(
        "\n| fleet | database | a million executions | start to ready | `vdk list -a` | CPU time of it{} | resident memory at most |",
        if is_server { ": service, PostgreSQL" } else { "" }
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for of in &fleets {
        let listed = list_all(of.fleet.service.url(), of.meter, is_server).await?;
        let (_, most) = memory(of.meter.service)?;
        println!("| {} | {} | {listed} | {most:.1} MiB |", of.title(is_compared), size(of, arguments.runs));
    }
    println!();
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes of one disk"
)]
fn size(of: &Measured, runs: usize) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let (bytes, executions) = (of.fleet.bytes as f64, (of.jobs - of.jobs / 10) * runs);
    format!(
        "{} MiB | {:.2} GiB | {} ms",
        thousands((bytes / MIB) as usize),
        bytes / executions.max(1) as f64 * 1_000_000.0 / MIB / 1024.0,
        of.fleet.ready.as_millis()
    )
}

/// A count with its thousands apart.
fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<_> =
        digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.join(",")
}

/// Where deployed jobs are started, each at most once.
fn starts(service: &str, jobs: usize) -> Vec<String> {
    (0..jobs.min(2000))
        .filter(|job| job % 10 != 9)
        .map(|job| {
            let (team, name) = fleet_job(job);
            let team = team.replace(' ', "%20");
            format!("{service}/data-jobs/for-team/{team}/jobs/{name}/deployments/production/executions")
        })
        .collect()
}

/// Has the stock client list all jobs, and says how long it took.
async fn list_all(service: &str, meter: Meter, is_server: bool) -> Result<String> {
    let home = tempfile::tempdir()?;
    let (begun, before) = (Instant::now(), meter.read()?);
    let output = tokio::process::Command::new(vdk::client().vdk())
        .args(["list", "-a", "-o", "json", "--rest-api-url", service])
        .envs(devtools::client::Client::variables(home.path()))
        .env_remove("VDK_CONTROL_SERVICE_REST_API_URL")
        .current_dir(home.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Ok(output) = tokio::time::timeout(LIST_MAX, output).await else {
        return Ok(format!("no end within {} s |", LIST_MAX.as_secs()));
    };
    let (output, took, after) = (output?, begun.elapsed(), meter.read()?);
    if !output.status.success() {
        bail!("vdk list -a: {}", String::from_utf8_lossy(&output.stderr));
    }
    let listed: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    ensure!(!listed.is_empty(), "vdk list -a lists nothing");
    let (took, service, server) = (took.as_secs_f64(), (after.0 - before.0) / 1000.0, (after.1 - before.1) / 1000.0);
    let server = if is_server { format!(", {server:.1}") } else { String::new() };
    Ok(format!("{took:.1} s | {service:.1}{server} s"))
}

/// The results of some clients that sent requests for some time.
#[derive(Debug, Clone, Default)]
struct Figures {
    times: Vec<Duration>,
    elapsed: Duration,
    cpu_ms: f64,
    server_cpu_ms: f64,
}

impl Figures {
    fn add(&mut self, more: Self) {
        self.times.extend(more.times);
        self.elapsed += more.elapsed;
        self.cpu_ms += more.cpu_ms;
        self.server_cpu_ms += more.server_cpu_ms;
    }

    /// Requests a second.
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn rate(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// CPU time in ms of a request, of the service and of PostgreSQL.
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn cpu_ms_each(&self) -> f64 {
        (self.cpu_ms + self.server_cpu_ms) / self.times.len().max(1) as f64
    }

    /// The time in ms that this share of the requests took at most; 0 when there were none.
    fn ms(&self, share: f64) -> f64 {
        if self.times.is_empty() { 0.0 } else { 1000.0 * quantile(&self.times, share).as_secs_f64() }
    }
}

/// Has clients ask without a pause; with `starts`, each posts to the next address until there is none left.
async fn pool_state(
    http: &Client,
    url: &str,
    starts: Option<Vec<String>>,
    clients: usize,
    longest: Duration,
    meter: Meter,
) -> Result<Figures> {
    let starts = starts.map(Arc::new);
    let next = Arc::new(AtomicUsize::new(0));
    if starts.is_none() {
        let answer = http.get(url).send().await?;
        ensure!(answer.status().is_success(), "{url}: {} {}", answer.status(), answer.text().await?);
    }
    let before = meter.read()?;
    let begun = Instant::now();
    let asking: Vec<_> = (0..clients)
        .map(|_| {
            let (http, url, starts, next) = (http.clone(), url.to_owned(), starts.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < longest {
                    let asked = Instant::now();
                    let answer = match &starts {
                        None => http.get(&url).send().await?,
                        Some(starts) => {
                            let Some(url) = starts.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                            http.post(url).json(&json!({"started_by": "bench", "args": {}})).send().await?
                        }
                    };
                    ensure!(answer.status().is_success(), "{}: {}", answer.url().clone(), answer.status());
                    let _ = answer.bytes().await?;
                    times.push(asked.elapsed());
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for each in asking {
        times.extend(each.await??);
    }
    let (elapsed, after) = (begun.elapsed(), meter.read()?);
    Ok(Figures { times, elapsed, cpu_ms: after.0 - before.0, server_cpu_ms: after.1 - before.1 })
}

/// Prints a line: for each fleet p50 / p95 / p99 in ms, CPU time in ms per request, requests per second.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small counts"
)]
fn row(case: &Case, clients: usize, figures: &[Figures], is_server: bool, is_compared: bool) {
    let cells: Vec<_> = figures
        .iter()
        .map(|of| {
            let count = of.times.len().max(1) as f64;
            let server = if is_server { format!(" + {:.2}", of.server_cpu_ms / count) } else { String::new() };
            let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| of.ms(share));
            let rate = thousands(of.rate() as usize);
            format!("{p50:.1} / {p95:.1} / {p99:.1}, {:.2}{server}, {rate}", of.cpu_ms / count)
        })
        .collect();
    let is_alone = clients == 1;
    let compared = |pair: &[Figures]| match pair {
        [this, other] => format!(
            "{:.2}, {:.2}, {:.2}",
            other.ms(0.5) / this.ms(0.5),
            other.cpu_ms_each() / this.cpu_ms_each(),
            other.rate() / this.rate()
        ),
        _ => String::new(),
    };
    let ratio = match figures {
        _ if is_compared => figures.chunks(2).map(compared).collect::<Vec<_>>().join("; "),
        [smallest, .., largest] if is_alone => format!("{:.1}", largest.ms(0.5) / smallest.ms(0.5)),
        _ => String::new(),
    };
    let reference = if is_alone { case.reference } else { "" };
    println!("| {} | {clients} | {} | {ratio} | {reference} |", case.name, cells.join(" | "));
}
