//! The installer: `uv`, where it comes from and how it is run.
//!
//! One that is given is used as it is; else one of a known version in the search path; else [`PINNED`] is installed
//! once into the cache with the pip of one of the machine's interpreters. It runs with an empty home, without
//! configuration files and with a known environment.
//!
//! Here it installs wheels alone and runs no foreign code, so it may have the credentials of the index and write into the
//! shared cache. Where packages are built it runs in a [`crate::BuildSandbox`].

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use files::Lock;
use model::{
    Problem,
    clock::{Clock, SharedClock},
    problem::Code,
};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use sandbox::{Measured, Support, measure_tree};

use crate::{
    Interpreter,
    command::{Command, Ended, Output},
    fault,
    index::IndexAccess,
    sandbox_policy::BuildSandboxPolicy,
    untrusted::{self, MIB},
};

/// The `uv` that is installed when the machine has none: the version in [`PINNED_HASHED`].
const PINNED: &str = "0.13.9";
/// The same as a requirement with the hash of each of its files. Made by `uv pip compile --generate-hashes`.
const PINNED_HASHED: &str = include_str!("uv.txt");
/// The first version whose options are those that are used here.
const MINIMUM: [u32; 3] = [0, 11, 0];
/// The first version whose options and messages were not compared with those that are used here.
const UNKNOWN_FROM: [u32; 3] = [0, 14, 0];

/// Variables that an installer needs to reach the network and to understand the machine; any other is dropped.
pub const ENVIRONMENT: [&str; 16] = [
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

const QUESTION_LIMIT: Duration = Duration::from_secs(20);
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// The options of the tools.
#[derive(Clone)]
pub struct ToolsOptions {
    /// Where tools, wheels and packages are kept. All of it can be deleted while the service is stopped.
    pub cache_dir: PathBuf,
    /// The `uv` to use; without it one is looked for in `PATH`, and installed when there is none.
    pub uv: Option<PathBuf>,
    /// The package index; without it the tool's own default.
    pub index_url: Option<String>,
    /// Variables of which the tool sees those in [`ENVIRONMENT`].
    pub environment: BTreeMap<String, String>,
    /// The interpreters of this machine.
    pub interpreters: Vec<Interpreter>,
    /// Constraints for VDK's packages and their dependencies, one a line; see [`vdk::CONSTRAINTS`].
    pub vdk_constraints: String,
    /// Whether packages that jobs require may be built, when the index has no wheel of them. Those of VDK are the
    /// operator's choice, and are built in any case.
    pub allow_builds: bool,
    /// The disk that one build may use.
    pub build_disk_max_mib: u64,
    /// How build hooks and packages are confined when they run. Without it they run like the service itself.
    pub sandbox_policy: Option<BuildSandboxPolicy>,
    /// How builds reach the index: needed when `index_url` has credentials. Without it they use `index_url` as it is.
    pub index_access: Option<Arc<dyn IndexAccess>>,
    /// Waiting.
    pub clock: SharedClock,
}

impl ToolsOptions {
    /// The disk that one build may use when nothing else is set.
    pub const BUILD_DISK_MAX_MIB: u64 = 4096;
}

/// Without the index and the variables, either of which may carry a password.
impl std::fmt::Debug for ToolsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToolsOptions")
            .field("cache_dir", &self.cache_dir)
            .field("uv", &self.uv)
            .field("interpreters", &self.interpreters)
            .finish_non_exhaustive()
    }
}

/// The installer and its caches.
#[derive(Debug)]
pub struct Tools {
    pub(crate) options: ToolsOptions,
    uv: OnceCell<PathBuf>,
    workshop: OnceCell<ScratchRoot>,
    pub(crate) support: OnceCell<Support>,
}

/// The folder for the working folders of one set of tools. Its lock says that they are in use.
#[derive(Debug)]
struct ScratchRoot {
    folder: TempDir,
    _lock: Lock,
}

impl ScratchRoot {
    const LOCK: &str = "lock";

