//! The parts of objects that are kept in memory: those that decisions need.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job},
        core::v1::{ContainerStatus, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::PartialObjectMeta;
use model::name::JobId;

use super::names;

/// A CronJob, by its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CronJobView {
    pub(crate) uid: String,
    /// Increases with each change of the spec.
    pub(crate) generation: i64,
    /// The data job of its label.
    pub(crate) job_id: Option<JobId>,
}

impl From<&PartialObjectMeta<CronJob>> for CronJobView {
    fn from(object: &PartialObjectMeta<CronJob>) -> Self {
        Self::of(&object.metadata)
    }
}

impl CronJobView {
    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            job_id: job_id(metadata),
        }
    }
}

/// A managed Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobView {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) job_id: JobId,
    /// The generation of its deployment.
    pub(crate) generation: Option<i64>,
    /// Its scheduled time; absent for a manual execution.
    pub(crate) tick: Option<Timestamp>,
    pub(crate) created_at: Timestamp,
    /// Whether its execution is manual.
    pub(crate) manual: bool,
    /// The instant of the requested cancellation.
    pub(crate) cancelled_at: Option<Timestamp>,
    pub(crate) suspended: bool,
    /// Whether it is being deleted.
    pub(crate) terminating: bool,
    pub(crate) deadline_seconds: Option<i64>,
    /// The instant since which its controller knows that it is suspended.
    pub(crate) suspension_seen_at: Option<Timestamp>,
    /// Pods that are not over.
    pub(crate) active: i32,
    pub(crate) started_at: Option<Timestamp>,
    /// Its end, once it is over.
    pub(crate) terminal: Option<Terminal>,
}

/// The end of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terminal {
    pub(crate) complete: bool,
    /// The reason of the controller, such as `BackoffLimitExceeded`.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
}

impl JobView {
    /// Reads a Job. `None` when it is unmanaged.
    pub(crate) fn of(job: &Job) -> Option<Self> {
        Self::with(job, job_id_of(job)?)
    }

    /// Reads a Job of the data job with this id.
    pub(crate) fn with(job: &Job, job_id: JobId) -> Option<Self> {
        let metadata = &job.metadata;
        let annotation = |name: &str| metadata.annotations.as_ref().and_then(|all| all.get(name));
        let status = job.status.as_ref();
        let spec = job.spec.as_ref();
        // Failed and Complete are set after all pods ended; FailureTarget and SuccessCriteriaMet before.
        let terminal = status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten()
            .find(|condition| condition.status == "True" && matches!(condition.type_.as_str(), "Complete" | "Failed"))
            .map(|condition| Terminal {
                complete: condition.type_ == "Complete",
                reason: condition.reason.clone().unwrap_or_default(),
                message: condition.message.clone().unwrap_or_default(),
                at: status
                    .and_then(|status| status.completion_time.as_ref())
                    .or(condition.last_transition_time.as_ref())
                    .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            });
        let created_at = metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let manual = annotation(names::MANUAL).is_some();
        Some(Self {
            name: metadata.name.clone()?,
            uid: metadata.uid.clone().unwrap_or_default(),
            job_id,
            generation: annotation(names::REVISION).and_then(|text| text.parse().ok()),
            tick: (!manual)
                .then(|| annotation(names::SCHEDULED_AT).and_then(|text| text.parse().ok()).unwrap_or(created_at)),
            created_at,
            manual,
            // The annotation of an older version contains no instant.
            cancelled_at: annotation(names::CANCELLED).map(|at| at.parse().unwrap_or(created_at)),
            suspended: spec.and_then(|spec| spec.suspend).unwrap_or_default(),
            terminating: metadata.deletion_timestamp.is_some(),
            deadline_seconds: spec.and_then(|spec| spec.active_deadline_seconds),
            suspension_seen_at: status
                .and_then(|status| status.conditions.as_ref())
                .into_iter()
                .flatten()
                .find(|condition| condition.type_ == "Suspended" && condition.status == "True")
                .map(|condition| condition.last_transition_time.as_ref().map_or(created_at, |time| time.0)),
            active: status.and_then(|status| status.active).unwrap_or_default(),
            started_at: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            terminal,
        })
    }

    /// Whether it may still run something.
    pub(crate) fn is_over(&self) -> bool {
        self.terminal.is_some()
    }
}

