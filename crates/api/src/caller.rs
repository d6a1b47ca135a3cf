//! Who asks, and under which operation id: the outermost layer, which every response passes.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, header, request::Parts},
    middleware::Next,
    response::Response,
};
use model::access::Caller;
use tracing::Instrument;

use crate::{Api, error::Failure, terms::Unreadable};

/// The header that ties a request, its log lines and what it caused together.
const OP_ID: HeaderName = HeaderName::from_static("x-opid");

/// The longest operation id that is taken from a request.
const OP_ID_MAX_CHARS: usize = 100;

/// The route of requests that no route matched, in logs and metrics: addresses themselves would be without end.
const NO_ROUTE: &str = "none";

/// The caller of an operation.
pub(crate) struct By(pub(crate) Caller);

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        if let Some(Unreadable(problem)) = parts.extensions.remove() {
            return Err(problem.into());
        }
        let caller = parts.extensions.get::<Caller>().cloned();
        Ok(Self(caller.unwrap_or_else(|| Caller::anonymous(""))))
    }
}

/// Gives the request its operation id, follows it in the log and in metrics, and gives the id back.
pub(crate) async fn identify(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(OP_ID).and_then(|value| value.to_str().ok());
    let op_id = match given.map(str::trim).filter(|id| is_op_id(id)) {
        Some(id) => id.to_owned(),
        None => api.clock.new_id().simple().to_string(),
    };
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
    request.extensions_mut().insert(Caller::anonymous(op_id.clone()));

    let span = tracing::info_span!("request", op_id, %method, route);
    let start = tokio::time::Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, latency) = (response.status(), start.elapsed());
    span.in_scope(|| {
        let latency_ms = latency.as_secs_f64() * 1000.0;
        tracing::debug!(status = status.as_u16(), latency_ms, "answered");
    });
    api.metrics.observe(method.as_str(), &route, status.as_u16(), latency);

    let headers = response.headers_mut();
    headers.insert(OP_ID, HeaderValue::from_str(&op_id).expect("an operation id is printable ASCII"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn is_op_id(id: &str) -> bool {
    (1..=OP_ID_MAX_CHARS).contains(&id.len()) && id.bytes().all(|b| (b' '..=b'~').contains(&b))
}
