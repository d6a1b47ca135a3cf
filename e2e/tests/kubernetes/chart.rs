//! The chart: what the API server and the program say of its manifests.

use std::{path::PathBuf, process::Command};

use devtools::{
    binary::{self, Profile},
    chart as sources,
    cluster::{self, Cluster},
    command,
};
use e2e::{chart, wait};
use serde_json::{Value, json};

/// The modules whose files define the kinds that the chart uses beside those of Kubernetes.
const KINDS: [(&str, &[&str]); 2] = [
    ("sigs.k8s.io/gateway-api@v1.3.0", &["config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"]),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        &[
            "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ],
    ),
];

/// Has the cluster know the kinds of the Gateway API and of the Prometheus operator.
async fn with_kinds(cluster: &Cluster) {
    for (module, files) in KINDS {
        let mut go = Command::new("go");
        let answer = command::output(go.args(["mod", "download", "-json", module]).env("GOWORK", "off"));
        let answer: Value = serde_json::from_str(&answer.unwrap_or_else(|e| panic!("{e:#}"))).expect("JSON");
        let folder = PathBuf::from(answer["Dir"].as_str().expect("a folder"));
        for file in files {
            let file = folder.join(file).display().to_string();
            let applied = cluster.ask(&["apply", "--server-side", "--force-conflicts", "-f", &file]);
            applied.unwrap_or_else(|e| panic!("{e:#}"));
            // It has no conditions at first, which ends `kubectl wait`.
            let established = ["wait", "--for=condition=Established", "-f", &file, "--timeout=1s"];
            wait::until(format!("the kind of {file}"), wait::SOON, async || cluster.ask(&established).ok()).await;
        }
    }
}

#[tokio::test]
async fn the_api_server_accepts_the_manifests_of_each_example_and_the_program_its_configuration() {
    let cluster = cluster::shared().unwrap_or_else(|e| panic!("{e:#}"));
    with_kinds(&cluster).await;
    let (service, jobs) = (cluster.namespace("example").unwrap(), cluster.namespace("example-jobs").unwrap());
    let binary = binary::path(Profile::Dev).unwrap();
    let mut kinds = Vec::new();
    let examples = sources::examples().unwrap();
    for example in &examples {
        let name = example.display();
        let manifests = chart::rendered_example(example, service.name(), jobs.name());
        let manifests = manifests.unwrap_or_else(|e| panic!("{name}: {e:#}"));
        cluster.accepts(&manifests).unwrap_or_else(|e| panic!("{name}: {e:#}\n{manifests}"));
        kinds.extend(manifests.lines().filter_map(|line| line.strip_prefix("kind: ")).map(ToOwned::to_owned));

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("holdfast.toml");
        let configuration = chart::configuration(&manifests).unwrap();
        // Files that only the pod has.
        let lines = configuration.lines().filter(|line| !line.contains("/etc/holdfast/"));
        let configuration = lines.collect::<Vec<_>>().join("\n");
        std::fs::write(&file, &configuration).unwrap();
        let mut config = Command::new(&binary);
        // The variables of tests are no settings.
        config.args(["config", "--json", "--config"]).arg(&file).env_clear().env("HOLDFAST_DATA_DIR", folder.path());
        let shown = command::output(&mut config).unwrap_or_else(|e| panic!("{name}: {e:#}\n{configuration}"));
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let value = |key: &str| {
            let settings = shown["settings"].as_array().expect("settings");
            settings.iter().find(|setting| setting["name"] == key).expect("a setting")["value"].clone()
        };
        assert_eq!(value("kubernetes.namespace"), jobs.name(), "{name}");
        assert_eq!(value("auth.audiences"), json!(["holdfast"]), "{name}");
        assert_eq!(value("listen"), "0.0.0.0:8092", "{name}");
    }
    assert!(examples.len() >= 3, "{examples:?}");
    for kind in [
        "ConfigMap",
        "Deployment",
        "HTTPRoute",
        "Ingress",
        "Namespace",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ] {
        assert!(kinds.iter().any(|found| found == kind), "no example has a {kind}");
    }
    // The API server would reject a field that does not exist.
    let wrong =
        chart::rendered(service.name(), &chart::values(jobs.name()), None).unwrap().replace("replicas:", "replica:");
    let error = cluster.accepts(&wrong).expect_err("an unknown field").to_string();
    assert!(error.contains("replica"), "{error}");
}

