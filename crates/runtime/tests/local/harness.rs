//! A data folder with a runtime in it, and jobs that meet the test at a socket.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clock::SystemClock;
use model::{
    BoxFuture, Problem,
    artifact::Artifact,
    deployment::Mode,
    execution::ExecutionEnd,
    job::Contacts,
    lock::{Lock, LockKey},
    log::LogPart,
    name::{ExecutionId, JobId, JobName, TeamName},
    python::PythonVersion,
    resources::Resources,
    runtime::{ApplyRequest, DeploymentSpec, ExecutionSpec, KnownExecution, Runtime, Seen, Stage, Target},
    source::SourceVersion,
    variables::Variables,
};
use python::Interpreter;
use runtime::local::{Confine, EnvironmentBuilder, LocalOptions, LocalRuntime};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, UnixStream},
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PYTHON: PythonVersion = PythonVersion { major: 3, minor: 11 };
pub(crate) const JOB: JobId = JobId(uuid::Uuid::nil());
pub(crate) const VDK: &str = "0.1";

/// Runs `step.py` of the job as the stock client would, with `meet` and `arguments` at hand.
const FAKE_VDK: &str = r#"
import json, os, runpy, socket, sys
assert sys.argv[1] == "run", sys.argv
def meet(word="here"):
    s = socket.socket(socket.AF_UNIX)
    s.connect(os.environ["MEET"])
    s.sendall(word.encode() + b"\n")
    return s
arguments = json.loads(sys.argv[4]) if sys.argv[3:4] == ["--arguments"] else None
runpy.run_path(sys.argv[2] + "/step.py", init_globals={"meet": meet, "arguments": arguments})
"#;

/// Makes environments that have nothing but a `vdk`.
#[derive(Debug, Default)]
pub(crate) struct FakeTools {
    pub(crate) built: AtomicUsize,
    pub(crate) fails: std::sync::Mutex<Option<Problem>>,
}

impl EnvironmentBuilder for FakeTools {
    fn build<'a>(
        &'a self,
        interpreter: &'a Interpreter,
        _lock: &'a Lock,
        vdk_requirement: &'a str,
        at: &'a Path,
    ) -> BoxFuture<'a, Result<(), Problem>> {
        assert_eq!(vdk_requirement, format!("fake-vdk=={VDK}"));
        Box::pin(async move {
            self.built.fetch_add(1, Ordering::SeqCst);
            let bin = at.join("bin");
            fs::create_dir_all(&bin).unwrap();
            if let Some(problem) = self.fails.lock().unwrap().clone() {
                return Err(problem);
            }
            let script = format!("#!{} -IS\n{FAKE_VDK}", interpreter.executable.display());
            // Closed for good before anyone runs it: a script that is open for writing can't be executed.
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(bin.join("vdk")).unwrap();
            file.write_all(script.as_bytes()).unwrap();
            Ok(())
        })
    }
}

pub(crate) fn interpreter() -> Interpreter {
    static FOUND: std::sync::OnceLock<(PathBuf, String)> = std::sync::OnceLock::new();
    let (executable, full_version) = FOUND
        .get_or_init(|| {
            let code = "import sys, platform; print(sys.executable); print(platform.python_version())";
            let out = Command::new("python3").args(["-c", code]).output().unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            let (path, version) = text.trim().split_once('\n').unwrap();
            (PathBuf::from(path), version.to_owned())
        })
        .clone();
    Interpreter { version: PYTHON, full_version, executable, platform: "test".into() }
}

pub(crate) fn options(data_dir: &Path, tools: Arc<FakeTools>) -> LocalOptions {
    LocalOptions {
        data_dir: data_dir.to_owned(),
        host: None,
        shim_command: (PathBuf::from(env!("CARGO_BIN_EXE_shim")), Vec::new()),
        parallel_runs_max: 4,
        log_max_bytes: LocalOptions::LOG_MAX_BYTES,
        grace: Duration::from_secs(20),
        backoff: Duration::from_millis(1),
        interpreters: vec![interpreter()],
        tools,
        vdk_distribution: "fake-vdk".into(),
        pass_environment: [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())].into(),
        job_hidden_paths: Vec::new(),
        job_covered_files: Vec::new(),
        job_open_files: None,
        confine: Confine::Fully,
        clock: Arc::new(SystemClock),
    }
}

pub(crate) fn job() -> JobName {
    JobName::parse("some-job").unwrap()
}

pub(crate) fn lock() -> Lock {
    Lock { key: LockKey::stored("ab".repeat(32)), python_version: PYTHON, text: String::new() }
}

pub(crate) fn archive(step: &str) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("some-job/step.py", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(step.as_bytes()).unwrap();
    zip.finish().unwrap().into_inner()
}

pub(crate) fn id(number: u32) -> ExecutionId {
    ExecutionId::parse(&format!("some-job-{number}")).unwrap()
}

/// A run as the runtime lists it.
pub(crate) fn known(number: u32) -> KnownExecution {
    KnownExecution { id: id(number), scheduled: None }
}

fn deployed_at() -> jiff::Timestamp {
    jiff::Timestamp::UNIX_EPOCH
}

