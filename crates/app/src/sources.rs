//! Uploads and downloads the sources of jobs.
//!
//! An upload is written to a temporary file, and stored in a normal form ([`normal`]). Only a few are received and processed
//! at once ([`Uploads`]). The bytes are written to and read from the database in pieces.

mod directory;
mod normal;

use std::{fs::File, io::Write, os::unix::fs::FileExt, sync::Arc, time::Duration};

use model::{
    Problem,
    access::{Action, Caller, Permit},
    clock::{Clock, SharedClock},
    name::{JobId, JobName},
    problem::Code,
    source::{ArchiveLimits, Source, SourceVersion},
};
use sha2::{Digest, Sha256};
use store::Db;

use self::normal::{Normal, normalise};
use crate::{
    find_job, idempotency,
    jobs::event,
    memory::MemoryBudget,
    places::{Place, PlaceLimits, Places},
    scratch::{Scratch, unwritten},
};

/// The longest reason for an upload, in bytes.
pub const REASON_MAX_BYTES: usize = 1000;

/// Uploads whose bytes are on disk at once.
const RECEIVED_AT_ONCE_MAX: usize = 8;
/// Uploads that are read and packed at once.
const PROCESSED_AT_ONCE_MAX: usize = 2;
/// Uploads that wait for a place, before their body is read.
const WAITING_MAX: usize = 256;
/// How long an upload waits for a place.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The most bytes of a download per read of the database.
const DOWNLOAD_PIECE_MAX_BYTES: usize = 128 * 1024;

/// Limits the uploads in progress, and knows the folder of their bytes. Clones share the places.
#[derive(Debug, Clone)]
pub struct Uploads {
    scratch: Scratch,
    received: Places,
    processed: Places,
}

impl Uploads {
    /// Uploads with the usual places, whose bytes are in `scratch`.
    pub fn new(scratch: Scratch, clock: &SharedClock) -> Self {
        let places = |what, at_once_max| {
            let limits = PlaceLimits { what, at_once_max, waiting_max: WAITING_MAX, wait_max: WAIT_MAX };
            Places::new(limits, Arc::clone(clock))
        };
        Self {
            scratch,
            received: places("uploads", RECEIVED_AT_ONCE_MAX),
            processed: places("uploads that are processed", PROCESSED_AT_ONCE_MAX),
        }
    }

    /// Waits until the body of an upload may be read, and returns the empty file for it.
    ///
    /// # Errors
    /// Overloaded if too many uploads wait, or no place becomes free in time.
    pub async fn receive(&self, principal: Option<&str>) -> Result<Receiving, Problem> {
        let place = self.received.take(principal).await?;
        Ok(Receiving { file: self.scratch.file()?, bytes: 0, hash: Sha256::new(), place })
    }
}

/// The file for the body of an upload, and its place among the uploads.
#[derive(Debug)]
pub struct Receiving {
    file: File,
    bytes: u64,
    hash: Sha256,
    place: Place,
}

impl Receiving {
    /// Writes the next bytes of the body.
    ///
    /// # Errors
    /// Unavailable if the disk is full, or can't be written to.
    pub async fn write(mut self, bytes: Vec<u8>) -> Result<Self, Problem> {
        let written = tokio::task::spawn_blocking(move || {
            self.file.write_all(&bytes)?;
            self.hash.update(&bytes);
            self.bytes += bytes.len() as u64;
            Ok::<_, std::io::Error>(self)
        });
        let failed = |_| {
            Problem::new(
                Code::SourcesStorageFailed,
                "The sources were not stored.",
                "Writing the upload failed unexpectedly.",
            )
            .nothing_changed()
            .fix("Upload again; if it fails again, the operator checks `data_dir` and the log.")
        };
        written.await.map_err(failed)?.map_err(|error| unwritten(&error))
    }

    /// The upload, after its last byte was written, and the SHA-256 of its body.
    pub fn complete(self) -> (Received, [u8; 32]) {
        let Self { file, bytes, hash, place } = self;
        (Received { file, bytes, place }, hash.finalize().into())
    }
}

