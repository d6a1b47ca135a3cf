//! The packages of a lock in a folder of an image: unpacked, not run, with a Python and a platform that may be another than
//! this machine's.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use model::{Problem, problem::Code, python::PythonVersion};

use crate::{
    Interpreter, Tools,
    command::{Command, Ended},
    fault,
    wheels::Wheels,
};

const INSTALL_LIMIT: Duration = Duration::from_secs(1800);
/// Compiles modules. Nothing of them is run.
const COMPILE: &str = include_str!("bytecode.py");
const COMPILE_LIMIT: Duration = Duration::from_secs(600);
const WHAT: &str = "The packages of the data job's image could not be installed.";

/// The platform that packages are chosen and unpacked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePlatform {
    /// The version of the image's Python.
    pub python_version: PythonVersion,
    /// The platform as the installer names it, such as `x86_64-manylinux_2_36`.
    pub platform: String,
}

impl ImagePlatform {
    /// The arguments by which the installer chooses for the image.
    pub fn arguments(&self) -> Vec<OsString> {
        let version = self.python_version.to_string();
        ["--python-version", &version, "--python-platform", &self.platform].map(Into::into).into()
    }
}

impl Tools {
    /// The interpreter that the installer runs beside: of the image's version where there is one, else the latest.
    ///
    /// # Errors
    /// The platform's, when this machine has none.
    pub fn any_interpreter(&self, version: PythonVersion) -> Result<&Interpreter, Problem> {
        let all = self.interpreters();
        all.iter().find(|i| i.version == version).or_else(|| all.last()).ok_or_else(|| {
            Problem::new(Code::PythonNotInstalled, WHAT, "No Python was found, which the package installer needs.")
                .not_rolled_out()
                .fix("The operator installs Python 3.9 or later, or adds its folder to `python.search_path`.")
        })
    }

    /// The interpreter that compiles modules for images with this version of Python; none when this machine has no such one.
    pub fn compiler(&self, version: PythonVersion) -> Option<&Interpreter> {
        self.interpreters().iter().find(|interpreter| interpreter.version == version)
    }

