//! Objects that this service made and its database does not know: an older backup was restored, or none.

use e2e::{job::Job, wait};
use serde_json::{Value, json};
use testing::Database;

use crate::fixture::{Fixture, LONGEST, Node};

#[tokio::test]
async fn a_service_with_an_empty_database_removes_nothing_until_asked_by_name() {
    let mut fixture = Fixture::with("orphans", Database::Sqlite, Node::InNameOnly, |options| {
        options.set("HOLDFAST_SYNC_SWEEP_INTERVAL_SECONDS", "1")
    });
    let (first, second) = ("is-lost", "is-lost-too");
    let job = |name| Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass");
    fixture.deployed_in_name(&[job(first), job(second)]).await;
    let start = format!("/jobs/{first}/deployments/production/executions");
    let run = fixture.api().post(&start, &json!({})).await.is(202).location_id();
    let is_released = |job: Option<&Value>| job.is_some_and(|job| job["spec"]["suspend"] != true);
    fixture.becomes("a run is in progress", "job", &run, is_released).await;
    // Their status is the controller's, which notes the ends of Jobs.
    let written = |fixture: &Fixture| {
        let mut list: Value = serde_json::from_str(&fixture.kubectl(&["get", "cronjob", "-o", "json"])).expect("JSON");
        for item in list["items"].as_array_mut().expect("a list") {
            item.as_object_mut().expect("an object").remove("status");
            item["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
        }
        list["items"].take()
    };
    let stood = written(&fixture);

    let gauge = async |fixture: &Fixture, count: usize| {
        let line = format!("\nholdfast_orphans {count}\n");
        let api = fixture.api();
        wait::until(format!("{count} orphans are reported"), LONGEST, async || {
            let page = api.scrape("text/plain").await.text();
            page.contains(&line).then_some(())
        })
        .await;
    };
    gauge(&fixture, 0).await;
    assert!(fixture.service.stop().success());
    for name in ["holdfast.db", "holdfast.db-wal", "holdfast.db-shm"] {
        let _ = std::fs::remove_file(fixture.service.data_dir().join(name));
    }
    fixture.service.start_again();
    gauge(&fixture, 2).await;
    assert!(fixture.service.log().contains("is-lost, is-lost-too"), "{}", fixture.service.log());
    assert_eq!(written(&fixture), stood, "nobody touched them");
    let orphans = |fixture: &Fixture, arguments: &[&str]| {
        let output = fixture.service.command(&[&["orphans"], arguments].concat());
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (done, told, _) = orphans(&fixture, &["list"]);
    let names: Vec<_> = told.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!((done, names), (true, vec![first, second]), "{told}");

    // A new job with the same name waits, and reports the reason.
    let api = fixture.api();
    let _ = api.create(first).await.is(201);
    let version = api.deploy(&job(first)).await;
    wait::until("the rollout says why", LONGEST, async || {
        let rollout = api.get(&format!("/jobs/{first}/deployments/production/rollout")).await.json();
        rollout["problem"].to_string().contains(&format!("holdfast orphans remove {first}")).then_some(())
    })
    .await;

    // All that is named has to be one.
    let (done, _, error) = orphans(&fixture, &["remove", first, "is-another"]);
    assert!(!done && error.contains("is-another is not an orphan. Nothing was removed."), "{error}");
    assert!(fixture.object("cronjob", first).is_some());
    let (done, told, error) = orphans(&fixture, &["remove", first]);
    assert!(done && told.contains(first), "{told}{error}");
    api.reached(first, &version).await;
    gauge(&fixture, 1).await;
    let job = fixture.object("job", &run).expect("the run in progress stays");
    assert!(job["metadata"]["deletionTimestamp"].is_null(), "{job}");
    let (done, _, error) = orphans(&fixture, &["remove", first]);
    assert!(!done && error.contains("is not an orphan"), "the new job is known: {error}");
    assert!(fixture.object("cronjob", second).is_some());
}
