//! The layers of a data job's image: VDK's packages, the job's packages, and its source.
//!
//! ```text
//! /opt/vdk/site                         VDK's packages
//! /opt/job/bin/{python3,vdk,…}          a virtual environment, written by hand
//! /opt/job/lib/python3.11/site-packages the job's packages, which come before VDK's and the base's
//! /job/<job>                            the source
//! ```

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use zip::ZipArchive;

use super::{
    base::BaseFacts,
    layer::{Archive, Layer, Refused},
};

/// The user and the group that jobs run as.
pub const JOB_USER: u32 = 1000;
/// The folder above the source, which is the home of jobs and the working directory.
pub const JOB_FOLDER: &str = "job";
const VDK_SITE: &str = "opt/vdk/site";
const ENVIRONMENT: &str = "opt/job";
/// The folder of commands of the environment, as `PATH` has it.
pub const COMMANDS: &str = "/opt/job/bin";
/// Counts the ways in which these layers are made.
pub const FORMAT: u32 = 1;
/// The file that leads Python to VDK's packages.
const VDK_PATH_FILE: &str = "zz_holdfast_vdk.pth";
const RECORD_MAX_BYTES: u64 = 64 * 1024 * 1024;
const SCRIPT_MAX_BYTES: u64 = 16 * 1024 * 1024;
const LEVELS_MAX: usize = 64;
const FILES_MAX: usize = 500_000;
const NAME: &str = "job";

/// Starts VDK. The module is that of the package `vdk-core`.
const VDK: &str = "#!/opt/job/bin/python3
import sys
from importlib.metadata import entry_points
found = [e for e in entry_points(group='console_scripts') if e.name == 'vdk']
if not found:
    sys.exit('vdk: none of the installed packages has this command')
sys.argv[0] = 'vdk'
sys.exit(found[0].load()())
";

/// Why content is not put into an image.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The content can't be part of an image.
    #[error("{0}")]
    Refused(String),
    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<Refused> for ContentError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused.to_string())
    }
}

/// Where packages are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site<'a> {
    /// Beside the environment, for all jobs. Commands are left out, but for `vdk`.
    Vdk,
    /// In the environment of this version of Python, with their commands.
    Job(&'a str),
}

impl Site<'_> {
    /// Its path in the image, without a slash before it.
    pub fn folder(self) -> String {
        match self {
            Site::Vdk => VDK_SITE.to_owned(),
            Site::Job(version) => format!("{ENVIRONMENT}/lib/python{version}/site-packages"),
        }
    }
}

/// The environment without packages: what makes the base's Python find VDK's and the job's.
///
/// # Errors
/// See [`Refused`].
pub fn environment(
    layer: &mut Layer,
    python_version: &str,
    python_folder: &str,
    with_vdk: bool,
) -> Result<(), Refused> {
    layer.link(&format!("{ENVIRONMENT}/bin/python3"), &format!("{python_folder}/python{python_version}"))?;
    layer.link(&format!("{ENVIRONMENT}/bin/python"), "python3")?;
    // Packages of the base stay importable.
    let configuration =
        format!("home = {python_folder}\ninclude-system-site-packages = true\nversion = {python_version}\n");
    layer.bytes(&format!("{ENVIRONMENT}/pyvenv.cfg"), configuration, false)?;
    if with_vdk {
        let site = format!("{ENVIRONMENT}/lib/python{python_version}/site-packages");
        layer.bytes(
            &format!("{site}/{VDK_PATH_FILE}"),
            format!("import site; site.addsitedir('/{VDK_SITE}')\n"),
            false,
        )?;
        layer.bytes(&format!("{ENVIRONMENT}/bin/vdk"), VDK, true)?;
    } else {
        layer.folder(&format!("{ENVIRONMENT}/lib/python{python_version}/site-packages"))?;
    }
    Ok(())
}

