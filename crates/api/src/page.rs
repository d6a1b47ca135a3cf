//! The web page: one document for all of its URLs, and the files that the document loads. The page is a client of the public
//! API, so its files are the same for everyone and need no token.

use std::{
    fmt,
    io::{self, Write as _},
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use model::{Problem, name::excerpt, problem::Code};
use sha2::{Digest, Sha256};

use crate::{
    Api,
    error::{ApiError, ApiResult},
    input::Path,
    limits::Shared,
};

/// The page's own path.
pub(crate) const PAGE_PATH: &str = "/ui/";

/// The content security policy: files and requests of this service, and nothing that makes markup or code of a text. A log is
/// written by others, and the page can start jobs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// The document of the page among its files.
const SHELL: &str = "shell.html";

/// The document of a binary that was compiled without the page.
const NOT_BUILT: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Holdfast</title>\n\
     <h1>Holdfast</h1>\n\
     <p>This binary was compiled without the web page: run <code>cargo xtask web</code>, and compile the binary again.</p>\n\
     <ul>\n<li><a href=\"/data-jobs/swagger-ui.html\">API</a> to read and try</li>\n\
     <li><a href=\"/data-jobs/graphql\">GraphQL</a> to explore</li>\n\
     <li><a href=\"/readyz\">Readiness</a></li>\n</ul>\n</html>\n";

/// The files of the page, each compressed at its first request.
pub struct WebPage {
    files: Vec<PageFile>,
    shell: PageFile,
}

/// A file with the headers that depend on its content.
struct PageFile {
    name: &'static str,
    content: &'static [u8],
    etag: HeaderValue,
    compressed: OnceLock<Option<Bytes>>,
}

impl fmt::Debug for WebPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebPage").field("files", &self.files.len()).finish_non_exhaustive()
    }
}

impl WebPage {
    /// The page of these files; a document that says how to build the page if there are none.
    pub fn new(files: &[(&'static str, &'static [u8])]) -> Self {
        let shell = files.iter().find(|(name, _)| *name == SHELL).map_or(NOT_BUILT.as_bytes(), |(_, content)| *content);
        Self {
            files: files.iter().map(|(name, content)| PageFile::new(name, content)).collect(),
            shell: PageFile::new(SHELL, shell),
        }
    }

    /// The document, for every URL of the page.
    fn document(&self, headers: &HeaderMap) -> Response {
        let mut response = self.shell.response(headers);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    fn file(&self, name: &str, headers: &HeaderMap, is_versioned: bool) -> Option<Response> {
        let mut response = self.files.iter().find(|file| file.name == name && name != SHELL)?.response(headers);
        let cached = if is_versioned { "public, max-age=31536000, immutable" } else { "no-cache" };
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(cached));
        Some(response)
    }
}

impl PageFile {
    fn new(name: &'static str, content: &'static [u8]) -> Self {
        let digest = Sha256::digest(content);
        let etag = digest.iter().take(16).fold(String::from("\""), |text, byte| format!("{text}{byte:02x}")) + "\"";
        let etag = HeaderValue::try_from(etag).expect("hexadecimal digits");
        Self { name, content, etag, compressed: OnceLock::new() }
    }

    fn media_type(&self) -> &'static str {
        match self.name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some("woff2") => "font/woff2",
            Some("txt") => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        }
    }

    fn response(&self, headers: &HeaderMap) -> Response {
        let is_known = headers.get_all(header::IF_NONE_MATCH).iter().any(|known| known == self.etag);
        // Fonts are compressed already.
        let may_compress = self.media_type() != "font/woff2" && accepts_gzip(headers);
        let compressed = may_compress.then(|| self.compressed()).flatten();
        let is_compressed = compressed.is_some();
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            compressed.unwrap_or(Bytes::from_static(self.content)).into_response()
        };
        response.extensions_mut().insert(Shared);
        let sent = response.headers_mut();
        sent.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type()));
        sent.insert(header::ETAG, self.etag.clone());
        sent.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if is_compressed && !is_known {
            sent.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "same-origin"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ] {
            sent.insert(name, HeaderValue::from_static(value));
        }
        response
    }

    fn compressed(&self) -> Option<Bytes> {
        let compress = || -> io::Result<Bytes> {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(self.content)?;
            Ok(encoder.finish()?.into())
        };
        self.compressed.get_or_init(|| compress().ok()).clone()
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(',').any(|coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            name.trim().eq_ignore_ascii_case("gzip") && !matches!(parameters.trim(), "q=0" | "q=0.0" | "q=0.00")
        })
    })
}

