//! Reads and replaces the secrets of a job.

use model::{
    Problem,
    access::{Action, Caller},
    clock::Clock,
    name::excerpt,
    problem::Code,
};
use secrecy::{ExposeSecret, SecretString};
use store::{Db, keys::KeyRing};

use crate::{JsonObject, find_job, jobs::event, json_text};

/// The largest secrets of a job, in bytes of JSON.
pub const SECRETS_MAX_BYTES: usize = 1024 * 1024;

/// The secrets of a job. An unknown job has none, as with properties.
pub async fn read(db: &Db, keys: &KeyRing, caller: &Caller, team: &str, name: &str) -> Result<JsonObject, Problem> {
    let permit = caller.may(Action::ReadOwn, team, name).await?;
    let mut tx = db.read().await?;
    let job = match find_job(&mut tx, &permit).await {
        Ok(job) => job,
        Err(problem) if problem.kind == model::problem::Kind::NotFound => return Ok(JsonObject::new()),
        Err(problem) => return Err(problem),
    };
    match store::secrets::find(&mut tx, keys, job.id).await? {
        Some(text) => serde_json::from_str(text.expose_secret()).map_err(|_| {
            Problem::new(
                Code::SecretsUnreadable,
                format!("The secrets of the data job {} were not read.", excerpt(name)),
                "Their stored form is damaged.",
            )
            .nothing_returned()
            .fix("Write them again (`vdk secrets --overwrite-all-job-secrets <file>`), or restore a backup of the database.")
        }),
        None => Ok(JsonObject::new()),
    }
}

/// Replaces the secrets of a job. They are encrypted before they reach the database.
///
/// # Errors
/// NotFound for an unknown job, TooLarge above [`SECRETS_MAX_BYTES`].
pub async fn replace(
    db: &Db,
    keys: &KeyRing,
    clock: &dyn Clock,
    caller: &Caller,
    team: &str,
    name: &str,
    secrets: &JsonObject,
) -> Result<(), Problem> {
    let permit = caller.may(Action::ChangeOwn, team, name).await?;
    let content = SecretString::from(json_text(secrets));
    let bytes = content.expose_secret().len();
    if bytes > SECRETS_MAX_BYTES {
        return Err(Problem::new(
            Code::SecretsTooLarge,
            format!("The secrets of the data job {} were not stored.", excerpt(name)),
            format!("They have {bytes} bytes (limit {SECRETS_MAX_BYTES})."),
        )
        .nothing_changed()
        .fix("Keep large files elsewhere, and only their passwords in the secrets."));
    }
    let now = clock.now();
    let mut tx = db.write().await?;
    let job = find_job(&mut tx, &permit).await?;
    store::secrets::replace(&mut tx, keys, job.id, &content, &caller.user, now).await?;
    store::audit::record(&mut tx, caller, &event("secrets.replace", &job, None), now).await?;
    tx.commit().await?;
    Ok(())
}
