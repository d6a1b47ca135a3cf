//! Generations of a deployment and audit events.

use serde_json::{Value, json};

use crate::support::Service;

on_each_database!(
    each_change_is_a_revision_that_can_be_read_and_compared,
    a_rollback_restores_an_old_revision_whole_with_its_schedule,
    audit_events_show_who_changed_what_and_nothing_of_another_job_of_that_name,
);

const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";
const ONE: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments/production";
const REVISIONS: &str = "/data-jobs/for-team/t1/jobs/daily-sales/deployments/production/revisions";

fn numbers(page: &Value, list: &str, member: &str) -> Vec<i64> {
    page[list].as_array().unwrap().iter().map(|entry| entry[member].as_i64().unwrap()).collect()
}

async fn each_change_is_a_revision_that_can_be_read_and_compared() {
    let service = Service::start().await;
    service.get(REVISIONS).await.refused(404);
    service.deploy("t1", "daily-sales").await;
    service.patch(ONE, json!({"enabled": false})).await.is(202);
    service.patch(ONE, json!({"vdk_version": "9.1", "resources": {"memory_limit": 512}})).await.is(202);

    let page = service.get(REVISIONS).await.ok();
    let generations = numbers(&page, "revisions", "revision");
    assert_eq!((generations.len(), &page["next_before"]), (3, &json!(null)));
    assert!(generations.is_sorted_by(|a, b| a > b));
    let newest = service.get(&format!("{REVISIONS}?limit=2")).await.ok();
    assert_eq!(numbers(&newest, "revisions", "revision"), generations[..2]);
    let older = service.get(&format!("{REVISIONS}?limit=2&before={}", newest["next_before"])).await.ok();
    assert_eq!(numbers(&older, "revisions", "revision"), generations[2..]);
    assert_eq!(older["next_before"], json!(null));

    assert_eq!(service.get(&format!("{REVISIONS}/{}", generations[2])).await.ok(), page["revisions"][2]);
    let diff = service.get(&format!("{REVISIONS}/{}/diff/{}", generations[1], generations[0])).await.ok();
    assert_eq!(
        diff["changes"],
        json!([
            {"field": "vdk_version_requested", "from": null, "to": "9.1"},
            {"field": "vdk_version", "from": "0.3.1466514302", "to": "9.1"},
            {"field": "resources.memory_limit", "from": null, "to": 512},
        ])
    );
    for unknown in ["/0", "/99", "/1/diff/99", "/99/diff/1"] {
        service.get(&format!("{REVISIONS}{unknown}")).await.refused(404);
    }
    for bad in ["/x", "/1/diff/x", "?limit=0", "?limit=1001", "?before=x"] {
        service.get(&format!("{REVISIONS}{bad}")).await.refused(400);
    }
}

async fn a_rollback_restores_an_old_revision_whole_with_its_schedule() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    let first = service.get(REVISIONS).await.ok()["revisions"][0]["revision"].as_i64().unwrap();
    let mut job = service.get(JOB).await.ok();
    job["config"]["schedule"]["schedule_cron"] = json!("0 3 * * *");
    job["config"]["contacts"]["notified_on_job_success"] = json!(["a@example.org"]);
    service.put(JOB, job).await.is(200);
    service.patch(ONE, json!({"vdk_version": "9.1", "enabled": false})).await.is(202);

    service.post(&format!("{REVISIONS}/{first}/rollback"), "").await.is(202);
    let newest = service.get(REVISIONS).await.ok()["revisions"][0]["revision"].as_i64().unwrap();
    assert!(newest > first + 2);
    assert_eq!(service.get(&format!("{REVISIONS}/{first}/diff/{newest}")).await.ok()["changes"], json!([]));
    // The job says the same, or its next deployment would turn the schedule back.
    let job = service.get(JOB).await.ok();
    assert_eq!(job["config"]["schedule"], json!({}));
    assert_eq!(job["config"]["contacts"]["notified_on_job_success"], json!([]));
    // A change to the desired state itself creates no generation.
    service.post(&format!("{REVISIONS}/{first}/rollback"), "").await.is(202);
    assert_eq!(service.get(REVISIONS).await.ok()["revisions"][0]["revision"], json!(newest));

    // A removed deployment comes back; one without its sources does not.
    service.delete(ONE).await.is(202);
    service.post(&format!("{REVISIONS}/{first}/rollback"), "").await.is(202);
    assert_eq!(service.get(&format!("{ONE}/rollout")).await.ok()["desired"]["enabled"], true);
    service.delete(ONE).await.is(202);
    service.delete(&format!("{JOB}/sources")).await.is(200);
    let why = service.post(&format!("{REVISIONS}/{first}/rollback"), "").await.refused(409);
    assert!(why.contains("removed"), "{why}");
    service.post(&format!("{REVISIONS}/99/rollback"), "").await.refused(404);
}

async fn audit_events_show_who_changed_what_and_nothing_of_another_job_of_that_name() {
    let service = Service::start().await;
    let uri = format!("{JOB}/audit-events");
    service.get(&uri).await.refused(404);
    service.deploy("t1", "daily-sales").await;
    service.delete(JOB).await.is(200);
    service.deploy("t1", "daily-sales").await;
    service.put(&format!("{ONE}/properties"), json!({"password": "hidden"})).await.is(204);

    let page = service.get(&uri).await.ok();
    let events = page["events"].as_array().unwrap();
    let actions: Vec<_> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["properties.replace", "deployment.change", "sources.upload", "job.create"]);
    assert_eq!((&events[1]["by"], &events[1]["team"]), (&json!("anonymous"), &json!("t1")));
    assert!(events[1]["revision"].is_i64() && !events[1]["op_id"].as_str().unwrap().is_empty());
    assert!(!page.to_string().contains("hidden"));

    let first = service.get(&format!("{uri}?limit=3")).await.ok();
    assert_eq!(first["events"].as_array().unwrap()[..], events[..3]);
    let rest = service.get(&format!("{uri}?limit=3&before={}", first["next_before"])).await.ok();
    assert_eq!((&rest["events"].as_array().unwrap()[..], &rest["next_before"]), (&events[3..], &json!(null)));
    service.get("/data-jobs/for-team/t2/jobs/daily-sales/audit-events").await.refused(404);
}
