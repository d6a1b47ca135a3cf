//! Attacks from the network, all kinds at once, on a service that has little memory.

#![allow(clippy::print_stdout, reason = "the figures of a test")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Cursor, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use devtools::binary::{self, Profile};
use e2e::{
    cgroup::MemoryLimit,
    count,
    issuer::Issuer,
    service::{Options, Service},
    wait,
};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// The limit of the shipped manifest (512 Mi).
const MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// How long each kind of attack is kept up.
const SECONDS_SHORT: usize = 15;
const SECONDS_LONG: usize = 600;
/// Requests of the normal client per second.
const NORMAL_PER_SECOND: u32 = 10;
/// The time within which 99 of 100 requests of the normal client are answered. A development build on a busy machine gets more.
const P99_MAX: Duration = Duration::from_secs(1);
const P99_MAX_DEVELOPMENT: Duration = Duration::from_secs(5);
/// A pause between two requests of an attacker, so that each loop is bounded.
const PAUSE: Duration = Duration::from_millis(5);

const METRICS: &str = "/data-jobs/debug/prometheus";
const SOURCES: &str = "/data-jobs/for-team/mallory/jobs/mallory-job/sources";
const PROPERTIES: &str = "/data-jobs/for-team/mallory/jobs/mallory-job/deployments/production/properties";

/// The beginnings of requests that never end.
const HALF_HEAD: &str = "GET /data-jobs/api-docs HTTP/1.1\r\nHost: localhost\r\nX-Half: ";
const HALF_BODY: &str = "POST /data-jobs/oauth2/token HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\n\
                         Content-Type: application/octet-stream\r\nContent-Length: 32505856\r\n\r\n";
const HALF_JSON: &str = "POST /data-jobs/oauth-credentials/client-ids HTTP/1.1\r\nHost: localhost\r\n\
                         Content-Type: application/json\r\nContent-Length: 200000\r\n\r\n[";

/// Every route of this list is asked for with each of the methods.
const PATHS: [&str; 10] = [
    "/data-jobs/for-team/t/jobs/j",
    "/data-jobs/for-team/t/jobs/j/sources",
    "/data-jobs/for-team/t/jobs/j/deployments",
    "/data-jobs/for-team/t/jobs/j/deployments/production/rollout",
    "/data-jobs/for-team/t/jobs/j/executions/e/logs",
    "/data-jobs/for-team/t/info",
    "/data-jobs/graphql",
    "/data-jobs/oauth2/token",
    "/data-jobs/api-docs",
    "/livez",
];
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "INVENTED"];

/// The state that the attackers share.
struct Attack {
    address: SocketAddr,
    http: reqwest::Client,
    token: String,
    until: Instant,
    /// How often each kind of attack got which answer.
    seen: Mutex<BTreeMap<(&'static str, String), usize>>,
    bombs: Vec<Vec<u8>>,
}

impl Attack {
    fn continues(&self) -> bool {
        Instant::now() < self.until
    }

    fn note(&self, kind: &'static str, answer: impl Into<String>) {
        *self.seen.lock().unwrap().entry((kind, answer.into())).or_default() += 1;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request and notes its status.
    async fn send(&self, kind: &'static str, method: Method, path: &str, token: bool, body: Option<(&str, Vec<u8>)>) {
        let mut request = self.http.request(method, self.url(path));
        if token {
            request = request.bearer_auth(&self.token);
        }
        if let Some((media_type, bytes)) = body {
            request = request.header("content-type", media_type).body(bytes);
        }
        match request.send().await {
            Ok(response) => {
                self.note(kind, response.status().as_str());
                let _ = response.bytes().await;
            }
            Err(_) => self.note(kind, "broken off"),
        }
        tokio::time::sleep(PAUSE).await;
    }

    /// A connection that takes little in at once.
    async fn narrow(&self) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().ok()?;
        socket.set_recv_buffer_size(2048).ok()?;
        timeout(Duration::from_secs(5), socket.connect(self.address)).await.ok()?.ok()
    }

