//! The properties of a job. The deployment in the path has no meaning: the client sends the word TODO.

use std::sync::Arc;

use app::JsonObject;
use axum::{Json, extract::State, http::StatusCode};

use super::PartPath;
use crate::{
    Api,
    caller::RequestCaller,
    error::ApiResult,
    input::{JsonBody, Path},
};

/// Reads the properties of a job.
///
/// An unknown job has no properties, and its name is not validated, because jobs on a developer's machine read properties too. The
/// deployment in the path has no meaning.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Properties",
    responses((
        status = 200, description = "The properties, by name; each value is any JSON.", body = Object,
        example = json!({"last_day": "2024-03-09", "rows": 120}),
    ))
)]
pub(crate) async fn data_job_properties_read(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, _)): PartPath,
) -> ApiResult<Json<JsonObject>> {
    Ok(Json(app::properties::read(&api.db, &caller, &team, &name).await?))
}

/// Replaces the properties of a job.
///
/// Properties that the body omits are deleted. The limit is 1 MiB (1048576 bytes) of JSON; numbers are kept digit by digit. The
/// deployment in the path has no meaning.
#[utoipa::path(
    put,
    path = "",
    tag = "Data Jobs Properties",
    request_body(
        content = Object, description = "The properties, by name; each value is any JSON.",
        example = json!({"last_day": "2024-03-09", "rows": 120}),
    ),
    responses(
        (status = 204, description = "The properties were stored."),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn data_job_properties_update(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, _)): PartPath,
    JsonBody(properties): JsonBody<JsonObject>,
) -> ApiResult<StatusCode> {
    app::properties::replace(&api.db, &*api.clock, &caller, &team, &name, &properties).await?;
    Ok(StatusCode::NO_CONTENT)
}
