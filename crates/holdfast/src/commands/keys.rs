//! `holdfast keys`: the encryption keys of secrets.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, Command};
use store::Db;

use super::record::record;
use crate::{
    config::{DatabaseUrl, Settings},
    database, keys,
};

/// A task of `holdfast keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// List the keys.
    List,
    /// Create a key, or activate an existing one.
    Rotate {
        /// The id of the key.
        to: Option<String>,
    },
    /// Remove a key that no secret needs.
    Remove {
        /// The id of the key.
        id: String,
    },
    /// Copy key files into the data folder.
    Copy {
        /// The folder that has them.
        from: PathBuf,
    },
}

impl Task {
    /// The task, and the arguments that hold the settings.
    pub(super) fn of(matches: &ArgMatches) -> (Self, &ArgMatches) {
        match matches.subcommand() {
            Some(("rotate", matches)) => (Self::Rotate { to: matches.get_one("to").cloned() }, matches),
            Some(("remove", matches)) => {
                (Self::Remove { id: matches.get_one("id").cloned().unwrap_or_default() }, matches)
            }
            Some(("copy", matches)) => {
                (Self::Copy { from: matches.get_one::<PathBuf>("from").cloned().unwrap_or_default() }, matches)
            }
            Some((_, matches)) => (Self::List, matches),
            None => (Self::List, matches),
        }
    }
}

/// The command line of `keys`.
pub(super) fn command(with_settings: impl Fn(Command) -> Command) -> Command {
    Command::new("keys")
        .about("List, rotate and remove encryption keys of secrets, while the service runs.")
        .long_about(
            "List, rotate and remove encryption keys of secrets, while the service runs. Each key is a file in the data \
             folder; the database names the active one, which encrypts all new secrets.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(
            "Examples:\n  \
             holdfast keys list\n  \
             holdfast keys rotate\n  \
             holdfast keys remove 0123456789abcdef",
        )
        .subcommand(with_settings(
            Command::new("list").about("Print each key, where its file is, and how many stored secrets need it."),
        ))
        .subcommand(
            with_settings(Command::new("rotate"))
                .about("Create a new key and re-encrypt all secrets with it.")
                .long_about(
                    "Create a new key and re-encrypt all secrets with it. The running service finds the new key automatically \
                     and re-encrypts stored secrets in the background. Back up the new file immediately. If instances share \
                     a database, this creates only the file: copy it to every instance, then name it with --to.",
                )
                .arg(
                    Arg::new("to")
                        .long("to")
                        .value_name("KEY")
                        .help("Activate this key instead of creating one; its file must be in the data folder"),
                )
                .after_help(
                    "Examples:\n  \
                     holdfast keys rotate\n  \
                     holdfast keys rotate --to 0123456789abcdef",
                ),
        )
        .subcommand(
            with_settings(Command::new("remove"))
                .about("Remove the file of a key that no stored secret needs.")
                .long_about(
                    "Remove the file of a key that no stored secret needs. Keep a copy as long as there are backups of the \
                     database from before the rotation.",
                )
                .arg(Arg::new("id").value_name("KEY").required(true).help("The key, as `holdfast keys list` prints it")),
        )
        .subcommand(
            with_settings(Command::new("copy"))
                .about("Copy key files into the data folder, before the service starts.")
                .long_about(
                    "Copy key files into the data folder, before the service starts: `secret.key`, and those of rotations into \
                     the folder `keys`. The copies can be read by the service's user alone, which a mounted Secret of Kubernetes \
                     can't be limited to. Needs no database.",
                )
                .arg(
                    Arg::new("from")
                        .long("from")
                        .value_name("FOLDER")
                        .required(true)
                        .value_parser(clap::value_parser!(PathBuf))
                        .help("The folder with the files *.key"),
                )
                .after_help("Example:\n  holdfast keys copy --from /secret --data-dir /var/lib/holdfast"),
        )
}

