//! Python environments: made once for a lock and an interpreter, shared by deployments, kept while a run is in them.
//!
//! ```text
//! environments/<key>/          built at its final path, because scripts carry it
//! environments/<key>/complete  written last
//! environments/<key>.lock      exclusive to make or remove it, shared (by supervisors) to run in it
//! environments/by-lock/<hash>  which environment a lock has
//! ```

use std::{
    fmt::Debug,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use files::{Lock as FileLock, make_private_folder, write_durably};
use jiff::Timestamp;
use model::{
    BoxFuture, Problem,
    clock::SharedClock,
    lock::{Lock, LockKey},
    problem::Code,
    python::PythonVersion,
};
use python::Interpreter;
use rustix::fs::syncfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{blocking, folder::remove_tree, keyed_mutex::KeyedMutex};

/// Makes environments. Production has [`python::Tools`].
pub trait EnvironmentBuilder: Send + Sync + Debug {
    /// Makes an environment with the packages of `lock` at `at`, which does not exist yet, so that `at`/bin/vdk runs.
    fn build<'a>(
        &'a self,
        interpreter: &'a Interpreter,
        lock: &'a Lock,
        vdk_requirement: &'a str,
        at: &'a Path,
    ) -> BoxFuture<'a, Result<(), Problem>>;
}

impl EnvironmentBuilder for python::Tools {
    fn build<'a>(
        &'a self,
        interpreter: &'a Interpreter,
        lock: &'a Lock,
        vdk_requirement: &'a str,
        at: &'a Path,
    ) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(self.create_environment(interpreter, lock, vdk_requirement, at))
    }
}

const COMPLETE: &str = "complete";
const BY_LOCK: &str = "by-lock";
/// Changes when an environment is made in another way of the same packages.
const LAYOUT: &str = "2: registers the secrets client";
/// Between two checks a lock that another process holds to build the same environment.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// An environment that was asked for within this time is kept even if no deployment names it yet.
const FRESH: Duration = Duration::from_secs(600);

/// Whether the environment at `path` was made to its end.
pub(super) fn is_complete(path: &Path) -> bool {
    path.join(COMPLETE).is_file()
}

/// Which environment a lock has: the file `by-lock/<hash of the lock's key>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ByLock {
    lock_key: LockKey,
    environment: String,
    /// What [`Interpreter::identity`] was.
    interpreter: String,
    asked_at: Timestamp,
}

/// Where an environment is, with its lock.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) interpreter: PathBuf,
}

#[derive(Debug)]
pub(super) struct Environments {
    root: PathBuf,
    interpreters: Vec<Interpreter>,
    builder: Arc<dyn EnvironmentBuilder>,
    clock: SharedClock,
    building: KeyedMutex,
}

impl Environments {
    pub(super) fn open(
        root: PathBuf,
        interpreters: Vec<Interpreter>,
        builder: Arc<dyn EnvironmentBuilder>,
        clock: SharedClock,
    ) -> io::Result<Self> {
        make_private_folder(&root.join(BY_LOCK))?;
        make_private_folder(&root)?;
        Ok(Self { root, interpreters, builder, clock, building: KeyedMutex::default() })
    }

    fn place(&self, key: &str, interpreter: &Interpreter) -> Place {
        Place {
            folder: self.root.join(key),
            lock: self.root.join(format!("{key}.lock")),
            interpreter: interpreter.executable.clone(),
        }
    }

    fn by_lock_name(lock: &LockKey) -> String {
        digest(&[lock.as_str()])
    }

