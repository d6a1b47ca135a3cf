//! Wheels of the VDK packages, which the index has as sources only.
//!
//! Built once for a VDK requirement, its constraints and a Python, into a folder of the cache. Without it the installer
//! builds them again for most locks and environments: 4 to 5 seconds each time, against 0.4 (measured).
//!
//! A wheel that is built here has another hash than one built on another machine, or tomorrow. So a lock never names it:
//! a lock names what the index serves, the hash of the *source*, and is good on every machine and after a restore of the
//! database alone. The folder notes which source each wheel was made of, and translates: [`Wheels::portable`] when a
//! lock is made, [`Wheels::local`] when it is installed. A source whose wheel is not here is built again, by its hash.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use model::{Problem, problem::Code};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    Interpreter, Tools,
    built::Built,
    fault,
    pins::{Pin, is_sha256, normal},
    provenance::{NOTE, Provenance},
    tools::lock_file,
};

const RESOLVE_LIMIT: Duration = Duration::from_secs(300);
const LOCK_MAX_BYTES: u64 = 8 * 1024 * 1024;
const BUILDS_PARALLEL: usize = 2;
/// Counts the ways in which the folder is made.
const FORMAT: &str = "holdfast wheels 2";

/// A folder of wheels, and the inputs of each.
#[derive(Debug, Clone)]
pub struct Wheels {
    folder: PathBuf,
    made: Vec<Provenance>,
}

/// The fields of a `pylock.toml`.
#[derive(Debug, Deserialize)]
struct PyLock {
    #[serde(default)]
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: Option<String>,
    sdist: Option<File>,
    #[serde(default)]
    wheels: Vec<toml::Value>,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

impl Wheels {
    /// The folder, for `--find-links`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The same with further wheels, which are elsewhere.
    pub(crate) fn with(&self, built: &[Built]) -> Self {
        let more = built.iter().map(|b| b.made.clone());
        Self { folder: self.folder.clone(), made: self.made.iter().cloned().chain(more).collect() }
    }

    /// A lock with the hashes of the sources in place of those of the wheels here.
    pub fn portable(&self, lock: &str) -> String {
        let by_wheel: BTreeMap<_, _> =
            self.made.iter().map(|m| (m.wheel_sha256.as_str(), m.source_sha256.as_str())).collect();
        let mut out = String::with_capacity(lock.len());
        for (before, hash) in hashes(lock) {
            out.push_str(before);
            out.push_str(by_wheel.get(hash).copied().unwrap_or(hash));
        }
        out
    }

    /// A lock that allows the wheels here beside the sources that they were made of.
    pub fn local(&self, lock: &str) -> String {
        let by_source: BTreeMap<_, _> =
            self.made.iter().map(|m| (m.source_sha256.as_str(), m.wheel_sha256.as_str())).collect();
        let mut out = String::with_capacity(lock.len());
        for (before, hash) in hashes(lock) {
            out.push_str(before);
            if let Some(wheel) = by_source.get(hash) {
                out.push_str(wheel);
                out.push_str(" \\\n    --hash=sha256:");
            }
            out.push_str(hash);
        }
        out
    }

    /// The folder, if it is complete and every wheel has the content that was noted.
    fn read(folder: &Path) -> Option<Self> {
        let made: Vec<Provenance> = serde_json::from_slice(&std::fs::read(folder.join(NOTE)).ok()?).ok()?;
        if let Some(broken) = made.iter().find(|m| !m.is_whole(folder)) {
            let path = folder.join(&broken.wheel);
            tracing::warn!(path = %path.display(), "a wheel of VDK in the cache is not whole; building the wheels again");
            return None;
        }
        Some(Self { folder: folder.to_owned(), made })
    }
}

/// The text cut at its SHA-256 hashes: what precedes one, and the hash; at last the rest of the text, and nothing.
fn hashes(lock: &str) -> impl Iterator<Item = (&str, &str)> {
    const SIGN: &str = "--hash=sha256:";
    const DIGITS: usize = 64;
    let mut rest = lock;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find(SIGN).map(|at| at + SIGN.len()).filter(|at| rest.is_char_boundary(at + DIGITS));
        let Some(at) = at else {
            return Some((std::mem::take(&mut rest), ""));
        };
        let (before, after) = rest.split_at(at);
        let (hash, after) = after.split_at(DIGITS);
        rest = after;
        Some((before, hash))
    })
}

