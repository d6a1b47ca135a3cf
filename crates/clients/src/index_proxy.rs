//! A loopback proxy to the package index, which adds the index's credentials.
//!
//! Build hooks are foreign code, and the installer that runs them needs packages. So the installer gets the URL of a
//! session of this proxy: a random port of 127.0.0.1 and a random token in the path, valid while the session lives.
//! A client with the URL gets packages, never the credentials.
//!
//! The proxy does not give access to everything on the index's host: an index is often one API among others
//! there, some of which return a token or private sources to any client with these credentials. A session forwards only
//! - project pages, `<index>/<project>/`, and
//! - files to which such a page linked during the session, with their `.metadata`.
//!
//! Links to other hosts are unchanged, and the installer follows redirects to other origins itself: credentials are sent only
//! to the index's own origin.
//!
//! A build hook can request large project pages without reading them. A rewritten page therefore keeps its permit until
//! its last byte left the process: one page per session, two over all sessions. A client that does not read loses its
//! connection after the stall limit, so a session never delays the pages of the others for longer than that.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    fmt, io,
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use base64::Engine as _;
use http_body_util::{BodyExt as _, Empty, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName,
        HeaderValue, IF_RANGE, LOCATION, RANGE,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::clock::{SharedClock, Timer};
use reqwest::{Client, NoProxy, Proxy, Url, redirect::Policy};
use serde::{
    Deserialize as _, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use crate::http::{body, describe};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the index may stay silent within a response. The installer's own time limit ends a session.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client of the proxy may take to send the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of a response, and how long it may take for a whole project page.
const STALL_LIMIT: Duration = Duration::from_secs(15);
/// How long a request waits for a page permit, in stall limits.
const PAGE_WAIT_STALL_LIMITS: u32 = 4;
/// Connections per session. Each carries one request; further connections wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 8;
const BACKLOG_MAX: u32 = 1024;
/// Bytes that the kernel buffers per connection.
const SEND_BUFFER_BYTES: u32 = 128 * 1024;
/// Project pages that are held in memory at once, over all sessions.
const PAGES_AT_ONCE: usize = 2;
/// The same per session.
const SESSION_PAGES_AT_ONCE: usize = 1;
const PAGE_MAX_BYTES: usize = 16 * 1024 * 1024;
const REWRITTEN_PAGE_MAX_BYTES: usize = 2 * PAGE_MAX_BYTES;
/// Tags and links of a page that are longer lose their target.
const LINK_MAX_BYTES: usize = 16 * 1024;
/// Links that a session keeps; files behind later ones are not forwarded.
const LINKS_MAX: usize = 200_000;
const LINKS_MAX_BYTES: usize = 16 * 1024 * 1024;
const REDIRECTS_MAX: usize = 5;
/// Bytes of a request's headers.
const HEADERS_MAX_BYTES: usize = 16 * 1024;

/// The media types of a project page, the cheapest to rewrite first.
const PAGE_TYPES: &str =
    "application/vnd.pypi.simple.v1+html, text/html;q=0.9, application/vnd.pypi.simple.v1+json;q=0.5";
/// The endings of names of package files.
const FILE_ENDINGS: [&str; 6] = [".whl", ".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz"];
/// Ends the name of the file that holds a wheel's metadata (PEP 658).
const METADATA: &str = ".metadata";
const TO_INDEX: [HeaderName; 2] = [RANGE, IF_RANGE];
const FROM_INDEX: [HeaderName; 4] = [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_RANGE, ACCEPT_RANGES];

type Answer = Response<BoxBody<Bytes, reqwest::Error>>;

/// A package index with credentials.
pub struct IndexProxy {
    index: Arc<Index>,
    clock: SharedClock,
    stall_limit: Duration,
}

struct Index {
    http: Client,
    /// Without credentials, and without a slash at its end.
    url: Url,
    authorization: HeaderValue,
    pages: Arc<Semaphore>,
}

/// Without the credentials.
impl fmt::Debug for IndexProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexProxy").field("url", &self.index.url.as_str()).finish_non_exhaustive()
    }
}

