//! Jobs as processes of this machine, which survive the service.
//!
//! A run is a folder (`folder.rs`) and a supervisor ([`shim`]) that holds its lock. The service writes the folder, starts
//! the supervisor, and from then on only reads: what it knows of a run it can learn again after any crash.
//!
//! A run ends with the job's first process: what that leaves running is ended (SIGTERM, a grace period, SIGKILL), as a
//! container ends with its first process. Only then is the end recorded.
//!
//! Linux only. Control groups are not used: ending goes by descent, which needs no delegation (see `process.rs`).

mod environment;
mod folder;
mod job;
mod keyed_mutex;
mod process;
pub mod shim;
mod spec;
mod unpack;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use clock::SystemClock;
use model::{
    BoxFuture, Problem,
    artifact::{Artifact, LastApplied},
    clock::{Clock, SharedClock},
    execution::{EndCause, ExecutionEnd},
    lock::LockKey,
    log::{LogChunk, LogPart},
    name::{ExecutionId, JobId},
    problem::Code,
    runtime::{
        ApplyRequest, DeploymentSpec, ExecutionSpec, KnownExecution, Observed, Runtime, Seen, Stage, Started, Target,
    },
};
use python::Interpreter;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use sandbox::{Launcher, Layer, Limits, SandboxPolicy, Support};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
};

pub use self::environment::EnvironmentBuilder;
use self::{
    environment::{Environments, Place},
    folder::RunFolder,
    keyed_mutex::KeyedMutex,
    spec::Spec,
};
use crate::logs;

/// The client writes its last words to the file that this names. Every process of a run inherits it.
const TERMINATION_FILE_VARIABLE: &str = "VDK_TERMINATION_MESSAGE_WRITER_OUTPUT_FILE";
/// The id of the attempt, which differs from the execution's id.
const ATTEMPT_VARIABLE: &str = "VDK_ATTEMPT_ID";

/// How long a supervisor may take to take a run over. It takes milliseconds; a disk that hangs takes longer.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// The first of the pauses in which a supervisor is between its lock and its socket; they double to the last.
const BETWEEN_PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));
/// How long it may take to end the processes that a killed supervisor left.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_secs(10);

/// The options of a [`LocalRuntime`].
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The service's own folder. Environments and run folders live in it.
    pub data_dir: PathBuf,
    /// The id of that folder, when instances with other folders may share the database.
    pub host: Option<String>,
    /// The program that supervises a run and the arguments before the run folder: the service's own binary with its
    /// hidden command.
    pub shim_command: (PathBuf, Vec<OsString>),
    /// How many runs it takes at once.
    pub parallel_runs_max: usize,
    /// How much of a run's log is kept, half of it from the beginning and half from the end.
    pub log_max_bytes: u64,
    /// How long a run that is asked to end may take before it is ended.
    pub grace: Duration,
    /// The pause before the second attempt of a run; it doubles with each.
    pub backoff: Duration,
    /// The interpreters of this machine, one for each version on offer.
    pub interpreters: Vec<Interpreter>,
    /// Builds the environments.
    pub tools: Arc<dyn EnvironmentBuilder>,
    /// The distribution that has VDK, `quickstart-vdk`; a deployment names its version.
    pub vdk_distribution: String,
    /// The variables that every job inherits: `PATH`, `LANG`, `TZ`, proxies, certificates. Nothing else of the service's
    /// environment reaches a job.
    pub pass_environment: BTreeMap<String, String>,
    /// Folders of the service outside of the data folder that jobs neither read nor change.
    pub job_hidden_paths: Vec<PathBuf>,
    /// Files of the service elsewhere, such as those of passwords, that jobs neither read nor change where namespaces are
    /// in force.
    pub job_covered_files: Vec<PathBuf>,
    /// The soft limit of open files that jobs get. Unset, they have the service's own.
    pub job_open_files: Option<u64>,
    /// How jobs are confined.
    pub confine: Confine,
    /// The present instant.
    pub clock: SharedClock,
}

/// How jobs are confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confine {
    /// By everything that this machine offers.
    Fully,
    /// As on a machine without user namespaces.
    WithoutNamespaces,
    /// Not at all.
    Off,
}

