//! Facts about a base image on which packages depend: the folder of its Python, and its C library.
//!
//! The layers are read as archives; nothing of them is run or unpacked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::manifest;

/// Files of this size at most are read for what they say.
const TEXT_MAX_BYTES: u64 = 1024 * 1024;
/// The part of a C library that is searched for its version.
const LIBRARY_MAX_BYTES: u64 = 8 * 1024 * 1024;
const ENTRIES_MAX: usize = 1_000_000;
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// Where the C library says its version.
const GLIBC: &[u8] = b"stable release version 2.";

/// The C library of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LibC {
    /// GNU's, with the second number of its version.
    Glibc(u32),
    /// musl.
    Musl,
}

impl LibC {
    /// The platform in the form of the installer (`x86_64-manylinux_2_36`). `architecture` has the form of images (`amd64`).
    pub fn platform(&self, architecture: &str) -> Option<String> {
        let machine = match architecture {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            _ => return None,
        };
        Some(match self {
            Self::Musl => format!("{machine}-unknown-linux-musl"),
            Self::Glibc(minor) => {
                // The installer knows these.
                let known = [17, 28].into_iter().chain(31..=40).rev().find(|known| known <= minor)?;
                format!("{machine}-manylinux_2_{known}")
            }
        })
    }
}

/// The facts about a base image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    /// Paths of files and links named `python3.<minor>`.
    pub pythons: Vec<String>,
    /// The C library.
    pub libc: Option<LibC>,
    /// The content of `/etc/passwd`.
    pub passwd: String,
    /// The content of `/etc/group`.
    pub group: String,
}

impl BaseFacts {
    /// The folder of the first interpreter of a version in the folders of a search path.
    pub fn python_folder(&self, version: &str, search_path: &str) -> Option<String> {
        let name = format!("python{version}");
        search_path.split(':').map(|folder| folder.trim_end_matches('/')).find_map(|folder| {
            let path = format!("{}/{name}", folder.trim_start_matches('/'));
            self.pythons.contains(&path).then(|| folder.to_owned())
        })
    }

    /// `/etc/passwd` and `/etc/group` with an entry for a user and group of this number, where they have none.
    pub fn accounts_with(&self, id: u32, name: &str, home: &str) -> BTreeMap<&'static str, String> {
        let has = |text: &str| text.lines().any(|line| line.split(':').nth(2) == Some(id.to_string().as_str()));
        let with = |text: &str, line: String| match text {
            "" => line,
            text if text.ends_with('\n') => format!("{text}{line}"),
            text => format!("{text}\n{line}"),
        };
        let mut all = BTreeMap::new();
        if !has(&self.passwd) {
            all.insert("etc/passwd", with(&self.passwd, format!("{name}:x:{id}:{id}::{home}:/bin/sh\n")));
        }
        if !has(&self.group) {
            all.insert("etc/group", with(&self.group, format!("{name}:x:{id}:\n")));
        }
        all
    }
}

/// Reads the layers of an image, the lowest first.
#[derive(Debug, Default)]
pub struct Inspection {
    pythons: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    libraries: BTreeMap<String, LibC>,
}

impl Inspection {
    /// Reads the next layer from a file.
    ///
    /// # Errors
    /// When it is no layer, or can't be read.
    pub fn layer(&mut self, media_type: &str, file: &Path) -> io::Result<()> {
        let file = BufReader::new(File::open(file)?);
        let media_type = manifest::oci_layer(media_type).unwrap_or_default();
        if media_type.ends_with("+gzip") {
            self.archive(flate2::bufread::MultiGzDecoder::new(file))
        } else if media_type.ends_with("+zstd") {
            self.archive(zstd::Decoder::with_buffer(file)?)
        } else {
            self.archive(file)
        }
    }

