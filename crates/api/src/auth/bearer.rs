//! Tokens of issuers: whose they are, whether they are genuine, and whether they count now.

use jiff::Timestamp;
use jsonwebtoken::{DecodingKey, Validation, dangerous, decode, decode_header, jwk::Jwk};
use model::{Problem, access::unknown_caller, name::shown};
use serde_json::{Map, Value};

use super::{ALGORITHMS, Authentication};

/// What a token says.
pub(super) type Claims = Map<String, Value>;

/// The most keys that a signature is tried with, when a token does not name its key.
const KEYS_TRIED_MAX: usize = 10;

/// The claims of a token that is genuine and counts.
///
/// # Errors
/// Unauthenticated for any other token, Unavailable when the issuer's keys can't be had.
pub(super) async fn verified(auth: &Authentication, token: &str, now: Timestamp) -> Result<Claims, Problem> {
    let unreadable = || unknown_caller("Its access token is not a signed JSON Web Token.");
    // A token without a signature has an algorithm that the library does not know.
    let head = decode_header(token).map_err(|_| unreadable())?;
    if !ALGORITHMS.contains(&head.alg) || !auth.algorithms.contains(&head.alg) {
        return Err(unknown_caller(format!(
            "Its access token is signed with {:?}, which does not count here.",
            head.alg
        )));
    }
    // Nothing that it says counts before its signature is checked, but it says whose keys to check it with.
    let said: Claims = dangerous::insecure_decode_claims(token).map_err(|_| unreadable())?;
    let issuer = said.get("iss").and_then(Value::as_str).unwrap_or_default();
    let Some(issuer) = auth.issuers.iter().find(|known| *known == issuer) else {
        return Err(unknown_caller(format!(
            "Its access token was issued by {}, whose tokens do not count here.",
            shown(issuer)
        )));
    };
    let keys = auth.keys.keys(issuer, head.kid.as_deref()).await?;
    if keys.is_empty() {
        return Err(unknown_caller(format!(
            "Its access token is signed with a key that {} does not have.",
            shown(issuer)
        )));
    }
    let mut validation = Validation::new(head.alg);
    // Times, audience and issuer are checked here, by the service's own clock and in its own words.
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    let genuine = keys.iter().take(KEYS_TRIED_MAX).find_map(|key| {
        let key: Jwk = serde_json::from_value(key.clone()).ok()?;
        let fits = key.common.key_algorithm.is_none_or(|of_key| of_key.to_string() == format!("{:?}", head.alg));
        let key = DecodingKey::from_jwk(&key).ok().filter(|key| fits && key.family() == head.alg.family())?;
        decode::<Claims>(token, &key, &validation).ok()
    });
    let Some(genuine) = genuine else {
        return Err(unknown_caller(format!("The signature of its access token is not one of {}.", shown(issuer))));
    };
    counts(auth, &genuine.claims, now)?;
    Ok(genuine.claims)
}

/// Whether a genuine token counts now and here.
fn counts(auth: &Authentication, claims: &Claims, now: Timestamp) -> Result<(), Problem> {
    let (now, leeway) = (now.as_second(), auth.leeway_seconds);
    let instant = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => {
            #[expect(clippy::cast_possible_truncation, reason = "an instant that is cut off is far off all the same")]
            let seconds = number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64));
            Ok(seconds)
        }
        Some(_) => Err(unknown_caller(format!("The claim {name} of its access token is not a number."))),
    };
    match instant("exp")? {
        None => return Err(unknown_caller("Its access token has no end (exp), so it does not count.")),
        Some(end) if end.saturating_add(leeway) <= now => {
            return Err(unknown_caller("Its access token has expired."));
        }
        Some(_) => {}
    }
    if instant("nbf")?.is_some_and(|begin| begin.saturating_sub(leeway) > now) {
        return Err(unknown_caller("Its access token does not count yet."));
    }
    let is_for = |name: &Value| name.as_str().is_some_and(|name| auth.audiences.iter().any(|own| own == name));
    let fits = match claims.get("aud") {
        Some(Value::Array(names)) => names.iter().any(is_for),
        Some(name) => is_for(name),
        None => false,
    };
    if auth.audiences.is_empty() || fits {
        return Ok(());
    }
    Err(unknown_caller("Its access token is for another service: its audience (aud) is not this one's."))
}
