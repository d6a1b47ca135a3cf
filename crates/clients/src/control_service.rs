//! The public API of a Control Service, for the commands of its users.
//!
//! Unlike other clients of this crate it speaks to a service that the user names, so it follows the proxy variables of the
//! environment, except to this machine.

use std::{fmt, net::IpAddr, time::Duration};

use reqwest::{Client, Method, Response, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::{Host, Url};

use crate::http;

/// The time limit of a request, with its response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest response.
const RESPONSE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// How much of an unexpected response an error shows.
const SHOWN_MAX_CHARS: usize = 200;

/// A Control Service, and how its user is known there.
pub struct ControlService {
    base: Url,
    token: Option<SecretString>,
    http: Client,
}

/// A response of the service.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The body; null if it is empty.
    pub body: Value,
}

/// A request had no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// No whole response arrived.
    Unreachable {
        /// The service.
        url: String,
        /// The cause.
        why: String,
    },
    /// The service rejected the request.
    Rejected(Box<Rejection>),
    /// The response is not one of a Control Service.
    Unexpected {
        /// The service.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
}

/// The error body of a rejected request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Rejection {
    /// The HTTP status.
    #[serde(skip)]
    pub status: u16,
    /// The failure.
    pub what: String,
    /// Its cause.
    pub why: String,
    /// Its consequences.
    pub consequences: String,
    /// The next step.
    pub countermeasures: String,
    /// The code of the error; empty from services that have none.
    #[serde(default)]
    pub code: String,
}

impl CallError {
    /// The HTTP status of a rejected request.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Rejected(rejection) => Some(rejection.status),
            Self::Unexpected { status, .. } => Some(*status),
            Self::Unreachable { .. } => None,
        }
    }

    /// Whether the same request can succeed later.
    pub fn may_pass(&self) -> bool {
        self.status().is_none_or(|status| status == 429 || status >= 500)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { url, why } => write!(
                f,
                "The service at {url} can't be used: {why}. Start one with `holdfast serve`, or name another with --url."
            ),
            Self::Rejected(rejection) => {
                write!(f, "{}\n  {}\n  {}", rejection.what, rejection.why, rejection.countermeasures)
            }
            Self::Unexpected { url, status, body } => {
                write!(f, "{url} responded with HTTP {status} and no error body of a Control Service: {body:?}")
            }
        }
    }
}

impl std::error::Error for CallError {}

