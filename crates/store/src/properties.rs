//! The properties of jobs: one JSON object each.

use jiff::Timestamp;
use model::name::JobId;

use crate::{
    codec::micros,
    db::{Tx, on},
    error::Result,
};

/// The object as JSON text; absent when none was stored.
pub async fn find(tx: &mut Tx, job_id: JobId) -> Result<Option<String>> {
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as("select content from job_properties where job_id = $1")
        .bind(job_id.to_string())
        .fetch_optional(c)
        .await)?;
    Ok(row.map(|(content,)| content))
}

/// Replaces the object.
pub async fn replace(tx: &mut Tx, job_id: JobId, content: &str, by: &str, now: Timestamp) -> Result<()> {
    on!(tx, c => sqlx::query(
        "insert into job_properties (job_id, content, updated_at, updated_by) values ($1, $2, $3, $4)
         on conflict (job_id) do update set content = excluded.content, updated_at = excluded.updated_at,
            updated_by = excluded.updated_by",
    )
    .bind(job_id.to_string())
    .bind(content)
    .bind(micros(now))
    .bind(by)
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}