impl Tools {
    /// The folder with the wheels of what a VDK requirement brings and the index has as sources only.
    ///
    /// The first call for a requirement, its constraints and a Python builds them; that runs the packages' own build
    /// scripts. Another process that wants the same waits.
    pub async fn wheels_for(&self, interpreter: &Interpreter, vdk_requirement: &str) -> Result<Wheels, Problem> {
        checked(vdk_requirement)?;
        let key = self.wheels_key(interpreter, vdk_requirement);
        let wheels = self.options.cache_dir.join("wheels");
        let done = wheels.join(&key);
        if let Some(found) = Wheels::read(&done) {
            return Ok(found);
        }
        let _lock = lock_file(&*self.options.clock, &wheels.join(format!("{key}.lock"))).await?;
        if let Some(found) = Wheels::read(&done) {
            return Ok(found);
        }
        self.build_wheels(interpreter, vdk_requirement, &done).await?;
        Wheels::read(&done).ok_or_else(|| {
            Problem::new(
                Code::VdkWheelsUnreadable,
                "The wheels of VDK can't be read.",
                "They were built, but are not in their folder of `cache_dir`.",
            )
            .not_rolled_out()
            .no_action("Holdfast builds them again.")
        })
    }

    fn wheels_key(&self, interpreter: &Interpreter, vdk_requirement: &str) -> String {
        let mut hash = Sha256::new();
        let version = interpreter.version.to_string();
        for part in [
            FORMAT,
            vdk_requirement,
            &self.options.vdk_constraints,
            vdk::BUILD_CONSTRAINTS,
            &version,
            &interpreter.platform,
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hex::encode(&hash.finalize()[..16])
    }

    async fn build_wheels(&self, interpreter: &Interpreter, vdk_requirement: &str, done: &Path) -> Result<(), Problem> {
        const WHAT: &str = "The packages of VDK could not be built.";
        let sandbox = self.build_sandbox(WHAT, &[]).await?;
        tracing::info!(vdk = vdk_requirement, python = %interpreter.version, "building the wheels of VDK, once");

        sandbox.write(WHAT, "vdk.in", vdk_requirement)?;
        sandbox.write(WHAT, "constraints.txt", &constraints_for(vdk_requirement, &self.options.vdk_constraints))?;
        sandbox.write(WHAT, "build.txt", vdk::BUILD_CONSTRAINTS)?;
        let mut resolve: Vec<OsString> = [
            "pip",
            "compile",
            "--format",
            "pylock.toml",
            "-o",
            "pylock.toml",
            "-c",
            "constraints.txt",
            "-b",
            "build.txt",
        ]
        .map(Into::into)
        .into();
        resolve.extend(["--python".into(), interpreter.executable.clone().into(), "vdk.in".into()]);
        let resolved = sandbox.uv(WHAT, resolve, RESOLVE_LIMIT).await?;
        if !resolved.success {
            // The version may be one that a user asked for. What does not build is the operator's.
            return Err(if resolved.stderr.contains("No solution found") {
                fault::of_installer(WHAT, &resolved)
            } else {
                fault::of_platform(WHAT, &resolved)
            });
        }
        let sources = sources(&sandbox.read(WHAT, "pylock.toml", LOCK_MAX_BYTES)?).map_err(|why| {
            Problem::new(Code::PackageLockInvalid, WHAT, why)
                .not_rolled_out()
                .no_action("Holdfast retries. If it persists, the operator checks `vdk.version`.")
        })?;
        drop(sandbox);

        let pins: Vec<Pin<'_>> = sources
            .iter()
            .map(|s| Pin { name: &s.name, version: &s.version, hashes: vec![s.sha256.as_str()] })
            .collect();
        let builds: Vec<_> = pins.iter().map(|pin| self.build(WHAT, interpreter, pin)).collect();
        let built: Result<Vec<Built>, _> = stream::iter(builds).buffered(BUILDS_PARALLEL).try_collect().await;
        let built = built.map_err(Problem::of_platform)?;
        let scratch = self.scratch().await?;
        let out = scratch.path().join("made");
        let finished = std::fs::create_dir(&out).and_then(|()| link(&built, &out)).and_then(|()| {
            let note = serde_json::to_vec(&built.iter().map(|b| &b.made).collect::<Vec<_>>())?;
            files::write_durably(&out.join(NOTE), &note)?;
            // The existing folder is not complete, because it could not be read.
            let _ = std::fs::remove_dir_all(done);
            files::publish(&out, done)
        });
        finished.map_err(|e| fault::io(WHAT, done, &e))?;
        tracing::info!(vdk = vdk_requirement, wheels = built.len(), "built the wheels of VDK");
        Ok(())
    }
}

/// Puts wheels into a folder.
pub(crate) fn link(built: &[Built], folder: &Path) -> std::io::Result<()> {
    for wheel in built {
        let at = folder.join(&wheel.made.wheel);
        // A linked file was synced when it was built.
        std::fs::hard_link(&wheel.path, &at).or_else(|_| files::copy_synced(&wheel.path, &at))?;
    }
    Ok(())
}

/// A source to build.
#[derive(Debug)]
struct Source {
    name: String,
    version: String,
    sha256: String,
}

/// The packages of a `pylock.toml` that have no wheel.
fn sources(pylock: &str) -> Result<Vec<Source>, String> {
    let lock: PyLock =
        toml::from_str(pylock).map_err(|e| format!("The installer's answer could not be read: {}", e.message()))?;
    let fine = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let mut all = Vec::new();
    for package in lock.packages.into_iter().filter(|p| p.wheels.is_empty()) {
        let (name, version) = (package.name, package.version.unwrap_or_default());
        if !fine(&name, "-_.") || !fine(&version, ".!+-_") {
            return Err("A package in the installer's answer has no valid name and version.".into());
        }
        let sha256 = package.sdist.and_then(|mut s| s.hashes.remove("sha256")).filter(|hash| is_sha256(hash));
        let sha256 =
            sha256.ok_or_else(|| format!("The package {name} has neither a wheel nor a source with a hash."))?;
        all.push(Source { name, version, sha256 });
    }
    Ok(all)
}

/// Rejects anything but one requirement of a package by its name and version, because part of it comes from users.
pub fn checked(vdk_requirement: &str) -> Result<(), Problem> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.[],=<>!~*+ ".contains(c);
    if vdk_requirement.len() <= 200
        && vdk_requirement.starts_with(|c: char| c.is_ascii_alphanumeric())
        && vdk_requirement.chars().all(fine)
        && !vdk_requirement.contains(" -")
    {
        return Ok(());
    }
    Err(Problem::new(
        Code::VdkVersionInvalid,
        format!("The VDK version {} is not valid.", model::name::excerpt(vdk_requirement)),
        "VDK is installed by the name and the version of a package.",
    )
    .not_rolled_out()
    .fix("Write the version like \"0.2.1810444937\", or leave it out."))
}

