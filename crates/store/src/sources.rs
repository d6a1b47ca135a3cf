//! Uploaded sources, in the database so that one backup is whole.

use jiff::Timestamp;
use model::{
    name::JobId,
    source::{Source, SourceVersion},
};
use sha2::{Digest, Sha256};

use crate::{
    codec::{instant, micros, storable},
    db::{Tx, on},
    error::{Result, StoreError, corrupt},
};

/// The most bytes of an archive in one row; every row but the last has as many.
pub const CHUNK_MAX_BYTES: usize = 1024 * 1024;

/// Stores an upload whose archive is in memory. The same content again becomes the latest version once more, and is stored
/// once.
pub async fn insert(tx: &mut Tx, job_id: JobId, source: &Source, archive: &[u8]) -> Result<()> {
    let archive_hash = hex::encode(Sha256::digest(archive));
    for (chunk, content) in archive.chunks(CHUNK_MAX_BYTES).enumerate() {
        insert_chunk(tx, &archive_hash, chunk, content).await?;
    }
    insert_version(tx, job_id, source, &archive_hash).await
}

/// Whether the bytes of a version of a job's source are stored. They stay so until the end of the transaction, which has
/// locked the job.
pub async fn is_stored(tx: &mut Tx, job_id: JobId, version: &SourceVersion) -> Result<bool> {
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as(
        "select archive_hash from source_version where job_id = $1 and version = $2",
    )
    .bind(job_id.to_string())
    .bind(version.as_str())
    .fetch_optional(c)
    .await)?;
    Ok(row.is_some())
}

