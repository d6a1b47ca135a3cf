//! What is told to whoever watches the service: [`stages`] what happens, `series` what the rows say of each job, and here
//! what they say of the whole.

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
use crate::{Synchronizer, Term};

/// How often the rows are counted.
const INTERVAL: Duration = Duration::from_secs(15);

/// How often the series of jobs are read from the rows.
const JOBS_INTERVAL: Duration = Duration::from_secs(5);

/// How much longer the pause between two of these is at least than the reading itself: with more jobs than are read at
/// once, the series are older and the database has its rest.
const JOBS_REST: u32 = 20;

/// How long the series of jobs are taken for unchanged because the sums over the rows are.
const JOBS_READ_MAX: Duration = Duration::from_secs(300);

/// How long after a scrape the series of jobs go on being read. Where nobody scrapes, a fleet is not read again and again.
const JOBS_SEEN: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: &'static str,
}

/// The series of the synchronizer.
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
    /// Whether anybody can see them: what nobody sees is not read from rows.
    seen: bool,
}

impl Gauges {
    /// Makes series that nobody sees.
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

    /// Makes the series and shows them in `registry`; the mail addresses of jobs only if `with_addresses`.
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
            "Deployments that the synchronizer has to look at now",
            gauges.rollouts_due.clone(),
        );
        registry.register(
            "holdfast_rollouts_oldest_due_seconds",
            "For how long the deployment that waits longest has been due",
            gauges.oldest_due_seconds.clone(),
        );
        registry.register("holdfast_executions_active", "Executions that are not over", gauges.executions.clone());
        registry.register(
            "holdfast_leader_epoch",
            "The term under which this instance leads; 0 while another does",
            gauges.epoch.clone(),
        );
        registry.register(
            "holdfast_configuration_pending",
            "Deployments that run as a former configuration made them and wait for their wave",
            gauges.configuration_pending.clone(),
        );
        registry.register(
            "holdfast_configuration_stopped",
            "Whether the changed configuration is not rolled out any further, for most of a wave failed: 1 or 0",
            gauges.configuration_stopped.clone(),
        );
        registry.register(
            "holdfast_configuration_differs",
            "Whether the leader has another configuration than this instance, which follows it: 1 or 0",
            gauges.configuration_differs.clone(),
        );
        registry.register(
            "holdfast_removals_held_back",
            "Removed deployments whose objects stay for now, because more than the set share of the fleet is to go at once",
            gauges.removals_held_back.clone(),
        );
        registry.register(
            "holdfast_orphans",
            "Deployments in the cluster under this service's mark that its database does not know",
            gauges.orphans.clone(),
        );
        gauges.stages.register(registry);
        gauges.retention.register(registry);
        registry.register_collector(Box::new(gauges.series.clone()));
        gauges
    }

    /// Reads the series of jobs from the rows, as every instance does by itself each few seconds.
    ///
    /// # Errors
    /// When the database fails; then the series stay as they are.
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

    /// A deployment was looked at, and this is to be done.
    pub(crate) fn planned(&self, plan: &Plan) {
        self.stages.planned(plan);
    }

    /// Something was applied, or not; it was begun at this time on the boot clock.
    pub(crate) fn applied<T>(&self, begun: Duration, applied: &Result<T, Problem>) {
        self.stages.applied(self.clock.boot().saturating_sub(begun), applied.as_ref().err());
    }

    /// What was due is reached.
    pub(crate) fn reached(&self, due: Option<Timestamp>, now: Timestamp) {
        if let Some(due) = due {
            self.stages.reached(due, now);
        }
    }

    /// The outcome of a look was recorded.
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

    /// A deployment is gone.
    pub(crate) fn removed(&self, job: JobId, now: Timestamp) {
        self.rolled_out(job, DeploymentStatus::Success, now);
    }

    fn rolled_out(&self, job: JobId, status: DeploymentStatus, now: Timestamp) {
        // Without a refresh now and then nothing would forget what is gone.
        if self.seen {
            self.series.rolled_out(job, status, now);
        }
    }

    /// The loop that has made no progress for longer than it may, if there is one.
    pub fn stuck_loop(&self) -> Option<&'static str> {
        self.pulses.silent(pulses::SILENCE_MAX)
    }

    /// A loop makes progress.
    pub(crate) fn beat(&self, name: &'static str) {
        self.pulses.beat(name);
    }

    /// The loops of a term are over.
    pub(crate) fn rest(&self) {
        self.pulses.rest();
    }

    /// Deployments that are due were looked for.
    pub(crate) fn queue_polled(&self, successful: bool) {
        self.beat("deployments");
        self.stages.upstream.queue_polled(successful);
    }

    /// The runs in progress were looked at.
    pub(crate) fn executions_checked(&self) {
        self.beat("executions");
        self.stages.upstream.executions_checked();
    }

    /// The process of a run was started.
    pub(crate) fn started(&self, accepted: Timestamp, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.stages.started(accepted, at);
        }
    }

    /// A run ended.
    pub(crate) fn ended(&self, status: Status) {
        self.stages.ended(status);
    }

    /// A tick became a start.
    pub(crate) fn scheduled(&self, tick: Timestamp, now: Timestamp) {
        self.stages.scheduled(tick, now);
    }

    /// Whether the leader has another configuration than this instance.
    pub(crate) fn configuration_differs(&self, differs: bool) {
        self.configuration_differs.set(differs.into());
    }

    /// A loop, or a task of one, panicked, and is begun again after a pause.
    pub(crate) fn panicked(&self, task: &'static str) {
        self.stages.panicked(task);
    }

    /// A tick started a run beside another one of the same job.
    pub(crate) fn overlapped(&self) {
        self.stages.overlapped();
    }

    /// So many deployments wait for the changed configuration, and whether it goes no further.
    pub(crate) fn configuration_pending(&self, left: usize, stopped: bool) {
        self.configuration_pending.set(i64::try_from(left).unwrap_or(i64::MAX));
        self.configuration_stopped.set(stopped.into());
    }

    /// So much stands under this service's mark and has no row.
    pub(crate) fn orphaned(&self, count: usize) {
        self.orphans.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many removals are held back, of so many deployments.
    fn held_back(&self, removals: i64, fleet: i64, most_percent: i64) {
        let before = self.removals_held_back.set(removals);
        if removals > 0 && before == 0 {
            tracing::error!(
                removals,
                fleet,
                most_percent,
                "so many deployments are to be removed at once that nobody may have meant it. What they run stays as it is until \
                 they are fewer, or until sync.removals_max_percent is set higher and the service started again"
            );
        } else if removals == 0 && before > 0 {
            tracing::info!("removals are not held back any more");
        }
    }

    /// A round of cleaning up is over.
    pub(crate) fn cleaned_up(&self, successful: bool) {
        self.stages.upstream.cleaned_up(successful.then(|| self.series.count()));
    }
}

/// Keeps the series of jobs as the rows are, on an instance that leads as on one that does not.
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
            tracing::warn!(%error, "the series of jobs could not be read; those of the last time are shown");
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

/// Counts rows until the term is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    sync.gauges.epoch.set(term.epoch.0);
    sync.gauges.stages.leads();
    loop {
        let counted = tokio::select! {
            counted = round(sync) => counted,
            () = term.over.cancelled() => break,
        };
        if let Err(error) = counted
            && !term.survives(&error)
        {
            break;
        }
        if !term.pause(INTERVAL).await {
            break;
        }
    }
    sync.gauges.epoch.set(0);
    sync.gauges.configuration_pending(0, false);
    sync.gauges.stages.follows();
    // What it counted gets old, and the next leader counts it.
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
