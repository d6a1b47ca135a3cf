//! Retention of uploads.

use std::collections::BTreeSet;

use jiff::Timestamp;
use model::{name::JobId, source::SourceVersion};

use super::{JOBS_MAX, Load, ROWS_MAX, is_full, job_page};
use crate::{
    codec::{self, from_json, micros},
    db::{Tx, on},
    dialect::Dialect,
    error::{Result, corrupt},
    jobs,
    sources::CHUNK_MAX_BYTES,
};

/// An upload that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    job_id: JobId,
    version: SourceVersion,
}

/// The position of the walk over all uploads: at a job, after one of its versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    job: String,
    version: String,
}

/// The uploads that one transaction can delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// In the order of jobs and versions.
    pub old: Vec<Old>,
    /// Where to look next; absent when all jobs were checked.
    pub next: Option<Position>,
}

/// The number of the newest upload that is over those that are kept; 0 where only removed ones can go.
const NEWEST_OVER: &str = "select coalesce(
        (select s.upload from source_version s where s.job_id = j.job_id and s.removed_at is null
            order by s.upload desc limit 1 offset $2),
        (select 0 from source_version s where s.job_id = j.job_id and s.removed_at is not null limit 1))";

/// Finds uploads that nothing needs: those that were removed on request, and those that are not among the newest `keep_per_job` of
/// their job, were uploaded before `before`, and that no revision names.
pub async fn find(tx: &mut Tx, before: Timestamp, keep_per_job: i64, from: &Position) -> Result<Found> {
    let page = job_page(tx, &from.job, keep_per_job, NEWEST_OVER).await?;
    let (mut old, mut load, mut jobs_found): (Vec<Old>, Load, usize) = (Vec::new(), Load::new(ROWS_MAX), 0);
    let mut next = from.clone();
    for (job, newest_over) in &page {
        if *job != next.job {
            next = Position { job: job.clone(), version: String::new() };
        }
        let Some(newest_over) = newest_over else { continue };
        if jobs_found == JOBS_MAX {
            return Ok(Found { old, next: Some(next) });
        }
        let job_id = codec::job_id(job)?;
        let rows: Vec<(String, i64, bool)> = on!(tx, c => sqlx::query_as(
            "select version, archive_bytes, removed_at is not null from source_version
             where job_id = $1 and version > $2 and (removed_at is not null or (upload <= $3 and uploaded_at < $4))
             order by version limit $5",
        )
        .bind(job)
        .bind(&next.version)
        .bind(newest_over)
        .bind(micros(before))
        .bind(i64::from(ROWS_MAX))
        .fetch_all(c)
        .await)?;
        if rows.is_empty() {
            continue;
        }
        jobs_found += 1;
        let needed = Needed::by(tx, job_id).await?;
        for (version, bytes, is_removed) in &rows {
            let source = version_of(version)?;
            if !needed.is_needed(&source, *is_removed) {
                if !load.takes(rows_of(*bytes), *bytes) {
                    return Ok(Found { old, next: Some(next) });
                }
                old.push(Old { job_id, version: source });
            }
            next.version.clone_from(version);
        }
        if rows.len() as u64 == u64::from(ROWS_MAX) {
            return Ok(Found { old, next: Some(next) });
        }
    }
    // No version is after this one.
    let next = page.last().filter(|_| is_full(page.len()));
    Ok(Found { old, next: next.map(|(job, _)| Position { job: job.clone(), version: "~".into() }) })
}

