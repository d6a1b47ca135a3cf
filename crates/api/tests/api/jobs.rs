//! Jobs, keytab, sources.

use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{Service, Wish, archive};

on_each_database!(
    info_names_the_versions_on_offer,
    a_job_is_created_read_changed_and_deleted,
    a_team_may_have_spaces_and_other_teams_do_not_see_its_jobs,
    names_and_teams_in_address_and_body_must_agree,
    a_job_whose_name_can_be_none_is_unknown_and_not_a_mistake_of_the_body,
    scheduled_times_follow_the_wall_clock_of_the_schedules_zone,
    a_keytab_has_no_bytes_and_is_missing_only_when_it_was_switched_off,
    sources_go_up_with_any_top_folder_and_come_down_with_the_jobs_name,
    bad_archives_are_refused,
);

const JOBS: &str = "/data-jobs/for-team/t1/jobs";
const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";

async fn info_names_the_versions_on_offer() {
    let service = Service::start().await;
    let info = service.get("/data-jobs/for-team/anything/info").await.ok();
    assert_eq!(info, json!({"api_version": "0.1.0", "supported_python_versions": ["3.10", "3.11"]}));
}

async fn scheduled_times_follow_the_wall_clock_of_the_schedules_zone() {
    let service = Service::start().await;
    let times = format!("{JOB}/scheduled-times");
    service.get(&times).await.refused(404);
    service.create("t1", "daily-sales").await;
    let none = json!({"schedule_cron": null, "time_zone": null, "times": []});
    let mut job = service.get(JOB).await.ok();
    job["config"]["schedule"]["schedule_cron"] = json!("");
    service.put(JOB, &job).await.is(200);
    assert_eq!(service.get(&times).await.ok(), none);

    // The clock of the service is at 16:00 on 9 March 2024, and Berlin's clocks go forward on 31 March.
    job["config"]["schedule"]["schedule_cron"] = json!("TZ=Europe/Berlin 0 6 * * *");
    service.put(JOB, &job).await.is(200);
    let found = service.get(&format!("{times}?limit=22")).await.ok();
    assert_eq!(
        (&found["time_zone"], &found["schedule_cron"]),
        (&json!("Europe/Berlin"), &job["config"]["schedule"]["schedule_cron"])
    );
    assert_eq!(found["times"].as_array().unwrap().len(), 22);
    assert_eq!(found["times"][0], "2024-03-10T05:00:00Z");
    assert_eq!(
        (&found["times"][20], &found["times"][21]),
        (&json!("2024-03-30T05:00:00Z"), &json!("2024-03-31T04:00:00Z"))
    );
    assert_eq!(service.get(&times).await.ok()["times"].as_array().unwrap().len(), 20);
    for bad in ["0", "101", "x"] {
        service.get(&format!("{times}?limit={bad}")).await.refused(400);
    }
    service.get("/data-jobs/for-team/t2/jobs/daily-sales/scheduled-times").await.refused(404);
}

async fn a_job_is_created_read_changed_and_deleted() {
    let service = Service::start().await;
    let body = json!({"job_name": "daily-sales", "description": "", "config": {"schedule": {}, "generate_keytab": true,
        "enable_execution_notifications": true, "notification_delay_period_minutes": 240}, "team": "t1"});
    let created = service.post("/data-jobs/for-team/t1/jobs?name=daily-sales", &body).await;
    created.is(201);
    assert_eq!(created.header("location"), JOB);
    insta::assert_json_snapshot!("a new job", service.get(JOB).await.ok());

    assert!(service.post(JOBS, &body).await.refused(409).contains("A job of this name exists"));

    // The operations page sends the whole object back, with nulls.
    let mut whole = service.get(JOB).await.ok();
    whole["config"]["schedule"]["schedule_cron"] = json!("0 3 * * *");
    whole["config"]["db_default_type"] = Value::Null;
    whole["config"]["contacts"] = json!({"notified_on_job_deploy": ["a@b.example"], "notified_on_job_success": null});
    whole["description"] = json!("Sales of the day");
    whole["something_new"] = json!([1]);
    service.put(JOB, &whole).await.is(200);
    insta::assert_json_snapshot!("a changed job", service.get(JOB).await.ok());

    service.delete(JOB).await.is(200);
    assert!(service.get(JOB).await.refused(404).contains("Jobs of other teams are not searched."));
    service.delete(JOB).await.refused(404);
    service.put(JOB, &whole).await.refused(404);
}

