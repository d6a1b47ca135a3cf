//! A synchronizer on a real database with a clock and a runtime that the test holds in its hands.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::unused_self, missing_docs, unreachable_pub, reason = "test support")]

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use app::{deployments::Missing, executions::StartRequest, jobs::JobDefinition};
use clock::SystemClock;
use jiff::{SignedDuration, Timestamp};
use model::{
    BoxFuture, Problem,
    access::Caller,
    artifact::{Artifact, LastApplied},
    build::{ArtifactBuilder, ArtifactRequest, BuildInputs, BuildKey, Built, Report},
    clock::Clock,
    deployment::{DeploymentChange, VersionDefaults},
    execution::{EndCause, Execution, ExecutionEnd, Status},
    job::JobConfig,
    lock::{Lock, LockKey, ResolutionInputs},
    log::{LogChunk, LogPart},
    name::{ExecutionId, JobId},
    python::PythonVersion,
    runtime::{
        ApplyRequest, Changes, DeploymentSpec, ExecutionSpec, KnownExecution, Observed, Runtime, ScheduledExecution,
        Seen, Stage, Started, Target,
    },
    source::{Source, SourceVersion},
    variables::JobOptions,
};
use store::{
    Db, Tx,
    keys::{KeyRing, SecretKey},
};
use sync::{Options, Synchronizer, cleanup::Rules, gauges::Gauges};
use testing::{Database, Fresh};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const TEAM: &str = "a team";

#[derive(Debug)]
pub struct TestClock(Mutex<Timestamp>);

impl TestClock {
    pub fn at(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    /// Waiting is real.
    fn boot(&self) -> Duration {
        SystemClock.boot()
    }

    fn sleep_until_boot(&self, at: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep_until_boot(at)
    }

    fn new_id(&self) -> Uuid {
        SystemClock.new_id()
    }
}

/// A method of the runtime that a test scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Observe,
    Apply,
    Remove,
    Start,
    Cancel,
    Runs,
    Next,
    Log,
    Forget,
    Build,
    Exists,
}

/// The behaviour of one call of a method.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Nothing happens, and the caller gets this.
    Fails(Problem),
    /// The usual work is done, and the caller gets this.
    Lost(Problem),
    /// The call waits until the test opens the gate; then it takes the next answer.
    Waits(Gate),
    /// The usual work.
    Works,
    Panics,
}

/// Holds a call up until the test opens it.
#[derive(Debug, Clone, Default)]
pub struct Gate(CancellationToken);

impl Gate {
    pub fn open(&self) {
        self.0.cancel();
    }
}

/// A runtime whose answers a test writes.
#[derive(Debug, Default)]
pub struct TestRuntime {
    pub state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch that a test turns")]
pub struct State {
    pub made: HashMap<JobId, String>,
    pub applied: Vec<(JobId, i64)>,
    pub removed: Vec<JobId>,
    /// The behaviour of the next calls of a method, in order; later calls do their usual work.
    pub script: HashMap<Method, VecDeque<Answer>>,
    /// Methods that fail as long as they are in this map.
    pub failing: HashMap<Method, Problem>,
    /// How often each method was called.
    pub calls: HashMap<Method, usize>,
    /// Applies wait as long as this is set.
    pub apply_blocked: bool,
    /// The requirements of each build that was begun.
    pub built: Vec<String>,
    /// How many of them are over, done or aborted.
    pub builds_ended: usize,
    /// Whether builds give images instead of packages.
    pub builds_images: bool,
    /// The images in the registry.
    pub images: BTreeSet<String>,
    pub started: Vec<ExecutionSpec>,
    pub stages: HashMap<ExecutionId, Stage>,
    pub cancelled: Vec<ExecutionId>,
    pub forgotten: Vec<ExecutionId>,
    pub parallel_runs_max: usize,
    /// Whether ticks start runs without the service; then these are the ones that they started.
    pub fires_ticks: bool,
    pub scheduled: HashMap<ExecutionId, ScheduledExecution>,
    /// The result of starts from now on.
    pub start_answer: Option<Started>,
    /// The stage of runs that start from now on, if it is another one than running.
    pub start_stage: Option<Stage>,
    pub news: Changes,
    pub mounts_team_secrets: bool,
    /// Until when changes were allowed, each time that this was said.
    pub writes_until: Vec<Duration>,
}

impl TestRuntime {
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.notify_waiters();
        result
    }

    pub fn end(&self, id: &ExecutionId, at: Timestamp, cause: EndCause) {
        let end = ExecutionEnd { started_at: Some(at), ended_at: at, cause, termination_message: None };
        self.change(|s| s.stages.insert(id.clone(), Stage::Ended(end)));
    }