#[test]
fn values_that_can_not_work_are_rejected_with_what_is_wrong() {
    let refused = |change: &dyn Fn(&mut Value), why: &str| {
        let mut values = chart::values("data-jobs");
        change(&mut values);
        let error = format!("{:#}", chart::rendered("holdfast", &values, None).expect_err(why));
        assert!(error.contains(why), "{why}: {error}");
    };
    refused(&|values| values["replica"] = 3.into(), "replica");
    refused(&|values| values["config"] = json!({"lease_second": 3}), "lease_second");
    refused(&|values| values["config"] = json!({"auth": {"isuers": []}}), "isuers");
    refused(&|values| values["config"] = json!({"listen": "0.0.0.0:1"}), "listen");
    refused(&|values| values["config"] = json!({"lease_seconds": "15"}), "lease_seconds");
    refused(&|values| values["jobs"]["namespace"] = "holdfast".into(), "the namespace of the release");
    refused(&|values| values["jobs"]["namespace"] = "".into(), "jobs.namespace is required");
    refused(&|values| values["encryptionKey"] = json!({}), "encryptionKey.existingSecret is required");
    refused(&|values| values["database"] = json!({}), "database.existingSecret is required");
    refused(&|values| values["image"]["repository"] = "".into(), "image.repository is required");
    refused(&|values| values["ingress"] = json!({"enabled": true}), "ingress.host is required");
    refused(&|values| values["gateway"] = json!({"enabled": true}), "gateway.parentRefs is required");
    chart::rendered("holdfast", &chart::values("data-jobs"), None).expect("these values");
}

#[test]
fn settings_reach_the_file_as_they_are_meant() {
    let mut values = chart::values("data-jobs");
    values["config"] = json!({
        "max_upload_bytes": 1_073_741_824,
        "insecure": true,
        "time_zone": "Europe/Sofia",
        "allowed_hosts": ["jobs.example.com"],
        "logs_url_template": "https://logs/?a=1&b=<{execution_id}>",
        "image": {"base_images": {"3.11": "base:1", "3.12": {"baseImage": "base:2", "vdkImage": "vdk:1"}}},
    });
    let manifests = chart::rendered("holdfast", &values, None).unwrap();
    let text = chart::configuration(&manifests).unwrap();
    for line in [
        "max_upload_bytes = 1073741824",
        "insecure = true",
        "time_zone = \"Europe/Sofia\"",
        "logs_url_template = \"https://logs/?a=1&b=<{execution_id}>\"",
        "base_images = { \"3.11\" = \"base:1\", \"3.12\" = { \"baseImage\" = \"base:2\", \"vdkImage\" = \"vdk:1\" } }",
        "rest_api_url = \"http://holdfast.holdfast.svc.cluster.local:8092\"",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("\"holdfast.holdfast.svc\"") && text.contains("\"jobs.example.com\""), "{text}");
}

#[test]
fn the_schema_of_the_values_has_the_settings_of_the_program() {
    let binary = binary::path(Profile::Dev).unwrap();
    let settings = command::output(Command::new(binary).args(["config", "--json-schema"])).unwrap();
    let path = sources::folder().join("values.schema.json");
    let old = std::fs::read_to_string(path).unwrap();
    let new = sources::schema(&old, &settings).unwrap();
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert!(value(&old) == value(&new), "charts/holdfast/values.schema.json is old; run `cargo xtask chart`");
}
