//! A hard limit of memory for a process, by the kernel's control groups (version 1 or 2).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A control group with a hard limit of memory. A process that needs more is killed by the kernel. The group is removed
/// when the value is dropped, which must happen after its processes ended.
#[derive(Debug)]
pub struct MemoryLimit {
    folder: PathBuf,
}

impl MemoryLimit {
    /// Moves a process into a new group that may hold at most `bytes`.
    ///
    /// # Errors
    /// When this user may not make control groups, or the machine has none for memory.
    pub fn impose(process: u32, bytes: u64) -> io::Result<Self> {
        let (parent, limit) = parent()?;
        let folder = parent.join(format!("holdfast-test-{process}"));
        fs::create_dir(&folder)?;
        let group = Self { folder };
        fs::write(group.folder.join(limit), bytes.to_string())?;
        fs::write(group.folder.join("cgroup.procs"), process.to_string())?;
        Ok(group)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The group of this process in the hierarchy that counts memory, and the name of the file with the limit.
fn parent() -> io::Result<(PathBuf, &'static str)> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let below = path.trim_start_matches('/');
        if controllers.split(',').any(|controller| controller == "memory") {
            return Ok((Path::new(ROOT).join("memory").join(below), "memory.limit_in_bytes"));
        }
        let unified = Path::new(ROOT).join(below);
        let controllers_here = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
        if controllers.is_empty() && controllers_here.split_whitespace().any(|controller| controller == "memory") {
            return Ok((unified, "memory.max"));
        }
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "this machine has no control groups for memory"))
}
