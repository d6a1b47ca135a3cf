//! Servers of a test's own, beside it.

use std::{
    net::{IpAddr, SocketAddr},
    thread::{self, JoinHandle},
};

use tokio::{net::TcpListener, sync::oneshot};

/// A server on an address of this machine, with a thread of its own. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts to serve on a free port. `serve` runs until it is dropped.
    ///
    /// # Panics
    /// When no port is free.
    pub(crate) fn start<F>(address: IpAddr, serve: impl FnOnce(TcpListener) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()>,
    {
        // Bound without a runtime: who starts one may be within one.
        let listener = std::net::TcpListener::bind((address, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = serve(listener) => {}
                    _ = ended => {}
                }
            });
        });
        Self { address, end: Some(end), thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