impl IndexProxy {
    /// The proxy to the index at `url`; `None` if the URL has no credentials, so that no proxy is needed.
    ///
    /// `environment` names the proxies on the way to the index (`HTTPS_PROXY` and its relatives). Certificates are the
    /// machine's, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` of this process name.
    ///
    /// # Errors
    /// When a proxy in `environment` can't be used. The message contains no secret.
    pub fn of(url: &str, environment: &BTreeMap<String, String>, clock: SharedClock) -> Result<Option<Self>, String> {
        let Ok(mut url) = Url::parse(url) else { return Ok(None) };
        if !matches!(url.scheme(), "http" | "https") || (url.username().is_empty() && url.password().is_none()) {
            return Ok(None);
        }
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
        let credentials = [decoded(url.username()), decoded(url.password().unwrap_or_default())].join(&b':');
        let mut authorization =
            HeaderValue::try_from(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials)))
                .map_err(|_| "the credentials of the package index can't be sent".to_owned())?;
        authorization.set_sensitive(true);
        // Neither fails for a URL with a host.
        let _ = (url.set_username(""), url.set_password(None));
        url.set_query(None);
        url.set_fragment(None);
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        let http = client(environment)?;
        let pages = Arc::new(Semaphore::new(PAGES_AT_ONCE));
        let index = Arc::new(Index { http, url, authorization, pages });
        Ok(Some(Self { index, clock, stall_limit: STALL_LIMIT }))
    }

    /// Changes how long a client may take nothing of a response, and how long it may take for a whole project page;
    /// 15 seconds by default.
    #[must_use]
    pub fn with_stall_limit(self, stall_limit: Duration) -> Self {
        Self { stall_limit, ..self }
    }

    /// Opens a session. `token` is random and secret: it is the right to use the session.
    ///
    /// # Errors
    /// When no port is free.
    #[expect(clippy::unused_async, reason = "needs a runtime to listen")]
    pub async fn open(&self, token: &str) -> io::Result<Session> {
        let socket = TcpSocket::new_v4()?;
        // Accepted connections inherit it.
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG_MAX)?;
        let root = format!("http://{}/{token}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            index: self.index.clone(),
            clock: Arc::clone(&self.clock),
            stall_limit: self.stall_limit,
            pages: Arc::new(Semaphore::new(SESSION_PAGES_AT_ONCE)),
            token: token.to_owned(),
            root: root.clone(),
            links: Mutex::default(),
        });
        let path = self.index.url.path().trim_end_matches('/');
        let origin = self.index.url.origin().ascii_serialization();
        let session = Session {
            index_url: format!("{root}{path}"),
            root,
            origin,
            serving: tokio::spawn(serve(listener, shared)).abort_handle(),
        };
        Ok(session)
    }
}

/// Parses the URL of a proxy.
type Make = fn(&str) -> reqwest::Result<Proxy>;

/// A client that follows no redirects, by the proxies of the environment that it is given.
fn client(environment: &BTreeMap<String, String>) -> Result<Client, String> {
    let variable = |names: [&str; 2]| names.iter().find_map(|name| environment.get(*name)).filter(|v| !v.is_empty());
    let mut builder = Client::builder()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .no_proxy()
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")));
    let except = || variable(["no_proxy", "NO_PROXY"]).and_then(|list| NoProxy::from_string(list));
    for (names, make) in [
        (["https_proxy", "HTTPS_PROXY"], (|url| Proxy::https(url)) as Make),
        (["http_proxy", "HTTP_PROXY"], |url| Proxy::http(url)),
        (["all_proxy", "ALL_PROXY"], |url| Proxy::all(url)),
    ] {
        if let Some(url) = variable(names) {
            let proxy = make(url).map_err(|_| format!("the variable {} is not the URL of a proxy", names[1]))?;
            builder = builder.proxy(proxy.no_proxy(except()));
        }
    }
    builder.build().map_err(|_| "the client for the package index can't be made".to_owned())
}

/// A way to the index, open until it is dropped.
#[derive(Debug)]
pub struct Session {
    index_url: String,
    root: String,
    origin: String,
    serving: tokio::task::AbortHandle,
}

impl Session {
    /// The URL that stands for the index. It holds the token of the session.
    pub fn index_url(&self) -> &str {
        &self.index_url
    }

