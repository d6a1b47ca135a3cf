//! The desired state of each deployment, and the progress of its rollout.

use jiff::{SignedDuration, Timestamp};
use model::{
    Problem,
    artifact::{Artifact, LastApplied},
    deployment::{Deployment, Mode},
    name::{JobId, JobName, TeamName},
    plan,
    python::PythonVersion,
    resources::Resources,
    rollout::{Rollout, Status},
    source::SourceVersion,
};

use crate::{
    artifact,
    codec::{self, from_json, instant, instant_opt, micros, to_json},
    db::{Tx, metered_rows, on},
    dialect::Dialect,
    error::{Result, StoreError, corrupt},
    leases::{self, Epoch},
    meter::{RowBytes, bytes_of_json},
    sql::places,
};

#[derive(sqlx::FromRow)]
struct DeploymentRow {
    job_id: String,
    generation: i64,
    job_version: String,
    python_version_asked: Option<String>,
    python_version: String,
    vdk_version_asked: Option<String>,
    vdk_version: String,
    enabled: bool,
    mode: String,
    cpu_request: Option<f64>,
    cpu_limit: Option<f64>,
    memory_request_mi: Option<i64>,
    memory_limit_mi: Option<i64>,
    schedule_cron: Option<String>,
    schedule_since: i64,
    contacts: String,
    db_default_type: Option<String>,
    enable_execution_notifications: bool,
    deployed_by: String,
    deployed_at: i64,
}

const COLUMNS: &str = "d.job_id, d.generation, d.job_version, d.python_version_asked, d.python_version,
    d.vdk_version_asked, d.vdk_version, d.enabled, d.mode, d.cpu_request, d.cpu_limit, d.memory_request_mi,
    d.memory_limit_mi, d.schedule_cron, d.schedule_since, d.contacts, d.db_default_type,
    d.enable_execution_notifications, d.deployed_by, d.deployed_at";

impl TryFrom<DeploymentRow> for Deployment {
    type Error = StoreError;

    fn try_from(row: DeploymentRow) -> Result<Self> {
        let python = |text: &str| text.parse().map_err(|_| corrupt("a Python version"));
        let mebibytes = |amount: Option<i64>| {
            amount.map(|mi| i32::try_from(mi).map_err(|_| corrupt("an amount of memory"))).transpose()
        };
        Ok(Self {
            job_id: codec::job_id(&row.job_id)?,
            generation: row.generation,
            job_version: SourceVersion::parse(&row.job_version).map_err(|_| corrupt("a job version"))?,
            python_version_asked: row.python_version_asked.as_deref().map(python).transpose()?,
            python_version: python(&row.python_version)?,
            vdk_version_asked: row.vdk_version_asked,
            vdk_version: row.vdk_version,
            enabled: row.enabled,
            mode: Mode::parse(&row.mode).ok_or_else(|| corrupt("a mode"))?,
            resources: Resources {
                cpu_request: row.cpu_request,
                cpu_limit: row.cpu_limit,
                memory_request_mi: mebibytes(row.memory_request_mi)?,
                memory_limit_mi: mebibytes(row.memory_limit_mi)?,
            },
            schedule_cron: row.schedule_cron,
            schedule_since: instant(row.schedule_since)?,
            contacts: from_json("the contacts of a deployment", &row.contacts)?,
            db_default_type: row.db_default_type,
            enable_execution_notifications: row.enable_execution_notifications,
            deployed_by: row.deployed_by,
            deployed_at: instant(row.deployed_at)?,
        })
    }
}

/// The desired deployment of a job. `None` when there is none, or when it was removed.
pub async fn find(tx: &mut Tx, job_id: JobId) -> Result<Option<Deployment>> {
    let sql = format!("select {COLUMNS} from deployment d where d.job_id = $1 and d.removed_at is null");
    let row: Option<DeploymentRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(job_id.to_string())
        .fetch_optional(c)
        .await)?;
    row.map(Deployment::try_from).transpose()
}

