//! Operations of the public API that this version does not have.

use model::Problem;

use crate::error::Failure;

fn not_offered(operation: &str, fix: &str) -> Failure {
    Problem::not_found(
        format!("The operation {operation} was not carried out."),
        "This version of the service does not offer it.",
    )
    .fix(fix)
    .into()
}

/// The credentials of a team.
pub(crate) async fn oauth_credentials_get() -> Failure {
    not_offered("oauthCredentialsGet", "Nothing needs them as long as authentication is off.")
}

/// Sets the credentials of a team.
pub(crate) async fn oauth_credentials_put() -> Failure {
    not_offered("oauthCredentialsPut", "Nothing needs them as long as authentication is off.")
}

/// The client id of a team.
pub(crate) async fn client_id_get() -> Failure {
    not_offered("clientIdGet", "Nothing needs it as long as authentication is off.")
}

/// The teams of client ids.
pub(crate) async fn get_team_ids_for_client_ids() -> Failure {
    not_offered("getTeamIdsForClientIds", "Nothing needs them as long as authentication is off.")
}
