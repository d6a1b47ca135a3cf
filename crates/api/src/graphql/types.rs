//! Objects that are parts of jobs and of executions.

use async_graphql::{Enum, SimpleObject};
use jiff::Timestamp;
use model::{job::Contacts, resources::Resources, rollout::Status};

use super::resolve::{ready_names, resolve};

/// The schedule of a job.
#[derive(Clone, SimpleObject)]
pub(super) struct DataJobSchedule {
    schedule_cron: Option<String>,
    next_run_epoch_seconds: Option<i64>,
}

impl DataJobSchedule {
    /// A schedule without its next scheduled time.
    pub(super) fn new(schedule_cron: Option<String>) -> Self {
        Self { schedule_cron, next_run_epoch_seconds: None }
    }

    /// A schedule with its next scheduled time. Clients expect -1 for none, and not null.
    pub(super) fn with_next_run(schedule_cron: Option<String>, next_run: Option<Timestamp>) -> Self {
        Self { schedule_cron, next_run_epoch_seconds: Some(next_run.map_or(-1, Timestamp::as_second)) }
    }
}

/// The mail addresses of notifications.
#[derive(Clone, SimpleObject)]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
pub(super) struct DataJobContacts {
    notified_on_job_failure_user_error: Option<Vec<Option<String>>>,
    notified_on_job_failure_platform_error: Option<Vec<Option<String>>>,
    notified_on_job_success: Option<Vec<Option<String>>>,
    notified_on_job_deploy: Option<Vec<Option<String>>>,
}

impl From<&Contacts> for DataJobContacts {
    fn from(contacts: &Contacts) -> Self {
        let list = |addresses: &[String]| Some(addresses.iter().cloned().map(Some).collect());
        Self {
            notified_on_job_failure_user_error: list(&contacts.notified_on_job_failure_user_error),
            notified_on_job_failure_platform_error: list(&contacts.notified_on_job_failure_platform_error),
            notified_on_job_success: list(&contacts.notified_on_job_success),
            notified_on_job_deploy: list(&contacts.notified_on_job_deploy),
        }
    }
}

/// The resources of an execution.
#[derive(Clone, SimpleObject)]
pub(super) struct DataJobResources {
    cpu_limit: Option<f64>,
    cpu_request: Option<f64>,
    #[graphql(name = "empheralStorageLimit")]
    ephemeral_storage_limit: Option<i32>,
    #[graphql(name = "empheralSorageRequest")]
    ephemeral_storage_request: Option<i32>,
    memory_limit: Option<i32>,
    memory_request: Option<i32>,
    #[graphql(name = "netBandwitdthLimit")]
    net_bandwidth_limit: Option<i32>,
}

impl From<Resources> for DataJobResources {
    fn from(resources: Resources) -> Self {
        Self {
            cpu_limit: resources.cpu_limit,
            cpu_request: resources.cpu_request,
            ephemeral_storage_limit: None,
            ephemeral_storage_request: None,
            memory_limit: resources.memory_limit_mi,
            memory_request: resources.memory_request_mi,
            net_bandwidth_limit: None,
        }
    }
}

/// The last outcome of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "Status")]
pub(super) enum DataJobDeploymentStatus {
    None,
    Success,
    PlatformError,
    UserError,
}

resolve!(DataJobSchedule { "scheduleCron": schedule_cron, "nextRunEpochSeconds": next_run_epoch_seconds });

resolve!(DataJobContacts {
    "notifiedOnJobFailureUserError": notified_on_job_failure_user_error,
    "notifiedOnJobFailurePlatformError": notified_on_job_failure_platform_error,
    "notifiedOnJobSuccess": notified_on_job_success,
    "notifiedOnJobDeploy": notified_on_job_deploy,
});

resolve!(DataJobResources {
    "cpuLimit": cpu_limit,
    "cpuRequest": cpu_request,
    "empheralStorageLimit": ephemeral_storage_limit,
    "empheralSorageRequest": ephemeral_storage_request,
    "memoryLimit": memory_limit,
    "memoryRequest": memory_request,
    "netBandwitdthLimit": net_bandwidth_limit,
});

ready_names!(DataJobDeploymentStatus);

/// The objects here with the fields that are answered.
#[cfg(test)]
pub(super) const FIELDS: &[(&str, &[&str])] = &[
    ("DataJobSchedule", DataJobSchedule::FIELDS),
    ("DataJobContacts", DataJobContacts::FIELDS),
    ("DataJobResources", DataJobResources::FIELDS),
];
