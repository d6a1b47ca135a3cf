//! Keeps the service's files private: mode 0600 for files, 0700 for folders.
//!
//! A local job runs as the service's user. Without user namespaces it can change the modes of files that it can
//! neither read nor write, and so expose them to other users or lock the service out. Modes are therefore restored, not just
//! checked.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use model::clock::SharedClock;
use tokio_util::sync::CancellationToken;

/// The interval of checks while jobs may change modes.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// The service's files and folders, parent folders first.
#[derive(Debug, Clone)]
pub(crate) struct Private {
    data: PathBuf,
    cache: PathBuf,
}

/// Folders of the data folder.
const FOLDERS: &[&str] = &["keys", "runs", "environments"];
/// Files of the data folder.
const FILES: &[&str] =
    &["secret.key", "holdfast.db", "holdfast.db-wal", "holdfast.db-shm", "lock", "turn.lock", "site"];

impl Private {
    /// Creates the cache folder if it is missing.
    ///
    /// # Errors
    /// If it can't be created.
    pub(crate) fn new(data: &Path, cache: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
        Ok(Self { data: data.to_owned(), cache: cache.to_owned() })
    }

    /// Restores the mode of each file and folder, with a warning. Returns the number of restored modes.
    pub(crate) fn repair(&self) -> usize {
        let mut paths = vec![self.data.clone(), self.cache.clone()];
        paths.extend(FOLDERS.iter().chain(FILES).map(|name| self.data.join(name)));
        let mut repaired = 0;
        for path in &paths {
            repaired += usize::from(make_private(path).unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), %error, "the mode of a file can't be restored");
                false
            }));
        }
        repaired
    }

    /// Restores modes every few seconds until the service stops.
    pub(crate) async fn watch(self, clock: SharedClock, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = clock.sleep(WATCH_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let this = self.clone();
            let _ = tokio::task::spawn_blocking(move || this.repair()).await;
        }
    }
}

/// Makes a file or folder of this user private, with a warning if it was not. Returns whether it was changed.
///
/// Files of other users are unchanged: a volume of a pod belongs to root and is open to the pod's group.
///
/// # Errors
/// If the mode is wrong and can't be changed.
pub(crate) fn make_private(path: &Path) -> io::Result<bool> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let wanted = if there.is_dir() {
        0o700
    } else if there.is_file() {
        0o600
    } else {
        return Ok(false);
    };
    let mode = there.permissions().mode() & 0o777;
    if mode == wanted || there.uid() != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    fs::set_permissions(path, fs::Permissions::from_mode(wanted))?;
    tracing::warn!(
        path = %path.display(),
        mode = format!("{mode:o}"),
        restored = format!("{wanted:o}"),
        "restored the mode of a file that other users could access"
    );
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn open_and_closed_files_and_folders_get_their_modes_back() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("keys")).unwrap();
        let private = Private::new(&data, &data.join("cache")).unwrap();
        assert_eq!(mode(&data.join("cache")), 0o700);
        for name in ["secret.key", "holdfast.db", "holdfast.db-wal", "holdfast.db-shm"] {
            fs::write(data.join(name), "").unwrap();
            set(&data.join(name), 0o644);
        }
        set(&data.join("keys"), 0);
        set(&data.join("cache"), 0o755);
        set(&data.join("holdfast.db"), 0);
        set(&data, 0o777);
        assert_eq!(private.repair(), 7);
        for name in ["secret.key", "holdfast.db", "holdfast.db-wal", "holdfast.db-shm"] {
            assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        }
        for folder in [data.clone(), data.join("keys"), data.join("cache")] {
            assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        }
        assert_eq!(private.repair(), 0);
    }

    #[test]
    fn what_a_link_leads_to_and_files_of_others_keep_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "").unwrap();
        set(&file, 0o644);
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(!make_private(&link).unwrap());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
            assert!(!make_private(&file).unwrap());
        }
        assert_eq!(mode(&file), 0o644);
    }
}
