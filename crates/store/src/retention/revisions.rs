//! Retention of the revisions of deployments.

use jiff::Timestamp;
use model::name::JobId;

use super::{JOBS_MAX, ROWS_MAX, is_full, job_page};
use crate::{
    codec::{self, micros},
    db::{Tx, on},
    error::Result,
    jobs,
};

/// Revisions of one job that may go: those that nothing needs up to a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    job_id: JobId,
    last_generation: i64,
}

/// The revisions that one transaction can delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// By job.
    pub old: Vec<Old>,
    /// The job to check next; absent when all jobs were checked.
    pub next: Option<String>,
}

/// The newest generation that is over the number of those that are kept.
const NEWEST_OVER: &str = "select v.generation from deployment_revision v where v.job_id = j.job_id
     order by v.generation desc limit 1 offset $2";

/// The condition for an unneeded revision: a later one has replaced it before an instant (`$3`), it is not desired, rolled out,
/// or restored with the job, and no execution ran it. Work in progress with a revision is over by that instant.
const UNNEEDED: &str =
    "exists (select 1 from deployment_revision n where n.job_id = v.job_id and n.generation > v.generation
        and n.created_at < $3)
     and not exists (select 1 from deployment d where d.job_id = v.job_id and d.generation = v.generation)
     and not exists (select 1 from rollout r where r.job_id = v.job_id
        and (r.reached_generation = v.generation or r.tried_generation = v.generation or r.build_generation = v.generation))
     and not exists (select 1 from data_job j where j.job_id = v.job_id and j.deleted_generation = v.generation)
     and not exists (select 1 from data_job_execution e
        where e.job_number = (select j.number from data_job j where j.job_id = v.job_id) and e.generation = v.generation)";

/// Finds revisions that are not among the newest `keep_per_job` of their job, were replaced before `replaced_before`, and that
/// nothing needs. The walk begins at the job `from`.
pub async fn find(tx: &mut Tx, replaced_before: Timestamp, keep_per_job: i64, from: &str) -> Result<Found> {
    let page = job_page(tx, from, keep_per_job, NEWEST_OVER).await?;
    let (mut old, mut left) = (Vec::new(), i64::from(ROWS_MAX));
    let sql = format!(
        "select v.generation from deployment_revision v where v.job_id = $1 and v.generation <= $2 and {UNNEEDED}
         order by v.generation limit $4"
    );
    for (job, newest_over) in &page {
        let Some(newest_over) = newest_over else { continue };
        if old.len() == JOBS_MAX || left == 0 {
            return Ok(Found { old, next: Some(job.clone()) });
        }
        let generations: Vec<(i64,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql.clone()))
            .bind(job)
            .bind(newest_over)
            .bind(micros(replaced_before))
            .bind(left)
            .fetch_all(c)
            .await)?;
        let Some(&(last_generation,)) = generations.last() else { continue };
        left -= i64::try_from(generations.len()).unwrap_or(left);
        old.push(Old { job_id: codec::job_id(job)?, last_generation });
        if left == 0 {
            // The rest of this job comes next.
            return Ok(Found { old, next: Some(job.clone()) });
        }
    }
    // No id is between the last one and this.
    let next = page.last().filter(|_| is_full(page.len())).map(|(job, _)| format!("{job}."));
    Ok(Found { old, next })
}

/// Deletes revisions that [`find`] found with the same `replaced_before`, if nothing has come to need them. Returns how many.
pub async fn remove(tx: &mut Tx, replaced_before: Timestamp, old: &[Old]) -> Result<u64> {
    let sql = format!(
        "delete from deployment_revision where job_id = $1 and generation in (
            select v.generation from deployment_revision v where v.job_id = $1 and v.generation <= $2 and {UNNEEDED})"
    );
    let mut removed = 0;
    for Old { job_id, last_generation } in old {
        jobs::lock(tx, *job_id).await?;
        removed += on!(tx, c => sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
            .bind(job_id.to_string())
            .bind(last_generation)
            .bind(micros(replaced_before))
            .execute(c)
            .await
            .map(|done| done.rows_affected()))?;
    }
    Ok(removed)
}
