//! The test cluster itself: what other tests rely on, each promise a test.

use std::{collections::BTreeMap, fs, time::Duration};

use devtools::cluster::{self, Cluster, Namespace};
use e2e::wait;
use serde_json::{Value, json};
use testing::{Identity, Proxy};

/// How long anything may take on a machine that is busy with other tests.
const LONGEST: Duration = Duration::from_secs(180);
/// The same, as `kubectl` takes it.
const TIMEOUT: &str = "--timeout=180s";

fn shared() -> Cluster {
    cluster::shared().unwrap_or_else(|e| panic!("{e:#}"))
}

fn namespace(name: &str) -> Namespace {
    shared().namespace(name).unwrap_or_else(|e| panic!("{e:#}"))
}

trait Told {
    /// The output of `kubectl` for these arguments.
    fn output_of(&self, arguments: &[&str]) -> String;
}

impl Told for Namespace {
    fn output_of(&self, arguments: &[&str]) -> String {
        self.ask(arguments).unwrap_or_else(|e| panic!("{e:#}"))
    }
}

/// A pod of one container on the real node that is never started again.
fn pod(image: &str, policy: &str, command: &[&str], limits: &Value) -> String {
    let container = json!({
        "name": "job",
        "image": image,
        "imagePullPolicy": policy,
        "command": command,
        "resources": {"limits": limits},
        "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false},
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one"},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"kubernetes.io/hostname": shared().node},
            "containers": [container],
        },
    })
    .to_string()
}

/// Waits until the pod has ended in this phase, and gives its log.
fn log_at_end(namespace: &Namespace, phase: &str) -> String {
    let end = format!("--for=jsonpath={{.status.phase}}={phase}");
    if let Err(error) = namespace.ask(&["wait", &end, "pod/one", TIMEOUT]) {
        panic!("{error:#}\n{}", namespace.output_of(&["describe", "pod/one"]));
    }
    namespace.output_of(&["logs", "pod/one"])
}

#[test]
fn the_cluster_has_a_real_node_and_one_in_name_only() {
    let cluster = shared();
    let nodes = cluster.ask(&["get", "nodes", "-o", "name"]).expect("nodes");
    // Other tests may have nodes of their own for a while.
    for node in ["kwok-0", &cluster.node] {
        assert!(nodes.split_whitespace().any(|name| name.strip_prefix("node/") == Some(node)), "{nodes}");
    }
}

#[test]
fn a_cron_job_runs_on_the_node_in_name_only() {
    let namespace = namespace("cron");
    let pod = json!({
        "restartPolicy": "Never",
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [{"name": "job", "image": "nothing-pulls-this:1"}],
    });
    let cron_job = json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "each-minute"},
        "spec": {
            "schedule": "* * * * *",
            "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": pod}}},
        },
    });
    namespace.apply(&cron_job.to_string()).expect("a CronJob");
    namespace.output_of(&["wait", "--for=jsonpath={.status.lastSuccessfulTime}", "cronjob/each-minute", TIMEOUT]);
    let job = namespace.output_of(&["get", "jobs", "-o", "jsonpath={.items[0].status.succeeded}"]);
    assert_eq!(job, "1");
}

#[test]
fn a_pod_of_the_test_image_runs_vdk() {
    let namespace = namespace("vdk");
    let image = namespace.cluster().base_image();
    let command = ["sh", "-c", "id -u && pwd && touch /job/mine && vdk version"];
    namespace.apply(&pod(&image, "IfNotPresent", &command, &json!({}))).expect("a pod");
    let log = log_at_end(&namespace, "Succeeded");
    let mut lines = log.lines();
    assert_eq!((lines.next(), lines.next()), (Some("1000"), Some("/job")), "{log}");
    assert!(log.contains("vdk-plugin-control-cli"), "{log}");
}

#[test]
fn a_job_that_was_pushed_as_an_image_is_pulled_and_runs() {
    let namespace = namespace("pushed");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(
        folder.path().join("10_hello.py"),
        "def run(job_input):\n    print('hello from', job_input.get_name())\n",
    )
    .expect("a step");
    fs::write(folder.path().join("config.ini"), "[owner]\nteam = my team\n").expect("a configuration");
    // A repository that the registry has not seen, so that its layers are mounted.
    let name = format!("{}/hello:1", namespace.name());
    let image = namespace.cluster().push_job_image(folder.path(), "hello", &name).unwrap_or_else(|e| panic!("{e:#}"));
    namespace.apply(&pod(&image, "Always", &["vdk", "run", "hello"], &json!({}))).expect("a pod");
    let log = log_at_end(&namespace, "Succeeded");
    assert!(log.contains("hello from hello"), "{log}");
}

