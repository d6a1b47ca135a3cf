//! The service does what its document says, whatever is sent.

use std::{fs, process::Stdio};

use e2e::{
    job::Job,
    service::{Options, Service},
};
use testing::{Database, for_each_database};

for_each_database!(the_service_does_what_its_document_says);

/// Requests for each operation that are made up at random, beside those at the edges of what the document allows.
fn random_requests() -> usize {
    e2e::count(2, 420)
}

/// The fewest requests that a run makes.
fn requests_min() -> u64 {
    e2e::count(1_000, 20_000) as u64
}

async fn the_service_does_what_its_document_says(on: Database) {
    const SEED: &str = "20261124";
    let service = Service::start_with(Options::on(on));
    let api = service.api().team("my-team");
    let mut version = String::new();
    for name in ["my-first-job", "my-second-job"] {
        version = api.deployed(&Job::new(name).step("10_step.py", "print('here')")).await;
    }
    let run = api.started("my-first-job").await;
    api.ended("my-first-job", &run).await;
    let deployed = api.reached("my-first-job", &version).await;
    let python_version = deployed["python_version"].as_str().expect("a version").to_owned();

    let schemathesis = devtools::schemathesis::install().expect("schemathesis");
    let mut command = schemathesis.command(&service.beside()).expect("its folder");
    let report = service.beside().join("report.json");
    command
        .args(["run", "--checks=all", "--phases=examples,coverage,fuzzing", "--warnings=off", "--report=json"])
        .args(["--seed", SEED, "--generation-database=none"])
        .args(["--max-examples", &random_requests().to_string(), "--report-json-path"])
        .arg(&report)
        .arg(format!("{}/data-jobs/api-docs", service.url()))
        .env("HOLDFAST_TEST_SOURCE_VERSION", version)
        .env("HOLDFAST_TEST_PYTHON_VERSION", python_version)
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("schemathesis");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    let requests = report["test_cases"]["generated"].as_u64().unwrap_or_else(|| panic!("{said}"));
    assert!(requests >= requests_min(), "only {requests} requests were made:\n{said}");
}