/// Makes this generation the desired one and the rollout due. A tick that waits is dropped when the schedule or the
/// switch changed, because it was due under the old ones.
///
/// `op_id` names the request that it came to be by.
pub async fn replace(tx: &mut Tx, d: &Deployment, op_id: &str, now: Timestamp) -> Result<()> {
    on!(tx, c => sqlx::query(
        "insert into deployment (job_id, generation, job_version, python_version_asked, python_version,
            vdk_version_asked, vdk_version, enabled, mode, cpu_request, cpu_limit, memory_request_mi, memory_limit_mi,
            schedule_cron, schedule_since, contacts, db_default_type, enable_execution_notifications, deployed_by,
            deployed_at, removed_at, pending_tick, op_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, null, null,
            $21)
         on conflict (job_id) do update set generation = excluded.generation, job_version = excluded.job_version,
            python_version_asked = excluded.python_version_asked, python_version = excluded.python_version,
            vdk_version_asked = excluded.vdk_version_asked, vdk_version = excluded.vdk_version,
            enabled = excluded.enabled, mode = excluded.mode, cpu_request = excluded.cpu_request,
            cpu_limit = excluded.cpu_limit, memory_request_mi = excluded.memory_request_mi,
            memory_limit_mi = excluded.memory_limit_mi, schedule_cron = excluded.schedule_cron,
            schedule_since = excluded.schedule_since, contacts = excluded.contacts,
            db_default_type = excluded.db_default_type,
            enable_execution_notifications = excluded.enable_execution_notifications,
            deployed_by = excluded.deployed_by, deployed_at = excluded.deployed_at, removed_at = null,
            op_id = excluded.op_id,
            pending_tick = case when deployment.schedule_since = excluded.schedule_since
                then deployment.pending_tick end",
    )
    .bind(d.job_id.to_string())
    .bind(d.generation)
    .bind(d.job_version.as_str())
    .bind(d.python_version_asked.map(|v| v.to_string()))
    .bind(d.python_version.to_string())
    .bind(&d.vdk_version_asked)
    .bind(&d.vdk_version)
    .bind(d.enabled)
    .bind(d.mode.as_str())
    .bind(d.resources.cpu_request)
    .bind(d.resources.cpu_limit)
    .bind(d.resources.memory_request_mi.map(i64::from))
    .bind(d.resources.memory_limit_mi.map(i64::from))
    .bind(&d.schedule_cron)
    .bind(micros(d.schedule_since))
    .bind(to_json(&d.contacts))
    .bind(&d.db_default_type)
    .bind(d.enable_execution_notifications)
    .bind(&d.deployed_by)
    .bind(micros(d.deployed_at))
    .bind(op_id)
    .execute(c)
    .await
    .map(drop))?;
    be_due(tx, d.job_id, now).await
}

/// The request by which a generation of a deployment was removed or came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its sender.
    pub by: &'a str,
    /// Its operation id.
    pub op_id: &'a str,
}

/// Turns the deployment into a tombstone that the synchronizer carries out. `false` when there was none.
pub async fn remove(tx: &mut Tx, job_id: JobId, generation: i64, request: Request<'_>, now: Timestamp) -> Result<bool> {
    if !withdraw(tx, job_id, generation, request, now).await? {
        return Ok(false);
    }
    on!(tx, c => sqlx::query(
        "update data_job set deployment_status = 'NONE', deployment_enabled = null, deployment_python = null
         where job_id = $1",
    )
    .bind(job_id.to_string())
    .execute(c)
    .await
    .map(drop))?;
    crate::jobs::index_python(tx, &job_id.to_string(), None).await?;
    Ok(true)
}

