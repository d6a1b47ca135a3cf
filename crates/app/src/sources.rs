//! Upload and download the source of a job.
//!
//! An upload is read once with every limit checked while it is unpacked, and stored in a normal form: one top folder with
//! the job's name, sorted, without times and owners. So the same content has the same version, whoever zipped it where.

use std::{
    collections::{BTreeMap, HashSet},
    io::{Cursor, Read, Write},
};

use model::{
    Problem,
    access::{Action, Caller},
    clock::Clock,
    name::{JobName, shown},
    source::{ArchiveLimits, Source, SourceVersion},
};
use sha2::{Digest, Sha256};
use store::Db;
use unicode_normalization::UnicodeNormalization;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{find_job, jobs::event, once};

/// The file whose lines are the job's requirements.
const REQUIREMENTS: &str = "requirements.txt";

/// The longest reason for an upload, in bytes.
pub const REASON_MAX_BYTES: usize = 1000;

/// Stores an upload and answers its version, which follows from the content.
///
/// # Errors
/// NotFound for an unknown job; Invalid for an archive that is broken or holds what it must not; TooLarge above a limit.
pub async fn upload(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    limits: &ArchiveLimits,
    team: &str,
    name: &str,
    reason: &str,
    archive: Vec<u8>,
) -> Result<SourceVersion, Problem> {
    let permit = caller.may(Action::Change, team, name).await?;
    if reason.len() > REASON_MAX_BYTES {
        return Err(Problem::invalid(
            "The sources were not stored.",
            format!("The reason has more than {REASON_MAX_BYTES} bytes."),
        ));
    }
    // Unknown jobs are told apart before the work of unpacking.
    let job = find_job(&mut db.read().await?, &permit).await?;
    let (limits, job_name) = (*limits, job.name.clone());
    let normal = tokio::task::spawn_blocking(move || normalise(&job_name, &archive, &limits))
        .await
        .map_err(|_| Problem::internal("The sources were not stored.", "Reading the archive failed unexpectedly."))??;
    let now = clock.now();
    let source = Source {
        version: normal.version.clone(),
        archive_bytes: i64::try_from(normal.archive.len()).unwrap_or(i64::MAX),
        requirements: normal.requirements,
        uploaded_by: caller.user.clone(),
        uploaded_at: now,
        reason: reason.to_owned(),
    };
    let mut tx = db.write().await?;
    if let Some(version) = once::outcome(&mut tx, caller, now).await? {
        return Ok(version);
    }
    let job = find_job(&mut tx, &permit).await?;
    store::sources::insert(&mut tx, job.id, &source, &normal.archive).await?;
    let mut event = event("sources.upload", &job, None);
    event.detail = Some(normal.version.to_string());
    store::audit::record(&mut tx, caller, &event, now).await?;
    once::keep(&mut tx, caller, &normal.version).await?;
    tx.commit().await?;
    Ok(normal.version)
}

/// The latest source of a job as a ZIP archive whose top folder has the job's name.
pub async fn download(db: &Db, caller: &Caller, team: &str, name: &str) -> Result<Vec<u8>, Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let mut tx = db.read().await?;
    let job = find_job(&mut tx, &permit).await?;
    let none = || {
        Problem::not_found(
            format!("The data job {} has no sources.", job.name),
            "Nothing was uploaded for it yet, or it was removed.",
        )
        .fix("Upload them first: vdk deploy -n <job> -t <team> -p <folder> -r <reason>.")
    };
    let latest = store::sources::latest(&mut tx, job.id).await?.ok_or_else(none)?;
    store::sources::archive(&mut tx, job.id, &latest.version).await?.ok_or_else(none)
}

/// Removes the uploads of a job. What is deployed goes on, and runs as before; nothing removed can be deployed again, and
/// its bytes go when nothing that is deployed needs them.
///
/// # Errors
/// NotFound for an unknown job; Invalid for a reason that is too long.
pub async fn remove(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    team: &str,
    name: &str,
    reason: &str,
) -> Result<(), Problem> {
    let permit = caller.may(Action::Change, team, name).await?;
    if reason.len() > REASON_MAX_BYTES {
        return Err(Problem::invalid(
            "The sources were not removed.",
            format!("The reason has more than {REASON_MAX_BYTES} bytes."),
        ));
    }
    let now = clock.now();
    let mut tx = db.write().await?;
    let job = find_job(&mut tx, &permit).await?;
    if store::sources::remove_all(&mut tx, job.id, now).await? == 0 {
        return Ok(());
    }
    let mut event = event("sources.remove", &job, None);
    event.detail = (!reason.is_empty()).then(|| reason.to_owned());
    store::audit::record(&mut tx, caller, &event, now).await?;
    tx.commit().await?;
    Ok(())
}

/// An upload in normal form.
#[derive(Debug)]
struct Normal {
    version: SourceVersion,
    archive: Vec<u8>,
    requirements: String,
}

fn refused(why: impl Into<String>) -> Problem {
    Problem::invalid("The sources were not stored.", why)
        .fix("Pack the job's folder again as a ZIP archive with one top folder (\"vdk deploy -p <folder>\" does).")
}