/// A complete upload.
#[derive(Debug)]
pub struct Received {
    file: File,
    bytes: u64,
    place: Place,
}

/// A permitted upload, checked before its body is read.
#[derive(Debug)]
pub struct Upload<'a> {
    permit: Permit<'a>,
    job: JobName,
    reason: &'a str,
}

/// Checks whether the caller may upload sources for this job.
///
/// # Errors
/// NotFound for an unknown job; Invalid for a reason that is too long.
pub async fn begin_upload<'a>(
    db: &Db,
    caller: &'a Caller,
    team: &'a str,
    name: &'a str,
    reason: &'a str,
) -> Result<Upload<'a>, Problem> {
    let permit = caller.may(Action::Change, team, name).await?;
    if reason.len() > REASON_MAX_BYTES {
        return Err(Problem::new(
            Code::SourcesReasonTooLong,
            "The sources were not stored.",
            format!("The reason has more than {REASON_MAX_BYTES} bytes."),
        )
        .nothing_changed()
        .fix("Shorten the reason."));
    }
    let job = find_job(&mut db.read().await?, &permit).await?;
    Ok(Upload { permit, job: job.name, reason })
}

impl Upload<'_> {
    /// Stores the upload and returns its version, a hash of the content. `caller` is the one of
    /// [`begin_upload`], with the preconditions of the request complete.
    ///
    /// # Errors
    /// NotFound if the job is gone; Invalid for an archive that is broken or contains what it must not; `TooLarge` above a
    /// limit; Overloaded if there is no place or no memory to process it.
    pub async fn store(
        self,
        db: &Db,
        clock: &dyn Clock,
        caller: &Caller,
        principal: Option<&str>,
        limits: &ArchiveLimits,
        memory: &MemoryBudget,
        uploads: &Uploads,
        Received { file, bytes, place }: Received,
    ) -> Result<SourceVersion, Problem> {
        let processing = uploads.processed.take(principal).await?;
        let out = uploads.scratch.file()?;
        let (job, limits, memory) = (self.job, *limits, memory.clone());
        // The places move into the task, because a cancelled request does not stop it.
        let work = tokio::task::spawn_blocking(move || {
            let normal = normalise(&job, (file, bytes), &limits, &memory, out);
            drop(processing);
            normal.map(|normal| (normal, place))
        });
        let (normal, _place) = work.await.map_err(|_| {
            Problem::new(
                Code::SourcesStorageFailed,
                "The sources were not stored.",
                "Reading the archive failed unexpectedly.",
            )
            .nothing_changed()
            .fix("Upload again; if it fails again, the operator checks `data_dir` and the log.")
        })??;
        let now = clock.now();
        let source = Source {
            version: normal.version.clone(),
            archive_bytes: i64::try_from(normal.archive_bytes).unwrap_or(i64::MAX),
            requirements: normal.requirements.clone(),
            uploaded_by: caller.user.clone(),
            uploaded_at: now,
            reason: self.reason.to_owned(),
        };
        let mut tx = db.write().await?;
        if let Some(version) = idempotency::outcome(&mut tx, caller, now).await? {
            return Ok(version);
        }
        let job = find_job(&mut tx, &self.permit).await?;
        if !store::sources::is_stored(&mut tx, job.id, &source.version).await? {
            store_archive(&mut tx, &normal).await?;
        }
        store::sources::insert_version(&mut tx, job.id, &source, &normal.archive_hash).await?;
        let mut event = event("sources.upload", &job, None);
        event.detail = Some(source.version.to_string());
        store::audit::record(&mut tx, caller, &event, now).await?;
        idempotency::keep(&mut tx, caller, &source.version).await?;
        tx.commit().await?;
        Ok(source.version)
    }
}

