//! A loopback proxy to the package index, which adds the index's credentials.
//!
//! Build hooks are foreign code, and the installer that runs them needs packages. So the installer gets the URL of a
//! session of this proxy: a random port of 127.0.0.1 and a random token in the path, valid while the session lives.
//! Whoever holds the URL gets packages, never the credentials.
//!
//! The proxy is no authenticated client for everything on the index's host: an index is often one API among others
//! there, some of which return a token or private sources to whoever sends these credentials. A session forwards only
//! - project pages, `<index>/<project>/`, and
//! - files to which such a page linked during the session, with their `.metadata`.
//!
//! Links to other hosts stay as they are, and a redirect to another origin is left to the installer: credentials go to
//! the index's own origin alone.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
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
use reqwest::{Client, NoProxy, Proxy, Url, redirect::Policy};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use crate::http::{body, told};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the index may stay silent within a response. The installer's own time limit ends a session.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client of the proxy may take to send the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections per session.
const CONNECTIONS_MAX: usize = 64;
/// Project pages that are held in memory at once, over all sessions.
const PAGES_AT_ONCE: usize = 2;
const PAGE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Links that a session keeps; files behind later ones are not forwarded.
const LINKS_MAX: usize = 200_000;
const REDIRECTS_MAX: usize = 5;
/// Bytes of a request's headers.
const HEADERS_MAX_BYTES: usize = 16 * 1024;

/// What a project page may come as, the cheapest to rewrite first.
const PAGE_TYPES: &str =
    "application/vnd.pypi.simple.v1+html, text/html;q=0.9, application/vnd.pypi.simple.v1+json;q=0.5";
/// What the name of a package file ends with.
const FILE_ENDINGS: [&str; 6] = [".whl", ".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz"];
/// Ends the name of the file that holds a wheel's metadata (PEP 658).
const METADATA: &str = ".metadata";
const TO_INDEX: [HeaderName; 2] = [RANGE, IF_RANGE];
const FROM_INDEX: [HeaderName; 4] = [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_RANGE, ACCEPT_RANGES];

type Answer = Response<BoxBody<Bytes, reqwest::Error>>;

/// A package index with credentials.
pub struct IndexProxy(Arc<Index>);

struct Index {
    http: Client,
    /// Without credentials, and without a slash at its end.
    url: Url,
    authorization: HeaderValue,
    pages: Semaphore,
}

/// Without the credentials.
impl std::fmt::Debug for IndexProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexProxy").field("url", &self.0.url.as_str()).finish_non_exhaustive()
    }
}

impl IndexProxy {
    /// The proxy to the index at `url`; none where no proxy is needed, because the URL has no credentials.
    ///
    /// `environment` names the proxies on the way to the index (`HTTPS_PROXY` and its relatives). Certificates are the
    /// machine's, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` of this process name.
    ///
    /// # Errors
    /// When a proxy in `environment` can't be used. The message contains no secret.
    pub fn of(url: &str, environment: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
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
        Ok(Some(Self(Arc::new(Index { http, url, authorization, pages: Semaphore::new(PAGES_AT_ONCE) }))))
    }

    /// Opens a session. `token` is random and secret: it is the right to use the session.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn open(&self, token: &str) -> io::Result<Session> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let root = format!("http://{}/{token}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            index: self.0.clone(),
            token: token.to_owned(),
            root: root.clone(),
            links: Mutex::default(),
        });
        let path = self.0.url.path().trim_end_matches('/');
        let origin = self.0.url.origin().ascii_serialization();
        let session = Session {
            index_url: format!("{root}{path}"),
            root,
            origin,
            serving: tokio::spawn(serve(listener, shared)).abort_handle(),
        };
        Ok(session)
    }
}

/// Makes a proxy of a URL.
type Make = fn(&str) -> reqwest::Result<Proxy>;

/// A client that follows nobody elsewhere, by the proxies of the environment that it is given.
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
    token: String,
    /// The URL that stands for the index's origin: `http://127.0.0.1:<port>/<token>`.
    root: String,
    /// The files that pages linked to.
    links: Mutex<HashSet<String>>,
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
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(HEADERS_MAX_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection to the proxy of the package index broke off");
            }
            drop(place);
        });
    }
}