/// Deletes uploads that [`find`] found, if nothing has come to need them. Returns how many.
pub async fn remove(tx: &mut Tx, old: &[Old]) -> Result<u64> {
    // No deployment or upload comes between the check and the deletion. All jobs come before the first archive: an upload has its
    // job when it waits for an archive.
    let jobs: BTreeSet<String> = old.iter().map(|o| o.job_id.to_string()).collect();
    for job in &jobs {
        jobs::lock(tx, codec::job_id(job)?).await?;
    }
    let mut removed = 0;
    for of_job in old.chunk_by(|one, other| one.job_id == other.job_id) {
        let job_id = of_job[0].job_id;
        let needed = Needed::by(tx, job_id).await?;
        lock_archives(tx, job_id).await?;
        for Old { version, .. } in of_job {
            let row: Option<(bool,)> = on!(tx, c => sqlx::query_as(
                "select removed_at is not null from source_version where job_id = $1 and version = $2",
            )
            .bind(job_id.to_string())
            .bind(version.as_str())
            .fetch_optional(c)
            .await)?;
            if row.is_some_and(|(is_removed,)| !needed.is_needed(version, is_removed)) {
                delete(tx, job_id, version).await?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// Finds uploads of a deleted job, as many as one transaction can delete.
pub(super) async fn find_of_job(tx: &mut Tx, job_id: JobId) -> Result<Vec<Old>> {
    let rows: Vec<(String, i64)> = on!(tx, c => sqlx::query_as(
        "select version, archive_bytes from source_version where job_id = $1 order by version limit $2",
    )
    .bind(job_id.to_string())
    .bind(i64::from(ROWS_MAX))
    .fetch_all(c)
    .await)?;
    let (mut load, mut old) = (Load::new(ROWS_MAX), Vec::new());
    for (version, bytes) in rows {
        if !load.takes(rows_of(bytes), bytes) {
            break;
        }
        old.push(Old { job_id, version: version_of(&version)? });
    }
    Ok(old)
}

/// Deletes uploads of a job that is locked, whatever needs them.
pub(super) async fn remove_all(tx: &mut Tx, job_id: JobId, old: &[Old]) -> Result<()> {
    lock_archives(tx, job_id).await?;
    for Old { version, .. } in old {
        delete(tx, job_id, version).await?;
    }
    Ok(())
}

/// Deletes an upload, and its archive unless it is another one's as well.
async fn delete(tx: &mut Tx, job_id: JobId, version: &SourceVersion) -> Result<()> {
    for sql in [
        "delete from archive_chunk where archive_hash in
            (select s.archive_hash from source_version s where s.job_id = $1 and s.version = $2
                and not exists (select 1 from source_version o
                    where o.archive_hash = s.archive_hash and not (o.job_id = $1 and o.version = $2)))",
        "delete from source_version where job_id = $1 and version = $2",
    ] {
        on!(tx, c => sqlx::query(sql)
            .bind(job_id.to_string())
            .bind(version.as_str())
            .execute(c)
            .await
            .map(drop))?;
    }
    Ok(())
}

/// The rows of an upload with an archive of this size.
fn rows_of(bytes: i64) -> u32 {
    let pieces = u64::try_from(bytes).unwrap_or(0).div_ceil(CHUNK_MAX_BYTES as u64);
    1 + u32::try_from(pieces).unwrap_or(u32::MAX - 1)
}

fn version_of(text: &str) -> Result<SourceVersion> {
    SourceVersion::parse(text).map_err(|_| corrupt("a job version"))
}

/// The versions of a job's source that something needs.
struct Needed {
    /// Desired, deployed, about to run, running, or restored with a deleted job.
    at_present: BTreeSet<String>,
    /// Named by a revision, which can be restored.
    by_revisions: BTreeSet<String>,
}

impl Needed {
    async fn by(tx: &mut Tx, job_id: JobId) -> Result<Self> {
        let desired: Option<(String,)> = on!(tx, c => sqlx::query_as("select job_version from deployment where job_id = $1")
                .bind(job_id.to_string())
                .fetch_optional(c)
                .await)?;
        let contents: Vec<(String,)> = on!(tx, c => sqlx::query_as(
            "select v.content from deployment_revision v join rollout r on r.job_id = v.job_id
                and r.reached_generation = v.generation where v.job_id = $1
             union
             select v.content from deployment_revision v join data_job j on j.job_id = v.job_id
                join data_job_execution e on e.job_number = j.number and e.generation = v.generation
                where v.job_id = $1 and e.status in ('SUBMITTED', 'RUNNING')
             union
             select v.content from deployment_revision v join data_job j on j.job_id = v.job_id
                and j.deleted_generation = v.generation where v.job_id = $1",
        )
        .bind(job_id.to_string())
        .fetch_all(c)
        .await)?;
        let mut at_present: BTreeSet<String> = desired.into_iter().map(|(version,)| version).collect();
        for (content,) in contents {
            let revision: model::deployment::Deployment = from_json("a revision", &content)?;
            at_present.insert(revision.job_version.as_str().to_owned());
        }
        let version = match tx.dialect() {
            Dialect::Sqlite => "json_extract(content, '$.job_version')",
            Dialect::Postgres => "content::json ->> 'job_version'",
        };
        let sql = format!("select distinct {version} from deployment_revision where job_id = $1");
        let revisions: Vec<(String,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(job_id.to_string())
            .fetch_all(c)
            .await)?;
        let by_revisions = revisions.into_iter().map(|(version,)| version).collect();
        Ok(Self { at_present, by_revisions })
    }

    /// A revision alone does not keep an upload that was removed on request.
    fn is_needed(&self, version: &SourceVersion, is_removed: bool) -> bool {
        let version = version.as_str();
        self.at_present.contains(version) || (!is_removed && self.by_revisions.contains(version))
    }
}

/// Waits until no request stores an archive that a job has too: whether another job has it is asked afterwards.
async fn lock_archives(tx: &mut Tx, job_id: JobId) -> Result<()> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    on!(tx, c => sqlx::query(
        "select chunk from archive_chunk
         where chunk = 0 and archive_hash in (select archive_hash from source_version where job_id = $1)
         order by archive_hash for update",
    )
    .bind(job_id.to_string())
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}
