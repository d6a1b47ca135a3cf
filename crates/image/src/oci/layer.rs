//! Layers: archives whose bytes follow from what is in them, and from nothing else.
//!
//! Paths are sorted by their bytes, folders come before what is in them, and every entry has the same time, owner and one of
//! two modes. So neither the umask, the time zone, the order of a file system nor the day of a build shows.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufReader, BufWriter, Cursor, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tar::{EntryType, Header};
use zip::ZipArchive;

use super::{
    digest::{Digest, Hashing},
    manifest::LAYER,
};

/// The time of every entry, in seconds: 1 January 2020. ZIP archives can't have one before 1980, and some tools of Python make
/// those.
pub const TIME_SECONDS: u64 = 1_577_836_800;
/// Counts the ways in which layers are written. Another number gives every image another digest.
pub const FORMAT: u32 = 1;

const PATH_MAX_BYTES: usize = 4096;
const NAME_MAX_BYTES: usize = 255;
/// The prefix of entries by which a layer deletes files of the layers below.
const WHITEOUT: &str = ".wh.";
const ZSTD_LEVEL: i32 = 6;
const GZIP_LEVEL: u32 = 6;
const BUFFER_BYTES: usize = 256 * 1024;

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Zstandard: smaller and several times faster.
    Zstd,
    /// For registries and container runtimes that do not know Zstandard.
    Gzip,
}

impl Compression {
    /// The media type of a layer.
    pub fn media_type(self) -> String {
        match self {
            Self::Zstd => format!("{LAYER}+zstd"),
            Self::Gzip => format!("{LAYER}+gzip"),
        }
    }

    /// A text that differs if equal content may be written as other bytes: a new release of a compressor may do so.
    pub fn fingerprint(self) -> String {
        match self {
            Self::Zstd => format!("layer {FORMAT} zstd {} level {ZSTD_LEVEL}", zstd::zstd_safe::version_string()),
            Self::Gzip => format!("layer {FORMAT} gzip level {GZIP_LEVEL}"),
        }
    }
}

/// A ZIP archive in memory that entries are read from.
#[derive(Clone)]
pub struct Archive(Arc<Mutex<ZipArchive<Cursor<Vec<u8>>>>>);

impl Archive {
    /// Shares an archive.
    pub fn new(archive: ZipArchive<Cursor<Vec<u8>>>) -> Self {
        Self(Arc::new(Mutex::new(archive)))
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Archive")
    }
}

/// The content of an entry.
#[derive(Debug, Clone)]
enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
    Zipped { archive: Archive, index: usize, bytes: u64 },
    Link(String),
    Folder,
}

#[derive(Debug, Clone)]
struct Entry {
    content: Content,
    executable: bool,
    owner: u32,
}

/// Why something is not put into a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The path is absolute, leads out of the image, or has a name that no file system takes.
    #[error("{0:?} is not a valid path in an image")]
    Path(String),
    /// Container runtimes would delete something instead of creating the file.
    #[error("{0:?} would delete files of the base image")]
    Whiteout(String),
    /// Two entries have one path, or one is beneath another that is no folder.
    #[error("{0:?} occurs twice")]
    Overwrites(String),
}

/// The entries of a layer.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
    owner: u32,
}

/// A layer that was written to a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LayerBlob {
    /// The digest of the file.
    pub digest: Digest,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The digest of the archive without compression.
    pub diff_id: Digest,
    /// The size of the archive without compression in bytes.
    pub archive_bytes: u64,
    /// The media type.
    pub media_type: String,
}

impl Layer {
    /// An empty layer whose entries belong to this user and the group of the same number.
    pub fn of_owner(owner: u32) -> Self {
        Self { entries: BTreeMap::new(), owner }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a folder. One that is there already stays.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn folder(&mut self, path: &str) -> Result<(), Refused> {
        let path = checked(path)?;
        match self.entries.get(path) {
            Some(Entry { content: Content::Folder, .. }) => Ok(()),
            _ => self.add(path, Content::Folder, true),
        }
    }

    /// Adds a folder that belongs to another user and the group of the same number. One that is there already changes its owner.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn folder_of(&mut self, path: &str, owner: u32) -> Result<(), Refused> {
        self.folder(path)?;
        if let Some(entry) = self.entries.get_mut(checked(path)?) {
            entry.owner = owner;
        }
        Ok(())
    }

