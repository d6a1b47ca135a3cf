//! Shared by the programs that measure: generated fleets, CPU time and memory of processes, and the machine.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use devtools::{
    environment::{cargo, workspace},
    progress::say,
};
use testing::{Database, Fresh, Server};

use crate::service::{Options, Service};

/// The kernel counts CPU time in hundredths of a second.
const TICK_MS: f64 = 10.0;

/// Jobs of a generated fleet that run for a while already, or that are all to be rolled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollouts {
    /// All of them are done, and there is no leader, because nothing of it could be run.
    Done,
    /// All of them are due.
    Due,
}

/// A service on a generated fleet.
#[derive(Debug)]
pub struct Fleet {
    /// The service.
    pub service: Service,
    /// Its database, when that is on a server.
    pub database: Option<Fresh>,
    /// The size of the database before the service found it.
    pub bytes: u64,
    /// From the start of the process to its start-up line.
    pub ready: Duration,
    /// When the process was started.
    pub begun: Instant,
}

impl Fleet {
    /// The generator makes the schema; the service finds it as it would find its own.
    ///
    /// # Errors
    /// When the database can't be filled, or the service does not come up.
    pub fn start(database: Database, jobs: usize, runs: usize, rollouts: Rollouts, options: Options) -> Result<Self> {
        let generator = Generator { checkout: &workspace(), built: None };
        Self::start_by(generator, database, jobs, runs, rollouts, options)
    }

    /// The same with the generator of another build, whose program `options` names.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_by(
        generator: Generator<'_>,
        database: Database,
        jobs: usize,
        runs: usize,
        rollouts: Rollouts,
        options: Options,
    ) -> Result<Self> {
        if database == Database::Postgresql {
            let fresh = database.empty();
            generator.fill(fresh.url(), jobs, runs, rollouts)?;
            // As the server does automatically some time later.
            fresh.psql("vacuum analyze");
            let bytes = fresh.psql("select pg_database_size(current_database())").parse()?;
            let begun = Instant::now();
            let mut service = Service::try_start(options.set("HOLDFAST_DATABASE_URL", fresh.url()))?;
            let ready = service.process().ready_after();
            return Ok(Self { service, database: Some(fresh), bytes, ready, begun });
        }
        let mut service = Service::try_start(options)?;
        service.stop();
        let file = service.data_dir().join("holdfast.db");
        fs::remove_file(&file).with_context(|| format!("no database at {}", file.display()))?;
        for beside in ["holdfast.db-wal", "holdfast.db-shm"] {
            let _ = fs::remove_file(service.data_dir().join(beside));
        }
        generator.fill(&format!("sqlite:{}", file.display()), jobs, runs, rollouts)?;
        let bytes = fs::metadata(&file)?.len();
        let begun = Instant::now();
        let ready = service.start_again();
        Ok(Self { service, database: None, bytes, ready, begun })
    }

    /// The processes whose CPU time is counted.
    pub fn meter(&mut self) -> Meter {
        let server = self.database.is_some().then(|| Server::shared().supervisor_id());
        Meter { service: self.service.process().id(), server }
    }
}

/// The processes of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    /// The service.
    pub service: u32,
    /// Above all processes of PostgreSQL.
    pub server: Option<u32>,
}

impl Meter {
    /// The CPU time so far in ms, of the service and of PostgreSQL.
    ///
    /// # Errors
    /// When the service is not there any more.
    pub fn read(self) -> Result<(f64, f64)> {
        Ok((cpu_ms(self.service)?, self.server.map_or(0.0, cpu_ms_below)))
    }
}

/// Team and name of a job of a generated fleet, by its number.
pub fn fleet_job(number: usize) -> (String, String) {
    let word = ["daily", "weekly", "hourly", "ingest", "report"][number % 5];
    let about = ["sales", "orders", "costs", "stock", "payments", "returns", "customers"][number / 5 % 7];
    (format!("Team {:04}", number / 100), format!("{word}-{about}-{number:06}"))
}

/// What fills an empty database with a fleet: the example `fill` of `store`.
#[derive(Debug, Clone, Copy)]
pub struct Generator<'a> {
    /// The checkout in which Cargo builds it.
    pub checkout: &'a Path,
    /// The folder in which it is built already.
    pub built: Option<&'a Path>,
}

impl Generator<'_> {
    /// Fills a database.
    ///
    /// # Errors
    /// When it fails.
    pub fn fill(self, url: &str, jobs: usize, runs: usize, rollouts: Rollouts) -> Result<()> {
        let begun = Instant::now();
        let mut command = if let Some(folder) = self.built {
            Command::new(folder.join("fill"))
        } else {
            let mut command = Command::new(cargo());
            if self.checkout != workspace() {
                // A folder for two checkouts would mix their programs.
                command.env_remove("CARGO_TARGET_DIR");
            }
            command.current_dir(self.checkout).args(["run", "--quiet", "--package", "store", "--example", "fill"]);
            // Built as this program is.
            command.args((!cfg!(debug_assertions)).then_some("--release")).arg("--");
            command
        };
        let status = command
            .args([url, &jobs.to_string(), &runs.to_string()])
            .args((rollouts == Rollouts::Due).then_some("due"))
            .status()
            .context("cargo cannot be started")?;
        ensure!(status.success(), "the database was not filled");
        say(format_args!("  filled in {:.0} s", begun.elapsed().as_secs_f64()));
        Ok(())
    }
}

/// The value below which this share of all lies.
///
/// # Panics
/// When there is none.
pub fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "small counts"
    )]
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1;
    sorted[index]
}

/// CPU time that a process has used, in user and system mode.
///
/// # Errors
/// When there is no such process.
pub fn cpu_ms(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, after) = stat.rsplit_once(") ").context("no stat")?;
    let ticks: f64 = after.split(' ').skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
    Ok(ticks * TICK_MS)
}

/// CPU time of all descendants of a process, ended ones left out.
fn cpu_ms_below(root: u32) -> f64 {
    let parents: BTreeMap<u32, u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, parent(process)?)))
        .collect();
    let is_below = |mut process: u32| {
        while process != root {
            let Some(above) = parents.get(&process) else { return false };
            process = *above;
        }
        true
    };
    parents.keys().filter(|process| is_below(**process)).filter_map(|process| cpu_ms(*process).ok()).sum()
}

fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Resident memory in MiB, now and at most.
///
/// # Errors
/// When there is no such process.
pub fn memory(process: u32) -> Result<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let mib = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    };
    Ok((mib("VmRSS:")?, mib("VmHWM:")?))
}

/// How busy the machine is, for people.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<_> = load.split(' ').take(3).collect();
    format!("Load of the machine before (1, 5, 15 minutes): {}.", load.join(", "))
}

/// The machine.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Measured with {} (release build) on {} × {}, {} of memory, Linux {}.",
        version().unwrap_or_else(|| "holdfast".into()),
        cores,
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

fn version() -> Option<String> {
    let binary = devtools::environment::variable("HOLDFAST_BIN")?;
    let output = Command::new(binary).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
