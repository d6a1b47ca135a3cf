//! The source of a job: up as a ZIP archive, and down again.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    },
    response::IntoResponse,
};
use serde::Serialize;

use super::JobPath;
use crate::{
    Api,
    caller::By,
    error::Answer,
    input::{Path, Query, whole_body},
};

#[derive(Serialize)]
pub(crate) struct DataJobVersion {
    version_sha: String,
}

/// Stores the source of a job and answers its version.
pub(crate) async fn sources_upload(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
    query: Query,
    request: Request,
) -> Answer<Json<DataJobVersion>> {
    let archive = whole_body(request, api.archive_limits.archive_max_bytes).await?;
    let reason = query.text("reason").unwrap_or_default();
    let limits = &api.archive_limits;
    let version =
        app::sources::upload(&api.db, &*api.clock, &caller, limits, &team, &name, reason, archive.into()).await?;
    Ok(Json(DataJobVersion { version_sha: version.to_string() }))
}

/// The latest source of a job as a ZIP archive whose top folder has the job's name.
pub(crate) async fn data_job_sources_download(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
) -> Answer<impl IntoResponse> {
    let archive = app::sources::download(&api.db, &caller, &team, &name).await?;
    // The job was found, so its name is safe within the quotes.
    let disposition = format!("attachment; filename=\"{name}.zip\"");
    Ok(([(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_DISPOSITION, disposition)], archive))
}

/// Removes the uploads of a job: 200 without a body. What is deployed goes on.
pub(crate) async fn sources_delete(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
    query: Query,
) -> Answer<StatusCode> {
    let reason = query.text("reason").unwrap_or_default();
    app::sources::remove(&api.db, &*api.clock, &caller, &team, &name, reason).await?;
    Ok(StatusCode::OK)
}
