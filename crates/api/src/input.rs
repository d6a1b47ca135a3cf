//! The input of requests. Each error is a 4xx that names the invalid part.

use std::{error::Error, fmt, marker::PhantomData, str::FromStr, sync::Arc, time::Duration};

use app::memory::MemoryBudget;
use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request, rejection::PathRejection},
    http::{header, request::Parts},
};
use http_body_util::BodyExt;
use model::{
    Problem,
    access::{Caller, Identity},
    clock::Clock,
    name::excerpt,
    problem::Code,
};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::{
    Api,
    error::ApiError,
    limits::{BodyTooSlow, JSON_MAX_BYTES, UNAUTHENTICATED_JSON_MAX_BYTES},
    memory::RequestMemory,
};

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
        ApiError::from(
            Problem::new(
                Code::PathUnreadable,
                "The path of the request can't be read.",
                format!("{}.", self.0.body_text()),
            )
            .nothing_changed()
            .fix("Percent-encode each path segment as UTF-8."),
        )
        .into_response()
    }
}

/// The query parameters of a URL. Unknown ones are ignored.
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
            _ => Err(Problem::new(
                Code::QueryParameterInvalid,
                format!("The parameter {name} is not valid."),
                format!("Its value is {}.", excerpt(text)),
            )
            .nothing_changed()
            .fix(format!("Send {name}=true or {name}=false."))),
        };
        self.text(name).map(parsed).transpose()
    }

    /// The value of this name as a number.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.text(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Problem::new(
                        Code::QueryParameterInvalid,
                        format!("The parameter {name} is not valid."),
                        format!("Its value {} is not a whole number in range.", excerpt(text)),
                    )
                    .nothing_changed()
                    .fix("Send a whole number.")
                })
            })
            .transpose()
    }
}

/// A JSON body.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let body = required_body(request, api).await?;
        Ok(Self(from_json(no_list(&body)?)?))
    }
}

/// A JSON body that is a list.
pub(crate) struct JsonList<T>(pub(crate) Vec<T>);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for JsonList<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        Ok(Self(from_json(&required_body(request, api).await?)?))
    }
}

/// A JSON body that may be left out, or null.
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<Api>> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let Some(body) = json_body(request, api).await? else { return Ok(Self(T::default())) };
        Ok(Self(from_json::<Option<T>>(no_list(&body)?)?.unwrap_or_default()))
    }
}

/// Rejects a list, which a struct could be read from member by member.
fn no_list(json: &[u8]) -> Result<&[u8], Problem> {
    if json.trim_ascii_start().starts_with(b"[") {
        let why = "Invalid type: sequence, expected a JSON object.";
        return Err(Problem::new(Code::BodyInvalid, "The request's body is not valid.", why)
            .nothing_changed()
            .fix("Correct this part of the body."));
    }
    Ok(json)
}

/// Reads a JSON body that may not be blank.
async fn required_body(request: Request, api: &Api) -> Result<Bytes, ApiError> {
    json_body(request, api).await?.ok_or_else(|| {
        Problem::new(Code::BodyMissing, "The request's body is not valid.", "The body is empty.")
            .nothing_changed()
            .fix("Send a JSON body.")
            .into()
    })
}

/// Reads a JSON body, and reserves what its values may take once they are parsed. `None` when it is blank.
async fn json_body(request: Request, api: &Api) -> Result<Option<Bytes>, ApiError> {
    let is_unauthenticated =
        request.extensions().get::<Caller>().is_none_or(|c| c.identity == Identity::Unauthenticated);
    let max_bytes = if is_unauthenticated { UNAUTHENTICATED_JSON_MAX_BYTES } else { JSON_MAX_BYTES };
    let memory = RequestMemory::of(&api.memory, &request);
    let body = whole_body(&api.memory, request, max_bytes).await?;
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    memory.grow(parsed_bytes(&body))?;
    Ok(Some(body))
}

/// How much memory the values of a JSON text may take: its texts, and a value for each member and element.
fn parsed_bytes(json: &[u8]) -> usize {
    const VALUE_BYTES: usize = 48;
    let (mut values, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b':' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    json.len().saturating_add(values.saturating_mul(VALUE_BYTES))
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

/// Reads a member that is an object or null. A list is none, although a struct could be read from it member by member.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Object(PhantomData))
}

/// Reads JSON, and names the member that is wrong.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let invalid = |why: String| {
        Problem::new(Code::BodyInvalid, "The request's body is not valid.", why)
            .nothing_changed()
            .fix("Correct this part of the body.")
    };
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

