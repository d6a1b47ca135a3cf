//! Reads files of foreign code: without following a link, without waiting for a writer, and up to a limit.
//!
//! A process that outlived a build may change its folder at any time, so nothing is checked first and opened then.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::fs::{Dir, Mode, OFlags, openat};

/// Levels of folders, and entries of all of them together, that are checked.
const LEVELS_MAX: usize = 64;
const ENTRIES_MAX: usize = 100_000;

pub(crate) const MIB: u64 = 1024 * 1024;

/// An open folder.
pub(crate) struct Folder(File);

impl Folder {
    /// Opens a folder whose parent can't be changed by foreign code.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?.into()))
    }

    /// Opens a folder in it.
    pub(crate) fn folder(&self, name: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(openat(&self.0, name, flags, Mode::empty())?.into()))
    }

    /// Opens a regular file in it, and says how large it is.
    pub(crate) fn file(&self, name: &Path) -> io::Result<(File, u64)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = openat(&self.0, name, flags, Mode::empty())?.into();
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other(format!("{} is not a regular file", name.display())));
        }
        Ok((file, metadata.len()))
    }

    /// The whole content of a file in it.
    pub(crate) fn text(&self, name: &str, max_bytes: u64) -> io::Result<String> {
        let mut text = String::new();
        self.file(Path::new(name))?.0.take(max_bytes + 1).read_to_string(&mut text)?;
        if text.len() as u64 > max_bytes {
            return Err(io::Error::other(format!("{name} has more than {max_bytes} bytes")));
        }
        Ok(text)
    }

    /// The names of its entries.
    pub(crate) fn names(&self) -> io::Result<Vec<Box<Path>>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).into());
            }
            if names.len() > ENTRIES_MAX {
                return Err(io::Error::other("a folder has too many entries"));
            }
        }
        Ok(names)
    }

    /// Calls `seen` with the path, within this folder, of each regular file in it and its folders.
    pub(crate) fn walk(&self, seen: &mut dyn FnMut(&Path, File, u64)) -> io::Result<()> {
        let mut left = ENTRIES_MAX;
        self.walk_from(Path::new(""), LEVELS_MAX, &mut left, seen)
    }

    fn walk_from(
        &self,
        at: &Path,
        levels: usize,
        left: &mut usize,
        seen: &mut dyn FnMut(&Path, File, u64),
    ) -> io::Result<()> {
        for name in self.names()? {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("too many files"))?;
            if let Ok(folder) = self.folder(&name) {
                if levels > 0 {
                    folder.walk_from(&at.join(&name), levels - 1, left, seen)?;
                }
            } else if let Ok((file, bytes)) = self.file(&name) {
                seen(&at.join(&name), file, bytes);
            }
        }
        Ok(())
    }
}

/// Removes a folder that foreign code could write to.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = sandbox::remove_tree(path) {
        tracing::warn!(path = %path.display(), %error, "a working folder could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_pipes_are_not_followed_and_large_files_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("out")).unwrap();
        std::fs::write(at("out/file"), "text").unwrap();
        std::fs::write(at("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(at("secret"), at("out/link")).unwrap();
        std::os::unix::fs::symlink(at("out"), at("linked")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("out/pipe"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        assert!(Folder::open(&at("linked")).is_err());
        let out = Folder::open(&at("out")).unwrap();
        assert_eq!(out.text("file", 4).unwrap(), "text");
        assert!(out.text("file", 3).unwrap_err().to_string().contains("more than 3 bytes"));
        assert!(out.text("link", 100).is_err() && out.text("pipe", 100).is_err());
        let mut seen = Vec::new();
        Folder::open(folder.path()).unwrap().walk(&mut |path, _, bytes| seen.push((path.to_owned(), bytes))).unwrap();
        seen.sort();
        assert_eq!(seen, [("out/file".into(), 4), ("secret".into(), 6)]);
    }
}
