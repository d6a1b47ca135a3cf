//! Starts, shows and cancels executions, and reads their logs.

use model::{
    Problem,
    access::{Action, Caller, Permit},
    clock::Clock,
    execution::{Execution, Status, Type, already_active},
    job::DataJob,
    log::LogPart,
    name::{ExecutionId, JobName, excerpt},
    problem::Code,
    runtime::Runtime,
};
use store::{
    Db, Tx,
    executions::{Detail, ExecutionQuery, ExecutionSort, NewExecution, Started},
};

use crate::{
    JsonObject, admit, deployments, find_job, idempotency,
    jobs::event,
    json_text,
    logs::{LiveLogs, LogReader},
    unknown_job,
};

/// The largest arguments of an execution, in bytes of JSON: they are passed on a command line.
pub const ARGUMENTS_MAX_BYTES: usize = 100 * 1024;

/// The most executions in a list.
pub const LIST_MAX: i64 = 1000;

/// The request to start an execution.
#[derive(Debug, Clone, Default)]
pub struct StartRequest {
    /// The origin of the start, for example `manual/vdk-control-cli`.
    pub started_by: Option<String>,
    /// `--arguments` for the job.
    pub arguments: Option<JsonObject>,
}

/// Accepts a manual execution. The execution is stored when this returns; the synchronizer starts it.
///
/// # Errors
/// NotFound for an unknown job or a missing deployment; Conflict while another execution of the job is active; TooLarge or
/// Invalid for arguments that break a rule.
pub async fn start(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    team: &str,
    name: &str,
    deployment_id: &str,
    request: &StartRequest,
) -> Result<ExecutionId, Problem> {
    let permit = caller.may(Action::Start, team, name).await?;
    let arguments = request.arguments.as_ref().map(json_text);
    if arguments.as_ref().is_some_and(|a| a.len() > ARGUMENTS_MAX_BYTES) {
        return Err(Problem::new(
            Code::ExecutionArgumentsTooLarge,
            format!("The data job {} was not started.", excerpt(name)),
            format!("Its arguments have more than {ARGUMENTS_MAX_BYTES} bytes."),
        )
        .follows("No execution was created.")
        .fix("Pass large input through a file, a table or the job's properties."));
    }
    let given = request.started_by.as_deref().map(str::trim).filter(|g| !g.is_empty());
    if given.is_some_and(|g| g.len() > 200 || g.chars().any(char::is_control)) {
        return Err(Problem::new(
            Code::ExecutionStartedByInvalid,
            format!("The data job {} was not started.", excerpt(name)),
            "started_by has more than 200 bytes or a control character.",
        )
        .follows("No execution was created.")
        .fix("Shorten started_by, or leave it out."));
    }
    let started_by = given.map_or_else(|| caller.user.clone(), |g| format!("{g}/{}", caller.user));
    let now = clock.now();
    let mut tx = db.write().await?;
    if let Some(id) = idempotency::outcome(&mut tx, caller, now).await? {
        return Ok(id);
    }
    let job = find_job(&mut tx, &permit).await?;
    deployments::check_id(&job.name, deployment_id)?;
    deployments::wanted(&mut tx, &job).await?;
    let new = NewExecution {
        job_id: job.id,
        job_name: &job.name,
        kind: Type::Manual,
        started_by: &started_by,
        op_id: Some(&caller.op_id),
        arguments: arguments.as_deref(),
        scheduled_tick: None,
    };
    let Started::Accepted(id) = store::executions::insert(&mut tx, &new, now).await? else {
        drop(tx);
        let active = store::executions::active_of(&mut db.read().await?, job.id).await?;
        return Err(already_active(&job.name, active.as_ref()));
    };
    let mut event = event("execution.start", &job, None);
    event.detail = Some(id.to_string());
    store::audit::record(&mut tx, caller, &event, now).await?;
    idempotency::keep(&mut tx, caller, &id).await?;
    tx.commit().await?;
    db.notifications().executions.notify_one();
    Ok(id)
}

/// Reads an execution of a job.
pub async fn read(db: &Db, caller: &Caller, team: &str, name: &str, id: &str) -> Result<Execution, Problem> {
    let permit = caller.may(Action::ReadExecution, team, name).await?;
    let mut tx = db.read().await?;
    find(&mut tx, &permit, id).await
}

async fn find(tx: &mut Tx, permit: &Permit<'_>, id: &str) -> Result<Execution, Problem> {
    let job = find_job(tx, permit).await?;
    find_of(tx, &job, id).await
}

async fn find_of(tx: &mut Tx, job: &DataJob, id: &str) -> Result<Execution, Problem> {
    let found = match ExecutionId::parse(id) {
        Some(id) => store::executions::find(tx, &id).await?,
        None => None,
    };
    found.filter(|e| e.job_id == job.id).ok_or_else(|| {
        Problem::new(
            Code::ExecutionNotFound,
            format!("The execution {} of the data job {} was not found.", excerpt(id), job.name),
            "The job has no execution with this id, or retention removed it (`executions.keep_days`).",
        )
        .nothing_returned()
        .fix(format!("List the executions: `vdk execute --list -n {} -t <team>`.", job.name))
    })
}

