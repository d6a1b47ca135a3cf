//! The supervisor of one run: a process that lives as long as the run and longer than the service.
//!
//! The service starts `shim <run folder>`. That process leaves the service's session and starts itself again as the
//! supervisor, so that no signal meant for the service's group reaches it and it has no parent. The supervisor
//! takes the run's lock, records that the run starts, and confirms it on the pipe that it inherited; then it starts the job
//! and sees it to its end.
//!
//! It is one thread around one `poll`. No async runtime: it has to start fast and to be small, since as many of it
//! live as runs do.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, ErrorKind, PipeReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::DirBuilderExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use clock::SystemClock;
use files::Lock;
use model::{
    clock::Clock,
    execution::{EndCause, ExecutionEnd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, openat},
    process::{Pid, Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, setsid, wait},
};

use super::{
    environment, folder,
    folder::{LOCK_PATIENCE, LOCK_PAUSE, RunFolder},
    job,
    process::signal_descendants,
    spec::Spec,
};
use crate::logs::LogWriter;

/// The argument in place of the run folder to try, or use, the confinement alone.
pub(super) const CONFINED: &str = "confined";
const SUPERVISE: &str = "supervise";
const JOB: &str = "job";

/// The message of a supervisor that has taken the run over.
pub(super) const READY: &str = "ready";
/// Its message if another supervisor has, or had.
pub(super) const TAKEN: &str = "taken";

/// The pause between two rounds of ending processes, if a job starts them as fast as they are ended.
const KILL_AGAIN: Duration = Duration::from_millis(50);
const TERMINATION_MESSAGE_MAX_BYTES: u64 = 4096;
/// The capacity of a pipe.
const OUTPUT_AT_ONCE_BYTES: usize = 64 * 1024;
const NOT_STARTED_MAX_BYTES: u64 = 2048;
/// Connections held open at once; the service holds one or two.
const WAITING_MAX: usize = 64;
/// How long a full disk may delay the record of a run's end.
const END_PATIENCE: Duration = Duration::from_secs(600);

/// The hidden command of the service's binary. `args` are the arguments after the command's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let _ = super::harden_process();
    let args: Vec<OsString> = args.collect();
    if args.first().is_some_and(|first| first == CONFINED) {
        return sandbox::main(args.into_iter().skip(1));
    }
    let text: Vec<&str> = args.iter().skip(1).filter_map(|a| a.to_str()).collect();
    let Some(run) = args.first().map(PathBuf::from) else { return usage() };
    // The arguments before `args` on the command line of this process lead here again.
    let own = env::args_os().len() - args.len();
    let again: Vec<OsString> = env::args_os().take(own + 1).collect();
    match text.as_slice() {
        [] => launch(&again),
        [SUPERVISE] => supervise(&run, &again),
        [JOB, attempt, supervisor] => {
            let (Ok(attempt), Ok(supervisor)) = (attempt.parse(), supervisor.parse()) else { return usage() };
            job::exec_job(&run, attempt, Pid::from_raw(supervisor))
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    complain("this command is for the service's own use: it takes the folder of a run");
    ExitCode::from(2)
}

fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// This program again, whatever lies at its path by now.
fn myself(again: &[OsString]) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(&again[0]).args(&again[1..]).env_clear();
    command
}

