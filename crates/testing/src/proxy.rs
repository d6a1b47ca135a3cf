//! A proxy in front of a Kubernetes API server that a test may cut and slow down, and that counts requests.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, HOST, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use crate::background::Background;

/// The client of the proxy's requests, and their server.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The API server's URL, `https://host:port`.
    pub url: String,
    /// The certificate of the server's authority, as PEM.
    pub ca_certificate: String,
    /// The client certificate that is shown, as PEM.
    pub certificate: String,
    /// The private key of it, as PEM.
    pub private_key: String,
}

/// A proxy, HTTP/1.1 on the loopback address. It has a thread of its own, and ends when it is dropped.
///
/// A request with an `Authorization` header is passed on as it is; any other is made as the [`Identity`] of the proxy, by
/// its client certificate. Watches and logs stream through. Connections that change their protocol (`exec`,
/// `port-forward`) are answered 501.
#[derive(Debug)]
pub struct Proxy {
    background: Background,
    folder: TempDir,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Upstream,
    /// Whether it is cut; connections watch it.
    is_cut: watch::Sender<bool>,
    /// Objects, by name, whose requests don't get through.
    hindered: watch::Sender<BTreeMap<String, Hindrance>>,
    state: Mutex<State>,
}

/// The result of requests about an object in place of an answer of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hindrance {
    HeldBack,
    Refused,
}