/// As [`remove`], of a job that is deleted with it: the row of the job is left to [`crate::jobs::delete`].
pub async fn withdraw(
    tx: &mut Tx,
    job_id: JobId,
    generation: i64,
    Request { by, op_id }: Request<'_>,
    now: Timestamp,
) -> Result<bool> {
    let done = on!(tx, c => sqlx::query(
        "update deployment set removed_at = $2, generation = $3, deployed_by = $4, op_id = $5, pending_tick = null
         where job_id = $1 and removed_at is null",
    )
    .bind(job_id.to_string())
    .bind(micros(now))
    .bind(generation)
    .bind(by)
    .bind(op_id)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    if done == 0 {
        return Ok(false);
    }
    be_due(tx, job_id, now).await?;
    Ok(true)
}

/// Since when a rollout is due: `due_at` is 0 when it was made due at once, whichever clock the leader has.
const DUE_SINCE: &str = "case when r.due_at = 0 then coalesce(r.asked_at, 0) else r.due_at end";

/// Asks the synchronizer to reconcile a deployment at once, and once more if that is in progress: its result may be older than
/// the reason to ask. `now` is for the order of those that wait, and for metrics.
pub async fn make_due(tx: &mut Tx, job_id: JobId, now: Timestamp) -> Result<()> {
    on!(tx, c => sqlx::query("update rollout set row_version = row_version + 1 where job_id = $1")
        .bind(job_id.to_string())
        .execute(c)
        .await
        .map(drop))?;
    be_due(tx, job_id, now).await
}

/// Makes a deployment due. The result of the reconciliation of an older generation is recorded nevertheless.
async fn be_due(tx: &mut Tx, job_id: JobId, now: Timestamp) -> Result<()> {
    on!(tx, c => sqlx::query(
        "insert into rollout (job_id, status, attempts, due_at, asked_at, leader_epoch, row_version)
         values ($1, 'NONE', 0, 0, $2, 0, 1)
         on conflict (job_id) do update set due_at = 0, asked_at = excluded.asked_at",
    )
    .bind(job_id.to_string())
    .bind(micros(now))
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// By which request a generation of a deployment came to be, or was removed. `None` when it is not the desired one, or that was
/// not kept.
pub async fn op_id(tx: &mut Tx, job_id: JobId, generation: i64) -> Result<Option<String>> {
    let row: Option<(Option<String>,)> = on!(tx, c => sqlx::query_as(
        "select op_id from deployment where job_id = $1 and generation = $2",
    )
    .bind(job_id.to_string())
    .bind(generation)
    .fetch_optional(c)
    .await)?;
    Ok(row.and_then(|(op_id,)| op_id))
}

/// Retries a rollout that waits for its next attempt now, because the obstacle may be gone.
pub async fn retry(tx: &mut Tx, job_id: JobId, now: Timestamp) -> Result<()> {
    on!(tx, c => sqlx::query(
        "update rollout set retry_at = $2, due_at = $2
         where job_id = $1 and status = 'PLATFORM_ERROR' and due_at > $2",
    )
    .bind(job_id.to_string())
    .bind(micros(now))
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// The longest after which [`retry_spread`] has a rollout tried.
pub const SPREAD_MAX: SignedDuration = SignedDuration::from_secs(32);

/// Retries every rollout that waits for its next attempt soon, because its dependency is back. Each gets its part of
/// [`SPREAD_MAX`] by the first digits of its job's identifier, which are random, so that not all come at once.
pub async fn retry_spread(tx: &mut Tx, now: Timestamp) -> Result<u64> {
    let position = match tx.dialect() {
        Dialect::Sqlite => "instr",
        Dialect::Postgres => "strpos",
    };
    let digit = |at: u8| format!("({position}('0123456789abcdef', substr(job_id, {at}, 1)) - 1)");
    let at = format!("($1 + ({} * 16 + {}) * $2)", digit(1), digit(2));
    let sql =
        format!("update rollout set retry_at = {at}, due_at = {at} where status = 'PLATFORM_ERROR' and due_at > {at}");
    on!(tx, c => sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(micros(now))
        .bind(i64::try_from(SPREAD_MAX.as_micros()).unwrap_or_default() / 256)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(Into::into)
}

const ROLLOUT_COLUMNS: &str =
    "r.reached_generation, r.inputs_hash, r.lock_key, r.image, r.mark, r.reached_at, r.status,
    r.tried_generation, r.tried_inputs_hash, r.problem, r.attempts, r.retry_at, r.row_version";

#[derive(sqlx::FromRow)]
struct RolloutRow {
    reached_generation: Option<i64>,
    inputs_hash: Option<String>,
    lock_key: Option<String>,
    image: Option<String>,
    mark: Option<String>,
    reached_at: Option<i64>,
    status: String,
    tried_generation: Option<i64>,
    tried_inputs_hash: Option<String>,
    problem: Option<String>,
    attempts: i64,
    retry_at: Option<i64>,
    row_version: i64,
}

impl TryFrom<RolloutRow> for Rollout {
    type Error = StoreError;

    fn try_from(row: RolloutRow) -> Result<Self> {
        Ok(Self {
            reached_generation: row.reached_generation,
            inputs_hash: row.inputs_hash,
            artifact: artifact::of_columns(row.lock_key, row.image),
            last_applied: row.mark.map(LastApplied::new),
            reached_at: instant_opt(row.reached_at)?,
            status: Status::parse(&row.status).ok_or_else(|| corrupt("a rollout status"))?,
            tried_generation: row.tried_generation,
            tried_inputs_hash: row.tried_inputs_hash,
            problem: row.problem.map(|p| from_json("the problem of a rollout", &p)).transpose()?,
            attempts: i32::try_from(row.attempts).unwrap_or(i32::MAX),
            retry_at: instant_opt(row.retry_at)?,
            row_version: row.row_version,
        })
    }
}

/// How far a job's rollout got; absent before its first deployment.
pub async fn rollout(tx: &mut Tx, job_id: JobId) -> Result<Option<Rollout>> {
    let row: Option<RolloutRow> = on!(tx, c => sqlx::query_as(
        sqlx::AssertSqlSafe(format!("select {ROLLOUT_COLUMNS} from rollout r where r.job_id = $1")),
    )
    .bind(job_id.to_string())
    .fetch_optional(c)
    .await)?;
    row.map(Rollout::try_from).transpose()
}

/// The deployments to reconcile now: of each team the longest due first, the teams in turn, so that
/// one team's thousand don't delay the one of another. Those whose build is queued or running are left out. A due
/// time further away than any retry was written by a wrong clock, and counts as now.
pub async fn due(tx: &mut Tx, now: Timestamp, limit: i64) -> Result<Vec<JobId>> {
    let sql = format!(
        "select job_id from (
            select job_id, since, row_number() over (partition by team order by since, job_id) as turn from (
                select r.job_id, j.team, {DUE_SINCE} as since
                from rollout r join data_job j on j.job_id = r.job_id
                where r.due_at is not null and (r.due_at <= $1 or r.due_at > $2) and not exists (
                    select 1 from build b join deployment d on d.job_id = r.job_id
                    where b.build_key = r.build_key and b.state in ('QUEUED', 'RUNNING')
                        and d.generation = r.build_generation)) s) p
         order by turn, since, job_id limit $3"
    );
    let rows: Vec<(String,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
    .bind(micros(now))
    .bind(micros(now + plan::RETRY_WAIT_MAX))
    .bind(limit)
    .fetch_all(c)
    .await)?;
    rows.iter().map(|(id,)| codec::job_id(id)).collect()
}

/// When the next deployment is due after `now`.
pub async fn next_due(tx: &mut Tx, now: Timestamp) -> Result<Option<Timestamp>> {
    let (at,): (Option<i64>,) = on!(tx, c => sqlx::query_as(
        "select min(due_at) from rollout where due_at is not null and due_at > $1",
    )
    .bind(micros(now))
    .fetch_one(c)
    .await)?;
    instant_opt(at)
}

/// How many deployments are due, and since when the one that waits longest.
pub async fn backlog(tx: &mut Tx, now: Timestamp) -> Result<(i64, Option<Timestamp>)> {
    let sql = format!("select count(*), min({DUE_SINCE}) from rollout r where r.due_at is not null and r.due_at <= $1");
    let (count, oldest): (i64, Option<i64>) = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
    .bind(micros(now))
    .fetch_one(c)
    .await)?;
    Ok((count, instant_opt(oldest)?))
}

/// All that a plan needs to know of one deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The job's name.
    pub job_name: JobName,
    /// The job's team.
    pub team: TeamName,
    /// The name of the secret with the team's OAuth application, as soon as the team was given one.
    pub team_secret: Option<String>,
    /// The desired deployment, or the last one if it was removed.
    pub deployment: Deployment,
    /// Whether it was removed.
    pub removed: bool,
    /// How far the rollout got.
    pub rollout: Rollout,
    /// The job's requirements at the desired version.
    pub requirements: Option<String>,
}

/// Loads the work on one deployment. `None` when nothing is left of it.
pub async fn work(tx: &mut Tx, job_id: JobId) -> Result<Option<Work>> {
    let sql = format!("select {COLUMNS} from deployment d where d.job_id = $1");
    let row: Option<DeploymentRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(job_id.to_string())
        .fetch_optional(c)
        .await)?;
    let Some(deployment) = row.map(Deployment::try_from).transpose()? else { return Ok(None) };
    let (name, team, team_secret, removed): (String, String, Option<String>, bool) = on!(tx, c => sqlx::query_as(
        "select j.name, j.team, t.name, d.removed_at is not null
         from data_job j join deployment d on d.job_id = j.job_id left join team_secret t on t.team = j.team
         where j.job_id = $1",
    )
    .bind(job_id.to_string())
    .fetch_one(c)
    .await)?;
    let source = crate::sources::find(tx, job_id, &deployment.job_version).await?;
    Ok(Some(Work {
        job_name: JobName::parse(&name).map_err(|_| corrupt("a job name"))?,
        team: TeamName::parse(&team).map_err(|_| corrupt("a team name"))?,
        team_secret,
        deployment,
        removed,
        rollout: rollout(tx, job_id).await?.unwrap_or_default(),
        requirements: source.map(|s| s.requirements),
    }))
}

#[derive(sqlx::FromRow)]
struct WorkRow {
    #[sqlx(flatten)]
    deployment: DeploymentRow,
    #[sqlx(flatten)]
    rollout: RolloutRow,
    job_name: String,
    team: String,
    team_secret: Option<String>,
    removed: bool,
    due_at: Option<i64>,
}

const WORK: &str = "j.name as job_name, j.team, t.name as team_secret, d.removed_at is not null as removed, r.due_at
    from deployment d join rollout r on r.job_id = d.job_id join data_job j on j.job_id = d.job_id
    left join team_secret t on t.team = j.team";

impl TryFrom<WorkRow> for Work {
    type Error = StoreError;

    fn try_from(row: WorkRow) -> Result<Self> {
        Ok(Self {
            job_name: JobName::parse(&row.job_name).map_err(|_| corrupt("a job name"))?,
            team: TeamName::parse(&row.team).map_err(|_| corrupt("a team name"))?,
            team_secret: row.team_secret,
            deployment: row.deployment.try_into()?,
            removed: row.removed,
            rollout: row.rollout.try_into()?,
            requirements: None,
        })
    }
}

/// The work on the deployments that are not due, in the order of their ids, after that one; without requirements. Removed
/// ones are among them.
pub async fn page_of_work(tx: &mut Tx, after: Option<JobId>, limit: i64) -> Result<Vec<Work>> {
    let sql = format!(
        "select {COLUMNS}, {ROLLOUT_COLUMNS}, {WORK}
         where r.due_at is null and d.job_id > $1 order by d.job_id limit $2"
    );
    let rows: Vec<WorkRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(limit)
        .fetch_all(c)
        .await)?;
    rows.into_iter().map(Work::try_from).collect()
}

/// The work on the deployments of jobs of these names, at most 500, without requirements; and when each is due. Names of no
/// job are passed over.
pub async fn work_of_names(tx: &mut Tx, names: &[String]) -> Result<Vec<(Work, Option<Timestamp>)>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("select {COLUMNS}, {ROLLOUT_COLUMNS}, {WORK} where j.name in ({})", places(names.len()));
    let rows: Vec<WorkRow> = on!(tx, c => {
        let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql));
        for name in names {
            statement = statement.bind(name.as_str());
        }
        statement.fetch_all(c).await
    })?;
    rows.into_iter()
        .map(|row| {
            let due_at = instant_opt(row.due_at)?;
            Ok((row.try_into()?, due_at))
        })
        .collect()
}

