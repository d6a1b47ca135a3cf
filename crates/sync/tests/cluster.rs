//! The loops on a cluster, which starts executions itself and whose objects others change.

mod support;

use jiff::SignedDuration;
use model::{
    Problem,
    clock::Clock,
    execution::{EndCause, ExecutionEnd, Status, Type},
    name::{ExecutionId, JobId},
    runtime::{Changes, KnownExecution, ScheduledExecution, Stage, Started},
};
use support::{Harness, Method};
use testing::{Database, for_each_database};

for_each_database!(
    a_run_that_a_tick_started_has_a_row_and_its_true_end,
    a_tick_that_ran_while_the_service_was_down_is_recorded_when_it_is_back,
    a_run_of_a_tick_that_is_gone_before_it_was_seen_is_reported_as_vanished,
    a_start_after_a_tick_steps_aside_and_says_for_which_run,
    what_keeps_a_run_from_starting_is_on_its_row_until_it_runs,
    what_others_deleted_is_recreated_when_it_is_heard_of,
    a_place_that_can_not_be_seen_makes_no_deployment_worse,
    what_failed_is_tried_again_within_half_a_minute_when_the_place_answers,
    the_next_tick_moves_on_although_the_cluster_starts_the_runs,
    runs_of_unknown_jobs_are_left_alone_and_not_recorded,
    the_credential_of_a_run_beside_another_one_is_valid_while_it_runs,
);

const NAME: &str = "example-job";

async fn cluster(on: Database) -> Harness {
    let mut harness = Harness::new(on).await;
    harness.runtime.change(|s| s.fires_ticks = true);
    harness.start_instance();
    harness
}

/// Has a tick start a run, as a cluster does.
fn tick(harness: &Harness, job_id: JobId, number: i64, stage: Stage) -> ExecutionId {
    let at = harness.clock.now();
    let id = ExecutionId::parse(&format!("{NAME}-{number}")).unwrap();
    let scheduled = ScheduledExecution {
        job_id,
        generation: Some(1),
        tick: at + SignedDuration::from_secs(number),
        created_at: at,
    };
    harness.runtime.change(|s| {
        s.scheduled.insert(id.clone(), scheduled);
        s.stages.insert(id.clone(), stage);
        s.news.runs = true;
    });
    id
}

async fn recorded(harness: &Harness, id: &ExecutionId) {
    harness.until("the run has a row", async || harness.executions(NAME).await.iter().any(|e| e.id == *id)).await;
}

async fn a_run_that_a_tick_started_has_a_row_and_its_true_end(on: Database) {
    let harness = cluster(on).await;
    let job_id = harness.deployed(NAME, Some("* * * * *")).await;
    let id = tick(&harness, job_id, 1, Stage::Running(harness.clock.now()));
    recorded(&harness, &id).await;
    harness.until_status(NAME, &id, Status::Running).await;
    let execution = harness.execution(NAME, &id).await;
    assert_eq!((execution.kind, execution.started_by.as_str()), (Type::Scheduled, "scheduled/runtime"));
    assert_eq!((execution.op_id.as_str(), execution.revision.unwrap().generation), (id.as_str(), Some(1)));
    // It has the job's slot.
    assert!(harness.try_start(NAME).await.is_err());
    harness.runtime.end(&id, harness.clock.now(), EndCause::OutOfMemory);
    harness.until_status(NAME, &id, Status::UserError).await;
    harness.until("its Job goes", async || harness.runtime.change(|s| s.forgotten.contains(&id))).await;
    harness.start(NAME).await;
}

async fn a_tick_that_ran_while_the_service_was_down_is_recorded_when_it_is_back(on: Database) {
    let mut harness = cluster(on).await;
    let job_id = harness.deployed(NAME, Some("* * * * *")).await;
    harness.stop_instance().await;
    let at = harness.clock.now();
    let end =
        ExecutionEnd { started_at: Some(at), ended_at: at, cause: EndCause::Exited(0), termination_message: None };
    let ids: Vec<_> = (1..=3).map(|number| tick(&harness, job_id, number, Stage::Ended(end.clone()))).collect();
    harness.start_instance();
    for id in &ids {
        recorded(&harness, id).await;
        harness.until_status(NAME, id, Status::Succeeded).await;
    }
    assert_eq!(harness.executions(NAME).await.len(), 3);
}

async fn a_run_of_a_tick_that_is_gone_before_it_was_seen_is_reported_as_vanished(on: Database) {
    let harness = cluster(on).await;
    let job_id = harness.deployed(NAME, Some("* * * * *")).await;
    let id = tick(&harness, job_id, 1, Stage::Running(harness.clock.now()));
    recorded(&harness, &id).await;
    harness.until_status(NAME, &id, Status::Running).await;
    harness.runtime.change(|s| s.stages.remove(&id));
    harness.until_status(NAME, &id, Status::PlatformError).await;
    assert!(harness.execution(NAME, &id).await.message.unwrap().contains("vanished"));
    assert!(harness.runtime.change(|s| s.started.is_empty()), "nothing is started in its place");
}

