//! Where runs are, when they are bound to one place: the data folder of a machine.
//!
//! The database names one host. Only an instance of that host leads, because no other one sees its runs. Runs that were
//! dispatched before the first epoch of the host were abandoned on another one.

use crate::{
    db::{Db, Tx, on},
    epoch::{Epoch, Lease},
    error::{Result, corrupt},
};

/// The host that the database names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its id.
    pub id: String,
    /// The first epoch in which runs were dispatched there.
    pub since: Epoch,
}

const HOST: &str = "runs.site";
const SINCE: &str = "runs.site_since_epoch";
const DATABASE: &str = "database.id";

/// The id of this database; `fresh` becomes it where there is none.
pub async fn database_id(db: &Db, fresh: &str) -> Result<String> {
    first(db, DATABASE, fresh).await
}

/// Claims the runs of a database that names no host, and gives the host that it names then.
pub async fn claim(db: &Db, id: &str) -> Result<String> {
    first(db, HOST, id).await
}

/// Stores a value where there is none; the first one stays.
async fn first(db: &Db, name: &str, value: &str) -> Result<String> {
    let mut tx = db.write().await?;
    let (known,): (String,) = on!(&mut tx, c => sqlx::query_as(
        "insert into service_state (name, value) values ($1, $2)
         on conflict (name) do update set value = service_state.value returning value",
    )
    .bind(name)
    .bind(value)
    .fetch_one(c)
    .await)?;
    tx.commit().await?;
    Ok(known)
}

/// The host that the database names.
pub async fn find(tx: &mut Tx) -> Result<Option<Host>> {
    let rows: Vec<(String, String)> = on!(tx, c => sqlx::query_as(
        "select name, value from service_state where name in ('runs.site', 'runs.site_since_epoch')",
    )
    .fetch_all(c)
    .await)?;
    let value = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| row.1.as_str());
    let Some(id) = value(HOST) else { return Ok(None) };
    let since = value(SINCE).map_or(Ok(0), str::parse).map_err(|_| corrupt("the first epoch of a site"))?;
    Ok(Some(Host { id: id.to_owned(), since: Epoch(since) }))
}

/// Whether the database names this site; if so, it does until the end of the transaction.
pub(crate) async fn holds(tx: &mut Tx, id: &str) -> Result<bool> {
    let sql = format!("select value from service_state where name = $1 {}", tx.locking("for share"));
    let row: Option<(String,)> =
        on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(HOST).fetch_optional(c).await)?;
    Ok(row.is_some_and(|(named,)| named == id))
}

/// Names another host instead of `from`, and ends the epoch of the leader. `None` when the host or the lease is not as
/// it was `seen` any more: an instance is alive there.
///
/// Executions that were dispatched before the returned epoch are lost: the next leader ends them and does not repeat them.
pub async fn take_over(db: &Db, name: &str, from: &Host, seen: Option<&Lease>, to: &str) -> Result<Option<Epoch>> {
    let mut tx = db.write().await?;
    let moved = on!(&mut tx, c => sqlx::query("update service_state set value = $3 where name = $1 and value = $2")
        .bind(HOST)
        .bind(&from.id)
        .bind(to)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?;
    let epoch: Option<(i64,)> = match seen {
        Some(lease) => on!(&mut tx, c => sqlx::query_as(
            "update lease set holder = '', epoch = epoch + 1, renewals = 0
             where name = $1 and epoch = $2 and renewals = $3 returning epoch",
        )
        .bind(name)
        .bind(lease.epoch)
        .bind(lease.renewals)
        .fetch_optional(c)
        .await)?,
        None => on!(&mut tx, c => sqlx::query_as(
            "insert into lease (name, holder, epoch, renewals) values ($1, '', 1, 0)
             on conflict do nothing returning epoch",
        )
        .bind(name)
        .fetch_optional(c)
        .await)?,
    };
    let (1, Some((epoch,))) = (moved, epoch) else { return Ok(None) };
    on!(&mut tx, c => sqlx::query(
        "insert into service_state (name, value) values ($1, $2)
         on conflict (name) do update set value = excluded.value",
    )
    .bind(SINCE)
    .bind(epoch.to_string())
    .execute(c)
    .await
    .map(drop))?;
    tx.commit().await?;
    Ok(Some(Epoch(epoch)))
}

/// How many active runs were dispatched on a host that was given up since.
pub async fn abandoned(tx: &mut Tx, host: &Host) -> Result<i64> {
    let (count,): (i64,) = on!(tx, c => sqlx::query_as(
        "select count(*) from data_job_execution
         where status in ('SUBMITTED', 'RUNNING') and generation is not null and leader_epoch < $1",
    )
    .bind(host.since.0)
    .fetch_one(c)
    .await)?;
    Ok(count)
}
