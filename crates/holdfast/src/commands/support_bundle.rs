//! `holdfast support-bundle`: an archive for those who help with a fault, without secrets and addresses.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, Command, value_parser};
use clients::control_service::ControlService;
use flate2::{Compression, write::GzEncoder};
use model::clock::SharedClock;

use crate::{
    config::{DatabaseUrl, Loaded, ProcessEnvironment, Settings},
    database, doctor,
    redaction::Redaction,
};

/// The largest part of the log, of metrics, and of a file with secrets that is read.
const LOG_MAX_BYTES: u64 = 8 * 1024 * 1024;
const METRICS_MAX_BYTES: usize = 32 * 1024 * 1024;
const PROBE_MAX_BYTES: usize = 1024 * 1024;
const SECRETS_MAX_BYTES: u64 = 1024 * 1024;
/// The most problems of rollouts.
const PROBLEMS_MAX: i64 = 1_000;
/// The lines that are read from the journal of systemd, and the time for it.
const JOURNAL_LINES: &str = "20000";
const JOURNAL_MAX: Duration = Duration::from_secs(30);

/// The parts of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    output: Option<PathBuf>,
    log: Option<PathBuf>,
    unit: String,
    url: Option<String>,
}

/// The command line of `support-bundle`.
pub(super) fn command(with_settings: impl Fn(Command) -> Command) -> Command {
    with_settings(Command::new("support-bundle"))
        .about("Collect configuration, versions, readiness, logs, problems and metrics in an archive, without secrets.")
        .long_about(
            "Collect configuration, versions, readiness, logs, problems and metrics in an archive. Secrets are removed; hosts, IP \
             addresses and mail addresses get names such as [host-1]. Names of jobs and teams stay. The content is listed first; \
             read the files before you pass the archive on. Takes the flags of `serve`.",
        )
        .arg(
            Arg::new("output")
                .long("output")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The archive [default: holdfast-support-<time>.tar.gz]"),
        )
        .arg(
            Arg::new("log-file")
                .long("log-file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The log of the service [default: the journal of --unit]"),
        )
        .arg(
            Arg::new("unit")
                .long("unit")
                .value_name("UNIT")
                .default_value("holdfast")
                .help("The systemd unit of the service, for its log"),
        )
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .help("The service, for readiness and metrics [default: the addresses of the settings]"),
        )
        .after_help(
            "Examples:\n  holdfast support-bundle\n  kubectl logs deployment/holdfast > log && holdfast support-bundle --log-file log",
        )
}

impl Bundle {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        Self {
            output: matches.get_one("output").cloned(),
            log: matches.get_one("log-file").cloned(),
            unit: matches.get_one("unit").cloned().unwrap_or_default(),
            url: matches.get_one("url").cloned(),
        }
    }
}

/// A file of the archive.
struct Part {
    name: &'static str,
    about: &'static str,
    content: String,
}

/// Writes the archive, and lists its content.
///
/// # Errors
/// If the archive can't be written, or the file of the log can't be read.
pub(crate) async fn run(
    environment: &ProcessEnvironment,
    loaded: &Loaded,
    bundle: &Bundle,
    clock: &SharedClock,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let settings = &loaded.settings;
    let mut redaction = Redaction::default();
    learn_secrets(settings, &mut redaction);
    let configuration = format!("{:#}\n", loaded.as_json());
    redaction.hosts_of(&configuration);
    let findings = doctor::examine(environment, loaded, clock).await;
    let log = match &bundle.log {
        Some(file) => end_of(file)?,
        None => journal(&bundle.unit, clock).await,
    };
    let mut parts = vec![
        Part { name: "versions.txt", about: "Holdfast, system, kernel", content: versions() },
        Part { name: "configuration.json", about: "every setting, its value and its origin", content: configuration },
        Part {
            name: "doctor.json",
            about: "the findings of holdfast doctor",
            content: format!("{}\n", serde_json::to_string_pretty(&findings)?),
        },
        Part {
            name: "readiness.json",
            about: "the readiness of the service",
            content: page(&url(bundle, settings.listen.0), None, &["readyz"], PROBE_MAX_BYTES).await,
        },
        Part { name: "metrics.txt", about: "the metrics of the service", content: metrics(settings, bundle).await },
        Part {
            name: "problems.txt",
            about: "rollouts with a problem, and executions that ended as platform errors",
            content: problems(settings, clock).await,
        },
        Part { name: "log.txt", about: "the end of the service's log", content: log },
    ];
    for part in &mut parts {
        part.content = redaction.apply(&part.content);
    }
    let mut list = String::from("This archive contains, without secrets and addresses:\n");
    for Part { name, about, content } in &parts {
        let _ = writeln!(list, "  {name:<20} {about} ({} bytes)", content.len());
    }
    write!(out, "{list}")?;
    let stamp = clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let output = bundle.output.clone().unwrap_or_else(|| format!("holdfast-support-{stamp}.tar.gz").into());
    let output = environment.folder.join(output);
    parts.insert(0, Part { name: "CONTENTS.txt", about: "", content: list });
    write_archive(&output, &format!("holdfast-support-{stamp}"), &parts, clock)?;
    writeln!(out, "Written: {}", output.display())?;
    Ok(out.flush()?)
}