#[derive(Debug, Default)]
struct State {
    delay: Duration,
    /// The logs of pods, if the proxy answers for their nodes.
    log: Option<String>,
    counts: BTreeMap<(String, String), u64>,
    /// Those of `counts` that the server answered with 409.
    conflicts: BTreeMap<(String, String), u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Starts one, with nothing cut and nothing delayed.
    ///
    /// # Panics
    /// When the identity's URL, certificates or key are none, or no port is free.
    pub fn start(identity: &Identity) -> Self {
        let upstream = Upstream::new(identity).unwrap_or_else(|why| panic!("no proxy to {}: {why}", identity.url));
        let shared = Arc::new(Shared {
            upstream,
            is_cut: watch::Sender::new(false),
            hindered: watch::Sender::default(),
            state: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let background = Background::start(Ipv4Addr::LOCALHOST.into(), async move |listener| {
            accept(&listener, &serving).await;
        });
        let folder = tempfile::Builder::new().prefix("holdfast-proxy-").tempdir().expect("a temporary folder");
        let proxy = Self { background, folder, shared };
        fs::write(proxy.kubeconfig(), proxy.configuration(None)).expect("a file");
        proxy
    }

    /// Its address, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.background.address())
    }

    /// A KUBECONFIG with no credentials: its user acts as the proxy's identity. It is removed with the proxy.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// A KUBECONFIG with a bearer token, which the proxy passes on. It goes with the proxy.
    ///
    /// `kubectl` and other programs written in Go keep tokens back on plain HTTP: they act as the proxy's identity.
    ///
    /// # Panics
    /// When the file can't be written.
    pub fn kubeconfig_with_token(&self, token: &str) -> PathBuf {
        let file = tempfile::Builder::new().prefix("kubeconfig-").tempfile_in(self.folder.path()).expect("a file");
        let path = file.into_temp_path().keep().expect("a file");
        fs::write(&path, self.configuration(Some(token))).expect("a file");
        path
    }

    /// JSON is YAML.
    fn configuration(&self, token: Option<&str>) -> String {
        let user = token.map_or(json!({}), |token| json!({"token": token}));
        let configuration = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": self.url()}}],
            "users": [{"name": "proxy", "user": user}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        configuration.to_string()
    }

    /// Breaks all connections, also in the middle of an answer, and closes new ones without an answer.
    pub fn cut(&self) {
        self.shared.is_cut.send_replace(true);
    }

    /// Takes new connections again.
    pub fn restore(&self) {
        self.shared.is_cut.send_replace(false);
    }

    /// Holds each request that comes from now on back for so long, before it is passed on.
    pub fn delay(&self, time: Duration) {
        self.shared.state().delay = time;
    }

    /// Holds requests about objects of this name back until [`Self::let_through`]. Making one does not name it.
    pub fn hold_back(&self, name: &str) {
        self.hinder(name, Hindrance::HeldBack);
    }

    /// Answers requests about objects of this name with 500 until [`Self::let_through`]. Making one does not name it.
    pub fn refuse(&self, name: &str) {
        self.hinder(name, Hindrance::Refused);
    }

    fn hinder(&self, name: &str, how: Hindrance) {
        self.shared.hindered.send_modify(|hindered| {
            hindered.insert(name.to_owned(), how);
        });
    }

    /// Lets all requests through again, also those that are held back.
    pub fn let_through(&self) {
        self.shared.hindered.send_modify(BTreeMap::clear);
    }

    /// Answers requests for logs of pods itself from now on, with this text: a node in name only has none.
    pub fn answer_logs(&self, text: &str) {
        self.shared.state().log = Some(text.to_owned());
    }

    /// How many requests there were since the start or [`Self::reset`], by method and path.
    ///
    /// A path represents all objects of a kind: `/apis/batch/v1/namespaces/{namespace}/jobs/{name}/status`. A request for a
    /// stream of changes has the method `WATCH` in place of `GET`.
    pub fn counts(&self) -> BTreeMap<(String, String), u64> {
        self.shared.state().counts.clone()
    }

    /// Those of [`Self::counts`] that change something: neither `GET`, `WATCH` nor `HEAD`.
    pub fn writes(&self) -> BTreeMap<(String, String), u64> {
        let mut counts = self.counts();
        counts.retain(|(method, _), _| !["GET", "WATCH", "HEAD"].contains(&method.as_str()));
        counts
    }

    /// The writes that changed an object: [`Self::writes`] without those that the server rejected with 409 because another client
    /// had written the object first.
    pub fn accepted_writes(&self) -> BTreeMap<(String, String), u64> {
        let mut counts = self.writes();
        for (request, conflicts) in &self.shared.state().conflicts {
            if let Some(count) = counts.get_mut(request) {
                *count -= conflicts;
            }
        }
        counts.retain(|_, count| *count > 0);
        counts
    }

    /// Sets all counts to zero.
    pub fn reset(&self) {
        let mut state = self.shared.state();
        state.counts.clear();
        state.conflicts.clear();
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        // A connection that is gone again is no reason to end, nor are too many of them.
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let mut is_cut = shared.is_cut.subscribe();
        if *is_cut.borrow_and_update() {
            continue;
        }
        let _ = connection.set_nodelay(true);
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let client = tokio::sync::Mutex::new(Connections::default());
            let (client, shared) = (&client, &shared);
            let service =
                service_fn(move |request| async move { Ok::<_, Infallible>(answer(shared, client, request).await) });
            let served = http1::Builder::new().serve_connection(TokioIo::new(connection), service);
            tokio::select! {
                _ = served => {}
                // A cut that was restored in between is one all the same.
                _ = is_cut.changed() => {}
            }
        });
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

/// The connections to the server that belong to one connection of a client.
#[derive(Default)]
struct Connections {
    as_identity: Option<SendRequest<Incoming>>,
    as_sent: Option<SendRequest<Incoming>>,
}

async fn answer(
    shared: &Shared,
    connections: &tokio::sync::Mutex<Connections>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let kind = kind(request.method(), request.uri());
    let (delay, log) = {
        let mut state = shared.state();
        *state.counts.entry(kind.clone()).or_default() += 1;
        (state.delay, state.log.clone())
    };
    tokio::time::sleep(delay).await;
    let path = request.uri().path();
    let mut hindered = shared.hindered.subscribe();
    let free = hindered.wait_for(|hindered| hindrance_of(path, hindered) != Some(Hindrance::HeldBack));
    let is_refused = free.await.is_ok_and(|hindered| hindrance_of(path, &hindered).is_some());
    if is_refused {
        return failed(StatusCode::INTERNAL_SERVER_ERROR, "this proxy refuses what is about this object");
    }
    if let Some(log) = log.filter(|_| is_of_log(path)) {
        return Response::new(whole(log));
    }
    if request.headers().contains_key(hyper::header::UPGRADE) {
        return failed(StatusCode::NOT_IMPLEMENTED, "this proxy changes no protocols");
    }
    let has_credentials = request.headers().contains_key(AUTHORIZATION);
    request.headers_mut().insert(HOST, shared.upstream.host.clone());
    let mut connections = connections.lock().await;
    let connections = &mut *connections;
    let slot = if has_credentials { &mut connections.as_sent } else { &mut connections.as_identity };
    match forward(&shared.upstream, slot, has_credentials, request).await {
        Ok(answer) => {
            if answer.status() == StatusCode::CONFLICT {
                *shared.state().conflicts.entry(kind).or_default() += 1;
            }
            answer.map(http_body_util::BodyExt::boxed)
        }
        Err(why) => failed(StatusCode::BAD_GATEWAY, &format!("the API server does not answer: {why}")),
    }
}

async fn forward(
    upstream: &Upstream,
    slot: &mut Option<SendRequest<Incoming>>,
    has_credentials: bool,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, String> {
    let is_usable = match slot {
        Some(sender) => sender.ready().await.is_ok(),
        None => false,
    };
    if !is_usable {
        *slot = Some(upstream.connect(has_credentials).await?);
    }
    let sender = slot.as_mut().ok_or("no connection")?;
    sender.send_request(request).await.map_err(|e| e.to_string())
}

fn failed(status: StatusCode, why: &str) -> Response<Body> {
    let mut answer = Response::new(whole(why.to_owned()));
    *answer.status_mut() = status;
    answer
}

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

/// Whether a path is that of a pod's log.
fn is_of_log(path: &str) -> bool {
    path.contains("/pods/") && path.ends_with("/log")
}

/// The hindrance of a request for this path.
fn hindrance_of(path: &str, hindered: &BTreeMap<String, Hindrance>) -> Option<Hindrance> {
    path.split('/').find_map(|part| hindered.get(part).copied())
}

/// The kind under which a request is counted.
fn kind(method: &Method, uri: &Uri) -> (String, String) {
    let watches = uri.query().unwrap_or_default().split('&').any(|part| matches!(part, "watch=true" | "watch=1"));
    let method = if watches && method == Method::GET { "WATCH" } else { method.as_str() };
    (method.to_owned(), without_names(uri.path()))
}

/// The path with a placeholder for each name that someone gave.
fn without_names(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    // "" "api" version …, or "" "apis" group version …
    let begin = match parts.get(1) {
        Some(&"api") => 3,
        Some(&"apis") => 4,
        _ => return path.to_owned(),
    };
    let Some(resource) = parts.get_mut(begin..) else { return path.to_owned() };
    match resource {
        ["namespaces", namespace, _, rest @ ..] => {
            *namespace = "{namespace}";
            if let [name, ..] = rest {
                *name = "{name}";
            }
        }
        [_, name, ..] => *name = "{name}",
        _ => {}
    }
    parts.join("/")
}

/// How the server is reached.
struct Upstream {
    address: (String, u16),
    name: ServerName<'static>,
    host: HeaderValue,
    as_identity: TlsConnector,
    as_sent: TlsConnector,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Upstream {
    fn new(identity: &Identity) -> Result<Self, String> {
        let uri: Uri = identity.url.parse().map_err(|e| format!("{e}"))?;
        let authority = uri.authority().ok_or("the URL names no host")?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(host.clone()).map_err(|e| e.to_string())?,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(identity.ca_certificate.as_bytes()) {
            roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("the client certificate: {e}"))?;
        let key = PrivateKeyDer::from_pem_slice(identity.private_key.as_bytes())
            .map_err(|e| format!("the private key: {e}"))?;
        let configuration = || {
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| e.to_string())
                .map(|builder| builder.with_root_certificates(roots.clone()))
        };
        let as_identity = configuration()?.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?;
        let as_sent = configuration()?.with_no_client_auth();
        Ok(Self {
            address: (host, authority.port_u16().unwrap_or(443)),
            name,
            host: HeaderValue::from_str(authority.as_str()).map_err(|e| e.to_string())?,
            as_identity: TlsConnector::from(Arc::new(as_identity)),
            as_sent: TlsConnector::from(Arc::new(as_sent)),
        })
    }

    /// A new connection; it closes when the returned value is dropped.
    async fn connect(&self, has_credentials: bool) -> Result<SendRequest<Incoming>, String> {
        let (host, port) = &self.address;
        let connection = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| e.to_string())?;
        let _ = connection.set_nodelay(true);
        let connector = if has_credentials { &self.as_sent } else { &self.as_identity };
        let encrypted = connector.connect(self.name.clone(), connection).await.map_err(|e| e.to_string())?;
        let (sender, serving) = handshake(TokioIo::new(encrypted)).await.map_err(|e| e.to_string())?;
        tokio::spawn(serving);
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_without_names() {
        for (path, counted) in [
            ("/version", "/version"),
            ("/api/v1", "/api/v1"),
            ("/api/v1/pods", "/api/v1/pods"),
            ("/api/v1/nodes/node-0/status", "/api/v1/nodes/{name}/status"),
            ("/api/v1/namespaces", "/api/v1/namespaces"),
            ("/api/v1/namespaces/mine", "/api/v1/namespaces/{name}"),
            ("/api/v1/namespaces/mine/pods", "/api/v1/namespaces/{namespace}/pods"),
            ("/api/v1/namespaces/mine/pods/one/log", "/api/v1/namespaces/{namespace}/pods/{name}/log"),
            ("/apis/batch/v1/cronjobs", "/apis/batch/v1/cronjobs"),
            ("/apis/batch/v1/namespaces/mine/jobs/one", "/apis/batch/v1/namespaces/{namespace}/jobs/{name}"),
        ] {
            assert_eq!(without_names(path), counted);
        }
    }

    #[test]
    fn a_watch_is_distinguished_from_a_list() {
        let of = |uri: &'static str| kind(&Method::GET, &Uri::from_static(uri)).0;
        assert_eq!(of("/api/v1/pods?limit=5&watch=true"), "WATCH");
        assert_eq!(of("/api/v1/pods?watch=1"), "WATCH");
        assert_eq!(of("/api/v1/pods?watch=false"), "GET");
    }
}
