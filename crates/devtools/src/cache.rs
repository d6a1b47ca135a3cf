//! Files that are fetched or built once and used by every later run. All of them can be deleted at any time.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use files::Lock;

use crate::environment::variable;

/// The folder: `HOLDFAST_TEST_CACHE_DIR`, or `holdfast-dev` in the user's cache folder.
pub fn folder() -> Result<PathBuf> {
    let folder = if let Some(given) = variable("HOLDFAST_TEST_CACHE_DIR") {
        PathBuf::from(given)
    } else if let Some(base) = variable("XDG_CACHE_HOME") {
        PathBuf::from(base).join("holdfast-dev")
    } else {
        let home = variable("HOME").context("neither HOLDFAST_TEST_CACHE_DIR, XDG_CACHE_HOME nor HOME is set")?;
        PathBuf::from(home).join(".cache/holdfast-dev")
    };
    let folder = std::path::absolute(&folder)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the cache folder {}", folder.display()))?;
    Ok(folder)
}

/// The part of it that is handed to the service for its tools, wheels and packages.
pub fn service_folder() -> Result<PathBuf> {
    let folder = folder()?.join("service");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Waits until no other process makes the same thing, and holds them off until dropped.
pub fn lock(name: &str) -> Result<Lock> {
    let path = folder()?.join(format!("{name}.lock"));
    Lock::exclusive(&path).with_context(|| format!("cannot lock {}", path.display()))
}