/// A body that a layer has read already.
#[derive(Clone)]
struct Buffered(Bytes);

/// Reads the body ahead of the handler, which gets the same bytes.
pub(crate) async fn buffered(
    budget: &MemoryBudget,
    mut request: Request,
    max_bytes: usize,
) -> Result<(Request, Bytes), ApiError> {
    let memory = RequestMemory::of(budget, &request);
    let most = max_of(&request, max_bytes)?;
    let body = std::mem::take(request.body_mut());
    let bytes = collected(&memory, body, most, max_bytes).await?;
    request.extensions_mut().insert(Buffered(bytes.clone()));
    request.extensions_mut().insert(memory);
    Ok((request, bytes))
}

/// Reads the whole body, up to `max_bytes` of it. Its memory is reserved as the bytes arrive, until the request is answered.
pub(crate) async fn whole_body(budget: &MemoryBudget, request: Request, max_bytes: usize) -> Result<Bytes, ApiError> {
    let most = max_of(&request, max_bytes)?;
    let memory = RequestMemory::of(budget, &request);
    if let Some(Buffered(bytes)) = request.extensions().get() {
        return if bytes.len() > max_bytes { Err(too_large(max_bytes)) } else { Ok(bytes.clone()) };
    }
    collected(&memory, request.into_body(), most, max_bytes).await
}

/// The most bytes that the body can have: what the request announces, or the limit.
pub(crate) fn max_of(request: &Request, max_bytes: usize) -> Result<usize, ApiError> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let Some(announced) = announced else { return Ok(max_bytes) };
    usize::try_from(announced).ok().filter(|bytes| *bytes <= max_bytes).ok_or_else(|| too_large(max_bytes))
}

pub(crate) fn too_large(max_bytes: usize) -> ApiError {
    Problem::new(Code::BodyTooLarge, "The request was rejected.", format!("Its body has more than {max_bytes} bytes."))
        .nothing_changed()
        .fix(format!("Send a body of at most {max_bytes} bytes."))
        .into()
}

/// Copies the pieces of a body into one buffer that grows as they arrive. A piece on its own may keep more memory than its
/// bytes.
async fn collected(memory: &RequestMemory, mut body: Body, most: usize, max_bytes: usize) -> Result<Bytes, ApiError> {
    const FIRST_BYTES: usize = 8 * 1024;
    let mut whole: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|error| broken_body(&error))?.into_data() else { continue };
        let length = whole.len() + piece.len();
        if length > max_bytes {
            return Err(too_large(max_bytes));
        }
        if length > whole.capacity() {
            let capacity = (2 * whole.capacity()).max(FIRST_BYTES).min(most).max(length);
            memory.grow(capacity - whole.capacity())?;
            whole.reserve_exact(capacity - whole.len());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// How long the rest of a rejected body is read.
const DISCARD_MAX: Duration = Duration::from_secs(5);

/// Reads a body and drops it, so that its sender gets to read why it was refused: a connection that is closed with bytes
/// unread takes the response along.
pub(crate) async fn discard(clock: &dyn Clock, request: Request, max_bytes: usize) {
    if request.headers().contains_key(header::EXPECT) {
        return;
    }
    let mut body = request.into_body();
    let reading = async {
        let mut bytes = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            bytes = bytes.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if bytes > max_bytes {
                break;
            }
        }
    };
    let _ = clock.timeout(DISCARD_MAX, reading).await;
}

/// Why a body could not be read to its end.
pub(crate) fn broken_body(error: &axum::Error) -> ApiError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(slow) = error.downcast_ref::<BodyTooSlow>() {
            return Problem::new(
                Code::BodyTooSlow,
                "The request was rejected.",
                format!("Its body arrived too slowly: {slow}."),
            )
            .nothing_changed()
            .fix("Send it again over a faster connection.")
            .into();
        }
        cause = error.source();
    }
    Problem::new(
        Code::BodyIncomplete,
        "The request was rejected.",
        "The connection ended before the whole body arrived.",
    )
    .nothing_changed()
    .fix("Send it again.")
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_json_is_reserved_by_its_values_and_not_by_commas_in_its_texts() {
        assert_eq!(parsed_bytes(br#""a,b,[{:""#), 9);
        assert_eq!(parsed_bytes(br#""\",""#), 5);
        assert_eq!(parsed_bytes(br#"{"a":[1,2]}"#), 11 + 4 * 48);
    }
}
