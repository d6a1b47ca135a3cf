//! Jobs and pods as a watch reads them: only the fields that [`super::view`] uses.
//!
//! An execution causes some twenty events, each with the whole object. Most of an object are volumes, variables and managed
//! fields, and building these took a third of the CPU time of an execution. Here they are skipped while the JSON is read.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec, JobStatus},
        core::v1::{
            Container, ContainerState, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// An object whose other fields were not read.
#[derive(Debug, Clone)]
pub(crate) struct Reduced<K>(pub(crate) K);

impl<K: Resource> Resource for Reduced<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl From<Metadata> for ObjectMeta {
    fn from(read: Metadata) -> Self {
        Self {
            name: read.name,
            namespace: read.namespace,
            uid: read.uid,
            resource_version: read.resource_version,
            creation_timestamp: read.creation_timestamp,
            deletion_timestamp: read.deletion_timestamp,
            labels: read.labels,
            annotations: read.annotations,
            ..Self::default()
        }
    }
}

#[derive(Debug, Deserialize)]
struct JobFields {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<JobSpecFields>,
    status: Option<JobStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobSpecFields {
    suspend: Option<bool>,
    active_deadline_seconds: Option<i64>,
    template: TemplateFields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateFields {
    metadata: Option<Metadata>,
}

impl<'de> Deserialize<'de> for Reduced<Job> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let JobFields { metadata, spec, status } = JobFields::deserialize(deserializer)?;
        let spec = spec.map(|spec| JobSpec {
            suspend: spec.suspend,
            active_deadline_seconds: spec.active_deadline_seconds,
            template: PodTemplateSpec { metadata: spec.template.metadata.map(Into::into), spec: None },
            ..JobSpec::default()
        });
        Ok(Self(Job { metadata: metadata.into(), spec, status }))
    }
}

#[derive(Debug, Deserialize)]
struct PodFields {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<PodSpecFields>,
    status: Option<PodStatusFields>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpecFields {
    node_name: Option<String>,
    containers: Vec<ContainerFields>,
}

#[derive(Debug, Deserialize)]
struct ContainerFields {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatusFields {
    phase: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    conditions: Option<Vec<PodCondition>>,
    container_statuses: Option<Vec<ContainerStatusFields>>,
    init_container_statuses: Option<Vec<ContainerStatusFields>>,
}

#[derive(Debug, Deserialize)]
struct ContainerStatusFields {
    name: String,
    state: Option<ContainerState>,
}

impl From<ContainerStatusFields> for ContainerStatus {
    fn from(ContainerStatusFields { name, state }: ContainerStatusFields) -> Self {
        Self { name, state, ..Self::default() }
    }
}

impl<'de> Deserialize<'de> for Reduced<Pod> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PodFields { metadata, spec, status } = PodFields::deserialize(deserializer)?;
        let statuses = |read: Option<Vec<ContainerStatusFields>>| {
            read.map(|statuses| statuses.into_iter().map(ContainerStatus::from).collect())
        };
        let container = |ContainerFields { name }| Container { name, ..Container::default() };
        let spec = spec.map(|spec| PodSpec {
            node_name: spec.node_name,
            containers: spec.containers.into_iter().map(container).collect(),
            ..PodSpec::default()
        });
        let status = status.map(|status| PodStatus {
            phase: status.phase,
            reason: status.reason,
            message: status.message,
            conditions: status.conditions,
            container_statuses: statuses(status.container_statuses),
            init_container_statuses: statuses(status.init_container_statuses),
            ..PodStatus::default()
        });
        Ok(Self(Pod { metadata: metadata.into(), spec, status }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::{
        names,
        view::{JobView, PodView},
    };

    const ID: &str = "00000000-0000-0000-0000-000000000001";

    fn metadata(labels: &Value) -> Value {
        json!({
            "name": "daily-1", "namespace": "data", "uid": "a uid", "resourceVersion": "17", "generation": 2,
            "creationTimestamp": "2024-05-01T10:00:00Z", "deletionTimestamp": "2024-05-01T11:00:00Z", "labels": labels,
            "annotations": {names::REVISION: "3", names::MANUAL: "true", names::CANCELLED: "2024-05-01T10:30:00Z"},
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:status": {"f:phase": {}}}}],
        })
    }

    #[test]
    fn a_view_of_a_job_is_the_same_whether_all_of_it_was_read() {
        let condition = |kind: &str, reason: &str| {
            json!({"type": kind, "status": "True", "reason": reason, "message": "a message",
                "lastTransitionTime": "2024-05-01T10:40:00Z"})
        };
        for labels in [json!({names::JOB_ID: ID}), json!({"of": "others"})] {
            let job = json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(&labels),
                "spec": {
                    "suspend": true, "activeDeadlineSeconds": 60, "backoffLimit": 3,
                    "template": {
                        "metadata": {"labels": {names::JOB_ID: ID}},
                        "spec": {"containers": [{"name": "daily", "image": "an image"}], "restartPolicy": "Never"},
                    },
                },
                "status": {
                    "active": 1, "failed": 2, "startTime": "2024-05-01T10:01:00Z",
                    "conditions": [condition("Suspended", "JobSuspended"), condition("Failed", "BackoffLimitExceeded")],
                },
            });
            let whole: Job = serde_json::from_value(job.clone()).unwrap();
            let Reduced(read) = serde_json::from_value::<Reduced<Job>>(job).unwrap();
            let view = JobView::of(&whole);
            assert!(view.as_ref().is_some_and(|view| view.terminal.is_some() && view.suspended && view.terminating));
            assert_eq!(JobView::of(&read), view);
            assert_eq!(read.metadata.resource_version, whole.metadata.resource_version);
            assert!(read.metadata.managed_fields.is_none() && read.spec.unwrap().template.spec.is_none());
        }
        assert!(serde_json::from_value::<Reduced<Job>>(json!({"metadata": {"name": "bare"}})).is_ok());
    }

    #[test]
    fn a_view_of_a_pod_is_the_same_whether_all_of_it_was_read() {
        let status = |name: &str, state: Value| json!({"name": name, "image": "an image", "imageID": "an id", "ready": false, "restartCount": 1, "state": state});
        let ended = json!({"terminated": {"exitCode": 7, "reason": "Error", "message": "last words",
            "startedAt": "2024-05-01T10:02:00Z", "finishedAt": "2024-05-01T10:03:00Z"}});
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        let condition =
            |kind: &str, is: &str| json!({"type": kind, "status": is, "reason": "a reason", "message": "m"});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata(&json!({names::JOB_OF_POD: "daily"})),
            "spec": {
                "nodeName": "a node", "volumes": [{"name": "tmp", "emptyDir": {}}],
                "containers": [{"name": "daily", "image": "an image", "env": [{"name": "A", "value": "b"}]},
                    {"name": "sidecar"}],
            },
            "status": {
                "phase": "Failed", "reason": "Evicted", "message": "the node was low on memory", "hostIP": "10.0.0.1",
                "conditions": [condition("PodScheduled", "False"), condition("DisruptionTarget", "True")],
                "containerStatuses": [status("sidecar", json!({})), status("daily", ended)],
                "initContainerStatuses": [status("vdk", waiting)],
            },
        });
        let whole: Pod = serde_json::from_value(pod.clone()).unwrap();
        let Reduced(read) = serde_json::from_value::<Reduced<Pod>>(pod).unwrap();
        let view = PodView::of(&whole).unwrap();
        assert!(view.main.ended.is_some() && view.init.is_some() && view.disruption.is_some(), "{view:?}");
        assert!(view.unschedulable.is_some() && view.node.is_some() && view.reason.is_some(), "{view:?}");
        assert_eq!(PodView::of(&read), Some(view));
        assert!(read.metadata.managed_fields.is_none() && read.spec.unwrap().volumes.is_none());
    }
}