/// A pod of a managed Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodView {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Its Job.
    pub(crate) job: String,
    pub(crate) created_at: Timestamp,
    pub(crate) terminating: bool,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub(crate) phase: String,
    /// The reason for the failure of the whole pod, such as `Evicted`, or `DeadlineExceeded`.
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) node: Option<String>,
    /// The job's own container.
    pub(crate) main_name: String,
    pub(crate) main: ContainerView,
    /// An init container that failed or waits.
    pub(crate) init: Option<(String, ContainerView)>,
    /// The reason why it can't be placed on a node.
    pub(crate) unschedulable: Option<String>,
    /// Whether its volumes or its network are not ready on its node.
    pub(crate) unprepared: bool,
    /// The external cause of its end, with the reason of the cluster: `DeletionByPodGC`, `EvictionByEvictionAPI`.
    pub(crate) disruption: Option<(String, String)>,
    /// Whether the object is no longer in the cluster, and this is its last known state.
    pub(crate) gone: bool,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerView {
    /// The reason and message while it waits.
    pub(crate) waiting: Option<(String, String)>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended: Option<ContainerEnd>,
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerEnd {
    pub(crate) exit_code: i32,
    /// Such as `OOMKilled`, `Error` or `Completed`.
    pub(crate) reason: String,
    /// The content of its termination message file, or a message of the kubelet.
    pub(crate) message: Option<String>,
    pub(crate) at: Option<Timestamp>,
}

impl From<&ContainerStatus> for ContainerView {
    fn from(status: &ContainerStatus) -> Self {
        let state = status.state.as_ref();
        let running = state.and_then(|state| state.running.as_ref());
        let terminated = state.and_then(|state| state.terminated.as_ref());
        Self {
            waiting: state.and_then(|state| state.waiting.as_ref()).map(|waiting| {
                (waiting.reason.clone().unwrap_or_default(), waiting.message.clone().unwrap_or_default())
            }),
            started_at: running
                .and_then(|running| running.started_at.as_ref())
                .or(terminated.and_then(|terminated| terminated.started_at.as_ref()))
                .map(|time| time.0)
                // The instant is zero for a container that was never started.
                .filter(|at| *at > Timestamp::UNIX_EPOCH),
            ended: terminated.map(|terminated| ContainerEnd {
                exit_code: terminated.exit_code,
                reason: terminated.reason.clone().unwrap_or_default(),
                message: terminated.message.clone().filter(|text| !text.is_empty()),
                at: terminated.finished_at.as_ref().map(|time| time.0).filter(|at| *at > Timestamp::UNIX_EPOCH),
            }),
        }
    }
}

impl PodView {
    /// Reads a pod. `None` when it has no Job.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let label = |name: &str| metadata.labels.as_ref().and_then(|all| all.get(name));
        let status = pod.status.clone().unwrap_or_default();
        // The first container of the spec is the job's; operators or webhooks may add others.
        let main_name = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.containers.first())
            .map(|container| container.name.clone())
            .unwrap_or_default();
        let main = status
            .container_statuses
            .iter()
            .flatten()
            .find(|container| container.name == main_name)
            .map(ContainerView::from)
            .unwrap_or_default();
        let init = status
            .init_container_statuses
            .iter()
            .flatten()
            .map(|container| (container.name.clone(), ContainerView::from(container)))
            .find(|(_, view)| view.waiting.is_some() || view.ended.as_ref().is_some_and(|end| end.exit_code != 0));
        let condition = |type_: &str, is: &str| {
            status.conditions.iter().flatten().find(|condition| condition.type_ == type_ && condition.status == is)
        };
        let unschedulable =
            condition("PodScheduled", "False").map(|condition| condition.message.clone().unwrap_or_default());
        let disruption = condition("DisruptionTarget", "True").map(|condition| {
            (condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default())
        });
        let unprepared = condition("PodReadyToStartContainers", "True").is_none();
        Some(Self {
            name: metadata.name.clone()?,
            uid: metadata.uid.clone().unwrap_or_default(),
            job: label(names::JOB_OF_POD)?.clone(),
            created_at: metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            terminating: metadata.deletion_timestamp.is_some(),
            phase: status.phase.unwrap_or_default(),
            reason: status.reason,
            message: status.message,
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            main_name,
            main,
            init,
            unschedulable,
            unprepared,
            disruption,
            gone: false,
        })
    }

    /// Whether no process of it runs any more.
    pub(crate) fn is_over(&self) -> bool {
        self.gone || matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// The data job of a Job by its label, or, if the label was removed, by that of its immutable pod template.
pub(crate) fn job_id_of(job: &Job) -> Option<JobId> {
    let pods = || job.spec.as_ref()?.template.metadata.as_ref().and_then(job_id);
    job_id(&job.metadata).or_else(pods)
}

/// The data job of an object by its label.
pub(crate) fn job_id(metadata: &ObjectMeta) -> Option<JobId> {
    metadata.labels.as_ref()?.get(names::JOB_ID)?.parse().ok().map(JobId)
}
