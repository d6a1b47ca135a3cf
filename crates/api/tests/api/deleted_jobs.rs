//! Jobs that were deleted and are brought back.

use model::{clock::Clock, deployment::Deployment, name::JobName};
use serde_json::json;

use crate::support::Service;

on_each_database!(
    a_deleted_job_is_undeleted_whole_and_a_new_job_with_its_name_has_nothing_of_it,
    what_can_be_brought_back_is_listed_page_by_page,
    a_job_whose_deployment_can_not_come_back_comes_back_without_it,
);

const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";
const UNDELETE: &str = "/data-jobs/for-team/t1/jobs/daily-sales/undelete";
const DELETED: &str = "/data-jobs/for-team/t1/deleted-jobs";

async fn a_deleted_job_is_undeleted_whole_and_a_new_job_with_its_name_has_nothing_of_it() {
    let service = Service::start().await;
    service.post(UNDELETE, "").await.refused(404);
    service.deploy("t1", "daily-sales").await;
    service.reach("daily-sales").await;
    let mut job = service.get(JOB).await.ok();
    job["config"]["schedule"]["schedule_cron"] = json!("0 3 * * *");
    service.put(JOB, job).await.is(200);
    service.patch(&format!("{JOB}/deployments/production"), json!({"vdk_version": "9.1"})).await.is(202);
    service.put(&format!("{JOB}/deployments/TODO/properties"), json!({"a": 1})).await.is(204);
    service.put(&format!("{JOB}/deployments/TODO/secrets"), json!({"s": "x"})).await.is(202);
    let run = service.execute("t1", "daily-sales").await;
    service.run(&run).await;
    service.end(&run, model::execution::Status::Succeeded, "the log").await;
    let before = service.get(JOB).await.ok();
    let rollout = service.get(&format!("{JOB}/deployments/production/rollout")).await.ok();
    service.post(UNDELETE, "").await.refused(404);
    service.delete(JOB).await.is(200);

    // A new job with the same name, also of another team, inherits nothing and prevents the restoration.
    service.create("t2", "daily-sales").await;
    let other = "/data-jobs/for-team/t2/jobs/daily-sales";
    assert_eq!(service.get(&format!("{other}/deployments/TODO/properties")).await.ok(), json!({}));
    let why = service.post(UNDELETE, "").await.refused(409);
    assert!(why.contains("exists"), "{why}");
    service.post(&format!("{other}/undelete"), "").await.refused(404);
    service.delete(other).await.is(200);

    service.pass(3600);
    let answer = service.post(UNDELETE, "").await;
    let undeleted = answer.ok();
    assert_eq!(answer.header("location"), JOB);
    assert_eq!((&undeleted["job_name"], &undeleted["problem"]), (&json!("daily-sales"), &json!(null)));
    assert_eq!(service.get(JOB).await.ok(), before);
    assert_eq!(service.get(&format!("{JOB}/deployments/TODO/properties")).await.ok(), json!({"a": 1}));
    assert_eq!(service.get(&format!("{JOB}/deployments/TODO/secrets")).await.ok(), json!({"s": "x"}));
    assert_eq!(service.get(&format!("{JOB}/sources")).await.status, 200);
    assert_eq!(service.get(&format!("{JOB}/executions/{run}/logs")).await.ok()["logs"], "the log");
    // Its deployment is what it was, as a new revision.
    let back = service.get(&format!("{JOB}/deployments/production/rollout")).await.ok();
    assert_eq!(back["desired_revision"], undeleted["revision"]);
    assert!(back["desired_revision"].as_i64() > rollout["desired_revision"].as_i64());
    for member in ["job_version", "vdk_version", "enabled"] {
        assert_eq!(back["desired"][member], rollout["desired"][member], "{member}");
    }
    let listed = service.query(&[("query", "{jobs(pageSize:10){content{jobName}}}")]).await.ok();
    assert!(listed.to_string().contains("daily-sales"), "{listed}");
    let events = service.get(&format!("{JOB}/audit-events")).await.ok();
    assert_eq!(events["events"][0]["action"], "job.undelete");
    assert_eq!(events["events"][1]["action"], "job.delete");
    assert_eq!(service.get(DELETED).await.ok()["jobs"], json!([]));
}

async fn what_can_be_brought_back_is_listed_page_by_page() {
    let service = Service::start().await;
    for n in 0..3 {
        let name = format!("daily-sales-{n}");
        service.create("t1", &name).await;
        service.delete(&format!("/data-jobs/for-team/t1/jobs/{name}")).await.is(200);
        // Two are deleted at one instant.
        service.pass(n / 2);
    }
    service.create("t1", "daily-sales").await;
    let all = service.get(DELETED).await.ok();
    assert_eq!((all["jobs"].as_array().unwrap().len(), &all["next_before"]), (3, &json!(null)));
    assert_eq!((&all["jobs"][0]["deleted_by"], &all["jobs"][0]["revision"]), (&json!("anonymous"), &json!(null)));
    let mut paged = Vec::new();
    let mut uri = format!("{DELETED}?limit=1");
    for _ in 0..3 {
        let page = service.get(&uri).await.ok();
        paged.extend(page["jobs"].as_array().unwrap().clone());
        uri = format!("{DELETED}?limit=1&before={}", page["next_before"].as_str().unwrap_or("none"));
    }
    assert!(uri.ends_with("before=none"));
    assert_eq!(json!(paged), all["jobs"]);
    assert_eq!(service.get("/data-jobs/for-team/t2/deleted-jobs").await.ok()["jobs"], json!([]));
    for bad in ["limit=0", "limit=1001", "limit=x", "before=x", "before=1.x"] {
        service.get(&format!("{DELETED}?{bad}")).await.refused(400);
    }
}

async fn a_job_whose_deployment_can_not_come_back_comes_back_without_it() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    // Removed before the job: it is not asked for.
    service.delete(&format!("{JOB}/deployments/production")).await.is(202);
    service.delete(JOB).await.is(200);
    let undeleted = service.post(UNDELETE, "").await.ok();
    assert_eq!((&undeleted["revision"], &undeleted["problem"]), (&json!(null), &json!(null)));
    service.get(&format!("{JOB}/deployments/production/rollout")).await.refused(404);
    let revision = service.get(&format!("{JOB}/deployments/production/revisions")).await.ok()["revisions"][0].clone();
    service
        .post(&format!("{JOB}/deployments/production/revisions/{}/rollback", revision["revision"]), "")
        .await
        .is(202);

    // A Python version that is not offered any more.
    let mut tx = service.db.write().await.unwrap();
    let job = store::jobs::find(&mut tx, &JobName::parse("daily-sales").unwrap()).await.unwrap().unwrap();
    let wanted = store::deployments::find(&mut tx, job.id).await.unwrap().unwrap();
    let generation = store::jobs::next_generation(&mut tx, &job.name).await.unwrap();
    let old = Deployment { generation, python_version: "3.9".parse().unwrap(), ..wanted };
    store::revisions::insert(&mut tx, &old, service.clock.now()).await.unwrap();
    store::deployments::replace(&mut tx, &old, "op", service.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    service.delete(JOB).await.is(200);
    let undeleted = service.post(UNDELETE, "").await.ok();
    assert_eq!(undeleted["revision"], json!(null));
    assert!(undeleted["problem"]["why"].as_str().unwrap().contains("3.9"), "{undeleted}");
    service.get(JOB).await.ok();
}
