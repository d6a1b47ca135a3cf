//! Secrets follow a rotation of their key: what is sealed with a former one is sealed anew with the primary key.

use std::time::Duration;

use store::{
    StoreError, Tx,
    keys::{self, KeyRing, Reencrypted},
    leases,
};

use crate::{Synchronizer, Term};

/// How often it is looked whether a key was made the primary one.
const INTERVAL: Duration = Duration::from_secs(3);

/// How often rows that could not be read are tried again with the same keys.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// Rows sealed in one transaction: each may have a mebibyte, and no writer waits long.
const BATCH: i64 = 16;

/// What the last pass left behind.
#[derive(Debug)]
struct BlockedKeys {
    active: String,
    ids: Vec<String>,
    /// On the boot clock.
    until: Duration,
}

/// Follows rotations until the term is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    let mut stuck = None;
    loop {
        if let Err(error) = round(sync, term, &mut stuck).await
            && !term.survives(&error)
        {
            return;
        }
        if !term.pause(INTERVAL).await {
            return;
        }
    }
}

async fn round(sync: &Synchronizer, term: &Term, stuck: &mut Option<BlockedKeys>) -> Result<(), StoreError> {
    let Some(active) = keys::active(&sync.db).await? else { return Ok(()) };
    // What a former pass could not do is not tried again until a key came, or in a while.
    let ids = sync.keys.ids();
    if stuck.as_ref().is_some_and(|s| s.active == active && s.ids == ids && sync.clock.boot() < s.until) {
        return Ok(());
    }
    if !keys::any_other(&mut sync.db.read().await?, &active).await? {
        *stuck = None;
        return Ok(());
    }
    let mut total = Reencrypted::default();
    match pass(sync, term, &mut total).await {
        Err(StoreError::KeyMissing { key_id }) => total.missing.push(key_id),
        result => result?,
    }
    if total.done > 0 {
        tracing::info!(active, rows = total.done, "secrets were sealed anew with the primary key");
    }
    let any_left = keys::any_other(&mut sync.db.read().await?, &active).await?;
    if !any_left {
        tracing::info!("no secret needs a former key any more; `holdfast keys list` shows which are not needed");
    }
    let is_stuck = any_left && (total.damaged > 0 || !total.missing.is_empty());
    if is_stuck {
        tracing::error!(
            missing = total.missing.join(", "),
            damaged = total.damaged,
            "secrets could not be sealed anew; put the files of the missing keys back"
        );
    }
    let until = sync.clock.boot() + RETRY_INTERVAL;
    *stuck = is_stuck.then_some(BlockedKeys { active, ids, until });
    Ok(())
}

/// Goes once through all rows, in small transactions.
async fn pass(sync: &Synchronizer, term: &Term, total: &mut Reencrypted) -> Result<(), StoreError> {
    through(sync, term, total, store::secrets::reencrypt).await?;
    through(sync, term, total, store::credentials::reencrypt).await
}

async fn through(
    sync: &Synchronizer,
    term: &Term,
    total: &mut Reencrypted,
    reencrypt: impl AsyncFn(&mut Tx, &KeyRing, &str, i64) -> Result<Reencrypted, StoreError>,
) -> Result<(), StoreError> {
    let mut after = Some(String::new());
    while let Some(from) = after
        && !term.over.is_cancelled()
    {
        let mut tx = sync.db.write().await?;
        leases::fence(&mut tx, term.epoch).await?;
        let batch = reencrypt(&mut tx, &sync.keys, &from, BATCH).await?;
        tx.commit().await?;
        total.done += batch.done;
        total.damaged += batch.damaged;
        for id in batch.missing {
            if !total.missing.contains(&id) {
                total.missing.push(id);
            }
        }
        after = batch.next;
    }
    Ok(())
}
