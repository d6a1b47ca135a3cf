//! Shows on standard error what a command does, and for how long.

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use model::clock::SharedClock;

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const FRAME_TIME: Duration = Duration::from_millis(100);
const LINE_TIME: Duration = Duration::from_secs(15);
const CLEAR: &str = "\r\x1b[2K";

/// Writes a line to standard error, so that the output of a command stays usable.
pub(crate) fn say(line: impl Display) {
    // A closed standard error can't be reported.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Does the work and shows that it continues: a spinner on a terminal, a line now and then elsewhere.
///
/// # Errors
/// Those of the work.
pub(crate) async fn during<T>(
    clock: &SharedClock,
    what: impl Display,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let terminal = std::io::stderr().is_terminal();
    let begun = clock.boot();
    let elapsed = || seconds(clock.boot().saturating_sub(begun));
    if !terminal {
        say(format_args!("· {what} …"));
    }
    let mut work = std::pin::pin!(work);
    let mut frames = FRAMES.iter().cycle();
    let result = loop {
        tokio::select! {
            biased;
            result = &mut work => break result,
            () = clock.sleep(if terminal { FRAME_TIME } else { LINE_TIME }) => {}
        }
        if terminal {
            let frame = frames.next().copied().unwrap_or_default();
            let _ = write!(std::io::stderr(), "{CLEAR}{frame} {what} {}", elapsed());
        } else {
            say(format_args!("· {what} … {}", elapsed()));
        }
    };
    let (clear, mark) = (if terminal { CLEAR } else { "" }, if result.is_ok() { "✓" } else { "✗" });
    say(format_args!("{clear}{mark} {what} ({})", elapsed()));
    result
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
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
