//! Deploy, change, show and remove the deployment of a job.

use model::{
    Problem,
    access::{Action, Caller},
    clock::Clock,
    deployment::{DEFAULT, Deployment, DeploymentChange, JobPart, PRODUCTION, RELEASE, Stamp, VersionDefaults},
    job::DataJob,
    name::{JobName, excerpt},
    problem::Code,
    rollout::Rollout,
};
use store::{
    Db, Tx,
    builds::Awaited,
    deployments::{Reached, Request},
};

use crate::{find_job, idempotency, jobs::event};

/// Whether a change may make a deployment where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing<'a> {
    /// It becomes the first deployment (POST).
    Create,
    /// It is refused (PATCH), as is the id of another deployment.
    Refuse {
        /// The id that the caller names.
        deployment_id: &'a str,
    },
}

/// Accepts a change of a job's deployment. It is stored when this returns; the synchronizer makes it true.
///
/// A change that wants what is wanted already makes no generation, but lets a rollout that failed be tried again.
///
/// # Errors
/// NotFound for an unknown job, or without a deployment where `missing` refuses; Invalid for input that breaks a rule;
/// Conflict for a version whose source was never uploaded, a Python version that is not offered, or resources of which a
/// request would be above its limit.
pub async fn change(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    defaults: &VersionDefaults,
    team: &str,
    name: &str,
    change: &DeploymentChange,
    missing: Missing<'_>,
) -> Result<(), Problem> {
    let permit = caller.may(Action::Change, team, name).await?;
    let now = clock.now();
    let mut tx = db.write().await?;
    if let Some(done) = idempotency::outcome(&mut tx, caller, now).await? {
        return Ok(done);
    }
    let job = find_job(&mut tx, &permit).await?;
    if let Missing::Refuse { deployment_id } = missing {
        check_id(&job.name, deployment_id)?;
    }
    let current = store::deployments::find(&mut tx, job.id).await?;
    check(caller, &job, current.as_ref())?;
    if current.is_none() && missing != Missing::Create {
        return Err(not_deployed(&job));
    }
    if let Some(version) = &change.job_version
        && current.as_ref().is_none_or(|current| current.job_version != *version)
        && !store::sources::is_offered(&mut tx, job.id, version).await?
    {
        return Err(Problem::new(
            Code::SourceVersionUnknown,
            format!("The data job {} was not deployed.", job.name),
            format!("No sources of the version {version} are stored for it."),
        )
        .nothing_changed()
        .fix("Upload the sources, and send the version_sha that the upload returns."));
    }
    let part = JobPart::from(&job.config);
    // Its number is drawn as soon as it is known to differ.
    let stamp = Stamp { generation: 0, by: caller.user.clone(), at: now };
    let mut wanted = Deployment::merge(current.as_ref(), change, job.id, &part, defaults, stamp)?;
    if current.as_ref().is_some_and(|c| c.wants_the_same(&wanted)) {
        return retry(db, tx, caller, &job, now).await;
    }
    let generation = store::jobs::next_generation(&mut tx, &job.name).await?;
    wanted.generation = generation;
    store::revisions::insert(&mut tx, &wanted, now).await?;
    store::deployments::replace(&mut tx, &wanted, &caller.op_id, now).await?;
    store::audit::record(&mut tx, caller, &event("deployment.change", &job, Some(generation)), now).await?;
    idempotency::keep(&mut tx, caller, &()).await?;
    tx.commit().await?;
    db.notifications().deployments.notify_one();
    Ok(())
}

/// Lets a failed rollout be tried again at once, in the transaction that holds the job and compared what is asked for with
/// what is desired.
pub(crate) async fn retry(
    db: &Db,
    mut tx: Tx,
    caller: &Caller,
    job: &DataJob,
    now: jiff::Timestamp,
) -> Result<(), Problem> {
    if store::deployments::reset_backoff(&mut tx, job.id, now).await? {
        store::audit::record(&mut tx, caller, &event("deployment.retry", job, None), now).await?;
    }
    idempotency::keep(&mut tx, caller, &()).await?;
    tx.commit().await?;
    db.notifications().deployments.notify_one();
    Ok(())
}

/// The deployment that runs: none before the first success.
pub async fn list(db: &Db, caller: &Caller, team: &str, name: &str) -> Result<(DataJob, Option<Reached>), Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let mut tx = db.read().await?;
    let job = find_job(&mut tx, &permit).await?;
    let reached = store::deployments::reached(&mut tx, &[job.id]).await?.pop();
    Ok((job, reached))
}

