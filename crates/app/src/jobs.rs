//! Create, read, change and delete a data job.

use jiff::Timestamp;
use model::{
    Problem,
    access::{Action, Caller, decide_one_team},
    clock::Clock,
    deployment::{Deployment, DeploymentChange, JobPart, Stamp, VersionDefaults},
    job::{DataJob, JobConfig},
    name::{JobId, JobName, TeamName, excerpt},
    problem::Code,
    schedule::Schedule,
};
use serde::{Deserialize, Serialize};
use store::{Db, Tx, audit::Event, deployments::Request};

use crate::{find_job, idempotency};

pub use store::jobs::deleted::Deleted;

/// The request to create or change a job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobDefinition {
    /// The name.
    pub name: String,
    /// The team; on a change, a new one moves the job.
    pub team: String,
    /// Free text.
    pub description: String,
    /// Schedule, contacts and flags.
    pub config: JobConfig,
}

impl JobDefinition {
    fn validated(self, default_zone: &str) -> Result<(JobName, TeamName, String, JobConfig), Problem> {
        let name = JobName::parse(&self.name)?;
        let team = TeamName::parse(&self.team)?;
        if self.description.len() > DataJob::DESCRIPTION_MAX_BYTES {
            return Err(Problem::new(
                Code::JobDescriptionTooLong,
                "The description of the data job is too long.",
                format!("It has {} bytes (limit {}).", self.description.len(), DataJob::DESCRIPTION_MAX_BYTES),
            )
            .nothing_changed()
            .fix("Shorten the description."));
        }
        let config = self.config.validated()?;
        if let Some(cron) = &config.schedule_cron {
            Schedule::parse(cron, default_zone)?;
        }
        Ok((name, team, self.description, config))
    }
}

/// Creates a job.
///
/// # Errors
/// Invalid for a name, team, schedule or configuration that breaks a rule; Conflict when a live job has the name.
pub async fn create(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    default_zone: &str,
    definition: JobDefinition,
) -> Result<DataJob, Problem> {
    caller.may(Action::Change, &definition.team, &definition.name).await?;
    let (name, team, description, config) = definition.validated(default_zone)?;
    let mut job = DataJob { id: JobId(clock.new_id()), name, team, description, config };
    let now = clock.now();
    let mut tx = db.write().await?;
    if let Some(id) = idempotency::outcome(&mut tx, caller, now).await? {
        job.id = JobId(id);
        return Ok(job);
    }
    admit_team(&mut tx, caller, &job.team, job.id, now).await?;
    let schedule = ensure_schedule(&mut tx, &job.config, default_zone, now).await?;
    if !store::jobs::insert(&mut tx, &job, schedule, &caller.user, now).await? {
        return Err(Problem::new(
            Code::JobNameTaken,
            format!("The data job {} was not created.", job.name),
            "A job of this name exists; names are unique across all teams.",
        )
        .nothing_changed()
        .fix("Choose another name, or use the existing job."));
    }
    store::audit::record(&mut tx, caller, &event("job.create", &job, None), now).await?;
    idempotency::keep(&mut tx, caller, &job.id.0).await?;
    tx.commit().await?;
    db.notifications().schedules.notify_one();
    Ok(job)
}

/// Reads a job.
pub async fn read(db: &Db, caller: &Caller, team: &str, name: &str) -> Result<DataJob, Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let mut tx = db.read().await?;
    find_job(&mut tx, &permit).await
}

/// The scheduled times that [`scheduled_times`] returns at most.
pub const SCHEDULED_TIMES_MAX: i64 = 100;

/// The scheduled times that [`scheduled_times`] returns without a limit.
const SCHEDULED_TIMES: i64 = 20;

/// The schedule of a job, and its next times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledTimes {
    /// The schedule as it was given; absent without one.
    pub schedule_cron: Option<String>,
    /// The time zone whose wall clock counts; absent without a schedule.
    pub time_zone: Option<String>,
    /// The next scheduled times, ascending.
    pub times: Vec<Timestamp>,
}

