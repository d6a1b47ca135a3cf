//! Effects of the queue of builds.

mod support;

use std::time::Duration;

use jiff::SignedDuration;
use model::{
    Problem,
    build::BuildKey,
    deployment::DeploymentChange,
    lock::ResolutionInputs,
    name::JobId,
    rollout::{Rollout, Status},
};
use store::{
    builds::{Build, State},
    leases::{self, SYNCHRONIZER},
};
use support::{Answer, Gate, Harness, Method};
use testing::{Database, for_each_database};

for_each_database!(
    builds_delay_no_quick_change,
    a_build_is_queued_then_runs_and_then_has_its_artifact,
    deployments_with_equal_inputs_share_one_build,
    a_failed_build_is_the_failure_of_each_deployment_that_waits_for_it,
    a_build_that_a_platform_failed_is_repeated_with_its_rollout,
    a_build_that_panics_fails_and_holds_up_no_other,
    an_interrupted_build_is_aborted_and_taken_up_by_the_next_leader,
    a_build_that_is_not_needed_any_more_is_not_begun,
    a_lock_of_an_older_program_needs_no_build,
    teams_take_turns_in_the_queue_of_builds,
    failed_builds_and_forgotten_ones_go_after_a_day,
    an_image_that_the_registry_lost_is_built_again_and_its_deployment_stays_as_it_is,
);

const LEASE: Duration = Duration::from_secs(15);

fn outage() -> Problem {
    Problem::new(
        model::problem::Code::PackageInstallerFailed,
        "The packages could not be resolved.",
        "The index is away.",
    )
    .nothing_changed()
    .fix("Retry.")
}

fn inputs(harness: &Harness, requirements: &str) -> ResolutionInputs {
    ResolutionInputs {
        python_version: harness.defaults.python_version,
        vdk_requirement: format!("vdk=={}", harness.defaults.vdk_version),
        constraints: harness.constraints.clone(),
        requirements: requirements.into(),
        platform: None,
    }
}

async fn build(harness: &Harness, requirements: &str) -> Option<Build> {
    let key = BuildKey::new(inputs(harness, requirements).key().to_string());
    store::builds::find(&mut harness.db.read().await.unwrap(), &key).await.unwrap()
}

async fn until_state(harness: &Harness, requirements: &str, state: State) {
    let is_so = async || build(harness, requirements).await.is_some_and(|build| build.state == state);
    harness.until(&format!("the build of {requirements:?} is {state:?}"), is_so).await;
}

async fn rollout(harness: &Harness, id: JobId) -> Rollout {
    store::deployments::rollout(&mut harness.db.read().await.unwrap(), id).await.unwrap().unwrap()
}

/// Deploys a job with these requirements.
async fn deploy(harness: &Harness, name: &str, requirements: &str) -> JobId {
    let id = harness.create_with(name, None, requirements).await;
    harness.deploy(name).await;
    id
}

fn begun(harness: &Harness) -> Vec<String> {
    harness.runtime.change(|s| s.built.clone())
}

async fn is_reached(harness: &Harness, name: &str) {
    harness.until(&format!("{name} is reached"), async || harness.reached(name).await.is_some()).await;
}

async fn builds_delay_no_quick_change(on: Database) {
    let harness = Harness::running(on).await;
    for n in 0..20 {
        harness.deployed(&format!("quick-job-{n}"), None).await;
    }
    let gate = Gate::default();
    harness.runtime.script(Method::Build, [Answer::Waits(gate.clone()), Answer::Waits(gate.clone())]);
    for n in 0..5 {
        deploy(&harness, &format!("slow-job-{n}"), &format!("package=={n}")).await;
    }
    harness.until("as many builds run as may", async || begun(&harness).len() == 3).await;
    for n in 0..20 {
        let change = DeploymentChange { enabled: Some(false), ..DeploymentChange::default() };
        harness.change(&format!("quick-job-{n}"), change).await;
    }
    for n in 0..20 {
        let name = format!("quick-job-{n}");
        harness.until("the change is reached", async || harness.reached(&name).await == Some(2)).await;
    }
    // The first was that of the quick jobs; the rest waits for its turn, and is due meanwhile.
    assert_eq!((begun(&harness).len(), harness.runtime.change(|s| s.builds_ended)), (3, 1));
    let mut tx = harness.db.read().await.unwrap();
    let now = model::clock::Clock::now(&*harness.clock);
    assert_eq!(store::deployments::backlog(&mut tx, now).await.unwrap().0, 5);
    drop(tx);
    gate.open();
    for n in 0..5 {
        is_reached(&harness, &format!("slow-job-{n}")).await;
    }
    assert_eq!(begun(&harness).len(), 6);
}

