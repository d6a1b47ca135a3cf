//! Starting a confined process: the service's own binary, which confines itself and becomes the program.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use crate::{Layer, Layers, SandboxPolicy, Support, calls, files, namespaces};

const BECOME: &str = "become";
const TRY: &str = "try";

/// The exit code of a process that could not be confined.
const NOT_CONFINED: u8 = 125;
const NOT_STARTED: u8 = 126;
const NOT_FOUND: u8 = 127;

/// How confined processes are started.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
    leading: Vec<OsString>,
}

impl Launcher {
    /// `program` with the arguments `leading` calls [`main`] with the arguments after them.
    pub fn new(program: impl Into<PathBuf>, leading: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { program: program.into(), leading: leading.into_iter().map(Into::into).collect() }
    }

    /// A command that becomes `program` within `sandbox_policy`. Arguments that are added to it are the program's.
    ///
    /// It ends with 125, and a line on standard error, when it can't be confined.
    pub fn command(&self, sandbox_policy: &SandboxPolicy, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.asked(BECOME, sandbox_policy);
        command.arg(program);
        command
    }

    /// Finds out which layers this machine has, by applying `sandbox_policy` to a child.
    pub fn support(&self, sandbox_policy: &SandboxPolicy) -> Support {
        let tried = self.asked(TRY, sandbox_policy).stdin(Stdio::null()).env_clear().current_dir("/").output();
        let failed = |why: &dyn std::fmt::Display| Support::none(&format!("it can't be tried: {why}"));
        match tried {
            Ok(output) => serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
                let said = String::from_utf8_lossy(&output.stderr);
                failed(&said.trim().chars().take(500).collect::<String>())
            }),
            Err(e) => failed(&e),
        }
    }

    fn asked(&self, what: &str, sandbox_policy: &SandboxPolicy) -> Command {
        let mut command = Command::new(&self.program);
        // Paths and numbers alone always have a JSON form; a path that is not UTF-8 is refused by the child.
        command.args(&self.leading).arg(what).arg(serde_json::to_string(sandbox_policy).unwrap_or_default());
        command
    }
}

/// The hidden command. `args` are the arguments after its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let (what, sandbox_policy) = (args.next(), args.next());
    let sandbox_policy = sandbox_policy.and_then(|text| serde_json::from_str::<SandboxPolicy>(text.to_str()?).ok());
    match (what.as_deref().and_then(OsStr::to_str), sandbox_policy, args.next()) {
        (Some(BECOME), Some(sandbox_policy), Some(program)) => {
            if let Err(e) = sandbox_policy.apply() {
                complain(&e);
                return ExitCode::from(NOT_CONFINED);
            }
            let e = Command::new(&program).args(args).exec();
            complain(&format!("{}: {e}", program.display()));
            ExitCode::from(if e.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_STARTED })
        }
        (Some(TRY), Some(sandbox_policy), None) => {
            let support = tried(&sandbox_policy);
            let told = serde_json::to_string(&support).map(|text| writeln!(io::stdout(), "{text}"));
            if matches!(told, Ok(Ok(()))) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        _ => {
            complain(&"this command is for the service's own use");
            ExitCode::from(NOT_CONFINED)
        }
    }
}

fn complain(what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Tries each layer on this process.
fn tried(sandbox_policy: &SandboxPolicy) -> Support {
    let result = |tried: Result<(), crate::Error>| match tried {
        Ok(()) => Layer::Enforced,
        Err(e) => Layer::Unavailable(e.why),
    };
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let namespaces = result(namespaces::enter(sandbox_policy));
    let landlock = match files::is_available() {
        Layer::Enforced => {
            let only = Layers { landlock: true, ..Layers::default() };
            result(SandboxPolicy { layers: only, ..sandbox_policy.clone() }.apply())
        }
        missing @ Layer::Unavailable(_) => missing,
    };
    let signals = match &landlock {
        Layer::Enforced => files::keeps_signals(),
        missing @ Layer::Unavailable(_) => missing.clone(),
    };
    Support { namespaces, landlock, signals, calls: result(calls::filter()) }
}
