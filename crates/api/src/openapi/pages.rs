//! The document for machines, and a page on which people try it.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    sync::{Mutex, PoisonError},
};

use axum::{
    Extension,
    body::Bytes,
    http::{HeaderName, HeaderValue, header},
    response::{Html, IntoResponse, Response},
};
use model::{Problem, name::excerpt, problem::Code};
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

use crate::{error::ApiResult, input::Path, limits::Shared};

/// The content security policy of the page: its own script, and requests to this service. Swagger UI styles its elements inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Starts Swagger UI on the document.
const START: &str = "\
window.ui = SwaggerUIBundle({
  url: 'api-docs',
  dom_id: '#swagger-ui',
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: 'none',
  persistAuthorization: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
";

/// The document as the router has it: made for the first request, and as JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served(pub(crate) fn() -> &'static str);

/// This document.
///
/// OpenAPI 3.1 as JSON: every operation with its parameters, bodies, answers and examples.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses((status = 200, description = "The document.", body = Object))
)]
pub(crate) async fn api_docs(Extension(Served(document)): Extension<Served>) -> impl IntoResponse {
    let mut response = ([(header::CONTENT_TYPE, "application/json")], document()).into_response();
    response.extensions_mut().insert(Shared);
    response
}

/// A page to read and try this document.
///
/// Swagger UI, from this service alone: nothing is loaded from elsewhere.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html; charset=utf-8"))
)]
pub(crate) async fn swagger_ui() -> impl IntoResponse {
    let headers =
        [(header::CONTENT_SECURITY_POLICY, POLICY), (HeaderName::from_static("referrer-policy"), "no-referrer")];
    let mut response = (headers, Html(include_str!("swagger-ui.html"))).into_response();
    response.extensions_mut().insert(Shared);
    response
}

/// A script, style or picture of the page.
///
/// The files of Swagger UI that the page loads.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses(
        (status = 200, description = "The file.", content(
            (String = "text/javascript; charset=utf-8"),
            (String = "text/css; charset=utf-8"),
            (Object = "image/png"),
        )),
        (status = 404, description = "The page has no file of this name."),
    )
)]
pub(crate) async fn swagger_ui_file(Path(file): Path<String>) -> ApiResult<Response> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let media_type = match file.as_str() {
        "start.js" | "swagger-ui-bundle.js" => SCRIPT,
        "swagger-ui.css" => "text/css; charset=utf-8",
        "favicon-32x32.png" => "image/png",
        _ => {
            return Err(Problem::new(
                Code::PageFileNotFound,
                format!("The file {} was not found.", excerpt(&file)),
                "The Swagger UI page has no file of this name.",
            )
            .nothing_returned()
            .fix("Open /data-jobs/swagger-ui.html.")
            .into());
        }
    };
    let content = if file == "start.js" { Bytes::from_static(START.as_bytes()) } else { vendored(&file)? };
    let mut response = ([(header::CONTENT_TYPE, media_type)], content).into_response();
    response.extensions_mut().insert(Shared);
    // It changes with the service only; a day is short enough for an upgrade to be seen.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400"));
    Ok(response)
}

/// A file of Swagger UI's distribution, unpacked at the first request: the program stays small, and all
/// readers share one copy.
fn vendored(file: &str) -> Result<Bytes, Problem> {
    static UNPACKED: Mutex<BTreeMap<String, Bytes>> = Mutex::new(BTreeMap::new());
    let damaged = || {
        Problem::new(
            Code::PageFileDamaged,
            "The page was not shown.",
            "A file of Swagger UI within the program is damaged.",
        )
        .nothing_returned()
        .fix("Install the program again.")
    };
    let mut unpacked = UNPACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(content) = unpacked.get(file) {
        return Ok(content.clone());
    }
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED)).map_err(|_| damaged())?;
    let ending = format!("/dist/{file}");
    let name = archive.file_names().find(|name| name.ends_with(&ending)).map(str::to_owned).ok_or_else(damaged)?;
    let mut content = Vec::new();
    archive.by_name(&name).map_err(|_| damaged())?.read_to_end(&mut content).map_err(|_| damaged())?;
    let content = Bytes::from(content);
    unpacked.insert(file.to_owned(), content.clone());
    Ok(content)
}
