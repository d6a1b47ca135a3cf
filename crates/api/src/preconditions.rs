//! The preconditions of a request, from its headers: `If-Match` and `If-None-Match` by RFC 9110, and `Idempotency-Key` by the draft
//! of the IETF's working group. The verbs check them in their transactions.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{ETAG, IF_MATCH, IF_NONE_MATCH},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use model::{
    Problem,
    access::{Caller, Identity},
    name::excerpt,
    preconditions::{EntityTag, IdempotencyKey, PendingIdempotencyKey, Precondition, Preconditions},
    problem::Code,
};
use serde::Serialize;

use crate::{
    Api,
    error::ApiError,
    input,
    openapi::{KeyedBody, RouteMarks},
};

/// The name that a caller gives to a request.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The most tags in one header.
const ETAGS_MAX: usize = 64;

/// A representation that says which version it shows.
pub(crate) struct WithEtag<T>(pub(crate) EntityTag, pub(crate) T);

impl<T: Serialize> IntoResponse for WithEtag<T> {
    fn into_response(self) -> Response {
        let Self(etag, body) = self;
        let json = serde_json::to_vec(&body).expect("bodies have string keys and finite numbers");
        let etag = format!("\"{}\"", etag.for_representation(&json).as_str());
        let mut response = Json(body).into_response();
        response.headers_mut().insert(ETAG, HeaderValue::from_str(&etag).expect("a tag is letters, digits and a dot"));
        response
    }
}

/// Gives the preconditions of a request to its caller, and answers 304 for what the caller has already.
pub(crate) async fn read(
    State((api, marks)): State<(Arc<Api>, Arc<RouteMarks>)>,
    request: Request,
    next: Next,
) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let may_change = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    let held = request.headers().get_all(IF_NONE_MATCH).iter().cloned().collect::<Vec<_>>();
    let request = if may_change {
        match with_terms(&api, &marks, request).await {
            Ok(request) => request,
            Err(failure) => return failure.into_response(),
        }
    } else {
        request
    };
    let response = next.run(request).await;
    if is_read && response.status() == StatusCode::OK && is_held(&held, response.headers().get(ETAG)) {
        let mut unchanged = StatusCode::NOT_MODIFIED.into_response();
        unchanged.headers_mut().extend(response.headers().get(ETAG).map(|etag| (ETAG, etag.clone())));
        return unchanged;
    }
    response
}

/// Whether the caller has this representation already. A header that can't be read asks for nothing.
fn is_held(held: &[HeaderValue], etag: Option<&HeaderValue>) -> bool {
    let Some(etag) = etag.and_then(|etag| etag.to_str().ok()) else { return false };
    held.iter().filter_map(|value| etags(value.to_str().ok()?)).flatten().any(|held| match held {
        Held::Any => true,
        Held::Strong(text) | Held::Weak(text) => etag.trim_matches('"') == text,
    })
}

/// Terms that can't be read. The operation refuses them: an address without one has other things to say.
#[derive(Clone)]
pub(crate) struct Unreadable(pub(crate) Problem);

async fn with_terms(api: &Api, marks: &RouteMarks, mut request: Request) -> Result<Request, ApiError> {
    let is_known =
        request.extensions().get::<Caller>().is_some_and(|caller| caller.identity != Identity::Unauthenticated);
    // Where a key has no effect, and for a caller who is not known, nothing is read ahead of the handler.
    let keyed = marks.keyed_body(&request).filter(|_| is_known);
    let headers = request.headers();
    let preconditions = precondition(headers)
        .and_then(|precondition| Ok((precondition, if keyed.is_some() { idempotency_key(headers)? } else { None })));
    let (precondition, key) = match preconditions {
        Ok(preconditions) => preconditions,
        Err(problem) => {
            request.extensions_mut().insert(Unreadable(problem));
            return Ok(request);
        }
    };
    let mut idempotency_key = None;
    if let Some((key, body)) = key.zip(keyed) {
        let url = request.uri().path_and_query().map_or("", |url| url.as_str());
        let pending = PendingIdempotencyKey::new(key, request.method().as_str(), url);
        match body {
            KeyedBody::Buffered { max_bytes } => {
                let body;
                (request, body) = input::buffered(&api.memory, request, max_bytes).await?;
                idempotency_key = Some(pending.with_body(&body));
            }
            KeyedBody::Streamed => {
                request.extensions_mut().insert(pending);
            }
        }
    }
    if let Some(caller) = request.extensions_mut().get_mut::<Caller>() {
        caller.preconditions = Preconditions { precondition, idempotency_key };
    }
    Ok(request)
}

/// The idempotency key of a request whose body the handler reads ([`KeyedBody::Streamed`]). The handler completes the key
/// with the body's digest and stores it in the caller's preconditions before it calls the verb.
pub(crate) struct StreamedKey(pub(crate) Option<PendingIdempotencyKey>);

