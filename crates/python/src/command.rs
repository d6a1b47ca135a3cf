//! Running another program within limits.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use model::clock::SharedClock;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Child,
};

use crate::open_files;

/// Bytes kept of the beginning and of the end of each stream; the middle is dropped.
const KEPT_BYTES: usize = 32 * 1024;

/// A program to run with the given variables alone: no variable of this process reaches it.
#[derive(Debug)]
pub(crate) struct Command {
    inner: tokio::process::Command,
    time_limit: Duration,
    clock: SharedClock,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With its own exit.
    Exited(Output),
    /// It took longer than this, and was killed with all of its group.
    TimedOut(Duration),
}

/// Its output.
#[derive(Debug)]
pub struct Output {
    /// Whether its exit code was 0.
    pub success: bool,
    /// Its exit code; absent when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output, cut in the middle.
    pub stdout: String,
    /// Its standard error, cut in the middle.
    pub stderr: String,
}

impl Command {
    pub(crate) fn new(program: &Path, folder: &Path, time_limit: Duration, clock: &SharedClock) -> Self {
        Self::of(std::process::Command::new(program), folder, time_limit, clock)
    }

    /// A command that has a program and arguments already.
    pub(crate) fn of(command: std::process::Command, folder: &Path, time_limit: Duration, clock: &SharedClock) -> Self {
        let mut inner = tokio::process::Command::from(command);
        inner
            .env_clear()
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        Self { inner, time_limit, clock: Arc::clone(clock) }
    }

    pub(crate) fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        self.inner.args(args);
    }

    pub(crate) fn env(&mut self, name: &str, value: impl Into<OsString>) {
        self.inner.env(name, value.into());
    }

    /// Runs it to its end. When this future is dropped, the program and its children are killed.
    pub(crate) async fn run(self) -> std::io::Result<Ended> {
        self.start()?.end().await
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> std::io::Result<Running> {
        let child = self.inner.spawn()?;
        open_files::restore_in(child.id());
        Ok(Running { group: Group(child.id()), child, time_limit: self.time_limit, clock: self.clock })
    }
}

/// A program that runs. It and its children are killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    group: Group,
    child: Child,
    time_limit: Duration,
    clock: SharedClock,
}

impl Running {
    /// Its process id.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> std::io::Result<Ended> {
        let (Some(stdout), Some(stderr)) = (self.child.stdout.take(), self.child.stderr.take()) else {
            return Err(std::io::Error::other("its output is not connected"));
        };
        let all = async { tokio::join!(self.child.wait(), cut(stdout), cut(stderr)) };
        match self.clock.timeout(self.time_limit, all).await {
            Ok((status, stdout, stderr)) => {
                let status = status?;
                self.group.0 = None;
                Ok(Ended::Exited(Output { success: status.success(), code: status.code(), stdout, stderr }))
            }
            Err(_) => Ok(Ended::TimedOut(self.time_limit)),
        }
    }
}

/// A process group that does not outlive this value.
#[derive(Debug)]
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Reads a stream to its end and keeps its first and last bytes.
async fn cut(mut from: impl AsyncRead + Unpin) -> String {
    let (mut head, mut tail, mut dropped) = (Vec::new(), Vec::new(), 0_usize);
    let mut piece = vec![0; 8192];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        let (first, rest) = piece[..n].split_at(n.min(KEPT_BYTES - head.len()));
        head.extend_from_slice(first);
        tail.extend_from_slice(rest);
        if tail.len() > 2 * KEPT_BYTES {
            dropped += tail.len() - KEPT_BYTES;
            tail.drain(..tail.len() - KEPT_BYTES);
        }
    }
    let mut text = String::from_utf8_lossy(&head).into_owned();
    if dropped > 0 {
        let _ = writeln!(text, "\n… {dropped} bytes left out …");
    }
    text.push_str(&String::from_utf8_lossy(&tail));
    text
}

#[cfg(test)]
mod tests {
    use clock::SystemClock;

    use super::*;

    fn clock() -> SharedClock {
        Arc::new(SystemClock)
    }

    fn sh(script: &str, seconds: u64) -> Command {
        let mut command = Command::new(Path::new("/bin/sh"), Path::new("/"), Duration::from_secs(seconds), &clock());
        command.args(["-c", script]);
        command.env("PATH", "/usr/bin:/bin");
        command
    }

    #[tokio::test]
    async fn a_flood_of_output_is_cut_in_the_middle() {
        let Ended::Exited(out) = sh("echo first; seq 200000; echo last; exit 3", 20).run().await.unwrap() else {
            panic!("it ends");
        };
        assert_eq!(out.code, Some(3));
        assert!(out.stdout.starts_with("first\n1\n") && out.stdout.ends_with("200000\nlast\n"));
        assert!(out.stdout.len() < 4 * KEPT_BYTES && out.stdout.contains("bytes left out"));
    }

    #[tokio::test]
    async fn nothing_outlives_the_time_limit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("late");
        let script = format!("(sleep 2; touch {}) & sleep 30", file.display());
        assert!(matches!(sh(&script, 1).run().await.unwrap(), Ended::TimedOut(_)));
        clock().sleep(Duration::from_secs(2)).await;
        assert!(!file.exists());
    }
}
