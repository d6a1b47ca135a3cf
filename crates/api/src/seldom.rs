//! A limit on log lines that callers can cause.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

/// The most lines of one kind in a minute.
const LINES_PER_MINUTE_MAX: u32 = 60;

/// Lets some lines of one kind through in each minute, and counts the rest.
#[derive(Debug)]
pub(crate) struct Seldom(Mutex<Minute>);

#[derive(Debug)]
struct Minute {
    number: i64,
    said: u32,
    left_out: u64,
}

impl Seldom {
    /// A limit that nothing was counted against yet.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Minute { number: 0, said: 0, left_out: 0 }))
    }

    /// Returns the number of lines left out since the last one if a line may be written now, else nothing.
    pub(crate) fn admits(&self, now: Timestamp) -> Option<u64> {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = now.as_second() / 60;
        if minute.number != number {
            (minute.number, minute.said) = (number, 0);
        }
        if minute.said == LINES_PER_MINUTE_MAX {
            minute.left_out += 1;
            return None;
        }
        minute.said += 1;
        Some(std::mem::take(&mut minute.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_lines_and_the_next_one_says_how_many_were_left_out() {
        let seldom = Seldom::new();
        let at = |second| Timestamp::from_second(second).unwrap();
        for _ in 0..LINES_PER_MINUTE_MAX {
            assert_eq!(seldom.admits(at(600)), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(seldom.admits(at(659)), None);
        }
        assert_eq!(seldom.admits(at(660)), Some(1000));
        assert_eq!(seldom.admits(at(660)), Some(0));
    }
}
