//! What the synchronizer asks of the place where jobs run.

use std::collections::BTreeMap;

use crate::{
    BoxFuture, Problem,
    deployment::{Deployment, PythonVersion},
    execution::{ExecutionRevision, RunEnd},
    lock::{Lock, LockKey},
    name::{ExecutionId, JobId, JobName, TeamName},
};

/// A place where jobs run: processes of this machine, or a cluster.
///
/// Every method may be called again with the same arguments and then changes nothing. An error is a [`Problem`] whose
/// fault says whether trying again helps.
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// The name of the runtime as configuration writes it.
    fn name(&self) -> &'static str;

    /// The place whose runs it sees, when another instance of the service may see others.
    fn site(&self) -> Option<&str> {
        None
    }

    /// Whether ticks start runs without the service; if not, the synchronizer's tick loop does.
    fn fires_ticks(&self) -> bool;

    /// How many runs it takes at once; the rest wait as SUBMITTED.
    fn parallel_runs_max(&self) -> usize;

    /// A fingerprint of the configuration that goes into what it deploys. A changed one deploys anew.
    fn fingerprint(&self) -> String;

    /// What exists of a deployment.
    fn observe<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Observed, Problem>>;

    /// Makes the deployment exist as wanted, so that it can be started.
    fn apply<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<(), Problem>>;

    /// Removes what exists of a deployment. What runs goes on.
    fn remove<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<(), Problem>>;

    /// Starts a run. Done when its supervisor has taken it over; from then on it survives the service.
    fn start<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<(), Problem>>;

    /// Asks a run to end. Its end shows in [`Runtime::next`].
    fn cancel<'a>(&'a self, id: &'a ExecutionId) -> BoxFuture<'a, Result<(), Problem>>;

    /// Every run that the runtime knows and that was not forgotten: active ones, and ended ones not yet recorded.
    fn runs(&self) -> BoxFuture<'_, Result<Vec<ExecutionId>, Problem>>;

    /// Waits for the next stage of a run: from `seen` to running, from running to its end.
    fn next<'a>(&'a self, id: &'a ExecutionId, seen: Seen) -> BoxFuture<'a, Result<Stage, Problem>>;

    /// The log of a run so far. `None` when the runtime knows no such run.
    fn log<'a>(&'a self, id: &'a ExecutionId) -> BoxFuture<'a, Result<Option<LogChunk>, Problem>>;

    /// Drops what is left of a run whose end and log are stored.
    fn forget<'a>(&'a self, id: &'a ExecutionId) -> BoxFuture<'a, Result<(), Problem>>;

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
    /// The lock of what was reached.
    pub lock_key: Option<LockKey>,
}

/// What was found of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Nothing.
    Missing,
    /// It is there, made from inputs of this hash.
    Present {
        /// See [`crate::plan::inputs_hash`].
        inputs_hash: String,
    },
    /// Something stands in its place that this service did not make.
    Foreign {
        /// Who made it, as far as it says.
        owner: String,
    },
}

/// A deployment to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The job's name.
    pub job_name: JobName,
    /// The job's team.
    pub team: TeamName,
    /// Every field.
    pub deployment: Deployment,
    /// See [`crate::plan::inputs_hash`].
    pub inputs_hash: String,
    /// Its packages.
    pub lock: Lock,
}

/// A run to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: ExecutionId,
    /// The job.
    pub job_id: JobId,
    /// The job's name.
    pub job_name: JobName,
    /// The job's team.
    pub team: TeamName,
    /// What it runs.
    pub revision: ExecutionRevision,
    /// The packages it runs with.
    pub lock_key: LockKey,
    /// Its source as a ZIP archive whose top folder has the job's name.
    pub archive: Vec<u8>,
    /// `--arguments` as a JSON object.
    pub arguments: Option<String>,
    /// The environment variables of a deployed job; see [`variables`].
    pub variables: BTreeMap<String, String>,
    /// How long it may take, in seconds.
    pub deadline_seconds: u64,
    /// How often it is tried again after a failure.
    pub backoff_limit: u32,
}

