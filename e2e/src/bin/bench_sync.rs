//! Measures how a release build makes a real API server follow a generated fleet, and prints Markdown for
//! `docs/benchmarks.md`. Pods run in name only. All calls of the service go through a proxy that counts them.

#![expect(clippy::print_stdout, reason = "its figures are its output")]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use devtools::{
    cluster::{self, Namespace},
    progress::{say, seconds},
};
use e2e::{
    api::Api,
    job::Job,
    kubernetes::{Node, placement_in_name_only, settings, token_of_service},
    measure::{Fleet, Rollouts, fleet_job, load, machine, memory, quantile},
    service::Options,
    wait::{let_pass, until},
};
use reqwest::Client;
use serde_json::{Value, json};
use testing::{Database, Identity, Proxy};
use tokio::{sync::Notify, task::JoinHandle};

/// Figures of one machine, from one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many deployments there are.
    #[arg(long, default_value_t = 10_000)]
    deployments: usize,
    /// On which database.
    #[arg(long, value_enum, default_value_t = Databases::Sqlite)]
    database: Databases,
    /// How many changes of deployments are measured.
    #[arg(long, default_value_t = 300)]
    changes: usize,
    /// How many starts are measured, and as many bare Jobs.
    #[arg(long, default_value_t = 50)]
    starts: usize,
    /// How many edits by others are measured.
    #[arg(long, default_value_t = 100)]
    edits: usize,
    /// How long CPU time is counted while nothing happens, and while runs end.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many runs are started in a second.
    #[arg(long, default_value_t = 10)]
    rate: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Databases {
    Sqlite,
    Postgres,
}

/// Executions that each deployed job has from before.
const RUNS_BEFORE: usize = 20;
/// Jobs whose changes fail while others are measured.
const FAILING: usize = 20;
/// The longest that anything of this may take.
const LONGEST: Duration = Duration::from_secs(3600);
/// The longest that one change, start or repair may take.
const ONE: Duration = Duration::from_secs(120);
/// Without a write for this time the work is over.
const QUIET: Duration = Duration::from_secs(5);
/// Between two starts, so that the end of one does not weigh on the start of the next.
const PAUSE: Duration = Duration::from_millis(300);
/// Warnings of the service that are shown.
const WARNINGS_SHOWN: usize = 10;
/// A schedule that no job of the fleet has.
const EDITED: &str = "7 7 7 7 *";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let begun = Instant::now();
    let load = load();
    let mut table = Table::default();
    let mut place = Place::new(&arguments).await?;
    place.first_pass(&arguments, &mut table).await?;
    place.changes(&arguments, &mut table).await?;
    place.idle(&arguments, &mut table).await?;
    place.sweep(&arguments, &mut table).await?;
    place.starts(&arguments, &mut table).await?;
    place.runs(&arguments, &mut table).await?;
    place.drift(&arguments, &mut table).await?;
    place.warnings();
    println!("{load}\n\n{}\n", machine());
    table.print();
    say(format_args!("\nmeasured in {}", seconds(begun.elapsed())));
    Ok(())
}

#[derive(Debug, Default)]
struct Table(Vec<[String; 6]>);

impl Table {
    fn times(&mut self, what: &str, times: &[Duration], target: &str) {
        let ms = |share| format!("{:.0} ms", 1000.0 * quantile(times, share).as_secs_f64());
        self.row([what, &ms(0.5), &ms(0.99), &times.len().to_string(), target, ""]);
    }

    fn figure(&mut self, what: &str, value: &str, target: &str, reference: &str) {
        self.row([what, value, "", "1", target, reference]);
    }

    /// A run takes a while: each row is shown as soon as it is there.
    fn row(&mut self, row: [&str; 6]) {
        say(format_args!("  {}", row.join(" | ")));
        self.0.push(row.map(ToOwned::to_owned));
    }

    fn print(&self) {
        println!("| what | p50 or value | p99 | measured | target | reference |");
        println!("| --- | ---: | ---: | ---: | --- | --- |");
        for row in &self.0 {
            println!("| {} |", row.join(" | "));
        }
    }
}

/// The compared fields of an object of the cluster.
#[derive(Debug, Clone, PartialEq)]
struct View {
    /// Moves with the spec.
    generation: i64,
    /// The generation of the deployment that it was made from.
    of: i64,
    schedule: String,
    suspended: bool,
}