impl LocalOptions {
    /// The usual limit of a log.
    pub const LOG_MAX_BYTES: u64 = 4 * 1024 * 1024;
    /// The usual grace period.
    pub const GRACE: Duration = Duration::from_secs(5);
    /// The usual pause before the second attempt, as Kubernetes has it.
    pub const BACKOFF: Duration = Duration::from_secs(10);
}

/// Jobs as processes of this machine.
#[derive(Debug)]
pub struct LocalRuntime {
    options: LocalOptions,
    data_dir: PathBuf,
    runs: PathBuf,
    environments: Arc<Environments>,
    starting: KeyedMutex,
    confinement: Support,
}

/// Keeps other processes of this user from reading this one's memory and environment, and from having its core dumped.
///
/// The service calls it at start; supervisors do it automatically.
pub fn harden_process() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Why the runs of this process would end with it, if they would: systemd's default is to end every process of a
/// service when it stops.
///
/// Looks only when this process runs in the control group of a systemd service.
pub async fn shares_fate(clock: &dyn Clock) -> Option<String> {
    let groups = tokio::fs::read_to_string("/proc/self/cgroup").await.ok()?;
    let path =
        groups.lines().find_map(|l| l.strip_prefix("0::").or_else(|| l.split_once(":name=systemd:").map(|g| g.1)))?;
    let unit = path.rsplit('/').next().filter(|u| u.ends_with(".service"))?;
    let mut show = tokio::process::Command::new("systemctl");
    if path.contains("/user@") {
        show.arg("--user");
    }
    let show = show.args(["show", "--property=KillMode", "--value", unit]).stdin(Stdio::null()).kill_on_drop(true);
    let shown = clock.timeout(Duration::from_secs(5), show.output()).await.ok()?.ok()?;
    let mode = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
    (!matches!(mode.as_str(), "" | "process" | "none")).then(|| {
        format!("The unit {unit} has KillMode={mode}: stopping or restarting it ends every run. Set KillMode=process.")
    })
}

/// Runs blocking disk work on a thread pool for such work.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    blocking_problem(move || Ok(work())).await?.map_err(|e| {
        Problem::new(Code::ExecutionFolderFailed, what, format!("{e}."))
            .follows("The execution keeps its state.")
            .no_action("Holdfast retries. If it persists, the operator checks `data_dir`.")
    })
}

async fn blocking_problem<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Problem::new(
            Code::LocalRuntimeFailed,
            "A task of the local runtime ended early.",
            format!("{e}: this is a bug in Holdfast."),
        )
        .follows("The execution keeps its state.")
        .no_action("Holdfast retries. The log has the details."))
    })
}

impl LocalRuntime {
    /// Opens the folder, finding again whatever runs in it.
    pub fn open(options: LocalOptions) -> Result<Self, Problem> {
        let failed = |e: io::Error| {
            Problem::new(
                Code::DataDirUnusable,
                "The local runtime can't use its data directory.",
                format!("{}: {e}.", options.data_dir.display()),
            )
            .follows("The service was not started.")
            .fix("Set `data_dir` to a folder that the service can write to.")
        };
        files::make_private_folder(&options.data_dir).map_err(failed)?;
        let data_dir = options.data_dir.canonicalize().map_err(failed)?;
        if data_dir.to_str().is_none() {
            return Err(failed(io::Error::other("its path is not UTF-8")));
        }
        let runs = data_dir.join("runs");
        files::make_private_folder(&runs).map_err(failed)?;
        folder::remove_leftovers(&runs).map_err(failed)?;
        let environments = Environments::open(
            data_dir.join("environments"),
            options.interpreters.clone(),
            Arc::clone(&options.tools),
            Arc::clone(&options.clock),
        )
        .map_err(failed)?;
        let confinement = confinement(&options, &data_dir, &runs);
        let environments = Arc::new(environments);
        Ok(Self { options, data_dir, runs, environments, starting: KeyedMutex::default(), confinement })
    }

    /// Which layers keep jobs from the service and from each other.
    pub fn confinement(&self) -> &Support {
        &self.confinement
    }

