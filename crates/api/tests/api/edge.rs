//! The edge of the service under callers who send slowly, read slowly, send too much or hold connections: over real
//! connections where that matters.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{MetricsAccess, MetricsToken, ServerLimits};
use axum::{
    body::{Body, Bytes},
    http::{Method, Request},
};
use futures::stream;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    access::{authentication, claims, service},
    issuer::{Issuer, Key},
    support::{Answer, Service, Wish, archive, system_clock},
};

on_each_database!(
    a_body_with_a_key_is_read_for_known_callers_only_and_no_further_than_its_route_takes,
    a_key_of_an_upload_stands_for_its_content,
    a_key_without_an_effect_is_ignored,
    bodies_beyond_the_memory_budget_are_asked_to_retry_and_the_budget_comes_back,
    one_page_is_rendered_for_all_who_ask_within_a_second,
    requests_that_no_operation_answers_share_one_series_for_each_status,
    the_metrics_are_for_scrapers_with_the_token_or_at_a_listener_of_their_own,
    a_connection_counts_for_its_address_before_it_is_worked_on,
    readiness_is_reported_while_callers_take_every_connection_of_the_database,
    a_request_that_waits_in_vain_for_a_connection_of_a_busy_database_is_asked_to_retry,
    a_link_on_another_site_opens_a_page_and_nothing_else,
    a_request_has_one_host,
);

on_each_database!(with 2 threads:
    readers_of_the_metrics_that_never_read_hold_nothing_up,
    half_sent_heads_and_idle_connections_are_closed,
    probes_are_answered_while_unauthenticated_clients_hold_every_connection,
    the_address_with_the_most_connections_makes_room_first,
    heads_that_are_never_complete_have_a_budget_of_their_own,
    a_slow_reader_keeps_its_place_for_a_while_and_its_connection_for_another,
    unauthenticated_requests_take_a_part_of_the_places_only,
    readers_of_shared_pages_that_never_read_take_no_places,
    a_client_sees_why_its_large_body_was_rejected_although_it_sends_all_of_it_first,
    a_server_that_stops_answers_what_it_began_and_waits_for_no_other,
);

const METRICS: &str = "/data-jobs/debug/prometheus";
const MIB: usize = 1024 * 1024;

/// Longer than everything here takes, on a machine that is busy.
const SOON: Duration = Duration::from_secs(20);

/// A listener of the service. It ends with this value.
struct Listening {
    address: SocketAddr,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    _stop: DropGuard,
}

impl Service {
    async fn listen(&self, limits: ServerLimits) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = api::serve(listener, self.router(), limits, self.memory.clone(), system_clock(), stop.clone());
        Listening { address, ended: tokio::spawn(serving), _stop: stop.clone().drop_guard(), stop }
    }
}

