//! A changed configuration goes over the fleet in waves: some deployments at a time, and no further when those fail.
//!
//! What waits for its wave runs as it was made. A change of its own, its loss or a change by others make it anew at once,
//! with the configuration of now.

use std::time::Duration;

use jiff::Timestamp;
use model::name::JobName;
use store::{StoreError, deployments::Work};
use tokio::sync::watch;

use super::inputs::{inputs_of, make_due};
use crate::{DATABASE_RETRY, Synchronizer, Term};

/// The share of the fleet in one wave: this part of it.
const PART: usize = 20;

/// The most deployments in one wave, which are read at once.
const WAVE_MAX: usize = 500;

/// The first pause before a wave is looked at, and the longest.
const POLL_MIN: Duration = Duration::from_millis(50);
const POLL_MAX: Duration = Duration::from_secs(1);

/// What a changed configuration concerns, as a sweep found it.
#[derive(Debug, Clone, Default)]
pub(super) struct Outdated {
    /// The jobs whose deployments were made by another configuration.
    pub(super) jobs: Vec<JobName>,
    /// How many deployments there are in all.
    pub(super) fleet: usize,
}

/// How many deployments a wave has.
fn size(fleet: usize) -> usize {
    (fleet / PART).clamp(1, WAVE_MAX)
}

/// Whether the next wave has to wait: most of this one failed.
fn stops(failed: usize, wave: usize) -> bool {
    failed * 2 > wave
}

/// Rolls out what sweeps find, until the term is over.
pub(super) async fn run(sync: &Synchronizer, term: &Term, mut swept: watch::Receiver<Outdated>) {
    // The wave that failed.
    let mut failed = Vec::new();
    loop {
        tokio::select! {
            changed = swept.changed() => if changed.is_err() { return },
            () = term.over.cancelled() => return,
        }
        while let Err(error) = roll_out(sync, term, &mut swept, &mut failed).await {
            if !term.survives(&error) || !term.pause(DATABASE_RETRY).await {
                return;
            }
        }
    }
}

async fn roll_out(
    sync: &Synchronizer,
    term: &Term,
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
            "the changed configuration is not rolled out any further: most of the last wave failed, and is not well yet. What \
             is left runs as it was made. See the problems of the rollouts; mend the configuration and start again, or mend \
             what stands in the way"
        );
        return Ok(());
    }
    failed.clear();
    tracing::info!(outdated = left, fleet, at_once = size, "a changed configuration is rolled out");
    for wave in jobs.chunks(size) {
        begin(sync, wave).await?;
        let mut pause = POLL_MIN;
        let ended = loop {
            if !term.pause(pause).await {
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
                "most of a wave failed: the changed configuration is not rolled out any further for now"
            );
            return Ok(());
        }
        if swept.has_changed().unwrap_or(true) {
            // What is left is in the newer list.
            return Ok(());
        }
    }
    tracing::info!("the changed configuration is rolled out");
    Ok(())
}

/// How a wave goes.
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
        // Tried, and not again at this moment.
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
