//! The normal form of an upload: one top folder with the job's name, sorted, without times and owners. So the same content
//! has the same version, regardless of who packed it and where.
//!
//! An archive is read twice, each entry in small pieces: the first pass checks every limit and counts, because the version
//! hashes the length of a file before its content; the second pass hashes and writes. No file of it is ever held in memory.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, BufWriter, Read, Seek, Write},
};

use model::{
    Problem,
    name::{JobName, excerpt},
    problem::Code,
    source::{ArchiveLimits, SourceVersion},
};
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::{
    directory::{self, Archive},
    refused, too_large,
};
use crate::memory::MemoryBudget;

/// The file whose lines are the job's requirements.
const REQUIREMENTS: &str = "requirements.txt";

/// Bytes of an entry that are in memory at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Memory that reading and writing an archive takes, whatever its directory.
const WORK_MEMORY_BYTES: usize = 3 * 1024 * 1024;

/// So many times the bytes of a directory are in memory while its archive is read: as it came, as the library keeps it, as
/// sorted paths, as folded paths, and as the directory of the new archive.
const DIRECTORY_COPIES: usize = 10;

/// An upload in normal form.
#[derive(Debug)]
pub(super) struct Normal {
    pub(super) version: SourceVersion,
    pub(super) archive: File,
    pub(super) archive_bytes: u64,
    /// The SHA-256 of the archive, in hexadecimal digits.
    pub(super) archive_hash: String,
    pub(super) requirements: String,
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Folder,
    File { index: usize, executable: bool, bytes: u64 },
}

/// Reads the archive in `file`, which has `bytes`, with every limit checked, and writes it in normal form to `out`.
pub(super) fn normalise(
    job: &JobName,
    (file, bytes): (File, u64),
    limits: &ArchiveLimits,
    memory: &MemoryBudget,
    out: File,
) -> Result<Normal, Problem> {
    if bytes > limits.archive_max_bytes as u64 {
        return Err(too_large(format!(
            "The archive has {bytes} bytes; at most {} are taken.",
            limits.archive_max_bytes
        )));
    }
    let mut reserved = memory.reserve(WORK_MEMORY_BYTES)?;
    let mut zip = directory::open(file, bytes, limits, |bytes| reserved.grow(bytes.saturating_mul(DIRECTORY_COPIES)))?;
    let mut entries = checked_entries(&mut zip, limits)?;
    let requirements = measure(&mut zip, &mut entries, limits)?;
    let (version, archive) = write(job, &mut zip, &entries, out)?;
    let (archive_bytes, archive_hash) = hash_of(archive.try_clone().map_err(packing)?).map_err(packing)?;
    Ok(Normal { version, archive, archive_bytes, archive_hash, requirements })
}

#[expect(clippy::needless_pass_by_value, reason = "it is what results are mapped with")]
fn packing(error: io::Error) -> Problem {
    Problem::new(Code::SourcesPackingFailed, "The sources were not stored.", format!("Packing them failed ({error})."))
        .nothing_changed()
        .fix("Upload again; if it fails again, the operator checks `data_dir`.")
}

/// The first pass: measures each file, and returns the requirements. The sizes in the headers of entries are ignored,
/// because they may be wrong.
fn measure(
    zip: &mut Archive,
    entries: &mut BTreeMap<String, Entry>,
    limits: &ArchiveLimits,
) -> Result<String, Problem> {
    let (mut unpacked, mut requirements) = (0_u64, String::new());
    for (path, entry) in entries {
        let Entry::File { index, bytes, .. } = entry else { continue };
        let left = limits.unpacked_max_bytes - unpacked;
        let mut text = Vec::new();
        let is_requirements = path == REQUIREMENTS;
        *bytes = each_piece(zip, path, *index, left, |piece| {
            if is_requirements {
                if text.len() + piece.len() > limits.requirements_max_bytes {
                    return Err(too_large(format!(
                        "The file requirements.txt has more than {} bytes.",
                        limits.requirements_max_bytes
                    )));
                }
                text.extend_from_slice(piece);
            }
            Ok(())
        })?;
        unpacked += *bytes;
        if unpacked > limits.unpacked_max_bytes {
            return Err(too_large(format!("The archive unpacks to more than {} bytes.", limits.unpacked_max_bytes)));
        }
        if is_requirements {
            requirements =
                String::from_utf8(text).map_err(|_| refused("The file requirements.txt is not text in UTF-8."))?;
        }
    }
    Ok(requirements)
}

