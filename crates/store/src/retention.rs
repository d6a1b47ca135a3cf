//! Deletes old rows: executions, removed uploads, and the rest of deleted jobs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{execution::Status, name::JobId, source::SourceVersion};

use crate::{
    codec::{self, from_json, micros},
    db::{Tx, on},
    dialect::Dialect,
    error::{Result, corrupt},
    jobs,
};

/// Removes runs that ended before `before`, with their logs, but for the newest `keep_a_job` of each job; at most `limit`
/// at a time. The counts of the jobs go down with them.
pub async fn purge_executions(tx: &mut Tx, before: Timestamp, keep_a_job: i64, limit: i64) -> Result<u64> {
    let rows: Vec<(String, String, String)> = on!(tx, c => sqlx::query_as(
        "select execution_id, job_id, status from (
            select e.execution_id, j.job_id, e.status, e.ended_at, row_number() over (
                partition by e.job_number order by e.start_at desc, e.execution_id desc) as place
            from data_job_execution e join data_job j on j.number = e.job_number
            where e.job_number in (select job_number from data_job_execution where ended_at < $1)) p
         where ended_at < $1 and place > $2 order by ended_at, execution_id limit $3",
    )
    .bind(micros(before))
    .bind(keep_a_job)
    .bind(limit)
    .fetch_all(c)
    .await)?;
    // A final status never changes, so that what was read stays true. Jobs come before runs and in order, as everywhere.
    let mut counts: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for (_, job_id, status) in &rows {
        let status = Status::parse(status).ok_or_else(|| corrupt("an execution status"))?;
        let (succeeded, failed) = counts.entry(job_id.clone()).or_default();
        *succeeded += i64::from(status == Status::Succeeded);
        *failed += i64::from(matches!(status, Status::UserError | Status::PlatformError));
    }
    for (job_id, (succeeded, failed)) in counts {
        on!(tx, c => sqlx::query(
            "update data_job set successful_executions = successful_executions - $2,
                failed_executions = failed_executions - $3 where job_id = $1",
        )
        .bind(job_id)
        .bind(succeeded)
        .bind(failed)
        .execute(c)
        .await
        .map(drop))?;
    }
    for (id, _, _) in &rows {
        on!(tx, c => sqlx::query("delete from data_job_execution where execution_id = $1")
            .bind(id)
            .execute(c)
            .await
            .map(drop))?;
    }
    Ok(rows.len() as u64)
}

/// Removes what is left of jobs deleted before `before`, at most `limit` at a time: rows, sources, executions, logs.
/// Answers how many jobs went. A job with an active execution or with something still deployed stays.
pub async fn purge_deleted_jobs(tx: &mut Tx, before: Timestamp, limit: i64) -> Result<u64> {
    let sql = format!(
        "select j.job_id from data_job j
         where j.deleted_at < $1
           and not exists (select 1 from deployment d where d.job_id = j.job_id)
           and not exists (select 1 from data_job_execution e where e.job_number = j.number and e.holds_slot)
         order by j.deleted_at, j.job_id limit $2 {}",
        tx.locking("for update of j")
    );
    let ids: Vec<(String,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
    .bind(micros(before))
    .bind(limit)
    .fetch_all(c)
    .await)?;
    for (id,) in &ids {
        lock_archives(tx, id).await?;
        for sql in [
            "delete from log_chunk where execution_id in
                (select e.execution_id from data_job_execution e join data_job j on j.number = e.job_number
                    where j.job_id = $1)",
            "delete from data_job_execution where job_number = (select number from data_job where job_id = $1)",
            "delete from deployment_revision where job_id = $1",
            "delete from rollout where job_id = $1",
            "delete from job_properties where job_id = $1",
            "delete from job_secret where job_id = $1",
            "delete from archive_chunk where archive_hash in
                (select archive_hash from source_version s where s.job_id = $1
                    and not exists (select 1 from source_version o
                        where o.archive_hash = s.archive_hash and o.job_id <> s.job_id))",
            "delete from source_version where job_id = $1",
            "delete from data_job where job_id = $1",
        ] {
            on!(tx, c => sqlx::query(sql).bind(id).execute(c).await.map(drop))?;
        }
    }
    Ok(ids.len() as u64)
}

