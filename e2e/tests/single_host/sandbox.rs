//! The service's files are private, and stay so whatever a job or an operator does to their modes.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use e2e::{
    job::Job,
    service::{Options, Service},
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a file of this user");
}

/// Waits until the service has said all of this.
async fn says(service: &Service, texts: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    while !texts.iter().all(|text| service.log().contains(text)) {
        assert!(Instant::now() < deadline, "{}", service.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
const FILES: [&str; 4] = ["secret.key", "holdfast.db", "holdfast.db-wal", "holdfast.db-shm"];

#[tokio::test]
async fn files_of_the_service_are_private_and_a_start_makes_them_private_again() {
    let mut service = Service::start();
    let data = service.data_dir().to_owned();
    let modes = || FILES.map(|name| mode(&data.join(name)));
    assert_eq!((mode(&data), modes()), (0o700, [0o600; 4]));

    says(&service, &["jobs          can't read the data folder: confined by the kernel ("]).await;
    service.kill();
    for name in FILES {
        set(&data.join(name), 0o644);
    }
    set(&data, 0o755);
    service.start_again();
    assert_eq!((mode(&data), modes()), (0o700, [0o600; 4]));
    says(&service, &["secret.key", "restored the mode of a file"]).await;
}

#[tokio::test]
async fn without_user_namespaces_the_start_says_so_and_modes_are_restored_while_jobs_run() {
    const WRAPPER: &str = r#"#!/bin/sh
exec unshare -Ur sh -c 'echo 0 > /proc/sys/user/max_user_namespaces && echo 0 > /proc/sys/user/max_mnt_namespaces &&
  exec "$@"' - "BINARY" "$@"
"#;
    let binary = devtools::binary::path(devtools::binary::Profile::Dev).expect("the binary");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wrapper = folder.path().join("holdfast");
    let text = WRAPPER.replace("BINARY", binary.to_str().expect("UTF-8"));
    let mut file = fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o700).open(&wrapper).expect("a file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("a file");
    drop(file);
    let service = Service::start_with(Options { binary: Some(wrapper), ..Options::default() });
    let data = service.data_dir().to_owned();

    says(&service, &["; see the warnings", "can change modes, owners and times of the service's files"]).await;
    let api = service.api();
    let targets = FILES.map(|name| format!("{:?}", data.join(name)));
    let body = format!("import os\nfor path in [{}]: os.chmod(path, 0o666)\nprint('changed')", targets.join(", "));
    let job = Job::new("changes-modes").step("10_step.py", &body);
    api.deployed(&job).await;
    let id = api.started(job.name()).await;
    let ended = api.ended(job.name(), &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let deadline = Instant::now() + PATIENCE;
    while FILES.iter().any(|name| mode(&data.join(name)) != 0o600) {
        assert!(Instant::now() < deadline, "the modes were not restored");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(service.log().contains("restored the mode of a file"), "{}", service.log());
}