async fn a_start_after_a_tick_steps_aside_and_says_for_which_run(on: Database) {
    let harness = cluster(on).await;
    harness.deployed(NAME, Some("* * * * *")).await;
    let first = ExecutionId::parse("example-job-1").unwrap();
    harness.runtime.change(|s| s.start_answer = Some(Started::Skipped { for_run: first.clone() }));
    let id = harness.start(NAME).await;
    harness.until_status(NAME, &id, Status::Skipped).await;
    assert!(harness.execution(NAME, &id).await.message.unwrap().contains(first.as_str()));
}

async fn what_keeps_a_run_from_starting_is_on_its_row_until_it_runs(on: Database) {
    let harness = cluster(on).await;
    let job_id = harness.deployed(NAME, Some("* * * * *")).await;
    let why =
        Problem::new(model::problem::Code::PackageInstallerFailed, "The image can't be pulled.", "There is none.")
            .nothing_changed()
            .fix("Push it.");
    let id = tick(&harness, job_id, 1, Stage::Held(why));
    recorded(&harness, &id).await;
    harness
        .until("its row says why", async || {
            harness.execution(NAME, &id).await.message.is_some_and(|m| m.contains("Push it."))
        })
        .await;
    assert_eq!(harness.execution(NAME, &id).await.status, Status::Submitted);
    let at = harness.clock.now();
    harness.runtime.change(|s| s.stages.insert(id.clone(), Stage::Running(at)));
    harness.until_status(NAME, &id, Status::Running).await;
    assert_eq!(harness.execution(NAME, &id).await.message, None);
}

async fn what_others_deleted_is_recreated_when_it_is_heard_of(on: Database) {
    let harness = cluster(on).await;
    let job_id = harness.deployed(NAME, None).await;
    let heard = |harness: &Harness| {
        harness
            .runtime
            .change(|s| s.news = Changes { deployments: vec![NAME.into(), "unknown".into()], ..Changes::default() });
    };
    // News of what is as it should be cost no write.
    let version = |harness: &Harness| {
        let db = harness.db.clone();
        async move {
            let mut tx = db.read().await.unwrap();
            store::deployments::rollout(&mut tx, job_id).await.unwrap().unwrap().row_version
        }
    };
    let (before, looks) = (version(&harness).await, harness.runtime.calls(Method::Observe));
    heard(&harness);
    harness.until("it is looked at", async || harness.runtime.calls(Method::Observe) > looks).await;
    assert_eq!(version(&harness).await, before);
    harness.runtime.change(|s| s.made.remove(&job_id));
    heard(&harness);
    harness.until("it is recreated", async || harness.runtime.change(|s| s.made.contains_key(&job_id))).await;
}

