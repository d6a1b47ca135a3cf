//! The page for a person who opens the service's address in a browser.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{Html, IntoResponse, Redirect, Response},
};

use crate::{
    Api,
    page::{PAGE_PATH, is_browser},
};

/// A page that says what this is.
///
/// The version of the service, how a client reaches it, and links to its other pages. A browser is redirected to the web page at
/// `/ui/`.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html; charset=utf-8"))
)]
pub(crate) async fn home(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let vary = [(header::VARY, "accept")];
    if is_browser(&headers) {
        return (vary, Redirect::temporary(PAGE_PATH)).into_response();
    }
    let version: String = api.api_version.chars().filter(|c| !matches!(c, '<' | '>' | '&')).collect();
    let has_metrics = api.metrics_page.is_some() && !api.metrics_access.has_own_listener;
    let metrics = if has_metrics { "<li><a href=\"/data-jobs/debug/prometheus\">Metrics</a></li>\n" } else { "" };
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Holdfast</title>\n\
         <h1>Holdfast {version}</h1>\n\
         <p>A Control Service for the data jobs of the Versatile Data Kit. Its API is below <code>/data-jobs</code>; the \
         command line client reaches it with <code>vdk</code> and the address of this page as \
         <code>VDK_CONTROL_SERVICE_REST_API_URL</code>.</p>\n\
         <ul>\n\
         <li><a href=\"/data-jobs/for-team/no-team-specified/jobs\">Data jobs</a> (JSON)</li>\n\
         <li><a href=\"/data-jobs/swagger-ui.html\">API</a> to read and try</li>\n\
         <li><a href=\"/data-jobs/graphql\">GraphQL</a> to explore</li>\n\
         <li><a href=\"/readyz\">Readiness</a></li>\n\
         {metrics}\
         </ul>\n</html>\n"
    );
    (vary, Html(text)).into_response()
}
