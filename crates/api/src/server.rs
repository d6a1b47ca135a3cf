//! The HTTP/1.1 server: accepts connections and ends those that hold resources without making progress.
//!
//! A connection waits for a request, is handled, sends its response, and waits again. Each state has a time limit, so that
//! neither half-sent heads nor slow readers stay. When every connection is taken, one that waits for a complete request
//! makes room, the oldest of the address that has the most connections: probes get in however many strangers hold
//! connections open ([decision 0039](../../../docs/decisions/0039-own-http-server-that-makes-room.md)).

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    io,
    mem::MaybeUninit,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use app::memory::{MemoryBudget, Reservation};
use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
};
use futures::FutureExt as _;
use hyper::{
    Request,
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use model::clock::{SharedClock, Timer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::limits::Place;

/// The most bytes of a request's line and headers, and of what is read or written at once on a connection.
const BUFFER_MAX_BYTES: usize = 128 * 1024;

/// A head up to this size is not reserved in the budget of heads.
const SMALL_HEAD_BYTES: usize = 8 * 1024;

/// The most memory of large heads together, in MiB: a sixth of the memory budget in addition to it, and no more than 32.
/// Heads come before authentication, so they must not take the memory of requests.
const HEADS_PART: usize = 6;
const HEADS_MAX_MIB: usize = 32;

/// A response that is blocked by its reader must move this many bytes within [`ServerLimits::stall_max`].
const PROGRESS_BYTES: usize = 32 * 1024;

/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection that is to make room may take for it, and how many are asked to for one that comes. A connection
/// whose request is complete at that very moment declines, and the next one is asked at once.
const EVICTION_MAX: Duration = Duration::from_secs(1);
const EVICTIONS_MAX: usize = 3;

/// How long the rest of a body that was rejected is read and dropped after the response: closing at once would reset the
/// connection, and the client would not see the response.
const LINGER_MAX: Duration = Duration::from_secs(3);

/// How long a request that is on its way is awaited when the server stops.
const STOP_HEAD_MAX: Duration = Duration::from_secs(1);

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// The most connections at once.
    pub connections_max: usize,
    /// How long the line and the headers of a request may take.
    pub head_max: Duration,
    /// How long a connection may wait for its next request.
    pub idle_max: Duration,
    /// How long a response may be blocked by its reader without progress.
    pub stall_max: Duration,
    /// How long a response that is being sent keeps its place among the requests in progress.
    pub place_max: Duration,
    /// How long a response may take to be sent.
    pub response_max: Duration,
}

impl ServerLimits {
    /// The usual time limits with at most this many connections.
    pub fn new(connections_max: usize) -> Self {
        Self {
            connections_max,
            head_max: Duration::from_secs(10),
            idle_max: Duration::from_secs(75),
            stall_max: Duration::from_secs(15),
            place_max: Duration::from_secs(60),
            response_max: Duration::from_secs(300),
        }
    }
}

/// Serves `router` on `listener` until `stop`, then ends after the requests in progress. When the future is dropped, every
/// connection ends at once. Large heads have a budget of their own, whose size follows from that of `memory`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    memory: MemoryBudget,
    clock: SharedClock,
    stop: CancellationToken,
) {
    let heads_mib = (memory.total_bytes() / (HEADS_PART * 1024 * 1024)).clamp(1, HEADS_MAX_MIB);
    let server = Arc::new(Server {
        limits,
        clock,
        heads: MemoryBudget::new(heads_mib),
        places: Arc::new(Semaphore::new(limits.connections_max)),
        evictable: Mutex::default(),
        declined: Notify::new(),
        stop: stop.clone(),
        abort: CancellationToken::new(),
    });
    let _abort = server.abort.clone().drop_guard();
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(permit) = server.room().await {
                    // Before its task runs: the next connection may need its room, and must not take that of an address
                    // which has fewer.
                    let progress = Arc::new(Progress::new(Arc::clone(&server), peer.ip()));
                    connections.spawn(connection(stream, progress, permit, router.clone()));
                } else {
                    tracing::debug!(%peer, "a connection was refused: every other one is working on a request");
                }
            }
            Err(error) if is_of_peer(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted; trying again");
                server.evict();
                server.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Whether a connection broke before it was accepted.
fn is_of_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[derive(Debug)]
struct Server {
    limits: ServerLimits,
    clock: SharedClock,
    /// The memory of large heads.
    heads: MemoryBudget,
    places: Arc<Semaphore>,
    evictable: Mutex<Evictable>,
    /// Notified when a connection that was to make room works on a request instead.
    declined: Notify,
    stop: CancellationToken,
    abort: CancellationToken,
}

/// The connections that may be ended to make room, in this order.
#[derive(Debug, Default)]
struct Evictable {
    last: u64,
    connections: BTreeMap<Rank, Evicted>,
    /// How many connections each address has.
    peers: HashMap<IpAddr, Arc<AtomicUsize>>,
}

/// A handle that ends a connection, and the number of connections of its address.
#[derive(Debug, Clone)]
struct Evicted {
    notify: Arc<Notify>,
    of_peer: Arc<AtomicUsize>,
}

/// Connections without a complete request go before those that send a response; the oldest of each first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_sending: bool,
    since: u64,
}

