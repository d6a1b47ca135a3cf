//! Deployments and executions while the runtime fails: each failure is scripted.

mod support;

use jiff::SignedDuration;
use model::{
    Problem,
    clock::Clock,
    execution::{EndCause, Execution, Status},
    name::ExecutionId,
    runtime::Stage,
};
use support::{Answer, Gate, Harness, Method};
use testing::{Database, for_each_database};

for_each_database!(
    a_start_that_fails_is_retried_and_has_its_deployment_reconciled,
    a_start_that_is_refused_ends_the_run_at_once,
    a_start_that_fails_until_its_deadline_ends_the_run,
    a_start_whose_answer_was_lost_is_followed_and_not_repeated,
    a_start_that_may_have_got_through_is_cancelled_at_its_deadline_before_it_is_ended,
    a_run_whose_start_was_acknowledged_is_not_ended_by_an_outage_beyond_its_deadline,
    a_run_that_turns_out_to_run_after_its_deadline_is_followed_to_its_true_end,
    a_run_that_was_seen_running_is_not_ended_by_an_outage,
    a_run_that_waits_for_its_first_deployment_ends_at_its_deadline,
    a_cancellation_that_fails_is_asked_for_again,
    a_cancellation_whose_answer_was_lost_ends_the_run_once,
    a_held_run_tells_why_and_is_cancelled_before_it_starts,
    an_end_waits_for_its_log,
    an_end_stays_when_its_rest_can_not_be_dropped,
    a_follower_that_panics_delays_no_other_and_is_replaced_after_a_pause,
    a_slow_deletion_of_an_ended_run_holds_up_no_start_and_no_cancellation,
    a_slow_start_holds_up_no_other_run,
    runs_that_can_not_be_listed_are_recorded_later,
    an_apply_whose_answer_was_lost_is_repeated_until_it_is_reached,
    a_removal_that_fails_is_tried_again,
    a_look_that_panics_holds_up_no_other_deployment_and_is_repeated_after_a_pause,
);

const NAME: &str = "example-job";

fn outage() -> Problem {
    Problem::new(model::problem::Code::PackageInstallerFailed, "It can't be seen.", "It does not answer.")
        .nothing_changed()
        .fix("Retry.")
}

/// A job that is deployed, with no run yet.
async fn deployed(on: Database) -> Harness {
    let harness = Harness::running(on).await;
    harness.deployed(NAME, None).await;
    harness
}

async fn ended(harness: &Harness, id: &ExecutionId, status: Status) -> Execution {
    harness.until_status(NAME, id, status).await;
    harness.execution(NAME, id).await
}

fn starts(harness: &Harness) -> usize {
    harness.runtime.change(|s| s.started.len())
}

async fn a_start_that_fails_is_retried_and_has_its_deployment_reconciled(on: Database) {
    let harness = deployed(on).await;
    harness.runtime.script(Method::Start, [Answer::Fails(outage())]);
    let looks = harness.runtime.calls(Method::Observe);
    let id = harness.start(NAME).await;
    harness.until("its deployment is looked at", async || harness.runtime.calls(Method::Observe) > looks).await;
    harness.until_status(NAME, &id, Status::Running).await;
    assert_eq!((harness.runtime.calls(Method::Start), starts(&harness)), (2, 1));
}

async fn a_start_that_is_refused_ends_the_run_at_once(on: Database) {
    let harness = deployed(on).await;
    harness.runtime.script(
        Method::Start,
        [Answer::Fails(
            Problem::new(model::problem::Code::PackagesUnresolvable, "It does not start.", "It names no step.")
                .nothing_changed()
                .fix("Retry."),
        )],
    );
    let id = harness.start(NAME).await;
    let run = ended(&harness, &id, Status::UserError).await;
    assert!(run.message.as_ref().unwrap().starts_with("User error. It does not start. It names no step."), "{run:?}");
    assert_eq!((harness.runtime.calls(Method::Start), run.started_at), (1, None));
    // The slot is free.
    let second = harness.start(NAME).await;
    harness.until_status(NAME, &second, Status::Running).await;
}

