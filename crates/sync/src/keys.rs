//! Rotation of encryption keys: values that a former key encrypted are re-encrypted with the active key.

use std::time::Duration;

use store::{
    StoreError, Tx,
    keys::{self, KeyRing, Reencrypted},
    leases,
};

use crate::{LeaderEpoch, Synchronizer};

/// How often the loop checks whether another key became the active one.
const INTERVAL: Duration = Duration::from_secs(3);

/// How often rows that could not be decrypted are retried with the same keys.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// Rows per transaction. A row may have a mebibyte, and other writers must not wait long.
const BATCH: i64 = 16;

/// The state after the last pass.
#[derive(Debug)]
struct BlockedKeys {
    active: String,
    ids: Vec<String>,
    /// On the boot clock.
    until: Duration,
}

/// Re-encrypts after each rotation, until the leader epoch is over.
pub(crate) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    let mut stuck = None;
    loop {
        if let Err(error) = round(sync, leader_epoch, &mut stuck).await
            && !leader_epoch.survives(&error)
        {
            return;
        }
        if !leader_epoch.pause(INTERVAL).await {
            return;
        }
    }
}

async fn round(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    stuck: &mut Option<BlockedKeys>,
) -> Result<(), StoreError> {
    let Some(active) = keys::active(&sync.db).await? else { return Ok(()) };
    // Rows that the last pass could not decrypt are retried when a key was added, or after a pause.
    let ids = sync.keys.ids();
    if stuck.as_ref().is_some_and(|s| s.active == active && s.ids == ids && sync.clock.boot() < s.until) {
        return Ok(());
    }
    if !keys::any_other(&mut sync.db.read().await?, &active).await? {
        *stuck = None;
        return Ok(());
    }
    let mut total = Reencrypted::default();
    match pass(sync, leader_epoch, &mut total).await {
        Err(StoreError::KeyMissing { key_id }) => total.missing.push(key_id),
        result => result?,
    }
    if total.done > 0 {
        tracing::info!(active, rows = total.done, "secrets were re-encrypted with the active key");
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
            "secrets could not be re-encrypted; restore the files of the missing keys"
        );
    }
    let until = sync.clock.boot() + RETRY_INTERVAL;
    *stuck = is_stuck.then_some(BlockedKeys { active, ids, until });
    Ok(())
}

/// Re-encrypts all rows once, in small transactions.
async fn pass(sync: &Synchronizer, leader_epoch: &LeaderEpoch, total: &mut Reencrypted) -> Result<(), StoreError> {
    through(sync, leader_epoch, total, store::secrets::reencrypt).await?;
    through(sync, leader_epoch, total, store::credentials::reencrypt).await
}

async fn through(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    total: &mut Reencrypted,
    reencrypt: impl AsyncFn(&mut Tx, &KeyRing, &str, i64) -> Result<Reencrypted, StoreError>,
) -> Result<(), StoreError> {
    let mut after = Some(String::new());
    while let Some(from) = after
        && !leader_epoch.over.is_cancelled()
    {
        let mut tx = sync.db.write().await?;
        leases::fence(&mut tx, leader_epoch.epoch).await?;
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