    /// Makes one, and removes those whose process is gone. The lock around it all keeps another from taking one that
    /// is being made for one that was left.
    async fn open(clock: &dyn Clock, cache_dir: &Path) -> Result<Self, Problem> {
        let all = cache_dir.join("tmp");
        let _door = lock_file(clock, &all.join(Self::LOCK)).await?;
        let open = || {
            for folder in std::fs::read_dir(&all)?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()) {
                if Lock::try_exclusive(&folder.join(Self::LOCK)).is_ok_and(|lock| lock.is_some()) {
                    untrusted::remove(&folder);
                }
            }
            let folder = tempfile::tempdir_in(&all)?;
            let lock = Lock::exclusive(&folder.path().join(Self::LOCK))?;
            Ok(Self { folder, _lock: lock })
        };
        open().map_err(|e| fault::io("A working folder could not be made.", &all, &e))
    }
}

impl Tools {
    /// Tools that look for nothing and install nothing until they are used.
    pub fn new(options: ToolsOptions) -> Self {
        Self { options, uv: OnceCell::new(), workshop: OnceCell::new(), support: OnceCell::new() }
    }

    /// The interpreters that environments can be made of.
    pub fn interpreters(&self) -> &[Interpreter] {
        &self.options.interpreters
    }

    /// Whether packages that jobs require may be built.
    pub fn allow_builds(&self) -> bool {
        self.options.allow_builds
    }

    /// Where tools, wheels and packages are kept.
    pub fn cache_dir(&self) -> &Path {
        &self.options.cache_dir
    }

    /// The path of `uv`. The first call may install it; calls at the same time wait for that one.
    pub async fn uv(&self) -> Result<PathBuf, Problem> {
        self.uv.get_or_try_init(|| self.find_uv()).await.cloned()
    }

    /// An empty folder in the cache that is removed with the value; what a process that was killed left is removed
    /// by the next.
    pub async fn scratch(&self) -> Result<TempDir, Problem> {
        let own =
            self.workshop.get_or_try_init(|| ScratchRoot::open(&*self.options.clock, &self.options.cache_dir)).await?;
        tempfile::tempdir_in(own.folder.path())
            .map_err(|e| fault::io("A working folder could not be made.", own.folder.path(), &e))
    }

    /// Runs `uv venv` in `folder`.
    pub(crate) async fn venv<A: AsRef<OsStr>>(
        &self,
        what: &str,
        folder: &Path,
        args: impl IntoIterator<Item = A>,
        time_limit: Duration,
    ) -> Result<(), Problem> {
        let mut command = self.command(&self.uv().await?, folder, time_limit)?;
        command.args(["--quiet", "--no-progress", "venv"]);
        command.args(args);
        let output = finish(what, command).await?;
        if output.success { Ok(()) } else { Err(fault::of_installer(what, &output)) }
    }

    /// Runs `uv pip` in `folder` with wheels alone: no build hook runs, and the shared cache is used. A wheel that takes more
    /// disk than a build may use ends it.
    pub async fn pip<A: AsRef<OsStr>>(
        &self,
        what: &str,
        folder: &Path,
        args: impl IntoIterator<Item = A>,
        time_limit: Duration,
    ) -> Result<Output, Problem> {
        let mut command = self.command(&self.uv().await?, folder, time_limit)?;
        command.args(["--quiet", "--no-progress", "pip"]);
        command.args(args);
        // The variable UV_NO_BUILD is not heeded by `uv pip`.
        command.args(["--no-build"]);
        let running = command.start().map_err(|e| not_started(what, &e))?;
        let outgrown = self.outgrown_wheel(running.id());
        let (wheel, most) = tokio::select! {
            ended = running.end() => return finished(what, ended.map_err(|e| not_started(what, &e))?),
            wheel = outgrown => (wheel, self.options.build_disk_max_mib),
        };
        let named = model::name::excerpt(&wheel.content);
        let _ = tokio::task::spawn_blocking(move || untrusted::remove(&wheel.folder)).await;
        Err(Problem::new(
            Code::PackageWheelTooLarge,
            what,
            format!("A wheel with {named} has more than {most} MiB when unpacked (`python.build_disk_max_mib`)."),
        )
        .not_rolled_out()
        .fix("Require a smaller version of the package, or ask the operator to raise `python.build_disk_max_mib`."))
    }

