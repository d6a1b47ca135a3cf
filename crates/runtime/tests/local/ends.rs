//! However a run ends, nothing of it is left.

use std::time::Duration;

use model::{
    execution::EndCause,
    runtime::{Runtime, Seen, Stage},
};
use rustix::process::{Signal, kill_process};

use crate::harness::{Harness, JOB, hung_up, id, within};

/// A process of its own session whose parent has ended, as daemons make themselves.
const DAEMON: &str = r"
import os, signal
def daemon(word, deaf=False):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if deaf:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            s = meet(word)
            s.recv(1)
            os._exit(0)
        os._exit(0)
    os.wait()
";

#[tokio::test]
async fn a_cancelled_run_leaves_no_descendant_not_even_a_daemon() {
    let harness = Harness::with(|o| o.grace = Duration::from_millis(300)).await;
    let step = format!("{DAEMON}\ndaemon('one')\ndaemon('two', deaf=True)\nmeet('main').recv(1)");
    harness.runtime.start(&harness.run(1, &step)).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(harness.meet().await.1);
    }
    harness.runtime.cancel(&id(1), JOB).await.unwrap();
    harness.runtime.cancel(&id(1), JOB).await.unwrap();
    let end = harness.end(1).await;
    assert_eq!(end.cause, EndCause::Cancelled);
    assert!(end.started_at.is_some());
    for connection in connections {
        hung_up(connection).await;
    }
    harness.runtime.cancel(&id(1), JOB).await.unwrap();
    assert_eq!(harness.end(1).await, end, "what has ended does not change any more");
}

#[tokio::test]
async fn a_job_may_tidy_up_before_it_is_ended() {
    let harness = Harness::new().await;
    let step = "
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print('tidy'), sys.exit(0)))
meet()
signal.pause()";
    harness.runtime.start(&harness.run(1, step)).await.unwrap();
    let _meeting = harness.meet().await;
    harness.runtime.cancel(&id(1), JOB).await.unwrap();
    assert_eq!(harness.end(1).await.cause, EndCause::Cancelled);
    assert_eq!(harness.log(1).await, "tidy\n");
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_ended() {
    let harness = Harness::new().await;
    let mut run = harness.run(1, &format!("{DAEMON}\ndaemon('one')\nmeet('main').recv(1)"));
    run.deadline_seconds = 1;
    harness.runtime.start(&run).await.unwrap();
    let connections = [harness.meet().await.1, harness.meet().await.1];
    let end = harness.end(1).await;
    assert_eq!(end.cause, EndCause::DeadlineExceeded(1));
    let took = end.ended_at.duration_since(end.started_at.unwrap());
    assert!(took >= jiff::SignedDuration::from_millis(900), "{took}");
    for connection in connections {
        hung_up(connection).await;
    }
}

#[tokio::test]
async fn what_a_job_leaves_running_ends_with_it() {
    let harness = Harness::new().await;
    let step = format!("{DAEMON}\ndaemon('left')\nprint('done')\nraise SystemExit(5)");
    harness.runtime.start(&harness.run(1, &step)).await.unwrap();
    let (_, left) = harness.meet().await;
    assert_eq!(harness.end(1).await.cause, EndCause::Exited(5), "{}", harness.log(1).await);
    hung_up(left).await;
}

#[tokio::test]
async fn a_job_that_runs_away_from_its_end_by_forking_is_caught() {
    let harness = Harness::with(|o| o.grace = Duration::from_millis(50)).await;
    let step = "
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
s = meet()
if os.fork() == 0:
    while os.fork() == 0: pass
    os._exit(0)";
    harness.runtime.start(&harness.run(1, step)).await.unwrap();
    let (_, connection) = harness.meet().await;
    assert_eq!(harness.end(1).await.cause, EndCause::Exited(0), "{}", harness.log(1).await);
    hung_up(connection).await;
}

#[tokio::test]
async fn a_pause_between_attempts_can_be_cancelled() {
    let harness = Harness::with(|o| o.backoff = Duration::from_secs(300)).await;
    let mut run = harness.run(1, "meet(); raise SystemExit(1)");
    run.backoff_limit = 3;
    harness.runtime.start(&run).await.unwrap();
    let (_, connection) = harness.meet().await;
    hung_up(connection).await;
    while !harness.log(1).await.contains("attempt 1 of 4 failed") {
        tokio::task::yield_now().await;
    }
    harness.runtime.cancel(&id(1), JOB).await.unwrap();
    assert_eq!(harness.end(1).await.cause, EndCause::Cancelled);
}

#[tokio::test]
async fn a_killed_supervisor_is_a_lost_run_and_takes_its_job_along() {
    let harness = Harness::new().await;
    let step = format!("{DAEMON}\nprint('begun', flush=True)\ndaemon('left')\nmeet('main').recv(1)");
    let run = harness.run(1, &step);
    harness.runtime.start(&run).await.unwrap();
    let connections = [harness.meet().await.1, harness.meet().await.1];
    let job = id(1);
    let waiting = harness.runtime.next(&job, &Seen::Running);
    let [supervisor] = harness.supervisors(1)[..] else { panic!("not one supervisor") };
    kill_process(supervisor, Signal::KILL).unwrap();
    let Stage::Ended(end) = within(waiting).await.unwrap() else { panic!("not ended") };
    assert_eq!(end.cause, EndCause::Lost);
    assert!(end.started_at.is_some());
    for connection in connections {
        hung_up(connection).await;
    }
    harness.runtime.start(&run).await.unwrap();
    assert_eq!(harness.end(1).await, end, "a lost run is not repeated");
    assert_eq!(harness.log(1).await, "begun\n");
}

#[tokio::test]
async fn a_supervisor_that_is_asked_to_end_ends_the_job_first() {
    let harness = Harness::new().await;
    harness.runtime.start(&harness.run(1, "meet().recv(1)")).await.unwrap();
    let (_, connection) = harness.meet().await;
    let [supervisor] = harness.supervisors(1)[..] else { panic!("not one supervisor") };
    kill_process(supervisor, Signal::TERM).unwrap();
    assert_eq!(harness.end(1).await.cause, EndCause::Lost);
    hung_up(connection).await;
}
