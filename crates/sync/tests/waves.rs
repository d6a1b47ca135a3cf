//! A changed configuration goes over the fleet in waves.

mod support;

use std::{collections::HashMap, time::Duration};

use jiff::SignedDuration;
use model::{Problem, name::JobId};
use support::{Answer, House, Method};
use testing::{Database, for_each_database};

for_each_database!(
    a_changed_configuration_takes_a_twentieth_of_the_fleet_at_a_time,
    a_wave_that_fails_is_the_last_one_until_what_it_touched_is_well,
    what_was_lost_or_changed_waits_for_no_wave,
);

const FLEET: usize = 40;
const WAVE: usize = 2;

/// A fleet whose configuration is another one now; nothing runs that would roll it out.
async fn reconfigured(on: Database) -> House {
    let mut house = House::running(on).await;
    for n in 0..FLEET {
        house.deployed(&format!("example-job-{n}"), None).await;
    }
    house.stop_instance().await;
    house.constraints = "vdk-core==1".into();
    house
}

fn made(house: &House) -> HashMap<JobId, String> {
    house.runtime.change(|s| s.made.clone())
}

/// How many deployments are made otherwise than before.
fn changed(house: &House, before: &HashMap<JobId, String>) -> usize {
    made(house).iter().filter(|(job, inputs)| before.get(job) != Some(inputs)).count()
}

async fn a_changed_configuration_takes_a_twentieth_of_the_fleet_at_a_time(on: Database) {
    let mut house = reconfigured(on).await;
    let before = made(&house);
    house.runtime.change(|s| {
        s.applied.clear();
        s.apply_blocked = true;
    });
    house.start_instance();
    house.until("a wave has begun", async || house.runtime.change(|s| s.applied.len()) == WAVE).await;
    // It holds up nobody, and is not joined by a second one.
    let other = house.create("other-job", None).await;
    house.runtime.change(|s| s.apply_blocked = false);
    house.deploy("other-job").await;
    house.until("all are made anew", async || changed(&house, &before) == FLEET + 1).await;
    let applied = house.runtime.change(|s| s.applied.clone());
    assert_eq!(applied.len(), FLEET + 1, "each once: {applied:?}");
    let waited = applied.iter().position(|(job, _)| *job == other).unwrap();
    assert!(waited <= 2 * WAVE, "it came after {waited}");
}

async fn a_wave_that_fails_is_the_last_one_until_what_it_touched_is_well(on: Database) {
    let mut house = reconfigured(on).await;
    house.sweep_interval = Duration::from_millis(100);
    let before = made(&house);
    let problem = || Problem::unavailable("It does not install.", "The index is away.");
    house.runtime.change(|s| s.applied.clear());
    house.runtime.script(Method::Apply, [problem(), problem()].map(Answer::Fails));
    house.start_instance();
    house.until("a wave failed", async || house.runtime.is_done(Method::Apply)).await;
    // Sweeps come and go.
    house.deployed("other-job", None).await;
    house.stop_instance().await;
    assert_eq!(house.runtime.change(|s| s.applied.len()), WAVE + 1, "nothing else was touched");
    assert_eq!(changed(&house, &before), 1);

    // Who takes over tries one wave. The failed ones are tried again in their time.
    house.advance(SignedDuration::from_mins(10));
    house.start_instance();
    house.until("all are made anew", async || changed(&house, &before) == FLEET + 1).await;
}

async fn what_was_lost_or_changed_waits_for_no_wave(on: Database) {
    let mut house = reconfigured(on).await;
    let before = made(&house);
    let lost: Vec<JobId> = before.keys().copied().take(10).collect();
    house.runtime.change(|s| {
        s.applied.clear();
        for job in &lost {
            s.made.remove(job);
        }
    });
    house.start_instance();
    house.until("what was lost is there", async || lost.iter().all(|job| made(&house).contains_key(job))).await;
    house.until("all are made anew", async || changed(&house, &before) == FLEET).await;
}
