//! Logs that are followed through silence and outages, of a run whose pod takes its log along.

use std::time::Duration;

use devtools::cluster::{self, Cluster, Options};
use e2e::{job::Job, wait};
use testing::Database;

use crate::fixture::{Fixture, LONGEST, Node};

/// How long the job says nothing: longer than any answer of the API server but a log may be silent. Half an hour with
/// HOLDFAST_TEST_LONG=1.
fn silence_seconds() -> u64 {
    e2e::count(100, 1800) as u64
}

/// Goes with the test.
struct OwnCluster(Cluster);

impl Drop for OwnCluster {
    fn drop(&mut self) {
        let _ = self.0.down();
    }
}

/// The numbers in a log, in their order.
fn numbers(log: &str) -> Vec<usize> {
    log.lines().filter_map(|line| line.strip_prefix("number ")?.parse().ok()).collect()
}

#[tokio::test]
async fn the_log_of_a_cancelled_run_is_whole_after_silence_and_restarts_of_the_api_server_and_the_kubelet() {
    // A cluster of its own, because harm is done to it.
    let folder = tempfile::Builder::new().prefix("hf-logs-").tempdir_in("/tmp").expect("a folder");
    let options = Options { state: Some(folder.path().join("state")), port_base: None, no_node: false };
    let own = OwnCluster(cluster::up(&options).unwrap_or_else(|e| panic!("{e:#}")));
    let cluster = &own.0;
    let fixture = Fixture::on(cluster, "logs", Database::Sqlite, Node::Real, |options| options);
    let (api, name) = (fixture.api(), "goes-on");
    let body = format!(
        "print('begun', flush=True)\ntime.sleep({})\nfor n in range(100000):\n    print('number', n, flush=True)\n    \
         time.sleep(0.05)",
        silence_seconds()
    );
    fixture.deployed(&Job::new(name).step("10_step.py", &body)).await;
    let id = api.started(name).await;
    let longest = LONGEST + Duration::from_secs(silence_seconds());
    let says = async |count: usize| {
        wait::until(format!("it says {count}"), longest, async || {
            numbers(&api.log(name, &id).await).last().is_some_and(|last| *last >= count).then_some(())
        })
        .await;
    };
    says(20).await;
    let mut last = 20;
    for fault in ["api-kill", "kubelet-restart", "api-kill"] {
        cluster.fault(fault).unwrap_or_else(|e| panic!("{e:#}"));
        cluster.repair().unwrap_or_else(|e| panic!("{e:#}"));
        let log = wait::until(format!("its log can be read after {fault}"), longest, async || {
            let answer = api.get(&format!("/jobs/{name}/executions/{id}/logs")).await;
            (answer.status == 200).then(|| answer.json()["logs"].as_str().unwrap_or_default().to_owned())
        })
        .await;
        last = numbers(&log).last().copied().unwrap_or(last) + 40;
        says(last).await;
    }
    let _ = api.cancel(name, &id).await.is(200);
    let ended = fixture.ended(name, &id).await;
    assert_eq!(ended["status"], "cancelled", "{ended}");
    fixture.becomes("its Job goes", "job", &id, |job| job.is_none()).await;
    let log = api.log(name, &id).await;
    let numbers = numbers(&log);
    assert!(log.contains("begun\n") && !log.contains("broke off"), "{log}");
    assert!(numbers.len() > last, "{log}");
    let wrong = numbers.iter().enumerate().find(|(at, number)| at != *number);
    assert_eq!(wrong, None, "each number once and in its place: {log}");
}
