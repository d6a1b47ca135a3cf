//! Running foreign code: build hooks of packages, and packages themselves.
//!
//! It runs in the sandbox of data jobs, in a throw-away folder with a home and a cache of its own, which alone it can
//! change. It sees no other part of the data folder and of the cache, no credentials of the index, and none of the
//! service's variables. Its output is read with [`crate::untrusted`].

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use model::{Problem, problem::Code};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sandbox::{LEVELS_MAX, Launcher, Measured, SandboxPolicy, Support, measure_tree};
use tempfile::TempDir;

use crate::{
    Tools,
    command::{Command, Ended, Output},
    fault,
    index::IndexSession,
    sandbox_policy::{BuildSandboxPolicy, machine},
    tools::{finished, not_started},
    untrusted::{self, MIB},
};

/// The pause between two checks how much disk a build uses.
const CHECK_PAUSE: Duration = Duration::from_millis(500);
/// Rounds of ending processes that start others meanwhile.
const LEFTOVER_ROUNDS: usize = 10;

/// A folder in which foreign code runs. It goes with the value.
#[derive(Debug)]
pub struct BuildSandbox<'a> {
    tools: &'a Tools,
    folder: TempDir,
    sandbox_policy: Option<SandboxPolicy>,
    session: Option<Box<dyn IndexSession>>,
}

impl Tools {
    /// Makes a folder for foreign code, which may read `read` beside it.
    pub async fn build_sandbox(&self, what: &str, read: &[&Path]) -> Result<BuildSandbox<'_>, Problem> {
        let uv = self.uv().await?;
        let folder = self.scratch().await?;
        for name in [TMP, HOME, CACHE] {
            let at = folder.path().join(name);
            std::fs::create_dir(&at).map_err(|e| fault::io(what, &at, &e))?;
        }
        let sandbox_policy = match &self.options.sandbox_policy {
            None => None,
            Some(given) => {
                let mut sandbox_policy = self.sandbox_policy(given, folder.path(), &uv, read);
                let support = self.support(&given.launcher, &sandbox_policy).await?;
                sandbox_policy.layers = support.layers();
                Some(sandbox_policy)
            }
        };
        let session = match &self.options.index_access {
            Some(access) => Some(access.open().await?),
            None => None,
        };
        Ok(BuildSandbox { tools: self, folder, sandbox_policy, session })
    }

    fn sandbox_policy(&self, given: &BuildSandboxPolicy, folder: &Path, uv: &Path, read: &[&Path]) -> SandboxPolicy {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut readable: Vec<PathBuf> = read.iter().map(|path| real(path)).collect();
        readable.push(real(uv));
        // An interpreter is found beneath the folder above its own.
        let hidden: Vec<PathBuf> = given.sandbox_policy.hidden.iter().map(|path| real(path)).collect();
        let prefixes = self.options.interpreters.iter().filter_map(|i| i.executable.parent()?.parent());
        readable.extend(prefixes.map(real).filter(|path| hidden.iter().any(|folder| path.starts_with(folder))));
        let mut sandbox_policy = SandboxPolicy {
            hidden,
            read: readable,
            write: vec![real(folder)],
            one_mount: Vec::new(),
            read_only: machine(),
            ..given.sandbox_policy.clone()
        };
        sandbox_policy.limits.file_bytes = Some(self.options.build_disk_max_mib.saturating_mul(MIB));
        sandbox_policy
    }

    async fn support(&self, launcher: &Launcher, sandbox_policy: &SandboxPolicy) -> Result<Support, Problem> {
        let ask = || async {
            let (launcher, sandbox_policy) = (launcher.clone(), sandbox_policy.clone());
            let asked = tokio::task::spawn_blocking(move || launcher.support(&sandbox_policy)).await;
            asked.map_err(|e| {
                Problem::new(Code::PackageSandboxUnavailable, "Package builds can't be sandboxed.", e.to_string())
                    .not_rolled_out()
                    .fix("The operator checks user namespaces and the log, or sets `python.allow_builds = false`.")
            })
        };
        self.support.get_or_try_init(ask).await.cloned()
    }
}

const TMP: &str = "tmp";
const HOME: &str = "home";
const CACHE: &str = "cache";

