//! The operator's authorization service, as one request asks it.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use auth::{AuthorizationRequest, Authorizer, Decision};
use axum::http::StatusCode;
use model::{
    BoxFuture, Problem,
    access::{AccessRequest, RequestAuthorizer, refused},
    problem::Code,
};
use percent_encoding::percent_decode_str;
use tokio::sync::Mutex;

/// Asks for one request, and remembers a refusal's status.
#[derive(Debug)]
pub(super) struct WebhookAuthorizer {
    authorizer: Arc<dyn Authorizer>,
    path: String,
    method: String,
    token: Token,
    refused_with: AtomicU16,
    /// The last question and its result, because the lists of one query ask the same question. The lock is held while the
    /// service is asked, so that they ask once.
    last: Mutex<Option<(Asked, Result<(), Problem>)>>,
}

/// The parts of a question that differ within a request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    changes: bool,
    team: Option<String>,
    new_team: Option<String>,
    job: Option<String>,
}

struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl WebhookAuthorizer {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>, path: String, method: String, token: String) -> Self {
        Self { authorizer, path, method, token: Token(token), refused_with: AtomicU16::new(0), last: Mutex::default() }
    }

    /// The status of the refusal, when there was one.
    pub(super) fn refused_with(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.refused_with.load(Ordering::Relaxed)).ok()
    }

    async fn decide(&self, access: &AccessRequest<'_>) -> Result<(), Problem> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let asked = Asked {
            changes: access.action.changes(),
            team: owned(access.team),
            new_team: owned(access.new_team),
            job: owned(access.job),
        };
        let mut last = self.last.lock().await;
        if let Some((_, decided)) = last.as_ref().filter(|(same, _)| *same == asked) {
            return decided.clone();
        }
        let decided = self.ask_service(access).await;
        *last = Some((asked, decided.clone()));
        decided
    }

    async fn ask_service(&self, access: &AccessRequest<'_>) -> Result<(), Problem> {
        // A list has no team; upstream sends the team of the path.
        let in_path = team_in(&self.path);
        let team = access.team.or(in_path.as_deref());
        let authorization = AuthorizationRequest {
            access: AccessRequest { team, ..*access },
            path: &self.path,
            method: &self.method,
            token: &self.token.0,
        };
        match self.authorizer.authorize(&authorization).await? {
            Decision::Allowed => Ok(()),
            Decision::Refused { code, text } => {
                self.refused_with.store(code, Ordering::Relaxed);
                let why = if text.is_empty() {
                    "The authorization webhook denied the request without a reason.".to_owned()
                } else {
                    text
                };
                Err(refused(Code::AuthorizationDenied, why)
                    .fix("Ask the team that operates the authorization webhook."))
            }
        }
    }
}

impl RequestAuthorizer for WebhookAuthorizer {
    fn ask<'a>(&'a self, access: &'a AccessRequest<'a>) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(self.decide(access))
    }
}

fn team_in(path: &str) -> Option<String> {
    let rest = path.strip_prefix("/data-jobs/for-team/").or_else(|| path.strip_prefix("/data-jobs/teams/"))?;
    let team = rest.split('/').next().filter(|team| !team.is_empty())?;
    Some(percent_decode_str(team).decode_utf8_lossy().into_owned())
}
