//! Every generation of a deployment, whole and immutable.

use jiff::Timestamp;
use model::{deployment::Deployment, name::JobId};

use crate::{
    codec::{from_json, micros, to_json},
    db::{Tx, metered_rows, on},
    error::Result,
    meter::{RowBytes, bytes_of_json},
};

/// Keeps a generation.
pub async fn insert(tx: &mut Tx, deployment: &Deployment, now: Timestamp) -> Result<()> {
    on!(tx, c => sqlx::query(
        "insert into deployment_revision (job_id, generation, content, created_at, created_by)
         values ($1, $2, $3, $4, $5)",
    )
    .bind(deployment.job_id.to_string())
    .bind(deployment.generation)
    .bind(to_json(deployment))
    .bind(micros(now))
    .bind(&deployment.deployed_by)
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// A generation.
pub async fn find(tx: &mut Tx, job_id: JobId, generation: i64) -> Result<Option<Deployment>> {
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as(
        "select content from deployment_revision where job_id = $1 and generation = $2",
    )
    .bind(job_id.to_string())
    .bind(generation)
    .fetch_optional(c)
    .await)?;
    row.map(|(content,)| from_json("a revision", &content)).transpose()
}

#[derive(sqlx::FromRow)]
struct ContentRow {
    content: String,
}

impl RowBytes for ContentRow {
    fn text_bytes(&self) -> usize {
        bytes_of_json(&self.content)
    }
}

/// The generations of a job below `before`, newest first, at most `limit`.
pub async fn page(tx: &mut Tx, job_id: JobId, before: i64, limit: i64) -> Result<Vec<Deployment>> {
    let rows = metered_rows!(
        tx,
        sqlx::query_as::<_, ContentRow>(
            "select content from deployment_revision where job_id = $1 and generation < $2
             order by generation desc limit $3",
        )
        .bind(job_id.to_string())
        .bind(before)
        .bind(limit)
    )?;
    rows.iter().map(|row| from_json("a revision", &row.content)).collect()
}