    /// The text with the index's own URL in place of the session's: for messages, and for what outlives the session.
    pub fn without_proxy(&self, text: &str) -> String {
        text.replace(&self.root, &self.origin)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Shared {
    index: Arc<Index>,
    clock: SharedClock,
    stall_limit: Duration,
    pages: Arc<Semaphore>,
    token: String,
    /// The URL that stands for the index's origin: `http://127.0.0.1:<port>/<token>`.
    root: String,
    links: Mutex<Links>,
}

/// The files that pages linked to.
#[derive(Default)]
struct Links {
    urls: HashSet<Box<str>>,
    bytes: usize,
    is_full: bool,
}

impl Links {
    fn contains(&self, url: &Url) -> bool {
        self.urls.contains(url.as_str())
    }

    fn insert(&mut self, url: &Url) {
        let url = url.as_str();
        if self.urls.contains(url) {
            return;
        }
        if self.urls.len() >= LINKS_MAX || self.bytes + url.len() > LINKS_MAX_BYTES {
            if !self.is_full {
                tracing::warn!(
                    links_max = LINKS_MAX,
                    links_max_bytes = LINKS_MAX_BYTES,
                    "a build got more links from the package index than its proxy keeps; later files are not forwarded"
                );
            }
            self.is_full = true;
            return;
        }
        self.bytes += url.len();
        self.urls.insert(url.into());
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this future, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the proxy to the package index could not accept a connection");
                shared.clock.sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let shared = shared.clone();
        connections.spawn(async move {
            connection(stream, shared).await;
            drop(place);
        });
    }
}

/// Answers the one request of a connection. An idle connection would keep a place from those in the backlog.
async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let stall_limit = shared.stall_limit;
    let page_is_ready = Notify::new();
    let service = service_fn(|request| {
        let (shared, page_is_ready) = (&shared, &page_is_ready);
        async move {
            let answer = shared.answer(request).await;
            if answer.extensions().get::<IsPage>().is_some() {
                page_is_ready.notify_one();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADERS_MAX_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Stalling::new(stream, stall_limit, &shared.clock)), service);
    let page_is_overdue = async {
        page_is_ready.notified().await;
        shared.clock.sleep(stall_limit).await;
    };
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection to the proxy of the package index broke off");
            }
        }
        () = page_is_overdue => {
            tracing::warn!(?stall_limit, "a build did not read a page of the package index in time; closed its \
                    connection");
        }
    }
}

/// A connection that fails once its client took nothing for `limit`. Dropping it discards what the kernel has not sent.
struct Stalling {
    stream: TcpStream,
    limit: Duration,
    clock: SharedClock,
    /// Ends when the write in progress was blocked for too long.
    blocked: Option<Timer>,
}

impl Stalling {
    fn new(stream: TcpStream, limit: Duration, clock: &SharedClock) -> Self {
        Self { stream, limit, clock: Arc::clone(clock), blocked: None }
    }

    fn limited<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.blocked = None;
            return polled;
        }
        let (clock, limit) = (&self.clock, self.limit);
        let blocked = self.blocked.get_or_insert_with(|| Timer::new(Arc::clone(clock), clock.boot() + limit));
        ready!(blocked.poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }

    /// Ready when the client closed its side.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ignored = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut ignored);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for Stalling {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.limited(context, polled)
    }

    /// Without it, the server would copy a page out of the [`Bytes`] that hold its permit.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Waits until the client closed its side too, because the kernel keeps unread bytes of a closed connection.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        let polled = self.poll_closed(context);
        self.limited(context, polled)
    }
}

impl Drop for Stalling {
    fn drop(&mut self) {
        let _ = self.stream.set_zero_linger();
    }
}

/// Marks the response that is a rewritten page.
#[derive(Clone)]
struct IsPage;

/// The permit to hold a project page in memory.
struct PagePermit {
    _of_session: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// A rewritten page; its permit lives as long as its bytes.
struct Page {
    text: Vec<u8>,
    _permit: PagePermit,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// The purpose of a request.
enum Requested {
    Page,
    File,
}

impl Shared {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let rest = path.strip_prefix('/').and_then(|p| {
            let (token, _) = p.split_once('/')?;
            same(token.as_bytes(), self.token.as_bytes()).then(|| &p[token.len()..])
        });
        let Some(rest) = rest else { return empty(StatusCode::NOT_FOUND) };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        let Some((url, requested)) = self.target(rest) else { return empty(StatusCode::NOT_FOUND) };
        self.forward(request.method(), request.headers(), url, &requested).await.unwrap_or_else(|(status, why)| {
            tracing::warn!(index = %self.index.url, %status, why, "a request of a build to the package index failed");
            text(status, why)
        })
    }

