//! A crash of the service at any point neither loses a run nor doubles it.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use model::{
    execution::EndCause,
    runtime::{Runtime, Seen, Stage},
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::harness::{FakeTools, Harness, JOB, id, known, options, run, within};
use runtime::local::LocalRuntime;

/// Not a test: the service that the tests below kill. Its standard input says where and what.
#[tokio::test]
#[ignore = "a part of other tests"]
async fn starter() {
    let mut told = String::new();
    io::stdin().read_line(&mut told).unwrap();
    let [data, meeting, step]: [String; 3] = serde_json::from_str(&told).unwrap();
    let runtime = LocalRuntime::open(options(data.as_ref(), Arc::new(FakeTools::default()))).unwrap();
    writeln!(io::stdout(), "\nopen").unwrap();
    runtime.start(&run(1, &step, meeting.as_ref())).await.unwrap();
    writeln!(io::stdout(), "\nstarted").unwrap();
    // Until it is killed, or the test is gone.
    let _ = io::stdin().read(&mut [0]);
}

/// Another process that is about to start run 1.
fn service_elsewhere(harness: &Harness, step: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["crashes::starter", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let meeting = harness.folder.path().join("shared/meet");
    let told = serde_json::json!([harness.data(), meeting, step]);
    writeln!(child.stdin.as_mut().unwrap(), "{told}").unwrap();
    child
}

/// Another process that has started run 1 and continues.
fn start_elsewhere(harness: &Harness, step: &str) -> Child {
    let mut child = service_elsewhere(harness, step);
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "started"), "the starter failed");
    child
}

#[tokio::test]
async fn a_run_survives_the_killing_of_the_service_that_started_it() {
    for how in ["kill -9", "ctrl-c"] {
        let harness = Harness::new().await;
        let mut service = start_elsewhere(&harness, "print('before', flush=True); meet().recv(1); print('after')");
        let (_, connection) = harness.meet().await;
        let pid = Pid::from_child(&service);
        match how {
            "kill -9" => kill_process(pid, Signal::KILL).unwrap(),
            _ => kill_process_group(pid, Signal::INT).unwrap(),
        }
        assert!(!service.wait().unwrap().success());

        let later = harness.reopened();
        assert_eq!(later.runs().await.unwrap(), [known(1)]);
        assert!(matches!(within(later.next(&id(1), &Seen::Submitted)).await.unwrap(), Stage::Running(_)));
        later.start(&harness.run(1, "raise SystemExit('this must not run')")).await.unwrap();
        assert_eq!(harness.supervisors(1).len(), 1);
        drop(connection);
        assert_eq!(harness.end(1).await.cause, EndCause::Exited(0), "{how}: {}", harness.log(1).await);
        assert_eq!(harness.log(1).await, "before\nafter\n", "{how}");
    }
}

#[tokio::test]
async fn a_service_killed_at_any_instant_of_a_start_and_asked_again_runs_the_job_once() {
    for delay_ms in (0..40).step_by(2) {
        let harness = Harness::new().await;
        let ran = harness.folder.path().join("shared/ran");
        let step = format!("open({:?}, 'a').write('once\\n')", ran.to_str().unwrap());
        let mut service = service_elsewhere(&harness, &step);
        let mut said = BufReader::new(service.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap() == "open"), "the starter failed");
        // No event tells of the instants in between: time has to.
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        service.kill().unwrap();
        service.wait().unwrap();

        let later = harness.reopened();
        later.start(&harness.run(1, &step)).await.unwrap();
        assert_eq!(harness.end(1).await.cause, EndCause::Exited(0), "{}", harness.log(1).await);
        assert_eq!(fs::read_to_string(&ran).unwrap(), "once\n", "killed after {delay_ms} ms");
        // A supervisor that came too late sees so and ends.
        while !harness.supervisors(1).is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(fs::read_to_string(&ran).unwrap(), "once\n", "killed after {delay_ms} ms");
    }
}

