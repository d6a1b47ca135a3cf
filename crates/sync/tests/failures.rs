//! What becomes of deployments and runs when the place where they run fails: each failure by a script.

mod support;

use jiff::SignedDuration;
use model::{
    Problem,
    clock::Clock,
    execution::{EndCause, Execution, Status},
    name::ExecutionId,
    runtime::Stage,
};
use support::{Answer, Gate, House, Method};
use testing::{Database, for_each_database};

for_each_database!(
    a_start_that_fails_is_tried_again_and_has_its_deployment_looked_at,
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
    a_follower_that_panics_holds_up_nobody_and_is_replaced_after_a_pause,
    a_slow_deletion_of_an_ended_run_holds_up_no_start_and_no_cancellation,
    a_slow_start_holds_up_no_other_run,
    runs_that_can_not_be_listed_are_recorded_later,
    an_apply_whose_answer_was_lost_is_repeated_until_it_is_reached,
    a_removal_that_fails_is_tried_again,
    a_look_that_panics_holds_up_no_other_deployment_and_is_repeated_after_a_pause,
);

const NAME: &str = "example-job";

fn outage() -> Problem {
    Problem::unavailable("It can't be seen.", "It does not answer.")
}

/// A job that is deployed, with no run yet.
async fn deployed(on: Database) -> House {
    let house = House::running(on).await;
    house.deployed(NAME, None).await;
    house
}

async fn ended(house: &House, id: &ExecutionId, status: Status) -> Execution {
    house.until_status(NAME, id, status).await;
    house.execution(NAME, id).await
}

fn starts(house: &House) -> usize {
    house.runtime.change(|s| s.started.len())
}

async fn a_start_that_fails_is_tried_again_and_has_its_deployment_looked_at(on: Database) {
    let house = deployed(on).await;
    house.runtime.script(Method::Start, [Answer::Fails(outage())]);
    let looks = house.runtime.calls(Method::Observe);
    let id = house.start(NAME).await;
    house.until("its deployment is looked at", async || house.runtime.calls(Method::Observe) > looks).await;
    house.until_status(NAME, &id, Status::Running).await;
    assert_eq!((house.runtime.calls(Method::Start), starts(&house)), (2, 1));
}

async fn a_start_that_is_refused_ends_the_run_at_once(on: Database) {
    let house = deployed(on).await;
    house.runtime.script(Method::Start, [Answer::Fails(Problem::invalid("It does not start.", "It names no step."))]);
    let id = house.start(NAME).await;
    let run = ended(&house, &id, Status::UserError).await;
    assert!(run.message.as_ref().unwrap().starts_with("User error. It does not start. It names no step."), "{run:?}");
    assert_eq!((house.runtime.calls(Method::Start), run.started_at), (1, None));
    // The slot is free.
    let second = house.start(NAME).await;
    house.until_status(NAME, &second, Status::Running).await;
}

async fn a_start_that_fails_until_its_deadline_ends_the_run(on: Database) {
    let house = deployed(on).await;
    house.runtime.fail(Method::Start, Some(outage()));
    let id = house.start(NAME).await;
    house.until("a start failed", async || house.runtime.calls(Method::Start) == 1).await;
    house.advance(SignedDuration::from_mins(31));
    let run = ended(&house, &id, Status::PlatformError).await;
    assert!(run.message.as_ref().unwrap().starts_with("Platform error. It can't be seen."), "{run:?}");
    assert_eq!((house.runtime.calls(Method::Start), starts(&house)), (2, 0));
}

async fn a_start_whose_answer_was_lost_is_followed_and_not_repeated(on: Database) {
    let house = deployed(on).await;
    house.runtime.script(Method::Start, [Answer::Lost(outage())]);
    let id = house.start(NAME).await;
    house.until_status(NAME, &id, Status::Running).await;
    assert_eq!(house.runtime.calls(Method::Start), 1);
    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
    ended(&house, &id, Status::Succeeded).await;
}

