//! The version of the service, and the Python versions of deployments.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Api, caller::RequestCaller, error::ApiResult, input::Path};

/// The version of the service, and the Python versions of deployments.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobApiInfo {
    /// The version of the service.
    #[schema(example = "0.1.0")]
    api_version: String,
    /// The Python versions that a deployment may have, ascending.
    #[schema(example = json!(["3.10", "3.11"]))]
    supported_python_versions: Vec<String>,
}

/// Describes this service.
///
/// The response has the version and the Python versions of deployments, the same for every team.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses((status = 200, description = "The description of the service.", body = DataJobApiInfo))
)]
pub(crate) async fn info(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path(_team): Path<String>,
) -> ApiResult<Json<DataJobApiInfo>> {
    caller.may_list().await?;
    Ok(Json(DataJobApiInfo {
        api_version: api.api_version.clone(),
        supported_python_versions: api.versions.python_versions.iter().map(ToString::to_string).collect(),
    }))
}
