//! Confines a process, and whatever it starts, with the means of the kernel.
//!
//! Data jobs and package builds run under the user of the service, so file modes do not keep them from its database and
//! key, and limits, priorities and signals may be changed by every process of that user. Three layers hold them back:
//!
//! 1. **Namespaces** (`namespaces.rs`): a user and mount namespace in which hidden folders are empty and the rest of a
//!    process's surroundings can't be remounted. Modes, owners, times and attributes of hidden files can't be changed,
//!    because these files have no path.
//! 2. **Landlock** (`files.rs`): opening, creating, removing and linking files is checked again by path, and signals and
//!    `ptrace` reach only processes of the same confinement.
//! 3. **A filter of system calls** (`calls.rs`): limits, priorities and affinities of other processes can't be changed.
//!
//! A process confines itself ([`SandboxPolicy::apply`]) and then becomes its program, since there is no safe way to run code
//! between fork and exec. [`Launcher`] starts such a process, and finds out which layers this kernel has.
//!
//! All capabilities are dropped, also those of root. Root keeps what the owner of a file may do: files of root that no
//! path here hides, and devices such as disks. Nothing here holds a hostile process of root back.

mod calls;
mod files;
mod folder;
mod launch;
mod measure;
mod namespaces;
mod remove;
mod support;

use std::path::PathBuf;

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};
use serde::{Deserialize, Serialize};

pub use self::{
    launch::{Launcher, main},
    measure::{LEVELS_MAX, Measured, measure_tree},
    remove::remove_tree,
    support::{Layer, Support},
};

/// A layer that was asked for and could not be applied. The process must not continue.
#[derive(Debug, thiserror::Error)]
#[error("the process can't be confined ({layer}: {why})")]
pub struct Error {
    layer: &'static str,
    why: String,
}

impl Error {
    fn new(layer: &'static str, why: impl std::fmt::Display) -> Self {
        Self { layer, why: why.to_string() }
    }

    /// Names the step, or the path, that failed.
    fn at(layer: &'static str, step: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |e| Self { layer, why: format!("{step}: {e}") }
    }
}

/// Which layers are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Layers {
    /// A user and mount namespace.
    pub namespaces: bool,
    /// Landlock.
    pub landlock: bool,
    /// The filter of system calls.
    pub calls: bool,
}

/// Limits of the process and of each process that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Open files (soft limit). Unset, the parent's limit is inherited.
    pub open_files: Option<u64>,
    /// The size of a file that is written, in bytes.
    pub file_bytes: Option<u64>,
}

/// The folders, files and resources that a process may reach. All paths are absolute and without symbolic links.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SandboxPolicy {
    /// Folders and files whose content is neither seen nor changed.
    pub hidden: Vec<PathBuf>,
    /// Folders within `hidden` that may be read and executed.
    pub read: Vec<PathBuf>,
    /// Folders within `hidden` that may be changed.
    pub write: Vec<PathBuf>,
    /// Folders within `hidden` that are one mount, so that files can be moved between the `write` paths in them. A `write`
    /// path outside of them is a mount of its own.
    pub one_mount: Vec<PathBuf>,
    /// Sockets and other files that are out of reach where namespaces are in force, without the side effects of Landlock on
    /// the folders above.
    pub covered: Vec<PathBuf>,
    /// Folders and files outside of `hidden` that can't be changed. Only namespaces enforce this.
    pub read_only: Vec<PathBuf>,
    /// Folders that are empty at first, writable, and seen by this confinement alone. Only namespaces provide this.
    pub private: Vec<PathBuf>,
    /// Resource limits.
    pub limits: Limits,
    /// Which layers to apply.
    pub layers: Layers,
}

impl SandboxPolicy {
    /// Confines this process, which must have a single thread, and whatever it becomes or starts.
    ///
    /// # Errors
    /// When a layer that was asked for can't be applied. The process may be confined in part then and must end.
    pub fn apply(&self) -> Result<(), Error> {
        self.limits.apply()?;
        let here = std::env::current_dir().ok();
        if self.layers.namespaces {
            namespaces::enter(self)?;
            // The current folder is still the one of the mount beneath.
            if here.is_none_or(|here| std::env::set_current_dir(here).is_err()) {
                std::env::set_current_dir("/").map_err(Error::at("namespaces", "/"))?;
            }
        }
        drop_privileges()?;
        if self.layers.landlock {
            files::restrict(self)?;
        }
        if self.layers.calls {
            calls::filter()?;
        }
        Ok(())
    }
}

impl Limits {
    fn apply(self) -> Result<(), Error> {
        let set = |what, resource, limit| setrlimit(resource, limit).map_err(|e| Error::at("limits", what)(e.into()));
        // A dump of memory holds secrets, and would be written where others may read it.
        set("core", Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        if let Some(most) = self.open_files {
            let maximum = getrlimit(Resource::Nofile).maximum;
            let current = Some(maximum.map_or(most, |maximum| most.min(maximum)));
            set("open files", Resource::Nofile, Rlimit { current, maximum })?;
        }
        if let Some(bytes) = self.file_bytes {
            let maximum = getrlimit(Resource::Fsize).maximum;
            let bytes = Some(maximum.map_or(bytes, |maximum| bytes.min(maximum)));
            set("size of files", Resource::Fsize, Rlimit { current: bytes, maximum: bytes })?;
        }
        Ok(())
    }
}

/// Drops every capability for good: those of root, those of a new user namespace, and those that a service manager gave.
fn drop_privileges() -> Result<(), Error> {
    let failed = |step| move |e: rustix::io::Errno| Error::at("privileges", step)(e.into());
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    for bit in 0..u64::BITS {
        // An error is the end of the kernel's list, or the lack of CAP_SETPCAP, without which there is nothing to give up.
        if remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)).is_err() {
            break;
        }
    }
    clear_ambient_capability_set().map_err(failed("ambient capabilities"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(failed("capabilities"))
}