    /// The URL behind the path of a request, when it is one that this session forwards.
    fn target(&self, rest: &str) -> Option<(Url, Requested)> {
        let index = &self.index.url;
        let url = Url::parse(&format!("{}{rest}", index.origin().ascii_serialization())).ok()?;
        if url.origin() != index.origin() || !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        let project = url.path().strip_prefix(index.path().trim_end_matches('/')).and_then(|p| p.strip_prefix('/'));
        let project = project.map(|p| p.strip_suffix('/').unwrap_or(p));
        let is_page = url.query().is_none()
            && project.is_some_and(|p| {
                p.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            });
        if is_page {
            return Some((url, Requested::Page));
        }
        let mut file = url.clone();
        if let Some(path) = url.path().strip_suffix(METADATA) {
            file.set_path(path);
        }
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = links.contains(&url) || links.contains(&file);
        is_known.then_some((url, Requested::File))
    }

    async fn forward(
        self: &Arc<Self>,
        method: &Method,
        headers: &HeaderMap,
        mut url: Url,
        requested: &Requested,
    ) -> Result<Answer, (StatusCode, String)> {
        let broken = |why: String| (StatusCode::BAD_GATEWAY, why);
        for _ in 0..=REDIRECTS_MAX {
            let mut request =
                self.index.http.request(method.clone(), url.clone()).header(AUTHORIZATION, &self.index.authorization);
            match requested {
                Requested::Page => request = request.header(ACCEPT, PAGE_TYPES),
                Requested::File => {
                    for name in TO_INDEX {
                        if let Some(value) = headers.get(&name) {
                            request = request.header(name, value);
                        }
                    }
                }
            }
            let response = request.send().await.map_err(|error| broken(describe(&error)))?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
                let Some(next) = location.and_then(|l| plain(&url, l)) else {
                    return Err(broken("it redirects to nowhere".into()));
                };
                if next.origin() != self.index.url.origin() {
                    return Ok(elsewhere(&next));
                }
                url = next;
                continue;
            }
            if !status.is_success() {
                if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    tracing::warn!(index = %self.index.url, %status, "the package index rejects the credentials in index_url");
                }
                // The body of an index's error response is only for those who have its credentials.
                return Ok(empty(status));
            }
            return match requested {
                Requested::Page => self.page(method, response).await,
                Requested::File => Ok(file(response)),
            };
        }
        Err(broken(format!("it redirects more than {REDIRECTS_MAX} times")))
    }

    /// The page with links that lead through this session.
    async fn page(
        self: &Arc<Self>,
        method: &Method,
        response: reqwest::Response,
    ) -> Result<Answer, (StatusCode, String)> {
        let broken = |why: String| (StatusCode::BAD_GATEWAY, why);
        let media = response.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_html = media == "text/html" || media.ends_with("+html");
        if !is_html && !media.ends_with("json") {
            return Err(broken("a project page is neither HTML nor JSON".into()));
        }
        let media = HeaderValue::try_from(media).map_err(|_| broken("a project page has no valid type".to_owned()))?;
        let mut answer = if *method == Method::HEAD {
            empty(StatusCode::OK)
        } else {
            let permit = self.page_permit().await?;
            let base = response.url().clone();
            let text = body(response, PAGE_MAX_BYTES)
                .await
                .map_err(|why| broken(format!("a project page can't be read: {why}")))?;
            let shared = self.clone();
            let page = tokio::task::spawn_blocking(move || {
                let mut text = if is_html { shared.html(&base, &decoded(text)) } else { shared.json(&base, &text) }?;
                text.shrink_to_fit();
                Ok(Page { text: text.into_bytes(), _permit: permit })
            });
            let page = page.await.unwrap_or_else(|_| Err("a project page could not be rewritten".into()));
            let bytes = Bytes::from_owner(page.map_err(broken)?);
            let mut answer = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed());
            answer.extensions_mut().insert(IsPage);
            answer
        };
        answer.headers_mut().insert(CONTENT_TYPE, media);
        Ok(answer)
    }

    async fn page_permit(&self) -> Result<PagePermit, (StatusCode, String)> {
        let wait = self.stall_limit * PAGE_WAIT_STALL_LIMITS;
        // That of the session first: requests of one session take one place among those of all.
        let permits = async {
            let of_session = self.pages.clone().acquire_owned().await?;
            let of_all = self.index.pages.clone().acquire_owned().await?;
            Ok(PagePermit { _of_session: of_session, _of_all: of_all })
        };
        let busy = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
        match self.clock.timeout(wait, permits).await {
            Ok(permit) => permit.map_err(|_: tokio::sync::AcquireError| busy("the proxy ends".into())),
            Err(_) => Err(busy(format!(
                "other project pages are still being read (limits {SESSION_PAGES_AT_ONCE} per build and \
                 {PAGES_AT_ONCE} in all); gave up after {} s",
                wait.as_secs_f32()
            ))),
        }
    }

    fn json(&self, base: &Url, text: &[u8]) -> Result<String, String> {
        let mut out = Out::of(text.len());
        let mut page = serde_json::Deserializer::from_slice(text);
        let part = JsonPart { shared: self, base, out: &mut out, place: Place::Page };
        match part.deserialize(&mut page).and_then(|()| page.end()) {
            Ok(()) => Ok(out.text),
            Err(_) if out.is_full => Err(TOO_LONG.into()),
            Err(_) => Err("a project page is not valid JSON".into()),
        }
    }

    /// The page with another target for each `href` of an `<a>`. A target in a form that is not understood is removed.
    fn html(&self, page: &Url, text: &str) -> Result<String, String> {
        let mut base = page.clone();
        let mut out = Out::of(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('<') {
            let (before, tag) = rest.split_at(at);
            out.push(before)?;
            if let Some(comment) = tag.strip_prefix("<!--") {
                rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
                continue;
            }
            let end = tag_end(tag);
            let (tag, after) = tag.split_at(end);
            rest = after;
            let name = tag[1..].split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            if name.eq_ignore_ascii_case("base") {
                // Links become absolute, by this base.
                if let Some((_, href, _)) = href(tag)
                    && let Some(url) = plain(page, &unescaped(href))
                {
                    base = url;
                }
            } else if name.eq_ignore_ascii_case("a") {
                if let Some((head, href, tail)) = href(tag) {
                    out.push(head)?;
                    out.push("\"")?;
                    out.push(&escaped(&self.link(&base, &unescaped(href))))?;
                    out.push("\"")?;
                    out.push(tail)?;
                } else {
                    out.push("<a>")?;
                }
            } else {
                out.push(tag)?;
            }
        }
        out.push(rest)?;
        Ok(out.text)
    }

    /// The link of a page as the session's clients get it: through the session when it leads to the index's origin.
    fn link(&self, base: &Url, link: &str) -> String {
        let Some(mut url) = plain(base, link) else { return String::new() };
        if url.origin() != self.index.url.origin() {
            return url.into();
        }
        let through = format!("{}{}", self.root, &url[url::Position::BeforePath..]);
        url.set_fragment(None);
        let path = url.path().to_ascii_lowercase();
        if FILE_ENDINGS.iter().any(|ending| path.ends_with(ending)) {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.insert(&url);
        }
        through
    }
}

