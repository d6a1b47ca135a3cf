//! Ticks by Kubernetes' rules.

mod support;

use jiff::SignedDuration;
use model::{
    Problem,
    clock::Clock,
    deployment::DeploymentChange,
    execution::{EndCause, Status, Type},
};
use support::{Harness, Method};
use testing::{Database, for_each_database};

for_each_database!(
    a_tick_starts_a_run_that_carries_it,
    of_the_ticks_missed_while_down_only_the_latest_runs,
    a_tick_older_than_the_starting_deadline_is_missed,
    a_tick_during_a_run_waits_and_runs_after_it,
    disabled_no_tick_fires_and_enabled_no_past_one_does,
    a_changed_schedule_fires_no_past_tick_of_its_own,
    a_clock_that_jumps_back_doubles_no_tick,
    a_clock_that_jumps_a_year_ahead_for_a_round_stops_no_schedule,
    what_was_changed_while_the_clock_was_a_year_ahead_continues_when_it_is_set_back,
    a_job_that_is_brought_back_fires_no_tick_of_the_meantime,
);

fn enabled(enabled: bool) -> DeploymentChange {
    DeploymentChange { enabled: Some(enabled), ..DeploymentChange::default() }
}

/// The executions of the job with all fields. A list leaves out the scheduled time.
async fn executions(harness: &Harness) -> Vec<model::execution::Execution> {
    let mut executions = Vec::new();
    for listed in harness.executions("example-job").await {
        executions.push(harness.execution("example-job", &listed.id).await);
    }
    executions
}

async fn ticks(harness: &Harness) -> Vec<String> {
    executions(harness).await.iter().filter_map(|e| e.scheduled_tick).map(|t| t.to_string()).collect()
}

/// Waits until a tick of this instant is a run, and ends it.
async fn runs_and_ends(harness: &Harness, tick: &str) {
    harness.until(&format!("the tick {tick} runs"), async || ticks(harness).await.contains(&tick.to_owned())).await;
    let of_tick = |e: &model::execution::Execution| e.scheduled_tick.is_some_and(|at| at.to_string() == tick);
    let id = executions(harness).await.into_iter().find(of_tick).unwrap().id;
    harness.until_status("example-job", &id, Status::Running).await;
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    harness.until_status("example-job", &id, Status::Succeeded).await;
}

/// Lets every loop go round once: a marker job is deployed and run by hand.
async fn settled(harness: &Harness) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("marker-job-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    harness.deployed(&name, Some("* * * * *")).await;
    harness.advance(SignedDuration::from_secs(60));
    harness
        .until("the marker's tick runs", async || {
            harness.executions(&name).await.iter().any(|e| e.kind == Type::Scheduled)
        })
        .await;
    harness.change(&name, enabled(false)).await;
}

async fn a_tick_starts_a_run_that_carries_it(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("example-job", Some("* * * * *")).await;
    assert!(ticks(&harness).await.is_empty());
    harness.advance(SignedDuration::from_secs(61));
    runs_and_ends(&harness, "2026-01-01T00:01:00Z").await;
    let run = &harness.executions("example-job").await[0];
    assert_eq!((run.kind, run.started_by.as_str()), (Type::Scheduled, "scheduled/runtime"));
    assert_eq!(run.op_id, run.id.as_str());
    harness.advance(SignedDuration::from_secs(60));
    runs_and_ends(&harness, "2026-01-01T00:02:00Z").await;
}

async fn of_the_ticks_missed_while_down_only_the_latest_runs(on: Database) {
    let mut harness = Harness::running(on).await;
    harness.deployed("example-job", Some("*/5 * * * *")).await;
    harness.stop_instance().await;
    harness.advance(SignedDuration::from_mins(23));
    harness.start_instance();
    runs_and_ends(&harness, "2026-01-01T00:20:00Z").await;
    assert_eq!(ticks(&harness).await, ["2026-01-01T00:20:00Z"]);
}

async fn a_tick_older_than_the_starting_deadline_is_missed(on: Database) {
    let mut harness = Harness::running(on).await;
    harness.deployed("example-job", Some("0 1 * * *")).await;
    harness.stop_instance().await;
    harness.advance(SignedDuration::from_mins(91));
    harness.start_instance();
    settled(&harness).await;
    assert!(ticks(&harness).await.is_empty());
}

async fn a_tick_during_a_run_waits_and_runs_after_it(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("example-job", Some("* * * * *")).await;
    let manual = harness.start("example-job").await;
    harness.until_status("example-job", &manual, Status::Running).await;
    // Two ticks pass; the later one takes the earlier one's place.
    harness.advance(SignedDuration::from_secs(70));
    settled(&harness).await;
    assert!(ticks(&harness).await.is_empty());
    harness.runtime.end(&manual, harness.clock.now(), EndCause::Exited(0));
    runs_and_ends(&harness, "2026-01-01T00:02:00Z").await;
    assert_eq!(ticks(&harness).await.len(), 1);
}

async fn disabled_no_tick_fires_and_enabled_no_past_one_does(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("example-job", Some("*/10 * * * *")).await;
    harness.change("example-job", enabled(false)).await;
    harness.advance(SignedDuration::from_mins(11));
    settled(&harness).await;
    harness.change("example-job", enabled(true)).await;
    settled(&harness).await;
    assert!(ticks(&harness).await.is_empty());
    harness.advance(SignedDuration::from_mins(7));
    runs_and_ends(&harness, "2026-01-01T00:20:00Z").await;
}

