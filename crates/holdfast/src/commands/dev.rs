//! `holdfast dev`: deploys the folder of a job to a service on this machine, runs it, shows its log, and repeats that after each
//! save.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clients::control_service::{CallError, ControlService};
use jiff::Timestamp;
use model::clock::SharedClock;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use zip::{ZipWriter, write::SimpleFileOptions};

use super::{
    connection::{self, ConnectionFlags, JobPlace},
    outcome::Outcome,
    rollout,
};
use crate::{config::ProcessEnvironment, progress::say};

/// The pause between two reads of a log, and between two looks at the folder.
const POLL: Duration = Duration::from_millis(300);

/// The time limit of the rollout. The first one on a machine downloads packages.
const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(900);

/// The time limit for the end of a cancelled execution.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(30);

/// Limits of the folder; the service has the same.
const FILES_MAX: usize = 10_000;
const FILES_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The folder, and how it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dev {
    flags: ConnectionFlags,
    folder: PathBuf,
    once: bool,
    remote: bool,
    arguments: Option<String>,
}

/// The command line of `dev`.
pub(super) fn command() -> Command {
    Command::new("dev")
        .about("Deploy a job's folder to a service on this machine, run it and show its log; again after each save.")
        .long_about(
            "Deploy a job's folder to a service on this machine, run it and show its log; again after each save. The name of the \
             folder is the name of the job, and config.ini names its team and Python version. The job is created if it does not \
             exist. Its schedule does not change; `vdk deploy` sets it. Files whose names begin with a dot are not uploaded.",
        )
        .arg(
            Arg::new("folder")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The folder of the job"),
        )
        .arg(Arg::new("once").long("once").action(ArgAction::SetTrue).help("Run once; the exit code is the outcome"))
        .arg(
            Arg::new("arguments")
                .long("arguments")
                .value_name("JSON")
                .help("Arguments of the execution, for example {\"day\": \"2026-11-29\"}"),
        )
        .arg(
            Arg::new("remote")
                .long("remote")
                .action(ArgAction::SetTrue)
                .help("Allow a service on another machine, where each save changes the job for its team"),
        )
        .args(ConnectionFlags::args())
        .after_help(format!(
            "{}\n\nExamples:\n  holdfast dev my-first-job\n  holdfast dev my-first-job --once",
            Outcome::HELP
        ))
}

impl Dev {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        Self {
            flags: ConnectionFlags::of(matches),
            folder: matches.get_one("folder").cloned().unwrap_or_default(),
            once: matches.get_flag("once"),
            remote: matches.get_flag("remote"),
            arguments: matches.get_one("arguments").cloned(),
        }
    }
}

/// Runs the job until Ctrl-C, or once.
///
/// # Errors
/// If the folder is not one of a job, or the service can't be used.
pub(crate) async fn run(
    environment: &ProcessEnvironment,
    dev: &Dev,
    clock: &SharedClock,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let connection = dev.flags.connect(environment, &**clock)?;
    if !connection.service.is_local() && !dev.remote {
        bail!(
            "The service at {} is not on this machine, and each save would change the job for its team. Start one here with \
             `holdfast serve`, or add --remote.",
            connection.service.url()
        );
    }
    let arguments = match &dev.arguments {
        Some(text) => serde_json::from_str::<serde_json::Map<String, Value>>(text)
            .map(Value::Object)
            .context("--arguments must be a JSON object.")?,
        None => json!({}),
    };
    let folder =
        dev.folder.canonicalize().with_context(|| format!("The folder {} can't be read.", dev.folder.display()))?;
    let job =
        folder.file_name().and_then(|name| name.to_str()).context("The name of the folder is no name of a job.")?;
    let config = connection::read(&folder.join("config.ini")).unwrap_or_default();
    let team = connection.named_team.clone();
    let team = team.or_else(|| connection::option_of(&config, "owner", "team")).or(connection.default_team.clone());
    let team = team.context("The team is unknown. Write it into config.ini ([owner] team = …), or add --team.")?;
    let round = Round {
        service: &connection.service,
        place: JobPlace { team, job: job.to_owned(), next_start: None, cron: None },
        folder: &folder,
        arguments,
        clock,
        execution: RefCell::default(),
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let before = Files::of(&folder)?;
        tokio::select! {
            done = round.run(out) => {
                let outcome = match done {
                    Ok(outcome) => outcome,
                    Err(error) if dev.once => return Err(error),
                    Err(error) => {
                        say(format_args!("error: {error:#}"));
                        Outcome::UserError
                    }
                };
                if dev.once {
                    return Ok(outcome);
                }
                say("Waiting for a change of the folder. Ctrl-C ends this.");
                tokio::select! {
                    changed = before.changed(&folder, clock) => changed?,
                    _ = interrupt.recv() => return Ok(Outcome::Succeeded),
                }
            }
            changed = before.changed(&folder, clock) => {
                changed?;
                say("The folder changed; the execution is cancelled.");
                round.cancel().await;
            }
            _ = interrupt.recv() => {
                round.cancel().await;
                return Ok(Outcome::Succeeded);
            }
        }
    }
}