    /// Waits until a wheel that the installer with this process id unpacks takes too much disk.
    async fn outgrown_wheel(&self, installer: Option<u32>) -> OutgrownWheel {
        let most_bytes = self.options.build_disk_max_mib.saturating_mul(MIB);
        loop {
            self.options.clock.sleep(WHEEL_CHECK_PAUSE).await;
            let cache = self.options.cache_dir.join("uv");
            let Some(installer) = installer else { continue };
            let search = tokio::task::spawn_blocking(move || OutgrownWheel::find(&cache, installer, most_bytes));
            if let Ok(Some(found)) = search.await {
                return found;
            }
        }
    }

    /// A program with the environment that installers get. Its home is a folder of its own in `folder`.
    pub(crate) fn command(&self, program: &Path, folder: &Path, time_limit: Duration) -> Result<Command, Problem> {
        let home = folder.join("home");
        std::fs::create_dir_all(&home).map_err(|e| fault::io("A working folder could not be made.", &home, &e))?;
        let mut command = Command::new(program, folder, time_limit, &self.options.clock);
        self.pass_on(&mut command);
        command.env("HOME", home.as_os_str());
        command.env("UV_CACHE_DIR", self.options.cache_dir.join("uv").as_os_str());
        // In the environment, because other users of the machine can read command lines.
        if let Some(index) = &self.options.index_url {
            command.env("UV_DEFAULT_INDEX", index);
            command.env("PIP_INDEX_URL", index);
        }
        Ok(command)
    }

