//! Limits of requests: how many are in progress at once, how long a response may take, and how long a body may be awaited.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use app::{
    memory::Reservation,
    places::{self, NoPlace},
};
use axum::{
    BoxError,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::body::{Frame, SizeHint};
use model::{
    Problem,
    access::{Caller, Identity},
    clock::{SharedClock, Timer},
    problem::Code,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Api, auth,
    error::ApiError,
    memory::RequestMemory,
    paths::{METRICS_PATH, TOKEN_PATH},
    principals::principal,
};

/// The most bytes of a JSON body.
pub(crate) const JSON_MAX_BYTES: usize = 2 * 1024 * 1024;

/// The most bytes of a JSON body from a caller who is not authenticated although authentication is on.
pub(crate) const UNAUTHENTICATED_JSON_MAX_BYTES: usize = 256 * 1024;

/// A response up to this size is not reserved in the memory budget.
const SMALL_RESPONSE_BYTES: usize = 64 * 1024;

/// How long the next piece of a request body is awaited.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(15);

/// The same for a caller who is not authenticated, and how long the whole body is awaited then.
const UNAUTHENTICATED_BODY_PAUSE_MAX: Duration = Duration::from_secs(5);
const UNAUTHENTICATED_BODY_MAX: Duration = Duration::from_secs(10);

/// Callers who are not authenticated get one place for this many of the others, and so does the token endpoint.
const UNAUTHENTICATED_PART: usize = 8;

/// Limits of all requests together. Probes are outside of them.
#[derive(Debug)]
pub struct Limits {
    /// Places of callers who may be known. All others have places of their own, or they could take those that are reserved.
    places: Arc<Semaphore>,
    /// Places of callers who are not authenticated.
    strangers: Arc<Semaphore>,
    /// Places of the token endpoint, so that callers of the other open routes can't keep jobs from their tokens.
    tokens: Arc<Semaphore>,
    requests_max: usize,
    timeout: Duration,
}

impl Limits {
    /// At most `requests_max` requests at once, each answered within `timeout`.
    pub fn new(requests_max: usize, timeout: Duration) -> Self {
        let part = requests_max.div_ceil(UNAUTHENTICATED_PART);
        Self {
            places: Arc::new(Semaphore::new(requests_max)),
            strangers: Arc::new(Semaphore::new(part)),
            tokens: Arc::new(Semaphore::new(part)),
            requests_max,
            timeout,
        }
    }
}

/// The place of a request among those in progress, and the memory of its response. The response keeps both until its last
/// byte is sent; the server takes the place away from a slow reader.
#[derive(Debug, Clone)]
pub(crate) struct Place(Arc<Held>);

#[derive(Debug)]
struct Held {
    permits: Mutex<Permits>,
    reserved: Mutex<Reservation>,
}

#[derive(Debug, Default)]
#[expect(dead_code, reason = "places are held until they are dropped")]
struct Permits {
    of_all: Option<OwnedSemaphorePermit>,
    of_caller: Option<places::Place>,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, reserved: Reservation) -> Self {
        let permits = Permits { of_all: Some(permit), of_caller: None };
        Self(Arc::new(Held { permits: Mutex::new(permits), reserved: Mutex::new(reserved) }))
    }

    fn permits(&self) -> MutexGuard<'_, Permits> {
        self.0.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a place among those of the caller as well.
    fn add(&self, of_caller: places::Place) {
        self.permits().of_caller = Some(of_caller);
    }

    /// Gives the place to other requests. The memory stays reserved.
    pub(crate) fn release(&self) {
        *self.permits() = Permits::default();
    }

    fn reserve(&self, bytes: usize) -> Result<(), Problem> {
        self.0.reserved.lock().unwrap_or_else(PoisonError::into_inner).grow(bytes)
    }
}

/// Rejects requests beyond the limit before any of their work is done, and gives up on those that take too long.
pub(crate) async fn admit(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    // A scraper is answered under any load. It costs no work: all of them share one page.
    if request.uri().path() == METRICS_PATH {
        return next.run(request).await;
    }
    let limits = &api.limits;
    let is_unauthenticated = api.auth.is_some() && auth::is_open(&request);
    let of_part = if request.uri().path() == TOKEN_PATH { &limits.tokens } else { &limits.strangers };
    let places = if is_unauthenticated { of_part } else { &limits.places };
    let Ok(permit) = Arc::clone(places).try_acquire_owned() else {
        return pool_exhausted(limits.requests_max).into_response();
    };
    let place = Place::new(permit, api.memory.reservation());
    request.extensions_mut().insert(place.clone());
    let memory = RequestMemory::new(&api.memory);
    request.extensions_mut().insert(memory.clone());
    if !request.body().is_end_stream() {
        let waits = if is_unauthenticated {
            BodyWaits { pause_max: UNAUTHENTICATED_BODY_PAUSE_MAX, total_max: UNAUTHENTICATED_BODY_MAX }
        } else {
            BodyWaits { pause_max: BODY_PAUSE_MAX, total_max: limits.timeout }
        };
        request = request.map(|body| Body::new(AwaitedBody::new(body, waits, Arc::clone(&api.clock))));
    }
    let may_change = !request.method().is_safe();
    match api.clock.timeout(limits.timeout, next.run(request)).await {
        Ok(response) if response.body().is_end_stream() => response,
        // Slow readers of a shared page take up a connection each and nothing else.
        Ok(response) if response.extensions().get::<Shared>().is_some() => response,
        Ok(mut response) => {
            let bytes = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
            // A response that waits in memory for its reader counts as the requests in progress do.
            if bytes > SMALL_RESPONSE_BYTES
                && let Err(problem) = place.reserve(bytes)
                && !may_change
            {
                return ApiError::from(problem).into_response();
            }
            response.extensions_mut().insert(place.clone());
            response.map(|inner| Body::new(PlacedBody { inner, _place: place }))
        }
        Err(_) => ApiError::from(
            Problem::new(
                Code::RequestTimeout,
                "The request was cancelled.",
                format!("It took longer than {} seconds.", limits.timeout.as_secs()),
            )
            .follows("The change may or may not have been made.")
            .fix("Read the resource before you send the request again."),
        )
        .into_response(),
    }
}