    fn archive(&mut self, from: impl Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(from);
        let mut new = Self::default();
        for (count, entry) in archive.entries()?.enumerate() {
            if count >= ENTRIES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a layer has too many entries"));
            }
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().trim_start_matches("./").trim_end_matches('/').to_owned();
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            let folder = path[..path.len() - name.len()].to_owned();
            if name == OPAQUE {
                self.remove(|known| known.starts_with(&folder));
                continue;
            }
            if let Some(removed) = name.strip_prefix(WHITEOUT) {
                let removed = format!("{folder}{removed}");
                self.remove(|known| known == removed || known.starts_with(&format!("{removed}/")));
                continue;
            }
            let kind = entry.header().entry_type();
            if !(kind.is_file() || kind.is_symlink() || kind.is_hard_link()) {
                continue;
            }
            if is_python(&name) {
                new.pythons.insert(path);
            } else if matches!(path.as_str(), "etc/passwd" | "etc/group") && kind.is_file() {
                let mut text = String::new();
                entry.by_ref().take(TEXT_MAX_BYTES).read_to_string(&mut text)?;
                new.texts.insert(path, text);
            } else if name.starts_with("ld-musl-") {
                new.libraries.insert(path, LibC::Musl);
            } else if (name == "libc.so.6" || name.starts_with("libc-2."))
                && kind.is_file()
                && let Some(version) = glibc(entry.by_ref().take(LIBRARY_MAX_BYTES))?
            {
                new.libraries.insert(path, LibC::Glibc(version));
            }
        }
        // A layer removes files of the layers below it only.
        self.pythons.extend(new.pythons);
        self.texts.extend(new.texts);
        self.libraries.extend(new.libraries);
        Ok(())
    }

    fn remove(&mut self, is_removed: impl Fn(&str) -> bool) {
        self.pythons.retain(|path| !is_removed(path));
        self.texts.retain(|path, _| !is_removed(path));
        self.libraries.retain(|path, _| !is_removed(path));
    }

    /// The facts of all layers.
    pub fn facts(mut self) -> BaseFacts {
        // An image with both has programs for both; wheels for GNU's are the common ones.
        let oldest = self.libraries.values().filter_map(|libc| match libc {
            LibC::Glibc(minor) => Some(*minor),
            LibC::Musl => None,
        });
        let libc = match oldest.min() {
            Some(minor) => Some(LibC::Glibc(minor)),
            None => self.libraries.into_values().next(),
        };
        BaseFacts {
            pythons: self.pythons.into_iter().collect(),
            libc,
            passwd: self.texts.remove("etc/passwd").unwrap_or_default(),
            group: self.texts.remove("etc/group").unwrap_or_default(),
        }
    }
}

fn is_python(name: &str) -> bool {
    name.strip_prefix("python3.").is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit()))
}

/// The second number of the version that a C library says of itself.
fn glibc(mut library: impl Read) -> io::Result<Option<u32>> {
    let mut bytes = Vec::new();
    library.read_to_end(&mut bytes)?;
    let at = bytes.windows(GLIBC.len()).position(|window| window == GLIBC);
    Ok(at.and_then(|at| {
        let digits: String =
            bytes[at + GLIBC.len()..].iter().take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
        digits.parse().ok()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_entry_type(tar::EntryType::Regular);
            archive.append_data(&mut header, path, *content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn the_layers_tell_where_python_is_and_which_c_library_there_is() {
        let mut inspection = Inspection::default();
        let library = [b"\x7fELF\0\0".as_slice(), b"GNU C Library stable release version 2.36.\n"].concat();
        let below = layer(&[
            ("usr/bin/python3.9", b"x"),
            ("usr/bin/python3.11", b"x"),
            ("usr/bin/python3.11-config", b"x"),
            ("usr/lib/x86_64-linux-gnu/libc.so.6", &library),
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/bash"),
            ("opt/old/python3.8", b"x"),
        ]);
        inspection.archive(below.as_slice()).unwrap();
        let above = layer(&[
            ("usr/bin/.wh.python3.9", b""),
            ("opt/old/.wh..wh..opq", b""),
            ("./usr/local/bin/python3.11", b"x"),
        ]);
        inspection.archive(above.as_slice()).unwrap();
        let facts = inspection.facts();
        assert_eq!(facts.pythons, ["usr/bin/python3.11", "usr/local/bin/python3.11"]);
        assert_eq!(facts.libc, Some(LibC::Glibc(36)));
        assert_eq!(facts.python_folder("3.11", "/usr/local/bin:/usr/bin").as_deref(), Some("/usr/local/bin"));
        assert_eq!(facts.python_folder("3.11", "/bin:/usr/bin/").as_deref(), Some("/usr/bin"));
        assert_eq!(facts.python_folder("3.9", "/usr/bin"), None);
        let accounts = facts.accounts_with(1000, "job", "/job");
        assert_eq!(accounts["etc/passwd"], "root:x:0:0:root:/root:/bin/bash\njob:x:1000:1000::/job:/bin/sh\n");
        assert_eq!(accounts["etc/group"], "job:x:1000:\n");
        let there = BaseFacts { passwd: "me:x:1000:5::/:/bin/sh\n".into(), group: "g:x:1000:\n".into(), ..facts };
        assert!(there.accounts_with(1000, "job", "/job").is_empty());
    }

    #[test]
    fn the_platform_is_the_newest_that_the_installer_knows_and_the_library_has() {
        for (libc, architecture, platform) in [
            (LibC::Glibc(36), "amd64", Some("x86_64-manylinux_2_36")),
            (LibC::Glibc(41), "arm64", Some("aarch64-manylinux_2_40")),
            (LibC::Glibc(30), "amd64", Some("x86_64-manylinux_2_28")),
            (LibC::Glibc(12), "amd64", None),
            (LibC::Musl, "arm64", Some("aarch64-unknown-linux-musl")),
            (LibC::Musl, "s390x", None),
        ] {
            assert_eq!(libc.platform(architecture).as_deref(), platform, "{libc:?} {architecture}");
        }
    }

    #[test]
    fn a_layer_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer");
        std::fs::write(&path, "<html>not found").unwrap();
        for media_type in ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd"]
        {
            assert!(Inspection::default().layer(media_type, &path).is_err(), "{media_type}");
        }
    }
}