    /// Warnings for an operator about the risk of running other people's jobs here.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = self.confinement.gaps();
        if rustix::process::geteuid().is_root() {
            all.push(
                "Local jobs are trusted code: they run as root, as the service does, and reach every file of root outside \
                 of the data folder. Run the service as another user."
                    .into(),
            );
        }
        all
    }

    fn folder(&self, id: &ExecutionId) -> RunFolder {
        RunFolder::at(self.runs.join(id.as_str()))
    }

    fn vdk_requirement(&self, version: &str) -> String {
        format!("{}=={version}", self.options.vdk_distribution)
    }

    async fn start_run(&self, run: &ExecutionSpec) -> Result<(), Problem> {
        let _one = self.starting.lock(run.id.as_str()).await;
        let folder = self.folder(&run.id);
        let what = format!("The execution {} was not started.", run.id);
        let before = {
            let (folder, clock) = (folder.clone(), self.options.clock.clone());
            blocking(&what, move || make_way(&*clock, &folder)).await?
        };
        let cancelled = match before {
            Before::TakenOver => return Ok(()),
            Before::Nothing { cancelled } => cancelled,
        };
        let Artifact::Packages(lock_key) = run.artifact.clone() else { return Err(no_images(what)) };
        let place = self.environments.present(&lock_key).map_err(|e| {
            Problem::new(Code::EnvironmentUnreadable, &what, format!("Its environment can't be read: {e}."))
                .follows("The execution waits.")
                .no_action("Holdfast retries. If it persists, the operator checks `data_dir`.")
        })?;
        let Some(place) = place else {
            return Err(Problem::new(Code::EnvironmentMissing, what, "The environment of its deployment is missing.")
                .follows("The execution waits.")
                .no_action("Holdfast recreates the environment, then starts the execution."));
        };
        let spec = self.spec(run, &folder, place);
        let (runs, run_again) = (self.runs.clone(), run.clone());
        let target = folder.clone();
        blocking_problem(move || prepare(&runs, &target, &run_again, &spec, cancelled)).await?;
        self.supervise(&folder, what).await
    }

    fn spec(&self, run: &ExecutionSpec, folder: &RunFolder, place: Place) -> Spec {
        let at = |name: &str| folder.path().join(name);
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let bin = place.folder.join("bin");
        let mut variables = self.options.pass_environment.clone();
        variables.extend(run.variables.clone());
        variables.extend(run.deployment_spec.variables.all());
        let search = variables.get("PATH").map_or_else(
            || format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()),
            |path| format!("{}:{path}", bin.display()),
        );
        variables.extend(
            [
                ("PATH", search),
                ("VIRTUAL_ENV", text(place.folder.clone())),
                ("HOME", text(at(folder::HOME))),
                ("TMPDIR", text(at(folder::TMP))),
                ("VDK_KEYTAB_FOLDER", text(at(folder::HOME))),
                ("VDK_BASE_CONFIG_FOLDER", text(at(folder::HOME))),
                ("VDK_TEMPORARY_WRITE_DIRECTORY", text(at(folder::TMP))),
                (TERMINATION_FILE_VARIABLE, text(at(folder::OUT).join(folder::TERMINATION_MESSAGE))),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let mut arguments = vec!["run".to_owned(), format!("./{}", run.deployment_spec.job_name)];
        if let Some(json) = &run.arguments {
            arguments.extend(["--arguments".to_owned(), json.clone()]);
        }
        let mut read = vec![place.folder.clone()];
        read.extend(
            place
                .interpreter
                .canonicalize()
                .ok()
                .filter(|p| p.starts_with(&self.data_dir))
                .and_then(|p| p.parent()?.parent().map(Path::to_owned)),
        );
        let sandbox_policy = SandboxPolicy {
            read,
            write: [folder::WORK, folder::HOME, folder::TMP, folder::OUT].map(at).to_vec(),
            one_mount: vec![at(folder::JOB)],
            layers: self.confinement.layers(),
            ..sandbox_policy(&self.options, &self.data_dir)
        };
        let milliseconds = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Spec {
            id: run.id.clone(),
            folder: folder.path().to_owned(),
            environment: place.folder,
            environment_lock: place.lock,
            program: bin.join("vdk"),
            arguments,
            variables,
            deadline_seconds: run.deadline_seconds,
            grace_milliseconds: milliseconds(self.options.grace),
            backoff_limit: run.backoff_limit,
            backoff_milliseconds: milliseconds(self.options.backoff),
            log_max_bytes: self.options.log_max_bytes,
            sandbox_policy,
        }
    }

    /// Starts a supervisor and waits until it, or another, has taken the run over.
    async fn supervise(&self, folder: &RunFolder, what: String) -> Result<(), Problem> {
        let failed = |why: String| {
            Problem::new(Code::SupervisorNotStarted, &what, why)
                .follows("The execution waits.")
                .no_action("Holdfast retries. If it persists, the operator checks the process limits and the log.")
        };
        let complaints = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(folder.path().join(folder::SHIM_LOG))
            .map_err(|e| failed(format!("{e}.")))?;
        let (program, leading) = &self.options.shim_command;
        let mut launcher = tokio::process::Command::new(program)
            .args(leading)
            .arg(folder.path())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .map_err(|e| failed(format!("Its supervisor {} can't be started: {e}.", program.display())))?;
        let mut said = String::new();
        if let Some(out) = launcher.stdout.take() {
            let mut out = BufReader::new(out).take(4096);
            let heard = self.options.clock.timeout(TAKEOVER_TIMEOUT, out.read_line(&mut said)).await;
            if heard.is_err() {
                return Err(failed(format!("Its supervisor said nothing for {} s.", TAKEOVER_TIMEOUT.as_secs())));
            }
        }
        let _ = launcher.wait().await;
        match said.trim() {
            shim::READY | shim::TAKEN => Ok(()),
            "" => {
                let log = tokio::fs::read(folder.path().join(folder::SHIM_LOG)).await.unwrap_or_default();
                let log = String::from_utf8_lossy(&log);
                Err(failed(format!(
                    "Its supervisor ended at once. {}",
                    log.trim().chars().take(500).collect::<String>()
                )))
            }
            why => Err(failed(format!("{why}."))),
        }
    }

    async fn next_stage(&self, id: &ExecutionId, seen: &Seen) -> Result<Stage, Problem> {
        let what = format!("The state of the execution {id} can't be read.");
        let mut pause = BETWEEN_PAUSE.0;
        loop {
            let folder = self.folder(id);
            let look = folder.clone();
            let (end, started) = blocking(&what, move || Ok((look.end()?, look.started()?))).await?;
            if let Some(end) = end {
                return Ok(Stage::Ended(end));
            }
            if let Some(at) = started.filter(|_| *seen != Seen::Running) {
                return Ok(Stage::Running(at));
            }
            if let Ok(mut supervisor) = connect(&folder).await {
                // Its first word says that the run was started, its hanging up that the run is over.
                let mut word = [0; 64];
                while supervisor.read(&mut word).await.is_ok_and(|n| n > 0) && *seen == Seen::Running {}
                continue;
            }
            let look = folder.clone();
            match blocking(&what, move || who_holds(&look)).await? {
                Holder::Nobody => {
                    let clock = Arc::clone(&self.options.clock);
                    if blocking(&what, move || settle(&folder, &clock)).await? == Settled::NeverStarted {
                        // Unless it is being started at this moment.
                        let _one = self.starting.lock(id.as_str()).await;
                        let folder = self.folder(id);
                        let look = folder.clone();
                        let is_idle = blocking(&what, move || {
                            Ok(look.end()?.is_none()
                                && look.started()?.is_none()
                                && matches!(who_holds(&look)?, Holder::Nobody | Holder::NoFolder))
                        });
                        if is_idle.await? {
                            return Ok(Stage::Unknown);
                        }
                    }
                }
                Holder::NoFolder => {
                    let _one = self.starting.lock(id.as_str()).await;
                    let look = self.folder(id);
                    if !blocking(&what, move || look.exists()).await? {
                        return Ok(Stage::Unknown);
                    }
                }
                Holder::Supervisor => {
                    self.options.clock.sleep(pause).await;
                    pause = (pause * 2).min(BETWEEN_PAUSE.1);
                }
            }
        }
    }

    async fn cancel_run(&self, id: &ExecutionId) -> Result<(), Problem> {
        let what = format!("The execution {id} was not cancelled.");
        let folder = self.folder(id);
        let look = folder.clone();
        let asked = blocking(&what, move || {
            let open = look.exists()? && look.end()?.is_none();
            if open {
                look.write_cancel()?;
            }
            Ok(open)
        });
        if asked.await? {
            // Connecting wakes the supervisor. One that is not there yet looks for the file when it is.
            let _ = connect(&folder).await;
        }
        Ok(())
    }

    async fn forget_run(&self, id: &ExecutionId) -> Result<(), Problem> {
        let what = format!("The remains of the execution {id} were not removed.");
        let _one = self.starting.lock(id.as_str()).await;
        let folder = self.folder(id);
        let clock = self.options.clock.clone();
        let removed = blocking(&what, move || {
            if !folder.exists()? {
                return Ok(true);
            }
            if folder.end()?.is_some() {
                return folder.forget().map(|()| true);
            }
            let Some(_lock) = folder.try_lock()? else { return Ok(false) };
            if folder.started()?.is_some() && folder.end()?.is_none() {
                process::end_leftovers(&*clock, folder.path(), LEFTOVERS_TIMEOUT);
            }
            folder.forget().map(|()| true)
        });
        if removed.await? {
            Ok(())
        } else {
            Err(Problem::new(Code::ExecutionStillActive, what, "It has not ended.")
                .nothing_changed()
                .no_action("Holdfast removes it after its end."))
        }
    }
}