#[test]
fn a_container_beyond_its_memory_is_seen_as_oom_killed() {
    let namespace = namespace("memory");
    let image = namespace.cluster().base_image();
    let command = ["python3", "-c", "print(len(bytearray(200_000_000)))"];
    namespace.apply(&pod(&image, "IfNotPresent", &command, &json!({"memory": "48Mi"}))).expect("a pod");
    log_at_end(&namespace, "Failed");
    let path = "jsonpath={.status.containerStatuses[0].state.terminated.reason}";
    assert_eq!(namespace.output_of(&["get", "pod/one", "-o", path]), "OOMKilled");
}

fn proxy(namespace: &Namespace) -> Proxy {
    let administrator = namespace.cluster().administrator().unwrap_or_else(|e| panic!("{e:#}"));
    Proxy::start(&Identity {
        url: administrator.url,
        ca_certificate: administrator.ca_certificate,
        certificate: administrator.certificate,
        private_key: administrator.private_key,
    })
}

#[tokio::test]
async fn a_proxy_holds_back_or_refuses_what_is_about_one_object() {
    let namespace = namespace("hinders");
    let proxy = proxy(&namespace);
    let maps = format!("{}/api/v1/namespaces/{}/configmaps", proxy.url(), namespace.name());
    let http = reqwest::Client::builder().no_proxy().timeout(LONGEST).build().expect("a client");
    let status = async |name: &str| {
        let answer = http.get(format!("{maps}/{name}")).send().await.expect("an answer");
        answer.status().as_u16()
    };
    proxy.refuse("refused");
    proxy.hold_back("held");
    assert_eq!(status("refused").await, 500);
    assert_eq!(status("other").await, 404);
    let mut held = std::pin::pin!(status("held"));
    // A later request is answered, and the other is still waiting.
    tokio::select! {
        biased;
        early = &mut held => panic!("{early} in spite of the proxy"),
        later = status("other") => assert_eq!(later, 404),
    }
    proxy.let_through();
    assert_eq!(held.await, 404);
    assert_eq!(status("refused").await, 404);
}

#[tokio::test]
async fn a_proxy_counts_what_is_asked_and_cuts_a_watch_in_the_middle() {
    let namespace = namespace("proxy");
    let proxy = proxy(&namespace);
    let maps = format!("{}/api/v1/namespaces/{}/configmaps", proxy.url(), namespace.name());
    let http = reqwest::Client::builder().no_proxy().timeout(LONGEST).build().expect("a client");

    // Without a header the proxy speaks as the administrator; who shows a token is who the token says.
    let list: Value = http.get(&maps).send().await.expect("an answer").json().await.expect("a list");
    let version = list["metadata"]["resourceVersion"].as_str().expect("a version");
    let stranger = http.get(&maps).bearer_auth("of nobody").send().await.expect("an answer");
    assert_eq!(stranger.status(), 401);

    // A change is seen during the watch.
    let query = [("watch", "true"), ("resourceVersion", version)];
    let mut watch = http.get(&maps).query(&query).send().await.expect("a watch");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seen"}});
    let created = http.post(&maps).json(&map).send().await.expect("an answer");
    assert_eq!(created.status(), 201);
    let mut seen = String::new();
    while !seen.contains(r#""name":"seen""#) {
        let part = watch.chunk().await.expect("a part of the watch").expect("more of the watch");
        seen.push_str(&String::from_utf8_lossy(&part));
    }

    let path = "/api/v1/namespaces/{namespace}/configmaps".to_owned();
    let counted =
        [("GET", 2), ("POST", 1), ("WATCH", 1)].map(|(method, count)| ((method.to_owned(), path.clone()), count));
    assert_eq!(proxy.counts(), BTreeMap::from(counted));
    let posts = |count: u64| BTreeMap::from([(("POST".to_owned(), path.clone()), count)]);
    assert_eq!(proxy.writes(), posts(1));

    // A write that the server rejects with a conflict changes nothing.
    assert_eq!(http.post(&maps).json(&map).send().await.expect("an answer").status(), 409);
    assert_eq!((proxy.writes(), proxy.accepted_writes()), (posts(2), posts(1)));

    // A cut ends the watch with an error, and nothing gets through until it is restored.
    proxy.cut();
    let end = loop {
        match watch.chunk().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(end.is_err(), "{end:?}");
    assert!(http.get(&maps).send().await.is_err());
    proxy.restore();
    proxy.reset();
    let again = wait::until("an answer after the cut", LONGEST, async || http.get(&maps).send().await.ok()).await;
    assert_eq!(again.status(), 200);
    assert!(proxy.writes().is_empty());

    // A delay holds requests back.
    proxy.delay(Duration::from_secs(2));
    let in_haste = http.get(&maps).timeout(Duration::from_millis(500)).send().await;
    assert!(in_haste.expect_err("too late").is_timeout());
    proxy.delay(Duration::ZERO);

    // kubectl works through it.
    let mut kubectl = namespace.kubectl();
    kubectl.env("KUBECONFIG", proxy.kubeconfig()).args(["get", "configmap/seen", "-o", "name"]);
    let output = kubectl.output().expect("kubectl");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "configmap/seen", "{output:?}");
}
