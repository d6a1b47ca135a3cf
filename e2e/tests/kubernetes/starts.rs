//! Starts and ticks: a job runs once at a time, and no tick of the past fires.

use std::time::Duration;

use e2e::{job::Job, wait};
use serde_json::Value;
use testing::Database;

use crate::place::{LONGEST, Node, Place};

fn scheduled(executions: &[Value]) -> Vec<&Value> {
    executions.iter().filter(|e| e["type"] == "scheduled").collect()
}

/// The instant in seconds since 1970 of the tick that an execution's id tells.
fn tick(execution: &Value) -> u64 {
    let id = execution["id"].as_str().expect("id");
    id.rsplit_once('-').and_then(|(_, minutes)| minutes.parse::<u64>().ok()).expect("<job>-<minutes>") * 60
}

#[tokio::test]
async fn a_manual_run_keeps_ticks_away_until_it_is_over() {
    let place = Place::new("forbid", Database::Sqlite, Node::Real);
    let api = place.api();
    let name = "runs-long";
    let body = "print('begun', flush=True)\ntime.sleep(job_input.get_arguments().get('seconds', 0))";
    place.deployed(&Job::new(name).schedule("* * * * *").step("10_step.py", body)).await;
    // Begun in the middle of a minute, so that it runs when the tick comes.
    wait::second_of_minute(20).await;
    let arguments = serde_json::json!({"args": {"seconds": 60}, "started_by": "a person"});
    let id =
        api.post(&format!("/jobs/{name}/deployments/production/executions"), &arguments).await.is(202).location_id();
    wait::until("it runs", LONGEST, async || (api.execution(name, &id).await["status"] == "running").then_some(()))
        .await;
    let ended = place.ended(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let (start, end) = (seconds(&ended["start_time"]), seconds(&ended["end_time"]));
    let held = wait::until("the tick that was held back runs after it", LONGEST, async || {
        scheduled(&api.executions(name).await).into_iter().find(|e| tick(e) > start).cloned()
    })
    .await;
    let ended = place.ended(name, held["id"].as_str().expect("id")).await;
    assert!(seconds(&ended["start_time"]) >= end, "{ended} began before the end of {id} at {end}");
}

fn seconds(time: &Value) -> u64 {
    let at: jiff::Timestamp = time.as_str().expect("a time").parse().expect("a time");
    u64::try_from(at.as_second()).expect("after 1970")
}

#[tokio::test]
async fn enabling_and_restoring_fire_no_tick_of_the_past() {
    let place = Place::new("ticks", Database::Sqlite, Node::InNameOnly);
    let (api, vdk) = (place.api(), place.vdk());
    let name = "is-enabled";
    place.deployed(&Job::new(name).schedule("* * * * *").step("10_step.py", "pass")).await;
    vdk.ok(&["deploy", "--disable", "-n", name]).await;
    let suspended = |object: Option<&Value>, is: bool| object.is_some_and(|o| o["spec"]["suspend"] == is);
    place.becomes("it is suspended", "cronjob", name, |o| suspended(o, true)).await;
    let before = api.executions(name).await.len();
    // One tick is missed, then it is enabled in the middle of a minute.
    wait::second_of_minute(0).await;
    wait::let_pass(Duration::from_secs(15)).await;
    vdk.ok(&["deploy", "--enable", "-n", name]).await;
    let enabled_at = wait::now_seconds();
    place.becomes("it is not suspended", "cronjob", name, |o| suspended(o, false)).await;
    let next = wait::until("the next tick", LONGEST, async || {
        let executions = api.executions(name).await;
        (executions.len() > before).then(|| scheduled(&executions).into_iter().max_by_key(|e| tick(e)).cloned())
    })
    .await
    .expect("a scheduled run");
    assert!(tick(&next) >= enabled_at, "{next} is of before {enabled_at}");
}
