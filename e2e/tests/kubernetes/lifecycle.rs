//! The life of one job in a cluster, as the stock client lives it.

use e2e::{job::Job, wait};
use serde_json::json;
use testing::{Database, for_each_database};

use crate::place::{LONGEST, Node, Place};

const NAME: &str = "life-of-a-job-with-the-longest-name-of-client";

for_each_database!(a_job_is_created_deployed_run_watched_cancelled_and_deleted_in_a_cluster);

async fn a_job_is_created_deployed_run_watched_cancelled_and_deleted_in_a_cluster(on: Database) {
    let place = Place::new("life", on, Node::Real);
    let (vdk, api) = (place.vdk(), place.api());
    let job = Job::new(NAME).schedule("* * * * *").step(
        "10_count.py",
        "runs = int(job_input.get_property('runs', 0)) + 1\n\
         job_input.set_all_properties({'runs': runs})\n\
         print('this is run', runs, 'with', job_input.get_arguments(), flush=True)\n\
         time.sleep(job_input.get_arguments().get('seconds', 0))",
    );
    // The most that the client takes.
    assert_eq!(NAME.len(), 45);
    vdk.ok(&["create", "--cloud", "-n", NAME]).await;
    let version = vdk.deploy(&job).await;
    place.push(&job, &version);
    api.reached(NAME, &version).await;
    let cron_job = place.object("cronjob", NAME).expect("a CronJob");
    assert_eq!(cron_job["spec"]["schedule"], "* * * * *");
    assert_eq!(cron_job["spec"]["timeZone"], "UTC");
    let labels = &cron_job["spec"]["jobTemplate"]["metadata"]["labels"];
    assert_eq!(labels["com.vmware.taurus/type"], "DataJob");
    assert_eq!(labels["com.vmware.taurus/version"], version.as_str());

    // A tick starts a run, without this service.
    let tick = wait::until("a tick starts a run", LONGEST, async || {
        api.executions(NAME).await.into_iter().find(|e| e["type"] == "scheduled")
    })
    .await;
    let id = tick["id"].as_str().expect("id").to_owned();
    let ended = place.ended(NAME, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{}", api.log(NAME, &id).await);
    assert_eq!(ended["op_id"], id.as_str());
    assert!(api.log(NAME, &id).await.contains("this is run 1"));
    place.becomes("the Job of a recorded run goes", "job", &id, |job| job.is_none()).await;

    // A person starts one, with arguments that no shell may read.
    vdk.ok(&["deploy", "--disable", "-n", NAME]).await;
    place
        .becomes("the CronJob is suspended", "cronjob", NAME, |c| c.is_some_and(|c| c["spec"]["suspend"] == true))
        .await;
    let arguments = json!({"text": "it's $(HOME) $HOME `id`\n\"quoted\" 世界"}).to_string();
    let said = vdk.json(&["execute", "--start", "-n", NAME, "--arguments", &arguments]).await;
    let id = said["execution_id"].as_str().expect("execution_id").to_owned();
    let ended = place.ended(NAME, &id).await;
    let log = api.log(NAME, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{log}");
    assert!(
        log.contains("it\\'s $(HOME) $HOME `id`\\n\"quoted\" 世界") || log.contains("it's $(HOME) $HOME `id`"),
        "{log}"
    );

    // A run is cancelled; what it said until then stays.
    let said = vdk.json(&["execute", "--start", "-n", NAME, "--arguments", r#"{"seconds": 600}"#]).await;
    let id = said["execution_id"].as_str().expect("execution_id").to_owned();
    wait::until("the log of a running run", LONGEST, async || {
        api.log(NAME, &id).await.contains("'seconds': 600").then_some(())
    })
    .await;
    assert_eq!(vdk.execution(NAME, &id).await["status"], "running");
    vdk.ok(&["execute", "--cancel", "-n", NAME, "-i", &id]).await;
    assert_eq!(place.ended(NAME, &id).await["status"], "cancelled");
    assert!(vdk.log(NAME, &id).await.contains("'seconds': 600"), "the log of a cancelled run stays");
    place.becomes("the Job of a cancelled run goes", "job", &id, |job| job.is_none()).await;

    // It goes from the cluster.
    vdk.ok(&["delete", "--yes", "-n", NAME]).await;
    place.becomes("the CronJob goes", "cronjob", NAME, |cron_job| cron_job.is_none()).await;
}

/// As the reference's installations have it: images of jobs bring Python alone.
#[tokio::test]
async fn a_job_whose_image_has_no_vdk_runs_with_that_of_another_image() {
    let place = Place::with("brings-vdk", Database::Sqlite, Node::Real, |options| {
        let cluster = xtask::cluster::shared().unwrap_or_else(|e| panic!("{e:#}"));
        options.set("HOLDFAST_KUBERNETES_VDK_IMAGES", &format!("3.11={}", cluster.base_image()))
    });
    let api = place.api();
    let name = "brings-no-vdk";
    let job = Job::new(name).step(
        "10_where.py",
        "import vdk.internal\n\
         print('from', list(vdk.internal.__path__)[0], 'with', job_input.get_arguments(), flush=True)",
    );
    let version = place.asked_for(&job).await;
    let image = format!("{}/{name}:{version}", place.namespace.name());
    place.namespace.cluster().push_bare_job_image(&job.path(), name, &image).unwrap_or_else(|e| panic!("{e:#}"));
    api.reached(name, &version).await;
    let arguments = json!({"text": "it's $(HOME) $HOME `id`"});
    let start = json!({"args": arguments, "started_by": "a person"});
    let answer = api.post(&format!("/jobs/{name}/deployments/production/executions"), &start).await.is(202);
    let id = answer.location_id();
    let ended = place.ended(name, &id).await;
    let log = api.log(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{log}");
    assert!(log.contains("from /vdk/site-packages/vdk/internal with"), "{log}");
    assert!(log.contains("$(HOME) $HOME `id`"), "{log}");
}