/// Carries out the task. The service may be running.
pub(crate) async fn run(settings: &Settings, task: &Task, out: &mut dyn Write) -> anyhow::Result<()> {
    if let Task::Copy { from } = task {
        for file in keys::copy(from, &settings.data_dir)? {
            writeln!(out, "Wrote {}.", file.display())?;
        }
        return Ok(out.flush()?);
    }
    let folder = settings
        .data_dir
        .canonicalize()
        .with_context(|| format!("The data folder {} can't be reached.", settings.data_dir.display()))?;
    let file = folder.join("holdfast.db");
    if matches!(settings.database_url, DatabaseUrl::Sqlite) && !file.exists() {
        bail!("There is no database in {}. Name the right folder with --data-dir.", folder.display());
    }
    let db = database::open(settings, &file).await?;
    let told = match task {
        Task::List => list(&folder, &db).await,
        Task::Rotate { to } => rotate(&folder, &db, to.as_deref()).await,
        Task::Remove { id } => remove(&folder, &db, id).await,
        Task::Copy { .. } => Ok(String::new()),
    };
    db.close().await;
    out.write_all(told?.as_bytes())?;
    Ok(out.flush()?)
}

#[expect(clippy::needless_pass_by_value, reason = "the form in which keys are read")]
fn unfit(path: &Path, error: anyhow::Error) {
    let mut stderr = std::io::stderr();
    // A closed standard error can't be reported.
    let _ = writeln!(stderr, "The key file {} can't be used: {error:#}", path.display());
}

async fn list(folder: &Path, db: &Db) -> anyhow::Result<String> {
    let files = keys::read_all(folder, unfit)?;
    let mut tx = db.read().await?;
    let needed: BTreeMap<String, i64> = store::keys::needed(&mut tx).await?.into_iter().collect();
    drop(tx);
    let active = store::keys::active(db).await?;
    let mut ids: Vec<_> = files.keys().chain(needed.keys()).chain(&active).collect();
    ids.sort();
    ids.dedup();
    let mut told = format!("{:<16}  {:>8}  {:<37}  FILE\n", "KEY", "SECRETS", "STATE");
    for id in ids {
        let rows = needed.get(id).copied().unwrap_or(0);
        let state = match (active.as_ref() == Some(id), files.contains_key(id), rows) {
            (true, true, _) => "active",
            (true, false, _) => "active, its file is missing here",
            (false, false, _) => "needed, its file is missing here",
            (false, true, 0) => "not needed",
            (false, true, _) => "needed until secrets are re-encrypted",
        };
        let file = files.get(id).map_or_else(|| keys::path(folder, id), |(path, _)| path.clone());
        let _ = writeln!(told, "{id:<16}  {rows:>8}  {state:<37}  {}", file.display());
    }
    Ok(told)
}

async fn rotate(folder: &Path, db: &Db, to: Option<&str>) -> anyhow::Result<String> {
    if store::keys::active(db).await?.is_none() {
        bail!("There is no key yet: the service creates the first one at its first start.");
    }
    let mut told = String::new();
    let id = if let Some(id) = to {
        id.to_owned()
    } else {
        let key = keys::add(folder).context("The new key file can't be created.")?;
        let _ = writeln!(
            told,
            "Created the key {} in {}. Back it up now.",
            key.id(),
            keys::path(folder, key.id()).display()
        );
        if !db.is_exclusive() {
            let _ = writeln!(
                told,
                "Copy the file to the folder `keys` of the data folder of every instance. When every instance has it:\n  \
                     holdfast keys rotate --to {}",
                key.id()
            );
            return Ok(told);
        }
        key.id().to_owned()
    };
    let mut tx = db.write().await?;
    let former = store::keys::lock_active(&mut tx).await?.unwrap_or_default();
    // Read under the lock, because keys are removed under it.
    if !keys::read_all(folder, unfit)?.contains_key(&id) {
        bail!("There is no file of the key {id} in {}. `holdfast keys list` lists the keys.", folder.display());
    }
    if former == id {
        return Ok(format!("{told}The key {id} is already active.\n"));
    }
    store::keys::make_active(&mut tx, &id).await?;
    record(&mut tx, "keys.rotate", format!("from {former} to {id}")).await?;
    tx.commit().await?;
    let _ = writeln!(
        told,
        "New secrets are encrypted with the key {id}. The service re-encrypts stored secrets in the background;\n\
         `holdfast keys list` shows when the key {former} is no longer needed."
    );
    Ok(told)
}

