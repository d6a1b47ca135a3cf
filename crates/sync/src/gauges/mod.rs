//! Metrics: [`stages`] counts events, `series` has the metrics of each job, and this file those of the whole service.

mod pulses;
mod retention;
mod series;
pub(crate) mod stages;

use std::{sync::atomic::AtomicU64, time::Duration};

use jiff::Timestamp;
use model::{
    Problem,
    clock::SharedClock,
    execution::Status,
    name::JobId,
    plan::{self, Plan},
    problem::Fault,
    rollout::Status as DeploymentStatus,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use store::{Db, StoreError, deployments::Outcome};
use tokio_util::sync::CancellationToken;

pub use self::retention::{Kind, Step};
use self::{pulses::Pulses, retention::Retention, series::Series, stages::Stages};
use crate::{LeaderEpoch, Synchronizer};

/// How often the rows are counted.
const INTERVAL: Duration = Duration::from_secs(15);

/// How often the metrics of jobs are read from the rows.
const JOBS_INTERVAL: Duration = Duration::from_secs(5);

/// The pause between two refreshes takes at least this many times as long as the refresh, so that large fleets do not load the
/// database all the time.
const JOBS_REST: u32 = 20;

/// How long the metrics of jobs count as unchanged because the sums over the rows are.
const JOBS_READ_MAX: Duration = Duration::from_secs(300);

/// How long after a scrape the metrics of jobs are still refreshed. Without scrapes the rows of jobs are not read.
const JOBS_SEEN: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: &'static str,
}

/// The metrics of the synchronizer.
#[derive(Debug, Clone)]
pub struct Gauges {
    clock: SharedClock,
    deployments: Family<ByStatus, Gauge>,
    rollouts_due: Gauge,
    oldest_due_seconds: Gauge<f64, AtomicU64>,
    executions: Family<ByStatus, Gauge>,
    epoch: Gauge,
    configuration_pending: Gauge,
    configuration_stopped: Gauge,
    configuration_differs: Gauge,
    removals_held_back: Gauge,
    orphans: Gauge,
    stages: Stages,
    pub(crate) retention: Retention,
    series: Series,
    pulses: Pulses,
    /// Whether the metrics endpoint is enabled; if not, no rows are counted for metrics.
    seen: bool,
}

impl Gauges {
    /// Returns metrics that are not published.
    pub fn unseen(clock: SharedClock) -> Self {
        Self {
            deployments: Family::default(),
            rollouts_due: Gauge::default(),
            oldest_due_seconds: Gauge::default(),
            executions: Family::default(),
            epoch: Gauge::default(),
            configuration_pending: Gauge::default(),
            configuration_stopped: Gauge::default(),
            configuration_differs: Gauge::default(),
            removals_held_back: Gauge::default(),
            orphans: Gauge::default(),
            stages: Stages::default(),
            retention: Retention::default(),
            series: Series::new(clock.clone(), false),
            pulses: Pulses::new(clock.clone()),
            seen: false,
            clock,
        }
    }

    /// Publishes the metrics in `registry`; the mail addresses of jobs only if `with_addresses`.
    pub fn register(registry: &mut Registry, with_addresses: bool, clock: SharedClock) -> Self {
        let series = Series::new(clock.clone(), with_addresses);
        let gauges = Self { seen: true, series, ..Self::unseen(clock) };
        registry.register(
            "holdfast_deployments",
            "Jobs by the last outcome of their rollout",
            gauges.deployments.clone(),
        );
        registry.register(
            "holdfast_rollouts_due",
            "Deployments that are due to be reconciled",
            gauges.rollouts_due.clone(),
        );
        registry.register(
            "holdfast_rollouts_oldest_due_seconds",
            "Wait of the deployment that has been due for longest",
            gauges.oldest_due_seconds.clone(),
        );
        registry.register(
            "holdfast_executions_active",
            "Executions that are submitted or running, by status",
            gauges.executions.clone(),
        );
        registry.register(
            "holdfast_leader_epoch",
            "The leader epoch of this instance; 0 while another instance leads",
            gauges.epoch.clone(),
        );
        registry.register(
            "holdfast_configuration_rollout_pending",
            "Deployments with a former configuration that wait for their wave",
            gauges.configuration_pending.clone(),
        );
        registry.register(
            "holdfast_configuration_rollout_halted",
            "Whether the rollout of the changed configuration stopped because most of a wave failed: 1 or 0",
            gauges.configuration_stopped.clone(),
        );
        registry.register(
            "holdfast_configuration_differs",
            "Whether the leader has another configuration than this instance: 1 or 0",
            gauges.configuration_differs.clone(),
        );
        registry.register(
            "holdfast_removals_held_back",
            "Removals that are held back because they exceed the allowed share of all deployments",
            gauges.removals_held_back.clone(),
        );
        registry.register(
            "holdfast_orphans",
            "Orphans: CronJobs with Holdfast's label whose jobs are unknown to the database, as of the last full resync",
            gauges.orphans.clone(),
        );
        gauges.stages.register(registry);
        gauges.retention.register(registry);
        registry.register_collector(Box::new(gauges.series.clone()));
        gauges
    }

