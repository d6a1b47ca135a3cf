//! The Python interpreters of this machine, found by running them.
//!
//! A path says little: the shims of a version manager exist for versions that are not installed, a distribution's
//! Python may lack modules, and `python3` may be anything. So each candidate is asked, and what does not answer in time
//! or lacks what VDK needs is left out.
//!
//! `uv python list --only-installed` was tried instead (uv 0.13.9, eight interpreters of pyenv and one of Debian, on
//! 2026-11-29): it finds none of pyenv's that is not the selected one, and does not say which modules an interpreter
//! lacks, so each would be run all the same. On a busy machine it took 0.06 s, and 3.1 s with an empty cache; the whole
//! start of the service takes 0.02 s, and the one that asks all of them 1.3 to 1.6 s. Also, the first start has no uv yet:
//! uv is installed with an interpreter that was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{StreamExt, stream};
use model::{clock::SharedClock, python::PythonVersion};
use serde::{Deserialize, Serialize};

use crate::command::{Command, Ended};

/// The Python versions with which the stock VDK distribution works, both ends included.
///
/// Measured on 2026-11-22 with [`vdk::REQUIREMENT`] and [`vdk::CONSTRAINTS`] on x86-64 Linux:
/// for CPython 3.7.16, 3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1 and 3.13.0 it resolves, installs, `vdk version` prints and
/// `vdk run` of a job with one step ends with "Success". 3.6.15 does not resolve: `vdk-core` asks for 3.7 or later. Later
/// ones than 3.13 were not at hand; one that is found is named in the log and left out.
pub const SUPPORTED: (PythonVersion, PythonVersion) =
    (PythonVersion { major: 3, minor: 7 }, PythonVersion { major: 3, minor: 13 });

/// Whether the stock VDK distribution works with this version; see [`SUPPORTED`].
pub fn supported(version: PythonVersion) -> bool {
    (SUPPORTED.0..=SUPPORTED.1).contains(&version)
}

/// A Python that ran when it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// Its minor version.
    pub version: PythonVersion,
    /// Its full version, `3.11.7`.
    pub full_version: String,
    /// Its real path, links followed; of a virtual environment, the Python that it was made of.
    pub executable: PathBuf,
    /// The platform that it says it is for, `linux-x86_64`.
    pub platform: String,
}

impl Interpreter {
    /// The state that its environments depend on. An interpreter that was replaced in place has another identity.
    pub fn identity(&self) -> String {
        format!("{}\n{}\n{}", self.executable.display(), self.full_version, self.platform)
    }
}

/// Where to look, and how long.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The folders to look in, those that are preferred first: of `PATH`, and the [`usual_folders`].
    pub search_path: Vec<PathBuf>,
    /// The home folder, which the shims of version managers need.
    pub home: Option<PathBuf>,
    /// How long an interpreter may take to answer.
    pub probe_timeout: Duration,
    /// A file with the results of probes, to be reused at the next start; it may be lost at any time.
    pub memory: Option<PathBuf>,
    /// Waiting.
    pub clock: SharedClock,
}

/// Candidates checked; a machine with more has some left out.
const CANDIDATES_MAX: usize = 128;
/// Interpreters asked at the same time.
const PROBES_PARALLEL: usize = 4;

/// The interpreters of this machine that deployments can use, one a minor version, ascending.
pub async fn discover(options: &Discovery) -> Vec<Interpreter> {
    let paths = {
        let options = options.clone();
        tokio::task::spawn_blocking(move || candidates(&options)).await.unwrap_or_default()
    };
    let known = ProbeCache::read(options.memory.as_deref());
    let ask = async |path: PathBuf| {
        let stamp = stamp(&path);
        match known.answer(&path, stamp.as_ref()) {
            Some(answer) => Some((path, stamp, answer)),
            None => probe(&path, options).await.map(|answer| (path, stamp, answer)),
        }
    };
    let answers: Vec<_> = stream::iter(paths).map(ask).buffered(PROBES_PARALLEL).collect().await;
    ProbeCache::of(answers.iter().flatten()).write(options.memory.as_deref(), &known);
    let answers = answers.into_iter().map(|asked| asked.map(|(_, _, answer)| answer));
    let mut best: BTreeMap<PythonVersion, ProbeResult> = BTreeMap::new();
    for answer in answers.flatten() {
        if !supported(answer.version()) {
            tracing::info!(
                python = %answer.executable.display(), version = %answer.full_version(),
                "a Python outside of the supported versions is left out"
            );
            continue;
        }
        if best.get(&answer.version()).is_none_or(|b| b.rank() < answer.rank()) {
            best.insert(answer.version(), answer);
        }
    }
    best.into_values()
        .map(|a| Interpreter {
            version: a.version(),
            full_version: a.full_version(),
            executable: a.executable,
            platform: a.platform,
        })
        .collect()
}

