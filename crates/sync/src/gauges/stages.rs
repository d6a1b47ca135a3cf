//! Metrics of each stage of rollouts and executions, measured on the instance that leads.

use std::{sync::atomic::AtomicU64, time::Duration};

use jiff::{SignedDuration, Timestamp};
use model::{
    Problem,
    execution::Status,
    plan::{Plan, Reason},
    problem::Fault,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::series::SERVICE;

/// Upper bounds of the buckets of durations up to hours, in seconds.
const BUCKETS_SECONDS: [f64; 14] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 14_400.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPlan {
    result: &'static str,
    /// The reason of an apply; empty for other results.
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTask {
    task: &'static str,
}

/// The metrics of the stages.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    plans: Family<ByPlan, Counter>,
    applies: Family<ByOutcome, Histogram, fn() -> Histogram>,
    rollouts: Histogram,
    starts: Histogram,
    ended: Family<ByStatus, Counter>,
    ticks: Histogram,
    overlaps: Counter,
    panics: Family<ByTask, Counter>,
    leader: Gauge,
    acquisitions: Counter,
    series_refreshed: Gauge<f64, AtomicU64>,
    pub(super) upstream: UpstreamCounters,
}

/// Counters under the names of upstream.
#[derive(Debug, Clone, Default)]
pub(super) struct UpstreamCounters {
    watches: Counter,
    polls: Counter,
    failed_polls: Counter,
    cleanups: Counter,
    cleaned_jobs: Counter,
    failed_cleanups: Counter,
}

impl Default for Stages {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS_SECONDS);
        let stages = Self {
            plans: Family::default(),
            applies: Family::new_with_constructor(histogram),
            rollouts: histogram(),
            starts: histogram(),
            ended: Family::default(),
            ticks: histogram(),
            overlaps: Counter::default(),
            panics: Family::default(),
            leader: Gauge::default(),
            acquisitions: Counter::default(),
            series_refreshed: Gauge::default(),
            upstream: UpstreamCounters::default(),
        };
        // A counter that exists from the start shows its first event as an increase.
        for result in ["nothing", "wait", "blocked", "remove"] {
            let _ = stages.plans.get_or_create(&ByPlan { result, reason: "" });
        }
        for reason in [Reason::New, Reason::Changed, Reason::Configuration, Reason::Missing, Reason::Drift] {
            let _ = stages.plans.get_or_create(&apply(reason));
        }
        for outcome in [OUTCOME_DONE, fault(Fault::User), fault(Fault::Platform)] {
            let _ = stages.applies.get_or_create(&ByOutcome { outcome });
        }
        for task in ["execution", "deployment", "build", "removal"] {
            let _ = stages.panics.get_or_create(&ByTask { task });
        }
        for status in [Status::Succeeded, Status::UserError, Status::PlatformError, Status::Cancelled, Status::Skipped]
        {
            let _ = stages.ended.get_or_create(&ByStatus { status: status.as_str() });
        }
        stages
    }
}

const OUTCOME_DONE: &str = "done";

fn fault(fault: Fault) -> &'static str {
    match fault {
        Fault::User => "user_error",
        Fault::Platform => "platform_error",
    }
}

fn apply(reason: Reason) -> ByPlan {
    let reason = match reason {
        Reason::New => "new",
        Reason::Changed => "changed",
        Reason::Configuration => "configuration",
        Reason::Missing => "missing",
        Reason::Drift => "drift",
    };
    ByPlan { result: "apply", reason }
}

/// Clocks of two machines may differ by more than the measured duration.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).max(SignedDuration::ZERO).as_secs_f64()
}

