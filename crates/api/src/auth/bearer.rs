//! Tokens of issuers: whose they are, whether they are genuine, and whether they count now.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{DecodingKey, Validation, dangerous, decode, decode_header, jwk::Jwk};
use model::{Problem, access::unknown_caller, name::excerpt, problem::Code};
use serde_json::{Map, Value};

use super::{ALGORITHMS, Authentication};

/// The claims of a token.
pub(super) type Claims = Map<String, Value>;

/// The most keys that a signature is tried with, when a token does not name its key.
const KEYS_TRIED_MAX: usize = 10;

/// The kinds of token that a header may name (`typ`), in lower case: a header may also leave it out. Access tokens are of
/// one of them; tokens for other purposes, such as logout tokens and DPoP proofs, name kinds of their own.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// Values of the claim `typ` with which some issuers mark tokens other than access tokens, while the header says `JWT`.
const NOT_ACCESS: [&str; 4] = ["ID", "Refresh", "Offline", "Logout"];

/// The issuer and the claims of a token that is genuine and counts.
///
/// # Errors
/// Unauthenticated for any other token, Unavailable when the issuer's keys can't be had.
pub(super) async fn verified<'a>(
    auth: &'a Authentication,
    token: &str,
    now: Timestamp,
) -> Result<(&'a str, Claims), Problem> {
    let unreadable = || unknown_caller(Code::AccessTokenInvalid, "Its access token is not a signed JSON Web Token.");
    check_header(token)?;
    // A token without a signature has an algorithm that the library does not know.
    let head = decode_header(token).map_err(|_| unreadable())?;
    if !ALGORITHMS.contains(&head.alg) || !auth.algorithms.contains(&head.alg) {
        return Err(unknown_caller(
            Code::AccessTokenInvalid,
            format!("Its access token is signed with {:?}, which is not accepted here (`auth.algorithms`).", head.alg),
        ));
    }
    // Nothing that it says counts before its signature is checked, but it says whose keys to check it with.
    let said: Claims = dangerous::insecure_decode_claims(token).map_err(|_| unreadable())?;
    let issuer = said.get("iss").and_then(Value::as_str).unwrap_or_default();
    let Some(issuer) = auth.issuers.iter().find(|known| *known == issuer) else {
        return Err(unknown_caller(
            Code::AccessTokenUntrusted,
            format!("Its access token was issued by {}, which is not one of `auth.issuers`.", excerpt(issuer)),
        ));
    };
    let keys = auth.keys.keys(issuer, head.kid.as_deref()).await?;
    if keys.is_empty() {
        return Err(unknown_caller(
            Code::AccessTokenUntrusted,
            format!("Its access token is signed with a key that {} does not have.", excerpt(issuer)),
        ));
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
        return Err(unknown_caller(
            Code::AccessTokenUntrusted,
            format!("The signature of its access token is not one of {}.", excerpt(issuer)),
        ));
    };
    counts(auth, &genuine.claims, now)?;
    Ok((issuer, genuine.claims))
}

/// Refuses a header that asks for what is not understood here, or names another kind of token. RFC 7515 (4.1.11)
/// requires that a token with an unknown critical extension is rejected, and none is known here.
fn check_header(token: &str) -> Result<(), Problem> {
    let unreadable = || unknown_caller(Code::AccessTokenInvalid, "Its access token is not a signed JSON Web Token.");
    let (head, _) = token.split_once('.').ok_or_else(unreadable)?;
    let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| unreadable())?;
    let head: Map<String, Value> = serde_json::from_slice(&head).map_err(|_| unreadable())?;
    if head.contains_key("crit") || head.get("b64").is_some_and(|encoded| *encoded != Value::Bool(true)) {
        return Err(unknown_caller(
            Code::AccessTokenInvalid,
            "The header of its access token asks for an extension (crit or b64) that is not supported here.",
        ));
    }
    let kind = match head.get("typ") {
        None | Some(Value::Null) => return Ok(()),
        Some(kind) => kind.as_str().unwrap_or_default().to_ascii_lowercase(),
    };
    if TYPES.contains(&kind.strip_prefix("application/").unwrap_or(&kind)) {
        return Ok(());
    }
    Err(unknown_caller(
        Code::AccessTokenInvalid,
        format!(
            "Its token is not an access token: its header has the type (typ) {}, where JWT, \
                    at+jwt or none is expected.",
            excerpt(&kind)
        ),
    ))
}

/// Whether a genuine token counts now and here.
fn counts(auth: &Authentication, claims: &Claims, now: Timestamp) -> Result<(), Problem> {
    let kind = match claims.get("typ") {
        None | Some(Value::Null) => "",
        Some(Value::String(kind)) => kind.as_str(),
        Some(_) => {
            return Err(unknown_caller(Code::AccessTokenInvalid, "The claim typ of its access token is not a text."));
        }
    };
    if NOT_ACCESS.iter().any(|other| other.eq_ignore_ascii_case(kind)) {
        return Err(unknown_caller(
            Code::AccessTokenInvalid,
            format!(
                "Its token is not an access token: its claim typ is {}. Send the access token of the same login.",
                excerpt(kind)
            ),
        ));
    }
    let (now, leeway) = (now.as_second(), auth.leeway_seconds);
    let instant = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => {
            #[expect(clippy::cast_possible_truncation, reason = "an instant that is cut off is far off all the same")]
            let seconds = number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64));
            Ok(seconds)
        }
        Some(_) => Err(unknown_caller(
            Code::AccessTokenInvalid,
            format!("The claim {name} of its access token is not a number."),
        )),
    };
    match instant("exp")? {
        None => return Err(unknown_caller(Code::AccessTokenInvalid, "Its access token has no expiry (exp).")),
        Some(end) if end.saturating_add(leeway) <= now => {
            return Err(unknown_caller(Code::AccessTokenExpired, "Its access token has expired."));
        }
        Some(_) => {}
    }
    if instant("nbf")?.is_some_and(|begin| begin.saturating_sub(leeway) > now) {
        return Err(unknown_caller(Code::AccessTokenNotYetValid, "Its access token is not valid yet (nbf)."));
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
    Err(unknown_caller(
        Code::AccessTokenAudienceMismatch,
        "Its access token is for another service: its audience (aud) is not in `auth.audiences`.",
    ))
}
