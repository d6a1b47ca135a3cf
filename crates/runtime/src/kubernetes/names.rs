//! Labels, annotations and names of objects in the cluster: our own, and those of upstream that operators and alert rules rely
//! on.

use model::name::JobName;

/// The job's id, on every managed object. An object without it is unmanaged.
pub(crate) const JOB_ID: &str = "holdfast/job-id";
/// The revision of an object's deployment.
pub(crate) const REVISION: &str = "holdfast/revision";
/// The hash of all inputs of an object; see [`model::plan::inputs_hash`].
pub(crate) const INPUTS_HASH: &str = "holdfast/inputs-hash";
/// A keyed hash of the values that the options file gives a job, so that a changed value changes the object.
pub(crate) const OPTIONS_HASH: &str = "holdfast/options-hash";
/// The epoch of the leader that wrote an object; never part of an object's hash.
pub(crate) const EPOCH: &str = "holdfast/epoch";
/// The job's team; in an annotation, because label values can't contain spaces.
pub(crate) const TEAM: &str = "holdfast/team";
/// On the Job of a manual execution, to distinguish it from scheduled ones.
pub(crate) const MANUAL: &str = "holdfast/manual";
/// On a Job: the instant of the requested cancellation.
pub(crate) const CANCELLED: &str = "holdfast/cancelled";
/// On a secret: the last instant when it was needed.
pub(crate) const KEPT_AT: &str = "holdfast/kept-at";

/// The common label for the program that manages an object.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The secret with the credentials by which nodes pull the images of jobs.
pub(crate) const PULL_SECRET: &str = "holdfast-pull-credentials";

/// Upstream's label for objects of data jobs, and its value.
pub(crate) const TYPE: (&str, &str) = ("com.vmware.taurus/type", "DataJob");
/// The job's name.
pub(crate) const NAME: &str = "com.vmware.taurus/name";
/// The version of the job's source.
pub(crate) const VERSION: &str = "com.vmware.taurus/version";
/// The cron expression.
pub(crate) const SCHEDULE: &str = "com.vmware.taurus/schedule";
/// `scheduled` or `manual`.
pub(crate) const EXECUTION_TYPE: &str = "com.vmware.taurus/execution-type";
/// The client that started an execution.
pub(crate) const STARTED_BY: &str = "com.vmware.taurus/started-by";
/// The client that requested the deployment.
pub(crate) const DEPLOYED_BY: &str = "com.vmware.taurus/deployed-by";
/// The instant of the deployment.
pub(crate) const DEPLOYED_DATE: &str = "com.vmware.taurus/deployed-date";
/// The Python version.
pub(crate) const PYTHON_VERSION: &str = "com.vmware.taurus/python-version";
/// Whether the job has no schedule.
pub(crate) const UNSCHEDULED: &str = "com.vmware.taurus/unscheduled";
/// The operation id of the request that started an execution.
pub(crate) const OP_ID: &str = "com.vmware.taurus/op-id";

/// The scheduled time of a Job; the controller writes it since Kubernetes 1.28.
pub(crate) const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// The Job of a pod; the controller writes it since Kubernetes 1.27.
pub(crate) const JOB_OF_POD: &str = "batch.kubernetes.io/job-name";

/// The secret with a job's keytab, as in upstream.
pub(crate) fn keytab_secret(job: &JobName) -> String {
    format!("data-job-keytab-{job}")
}

/// The secret with the token by which a job authenticates to this service.
pub(crate) fn token_secret(job: &JobName) -> String {
    format!("holdfast-token-{job}")
}

/// The secret with the values of a job from the operator's options file.
pub(crate) fn options_secret(job: &JobName) -> String {
    format!("holdfast-options-{job}")
}
