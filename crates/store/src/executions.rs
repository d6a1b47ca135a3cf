//! Runs: one row each, from the accepted start to one final status.

mod list;
pub mod newest;
mod packed;
mod row;
mod transitions;

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use model::{
    execution::{Execution, Status},
    name::{ExecutionId, JobId},
    runtime::{KnownExecution, ScheduledExecution},
};

use crate::{
    artifact,
    codec::{self, micros},
    db::{Tx, on},
    error::{Result, corrupt},
    leases::Epoch,
    sql::places,
};
pub(crate) use list::packed;
pub use list::{ExecutionQuery, ExecutionSort, count, page, page_by_job, page_of_job};
pub use packed::OfJob;
pub(crate) use packed::{unpack, unpacked_bytes};
pub use row::Detail;
use row::{COLUMNS, ExecutionRow, REVISION, Revisions, execution_id};
pub use transitions::{
    Dispatched, Ended, NewExecution, Recorded, Started, dispatch, finish, insert, record_scheduled, record_waiting,
    request_cancel, request_cancel_all, running,
};

/// The most identifiers in one statement.
const IDS_AT_ONCE: usize = 10_000;

/// The run of this id.
pub async fn find(tx: &mut Tx, id: &ExecutionId) -> Result<Option<Execution>> {
    let sql = format!(
        "select {COLUMNS}, {REVISION} as revision from data_job_execution e join data_job j on j.number = e.job_number
         where e.execution_id = $1"
    );
    let row: Option<ExecutionRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(id.as_str())
        .fetch_optional(c)
        .await)?;
    row.map(|row| row.execution(&mut Revisions::default())).transpose()
}

/// An active execution, as much of it as each round of the loop over executions reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveId {
    /// Its identifier.
    pub id: ExecutionId,
    /// Whether its cancellation was requested.
    pub is_cancelled: bool,
}

/// The fields of an active execution that the loop needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Active {
    /// The run, without its revision.
    pub execution: Execution,
    /// The revision and artifact that it was dispatched with; absent until then.
    pub dispatched: Option<Dispatched>,
    /// The epoch of the leader that moved it on last.
    pub epoch: Epoch,
}

/// The differences between the executions that a runtime knows and their rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Runs that ticks started and that have no row yet, of jobs that are known.
    pub new: Vec<(ExecutionId, ScheduledExecution)>,
    /// Runs whose end is stored and that are still there.
    pub over: Vec<(ExecutionId, JobId)>,
    /// Other runs without a row, for example of jobs that are not known.
    pub unknown: Vec<ExecutionId>,
}

/// Compares the runs that a place knows with their rows, by two statements for each 10,000 of them, whatever they are.
pub async fn unsettled(tx: &mut Tx, known: Vec<KnownExecution>) -> Result<Unsettled> {
    let mut unsettled = Unsettled::default();
    for some in known.chunks(IDS_AT_ONCE) {
        let sql = format!(
            "select e.execution_id, e.status, j.job_id from data_job_execution e join data_job j on j.number = e.job_number
             where e.execution_id in ({})",
            places(some.len())
        );
        let rows: Vec<(String, String, String)> = on!(tx, c => {
            // Each number of ids is another text, and none of these long ones is kept prepared.
            let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql)).persistent(false);
            for run in some {
                statement = statement.bind(run.id.as_str());
            }
            statement.fetch_all(c).await
        })?;
        let rows: HashMap<_, _> = rows.into_iter().map(|(id, status, job_id)| (id, (status, job_id))).collect();
        for run in some {
            match (rows.get(run.id.as_str()), &run.scheduled) {
                (Some((status, job_id)), _) if Status::parse(status).is_some_and(Status::is_final) => {
                    unsettled.over.push((run.id.clone(), codec::job_id(job_id)?));
                }
                (None, Some(scheduled)) => unsettled.new.push((run.id.clone(), scheduled.clone())),
                (None, None) => unsettled.unknown.push(run.id.clone()),
                (Some(_), _) => {}
            }
        }
    }
    let of: BTreeSet<JobId> = unsettled.new.iter().map(|(_, scheduled)| scheduled.job_id).collect();
    let mut having = HashSet::new();
    for some in of.into_iter().collect::<Vec<_>>().chunks(IDS_AT_ONCE) {
        let sql = format!("select job_id from data_job where job_id in ({})", places(some.len()));
        let rows: Vec<(String,)> = on!(tx, c => {
            let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql)).persistent(false);
            for job_id in some {
                statement = statement.bind(job_id.to_string());
            }
            statement.fetch_all(c).await
        })?;
        having.extend(rows.into_iter().map(|(id,)| id));
    }
    let (new, unknown) =
        unsettled.new.into_iter().partition(|(_, scheduled)| having.contains(&scheduled.job_id.to_string()));
    unsettled.new = new;
    let unknown: Vec<(ExecutionId, ScheduledExecution)> = unknown;
    unsettled.unknown.extend(unknown.into_iter().map(|(id, _)| id));
    Ok(unsettled)
}

