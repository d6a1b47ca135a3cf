//! Jobs that start jobs, with `vdk-dag` from the package index, and secrets as a job reads them.

use std::time::Duration;

use e2e::{
    TEAM,
    issuer::{API_TOKEN, Issuer},
    job::Job,
    service::{Options, Service, shared},
    vdk::Vdk,
    wait,
};
use serde_json::{Value, json};

const LONGEST: Duration = Duration::from_secs(180);
const REQUIREMENT: &str = "vdk-dag==0.1.1431637373";

/// A job that runs another one with `vdk-dag`.
fn dag(name: &str, child: &str) -> Job {
    let step = format!(
        "from vdk.plugin.dag.dag_runner import DagInput\n\
         DagInput().run_dag([{{'job_name': '{child}', 'team_name': '{TEAM}', 'depends_on': []}}])"
    );
    Job::new(name)
        .file("requirements.txt", REQUIREMENT)
        .option("dags_delayed_jobs_min_delay_seconds = 1")
        .option("dags_time_between_status_check_seconds = 1")
        .option("dags_dag_execution_check_time_period_seconds = 1")
        .step("10_dag.py", &step)
}

async fn deployed(vdk: &Vdk, job: &Job) {
    vdk.ok(&["create", "--cloud", "-n", job.name()]).await;
    let version = vdk.deploy(job).await;
    wait::until("the deployment is reached", LONGEST, async || {
        let shown = vdk.json(&["deploy", "--show", "-n", job.name()]).await;
        (shown[0]["job_version"] == version.as_str()).then_some(())
    })
    .await;
}

async fn ended(vdk: &Vdk, name: &str) -> Value {
    let id = vdk.start(name).await;
    wait::until("the execution ends", LONGEST, async || {
        let shown = vdk.execution(name, &id).await;
        (!shown["end_time"].is_null()).then_some(shown)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dag_within_a_dag_ends_where_one_job_runs_at_once_and_tokens_are_asked_for() {
    let issuer = Issuer::start().await;
    let options = Options::default()
        .set("HOLDFAST_PARALLEL_RUNS", "1")
        .set("HOLDFAST_AUTH_JOBS_MAY_START_JOBS", "true")
        // vdk-dag has no wheel.
        .set("HOLDFAST_PYTHON_ALLOW_BUILDS", "true");
    let service = Service::start_with(issuer.trusted(options));
    let vdk = service.vdk().with("OAUTHLIB_INSECURE_TRANSPORT", "1");
    let _ = issuer.login(&vdk, API_TOKEN).await.ok();
    let leaf = Job::new("leaf-job").step("10_step.py", "print('the leaf')");
    let (inner, outer) = (dag("inner-dag", "leaf-job"), dag("outer-dag", "inner-dag"));
    for job in [&leaf, &inner, &outer] {
        deployed(&vdk, job).await;
    }

    let execution = ended(&vdk, "outer-dag").await;
    let log = vdk.log("outer-dag", execution["id"].as_str().expect("id")).await;
    assert_eq!(execution["status"], "succeeded", "{execution}\n{log}");
    for (child, parent) in [("inner-dag", "outer-dag"), ("leaf-job", "inner-dag")] {
        let rows = vdk.json(&["execute", "--list", "-n", child]).await;
        let rows = rows.as_array().expect("a list");
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!((&rows[0]["status"], &rows[0]["op_id"]), (&json!("succeeded"), &execution["op_id"]));
        assert_eq!(rows[0]["started_by"], format!("manual/{parent}/job:{parent}"));
    }
}

#[tokio::test]
async fn a_job_reads_its_secrets_with_the_vdk_that_comes_by_default() {
    let service = shared();
    let vdk = service.vdk();
    let job = Job::new("reads-a-secret").step("10_step.py", "print('it has', len(job_input.get_secret('word')))");
    deployed(&vdk, &job).await;
    vdk.ok(&["secrets", "-n", job.name(), "--set", "word", "seventeen letters"]).await;
    let execution = ended(&vdk, job.name()).await;
    let log = vdk.log(job.name(), execution["id"].as_str().expect("id")).await;
    assert_eq!(execution["status"], "succeeded", "{execution}\n{log}");
    assert!(log.contains("it has 17"), "{log}");
}

#[tokio::test]
async fn the_last_execution_of_the_list_is_the_newest() {
    let service = shared();
    let vdk = service.vdk();
    let job = Job::new("listed-in-order").step("10_step.py", "print('done')");
    deployed(&vdk, &job).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(ended(&vdk, job.name()).await["id"].clone());
    }
    let listed = vdk.json(&["execute", "--list", "-n", job.name()]).await;
    assert_eq!(listed.as_array().expect("a list").iter().map(|row| row["id"].clone()).collect::<Vec<_>>(), ids);
}