impl Listening {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection that sent a part of a request, or all of it.
    async fn sent(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// The whole answer to a request on a connection of its own.
    async fn get(&self, path: &str) -> String {
        let text = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        rest(self.sent(&text).await).await
    }

    /// A reader that takes the first byte of an answer and no other, through a small window.
    async fn reads_nothing(&self, path: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1024).unwrap();
        let mut stream = socket.connect(self.address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        timeout(SOON, stream.peek(&mut [0])).await.expect("the answer begins").unwrap();
        stream
    }
}

/// Everything that is received until the service closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the connection is closed").unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether the service closes the connection.
async fn is_closed(stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    let closed = async { while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {} };
    timeout(SOON, closed).await.expect("the connection is closed");
}

/// A body without end, and how much of it was taken.
fn endless() -> (Body, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let piece = Bytes::from(vec![b' '; 64 * 1024]);
    let body = stream::repeat_with(move || {
        counted.fetch_add(piece.len(), Ordering::Relaxed);
        Ok::<_, std::io::Error>(piece.clone())
    });
    // Far beyond every limit, so that a reader without one comes to an end all the same.
    (Body::from_stream(futures::StreamExt::take(body, 4096)), taken)
}

impl Service {
    /// Posts an endless body with a key, and answers how much of it was read.
    async fn posts_endlessly(&self, uri: &str, media_type: &str) -> (Answer, usize) {
        let (body, taken) = endless();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header("host", "localhost")
            .header("content-type", media_type)
            .header("idempotency-key", "once");
        if let Some(token) = &*self.bearer.lock().unwrap() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = self.send(request.body(body).unwrap()).await;
        (answer, taken.load(Ordering::Relaxed))
    }
}

async fn a_body_with_a_key_is_read_for_known_callers_only_and_no_further_than_its_route_takes() {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    for (uri, media_type, most) in [
        ("/data-jobs/oauth2/token", "application/x-www-form-urlencoded", 8 * 1024),
        ("/data-jobs/oauth-credentials/client-ids", "application/octet-stream", MIB / 4),
        ("/data-jobs/for-team/t1/jobs", "application/json", 0),
        ("/data-jobs/for-team/t1/jobs/daily-sales/sources", "application/octet-stream", 0),
    ] {
        let (answer, taken) = service.posts_endlessly(uri, media_type).await;
        assert!(taken <= most + 64 * 1024, "{uri}: {taken} bytes of a stranger were read");
        assert!(matches!(answer.status.as_u16(), 401 | 413), "{uri}: {}", answer.status);
    }
    service.with_token(&key.sign(&claims(&issuer, json!({"username": "ann", "teams": ["t1"]}))));
    for (uri, media_type) in [
        ("/data-jobs/for-team/t1/jobs", "application/octet-stream"),
        ("/data-jobs/for-team/t1/jobs", "Application/JSON; charset=utf-8"),
        ("/data-jobs/graphql", "application/octet-stream"),
    ] {
        let (answer, taken) = service.posts_endlessly(uri, media_type).await;
        answer.refused(413);
        assert!(taken <= 2 * MIB + 64 * 1024, "{uri} {media_type}: {taken} bytes were read");
    }
}

async fn a_key_of_an_upload_stands_for_its_content() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    let uri = "/data-jobs/for-team/t1/jobs/daily-sales/sources";
    let upload = async |top: &str| {
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header("host", "localhost")
            .header("content-type", "application/octet-stream")
            .header("idempotency-key", "upload-1");
        service.send(request.body(Body::from(archive(top))).unwrap()).await
    };
    let first = upload("one-folder").await.ok();
    assert_eq!(upload("one-folder").await.ok(), first);
    let why = upload("another-folder").await.refused(422);
    assert!(why.contains("idempotency key"), "{why}");
}

async fn a_key_without_an_effect_is_ignored() {
    let service = Service::start().await;
    let body = Body::from(json!({"query": "{ jobs { totalItems } }"}).to_string());
    let request = Request::builder()
        .method(Method::POST)
        .uri("/data-jobs/graphql")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("idempotency-key", "not \" a key");
    service.send(request.body(body).unwrap()).await.ok();
}

async fn bodies_beyond_the_memory_budget_are_asked_to_retry_and_the_budget_comes_back() {
    let service = Service::with(Wish { memory_budget_mib: Some(1), ..Wish::default() }).await;
    service.create("t1", "daily-sales").await;
    let uri = "/data-jobs/for-team/t1/jobs/daily-sales/deployments/daily-sales/properties";
    let free = service.memory.free_bytes();
    assert_eq!(free, MIB);
    let text = |bytes: usize| json!({"text": "x".repeat(bytes)}).to_string();
    let answer = service.put(uri, text(MIB)).await;
    let why = answer.refused(429);
    assert!(why.contains("memory_budget_mib") && !answer.header("retry-after").is_empty(), "{why}");
    // Few bytes, many values.
    service.put(uri, format!("{{\"many\":[{}1]}}", "1,".repeat(25_000))).await.refused(429);
    assert_eq!(service.memory.free_bytes(), free);
    service.put(uri, text(MIB / 4)).await.is(204);
    // The reservation of a response is released with it.
    assert_eq!(service.get(uri).await.ok()["text"].as_str().unwrap().len(), MIB / 4);
    assert_eq!(service.memory.free_bytes(), free);
}

