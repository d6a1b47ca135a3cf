//! How runs end in a cluster, and what keeps them from starting.

use devtools::cluster::{self, Cluster};
use e2e::{job::Job, wait};
use serde_json::{Value, json};
use testing::Database;

use crate::fixture::{Fixture, LONGEST, Node, template_of};

/// A name as long as the service takes, which makes the names of its pods longer than a name may be.
const FIFTY: &str = "a-job-whose-name-has-all-of-the-fifty-characters-1";

fn job(name: &str, body: &str) -> Job {
    Job::new(name).step("10_step.py", body)
}

#[tokio::test]
async fn every_way_for_a_run_to_end_has_its_status() {
    let fixture = Fixture::with("outcomes", Database::Sqlite, Node::Real, |options| {
        options.set("HOLDFAST_RUN_DEADLINE_SECONDS", "60").set("HOLDFAST_KUBERNETES_MEMORY_LIMIT_MI", "200")
    });
    let api = fixture.api();
    let cases = [
        (FIFTY, "print('done')", "succeeded", ""),
        ("raises", "raise ValueError('a wrong value')", "user_error", "exit code 1"),
        ("exits-three", "sys.exit(3)", "user_error", "exit code 3"),
        ("is-killed", "os._exit(137)", "platform_error", "137"),
        ("eats-memory", "x = []\nwhile True: x.append(bytearray(10_000_000))", "user_error", "memory"),
        ("never-ends", "print('still here', flush=True)\ntime.sleep(600)", "user_error", "60 seconds"),
    ];
    let mut started = Vec::new();
    for (name, body, ..) in cases {
        fixture.deployed(&job(name, body)).await;
        started.push(api.started(name).await);
    }
    for ((name, _, status, says), id) in cases.iter().zip(&started) {
        let ended = fixture.ended(name, id).await;
        let log = api.log(name, id).await;
        assert_eq!(ended["status"], *status, "{ended}\n{log}");
        assert!(ended["message"].as_str().unwrap_or_default().contains(says), "{ended}");
    }
    let log = api.log("never-ends", &started[5]).await;
    assert!(log.contains("still here"), "what a run said before its deadline stays: {log}");
}

#[tokio::test]
async fn causes_that_keep_an_execution_from_starting_are_reported_with_what_to_do() {
    let fixture = Fixture::new("held", Database::Sqlite, Node::Real);
    let api = fixture.api();

    // Its image was not pushed.
    let without = job("without-image", "print('now it runs')");
    let _ = api.create(without.name()).await.is(201);
    let version = api.deploy(&without).await;
    api.reached(without.name(), &version).await;
    let id = api.started(without.name()).await;
    let waiting = fixture.says(without.name(), &id, "image").await;
    assert_eq!(waiting["status"], "submitted", "{waiting}");
    fixture.push(&without, &version);
    assert_eq!(fixture.ended(without.name(), &id).await["status"], "succeeded");

    // It asks for more than any node has.
    let huge = job("too-large", "print('never')");
    fixture.deployed(&huge).await;
    let change = json!({"resources": {"memory_request": 16_000_000, "memory_limit": 16_000_000}});
    let _ = api.patch("/jobs/too-large/deployments/production", &change).await.is(202);
    fixture
        .becomes("the amounts are in the CronJob", "cronjob", "too-large", |cron_job| {
            cron_job.is_some_and(|c| c.to_string().contains("15625Gi"))
        })
        .await;
    let id = api.started("too-large").await;
    let waiting = fixture.says("too-large", &id, "placed on a node").await;
    assert_eq!(waiting["status"], "submitted", "{waiting}");
    let _ = api.cancel("too-large", &id).await.is(200);
    assert_eq!(fixture.ended("too-large", &id).await["status"], "cancelled");

    // The namespace has no room for another pod.
    fixture.kubectl(&["create", "quota", "none", "--hard=pods=0"]);
    let id = api.started(without.name()).await;
    let waiting = fixture.says(without.name(), &id, "limit of the namespace").await;
    assert_eq!(waiting["status"], "submitted", "{waiting}");
    fixture.kubectl(&["delete", "quota", "none"]);
    assert_eq!(fixture.ended(without.name(), &id).await["status"], "succeeded");
}

