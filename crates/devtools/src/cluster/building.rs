//! Builds the products of a cluster while other work is done.

use std::{
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use super::products::CACHE;
use crate::{cache, command::Log, progress::say};

/// A build that runs beside other work. Dropping it ends it.
#[derive(Debug)]
pub struct Building {
    group: Pid,
    given_up: Arc<AtomicBool>,
    built: Option<JoinHandle<Result<()>>>,
}

impl Building {
    /// Has `command` (this program's own command that calls [`super::build`]) run beside this process. When it fails, that is said
    /// at once.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let log = Log::begin(cache::folder()?.join(format!("{CACHE}-build.log")))?;
        // A group of its own, so that all of it can be ended.
        let mut child = log
            .collect(command)?
            .process_group(0)
            .spawn()
            .context("the building of the test cluster can't be started")?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id out of range")?;
        let given_up = Arc::new(AtomicBool::new(false));
        let quiet = Arc::clone(&given_up);
        let built = thread::spawn(move || {
            let status = child.wait()?;
            if status.success() || quiet.load(Ordering::Relaxed) {
                return Ok(());
            }
            let error = anyhow!("the test cluster can't be built, so tests that need it fail. {log}");
            say(format_args!("\n✗ {error}\n"));
            Err(error)
        });
        Ok(Self { group, given_up, built: Some(built) })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it failed; the last lines of its log are in the message.
    pub fn finish(mut self) -> Result<()> {
        match self.built.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            _ => bail!("the building of the test cluster was not seen to its end"),
        }
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Some(built) = self.built.take()
            && !built.is_finished()
        {
            self.given_up.store(true, Ordering::Relaxed);
            let _ = kill_process_group(self.group, Signal::TERM);
            let _ = built.join();
        }
    }
}
