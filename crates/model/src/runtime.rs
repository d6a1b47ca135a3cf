//! What the synchronizer asks of the place where jobs run.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    BoxFuture, Problem,
    deployment::{Deployment, PythonVersion},
    execution::RunEnd,
    lock::{Lock, LockKey},
    name::{ExecutionId, JobId, JobName, TeamName},
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
    fn site(&self) -> Option<&str> {
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

    /// A fingerprint of all of the configuration that goes into this deployment. A changed one deploys anew.
    fn fingerprint(&self, blueprint: &Blueprint) -> String;

    /// What exists of a deployment.
    fn observe<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Observed, Problem>>;

    /// Makes the deployment exist as wanted, so that it can be started. Answers what it needs to know what it made from what
    /// others made of it.
    fn apply<'a>(&'a self, target: &'a Target, wanted: &'a Wanted) -> BoxFuture<'a, Result<Option<Mark>, Problem>>;

    /// Everything that exists of deployments and says of itself that this service made it, whether or not a row knows it.
    /// Nothing where a deployment is its row alone.
    fn deployments(&self) -> BoxFuture<'_, Result<Vec<KnownDeployment>, Problem>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Removes what exists of a deployment. What runs goes on.
    fn remove<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<(), Problem>>;

    /// Changes outside of the database may be begun for so long from now: for that time nobody else leads. Zero: none any
    /// more. A runtime on one machine, which one instance has to itself, need not care.
    fn may_write_for(&self, _time: Duration) {}

    /// Starts a run. Done when its supervisor has taken it over; from then on it survives the service.
    fn start<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Started, Problem>>;

    /// Asks a run to end. Its end shows in [`Runtime::next`].
    fn cancel<'a>(&'a self, id: &'a ExecutionId) -> BoxFuture<'a, Result<(), Problem>>;

    /// Every run that the runtime knows and that was not forgotten: active ones, and ended ones not yet recorded.
    fn runs(&self) -> BoxFuture<'_, Result<Vec<KnownRun>, Problem>>;

    /// Waits until something changed that the loops did not do, and tells what. What exists at the beginning is no news.
    fn changes(&self) -> BoxFuture<'_, Changes> {
        Box::pin(std::future::pending())
    }

    /// Waits for the next stage of a run: from `seen` to running, from running to its end.
    fn next<'a>(&'a self, id: &'a ExecutionId, seen: &'a Seen) -> BoxFuture<'a, Result<Stage, Problem>>;

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
    /// What was reached is made of this.
    pub artifact: Option<Artifact>,
    /// What the runtime said when it made it.
    pub mark: Option<Mark>,
}

/// What a runtime remembers of an object that it made. Its words are the runtime's own; rows keep them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark(String);

impl Mark {
    /// The words as they are stored.
    pub fn new(words: String) -> Self {
        Self(words)
    }

    /// The words as they are stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a deployment's runs are made of beside its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Artifact {
    /// Packages, which are installed where the run is.
    Packages(LockKey),
    /// An image by its full name, which has packages and source.
    Image(String),
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
    /// It is there, and somebody changed it.
    Changed {
        /// Who, as far as it says.
        by: Option<String>,
    },
    /// Something stands in its place that this service did not make.
    Foreign {
        /// Who made it, as far as it says.
        owner: String,
    },
}

/// All that the rows and the operator say of a deployment, before anything is made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// The job's name.
    pub job_name: JobName,
    /// The job's team.
    pub team: TeamName,
    /// Every field.
    pub deployment: Deployment,
    /// The environment variables that are the same for each of its runs; see [`variables`].
    pub variables: Variables,
    /// The name of the secret with the team's OAuth application, where the runtime mounts it; see
    /// [`Runtime::mounts_team_secrets`].
    pub team_secret: Option<String>,
}

/// The environment variables of a deployment, by where their values come from.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// Those of the service and of the deployment itself.
    pub plain: BTreeMap<String, String>,
    /// Those of the operator's options file: their values are secrets. No name is in `plain` too.
    pub options: BTreeMap<String, String>,
    /// A keyed hash of `options`; absent when there are none. It changes with every name and value, and tells nothing of
    /// them to those who don't have the key.
    pub options_hash: Option<String>,
}

