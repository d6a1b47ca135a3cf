//! Receives changes from the runtime, and has the loops reconcile deployments that are out of sync.

use std::{collections::HashSet, time::Duration};

use store::StoreError;

use crate::{DATABASE_RETRY, LeaderEpoch, Synchronizer, deployments::enqueue_out_of_sync};

/// The pause after a change, in which further ones gather: a deleted namespace brings thousands at once.
const GATHER: Duration = Duration::from_millis(50);

/// The pause before a change of a deployment that is being reconciled is checked again.
const LATER: Duration = Duration::from_millis(500);

/// Names per comparison.
const PAGE: usize = 500;

/// Receives changes until the leader epoch is over.
pub(crate) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    let mut names: HashSet<String> = HashSet::new();
    loop {
        let changes = tokio::select! {
            changes = sync.runtime.changes() => changes,
            () = sync.clock.sleep(LATER), if !names.is_empty() => model::runtime::Changes::default(),
            () = leader_epoch.over.cancelled() => return,
        };
        names.extend(changes.deployments);
        if changes.runs {
            sync.db.notifications().executions.notify_one();
        }
        let mut recovered = changes.recovered;
        while let Err(error) = compare(sync, &mut names, &mut recovered).await {
            if !leader_epoch.survives(&error) || !leader_epoch.pause(DATABASE_RETRY).await {
                return;
            }
        }
        if !leader_epoch.pause(GATHER).await {
            return;
        }
    }
}

/// Makes those of these deployments due that are out of sync. The watch also reports writes of the leader itself, at the cost
/// of one read for hundreds of them. Deployments that are being reconciled are kept for later.
async fn compare(sync: &Synchronizer, names: &mut HashSet<String>, recovered: &mut bool) -> Result<(), StoreError> {
    if *recovered {
        let mut tx = sync.db.write().await?;
        store::deployments::retry_spread(&mut tx, sync.clock.now()).await?;
        tx.commit().await?;
        sync.db.notifications().deployments.notify_one();
        *recovered = false;
    }
    let all: Vec<String> = names.iter().cloned().collect();
    for page in all.chunks(PAGE) {
        let work = {
            let mut tx = sync.db.read().await?;
            store::deployments::work_of_names(&mut tx, page).await?
        };
        let now = sync.clock.now();
        let (mut busy, mut idle, mut waiting) = (HashSet::new(), Vec::new(), Vec::new());
        for (work, due_at) in work {
            match due_at {
                Some(at) if at <= now => drop(busy.insert(work.job_name.to_string())),
                Some(_) => waiting.push(work.deployment.job_id),
                None => idle.push(work),
            }
        }
        enqueue_out_of_sync(sync, &idle).await?;
        if !waiting.is_empty() {
            let mut tx = sync.db.write().await?;
            for job_id in waiting {
                store::deployments::retry(&mut tx, job_id, now).await?;
            }
            tx.commit().await?;
            sync.db.notifications().deployments.notify_one();
        }
        for name in page.iter().filter(|name| !busy.contains(*name)) {
            names.remove(name);
        }
    }
    Ok(())
}
