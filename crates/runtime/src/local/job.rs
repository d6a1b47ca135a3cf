//! The last step before the job: a process of its own that drops the service's privileges and then becomes the job.
//!
//! Between the supervisor and the job, so that the supervisor keeps its rights, and so that what only a process can do
//! to itself (a session, a death signal, its confinement) needs no unsafe code between fork and exec.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid};

use super::{folder, spec::Spec};

/// Above the service's own, so that the kernel short of memory ends jobs first.
const OOM_SCORE_ADJUSTMENT: &[u8] = b"300";

/// Becomes the job. Standard input is a pipe to the supervisor: it closes when the job was started, and carries the
/// reason when it was not.
pub(super) fn exec_job(run: &Path, attempt: u32, supervisor: Option<Pid>) -> ExitCode {
    let Ok(report) = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3) else { return ExitCode::from(127) };
    let why = match start(run, attempt, supervisor) {
        Ok(never) => match never {},
        Err(why) => why,
    };
    let _ = File::from(report).write_all(why.as_bytes());
    ExitCode::from(127)
}

fn start(run: &Path, attempt: u32, supervisor: Option<Pid>) -> Result<std::convert::Infallible, String> {
    let io = |what: &str, e: io::Error| format!("{what}: {e}");
    rustix::stdio::dup2_stdin(File::open("/dev/null").map_err(|e| io("/dev/null", e))?)
        .map_err(|e| io("/dev/null", e.into()))?;
    // The job dies with its supervisor, at least its first process. The parent is checked afterwards, because it may
    // have died before.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| io("death signal", e.into()))?;
    if getppid() != supervisor {
        return Err("its supervisor is gone".into());
    }
    setsid().map_err(|e| io("session", e.into()))?;
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT);
    let spec = Spec::read(run).map_err(|e| io("its specification can't be read", e))?;
    spec.sandbox_policy.apply().map_err(|e| e.to_string())?;
    let mut command = Command::new(&spec.program);
    command.args(&spec.arguments).current_dir(run.join(folder::WORK)).env_clear().envs(&spec.variables);
    if attempt > 1 {
        command.env(super::ATTEMPT_VARIABLE, format!("{}-{attempt}", spec.id));
    }
    Err(io(&format!("{} can't be started", spec.program.display()), command.exec()))
}
