//! Large bodies that come in and go out piece by piece, and what one caller may have of them.

use std::io::{Cursor, Read, Write};

use api::PrincipalLimits;
use axum::{
    body::{Body, Bytes},
    http::{Request, StatusCode},
};
use model::{execution::Status, log::LogChunk};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    access::{authentication, claims},
    issuer::{Issuer, Key},
    support::{Answer, Service, Wish, archive},
};

on_each_database!(
    a_source_of_several_rows_comes_back_byte_by_byte_and_says_its_length_before,
    a_large_log_comes_whole_and_by_its_last_lines_while_it_runs_and_afterwards,
    uploads_starts_and_queries_of_one_caller_are_limited_in_a_minute_and_those_of_others_are_not,
    one_caller_has_half_of_the_places_of_requests_and_of_uploads,
    two_callers_leave_the_last_place_to_others,
);

const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";

/// Bytes that can't be compressed, always the same.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 42_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

async fn upload(service: &Service, archive: Vec<u8>) -> Answer {
    let body = Some(("application/octet-stream", archive));
    service.call(axum::http::Method::POST, &format!("{JOB}/sources"), body).await
}

async fn a_source_of_several_rows_comes_back_byte_by_byte_and_says_its_length_before() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    let content = noise(2 * 1024 * 1024 + 77_777);
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("top/noise", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&content).unwrap();
    let version = upload(&service, zip.finish().unwrap().into_inner()).await.ok();
    let answer = service.get(&format!("{JOB}/sources")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-length"), answer.bytes.len().to_string());
    let mut again = Vec::new();
    let mut stored = zip::ZipArchive::new(Cursor::new(&answer.bytes)).unwrap();
    stored.by_name("daily-sales/noise").unwrap().read_to_end(&mut again).unwrap();
    assert!(again == content);
    // An upload of the downloaded archive is the same version, and stored once.
    assert_eq!(upload(&service, answer.bytes.clone()).await.ok(), version);
    assert_eq!(service.get(&format!("{JOB}/sources")).await.bytes, answer.bytes);
}

async fn a_large_log_comes_whole_and_by_its_last_lines_while_it_runs_and_afterwards() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    let id = service.execute("t1", "daily-sales").await;
    service.run(&id).await;
    let line = |number: usize| format!("{number}: \"quoted\" \\ \u{1b}[31m {}\n", "\u{20ac}".repeat(number % 50));
    let text: String = (0..9000).map(line).collect();
    assert!(text.len() > 3 * 256 * 1024, "{}", text.len());
    let log = LogChunk { text: text.clone(), omitted_bytes: 0 };
    let logs = format!("{JOB}/executions/{id}/logs");
    service.runtime.logs.lock().unwrap().insert(id.clone(), text.clone());
    for ended in [false, true] {
        if ended {
            service.end(&id, Status::Succeeded, &text).await;
        }
        assert!(service.get(&logs).await.ok() == json!({"logs": text}), "ended: {ended}");
        for lines in [1, 2, 100, 2999, 3000, 3001, 8999, 9000, 9001] {
            let answer = service.get(&format!("{logs}?tail_lines={lines}")).await.ok();
            assert!(answer["logs"] == log.tail(lines), "ended: {ended}, lines: {lines}");
        }
    }
}

