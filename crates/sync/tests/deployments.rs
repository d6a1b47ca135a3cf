//! What the loop over deployments brings about.

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use model::{
    Problem, clock::Clock, deployment::DeploymentChange, name::TeamName, rollout::Status, variables::JobOptions,
};
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use store::keys::{KeyRing, SecretKey};
use support::{Answer, House, Method};
use sync::gauges::Gauges;
use testing::{Database, for_each_database};

for_each_database!(
    an_accepted_deployment_is_reached_and_then_left_alone,
    what_was_made_and_is_gone_is_made_again,
    the_last_good_version_is_made_again_while_a_later_one_waits_for_a_change,
    a_platform_error_is_tried_again_and_a_user_error_waits_for_a_change,
    a_change_during_a_rollout_is_not_lost,
    a_change_accepted_by_an_instance_whose_clock_is_ahead_is_carried_out_at_once,
    slow_installations_hold_up_no_quick_change,
    a_namesake_starts_above_every_generation_before_it_and_inherits_nothing,
    removals_of_a_large_part_of_the_fleet_wait_until_they_are_allowed,
    removals_of_what_is_gone_already_wait_for_nobody,
    a_run_gets_its_own_teams_secret_and_a_hash_of_its_options_that_needs_the_key,
);

async fn rollout(house: &House, id: model::name::JobId) -> model::rollout::Rollout {
    let mut tx = house.db.read().await.unwrap();
    store::deployments::rollout(&mut tx, id).await.unwrap().unwrap()
}

async fn an_accepted_deployment_is_reached_and_then_left_alone(on: Database) {
    let house = House::running(on).await;
    let id = house.deployed("example-job", None).await;
    let version = rollout(&house, id).await.row_version;
    // Asked for again, it is already so.
    house.deploy("example-job").await;
    house.wake();
    house.deployed("another-job", None).await;
    assert_eq!(house.runtime.change(|s| s.applied.iter().filter(|(job, _)| *job == id).count()), 1);
    assert_eq!(rollout(&house, id).await.row_version, version);
}

async fn a_change_accepted_by_an_instance_whose_clock_is_ahead_is_carried_out_at_once(on: Database) {
    let house = House::running(on).await;
    house.create("example-job", None).await;
    let ahead = support::TestClock::at(house.clock.now() + SignedDuration::from_mins(2));
    let change = DeploymentChange { job_version: Some(support::version()), ..DeploymentChange::default() };
    let (caller, missing) = (house.caller(), app::deployments::Missing::Create);
    app::deployments::change(
        &house.db,
        &ahead,
        &caller,
        &house.defaults,
        support::TEAM,
        "example-job",
        &change,
        missing,
    )
    .await
    .unwrap();
    house.until("it is reached", async || house.reached("example-job").await.is_some()).await;
}

async fn what_was_made_and_is_gone_is_made_again(on: Database) {
    let mut house = House::running(on).await;
    let id = house.deployed("example-job", None).await;
    house.stop_instance().await;
    house.runtime.change(|s| s.made.clear());
    house.start_instance();
    house.until("it is made again", async || house.runtime.change(|s| s.made.contains_key(&id))).await;
}

async fn the_last_good_version_is_made_again_while_a_later_one_waits_for_a_change(on: Database) {
    let mut house = House::running(on).await;
    let id = house.deployed("example-job", None).await;
    house.runtime.script(Method::Apply, [Answer::Fails(Problem::invalid("c", "d"))]);
    house.change("example-job", DeploymentChange { enabled: Some(false), ..DeploymentChange::default() }).await;
    house.until("the later one failed", async || rollout(&house, id).await.status == Status::UserError).await;
    house.stop_instance().await;
    house.runtime.change(|s| s.made.clear());
    house.start_instance();
    house.until("the good one is back", async || house.runtime.change(|s| s.made.contains_key(&id))).await;
    assert_eq!(house.runtime.change(|s| s.applied.last().copied()), Some((id, 1)));
    let rollout = rollout(&house, id).await;
    assert_eq!((rollout.status, rollout.reached_generation), (Status::UserError, Some(1)));
}