async fn a_build_is_queued_then_runs_and_then_has_its_artifact(on: Database) {
    let mut harness = Harness::new(on).await;
    let gate = Gate::default();
    harness.runtime.script(Method::Build, [Answer::Waits(gate.clone())]);
    let id = deploy(&harness, "example-job", "package").await;
    assert_eq!(build(&harness, "package").await, None);
    harness.start_instance();
    until_state(&harness, "package", State::Running).await;
    let running = build(&harness, "package").await.unwrap();
    assert_eq!((running.attempts, &running.artifact, running.ended_at), (1, &None, None));
    assert!(running.started_at.is_some());
    assert_eq!(rollout(&harness, id).await.status, Status::None);
    gate.open();
    is_reached(&harness, "example-job").await;
    let built = build(&harness, "package").await.unwrap();
    assert_eq!((built.state, built.problem), (State::Built, None));
    assert_eq!(built.artifact, rollout(&harness, id).await.artifact);
    assert!(built.ended_at.is_some());
}

async fn deployments_with_equal_inputs_share_one_build(on: Database) {
    let harness = Harness::running(on).await;
    let gate = Gate::default();
    harness.runtime.script(Method::Build, [Answer::Waits(gate.clone())]);
    for n in 0..6 {
        deploy(&harness, &format!("example-job-{n}"), "package").await;
    }
    harness.until("it is being built", async || begun(&harness).len() == 1).await;
    gate.open();
    for n in 0..6 {
        is_reached(&harness, &format!("example-job-{n}")).await;
    }
    deploy(&harness, "later-job", "package").await;
    is_reached(&harness, "later-job").await;
    assert_eq!(begun(&harness), ["package"]);
}

async fn a_failed_build_is_the_failure_of_each_deployment_that_waits_for_it(on: Database) {
    let harness = Harness::running(on).await;
    harness.deployed("other-job", None).await;
    let gate = Gate::default();
    let problem = Problem::new(
        model::problem::Code::PackagesUnresolvable,
        "The packages could not be resolved.",
        "There is no package of that name.",
    )
    .nothing_changed()
    .fix("Retry.");
    harness.runtime.script(Method::Build, [Answer::Waits(gate.clone()), Answer::Fails(problem.clone())]);
    let mut jobs = Vec::new();
    for n in 0..3 {
        jobs.push(deploy(&harness, &format!("example-job-{n}"), "package").await);
    }
    let now = model::clock::Clock::now(&*harness.clock);
    harness
        .until("it is being built, and all of them wait for it", async || {
            let mut tx = harness.db.read().await.unwrap();
            let due = store::deployments::due(&mut tx, now, 10).await.unwrap();
            begun(&harness).len() == 2 && due.is_empty()
        })
        .await;
    gate.open();
    for id in jobs {
        harness.until("it failed", async || rollout(&harness, id).await.status == Status::UserError).await;
        let failed = rollout(&harness, id).await;
        assert_eq!((failed.problem, failed.retry_at), (Some(problem.clone()), None));
    }
    assert_eq!(begun(&harness), ["", "package"]);
    let failed = build(&harness, "package").await.unwrap();
    assert_eq!((failed.state, failed.problem), (State::Failed, Some(problem)));
    // A change of the job tries it again.
    let change = DeploymentChange { enabled: Some(false), ..DeploymentChange::default() };
    harness.change("example-job-1", change).await;
    is_reached(&harness, "example-job-1").await;
    assert_eq!(begun(&harness), ["", "package", "package"]);
}

async fn a_build_that_a_platform_failed_is_repeated_with_its_rollout(on: Database) {
    let harness = Harness::running(on).await;
    harness.runtime.script(Method::Build, [Answer::Fails(outage())]);
    let id = deploy(&harness, "example-job", "package").await;
    harness.until("it failed", async || rollout(&harness, id).await.status == Status::PlatformError).await;
    assert_eq!((rollout(&harness, id).await.attempts, begun(&harness).len()), (1, 1));
    harness.advance(SignedDuration::from_secs(5));
    is_reached(&harness, "example-job").await;
    assert_eq!(build(&harness, "package").await.unwrap().attempts, 2);
}