/// Leaves the service's session, starts the supervisor and ends, so that the supervisor has no parent.
fn launch(again: &[OsString]) -> ExitCode {
    let started = close_inherited()
        .and_then(|()| Ok(setsid()?))
        .and_then(|_| myself(again).arg(SUPERVISE).stdin(Stdio::null()).spawn());
    match started {
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&format!("the supervisor could not be started: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// Closes what the service was started with and does not know of: a descriptor without "close on exec" would go through
/// it and the supervisor to the job.
fn close_inherited() -> io::Result<()> {
    const STANDARD: i32 = 2;
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > STANDARD)
        .collect();
    for fd in open {
        // Nothing in this process owns one of them; that of the listing itself is closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// Says one line to the service and lets go of the pipe.
fn tell(line: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

fn supervise(run: &Path, again: &[OsString]) -> ExitCode {
    match take_over(run, again) {
        Ok(Takeover::Taken) => {
            tell(TAKEN);
            ExitCode::SUCCESS
        }
        Ok(Takeover::Ready(mut supervisor)) => {
            tell(READY);
            supervisor.run();
            ExitCode::SUCCESS
        }
        Err(e) => {
            let why = e.to_string().replace('\n', " ");
            complain(&why);
            tell(&why);
            ExitCode::FAILURE
        }
    }
}

enum Takeover {
    /// The run is another's, or is over.
    Taken,
    Ready(Box<Supervisor>),
}

/// Everything up to the record that the run starts. An error leaves nothing behind: the run can be started again.
fn take_over(run: &Path, again: &[OsString]) -> io::Result<Takeover> {
    let folder = RunFolder::at(run.to_owned());
    let patience = SystemClock.boot() + LOCK_PATIENCE;
    let lock = loop {
        if let Some(lock) = folder.try_lock()? {
            break lock;
        }
        // Held by a supervisor, or for an instant by someone who looks whether there is one.
        if folder.started()?.is_some() || folder.end()?.is_some() {
            return Ok(Takeover::Taken);
        }
        if SystemClock.boot() > patience {
            return Err(io::Error::other("another supervisor is about to take the run over"));
        }
        SystemClock.block_for(LOCK_PAUSE);
    };
    if folder.started()?.is_some() || folder.end()?.is_some() {
        return Ok(Takeover::Taken);
    }
    // Only now: until the lock is held, a folder that was given up may be replaced by a new one of its name.
    env::set_current_dir(run)?;
    let spec = Spec::read(run)?;
    let environment_lock = loop {
        match Lock::try_shared(&spec.environment_lock)? {
            Some(lock) if environment::is_complete(&spec.environment) => break lock,
            // Held by someone who looks whether anyone needs it.
            None if SystemClock.boot() < patience => SystemClock.block_for(LOCK_PAUSE),
            _ => return Err(io::Error::other("the environment of the deployment is gone; it will be rebuilt")),
        }
    };
    set_child_subreaper(Some(getpid()))?;
    let children = signal_pipe(signal_hook::consts::SIGCHLD)?;
    let stop = signal_pipe(signal_hook::consts::SIGTERM)?;
    let _ = std::fs::remove_file(folder::CONTROL);
    // By its name within the current folder, because the address of a socket has at most 107 bytes.
    let control = UnixListener::bind(folder::CONTROL)?;
    control.set_nonblocking(true)?;
    folder.reserve_end()?;

    let mut supervisor = Box::new(Supervisor {
        log: LogWriter::new(run.to_owned(), spec.log_max_bytes),
        buffer: vec![0; OUTPUT_AT_ONCE_BYTES],
        deadline: SystemClock.boot().checked_add(Duration::from_secs(spec.deadline_seconds)),
        spec,
        folder,
        again: again.to_vec(),
        control,
        waiting: Vec::new(),
        children,
        stop,
        forced: None,
        stopping: false,
        started_at: None,
        _locks: (lock, environment_lock),
    });
    // A cancellation that came before the run is kept; one that comes later finds the socket.
    if supervisor.folder.cancel_requested()? {
        supervisor.forced = Some(EndCause::Cancelled);
    } else {
        let now = SystemClock.now();
        supervisor.folder.write_started(now)?;
        supervisor.started_at = Some(now);
    }
    Ok(Takeover::Ready(supervisor))
}

/// A descriptor that becomes readable when the signal has come.
fn signal_pipe(signal: i32) -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal, write)?;
    Ok(read)
}

struct Supervisor {
    spec: Spec,
    folder: RunFolder,
    again: Vec<OsString>,
    log: LogWriter,
    buffer: Vec<u8>,
    /// On the boot clock.
    deadline: Option<Duration>,
    control: UnixListener,
    /// Connections of the service, which waits for them to close.
    waiting: Vec<UnixStream>,
    children: UnixStream,
    stop: UnixStream,
    /// The reason why the run is being ended; absent while it may continue.
    forced: Option<EndCause>,
    /// Asked to end when the job had just ended: its own end counts, but it is not retried.
    stopping: bool,
    started_at: Option<jiff::Timestamp>,
    _locks: (Lock, Lock),
}

/// One start of the job's process, and its outcome.
struct Attempt {
    main: Pid,
    /// The exit code of the job's first process, once it has ended.
    code: Option<i32>,
    /// No descendant is left.
    none_left: bool,
    output: Option<PipeReader>,
    /// Closed by the start of the job's program; before that it may say why that failed.
    report: Option<PipeReader>,
    not_started: Vec<u8>,
    /// The instant of SIGKILL for the rest, on the boot clock; absent while the job may continue.
    kill_at: Option<Duration>,
}

impl Supervisor {
    fn run(&mut self) {
        let mut cause = None;
        let mut message = None;
        let mut attempt = 1;
        while self.forced.is_none() {
            let ended = self.attempt(attempt);
            message = self.termination_message();
            let failed = !matches!(ended, EndCause::Exited(0));
            let again = matches!(ended, EndCause::Exited(_)) && attempt <= self.spec.backoff_limit && !self.stopping;
            cause = Some(ended);
            if !failed || !again || self.forced.is_some() {
                break;
            }
            attempt += 1;
            let pause = self.spec.backoff_before(attempt);
            self.log.append(
                format!(
                    "[... attempt {} of {} failed; the next starts in {} s ...]\n",
                    attempt - 1,
                    self.spec.backoff_limit + 1,
                    pause.as_secs_f64()
                )
                .as_bytes(),
            );
            let until = SystemClock.boot() + pause;
            while self.forced.is_none() && SystemClock.boot() < until {
                self.turn(None, Some(until));
            }
        }
        self.log.finish();
        let cause = self.forced.take().or(cause).unwrap_or(EndCause::Lost);
        if matches!(cause, EndCause::NotStarted(_)) {
            self.started_at = None;
        }
        self.record(&ExecutionEnd {
            started_at: self.started_at,
            ended_at: SystemClock.now(),
            cause,
            termination_message: message,
        });
        let _ = std::fs::remove_file(folder::CONTROL);
    }

    /// Writes the end. On a full disk it waits for room, and gives up the log's tail for it.
    fn record(&mut self, end: &ExecutionEnd) {
        let until = SystemClock.boot() + END_PATIENCE;
        while let Err(e) = self.folder.write_end(end) {
            complain(&format!("the end of the run could not be recorded: {e}"));
            if SystemClock.boot() > until || matches!(self.folder.exists(), Ok(false)) {
                return;
            }
            self.log.drop_tail();
            SystemClock.block_for(Duration::from_secs(1));
        }
    }

    /// Runs the job once, until nothing of it is left.
    fn attempt(&mut self, number: u32) -> EndCause {
        let mut attempt = match self.start(number) {
            Ok(attempt) => attempt,
            Err(e) => return EndCause::NotStarted(e.to_string()),
        };
        while !attempt.none_left {
            let until = attempt.kill_at;
            self.turn(Some(&mut attempt), until);
            if attempt.none_left {
                break;
            }
            if attempt.kill_at.is_none() && (attempt.code.is_some() || self.forced.is_some()) {
                // Processes that outlive the job's first process end with it, as in a container.
                signal_descendants(Signal::TERM);
                attempt.kill_at = Some(SystemClock.boot() + self.spec.grace());
            }
            if attempt.kill_at.is_some_and(|at| at <= SystemClock.boot()) {
                if attempt.code.is_none() {
                    // Its number is its own until its end was collected, and names its group.
                    let _ = kill_process_group(attempt.main, Signal::KILL);
                }
                signal_descendants(Signal::KILL);
                attempt.kill_at = Some(SystemClock.boot() + KILL_AGAIN);
            }
        }
        while self.take_output(&mut attempt) {}
        take_report(&mut attempt);
        if !attempt.not_started.is_empty() {
            return EndCause::NotStarted(String::from_utf8_lossy(&attempt.not_started).into_owned());
        }
        attempt.code.map_or(EndCause::Lost, EndCause::Exited)
    }

    fn start(&self, number: u32) -> io::Result<Attempt> {
        let out = self.folder.path().join(folder::OUT);
        folder::remove_tree(&out)?;
        std::fs::DirBuilder::new().mode(0o700).create(&out)?;
        let (output, writer) = io::pipe()?;
        let (report, report_writer) = io::pipe()?;
        for end in [&output, &report] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        let child = myself(&self.again)
            .args([JOB, &number.to_string(), &getpid().as_raw_nonzero().to_string()])
            .stdin(Stdio::from(OwnedFd::from(report_writer)))
            .stdout(Stdio::from(OwnedFd::from(writer.try_clone()?)))
            .stderr(Stdio::from(OwnedFd::from(writer)))
            .spawn()?;
        let main = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(ErrorKind::InvalidData)?;
        Ok(Attempt {
            main,
            code: None,
            none_left: false,
            output: Some(output),
            report: Some(report),
            not_started: Vec::new(),
            kill_at: None,
        })
    }

    /// Waits for something to happen, at most until the deadline and `until`, and takes it in.
    fn turn(&mut self, mut attempt: Option<&mut Attempt>, until: Option<Duration>) {
        let deadline = self.deadline.filter(|_| self.forced.is_none());
        let timeout = [deadline, until].into_iter().flatten().min().map(|at| {
            let left = at.saturating_sub(SystemClock.boot());
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
        });
        let mut fds = vec![
            PollFd::new(&self.children, PollFlags::IN),
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.control, PollFlags::IN),
        ];
        fds.extend(self.waiting.iter().map(|c| PollFd::new(c, PollFlags::IN)));
        if let Some(attempt) = &attempt {
            fds.extend(attempt.output.iter().map(|o| PollFd::new(o, PollFlags::IN)));
            fds.extend(attempt.report.iter().map(|r| PollFd::new(r, PollFlags::IN)));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Only a lack of memory is left; without waiting it would spin.
            Err(_) => SystemClock.block_for(Duration::from_millis(100)),
        }
        drop(fds);

        let children_ended = drain(&self.children);
        if let Some(attempt) = attempt.as_deref_mut() {
            self.take_output(attempt);
            take_report(attempt);
            if children_ended {
                reap(attempt);
            }
        }
        self.take_connections();
        let over = attempt.is_some_and(|a| a.code.is_some());
        let stopped = drain(&self.stop);
        self.stopping |= stopped;
        if self.forced.is_none() && !over {
            if matches!(self.folder.cancel_requested(), Ok(true)) {
                self.forced = Some(EndCause::Cancelled);
            } else if self.deadline.is_some_and(|at| at <= SystemClock.boot()) {
                self.forced = Some(EndCause::DeadlineExceeded(self.spec.deadline_seconds));
            } else if stopped {
                self.forced = Some(EndCause::Lost);
            }
        }
    }

    fn take_connections(&mut self) {
        while let Ok((connection, _)) = self.control.accept() {
            // "The run was started": one word is enough for a waiting service.
            let told = connection.set_nonblocking(true).and_then(|()| (&connection).write_all(b"running\n"));
            if told.is_ok() {
                self.waiting.push(connection);
            }
        }
        let surplus = self.waiting.len().saturating_sub(WAITING_MAX);
        self.waiting.drain(..surplus);
        self.waiting.retain(|c| !closed(c));
    }

    /// Moves the output of the job to the log. Returns whether there may be more.
    fn take_output(&mut self, attempt: &mut Attempt) -> bool {
        let Some(output) = &mut attempt.output else { return false };
        match output.read(&mut self.buffer) {
            Ok(0) => attempt.output = None,
            Ok(n) => {
                self.log.append(&self.buffer[..n]);
                return true;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => return true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => attempt.output = None,
        }
        false
    }

    /// The termination message of the job. The job could have put anything there, also a link to somewhere else.
    fn termination_message(&self) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let out = File::open(self.folder.path()).ok()?;
        let out = openat(&out, folder::OUT, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
        let file = openat(out.as_fd(), folder::TERMINATION_MESSAGE, flags | OFlags::NONBLOCK, Mode::empty()).ok()?;
        let file = File::from(file);
        if !file.metadata().is_ok_and(|m| m.is_file()) {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(TERMINATION_MESSAGE_MAX_BYTES).read_to_end(&mut bytes).ok()?;
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Takes in every child that has ended. Children of a job whose parent has ended are among them.
fn reap(attempt: &mut Attempt) {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if pid == attempt.main {
                    attempt.code = status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s));
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return,
            Err(_) => {
                attempt.none_left = true;
                return;
            }
        }
    }
}

fn take_report(attempt: &mut Attempt) {
    let Some(report) = &mut attempt.report else { return };
    match report.by_ref().take(NOT_STARTED_MAX_BYTES).read_to_end(&mut attempt.not_started) {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        _ => attempt.report = None,
    }
}

/// Empties a signal's descriptor. Says whether the signal had come.
fn drain(mut signal: &UnixStream) -> bool {
    let mut any = false;
    while signal.read(&mut [0; 64]).is_ok_and(|n| n > 0) {
        any = true;
    }
    any
}

fn closed(mut connection: &UnixStream) -> bool {
    match connection.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}
