//! Metrics of jobs under the names of VDK's Control Service, so that existing alert rules and dashboards continue to work.
//!
//! They come from rows, so that every instance shows the same values; only the leader counts outcomes of rollouts.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use model::{clock::SharedClock, execution::Status, job::Contacts, name::JobId, rollout::Status as DeploymentStatus};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use store::metrics::{ReadPosition, WatchedJob, WatchedRun};
use tokio::sync::watch;

/// The label that every series of upstream has, and its value.
pub(super) const SERVICE: (&str, &str) = ("service", "data-jobs");

/// How long an outcome counts in its summary.
const LARGEST_REMEMBERED: SignedDuration = SignedDuration::from_mins(3);

/// The metrics of jobs.
#[derive(Debug, Clone)]
pub(super) struct Series {
    clock: SharedClock,
    shown: Arc<Mutex<Shown>>,
    /// The last scrape, on the boot clock.
    seen: watch::Sender<Option<Duration>>,
    /// Whether mail addresses of jobs are published.
    with_addresses: bool,
}

#[derive(Debug, Default)]
struct Shown {
    /// In the order of their ids. Scrapes and refreshes do not wait for each other: each works on a list of its own.
    jobs: Arc<Vec<WatchedJob>>,
    /// The instant when the list was read, or found to be unchanged.
    at: Option<Timestamp>,
    /// The state of the rows that the list shows, and when all of them were read, on the boot clock.
    read: Option<(ReadPosition, Duration)>,
    /// By the job's id and by the status. A new job with the name of a deleted one has a history of its own.
    outcomes: HashMap<(JobId, &'static str), Outcomes>,
}

/// The number of rollouts of a job with one outcome, and the instant of the last one.
#[derive(Debug, Clone, Copy)]
struct Outcomes {
    count: u64,
    last: Timestamp,
}

impl Series {
    pub(super) fn new(clock: SharedClock, with_addresses: bool) -> Self {
        Self { clock, shown: Arc::default(), seen: watch::Sender::default(), with_addresses }
    }

    /// Replaces the shown jobs by these, which were read at this instant.
    pub(super) fn show(&self, jobs: Vec<WatchedJob>, position: ReadPosition, at: Timestamp) {
        let mut shown = self.shown();
        // The outcome of a job that is newer than the list is newer too.
        shown.outcomes.retain(|(job, _), outcomes| place(&jobs, *job).is_some() || outcomes.last >= at);
        (shown.jobs, shown.at, shown.read) = (Arc::new(jobs), Some(at), Some((position, self.clock.boot())));
    }

    /// Notes that the shown jobs were still up to date at this instant.
    pub(super) fn stays(&self, at: Timestamp) {
        self.shown().at = Some(at);
    }

    /// Returns the shown state of the rows, unless it was read longer ago than this.
    pub(super) fn position(&self, at_most: Duration) -> Option<ReadPosition> {
        let shown = self.shown();
        let (position, read) = shown.read.as_ref()?;
        (self.clock.boot().saturating_sub(*read) < at_most).then(|| position.clone())
    }

    /// Counts the outcome of a rollout.
    pub(super) fn rolled_out(&self, job: JobId, status: DeploymentStatus, now: Timestamp) {
        let mut shown = self.shown();
        let outcomes = shown.outcomes.entry((job, status.as_str())).or_insert(Outcomes { count: 0, last: now });
        outcomes.count += 1;
        outcomes.last = now;
    }

    /// The number of shown jobs.
    pub(super) fn count(&self) -> u64 {
        self.shown().jobs.len() as u64
    }

