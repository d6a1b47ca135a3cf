//! One row a distinct cron expression and time zone, with its next tick.

use jiff::Timestamp;

use crate::{
    codec::{self, instant, micros},
    db::{Tx, on},
    dialect::Dialect,
    error::{Result, corrupt},
    sql::places,
};

/// The row of a schedule, made where there is none.
pub async fn ensure(tx: &mut Tx, cron: &str, zone: &str, next_tick: Option<Timestamp>) -> Result<i64> {
    let (id,): (i64,) = on!(tx, c => sqlx::query_as(
        "insert into schedule (cron, zone, next_tick) values ($1, $2, $3)
         on conflict (cron, zone) do update set next_tick = coalesce(schedule.next_tick, excluded.next_tick)
         returning schedule_id",
    )
    .bind(cron)
    .bind(zone)
    .bind(next_tick.map(micros))
    .fetch_one(c)
    .await)?;
    Ok(id)
}

/// The most schedules that are moved on in one transaction.
const DUE_MAX: i64 = 10_000;

/// A schedule whose next tick has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSchedule {
    /// Its row.
    pub id: i64,
    /// The cron expression.
    pub cron: String,
    /// The time zone.
    pub zone: String,
    /// The tick that has come; later ones may have come as well.
    pub next_tick: Timestamp,
}

/// The schedules whose next tick is not after `now`.
pub async fn due(tx: &mut Tx, now: Timestamp) -> Result<Vec<DueSchedule>> {
    let rows: Vec<(i64, String, String, i64)> = on!(tx, c => sqlx::query_as(
        "select schedule_id, cron, zone, next_tick from schedule
         where next_tick is not null and next_tick <= $1 order by next_tick, schedule_id limit $2",
    )
    .bind(micros(now))
    .bind(DUE_MAX)
    .fetch_all(c)
    .await)?;
    rows.into_iter()
        .map(|(id, cron, zone, tick)| Ok(DueSchedule { id, cron, zone, next_tick: instant(tick)? }))
        .collect()
}

/// Schedules that wait for a tick after `now`, at most 1,000 in the order of their rows, after that one.
pub async fn page(tx: &mut Tx, after: Option<i64>, now: Timestamp) -> Result<Vec<DueSchedule>> {
    let rows: Vec<(i64, String, String, i64)> = on!(tx, c => sqlx::query_as(
        "select schedule_id, cron, zone, next_tick from schedule
         where schedule_id > $1 and next_tick > $2 order by schedule_id limit 1000",
    )
    .bind(after.unwrap_or(i64::MIN))
    .bind(micros(now))
    .fetch_all(c)
    .await)?;
    rows.into_iter()
        .map(|(id, cron, zone, tick)| Ok(DueSchedule { id, cron, zone, next_tick: instant(tick)? }))
        .collect()
}

/// Takes off every tick that is still to come: it was marked while a clock was wrong, and would hold up true ones.
pub async fn drop_ticks_to_come(tx: &mut Tx, now: Timestamp) -> Result<u64> {
    let done = on!(tx, c => sqlx::query(
        "update deployment set pending_tick = null where pending_tick is not null and pending_tick > $1",
    )
    .bind(micros(now))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done)
}

/// Has schedules count from now that count from an instant to come: they were changed while a clock was wrong, and their
/// ticks would not run before it.
pub async fn count_from_now(tx: &mut Tx, now: Timestamp) -> Result<u64> {
    let done = on!(tx, c => sqlx::query(
        "update deployment set schedule_since = $1 where removed_at is null and schedule_since > $1",
    )
    .bind(micros(now))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done)
}

/// Keeps the schedules that have come until the end of the transaction. It comes before their deployments are touched, as
/// in verbs, so that no two ever wait for each other.
pub async fn lock(tx: &mut Tx, due: &[DueSchedule]) -> Result<()> {
    if tx.dialect() == Dialect::Sqlite || due.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "select schedule_id from schedule where schedule_id in ({}) order by schedule_id for no key update",
        places(due.len())
    );
    on!(tx, c => {
        let mut statement = sqlx::query(sqlx::AssertSqlSafe(sql));
        for schedule in due {
            statement = statement.bind(schedule.id);
        }
        statement.execute(c).await.map(drop)
    })?;
    Ok(())
}

/// The earliest next tick of all.
pub async fn earliest(tx: &mut Tx) -> Result<Option<Timestamp>> {
    let (tick,): (Option<i64>,) = on!(tx, c => sqlx::query_as(
        "select min(next_tick) from schedule where next_tick is not null",
    )
    .fetch_one(c)
    .await)?;
    tick.map(instant).transpose()
}

