//! Commands for operators on call: `doctor` and `support-bundle`.

use std::{net::TcpListener, process::Command};

use e2e::{
    job::Job,
    service::{Options, Service},
};
use serde_json::Value;
use testing::Database;

/// The exit code, and the findings by check.
fn doctor(service: &Service, listen: &str) -> (i32, impl Fn(&str) -> Value) {
    let output = service.command(&["doctor", "--json", "--listen", listen]);
    let findings: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&output.stderr)));
    let findings = findings.as_array().expect("a list").clone();
    (output.status.code().unwrap_or(-1), move |check: &str| {
        findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check}")).clone()
    })
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_a_service_that_works_and_names_what_is_wrong_otherwise() {
    let service = Service::start_on(Database::Postgresql);
    let address = service.url().trim_start_matches("http://").to_owned();
    let (code, finding) = doctor(&service, &address);
    assert_eq!(code, 0);
    for check in ["python", "clock", "database", "port"] {
        assert_eq!(finding(check)["result"], "ok", "{}", finding(check));
    }
    assert!(finding("database")["found"].as_str().is_some_and(|found| found.contains("PostgreSQL")));
    assert!(finding("port")["found"].as_str().is_some_and(|found| found.contains("a service is ready")));

    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("its address").to_string();
    // It ends each connection, as a program that does not speak HTTP.
    std::thread::spawn(move || other.incoming().for_each(drop));
    let (code, finding) = doctor(&service, &taken);
    assert_eq!(code, 1);
    assert_eq!(finding("port")["result"], "wrong");
    assert!(finding("port")["fix"].as_str().is_some_and(|fix| fix.starts_with("ss -ltnp")), "{}", finding("port"));

    let output = service.command(&["doctor", "--lease-seconds", "soon"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("WRONG    configuration") && text.contains("lease_seconds"), "{text}");
}

#[tokio::test]
async fn a_support_bundle_lists_its_files_first_and_has_no_secret_and_no_address() {
    let options = Options::default()
        .file("token", "hunter2-of-metrics")
        .set("HOLDFAST_METRICS_TOKEN_FILE", "{folder}/token")
        .set("HOLDFAST_INDEX_URL", "http://ann:hunter2-of-index@127.0.0.1:9/simple");
    let service = Service::start_with(options);
    let api = service.api();
    let job = Job::new("troubled-job").file("requirements.txt", "six\n").step("10_step.py", "pass");
    let _ = api.create(job.name()).await.ok();
    api.deploy(&job).await;
    e2e::wait::until("the rollout has a problem", e2e::wait::DEPLOYED, async || {
        let rollout = api.get(&format!("/jobs/{}/deployments/production/rollout", job.name())).await.ok().json();
        rollout["problem"]["code"].as_str().map(str::to_owned)
    })
    .await;

    let log = service.beside().join("service.log");
    std::fs::write(
        &log,
        format!(
            "{}\nlogin of ann@example.com from 10.1.2.3 at https://files.example.com/x with hunter2-of-index\n",
            service.log()
        ),
    )
    .expect("a log");
    let archive = service.beside().join("bundle.tar.gz");
    let (log, path) = (log.to_string_lossy(), archive.to_string_lossy());
    let bundle = ["support-bundle", "--output", &path, "--log-file", &log, "--url", service.url()];
    let output = service.command(&bundle);
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{listed}{}", String::from_utf8_lossy(&output.stderr));
    let tar = |arguments: &[&str]| {
        let output = Command::new("tar").args(arguments).arg("-zf").arg(&archive).output().expect("tar");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let names = tar(&["-t"]);
    let names: Vec<_> = names.lines().filter_map(|line| line.split('/').nth(1)).collect();
    let parts = ["versions.txt", "configuration.json", "doctor.json", "readiness.json", "metrics.txt", "problems.txt"];
    assert_eq!(names, [&["CONTENTS.txt"], &parts[..], &["log.txt"]].concat());
    assert!(parts.iter().all(|part| listed.contains(part)), "{listed}");

    let content = tar(&["-xO"]);
    for secret in ["hunter2", "files.example.com", "10.1.2.3", "ann@example.com"] {
        assert!(!content.contains(secret), "{secret}");
    }
    for part in [
        "login of [mail-",
        "\"name\": \"metrics_token_file\"",
        "\"status\":\"UP\"",
        "holdfast_leader",
        "troubled-job: ",
    ] {
        assert!(content.contains(part), "no {part} in\n{listed}");
    }
    // An archive is never replaced.
    assert_eq!(service.command(&bundle).status.code(), Some(2));
}
