//! Counts and times of requests, and the page that a scraper reads.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use model::Problem;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{Api, error::Answer};

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
/// Every series of the service, as OpenMetrics text.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses((
        status = 200,
        description = "The series.",
        body = String,
        content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8",
    ))
)]
pub(crate) async fn prometheus(State(api): State<Arc<Api>>) -> Answer<Response> {
    let mut text = String::new();
    let registry = api.registry.lock().unwrap_or_else(PoisonError::into_inner);
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(|_| Problem::internal("The metrics were not written.", "One of them can't be told as text."))?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}