/// What of a run was seen already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was handed over.
    Submitted,
    /// Its process was started.
    Running,
}

/// A stage of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Its process was started at this instant.
    Running(jiff::Timestamp),
    /// Nothing of it is left.
    Ended(RunEnd),
    /// The runtime knows no such run: it was never handed over, or its folder was removed.
    Unknown,
}

/// A piece of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogChunk {
    /// The text, UTF-8 with what is not replaced.
    pub text: String,
    /// Bytes left out of the middle because the log grew past its limit.
    pub omitted_bytes: u64,
}

impl LogChunk {
    /// The last `lines` lines.
    pub fn tail(&self, lines: usize) -> &str {
        let text = self.text.strip_suffix('\n').unwrap_or(&self.text);
        if lines == 0 {
            return "";
        }
        match text.rmatch_indices('\n').nth(lines - 1) {
            Some((at, _)) => &self.text[at + 1..],
            None => &self.text,
        }
    }
}

/// What the operator gives every deployed job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobOptions {
    /// The address of this service's API as a job reaches it.
    pub rest_api_url: String,
    /// Where a job exchanges its credential for a token; absent when authentication is off.
    pub token_url: Option<String>,
    /// The options for every job (`[default]` of the options file).
    pub default: BTreeMap<String, String>,
    /// The options for one job by name (`[job-name]` of the options file).
    pub by_job: BTreeMap<String, BTreeMap<String, String>>,
}

impl JobOptions {
    /// Whether the operator gives this job a token of its own.
    fn has_token(&self, job: &JobName) -> bool {
        let own = self.by_job.get(job.as_str()).into_iter();
        own.chain([&self.default]).any(|options| {
            options.keys().any(|name| {
                let name = name.to_ascii_uppercase();
                TOKEN_OPTIONS.contains(&name.strip_prefix("VDK_").unwrap_or(&name))
            })
        })
    }
}

/// The client's options for a token, which it takes with and without `VDK_` in front.
const TOKEN_OPTIONS: [&str; 2] = ["API_TOKEN", "API_TOKEN_AUTHORIZATION_URL"];

/// The variables by which a job is known to this service: its credential, and where it exchanges it for a token. None when
/// authentication is off, or when the operator's options give the job a token.
pub fn token_variables(
    options: &JobOptions,
    job: &JobName,
    credential: impl FnOnce() -> Result<String, Problem>,
) -> Result<BTreeMap<String, String>, Problem> {
    let Some(url) = options.token_url.as_ref().filter(|_| !options.has_token(job)) else { return Ok(BTreeMap::new()) };
    let mut variables = BTreeMap::from([
        ("VDK_API_TOKEN".to_owned(), credential()?),
        ("VDK_API_TOKEN_AUTHORIZATION_URL".to_owned(), url.clone()),
    ]);
    if url.starts_with("http://") {
        // The client's OAuth library refuses an address without encryption otherwise.
        variables.insert("OAUTHLIB_INSECURE_TRANSPORT".to_owned(), "1".to_owned());
    }
    Ok(variables)
}

