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

/// How long one change outside of the database takes at most, from when it is begun. A lease has to be longer.
pub const CHANGE_MAX: Duration = Duration::from_secs(5);

/// A place where jobs run: processes of this machine, or a cluster.
///
/// Every method may be called again with the same arguments and then changes nothing. An error is a [`Problem`] whose
/// fault says whether trying again helps.
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// The name of the runtime as configuration writes it.
    fn name(&self) -> &'static str;

    /// The place whose runs it sees, when another instance of the service may see others.
    fn host(&self) -> Option<&str> {
        None
    }

    /// Whether ticks start runs without the service; if not, the synchronizer's tick loop does.
    fn fires_ticks(&self) -> bool;

    /// How many runs it takes at once; the rest wait as SUBMITTED.
    fn parallel_runs_max(&self) -> usize;

    /// Whether a run is started with its source; if not, the source is in the image.
    fn takes_sources(&self) -> bool {
        true
    }

    /// Whether runs get the secret with their team's OAuth application, so that the team needs a name for it.
    fn mounts_team_secrets(&self) -> bool {
        false
    }

    /// Begins a term of leadership: from the call on, what is written names its epoch. Done when the place knows that it is to
    /// refuse what names an earlier one, if it can.
    fn lead(&self, _epoch: i64) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Ends a term of leadership: what was kept in memory or in files for its runs goes. The runs themselves continue.
    fn resign(&self) {}

    /// A fingerprint of all of the configuration that goes into this deployment. A changed one deploys anew.
    fn fingerprint(&self, deployment_spec: &DeploymentSpec) -> String;

    /// Observes the objects of a deployment.
    fn observe<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Observed, Problem>>;

    /// Makes the deployment exist as wanted, so that it can be started. Answers what it needs to know what it made from what
    /// others made of it.
    fn apply<'a>(
        &'a self,
        target: &'a Target,
        request: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<Option<LastApplied>, Problem>>;

    /// Everything that exists of deployments and says of itself that this service made it, whether or not a row knows it.
    /// Nothing where a deployment is its row alone.
    fn deployments(&self) -> BoxFuture<'_, Result<Vec<KnownDeployment>, Problem>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Removes the objects of a deployment. Active executions continue.
    fn remove<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<(), Problem>>;

    /// Changes outside of the database may be begun until the boot clock shows this instant: no other instance leads before it.
    /// Zero: none any more. An instant and not a duration, because the caller may be suspended between computing it and
    /// calling this. A runtime on one machine, which one instance has to itself, need not care.
    fn may_write_until(&self, _until: Duration) {}

    /// Starts a run. Done when its supervisor has taken it over; from then on it survives the service.
    fn start<'a>(&'a self, run: &'a ExecutionSpec) -> BoxFuture<'a, Result<Started, Problem>>;

    /// Asks a run of a job to end. Its end shows in [`Runtime::next`].
    fn cancel<'a>(&'a self, id: &'a ExecutionId, job_id: JobId) -> BoxFuture<'a, Result<(), Problem>>;

    /// Every run that the runtime knows and that was not forgotten: active ones, and ended ones not yet recorded.
    fn runs(&self) -> BoxFuture<'_, Result<Vec<KnownExecution>, Problem>>;

    /// Waits until something changes outside of the loops, and returns the change. Objects that exist at the beginning are no change.
    fn changes(&self) -> BoxFuture<'_, Changes> {
        Box::pin(std::future::pending())
    }

    /// Waits for the next stage of a run: from `seen` to running, from running to its end.
    fn next<'a>(&'a self, id: &'a ExecutionId, seen: &'a Seen) -> BoxFuture<'a, Result<Stage, Problem>>;

    /// A part of the log of a run so far; no more than that is read. `None` when the runtime knows no such run.
    fn log<'a>(&'a self, id: &'a ExecutionId, part: LogPart) -> BoxFuture<'a, Result<Option<LogChunk>, Problem>>;

    /// Drops what is left of a run of a job whose end and log are stored. A run that is not over is asked to end, and an error
    /// says that this has to be called again.
    fn forget<'a>(&'a self, id: &'a ExecutionId, job_id: JobId) -> BoxFuture<'a, Result<(), Problem>>;

    /// Drops what no deployment needs any more: `keep` are the locks in use.
    fn clean_up<'a>(&'a self, keep: &'a [LockKey]) -> BoxFuture<'a, Result<(), Problem>>;
}

