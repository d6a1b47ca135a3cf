//! Removes folders of foreign code.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, RenameFlags, renameat_with, unlinkat},
    io::Errno,
    path::Arg,
};

use crate::folder::open_folder;

/// How many names of a folder are read before they are removed.
const NAMES_AT_ONCE: usize = 1024;

/// Removes a folder, or a file, that foreign code could write to. A path that does not exist is no error.
///
/// Folders may be nested without limit, have paths longer than the kernel takes, and lack rights. So nothing here recurses,
/// and no path is built: a folder within a folder is moved to the top first. Four descriptors are open at most, and links
/// are removed, never followed.
///
/// # Errors
/// When something in it belongs to another user, or is a mount.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::remove_file(path),
        Err(error) => return Err(error.into()),
    };
    let mut moved = 0_u64;
    loop {
        let names = names_in(&top)?;
        if names.is_empty() {
            return fs::remove_dir(path);
        }
        for name in names {
            if !remove_file(&top, &name)? {
                remove_folder(&top, &name, &mut moved)?;
            }
        }
    }
}

/// Removes a folder of the top one, and moves the folders in it up.
fn remove_folder(top: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    let folder = open(top, name)?;
    loop {
        let names = names_in(&folder)?;
        if names.is_empty() {
            return Ok(unlinkat(top, name, AtFlags::REMOVEDIR)?);
        }
        for inner in names {
            if remove_file(&folder, &inner)? {
                continue;
            }
            // Moving a folder needs the right to write to it.
            drop(open(&folder, inner.as_c_str())?);
            loop {
                *moved += 1;
                let free = format!(".moved-{moved}");
                match renameat_with(&folder, inner.as_c_str(), top, free.as_str(), RenameFlags::NOREPLACE) {
                    Ok(()) => break,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Removes an entry unless it is a folder; `false` if it is.
fn remove_file(folder: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a folder, after its owner has got all rights to it.
fn open(at: impl AsFd, name: impl Arg) -> rustix::io::Result<OwnedFd> {
    open_folder(at, name, 0o700)
}

/// Some of the names in a folder; none if it is empty.
fn names_in(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
        if names.len() == NAMES_AT_ONCE {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::folder::tests::python;

    #[test]
    fn folders_are_removed_however_deep_they_are_on_a_small_stack() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        python(&tree, "import os\nfor i in range(3000):\n os.mkdir('d')\n os.chdir('d')\nopen('f', 'w')");
        let thread = std::thread::Builder::new().stack_size(128 * 1024);
        thread.spawn(move || remove_tree(&tree)).unwrap().join().unwrap().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn folders_without_rights_and_beyond_every_path_are_removed_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, other) = (folder.path().join("tree"), folder.path().join("other"));
        fs::create_dir(&tree).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "kept").unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o755)).unwrap();
        python(
            &tree,
            "import os\nos.symlink('../other', 'link')\nfor i in range(3000):\n open(f'file-{i}', 'w')\n\
             os.mkdir('.moved-1')\nos.mkdir('.moved-2')\n\
             for i in range(20):\n os.mkdir('x' * 250)\n os.chdir('x' * 250)\n\
             os.symlink('/', 'root')\nos.mkdir('in')\nos.mkdir('in/y')\nos.chmod('in', 0)\n",
        );
        fs::set_permissions(&tree, Permissions::from_mode(0o000)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(other.join("kept")).unwrap(), "kept");
        assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o755);
        remove_tree(&tree).unwrap();
    }
}