impl Server {
    fn evictable(&self) -> MutexGuard<'_, Evictable> {
        self.evictable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection that is to go first: without a complete request, that of the address with the most connections.
    /// `false` when each works on a request.
    fn evict(&self) -> bool {
        let mut evictable = self.evictable();
        let waiting = evictable.connections.range(..Rank { is_sending: true, since: 0 });
        // The last one of those with the most, which is the oldest here.
        let first = waiting.rev().max_by_key(|(_, evicted)| evicted.of_peer.load(Ordering::Relaxed));
        let first = first.or_else(|| evictable.connections.first_key_value()).map(|(rank, _)| *rank);
        let evicted = first.and_then(|rank| evictable.connections.remove(&rank));
        evicted.inspect(|evicted| evicted.notify.notify_one()).is_some()
    }

    /// Room for one more connection, if need be that of another one.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(permit);
        }
        for _ in 0..EVICTIONS_MAX {
            // A connection that declined earlier does not answer for this one.
            let _ = self.declined.notified().now_or_never();
            if !self.evict() {
                break;
            }
            tokio::select! {
                permit = Arc::clone(&self.places).acquire_owned() => return permit.ok(),
                () = self.declined.notified() => {}
                () = self.clock.sleep(EVICTION_MAX) => {}
            }
        }
        None
    }
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for its first request.
    New,
    /// Waits for another request.
    Idle,
    /// Reads the head of a request.
    Head,
    /// Works on a request.
    Handling,
    /// Sends a response.
    Sending,
}

/// The state of one connection, which its reader, its writer and its service follow.
#[derive(Debug)]
struct Progress {
    server: Arc<Server>,
    peer: IpAddr,
    evicted: Evicted,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// On the boot clock.
    since: Duration,
    rank: Option<Rank>,
    head_bytes: usize,
    /// For the bytes of a large head.
    reserved: Option<Reservation>,
    /// The place of the request among those in progress.
    place: Option<Place>,
    /// The place was taken away, because the response takes long.
    is_released: bool,
    /// The whole body was handed to the writer.
    is_complete: bool,
    /// The body of the request was not read to its end.
    is_unread: bool,
}

impl Progress {
    fn new(server: Arc<Server>, peer: IpAddr) -> Self {
        let state = State {
            phase: Phase::New,
            since: server.clock.boot(),
            rank: None,
            head_bytes: 0,
            reserved: None,
            place: None,
            is_released: false,
            is_complete: false,
            is_unread: false,
        };
        let of_peer = {
            let mut evictable = server.evictable();
            let of_peer = evictable.peers.entry(peer).or_default();
            // Under the lock: the last connection of an address takes the count away.
            of_peer.fetch_add(1, Ordering::Relaxed);
            Arc::clone(of_peer)
        };
        let evicted = Evicted { notify: Arc::default(), of_peer };
        let progress = Self { server, peer, evicted, state: Mutex::new(state) };
        progress.enter(&mut progress.state(), Phase::New);
        progress
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, state: &mut State, phase: Phase) {
        (state.phase, state.since) = (phase, self.server.clock.boot());
        // The place in the order is that of the beginning of the wait, not that of the first byte of the head.
        if phase != Phase::Head {
            let mut evictable = self.server.evictable();
            if let Some(rank) = state.rank.take() {
                evictable.connections.remove(&rank);
            }
            if phase != Phase::Handling {
                evictable.last += 1;
                let rank = Rank { is_sending: phase == Phase::Sending, since: evictable.last };
                evictable.connections.insert(rank, self.evicted.clone());
                state.rank = Some(rank);
            }
        }
    }