/// The newest executions of a job in these statuses (none means any), at most [`LIST_MAX`], the newest last, because
/// `vdk-dag` uses the last one as the latest.
pub async fn list(
    db: &Db,
    caller: &Caller,
    team: &str,
    name: &str,
    deployment_id: Option<&str>,
    statuses: &[Status],
) -> Result<Vec<Execution>, Problem> {
    let permit = caller.may(Action::ListExecutions, team, name).await?;
    let query = ExecutionQuery {
        job_names: vec![name.to_owned()],
        statuses: statuses.to_vec(),
        sort: ExecutionSort::StartTime,
        descending: true,
        limit: LIST_MAX,
        detail: Detail::Revision,
        ..ExecutionQuery::default()
    };
    let of_job = if permit.of_team_of().is_some() {
        // The permission depends on another job.
        let mut tx = db.read().await?;
        find_job(&mut tx, &permit).await?;
        store::executions::page_of_job(&mut tx, &query).await?
    } else if JobName::parse(name).is_ok() {
        let mut read = db.read_once();
        loop {
            let of_job = store::executions::page_of_job(&mut read.begin().await?, &query).await;
            if !read.is_again(&of_job) {
                break of_job?;
            }
        }
    } else {
        None
    };
    let of_job = of_job.filter(|of_job| of_job.team.as_str() == team).ok_or_else(|| unknown_job(team, name));
    let mut of_job =
        if permit.of_team_of().is_some() { of_job } else { admit(&permit, of_job, |of_job| of_job.job_id) }?;
    if let Some(id) = deployment_id {
        deployments::check_id(&of_job.job_name, id)?;
    }
    of_job.executions.reverse();
    Ok(of_job.executions)
}

/// Cancels an execution. Its status becomes CANCELLED when no process of it is left; an execution that ends first keeps its
/// own status.
///
/// # Errors
/// NotFound for an unknown run; Invalid when it is over already.
pub async fn cancel(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    team: &str,
    name: &str,
    id: &str,
) -> Result<(), Problem> {
    let permit = caller.may(Action::Change, team, name).await?;
    let now = clock.now();
    let mut tx = db.write().await?;
    let job = find_job(&mut tx, &permit).await?;
    let execution = find_of(&mut tx, &job, id).await?;
    if !store::executions::request_cancel(&mut tx, &execution.id, now).await? {
        return Err(Problem::new(
            Code::ExecutionAlreadyEnded,
            format!("The execution {} was not cancelled.", execution.id),
            format!("It has ended: {}.", execution.status.as_str().to_lowercase()),
        )
        .nothing_changed()
        .no_action(format!("`vdk execute --show -n {} -t <team> -i {}` shows the result.", job.name, execution.id)));
    }
    let mut event = event("execution.cancel", &job, None);
    event.detail = Some(execution.id.to_string());
    store::audit::record(&mut tx, caller, &event, now).await?;
    tx.commit().await?;
    db.notifications().executions.notify_one();
    Ok(())
}

/// Whether executions are on another host than this instance, which then serves requests and never leads.
pub async fn are_elsewhere(db: &Db, runtime: &dyn Runtime) -> Result<bool, Problem> {
    let Some(here) = runtime.host() else { return Ok(false) };
    let mut tx = db.read().await?;
    Ok(store::hosts::find(&mut tx).await?.is_some_and(|host| host.id != here))
}

/// The log of an execution, or its last lines: from the database after its end, from the runtime before.
///
/// # Errors
/// NotFound for an unknown execution; Conflict while it is in progress on another machine; Overloaded while too many logs
/// of running executions are read.
pub async fn log(
    db: &Db,
    runtime: &dyn Runtime,
    live: &LiveLogs,
    caller: &Caller,
    principal: Option<&str>,
    (team, name, id): (&str, &str, &str),
    tail_lines: Option<usize>,
) -> Result<LogReader, Problem> {
    let permit = caller.may(Action::Read, team, name).await?;
    let mut tx = db.read().await?;
    let execution = find(&mut tx, &permit, id).await?;
    drop(tx);
    if let Some(stored) = LogReader::stored(db, &execution.id, tail_lines).await? {
        return Ok(stored);
    }
    // An execution that was not dispatched yet has no log.
    if execution.status.is_final() || execution.revision.is_none() {
        return Ok(LogReader::empty());
    }
    let part = tail_lines.map_or(LogPart::Whole, LogPart::LastLines);
    if let Some(live) = live.read(principal, tail_lines, runtime.log(&execution.id, part)).await? {
        return Ok(live);
    }
    if are_elsewhere(db, runtime).await? {
        return Err(Problem::new(
            Code::ExecutionLogOnAnotherHost,
            format!("The log of the execution {} can't be read here yet.", execution.id),
            "The execution is active on another host.",
        )
        .follows("The log follows when the execution ends.")
        .fix("Wait for its end, or ask an instance on the host that runs jobs."));
    }
    // It ended, was stored and removed between the two reads.
    Ok(LogReader::stored(db, &execution.id, tail_lines).await?.unwrap_or_else(LogReader::empty))
}
