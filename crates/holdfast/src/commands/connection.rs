//! The Control Service that a command of a user speaks to: its URL, the user's token and team.
//!
//! Flags come first, then the variables of Holdfast, those of the `vdk` client, and its files in the user's home folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use clap::{Arg, ArgMatches, value_parser};
use clients::control_service::{CallError, ControlService};
use model::clock::Clock;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::config::{CLIENT_VARIABLES, ProcessEnvironment};

/// The service without any configuration.
const DEFAULT_URL: &str = "http://127.0.0.1:8092";

/// The folder of the `vdk` client's files, and the files.
const VDK_FOLDER: &str = ".vdk.internal";
const VDK_CONFIGURATION: &str = "vdk-configuration.ini";
const VDK_CREDENTIALS: &str = "vdk-cred.json";

/// The largest file of the `vdk` client, and of a job's configuration, that is read.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// The flags of a command that speaks to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConnectionFlags {
    url: Option<String>,
    team: Option<String>,
    token_file: Option<PathBuf>,
}

impl ConnectionFlags {
    /// The flags for the command line.
    pub(super) fn args() -> [Arg; 3] {
        [
            Arg::new("url").long("url").value_name("URL").help(
                "The service [env: HOLDFAST_URL, VDK_CONTROL_SERVICE_REST_API_URL] \
                 [default: that of `vdk set-default`, or http://127.0.0.1:8092]",
            ),
            Arg::new("team").long("team").short('t').value_name("TEAM").help(
                "The team of the job [env: HOLDFAST_TEAM] [default: that of `vdk set-default`, or the job's own]",
            ),
            Arg::new("token-file").long("token-file").value_name("FILE").value_parser(value_parser!(PathBuf)).help(
                "File that holds only an access token [env: HOLDFAST_TOKEN has the token itself] \
                 [default: that of `vdk login`]",
            ),
        ]
    }

    /// Those that were given.
    pub(super) fn of(matches: &ArgMatches) -> Self {
        Self {
            url: matches.get_one("url").cloned(),
            team: matches.get_one("team").cloned(),
            token_file: matches.get_one("token-file").cloned(),
        }
    }

    /// Finds out which service is meant, without a request to it.
    ///
    /// # Errors
    /// If the URL is not valid, or the file of the token can't be read.
    pub(super) fn connect(&self, environment: &ProcessEnvironment, clock: &dyn Clock) -> anyhow::Result<Connection> {
        let text = |name: &str| environment.variable(name).and_then(|value| value.to_str()).map(str::to_owned);
        let [url_variable, team_variable, token_variable] = CLIENT_VARIABLES;
        let folder = environment.variable("VDK_BASE_CONFIG_FOLDER").map(PathBuf::from).or(environment.home.clone());
        let folder = folder.map(|folder| folder.join(VDK_FOLDER));
        let configuration = folder.as_deref().and_then(|folder| read(&folder.join(VDK_CONFIGURATION)));
        let of_vdk = |option: &str| option_of(configuration.as_deref()?, "defaults", option);
        let url = self
            .url
            .clone()
            .or_else(|| text(url_variable))
            .or_else(|| text("VDK_CONTROL_SERVICE_REST_API_URL"))
            .or_else(|| of_vdk("rest-api-url"))
            .unwrap_or_else(|| DEFAULT_URL.to_owned());
        let token = match &self.token_file {
            Some(file) => Some(
                fs::read_to_string(file)
                    .with_context(|| format!("The token file {} can't be read.", file.display()))?
                    .trim()
                    .to_owned(),
            ),
            None => text(token_variable).or_else(|| token_of_vdk(folder.as_deref()?, clock)),
        };
        let token = token.filter(|token| !token.is_empty()).map(SecretString::from);
        let service = ControlService::new(&url, token).map_err(|why| {
            anyhow!("The service can't be used: {why}. Name it with --url, for example {DEFAULT_URL}.")
        })?;
        let named_team = self.team.clone().or_else(|| text(team_variable));
        Ok(Connection { service, named_team, default_team: of_vdk("team-name") })
    }
}

/// The service and the team.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) service: ControlService,
    /// By a flag or a variable.
    pub(super) named_team: Option<String>,
    /// That of `vdk set-default`.
    pub(super) default_team: Option<String>,
}

/// A job as the list of jobs has it.
#[derive(Debug, Clone)]
pub(super) struct JobPlace {
    pub(super) team: String,
    pub(super) job: String,
    /// When its schedule starts it the next time, in seconds since 1970.
    pub(super) next_start: Option<i64>,
    /// Its cron expression.
    pub(super) cron: Option<String>,
}

impl Connection {
    /// The team that the user named.
    pub(super) fn team(&self) -> Option<&str> {
        self.named_team.as_deref().or(self.default_team.as_deref())
    }

