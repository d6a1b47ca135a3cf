//! The environment of a lock.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use model::{Problem, lock::Lock};

use crate::{
    Interpreter, Tools, fault,
    tools::{BUILD_CONSTRAINTS, finish},
};

const VENV_LIMIT: Duration = Duration::from_secs(60);
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);
const TRY_LIMIT: Duration = Duration::from_secs(120);
const WHAT: &str = "The environment of the data job could not be made.";

impl Tools {
    /// Makes a virtual environment at `at`, its final path, with exactly the packages of `lock`, and sees that the
    /// `vdk` command in it starts.
    ///
    /// What was at `at` is replaced. The caller sees to it that nobody else uses the folder, and marks it complete.
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
            return Err(Problem::internal(
                WHAT,
                format!(
                    "The packages are for Python {}, the interpreter is {}.",
                    lock.python_version, interpreter.version
                ),
            ));
        }
        tracing::info!(lock = %lock.key, python = %interpreter.full_version, "making an environment");
        let wheels = self.wheels_for(interpreter, vdk_requirement).await?;
        let scratch = self.scratch().await?;
        let write = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            std::fs::write(&path, text).map(|()| path).map_err(|e| fault::io(WHAT, scratch.path(), &e))
        };
        let build = write("build.txt", BUILD_CONSTRAINTS)?;
        let requirements = write("lock.txt", &wheels.local(&lock.text))?;
        remove(at)?;

        let venv: [OsString; 5] =
            ["venv".into(), "--no-project".into(), "--python".into(), interpreter.executable.clone().into(), at.into()];
        self.run(WHAT, scratch.path(), venv, VENV_LIMIT).await?;
        let python = at.join("bin").join("python");
        let install = |offline: bool| {
            let mut args: Vec<OsString> =
                ["pip", "install", "--no-deps", "--require-hashes", "--link-mode", "hardlink"].map(Into::into).into();
            args.extend(offline.then(|| "--offline".into()));
            args.extend(["--python".into(), python.clone().into()]);
            args.extend(["--find-links".into(), wheels.folder().into()]);
            args.extend(["-b".into(), build.clone().into(), "-r".into(), requirements.clone().into()]);
            args
        };
        // What the cache holds needs no network: an environment comes back while the index is down.
        let cached = self.try_run(WHAT, scratch.path(), install(true), INSTALL_LIMIT).await?;
        if !cached.success {
            self.run(WHAT, scratch.path(), install(false), INSTALL_LIMIT).await?;
        }
        self.try_vdk(scratch.path(), at).await
    }

    /// Starts the command of VDK once: it has to load all of its plugins, and Python keeps what it compiled for it.
    async fn try_vdk(&self, folder: &Path, at: &Path) -> Result<(), Problem> {
        let vdk = at.join("bin").join("vdk");
        if !vdk.is_file() {
            return Ok(());
        }
        let mut command = self.command(&vdk, folder, TRY_LIMIT)?;
        command.args(["version"]);
        let output = finish(WHAT, command).await?;
        if output.success {
            return Ok(());
        }
        Err(Problem::invalid(
            WHAT,
            format!(
                "VDK does not start among the packages that were installed. It said: {}",
                fault::last_words(&output)
            ),
        )
        .follows("Nothing was changed: what was deployed before stays as it is.")
        .fix(
            "Remove or change the requirement that the message names, and deploy again; without requirements of your \
             own, tell the operator of this service.",
        ))
    }
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