/// The second pass: hashes the entries and writes them in normal form.
fn write(
    job: &JobName,
    zip: &mut Archive,
    entries: &BTreeMap<String, Entry>,
    out: File,
) -> Result<(SourceVersion, File), Problem> {
    let mut hash = Sha256::new();
    hash.update(b"holdfast source 1");
    let mut writer = ZipWriter::new(BufWriter::with_capacity(PIECE_BYTES, out));
    let plain = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(zip::DateTime::default());
    let failed = |error: zip::result::ZipError| packing(error.into());
    for (path, entry) in entries {
        let target = format!("{job}/{path}");
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path.as_bytes());
        let Entry::File { index, executable, bytes } = *entry else {
            hash.update(b"d");
            writer.add_directory(target, plain.unix_permissions(0o755)).map_err(failed)?;
            continue;
        };
        hash.update(if executable { b"x" } else { b"f" });
        hash.update(bytes.to_le_bytes());
        let mode = if executable { 0o755 } else { 0o644 };
        writer.start_file(target, plain.unix_permissions(mode)).map_err(failed)?;
        let written = each_piece(zip, path, index, bytes, |piece| {
            hash.update(piece);
            writer.write_all(piece).map_err(packing)
        })?;
        if written != bytes {
            return Err(Problem::new(
                Code::SourcesChanged,
                "The sources were not stored.",
                format!("The file {} changed while it was read.", excerpt(path)),
            )
            .nothing_changed()
            .fix("Upload again; if it fails again, the operator checks the disk of `data_dir`."));
        }
    }
    let out = writer.finish().map_err(failed)?.into_inner().map_err(|error| packing(error.into_error()))?;
    let version = SourceVersion::parse(&hex::encode(hash.finalize())[..40])?;
    Ok((version, out))
}

/// Unpacks an entry up to one byte more than `most`, piece by piece, and answers how many bytes came. All pieces but the
/// last have the same length: what a compressor writes depends on the pieces that it gets, and the same content has to
/// become the same archive.
fn each_piece(
    zip: &mut Archive,
    path: &str,
    index: usize,
    most: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), Problem>,
) -> Result<u64, Problem> {
    let mut entry = zip
        .by_index(index)
        .map_err(|error| refused(format!("The file {} can't be read ({error}).", excerpt(path))))?
        .take(most.saturating_add(1));
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut bytes = 0;
    loop {
        piece.clear();
        (&mut entry)
            .take(PIECE_BYTES as u64)
            .read_to_end(&mut piece)
            .map_err(|error| refused(format!("The file {} can't be unpacked ({error}).", excerpt(path))))?;
        if piece.is_empty() {
            return Ok(bytes);
        }
        take(&piece)?;
        bytes += piece.len() as u64;
    }
}

