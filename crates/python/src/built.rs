//! Wheels that were built here of packages without one.
//!
//! ```text
//! wheels/sources/<key>/         one wheel, and its inputs
//! wheels/sources/<key>/wheels.json
//! ```
//!
//! Each source is built in a sandbox of its own, so that the hooks of one package can't change the wheel of another. Its
//! hash is checked before anything of it runs; the wheel's hash is taken from the copy that leaves the sandbox, and is
//! compared again before each use.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use model::{Problem, problem::Code};
use sandbox::{Measured, measure_tree};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    Interpreter, Tools, fault,
    pins::{Pin, normal},
    provenance::{NOTE, Provenance, copied},
    sandboxed::BuildSandbox,
    tools::lock_file,
    untrusted::Folder,
};

const FETCH_LIMIT: Duration = Duration::from_secs(300);
const BUILD_LIMIT: Duration = Duration::from_secs(600);
/// The exit code of `fetch.py` when the index has no such source.
const NO_SOURCE: i32 = 3;
const WHEEL_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// The disk space that the wheels here may take; the ones that were not used for longest go.
const STORE_MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Counts the ways in which a wheel is made.
const FORMAT: &str = "holdfast source 1";

/// A wheel in the store.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(crate) made: Provenance,
    pub(crate) path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Fetched {
    file: String,
    sha256: String,
}

impl Tools {
    /// The wheel of a pinned package, if it was built here. One that was changed since is removed.
    pub(crate) fn built(&self, interpreter: &Interpreter, pin: &Pin<'_>) -> Option<Built> {
        pin.hashes.iter().find_map(|hash| {
            let folder = self.built_folder(interpreter, pin, hash);
            let made: Provenance = serde_json::from_slice(&std::fs::read(folder.join(NOTE)).ok()?).ok()?;
            let path = folder.join(&made.wheel);
            if made.is_whole(&folder) {
                used_now(&folder.join(NOTE));
                return Some(Built { made, path });
            }
            tracing::warn!(package = pin.name, path = %path.display(), "a wheel in the cache was changed; removing it");
            let _ = std::fs::remove_dir_all(&folder);
            None
        })
    }

    fn built_folder(&self, interpreter: &Interpreter, pin: &Pin<'_>, sha256: &str) -> PathBuf {
        let version = interpreter.version.to_string();
        let name = normal(pin.name);
        let parts = [FORMAT, &name, pin.version, sha256, vdk::BUILD_CONSTRAINTS, &version, &interpreter.platform];
        self.options.cache_dir.join("wheels").join("sources").join(digest(&parts))
    }

    /// Builds the wheel of a pinned package of the source that the index has, unless it is in the store.
    pub(crate) async fn build(&self, what: &str, interpreter: &Interpreter, pin: &Pin<'_>) -> Result<Built, Problem> {
        let sources = self.options.cache_dir.join("wheels").join("sources");
        let lock = digest(&[pin.name, pin.version, &interpreter.version.to_string()]);
        let _lock = lock_file(&*self.options.clock, &sources.join(format!("{lock}.lock"))).await?;
        if let Some(found) = self.built(interpreter, pin) {
            return Ok(found);
        }
        tracing::info!(package = pin.name, version = pin.version, "building a wheel");
        let sandbox = self.build_sandbox(what, &[]).await?;
        let source = fetch(&sandbox, what, interpreter, pin).await?;
        sandbox.write(what, "build.txt", vdk::BUILD_CONSTRAINTS)?;
        let mut args: Vec<OsString> =
            ["build", "--wheel", "--no-create-gitignore", "-b", "build.txt", "-o", "out"].map(Into::into).into();
        args.extend(["--python".into(), interpreter.executable.clone().into(), source.file.into()]);
        let built = sandbox.uv(what, args, BUILD_LIMIT).await?;
        if !built.success {
            return Err(fault::of_build(what, pin.name, pin.version, &built));
        }
        let new = self.scratch().await?;
        let (wheel, wheel_sha256) = take(&sandbox, pin, new.path()).map_err(|why| {
            Problem::new(
                Code::PackageBuildOutputUnusable,
                what,
                format!("{} {} did not build: {why}.", pin.name, pin.version),
            )
            .not_rolled_out()
            .fix("Require another version of the package.")
        })?;
        let made = Provenance { name: pin.name.to_owned(), source_sha256: source.sha256, wheel, wheel_sha256 };
        let folder = self.built_folder(interpreter, pin, &made.source_sha256);
        store(&sources, new.path(), &folder, &made).map_err(|e| fault::io(what, &folder, &e))?;
        Ok(Built { path: folder.join(&made.wheel), made })
    }
}

