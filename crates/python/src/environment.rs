//! The environment of a lock.

use std::{
    ffi::OsString,
    io::Read,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use model::{Problem, lock::Lock, problem::Code};

use crate::{
    Interpreter, Output, Tools,
    built::Built,
    fault,
    pins::{Pin, normal, pins},
    untrusted::Folder,
    wheels::{Wheels, link},
};

const VENV_LIMIT: Duration = Duration::from_secs(60);
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);
const TRY_LIMIT: Duration = Duration::from_secs(120);
/// The folder in a sandbox for the compiled files of Python.
const COMPILED: &str = "compiled";
const COMPILED_MAX_BYTES: u64 = 512 * 1024 * 1024;
const WHAT: &str = "The environment of the data job could not be made.";

impl Tools {
    /// Makes a virtual environment at `at`, its final path, with exactly the packages of `lock`, and sees that the
    /// `vdk` command in it starts.
    ///
    /// An existing `at` is replaced. The caller makes sure that no other process uses the folder, and marks it complete.
    /// Files are hard links into the cache where both are on one file system: what writes into an installed file in
    /// place changes it for all; new files, and the compiled ones that Python writes, are the environment's own.
    ///
    /// # Errors
    /// The user's fault when a package of the lock does not build or VDK does not start beside it; the platform's when
    /// the index, the network or the disk fails.
    pub async fn create_environment(
        &self,
        interpreter: &Interpreter,
        lock: &Lock,
        vdk_requirement: &str,
        at: &Path,
    ) -> Result<(), Problem> {
        if interpreter.version != lock.python_version {
            return Err(Problem::new(
                Code::PackagePythonMismatch,
                WHAT,
                format!(
                    "The packages are for Python {}, the interpreter is {}.",
                    lock.python_version, interpreter.version
                ),
            )
            .not_rolled_out()
            .fix("Deploy again; the operator reports a bug with the log."));
        }
        tracing::info!(lock = %lock.key, python = %interpreter.full_version, "making an environment");
        let pins = pins(&lock.text).map_err(|why| {
            Problem::new(Code::PackageLockInvalid, WHAT, format!("The lock is not valid: {why}."))
                .not_rolled_out()
                .fix("Deploy again; if it fails again, the operator reports a bug with the log.")
        })?;
        let vdk = self.wheels_for(interpreter, vdk_requirement).await?;
        let mut built: Vec<Built> = pins.iter().filter_map(|pin| self.built(interpreter, pin)).collect();
        loop {
            let output = self.install(interpreter, lock, &vdk, &built, at).await?;
            if output.success {
                break;
            }
            let names = fault::without_wheels(&output);
            let missing: Vec<&Pin<'_>> = pins
                .iter()
                .filter(|pin| names.iter().any(|name| normal(name) == normal(pin.name)))
                .filter(|pin| built.iter().all(|b| normal(&b.made.name) != normal(pin.name)))
                .collect();
            if missing.is_empty() {
                return Err(fault::of_installer(WHAT, &output));
            }
            if !self.allow_builds() {
                return Err(fault::builds_are_off(WHAT, &output, interpreter));
            }
            for pin in missing {
                built.push(self.build(WHAT, interpreter, pin).await?);
            }
        }
        crate::secrets_client::register(interpreter, at).map_err(|e| fault::io(WHAT, at, &e))?;
        self.try_vdk(interpreter, at).await
    }

