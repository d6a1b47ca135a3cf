//! Python programs, each with its pinned requirements in a virtual environment of its own in the cache.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    process::Command,
};

use anyhow::Result;

use crate::{cache, client, command::Log, progress};

/// Gives the folder of the environment `name`, and installs it when the cache has none: a few seconds, once.
///
/// # Errors
/// When there is no Python with `venv`, or the installer fails; its last lines are in the message.
pub fn install(name: &str, requirements: &[&str]) -> Result<PathBuf> {
    let (python, version) = client::interpreter()?;
    let mut key = DefaultHasher::new();
    (requirements, &python, &version).hash(&mut key);
    let key = format!("{name}-{:016x}", key.finish());
    let folder = cache::folder()?.join(&key);
    let complete = folder.join("complete");
    let _lock = cache::lock(&key)?;
    if complete.exists() {
        return Ok(folder);
    }
    progress::during(format!("installing {name} with {version} (once)"), || {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let log = Log::begin(folder.with_extension("log"))?;
        log.run(Command::new(&python).args(["-m", "venv"]).arg(&folder))?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check"]).args(requirements);
        log.run(pip.env_remove("PYTHONPATH"))?;
        fs::write(&complete, "")?;
        Ok(())
    })?;
    Ok(folder)
}
