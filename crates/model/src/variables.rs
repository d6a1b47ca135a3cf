//! The environment variables of executions.

use std::collections::BTreeMap;

use crate::{
    Problem,
    deployment::Deployment,
    name::{ExecutionId, JobName, TeamName},
};

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
    /// All variables of a process whose environment this service sets.
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

/// The form of the Kerberos principals of jobs: a text in which `{job}` stands for the name of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalPattern(String);

impl PrincipalPattern {
    /// The default, which is that of upstream.
    pub const DEFAULT: &'static str = "pa__view_{job}";

    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence for the operator when two jobs would have one principal, or when it can be none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.matches("{job}").count() != 1 {
            return Err("it must have {job} in it, once: each job has a principal of its own.");
        }
        if text.replace("{job}", "").contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '{' | '}')) {
            return Err("it must not have spaces, control characters or other braces.");
        }
        Ok(Self(text.to_owned()))
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The principal of a job.
    fn of(&self, job: &JobName) -> String {
        self.0.replace("{job}", job.as_str())
    }
}

impl Default for PrincipalPattern {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

/// The variables that the operator sets for every deployed job.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct JobOptions {
    /// The URL of the API as jobs reach it.
    pub rest_api_url: String,
    /// The URL where a job exchanges its credential for a token; absent when authentication is off.
    pub token_url: Option<String>,
    /// The form of the Kerberos principals of jobs.
    pub principal_pattern: PrincipalPattern,
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
            .field("principal_pattern", &self.principal_pattern)
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

/// The variables with a job's credential and the URL where the job exchanges it for a token. None when
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

/// The environment variables that a deployed job expects and that all executions share, beside those that depend on
/// the runtime (folders, files). The last of system, options file and job configuration wins. `keyed_hash` hashes a text
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
    set("JOB_NAME", job.to_string());
    set("VDK_JOB_GITHASH", deployment.job_version.to_string());
    set("VDK_KEYTAB_PRINCIPAL", options.principal_pattern.of(job));
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

/// The environment variables of one execution; the operator's options and the deployment override them.
///
/// `VDK_EXECUTION_ID` is set as well as `VDK_ATTEMPT_ID`: the `vdk` client skips its own run when the id that it makes of
/// the attempt does not start with the execution's.
pub fn run_variables(execution: &ExecutionId, op_id: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("VDK_EXECUTION_ID".to_owned(), execution.to_string()),
        ("VDK_ATTEMPT_ID".to_owned(), format!("{execution}-local")),
        ("VDK_OP_ID".to_owned(), op_id.to_owned()),
        ("VDK_OP_ID_OVERRIDE".to_owned(), op_id.to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{name::JobId, python::PythonVersion};

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
    fn a_job_knows_its_name_and_its_source_by_upstreams_variables() {
        let (job, team) = (JobName::parse("daily-sales").unwrap(), TeamName::parse("a team").unwrap());
        let plain = variables(&JobOptions::default(), &job, &team, &deployment(), |_| String::new()).plain;
        assert_eq!((plain["JOB_NAME"].as_str(), plain["VDK_JOB_GITHASH"].as_str()), ("daily-sales", &*"a".repeat(40)));
    }

    #[test]
    fn a_job_has_the_principal_of_the_operators_pattern() {
        let (job, team) = (JobName::parse("daily-sales").unwrap(), TeamName::parse("a team").unwrap());
        let principal = |options: &JobOptions| {
            variables(options, &job, &team, &deployment(), |_| String::new()).plain["VDK_KEYTAB_PRINCIPAL"].clone()
        };
        assert_eq!(principal(&JobOptions::default()), "pa__view_daily-sales");
        let principal_pattern = PrincipalPattern::parse("jobs/{job}@EXAMPLE.COM").unwrap();
        assert_eq!(
            principal(&JobOptions { principal_pattern, ..JobOptions::default() }),
            "jobs/daily-sales@EXAMPLE.COM"
        );
        for bad in ["", "jobs", "{job}-{job}", "a {job}", "{job}{team}", "%(data_job)"] {
            assert!(PrincipalPattern::parse(bad).is_err(), "{bad}");
        }
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
}
