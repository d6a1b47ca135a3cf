//! Opens folders of foreign code: without a path, without following links, and whatever their mode.

use std::{
    fs::{self, Permissions},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
};

use rustix::{
    fs::{Mode, OFlags, fstat, openat},
    path::Arg,
};

/// Opens a folder in another one, after it has got `rights`, as bits of its mode.
pub(crate) fn open_folder(at: impl AsFd, name: impl Arg, rights: u32) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(at, name, flags | OFlags::PATH, Mode::empty())?;
    let mode = fstat(&handle)?.st_mode & 0o7777;
    if mode & rights != rights {
        // By descriptor, because a name can become a link. If it fails, opening tells why.
        let _ =
            fs::set_permissions(format!("/proc/self/fd/{}", handle.as_raw_fd()), Permissions::from_mode(mode | rights));
    }
    openat(&handle, c".", flags | OFlags::RDONLY, Mode::empty())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{path::Path, process::Command};

    /// Runs Python in a folder: it can go where no path leads.
    pub(crate) fn python(folder: &Path, code: &str) {
        let output = Command::new("python3").args(["-c", code]).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
