//! Metrics of retention: removed rows, durations of transactions, and the size of stored logs.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Upper bounds of the buckets, in seconds.
const BUCKETS_SECONDS: [f64; 7] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0];

/// A kind of rows that retention removes in a step of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stored logs.
    Logs,
    /// Ended executions.
    Executions,
    /// Revisions of deployments.
    Revisions,
    /// Uploads.
    Uploads,
    /// Deleted jobs.
    Jobs,
    /// Idempotency keys.
    IdempotencyKeys,
    /// Builds that failed.
    Builds,
    /// Schedules without a job.
    Schedules,
    /// Audit events.
    AuditEvents,
    /// Counts of executions, which are summed up.
    ExecutionCounts,
    /// Virtual environments that are not in use.
    Environments,
}

impl Kind {
    /// The kinds in the database, in their order: the largest first, and uploads after the revisions that name them.
    pub(crate) const ROWS: [Self; 10] = [
        Self::Logs,
        Self::Executions,
        Self::Revisions,
        Self::Uploads,
        Self::Jobs,
        Self::IdempotencyKeys,
        Self::Builds,
        Self::Schedules,
        Self::AuditEvents,
        Self::ExecutionCounts,
    ];

    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Executions => "executions",
            Self::Revisions => "revisions",
            Self::Uploads => "uploads",
            Self::Jobs => "jobs",
            Self::IdempotencyKeys => "idempotency_keys",
            Self::Builds => "builds",
            Self::Schedules => "schedules",
            Self::AuditEvents => "audit_events",
            Self::ExecutionCounts => "execution_counts",
            Self::Environments => "environments",
        }
    }

    /// All of them.
    fn all() -> impl Iterator<Item = Self> {
        Self::ROWS.into_iter().chain([Self::Environments])
    }
}

/// The result of a step of retention.
#[derive(Debug)]
pub struct Step {
    /// The kind that it removes.
    pub kind: Kind,
    /// Its transactions: the duration of each from its beginning to its commit, and the number of removed rows.
    pub transactions: Vec<(Duration, u64)>,
    /// Whether the step failed after these.
    pub failed: bool,
}

impl Step {
    /// The number of removed rows.
    pub fn removed(&self) -> u64 {
        self.transactions.iter().map(|(_, removed)| removed).sum()
    }

    /// The duration of the longest transaction.
    pub fn longest(&self) -> Duration {
        self.transactions.iter().map(|(took, _)| *took).max().unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

impl From<Kind> for ByKind {
    fn from(kind: Kind) -> Self {
        Self { kind: kind.as_str() }
    }
}

/// The metrics of retention.
#[derive(Debug, Clone)]
pub(crate) struct Retention {
    removed: Family<ByKind, Counter>,
    failures: Family<ByKind, Counter>,
    transactions: Family<ByKind, Histogram, fn() -> Histogram>,
    log_bytes: Gauge,
    log_bytes_max: Gauge,
}

impl Default for Retention {
    fn default() -> Self {
        let retention = Self {
            removed: Family::default(),
            failures: Family::default(),
            transactions: Family::new_with_constructor(|| Histogram::new(BUCKETS_SECONDS)),
            log_bytes: Gauge::default(),
            log_bytes_max: Gauge::default(),
        };
        // A counter that exists from the start shows its first event as an increase.
        for kind in Kind::all() {
            let _ = retention.failures.get_or_create(&kind.into());
            if kind != Kind::Environments {
                let _ = retention.removed.get_or_create(&kind.into());
            }
        }
        retention
    }
}

impl Retention {
    /// Publishes the metrics in `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "holdfast_retention_removed",
            "Executions, logs and others that retention removed, by kind",
            self.removed.clone(),
        );
        registry.register(
            "holdfast_retention_failures",
            "Rounds of retention in which a kind failed; it is retried in the next round",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "holdfast_retention_transaction_duration",
            "How long transactions of retention took, without the wait for a connection",
            Unit::Seconds,
            self.transactions.clone(),
        );
        registry.register_with_unit(
            "holdfast_stored_logs",
            "Size of all stored logs of executions; 0 on an instance that does not lead",
            Unit::Bytes,
            self.log_bytes.clone(),
        );
        registry.register_with_unit(
            "holdfast_stored_logs_max",
            "Size of all stored logs above which the oldest are removed; 0 on an instance that does not lead",
            Unit::Bytes,
            self.log_bytes_max.clone(),
        );
    }

    /// Records a step.
    pub(crate) fn stepped(&self, step: &Step) {
        self.removed.get_or_create(&step.kind.into()).inc_by(step.removed());
        let histogram = self.transactions.get_or_create(&step.kind.into());
        step.transactions.iter().for_each(|(took, _)| histogram.observe(took.as_secs_f64()));
        if step.failed {
            self.failed(step.kind);
        }
    }

    /// Counts a failed step.
    pub(crate) fn failed(&self, kind: Kind) {
        self.failures.get_or_create(&kind.into()).inc();
    }

    /// Sets the bytes of stored logs, and their limit.
    pub(crate) fn logs_stored(&self, bytes: i64, most_bytes: i64) {
        self.log_bytes.set(bytes);
        self.log_bytes_max.set(most_bytes);
    }
}