/// The part of the sandbox policy that all jobs have in common.
fn sandbox_policy(options: &LocalOptions, data_dir: &Path) -> SandboxPolicy {
    common_policy(data_dir, &options.job_hidden_paths, &options.job_covered_files, options.job_open_files)
}

/// The part of the policy that jobs and package builds share. `hidden`, `covered` and `open_files` are what [`LocalOptions`] has
/// as `job_hidden_paths`, `job_covered_files` and `job_open_files`.
pub fn common_policy(
    data_dir: &Path,
    hidden: &[PathBuf],
    covered: &[PathBuf],
    open_files: Option<u64>,
) -> SandboxPolicy {
    let outside = hidden.iter().filter_map(|path| path.canonicalize().ok());
    let user = rustix::process::geteuid();
    // A service manager that takes orders of this user would start processes outside of the confinement.
    let managers = if user.is_root() {
        ["/run/systemd/private".to_owned(), "/run/dbus/system_bus_socket".to_owned()]
    } else {
        ["bus", "systemd"].map(|name| format!("/run/user/{}/{name}", user.as_raw()))
    };
    let files = covered.iter().filter_map(|path| path.canonicalize().ok());
    SandboxPolicy {
        hidden: std::iter::once(data_dir.to_owned()).chain(outside.filter(|p| !p.starts_with(data_dir))).collect(),
        covered: managers.into_iter().map(PathBuf::from).chain(files).collect(),
        // Semaphores and shared memory of other executions are there.
        private: vec!["/dev/shm".into()],
        limits: Limits { open_files, file_bytes: None },
        ..SandboxPolicy::default()
    }
}

