//! Writes to Jobs while others write, and Jobs of others under the names of executions.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{sync::Arc, time::Duration};

use http::Method;
use kube::Api;
use model::{
    name::{ExecutionId, JobId},
    runtime::{ExecutionSpec, Started},
};
use serde_json::{Value, json};

use super::{
    fake::{FakeServer, HeldClock, NAMESPACE, Objects},
    fence::Fence,
    manifest::{
        self,
        tests::{deployment_spec, options, run},
    },
    names,
    runs::{Forgotten, Runner},
};

const LONG_AGO: &str = "2024-05-01T09:00:00Z";

fn runner(server: &FakeServer) -> Runner {
    runner_by(server, &HeldClock::new())
}

fn runner_by(server: &FakeServer, clock: &HeldClock) -> Runner {
    let (client, clock) = (server.client(), Arc::new(clock.clone()));
    Runner {
        cron_jobs: Api::namespaced(client.clone(), NAMESPACE),
        jobs: Api::namespaced(client.clone(), NAMESPACE),
        pods: Api::namespaced(client.clone(), NAMESPACE),
        adopts: false,
        clock: clock.clone(),
        fence: Fence::new(Api::namespaced(client, NAMESPACE), clock),
    }
}

fn job_of(run: &ExecutionSpec) -> JobId {
    run.deployment_spec.deployment.job_id
}

fn path(run: &ExecutionSpec) -> String {
    format!("jobs/{}", run.id)
}

/// A server with the CronJob of the run's job, of which no tick is due.
fn server() -> FakeServer {
    let server = FakeServer::default();
    let mut cron_job = manifest::cron_job(&options(), &deployment_spec(), "image", "inputs").unwrap();
    cron_job.spec.as_mut().unwrap().suspend = Some(true);
    server.objects(|objects| objects.put("cronjobs/daily-sales", serde_json::to_value(cron_job).unwrap()));
    server
}

async fn start(runner: &Runner, run: &ExecutionSpec) -> Result<Started, model::Problem> {
    Box::pin(runner.start(&options(), run, "image", None)).await
}

/// Another instance cancels the run.
fn cancelled(path: String) -> impl FnOnce(&mut Objects) + Send + 'static {
    move |objects| {
        let cancelled = json!({"metadata": {"annotations": {names::CANCELLED: LONG_AGO}}, "spec": {"suspend": true}});
        objects.merge(&path, &cancelled);
    }
}

/// Its controller notes something.
fn noted(path: String) -> impl FnOnce(&mut Objects) + Send + 'static {
    move |objects| objects.merge(&path, &json!({"status": {"conditions": [{"type": "Suspended", "status": "True"}]}}))
}

#[tokio::test]
async fn a_job_of_others_that_has_the_name_of_an_execution_is_never_written() {
    let (server, run) = (server(), run());
    let runner = runner(&server);
    let another_job = "00000000-0000-0000-0000-000000000009";
    let of_others: [Value; 4] = [
        json!({"metadata": {}, "spec": {"suspend": false, "template": {}}}),
        // Jobs of upstream have the same form of name, and an owner.
        json!({"metadata": {
            "labels": {names::NAME: "daily-sales"},
            "ownerReferences": [{"kind": "CronJob", "name": "daily-sales", "apiVersion": "batch/v1", "uid": "x"}],
        }, "spec": {"suspend": false, "template": {}}}),
        // Another Holdfast's, with a job of the same name.
        json!({"metadata": {
            "labels": {names::JOB_ID: another_job}, "annotations": {names::MANUAL: "true"},
        }, "spec": {"suspend": false, "template": {}}}),
        // A person's, who copied the labels.
        json!({"metadata": {"labels": {names::JOB_ID: job_of(&run).to_string()}},
            "spec": {"suspend": false, "template": {}}}),
    ];
    for foreign in of_others {
        server.objects(|objects| objects.put(&path(&run), foreign.clone()));
        let before = server.objects(|objects| objects.get(&path(&run)).unwrap().clone());
        let refused = start(&runner, &run).await.unwrap_err();
        assert!(refused.why.contains("not created by Holdfast"), "{refused}");
        assert!(!runner.cancel(&run.id, job_of(&run)).await.unwrap(), "there is nothing to cancel");
        assert_eq!(runner.forget(&run.id, job_of(&run)).await.unwrap(), Forgotten::Absent);
        assert_eq!(server.objects(|objects| objects.get(&path(&run)).unwrap().clone()), before);
        server.objects(|objects| objects.remove(&path(&run)));
    }
}

#[tokio::test]
async fn a_late_release_does_not_undo_a_cancellation() {
    let (server, run) = (server(), run());
    let runner = runner(&server);
    // The release is carried out after another instance has cancelled the run.
    server.before(Method::PATCH, &path(&run), cancelled(path(&run)));
    assert_eq!(start(&runner, &run).await.unwrap(), Started::Running, "its end shows");
    let job = server.objects(|objects| objects.get(&path(&run)).unwrap().clone());
    assert_eq!(job["spec"]["suspend"], true, "{job}");
    assert_eq!(job["metadata"]["annotations"][names::CANCELLED], LONG_AGO);
    // Nor does one that is begun later.
    let writes = server.writes().len();
    assert_eq!(start(&runner, &run).await.unwrap(), Started::Running);
    assert_eq!(server.writes()[writes..], ["POST jobs"], "which finds the name taken");
    assert_eq!(server.objects(|objects| objects.get(&path(&run)).unwrap()["spec"]["suspend"].clone()), true);
}