/// What a request is for.
enum Wanted {
    Page,
    File,
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let rest = path.strip_prefix('/').and_then(|p| {
            let (token, _) = p.split_once('/')?;
            same(token.as_bytes(), self.token.as_bytes()).then(|| &p[token.len()..])
        });
        let Some(rest) = rest else { return empty(StatusCode::NOT_FOUND) };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        let Some((url, wanted)) = self.target(rest) else { return empty(StatusCode::NOT_FOUND) };
        self.forward(request.method(), request.headers(), url, &wanted).await.unwrap_or_else(|(status, why)| {
            tracing::warn!(index = %self.index.url, why, "the package index did not answer as it should");
            empty(status)
        })
    }

    /// The URL behind the path of a request, when it is one that this session forwards.
    fn target(&self, rest: &str) -> Option<(Url, Wanted)> {
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
            return Some((url, Wanted::Page));
        }
        let mut file = url.clone();
        if let Some(path) = url.path().strip_suffix(METADATA) {
            file.set_path(path);
        }
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = links.contains(url.as_str()) || links.contains(file.as_str());
        is_known.then_some((url, Wanted::File))
    }

    async fn forward(
        &self,
        method: &Method,
        headers: &HeaderMap,
        mut url: Url,
        wanted: &Wanted,
    ) -> Result<Answer, (StatusCode, String)> {
        let broken = |why: String| (StatusCode::BAD_GATEWAY, why);
        for _ in 0..=REDIRECTS_MAX {
            let mut request =
                self.index.http.request(method.clone(), url.clone()).header(AUTHORIZATION, &self.index.authorization);
            match wanted {
                Wanted::Page => request = request.header(ACCEPT, PAGE_TYPES),
                Wanted::File => {
                    for name in TO_INDEX {
                        if let Some(value) = headers.get(&name) {
                            request = request.header(name, value);
                        }
                    }
                }
            }
            let response = request.send().await.map_err(|error| broken(told(&error)))?;
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
                    tracing::warn!(index = %self.index.url, %status, "the package index refuses the credentials in index_url");
                }
                // What an index says beside the status is for whoever has its credentials.
                return Ok(empty(status));
            }
            return match wanted {
                Wanted::Page => self.page(method, response).await.map_err(broken),
                Wanted::File => Ok(file(response)),
            };
        }
        Err(broken(format!("it redirects more than {REDIRECTS_MAX} times")))
    }

    /// The page with links that lead through this session.
    async fn page(&self, method: &Method, response: reqwest::Response) -> Result<Answer, String> {
        let media = response.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_html = media == "text/html" || media.ends_with("+html");
        if !is_html && !media.ends_with("json") {
            return Err("a project page is neither HTML nor JSON".into());
        }
        let media = HeaderValue::try_from(media).map_err(|_| "a project page has no valid type".to_owned())?;
        let mut answer = if *method == Method::HEAD {
            empty(StatusCode::OK)
        } else {
            let _turn = self.index.pages.acquire().await.map_err(|_| "the proxy ends".to_owned())?;
            let base = response.url().clone();
            let text = body(response, PAGE_MAX_BYTES).await?;
            let rewritten = if is_html {
                self.html(&base, &String::from_utf8_lossy(&text)).into_bytes()
            } else {
                self.json(&base, &text)?
            };
            Response::new(Full::new(Bytes::from(rewritten)).map_err(|never| match never {}).boxed())
        };
        answer.headers_mut().insert(CONTENT_TYPE, media);
        Ok(answer)
    }

    fn json(&self, base: &Url, text: &[u8]) -> Result<Vec<u8>, String> {
        let mut page: Value =
            serde_json::from_slice(text).map_err(|_| "a project page is not valid JSON".to_owned())?;
        for file in page.get_mut("files").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(Value::String(url)) = file.get_mut("url") {
                *url = self.link(base, url);
            }
        }
        serde_json::to_vec(&page).map_err(|_| "a project page could not be written".to_owned())
    }

    /// The page with another target for each `href` of an `<a>`. A target in a form that is not understood is removed.
    fn html(&self, page: &Url, text: &str) -> String {
        let mut base = page.clone();
        let mut out = String::with_capacity(text.len() + text.len() / 4);
        let mut rest = text;
        while let Some(at) = rest.find('<') {
            let (before, tag) = rest.split_at(at);
            out.push_str(before);
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
                    out.push_str(head);
                    out.push('"');
                    out.push_str(&escaped(&self.link(&base, &unescaped(href))));
                    out.push('"');
                    out.push_str(tail);
                } else {
                    out.push_str("<a>");
                }
            } else {
                out.push_str(tag);
            }
        }
        out.push_str(rest);
        out
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
            if links.len() < LINKS_MAX {
                links.insert(url.into());
            }
        }
        through
    }
}

/// The absolute URL of a link, without credentials.
fn plain(base: &Url, link: &str) -> Option<Url> {
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