impl Stages {
    /// Publishes the metrics in `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "holdfast_reconciliations",
            "Reconciliations of deployments, by result and, for apply, by reason",
            self.plans.clone(),
        );
        registry.register_with_unit(
            "holdfast_apply_duration",
            "How long it took to choose packages and apply a deployment, without waiting for a permit",
            Unit::Seconds,
            self.applies.clone(),
        );
        registry.register_with_unit(
            "holdfast_rollout_duration",
            "How long it took from when a deployment was due until it was rolled out",
            Unit::Seconds,
            self.rollouts.clone(),
        );
        registry.register_with_unit(
            "holdfast_execution_start_delay",
            "How long it took from an accepted start until the process of the execution ran",
            Unit::Seconds,
            self.starts.clone(),
        );
        registry.register("holdfast_executions_ended", "Executions that ended, by final status", self.ended.clone());
        registry.register_with_unit(
            "holdfast_schedule_delay",
            "Time from a scheduled time until its execution was accepted",
            Unit::Seconds,
            self.ticks.clone(),
        );
        registry.register(
            "holdfast_executions_overlapping",
            "Scheduled executions that started in a cluster while another one of the job was recorded as active",
            self.overlaps.clone(),
        );
        registry.register(
            "holdfast_task_panics",
            "Panics of loops and tasks of the synchronizer, by task; each is restarted after a pause",
            self.panics.clone(),
        );
        registry.register("holdfast_leader", "Whether this instance leads: 1 or 0", self.leader.clone());
        registry.register(
            "holdfast_leader_acquisitions",
            "How often this instance became leader",
            self.acquisitions.clone(),
        );
        registry.register_with_unit(
            "holdfast_job_series_refreshed_timestamp",
            "When the metrics of jobs were last read from the database, in seconds since 1970; 0 before the first time",
            Unit::Seconds,
            self.series_refreshed.clone(),
        );
        self.upstream.register(registry);
    }

    pub(super) fn planned(&self, plan: &Plan) {
        let labels = match plan {
            Plan::Nothing => ByPlan { result: "nothing", reason: "" },
            Plan::Wait(_) => ByPlan { result: "wait", reason: "" },
            Plan::Blocked(_) => ByPlan { result: "blocked", reason: "" },
            Plan::Remove => ByPlan { result: "remove", reason: "" },
            Plan::Apply(reason) => apply(*reason),
        };
        self.plans.get_or_create(&labels).inc();
    }

    pub(super) fn applied(&self, took: Duration, problem: Option<&Problem>) {
        let outcome = problem.map_or(OUTCOME_DONE, |problem| fault(problem.fault));
        self.applies.get_or_create(&ByOutcome { outcome }).observe(took.as_secs_f64());
    }

    pub(super) fn reached(&self, due: Timestamp, now: Timestamp) {
        self.rollouts.observe(seconds(due, now));
    }

    pub(super) fn started(&self, accepted: Timestamp, at: Timestamp) {
        self.starts.observe(seconds(accepted, at));
    }

    pub(super) fn ended(&self, status: Status) {
        self.ended.get_or_create(&ByStatus { status: status.as_str() }).inc();
    }

    pub(super) fn scheduled(&self, tick: Timestamp, now: Timestamp) {
        self.ticks.observe(seconds(tick, now));
    }

    pub(super) fn panicked(&self, task: &'static str) {
        self.panics.get_or_create(&ByTask { task }).inc();
    }

    pub(super) fn overlapped(&self) {
        self.overlaps.inc();
    }

    pub(super) fn leads(&self) {
        self.leader.set(1);
        self.acquisitions.inc();
    }

    pub(super) fn follows(&self) {
        self.leader.set(0);
    }

    pub(super) fn series_refreshed(&self, now: Timestamp) {
        self.series_refreshed.set(now.as_duration().as_secs_f64());
    }
}

impl UpstreamCounters {
    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_label((SERVICE.0.into(), SERVICE.1.into()));
        for (name, help, counter) in [
            ("taurus_datajob_watch_task_invocations_counter", "Rounds over the executions in progress", &self.watches),
            (
                "vdk_deploy_datajob_synchronizer_successful_invocations_counter",
                "Queries for due deployments that succeeded",
                &self.polls,
            ),
            (
                "vdk_deploy_datajob_synchronizer_failed_invocations_counter",
                "Queries for due deployments that failed",
                &self.failed_polls,
            ),
            ("vdk_execution_cleanup_task_datajob_invocations_counter", "Rounds of retention", &self.cleanups),
            (
                "vdk_execution_cleanup_task_datajob_successful_deletions_counter",
                "Jobs that a round of retention covered, one per job and round whether or not rows were removed",
                &self.cleaned_jobs,
            ),
            (
                "vdk_execution_cleanup_task_datajob_failed_deletions_counter",
                "Rounds of retention that failed",
                &self.failed_cleanups,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    pub(super) fn executions_checked(&self) {
        self.watches.inc();
    }

    pub(super) fn queue_polled(&self, successful: bool) {
        if successful { &self.polls } else { &self.failed_polls }.inc();
    }

    pub(super) fn cleaned_up(&self, jobs: Option<u64>) {
        self.cleanups.inc();
        match jobs {
            Some(jobs) => self.cleaned_jobs.inc_by(jobs),
            None => self.failed_cleanups.inc(),
        };
    }
}
