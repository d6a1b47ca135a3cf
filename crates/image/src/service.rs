//! The image of the service itself: Debian packages, the installer of Python packages, and the program.
//!
//! It has no shell, no package manager and no program that changes its user. Every Debian package is named with its version,
//! its SHA-256 and its place in Debian's archive in a list that the image contains.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};

use crate::oci::{
    Assembled, BaseImage, Compression, Digest, Layer, LayerBlob, Settings, archive, assemble::assemble,
    digest::Hashing, layer::Refused,
};

/// The user and the group of the service.
pub const USER: u32 = 1000;
/// The data folder, which is a volume in a cluster.
pub const DATA_FOLDER: &str = "var/lib/holdfast";
/// The list of packages within the image.
const LIST: &str = "usr/share/holdfast/packages.txt";
const PROGRAM: &str = "usr/local/bin/holdfast";
const UV: &str = "usr/local/bin/uv";
const CERTIFICATES: &str = "usr/share/ca-certificates/";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// Top folders that Debian has beneath `/usr`, with a link from the top.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// Folders for people and for other packages. Copyright files stay.
const LEFT_OUT: [&str; 7] = [
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/doc-base/",
    "usr/share/bug/",
    "usr/share/apport/",
];
const FILES_MAX: usize = 100_000;
const LEVELS_MAX: usize = 32;

/// One Debian package of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of its file, in hexadecimal digits.
    pub sha256: String,
    /// The path of its file in Debian's archive.
    pub path: String,
}

/// The inputs of the image.
#[derive(Debug, Clone, Deserialize)]
pub struct Parts {
    /// The processor, as images name it: `amd64`.
    pub architecture: String,
    /// The list of packages.
    pub packages: PathBuf,
    /// The folder with the files of the packages, each under its SHA-256 and `.deb`.
    pub debs: PathBuf,
    /// The program `uv`.
    pub uv: PathBuf,
    /// The program of the service.
    pub program: PathBuf,
    /// The version of the service.
    pub version: String,
    /// The commit that the program was built from.
    pub revision: String,
    /// Whether layers are written with gzip instead of Zstandard.
    #[serde(default)]
    pub gzip: bool,
}

/// An assembled image and the files of its layers.
#[derive(Debug)]
pub struct ServiceImage {
    /// Its documents.
    pub image: Assembled,
    /// Its layers with their files, the lowest first.
    pub layers: Vec<(LayerBlob, PathBuf)>,
}

/// Why the image was not assembled.
#[derive(Debug, thiserror::Error)]
pub enum ServiceImageError {
    /// A line of the list is wrong.
    #[error("line {line} of the list of packages {why}")]
    List {
        /// Its number, from 1.
        line: usize,
        /// The mistake in it.
        why: &'static str,
    },
    /// A file of a package is not the one that the list names.
    #[error("{file} is not the package {package} of the list: its SHA-256 is {found}")]
    OtherPackage {
        /// The package.
        package: String,
        /// The file.
        file: PathBuf,
        /// Its hash.
        found: String,
    },
    /// A package was not unpacked.
    #[error("dpkg-deb did not read {file}: {why}")]
    Unpack {
        /// The file.
        file: PathBuf,
        /// The program's last line.
        why: String,
    },
    /// A file can't be part of an image.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A file can't be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The parts do not fit together.
    #[error("the image can't be assembled: {0}")]
    Assemble(String),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ServiceImageError {
    move |error| ServiceImageError::Io { path: path.to_owned(), error }
}

impl Package {
    /// Reads a list: a package a line, with its name, version, SHA-256 and path. Lines with `#` are comments.
    ///
    /// # Errors
    /// When a line has another form, or a package is there twice.
    pub fn list(text: &str) -> Result<Vec<Self>, ServiceImageError> {
        let mut all: Vec<Self> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = |why| ServiceImageError::List { line: number + 1, why };
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [name, version, sha256, path] = fields.as_slice() else {
                return Err(wrong("does not have a name, a version, a SHA-256 and a path"));
            };
            if Digest::parse(&format!("sha256:{sha256}")).is_none() {
                return Err(wrong("has no SHA-256 in its third field"));
            }
            if all.iter().any(|other| other.name == *name) {
                return Err(wrong("repeats a package"));
            }
            let [name, version, sha256, path] = [name, version, sha256, path].map(|field| (*field).to_owned());
            all.push(Self { name, version, sha256, path });
        }
        Ok(all)
    }
}

