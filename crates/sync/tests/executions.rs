//! Effects of the loop over executions.

mod support;

use app::{logs::LiveLogs, memory::MemoryBudget, scratch::Scratch};
use model::{
    Problem,
    clock::Clock,
    execution::{EndCause, Status},
    problem::Kind,
    runtime::Stage,
};
use support::{Answer, Harness, Method};
use testing::{Database, for_each_database};

for_each_database!(
    a_start_runs_what_was_reached_and_ends_in_one_true_status_with_its_log,
    a_start_waits_for_the_first_deployment_and_fails_with_it,
    a_cancelled_run_is_cancelled_when_nothing_of_it_is_left,
    a_run_that_ends_before_its_cancellation_keeps_its_true_status,
    more_runs_than_fit_wait_as_submitted_and_can_be_cancelled_there,
    executions_that_wait_for_their_children_take_no_place,
    a_run_that_went_on_without_the_service_is_recorded_when_it_is_back,
    a_run_that_vanished_is_a_platform_error_and_never_repeated,
    of_fifty_starts_at_one_instant_exactly_one_is_accepted,
);

async fn a_start_runs_what_was_reached_and_ends_in_one_true_status_with_its_log(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("example-job", None).await;
    let id = harness.start("example-job").await;
    harness.until_status("example-job", &id, Status::Running).await;
    assert_eq!(harness.try_start("example-job").await.unwrap_err().kind, Kind::Conflict);
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    harness.until_status("example-job", &id, Status::Succeeded).await;
    harness.until("its folder is dropped", async || harness.runtime.change(|s| s.forgotten.contains(&id))).await;
    let live = LiveLogs::new(
        Scratch::new(std::env::temp_dir()).unwrap(),
        MemoryBudget::new(64),
        std::sync::Arc::new(clock::SystemClock),
        4096,
    );
    let of = (support::TEAM, "example-job", id.as_str());
    let mut log =
        app::executions::log(&harness.db, &*harness.runtime, &live, &harness.caller(), None, of, None).await.unwrap();
    assert_eq!(log.next_piece().await.unwrap(), Some(format!("the log of {id}\n")));
    assert_eq!(log.next_piece().await.unwrap(), None);
    // A second one of the same second counts up.
    let second = harness.start("example-job").await;
    assert_ne!(id, second);
}

async fn a_start_waits_for_the_first_deployment_and_fails_with_it(on: Database) {
    let harness = Harness::running(on).await;
    harness.create("example-job", None).await;
    assert_eq!(harness.try_start("example-job").await.unwrap_err().kind, Kind::NotFound);
    harness.runtime.change(|s| s.apply_blocked = true);
    let problem = Problem::new(model::problem::Code::PackagesUnresolvable, "It does not install.", "No such package.")
        .nothing_changed()
        .fix("Retry.");
    harness.runtime.script(Method::Apply, [Answer::Fails(problem)]);
    harness.deploy("example-job").await;
    let id = harness.start("example-job").await;
    harness.runtime.change(|s| s.apply_blocked = false);
    harness.until_status("example-job", &id, Status::UserError).await;
    assert!(harness.execution("example-job", &id).await.message.unwrap().contains("No such package."));
    assert!(harness.runtime.change(|s| s.started.is_empty()));
}

async fn a_cancelled_run_is_cancelled_when_nothing_of_it_is_left(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("example-job", None).await;
    let id = harness.start("example-job").await;
    harness.until_status("example-job", &id, Status::Running).await;
    harness.cancel("example-job", &id).await;
    harness.until("the runtime is asked", async || harness.runtime.change(|s| s.cancelled.contains(&id))).await;
    assert_eq!(harness.execution("example-job", &id).await.status, Status::Running);
    harness.runtime.end(&id, harness.clock.now(), EndCause::Cancelled);
    harness.until_status("example-job", &id, Status::Cancelled).await;
}

async fn a_run_that_ends_before_its_cancellation_keeps_its_true_status(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("example-job", None).await;
    let id = harness.start("example-job").await;
    harness.until_status("example-job", &id, Status::Running).await;
    harness.cancel("example-job", &id).await;
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    harness.until_status("example-job", &id, Status::Succeeded).await;
}

