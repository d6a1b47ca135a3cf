//! Builds of artifacts: one row each, and the rollouts that wait for it.
//!
//! A rollout that waits stays due, and [`crate::deployments::due`] leaves it out as long as its build is queued or running.

use jiff::Timestamp;
use model::{
    Problem,
    artifact::Artifact,
    build::{BuildInputs, BuildKey, Built, Phase, Progress},
    name::{JobId, TeamName},
};

use crate::{
    artifact,
    codec::{from_json, instant, instant_opt, micros, to_json},
    db::{Tx, on},
    error::{Result, StoreError, corrupt},
    leases::{self, Epoch},
    locks,
};

/// The state of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits for its turn, or for a leader that takes it up again.
    Queued,
    /// A leader works on it.
    Running,
    /// Its artifact is known.
    Built,
    /// It has no artifact. It is queued again when a rollout asks for it again.
    Failed,
}

impl State {
    fn parse(raw: &str) -> Result<Self> {
        Ok(match raw {
            "QUEUED" => Self::Queued,
            "RUNNING" => Self::Running,
            "BUILT" => Self::Built,
            "FAILED" => Self::Failed,
            _ => return Err(corrupt("the state of a build")),
        })
    }
}

/// A build.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// Its state.
    pub state: State,
    /// The artifact of one that ended well.
    pub artifact: Option<Artifact>,
    /// Why it failed.
    pub problem: Option<Problem>,
    /// How often it was begun.
    pub attempts: i64,
    /// When it was asked for.
    pub queued_at: Timestamp,
    /// When it was begun last.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct BuildRow {
    state: String,
    lock_key: Option<String>,
    image: Option<String>,
    problem: Option<String>,
    attempts: i64,
    queued_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
}

const COLUMNS: &str = "state, lock_key, image, problem, attempts, queued_at, started_at, ended_at";

impl TryFrom<BuildRow> for Build {
    type Error = StoreError;

    fn try_from(row: BuildRow) -> Result<Self> {
        Ok(Self {
            state: State::parse(&row.state)?,
            artifact: artifact::of_columns(row.lock_key, row.image),
            problem: row.problem.map(|p| from_json("the problem of a build", &p)).transpose()?,
            attempts: row.attempts,
            queued_at: instant(row.queued_at)?,
            started_at: instant_opt(row.started_at)?,
            ended_at: instant_opt(row.ended_at)?,
        })
    }
}

/// The build of a key.
pub async fn find(tx: &mut Tx, key: &BuildKey) -> Result<Option<Build>> {
    row(tx, key, "").await
}

async fn row(tx: &mut Tx, key: &BuildKey, locking: &str) -> Result<Option<Build>> {
    let sql = format!("select {COLUMNS} from build where build_key = $1 {locking}");
    let row: Option<BuildRow> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(key.as_str())
        .fetch_optional(c)
        .await)?;
    row.map(Build::try_from).transpose()
}

/// The artifact of a build that ended well. A lock that an older program stored counts as one: its key is the build's.
pub async fn built(tx: &mut Tx, key: &BuildKey) -> Result<Option<Artifact>> {
    let row: Option<(Option<String>, Option<String>)> = on!(tx, c => sqlx::query_as(
        "select lock_key, image from build where build_key = $1 and state = 'BUILT'
         union all select lock_key, null from dependency_lock where lock_key = $1
         limit 1",
    )
    .bind(key.as_str())
    .fetch_optional(c)
    .await)?;
    Ok(row.and_then(|(lock_key, image)| artifact::of_columns(lock_key, image)))
}

/// A rollout that needs a build.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The job.
    pub job_id: JobId,
    /// The generation that is rolled out.
    pub generation: i64,
    /// The job's team: teams take turns.
    pub team: &'a TeamName,
    /// The name of the builder.
    pub builder: &'a str,
}

/// The result of a rollout's request for a build.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// The artifact.
    Built(Artifact),
    /// The build that this rollout waited for failed. When it asks again, the build is queued again.
    Failed(Problem),
    /// The rollout waits for the build from now on.
    Waits,
}

const QUEUE_NEW: &str = "insert into build (build_key, builder, inputs, team, state, attempts, leader_epoch, queued_at)
     values ($1, $2, $3, $4, 'QUEUED', 0, $5, $6)
     on conflict (build_key) do nothing";
const QUEUE_AGAIN: &str = "update build set state = 'QUEUED', builder = $2, inputs = $3, team = $4, leader_epoch = $5,
        queued_at = $6, problem = null, started_at = null, ended_at = null
     where build_key = $1";