    /// Bytes came in. `false` when there is no memory for a head of this size.
    fn read(&self, bytes: usize) -> bool {
        let mut state = self.state();
        match state.phase {
            Phase::New | Phase::Idle => self.enter(&mut state, Phase::Head),
            Phase::Head => {}
            Phase::Handling | Phase::Sending => return true,
        }
        state.head_bytes += bytes;
        if state.head_bytes <= SMALL_HEAD_BYTES {
            return true;
        }
        // The buffer of a connection may be twice as large as what it holds.
        let most = (2 * state.head_bytes).min(BUFFER_MAX_BYTES);
        let reserved = state.reserved.get_or_insert_with(|| self.server.heads.reservation());
        reserved.grow(most.saturating_sub(reserved.bytes())).is_ok()
    }

    /// A request is complete up to its body.
    fn begin(&self, has_body: bool) {
        let mut state = self.state();
        state.is_unread = has_body;
        self.enter(&mut state, Phase::Handling);
    }

    /// The body of the request was read to its end.
    fn received(&self) {
        self.state().is_unread = false;
    }

    /// The response begins.
    fn respond(&self, place: Option<Place>) {
        let mut state = self.state();
        (state.place, state.is_released, state.is_complete) = (place, false, false);
        // The head went with the request.
        (state.reserved, state.head_bytes) = (None, 0);
        self.enter(&mut state, Phase::Sending);
    }

    /// The whole response was handed to the writer.
    fn complete(&self) {
        self.state().is_complete = true;
    }

    /// Nothing waits to be written.
    fn flushed(&self) {
        let mut state = self.state();
        if state.phase == Phase::Sending && state.is_complete {
            state.place = None;
            self.enter(&mut state, Phase::Idle);
        }
    }

    /// When the next limit is reached, on the boot clock; `None` while a request is worked on, which has limits of its own.
    fn deadline(&self) -> Option<Duration> {
        let limits = &self.server.limits;
        let state = self.state();
        let most = match state.phase {
            Phase::New | Phase::Head => limits.head_max,
            Phase::Idle => limits.idle_max,
            Phase::Handling => return None,
            Phase::Sending if state.place.is_some() && !state.is_released => limits.place_max,
            Phase::Sending => limits.response_max,
        };
        Some(state.since + most)
    }

    /// A limit is reached. `false` when the connection has to end.
    fn late(&self) -> bool {
        let mut state = self.state();
        if state.phase == Phase::Sending
            && !state.is_released
            && let Some(place) = &state.place
        {
            place.release();
            state.is_released = true;
            return true;
        }
        false
    }

    fn is_handling(&self) -> bool {
        self.state().phase == Phase::Handling
    }

    /// Whether no request is complete.
    fn is_waiting(&self) -> bool {
        matches!(self.state().phase, Phase::New | Phase::Idle | Phase::Head)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let rank = self.state().rank;
        let mut evictable = self.server.evictable();
        if let Some(rank) = rank {
            evictable.connections.remove(&rank);
        }
        if self.evicted.of_peer.fetch_sub(1, Ordering::Relaxed) == 1 {
            evictable.peers.remove(&self.peer);
        }
    }
}