#[tokio::test]
async fn the_end_of_a_run_that_ended_between_two_checks_is_found() {
    let harness = Harness::new().await;
    let mut service = start_elsewhere(&harness, "meet().recv(1); raise SystemExit(3)");
    let (_, connection) = harness.meet().await;
    service.kill().unwrap();
    service.wait().unwrap();
    drop(connection);
    let end = harness.end(1).await;
    assert_eq!(end.cause, EndCause::Exited(3));
    let later = harness.reopened();
    assert_eq!(within(later.next(&id(1), &Seen::Submitted)).await.unwrap(), Stage::Ended(end));
}

/// Makes the folder of run 1 as a crash left it.
type Leave = fn(&Harness);

#[tokio::test]
async fn a_start_after_a_crash_at_any_point_before_the_job_runs_it_once() {
    let points: [(&str, Leave); 5] = [
        ("nothing but the folder", |harness| fs::create_dir(harness.run_folder(1)).unwrap()),
        ("a specification cut short, and no lock", |harness| {
            fs::create_dir_all(harness.run_folder(1).join("work/some-job")).unwrap();
            fs::write(harness.run_folder(1).join("spec.json.tmp"), "{").unwrap();
        }),
        ("a whole folder whose supervisor was never started", |harness| {
            fs::create_dir_all(harness.run_folder(1).join("work/some-job")).unwrap();
            fs::write(harness.run_folder(1).join("spec.json"), "{}").unwrap();
            fs::write(harness.run_folder(1).join("lock"), "").unwrap();
        }),
        ("a supervisor that ended before its marker", |harness| {
            fs::create_dir(harness.run_folder(1)).unwrap();
            fs::write(harness.run_folder(1).join("lock"), "").unwrap();
            fs::write(harness.run_folder(1).join("started.tmp"), "").unwrap();
            fs::write(harness.run_folder(1).join("exit.reserve"), " ").unwrap();
            drop(std::os::unix::net::UnixListener::bind(harness.run_folder(1).join("control")).unwrap());
        }),
        ("folders under other names", |harness| {
            fs::create_dir_all(harness.data().join("runs/.new-x/work")).unwrap();
            fs::create_dir_all(harness.data().join("runs/.gone-x/some-job-1")).unwrap();
        }),
    ];
    for (point, leave) in points {
        let harness = Harness::new().await;
        leave(&harness);
        let later = harness.reopened();
        assert_eq!(within(later.next(&id(1), &Seen::Submitted)).await.unwrap(), Stage::Unknown, "{point}");
        let run = harness.run(1, "print('once')");
        later.start(&run).await.unwrap();
        later.start(&run).await.unwrap();
        assert_eq!(harness.end(1).await.cause, EndCause::Exited(0), "{point}");
        assert_eq!(harness.log(1).await, "once\n", "{point}");
        assert_eq!(fs::read_dir(harness.data().join("runs")).unwrap().count(), 1, "{point}");
    }
}

