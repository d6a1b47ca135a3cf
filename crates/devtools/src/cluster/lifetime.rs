//! Brings clusters up, takes them down and does harm to them. A cluster is known by its folder.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use files::Lock;

use super::products::{CACHE, JOB_IMAGE, KUBERNETES, KWOK, PAUSE_IMAGE, beside, build, script};
use crate::{cache, command, environment::workspace, progress};

/// Which cluster is brought up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its folder; this checkout's folder in the cache when there is none.
    pub state: Option<PathBuf>,
    /// The first of its ten ports; free ones are chosen when there is none.
    pub port_base: Option<u16>,
    /// Whether there is no real node: pods run in name only then, and root is not needed.
    pub no_node: bool,
}

/// A cluster that is up. No run of tests takes it down while this is held.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) state: PathBuf,
    pub(super) in_use: Lock,
}

/// The folder of this checkout's cluster.
///
/// # Errors
/// When there is no cache folder.
pub fn default_state() -> Result<PathBuf> {
    let mut key = DefaultHasher::new();
    workspace().hash(&mut key);
    // A socket is in it, whose path must be short.
    Ok(cache::folder()?.join(CACHE).join(format!("state-{:08x}", key.finish() & 0xffff_ffff)))
}

/// Whether a cluster was brought up in this folder and not taken down.
pub fn is_up(state: &Path) -> bool {
    state.join("settings").exists()
}

/// Brings a cluster up: see [`super::up`].
pub(super) fn up(options: &Options) -> Result<Up> {
    let state = match &options.state {
        Some(given) => std::path::absolute(given)?,
        None => default_state()?,
    };
    build()?;
    let in_use = Lock::shared(&in_use(&state)?)?;
    let _lock = lock(&state)?;
    let mut up = script("up.sh");
    up.arg(&state)
        .env("KUBERNETES", KUBERNETES.built()?)
        .env("KWOK", KWOK.built()?)
        .env("PAUSE_IMAGE", PAUSE_IMAGE.built()?)
        .env("JOB_IMAGE", JOB_IMAGE.built()?)
        .env("WITH_NODE", if options.no_node { "0" } else { "1" })
        .env_remove("PORT_BASE");
    if let Some(port) = options.port_base {
        up.env("PORT_BASE", port.to_string());
    }
    progress::during("starting the test cluster", || command::run(&mut up, beside(&state, ".log")))?;
    Ok(Up { state, in_use })
}

/// Takes a cluster down and removes its folder: processes, network and cgroups of it are gone then.
///
/// # Errors
/// When something can't be ended or removed; the folder is kept then, for another try.
pub fn down(state: &Path) -> Result<()> {
    let _lock = lock(state)?;
    command::run(script("down.sh").arg(state), beside(state, ".log"))?;
    if state.exists() {
        fs::remove_dir_all(state).with_context(|| format!("cannot remove {}", state.display()))?;
    }
    Ok(())
}

/// Takes a cluster down, unless another process uses it: whether that was done.
///
/// # Errors
/// As [`down`].
pub fn down_unless_used(state: &Path) -> Result<bool> {
    match Lock::try_exclusive(&in_use(state)?)? {
        Some(_alone) => down(state).map(|()| true),
        None => Ok(false),
    }
}

/// Does harm to the cluster of a folder: see [`super::Cluster::fault`].
///
/// # Errors
/// When there is no such fault, or its object is missing.
pub fn fault(state: &Path, fault: &str) -> Result<()> {
    command::output(script("fault.sh").arg(state).arg(fault)).map(drop)
}

/// Holds off others that bring the same cluster up or take it down.
fn lock(state: &Path) -> Result<Lock> {
    let path = beside(state, ".lock");
    Lock::exclusive(&path).with_context(|| format!("cannot lock {}", path.display()))
}

/// A file on which each process that uses a cluster has a shared lock.
fn in_use(state: &Path) -> Result<PathBuf> {
    let path = beside(state, ".used");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(path)
}