/// Finds out how jobs can be confined here.
fn confinement(options: &LocalOptions, data_dir: &Path, runs: &Path) -> Support {
    if options.confine == Confine::Off {
        return Support::none("it is switched off");
    }
    let (program, leading) = &options.shim_command;
    let leading = leading.iter().cloned().chain([shim::CONFINED.into()]);
    let tried = SandboxPolicy {
        one_mount: vec![runs.to_owned()],
        write: vec![runs.to_owned()],
        ..sandbox_policy(options, data_dir)
    };
    let mut support = Launcher::new(program, leading).support(&tried);
    if options.confine == Confine::WithoutNamespaces {
        support.namespaces = Layer::Unavailable("they are switched off".into());
    }
    support
}

/// The state before a start.
enum Before {
    /// A supervisor has, or had, the run.
    TakenOver,
    /// Nothing, or nothing any more.
    Nothing { cancelled: bool },
}

/// Removes the remains of a crash between the writing of the folder and the supervisor. Its files may not have reached the
/// disk, so that it is recreated.
fn make_way(clock: &dyn Clock, folder: &RunFolder) -> io::Result<Before> {
    let over = || Ok::<_, io::Error>(folder.is_forgotten()? || folder.end()?.is_some() || folder.started()?.is_some());
    if !folder.exists()? && !folder.is_forgotten()? {
        return Ok(Before::Nothing { cancelled: false });
    }
    if over()? {
        return Ok(Before::TakenOver);
    }
    let patience = clock.boot() + folder::LOCK_PATIENCE;
    let _lock = loop {
        let lock = folder.try_lock()?;
        if over()? {
            return Ok(Before::TakenOver);
        }
        match lock {
            Some(lock) => break lock,
            // Held by a supervisor that is about to write its marker, or by someone who looks whether there is one.
            None if clock.boot() < patience => SystemClock.block_for(folder::LOCK_PAUSE),
            None => return Err(io::Error::other("another supervisor is about to take it over")),
        }
    };
    let cancelled = folder.cancel_requested()?;
    // Its lock is held until it is gone: a late supervisor finds it taken, or finds that it guards nothing any more.
    folder.remove()?;
    Ok(Before::Nothing { cancelled })
}