impl View {
    fn of(object: &Value) -> Self {
        let of = object["metadata"]["annotations"]["holdfast/revision"].as_str();
        Self {
            generation: object["metadata"]["generation"].as_i64().unwrap_or_default(),
            of: of.and_then(|of| of.parse().ok()).unwrap_or_default(),
            schedule: object["spec"]["schedule"].as_str().unwrap_or_default().to_owned(),
            suspended: object["spec"]["suspend"].as_bool().unwrap_or_default(),
        }
    }
}

/// Objects of a kind by name, each with the instant at which it was first seen as it is.
type Objects = HashMap<String, (Instant, View)>;

/// Objects of a namespace as a watch of this program's own tells them.
#[derive(Debug)]
struct Watched {
    objects: Arc<Mutex<Objects>>,
    changed: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Watched {
    /// Watches objects at this address, from now on.
    async fn start(http: &Client, url: &str) -> Result<Self> {
        let (objects, changed) = (Arc::<Mutex<Objects>>::default(), Arc::<Notify>::default());
        let mut version = list(http, url, &objects).await?;
        let (http, url, to, bell) = (http.clone(), url.to_owned(), objects.clone(), changed.clone());
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = follow(&http, &url, &version, &to, &bell).await {
                    say(format_args!("  a watch ends: {error:#}"));
                }
                // A server that has too much to do ends watches.
                version = loop {
                    match list(&http, &url, &to).await {
                        Ok(version) => break version,
                        Err(_) => let_pass(PAUSE).await,
                    }
                };
                bell.notify_waiters();
            }
        });
        Ok(Self { objects, changed, task })
    }

    fn get(&self, name: &str) -> Option<(Instant, View)> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Waits until the objects are so.
    async fn until<T>(&self, what: &str, longest: Duration, is: impl Fn(&Objects) -> Option<T>) -> Result<T> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Registered before the check, so that no notification is lost.
                changed.as_mut().enable();
                if let Some(found) = is(&self.objects.lock().unwrap_or_else(PoisonError::into_inner)) {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(longest, waiting).await.with_context(|| format!("not within {longest:?}: {what}"))
    }

    /// Since when an object is so, which is waited for.
    async fn since(&self, what: &str, name: &str, is: impl Fn(&View) -> bool) -> Result<Instant> {
        let what = format!("{name}: {what}");
        self.until(&what, ONE, |all| all.get(name).filter(|(_, view)| is(view)).map(|(at, _)| *at)).await
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads all objects, and gives the version from which on they can be watched.
async fn list(http: &Client, url: &str, to: &Mutex<Objects>) -> Result<String> {
    let list: Value = http.get(url).send().await?.error_for_status()?.json().await?;
    let items = list["items"].as_array().context("a list")?;
    let mut objects = to.lock().unwrap_or_else(PoisonError::into_inner);
    let names: HashSet<&str> = items.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
    objects.retain(|name, _| names.contains(name.as_str()));
    for object in items {
        take(&mut objects, object);
    }
    Ok(list["metadata"]["resourceVersion"].as_str().context("a version")?.to_owned())
}

/// Takes changes in until the server ends that.
async fn follow(http: &Client, url: &str, version: &str, to: &Mutex<Objects>, bell: &Notify) -> Result<()> {
    let query = [("watch", "true"), ("resourceVersion", version), ("timeoutSeconds", "86400")];
    let mut stream = http.get(url).query(&query).send().await?.error_for_status()?;
    let mut rest = Vec::new();
    while let Some(part) = stream.chunk().await? {
        rest.extend_from_slice(&part);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            let mut objects = to.lock().unwrap_or_else(PoisonError::into_inner);
            match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => take(&mut objects, &event["object"]),
                Some("DELETED") => {
                    objects.remove(event["object"]["metadata"]["name"].as_str().unwrap_or_default());
                }
                _ => bail!("{}", event["object"]),
            }
        }
        bell.notify_waiters();
    }
    Ok(())
}

fn take(objects: &mut Objects, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let view = View::of(object);
    if objects.get(name).is_none_or(|(_, known)| *known != view) {
        objects.insert(name.to_owned(), (Instant::now(), view));
    }
}

/// A job of the fleet that is enabled and has a schedule.
#[derive(Debug, Clone)]
struct Deployed {
    name: String,
    api: Api,
}