#[tokio::test]
async fn a_marker_without_an_end_is_a_lost_run_that_is_not_repeated() {
    let harness = Harness::new().await;
    fs::create_dir(harness.run_folder(1)).unwrap();
    fs::write(harness.run_folder(1).join("lock"), "").unwrap();
    fs::write(harness.run_folder(1).join("started"), r#"{"started_at":"2026-01-01T00:00:00Z"}"#).unwrap();
    let run = harness.run(1, "print('this must not run')");
    harness.runtime.start(&run).await.unwrap();
    let end = harness.end(1).await;
    assert_eq!(end.cause, EndCause::Lost);
    assert_eq!(end.started_at, Some("2026-01-01T00:00:00Z".parse().unwrap()));
    harness.runtime.start(&run).await.unwrap();
    assert_eq!(harness.log(1).await, "");
    assert_eq!(harness.end(1).await, end);
}

#[tokio::test]
async fn someone_who_only_looks_at_a_lock_does_not_pass_for_a_supervisor() {
    let harness = Harness::new().await;
    fs::create_dir(harness.run_folder(1)).unwrap();
    let looks = fs::File::create(harness.run_folder(1).join("lock")).unwrap();
    looks.lock().unwrap();
    let run = harness.run(1, "print('once')");
    let mut start = harness.runtime.start(&run);
    tokio::select! {
        started = &mut start => panic!("{started:?} while no process could have"),
        () = tokio::time::sleep(std::time::Duration::from_millis(100)) => {}
    }
    looks.unlock().unwrap();
    within(start).await.unwrap();
    assert_eq!(harness.end(1).await.cause, EndCause::Exited(0));
    assert_eq!(harness.log(1).await, "once\n");
}

#[tokio::test]
async fn a_cancellation_before_the_supervisor_is_there_is_kept() {
    let harness = Harness::new().await;
    fs::create_dir(harness.run_folder(1)).unwrap();
    harness.runtime.cancel(&id(1), JOB).await.unwrap();
    harness.runtime.start(&harness.run(1, "print('this must not run')")).await.unwrap();
    let end = harness.end(1).await;
    assert_eq!((end.cause, end.started_at), (EndCause::Cancelled, None));
    assert_eq!(harness.log(1).await, "");
}

#[tokio::test]
async fn a_second_supervisor_of_a_run_ends_at_once() {
    let harness = Harness::new().await;
    harness.runtime.start(&harness.run(1, "print('once', flush=True); meet().recv(1)")).await.unwrap();
    let (_, connection) = harness.meet().await;
    let folder = harness.run_folder(1).canonicalize().unwrap();
    let second = || Command::new(env!("CARGO_BIN_EXE_shim")).arg(&folder).output().unwrap();
    assert_eq!(second().stdout, b"taken\n");
    drop(connection);
    harness.end(1).await;
    assert_eq!(second().stdout, b"taken\n");
    assert_eq!(harness.log(1).await, "once\n");
}

#[tokio::test]
async fn a_service_that_waits_for_a_run_hears_of_it_from_each_of_its_instances() {
    let harness = Harness::new().await;
    harness.runtime.start(&harness.run(1, "meet().recv(1)")).await.unwrap();
    let (_, connection) = harness.meet().await;
    let other = harness.reopened();
    let job = id(1);
    let (one, two) = (harness.runtime.next(&job, &Seen::Running), other.next(&job, &Seen::Running));
    let release = async { drop(connection) };
    let (one, two, ()) = within(async { tokio::join!(one, two, release) }).await;
    assert_eq!(one.unwrap(), two.unwrap());
}

#[tokio::test]
async fn a_runs_files_are_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let harness = Harness::new().await;
    harness.runtime.start(&harness.run(1, "meet().recv(1)")).await.unwrap();
    let (_, connection) = harness.meet().await;
    let mode = |path: std::path::PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in ["environments", "runs", "runs/some-job-1", "runs/some-job-1/job/work"] {
        assert_eq!(mode(harness.data().join(folder)), 0o700, "{folder}");
    }
    for file in ["spec.json", "lock", "started", "shim.log"] {
        assert_eq!(mode(harness.run_folder(1).join(file)), 0o600, "{file}");
    }
    drop(connection);
    harness.end(1).await;
    assert_eq!(mode(harness.run_folder(1).join("exit.json")), 0o600);
    assert_eq!(fs::read_to_string(harness.run_folder(1).join("shim.log")).unwrap(), "");
}

#[tokio::test]
async fn an_active_run_closes_no_connection() {
    let harness = Harness::new().await;
    harness.runtime.start(&harness.run(1, "meet().recv(1)")).await.unwrap();
    let (_, connection) = harness.meet().await;
    let job = id(1);
    let mut waiting = harness.runtime.next(&job, &Seen::Running);
    // The supervisor answers the newcomer after it took the first connection in; the first still waits.
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("it goes on"),
        stage = harness.runtime.next(&job, &Seen::Submitted) => assert!(matches!(stage.unwrap(), Stage::Running(_))),
    }
    drop(connection);
    assert!(matches!(within(waiting).await.unwrap(), Stage::Ended(_)));
}
