//! `holdfast demo`: a service on an empty data folder, and a data job from its creation to the log of its execution.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clients::control_service::ControlService;
use model::clock::SharedClock;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command as Process},
    signal::unix::{SignalKind, signal},
};

use super::client;
use crate::{
    config::{self, Flags, Loaded, ProcessEnvironment},
    progress::{during, say, seconds},
};

const JOB: &str = "hello-holdfast";
const TEAM: &str = "demo";

/// The files of the sample job.
const FILES: [(&str, &str); 4] = [
    ("10_count.py", include_str!("../demo_job/10_count.py")),
    ("20_report.py", include_str!("../demo_job/20_report.py")),
    ("config.ini", include_str!("../demo_job/config.ini")),
    ("requirements.txt", include_str!("../demo_job/requirements.txt")),
];

/// The beginning of the line in which a service names its URL.
const START_UP: &str = "Holdfast listens on ";

/// Settings of the environment that the demo follows: those of packages. Others are for a service of the user's own.
const FOLLOWED: [&str; 4] = ["HOLDFAST_INDEX_URL", "HOLDFAST_UV", "HOLDFAST_PYTHON_", "HOLDFAST_VDK_"];

const READY_MAX: Duration = Duration::from_secs(60);
const DEPLOYED_MAX: Duration = Duration::from_secs(600);
const EXECUTION_MAX: Duration = Duration::from_secs(300);
const STOP_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(300);
/// How many last lines of the service's log an error shows.
const LOG_LINES: usize = 30;

/// How the demo runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demo {
    once: bool,
    keep: bool,
    folder: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
    listen: String,
}

/// The command line of `demo`.
pub(super) fn command() -> Command {
    Command::new("demo")
        .about("Start a service on an empty folder; create, deploy and run a sample job with the vdk client.")
        .long_about(
            "Start a service on an empty folder; create, deploy and run a sample job with the vdk client, which is installed into \
             that folder. Then the service stays up until Ctrl-C. It needs Python and a package index; the settings of packages \
             (HOLDFAST_INDEX_URL, HOLDFAST_PYTHON_…, HOLDFAST_VDK_…, HOLDFAST_UV) and the proxy of the environment apply.",
        )
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("End after the execution, instead of leaving the service up until Ctrl-C"),
        )
        .arg(Arg::new("keep").long("keep").action(ArgAction::SetTrue).help("Keep the folder at the end"))
        .arg(
            Arg::new("folder")
                .long("folder")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("An empty folder for the service, the client and the job, which is kept [default: a temporary folder]"),
        )
        .arg(
            Arg::new("cache-dir")
                .long("cache-dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("The cache of packages [default: holdfast, in the user's cache folder]"),
        )
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("ADDRESS")
                .default_value("127.0.0.1:0")
                .help("The address of the service; port 0 is a free port"),
        )
        .after_help("Examples:\n  holdfast demo\n  holdfast demo --once --keep")
}

impl Demo {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        Self {
            once: matches.get_flag("once"),
            keep: matches.get_flag("keep"),
            folder: matches.get_one("folder").cloned(),
            cache_dir: matches.get_one("cache-dir").cloned(),
            listen: matches.get_one("listen").cloned().unwrap_or_default(),
        }
    }
}

/// Runs the demo.
///
/// # Errors
/// If a step fails; the message has the end of the service's log.
pub(crate) async fn run(environment: &ProcessEnvironment, demo: &Demo, clock: &SharedClock) -> anyhow::Result<()> {
    let mut signals =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    let [interrupt, terminate, hangup] = &mut signals;
    say("Holdfast demo: a data job from its creation to the log of its execution.\n");
    let temporary = match &demo.folder {
        Some(_) => None,
        None => Some(temporary_folder(environment, clock)?),
    };
    let folder = match (&demo.folder, &temporary) {
        (Some(folder), _) => environment.folder.join(folder),
        (None, Some(temporary)) => temporary.0.clone(),
        (None, None) => bail!("The demo has no folder."),
    };
    let mut stage = Stage::prepare(environment, demo, &folder, clock)?;
    let outcome = tokio::select! {
        outcome = stage.play(environment, demo) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    stage.stop().await;
    let kept = demo.keep || demo.folder.is_some();
    if kept {
        say(format_args!("\nKept: {}", stage.folder.display()));
    }
    if let Some(temporary) = temporary {
        temporary.end(kept);
    }
    outcome
}

/// A folder that is removed at the end.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn end(self, keep: bool) {
        if !keep {
            let _ = fs::remove_dir_all(self.0);
        }
    }
}