#[tokio::test]
async fn a_secret_that_is_missing_is_named_until_it_is_there() {
    let cluster = cluster::shared().unwrap_or_else(|e| panic!("{e:#}"));
    let base = cluster.base_image();
    // A container of the operator's own, before the job's.
    let from_secret = json!({"secretKeyRef": {"name": "of-the-template", "key": "password"}});
    let before = json!({
        "name": "before",
        "image": base,
        "command": ["true"],
        "env": [{"name": "PASSWORD", "valueFrom": from_secret}],
    });
    let pod = json!({
        "nodeSelector": {"kubernetes.io/hostname": cluster.node},
        "initContainers": [before],
        "containers": [],
    });
    let fixture = Fixture::with("secret", Database::Sqlite, Node::Real, |options| {
        options.file("template.json", &template_of(&pod))
    });
    let name = "needs-secrets";
    fixture.deployed(&job(name, "print('now it runs')")).await;
    fixture.kubectl(&["delete", "secret", "data-job-keytab-needs-secrets"]);
    let id = fixture.api().started(name).await;
    for (secret, is_of_the_job) in [("data-job-keytab-needs-secrets", true), ("of-the-template", false)] {
        let waiting = fixture.says(name, &id, &format!("Create the secret {secret} in the namespace")).await;
        assert_eq!(waiting["status"], "submitted", "{waiting}");
        if is_of_the_job {
            fixture.becomes("the service makes it again", "secret", secret, |object| object.is_some()).await;
        } else {
            fixture.kubectl(&["create", "secret", "generic", secret, "--from-literal=password=mine"]);
        }
    }
    let ended = fixture.ended(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
}

/// A node of the test's own whose kubelet is the test. It goes with the test.
struct OwnNode {
    name: String,
    cluster: Cluster,
}

impl OwnNode {
    /// Joins the cluster. Only pods that tolerate everything come here.
    fn join(name: &str, fixture: &Fixture) -> Self {
        let capacity = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"taints": [{"key": "holdfast-test/own", "effect": "NoSchedule"}]},
            "status": {"capacity": capacity, "allocatable": capacity},
        });
        fixture.namespace.apply(&node.to_string()).unwrap_or_else(|e| panic!("{e:#}"));
        Self { name: name.to_owned(), cluster: fixture.namespace.cluster().clone() }
    }

    /// Says of the only pod what a kubelet says once its container runs.
    async fn runs(&self, fixture: &Fixture) {
        let here = format!("--field-selector=spec.nodeName={}", self.name);
        let pod: Value = wait::until("a pod is placed on the node", LONGEST, async || {
            let pods: Value =
                serde_json::from_str(&fixture.kubectl(&["get", "pods", &here, "-o", "json"])).expect("JSON");
            pods["items"].get(0).cloned()
        })
        .await;
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let running = json!({"running": {"startedAt": pod["metadata"]["creationTimestamp"]}});
        let status = json!({"status": {"phase": "Running", "containerStatuses": [{
            "name": pod["spec"]["containers"][0]["name"],
            "image": pod["spec"]["containers"][0]["image"],
            "imageID": "",
            "ready": true,
            "restartCount": 0,
            "state": running,
        }]}});
        let name = text(&pod["metadata"]["name"]);
        fixture.kubectl(&["patch", "pod", &name, "--subresource=status", "--type=merge", "-p", &status.to_string()]);
    }

    /// Is lost: the provider of the machines tells the cluster that it is no more.
    fn lose(&self) -> anyhow::Result<()> {
        self.cluster.ask(&["delete", "node", &self.name, "--ignore-not-found", "--wait=false"]).map(drop)
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        let _ = self.lose();
    }
}