async fn a_start_that_may_have_got_through_is_cancelled_at_its_deadline_before_it_is_ended(on: Database) {
    let house = deployed(on).await;
    house.runtime.script(Method::Start, [Answer::Fails(outage())]);
    house.runtime.fail(Method::Next, Some(outage()));
    house.runtime.fail(Method::Cancel, Some(outage()));
    let id = house.start(NAME).await;
    house.until("it was asked for", async || house.runtime.calls(Method::Next) > 0).await;
    house.advance(SignedDuration::from_mins(31));
    house.until("it was to be cancelled", async || house.runtime.calls(Method::Cancel) > 0).await;
    assert_eq!(house.execution(NAME, &id).await.status, Status::Submitted);
    house.runtime.fail(Method::Cancel, None);
    house.until("it is cancelled", async || house.runtime.change(|s| s.cancelled.contains(&id))).await;
    // Whether it ran is not known yet.
    assert_eq!(house.execution(NAME, &id).await.status, Status::Submitted);
    house.runtime.fail(Method::Next, None);
    let run = ended(&house, &id, Status::PlatformError).await;
    assert!(run.message.as_ref().unwrap().starts_with("Platform error. It can't be seen."), "{run:?}");
    assert_eq!((house.runtime.calls(Method::Start), starts(&house)), (1, 0));
}

async fn a_run_whose_start_was_acknowledged_is_not_ended_by_an_outage_beyond_its_deadline(on: Database) {
    let house = deployed(on).await;
    house.runtime.fail(Method::Next, Some(outage()));
    let id = house.start(NAME).await;
    house.until("it was asked for", async || house.runtime.calls(Method::Next) > 0).await;
    house.advance(SignedDuration::from_mins(31));
    let looks = house.runtime.calls(Method::Next);
    house.until("it was asked for twice more", async || house.runtime.calls(Method::Next) > looks + 1).await;
    assert_eq!(house.execution(NAME, &id).await.status, Status::Submitted);
    assert_eq!((house.runtime.calls(Method::Cancel), house.runtime.calls(Method::Forget)), (0, 0));
    house.runtime.fail(Method::Next, None);
    house.until_status(NAME, &id, Status::Running).await;
    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
    ended(&house, &id, Status::Succeeded).await;
    assert_eq!(starts(&house), 1);
}

async fn a_run_that_turns_out_to_run_after_its_deadline_is_followed_to_its_true_end(on: Database) {
    let house = deployed(on).await;
    house.runtime.script(Method::Start, [Answer::Lost(outage())]);
    house.runtime.fail(Method::Next, Some(outage()));
    house.runtime.fail(Method::Cancel, Some(outage()));
    let id = house.start(NAME).await;
    house.until("it was asked for", async || house.runtime.calls(Method::Next) > 0).await;
    house.advance(SignedDuration::from_mins(31));
    house.until("it was to be cancelled", async || house.runtime.calls(Method::Cancel) > 0).await;
    house.runtime.fail(Method::Next, None);
    house.until_status(NAME, &id, Status::Running).await;
    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
    ended(&house, &id, Status::Succeeded).await;
    assert!(house.runtime.change(|s| s.cancelled.is_empty()));
}

async fn a_run_that_was_seen_running_is_not_ended_by_an_outage(on: Database) {
    let mut house = deployed(on).await;
    let id = house.start(NAME).await;
    house.until_status(NAME, &id, Status::Running).await;
    house.stop_instance().await;
    house.runtime.script(Method::Next, [Answer::Fails(outage()), Answer::Fails(outage())]);
    house.advance(SignedDuration::from_mins(31));
    house.start_instance();
    house.until("two looks failed", async || house.runtime.is_done(Method::Next)).await;
    assert_eq!(house.execution(NAME, &id).await.status, Status::Running);
    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
    ended(&house, &id, Status::Succeeded).await;
}

async fn a_run_that_waits_for_its_first_deployment_ends_at_its_deadline(on: Database) {
    let house = House::running(on).await;
    house.create(NAME, None).await;
    house.runtime.change(|s| s.apply_blocked = true);
    house.deploy(NAME).await;
    let id = house.start(NAME).await;
    house.wake();
    assert_eq!(house.execution(NAME, &id).await.status, Status::Submitted);
    house.advance(SignedDuration::from_mins(31));
    let run = ended(&house, &id, Status::PlatformError).await;
    assert!(run.message.as_ref().unwrap().contains("was not ready 1800 seconds after the start"), "{run:?}");
    assert_eq!(house.runtime.calls(Method::Start), 0);
}

async fn a_cancellation_that_fails_is_asked_for_again(on: Database) {
    let house = deployed(on).await;
    let id = house.start(NAME).await;
    house.until_status(NAME, &id, Status::Running).await;
    house.runtime.script(Method::Cancel, [Answer::Fails(outage())]);
    house.cancel(NAME, &id).await;
    house.until("it is accepted", async || house.runtime.change(|s| s.cancelled.contains(&id))).await;
    assert_eq!(house.runtime.calls(Method::Cancel), 2);
    house.runtime.end(&id, house.clock.now(), EndCause::Cancelled);
    ended(&house, &id, Status::Cancelled).await;
}

