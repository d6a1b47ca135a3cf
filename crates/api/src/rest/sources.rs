//! The source of a job: up as a ZIP archive, and down again.

use std::sync::Arc;

use app::sources::{Received, Receiving};
use axum::{
    Json,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::IntoResponse,
};
use http_body_util::BodyExt;
use serde::Serialize;
use utoipa::ToSchema;

use super::JobPath;
use crate::{
    Api,
    caller::RequestCaller,
    error::{ApiError, ApiResult},
    input::{self, Path, Query},
    memory::RequestMemory,
    openapi::names::Binary,
    preconditions::StreamedKey,
    principals::principal,
    streams::Sending,
};

/// Bytes of an upload that are collected before they are written to its file.
const WRITE_BYTES: usize = 256 * 1024;

/// The version of an upload.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobVersion {
    /// The version: 40 hexadecimal digits that depend on the content alone.
    #[schema(pattern = "^[0-9a-f]{40}$", example = "78ea24478fce7ccd34444e8b04647abec70e7d4d")]
    version_sha: String,
}

/// Uploads the source of a job.
///
/// The body is a ZIP archive with one top folder, whatever its name: at most 32 MiB (33554432 bytes) unless the operator sets
/// another limit, 256 MiB unpacked, 10000 files and folders, 2 MiB of the archive's directory, 1 MiB of requirements.txt, 32
/// folders deep, paths of 1024 bytes. Links, absolute paths and names that differ in case only are rejected. The response
/// has the version to deploy.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs Sources",
    params((
        "reason" = Option<String>, Query, max_length = 1000, pattern = r"^[^\u0000]*$",
        description = "The reason for the upload, recorded in the history.", example = "first version",
    )),
    request_body(content = inline(Binary), content_type = "application/octet-stream", description = "The archive."),
    responses(
        (status = 200, description = "The version of the stored upload.", body = DataJobVersion),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn sources_upload(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    StreamedKey(key): StreamedKey,
    Path((team, name)): JobPath,
    query: Query,
    request: Request,
) -> ApiResult<Json<DataJobVersion>> {
    let reason = query.text("reason").unwrap_or_default();
    let max_bytes = api.archive_limits.archive_max_bytes;
    input::max_of(&request, max_bytes)?;
    let admitted = async {
        api.principals.charge_upload(&caller)?;
        let upload = app::sources::begin_upload(&api.db, &caller, &team, &name, reason).await?;
        Ok::<_, ApiError>((upload, api.transfers.uploads.receive(principal(&caller)).await?))
    };
    let (upload, receiving) = match admitted.await {
        Ok(admitted) => admitted,
        Err(failure) => {
            input::discard(&*api.clock, request, max_bytes).await;
            return Err(failure);
        }
    };
    let (archive, digest) = receive(&api, receiving, request, max_bytes).await?;
    let mut keyed = caller.clone();
    keyed.preconditions.idempotency_key = key.map(|key| key.with_body_digest(&digest));
    let version = upload
        .store(
            &api.db,
            &*api.clock,
            &keyed,
            principal(&caller),
            &api.archive_limits,
            &api.memory,
            &api.transfers.uploads,
            archive,
        )
        .await?;
    Ok(Json(DataJobVersion { version_sha: version.to_string() }))
}

/// Writes the body to the upload's file.
async fn receive(
    api: &Api,
    mut receiving: Receiving,
    request: Request,
    max_bytes: usize,
) -> Result<(Received, [u8; 32]), ApiError> {
    RequestMemory::of(&api.memory, &request).grow(2 * WRITE_BYTES)?;
    let mut body = request.into_body();
    let (mut collected, mut bytes) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|error| input::broken_body(&error))?.into_data() else { continue };
        bytes = bytes.saturating_add(piece.len());
        if bytes > max_bytes {
            return Err(input::too_large(max_bytes));
        }
        collected.extend_from_slice(&piece);
        if collected.len() >= WRITE_BYTES {
            receiving = receiving.write(std::mem::take(&mut collected)).await?;
        }
    }
    Ok(receiving.write(collected).await?.complete())
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
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
) -> ApiResult<impl IntoResponse> {
    let download = Arc::new(app::sources::download(&api.db, &caller, &team, &name).await?);
    let bytes = download.bytes();
    let body = Sending::begin(&api, &caller).await?.body(0, move |position| {
        let download = Arc::clone(&download);
        async move {
            if position >= download.bytes() {
                return Ok(None);
            }
            let piece = download.piece(position).await?;
            let next = position + piece.len() as u64;
            Ok(Some((piece.into(), next)))
        }
    });
    // The job was found, so its name is safe within the quotes.
    let disposition = format!("attachment; filename=\"{name}.zip\"");
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_DISPOSITION, disposition),
        (CONTENT_LENGTH, bytes.to_string()),
    ];
    Ok((headers, body))
}

/// Removes the uploads of a job.
///
/// The deployed version continues to run. A removed version can no longer be deployed.
#[utoipa::path(
    delete,
    path = "",
    tag = "Data Jobs Sources",
    params((
        "reason" = Option<String>, Query, max_length = 1000, pattern = r"^[^\u0000]*$",
        description = "The reason for the removal, recorded in the history.", example = "cleaned up",
    )),
    responses(
        (status = 200, description = "The job has no uploads, except the deployed version."),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn sources_delete(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
    query: Query,
) -> ApiResult<StatusCode> {
    let reason = query.text("reason").unwrap_or_default();
    app::sources::remove(&api.db, &*api.clock, &caller, &team, &name, reason).await?;
    Ok(StatusCode::OK)
}