impl Deployed {
    fn path(&self, rest: &str) -> String {
        format!("/jobs/{}/{rest}", self.name)
    }

    /// Asks for another limit of memory.
    async fn resize(&self, mebibytes: usize) {
        let change = json!({ "resources": { "memory_limit": mebibytes } });
        let _ = self.api.patch(&self.path("deployments/production"), &change).await.ok();
    }

    /// Uploads another version of its source.
    async fn upload(&self, note: &str) -> String {
        let job = Job::new(&self.name).step("10_step.py", "pass").file("note.txt", note);
        let answer = self.api.upload(&self.name, job.archive()).await.ok().json();
        answer["version_sha"].as_str().expect("version_sha").to_owned()
    }

    /// Asks for a run, and gives its id; `None` when another one is not over.
    async fn start(&self) -> Option<String> {
        let answer = self.api.start(&self.name).await;
        (answer.status != 409).then(|| answer.is(202).location_id())
    }
}

/// The service on its fleet, and the two ways to the cluster: its own, which counts, and that of this program.
// Fields are dropped in this order: the service ends first, its namespace last.
struct Place {
    fleet: Fleet,
    cron_jobs: Watched,
    jobs: Watched,
    deployed: Vec<Deployed>,
    http: Client,
    token: String,
    its_way: Proxy,
    own_way: Proxy,
    namespace: Namespace,
}

impl Place {
    async fn new(arguments: &Arguments) -> Result<Self> {
        let namespace = tokio::task::block_in_place(|| cluster::shared()?.namespace("bench"))?;
        let administrator = namespace.cluster().administrator()?;
        let identity = Identity {
            url: administrator.url,
            ca_certificate: administrator.ca_certificate,
            certificate: administrator.certificate,
            private_key: administrator.private_key,
        };
        let (its_way, own_way) = (Proxy::start(&identity), Proxy::start(&identity));
        its_way.answer_logs("one line of a run\n");
        let token = token_of_service(&namespace)?;
        let http = Client::builder().no_proxy().build()?;
        let objects = |kind| format!("{}/apis/batch/v1/namespaces/{}/{kind}", own_way.url(), namespace.name());
        let cron_jobs = Watched::start(&http, &objects("cronjobs")).await?;
        let jobs = Watched::start(&http, &objects("jobs")).await?;

        say(format_args!("· {} deployments in {}", arguments.deployments, namespace.name()));
        let options = settings(Options::default(), &namespace, Node::InNameOnly)
            .set("KUBECONFIG", &its_way.kubeconfig_with_token(&token).to_string_lossy())
            .set("HOLDFAST_KUBERNETES_PYTHON_VERSIONS", "3.11,3.12")
            .set("HOLDFAST_LOG", "warn,sync::deployments=debug");
        let database = match arguments.database {
            Databases::Sqlite => Database::Sqlite,
            Databases::Postgres => Database::Postgresql,
        };
        // One job in ten of a fleet is not deployed.
        let jobs_of_fleet = arguments.deployments + arguments.deployments.saturating_sub(1) / 9;
        let fleet =
            tokio::task::block_in_place(|| Fleet::start(database, jobs_of_fleet, RUNS_BEFORE, Rollouts::Due, options))?;
        let api = fleet.service.api();
        // Those of every tenth job are missing, of others switched off or without a schedule.
        let deployed = (0..jobs_of_fleet).filter(|job| job % 10 != 9 && job % 20 != 3 && job % 4 != 0).map(|job| {
            let (team, name) = fleet_job(job);
            Deployed { name, api: api.team(&team) }
        });
        let deployed: Vec<_> = deployed.collect();
        ensure!(deployed.len() > 2 * FAILING, "too few deployments to measure with");
        Ok(Self { fleet, cron_jobs, jobs, deployed, http, token, its_way, own_way, namespace })
    }

    fn objects(&self, way: &Proxy, kind: &str) -> String {
        format!("{}/apis/batch/v1/namespaces/{}/{kind}", way.url(), self.namespace.name())
    }

    fn service(&mut self) -> u32 {
        self.fleet.service.process().id()
    }

