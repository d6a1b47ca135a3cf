//! Prometheus's `promtool`: it checks a page of metrics, and evaluates rules over series with the real rule engine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{cache, command::Log, environment::variable, progress};

/// Its name, as a program and in messages.
const NAME: &str = "promtool";

/// The Debian package that has it.
const PACKAGE: &str = "prometheus";

/// Gives its path: the one that `HOLDFAST_TEST_PROMTOOL` names, the one in `PATH`, or the one of Debian's package, which is
/// unpacked into the cache once. Nothing is installed on the machine, and no Prometheus starts.
///
/// # Errors
/// When there is none and none can be had; the message says how to name one.
pub fn install() -> Result<PathBuf> {
    if let Some(given) = variable("HOLDFAST_TEST_PROMTOOL").map(PathBuf::from) {
        check(&given).with_context(|| format!("HOLDFAST_TEST_PROMTOOL names {}", given.display()))?;
        return Ok(given);
    }
    let path = variable("PATH").unwrap_or_default();
    if let Some(found) = env::split_paths(&path).map(|folder| folder.join(NAME)).find(|file| check(file).is_ok()) {
        return Ok(found);
    }
    unpacked().with_context(|| {
        format!(
            "{NAME} is not installed, and the package {PACKAGE} could not be had; install it, or name the program in \
             HOLDFAST_TEST_PROMTOOL"
        )
    })
}

/// Whether it starts.
fn check(program: &Path) -> Result<()> {
    let status = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("it can't be started")?;
    if !status.success() {
        bail!("it does not tell its version ({status})");
    }
    Ok(())
}

fn unpacked() -> Result<PathBuf> {
    let folder = cache::folder()?.join(NAME);
    let program = folder.join("usr/bin").join(NAME);
    let _lock = cache::lock(NAME)?;
    if check(&program).is_ok() {
        return Ok(program);
    }
    progress::during(format!("fetching {NAME} of Debian's package {PACKAGE} (once)"), || {
        let making = cache::folder()?.join(format!("{NAME}.new"));
        for old in [&making, &folder] {
            if old.exists() {
                fs::remove_dir_all(old)?;
            }
        }
        fs::create_dir_all(&making)?;
        let log = Log::begin(making.with_extension("log"))?;
        log.run(Command::new("apt-get").args(["download", "--quiet", PACKAGE]).current_dir(&making))?;
        let package = fs::read_dir(&making)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get fetched no package")?;
        log.run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&making))?;
        fs::remove_file(package)?;
        fs::rename(&making, &folder)?;
        Ok(())
    })?;
    check(&program)?;
    Ok(program)
}
