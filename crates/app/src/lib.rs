//! Operations on request: each public function is one operation of the API.
//!
//! An operation takes the caller and its dependencies, validates the input, and writes the change, the revision and the audit
//! event in one transaction. It never calls the runtime: a start, a cancellation and a deployment are rows, and the
//! synchronizer carries them out. Only the log of an active execution is read from the runtime.

pub mod credentials;
pub mod deployments;
pub mod executions;
pub mod history;
mod idempotency;
pub mod jobs;
pub mod logs;
pub mod memory;
pub mod places;
pub mod properties;
pub mod queries;
pub mod scratch;
pub mod secrets;
pub mod sources;
pub mod tokens;

use model::{
    Problem,
    access::Permit,
    job::DataJob,
    name::{JobId, JobName, TeamName, excerpt},
    problem::{Code, Kind},
};
use store::Tx;

/// A JSON object that keeps the text of its values, so that large numbers are returned digit by digit.
pub type JsonObject = std::collections::BTreeMap<String, Box<serde_json::value::RawValue>>;

/// The object as JSON text.
pub(crate) fn json_text(object: &JsonObject) -> String {
    serde_json::to_string(object).expect("keys are strings and values are JSON already")
}

pub use store::{
    Db,
    builds::Awaited,
    deployments::Reached,
    keys::{KeyRing, SecretKey},
};

/// The job that a permit is for, within a transaction. A writing transaction locks the job until its end; an
/// operation locks it first.
///
/// # Errors
/// [`model::problem::Kind::NotFound`] when there is none, also when the name belongs to a job of another team.
pub(crate) async fn find_job(tx: &mut Tx, permit: &Permit<'_>) -> Result<DataJob, Problem> {
    let found = find_by_name(tx, permit.team(), permit.name()).await;
    if let Some(own) = permit.of_team_of()
        && store::jobs::team_of(tx, own).await?.is_some_and(|team| team.as_str() == permit.team())
    {
        return found;
    }
    admit(permit, found, |job| job.id)
}

/// The job that was found under the name of a permit, if the permit covers it.
pub(crate) fn admit<T>(
    permit: &Permit<'_>,
    found: Result<T, Problem>,
    id: impl FnOnce(&T) -> JobId,
) -> Result<T, Problem> {
    match &found {
        Ok(job) => permit.covers(Some(id(job)))?,
        Err(problem) if problem.kind == Kind::NotFound => permit.covers(None)?,
        Err(_) => {}
    }
    found
}

/// The problem of a job that a team does not have.
pub(crate) fn unknown_job(team: &str, name: &str) -> Problem {
    Problem::new(
        Code::JobNotFound,
        format!("The data job {} was not found in the team {}.", excerpt(name), excerpt(team)),
        "Jobs of other teams are not searched.",
    )
    .follows("The request has no result.")
    .fix("List the jobs of a team with `vdk list -t <team>`, or create the job.")
}

async fn find_by_name(tx: &mut Tx, team: &str, name: &str) -> Result<DataJob, Problem> {
    let unknown = || unknown_job(team, name);
    let (Ok(known_name), Ok(known_team)) = (JobName::parse(name), TeamName::parse(team)) else { return Err(unknown()) };
    let job = store::jobs::find_for_update(tx, &known_name).await?;
    job.filter(|job| job.team == known_team).ok_or_else(unknown)
}
