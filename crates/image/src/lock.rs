//! One lock for VDK and the job.
//!
//! VDK is resolved alone first, once for its inputs; a job's requirements are then resolved together with VDK,
//! preferring those versions. So two jobs differ in what they add, and a requirement moves none of VDK's packages unless
//! it has to. The resolution of VDK is kept in the cache; with the cache gone, a newer version of a package that the
//! constraints leave open may be taken for locks made from then on. Locks that were made don't change: they are stored.
//!
//! Wheels are preferred: packages are resolved among those that have one first, which runs no foreign code. Only where that
//! has no solution are sources checked, in a sandbox.
//!
//! The text has no path and no date of this machine, and names of a package without wheels the hash of its source:
//! `python::Wheels` tells why and how such a lock is installed.

use std::{borrow::Cow, ffi::OsString, path::Path, sync::Arc, time::Duration};

use model::{
    BoxFuture, Problem,
    build::Stored,
    lock::{Lock, ResolutionInputs, Resolver},
    problem::Code,
};
use python::{ImagePlatform, Interpreter, Tools, Wheels};

use crate::requirements;

const RESOLVE_LIMIT: Duration = Duration::from_secs(600);
const LOCK_MAX_BYTES: u64 = 4 * 1024 * 1024;
const WHAT: &str = "The packages of the data job could not be resolved.";

/// The locks of an image.
#[derive(Debug)]
pub struct ImageLocks {
    /// VDK's own, where the image has VDK.
    pub vdk: Option<Lock>,
    /// All packages of the image; absent where it has none.
    pub job: Option<Lock>,
    /// The wheels of VDK that the locks name by their sources.
    pub wheels: Option<Wheels>,
}

/// Resolves requirements into locks.
#[derive(Debug)]
pub struct LockResolver {
    tools: Arc<Tools>,
}

impl LockResolver {
    /// A locker. Whether a package may be built that the index has as source only is up to the tools.
    pub fn new(tools: Arc<Tools>) -> Self {
        Self { tools }
    }

    /// The lock of `inputs`: every package of VDK and the job, pinned, with hashes.
    ///
    /// # Errors
    /// The user's when no set of versions satisfies all requirements (it names who requires what), or a package does not
    /// exist or does not build; the platform's when the index, the network or the disk fails.
    pub async fn lock(&self, inputs: &ResolutionInputs) -> Result<Lock, Problem> {
        python::checked(&inputs.vdk_requirement)?;
        let requirements = requirements::normalise(&inputs.requirements)?;
        let interpreter = self.interpreter(inputs)?;
        tracing::info!(python = %inputs.python_version, vdk = inputs.vdk_requirement, "resolving packages");
        let wheels = self.tools.wheels_for(interpreter, &inputs.vdk_requirement).await?;
        let vdk = self.vdk_lock(inputs, interpreter, &wheels).await?;
        let text = if requirements.is_empty() {
            vdk
        } else {
            self.resolve(inputs, interpreter, Some(&wheels), &requirements, Some(&vdk)).await?
        };
        lock_of(inputs, wheels.portable(&text))
    }

    /// Returns the locks of an image for a platform: the one of VDK (absent if an init container brings VDK) and the one of
    /// the job, which includes VDK's packages. A lock in `stored` is reused; others are resolved from wheels only.
    ///
    /// # Errors
    /// As [`Self::lock`]; also the user's when a package has no wheel for the platform.
    pub async fn image_locks(&self, inputs: &ResolutionInputs, stored: &dyn Stored) -> Result<ImageLocks, Problem> {
        let requirements = requirements::normalise(&inputs.requirements)?;
        let interpreter = self.tools.any_interpreter(inputs.python_version)?;
        let requirement = inputs.vdk_requirement.as_str();
        let wheels = if requirement.is_empty() {
            None
        } else {
            python::checked(requirement)?;
            Some(self.tools.wheels_for(interpreter, requirement).await?)
        };
        let portable = |text: &str| wheels.as_ref().map_or_else(|| text.to_owned(), |wheels| wheels.portable(text));
        let mut vdk = None;
        if let Some(wheels) = &wheels {
            let alone = ResolutionInputs { requirements: String::new(), ..inputs.clone() };
            vdk = Some(match stored.lock(&alone.key()).await? {
                Some(lock) => lock,
                None => lock_of(&alone, portable(&self.resolve(&alone, interpreter, Some(wheels), "", None).await?))?,
            });
        }
        let job = if requirements.is_empty() {
            vdk.clone()
        } else {
            let known = stored.lock(&inputs.key()).await?;
            Some(if let Some(lock) = known {
                lock
            } else {
                let preferred = vdk.as_ref().zip(wheels.as_ref()).map(|(lock, wheels)| wheels.local(&lock.text));
                tracing::info!(python = %inputs.python_version, platform = inputs.platform, "resolving packages");
                let text =
                    self.resolve(inputs, interpreter, wheels.as_ref(), &requirements, preferred.as_deref()).await?;
                lock_of(inputs, portable(&text))?
            })
        };
        Ok(ImageLocks { vdk, job, wheels })
    }