    /// Compiles the modules in `folder` into `out`, in folders `__pycache__` like those that Python looks for. `place` is the path
    /// of the folder in the image. The same interpreter gives the same bytes. Returns whether it succeeded: images work without.
    ///
    /// # Errors
    /// The platform's, when a working folder can't be made.
    pub async fn compile_for_image(
        &self,
        version: PythonVersion,
        folder: &Path,
        out: &Path,
        place: &str,
    ) -> Result<bool, Problem> {
        let Some(interpreter) = self.compiler(version) else { return Ok(false) };
        let scratch = self.scratch().await?;
        let mut command = Command::new(&interpreter.executable, scratch.path(), COMPILE_LIMIT, &self.options.clock);
        command.args(["-S", "-s", "-B", "-c", COMPILE]);
        command.args([folder.as_os_str(), out.as_os_str(), place.as_ref()]);
        // Sets of constants are written in the order of their hashes.
        command.env("PYTHONHASHSEED", "0");
        command.env("PYTHONUTF8", "1");
        command.env("PYTHONWARNINGS", "ignore");
        Ok(match command.run().await {
            Ok(Ended::Exited(output)) if output.success => true,
            Ok(Ended::Exited(output)) => {
                let why = output.stderr.lines().last().unwrap_or_default();
                tracing::warn!(code = ?output.code, why, "modules of an image were not compiled");
                false
            }
            Ok(Ended::TimedOut(limit)) => {
                tracing::warn!(seconds = limit.as_secs(), "modules of an image were not compiled in time");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "the compiler of modules could not be started");
                false
            }
        })
    }

    /// Unpacks the wheels of a lock into `folder`, which must be empty. They are links into the cache, so nothing may be
    /// written there.
    ///
    /// # Errors
    /// The user's when a package has no wheel for the platform; the platform's when the index, the network or the disk fails.
    pub async fn unpack_for_image(
        &self,
        lock: &str,
        vdk: Option<&Wheels>,
        platform: &ImagePlatform,
        folder: &Path,
    ) -> Result<(), Problem> {
        crate::pins::pins(lock).map_err(|why| {
            Problem::new(Code::PackageLockInvalid, WHAT, format!("The lock is not valid: {why}."))
                .not_rolled_out()
                .fix("Deploy again; if it fails again, the operator reports a bug with the log.")
        })?;
        let interpreter = self.any_interpreter(platform.python_version)?;
        let scratch = self.scratch().await?;
        let requirements: PathBuf = scratch.path().join("lock.txt");
        let local = vdk.map_or_else(|| lock.to_owned(), |wheels| wheels.local(lock));
        std::fs::write(&requirements, local).map_err(|e| fault::io(WHAT, &requirements, &e))?;
        let arguments = |offline: bool| {
            let mut all: Vec<OsString> =
                ["install", "--no-deps", "--require-hashes", "--link-mode", "hardlink"].map(Into::into).into();
            all.extend(offline.then(|| "--offline".into()));
            all.extend(platform.arguments());
            all.extend(["--python".into(), interpreter.executable.clone().into()]);
            all.extend(["--target".into(), folder.into()]);
            if let Some(wheels) = vdk {
                all.extend(["--find-links".into(), wheels.folder().into()]);
            }
            all.extend(["-r".into(), requirements.clone().into()]);
            all
        };
        // Cached packages need no network.
        let mut output = None;
        for offline in [true, false] {
            let emptied = std::fs::remove_dir_all(folder).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            });
            emptied.and_then(|()| std::fs::create_dir_all(folder)).map_err(|e| fault::io(WHAT, folder, &e))?;
            let tried = self.pip(WHAT, scratch.path(), arguments(offline), INSTALL_LIMIT).await?;
            if tried.success {
                return Ok(());
            }
            output = Some(tried);
        }
        let output = output.ok_or_else(|| {
            Problem::new(Code::PackageInstallerNotStarted, WHAT, "The installer was not run.")
                .not_rolled_out()
                .no_action("Holdfast retries. If it persists, the operator reports a bug with the log.")
        })?;
        let names = fault::without_wheels(&output);
        Err(if names.is_empty() { fault::of_installer(WHAT, &output) } else { no_wheel(WHAT, &names, platform) })
    }
}

/// The problem of packages that an image can't have, because nothing is compiled for images.
pub fn no_wheel(what: &str, names: &[String], platform: &ImagePlatform) -> Problem {
    // VDK's own plugins are published as sources only, and a wheel of one serves every platform.
    let fix = match names.iter().find(|name| name.starts_with("vdk-")) {
        Some(plugin) => format!(
            "Ask the operator for a wheel of {plugin} in the package index (`uv build --wheel`): VDK publishes its plugins as \
             sources only."
        ),
        None => {
            "Require versions with wheels for this platform, or ask the operator for wheels in the index.".to_owned()
        }
    };
    Problem::new(
        Code::ImagePackageWithoutWheel,
        what,
        format!(
            "{} {} no wheel for Python {} on {}. Images are assembled from wheels only.",
            names.join(", "),
            if names.len() == 1 { "has" } else { "have" },
            platform.python_version,
            platform.platform
        ),
    )
    .not_rolled_out()
    .fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_of_vdk_without_a_wheel_has_a_remedy_of_its_own() {
        let platform = ImagePlatform {
            python_version: PythonVersion { major: 3, minor: 11 },
            platform: "x86_64-manylinux_2_36".into(),
        };
        let fix = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            format!("{:?}", no_wheel(WHAT, &names, &platform))
        };
        assert!(fix(&["docopt", "vdk-dag"]).contains("a wheel of vdk-dag in the package index"));
        assert!(fix(&["docopt"]).contains("Require versions with wheels"));
    }
}
