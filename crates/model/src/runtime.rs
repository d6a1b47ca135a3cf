//! The interface of the synchronizer to the runtime where jobs run.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    BoxFuture, Problem,
    artifact::{Artifact, LastApplied},
    deployment::Deployment,
    execution::ExecutionEnd,
    lock::{Lock, LockKey},
    log::{LogChunk, LogPart},
    name::{ExecutionId, JobId, JobName, TeamName},
    variables::Variables,
};

/// Time limit of one change outside of the database. A lease must be longer.
pub const CHANGE_MAX: Duration = Duration::from_secs(5);

/// A place where jobs run: processes of this machine, or a cluster.
///
/// Every method is idempotent: a second call with the same arguments changes nothing. An error is a [`Problem`], and its
/// fault says whether a retry helps.
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// The name of the runtime in the configuration.
    fn name(&self) -> &'static str;

    /// The host whose executions it sees, if other instances of the service may see others.
    fn host(&self) -> Option<&str> {
        None
    }

    /// Whether the runtime starts scheduled executions; if not, the synchronizer's schedule loop does.
    fn fires_ticks(&self) -> bool;

    /// The number of concurrent executions; further ones wait as SUBMITTED.
    fn parallel_runs_max(&self) -> usize;

    /// Whether an execution is started with its sources; if not, the sources are in the image.
    fn takes_sources(&self) -> bool {
        true
    }

    /// Whether executions get the Secret with their team's OAuth application, so that the team needs a name for it.
    fn mounts_team_secrets(&self) -> bool {
        false
    }

    /// Begins to lead: from now on, writes carry this epoch. Returns when the cluster rejects writes with an earlier epoch, if
    /// it can.
    fn lead(&self, _epoch: i64) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Stops leading: drops the state of executions in memory and files. The executions continue.
    fn resign(&self) {}

    /// Creates or updates the objects that all deployments share, such as the Secret with which nodes pull images. Called at the
    /// start of a leader epoch and at each full resync.
    fn keep_shared(&self) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// A fingerprint of the configuration that is part of this deployment. If it changes, the deployment is rolled out again.
    fn fingerprint(&self, deployment_spec: &DeploymentSpec) -> String;

    /// Observes the objects of a deployment.
    fn observe<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Observed, Problem>>;

    /// Applies the desired state, so that the deployment can be started. Returns the state that tells later changes by others
    /// from its own.
    fn apply<'a>(
        &'a self,
        target: &'a Target,
        request: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<Option<LastApplied>, Problem>>;

    /// All objects of deployments that carry the label of this service, with or without a row in the database. Empty if
    /// deployments have no objects.
    fn deployments(&self) -> BoxFuture<'_, Result<Vec<KnownDeployment>, Problem>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Removes the objects of a deployment. Active executions continue.
    fn remove<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<(), Problem>>;

    /// Allows changes outside of the database until the boot clock reaches this instant: no other instance leads before it. Zero
    /// allows none. It is an instant, because the caller may be suspended between computing it and calling this. A runtime that
    /// belongs to one instance ignores it.
    fn may_write_until(&self, _until: Duration) {}

    /// Starts an execution. Returns when its supervisor owns it; from then on it survives the service.
    fn start<'a>(&'a self, run: &'a ExecutionSpec) -> BoxFuture<'a, Result<Started, Problem>>;

    /// Cancels an execution. [`Runtime::next`] reports its end.
    fn cancel<'a>(&'a self, id: &'a ExecutionId, job_id: JobId) -> BoxFuture<'a, Result<(), Problem>>;

    /// Every execution that the runtime knows: active ones, and ended ones that were not recorded yet.
    fn runs(&self) -> BoxFuture<'_, Result<Vec<KnownExecution>, Problem>>;

    /// Waits until something changes outside of the loops, and returns the change. Objects that exist at the
    /// beginning are no change.
    fn changes(&self) -> BoxFuture<'_, Changes> {
        Box::pin(std::future::pending())
    }

    /// Waits for the next stage of an execution: from `seen` to running, from running to its end.
    fn next<'a>(&'a self, id: &'a ExecutionId, seen: &'a Seen) -> BoxFuture<'a, Result<Stage, Problem>>;

    /// A part of the current log of an execution; only this part is read. `None` for an unknown execution.
    fn log<'a>(&'a self, id: &'a ExecutionId, part: LogPart) -> BoxFuture<'a, Result<Option<LogChunk>, Problem>>;

    /// Removes the data of an execution whose end and log are stored. An active execution is cancelled, and the error says that
    /// this must be called again.
    fn forget<'a>(&'a self, id: &'a ExecutionId, job_id: JobId) -> BoxFuture<'a, Result<(), Problem>>;

    /// Removes environments that no deployment needs: `keep` are the locks in use.
    fn clean_up<'a>(&'a self, keep: &'a [LockKey]) -> BoxFuture<'a, Result<(), Problem>>;
}

