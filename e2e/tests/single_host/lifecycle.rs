//! The life of one job, as the stock client lives it.

use std::time::Duration;

use e2e::{job::Job, service::Service, wait};
use serde_json::{Value, json};
use testing::{Database, for_each_database};

const NAME: &str = "life-of-a-job";

fn job() -> Job {
    Job::new(NAME).schedule("* * * * *").step(
        "10_count.py",
        "runs = int(job_input.get_property('runs', 0)) + 1\n\
         job_input.set_all_properties({'runs': runs, 'greeting': 'Grüße, 世界'})\n\
         print('this is run', runs)\n\
         time.sleep(job_input.get_arguments().get('seconds', 0))",
    )
}

/// The tick in seconds since 1970 that a scheduled execution's id tells.
fn tick(execution: &Value) -> u64 {
    let id = execution["id"].as_str().expect("id");
    let minutes = id.strip_prefix(NAME).and_then(|rest| rest.strip_prefix('-')).expect("<job>-<minutes>");
    minutes.parse::<u64>().expect("minutes") * 60
}

fn scheduled(executions: &[Value]) -> Vec<&Value> {
    executions.iter().filter(|e| e["type"] == "scheduled").collect()
}

for_each_database!(a_job_is_created_deployed_run_watched_cancelled_and_deleted);

