//! The OAuth application of a team.

use std::sync::Arc;

use app::credentials::Credentials;
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};

use crate::{
    Api,
    caller::By,
    error::Answer,
    input::{JsonBody, Path},
};

/// What a team stores. It has no `Debug`: it holds a secret.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object", rename_all = "camelCase")]
pub(crate) struct OauthCredentials {
    client_id: String,
    client_secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OauthTeamCredentials {
    team_name: String,
    client_id: String,
    client_secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OauthTeamClientId {
    team_name: String,
    client_id: String,
}

/// The application of a team, with its secret.
pub(crate) async fn oauth_credentials_get(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path(team): Path<String>,
) -> Answer<Json<OauthTeamCredentials>> {
    let found = app::credentials::read(&api.db, &api.keys, &caller, &team).await?;
    let client_secret = found.told().to_owned();
    Ok(Json(OauthTeamCredentials { team_name: team, client_id: found.client_id, client_secret }))
}

/// Stores the application of a team: 202 without a body.
pub(crate) async fn oauth_credentials_put(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path(team): Path<String>,
    JsonBody(body): JsonBody<OauthCredentials>,
) -> Answer<StatusCode> {
    let credentials = Credentials { client_id: body.client_id, client_secret: body.client_secret.into() };
    app::credentials::replace(&api.db, &api.keys, &*api.clock, &caller, &team, &credentials).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The client id of a team.
pub(crate) async fn client_id_get(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path(team): Path<String>,
) -> Answer<Json<OauthTeamClientId>> {
    let client_id = app::credentials::client_id(&api.db, &caller, &team).await?;
    Ok(Json(OauthTeamClientId { team_name: team, client_id }))
}

/// The teams of client ids; ids that belong to no team are left out.
pub(crate) async fn get_team_ids_for_client_ids(
    State(api): State<Arc<Api>>,
    By(caller): By,
    JsonBody(client_ids): JsonBody<Vec<String>>,
) -> Answer<Json<Vec<OauthTeamClientId>>> {
    let found = app::credentials::teams(&api.db, &caller, &client_ids).await?;
    let teams = found.into_iter().map(|(client_id, team)| OauthTeamClientId { team_name: team.to_string(), client_id });
    Ok(Json(teams.collect()))
}