/// Fetches the source. No foreign code has run in the sandbox yet, so the hash that is said is the file's.
async fn fetch(
    sandbox: &BuildSandbox<'_>,
    what: &str,
    interpreter: &Interpreter,
    pin: &Pin<'_>,
) -> Result<Fetched, Problem> {
    let wanted = serde_json::json!({ "name": pin.name, "version": pin.version, "hashes": pin.hashes });
    let mut command = sandbox.command(&interpreter.executable, FETCH_LIMIT);
    command.args(["-I", "-c", include_str!("fetch.py"), &wanted.to_string()]);
    let output = sandbox.finish(what, command).await?;
    if output.code == Some(NO_SOURCE) {
        return Err(Problem::new(
            Code::PackageSourceMissing,
            what,
            format!(
                "The index has neither a wheel of {} {} for Python {} on {} nor the source with the locked hash.",
                pin.name, pin.version, interpreter.version, interpreter.platform
            ),
        )
        .not_rolled_out()
        .fix("Require another version of the package."));
    }
    if !output.success {
        return Err(fault::of_platform(what, &output));
    }
    serde_json::from_str(&output.stdout).map_err(|e| {
        Problem::new(Code::PackageLockInvalid, what, format!("The installer did not name the source: {e}."))
            .not_rolled_out()
            .no_action("Holdfast retries. If it persists, the operator reports a bug with the log.")
    })
}

/// Copies the one wheel that a build left into `to`, and takes the hash of the copy.
fn take(sandbox: &BuildSandbox<'_>, pin: &Pin<'_>, to: &Path) -> Result<(String, String), String> {
    let said = |e: io::Error| e.to_string();
    let out = Folder::open(sandbox.path()).and_then(|folder| folder.folder(Path::new("out"))).map_err(said)?;
    let mut wheels = out.names().map_err(said)?;
    wheels.retain(|name| name.extension().is_some_and(|x| x == "whl"));
    let [wheel] = wheels.as_slice() else { return Err("the build left not one wheel".into()) };
    let name = wheel.to_str().filter(|name| is_wheel_of(name, pin)).ok_or("the wheel is not one of this package")?;
    let (file, bytes) = out.file(wheel).map_err(said)?;
    if bytes > WHEEL_MAX_BYTES {
        return Err(format!("the wheel has more than {WHEEL_MAX_BYTES} bytes"));
    }
    let mut copy = File::create_new(to.join(name)).map_err(said)?;
    let hash = copied(file.take(WHEEL_MAX_BYTES), &mut copy).map_err(said)?;
    copy.sync_all().map_err(said)?;
    Ok((name.to_owned(), hash))
}

/// Whether a file may be a wheel of this package by its name.
fn is_wheel_of(file: &str, pin: &Pin<'_>) -> bool {
    let parts: Vec<&str> = file.trim_end_matches(".whl").split('-').collect();
    matches!(parts.len(), 5 | 6)
        && normal(parts[0]) == normal(pin.name)
        && file.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+!".contains(c))
}

fn store(sources: &Path, new: &Path, folder: &Path, made: &Provenance) -> io::Result<()> {
    files::write_durably(&new.join(NOTE), &serde_json::to_vec(made)?)?;
    make_room(sources)?;
    std::fs::create_dir(folder.with_extension("new")).or_else(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(e),
    })?;
    let half = folder.with_extension("new");
    for name in [made.wheel.as_str(), NOTE] {
        std::fs::rename(new.join(name), half.join(name))?;
    }
    let _ = std::fs::remove_dir_all(folder);
    files::publish(&half, folder)
}

/// Removes the wheels that were not used for longest, until another one fits.
fn make_room(sources: &Path) -> io::Result<()> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(sources)?.flatten().filter(|e| e.path().is_dir()) {
        let used = std::fs::metadata(entry.path().join(NOTE)).and_then(|m| m.modified());
        let bytes = match measure_tree(&entry.path(), STORE_MAX_BYTES) {
            Measured::Bytes(bytes) => bytes,
            Measured::TooLarge | Measured::TooDeep => STORE_MAX_BYTES,
        };
        all.push((used.ok(), entry.path(), bytes));
    }
    all.sort();
    let mut bytes: u64 = all.iter().map(|(_, _, bytes)| bytes).sum();
    for (_, path, size) in all {
        if bytes.saturating_add(WHEEL_MAX_BYTES) <= STORE_MAX_BYTES {
            break;
        }
        std::fs::remove_dir_all(path)?;
        bytes -= size;
    }
    Ok(())
}

/// Notes that a wheel was used, in the time of its note.
fn used_now(note: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let _ = utimensat(CWD, note, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty());
}

fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_of_another_package_is_none_of_this() {
        let pin = Pin { name: "evil-pkg", version: "1", hashes: Vec::new() };
        for good in ["evil_pkg-1-py3-none-any.whl", "Evil.Pkg-1-1-cp311-cp311-linux_x86_64.whl"] {
            assert!(is_wheel_of(good, &pin), "{good}");
        }
        for bad in [
            "click-8-py3-none-any.whl",
            "evil_pkg-1.whl",
            "evil_pkg-1-py3-none-a ny.whl",
            "evil_pkg-1-py3-none-a\n.whl",
        ] {
            assert!(!is_wheel_of(bad, &pin), "{bad}");
        }
    }
}
