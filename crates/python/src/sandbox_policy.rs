//! The sandbox policy of foreign code that builds packages.

use std::path::{Path, PathBuf};

use sandbox::{Launcher, SandboxPolicy, Support};

/// Folders of the machine that are no files, or belong to the kernel.
const NOT_FILES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// How foreign code is confined.
#[derive(Debug, Clone)]
pub struct BuildSandboxPolicy {
    /// Starts confined processes.
    pub launcher: Launcher,
    /// The sandbox policy of data jobs.
    pub sandbox_policy: SandboxPolicy,
}

impl BuildSandboxPolicy {
    /// Finds out which layers of the sandbox this machine has.
    pub fn support(&self) -> Support {
        self.launcher.support(&SandboxPolicy { read_only: machine(), ..self.sandbox_policy.clone() })
    }
}

/// The folders of the machine at the top, which foreign code must leave as they are.
pub(crate) fn machine() -> Vec<PathBuf> {
    let top = std::fs::read_dir("/").into_iter().flatten().flatten();
    let top = top.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
    let top = top.filter(|path| !NOT_FILES.iter().any(|other| path == Path::new(other)));
    top.collect()
}
