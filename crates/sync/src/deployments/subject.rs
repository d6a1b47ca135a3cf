//! What is known of a deployment before anything is done about it: what it is made from, and where to find it.

use model::{
    name::JobId,
    plan::inputs_hash,
    runtime::{Blueprint, Target},
};
use store::{StoreError, deployments::Work};

use crate::Synchronizer;

/// What a deployment is made from, and the hash of all that goes into it.
pub(super) fn inputs_of(sync: &Synchronizer, work: &Work) -> (Blueprint, String) {
    let blueprint = sync.blueprint(&work.job_name, &work.team, work.team_secret.clone(), &work.deployment);
    let inputs = inputs_hash(&work.deployment, &fingerprint(sync, &blueprint));
    (blueprint, inputs)
}

/// The deployment as the runtime finds it.
pub(super) fn target_of(work: &Work) -> Target {
    Target {
        job_id: work.deployment.job_id,
        job_name: work.job_name.clone(),
        inputs_hash: work.rollout.inputs_hash.clone(),
        artifact: work.rollout.artifact.clone(),
        mark: work.rollout.mark.clone(),
    }
}

/// All of the configuration that goes into a deployment.
pub(crate) fn fingerprint(sync: &Synchronizer, blueprint: &Blueprint) -> String {
    format!("{}\n{}", sync.runtime.fingerprint(blueprint), sync.builder.fingerprint(blueprint))
}

/// Has the loop look at these deployments.
pub(super) async fn make_due(sync: &Synchronizer, jobs: &[JobId]) -> Result<(), StoreError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut tx = sync.db.write().await?;
    for job_id in jobs {
        store::deployments::make_due(&mut tx, *job_id, sync.clock.now()).await?;
    }
    tx.commit().await?;
    sync.db.wake().deployments.notify_one();
    Ok(())
}