    /// Has the next calls of a method do this, after what they are to do already.
    pub fn script(&self, method: Method, answers: impl IntoIterator<Item = Answer>) {
        self.change(|s| s.script.entry(method).or_default().extend(answers));
    }

    /// Has every call of a method fail from now on, or none.
    pub fn fail(&self, method: Method, problem: Option<Problem>) {
        self.change(|s| match problem {
            Some(problem) => s.failing.insert(method, problem),
            None => s.failing.remove(&method),
        });
    }

    pub fn calls(&self, method: Method) -> usize {
        self.state.lock().unwrap().calls.get(&method).copied().unwrap_or(0)
    }

    /// Whether calls did all that was scripted for a method.
    pub fn is_done(&self, method: Method) -> bool {
        self.state.lock().unwrap().script.get(&method).is_none_or(VecDeque::is_empty)
    }

    /// Does the work of a method as it was scripted.
    async fn answer<T>(&self, method: Method, work: impl Future<Output = T> + Send) -> Result<T, Problem> {
        *self.state.lock().unwrap().calls.entry(method).or_default() += 1;
        loop {
            let answer = {
                let mut state = self.state.lock().unwrap();
                let scripted = state.script.get_mut(&method).and_then(VecDeque::pop_front);
                scripted.or_else(|| state.failing.get(&method).cloned().map(Answer::Fails))
            };
            match answer.unwrap_or(Answer::Works) {
                Answer::Fails(problem) => return Err(problem),
                Answer::Lost(problem) => {
                    work.await;
                    return Err(problem);
                }
                Answer::Waits(gate) => gate.0.cancelled().await,
                Answer::Works => return Ok(work.await),
                Answer::Panics => panic!("{method:?} panics by its script"),
            }
        }
    }

    async fn wait_while(&self, mut busy: impl FnMut(&State) -> bool + Send) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !busy(&self.state.lock().unwrap()) {
                return;
            }
            changed.await;
        }
    }
}

impl Runtime for TestRuntime {
    fn name(&self) -> &'static str {
        "test"
    }

    fn fires_ticks(&self) -> bool {
        self.state.lock().unwrap().fires_ticks
    }

    fn mounts_team_secrets(&self) -> bool {
        self.state.lock().unwrap().mounts_team_secrets
    }

    fn parallel_runs_max(&self) -> usize {
        self.state.lock().unwrap().parallel_runs_max
    }

    fn fingerprint(&self, _blueprint: &DeploymentSpec) -> String {
        String::new()
    }

    fn may_write_until(&self, until: Duration) {
        self.change(|s| s.writes_until.push(until));
    }

    fn observe<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Observed, Problem>> {
        Box::pin(self.answer(Method::Observe, async {
            let made = self.state.lock().unwrap().made.get(&target.job_id).cloned();
            made.map_or(Observed::Missing, |inputs_hash| Observed::Present { inputs_hash })
        }))
    }

    fn apply<'a>(
        &'a self,
        _target: &'a Target,
        wanted: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<Option<LastApplied>, Problem>> {
        Box::pin(async move {
            let deployment = &wanted.deployment_spec.deployment;
            self.change(|s| s.applied.push((deployment.job_id, deployment.generation)));
            self.wait_while(|s| s.apply_blocked).await;
            let made = async {
                self.change(|s| s.made.insert(deployment.job_id, wanted.inputs_hash.clone()));
                None
            };
            self.answer(Method::Apply, made).await
        })
    }

    fn remove<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(self.answer(Method::Remove, async {
            self.change(|s| {
                s.made.remove(&target.job_id);
                s.removed.push(target.job_id);
            });
        }))
    }

    fn start<'a>(&'a self, run: &'a ExecutionSpec) -> BoxFuture<'a, Result<Started, Problem>> {
        Box::pin(self.answer(Method::Start, async {
            self.change(|s| {
                s.started.push(run.clone());
                let answer = s.start_answer.clone().unwrap_or(Started::Running);
                if answer == Started::Running {
                    let stage = s.start_stage.clone().unwrap_or(Stage::Running(Timestamp::UNIX_EPOCH));
                    s.stages.insert(run.id.clone(), stage);
                }
                answer
            })
        }))
    }

    fn cancel<'a>(&'a self, id: &'a ExecutionId, _job_id: JobId) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(self.answer(Method::Cancel, async {
            self.change(|s| s.cancelled.push(id.clone()));
        }))
    }

    fn runs(&self) -> BoxFuture<'_, Result<Vec<KnownExecution>, Problem>> {
        Box::pin(self.answer(Method::Runs, async {
            let state = self.state.lock().unwrap();
            let known =
                |id: &ExecutionId| KnownExecution { id: id.clone(), scheduled: state.scheduled.get(id).cloned() };
            state.stages.keys().map(known).collect()
        }))
    }

    fn changes(&self) -> BoxFuture<'_, Changes> {
        Box::pin(async {
            self.wait_while(|s| s.news == Changes::default()).await;
            std::mem::take(&mut self.state.lock().unwrap().news)
        })
    }

    fn next<'a>(&'a self, id: &'a ExecutionId, seen: &'a Seen) -> BoxFuture<'a, Result<Stage, Problem>> {
        Box::pin(self.answer(Method::Next, async move {
            self.wait_while(|s| match s.stages.get(id) {
                Some(Stage::Running(_)) => *seen == Seen::Running,
                Some(Stage::Held(problem)) => !seen.is_news(problem),
                _ => false,
            })
            .await;
            self.state.lock().unwrap().stages.get(id).cloned().unwrap_or(Stage::Unknown)
        }))
    }

    fn log<'a>(&'a self, id: &'a ExecutionId, _: LogPart) -> BoxFuture<'a, Result<Option<LogChunk>, Problem>> {
        let text = format!("the log of {id}\n");
        Box::pin(self.answer(Method::Log, async { Some(LogChunk { text, omitted_bytes: 0 }) }))
    }

    fn forget<'a>(&'a self, id: &'a ExecutionId, _job_id: JobId) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(self.answer(Method::Forget, async {
            self.change(|s| {
                s.stages.remove(id);
                s.scheduled.remove(id);
                s.forgotten.push(id.clone());
            });
        }))
    }

    fn clean_up<'a>(&'a self, _keep: &'a [LockKey]) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async { Ok(()) })
    }
}

