//! `holdfast orphans`: what stands in the cluster under this service's mark and its database does not know.

use std::{fmt::Write as _, io::Write, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use clap::{Arg, ArgMatches, Command};
use clock::SystemClock;
use model::{
    Problem,
    clock::SharedClock,
    runtime::{KnownDeployment, Runtime, Target},
};
use runtime::kubernetes::KubernetesRuntime;
use store::Db;

use super::record::record;
use crate::{
    cluster,
    config::{DatabaseUrl, RuntimeName, Settings},
    database,
};

/// How long one removal may take. It names the very object that was seen, so it can't come too late for another.
const REMOVAL_MAX: Duration = Duration::from_secs(60);

/// What to do with the orphans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// Show them.
    List,
    /// Remove these.
    Remove {
        /// By name.
        names: Vec<String>,
    },
}

impl Task {
    /// What was asked for, and the arguments that the settings stand in.
    pub(super) fn of(matches: &ArgMatches) -> (Self, &ArgMatches) {
        match matches.subcommand() {
            Some(("remove", matches)) => {
                let names = matches.get_many("name").into_iter().flatten().cloned().collect();
                (Self::Remove { names }, matches)
            }
            Some((_, matches)) => (Self::List, matches),
            None => (Self::List, matches),
        }
    }
}

/// The command line of `orphans`.
pub(super) fn command(with_settings: impl Fn(Command) -> Command) -> Command {
    Command::new("orphans")
        .about("Show and remove CronJobs that this service made and its database does not know.")
        .long_about(
            "Show and remove CronJobs that this service made and its database does not know, as after a database was restored \
             from an older backup. The service leaves them alone, so that a wrong database removes no fleet: their schedules \
             go on until they are removed here, by name.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(
            "Examples:\n  \
             holdfast orphans list\n  \
             holdfast orphans remove daily-sales hourly-costs",
        )
        .subcommand(with_settings(Command::new("list").about("Print the name of each, and the id of the job that it was of.")))
        .subcommand(
            with_settings(Command::new("remove"))
                .about("Remove some of them by name. Their runs in progress go on.")
                .arg(
                    Arg::new("name")
                        .value_name("NAME")
                        .required(true)
                        .num_args(1..)
                        .help("The names, as `holdfast orphans list` prints them"),
                )
                .after_help("Example:\n  holdfast orphans remove daily-sales"),
        )
}

/// Does it. The service may run meanwhile, or not.
///
/// # Errors
/// When the database or the cluster can't be reached, or something that was named is no orphan; then nothing is removed.
pub(crate) async fn run(settings: &Settings, task: &Task, out: &mut dyn Write) -> anyhow::Result<()> {
    if settings.runtime != RuntimeName::Kubernetes {
        bail!(
            "Only a cluster has orphans, and with this configuration jobs run on this machine. Set runtime = kubernetes."
        );
    }
    let file = settings.data_dir.join("holdfast.db");
    if matches!(settings.database_url, DatabaseUrl::Sqlite) && !file.exists() {
        // One that is made now would know no job at all.
        bail!("There is no database in {}. Name the right folder with --data-dir.", settings.data_dir.display());
    }
    let clock: SharedClock = Arc::new(SystemClock);
    let (runtime, _) = cluster::plan(settings, &clock).await?.open(settings, false, Arc::clone(&clock));
    let db = database::open(settings, &file).await?;
    let done = match task {
        Task::List => list(&db, &runtime, out).await,
        Task::Remove { names } => remove(&db, &runtime, &clock, names, out).await,
    };
    db.close().await;
    done?;
    Ok(out.flush()?)
}

async fn find(db: &Db, runtime: &KubernetesRuntime) -> anyhow::Result<Vec<KnownDeployment>> {
    sync::deployments::orphans(db, runtime).await?.map_err(describe)
}

#[expect(clippy::needless_pass_by_value, reason = "the form in which problems come")]
fn describe(problem: Problem) -> anyhow::Error {
    anyhow!(problem.sentences().join("\n  "))
}

async fn list(db: &Db, runtime: &KubernetesRuntime, out: &mut dyn Write) -> anyhow::Result<()> {
    let orphans = find(db, runtime).await?;
    let namespace = &runtime.connection().namespace;
    if orphans.is_empty() {
        writeln!(out, "None: the database knows each CronJob of this service in the namespace {namespace}.")?;
        return Ok(());
    }
    let mut describe = format!("{:<50}  JOB ID\n", "NAME");
    for KnownDeployment { job_name, job_id } in orphans {
        let _ = writeln!(describe, "{job_name:<50}  {job_id}");
    }
    Ok(out.write_all(describe.as_bytes())?)
}

async fn remove(
    db: &Db,
    runtime: &KubernetesRuntime,
    clock: &SharedClock,
    names: &[String],
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let orphans = find(db, runtime).await?;
    let named: Vec<_> = names
        .iter()
        .map(|name| {
            orphans.iter().find(|orphan| orphan.job_name.as_str() == name).with_context(|| {
                format!("{name} is no orphan. Nothing was removed. holdfast orphans list shows those that are.")
            })
        })
        .collect::<Result<_, _>>()?;
    for KnownDeployment { job_name, job_id } in named {
        runtime.may_write_until(clock.boot() + REMOVAL_MAX);
        let target = Target {
            job_id: *job_id,
            job_name: job_name.clone(),
            inputs_hash: None,
            artifact: None,
            last_applied: None,
        };
        runtime.remove(&target).await.map_err(describe)?;
        let mut tx = db.write().await?;
        record(&mut tx, "orphans.remove", format!("{job_name}, of the job {job_id}")).await?;
        tx.commit().await?;
        writeln!(out, "Removed the CronJob {job_name}. Its runs in progress go on.")?;
    }
    Ok(())
}