    fn by_lock(&self, lock: &LockKey) -> io::Result<Option<ByLock>> {
        match fs::read(self.root.join(BY_LOCK).join(Self::by_lock_name(lock))) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The environment of a lock, if it can be run in.
    pub(super) fn present(&self, lock: &LockKey) -> io::Result<Option<Place>> {
        let Some(known) = self.by_lock(lock)? else { return Ok(None) };
        let Some(interpreter) =
            self.interpreters.iter().find(|i| i.identity() == known.interpreter).filter(|i| i.executable.is_file())
        else {
            return Ok(None);
        };
        let place = self.place(&known.environment, interpreter);
        Ok(is_complete(&place.folder).then_some(place))
    }

    /// Makes the environment of a lock unless it is there.
    pub(super) async fn ensure(
        &self,
        lock: &Lock,
        python: PythonVersion,
        vdk_requirement: &str,
    ) -> Result<(), Problem> {
        let Some(interpreter) = self.interpreters.iter().find(|i| i.version == python) else {
            return Err(no_interpreter(python, &self.interpreters));
        };
        let identity = interpreter.identity();
        let key = digest(&[lock.key.as_str(), &identity, vdk_requirement, &interpreter.platform, LAYOUT]);
        let place = self.place(&key, interpreter);
        let _building = self.building.lock(&key).await;
        let known =
            ByLock { lock_key: lock.key.clone(), environment: key, interpreter: identity, asked_at: self.clock.now() };
        let path = self.root.join(BY_LOCK).join(Self::by_lock_name(&lock.key));
        // Before it is made, so that a clean-up in between sees that it is wanted.
        blocking(NOT_MADE, move || write_durably(&path, &serde_json::to_vec(&known)?)).await?;
        if is_complete(&place.folder) {
            return Ok(());
        }
        let lock_file = self.lock_to_make(&place).await?;
        if !is_complete(&place.folder) {
            let folder = place.folder.clone();
            blocking(NOT_MADE, move || remove_tree(&folder)).await?;
            let built = self.builder.build(interpreter, lock, vdk_requirement, &place.folder).await;
            let folder = place.folder.clone();
            if let Err(problem) = built {
                let _ = blocking(NOT_MADE, move || remove_tree(&folder)).await;
                return Err(problem);
            }
            blocking(NOT_MADE, move || {
                // Thousands of files have to be on disk before the marker.
                syncfs(File::open(&folder)?)?;
                write_durably(&folder.join(COMPLETE), b"")
            })
            .await?;
        }
        drop(lock_file);
        Ok(())
    }

    async fn lock_to_make(&self, place: &Place) -> Result<FileLock, Problem> {
        loop {
            let path = place.lock.clone();
            let lock = blocking(NOT_MADE, move || FileLock::try_exclusive(&path)).await?;
            match lock {
                Some(lock) => return Ok(lock),
                None => self.clock.sleep(BUSY_PAUSE).await,
            }
        }
    }

    /// Removes every environment whose lock is not in `keep` and in which nothing runs.
    pub(super) fn clean_up(&self, keep: &[LockKey]) -> io::Result<()> {
        let now = self.clock.now();
        let mut wanted = std::collections::HashSet::new();
        for entry in fs::read_dir(self.root.join(BY_LOCK))? {
            let path = entry?.path();
            let known = fs::read(&path).ok().and_then(|b| serde_json::from_slice::<ByLock>(&b).ok());
            match known {
                Some(known) if keep.contains(&known.lock_key) || is_fresh(known.asked_at, now) => {
                    wanted.insert(known.environment);
                }
                _ if path.extension().is_some_and(|e| e == "tmp") => {}
                _ => fs::remove_file(&path)?,
            }
        }
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let Some(key) = path.file_name().and_then(|n| n.to_str()).map(|n| n.trim_end_matches(".lock")) else {
                continue;
            };
            if key == BY_LOCK || wanted.contains(key) {
                continue;
            }
            let lock_path = self.root.join(format!("{key}.lock"));
            let Some(_lock) = FileLock::try_exclusive(&lock_path)? else { continue };
            let folder = self.root.join(key);
            match fs::remove_file(folder.join(COMPLETE)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            remove_tree(&folder)?;
            fs::remove_file(&lock_path)?;
        }
        Ok(())
    }
}

const NOT_MADE: &str = "The environment of the deployment could not be made.";

fn is_fresh(asked_at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(asked_at).unsigned_abs() < FRESH
}

fn digest(parts: &[&str]) -> String {
    // 128 bits are plenty here, and keep the first line of every script of an environment short.
    const BYTES: usize = 16;
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(&hash.finalize()[..BYTES])
}

fn no_interpreter(python: PythonVersion, offered: &[Interpreter]) -> Problem {
    let offered: Vec<String> = offered.iter().map(|i| i.version.to_string()).collect();
    Problem::new(
        Code::PythonNotInstalled,
        format!("The deployment needs Python {python}."),
        format!(
            "This machine has no Python {python}; it has {}.",
            if offered.is_empty() { "none".into() } else { offered.join(", ") }
        ),
    )
    .not_rolled_out()
    .fix(format!("Install Python {python}, or deploy the data job with another python_version."))
}