async fn remove(folder: &Path, db: &Db, id: &str) -> anyhow::Result<String> {
    let mut tx = db.write().await?;
    // Writers of secrets lock this row, so that no secret can be encrypted with the key in the meantime.
    let active = store::keys::lock_active(&mut tx).await?;
    let files = keys::read_all(folder, unfit)?;
    let Some((path, _)) = files.get(id) else {
        bail!("There is no file of the key {id} in {}. `holdfast keys list` lists the keys.", folder.display());
    };
    if active.as_deref() == Some(id) {
        bail!("The key {id} is active. Activate another key first: `holdfast keys rotate`.");
    }
    let rows = store::keys::needed_by(&mut tx, id).await?;
    if rows > 0 {
        bail!(
            "The key {id} is needed: {rows} stored secrets are encrypted with it. The running service re-encrypts them with \
             the active key in the background; retry when `holdfast keys list` shows the key as not needed."
        );
    }
    keys::remove(path).with_context(|| format!("The key file {} can't be removed.", path.display()))?;
    record(&mut tx, "keys.remove", id.to_owned()).await?;
    tx.commit().await?;
    Ok(format!("Removed {}. Backups of the database from before the rotation still need it.\n", path.display()))
}

#[cfg(test)]
mod tests {
    use clock::SystemClock;
    use model::{
        clock::Clock,
        job::{DataJob, JobConfig},
        name::{JobId, JobName, TeamName},
    };
    use secrecy::ExposeSecret;

    use super::*;

    #[tokio::test]
    async fn a_key_is_removed_only_if_unneeded_and_what_it_encrypted_is_read_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let db = Db::open_sqlite(&folder.join("holdfast.db"), std::sync::Arc::new(SystemClock)).await.unwrap();
        assert!(rotate(folder, &db, None).await.unwrap_err().to_string().contains("no key yet"));
        let ring = keys::open(folder, &db).await.unwrap();
        let old = ring.ids().remove(0);
        let job = DataJob {
            id: JobId(SystemClock.new_id()),
            name: JobName::parse("example-job").unwrap(),
            team: TeamName::parse("a team").unwrap(),
            description: String::new(),
            config: JobConfig::default(),
        };
        let now = SystemClock.now();
        let mut tx = db.write().await.unwrap();
        store::jobs::insert(&mut tx, &job, None, "someone", now).await.unwrap();
        store::secrets::replace(&mut tx, &ring, job.id, &"correct horse".to_owned().into(), "someone", now)
            .await
            .unwrap();
        tx.commit().await.unwrap();

        let told = rotate(folder, &db, None).await.unwrap();
        let new = store::keys::active(&db).await.unwrap().unwrap();
        assert!(new != old && told.contains(&new) && told.contains("Back it up"), "{told}");
        let refused = async |id: &str| remove(folder, &db, id).await.unwrap_err().to_string();
        assert!(refused(&old).await.contains("1 stored secrets"));
        assert!(refused(&new).await.contains("active"));
        assert!(refused("0123456789abcdef").await.contains("no file"));
        assert!(list(folder, &db).await.unwrap().contains("needed until"));

        // The key set was opened before the rotation, and needs no restart.
        let mut tx = db.write().await.unwrap();
        let found = store::secrets::find(&mut tx, &ring, job.id).await.unwrap().unwrap();
        assert_eq!(found.expose_secret(), "correct horse");
        assert_eq!(store::secrets::reencrypt(&mut tx, &ring, "", 10).await.unwrap().done, 1);
        tx.commit().await.unwrap();
        assert!(list(folder, &db).await.unwrap().contains("not needed"));
        remove(folder, &db, &old).await.unwrap();
        assert!(!folder.join("secret.key").exists());
        let reopened = keys::open(folder, &db).await.unwrap();
        let found = store::secrets::find(&mut db.read().await.unwrap(), &reopened, job.id).await.unwrap().unwrap();
        assert_eq!(found.expose_secret(), "correct horse");
        assert!(rotate(folder, &db, Some(&old)).await.unwrap_err().to_string().contains("no file"));
    }
}
