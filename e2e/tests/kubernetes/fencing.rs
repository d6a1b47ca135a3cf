//! The policy that refuses what a former leader writes.

use std::{
    collections::BTreeMap,
    process::{Command, Output},
};

use devtools::cluster::{Cluster, Namespace};
use e2e::{chart, job::Job, wait};
use serde_json::{Value, json};
use testing::Database;

use crate::fixture::{Fixture, LONGEST, Node};

/// The shipped policy for one namespace, under a name of its own: it belongs to the whole cluster.
struct Policy {
    name: String,
    cluster: Cluster,
}

impl Policy {
    fn of(namespace: &Namespace) -> Self {
        let cluster = namespace.cluster().clone();
        let apply = |release: &str, jobs: &str| {
            let mut values = chart::values(jobs);
            values["fencing"] = json!({"enabled": true});
            let policy = chart::rendered(release, &values, Some("templates/fencing.yaml"));
            cluster.apply(&policy.unwrap_or_else(|e| panic!("{e:#}"))).unwrap_or_else(|e| panic!("{e:#}"));
        };
        // It stays, and concerns no namespace: an API server that has lost its last policy of this kind does not see ConfigMaps
        // for the next one until it is restarted.
        apply("stays", "none-has-this-name");
        let release = format!("of-{}", namespace.name());
        apply(&release, namespace.name());
        let name = format!("holdfast-fencing-{release}-holdfast");
        Self { name, cluster }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let kinds = "validatingadmissionpolicybindings,validatingadmissionpolicies";
        let _ = self.cluster.ask(&["delete", kinds, &self.name, "--ignore-not-found"]);
    }
}

/// A CronJob or a Job as someone else than the service would write it, and what comes of a try to do so.
fn written(fixture: &Fixture, kind: &str, name: &str, by: &str, epoch: Option<i64>) -> Result<(), String> {
    let container = json!({"name": "one", "image": "theirs:1"});
    let job = json!({"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}});
    let spec = match kind {
        "CronJob" => json!({"schedule": "@yearly", "suspend": true, "jobTemplate": {"spec": job}}),
        _ => job,
    };
    let mut object = json!({"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    if let Some(epoch) = epoch {
        object["metadata"]["annotations"] = json!({"holdfast/epoch": epoch.to_string()});
    }
    let file = fixture.service.beside().join(format!("{name}.json"));
    std::fs::write(&file, object.to_string()).expect("a file");
    let mut command = fixture.namespace.kubectl();
    command.args(["create", "--dry-run=server", &format!("--field-manager={by}"), "-f"]).arg(file);
    let Output { status, stderr, .. } = command.output().expect("kubectl");
    if status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&stderr).into_owned()) }
}

/// The epoch that the cluster knows.
fn known(fixture: &Fixture) -> Option<i64> {
    fixture.object("configmap", "holdfast-epoch").and_then(|map| map["data"]["epoch"].as_str()?.parse().ok())
}

fn epoch_of(object: &Value) -> Option<i64> {
    object["metadata"]["annotations"]["holdfast/epoch"].as_str()?.parse().ok()
}

