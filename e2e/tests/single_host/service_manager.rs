//! The real binary under a service manager: what it reports, what its jobs get of it, and where its metrics are.

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use e2e::{
    api::Api,
    job::Job,
    service::{Options, Service},
    wait,
};
use tempfile::TempDir;

const METRICS: &str = "/data-jobs/debug/prometheus";

/// The socket of a service manager.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Self { folder, socket }
    }

    fn path(&self) -> String {
        self.folder.path().join("notify").display().to_string()
    }

    /// The next message; `None` when nothing comes for so long.
    fn heard(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).expect("a time-out");
        let mut text = [0; 512];
        let length = self.socket.recv(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    /// Waits for a message that begins so.
    fn hears(&self, beginning: &str) {
        let begun = Instant::now();
        while begun.elapsed() < wait::SOON {
            let text = self.heard(wait::SOON).unwrap_or_else(|| panic!("nothing, and not {beginning}"));
            if text.starts_with(beginning) {
                return;
            }
        }
        panic!("{beginning} does not come");
    }
}

fn signal(name: &str, service: &mut Service) {
    let id = service.process().id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().expect("kill").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_is_reported_the_start_of_progress_and_of_the_end() {
    const WATCHDOG: Duration = Duration::from_secs(2);
    let manager = Manager::new();
    let mut service = Service::start_with(
        Options::default()
            .set("NOTIFY_SOCKET", &manager.path())
            .set("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string()),
    );
    manager.hears("READY=1");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");
    signal("-STOP", &mut service);
    // Messages that were sent before.
    while manager.heard(WATCHDOG).is_some() {}
    assert_eq!(manager.heard(WATCHDOG * 2), None, "a process that stands still feeds no watchdog");
    signal("-CONT", &mut service);
    manager.hears("WATCHDOG=1");

    let api = service.api();
    let step = "import json, resource\nprint('SEEN', json.dumps(sorted(os.environ)))";
    let job = Job::new("curious-job").step("10_step.py", step);
    api.deployed(&job).await;
    let id = api.started("curious-job").await;
    let log = api.log_says("curious-job", &id, "SEEN").await;
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        assert!(!log.contains(name), "{name} reached the job: {log}");
    }
    api.ended("curious-job", &id).await;
    // The kernel keeps few unread messages, and drops later ones.
    while manager.heard(Duration::from_millis(1)).is_some() {}
    service.stop();
    manager.hears("STOPPING=1");
}

/// The soft limit of open files of a process.
fn open_files(limits: &str) -> (String, String) {
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit").to_owned();
    let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    (numbers[0].to_owned(), numbers[1].to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_raises_its_limit_of_open_files_and_jobs_keep_the_former_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = devtools::binary::path(devtools::binary::Profile::Dev).expect("the binary");
    let script = folder.path().join("holdfast");
    let text = format!("#!/bin/sh\nulimit -Sn 700 && ulimit -Hn 2000 && exec '{}' \"$@\"\n", binary.display());
    write_program(&script, &text);
    let mut service = Service::start_with(Options { binary: Some(script), ..Options::default() });
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", service.process().id())).expect("limits");
    assert_eq!(open_files(&limits), ("2000".into(), "2000".into()));
    assert!(service.log().contains("connections_max=1488"), "{}", service.log());
    let api = service.api();
    let step = "print('LIMITS', open('/proc/self/limits').read())";
    api.deployed(&Job::new("limited-job").step("10_step.py", step)).await;
    let id = api.started("limited-job").await;
    let log = api.log_says("limited-job", &id, "Max open files").await;
    assert_eq!(open_files(&log), ("700".into(), "2000".into()));
    api.ended("limited-job", &id).await;
}

fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a program");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_addresses_are_shown_at_the_listener_or_with_the_token_of_the_metrics_only() {
    let create = async |api: &Api| {
        let _ = api.create("watched-job").await.is(201);
        let body = serde_json::json!({ "job_name": "watched-job", "team": e2e::TEAM, "config": {
            "schedule": {}, "enable_execution_notifications": true,
            "contacts": { "notified_on_job_success": ["ann@example.com"] } } });
        let _ = api.put("/jobs/watched-job", &body).await.ok();
    };
    let shown = async |api: &Api, url: &str| {
        wait::until("the job is in the metrics", wait::SOON, async || {
            let page = api.get_at(url).await.is(200).text();
            page.contains("taurus_datajob_info{data_job=\"watched-job\"").then_some(page)
        })
        .await
    };
    let open = Service::start();
    create(&open.api()).await;
    let page = shown(&open.api(), &format!("{}{METRICS}", open.url())).await;
    assert!(!page.contains("ann@example.com") && !page.contains("email_notified"), "{page}");

    let own = Service::start_with(Options::default().set("HOLDFAST_METRICS_LISTEN", "127.0.0.1:0"));
    create(&own.api()).await;
    let _ = own.api().get_at(&format!("{}{METRICS}", own.url())).await.is(404);
    let page = shown(&own.api(), &own.metrics_url().expect("the address of the metrics")).await;
    assert!(page.contains("ann@example.com"), "{page}");
}
