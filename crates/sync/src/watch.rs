//! Hears what changed where jobs run, and has the loops look at what is out of step.

use std::{collections::HashSet, time::Duration};

use store::StoreError;

use crate::{DATABASE_RETRY, Synchronizer, Term, deployments::enqueue_out_of_sync};

/// The pause after news, in which others gather: a namespace that goes away brings thousands at once.
const GATHER: Duration = Duration::from_millis(50);

/// When news of a deployment that is worked on at that moment are looked at again.
const LATER: Duration = Duration::from_millis(500);

/// Names that are compared at once.
const PAGE: usize = 500;

/// Hears until the term is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    let mut names: HashSet<String> = HashSet::new();
    loop {
        let changes = tokio::select! {
            changes = sync.runtime.changes() => changes,
            () = sync.clock.sleep(LATER), if !names.is_empty() => model::runtime::Changes::default(),
            () = term.over.cancelled() => return,
        };
        names.extend(changes.deployments);
        if changes.runs {
            sync.db.notifications().executions.notify_one();
        }
        let mut recovered = changes.recovered;
        while let Err(error) = compare(sync, &mut names, &mut recovered).await {
            if !term.survives(&error) || !term.pause(DATABASE_RETRY).await {
                return;
            }
        }
        if !term.pause(GATHER).await {
            return;
        }
    }
}

/// Makes due what is out of step of these deployments. What the loop wrote itself comes back as news too, and costs one read
/// for hundreds. Those that are worked on stay for later.
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