/// Assembles the image. Its layers are written into a folder.
///
/// # Errors
/// See [`ServiceImageError`].
pub fn service_image(parts: &Parts, folder: &Path) -> Result<ServiceImage, ServiceImageError> {
    let list = fs::read_to_string(&parts.packages).map_err(at(&parts.packages))?;
    let packages = Package::list(&list)?;
    let system = system(&packages, &list, &parts.debs, &folder.join("unpacked"))?;
    let mut installer = Layer::of_owner(0);
    installer.file(UV, parts.uv.clone(), true)?;
    let mut program = Layer::of_owner(0);
    program.file(PROGRAM, parts.program.clone(), true)?;
    let compression = if parts.gzip { Compression::Gzip } else { Compression::Zstd };
    let mut layers = Vec::new();
    // The layers are in the order of change, the most stable one at the bottom: a new version of the service is one layer.
    for (name, layer) in [("Debian packages", system), ("uv", installer), ("holdfast", program)] {
        let path = folder.join(name.replace(' ', "-"));
        layers.push((layer.write(&path, compression).map_err(at(&path))?, name, path));
    }
    let with_history: Vec<_> = layers.iter().map(|(blob, name, _)| (blob.clone(), *name)).collect();
    let image = assemble(&BaseImage::empty(&parts.architecture), &with_history, &settings(parts))
        .map_err(ServiceImageError::Assemble)?;
    Ok(ServiceImage { image, layers: layers.into_iter().map(|(blob, _, path)| (blob, path)).collect() })
}

impl ServiceImage {
    /// The bytes of the layers as they are sent.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|(blob, _)| blob.bytes).sum()
    }

    /// Writes the image into an archive in OCI layout.
    ///
    /// # Errors
    /// When a file can't be read or written.
    pub fn write(&self, name: &str, to: &Path) -> Result<(), ServiceImageError> {
        let files: BTreeMap<Digest, &Path> =
            self.layers.iter().map(|(blob, path)| (blob.digest.clone(), path.as_path())).collect();
        archive::write(&self.image, &files, name, to).map_err(at(to))
    }
}

fn settings(parts: &Parts) -> Settings {
    let text =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let data = format!("/{DATA_FOLDER}");
    Settings {
        environment: text(&[
            ("HOLDFAST_DATA_DIR", &data),
            ("HOME", &data),
            ("LANG", "C.UTF-8"),
            ("PATH", "/usr/local/bin:/usr/bin"),
            // The certificates of this image; another file adds the authorities of a company.
            ("SSL_CERT_FILE", &format!("/{BUNDLE}")),
        ]),
        path_first: Vec::new(),
        user: format!("{USER}:{USER}"),
        working_directory: data.clone(),
        entry_point: vec![format!("/{PROGRAM}")],
        command: vec!["serve".into()],
        labels: text(&[
            ("org.opencontainers.image.licenses", "Apache-2.0"),
            ("org.opencontainers.image.revision", &parts.revision),
            ("org.opencontainers.image.title", "Holdfast"),
            ("org.opencontainers.image.version", &parts.version),
        ]),
    }
}

/// The layer of the Debian packages.
fn system(packages: &[Package], list: &str, debs: &Path, scratch: &Path) -> Result<Layer, ServiceImageError> {
    let mut layer = Layer::of_owner(0);
    for name in MERGED {
        layer.folder(&format!("usr/{name}"))?;
        layer.link(name, &format!("usr/{name}"))?;
    }
    let mut certificates = BTreeSet::new();
    for package in packages {
        let deb = debs.join(format!("{}.deb", package.sha256));
        let found = sha256(&deb).map_err(at(&deb))?;
        if found != package.sha256 {
            return Err(ServiceImageError::OtherPackage { package: package.name.clone(), file: deb, found });
        }
        let unpacked = scratch.join(&package.name);
        dpkg_deb(&deb, &["-x".as_ref(), deb.as_os_str(), unpacked.as_os_str()])?;
        // Scanners look for the packages of an image without a package manager here.
        let control = dpkg_deb(&deb, &["-f".as_ref(), deb.as_os_str()])?;
        layer.bytes(&format!("var/lib/dpkg/status.d/{}", package.name), control, false)?;
        let mut files = Vec::new();
        walk(&unpacked, "", 0, &mut files)?;
        for path in files {
            let from = unpacked.join(&path);
            let to = merged(&path);
            if to.starts_with(CERTIFICATES) {
                if from.extension().is_some_and(|extension| extension == "crt") {
                    certificates.insert(from);
                }
            } else if is_wanted(&to) {
                add(&mut layer, &to, &from)?;
            }
        }
    }
    let mut bundle = Vec::new();
    for path in certificates {
        bundle.extend(fs::read(&path).map_err(at(&path))?);
    }
    layer.bytes(BUNDLE, bundle, false)?;
    // Where OpenSSL, and with it Python, looks for them.
    layer.link("usr/lib/ssl/cert.pem", &format!("/{BUNDLE}"))?;
    layer.link("usr/lib/ssl/certs", "/etc/ssl/certs")?;
    layer.link("usr/bin/python3", "python3.11")?;
    layer.bytes(
        "etc/passwd",
        format!("root:x:0:0:root:/root:/nonexistent\nholdfast:x:{USER}:{USER}:holdfast:/{DATA_FOLDER}:/nonexistent\n"),
        false,
    )?;
    layer.bytes("etc/group", format!("root:x:0:\nholdfast:x:{USER}:\n"), false)?;
    layer.bytes(LIST, list, false)?;
    layer.folder_of("tmp", USER)?;
    layer.folder_of(DATA_FOLDER, USER)?;
    Ok(layer)
}