/// The outcome of one reconciliation of a deployment.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// This generation runs.
    Reached {
        /// The hash of all that went into it.
        inputs_hash: String,
        /// Its artifact.
        artifact: Artifact,
        /// The state that the runtime returned when it applied the deployment.
        last_applied: Option<LastApplied>,
    },
    /// The deployed revision is as it should be again, after it was recreated.
    Restored {
        /// The state that the runtime returned when it applied the deployment.
        last_applied: Option<LastApplied>,
        /// When the next look is due.
        next: Option<Timestamp>,
    },
    /// It could not be reached.
    Failed {
        /// The hash of all that went into the try.
        inputs_hash: String,
        /// The fault, its cause, and the remedy.
        problem: Problem,
        /// When the next try is due; absent when a change is awaited.
        retry_at: Option<Timestamp>,
    },
    /// Nothing was done, and the next look is due then (absent: when something changes).
    Unchanged(Option<Timestamp>),
}

/// Records the outcome of reconciling a deployment, under the leader's epoch and against the rollout row that was read.
///
/// The deployment stays due if a request or [`make_due`] came in the meantime. A write to the runtime
/// ([`Outcome::Reached`], [`Outcome::Restored`]) is a fact and is recorded even then: without its last applied state, the next
/// comparison finds drift in the new object and writes it once more. Other outcomes are discarded, and `false` is returned.
pub async fn record(tx: &mut Tx, epoch: Epoch, work: &Work, outcome: &Outcome, now: Timestamp) -> Result<bool> {
    leases::fence(tx, epoch).await?;
    crate::jobs::lock(tx, work.deployment.job_id).await?;
    let (job_id, generation) = (work.deployment.job_id.to_string(), work.deployment.generation);
    // A change that was accepted during the reconciliation has a higher generation and keeps the row due.
    let due = match outcome {
        Outcome::Reached { .. } => None,
        Outcome::Failed { retry_at, .. } => *retry_at,
        Outcome::Unchanged(at) | Outcome::Restored { next: at, .. } => *at,
    };
    let is_written = matches!(outcome, Outcome::Reached { .. } | Outcome::Restored { .. });
    let recorded = on!(tx, c => sqlx::query(
        "update rollout set leader_epoch = $2, row_version = row_version + 1,
            due_at = case when row_version = $5
                    and (select generation from deployment d where d.job_id = rollout.job_id) = $3
                then cast($4 as bigint) else due_at end
         where job_id = $1 and (row_version = $5 or $6) and leader_epoch <= $2",
    )
    .bind(&job_id)
    .bind(epoch.0)
    .bind(generation)
    .bind(due.map(micros))
    .bind(work.rollout.row_version)
    .bind(is_written)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    if recorded == 0 {
        return Ok(false);
    }
    match outcome {
        Outcome::Unchanged(_) => {}
        Outcome::Restored { last_applied, .. } => {
            on!(tx, c => sqlx::query("update rollout set mark = $2 where job_id = $1")
                .bind(&job_id)
                .bind(last_applied.as_ref().map(LastApplied::as_str))
                .execute(c)
                .await
                .map(drop))?;
        }
        Outcome::Reached { inputs_hash, artifact, last_applied } => {
            let (lock_key, image) = artifact::columns(artifact);
            on!(tx, c => sqlx::query(
                "update rollout set reached_generation = $2, inputs_hash = $3, lock_key = $4, reached_at = $5,
                    status = 'SUCCESS', tried_generation = $2, tried_inputs_hash = $3, problem = null, attempts = 0,
                    retry_at = null, image = $6, mark = $7
                 where job_id = $1",
            )
            .bind(&job_id)
            .bind(generation)
            .bind(inputs_hash)
            .bind(lock_key)
            .bind(micros(now))
            .bind(image)
            .bind(last_applied.as_ref().map(LastApplied::as_str))
            .execute(c)
            .await
            .map(drop))?;
            on!(tx, c => sqlx::query(
                "update data_job set deployment_status = 'SUCCESS', deployment_enabled = $2, deployment_python = $3
                 where job_id = $1",
            )
            .bind(&job_id)
            .bind(work.deployment.enabled)
            .bind(work.deployment.python_version.to_string())
            .execute(c)
            .await
            .map(drop))?;
            crate::jobs::index_python(tx, &job_id, Some(work.deployment.python_version.to_string())).await?;
        }
        Outcome::Failed { inputs_hash, problem, retry_at } => {
            let status = match problem.fault {
                model::problem::Fault::User => Status::UserError,
                model::problem::Fault::Platform => Status::PlatformError,
            };
            on!(tx, c => sqlx::query(
                "update rollout set status = $2, attempts = case when tried_inputs_hash = $3 then attempts + 1 else 1 end,
                    tried_inputs_hash = $3, problem = $4, retry_at = $5, tried_generation = $6
                 where job_id = $1",
            )
            .bind(&job_id)
            .bind(status.as_str())
            .bind(inputs_hash)
            .bind(to_json(problem))
            .bind(retry_at.map(micros))
            .bind(generation)
            .execute(c)
            .await
            .map(drop))?;
            on!(tx, c => sqlx::query("update data_job set deployment_status = $2 where job_id = $1")
                .bind(&job_id)
                .bind(status.as_str())
                .execute(c)
                .await
                .map(drop))?;
        }
    }
    Ok(true)
}

/// Drops the tombstone of a removed deployment when all of it is gone, unless it was deployed again meanwhile.
pub async fn record_removed(tx: &mut Tx, epoch: Epoch, work: &Work) -> Result<bool> {
    leases::fence(tx, epoch).await?;
    crate::jobs::lock(tx, work.deployment.job_id).await?;
    let job_id = work.deployment.job_id.to_string();
    let done = on!(tx, c => sqlx::query(
        "delete from deployment where job_id = $1 and removed_at is not null and generation = $2",
    )
    .bind(&job_id)
    .bind(work.deployment.generation)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    if done == 1 {
        on!(tx, c => sqlx::query("delete from rollout where job_id = $1").bind(&job_id).execute(c).await.map(drop))?;
    }
    Ok(done == 1)
}

/// How many deployments are removed and not gone yet, and how many there are with them.
pub async fn removals(tx: &mut Tx) -> Result<(i64, i64)> {
    on!(tx, c => sqlx::query_as(
        "select (select count(*) from deployment where removed_at is not null), (select count(*) from deployment)",
    )
    .fetch_one(c)
    .await)
    .map_err(Into::into)
}

/// Those of these jobs, at most 500, that have a deployment or one that is removed and not gone yet.
pub async fn having(tx: &mut Tx, jobs: &[JobId]) -> Result<Vec<JobId>> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("select job_id from deployment where job_id in ({})", places(jobs.len()));
    let rows: Vec<(String,)> = on!(tx, c => {
        let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql));
        for job_id in jobs {
            statement = statement.bind(job_id.to_string());
        }
        statement.fetch_all(c).await
    })?;
    rows.iter().map(|(id,)| codec::job_id(id)).collect()
}