/// The constraints without those for the required package, because the requirement takes precedence.
pub fn constraints_for(vdk_requirement: &str, constraints: &str) -> String {
    let own = package_name(vdk_requirement);
    let mut kept: String = constraints
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && package_name(line) != own)
        .collect::<Vec<_>>()
        .join("\n");
    kept.push('\n');
    kept
}

/// The normal form of the name at the beginning of a requirement.
fn package_name(requirement: &str) -> String {
    let end = requirement.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(requirement.len());
    normal(&requirement[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_sources_and_its_installation_allows_the_wheels_made_of_them() {
        let (source, wheel, other) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        let made = Provenance {
            name: "vdk-core".into(),
            source_sha256: source.clone(),
            wheel: "x.whl".into(),
            wheel_sha256: wheel.clone(),
        };
        let wheels = Wheels { folder: PathBuf::new(), made: vec![made] };
        let raw = format!("vdk-core==1 \\\n    --hash=sha256:{wheel}\nclick==8 \\\n    --hash=sha256:{other}\n");
        let portable = raw.replace(&wheel, &source);
        assert_eq!(wheels.portable(&raw), portable);
        assert_eq!(
            wheels.local(&portable),
            format!(
                "vdk-core==1 \\\n    --hash=sha256:{wheel} \\\n    --hash=sha256:{source}\nclick==8 \\\n    --hash=sha256:{other}\n"
            )
        );
        assert_eq!(wheels.portable("no hash --hash=sha256:ä"), "no hash --hash=sha256:ä");
    }

    #[test]
    fn wheels_that_are_not_whole_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("x.whl");
        std::fs::write(&wheel, "the wheel").unwrap();
        let made = Provenance {
            name: "vdk-core".into(),
            source_sha256: "a".repeat(64),
            wheel: "x.whl".into(),
            wheel_sha256: hex::encode(Sha256::digest("the wheel")),
        };
        std::fs::write(folder.path().join(NOTE), serde_json::to_vec(&[made]).unwrap()).unwrap();
        assert_eq!(Wheels::read(folder.path()).unwrap().made.len(), 1);
        // As after a power cut: the name is there, and its content is not.
        for broken in ["", "the whee", "the wheeL"] {
            std::fs::write(&wheel, broken).unwrap();
            assert!(Wheels::read(folder.path()).is_none(), "{broken:?}");
        }
        std::fs::remove_file(&wheel).unwrap();
        assert!(Wheels::read(folder.path()).is_none());
        std::fs::write(&wheel, "the wheel").unwrap();
        std::fs::write(folder.path().join(NOTE), "").unwrap();
        assert!(Wheels::read(folder.path()).is_none());
    }

    #[test]
    fn the_required_package_is_not_constrained() {
        let constraints = "setuptools<81\nQuickstart_VDK==1\n# words\n\nvdk-core==2\n";
        assert_eq!(constraints_for("quickstart-vdk==3", constraints), "setuptools<81\nvdk-core==2\n");
    }

    #[test]
    fn a_vdk_requirement_is_one_package() {
        for good in ["quickstart-vdk==0.2.1810444937", "my-vdk[a,b]>=1, <2", "vdk"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in
            ["", "-r x", "a==1\n--index-url http://h", "a @ http://h/a.whl", "./a", "a -r b", "a==1 --hash=x", "a;b"]
        {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_has_no_wheel_is_built() {
        let lock = r#"
            [[packages]]
            name = "a"
            version = "1"
            sdist = { url = "https://h/x/a-1.tar.gz", upload-time = 2024-08-29T07:18:15Z, hashes = { sha256 = "HASH" } }
            [[packages]]
            name = "b"
            version = "2"
            wheels = [{ url = "https://h/b-2-py3-none-any.whl", hashes = { sha256 = "01" } }]
        "#;
        let hash = "0".repeat(64);
        let lock = lock.replace("HASH", &hash);
        let all = sources(&lock).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].name.as_str(), all[0].version.as_str(), &all[0].sha256), ("a", "1", &hash));
        assert!(sources(&lock.replace("\"a\"", "\"../a\"")).is_err());
        assert!(sources("[[packages]]\nname = \"c\"").is_err());
    }
}
