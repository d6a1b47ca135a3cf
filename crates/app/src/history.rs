//! The history of a job: the revisions of its deployment, the differences between two, rollbacks, and audit events.

use model::{
    Problem,
    access::{Action, Caller},
    clock::Clock,
    deployment::{Deployment, JobPart, Stamp, VersionDefaults},
    difference::Difference,
    job::{DataJob, JobConfig},
    problem::Code,
};
use store::{Db, Tx};

use crate::{
    deployments::{check, check_id, retry},
    find_job, idempotency,
    jobs::{ensure_schedule, event},
};
pub use store::audit::RecordedEvent;

/// The most entries on one page.
pub const PAGE_MAX: i64 = 1000;

/// Which part of a history, newest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Only entries older than this one; absent starts at the newest.
    pub before: Option<i64>,
    /// The most entries.
    pub limit: Option<i64>,
}

/// Entries, and the start of the next page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Newest first.
    pub content: Vec<T>,
    /// The start of the next page; absent on the last one.
    pub next_before: Option<i64>,
}

impl PageRequest {
    /// The bounds, with one entry more than the page, to find out whether there is a next page.
    fn bounds(self) -> Result<(i64, i64), Problem> {
        /// The default number of entries on a page.
        const PAGE: i64 = 100;
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Problem::new(
                Code::QueryParameterInvalid,
                "The history was not read.",
                format!("limit is {limit}; it must be 1 to {PAGE_MAX}."),
            )
            .nothing_returned()
            .fix(format!("Send a limit of at most {PAGE_MAX}, and read further pages with before.")));
        }
        Ok((self.before.unwrap_or(i64::MAX), limit + 1))
    }
}

fn page<T>(mut content: Vec<T>, fetched_max: i64, number: impl Fn(&T) -> i64) -> Page<T> {
    let full = i64::try_from(content.len()).is_ok_and(|count| count == fetched_max);
    if full {
        content.pop();
    }
    let next_before = content.last().filter(|_| full).map(number);
    Page { content, next_before }
}

/// The revisions of a job's deployment, also of a removed one.
///
/// # Errors
/// NotFound for an unknown job or deployment; Invalid for a page of no possible size.
pub async fn revisions(
    db: &Db,
    caller: &Caller,
    team: &str,
    name: &str,
    deployment_id: &str,
    page_request: PageRequest,
) -> Result<Page<Deployment>, Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let (before, limit) = page_request.bounds()?;
    let mut tx = db.read().await?;
    let job = find_job(&mut tx, &permit).await?;
    check_id(&job.name, deployment_id)?;
    let found = store::revisions::page(&mut tx, job.id, before, limit).await?;
    Ok(page(found, limit, |revision| revision.generation))
}

/// One revision of a job's deployment.
///
/// # Errors
/// NotFound for an unknown job, deployment or generation.
pub async fn revision(
    db: &Db,
    caller: &Caller,
    team: &str,
    name: &str,
    deployment_id: &str,
    generation: i64,
) -> Result<Deployment, Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let mut tx = db.read().await?;
    let job = find_job(&mut tx, &permit).await?;
    check_id(&job.name, deployment_id)?;
    find(&mut tx, &job, generation).await
}

/// The differences between two revisions.
///
/// # Errors
/// NotFound for an unknown job, deployment or generation.
pub async fn differences(
    db: &Db,
    caller: &Caller,
    team: &str,
    name: &str,
    deployment_id: &str,
    (from, to): (i64, i64),
) -> Result<Vec<Difference>, Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let mut tx = db.read().await?;
    let job = find_job(&mut tx, &permit).await?;
    check_id(&job.name, deployment_id)?;
    let (from, to) = (find(&mut tx, &job, from).await?, find(&mut tx, &job, to).await?);
    Ok(from.differences(&to))
}

