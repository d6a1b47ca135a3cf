//! The way to the cluster: from a kubeconfig, or from what a pod in the cluster has.

use std::time::Duration;

use kube::{Client, Config, client::ClientBuilder, config::KubeConfigOptions};
use model::clock::SharedClock;
use tower::{filter::FilterLayer, layer::layer_fn};

use super::{api_metrics::ApiMetrics, write_window::WriteWindow};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may be silent. Watches say something more often; logs do not, and have a client of their own.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// A cluster and a namespace.
#[derive(Clone)]
pub struct Connection {
    pub(super) client: Client,
    /// For logs: an answer may be silent for as long as it likes.
    pub(super) log_client: Client,
    pub(super) window: WriteWindow,
    /// How the API server answers.
    pub calls: ApiMetrics,
    /// The namespace of the jobs.
    pub namespace: String,
    /// The address of the API server, for people.
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

/// Why there is no way to the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig can't be read, or lacks the context.
    #[error("The kubeconfig can't be used.")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// There is neither a kubeconfig nor what a pod has.
    #[error("No cluster is known: there is no kubeconfig, and this is no pod of a cluster.")]
    NoCluster(#[source] kube::config::InferConfigError),
    /// The client can't be made of it.
    #[error("No client could be made for the cluster at {server}.")]
    Client {
        /// Its address.
        server: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

/// Finds the way, without going it: the kubeconfig of the user (`KUBECONFIG`, or `~/.kube/config`), or what a pod has.
/// `namespace` is where jobs are; without one it is that of the context, or of the pod.
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
    let server = config.cluster_url.to_string();
    let namespace = namespace.map_or_else(|| config.default_namespace.clone(), ToOwned::to_owned);
    let (window, calls) = (WriteWindow::new(clock.clone()), ApiMetrics::new(clock));
    let build = |config| -> Result<Client, ConnectError> {
        let keeps_back = {
            let window = window.clone();
            move |request| window.lets_through(request)
        };
        Ok(ClientBuilder::try_from(config)
            .map_err(|source| ConnectError::Client { server: server.clone(), source })?
            .with_layer(&layer_fn(|inner| calls.counted(inner)))
            // Outside of the former: what is kept back is no call.
            .with_layer(&FilterLayer::new(keeps_back))
            .build())
    };
    let log_client = build(config.clone())?;
    config.read_timeout = Some(READ_TIMEOUT);
    // Else the time for which a connection was idle counts as silence of the next answer.
    config.reset_reader_on_write = true;
    let client = build(config)?;
    Ok(Connection { client, log_client, window, calls, namespace, server })
}
