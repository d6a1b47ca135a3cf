//! Ticks by Kubernetes' rules.

mod support;

use jiff::SignedDuration;
use model::{
    Problem,
    clock::Clock,
    deployment::DeploymentChange,
    execution::{EndCause, Status, Type},
};
use support::{House, Method};
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

async fn ticks(house: &House) -> Vec<String> {
    let executions = house.executions("example-job").await;
    executions.iter().filter_map(|e| e.scheduled_tick).map(|t| t.to_string()).collect()
}

/// Waits until a tick of this instant is a run, and ends it.
async fn runs_and_ends(house: &House, tick: &str) {
    house.until(&format!("the tick {tick} runs"), async || ticks(house).await.contains(&tick.to_owned())).await;
    let of_tick = |e: &model::execution::Execution| e.scheduled_tick.is_some_and(|at| at.to_string() == tick);
    let id = house.executions("example-job").await.into_iter().find(of_tick).unwrap().id;
    house.until_status("example-job", &id, Status::Running).await;
    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
    house.until_status("example-job", &id, Status::Succeeded).await;
}

/// Lets every loop go round once: a marker job is deployed and run by hand.
async fn settled(house: &House) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("marker-job-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    house.deployed(&name, Some("* * * * *")).await;
    house.advance(SignedDuration::from_secs(60));
    house
        .until("the marker's tick runs", async || {
            house.executions(&name).await.iter().any(|e| e.kind == Type::Scheduled)
        })
        .await;
    house.change(&name, enabled(false)).await;
}

async fn a_tick_starts_a_run_that_carries_it(on: Database) {
    let house = House::running(on).await;
    house.deployed("example-job", Some("* * * * *")).await;
    assert!(ticks(&house).await.is_empty());
    house.advance(SignedDuration::from_secs(61));
    runs_and_ends(&house, "2026-01-01T00:01:00Z").await;
    let run = &house.executions("example-job").await[0];
    assert_eq!((run.kind, run.started_by.as_str()), (Type::Scheduled, "scheduled/runtime"));
    assert_eq!(run.op_id, run.id.as_str());
    house.advance(SignedDuration::from_secs(60));
    runs_and_ends(&house, "2026-01-01T00:02:00Z").await;
}

async fn of_the_ticks_missed_while_down_only_the_latest_runs(on: Database) {
    let mut house = House::running(on).await;
    house.deployed("example-job", Some("*/5 * * * *")).await;
    house.stop_instance().await;
    house.advance(SignedDuration::from_mins(23));
    house.start_instance();
    runs_and_ends(&house, "2026-01-01T00:20:00Z").await;
    assert_eq!(ticks(&house).await, ["2026-01-01T00:20:00Z"]);
}

async fn a_tick_older_than_the_starting_deadline_is_missed(on: Database) {
    let mut house = House::running(on).await;
    house.deployed("example-job", Some("0 1 * * *")).await;
    house.stop_instance().await;
    house.advance(SignedDuration::from_mins(91));
    house.start_instance();
    settled(&house).await;
    assert!(ticks(&house).await.is_empty());
}

async fn a_tick_during_a_run_waits_and_runs_after_it(on: Database) {
    let house = House::running(on).await;
    house.deployed("example-job", Some("* * * * *")).await;
    let manual = house.start("example-job").await;
    house.until_status("example-job", &manual, Status::Running).await;
    // Two ticks pass; the later one takes the earlier one's place.
    house.advance(SignedDuration::from_secs(70));
    settled(&house).await;
    assert!(ticks(&house).await.is_empty());
    house.runtime.end(&manual, house.clock.now(), EndCause::Exited(0));
    runs_and_ends(&house, "2026-01-01T00:02:00Z").await;
    assert_eq!(ticks(&house).await.len(), 1);
}

async fn disabled_no_tick_fires_and_enabled_no_past_one_does(on: Database) {
    let house = House::running(on).await;
    house.deployed("example-job", Some("*/10 * * * *")).await;
    house.change("example-job", enabled(false)).await;
    house.advance(SignedDuration::from_mins(11));
    settled(&house).await;
    house.change("example-job", enabled(true)).await;
    settled(&house).await;
    assert!(ticks(&house).await.is_empty());
    house.advance(SignedDuration::from_mins(7));
    runs_and_ends(&house, "2026-01-01T00:20:00Z").await;
}

async fn a_changed_schedule_fires_no_past_tick_of_its_own(on: Database) {
    let house = House::running(on).await;
    house.deployed("example-job", Some("0 0 1 6 *")).await;
    house.advance(SignedDuration::from_mins(12));
    let definition = House::definition("example-job", Some("10 * * * *"));
    app::jobs::update(
        &house.db,
        &*house.clock,
        &house.caller(),
        "UTC",
        &house.defaults,
        support::TEAM,
        "example-job",
        definition,
    )
    .await
    .unwrap();
    settled(&house).await;
    assert!(ticks(&house).await.is_empty());
    house.advance(SignedDuration::from_mins(58));
    runs_and_ends(&house, "2026-01-01T01:10:00Z").await;
}