async fn readers_of_the_metrics_that_never_read_hold_nothing_up() {
    let service = Service::start().await;
    service.has_long_metrics();
    let label = |n: usize| format!("/label/{n}/");
    // No reader is ended for its slowness here.
    let patience = Duration::from_secs(3600);
    let listening = service
        .listen(ServerLimits { stall_max: patience, place_max: patience, response_max: patience, ..limits(64) })
        .await;
    let page = listening.get(METRICS).await;
    assert!(page.len() > 8 * MIB && page.contains(&label(1499)), "{}", page.len());

    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(listening.reads_nothing(METRICS).await);
        for n in 0..20 {
            let route = format!("/new/{}/{n}", readers.len());
            let metrics = service.metrics.clone();
            // On a thread of its own: it would wait for a reader for ever.
            let counted = std::thread::spawn(move || metrics.observe("GET", &route, 200, Duration::ZERO));
            let done = async {
                while !counted.is_finished() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(SOON, done).await.expect("a request is counted while a page is sent");
            assert!(listening.get("/livez").await.starts_with("HTTP/1.1 200"));
        }
        // Later pages are other pages: each reader holds its own.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let page = timeout(SOON, listening.get(METRICS)).await.expect("a page for who reads");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains(&label(0)));
    // Four pages are held at most, however many are asked for.
    assert!(service.memory.free_bytes() > 192 * MIB - 6 * page.len(), "{}", service.memory.free_bytes());
    drop(readers);
}

async fn one_page_is_rendered_for_all_who_ask_within_a_second() {
    let service = Service::start().await;
    let first = service.get(METRICS).await;
    service.metrics.observe("GET", "/fresh", 200, Duration::ZERO);
    let again = service.get(METRICS).await;
    assert!(first.status == 200 && first.bytes == again.bytes);
    assert_eq!(first.header("content-length"), first.bytes.len().to_string());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let later = service.get(METRICS).await;
    assert!(String::from_utf8(later.bytes).unwrap().contains("route=\"/fresh\""));
}

async fn requests_that_no_operation_answers_share_one_series_for_each_status() {
    let service = Service::start().await;
    let info = "/data-jobs/for-team/t1/info";
    for method in ["PUT", "POST", "DELETE"] {
        service.call(method.parse().unwrap(), info, None).await.refused(405);
    }
    for headers in [("host", "evil.example"), ("origin", "https://evil.example")] {
        let request = Request::builder().uri(info).header("host", "localhost").header(headers.0, headers.1);
        assert_ne!(service.send(request.body(Body::empty()).unwrap()).await.status, 200);
    }
    let text = String::from_utf8(service.get(METRICS).await.bytes).unwrap();
    let series: Vec<_> = text.lines().filter(|line| line.contains("_count{") && !line.contains("} 0")).collect();
    assert!(series.iter().all(|line| line.contains("route=\"none\"")), "{series:?}");
    assert!(series.iter().any(|line| line.contains("status=\"405\"")), "{series:?}");
    assert!(series.iter().any(|line| line.contains("status=\"403\"")), "{series:?}");
}

async fn the_metrics_are_for_scrapers_with_the_token_or_at_a_listener_of_their_own() {
    let token =
        || MetricsAccess { has_own_listener: false, token: Some(MetricsToken::new(&SecretString::from("s3cret"))) };
    let service = Service::with(Wish { metrics_access: token(), ..Wish::default() }).await;
    let refused = service.get(METRICS).await;
    assert!(refused.refused(401).contains("metrics token"));
    assert!(refused.header("www-authenticate").starts_with("Bearer"));
    for wrong in ["s3cre", "s3cret2", "S3cret"] {
        service.with_token(wrong).get(METRICS).await.refused(401);
    }
    assert_eq!(service.with_token("s3cret").get(METRICS).await.status, 200);

    let own = MetricsAccess { has_own_listener: true, token: None };
    let service = Service::with(Wish { metrics_access: own, ..Wish::default() }).await;
    assert!(service.get(METRICS).await.refused(404).contains("listener of their own"));
    let router = api::metrics_router(service.api());
    let ask = async |uri: &str, host: &str| {
        let request = Request::builder().uri(uri).header("host", host).body(Body::empty()).unwrap();
        tower::ServiceExt::oneshot(router.clone(), request).await.unwrap().status().as_u16()
    };
    assert_eq!(ask(METRICS, "10.1.2.3:9092").await, 200);
    assert_eq!(ask(METRICS, "evil.example").await, 403);
    assert_eq!(ask("/data-jobs/for-team/t1/info", "localhost").await, 404);
}

fn limits(connections_max: usize) -> ServerLimits {
    ServerLimits::new(connections_max)
}

async fn half_sent_heads_and_idle_connections_are_closed() {
    let service = Service::start().await;
    let short = Duration::from_millis(300);
    let listening = service.listen(ServerLimits { head_max: short, ..limits(64) }).await;
    for sent in ["", "G", "GET /livez HTTP/1.1\r\nhost: lo"] {
        is_closed(&mut listening.sent(sent).await).await;
    }
    // A head of any length is closed too, when it never ends.
    let mut dripping = listening.sent("GET /livez HTTP/1.1\r\n").await;
    let dripped = async {
        while dripping.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, dripped).await.expect("the connection is closed");

    let listening = service.listen(ServerLimits { idle_max: short, ..limits(64) }).await;
    let mut idle = listening.sent("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let mut answer = [0; 12];
    timeout(SOON, idle.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    is_closed(&mut idle).await;
}

async fn probes_are_answered_while_unauthenticated_clients_hold_every_connection() {
    let service = Service::start().await;
    let listening = service.listen(limits(16)).await;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(listening.sent("GET /livez HTTP/1.1\r\nhost: lo").await);
    }
    for _ in 0..5 {
        assert!(listening.get("/livez").await.starts_with("HTTP/1.1 200"));
        assert!(listening.get("/readyz").await.starts_with("HTTP/1.1 200"));
    }
    // The one that waits longest goes first.
    is_closed(&mut held[0]).await;
}

/// A connection of a client that has another address than the rest.
async fn from_another_address(service: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    socket.connect(service).await.unwrap()
}

/// Asks on an open connection, and returns the beginning of the answer.
async fn asked(connection: &mut TcpStream) -> String {
    connection.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 4096];
    let read = timeout(SOON, connection.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

async fn the_address_with_the_most_connections_makes_room_first() {
    let service = Service::start().await;
    let listening = service.listen(limits(16)).await;
    let mut other = from_another_address(listening.address).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        assert!(asked(&mut other).await.starts_with("HTTP/1.1 200"));
        for _ in 0..40 {
            held.push(listening.sent("GET /livez HTTP/1.1\r\nhost: lo").await);
        }
        // Accepted after all of those.
        assert!(listening.get("/livez").await.starts_with("HTTP/1.1 200"));
    }
}

/// On one thread, so that the service accepts all of them before any of their tasks has run.
async fn a_connection_counts_for_its_address_before_it_is_worked_on() {
    let service = Service::start().await;
    let listening = service.listen(limits(16)).await;
    let mut other = from_another_address(listening.address).await;
    let mut held = Vec::new();
    for round in 0..3 {
        assert!(asked(&mut other).await.starts_with("HTTP/1.1 200"), "round {round}");
        // Without a pause in which the service could do anything.
        held.extend((0..40).map(|_| std::net::TcpStream::connect(listening.address).unwrap()));
        assert!(listening.get("/livez").await.starts_with("HTTP/1.1 200"));
    }
}

async fn heads_that_are_never_complete_have_a_budget_of_their_own() {
    let service = Service::with(Wish { memory_budget_mib: Some(1), ..Wish::default() }).await;
    let listening = service.listen(limits(64)).await;
    let large = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {}", "y".repeat(100 * 1024));
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut stream = listening.connect().await;
        // It may be closed before it has sent all.
        let _ = stream.write_all(large.as_bytes()).await;
        held.push(stream);
    }
    is_closed(held.last_mut().unwrap()).await;
    assert!(listening.get("/livez").await.starts_with("HTTP/1.1 200"));
    // Not on that of requests.
    assert_eq!(service.memory.free_bytes(), MIB);
    drop(held);
    let whole = format!("{large}\r\nconnection: close\r\n\r\n");
    let free = async {
        loop {
            let mut stream = listening.connect().await;
            let mut answer = Vec::new();
            if stream.write_all(whole.as_bytes()).await.is_ok()
                && stream.read_to_end(&mut answer).await.is_ok()
                && answer.starts_with(b"HTTP/1.1 200")
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, free).await.expect("the budget comes back");

    // A head is over when the response begins, however slowly that is read.
    service.has_long_metrics();
    let mut readers = Vec::new();
    for _ in 0..16 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1024).unwrap();
        let mut stream = socket.connect(listening.address).await.unwrap();
        stream.write_all(format!("{}\r\n\r\n", large.replace("/livez", METRICS)).as_bytes()).await.unwrap();
        let read = timeout(SOON, stream.peek(&mut [0])).await.expect("the answer begins");
        assert_eq!(read.unwrap(), 1);
        readers.push(stream);
    }
}