/// Since when a deployment has been due. `None` when it is not.
pub async fn due_since(tx: &mut Tx, job_id: JobId) -> Result<Option<Timestamp>> {
    let sql = format!("select {DUE_SINCE} from rollout r where r.job_id = $1");
    let row: Option<(Option<i64>,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(job_id.to_string())
        .fetch_optional(c)
        .await)?;
    instant_opt(row.and_then(|(at,)| at))
}

/// A deployed revision, with the last outcome of its rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Reached {
    /// The generation that runs.
    pub deployment: Deployment,
    /// The last outcome of the rollout, which may speak of a later generation.
    pub status: Status,
}

#[derive(sqlx::FromRow)]
struct ReachedRow {
    content: String,
    status: String,
}

impl RowBytes for ReachedRow {
    fn text_bytes(&self) -> usize {
        bytes_of_json(&self.content)
    }
}

/// The deployed revisions of a page of jobs, removed ones left out.
pub async fn reached(tx: &mut Tx, jobs: &[JobId]) -> Result<Vec<Reached>> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "select v.content, r.status from rollout r
         join deployment d on d.job_id = r.job_id and d.removed_at is null
         join deployment_revision v on v.job_id = r.job_id and v.generation = r.reached_generation
         where r.job_id in ({})",
        places(jobs.len())
    );
    let rows = metered_rows!(tx, {
        let mut statement = sqlx::query_as::<_, ReachedRow>(sqlx::AssertSqlSafe(sql));
        for id in jobs {
            statement = statement.bind(id.to_string());
        }
        statement
    })?;
    rows.into_iter()
        .map(|ReachedRow { content, status }| {
            Ok(Reached {
                deployment: from_json("a revision", &content)?,
                status: Status::parse(&status).ok_or_else(|| corrupt("a rollout status"))?,
            })
        })
        .collect()
}

