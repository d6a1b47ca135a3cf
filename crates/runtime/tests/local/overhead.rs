//! What supervision costs. `cargo test -p runtime --release --test local overhead -- --ignored --nocapture`

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use model::runtime::Runtime;

use crate::house::{House, JOB, id};

const ROUNDS: u32 = 40;

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1000.0
}

#[tokio::test]
#[ignore = "a measurement"]
async fn of_a_start() {
    let house = House::new().await;
    let (mut returned, mut ran, mut ended, mut bare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let run = house.run(round, "meet().recv(1)");
        let begin = Instant::now();
        house.runtime.start(&run).await.unwrap();
        returned.push(begin.elapsed());
        let (_, connection) = house.meet().await;
        ran.push(begin.elapsed());
        let begin = Instant::now();
        drop(connection);
        house.end(round).await;
        ended.push(begin.elapsed());
    }
    let work = house.run_folder(1).join("job/work");
    let spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(house.run_folder(1).join("spec.json")).unwrap()).unwrap();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let mut child = Command::new(spec["program"].as_str().unwrap())
            .args(["run", "./some-job"])
            .env("MEET", house.folder.path().join("shared/meet"))
            .current_dir(&work)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (_, connection) = house.meet().await;
        bare.push(begin.elapsed());
        drop(connection);
        child.wait().unwrap();
    }
    let resident = house.run(ROUNDS + 1, "meet().recv(1)");
    house.runtime.start(&resident).await.unwrap();
    let meeting = house.meet().await;
    let supervisor = house.supervisors(ROUNDS + 1)[0].as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
    let memory = status.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("RssAnon")).collect::<Vec<_>>();
    drop(meeting);
    house.runtime.cancel(&id(ROUNDS + 1), JOB).await.unwrap();
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