/// Stores the bytes of an archive, one piece after the other.
async fn store_archive(tx: &mut store::Tx, normal: &Normal) -> Result<(), Problem> {
    let archive = Arc::new(normal.archive.try_clone().map_err(|error| unwritten(&error))?);
    let mut position = 0;
    let mut chunk = 0;
    while position < normal.archive_bytes {
        let left = usize::try_from(normal.archive_bytes - position).unwrap_or(usize::MAX);
        let mut piece = vec![0; left.min(store::sources::CHUNK_MAX_BYTES)];
        let archive = Arc::clone(&archive);
        let read = tokio::task::spawn_blocking(move || archive.read_exact_at(&mut piece, position).map(|()| piece));
        let piece = read
            .await
            .map_err(|_| {
                Problem::new(
                    Code::SourcesStorageFailed,
                    "The sources were not stored.",
                    "Reading the packed sources failed unexpectedly.",
                )
                .nothing_changed()
                .fix("Upload again; if it fails again, the operator checks `data_dir` and the log.")
            })?
            .map_err(|error| unwritten(&error))?;
        store::sources::insert_chunk(tx, &normal.archive_hash, chunk, &piece).await?;
        position += piece.len() as u64;
        chunk += 1;
    }
    Ok(())
}

/// The archive of sources, read in pieces. No connection is held between two of them.
#[derive(Debug)]
pub struct Download {
    db: Db,
    job: JobId,
    version: SourceVersion,
    bytes: u64,
}

impl Download {
    /// Bytes of the whole archive.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next bytes from `position` on; never empty before the end.
    ///
    /// # Errors
    /// NotFound if the source was deleted since the download began.
    pub async fn piece(&self, position: u64) -> Result<Vec<u8>, Problem> {
        let mut tx = self.db.read().await?;
        let (job, most) = (self.job, DOWNLOAD_PIECE_MAX_BYTES);
        let piece = store::sources::piece(&mut tx, job, &self.version, position, most).await?;
        piece.filter(|piece| !piece.is_empty()).ok_or_else(|| {
            Problem::new(
                Code::SourcesRemovedDuringDownload,
                "The download ended too early.",
                "The sources were removed while they were downloaded.",
            )
            .follows("The file is incomplete.")
            .fix("Upload the sources again: `vdk deploy -p <folder>`.")
        })
    }
}

/// The latest source of a job as a ZIP archive whose top folder has the job's name.
///
/// # Errors
/// NotFound for an unknown job, or one without a source.
pub async fn download(db: &Db, caller: &Caller, team: &str, name: &str) -> Result<Download, Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let mut tx = db.read().await?;
    let job = find_job(&mut tx, &permit).await?;
    let latest = store::sources::latest(&mut tx, job.id).await?.ok_or_else(|| {
        Problem::new(
            Code::SourcesNotFound,
            format!("The data job {} has no sources.", job.name),
            "No sources were uploaded, or they were removed.",
        )
        .nothing_returned()
        .fix(format!("Upload them: `vdk deploy -n {} -t {} -p <folder> -r <reason>`.", job.name, job.team))
    })?;
    let bytes = u64::try_from(latest.archive_bytes).unwrap_or_default();
    Ok(Download { db: db.clone(), job: job.id, version: latest.version, bytes })
}

/// Removes the uploads of a job. The current deployment continues to work. Removed sources can't be deployed again, and
/// their bytes are deleted when no deployment needs them.
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
        return Err(Problem::new(
            Code::SourcesReasonTooLong,
            "The sources were not removed.",
            format!("The reason has more than {REASON_MAX_BYTES} bytes."),
        )
        .nothing_changed()
        .fix("Shorten the reason."));
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

fn refused(why: impl Into<String>) -> Problem {
    Problem::new(Code::SourcesInvalid, "The sources were not stored.", why)
        .nothing_changed()
        .fix("Pack the job's folder as a ZIP archive with one top folder; `vdk deploy -p <folder>` does.")
}

fn too_large(why: impl Into<String>) -> Problem {
    Problem::new(Code::SourcesTooLarge, "The sources were not stored.", why)
        .nothing_changed()
        .fix("Leave data, virtual environments and build results out of the job's folder.")
}
