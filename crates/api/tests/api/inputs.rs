//! Bad input: each is a 4xx with the four sentences, and nothing is stored.

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::json;

use crate::support::Service;

on_each_database!(
    a_bad_definition_of_a_job_is_refused_and_says_which_member_is_wrong,
    bad_teams_are_refused,
    addresses_and_methods_that_do_not_exist_are_reported,
    a_body_whose_length_is_not_reported_is_limited_too,
);

const JOBS: &str = "/data-jobs/for-team/t1/jobs";

async fn a_bad_definition_of_a_job_is_refused_and_says_which_member_is_wrong() {
    let service = Service::start().await;
    for (body, part) in [
        (json!({"job_name": "short"}), "6 to 50"),
        (json!({"job_name": "a".repeat(51)}), "6 to 50"),
        (json!({"job_name": "Daily-sales"}), "lower-case"),
        (json!({"job_name": "daily_sales"}), "'_'"),
        (json!({"job_name": "../../../etc"}), "lower-case"),
        (json!({"job_name": 123_456}), "job_name: invalid type: integer `123456`, expected a string"),
        (json!({"job_name": "daily-sales", "description": ["x"]}), "description: invalid type: sequence"),
        (json!({"job_name": "daily-sales", "description": "x".repeat(10_001)}), "10000"),
        (
            json!({"job_name": "daily-sales", "config": "x"}),
            "config: invalid type: string \"x\", expected a JSON object",
        ),
        (json!({"job_name": "daily-sales", "config": {"schedule": "0 3 * * *"}}), "config.schedule: invalid type"),
        (
            json!({"job_name": "daily-sales", "config": {"schedule": {"schedule_cron": 5}}}),
            "config.schedule.schedule_cron: ",
        ),
        (json!({"job_name": "daily-sales", "config": {"schedule": {"schedule_cron": "bad"}}}), "field"),
        (
            json!({"job_name": "daily-sales", "config": {"generate_keytab": "yes"}}),
            "config.generate_keytab: invalid type: string \"yes\", expected a boolean",
        ),
        (
            json!({"job_name": "daily-sales", "config": {"notification_delay_period_minutes": "240"}}),
            "expected a JSON number",
        ),
        (json!({"job_name": "daily-sales", "config": {"notification_delay_period_minutes": 1.5}}), "expected i32"),
        (json!({"job_name": "daily-sales", "config": {"notification_delay_period_minutes": -1}}), "notification_delay"),
        (
            json!({"job_name": "daily-sales", "config": {"notification_delay_period_minutes": 3_000_000_000_u32}}),
            "expected i32",
        ),
        (
            json!({"job_name": "daily-sales", "config": {"contacts": {"notified_on_job_deploy": "a@b"}}}),
            "notified_on_job_deploy: invalid type",
        ),
        (
            json!({"job_name": "daily-sales", "config": {"contacts": {"notified_on_job_deploy": [1]}}}),
            "notified_on_job_deploy[0]: ",
        ),
        (json!([]), "expected"),
        (json!(null), "Invalid type: null"),
        (json!("daily-sales"), "expected a JSON object"),
    ] {
        let why = service.post(JOBS, &body).await.refused(400);
        assert!(why.contains(part), "{body}: {why}");
    }
    for (text, part) in [
        ("", "empty"),
        ("{", "not JSON"),
        ("{} {}", "not JSON"),
        ("{'job_name': 1}", "not JSON"),
        ("{\"job_name\": NaN}", "not JSON"),
        ("\u{feff}{}", "not JSON"),
    ] {
        let answer = service.call(Method::POST, JOBS, Some(("application/json", text.into()))).await;
        let why = answer.refused(400);
        assert!(why.contains(part), "{text}: {why}");
    }
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for bytes in [b"\xff\xfe{\"job_name\":\"\xff\"}".to_vec(), deep.into_bytes(), vec![0; 10]] {
        service.call(Method::POST, JOBS, Some(("application/json", bytes))).await.refused(400);
    }
    let page = service.query(&[("query", "{ jobs { totalItems } }")]).await.ok();
    assert_eq!(page["data"]["totalItems"], 0);
}

async fn bad_teams_are_refused() {
    let service = Service::start().await;
    for team in ["%20", "%09x", "a%2Fb", "a%5Cb", &"t".repeat(101), "%00"] {
        let uri = format!("/data-jobs/for-team/{team}/jobs");
        service.post(&uri, json!({"job_name": "daily-sales"})).await.refused(400);
    }
}

async fn addresses_and_methods_that_do_not_exist_are_reported() {
    let service = Service::start().await;
    for uri in ["/nothing", "/data-jobs", "/data-jobs/for-team/t1/jobs/daily-sales/", "/graphql"] {
        service.get(uri).await.refused(404);
    }
    for uri in [JOBS, "/livez", "/data-jobs/for-team/t1/info", "/"] {
        service.call(Method::PATCH, uri, None).await.refused(405);
        service.call(Method::OPTIONS, uri, None).await.refused(405);
    }
    // Broken percent-encoding stands for itself; what is not UTF-8 can't be read.
    service.get("/data-jobs/for-team/t1/jobs/%zz").await.refused(404);
    service.get("/data-jobs/for-team/t1/jobs/%ff%fe").await.refused(400);
    service.get("/data-jobs/for-team/%ff/info").await.refused(400);
    service.get("/data-jobs/for-team/t1/jobs/daily-sales/executions?execution_status=%ff").await.refused(404);
}

async fn a_body_whose_length_is_not_reported_is_limited_too() {
    let service = Service::start().await;
    let chunks = (0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]));
    let request = Request::builder()
        .method(Method::POST)
        .uri(JOBS)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from_stream(futures::stream::iter(chunks)))
        .unwrap();
    service.send(request).await.refused(413);
}
