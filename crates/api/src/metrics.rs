//! Counts and times of requests, and the page that a scraper reads.
//!
//! The library encodes a metric under its lock, and every request takes that lock to be counted. So a page is rendered into
//! memory first, and sent when no lock is held: one rendering at a time, which all readers of the next second share.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use app::memory::{MemoryBudget, Reservation};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{
        HeaderMap, HeaderValue,
        header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::stream;
use model::{Problem, clock::SharedClock, problem::Code};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    Api, caller,
    error::{self, ApiError, ApiResult},
    exposition::{Format, Page},
    guard,
    limits::Shared,
    paths::METRICS_PATH,
};

/// Upper bounds of the buckets, in seconds.
const BUCKETS_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0];

/// How long a piece of the page is.
const PIECE_BYTES: usize = 64 * 1024;

/// How long a page is shown before another one is rendered.
const PAGE_SHARED: Duration = Duration::from_secs(1);

/// The most pages in memory at once. While slow readers hold that many, others get the newest one, however old it is.
const PAGES_MAX: usize = 4;

/// The methods that are counted by their name; any other counts as "other".
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

/// The metrics of requests. The count of a histogram is the number of its requests.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    duration: Family<RequestLabels, Histogram, fn() -> Histogram>,
}

impl HttpMetrics {
    /// Adds the series of requests to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS_SECONDS);
        let duration = Family::new_with_constructor(histogram);
        registry.register_with_unit(
            "holdfast_http_request_duration",
            "How long requests took, by method, route and status",
            Unit::Seconds,
            duration.clone(),
        );
        Self { duration }
    }

    /// Counts a request by the route that it matched.
    pub fn observe(&self, method: &str, route: &str, status: u16, latency: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        let labels = RequestLabels { method, route: route.to_owned(), status };
        self.duration.get_or_create(&labels).observe(latency.as_secs_f64());
    }
}

/// Where the metrics endpoint is, and who may read it.
#[derive(Debug, Default)]
pub struct MetricsAccess {
    /// Whether the endpoint has a listener of its own ([`crate::metrics_router`]) and is not on the main one.
    pub has_own_listener: bool,
    /// The bearer token that a scraper needs; absent when none is asked for.
    pub token: Option<MetricsToken>,
}

impl MetricsAccess {
    /// Whether the endpoint is out of the reach of those who reach the API. Mail addresses are shown only then.
    pub fn is_restricted(&self) -> bool {
        self.has_own_listener || self.token.is_some()
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(token) = &self.token else { return Ok(()) };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let bearer = given.next().filter(|_| given.next().is_none()).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        if bearer.is_some_and(|given| token.is(given)) {
            return Ok(());
        }
        Err(Problem::new(
            Code::MetricsTokenInvalid,
            "The metrics were not shown.",
            "The request has no valid metrics token.",
        )
        .nothing_returned()
        .fix("Have the scraper send the token of `metrics_token_file` as \"Authorization: Bearer <token>\"."))
    }
}

/// The bearer token of scrapers. Only its hash is kept.
pub struct MetricsToken([u8; 32]);

impl MetricsToken {
    /// Keeps a token.
    pub fn new(token: &SecretString) -> Self {
        Self(Sha256::digest(token.expose_secret().as_bytes()).into())
    }

    /// Compares in constant time: equal hashes, whatever the length of what is given.
    fn is(&self, given: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        self.0.iter().zip(given).fold(0, |different, (ours, given)| different | (ours ^ given)) == 0
    }
}

impl fmt::Debug for MetricsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsToken")
    }
}

/// The page of a registry, rendered at most once a second.
#[derive(Debug)]
pub struct MetricsPage {
    registry: Arc<Registry>,
    /// Locked while a page is rendered: one at a time.
    latest: Arc<AsyncMutex<Vec<Rendered>>>,
    /// Every page that is in memory: shown now, or still being read.
    alive: Arc<Mutex<Vec<Weak<Pieces>>>>,
    memory: MemoryBudget,
    shared: Duration,
    clock: SharedClock,
}

/// A page in memory.
#[derive(Debug, Clone)]
struct Rendered {
    format: Format,
    /// When it was rendered, on the boot clock.
    at: Duration,
    pieces: Arc<Pieces>,
}

#[derive(Debug)]
struct Pieces {
    list: Vec<Bytes>,
    bytes: usize,
    /// Of the memory budget, as far as the requests in progress leave it: a scrape is answered under any load, and the
    /// number of pages is limited on its own.
    _reserved: Reservation,
}

impl MetricsPage {
    /// The page of this registry, whose memory counts on `memory`.
    pub fn new(registry: Arc<Registry>, memory: MemoryBudget, clock: SharedClock) -> Self {
        Self { registry, latest: Arc::default(), alive: Arc::default(), memory, shared: PAGE_SHARED, clock }
    }

