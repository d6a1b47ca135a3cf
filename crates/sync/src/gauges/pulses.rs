//! Progress of the loops, which a watchdog checks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::clock::SharedClock;

/// How long a loop may be silent. Every loop that reports pauses for seconds at most, and reports between the items of a
/// long round; a loop that takes longer than this is stuck.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(600);

/// When each loop reported last, on the boot clock.
#[derive(Debug, Clone)]
pub(super) struct Pulses {
    clock: SharedClock,
    beats: Arc<Mutex<BTreeMap<&'static str, Duration>>>,
}

impl Pulses {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, beats: Arc::default() }
    }

    /// Notes that a loop makes progress.
    pub(super) fn beat(&self, name: &'static str) {
        self.beats().insert(name, self.clock.boot());
    }

    /// Forgets every loop, because loops end with their leader epoch.
    pub(super) fn rest(&self) {
        self.beats().clear();
    }

    /// Returns a loop that has been silent for longer than this, if there is one.
    pub(super) fn silent(&self, most: Duration) -> Option<&'static str> {
        let now = self.clock.boot();
        self.beats().iter().find(|(_, last)| now.saturating_sub(**last) > most).map(|(name, _)| *name)
    }

    fn beats(&self) -> MutexGuard<'_, BTreeMap<&'static str, Duration>> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_reports_no_more_is_named_until_its_term_is_over() {
        let pulses = Pulses::new(Arc::new(clock::SystemClock));
        assert_eq!(pulses.silent(Duration::ZERO), None);
        pulses.beat("schedules");
        pulses.clock.sleep(Duration::from_millis(2)).await;
        pulses.beat("executions");
        assert_eq!(pulses.silent(Duration::from_secs(60)), None);
        assert_eq!(pulses.clone().silent(Duration::from_millis(1)), Some("schedules"));
        pulses.clock.sleep(Duration::from_millis(2)).await;
        pulses.beat("executions");
        assert_eq!(pulses.silent(Duration::from_millis(1)), Some("schedules"), "the other one reported again");
        pulses.rest();
        assert_eq!(pulses.silent(Duration::ZERO), None);
    }
}
