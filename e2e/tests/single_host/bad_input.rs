//! Invalid requests are rejected with the right status and a helpful body, and leave nothing behind.

use std::io::{Cursor, Write as _};

use e2e::{
    api::{Answer, Api},
    job::{Job, archive},
    service::{Options, Service},
};
use reqwest::Method;
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

const JOB: &str = "good-job";
const ABSENT: &str = "job-that-is-not";
/// Large enough for a bomb, small enough to be passed quickly.
const UPLOAD_MAX_BYTES: usize = 1024 * 1024;

/// Whether the contract has a body: clients know these answers by their status, upstream's have none.
#[derive(Clone, Copy, PartialEq)]
enum Body {
    Sentences,
    Any,
}

/// All that a team can see of the good job, and which jobs there are.
async fn state(api: &Api) -> Value {
    let mut all = json!({});
    for path in ["", "/deployments", "/executions", "/deployments/TODO/properties", "/deployments/TODO/secrets"] {
        all[path] = api.get(&format!("/jobs/{JOB}{path}")).await.ok().json();
    }
    all["jobs"] = api.query("{ jobs(pageNumber: 1, pageSize: 100) { content { jobName } totalItems } }").await.json();
    all
}

fn refused(answer: &Answer, statuses: &[u16], body: Body) {
    let status = answer.status.as_u16();
    let shown: String = answer.text().chars().take(300).collect();
    assert!(statuses.contains(&status), "{}: {status}, not {statuses:?}: {shown}", answer.asked);
    if body == Body::Sentences || !answer.bytes.is_empty() {
        let sentences = answer.sentences();
        assert!(sentences.iter().all(|s| s.len() < 2_000), "{}: {sentences:?}", answer.asked);
    }
}

async fn service() -> (Service, Api) {
    let limit = UPLOAD_MAX_BYTES.to_string();
    let service = Service::start_with(Options::default().set("HOLDFAST_MAX_UPLOAD_BYTES", &limit));
    let api = service.api();
    let job = Job::new(JOB).step("10_step.py", "pass");
    api.deployed(&job).await;
    let _ = api.put(&format!("/jobs/{JOB}/deployments/TODO/properties"), &json!({ "kept": 1 })).await.ok();
    (service, api)
}

fn job_body(name: &str, cron: &Value) -> Value {
    json!({ "job_name": name, "description": "", "team": e2e::TEAM, "config": { "schedule": { "schedule_cron": cron } } })
}