async fn uploads_starts_and_queries_of_one_caller_are_limited_in_a_minute_and_those_of_others_are_not() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let limits = PrincipalLimits { uploads_per_minute: 3, starts_per_minute: 2, query_cost_per_minute: 1_000_000 };
    let service =
        Service::with(Wish { auth: Some(authentication(&issuer)), principal_limits: Some(limits), ..Wish::default() })
            .await;
    let token = |user: &str| key.sign(&claims(&issuer, json!({"username": user, "teams": ["t1"]})));
    let (ann, ben) = (token("ann"), token("ben"));
    service.with_token(&ann).create("t1", "daily-sales").await;
    for _ in 0..3 {
        upload(&service, archive("top")).await.ok();
    }
    let refused = upload(&service, archive("top")).await;
    assert_eq!(refused.header("retry-after"), "20");
    assert!(refused.refused(429).contains("limit 3, `uploads_per_minute`"));
    service.with_token(&ben);
    let version = upload(&service, archive("top")).await.ok()["version_sha"].clone();
    service.post(&format!("{JOB}/deployments"), json!({"job_version": version})).await.is(202);
    service.with_token(&ann).pass(20);
    upload(&service, archive("top")).await.ok();

    let start = format!("{JOB}/deployments/production/executions");
    service.post(&start, "{}").await.is(202);
    service.post(&start, "{}").await.refused(409);
    let refused = service.post(&start, "{}").await;
    assert_eq!(refused.header("retry-after"), "30");
    assert!(refused.refused(429).contains("`starts_per_minute`"));
    service.with_token(&ben).post(&start, "{}").await.refused(409);
}

impl Service {
    /// An upload whose first piece was read and whose second one never comes.
    async fn hanging_upload(&self, token: &str) -> JoinHandle<StatusCode> {
        let (read, was_read) = tokio::sync::oneshot::channel();
        let pieces = futures::stream::unfold(Some(read), |read| async move {
            let Some(read) = read else { return std::future::pending().await };
            let _ = read.send(());
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), None))
        });
        let request = Request::post(format!("{JOB}/sources"))
            .header("host", "localhost")
            .header("content-type", "application/octet-stream")
            .header("authorization", format!("Bearer {token}"))
            .body(Body::from_stream(pieces))
            .unwrap();
        let response = self.begin(request);
        was_read.await.unwrap();
        response
    }
}

async fn one_caller_has_half_of_the_places_of_requests_and_of_uploads() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service =
        Service::with(Wish { auth: Some(authentication(&issuer)), requests_max: Some(4), ..Wish::default() }).await;
    let token = |user: &str| key.sign(&claims(&issuer, json!({"username": user, "teams": ["t1"]})));
    let (ann, ben) = (token("ann"), token("ben"));
    service.with_token(&ann).create("t1", "daily-sales").await;
    let first = service.hanging_upload(&ann).await;
    let second = service.hanging_upload(&ann).await;
    assert!(service.get(JOB).await.refused(429).contains("half of 4"));
    assert_eq!(service.with_token(&ben).get(JOB).await.status, StatusCode::OK);
    upload(&service, archive("top")).await.ok();
    first.abort();
    let _ = first.await;
    assert_eq!(service.with_token(&ann).get(JOB).await.status, StatusCode::OK);
    second.abort();
}

async fn two_callers_leave_the_last_place_to_others() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service =
        Service::with(Wish { auth: Some(authentication(&issuer)), requests_max: Some(4), ..Wish::default() }).await;
    let token = |user: &str| key.sign(&claims(&issuer, json!({"username": user, "teams": ["t1"]})));
    let (ann, ben, eve) = (token("ann"), token("ben"), token("eve"));
    service.with_token(&ann).create("t1", "daily-sales").await;
    let mut held = vec![
        service.hanging_upload(&ann).await,
        service.hanging_upload(&ann).await,
        service.hanging_upload(&ben).await,
    ];
    assert!(service.get(JOB).await.refused(429).contains("half of 4"));
    assert!(service.with_token(&ben).get(JOB).await.refused(429).contains("limit 4, `requests_max`"));
    assert_eq!(service.with_token(&eve).get(JOB).await.status, StatusCode::OK);
    upload(&service, archive("top")).await.ok();
    held.push(service.hanging_upload(&eve).await);
    assert!(service.get(JOB).await.refused(429).contains("limit 4, `requests_max`"));
    // Requests without a token have a place of their own.
    let form = Request::post("/data-jobs/oauth2/token")
        .header("host", "localhost")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from("grant_type=refresh_token&refresh_token=x"))
        .unwrap();
    let answer = service.send(form).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (400, &json!("invalid_grant")));
    held.iter().for_each(JoinHandle::abort);
}
