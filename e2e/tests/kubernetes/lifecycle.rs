//! The life of one job in a cluster, as the stock client lives it.

use e2e::{
    issuer::{API_TOKEN, Issuer},
    job::Job,
    vdk::Vdk,
    wait,
};
use serde_json::json;
use testing::{Database, for_each_database};

use crate::fixture::{Fixture, LONGEST, Node};

const NAME: &str = "life-of-a-job-with-the-longest-name-of-client";

for_each_database!(a_job_is_created_deployed_run_watched_cancelled_and_deleted_in_a_cluster);

async fn a_job_is_created_deployed_run_watched_cancelled_and_deleted_in_a_cluster(on: Database) {
    let fixture = Fixture::new("life", on, Node::Real);
    let (vdk, api) = (fixture.vdk(), fixture.api());
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
    fixture.push(&job, &version);
    api.reached(NAME, &version).await;
    let cron_job = fixture.object("cronjob", NAME).expect("a CronJob");
    assert_eq!(cron_job["spec"]["schedule"], "* * * * *");
    assert_eq!(cron_job["spec"]["timeZone"], "UTC");
    let labels = &cron_job["spec"]["jobTemplate"]["metadata"]["labels"];
    assert_eq!(labels["com.vmware.taurus/type"], "DataJob");
    assert_eq!(labels["com.vmware.taurus/version"], version.as_str());

    // A tick starts a run, without this service.
    let tick = wait::until("a scheduled execution was created", LONGEST, async || {
        api.executions(NAME).await.into_iter().find(|e| e["type"] == "scheduled")
    })
    .await;
    let id = tick["id"].as_str().expect("id").to_owned();
    let ended = fixture.ended(NAME, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{}", api.log(NAME, &id).await);
    assert_eq!(ended["op_id"], id.as_str());
    assert!(api.log(NAME, &id).await.contains("this is run 1"));
    fixture.becomes("the Job of a recorded run goes", "job", &id, |job| job.is_none()).await;

    // A person starts one, with arguments that no shell may read.
    vdk.ok(&["deploy", "--disable", "-n", NAME]).await;
    fixture
        .becomes("the CronJob is suspended", "cronjob", NAME, |c| c.is_some_and(|c| c["spec"]["suspend"] == true))
        .await;
    let arguments = json!({"text": "it's $(HOME) $HOME `id`\n\"quoted\" 世界"}).to_string();
    let said = vdk.json(&["execute", "--start", "-n", NAME, "--arguments", &arguments]).await;
    let id = said["execution_id"].as_str().expect("execution_id").to_owned();
    let ended = fixture.ended(NAME, &id).await;
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
    assert_eq!(fixture.ended(NAME, &id).await["status"], "cancelled");
    assert!(vdk.log(NAME, &id).await.contains("'seconds': 600"), "the log of a cancelled run stays");
    fixture.becomes("the Job of a cancelled run goes", "job", &id, |job| job.is_none()).await;

    // It goes from the cluster.
    vdk.ok(&["delete", "--yes", "-n", NAME]).await;
    fixture.becomes("the CronJob goes", "cronjob", NAME, |cron_job| cron_job.is_none()).await;
}

/// As in upstream's installations: images of jobs bring Python alone.
#[tokio::test]
async fn a_job_whose_image_has_no_vdk_runs_with_that_of_another_image() {
    let fixture = Fixture::with("brings-vdk", Database::Sqlite, Node::Real, |options| {
        let cluster = devtools::cluster::shared().unwrap_or_else(|e| panic!("{e:#}"));
        options.set("HOLDFAST_KUBERNETES_VDK_IMAGES", &format!("3.11={}", cluster.base_image()))
    });
    let api = fixture.api();
    let name = "brings-no-vdk";
    let job = Job::new(name).step(
        "10_where.py",
        "import vdk.internal\n\
         print('from', list(vdk.internal.__path__)[0], 'with', job_input.get_arguments(), flush=True)",
    );
    let version = fixture.asked_for(&job).await;
    let image = format!("{}/{name}:{version}", fixture.namespace.name());
    fixture
        .namespace
        .cluster()
        .push_python_image(&job.path(), &format!("job/{name}"), &image)
        .unwrap_or_else(|e| panic!("{e:#}"));
    api.reached(name, &version).await;
    let arguments = json!({"text": "it's $(HOME) $HOME `id`"});
    let start = json!({"args": arguments, "started_by": "a person"});
    let answer = api.post(&format!("/jobs/{name}/deployments/production/executions"), &start).await.is(202);
    let id = answer.location_id();
    let ended = fixture.ended(name, &id).await;
    let log = api.log(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{log}");
    assert!(log.contains("from /vdk/site-packages/vdk/internal with"), "{log}");
    assert!(log.contains("$(HOME) $HOME `id`"), "{log}");
}

async fn reached(vdk: &Vdk, name: &str, version: &str) {
    wait::until("the deployment is reached", LONGEST, async || {
        let shown = vdk.json(&["deploy", "--show", "-n", name]).await;
        (shown[0]["job_version"] == version).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_in_a_cluster_is_known_by_its_own_token_and_not_by_that_of_another_job_of_its_name() {
    let issuer = Issuer::start().await;
    let fixture = Fixture::with("own-token", Database::Sqlite, Node::Real, |options| issuer.trusted(options));
    let vdk = fixture.vdk().with("OAUTHLIB_INSECURE_TRANSPORT", "1");
    let _ = issuer.login(&vdk, API_TOKEN).await.ok();
    let name = "knows-itself";
    let job = Job::new(name).step(
        "10_count.py",
        "runs = int(job_input.get_property('runs', 0)) + 1\n\
         job_input.set_all_properties({'runs': runs})\n\
         print('this is run', runs)",
    );
    let secret = format!("holdfast-token-{name}");
    let mut left = None;
    for round in ["first", "namesake"] {
        vdk.ok(&["create", "--cloud", "-n", name]).await;
        let version = vdk.deploy(&job).await;
        fixture.push(&job, &version);
        reached(&vdk, name, &version).await;
        let id = vdk.start(name).await;
        let ended = wait::until("the run ends", LONGEST, async || {
            let shown = vdk.execution(name, &id).await;
            (!shown["end_time"].is_null()).then_some(shown)
        })
        .await;
        let log = vdk.log(name, &id).await;
        assert_eq!(ended["status"], "succeeded", "{round}: {ended}\n{log}");
        assert!(log.contains("this is run 1"), "{round}: {log}");
        let own = fixture.object("secret", &secret).expect("a secret");
        if let Some(left) = left.replace(own.clone()) {
            assert_ne!(left["data"], own["data"]);
        }
        let pods = fixture.kubectl(&["get", "cronjob,job,pod", "-o", "yaml"]);
        assert!(!pods.contains("hfc1."), "a token is in a manifest");

        vdk.ok(&["delete", "--yes", "-n", name]).await;
        fixture.becomes("its secret goes", "secret", &secret, |secret| secret.is_none()).await;
        // As where a run of the deleted job keeps it, or the service was away when that ended.
        let mut again = own;
        again["metadata"] = json!({"name": secret, "labels": again["metadata"]["labels"]});
        fixture.namespace.apply(&again.to_string()).unwrap_or_else(|e| panic!("{e:#}"));
    }
}