fn deployment_spec() -> DeploymentSpec {
    DeploymentSpec {
        job_name: job(),
        team: TeamName::parse("team").unwrap(),
        deployment: model::deployment::Deployment {
            job_id: JOB,
            generation: 1,
            job_version: SourceVersion::parse(&"a".repeat(40)).unwrap(),
            python_version_asked: None,
            python_version: PYTHON,
            vdk_version_asked: None,
            vdk_version: VDK.into(),
            enabled: true,
            mode: Mode::Release,
            resources: Resources::default(),
            schedule_cron: None,
            schedule_since: deployed_at(),
            contacts: Contacts::default(),
            db_default_type: None,
            enable_execution_notifications: true,
            deployed_by: "someone".into(),
            deployed_at: deployed_at(),
        },
        variables: Variables::default(),
        team_secret: None,
    }
}

pub(crate) fn run(number: u32, step: &str, meeting: &Path) -> ExecutionSpec {
    ExecutionSpec {
        id: id(number),
        deployment_spec: deployment_spec(),
        artifact: Artifact::Packages(lock().key),
        archive: archive(step),
        arguments: None,
        started_by: "someone".into(),
        op_id: "op".into(),
        variables: [
            ("MEET".to_owned(), meeting.to_str().unwrap().to_owned()),
            ("VDK_ATTEMPT_ID".to_owned(), format!("{}-local", id(number))),
        ]
        .into(),
        deadline_seconds: 3600,
        backoff_limit: 0,
    }
}

pub(crate) fn target() -> Target {
    Target {
        job_id: JOB,
        job_name: job(),
        inputs_hash: Some("inputs".into()),
        artifact: Some(Artifact::Packages(lock().key)),
        last_applied: None,
    }
}

pub(crate) fn wanted() -> ApplyRequest {
    ApplyRequest {
        deployment_spec: deployment_spec(),
        inputs_hash: "inputs".into(),
        artifact: Artifact::Packages(lock().key),
        lock: Some(lock()),
        token: BTreeMap::new(),
        ticks_after: deployed_at(),
    }
}

/// A data folder of its own, a place to meet its jobs, and a runtime.
pub(crate) struct Harness {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) tools: Arc<FakeTools>,
    pub(crate) runtime: LocalRuntime,
    meeting: UnixListener,
}

impl Harness {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut LocalOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("shared")).unwrap();
        let meeting = UnixListener::bind(folder.path().join("shared/meet")).unwrap();
        let tools = Arc::new(FakeTools::default());
        let mut options = options(&folder.path().join("data"), Arc::clone(&tools));
        change(&mut options);
        let runtime = LocalRuntime::open(options).unwrap();
        runtime.apply(&target(), &wanted()).await.unwrap();
        Self { folder, tools, runtime, meeting }
    }

    /// A second runtime over the same folder, as after a restart of the service.
    pub(crate) fn reopened(&self) -> LocalRuntime {
        LocalRuntime::open(options(&self.data(), Arc::clone(&self.tools))).unwrap()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn run_folder(&self, number: u32) -> PathBuf {
        self.data().join("runs").join(id(number).as_str())
    }

    pub(crate) fn run(&self, number: u32, step: &str) -> ExecutionSpec {
        run(number, step, &self.folder.path().join("shared/meet"))
    }

    /// Waits for a process of a job to call `meet`, and returns its word and the connection, whose end is its end.
    pub(crate) async fn meet(&self) -> (String, UnixStream) {
        let (mut connection, _) = within(self.meeting.accept()).await.unwrap();
        let mut word = String::new();
        loop {
            let byte = within(connection.read_u8()).await.unwrap();
            if byte == b'\n' {
                return (word, connection);
            }
            word.push(byte.into());
        }
    }

    pub(crate) async fn end(&self, number: u32) -> ExecutionEnd {
        end(&self.runtime, number).await
    }

    pub(crate) async fn run_to_end(&self, run: &ExecutionSpec) -> ExecutionEnd {
        self.runtime.start(run).await.unwrap();
        end_of(&self.runtime, &run.id).await
    }

    pub(crate) async fn log(&self, number: u32) -> String {
        self.runtime.log(&id(number), LogPart::Whole).await.unwrap().unwrap().text
    }

    /// The supervisors of a run that are alive.
    pub(crate) fn supervisors(&self, number: u32) -> Vec<rustix::process::Pid> {
        let own = format!("{}\0supervise\0", self.run_folder(number).canonicalize().unwrap().display());
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.ends_with(own.as_bytes())))
            .filter_map(rustix::process::Pid::from_raw)
            .collect()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        // A test that fails midway leaves no process behind: every remaining run is asked to end.
        for entry in fs::read_dir(self.data().join("runs")).into_iter().flatten().flatten() {
            let folder = entry.path();
            if folder.join("control").exists() {
                let _ = fs::write(folder.join("cancel"), "");
                let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(0o700));
                let _ = std::os::unix::net::UnixStream::connect(folder.join("control"));
            }
        }
    }
}

pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("nothing happened for too long")
}

/// The end of a connection: its process has ended, however.
pub(crate) async fn hung_up(mut connection: UnixStream) {
    let mut rest = Vec::new();
    let _ = within(connection.read_to_end(&mut rest)).await;
}

pub(crate) async fn end(runtime: &LocalRuntime, number: u32) -> ExecutionEnd {
    end_of(runtime, &id(number)).await
}

async fn end_of(runtime: &LocalRuntime, id: &ExecutionId) -> ExecutionEnd {
    match within(runtime.next(id, &Seen::Running)).await.unwrap() {
        Stage::Ended(end) => end,
        other => panic!("{other:?}"),
    }
}
