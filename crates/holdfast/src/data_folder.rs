//! The data folder: encryption keys, environments, local executions, and SQLite's file.

use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use files::Lock;
use model::clock::Clock;
use serde::{Deserialize, Serialize};
use store::Db;

use crate::modes;

/// The data folder, locked until this is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: Lock,
}

/// Whether instances share a data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// One instance: the database is in it.
    Alone,
    /// Several instances: the database is a server.
    Together,
}

/// The lock under which one instance initializes a folder or a database, until it is dropped.
#[derive(Debug)]
pub(crate) struct StartupLock {
    _lock: Lock,
}

/// The content of the file `host`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Host {
    /// The id of this folder.
    host: String,
    /// The id of the database whose executions are in it.
    database: String,
}

impl DataFolder {
    /// Creates the folder if it is missing, and locks it.
    ///
    /// # Errors
    /// If another instance uses it exclusively, or if it can't be created or written to.
    pub(crate) fn open(path: &Path, how: Use) -> anyhow::Result<Self> {
        let shown = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("The data folder {shown} can't be created. Choose another with --data-dir."))?;
        let path = path.canonicalize().with_context(|| format!("The data folder {shown} can't be reached."))?;
        modes::make_private(&path).with_context(|| format!("The data folder {shown} can't be made private."))?;
        let lock = path.join("lock");
        files::create(&lock)
            .with_context(|| format!("The data folder {shown} can't be written to. Choose another with --data-dir."))?;
        let taken = match how {
            Use::Alone => Lock::try_exclusive(&lock),
            Use::Together => Lock::try_shared(&lock),
        };
        match taken {
            Ok(Some(lock)) => Ok(Self { path, _lock: lock }),
            Ok(None) if how == Use::Alone => bail!(
                "Another Holdfast uses the data folder {shown}. With SQLite, only one instance may use a data folder: stop the \
                 other one, or choose another folder with --data-dir."
            ),
            Ok(None) => bail!(
                "Another Holdfast with SQLite uses the data folder {shown}. Stop it, or choose another folder with \
                 --data-dir."
            ),
            Err(error) => Err(error)
                .with_context(|| format!("The data folder {shown} can't be locked; its file system must offer locks.")),
        }
    }

    /// The folder's path, links followed.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The SQLite file.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("holdfast.db")
    }

    /// Waits until no other instance initializes this folder.
    pub(crate) async fn startup_lock(&self) -> anyhow::Result<StartupLock> {
        let path = self.path.join("turn.lock");
        let locked = tokio::task::spawn_blocking(move || Lock::exclusive(&path));
        let lock =
            locked.await?.with_context(|| format!("The data folder {} can't be locked.", self.path.display()))?;
        Ok(StartupLock { _lock: lock })
    }

    /// The id of this folder as a place where jobs run, made at the first start with a database that is shared.
    ///
    /// # Errors
    /// When the folder holds the runs of another database.
    pub(crate) async fn host(&self, db: &Db, clock: &dyn Clock, _startup_lock: &StartupLock) -> anyhow::Result<String> {
        let database = store::hosts::database_id(db, &clock.new_id().to_string()).await?;
        let path = self.path.join("site");
        let shown = path.display();
        match fs::read_to_string(&path) {
            Ok(text) => {
                let known: Host = serde_json::from_str(&text)
                    .with_context(|| format!("The file {shown} can't be read. Restore it from a backup."))?;
                if known.database != database {
                    bail!(
                        "The data folder {} belongs to another database (id {}; this one has {database}), and a folder \
                         serves one database. Choose another folder with --data-dir. If no execution of the other \
                         database is needed any more, remove the file `site` from this one.",
                        self.path.display(),
                        known.database
                    );
                }
                Ok(known.host)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let fresh = Host { host: clock.new_id().to_string(), database };
                files::write_durably(&path, format!("{}\n", serde_json::to_string(&fresh)?).as_bytes())
                    .with_context(|| format!("The file {shown} can't be created."))?;
                Ok(fresh.host)
            }
            Err(error) => Err(error).with_context(|| format!("The file {shown} can't be read.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clock::SystemClock;

    use super::*;

    #[test]
    fn a_folder_with_its_own_database_has_one_instance_and_another_one_as_many_as_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |how| DataFolder::open(dir.path(), how).unwrap_err().to_string();
        let alone = DataFolder::open(dir.path(), Use::Alone).unwrap();
        assert!(refused(Use::Alone).contains("Another Holdfast") && refused(Use::Together).contains("with SQLite"));
        drop(alone);
        let _together = [(); 2].map(|()| DataFolder::open(dir.path(), Use::Together).unwrap());
        assert!(refused(Use::Alone).contains("Another Holdfast"));
    }

    #[tokio::test]
    async fn a_folder_that_others_could_enter_and_its_database_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let folder = DataFolder::open(dir.path(), Use::Alone).unwrap();
        let db = Db::open_sqlite(&folder.database(), std::sync::Arc::new(SystemClock)).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.path()), 0o700);
        for name in ["holdfast.db", "holdfast.db-wal", "holdfast.db-shm"] {
            assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
        }
        db.close().await;
    }

    #[tokio::test]
    async fn a_folder_keeps_its_id_and_holds_the_runs_of_one_database() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&dir.path().join("data"), Use::Together).unwrap();
        let host = async |name: &str| {
            let db = Db::open_sqlite(&dir.path().join(name), std::sync::Arc::new(SystemClock)).await.unwrap();
            let startup_lock = folder.startup_lock().await.unwrap();
            folder.host(&db, &SystemClock, &startup_lock).await
        };
        let first = host("one.db").await.unwrap();
        assert_eq!(host("one.db").await.unwrap(), first);
        assert!(host("two.db").await.unwrap_err().to_string().contains("another database"));
    }
}
