//! The service does what its document says, whatever is sent.

use std::{collections::BTreeSet, fs, process::Stdio};

use e2e::{
    job::archive,
    service::{Options, Service},
};
use serde_json::{Value, json};
use testing::{Database, for_each_database};

for_each_database!(the_service_does_what_its_document_says);

/// Random requests per operation, beside those at the edges of what the document allows.
fn random_requests() -> usize {
    e2e::count(2, 420)
}

/// The fewest requests that a run makes.
fn requests_min() -> u64 {
    e2e::count(1_000, 20_000) as u64
}

/// The jobs that requests are about. Requests that delete, move or empty a job are about the last two.
const JOBS: [&str; 4] = ["my-first-job", "my-second-job", "my-spare-job", "my-last-job"];

/// The objects behind a job, a deployment and an execution, which generated requests have to reach.
#[rustfmt::skip]
const REACHED: [(&str, &str); 14] = [
    ("POST", "/data-jobs/for-team/{team_name}/jobs"),
    ("PUT", "/data-jobs/for-team/{team_name}/jobs/{job_name}"),
    ("DELETE", "/data-jobs/for-team/{team_name}/jobs/{job_name}"),
    ("POST", "/data-jobs/for-team/{team_name}/jobs/{job_name}/deployments"),
    ("PATCH", "/data-jobs/for-team/{team_name}/jobs/{job_name}/deployments/{deployment_id}"),
    ("GET", "/data-jobs/for-team/{team_name}/jobs/{job_name}/deployments/{deployment_id}"),
    ("GET", "/data-jobs/for-team/{team_name}/jobs/{job_name}/deployments/{deployment_id}/rollout"),
    ("GET", "/data-jobs/for-team/{team_name}/jobs/{job_name}/deployments/{deployment_id}/revisions/{revision}"),
    ("POST", "/data-jobs/for-team/{team_name}/jobs/{job_name}/deployments/{deployment_id}/revisions/{revision}/rollback"),
    ("POST", "/data-jobs/for-team/{team_name}/jobs/{job_name}/deployments/{deployment_id}/executions"),
    ("GET", "/data-jobs/for-team/{team_name}/jobs/{job_name}/executions/{execution_id}"),
    ("GET", "/data-jobs/for-team/{team_name}/jobs/{job_name}/executions/{execution_id}/logs"),
    ("DELETE", "/data-jobs/for-team/{team_name}/jobs/{job_name}/executions/{execution_id}"),
    ("GET", "/data-jobs/for-team/{team_name}/jobs/{job_name}/sources"),
];

async fn the_service_does_what_its_document_says(on: Database) {
    const SEED: &str = "20261124";
    let service = Service::start_with(Options::on(on));
    let api = service.api().team("my-team");
    let document = api.get_at(&format!("{}/data-jobs/api-docs", service.url())).await.ok().json();
    let example = &document["components"]["schemas"]["DataJobDeploymentChange"]["properties"]["job_version"]["example"];
    for name in JOBS {
        let _ = api.create(name).await.ok();
        let source = archive([("job/10_step.py", &b"print('here')"[..])]);
        let version = api.upload(name, source).await.ok().json()["version_sha"].clone();
        assert_eq!(version, *example, "the example of the document is this source");
        let _ = api.post(&format!("/jobs/{name}/deployments"), &json!({ "job_version": version })).await.ok();
    }
    for name in JOBS {
        api.reached(name, example.as_str().expect("a version")).await;
    }

    let schemathesis = devtools::schemathesis::install().expect("schemathesis");
    let mut command = schemathesis.command(&service.beside()).expect("its folder");
    let report = service.beside().join("report.json");
    command
        .args(["run", "--checks=all", "--phases=examples,coverage,fuzzing,stateful", "--warnings=off", "--report=json"])
        .args(["--seed", SEED, "--generation-database=none"])
        .args(["--max-examples", &random_requests().to_string(), "--report-json-path"])
        .arg(&report)
        .arg(format!("{}/data-jobs/api-docs", service.url()))
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a thread").expect("schemathesis");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    let requests = report["test_cases"]["generated"].as_u64().unwrap_or_else(|| panic!("{said}"));
    assert!(requests >= requests_min(), "only {requests} requests were made:\n{said}");

    let metrics = api.scrape("text/plain").await.ok().text();
    let done: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| {
            line.contains("_duration_seconds_count{") && line.contains("status=\"2") && !line.ends_with(" 0")
        })
        .collect();
    let is_done = |method: &str, route: &str| {
        let labels = format!("{{method=\"{method}\",route=\"{route}\",");
        done.iter().any(|line| line.contains(&labels))
    };
    let missing: Vec<_> = REACHED.into_iter().filter(|(method, route)| !is_done(method, route)).collect();
    assert!(missing.is_empty(), "no request was carried out of {missing:#?}\n{said}");
}