    /// Gives a command the variables that any installer gets.
    pub(crate) fn pass_on(&self, command: &mut Command) {
        for (name, value) in &self.options.environment {
            if ENVIRONMENT.contains(&name.as_str()) {
                command.env(name, value);
            }
        }
        for (name, value) in [
            ("UV_NO_CONFIG", "1"),
            ("UV_PYTHON_DOWNLOADS", "never"),
            ("UV_SYSTEM_CERTS", "1"),
            ("NO_COLOR", "1"),
            ("PIP_CONFIG_FILE", "/dev/null"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
            ("PIP_NO_INPUT", "1"),
            ("PYTHONNOUSERSITE", "1"),
            ("PYTHONWARNINGS", "ignore"),
        ] {
            command.env(name, value);
        }
        if let Some(bundle) = self.options.environment.get("SSL_CERT_FILE") {
            command.env("PIP_CERT", bundle);
        }
    }

    async fn find_uv(&self) -> Result<PathBuf, Problem> {
        if let Some(given) = &self.options.uv {
            return match self.uv_version(given).await {
                Some(version) if is_known(version) => Ok(given.clone()),
                Some(version) => Err(Problem::new(
                    Code::PackageInstallerUnsupported,
                    "The packages were not installed.",
                    format!(
                        "The configured uv has version {}; supported: {} to before {}.",
                        dotted(version),
                        dotted(MINIMUM),
                        dotted(UNKNOWN_FROM)
                    ),
                )
                .not_rolled_out()
                .fix("The operator installs a supported version, or removes the setting `uv`.")),
                None => Err(Problem::new(
                    Code::PackageInstallerUnsupported,
                    "The packages were not installed.",
                    "The configured uv does not run.",
                )
                .not_rolled_out()
                .fix("The operator corrects the setting `uv`, or removes it.")),
            };
        }
        let search = self.options.environment.get("PATH").map(String::as_str).unwrap_or_default();
        for folder in std::env::split_paths(search).filter(|f| f.is_absolute()) {
            let path = folder.join("uv");
            if path.is_file() && self.uv_version(&path).await.is_some_and(is_known) {
                tracing::debug!(uv = %path.display(), "found");
                return Ok(path);
            }
        }
        self.install_uv().await
    }

    async fn uv_version(&self, path: &Path) -> Option<[u32; 3]> {
        let scratch = self.scratch().await.ok()?;
        let mut command = self.command(path, scratch.path(), QUESTION_LIMIT).ok()?;
        command.args(["--version"]);
        let output = finish("", command).await.ok().filter(|o| o.success)?;
        let mut numbers = output.stdout.split_whitespace().nth(1)?.split('.').map(|n| n.parse().ok());
        Some([numbers.next()??, numbers.next()??, numbers.next()??])
    }

    async fn install_uv(&self) -> Result<PathBuf, Problem> {
        const WHAT: &str = "The installer of packages could not be installed.";
        let tools = self.options.cache_dir.join("tools");
        let done = tools.join(format!("uv-{PINNED}"));
        let binary = done.join("bin").join("uv");
        if self.is_installed(&done).await {
            return Ok(binary);
        }
        let _lock = lock_file(&*self.options.clock, &tools.join(format!("uv-{PINNED}.lock"))).await?;
        if self.is_installed(&done).await {
            return Ok(binary);
        }
        tracing::info!(version = PINNED, "installing uv, once");
        let mut problem = Problem::new(
            Code::PackageInstallerMissing,
            WHAT,
            "This machine has neither uv nor a Python to install it with.",
        )
        .not_rolled_out()
        .fix("The operator installs uv, or Python 3.8 or later.");
        for interpreter in self.options.interpreters.iter().rev() {
            let scratch = self.scratch().await?;
            let made = scratch.path().join("made");
            match self.pip_install(WHAT, &interpreter.executable, scratch.path(), &made).await {
                Ok(()) => {
                    let _ = std::fs::remove_dir_all(&done);
                    // Its files have to be on disk before its final name.
                    let synced = || rustix::fs::syncfs(std::fs::File::open(&made)?).map_err(io::Error::from);
                    synced().and_then(|()| files::publish(&made, &done)).map_err(|e| fault::io(WHAT, &done, &e))?;
                    return Ok(binary);
                }
                Err(p) => problem = p,
            }
        }
        Err(problem)
    }

    /// Whether the uv in this folder is the pinned one and whole: it has the size that was noted when it was installed, and it
    /// runs.
    async fn is_installed(&self, folder: &Path) -> bool {
        let binary = folder.join("bin").join("uv");
        let Ok(found) = std::fs::metadata(&binary) else { return false };
        let noted = std::fs::read_to_string(folder.join(format!("uv-{PINNED}.dist-info/RECORD"))).ok();
        let whole = noted.and_then(|record| noted_bytes(&record)).is_some_and(|bytes| bytes == found.len())
            && self.uv_version(&binary).await.is_some_and(|version| dotted(version) == PINNED);
        if !whole {
            tracing::warn!(path = %binary.display(), "the installed uv is not whole; installing it again");
        }
        whole
    }

    /// Installs uv into a folder: with the interpreter's own pip, else with the one of a virtual environment.
    async fn pip_install(&self, what: &str, python: &Path, scratch: &Path, into: &Path) -> Result<(), Problem> {
        let requirement = scratch.join("uv.txt");
        std::fs::write(&requirement, PINNED_HASHED).map_err(|e| fault::io(what, &requirement, &e))?;
        let install = async |python: &Path| {
            let mut pip = self.command(python, scratch, INSTALL_LIMIT)?;
            pip.args([
                "-I",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--no-cache-dir",
            ]);
            pip.args([OsStr::new("--target"), into.as_os_str(), OsStr::new("--require-hashes")]);
            pip.args([OsStr::new("-r"), requirement.as_os_str()]);
            finish(what, pip).await
        };
        let first = install(python).await?;
        if first.success && into.join("bin/uv").is_file() {
            return Ok(());
        }
        if !first.stderr.contains("No module named pip") {
            return Err(fault::of_platform(what, &first));
        }
        let environment = scratch.join("pip");
        let mut venv = self.command(python, scratch, INSTALL_LIMIT)?;
        venv.args([OsStr::new("-I"), OsStr::new("-m"), OsStr::new("venv"), environment.as_os_str()]);
        let made = finish(what, venv).await?;
        if !made.success {
            return Err(fault::of_platform(what, &made));
        }
        let second = install(&environment.join("bin/python")).await?;
        if second.success { Ok(()) } else { Err(fault::of_platform(what, &second)) }
    }
}

/// How often the wheels that are being unpacked are measured. A gigabyte of zeros is unpacked in less than half a second.
const WHEEL_CHECK_PAUSE: Duration = Duration::from_millis(50);

/// A wheel that is too large once it is unpacked.
struct OutgrownWheel {
    /// The folder in which it is being unpacked.
    folder: PathBuf,
    /// The name of something in it.
    content: String,
}

impl OutgrownWheel {
    /// The installer unpacks each wheel in a folder `.tmp…` at the top of its cache. Installers of other environments do the
    /// same at the same time, so a folder belongs to the process that has a file in it open.
    fn find(cache: &Path, installer: u32, most_bytes: u64) -> Option<Self> {
        let entries = std::fs::read_dir(cache.canonicalize().ok()?).ok()?.flatten();
        let unpacked = entries.filter(|e| e.file_name().as_encoded_bytes().starts_with(b".tmp")).map(|e| e.path());
        let too_large = |folder: &PathBuf| measure_tree(folder, most_bytes) == Measured::TooLarge;
        let folder = unpacked.filter(too_large).find(|folder| has_open(installer, folder))?;
        let first = std::fs::read_dir(&folder).ok()?.flatten().next()?;
        Some(Self { content: first.file_name().to_string_lossy().into_owned(), folder })
    }
}

/// Whether a process has a file in this folder open.
fn has_open(process: u32, folder: &Path) -> bool {
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    open.filter_map(|e| std::fs::read_link(e.path()).ok()).any(|file| file.starts_with(folder))
}

/// Runs a command to its end; taking too long, or not starting, is the platform's problem.
pub(crate) async fn finish(what: &str, command: Command) -> Result<Output, Problem> {
    finished(what, command.run().await.map_err(|e| not_started(what, &e))?)
}

/// The output of a command; that it took too long is the platform's problem.
pub(crate) fn finished(what: &str, ended: Ended) -> Result<Output, Problem> {
    match ended {
        Ended::Exited(output) => Ok(output),
        Ended::TimedOut(limit) => Err(Problem::new(
            Code::PackageInstallerTimeout,
            what,
            format!("The installer was stopped after {} seconds.", limit.as_secs()),
        )
        .not_rolled_out()
        .no_action("Holdfast retries. If it persists, the operator checks the package index.")),
    }
}

pub(crate) fn not_started(what: &str, error: &io::Error) -> Problem {
    Problem::new(Code::PackageInstallerNotStarted, what, format!("The installer could not be started: {error}."))
        .not_rolled_out()
        .no_action("Holdfast retries. If it persists, the operator checks the process limits and the log.")
}

/// Waits for the exclusive lock on a file, which it makes. The lock ends with the value, or with this process.
pub(crate) async fn lock_file(clock: &dyn Clock, path: &Path) -> Result<Lock, Problem> {
    const WHAT: &str = "A folder of the cache could not be locked.";
    let failed = |e: io::Error| fault::io(WHAT, path, &e);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut told = false;
    loop {
        if let Some(lock) = Lock::try_exclusive(path).map_err(failed)? {
            return Ok(lock);
        }
        if !told {
            tracing::info!(lock = %path.display(), "waiting for a lock of the cache that another task or instance holds");
            told = true;
        }
        clock.sleep(Duration::from_millis(100)).await;
    }
}

/// The size of the binary in the record of its package: lines of a path, a hash and a size.
fn noted_bytes(record: &str) -> Option<u64> {
    record.lines().find_map(|line| {
        let mut fields = line.rsplit(',');
        let (bytes, _hash, path) = (fields.next()?, fields.next()?, fields.next()?);
        path.ends_with("/bin/uv").then(|| bytes.parse().ok())?
    })
}

/// Whether this version of the installer is one that this service was tried with.
fn is_known(version: [u32; 3]) -> bool {
    (MINIMUM..UNKNOWN_FROM).contains(&version)
}

fn dotted(version: [u32; 3]) -> String {
    version.map(|n| n.to_string()).join(".")
}

#[cfg(test)]
mod tests {
    use clock::SystemClock;