async fn more_runs_than_fit_wait_as_submitted_and_can_be_cancelled_there(on: Database) {
    let harness = Harness::running(on).await;
    harness.runtime.change(|s| s.parallel_runs_max = 1);
    for name in ["first-job", "second-job", "third-job"] {
        harness.deployed(name, None).await;
    }
    let first = harness.start("first-job").await;
    harness.until_status("first-job", &first, Status::Running).await;
    let second = harness.start("second-job").await;
    let third = harness.start("third-job").await;
    harness.cancel("second-job", &second).await;
    harness.until_status("second-job", &second, Status::Cancelled).await;
    assert_eq!(harness.execution("third-job", &third).await.status, Status::Submitted);
    harness.runtime.end(&first, harness.clock.now(), EndCause::Exited(0));
    harness.until_status("third-job", &third, Status::Running).await;
    assert!(harness.runtime.change(|s| s.started.iter().all(|run| run.id != second)));
}

async fn executions_that_wait_for_their_children_take_no_place(on: Database) {
    let harness = Harness::running(on).await;
    harness.runtime.change(|s| s.parallel_runs_max = 1);
    for name in ["outer-dag", "inner-dag", "leaf-job", "other-job"] {
        harness.deployed(name, None).await;
    }
    // As vdk-dag sends it: the operation id of its own execution, and the name of its job.
    let outer = harness.start_as("outer-dag", "one", "manual/vdk-control-cli").await;
    harness.until_status("outer-dag", &outer, Status::Running).await;
    let same_name_elsewhere = harness.start_as("other-job", "two", "manual/outer-dag").await;
    let inner = harness.start_as("inner-dag", "one", "manual/outer-dag").await;
    harness.until_status("inner-dag", &inner, Status::Running).await;
    let leaf = harness.start_as("leaf-job", "one", "manual/inner-dag/job:inner-dag").await;
    harness.until_status("leaf-job", &leaf, Status::Running).await;
    assert_eq!(harness.execution("other-job", &same_name_elsewhere).await.status, Status::Submitted);

    harness.runtime.end(&leaf, harness.clock.now(), EndCause::Exited(0));
    harness.until_status("leaf-job", &leaf, Status::Succeeded).await;
    harness.runtime.end(&inner, harness.clock.now(), EndCause::Exited(0));
    harness.until_status("inner-dag", &inner, Status::Succeeded).await;
    assert_eq!(harness.execution("other-job", &same_name_elsewhere).await.status, Status::Submitted);
    harness.runtime.end(&outer, harness.clock.now(), EndCause::Exited(0));
    harness.until_status("other-job", &same_name_elsewhere, Status::Running).await;
}

async fn a_run_that_went_on_without_the_service_is_recorded_when_it_is_back(on: Database) {
    let mut harness = Harness::running(on).await;
    harness.deployed("example-job", None).await;
    let id = harness.start("example-job").await;
    harness.until_status("example-job", &id, Status::Running).await;
    harness.stop_instance().await;
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(3));
    harness.start_instance();
    harness.until_status("example-job", &id, Status::PlatformError).await;
    assert_eq!(harness.runtime.change(|s| s.started.len()), 1);
}

async fn a_run_that_vanished_is_a_platform_error_and_never_repeated(on: Database) {
    let mut harness = Harness::running(on).await;
    harness.deployed("example-job", None).await;
    let id = harness.start("example-job").await;
    harness.until_status("example-job", &id, Status::Running).await;
    harness.stop_instance().await;
    harness.runtime.change(|s| s.stages.insert(id.clone(), Stage::Unknown));
    harness.start_instance();
    harness.until_status("example-job", &id, Status::PlatformError).await;
    assert_eq!(harness.runtime.change(|s| s.started.len()), 1);
    assert!(harness.execution("example-job", &id).await.message.unwrap().contains("vanished"));
}

async fn of_fifty_starts_at_one_instant_exactly_one_is_accepted(on: Database) {
    let harness = std::sync::Arc::new(Harness::new(on).await);
    harness.create("example-job", None).await;
    harness.deploy("example-job").await;
    let starts: Vec<_> = (0..50)
        .map(|_| {
            let harness = harness.clone();
            tokio::spawn(async move { harness.try_start("example-job").await })
        })
        .collect();
    let mut accepted = 0;
    for start in starts {
        match start.await.unwrap() {
            Ok(_) => accepted += 1,
            Err(problem) => assert_eq!(problem.kind, Kind::Conflict),
        }
    }
    assert_eq!(accepted, 1);
}