    /// Reads the metrics of jobs from the rows, as every instance does automatically every few seconds.
    ///
    /// # Errors
    /// When the database fails; then the metrics keep their values.
    pub async fn refresh(&self, db: &Db, now: Timestamp) -> Result<(), StoreError> {
        let known = self.series.position(JOBS_READ_MAX);
        let read = {
            let mut tx = db.read().await?;
            store::metrics::jobs(&mut tx, known.as_ref()).await?
        };
        match read {
            Some((jobs, position)) => self.series.show(jobs, position, now),
            None => self.series.stays(now),
        }
        self.stages.series_refreshed(now);
        Ok(())
    }

    /// Counts a plan for a deployment.
    pub(crate) fn planned(&self, plan: &Plan) {
        self.stages.planned(plan);
    }

    /// Records the duration of an apply that began at this time on the boot clock.
    pub(crate) fn applied<T>(&self, begun: Duration, applied: &Result<T, Problem>) {
        self.stages.applied(self.clock.boot().saturating_sub(begun), applied.as_ref().err());
    }

    /// Records the duration of a rollout that succeeded.
    pub(crate) fn reached(&self, due: Option<Timestamp>, now: Timestamp) {
        if let Some(due) = due {
            self.stages.reached(due, now);
        }
    }

    /// Counts the outcome of a reconciliation.
    pub(crate) fn recorded(&self, job: JobId, outcome: &Outcome, now: Timestamp) {
        let status = match outcome {
            Outcome::Unchanged(_) | Outcome::Restored { .. } => return,
            Outcome::Reached { .. } => DeploymentStatus::Success,
            Outcome::Failed { problem, .. } => match problem.fault {
                Fault::User => DeploymentStatus::UserError,
                Fault::Platform => DeploymentStatus::PlatformError,
            },
        };
        self.rolled_out(job, status, now);
    }

    /// Forgets a deployment that was removed.
    pub(crate) fn removed(&self, job: JobId, now: Timestamp) {
        self.rolled_out(job, DeploymentStatus::Success, now);
    }

    fn rolled_out(&self, job: JobId, status: DeploymentStatus, now: Timestamp) {
        // Without a regular refresh, series of removed jobs would stay.
        if self.seen {
            self.series.rolled_out(job, status, now);
        }
    }

    /// Returns a loop that has made no progress for longer than allowed, if there is one.
    pub fn stuck_loop(&self) -> Option<&'static str> {
        self.pulses.silent(pulses::SILENCE_MAX)
    }

    /// Notes that a loop makes progress.
    pub(crate) fn beat(&self, name: &'static str) {
        self.pulses.beat(name);
    }

    /// Notes that the loops of a leader epoch are over.
    pub(crate) fn rest(&self) {
        self.pulses.rest();
    }

    /// Counts a query for due deployments.
    pub(crate) fn queue_polled(&self, successful: bool) {
        self.beat("deployments");
        self.stages.upstream.queue_polled(successful);
    }

    /// Counts a round over the executions in progress.
    pub(crate) fn executions_checked(&self) {
        self.beat("executions");
        self.stages.upstream.executions_checked();
    }

    /// Records the delay of an execution whose process was started.
    pub(crate) fn started(&self, accepted: Timestamp, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.stages.started(accepted, at);
        }
    }

    /// Counts the end of an execution.
    pub(crate) fn ended(&self, status: Status) {
        self.stages.ended(status);
    }

    /// Records the delay of a scheduled start.
    pub(crate) fn scheduled(&self, tick: Timestamp, now: Timestamp) {
        self.stages.scheduled(tick, now);
    }

    /// Sets whether the leader has another configuration than this instance.
    pub(crate) fn configuration_differs(&self, differs: bool) {
        self.configuration_differs.set(differs.into());
    }

    /// Counts a panic of a loop or of a task; it is started again after a pause.
    pub(crate) fn panicked(&self, task: &'static str) {
        self.stages.panicked(task);
    }

    /// Counts a scheduled execution that began while another one of the same job was active.
    pub(crate) fn overlapped(&self) {
        self.stages.overlapped();
    }

    /// Sets how many deployments wait for the changed configuration, and whether its rollout stopped.
    pub(crate) fn configuration_pending(&self, left: usize, stopped: bool) {
        self.configuration_pending.set(i64::try_from(left).unwrap_or(i64::MAX));
        self.configuration_stopped.set(stopped.into());
    }

    /// Sets the number of orphans.
    pub(crate) fn orphaned(&self, count: usize) {
        self.orphans.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets how many removals are held back, of how many deployments.
    fn held_back(&self, removals: i64, fleet: i64, most_percent: i64) {
        let before = self.removals_held_back.set(removals);
        if removals > 0 && before == 0 {
            tracing::error!(
                removals,
                fleet,
                most_percent,
                "removals are held back, because too many deployments are to be removed at once; they continue when there are \
                 fewer, or after a restart with a higher sync.removals_max_percent"
            );
        } else if removals == 0 && before > 0 {
            tracing::info!("removals are no longer held back");
        }
    }

    /// Counts a round of retention.
    pub(crate) fn cleaned_up(&self, successful: bool) {
        self.stages.upstream.cleaned_up(successful.then(|| self.series.count()));
    }
}

