//! The caller and the operation id of a request: the outermost layer, which every response passes.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, header, request::Parts},
    middleware::Next,
    response::Response,
};
use model::{Problem, access::Caller, problem::Code};
use tracing::Instrument;

use crate::{
    Api,
    access_log::Logged,
    error::{ApiError, Unrouted},
    preconditions::Unreadable,
};

/// The header that ties a request, its log lines and what it caused together.
const OP_ID: HeaderName = HeaderName::from_static("x-opid");

/// The longest operation id that is taken from a request.
const OP_ID_MAX_CHARS: usize = 100;

/// The route of requests that no route matched, in logs and metrics: addresses themselves would be without end.
const NO_ROUTE: &str = "none";

/// The caller of an operation.
pub(crate) struct RequestCaller(pub(crate) Caller);

impl<S: Sync> FromRequestParts<S> for RequestCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        if let Some(Unreadable(problem)) = parts.extensions.remove() {
            return Err(problem.into());
        }
        // Every request has a caller; without one no permission can be decided.
        let caller = parts.extensions.get::<Caller>().cloned().ok_or_else(|| {
            Problem::new(
                Code::CallerUnresolved,
                "The request failed.",
                "The service did not determine who sent it: this is a bug in Holdfast.",
            )
            .nothing_changed()
            .fix("The operator finds the details in the log under this operation id.")
        })?;
        Ok(Self(caller))
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
    request.extensions_mut().insert(first_caller(&op_id));

    let logged = if api.access_log { Logged::of(&request) } else { None };

    let span = tracing::info_span!("request", op_id, %method, route);
    let start = api.clock.boot();
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, latency) = (response.status(), api.clock.boot().saturating_sub(start));
    span.in_scope(|| {
        let latency_ms = latency.as_secs_f64() * 1000.0;
        tracing::debug!(status = status.as_u16(), latency_ms, "answered");
        if let Some(logged) = &logged {
            logged.write(&response, latency);
        }
    });
    let counted = if response.extensions().get::<Unrouted>().is_some() { NO_ROUTE } else { &route };
    api.metrics.observe(method.as_str(), counted, status.as_u16(), latency);

    let headers = response.headers_mut();
    headers.insert(OP_ID, HeaderValue::from_str(&op_id).expect("an operation id is printable ASCII"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The caller of a request until authentication has identified one.
fn first_caller(op_id: &str) -> Caller {
    Caller::unauthenticated(op_id)
}

fn is_op_id(id: &str) -> bool {
    (1..=OP_ID_MAX_CHARS).contains(&id.len()) && id.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests {
    use axum::{Extension, Router, body::Body, http::StatusCode, routing::get};
    use model::access::Identity;
    use tower::ServiceExt;

    use super::*;

    async fn asked(router: Router) -> StatusCode {
        router.oneshot(Request::new(Body::empty())).await.unwrap().status()
    }

    #[tokio::test]
    async fn a_handler_without_a_caller_fails_and_a_request_begins_unauthenticated() {
        let handler =
            async |RequestCaller(caller): RequestCaller| assert_eq!(caller.identity, Identity::Unauthenticated);
        assert_eq!(asked(Router::new().route("/", get(handler))).await, StatusCode::INTERNAL_SERVER_ERROR);
        let identified = Router::new().route("/", get(handler)).layer(Extension(first_caller("op")));
        assert_eq!(asked(identified).await, StatusCode::OK);
    }
}
