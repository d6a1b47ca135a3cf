//! Writing so that a crash leaves no half of a file under its name.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Creates (or empties) a file that only this user can read.
///
/// # Errors
/// When it can't be opened.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Makes a folder that only this user can enter, with the folders that lead to it. One that is there is made private.
///
/// # Errors
/// When it can't be made, or belongs to another user.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Writes a file so that after a crash it is there whole or not at all. Of two writers at the same time the last wins,
/// with its whole content.
///
/// A crash may leave a file beside it whose name ends with `.tmp`.
///
/// # Errors
/// When the file is not written, or is not certain to survive a crash.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let prefix = format!(".{}.", name.to_string_lossy());
    let mut file = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(folder)
}

/// Gives a folder or file, whose content is on disk, its final name, so that the name survives a crash.
///
/// # Errors
/// When it can't be renamed, or is not certain to survive a crash.
pub fn publish(made: &Path, to: &Path) -> io::Result<()> {
    fs::rename(made, to)?;
    to.parent().map_or(Ok(()), sync_folder)
}

/// Copies a file to a name that is not taken, so that its content survives a crash. The name does once its folder is
/// [published](publish), or synced.
///
/// # Errors
/// When it can't be read or written, or the name is taken.
pub fn copy_synced(from: &Path, to: &Path) -> io::Result<()> {
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut File::open(from)?, &mut copy)?;
    copy.sync_all()
}

/// Waits until the names in a folder are on disk.
///
/// # Errors
/// When the folder can't be read, or its disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_private_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for content in ["one", "another"] {
            write_durably(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "").unwrap();
        assert!(write_durably(&path, b"new").is_err());
        assert!(path.join("inside").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_copy_is_whole_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "content").unwrap();
        copy_synced(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "content");
        fs::write(&from, "other").unwrap();
        assert!(copy_synced(&from, &to).is_err());
        assert_eq!(fs::read_to_string(&to).unwrap(), "content");
    }

    #[test]
    fn a_folder_that_others_could_enter_is_made_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        for mode in [0o755, 0o700] {
            make_private_folder(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
    }
}
