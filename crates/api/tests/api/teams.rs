//! Teams: jobs that move from one to another, and their credentials.

use serde_json::json;

use crate::support::Service;

const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";
const MOVED: &str = "/data-jobs/for-team/team%20two/jobs/daily-sales";

#[tokio::test]
async fn a_job_moves_to_another_team_with_all_that_belongs_to_it() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    service.reach("daily-sales").await;
    let before = service.get(&format!("{JOB}/deployments/production/rollout")).await.ok();
    service.put(&format!("{JOB}/deployments/TODO/properties"), json!({"a": 1})).await.is(204);
    service.put(&format!("{JOB}/deployments/TODO/secrets"), json!({"s": "x"})).await.is(202);
    let run = service.execute("t1", "daily-sales").await;

    service.put(&format!("{JOB}/team/team%20two"), "").await.is(200);
    service.get(JOB).await.refused(404);
    assert_eq!(service.get(MOVED).await.ok()["team"], "team two");
    assert_eq!(service.get(&format!("{MOVED}/deployments/TODO/properties")).await.ok(), json!({"a": 1}));
    assert_eq!(service.get(&format!("{MOVED}/deployments/TODO/secrets")).await.ok(), json!({"s": "x"}));
    assert_eq!(service.get(&format!("{MOVED}/executions")).await.ok()[0]["id"], json!(run));
    assert_eq!(service.get(&format!("{MOVED}/sources")).await.status, 200);
    // What runs goes on, and a run is told its new team from the next rollout on.
    assert_eq!(service.get(&format!("{MOVED}/deployments")).await.ok().as_array().unwrap().len(), 1);
    let after = service.get(&format!("{MOVED}/deployments/production/rollout")).await.ok();
    assert!(after["wanted_generation"].as_i64() > before["wanted_generation"].as_i64(), "{after}");
    assert_eq!(after["phase"], "pending");

    // To the team that it is in already: nothing changes.
    service.put(&format!("{MOVED}/team/team%20two"), "").await.is(200);
    let same = service.get(&format!("{MOVED}/deployments/production/rollout")).await.ok();
    assert_eq!(same["wanted_generation"], after["wanted_generation"]);
}

#[tokio::test]
async fn what_cannot_be_moved_is_refused() {
    let service = Service::start().await;
    service.put(&format!("{JOB}/team/t2"), "").await.refused(404);
    service.create("t1", "daily-sales").await;
    service.put("/data-jobs/for-team/t2/jobs/daily-sales/team/t3", "").await.refused(404);
    for bad in ["%20", "a%2Fb", &"t".repeat(101)] {
        service.put(&format!("{JOB}/team/{bad}"), "").await.refused(400);
        service.put(&format!("/data-jobs/for-team/t1/jobs/not-there/team/{bad}"), "").await.refused(404);
    }
    assert_eq!(service.get(JOB).await.ok()["team"], "t1");
}