async fn a_cancellation_whose_answer_was_lost_ends_the_run_once(on: Database) {
    let house = deployed(on).await;
    let id = house.start(NAME).await;
    house.until_status(NAME, &id, Status::Running).await;
    house.runtime.script(Method::Cancel, [Answer::Lost(outage())]);
    house.cancel(NAME, &id).await;
    house.until("it is asked", async || house.runtime.change(|s| s.cancelled.contains(&id))).await;
    house.runtime.end(&id, house.clock.now(), EndCause::Cancelled);
    let run = ended(&house, &id, Status::Cancelled).await;
    assert_eq!(run.message.as_deref(), Some("Cancelled on request."));
}

async fn a_held_run_tells_why_and_is_cancelled_before_it_starts(on: Database) {
    let house = deployed(on).await;
    let held = Problem::unavailable("The run can't start yet.", "Its image can't be pulled.");
    house.runtime.change(|s| s.start_stage = Some(Stage::Held(held)));
    let id = house.start(NAME).await;
    house
        .until("it tells why", async || {
            let run = house.execution(NAME, &id).await;
            run.message.is_some_and(|message| message.contains("Its image can't be pulled."))
        })
        .await;
    house.cancel(NAME, &id).await;
    house.until("it is asked", async || house.runtime.change(|s| s.cancelled.contains(&id))).await;
    house.runtime.end(&id, house.clock.now(), EndCause::Cancelled);
    ended(&house, &id, Status::Cancelled).await;
}

async fn an_end_waits_for_its_log(on: Database) {
    let house = deployed(on).await;
    let id = house.start(NAME).await;
    house.until_status(NAME, &id, Status::Running).await;
    house.runtime.script(Method::Log, [Answer::Fails(outage())]);
    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
    house.until("the log was asked for", async || house.runtime.calls(Method::Log) == 1).await;
    assert_eq!(house.execution(NAME, &id).await.status, Status::Running);
    ended(&house, &id, Status::Succeeded).await;
    assert_eq!(house.runtime.calls(Method::Log), 2);
    let mut tx = house.db.read().await.unwrap();
    assert!(store::logs::find(&mut tx, &id).await.unwrap().is_some());
}

async fn an_end_stays_when_its_rest_can_not_be_dropped(on: Database) {
    let mut house = deployed(on).await;
    let id = house.start(NAME).await;
    house.until_status(NAME, &id, Status::Running).await;
    house.runtime.script(Method::Forget, [Answer::Fails(outage())]);
    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
    ended(&house, &id, Status::Succeeded).await;
    house.until("it was to be dropped", async || house.runtime.calls(Method::Forget) == 1).await;
    assert!(house.runtime.change(|s| s.stages.contains_key(&id)));
    // The next term drops it, and ends nothing twice.
    house.stop_instance().await;
    house.start_instance();
    house.until("it is dropped", async || house.runtime.change(|s| s.forgotten.contains(&id))).await;
    assert_eq!(house.execution(NAME, &id).await.status, Status::Succeeded);
}

async fn a_follower_that_panics_holds_up_nobody_and_is_replaced_after_a_pause(on: Database) {
    let house = deployed(on).await;
    house.deployed("other-job", None).await;
    house.runtime.script(Method::Next, [Answer::Panics]);
    let id = house.start(NAME).await;
    house.until("it panicked", async || house.runtime.is_done(Method::Next)).await;
    let other = house.start("other-job").await;
    house.until_status("other-job", &other, Status::Running).await;
    assert_eq!(house.execution(NAME, &id).await.status, Status::Submitted);
    house.until_status(NAME, &id, Status::Running).await;
    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
    ended(&house, &id, Status::Succeeded).await;
    assert_eq!(starts(&house), 2, "each once");
}

async fn a_slow_deletion_of_an_ended_run_holds_up_no_start_and_no_cancellation(on: Database) {
    let mut house = deployed(on).await;
    house.deployed("other-job", None).await;
    let id = house.start(NAME).await;
    house.until_status(NAME, &id, Status::Running).await;
    let gate = Gate::default();
    house.runtime.script(Method::Forget, [Answer::Fails(outage()), Answer::Waits(gate.clone())]);
    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
    ended(&house, &id, Status::Succeeded).await;
    house.stop_instance().await;
    house.start_instance();
    house.until("it is being dropped", async || house.runtime.calls(Method::Forget) == 2).await;
    let other = house.start("other-job").await;
    house.until_status("other-job", &other, Status::Running).await;
    house.cancel("other-job", &other).await;
    house.until("it is asked", async || house.runtime.change(|s| s.cancelled.contains(&other))).await;
    assert!(house.runtime.change(|s| s.forgotten.is_empty()));
    gate.open();
    house.until("it is dropped", async || house.runtime.change(|s| s.forgotten.contains(&id))).await;
}