/// The user of jobs and its home, upon what the base has.
///
/// # Errors
/// See [`Refused`].
pub fn account(layer: &mut Layer, base: &BaseFacts) -> Result<(), Refused> {
    for (path, text) in base.accounts_with(JOB_USER, NAME, "/job") {
        layer.bytes(path, text, false)?;
    }
    Ok(())
}

/// Adds the packages that the installer left in a folder.
///
/// Left out are compiled files, whose bytes vary, and the installer's notes about this machine.
///
/// # Errors
/// When there is something else than files and folders, two packages have different files under one path, or a file is not in
/// the record of its package.
pub fn packages(layer: &mut Layer, installed: &Path, site: Site<'_>) -> Result<(), ContentError> {
    let to = site.folder();
    let recorded = recorded(installed)?;
    let mut files = Vec::new();
    walk(installed, "", 0, &mut files)?;
    for path in files {
        let from = installed.join(&path);
        let executable = fs::metadata(&from)?.permissions().mode() & 0o100 != 0;
        let name = path.rsplit('/').next().unwrap_or_default();
        if path == VDK_PATH_FILE {
            return Err(ContentError::Refused(format!("a package has {path}, whose name is the service's own")));
        }
        if !is_left_out(&path, name) && !is_note(&path) && !recorded.contains_key(&path) {
            return Err(ContentError::Refused(format!("a package has {path}, which its RECORD does not list")));
        }
        if let Some(command) = path.strip_prefix("bin/") {
            if matches!(site, Site::Job(_)) && !matches!(command, "vdk" | "python" | "python3") {
                layer.bytes(&format!("{ENVIRONMENT}/bin/{command}"), script(&from)?, true)?;
            }
        } else if is_record(&path) {
            layer.bytes(&format!("{to}/{path}"), record(&from)?, false)?;
        } else if !is_left_out(&path, name) {
            layer.file(&format!("{to}/{path}"), from, executable)?;
        }
    }
    Ok(())
}

/// Adds the compiled modules of packages, which are in folders `__pycache__` beside the modules. Commands have none.
///
/// # Errors
/// When a file can't be read.
pub fn compiled(layer: &mut Layer, installed: &Path, compiled: &Path, site: Site<'_>) -> Result<(), ContentError> {
    if !compiled.exists() {
        return Ok(());
    }
    let to = site.folder();
    let mut files = Vec::new();
    walk(compiled, "", 0, &mut files)?;
    for path in files {
        if !path.starts_with("bin/") && module_of(&path).is_some_and(|module| installed.join(module).is_file()) {
            layer.file(&format!("{to}/{path}"), compiled.join(&path), false)?;
        }
    }
    Ok(())
}

/// The path of the module of a compiled one: `a/b.py` of `a/__pycache__/b.cpython-311.pyc`.
fn module_of(path: &str) -> Option<String> {
    let (folder, name) = path.strip_suffix(".pyc")?.rsplit_once("__pycache__/")?;
    let (module, _) = name.rsplit_once('.')?;
    Some(format!("{folder}{module}.py"))
}

/// Adds the source of a job: an archive with one top folder, the job's name.
///
/// # Errors
/// When it is no such archive, or contains something else than files and folders.
pub fn source(layer: &mut Layer, archive: Vec<u8>, job: &str) -> Result<(), ContentError> {
    let refused = |why: String| ContentError::Refused(format!("the source {why}"));
    let mut zip =
        ZipArchive::new(Cursor::new(archive)).map_err(|error| refused(format!("is no ZIP archive: {error}")))?;
    let mut found = Vec::new();
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(|error| refused(format!("can't be read: {error}")))?;
        let kind = entry.unix_mode().unwrap_or(0) & 0o170_000;
        if !matches!(kind, 0 | 0o100_000 | 0o040_000) {
            return Err(refused(format!(
                "has {}, which is neither a file nor a folder",
                model::name::excerpt(entry.name())
            )));
        }
        let name = entry.name().to_owned();
        if name.split('/').next() != Some(job) {
            return Err(refused(format!("has {} beside the folder {job}", model::name::excerpt(&name))));
        }
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o100 != 0);
        found.push((index, name, entry.is_dir(), entry.size(), executable));
    }
    let archive = Archive::new(zip);
    layer.folder(&format!("{JOB_FOLDER}/{job}"))?;
    for (index, name, is_folder, bytes, executable) in found {
        let path = format!("{JOB_FOLDER}/{name}");
        if is_folder {
            layer.folder(&path)?;
        } else {
            layer.zipped(&path, &archive, index, bytes, executable)?;
        }
    }
    Ok(())
}

