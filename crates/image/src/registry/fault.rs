//! Why a registry did not do what it was asked for, and who can do something about it.

use std::{io, time::Duration};

use model::{Problem, clock::Clock, problem::Code};
use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

/// The characters of a registry's own words that are shown.
const SAID_MAX_CHARS: usize = 300;
/// The part of an error's body that is read.
const ERROR_MAX_BYTES: u64 = 16 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The registry can't be reached, or the connection broke off.
    #[error("{0}")]
    Unreachable(String),
    /// The registry has too much to do, or a fault of its own.
    #[error("it answered {status}{}", colon(said))]
    Busy {
        /// The status.
        status: u16,
        /// Its words.
        said: String,
        /// When it wants to be asked again, as it was written.
        retry_after: Option<String>,
    },
    /// The credentials are missing or wrong, or do not allow it.
    #[error("it refused access{}", colon(said))]
    Refused {
        /// Its words.
        said: String,
    },
    /// The registry does not take the request.
    #[error("it answered {status}{}", colon(said))]
    Rejected {
        /// The status.
        status: u16,
        /// Its words.
        said: String,
    },
    /// The answer is not what the distribution specification says.
    #[error("{0}")]
    Answer(String),
    /// A file of this machine can't be read or written.
    #[error("a file of the service could not be used: {0}")]
    Disk(io::Error),
}

fn colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

impl Fault {
    /// Whether the same request may succeed later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Busy { .. } | Self::Answer(_))
    }

    /// The pause that the registry asks for.
    pub(super) fn pause(&self, clock: &dyn Clock) -> Option<Duration> {
        let Self::Busy { retry_after: Some(after), .. } = self else { return None };
        if let Ok(seconds) = after.trim().parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = jiff::fmt::rfc2822::parse(after.trim()).ok()?.timestamp();
        Some(Duration::try_from(at.duration_since(clock.now())).unwrap_or_default())
    }
}

/// A failure of a registry, after all attempts.
#[derive(Debug, thiserror::Error)]
#[error("{registry}/{repository}, {doing}: {fault}")]
pub struct RegistryError {
    /// The host of the registry.
    pub registry: String,
    /// The path of the repository.
    pub repository: String,
    /// The request that failed, such as "pushing the blob sha256:…".
    pub doing: String,
    /// Why it failed.
    pub fault: Fault,
}

impl RegistryError {
    /// The same for people. No registry is a user's to repair, so it is a platform error.
    pub fn problem(&self, what: &str) -> Problem {
        let Self { registry, repository, doing, fault } = self;
        let why = format!("The registry {registry} failed in {repository}, {doing}: {fault}.");
        let (code, fix) = match fault {
            Fault::Refused { .. } => (
                Code::RegistryAccessDenied,
                "The operator sets credentials that may pull and push there (`image.registry_credentials_file`).",
            ),
            Fault::Busy { status: 429, .. } => {
                (Code::RegistryUnreachable, "No action needed: Holdfast retries when the registry allows it.")
            }
            Fault::Busy { status: 507, .. } | Fault::Rejected { status: 413, .. } => {
                (Code::RegistryFull, "The operator makes room in the registry, or raises its quota.")
            }
            Fault::Disk(_) => (Code::ImageLayerNotWritten, "The operator makes room in the folder `cache_dir`."),
            Fault::Unreachable(_) | Fault::Busy { .. } => (
                Code::RegistryUnreachable,
                "No action needed: Holdfast retries. If it persists, the operator checks the registry.",
            ),
            Fault::Rejected { .. } | Fault::Answer(_) => (
                Code::RegistryResponseInvalid,
                "The operator checks that `registry_url` and `image.base_images` name registries.",
            ),
        };
        Problem::new(code, what, why).not_rolled_out().fix(fix)
    }
}

pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The answer, when it has one of these statuses.
pub(super) async fn expect(response: Response, expected: &[StatusCode]) -> Result<Response, Fault> {
    if expected.contains(&response.status()) { Ok(response) } else { Err(of_answer(response).await) }
}