#[tokio::test]
async fn bad_requests_are_refused_and_nothing_is_stored() {
    let (_service, api) = service().await;
    let before = state(&api).await;

    // Names: 6 to 50 characters of [a-z0-9-], the first a letter.
    for name in
        ["abcde", &"a".repeat(51), "Upper-case", "1-digit-first", "-dash-first", "under_score", "sp%20ace", "ümlaut"]
    {
        let decoded = name.replace("%20", " ");
        let body = job_body(&decoded, &json!(""));
        refused(&api.post(&format!("/jobs?name={name}"), &body).await, &[400], Body::Sentences);
    }
    // A name that is taken, in this team and in another.
    let taken = job_body(JOB, &json!(""));
    refused(&api.post(&format!("/jobs?name={JOB}"), &taken).await, &[409], Body::Any);
    refused(&api.team("another team").create(JOB).await, &[409], Body::Any);

    // Schedules.
    for cron in ["* * * *", "61 * * * *", "* * * * * *", "hello", "*/0 * * * *", "@never", "5-1 * * * *"] {
        let answer = api.put(&format!("/jobs/{JOB}"), &job_body(JOB, &json!(cron))).await;
        refused(&answer, &[400], Body::Sentences);
        let answer = api.post("/jobs?name=cron-is-bad", &job_body("cron-is-bad", &json!(cron))).await;
        refused(&answer, &[400], Body::Sentences);
    }

    // JSON that is none, is of another shape, or has values of another type.
    let put_job = format!("/jobs/{JOB}");
    let post_deployment = format!("/jobs/{JOB}/deployments");
    let patch_deployment = format!("/jobs/{JOB}/deployments/production");
    let start = format!("/jobs/{JOB}/deployments/production/executions");
    let properties = format!("/jobs/{JOB}/deployments/TODO/properties");
    let secrets = format!("/jobs/{JOB}/deployments/TODO/secrets");
    for (method, path, body) in [
        (Method::PUT, &put_job, "{"),
        (Method::PUT, &put_job, "[]"),
        (Method::PUT, &put_job, r#"{"job_name": 5, "description": "", "config": {}}"#),
        (Method::PUT, &put_job, r#"{"job_name": "good-job", "description": "", "config": {"schedule": "daily"}}"#),
        (Method::PUT, &put_job, r#"{"job_name": "good-job", "description": "", "config": {"contacts": "me"}}"#),
        (Method::PUT, &put_job, r#"{"job_name": "other-job", "description": "", "config": {}}"#),
        (Method::POST, &post_deployment, "not json"),
        (Method::POST, &post_deployment, r#"{"job_version": 7}"#),
        (Method::POST, &post_deployment, r#"{"job_version": "../../etc"}"#),
        (Method::POST, &post_deployment, r#"{"enabled": "yes"}"#),
        (Method::POST, &post_deployment, r#"{"python_version": "three"}"#),
        (Method::POST, &post_deployment, r#"{"mode": "fast"}"#),
        (Method::POST, &post_deployment, r#"{"resources": {"memory_limit": -1}}"#),
        (Method::PATCH, &patch_deployment, r#"{"enabled": 1}"#),
        (Method::PATCH, &patch_deployment, "[]"),
        (Method::PUT, &put_job, "null"),
        (Method::POST, &start, r#"{"args": [1]}"#),
        (Method::POST, &start, r#"{"started_by": {}}"#),
        (Method::PUT, &properties, "[1, 2]"),
        (Method::PUT, &properties, "\"text\""),
        (Method::PUT, &properties, "{\"a\": }"),
        (Method::PUT, &secrets, "7"),
        (Method::PUT, &secrets, ""),
    ] {
        let answer = api.send(method, path, Some(("application/json", body.into()))).await;
        refused(&answer, &[400], Body::Sentences);
    }
    // Values that the contract allows and the service does not.
    for body in [
        json!({ "python_version": "2.7" }),
        json!({ "job_version": "0000000000000000000000000000000000000000" }),
        json!({ "resources": { "memory_request": 200, "memory_limit": 100 } }),
    ] {
        refused(&api.post(&post_deployment, &body).await, &[409], Body::Sentences);
    }
    let much = json!({ "much": "x".repeat(3 * 1024 * 1024) });
    refused(&api.put(&properties, &much).await, &[400, 413], Body::Sentences);
    refused(&api.put(&secrets, &much).await, &[400, 413], Body::Sentences);

    // GraphQL.
    for query in
        ["{", "{ jobs { nothing } }", "{ jobs(pageNumber: -1, pageSize: 10) { totalItems } }", "mutation { x }"]
    {
        let answer = api.query(query).await;
        assert_eq!(answer.status.as_u16(), 400, "{query}: {}", answer.text());
    }
    assert_eq!(state(&api).await, before, "nothing is stored");
}

#[tokio::test]
async fn what_is_unknown_or_another_teams_is_not_found() {
    let (service, api) = service().await;
    let before = state(&api).await;
    let stranger = Api::new(service.url(), "another team");
    let version = before["/deployments"][0]["job_version"].clone();
    for (api, job) in [(&api, ABSENT), (&stranger, JOB)] {
        let change = json!({ "job_version": version });
        let body = job_body(job, &json!(""));
        let archive = Job::new(job).step("10_step.py", "pass").archive();
        for (answer, body) in [
            (api.get(&format!("/jobs/{job}")).await, Body::Any),
            (api.put(&format!("/jobs/{job}"), &body).await, Body::Any),
            (api.delete(&format!("/jobs/{job}")).await, Body::Any),
            (api.get(&format!("/jobs/{job}/keytab")).await, Body::Any),
            (api.get(&format!("/jobs/{job}/sources")).await, Body::Any),
            (api.upload(job, archive).await, Body::Any),
            (api.get(&format!("/jobs/{job}/deployments")).await, Body::Any),
            (api.get(&format!("/jobs/{job}/deployments/production")).await, Body::Any),
            (api.post(&format!("/jobs/{job}/deployments"), &change).await, Body::Any),
            (api.patch(&format!("/jobs/{job}/deployments/production"), &json!({ "enabled": false })).await, Body::Any),
            (api.delete(&format!("/jobs/{job}/deployments/production")).await, Body::Any),
            (api.start(job).await, Body::Sentences),
            (api.get(&format!("/jobs/{job}/executions/{job}-1")).await, Body::Sentences),
            (api.cancel(job, &format!("{job}-1")).await, Body::Sentences),
            (api.get(&format!("/jobs/{job}/executions/{job}-1/logs")).await, Body::Sentences),
        ] {
            refused(&answer, &[404], body);
        }
    }
    // A job that is there, and something of it that is not.
    for answer in [
        api.get(&format!("/jobs/{JOB}/executions/{JOB}-1")).await,
        api.get(&format!("/jobs/{JOB}/executions/..%2F..%2Fetc")).await,
        api.get(&format!("/jobs/{JOB}/executions/{JOB}-1/logs")).await,
        api.cancel(JOB, &format!("{JOB}-1")).await,
        api.get(&format!("/jobs/{JOB}/deployments/another")).await,
        api.patch(&format!("/jobs/{JOB}/deployments/another"), &json!({ "enabled": false })).await,
        api.post(&format!("/jobs/{JOB}/deployments/another/executions"), &json!({})).await,
        api.delete(&format!("/jobs/{JOB}/deployments/another")).await,
        api.get(&format!("/jobs/{JOB}/executions?execution_status=finished")).await,
    ] {
        refused(&answer, &[404], Body::Sentences);
    }
    // A job without a deployment can't be started.
    let _ = api.create("bare-job").await.ok();
    refused(&api.start("bare-job").await, &[404], Body::Sentences);
    let _ = api.delete("/jobs/bare-job").await.ok();
    assert_eq!(state(&api).await, before, "nothing is stored");
}

#[tokio::test]
async fn bad_archives_are_refused_and_not_stored() {
    let (_service, api) = service().await;
    let before = state(&api).await;
    let source_before = api.get(&format!("/jobs/{JOB}/sources")).await.ok().bytes;
    let good = Job::new(JOB).step("10_step.py", "pass").archive();
    let many: Vec<String> = (0..10_001).map(|n| format!("a/{n}")).collect();
    let zeros = vec![0; 300 * 1024 * 1024];
    let deep = format!("a/{}file", "b/".repeat(60));
    let long = format!("a/{}", "n".repeat(5_000));
    let mut cases = vec![
        ("nothing", Vec::new()),
        ("no archive", b"this is not a zip archive".to_vec()),
        ("cut off", good[..good.len() / 2].to_vec()),
        ("empty", archive([])),
        ("two top folders", archive([("a/x.py", &b"1"[..]), ("b/y.py", &b"2"[..])])),
        ("a file at the top", archive([("x.py", &b"1"[..])])),
        ("a way out", archive([("a/../../x.py", &b"1"[..])])),
        ("from the root", archive([("/etc/x.py", &b"1"[..])])),
        ("a backslash", archive([("a/..\\x.py", &b"1"[..])])),
        ("the same name in another case", archive([("a/x.py", &b"1"[..]), ("a/X.py", &b"2"[..])])),
        ("below a file", archive([("a/x", &b"1"[..]), ("a/x/y", &b"2"[..])])),
        ("too many files", archive(many.iter().map(|name| (name.as_str(), &b""[..])))),
        ("too deep", archive([(deep.as_str(), &b"1"[..])])),
        ("too long a name", archive([(long.as_str(), &b"1"[..])])),
        ("a bomb", archive([("a/zeros", zeros.as_slice())])),
        ("a link", link()),
        ("too large", vec![b'z'; 2 * UPLOAD_MAX_BYTES]),
    ];
    cases.push(("damaged", damaged()));
    for (what, bytes) in cases {
        let mut answer = api.upload(JOB, bytes).await;
        answer.asked = format!("upload of {what}");
        refused(&answer, &[400, 413], Body::Sentences);
    }
    assert_eq!(api.get(&format!("/jobs/{JOB}/sources")).await.ok().bytes, source_before);
    assert_eq!(state(&api).await, before, "nothing is stored");
}

fn link() -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("a/x.py", SimpleFileOptions::default()).expect("a file");
    zip.write_all(b"1").expect("a file");
    zip.add_symlink("a/passwd", "/etc/passwd", SimpleFileOptions::default()).expect("a link");
    zip.finish().expect("an archive").into_inner()
}

/// A file whose content is not the one that its checksum was made of.
fn damaged() -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("a/x.py", stored).expect("a file");
    zip.write_all(b"print('whole')").expect("a file");
    let mut bytes = zip.finish().expect("an archive").into_inner();
    let at = bytes.windows(5).position(|part| part == b"whole").expect("the content");
    bytes[at] ^= 1;
    bytes
}