fn is_record(path: &str) -> bool {
    path.ends_with(".dist-info/RECORD") && path.matches('/').count() == 1
}

fn is_left_out(path: &str, name: &str) -> bool {
    path == ".lock"
        || Path::new(name).extension().is_some_and(|extension| extension == "pyc")
        || path.split('/').any(|part| part == "__pycache__")
        || ["direct_url.json", "uv_cache.json", "REQUESTED"]
            .iter()
            .any(|note| path.ends_with(&format!(".dist-info/{note}")))
}

/// The files beneath a folder. Links are none: they could lead anywhere.
fn walk(top: &Path, below: &str, level: usize, found: &mut Vec<String>) -> Result<(), ContentError> {
    if level > LEVELS_MAX || found.len() > FILES_MAX {
        return Err(ContentError::Refused("the packages have too many files or folders".into()));
    }
    for entry in fs::read_dir(top.join(below))? {
        let entry = entry?;
        let name = entry.file_name();
        let name =
            name.to_str().ok_or_else(|| ContentError::Refused("a package has a file whose name is no text".into()))?;
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(top, &path, level + 1, found)?;
        } else if kind.is_file() {
            found.push(path);
        } else {
            return Err(ContentError::Refused(format!("a package has {path}, which is neither a file nor a folder")));
        }
    }
    Ok(())
}

/// Files that records need not list: the records and their signatures.
fn is_note(path: &str) -> bool {
    [".dist-info/RECORD", ".dist-info/RECORD.jws", ".dist-info/RECORD.p7s"].iter().any(|end| path.ends_with(end))
}

/// The files of the packages by their paths, with the package and the hash that its record has.
///
/// # Errors
/// When two packages have different files under one path: which one remained is chance.
fn recorded(installed: &Path) -> Result<BTreeMap<String, (String, String)>, ContentError> {
    let mut owners: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut folders: Vec<_> = fs::read_dir(installed)?.flatten().map(|entry| entry.file_name()).collect();
    folders.sort();
    for folder in folders {
        let Some(package) = folder.to_str().and_then(|name| name.strip_suffix(".dist-info")) else { continue };
        let path = installed.join(&folder).join("RECORD");
        if !path.is_file() {
            continue;
        }
        for line in text(&path, RECORD_MAX_BYTES)?.lines() {
            let mut fields = line.rsplitn(3, ',').map(str::to_owned);
            let (_, hash, path) = (fields.next(), fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let path = path.trim_matches('"').trim_start_matches("../").to_owned();
            if path.is_empty() || is_left_out(&path, path.rsplit('/').next().unwrap_or_default()) {
                continue;
            }
            if let Some((other, its_hash)) = owners.get(&path)
                && (*its_hash != hash || hash.is_empty())
                && other != package
            {
                return Err(ContentError::Refused(format!(
                    "the packages {other} and {package} have different files under the path {path}"
                )));
            }
            owners.insert(path, (package.to_owned(), hash));
        }
    }
    Ok(owners)
}

fn text(path: &Path, max_bytes: u64) -> Result<String, ContentError> {
    let mut text = String::new();
    fs::File::open(path)?.take(max_bytes).read_to_string(&mut text)?;
    Ok(text)
}

/// The record of a package without what is left out, sorted.
fn record(path: &Path) -> Result<String, ContentError> {
    let text = text(path, RECORD_MAX_BYTES)?;
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| {
            let path = line.split(',').next().unwrap_or_default().trim_matches('"');
            let is_command = path.trim_start_matches("../").starts_with("bin/");
            !is_command && !is_left_out(path, path.rsplit('/').next().unwrap_or_default())
        })
        .collect();
    lines.sort_unstable();
    Ok(lines.into_iter().fold(String::new(), |all, line| all + line + "\n"))
}

