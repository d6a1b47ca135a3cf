//! The clock of the machine: the one place that reads it, waits by it and draws random identifiers.
#![expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock and waits by it")]

use std::time::Duration;

use jiff::Timestamp;
use model::{BoxFuture, clock::Clock};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// The shortest interval at which a wait checks the boot clock.
const CHECK_MIN: Duration = Duration::from_secs(1);

/// The clocks of the machine and its random numbers: what production uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// Blocks this thread; for programs without an asynchronous runtime.
    pub fn block_for(self, time: Duration) {
        std::thread::sleep(time);
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    fn boot(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
    }

    /// The runtime's timers stop while the machine is suspended. So a wait checks the boot clock again after a quarter of the
    /// remaining time, at most once per second. After a suspension it is late by at most a quarter of the remaining time, and
    /// idle waits cost nothing.
    fn sleep_until_boot(&self, at: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                let left = at.saturating_sub(SystemClock.boot());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(CHECK_MIN.max(left / 4))).await;
            }
        })
    }

    fn new_id(&self) -> Uuid {
        Uuid::new_v4()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_when_the_boot_clock_shows_its_end_and_not_before() {
        let end = SystemClock.boot() + Duration::from_millis(30);
        SystemClock.sleep_until_boot(end).await;
        assert!(SystemClock.boot() >= end);
        SystemClock.sleep_until_boot(Duration::ZERO).await;
    }
}
