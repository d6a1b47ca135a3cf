//! Labels, annotations and names on the objects in the cluster: our own, and those of the reference that operators and
//! alert rules rely on.

use model::name::JobName;

/// The job's id, on every object of ours. What carries none is not ours.
pub(crate) const JOB_ID: &str = "holdfast/job-id";
/// The generation that an object was made from.
pub(crate) const GENERATION: &str = "holdfast/generation";
/// The hash of all that went into an object; see [`model::plan::inputs_hash`].
pub(crate) const INPUTS_HASH: &str = "holdfast/inputs-hash";
/// A keyed hash of the values that the options file gives a job, so that a changed value changes the object.
pub(crate) const OPTIONS_HASH: &str = "holdfast/options-hash";
/// The epoch of the leader that wrote an object; never in what an object's hash is made of.
pub(crate) const EPOCH: &str = "holdfast/epoch";
/// The job's team as it is written; label values have no blanks.
pub(crate) const TEAM: &str = "holdfast/team";
/// On a Job that a request started, so that it is told from those of ticks.
pub(crate) const MANUAL: &str = "holdfast/manual";
/// On a Job whose cancellation was asked for: when.
pub(crate) const CANCELLED: &str = "holdfast/cancelled";
/// On a secret: when it was last seen to be needed.
pub(crate) const KEPT_AT: &str = "holdfast/kept-at";

/// The reference's label for objects of data jobs, and its value.
pub(crate) const TYPE: (&str, &str) = ("com.vmware.taurus/type", "DataJob");
/// The job's name.
pub(crate) const NAME: &str = "com.vmware.taurus/name";
/// The version of the job's source.
pub(crate) const VERSION: &str = "com.vmware.taurus/version";
/// The cron expression.
pub(crate) const SCHEDULE: &str = "com.vmware.taurus/schedule";
/// `scheduled` or `manual`.
pub(crate) const EXECUTION_TYPE: &str = "com.vmware.taurus/execution-type";
/// Who started a run.
pub(crate) const STARTED_BY: &str = "com.vmware.taurus/started-by";
/// Who deployed what runs.
pub(crate) const DEPLOYED_BY: &str = "com.vmware.taurus/deployed-by";
/// When it was deployed.
pub(crate) const DEPLOYED_DATE: &str = "com.vmware.taurus/deployed-date";
/// The Python version.
pub(crate) const PYTHON_VERSION: &str = "com.vmware.taurus/python-version";
/// Whether the job has no schedule.
pub(crate) const UNSCHEDULED: &str = "com.vmware.taurus/unscheduled";
/// The operation id of the request that started a run.
pub(crate) const OP_ID: &str = "com.vmware.taurus/op-id";

/// The tick that a Job of a CronJob is of; the controller writes it since Kubernetes 1.28.
pub(crate) const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// The Job of a pod; the controller writes it since Kubernetes 1.27.
pub(crate) const JOB_OF_POD: &str = "batch.kubernetes.io/job-name";

/// The secret with a job's key table, as the reference names it.
pub(crate) fn keytab_secret(job: &JobName) -> String {
    format!("data-job-keytab-{job}")
}

/// The secret with the token by which a job is known to this service.
pub(crate) fn token_secret(job: &JobName) -> String {
    format!("holdfast-token-{job}")
}

/// The secret with the values that the operator's options file gives a job.
pub(crate) fn options_secret(job: &JobName) -> String {
    format!("holdfast-options-{job}")
}