impl BuildSandbox<'_> {
    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a file into it.
    pub fn write(&self, what: &str, name: &str, text: &str) -> Result<(), Problem> {
        std::fs::write(self.path().join(name), text).map_err(|e| fault::io(what, self.path(), &e))
    }

    /// Reads a file that foreign code may have made.
    pub fn read(&self, what: &str, name: &str, max_bytes: u64) -> Result<String, Problem> {
        let read = untrusted::Folder::open(self.path()).and_then(|folder| folder.text(name, max_bytes));
        read.map_err(|e| {
            Problem::new(Code::PackageBuildOutputUnusable, what, format!("The build left no usable {name}: {e}."))
                .not_rolled_out()
                .fix("Correct the package whose build hooks ran, or require another version of it.")
        })
    }

    /// Runs `uv` in it. Packages may be built.
    pub async fn uv<A: AsRef<OsStr>>(
        &self,
        what: &str,
        args: impl IntoIterator<Item = A>,
        time_limit: Duration,
    ) -> Result<Output, Problem> {
        let mut command = self.command(&self.tools.uv().await?, time_limit);
        command.args(["--quiet", "--no-progress"]);
        command.args(args);
        match self.ended(what, command).await? {
            Ended::Exited(output) => Ok(output),
            Ended::TimedOut(limit) => Err(Problem::new(
                Code::PackageBuildTimeout,
                what,
                format!("A package did not build within {} seconds.", limit.as_secs()),
            )
            .not_rolled_out()
            .fix("Require a version of the package that has a wheel.")),
        }
    }

    /// A program to run in it.
    pub(crate) fn command(&self, program: &Path, time_limit: Duration) -> Command {
        let clock = &self.tools.options.clock;
        let mut command = match (&self.tools.options.sandbox_policy, &self.sandbox_policy) {
            (Some(given), Some(sandbox_policy)) => {
                Command::of(given.launcher.command(sandbox_policy, program), self.path(), time_limit, clock)
            }
            _ => Command::new(program, self.path(), time_limit, clock),
        };
        self.tools.pass_on(&mut command);
        command.env("HOME", self.path().join(HOME));
        command.env("TMPDIR", self.path().join(TMP));
        command.env("UV_CACHE_DIR", self.path().join(CACHE));
        match &self.session {
            Some(session) => {
                command.env("UV_DEFAULT_INDEX", session.index_url());
                command.env("PIP_INDEX_URL", session.index_url());
                // As many as the proxy takes connections of one session.
                command.env("UV_CONCURRENT_DOWNLOADS", "8");
                for name in ["NO_PROXY", "no_proxy"] {
                    let given = self.tools.options.environment.get(name).filter(|list| !list.is_empty());
                    let list = given.map(|list| format!("{list},")).unwrap_or_default();
                    command.env(name, format!("{list}127.0.0.1"));
                }
            }
            None => {
                if let Some(index) = &self.tools.options.index_url {
                    command.env("UV_DEFAULT_INDEX", index);
                    command.env("PIP_INDEX_URL", index);
                }
            }
        }
        command
    }

    /// Runs a command to its end; taking too long is the platform's problem.
    pub(crate) async fn finish(&self, what: &str, command: Command) -> Result<Output, Problem> {
        finished(what, self.ended(what, command).await?)
    }

    /// Runs a command to its end, and ends it when the folder grows too large.
    async fn ended(&self, what: &str, command: Command) -> Result<Ended, Problem> {
        let most = self.tools.options.build_disk_max_mib;
        let mut ended = tokio::select! {
            ended = command.run() => ended.map_err(|e| not_started(what, &e))?,
            why = self.outgrown(most) => {
                return Err(Problem::new(Code::PackageBuildDiskExceeded, what, why).not_rolled_out().fix("Require a version with a wheel, or ask the operator to raise \
                        `python.build_disk_max_mib`."));
            }
        };
        if let (Some(session), Ended::Exited(output)) = (&self.session, &mut ended) {
            output.stdout = session.without_session(&output.stdout);
            output.stderr = session.without_session(&output.stderr);
        }
        Ok(ended)
    }

    /// Waits until the folder is too large, and returns the reason.
    async fn outgrown(&self, most_mib: u64) -> String {
        loop {
            self.tools.options.clock.sleep(CHECK_PAUSE).await;
            let path = self.path().to_owned();
            let measured = tokio::task::spawn_blocking(move || measure_tree(&path, most_mib.saturating_mul(MIB))).await;
            match measured {
                Ok(Measured::TooLarge) => {
                    return format!("The build used more than {most_mib} MiB of disk (`python.build_disk_max_mib`).");
                }
                Ok(Measured::TooDeep) => return format!("The build nested folders deeper than {LEVELS_MAX} levels."),
                Ok(Measured::Bytes(_)) | Err(_) => {}
            }
        }
    }
}

/// Ends processes that detached themselves from a build. Best effort, since a process may change its environment.
fn end_leftovers(folder: &Path) {
    let marker = format!("HOME={}", folder.join(HOME).display());
    let is_leftover = |pid: Pid| {
        std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()))
            .is_ok_and(|all| all.split(|b| *b == 0).any(|one| one == marker.as_bytes()))
    };
    for _ in 0..LEFTOVER_ROUNDS {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = entries.filter_map(|e| e.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
        let mut found = false;
        for pid in all.filter(|pid| is_leftover(*pid)) {
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // Looked at again now that the descriptor holds it: the number may have gone to another process.
            if is_leftover(pid) {
                found = true;
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        }
        if !found {
            return;
        }
    }
}

impl Drop for BuildSandbox<'_> {
    fn drop(&mut self) {
        end_leftovers(self.folder.path());
        // Its own way to remove it recurses.
        self.folder.disable_cleanup(true);
        untrusted::remove(self.folder.path());
    }
}
