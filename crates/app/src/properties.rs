//! Reads and replaces the properties of a job.

use model::{
    Problem,
    access::{Action, Caller},
    clock::Clock,
    name::excerpt,
    problem::Code,
};
use store::Db;

use crate::{JsonObject, find_job, jobs::event, json_text};

/// The largest properties of a job, in bytes of JSON.
pub const PROPERTIES_MAX_BYTES: usize = 1024 * 1024;

/// The properties of a job. An unknown job has none, so that `vdk run` works before `vdk create`.
pub async fn read(db: &Db, caller: &Caller, team: &str, name: &str) -> Result<JsonObject, Problem> {
    let permit = caller.may(Action::ReadOwn, team, name).await?;
    let mut tx = db.read().await?;
    let job = match find_job(&mut tx, &permit).await {
        Ok(job) => job,
        Err(problem) if problem.kind == model::problem::Kind::NotFound => return Ok(JsonObject::new()),
        Err(problem) => return Err(problem),
    };
    match store::properties::find(&mut tx, job.id).await? {
        Some(text) => serde_json::from_str(&text).map_err(|_| {
            Problem::new(
                Code::PropertiesUnreadable,
                format!("The properties of the data job {} were not read.", excerpt(name)),
                "Their stored form is damaged.",
            )
            .nothing_returned()
            .fix("Write them again (`vdk properties --overwrite-all-job-properties <file>`), or restore a backup of the database.")
        }),
        None => Ok(JsonObject::new()),
    }
}

/// Replaces the properties of a job.
///
/// # Errors
/// NotFound for an unknown job, TooLarge above [`PROPERTIES_MAX_BYTES`].
pub async fn replace(
    db: &Db,
    clock: &dyn Clock,
    caller: &Caller,
    team: &str,
    name: &str,
    properties: &JsonObject,
) -> Result<(), Problem> {
    let permit = caller.may(Action::ChangeOwn, team, name).await?;
    let content = json_text(properties);
    if content.len() > PROPERTIES_MAX_BYTES {
        return Err(Problem::new(
            Code::PropertiesTooLarge,
            format!("The properties of the data job {} were not stored.", excerpt(name)),
            format!("They have {} bytes (limit {PROPERTIES_MAX_BYTES}).", content.len()),
        )
        .nothing_changed()
        .fix("Keep large state in a table or a file, and only a reference to it in the properties."));
    }
    let now = clock.now();
    let mut tx = db.write().await?;
    let job = find_job(&mut tx, &permit).await?;
    store::properties::replace(&mut tx, job.id, &content, &caller.user, now).await?;
    store::audit::record(&mut tx, caller, &event("properties.replace", &job, None), now).await?;
    tx.commit().await?;
    Ok(())
}
