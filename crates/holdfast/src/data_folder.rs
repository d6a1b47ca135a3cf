//! The folder that holds everything of one instance: the database, the keys, environments and runs.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// The data folder, held by this instance until it is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder where there is none, and takes it for this instance alone.
    ///
    /// # Errors
    /// When another instance has it, or when it can't be made or written to.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("The data folder {shown} can't be made. Choose another with --data-dir."))?;
        let path = path.canonicalize().with_context(|| format!("The data folder {shown} can't be reached."))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(|| format!("The data folder {shown} can't be written to. Choose another with --data-dir."))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "Another Holdfast uses the data folder {shown}. One instance a folder: stop the other one, or choose \
                 another folder with --data-dir."
            ),
            Err(TryLockError::Error(error)) => Err(error)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_of_a_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataFolder::open(dir.path()).unwrap();
        assert!(DataFolder::open(dir.path()).unwrap_err().to_string().contains("Another Holdfast"));
        drop(held);
        DataFolder::open(dir.path()).unwrap();
    }
}