#[tokio::test]
async fn only_a_former_leader_is_refused() {
    let mut fixture = Fixture::new("fencing", Database::Sqlite, Node::Real);
    let policy = Policy::of(&fixture.namespace);
    let name = "is-fenced";
    let first = Job::new(name).schedule("0 3 * * *").step("10_step.py", "time.sleep(600)");
    fixture.deployed(&first).await;
    let epoch = wait::until("the cluster knows the epoch", LONGEST, async || known(&fixture)).await;
    let cron_job = fixture.object("cronjob", name).expect("a CronJob");
    assert_eq!(epoch_of(&cron_job), Some(epoch), "{cron_job}");
    assert!(!cron_job["spec"].to_string().contains("holdfast/epoch"), "runs would differ with each take-over");

    // The API server takes a moment to know of a policy.
    wait::until("the policy is in force", LONGEST, async || {
        written(&fixture, "CronJob", "older", "holdfast", Some(epoch - 1)).err().filter(|e| e.contains(&policy.name))
    })
    .await;
    for kind in ["CronJob", "Job"] {
        let refused = |epoch: Option<i64>| {
            let error = written(&fixture, kind, "refused", "holdfast", epoch).expect_err("it is refused");
            assert!(error.contains(&policy.name), "{error}");
        };
        refused(Some(epoch - 1));
        refused(None);
        for (by, epoch) in
            [("holdfast", Some(epoch)), ("holdfast", Some(epoch + 1)), ("someone", None), ("someone", Some(0))]
        {
            written(&fixture, kind, "taken", by, epoch)
                .unwrap_or_else(|e| panic!("{kind} by {by} under {epoch:?}: {e}"));
        }
    }

    // The service itself is not kept from its work: people's edits are undone, runs are started and cancelled.
    let api = fixture.api();
    fixture.kubectl(&["patch", "cronjob", name, "--type=merge", "-p", r#"{"spec":{"schedule":"* * * * *"}}"#]);
    fixture
        .becomes("the edit is undone", "cronjob", name, |o| o.is_some_and(|o| o["spec"]["schedule"] == "0 3 * * *"))
        .await;
    let id = api.started(name).await;
    let let_go = |job: &Value| job["spec"]["suspend"] == false && epoch_of(job) == Some(epoch);
    fixture.becomes("the run is released", "job", &id, |job| job.is_some_and(let_go)).await;
    let _ = api.cancel(name, &id).await.ok();
    assert_eq!(fixture.ended(name, &id).await["status"], "cancelled");

    // As if another instance had led since: this one is a former leader.
    let later = json!({"data": {"epoch": (epoch + 1000).to_string()}}).to_string();
    fixture.kubectl(&["patch", "configmap", "holdfast-epoch", "--type=merge", "-p", &later]);
    let before = fixture.object("cronjob", name).expect("a CronJob");
    let second = Job::new(name).schedule("0 3 * * *").step("10_step.py", "print('second')");
    let version = api.deploy(&second).await;
    fixture.push(&second, &version);
    wait::until("the rollout says why", LONGEST, async || {
        let rollout = api.get(&format!("/jobs/{name}/deployments/production/rollout")).await.json();
        rollout["problem"].to_string().contains("Another instance became leader later").then_some(())
    })
    .await;
    let after = fixture.object("cronjob", name).expect("a CronJob");
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "nothing was written");

    // A new leader epoch does not lower what the cluster knows.
    fixture.service.stop();
    fixture.service.start_again();
    wait::until("the service reports it", LONGEST, async || {
        fixture.service.log().contains("delete the ConfigMap holdfast-epoch").then_some(())
    })
    .await;
    assert_eq!(known(&fixture), Some(epoch + 1000));

    // The steps of an operator after a restore.
    fixture.kubectl(&["delete", "configmap", "holdfast-epoch"]);
    api.reached(name, &version).await;
    let raised = wait::until("the cluster knows the epoch again", LONGEST, async || known(&fixture)).await;
    assert!(raised > epoch, "{raised} after {epoch}");
    let cron_job = fixture.object("cronjob", name).expect("a CronJob");
    assert_eq!(epoch_of(&cron_job), Some(raised), "{cron_job}");
}

/// A process that stands still until this is dropped.
struct Frozen(u32);

impl Frozen {
    fn new(process: u32) -> Self {
        Self::signal(process, "-STOP");
        Self(process)
    }

    fn signal(process: u32, signal: &str) {
        let done = Command::new("kill").args([signal, &process.to_string()]).status().expect("kill");
        assert!(done.success(), "kill {signal} {process}: {done}");
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Self::signal(self.0, "-CONT");
    }
}

/// It is frozen in the middle of a start, after it made the Job and before it lets it go, for longer than its lease.
#[tokio::test]
async fn a_leader_that_was_frozen_writes_nothing_when_it_continues() {
    let (mut fixture, proxy) =
        Fixture::through_proxy_with("frozen", Database::Postgresql, Node::InNameOnly, |options| {
            options.set("HOLDFAST_LEASE_SECONDS", "10")
        });
    let name = "is-started-late";
    let leads = "this instance leads";
    wait::until("the first leads", LONGEST, async || fixture.service.log().contains(leads).then_some(())).await;
    let second = fixture.service.another();
    let api = second.api();
    // A start that is asked for shortly before a tick waits for that, which leaves the time to freeze it.
    wait::second_of_minute(30).await;
    let tick = wait::now_seconds() / 60 + 1;
    fixture
        .deployed_in_name(&[Job::new(name).schedule(&format!("{} * * * *", tick % 60)).step("10_step.py", "pass")])
        .await;
    wait::until_millis((tick * 60 - 1) * 1000).await;
    let id = fixture.api().started(name).await;
    fixture.becomes("the Job is made", "job", &id, |job| job.is_some_and(|job| job["spec"]["suspend"] == true)).await;
    let frozen = Frozen::new(fixture.service.process().id());
    assert!(!second.log().contains(leads));

    // The other one takes over, and carries the start and the tick to their ends.
    wait::until("the second leads", LONGEST, async || second.log().contains(leads).then_some(())).await;
    wait::until("both runs are over", LONGEST, async || {
        let runs = api.executions(name).await;
        (runs.len() == 2 && runs.iter().all(|run| run["status"] == "succeeded")).then_some(())
    })
    .await;
    wait::until("nothing of them is left", LONGEST, async || {
        fixture.kubectl(&["get", "jobs", "-o", "name"]).trim().is_empty().then_some(())
    })
    .await;

    proxy.reset();
    drop(frozen);
    wait::until("the first knows", LONGEST, async || {
        ["another instance leads", "the lease expired"]
            .iter()
            .any(|said| fixture.service.log().contains(said))
            .then_some(())
    })
    .await;
    // It answers again, and knows the end of what it began.
    wait::until("the first says how it ended", LONGEST, async || {
        (fixture.api().execution(name, &id).await["status"] == "succeeded").then_some(())
    })
    .await;
    assert_eq!(proxy.writes(), BTreeMap::new());
}
