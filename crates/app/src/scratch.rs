//! Temporary files of requests: bytes that a request must not hold in memory.

use std::{
    fs::{DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::PathBuf,
};

use model::{Problem, problem::Code};

/// The directory of the temporary files. A file in it has no name, so that no other process can open it, and its bytes are
/// released when it is closed, also by a crash.
#[derive(Debug, Clone)]
pub struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// Uses `folder`, and creates it if it does not exist.
    ///
    /// # Errors
    /// If it can't be created.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }

    /// A new file of mode 0600 without a name.
    ///
    /// # Errors
    /// Unavailable if the disk or the directory does not allow it.
    pub fn file(&self) -> Result<File, Problem> {
        let file = tempfile::tempfile_in(&self.folder).and_then(|file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            Ok(file)
        });
        file.map_err(|error| unwritten(&error))
    }
}

/// A temporary file could not be written.
pub fn unwritten(error: &io::Error) -> Problem {
    Problem::new(
        Code::TemporaryFileFailed,
        "The request failed.",
        format!("A temporary file in `data_dir` can't be written ({error})."),
    )
    .nothing_changed()
    .fix("Retry; if it fails again, the operator frees space in `data_dir`.")
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn a_temporary_file_has_no_name_and_is_for_the_service_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("tmp");
        let mut file = Scratch::new(folder.clone()).unwrap().file().unwrap();
        file.write_all(b"content").unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.permissions().mode() & 0o777), (0, 0o600));
        assert_eq!(folder.read_dir().unwrap().count(), 0);
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