    /// Waits for a scrape, unless there was one within this time.
    pub(super) async fn until_seen(&self, within: Duration) {
        let is_seen =
            |last: &Option<Duration>| last.is_some_and(|last| self.clock.boot().saturating_sub(last) < within);
        // It fails only without a receiver, and this one exists.
        let _ = self.seen.subscribe().wait_for(is_seen).await;
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The index of a job in a list.
fn place(jobs: &[WatchedJob], job: JobId) -> Option<usize> {
    jobs.binary_search_by_key(&job, |job| job.id).ok()
}

/// The value of a termination status, as in upstream.
fn termination_value(status: Status) -> i64 {
    match status {
        Status::Succeeded => 0,
        Status::PlatformError => 1,
        Status::Submitted => 2,
        Status::UserError => 3,
        Status::Skipped => 4,
        Status::Running => 5,
        Status::Cancelled => 6,
    }
}

/// The value of a deployment's status, as in upstream. `None` before the first rollout.
fn deployment_value(status: DeploymentStatus) -> Option<i64> {
    match status {
        DeploymentStatus::None => None,
        DeploymentStatus::Success => Some(0),
        DeploymentStatus::PlatformError => Some(1),
        DeploymentStatus::UserError => Some(3),
    }
}

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.seen.send_replace(Some(self.clock.boot()));
        let (jobs, outcomes, at) = {
            let shown = self.shown();
            let named = |((job, status), outcomes): (&(JobId, &'static str), &Outcomes)| {
                Some((place(&shown.jobs, *job)?, *status, *outcomes))
            };
            let mut outcomes: Vec<_> = shown.outcomes.iter().filter_map(named).collect();
            outcomes.sort_by_key(|(place, status, _)| (*place, *status));
            (Arc::clone(&shown.jobs), outcomes, shown.at)
        };
        if !jobs.is_empty() {
            info(&mut encoder, &jobs, self.with_addresses)?;
            let help = "How many minutes a scheduled start may be late before a notification is sent.";
            let mut family =
                encoder.encode_descriptor("taurus_datajob_notification_delay", help, None, MetricType::Gauge)?;
            for job in &*jobs {
                let labels = [("data_job", &*job.name), SERVICE];
                family.encode_family(&labels)?.encode_gauge(&job.notification_delay_minutes)?;
            }
        }
        let runs: Vec<(&str, &WatchedRun)> =
            jobs.iter().filter_map(|job| Some((&*job.name, job.run.as_ref()?))).collect();
        if !runs.is_empty() {
            let help = "Status of the job's last execution: 0 success, 1 platform error, 2 submitted, 3 user error, 5 running, \
                        6 cancelled.";
            let mut family =
                encoder.encode_descriptor("taurus_datajob_termination_status", help, None, MetricType::Gauge)?;
            for (job, run) in &runs {
                let labels = [("data_job", *job), ("execution_id", &*run.id), SERVICE];
                family.encode_family(&labels)?.encode_gauge(&termination_value(run.status))?;
            }
        }
        let deployed: Vec<(&str, i64)> =
            jobs.iter().filter_map(|job| Some((&*job.name, deployment_value(job.deployment)?))).collect();
        if !deployed.is_empty() {
            let help = "Outcome of the job's last rollout: 0 success, 1 platform error, 3 user error.";
            let mut family =
                encoder.encode_descriptor("taurus_deployment_status_gauge", help, None, MetricType::Gauge)?;
            for (job, value) in &deployed {
                family.encode_family(&[("dataJob", *job), SERVICE])?.encode_gauge(value)?;
            }
        }
        if !outcomes.is_empty() {
            let outcomes = outcomes.iter().map(|(place, status, outcomes)| {
                let labels = [("dataJob", &*jobs[*place].name), ("status", *status), SERVICE];
                (labels, *outcomes)
            });
            summary(&mut encoder, &outcomes.collect::<Vec<_>>(), at)?;
        }
        Ok(())
    }
}

fn info(encoder: &mut DescriptorEncoder<'_>, jobs: &[WatchedJob], with_addresses: bool) -> fmt::Result {
    let help = "Team of the job and recipients of its notifications; always 1.";
    let mut family = encoder.encode_descriptor("taurus_datajob_info", help, None, MetricType::Gauge)?;
    for job in jobs {
        if !with_addresses {
            let labels = [("data_job", &*job.name), ("team", &*job.team), SERVICE];
            family.encode_family(&labels)?.encode_gauge(&1_i64)?;
            continue;
        }
        let Contacts {
            notified_on_job_success: success,
            notified_on_job_failure_user_error: user_error,
            notified_on_job_failure_platform_error: platform_error,
            ..
        } = &*job.contacts;
        let (success, user_error, platform_error) = (success.join(";"), user_error.join(";"), platform_error.join(";"));
        let labels = [
            ("data_job", &*job.name),
            ("team", &*job.team),
            ("email_notified_on_success", success.as_str()),
            ("email_notified_on_user_error", user_error.as_str()),
            ("email_notified_on_platform_error", platform_error.as_str()),
            SERVICE,
        ];
        family.encode_family(&labels)?.encode_gauge(&1_i64)?;
    }
    Ok(())
}

/// A summary without quantiles, encoded as a histogram without buckets, because the library has no summaries. The metrics
/// endpoint turns such a histogram into a summary.
fn summary(
    encoder: &mut DescriptorEncoder<'_>,
    outcomes: &[([(&str, &str); 3], Outcomes)],
    at: Option<Timestamp>,
) -> fmt::Result {
    const NAME: &str = "taurus_deployment_status_summary";
    let help = "Rollouts of a job that ended on this instance, by outcome.";
    let mut family = encoder.encode_descriptor(NAME, help, None, MetricType::Histogram)?;
    for (labels, Outcomes { count, .. }) in outcomes {
        #[expect(clippy::cast_precision_loss, reason = "no instance sees so many")]
        let sum = *count as f64;
        family.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, *count, &[], None)?;
    }
    let help = "Whether a rollout of the job had this outcome within the last minutes: 1 or 0.";
    let name = format!("{NAME}_max");
    let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for (labels, Outcomes { last, .. }) in outcomes {
        let recent = at.is_none_or(|at| at.duration_since(*last) < LARGEST_REMEMBERED);
        family.encode_family(labels)?.encode_gauge(&i64::from(recent))?;
    }
    Ok(())
}