/// One deployment and execution.
struct Round<'a> {
    service: &'a ControlService,
    place: JobPlace,
    folder: &'a Path,
    arguments: Value,
    clock: &'a SharedClock,
    /// The id of the active execution.
    execution: RefCell<Option<String>>,
}

impl Round<'_> {
    async fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let (service, place) = (self.service, &self.place);
        self.create().await?;
        let archive = archive(&place.job, self.folder)?;
        let uploaded = service.upload(&place.path(&["sources"]), &[("reason", "holdfast dev")], archive).await?;
        let version = uploaded.body["version_sha"].as_str().unwrap_or_default().to_owned();
        let config = connection::read(&self.folder.join("config.ini")).unwrap_or_default();
        let mut deployment = json!({ "job_version": version });
        if let Some(python) = connection::option_of(&config, "job", "python_version") {
            deployment["python_version"] = python.into();
        }
        service.post(&place.path(&["deployments"]), &[], &deployment).await?;
        let outcome = rollout::until_rolled_out(service, place, ROLLOUT_TIMEOUT, self.clock).await?;
        if outcome != Outcome::Succeeded {
            return Ok(outcome);
        }
        let start = json!({ "started_by": "holdfast-dev", "args": self.arguments });
        let started = place.path(&["deployments", "production", "executions"]);
        let started = service.post(&started, &[], &start).await?;
        let id = started.location.as_deref().and_then(|location| location.rsplit('/').next()).map(str::to_owned);
        let id = id.context("The service did not name the execution.")?;
        *self.execution.borrow_mut() = Some(id.clone());
        let ended = self.follow(&id, out).await?;
        *self.execution.borrow_mut() = None;
        let status = ended["status"].as_str().unwrap_or_default();
        say(format_args!("{id} ended as {status}: {}", ended["message"].as_str().unwrap_or_default()));
        Ok(match status {
            "succeeded" => Outcome::Succeeded,
            "platform_error" => Outcome::PlatformError,
            _ => Outcome::UserError,
        })
    }

    /// Creates the job, unless it exists.
    async fn create(&self) -> anyhow::Result<()> {
        let (service, place) = (self.service, &self.place);
        match service.get(&place.path(&[]), &[]).await {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => {
                let body = json!({ "job_name": place.job, "team": place.team, "config": { "schedule": {} } });
                let jobs = ["data-jobs", "for-team", &place.team, "jobs"];
                service.post(&jobs, &[("name", &place.job)], &body).await?;
                say(format_args!("Created the job {} of the team {}.", place.job, place.team));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Shows the log while it grows, and returns the ended execution.
    async fn follow(&self, id: &str, out: &mut dyn Write) -> anyhow::Result<Value> {
        let mut shown = 0;
        loop {
            let execution = self.patient(&self.place.path(&["executions", id])).await?;
            let ended = !matches!(execution["status"].as_str(), Some("submitted" | "running"));
            // The status is read before the log, so that the last read has all of it.
            let log = self.patient(&self.place.path(&["executions", id, "logs"])).await?;
            let log = log["logs"].as_str().unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            // The last line may be incomplete until another one follows.
            let whole = if ended { lines.len() } else { lines.len().saturating_sub(1) };
            for line in lines.iter().take(whole).skip(shown) {
                writeln!(out, "{line}")?;
            }
            out.flush()?;
            shown = shown.max(whole);
            if ended {
                return Ok(execution);
            }
            self.clock.sleep(POLL).await;
        }
    }

    /// Reads a resource, again while the service is busy or restarts.
    async fn patient(&self, path: &[&str]) -> Result<Value, CallError> {
        const RETRIES: usize = 20;
        for _ in 0..RETRIES {
            match self.service.get(path, &[]).await {
                Err(error) if error.may_pass() => self.clock.sleep(POLL).await,
                other => return other,
            }
        }
        self.service.get(path, &[]).await
    }

    /// Cancels the active execution, and waits for its end.
    async fn cancel(&self) {
        let Some(id) = self.execution.borrow_mut().take() else { return };
        let path = self.place.path(&["executions", &id]);
        if self.service.delete(&path).await.is_err() {
            return;
        }
        let ended = async {
            while let Ok(execution) = self.service.get(&path, &[]).await
                && matches!(execution["status"].as_str(), Some("submitted" | "running"))
            {
                self.clock.sleep(POLL).await;
            }
        };
        let _ = self.clock.timeout(CANCEL_TIMEOUT, ended).await;
    }
}

/// The files of a folder, with what changes when they are saved.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files(BTreeMap<PathBuf, (Option<Timestamp>, u64)>);

impl Files {
    fn of(folder: &Path) -> anyhow::Result<Self> {
        let (mut files, mut folders, mut total_bytes) = (BTreeMap::new(), vec![folder.to_owned()], 0_u64);
        while let Some(next) = folders.pop() {
            let entries =
                fs::read_dir(&next).with_context(|| format!("The folder {} can't be read.", next.display()))?;
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                if name.as_encoded_bytes().starts_with(b".") || name == "__pycache__" {
                    continue;
                }
                let (kind, path) = (entry.file_type()?, entry.path());
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    // A file may be gone by now, because editors replace files.
                    let Ok(found) = entry.metadata() else { continue };
                    let changed = found.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
                    total_bytes = total_bytes.saturating_add(found.len());
                    files.insert(path, (changed, found.len()));
                }
                if files.len() + folders.len() > FILES_MAX || total_bytes > FILES_MAX_BYTES {
                    bail!(
                        "The folder {} has more than {FILES_MAX} files or {} MiB. Name the folder of one job.",
                        folder.display(),
                        FILES_MAX_BYTES / 1024 / 1024
                    );
                }
            }
        }
        Ok(Self(files))
    }

    /// Waits until the folder differs, and until it then stays the same for a moment.
    async fn changed(&self, folder: &Path, clock: &SharedClock) -> anyhow::Result<()> {
        let mut last = self.clone();
        loop {
            clock.sleep(POLL).await;
            let now = Self::of(folder)?;
            if now != *self && now == last {
                return Ok(());
            }
            last = now;
        }
    }
}

