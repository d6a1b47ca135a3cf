//! What the rows say of the whole, for whoever watches the service.

use std::{sync::atomic::AtomicU64, time::Duration};

use model::{deployment::Status as DeploymentStatus, execution::Status};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use store::StoreError;

use crate::{Synchronizer, Term};

/// How often the rows are counted.
const INTERVAL: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: &'static str,
}

/// The series of the synchronizer.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    deployments: Family<ByStatus, Gauge>,
    rollouts_due: Gauge,
    oldest_due_seconds: Gauge<f64, AtomicU64>,
    executions: Family<ByStatus, Gauge>,
    epoch: Gauge,
}

impl Gauges {
    /// Makes the series and shows them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let gauges = Self::default();
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
        gauges
    }
}

/// Counts rows until the term is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    sync.gauges.epoch.set(term.epoch.0);
    loop {
        if let Err(error) = round(sync).await
            && !term.survives(&error)
        {
            break;
        }
        if !term.pause(INTERVAL).await {
            break;
        }
    }
    sync.gauges.epoch.set(0);
}

async fn round(sync: &Synchronizer) -> Result<(), StoreError> {
    let now = sync.clock.now();
    let mut tx = sync.db.read().await?;
    let jobs = store::jobs::deployment_counts(&mut tx).await?;
    let (due, oldest) = store::deployments::backlog(&mut tx, now).await?;
    let active = store::executions::active_counts(&mut tx).await?;
    drop(tx);
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