/// Creates a new revision from an old one: sources, versions, enabled flag, resources, schedule, contacts and flags. Schedule,
/// contacts and flags are also written back to the job. A removed deployment is restored that way.
///
/// A rollback to the current desired state creates no revision, but retries a failed rollout.
///
/// # Errors
/// NotFound for an unknown job, deployment or generation; Conflict when its sources were removed, or its Python version is
/// no longer offered.
pub async fn roll_back(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    default_zone: &str,
    defaults: &VersionDefaults,
    team: &str,
    name: &str,
    (deployment_id, generation): (&str, i64),
) -> Result<(), Problem> {
    let permit = caller.may(Action::Change, team, name).await?;
    let now = clock.now();
    let mut tx = db.write().await?;
    if let Some(done) = idempotency::outcome(&mut tx, caller, now).await? {
        return Ok(done);
    }
    let job = find_job(&mut tx, &permit).await?;
    check_id(&job.name, deployment_id)?;
    let old = find(&mut tx, &job, generation).await?;
    let current = store::deployments::find(&mut tx, job.id).await?;
    check(caller, &job, current.as_ref())?;
    let kept = current.as_ref().is_some_and(|current| current.job_version == old.job_version);
    if !kept && !store::sources::is_offered(&mut tx, job.id, &old.job_version).await? {
        return Err(Problem::new(
            Code::RevisionSourcesRemoved,
            format!("The deployment was not rolled back to revision {generation}."),
            format!("Its sources, version {}, were removed.", old.job_version),
        )
        .nothing_changed()
        .fix("Upload the sources again; the same content has the same version."));
    }
    let stamp = Stamp { generation, by: caller.user.clone(), at: now };
    let mut wanted = Deployment::rolled_back(&old, current.as_ref(), defaults, stamp)?;
    if current.as_ref().is_some_and(|current| current.wants_the_same(&wanted)) {
        return retry(db, tx, caller, &job, now).await;
    }
    let drawn = store::jobs::next_generation(&mut tx, &job.name).await?;
    wanted.generation = drawn;
    if JobPart::from(&job.config) != wanted.job_part() {
        let JobPart { schedule_cron, contacts, db_default_type, enable_execution_notifications } = wanted.job_part();
        let config = JobConfig {
            schedule_cron,
            contacts,
            db_default_type,
            enable_execution_notifications,
            ..job.config.clone()
        };
        let schedule = ensure_schedule(&mut tx, &config, default_zone, now).await?;
        store::jobs::update(&mut tx, &DataJob { config, ..job.clone() }, schedule, now).await?;
    }
    store::revisions::insert(&mut tx, &wanted, now).await?;
    store::deployments::replace(&mut tx, &wanted, &caller.op_id, now).await?;
    let mut event = event("deployment.rollback", &job, Some(drawn));
    event.detail = Some(format!("to generation {generation}"));
    store::audit::record(&mut tx, caller, &event, now).await?;
    idempotency::keep(&mut tx, caller, &()).await?;
    tx.commit().await?;
    db.notifications().deployments.notify_one();
    db.notifications().schedules.notify_one();
    Ok(())
}

async fn find(tx: &mut Tx, job: &DataJob, generation: i64) -> Result<Deployment, Problem> {
    store::revisions::find(tx, job.id, generation).await?.ok_or_else(|| {
        Problem::new(
            Code::RevisionNotFound,
            format!("The revision {generation} of the data job {} was not found.", job.name),
            "Its deployment has no revision of this number, or it is no longer kept (`revisions.keep`).",
        )
        .nothing_changed()
        .fix("`GET …/deployments/production/revisions` lists the revisions.")
    })
}

/// The audit events of a job: user, request and change. Those of an earlier, deleted job with the same name are left out.
///
/// # Errors
/// NotFound for an unknown job; Invalid for a page of no possible size.
pub async fn events(
    db: &Db,
    caller: &Caller,
    team: &str,
    name: &str,
    page_request: PageRequest,
) -> Result<Page<RecordedEvent>, Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let (before, limit) = page_request.bounds()?;
    let mut tx = db.read().await?;
    let job = find_job(&mut tx, &permit).await?;
    let found = store::audit::page(&mut tx, job.id, before, limit).await?;
    Ok(page(found, limit, |event| event.id))
}