/// The folder as the client uploads it: a ZIP archive whose top folder has the job's name.
fn archive(job: &str, folder: &Path) -> anyhow::Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for path in Files::of(folder)?.0.keys() {
        let below = path.strip_prefix(folder)?.to_str().ok_or_else(|| anyhow!("{} is not UTF-8.", path.display()))?;
        let content = fs::read(path).with_context(|| format!("The file {} can't be read.", path.display()))?;
        zip.start_file(format!("{job}/{below}"), SimpleFileOptions::default())?;
        zip.write_all(&content)?;
    }
    Ok(zip.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use clock::SystemClock;
    use std::sync::Arc;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    #[test]
    fn the_archive_has_the_files_of_the_job_and_no_hidden_ones() {
        let folder = folder(&[
            ("10_step.py", "x"),
            ("lib/more.py", "y"),
            (".git/config", "secret"),
            (".env", "secret"),
            ("lib/__pycache__/more.pyc", "z"),
        ]);
        let bytes = archive("daily-sales", folder.path()).unwrap();
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut names: Vec<_> = zip.file_names().map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, ["daily-sales/10_step.py", "daily-sales/lib/more.py"]);
        assert_eq!(std::io::read_to_string(zip.by_name("daily-sales/lib/more.py").unwrap()).unwrap(), "y");
    }

    #[tokio::test]
    async fn a_save_is_noticed_once_it_is_complete() {
        let folder = folder(&[("10_step.py", "x")]);
        let clock: SharedClock = Arc::new(SystemClock);
        let before = Files::of(folder.path()).unwrap();
        let unchanged = clock.timeout(POLL * 3, before.changed(folder.path(), &clock)).await;
        assert!(unchanged.is_err(), "nothing changed");
        fs::write(folder.path().join("20_step.py"), "y").unwrap();
        clock.timeout(POLL * 20, before.changed(folder.path(), &clock)).await.unwrap().unwrap();
    }
}
