//! The properties of a job. The deployment in the address means nothing: the client sends the word TODO.

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

/// The properties of a job; an unknown job has none.
pub(crate) async fn data_job_properties_read(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, _)): PartPath,
) -> Answer<Json<JsonObject>> {
    Ok(Json(app::properties::read(&api.db, &caller, &team, &name).await?))
}

/// Replaces the properties of a job: 204.
pub(crate) async fn data_job_properties_update(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, _)): PartPath,
    JsonBody(properties): JsonBody<JsonObject>,
) -> Answer<StatusCode> {
    app::properties::replace(&api.db, &*api.clock, &caller, &team, &name, &properties).await?;
    Ok(StatusCode::NO_CONTENT)
}
