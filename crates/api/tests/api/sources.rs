//! Sources that are removed.

use serde_json::json;

use crate::support::Service;

on_each_database!(
    what_is_deployed_outlives_its_removed_sources_and_uploading_again_works,
    another_teams_sources_and_a_reason_without_end_are_refused,
);

const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";
const SOURCES: &str = "/data-jobs/for-team/t1/jobs/daily-sales/sources?reason=no%20more";
const DEPLOYMENTS: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments";

async fn what_is_deployed_outlives_its_removed_sources_and_uploading_again_works() {
    let service = Service::start().await;
    service.delete(SOURCES).await.refused(404);
    service.deploy("t1", "daily-sales").await;
    service.reach("daily-sales").await;
    let version = service.get(DEPLOYMENTS).await.ok()[0]["job_version"].clone();
    service.delete(SOURCES).await.is(200);
    service.get(&format!("{JOB}/sources")).await.refused(404);
    service.delete(SOURCES).await.is(200);

    // It runs, starts and changes as before, also by a request that names what is deployed anyway.
    assert_eq!(service.get(DEPLOYMENTS).await.ok()[0]["job_version"], version);
    service.execute("t1", "daily-sales").await;
    service.patch(&format!("{DEPLOYMENTS}/production"), json!({"enabled": false})).await.is(202);
    service.post(DEPLOYMENTS, json!({"job_version": version, "enabled": true})).await.is(202);

    service.delete(&format!("{DEPLOYMENTS}/production")).await.is(202);
    let why = service.post(DEPLOYMENTS, json!({"job_version": version})).await.refused(409);
    assert!(why.starts_with("No sources of the version "), "{why}");
    assert_eq!(service.upload("t1", "daily-sales").await, version);
    service.post(DEPLOYMENTS, json!({"job_version": version})).await.is(202);
    assert_eq!(service.get(&format!("{JOB}/sources")).await.status, 200);
}

async fn another_teams_sources_and_a_reason_without_end_are_refused() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    service.delete("/data-jobs/for-team/t2/jobs/daily-sales/sources").await.refused(404);
    service.delete(&format!("{JOB}/sources?reason={}", "r".repeat(1001))).await.refused(400);
}