    fn interpreter(&self, inputs: &ResolutionInputs) -> Result<&Interpreter, Problem> {
        let all = self.tools.interpreters();
        all.iter().find(|i| i.version == inputs.python_version).ok_or_else(|| {
            let found: Vec<_> = all.iter().map(|i| i.version.to_string()).collect();
            Problem::new(
                Code::PythonNotInstalled,
                WHAT,
                format!(
                    "Python {} is not installed on the machine of the service; installed: {}.",
                    inputs.python_version,
                    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
                ),
            )
            .not_rolled_out()
            .fix(format!(
                "Deploy with an installed version, or ask the operator to install Python {}.",
                inputs.python_version
            ))
        })
    }

    /// VDK alone, with the hashes of the wheels here.
    async fn vdk_lock(
        &self,
        inputs: &ResolutionInputs,
        interpreter: &Interpreter,
        wheels: &Wheels,
    ) -> Result<String, Problem> {
        let alone = ResolutionInputs { requirements: String::new(), ..inputs.clone() };
        // It names the wheels of this folder, so it is kept in it and goes with it: wheels that are built again differ.
        let kept = wheels.folder().join(format!("lock-{}.txt", alone.key()));
        if let Some(text) = kept_lock(&kept) {
            return Ok(text);
        }
        let text = self.resolve(&alone, interpreter, Some(wheels), "", None).await?;
        if let Err(error) = files::write_durably(&kept, text.as_bytes()) {
            tracing::warn!(problem = %io(&error), "VDK's lock was not kept");
        }
        Ok(text)
    }

    async fn resolve(
        &self,
        inputs: &ResolutionInputs,
        interpreter: &Interpreter,
        wheels: Option<&Wheels>,
        requirements: &str,
        preferred: Option<&str>,
    ) -> Result<String, Problem> {
        let scratch = self.tools.scratch().await?;
        let at = |name: &str| scratch.path().join(name);
        for (name, text) in files(inputs, requirements, preferred) {
            write(&at(name), &text)?;
        }
        let mut args = arguments(interpreter, wheels);
        let platform = inputs
            .platform
            .as_ref()
            .map(|platform| ImagePlatform { python_version: inputs.python_version, platform: platform.clone() });
        if let Some(platform) = &platform {
            args.extend(platform.arguments());
        }
        let output = self.tools.pip(WHAT, scratch.path(), &args, RESOLVE_LIMIT).await?;
        if output.success {
            return std::fs::read_to_string(at("lock.txt")).map_err(|e| io(&e));
        }
        let names = python::without_wheels(&output);
        if names.is_empty() {
            return Err(python::of_installer(WHAT, &output));
        }
        if let Some(platform) = &platform {
            return Err(python::no_wheel(WHAT, &names, platform));
        }
        let Some(wheels) = wheels else { return Err(python::of_installer(WHAT, &output)) };
        if !self.tools.allow_builds() {
            return Err(python::builds_are_off(WHAT, &output, interpreter));
        }
        tracing::info!(packages = names.join(", "), "resolving packages that have no wheel");
        self.resolve_with_builds(inputs, interpreter, wheels, requirements, preferred).await
    }

    /// The same where packages without wheels are built, to learn what they require. That runs foreign code.
    async fn resolve_with_builds(
        &self,
        inputs: &ResolutionInputs,
        interpreter: &Interpreter,
        wheels: &Wheels,
        requirements: &str,
        preferred: Option<&str>,
    ) -> Result<String, Problem> {
        let sandbox = self.tools.build_sandbox(WHAT, &[wheels.folder()]).await?;
        for (name, text) in files(inputs, requirements, preferred) {
            sandbox.write(WHAT, name, &text)?;
        }
        let args = [vec!["pip".into()], arguments(interpreter, Some(wheels))].concat();
        let output = sandbox.uv(WHAT, args, RESOLVE_LIMIT).await?;
        if !output.success {
            return Err(python::of_installer(WHAT, &output));
        }
        // A build hook may have written it: the installer must find packages in it and nothing else.
        let text = sandbox.read(WHAT, "lock.txt", LOCK_MAX_BYTES)?;
        python::checked_lock(&text).map_err(|why| {
            Problem::new(
                Code::PackageBuildTampered,
                WHAT,
                format!("A build hook of a required package changed the result: {why}."),
            )
            .not_rolled_out()
            .fix("Require packages with wheels, or other versions.")
        })
    }
}