async fn a_build_that_panics_fails_and_holds_up_no_other(on: Database) {
    let harness = Harness::running(on).await;
    harness.runtime.script(Method::Build, [Answer::Panics]);
    let id = deploy(&harness, "example-job", "package").await;
    harness.until("it failed", async || rollout(&harness, id).await.status == Status::PlatformError).await;
    assert_eq!(build(&harness, "package").await.unwrap().state, State::Failed);
    harness.deployed("other-job", None).await;
    harness.advance(SignedDuration::from_secs(5));
    is_reached(&harness, "example-job").await;
}

async fn an_interrupted_build_is_aborted_and_taken_up_by_the_next_leader(on: Database) {
    let harness = Harness::new(on).await;
    // It never ends.
    harness.runtime.script(Method::Build, [Answer::Waits(Gate::default())]);
    let (stop, task) = harness.instance("one", harness.db.clone(), true, LEASE);
    let id = deploy(&harness, "example-job", "package").await;
    until_state(&harness, "package", State::Running).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(harness.runtime.change(|s| s.builds_ended), 1, "it is aborted");
    assert_eq!(build(&harness, "package").await.unwrap().state, State::Running);

    let (stop, task) = harness.instance("two", harness.db.clone(), true, LEASE);
    is_reached(&harness, "example-job").await;
    let built = build(&harness, "package").await.unwrap();
    assert_eq!((built.state, built.attempts), (State::Built, 2));
    assert_eq!(rollout(&harness, id).await.artifact, built.artifact);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_leader_that_another_replaced_aborts_its_build_and_records_nothing_of_it() {
    let harness = Harness::new(Database::Postgresql).await;
    // It never ends.
    harness.runtime.script(Method::Build, [Answer::Waits(Gate::default())]);
    let lease = Duration::from_secs(3);
    let (stop, task) = harness.instance("one", harness.fresh.open().await, false, lease);
    deploy(&harness, "example-job", "package").await;
    until_state(&harness, "package", State::Running).await;
    // As after a pause of the process that was longer than the lease.
    let usurped = async || {
        let seen = leases::find(&harness.db, SYNCHRONIZER).await.unwrap();
        leases::take(&harness.db, SYNCHRONIZER, "usurper", seen.as_ref()).await.unwrap().is_some()
    };
    harness.until("another leads", usurped).await;
    harness.until("the build is aborted", async || harness.runtime.change(|s| s.builds_ended) >= 1).await;
    // The usurper does not renew the lease, so that it leads again with a new epoch.
    is_reached(&harness, "example-job").await;
    let built = build(&harness, "package").await.unwrap();
    assert_eq!((built.state, built.attempts), (State::Built, 2));
    assert_eq!(begun(&harness), ["package", "package"]);
    stop.cancel();
    task.await.unwrap();
}

async fn a_build_that_is_not_needed_any_more_is_not_begun(on: Database) {
    let harness = Harness::running(on).await;
    let gate = Gate::default();
    harness.runtime.script(Method::Build, [Answer::Waits(gate.clone()), Answer::Waits(gate.clone())]);
    for n in 0..2 {
        deploy(&harness, &format!("slow-job-{n}"), &format!("package=={n}")).await;
    }
    harness.until("as many builds run as may", async || begun(&harness).len() == 2).await;
    deploy(&harness, "example-job", "unwanted").await;
    until_state(&harness, "unwanted", State::Queued).await;
    app::deployments::remove(
        &harness.db,
        &*harness.clock,
        &harness.caller(),
        support::TEAM,
        "example-job",
        "production",
    )
    .await
    .unwrap();
    gate.open();
    for n in 0..2 {
        is_reached(&harness, &format!("slow-job-{n}")).await;
    }
    harness.deployed("other-job", None).await;
    assert!(!begun(&harness).contains(&"unwanted".to_owned()));
}

async fn a_lock_of_an_older_program_needs_no_build(on: Database) {
    let harness = Harness::new(on).await;
    let inputs = inputs(&harness, "package");
    let lock = model::lock::Lock { key: inputs.key(), python_version: inputs.python_version, text: "none".into() };
    let mut tx = harness.db.write().await.unwrap();
    store::locks::insert(&mut tx, &lock, model::clock::Clock::now(&*harness.clock)).await.unwrap();
    tx.commit().await.unwrap();
    let (stop, task) = harness.instance("one", harness.db.clone(), true, LEASE);
    deploy(&harness, "example-job", "package").await;
    is_reached(&harness, "example-job").await;
    assert_eq!((begun(&harness), build(&harness, "package").await), (Vec::new(), None));
    stop.cancel();
    task.await.unwrap();
}

async fn teams_take_turns_in_the_queue_of_builds(on: Database) {
    let harness = Harness::running(on).await;
    let (first, second) = (Gate::default(), Gate::default());
    harness.runtime.script(Method::Build, [Answer::Waits(first.clone()), Answer::Waits(second.clone())]);
    for n in 0..4 {
        deploy(&harness, &format!("example-job-{n}"), &format!("package=={n}")).await;
    }
    // Which two begin is a matter of the order in which the deployments were reconciled.
    harness
        .until("two are begun and two wait", async || {
            let mut queued = 0;
            for n in 0..4 {
                let build = build(&harness, &format!("package=={n}")).await;
                queued += usize::from(build.is_some_and(|build| build.state == State::Queued));
            }
            queued == 2 && begun(&harness).len() == 2
        })
        .await;
    // It is the last one in the order of time.
    harness.advance(SignedDuration::from_secs(1));
    harness.create_for("another team", "other-job", None, "other").await;
    harness.deploy_for("another team", "other-job").await;
    until_state(&harness, "other", State::Queued).await;
    // The first team still has one running, so that the next place is not its own.
    first.open();
    harness.until("one more is begun", async || begun(&harness).len() > 2).await;
    assert_eq!(begun(&harness)[2], "other");
    second.open();
    harness.until("all are begun", async || begun(&harness).len() == 5).await;
}

async fn failed_builds_and_forgotten_ones_go_after_a_day(on: Database) {
    let harness = Harness::running(on).await;
    harness.runtime.script(
        Method::Build,
        [Answer::Fails(
            Problem::new(model::problem::Code::PackagesUnresolvable, "a", "b").nothing_changed().fix("Retry."),
        )],
    );
    let id = deploy(&harness, "example-job", "package").await;
    harness.until("it failed", async || rollout(&harness, id).await.status == Status::UserError).await;
    harness.deployed("other-job", None).await;
    let purge = async |hours: i64| {
        let before = model::clock::Clock::now(&*harness.clock) + SignedDuration::from_hours(hours);
        let mut tx = harness.db.write().await.unwrap();
        let done = store::builds::purge(&mut tx, before, 10).await.unwrap();
        tx.commit().await.unwrap();
        done
    };
    assert_eq!(purge(0).await, 0);
    assert_eq!(purge(25).await, 1);
    assert_eq!(build(&harness, "package").await, None);
    assert_eq!(build(&harness, "").await.unwrap().state, State::Built);
}

async fn an_image_that_the_registry_lost_is_built_again_and_its_deployment_stays_as_it_is(on: Database) {
    let mut harness = Harness::new(on).await;
    harness.sweep_interval = Duration::from_millis(50);
    harness.runtime.change(|s| s.builds_images = true);
    harness.start_instance();
    let lost = deploy(&harness, "lost-job", "one").await;
    let kept = deploy(&harness, "kept-job", "two").await;
    is_reached(&harness, "lost-job").await;
    is_reached(&harness, "kept-job").await;
    let applied = harness.runtime.change(|s| s.applied.clone());
    let artifact = rollout(&harness, lost).await.artifact;
    let Some(model::artifact::Artifact::Image(image)) = artifact.clone() else { panic!("{artifact:?}") };

    // While the registry does not answer, nothing is built.
    harness.runtime.change(|s| s.failing.insert(Method::Exists, outage()));
    harness.runtime.change(|s| s.images.remove(&image));
    let asked = |harness: &Harness| harness.runtime.change(|s| s.calls.get(&Method::Exists).copied().unwrap_or(0));
    let before = asked(&harness);
    harness.until("the registry is asked again", async || asked(&harness) > before + 4).await;
    assert_eq!(begun(&harness).len(), 2);

    harness.runtime.change(|s| s.failing.remove(&Method::Exists));
    harness.until("the image is there again", async || harness.runtime.change(|s| s.images.contains(&image))).await;
    until_state(&harness, "one", State::Built).await;
    let before = asked(&harness);
    harness.until("further rounds", async || asked(&harness) > before + 8).await;
    let mut built = begun(&harness);
    built.sort();
    assert_eq!(built, ["one", "one", "two"]);
    // Neither deployment was written again, and both are as they were.
    assert_eq!(harness.runtime.change(|s| s.applied.clone()), applied);
    assert_eq!(rollout(&harness, lost).await.artifact, artifact);
    assert_eq!(rollout(&harness, kept).await.status, Status::Success);
}
