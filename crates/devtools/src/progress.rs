//! Says what is going on, and for how long, while someone waits.

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const FRAME_TIME: Duration = Duration::from_millis(100);
const LINE_TIME: Duration = Duration::from_secs(15);

/// Does `work` and shows that it goes on: a spinner on a terminal, a line now and then elsewhere.
///
/// # Errors
/// Those of `work`.
pub fn during<T>(what: impl Display, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let (what, begun) = (what.to_string(), Instant::now());
    let (end, ended) = mpsc::channel::<()>();
    let shown = what.clone();
    let painter = thread::spawn(move || paint(&shown, begun, &ended));
    let result = work();
    drop(end);
    let _ = painter.join();
    let mark = if result.is_ok() { "✓" } else { "✗" };
    say(format_args!("{mark} {what} ({})", seconds(begun.elapsed())));
    result
}

fn paint(what: &str, begun: Instant, ended: &mpsc::Receiver<()>) {
    let terminal = std::io::stderr().is_terminal();
    if !terminal {
        say(format_args!("· {what} …"));
    }
    let pause = if terminal { FRAME_TIME } else { LINE_TIME };
    let mut frames = FRAMES.iter().cycle();
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let elapsed = seconds(begun.elapsed());
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

/// A line for the one who waits. They are on the error output, so that what a command prints stays usable.
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
    fn durations_read_well() {
        for (millis, text) in [(40, "0.0 s"), (1_250, "1.2 s"), (42_900, "42 s"), (125_000, "2 min 5 s")] {
            assert_eq!(seconds(Duration::from_millis(millis)), text);
        }
    }
}
