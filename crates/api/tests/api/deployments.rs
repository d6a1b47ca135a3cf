//! Deployments.

use serde_json::json;

use crate::support::Service;

on_each_database!(
    a_deployment_shows_when_it_is_reached,
    absent_members_stay_and_a_version_update_does_not_enable,
    a_list_can_be_narrowed_by_id_and_mode,
    what_cannot_be_deployed_is_refused,
    a_rollout_reports_its_progress_and_its_problem,
);

const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";
const LIST: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments";
const ONE: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments/production";

async fn a_deployment_shows_when_it_is_reached() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    assert_eq!(service.get(LIST).await.ok(), json!([]));
    service.get(ONE).await.refused(404);

    service.reach("daily-sales").await;
    let list = service.get(LIST).await.ok();
    insta::assert_json_snapshot!("a deployment", list);
    assert_eq!(service.get(ONE).await.ok(), list[0]);
    assert_eq!(service.get(&format!("{LIST}/daily-sales")).await.ok(), list[0], "the id is one to ask with");
    service.get(&format!("{LIST}/other")).await.refused(404);

    service.delete(ONE).await.is(202);
    assert_eq!(service.get(LIST).await.ok(), json!([]));
    service.delete(ONE).await.is(202);
}

async fn absent_members_stay_and_a_version_update_does_not_enable() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    let enabled = async || {
        service.reach("daily-sales").await;
        service.get(ONE).await.ok()["enabled"].as_bool().unwrap()
    };
    service.patch(ONE, json!({"enabled": false})).await.is(202);
    assert!(!enabled().await);
    service.patch(ONE, json!({"vdk_version": "1.0"})).await.is(202);
    assert!(!enabled().await);
    service.post(LIST, json!({"vdk_version": "2.0", "enabled": null})).await.is(202);
    assert!(!enabled().await);
    service.post(LIST, json!({"enabled": true})).await.is(202);
    assert!(enabled().await);
    let deployment = service.get(ONE).await.ok();
    assert_eq!(deployment["vdk_version"], "2.0");

    // A deployment that was read can be sent back.
    service.post(LIST, deployment).await.is(202);
    service
        .patch(&format!("{LIST}/daily-sales"), json!({"resources": {"cpu_limit": 2, "memory_limit": 500}}))
        .await
        .is(202);
    service.reach("daily-sales").await;
    assert_eq!(service.get(ONE).await.ok()["resources"], json!({"cpu_limit": 2.0, "memory_limit": 500}));
}

async fn a_list_can_be_narrowed_by_id_and_mode() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    service.reach("daily-sales").await;
    for (filter, count) in [
        ("deployment_id=production", 1),
        ("deployment_id=other", 0),
        ("mode=release", 1),
        ("mode=testing", 0),
        ("mode=", 1),
    ] {
        assert_eq!(service.get(&format!("{LIST}?{filter}")).await.ok().as_array().unwrap().len(), count, "{filter}");
    }
    service.get(&format!("{LIST}?mode=other")).await.refused(400);
}

async fn what_cannot_be_deployed_is_refused() {
    let service = Service::start().await;
    let unknown = "/data-jobs/for-team/t1/jobs/not-there/deployments";
    service.post(unknown, json!({"enabled": true})).await.refused(404);
    service.get(unknown).await.refused(404);
    service.create("t1", "daily-sales").await;
    service.post(LIST, json!({})).await.refused(409);
    service.patch(ONE, json!({"enabled": true})).await.refused(404);
    service.post(LIST, json!({"job_version": "0".repeat(40)})).await.refused(409);

    let version = service.upload("t1", "daily-sales").await;
    let why = service.post(LIST, json!({"job_version": version, "python_version": "2.7"})).await.refused(409);
    assert!(why.contains("3.10, 3.11"), "{why}");
    for bad in [
        json!({"job_version": "main"}),
        json!({"python_version": "three"}),
        json!({"python_version": 3.11}),
        json!({"vdk_version": "1.0\n--index-url https://evil.example"}),
        json!({"vdk_version": "-r"}),
        json!({"enabled": "yes"}),
        json!({"mode": "production"}),
        json!({"schedule": "0 3 * * *"}),
        json!({"resources": {"memory_limit": 1.5}}),
        json!({"resources": {"cpu_limit": -1}}),
        json!({"resources": [null, null]}),
        json!({"schedule": [null]}),
        json!([]),
        json!([null, null, null, null, null, null, null, null, null, null]),
    ] {
        let mut body = bad.clone();
        if let Some(members) = body.as_object_mut() {
            members.entry("job_version").or_insert(json!(version));
        }
        service.post(LIST, body).await.refused(400);
    }
    service.post(LIST, json!({"job_version": version, "resources": {"memory_limit": 512}})).await.is(202);
    // Above the limit that is stored, and above the one beside it.
    for resources in [json!({"memory_request": 513}), json!({"cpu_request": 2, "cpu_limit": 1})] {
        let why = service.post(LIST, json!({"resources": resources})).await.refused(409);
        assert!(why.contains("is above"), "{why}");
    }
    service.patch(&format!("{LIST}/other"), json!({"enabled": false})).await.refused(404);
    service.delete(&format!("{LIST}/other")).await.refused(404);
    for id in ["default", "release", "production", "daily-sales"] {
        service.patch(&format!("{LIST}/{id}"), json!({"enabled": false})).await.is(202);
    }
    // Also where there is none any more.
    for id in ["default", "release", "production"] {
        service.delete(&format!("{LIST}/{id}")).await.is(202);
    }
    service.delete(JOB).await.is(200);
    service.get(LIST).await.refused(404);
}

async fn a_rollout_reports_its_progress_and_its_problem() {
    let service = Service::start().await;
    let rollout = format!("{ONE}/rollout");
    service.get(&rollout).await.refused(404);
    service.deploy("t1", "daily-sales").await;
    let pending = service.get(&rollout).await.ok();
    assert_eq!(pending["phase"], "pending");
    assert_eq!(pending["deployed_revision"], json!(null));

    let problem = model::Problem::new(
        model::problem::Code::PackagesUnresolvable,
        "It was not rolled out.",
        "A package does not exist.",
    )
    .nothing_changed()
    .fix("Retry.");
    service.fail("daily-sales", problem.clone()).await;
    let failed = service.get(&rollout).await.ok();
    assert_eq!((&failed["phase"], &failed["status"]), (&json!("failed"), &json!("USER_ERROR")));
    assert_eq!((&failed["problem"]["why"], &failed["problem"]["fault"]), (&json!(problem.why), &json!("user")));

    service.post(LIST, json!({"vdk_version": "2.0"})).await.is(202);
    assert_eq!(service.get(&rollout).await.ok()["phase"], "pending");
    service.reach("daily-sales").await;
    let reached = service.get(&rollout).await.ok();
    assert_eq!((&reached["phase"], &reached["problem"]), (&json!("rolled_out"), &json!(null)));
    assert_eq!(reached["deployed_revision"], reached["desired_revision"]);
    service.get(&format!("{LIST}/other/rollout")).await.refused(404);
}