/// How much of a deployment a page of jobs has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeploymentDetail {
    /// The members of [`Deployed`] alone.
    Brief,
    /// All of it.
    Whole,
}

/// A reached deployment on a page of jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployed {
    /// The last outcome of the rollout, which may speak of a later generation.
    pub status: Status,
    /// Whether its schedule starts executions.
    pub enabled: bool,
    /// Its Python version.
    pub python_version: PythonVersion,
    /// When it was asked for.
    pub deployed_at: Timestamp,
    /// The user who deployed it.
    pub deployed_by: String,
    /// All of it; present if that was asked for.
    pub whole: Option<Box<Deployment>>,
}

/// Begins the members of a deployment that are not JSON.
const BRIEF: char = '+';

/// The reached deployment of a job as `j`, packed into a text: its status, and its content as JSON or a part of that.
pub(crate) fn of_page(detail: DeploymentDetail) -> String {
    let content = "(select v.content from deployment_revision v
        where v.job_id = r.job_id and v.generation = r.reached_generation)";
    let content = match detail {
        DeploymentDetail::Whole => content.to_owned(),
        // The desired deployment is nearly always the reached one, and no JSON.
        DeploymentDetail::Brief => format!(
            "case when r.reached_generation = d.generation
             then '{BRIEF}' || case when d.enabled then '1' else '0' end || ' ' || d.python_version || ' ' || d.deployed_at
                || ' ' || d.deployed_by
             else {content} end"
        ),
    };
    format!(
        "select r.status || ' ' || {content} from rollout r join deployment d on d.job_id = r.job_id
         where r.job_id = j.job_id and d.removed_at is null and r.reached_generation is not null"
    )
}

