//! Keeping a job out of the service's own folder, by Landlock.
//!
//! Jobs run under the service's user, so file rights do not keep them from its database and key file. Landlock (Linux
//! 5.13 and later) takes rights away from a process and all that it starts, without any privilege. It knows only what
//! to allow, so "everything but the data folder" is said as: everything beneath each folder that lies beside the path
//! to the data folder.
//!
//! What follows from that, for the folders on that path (`/`, `/home`, `/home/me`, … — not for what lies beneath their
//! other entries):
//!
//! - nothing can be created, removed or renamed directly in them;
//! - entries made directly in them after the run has started are out of its reach;
//! - files directly in them can be read and written, and they can be listed. So can the data folder: a job can see
//!   which names exist in it, not what is in the files.
//!
//! With Landlock also go set-user-id programs (`no_new_privs`), signals to processes outside of the run (ABI 6), and
//! looking into other processes' memory and environment. A data folder that is also mounted at a second place is
//! reachable there, and nothing of this holds a job that runs as root back: it has the disk itself.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use serde::{Deserialize, Serialize};

/// Whether jobs are kept out of the service's own folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confinement {
    /// They are.
    Enforced,
    /// They are not, for this reason: whoever may deploy a job may read all that the service may.
    Unavailable(String),
}

/// The newest rights that are asked for; an older kernel enforces those that it knows.
const NEWEST: ABI = ABI::V10;

/// Asks the kernel, without restricting this process.
pub(super) fn available() -> Confinement {
    let asked = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create);
    match asked {
        Ok(_) => Confinement::Enforced,
        Err(_) => Confinement::Unavailable(
            "this kernel has no Landlock (Linux 5.13 or later, with \"landlock\" in its list of security modules)"
                .into(),
        ),
    }
}

/// What a job is kept out of, and what it gets nevertheless.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Walls {
    /// The data folder, without symbolic links.
    pub(super) around: PathBuf,
    /// What lies within and may be read and executed.
    pub(super) read: Vec<PathBuf>,
    /// What lies within and may be changed.
    pub(super) write: Vec<PathBuf>,
}

impl Walls {
    /// Restricts this thread and whatever it becomes or starts.
    pub(super) fn apply(&self) -> Result<(), String> {
        let failed = |e: &dyn std::fmt::Display| format!("the job could not be confined: {e}");
        let (all, read) = (AccessFs::from_all(NEWEST), AccessFs::from_read(NEWEST));
        let mut rules = Ruleset::default()
            .handle_access(all)
            .and_then(|r| r.scope(Scope::Signal))
            .and_then(Ruleset::create)
            .map_err(|e| failed(&e))?;
        for folder in self.around.ancestors().skip(1) {
            let inside = self.around.strip_prefix(folder).ok().and_then(|rest| rest.iter().next());
            for beside in beside(folder, inside.map(|name| folder.join(name)).as_deref()) {
                rules = allow(rules, &beside, all).map_err(|e| failed(&e))?;
            }
        }
        let root = PathFd::new("/").map_err(|e| failed(&e))?;
        rules = rules
            .add_rule(PathBeneath::new(root, BitFlags::from(AccessFs::ReadDir)))
            .and_then(|r| r.add_rules(path_beneath_rules(&self.read, read)))
            .and_then(|r| r.add_rules(path_beneath_rules(&self.write, all)))
            .map_err(|e| failed(&e))?;
        let status = rules.restrict_self().map_err(|e| failed(&e))?;
        if status.ruleset == RulesetStatus::NotEnforced {
            return Err("the job could not be confined: the kernel's Landlock is not in force".into());
        }
        Ok(())
    }
}

fn allow(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, landlock::RulesetError> {
    rules.add_rules(path_beneath_rules([path], access))
}

/// The entries of `folder` other than `inside`.
///
/// A symbolic link is no entry of its own: what it leads to is reachable, or not, by its real path. Neither is a second
/// name of `inside` itself.
fn beside(folder: &Path, inside: Option<&Path>) -> Vec<PathBuf> {
    let identity = |path: &Path| fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let walled = inside.and_then(identity);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| !t.is_symlink()))
        .map(|e| e.path())
        .filter(|path| Some(path.as_path()) != inside && (walled.is_none() || identity(path) != walled))
        .collect()
}