/// Gives the job another schedule.
async fn reschedule(harness: &Harness, cron: &str) {
    let definition = Harness::definition("example-job", Some(cron));
    let (db, clock, caller) = (&harness.db, &*harness.clock, harness.caller());
    app::jobs::update(db, clock, &caller, "UTC", &harness.defaults, support::TEAM, "example-job", definition)
        .await
        .unwrap();
}

async fn a_changed_schedule_fires_no_past_tick_of_its_own(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("example-job", Some("0 0 1 6 *")).await;
    harness.advance(SignedDuration::from_mins(12));
    reschedule(&harness, "10 * * * *").await;
    settled(&harness).await;
    assert!(ticks(&harness).await.is_empty());
    harness.advance(SignedDuration::from_mins(58));
    runs_and_ends(&harness, "2026-01-01T01:10:00Z").await;
}

async fn a_clock_that_jumps_back_doubles_no_tick(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("example-job", Some("* * * * *")).await;
    harness.advance(SignedDuration::from_secs(61));
    runs_and_ends(&harness, "2026-01-01T00:01:00Z").await;
    harness.advance(SignedDuration::from_secs(-50));
    harness.deployed("another-job", None).await;
    harness.advance(SignedDuration::from_secs(55));
    settled(&harness).await;
    let once = ticks(&harness).await.iter().filter(|t| *t == "2026-01-01T00:01:00Z").count();
    assert_eq!(once, 1);
}

async fn a_clock_that_jumps_a_year_ahead_for_a_round_stops_no_schedule(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("example-job", Some("* * * * *")).await;
    let year = SignedDuration::from_hours(365 * 24);
    let next = || async {
        let mut tx = harness.db.read().await.unwrap();
        store::schedules::earliest(&mut tx).await.unwrap().unwrap().to_string()
    };
    harness.advance(year);
    harness.until("a round saw it", async || next().await == "2027-01-01T00:01:00Z").await;
    runs_and_ends(&harness, "2027-01-01T00:00:00Z").await;
    harness.advance(-year);
    harness.until("it is corrected", async || next().await == "2026-01-01T00:01:00Z").await;
    harness.advance(SignedDuration::from_secs(61));
    runs_and_ends(&harness, "2026-01-01T00:01:00Z").await;
    harness.advance(SignedDuration::from_secs(60));
    runs_and_ends(&harness, "2026-01-01T00:02:00Z").await;
    assert_eq!(ticks(&harness).await.len(), 3);
}

async fn what_was_changed_while_the_clock_was_a_year_ahead_continues_when_it_is_set_back(on: Database) {
    let mut harness = Harness::running(on).await;
    harness.deployed("example-job", Some("0 0 1 6 *")).await;
    let year = SignedDuration::from_hours(365 * 24);
    harness.advance(year);
    // A schedule is changed, a rollout fails, and a change is accepted that is not reconciled in this time.
    reschedule(&harness, "* * * * *").await;
    harness.until("the schedule is deployed", async || harness.reached("example-job").await == Some(2)).await;
    let failing = harness.create("failing-job", None).await;
    harness.runtime.fail(
        Method::Apply,
        Some(Problem::new(model::problem::Code::PackageInstallerFailed, "a", "b").nothing_changed().fix("Retry.")),
    );
    harness.deploy("failing-job").await;
    harness
        .until("its rollout failed", async || {
            let mut tx = harness.db.read().await.unwrap();
            store::deployments::rollout(&mut tx, failing).await.unwrap().is_some_and(|r| r.retry_at.is_some())
        })
        .await;
    harness.stop_instance().await;
    harness.create("late-job", None).await;
    harness.deploy("late-job").await;
    harness.runtime.fail(Method::Apply, None);

    harness.advance(-year);
    harness.start_instance();
    harness.until("the rollout is tried again", async || harness.reached("failing-job").await.is_some()).await;
    harness.until("the change is carried out", async || harness.reached("late-job").await.is_some()).await;
    // Schedules count from the correction.
    let wakes = async || {
        let mut tx = harness.db.read().await.unwrap();
        let next = store::schedules::earliest(&mut tx).await.unwrap();
        next.is_some_and(|next| next.to_string() == "2026-01-01T00:01:00Z")
    };
    harness.until("it is corrected", wakes).await;
    harness.advance(SignedDuration::from_secs(61));
    runs_and_ends(&harness, "2026-01-01T00:01:00Z").await;
}

async fn a_job_that_is_brought_back_fires_no_tick_of_the_meantime(on: Database) {
    let harness = Harness::running(on).await;
    let id = harness.deployed("example-job", Some("0 * * * *")).await;
    app::jobs::delete(&harness.db, &*harness.clock, &harness.caller(), support::TEAM, "example-job").await.unwrap();
    harness.until("it is removed", async || harness.runtime.change(|s| s.removed.contains(&id))).await;
    harness.advance(SignedDuration::from_secs(2 * 3600 + 600));
    let (clock, caller) = (&*harness.clock, harness.caller());
    let restored =
        app::jobs::undelete(&harness.db, clock, &caller, "UTC", &harness.defaults, support::TEAM, "example-job")
            .await
            .unwrap();
    harness.until("it is reached", async || harness.reached("example-job").await == restored.generation).await;
    settled(&harness).await;
    assert_eq!(ticks(&harness).await, Vec::<String>::new());
    harness.advance(SignedDuration::from_hours(1));
    runs_and_ends(&harness, "2026-01-01T03:00:00Z").await;
    assert_eq!(ticks(&harness).await, ["2026-01-01T03:00:00Z"]);
}
