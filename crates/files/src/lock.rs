//! Locks between processes. The kernel releases them when their process ends, however it ends.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// A lock on a file that is held until it is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Tries to be the only holder. `None` when another holds the lock.
    ///
    /// # Errors
    /// When the file can't be made, or its file system has no locks.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        Self::take(path, |file| attempt(file.try_lock()))
    }

    /// Tries to be one of several holders. `None` when another is the only one.
    ///
    /// # Errors
    /// When the file can't be made, or its file system has no locks.
    pub fn try_shared(path: &Path) -> io::Result<Option<Self>> {
        Self::take(path, |file| attempt(file.try_lock_shared()))
    }

    /// Waits until it is the only holder.
    ///
    /// # Errors
    /// When the file can't be made, or its file system has no locks.
    pub fn exclusive(path: &Path) -> io::Result<Self> {
        held(Self::take(path, |file| file.lock().map(|()| true))?)
    }

    /// Waits until no other is the only holder.
    ///
    /// # Errors
    /// When the file can't be made, or its file system has no locks.
    pub fn shared(path: &Path) -> io::Result<Self> {
        held(Self::take(path, |file| file.lock_shared().map(|()| true))?)
    }

    /// Opens and locks the file. One that was removed between the two guards nothing any more; it is opened again.
    fn take(path: &Path, lock: impl Fn(&File) -> io::Result<bool>) -> io::Result<Option<Self>> {
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            match lock(&file) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let own = file.metadata()?;
            match fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => return Ok(Some(Self(file))),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a process that is being started in another thread has a copy of the descriptor
        // until it has become its program, and the copy would hold the lock.
        let _ = self.0.unlock();
    }
}

fn attempt(taken: Result<(), TryLockError>) -> io::Result<bool> {
    match taken {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A lock that was waited for is always held.
fn held(lock: Option<Lock>) -> io::Result<Lock> {
    lock.ok_or_else(|| ErrorKind::WouldBlock.into())
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn one_holds_a_lock_or_several_share_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let alone = Lock::try_exclusive(&path).unwrap().unwrap();
        assert!(Lock::try_exclusive(&path).unwrap().is_none() && Lock::try_shared(&path).unwrap().is_none());
        drop(alone);
        let shared = [Lock::try_shared(&path).unwrap().unwrap(), Lock::shared(&path).unwrap()];
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(shared);
        assert!(Lock::try_exclusive(&path).unwrap().is_some());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the other thread waits for real")]
    fn a_lock_is_waited_for_even_when_its_file_is_removed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::exclusive(&path).unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| Lock::exclusive(&path).unwrap());
            thread::sleep(Duration::from_millis(50));
            fs::remove_file(&path).unwrap();
            drop(first);
            let _second = second.join().unwrap();
            assert!(Lock::try_exclusive(&path).unwrap().is_none(), "the second holds the file of this name");
        });
    }
}
