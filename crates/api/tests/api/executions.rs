//! Runs and their logs.

use model::execution::Status;
use serde_json::json;

use crate::support::{Service, Wish};

on_each_database!(
    a_run_is_started_followed_and_read_to_its_end,
    executions_are_listed_with_the_newest_last_and_by_status,
    a_cancellation_is_accepted_while_a_run_is_active,
    what_cannot_be_started_is_refused,
    a_start_by_the_operations_page_names_the_user_alone,
    the_url_of_a_log_has_times_in_the_format_and_with_the_offset_of_the_operator,
);

const RUNS: &str = "/data-jobs/for-team/t1/jobs/daily-sales/executions";
const START: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments/production/executions";

async fn a_run_is_started_followed_and_read_to_its_end() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    let started = service.post(START, json!({"started_by": "manual/vdk-control-cli", "args": {"day": 3}})).await;
    started.is(202);
    let id = "daily-sales-1710000000";
    assert_eq!(started.header("location"), format!("{RUNS}/{id}"));
    let one = format!("{RUNS}/{id}");
    insta::assert_json_snapshot!("a submitted run", service.get(&one).await.ok());
    assert!(service.post(START, "{}").await.refused(409).contains("its execution daily-sales-1710000000 is active"));

    service.pass(2);
    service.run(id).await;
    service.runtime.logs.lock().unwrap().insert(id.into(), "one\ntwo\n".into());
    assert_eq!(service.get(&format!("{one}/logs")).await.ok(), json!({"logs": "one\ntwo\n"}));
    service.pass(60);
    service.end(id, Status::UserError, "one\ntwo\nthree\n").await;
    insta::assert_json_snapshot!("an ended run", service.get(&one).await.ok());
    assert!(service.delete(&one).await.refused(400).contains("has ended"));

    for (tail, logs) in [
        ("", "one\ntwo\nthree\n"),
        ("?tail_lines=0", "one\ntwo\nthree\n"),
        ("?tail_lines=-1", "one\ntwo\nthree\n"),
        ("?tail_lines=2", "two\nthree\n"),
        ("?tail_lines=999999", "one\ntwo\nthree\n"),
    ] {
        assert_eq!(service.get(&format!("{one}/logs{tail}")).await.ok()["logs"], logs, "{tail}");
    }
    for bad in ["x", "1.5", "99999999999999999999"] {
        service.get(&format!("{one}/logs?tail_lines={bad}")).await.refused(400);
    }
}

async fn executions_are_listed_with_the_newest_last_and_by_status() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    let first = service.execute("t1", "daily-sales").await;
    service.run(&first).await;
    service.pass(10);
    service.end(&first, Status::Succeeded, "").await;
    service.pass(10);
    let second = service.execute("t1", "daily-sales").await;

    let ids = async |uri: &str| {
        let list = service.get(uri).await.ok();
        let ids: Vec<_> = list.as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect();
        assert!(list.as_array().unwrap().iter().all(|run| run["deployment"].is_object()));
        ids
    };
    assert_eq!(ids(RUNS).await, [first.clone(), second.clone()]);
    assert_eq!(ids(START).await, [first.clone(), second.clone()]);
    for (filter, expected) in [
        ("execution_status=succeeded", vec![&first]),
        ("execution_status=submitted&execution_status=running", vec![&second]),
        ("execution_status=submitted,SUCCEEDED", vec![&first, &second]),
        ("execution_status=", vec![&first, &second]),
        ("execution_status=cancelled", vec![]),
    ] {
        let expected: Vec<_> = expected.into_iter().cloned().collect();
        assert_eq!(ids(&format!("{RUNS}?{filter}")).await, expected, "{filter}");
    }
    let why = service.get(&format!("{RUNS}?execution_status=finished")).await.refused(404);
    assert!(why.contains("submitted, running"), "{why}");
}

async fn a_cancellation_is_accepted_while_a_run_is_active() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    let id = service.execute("t1", "daily-sales").await;
    service.delete(&format!("{RUNS}/{id}")).await.is(200);
    service.delete(&format!("{RUNS}/{id}")).await.is(200);
    service.delete(&format!("{RUNS}/daily-sales-1")).await.refused(404);
}

async fn what_cannot_be_started_is_refused() {
    let service = Service::start().await;
    service.post("/data-jobs/for-team/t1/jobs/not-there/deployments/production/executions", "{}").await.refused(404);
    service.create("t1", "daily-sales").await;
    service.post(START, "{}").await.refused(404);
    service.get("/data-jobs/for-team/t1/jobs/not-there/executions").await.refused(404);
    service.get(&format!("{RUNS}/daily-sales-1")).await.refused(404);
    service.get(&format!("{RUNS}/..%2F..%2Fetc/logs")).await.refused(404);
    for bad in [json!({"args": []}), json!({"args": "x"}), json!({"started_by": 1}), json!({"started_by": "a\u{7}"})] {
        service.post(START, bad).await.refused(400);
    }
    service.post(START, json!({"args": {"x": "y".repeat(200_000)}})).await.refused(413);
}

async fn a_start_by_the_operations_page_names_the_user_alone() {
    let service = Service::with(Wish { templates: true, ..Wish::default() }).await;
    service.deploy("t1", "daily-sales").await;
    let uri = "/data-jobs/for-team/t1/jobs/daily-sales/deployments/daily-sales/executions";
    service.post(uri, "{}").await.is(202);
    let run = service.get(&format!("{RUNS}/daily-sales-1710000000")).await.ok();
    assert_eq!(run["started_by"], "anonymous");
    assert_eq!(run["logs_url"], "https://logs.example/t1/daily-sales-1710000000?from=1710000000000");
    assert_eq!(run["deployment"]["id"], "release");
}

async fn the_url_of_a_log_has_times_in_the_format_and_with_the_offset_of_the_operator() {
    let wish = Wish {
        templates: true,
        logs_date_format: api::DateFormat::Iso,
        logs_start_offset_seconds: -60,
        ..Wish::default()
    };
    let service = Service::with(wish).await;
    service.deploy("t1", "daily-sales").await;
    let id = service.execute("t1", "daily-sales").await;
    let run = service.get(&format!("{RUNS}/{id}")).await.ok();
    assert_eq!(run["logs_url"], format!("https://logs.example/t1/{id}?from=2024-03-09T15:59:00Z"));
}
