//! Effects of the loop over deployments.

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use model::{
    Problem, clock::Clock, deployment::DeploymentChange, name::TeamName, rollout::Status, variables::JobOptions,
};
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use store::keys::{KeyRing, SecretKey};
use support::{Answer, Harness, Method};
use sync::gauges::Gauges;
use testing::{Database, for_each_database};

for_each_database!(
    an_accepted_deployment_is_reached_and_then_left_alone,
    what_was_made_and_is_gone_is_recreated,
    the_last_good_version_is_recreated_while_a_later_one_waits_for_a_change,
    a_platform_error_is_tried_again_and_a_user_error_waits_for_a_change,
    a_change_during_a_rollout_is_not_lost,
    a_change_accepted_by_an_instance_whose_clock_is_ahead_is_carried_out_at_once,
    slow_installations_hold_up_no_quick_change,
    a_new_job_with_the_same_name_starts_above_every_revision_before_it_and_inherits_nothing,
    removals_of_a_large_part_of_the_fleet_wait_until_they_are_allowed,
    removals_of_what_is_gone_already_do_not_wait,
    a_run_gets_its_own_teams_secret_and_a_hash_of_its_options_that_needs_the_key,
);

async fn rollout(harness: &Harness, id: model::name::JobId) -> model::rollout::Rollout {
    let mut tx = harness.db.read().await.unwrap();
    store::deployments::rollout(&mut tx, id).await.unwrap().unwrap()
}

async fn an_accepted_deployment_is_reached_and_then_left_alone(on: Database) {
    let harness = Harness::running(on).await;
    let id = harness.deployed("example-job", None).await;
    let version = rollout(&harness, id).await.row_version;
    // Asked for again, it is already so.
    harness.deploy("example-job").await;
    harness.notify();
    harness.deployed("another-job", None).await;
    assert_eq!(harness.runtime.change(|s| s.applied.iter().filter(|(job, _)| *job == id).count()), 1);
    assert_eq!(rollout(&harness, id).await.row_version, version);
}

async fn a_change_accepted_by_an_instance_whose_clock_is_ahead_is_carried_out_at_once(on: Database) {
    let harness = Harness::running(on).await;
    harness.create("example-job", None).await;
    let ahead = support::TestClock::at(harness.clock.now() + SignedDuration::from_mins(2));
    let change = DeploymentChange { job_version: Some(support::version()), ..DeploymentChange::default() };
    let (caller, missing) = (harness.caller(), app::deployments::Missing::Create);
    app::deployments::change(
        &harness.db,
        &ahead,
        &caller,
        &harness.defaults,
        support::TEAM,
        "example-job",
        &change,
        missing,
    )
    .await
    .unwrap();
    harness.until("it is reached", async || harness.reached("example-job").await.is_some()).await;
}

async fn what_was_made_and_is_gone_is_recreated(on: Database) {
    let mut harness = Harness::running(on).await;
    let id = harness.deployed("example-job", None).await;
    harness.stop_instance().await;
    harness.runtime.change(|s| s.made.clear());
    harness.start_instance();
    harness.until("it is recreated", async || harness.runtime.change(|s| s.made.contains_key(&id))).await;
}

async fn the_last_good_version_is_recreated_while_a_later_one_waits_for_a_change(on: Database) {
    let mut harness = Harness::running(on).await;
    let id = harness.deployed("example-job", None).await;
    harness.runtime.script(
        Method::Apply,
        [Answer::Fails(
            Problem::new(model::problem::Code::PackagesUnresolvable, "c", "d").nothing_changed().fix("Retry."),
        )],
    );
    harness.change("example-job", DeploymentChange { enabled: Some(false), ..DeploymentChange::default() }).await;
    harness.until("the later one failed", async || rollout(&harness, id).await.status == Status::UserError).await;
    harness.stop_instance().await;
    harness.runtime.change(|s| s.made.clear());
    harness.start_instance();
    harness.until("the good one is back", async || harness.runtime.change(|s| s.made.contains_key(&id))).await;
    assert_eq!(harness.runtime.change(|s| s.applied.last().copied()), Some((id, 1)));
    let rollout = rollout(&harness, id).await;
    assert_eq!((rollout.status, rollout.reached_generation), (Status::UserError, Some(1)));
}

