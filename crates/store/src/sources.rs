//! Uploaded sources, in the database so that one backup is whole.

use model::{
    name::JobId,
    source::{Source, SourceVersion},
};
use sha2::{Digest, Sha256};

use crate::{Result, Tx, corrupt, db::on, instant, micros, storable};

/// The most bytes of an archive in one row.
const CHUNK_MAX_BYTES: usize = 1024 * 1024;

/// Stores an upload. The same content again becomes the latest version once more, and is stored once.
pub async fn insert(tx: &mut Tx, job_id: JobId, source: &Source, archive: &[u8]) -> Result<()> {
    storable([source.requirements.as_str(), &source.reason])?;
    let archive_hash = hex::encode(Sha256::digest(archive));
    for (chunk, content) in archive.chunks(CHUNK_MAX_BYTES).enumerate() {
        // Touching the first chunk that is there already keeps it from being cleaned up with another job's.
        let sql = match chunk {
            0 => {
                "insert into archive_chunk (archive_hash, chunk, content) values ($1, $2, $3)
                  on conflict (archive_hash, chunk) do update set chunk = excluded.chunk"
            }
            _ => "insert into archive_chunk (archive_hash, chunk, content) values ($1, $2, $3) on conflict do nothing",
        };
        on!(tx, c => sqlx::query(sql)
        .bind(&archive_hash)
        .bind(i64::try_from(chunk).expect("an archive has few chunks"))
        .bind(content)
        .execute(c)
        .await
        .map(drop))?;
    }
    on!(tx, c => sqlx::query(
        "insert into source_version (job_id, version, archive_hash, archive_bytes, requirements, reason, uploaded_by,
            uploaded_at, upload)
         select $1, $2, $3, $4, $5, $6, $7, $8, coalesce(max(upload), 0) + 1 from source_version where job_id = $1
         on conflict (job_id, version) do update set reason = excluded.reason, uploaded_by = excluded.uploaded_by,
            uploaded_at = excluded.uploaded_at, upload = excluded.upload",
    )
    .bind(job_id.to_string())
    .bind(source.version.as_str())
    .bind(&archive_hash)
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
    type Error = crate::StoreError;

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

/// One version of a job's source.
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

/// The latest upload of a job.
pub async fn latest(tx: &mut Tx, job_id: JobId) -> Result<Option<Source>> {
    let row: Option<SourceRow> = on!(tx, c => sqlx::query_as(
        "select version, archive_bytes, requirements, reason, uploaded_by, uploaded_at
         from source_version where job_id = $1 order by upload desc limit 1",
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
    Ok((!rows.is_empty()).then(|| rows.into_iter().flat_map(|(content,)| content).collect()))
}

/// Waits until nobody stores an archive that a job has too: whether another job has it is asked afterwards.
pub(crate) async fn lock_archives(tx: &mut Tx, job_id: &str) -> Result<()> {
    if !tx.is_shared() {
        return Ok(());
    }
    on!(tx, c => sqlx::query(
        "select chunk from archive_chunk
         where chunk = 0 and archive_hash in (select archive_hash from source_version where job_id = $1)
         order by archive_hash for update",
    )
    .bind(job_id)
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}