/// Leaves half of the places to other callers, and the last ones to callers that have none ([`places::Places`]). It comes after
/// authentication, and counts only callers who are known.
pub(crate) async fn share(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().filter(|caller| caller.identity != Identity::Unauthenticated);
    if let Some(principal) = caller.and_then(principal) {
        let requests_max = api.limits.requests_max;
        let own = match api.transfers.shares.try_take(Some(principal)) {
            Ok(own) => own,
            Err(NoPlace::OfPrincipal) => {
                return ApiError::from(
                    Problem::new(
                        Code::TooManyRequestsOfCaller,
                        "The request was rejected.",
                        format!(
                            "One caller has too many concurrent requests (limit: half of {requests_max}, \
                            `requests_max`)."
                        ),
                    )
                    .nothing_changed()
                    .fix("Send fewer requests at the same time."),
                )
                .into_response();
            }
            Err(NoPlace::OfAll) => return pool_exhausted(requests_max).into_response(),
        };
        if let Some(place) = request.extensions().get::<Place>() {
            place.add(own);
        }
    }
    next.run(request).await
}

fn pool_exhausted(requests_max: usize) -> ApiError {
    Problem::new(
        Code::TooManyRequests,
        "The request was rejected.",
        format!("Too many concurrent requests (limit {requests_max}, `requests_max`)."),
    )
    .nothing_changed()
    .fix("Retry in a few seconds.")
    .into()
}

/// Marks a response whose body is memory that all readers share. Its place is released when the response begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared;

/// A response body that keeps the place of its request.
struct PlacedBody {
    inner: Body,
    _place: Place,
}

impl HttpBody for PlacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How long a body is awaited.
#[derive(Debug, Clone, Copy)]
struct BodyWaits {
    pause_max: Duration,
    total_max: Duration,
}

/// A request body that ends with an error if the client does not send it in time.
struct AwaitedBody {
    inner: Body,
    waits: BodyWaits,
    /// On the boot clock.
    begun: Duration,
    /// Runs while a piece is awaited.
    timer: Timer,
    clock: SharedClock,
    is_waiting: bool,
}

impl AwaitedBody {
    fn new(inner: Body, waits: BodyWaits, clock: SharedClock) -> Self {
        let begun = clock.boot();
        let timer = Timer::new(Arc::clone(&clock), begun);
        Self { inner, waits, begun, timer, clock, is_waiting: false }
    }
}

/// A request body that the client did not send in time.
#[derive(Debug)]
pub(crate) struct BodyTooSlow {
    waits: BodyWaits,
    paused: bool,
}

impl fmt::Display for BodyTooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.paused {
            write!(f, "nothing of it came for {} s", self.waits.pause_max.as_secs_f64())
        } else {
            write!(f, "it was not complete after {} s", self.waits.total_max.as_secs_f64())
        }
    }
}

impl std::error::Error for BodyTooSlow {}

impl HttpBody for AwaitedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.is_waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let end = this.begun + this.waits.total_max;
        if !std::mem::replace(&mut this.is_waiting, true) {
            let pause_end = this.clock.boot() + this.waits.pause_max;
            this.timer.reset(pause_end.min(end));
        }
        ready!(this.timer.poll(cx));
        let paused = this.timer.end() < end;
        Poll::Ready(Some(Err(Box::new(BodyTooSlow { waits: this.waits, paused }))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use clock::SystemClock;
    use futures::{StreamExt, stream};
    use model::clock::Clock;

    use super::*;

    fn dripping(pause: Duration, pieces: usize) -> Body {
        let drops = stream::iter(0..pieces).then(move |_| async move {
            <dyn Clock>::sleep(&SystemClock, pause).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
        });
        Body::from_stream(drops)
    }

    async fn read(waits: BodyWaits, pause: Duration, pieces: usize) -> Result<usize, String> {
        let body = Body::new(AwaitedBody::new(dripping(pause, pieces), waits, Arc::new(SystemClock)));
        let reading = to_bytes(body, usize::MAX);
        let read = <dyn Clock>::timeout(&SystemClock, Duration::from_secs(10), reading).await;
        let read = read.expect("it is not awaited longer");
        read.map(|bytes| bytes.len()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_body_is_awaited_as_long_as_it_comes_and_not_longer_than_in_total() {
        const NEVER: Duration = Duration::from_secs(3600);
        let waits = |pause_max, total_max| BodyWaits { pause_max, total_max };
        let moment = Duration::from_millis(20);
        assert_eq!(read(waits(NEVER, NEVER), moment, 3).await, Ok(3));
        // Each pause counts for itself.
        assert_eq!(read(waits(Duration::from_secs(1), NEVER), Duration::from_millis(150), 10).await, Ok(10));
        assert_eq!(read(waits(moment, NEVER), NEVER, 1).await, Err("nothing of it came for 0.02 s".into()));
        assert_eq!(read(waits(NEVER, moment), NEVER, 1).await, Err("it was not complete after 0.02 s".into()));
        // However often a piece comes.
        assert_eq!(read(waits(NEVER, moment * 3), moment, 1000).await, Err("it was not complete after 0.06 s".into()));
    }
}