async fn a_platform_error_is_tried_again_and_a_user_error_waits_for_a_change(on: Database) {
    let harness = Harness::running(on).await;
    let id = harness.create("example-job", None).await;
    let problems = [
        Problem::new(model::problem::Code::PackageInstallerFailed, "a", "b").nothing_changed().fix("Retry."),
        Problem::new(model::problem::Code::PackagesUnresolvable, "c", "d").nothing_changed().fix("Retry."),
    ];
    harness.runtime.script(Method::Apply, problems.map(Answer::Fails));
    harness.deploy("example-job").await;
    harness.until("it failed", async || rollout(&harness, id).await.status == Status::PlatformError).await;
    let failed = rollout(&harness, id).await;
    assert_eq!(failed.attempts, 1);
    assert!(failed.retry_at.is_some());
    assert_eq!(harness.reached("example-job").await, None);

    harness.advance(SignedDuration::from_secs(2));
    harness.until("it failed otherwise", async || rollout(&harness, id).await.status == Status::UserError).await;
    assert_eq!(rollout(&harness, id).await.problem.unwrap().what, "c");
    harness.advance(SignedDuration::from_hours(1));
    harness.deployed("another-job", None).await;
    assert_eq!(harness.runtime.change(|s| s.applied.iter().filter(|(job, _)| *job == id).count()), 2);

    harness.change("example-job", DeploymentChange { enabled: Some(false), ..DeploymentChange::default() }).await;
    harness.until("it is reached", async || harness.reached("example-job").await.is_some()).await;
    assert_eq!(rollout(&harness, id).await.problem, None);
}

async fn a_change_during_a_rollout_is_not_lost(on: Database) {
    let harness = Harness::running(on).await;
    let id = harness.create("example-job", None).await;
    harness.runtime.change(|s| s.apply_blocked = true);
    harness.deploy("example-job").await;
    harness.until("it is being applied", async || !harness.runtime.change(|s| s.applied.is_empty())).await;
    harness.change("example-job", DeploymentChange { enabled: Some(false), ..DeploymentChange::default() }).await;
    harness.runtime.change(|s| s.apply_blocked = false);
    harness.until("the later one is reached", async || harness.reached("example-job").await == Some(2)).await;
    assert_eq!(harness.runtime.change(|s| s.applied.clone()), [(id, 1), (id, 2)]);
}

async fn slow_installations_hold_up_no_quick_change(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("quick-job", None).await;
    // Other requirements have to be installed first; these wait in the pool for that.
    harness.runtime.change(|s| s.apply_blocked = true);
    for n in 0..6 {
        let name = format!("slow-job-{n}");
        harness.create(&name, None).await;
        harness.deploy(&name).await;
    }
    harness.until("two are being applied", async || harness.runtime.change(|s| s.applied.len()) == 3).await;
    app::deployments::remove(&harness.db, &*harness.clock, &harness.caller(), support::TEAM, "quick-job", "production")
        .await
        .unwrap();
    harness.until("it is removed", async || harness.runtime.change(|s| s.removed.len()) == 1).await;
    assert_eq!(harness.runtime.change(|s| s.applied.len()), 3);
}

async fn a_new_job_with_the_same_name_starts_above_every_revision_before_it_and_inherits_nothing(on: Database) {
    let harness = Harness::running(on).await;
    let first = harness.deployed("example-job", None).await;
    let run = harness.start("example-job").await;
    harness.until_status("example-job", &run, model::execution::Status::Running).await;
    harness.runtime.end(&run, harness.clock.now(), model::execution::EndCause::Exited(0));
    harness.until_status("example-job", &run, model::execution::Status::Succeeded).await;
    let properties = serde_json::from_str("{\"a\": 1}").unwrap();
    app::properties::replace(
        &harness.db,
        &*harness.clock,
        &harness.caller(),
        support::TEAM,
        "example-job",
        &properties,
    )
    .await
    .unwrap();
    let generation = harness.reached("example-job").await.unwrap();
    app::jobs::delete(&harness.db, &*harness.clock, &harness.caller(), support::TEAM, "example-job").await.unwrap();
    harness.until("it is removed", async || harness.runtime.change(|s| s.removed.contains(&first))).await;

    let second = harness.create("example-job", None).await;
    assert_ne!(first, second);
    assert_eq!(harness.reached("example-job").await, None);
    assert!(harness.executions("example-job").await.is_empty());
    let read = app::properties::read(&harness.db, &harness.caller(), support::TEAM, "example-job").await.unwrap();
    assert!(read.is_empty());
    harness.deploy("example-job").await;
    harness.until("it is reached", async || harness.reached("example-job").await.is_some_and(|g| g > generation)).await;
}

