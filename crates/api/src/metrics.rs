//! Counts and times of requests, and the page that a scraper reads.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures::stream;
use model::Problem;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    Api,
    error::Answer,
    exposition::{Format, Page},
};

/// Where the page is.
pub(crate) const METRICS_PATH: &str = "/data-jobs/debug/prometheus";

/// Upper bounds of the buckets, in seconds.
const BUCKETS_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0];

/// How long a piece of the page is.
const CHUNK_BYTES: usize = 64 * 1024;

/// How many pieces wait for who reads slowly.
const CHUNKS_WAITING: usize = 4;

/// How long a page may take, for whoever reads it slowly: a thread waits meanwhile.
const PAGE_MAX: Duration = Duration::from_secs(60);

/// The methods that are counted by their name; any other counts as "other".
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

/// What is counted of requests. The count of a histogram is the count of its requests.
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

    pub(crate) fn observe(&self, method: &str, route: &str, status: u16, latency: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        let labels = RequestLabels { method, route: route.to_owned(), status };
        self.duration.get_or_create(&labels).observe(latency.as_secs_f64());
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
        (status = 404, description = "Metrics are switched off."),
    )
)]
pub(crate) async fn prometheus(State(api): State<Arc<Api>>, headers: HeaderMap) -> Answer<Response> {
    let Some(registry) = api.registry.clone() else {
        return Err(
            Problem::not_found("There are no metrics.", "The operator switched them off (metrics_enabled).").into()
        );
    };
    let format = Format::wanted(&headers);
    let (sender, sent) = mpsc::channel(CHUNKS_WAITING);
    let is_whole = Arc::new(AtomicBool::new(false));
    let (runtime, end) = (Handle::current(), Arc::clone(&is_whole));
    // With thousands of jobs it takes a while, in which requests are served, and the text is too long to keep.
    tokio::task::spawn_blocking(move || {
        let until = Instant::now() + PAGE_MAX;
        let mut page = Page::new(format, Chunks { text: String::new(), until, runtime, sender });
        let told = text::encode(&mut page, &registry).and_then(|()| page.finish());
        // The end is noted before the sender goes, and with it the stream.
        if told.and_then(|mut chunks| chunks.send().inspect(|()| end.store(true, Ordering::Release))).is_err() {
            tracing::debug!("a scrape was broken off");
        }
    });
    let body = Body::from_stream(stream::unfold(Some(sent), move |sent| {
        let is_whole = Arc::clone(&is_whole);
        async move {
            let mut sent = sent?;
            match sent.recv().await {
                Some(chunk) => Some((Ok(chunk), Some(sent))),
                None if is_whole.load(Ordering::Acquire) => None,
                // So that nobody takes a part of it for all.
                None => Some((Err(std::io::Error::other("the page of metrics was broken off")), None)),
            }
        }
    }));
    Ok(([(CONTENT_TYPE, format.media_type())], body).into_response())
}

/// Sends a page off in pieces.
struct Chunks {
    text: String,
    until: Instant,
    runtime: Handle,
    sender: mpsc::Sender<Bytes>,
}

impl Chunks {
    fn send(&mut self) -> fmt::Result {
        let chunk = Bytes::from(std::mem::take(&mut self.text));
        // A timer needs the runtime from its making on.
        let sent = self.runtime.block_on(async { timeout_at(self.until, self.sender.send(chunk)).await });
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(fmt::Error) }
    }
}

impl fmt::Write for Chunks {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.push_str(text);
        if self.text.len() >= CHUNK_BYTES { self.send() } else { Ok(()) }
    }
}
