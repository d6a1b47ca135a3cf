//! A service for one test, and what its tests say to it.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::clock::SystemClock;
use api::{
    Api, HttpMetrics, Limits, MemoryBudget, MetricsAccess, MetricsPage, PrincipalLimits, Principals, Scratch, Template,
    Transfers,
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use jiff::Timestamp;
use model::{
    BoxFuture, Problem,
    artifact::{Artifact, LastApplied},
    clock::{Clock, SharedClock},
    deployment::VersionDefaults,
    execution::Status,
    lock::LockKey,
    log::{LogChunk, LogPart},
    name::{ExecutionId, JobId, JobName},
    python::PythonVersion,
    runtime::{
        ApplyRequest, DeploymentSpec, ExecutionSpec, KnownExecution, Observed, Runtime, Seen, Stage, Started, Target,
    },
    source::ArchiveLimits,
};
use prometheus_client::registry::Registry;
use serde_json::Value;
use store::{
    Db,
    deployments::Outcome,
    executions::{Dispatched, Ended},
    keys::{KeyRing, SecretKey},
    leases::{self, Epoch},
};
use testing::{Database, Fresh};
use tower::ServiceExt;
use uuid::Uuid;

/// The files of the web page.
const PAGE: &[(&str, &[u8])] = &[("app.js", b"// the script"), ("shell.html", b"<title>The page</title>")];

/// A clock that a test advances, and that counts its identifiers.
#[derive(Debug)]
pub(crate) struct TestClock {
    seconds: AtomicI64,
    ids: AtomicU64,
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.seconds.load(Ordering::Relaxed)).unwrap()
    }

    /// Waiting is real.
    fn boot(&self) -> Duration {
        SystemClock.boot()
    }

    fn sleep_until_boot(&self, at: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep_until_boot(at)
    }

    fn new_id(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.ids.fetch_add(1, Ordering::Relaxed)) + 1)
    }
}

/// A clock that follows the system's.
pub(crate) fn system_clock() -> SharedClock {
    Arc::new(SystemClock)
}

/// A runtime that knows logs only.
#[derive(Debug, Default)]
pub(crate) struct TestRuntime {
    pub(crate) logs: Mutex<BTreeMap<String, String>>,
    pub(crate) panics: bool,
}

impl Runtime for TestRuntime {
    fn name(&self) -> &'static str {
        "test"
    }
    fn fires_ticks(&self) -> bool {
        false
    }
    fn parallel_runs_max(&self) -> usize {
        1
    }
    fn fingerprint(&self, _: &DeploymentSpec) -> String {
        "test".into()
    }
    fn observe<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Result<Observed, Problem>> {
        unreachable!("requests never ask for it")
    }
    fn apply<'a>(&'a self, _: &'a Target, _: &'a ApplyRequest) -> BoxFuture<'a, Result<Option<LastApplied>, Problem>> {
        unreachable!("requests never ask for it")
    }
    fn remove<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Result<(), Problem>> {
        unreachable!("requests never ask for it")
    }
    fn start<'a>(&'a self, _: &'a ExecutionSpec) -> BoxFuture<'a, Result<Started, Problem>> {
        unreachable!("requests never ask for it")
    }
    fn cancel<'a>(&'a self, _: &'a ExecutionId, _job_id: JobId) -> BoxFuture<'a, Result<(), Problem>> {
        unreachable!("requests never ask for it")
    }
    fn runs(&self) -> BoxFuture<'_, Result<Vec<KnownExecution>, Problem>> {
        unreachable!("requests never ask for it")
    }
    fn next<'a>(&'a self, _: &'a ExecutionId, _: &'a Seen) -> BoxFuture<'a, Result<Stage, Problem>> {
        unreachable!("requests never ask for it")
    }
    fn log<'a>(&'a self, id: &'a ExecutionId, _: LogPart) -> BoxFuture<'a, Result<Option<LogChunk>, Problem>> {
        assert!(!self.panics, "the log can't be read");
        let log = self.logs.lock().unwrap().get(id.as_str()).cloned();
        Box::pin(async move { Ok(log.map(|text| LogChunk { text, omitted_bytes: 0 })) })
    }
    fn forget<'a>(&'a self, _: &'a ExecutionId, _job_id: JobId) -> BoxFuture<'a, Result<(), Problem>> {
        unreachable!("requests never ask for it")
    }
    fn clean_up<'a>(&'a self, _: &'a [LockKey]) -> BoxFuture<'a, Result<(), Problem>> {
        unreachable!("requests never ask for it")
    }
}