async fn a_start_that_fails_until_its_deadline_ends_the_run(on: Database) {
    let harness = deployed(on).await;
    harness.runtime.fail(Method::Start, Some(outage()));
    let id = harness.start(NAME).await;
    harness.until("a start failed", async || harness.runtime.calls(Method::Start) == 1).await;
    harness.advance(SignedDuration::from_mins(31));
    let run = ended(&harness, &id, Status::PlatformError).await;
    assert!(run.message.as_ref().unwrap().starts_with("Platform error. It can't be seen."), "{run:?}");
    assert_eq!((harness.runtime.calls(Method::Start), starts(&harness)), (2, 0));
}

async fn a_start_whose_answer_was_lost_is_followed_and_not_repeated(on: Database) {
    let harness = deployed(on).await;
    harness.runtime.script(Method::Start, [Answer::Lost(outage())]);
    let id = harness.start(NAME).await;
    harness.until_status(NAME, &id, Status::Running).await;
    assert_eq!(harness.runtime.calls(Method::Start), 1);
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    ended(&harness, &id, Status::Succeeded).await;
}

async fn a_start_that_may_have_got_through_is_cancelled_at_its_deadline_before_it_is_ended(on: Database) {
    let harness = deployed(on).await;
    harness.runtime.script(Method::Start, [Answer::Fails(outage())]);
    harness.runtime.fail(Method::Next, Some(outage()));
    harness.runtime.fail(Method::Cancel, Some(outage()));
    let id = harness.start(NAME).await;
    harness.until("it was asked for", async || harness.runtime.calls(Method::Next) > 0).await;
    harness.advance(SignedDuration::from_mins(31));
    harness.until("it was to be cancelled", async || harness.runtime.calls(Method::Cancel) > 0).await;
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Submitted);
    harness.runtime.fail(Method::Cancel, None);
    harness.until("it is cancelled", async || harness.runtime.change(|s| s.cancelled.contains(&id))).await;
    // Whether it ran is not known yet.
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Submitted);
    harness.runtime.fail(Method::Next, None);
    let run = ended(&harness, &id, Status::PlatformError).await;
    assert!(run.message.as_ref().unwrap().starts_with("Platform error. It can't be seen."), "{run:?}");
    assert_eq!((harness.runtime.calls(Method::Start), starts(&harness)), (1, 0));
}

async fn a_run_whose_start_was_acknowledged_is_not_ended_by_an_outage_beyond_its_deadline(on: Database) {
    let harness = deployed(on).await;
    harness.runtime.fail(Method::Next, Some(outage()));
    let id = harness.start(NAME).await;
    harness.until("it was asked for", async || harness.runtime.calls(Method::Next) > 0).await;
    harness.advance(SignedDuration::from_mins(31));
    let looks = harness.runtime.calls(Method::Next);
    harness.until("it was asked for twice more", async || harness.runtime.calls(Method::Next) > looks + 1).await;
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Submitted);
    assert_eq!((harness.runtime.calls(Method::Cancel), harness.runtime.calls(Method::Forget)), (0, 0));
    harness.runtime.fail(Method::Next, None);
    harness.until_status(NAME, &id, Status::Running).await;
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    ended(&harness, &id, Status::Succeeded).await;
    assert_eq!(starts(&harness), 1);
}

async fn a_run_that_turns_out_to_run_after_its_deadline_is_followed_to_its_true_end(on: Database) {
    let harness = deployed(on).await;
    harness.runtime.script(Method::Start, [Answer::Lost(outage())]);
    harness.runtime.fail(Method::Next, Some(outage()));
    harness.runtime.fail(Method::Cancel, Some(outage()));
    let id = harness.start(NAME).await;
    harness.until("it was asked for", async || harness.runtime.calls(Method::Next) > 0).await;
    harness.advance(SignedDuration::from_mins(31));
    harness.until("it was to be cancelled", async || harness.runtime.calls(Method::Cancel) > 0).await;
    harness.runtime.fail(Method::Next, None);
    harness.until_status(NAME, &id, Status::Running).await;
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    ended(&harness, &id, Status::Succeeded).await;
    assert!(harness.runtime.change(|s| s.cancelled.is_empty()));
}

