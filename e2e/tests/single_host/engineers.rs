//! Commands for data engineers: `dev`, `explain`, `rollout wait` and `client install`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use devtools::binary::{self, Profile};
use e2e::{
    TEAM,
    job::Job,
    service::{Options, Service, shared},
    wait,
};

/// The exit code, and both outputs.
fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Runs a command of the binary against a service.
fn run(service: &Service, arguments: &[&str]) -> (i32, String, String) {
    ended(&service.command(&[arguments, &["--url", service.url()]].concat()))
}

/// The text of a line of `holdfast explain`.
fn line<'t>(explained: &'t str, name: &str) -> &'t str {
    let found = explained.lines().find_map(|line| line.trim_start().strip_prefix(name));
    found.unwrap_or_else(|| panic!("no line {name:?}:\n{explained}")).trim()
}

#[tokio::test]
async fn dev_runs_a_folder_and_explain_names_the_failure_the_change_and_the_party_that_has_to_act() {
    let service = shared();
    let job = Job::new("developed-job").step("10_step.py", "print('version', 'one')");
    let folder = job.path();
    let dev = ["dev", &folder.to_string_lossy(), "--once"].map(str::to_owned);
    let dev = || run(&service, &dev.each_ref().map(String::as_str));
    let explain = || {
        let (code, out, err) = run(&service, &["explain", job.name()]);
        assert_eq!((code, out.lines().count()), (0, 10), "{out}{err}");
        out
    };

    let (code, out, err) = dev();
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("version one") && err.contains("ended as succeeded"), "{out}{err}");
    let explained = explain();
    assert_eq!(line(&explained, "job "), format!("{} of the team {TEAM}", job.name()));
    assert!(line(&explained, "deployment").starts_with("revision "), "{explained}");
    assert_eq!(line(&explained, "last failure"), "none");
    assert_eq!(line(&explained, "changed since"), "nothing in the deployment");
    assert_eq!(line(&explained, "next start"), "none: the job has no schedule");
    assert_eq!(line(&explained, "action"), "none");

    job.put("10_step.py", "def run(job_input):\n    raise ValueError('no such table: orders')\n");
    let (code, out, err) = dev();
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.contains("no such table: orders") && err.contains("ended as user_error"), "{out}{err}");
    let explained = explain();
    assert!(line(&explained, "last failure").contains("user_error"), "{explained}");
    assert!(line(&explained, "changed since").starts_with("job_version "), "{explained}");
    assert!(line(&explained, "action").starts_with("you: read `vdk execute --logs"), "{explained}");

    job.put("requirements.txt", "-r /etc/passwd\n");
    let (code, out, err) = dev();
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    let (code, _, err) = run(&service, &["rollout", "wait", job.name(), "--timeout", "5"]);
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("user error"), "{err}");
    let explained = explain();
    assert!(line(&explained, "rollout").starts_with("user error, executions use revision "), "{explained}");
    assert!(line(&explained, "action").starts_with("you: "), "{explained}");
}

#[tokio::test]
async fn dev_runs_again_after_a_save_and_ends_with_ctrl_c() {
    let service = shared();
    let job = Job::new("watched-job").step("10_step.py", "print('version', 'one')");
    let binary = binary::path(Profile::Dev).expect("the binary");
    let mut dev = Command::new(binary)
        .args(["dev", &job.path().to_string_lossy(), "--url", service.url()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("holdfast dev");
    let output = dev.stdout.take().expect("its output");
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    let says = |text: &str| {
        let found = || lines.recv_timeout(Duration::from_secs(120)).expect("a line within two minutes");
        while !found().contains(text) {}
    };
    says("version one");
    // The save may come while the first execution is active, which is then cancelled.
    job.put("10_step.py", "def run(job_input):\n    print('version', 'two')\n");
    says("version two");
    let id = i32::try_from(dev.id()).ok().and_then(rustix::process::Pid::from_raw).expect("its id");
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("Ctrl-C");
    assert_eq!(dev.wait().expect("its end").code(), Some(0));
}

#[tokio::test]
async fn dev_leaves_services_on_other_machines_alone() {
    let service = shared();
    let job = Job::new("remote-job");
    let path = job.path();
    let output = service.command(&["dev", &path.to_string_lossy(), "--url", "https://jobs.example.com"]);
    let (code, _, err) = ended(&output);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("is not on this machine") && err.contains("--remote"), "{err}");
}

#[tokio::test]
async fn the_exit_code_of_a_wait_for_a_rollout_tells_time_outs_from_platform_errors() {
    let service = shared();
    let (code, _, err) = run(&service, &["rollout", "wait", "no-such-job"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("no job no-such-job"), "{err}");
    let api = service.api();
    let job = Job::new("waited-job").file("requirements.txt", "six>=1.10\n").step("10_step.py", "pass");
    let _ = api.create(job.name()).await.ok();
    let (code, _, err) = run(&service, &["rollout", "wait", job.name()]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("has no deployment"), "{err}");
    let version = api.deploy(&job).await;
    let (code, _, err) = run(&service, &["rollout", "wait", job.name(), "--timeout", "0"]);
    assert_eq!(code, 5, "{err}");
    let (code, _, err) = run(&service, &["rollout", "wait", job.name(), "--timeout", "300"]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains(&version), "{err}");

    // No server has this port.
    let cut = Service::start_with(Options::default().set("HOLDFAST_INDEX_URL", "http://127.0.0.1:9/simple"));
    let _ = cut.api().create(job.name()).await.ok();
    cut.api().deploy(&job).await;
    wait::until("the platform failed", wait::DEPLOYED, async || {
        let path = format!("/jobs/{}/deployments/production/rollout", job.name());
        (cut.api().get(&path).await.ok().json()["phase"] == "retrying").then_some(())
    })
    .await;
    let (code, _, err) = run(&cut, &["rollout", "wait", job.name(), "--timeout", "0"]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("platform error"), "{err}");
}

#[tokio::test]
async fn the_installed_client_knows_the_service_and_no_other_folder_is_replaced() {
    let service = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let into = folder.path().join("vdk");
    let install = ["client", "install", "--into", &into.to_string_lossy(), "--url", service.url()].map(str::to_owned);
    let install = || ended(&service.command(&install.each_ref().map(String::as_str)));
    let (code, out, err) = install();
    assert_eq!(code, 0, "{out}{err}");
    let commands = into.canonicalize().expect("the folder").join("bin");
    assert_eq!(out, format!("export PATH={}:$PATH\n", commands.display()));
    let listed = Command::new(commands.join("vdk"))
        .args(["create", "--cloud", "-n", "job-of-a-client", "-t", TEAM])
        .env("HOME", folder.path())
        .env("VDK_CONTROL_HTTP_TOTAL_RETRIES", "0")
        .env_remove("VDK_CONTROL_SERVICE_REST_API_URL")
        .current_dir(folder.path())
        .output()
        .expect("the client");
    assert!(listed.status.success(), "{:?}", ended(&listed));
    let _ = service.api().get("/jobs/job-of-a-client").await.is(200);

    fs::remove_dir_all(&into).expect("removed");
    fs::create_dir(&into).expect("a folder");
    fs::write(into.join("thesis.txt"), "important").expect("a file");
    let (code, _, err) = install();
    assert_eq!(code, 2, "{err}");
    assert_eq!(fs::read_to_string(into.join("thesis.txt")).expect("the file"), "important");
}