impl Deployed {
    pub(crate) fn unpack(packed: &str) -> Result<Self> {
        let damaged = || corrupt("a reached deployment");
        let (status, content) = packed.split_once(' ').ok_or_else(damaged)?;
        let status = Status::parse(status).ok_or_else(|| corrupt("a rollout status"))?;
        let Some(brief) = content.strip_prefix(BRIEF) else {
            let whole: Box<Deployment> = from_json("a revision", content)?;
            return Ok(Self {
                status,
                enabled: whole.enabled,
                python_version: whole.python_version,
                deployed_at: whole.deployed_at,
                deployed_by: whole.deployed_by.clone(),
                whole: Some(whole),
            });
        };
        let mut members = brief.splitn(4, ' ');
        let mut next = || members.next().ok_or_else(damaged);
        Ok(Self {
            status,
            enabled: next()? == "1",
            python_version: next()?.parse().map_err(|_| corrupt("a Python version"))?,
            deployed_at: instant(next()?.parse().map_err(|_| damaged())?)?,
            deployed_by: next()?.to_owned(),
            whole: None,
        })
    }
}

/// Forgets a failure, so that the same generation is tried again at once. `false` when there is none: the rollout succeeded.
pub async fn reset_backoff(tx: &mut Tx, job_id: JobId, now: Timestamp) -> Result<bool> {
    let done = on!(tx, c => sqlx::query(
        "update rollout set tried_generation = null, tried_inputs_hash = null, retry_at = null, attempts = 0, due_at = 0,
            asked_at = $2, row_version = row_version + 1
         where job_id = $1 and status <> 'SUCCESS'",
    )
    .bind(job_id.to_string())
    .bind(micros(now))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done > 0)
}

/// Drops the rollout row of a job without any deployment.
pub async fn forget(tx: &mut Tx, epoch: Epoch, job_id: JobId) -> Result<()> {
    leases::fence(tx, epoch).await?;
    crate::jobs::lock(tx, job_id).await?;
    on!(tx, c => sqlx::query(
        "delete from rollout where job_id = $1 and not exists (select 1 from deployment d where d.job_id = $1)",
    )
    .bind(job_id.to_string())
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}
