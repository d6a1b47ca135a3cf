//! Responses before the first connection to the database.

use std::sync::Arc;

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use model::{Problem, problem::Code};
use serde_json::json;

use crate::{
    error::ApiError,
    page::{PAGE_PATH, WebPage, is_browser, waiting_routes},
    probes,
};

/// Serves the probes and the web page, and rejects all other requests with 503.
pub fn router(page: Arc<WebPage>) -> Router {
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(not_ready))
        .route("/data-jobs/debug/health", get(not_ready))
        .route("/data-jobs/debug/health/liveness", get(probes::livez))
        .route("/data-jobs/debug/health/readiness", get(not_ready))
        .route("/", get(home))
        .merge(waiting_routes(page))
        .fallback(unavailable)
}

async fn not_ready() -> impl IntoResponse {
    let database = json!({ "status": "DOWN", "reason": "it was not reached since the start of the service" });
    let service = json!({ "status": "DOWN", "reason": "it waits for its database" });
    let body = json!({ "status": "DOWN", "components": { "database": database, "service": service } });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body))
}

async fn home(headers: HeaderMap) -> Response {
    if is_browser(&headers) {
        return Redirect::temporary(PAGE_PATH).into_response();
    }
    unavailable().await.into_response()
}

async fn unavailable() -> ApiError {
    Problem::new(
        Code::ServiceStarting,
        "The request was rejected.",
        "The service is starting and waits for its database.",
    )
    .nothing_changed()
    .fix("Retry in a few seconds; `GET /readyz` reports when the service is ready.")
    .into()
}