/// A fleet of which as much was removed at once as a hand that slips removes, by a service that is down.
async fn mostly_removed(on: Database) -> Harness {
    let mut harness = Harness::running(on).await;
    for n in 0..40 {
        harness.deployed(&format!("example-job-{n}"), None).await;
    }
    harness.stop_instance().await;
    for n in 0..30 {
        app::jobs::delete(&harness.db, &*harness.clock, &harness.caller(), support::TEAM, &format!("example-job-{n}"))
            .await
            .unwrap();
    }
    harness
}

async fn removals_of_a_large_part_of_the_fleet_wait_until_they_are_allowed(on: Database) {
    let mut harness = mostly_removed(on).await;
    harness.removals_max_percent = 70;
    let mut registry = Registry::default();
    let gauges = Gauges::register(&mut registry, true, harness.clock.clone());
    let (stop, task) = harness.instance_with("first", harness.db.clone(), true, Duration::from_secs(15), gauges);
    // Other deployments are still rolled out meanwhile.
    harness.deployed("another-job", None).await;
    harness
        .until("each removal was looked at, and is due later", async || {
            let mut tx = harness.db.read().await.unwrap();
            let now = harness.clock.now();
            let (due, _) = store::deployments::backlog(&mut tx, now).await.unwrap();
            due == 0 && store::deployments::next_due(&mut tx, now).await.unwrap().is_some()
        })
        .await;
    assert_eq!(harness.runtime.change(|s| (s.removed.len(), s.made.len())), (0, 41));
    harness
        .until("it is told", async || {
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
            page.contains("holdfast_removals_held_back 30\n")
        })
        .await;
    stop.cancel();
    task.await.unwrap();
    harness.removals_max_percent = 75;
    harness.start_instance();
    harness.advance(SignedDuration::from_mins(1));
    harness.until("they go", async || harness.runtime.change(|s| s.removed.len()) == 30).await;
    assert_eq!(harness.runtime.change(|s| s.made.len()), 11);
}

async fn removals_of_what_is_gone_already_do_not_wait(on: Database) {
    let mut harness = mostly_removed(on).await;
    harness.runtime.change(|s| s.made.clear());
    harness.start_instance();
    harness
        .until("the rows are gone", async || {
            let mut tx = harness.db.read().await.unwrap();
            store::deployments::removals(&mut tx).await.unwrap() == (0, 10)
        })
        .await;
}

async fn a_run_gets_its_own_teams_secret_and_a_hash_of_its_options_that_needs_the_key(on: Database) {
    let mut harness = Harness::new(on).await;
    harness.runtime.change(|s| s.mounts_team_secrets = true);
    // Another team was there first.
    let mut tx = harness.db.write().await.unwrap();
    let first = TeamName::parse("A Team").unwrap();
    assert_eq!(store::team_secrets::claim(&mut tx, &first, harness.clock.now()).await.unwrap(), "team-oauth-a-team");
    tx.commit().await.unwrap();
    let blueprint_with = async |harness: &mut Harness, password: &str, name: &str| {
        let default = BTreeMap::from([("PASSWORD".to_owned(), password.to_owned())]);
        harness.job_options = JobOptions { default, ..JobOptions::default() };
        harness.start_instance();
        harness.deployed(name, None).await;
        harness.start(name).await;
        let started = async || {
            harness.runtime.change(|s| s.started.iter().any(|run| run.deployment_spec.job_name.as_str() == name))
        };
        harness.until("the run is started", started).await;
        harness.stop_instance().await;
        harness.runtime.change(|s| s.started.pop()).unwrap().deployment_spec
    };
    let one = blueprint_with(&mut harness, "hunter2", "job-number-1").await;
    let secret = one.team_secret.unwrap();
    assert!(secret.starts_with("team-oauth-a-team-") && secret.len() == "team-oauth-a-team-".len() + 8, "{secret}");
    let hash = one.variables.options_hash.unwrap();
    let plain = hex::encode(Sha256::digest(r#"{"PASSWORD":"hunter2"}"#));
    assert!(!plain.contains(&hash) && !hash.contains(&plain[..8]), "{hash}");
    let same = blueprint_with(&mut harness, "hunter2", "job-number-2").await;
    assert_eq!((same.variables.options_hash.as_ref(), same.team_secret), (Some(&hash), Some(secret)));
    assert_ne!(
        blueprint_with(&mut harness, "hunter3", "job-number-3").await.variables.options_hash,
        Some(hash.clone())
    );
    harness.keys = Arc::new(KeyRing::from(SecretKey::new([9; 32])));
    assert_ne!(blueprint_with(&mut harness, "hunter2", "job-number-4").await.variables.options_hash, Some(hash));
}
