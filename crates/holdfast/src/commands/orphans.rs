//! `holdfast orphans`: CronJobs with the label of Holdfast whose jobs are not in its database.

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

/// Time limit of one removal. The request has the uid of the object, so a late one can't remove another object.
const REMOVAL_MAX: Duration = Duration::from_secs(60);

/// A task of `holdfast orphans`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// List the orphans.
    List,
    /// Remove orphans.
    Remove {
        /// Their names.
        names: Vec<String>,
    },
}

impl Task {
    /// The task, and the arguments that hold the settings.
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
        .about("List and remove CronJobs of Holdfast whose jobs are not in its database.")
        .long_about(
            "List and remove CronJobs of Holdfast whose jobs are not in its database, for example after a restore of an older \
             backup. The service never removes them automatically, because the database could be the wrong one: their \
             schedules stay active until you remove them here, by name.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(
            "Examples:\n  \
             holdfast orphans list\n  \
             holdfast orphans remove daily-sales hourly-costs",
        )
        .subcommand(with_settings(Command::new("list").about("Print the name of each orphan and the id of its job.")))
        .subcommand(
            with_settings(Command::new("remove"))
                .about("Remove orphans by name. Their active executions continue.")
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

/// Carries out the task. The service may be running.
///
/// # Errors
/// When the database or the cluster can't be reached, or one of the names is not an orphan; then nothing is removed.
pub(crate) async fn run(settings: &Settings, task: &Task, out: &mut dyn Write) -> anyhow::Result<()> {
    if settings.runtime != RuntimeName::Kubernetes {
        bail!(
            "Orphans exist only in a cluster, and this configuration runs jobs on this machine. \
             Set runtime = kubernetes."
        );
    }
    let file = settings.data_dir.join("holdfast.db");
    if matches!(settings.database_url, DatabaseUrl::Sqlite) && !file.exists() {
        // A new database would know no job at all.
        bail!("There is no database in {}. Name the right folder with --data-dir.", settings.data_dir.display());
    }
    let clock: SharedClock = Arc::new(SystemClock);
    let runtime = cluster::plan(settings, &clock).await?.open_runtime(settings, false, Arc::clone(&clock));
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
        writeln!(out, "None: every CronJob of Holdfast in the namespace {namespace} is in the database.")?;
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
                format!("{name} is not an orphan. Nothing was removed. `holdfast orphans list` lists the orphans.")
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
        writeln!(out, "Removed the CronJob {job_name}. Its active executions continue.")?;
    }
    Ok(())
}
