//! Keeps changes of the cluster back that might arrive after another instance leads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use model::clock::SharedClock;

/// Until when changes may be begun. It is closed until [`Window::open_for`].
///
/// It goes by the boot clock, which goes on while machine or process are
/// suspended: who wakes up late finds it closed before any task had its turn.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    clock: SharedClock,
    until_millis: Arc<AtomicU64>,
}

/// A change was not begun.
#[derive(Debug, thiserror::Error)]
#[error("This instance has not shown for too long that it leads; another one may lead by now.")]
pub(crate) struct Late;

impl Window {
    /// A closed one.
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self { clock, until_millis: Arc::default() }
    }

    fn now_millis(&self) -> u64 {
        u64::try_from(self.clock.boot().as_millis()).unwrap_or(u64::MAX)
    }

    /// Lets changes begin for so long from now.
    pub(crate) fn open_for(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.until_millis
            .store(if millis == 0 { 0 } else { self.now_millis().saturating_add(millis) }, Ordering::Release);
    }

    /// Whether a request may be sent: one that changes nothing always.
    pub(crate) fn lets_through<B>(&self, request: http::Request<B>) -> Result<http::Request<B>, Late> {
        let is_change = !matches!(*request.method(), http::Method::GET | http::Method::HEAD);
        if is_change && self.now_millis() >= self.until_millis.load(Ordering::Acquire) {
            Err(Late)
        } else {
            Ok(request)
        }
    }
}

#[cfg(test)]
mod tests {
    use clock::SystemClock;

    use super::*;

    #[test]
    fn changes_begin_only_as_long_as_the_lease_lets_them() {
        let window = Window::new(Arc::new(SystemClock));
        let sent = |method: &str| {
            window.lets_through(http::Request::builder().method(method).body(()).expect("a request")).is_ok()
        };
        assert!(sent("GET") && !sent("POST"), "closed before the first term");
        window.open_for(Duration::from_secs(3600));
        assert!(["GET", "POST", "PUT", "PATCH", "DELETE"].into_iter().all(sent));
        window.open_for(Duration::ZERO);
        assert!(sent("GET") && !["POST", "PUT", "PATCH", "DELETE"].into_iter().any(sent));
        window.open_for(Duration::MAX);
        assert!(sent("DELETE"));
    }
}