/// Asks for a build on behalf of a rollout.
pub async fn ask(tx: &mut Tx, epoch: Epoch, asking: Asking<'_>, inputs: &BuildInputs, now: Timestamp) -> Result<Asked> {
    leases::fence(tx, epoch).await?;
    let Asking { job_id, generation, .. } = asking;
    queue(tx, QUEUE_NEW, epoch, asking, inputs, now).await?;
    let locking = tx.locking("for update");
    let build = row(tx, &inputs.key, locking).await?.ok_or_else(|| corrupt("a build"))?;
    match (build.state, build.artifact, build.problem) {
        (State::Built, Some(artifact), _) => {
            wait(tx, job_id, None).await?;
            return Ok(Asked::Built(artifact));
        }
        (State::Failed, _, Some(problem)) if waits(tx, job_id, generation, &inputs.key).await? => {
            wait(tx, job_id, None).await?;
            return Ok(Asked::Failed(problem));
        }
        (State::Queued | State::Running, ..) => {}
        (State::Failed | State::Built, ..) => {
            queue(tx, QUEUE_AGAIN, epoch, asking, inputs, now).await?;
        }
    }
    wait(tx, job_id, Some((&inputs.key, generation))).await?;
    Ok(Asked::Waits)
}

/// Queues a build by a statement that takes its key, builder, inputs, team, epoch and time.
async fn queue(
    tx: &mut Tx,
    statement: &'static str,
    epoch: Epoch,
    asking: Asking<'_>,
    inputs: &BuildInputs,
    now: Timestamp,
) -> Result<()> {
    on!(tx, c => sqlx::query(statement)
        .bind(inputs.key.as_str())
        .bind(asking.builder)
        .bind(&inputs.content)
        .bind(asking.team.as_str())
        .bind(epoch.0)
        .bind(micros(now))
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

async fn waits(tx: &mut Tx, job_id: JobId, generation: i64, key: &BuildKey) -> Result<bool> {
    let row: Option<(i64,)> = on!(tx, c => sqlx::query_as(
        "select build_generation from rollout where job_id = $1 and build_generation = $2 and build_key = $3",
    )
    .bind(job_id.to_string())
    .bind(generation)
    .bind(key.as_str())
    .fetch_optional(c)
    .await)?;
    Ok(row.is_some())
}

async fn wait(tx: &mut Tx, job_id: JobId, build: Option<(&BuildKey, i64)>) -> Result<()> {
    on!(tx, c => sqlx::query("update rollout set build_key = $2, build_generation = $3 where job_id = $1")
        .bind(job_id.to_string())
        .bind(build.map(|(key, _)| key.as_str()))
        .bind(build.map(|(_, generation)| generation))
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// Takes over the builds of the former leader: those in progress are queued again, and rollouts request the builds that they
/// need again. Builds of another builder are dropped, unless they ended well.
pub async fn take_over(tx: &mut Tx, epoch: Epoch, builder: &str) -> Result<()> {
    leases::fence(tx, epoch).await?;
    on!(tx, c => sqlx::query("delete from build where builder <> $1 and state <> 'BUILT'")
        .bind(builder)
        .execute(c)
        .await
        .map(drop))?;
    on!(tx, c => sqlx::query(
        "update build set state = 'QUEUED', started_at = null, leader_epoch = $1 where state = 'RUNNING'",
    )
    .bind(epoch.0)
    .execute(c)
    .await
    .map(drop))?;
    on!(tx, c => sqlx::query(
        "update rollout set build_key = null, build_generation = null where build_key is not null",
    )
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// The builds to begin next: of each team the longest queued first, the teams in turn, after what they have running. A build
/// that no rollout waits for any more is left out.
pub async fn next(tx: &mut Tx, limit: i64) -> Result<Vec<BuildInputs>> {
    let rows: Vec<(String, String)> = on!(tx, c => sqlx::query_as(
        "select build_key, inputs from (
            select b.build_key, b.inputs, b.state, b.queued_at, row_number() over (
                partition by b.team order by case b.state when 'RUNNING' then 0 else 1 end, b.queued_at, b.build_key
            ) as turn
            from build b
            where b.state = 'RUNNING' or b.state = 'QUEUED' and exists (
                select 1 from rollout r join deployment d on d.job_id = r.job_id
                where r.build_key = b.build_key and r.build_generation = d.generation)) q
         where state = 'QUEUED' order by turn, queued_at, build_key limit $1",
    )
    .bind(limit)
    .fetch_all(c)
    .await)?;
    Ok(rows.into_iter().map(|(key, content)| BuildInputs { key: BuildKey::new(key), content }).collect())
}

/// Marks a queued build as running. `false` when it is not queued any more.
pub async fn begin(tx: &mut Tx, epoch: Epoch, key: &BuildKey, now: Timestamp) -> Result<bool> {
    leases::fence(tx, epoch).await?;
    let done = on!(tx, c => sqlx::query(
        "update build set state = 'RUNNING', attempts = attempts + 1, leader_epoch = $2, started_at = $3,
            phase = null, phase_bytes = null
         where build_key = $1 and state = 'QUEUED'",
    )
    .bind(key.as_str())
    .bind(epoch.0)
    .bind(micros(now))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done == 1)
}

/// Records how far a running build is.
pub async fn progress(tx: &mut Tx, epoch: Epoch, key: &BuildKey, progress: Progress) -> Result<()> {
    leases::fence(tx, epoch).await?;
    on!(tx, c => sqlx::query("update build set phase = $2, phase_bytes = $3 where build_key = $1 and state = 'RUNNING'")
        .bind(key.as_str())
        .bind(progress.phase.as_str())
        .bind(i64::try_from(progress.bytes).unwrap_or(i64::MAX))
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// A build that a rollout waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// How far it is, once it has begun and reported that.
    pub progress: Option<Progress>,
    /// When it was asked for.
    pub queued_at: Timestamp,
    /// When it was begun; absent while it waits for its turn.
    pub started_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct AwaitedRow {
    phase: Option<String>,
    phase_bytes: Option<i64>,
    queued_at: i64,
    started_at: Option<i64>,
}

/// The build that a job's rollout waits for.
pub async fn awaited(tx: &mut Tx, job_id: JobId) -> Result<Option<Awaited>> {
    let row: Option<AwaitedRow> = on!(tx, c => sqlx::query_as(
        "select b.phase, b.phase_bytes, b.queued_at, case when b.state = 'RUNNING' then b.started_at end as started_at
         from rollout r join build b on b.build_key = r.build_key
         where r.job_id = $1 and b.state in ('QUEUED', 'RUNNING')",
    )
    .bind(job_id.to_string())
    .fetch_optional(c)
    .await)?;
    row.map(|AwaitedRow { phase, phase_bytes: bytes, queued_at, started_at }| {
        let phase = phase.and_then(|phase| Phase::parse(&phase)).filter(|_| started_at.is_some());
        let bytes = u64::try_from(bytes.unwrap_or(0)).unwrap_or(0);
        Ok(Awaited {
            progress: phase.map(|phase| Progress { phase, bytes }),
            queued_at: instant(queued_at)?,
            started_at: instant_opt(started_at)?,
        })
    })
    .transpose()
}

/// Forgets a build that ended well, because its artifact is not where it was: who asks for it has it built again.
pub async fn forget(tx: &mut Tx, epoch: Epoch, key: &BuildKey) -> Result<()> {
    leases::fence(tx, epoch).await?;
    on!(tx, c => sqlx::query("delete from build where build_key = $1 and state = 'BUILT'")
        .bind(key.as_str())
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// Records the end of a running build, and the lock that it made. The first lock that is stored under a key stays.
pub async fn finish(
    tx: &mut Tx,
    epoch: Epoch,
    key: &BuildKey,
    result: std::result::Result<&Built, &Problem>,
    now: Timestamp,
) -> Result<()> {
    leases::fence(tx, epoch).await?;
    let (state, (lock_key, image), problem) = match result {
        Ok(built) => ("BUILT", artifact::columns(&built.artifact), None),
        Err(problem) => ("FAILED", (None, None), Some(to_json(problem))),
    };
    for lock in result.iter().flat_map(|built| &built.locks) {
        locks::insert(tx, lock, now).await?;
    }
    on!(tx, c => sqlx::query(
        "update build set state = $2, lock_key = $3, image = $4, problem = $5, ended_at = $6
         where build_key = $1 and state = 'RUNNING'",
    )
    .bind(key.as_str())
    .bind(state)
    .bind(lock_key)
    .bind(image)
    .bind(problem)
    .bind(micros(now))
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// Drops failed builds that ended before this instant, and queued ones from before it that no rollout waits for; at most
/// `limit` at a time.
pub async fn purge(tx: &mut Tx, before: Timestamp, limit: i64) -> Result<u64> {
    on!(tx, c => sqlx::query(
        "delete from build where build_key in (
            select b.build_key from build b where (b.state = 'FAILED' and b.ended_at < $1) or (b.state = 'QUEUED'
                and b.queued_at < $1 and not exists (select 1 from rollout r where r.build_key = b.build_key))
            limit $2)",
    )
    .bind(micros(before))
    .bind(limit)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .map_err(Into::into)
}
