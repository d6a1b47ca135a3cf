//! Create, read, change and delete a data job.

use model::{
    Problem,
    access::Caller,
    clock::Clock,
    deployment::{Deployment, DeploymentChange, JobPart, Stamp, VersionDefaults},
    job::{DataJob, JobConfig},
    name::{JobId, JobName, TeamName},
    schedule::Schedule,
};
use store::{Db, Tx, audit::Event};

use crate::find_job;

/// What a caller says of a job that it creates or changes.
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
            return Err(Problem::invalid(
                "The description of the data job is too long.",
                format!("It has {} bytes; at most {} fit.", self.description.len(), DataJob::DESCRIPTION_MAX_BYTES),
            ));
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
    let (name, team, description, config) = definition.validated(default_zone)?;
    let job = DataJob { id: JobId(clock.new_id()), name, team, description, config };
    let now = clock.now();
    let mut tx = db.write().await?;
    let schedule = ensure_schedule(&mut tx, &job.config, default_zone, now).await?;
    if !store::jobs::insert(&mut tx, &job, schedule, &caller.user, now).await? {
        return Err(Problem::conflict(
            format!("The data job {} was not created.", job.name),
            "A job of this name exists already; names are unique across all teams.",
        )
        .fix("Choose another name, or work with the existing job."));
    }
    store::audit::record(&mut tx, caller, &event("job.create", &job, None), now).await?;
    tx.commit().await?;
    db.wake().schedules.notify_one();
    Ok(job)
}

/// Reads a job.
pub async fn read(db: &Db, _caller: &Caller, team: &str, name: &str) -> Result<DataJob, Problem> {
    let mut tx = db.read().await?;
    find_job(&mut tx, team, name).await
}

/// Changes a job. What its deployment shows of it (schedule, contacts, flags, team) becomes a new generation of the
/// deployment in the same transaction.
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
    let (new_name, new_team, description, config) = definition.validated(default_zone)?;
    if new_name.as_str() != name {
        return Err(Problem::invalid(
            format!("The data job {} was not changed.", model::name::shown(name)),
            format!("The request's body is about the job {new_name}, and a job can't be renamed."),
        )
        .fix("Send the same name in the address and in the body, or create a new job."));
    }
    let now = clock.now();
    let mut tx = db.write().await?;
    let before = find_job(&mut tx, team, name).await?;
    let after = DataJob { id: before.id, name: new_name, team: new_team, description, config };
    if before == after {
        return Ok(());
    }
    let schedule = ensure_schedule(&mut tx, &after.config, default_zone, now).await?;
    store::jobs::update(&mut tx, &after, schedule, now).await?;
    let generation = follow(&mut tx, caller, defaults, &before, &after, now).await?;
    store::audit::record(&mut tx, caller, &event("job.update", &after, generation), now).await?;
    tx.commit().await?;
    if generation.is_some() {
        db.wake().deployments.notify_one();
    }
    db.wake().schedules.notify_one();
    Ok(())
}

/// Moves a job to another team with all that belongs to it: deployment, sources, properties, secrets, history. Its
/// deployment becomes a new generation, because a run is told its team.
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
    let now = clock.now();
    let mut tx = db.write().await?;
    let before = find_job(&mut tx, team, name).await?;
    let after = DataJob { team: TeamName::parse(new_team)?, ..before.clone() };
    if before == after {
        return Ok(());
    }
    let schedule = ensure_schedule(&mut tx, &after.config, default_zone, now).await?;
    store::jobs::update(&mut tx, &after, schedule, now).await?;
    let generation = follow(&mut tx, caller, defaults, &before, &after, now).await?;
    let mut event = event("job.move", &after, generation);
    event.detail = Some(format!("from {}", before.team));
    store::audit::record(&mut tx, caller, &event, now).await?;
    tx.commit().await?;
    if generation.is_some() {
        db.wake().deployments.notify_one();
    }
    db.wake().schedules.notify_one();
    Ok(())
}

/// Makes a generation of the deployment where the change of the job shows in it.
async fn follow(
    tx: &mut Tx,
    caller: &Caller,
    defaults: &VersionDefaults,
    before: &DataJob,
    after: &DataJob,
    now: jiff::Timestamp,
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
    store::deployments::replace(tx, &deployment, now).await?;
    Ok(Some(generation))
}

/// Deletes a job with its deployment, properties and secrets. Its active runs are cancelled. What it was stays as a
/// tombstone for some days; a new job of the name inherits nothing.
pub async fn delete(db: &Db, clock: &dyn Clock, caller: &Caller, team: &str, name: &str) -> Result<(), Problem> {
    let now = clock.now();
    let mut tx = db.write().await?;
    let job = find_job(&mut tx, team, name).await?;
    store::executions::request_cancel_all(&mut tx, job.id, now).await?;
    let generation = store::jobs::next_generation(&mut tx, &job.name).await?;
    store::deployments::remove(&mut tx, job.id, generation, &caller.user, now).await?;
    store::jobs::delete(&mut tx, job.id, now).await?;
    store::audit::record(&mut tx, caller, &event("job.delete", &job, Some(generation)), now).await?;
    tx.commit().await?;
    db.wake().executions.notify_one();
    db.wake().deployments.notify_one();
    Ok(())
}

pub(crate) fn event<'a>(action: &'static str, job: &'a DataJob, generation: Option<i64>) -> Event<'a> {
    Event { action, job_id: job.id, job_name: job.name.as_str(), team: job.team.as_str(), generation, detail: None }
}

/// The row of the job's schedule, if it has one.
pub(crate) async fn ensure_schedule(
    tx: &mut Tx,
    config: &JobConfig,
    default_zone: &str,
    now: jiff::Timestamp,
) -> Result<Option<i64>, Problem> {
    let Some(cron) = &config.schedule_cron else { return Ok(None) };
    let schedule = Schedule::parse(cron, default_zone)?;
    let next = schedule.next_after(now);
    Ok(Some(store::schedules::ensure(tx, schedule.expression(), schedule.zone(), next).await?))
}
