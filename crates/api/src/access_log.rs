//! The access log: a line per request, without its query, which may hold a secret.

use std::time::Duration;

use axum::{extract::Request, response::Response};
use hyper::body::Body as _;

/// The target of the lines.
const TARGET: &str = "access";

/// The longest path in a line.
const PATH_MAX_CHARS: usize = 500;

/// Probes arrive every few seconds, and get no line.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/data-jobs/debug/health"];

/// The name of an authenticated caller, which authentication adds to the response.
#[derive(Debug, Clone)]
pub(crate) struct KnownUser(pub(crate) String);

/// The path of a request that gets a line.
pub(crate) struct Logged(String);

impl Logged {
    /// The line of this request, unless it is a probe.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        let path = request.uri().path();
        let is_probe = PROBES.iter().any(|probe| path.starts_with(probe));
        (!is_probe).then(|| Self(path.chars().take(PATH_MAX_CHARS).collect()))
    }

    /// Writes the line. Operation id, method and route are in the span of the request.
    pub(crate) fn write(&self, response: &Response, latency: Duration) {
        let user = response.extensions().get::<KnownUser>().map_or("", |KnownUser(name)| name.as_str());
        tracing::info!(
            target: TARGET,
            status = response.status().as_u16(),
            latency_ms = latency.as_secs_f64() * 1000.0,
            path = self.0,
            user,
            bytes = response.body().size_hint().exact(),
            "request"
        );
    }
}
