//! The series of jobs by which VDK's Control Service is watched, under its names: alert rules and boards go on working.
//!
//! They are made from rows, so every instance shows the same ones; outcomes of rollouts are counted where they happen.

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

/// The label that every series of the reference has, and its value.
pub(super) const SERVICE: (&str, &str) = ("service", "data-jobs");

/// How long an outcome is the largest of its summary, which forgets what is older.
const LARGEST_REMEMBERED: SignedDuration = SignedDuration::from_mins(3);

/// The series of jobs.
#[derive(Debug, Clone)]
pub(super) struct Series {
    clock: SharedClock,
    shown: Arc<Mutex<Shown>>,
    /// When somebody looked last, on the boot clock.
    seen: watch::Sender<Option<Duration>>,
    /// Whether the mail addresses of jobs are shown.
    with_addresses: bool,
}

#[derive(Debug, Default)]
struct Shown {
    /// In the order of their ids. A scrape and a refresh hold no other up: each works on a list of its own.
    jobs: Arc<Vec<WatchedJob>>,
    /// When it was read, or found to be as it was read.
    at: Option<Timestamp>,
    /// Of which state of the rows it is, and when all of them were read, on the boot clock.
    read: Option<(ReadPosition, Duration)>,
    /// By the job's id, for a namesake of a deleted job has a history of its own, and by the status.
    outcomes: HashMap<(JobId, &'static str), Outcomes>,
}

/// How often a job's rollout ended so, and when the last time.
#[derive(Debug, Clone, Copy)]
struct Outcomes {
    count: u64,
    last: Timestamp,
}

impl Series {
    pub(super) fn new(clock: SharedClock, with_addresses: bool) -> Self {
        Self { clock, shown: Arc::default(), seen: watch::Sender::default(), with_addresses }
    }

    /// Shows these jobs as they were at an instant, and nothing of any other.
    pub(super) fn show(&self, jobs: Vec<WatchedJob>, position: ReadPosition, at: Timestamp) {
        let mut shown = self.shown();
        // Of a job that is not in the list because it is newer than the list, the outcome is newer too.
        shown.outcomes.retain(|(job, _), outcomes| place(&jobs, *job).is_some() || outcomes.last >= at);
        (shown.jobs, shown.at, shown.read) = (Arc::new(jobs), Some(at), Some((position, self.clock.boot())));
    }

    /// At this instant the jobs were still as they are shown.
    pub(super) fn stays(&self, at: Timestamp) {
        self.shown().at = Some(at);
    }

    /// Of which state of the rows the jobs are shown, unless it was read longer ago than this.
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

    /// How many jobs are shown.
    pub(super) fn count(&self) -> u64 {
        self.shown().jobs.len() as u64
    }

    /// Waits until somebody looks, unless somebody has within this time.
    pub(super) async fn until_seen(&self, within: Duration) {
        let is_seen =
            |last: &Option<Duration>| last.is_some_and(|last| self.clock.boot().saturating_sub(last) < within);
        // It fails when nobody can look any more, and this one can.
        let _ = self.seen.subscribe().wait_for(is_seen).await;
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where in a list a job is.
fn place(jobs: &[WatchedJob], job: JobId) -> Option<usize> {
    jobs.binary_search_by_key(&job, |job| job.id).ok()
}

/// The value of a termination status, by the reference's table.
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

/// The value of a deployment's status, by the reference's table. `None` where nothing was rolled out.
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
            let help = "How many minutes after its tick a start may be missing before somebody is told.";
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
            let help = "How a job's last run stands: 0 success, 1 platform error, 2 submitted, 3 user error, 5 running, \
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
            let help = "How a job's last rollout went: 0 success, 1 platform error, 3 user error.";
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
    let help = "Whose a job is and who hears of its runs; always 1.";
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

/// A summary without quantiles, said as a histogram without buckets: the library knows no summaries, and the page tells
/// such a histogram as one.
fn summary(
    encoder: &mut DescriptorEncoder<'_>,
    outcomes: &[([(&str, &str); 3], Outcomes)],
    at: Option<Timestamp>,
) -> fmt::Result {
    const NAME: &str = "taurus_deployment_status_summary";
    let help = "Rollouts of a job that this instance saw the end of, by outcome.";
    let mut family = encoder.encode_descriptor(NAME, help, None, MetricType::Histogram)?;
    for (labels, Outcomes { count, .. }) in outcomes {
        #[expect(clippy::cast_precision_loss, reason = "no instance sees so many")]
        let sum = *count as f64;
        family.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, *count, &[], None)?;
    }
    let help = "Whether a rollout of a job ended so within the last minutes: 1 or 0.";
    let name = format!("{NAME}_max");
    let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for (labels, Outcomes { last, .. }) in outcomes {
        let recent = at.is_none_or(|at| at.duration_since(*last) < LARGEST_REMEMBERED);
        family.encode_family(labels)?.encode_gauge(&i64::from(recent))?;
    }
    Ok(())
}
