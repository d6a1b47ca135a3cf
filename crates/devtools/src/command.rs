//! Runs programs whose output is of interest only if they fail.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// How many of a program's last lines are shown when it fails.
const LINES_SHOWN: usize = 20;

/// A file that collects the output of programs.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Begins a new log; an old one with this name is lost.
    ///
    /// # Errors
    /// When the file can't be written to.
    pub fn begin(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        File::create(&path)
            .and_then(|_| OpenOptions::new().append(true).open(&path))
            .map(|file| Self { path: path.clone(), file })
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Prepares a program whose output goes to the end of the log, and whose input is empty.
    ///
    /// # Errors
    /// When the system has no more file handles.
    pub fn collect<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        Ok(command.stdin(Stdio::null()).stdout(self.file.try_clone()?).stderr(self.file.try_clone()?))
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it can't be started or fails; its last lines and the path of the log are in the message.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let name = command.get_program().display().to_string();
        let status = self.collect(command)?.status().with_context(|| format!("cannot start {name}"))?;
        if !status.success() {
            bail!("{name} ended with {status}. {self}");
        }
        Ok(())
    }
}

/// The last lines, as part of an error.
impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Its last lines (all of them: {}):\n{}", self.path.display(), last_lines(&self.path, LINES_SHOWN))
    }
}

/// Runs a program, with its output in a log of its own.
///
/// # Errors
/// As [`Log::run`], and when the log can't be written to.
pub fn run(command: &mut Command, log: impl Into<PathBuf>) -> Result<()> {
    Log::begin(log)?.run(command)
}

/// Runs a program and returns its output.
///
/// # Errors
/// When it can't be started or fails; its error output is in the message.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!(
            "{name} {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The last lines of a file, or nothing when it can't be read.
pub fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_named_with_its_last_lines_and_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("program.log");
        let log = Log::begin(&path).expect("a log");
        log.run(Command::new("sh").args(["-c", "seq 1 30"])).expect("a program that succeeds");
        let error = log.run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).expect_err("a program that fails");
        let message = format!("{error:#}");
        assert!(message.starts_with("sh ended with exit status: 3. Its last lines (all of them: "), "{message}");
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.ends_with("\n29\n30\nno"), "{message}");
        assert!(!message.contains("\n11\n"), "{message}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = run(&mut Command::new("no-such-program"), folder.path().join("log")).expect_err("no program");
        assert!(format!("{error:#}").starts_with("cannot start no-such-program: "), "{error:#}");
    }
}
