//! The settings with which a service runs jobs in a namespace of the test cluster.

use anyhow::Result;
use devtools::{
    chart,
    cluster::{Cluster, Namespace},
};
use serde_json::json;

use crate::service::Options;

/// The node that runs pods: the real one, or the one that reports at once that they ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// Pods run.
    Real,
    /// Pods are said to run and to succeed at once.
    InNameOnly,
}

/// Sends pods to the node in name only.
pub fn placement_in_name_only() -> serde_json::Value {
    json!({
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
    })
}

/// Sends pods to a node of the cluster.
fn placement(cluster: &Cluster, node: Node) -> serde_json::Value {
    match node {
        Node::Real => json!({"nodeSelector": {"kubernetes.io/hostname": cluster.node}}),
        Node::InNameOnly => placement_in_name_only(),
    }
}

/// A template that has pods run on that node.
fn template(cluster: &Cluster, node: Node) -> String {
    let mut pod = placement(cluster, node);
    pod["containers"] = json!([]);
    template_of(&pod)
}

/// A template with this as the spec of pods.
pub fn template_of(pod: &serde_json::Value) -> String {
    let job_template = json!({"spec": {"template": {"spec": pod}}});
    let spec = json!({"schedule": "", "jobTemplate": job_template});
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {}, "spec": spec}).to_string()
}

/// A token of an account that has the rights that the service has in production, and no others.
///
/// # Errors
/// When the API server refuses or does not answer.
pub fn token_of_service(namespace: &Namespace) -> Result<String> {
    let rules = std::fs::read_to_string(chart::folder().join("files/role.yaml"))?;
    let kind = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: holdfast}\n";
    namespace.apply(&format!("{kind}{rules}"))?;
    namespace.ask(&["create", "serviceaccount", "holdfast"])?;
    let account = format!("--serviceaccount={}:holdfast", namespace.name());
    namespace.ask(&["create", "rolebinding", "holdfast", "--role=holdfast", &account])?;
    Ok(namespace.ask(&["create", "token", "holdfast", "--duration=24h"])?.trim().to_owned())
}

/// Settings for jobs in a namespace, on one of its nodes. `KUBECONFIG` is the caller's.
#[must_use]
pub fn settings(options: Options, namespace: &Namespace, node: Node) -> Options {
    options
        .set("HOLDFAST_RUNTIME", "kubernetes")
        .set("HOLDFAST_KUBERNETES_NAMESPACE", namespace.name())
        .set("HOLDFAST_KUBERNETES_CPU_REQUEST_MILLICORES", "10")
        .set("HOLDFAST_KUBERNETES_MEMORY_REQUEST_MI", "32")
        .set("HOLDFAST_KUBERNETES_TEMPLATE_FILE", "{folder}/template.json")
        .file("template.json", &template(namespace.cluster(), node))
        .set("HOLDFAST_RUN_BACKOFF_LIMIT", "0")
        .set("HOLDFAST_IMAGE_BUILDER", "prebuilt")
        .set("HOLDFAST_REGISTRY_URL", &namespace.cluster().registry)
        .set("HOLDFAST_IMAGE_NAME", &format!("{{registry}}/{}/{{job}}:{{version}}", namespace.name()))
}