/// The URL of the service for an address that it listens on.
fn url(bundle: &Bundle, listens: std::net::SocketAddr) -> String {
    let mut reachable = listens;
    if listens.ip().is_unspecified() {
        reachable.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    bundle.url.clone().unwrap_or_else(|| format!("http://{reachable}"))
}

/// The values that must not be in the archive, as far as the settings name them.
fn learn_secrets(settings: &Settings, redaction: &mut Redaction) {
    let mut urls = vec![settings.index_url.as_ref().map(|url| url.expose().to_owned())];
    if let DatabaseUrl::Postgres(url) = &settings.database_url {
        urls.push(Some(url.expose().to_owned()));
    }
    urls.push(settings.database_direct_url.as_ref().map(|url| url.expose().to_owned()));
    for url in urls.into_iter().flatten().filter_map(|url| url::Url::parse(&url).ok()) {
        redaction.hosts_of(url.as_str());
        redaction.secret(url.password().unwrap_or_default());
        let secrets = url.query_pairs().filter(|(name, _)| name.contains("password") || name.contains("token"));
        secrets.for_each(|(_, value)| redaction.secret(&value));
    }
    let whole =
        [&settings.database_password_file, &settings.auth_webhook_refresh_token_file, &settings.metrics_token_file];
    for file in whole.into_iter().flatten() {
        redaction.secret(&small(file));
    }
    if let Some(file) = &settings.vdk_options_file {
        let text = small(file);
        for (_, value) in text.lines().filter_map(|line| line.split_once('=')) {
            redaction.secret(value);
        }
    }
    if let Some(file) = &settings.image_registry_credentials_file {
        let text = small(file);
        for value in text.split('"').filter(|value| value.len() > 7) {
            redaction.secret(value);
        }
    }
}

/// The text of a small file; empty if it can't be read.
fn small(file: &Path) -> String {
    let mut text = String::new();
    let _ = File::open(file).and_then(|file| file.take(SECRETS_MAX_BYTES).read_to_string(&mut text));
    text
}

fn versions() -> String {
    let release = small(Path::new("/etc/os-release"));
    let system = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown");
    let kernel = small(Path::new("/proc/sys/kernel/osrelease"));
    format!(
        "holdfast {}\nVDK {}\nsystem {}\nkernel {}\narchitecture {}\n",
        env!("CARGO_PKG_VERSION"),
        vdk::VERSION,
        system.trim_matches('"'),
        kernel.trim(),
        std::env::consts::ARCH
    )
}

/// A page of the service, or why there is none.
async fn page(url: &str, token: Option<secrecy::SecretString>, path: &[&str], max_bytes: usize) -> String {
    let service = match ControlService::new(url, token) {
        Ok(service) => service,
        Err(why) => return format!("not available: {why}\n"),
    };
    match service.page(path, max_bytes).await {
        Ok((status, body)) => format!("HTTP {status}\n{}\n", String::from_utf8_lossy(&body)),
        Err(error) => format!("not available: {error}\n"),
    }
}

async fn metrics(settings: &Settings, bundle: &Bundle) -> String {
    if !settings.metrics_enabled {
        return "not available: metrics_enabled is false\n".to_owned();
    }
    let token = settings.metrics_token().ok().flatten();
    let url = match &settings.metrics_listen {
        Some(listens) => url(&Bundle { url: None, ..bundle.clone() }, listens.0),
        None => url(bundle, settings.listen.0),
    };
    page(&url, token, &["data-jobs", "debug", "prometheus"], METRICS_MAX_BYTES).await
}

/// The problems in the database, or why they can't be read.
async fn problems(settings: &Settings, clock: &SharedClock) -> String {
    match database::problems(settings, PROBLEMS_MAX, clock).await {
        Ok(problems) if problems.is_empty() => "none\n".to_owned(),
        Ok(problems) => problems.join("\n") + "\n",
        Err(error) => format!("not available: {error:#}\n"),
    }
}

/// The end of a file.
fn end_of(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("The log {} can't be read.", path.display()))?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_MAX_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a unit's journal, or why there are none.
async fn journal(unit: &str, clock: &SharedClock) -> String {
    let lines = tokio::process::Command::new("journalctl")
        .args(["--no-pager", "--output=cat", "--lines", JOURNAL_LINES, "--unit", unit])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match clock.timeout(JOURNAL_MAX, lines).await {
        Ok(Ok(output)) if output.status.success() => {
            let max_bytes = usize::try_from(LOG_MAX_BYTES).unwrap_or(usize::MAX);
            let from = output.stdout.len().saturating_sub(max_bytes);
            String::from_utf8_lossy(&output.stdout[from..]).into_owned()
        }
        _ => format!("not available: no journal of the unit {unit}; name the log with --log-file\n"),
    }
}

/// Writes a compressed tar archive that only this user can read.
fn write_archive(path: &Path, folder: &str, parts: &[Part], clock: &SharedClock) -> anyhow::Result<()> {
    let failed = || format!("The archive {} can't be written.", path.display());
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("The file {} exists. Name another one with --output.", path.display())
        }
        opened => opened.with_context(failed)?,
    };
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for Part { name, content, .. } in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(clock.now().as_second()).unwrap_or_default());
        archive.append_data(&mut header, format!("{folder}/{name}"), content.as_bytes()).with_context(failed)?;
    }
    let written = archive.into_inner().and_then(GzEncoder::finish).and_then(|file| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written.with_context(failed)
}