/// A builder whose answers a test scripts where it scripts those of the runtime.
#[derive(Debug)]
struct TestBuilder {
    runtime: Arc<TestRuntime>,
    constraints: String,
}

impl ArtifactBuilder for TestBuilder {
    fn name(&self) -> &'static str {
        "test"
    }

    fn fingerprint(&self, _blueprint: &DeploymentSpec) -> String {
        self.constraints.clone()
    }

    fn inputs(&self, request: &ArtifactRequest<'_>) -> Result<BuildInputs, Problem> {
        let deployment = &request.deployment_spec.deployment;
        let inputs = ResolutionInputs {
            python_version: deployment.python_version,
            vdk_requirement: format!("vdk=={}", deployment.vdk_version),
            constraints: self.constraints.clone(),
            requirements: request.requirements.unwrap().to_owned(),
            platform: None,
        };
        Ok(BuildInputs {
            key: BuildKey::new(inputs.key().to_string()),
            content: serde_json::to_string(&inputs).unwrap(),
        })
    }

    fn known(&self, _inputs: &BuildInputs) -> Option<Artifact> {
        None
    }

    fn build<'a>(&'a self, inputs: &'a BuildInputs, _report: Report<'a>) -> BoxFuture<'a, Result<Built, Problem>> {
        Box::pin(async {
            let inputs: ResolutionInputs = serde_json::from_str(&inputs.content).unwrap();
            self.runtime.change(|s| s.built.push(inputs.requirements.clone()));
            let _in_progress = BuildInProgress(&self.runtime);
            let lock = Lock { key: inputs.key(), python_version: inputs.python_version, text: "none".into() };
            let image = format!("registry.example.com/job@{}", lock.key);
            let as_image = self.runtime.change(|s| s.builds_images);
            let artifact = if as_image { Artifact::Image(image.clone()) } else { Artifact::Packages(lock.key.clone()) };
            let built = Built { artifact, locks: vec![lock] };
            let built = self.runtime.answer(Method::Build, async { built }).await?;
            self.runtime.change(|s| s.images.insert(image));
            Ok(built)
        })
    }

    fn exists<'a>(&'a self, artifact: &'a Artifact) -> BoxFuture<'a, Result<bool, Problem>> {
        Box::pin(async move {
            let Artifact::Image(image) = artifact else { return Ok(true) };
            self.runtime.answer(Method::Exists, async { self.runtime.change(|s| s.images.contains(image)) }).await
        })
    }
}

/// Counts builds that ended, or that were aborted.
struct BuildInProgress<'a>(&'a TestRuntime);

impl Drop for BuildInProgress<'_> {
    fn drop(&mut self) {
        self.0.change(|s| s.builds_ended += 1);
    }
}

