//! Changes only when nothing changed meanwhile, and only once.

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};

use crate::support::{Answer, Service, archive};

on_each_database!(
    a_job_that_was_changed_meanwhile_is_not_changed_deleted_or_moved,
    a_deployment_is_changed_only_by_a_caller_who_knows_the_desired_state,
    a_request_that_is_repeated_with_its_key_is_carried_out_once_and_answered_alike,
);

const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";
const DEPLOYMENTS: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments";
const ONE: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments/production";
const ROLLOUT: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments/production/rollout";
const RUNS: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments/production/executions";

async fn with(service: &Service, method: Method, uri: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut request = Request::builder().method(method).uri(uri).header("host", "localhost:8092");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() {
        Body::empty()
    } else {
        request = request.header("content-type", "application/json");
        Body::from(body.to_string())
    };
    service.send(request.body(body).unwrap()).await
}

async fn tag(service: &Service, uri: &str) -> String {
    let answer = service.get(uri).await;
    answer.ok();
    let tag = answer.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 4, "{tag}");
    tag
}

async fn a_job_that_was_changed_meanwhile_is_not_changed_deleted_or_moved() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    let first = tag(&service, JOB).await;
    let mut job = service.get(JOB).await.ok();
    job["description"] = json!("mine");
    with(&service, Method::PUT, JOB, &[("if-match", &first)], &job).await.is(200);
    let second = tag(&service, JOB).await;
    assert_ne!(first, second);

    job["description"] = json!("theirs");
    let why = with(&service, Method::PUT, JOB, &[("if-match", &first)], &job).await.refused(412);
    assert!(why.starts_with("If-Match failed"), "{why}");
    with(&service, Method::PUT, &format!("{JOB}/team/t2"), &[("if-match", &first)], &Value::Null).await.refused(412);
    with(&service, Method::DELETE, JOB, &[("if-match", &first)], &Value::Null).await.refused(412);
    with(&service, Method::DELETE, JOB, &[("if-match", &format!("W/{second}"))], &Value::Null).await.refused(412);
    assert_eq!(service.get(JOB).await.ok()["description"], "mine");
    for bad in ["a b", "\"a", ""] {
        with(&service, Method::PUT, JOB, &[("if-match", bad)], &job).await.refused(400);
    }
    let both = [("if-match", "*"), ("if-none-match", "")];
    with(&service, Method::PUT, JOB, &both, &job).await.refused(400);
    // One of several tags is enough, and so is any version.
    let list = format!("\"other\", {second}");
    with(&service, Method::PUT, JOB, &[("if-match", &list)], &job).await.is(200);
    with(&service, Method::PUT, JOB, &[("if-match", "*")], &job).await.is(200);
    // A shell may have taken the quotes away.
    let bare = tag(&service, JOB).await;
    with(&service, Method::PUT, JOB, &[("if-match", bare.trim_matches('"'))], &job).await.is(200);
    with(&service, Method::PUT, JOB, &[("if-match", first.trim_matches('"'))], &job).await.refused(412);

    // A version that the client has is not sent again.
    let held = tag(&service, JOB).await;
    let unchanged =
        with(&service, Method::GET, JOB, &[("if-none-match", &format!("W/{held}, \"x\""))], &Value::Null).await;
    unchanged.is(304);
    assert_eq!(unchanged.header("etag"), held);
    with(&service, Method::GET, JOB, &[("if-none-match", &first)], &Value::Null).await.ok();
    // A new job with the same name is another job.
    service.delete(JOB).await.is(200);
    service.create("t1", "daily-sales").await;
    with(&service, Method::DELETE, JOB, &[("if-match", &held)], &Value::Null).await.refused(412);
    service.get(JOB).await.ok();
}

