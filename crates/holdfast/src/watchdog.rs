//! Reports to a service manager (sd_notify): the service is up, stops, or makes progress.
//!
//! A task on the runtime of the requests feeds the watchdog, after another task answered a probe through the router and while
//! no loop is stuck. A separate thread would feed it although the rest of the process hangs.
//!
//! The protocol is one datagram. A library for it would read the environment, which only `ProcessEnvironment` does.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use axum::Router;
use model::clock::Clock;
use tokio::sync::watch;

use crate::config::ProcessEnvironment;

/// The service manager that started this process.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The manager that the environment names, if there is one.
    pub(crate) fn of(environment: &ProcessEnvironment) -> Option<Self> {
        let name = environment.variable("NOTIFY_SOCKET")?;
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        let opened = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            // The service does not wait for a manager that does not read.
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        });
        let number = |name: &str| environment.variable(name)?.to_str()?.parse::<u64>().ok();
        let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        match opened {
            Ok((socket, address)) => Some(Self {
                socket,
                address,
                watchdog: number("WATCHDOG_USEC").filter(|_| is_meant).map(Duration::from_micros),
            }),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET can't be used; nothing is reported to the service manager");
                None
            }
        }
    }

    fn tell(&self, state: &str) {
        if let Err(error) = self.socket.send_to_addr(state.as_bytes(), &self.address)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::warn!(%error, "failed to report to the service manager");
        }
    }

    /// Reports that the service listens; `status` says what it waits for.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// Reports that the service stops.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// Feeds the watchdog while requests are answered and no loop is stuck. Never ends.
    pub(crate) async fn feed(
        &self,
        clock: &dyn Clock,
        router: watch::Receiver<Router>,
        stuck_loop: impl Fn() -> Option<&'static str>,
    ) {
        let Some(watchdog) = self.watchdog else { return std::future::pending().await };
        let every = watchdog / 3;
        loop {
            let router = router.borrow().clone();
            // In a task of its own, as requests are.
            let probe = tokio::spawn(api::answers(router));
            let answered = matches!(clock.timeout(every, probe).await, Ok(Ok(true)));
            match (answered, stuck_loop()) {
                (true, None) => self.tell("WATCHDOG=1"),
                (false, _) => tracing::error!("the service did not answer its own liveness probe"),
                (true, Some(name)) => tracing::error!(name, "a loop of the synchronizer makes no progress"),
            }
            clock.sleep(every).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use axum::routing::get;
    use clock::SystemClock;

    use super::*;

    const WATCHDOG: Duration = Duration::from_millis(60);

    fn manager(path: &Path) -> (Manager, tokio::net::UnixDatagram) {
        let ours = tokio::net::UnixDatagram::bind(path).unwrap();
        let variables =
            [("NOTIFY_SOCKET", path.to_str().unwrap().to_owned()), ("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())];
        let environment = ProcessEnvironment {
            variables: variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            folder: "/".into(),
            home: None,
            cores: 1,
        };
        (Manager::of(&environment).unwrap(), ours)
    }

    async fn heard(socket: &tokio::net::UnixDatagram) -> String {
        let mut text = [0; 200];
        let length = socket.recv(&mut text).await.unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    /// Asserts that the socket stays silent for many periods of the watchdog.
    async fn silence(socket: &tokio::net::UnixDatagram) {
        let clock: &dyn Clock = &SystemClock;
        // Messages that were sent before.
        for _ in 0..100 {
            if clock.timeout(WATCHDOG, heard(socket)).await.is_err() {
                break;
            }
        }
        assert_eq!(clock.timeout(WATCHDOG * 10, heard(socket)).await.ok(), None);
    }

    #[tokio::test]
    async fn the_watchdog_is_fed_while_probes_are_answered_and_no_loop_is_stuck() {
        let folder = tempfile::tempdir().unwrap();
        let (manager, socket) = manager(&folder.path().join("notify"));
        manager.ready("listening");
        assert_eq!(heard(&socket).await, "READY=1\nSTATUS=listening");
        let (routers, router) = watch::channel(Router::new().route("/livez", get(async || "")));
        let stuck = Arc::new(AtomicBool::new(false));
        let of_feeder = Arc::clone(&stuck);
        let feeding = tokio::spawn(async move {
            manager.feed(&SystemClock, router, move || of_feeder.load(Ordering::Relaxed).then_some("schedules")).await;
        });
        assert_eq!(heard(&socket).await, "WATCHDOG=1");
        stuck.store(true, Ordering::Relaxed);
        silence(&socket).await;
        stuck.store(false, Ordering::Relaxed);
        assert_eq!(heard(&socket).await, "WATCHDOG=1");
        drop(routers.send_replace(Router::new().route("/livez", get(std::future::pending::<&str>))));
        silence(&socket).await;
        drop(routers.send_replace(Router::new().route("/livez", get(async || ""))));
        assert_eq!(heard(&socket).await, "WATCHDOG=1");
        feeding.abort();
    }
}