async fn a_job_is_created_deployed_run_watched_cancelled_and_deleted(on: Database) {
    let service = Service::start_on(on);
    let (vdk, api, job) = (service.vdk(), service.api(), job());

    vdk.ok(&["create", "--cloud", "-n", NAME]).await;
    assert_eq!(vdk.json(&["deploy", "--show", "-n", NAME]).await, json!([]));
    let version = vdk.deploy(&job).await;
    api.reached(NAME, &version).await;
    let deployment = vdk.json(&["deploy", "--show", "-n", NAME]).await[0].clone();
    assert_eq!(deployment["job_version"], version.as_str());
    assert_eq!(deployment["enabled"], true);
    assert!(deployment["python_version"].as_str().is_some_and(|v| v.starts_with("3.")), "{deployment}");
    assert_eq!(deployment["last_deployed_by"], "anonymous");
    assert!(deployment["last_deployed_date"].as_str().is_some_and(|at| at.contains('T')), "{deployment}");

    // A tick starts a run.
    let first = wait::until("a scheduled execution was created", Duration::from_secs(75), async || {
        scheduled(&api.executions(NAME).await).first().map(|e| (*e).clone())
    })
    .await;
    let first_id = first["id"].as_str().expect("id").to_owned();
    assert!(wait::now_seconds().abs_diff(tick(&first)) < 60, "{first}");
    let ended = api.ended(NAME, &first_id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{}", api.log(NAME, &first_id).await);
    assert_eq!(ended["op_id"], first_id.as_str(), "{ended}");

    // Disabled, no tick fires, however slow what follows is; but a person starts another.
    vdk.ok(&["deploy", "--disable", "-n", NAME]).await;
    let disabled_at = wait::now_seconds();
    let second_id = vdk.start(NAME).await;
    let ended = api.ended(NAME, &second_id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{}", api.log(NAME, &second_id).await);
    let shown = vdk.execution(NAME, &second_id).await;
    assert_eq!(shown["type"], "manual");
    assert_eq!(shown["started_by"], "manual/vdk-control-cli/anonymous");
    assert_eq!(shown["job_version"], version.as_str());
    assert!(shown["op_id"].as_str().is_some_and(|op| !op.is_empty()), "{shown}");
    assert!(shown["start_time"].as_str() <= shown["end_time"].as_str(), "{shown}");
    let listed = vdk.json(&["execute", "--list", "-n", NAME]).await;
    let ids: Vec<_> = listed.as_array().expect("a list").iter().filter_map(|e| e["id"].as_str()).collect();
    assert!(ids.contains(&first_id.as_str()) && ids.contains(&second_id.as_str()), "{ids:?}");
    assert!(vdk.log(NAME, &first_id).await.contains("this is run 1"));
    assert!(vdk.log(NAME, &second_id).await.contains("this is run 2"));
    assert!(vdk.ok(&["execute", "--logs", "-n", NAME]).await.contains("this is run 2"), "the latest without -i");
    assert_eq!(vdk.json(&["properties", "-n", NAME, "--get", "runs"]).await["runs"], 2);
    assert_eq!(vdk.json(&["properties", "-n", NAME, "--get", "greeting"]).await["greeting"], "Grüße, 世界");

    // Enabled again, none of the past ticks fires.
    wait::until("the deployment is disabled", wait::SOON, async || {
        (vdk.json(&["deploy", "--show", "-n", NAME]).await[0]["enabled"] == false).then_some(())
    })
    .await;
    wait::second_of_minute(0).await;
    wait::let_pass(Duration::from_secs(8)).await;
    vdk.ok(&["deploy", "--enable", "-n", NAME]).await;
    let enabled_at = wait::now_seconds();
    let next = wait::until("a tick after the enabling starts a run", Duration::from_secs(75), async || {
        scheduled(&api.executions(NAME).await).into_iter().find(|e| tick(e) > disabled_at).cloned()
    })
    .await;
    assert!(tick(&next) >= enabled_at, "no past tick fires: {next}, enabled at {enabled_at}");
    api.ended(NAME, next["id"].as_str().expect("id")).await;

    // A run is cancelled.
    vdk.ok(&["deploy", "--disable", "-n", NAME]).await;
    let said = vdk.json(&["execute", "--start", "-n", NAME, "--arguments", r#"{"seconds": 600}"#]).await;
    let id = said["execution_id"].as_str().expect("execution_id").to_owned();
    api.log_says(NAME, &id, "this is run 4").await;
    assert_eq!(vdk.execution(NAME, &id).await["status"], "running");
    vdk.ok(&["execute", "--cancel", "-n", NAME, "-i", &id]).await;
    assert_eq!(api.ended(NAME, &id).await["status"], "cancelled");
    vdk.run(&["execute", "--cancel", "-n", NAME, "-i", &id]).await.failed(2, &[&id]);
    assert!(vdk.log(NAME, &id).await.contains("this is run 4"), "the log of a cancelled run stays");

    // The deployment is removed, then the job.
    vdk.ok(&["secrets", "-n", NAME, "--set", "token", "s3cret"]).await;
    vdk.ok(&["deploy", "--remove", "-n", NAME]).await;
    wait::until("the deployment is gone", wait::SOON, async || {
        (vdk.json(&["deploy", "--show", "-n", NAME]).await == json!([])).then_some(())
    })
    .await;
    vdk.run(&["execute", "--start", "-n", NAME]).await.failed(2, &["deploy"]);
    assert_eq!(vdk.execution(NAME, &second_id).await["status"], "succeeded", "history stays");
    vdk.ok(&["delete", "--yes", "-n", NAME]).await;
    vdk.run(&["show", "-n", NAME]).await.failed(2, &[]);

    // A new job with the same name inherits nothing.
    vdk.ok(&["create", "--cloud", "-n", NAME]).await;
    assert_eq!(vdk.json(&["properties", "-n", NAME, "--list"]).await, json!({}));
    assert_eq!(vdk.json(&["secrets", "-n", NAME, "--list"]).await, json!({}));
    assert_eq!(vdk.json(&["execute", "--list", "-n", NAME]).await, json!([]));
    assert_eq!(vdk.json(&["deploy", "--show", "-n", NAME]).await, json!([]));
    let _ = api.get(&format!("/jobs/{NAME}/sources")).await.is(404);
    let _ = api.get(&format!("/jobs/{NAME}/executions/{second_id}")).await.is(404);
    let job = api.get(&format!("/jobs/{NAME}")).await.is(200).json();
    assert!(job["config"]["schedule"]["schedule_cron"].as_str().unwrap_or_default().is_empty(), "{job}");
}
