//! Counts and times of requests, and the page that a scraper reads.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::{
    extract::State,
    http::{HeaderMap, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use model::Problem;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{Api, error::Answer, exposition::Format};

/// Where the page is.
pub(crate) const METRICS_PATH: &str = "/data-jobs/debug/prometheus";

/// Upper bounds of the buckets, in seconds.
const BUCKETS_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0];

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
    let unsaid = || Problem::internal("The metrics were not written.", "One of them can't be told as text.");
    // With thousands of jobs it takes a while, in which requests are served.
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry).map(|()| format.page(&text))
    })
    .await
    .map_err(|_| unsaid())?
    .map_err(|_| unsaid())?;
    Ok(([(CONTENT_TYPE, format.media_type())], text).into_response())
}
