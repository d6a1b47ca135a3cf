//! Requests that a browser may send, and those that it may not.

use axum::{
    body::Body,
    http::{Method, Request},
};

use crate::support::{Answer, Service};

on_each_database!(
    a_strange_page_reaches_nothing,
    a_change_comes_as_json_or_as_octets,
    no_accept_header_is_a_reason_to_refuse,
);

async fn sent(service: &Service, method: Method, uri: &str, headers: &[(&str, &str)], body: &'static str) -> Answer {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    service.send(request.body(Body::from(body)).unwrap()).await
}

async fn a_strange_page_reaches_nothing() {
    let service = Service::start().await;
    let info = "/data-jobs/for-team/t1/info";
    for headers in [
        &[("host", "rebound.example")] as &[_],
        &[],
        &[("host", "localhost"), ("origin", "https://evil.example")],
        &[("host", "localhost"), ("origin", "null")],
        &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
    ] {
        sent(&service, Method::GET, info, headers, "").await.refused(403);
        sent(&service, Method::GET, "/nothing", headers, "").await.refused(403);
    }
    let elsewhere = "http://evil.example/data-jobs/for-team/t1/info";
    sent(&service, Method::GET, elsewhere, &[("host", "localhost")], "").await.refused(403);
    for host in ["localhost:8092", "127.0.0.1", "[::1]:1", "holdfast.example"] {
        let answer = sent(&service, Method::GET, info, &[("host", host)], "").await;
        answer.ok();
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    }
}

async fn a_change_comes_as_json_or_as_octets() {
    let service = Service::start().await;
    let uri = "/data-jobs/for-team/t1/jobs?name=daily-sales";
    let host = ("host", "localhost");
    for media_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonp"]
    {
        let headers = [host, ("content-type", media_type)];
        sent(&service, Method::POST, uri, &headers, "{}").await.refused(415);
    }
    sent(&service, Method::POST, uri, &[host], "{}").await.refused(415);
    sent(&service, Method::POST, uri, &[host, ("content-type", "Application/JSON; charset=utf-8")], "{}").await.is(201);
    // Without a body there is nothing to name.
    sent(&service, Method::DELETE, "/data-jobs/for-team/t1/jobs/daily-sales", &[host], "").await.is(200);
}

async fn no_accept_header_is_a_reason_to_refuse() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    for accept in ["application/xml", "image/png", "nonsense", "*/*;q=0"] {
        let headers = [("host", "localhost"), ("accept", accept)];
        let uri = "/data-jobs/for-team/t1/jobs/daily-sales/keytab";
        sent(&service, Method::GET, uri, &headers, "").await.is(200);
    }
}