impl Service {
    /// Makes the metrics longer than what the buffers of a connection take.
    fn has_long_metrics(&self) {
        for n in 0..1500 {
            self.metrics.observe("GET", &format!("/label/{n}/{}", "x".repeat(400)), 200, Duration::ZERO);
        }
    }
}

async fn a_slow_reader_keeps_its_place_for_a_while_and_its_connection_for_another() {
    let service = Service::with(Wish { requests_max: Some(1), ..Wish::default() }).await;
    service.deploy("t1", "daily-sales").await;
    service.reach("daily-sales").await;
    let id = service.execute("t1", "daily-sales").await;
    service.run(&id).await;
    service.end(&id, model::execution::Status::Succeeded, &"x".repeat(12 * MIB)).await;
    let log = format!("/data-jobs/for-team/t1/jobs/daily-sales/executions/{id}/logs");
    let info = "/data-jobs/for-team/t1/info";
    let place_is_free = async |listening: &Listening| {
        let free = async {
            while !listening.get(info).await.starts_with("HTTP/1.1 200") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, free).await.expect("the place comes back");
    };

    // The place comes back although nothing is read; the connection stays for a while.
    let place_max = Duration::from_millis(700);
    let listening = service.listen(ServerLimits { place_max, stall_max: SOON * 10, ..limits(64) }).await;
    let mut reader = listening.reads_nothing(&log).await;
    assert!(listening.get(info).await.starts_with("HTTP/1.1 429"), "its place is taken while the log is sent");
    assert!(service.memory.free_bytes() < 192 * MIB - MIB / 2, "what waits in memory is reserved");
    assert!(listening.get(METRICS).await.starts_with("HTTP/1.1 200"), "scrapers need no place");
    place_is_free(&listening).await;
    assert_eq!(timeout(SOON, reader.read(&mut [0; 1])).await.unwrap().unwrap(), 1);
    drop(reader);
    place_is_free(&listening).await;

    // A reader that makes no progress loses the connection, and with it the place; so does one that takes too long.
    let moment = Duration::from_millis(300);
    for limits in [
        ServerLimits { stall_max: moment, ..limits(64) },
        ServerLimits { place_max: moment, response_max: moment * 2, stall_max: SOON * 10, ..limits(64) },
    ] {
        let listening = service.listen(limits).await;
        let reader = listening.reads_nothing(&log).await;
        place_is_free(&listening).await;
        let gone = async {
            while service.memory.free_bytes() < 192 * MIB - MIB / 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, gone).await.expect("the log goes with the connection");
        drop(reader);
    }
}

