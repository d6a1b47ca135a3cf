//! The released client, as a person types it.

use std::{path::PathBuf, process::Stdio, sync::OnceLock, time::Duration};

use devtools::client::Client;
use serde_json::Value;
use tempfile::TempDir;

/// No command of the client takes longer, but for one that hangs in its own retries.
const LONGEST: Duration = Duration::from_secs(120);

/// The client, installed once.
pub fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| devtools::client::install().expect("the stock client"))
}

/// Someone at a terminal: a service, a team, and a home folder of their own.
#[derive(Debug)]
pub struct Vdk {
    url: String,
    team: String,
    home: TempDir,
    variables: Vec<(String, String)>,
}

/// The output of a command.
#[derive(Debug, Clone)]
pub struct Said {
    /// The arguments.
    pub command: String,
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its output.
    pub out: String,
    /// Its error output.
    pub err: String,
}

impl Vdk {
    /// A client of the service at `url`.
    pub fn new(url: &str, team: &str) -> Self {
        let home = tempfile::Builder::new().prefix("holdfast-home-").tempdir().expect("a temporary folder");
        Self { url: url.into(), team: team.into(), home, variables: Vec::new() }
    }

    /// With a variable in the environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// A folder that is this person's own.
    pub fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    /// Runs `vdk <arguments> -t <team> --rest-api-url <url>`.
    pub async fn run(&self, arguments: &[&str]) -> Said {
        self.run_bare(&[arguments, &["-t", &self.team, "--rest-api-url", &self.url]].concat()).await
    }

    /// Runs `vdk <arguments>`.
    pub async fn run_bare(&self, arguments: &[&str]) -> Said {
        let output = tokio::process::Command::new(client().vdk())
            .args(arguments)
            .envs(Client::variables(self.home.path()))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env_remove("VDK_CONTROL_SERVICE_REST_API_URL")
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let command = format!("vdk {}", arguments.join(" "));
        let output = tokio::time::timeout(LONGEST, output)
            .await
            .unwrap_or_else(|_| panic!("no end within {LONGEST:?}: {command}"))
            .expect("the client");
        Said {
            command,
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that must succeed, and gives its output.
    pub async fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).await.ok().out
    }

    /// Runs a command that must succeed with `-o json`.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let said = self.run(&[arguments, &["-o", "json"]].concat()).await.ok();
        serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("no JSON: {said:#?}"))
    }

    /// Deploys a job's folder and returns the version that the client reports.
    pub async fn deploy(&self, job: &crate::job::Job) -> String {
        let path = job.path();
        let said = self.json(&["deploy", "-n", job.name(), "-p", &path.to_string_lossy(), "-r", "a reason"]).await;
        said["job_version"].as_str().expect("job_version").to_owned()
    }

    /// Starts a run and gives its id.
    pub async fn start(&self, job: &str) -> String {
        let said = self.json(&["execute", "--start", "-n", job]).await;
        said["execution_id"].as_str().expect("execution_id").to_owned()
    }

    /// The execution as the client shows it.
    pub async fn execution(&self, job: &str, id: &str) -> Value {
        self.json(&["execute", "--show", "-n", job, "-i", id]).await[0].clone()
    }

    /// The log as the client shows it.
    pub async fn log(&self, job: &str, id: &str) -> String {
        self.ok(&["execute", "--logs", "-n", job, "-i", id]).await
    }
}

impl Said {
    /// Itself, when the command succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Fails unless the command failed with this exit code and said all of these, without a traceback.
    ///
    /// # Panics
    /// When it did not.
    pub fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:#?}");
        for part in parts {
            assert!(self.err.contains(part) || self.out.contains(part), "it does not say {part:?}: {self:#?}");
        }
        assert!(!self.err.contains("Traceback"), "{self:#?}");
    }
}