// The token is a secret.
impl fmt::Debug for ControlService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlService").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl ControlService {
    /// The service at a URL, without a request to it.
    ///
    /// # Errors
    /// If the URL is not one of a web service, or holds a password.
    pub fn new(url: &str, token: Option<SecretString>) -> Result<Self, String> {
        let base = Url::parse(url.trim_end_matches('/')).map_err(|error| format!("{url:?} is not a URL ({error})"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(format!("{url:?} does not begin with http:// or https://"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err("a URL of a service must not hold a password".into());
        }
        let http = http::client_of_user(REQUEST_TIMEOUT, is_loopback(&base));
        Ok(Self { base, token, http })
    }

    /// The URL, without a slash at its end.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Whether the service is on this machine.
    pub fn is_local(&self) -> bool {
        is_loopback(&self.base)
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// If the service can't be reached or rejects the request.
    pub async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, CallError> {
        let request = self.request(Method::GET, path).query(query);
        Ok(self.reply(request).await?.body)
    }

    /// Reads a page that is not JSON, whatever its status.
    ///
    /// # Errors
    /// If the service can't be reached.
    pub async fn page(&self, path: &[&str], max_bytes: usize) -> Result<(u16, Vec<u8>), CallError> {
        let response = self.sent(self.request(Method::GET, path)).await?;
        let status = response.status().as_u16();
        Ok((status, http::body(response, max_bytes).await.map_err(|why| self.unreachable(why))?))
    }

    /// Sends JSON with POST.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &[&str], query: &[(&str, &str)], body: &Value) -> Result<Reply, CallError> {
        self.reply(self.request(Method::POST, path).query(query).json(body)).await
    }

    /// Sends bytes with POST.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn upload(&self, path: &[&str], query: &[(&str, &str)], body: Vec<u8>) -> Result<Reply, CallError> {
        let request = self.request(Method::POST, path).query(query);
        self.reply(request.header(header::CONTENT_TYPE, "application/octet-stream").body(body)).await
    }

    /// Deletes a resource.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn delete(&self, path: &[&str]) -> Result<Reply, CallError> {
        self.reply(self.request(Method::DELETE, path)).await
    }

    fn request(&self, method: Method, path: &[&str]) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.http.request(method, url).header(header::ACCEPT, "application/json, */*;q=0.5");
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    async fn sent(&self, request: reqwest::RequestBuilder) -> Result<Response, CallError> {
        request.send().await.map_err(|error| self.unreachable(http::describe(&error)))
    }

    async fn reply(&self, request: reqwest::RequestBuilder) -> Result<Reply, CallError> {
        let response = self.sent(request).await?;
        let status = response.status();
        let location =
            response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = http::body(response, RESPONSE_MAX_BYTES).await.map_err(|why| self.unreachable(why))?;
        let unexpected = || CallError::Unexpected {
            url: self.url().to_owned(),
            status: status.as_u16(),
            body: String::from_utf8_lossy(&bytes).chars().take(SHOWN_MAX_CHARS).collect(),
        };
        if !status.is_success() {
            let rejection: Rejection = serde_json::from_slice(&bytes).map_err(|_| unexpected())?;
            return Err(CallError::Rejected(Box::new(Rejection { status: status.as_u16(), ..rejection })));
        }
        let body =
            if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).map_err(|_| unexpected())? };
        Ok(Reply { status: status.as_u16(), location, body })
    }

    fn unreachable(&self, why: String) -> CallError {
        CallError::Unreachable { url: self.url().to_owned(), why }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_a_service_has_a_scheme_and_no_password() {
        for (url, local) in [
            ("http://localhost:8092/", true),
            ("http://127.0.0.1:8092", true),
            ("http://[::1]:1", true),
            ("https://jobs.example.com/holdfast", false),
        ] {
            let service = ControlService::new(url, None).unwrap();
            assert_eq!((service.url(), service.is_local()), (url.trim_end_matches('/'), local));
        }
        for wrong in ["jobs.example.com", "ftp://jobs.example.com", "https://me:hunter2@jobs.example.com", ""] {
            let why = ControlService::new(wrong, None).unwrap_err();
            assert!(!wrong.contains("hunter2") || !why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn a_path_is_below_that_of_the_service_and_escaped() {
        let service = ControlService::new("https://jobs.example.com/holdfast", None).unwrap();
        let request = service.request(Method::GET, &["data-jobs", "for-team", "my team/x"]).build().unwrap();
        assert_eq!(request.url().as_str(), "https://jobs.example.com/holdfast/data-jobs/for-team/my%20team%2Fx");
    }

    #[test]
    fn a_token_is_sent_as_bearer_and_not_shown() {
        let service = ControlService::new("https://jobs.example.com", Some("hunter2".into())).unwrap();
        let request = service.request(Method::GET, &[]).build().unwrap();
        assert_eq!(request.headers()[header::AUTHORIZATION], "Bearer hunter2");
        assert!(request.headers()[header::AUTHORIZATION].is_sensitive());
        assert!(!format!("{service:?}").contains("hunter2"));
    }

    #[test]
    fn failures_that_pass_are_told_from_those_that_do_not() {
        let rejected = |status| {
            let texts = || "x".to_owned();
            let (what, why, consequences, countermeasures) = (texts(), texts(), texts(), texts());
            CallError::Rejected(Box::new(Rejection {
                status,
                what,
                why,
                consequences,
                countermeasures,
                code: String::new(),
            }))
        };
        assert!([429, 500, 503].iter().all(|status| rejected(*status).may_pass()));
        assert!(![400, 401, 404, 409].iter().any(|status| rejected(*status).may_pass()));
        assert!(CallError::Unreachable { url: String::new(), why: String::new() }.may_pass());
    }
}