/// Deletes removed uploads that nothing needs: neither what is wanted or runs, nor a run that has not ended. Looks at no
/// more than `limit` of them in a call, those after `after` in the order of job and version; answers the last one that it
/// looked at, if there may be more.
pub async fn purge_removed_sources(
    tx: &mut Tx,
    after: Option<&(String, String)>,
    limit: i64,
) -> Result<Option<(String, String)>> {
    let (job, version) = after.map_or(("", ""), |(job, version)| (job, version));
    let removed: Vec<(String, String)> = on!(tx, c => sqlx::query_as(
        "select job_id, version from source_version
         where removed_at is not null and (job_id > $1 or (job_id = $1 and version > $2))
         order by job_id, version limit $3",
    )
    .bind(job)
    .bind(version)
    .bind(limit)
    .fetch_all(c)
    .await)?;
    // Nobody deploys or uploads between the look and the deletion. All jobs come before the first archive: an upload has its
    // job when it waits for an archive.
    for (job, _) in &removed {
        jobs::lock(tx, codec::job_id(job)?).await?;
    }
    for (job, version) in &removed {
        let job_id = codec::job_id(job)?;
        if needed(tx, job_id).await?.iter().any(|needed| needed.as_str() == version) {
            continue;
        }
        lock_archives(tx, job).await?;
        for sql in [
            "delete from archive_chunk where archive_hash in
                (select s.archive_hash from source_version s
                 where s.job_id = $1 and s.version = $2 and s.removed_at is not null
                    and not exists (select 1 from source_version o
                        where o.archive_hash = s.archive_hash and not (o.job_id = $1 and o.version = $2)))",
            "delete from source_version where job_id = $1 and version = $2 and removed_at is not null",
        ] {
            on!(tx, c => sqlx::query(sql).bind(job).bind(version).execute(c).await.map(drop))?;
        }
    }
    let more = i64::try_from(removed.len()).is_ok_and(|looked_at| looked_at == limit);
    Ok(removed.into_iter().next_back().filter(|_| more))
}

/// The versions of a job's source that are wanted, run, are about to, or come back with a deleted job.
async fn needed(tx: &mut Tx, job_id: JobId) -> Result<Vec<SourceVersion>> {
    let wanted: Option<(String,)> = on!(tx, c => sqlx::query_as("select job_version from deployment where job_id = $1")
        .bind(job_id.to_string())
        .fetch_optional(c)
        .await)?;
    let contents: Vec<(String,)> = on!(tx, c => sqlx::query_as(
        "select v.content from deployment_revision v join rollout r on r.job_id = v.job_id
            and r.reached_generation = v.generation where v.job_id = $1
         union all
         select v.content from deployment_revision v join data_job j on j.job_id = v.job_id join data_job_execution e
            on e.job_number = j.number and e.generation = v.generation where v.job_id = $1 and e.status in ('SUBMITTED', 'RUNNING')
         union all
         select v.content from deployment_revision v join data_job j on j.job_id = v.job_id
            and j.deleted_generation = v.generation where v.job_id = $1",
    )
    .bind(job_id.to_string())
    .fetch_all(c)
    .await)?;
    let parsed = |text: &str| SourceVersion::parse(text).map_err(|_| corrupt("a job version"));
    let mut versions = wanted.map(|(version,)| parsed(&version)).transpose()?.into_iter().collect::<Vec<_>>();
    for (content,) in contents {
        versions.push(from_json::<model::deployment::Deployment>("a revision", &content)?.job_version);
    }
    Ok(versions)
}

/// Waits until nobody stores an archive that a job has too: whether another job has it is asked afterwards.
async fn lock_archives(tx: &mut Tx, job_id: &str) -> Result<()> {
    if tx.dialect() == Dialect::Sqlite {
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
