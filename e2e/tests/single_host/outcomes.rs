//! Each way in which a run ends, with its status and a message that helps.

use e2e::{
    api::Api,
    job::Job,
    service::{Options, Service, shared},
    wait,
};
use serde_json::Value;

/// Runs a job once and gives how that ended.
async fn run(api: &Api, job: &Job) -> Value {
    api.deployed(job).await;
    let id = api.started(job.name()).await;
    api.ended(job.name(), &id).await
}

/// Fails unless a run ended so, with a message that says all of this.
async fn ended(api: &Api, execution: &Value, status: &str, says: &[&str]) {
    let (job, id) = (execution["job_name"].as_str().expect("job_name"), execution["id"].as_str().expect("id"));
    let message = execution["message"].as_str().unwrap_or_default();
    let log = api.log(job, id).await;
    assert_eq!(execution["status"], status, "{execution}\n{log}");
    for part in says {
        assert!(message.contains(part), "the message does not say {part:?}: {message:?}\n{log}");
    }
}

#[tokio::test]
async fn a_run_that_does_its_work_succeeds() {
    let service = shared();
    let api = service.api();
    let job = Job::new("outcome-success").step("10_step.py", "print('done, with', job_input.get_arguments())");
    let execution = run(&api, &job).await;
    ended(&api, &execution, "succeeded", &["Success"]).await;
    let log = service.vdk().log(job.name(), execution["id"].as_str().expect("id")).await;
    assert!(log.contains("done, with {}"), "{log}");
}

#[tokio::test]
async fn a_step_that_raises_is_a_user_error() {
    let service = shared();
    let api = service.api();
    let job = Job::new("outcome-raise").step("10_step.py", "raise ValueError('the input is odd')");
    let execution = run(&api, &job).await;
    ended(&api, &execution, "user_error", &["User error", "exit code 1", "log"]).await;
    let log = service.vdk().log(job.name(), execution["id"].as_str().expect("id")).await;
    assert!(log.contains("the input is odd"), "{log}");
}

#[tokio::test]
async fn a_step_that_exits_is_a_user_error() {
    let service = shared();
    let api = service.api();
    let job = Job::new("outcome-exit").step("10_step.py", "sys.exit(3)");
    let execution = run(&api, &job).await;
    ended(&api, &execution, "user_error", &["User error", "exit code 3"]).await;
}

#[tokio::test]
async fn requirements_that_do_not_install_are_a_user_error_and_the_last_good_version_continues() {
    const MISSING: &str = "no-such-package-of-holdfast-tests==9.9";
    let service = shared();
    let (api, vdk) = (service.api(), service.vdk());
    let job = Job::new("outcome-requirements").step("10_step.py", "print('good')").file("requirements.txt", MISSING);
    let name = job.name();
    vdk.ok(&["create", "--cloud", "-n", name]).await;

    // Nothing was ever reached: the run waits for the first rollout and fails with it.
    vdk.deploy(&job).await;
    let id = vdk.start(name).await;
    let execution = wait::until("the run fails with the rollout", wait::DEPLOYED, async || {
        let execution = api.execution(name, &id).await;
        (!matches!(execution["status"].as_str(), Some("submitted" | "running"))).then_some(execution)
    })
    .await;
    ended(&api, &execution, "user_error", &["no-such-package-of-holdfast-tests"]).await;
    assert_eq!(vdk.json(&["deploy", "--show", "-n", name]).await, serde_json::json!([]));

    // A change is tried at once; a later bad one leaves what runs alone.
    job.put("requirements.txt", "");
    let good = vdk.deploy(&job).await;
    api.reached(name, &good).await;
    job.put("requirements.txt", MISSING);
    vdk.deploy(&job).await;
    let query = format!(
        "{{ jobs(pageNumber: 1, pageSize: 1, filter: [{{ property: \"jobName\", pattern: \"{name}\" }}]) \
         {{ content {{ deployments {{ status jobVersion }} }} }} }}"
    );
    wait::until("the failed rollout shows", wait::DEPLOYED, async || {
        let page = api.query(&query).await.ok().json();
        let deployment = &page["data"]["content"][0]["deployments"][0];
        assert_eq!(deployment["jobVersion"], good.as_str(), "{page}");
        (deployment["status"] == "USER_ERROR").then_some(())
    })
    .await;
    let id = vdk.start(name).await;
    let execution = api.ended(name, &id).await;
    ended(&api, &execution, "succeeded", &[]).await;
    assert_eq!(execution["deployment"]["job_version"], good.as_str());
}