#[tokio::test]
async fn every_write_to_a_job_names_what_it_was_decided_upon_and_is_decided_again_when_that_moved() {
    let (server, run, clock) = (server(), run(), HeldClock::new());
    let runner = runner_by(&server, &clock);
    // Its controller comes between at each step.
    server.before(Method::PATCH, &path(&run), noted(path(&run)));
    assert_eq!(start(&runner, &run).await.unwrap(), Started::Running);
    assert_eq!(server.objects(|objects| objects.get(&path(&run)).unwrap()["spec"]["suspend"].clone()), false);
    server.before(Method::PATCH, &path(&run), noted(path(&run)));
    assert!(runner.cancel(&run.id, job_of(&run)).await.unwrap());
    clock.advance(Duration::from_secs(5));
    server.before(Method::DELETE, &path(&run), noted(path(&run)));
    assert!(matches!(runner.forget(&run.id, job_of(&run)).await.unwrap(), Forgotten::Gone(Some(_))));
    assert!(server.objects(|objects| objects.get(&path(&run)).is_none()));
    let calls = server.calls();
    let named: Vec<_> = calls
        .iter()
        .filter(|call| call.path == path(&run) && call.method != Method::GET)
        .map(|call| {
            let named =
                if call.method == Method::DELETE { &call.body["preconditions"] } else { &call.body["metadata"] };
            assert!(named["uid"].is_string() && named["resourceVersion"].is_string(), "{call:?}");
            call.method.as_str()
        })
        .collect();
    assert_eq!(named, ["PATCH", "PATCH", "PATCH", "PATCH", "DELETE", "DELETE"]);
}

#[tokio::test]
async fn a_job_that_is_deleted_and_recreated_is_not_released() {
    let (server, run) = (server(), run());
    let runner = runner(&server);
    let (of, again) = (path(&run), path(&run));
    server.before(Method::PATCH, &of, move |objects| {
        let mut job = objects.get(&again).unwrap().clone();
        job["metadata"]["uid"] = "another".into();
        objects.put(&again, job);
    });
    let refused = start(&runner, &run).await.unwrap_err();
    assert!(refused.why.contains("deleted before it was resumed"), "{refused}");
    assert_eq!(server.objects(|objects| objects.get(&path(&run)).unwrap()["spec"]["suspend"].clone()), true);
}

#[tokio::test]
async fn a_run_that_still_runs_is_cancelled_before_it_is_forgotten() {
    let (server, run, clock) = (server(), run(), HeldClock::new());
    let runner = runner_by(&server, &clock);
    assert_eq!(start(&runner, &run).await.unwrap(), Started::Running);
    let pod =
        |phase: &str| json!({"metadata": {"labels": {names::JOB_OF_POD: run.id.as_str()}}, "status": {"phase": phase}});
    server.objects(|objects| {
        objects.merge(&path(&run), &json!({"status": {"active": 1}}));
        objects.put("pods/daily-sales-1", pod("Running"));
    });
    let forget = async || runner.forget(&run.id, job_of(&run)).await.unwrap();
    let is_there = || server.objects(|objects| objects.get(&path(&run)).is_some());
    assert_eq!(forget().await, Forgotten::Running);
    let job = server.objects(|objects| objects.get(&path(&run)).unwrap().clone());
    assert_eq!(job["spec"]["suspend"], true);
    assert!(job["metadata"]["annotations"][names::CANCELLED].is_string());
    // Its controller has counted it out, and its pod has its grace period.
    server.objects(|objects| objects.merge(&path(&run), &json!({"status": {"active": 0}})));
    assert_eq!(forget().await, Forgotten::Running);
    assert!(is_there());
    server.objects(|objects| objects.put("pods/daily-sales-1", pod("Failed")));
    assert_eq!(forget().await, Forgotten::Running, "another pod may have been made just now");
    clock.advance(Duration::from_secs(5));
    assert!(matches!(forget().await, Forgotten::Gone(Some(_))));
    assert!(!is_there());
}

#[tokio::test]
async fn a_run_whose_label_was_removed_is_still_known_and_can_be_cancelled() {
    let (server, run) = (server(), run());
    let runner = runner(&server);
    assert_eq!(start(&runner, &run).await.unwrap(), Started::Running);
    server.objects(|objects| objects.merge(&path(&run), &json!({"metadata": {"labels": {names::JOB_ID: null}}})));
    let id: &ExecutionId = &run.id;
    assert_eq!(runner.job(id.as_str()).await.unwrap().map(|job| job.job_id), Some(job_of(&run)));
    assert!(runner.cancel(id, job_of(&run)).await.unwrap());
    assert_eq!(server.objects(|objects| objects.get(&path(&run)).unwrap()["spec"]["suspend"].clone()), true);
}
