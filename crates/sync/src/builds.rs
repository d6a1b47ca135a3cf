//! Builds the artifacts of deployments: a queue with a limit of its own, so that no quick change waits for a build.
//!
//! A build is a row. Its rollouts wait in the database, not in memory; they are found there when it ends, and rollouts with
//! equal inputs share the result. The end of a leader epoch aborts builds in progress; the next leader starts them again.

use std::time::Duration;

use model::{
    Problem,
    build::{BuildInputs, BuildKey, Built, Progress},
    problem::Code,
};
use store::StoreError;
use tokio::sync::watch;
use tokio_util::task::JoinMap;
use tracing::Instrument;

use crate::{DATABASE_RETRY, LeaderEpoch, Synchronizer};

/// The longest pause between two queries for queued builds.
const POLL_MAX: Duration = Duration::from_secs(5);

/// How often the progress of a build is recorded.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Builds until the leader epoch is over.
pub(crate) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    while let Err(error) = take_over(sync, leader_epoch).await {
        if !leader_epoch.survives(&error) || !leader_epoch.pause(DATABASE_RETRY).await {
            return;
        }
    }
    // Builds that the former leader had begun are queued again.
    sync.db.notifications().deployments.notify_one();
    let mut tasks: JoinMap<BuildKey, ()> = JoinMap::new();
    loop {
        sync.gauges.beat("builds");
        let free = sync.options.builds_parallelism.saturating_sub(tasks.len());
        let wait = match begin(sync, leader_epoch, free).await {
            Ok(begun) => {
                for inputs in begun {
                    let (sync, leader_epoch, key) = (sync.clone(), leader_epoch.clone(), inputs.key.clone());
                    let span = tracing::error_span!("build", %key, epoch = leader_epoch.epoch.0);
                    tasks.spawn(key, async move { build(&sync, &leader_epoch, &inputs).await }.instrument(span));
                }
                POLL_MAX
            }
            Err(error) if leader_epoch.survives(&error) => DATABASE_RETRY,
            Err(_) => break,
        };
        tokio::select! {
            () = leader_epoch.over.cancelled() => break,
            () = leader_epoch.builds.notified() => {}
            () = sync.clock.sleep(wait) => {}
            Some((key, ended)) = tasks.join_next() => {
                if let Err(error) = ended {
                    sync.gauges.panicked("build");
                    tracing::error!(%error, %key, "a build panicked");
                    let (sync, leader_epoch, of) = (sync.clone(), leader_epoch.clone(), key.clone());
                    tasks.spawn(key, async move {
                        let problem = Problem::new(Code::BuildFailedInternally, "The data job was not built.", "The build stopped because of a bug in Holdfast.").not_rolled_out().no_action("Holdfast retries. The operator finds the details in the log.");
                        record(&sync, &leader_epoch, &of, Err(&problem)).await;
                    });
                }
            }
        }
    }
    tasks.shutdown().await;
}

async fn take_over(sync: &Synchronizer, leader_epoch: &LeaderEpoch) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    store::builds::take_over(&mut tx, leader_epoch.epoch, sync.builder.name()).await?;
    tx.commit().await
}

/// Marks the next builds as running.
async fn begin(sync: &Synchronizer, leader_epoch: &LeaderEpoch, free: usize) -> Result<Vec<BuildInputs>, StoreError> {
    let mut queued = {
        let mut tx = sync.db.read().await?;
        store::builds::next(&mut tx, i64::try_from(free).unwrap_or(i64::MAX)).await?
    };
    if queued.is_empty() {
        return Ok(queued);
    }
    let mut tx = sync.db.write().await?;
    let mut begun = Vec::new();
    for inputs in queued.drain(..) {
        if store::builds::begin(&mut tx, leader_epoch.epoch, &inputs.key, sync.clock.now()).await? {
            begun.push(inputs);
        }
    }
    tx.commit().await?;
    Ok(begun)
}

async fn build(sync: &Synchronizer, leader_epoch: &LeaderEpoch, inputs: &BuildInputs) {
    let begun = sync.clock.boot();
    tracing::info!("building");
    let (reported, progress) = watch::channel(None);
    let report = |now: Progress| {
        reported.send_replace(Some(now));
    };
    let result = tokio::select! {
        result = sync.builder.build(inputs, &report) => result,
        () = record_progress(sync, leader_epoch, &inputs.key, progress) => return,
    };
    match &result {
        Ok(_) => tracing::info!(seconds = sync.clock.boot().saturating_sub(begun).as_secs_f64(), "built"),
        Err(problem) => {
            tracing::warn!(%problem, "not built");
            sync.gauges.applied(begun, &result);
        }
    }
    record(sync, leader_epoch, &inputs.key, result.as_ref()).await;
}

/// Records how far a build is whenever that changed. Ends with the leader epoch.
async fn record_progress(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    key: &BuildKey,
    mut progress: watch::Receiver<Option<Progress>>,
) {
    while progress.changed().await.is_ok() {
        let Some(changed) = *progress.borrow_and_update() else { continue };
        let written = async {
            let mut tx = sync.db.write().await?;
            store::builds::progress(&mut tx, leader_epoch.epoch, key, changed).await?;
            tx.commit().await
        };
        match written.await {
            Ok(()) => {}
            Err(error) if leader_epoch.survives(&error) => {}
            Err(_) => return,
        }
        if !leader_epoch.pause(PROGRESS_INTERVAL).await {
            return;
        }
    }
}

/// Records the end of a build, and makes the rollouts due that wait for it.
async fn record(sync: &Synchronizer, leader_epoch: &LeaderEpoch, key: &BuildKey, result: Result<&Built, &Problem>) {
    while let Err(error) = try_record(sync, leader_epoch, key, result).await {
        if !leader_epoch.survives(&error) || !leader_epoch.pause(DATABASE_RETRY).await {
            return;
        }
    }
    sync.db.notifications().deployments.notify_one();
}

async fn try_record(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    key: &BuildKey,
    result: Result<&Built, &Problem>,
) -> Result<(), StoreError> {
    let mut tx = sync.db.write().await?;
    store::builds::finish(&mut tx, leader_epoch.epoch, key, result, sync.clock.now()).await?;
    tx.commit().await
}