/// The deployment that runs, by its id.
///
/// # Errors
/// NotFound for an unknown job or id, and before the first success.
pub async fn read(
    db: &Db,
    caller: &Caller,
    team: &str,
    name: &str,
    deployment_id: &str,
) -> Result<(DataJob, Reached), Problem> {
    let (job, reached) = list(db, caller, team, name).await?;
    check_id(&job.name, deployment_id)?;
    match reached {
        Some(reached) => Ok((job, reached)),
        None => Err(not_deployed(&job)),
    }
}

/// How far what is wanted got: the wanted deployment beside its rollout. Also before the first success, so that a client
/// can tell when a deployment is rolled out, or which problem prevents it.
///
/// # Errors
/// NotFound for an unknown job or id, and for a job without a deployment.
pub async fn rollout(
    db: &Db,
    caller: &Caller,
    team: &str,
    name: &str,
    deployment_id: &str,
) -> Result<(Deployment, Rollout, Option<Awaited>), Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let mut tx = db.read().await?;
    let job = find_job(&mut tx, &permit).await?;
    check_id(&job.name, deployment_id)?;
    let deployment = wanted(&mut tx, &job).await?;
    let rollout = store::deployments::rollout(&mut tx, job.id).await?.unwrap_or_default();
    let build = store::builds::awaited(&mut tx, job.id).await?;
    Ok((deployment, rollout, build))
}

/// Removes the deployment, if the job has one. Executions in progress continue; the job, its sources and its history stay.
pub async fn remove(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    team: &str,
    name: &str,
    deployment_id: &str,
) -> Result<(), Problem> {
    let permit = caller.may(Action::Change, team, name).await?;
    let now = clock.now();
    let mut tx = db.write().await?;
    let job = find_job(&mut tx, &permit).await?;
    check_id(&job.name, deployment_id)?;
    check(caller, &job, store::deployments::find(&mut tx, job.id).await?.as_ref())?;
    let generation = store::jobs::next_generation(&mut tx, &job.name).await?;
    let request = Request { by: &caller.user, op_id: &caller.op_id };
    if !store::deployments::remove(&mut tx, job.id, generation, request, now).await? {
        return Ok(());
    }
    store::audit::record(&mut tx, caller, &event("deployment.remove", &job, Some(generation)), now).await?;
    tx.commit().await?;
    db.notifications().deployments.notify_one();
    db.notifications().executions.notify_one();
    Ok(())
}

/// Checks the preconditions of a change of a deployment. They refer to the desired state, whose ETag is that of the rollout.
pub(crate) fn check(caller: &Caller, job: &DataJob, wanted: Option<&Deployment>) -> Result<(), Problem> {
    let etag = wanted.map(Deployment::etag);
    let checked = caller.preconditions.check(&format!("deployment of the data job {}", job.name), etag.as_ref());
    checked.map_err(|problem| match etag {
        Some(_) => problem.fix(
            "Read `…/deployments/production/rollout` again, then retry with its ETag (not that of the deployment).",
        ),
        None => problem,
    })
}

/// Checks the id of a deployment. A job has one; clients call it by each of these names.
pub fn check_id(job: &JobName, deployment_id: &str) -> Result<(), Problem> {
    if [PRODUCTION, RELEASE, DEFAULT].contains(&deployment_id) || deployment_id == job.as_str() {
        return Ok(());
    }
    Err(Problem::new(
        Code::DeploymentIdUnknown,
        format!("The deployment {} of the data job {job} was not found.", excerpt(deployment_id)),
        "A data job has one deployment, and its id is \"production\".",
    )
    .follows("The request has no result.")
    .fix("Use the deployment id \"production\"."))
}

/// The job has no deployment (yet).
pub(crate) fn not_deployed(job: &DataJob) -> Problem {
    Problem::new(
        Code::DeploymentNotFound,
        format!("The data job {} has no deployment.", job.name),
        "It was never deployed, its deployment was removed, or its first rollout has not finished.",
    )
    .follows("The request has no result.")
    .fix(format!("Deploy it: `vdk deploy -n {} -t {} -p <folder> -r <reason>`.", job.name, job.team))
}

/// Reads what is wanted of a job's deployment, within a transaction.
pub(crate) async fn wanted(tx: &mut Tx, job: &DataJob) -> Result<Deployment, Problem> {
    store::deployments::find(tx, job.id).await?.ok_or_else(|| not_deployed(job))
}
