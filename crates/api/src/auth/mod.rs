//! Authentication: a bearer token becomes a caller, and every verb checks the caller's permission by the rule in `model::access`.
//! Authentication is off unless the operator configures an issuer of tokens.

mod bearer;
mod claims;
mod webhook;

use std::sync::Arc;

pub use crate::paths::TOKEN_PATH;
use app::tokens::is_token_of_a_job;
use auth::{Authorizer, KeySets};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
pub use claims::ClaimRules;
pub use jsonwebtoken::Algorithm;
use model::{
    Problem,
    access::{Caller, Identity, unknown_caller},
    problem::{Code, Kind},
};

use crate::{Api, access_log::KnownUser, error::ApiError, seldom::Seldom};

/// The prefix of a job's name as a caller.
const JOB_PREFIX: &str = "job:";

/// The prefix of an application's name as a caller.
const APPLICATION_PREFIX: &str = "application:";

/// The longest token.
const TOKEN_MAX_BYTES: usize = 16 * 1024;

/// Routes that need no token, beside the probes: their content is public, or they check a credential of their own. Upstream has the
/// same open routes.
const OPEN: [(Method, &str); 5] = [
    (Method::GET, "/"),
    (Method::GET, "/data-jobs/graphql"),
    (Method::GET, "/data-jobs/teams/{team_name}/oauth-credentials/client-id"),
    (Method::POST, "/data-jobs/oauth-credentials/client-ids"),
    (Method::POST, TOKEN_PATH),
];

/// Routes below these addresses are open too.
const OPEN_BELOW: [&str; 7] = [
    "/data-jobs/debug/",
    "/data-jobs/api-docs",
    "/data-jobs/swagger-ui",
    "/ui",
    "/get-started",
    "/explore/data-jobs",
    "/manage/data-jobs",
];

/// The signatures that can be asked for: all by a key pair. A shared secret would let who may check a token make one.
pub const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// How callers are known.
#[derive(Debug)]
pub struct Authentication {
    /// Whose tokens count.
    pub issuers: Vec<String>,
    /// Of whom a token has to be for one; empty when it does not matter.
    pub audiences: Vec<String>,
    /// How a token may be signed; what is not in [`ALGORITHMS`] never counts.
    pub algorithms: Vec<Algorithm>,
    /// How far clocks may differ, in seconds.
    pub leeway_seconds: i64,
    /// The meaning of the claims.
    pub claims: ClaimRules,
    /// The keys of the issuers.
    pub keys: Arc<dyn KeySets>,
    /// The operator's authorization service, beside the rule.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// Whether only one team may have jobs here.
    pub one_team: bool,
    /// Whether a job's own token is good for starting executions of its team's jobs.
    pub jobs_may_start_jobs: bool,
}

/// Finds out who calls. Every request comes in as unauthenticated, and this alone raises it. A request for an open route
/// passes as it is; any other one needs a valid token.
pub(crate) async fn authenticate(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else { return next.run(request).await };
    let Some(auth) = &api.auth else {
        request.extensions_mut().insert(Caller { identity: Identity::AuthDisabled, ..caller });
        return next.run(request).await;
    };
    if is_open(&request) {
        return next.run(request).await;
    }
    let token = match token(&request) {
        Ok(token) => token.to_owned(),
        Err(problem) => {
            if request.headers().contains_key(header::AUTHORIZATION) {
                note_failed_login(&api, &problem);
            }
            return with_challenge(ApiError::from(problem).into_response(), false);
        }
    };
    let Known { user, principal, identity } = match known(&api, auth, &token).await {
        Ok(known) => known,
        Err(problem) => {
            note_failed_login(&api, &problem);
            return with_challenge(ApiError::from(problem).into_response(), true);
        }
    };
    tracing::debug!(user, "the caller is known");
    let authorizer = auth.authorizer.as_ref().map(|authorizer| {
        let (path, method) = (request.uri().path().to_owned(), request.method().as_str().to_owned());
        Arc::new(webhook::WebhookAuthorizer::new(Arc::clone(authorizer), path, method, token))
    });
    let asked = authorizer.clone().map(|authorizer| -> Arc<dyn model::access::RequestAuthorizer> { authorizer });
    let may_change = !matches!(*request.method(), Method::GET | Method::HEAD);
    let asked_for = may_change.then(|| (user.clone(), request.uri().path().to_owned()));
    let refused_by_gate = authorizer.clone();
    let known_user = api.access_log.then(|| KnownUser(user.clone()));
    request.extensions_mut().insert(Caller {
        user,
        principal,
        identity,
        authorizer: asked,
        one_team: auth.one_team,
        ..caller
    });
    let mut response = next.run(request).await;
    if let Some(known_user) = known_user {
        response.extensions_mut().insert(known_user);
    }
    let refusal = refused_by_gate.and_then(|authorizer| authorizer.refused_with());
    if let Some(status) = refusal {
        *response.status_mut() = status;
    }
    if let Some((user, path)) = asked_for
        && (refusal.is_some() || response.status() == StatusCode::FORBIDDEN)
        && let Some(left_out) = REFUSED_CHANGES.admits(api.clock.now())
    {
        tracing::info!(user, path, status = response.status().as_u16(), left_out, "a change was refused to its caller");
    }
    response
}