    /// Adds a file with this content.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn bytes(&mut self, path: &str, content: impl Into<Vec<u8>>, executable: bool) -> Result<(), Refused> {
        self.add(checked(path)?, Content::Bytes(content.into()), executable)
    }

    /// Adds a file with the content of a file of this machine, which is read when the layer is written.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn file(&mut self, path: &str, from: PathBuf, executable: bool) -> Result<(), Refused> {
        self.add(checked(path)?, Content::File(from), executable)
    }

    /// Adds a file with the content of an entry of an archive.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn zipped(
        &mut self,
        path: &str,
        archive: &Archive,
        index: usize,
        bytes: u64,
        executable: bool,
    ) -> Result<(), Refused> {
        self.add(checked(path)?, Content::Zipped { archive: archive.clone(), index, bytes }, executable)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn link(&mut self, path: &str, to: &str) -> Result<(), Refused> {
        self.add(checked(path)?, Content::Link(to.to_owned()), true)
    }

    fn add(&mut self, path: &str, content: Content, executable: bool) -> Result<(), Refused> {
        let mut end = 0;
        while let Some(at) = path[end..].find('/') {
            let folder = &path[..end + at];
            end += at + 1;
            match self.entries.get(folder) {
                Some(Entry { content: Content::Folder, .. }) => {}
                Some(_) => return Err(Refused::Overwrites(folder.to_owned())),
                None => {
                    let entry = Entry { content: Content::Folder, executable: true, owner: self.owner };
                    self.entries.insert(folder.to_owned(), entry);
                }
            }
        }
        let entry = Entry { content, executable, owner: self.owner };
        if self.entries.contains_key(path) {
            return Err(Refused::Overwrites(path.to_owned()));
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// Writes the layer into a new file.
    ///
    /// # Errors
    /// When a file can't be read or written, or has another size than before.
    pub fn write(&self, to: &Path, compression: Compression) -> io::Result<LayerBlob> {
        let file = BufWriter::with_capacity(BUFFER_BYTES, File::create_new(to)?);
        let blob = Hashing::new(file);
        let (blob, diff_id, archive_bytes) = match compression {
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(blob, ZSTD_LEVEL)?;
                encoder.include_checksum(false)?;
                let (encoder, diff_id, bytes) = self.archive(Hashing::new(encoder))?.finish();
                (encoder.finish()?, diff_id, bytes)
            }
            Compression::Gzip => {
                let encoder = flate2::GzBuilder::new().mtime(0).write(blob, flate2::Compression::new(GZIP_LEVEL));
                let (encoder, diff_id, bytes) = self.archive(Hashing::new(encoder))?.finish();
                (encoder.finish()?, diff_id, bytes)
            }
        };
        let (file, digest, bytes) = blob.finish();
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(LayerBlob { digest, bytes, diff_id, archive_bytes, media_type: compression.media_type() })
    }

    fn archive<W: Write>(&self, to: W) -> io::Result<W> {
        let mut archive = tar::Builder::new(to);
        archive.mode(tar::HeaderMode::Deterministic);
        for (path, entry) in &self.entries {
            let mut header = Header::new_gnu();
            header.set_mtime(TIME_SECONDS);
            header.set_uid(entry.owner.into());
            header.set_gid(entry.owner.into());
            header.set_mode(if entry.executable { 0o755 } else { 0o644 });
            header.set_size(0);
            match &entry.content {
                Content::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Content::Link(to) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    archive.append_link(&mut header, path, to)?;
                }
                Content::Bytes(bytes) => {
                    append(&mut archive, header, path, bytes.len() as u64, bytes.as_slice())?;
                }
                Content::File(from) => {
                    let file = File::open(from)?;
                    let bytes = file.metadata()?.len();
                    append(&mut archive, header, path, bytes, BufReader::with_capacity(BUFFER_BYTES, file))?;
                }
                Content::Zipped { archive: zip, index, bytes } => {
                    let mut zip = zip.0.lock().unwrap_or_else(PoisonError::into_inner);
                    let file = zip.by_index(*index).map_err(io::Error::other)?;
                    append(&mut archive, header, path, *bytes, file)?;
                }
            }
        }
        archive.into_inner()
    }
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    mut header: Header,
    path: &str,
    bytes: u64,
    content: impl Read,
) -> io::Result<()> {
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes);
    // One byte more than promised is enough to see that there is more.
    let mut content = Counted { inner: content.take(bytes.saturating_add(1)), bytes: 0 };
    archive.append_data(&mut header, path, content.by_ref().take(bytes))?;
    let more = io::copy(&mut content, &mut io::sink())?;
    if content.bytes != bytes || more != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{path} has another size than was said")));
    }
    Ok(())
}

