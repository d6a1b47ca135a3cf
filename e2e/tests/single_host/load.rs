//! Three instances under a mixed load, with an oracle that keeps its own book of what was accepted.

#![allow(clippy::print_stdout, reason = "the figures of a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{
    TEAM,
    api::{Answer, Api},
    count,
    job::Job,
    service::{Options, Service},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};
use testing::{Fresh, Server};

const CLIENTS: usize = 64;
/// So many of them have a deployed job and start it; the others create, change, deploy and delete.
const RUNNERS: usize = 8;
/// Jobs of each of the others.
const JOBS: usize = 3;
/// Between two requests of a client.
const THINK: Duration = Duration::from_millis(40);

/// The knowledge of a client about one of its jobs: every value that may be stored.
#[derive(Debug, Clone)]
struct Entry {
    exists: BTreeSet<bool>,
    description: BTreeSet<String>,
    properties: BTreeSet<String>,
    /// The version that its deployment asks for; empty without one.
    version: BTreeSet<String>,
    /// Accepted starts.
    starts: BTreeSet<String>,
    /// Starts that were answered by nothing certain.
    uncertain_starts: usize,
}

impl Entry {
    fn new(exists: bool) -> Self {
        Self {
            exists: [exists].into(),
            description: [String::new()].into(),
            properties: ["{}".to_owned()].into(),
            version: [String::new()].into(),
            starts: BTreeSet::new(),
            uncertain_starts: 0,
        }
    }

    fn certainly(&self, exists: bool) -> bool {
        self.exists == [exists].into()
    }
}

/// The outcome of a request.
enum Verdict {
    Accepted(Answer),
    Refused(Answer),
    Uncertain,
}

/// The shared state of all clients.
struct Load {
    apis: Vec<Api>,
    bases: Vec<String>,
    killed: [AtomicBool; 3],
    over: AtomicBool,
    accepted: AtomicUsize,
    refused: AtomicUsize,
    unavailable: AtomicUsize,
    overloaded: AtomicUsize,
    broken: AtomicUsize,
}

/// A small generator of numbers, the same ones each time.
struct SeededRng(u64);

impl SeededRng {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % sides
    }
}

