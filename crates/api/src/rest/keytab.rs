//! The Kerberos keytab of a job.

use std::sync::Arc;

use axum::{extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use model::{Problem, problem::Code};

use super::JobPath;
use crate::{Api, caller::RequestCaller, error::ApiResult, input::Path, openapi::names::Binary};

/// Downloads the Kerberos keytab of a job.
///
/// The file is empty if the service has no Kerberos; clients accept that.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs",
    responses(
        (status = 200, description = "The keytab.", body = inline(Binary), content_type = "application/octet-stream"),
        (status = 404, description = "The job is unknown, belongs to another team, or has `generate_keytab: false`."),
    )
)]
pub(crate) async fn data_job_keytab_download(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
) -> ApiResult<impl IntoResponse> {
    let job = app::jobs::read(&api.db, &caller, &team, &name).await?;
    if !job.config.generate_keytab {
        return Err(Problem::new(
            Code::KeytabDisabled,
            format!("The data job {} has no keytab.", job.name),
            "Its configuration says generate_keytab = false.",
        )
        .nothing_returned()
        .fix("Set generate_keytab = true in config.ini and deploy the job if it needs Kerberos.")
        .into());
    }
    Ok(([(CONTENT_TYPE, "application/octet-stream")], Vec::new()))
}