/// Makes the run folder under another name and gives it its own when it is whole.
fn prepare(runs: &Path, to: &RunFolder, run: &ExecutionSpec, spec: &Spec, cancelled: bool) -> Result<(), Problem> {
    let disk = |e: io::Error| {
        Problem::new(
            Code::ExecutionFolderFailed,
            format!("The folder of the execution {} was not created.", run.id),
            format!("{e}."),
        )
        .follows("The execution waits.")
        .no_action("Holdfast retries. If it persists, the operator checks `data_dir`.")
    };
    let new = folder::temporary_folder(runs, folder::NEW_PREFIX).map_err(disk)?;
    let filled = File::open(new.path()).map_err(disk)?;
    filled.try_lock().map_err(|e| disk(e.into()))?;
    for name in [folder::WORK, folder::HOME, folder::TMP, folder::OUT] {
        files::make_private_folder(&new.path().join(name)).map_err(disk)?;
    }
    unpack::unpack(&run.archive, &run.deployment_spec.job_name, &new.path().join(folder::WORK))?;
    let written = || {
        if cancelled {
            files::create(&new.path().join(folder::CANCEL))?;
        }
        files::create(&new.path().join(folder::LOCK))?;
        files::write_durably(&new.path().join(Spec::FILE), &serde_json::to_vec(spec)?)?;
        renameat_with(CWD, new.path(), CWD, to.path(), RenameFlags::NOREPLACE)?;
        files::sync_folder(runs)
    };
    match written() {
        Ok(()) => {
            let _ = new.keep();
            Ok(())
        }
        // Another service made it at the same time; its supervisor or ours gets the lock.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(disk(e)),
    }
}

/// The holder of a run's lock.
enum Holder {
    Supervisor,
    Nobody,
    NoFolder,
}

fn who_holds(folder: &RunFolder) -> io::Result<Holder> {
    match folder.try_lock() {
        Ok(Some(_)) => Ok(Holder::Nobody),
        Ok(None) => Ok(Holder::Supervisor),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Holder::NoFolder),
        Err(e) => Err(e),
    }
}

#[derive(PartialEq)]
enum Settled {
    /// There is an end now, or a supervisor.
    LookAgain,
    NeverStarted,
}

/// Ends the remaining processes of a run whose supervisor died, and records that the run is lost.
fn settle(folder: &RunFolder, clock: &SharedClock) -> io::Result<Settled> {
    let Some(_lock) = folder.try_lock()? else { return Ok(Settled::LookAgain) };
    if folder.end()?.is_some() {
        return Ok(Settled::LookAgain);
    }
    let Some(started_at) = folder.started()? else { return Ok(Settled::NeverStarted) };
    if !process::end_leftovers(&**clock, folder.path(), LEFTOVERS_TIMEOUT) {
        tracing::warn!(folder = %folder.path().display(), "processes of a lost run could not be ended");
    }
    folder.write_end(&ExecutionEnd {
        started_at: Some(started_at),
        ended_at: clock.now(),
        cause: EndCause::Lost,
        termination_message: None,
    })?;
    Ok(Settled::LookAgain)
}

fn no_images(what: String) -> Problem {
    Problem::new(Code::ArtifactMismatch, what, "It uses an image, and this machine runs packages.")
        .nothing_changed()
        .fix("Deploy again with this runtime.")
}

/// Connects to a run's supervisor, by way of a descriptor: the address of a socket has at most 107 bytes.
async fn connect(folder: &RunFolder) -> io::Result<UnixStream> {
    let inside = File::open(folder.path())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{}", inside.as_raw_fd(), folder::CONTROL)).await
}

