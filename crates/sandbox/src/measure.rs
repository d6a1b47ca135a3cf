//! Measures the disk space of foreign code, also while it is still writing.

use std::{os::fd::AsFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, statat},
    path::Arg,
};

use crate::folder::open_folder;

/// How many levels of folders are measured. One descriptor per level is open.
pub const LEVELS_MAX: usize = 128;

/// An entry counts for this much at least, because it takes room in its folder and in the file system's tables.
const ENTRY_BYTES: u64 = 4096;
const BLOCK_BYTES: u64 = 512;

/// The disk space that a folder takes, up to `most_bytes` of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// So many bytes.
    Bytes(u64),
    /// More than `most_bytes`: the rest was not checked.
    TooLarge,
    /// A folder is nested deeper than [`LEVELS_MAX`].
    TooDeep,
}

/// Measures a folder that foreign code may write to meanwhile.
///
/// Paths in it may be longer than the kernel takes, so no path is built: each folder is opened in the one above it. Links are
/// not followed. A folder that its owner can't read is made readable, or its content would not count.
pub fn measure_tree(path: &Path, most_bytes: u64) -> Measured {
    let mut bytes = 0_u64;
    let mut open: Vec<Dir> = read(CWD, path).into_iter().collect();
    while let Some(folder) = open.last_mut() {
        let Some(Ok(entry)) = folder.read() else {
            open.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(at) = folder.fd() else { continue };
        let Ok(stat) = statat(at, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        bytes = bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES).max(ENTRY_BYTES));
        if bytes > most_bytes {
            return Measured::TooLarge;
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && let Ok(inner) = read(at, name)
        {
            if open.len() == LEVELS_MAX {
                return Measured::TooDeep;
            }
            open.push(inner);
        }
    }
    Measured::Bytes(bytes)
}

fn read(at: impl AsFd, name: impl Arg) -> rustix::io::Result<Dir> {
    const READABLE: u32 = 0o500;
    Dir::new(open_folder(at, name, READABLE)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::folder::tests::python;

    #[test]
    fn files_beyond_every_path_and_in_folders_without_rights_count() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("elsewhere")).unwrap();
        fs::write(folder.path().join("elsewhere/large"), vec![1; 8 << 20]).unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        python(
            &tree,
            "import os\nos.symlink('../elsewhere', 'link')\nos.symlink('../elsewhere/large', 'large')\nfor i in range(30):\n os.mkdir('x' * 250)\n os.chdir('x' * 250)\n\
             open('large', 'wb').write(b'x' * (4 << 20))\nos.mkdir('shut')\nopen('shut/more', 'wb').write(b'x' * (2 << 20))\n\
             os.chmod('shut', 0o300)",
        );
        let Measured::Bytes(bytes) = measure_tree(&tree, u64::MAX) else { panic!("it is not deep") };
        assert!(((6 << 20)..(7 << 20)).contains(&bytes), "{bytes}");
        assert_eq!(measure_tree(&tree, 5 << 20), Measured::TooLarge);
        assert_eq!(measure_tree(&folder.path().join("nothing"), 0), Measured::Bytes(0));
        crate::remove_tree(&tree).unwrap();
    }

    #[test]
    fn folders_that_are_nested_too_deep_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let nest = |name: &str, levels: usize| {
            let tree = folder.path().join(name);
            fs::create_dir(&tree).unwrap();
            python(&tree, &format!("import os\nfor i in range({levels}):\n os.mkdir('d')\n os.chdir('d')"));
            measure_tree(&tree, u64::MAX)
        };
        assert!(matches!(nest("deep", LEVELS_MAX - 1), Measured::Bytes(_)));
        assert_eq!(nest("deeper", LEVELS_MAX), Measured::TooDeep);
        let many = folder.path().join("many");
        fs::create_dir(&many).unwrap();
        python(&many, "for i in range(1000): open(str(i), 'w')");
        assert_eq!(measure_tree(&many, 3 << 20), Measured::TooLarge, "an empty file takes room as well");
        crate::remove_tree(&folder.path().join("deeper")).unwrap();
    }
}