fn temporary_folder(environment: &ProcessEnvironment, clock: &SharedClock) -> anyhow::Result<TemporaryFolder> {
    let parent = environment.variable("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let id = clock.new_id().simple().to_string();
    let folder = parent.join(format!("holdfast-demo-{}", &id[..8]));
    files::make_private_folder(&folder)
        .with_context(|| format!("The folder {} can't be created.", folder.display()))?;
    Ok(TemporaryFolder(folder))
}

/// The folder, the settings of its service, and the service itself.
struct Stage<'a> {
    folder: PathBuf,
    loaded: Loaded,
    /// The variables of the service.
    variables: BTreeMap<OsString, OsString>,
    environment: ProcessEnvironment,
    clock: &'a SharedClock,
    service: Option<Child>,
    url: String,
}

impl<'a> Stage<'a> {
    fn prepare(
        environment: &ProcessEnvironment,
        demo: &Demo,
        folder: &Path,
        clock: &'a SharedClock,
    ) -> anyhow::Result<Self> {
        let used = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        if used {
            bail!("The folder {} is not empty. Name another one with --folder.", folder.display());
        }
        for each in ["data", "home", "jobs"] {
            fs::create_dir_all(folder.join(each))
                .with_context(|| format!("The folder {} can't be written.", folder.display()))?;
        }
        let folder = folder.canonicalize()?;
        let cache_dir = match (&demo.cache_dir, environment.cache_folder()) {
            (Some(given), _) => environment.folder.join(given),
            (None, Some(of_user)) => of_user,
            (None, None) => folder.join("cache"),
        };
        // A configuration of the user's own service is not for this one.
        let configuration = folder.join("holdfast.toml");
        fs::write(&configuration, "# The demo's service has its settings in the environment.\n")?;
        let variables = variables(&environment.variables, &folder, &cache_dir, &demo.listen);
        let environment =
            ProcessEnvironment { variables: variables.clone(), folder: folder.clone(), ..environment.clone() };
        let loaded = config::load(&environment, &Flags { config: Some(configuration), values: Vec::new() })?;
        Ok(Self { folder, loaded, variables, environment, clock, service: None, url: String::new() })
    }

    async fn play(&mut self, outer: &ProcessEnvironment, demo: &Demo) -> anyhow::Result<()> {
        let clock = self.clock;
        let begun = clock.boot();
        let outcome = self.tell(begun).await;
        let log = self.folder.join("service.log");
        outcome.with_context(|| {
            format!("The demo did not succeed. The end of the service's log:\n{}", last_lines(&log))
        })?;
        let page = format!("{}/", self.url);
        say("\nWhere to look:");
        for (what, place) in [
            ("the page", page),
            ("the API", format!("{}/data-jobs/swagger-ui.html", self.url)),
            ("its data folder", self.folder.join("data").display().to_string()),
            ("its log", log.display().to_string()),
            ("the sample job", self.folder.join("jobs").join(JOB).display().to_string()),
            ("the client", self.folder.join("client/bin/vdk").display().to_string()),
        ] {
            say(format_args!("  {what:<16} {place}"));
        }
        say("\nWhat to try, in another terminal:\n");
        say(format_args!("  export PATH={}:$PATH", self.folder.join("client/bin").display()));
        say(format_args!("  export VDK_CONTROL_SERVICE_REST_API_URL={}", self.url));
        let program = std::env::current_exe().map_or_else(|_| "holdfast".into(), |path| path.display().to_string());
        let job = self.folder.join("jobs").join(JOB);
        say(format_args!("  {program} explain {JOB}"));
        say(format_args!("  {program} dev {}", shortened(&job, &outer.folder).display()));
        if !demo.keep && demo.folder.is_none() {
            say("\nThe data folder, the log and the sample job are removed at the end; --keep keeps them.");
        }
        if demo.once {
            return Ok(());
        }
        say("\nThe service stays up. Press Ctrl-C to stop it.");
        let status = match &mut self.service {
            Some(service) => service.wait().await?,
            None => bail!("The service was not started."),
        };
        self.service = None;
        bail!("The service ended unexpectedly ({status}). The end of its log:\n{}", last_lines(&log))
    }

