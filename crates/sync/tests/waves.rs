//! A changed configuration goes over the fleet in waves.

mod support;

use std::{collections::HashMap, time::Duration};

use jiff::SignedDuration;
use model::{Problem, name::JobId};
use support::{Answer, Harness, Method};
use testing::{Database, for_each_database};

for_each_database!(
    a_changed_configuration_takes_a_twentieth_of_the_fleet_at_a_time,
    a_wave_that_fails_is_the_last_one_until_what_it_touched_is_well,
    what_was_lost_or_changed_waits_for_no_wave,
);

const FLEET: usize = 40;
const WAVE: usize = 2;

/// A fleet whose configuration is another one now; nothing runs that would roll it out.
async fn reconfigured(on: Database) -> Harness {
    let mut harness = Harness::running(on).await;
    for n in 0..FLEET {
        harness.deployed(&format!("example-job-{n}"), None).await;
    }
    harness.stop_instance().await;
    harness.constraints = "vdk-core==1".into();
    harness
}

fn made(harness: &Harness) -> HashMap<JobId, String> {
    harness.runtime.change(|s| s.made.clone())
}

/// How many deployments are made otherwise than before.
fn changed(harness: &Harness, before: &HashMap<JobId, String>) -> usize {
    made(harness).iter().filter(|(job, inputs)| before.get(job) != Some(inputs)).count()
}

async fn a_changed_configuration_takes_a_twentieth_of_the_fleet_at_a_time(on: Database) {
    let mut harness = reconfigured(on).await;
    let before = made(&harness);
    harness.runtime.change(|s| {
        s.applied.clear();
        s.apply_blocked = true;
    });
    harness.start_instance();
    harness.until("a wave has begun", async || harness.runtime.change(|s| s.applied.len()) == WAVE).await;
    // It delays no other deployment, and no second wave begins beside it.
    let other = harness.create("other-job", None).await;
    harness.runtime.change(|s| s.apply_blocked = false);
    harness.deploy("other-job").await;
    harness.until("all are recreated", async || changed(&harness, &before) == FLEET + 1).await;
    let applied = harness.runtime.change(|s| s.applied.clone());
    assert_eq!(applied.len(), FLEET + 1, "each once: {applied:?}");
    let waited = applied.iter().position(|(job, _)| *job == other).unwrap();
    assert!(waited <= 2 * WAVE, "it came after {waited}");
}

async fn a_wave_that_fails_is_the_last_one_until_what_it_touched_is_well(on: Database) {
    let mut harness = reconfigured(on).await;
    harness.sweep_interval = Duration::from_millis(100);
    let before = made(&harness);
    let problem = || {
        Problem::new(model::problem::Code::PackageInstallerFailed, "It does not install.", "The index is away.")
            .nothing_changed()
            .fix("Retry.")
    };
    harness.runtime.change(|s| s.applied.clear());
    harness.runtime.script(Method::Apply, [problem(), problem()].map(Answer::Fails));
    harness.start_instance();
    harness.until("a wave failed", async || harness.runtime.is_done(Method::Apply)).await;
    // Sweeps come and go.
    harness.deployed("other-job", None).await;
    harness.stop_instance().await;
    assert_eq!(harness.runtime.change(|s| s.applied.len()), WAVE + 1, "nothing else was touched");
    assert_eq!(changed(&harness, &before), 1);

    // The next leader tries one wave. The failed deployments are retried at their own time.
    harness.advance(SignedDuration::from_mins(10));
    harness.start_instance();
    harness.until("all are recreated", async || changed(&harness, &before) == FLEET + 1).await;
}

async fn what_was_lost_or_changed_waits_for_no_wave(on: Database) {
    let mut harness = reconfigured(on).await;
    let before = made(&harness);
    let lost: Vec<JobId> = before.keys().copied().take(10).collect();
    harness.runtime.change(|s| {
        s.applied.clear();
        for job in &lost {
            s.made.remove(job);
        }
    });
    harness.start_instance();
    harness.until("what was lost is there", async || lost.iter().all(|job| made(&harness).contains_key(job))).await;
    harness.until("all are recreated", async || changed(&harness, &before) == FLEET).await;
}
