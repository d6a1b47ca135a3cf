//! Guarantees for operators: operation ids, probes, metrics, limits.

use axum::{
    body::Body,
    http::{Method, Request},
};

use crate::support::{Service, Wish};

on_each_database!(
    the_operation_id_of_a_request_is_given_back_and_kept,
    probes_say_what_is_not_ready,
    without_a_database_everything_is_unavailable_and_says_when_to_come_again,
    what_is_too_much_at_once_is_turned_away,
    a_panic_is_one_requests_problem,
    requests_are_counted_by_route_and_status,
    a_person_finds_a_page,
);

async fn the_operation_id_of_a_request_is_given_back_and_kept() {
    let service = Service::start().await;
    let op_id = async |given: &[u8], uri: &str| {
        let request = Request::builder().uri(uri).header("host", "localhost").header("x-opid", given);
        let answer = service.send(request.body(Body::empty()).unwrap()).await;
        answer.header("x-opid").to_owned()
    };
    for uri in ["/data-jobs/for-team/t1/info", "/nothing", "/livez", "/data-jobs/for-team/t1/jobs/%ff"] {
        assert_eq!(op_id(b"0123456789abcdef", uri).await, "0123456789abcdef");
        for bad in [&b""[..], &[b'x'; 101], b"a\tb", b"\xc3\xa4", b"   "] {
            let made = op_id(bad, uri).await;
            assert_eq!(made.len(), 32, "{made}");
        }
    }

    service.deploy("t1", "daily-sales").await;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/data-jobs/for-team/t1/jobs/daily-sales/deployments/production/executions")
        .header("host", "localhost")
        .header("x-opid", "op-1");
    service.send(request.body(Body::empty()).unwrap()).await.is(202);
    let run = service.get("/data-jobs/for-team/t1/jobs/daily-sales/executions").await.ok();
    assert_eq!(run[0]["op_id"], "op-1");
}

async fn probes_say_what_is_not_ready() {
    let service = Service::start().await;
    let ready = ["/readyz", "/data-jobs/debug/health", "/data-jobs/debug/health/readiness"];
    let alive = ["/livez", "/data-jobs/debug/health/liveness"];
    for uri in ready.into_iter().chain(alive) {
        // Kubernetes asks by the pod's address.
        let request = Request::builder().uri(uri).header("host", "10.1.2.3:8092").body(Body::empty()).unwrap();
        assert_eq!(service.send(request).await.ok()["status"], "UP", "{uri}");
    }
    // Without the key that secrets are stored with, everything else is carried out.
    let active = service.keys.ids().remove(0);
    service.keys.set_active("0123456789abcdef");
    let keyless = service.get("/readyz").await.ok();
    assert_eq!((&keyless["status"], &keyless["components"]["keys"]["status"]), (&"UP".into(), &"DOWN".into()));
    service.keys.set_active(&active);
    service.ready.send(false).unwrap();
    let answer = service.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["components"]["service"]["status"], "DOWN");
    service.ready.send(true).unwrap();
    service.lose_database().await;
    for uri in ready {
        let answer = service.get(uri).await;
        assert_eq!(answer.status, 503);
        insta::assert_json_snapshot!("readiness without a database", answer.json());
    }
    service.get("/livez").await.ok();
}

async fn without_a_database_everything_is_unavailable_and_says_when_to_come_again() {
    let service = Service::start().await;
    service.lose_database().await;
    for answer in [
        service.get("/data-jobs/for-team/t1/jobs/daily-sales").await,
        service.get("/data-jobs/for-team/t1/jobs").await,
        service.put("/data-jobs/for-team/t1/jobs/daily-sales", "{}").await,
    ] {
        answer.refused(503);
        assert_eq!(answer.header("retry-after"), "5");
    }
}

async fn what_is_too_much_at_once_is_turned_away() {
    let service = Service::with(Wish { requests_max: Some(0), ..Wish::default() }).await;
    let answer = service.get("/data-jobs/for-team/t1/info").await;
    answer.refused(429);
    assert_eq!(answer.header("retry-after"), "5");
    service.get("/livez").await.ok();
}

async fn a_panic_is_one_requests_problem() {
    let service = Service::with(Wish { panics: true, ..Wish::default() }).await;
    service.deploy("t1", "daily-sales").await;
    let id = service.execute("t1", "daily-sales").await;
    // Only a run that began has a log where it runs.
    service.run(&id).await;
    service.get(&format!("/data-jobs/for-team/t1/jobs/daily-sales/executions/{id}/logs")).await.refused(500);
    service.get("/data-jobs/for-team/t1/info").await.ok();
}

async fn requests_are_counted_by_route_and_status() {
    let service = Service::start().await;
    for uri in ["/data-jobs/for-team/t1/info", "/data-jobs/for-team/t2/info", "/a", "/b"] {
        service.get(uri).await;
    }
    let answer = service.get("/data-jobs/debug/prometheus").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(answer.bytes).unwrap();
    for line in [
        r#"holdfast_http_request_duration_seconds_count{method="GET",route="/data-jobs/for-team/{team_name}/info",status="200"} 2"#,
        r#"holdfast_http_request_duration_seconds_count{method="GET",route="none",status="404"} 2"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("# EOF"), "{text}");

    let request = Request::builder()
        .uri("/data-jobs/debug/prometheus")
        .header("host", "10.1.2.3:8092")
        .header("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1");
    let answer = service.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.bytes.ends_with(b"# EOF\n"));
}

async fn a_person_finds_a_page() {
    let service = Service::start().await;
    let answer = service.get("/").await;
    assert!(answer.header("content-type").starts_with("text/html"));
    assert!(String::from_utf8(answer.bytes).unwrap().contains("Holdfast 0.1.0"));
}
