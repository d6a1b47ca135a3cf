//! Authentication to a registry: none, a password, or a token of a token service.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use model::clock::Clock;
use reqwest::{
    Client,
    header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use url::Url;

use super::{
    credentials::{Credentials, CredentialsFile},
    fault::{self, Fault},
};

const TOKEN_MAX_BYTES: u64 = 1024 * 1024;
/// How long before its end a token is not used any more.
const RENEW_EARLY: Duration = Duration::from_secs(10);
/// How long a token is valid when nothing is said, as the specification has it.
const VALID_SECONDS: u64 = 60;
const VALID_SECONDS_MAX: u64 = 3600;
const CLIENT: &str = "holdfast";

/// The permissions that a request needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub(super) repository: String,
    pub(super) push: bool,
    /// Other repositories that it reads from.
    pub(super) also: Vec<String>,
}

impl Scope {
    fn texts(&self) -> Vec<String> {
        let actions = if self.push { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", self.repository);
        std::iter::once(own).chain(self.also.iter().map(|name| format!("repository:{name}:pull"))).collect()
    }
}

struct Known {
    header: HeaderValue,
    /// On the boot clock.
    until: Duration,
}

/// The headers that registries accepted.
pub(super) struct Access {
    credentials: Option<CredentialsFile>,
    known: Mutex<HashMap<(String, Scope), Known>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// The authentication that a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Access {
    pub(super) fn new(credentials: Option<CredentialsFile>) -> Self {
        Self { credentials, known: Mutex::default() }
    }

    /// The header that the registry accepted last.
    pub(super) fn known(&self, host: &str, scope: &Scope, clock: &dyn Clock) -> Option<HeaderValue> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock.boot();
        known.retain(|_, known| known.until > now);
        known.get(&(host.to_owned(), scope.clone())).map(|known| known.header.clone())
    }

    /// Authenticates as the registry asks for in a response with status 401.
    pub(super) async fn ask(
        &self,
        http: &Client,
        host: &str,
        plain: bool,
        scope: &Scope,
        headers: &HeaderMap,
        clock: &dyn Clock,
    ) -> Result<HeaderValue, Fault> {
        let challenge = challenge(headers)
            .ok_or_else(|| Fault::Refused { said: "it asks for something else than a password or a token".into() })?;
        let credentials = match &self.credentials {
            Some(file) => file.find(host, &scope.repository).map_err(|said| Fault::Refused { said })?,
            None => None,
        };
        let (header, valid) = match (challenge, credentials) {
            (Challenge::Basic, Some(Credentials::Password { user, password })) => {
                (basic(&user, &password), VALID_SECONDS)
            }
            (Challenge::Basic, _) => {
                return Err(Fault::Refused { said: "it asks for a password, and none is configured for it".into() });
            }
            (Challenge::Bearer { .. }, Some(Credentials::RegistryToken(token))) => (bearer(&token), VALID_SECONDS),
            (Challenge::Bearer { realm, service }, credentials) => {
                let given = exchange(http, &realm, service.as_deref(), plain, scope, credentials).await?;
                let text = given.token.or(given.access_token).filter(|text| !text.is_empty());
                let text = text.ok_or_else(|| Fault::Answer("the answer of its token service has no token".into()))?;
                (bearer(&text), given.expires_in.unwrap_or(VALID_SECONDS).min(VALID_SECONDS_MAX))
            }
        };
        let header =
            header.map_err(|_| Fault::Refused { said: "its token has other characters than a header".into() })?;
        let until = clock.boot() + Duration::from_secs(valid).saturating_sub(RENEW_EARLY);
        let known = Known { header: header.clone(), until };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert((host.to_owned(), scope.clone()), known);
        Ok(header)
    }
}

