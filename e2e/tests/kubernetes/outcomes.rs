//! How runs end in a cluster, and what keeps them from starting.

use e2e::job::Job;
use serde_json::json;
use testing::Database;

use crate::place::{Node, Place};

/// A name as long as the service takes, which makes the names of its pods longer than a name may be.
const FIFTY: &str = "a-job-whose-name-has-all-of-the-fifty-characters-1";

fn job(name: &str, body: &str) -> Job {
    Job::new(name).step("10_step.py", body)
}

#[tokio::test]
async fn every_way_for_a_run_to_end_has_its_status() {
    let place = Place::with("outcomes", Database::Sqlite, Node::Real, |options| {
        options.set("HOLDFAST_RUN_DEADLINE_SECONDS", "60").set("HOLDFAST_KUBERNETES_MEMORY_LIMIT_MI", "200")
    });
    let api = place.api();
    let cases = [
        (FIFTY, "print('done')", "succeeded", ""),
        ("raises", "raise ValueError('a wrong value')", "user_error", "exit code 1"),
        ("exits-three", "sys.exit(3)", "user_error", "exit code 3"),
        ("is-killed", "os._exit(137)", "platform_error", "137"),
        ("eats-memory", "x = []\nwhile True: x.append(bytearray(10_000_000))", "user_error", "memory"),
        ("never-ends", "print('still here', flush=True)\ntime.sleep(600)", "user_error", "60 seconds"),
    ];
    let mut started = Vec::new();
    for (name, body, ..) in cases {
        place.deployed(&job(name, body)).await;
        started.push(api.started(name).await);
    }
    for ((name, _, status, says), id) in cases.iter().zip(&started) {
        let ended = place.ended(name, id).await;
        let log = api.log(name, id).await;
        assert_eq!(ended["status"], *status, "{ended}\n{log}");
        assert!(ended["message"].as_str().unwrap_or_default().contains(says), "{ended}");
    }
    let log = api.log("never-ends", &started[5]).await;
    assert!(log.contains("still here"), "what a run said before its deadline stays: {log}");
}

#[tokio::test]
async fn what_keeps_a_run_from_starting_is_told_with_what_to_do() {
    let place = Place::new("held", Database::Sqlite, Node::Real);
    let api = place.api();

    // Its image was not pushed.
    let without = job("without-image", "print('now it runs')");
    let _ = api.create(without.name()).await.is(201);
    let version = api.deploy(&without).await;
    api.reached(without.name(), &version).await;
    let id = api.started(without.name()).await;
    let waiting = place.says(without.name(), &id, "image").await;
    assert_eq!(waiting["status"], "submitted", "{waiting}");
    place.push(&without, &version);
    assert_eq!(place.ended(without.name(), &id).await["status"], "succeeded");

    // It asks for more than any node has.
    let huge = job("too-large", "print('never')");
    place.deployed(&huge).await;
    let change = json!({"resources": {"memory_request": 16_000_000, "memory_limit": 16_000_000}});
    let _ = api.patch("/jobs/too-large/deployments/production", &change).await.is(202);
    place
        .becomes("the amounts are in the CronJob", "cronjob", "too-large", |cron_job| {
            cron_job.is_some_and(|c| c.to_string().contains("15625Gi"))
        })
        .await;
    let id = api.started("too-large").await;
    let waiting = place.says("too-large", &id, "placed on a node").await;
    assert_eq!(waiting["status"], "submitted", "{waiting}");
    let _ = api.cancel("too-large", &id).await.is(200);
    assert_eq!(place.ended("too-large", &id).await["status"], "cancelled");

    // The namespace has no room for another pod.
    place.kubectl(&["create", "quota", "none", "--hard=pods=0"]);
    let id = api.started(without.name()).await;
    let waiting = place.says(without.name(), &id, "limit of the namespace").await;
    assert_eq!(waiting["status"], "submitted", "{waiting}");
    place.kubectl(&["delete", "quota", "none"]);
    assert_eq!(place.ended(without.name(), &id).await["status"], "succeeded");
}