    use super::*;

    /// Tools with a cache and nothing else.
    fn tools(cache: &Path) -> Tools {
        Tools::new(ToolsOptions {
            cache_dir: cache.into(),
            uv: None,
            index_url: None,
            environment: [("HTTPS_PROXY", "http://proxy"), ("HOLDFAST_KEY", "secret"), ("PIP_FIND_LINKS", "/x")]
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .into(),
            interpreters: Vec::new(),
            vdk_constraints: String::new(),
            allow_builds: false,
            build_disk_max_mib: 1,
            sandbox_policy: None,
            index_access: None,
            clock: Arc::new(SystemClock),
        })
    }

    #[test]
    fn an_installer_of_an_unknown_version_is_passed_over() {
        for (version, known) in
            [([0, 10, 9], false), ([0, 11, 0], true), ([0, 13, 99], true), ([0, 14, 0], false), ([1, 0, 0], false)]
        {
            assert_eq!(is_known(version), known, "{version:?}");
        }
    }

    #[test]
    fn the_pinned_version_is_the_one_with_hashes() {
        assert!(PINNED_HASHED.starts_with(&format!("uv=={PINNED} \\\n    --hash=sha256:")));
    }

    #[tokio::test]
    async fn an_installed_uv_that_is_not_whole_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let tools = tools(folder.path());
        let done = folder.path().join("tools/uv");
        let info = done.join(format!("uv-{PINNED}.dist-info"));
        std::fs::create_dir_all(done.join("bin")).unwrap();
        std::fs::create_dir_all(&info).unwrap();
        let script = |version: &str| format!("#!/bin/sh\necho uv {version}\n");
        let whole = script(PINNED);
        let put = |text: &str| {
            std::fs::write(done.join("bin/uv"), text).unwrap();
            std::fs::set_permissions(done.join("bin/uv"), std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let note = |bytes: usize| {
            let record =
                format!("../../bin/uv,sha256=abc,{bytes}\n../../bin/uvx,sha256=abc,7\nuv/__init__.py,sha256=x,1\n");
            std::fs::write(info.join("RECORD"), record).unwrap();
        };
        assert!(!tools.is_installed(&done).await, "nothing is there");
        note(whole.len());
        put(&whole);
        assert!(tools.is_installed(&done).await);
        for broken in ["", &whole[..whole.len() - 1], &" ".repeat(whole.len())] {
            put(broken);
            assert!(!tools.is_installed(&done).await, "{broken:?}");
        }
        let other = script("0.12.0");
        put(&other);
        note(other.len());
        assert!(!tools.is_installed(&done).await, "another version");
        put(&whole);
        std::fs::write(info.join("RECORD"), "").unwrap();
        assert!(!tools.is_installed(&done).await, "the note is gone");
    }

    #[test]
    fn a_wheel_that_is_too_large_belongs_to_the_installer_that_unpacks_it() {
        let cache = tempfile::tempdir().unwrap();
        let unpacked = |name: &str, bytes: usize| {
            let folder = cache.path().join(name).join("package");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("data"), vec![1; bytes]).unwrap();
            std::fs::File::open(folder.join("data")).unwrap()
        };
        let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let find = |id: u32| OutgrownWheel::find(cache.path(), id, 1 << 20);
        let _open = [unpacked(".tmpSmall", 1 << 10), unpacked("archive-v0", 2 << 20)];
        assert!(find(std::process::id()).is_none());
        let open = unpacked(".tmpLarge", 2 << 20);
        let found = find(std::process::id()).unwrap();
        assert_eq!(
            (found.content.as_str(), found.folder.file_name().unwrap().to_str()),
            ("package", Some(".tmpLarge"))
        );
        let of_another = find(other.id());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(of_another.is_none());
        drop(open);
        assert!(find(std::process::id()).is_none());
    }

    #[tokio::test]
    async fn only_known_variables_reach_the_installer() {
        let folder = tempfile::tempdir().unwrap();
        let tools = tools(folder.path());
        let scratch = tools.scratch().await.unwrap();
        let command = tools.command(Path::new("/usr/bin/env"), scratch.path(), Duration::from_secs(20)).unwrap();
        let said = finish("", command).await.unwrap().stdout;
        assert!(said.contains("HTTPS_PROXY=http://proxy") && said.contains("UV_NO_CONFIG=1"), "{said}");
        assert!(!said.contains("HOLDFAST") && !said.contains("FIND_LINKS"), "{said}");
        assert!(said.contains(&format!("HOME={}", scratch.path().display())), "{said}");
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_removed_and_what_is_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("tmp/left");
        std::fs::create_dir_all(left.join("work")).unwrap();
        std::fs::write(left.join(ScratchRoot::LOCK), "").unwrap();
        let one = ScratchRoot::open(&SystemClock, folder.path()).await.unwrap();
        let two = ScratchRoot::open(&SystemClock, folder.path()).await.unwrap();
        assert!(!left.exists());
        assert!(one.folder.path().is_dir() && two.folder.path().is_dir());
    }
}
