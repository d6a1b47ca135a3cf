//! The connection to the cluster, by a kubeconfig or by the service account of a pod.

use std::time::Duration;

use kube::{Client, Config, client::ClientBuilder, config::KubeConfigOptions};
use model::clock::SharedClock;
use tower::{filter::FilterLayer, layer::layer_fn};

use super::{api_metrics::ApiMetrics, write_window::WriteWindow};

/// The longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest pause within an answer. Watches send bookmarks more often; logs may pause longer, and have a client of their own.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// A cluster and a namespace.
#[derive(Clone)]
pub struct Connection {
    pub(super) client: Client,
    /// The client for logs, which may pause for any time.
    pub(super) log_client: Client,
    pub(super) window: WriteWindow,
    /// Metrics of the calls.
    pub calls: ApiMetrics,
    /// The namespace of the jobs.
    pub namespace: String,
    /// The URL of the API server, for messages.
    pub server: String,
}

// The client has credentials.
impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// The reason why there is no connection to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig can't be read, or lacks the context.
    #[error("The kubeconfig can't be used.")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// There is neither a kubeconfig nor the service account of a pod.
    #[error("No cluster is known: there is no kubeconfig, and this is no pod of a cluster.")]
    NoCluster(#[source] kube::config::InferConfigError),
    /// The client can't be made from the configuration.
    #[error("No client could be made for the cluster at {server}.")]
    Client {
        /// Its URL.
        server: String,
        /// The cause.
        #[source]
        source: kube::Error,
    },
}

/// Prepares a connection, without connecting: by the kubeconfig of the user (`KUBECONFIG`, or `~/.kube/config`), or by the
/// service account of a pod. `namespace` is the namespace of the jobs; the default is that of the context or of the pod.
///
/// # Errors
/// When there is neither, or it can't be used.
pub async fn connect(
    clock: SharedClock,
    context: Option<&str>,
    namespace: Option<&str>,
) -> Result<Connection, ConnectError> {
    let mut config = match context {
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
            Config::from_kubeconfig(&options).await.map_err(ConnectError::Kubeconfig)?
        }
        None => Config::infer().await.map_err(ConnectError::NoCluster)?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let namespace = namespace.map_or_else(|| config.default_namespace.clone(), ToOwned::to_owned);
    open(config, READ_TIMEOUT, namespace, clock)
}

/// Makes the two clients of a connection, of which one gives up an answer that is silent for `read_timeout`.
fn open(
    mut config: Config,
    read_timeout: Duration,
    namespace: String,
    clock: SharedClock,
) -> Result<Connection, ConnectError> {
    let server = config.cluster_url.to_string();
    let (window, calls) = (WriteWindow::new(clock.clone()), ApiMetrics::new(clock));
    let build = |config| -> Result<Client, ConnectError> {
        let keeps_back = {
            let window = window.clone();
            move |request| window.lets_through(request)
        };
        Ok(ClientBuilder::try_from(config)
            .map_err(|source| ConnectError::Client { server: server.clone(), source })?
            .with_layer(&layer_fn(|inner| calls.counted(inner)))
            // Outside of the former layer: a request that is held back is not a call.
            .with_layer(&FilterLayer::new(keeps_back))
            .build())
    };
    let log_client = build(config.clone())?;
    config.read_timeout = Some(read_timeout);
    // Else the time for which a connection was idle counts as silence of the next answer.
    config.reset_reader_on_write = true;
    let client = build(config)?;
    Ok(Connection { client, log_client, window, calls, namespace, server })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a real client waits in real time")]

    use std::sync::Arc;

    use clock::SystemClock;
    use futures::AsyncReadExt as _;
    use k8s_openapi::api::core::v1::Pod;
    use kube::{Api, api::LogParams};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::sleep,
    };

    use super::*;

    const SILENCE_MAX: Duration = Duration::from_secs(2);
    /// Less than that, but not much less.
    const PAUSE: Duration = Duration::from_millis(1300);

    fn connected(listener: &TcpListener) -> Connection {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = Config::new(url.parse().unwrap());
        open(config, SILENCE_MAX, "data".into(), Arc::new(SystemClock)).unwrap()
    }

    /// Reads the head of a request; `false` when the client closed the connection.
    async fn request(stream: &mut TcpStream) -> bool {
        let (mut head, mut piece) = (Vec::new(), [0; 4096]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return false,
                Ok(read) => head.extend_from_slice(&piece[..read]),
            }
        }
        true
    }

    #[tokio::test]
    async fn the_idle_time_of_a_connection_is_no_silence_of_the_next_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pods: Api<Pod> = Api::namespaced(connected(&listener).client, "data");
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut answers = 0;
            while answers < 2 && request(&mut stream).await {
                if answers == 1 {
                    sleep(PAUSE).await;
                }
                let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "daily-1"}}"#;
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}", pod.len());
                stream.write_all(format!("{head}\r\n\r\n{pod}").as_bytes()).await.unwrap();
                answers += 1;
            }
            answers
        });
        pods.get("daily-1").await.unwrap();
        sleep(PAUSE).await;
        pods.get("daily-1").await.unwrap();
        assert_eq!(served.await.unwrap(), 2, "both on one connection");
    }

    #[tokio::test]
    async fn a_log_may_be_silent_for_longer_than_any_other_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = connected(&listener);
        let served = tokio::spawn(async move {
            let mut streams = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                streams.push(tokio::spawn(async move {
                    assert!(request(&mut stream).await);
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\none\n").await.unwrap();
                    sleep(2 * SILENCE_MAX).await;
                    let _ = stream.write_all(b"two\n").await;
                }));
            }
            for stream in streams {
                stream.await.unwrap();
            }
        });
        let read = async |client: Client| {
            let pods: Api<Pod> = Api::namespaced(client, "data");
            let params = LogParams { follow: true, ..LogParams::default() };
            let mut text = String::new();
            let stream = pods.log_stream("daily-1", &params).await.unwrap();
            futures::pin_mut!(stream);
            stream.read_to_string(&mut text).await.map(|_| text)
        };
        let (log, other) = tokio::join!(read(connection.log_client), read(connection.client));
        assert_eq!(log.unwrap(), "one\ntwo\n");
        assert!(other.is_err(), "{other:?}");
        served.await.unwrap();
    }
}