/// Which deployment is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The job.
    pub job_id: JobId,
    /// The job's name.
    pub job_name: JobName,
    /// The hash of all that went into what was reached, as the rollout row has it.
    pub inputs_hash: Option<String>,
    /// The artifact of the deployed state.
    pub artifact: Option<Artifact>,
    /// The state that the runtime returned for it.
    pub last_applied: Option<LastApplied>,
}

/// The observed state of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Nothing.
    Missing,
    /// It is there, made from inputs of this hash.
    Present {
        /// See [`crate::plan::inputs_hash`].
        inputs_hash: String,
    },
    /// The object exists, and another field manager changed it.
    Changed {
        /// Who, as far as it says.
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

/// All that the rows and the operator say of a deployment, before anything is made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeploymentSpec {
    /// The job's name.
    pub job_name: JobName,
    /// The job's team.
    pub team: TeamName,
    /// Every field.
    pub deployment: Deployment,
    /// The environment variables that are the same for each of its runs; see [`crate::variables::variables`].
    pub variables: Variables,
    /// The name of the secret with the team's OAuth application, where the runtime mounts it; see
    /// [`Runtime::mounts_team_secrets`].
    pub team_secret: Option<String>,
}

/// A deployment to make.
#[derive(Clone, PartialEq)]
pub struct ApplyRequest {
    /// The blueprint of its objects.
    pub deployment_spec: DeploymentSpec,
    /// See [`crate::plan::inputs_hash`].
    pub inputs_hash: String,
    /// The artifact of its executions.
    pub artifact: Artifact,
    /// Its packages, where they are installed by the runtime.
    pub lock: Option<Lock>,
    /// The variables by which its runs are known to this service; see [`crate::variables::token_variables`]. They are
    /// secrets.
    pub token: BTreeMap<String, String>,
    /// Ticks before this instant are not made up for.
    pub ticks_after: jiff::Timestamp,
}

// The token is a secret.
impl std::fmt::Debug for ApplyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted")
            .field("blueprint", &self.deployment_spec)
            .field("inputs_hash", &self.inputs_hash)
            .field("artifact", &self.artifact)
            .finish_non_exhaustive()
    }
}

/// A run to start.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionSpec {
    /// Its id.
    pub id: ExecutionId,
    /// The blueprint that it runs.
    pub deployment_spec: DeploymentSpec,
    /// Its artifact, beside its sources.
    pub artifact: Artifact,
    /// Its source as a ZIP archive whose top folder has the job's name; empty when the runtime takes none.
    pub archive: Vec<u8>,
    /// `--arguments` as a JSON object.
    pub arguments: Option<String>,
    /// The user or the trigger that started it.
    pub started_by: String,
    /// The operation id of the request.
    pub op_id: String,
    /// The environment variables of this run, beside those of the blueprint; see [`crate::variables::run_variables`]. Some
    /// are secrets.
    pub variables: BTreeMap<String, String>,
    /// How long it may take, in seconds.
    pub deadline_seconds: u64,
    /// How often it is tried again after a failure.
    pub backoff_limit: u32,
}

/// The result of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It is on its way.
    Running,
    /// Another run of the job, which a tick started, came first; nothing of this one runs.
    Skipped {
        /// That run.
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

/// A run that a runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownExecution {
    /// Its id.
    pub id: ExecutionId,
    /// Its origin, if the runtime started it on schedule.
    pub scheduled: Option<ScheduledExecution>,
}

/// A run that a tick started without this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledExecution {
    /// The job.
    pub job_id: JobId,
    /// The generation that it runs, as far as it says.
    pub generation: Option<i64>,
    /// The tick.
    pub tick: jiff::Timestamp,
    /// When it was made.
    pub created_at: jiff::Timestamp,
}

/// A change outside of the loops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names of jobs whose deployment may not be what it was, or whose name was freed.
    pub deployments: Vec<String>,
    /// Whether there are runs that ticks started.
    pub runs: bool,
    /// Whether the place answers again after it did not.
    pub recovered: bool,
}

/// The last state of an execution that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It was handed over.
    Submitted,
    /// Something keeps it from starting.
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

/// A stage of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Something keeps it from starting.
    Held(Problem),
    /// Its process was started at this instant.
    Running(jiff::Timestamp),
    /// Nothing of it is left.
    Ended(ExecutionEnd),
    /// The runtime knows no such run: it was never handed over, or its folder was removed.
    Unknown,
}
