//! How much is taken on at once, and how long an answer may take.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use model::Problem;
use tokio::{sync::Semaphore, time::timeout};

use crate::{Api, error::Failure};

/// The most bytes of a JSON body.
pub(crate) const JSON_MAX_BYTES: usize = 2 * 1024 * 1024;

/// How much is taken on at once, and how long an answer may take. Probes are outside of it.
#[derive(Debug)]
pub struct Limits {
    places: Semaphore,
    timeout: Duration,
}

impl Limits {
    /// At most `requests_max` requests at once, each answered within `timeout`.
    pub fn new(requests_max: usize, timeout: Duration) -> Self {
        Self { places: Semaphore::new(requests_max), timeout }
    }
}

/// Turns away what is too much at once, before any of it is done, and gives up on what takes too long.
pub(crate) async fn admit(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Ok(_place) = api.limits.places.try_acquire() else {
        return Failure::from(
            Problem::overloaded(
                "The request was not carried out.",
                "The service works on as many requests as it takes on at once.",
            )
            .follows("Nothing was changed.")
            .fix("Try again in a few seconds."),
        )
        .into_response();
    };
    match timeout(api.limits.timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::from(
            Problem::unavailable(
                "The request was given up.",
                format!("It took longer than {} seconds.", api.limits.timeout.as_secs()),
            )
            .follows("What it was to change may or may not have been changed."),
        )
        .into_response(),
    }
}