/// The next scheduled times of a job, by the same rules as the synchronizer's. Executions start at them if the deployment is
/// enabled.
///
/// # Errors
/// NotFound for an unknown job; Invalid for a limit below 1 or above [`SCHEDULED_TIMES_MAX`].
pub async fn scheduled_times(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    default_zone: &str,
    team: &str,
    name: &str,
    limit: Option<i64>,
) -> Result<ScheduledTimes, Problem> {
    let limit = limit.unwrap_or(SCHEDULED_TIMES);
    if !(1..=SCHEDULED_TIMES_MAX).contains(&limit) {
        return Err(Problem::new(
            Code::QueryParameterInvalid,
            "The scheduled times were not listed.",
            format!("limit is {limit}; it must be 1 to {SCHEDULED_TIMES_MAX}."),
        )
        .nothing_returned()
        .fix(format!("Send a limit of at most {SCHEDULED_TIMES_MAX}.")));
    }
    let job = read(db, caller, team, name).await?;
    let Some(cron) = job.config.schedule_cron else {
        return Ok(ScheduledTimes { schedule_cron: None, time_zone: None, times: Vec::new() });
    };
    let schedule = Schedule::parse(&cron, default_zone)?;
    let mut times = Vec::new();
    let mut after = clock.now();
    for _ in 0..limit {
        let Some(next) = schedule.next_after(after) else { break };
        times.push(next);
        after = next;
    }
    Ok(ScheduledTimes { time_zone: Some(schedule.zone().to_owned()), schedule_cron: Some(cron), times })
}

/// Changes a job. A changed schedule, contact, flag or team becomes a new revision of the deployment in the same
/// transaction.
///
/// # Errors
/// NotFound for an unknown job; Invalid when the definition breaks a rule or names another job.
pub async fn update(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    default_zone: &str,
    defaults: &VersionDefaults,
    team: &str,
    name: &str,
    definition: JobDefinition,
) -> Result<(), Problem> {
    let permit = if definition.team == team {
        caller.may(Action::Change, team, name).await?
    } else {
        caller.may_move(team, name, &definition.team).await?
    };
    let (new_name, new_team, description, config) = definition.validated(default_zone)?;
    if new_name.as_str() != name {
        return Err(Problem::new(
            Code::JobNameMismatch,
            format!("The data job {} was not changed.", excerpt(name)),
            format!("The body names the job {new_name}, and a job can't be renamed."),
        )
        .nothing_changed()
        .fix("Send the same name in the URL and in the body, or create a new job."));
    }
    let now = clock.now();
    let mut tx = db.write().await?;
    let before = find_job(&mut tx, &permit).await?;
    check(caller, &before)?;
    let after = DataJob { id: before.id, name: new_name, team: new_team, description, config };
    if before == after {
        return Ok(());
    }
    if before.team != after.team {
        admit_team(&mut tx, caller, &after.team, after.id, now).await?;
    }
    let schedule = ensure_schedule(&mut tx, &after.config, default_zone, now).await?;
    store::jobs::update(&mut tx, &after, schedule, now).await?;
    let generation = follow(&mut tx, caller, defaults, &before, &after, now).await?;
    store::audit::record(&mut tx, caller, &event("job.update", &after, generation), now).await?;
    tx.commit().await?;
    if generation.is_some() {
        db.notifications().deployments.notify_one();
    }
    db.notifications().schedules.notify_one();
    Ok(())
}

/// Moves a job to another team with all that belongs to it: deployment, sources, properties, secrets, history. Its
/// deployment becomes a new revision, because an execution gets the name of its team.
///
/// # Errors
/// NotFound for an unknown job; Invalid when the new team's name breaks a rule.
pub async fn move_to_team(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    default_zone: &str,
    defaults: &VersionDefaults,
    team: &str,
    name: &str,
    new_team: &str,
) -> Result<(), Problem> {
    let permit = caller.may_move(team, name, new_team).await?;
    let now = clock.now();
    let mut tx = db.write().await?;
    let before = find_job(&mut tx, &permit).await?;
    check(caller, &before)?;
    let after = DataJob { team: TeamName::parse(new_team)?, ..before.clone() };
    if before == after {
        return Ok(());
    }
    admit_team(&mut tx, caller, &after.team, after.id, now).await?;
    let schedule = ensure_schedule(&mut tx, &after.config, default_zone, now).await?;
    store::jobs::update(&mut tx, &after, schedule, now).await?;
    let generation = follow(&mut tx, caller, defaults, &before, &after, now).await?;
    let mut event = event("job.move", &after, generation);
    event.detail = Some(format!("from {}", before.team));
    store::audit::record(&mut tx, caller, &event, now).await?;
    tx.commit().await?;
    if generation.is_some() {
        db.notifications().deployments.notify_one();
    }
    db.notifications().schedules.notify_one();
    Ok(())
}

/// Rejects jobs of a second team if only one may have jobs, and reserves the name of the team's Secret.
async fn admit_team(tx: &mut Tx, caller: &Caller, team: &TeamName, job: JobId, now: Timestamp) -> Result<(), Problem> {
    if caller.one_team
        && let Some(other) = store::jobs::other_team(tx, team, job).await?
    {
        decide_one_team(&other, team)?;
    }
    store::team_secrets::claim(tx, team, now).await?;
    Ok(())
}

