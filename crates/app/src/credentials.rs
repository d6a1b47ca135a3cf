//! Reads and replaces the OAuth application of a team, and finds the teams of applications.
//!
//! A team is a name here: it has credentials as soon as they are stored, with or without jobs.

use std::collections::BTreeSet;

use model::{
    Problem,
    access::{Action, Caller},
    clock::Clock,
    name::{TeamName, excerpt},
    problem::Code,
};
use store::Db;

use crate::KeyRing;
pub use store::credentials::Credentials;

/// The longest client id and the longest client secret, in bytes.
pub const PART_MAX_BYTES: usize = 10_000;

/// The most client ids per request.
pub const CLIENT_IDS_MAX: usize = 1000;

/// The application of a team, with its secret.
///
/// # Errors
/// NotFound when nothing is stored for the team.
pub async fn read(db: &Db, keys: &KeyRing, caller: &Caller, team: &str) -> Result<Credentials, Problem> {
    caller.may_with_team(Action::ReadCredentials, team).await?;
    let Ok(team) = TeamName::parse(team) else { return Err(unknown(team)) };
    let found = store::credentials::find(&mut db.read().await?, keys, &team).await?;
    found.ok_or_else(|| unknown(team.as_str()))
}

/// Stores or replaces the application of a team. Its secret is encrypted before it reaches the database.
///
/// # Errors
/// Invalid when the team, the client id or the secret breaks a rule, Conflict when another team has the client id.
pub async fn replace(
    db: &Db,
    keys: &KeyRing,
    clock: &dyn Clock,
    caller: &Caller,
    team: &str,
    credentials: &Credentials,
) -> Result<(), Problem> {
    caller.may_with_team(Action::ChangeCredentials, team).await?;
    let team = TeamName::parse(team)?;
    let parts = [("clientId", &*credentials.client_id), ("clientSecret", credentials.expose_client_secret())];
    for (name, text) in parts {
        let why = if text.trim().is_empty() {
            format!("{name}: it is blank.")
        } else if text.len() > PART_MAX_BYTES {
            format!("{name}: it has more than {PART_MAX_BYTES} bytes.")
        } else if text.chars().any(char::is_control) {
            format!("{name}: it has a control character.")
        } else {
            continue;
        };
        return Err(Problem::new(
            Code::OauthCredentialsInvalid,
            format!("The credentials of the team {} were not stored.", excerpt(team.as_str())),
            why,
        )
        .nothing_changed()
        .fix("Send clientId and clientSecret as the authorization server issued them."));
    }
    let now = clock.now();
    let mut tx = db.write().await?;
    if !store::credentials::replace(&mut tx, keys, &team, credentials, &caller.user, now).await? {
        return Err(Problem::new(
            Code::OauthClientTaken,
            format!("The credentials of the team {} were not stored.", excerpt(team.as_str())),
            format!("Another team has the OAuth application with the client id {}.", excerpt(&credentials.client_id)),
        )
        .nothing_changed()
        .fix("Use one OAuth application per team, or change the other team's credentials first."));
    }
    store::team_secrets::claim(&mut tx, &team, now).await?;
    store::audit::record_of_team(&mut tx, caller, "team.credentials", &team, now).await?;
    tx.commit().await?;
    Ok(())
}

/// The client id of a team.
///
/// # Errors
/// NotFound when nothing is stored for the team.
pub async fn client_id(db: &Db, caller: &Caller, team: &str) -> Result<String, Problem> {
    caller.may_with_team(Action::FindTeam, team).await?;
    let Ok(team) = TeamName::parse(team) else { return Err(unknown(team)) };
    let found = store::credentials::client_id(&mut db.read().await?, &team).await?;
    found.ok_or_else(|| unknown(team.as_str()))
}

/// The teams of client ids, in the order of the request; those without a team are left out. Open to everyone, as
/// [`client_id`] is.
///
/// # Errors
/// Invalid for more than [`CLIENT_IDS_MAX`] at once.
pub async fn teams(db: &Db, _caller: &Caller, client_ids: &[String]) -> Result<Vec<(String, TeamName)>, Problem> {
    if client_ids.len() > CLIENT_IDS_MAX {
        return Err(Problem::new(
            Code::OauthClientsTooMany,
            "The teams were not looked up.",
            format!("The request has {} client ids (limit {CLIENT_IDS_MAX}).", client_ids.len()),
        )
        .nothing_returned()
        .fix("Split the client ids into several requests."));
    }
    let mut found = store::credentials::teams(&mut db.read().await?, client_ids).await?;
    found.sort_by_key(|(id, _)| client_ids.iter().position(|asked| asked == id));
    Ok(found)
}

/// The teams whose OAuth application has this client id: the teams of its tokens.
pub async fn teams_of(db: &Db, client_id: &str) -> Result<BTreeSet<String>, Problem> {
    if client_id.is_empty() || client_id.len() > PART_MAX_BYTES {
        return Ok(BTreeSet::new());
    }
    let found = store::credentials::teams(&mut db.read().await?, &[client_id.to_owned()]).await?;
    Ok(found.into_iter().map(|(_, team)| team.to_string()).collect())
}

fn unknown(team: &str) -> Problem {
    Problem::new(
        Code::OauthCredentialsNotFound,
        format!("The OAuth credentials of the team {} were not found.", excerpt(team)),
        "None are stored for a team of this name.",
    )
    .nothing_returned()
    .fix("Check the name of the team, or store its credentials first.")
}