const TOO_LONG: &str = "a project page is too long once its links lead through the proxy (limit 32 MiB)";

/// A page that is being rewritten.
struct Out {
    text: String,
    is_full: bool,
}

impl Out {
    /// For a page of so many bytes.
    fn of(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes + bytes / 4), is_full: false }
    }

    fn push(&mut self, text: &str) -> Result<(), String> {
        if self.text.len() + text.len() > REWRITTEN_PAGE_MAX_BYTES {
            self.is_full = true;
            return Err(TOO_LONG.into());
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// Where a value is in a JSON page.
#[derive(Clone, Copy)]
enum Place {
    Page,
    Files,
    File,
    FileUrl,
    Elsewhere,
}

/// Copies a value of a JSON page, without a tree of the whole page: that would take many times the bytes of its text.
struct JsonPart<'a> {
    shared: &'a Shared,
    base: &'a Url,
    out: &'a mut Out,
    place: Place,
}

impl JsonPart<'_> {
    fn at(&mut self, place: Place) -> JsonPart<'_> {
        JsonPart { shared: self.shared, base: self.base, out: self.out, place }
    }

    fn push<E: de::Error>(&mut self, text: &str) -> Result<(), E> {
        self.out.push(text).map_err(E::custom)
    }

    fn push_string<E: de::Error>(&mut self, text: &str) -> Result<(), E> {
        self.push(&serde_json::to_string(text).map_err(E::custom)?)
    }
}