/// Creates a revision of the deployment if the change of the job affects it.
async fn follow(
    tx: &mut Tx,
    caller: &Caller,
    defaults: &VersionDefaults,
    before: &DataJob,
    after: &DataJob,
    now: Timestamp,
) -> Result<Option<i64>, Problem> {
    let part = JobPart::from(&after.config);
    if JobPart::from(&before.config) == part && before.team == after.team {
        return Ok(None);
    }
    let Some(current) = store::deployments::find(tx, after.id).await? else { return Ok(None) };
    let generation = store::jobs::next_generation(tx, &after.name).await?;
    let stamp = Stamp { generation, by: caller.user.clone(), at: now };
    let deployment = Deployment::merge(Some(&current), &DeploymentChange::default(), after.id, &part, defaults, stamp)?;
    store::revisions::insert(tx, &deployment, now).await?;
    store::deployments::replace(tx, &deployment, &caller.op_id, now).await?;
    Ok(Some(generation))
}

/// Deletes a job with its deployment, properties and secrets. Its active executions are cancelled. It can be
/// restored for some days (`deleted_jobs_keep_days`); a new job with the same name inherits nothing.
pub async fn delete(db: &Db, clock: &dyn Clock, caller: &Caller, team: &str, name: &str) -> Result<(), Problem> {
    let permit = caller.may(Action::Change, team, name).await?;
    let now = clock.now();
    let mut tx = db.write().await?;
    let job = find_job(&mut tx, &permit).await?;
    check(caller, &job)?;
    store::executions::request_cancel_all(&mut tx, job.id, now).await?;
    let generation = store::jobs::next_generation(&mut tx, &job.name).await?;
    let wanted = store::deployments::find(&mut tx, job.id).await?.map(|wanted| wanted.generation);
    let request = Request { by: &caller.user, op_id: &caller.op_id };
    store::deployments::withdraw(&mut tx, job.id, generation, request, now).await?;
    store::jobs::delete(&mut tx, job.id, &caller.user, wanted, now).await?;
    store::audit::record(&mut tx, caller, &event("job.delete", &job, Some(generation)), now).await?;
    tx.commit().await?;
    db.notifications().executions.notify_one();
    db.notifications().deployments.notify_one();
    Ok(())
}

/// Checks the preconditions of a change of a job.
fn check(caller: &Caller, job: &DataJob) -> Result<(), Problem> {
    caller.preconditions.check(&format!("data job {}", job.name), Some(&job.etag()))
}

/// The result of restoring a deleted job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undeleted {
    /// The new revision of its deployment; absent without a deployment.
    pub generation: Option<i64>,
    /// Why its deployment was not restored.
    pub problem: Option<Problem>,
}

/// Restores the latest deleted job with this name in this team, with its properties, secrets, sources and history. Its
/// deployment becomes a new revision whose schedule starts now, so scheduled times before are not caught up. If the
/// deployment can't be restored, the job is restored without it.
///
/// # Errors
/// NotFound when none is kept; Conflict when a live job has the name.
pub async fn undelete(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    default_zone: &str,
    defaults: &VersionDefaults,
    team: &str,
    name: &str,
) -> Result<Undeleted, Problem> {
    caller.may(Action::Change, team, name).await?;
    let now = clock.now();
    let mut tx = db.write().await?;
    if let Some(undeleted) = idempotency::outcome(&mut tx, caller, now).await? {
        return Ok(undeleted);
    }
    let found = match (TeamName::parse(team), JobName::parse(name)) {
        (Ok(team), Ok(name)) => store::jobs::deleted::newest(&mut tx, &team, &name).await?,
        _ => None,
    };
    let Some(Deleted { job, generation, .. }) = found else {
        return Err(Problem::new(
            Code::DeletedJobNotFound,
            format!("The data job {} was not restored.", excerpt(name)),
            format!("No deleted job of this name is kept for the team {}.", excerpt(team)),
        )
        .nothing_changed()
        .fix("Check the name and the team; `GET …/deleted-jobs` lists the jobs that can be restored."));
    };
    admit_team(&mut tx, caller, &job.team, job.id, now).await?;
    let schedule = ensure_schedule(&mut tx, &job.config, default_zone, now).await?;
    if !store::jobs::deleted::undelete(&mut tx, &job, schedule, now).await? {
        return Err(Problem::new(
            Code::DeletedJobNameTaken,
            format!("The data job {} was not restored.", job.name),
            "A job of this name exists; names are unique across all teams.",
        )
        .nothing_changed()
        .fix("Delete the new job first if the deleted one must have its name."));
    }
    let undeleted = match generation {
        Some(generation) => redeploy(&mut tx, caller, defaults, &job, generation, now).await?,
        None => Undeleted { generation: None, problem: None },
    };
    store::audit::record(&mut tx, caller, &event("job.undelete", &job, undeleted.generation), now).await?;
    idempotency::keep(&mut tx, caller, &undeleted).await?;
    tx.commit().await?;
    db.notifications().deployments.notify_one();
    db.notifications().schedules.notify_one();
    Ok(undeleted)
}

