//! Responses that are sent piece by piece: sources and logs. A slow reader holds a place and a little memory, and no
//! connection of the database and no thread.

use std::{io, sync::Arc, time::Duration};

use app::{
    memory::Reservation,
    places::{Place, PlaceLimits, Places},
};
use axum::body::{Body, Bytes};
use futures::stream;
use model::{Problem, access::Caller, clock::SharedClock};

use crate::{Api, principals::principal};

/// Responses that are sent piece by piece at once.
const AT_ONCE_MAX: usize = 64;
/// Requests that wait until one of them ends.
const WAITING_MAX: usize = 64;
/// How long one waits.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long one response may take, however slowly it is read.
const RESPONSE_MAX: Duration = Duration::from_secs(600);
/// Memory of one response: a piece as it comes from the database, as it is sent, and what waits to be written.
const MEMORY_BYTES: usize = 1024 * 1024;

/// The places of such responses.
pub(crate) fn places(clock: SharedClock) -> Places {
    let limits =
        PlaceLimits { what: "downloads", at_once_max: AT_ONCE_MAX, waiting_max: WAITING_MAX, wait_max: WAIT_MAX };
    Places::new(limits, clock)
}

/// Places and memory that a response holds until its end.
#[derive(Debug)]
pub(crate) struct Sending {
    _place: Place,
    _memory: Reservation,
    /// On the boot clock.
    end: Duration,
    clock: SharedClock,
}

impl Sending {
    /// Waits for a place.
    ///
    /// # Errors
    /// Overloaded without a place or without memory.
    pub(crate) async fn begin(api: &Api, caller: &Caller) -> Result<Self, Problem> {
        let place = api.transfers.streams.take(principal(caller)).await?;
        let (memory, clock) = (api.memory.reserve(MEMORY_BYTES)?, Arc::clone(&api.clock));
        Ok(Self { _place: place, _memory: memory, end: clock.boot() + RESPONSE_MAX, clock })
    }

    /// A body of the pieces that `next` answers, until it has no more. It is asked for one after the other was sent.
    pub(crate) fn body<S, F, Fut>(self, state: S, mut next: F) -> Body
    where
        S: Send + 'static,
        F: FnMut(S) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<(Bytes, S)>, Problem>> + Send + 'static,
    {
        let pieces = stream::try_unfold((self, state), move |(sending, state)| {
            let piece = next(state);
            async move {
                if sending.clock.boot() > sending.end {
                    return Err(ended_early(&format!("it took longer than {} seconds", RESPONSE_MAX.as_secs())));
                }
                match piece.await {
                    Ok(piece) => Ok(piece.map(|(piece, state)| (piece, (sending, state)))),
                    Err(problem) => Err(ended_early(&problem.to_string())),
                }
            }
        });
        Body::from_stream(pieces)
    }
}

/// The status was sent long before: the connection is closed, and the log says why.
fn ended_early(why: &str) -> io::Error {
    tracing::warn!(why, "a response was not sent to its end");
    io::Error::other(why.to_owned())
}
