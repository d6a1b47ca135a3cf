//! The limit of open files: high for the service, whose connections need it, and as it was for every program that it starts.
//! Some programs close each possible file at their start, and take long where there are a million.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The soft limit that this process was started with.
static STARTED_WITH: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit of this process to its hard one, and returns the limit that it has now; `None` without a limit.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let soft = limit.current?;
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => {
            let _ = STARTED_WITH.set(soft);
            limit.maximum
        }
        Err(_) => Some(soft),
    }
}

/// The soft limit that programs get which this process starts; `None` where it is that of this process.
pub fn open_files_of_children() -> Option<u64> {
    STARTED_WITH.get().copied()
}

/// Gives a child that was just started the limit back that this process was started with.
pub(crate) fn restore_in(child: Option<u32>) {
    let pid = child.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let (Some(pid), Some(soft)) = (pid, open_files_of_children()) {
        let maximum = getrlimit(Resource::Nofile).maximum;
        // A child that is over already needs none.
        let _ = prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(soft), maximum });
    }
}