/// A reader that counts.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(to)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// A path without a slash at either end, when all of its names may be created.
fn checked(path: &str) -> Result<&str, Refused> {
    let path = path.trim_end_matches('/');
    let bad = |name: &str| {
        matches!(name, "" | "." | "..") || name.len() > NAME_MAX_BYTES || name.contains(['\0', '\\']) || {
            name.chars().any(char::is_control)
        }
    };
    if path.len() > PATH_MAX_BYTES || path.split('/').any(bad) {
        return Err(Refused::Path(path.chars().take(200).collect()));
    }
    if path.split('/').any(|name| name.starts_with(WHITEOUT)) {
        return Err(Refused::Whiteout(path.to_owned()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    fn unpacked(path: &Path, compression: Compression) -> Vec<u8> {
        let file = File::open(path).unwrap();
        let mut bytes = Vec::new();
        match compression {
            Compression::Zstd => zstd::Decoder::new(file).unwrap().read_to_end(&mut bytes).unwrap(),
            Compression::Gzip => flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap(),
        };
        bytes
    }

    #[test]
    fn a_layer_has_sorted_entries_of_one_time_and_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        std::fs::write(&from, "content").unwrap();
        let long = format!("opt/{}/x", "y".repeat(150));
        for compression in [Compression::Zstd, Compression::Gzip] {
            let mut layer = Layer::of_owner(1000);
            layer.file("opt/b/tool", from.clone(), true).unwrap();
            layer.bytes(&long, "long", false).unwrap();
            layer.bytes("a.txt", "text", false).unwrap();
            layer.link("opt/link", "b/tool").unwrap();
            layer.folder("job/").unwrap();
            let at = folder.path().join(format!("{compression:?}"));
            let blob = layer.write(&at, compression).unwrap();
            assert_eq!(blob.digest, Digest::of(&std::fs::read(&at).unwrap()));
            assert_eq!(blob.bytes, std::fs::metadata(&at).unwrap().len());
            let bytes = unpacked(&at, compression);
            assert_eq!((blob.diff_id, blob.archive_bytes), (Digest::of(&bytes), bytes.len() as u64));
            let mut archive = tar::Archive::new(bytes.as_slice());
            let mut seen = Vec::new();
            for entry in archive.entries().unwrap() {
                let mut entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(header.mtime().unwrap(), TIME_SECONDS);
                assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (1000, 1000));
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                let mode = entry.header().mode().unwrap();
                let link = entry.link_name().unwrap().map(|to| to.to_string_lossy().into_owned());
                let mut text = link.unwrap_or_default();
                entry.read_to_string(&mut text).unwrap();
                seen.push((path, mode, text));
            }
            let expected = [
                ("a.txt", 0o644, "text"),
                ("job/", 0o755, ""),
                ("opt/", 0o755, ""),
                ("opt/b/", 0o755, ""),
                ("opt/b/tool", 0o755, "content"),
                ("opt/link", 0o777, "b/tool"),
                (&long[..long.len() - 1], 0o755, ""),
                (&long, 0o644, "long"),
            ];
            let expected: Vec<_> = expected.map(|(path, mode, text)| (path.to_owned(), mode, text.to_owned())).into();
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn equal_layers_have_equal_bytes_whatever_the_order_modes_and_times_of_their_files() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let written = |name: &str, reversed: bool, mode: u32| {
            let source = folder.path().join(format!("{name}-source"));
            std::fs::create_dir(&source).unwrap();
            let mut names = ["b", "a", "c"];
            if reversed {
                names.reverse();
            }
            let mut layer = Layer::of_owner(0);
            for each in names {
                let path = source.join(each);
                std::fs::write(&path, each.repeat(100_000)).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
                let file = File::options().write(true).open(&path).unwrap();
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(mode));
                file.set_modified(time).unwrap();
                layer.file(&format!("opt/{each}"), path, false).unwrap();
            }
            let at = folder.path().join(name);
            (layer.write(&at, Compression::Zstd).unwrap(), std::fs::read(&at).unwrap())
        };
        assert_eq!(written("one", false, 0o600), written("two", true, 0o666));
    }

    #[test]
    fn paths_that_escape_delete_or_overwrite_are_refused() {
        let mut layer = Layer::of_owner(0);
        layer.bytes("opt/file", "x", false).unwrap();
        for path in [
            "",
            "/",
            "/etc/passwd",
            "../x",
            "opt/../../x",
            "opt/./x",
            "opt//x",
            "a\\b",
            "a\nb",
            "a\0b",
            &"x".repeat(256),
            &"x/".repeat(3000),
        ] {
            assert!(matches!(layer.bytes(path, "", false), Err(Refused::Path(_))), "{path:?}");
        }
        for path in [".wh.etc", "opt/.wh..wh..opq", ".wh.a/b"] {
            assert!(matches!(layer.bytes(path, "", false), Err(Refused::Whiteout(_))), "{path:?}");
        }
        for path in ["opt/file", "opt/file/beneath", "opt"] {
            assert!(matches!(layer.bytes(path, "", false), Err(Refused::Overwrites(_))), "{path:?}");
        }
        assert!(matches!(layer.folder("opt/file"), Err(Refused::Overwrites(_))));
        layer.folder("opt").unwrap();
        assert_eq!(layer.len(), 2);
    }

    #[test]
    fn a_file_whose_size_is_not_what_was_said_breaks_the_layer() {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("a", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"four").unwrap();
        let mut bytes = zip.finish().unwrap();
        bytes.rewind().unwrap();
        let archive = Archive::new(ZipArchive::new(bytes).unwrap());
        let folder = tempfile::tempdir().unwrap();
        for (said, fine) in [(3, false), (4, true), (5, false)] {
            let mut layer = Layer::of_owner(0);
            layer.zipped("a", &archive, 0, said, false).unwrap();
            let written = layer.write(&folder.path().join(said.to_string()), Compression::Gzip);
            assert_eq!(written.is_ok(), fine, "{said}: {written:?}");
        }
    }
}
