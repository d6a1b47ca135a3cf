//! The operator's authorization webhook, with the body that upstream sends.
//!
//! A 2xx allows the request. A 4xx denies it, and its status and text reach the user. A 5xx is retried once. In all other
//! cases, also without a response, the request is rejected with 503.

use std::time::Duration;

use auth::{AuthorizationRequest, Authorizer, Decision};
use model::{BoxFuture, Problem, problem::Code};
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::{http, tokens::Tokens};

/// Retries after a 5xx.
const RETRIES_ON_5XX: usize = 1;

/// The largest response.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// The longest text of a response that reaches the user.
const TEXT_MAX_CHARS: usize = 2000;

/// The webhook, its limits and its credentials.
#[derive(Debug)]
pub struct Options {
    /// The URL of the webhook.
    pub url: String,
    /// The time limit of a response.
    pub timeout: Duration,
    /// The bearer token of the request to the webhook.
    pub bearer: Bearer,
}

/// The token that is sent to the webhook.
#[derive(Debug)]
pub enum Bearer {
    /// No token.
    None,
    /// The token of the user that the question is about.
    User,
    /// A token of the service.
    Service(Box<Tokens>),
}

/// The authorization webhook.
#[derive(Debug)]
pub struct Webhook {
    http: Client,
    options: Options,
}

/// A question in upstream's form.
#[derive(Serialize)]
struct Body<'a> {
    requester_user_id: &'a str,
    requested_resource_team: &'a str,
    requested_resource_name: &'static str,
    requested_resource_id: &'a str,
    requested_http_path: &'a str,
    requested_http_verb: &'a str,
    requested_resource_new_team: &'a str,
    requested_permission: &'static str,
}

impl<'a> Body<'a> {
    fn of(authorization: &AuthorizationRequest<'a>) -> Self {
        let AuthorizationRequest { access, path, method, .. } = *authorization;
        let team = access.team.unwrap_or_default();
        Self {
            requester_user_id: access.user,
            requested_resource_team: team,
            requested_resource_name: "data-job",
            requested_resource_id: access.job.unwrap_or_default(),
            requested_http_path: path,
            requested_http_verb: method,
            requested_resource_new_team: access.new_team.unwrap_or(team),
            requested_permission: if access.action.changes() { "write" } else { "read" },
        }
    }
}

impl Webhook {
    /// A webhook that was not called yet.
    pub fn new(options: Options) -> Self {
        Self { http: http::client(options.timeout), options }
    }

    async fn send(&self, authorization: &AuthorizationRequest<'_>) -> Result<Response, Problem> {
        match &self.options.bearer {
            Bearer::None => self.send_with(authorization, None).await,
            Bearer::User => self.send_with(authorization, Some(authorization.token)).await,
            Bearer::Service(tokens) => {
                let send =
                    async |token: &SecretString| self.send_with(authorization, Some(token.expose_secret())).await;
                let token = tokens.get(None).await.map_err(|why| nobody_let_in(&why))?;
                let response = send(&token).await?;
                if response.status() != StatusCode::UNAUTHORIZED {
                    return Ok(response);
                }
                // It is about this service's token before it is about the user: one that was taken back is renewed.
                let token = tokens.get(Some(&token)).await.map_err(|why| nobody_let_in(&why))?;
                send(&token).await
            }
        }
    }

    async fn send_with(
        &self,
        authorization: &AuthorizationRequest<'_>,
        token: Option<&str>,
    ) -> Result<Response, Problem> {
        let mut request = self.http.post(&self.options.url).json(&Body::of(authorization));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.map_err(|error| unavailable(&http::describe(&error)))
    }

    async fn decide(&self, authorization: &AuthorizationRequest<'_>) -> Result<Decision, Problem> {
        let mut response = self.send(authorization).await?;
        for _ in 0..RETRIES_ON_5XX {
            if response.status().is_server_error() {
                response = self.send(authorization).await?;
            }
        }
        let status = response.status();
        if status.is_success() {
            return Ok(Decision::Allowed);
        }
        if !status.is_client_error() {
            return Err(unavailable(&format!("it returned status {}", status.as_u16())));
        }
        let bytes = http::body(response, ANSWER_MAX_BYTES).await.map_err(|why| unavailable(&why))?;
        let text = String::from_utf8_lossy(&bytes).trim().chars().take(TEXT_MAX_CHARS).collect();
        Ok(Decision::Refused { code: status.as_u16(), text })
    }
}

impl Authorizer for Webhook {
    fn authorize<'a>(
        &'a self,
        authorization: &'a AuthorizationRequest<'a>,
    ) -> BoxFuture<'a, Result<Decision, Problem>> {
        Box::pin(self.decide(authorization))
    }
}

fn unavailable(why: &str) -> Problem {
    Problem::new(
        Code::AuthorizationWebhookUnavailable,
        "The request was rejected: its permission can't be checked at the moment.",
        format!("Authorization webhook: {why}."),
    )
    .nothing_changed()
    .fix("Retry; if it persists, the operator checks the webhook (`auth.webhook_url`).")
}

fn nobody_let_in(why: &str) -> Problem {
    unavailable(&format!("no access token: the token endpoint failed ({why})"))
}
