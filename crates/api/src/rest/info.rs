//! What this service offers.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;

use crate::{Api, error::Answer, input::Path};

#[derive(Serialize)]
pub(crate) struct DataJobApiInfo {
    api_version: String,
    supported_python_versions: Vec<String>,
}

/// The version of the service and the Python versions on offer, the same for every team.
pub(crate) async fn info(State(api): State<Arc<Api>>, Path(_team): Path<String>) -> Answer<Json<DataJobApiInfo>> {
    Ok(Json(DataJobApiInfo {
        api_version: api.api_version.clone(),
        supported_python_versions: api.versions.python_versions.iter().map(ToString::to_string).collect(),
    }))
}