fn artifact() -> Artifact {
    Artifact::Packages(LockKey::stored("lock".into()))
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.bytes)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks a status and an empty body.
    #[track_caller]
    pub(crate) fn is(&self, status: u16) {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        assert!(self.bytes.is_empty(), "{}", String::from_utf8_lossy(&self.bytes));
    }

    /// Checks a status and answers the body.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// Checks a status, the four sentences and the code, and returns the second sentence.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        let body = self.json();
        for sentence in ["what", "why", "consequences", "countermeasures"] {
            let text = body[sentence].as_str().unwrap_or_else(|| panic!("no {sentence}: {body}"));
            assert!(text.ends_with(['.', '"']), "{sentence}: {text}");
        }
        let code = body["code"].as_str().unwrap_or_else(|| panic!("no code: {body}"));
        assert!(model::problem::Code::ALL.iter().any(|known| known.as_str() == code), "{body}");
        assert!(!self.header("x-opid").is_empty());
        body["why"].as_str().unwrap().to_owned()
    }
}

tokio::task_local! {
    /// The database of a test's services.
    static DATABASE: Database;
}

/// Runs a test whose services are on this database, on this many threads beside its own.
pub(crate) fn run(on: Database, threads: usize, test: impl Future<Output = ()>) {
    let mut runtime = match threads {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(threads.max(1)).enable_all().build().unwrap();
    runtime.block_on(DATABASE.scope(on, test));
}

/// The database that this test runs on.
pub(crate) fn database() -> Database {
    DATABASE.get()
}

/// Makes of each `async fn name()` two tests: `name::on_sqlite` and `name::on_postgresql`.
macro_rules! on_each_database {
    (with $threads:literal threads: $($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn on_sqlite() {
                crate::support::run(testing::Database::Sqlite, $threads, super::$name());
            }

            #[test]
            fn on_postgresql() {
                crate::support::run(testing::Database::Postgresql, $threads, super::$name());
            }
        }
    )+};
    ($($name:ident),+ $(,)?) => {
        on_each_database!(with 0 threads: $($name),+);
    };
}

/// A service on an empty database.
pub(crate) struct Service {
    pub(crate) db: Db,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) runtime: Arc<TestRuntime>,
    pub(crate) ready: tokio::sync::watch::Sender<bool>,
    pub(crate) keys: Arc<KeyRing>,
    /// The bearer token of requests.
    pub(crate) bearer: Mutex<Option<String>>,
    pub(crate) memory: MemoryBudget,
    pub(crate) metrics: HttpMetrics,
    api: Arc<Api>,
    router: Router,
    database: Fresh,
}

const PRINCIPAL_LIMITS: PrincipalLimits =
    PrincipalLimits { uploads_per_minute: 1200, starts_per_minute: 6000, query_cost_per_minute: 20_000_000 };