/// The whole content of an answer.
pub(super) async fn content(mut response: Response, max_bytes: u64) -> Result<Vec<u8>, Fault> {
    let mut all = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| of_connection(&error))? {
        if (all.len() + part.len()) as u64 > max_bytes {
            return Err(Fault::Answer(format!("it sent more than {max_bytes} bytes")));
        }
        all.extend_from_slice(&part);
    }
    Ok(all)
}

/// The fault behind an answer that was not expected.
pub(super) async fn of_answer(response: Response) -> Fault {
    let status = response.status();
    let retry_after = text(response.headers(), RETRY_AFTER.as_str());
    let body = content(response, ERROR_MAX_BYTES).await.unwrap_or_default();
    let said = words(&body);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Refused { said },
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Fault::Busy { status: status.as_u16(), said, retry_after }
        }
        status if status.is_server_error() => Fault::Busy { status: status.as_u16(), said, retry_after },
        // An upload that a registry forgot, for example because it was restarted.
        StatusCode::NOT_FOUND if said.contains("BLOB_UPLOAD_UNKNOWN") => {
            Fault::Unreachable("it forgot the upload".into())
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Fault::Unreachable("it has another part of the upload".into()),
        status => Fault::Rejected { status: status.as_u16(), said },
    }
}

/// The fault behind a connection that failed. The URL may contain a token, so it is not shown.
pub(super) fn of_connection(error: &reqwest::Error) -> Fault {
    let source = std::iter::successors(std::error::Error::source(error), |e| e.source()).last();
    let detail = source.map(|error| format!(" ({error})")).unwrap_or_default();
    Fault::Unreachable(if error.is_timeout() {
        "it did not answer in time".into()
    } else if error.is_connect() {
        format!("it can't be reached{detail}")
    } else if error.is_redirect() {
        "it leads elsewhere too often".into()
    } else {
        format!("the connection broke off{detail}")
    })
}

/// The words of a registry in the form of the specification, `{"errors": [{"code", "message"}]}`; else what it sent.
fn words(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Error>,
    }
    #[derive(serde::Deserialize)]
    struct Error {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(body) => {
            let all = body.errors.iter().map(|error| format!("{} {}", error.code, error.message).trim().to_owned());
            all.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).split_whitespace().collect::<Vec<_>>().join(" "),
    };
    text.chars().filter(|c| !c.is_control()).take(SAID_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_registry_are_those_of_its_errors() {
        let errors = br#"{"errors":[{"code":"DENIED","message":"quota exceeded","detail":{}},{"code":"X"}]}"#;
        assert_eq!(words(errors), "DENIED quota exceeded; X");
        assert_eq!(words(b"<html>\n  Bad\x07 gateway"), "<html> Bad gateway");
        assert_eq!(words(&vec![b'x'; 5000]).len(), SAID_MAX_CHARS);
    }

    #[test]
    fn only_what_may_pass_is_retried() {
        let busy = |status| Fault::Busy { status, said: String::new(), retry_after: None };
        for (fault, passes) in [
            (Fault::Unreachable("x".into()), true),
            (busy(429), true),
            (busy(503), true),
            (Fault::Answer("x".into()), true),
            (Fault::Refused { said: String::new() }, false),
            (Fault::Rejected { status: 413, said: String::new() }, false),
            (Fault::Disk(io::Error::other("x")), false),
        ] {
            assert_eq!(fault.may_pass(), passes, "{fault}");
        }
    }

    #[test]
    fn a_pause_is_read_as_seconds_or_as_a_date() {
        let clock = clock::SystemClock;
        let pause = |after: &str| {
            let busy = Fault::Busy { status: 429, said: String::new(), retry_after: Some(after.into()) };
            busy.pause(&clock)
        };
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(pause("Thu, 21 Oct 2100 07:28:00 GMT").unwrap() > Duration::from_secs(1_000_000));
        assert_eq!(pause("soon"), None);
    }
}
