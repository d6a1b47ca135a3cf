//! Access to files by path, with Landlock.
//!
//! Landlock (Linux 5.13 and later) takes rights away from a process and all that it starts, without any privilege. It
//! knows only what to allow, so "everything but the hidden folders" is said as: everything beneath each entry that lies
//! beside the path to a hidden folder.
//!
//! That has consequences for the folders on these paths (`/`, `/home`, `/home/me`, … — not for what lies beneath their
//! other entries):
//!
//! - nothing can be created, removed or renamed directly in them;
//! - entries made directly in them after the process has started are out of its reach;
//! - files directly in them can be read and written, and they can be listed. So can a hidden folder, unless namespaces
//!   make it empty: the names in it are seen, not what is in the files.
//!
//! Nothing is written below `/proc` and `/sys`. With Landlock also go signals to processes outside of the confinement (ABI 6), and looking into their memory and
//! environment. A hidden folder that is also mounted at a second place is reachable there.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};

use crate::{Error, Layer, SandboxPolicy};

const LAYER: &str = "Landlock";

/// Where files of the kernel are that change other processes: their memory scores, scheduling groups and control groups.
const UNWRITABLE: [&str; 2] = ["/proc", "/sys"];

/// The newest rights that are asked for; an older kernel enforces those that it knows.
const NEWEST: ABI = ABI::V10;

/// Asks the kernel, without restricting this process.
pub(crate) fn is_available() -> Layer {
    let asked = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create);
    match asked {
        Ok(_) => Layer::Enforced,
        Err(_) => Layer::Unavailable(
            "this kernel has no Landlock (Linux 5.13 or later, with \"landlock\" in its list of security modules)"
                .into(),
        ),
    }
}

/// Asks the kernel whether Landlock keeps signals within the confinement.
pub(crate) fn keeps_signals() -> Layer {
    let asked = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::Signal)
        .and_then(Ruleset::create);
    match asked {
        Ok(_) => Layer::Enforced,
        Err(_) => Layer::Unavailable("this kernel's Landlock knows no signals (Linux 6.12 or later)".into()),
    }
}

/// Restricts this thread and whatever it becomes or starts.
pub(crate) fn restrict(sandbox_policy: &SandboxPolicy) -> Result<(), Error> {
    let failed = |e: &dyn std::fmt::Display| Error::new(LAYER, e);
    let (all, read) = (AccessFs::from_all(NEWEST), AccessFs::from_read(NEWEST));
    let mut allowed = Vec::new();
    let unwritable = UNWRITABLE.map(Path::new);
    let barred: BTreeSet<&Path> = sandbox_policy.hidden.iter().map(PathBuf::as_path).chain(unwritable).collect();
    let there: BTreeSet<(u64, u64)> = barred.iter().filter_map(|path| identity(path)).collect();
    beside(Path::new("/"), &barred, &there, &mut allowed);
    let root = PathFd::new("/").map_err(|e| failed(&e))?;
    let status = Ruleset::default()
        .handle_access(all)
        .and_then(|r| r.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .and_then(|r| r.add_rules(path_beneath_rules(&allowed, all)))
        .and_then(|r| r.add_rule(PathBeneath::new(root, BitFlags::from(AccessFs::ReadDir))))
        .and_then(|r| r.add_rules(path_beneath_rules(unwritable, read)))
        .and_then(|r| r.add_rules(path_beneath_rules(&sandbox_policy.read, read)))
        .and_then(|r| r.add_rules(path_beneath_rules(&sandbox_policy.write, all)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|e| failed(&e))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(failed(&"it is not in force in this kernel"));
    }
    Ok(())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Collects the entries of `folder` that neither are nor contain a barred path.
///
/// A symbolic link is no entry of its own: what it leads to is reachable, or not, by its real path. Neither is a second
/// name of a barred folder itself.
fn beside(folder: &Path, barred: &BTreeSet<&Path>, there: &BTreeSet<(u64, u64)>, allowed: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok).filter(|e| e.file_type().is_ok_and(|t| !t.is_symlink())) {
        let path = entry.path();
        if barred.contains(path.as_path()) {
            continue;
        }
        if barred.iter().any(|other| other.starts_with(&path)) {
            beside(&path, barred, there, allowed);
        } else if identity(&path).is_none_or(|id| !there.contains(&id)) {
            allowed.push(path);
        }
    }
}