async fn a_deployment_is_changed_only_by_a_caller_who_knows_the_desired_state() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    let version = service.upload("t1", "daily-sales").await;
    let deploy = json!({"job_version": version});
    with(&service, Method::POST, DEPLOYMENTS, &[("if-match", "*")], &deploy).await.refused(412);
    with(&service, Method::POST, DEPLOYMENTS, &[("if-none-match", "*")], &deploy).await.is(202);
    with(&service, Method::POST, DEPLOYMENTS, &[("if-none-match", "*")], &deploy).await.refused(412);
    let pending = tag(&service, ROLLOUT).await;
    service.reach("daily-sales").await;
    let running = tag(&service, ONE).await;
    // The rollout's end is no change of what is wanted, but one of what is shown.
    assert_ne!(pending, tag(&service, ROLLOUT).await);
    let off = json!({"enabled": false});
    with(&service, Method::PATCH, ONE, &[("if-match", &pending)], &off).await.is(202);

    // A client that read the reached deployment did not see the change in progress.
    assert_eq!(tag(&service, ONE).await, running);
    for (method, uri, body) in [
        (Method::PATCH, ONE.to_owned(), json!({"vdk_version": "9.1"})),
        (Method::POST, DEPLOYMENTS.to_owned(), json!({"vdk_version": "9.1"})),
        (Method::POST, format!("{ONE}/revisions/1/rollback"), Value::Null),
        (Method::DELETE, ONE.to_owned(), Value::Null),
    ] {
        let answer = with(&service, method, &uri, &[("if-match", &running)], &body).await;
        answer.refused(412);
        let body = answer.json();
        assert_eq!(body["code"], "precondition_failed");
        assert!(body["countermeasures"].as_str().unwrap().contains("production/rollout"), "{body}");
    }
    assert_eq!(service.get(ROLLOUT).await.ok()["desired"]["enabled"], false);
    let wanted = tag(&service, ROLLOUT).await;
    with(&service, Method::GET, ROLLOUT, &[("if-none-match", &wanted)], &Value::Null).await.is(304);
    with(&service, Method::DELETE, ONE, &[("if-match", &wanted)], &Value::Null).await.is(202);
    with(&service, Method::DELETE, ONE, &[("if-match", &wanted)], &Value::Null).await.refused(412);
}

async fn a_request_that_is_repeated_with_its_key_is_carried_out_once_and_answered_alike() {
    let service = Service::start().await;
    let keyed = async |key: &str, uri: &str, body: Value| {
        with(&service, Method::POST, uri, &[("idempotency-key", key)], &body).await
    };
    let create = json!({"job_name": "daily-sales", "config": {}});
    let jobs = "/data-jobs/for-team/t1/jobs";
    let first = keyed("\"create-1\"", jobs, create.clone()).await;
    first.is(201);
    let again = keyed("create-1", jobs, create.clone()).await;
    again.is(201);
    assert_eq!(again.header("location"), first.header("location"));
    keyed("create-2", jobs, create.clone()).await.refused(409);
    keyed("create-2", jobs, create).await.refused(409);

    let upload = async || {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{JOB}/sources"))
            .header("host", "localhost")
            .header("content-type", "application/octet-stream")
            .header("idempotency-key", "upload-1");
        service.send(request.body(Body::from(archive("some-folder"))).unwrap()).await
    };
    let version = upload().await.ok();
    assert_eq!(upload().await.ok(), version);
    let deploy = json!({"job_version": version["version_sha"]});
    keyed("deploy-1", DEPLOYMENTS, deploy.clone()).await.is(202);
    service.patch(ONE, json!({"enabled": false, "vdk_version": "9.1"})).await.is(202);
    let wanted = service.get(ROLLOUT).await.ok()["desired_revision"].clone();
    keyed("deploy-1", DEPLOYMENTS, deploy).await.is(202);
    assert_eq!(service.get(ROLLOUT).await.ok()["desired_revision"], wanted);

    let start = json!({"started_by": "someone"});
    let run = keyed("start-1", RUNS, start.clone()).await;
    run.is(202);
    let same = keyed("start-1", RUNS, start.clone()).await;
    same.is(202);
    assert_eq!(same.header("location"), run.header("location"));
    keyed("start-2", RUNS, start.clone()).await.refused(409);
    // The run ends, and its start is still known; another start is another request.
    let id = run.header("location").rsplit('/').next().unwrap().to_owned();
    service.run(&id).await;
    service.end(&id, model::execution::Status::Succeeded, "").await;
    assert_eq!(keyed("start-1", RUNS, start.clone()).await.header("location"), run.header("location"));
    assert_eq!(service.get(&format!("{JOB}/executions")).await.ok().as_array().unwrap().len(), 1);
    let why = keyed("start-1", RUNS, json!({"started_by": "other"})).await.refused(422);
    assert!(why.contains("idempotency key"), "{why}");
    keyed("start-1", &format!("{ONE}/revisions/1/rollback"), Value::Null).await.refused(422);
    keyed("back-1", &format!("{ONE}/revisions/1/rollback"), Value::Null).await.is(202);
    let wanted = service.get(ROLLOUT).await.ok()["desired_revision"].clone();
    service.patch(ONE, json!({"vdk_version": "9.2"})).await.is(202);
    keyed("back-1", &format!("{ONE}/revisions/1/rollback"), Value::Null).await.is(202);
    assert_ne!(service.get(ROLLOUT).await.ok()["desired_revision"], wanted);
    assert_eq!(service.get(ROLLOUT).await.ok()["desired"]["vdk_version"], "9.2");

    // A request that was rejected under a key had no effect; a key is valid for a day.
    service.pass(24 * 3600 + 1);
    let next = keyed("start-1", RUNS, start).await;
    next.is(202);
    assert_ne!(next.header("location"), run.header("location"));
    for bad in ["", "\"\"", "a\"b", &"k".repeat(256)] {
        keyed(bad, RUNS, Value::Null).await.refused(400);
    }
}