async fn a_place_that_can_not_be_seen_makes_no_deployment_worse(on: Database) {
    let harness = cluster(on).await;
    let job_id = harness.deployed(NAME, None).await;
    harness.runtime.fail(
        Method::Observe,
        Some(
            Problem::new(model::problem::Code::PackageInstallerFailed, "It can't be seen.", "It does not answer.")
                .nothing_changed()
                .fix("Retry."),
        ),
    );
    let mut tx = harness.db.write().await.unwrap();
    store::deployments::make_due(&mut tx, job_id, harness.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    let looks = harness.runtime.calls(Method::Observe);
    harness.notify();
    harness.until("it is looked at", async || harness.runtime.calls(Method::Observe) > looks).await;
    harness
        .until("it is due later", async || {
            let mut tx = harness.db.read().await.unwrap();
            store::deployments::next_due(&mut tx, harness.clock.now()).await.unwrap().is_some()
        })
        .await;
    let mut tx = harness.db.read().await.unwrap();
    let rollout = store::deployments::rollout(&mut tx, job_id).await.unwrap().unwrap();
    assert_eq!((rollout.status, rollout.problem), (model::rollout::Status::Success, None));
}

async fn what_failed_is_tried_again_within_half_a_minute_when_the_place_answers(on: Database) {
    let harness = cluster(on).await;
    // So many that some failed for long: their next try is minutes away.
    let problem = || {
        Problem::new(model::problem::Code::PackageInstallerFailed, "Not made.", "It does not answer.")
            .nothing_changed()
            .fix("Retry.")
    };
    harness.runtime.fail(Method::Apply, Some(problem()));
    let mut jobs = Vec::new();
    for n in 0..16 {
        let name = format!("{NAME}-{n}");
        jobs.push((harness.create(&name, None).await, name.clone()));
        harness.deploy(&name).await;
    }
    let rollouts = async || {
        let mut tx = harness.db.read().await.unwrap();
        let mut rollouts = Vec::new();
        for (job_id, _) in &jobs {
            rollouts.push(store::deployments::rollout(&mut tx, *job_id).await.unwrap().unwrap());
        }
        rollouts
    };
    for attempts in 1..=9 {
        harness.until("each failed", async || rollouts().await.iter().all(|r| r.attempts >= attempts)).await;
        harness.advance(SignedDuration::from_secs(300));
    }
    harness.until("each waits", async || rollouts().await.iter().all(|r| r.attempts >= 10)).await;
    let now = harness.clock.now();
    harness.runtime.fail(Method::Apply, None);
    harness.runtime.change(|s| s.news.recovered = true);
    let soon = now + store::deployments::SPREAD_MAX;
    harness.until("each is due soon", async || rollouts().await.iter().all(|r| r.retry_at < Some(soon))).await;
    let due: std::collections::BTreeSet<_> = rollouts().await.into_iter().map(|r| r.retry_at).collect();
    assert!(due.len() > 8, "they come at different times: {due:?}");
    harness.advance(store::deployments::SPREAD_MAX);
    for (_, name) in &jobs {
        harness.until("it is reached", async || harness.reached(name).await.is_some()).await;
    }
}

async fn the_next_tick_moves_on_although_the_cluster_starts_the_runs(on: Database) {
    let harness = cluster(on).await;
    harness.deployed(NAME, Some("*/10 * * * *")).await;
    let next = || async {
        let mut tx = harness.db.read().await.unwrap();
        store::schedules::earliest(&mut tx).await.unwrap().map(|at| at.to_string())
    };
    assert_eq!(next().await.as_deref(), Some("2026-01-01T00:10:00Z"));
    harness.advance(SignedDuration::from_mins(25));
    harness.until("it moved on", async || next().await.as_deref() == Some("2026-01-01T00:30:00Z")).await;
    // Nothing else starts a run of it.
    assert!(harness.executions(NAME).await.is_empty());
}

async fn runs_of_unknown_jobs_are_left_alone_and_not_recorded(on: Database) {
    let harness = cluster(on).await;
    let job_id = harness.deployed(NAME, Some("* * * * *")).await;
    let at = harness.clock.now();
    let known = |n: i64, job_id| KnownExecution {
        id: ExecutionId::parse(&format!("unknown-job-{n}")).unwrap(),
        scheduled: Some(ScheduledExecution {
            job_id,
            generation: Some(1),
            tick: at + SignedDuration::from_secs(n),
            created_at: at,
        }),
    };
    let unsettled = async |runs: Vec<KnownExecution>| {
        let mut tx = harness.db.read().await.unwrap();
        store::executions::unsettled(&mut tx, runs).await.unwrap()
    };
    let unknown: Vec<_> = (0..3000).map(|n| known(n, JobId(uuid::Uuid::from_u128(1)))).collect();
    let found = unsettled([unknown, vec![known(3000, job_id)]].concat()).await;
    assert_eq!((found.unknown.len(), found.new.len(), found.over.len()), (3000, 1, 0));
    assert_eq!(found.new[0].1.job_id, job_id);

    let stray = ExecutionId::parse("unknown-job-1").unwrap();
    harness.runtime.change(|s| {
        let job_id = JobId(uuid::Uuid::from_u128(1));
        s.scheduled.insert(stray.clone(), ScheduledExecution { job_id, generation: None, tick: at, created_at: at });
        s.stages.insert(stray.clone(), Stage::Running(at));
    });
    let id = tick(&harness, job_id, 1, Stage::Running(at));
    recorded(&harness, &id).await;
    assert!(harness.runtime.change(|s| s.stages.contains_key(&stray) && s.forgotten.is_empty()));
}

async fn the_credential_of_a_run_beside_another_one_is_valid_while_it_runs(on: Database) {
    let harness = cluster(on).await;
    let job_id = harness.deployed(NAME, Some("* * * * *")).await;
    let first = tick(&harness, job_id, 1, Stage::Running(harness.clock.now()));
    recorded(&harness, &first).await;
    let second = tick(&harness, job_id, 2, Stage::Running(harness.clock.now()));
    recorded(&harness, &second).await;
    harness.until_status(NAME, &second, Status::Running).await;
    harness.change(NAME, model::deployment::DeploymentChange { enabled: Some(false), ..Default::default() }).await;
    harness.until("the next one is reached", async || harness.reached(NAME).await > Some(1)).await;
    harness.runtime.end(&first, harness.clock.now(), EndCause::Exited(0));
    harness.until_status(NAME, &first, Status::Succeeded).await;
    let valid = || async {
        let mut tx = harness.db.read().await.unwrap();
        store::tokens::holder(&mut tx, &store::tokens::Credential { job_id, generation: 1 }).await.unwrap().is_some()
    };
    assert!(valid().await);
    harness.runtime.end(&second, harness.clock.now(), EndCause::Exited(0));
    harness.until_status(NAME, &second, Status::Succeeded).await;
    assert!(!valid().await);
}
