//! Shows the current step, and how long it takes.

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const FRAME_TIME: Duration = Duration::from_millis(100);
const LINE_TIME: Duration = Duration::from_secs(15);

/// Does `work` and shows that it makes progress: a spinner on a terminal, a line now and then elsewhere.
///
/// # Errors
/// Those of `work`.
pub fn during<T>(what: impl Display, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let (what, begun) = (what.to_string(), Instant::now());
    let (end, ended) = mpsc::channel::<()>();
    let shown = what.clone();
    let painter = thread::spawn(move || paint(|| shown.clone(), begun, &ended));
    let result = work();
    drop(end);
    let _ = painter.join();
    let mark = if result.is_ok() { "✓" } else { "✗" };
    say(format_args!("{mark} {what} ({})", seconds(begun.elapsed())));
    result
}

fn paint(what: impl Fn() -> String, begun: Instant, ended: &mpsc::Receiver<()>) {
    let terminal = std::io::stderr().is_terminal();
    if !terminal {
        say(format_args!("· {} …", what()));
    }
    let pause = if terminal { FRAME_TIME } else { LINE_TIME };
    let mut frames = FRAMES.iter().cycle();
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let (what, elapsed) = (what(), seconds(begun.elapsed()));
        if what.is_empty() {
            continue;
        }
        if terminal {
            let frame = frames.next().copied().unwrap_or_default();
            let _ = write!(std::io::stderr(), "\r\x1b[2K{frame} {what} {elapsed}");
        } else {
            say(format_args!("· {what} … {elapsed}"));
        }
    }
    if terminal {
        let _ = write!(std::io::stderr(), "\r\x1b[2K");
    }
}

/// Work that says how far it is; see [`during_work`].
#[derive(Debug)]
pub struct Work {
    what: String,
    /// How far it is; absent once it is done.
    detail: Mutex<Option<String>>,
}

impl Work {
    /// Work with this name.
    pub fn new(what: impl Display) -> Self {
        Self { what: what.to_string(), detail: Mutex::new(Some(String::new())) }
    }

    /// Says how far it is, as an addition to its name.
    pub fn at(&self, detail: impl Display) {
        let mut shown = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.is_some() {
            *shown = Some(format!(", {detail}"));
        }
    }

    fn shown(&self) -> Option<String> {
        let detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        detail.as_ref().map(|detail| format!("{}{detail}", self.what))
    }

    fn does<T>(&self, begun: Instant, work: impl FnOnce(&Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let result = work(self);
        *self.detail.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mark = if result.is_ok() { "✓" } else { "✗" };
        let clear = if std::io::stderr().is_terminal() { "\r\x1b[2K" } else { "" };
        say(format_args!("{clear}{mark} {} ({})", self.what, seconds(begun.elapsed())));
        result
    }
}

/// Does work that says how far it is.
///
/// # Errors
/// Those of the work.
pub fn during_work<T>(work: &Work, does: impl FnOnce(&Work) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begun = Instant::now();
    let (end, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || paint(|| work.shown().unwrap_or_default(), begun, &ended));
        let result = work.does(begun, does);
        drop(end);
        result
    })
}

/// A line about the progress, on the error output, so that the output of a command stays usable.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A duration as people say it.
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 10 {
        format!("{:.1} s", duration.as_secs_f64())
    } else if whole < 60 {
        format!("{whole} s")
    } else {
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_says_how_far_it_is_until_it_is_done() {
        let work = Work::new("one");
        let done = during_work(&work, |work| {
            work.at("half done");
            assert_eq!(work.shown().as_deref(), Some("one, half done"));
            Ok(7)
        });
        assert_eq!((done.unwrap(), work.shown()), (7, None));
        let failed = during_work::<()>(&work, |_| anyhow::bail!("no"));
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }

    #[test]
    fn durations_read_well() {
        for (millis, text) in [(40, "0.0 s"), (1_250, "1.2 s"), (42_900, "42 s"), (125_000, "2 min 5 s")] {
            assert_eq!(seconds(Duration::from_millis(millis)), text);
        }
    }
}
