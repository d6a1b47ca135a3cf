//! The inputs of a deployment, and how to find its object.

use model::{
    name::JobId,
    plan::inputs_hash,
    runtime::{DeploymentSpec, Target},
};
use store::{StoreError, deployments::Work};

use crate::Synchronizer;

/// The inputs of a deployment, and their hash.
pub(super) fn inputs_of(sync: &Synchronizer, work: &Work) -> (DeploymentSpec, String) {
    let deployment_spec = sync.deployment_spec(&work.job_name, &work.team, work.team_secret.clone(), &work.deployment);
    let inputs = inputs_hash(&work.deployment, &fingerprint(sync, &deployment_spec));
    (deployment_spec, inputs)
}

/// The deployment as the runtime identifies it.
pub(super) fn target_of(work: &Work) -> Target {
    Target {
        job_id: work.deployment.job_id,
        job_name: work.job_name.clone(),
        inputs_hash: work.rollout.inputs_hash.clone(),
        artifact: work.rollout.artifact.clone(),
        last_applied: work.rollout.last_applied.clone(),
    }
}

/// The part of the configuration that goes into a deployment.
pub(crate) fn fingerprint(sync: &Synchronizer, deployment_spec: &DeploymentSpec) -> String {
    format!("{}\n{}", sync.runtime.fingerprint(deployment_spec), sync.builder.fingerprint(deployment_spec))
}

/// Makes these deployments due.
pub(super) async fn make_due(sync: &Synchronizer, jobs: &[JobId]) -> Result<(), StoreError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut tx = sync.db.write().await?;
    for job_id in jobs {
        store::deployments::make_due(&mut tx, *job_id, sync.clock.now()).await?;
    }
    tx.commit().await?;
    sync.db.notifications().deployments.notify_one();
    Ok(())
}