/// Stores a piece of the archive with this hash. All but the last have [`CHUNK_MAX_BYTES`], and [`insert_version`] follows
/// the last one.
pub async fn insert_chunk(tx: &mut Tx, archive_hash: &str, chunk: usize, content: &[u8]) -> Result<()> {
    // Touching the first chunk that is there already keeps it from being cleaned up with another job's.
    let sql = match chunk {
        0 => {
            "insert into archive_chunk (archive_hash, chunk, content) values ($1, $2, $3)
              on conflict (archive_hash, chunk) do update set chunk = excluded.chunk"
        }
        _ => "insert into archive_chunk (archive_hash, chunk, content) values ($1, $2, $3) on conflict do nothing",
    };
    on!(tx, c => sqlx::query(sql)
    .bind(archive_hash)
    .bind(i64::try_from(chunk).expect("an archive has few chunks"))
    .bind(content)
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// Makes a stored version the latest version of a job. A version that the job had before keeps its archive.
pub async fn insert_version(tx: &mut Tx, job_id: JobId, source: &Source, archive_hash: &str) -> Result<()> {
    storable([source.requirements.as_str(), &source.reason])?;
    on!(tx, c => sqlx::query(
        "insert into source_version (job_id, version, archive_hash, archive_bytes, requirements, reason, uploaded_by,
            uploaded_at, upload)
         select $1, $2, $3, $4, $5, $6, $7, $8, coalesce(max(upload), 0) + 1 from source_version where job_id = $1
         on conflict (job_id, version) do update set reason = excluded.reason, uploaded_by = excluded.uploaded_by,
            uploaded_at = excluded.uploaded_at, upload = excluded.upload, removed_at = null",
    )
    .bind(job_id.to_string())
    .bind(source.version.as_str())
    .bind(archive_hash)
    .bind(source.archive_bytes)
    .bind(&source.requirements)
    .bind(&source.reason)
    .bind(&source.uploaded_by)
    .bind(micros(source.uploaded_at))
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct SourceRow {
    version: String,
    archive_bytes: i64,
    requirements: String,
    reason: String,
    uploaded_by: String,
    uploaded_at: i64,
}

impl TryFrom<SourceRow> for Source {
    type Error = StoreError;

    fn try_from(row: SourceRow) -> Result<Self> {
        Ok(Self {
            version: SourceVersion::parse(&row.version).map_err(|_| corrupt("a job version"))?,
            archive_bytes: row.archive_bytes,
            requirements: row.requirements,
            uploaded_by: row.uploaded_by,
            uploaded_at: instant(row.uploaded_at)?,
            reason: row.reason,
        })
    }
}

/// One version of a job's source, also when it was removed and something deployed still needs it.
pub async fn find(tx: &mut Tx, job_id: JobId, version: &SourceVersion) -> Result<Option<Source>> {
    let row: Option<SourceRow> = on!(tx, c => sqlx::query_as(
        "select version, archive_bytes, requirements, reason, uploaded_by, uploaded_at
         from source_version where job_id = $1 and version = $2",
    )
    .bind(job_id.to_string())
    .bind(version.as_str())
    .fetch_optional(c)
    .await)?;
    row.map(Source::try_from).transpose()
}

/// Whether a version of a job's source can be deployed: it was uploaded, and not removed since.
pub async fn is_offered(tx: &mut Tx, job_id: JobId, version: &SourceVersion) -> Result<bool> {
    let row: Option<(i64,)> = on!(tx, c => sqlx::query_as(
        "select upload from source_version where job_id = $1 and version = $2 and removed_at is null",
    )
    .bind(job_id.to_string())
    .bind(version.as_str())
    .fetch_optional(c)
    .await)?;
    Ok(row.is_some())
}

/// Withdraws the uploads of a job, and returns their number.
pub async fn remove_all(tx: &mut Tx, job_id: JobId, now: Timestamp) -> Result<u64> {
    let done = on!(tx, c => sqlx::query(
        "update source_version set removed_at = $2 where job_id = $1 and removed_at is null",
    )
    .bind(job_id.to_string())
    .bind(micros(now))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done)
}

/// The latest upload of a job that was not removed.
pub async fn latest(tx: &mut Tx, job_id: JobId) -> Result<Option<Source>> {
    let row: Option<SourceRow> = on!(tx, c => sqlx::query_as(
        "select version, archive_bytes, requirements, reason, uploaded_by, uploaded_at
         from source_version where job_id = $1 and removed_at is null order by upload desc limit 1",
    )
    .bind(job_id.to_string())
    .fetch_optional(c)
    .await)?;
    row.map(Source::try_from).transpose()
}

/// The bytes of a version's archive.
pub async fn archive(tx: &mut Tx, job_id: JobId, version: &SourceVersion) -> Result<Option<Vec<u8>>> {
    let rows: Vec<(Vec<u8>,)> = on!(tx, c => sqlx::query_as(
        "select a.content from source_version s join archive_chunk a on a.archive_hash = s.archive_hash
         where s.job_id = $1 and s.version = $2 order by a.chunk",
    )
    .bind(job_id.to_string())
    .bind(version.as_str())
    .fetch_all(c)
    .await)?;
    let chunks: Vec<_> = rows.into_iter().map(|(content,)| content).collect();
    Ok((!chunks.is_empty()).then(|| chunks.concat()))
}

/// At most `most` bytes of a version's archive from `position` on, and no more than the rest of a row; absent after the
/// end.
pub async fn piece(
    tx: &mut Tx,
    job_id: JobId,
    version: &SourceVersion,
    position: u64,
    most: usize,
) -> Result<Option<Vec<u8>>> {
    let row_bytes = CHUNK_MAX_BYTES as u64;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let row: Option<(Vec<u8>,)> = on!(tx, c => sqlx::query_as(
        "select substr(a.content, cast($4 as integer), cast($5 as integer)) from source_version s
         join archive_chunk a on a.archive_hash = s.archive_hash
         where s.job_id = $1 and s.version = $2 and a.chunk = $3",
    )
    .bind(job_id.to_string())
    .bind(version.as_str())
    .bind(number(position / row_bytes))
    .bind(number(position % row_bytes + 1))
    .bind(number(most as u64))
    .fetch_optional(c)
    .await)?;
    Ok(row.map(|(content,)| content))
}