/// Moves a schedule from one tick to the next. `false` when another transaction did.
pub async fn advance(tx: &mut Tx, id: i64, from: Timestamp, to: Option<Timestamp>) -> Result<bool> {
    let done = on!(tx, c => sqlx::query(
        "update schedule set next_tick = $3 where schedule_id = $1 and next_tick = $2",
    )
    .bind(id)
    .bind(micros(from))
    .bind(to.map(micros))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done == 1)
}

/// Marks a tick on every enabled deployment of a schedule that was in force before it; a later tick takes the place of
/// one that still waits.
pub async fn mark_tick(tx: &mut Tx, id: i64, tick: Timestamp) -> Result<u64> {
    let done = on!(tx, c => sqlx::query(
        "update deployment set pending_tick = $2
         where removed_at is null and enabled = true and schedule_since < $2
           and (pending_tick is null or pending_tick < $2)
           and job_id in (select job_id from data_job where schedule_id = $1 and deleted_at is null)",
    )
    .bind(id)
    .bind(micros(tick))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done)
}

/// A tick that waits for its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingTick {
    /// The job.
    pub job_id: model::name::JobId,
    /// The job's name.
    pub job_name: model::name::JobName,
    /// The tick.
    pub tick: Timestamp,
}

/// The ticks whose job is free for a run and was deployed at least once.
pub async fn pending(tx: &mut Tx, limit: i64) -> Result<Vec<PendingTick>> {
    let rows: Vec<(String, String, i64)> = on!(tx, c => sqlx::query_as(
        "select d.job_id, j.name, d.pending_tick
         from deployment d join data_job j on j.job_id = d.job_id join rollout r on r.job_id = d.job_id
         where d.pending_tick is not null and d.removed_at is null and d.enabled = true
           and r.reached_generation is not null
           and not exists (select 1 from data_job_execution e where e.job_number = j.number and e.holds_slot)
         order by d.pending_tick, j.name limit $1",
    )
    .bind(limit)
    .fetch_all(c)
    .await)?;
    rows.into_iter()
        .map(|(id, name, tick)| {
            Ok(PendingTick {
                job_id: codec::job_id(&id)?,
                job_name: model::name::JobName::parse(&name).map_err(|_| corrupt("a job name"))?,
                tick: instant(tick)?,
            })
        })
        .collect()
}

/// Takes a tick off a deployment, unless a later one took its place.
pub async fn clear_tick(tx: &mut Tx, job_id: model::name::JobId, tick: Timestamp) -> Result<()> {
    on!(tx, c => sqlx::query("update deployment set pending_tick = null where job_id = $1 and pending_tick = $2")
        .bind(job_id.to_string())
        .bind(micros(tick))
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// Takes off every tick that waited past the starting deadline.
pub async fn expire_ticks(tx: &mut Tx, before: Timestamp) -> Result<u64> {
    let done = on!(tx, c => sqlx::query(
        "update deployment set pending_tick = null where pending_tick is not null and pending_tick < $1",
    )
    .bind(micros(before))
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    Ok(done)
}

/// Schedules that no job has, at most `limit`.
pub async fn unused(tx: &mut Tx, limit: i64) -> Result<Vec<i64>> {
    let ids: Vec<(i64,)> = on!(tx, c => sqlx::query_as(
        "select schedule_id from schedule s
         where not exists (select 1 from data_job j where j.schedule_id = s.schedule_id)
         order by schedule_id limit $1",
    )
    .bind(limit)
    .fetch_all(c)
    .await)?;
    Ok(ids.into_iter().map(|(id,)| id).collect())
}

/// Removes those of these schedules that no job has. One that is given to a job concurrently is left.
pub async fn remove_unused(tx: &mut Tx, ids: &[i64]) -> Result<u64> {
    // Checked again under the lock: from here on no job can be given one of them.
    let lock = format!("select 1 from schedule where schedule_id = $1 {}", tx.locking("for update skip locked"));
    let mut removed = 0;
    for id in ids {
        let row: Option<(i32,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(lock.clone()))
            .bind(id)
            .fetch_optional(c)
            .await)?;
        if row.is_none() {
            continue;
        }
        removed += on!(tx, c => sqlx::query(
            "delete from schedule where schedule_id = $1
               and not exists (select 1 from data_job j where j.schedule_id = schedule.schedule_id)",
        )
        .bind(id)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?;
    }
    Ok(removed)
}
