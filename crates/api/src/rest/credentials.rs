//! The OAuth application of a team.

use std::sync::Arc;

use app::credentials::Credentials;
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Api,
    caller::RequestCaller,
    error::ApiResult,
    input::{JsonBody, JsonList, Path},
};

/// The application that a team stores. The type has no `Debug`, because it contains a secret.
#[derive(Deserialize, ToSchema)]
#[serde(expecting = "a JSON object", rename_all = "camelCase")]
pub(crate) struct OauthCredentials {
    /// The id of the application at its issuer: not blank, without control characters.
    #[schema(
        min_length = 1,
        max_length = 10000,
        example = "my-team-jobs",
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    client_id: String,
    /// The secret of the application: not blank, without control characters.
    #[schema(
        min_length = 1,
        max_length = 10000,
        example = "wJalrXUtnFEMI",
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    client_secret: String,
}

/// Ids of applications.
#[derive(ToSchema)]
#[schema(max_items = 1000)]
#[expect(dead_code, reason = "for the document")]
struct ClientIds(Vec<ClientId>);

/// The id of an application.
#[derive(ToSchema)]
#[schema(pattern = r"^[^\u0000]*$", example = "my-team-jobs")]
#[expect(dead_code, reason = "for the document")]
struct ClientId(String);

/// The application of a team, with its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OauthTeamCredentials {
    /// The team.
    #[schema(example = "my-team")]
    team_name: String,
    /// The id of the application.
    #[schema(example = "my-team-jobs")]
    client_id: String,
    /// The secret of the application.
    #[schema(example = "wJalrXUtnFEMI")]
    client_secret: String,
}

/// The application of a team.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OauthTeamClientId {
    /// The team.
    #[schema(example = "my-team")]
    team_name: String,
    /// The id of the team's application.
    #[schema(example = "my-team-jobs")]
    client_id: String,
}

/// Reads the OAuth application of a team, with its secret.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Secrets",
    responses(
        (status = 200, description = "The application.", body = OauthTeamCredentials),
        (status = 404, description = "Nothing is stored for a team of this name."),
    )
)]
pub(crate) async fn oauth_credentials_get(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path(team): Path<String>,
) -> ApiResult<Json<OauthTeamCredentials>> {
    let found = app::credentials::read(&api.db, &api.keys, &caller, &team).await?;
    tracing::info!(user = caller.user, team, "the OAuth application of a team was read with its secret");
    let client_secret = found.expose_client_secret().to_owned();
    Ok(Json(OauthTeamCredentials { team_name: team, client_id: found.client_id, client_secret }))
}

/// Stores the OAuth application of a team.
///
/// The application replaces the previous one. The team needs no jobs. The secret is encrypted before it is stored.
#[utoipa::path(
    put,
    path = "",
    tag = "Data Jobs Secrets",
    params((
        "team_name" = String, Path, min_length = 1, max_length = 100, example = "my-team",
        pattern = r"^[^\s\u0000-\u001f\u007f-\u009f/\\]([^\u0000-\u001f\u007f-\u009f/\\]{0,98}[^\s\u0000-\u001f\u007f-\u009f/\\])?$",
        description = "The team: 1 to 100 characters without slashes and control characters, no white space at its ends.",
    )),
    request_body = OauthCredentials,
    responses(
        (status = 202, description = "The application was stored."),
        (status = 409, description = "Another team has an application with this client id."),
    )
)]
pub(crate) async fn oauth_credentials_put(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path(team): Path<String>,
    JsonBody(body): JsonBody<OauthCredentials>,
) -> ApiResult<StatusCode> {
    let credentials = Credentials { client_id: body.client_id, client_secret: body.client_secret.into() };
    app::credentials::replace(&api.db, &api.keys, &*api.clock, &caller, &team, &credentials).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Reads the id of a team's OAuth application.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Secrets",
    responses(
        (status = 200, description = "The id.", body = OauthTeamClientId),
        (status = 404, description = "Nothing is stored for a team of this name."),
    )
)]
pub(crate) async fn client_id_get(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path(team): Path<String>,
) -> ApiResult<Json<OauthTeamClientId>> {
    let client_id = app::credentials::client_id(&api.db, &caller, &team).await?;
    Ok(Json(OauthTeamClientId { team_name: team, client_id }))
}

/// Finds the teams of OAuth applications.
///
/// The result has the order of the request. Ids that belong to no team are omitted.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs Secrets",
    request_body(
        content = inline(ClientIds), description = "Ids of applications, at most 1000.", example = json!(["my-team-jobs"]),
    ),
    responses((status = 200, description = "The ids that belong to a team, each with its team.", body = Vec<OauthTeamClientId>))
)]
pub(crate) async fn get_team_ids_for_client_ids(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    JsonList(client_ids): JsonList<String>,
) -> ApiResult<Json<Vec<OauthTeamClientId>>> {
    let found = app::credentials::teams(&api.db, &caller, &client_ids).await?;
    let teams = found.into_iter().map(|(client_id, team)| OauthTeamClientId { team_name: team.to_string(), client_id });
    Ok(Json(teams.collect()))
}
