//! The inputs of a run, and its reported state.

use model::{
    execution::EndCause,
    log::LogPart,
    problem::Kind,
    runtime::{Runtime, Seen, Stage},
};

use crate::harness::{Harness, JOB, hung_up, id, known, within};

#[tokio::test]
async fn a_run_that_ends_well_has_its_log_and_its_times() {
    let harness = Harness::new().await;
    harness.runtime.start(&harness.run(1, "print('hello')")).await.unwrap();
    let Stage::Running(started_at) = within(harness.runtime.next(&id(1), &Seen::Submitted)).await.unwrap() else {
        panic!("not running")
    };
    let end = harness.end(1).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{}", harness.log(1).await);
    assert_eq!(end.started_at, Some(started_at));
    assert!(end.ended_at >= started_at);
    assert_eq!(end.termination_message, None);
    assert_eq!(harness.log(1).await, "hello\n");
}

#[tokio::test]
async fn the_exit_code_is_the_jobs_own() {
    let harness = Harness::new().await;
    let end = harness.run_to_end(&harness.run(1, "import sys; sys.exit(3)")).await;
    assert_eq!(end.cause, EndCause::Exited(3));
    let end = harness.run_to_end(&harness.run(2, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")).await;
    assert_eq!(end.cause, EndCause::Exited(137));
}

#[tokio::test]
async fn both_outputs_are_one_log_in_the_order_of_writing() {
    let harness = Harness::new().await;
    let step = "import os\nfor n in range(50):\n  os.write(1 + n % 2, b'%d\\n' % n)";
    harness.run_to_end(&harness.run(1, step)).await;
    let lines: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(harness.log(1).await.lines().collect::<Vec<_>>(), lines);
}

#[tokio::test]
async fn the_log_of_a_run_in_progress_is_there_as_far_as_it_got() {
    let harness = Harness::new().await;
    let step = "import os; os.write(1, b'so far\\n'); meet().recv(1); print('the rest')";
    harness.runtime.start(&harness.run(1, step)).await.unwrap();
    let (_, connection) = harness.meet().await;
    // The supervisor took the line in before the job got here, or takes it in now: it is asked by another event.
    while harness.log(1).await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(harness.log(1).await, "so far\n");
    drop(connection);
    harness.end(1).await;
    assert_eq!(harness.log(1).await, "so far\nthe rest\n");
}

#[tokio::test]
async fn the_termination_message_is_read_and_cut() {
    let harness = Harness::new().await;
    let step = "import os; open(os.environ['VDK_TERMINATION_MESSAGE_WRITER_OUTPUT_FILE'], 'w').write(TEXT)";
    let end = harness.run_to_end(&harness.run(1, &step.replace("TEXT", r#"'{"status": "User error"}'"#))).await;
    assert_eq!(end.termination_message.as_deref(), Some(r#"{"status": "User error"}"#));
    let end = harness.run_to_end(&harness.run(2, &step.replace("TEXT", "'x' * 10_000"))).await;
    assert_eq!(end.termination_message, Some("x".repeat(4096)));
}

#[tokio::test]
async fn a_termination_message_that_is_a_link_or_no_file_is_not_read() {
    let harness = Harness::new().await;
    for (number, make) in (1..).zip(["os.symlink('/etc/passwd', at)", "os.mkfifo(at)", "os.mkdir(at)"]) {
        let step = format!("import os\nat = os.environ['VDK_TERMINATION_MESSAGE_WRITER_OUTPUT_FILE']\n{make}");
        let end = harness.run_to_end(&harness.run(number, &step)).await;
        assert_eq!(end.cause, EndCause::Exited(0), "{}", harness.log(number).await);
        assert_eq!(end.termination_message, None, "{make}");
    }
}

#[tokio::test]
async fn a_job_gets_its_variables_and_folders_and_nothing_else() {
    let harness = Harness::new().await;
    let step = r"
import json, os
fds = sorted(int(f) for f in os.listdir('/proc/self/fd'))[:-1]
print(json.dumps([dict(os.environ), os.getcwd(), arguments, fds, os.read(0, 1).decode(), os.listdir('some-job')]))
";
    let mut run = harness.run(1, step);
    run.arguments = Some(r#"{"a": "ü b"}"#.into());
    run.variables.insert("HOME".into(), "/somewhere/else".into());
    let end = harness.run_to_end(&run).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{}", harness.log(1).await);
    let said: serde_json::Value = serde_json::from_str(&harness.log(1).await).unwrap();
    let folder = harness.run_folder(1).canonicalize().unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let variables = said[0].as_object().unwrap();
    let environment = variables["VIRTUAL_ENV"].as_str().unwrap();
    let expected = serde_json::json!({
        "HOME": at("job/home"),
        "MEET": run.variables["MEET"],
        "PATH": format!("{environment}/bin:/usr/local/bin:/usr/bin:/bin"),
        "TMPDIR": at("job/tmp"),
        "VDK_ATTEMPT_ID": "some-job-1-local",
        "VDK_BASE_CONFIG_FOLDER": at("job/home"),
        "VDK_KEYTAB_FOLDER": at("job/home"),
        "VDK_TEMPORARY_WRITE_DIRECTORY": at("job/tmp"),
        "VDK_TERMINATION_MESSAGE_WRITER_OUTPUT_FILE": at("job/out/termination-message"),
        "VIRTUAL_ENV": environment,
    });
    let mut got = said[0].clone();
    // Python's own, where no locale is set.
    got.as_object_mut().unwrap().remove("LC_CTYPE");
    assert_eq!(got, expected);
    assert_eq!(said[1], at("job/work"));
    assert_eq!(said[2], serde_json::json!({"a": "ü b"}));
    assert_eq!(said[3], serde_json::json!([0, 1, 2]));
    assert_eq!(said[4], "");
    assert_eq!(said[5], serde_json::json!(["step.py"]));
}

#[tokio::test]
async fn a_run_that_is_started_twice_runs_once() {
    let harness = Harness::new().await;
    let run = harness.run(1, "print('once'); meet().recv(1)");
    let again = harness.reopened();
    let (one, two, three) = tokio::join!(harness.runtime.start(&run), harness.runtime.start(&run), again.start(&run));
    one.unwrap();
    two.unwrap();
    three.unwrap();
    let (_, connection) = harness.meet().await;
    harness.runtime.start(&run).await.unwrap();
    assert_eq!(harness.supervisors(1).len(), 1);
    drop(connection);
    harness.end(1).await;
    harness.runtime.start(&run).await.unwrap();
    assert_eq!(harness.log(1).await, "once\n");
}

#[tokio::test]
async fn many_runs_at_once_do_not_meet() {
    let harness = Harness::new().await;
    let runs: Vec<_> = (1..=8).map(|n| harness.run(n, &format!("print({n}); meet('{n}').recv(1)"))).collect();
    let mut connections = Vec::new();
    for run in &runs {
        harness.runtime.start(run).await.unwrap();
    }
    for _ in &runs {
        connections.push(harness.meet().await);
    }
    assert_eq!(harness.runtime.runs().await.unwrap().len(), 8);
    drop(connections);
    for n in 1..=8 {
        assert_eq!(harness.end(n).await.cause, EndCause::Exited(0));
        assert_eq!(harness.log(n).await, format!("{n}\n"));
    }
}

#[tokio::test]
async fn a_run_that_was_not_dispatched_is_unknown() {
    let harness = Harness::new().await;
    for seen in [Seen::Submitted, Seen::Running] {
        assert_eq!(within(harness.runtime.next(&id(1), &seen)).await.unwrap(), Stage::Unknown);
    }
    assert_eq!(harness.runtime.log(&id(1), LogPart::Whole).await.unwrap(), None);
    harness.runtime.cancel(&id(1), JOB).await.unwrap();
    harness.runtime.forget(&id(1), JOB).await.unwrap();
    assert_eq!(harness.runtime.runs().await.unwrap(), []);
}

#[tokio::test]
async fn a_run_is_forgotten_when_it_has_ended_and_not_before() {
    let harness = Harness::new().await;
    let step = "import os; os.makedirs('x/y'); os.chmod('x/y', 0); os.chmod('x', 0); meet().recv(1)";
    harness.runtime.start(&harness.run(1, step)).await.unwrap();
    let (_, connection) = harness.meet().await;
    assert_eq!(harness.runtime.forget(&id(1), JOB).await.unwrap_err().kind, Kind::Conflict);
    assert_eq!(harness.runtime.runs().await.unwrap(), [known(1)]);
    drop(connection);
    harness.end(1).await;
    harness.runtime.forget(&id(1), JOB).await.unwrap();
    harness.runtime.forget(&id(1), JOB).await.unwrap();
    assert_eq!(harness.runtime.runs().await.unwrap(), []);
    assert_eq!(harness.runtime.log(&id(1), LogPart::Whole).await.unwrap(), None);
    assert_eq!(within(harness.runtime.next(&id(1), &Seen::Running)).await.unwrap(), Stage::Unknown);
    let name = harness.data().join("runs").join(id(1).as_str());
    assert!(!name.join("job/work").exists());

    // A service that froze before its start and comes back now does not run it again.
    harness.runtime.start(&harness.run(1, "raise SystemExit('this must not run')")).await.unwrap();
    harness.runtime.clean_up(&[]).await.unwrap();
    assert_eq!((harness.runtime.runs().await.unwrap(), harness.supervisors(1).len()), (vec![], 0));
    assert!(name.exists());

    // In the end the name goes too.
    let mark = std::fs::File::open(name.join("forgotten")).unwrap();
    mark.set_modified(std::time::UNIX_EPOCH).unwrap();
    harness.runtime.clean_up(&[]).await.unwrap();
    assert!(!name.exists());
}

#[tokio::test]
async fn a_failed_run_is_tried_again_as_often_as_it_may() {
    let harness = Harness::new().await;
    let step = "
import os
n = len(os.listdir('../work')) - 1
open(f'../work/{n}', 'w').close()
print(os.environ['VDK_ATTEMPT_ID'])
raise SystemExit(4 if n < 2 else 0)";
    let mut run = harness.run(1, step);
    run.backoff_limit = 5;
    let end = harness.run_to_end(&run).await;
    let log = harness.log(1).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{log}");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 5, "{log}");
    assert_eq!([lines[0], lines[2], lines[4]], ["some-job-1-local", "some-job-1-2", "some-job-1-3"]);
    assert!(lines[1].starts_with("[... attempt 1 of 6 failed"), "{log}");

    let mut run = harness.run(2, "print('tried'); raise SystemExit(7)");
    run.backoff_limit = 1;
    assert_eq!(harness.run_to_end(&run).await.cause, EndCause::Exited(7));
    assert_eq!(harness.log(2).await.matches("tried").count(), 2);
}

#[tokio::test]
async fn a_long_log_keeps_its_head_and_tail_and_does_not_hold_the_job_up() {
    const MEBIBYTE: u64 = 1024 * 1024;
    let harness = Harness::with(|o| o.log_max_bytes = MEBIBYTE).await;
    let step = "print('the head')\nfor n in range(50):\n  print(('x' * 127 + '\\n') * 8192, end='')\nprint('the tail')";
    let end = harness.run_to_end(&harness.run(1, step)).await;
    assert_eq!(end.cause, EndCause::Exited(0));
    let chunk = harness.runtime.log(&id(1), LogPart::Whole).await.unwrap().unwrap();
    assert!(chunk.text.starts_with("the head\nxxx") && chunk.text.ends_with("xxx\nthe tail\n"));
    assert_eq!(chunk.omitted_bytes, 49 * MEBIBYTE + "the head\nthe tail\n".len() as u64);
    assert!(chunk.text.contains("\n[... 51380242 bytes of the log were left out here ...]\n"));
    let on_disk: u64 = std::fs::read_dir(harness.run_folder(1))
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_name().to_str().unwrap().starts_with("log."))
        .map(|e| e.metadata().unwrap().len())
        .sum();
    assert!(on_disk <= MEBIBYTE + MEBIBYTE / 2, "{on_disk}");
}

#[tokio::test]
async fn a_data_folder_with_a_long_path_has_runs_too() {
    let long = format!("{}/{}", "a".repeat(120), "b".repeat(120));
    let mut deep = std::path::PathBuf::new();
    let harness = Harness::with(|o| {
        o.data_dir = o.data_dir.join(long);
        std::fs::create_dir_all(&o.data_dir).unwrap();
        deep = o.data_dir.clone();
        // The first line of a script has at most 255 bytes, and here it names the system's Python.
    })
    .await;
    harness.runtime.start(&harness.run(1, "meet().recv(1)")).await.unwrap();
    let (_, connection) = harness.meet().await;
    assert!(deep.join("runs/some-job-1/control").exists());
    harness.runtime.cancel(&id(1), JOB).await.unwrap();
    assert_eq!(harness.end(1).await.cause, EndCause::Cancelled);
    hung_up(connection).await;
}

#[tokio::test]
async fn a_job_whose_program_can_not_be_started_says_why() {
    let harness = Harness::new().await;
    let environments = harness.data().join("environments");
    for entry in std::fs::read_dir(environments).unwrap() {
        let vdk = entry.unwrap().path().join("bin/vdk");
        if vdk.exists() {
            std::fs::remove_file(vdk).unwrap();
        }
    }
    let end = harness.run_to_end(&harness.run(1, "")).await;
    let EndCause::NotStarted(why) = &end.cause else { panic!("{end:?}") };
    assert!(why.contains("bin/vdk can't be started: No such file"), "{why}");
    assert_eq!(end.started_at, None);
}

/// Needs a file system of its own: `mount -t tmpfs -o size=2m tmpfs $TMPDIR` with TMPDIR in front of the test.
#[tokio::test]
#[ignore = "needs a small file system at TMPDIR"]
async fn a_full_disk_neither_holds_a_job_up_nor_loses_its_end() {
    let harness = Harness::with(|o| o.log_max_bytes = 64 * 1024 * 1024).await;
    let step = "
import os
f = open('filler', 'wb', buffering=0)
try:
    while True: f.write(b'x' * 4096)
except OSError as e:
    print(e)
for n in range(4 * 1024): print('y' * 1023)
raise SystemExit(6)";
    let end = harness.run_to_end(&harness.run(1, step)).await;
    assert_eq!(end.cause, EndCause::Exited(6));
    let chunk = harness.runtime.log(&id(1), LogPart::Whole).await.unwrap().unwrap();
    assert!(chunk.text.contains("No space left on device"), "{}", chunk.text);
    assert!(chunk.omitted_bytes > 1024 * 1024, "{}", chunk.omitted_bytes);
    harness.runtime.forget(&id(1), JOB).await.unwrap();
}
