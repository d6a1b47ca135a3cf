//! Requests that a caller gave a name are carried out once: a verb asks first whether its outcome is known, and keeps it in
//! the transaction of its change.

use model::{Problem, access::Caller, problem::Code};
use serde::{Serialize, de::DeserializeOwned};
use store::{Tx, idempotency::Claim};

/// The outcome of an earlier request with the same idempotency key. Looked up first in the transaction.
///
/// # Errors
/// Contradictory when the caller gave the name to another request.
pub(crate) async fn outcome<T: DeserializeOwned>(
    tx: &mut Tx,
    caller: &Caller,
    now: jiff::Timestamp,
) -> Result<Option<T>, Problem> {
    let Some(idempotency_key) = &caller.preconditions.idempotency_key else { return Ok(None) };
    match store::idempotency::claim(tx, &caller.user, idempotency_key, now).await? {
        Claim::First => Ok(None),
        Claim::Repeated(outcome) => serde_json::from_str(&outcome).map(Some).map_err(|_| {
            Problem::new(
                Code::IdempotentOutcomeUnreadable,
                "The outcome of the earlier request can't be returned.",
                "It is stored in a form that this version does not know.",
            )
            .follows("This request changed nothing.")
            .fix("Check whether the change was applied; if not, send it with a new idempotency key.")
        }),
        Claim::Another => Err(Problem::new(
            Code::IdempotencyKeyReused,
            "The request was rejected.",
            "Its idempotency key was used before, with another request.",
        )
        .nothing_changed()
        .fix("Use a new key for each request, and repeat a request unchanged.")),
    }
}

/// Keeps what came of the request. The last thing before the commit.
pub(crate) async fn keep<T: Serialize>(tx: &mut Tx, caller: &Caller, outcome: &T) -> Result<(), Problem> {
    let Some(idempotency_key) = &caller.preconditions.idempotency_key else { return Ok(()) };
    let outcome = serde_json::to_string(outcome).expect("outcomes are names and numbers");
    Ok(store::idempotency::record(tx, &caller.user, idempotency_key, &outcome).await?)
}
