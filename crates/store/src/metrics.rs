//! The state of all live jobs at once, for metrics.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::TryStreamExt;
use model::{execution::Status, job::Contacts, name::JobId, rollout::Status as DeploymentStatus};

use crate::{
    codec::{self, from_json},
    db::{Tx, on},
    error::{Result, StoreError, corrupt},
};

/// A live job with the fields of its metrics. There may be a hundred thousand in memory, so they share equal values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedJob {
    /// The key of its rows.
    pub id: JobId,
    /// Its name.
    pub name: Box<str>,
    /// Its team.
    pub team: Arc<str>,
    /// The recipients of its notifications; empty when its notifications are off.
    pub contacts: Arc<Contacts>,
    /// How long after a tick a missing start is reported, in minutes.
    pub notification_delay_minutes: i64,
    /// How its last rollout went.
    pub deployment: DeploymentStatus,
    /// The run that speaks for it.
    pub run: Option<WatchedRun>,
}

/// The run that represents a job: the active one, or the one that ended last and was not skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedRun {
    /// Its id.
    pub id: Box<str>,
    /// Its status, which is never SKIPPED.
    pub status: Status,
}

#[derive(sqlx::FromRow)]
struct JobRow {
    job_id: String,
    name: String,
    team: String,
    contacts: String,
    enable_execution_notifications: bool,
    notification_delay_period_minutes: i64,
    deployment_status: String,
    last_execution_id: Option<String>,
    last_execution_status: Option<String>,
}

/// Values that several jobs share.
#[derive(Debug, Default)]
struct Shared {
    teams: HashSet<Arc<str>>,
    contacts: HashMap<String, Arc<Contacts>>,
    nobody: Arc<Contacts>,
}

impl Shared {
    fn team(&mut self, team: &str) -> Arc<str> {
        if let Some(known) = self.teams.get(team) {
            return Arc::clone(known);
        }
        let team = Arc::<str>::from(team);
        self.teams.insert(Arc::clone(&team));
        team
    }

    fn contacts(&mut self, row: &JobRow) -> Result<Arc<Contacts>> {
        if !row.enable_execution_notifications {
            return Ok(Arc::clone(&self.nobody));
        }
        if let Some(known) = self.contacts.get(&row.contacts) {
            return Ok(Arc::clone(known));
        }
        let contacts: Arc<Contacts> = Arc::new(from_json("the contacts of a job", &row.contacts)?);
        self.contacts.insert(row.contacts.clone(), Arc::clone(&contacts));
        Ok(contacts)
    }
}

/// Shows whether jobs may have changed since they were read. It is cheap to read where they have not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPosition {
    totals: Totals,
    /// The run in progress of each job that has one, with its status.
    active: HashMap<String, (String, String)>,
}

/// Sums over all live jobs, as text: each change of one of them moves one. Instants are taken by their remainders, so that the
/// sums stay small; a status weighs differently in each job, so that two that change places are seen.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Totals {
    jobs: i64,
    definitions: String,
    outcomes: String,
    deployments: String,
}

const TOTALS: &str = "select count(*) as jobs,
        cast(coalesce(sum(updated_at % 1000003 + row_version), 0) as text) as definitions,
        cast(coalesce(sum(last_execution_end % 1000003 + successful_executions + 3 * failed_executions), 0) as text) as outcomes,
        cast(coalesce(sum((created_at % 1000003 + 1) * case deployment_status
            when 'NONE' then 0 when 'SUCCESS' then 1 when 'USER_ERROR' then 2 else 3 end), 0) as text) as deployments
     from data_job where deleted_at is null";

/// Every live job in the order of the ids, from one state of the database, and the position of that state. `None` when it is
/// at the position `known`. Rows are read one by one. The job's row has its last run, so that it outlives the run's own row.
pub async fn jobs(tx: &mut Tx, known: Option<&ReadPosition>) -> Result<Option<(Vec<WatchedJob>, ReadPosition)>> {
    let totals: Totals = on!(&mut *tx, c => sqlx::query_as(TOTALS).fetch_one(c).await)?;
    let active = by_job(on!(&mut *tx, c => sqlx::query_as(
        "select j.job_id, e.execution_id, e.status from data_job_execution e join data_job j on j.number = e.job_number
         where e.holds_slot and e.status in ('SUBMITTED', 'RUNNING')",
    )
    .fetch_all(c)
    .await)?);
    let position = ReadPosition { totals, active };
    if known == Some(&position) {
        return Ok(None);
    }
    let mut before = before_skipped(tx).await?;
    let mut shared = Shared::default();
    let mut watched = |row: JobRow| {
        let is_skipped = row.last_execution_status.as_deref() == Some(Status::Skipped.as_str());
        let last = match position.active.get(&row.job_id) {
            Some(run) => Some(run.clone()),
            None if is_skipped => before.remove(&row.job_id),
            None => row.last_execution_id.clone().zip(row.last_execution_status.clone()),
        };
        let run = last
            .map(|(id, status)| {
                let status = Status::parse(&status).ok_or_else(|| corrupt("an execution status"))?;
                Ok::<_, StoreError>(WatchedRun { id: id.into(), status })
            })
            .transpose()?;
        Ok(WatchedJob {
            id: codec::job_id(&row.job_id)?,
            team: shared.team(&row.team),
            contacts: shared.contacts(&row)?,
            notification_delay_minutes: row.notification_delay_period_minutes,
            deployment: DeploymentStatus::parse(&row.deployment_status)
                .ok_or_else(|| corrupt("a deployment status"))?,
            name: row.name.into(),
            run,
        })
    };
    let (mut jobs, mut problem) = (Vec::new(), None);
    on!(tx, c => {
        let mut rows = sqlx::query_as::<_, JobRow>(
            "select job_id, name, team, contacts, enable_execution_notifications, notification_delay_period_minutes,
                deployment_status, last_execution_id, last_execution_status
             from data_job where deleted_at is null",
        )
        .fetch(c);
        loop {
            match rows.try_next().await {
                Ok(Some(row)) => match watched(row) {
                    Ok(job) => jobs.push(job),
                    Err(error) => {
                        problem = Some(error);
                        break Ok(());
                    }
                },
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        }
    })?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    jobs.sort_unstable_by_key(|job: &WatchedJob| job.id);
    jobs.shrink_to_fit();
    Ok(Some((jobs, position)))
}

/// Of each job whose last run stepped aside, the last one that did not.
async fn before_skipped(tx: &mut Tx) -> Result<HashMap<String, (String, String)>> {
    Ok(by_job(on!(tx, c => sqlx::query_as(
        "select j.job_id, e.execution_id, e.status from data_job j
         join data_job_execution e on e.execution_id = (
            select x.execution_id from data_job_execution x
            where x.job_number = j.number and x.ended_at is not null and x.status <> 'SKIPPED'
            order by x.start_at desc, x.execution_id desc limit 1)
         where j.deleted_at is null and j.last_execution_status = 'SKIPPED'",
    )
    .fetch_all(c)
    .await)?))
}

fn by_job(rows: Vec<(String, String, String)>) -> HashMap<String, (String, String)> {
    rows.into_iter().map(|(job_id, id, status)| (job_id, (id, status))).collect()
}
