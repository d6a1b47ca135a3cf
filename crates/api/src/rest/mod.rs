//! The operations of the public API, one file per noun.

pub(crate) mod credentials;
pub(crate) mod deleted_jobs;
pub(crate) mod deployments;
pub(crate) mod executions;
pub(crate) mod history;
pub(crate) mod info;
pub(crate) mod jobs;
pub(crate) mod keytab;
pub(crate) mod properties;
pub(crate) mod secrets;
pub(crate) mod sources;
pub(crate) mod tokens;

/// The team and the job in a path.
pub(crate) type JobPath = crate::input::Path<(String, String)>;

/// The team, the job, and a deployment or an execution in a path.
pub(crate) type PartPath = crate::input::Path<(String, String, String)>;