async fn connection(stream: TcpStream, progress: Arc<Progress>, permit: OwnedSemaphorePermit, router: Router) {
    let _ = stream.set_nodelay(true);
    let server = Arc::clone(&progress.server);
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&progress)));
    let of_service = Arc::clone(&progress);
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, progress) = (router.clone(), Arc::clone(&of_service));
        async move {
            progress.begin(!request.body().is_end_stream());
            let request = request.map(|inner| ReceivedBody { inner, progress: Arc::clone(&progress) });
            let Ok(mut response) = router.oneshot(request).await;
            progress.respond(response.extensions_mut().remove());
            Ok::<_, std::convert::Infallible>(response.map(|inner| SentBody { inner, progress }))
        }
    });
    let serving = http1::Builder::new().max_buf_size(BUFFER_MAX_BYTES).serve_connection(io, service);
    let mut serving = pin!(serving);
    let (mut evicted, mut stop) = (pin!(progress.evicted.notify.notified()), pin!(server.stop.cancelled()));
    let (mut abort, clock) = (pin!(server.abort.cancelled()), &server.clock);
    let mut timer = Timer::new(Arc::clone(clock), clock.boot() + server.limits.head_max);
    let mut stopping: Option<Duration> = None;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
            return Poll::Ready(ended.err().map(|error| error.to_string()));
        }
        if abort.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some("the server stopped".into()));
        }
        if evicted.as_mut().poll(cx).is_ready() {
            if !progress.is_handling() {
                return Poll::Ready(Some("it made room for another connection".into()));
            }
            server.declined.notify_one();
            evicted.set(progress.evicted.notify.notified());
            let _ = evicted.as_mut().poll(cx);
        }
        if stopping.is_none() && stop.as_mut().poll(cx).is_ready() {
            stopping = Some(clock.boot());
            serving.as_mut().graceful_shutdown();
            if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
                return Poll::Ready(ended.err().map(|error| error.to_string()));
            }
        }
        loop {
            let mut deadline = progress.deadline();
            if let Some(at) = stopping.filter(|_| progress.is_waiting()) {
                deadline = deadline.map(|deadline| deadline.min(at + STOP_HEAD_MAX));
            }
            let Some(deadline) = deadline else { return Poll::Pending };
            // The timer is moved only where it would be late: a request that is quick leaves it as it is.
            if deadline < timer.end() {
                timer.reset(deadline);
            }
            if timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if clock.boot() >= deadline && !progress.late() {
                return Poll::Ready(Some("it made no progress in time".into()));
            }
            let now = clock.boot();
            let next = progress.deadline().unwrap_or(now + server.limits.idle_max);
            timer.reset(next.max(now + Duration::from_millis(1)));
        }
    })
    .await;
    if let Some(why) = ended {
        tracing::debug!(peer = %progress.peer, why, "a connection ended");
    }
    drop(permit);
}

/// A request body that reports when it was read to its end.
struct ReceivedBody {
    inner: Incoming,
    progress: Arc<Progress>,
}

impl HttpBody for ReceivedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.inner.is_end_stream() {
            self.progress.received();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response body that reports when it is over.
struct SentBody {
    inner: Body,
    progress: Arc<Progress>,
}

impl HttpBody for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for SentBody {
    fn drop(&mut self) {
        self.progress.complete();
    }
}

/// A stream whose reads and writes are followed.
struct Watched {
    stream: TcpStream,
    progress: Arc<Progress>,
    stall: Stall,
    /// Runs after the response to a request whose body was not read.
    linger: Option<Timer>,
}

/// How long a writer was blocked for the last [`PROGRESS_BYTES`].
struct Stall {
    blocked: Duration,
    /// On the boot clock.
    since: Option<Duration>,
    moved: usize,
    timer: Timer,
}

impl Watched {
    fn new(stream: TcpStream, progress: Arc<Progress>) -> Self {
        let timer = Timer::new(Arc::clone(&progress.server.clock), Duration::ZERO);
        let stall = Stall { blocked: Duration::ZERO, since: None, moved: 0, timer };
        Self { stream, progress, stall, linger: None }
    }

    fn written(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let (stall, clock) = (&mut self.stall, &self.progress.server.clock);
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                stall.blocked += stall.since.take().map_or(Duration::ZERO, |since| clock.boot().saturating_sub(since));
                stall.moved += bytes;
                if stall.moved >= PROGRESS_BYTES {
                    (stall.moved, stall.blocked) = (0, Duration::ZERO);
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let most = self.progress.server.limits.stall_max;
                let end = *stall.since.get_or_insert_with(|| clock.boot()) + most.saturating_sub(stall.blocked);
                stall.timer.reset(end);
                stall.timer.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = buffer.filled().len() - before;
        if bytes > 0 && !self.progress.read(bytes) {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.written(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.progress.flushed();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        if !this.progress.state().is_unread {
            return Poll::Ready(Ok(()));
        }
        let clock = &this.progress.server.clock;
        let linger = this.linger.get_or_insert_with(|| Timer::new(Arc::clone(clock), clock.boot() + LINGER_MAX));
        let mut dropped = [MaybeUninit::uninit(); 8 * 1024];
        while linger.poll(cx).is_pending() {
            let mut dropped = ReadBuf::uninit(&mut dropped);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut dropped)) {
                Ok(()) if !dropped.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
