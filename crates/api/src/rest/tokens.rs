//! The endpoint where a running job exchanges its credential for a short-lived token (OAuth, RFC 6749, section 6).

use std::sync::Arc;

use app::tokens::Exchanged;
use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use model::{
    Problem,
    problem::{Code, Kind},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Api,
    auth::note_failed_login,
    error::{ApiError, ApiResult},
    input::whole_body,
};

/// The largest request for a token.
const FORM_MAX_BYTES: usize = 8 * 1024;

/// A request for a token, with OAuth's field names.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the form is read part by part")]
pub(crate) struct TokenRequest {
    /// Always `refresh_token`.
    #[schema(example = "refresh_token")]
    grant_type: String,
    /// The credential that an execution has in `VDK_API_TOKEN`.
    #[schema(example = "hfc1.0123456789abcdef.00")]
    refresh_token: String,
}

/// A token, with OAuth's field names.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenResponse {
    /// The token to send in the header Authorization.
    access_token: String,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// The number of seconds until the token expires.
    #[schema(example = 900)]
    expires_in: i64,
}

/// Exchanges the credential of a deployed job for a short-lived token.
///
/// The client in a running job calls this automatically. The token is valid for the properties, the secrets and the list of
/// executions of that job alone.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs Service",
    security(()),
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A token.", body = TokenResponse),
        (status = 400, description = "The credential is not valid. `error` has OAuth's code."),
        (status = 404, description = "Authentication is off."),
    )
)]
pub(crate) async fn token_issue(State(api): State<Arc<Api>>, request: Request) -> ApiResult<Json<TokenResponse>> {
    if api.auth.is_none() {
        return Err(Problem::new(Code::AuthenticationDisabled, "No token was issued.", "Authentication is off.")
            .nothing_changed()
            .fix("Send requests without a token.")
            .into());
    }
    let body = whole_body(&api.memory, request, FORM_MAX_BYTES).await?;
    let part = |name: &str| form_urlencoded::parse(&body).find(|(n, _)| n == name).map(|(_, value)| value);
    if part("grant_type").as_deref() != Some("refresh_token") {
        let problem = Problem::new(
            Code::GrantTypeUnsupported,
            "No token was issued.",
            "This endpoint is for running jobs and accepts only grant_type=refresh_token.",
        )
        .nothing_changed()
        .fix("Log in at your organization's token endpoint.");
        return Err(ApiError::from(problem).with("error", "unsupported_grant_type".into()));
    }
    let credential = part("refresh_token").unwrap_or_default();
    match app::tokens::exchange(&api.db, &api.keys, &*api.clock, &credential).await {
        Ok(Exchanged { token, job_name }) => {
            tracing::info!(job = %job_name, "a token of a job was issued");
            Ok(Json(TokenResponse {
                access_token: token.expose_secret().to_owned(),
                token_type: "Bearer",
                expires_in: app::tokens::TOKEN_SECONDS,
            }))
        }
        // OAuth has 400 for a grant that does not count.
        Err(problem) if problem.kind == Kind::Unauthenticated => {
            note_failed_login(&api, &problem);
            Err(ApiError::refused(StatusCode::BAD_REQUEST, problem).with("error", "invalid_grant".into()))
        }
        Err(problem) => Err(problem.into()),
    }
}