async fn a_platform_error_is_tried_again_and_a_user_error_waits_for_a_change(on: Database) {
    let house = House::running(on).await;
    let id = house.create("example-job", None).await;
    let problems = [Problem::unavailable("a", "b"), Problem::invalid("c", "d")];
    house.runtime.script(Method::Apply, problems.map(Answer::Fails));
    house.deploy("example-job").await;
    house.until("it failed", async || rollout(&house, id).await.status == Status::PlatformError).await;
    let failed = rollout(&house, id).await;
    assert_eq!(failed.attempts, 1);
    assert!(failed.retry_at.is_some());
    assert_eq!(house.reached("example-job").await, None);

    house.advance(SignedDuration::from_secs(2));
    house.until("it failed otherwise", async || rollout(&house, id).await.status == Status::UserError).await;
    assert_eq!(rollout(&house, id).await.problem.unwrap().what, "c");
    house.advance(SignedDuration::from_hours(1));
    house.deployed("another-job", None).await;
    assert_eq!(house.runtime.change(|s| s.applied.iter().filter(|(job, _)| *job == id).count()), 2);

    house.change("example-job", DeploymentChange { enabled: Some(false), ..DeploymentChange::default() }).await;
    house.until("it is reached", async || house.reached("example-job").await.is_some()).await;
    assert_eq!(rollout(&house, id).await.problem, None);
}

async fn a_change_during_a_rollout_is_not_lost(on: Database) {
    let house = House::running(on).await;
    let id = house.create("example-job", None).await;
    house.runtime.change(|s| s.apply_blocked = true);
    house.deploy("example-job").await;
    house.until("it is being applied", async || !house.runtime.change(|s| s.applied.is_empty())).await;
    house.change("example-job", DeploymentChange { enabled: Some(false), ..DeploymentChange::default() }).await;
    house.runtime.change(|s| s.apply_blocked = false);
    house.until("the later one is reached", async || house.reached("example-job").await == Some(2)).await;
    assert_eq!(house.runtime.change(|s| s.applied.clone()), [(id, 1), (id, 2)]);
}

async fn slow_installations_hold_up_no_quick_change(on: Database) {
    let house = House::running(on).await;
    house.deployed("quick-job", None).await;
    // Other requirements have to be installed first; these wait in the pool for that.
    house.runtime.change(|s| s.apply_blocked = true);
    for n in 0..6 {
        let name = format!("slow-job-{n}");
        house.create(&name, None).await;
        house.deploy(&name).await;
    }
    house.until("two are being applied", async || house.runtime.change(|s| s.applied.len()) == 3).await;
    app::deployments::remove(&house.db, &*house.clock, &house.caller(), support::TEAM, "quick-job", "production")
        .await
        .unwrap();
    house.until("it is removed", async || house.runtime.change(|s| s.removed.len()) == 1).await;
    assert_eq!(house.runtime.change(|s| s.applied.len()), 3);
}

async fn a_namesake_starts_above_every_generation_before_it_and_inherits_nothing(on: Database) {
    let house = House::running(on).await;
    let first = house.deployed("example-job", None).await;
    let run = house.start("example-job").await;
    house.until_status("example-job", &run, model::execution::Status::Running).await;
    house.runtime.end(&run, house.clock.now(), model::execution::EndCause::Exited(0));
    house.until_status("example-job", &run, model::execution::Status::Succeeded).await;
    let properties = serde_json::from_str("{\"a\": 1}").unwrap();
    app::properties::replace(&house.db, &*house.clock, &house.caller(), support::TEAM, "example-job", &properties)
        .await
        .unwrap();
    let generation = house.reached("example-job").await.unwrap();
    app::jobs::delete(&house.db, &*house.clock, &house.caller(), support::TEAM, "example-job").await.unwrap();
    house.until("it is removed", async || house.runtime.change(|s| s.removed.contains(&first))).await;

    let second = house.create("example-job", None).await;
    assert_ne!(first, second);
    assert_eq!(house.reached("example-job").await, None);
    assert!(house.executions("example-job").await.is_empty());
    let read = app::properties::read(&house.db, &house.caller(), support::TEAM, "example-job").await.unwrap();
    assert!(read.is_empty());
    house.deploy("example-job").await;
    house.until("it is reached", async || house.reached("example-job").await.is_some_and(|g| g > generation)).await;
}