async fn unauthenticated_requests_take_a_part_of_the_places_only() {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let service =
        Service::with(Wish { auth: Some(authentication(&issuer)), requests_max: Some(8), ..Wish::default() }).await;
    let listening = service.listen(limits(64)).await;
    let open = "POST /data-jobs/oauth-credentials/client-ids HTTP/1.1\r\nhost: localhost\r\n\
                content-type: application/json\r\ncontent-length: 100\r\n\r\n[";
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(listening.sent(open).await);
    }
    let info = "/data-jobs/for-team/t1/info";
    assert!(listening.get(info).await.starts_with("HTTP/1.1 401"), "a place is left for who is known");
    let form = "grant_type=refresh_token&refresh_token=x";
    let exchange = format!(
        "POST /data-jobs/oauth2/token HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    let answer = rest(listening.sent(&exchange).await).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("invalid_grant"), "{answer}");
    // One body is awaited for some seconds; the other requests are rejected at once.
    let mut slow = 0;
    for mut stream in held {
        let mut status = [0; 12];
        timeout(SOON, stream.read_exact(&mut status)).await.expect("an answer").unwrap();
        if &status == b"HTTP/1.1 408" {
            slow += 1;
            let answer = rest(stream).await;
            assert!(answer.contains("nothing of it came for 5 s"), "{answer}");
        } else {
            assert_eq!(&status, b"HTTP/1.1 429");
        }
    }
    assert!(slow >= 1);
}