impl<S: Sync> FromRequestParts<S> for StreamedKey {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.remove()))
    }
}

/// One member of a list of tags.
#[derive(Debug, PartialEq, Eq)]
enum Held<'a> {
    Any,
    Strong(&'a str),
    /// Good for telling that nothing has to be sent again, and never for changing something.
    Weak(&'a str),
}

/// Reads a list of tags, or `*`. `None` when it is neither. A tag may come without its quotes, which shells remove.
fn etags(text: &str) -> Option<Vec<Held<'_>>> {
    let mut rest = text.trim();
    if rest == "*" {
        return Some(vec![Held::Any]);
    }
    let mut etags = Vec::new();
    while !rest.is_empty() {
        let (held, after) = etag(rest)?;
        if etags.len() == ETAGS_MAX {
            return None;
        }
        etags.push(held);
        rest = after.trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start();
        }
    }
    (!etags.is_empty()).then_some(etags)
}

/// The first tag of a list, and what comes after it.
fn etag(list: &str) -> Option<(Held<'_>, &str)> {
    let is_text = |etag: &str| etag.bytes().all(|b| b.is_ascii_graphic());
    let quoted = list.strip_prefix("W/").unwrap_or(list).strip_prefix('"');
    if let Some(quoted) = quoted {
        let (etag, after) = quoted.split_once('"').filter(|(etag, _)| is_text(etag))?;
        return Some((if list.starts_with('W') { Held::Weak(etag) } else { Held::Strong(etag) }, after));
    }
    let end = list.find([',', ' ', '\t']).unwrap_or(list.len());
    let (etag, after) = list.split_at(end);
    let is_tag = !etag.is_empty() && is_text(etag) && !etag.contains(['"', '*']);
    is_tag.then_some((Held::Strong(etag), after))
}

fn precondition(headers: &HeaderMap) -> Result<Option<Precondition>, Problem> {
    let malformed = |name: &HeaderName, value: &HeaderValue| {
        Problem::new(
            Code::EtagHeaderInvalid,
            "The request was rejected.",
            format!(
                "{name}: {} is neither * nor a list of at most {ETAGS_MAX} ETags.",
                excerpt(value.to_str().unwrap_or_default())
            ),
        )
        .nothing_changed()
        .fix("Send the ETag of the response that you read before.")
    };
    let mut given = None;
    for value in headers.get_all(IF_MATCH) {
        let list = value.to_str().ok().and_then(etags).ok_or_else(|| malformed(&IF_MATCH, value))?;
        let mut strong = match given.take() {
            Some(Precondition::Matches(strong)) => strong,
            _ => Vec::new(),
        };
        if list.contains(&Held::Any) {
            given = Some(Precondition::Exists);
            break;
        }
        strong.extend(list.into_iter().filter_map(|held| match held {
            Held::Strong(etag) => Some(etag.to_owned()),
            Held::Any | Held::Weak(_) => None,
        }));
        given = Some(Precondition::Matches(strong));
    }
    if let Some(value) = headers.get(IF_NONE_MATCH) {
        // Other values are about reading.
        let list = value.to_str().ok().and_then(etags).ok_or_else(|| malformed(&IF_NONE_MATCH, value))?;
        given = given.or(list.contains(&Held::Any).then_some(Precondition::Absent));
    }
    Ok(given)
}

/// The key, with or without the quotes that the draft asks for.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let key = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    if key.is_empty()
        || key.len() > IdempotencyKey::KEY_MAX_CHARS
        || !key.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\')
        || headers.get_all(IDEMPOTENCY_KEY).iter().count() > 1
    {
        return Err(Problem::new(
            Code::IdempotencyKeyInvalid,
            "The request was rejected.",
            format!(
                "idempotency-key must have 1 to {} printable ASCII characters without quotes and backslashes.",
                IdempotencyKey::KEY_MAX_CHARS
            ),
        )
        .nothing_changed()
        .fix("Use a random UUID per request, and the same one when you repeat the request."));
    }
    Ok(Some(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_is_read_as_the_rfc_has_it() {
        use Held::{Any, Strong, Weak};
        for (text, read) in [
            ("*", Some(vec![Any])),
            ("\"a\"", Some(vec![Strong("a")])),
            (" \"a\" ,W/\"b,c\",  \"\" ", Some(vec![Strong("a"), Weak("b,c"), Strong("")])),
            ("", None),
            ("a.1, b", Some(vec![Strong("a.1"), Strong("b")])),
            ("\"a", None),
            ("a\"", None),
            ("a b", None),
            (",", None),
            ("\"a\" \"b\"", None),
            ("\"a\", *", None),
            ("w/\"a\"", None),
        ] {
            assert_eq!(etags(text), read, "{text}");
        }
        assert!(etags(&vec!["\"a\""; ETAGS_MAX].join(",")).is_some());
        assert!(etags(&vec!["\"a\""; ETAGS_MAX + 1].join(",")).is_none());
    }
}
