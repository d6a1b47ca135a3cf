//! Checks that the images of deployments are still in the registry, and has those built again that are gone.
//!
//! A CronJob names its image by digest, so nothing shows that the registry lost it until a node has to pull it. The check of one
//! round is bounded; the next round continues behind it.

use model::{artifact::Artifact, build::ArtifactRequest, name::JobId};
use store::{
    StoreError,
    builds::{Asked, Asking},
    deployments::Work,
};
use tokio::task::JoinSet;

use super::inputs::inputs_of;
use crate::{LeaderEpoch, Synchronizer};

/// The most images that are looked for in one round, of which there is one per full resync.
const IMAGES_PER_ROUND_MAX: usize = 500;
/// Requests to the registry at the same time.
const CHECKS_PARALLEL_MAX: usize = 8;

/// Runs at the start of a leader epoch and then at the interval of the full resync, beside that: a registry that does not answer
/// delays no comparison.
pub(super) async fn check_periodically(sync: &Synchronizer, leader_epoch: &LeaderEpoch) {
    let mut after = None;
    loop {
        match round(sync, leader_epoch, &mut after).await {
            Ok(()) => {}
            Err(error) if leader_epoch.survives(&error) => {}
            Err(_) => return,
        }
        if !leader_epoch.pause(sync.options.sweep_interval).await {
            return;
        }
    }
}

/// Looks for the images of the next deployments after that one.
async fn round(sync: &Synchronizer, leader_epoch: &LeaderEpoch, after: &mut Option<JobId>) -> Result<(), StoreError> {
    let limit = i64::try_from(IMAGES_PER_ROUND_MAX).unwrap_or(i64::MAX);
    let page = store::deployments::page_of_work(&mut sync.db.read().await?, *after, limit).await?;
    let last = page.last().map(|work| work.deployment.job_id).filter(|_| page.len() == IMAGES_PER_ROUND_MAX);
    let mut waiting = page.into_iter().filter(has_image);
    let mut checks = JoinSet::new();
    let (mut checked, mut lost) = (0, Vec::new());
    loop {
        while checks.len() < CHECKS_PARALLEL_MAX
            && let Some(work) = waiting.next()
        {
            let builder = sync.builder.clone();
            checks.spawn(async move {
                let exists = match &work.rollout.artifact {
                    Some(artifact) => builder.exists(artifact).await,
                    None => Ok(true),
                };
                (work, exists)
            });
        }
        let Some(ended) = checks.join_next().await else { break };
        if leader_epoch.over.is_cancelled() {
            return Ok(());
        }
        match ended {
            Ok((_, Ok(true))) => checked += 1,
            Ok((work, Ok(false))) => lost.push(work),
            Ok((_, Err(problem))) => {
                // The next round asks for the same ones.
                tracing::warn!(%problem, "it is not known whether images still exist; asking at the next full resync");
                return Ok(());
            }
            Err(error) => tracing::error!(%error, "the check of an image ended early"),
        }
    }
    tracing::debug!(checked, lost = lost.len(), "looked for images in the registry");
    for work in &lost {
        rebuild(sync, leader_epoch, work).await?;
    }
    *after = last;
    Ok(())
}

/// Whether a deployment runs an image of its own desired state. One that is being rolled out is checked by its rollout.
fn has_image(work: &Work) -> bool {
    !work.removed
        && work.rollout.reached_generation == Some(work.deployment.generation)
        && matches!(work.rollout.artifact, Some(Artifact::Image(_)))
}

/// Has an image built again that is gone. The same inputs give the same digest, so its CronJob stays as it is.
async fn rebuild(sync: &Synchronizer, leader_epoch: &LeaderEpoch, lost: &Work) -> Result<(), StoreError> {
    let job_id = lost.deployment.job_id;
    // With its requirements, and only if nothing changed meanwhile.
    let Some(work) = store::deployments::work(&mut sync.db.read().await?, job_id).await? else { return Ok(()) };
    if !has_image(&work) || work.rollout.artifact != lost.rollout.artifact {
        return Ok(());
    }
    let (job, image) = (&work.job_name, &work.rollout.artifact);
    let (deployment_spec, _) = inputs_of(sync, &work);
    let request = ArtifactRequest { deployment_spec: &deployment_spec, requirements: work.requirements.as_deref() };
    let inputs = match sync.builder.inputs(&request) {
        Ok(inputs) => inputs,
        Err(problem) => {
            tracing::error!(%job, ?image, %problem, "the registry lost an image that can't be built again");
            return Ok(());
        }
    };
    let built = store::builds::built(&mut sync.db.read().await?, &inputs.key).await?;
    if built.is_some() && built != work.rollout.artifact {
        tracing::error!(%job, ?image, "the registry lost an image, and its inputs give another one now; deploy the job again");
        return Ok(());
    }
    let asking =
        Asking { job_id, generation: work.deployment.generation, team: &work.team, builder: sync.builder.name() };
    let mut tx = sync.db.write().await?;
    store::builds::forget(&mut tx, leader_epoch.epoch, &inputs.key).await?;
    let asked = store::builds::ask(&mut tx, leader_epoch.epoch, asking, &inputs, sync.clock.now()).await?;
    tx.commit().await?;
    match asked {
        Asked::Waits => {
            tracing::warn!(%job, ?image, "the registry lost an image; building it again");
            leader_epoch.builds.notify_one();
        }
        Asked::Failed(problem) => {
            tracing::error!(%job, ?image, %problem, "an image that the registry lost was not built");
        }
        Asked::Built(_) => {}
    }
    Ok(())
}