/// The environment variables that a deployed job expects, beside those that depend on where it runs (folders, files).
///
/// `deployment` is what runs; the last of system, options file and job configuration wins. `VDK_EXECUTION_ID` is set as
/// well as `VDK_ATTEMPT_ID`: the stock client skips its own run when the id that it makes of the attempt does not start
/// with the execution's.
pub fn variables(
    options: &JobOptions,
    job: &JobName,
    team: &TeamName,
    deployment: &Deployment,
    execution: &ExecutionId,
    op_id: &str,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        all.insert(name.to_owned(), value);
    };
    set("VDK_CONTROL_SERVICE_REST_API_URL", options.rest_api_url.clone());
    set("VDK_EXECUTION_ID", execution.to_string());
    set("VDK_ATTEMPT_ID", format!("{execution}-local"));
    set("VDK_OP_ID", op_id.to_owned());
    set("VDK_OP_ID_OVERRIDE", op_id.to_owned());
    set("VDK_JOB_TEAM", team.to_string());
    set("VDK_JOB_NAME", job.to_string());
    set("VDK_KEYTAB_PRINCIPAL", format!("pa__view_{job}"));
    set("VDK_KEYTAB_FILENAME", "keytab".into());
    set("LOG_CONFIG", "CLOUD".into());
    set("VDK_LOG_CONFIG", "CLOUD".into());
    set("MONITORING_ENABLED", "true".into());
    set("PYTHONUNBUFFERED", "1".into());
    for (name, value) in options.default.iter().chain(options.by_job.get(job.as_str()).into_iter().flatten()) {
        all.insert(name.clone(), value.clone());
    }
    let mut set = |name: &str, value: String| {
        all.insert(name.to_owned(), value);
    };
    set("VDK_ENABLE_EXECUTION_NOTIFICATIONS", deployment.enable_execution_notifications.to_string());
    if let Some(db) = &deployment.db_default_type {
        set("VDK_DB_DEFAULT_TYPE", db.clone());
    }
    let contacts = &deployment.contacts;
    for (name, list) in [
        ("VDK_NOTIFIED_ON_JOB_SUCCESS", &contacts.notified_on_job_success),
        ("VDK_NOTIFIED_ON_JOB_FAILURE_PLATFORM_ERROR", &contacts.notified_on_job_failure_platform_error),
        ("VDK_NOTIFIED_ON_JOB_FAILURE_USER_ERROR", &contacts.notified_on_job_failure_user_error),
        ("VDK_NOTIFIED_ON_JOB_DEPLOY", &contacts.notified_on_job_deploy),
    ] {
        if !list.is_empty() {
            set(name, list.join(","));
        }
    }
    all
}

/// The Python versions that the machine or the configuration offers, ascending.
pub fn default_python(offered: &[PythonVersion], preferred: Option<PythonVersion>) -> Option<PythonVersion> {
    preferred.filter(|p| offered.contains(p)).or_else(|| offered.last().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_a_token_of_this_service_unless_authentication_is_off_or_the_operator_gives_one() {
        let job = JobName::parse("daily-sales").unwrap();
        let map = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        let names = |options: &JobOptions| -> Vec<String> {
            token_variables(options, &job, || Ok("secret".into())).unwrap().into_keys().collect()
        };
        let on = |url: &str| JobOptions { token_url: Some(url.to_owned()), ..JobOptions::default() };
        assert_eq!(names(&JobOptions::default()), Vec::<String>::new());
        assert_eq!(names(&on("https://a/t")), ["VDK_API_TOKEN", "VDK_API_TOKEN_AUTHORIZATION_URL"]);
        assert!(names(&on("http://a/t")).contains(&"OAUTHLIB_INSECURE_TRANSPORT".to_owned()));
        for name in ["VDK_API_TOKEN", "vdk_api_token", "API_TOKEN", "VDK_API_TOKEN_AUTHORIZATION_URL"] {
            assert!(names(&JobOptions { default: map(name), ..on("https://a/t") }).is_empty(), "{name}");
            let by_job = BTreeMap::from([("daily-sales".to_owned(), map(name))]);
            assert!(names(&JobOptions { by_job, ..on("https://a/t") }).is_empty(), "{name}");
        }
        let by_job = BTreeMap::from([("another-job".to_owned(), map("VDK_API_TOKEN"))]);
        assert_eq!(names(&JobOptions { by_job, ..on("https://a/t") }).len(), 2);
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let log = LogChunk { text: "one\ntwo\nthree\n".into(), omitted_bytes: 0 };
        assert_eq!(log.tail(1), "three\n");
        assert_eq!(log.tail(2), "two\nthree\n");
        assert_eq!(log.tail(3), log.text);
        assert_eq!(log.tail(99), log.text);
        assert_eq!(log.tail(0), "");
        assert_eq!(LogChunk::default().tail(5), "");
    }
}