async fn a_run_that_was_seen_running_is_not_ended_by_an_outage(on: Database) {
    let mut harness = deployed(on).await;
    let id = harness.start(NAME).await;
    harness.until_status(NAME, &id, Status::Running).await;
    harness.stop_instance().await;
    harness.runtime.script(Method::Next, [Answer::Fails(outage()), Answer::Fails(outage())]);
    harness.advance(SignedDuration::from_mins(31));
    harness.start_instance();
    harness.until("two looks failed", async || harness.runtime.is_done(Method::Next)).await;
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Running);
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    ended(&harness, &id, Status::Succeeded).await;
}

async fn a_run_that_waits_for_its_first_deployment_ends_at_its_deadline(on: Database) {
    let harness = Harness::running(on).await;
    harness.create(NAME, None).await;
    harness.runtime.change(|s| s.apply_blocked = true);
    harness.deploy(NAME).await;
    let id = harness.start(NAME).await;
    harness.notify();
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Submitted);
    harness.advance(SignedDuration::from_mins(31));
    let run = ended(&harness, &id, Status::PlatformError).await;
    assert!(run.message.as_ref().unwrap().contains("was not ready 1800 seconds after the start"), "{run:?}");
    assert_eq!(harness.runtime.calls(Method::Start), 0);
}

async fn a_cancellation_that_fails_is_asked_for_again(on: Database) {
    let harness = deployed(on).await;
    let id = harness.start(NAME).await;
    harness.until_status(NAME, &id, Status::Running).await;
    harness.runtime.script(Method::Cancel, [Answer::Fails(outage())]);
    harness.cancel(NAME, &id).await;
    harness.until("it is accepted", async || harness.runtime.change(|s| s.cancelled.contains(&id))).await;
    assert_eq!(harness.runtime.calls(Method::Cancel), 2);
    harness.runtime.end(&id, harness.clock.now(), EndCause::Cancelled);
    ended(&harness, &id, Status::Cancelled).await;
}

async fn a_cancellation_whose_answer_was_lost_ends_the_run_once(on: Database) {
    let harness = deployed(on).await;
    let id = harness.start(NAME).await;
    harness.until_status(NAME, &id, Status::Running).await;
    harness.runtime.script(Method::Cancel, [Answer::Lost(outage())]);
    harness.cancel(NAME, &id).await;
    harness.until("it is asked", async || harness.runtime.change(|s| s.cancelled.contains(&id))).await;
    harness.runtime.end(&id, harness.clock.now(), EndCause::Cancelled);
    let run = ended(&harness, &id, Status::Cancelled).await;
    assert_eq!(run.message.as_deref(), Some("Cancelled on request."));
}

async fn a_held_run_tells_why_and_is_cancelled_before_it_starts(on: Database) {
    let harness = deployed(on).await;
    let held = Problem::new(
        model::problem::Code::PackageInstallerFailed,
        "The run can't start yet.",
        "Its image can't be pulled.",
    )
    .nothing_changed()
    .fix("Retry.");
    harness.runtime.change(|s| s.start_stage = Some(Stage::Held(held)));
    let id = harness.start(NAME).await;
    harness
        .until("it tells why", async || {
            let run = harness.execution(NAME, &id).await;
            run.message.is_some_and(|message| message.contains("Its image can't be pulled."))
        })
        .await;
    harness.cancel(NAME, &id).await;
    harness.until("it is asked", async || harness.runtime.change(|s| s.cancelled.contains(&id))).await;
    harness.runtime.end(&id, harness.clock.now(), EndCause::Cancelled);
    ended(&harness, &id, Status::Cancelled).await;
}