async fn a_clock_that_jumps_back_doubles_no_tick(on: Database) {
    let house = House::running(on).await;
    house.deployed("example-job", Some("* * * * *")).await;
    house.advance(SignedDuration::from_secs(61));
    runs_and_ends(&house, "2026-01-01T00:01:00Z").await;
    house.advance(SignedDuration::from_secs(-50));
    house.deployed("another-job", None).await;
    house.advance(SignedDuration::from_secs(55));
    settled(&house).await;
    let once = ticks(&house).await.iter().filter(|t| *t == "2026-01-01T00:01:00Z").count();
    assert_eq!(once, 1);
}

async fn a_clock_that_jumps_a_year_ahead_for_a_round_stops_no_schedule(on: Database) {
    let house = House::running(on).await;
    house.deployed("example-job", Some("* * * * *")).await;
    let year = SignedDuration::from_hours(365 * 24);
    let next = || async {
        let mut tx = house.db.read().await.unwrap();
        store::schedules::earliest(&mut tx).await.unwrap().unwrap().to_string()
    };
    house.advance(year);
    house.until("a round saw it", async || next().await == "2027-01-01T00:01:00Z").await;
    runs_and_ends(&house, "2027-01-01T00:00:00Z").await;
    house.advance(-year);
    house.until("it is corrected", async || next().await == "2026-01-01T00:01:00Z").await;
    house.advance(SignedDuration::from_secs(61));
    runs_and_ends(&house, "2026-01-01T00:01:00Z").await;
    house.advance(SignedDuration::from_secs(60));
    runs_and_ends(&house, "2026-01-01T00:02:00Z").await;
    assert_eq!(ticks(&house).await.len(), 3);
}

async fn what_was_changed_while_the_clock_was_a_year_ahead_continues_when_it_is_set_back(on: Database) {
    let mut house = House::running(on).await;
    house.deployed("example-job", Some("0 0 1 6 *")).await;
    let year = SignedDuration::from_hours(365 * 24);
    house.advance(year);
    // A schedule is changed, a rollout fails, and a change is accepted that nobody looks at in this time.
    app::jobs::update(
        &house.db,
        &*house.clock,
        &house.caller(),
        "UTC",
        &house.defaults,
        support::TEAM,
        "example-job",
        House::definition("example-job", Some("* * * * *")),
    )
    .await
    .unwrap();
    house.until("the schedule is deployed", async || house.reached("example-job").await == Some(2)).await;
    let failing = house.create("failing-job", None).await;
    house.runtime.fail(Method::Apply, Some(Problem::unavailable("a", "b")));
    house.deploy("failing-job").await;
    house
        .until("its rollout failed", async || {
            let mut tx = house.db.read().await.unwrap();
            store::deployments::rollout(&mut tx, failing).await.unwrap().is_some_and(|r| r.retry_at.is_some())
        })
        .await;
    house.stop_instance().await;
    house.create("late-job", None).await;
    house.deploy("late-job").await;
    house.runtime.fail(Method::Apply, None);

    house.advance(-year);
    house.start_instance();
    house.until("the rollout is tried again", async || house.reached("failing-job").await.is_some()).await;
    house.until("the change is carried out", async || house.reached("late-job").await.is_some()).await;
    // Schedules count from the correction.
    let wakes = async || {
        let mut tx = house.db.read().await.unwrap();
        let next = store::schedules::earliest(&mut tx).await.unwrap();
        next.is_some_and(|next| next.to_string() == "2026-01-01T00:01:00Z")
    };
    house.until("it is corrected", wakes).await;
    house.advance(SignedDuration::from_secs(61));
    runs_and_ends(&house, "2026-01-01T00:01:00Z").await;
}

async fn a_job_that_is_brought_back_fires_no_tick_of_the_meantime(on: Database) {
    let house = House::running(on).await;
    let id = house.deployed("example-job", Some("0 * * * *")).await;
    app::jobs::delete(&house.db, &*house.clock, &house.caller(), support::TEAM, "example-job").await.unwrap();
    house.until("it is removed", async || house.runtime.change(|s| s.removed.contains(&id))).await;
    house.advance(SignedDuration::from_secs(2 * 3600 + 600));
    let (clock, caller) = (&*house.clock, house.caller());
    let restored = app::jobs::restore(&house.db, clock, &caller, "UTC", &house.defaults, support::TEAM, "example-job")
        .await
        .unwrap();
    house.until("it is reached", async || house.reached("example-job").await == restored.generation).await;
    settled(&house).await;
    assert_eq!(ticks(&house).await, Vec::<String>::new());
    house.advance(SignedDuration::from_hours(1));
    runs_and_ends(&house, "2026-01-01T03:00:00Z").await;
    assert_eq!(ticks(&house).await, ["2026-01-01T03:00:00Z"]);
}