fn add(layer: &mut Layer, to: &str, from: &Path) -> Result<(), ServiceImageError> {
    let about = fs::symlink_metadata(from).map_err(at(from))?;
    if about.is_symlink() {
        let target = fs::read_link(from).map_err(at(from))?;
        layer.link(to, &target.to_string_lossy())?;
    } else if about.is_dir() {
        layer.folder(to)?;
    } else {
        layer.file(to, from.to_owned(), about.permissions().mode() & 0o100 != 0)?;
    }
    Ok(())
}

/// The paths beneath a folder, folders first. Links are not followed.
fn walk(top: &Path, below: &str, level: usize, found: &mut Vec<String>) -> Result<(), ServiceImageError> {
    let folder = top.join(below);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(at(&folder))? {
        names.push(entry.map_err(at(&folder))?.file_name());
    }
    for name in names {
        let path = folder.join(&name);
        let text = name.to_str().filter(|_| level < LEVELS_MAX && found.len() < FILES_MAX);
        let name = text.ok_or_else(|| Refused::Path(path.to_string_lossy().into_owned()))?;
        let relative = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        found.push(relative.clone());
        if fs::symlink_metadata(&path).map_err(at(&path))?.is_dir() {
            walk(top, &relative, level + 1, found)?;
        }
    }
    Ok(())
}

/// A path with the folders of the top beneath `/usr`.
fn merged(path: &str) -> String {
    let top = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&top) { format!("usr/{path}") } else { path.to_owned() }
}

fn is_wanted(path: &str) -> bool {
    let kept = path.starts_with("usr/share/doc/") && path.ends_with("/copyright");
    // Programs for a terminal, among them those of Debian's own maintenance.
    kept || !(LEFT_OUT.iter().any(|folder| format!("{path}/").starts_with(folder))
        || path.starts_with("usr/sbin/")
        || path.starts_with("etc/ca-certificates/"))
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Hashing::new(io::sink());
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finish().1.hex().to_owned())
}

fn dpkg_deb(deb: &Path, arguments: &[&std::ffi::OsStr]) -> Result<Vec<u8>, ServiceImageError> {
    let failed = |why: String| ServiceImageError::Unpack { file: deb.to_owned(), why };
    let scratch = arguments.last().map(Path::new);
    if let Some(above) = scratch.and_then(Path::parent) {
        fs::create_dir_all(above).map_err(at(above))?;
    }
    let output = Command::new("dpkg-deb").args(arguments).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(failed(words.lines().last().unwrap_or("no reason given").to_owned()));
    }
    Ok(output.stdout)
}

/// The assembled image, as `cargo xtask image` prints it.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The digest of the manifest.
    pub digest: String,
    /// The bytes of the layers as they are sent.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_each_package_once_with_its_hash() {
        let hash = "0a".repeat(32);
        let list = Package::list(&format!("# Debian\n\nlibc6 2.36-9 {hash} pool/main/g/glibc/libc6.deb\n")).unwrap();
        assert_eq!((list.len(), list[0].name.as_str(), list[0].sha256.as_str()), (1, "libc6", hash.as_str()));
        for (wrong, line, why) in [
            ("libc6 2.36-9 pool/x.deb".to_owned(), 1, "does not have"),
            (format!("# x\nlibc6 1 {} pool/x.deb", &hash[1..]), 2, "has no SHA-256"),
            (format!("a 1 {hash} x\na 2 {hash} y"), 2, "repeats"),
        ] {
            let error = Package::list(&wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line {line} ")) && error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_image_has_what_debian_has_beneath_usr_and_no_documents_but_copyrights() {
        assert_eq!(merged("lib64/ld-linux-x86-64.so.2"), "usr/lib64/ld-linux-x86-64.so.2");
        assert_eq!(merged("library/x"), "library/x");
        for (path, wanted) in [
            ("usr/bin/python3.11", true),
            ("usr/share/doc/libc6/copyright", true),
            ("usr/share/doc/libc6", false),
            ("usr/share/doc/libc6/changelog.gz", false),
            ("usr/share/documents/x", true),
            ("usr/sbin/update-ca-certificates", false),
        ] {
            assert_eq!(is_wanted(path), wanted, "{path}");
        }
    }

    #[test]
    fn a_package_with_another_hash_than_the_list_has_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let hash = "0a".repeat(32);
        fs::write(folder.path().join(format!("{hash}.deb")), "other").unwrap();
        let list = format!("libc6 1 {hash} pool/x.deb\n");
        let refused = system(&Package::list(&list).unwrap(), &list, folder.path(), &folder.path().join("unpacked"));
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("is not the package libc6") && error.contains(&sha256_of("other")), "{error}");
        assert!(!folder.path().join("unpacked").exists(), "nothing was unpacked");
    }

    fn sha256_of(text: &str) -> String {
        Digest::of(text.as_bytes()).hex().to_owned()
    }
}