/// The identity of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The job.
    pub job_id: JobId,
    /// The job's name.
    pub job_name: JobName,
    /// The hash of the inputs of the deployed state, from the rollout row.
    pub inputs_hash: Option<String>,
    /// The artifact of the deployed state.
    pub artifact: Option<Artifact>,
    /// The state that the runtime returned for it.
    pub last_applied: Option<LastApplied>,
}

/// The observed state of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// No object exists.
    Missing,
    /// The object exists, with inputs of this hash.
    Present {
        /// See [`crate::plan::inputs_hash`].
        inputs_hash: String,
    },
    /// The object exists, and another field manager changed it.
    Changed {
        /// The field manager, if known.
        by: Option<String>,
    },
    /// An object of its name exists and is not managed by Holdfast.
    Unmanaged {
        /// The kind and the name of the object, for example "CronJob daily-sales".
        object: String,
        /// The owner that the object names.
        owner: String,
    },
}

/// All inputs of a deployment from the database and the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct DeploymentSpec {
    /// The job's name.
    pub job_name: JobName,
    /// The job's team.
    pub team: TeamName,
    /// The desired state.
    pub deployment: Deployment,
    /// The environment variables that all its executions share; see [`crate::variables::variables`].
    pub variables: Variables,
    /// The name of the secret with the team's OAuth application, where the runtime mounts it; see
    /// [`Runtime::mounts_team_secrets`].
    pub team_secret: Option<String>,
}

/// A deployment to apply.
#[derive(Clone, PartialEq)]
pub struct ApplyRequest {
    /// The blueprint of its objects.
    pub deployment_spec: DeploymentSpec,
    /// See [`crate::plan::inputs_hash`].
    pub inputs_hash: String,
    /// The artifact of its executions.
    pub artifact: Artifact,
    /// Its packages, if the runtime installs them.
    pub lock: Option<Lock>,
    /// The variables with the credential of its executions; see [`crate::variables::token_variables`]. They are
    /// secrets.
    pub token: BTreeMap<String, String>,
    /// Scheduled times before this instant are not caught up.
    pub ticks_after: jiff::Timestamp,
}

// The token is a secret.
impl std::fmt::Debug for ApplyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApplyRequest")
            .field("blueprint", &self.deployment_spec)
            .field("inputs_hash", &self.inputs_hash)
            .field("artifact", &self.artifact)
            .finish_non_exhaustive()
    }
}

/// An execution to start.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionSpec {
    /// Its id.
    pub id: ExecutionId,
    /// The blueprint that it runs.
    pub deployment_spec: DeploymentSpec,
    /// Its artifact, beside its sources.
    pub artifact: Artifact,
    /// Its sources as a ZIP archive whose top folder has the job's name; empty if the runtime needs none.
    pub archive: Vec<u8>,
    /// `--arguments` as a JSON object.
    pub arguments: Option<String>,
    /// The user or the trigger that started it.
    pub started_by: String,
    /// The operation id of the request.
    pub op_id: String,
    /// The environment variables of this execution, beside those of the blueprint; see [`crate::variables::run_variables`]. Some
    /// are secrets.
    pub variables: BTreeMap<String, String>,
    /// The time limit in seconds.
    pub deadline_seconds: u64,
    /// The number of retries after a failure.
    pub backoff_limit: u32,
}

/// The result of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// The start was accepted.
    Running,
    /// A scheduled execution of the job was first; this one does not run.
    Skipped {
        /// The scheduled execution.
        for_run: ExecutionId,
    },
}

/// A deployment that a runtime knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KnownDeployment {
    /// The name of the object, which is the job's.
    pub job_name: JobName,
    /// The job, as the object says.
    pub job_id: JobId,
}

/// An execution that a runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownExecution {
    /// Its id.
    pub id: ExecutionId,
    /// Its origin, if the runtime started it on schedule.
    pub scheduled: Option<ScheduledExecution>,
}

/// A scheduled execution that the runtime started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledExecution {
    /// The job.
    pub job_id: JobId,
    /// The revision that it runs, if known.
    pub generation: Option<i64>,
    /// The scheduled time.
    pub tick: jiff::Timestamp,
    /// The time of its creation.
    pub created_at: jiff::Timestamp,
}

/// A change outside of the loops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names of jobs whose objects may have changed, or whose name became free.
    pub deployments: Vec<String>,
    /// Whether there are new scheduled executions.
    pub runs: bool,
    /// Whether the runtime responds again after an outage.
    pub recovered: bool,
}

/// The last state of an execution that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It was dispatched.
    Submitted,
    /// A problem prevents its start.
    Held(Problem),
    /// Its process was started.
    Running,
}

impl Seen {
    /// Whether this was not seen.
    pub fn is_news(&self, held: &Problem) -> bool {
        match self {
            Self::Submitted => true,
            Self::Held(problem) => problem.what != held.what,
            Self::Running => false,
        }
    }
}

/// A stage of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// A problem prevents its start.
    Held(Problem),
    /// Its process was started at this instant.
    Running(jiff::Timestamp),
    /// It ended.
    Ended(ExecutionEnd),
    /// The runtime does not know it: it was never dispatched, or its folder was removed.
    Unknown,
}
