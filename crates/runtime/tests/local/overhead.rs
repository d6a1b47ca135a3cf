//! The cost of supervision. `cargo test -p runtime --release --test local overhead -- --ignored --nocapture`

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use model::runtime::Runtime;

use crate::harness::{Harness, JOB, id};

const ROUNDS: u32 = 40;

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1000.0
}

#[tokio::test]
#[ignore = "a measurement"]
async fn of_a_start() {
    let harness = Harness::new().await;
    let (mut returned, mut ran, mut ended, mut bare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let run = harness.run(round, "meet().recv(1)");
        let begin = Instant::now();
        harness.runtime.start(&run).await.unwrap();
        returned.push(begin.elapsed());
        let (_, connection) = harness.meet().await;
        ran.push(begin.elapsed());
        let begin = Instant::now();
        drop(connection);
        harness.end(round).await;
        ended.push(begin.elapsed());
    }
    let work = harness.run_folder(1).join("job/work");
    let spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(harness.run_folder(1).join("spec.json")).unwrap()).unwrap();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let mut child = Command::new(spec["program"].as_str().unwrap())
            .args(["run", "./some-job"])
            .env("MEET", harness.folder.path().join("shared/meet"))
            .current_dir(&work)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (_, connection) = harness.meet().await;
        bare.push(begin.elapsed());
        drop(connection);
        child.wait().unwrap();
    }
    let resident = harness.run(ROUNDS + 1, "meet().recv(1)");
    harness.runtime.start(&resident).await.unwrap();
    let meeting = harness.meet().await;
    let supervisor = harness.supervisors(ROUNDS + 1)[0].as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
    let memory = status.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("RssAnon")).collect::<Vec<_>>();
    drop(meeting);
    harness.runtime.cancel(&id(ROUNDS + 1), JOB).await.unwrap();
    writeln!(
        std::io::stdout(),
        "\nmedian of {ROUNDS}, ms: start returns {:.1}; job's own code runs {:.1} (bare spawn {:.1}); \
         job's end to its record {:.1}; supervisor: {memory:?}",
        median(returned),
        median(ran),
        median(bare),
        median(ended),
    )
    .unwrap();
}
