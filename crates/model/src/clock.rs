//! Time, waiting and randomness as parameters, so that tests control all three.
//!
//! There are two clocks. The **wall clock** ([`Clock::now`]) is the time that rows and people use; it can be set. The **boot clock** ([`Clock::boot`]) only goes forward, also while the machine is suspended: limits and pauses go
//! by it.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{
        Context, Poll,
        Poll::{Pending, Ready},
    },
    time::Duration,
};

use jiff::Timestamp;
use pin_project_lite::pin_project;
use uuid::Uuid;

use crate::BoxFuture;

/// How long [`dyn Clock::sleep_until`](trait.Clock.html) sleeps at most before it looks at the wall clock again.
pub const WALL_CHECK: Duration = Duration::from_secs(1);

/// Where "now", waiting and fresh identifiers come from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present instant on the wall clock, in whole microseconds: what rows hold, so that an instant that was stored is
    /// the one that was meant.
    fn now(&self) -> Timestamp;

    /// The time since the machine was started, including the time for which it was suspended. It never goes back.
    fn boot(&self) -> Duration;

    /// Waits until the boot clock shows at least `at`; ready at once when it does already.
    fn sleep_until_boot(&self, at: Duration) -> BoxFuture<'static, ()>;

    /// A new random (version 4) identifier.
    fn new_id(&self) -> Uuid;
}

/// A clock that several parts share.
pub type SharedClock = Arc<dyn Clock>;

/// The error of work that exceeded its time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it took too long")
    }
}

impl std::error::Error for Elapsed {}

impl dyn Clock + '_ {
    /// Waits for so long.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until_boot(self.boot().saturating_add(time)).await;
    }

    /// Waits until the wall clock shows at least `at`. The clock is checked every [`WALL_CHECK`], so that a
    /// clock that was set is noticed.
    pub async fn sleep_until(&self, at: Timestamp) {
        while let Ok(left) = Duration::try_from(at.duration_since(self.now()))
            && !left.is_zero()
        {
            self.sleep(left.min(WALL_CHECK)).await;
        }
    }

    /// Does the work for at most so long, and drops it then.
    ///
    /// # Errors
    /// [`Elapsed`] when the work is not done by then.
    pub fn timeout<F: Future>(&self, most: Duration, work: F) -> Timeout<F> {
        Timeout { work, end: self.sleep_until_boot(self.boot().saturating_add(most)) }
    }
}

pin_project! {
    /// See [`dyn Clock`](trait.Clock.html)`::timeout`. Its time runs from when it was made.
    #[must_use = "work is done while it is awaited"]
    pub struct Timeout<F> {
        #[pin]
        work: F,
        end: BoxFuture<'static, ()>,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.work.poll(context) {
            Ready(output) => Ready(Ok(output)),
            Pending => this.end.as_mut().poll(context).map(|()| Err(Elapsed)),
        }
    }
}

/// A wait that can be moved, for futures that are polled by hand.
pub struct Timer {
    clock: SharedClock,
    at: Duration,
    /// When the wait below ends, and the wait.
    sleep: Option<(Duration, BoxFuture<'static, ()>)>,
}

impl Timer {
    /// A timer that is over when the boot clock shows `at`.
    pub fn new(clock: SharedClock, at: Duration) -> Self {
        Self { clock, at, sleep: None }
    }

    /// When it is over, on the boot clock.
    pub fn end(&self) -> Duration {
        self.at
    }

    /// Moves its end.
    pub fn reset(&mut self, at: Duration) {
        self.at = at;
    }

    /// Ready once the boot clock shows its end. A wait that ends too early is kept and taken up again when it is over, so
    /// that moving the end away costs nothing.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.clock.boot() >= self.at {
                return Ready(());
            }
            let (_, sleep) = match &mut self.sleep {
                Some(sleep) if sleep.0 <= self.at => sleep,
                sleep => sleep.insert((self.at, self.clock.sleep_until_boot(self.at))),
            };
            if sleep.as_mut().poll(context).is_pending() {
                return Pending;
            }
            self.sleep = None;
        }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("at", &self.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        pin::pin,
        sync::Mutex,
        task::Waker,
    };

    use super::*;

    /// Its wall clock shows the next of these seconds each time that it slept; it sleeps in no time.
    #[derive(Debug)]
    struct Jumping {
        wall_seconds: Mutex<Vec<i64>>,
        slept: Arc<Mutex<Vec<Duration>>>,
    }

    impl Clock for Jumping {
        fn now(&self) -> Timestamp {
            let mut seconds = self.wall_seconds.lock().unwrap();
            Timestamp::from_second(if seconds.len() > 1 { seconds.remove(0) } else { seconds[0] }).unwrap()
        }

        fn boot(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep_until_boot(&self, at: Duration) -> BoxFuture<'static, ()> {
            self.slept.lock().unwrap().push(at);
            Box::pin(ready(()))
        }

        fn new_id(&self) -> Uuid {
            Uuid::nil()
        }
    }

    fn done<F: Future>(work: F) -> F::Output {
        match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
            Ready(output) => output,
            Pending => panic!("it waits"),
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_is_noticed_within_a_second() {
        let slept = Arc::default();
        // It is set back by an hour, and then far ahead.
        let clock = Jumping { wall_seconds: Mutex::new(vec![1000, -2600, 9000]), slept: Arc::clone(&slept) };
        let clock: &dyn Clock = &clock;
        done(clock.sleep_until(Timestamp::from_second(1010).unwrap()));
        assert_eq!(*slept.lock().unwrap(), [WALL_CHECK, WALL_CHECK]);
    }

    #[test]
    fn work_is_dropped_when_its_time_is_over_and_done_work_counts_first() {
        let clock: &dyn Clock = &Jumping { wall_seconds: Mutex::new(vec![0]), slept: Arc::default() };
        assert_eq!(done(clock.timeout(Duration::from_secs(5), pending::<()>())), Err(Elapsed));
        assert_eq!(done(clock.timeout(Duration::ZERO, ready(7))), Ok(7));
    }
}
