//! `cargo xtask demo`: compiles Holdfast and runs its own demo.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context, Result};
use devtools::{
    binary, cache,
    client::{self, Client},
    command::last_lines,
    environment,
    progress::{self, Work, say, seconds},
    service::{self, Process},
    web,
};

/// How the demo runs.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// End after the execution, instead of leaving the service up until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Keep the data folder and the sample job.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let begun = Instant::now();
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stopped))?;
    }
    say("Holdfast demo: a data job from its creation to the log of its run.\n");
    if environment::variable("HOLDFAST_BIN").is_none() {
        web::build()?;
    }
    let compiling = Work::new("compiling Holdfast, once");
    let binary = progress::during_work(&compiling, |work| {
        binary::path_for_demo(|crates| work.at(format_args!("{crates} crates so far")))
    })?;
    let url = service.url().to_owned();
    let person = Person { client, home, url: url.clone() };
    say("\nTo type the commands below yourself, in another terminal:\n");
    say(format_args!("  export PATH={}:$PATH", person.client.commands().display()));
    say(format_args!("  export VDK_CONTROL_SERVICE_REST_API_URL={url}"));

    let job = jobs.join(JOB);
    person.types(&["create", "-n", JOB, "-t", TEAM, "-p", &jobs.to_string_lossy()])?;
    person.types(&["deploy", "-n", JOB, "-t", TEAM, "-p", &job.to_string_lossy(), "-r", "demo"])?;
    let of_job = ["-n", JOB, "-t", TEAM];
    let show = [&["deploy", "--show"], &of_job[..]].concat();
    progress::during("waiting until it is deployed (the first time packages are fetched)", || {
        until(stopped, DEPLOYED_MAX, || Ok(person.reads(&show)?.as_array().is_some_and(|list| !list.is_empty())))
    })
    .with_context(|| format!("the job was not deployed. The service's log:\n{}", last_lines(&log, 30)))?;
    person.types(&show)?;

    let started = person.types(&[&["execute", "--start"], &of_job[..]].concat())?;
    let id = started
        .split_once("--execution-id ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .context("the client did not say which execution it started")?
        .to_owned();
    let of_run = ["-n", JOB, "-t", TEAM, "-i", &id];
    let status = follow(&person, stopped, &of_run)?;
    person.types(&[&["execute", "--show"], &of_run[..]].concat())?;
    person.types(&[&["execute", "--list"], &of_job[..]].concat())?;
    if status != "succeeded" {
        bail!("the run ended as {status}. The service's log:\n{}", last_lines(&log, 30));
    }
    say(format_args!("\n✓ The job was created, deployed and run ({} in all).", seconds(begun.elapsed())));
    say("\nWhere to look:");
    for (what, place) in [
        ("the web page", format!("{url}/ui/")),
        ("the service", url),
        ("its data folder", data_dir.display().to_string()),
        ("its log", log.display().to_string()),
        ("the sample job", job.display().to_string()),
        ("the client", person.client.vdk().display().to_string()),
    ] {
        say(format_args!("  {what:<16} {place}"));
    }
    if !options.keep {
        say("\nThe data folder, the log and the sample job are removed at the end; --keep keeps them.");
    }
    if !options.once {
        say("\nThe service stays up. Press Ctrl-C to stop it.");
        while !stopped.load(Ordering::Relaxed) {
            if !service.is_running() {
                bail!("the service ended unexpectedly. Its log:\n{}", last_lines(&log, 30));
            }
            thread::sleep(POLL);
        }
    }
    progress::during("stopping holdfast", || service.stop())?;
    Ok(())
}

/// Shows the log of a run while it grows, and gives the status that it ends with.
fn follow(person: &Person, stopped: &AtomicBool, of_run: &[&str]) -> Result<String> {
    let (logs, show) = ([&["execute", "--logs"], of_run].concat(), [&["execute", "--show"], of_run].concat());
    person.shows(&logs);
    let (mut shown, mut status) = (0, String::new());
    until(stopped, RUN_MAX, || {
        let listed = person.reads(&show)?;
        listed[0]["status"].as_str().unwrap_or_default().clone_into(&mut status);
        let ended = !matches!(status.as_str(), "submitted" | "running");
        // The status is read before the log, so that the last look has all of it.
        let log = person.runs(&logs).map(|(output, _)| output).unwrap_or_default();
        let lines: Vec<_> = log.trim_end().lines().collect();
        // The last line may be half written; it is held back until there is another one.
        let whole = if ended { lines.len() } else { lines.len().saturating_sub(1) };
        for line in lines.iter().take(whole).skip(shown) {
            say(format_args!("  │ {line}"));
        }
        shown = shown.max(whole);
        Ok(ended)
    })?;
    Ok(status)
}

fn until(stopped: &AtomicBool, longest: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        if stopped.load(Ordering::Relaxed) {
            bail!("stopped");
        }
        if begun.elapsed() > longest {
            bail!("still not after {}", seconds(longest));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Someone at a terminal with the stock client.
struct Person {
    client: Client,
    home: PathBuf,
    url: String,
}

impl Person {
    /// Shows a command as it is typed.
    #[expect(clippy::unused_self, reason = "a person shows it")]
    fn shows(&self, arguments: &[&str]) {
        say(format_args!("\n$ vdk {}", arguments.join(" ")));
    }

    /// Types a command: shows it, runs it and shows its output.
    fn types(&self, arguments: &[&str]) -> Result<String> {
        self.shows(arguments);
        let (output, errors) = self.runs(arguments)?;
        for line in output.lines().chain(errors.lines()).filter(|line| !line.trim().is_empty()) {
            say(format_args!("  {line}"));
        }
        Ok(output)
    }

    /// Reads the output of a command as JSON, without showing it.
    fn reads(&self, arguments: &[&str]) -> Result<Value> {
        let (output, _) = self.runs(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&output).with_context(|| format!("vdk {} printed {output:?}", arguments.join(" ")))
    }

    fn runs(&self, arguments: &[&str]) -> Result<(String, String)> {
        let output = Command::new(self.client.vdk())
            .args(arguments)
            .envs(Client::variables(&self.home))
            .env("VDK_CONTROL_SERVICE_REST_API_URL", &self.url)
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .output()
            .context("the client cannot be started")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (out, errors) = (text(output.stdout), text(output.stderr));
        if !output.status.success() {
            bail!("vdk {} failed ({}):\n{out}{errors}", arguments.join(" "), output.status);
        }
        Ok((out, errors))
    }
}