impl<'de> DeserializeSeed<'de> for JsonPart<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        if let Place::Elsewhere = self.place {
            return self.push(<&RawValue>::deserialize(deserializer)?.get());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonPart<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part of a project page")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut before = "{";
        while let Some(key) = map.next_key::<String>()? {
            self.push(before)?;
            self.push_string(&key)?;
            self.push(":")?;
            let place = match (self.place, key.as_str()) {
                (Place::Page, "files") => Place::Files,
                (Place::File, "url") => Place::FileUrl,
                (Place::Page | Place::File, _) => Place::Elsewhere,
                _ => return Err(de::Error::custom("an object at the wrong place")),
            };
            map.next_value_seed(self.at(place))?;
            before = ",";
        }
        self.push(if before == "{" { "{}" } else { "}" })
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> Result<(), A::Error> {
        let Place::Files = self.place else { return Err(de::Error::custom("a list at the wrong place")) };
        self.push("[")?;
        let mut end = self.out.text.len();
        while sequence.next_element_seed(self.at(Place::File))?.is_some() {
            end = self.out.text.len();
            self.push(",")?;
        }
        self.out.text.truncate(end);
        self.push("]")
    }

    fn visit_str<E: de::Error>(mut self, text: &str) -> Result<(), E> {
        let Place::FileUrl = self.place else { return Err(de::Error::custom("a text at the wrong place")) };
        let link = self.shared.link(self.base, text);
        self.push_string(&link)
    }
}

/// The text of an HTML page. Of one that is not UTF-8, ASCII remains.
fn decoded(mut text: Vec<u8>) -> String {
    if std::str::from_utf8(&text).is_err() {
        text.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
    }
    String::from_utf8(text).unwrap_or_default()
}

/// The absolute URL of a link, without credentials.
fn plain(base: &Url, link: &str) -> Option<Url> {
    if link.len() > LINK_MAX_BYTES {
        return None;
    }
    let mut url = base.join(link).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(url)
}

/// Where a tag ends: behind the first `>` outside of quotes.
fn tag_end(tag: &str) -> usize {
    let mut quote = None;
    for (at, c) in tag.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '>') => return at + 1,
            _ => {}
        }
    }
    tag.len()
}

/// A tag cut at the value of its `href`: what precedes the value with its quotes, the value, the rest.
fn href(tag: &str) -> Option<(&str, &str, &str)> {
    if tag.len() > LINK_MAX_BYTES {
        return None;
    }
    let lower = tag.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let at = from + lower[from..].find("href")?;
        from = at + 4;
        if !lower[..at].ends_with(|c: char| c.is_ascii_whitespace()) {
            continue;
        }
        let value = tag[from..].trim_start().strip_prefix('=')?.trim_start();
        let start = tag.len() - value.len();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let end = value[1..].find(quote)? + 1;
        return Some((&tag[..start], &value[1..end], &value[end + 1..]));
    }
}

const ENTITIES: [(&str, &str); 6] =
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#x27;", "'"), ("&amp;", "&")];

fn unescaped(text: &str) -> String {
    ENTITIES.iter().fold(text.to_owned(), |text, (entity, plain)| text.replace(entity, plain))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Whether two texts are the same, in a time that depends on the length alone.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer
}

/// A response of the proxy itself, for readers of the installer's output.
fn text(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn elsewhere(url: &Url) -> Answer {
    let mut answer = empty(StatusCode::FOUND);
    if let Ok(url) = HeaderValue::try_from(url.as_str()) {
        answer.headers_mut().insert(LOCATION, url);
    }
    answer
}

/// The response with its body passed on as it comes.
fn file(response: reqwest::Response) -> Answer {
    let status = response.status();
    let mut headers = HeaderMap::new();
    for name in FROM_INDEX {
        if let Some(value) = response.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let body = Response::<reqwest::Body>::from(response).into_body();
    let mut answer = Response::new(body.boxed());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}
