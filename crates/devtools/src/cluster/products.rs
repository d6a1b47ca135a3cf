//! The parts of a cluster, built once into the cache: servers, and the images of its pods.

use std::{
    ffi::{OsStr, OsString},
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    iter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{cache, command, environment::workspace, progress};

/// The part of the cache that is the cluster's.
pub(super) const CACHE: &str = "testcluster";

/// A product that is built once, identified by its inputs.
#[derive(Debug)]
pub(super) struct Product {
    name: &'static str,
    doing: &'static str,
    script: &'static str,
    /// Other inputs of the build.
    inputs: &'static [&'static str],
}

pub(super) const KUBERNETES: Product = Product {
    name: "kubernetes",
    doing: "compiling Kubernetes (once, 10 to 20 minutes)",
    script: "build-kubernetes.sh",
    inputs: &["kubernetes/go.mod", "kubernetes/go.sum", "kubernetes/main.go"],
};
pub(super) const KWOK: Product = Product {
    name: "kwok",
    doing: "compiling kwok (once, 2 to 5 minutes)",
    script: "build-kwok.sh",
    inputs: &["kwok/go.mod", "kwok/go.sum"],
};
/// Helm, a client of the cluster.
const HELM: Product = Product {
    name: "helm",
    doing: "compiling Helm (once, 2 to 5 minutes)",
    script: "build-helm.sh",
    inputs: &["helm/go.mod", "helm/go.sum"],
};
pub(super) const PAUSE_IMAGE: Product = Product {
    name: "pause-image",
    doing: "making the image of pods (once)",
    script: "build-pause-image.sh",
    inputs: &["pause.c", "mkimage.py"],
};
pub(super) const JOB_IMAGE: Product = Product {
    name: "job-image",
    doing: "making the image of jobs (once, a minute)",
    script: "build-job-image.sh",
    inputs: &["mkimage.py"],
};

impl Product {
    /// Its name in the cache.
    fn key(&self) -> Result<String> {
        let mut key = DefaultHasher::new();
        for input in iter::once(&self.script).chain(self.inputs) {
            (input, fs::read(scripts().join(input)).with_context(|| format!("testcluster/{input}"))?).hash(&mut key);
        }
        if self.name == JOB_IMAGE.name {
            (vdk::DISTRIBUTION, vdk::CONSTRAINTS).hash(&mut key);
        }
        Ok(format!("{CACHE}/{}-{:016x}", self.name, key.finish()))
    }

    fn is_built(&self) -> Result<bool> {
        Ok(cache::folder()?.join(self.key()?).exists())
    }

    /// Its folder, filled when the cache has none.
    pub(super) fn built(&self) -> Result<PathBuf> {
        let key = self.key()?;
        let folder = cache::folder()?.join(&key);
        if folder.exists() {
            return Ok(folder);
        }
        progress::during(self.doing, || {
            let _lock = cache::lock(&key)?;
            if folder.exists() {
                return Ok(());
            }
            // An unfinished product has another name.
            let new = beside(&folder, ".new");
            if new.exists() {
                fs::remove_dir_all(&new)?;
            }
            fs::create_dir_all(&new)?;
            let mut command = script(self.script);
            command.arg(&new);
            if self.name == JOB_IMAGE.name {
                let constraints = beside(&folder, ".constraints");
                fs::write(&constraints, vdk::CONSTRAINTS)?;
                command.args([OsStr::new(vdk::DISTRIBUTION), constraints.as_os_str()]);
            }
            command::run(&mut command, beside(&folder, ".log"))?;
            fs::rename(&new, &folder)?;
            Ok(())
        })?;
        Ok(folder)
    }
}

/// The folder of the scripts.
pub(super) fn scripts() -> PathBuf {
    workspace().join("testcluster")
}

pub(super) fn script(name: &str) -> Command {
    Command::new(scripts().join(name))
}

/// A path with something at the end of its name.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// Whether the cache has the servers, which take longest to build.
pub(super) fn are_compiled() -> Result<bool> {
    Ok(KUBERNETES.is_built()? && KWOK.is_built()? && HELM.is_built()?)
}

/// The path of Helm, which is compiled unless the cache has it. It needs no cluster to render and to package charts.
///
/// # Errors
/// When it can't be compiled: the last lines of the compiler's output are in the message.
pub fn helm() -> Result<PathBuf> {
    fs::create_dir_all(cache::folder()?.join(CACHE))?;
    Ok(HELM.built()?.join("helm"))
}

/// Builds all that a cluster is made of, unless the cache has it. Another process that builds the same is waited for.
///
/// # Errors
/// When this is no Linux, a program is missing that can't be installed, or something can't be built: the last lines of
/// the builder's output are in the message.
pub fn build() -> Result<()> {
    let all = [&JOB_IMAGE, &PAUSE_IMAGE, &KWOK, &HELM, &KUBERNETES];
    fs::create_dir_all(cache::folder()?.join(CACHE))?;
    let mut complete = true;
    for product in all {
        complete &= product.is_built()?;
    }
    let purpose = if complete { "run" } else { "build" };
    {
        let name = format!("{CACHE}/packages");
        let _lock = cache::lock(&name)?;
        let log = cache::folder()?.join(format!("{name}.log"));
        command::run(script("packages.sh").arg(purpose), log)?;
    }
    for product in all {
        product.built()?;
    }
    Ok(())
}