/// Deploys a revision again after its job was restored.
async fn redeploy(
    tx: &mut Tx,
    caller: &Caller,
    defaults: &VersionDefaults,
    job: &DataJob,
    generation: i64,
    now: Timestamp,
) -> Result<Undeleted, Problem> {
    let without = |problem| Ok(Undeleted { generation: None, problem: Some(problem) });
    let Some(old) = store::revisions::find(tx, job.id, generation).await? else {
        return without(
            Problem::new(
                Code::RestoredRevisionMissing,
                "The deployment was not restored.",
                "Its revision is no longer kept (`revisions.keep`).",
            )
            .follows("The job was restored without a deployment.")
            .fix(format!("Deploy it: `vdk deploy -n {} -t {} -p <folder> -r <reason>`.", job.name, job.team)),
        );
    };
    if store::sources::find(tx, job.id, &old.job_version).await?.is_none() {
        let why = format!("Its sources, version {}, were removed.", old.job_version);
        return without(
            Problem::new(Code::RestoredSourcesMissing, "The deployment was not restored.", why)
                .follows("The job was restored without a deployment.")
                .fix(format!("Deploy it: `vdk deploy -n {} -t {} -p <folder> -r <reason>`.", job.name, job.team)),
        );
    }
    let drawn = store::jobs::next_generation(tx, &job.name).await?;
    let stamp = Stamp { generation: drawn, by: caller.user.clone(), at: now };
    match Deployment::rolled_back(&old, None, defaults, stamp) {
        Ok(wanted) => {
            store::revisions::insert(tx, &wanted, now).await?;
            store::deployments::replace(tx, &wanted, &caller.op_id, now).await?;
            Ok(Undeleted { generation: Some(drawn), problem: None })
        }
        Err(problem) => without(problem),
    }
}

/// The most deleted jobs on one page.
pub const DELETED_PAGE_MAX: i64 = 1000;

/// The jobs of a team that were deleted and can be restored, the latest first, those before `before`; and where the
/// next page begins, if there is one.
///
/// # Errors
/// Invalid for an impossible page size.
pub async fn deleted(
    db: &Db,
    caller: &Caller,
    team: &str,
    before: Option<(Timestamp, JobId)>,
    limit: Option<i64>,
) -> Result<(Vec<Deleted>, Option<(Timestamp, JobId)>), Problem> {
    /// The default number of jobs on a page.
    const PAGE: i64 = 100;
    caller.may_with_team(Action::Read, team).await?;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=DELETED_PAGE_MAX).contains(&limit) {
        return Err(Problem::new(
            Code::QueryParameterInvalid,
            "The deleted jobs were not listed.",
            format!("limit is {limit}; it must be 1 to {DELETED_PAGE_MAX}."),
        )
        .nothing_returned()
        .fix(format!("Send a limit of at most {DELETED_PAGE_MAX}, and read further pages with next_before.")));
    }
    let Ok(team) = TeamName::parse(team) else { return Ok((Vec::new(), None)) };
    let mut tx = db.read().await?;
    let mut found = store::jobs::deleted::page(&mut tx, &team, before, limit + 1).await?;
    let more = i64::try_from(found.len()).is_ok_and(|count| count > limit);
    if more {
        found.pop();
    }
    let next = found.last().filter(|_| more).map(|last| (last.at, last.job.id));
    Ok((found, next))
}

pub(crate) fn event<'a>(action: &'static str, job: &'a DataJob, generation: Option<i64>) -> Event<'a> {
    Event { action, job_id: job.id, job_name: job.name.as_str(), team: job.team.as_str(), generation, detail: None }
}

/// The row of the job's schedule, if it has one.
pub(crate) async fn ensure_schedule(
    tx: &mut Tx,
    config: &JobConfig,
    default_zone: &str,
    now: Timestamp,
) -> Result<Option<i64>, Problem> {
    let Some(cron) = &config.schedule_cron else { return Ok(None) };
    let schedule = Schedule::parse(cron, default_zone)?;
    let next = schedule.next_after(now);
    Ok(Some(store::schedules::ensure(tx, schedule.expression(), schedule.zone(), next).await?))
}