/// A command with the image's Python in its first line in place of this machine's.
fn script(path: &Path) -> Result<Vec<u8>, ContentError> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(SCRIPT_MAX_BYTES).read_to_end(&mut bytes)?;
    let after = |bytes: &[u8], lines: usize| {
        let rest = bytes.splitn(lines + 1, |b| *b == b'\n').nth(lines).unwrap_or_default();
        [b"#!/opt/job/bin/python3\n".as_slice(), rest].concat()
    };
    let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    // The installer writes a path with blanks, or a long one, as a program of the shell in three lines.
    Ok(if bytes.starts_with(b"#!/bin/sh\n'''exec'") {
        after(&bytes, 3)
    } else if first.starts_with(b"#!") && first.windows(6).any(|window| window == b"python") {
        after(&bytes, 1)
    } else {
        bytes
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;
    use crate::oci::layer::Compression;

    fn written(layer: &Layer) -> BTreeMap<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer");
        layer.write(&path, Compression::Zstd).unwrap();
        let mut archive = tar::Archive::new(zstd::Decoder::new(fs::File::open(path).unwrap()).unwrap());
        let entries = archive.entries().unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| !entry.header().entry_type().is_dir());
        files
            .map(|mut entry| {
                let mut text = entry.link_name().unwrap().map_or(String::new(), |to| to.display().to_string());
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().display().to_string(), text)
            })
            .collect()
    }

    fn installed(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn packages_come_without_what_varies_and_with_commands_of_the_images_python() {
        let folder = installed(&[
            ("a/__init__.py", "x = 1"),
            ("a/__pycache__/__init__.cpython-311.pyc", "varies"),
            (".lock", ""),
            (
                "a-1.dist-info/RECORD",
                "a/__init__.py,sha256=1,5\n../../bin/tool,sha256=2,3\nbin/long,,\nbin/native,,\nbin/vdk,,\na-1.dist-info/REQUESTED,,\na-1.dist-info/METADATA,sha256=3,4\n",
            ),
            ("a-1.dist-info/METADATA", "Name: a"),
            ("a-1.dist-info/REQUESTED", ""),
            ("a-1.dist-info/direct_url.json", "{}"),
            ("bin/tool", "#!/srv/cache/python\nimport a\n"),
            ("bin/long", "#!/bin/sh\n'''exec' '/a b/python' \"$0\" \"$@\"\n' '''\nimport a\n"),
            ("bin/native", "\u{7f}ELF python"),
            ("bin/vdk", "#!/srv/cache/python\n"),
        ]);
        let mut layer = Layer::of_owner(0);
        packages(&mut layer, folder.path(), Site::Job("3.11")).unwrap();
        let site = "opt/job/lib/python3.11/site-packages";
        let expected = [
            ("opt/job/bin/long".to_owned(), "#!/opt/job/bin/python3\nimport a\n"),
            ("opt/job/bin/native".to_owned(), "\u{7f}ELF python"),
            ("opt/job/bin/tool".to_owned(), "#!/opt/job/bin/python3\nimport a\n"),
            (format!("{site}/a/__init__.py"), "x = 1"),
            (format!("{site}/a-1.dist-info/METADATA"), "Name: a"),
            (format!("{site}/a-1.dist-info/RECORD"), "a-1.dist-info/METADATA,sha256=3,4\na/__init__.py,sha256=1,5\n"),
        ];
        assert_eq!(written(&layer), expected.map(|(path, text)| (path, text.to_owned())).into());
        let mut layer = Layer::of_owner(0);
        packages(&mut layer, folder.path(), Site::Vdk).unwrap();
        assert_eq!(written(&layer).keys().next().unwrap(), "opt/vdk/site/a-1.dist-info/METADATA");
        assert_eq!(written(&layer).len(), 3);
    }

    #[test]
    fn packages_that_overwrite_each_other_or_bring_links_are_refused() {
        let record = |hash: &str| format!("shared.py,sha256={hash},1\n");
        let folder = installed(&[
            ("a-1.dist-info/RECORD", &record("1")),
            ("b-1.dist-info/RECORD", &record("2")),
            ("shared.py", ""),
        ]);
        let error = packages(&mut Layer::of_owner(0), folder.path(), Site::Vdk).unwrap_err();
        assert_eq!(error.to_string(), "the packages a-1 and b-1 have different files under the path shared.py");
        fs::write(folder.path().join("b-1.dist-info/RECORD"), record("1")).unwrap();
        packages(&mut Layer::of_owner(0), folder.path(), Site::Vdk).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link.py")).unwrap();
        let error = packages(&mut Layer::of_owner(0), folder.path(), Site::Vdk).unwrap_err();
        assert!(error.to_string().contains("link.py"), "{error}");
    }

    #[test]
    fn a_file_that_no_record_lists_is_refused() {
        let folder = installed(&[("a-1.dist-info/RECORD", "a.py,,\n"), ("a.py", "")]);
        packages(&mut Layer::of_owner(0), folder.path(), Site::Vdk).unwrap();
        fs::write(folder.path().join("b.pth"), "import evil").unwrap();
        let error = packages(&mut Layer::of_owner(0), folder.path(), Site::Vdk).unwrap_err();
        assert_eq!(error.to_string(), "a package has b.pth, which its RECORD does not list");
    }

    #[test]
    fn a_package_can_not_replace_the_environment_of_the_job() {
        let folder = installed(&[
            ("bin/python3", "#!/usr/bin/python\n"),
            ("bin/vdk", "#!/usr/bin/python\n"),
            ("a-1.dist-info/RECORD", "bin/python3,,\nbin/vdk,,\n"),
        ]);
        let mut layer = Layer::of_owner(0);
        packages(&mut layer, folder.path(), Site::Job("3.11")).unwrap();
        assert!(written(&layer).keys().all(|path| !path.starts_with("opt/job/bin")));
        fs::write(folder.path().join(VDK_PATH_FILE), "import evil").unwrap();
        let error = packages(&mut Layer::of_owner(0), folder.path(), Site::Job("3.11")).unwrap_err();
        assert!(error.to_string().contains("the service's own"), "{error}");
    }

    fn archive(entries: &[(&str, u32)]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, mode) in entries {
            let options = SimpleFileOptions::default().unix_permissions(*mode);
            if mode & 0o170_000 == 0o120_000 {
                zip.add_symlink(*name, "/etc/passwd", options).unwrap();
            } else {
                zip.start_file(*name, options).unwrap();
                zip.write_all(name.as_bytes()).unwrap();
            }
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn the_source_is_in_the_folder_of_the_job_and_nothing_else_is() {
        let mut layer = Layer::of_owner(JOB_USER);
        source(&mut layer, archive(&[("sales/10_step.py", 0o644), ("sales/run.sh", 0o4755)]), "sales").unwrap();
        let paths: Vec<_> = written(&layer).into_keys().collect();
        assert_eq!(paths, ["job/sales/10_step.py", "job/sales/run.sh"]);
        for (entries, why) in [
            (vec![("other/x", 0o644)], "beside the folder sales"),
            (vec![("sales/../../etc/passwd", 0o644)], "not a valid path in an image"),
            (vec![("sales/link", 0o120_777)], "neither a file nor a folder"),
            (vec![("sales/.wh.etc", 0o644)], "would delete"),
        ] {
            let error = source(&mut Layer::of_owner(JOB_USER), archive(&entries), "sales").unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(source(&mut Layer::of_owner(JOB_USER), b"PK".to_vec(), "sales").is_err());
    }
}
