//! Wheels of the VDK packages, which the index has as sources only.
//!
//! Built once for a VDK requirement, its constraints and a Python, into a folder of the cache. Without it the installer
//! builds them again for most locks and environments: 4 to 5 seconds each time, against 0.4 (measured).
//!
//! A wheel that is built here has another hash than one built on another machine, or tomorrow. So a lock never names it:
//! a lock names what the index serves, the hash of the *source*, and is good on every machine and after a restore of the
//! database alone. The folder notes which source each wheel was made of, and translates: [`Wheels::portable`] when a
//! lock is made, [`Wheels::local`] when it is installed. A source whose wheel is not here is built by the installer,
//! which checks its hash.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use model::Problem;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Interpreter, Tools, fault,
    tools::{BUILD_CONSTRAINTS, finish, lock_file},
};

const RESOLVE_LIMIT: Duration = Duration::from_secs(300);
const FETCH_LIMIT: Duration = Duration::from_secs(300);
const BUILD_LIMIT: Duration = Duration::from_secs(300);
const BUILDS_PARALLEL: usize = 2;
/// Counts the ways in which the folder is made.
const FORMAT: &str = "holdfast wheels 1";
/// In a folder that is complete: which wheel was made of what.
const NOTE: &str = "wheels.json";

/// A folder of wheels, and what each was made of.
#[derive(Debug, Clone)]
pub struct Wheels {
    folder: PathBuf,
    made: Vec<Made>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Made {
    name: String,
    version: String,
    source_sha256: String,
    wheel: String,
    wheel_sha256: String,
}

/// What is read of a `pylock.toml`.
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
    url: Option<String>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

impl Wheels {
    /// The folder, for `--find-links`.
    pub fn folder(&self) -> &Path {
        &self.folder
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
    pub(crate) fn local(&self, lock: &str) -> String {
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

    fn read(folder: &Path) -> Option<Self> {
        let made: Vec<Made> = serde_json::from_slice(&std::fs::read(folder.join(NOTE)).ok()?).ok()?;
        made.iter().all(|m| folder.join(&m.wheel).is_file()).then(|| Self { folder: folder.to_owned(), made })
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
        let _lock = lock_file(&wheels.join(format!("{key}.lock"))).await?;
        if let Some(found) = Wheels::read(&done) {
            return Ok(found);
        }
        self.build_wheels(interpreter, vdk_requirement, &done).await?;
        Wheels::read(&done).ok_or_else(|| {
            Problem::internal("The wheels of VDK could not be read.", "They were built, and are not in their folder.")
        })
    }

    fn wheels_key(&self, interpreter: &Interpreter, vdk_requirement: &str) -> String {
        let mut hash = Sha256::new();
        let version = interpreter.version.to_string();
        for part in
            [FORMAT, vdk_requirement, &self.options.vdk_constraints, BUILD_CONSTRAINTS, &version, &interpreter.platform]
        {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hex::encode(&hash.finalize()[..16])
    }

    async fn build_wheels(&self, interpreter: &Interpreter, vdk_requirement: &str, done: &Path) -> Result<(), Problem> {
        const WHAT: &str = "The packages of VDK could not be built.";
        let scratch = self.scratch().await?;
        let at = |name: &str| scratch.path().join(name);
        let write =
            |name: &str, text: &str| std::fs::write(at(name), text).map_err(|e| fault::io(WHAT, scratch.path(), &e));
        tracing::info!(vdk = vdk_requirement, python = %interpreter.version, "building the wheels of VDK, once");

        write("vdk.in", vdk_requirement)?;
        write("constraints.txt", &constraints_for(vdk_requirement, &self.options.vdk_constraints))?;
        write("build.txt", BUILD_CONSTRAINTS)?;
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
        let resolved = self.try_run(WHAT, scratch.path(), resolve, RESOLVE_LIMIT).await?;
        if !resolved.success {
            // The version may be one that a user asked for. What does not build is the operator's.
            return Err(if resolved.stderr.contains("No solution found") {
                fault::of_installer(WHAT, &resolved)
            } else {
                fault::of_platform(WHAT, &resolved)
            });
        }

        let sources =
            sources(&std::fs::read_to_string(at("pylock.toml")).map_err(|e| fault::io(WHAT, scratch.path(), &e))?)
                .map_err(|why| Problem::internal(WHAT, why))?;
        let wanted: Vec<_> = sources.iter().map(|s| (&s.url, &s.sha256, at(&s.file))).collect();
        write("fetch.json", &serde_json::to_string(&wanted).unwrap_or_default())?;
        let mut fetch = self.command(&interpreter.executable, scratch.path(), FETCH_LIMIT)?;
        fetch.args(["-I", "-c", include_str!("fetch.py"), "fetch.json"]);
        let fetched = finish(WHAT, fetch).await?;
        if !fetched.success {
            return Err(fault::of_platform(WHAT, &fetched));
        }

        let out = at("made");
        std::fs::create_dir(&out).map_err(|e| fault::io(WHAT, &out, &e))?;
        let builds: Vec<_> =
            sources.iter().map(|source| self.build_wheel(WHAT, interpreter, scratch.path(), source, &out)).collect();
        let made: Vec<Made> = stream::iter(builds).buffered(BUILDS_PARALLEL).try_collect().await?;
        let finished = std::fs::File::create(out.join(NOTE)).and_then(|file| {
            serde_json::to_writer(&file, &made)?;
            file.sync_all()?;
            // What is there is not complete: it could not be read.
            let _ = std::fs::remove_dir_all(done);
            std::fs::rename(&out, done)
        });
        finished.map_err(|e| fault::io(WHAT, done, &e))?;
        tracing::info!(vdk = vdk_requirement, wheels = made.len(), "built the wheels of VDK");
        Ok(())
    }

    async fn build_wheel(
        &self,
        what: &str,
        interpreter: &Interpreter,
        scratch: &Path,
        source: &Source,
        out: &Path,
    ) -> Result<Made, Problem> {
        let own = out.join(format!("{}.building", source.name));
        let mut build: Vec<OsString> =
            ["build", "--wheel", "--no-create-gitignore", "-b", "build.txt"].map(Into::into).into();
        build.extend(["--python".into(), interpreter.executable.clone().into(), "-o".into(), own.clone().into()]);
        build.push(source.file.clone().into());
        let built = self.try_run(what, scratch, build, BUILD_LIMIT).await?;
        if !built.success {
            return Err(fault::of_platform(what, &built));
        }
        let taken = (|| {
            let mut entries = std::fs::read_dir(&own)?.collect::<Result<Vec<_>, _>>()?;
            entries.retain(|e| e.path().extension().is_some_and(|x| x == "whl"));
            let [wheel] = entries.as_slice() else {
                return Err(std::io::Error::other("the build did not leave one wheel"));
            };
            let name = wheel.file_name();
            let bytes = std::fs::read(wheel.path())?;
            std::fs::rename(wheel.path(), out.join(&name))?;
            std::fs::remove_dir_all(&own)?;
            Ok((name.to_string_lossy().into_owned(), hex::encode(Sha256::digest(bytes))))
        })();
        let (wheel, wheel_sha256) = taken.map_err(|e| fault::io(what, &own, &e))?;
        Ok(Made {
            name: source.name.clone(),
            version: source.version.clone(),
            source_sha256: source.sha256.clone(),
            wheel,
            wheel_sha256,
        })
    }
}

/// A source to build.
#[derive(Debug)]
struct Source {
    name: String,
    version: String,
    url: String,
    sha256: String,
    /// The last part of its address.
    file: String,
}

/// The packages of a `pylock.toml` that have no wheel.
fn sources(pylock: &str) -> Result<Vec<Source>, String> {
    let lock: PyLock =
        toml::from_str(pylock).map_err(|e| format!("The installer's answer could not be read: {}", e.message()))?;
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for package in lock.packages.into_iter().filter(|p| p.wheels.is_empty()) {
        let name = package.name;
        let (url, sha256) = package
            .sdist
            .and_then(|mut s| Some((s.url?, s.hashes.remove("sha256")?)))
            .ok_or_else(|| format!("The package {name} has neither a wheel nor a source with a hash."))?;
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default().to_owned();
        let archive = Path::new(&file).extension().is_some_and(|x| x == "gz" || x == "zip");
        if !archive || !seen.insert(file.clone()) {
            return Err(format!("The source of the package {name} has no usable name."));
        }
        all.push(Source { version: package.version.unwrap_or_default(), name, url, sha256, file });
    }
    Ok(all)
}

/// Refuses what is more than one requirement of a package by its name and version: part of it comes from users.
pub fn checked(vdk_requirement: &str) -> Result<(), Problem> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.[],=<>!~*+ ".contains(c);
    if vdk_requirement.len() <= 200
        && vdk_requirement.starts_with(|c: char| c.is_ascii_alphanumeric())
        && vdk_requirement.chars().all(fine)
        && !vdk_requirement.contains(" -")
    {
        return Ok(());
    }
    Err(Problem::invalid(
        format!("The VDK version {} is not valid.", model::name::shown(vdk_requirement)),
        "VDK is asked for by the name and the version of a package.",
    )
    .fix("Write the version like \"0.2.1810444937\", or leave it out."))
}

/// The constraints without those for the package that is required: what is asked for by name wins.
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
    let mut name = String::new();
    for part in requirement[..end].split(['-', '_', '.']).filter(|p| !p.is_empty()) {
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&part.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_sources_and_its_installation_allows_the_wheels_made_of_them() {
        let (source, wheel, other) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        let made = Made {
            name: "vdk-core".into(),
            version: "1".into(),
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
            sdist = { url = "https://h/x/a-1.tar.gz", upload-time = 2024-08-29T07:18:15Z, hashes = { sha256 = "00" } }
            [[packages]]
            name = "b"
            version = "2"
            wheels = [{ url = "https://h/b-2-py3-none-any.whl", hashes = { sha256 = "01" } }]
        "#;
        let all = sources(lock).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].name.as_str(), all[0].file.as_str()), ("a", "a-1.tar.gz"));
        assert!(sources("[[packages]]\nname = \"c\"").is_err());
    }
}