/// The length of a file and its SHA-256 in hexadecimal digits.
fn hash_of(mut file: File) -> io::Result<(u64, String)> {
    file.rewind()?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((bytes, hex::encode(hash.finalize()))),
            read => {
                hash.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
}

/// The entries by their path below the top folder, sorted, each of a kind and with a path that may be unpacked anywhere.
fn checked_entries(zip: &mut Archive, limits: &ArchiveLimits) -> Result<BTreeMap<String, Entry>, Problem> {
    const TYPE_BITS: u32 = 0o170_000;
    const FILE: u32 = 0o100_000;
    const FOLDER: u32 = 0o040_000;
    let mut entries = BTreeMap::new();
    let mut folded = HashSet::new();
    let mut top: Option<String> = None;
    for index in 0..zip.len() {
        let entry = zip
            .by_index_raw(index)
            .map_err(|error| refused(format!("The archive's entry {} can't be read ({error}).", index + 1)))?;
        if entry.encrypted() {
            return Err(refused("The archive is encrypted."));
        }
        let raw = std::str::from_utf8(entry.name_raw())
            .map_err(|_| refused(format!("The name of the archive's entry {} is not UTF-8.", index + 1)))?;
        let kind = entry.unix_mode().map_or(0, |mode| mode & TYPE_BITS);
        if kind != 0 && kind != FILE && kind != FOLDER {
            return Err(refused(format!("{} is a link or a device; only files and folders are taken.", excerpt(raw))));
        }
        let path = checked_path(raw, limits)?;
        let (head, rest) = path.split_once('/').unwrap_or((&path, ""));
        match &top {
            None => top = Some(head.to_owned()),
            Some(known) if known != head => {
                return Err(refused(format!(
                    "The archive has more than one top folder or file: {} and {}.",
                    excerpt(known),
                    excerpt(head)
                )));
            }
            Some(_) => {}
        }
        if rest.is_empty() {
            if !entry.is_dir() {
                return Err(refused(format!("{} lies outside of the top folder.", excerpt(raw))));
            }
            continue;
        }
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o100 != 0);
        let kind = if entry.is_dir() { Entry::Folder } else { Entry::File { index, executable, bytes: 0 } };
        let same: String = rest.nfc().flat_map(char::to_lowercase).collect();
        if !folded.insert(same) {
            return Err(refused(format!(
                "{} is there twice, or differs from another path only in case or in the form of its accents.",
                excerpt(rest)
            )));
        }
        entries.insert(rest.to_owned(), kind);
    }
    if !entries.values().any(|entry| matches!(entry, Entry::File { .. })) {
        return Err(refused("The archive has no files."));
    }
    let through_a_file = entries.keys().find(|path| {
        path.match_indices('/').any(|(at, _)| matches!(entries.get(&path[..at]), Some(Entry::File { .. })))
    });
    match through_a_file {
        Some(path) => Err(refused(format!("{} lies below a file.", excerpt(path)))),
        None => Ok(entries),
    }
}

