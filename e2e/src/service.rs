//! The real binary, on a data folder of its own.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use devtools::{
    binary::{self, Profile},
    cache, environment,
    service::{self, Process},
};
use tempfile::TempDir;
use testing::Database;

use crate::{TEAM, api::Api, vdk::Vdk};

/// The differences from a plain `holdfast serve`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Variables.
    pub variables: BTreeMap<String, OsString>,
    /// Files to put into the folder above the data folder before the start. `{folder}` in a variable is that folder.
    pub files: Vec<(String, String)>,
    /// A data folder that another service has.
    pub data_dir: Option<PathBuf>,
    /// The address to listen on; a free port of the loopback address when there is none.
    pub listen: Option<String>,
    /// Another binary than that of the development profile.
    pub binary: Option<PathBuf>,
}

impl Options {
    /// With an empty database of this kind.
    pub fn on(database: Database) -> Self {
        match database {
            Database::Sqlite => Self::default(),
            Database::Postgresql => Self::default().set("HOLDFAST_DATABASE_URL", database.fresh().url()),
        }
    }

    /// With a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// With a file.
    #[must_use]
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.into(), content.into()));
        self
    }
}

/// A service. Dropping it ends it and the runs that it started, and removes its data.
#[derive(Debug)]
pub struct Service {
    process: Option<Process>,
    options: service::Options,
    url: String,
    folder: TempDir,
    /// Whether its data folder is another one's.
    is_guest: bool,
}

fn built() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| binary::path(Profile::Dev).expect("the binary")).clone()
}

impl Service {
    /// A service without any configuration.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// A service without any configuration but its database's.
    pub fn start_on(database: Database) -> Self {
        Self::start_with(Options::on(database))
    }

    /// A service with a configuration.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_with(options: Options) -> Self {
        Self::try_start(options).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// A service that may not come up.
    ///
    /// # Errors
    /// When it does not; its log is in the message.
    pub fn try_start(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("holdfast-e2e-").tempdir().expect("a temporary folder");
        let at = folder.path().to_string_lossy();
        let data_dir = options.data_dir.clone().unwrap_or_else(|| folder.path().join("data"));
        for each in [&data_dir, &folder.path().join("beside")] {
            fs::create_dir_all(each).expect("a folder");
        }
        for (name, content) in &options.files {
            let path = folder.path().join(name);
            fs::write(&path, content).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file of this user");
        }
        let is_guest = options.data_dir.is_some();
        let options = service::Options {
            binary: options.binary.clone().unwrap_or_else(built),
            data_dir,
            cache_dir: cache::service_folder().expect("the cache folder"),
            listen: options.listen.unwrap_or_else(|| "127.0.0.1:0".into()),
            log: folder.path().join("service.log"),
            variables: options
                .variables
                .into_iter()
                .map(|(name, value)| (name, value.to_string_lossy().replace("{folder}", &at).into()))
                .collect(),
            own_group: false,
        };
        let process = Process::start(&options)?;
        let url = process.url().to_owned();
        Ok(Self { process: Some(process), options, url, folder, is_guest })
    }

    /// One more instance with the data folder and the database of this one. It ends no run.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn another(&self) -> Self {
        let variables = self.options.variables.clone();
        let data_dir = Some(self.options.data_dir.clone());
        Self::start_with(Options {
            variables,
            data_dir,
            files: Vec::new(),
            listen: None,
            binary: Some(self.options.binary.clone()),
        })
    }

    /// Runs another command of the binary with the settings of this service.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.options.binary);
        for name in environment::names("HOLDFAST_") {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("HOLDFAST_DATA_DIR", &self.options.data_dir)
            .env("HOLDFAST_CACHE_DIR", &self.options.cache_dir)
            .envs(&self.options.variables)
            .output()
            .expect("the binary")
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address of its metrics, when they have one of their own.
    pub fn metrics_url(&self) -> Option<String> {
        self.log().lines().find_map(|line| Some(line.trim().strip_prefix("metrics ")?.trim().to_owned()))
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// A folder beside its data folder that jobs may write to. It goes with the service.
    pub fn beside(&self) -> PathBuf {
        self.folder.path().join("beside")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.options.log).unwrap_or_default()
    }

    /// The process.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a running service")
    }

    /// Plain HTTP for [`TEAM`].
    pub fn api(&self) -> Api {
        Api::new(&self.url, TEAM)
    }

    /// The stock client for [`TEAM`].
    pub fn vdk(&self) -> Vdk {
        Vdk::new(&self.url, TEAM)
    }

    /// `kill -9`; runs continue.
    pub fn kill(&mut self) {
        self.process().kill().expect("kill");
    }

    /// SIGTERM, and waits for the end; runs continue.
    pub fn stop(&mut self) -> ExitStatus {
        self.process().stop().unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// Starts it again on the same data folder and address, and gives the time until it was ready.
    pub fn start_again(&mut self) -> Duration {
        let address = self.url.trim_start_matches("http://");
        address.clone_into(&mut self.options.listen);
        // The old one is over; its runs are not, and must not end with its handle.
        if let Some(old) = self.process.take() {
            old.forget();
        }
        let process = Process::start(&self.options).unwrap_or_else(|e| panic!("{e:#}"));
        let after = process.ready_after();
        self.process = Some(process);
        after
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_log(&self.options.log);
        }
        if self.is_guest
            && let Some(mut process) = self.process.take()
        {
            let _ = process.stop();
            process.forget();
        }
    }
}

#[expect(clippy::print_stderr, reason = "the test harness shows it when the test fails")]
fn show_log(path: &Path) {
    const LINES: usize = 80;
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(LINES);
    eprintln!("--- the service's log, last {} of {} lines", lines.len() - from, lines.len());
    for line in &lines[from..] {
        eprintln!("{line}");
    }
    eprintln!("---");
}

/// A service that tests of one program share. It ends with the last of them that holds it.
#[derive(Debug)]
pub struct Shared(Arc<Service>);

/// The shared service: the one that runs, or a new one.
pub fn shared() -> Shared {
    shared_on(Database::Sqlite)
}

/// The shared service on this database.
pub fn shared_on(database: Database) -> Shared {
    static CURRENT: [Mutex<Weak<Service>>; 2] = [Mutex::new(Weak::new()), Mutex::new(Weak::new())];
    let current = &CURRENT[usize::from(database == Database::Postgresql)];
    let mut current = current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(service) = current.upgrade() {
        return Shared(service);
    }
    let service = Arc::new(Service::start_on(database));
    *current = Arc::downgrade(&service);
    Shared(service)
}

impl std::ops::Deref for Shared {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The last one shows it as the service ends.
        if std::thread::panicking() && Arc::strong_count(&self.0) > 1 {
            show_log(&self.0.options.log);
        }
    }
}