/// The folders beside those of `PATH` that have interpreters: of the version managers in a home folder, and of the system.
pub fn usual_folders(home: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(home) = home {
        for versions in [".pyenv/versions", ".local/share/uv/python"] {
            folders.extend(children(&home.join(versions)).into_iter().map(|v| v.join("bin")));
        }
        folders.push(home.join(".local/bin"));
    }
    folders.extend(["/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    folders
}

/// Every path that may be a Python, links followed, in the order of preference.
fn candidates(options: &Discovery) -> Vec<PathBuf> {
    let folders = options.search_path.iter().cloned().flat_map(unshimmed);
    let mut seen = BTreeSet::new();
    folders
        .filter(|folder| folder.is_absolute() && seen.insert(folder.clone()))
        .flat_map(|folder| children(&folder))
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(is_python))
        .filter_map(|path| path.canonicalize().ok())
        .collect::<Vec<_>>()
        .into_iter()
        .scan(BTreeSet::new(), |seen, path| Some(seen.insert(path.clone()).then_some(path)))
        .flatten()
        .take(CANDIDATES_MAX)
        .collect()
}

/// A version manager's folder of shims stands for the versions beside it: to ask those is quicker than to ask the shims.
fn unshimmed(folder: PathBuf) -> Vec<PathBuf> {
    let versions = folder.parent().map(|root| root.join("versions")).filter(|versions| versions.is_dir());
    match versions {
        Some(versions) if folder.ends_with("shims") => {
            children(&versions).into_iter().map(|version| version.join("bin")).collect()
        }
        _ => vec![folder],
    }
}

/// The entries of a folder, sorted; none when it can't be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    all.sort();
    all
}