#[tokio::test]
async fn a_run_whose_node_is_lost_ends_as_a_platform_error_that_says_so() {
    let node = format!("lost-{}", std::process::id());
    let only_here = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
    let affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": only_here}});
    let pod = json!({
        "affinity": {"nodeAffinity": affinity},
        // Also that the node is not ready: only the test sends its heartbeats.
        "tolerations": [{"operator": "Exists"}],
        "containers": [],
    });
    let fixture = Fixture::with("lost", Database::Sqlite, Node::InNameOnly, |options| {
        options.file("template.json", &template_of(&pod))
    });
    let own = OwnNode::join(&node, &fixture);
    let (api, name) = (fixture.api(), "loses-its-node");
    fixture.deployed(&job(name, "pass")).await;
    let id = api.started(name).await;
    own.runs(&fixture).await;
    wait::until("it runs", LONGEST, async || (api.execution(name, &id).await["status"] == "running").then_some(()))
        .await;
    own.lose().unwrap_or_else(|e| panic!("{e:#}"));
    let ended = fixture.ended(name, &id).await;
    assert_eq!(ended["status"], "platform_error", "{ended}");
    let message = ended["message"].as_str().unwrap_or_default();
    assert!(message.contains(&format!("node {node} was lost")), "{message}");
}

#[tokio::test]
async fn a_run_that_is_evicted_ends_with_who_did_it_and_what_it_said_until_then() {
    let node = cluster::shared().unwrap_or_else(|e| panic!("{e:#}")).node;
    let pod = json!({
        "nodeSelector": {"kubernetes.io/hostname": node},
        "terminationGracePeriodSeconds": 2,
        "containers": [],
    });
    let fixture = Fixture::with("evicted", Database::Sqlite, Node::Real, |options| {
        options.file("template.json", &template_of(&pod))
    });
    let api = fixture.api();
    let begun = async |name: &str, body: &str| {
        fixture.deployed(&job(name, &format!("print('it has begun', flush=True)\n{body}\ntime.sleep(600)"))).await;
        let id = api.started(name).await;
        wait::until("it says something", LONGEST, async || {
            api.log(name, &id).await.contains("it has begun").then_some(())
        })
        .await;
        id
    };

    // A person empties the node.
    let name = "is-evicted";
    let id = begun(name, "").await;
    let of_run = format!("--selector=batch.kubernetes.io/job-name={id}");
    let pod = fixture.kubectl(&["get", "pods", &of_run, "-o", "jsonpath={.items[0].metadata.name}"]);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), eviction.to_string()).expect("a file");
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", fixture.namespace.name());
    fixture.kubectl(&["create", "--raw", &path, "-f", file.path().to_str().expect("a path")]);
    let ended = fixture.ended(name, &id).await;
    assert_eq!(ended["status"], "platform_error", "{ended}");
    assert!(
        ended["message"].as_str().unwrap_or_default().contains(&format!("evicted from the node {node}")),
        "{ended}"
    );
    assert!(api.log(name, &id).await.contains("it has begun"), "the log of an evicted run stays");

    // The node ends what fills more of its disk than it may.
    let limit = json!({
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "disk"},
        "spec": {"limits": [{"type": "Container", "default": {"ephemeral-storage": "20Mi"}}]},
    });
    fixture.namespace.apply(&limit.to_string()).unwrap_or_else(|e| panic!("{e:#}"));
    let name = "fills-the-disk";
    let id = begun(name, "open('/var/tmp/big', 'wb').write(b'0' * 60_000_000)").await;
    let ended = fixture.ended(name, &id).await;
    assert_eq!(ended["status"], "user_error", "{ended}");
    assert!(ended["message"].as_str().unwrap_or_default().contains("disk space"), "{ended}");
    assert!(api.log(name, &id).await.contains("it has begun"), "the log of an evicted run stays");
}