/// A lock for these inputs. One without packages, or with anything else, is refused: it would be stored, and install nothing.
fn lock_of(inputs: &ResolutionInputs, text: String) -> Result<Lock, Problem> {
    python::checked_lock(&text).map_err(|why| {
        Problem::new(Code::PackageLockInvalid, WHAT, format!("The installer returned an invalid lock: {why}."))
            .not_rolled_out()
            .no_action("Holdfast retries. If it persists, the operator reports a bug with the log.")
    })?;
    Ok(Lock { key: inputs.key(), python_version: inputs.python_version, text })
}

/// A lock in the cache, unless it is not whole.
fn kept_lock(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    match python::checked_lock(&text) {
        Ok(_) => Some(text),
        Err(why) => {
            tracing::warn!(path = %path.display(), why, "VDK's lock in the cache is not valid; resolving it again");
            None
        }
    }
}

/// The files that [`arguments`] name: the input of `uv pip`, and the lock whose versions are preferred.
fn files<'a>(
    inputs: &'a ResolutionInputs,
    requirements: &'a str,
    preferred: Option<&'a str>,
) -> impl Iterator<Item = (&'static str, Cow<'a, str>)> {
    let constraints = python::constraints_for(&inputs.vdk_requirement, &inputs.constraints);
    [
        ("vdk.in", Cow::Borrowed(inputs.vdk_requirement.as_str())),
        ("requirements.txt", requirements.into()),
        ("constraints.txt", constraints.into()),
        ("build.txt", vdk::BUILD_CONSTRAINTS.into()),
    ]
    .into_iter()
    .chain(preferred.map(|text| ("lock.txt", text.into())))
}

/// The arguments of `uv pip`, which runs in the folder of its [`files()`].
fn arguments(interpreter: &Interpreter, wheels: Option<&Wheels>) -> Vec<OsString> {
    let mut args: Vec<OsString> =
        ["compile", "--generate-hashes", "--no-header", "--no-annotate", "-o", "lock.txt"].map(Into::into).into();
    args.extend(["-c", "constraints.txt", "-b", "build.txt", "vdk.in", "requirements.txt"].map(Into::into));
    if let Some(wheels) = wheels {
        args.extend(["--find-links".into(), wheels.folder().into()]);
    }
    args.extend(["--python".into(), interpreter.executable.clone().into()]);
    args
}

fn write(path: &Path, text: &str) -> Result<(), Problem> {
    std::fs::write(path, text).map_err(|e| io(&e))
}

fn io(error: &std::io::Error) -> Problem {
    Problem::new(Code::PackageCacheFailed, WHAT, format!("A file of the package cache can't be used: {error}."))
        .not_rolled_out()
        .no_action("Holdfast retries. If it persists, the operator checks the disk of `cache_dir`.")
}

impl Resolver for LockResolver {
    fn lock<'a>(&'a self, inputs: &'a ResolutionInputs) -> BoxFuture<'a, Result<Lock, Problem>> {
        Box::pin(Self::lock(self, inputs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> ResolutionInputs {
        ResolutionInputs {
            python_version: "3.11".parse().unwrap(),
            vdk_requirement: "vdk==1".into(),
            constraints: String::new(),
            requirements: String::new(),
            platform: None,
        }
    }

    #[test]
    fn a_lock_without_a_package_is_refused() {
        let good = format!("vdk==1 \\\n    --hash=sha256:{}\n", "a".repeat(64));
        assert_eq!(lock_of(&inputs(), good.clone()).unwrap().text, good);
        for bad in ["", "\n", "vdk==1\n", &good[..good.len() - 2]] {
            let problem = lock_of(&inputs(), bad.into()).unwrap_err();
            assert_eq!(problem.fault, model::problem::Fault::Platform, "{bad:?}: {problem}");
        }
    }

    #[test]
    fn a_lock_in_the_cache_that_is_not_whole_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock.txt");
        assert_eq!(kept_lock(&path), None);
        let good = format!("vdk==1 \\\n    --hash=sha256:{}\n", "a".repeat(64));
        for (text, is_used) in [(good.as_str(), true), ("", false), (&good[..40], false)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(kept_lock(&path).is_some(), is_used, "{text:?}");
        }
    }
}
