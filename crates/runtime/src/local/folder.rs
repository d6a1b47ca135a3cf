//! The folder of a run: its files, and how they are written so that a crash leaves no wrong state.
//!
//! ```text
//! spec.json     what to run; the folder appears under its name with it, complete, by one rename
//! lock          held (flock) by the supervisor for life: this, never a pid, says that a run is alive
//! started       from here on the job's process may exist: never run again
//! control       socket: connecting wakes the supervisor; its closing tells of the end
//! cancel        a cancellation was asked for
//! exit.json     how it ended; nothing of it is left
//! log.<offset>  pieces of the log
//! shim.log      the supervisor's own complaints; normally empty
//! job/          all that the job may change: work/ home/ tmp/ out/
//! forgotten     alone in the folder: the run is over and stored, and must not be created again
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use files::{Lock, create, publish, write_durably};
use jiff::Timestamp;
use model::execution::ExecutionEnd;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
pub(super) use sandbox::remove_tree;
use serde::{Deserialize, Serialize};

pub(super) const JOB: &str = "job";
pub(super) const WORK: &str = "job/work";
pub(super) const HOME: &str = "job/home";
pub(super) const TMP: &str = "job/tmp";
pub(super) const OUT: &str = "job/out";
pub(super) const TERMINATION_MESSAGE: &str = "termination-message";
pub(super) const LOCK: &str = "lock";
pub(super) const CONTROL: &str = "control";
pub(super) const CANCEL: &str = "cancel";
pub(super) const SHIM_LOG: &str = "shim.log";
const STARTED: &str = "started";
const FORGOTTEN: &str = "forgotten";

/// How long a forgotten run keeps its name. A service that froze between its decision to start a run and the start may
/// come back as late as that, when another service has long seen the run to its end.
const FORGOTTEN_KEEP: Duration = Duration::from_secs(24 * 60 * 60);
const EXIT: &str = "exit.json";
const EXIT_RESERVE: &str = "exit.reserve";

/// Room for the end of a run, taken before it starts: a job that fills the disk can't keep its end from being written.
const EXIT_RESERVE_BYTES: usize = 32 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Started {
    started_at: Timestamp,
}

/// The folder of one run.
#[derive(Debug, Clone)]
pub(super) struct RunFolder(PathBuf);

impl RunFolder {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn exists(&self) -> io::Result<bool> {
        Ok(self.0.try_exists()? && !self.is_forgotten()?)
    }

    /// Whether the run is over and was forgotten.
    pub(super) fn is_forgotten(&self) -> io::Result<bool> {
        self.0.join(FORGOTTEN).try_exists()
    }

    /// Removes all but the name, in one step: from then on the run can't be made a second time.
    pub(super) fn forget(&self) -> io::Result<()> {
        let Some(parent) = self.0.parent() else { return Err(ErrorKind::InvalidInput.into()) };
        let mark = temporary_folder(parent, NEW_PREFIX)?;
        let filled = File::open(mark.path())?;
        filled.try_lock()?;
        create(&mark.path().join(FORGOTTEN))?;
        match renameat_with(CWD, mark.path(), CWD, &self.0, RenameFlags::EXCHANGE) {
            Ok(()) => remove_tree(&mark.keep()),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// How the run ended; `None` while it has not.
    pub(super) fn end(&self) -> io::Result<Option<ExecutionEnd>> {
        read_json(&self.0.join(EXIT))
    }

    /// When the job's process was started; `None` while that can't have happened.
    pub(super) fn started(&self) -> io::Result<Option<Timestamp>> {
        Ok(read_json::<Started>(&self.0.join(STARTED))?.map(|s| s.started_at))
    }

    pub(super) fn write_started(&self, started_at: Timestamp) -> io::Result<()> {
        write_durably(&self.0.join(STARTED), &serde_json::to_vec(&Started { started_at })?)
    }

    pub(super) fn cancel_requested(&self) -> io::Result<bool> {
        self.0.join(CANCEL).try_exists()
    }

    pub(super) fn write_cancel(&self) -> io::Result<()> {
        write_durably(&self.0.join(CANCEL), b"")
    }

    /// Takes the room that [`Self::write_end`] needs.
    pub(super) fn reserve_end(&self) -> io::Result<()> {
        let mut file = create(&self.0.join(EXIT_RESERVE))?;
        file.write_all(&vec![b' '; EXIT_RESERVE_BYTES])?;
        file.sync_all()
    }

    /// Writes how the run ended, over the blocks that were reserved for it.
    pub(super) fn write_end(&self, end: &ExecutionEnd) -> io::Result<()> {
        let bytes = serde_json::to_vec(end)?;
        let reserved = self.0.join(EXIT_RESERVE);
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&reserved)?;
        file.write_all(&bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()?;
        publish(&reserved, &self.0.join(EXIT))
    }

    /// Tries to take the run's lock. `None` when another holds it.
    pub(super) fn try_lock(&self) -> io::Result<Option<Lock>> {
        Lock::try_exclusive(&self.0.join(LOCK))
    }

    /// Removes the folder, whatever the job made of its rights. It vanishes under its name at once.
    pub(super) fn remove(&self) -> io::Result<()> {
        let Some((parent, name)) = self.0.parent().zip(self.0.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let gone = temporary_folder(parent, REMOVED_PREFIX)?.keep();
        match fs::rename(&self.0, gone.join(name)) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => {
                let _ = fs::remove_dir(&gone);
                return Err(e);
            }
        }
        remove_tree(&gone)
    }
}

/// Folders of this prefix are being filled, under a lock.
pub(super) const NEW_PREFIX: &str = ".new-";
/// Folders of this prefix are being removed.
pub(super) const REMOVED_PREFIX: &str = ".gone-";

/// A new folder beside the runs that only this user can enter.
pub(super) fn temporary_folder(runs: &Path, prefix: &str) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(prefix).permissions(fs::Permissions::from_mode(0o700)).tempdir_in(runs)
}

/// Gives up the names of runs that were forgotten long ago.
pub(super) fn remove_forgotten(runs: &Path, now: Timestamp) -> io::Result<()> {
    for entry in fs::read_dir(runs)? {
        let folder = RunFolder::at(entry?.path());
        if !folder.is_forgotten()? {
            continue;
        }
        let since = fs::metadata(folder.path().join(FORGOTTEN)).and_then(|mark| mark.modified());
        let Ok(since) = since.and_then(|at| Timestamp::try_from(at).map_err(io::Error::other)) else { continue };
        if now.duration_since(since).unsigned_abs() > FORGOTTEN_KEEP
            && let Err(error) = folder.remove()
        {
            tracing::warn!(path = %folder.path().display(), %error, "an old run folder could not be removed");
        }
    }
    Ok(())
}

/// Removes folders in `runs` that a crash left incomplete.
pub(super) fn remove_leftovers(runs: &Path) -> io::Result<()> {
    for entry in fs::read_dir(runs)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_left = name.starts_with(REMOVED_PREFIX)
            || (name.starts_with(NEW_PREFIX) && File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok()));
        // A leftover costs disk space and blocks nothing.
        if is_left && let Err(error) = remove_tree(&entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a leftover of an execution could not be removed");
        }
    }
    Ok(())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// How long a check may hold a lock that another process needs, and the pause between two attempts.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(5);
pub(super) const LOCK_PAUSE: Duration = Duration::from_millis(5);