    /// From the start of the service to the end of the execution.
    async fn tell(&mut self, begun: Duration) -> anyhow::Result<()> {
        let clock = self.clock;
        let (service, url) = during(clock, "starting holdfast on an empty data folder", self.start()).await?;
        self.service = Some(service);
        self.url = url;
        let client = self.folder.join("client");
        let commands = client::install_into(&self.environment, &self.loaded, &client, &self.url, clock).await?;
        let jobs = self.folder.join("jobs");
        let folder = jobs.join(JOB);
        fs::create_dir_all(&folder)?;
        for (name, content) in FILES {
            fs::write(folder.join(name), content)?;
        }
        let user = User { vdk: commands.join("vdk"), home: self.folder.join("home"), jobs, url: &self.url };
        let of_job = ["-n", JOB, "-t", TEAM];
        user.types(&[&["create", "--cloud"], &of_job[..]].concat()).await?;
        user.types(&[&["deploy"], &of_job[..], &["-p", JOB, "-r", "demo"]].concat()).await?;
        let show = [&["deploy", "--show"], &of_job[..]].concat();
        let shown = async {
            until(clock, DEPLOYED_MAX, async || {
                Ok(user.reads(&show).await?.as_array().is_some_and(|list| !list.is_empty()).then_some(()))
            })
            .await
            .context("The job was not deployed.")
        };
        during(clock, "waiting until it is rolled out", shown).await?;
        user.types(&show).await?;
        let started = user.types(&[&["execute", "--start"], &of_job[..]].concat()).await?;
        let id = started
            .split_once("--execution-id ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .context("The client did not name the execution.")?
            .to_owned();
        let of_execution = [&of_job[..], &["-i", &id]].concat();
        let status = self.follow(&user, &of_execution).await?;
        user.types(&[&["execute", "--show"], &of_execution[..]].concat()).await?;
        user.types(&[&["execute", "--list"], &of_job[..]].concat()).await?;
        if status != "succeeded" {
            bail!("The execution ended as {status}.");
        }
        let elapsed = seconds(clock.boot().saturating_sub(begun));
        say(format_args!("\n✓ The job was created, deployed and run ({elapsed} in all)."));
        Ok(())
    }

    /// Shows the log of an execution while it grows, and returns the last status.
    async fn follow(&self, user: &User<'_>, of_execution: &[&str]) -> anyhow::Result<String> {
        let logs = [&["execute", "--logs"], of_execution].concat();
        let show = [&["execute", "--show"], of_execution].concat();
        User::shows(&logs);
        let mut shown = 0;
        until(self.clock, EXECUTION_MAX, async || {
            let status = user.reads(&show).await?[0]["status"].as_str().unwrap_or_default().to_owned();
            let ended = !matches!(status.as_str(), "submitted" | "running");
            // The status is read before the log, so that the last read has all of it.
            let log = user.runs(&logs).await.map(|(output, _)| output).unwrap_or_default();
            let lines: Vec<_> = log.trim_end().lines().collect();
            // The last line may be incomplete until another one follows.
            let whole = if ended { lines.len() } else { lines.len().saturating_sub(1) };
            for line in lines.iter().take(whole).skip(shown) {
                say(format_args!("  │ {line}"));
            }
            shown = shown.max(whole);
            Ok(ended.then_some(status))
        })
        .await
    }

    /// Starts the service and waits until it names its URL.
    async fn start(&self) -> anyhow::Result<(Child, String)> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("service.log"))?;
        let program = std::env::current_exe().context("The program's own file can't be found.")?;
        let mut service = Process::new(program)
            .args(["serve", "--config"])
            .arg(self.folder.join("holdfast.toml"))
            .env_clear()
            .envs(&self.variables)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            // Ctrl-C reaches the demo alone, which then stops the service.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("The service can't be started.")?;
        let output = service.stdout.take().context("The service has no output.")?;
        let mut lines = BufReader::new(output).lines();
        let url = async {
            while let Some(line) = lines.next_line().await? {
                writeln!(&log, "{line}")?;
                if let Some(rest) = line.strip_prefix(START_UP) {
                    return Ok(rest.trim().to_owned());
                }
            }
            bail!("The service ended at its start.")
        };
        let url = self.clock.timeout(READY_MAX, url).await;
        let url = url.with_context(|| format!("The service was not ready within {}.", seconds(READY_MAX)))??;
        tokio::spawn(async move {
            // Read to the end, because the service would wait for a full pipe.
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = writeln!(&log, "{line}");
            }
        });
        Ok((service, url))
    }

    /// Stops the service and the executions that are active.
    async fn stop(&mut self) {
        let Some(mut service) = self.service.take() else { return };
        let ending = async {
            self.cancel_executions().await;
            if let Some(id) =
                service.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
            }
            let ended = self.clock.timeout(STOP_MAX, service.wait()).await;
            ended.with_context(|| format!("The service did not stop within {}.", seconds(STOP_MAX)))??;
            Ok(())
        };
        let _ = during(self.clock, "stopping holdfast", ending).await;
    }

    /// Executions survive their service by design, and the folder is removed after it.
    async fn cancel_executions(&self) {
        const QUERY: &str = "{ executions(pageNumber: 1, pageSize: 100, filter: { statusIn: [SUBMITTED, RUNNING] }) { content { \
                             id jobName deployment { id } } } jobs(pageNumber: 1, pageSize: 100) { content { jobName config { \
                             team } } } }";
        let Ok(service) = ControlService::new(&self.url, None) else { return };
        for _ in 0..20 {
            let body = json!({ "query": QUERY });
            let Ok(reply) = service.post(&["data-jobs", "graphql"], &[], &body).await else { return };
            let list = |name: &str| reply.body["data"][name]["content"].as_array().cloned().unwrap_or_default();
            let (active, jobs) = (list("executions"), list("jobs"));
            if active.is_empty() {
                return;
            }
            for execution in &active {
                let (id, job) = (text(&execution["id"]), text(&execution["jobName"]));
                let team = jobs.iter().find(|found| found["jobName"] == execution["jobName"]);
                let team = team.map(|found| text(&found["config"]["team"])).unwrap_or_default();
                let path = ["data-jobs", "for-team", &team, "jobs", &job, "executions", &id];
                let _ = service.delete(&path).await;
            }
            self.clock.sleep(POLL).await;
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The environment of the demo's service: that of the user without other settings of Holdfast.
fn variables(
    outer: &BTreeMap<OsString, OsString>,
    folder: &Path,
    cache_dir: &Path,
    listen: &str,
) -> BTreeMap<OsString, OsString> {
    let stays = |name: &OsString| {
        let name = name.to_string_lossy();
        let is_setting = name.starts_with("HOLDFAST_");
        let followed =
            FOLLOWED.iter().any(|prefix| name == *prefix || (prefix.ends_with('_') && name.starts_with(prefix)));
        // The settings of the user's own client do not concern the jobs.
        (!is_setting || followed) && name != "VDK_CONTROL_SERVICE_REST_API_URL"
    };
    let mut variables: BTreeMap<OsString, OsString> =
        outer.iter().filter(|(name, _)| stays(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    variables.insert("HOLDFAST_DATA_DIR".into(), folder.join("data").into());
    variables.insert("HOLDFAST_CACHE_DIR".into(), cache_dir.into());
    variables.insert("HOLDFAST_LISTEN".into(), listen.into());
    variables
}

/// Repeats a question until it has an answer.
async fn until<T>(
    clock: &SharedClock,
    longest: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begun = clock.boot();
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if clock.boot().saturating_sub(begun) > longest {
            bail!("It took more than {}.", seconds(longest));
        }
        clock.sleep(POLL).await;
    }
}

/// The path below the current folder, if it is there.
fn shortened<'p>(path: &'p Path, folder: &Path) -> &'p Path {
    path.strip_prefix(folder).unwrap_or(path)
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// A user at a terminal with the `vdk` client.
struct User<'a> {
    vdk: PathBuf,
    home: PathBuf,
    jobs: PathBuf,
    url: &'a str,
}

impl User<'_> {
    /// Shows a command as it is typed.
    fn shows(arguments: &[&str]) {
        say(format_args!("\n$ vdk {}", arguments.join(" ")));
    }

    /// Types a command: shows it, runs it and shows its output.
    async fn types(&self, arguments: &[&str]) -> anyhow::Result<String> {
        Self::shows(arguments);
        let (output, errors) = self.runs(arguments).await?;
        for line in output.lines().chain(errors.lines()).filter(|line| !line.trim().is_empty()) {
            say(format_args!("  {line}"));
        }
        Ok(output)
    }

    /// Reads the output of a command as JSON, without showing it.
    async fn reads(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let (output, _) = self.runs(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&output).with_context(|| format!("`vdk {}` printed {output:?}", arguments.join(" ")))
    }

    async fn runs(&self, arguments: &[&str]) -> anyhow::Result<(String, String)> {
        let output = Process::new(&self.vdk)
            .args(arguments)
            // No waits for retries, no warnings of its libraries, and a home folder of its own.
            .env("VDK_CONTROL_HTTP_TOTAL_RETRIES", "0")
            .env("VDK_CONTROL_HTTP_CONNECT_RETRIES", "0")
            .env("VDK_CONTROL_SERVICE_REST_API_URL", self.url)
            .env("VDK_BASE_CONFIG_FOLDER", &self.home)
            .env("HOME", &self.home)
            .env("NO_PROXY", "127.0.0.1,localhost")
            .current_dir(&self.jobs)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("The client can't be started.")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (out, errors) = (text(output.stdout), text(output.stderr));
        if !output.status.success() {
            bail!("`vdk {}` failed ({}):\n{out}{errors}", arguments.join(" "), output.status);
        }
        Ok((out, errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_follows_the_settings_of_packages_and_no_others() {
        let outer = [
            ("HOLDFAST_INDEX_URL", "https://index"),
            ("HOLDFAST_PYTHON_VERSION", "3.11"),
            ("HOLDFAST_DATABASE_URL", "postgres://production"),
            ("HOLDFAST_INDEX_URL_X", "x"),
            ("HOLDFAST_DATA_DIR", "/production"),
            ("VDK_CONTROL_SERVICE_REST_API_URL", "https://production"),
            ("https_proxy", "http://proxy"),
        ];
        let outer = outer.map(|(name, value)| (OsString::from(name), OsString::from(value))).into();
        let inner = variables(&outer, Path::new("/demo"), Path::new("/cache"), "127.0.0.1:0");
        let inner: Vec<_> = inner.iter().map(|(k, v)| format!("{}={}", k.display(), v.display())).collect();
        assert_eq!(
            inner,
            [
                "HOLDFAST_CACHE_DIR=/cache",
                "HOLDFAST_DATA_DIR=/demo/data",
                "HOLDFAST_INDEX_URL=https://index",
                "HOLDFAST_LISTEN=127.0.0.1:0",
                "HOLDFAST_PYTHON_VERSION=3.11",
                "https_proxy=http://proxy"
            ]
        );
    }
}
