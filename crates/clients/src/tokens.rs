//! Access tokens of the service itself, for external systems that authenticate their callers.
//!
//! A refresh token is exchanged for them (RFC 6749, section 6), as upstream does for its webhooks. A token is reused until
//! shortly before it expires.

use std::time::Duration;

use model::clock::SharedClock;
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::http;

/// The largest response of a token endpoint.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// How long before its expiry a token is replaced.
const RENEW_EARLY: Duration = Duration::from_secs(60);

/// The lifetime of a token without `expires_in`.
const KEPT_WITHOUT_END: Duration = Duration::from_secs(60);

/// The token endpoint and its limits.
#[derive(Debug, Clone)]
pub struct Options {
    /// The URL of the token endpoint.
    pub url: Url,
    /// The token that is exchanged.
    pub refresh_token: SecretString,
    /// The time limit of a response.
    pub timeout: Duration,
}

/// Gets access tokens, one at a time.
#[derive(Debug)]
pub struct Tokens {
    http: Client,
    options: Options,
    clock: SharedClock,
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    token: SecretString,
    /// On the boot clock.
    until: Duration,
}

#[derive(Deserialize)]
struct Answer {
    access_token: SecretString,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Tokens {
    /// A source without a token.
    pub fn new(options: Options, clock: SharedClock) -> Self {
        Self { http: http::client(options.timeout), options, clock, known: Mutex::new(None) }
    }

    /// The current token. The one in `refused` is not returned again, because it was rejected before its expiry.
    ///
    /// # Errors
    /// The reason, as part of a sentence, without any token.
    pub(crate) async fn get(&self, refused: Option<&SecretString>) -> Result<SecretString, String> {
        let mut known = self.known.lock().await;
        let is_refused =
            |known: &Known| refused.is_some_and(|token| token.expose_secret() == known.token.expose_secret());
        if let Some(known) = known.as_ref().filter(|known| self.clock.boot() < known.until && !is_refused(known)) {
            return Ok(known.token.clone());
        }
        let answer = self.exchange().await?;
        let kept = answer
            .expires_in
            .map_or(KEPT_WITHOUT_END, |seconds| Duration::from_secs(seconds.min(86_400)).saturating_sub(RENEW_EARLY));
        let got = answer.access_token.clone();
        *known = Some(Known { token: answer.access_token, until: self.clock.boot() + kept });
        Ok(got)
    }

    async fn exchange(&self) -> Result<Answer, String> {
        let form = [("grant_type", "refresh_token"), ("refresh_token", self.options.refresh_token.expose_secret())];
        let request = self.http.post(self.options.url.clone()).header("accept", "application/json").form(&form);
        let response = request.send().await.map_err(|error| http::describe(&error))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(format!("it returned status {}", status.as_u16()));
        }
        let bytes = http::body(response, ANSWER_MAX_BYTES).await?;
        // The library's own words could have a part of the answer.
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|_| "its answer is not JSON with an `access_token`".to_owned())?;
        if answer.access_token.expose_secret().is_empty() {
            return Err("its answer has an empty `access_token`".into());
        }
        Ok(answer)
    }
}