    /// Finds a job by its name; its team is that of the user, or else the job's own.
    ///
    /// # Errors
    /// If the service can't be reached or rejects the request, or the user may see no such job.
    pub(super) async fn find(&self, job: &str) -> anyhow::Result<JobPlace> {
        const QUERY: &str = "query($filter: [Predicate]) { jobs(pageNumber: 1, pageSize: 100, filter: $filter) { content { \
                             jobName config { team schedule { scheduleCron nextRunEpochSeconds } } } } }";
        let filter = json!([{ "property": "jobName", "pattern": job }]);
        let body = json!({ "query": QUERY, "variables": { "filter": filter } });
        let reply = self.service.post(&["data-jobs", "graphql"], &[], &body).await?;
        if let Some(message) = reply.body["errors"][0]["message"].as_str() {
            return Err(anyhow!("The job {job} can't be looked up: {message}"));
        }
        let listed = reply.body["data"]["jobs"]["content"].as_array().cloned().unwrap_or_default();
        let same = |found: &&Value| {
            let team = found["config"]["team"].as_str();
            found["jobName"] == job && self.team().is_none_or(|wanted| team == Some(wanted))
        };
        let found = listed.iter().find(same).with_context(|| {
            let team = self.team().map(|team| format!(" of the team {team}")).unwrap_or_default();
            format!(
                "The service at {} has no job {job}{team} that you may see. List your jobs with `vdk list`.",
                self.service.url()
            )
        })?;
        let config = &found["config"];
        Ok(JobPlace {
            team: config["team"].as_str().unwrap_or_default().to_owned(),
            job: job.to_owned(),
            next_start: config["schedule"]["nextRunEpochSeconds"].as_i64().filter(|seconds| *seconds > 0),
            cron: config["schedule"]["scheduleCron"].as_str().filter(|cron| !cron.is_empty()).map(str::to_owned),
        })
    }
}

impl JobPlace {
    /// A path below the job.
    pub(super) fn path<'a>(&'a self, below: &[&'a str]) -> Vec<&'a str> {
        let mut path = vec!["data-jobs", "for-team", self.team.as_str(), "jobs", self.job.as_str()];
        path.extend_from_slice(below);
        path
    }

    /// The rollout of its deployment; absent without a deployment.
    ///
    /// # Errors
    /// If the service can't be reached or rejects the request.
    pub(super) async fn rollout(&self, service: &ControlService) -> Result<Option<Value>, CallError> {
        match service.get(&self.path(&["deployments", "production", "rollout"]), &[]).await {
            Ok(rollout) => Ok(Some(rollout)),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The text of a small file, if it can be read.
pub(super) fn read(path: &Path) -> Option<String> {
    let small = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= FILE_MAX_BYTES);
    small.then(|| fs::read_to_string(path).ok()).flatten()
}

/// An option of an INI file as Python's `configparser` writes it.
pub(super) fn option_of(text: &str, section: &str, option: &str) -> Option<String> {
    let mut inside = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name == section;
        } else if inside
            && let Some((name, value)) = line.split_once(['=', ':'])
            && name.trim().eq_ignore_ascii_case(option)
        {
            return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    None
}

/// The access token of `vdk login`, unless it is expired.
fn token_of_vdk(folder: &Path, clock: &dyn Clock) -> Option<String> {
    let credentials: Value = serde_json::from_str(&read(&folder.join(VDK_CREDENTIALS))?).ok()?;
    let expires = credentials["access_token_expiration_time"].as_f64().unwrap_or(0.0);
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let now = clock.now().as_second() as f64;
    (expires > now).then(|| credentials["access_token"].as_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use clock::SystemClock;

    use super::*;

    fn environment(home: &Path, variables: &[(&str, &str)]) -> ProcessEnvironment {
        ProcessEnvironment {
            variables: variables.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            folder: home.into(),
            home: Some(home.into()),
            cores: 1,
        }
    }

    #[test]
    fn a_flag_wins_over_variables_over_the_files_of_vdk_over_the_default() {
        let home = tempfile::tempdir().unwrap();
        let connect = |flags: &ConnectionFlags, variables: &[(&str, &str)]| {
            let connection = flags.connect(&environment(home.path(), variables), &SystemClock).unwrap();
            (connection.service.url().to_owned(), connection.team().unwrap_or_default().to_owned())
        };
        let none = ConnectionFlags::default();
        assert_eq!(connect(&none, &[]), (DEFAULT_URL.to_owned(), String::new()));
        fs::create_dir(home.path().join(VDK_FOLDER)).unwrap();
        let file = "[defaults]\nrest-api-url = https://file:1\nteam-name = team of file\n";
        fs::write(home.path().join(VDK_FOLDER).join(VDK_CONFIGURATION), file).unwrap();
        assert_eq!(connect(&none, &[]), ("https://file:1".to_owned(), "team of file".to_owned()));
        let vdk = ("VDK_CONTROL_SERVICE_REST_API_URL", "https://vdk:1");
        assert_eq!(connect(&none, &[vdk]).0, "https://vdk:1");
        let own = [vdk, ("HOLDFAST_URL", "https://own:1"), ("HOLDFAST_TEAM", "own")];
        assert_eq!(connect(&none, &own), ("https://own:1".to_owned(), "own".to_owned()));
        let flags = ConnectionFlags { url: Some("https://flag:1".into()), team: Some("flag".into()), token_file: None };
        assert_eq!(connect(&flags, &own), ("https://flag:1".to_owned(), "flag".to_owned()));
    }

    #[test]
    fn the_token_of_vdk_is_used_until_it_expires() {
        let home = tempfile::tempdir().unwrap();
        let now = SystemClock.now().as_second();
        for (expires, used) in [(now + 60, Some("secret")), (now - 1, None)] {
            let text = json!({ "access_token": "secret", "access_token_expiration_time": expires, "api_token": "x" });
            fs::write(home.path().join(VDK_CREDENTIALS), text.to_string()).unwrap();
            assert_eq!(token_of_vdk(home.path(), &SystemClock).as_deref(), used);
        }
    }

    #[test]
    fn options_of_ini_files_are_read_by_section() {
        let text = "[owner]\nteam = one\n; team = two\n[job]\nteam: three\npython_version = 3.11\nempty =\n";
        assert_eq!(option_of(text, "owner", "team").as_deref(), Some("one"));
        assert_eq!(option_of(text, "job", "TEAM").as_deref(), Some("three"));
        assert_eq!(option_of(text, "job", "python_version").as_deref(), Some("3.11"));
        assert_eq!((option_of(text, "job", "empty"), option_of(text, "none", "team")), (None, None));
    }
}