async fn readers_of_shared_pages_that_never_read_take_no_places() {
    let key = Key::new("k1");
    let issuer = Issuer::start(&[&key]).await;
    let service =
        Service::with(Wish { auth: Some(authentication(&issuer)), requests_max: Some(64), ..Wish::default() }).await;
    let listening = service.listen(limits(64)).await;
    let mut readers = Vec::new();
    for path in ["/data-jobs/swagger-ui/swagger-ui-bundle.js", "/data-jobs/api-docs"] {
        for _ in 0..16 {
            let mut reader = listening.reads_nothing(path).await;
            // More than the buffers of a connection take.
            let again = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").repeat(64);
            reader.write_all(again.as_bytes()).await.unwrap();
            let mut status = [0; 12];
            timeout(SOON, reader.read_exact(&mut status)).await.unwrap().unwrap();
            assert_eq!(&status, b"HTTP/1.1 200", "{path}");
            readers.push(reader);
        }
    }
    let open = "/data-jobs/teams/t1/oauth-credentials/client-id";
    let answer = listening.get(open).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert_eq!(service.memory.free_bytes(), 192 * MIB);
    drop(readers);
}

async fn a_client_sees_why_its_large_body_was_rejected_although_it_sends_all_of_it_first() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    let listening = service.listen(limits(64)).await;
    let body = vec![b' '; 12 * MIB];
    for _ in 0..5 {
        let mut stream = listening
            .sent(&format!(
                "PUT /data-jobs/for-team/t1/jobs/daily-sales HTTP/1.1\r\nhost: localhost\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            ))
            .await;
        stream.write_all(&body).await.expect("the service takes it");
        assert!(rest(stream).await.starts_with("HTTP/1.1 413"));
    }
}

async fn a_server_that_stops_answers_what_it_began_and_waits_for_no_other() {
    let service = Service::start().await;
    service.has_long_metrics();
    let listening = service.listen(limits(64)).await;
    let held = [listening.connect().await, listening.sent("GET /li").await];
    let mut reader = listening.reads_nothing(METRICS).await;
    let address = listening.address;
    listening.stop.cancel();
    let mut answer = Vec::new();
    timeout(SOON, reader.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.len() > 8 * MIB, "{}", answer.len());
    timeout(SOON, listening.ended).await.expect("it ends").unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    drop(held);
}

async fn readiness_is_reported_while_callers_take_every_connection_of_the_database() {
    let service = Service::start().await;
    let mut pool_state = Vec::new();
    while let Ok(Ok(tx)) = timeout(Duration::from_millis(300), service.db.read()).await {
        pool_state.push(tx);
    }
    assert!(pool_state.len() >= 4);
    for path in ["/readyz", "/data-jobs/debug/health/readiness"] {
        let answer = timeout(Duration::from_secs(1), service.get(path)).await.expect("a probe is answered at once");
        assert_eq!(answer.ok()["status"], Value::from("UP"));
    }
    drop(pool_state);
    service.lose_database().await;
    assert_eq!(service.get("/readyz").await.status, 503);
}

async fn a_request_that_waits_in_vain_for_a_connection_of_a_busy_database_is_asked_to_retry() {
    let service = Service::start().await;
    // Each transaction takes a moment, and those before this request take longer than it waits.
    let (mut pool_state, asked) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..100 {
        let (db, asked) = (service.db.clone(), Arc::clone(&asked));
        pool_state.spawn(async move {
            asked.fetch_add(1, Ordering::Relaxed);
            let tx = db.read().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(tx);
        });
    }
    while asked.load(Ordering::Relaxed) < 100 {
        tokio::task::yield_now().await;
    }
    let job = "/data-jobs/for-team/t1/jobs/daily-sales";
    let answer = service.get(job).await;
    let why = answer.refused(429);
    assert!(why.contains("database"), "{why}");
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    pool_state.shutdown().await;
    service.get(job).await.refused(404);
}

async fn a_link_on_another_site_opens_a_page_and_nothing_else() {
    let service = Service::start().await;
    let ask = async |method: &str, uri: &str, dest: &str, mode: &str, more: Option<(&str, &str)>| {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "localhost:8092")
            .header("sec-fetch-site", "cross-site")
            .header("sec-fetch-dest", dest)
            .header("sec-fetch-mode", mode);
        if let Some((name, value)) = more {
            request = request.header(name, value);
        }
        service.send(request.body(Body::empty()).unwrap()).await.status.as_u16()
    };
    let pages = ["/", "/data-jobs/swagger-ui.html", "/data-jobs/graphql"];
    for page in pages {
        assert_eq!(ask("GET", page, "document", "navigate", None).await, 200, "{page}");
        for (dest, mode) in [("iframe", "navigate"), ("image", "no-cors"), ("empty", "cors"), ("document", "cors")] {
            assert_eq!(ask("GET", page, dest, mode, None).await, 403, "{page} as {dest}");
        }
        assert_eq!(ask("POST", page, "document", "navigate", None).await, 403, "{page}");
        let foreign = Some(("origin", "https://evil.example"));
        assert_eq!(ask("GET", page, "document", "navigate", foreign).await, 403, "{page}");
    }
    for address in [
        "/data-jobs/for-team/t1/jobs?query={jobs{totalItems}}",
        "/data-jobs/for-team/t1/jobs/daily-sales/executions/x/logs",
        "/data-jobs/for-team/t1/info",
        "/data-jobs/api-docs",
        METRICS,
        "/nothing",
    ] {
        let uri = address.replace('{', "%7B").replace('}', "%7D");
        assert_eq!(ask("GET", &uri, "document", "navigate", None).await, 403, "{address}");
    }
}

async fn a_request_has_one_host() {
    let service = Service::start().await;
    let request =
        Request::builder().uri("/data-jobs/for-team/t1/info").header("host", "localhost").header("host", "localhost");
    let why = service.send(request.body(Body::empty()).unwrap()).await.refused(400);
    assert!(why.contains("more than one Host header"), "{why}");
}