#[tokio::test]
async fn a_cancelled_run_is_cancelled_with_all_that_it_started() {
    let service = shared();
    let api = service.api();
    let marker = service.beside().join("cancelled-child");
    let job = Job::new("outcome-cancel").step(
        "10_step.py",
        &format!(
            "import subprocess\n\
             subprocess.Popen(['sleep', '600'], start_new_session=True, env=dict(os.environ, MARK='{}'))\n\
             print('asleep')\n\
             time.sleep(600)",
            marker.display()
        ),
    );
    api.deployed(&job).await;
    let id = api.started(job.name()).await;
    api.log_says(job.name(), &id, "asleep").await;
    let _ = api.cancel(job.name(), &id).await.is(200);
    let execution = api.ended(job.name(), &id).await;
    ended(&api, &execution, "cancelled", &["Cancelled"]).await;
    assert_eq!(processes_with(&marker.to_string_lossy()), 0, "nothing of a run is left when it has ended");
    let _ = api.cancel(job.name(), &id).await.is(400).sentences();
}

/// How many processes have a text in their environment.
fn processes_with(text: &str) -> usize {
    let environments = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.path().join("environ"));
    environments
        .filter(|path| std::fs::read(path).is_ok_and(|all| all.windows(text.len()).any(|part| part == text.as_bytes())))
        .count()
}

#[tokio::test]
async fn what_the_platform_spoils_is_distinguished_from_what_the_job_spoils() {
    const DEADLINE_SECONDS: &str = "15";
    // One service whose operator gave these jobs options that lead them astray.
    let service = Service::start_with(
        Options::default()
            .set("HOLDFAST_RUN_DEADLINE_SECONDS", DEADLINE_SECONDS)
            .set("HOLDFAST_VDK_OPTIONS_FILE", "{folder}/vdk_options.ini")
            .file(
                "vdk_options.ini",
                "[default]\n\
                 VDK_CONTROL_HTTP_TOTAL_RETRIES = 0\n\
                 VDK_CONTROL_HTTP_CONNECT_RETRIES = 0\n\
                 [outcome-unreachable]\n\
                 VDK_CONTROL_SERVICE_REST_API_URL = http://127.0.0.1:9\n\
                 [outcome-skipped]\n\
                 VDK_EXECUTION_ID = another-execution\n\
                 VDK_ATTEMPT_ID = another-execution-12345\n",
            ),
    );
    let api = service.api();

    let job = Job::new("outcome-unreachable").step("10_step.py", "job_input.set_all_properties({'a': 1})");
    let execution = run(&api, &job).await;
    ended(&api, &execution, "platform_error", &["Platform error", "log"]).await;

    let job = Job::new("outcome-skipped").step("10_step.py", "print('must not run')");
    let execution = run(&api, &job).await;
    ended(&api, &execution, "skipped", &["Skipping job execution due to another parallel running execution."]).await;

    let job = Job::new("outcome-deadline").step("10_step.py", "print('asleep')\ntime.sleep(600)");
    let execution = run(&api, &job).await;
    ended(&api, &execution, "user_error", &["longer than 15 seconds"]).await;

    let job = Job::new("outcome-killed").step("10_step.py", "os.kill(os.getpid(), 9)");
    let execution = run(&api, &job).await;
    ended(&api, &execution, "platform_error", &["killed from outside"]).await;
}
