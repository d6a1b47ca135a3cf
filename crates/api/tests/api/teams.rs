//! Teams: jobs that move from one to another, and their credentials.

use serde_json::json;

use crate::support::Service;

on_each_database!(
    a_job_moves_to_another_team_with_all_that_belongs_to_it,
    what_cannot_be_moved_is_refused,
    a_team_stores_its_oauth_application_and_others_find_the_team_by_it,
    credentials_that_break_a_rule_are_refused_and_not_reported,
    the_client_id_of_another_team_is_refused,
);

const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";
const MOVED: &str = "/data-jobs/for-team/team%20two/jobs/daily-sales";

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
    // Active executions continue; executions get the new team from the next rollout on.
    assert_eq!(service.get(&format!("{MOVED}/deployments")).await.ok().as_array().unwrap().len(), 1);
    let after = service.get(&format!("{MOVED}/deployments/production/rollout")).await.ok();
    assert!(after["desired_revision"].as_i64() > before["desired_revision"].as_i64(), "{after}");
    assert_eq!(after["phase"], "pending");

    // To the team that it is in already: nothing changes.
    service.put(&format!("{MOVED}/team/team%20two"), "").await.is(200);
    let same = service.get(&format!("{MOVED}/deployments/production/rollout")).await.ok();
    assert_eq!(same["desired_revision"], after["desired_revision"]);
}

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

async fn a_team_stores_its_oauth_application_and_others_find_the_team_by_it() {
    let service = Service::start().await;
    let uri = "/data-jobs/teams/team%20two/oauth-credentials";
    service.get(uri).await.refused(404);
    service.get(&format!("{uri}/client-id")).await.refused(404);
    service.put(uri, json!({"clientId": "app-1", "clientSecret": "correct horse"})).await.is(202);
    assert_eq!(
        service.get(uri).await.ok(),
        json!({"teamName": "team two", "clientId": "app-1", "clientSecret": "correct horse"})
    );
    assert_eq!(
        service.get(&format!("{uri}/client-id")).await.ok(),
        json!({"teamName": "team two", "clientId": "app-1"})
    );
    service
        .put("/data-jobs/teams/t1/oauth-credentials", json!({"clientId": "app-2", "clientSecret": "s"}))
        .await
        .is(202);
    service.put(uri, json!({"clientId": "app-3", "clientSecret": "other"})).await.is(202);

    let teams = "/data-jobs/oauth-credentials/client-ids";
    assert_eq!(
        service.post(teams, json!(["app-3", "not-there", "app-1", "app-2"])).await.ok(),
        json!([{"teamName": "team two", "clientId": "app-3"}, {"teamName": "t1", "clientId": "app-2"}])
    );
    assert_eq!(service.post(teams, json!([])).await.ok(), json!([]));
}

async fn credentials_that_break_a_rule_are_refused_and_not_reported() {
    let service = Service::start().await;
    let uri = "/data-jobs/teams/t1/oauth-credentials";
    for bad in [
        json!({"clientId": "", "clientSecret": "secret-x"}),
        json!({"clientId": "app", "clientSecret": "  "}),
        json!({"clientId": "app\u{0}", "clientSecret": "secret-x"}),
        json!({"clientId": "app", "clientSecret": "s".repeat(10_001)}),
        json!({"clientId": "app"}),
        json!({"clientId": 1, "clientSecret": "secret-x"}),
        json!([]),
    ] {
        let answer = service.put(uri, bad).await;
        answer.refused(400);
        assert!(!String::from_utf8_lossy(&answer.bytes).contains("secret-x"));
    }
    service
        .put("/data-jobs/teams/%20/oauth-credentials", json!({"clientId": "a", "clientSecret": "b"}))
        .await
        .refused(400);
    service.get(uri).await.refused(404);
    let teams = "/data-jobs/oauth-credentials/client-ids";
    for bad in [json!({}), json!([1]), json!(vec!["a"; 1001])] {
        service.post(teams, bad).await.refused(400);
    }
    service.post(teams, "").await.refused(400);
}

async fn the_client_id_of_another_team_is_refused() {
    let service = Service::start().await;
    let uri = |team: &str| format!("/data-jobs/teams/{team}/oauth-credentials");
    let application = |id: &str| json!({"clientId": id, "clientSecret": "correct horse"});
    service.put(&uri("t1"), application("app-1")).await.is(202);
    let why = service.put(&uri("t2"), application("app-1")).await.refused(409);
    assert!(why.contains("Another team"), "{why}");
    service.get(&uri("t2")).await.refused(404);
    service.put(&uri("t2"), application("app-2")).await.is(202);
    service.put(&uri("t1"), application("app-1")).await.is(202);
    let found = service.post("/data-jobs/oauth-credentials/client-ids", json!(["app-1"])).await.ok();
    assert_eq!(found, json!([{"teamName": "t1", "clientId": "app-1"}]));
}