impl Load {
    async fn ask(&self, rng: &mut SeededRng, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Verdict {
        // A client that a dead instance turns away goes to another one, as behind a load balancer.
        let mut at = rng.roll(self.apis.len());
        if self.killed[at].load(Ordering::SeqCst) {
            at = (at + 1) % self.apis.len();
        }
        let url = self.apis[at].url(path);
        match self.apis[at].try_send_to(method, &url, body).await {
            Ok(answer) => self.judge(answer),
            Err(error) => {
                self.broken.fetch_add(1, Ordering::Relaxed);
                assert!(self.killed[at].load(Ordering::SeqCst), "{} broke off: {error:?}", self.bases[at]);
                Verdict::Uncertain
            }
        }
    }

    fn judge(&self, answer: Answer) -> Verdict {
        let counted = match answer.status.as_u16() {
            503 => &self.unavailable,
            429 => &self.overloaded,
            200..300 => &self.accepted,
            _ => &self.refused,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        match answer.status.as_u16() {
            200..300 => Verdict::Accepted(answer),
            status @ (503 | 429) => {
                assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
                answer.sentences();
                if status == 503 { Verdict::Uncertain } else { Verdict::Refused(answer) }
            }
            400 | 404 | 409 => Verdict::Refused(answer),
            _ => panic!("{}: {} {}", answer.asked, answer.status, answer.text()),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the form in which requests are sent")]
fn json_body(value: &Value) -> Option<(&'static str, Vec<u8>)> {
    Some(("application/json", value.to_string().into_bytes()))
}

fn definition(name: &str, description: &str) -> Value {
    json!({ "job_name": name, "description": description, "team": TEAM, "config": { "schedule": {} } })
}

fn is_overload(answer: &Answer) -> bool {
    answer.status == 429
}

/// One step of a client that has jobs which don't run.
async fn change(load: &Load, rng: &mut SeededRng, name: &str, entry: &mut Entry, step: usize) {
    let job = format!("/jobs/{name}");
    if entry.certainly(false) || (entry.exists.contains(&false) && rng.roll(2) == 0) {
        let description = format!("created in step {step}");
        let path = format!("/jobs?name={name}");
        let body = json_body(&definition(name, &description));
        let before = entry.clone();
        match load.ask(rng, Method::POST, &path, body).await {
            Verdict::Accepted(_) => {
                assert!(before.exists.contains(&false), "{name} was created twice");
                *entry = Entry::new(true);
                entry.description = [description].into();
            }
            Verdict::Refused(answer) if is_overload(&answer) => {}
            Verdict::Refused(answer) => {
                assert!(before.exists.contains(&true), "{name} can't be created: {}", answer.text());
                entry.exists = [true].into();
            }
            Verdict::Uncertain => {
                entry.exists.insert(true);
                entry.description.insert(description);
                entry.properties.insert("{}".into());
                entry.version.insert(String::new());
            }
        }
        return;
    }
    // A rejected request for a job that certainly exists means that it was lost.
    let refused = |entry: &mut Entry, answer: &Answer| {
        if !is_overload(answer) {
            assert!(entry.exists.contains(&false), "{name} is lost: {} {}", answer.asked, answer.text());
            entry.exists = [false].into();
        }
    };
    match rng.roll(11) {
        0 | 1 => {
            let description = format!("changed in step {step}");
            match load.ask(rng, Method::PUT, &job, json_body(&definition(name, &description))).await {
                Verdict::Accepted(_) => {
                    entry.exists = [true].into();
                    entry.description = [description].into();
                }
                Verdict::Refused(answer) => refused(entry, &answer),
                Verdict::Uncertain => {
                    entry.description.insert(description);
                }
            }
        }
        2 | 3 => {
            let properties = json!({ "step": step });
            let path = format!("{job}/deployments/production/properties");
            match load.ask(rng, Method::PUT, &path, json_body(&properties)).await {
                Verdict::Accepted(_) => entry.properties = [properties.to_string()].into(),
                Verdict::Refused(answer) => refused(entry, &answer),
                Verdict::Uncertain => {
                    entry.properties.insert(properties.to_string());
                }
            }
        }
        4 => {
            let archive = Job::new(name).step("10_step.py", &format!("print({step})")).archive();
            let body = Some(("application/octet-stream", archive));
            let version = match load.ask(rng, Method::POST, &format!("{job}/sources"), body).await {
                Verdict::Accepted(answer) => answer.json()["version_sha"].as_str().unwrap_or_default().to_owned(),
                Verdict::Refused(answer) => return refused(entry, &answer),
                Verdict::Uncertain => return,
            };
            let wanted = json!({ "job_version": version });
            match load.ask(rng, Method::POST, &format!("{job}/deployments"), json_body(&wanted)).await {
                Verdict::Accepted(_) => entry.version = [version].into(),
                Verdict::Refused(answer) => refused(entry, &answer),
                Verdict::Uncertain => {
                    entry.version.insert(version);
                }
            }
        }
        5 => match load.ask(rng, Method::DELETE, &job, None).await {
            Verdict::Accepted(_) => *entry = Entry::new(false),
            Verdict::Refused(answer) => refused(entry, &answer),
            Verdict::Uncertain => {
                entry.exists.insert(false);
            }
        },
        6 => match load.ask(rng, Method::GET, &format!("{job}/deployments/production/rollout"), None).await {
            Verdict::Accepted(answer) => {
                let version = answer.json()["desired"]["job_version"].as_str().unwrap_or_default().to_owned();
                assert!(entry.version.contains(&version), "{name}: {version:?} and not {entry:?}");
            }
            // A job without a deployment has no rollout.
            Verdict::Refused(answer) if entry.version.contains("") || is_overload(&answer) => {}
            Verdict::Refused(answer) => refused(entry, &answer),
            Verdict::Uncertain => {}
        },
        7 => {
            let query =
                "/jobs?query=%7Bjobs(pageNumber:1,pageSize:25)%7Bcontent%7BjobName,deployments%7Benabled%7D%7D%7D%7D";
            if let Verdict::Accepted(answer) = load.ask(rng, Method::GET, query, None).await {
                assert!(answer.json()["data"]["content"].is_array(), "{}", answer.text());
            }
        }
        _ => match load.ask(rng, Method::GET, &job, None).await {
            // A read after an answer sees what was accepted, whichever instance is asked.
            Verdict::Accepted(answer) => {
                let description = answer.json()["description"].as_str().unwrap_or_default().to_owned();
                assert!(entry.exists.contains(&true), "{name} is back: {}", answer.text());
                assert!(entry.description.contains(&description), "{name}: {description:?} and not {entry:?}");
            }
            Verdict::Refused(answer) => refused(entry, &answer),
            Verdict::Uncertain => {}
        },
    }
}

/// One step of a client that starts its job.
async fn run(load: &Load, rng: &mut SeededRng, name: &str, entry: &mut Entry) {
    let executions = format!("/jobs/{name}/executions");
    match rng.roll(8) {
        0 => {
            let path = format!("/jobs/{name}/deployments/production/executions");
            let body = json_body(&json!({ "started_by": "load" }));
            match load.ask(rng, Method::POST, &path, body).await {
                Verdict::Accepted(answer) => {
                    assert!(entry.starts.insert(answer.location_id()), "an id was given twice");
                }
                Verdict::Refused(answer) => assert!(matches!(answer.status.as_u16(), 409 | 429), "{}", answer.text()),
                Verdict::Uncertain => entry.uncertain_starts += 1,
            }
        }
        1 => {
            if let Some(id) = entry.starts.last() {
                let _ = load.ask(rng, Method::DELETE, &format!("{executions}/{id}"), None).await;
            }
        }
        _ => {
            if let Verdict::Accepted(answer) = load.ask(rng, Method::GET, &executions, None).await {
                let listed = answer.json();
                let ids: BTreeSet<_> =
                    listed.as_array().into_iter().flatten().filter_map(|e| e["id"].as_str()).collect();
                let lost = entry.starts.iter().find(|id| !ids.contains(id.as_str()));
                assert!(lost.is_none(), "{lost:?} is lost: {ids:?}");
                let active = ["submitted", "running"];
                let active = |e: &&Value| active.contains(&e["status"].as_str().unwrap_or_default());
                assert!(listed.as_array().into_iter().flatten().filter(active).count() <= 1, "two at once: {listed}");
            }
        }
    }
}

async fn client(load: Arc<Load>, number: usize, mut book: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    let mut rng = SeededRng(0x5DEE_CE66 + number as u64);
    let names: Vec<_> = book.keys().cloned().collect();
    let mut step = 0;
    while !load.over.load(Ordering::SeqCst) {
        step += 1;
        let name = &names[rng.roll(names.len())];
        let entry = book.get_mut(name).expect("an entry");
        if number < RUNNERS {
            run(&load, &mut rng, name, entry).await;
        } else {
            change(&load, &mut rng, name, entry, step).await;
        }
        tokio::time::sleep(THINK).await;
    }
    book
}

/// The stored values are those of the book.
async fn compare(api: &Api, name: &str, entry: &Entry) {
    let answer = api.get(&format!("/jobs/{name}")).await;
    if answer.status == 404 {
        assert!(entry.exists.contains(&false), "{name} is lost: {entry:?}");
        return;
    }
    let job = answer.is(200).json();
    assert!(entry.exists.contains(&true), "{name} is back: {job}");
    let description = job["description"].as_str().unwrap_or_default();
    assert!(entry.description.contains(description), "{name}: {description:?} is not in {entry:?}");
    let properties = api.get(&format!("/jobs/{name}/deployments/production/properties")).await.is(200).json();
    assert!(entry.properties.contains(&properties.to_string()), "{name}: {properties} is not in {entry:?}");
    let rollout = api.get(&format!("/jobs/{name}/deployments/production/rollout")).await;
    let version = if rollout.status == 404 {
        String::new()
    } else {
        rollout.is(200).json()["desired"]["job_version"].as_str().unwrap_or_default().to_owned()
    };
    assert!(entry.version.contains(&version), "{name}: {version:?} is not in {entry:?}");
    if !version.is_empty() {
        api.reached(name, &version).await;
    }
}

/// The epochs in which an instance led, by its log.
fn epochs(service: &Service) -> Vec<u64> {
    let number = |line: &str| line.split("epoch=").nth(1)?.split_whitespace().next()?.parse().ok();
    service.log().lines().filter(|line| line.contains("this instance leads")).filter_map(number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_accepted_change_is_lost_when_the_database_restarts_and_an_instance_is_killed_under_load() {
    let server = Server::start();
    let database = Fresh::on(&server);
    let options = Options::default()
        .set("HOLDFAST_DATABASE_URL", database.url())
        .set("HOLDFAST_LEASE_SECONDS", "5")
        .set("HOLDFAST_LOG", "info,api=error");
    let mut first = Service::start_with(options);
    let (second, third) = (first.another(), first.another());
    let ran = first.beside().join("ran");

    let step = format!("with open('{}', 'a') as ran: ran.write(os.environ['VDK_EXECUTION_ID'] + '\\n')", ran.display());
    let mut books: Vec<BTreeMap<String, Entry>> = Vec::new();
    for number in 0..CLIENTS {
        let names = if number < RUNNERS { 1 } else { JOBS };
        books.push((0..names).map(|n| (format!("load-{number}-{n}-job"), Entry::new(number < RUNNERS))).collect());
    }
    for book in books.iter_mut().take(RUNNERS) {
        let name = book.keys().next().expect("a job").clone();
        let version = first.api().deployed(&Job::new(&name).step("10_step.py", &step)).await;
        book.get_mut(&name).expect("its entry").version = [version].into();
    }

    let load = Arc::new(Load {
        apis: [&first, &second, &third].map(Service::api).into(),
        bases: [&first, &second, &third].map(|s| s.url().to_owned()).into(),
        killed: [const { AtomicBool::new(false) }; 3],
        over: AtomicBool::new(false),
        accepted: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
        unavailable: AtomicUsize::new(0),
        overloaded: AtomicUsize::new(0),
        broken: AtomicUsize::new(0),
    });
    let begun = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for (number, book) in books.into_iter().enumerate() {
        clients.spawn(client(load.clone(), number, book));
    }
    let quarter = Duration::from_secs(u64::try_from(count(5, 40)).unwrap_or(5));
    wait::let_pass(quarter).await;
    // The instance that was first leads.
    load.killed[0].store(true, Ordering::SeqCst);
    first.kill();
    wait::let_pass(quarter).await;
    let unavailable_before = load.unavailable.load(Ordering::Relaxed);
    server.stop();
    wait::until("callers hear that the database is away", wait::SOON, async || {
        (load.unavailable.load(Ordering::Relaxed) > unavailable_before).then_some(())
    })
    .await;
    server.start_again();
    let back = Instant::now();
    let accepted_before = load.accepted.load(Ordering::Relaxed);
    wait::until("changes are accepted again", wait::SOON, async || {
        (load.accepted.load(Ordering::Relaxed) > accepted_before + CLIENTS).then_some(())
    })
    .await;
    let back = back.elapsed();
    wait::let_pass(quarter * 2).await;
    load.over.store(true, Ordering::SeqCst);
    let mut book = BTreeMap::new();
    while let Some(ended) = clients.join_next().await {
        book.extend(ended.expect("a client that found nothing wrong"));
    }
    let seconds = begun.elapsed().as_secs_f64();

    let (second_api, third_api) = (second.api(), third.api());
    for (at, (name, entry)) in book.iter().enumerate() {
        compare(if at % 2 == 0 { &second_api } else { &third_api }, name, entry).await;
    }
    let mut runs = 0;
    let mut succeeded = BTreeSet::new();
    for (name, entry) in book.iter().filter(|(_, entry)| !entry.starts.is_empty() || entry.uncertain_starts > 0) {
        for id in &entry.starts {
            let ended = second_api.ended(name, id).await;
            assert!(matches!(ended["status"].as_str(), Some("succeeded" | "cancelled")), "{ended}");
            if ended["status"] == "succeeded" {
                succeeded.insert(id.clone());
            }
        }
        let all = second_api.executions(name).await.len();
        assert!(all <= entry.starts.len() + entry.uncertain_starts, "{name}: {all} runs of {entry:?}");
        runs += all;
    }
    let ran = fs::read_to_string(&ran).unwrap_or_default();
    let ran: Vec<_> = ran.lines().map(str::to_owned).collect();
    let once: BTreeSet<_> = ran.iter().cloned().collect();
    assert_eq!(once.len(), ran.len(), "a run was doubled: {ran:?}");
    assert!(succeeded.is_subset(&once), "{succeeded:?} {once:?}");

    // No instance led in another's epoch, and one leads now.
    let mut epochs_in_order: Vec<_> = [&first, &second, &third].into_iter().flat_map(epochs).collect();
    epochs_in_order.sort_unstable();
    assert!(
        epochs_in_order.windows(2).all(|pair| pair[0] < pair[1]) && epochs_in_order.len() >= 2,
        "{epochs_in_order:?}"
    );

    let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "{CLIENTS} clients, {seconds:.1} s: {} accepted, {} refused, {} unavailable, {} overloaded, {} broken off; {runs} runs; \
         accepted again {back:.1?} after the restart; epochs {epochs_in_order:?}",
        of(&load.accepted),
        of(&load.refused),
        of(&load.unavailable),
        of(&load.overloaded),
        of(&load.broken),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_places_are_asked_to_retry_at_once() {
    const PLACES: usize = 4;
    let database = testing::Database::Postgresql.empty();
    let service = Service::start_with(
        Options::default()
            .set("HOLDFAST_DATABASE_URL", database.url())
            .set("HOLDFAST_REQUESTS_MAX", &PLACES.to_string()),
    );
    let api = service.api();
    let _ = api.create("one-of-many").await.is(201);
    let database = Arc::new(database);
    let _ = database.psql("create table seen_enough (at timestamptz)");
    // Every read waits for the one that has the table, until the test says that it has seen enough.
    let holder = {
        let database = Arc::clone(&database);
        let sql = "do $$ begin lock table data_job in access exclusive mode; \
                   for i in 1..600 loop exit when exists (select 1 from seen_enough); perform pg_sleep(0.05); \
                   end loop; end $$";
        tokio::task::spawn_blocking(move || database.psql(sql))
    };
    let locks = |which: &str| {
        let sql = format!(
            "select count(*) from pg_locks l join pg_stat_activity a using (pid) \
             where l.relation = 'data_job'::regclass and {which}"
        );
        database.psql(&sql).parse().unwrap_or(0)
    };
    wait::until("the table is held", wait::SOON, async || {
        (locks("l.granted and l.mode = 'AccessExclusiveLock'") == 1).then_some(())
    })
    .await;
    let ask = || {
        let api = api.clone();
        async move { api.get("/jobs/one-of-many").await }
    };
    let taken: Vec<_> = (0..PLACES).map(|_| tokio::spawn(ask())).collect();
    let waiting = "not l.granted and a.application_name like '% api'";
    wait::until("every place is taken", wait::SOON, async || (locks(waiting) == PLACES).then_some(())).await;
    for _ in 0..3 * PLACES {
        let answer = ask().await.is(429);
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        answer.sentences();
    }
    let _ = database.psql("insert into seen_enough values (now())");
    holder.await.expect("the table is released");
    for answer in taken {
        let answer = answer.await.expect("an answer");
        // A machine that stood still for longer than a lock is waited for is no reason to lose one.
        assert!(answer.status == 200 || answer.headers.contains_key("retry-after"), "{answer:?}");
    }
    let _ = ask().await.is(200);
}
