//! Leadership: one row with an epoch that every later write of the leader names.

use model::plan::RENDERER_VERSION;

pub use crate::epoch::{Epoch, Lease};
use crate::{
    db::{Db, Tx, on},
    error::{Result, StoreError, corrupt},
    hosts, notifications,
};

/// The name of the synchronizer's lease.
pub const SYNCHRONIZER: &str = "synchronizer";

/// The current lease.
pub async fn find(db: &Db, name: &str) -> Result<Option<Lease>> {
    let mut tx = if db.is_exclusive() { db.read().await? } else { db.lease().await? };
    // An older program takes the lease without its configuration: the stored one is that of a former leader epoch.
    let row: Option<(String, i64, i64, Option<String>)> = on!(&mut tx, c => sqlx::query_as(
        "select holder, epoch, renewals, case when configuration_epoch = epoch then configuration end
         from lease where name = $1",
    )
    .bind(name)
    .fetch_optional(c)
    .await)?;
    Ok(row.map(|(holder, epoch, renewals, configuration)| Lease { holder, epoch, renewals, configuration }))
}

/// The outcome of taking a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// This instance leads.
    Leads(Epoch),
    /// Another instance was faster, or the database names another host.
    No,
    /// A program with a higher version of the renderer has led.
    Outdated {
        /// That version.
        renderer: i64,
    },
}

/// An instance that would lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its name in the lease row.
    pub holder: &'a str,
    /// The host that the database has to name for it to lead; absent when runs are seen from everywhere.
    pub host: Option<&'a str>,
    /// The version of its renderer. It leads only if no program with a higher one has led: two versions would recreate each
    /// other's deployments at each change of leadership.
    pub renderer: i64,
    /// The fingerprint of its configuration, which other instances compare with theirs.
    pub configuration: &'a str,
}

/// Takes over from the lease that was `seen` (or where there was none). `None` when another instance was faster.
pub async fn take(db: &Db, name: &str, holder: &str, seen: Option<&Lease>) -> Result<Option<Epoch>> {
    let candidate = Candidate { holder, host: None, renderer: RENDERER_VERSION, configuration: "" };
    Ok(match take_at(db, name, candidate, seen).await? {
        Taken::Leads(epoch) => Some(epoch),
        Taken::No | Taken::Outdated { .. } => None,
    })
}

/// As [`take`], but for a candidate that may not be fit to lead.
pub async fn take_at(db: &Db, name: &str, candidate: Candidate<'_>, seen: Option<&Lease>) -> Result<Taken> {
    let Candidate { holder, host, renderer, configuration } = candidate;
    let mut tx = db.lease().await?;
    if let Some(host) = host
        && !hosts::holds(&mut tx, host).await?
    {
        return Ok(Taken::No);
    }
    let row: Option<(i64,)> = match seen {
        None => on!(&mut tx, c => sqlx::query_as(
            "insert into lease (name, holder, epoch, renewals, configuration, configuration_epoch)
             values ($1, $2, 1, 0, $3, 1) on conflict do nothing returning epoch",
        )
        .bind(name)
        .bind(holder)
        .bind(configuration)
        .fetch_optional(c)
        .await)?,
        Some(lease) => on!(&mut tx, c => sqlx::query_as(
            "update lease set holder = $2, epoch = epoch + 1, renewals = 0, configuration = $5,
                configuration_epoch = epoch + 1
             where name = $1 and epoch = $3 and renewals = $4 returning epoch",
        )
        .bind(name)
        .bind(holder)
        .bind(lease.epoch)
        .bind(lease.renewals)
        .bind(configuration)
        .fetch_optional(c)
        .await)?,
    };
    let Some((epoch,)) = row else { return Ok(Taken::No) };
    let (highest,): (String,) = on!(&mut tx, c => sqlx::query_as(
        "insert into service_state (name, value) values ('renderer_version', $1)
         on conflict (name) do update set value =
            case when cast(service_state.value as bigint) < cast(excluded.value as bigint) then excluded.value
            else service_state.value end
         returning value",
    )
    .bind(renderer.to_string())
    .fetch_one(c)
    .await)?;
    let highest = highest.parse().map_err(|_| corrupt("the version of the renderer"))?;
    if highest > renderer {
        return Ok(Taken::Outdated { renderer: highest });
    }
    tx.commit().await?;
    Ok(Taken::Leads(Epoch(epoch)))
}

/// Renews the lease. `false` when the epoch is over.
pub async fn renew(db: &Db, name: &str, epoch: Epoch) -> Result<bool> {
    let mut tx = db.lease().await?;
    let done = on!(&mut tx, c => sqlx::query(
        "update lease set renewals = renewals + 1 where name = $1 and epoch = $2",
    )
    .bind(name)
    .bind(epoch.0)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    tx.commit().await?;
    Ok(done == 1)
}

/// Fails when the epoch is over. Called first in the transaction of each write of a leader.
///
/// On PostgreSQL it keeps the row's key until the end of the transaction: the epoch is part of a key (see the schema), so
/// a take-over waits for the commit, and a renewal, which leaves the key alone, does not.
pub async fn fence(tx: &mut Tx, epoch: Epoch) -> Result<()> {
    let sql = format!("select epoch from lease where name = $1 {}", tx.locking("for key share"));
    let row: Option<(i64,)> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(SYNCHRONIZER)
        .fetch_optional(c)
        .await)?;
    match row {
        Some((current,)) if current == epoch.0 => Ok(()),
        _ => Err(StoreError::Fenced { epoch: epoch.0 }),
    }
}

/// Hands the lease on: the next instance need not wait for it to run out.
pub async fn release(db: &Db, name: &str, epoch: Epoch) -> Result<()> {
    let mut tx = db.lease().await?;
    on!(&mut tx, c => sqlx::query("update lease set holder = '', renewals = renewals + 1 where name = $1 and epoch = $2")
        .bind(name)
        .bind(epoch.0)
        .execute(c)
        .await
        .map(drop))?;
    if let Tx::Postgres(tx) = &mut tx {
        sqlx::query(notifications::NOTIFY_RELEASED).execute(&mut **tx).await?;
    }
    tx.commit().await
}