/// The signal that stops an instance, and its task.
pub type Instance = (CancellationToken, tokio::task::JoinHandle<()>);

/// One instance and all that it works with.
pub struct Harness {
    pub db: Db,
    pub clock: Arc<TestClock>,
    pub runtime: Arc<TestRuntime>,
    pub defaults: VersionDefaults,
    pub keys: Arc<KeyRing>,
    /// Part of the configuration of the instances that start from now on.
    pub constraints: String,
    /// The job options of instances that start from now on.
    pub job_options: JobOptions,
    pub sweep_interval: Duration,
    pub removals_max_percent: i64,
    instance: Option<Instance>,
    pub fresh: Fresh,
}

impl Harness {
    /// A harness whose synchronizer does not run yet.
    pub async fn new(on: Database) -> Self {
        Self::on(on.fresh()).await
    }

    /// A harness on a database that a test chose.
    pub async fn on(fresh: Fresh) -> Self {
        let db = fresh.open().await;
        let clock = Arc::new(TestClock(Mutex::new("2026-01-01T00:00:00Z".parse().unwrap())));
        let runtime = Arc::new(TestRuntime::default());
        runtime.change(|s| s.parallel_runs_max = 10);
        let version = PythonVersion { major: 3, minor: 11 };
        let defaults =
            VersionDefaults { python_versions: vec![version], python_version: version, vdk_version: "1".into() };
        let keys = Arc::new(SecretKey::new([7; 32]).into());
        let (constraints, sweep_interval) = (String::new(), Duration::from_secs(300));
        Self {
            db,
            clock,
            runtime,
            defaults,
            keys,
            constraints,
            job_options: JobOptions::default(),
            sweep_interval,
            removals_max_percent: 25,
            instance: None,
            fresh,
        }
    }

    /// A harness whose synchronizer runs.
    pub async fn running(on: Database) -> Self {
        let mut harness = Self::new(on).await;
        harness.start_instance();
        harness
    }

    pub fn start_instance(&mut self) {
        let (stop, task) = self.instance("test", self.db.clone(), true, Duration::from_secs(15));
        self.instance = Some((stop, task));
    }

    /// Starts one more instance of the service.
    pub fn instance(&self, holder: &str, db: Db, exclusive: bool, lease: Duration) -> Instance {
        self.instance_with(holder, db, exclusive, lease, Gauges::unseen(Arc::new(SystemClock)))
    }

