//! The secrets of a job. The deployment in the address means nothing: the client sends the word TODO.

use std::sync::Arc;

use app::JsonObject;
use axum::{Json, extract::State, http::StatusCode};

use super::PartPath;
use crate::{
    Api,
    caller::By,
    error::Answer,
    input::{JsonBody, Path},
};

/// The secrets of a job; an unknown job has none.
pub(crate) async fn data_job_secrets_read(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, _)): PartPath,
) -> Answer<Json<JsonObject>> {
    Ok(Json(app::secrets::read(&api.db, &api.keys, &caller, &team, &name).await?))
}

/// Replaces the secrets of a job: 202.
pub(crate) async fn data_job_secrets_update(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, _)): PartPath,
    JsonBody(secrets): JsonBody<JsonObject>,
) -> Answer<StatusCode> {
    app::secrets::replace(&api.db, &api.keys, &*api.clock, &caller, &team, &name, &secrets).await?;
    Ok(StatusCode::ACCEPTED)
}
