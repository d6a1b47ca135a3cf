//! Holds back writes to the cluster that might arrive after another instance leads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use model::clock::SharedClock;

/// The period in which writes may begin. The window is closed until [`WriteWindow::open_until`].
///
/// Its end is an instant of the boot clock, which continues while the machine or the process is suspended: a process that resumes
/// late finds the window closed before any task runs.
#[derive(Debug, Clone)]
pub(crate) struct WriteWindow {
    clock: SharedClock,
    until_millis: Arc<AtomicU64>,
}

/// A write was held back.
#[derive(Debug, thiserror::Error)]
#[error("This instance has not shown for too long that it leads; another one may lead by now.")]
pub(crate) struct WriteWindowClosed;

impl WriteWindow {
    /// A closed window.
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self { clock, until_millis: Arc::default() }
    }

    fn now_millis(&self) -> u64 {
        u64::try_from(self.clock.boot().as_millis()).unwrap_or(u64::MAX)
    }

    /// Allows writes to begin until this instant of the boot clock.
    pub(crate) fn open_until(&self, until: Duration) {
        self.until_millis.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Whether a request may be sent. Reads are always allowed.
    pub(crate) fn lets_through<B>(&self, request: http::Request<B>) -> Result<http::Request<B>, WriteWindowClosed> {
        let is_change = !matches!(*request.method(), http::Method::GET | http::Method::HEAD);
        if is_change && self.now_millis() >= self.until_millis.load(Ordering::Acquire) {
            Err(WriteWindowClosed)
        } else {
            Ok(request)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use jiff::Timestamp;
    use model::{BoxFuture, clock::Clock};
    use uuid::Uuid;

    use super::*;

    /// A boot clock for tests.
    #[derive(Debug)]
    struct SetClock(Mutex<Duration>);

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn boot(&self) -> Duration {
            *self.0.lock().expect("no test panicked")
        }

        fn sleep_until_boot(&self, _: Duration) -> BoxFuture<'static, ()> {
            unreachable!("a window waits for nothing")
        }

        fn new_id(&self) -> Uuid {
            Uuid::nil()
        }
    }

    #[test]
    fn changes_begin_only_as_long_as_the_lease_lets_them() {
        let clock = Arc::new(SetClock(Mutex::new(Duration::from_secs(1000))));
        let set = |seconds: u64| *clock.0.lock().expect("no test panicked") = Duration::from_secs(seconds);
        let window = WriteWindow::new(clock.clone());
        let sent = |method: &str| {
            window.lets_through(http::Request::builder().method(method).body(()).expect("a request")).is_ok()
        };
        let changes = ["POST", "PUT", "PATCH", "DELETE"];
        assert!(sent("GET") && !sent("POST"), "closed before the first leader epoch");
        window.open_until(Duration::from_secs(1010));
        assert!(sent("GET") && changes.into_iter().all(sent));
        set(1009);
        assert!(sent("POST"));
        set(1010);
        assert!(sent("GET") && !changes.into_iter().any(sent));
        // The machine was suspended between the renewal and this call.
        set(1100);
        window.open_until(Duration::from_secs(1020));
        assert!(!changes.into_iter().any(sent));
        window.open_until(Duration::MAX);
        assert!(sent("DELETE"));
        window.open_until(Duration::ZERO);
        assert!(sent("GET") && !sent("DELETE"));
    }
}
