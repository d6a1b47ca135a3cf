//! A user and mount namespace in which hidden folders are empty.
//!
//! The user namespace maps the user and the group to themselves, so files look as before, except that those of other users
//! belong to `nobody`. It is what an ordinary user needs to make a mount namespace, and it keeps the processes in it from
//! the memory, environment and descriptors of all others. Root makes a mount namespace without it where there is none.
//!
//! Mounts can't be undone from inside: no capability is left, and a process that makes a further user namespace finds them
//! locked.

use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::statvfs::{FsFlags, statvfs},
};
use rustix::{
    fs::{Mode, OFlags, open},
    process::{DumpableBehavior, dumpable_behavior, getegid, geteuid, set_dumpable_behavior},
};

use crate::{Error, SandboxPolicy};

const LAYER: &str = "namespaces";
const NOTHING: Option<&str> = None;

/// A file or folder that is reachable after its path was covered.
struct Source {
    path: PathBuf,
    opened: OwnedFd,
    is_writable: bool,
}

/// Enters new namespaces and arranges the mounts.
pub(crate) fn enter(sandbox_policy: &SandboxPolicy) -> Result<(), Error> {
    separate()?;
    let within = |path: &Path, any: &[PathBuf]| any.iter().any(|folder| path.starts_with(folder));
    let alone = sandbox_policy.write.iter().filter(|path| !within(path, &sandbox_policy.one_mount));
    let wanted = sandbox_policy.read.iter().map(|path| (path, false));
    let wanted = wanted.chain(sandbox_policy.one_mount.iter().chain(alone).map(|path| (path, true)));
    let mut sources = Vec::new();
    for (path, is_writable) in wanted.filter(|(path, _)| within(path, &sandbox_policy.hidden)) {
        if let Some(opened) = reference(path)? {
            sources.push(Source { path: path.clone(), opened, is_writable });
        }
    }
    // A folder before what lies in it.
    sources.sort_by_key(|source| source.path.components().count());
    for path in &sandbox_policy.read_only {
        if let Some(opened) = reference(path)? {
            bind(&opened, path)?;
            make_read_only(path)?;
        }
    }
    let mut covered: Vec<&PathBuf> = Vec::new();
    for path in sandbox_policy.hidden.iter().chain(&sandbox_policy.covered) {
        if !covered.iter().any(|other| path.starts_with(other)) && cover(path)? {
            covered.push(path);
        }
    }
    for source in sources {
        if covered.iter().any(|folder| source.path.starts_with(folder)) {
            make_mount_point(&source)?;
            bind(&source.opened, &source.path)?;
            if !source.is_writable {
                make_read_only(&source.path)?;
            }
        }
    }
    for path in covered {
        make_read_only(path)?;
    }
    for path in &sandbox_policy.private {
        if path.is_dir() {
            empty(path, "mode=1777")?;
        }
    }
    Ok(())
}

/// Leaves the mount namespace, and the user namespace where that is allowed.
fn separate() -> Result<(), Error> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    match unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS) {
        Ok(()) => {
            // The files below belong to root while this process can't be read by others.
            let before = dumpable_behavior().unwrap_or(DumpableBehavior::NotDumpable);
            let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
            let mapped = write("/proc/self/setgroups", "deny")
                .and_then(|()| write("/proc/self/uid_map", &format!("{user} {user} 1")))
                .and_then(|()| write("/proc/self/gid_map", &format!("{group} {group} 1")));
            let _ = set_dumpable_behavior(before);
            mapped?;
        }
        Err(why) => unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|_| Error::at(LAYER, "a user namespace can't be made")(why.into()))?,
    }
    // Later mounts of others appear here; mounts made here appear nowhere else.
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_SLAVE, NOTHING).map_err(failed(Path::new("/")))
}

fn failed(path: &Path) -> impl FnOnce(nix::Error) -> Error {
    let path = path.to_owned();
    move |e| Error::at(LAYER, path.display())(e.into())
}

fn write(path: &str, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::at(LAYER, path))
}

/// Holds the current file at `path`. `None` when there is none.
fn reference(path: &Path) -> Result<Option<OwnedFd>, Error> {
    match open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(opened) => Ok(Some(opened)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(e) => Err(Error::at(LAYER, path.display())(e.into())),
    }
}

/// Hides a folder beneath an empty one, and a file beneath `/dev/null`. Says whether there was something to hide.
fn cover(path: &Path) -> Result<bool, Error> {
    let Ok(there) = fs::symlink_metadata(path) else { return Ok(false) };
    if there.is_dir() {
        empty(path, "mode=0755,size=1m,nr_inodes=4k")?;
    } else {
        let null = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open("/dev/null")
            .map_err(Error::at(LAYER, "/dev/null"))?;
        if !null.metadata().is_ok_and(|m| m.file_type().is_char_device()) {
            return Err(Error::new(LAYER, "/dev/null is no device"));
        }
        bind(&null.into(), path)?;
    }
    Ok(true)
}

fn empty(path: &Path, options: &str) -> Result<(), Error> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options)).map_err(failed(path))
}

fn make_mount_point(source: &Source) -> Result<(), Error> {
    let is_folder = File::from(source.opened.try_clone().map_err(Error::at(LAYER, source.path.display()))?)
        .metadata()
        .map_err(Error::at(LAYER, source.path.display()))?
        .is_dir();
    let folder = if is_folder { Some(source.path.as_path()) } else { source.path.parent() };
    let made = folder
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| if is_folder || source.path.exists() { Ok(()) } else { File::create(&source.path).map(drop) });
    made.map_err(Error::at(LAYER, source.path.display()))
}

fn bind(from: &OwnedFd, to: &Path) -> Result<(), Error> {
    let from = format!("/proc/self/fd/{}", from.as_raw_fd());
    // With what is mounted below: the kernel refuses to uncover it by leaving it out.
    mount(Some(from.as_str()), to, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING).map_err(failed(to))
}

fn make_read_only(path: &Path) -> Result<(), Error> {
    // Restrictions of the mount are repeated: the kernel refuses to lift one here.
    let has = statvfs(path).map_err(failed(path))?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for (shown, flag) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ] {
        if has.contains(shown) {
            flags |= flag;
        }
    }
    mount(NOTHING, path, NOTHING, flags, NOTHING).map_err(failed(path))
}
