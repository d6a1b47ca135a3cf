//! The web page and the URLs that lead to it.

use axum::{
    body::Body,
    http::{Method, Request},
};

use crate::support::{Answer, Service};

on_each_database!(
    a_browser_at_the_root_is_sent_to_the_page_and_other_clients_get_what_they_got,
    every_url_of_the_page_has_the_document_under_a_policy_without_exceptions,
    a_file_of_the_page_has_an_etag_and_is_compressed_on_request,
    a_link_on_another_site_opens_the_page_and_loads_no_file_of_it,
    an_address_of_upstreams_operations_ui_leads_to_the_page,
);

/// The `Accept` header of a browser that opens a URL.
const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");

async fn get(service: &Service, uri: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(Method::GET).uri(uri).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    service.send(request.body(Body::empty()).unwrap()).await
}

async fn a_browser_at_the_root_is_sent_to_the_page_and_other_clients_get_what_they_got() {
    let service = Service::start().await;
    let answer = get(&service, "/", &[BROWSER]).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (307, "/ui/"));
    for accept in ["*/*", "application/json", ""] {
        let answer = get(&service, "/", &[("accept", accept)]).await;
        assert_eq!(answer.status.as_u16(), 200, "{accept}");
        assert_eq!(answer.header("vary"), "accept");
    }
}

async fn every_url_of_the_page_has_the_document_under_a_policy_without_exceptions() {
    let service = Service::start().await;
    for uri in ["/ui", "/ui/", "/ui/jobs", "/ui/jobs/some-job/executions/some-job-1"] {
        let answer = get(&service, uri, &[BROWSER]).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "text/html; charset=utf-8"), "{uri}");
        assert_eq!(answer.bytes, b"<title>The page</title>", "{uri}");
        let policy = answer.header("content-security-policy").to_owned();
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"] {
            assert!(policy.split("; ").any(|given| given == part), "{part} is not in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-cache");
    }
}

async fn a_file_of_the_page_has_an_etag_and_is_compressed_on_request() {
    let service = Service::start().await;
    let answer = get(&service, "/ui/assets/app.js?v=1", &[]).await;
    assert_eq!(answer.bytes, b"// the script");
    assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
    let etag = answer.header("etag").to_owned();
    let again = get(&service, "/ui/assets/app.js", &[("if-none-match", &etag)]).await;
    assert_eq!((again.status.as_u16(), again.bytes.len()), (304, 0));
    let packed = get(&service, "/ui/assets/app.js", &[("accept-encoding", "gzip")]).await;
    assert_eq!((packed.header("content-encoding"), &packed.bytes[..2]), ("gzip", &[0x1f, 0x8b][..]));
    get(&service, "/ui/assets/none.js", &[]).await.refused(404);
    get(&service, "/ui/assets/shell.html", &[]).await.refused(404);
}

async fn a_link_on_another_site_opens_the_page_and_loads_no_file_of_it() {
    let service = Service::start().await;
    let navigation =
        [BROWSER, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    assert_eq!(get(&service, "/ui/jobs/some-job", &navigation).await.status, 200);
    let frame = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
    get(&service, "/ui/jobs/some-job", &frame).await.refused(403);
    let script = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "script")];
    get(&service, "/ui/assets/app.js", &script).await.refused(403);
}

async fn an_address_of_upstreams_operations_ui_leads_to_the_page() {
    let service = Service::start().await;
    for (old, new) in [
        ("/get-started", "/ui/"),
        ("/manage/data-jobs?search=orders", "/ui/jobs?q=orders"),
        ("/explore/data-jobs/web/load-orders/details", "/ui/jobs/load-orders"),
    ] {
        let answer = get(&service, old, &[BROWSER]).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (308, new), "{old}");
    }
}