async fn a_slow_start_holds_up_no_other_run(on: Database) {
    let house = deployed(on).await;
    house.deployed("other-job", None).await;
    let gate = Gate::default();
    house.runtime.script(Method::Start, [Answer::Waits(gate.clone())]);
    let id = house.start(NAME).await;
    house.until("it is being started", async || house.runtime.calls(Method::Start) == 1).await;
    let other = house.start("other-job").await;
    house.until_status("other-job", &other, Status::Running).await;
    assert_eq!(house.execution(NAME, &id).await.status, Status::Submitted);
    gate.open();
    house.until_status(NAME, &id, Status::Running).await;
}

async fn runs_that_can_not_be_listed_are_recorded_later(on: Database) {
    let mut house = House::new(on).await;
    house.runtime.change(|s| s.fires_ticks = true);
    house.start_instance();
    let job_id = house.deployed(NAME, Some("0 * * * *")).await;
    house.runtime.fail(Method::Runs, Some(outage()));
    let (tick, id) = (house.clock.now(), ExecutionId::parse("example-job-29453760").unwrap());
    house.runtime.change(|s| {
        let ticked = model::runtime::Ticked { job_id, generation: Some(1), tick, created_at: tick };
        s.ticked.insert(id.clone(), ticked);
        s.stages.insert(id.clone(), Stage::Running(tick));
    });
    let calls = house.runtime.calls(Method::Runs);
    house.wake();
    house.until("they were to be listed", async || house.runtime.calls(Method::Runs) > calls).await;
    // Starts go on without them.
    assert!(house.executions(NAME).await.is_empty());
    house.runtime.fail(Method::Runs, None);
    house.wake();
    house.until("it is recorded", async || house.executions(NAME).await.len() == 1).await;
    house.until_status(NAME, &id, Status::Running).await;
}

async fn an_apply_whose_answer_was_lost_is_repeated_until_it_is_reached(on: Database) {
    let house = House::running(on).await;
    house.create(NAME, None).await;
    house.runtime.script(Method::Apply, [Answer::Lost(outage())]);
    house.deploy(NAME).await;
    house.until("it was made", async || house.runtime.is_done(Method::Apply)).await;
    house
        .until("it is due later", async || {
            let mut tx = house.db.read().await.unwrap();
            store::deployments::next_due(&mut tx, house.clock.now()).await.unwrap().is_some()
        })
        .await;
    assert_eq!(house.reached(NAME).await, None);
    house.advance(SignedDuration::from_secs(10));
    house.until("it is reached", async || house.reached(NAME).await == Some(1)).await;
}

async fn a_removal_that_fails_is_tried_again(on: Database) {
    let house = deployed(on).await;
    // So that one of them is no large part of the fleet.
    for n in 0..4 {
        house.deployed(&format!("other-job-{n}"), None).await;
    }
    house.runtime.script(Method::Remove, [Answer::Fails(outage()), Answer::Lost(outage())]);
    let remove = app::deployments::remove;
    remove(&house.db, &*house.clock, &house.caller(), support::TEAM, NAME, "production").await.unwrap();
    for calls in 1..=3 {
        house.until("it is tried", async || house.runtime.calls(Method::Remove) == calls).await;
        house
            .until("it is due later, or gone", async || {
                let mut tx = house.db.read().await.unwrap();
                store::deployments::backlog(&mut tx, house.clock.now()).await.unwrap().0 == 0
            })
            .await;
        if house.runtime.change(|s| !s.removed.is_empty()) {
            break;
        }
        house.advance(SignedDuration::from_secs(10));
    }
    house.advance(SignedDuration::from_secs(30));
    house
        .until("its row is gone", async || {
            let mut tx = house.db.read().await.unwrap();
            store::deployments::removals(&mut tx).await.unwrap() == (0, 4)
        })
        .await;
}

async fn a_look_that_panics_holds_up_no_other_deployment_and_is_repeated_after_a_pause(on: Database) {
    let house = House::running(on).await;
    house.create(NAME, None).await;
    house.runtime.script(Method::Apply, [Answer::Panics]);
    house.deploy(NAME).await;
    house.until("it panicked", async || house.runtime.is_done(Method::Apply)).await;
    house.deployed("other-job", None).await;
    assert_eq!(house.reached(NAME).await, None);
    house.until("it is reached", async || house.reached(NAME).await.is_some()).await;
}
