//! What a request brings, read in one way by all operations: each refusal says which part is wrong, and is a 4xx.

use std::str::FromStr;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request, rejection::PathRejection},
    http::{header, request::Parts},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::{Problem, name::shown};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};

use crate::{error::Failure, limits::JSON_MAX_BYTES};

/// The variable parts of the path, with their percent-encoding undone.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(BadPath))]
pub(crate) struct Path<T>(pub(crate) T);

/// A path whose parts can't be read.
pub(crate) struct BadPath(PathRejection);

impl From<PathRejection> for BadPath {
    fn from(rejection: PathRejection) -> Self {
        Self(rejection)
    }
}

impl axum::response::IntoResponse for BadPath {
    fn into_response(self) -> axum::response::Response {
        Failure::from(Problem::invalid("The address of the request can't be read.", format!("{}.", self.0.body_text())))
            .into_response()
    }
}

/// The pairs after the question mark. What an operation does not know is ignored.
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let raw = parts.uri.query().unwrap_or_default();
        Ok(Self(form_urlencoded::parse(raw.as_bytes()).into_owned().collect()))
    }
}

impl Query {
    /// The first value of this name that is not blank.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.all(name).map(str::trim).find(|value| !value.is_empty())
    }

    /// Every value of this name.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value of this name as a switch.
    pub(crate) fn switch(&self, name: &str) -> Result<Option<bool>, Problem> {
        let parsed = |text: &str| match text {
            _ if text.eq_ignore_ascii_case("true") => Ok(true),
            _ if text.eq_ignore_ascii_case("false") => Ok(false),
            _ => Err(Problem::invalid(
                format!("The parameter {name} is not valid."),
                format!("It is {}, and must be true or false.", shown(text)),
            )),
        };
        self.text(name).map(parsed).transpose()
    }

    /// The value of this name as a number.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.text(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Problem::invalid(
                        format!("The parameter {name} is not valid."),
                        format!("It is {}, and must be a whole number.", shown(text)),
                    )
                })
            })
            .transpose()
    }
}

/// A JSON body.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let bytes = whole_body(request, JSON_MAX_BYTES).await?;
        if bytes.trim_ascii().is_empty() {
            return Err(Problem::invalid("The request's body is not valid.", "It is empty, and must be JSON.").into());
        }
        Ok(Self(from_json(&bytes)?))
    }
}

/// A JSON body that may be left out, or null.
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Sync> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let bytes = whole_body(request, JSON_MAX_BYTES).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        Ok(Self(from_json::<Option<T>>(&bytes)?.unwrap_or_default()))
    }
}

/// A whole number that may be absent, in whatever way JSON writes it: 240 and 240.0 are the same number.
pub(crate) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let whole = match number.as_i64() {
        Some(whole) => i32::try_from(whole).ok(),
        // Every whole number of 32 bits has an exact form there, and its digits are written without an exponent.
        None => number.as_f64().and_then(|number| number.to_string().parse().ok()),
    };
    whole.map(Some).ok_or_else(|| de::Error::custom(format!("invalid value: {number}, expected i32")))
}

/// Reads JSON, and names the member that is wrong.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let invalid = |why: String| Problem::invalid("The request's body is not valid.", why);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        match (cause.is_data(), path.as_str()) {
            (true, "." | "") => invalid(format!("{}.", sentence(&cause.to_string()))),
            (true, _) => invalid(format!("{path}: {cause}.")),
            _ => invalid(format!("It is not JSON: {cause}.")),
        }
    })?;
    json.end().map_err(|cause| invalid(format!("It is not JSON: {cause}.")))?;
    Ok(value)
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Reads the whole body, up to `max_bytes` of it.
pub(crate) async fn whole_body(request: Request, max_bytes: usize) -> Result<Bytes, Failure> {
    let too_large = || {
        Problem::too_large(
            "The request was not carried out.",
            format!("Its body has more than {max_bytes} bytes, the most that fits here."),
        )
    };
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > max_bytes as u64) {
        return Err(too_large().into());
    }
    let body: Body = request.into_body();
    match Limited::new(body, max_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large().into()),
        Err(_) => Err(Problem::invalid("The request was not carried out.", "Its body ended too early.").into()),
    }
}