async fn exchange(
    http: &Client,
    realm: &str,
    service: Option<&str>,
    plain: bool,
    scope: &Scope,
    credentials: Option<Credentials>,
) -> Result<Given, Fault> {
    let mut url = Url::parse(realm)
        .ok()
        .filter(|url| url.scheme() == "https" || (url.scheme() == "http" && plain))
        .ok_or_else(|| Fault::Answer("the address of its token service is not HTTPS".into()))?;
    let request = if let Some(Credentials::IdentityToken(token)) = &credentials {
        let mut form = vec![("grant_type", "refresh_token"), ("client_id", CLIENT), ("refresh_token", token.as_str())];
        form.extend(service.map(|service| ("service", service)));
        let scopes = scope.texts().join(" ");
        form.push(("scope", &scopes));
        http.post(url).form(&form)
    } else {
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .extend_pairs(scope.texts().iter().map(|scope| ("scope", scope.as_str())));
        match &credentials {
            Some(Credentials::Password { user, password }) => http.get(url).basic_auth(user, Some(password)),
            _ => http.get(url),
        }
    };
    let response = request.send().await.map_err(|error| match fault::of_connection(&error) {
        Fault::Unreachable(why) => Fault::Unreachable(format!("its token service: {why}")),
        other => other,
    })?;
    if !response.status().is_success() {
        return Err(fault::of_answer(response).await);
    }
    let content = fault::content(response, TOKEN_MAX_BYTES).await?;
    // The parser would show a part of the token.
    serde_json::from_slice(&content).map_err(|_| Fault::Answer("the answer of its token service can't be read".into()))
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, reqwest::header::InvalidHeaderValue> {
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn bearer(token: &str) -> Result<HeaderValue, reqwest::header::InvalidHeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Result<HeaderValue, reqwest::header::InvalidHeaderValue> {
    let mut header = HeaderValue::from_str(text)?;
    header.set_sensitive(true);
    Ok(header)
}

/// The challenge of an answer; of several, the one with a token.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|header| header.to_str().ok());
    let mut found = None;
    for header in all {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let mut parameters = parameters(rest);
            if let Some(realm) = parameters.remove("realm") {
                return Some(Challenge::Bearer { realm, service: parameters.remove("service") });
            }
        } else if scheme.eq_ignore_ascii_case("basic") {
            found = Some(Challenge::Basic);
        }
    }
    found
}

/// `name="value", name=value` as a map; names in lower case.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut all = HashMap::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim().trim_start_matches(',').trim().to_ascii_lowercase();
        let (value, left) = if let Some(quoted) = after.strip_prefix('"') {
            unquoted(quoted)
        } else {
            let end = after.find(',').unwrap_or(after.len());
            (after[..end].trim().to_owned(), &after[end..])
        };
        all.insert(name, value);
        rest = left.trim_start_matches([',', ' ']);
    }
    all
}

/// Splits a quoted string, without its opening quotation mark, into its content and the rest.
fn unquoted(quoted: &str) -> (String, &str) {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return (value, &quoted[at + 1..]),
            c => {
                value.push(c);
                escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_in_each_form_that_registries_write() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
            }
            challenge(&headers)
        };
        let token = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        for (values, expected) in [
            (
                vec![r#"Bearer realm="https://a/token",service="r.example.com",scope="repository:x:pull,push""#],
                token("https://a/token", Some("r.example.com")),
            ),
            (vec![r#"bearer service="a, \"b\"", realm="https://a/t""#], token("https://a/t", Some(r#"a, "b""#))),
            (vec!["Bearer realm=https://a/t, error=x"], token("https://a/t", None)),
            (vec![r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#], token("https://a/t", None)),
            (vec![r#"Basic realm="x""#], Some(Challenge::Basic)),
            (vec!["Negotiate"], None),
            (vec![r#"Bearer realm="unclosed"#], token("unclosed", None)),
            (vec![], None),
        ] {
            assert_eq!(read(&values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_mount_asks_to_read_the_other_repository_as_well() {
        let scope = Scope { repository: "a/b".into(), push: true, also: vec!["c".into()] };
        assert_eq!(scope.texts(), ["repository:a/b:pull,push", "repository:c:pull"]);
    }
}