impl Runtime for LocalRuntime {
    fn name(&self) -> &'static str {
        "local"
    }

    fn host(&self) -> Option<&str> {
        self.options.host.as_deref()
    }

    fn fires_ticks(&self) -> bool {
        false
    }

    fn parallel_runs_max(&self) -> usize {
        self.options.parallel_runs_max
    }

    fn fingerprint(&self, _blueprint: &DeploymentSpec) -> String {
        let mut hash = Sha256::new();
        hash.update(b"local 1\0");
        hash.update(self.options.vdk_distribution.as_bytes());
        hex::encode(hash.finalize())
    }

    fn observe<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Observed, Problem>> {
        Box::pin(async move {
            let (Some(inputs_hash), Some(Artifact::Packages(lock))) = (&target.inputs_hash, &target.artifact) else {
                return Ok(Observed::Missing);
            };
            let present = self.environments.present(lock).map_err(|e| {
                let what = format!("The environment of the data job {} can't be looked at.", target.job_name);
                Problem::new(Code::EnvironmentUnreadable, what, format!("{e}."))
                    .nothing_changed()
                    .no_action("Holdfast retries. If it persists, the operator checks `data_dir`.")
            })?;
            Ok(present.map_or(Observed::Missing, |_| Observed::Present { inputs_hash: inputs_hash.clone() }))
        })
    }

    fn apply<'a>(
        &'a self,
        _target: &'a Target,
        wanted: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<Option<LastApplied>, Problem>> {
        Box::pin(async move {
            let Some(lock) = &wanted.lock else { return Err(no_images("The deployment was not made.".into())) };
            let deployment = &wanted.deployment_spec.deployment;
            let requirement = self.vdk_requirement(&deployment.vdk_version);
            self.environments.ensure(lock, deployment.python_version, &requirement).await?;
            Ok(None)
        })
    }

    fn remove<'a>(&'a self, _target: &'a Target) -> BoxFuture<'a, Result<(), Problem>> {
        // Environments are shared; clean_up drops the unused ones.
        Box::pin(async { Ok(()) })
    }

    fn start<'a>(&'a self, run: &'a ExecutionSpec) -> BoxFuture<'a, Result<Started, Problem>> {
        Box::pin(async move { self.start_run(run).await.map(|()| Started::Running) })
    }

    fn cancel<'a>(&'a self, id: &'a ExecutionId, _job_id: JobId) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(self.cancel_run(id))
    }

    fn runs(&self) -> BoxFuture<'_, Result<Vec<KnownExecution>, Problem>> {
        let runs = self.runs.clone();
        Box::pin(blocking("The runs of this machine can't be listed.", move || {
            let mut ids = Vec::new();
            for entry in std::fs::read_dir(runs)? {
                let entry = entry?;
                if !RunFolder::at(entry.path()).is_forgotten()? {
                    ids.extend(entry.file_name().to_str().and_then(ExecutionId::parse));
                }
            }
            ids.sort_unstable();
            Ok(ids.into_iter().map(|id| KnownExecution { id, scheduled: None }).collect())
        }))
    }

    fn next<'a>(&'a self, id: &'a ExecutionId, seen: &'a Seen) -> BoxFuture<'a, Result<Stage, Problem>> {
        Box::pin(self.next_stage(id, seen))
    }

    fn log<'a>(&'a self, id: &'a ExecutionId, part: LogPart) -> BoxFuture<'a, Result<Option<LogChunk>, Problem>> {
        let (folder, max) = (self.folder(id), self.options.log_max_bytes);
        Box::pin(async move {
            blocking(&format!("The log of the execution {id} can't be read."), move || {
                match logs::read_part(folder.path(), max, part) {
                    // It was stored before; what was read of it here may be a part.
                    Ok(_) if folder.is_forgotten()? => Ok(None),
                    Ok(chunk) => Ok(Some(chunk)),
                    Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(e),
                }
            })
            .await
        })
    }

    fn forget<'a>(&'a self, id: &'a ExecutionId, _job_id: JobId) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(self.forget_run(id))
    }

    fn clean_up<'a>(&'a self, keep: &'a [LockKey]) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async move {
            let (runs, environments, keep) = (self.runs.clone(), Arc::clone(&self.environments), keep.to_vec());
            let now = self.options.clock.now();
            blocking("Unused environments were not removed.", move || {
                folder::remove_leftovers(&runs)?;
                folder::remove_forgotten(&runs, now)?;
                environments.clean_up(&keep)
            })
            .await
        })
    }
}