    /// One figure of the page of metrics, over all its labels.
    async fn metric(&self, name: &str) -> f64 {
        let page = self.fleet.service.api().scrape("text/plain").await.ok().text();
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
        };
        page.lines().filter_map(of).sum()
    }

    /// The warnings of the service, which explain a figure.
    fn warnings(&self) {
        let log = self.fleet.service.log();
        let warnings: Vec<_> = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect();
        say(format_args!("· {} warnings of the service; the last:", warnings.len()));
        for line in &warnings[warnings.len().saturating_sub(WARNINGS_SHOWN)..] {
            say(format_args!("    {line}"));
        }
    }

    /// Waits until nothing is due and nothing is written any more.
    async fn settled(&self) -> Result<()> {
        let begun = Instant::now();
        let mut before = self.its_way.writes();
        loop {
            let_pass(QUIET).await;
            let now = self.its_way.writes();
            if now == before && self.metric("holdfast_rollouts_due").await < 1.0 {
                return Ok(());
            }
            ensure!(begun.elapsed() < LONGEST, "it does not settle: {}", listed(&now));
            before = now;
        }
    }

    async fn first_pass(&mut self, arguments: &Arguments, table: &mut Table) -> Result<()> {
        let count = arguments.deployments;
        let complete = |all: &Objects| (all.len() >= count).then(|| all.values().map(|(at, _)| *at).max()).flatten();
        let end = self.cron_jobs.until("a CronJob of each deployment", LONGEST, complete).await?;
        let meter = self.fleet.meter();
        let (service, server) = meter.read()?;
        let calls: u64 = self.its_way.counts().values().sum();
        say(format_args!("{}", listed(&self.its_way.counts())));
        table.figure(
            &format!("start of the service → {count} CronJobs, none of which was there"),
            &format!("{:.1} s", end.duration_since(self.fleet.begun).as_secs_f64()),
            "",
            "243 s (9,500)",
        );
        table.figure(
            "calls of the API server for each of them; CPU time of the service, of PostgreSQL",
            &format!("{:.1}; {:.2} ms, {:.2} ms", share(calls, count), service / float(count), server / float(count)),
            "",
            "",
        );
        self.settled().await?;
        Ok(())
    }

    async fn changes(&mut self, arguments: &Arguments, table: &mut Table) -> Result<()> {
        let (others, hindered) = self.deployed.split_at(self.deployed.len() - FAILING - 1);
        let (hung, failing) = hindered.split_first().context("jobs that are hindered")?;
        self.its_way.hold_back(&hung.name);
        for job in failing {
            self.its_way.refuse(&job.name);
        }
        for job in hindered {
            job.resize(999).await;
        }
        for job in failing {
            until(format!("the rollout of {} fails", job.name), ONE, async || {
                let rollout = job.api.get(&job.path("deployments/production/rollout")).await.ok().json();
                rollout["problem"].is_object().then_some(())
            })
            .await;
        }
        let (mut deployed, mut changed, mut accepted) = (Vec::new(), Vec::new(), Vec::new());
        self.its_way.reset();
        for (round, job) in (0..arguments.changes).zip(others.iter().cycle()) {
            let version = if round % 2 == 0 { Some(job.upload(&round.to_string()).await) } else { None };
            let (_, before) = self.cron_jobs.get(&job.name).with_context(|| format!("no CronJob {}", job.name))?;
            let begun = Instant::now();
            match &version {
                Some(version) => {
                    let _ = job.api.post(&job.path("deployments"), &json!({ "job_version": version })).await.ok();
                }
                None => job.resize(600 + round).await,
            }
            accepted.push(begun.elapsed());
            let at = self.cron_jobs.since("a change", &job.name, |view| view.of > before.of).await?;
            if version.is_some() { &mut deployed } else { &mut changed }.push(at.duration_since(begun));
        }
        say(format_args!("{}", listed(&self.its_way.counts())));
        table.times("a change is accepted", &accepted, "");
        table.times(
            &format!("POST of a version → CronJob changed, while one call hangs and {FAILING} jobs fail"),
            &deployed,
            "p99 under 1 s",
        );
        table.times("PATCH of resources → CronJob changed, meanwhile too", &changed, "p99 under 1 s");
        self.its_way.let_through();
        self.settled().await?;
        Ok(())
    }

    async fn idle(&mut self, arguments: &Arguments, table: &mut Table) -> Result<()> {
        let meter = self.fleet.meter();
        self.its_way.reset();
        let before = meter.read()?;
        let begun = Instant::now();
        let_pass(Duration::from_secs(arguments.seconds)).await;
        let (after, took) = (meter.read()?, begun.elapsed().as_secs_f64());
        let writes: u64 = self.its_way.writes().values().sum();
        say(format_args!("{}", listed(&self.its_way.counts())));
        table.figure("idle: write calls", &writes.to_string(), "none", "");
        let of = |after: f64, before: f64| format!("{:.2} %", (after - before) / took / 10.0);
        table.figure(
            &format!("idle: CPU time over {took:.0} s, of PostgreSQL"),
            &format!("{}, {}", of(after.0, before.0), of(after.1, before.1)),
            "under 2 %",
            "",
        );
        let (now, most) = memory(meter.service)?;
        table.figure(
            "idle: resident memory, at most until then",
            &format!("{now:.0} MiB, {most:.0} MiB"),
            "under 150 MB",
            "",
        );
        Ok(())
    }

    async fn sweep(&mut self, arguments: &Arguments, table: &mut Table) -> Result<()> {
        self.fleet.service.stop();
        self.its_way.reset();
        let said = self.fleet.service.log().len();
        self.fleet.service.start_again();
        let swept = until("a sweep", ONE, async || {
            let log = self.fleet.service.log();
            log[said..].lines().find(|line| line.contains("swept")).map(ToOwned::to_owned)
        })
        .await;
        let field = |name: &str| -> Result<f64> {
            let (_, rest) = swept.split_once(&format!("{name}=")).with_context(|| format!("no {name} in {swept}"))?;
            Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
        };
        let looked_at = field("looked_at")?;
        ensure!(looked_at >= float(arguments.deployments), "a sweep of some: {swept}");
        self.settled().await?;
        let writes: u64 = self.its_way.writes().values().sum();
        say(format_args!("{}", listed(&self.its_way.counts())));
        table.figure(
            "full sweep after a restart, with the lists of the namespace",
            &format!("{:.1} s", field("seconds")?),
            "under 5 s",
            "102 s (9,500)",
        );
        table.figure(
            "write calls after a restart; out of step",
            &format!("{writes}; {}", field("out_of_step")?),
            "none",
            "",
        );
        let process = self.service();
        let (now, most) = memory(process)?;
        table.figure(
            "resident memory after a restart, at most",
            &format!("{now:.0} MiB, {most:.0} MiB"),
            "under 150 MB",
            "",
        );
        Ok(())
    }

    async fn starts(&self, arguments: &Arguments, table: &mut Table) -> Result<()> {
        let (mut released, mut bare) = (Vec::new(), Vec::new());
        let url = self.objects(&self.its_way, "jobs");
        self.its_way.reset();
        for (round, job) in (0..arguments.starts).zip(self.deployed.iter().cycle()) {
            let_pass(PAUSE).await;
            let begun = Instant::now();
            let id = job.start().await.with_context(|| format!("{} runs already", job.name))?;
            let at = self.jobs.since("it is released", &id, |view| !view.suspended).await?;
            released.push(at.duration_since(begun));

            let_pass(PAUSE).await;
            let name = format!("bare-{round}");
            let begun = Instant::now();
            let answer = self.http.post(&url).bearer_auth(&self.token).json(&bare_job(&name)).send().await?;
            ensure!(answer.status().is_success(), "{}", answer.text().await?);
            let at = self.jobs.since("it is there", &name, |view| !view.suspended).await?;
            bare.push(at.duration_since(begun));
        }
        say(format_args!("{}", listed(&self.its_way.counts())));
        table.times("POST of an execution → its Job is released", &released, "");
        table.times("POST of a bare Job → it is there", &bare, "");
        let mut more: Vec<f64> =
            released.iter().zip(&bare).map(|(a, b)| 1000.0 * (a.as_secs_f64() - b.as_secs_f64())).collect();
        more.sort_by(f64::total_cmp);
        table.row([
            "what the former takes longer (differences of pairs)",
            &format!("{:.0} ms", more[more.len() / 2]),
            &format!("{:.0} ms", more[(more.len() * 99).div_ceil(100) - 1]),
            &more.len().to_string(),
            "p50 under 100 ms",
            "",
        ]);
        Ok(())
    }

    async fn runs(&mut self, arguments: &Arguments, table: &mut Table) -> Result<()> {
        self.settled().await?;
        let ended = async |place: &Self| place.metric("holdfast_executions_ended_total").await;
        let meter = self.fleet.meter();
        self.its_way.reset();
        let (ended_before, before) = (ended(self).await, meter.read()?);
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(arguments.rate)?);
        let (mut asked, mut busy) = (0.0, 0);
        for job in self.deployed.iter().cycle() {
            ticks.tick().await;
            if begun.elapsed().as_secs() >= arguments.seconds {
                break;
            }
            match job.start().await {
                Some(_) => asked += 1.0,
                None => busy += 1,
            }
        }
        let asking = begun.elapsed().as_secs_f64();
        let ended_meanwhile = ended(self).await - ended_before;
        let all = |now: f64| (now - ended_before >= asked).then_some(());
        until("the end of all runs", LONGEST, async || all(ended(self).await)).await;
        let (after, took) = (meter.read()?, begun.elapsed().as_secs_f64());
        say(format_args!("{}", listed(&self.its_way.counts())));
        table.figure(
            "runs asked for in a second, ended in a second meanwhile; refused for the job's last run",
            &format!("{:.1}, {:.1}; {busy}", asked / asking, ended_meanwhile / asking),
            &arguments.rate.to_string(),
            "",
        );
        let of = |after: f64, before: f64| (after - before) / asked;
        let (service, server) = (of(after.0, before.0), of(after.1, before.1));
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let at_rate = |each: f64| each * arguments.rate as f64 / 10.0;
        table.figure(
            &format!("CPU time at {} ended runs a second, of PostgreSQL", arguments.rate),
            &format!("{:.1} %, {:.1} %", at_rate(service), at_rate(server)),
            "",
            "",
        );
        table.figure(
            &format!("of that a run, of PostgreSQL; {asked:.0} runs ended after {took:.0} s"),
            &format!("{service:.1} ms, {server:.1} ms"),
            "",
            "",
        );
        let (now, most) = memory(meter.service)?;
        table.figure("resident memory afterwards, at most", &format!("{now:.0} MiB, {most:.0} MiB"), "", "");
        Ok(())
    }

    async fn drift(&self, arguments: &Arguments, table: &mut Table) -> Result<()> {
        self.settled().await?;
        let mut repaired = Vec::new();
        self.its_way.reset();
        for job in self.deployed.iter().cycle().take(arguments.edits) {
            let (_, before) = self.cron_jobs.get(&job.name).with_context(|| format!("no CronJob {}", job.name))?;
            let url = format!("{}/{}", self.objects(&self.own_way, "cronjobs"), job.name);
            let edit = json!({ "spec": { "schedule": EDITED } }).to_string();
            let begun = Instant::now();
            let request = self.http.patch(&url).header("content-type", "application/merge-patch+json").body(edit);
            let answer = request.send().await?;
            if !answer.status().is_success() {
                bail!("{url}: {}", answer.text().await?);
            }
            let edited = View::of(&answer.json().await?);
            let is_repaired = |view: &View| view.generation > edited.generation && view.schedule == before.schedule;
            let at = self.cron_jobs.since("it is repaired", &job.name, is_repaired).await?;
            repaired.push(at.duration_since(begun));
        }
        say(format_args!("{}", listed(&self.its_way.counts())));
        table.times("edit of a CronJob's schedule by others → it is reverted", &repaired, "p99 under 2 s");
        Ok(())
    }
}

/// An ordinary Job, on the node in name only.
fn bare_job(name: &str) -> Value {
    let mut pod = placement_in_name_only();
    pod["restartPolicy"] = json!("Never");
    pod["containers"] = json!([{"name": "job", "image": "nothing-pulls-this:1"}]);
    let spec = json!({"backoffLimit": 0, "ttlSecondsAfterFinished": 60, "template": {"spec": pod}});
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec})
}

/// Calls in lines for who follows.
fn listed(counts: &BTreeMap<(String, String), u64>) -> String {
    let lines: Vec<_> =
        counts.iter().map(|((method, path), count)| format!("    {count:>7} {method} {path}")).collect();
    lines.join("\n")
}

#[expect(clippy::cast_precision_loss, reason = "a count of deployments")]
fn float(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "a count of calls")]
fn share(calls: u64, count: usize) -> f64 {
    calls as f64 / float(count)
}