async fn an_end_waits_for_its_log(on: Database) {
    let harness = deployed(on).await;
    let id = harness.start(NAME).await;
    harness.until_status(NAME, &id, Status::Running).await;
    harness.runtime.script(Method::Log, [Answer::Fails(outage())]);
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    harness.until("the log was asked for", async || harness.runtime.calls(Method::Log) == 1).await;
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Running);
    ended(&harness, &id, Status::Succeeded).await;
    assert_eq!(harness.runtime.calls(Method::Log), 2);
    let mut tx = harness.db.read().await.unwrap();
    assert!(store::logs::find(&mut tx, &id).await.unwrap().is_some());
}

async fn an_end_stays_when_its_rest_can_not_be_dropped(on: Database) {
    let mut harness = deployed(on).await;
    let id = harness.start(NAME).await;
    harness.until_status(NAME, &id, Status::Running).await;
    harness.runtime.script(Method::Forget, [Answer::Fails(outage())]);
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    ended(&harness, &id, Status::Succeeded).await;
    harness.until("it was to be dropped", async || harness.runtime.calls(Method::Forget) == 1).await;
    assert!(harness.runtime.change(|s| s.stages.contains_key(&id)));
    // The next leader epoch drops it, and ends nothing twice.
    harness.stop_instance().await;
    harness.start_instance();
    harness.until("it is dropped", async || harness.runtime.change(|s| s.forgotten.contains(&id))).await;
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Succeeded);
}

async fn a_follower_that_panics_delays_no_other_and_is_replaced_after_a_pause(on: Database) {
    let harness = deployed(on).await;
    harness.deployed("other-job", None).await;
    harness.runtime.script(Method::Next, [Answer::Panics]);
    let id = harness.start(NAME).await;
    harness.until("it panicked", async || harness.runtime.is_done(Method::Next)).await;
    let other = harness.start("other-job").await;
    harness.until_status("other-job", &other, Status::Running).await;
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Submitted);
    harness.until_status(NAME, &id, Status::Running).await;
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    ended(&harness, &id, Status::Succeeded).await;
    assert_eq!(starts(&harness), 2, "each once");
}

async fn a_slow_deletion_of_an_ended_run_holds_up_no_start_and_no_cancellation(on: Database) {
    let mut harness = deployed(on).await;
    harness.deployed("other-job", None).await;
    let id = harness.start(NAME).await;
    harness.until_status(NAME, &id, Status::Running).await;
    let gate = Gate::default();
    harness.runtime.script(Method::Forget, [Answer::Fails(outage()), Answer::Waits(gate.clone())]);
    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
    ended(&harness, &id, Status::Succeeded).await;
    harness.stop_instance().await;
    harness.start_instance();
    harness.until("it is being dropped", async || harness.runtime.calls(Method::Forget) == 2).await;
    let other = harness.start("other-job").await;
    harness.until_status("other-job", &other, Status::Running).await;
    harness.cancel("other-job", &other).await;
    harness.until("it is asked", async || harness.runtime.change(|s| s.cancelled.contains(&other))).await;
    assert!(harness.runtime.change(|s| s.forgotten.is_empty()));
    gate.open();
    harness.until("it is dropped", async || harness.runtime.change(|s| s.forgotten.contains(&id))).await;
}

async fn a_slow_start_holds_up_no_other_run(on: Database) {
    let harness = deployed(on).await;
    harness.deployed("other-job", None).await;
    let gate = Gate::default();
    harness.runtime.script(Method::Start, [Answer::Waits(gate.clone())]);
    let id = harness.start(NAME).await;
    harness.until("it is being started", async || harness.runtime.calls(Method::Start) == 1).await;
    let other = harness.start("other-job").await;
    harness.until_status("other-job", &other, Status::Running).await;
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Submitted);
    gate.open();
    harness.until_status(NAME, &id, Status::Running).await;
}