    /// Makes the environment again and installs the lock into it: wheels alone, each with a hash of the lock.
    async fn install(
        &self,
        interpreter: &Interpreter,
        lock: &Lock,
        vdk: &Wheels,
        built: &[Built],
        at: &Path,
    ) -> Result<Output, Problem> {
        let scratch = self.scratch().await?;
        let own = scratch.path().join("wheels");
        let requirements = scratch.path().join("lock.txt");
        std::fs::create_dir(&own)
            .and_then(|()| link(built, &own))
            .and_then(|()| std::fs::write(&requirements, vdk.with(built).local(&lock.text)))
            .map_err(|e| fault::io(WHAT, scratch.path(), &e))?;
        let python = at.join("bin").join("python");
        let install = |offline: bool| {
            let mut args: Vec<OsString> =
                ["install", "--no-deps", "--require-hashes", "--link-mode", "hardlink"].map(Into::into).into();
            args.extend(offline.then(|| "--offline".into()));
            args.extend(["--python".into(), python.clone().into()]);
            args.extend(["--find-links".into(), vdk.folder().into(), "--find-links".into(), own.clone().into()]);
            args.extend(["-r".into(), requirements.clone().into()]);
            args
        };
        // Cached packages need no network: an environment is rebuilt while the index is down.
        let mut output = None;
        for offline in [true, false] {
            // Anew: the installer asks the Python of the environment, which must not find packages of a try that failed.
            remove(at)?;
            let venv: [OsString; 4] =
                ["--no-project".into(), "--python".into(), interpreter.executable.clone().into(), at.into()];
            self.venv(WHAT, scratch.path(), venv, VENV_LIMIT).await?;
            let tried = self.pip(WHAT, scratch.path(), install(offline), INSTALL_LIMIT).await?;
            let done = tried.success;
            output = Some(tried);
            if done {
                break;
            }
        }
        output.ok_or_else(|| {
            Problem::new(Code::PackageInstallerNotStarted, WHAT, "The installer was not run.")
                .not_rolled_out()
                .no_action("Holdfast retries. If it persists, the operator reports a bug with the log.")
        })
    }

    /// Starts the command of VDK once: it has to load all of its plugins, and the files that Python compiled for it are kept.
    ///
    /// That runs the packages of the environment, so it happens in a sandbox, in which the environment can't be changed:
    /// its files are links into the cache that all environments share.
    async fn try_vdk(&self, interpreter: &Interpreter, at: &Path) -> Result<(), Problem> {
        let vdk = at.join("bin").join("vdk");
        if !vdk.is_file() {
            return Err(Problem::new(
                Code::VdkCommandMissing,
                WHAT,
                "VDK was installed, but none of its packages has the command `vdk`.",
            )
            .not_rolled_out()
            .fix(
                "Deploy with another VDK version; if all jobs fail, the operator corrects \
                    `vdk.distribution` and `vdk.version`.",
            ));
        }
        let sandbox = self.build_sandbox(WHAT, &[at]).await?;
        let compiled = sandbox.path().join(COMPILED);
        std::fs::create_dir(&compiled).map_err(|e| fault::io(WHAT, &compiled, &e))?;
        let mut command = sandbox.command(&vdk, TRY_LIMIT);
        command.env("PYTHONPYCACHEPREFIX", &compiled);
        command.args(["version"]);
        let output = sandbox.finish(WHAT, command).await?;
        if output.success {
            if let Err(error) = keep_compiled(&compiled, at) {
                tracing::warn!(%error, python = %interpreter.full_version, "compiled files were not kept; runs start slower");
            }
            return Ok(());
        }
        Err(Problem::new(
            Code::VdkStartFailed,
            WHAT,
            format!("VDK does not start with the installed packages: {}", fault::last_words(&output)),
        )
        .not_rolled_out()
        .fix(
            "Change the requirement that the message names, and deploy again; without own \
                requirements, ask the operator.",
        ))
    }
}

/// Copies the files that Python compiled into a folder of its own to their place in the environment.
fn keep_compiled(compiled: &Path, environment: &Path) -> std::io::Result<()> {
    // Python repeats the path of a module beneath the folder.
    let mut folder = Folder::open(compiled)?;
    for part in environment.components() {
        if let Component::Normal(name) = part {
            folder = folder.folder(Path::new(name))?;
        }
    }
    let mut left = COMPILED_MAX_BYTES;
    folder.walk(&mut |path, file, bytes| {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        let beside = environment.join(parent);
        if path.extension().is_none_or(|x| x != "pyc") || bytes > left || !beside.is_dir() {
            return;
        }
        left -= bytes;
        let cache = beside.join("__pycache__");
        let _ = std::fs::create_dir(&cache);
        // An existing file belongs to a package, and is shared.
        if let Ok(mut copy) = std::fs::File::create_new(cache.join(name)) {
            let _ = std::io::copy(&mut file.take(bytes), &mut copy);
        }
    })
}

/// Removes a folder that may not be there.
fn remove(folder: &Path) -> Result<(), Problem> {
    let parent: PathBuf = folder.parent().map(Into::into).unwrap_or_default();
    let removed = match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => std::fs::create_dir_all(parent),
    };
    removed.map_err(|e| fault::io(WHAT, folder, &e))
}
