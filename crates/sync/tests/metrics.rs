//! Metrics of jobs and stages, and how long they are shown.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use app::jobs::JobDefinition;
use jiff::SignedDuration;
use model::{
    Problem,
    clock::Clock,
    deployment::DeploymentChange,
    execution::{EndCause, ExecutionEnd, Status},
    job::{Contacts, JobConfig},
    name::ExecutionId,
    runtime::{ScheduledExecution, Stage},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use support::{Answer, Harness, Instance, Method, TEAM};
use sync::gauges::Gauges;
use testing::{Database, for_each_database};

for_each_database!(
    a_job_shows_its_owner_its_contacts_and_its_delay_from_its_creation_on,
    a_run_shows_its_status_by_upstreams_values_until_the_next_one_is_accepted,
    a_run_that_stepped_aside_leaves_the_status_of_the_one_before,
    a_deployment_shows_its_last_outcome_as_long_as_it_is_there,
    a_deleted_job_takes_its_series_along,
    each_stage_is_counted_and_timed,
    a_tick_that_starts_a_run_beside_another_one_is_counted,
    a_task_that_panics_is_counted,
    a_loop_that_panics_is_counted_and_starts_again,
    notifications_that_come_together_are_followed_by_one_round,
);

/// An instance whose series are read.
struct Watched {
    harness: Harness,
    gauges: Gauges,
    registry: Registry,
    instance: Instance,
}

impl Watched {
    async fn start(on: Database) -> Self {
        Self::of(Harness::new(on).await)
    }

    fn of(harness: Harness) -> Self {
        let (gauges, registry) = seen();
        let instance = harness.instance_with("test", harness.db.clone(), true, Duration::from_secs(15), gauges.clone());
        Self { harness, gauges, registry, instance }
    }

    /// The samples whose names begin so, as the rows are now.
    async fn samples(&self, beginning: &str) -> Vec<String> {
        self.gauges.refresh(&self.harness.db, self.harness.clock.now()).await.unwrap();
        samples(&self.registry, beginning)
    }

    async fn end(&self, job: &str, id: &ExecutionId, cause: EndCause, said: Option<&str>, status: Status) {
        let at = self.harness.clock.now();
        let termination_message = said.map(|status| format!(r#"{{"vdk_version":"1","status":"{status}"}}"#));
        let end = ExecutionEnd { started_at: Some(at), ended_at: at, cause, termination_message };
        self.harness.runtime.change(|s| s.stages.insert(id.clone(), Stage::Ended(end)));
        self.harness.until_status(job, id, status).await;
        // The next run has an end and a start of its own.
        self.harness.advance(SignedDuration::from_secs(10));
    }

    /// Starts a run and waits until its process runs.
    async fn running(&self, job: &str) -> ExecutionId {
        let id = self.harness.start(job).await;
        self.harness.until_status(job, &id, Status::Running).await;
        id
    }

    async fn update(&self, name: &str, team: &str, config: JobConfig) {
        let Harness { db, clock, defaults, .. } = &self.harness;
        let definition = JobDefinition { name: name.into(), team: team.into(), description: String::new(), config };
        let caller = self.harness.caller();
        app::jobs::update(db, &**clock, &caller, "UTC", defaults, TEAM, name, definition).await.unwrap();
    }
}

fn seen() -> (Gauges, Registry) {
    let mut registry = Registry::default();
    let gauges = Gauges::register(&mut registry, true, std::sync::Arc::new(clock::SystemClock));
    (gauges, registry)
}

fn samples(registry: &Registry, beginning: &str) -> Vec<String> {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    text.lines().filter(|line| line.starts_with(beginning)).map(Into::into).collect()
}

/// The termination status of the only job that there is.
fn status(job: &str, id: &ExecutionId, value: i64) -> Vec<String> {
    vec![format!(
        r#"taurus_datajob_termination_status{{data_job="{job}",execution_id="{id}",service="data-jobs"}} {value}"#
    )]
}

async fn a_job_shows_its_owner_its_contacts_and_its_delay_from_its_creation_on(on: Database) {
    let watched = Watched::start(on).await;
    assert_eq!(watched.samples("taurus_datajob").await.len(), 1, "the counter alone");
    let info = |team: &str, success: &str, user: &str, platform: &str| {
        vec![format!(
            r#"taurus_datajob_info{{data_job="example-job",team="{team}",email_notified_on_success="{success}",email_notified_on_user_error="{user}",email_notified_on_platform_error="{platform}",service="data-jobs"}} 1"#
        )]
    };
    let delay = |minutes: i32| {
        vec![format!(r#"taurus_datajob_notification_delay{{data_job="example-job",service="data-jobs"}} {minutes}"#)]
    };
    watched.harness.create("example-job", None).await;
    assert_eq!(watched.samples("taurus_datajob_info{").await, info(TEAM, "", "", ""));
    assert_eq!(watched.samples("taurus_datajob_notification_delay{").await, delay(240));

    let mut config = JobConfig {
        contacts: Contacts {
            notified_on_job_success: vec!["one@example.com".into(), "two@example.com".into()],
            notified_on_job_failure_user_error: vec!["\"the \\ team\"@example.com".into()],
            notified_on_job_failure_platform_error: vec!["operator@example.com".into()],
            notified_on_job_deploy: vec!["nobody@example.com".into()],
        },
        notification_delay_period_minutes: 30,
        ..JobConfig::default()
    };
    watched.update("example-job", "another team", config.clone()).await;
    let lists = ("one@example.com;two@example.com", r#"\"the \\ team\"@example.com"#, "operator@example.com");
    assert_eq!(watched.samples("taurus_datajob_info{").await, info("another team", lists.0, lists.1, lists.2));
    assert_eq!(watched.samples("taurus_datajob_notification_delay{").await, delay(30));

    config.enable_execution_notifications = false;
    let caller = watched.harness.caller();
    let definition = JobDefinition { team: "another team".into(), config, ..Harness::definition("example-job", None) };
    let Harness { db, clock, defaults, .. } = &watched.harness;
    app::jobs::update(db, &**clock, &caller, "UTC", defaults, "another team", "example-job", definition).await.unwrap();
    assert_eq!(watched.samples("taurus_datajob_info{").await, info("another team", "", "", ""));
}

async fn a_run_shows_its_status_by_upstreams_values_until_the_next_one_is_accepted(on: Database) {
    let watched = Watched::start(on).await;
    let harness = &watched.harness;
    harness.create("example-job", None).await;
    assert!(watched.samples("taurus_datajob_termination_status{").await.is_empty(), "it never ran");
    harness.runtime.change(|s| s.apply_blocked = true);
    harness.deploy("example-job").await;
    let id = harness.start("example-job").await;
    assert_eq!(watched.samples("taurus_datajob_termination_status{").await, status("example-job", &id, 2));
    harness.runtime.change(|s| s.apply_blocked = false);
    harness.until_status("example-job", &id, Status::Running).await;
    assert_eq!(watched.samples("taurus_datajob_termination_status{").await, status("example-job", &id, 5));
    watched.end("example-job", &id, EndCause::Exited(0), Some("Success"), Status::Succeeded).await;
    assert_eq!(watched.samples("taurus_datajob_termination_status{").await, status("example-job", &id, 0));
    for (cause, said, ended, value) in [
        (EndCause::Exited(1), Some("Platform error"), Status::PlatformError, 1),
        (EndCause::Exited(1), Some("User error"), Status::UserError, 3),
        (EndCause::Cancelled, None, Status::Cancelled, 6),
    ] {
        let id = watched.running("example-job").await;
        assert_eq!(watched.samples("taurus_datajob_termination_status{").await, status("example-job", &id, 5));
        watched.end("example-job", &id, cause, said, ended).await;
        assert_eq!(watched.samples("taurus_datajob_termination_status{").await, status("example-job", &id, value));
    }
}

async fn a_run_that_stepped_aside_leaves_the_status_of_the_one_before(on: Database) {
    let watched = Watched::start(on).await;
    watched.harness.deployed("example-job", None).await;
    let aside = watched.running("example-job").await;
    watched.end("example-job", &aside, EndCause::Exited(0), Some("Skipped"), Status::Skipped).await;
    assert!(watched.samples("taurus_datajob_termination_status{").await.is_empty(), "no run spoke so far");
    let failed = watched.running("example-job").await;
    watched.end("example-job", &failed, EndCause::Exited(1), Some("User error"), Status::UserError).await;
    for _ in 0..2 {
        let aside = watched.running("example-job").await;
        watched.end("example-job", &aside, EndCause::Exited(0), Some("Skipped"), Status::Skipped).await;
    }
    assert_eq!(watched.samples("taurus_datajob_termination_status{").await, status("example-job", &failed, 3));
}

async fn a_deployment_shows_its_last_outcome_as_long_as_it_is_there(on: Database) {
    let watched = Watched::start(on).await;
    let harness = &watched.harness;
    let gauge = |value: i64| {
        vec![format!(r#"taurus_deployment_status_gauge{{dataJob="example-job",service="data-jobs"}} {value}"#)]
    };
    let summary = |what: &str, status: &str, value: &str| {
        format!(
            r#"taurus_deployment_status_summary_{what}{{dataJob="example-job",status="{status}",service="data-jobs"}} {value}"#
        )
    };
    harness.create("example-job", None).await;
    assert!(watched.samples("taurus_deployment").await.is_empty(), "nothing was deployed");
    harness.deploy("example-job").await;
    harness.until("it is reached", async || harness.reached("example-job").await.is_some()).await;
    assert_eq!(watched.samples("taurus_deployment_status_gauge").await, gauge(0));
    for (version, problem, value) in [
        (
            "1.1",
            Problem::new(model::problem::Code::PackagesUnresolvable, "It does not install.", "No such package.")
                .nothing_changed()
                .fix("Retry."),
            3,
        ),
        (
            "1.2",
            Problem::new(model::problem::Code::PackageInstallerFailed, "It does not install.", "The index is away.")
                .nothing_changed()
                .fix("Retry."),
            1,
        ),
    ] {
        harness.runtime.script(Method::Apply, [Answer::Fails(problem)]);
        let wanted = DeploymentChange { vdk_version: Some(version.into()), ..DeploymentChange::default() };
        harness.change("example-job", wanted).await;
        harness
            .until("the outcome is shown", async || {
                watched.samples("taurus_deployment_status_gauge").await == gauge(value)
            })
            .await;
    }
    // The row is there a moment before its outcome is counted.
    let outcomes = [
        summary("sum", "PLATFORM_ERROR", "1.0"),
        summary("count", "PLATFORM_ERROR", "1"),
        summary("sum", "SUCCESS", "1.0"),
        summary("count", "SUCCESS", "1"),
        summary("sum", "USER_ERROR", "1.0"),
        summary("count", "USER_ERROR", "1"),
        summary("max", "PLATFORM_ERROR", "1"),
        summary("max", "SUCCESS", "1"),
        summary("max", "USER_ERROR", "1"),
    ];
    harness
        .until("each outcome is counted once", async || {
            watched.samples("taurus_deployment_status_summary").await == outcomes
        })
        .await;
    // The largest is forgotten after some minutes, in which the second try of the last one succeeds.
    harness.advance(SignedDuration::from_mins(4));
    harness
        .until("it is tried again", async || watched.samples("taurus_deployment_status_gauge").await == gauge(0))
        .await;
    let largest =
        [summary("max", "PLATFORM_ERROR", "0"), summary("max", "SUCCESS", "1"), summary("max", "USER_ERROR", "0")];
    harness
        .until("the success alone is remembered", async || {
            watched.samples("taurus_deployment_status_summary_max").await == largest
        })
        .await;
    let caller = harness.caller();
    app::deployments::remove(&harness.db, &*harness.clock, &caller, TEAM, "example-job", "production").await.unwrap();
    assert!(watched.samples("taurus_deployment_status_gauge").await.is_empty());
    let three = summary("count", "SUCCESS", "3");
    harness
        .until("the removal is counted", async || {
            watched.samples("taurus_deployment_status_summary_count").await.contains(&three)
        })
        .await;
}

async fn a_deleted_job_takes_its_series_along(on: Database) {
    let watched = Watched::start(on).await;
    let harness = &watched.harness;
    for name in ["first-job", "second-job"] {
        harness.deployed(name, None).await;
        let id = watched.running(name).await;
        watched.end(name, &id, EndCause::Exited(0), None, Status::Succeeded).await;
    }
    let of = async |name: &str| -> Vec<String> {
        let series = watched.samples("taurus_").await;
        let name = format!("=\"{name}\"");
        series.into_iter().filter(|line| line.contains(&name)).collect()
    };
    let (first, second) = (of("first-job").await, of("second-job").await);
    assert_eq!((first.len(), second.len()), (7, 7), "{first:#?}{second:#?}");
    app::jobs::delete(&harness.db, &*harness.clock, &harness.caller(), TEAM, "first-job").await.unwrap();
    harness.until("its deployment goes", async || harness.runtime.change(|s| s.removed.len() == 1)).await;
    harness.until("all of it is gone", async || of("first-job").await.is_empty()).await;
    assert_eq!(of("second-job").await, second);
    // A new job with the same name has a history of its own.
    harness.create("first-job", None).await;
    let names: Vec<_> = of("first-job").await.iter().map(|line| line.split('{').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["taurus_datajob_info", "taurus_datajob_notification_delay"]);
}

async fn each_stage_is_counted_and_timed(on: Database) {
    let watched = Watched::start(on).await;
    let harness = &watched.harness;
    harness.runtime.change(|s| s.apply_blocked = true);
    harness.create("example-job", Some("* * * * *")).await;
    harness.deploy("example-job").await;
    let id = harness.start("example-job").await;
    harness.until("it is applied", async || harness.runtime.change(|s| s.applied.len() == 1)).await;
    harness.advance(SignedDuration::from_secs(20));
    harness.runtime.change(|s| s.apply_blocked = false);
    harness.until_status("example-job", &id, Status::Running).await;
    watched.end("example-job", &id, EndCause::Exited(0), None, Status::Succeeded).await;
    // A tick, 30 s later; it is accepted a moment after its minute.
    harness.advance(SignedDuration::from_secs(31));
    harness.until("the tick has its run", async || harness.executions("example-job").await.len() == 2).await;
    let tick = harness.executions("example-job").await.into_iter().find(|run| run.id != id).unwrap().id;
    harness.until_status("example-job", &tick, Status::Running).await;
    watched.end("example-job", &tick, EndCause::OutOfMemory, None, Status::UserError).await;

    let all = samples(&watched.registry, "");
    let has = |sample: &str| assert!(all.iter().any(|line| line == sample), "{sample} is not in {all:#?}");
    has(r#"holdfast_reconciliations_total{result="apply",reason="new"} 1"#);
    has(r#"holdfast_reconciliations_total{result="apply",reason="drift"} 0"#);
    has(r#"holdfast_reconciliations_total{result="blocked",reason=""} 0"#);
    has(r#"holdfast_apply_duration_seconds_count{outcome="done"} 1"#);
    has(r#"holdfast_apply_duration_seconds_count{outcome="user_error"} 0"#);
    has("holdfast_rollout_duration_seconds_sum 20.0");
    has("holdfast_rollout_duration_seconds_count 1");
    has(r#"holdfast_executions_ended_total{status="SUCCEEDED"} 1"#);
    has(r#"holdfast_executions_ended_total{status="USER_ERROR"} 1"#);
    has(r#"holdfast_executions_ended_total{status="CANCELLED"} 0"#);
    has("holdfast_execution_start_delay_seconds_count 2");
    has("holdfast_schedule_delay_seconds_sum 1.0");
    has("holdfast_schedule_delay_seconds_count 1");
    has("holdfast_leader 1");
    has("holdfast_leader_acquisitions_total 1");
    for counter in ["taurus_datajob_watch_task_invocations", "vdk_deploy_datajob_synchronizer_successful_invocations"] {
        let line = samples(&watched.registry, &format!("{counter}_counter_total{{service=\"data-jobs\"}} ")).remove(0);
        assert!(!line.ends_with(" 0"), "{line}");
    }
    has("vdk_deploy_datajob_synchronizer_failed_invocations_counter_total{service=\"data-jobs\"} 0");
    has("vdk_execution_cleanup_task_datajob_invocations_counter_total{service=\"data-jobs\"} 0");
    has("vdk_execution_cleanup_task_datajob_successful_deletions_counter_total{service=\"data-jobs\"} 0");
    has("vdk_execution_cleanup_task_datajob_failed_deletions_counter_total{service=\"data-jobs\"} 0");

    let (stop, task) = watched.instance;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(
        samples(&watched.registry, "holdfast_leader"),
        ["holdfast_leader_epoch 0", "holdfast_leader 0", "holdfast_leader_acquisitions_total 1"]
    );
}

async fn a_tick_that_starts_a_run_beside_another_one_is_counted(on: Database) {
    let harness = Harness::new(on).await;
    harness.runtime.change(|s| s.fires_ticks = true);
    let watched = Watched::of(harness);
    let harness = &watched.harness;
    let job_id = harness.deployed("example-job", Some("* * * * *")).await;
    let tick = |number: i64| {
        let at = harness.clock.now();
        let id = ExecutionId::parse(&format!("example-job-{number}")).unwrap();
        let tick = at + SignedDuration::from_secs(number);
        harness.runtime.change(|s| {
            s.scheduled.insert(id.clone(), ScheduledExecution { job_id, generation: Some(1), tick, created_at: at });
            s.stages.insert(id.clone(), Stage::Running(at));
            s.news.runs = true;
        });
        id
    };
    for (number, overlaps) in [(1, 0), (2, 1)] {
        let id = tick(number);
        let recorded = async || harness.executions("example-job").await.iter().any(|run| run.id == id);
        harness.until("it has a row", recorded).await;
        harness.until_status("example-job", &id, Status::Running).await;
        let counted = samples(&watched.registry, "holdfast_executions_overlapping_total");
        assert_eq!(counted, [format!("holdfast_executions_overlapping_total {overlaps}")]);
    }
}

async fn a_task_that_panics_is_counted(on: Database) {
    let watched = Watched::start(on).await;
    let harness = &watched.harness;
    harness.deployed("example-job", None).await;
    harness.runtime.script(Method::Next, [Answer::Panics]);
    harness.start("example-job").await;
    let counted = || samples(&watched.registry, "holdfast_task_panics_total{task=\"execution\"}");
    harness.until("it is counted", async || counted() == ["holdfast_task_panics_total{task=\"execution\"} 1"]).await;
}

async fn notifications_that_come_together_are_followed_by_one_round(on: Database) {
    let watched = Watched::start(on).await;
    watched.harness.deployed("example-job", None).await;
    let rounds = || -> u64 {
        let line = samples(&watched.registry, "taurus_datajob_watch_task_invocations_counter_total").pop().unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let clock = testing::clock();
    let (before, begun) = (rounds(), clock.boot());
    for _ in 0..100 {
        watched.harness.db.notifications().executions.notify_one();
        clock.sleep(Duration::from_millis(1)).await;
    }
    let (made, took) = (rounds() - before, clock.boot().saturating_sub(begun));
    assert!(made > 0 && u128::from(made) <= took.as_millis() / 20 + 2, "{made} rounds in {took:?}");
}

async fn a_loop_that_panics_is_counted_and_starts_again(on: Database) {
    let harness = Harness::new(on).await;
    // The loop itself asks what runs, and no task of it.
    harness.runtime.script(Method::Runs, [Answer::Panics]);
    let watched = Watched::of(harness);
    let harness = &watched.harness;
    let counted = || samples(&watched.registry, "holdfast_task_panics_total{task=\"executions loop\"}");
    let once = ["holdfast_task_panics_total{task=\"executions loop\"} 1"];
    harness.until("it is counted", async || counted() == once).await;
    // The other loops continue meanwhile.
    harness.deployed("example-job", None).await;
    let id = harness.start("example-job").await;
    harness.until_status("example-job", &id, Status::Running).await;
    assert_eq!(counted(), once);
}

#[tokio::test]
async fn every_instance_shows_every_job_and_one_of_them_leads() {
    let harness = Harness::new(Database::Postgresql).await;
    let mut instances = Vec::new();
    for holder in ["one", "two"] {
        let (gauges, registry) = seen();
        let db = harness.fresh.open().await;
        instances.push((harness.instance_with(holder, db, false, Duration::from_secs(3), gauges), registry));
    }
    harness.deployed("example-job", None).await;
    let shown = |beginning: &str| -> Vec<Vec<String>> {
        instances.iter().map(|(_, registry)| samples(registry, beginning)).collect()
    };
    harness.until("both show it", async || shown("taurus_deployment_status_gauge{").iter().all(|s| s.len() == 1)).await;
    for beginning in ["taurus_datajob_info{", "taurus_datajob_notification_delay{", "taurus_deployment_status_gauge{"] {
        let shown = shown(beginning);
        assert_eq!(shown[0], shown[1]);
    }
    let mut leaders: Vec<_> = shown("holdfast_leader ").concat();
    leaders.sort();
    assert_eq!(leaders, ["holdfast_leader 0", "holdfast_leader 1"]);
    for ((stop, task), _) in instances {
        stop.cancel();
        task.await.unwrap();
    }
}