    /// The newest page of this format, rendered now unless that was done within the last second.
    async fn rendered(&self, format: Format) -> Result<Arc<Pieces>, Problem> {
        let mut latest = Arc::clone(&self.latest).lock_owned().await;
        let known = latest.iter().position(|page| page.format == format);
        if let Some(page) = known.map(|at| &latest[at])
            && self.clock.boot().saturating_sub(page.at) < self.shared
        {
            return Ok(Arc::clone(&page.pieces));
        }
        if let Some(known) = known {
            let Rendered { at, pieces, .. } = latest.swap_remove(known);
            let newest = Arc::downgrade(&pieces);
            // Its memory is free for the next page, unless it is still being read.
            drop(pieces);
            if self.alive() >= PAGES_MAX
                && let Some(pieces) = newest.upgrade()
            {
                latest.push(Rendered { format, at, pieces: Arc::clone(&pieces) });
                return Ok(pieces);
            }
        }
        let (registry, reservation) = (Arc::clone(&self.registry), self.memory.reservation());
        let (alive, clock) = (Arc::clone(&self.alive), Arc::clone(&self.clock));
        // With thousands of jobs it takes a while, in which requests are served. The lock goes along: a reader that leaves
        // meanwhile does not let another rendering begin.
        let rendering = tokio::task::spawn_blocking(move || {
            let mut page =
                Page::new(format, Writer { piece: String::new(), pieces: Vec::new(), bytes: 0, reservation });
            text::encode(&mut page, &registry)?;
            let pieces = Arc::new(page.finish()?.finish());
            alive.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pieces));
            latest.push(Rendered { format, at: clock.boot(), pieces: Arc::clone(&pieces) });
            Ok::<_, fmt::Error>(pieces)
        });
        match rendering.await {
            Ok(Ok(pieces)) => Ok(pieces),
            _ => Err(Problem::new(
                Code::MetricsFailed,
                "The metrics were not shown.",
                "Rendering them failed unexpectedly.",
            )
            .nothing_returned()
            .fix("Scrape again; the operator finds the details in the log.")),
        }
    }

    /// How many pages are in memory.
    fn alive(&self) -> usize {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|pieces| pieces.strong_count() > 0);
        alive.len()
    }
}

/// Metrics for a scraper.
///
/// Every series of the service, as OpenMetrics text where a scraper asks for it, and as the text that all of them read
/// otherwise.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses(
        (
            status = 200,
            description = "The series.",
            content(
                (String = "text/plain"),
                (String = "application/openmetrics-text"),
            ),
        ),
        (status = 401, description = "The scraper needs the metrics token."),
        (status = 404, description = "Metrics are switched off, or have a listener of their own."),
    )
)]
pub(crate) async fn prometheus(state: State<Arc<Api>>, headers: HeaderMap) -> ApiResult<Response> {
    if state.0.metrics_access.has_own_listener {
        return Err(Problem::new(
            Code::MetricsOnOtherListener,
            "There are no metrics at this address.",
            "Metrics have a listener of their own.",
        )
        .nothing_returned()
        .fix("Scrape the address of the setting `metrics_listen`.")
        .into());
    }
    scrape(state, headers).await
}

/// The page, on whichever listener it is.
pub(crate) async fn scrape(State(api): State<Arc<Api>>, headers: HeaderMap) -> ApiResult<Response> {
    if let Err(problem) = api.metrics_access.check(&headers) {
        let mut response = ApiError::from(problem).into_response();
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"holdfast-metrics\""));
        return Ok(response);
    }
    let Some(page) = &api.metrics_page else {
        return Err(Problem::new(Code::MetricsDisabled, "There are no metrics.", "Metrics are switched off.")
            .nothing_returned()
            .fix("Set `metrics_enabled = true` and restart the service.")
            .into());
    };
    let format = Format::negotiated(&headers);
    let page = page.rendered(format).await?;
    let length = page.bytes;
    let pieces = stream::unfold((page, 0), async |(page, at)| {
        let piece = page.list.get(at)?.clone();
        Some((Ok::<_, std::convert::Infallible>(piece), (page, at + 1)))
    });
    let mut response = ([(CONTENT_TYPE, format.media_type())], Body::from_stream(pieces)).into_response();
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response.extensions_mut().insert(Shared);
    Ok(response)
}

/// A router with only the metrics endpoint, which serves the listener of `metrics_listen`.
pub fn router(api: Arc<Api>) -> Router {
    let marks = Arc::default();
    Router::new()
        .route(METRICS_PATH, get(scrape))
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(middleware::from_fn_with_state((Arc::clone(&api), marks), guard::guard))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), caller::identify))
        .with_state(api)
}

/// Keeps a page in pieces, so that no buffer of its whole length has to grow.
struct Writer {
    piece: String,
    pieces: Vec<Bytes>,
    bytes: usize,
    reservation: Reservation,
}

impl Writer {
    fn end_piece(&mut self) {
        if !self.piece.is_empty() {
            let piece = Bytes::from(std::mem::take(&mut self.piece));
            self.bytes += piece.len();
            let _ = self.reservation.grow(piece.len());
            self.pieces.push(piece);
        }
    }

    fn finish(mut self) -> Pieces {
        self.end_piece();
        Pieces { list: self.pieces, bytes: self.bytes, _reserved: self.reservation }
    }
}

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.piece.len() + text.len() > PIECE_BYTES {
            self.end_piece();
        }
        if self.piece.capacity() == 0 {
            self.piece.reserve_exact(PIECE_BYTES.max(text.len()));
        }
        self.piece.push_str(text);
        Ok(())
    }
}