impl Variables {
    /// All of them, for a process that gets its environment from this service.
    pub fn all(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.plain.iter().chain(&self.options).map(|(name, value)| (name.clone(), value.clone()))
    }
}

// Values of the options file are secrets.
impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Variables")
            .field("plain", &self.plain)
            .field("options", &self.options.keys())
            .finish_non_exhaustive()
    }
}

/// A deployment to make.
#[derive(Clone, PartialEq)]
pub struct Wanted {
    /// What it is made from.
    pub blueprint: Blueprint,
    /// See [`crate::plan::inputs_hash`].
    pub inputs_hash: String,
    /// What its runs are made of.
    pub artifact: Artifact,
    /// Its packages, where they are installed by the runtime.
    pub lock: Option<Lock>,
    /// The variables by which its runs are known to this service; see [`token_variables`]. They are secrets.
    pub token: BTreeMap<String, String>,
    /// Ticks before this instant are not made up for.
    pub ticks_after: jiff::Timestamp,
}

// The token is a secret.
impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted")
            .field("blueprint", &self.blueprint)
            .field("inputs_hash", &self.inputs_hash)
            .field("artifact", &self.artifact)
            .finish_non_exhaustive()
    }
}

/// A run to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: ExecutionId,
    /// What it runs.
    pub blueprint: Blueprint,
    /// What it is made of beside its source.
    pub artifact: Artifact,
    /// Its source as a ZIP archive whose top folder has the job's name; empty when the runtime takes none.
    pub archive: Vec<u8>,
    /// `--arguments` as a JSON object.
    pub arguments: Option<String>,
    /// Who started it.
    pub started_by: String,
    /// The operation id of the request.
    pub op_id: String,
    /// The environment variables of this run, beside those of the blueprint; see [`run_variables`]. Some are secrets.
    pub variables: BTreeMap<String, String>,
    /// How long it may take, in seconds.
    pub deadline_seconds: u64,
    /// How often it is tried again after a failure.
    pub backoff_limit: u32,
}

/// What became of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It is on its way.
    Running,
    /// Another run of the job, which a tick started, came first; nothing of this one runs.
    SteppedAside {
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
pub struct KnownRun {
    /// Its id.
    pub id: ExecutionId,
    /// Where it comes from, when the runtime started it by itself.
    pub ticked: Option<Ticked>,
}

/// A run that a tick started without this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticked {
    /// The job.
    pub job_id: JobId,
    /// The generation that it runs, as far as it says.
    pub generation: Option<i64>,
    /// The tick.
    pub tick: jiff::Timestamp,
    /// When it was made.
    pub created_at: jiff::Timestamp,
}

/// What changed without the loops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names of jobs whose deployment may not be what it was, or whose name was freed.
    pub deployments: Vec<String>,
    /// Whether there are runs that ticks started.
    pub runs: bool,
    /// Whether the place answers again after it did not.
    pub recovered: bool,
}

/// What of a run was seen already.
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
#[derive(Clone, Default, PartialEq, Eq)]
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

// Values of the options file are secrets.
impl std::fmt::Debug for JobOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by_job: Vec<_> = self.by_job.iter().map(|(job, options)| (job, options.keys())).collect();
        f.debug_struct("JobOptions")
            .field("rest_api_url", &self.rest_api_url)
            .field("token_url", &self.token_url)
            .field("default", &self.default.keys())
            .field("by_job", &by_job)
            .finish()
    }
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

