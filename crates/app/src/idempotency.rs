//! Requests that a caller gave a name are carried out once: a verb asks first whether its outcome is known, and keeps it in
//! the transaction of its change.

use model::{Problem, access::Caller};
use serde::{Serialize, de::DeserializeOwned};
use store::{Tx, idempotency::Claim};

/// What came of the same request before, when it has a name and was carried out. Asked first in the transaction.
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
            Problem::internal(
                "The request was not repeated.",
                "What came of it the first time is stored in another form.",
            )
        }),
        Claim::Another => Err(Problem::idempotency_conflict(
            "The request was not carried out.",
            "Its idempotency key was sent before, with another request.",
        )
        .fix("Give each request a key of its own, and repeat a request with nothing changed.")),
    }
}

/// Keeps what came of the request. The last thing before the commit.
pub(crate) async fn keep<T: Serialize>(tx: &mut Tx, caller: &Caller, outcome: &T) -> Result<(), Problem> {
    let Some(idempotency_key) = &caller.preconditions.idempotency_key else { return Ok(()) };
    let outcome = serde_json::to_string(outcome).expect("outcomes are names and numbers");
    Ok(store::idempotency::record(tx, &caller.user, idempotency_key, &outcome).await?)
}