/// `python3`, or `python3.` and a number.
fn is_python(name: &str) -> bool {
    name.strip_prefix("python3").is_some_and(|rest| {
        rest.is_empty()
            || rest.strip_prefix('.').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// The properties of an interpreter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ProbeResult {
    version: (u16, u16, u16, String, u16),
    implementation: String,
    executable: PathBuf,
    platform: String,
    missing: Vec<String>,
}

/// `ssl` because packages come over it, `sqlite3` and `venv` because VDK's parts and users' tools expect them.
const QUESTION: &str = "
import importlib, json, os, sys, sysconfig
missing = []
for name in ('ssl', 'sqlite3', 'venv'):
    try:
        importlib.import_module(name)
    except Exception:
        missing.append(name)
print(json.dumps({
    'version': list(sys.version_info),
    'implementation': sys.implementation.name,
    'executable': os.path.realpath(sys.executable),
    'platform': sysconfig.get_platform(),
    'missing': missing,
}))
";

impl ProbeResult {
    fn version(&self) -> PythonVersion {
        PythonVersion { major: self.version.0, minor: self.version.1 }
    }

    fn full_version(&self) -> String {
        let (major, minor, micro, level, serial) = &self.version;
        match level.as_str() {
            "final" => format!("{major}.{minor}.{micro}"),
            other => format!("{major}.{minor}.{micro}{other}{serial}"),
        }
    }

    /// A full release is preferred to a preview, then the later one.
    fn rank(&self) -> (bool, u16, u16) {
        (self.version.3 == "final", self.version.2, self.version.4)
    }
}

/// Identifies the state of a file: inode, size, and the times of the last change of content and of anything.
type FileStamp = [i64; 6];

fn stamp(path: &Path) -> Option<FileStamp> {
    let file = std::fs::metadata(path).ok()?;
    Some([
        file.ino().cast_signed(),
        file.len().cast_signed(),
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec(),
    ])
}

/// Known results of probes, only of interpreters that are programs themselves: the result of a script depends on more
/// than its file. What did not answer is asked again.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct ProbeCache(Vec<(PathBuf, FileStamp, ProbeResult)>);

impl ProbeCache {
    const MAX_BYTES: u64 = 1024 * 1024;

    fn read(file: Option<&Path>) -> Self {
        let read = || {
            let file = file?;
            let fits = std::fs::metadata(file).ok()?.len() <= Self::MAX_BYTES;
            serde_json::from_slice(&fits.then(|| std::fs::read(file).ok()).flatten()?).ok()
        };
        read().unwrap_or_default()
    }

    fn answer(&self, path: &Path, stamp: Option<&FileStamp>) -> Option<ProbeResult> {
        self.0.iter().find(|(p, s, _)| p == path && Some(s) == stamp).map(|(_, _, answer)| answer.clone())
    }

    fn of<'a>(asked: impl Iterator<Item = &'a (PathBuf, Option<FileStamp>, ProbeResult)>) -> Self {
        let programs = asked.filter(|(path, _, answer)| answer.executable == *path);
        Self(programs.filter_map(|(path, stamp, answer)| Some((path.clone(), (*stamp)?, answer.clone()))).collect())
    }

    /// Writes the results if they changed. A failure costs the next start some time.
    fn write(&self, file: Option<&Path>, known: &Self) {
        let Some((file, folder)) = file.and_then(|file| Some((file, file.parent()?))).filter(|_| self != known) else {
            return;
        };
        let kept =
            std::fs::create_dir_all(folder).and_then(|()| files::write_durably(file, &serde_json::to_vec(self)?));
        if let Err(error) = kept {
            tracing::debug!(%error, file = %file.display(), "what interpreters answered is not kept");
        }
    }
}

async fn probe(path: &Path, options: &Discovery) -> Option<ProbeResult> {
    let mut command = Command::new(path, Path::new("/"), options.probe_timeout, &options.clock);
    command.args(["-I", "-c", QUESTION]);
    // A version manager's shim needs both to find what it stands for.
    command.env("PATH", std::env::join_paths(&options.search_path).unwrap_or_default());
    command.env("HOME", options.home.clone().map_or_else(OsString::new, PathBuf::into_os_string));
    let left_out = |why: &str| {
        tracing::debug!(python = %path.display(), why, "left out");
        None
    };
    let output = match command.run().await {
        Ok(Ended::Exited(output)) if output.success => output,
        Ok(Ended::Exited(output)) => return left_out(output.stderr.lines().next().unwrap_or("it failed")),
        Ok(Ended::TimedOut(_)) => return left_out("it did not answer in time"),
        Err(e) => return left_out(&e.to_string()),
    };
    match serde_json::from_str::<ProbeResult>(&output.stdout) {
        Ok(answer) if answer.implementation != "cpython" => left_out("it is not CPython"),
        Ok(answer) if !answer.missing.is_empty() => left_out(&format!("it lacks {}", answer.missing.join(", "))),
        Ok(answer) => Some(answer),
        Err(_) => left_out("it did not say what it is"),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    use clock::SystemClock;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "tests have no configuration but their environment")]
    fn search_path() -> Vec<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).chain(usual_folders(None)).collect()
    }

    #[tokio::test]
    async fn an_interpreter_counts_when_it_answers_and_a_broken_one_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        };
        script("python3.9", "#!/bin/sh\necho 'python3.9: command not found' >&2\nexit 127\n");
        script("python3.10", "#!/bin/sh\nexec /bin/sleep 60\n");
        script("python3.12", "#!/bin/sh\necho 'Python 3.12'\n");
        script("python3-config", "#!/bin/sh\nexit 1\n");
        let said = r#"{"version":[3,11,9,"final",0],"implementation":"cpython","executable":"/x/python3.11",
            "platform":"linux-x86_64","missing":[]}"#;
        script("python3.11", &format!("#!/bin/sh\necho '{said}'\n"));
        script("python3", &format!("#!/bin/sh\necho '{}'\n", said.replace("11,9,\"final\"", "11,99,\"candidate\"")));
        let mut options = Discovery {
            search_path: vec![folder.path().into()],
            home: None,
            probe_timeout: Duration::from_secs(2),
            memory: None,
            clock: Arc::new(SystemClock),
        };
        assert_eq!(candidates(&options).len(), 5);
        let eleven = Interpreter {
            version: PythonVersion { major: 3, minor: 11 },
            full_version: "3.11.9".into(),
            executable: "/x/python3.11".into(),
            platform: "linux-x86_64".into(),
        };
        assert_eq!(discover(&options).await, [eleven]);

        options.search_path = search_path();
        options.probe_timeout = Duration::from_secs(20);
        let found = discover(&options).await;
        assert!(!found.is_empty(), "the tests need a Python");
        assert!(found.iter().all(|i| i.executable.is_file() && i.full_version.starts_with(&i.version.to_string())));
        assert!(found.is_sorted_by_key(|i| i.version));
    }

    #[tokio::test]
    async fn an_interpreter_that_answered_is_not_asked_again_until_its_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().canonicalize().unwrap().join("versions/3.11.9/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir(folder.path().join("shims")).unwrap();
        let python = bin.join("python3.11");
        let asked = folder.path().join("asked");
        let says = |micro: u16| {
            let text = format!(
                "#!/bin/sh\necho >> {}\necho '{{\"version\":[3,11,{micro},\"final\",0],\"implementation\":\"cpython\",\
                 \"executable\":\"{}\",\"platform\":\"linux\",\"missing\":[]}}'\n",
                asked.display(),
                python.display()
            );
            std::fs::write(&python, text).unwrap();
            std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).unwrap();
        };
        says(99);
        let options = Discovery {
            search_path: vec![folder.path().canonicalize().unwrap().join("shims")],
            home: None,
            probe_timeout: Duration::from_secs(20),
            memory: Some(folder.path().join("cache/interpreters.json")),
            clock: Arc::new(SystemClock),
        };
        let times = || std::fs::read(&asked).unwrap().len();
        for _ in 0..2 {
            let found = discover(&options).await;
            assert!(found.iter().any(|i| i.executable == python && i.full_version == "3.11.99"), "{found:?}");
            assert_eq!(times(), 1);
        }
        says(98);
        discover(&options).await;
        assert_eq!(times(), 2);
        std::fs::write(options.memory.as_ref().unwrap(), "garbage").unwrap();
        discover(&options).await;
        assert_eq!(times(), 3);
    }
}
