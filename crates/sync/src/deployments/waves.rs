//! Rolls a changed configuration out in waves: some deployments at a time, and no further when most of a wave fails.
//!
//! A deployment that waits for its wave keeps its former configuration. It gets the present one at once if it is changed,
//! deleted or edited by others meanwhile.

use std::time::Duration;

use jiff::Timestamp;
use model::name::JobName;
use store::{StoreError, deployments::Work};
use tokio::sync::watch;

use super::inputs::{inputs_of, make_due};
use crate::{DATABASE_RETRY, LeaderEpoch, Synchronizer};

/// One wave has this fraction of the fleet: one divided by this number.
const PART: usize = 20;

/// The most deployments in one wave, because they are read at once.
const WAVE_MAX: usize = 500;

/// The first and the longest pause before the state of a wave is checked.
const POLL_MIN: Duration = Duration::from_millis(50);
const POLL_MAX: Duration = Duration::from_secs(1);

/// The deployments that a changed configuration concerns, as the last full resync found them.
#[derive(Debug, Clone, Default)]
pub(super) struct Outdated {
    /// The jobs whose deployments were made by another configuration.
    pub(super) jobs: Vec<JobName>,
    /// The number of all deployments.
    pub(super) fleet: usize,
}

/// The number of deployments in a wave.
fn size(fleet: usize) -> usize {
    (fleet / PART).clamp(1, WAVE_MAX)
}

/// Whether the next wave has to wait, because most of this one failed.
fn stops(failed: usize, wave: usize) -> bool {
    failed * 2 > wave
}

/// Rolls out the results of full resyncs, until the leader epoch is over.
pub(super) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch, mut swept: watch::Receiver<Outdated>) {
    // The wave that failed.
    let mut failed = Vec::new();
    loop {
        tokio::select! {
            changed = swept.changed() => if changed.is_err() { return },
            () = leader_epoch.over.cancelled() => return,
        }
        while let Err(error) = roll_out(sync, leader_epoch, &mut swept, &mut failed).await {
            if !leader_epoch.survives(&error) || !leader_epoch.pause(DATABASE_RETRY).await {
                return;
            }
        }
    }
}

async fn roll_out(
    sync: &Synchronizer,
    leader_epoch: &LeaderEpoch,
    swept: &mut watch::Receiver<Outdated>,
    failed: &mut Vec<JobName>,
) -> Result<(), StoreError> {
    let Outdated { jobs, fleet } = swept.borrow_and_update().clone();
    let mut left = jobs.len();
    sync.gauges.configuration_pending(left, !failed.is_empty());
    if left == 0 && failed.is_empty() {
        return Ok(());
    }
    let size = size(fleet);
    if stops(progress(sync, failed).await?.failed, size) {
        tracing::error!(
            left,
            "the rollout of the changed configuration stopped: most of the last wave failed and still fails. The rest keeps its \
             former configuration. See the problems of the rollouts, fix the cause or the configuration, and restart"
        );
        return Ok(());
    }
    failed.clear();
    tracing::info!(outdated = left, fleet, at_once = size, "a changed configuration is rolled out");
    for wave in jobs.chunks(size) {
        begin(sync, wave).await?;
        let mut pause = POLL_MIN;
        let ended = loop {
            if !leader_epoch.pause(pause).await {
                return Ok(());
            }
            let seen = progress(sync, wave).await?;
            if seen.pending == 0 {
                break seen;
            }
            pause = (pause * 2).min(POLL_MAX);
        };
        left -= wave.len();
        let stopped = stops(ended.failed, wave.len());
        sync.gauges.configuration_pending(left, stopped);
        if stopped {
            *failed = wave.to_vec();
            tracing::error!(
                failed = ended.failed,
                of = wave.len(),
                left,
                "most of a wave failed; the rollout of the changed configuration stops for now"
            );
            return Ok(());
        }
        if swept.has_changed().unwrap_or(true) {
            // The newer list contains the rest.
            return Ok(());
        }
    }
    tracing::info!("the changed configuration is rolled out");
    Ok(())
}

/// The progress of a wave.
#[derive(Default)]
struct Seen {
    pending: usize,
    failed: usize,
}

async fn begin(sync: &Synchronizer, wave: &[JobName]) -> Result<(), StoreError> {
    let work = read(sync, wave).await?;
    let has_to = |(work, due): &&(Work, Option<Timestamp>)| {
        due.is_none() && work.rollout.inputs_hash.as_ref() != Some(&inputs_of(sync, work).1)
    };
    let due: Vec<_> = work.iter().filter(has_to).map(|(work, _)| work.deployment.job_id).collect();
    make_due(sync, &due).await
}

async fn progress(sync: &Synchronizer, wave: &[JobName]) -> Result<Seen, StoreError> {
    let mut seen = Seen::default();
    for (work, due) in read(sync, wave).await? {
        let inputs = Some(inputs_of(sync, &work).1);
        if work.removed || work.rollout.inputs_hash == inputs {
            continue;
        }
        // It failed, and waits for its retry.
        if work.rollout.tried_inputs_hash == inputs && due.is_none_or(|due| due > sync.clock.now()) {
            seen.failed += 1;
        } else if due.is_some() {
            seen.pending += 1;
        }
    }
    Ok(seen)
}

async fn read(sync: &Synchronizer, wave: &[JobName]) -> Result<Vec<(Work, Option<Timestamp>)>, StoreError> {
    let names: Vec<String> = wave.iter().map(ToString::to_string).collect();
    let mut tx = sync.db.read().await?;
    store::deployments::work_of_names(&mut tx, &names).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_a_twentieth_of_the_fleet_and_stops_when_most_of_it_fails() {
        assert_eq!([0, 1, 19, 20, 99, 1000, 10_000, 100_000].map(size), [1, 1, 1, 1, 4, 50, 500, 500]);
        assert!(!stops(0, 1) && stops(1, 1) && !stops(1, 2) && stops(2, 3) && !stops(25, 50) && stops(26, 50));
    }
}
