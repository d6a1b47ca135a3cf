//! The words of live jobs in lower case, for searches of a part of them.

use model::{job::DataJob, name::JobId};

use super::row::{COLUMNS, JobRow, has_contacts};
use crate::{
    db::{Tx, on},
    error::Result,
};

/// How many jobs are completed in one step.
const STEP: i64 = 500;

/// Keeps the words of a job in step with its row.
pub(super) async fn index(tx: &mut Tx, job: &DataJob) -> Result<()> {
    on!(tx, c => sqlx::query(
        "insert into data_job_text (job_id, name, team, description, cron, python)
         values ($1, $2, $3, $4, $5,
            (select lower(coalesce(deployment_python, '')) from data_job where job_id = $1))
         on conflict (job_id) do update set name = excluded.name, team = excluded.team,
            description = excluded.description, cron = excluded.cron, python = excluded.python",
    )
    .bind(job.id.to_string())
    .bind(job.name.as_str())
    .bind(job.team.as_str().to_lowercase())
    .bind(job.description.to_lowercase())
    .bind(job.config.schedule_cron.as_deref().unwrap_or_default().to_lowercase())
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// Keeps the Python version among the words of a job in step with its row; absent without a deployment.
pub(crate) async fn python(tx: &mut Tx, job_id: &str, version: Option<String>) -> Result<()> {
    on!(tx, c => sqlx::query("update data_job_text set python = $2 where job_id = $1 and python <> $2")
        .bind(job_id)
        .bind(version.unwrap_or_default())
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// Forgets the words of a job that is deleted.
pub(super) async fn remove(tx: &mut Tx, id: JobId) -> Result<()> {
    let sql = "delete from data_job_text where job_id = $1";
    on!(tx, c => sqlx::query(sql).bind(id.to_string()).execute(c).await.map(drop))?;
    Ok(())
}

/// Completes rows that a program before these columns wrote, or that came back, at most a few hundred; answers whether
/// there may be more.
pub(crate) async fn complete(tx: &mut Tx) -> Result<bool> {
    let sql = format!(
        "select {} from data_job where team_lower is null and deleted_at is null order by job_id limit {STEP} {}",
        COLUMNS,
        tx.locking("for update")
    );
    let rows: Vec<JobRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(c).await)?;
    let more = i64::try_from(rows.len()).is_ok_and(|rows| rows == STEP);
    for row in rows {
        let job = DataJob::try_from(row)?;
        on!(tx, c => sqlx::query(
            "update data_job set team_lower = $2, contacts_present = $3, deployment_python =
                (select d.python_version from deployment d join rollout r on r.job_id = d.job_id
                 where d.job_id = data_job.job_id and d.removed_at is null and r.reached_generation is not null)
             where job_id = $1",
        )
        .bind(job.id.to_string())
        .bind(job.team.as_str().to_lowercase())
        .bind(has_contacts(&job.config.contacts))
        .execute(c)
        .await
        .map(drop))?;
        index(tx, &job).await?;
    }
    Ok(more)
}