/// Refusals that are written to the log.
static REFUSED_CHANGES: Seldom = Seldom::new();

/// Failed logins that are written to the log.
static FAILED_LOGINS: Seldom = Seldom::new();

/// Logs that a token was refused, and why; the reason has nothing of the token but the issuer's and its key's name.
pub(crate) fn note_failed_login(api: &Api, problem: &Problem) {
    if is_about_the_caller(problem)
        && let Some(left_out) = FAILED_LOGINS.admits(api.clock.now())
    {
        tracing::warn!(why = problem.why, left_out, "a token was refused");
    }
}

pub(crate) fn is_open(request: &Request) -> bool {
    let Some(path) = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) else { return false };
    let method = match *request.method() {
        Method::HEAD => &Method::GET,
        ref method => method,
    };
    OPEN.iter().any(|(open, route)| open == method && *route == path)
        || OPEN_BELOW.iter().any(|base| path.starts_with(base))
}

/// The token in the header; there may be one only.
fn token(request: &Request) -> Result<&str, Problem> {
    let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
    let (first, second) = (given.next(), given.next());
    let Some(value) = first else { return Err(unknown_caller(Code::AccessTokenMissing, "It has no access token.")) };
    let text = value.to_str().ok().filter(|_| second.is_none());
    let parts = text.and_then(|text| text.split_once(' '));
    match parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim()) {
        Some(token) if token.len() > TOKEN_MAX_BYTES => Err(unknown_caller(
            Code::AccessTokenInvalid,
            format!("Its access token has more than {TOKEN_MAX_BYTES} bytes."),
        )),
        Some(token) if !token.is_empty() => Ok(token),
        _ => Err(unknown_caller(Code::AccessTokenInvalid, "Its header Authorization does not hold one bearer token.")),
    }
}

/// A caller who is known by a token.
struct Known {
    user: String,
    principal: String,
    identity: Identity,
}

/// The caller of a token.
async fn known(api: &Api, auth: &Authentication, token: &str) -> Result<Known, Problem> {
    if is_token_of_a_job(token) {
        let job = app::tokens::read(&api.keys, &*api.clock, token)?;
        return Ok(Known {
            user: format!("{JOB_PREFIX}{}", job.job_name),
            principal: format!("{JOB_PREFIX}{}", job.job_id),
            identity: Identity::Job { id: job.job_id, starts_jobs: auth.jobs_may_start_jobs },
        });
    }
    let (issuer, claims) = bearer::verified(auth, token, api.clock.now()).await?;
    auth.claims.check(&claims)?;
    if let Some(user) = auth.claims.user(&claims)? {
        let identity = Identity::User { teams: auth.claims.teams(&claims) };
        return Ok(Known { principal: of_issuer(issuer, &user), user: auth.shown_name(issuer, user), identity });
    }
    let Some(client_id) = claims::client_id(&claims) else { return Err(auth.claims.nobody()) };
    let teams = app::credentials::teams_of(&api.db, client_id).await?;
    if teams.is_empty() {
        return Err(auth.claims.nobody());
    }
    let shown = auth.shown_name(issuer, client_id.to_owned());
    Ok(Known {
        user: format!("{APPLICATION_PREFIX}{shown}"),
        principal: format!("{APPLICATION_PREFIX}{}", of_issuer(issuer, client_id)),
        identity: Identity::Application { teams },
    })
}

/// A name with the issuer that it is a name at. An issuer is a URL without a fragment, so the first number sign ends it.
fn of_issuer(issuer: &str, name: &str) -> String {
    format!("{issuer}#{name}")
}

impl Authentication {
    /// The name by which a caller is recorded: that of the token while one issuer is trusted, and with its issuer while
    /// there are several, since two issuers may give two people the same name.
    fn shown_name(&self, issuer: &str, name: String) -> String {
        if self.issuers.len() > 1 { of_issuer(issuer, &name) } else { name }
    }
}

/// The header that asks for authentication, by RFC 6750.
fn with_challenge(mut response: Response, with_token: bool) -> Response {
    let challenge = match (response.status(), with_token) {
        (StatusCode::UNAUTHORIZED, false) => "Bearer realm=\"holdfast\"",
        (StatusCode::UNAUTHORIZED, true) => "Bearer realm=\"holdfast\", error=\"invalid_token\"",
        (StatusCode::FORBIDDEN, true) => "Bearer realm=\"holdfast\", error=\"insufficient_scope\"",
        _ => return response,
    };
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// Whether a problem is about who calls rather than about what is asked.
pub(crate) fn is_about_the_caller(problem: &Problem) -> bool {
    matches!(problem.kind, Kind::Unauthenticated | Kind::Forbidden)
}
