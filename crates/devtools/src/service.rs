//! A running `holdfast serve` that ends with its owner, together with its runs.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::environment;

/// The start-up line that says where the service is.
const START_UP: &str = "Holdfast listens on ";
/// How long it may take to come up.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long it may take to stop when asked to.
const STOP_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// The options of a start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The binary.
    pub binary: PathBuf,
    /// Its data folder.
    pub data_dir: PathBuf,
    /// Its cache of tools and packages.
    pub cache_dir: PathBuf,
    /// Address and port; port 0 picks a free one.
    pub listen: String,
    /// Where its output is collected; it is appended.
    pub log: PathBuf,
    /// Further variables.
    pub variables: BTreeMap<String, OsString>,
    /// Whether keys pressed in the terminal (Ctrl-C) don't reach it.
    pub own_group: bool,
}

/// The process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    data_dir: PathBuf,
    url: String,
    ready_after: Duration,
    /// Whether runs end with it.
    takes_along: bool,
}

impl Process {
    /// Starts it and waits for its start-up line.
    ///
    /// # Errors
    /// When it ends before, or says nothing for a minute; its log is in the message.
    pub fn start(options: &Options) -> Result<Self> {
        let begun = Instant::now();
        let log = OpenOptions::new().create(true).append(true).open(&options.log)?;
        let mut command = Command::new(&options.binary);
        // Variables for these tools, or for a service of the developer's own, are no settings of this one.
        for name in environment::names("HOLDFAST_") {
            command.env_remove(name);
        }
        command
            .arg("serve")
            .env("HOLDFAST_LISTEN", &options.listen)
            .env("HOLDFAST_DATA_DIR", &options.data_dir)
            .env("HOLDFAST_CACHE_DIR", &options.cache_dir)
            .envs(&options.variables)
            // The settings of the caller's own client do not concern the jobs.
            .env_remove("VDK_CONTROL_SERVICE_REST_API_URL")
            .current_dir(&options.data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        if options.own_group {
            command.process_group(0);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", options.binary.display()))?;
        let output = child.stdout.take().context("the service has no output")?;
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut log = log;
            // Drained to the end, or the service would block on a full pipe.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = writeln!(log, "{line}");
                if let Some((_, rest)) = line.split_once(START_UP) {
                    let _ =
                        tell.send(rest.split_whitespace().next().unwrap_or_default().trim_end_matches('.').to_owned());
                }
            }
        });
        let heard = told.recv_timeout(READY_MAX);
        let mut process = Self {
            child,
            data_dir: options.data_dir.clone(),
            url: String::new(),
            ready_after: begun.elapsed(),
            takes_along: true,
        };
        match heard {
            Ok(url) => {
                process.url = url;
                Ok(process)
            }
            Err(reason) => {
                let ended = process.child.try_wait()?;
                let text = fs::read_to_string(&options.log).unwrap_or_default();
                match (reason, ended) {
                    (RecvTimeoutError::Disconnected, _) | (_, Some(_)) => {
                        let status = process.child.wait()?;
                        bail!("the service ended at its start ({status}):\n{text}")
                    }
                    _ => bail!("the service said nothing for {} s:\n{text}", READY_MAX.as_secs()),
                }
            }
        }
    }

    /// Its address, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// From the start of the process to its start-up line.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Kills it, as a crash does. Its runs continue.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    /// When it is still there after 20 s; it is killed then.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        kill_process(pid(&self.child)?, Signal::TERM)?;
        let begun = Instant::now();
        while begun.elapsed() < STOP_MAX {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
        self.kill()?;
        bail!("the service did not stop within {} s of SIGTERM", STOP_MAX.as_secs())
    }

    /// Forgets a service that is over; its remaining runs continue.
    pub fn forget(mut self) {
        self.takes_along = false;
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.stop();
        if self.takes_along {
            end_runs(&self.data_dir);
        }
    }
}

fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id out of range")
}

/// Ends the runs that a service abandoned in its data folder: they survive it by design. Known by the folder in their
/// command line or working folder. Linux only; elsewhere nothing is done.
pub fn end_runs(data_dir: &Path) {
    // A run's supervisor may start another process between two looks; a few rounds see them all.
    for _ in 0..20 {
        if end_those_seen(data_dir) == 0 {
            return;
        }
        thread::sleep(POLL);
    }
}

#[cfg(not(target_os = "linux"))]
fn end_those_seen(_data_dir: &Path) -> usize {
    0
}

#[cfg(target_os = "linux")]
fn end_those_seen(data_dir: &Path) -> usize {
    use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let mut seen = 0;
    for entry in entries.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        if !belongs(&entry.path(), data_dir) {
            continue;
        }
        // The handle comes before the second look, so that a reused id is never hit.
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { continue };
        if belongs(&entry.path(), data_dir) {
            seen += 1;
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }
    seen
}

#[cfg(target_os = "linux")]
fn belongs(process: &Path, data_dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;

    let folder = data_dir.as_os_str().as_bytes();
    let named = fs::read(process.join("cmdline"))
        .is_ok_and(|line| !folder.is_empty() && line.windows(folder.len()).any(|part| part == folder));
    named || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(data_dir))
}
