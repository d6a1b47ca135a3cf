//! The other released clients, and what people do with the stock one beside the life of a job.

use std::path::Path;

use devtools::{client::Client, environment::variable};
use e2e::{job::Job, service::shared_on, vdk::client};
use testing::{Database, for_each_database};
use tokio::process::Command;

for_each_database!(
    every_operation_is_called_and_its_answer_accepted_by_the_generated_client,
    versions_are_changed_by_the_stock_client,
);

/// Ends well, or shows what a command said.
async fn said(command: &mut Command) -> String {
    let output = command.output().await.expect("the command starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}\n{out}\n{err}", output.status);
    out.trim().to_owned()
}

async fn every_operation_is_called_and_its_answer_accepted_by_the_generated_client(on: Database) {
    /// The number of operations of upstream's interface.
    const OPERATIONS: usize = 30;
    let service = shared_on(on);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/single_host/generated_client.py");
    let called = said(
        Command::new(client().python())
            .args(["-W", "ignore"])
            .arg(script)
            .args([service.url(), "team of generated", "generated-client"])
            .env("NO_PROXY", "127.0.0.1"),
    )
    .await;
    let called: Vec<String> = serde_json::from_str(&called).unwrap_or_else(|_| panic!("{called}"));
    assert_eq!(called.len(), OPERATIONS, "{called:?}");
}

async fn versions_are_changed_by_the_stock_client(on: Database) {
    let service = shared_on(on);
    let (vdk, api) = (service.vdk(), service.api());
    let job = Job::new("client-updates").step("10_step.py", "print(1)");
    let name = job.name();
    vdk.ok(&["create", "--cloud", "-n", name]).await;
    let first = vdk.deploy(&job).await;
    api.reached(name, &first).await;
    job.put("10_step.py", "def run(job_input):\n    print(2)\n");
    let second = vdk.deploy(&job).await;
    api.reached(name, &second).await;
    vdk.ok(&["deploy", "--disable", "-n", name]).await;

    // Back to the first version: a change of the version enables nothing.
    vdk.ok(&["deploy", "--update", "-n", name, "--job-version", &first]).await;
    let deployment = api.reached(name, &first).await;
    assert_eq!(deployment["enabled"], false, "{deployment}");
    let vdk_version = deployment["vdk_version"].as_str().expect("vdk_version").to_owned();
    vdk.ok(&["deploy", "--update", "-n", name, "--vdk-version", &vdk_version]).await;
    assert_eq!(api.reached(name, &first).await["vdk_version"], vdk_version.as_str());
    vdk.run(&["deploy", "--update", "-n", name, "--job-version", &"0".repeat(40)]).await.failed(2, &["Upload"]);
    vdk.ok(&["deploy", "--enable", "-n", name]).await;
    vdk.ok(&["delete", "--yes", "-n", name]).await;
}

/// `cargo test --workspace --test single_host -- --ignored heartbeat`
#[tokio::test]
#[ignore = "takes three minutes: it waits for a tick, and looks every ten seconds"]
async fn the_references_own_heartbeat_passes() {
    let heartbeat = devtools::client::install_heartbeat().expect("the heartbeat is installed");
    let service = shared_on(Database::Sqlite);
    let home = tempfile::tempdir().expect("a temporary folder");
    let settings = home.path().join("heartbeat.ini");
    std::fs::write(&settings, "[DEFAULT]\n").expect("a file");
    let path = variable("PATH").unwrap_or_default();
    let path = std::env::join_paths([heartbeat.commands()].into_iter().chain(std::env::split_paths(&path)));
    said(
        Command::new(heartbeat.heartbeat())
            .arg("-f")
            .arg(&settings)
            .current_dir(home.path())
            .envs(Client::variables(home.path()))
            .env("PATH", path.expect("a search path"))
            .env("VDK_HEARTBEAT_CONTROL_SERVICE_URL", service.url())
            .env("JOB_TEAM", "taurus")
            .env("DATAJOB_DIRECTORY_NAME", "simple")
            .env("JOB_RUN_TEST_MODULE_NAME", "vdk.internal.heartbeat.simple_run_test")
            .env("JOB_RUN_TEST_CLASS_NAME", "SimpleRunTest")
            .env("RUN_TEST_TIMEOUT_SECONDS", "300"),
    )
    .await;
}