    /// Sends a request and reads nothing of its answer.
    async fn read_nothing(&self, kind: &'static str, path: &str) {
        while self.continues() {
            if let Some(mut stream) = self.narrow().await {
                let request =
                    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", self.token);
                let sent = stream.write_all(request.as_bytes()).await;
                self.note(kind, if sent.is_ok() { "asked" } else { "broken off" });
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends the beginning of a request and waits for what the service makes of it.
    async fn send_half(&self, kind: &'static str, head: &str, body_bytes: usize) {
        while self.continues() {
            if let Some(mut stream) = self.narrow().await {
                let mut sent = stream.write_all(head.as_bytes()).await;
                let piece = vec![b'x'; 64 * 1024];
                let mut left = body_bytes;
                while left > 0 && sent.is_ok() {
                    let step = left.min(piece.len());
                    match timeout(Duration::from_secs(2), stream.write_all(&piece[..step])).await {
                        Ok(done) => sent = done,
                        Err(_) => break,
                    }
                    left -= step;
                }
                let mut answer = [0; 12];
                let read = timeout(Duration::from_secs(40), stream.read(&mut answer)).await;
                self.note(
                    kind,
                    match read {
                        Ok(Ok(12)) => String::from_utf8_lossy(&answer[9..]).into_owned(),
                        Ok(_) => "closed".to_owned(),
                        Err(_) => "left open".to_owned(),
                    },
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn half_json_of_a_user(&self) {
        let head = format!(
            "PUT {PROPERTIES} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nIdempotency-Key: k\r\n\
             Content-Type: application/json\r\nContent-Length: 2000000\r\n\r\n[",
            self.token
        );
        self.send_half("half JSON of a user", &head, 1_900_000).await;
    }

    /// Asks for every route with every method, so that metrics get new series.
    async fn invent_labels(&self) {
        while self.continues() {
            for path in PATHS {
                for method in METHODS {
                    let method = Method::from_bytes(method.as_bytes()).unwrap();
                    self.send("labels", method, path, path.len() % 2 == 0, None).await;
                }
            }
        }
    }

    async fn graphql(&self) {
        let documents = [
            fragments(22, 2),
            fragments(31, 2),
            fragments(20, 3),
            format!("{{{}}}", (0..13).fold(String::new(), |mut all, at| {
                let _ = write!(all, "a{at}:jobs(pageNumber:1,pageSize:1000){{content{{deployments{{executions(pageSize:100){{id}}}}}}}}");
                all
            })),
            format!("{}{}", "{a".repeat(4000), "}".repeat(4000)),
            "fragment f on Query{...f} {...f}".to_owned(),
            "{jobs(pageNumber:1,pageSize:1000,search:\"%_%_%_%a%b%c%d%\"){content{jobName config{description}}}}".to_owned(),
            format!(
                "{{jobs(pageNumber:1,pageSize:100,filter:[{}]){{totalItems}}}}",
                "{property:\"config.description\",pattern:\"*ba*ba*\"},".repeat(400)
            ),
        ];
        while self.continues() {
            for document in &documents {
                let body = json!({ "query": document }).to_string().into_bytes();
                let body = Some(("application/json", body));
                self.send("graphql", Method::POST, "/data-jobs/graphql", true, body).await;
            }
        }
    }

    async fn uploads(&self) {
        while self.continues() {
            for bomb in &self.bombs {
                let body = Some(("application/octet-stream", bomb.clone()));
                self.send("uploads", Method::POST, SOURCES, true, body).await;
            }
        }
    }

    async fn large_json(&self) {
        let flat = json!((0..60_000).map(|at| (format!("k{at}"), json!(at))).collect::<BTreeMap<_, _>>()).to_string();
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        while self.continues() {
            for body in [&flat, &deep] {
                let body = Some(("application/json", body.clone().into_bytes()));
                self.send("json", Method::PUT, PROPERTIES, true, body).await;
            }
        }
    }

    async fn garbage(&self) {
        let mut state = 1_u64;
        while self.continues() {
            if let Some(mut stream) = self.narrow().await {
                let bytes: Vec<u8> = (0..4096)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        state.to_be_bytes()[0]
                    })
                    .collect();
                let sent = stream.write_all(&bytes).await.is_ok();
                self.note("garbage", if sent { "sent" } else { "broken off" });
                let _ = timeout(Duration::from_secs(1), stream.read(&mut [0; 64])).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A document whose expansion is `spreads` to the power of `levels` fields.
fn fragments(levels: usize, spreads: usize) -> String {
    let mut text = format!("{{{}}}", "...f0 ".repeat(spreads));
    for level in 0..levels {
        let _ = write!(text, "fragment f{level} on Query{{{}}}", format!("...f{} ", level + 1).repeat(spreads));
    }
    let _ = write!(text, "fragment f{levels} on Query{{__typename}}");
    text
}

fn zip_of(fill: impl FnOnce(&mut ZipWriter<Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    fill(&mut writer);
    writer.finish().unwrap().into_inner()
}

/// Archives that cost more to read than to send.
fn bombs() -> Vec<Vec<u8>> {
    let deflated = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let zeros = vec![0; 1024 * 1024];
    vec![
        zip_of(|writer| {
            writer.start_file("job/zeros", deflated).unwrap();
            for _ in 0..255 {
                writer.write_all(&zeros).unwrap();
            }
        }),
        zip_of(|writer| {
            for at in 0..60_000 {
                writer.start_file(format!("job/{at}"), stored).unwrap();
            }
        }),
        zip_of(|writer| {
            writer.start_file("job/noise", stored).unwrap();
            let noise: Vec<u8> =
                (0_u32..30 * 1024 * 1024).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
            writer.write_all(&noise).unwrap();
        }),
        vec![b'P'; 1024 * 1024],
    ]
}

/// Requests of a team that has nothing to do with the attackers: how long each took, and how many were not answered well.
async fn normal_client(url: String, token: String, until: Instant) -> (Vec<Duration>, BTreeMap<String, usize>) {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
    let (mut took, mut bad) = (Vec::new(), BTreeMap::new());
    let job = format!("{url}/data-jobs/for-team/bob-team/jobs/bob-job");
    let query =
        "{jobs(pageNumber:1,pageSize:25){content{jobName config{team} deployments{enabled status}} totalItems}}";
    let mut turn = 0_u32;
    while Instant::now() < until {
        let request = match turn % 5 {
            0 => http.get(&job),
            1 => http.get(format!("{job}/executions")),
            2 => http.get(format!("{url}/data-jobs/for-team/bob-team/jobs")).query(&[("query", query)]),
            3 => http.put(format!("{job}/deployments/production/properties")).json(&json!({ "turn": turn })),
            _ => http.get(format!("{url}/readyz")),
        };
        turn += 1;
        let begun = Instant::now();
        let status = match request.bearer_auth(&token).send().await {
            Ok(response) => {
                let status = response.status();
                match response.bytes().await {
                    Ok(_) if status.is_success() => String::new(),
                    Ok(body) => format!("{status} {}", String::from_utf8_lossy(&body[..body.len().min(200)])),
                    Err(error) => format!("{error}"),
                }
            }
            Err(error) => format!("{error}"),
        };
        took.push(begun.elapsed());
        if !status.is_empty() {
            *bad.entry(status).or_default() += 1;
        }
        tokio::time::sleep((Duration::from_secs(1) / NORMAL_PER_SECOND).saturating_sub(begun.elapsed())).await;
    }
    (took, bad)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_attacks_at_once_leave_the_service_alive_and_a_normal_client_served() {
    let is_long = count(0, 1) == 1;
    let issuer = Issuer::start().await;
    let binary = is_long.then(|| binary::build(Profile::Release).expect("a release build"));
    let options = issuer.trusted(Options::default()).set("HOLDFAST_AUTH_TEAMS_TRUST_EACH_OTHER", "true");
    let mut service = Service::start_with(Options { binary, ..options });
    let process = service.process().id();
    // On some machines only root may make control groups; the peak is asserted in any case.
    let limit = MemoryLimit::impose(process, MEMORY_BYTES);
    if let Err(error) = &limit {
        println!("no hard limit of memory: {error}");
    }
    let url = service.url().to_owned();
    let address: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
    let (mallory, bob) = (issuer.token("mallory", "mallory"), issuer.token("bob", "bob-team"));
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
    for (token, team, job) in [(&mallory, "mallory", "mallory-job"), (&bob, "bob-team", "bob-job")] {
        let body = json!({ "job_name": job, "description": "", "team": team, "config": { "schedule": {} } });
        let created = http.post(format!("{url}/data-jobs/for-team/{team}/jobs?name={job}")).json(&body);
        assert_eq!(created.bearer_auth(token).send().await.unwrap().status(), 201);
    }
    let bombs = bombs();
    let sources = format!("{url}/data-jobs/for-team/mallory/jobs/mallory-job/sources");
    let upload = http.post(&sources).bearer_auth(&mallory).header("content-type", "application/octet-stream");
    assert_eq!(upload.body(bombs[2].clone()).send().await.unwrap().status(), 200, "what is downloaded slowly");

    let until = Instant::now() + Duration::from_secs(count(SECONDS_SHORT, SECONDS_LONG) as u64);
    let attack = Arc::new(Attack { address, http, token: mallory, until, seen: Mutex::default(), bombs });
    let mut attackers = JoinSet::new();
    let mut add = |times: usize, make: &dyn Fn(Arc<Attack>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        for _ in 0..times {
            attackers.spawn(make(Arc::clone(&attack)));
        }
    };
    add(4, &|a| Box::pin(async move { a.read_nothing("metrics unread", METRICS).await }));
    add(4, &|a| Box::pin(async move { a.invent_labels().await }));
    add(200, &|a| Box::pin(async move { a.send_half("half headers", HALF_HEAD, 0).await }));
    add(24, &|a| Box::pin(async move { a.send_half("half keyed bodies", HALF_BODY, 32_000_000).await }));
    add(24, &|a| Box::pin(async move { a.send_half("half JSON of strangers", HALF_JSON, 150_000).await }));
    add(24, &|a| Box::pin(async move { a.half_json_of_a_user().await }));
    add(4, &|a| Box::pin(async move { a.graphql().await }));
    add(4, &|a| Box::pin(async move { a.uploads().await }));
    add(16, &|a| Box::pin(async move { a.read_nothing("downloads unread", SOURCES).await }));
    add(4, &|a| Box::pin(async move { a.large_json().await }));
    add(2, &|a| Box::pin(async move { a.garbage().await }));
    let normal = tokio::spawn(normal_client(url, bob, until));
    let (mut took, bad) = normal.await.unwrap();

    for ((kind, answer), times) in &*attack.seen.lock().unwrap() {
        println!("{kind}: {answer}: {times} times");
    }
    assert!(service.is_running(), "the process ended:\n{}", service.log());
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().split_whitespace().nth(1).unwrap();
    took.sort_unstable();
    let p99 = took[(took.len() * 99).div_ceil(100) - 1];
    println!(
        "normal client: {} requests, p50 {:?}, p99 {p99:?}, longest {:?}; peak resident memory {peak} KiB; not answered well: {bad:?}",
        took.len(),
        took[took.len() / 2],
        took.last().unwrap(),
    );
    let failed: usize = bad.values().sum();
    assert!(failed * 100 <= took.len(), "{failed} of {} requests of a normal client: {bad:?}", took.len());
    assert!(p99 < if is_long { P99_MAX } else { P99_MAX_DEVELOPMENT }, "p99 of a normal client: {p99:?}");
    // No attack outlives its client for long: the next request finds a free place.
    attackers.shutdown().await;
    let base = service.url().to_owned();
    wait::until("the service answers after the attack", wait::SOON, async || {
        reqwest::get(format!("{base}/readyz")).await.ok().filter(|answer| answer.status() == 200)
    })
    .await;
    assert!(service.log().matches("panicked").count() == 0, "{}", service.log());
    drop(service);
    drop(limit);
}
