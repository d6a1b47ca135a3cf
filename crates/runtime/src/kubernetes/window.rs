//! Keeps changes of the cluster back that might arrive after another instance leads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Until when changes may be begun. It is closed until [`Window::open_for`].
///
/// It goes by the clock since the start of the machine (`CLOCK_BOOTTIME`), which goes on while machine or process are
/// suspended: who wakes up late finds it closed before any task had its turn.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    until_millis: Arc<AtomicU64>,
}

/// A change was not begun.
#[derive(Debug, thiserror::Error)]
#[error("This instance has not shown for too long that it leads; another one may lead by now.")]
pub(crate) struct Late;

fn now_millis() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let millis = i128::from(now.tv_sec) * 1000 + i128::from(now.tv_nsec) / 1_000_000;
    u64::try_from(millis).unwrap_or(0)
}

impl Window {
    /// Lets changes begin for so long from now.
    pub(crate) fn open_for(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.until_millis.store(if millis == 0 { 0 } else { now_millis().saturating_add(millis) }, Ordering::Release);
    }

    /// Whether a request may be sent: one that changes nothing always.
    pub(crate) fn lets_through<B>(&self, request: http::Request<B>) -> Result<http::Request<B>, Late> {
        let is_change = !matches!(*request.method(), http::Method::GET | http::Method::HEAD);
        if is_change && now_millis() >= self.until_millis.load(Ordering::Acquire) { Err(Late) } else { Ok(request) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_begin_only_as_long_as_the_lease_lets_them() {
        let window = Window::default();
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