async fn runs_that_can_not_be_listed_are_recorded_later(on: Database) {
    let mut harness = Harness::new(on).await;
    harness.runtime.change(|s| s.fires_ticks = true);
    harness.start_instance();
    let job_id = harness.deployed(NAME, Some("0 * * * *")).await;
    harness.runtime.fail(Method::Runs, Some(outage()));
    let (tick, id) = (harness.clock.now(), ExecutionId::parse("example-job-29453760").unwrap());
    harness.runtime.change(|s| {
        let scheduled = model::runtime::ScheduledExecution { job_id, generation: Some(1), tick, created_at: tick };
        s.scheduled.insert(id.clone(), scheduled);
        s.stages.insert(id.clone(), Stage::Running(tick));
    });
    let calls = harness.runtime.calls(Method::Runs);
    harness.notify();
    harness.until("they were to be listed", async || harness.runtime.calls(Method::Runs) > calls).await;
    // Starts continue without them.
    assert!(harness.executions(NAME).await.is_empty());
    harness.runtime.fail(Method::Runs, None);
    harness.notify();
    harness.until("it is recorded", async || harness.executions(NAME).await.len() == 1).await;
    harness.until_status(NAME, &id, Status::Running).await;
}

async fn an_apply_whose_answer_was_lost_is_repeated_until_it_is_reached(on: Database) {
    let harness = Harness::running(on).await;
    harness.create(NAME, None).await;
    harness.runtime.script(Method::Apply, [Answer::Lost(outage())]);
    harness.deploy(NAME).await;
    harness.until("it was made", async || harness.runtime.is_done(Method::Apply)).await;
    harness
        .until("it is due later", async || {
            let mut tx = harness.db.read().await.unwrap();
            store::deployments::next_due(&mut tx, harness.clock.now()).await.unwrap().is_some()
        })
        .await;
    assert_eq!(harness.reached(NAME).await, None);
    harness.advance(SignedDuration::from_secs(10));
    harness.until("it is reached", async || harness.reached(NAME).await == Some(1)).await;
}

async fn a_removal_that_fails_is_tried_again(on: Database) {
    let harness = deployed(on).await;
    // So that one of them is no large part of the fleet.
    for n in 0..4 {
        harness.deployed(&format!("other-job-{n}"), None).await;
    }
    harness.runtime.script(Method::Remove, [Answer::Fails(outage()), Answer::Lost(outage())]);
    let remove = app::deployments::remove;
    remove(&harness.db, &*harness.clock, &harness.caller(), support::TEAM, NAME, "production").await.unwrap();
    for calls in 1..=3 {
        harness.until("it is tried", async || harness.runtime.calls(Method::Remove) == calls).await;
        harness
            .until("it is due later, or gone", async || {
                let mut tx = harness.db.read().await.unwrap();
                store::deployments::backlog(&mut tx, harness.clock.now()).await.unwrap().0 == 0
            })
            .await;
        if harness.runtime.change(|s| !s.removed.is_empty()) {
            break;
        }
        harness.advance(SignedDuration::from_secs(10));
    }
    harness.advance(SignedDuration::from_secs(30));
    harness
        .until("its row is gone", async || {
            let mut tx = harness.db.read().await.unwrap();
            store::deployments::removals(&mut tx).await.unwrap() == (0, 4)
        })
        .await;
}

async fn a_look_that_panics_holds_up_no_other_deployment_and_is_repeated_after_a_pause(on: Database) {
    let harness = Harness::running(on).await;
    harness.create(NAME, None).await;
    harness.runtime.script(Method::Apply, [Answer::Panics]);
    harness.deploy(NAME).await;
    harness.until("it panicked", async || harness.runtime.is_done(Method::Apply)).await;
    harness.deployed("other-job", None).await;
    assert_eq!(harness.reached(NAME).await, None);
    harness.until("it is reached", async || harness.reached(NAME).await.is_some()).await;
}