async fn a_team_may_have_spaces_and_other_teams_do_not_see_its_jobs() {
    let service = Service::start().await;
    service.create("Team of Ä", "daily-sales").await;
    let job = service.get("/data-jobs/for-team/Team%20of%20%C3%84/jobs/daily-sales").await.ok();
    assert_eq!(job["team"], "Team of Ä");
    for team in ["t1", "team%20of%20%C3%84", "Team+of+%C3%84", "%20"] {
        service.get(&format!("/data-jobs/for-team/{team}/jobs/daily-sales")).await.refused(404);
    }
}

async fn names_and_teams_in_address_and_body_must_agree() {
    let service = Service::start().await;
    let create = async |uri: &str, body: Value| service.post(uri, body).await;
    let why =
        create("/data-jobs/for-team/t1/jobs?name=other-name", json!({"job_name": "daily-sales"})).await.refused(400);
    assert!(why.starts_with("job_name "), "{why}");
    assert!(create(JOBS, json!({"job_name": "daily-sales", "team": "t2"})).await.refused(400).starts_with("team "));
    assert_eq!(create(JOBS, json!({"description": "x"})).await.refused(400), "The request has no job_name.");
    create("/data-jobs/for-team/t1/jobs?name=daily-sales", json!({})).await.is(201);

    assert!(service.put(JOB, json!({"job_name": "other-name"})).await.refused(400).contains("renamed"));
    assert!(service.put(JOB, json!({"team": "t2"})).await.refused(400).starts_with("team "));
    service.put("/data-jobs/for-team/t1/jobs/not-there", json!({"team": "t2"})).await.refused(404);
    service.put(JOB, json!({})).await.is(200);
}

async fn a_job_whose_name_can_be_none_is_unknown_and_not_a_mistake_of_the_body() {
    let service = Service::start().await;
    service.put("/data-jobs/for-team/t1/jobs/%11", r#"{"job_name": null, "config": {}}"#).await.refused(404);
    service.put("/data-jobs/for-team/%0F/jobs/daily-sales", r#"{"job_name": null, "config": {}}"#).await.refused(404);
    service.put("/data-jobs/for-team/t1/jobs/%11", r#"{"job_name": "daily-sales", "config": {}}"#).await.refused(400);
}

async fn a_keytab_has_no_bytes_and_is_missing_only_when_it_was_switched_off() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    let keytab = service.get(&format!("{JOB}/keytab")).await;
    keytab.is(200);
    assert_eq!(keytab.header("content-type"), "application/octet-stream");
    service.put(JOB, json!({"config": {"generate_keytab": false}})).await.is(200);
    service.get(&format!("{JOB}/keytab")).await.refused(404);
    service.get(&format!("{JOBS}/not-there/keytab")).await.refused(404);
}

async fn sources_go_up_with_any_top_folder_and_come_down_with_the_jobs_name() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    let uri = format!("{JOB}/sources");
    service.get(&uri).await.refused(404);
    let version = service.upload("t1", "daily-sales").await;
    assert_eq!(version.len(), 40);
    let again = service.call(Method::POST, &uri, Some(("application/octet-stream", archive("elsewhere")))).await.ok();
    assert_eq!(again["version_sha"], version.as_str(), "the same content is the same version");

    let down = service.get(&uri).await;
    assert_eq!((down.status.as_u16(), down.header("content-type")), (200, "application/octet-stream"));
    assert_eq!(down.header("content-disposition"), "attachment; filename=\"daily-sales.zip\"");
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(down.bytes)).unwrap();
    assert!(zip.by_name("daily-sales/10_step.py").is_ok());
    service.get("/data-jobs/for-team/t1/jobs/not-there/sources").await.refused(404);
}

async fn bad_archives_are_refused() {
    let service = Service::with(Wish { archive_max_bytes: Some(1000), ..Wish::default() }).await;
    service.create("t1", "daily-sales").await;
    let upload = async |job: &str, bytes: Vec<u8>| {
        let uri = format!("{JOBS}/{job}/sources");
        service.call(Method::POST, &uri, Some(("application/octet-stream", bytes))).await
    };
    upload("daily-sales", b"this is no archive".to_vec()).await.refused(400);
    upload("daily-sales", vec![]).await.refused(400);
    assert!(upload("daily-sales", vec![0; 1001]).await.refused(413).contains("1000 bytes"));
    upload("not-there", archive("x")).await.refused(404);
    service.get(&format!("{JOB}/sources")).await.refused(404);
}