/// A fleet of which as much was removed at once as a hand that slips removes, by a service that is down.
async fn mostly_removed(on: Database) -> House {
    let mut house = House::running(on).await;
    for n in 0..40 {
        house.deployed(&format!("example-job-{n}"), None).await;
    }
    house.stop_instance().await;
    for n in 0..30 {
        app::jobs::delete(&house.db, &*house.clock, &house.caller(), support::TEAM, &format!("example-job-{n}"))
            .await
            .unwrap();
    }
    house
}

async fn removals_of_a_large_part_of_the_fleet_wait_until_they_are_allowed(on: Database) {
    let mut house = mostly_removed(on).await;
    house.removals_max_percent = 70;
    let mut registry = Registry::default();
    let gauges = Gauges::register(&mut registry, true, house.clock.clone());
    let (stop, task) = house.instance_with("first", house.db.clone(), true, Duration::from_secs(15), gauges);
    // What is wanted goes on being made meanwhile.
    house.deployed("another-job", None).await;
    house
        .until("each removal was looked at, and is due later", async || {
            let mut tx = house.db.read().await.unwrap();
            let now = house.clock.now();
            let (due, _) = store::deployments::backlog(&mut tx, now).await.unwrap();
            due == 0 && store::deployments::next_due(&mut tx, now).await.unwrap().is_some()
        })
        .await;
    assert_eq!(house.runtime.change(|s| (s.removed.len(), s.made.len())), (0, 41));
    house
        .until("it is told", async || {
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
            page.contains("holdfast_removals_held_back 30\n")
        })
        .await;
    stop.cancel();
    task.await.unwrap();
    house.removals_max_percent = 75;
    house.start_instance();
    house.advance(SignedDuration::from_mins(1));
    house.until("they go", async || house.runtime.change(|s| s.removed.len()) == 30).await;
    assert_eq!(house.runtime.change(|s| s.made.len()), 11);
}

async fn removals_of_what_is_gone_already_wait_for_nobody(on: Database) {
    let mut house = mostly_removed(on).await;
    house.runtime.change(|s| s.made.clear());
    house.start_instance();
    house
        .until("the rows are gone", async || {
            let mut tx = house.db.read().await.unwrap();
            store::deployments::removals(&mut tx).await.unwrap() == (0, 10)
        })
        .await;
}

async fn a_run_gets_its_own_teams_secret_and_a_hash_of_its_options_that_needs_the_key(on: Database) {
    let mut house = House::new(on).await;
    house.runtime.change(|s| s.mounts_team_secrets = true);
    // Another team was there first.
    let mut tx = house.db.write().await.unwrap();
    let first = TeamName::parse("A Team").unwrap();
    assert_eq!(store::team_secrets::claim(&mut tx, &first, house.clock.now()).await.unwrap(), "team-oauth-a-team");
    tx.commit().await.unwrap();
    let blueprint_with = async |house: &mut House, password: &str, name: &str| {
        let default = BTreeMap::from([("PASSWORD".to_owned(), password.to_owned())]);
        house.job_options = JobOptions { default, ..JobOptions::default() };
        house.start_instance();
        house.deployed(name, None).await;
        house.start(name).await;
        let started =
            async || house.runtime.change(|s| s.started.iter().any(|run| run.blueprint.job_name.as_str() == name));
        house.until("the run is started", started).await;
        house.stop_instance().await;
        house.runtime.change(|s| s.started.pop()).unwrap().blueprint
    };
    let one = blueprint_with(&mut house, "hunter2", "job-number-1").await;
    let secret = one.team_secret.unwrap();
    assert!(secret.starts_with("team-oauth-a-team-") && secret.len() == "team-oauth-a-team-".len() + 8, "{secret}");
    let hash = one.variables.options_hash.unwrap();
    let plain = hex::encode(Sha256::digest(r#"{"PASSWORD":"hunter2"}"#));
    assert!(!plain.contains(&hash) && !hash.contains(&plain[..8]), "{hash}");
    let same = blueprint_with(&mut house, "hunter2", "job-number-2").await;
    assert_eq!((same.variables.options_hash.as_ref(), same.team_secret), (Some(&hash), Some(secret)));
    assert_ne!(blueprint_with(&mut house, "hunter3", "job-number-3").await.variables.options_hash, Some(hash.clone()));
    house.keys = Arc::new(KeyRing::from(SecretKey::new([9; 32])));
    assert_ne!(blueprint_with(&mut house, "hunter2", "job-number-4").await.variables.options_hash, Some(hash));
}
