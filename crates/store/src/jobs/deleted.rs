//! Jobs that were deleted and can be brought back, until they are cleaned up.

use jiff::Timestamp;
use model::{
    job::DataJob,
    name::{JobId, JobName, TeamName},
};

use super::{
    row::{COLUMNS, JobRow, has_contacts},
    search_index,
};
use crate::{
    codec::{instant, micros},
    db::{Tx, on},
    error::{Result, StoreError},
};

/// A job that was deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Deleted {
    /// As it was.
    pub job: DataJob,
    /// When.
    pub at: Timestamp,
    /// The user who deleted it; absent if an older program did not record that.
    pub by: Option<String>,
    /// The generation of its deployment that was desired then, if it had one.
    pub generation: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct DeletedRow {
    #[sqlx(flatten)]
    job: JobRow,
    deleted_at: i64,
    deleted_by: Option<String>,
    deleted_generation: Option<i64>,
}

impl TryFrom<DeletedRow> for Deleted {
    type Error = StoreError;

    fn try_from(row: DeletedRow) -> Result<Self> {
        Ok(Self {
            job: row.job.try_into()?,
            at: instant(row.deleted_at)?,
            by: row.deleted_by,
            generation: row.deleted_generation,
        })
    }
}

/// The job of this name and team that was deleted last, kept as it is until the end of a transaction that writes.
pub async fn newest(tx: &mut Tx, team: &TeamName, name: &JobName) -> Result<Option<Deleted>> {
    let sql = format!(
        "select {COLUMNS}, deleted_at, deleted_by, deleted_generation from data_job
         where team = $1 and name = $2 and deleted_at is not null and purge_begun_at is null
         order by deleted_at desc, job_id desc limit 1 {}",
        tx.locking("for no key update")
    );
    let row: Option<DeletedRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(team.as_str())
        .bind(name.as_str())
        .fetch_optional(c)
        .await)?;
    row.map(Deleted::try_from).transpose()
}

/// The jobs of a team that were deleted, the last one first, those before `before`, at most `limit`.
pub async fn page(
    tx: &mut Tx,
    team: &TeamName,
    before: Option<(Timestamp, JobId)>,
    limit: i64,
) -> Result<Vec<Deleted>> {
    let sql = format!(
        "select {COLUMNS}, deleted_at, deleted_by, deleted_generation from data_job
         where team = $1 and deleted_at is not null and purge_begun_at is null and (deleted_at < $2 or (deleted_at = $2 and job_id < $3))
         order by deleted_at desc, job_id desc limit $4"
    );
    let (at, id) = before.map_or((i64::MAX, String::new()), |(at, id)| (micros(at), id.to_string()));
    let rows: Vec<DeletedRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(team.as_str())
        .bind(at)
        .bind(id)
        .bind(limit)
        .fetch_all(c)
        .await)?;
    rows.into_iter().map(Deleted::try_from).collect()
}

/// Makes a deleted job a live one again. `false` when a live job has its name, or its purge has begun.
pub async fn undelete(tx: &mut Tx, job: &DataJob, schedule: Option<i64>, now: Timestamp) -> Result<bool> {
    let done = on!(tx, c => sqlx::query(
        "update data_job set deleted_at = null, deleted_by = null, deleted_generation = null, schedule_id = $2,
            updated_at = $3, row_version = row_version + 1, team_lower = $4, contacts_present = $5
         where job_id = $1 and deleted_at is not null and purge_begun_at is null",
    )
    .bind(job.id.to_string())
    .bind(schedule)
    .bind(micros(now))
    .bind(job.team.as_str().to_lowercase())
    .bind(has_contacts(&job.config.contacts))
    .execute(c)
    .await
    .map(|done| done.rows_affected()));
    match done.map_err(StoreError::from) {
        // The unique index of the names of live jobs.
        Ok(0) | Err(StoreError::Constraint(_)) => return Ok(false),
        done => drop(done?),
    }
    search_index::index(tx, job).await?;
    Ok(true)
}