/// Whether a person opens a URL in a browser: no client of the API names this media type.
pub(crate) fn is_browser(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|range| range.split(';').next().unwrap_or_default().trim() == "text/html")
}

/// Every URL of the page, and those of upstream's operations UI.
pub(crate) fn routes() -> (Router<Arc<Api>>, Vec<&'static str>) {
    let mut router = Router::new().route("/ui/assets/{file}", get(file));
    let mut pages = vec!["/ui", PAGE_PATH, "/ui/{*path}"];
    for path in &pages {
        router = router.route(path, get(document));
    }
    for path in OPERATIONS_UI {
        router = router.route(path, get(redirected));
    }
    pages.extend(OPERATIONS_UI);
    (router, pages)
}

/// The URLs of upstream's operations UI.
const OPERATIONS_UI: [&str; 5] = [
    "/get-started",
    "/explore/data-jobs",
    "/explore/data-jobs/{*path}",
    "/manage/data-jobs",
    "/manage/data-jobs/{*path}",
];

async fn document(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    api.page.document(&headers)
}

async fn file(State(api): State<Arc<Api>>, Path(name): Path<String>, request: Request) -> ApiResult<Response> {
    let is_versioned = request.uri().query().is_some_and(|query| query.starts_with("v="));
    api.page.file(&name, request.headers(), is_versioned).ok_or_else(|| unknown(&name))
}

fn unknown(name: &str) -> ApiError {
    Problem::new(
        Code::PageFileNotFound,
        format!("The file {} was not found.", excerpt(name)),
        "The web page has no file of this name.",
    )
    .nothing_returned()
    .fix("Open /ui/.")
    .into()
}

async fn redirected(request: Request) -> Redirect {
    Redirect::permanent(&new_location(request.uri().path(), request.uri().query().unwrap_or_default()))
}

/// The URL of this page for one of upstream's operations UI.
fn new_location(path: &str, query: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let below = match parts.as_slice() {
        [_, "data-jobs", _team, job, rest @ ..] => {
            let tail = if rest.first() == Some(&"executions") { "/executions" } else { "" };
            return format!("{PAGE_PATH}jobs/{job}{tail}");
        }
        [_, "data-jobs", ..] => "jobs",
        _ => return PAGE_PATH.to_owned(),
    };
    let mut translated = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let name = match &*name {
            "search" | "jobName" => "q",
            "teamName" => "team",
            "description" => "description",
            "deploymentStatus" => "deployment",
            "deploymentLastExecutionStatus" => "last",
            _ => continue,
        };
        if !value.is_empty() {
            translated.append_pair(name, &value.to_lowercase());
        }
    }
    let translated = translated.finish();
    let separator = if translated.is_empty() { "" } else { "?" };
    format!("{PAGE_PATH}{below}{separator}{translated}")
}

/// The page before the first connection to the database: it says what the service waits for.
pub(crate) fn waiting_routes(page: Arc<WebPage>) -> Router {
    let document = |State(page): State<Arc<WebPage>>, headers: HeaderMap| async move { page.document(&headers) };
    let file = |State(page): State<Arc<WebPage>>, Path(name): Path<String>, request: Request| async move {
        let is_versioned = request.uri().query().is_some_and(|query| query.starts_with("v="));
        page.file(&name, request.headers(), is_versioned).ok_or_else(|| unknown(&name))
    };
    Router::new()
        .route("/ui/assets/{file}", get(file))
        .route("/ui", get(document))
        .route(PAGE_PATH, get(document))
        .route("/ui/{*path}", get(document))
        .with_state(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_upstreams_operations_ui_keeps_its_filters() {
        for (path, query, to) in [
            ("/get-started", "", "/ui/"),
            ("/manage/data-jobs", "", "/ui/jobs"),
            (
                "/explore/data-jobs",
                "search=orders&teamName=web&deploymentStatus=enabled&other=1",
                "/ui/jobs?q=orders&team=web&deployment=enabled",
            ),
            ("/manage/data-jobs", "deploymentLastExecutionStatus=USER_ERROR", "/ui/jobs?last=user_error"),
            ("/explore/data-jobs/web/load-orders/details", "", "/ui/jobs/load-orders"),
            ("/manage/data-jobs/web/load-orders/executions", "", "/ui/jobs/load-orders/executions"),
        ] {
            assert_eq!(new_location(path, query), to, "{path}?{query}");
        }
    }

    #[test]
    fn a_refused_coding_is_not_accepted() {
        for (given, accepted) in [("gzip, br", true), ("GZIP;q=0.5", true), ("gzip;q=0", false), ("identity", false)] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(given))]);
            assert_eq!(accepts_gzip(&headers), accepted, "{given}");
        }
    }
}