    /// Starts one more instance of the service, whose series a test sees.
    pub fn instance_with(&self, holder: &str, db: Db, exclusive: bool, lease: Duration, gauges: Gauges) -> Instance {
        let options = Options {
            holder: holder.into(),
            exclusive,
            lease,
            sweep_interval: self.sweep_interval,
            removals_max_percent: self.removals_max_percent,
            parallelism: 8,
            builds_parallelism: 2,
            installs_parallelism: 2,
            job_options: self.job_options.clone(),
            run_deadline_seconds: 60,
            run_backoff_limit: 0,
            start_deadline: SignedDuration::from_mins(30),
            default_zone: "UTC".into(),
            retention: Rules {
                executions_keep: SignedDuration::from_hours(24),
                executions_keep_per_job: 100,
                logs_keep: SignedDuration::from_hours(24),
                logs_max_bytes: i64::MAX,
                revisions_keep_per_job: 100,
                deleted_jobs_keep: SignedDuration::from_hours(24),
                audit_keep: SignedDuration::from_hours(24 * 400),
            },
        };
        let synchronizer = Synchronizer {
            db,
            clock: self.clock.clone(),
            runtime: self.runtime.clone(),
            keys: self.keys.clone(),
            builder: Arc::new(TestBuilder { runtime: self.runtime.clone(), constraints: self.constraints.clone() }),
            gauges,
            options: Arc::new(options),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(synchronizer.run(stop.clone()));
        (stop, task)
    }

    pub async fn stop_instance(&mut self) {
        let (stop, task) = self.instance.take().unwrap();
        stop.cancel();
        task.await.unwrap();
    }

    pub fn caller(&self) -> Caller {
        Caller::anonymous("op")
    }

    /// Moves the clock and lets every loop see it.
    pub fn advance(&self, by: SignedDuration) {
        *self.clock.0.lock().unwrap() += by;
        self.notify();
    }

    pub fn notify(&self) {
        let wake = self.db.notifications();
        wake.deployments.notify_one();
        wake.executions.notify_one();
        wake.schedules.notify_one();
    }

    pub fn definition(name: &str, cron: Option<&str>) -> JobDefinition {
        let config = JobConfig { schedule_cron: cron.map(Into::into), ..JobConfig::default() };
        JobDefinition { name: name.into(), team: TEAM.into(), description: String::new(), config }
    }

    pub async fn create(&self, name: &str, cron: Option<&str>) -> JobId {
        self.create_for(TEAM, name, cron, "").await
    }

    /// Creates a job whose source has these requirements.
    pub async fn create_with(&self, name: &str, cron: Option<&str>, requirements: &str) -> JobId {
        self.create_for(TEAM, name, cron, requirements).await
    }

    pub async fn create_for(&self, team: &str, name: &str, cron: Option<&str>, requirements: &str) -> JobId {
        let definition = JobDefinition { team: team.into(), ..Self::definition(name, cron) };
        let job = app::jobs::create(&self.db, &*self.clock, &self.caller(), "UTC", definition).await.unwrap();
        let source = Source {
            version: version(),
            archive_bytes: 1,
            requirements: requirements.into(),
            uploaded_by: "test".into(),
            uploaded_at: self.clock.now(),
            reason: String::new(),
        };
        let mut tx = self.db.write().await.unwrap();
        store::sources::insert(&mut tx, job.id, &source, b"x").await.unwrap();
        tx.commit().await.unwrap();
        job.id
    }

    pub async fn change(&self, name: &str, change: DeploymentChange) {
        self.change_of(TEAM, name, change).await;
    }

    async fn change_of(&self, team: &str, name: &str, change: DeploymentChange) {
        let missing = Missing::Create;
        app::deployments::change(&self.db, &*self.clock, &self.caller(), &self.defaults, team, name, &change, missing)
            .await
            .unwrap();
    }

    pub async fn deploy(&self, name: &str) {
        self.deploy_for(TEAM, name).await;
    }

    pub async fn deploy_for(&self, team: &str, name: &str) {
        let change = DeploymentChange { job_version: Some(version()), ..DeploymentChange::default() };
        self.change_of(team, name, change).await;
    }

    /// Creates and deploys a job and waits until it is reached.
    pub async fn deployed(&self, name: &str, cron: Option<&str>) -> JobId {
        let id = self.create(name, cron).await;
        self.deploy(name).await;
        self.until("the deployment is reached", async || self.reached(name).await.is_some()).await;
        id
    }

    pub async fn reached(&self, name: &str) -> Option<i64> {
        let (_, reached) = app::deployments::list(&self.db, &self.caller(), TEAM, name).await.unwrap();
        reached.map(|r| r.deployment.generation)
    }

    pub async fn start(&self, name: &str) -> ExecutionId {
        self.try_start(name).await.unwrap()
    }

    /// Starts a job as a client would that sends this operation id and says where the start comes from.
    pub async fn start_as(&self, name: &str, op_id: &str, started_by: &str) -> ExecutionId {
        let request = StartRequest { started_by: Some(started_by.into()), ..StartRequest::default() };
        let caller = Caller { op_id: op_id.into(), ..self.caller() };
        app::executions::start(&self.db, &*self.clock, &caller, TEAM, name, "production", &request).await.unwrap()
    }

    pub async fn try_start(&self, name: &str) -> Result<ExecutionId, Problem> {
        let request = StartRequest::default();
        app::executions::start(&self.db, &*self.clock, &self.caller(), TEAM, name, "production", &request).await
    }

    /// The executions of a job, the newest first.
    pub async fn executions(&self, name: &str) -> Vec<Execution> {
        let mut listed = app::executions::list(&self.db, &self.caller(), TEAM, name, None, &[]).await.unwrap();
        listed.reverse();
        listed
    }

    pub async fn execution(&self, name: &str, id: &ExecutionId) -> Execution {
        app::executions::read(&self.db, &self.caller(), TEAM, name, id.as_str()).await.unwrap()
    }

    pub async fn cancel(&self, name: &str, id: &ExecutionId) {
        app::executions::cancel(&self.db, &*self.clock, &self.caller(), TEAM, name, id.as_str()).await.unwrap();
    }

    pub async fn until_status(&self, name: &str, id: &ExecutionId, status: Status) {
        self.until(&format!("{id} is {status:?}"), async || self.execution(name, id).await.status == status).await;
    }

    /// Waits until something holds that the synchronizer brings about.
    pub async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Runs a statement that no function of the store makes.
pub async fn raw(tx: &mut Tx, sql: &'static str) {
    match tx {
        Tx::Sqlite(tx) => drop(sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap()),
        Tx::Postgres(tx) => drop(sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap()),
    }
}

pub fn version() -> SourceVersion {
    SourceVersion::parse(&"a".repeat(40)).unwrap()
}
