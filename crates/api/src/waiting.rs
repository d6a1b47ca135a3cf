//! Responses before the first connection to the database.

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};
use model::{Problem, problem::Code};
use serde_json::json;

use crate::{error::ApiError, probes};

/// Serves the probes, and rejects all other requests with 503.
pub fn router() -> Router {
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(not_ready))
        .route("/data-jobs/debug/health", get(not_ready))
        .route("/data-jobs/debug/health/liveness", get(probes::livez))
        .route("/data-jobs/debug/health/readiness", get(not_ready))
        .fallback(unavailable)
}

async fn not_ready() -> impl IntoResponse {
    let database = json!({ "status": "DOWN", "reason": "it was not reached since the start of the service" });
    let service = json!({ "status": "DOWN", "reason": "it waits for its database" });
    let body = json!({ "status": "DOWN", "components": { "database": database, "service": service } });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body))
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