/// Refreshes the metrics of jobs from the rows, on every instance, whether it leads or not.
pub(crate) async fn follow_rows(sync: &Synchronizer, shutdown: &CancellationToken) {
    if !sync.gauges.seen {
        return;
    }
    loop {
        let begun = sync.clock.boot();
        let refreshed = tokio::select! {
            refreshed = sync.gauges.refresh(&sync.db, sync.clock.now()) => refreshed,
            () = shutdown.cancelled() => return,
        };
        if let Err(error) = refreshed {
            tracing::warn!(%error, "failed to refresh the metrics of jobs; the former values stay");
        }
        let pause = JOBS_INTERVAL.max(sync.clock.boot().saturating_sub(begun) * JOBS_REST);
        let rest = async {
            sync.clock.sleep(pause).await;
            sync.gauges.series.until_seen(JOBS_SEEN).await;
        };
        tokio::select! {
            () = rest => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Counts rows until the leader epoch is over.
pub(crate) async fn run(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    sync.gauges.epoch.set(leader_epoch.epoch.0);
    sync.gauges.stages.leads();
    loop {
        let counted = tokio::select! {
            counted = round(sync) => counted,
            () = leader_epoch.over.cancelled() => break,
        };
        if let Err(error) = counted
            && !leader_epoch.survives(&error)
        {
            break;
        }
        if !leader_epoch.pause(INTERVAL).await {
            break;
        }
    }
    sync.gauges.epoch.set(0);
    sync.gauges.configuration_pending(0, false);
    sync.gauges.stages.follows();
    // The next leader counts them.
    sync.gauges.deployments.clear();
    sync.gauges.executions.clear();
    sync.gauges.rollouts_due.set(0);
    sync.gauges.oldest_due_seconds.set(0.0);
    sync.gauges.removals_held_back.set(0);
    sync.gauges.orphaned(0);
    sync.gauges.retention.logs_stored(0, 0);
}

async fn round(sync: &Synchronizer) -> Result<(), StoreError> {
    sync.gauges.beat("gauges");
    let now = sync.clock.now();
    let mut tx = sync.db.read().await?;
    let jobs = store::jobs::deployment_counts(&mut tx).await?;
    let (due, oldest) = store::deployments::backlog(&mut tx, now).await?;
    let active = store::executions::active_counts(&mut tx).await?;
    let (removals, fleet) = store::deployments::removals(&mut tx).await?;
    drop(tx);
    let most_percent = sync.options.removals_max_percent;
    let held_back = if plan::removes_too_much(removals, fleet, most_percent) { removals } else { 0 };
    sync.gauges.held_back(held_back, fleet, most_percent);
    for status in [
        DeploymentStatus::None,
        DeploymentStatus::Success,
        DeploymentStatus::PlatformError,
        DeploymentStatus::UserError,
    ] {
        let count = jobs.iter().find(|(s, _)| *s == status).map_or(0, |(_, count)| *count);
        sync.gauges.deployments.get_or_create(&ByStatus { status: status.as_str() }).set(count);
    }
    for status in [Status::Submitted, Status::Running] {
        let count = active.iter().find(|(s, _)| *s == status).map_or(0, |(_, count)| *count);
        sync.gauges.executions.get_or_create(&ByStatus { status: status.as_str() }).set(count);
    }
    sync.gauges.rollouts_due.set(due);
    sync.gauges.oldest_due_seconds.set(oldest.map_or(0.0, |at| now.duration_since(at).as_secs_f64()));
    Ok(())
}