fn too_large(why: impl Into<String>) -> Problem {
    Problem::too_large("The sources were not stored.", why)
        .fix("Leave data, virtual environments and build results out of the job's folder.")
}

/// Reads an archive with every limit checked, and writes it in normal form. Nothing touches a disk.
fn normalise(job: &JobName, archive: &[u8], limits: &ArchiveLimits) -> Result<Normal, Problem> {
    if archive.len() > limits.archive_max_bytes {
        return Err(too_large(format!(
            "The archive has {} bytes; at most {} are taken.",
            archive.len(),
            limits.archive_max_bytes
        )));
    }
    let mut zip = ZipArchive::new(Cursor::new(archive))
        .map_err(|error| refused(format!("The upload is not a readable ZIP archive ({error}).")))?;
    if zip.len() > limits.entries_max {
        return Err(too_large(format!(
            "The archive has {} files and folders; at most {} are taken.",
            zip.len(),
            limits.entries_max
        )));
    }
    let entries = checked_entries(&mut zip, limits)?;
    let mut hash = Sha256::new();
    hash.update(b"holdfast source 1");
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let plain = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(zip::DateTime::default());
    let (mut unpacked, mut requirements) = (0_u64, String::new());
    let packing = |error: zip::result::ZipError| {
        Problem::internal("The sources were not stored.", format!("Packing them again failed ({error})."))
    };
    for (path, entry) in &entries {
        let target = format!("{job}/{path}");
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path.as_bytes());
        let Entry::File { index, executable } = *entry else {
            hash.update(b"d");
            writer.add_directory(target, plain.unix_permissions(0o755)).map_err(packing)?;
            continue;
        };
        let mut content = Vec::new();
        // One byte more than may come: what an entry says of its own size is not believed.
        let left = limits.unpacked_max_bytes - unpacked;
        zip.by_index(index)
            .map_err(|error| refused(format!("The file {} can't be read ({error}).", shown(path))))?
            .take(left + 1)
            .read_to_end(&mut content)
            .map_err(|error| refused(format!("The file {} can't be unpacked ({error}).", shown(path))))?;
        unpacked += content.len() as u64;
        if unpacked > limits.unpacked_max_bytes {
            return Err(too_large(format!("The archive unpacks to more than {} bytes.", limits.unpacked_max_bytes)));
        }
        if path == REQUIREMENTS {
            requirements = String::from_utf8(content.clone())
                .map_err(|_| refused("The file requirements.txt is not text in UTF-8."))?;
        }
        hash.update(if executable { b"x" } else { b"f" });
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(&content);
        let mode = if executable { 0o755 } else { 0o644 };
        writer.start_file(target, plain.unix_permissions(mode)).map_err(packing)?;
        writer.write_all(&content).map_err(|error| packing(error.into()))?;
    }
    let archive = writer.finish().map_err(packing)?.into_inner();
    let version = SourceVersion::parse(&hex::encode(hash.finalize())[..40])?;
    Ok(Normal { version, archive, requirements })
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Folder,
    File { index: usize, executable: bool },
}

/// The entries by their path below the top folder, sorted, each of a kind and with a path that may be unpacked anywhere.
fn checked_entries(
    zip: &mut ZipArchive<Cursor<&[u8]>>,
    limits: &ArchiveLimits,
) -> Result<BTreeMap<String, Entry>, Problem> {
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
            return Err(refused(format!("{} is a link or a device; only files and folders are taken.", shown(raw))));
        }
        let path = checked_path(raw, limits)?;
        let (head, rest) = path.split_once('/').unwrap_or((&path, ""));
        match &top {
            None => top = Some(head.to_owned()),
            Some(known) if known != head => {
                return Err(refused(format!(
                    "The archive has more than one top folder or file: {} and {}.",
                    shown(known),
                    shown(head)
                )));
            }
            Some(_) => {}
        }
        if rest.is_empty() {
            if !entry.is_dir() {
                return Err(refused(format!("{} lies outside of the top folder.", shown(raw))));
            }
            continue;
        }
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o100 != 0);
        let kind = if entry.is_dir() { Entry::Folder } else { Entry::File { index, executable } };
        let same: String = rest.nfc().flat_map(char::to_lowercase).collect();
        if !folded.insert(same) {
            return Err(refused(format!(
                "{} is there twice, or differs from another path only in case or in the form of its accents.",
                shown(rest)
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
        Some(path) => Err(refused(format!("{} lies below a file.", shown(path)))),
        None => Ok(entries),
    }
}

/// A path without anything that could lead out of the folder that it is unpacked to; a trailing slash is dropped.
fn checked_path(raw: &str, limits: &ArchiveLimits) -> Result<String, Problem> {
    let path = raw.strip_suffix('/').unwrap_or(raw);
    let bad = |why: &str| Err(refused(format!("The path {} {why}.", shown(raw))));
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
    use model::problem::Kind;

    use super::*;

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
}