/// A path without anything that could lead out of the folder that it is unpacked to; a trailing slash is dropped.
fn checked_path(raw: &str, limits: &ArchiveLimits) -> Result<String, Problem> {
    let path = raw.strip_suffix('/').unwrap_or(raw);
    let bad = |why: &str| Err(refused(format!("The path {} {why}.", excerpt(raw))));
    if path.len() > limits.path_max_bytes {
        return bad("is too long");
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return bad("has a backslash or a control character");
    }
    if path.split('/').count() > limits.depth_max {
        return bad("lies too deep");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.get(1..2) == Some(":") {
        return bad("does not stay within the archive");
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use model::problem::Kind;
    use zip::ZipArchive;

    use super::*;

    #[derive(Debug)]
    struct Unpacked {
        version: SourceVersion,
        archive: Vec<u8>,
        requirements: String,
    }

    fn normalise(job: &JobName, archive: &[u8], limits: &ArchiveLimits) -> Result<Unpacked, Problem> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(archive).unwrap();
        let (memory, out) = (MemoryBudget::new(64), tempfile::tempfile().unwrap());
        let Normal { version, archive: mut file, archive_bytes, archive_hash, requirements } =
            super::normalise(job, (file, archive.len() as u64), limits, &memory, out)?;
        assert_eq!(memory.free_bytes(), 64 * 1024 * 1024);
        let mut archive = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut archive).unwrap();
        assert_eq!(archive_bytes, archive.len() as u64);
        assert_eq!(archive_hash, hex::encode(Sha256::digest(&archive)));
        Ok(Unpacked { version, archive, requirements })
    }

    fn job() -> JobName {
        JobName::parse("example-job").unwrap()
    }

    fn zip_of(entries: &[(&str, &str, u32)]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (path, content, mode) in entries {
            let options = SimpleFileOptions::default().unix_permissions(*mode);
            if path.ends_with('/') {
                writer.add_directory(*path, options).unwrap();
            } else if mode & 0o170_000 == 0o120_000 {
                writer.add_symlink(*path, *content, options).unwrap();
            } else {
                writer.start_file(*path, options).unwrap();
                writer.write_all(content.as_bytes()).unwrap();
            }
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn any_top_folder_becomes_the_jobs_name_and_the_version_follows_from_the_content() {
        let limits = ArchiveLimits::default();
        let one = zip_of(&[
            ("tmp123/", "", 0o755),
            ("tmp123/10_step.py", "x", 0o644),
            ("tmp123/requirements.txt", "a\n", 0o644),
        ]);
        let two = zip_of(&[("other/requirements.txt", "a\n", 0o600), ("other/10_step.py", "x", 0o444)]);
        let (one, two) = (normalise(&job(), &one, &limits).unwrap(), normalise(&job(), &two, &limits).unwrap());
        assert_eq!(one.version, two.version);
        assert_eq!(one.archive, two.archive);
        assert_eq!(one.requirements, "a\n");
        let mut stored = ZipArchive::new(Cursor::new(one.archive)).unwrap();
        let names: Vec<_> = (0..stored.len()).map(|i| stored.by_index(i).unwrap().name().to_owned()).collect();
        assert_eq!(names, ["example-job/10_step.py", "example-job/requirements.txt"]);
        let changed = zip_of(&[("other/requirements.txt", "b\n", 0o600), ("other/10_step.py", "x", 0o444)]);
        assert_ne!(normalise(&job(), &changed, &limits).unwrap().version, two.version);
    }

    #[test]
    fn what_could_do_harm_is_refused() {
        let limits =
            ArchiveLimits { unpacked_max_bytes: 1000, entries_max: 5, depth_max: 4, ..ArchiveLimits::default() };
        let large = "a".repeat(1001);
        let deep = "a/b/c/d/e.py";
        for (what, archive, kind) in [
            ("not a zip", b"hello".to_vec(), Kind::Invalid),
            ("empty", Vec::new(), Kind::Invalid),
            ("no entries", zip_of(&[]), Kind::Invalid),
            ("only folders", zip_of(&[("a/", "", 0o755)]), Kind::Invalid),
            ("two tops", zip_of(&[("a/x", "", 0o644), ("b/x", "", 0o644)]), Kind::Invalid),
            ("no top", zip_of(&[("x.py", "", 0o644)]), Kind::Invalid),
            ("parent", zip_of(&[("a/../../x", "", 0o644)]), Kind::Invalid),
            ("absolute", zip_of(&[("/etc/x", "", 0o644)]), Kind::Invalid),
            ("backslash", zip_of(&[("a/..\\x", "", 0o644)]), Kind::Invalid),
            ("drive", zip_of(&[("C:/x", "", 0o644)]), Kind::Invalid),
            ("link", zip_of(&[("a/x", "/etc/passwd", 0o120_777)]), Kind::Invalid),
            ("case", zip_of(&[("a/x", "", 0o644), ("a/X", "", 0o644)]), Kind::Invalid),
            ("accents", zip_of(&[("a/\u{e9}", "", 0o644), ("a/e\u{301}", "", 0o644)]), Kind::Invalid),
            ("below a file", zip_of(&[("a/x", "", 0o644), ("a/x/y", "", 0o644)]), Kind::Invalid),
            ("deep", zip_of(&[(deep, "", 0o644)]), Kind::Invalid),
            ("bomb", zip_of(&[("a/x", &large, 0o644)]), Kind::TooLarge),
            (
                "many",
                zip_of(&[
                    ("a/1", "", 0o644),
                    ("a/2", "", 0o644),
                    ("a/3", "", 0o644),
                    ("a/4", "", 0o644),
                    ("a/5", "", 0o644),
                    ("a/6", "", 0o644),
                ]),
                Kind::TooLarge,
            ),
        ] {
            let problem = normalise(&job(), &archive, &limits).expect_err(what);
            assert_eq!(problem.kind, kind, "{what}: {problem}");
        }
        let mut cut = zip_of(&[("a/x", &"abc".repeat(100), 0o644)]);
        cut.truncate(cut.len() / 2);
        assert!(normalise(&job(), &cut, &limits).is_err());
    }

    #[test]
    fn a_size_that_an_entry_lies_about_is_not_believed() {
        let limits = ArchiveLimits { unpacked_max_bytes: 100, ..ArchiveLimits::default() };
        let mut archive = zip_of(&[("a/x", &"a".repeat(5000), 0o644)]);
        let truth = 5000_u32.to_le_bytes();
        let mut at = 0;
        while let Some(found) = archive[at..].windows(4).position(|w| w == truth) {
            archive[at + found..at + found + 4].copy_from_slice(&10_u32.to_le_bytes());
            at += found + 4;
        }
        assert!(normalise(&job(), &archive, &limits).is_err());
    }

    /// Content of every kind that an archive has, always the same.
    fn sample() -> Vec<u8> {
        let mut seed = 1_u64;
        let noise: Vec<u8> = (0..3_000_001)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                seed.to_be_bytes()[0]
            })
            .collect();
        let text = "insert into sales values (1, 2, 3);\n".repeat(70_000);
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let mode = |mode| SimpleFileOptions::default().unix_permissions(mode);
        writer.add_directory("top/", mode(0o755)).unwrap();
        writer.add_directory("top/empty/", mode(0o755)).unwrap();
        for (path, content, options) in [
            ("top/20_load.sql", text.as_bytes(), mode(0o644)),
            ("top/10_step.py", &b"def run(job_input): pass\n"[..], mode(0o600)),
            ("top/requirements.txt", b"pandas\n", mode(0o644)),
            ("top/bin/tool", b"#!/bin/sh\n", mode(0o755)),
            ("top/bin/nothing", b"", mode(0o644)),
            ("top/data/noise", &noise, mode(0o644).compression_method(CompressionMethod::Stored)),
            ("top/data/\u{fc}ber.csv", b"a,b\n", mode(0o644)),
        ] {
            writer.start_file(path, options).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn the_version_of_a_content_is_the_same_in_every_release() {
        let normal = normalise(&job(), &sample(), &ArchiveLimits::default()).unwrap();
        assert_eq!(normal.version.as_str(), "dbe7daf9ccd1175fadc403281f42a986f096452b");
        assert_eq!(normal.requirements, "pandas\n");
    }

    #[test]
    fn requirements_and_unpacked_bytes_are_limited_while_unpacking() {
        let limits = ArchiveLimits { requirements_max_bytes: 10, unpacked_max_bytes: 100, ..ArchiveLimits::default() };
        let requirements = |bytes: usize| zip_of(&[("a/requirements.txt", &"x".repeat(bytes), 0o644)]);
        assert_eq!(normalise(&job(), &requirements(10), &limits).unwrap().requirements, "x".repeat(10));
        assert_eq!(normalise(&job(), &requirements(11), &limits).unwrap_err().kind, Kind::TooLarge);
        let two = zip_of(&[("a/x", &"x".repeat(60), 0o644), ("a/y", &"y".repeat(41), 0o644)]);
        assert!(normalise(&job(), &two, &limits).unwrap_err().why.contains("more than 100 bytes"));
    }

    #[test]
    fn a_normal_archive_is_normal_already() {
        let once = normalise(&job(), &sample(), &ArchiveLimits::default()).unwrap();
        let twice = normalise(&job(), &once.archive, &ArchiveLimits::default()).unwrap();
        assert_eq!((twice.version, twice.archive == once.archive), (once.version, true));
    }

    #[test]
    fn an_archive_without_memory_for_its_directory_is_overload() {
        let mut file = tempfile::tempfile().unwrap();
        let archive = sample();
        file.write_all(&archive).unwrap();
        let memory = MemoryBudget::new(1);
        let full = super::normalise(
            &job(),
            (file, archive.len() as u64),
            &ArchiveLimits::default(),
            &memory,
            tempfile::tempfile().unwrap(),
        );
        assert_eq!(full.unwrap_err().kind, Kind::Overloaded);
    }
}