/// The id of a job's active execution.
pub async fn active_of(tx: &mut Tx, job_id: JobId) -> Result<Option<ExecutionId>> {
    let row: Option<(String,)> = on!(tx, c => sqlx::query_as(
        "select e.execution_id from data_job_execution e join data_job j on j.number = e.job_number
         where j.job_id = $1 and e.status in ('SUBMITTED', 'RUNNING')",
    )
    .bind(job_id.to_string())
    .fetch_optional(c)
    .await)?;
    Ok(row.and_then(|(id,)| ExecutionId::parse(&id)))
}

/// The active executions in the order of their acceptance, at most `limit`. Reads nothing but identifiers and cancellations:
/// many are active at once, and most of them are followed already.
pub async fn active_ids(tx: &mut Tx, limit: i64) -> Result<Vec<ActiveId>> {
    let rows: Vec<(String, Option<i64>)> = on!(tx, c => sqlx::query_as(
        "select execution_id, cancel_requested_at from data_job_execution
         where status in ('SUBMITTED', 'RUNNING') order by submitted_at, execution_id limit $1",
    )
    .bind(limit)
    .fetch_all(c)
    .await)?;
    rows.into_iter()
        .map(|(id, requested_at)| Ok(ActiveId { id: execution_id(&id)?, is_cancelled: requested_at.is_some() }))
        .collect()
}

/// Those of these executions that are active, in the order of their acceptance.
pub async fn active(tx: &mut Tx, ids: &[ExecutionId]) -> Result<Vec<Active>> {
    #[derive(sqlx::FromRow)]
    struct ActiveRow {
        #[sqlx(flatten)]
        execution: ExecutionRow,
        generation: Option<i64>,
        lock_key: Option<String>,
        image: Option<String>,
        leader_epoch: i64,
    }
    let mut active = Vec::with_capacity(ids.len());
    for some in ids.chunks(IDS_AT_ONCE) {
        // No revision is read before it is needed.
        let sql = format!(
            "select {COLUMNS}, cast(null as text) as revision, e.generation, e.lock_key, e.image, e.leader_epoch
             from data_job_execution e join data_job j on j.number = e.job_number
             where e.execution_id in ({}) and e.status in ('SUBMITTED', 'RUNNING')",
            places(some.len())
        );
        let rows: Vec<ActiveRow> = on!(tx, c => {
            let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql)).persistent(false);
            for id in some {
                statement = statement.bind(id.as_str());
            }
            statement.fetch_all(c).await
        })?;
        for ActiveRow { execution, generation, lock_key, image, leader_epoch } in rows {
            let dispatched = generation
                .zip(artifact::of_columns(lock_key, image))
                .map(|(generation, artifact)| Dispatched { generation, artifact });
            let execution = execution.execution(&mut Revisions::default())?;
            active.push(Active { execution, dispatched, epoch: Epoch(leader_epoch) });
        }
    }
    active.sort_by(|one, other| {
        let key = |run: &Active| run.execution.submitted_at;
        key(one).cmp(&key(other)).then_with(|| one.execution.id.as_str().cmp(other.execution.id.as_str()))
    });
    Ok(active)
}

/// Whether a tick of a job is recorded as a run.
pub async fn tick_recorded(tx: &mut Tx, job_id: JobId, tick: Timestamp) -> Result<bool> {
    let row: Option<(i64,)> = on!(tx, c => sqlx::query_as(
        "select e.submitted_at from data_job_execution e join data_job j on j.number = e.job_number
         where j.job_id = $1 and e.scheduled_tick = $2",
    )
    .bind(job_id.to_string())
    .bind(micros(tick))
    .fetch_optional(c)
    .await)?;
    Ok(row.is_some())
}

/// How many runs are in each active status.
pub async fn active_counts(tx: &mut Tx) -> Result<Vec<(Status, i64)>> {
    let rows: Vec<(String, i64)> = on!(tx, c => sqlx::query_as(
        "select status, count(*) from data_job_execution where status in ('SUBMITTED', 'RUNNING') group by status",
    )
    .fetch_all(c)
    .await)?;
    rows.into_iter()
        .map(|(status, count)| Ok((Status::parse(&status).ok_or_else(|| corrupt("an execution status"))?, count)))
        .collect()
}