/// The environment variables that a deployed job expects and that are the same for each run, beside those that depend on
/// where it runs (folders, files). The last of system, options file and job configuration wins. `keyed_hash` hashes a text
/// with a key of this service.
pub fn variables(
    options: &JobOptions,
    job: &JobName,
    team: &TeamName,
    deployment: &Deployment,
    keyed_hash: impl FnOnce(&str) -> String,
) -> Variables {
    let mut plain = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        plain.insert(name.to_owned(), value);
    };
    set("VDK_CONTROL_SERVICE_REST_API_URL", options.rest_api_url.clone());
    set("VDK_JOB_TEAM", team.to_string());
    set("VDK_JOB_NAME", job.to_string());
    set("VDK_KEYTAB_PRINCIPAL", format!("pa__view_{job}"));
    set("VDK_KEYTAB_FILENAME", "keytab".into());
    set("LOG_CONFIG", "CLOUD".into());
    set("VDK_LOG_CONFIG", "CLOUD".into());
    set("MONITORING_ENABLED", "true".into());
    set("PYTHONUNBUFFERED", "1".into());
    let mut of_options = options.default.clone();
    of_options.extend(options.by_job.get(job.as_str()).into_iter().flatten().map(|(n, v)| (n.clone(), v.clone())));
    plain.retain(|name, _| !of_options.contains_key(name));
    let mut set = |name: &str, value: String| {
        of_options.remove(name);
        plain.insert(name.to_owned(), value);
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
    // JSON keeps names and values apart, and a map has one order.
    let options_hash = (!of_options.is_empty())
        .then(|| keyed_hash(&serde_json::to_string(&of_options).expect("a map of texts can be written as JSON")));
    Variables { plain, options: of_options, options_hash }
}

/// The environment variables of one run; the operator's options and the deployment go over them.
///
/// `VDK_EXECUTION_ID` is set as well as `VDK_ATTEMPT_ID`: the stock client skips its own run when the id that it makes of
/// the attempt does not start with the execution's.
pub fn run_variables(execution: &ExecutionId, op_id: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("VDK_EXECUTION_ID".to_owned(), execution.to_string()),
        ("VDK_ATTEMPT_ID".to_owned(), format!("{execution}-local")),
        ("VDK_OP_ID".to_owned(), op_id.to_owned()),
        ("VDK_OP_ID_OVERRIDE".to_owned(), op_id.to_owned()),
    ])
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

    fn deployment() -> Deployment {
        let at = jiff::Timestamp::UNIX_EPOCH;
        Deployment {
            job_id: JobId(uuid::Uuid::nil()),
            generation: 1,
            job_version: crate::source::SourceVersion::parse(&"a".repeat(40)).unwrap(),
            python_version_asked: None,
            python_version: PythonVersion { major: 3, minor: 11 },
            vdk_version_asked: None,
            vdk_version: "0.2".into(),
            enabled: true,
            mode: crate::deployment::Mode::Release,
            resources: crate::resources::Resources::default(),
            schedule_cron: None,
            schedule_since: at,
            contacts: crate::job::Contacts::default(),
            db_default_type: Some("trino".into()),
            enable_execution_notifications: true,
            deployed_by: "someone".into(),
            deployed_at: at,
        }
    }

    #[test]
    fn values_of_the_options_file_are_kept_apart_and_hashed_with_a_key() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let options = JobOptions {
            default: map(&[("PASSWORD", "hunter2"), ("VDK_JOB_TEAM", "of options"), ("VDK_DB_DEFAULT_TYPE", "impala")]),
            by_job: BTreeMap::from([("daily-sales".to_owned(), map(&[("PASSWORD", "of the job")]))]),
            ..JobOptions::default()
        };
        let of = |options: &JobOptions| {
            let (job, team) = (JobName::parse("daily-sales").unwrap(), TeamName::parse("a team").unwrap());
            variables(options, &job, &team, &deployment(), |text| format!("keyed {text}"))
        };
        let all = of(&options);
        assert_eq!(all.options, map(&[("PASSWORD", "of the job"), ("VDK_JOB_TEAM", "of options")]));
        // The job's own configuration goes over the options file, and no name is in both.
        assert_eq!(all.plain["VDK_DB_DEFAULT_TYPE"], "trino");
        assert!(!all.plain.contains_key("VDK_JOB_TEAM"));
        let hashed = r#"keyed {"PASSWORD":"of the job","VDK_JOB_TEAM":"of options"}"#;
        assert_eq!(all.options_hash.as_deref(), Some(hashed));
        assert_eq!(of(&JobOptions::default()).options_hash, None);
        for printed in [format!("{all:?}"), format!("{options:?}")] {
            assert!(printed.contains("PASSWORD") && !printed.contains("hunter2") && !printed.contains("of the job"));
        }
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
