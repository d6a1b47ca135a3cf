//! A job's source archive becomes files.

use std::{
    fs::{self, OpenOptions},
    io::{self, Cursor, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use model::{Problem, name::JobName, problem::Code, source::ArchiveLimits};
use zip::ZipArchive;

fn refused(job: &JobName, why: impl Into<String>) -> Problem {
    Problem::new(Code::ExecutionSourcesUnusable, format!("The sources of the data job {job} can't be unpacked."), why)
        .follows("The execution was not started.")
        .fix("Deploy the data job again.")
}

fn disk(job: &JobName, e: &io::Error) -> Problem {
    Problem::new(
        Code::ExecutionSourcesNotWritten,
        format!("The sources of the data job {job} were not written to the disk."),
        format!("{e}."),
    )
    .follows("The execution was not started.")
    .no_action("Holdfast retries. If it persists, the operator frees space in `data_dir`.")
}

/// Unpacks `archive`, whose one top folder has the job's name, into `folder`, which is empty.
///
/// It was checked when it came in. Here only what could hurt is checked again: where a path leads, what sort of entry
/// it is, how much there is. Rights are not taken from it except for "executable".
pub(super) fn unpack(archive: &[u8], job: &JobName, folder: &Path) -> Result<(), Problem> {
    let limits = ArchiveLimits::default();
    let broken = |e: zip::result::ZipError| refused(job, format!("It is not a readable ZIP archive: {e}."));
    let mut zip = ZipArchive::new(Cursor::new(archive)).map_err(broken)?;
    if zip.len() > limits.entries_max {
        return Err(refused(job, format!("It has more than {} entries.", limits.entries_max)));
    }
    let mut room = limits.unpacked_max_bytes;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(broken)?;
        let path = safe_path(entry.name(), job).ok_or_else(|| {
            refused(job, format!("Its entry {} leads elsewhere.", model::name::excerpt(entry.name())))
        })?;
        let to = folder.join(&path);
        if entry.is_dir() {
            make_folders(&to).map_err(|e| disk(job, &e))?;
            continue;
        }
        if entry.is_symlink() {
            return Err(refused(job, format!("Its entry {} is a link.", model::name::excerpt(entry.name()))));
        }
        if let Some(parent) = to.parent() {
            make_folders(parent).map_err(|e| disk(job, &e))?;
        }
        let mode = if entry.unix_mode().is_some_and(|m| m & 0o100 != 0) { 0o700 } else { 0o600 };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&to).map_err(|e| disk(job, &e))?;
        let mut limited = entry.by_ref().take(room + 1);
        let written = io::copy(&mut limited, &mut file).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                refused(job, format!("It is not a readable ZIP archive: {e}."))
            }
            _ => disk(job, &e),
        })?;
        room = room
            .checked_sub(written)
            .ok_or_else(|| refused(job, format!("It holds more than {} bytes.", limits.unpacked_max_bytes)))?;
    }
    // An archive without a single entry for the job still gives the job its folder: what then fails is the job.
    make_folders(&folder.join(job.as_str())).map_err(|e| disk(job, &e))
}

fn make_folders(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The path of an entry below the top folder that has the job's name; `None` when it leaves it.
fn safe_path(name: &str, job: &JobName) -> Option<PathBuf> {
    if name.contains(['\\', '\0']) || name.starts_with('/') {
        return None;
    }
    let path = PathBuf::from(name);
    let mut parts = path.components();
    let top = parts.next()?;
    (top == Component::Normal(job.as_str().as_ref())
        && parts.all(|p| matches!(p, Component::Normal(_) | Component::CurDir)))
    .then_some(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn zip_of(entries: &[(&str, u32)]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, mode) in entries {
            zip.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
            zip.write_all(b"content").unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn an_entry_that_leaves_the_jobs_folder_is_refused() {
        let job = JobName::parse("some-job").unwrap();
        for bad in ["../x", "/etc/x", "some-job/../../x", "other-job/x", "x", "some-job\\..\\x"] {
            let folder = tempfile::tempdir().unwrap();
            assert!(unpack(&zip_of(&[(bad, 0o644)]), &job, folder.path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_link_is_refused() {
        let job = JobName::parse("some-job").unwrap();
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.add_symlink("some-job/link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        let bytes = zip.finish().unwrap().into_inner();
        let folder = tempfile::tempdir().unwrap();
        assert!(unpack(&bytes, &job, folder.path()).is_err());
    }

    #[test]
    fn of_an_entrys_rights_only_executable_is_kept() {
        use std::os::unix::fs::PermissionsExt;
        let job = JobName::parse("some-job").unwrap();
        let folder = tempfile::tempdir().unwrap();
        unpack(&zip_of(&[("some-job/a.py", 0o4777), ("some-job/sub/b.sql", 0o644)]), &job, folder.path()).unwrap();
        let mode = |p: &str| fs::metadata(folder.path().join(p)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("some-job/a.py"), 0o700);
        assert_eq!(mode("some-job/sub/b.sql"), 0o600);
    }
}
