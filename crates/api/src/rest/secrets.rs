//! The secrets of a job. The deployment in the path has no meaning: the client sends the word TODO.

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

/// Reads the secrets of a job.
///
/// An unknown job has no secrets, and its name is not validated, because jobs on a developer's machine read secrets too. The
/// deployment in the path has no meaning.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Secrets",
    responses((
        status = 200, description = "The secrets, by name; each value is any JSON.", body = Object,
        example = json!({"last_day": "2024-03-09", "rows": 120}),
    ))
)]
pub(crate) async fn data_job_secrets_read(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, _)): PartPath,
) -> ApiResult<Json<JsonObject>> {
    let secrets = app::secrets::read(&api.db, &api.keys, &caller, &team, &name).await?;
    tracing::info!(user = caller.user, team, job = name, "the secrets of a job were read");
    Ok(Json(secrets))
}

/// Replaces the secrets of a job.
///
/// Secrets that the body omits are deleted. The limit is 1 MiB (1048576 bytes) of JSON; numbers are kept digit by digit. The service
/// encrypts secrets before it stores them. The deployment in the path has no meaning.
#[utoipa::path(
    put,
    path = "",
    tag = "Data Jobs Secrets",
    request_body(
        content = Object, description = "The secrets, by name; each value is any JSON.",
        example = json!({"last_day": "2024-03-09", "rows": 120}),
    ),
    responses(
        (status = 202, description = "The secrets were stored."),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn data_job_secrets_update(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, _)): PartPath,
    JsonBody(secrets): JsonBody<JsonObject>,
) -> ApiResult<StatusCode> {
    app::secrets::replace(&api.db, &api.keys, &*api.clock, &caller, &team, &name, &secrets).await?;
    Ok(StatusCode::ACCEPTED)
}