/// The options that a test changes.
#[derive(Default)]
pub(crate) struct Wish {
    pub(crate) requests_max: Option<usize>,
    pub(crate) auth: Option<api::auth::Authentication>,
    pub(crate) panics: bool,
    pub(crate) templates: bool,
    pub(crate) logs_date_format: api::DateFormat,
    pub(crate) logs_start_offset_seconds: i64,
    pub(crate) archive_max_bytes: Option<usize>,
    pub(crate) memory_budget_mib: Option<usize>,
    pub(crate) principal_limits: Option<PrincipalLimits>,
    pub(crate) metrics_access: MetricsAccess,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::with(Wish::default()).await
    }

    pub(crate) async fn with(wish: Wish) -> Self {
        let database = database().fresh();
        let db = database.open().await;
        let clock = Arc::new(TestClock { seconds: AtomicI64::new(1_710_000_000), ids: AtomicU64::new(0) });
        let runtime = Arc::new(TestRuntime { panics: wish.panics, ..TestRuntime::default() });
        let (ready, readiness) = tokio::sync::watch::channel(true);
        let keys = Arc::new(KeyRing::from(SecretKey::new([7; 32])));
        let python = |minor| PythonVersion { major: 3, minor };
        let mut registry = Registry::default();
        let memory = MemoryBudget::new(wish.memory_budget_mib.unwrap_or(192));
        let template = |text: &str, names| wish.templates.then(|| Template::parse(text, names).unwrap());
        let archive_limits = ArchiveLimits::default();
        // Its files have no names.
        let shared: SharedClock = clock.clone();
        let scratch = Scratch::new(std::env::temp_dir()).unwrap();
        let transfers = Transfers::new(&scratch, &memory, &shared, wish.requests_max.unwrap_or(100), 4 * 1024 * 1024);
        let api = Api {
            db: db.clone(),
            clock: clock.clone(),
            runtime: runtime.clone(),
            keys: keys.clone(),
            archive_limits: ArchiveLimits {
                archive_max_bytes: wish.archive_max_bytes.unwrap_or(archive_limits.archive_max_bytes),
                ..archive_limits
            },
            default_zone: "UTC".into(),
            versions: Arc::new(VersionDefaults {
                python_versions: vec![python(10), python(11)],
                python_version: python(11),
                vdk_version: "0.3.1466514302".into(),
            }),
            hosts: vec!["holdfast.example".into()],
            logs_url: template(
                "https://logs.example/{team_name}/{execution_id}?from={start_time}",
                Template::OF_EXECUTION,
            )
            .map(|template| api::LogsUrl {
                template,
                date_format: wish.logs_date_format,
                start_offset: jiff::SignedDuration::from_secs(wish.logs_start_offset_seconds),
                end_offset: jiff::SignedDuration::ZERO,
            }),
            source_url_template: template("https://git.example/{job_name}", Template::OF_JOB),
            api_version: "0.1.0".into(),
            readiness,
            metrics: HttpMetrics::register(&mut registry),
            page: Arc::new(api::WebPage::new(PAGE)),
            metrics_page: Some(MetricsPage::new(Arc::new(registry), memory.clone(), Arc::clone(&shared))),
            metrics_access: wish.metrics_access,
            access_log: true,
            auth: wish.auth,
            limits: Limits::new(wish.requests_max.unwrap_or(100), Duration::from_secs(60)),
            principals: Principals::new(wish.principal_limits.unwrap_or(PRINCIPAL_LIMITS), clock.clone()),
            transfers,
            memory: memory.clone(),
        };
        let (metrics, api) = (api.metrics.clone(), Arc::new(api));
        let router = api::router(Arc::clone(&api));
        let bearer = Mutex::default();
        Self { db, clock, runtime, ready, keys, bearer, memory, metrics, api, router, database }
    }

    pub(crate) fn api(&self) -> Arc<Api> {
        Arc::clone(&self.api)
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, seconds: i64) {
        self.clock.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Begins a request as it is, and does not wait for its end.
    pub(crate) fn begin(&self, request: Request<Body>) -> tokio::task::JoinHandle<StatusCode> {
        let router = self.router.clone();
        tokio::spawn(async move { router.oneshot(request).await.unwrap().status() })
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    pub(crate) async fn call(&self, method: Method, uri: &str, body: Option<(&str, Vec<u8>)>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "localhost:8092")
            .header("accept", "application/json");
        if let Some(token) = &*self.bearer.lock().unwrap() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Some((media_type, bytes)) => {
                request = request.header("content-type", media_type);
                Body::from(bytes)
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.call(Method::GET, uri, None).await
    }

    pub(crate) async fn delete(&self, uri: &str) -> Answer {
        self.call(Method::DELETE, uri, None).await
    }

    pub(crate) async fn put(&self, uri: &str, body: impl ToString) -> Answer {
        self.call(Method::PUT, uri, Some(("application/json", body.to_string().into_bytes()))).await
    }

    pub(crate) async fn post(&self, uri: &str, body: impl ToString) -> Answer {
        self.call(Method::POST, uri, Some(("application/json", body.to_string().into_bytes()))).await
    }

    pub(crate) async fn patch(&self, uri: &str, body: impl ToString) -> Answer {
        self.call(Method::PATCH, uri, Some(("application/json", body.to_string().into_bytes()))).await
    }

    /// Sends a GraphQL query as the clients do.
    pub(crate) async fn query(&self, parameters: &[(&str, &str)]) -> Answer {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in parameters {
            query.append_pair(name, value);
        }
        self.get(&format!("/data-jobs/for-team/no-team-specified/jobs?{}", query.finish())).await
    }

    /// Creates a job as `vdk create` does.
    pub(crate) async fn create(&self, team: &str, name: &str) {
        let body = serde_json::json!({
            "job_name": name, "description": "", "team": team,
            "config": {"schedule": {}, "generate_keytab": true, "enable_execution_notifications": true,
                       "notification_delay_period_minutes": 240}});
        let team = team.replace(' ', "%20");
        self.post(&format!("/data-jobs/for-team/{team}/jobs?name={name}"), body).await.is(201);
    }

    /// Uploads a source and answers its version.
    pub(crate) async fn upload(&self, team: &str, name: &str) -> String {
        let uri = format!("/data-jobs/for-team/{team}/jobs/{name}/sources?reason=first%20try");
        let answer = self.call(Method::POST, &uri, Some(("application/octet-stream", archive("some-folder")))).await;
        answer.ok()["version_sha"].as_str().unwrap().to_owned()
    }

    /// Creates a job, uploads its source and deploys it, without waiting for anything.
    pub(crate) async fn deploy(&self, team: &str, name: &str) {
        self.create(team, name).await;
        let version = self.upload(team, name).await;
        let uri = format!("/data-jobs/for-team/{team}/jobs/{name}/deployments");
        self.post(&uri, serde_json::json!({"job_version": version})).await.is(202);
    }

    async fn epoch(&self) -> Epoch {
        match leases::find(&self.db, leases::SYNCHRONIZER).await.unwrap() {
            Some(lease) => Epoch(lease.epoch),
            None => leases::take(&self.db, leases::SYNCHRONIZER, "test", None).await.unwrap().unwrap(),
        }
    }

    /// Does what the synchronizer does for one job: it rolls out the desired deployment.
    pub(crate) async fn reach(&self, name: &str) {
        let outcome = Outcome::Reached { inputs_hash: "hash".into(), artifact: artifact(), last_applied: None };
        self.record(name, &outcome).await;
    }

    /// Has the rollout of a job fail for good.
    pub(crate) async fn fail(&self, name: &str, problem: Problem) {
        self.record(name, &Outcome::Failed { inputs_hash: "hash".into(), problem, retry_at: None }).await;
    }

    async fn record(&self, name: &str, outcome: &Outcome) {
        let epoch = self.epoch().await;
        let mut tx = self.db.write().await.unwrap();
        let job = store::jobs::find(&mut tx, &JobName::parse(name).unwrap()).await.unwrap().unwrap();
        let work = store::deployments::work(&mut tx, job.id).await.unwrap().unwrap();
        assert!(store::deployments::record(&mut tx, epoch, &work, outcome, self.clock.now()).await.unwrap());
        tx.commit().await.unwrap();
    }

    /// Does what the synchronizer does for one job: its deployment is removed.
    pub(crate) async fn remove(&self, name: &str) {
        let epoch = self.epoch().await;
        let mut tx = self.db.write().await.unwrap();
        let job = store::jobs::find(&mut tx, &JobName::parse(name).unwrap()).await.unwrap().unwrap();
        let work = store::deployments::work(&mut tx, job.id).await.unwrap().unwrap();
        store::deployments::record_removed(&mut tx, epoch, &work).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Does what the synchronizer does for one run: it starts.
    pub(crate) async fn run(&self, id: &str) {
        let epoch = self.epoch().await;
        let id = ExecutionId::parse(id).unwrap();
        let mut tx = self.db.write().await.unwrap();
        let run = store::executions::find(&mut tx, &id).await.unwrap().unwrap();
        let wanted = store::deployments::find(&mut tx, run.job_id).await.unwrap().unwrap();
        let dispatched = Dispatched { generation: wanted.generation, artifact: artifact() };
        assert!(store::executions::dispatch(&mut tx, epoch, &id, &dispatched).await.unwrap());
        assert!(store::executions::running(&mut tx, epoch, &id, self.clock.now()).await.unwrap());
        tx.commit().await.unwrap();
    }

    /// Does what the synchronizer does for one run: it ends.
    pub(crate) async fn end(&self, id: &str, status: Status, log: &str) {
        let epoch = self.epoch().await;
        let id = ExecutionId::parse(id).unwrap();
        let mut tx = self.db.write().await.unwrap();
        let ended = Ended { status, message: "Ended.", started_at: None, ended_at: self.clock.now() };
        assert!(store::executions::finish(&mut tx, epoch, &id, &ended).await.unwrap());
        let log = LogChunk { text: log.into(), omitted_bytes: 0 };
        store::logs::replace(&mut tx, &id, &log).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Starts a job and answers the id of the run.
    pub(crate) async fn execute(&self, team: &str, name: &str) -> String {
        let uri = format!("/data-jobs/for-team/{team}/jobs/{name}/deployments/production/executions");
        let answer = self.post(&uri, r#"{"started_by":"manual/vdk-control-cli","args":{}}"#).await;
        answer.is(202);
        answer.header("location").rsplit('/').next().unwrap().to_owned()
    }

    /// Takes the database away.
    pub(crate) async fn lose_database(&self) {
        self.db.close().await;
        assert!(self.database.file().is_none_or(|file| file.exists()));
    }
}

/// A ZIP archive with a folder entry, as the client makes it.
pub(crate) fn archive(top: &str) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.add_directory(format!("{top}/"), options).unwrap();
    for (name, content) in [("10_step.py", "def run(job_input): pass\n"), ("config.ini", "[owner]\nteam = t1\n")] {
        zip.start_file(format!("{top}/{name}"), options).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}
