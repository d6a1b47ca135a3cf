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
use utoipa::ToSchema;

use super::JobPath;
use crate::{
    Api,
    caller::By,
    error::Answer,
    input::{Path, Query, whole_body},
    openapi::names::Binary,
    terms::StreamedKey,
};

/// The version of an upload.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobVersion {
    /// 40 hexadecimal digits that follow from the content: the same content has the same version.
    #[schema(pattern = "^[0-9a-f]{40}$", example = "3f786850e387550fdab836ed7e6dc881de23001b")]
    version_sha: String,
}

/// Uploads the source of a job.
///
/// The body is a ZIP archive with one top folder, whatever its name: at most 32 MiB (33554432 bytes) unless the operator says
/// otherwise, 256 MiB unpacked, 10000 files and folders, 32 folders deep, paths of 1024 bytes. Links, absolute paths and
/// names that differ in case only are refused. The answer is the version to deploy.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs Sources",
    params((
        "reason" = Option<String>, Query, max_length = 1000, pattern = r"^[^\u0000]*$",
        description = "Why it is uploaded, for the history.", example = "first version",
    )),
    request_body(content = inline(Binary), content_type = "application/octet-stream", description = "The archive."),
    responses(
        (status = 200, description = "It is stored, and this is its version.", body = DataJobVersion),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn sources_upload(
    State(api): State<Arc<Api>>,
    By(mut caller): By,
    StreamedKey(key): StreamedKey,
    Path((team, name)): JobPath,
    query: Query,
    request: Request,
) -> Answer<Json<DataJobVersion>> {
    let archive = whole_body(&api.memory, request, api.archive_limits.archive_max_bytes).await?;
    caller.terms.once = key.map(|key| key.with_body(&archive));
    let reason = query.text("reason").unwrap_or_default();
    let limits = &api.archive_limits;
    let version =
        app::sources::upload(&api.db, &*api.clock, &caller, limits, &team, &name, reason, archive.into()).await?;
    Ok(Json(DataJobVersion { version_sha: version.to_string() }))
}

/// Downloads the latest source of a job.
///
/// A ZIP archive whose top folder has the job's name.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Sources",
    responses(
        (
            status = 200, description = "The archive.", body = inline(Binary), content_type = "application/octet-stream",
            headers(("Content-Disposition" = String, description = "Names the file `<job>.zip`.")),
        ),
        (status = 404, description = "The job is unknown, belongs to another team, or has no source."),
    )
)]
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

/// Removes the uploads of a job.
///
/// What is deployed goes on and runs as before; nothing that was removed can be deployed again.
#[utoipa::path(
    delete,
    path = "",
    tag = "Data Jobs Sources",
    params((
        "reason" = Option<String>, Query, max_length = 1000, pattern = r"^[^\u0000]*$",
        description = "Why they are removed, for the history.", example = "cleaned up",
    )),
    responses(
        (status = 200, description = "They are removed, or there were none."),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
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
