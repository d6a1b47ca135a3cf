//! Which requests a session of the proxy forwards, and which of them carry the credentials of the index.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use clients::index_proxy::{IndexProxy, Session};
use clock::SystemClock;
use reqwest::{Client, Method, StatusCode, redirect::Policy};
use testing::{IndexServer, index};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

const PASSWORD: &str = "pass/word";
const AUTHORIZATION: &str = "Basic dXNlcjpwYXNzL3dvcmQ=";

fn index() -> IndexServer {
    IndexServer::start(Some(("user", PASSWORD)))
}

/// As an operator writes it in `index_url`.
fn url(index: &IndexServer) -> String {
    index.url().replace(PASSWORD, "pass%2Fword")
}

async fn session(index: &IndexServer) -> Session {
    IndexProxy::of(&url(index), &BTreeMap::new(), Arc::new(SystemClock)).unwrap().unwrap().open("t0ken").await.unwrap()
}

fn client(redirects: usize) -> Client {
    Client::builder().no_proxy().redirect(Policy::limited(redirects)).build().unwrap()
}

async fn get(url: &str) -> (StatusCode, String) {
    let response = client(3).get(url).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

/// The target of the only link.
fn link(page: &str) -> String {
    page.split_once("href=\"").unwrap().1.split_once('"').unwrap().0.to_owned()
}

#[tokio::test]
async fn pages_and_the_files_that_they_link_to_come_with_the_credentials_of_the_index() {
    let index = index();
    let (file, content) = index::wheel("some", "1.0");
    index.add("some", &file, content.clone());
    index.answer(&format!("/files/{file}.metadata"), "text/plain", "Name: some");
    let session = session(&index).await;
    assert!(session.index_url().starts_with("http://127.0.0.1:") && session.index_url().ends_with("/t0ken/simple"));

    let (status, page) = get(&format!("{}/some/", session.index_url())).await;
    assert_eq!(status, StatusCode::OK);
    let link = link(&page);
    let (target, hash) = link.split_once("#sha256=").unwrap();
    assert_eq!(target, session.index_url().replace("/simple", &format!("/files/{file}")));
    assert_eq!(hash.len(), 64);
    let response = client(0).get(target).send().await.unwrap();
    assert_eq!(response.bytes().await.unwrap(), content);
    assert_eq!(get(&format!("{target}.metadata")).await, (StatusCode::OK, "Name: some".into()));
    assert!(index.requests().iter().all(|r| r.authorization.as_deref() == Some(AUTHORIZATION)));
    assert_eq!(session.without_proxy(target), format!("{}/files/{file}", index.origin()));
}

#[tokio::test]
async fn nothing_else_on_the_host_of_the_index_is_forwarded() {
    let index = index();
    index.answer("/api/token", "text/plain", "a token");
    index.answer("/simple/some/source.zip", "text/plain", "private");
    index.answer("/files/unlinked.whl", "text/plain", "private");
    index.answer("/simple/other/", "text/html", "<a href=\"/api/token\">t</a><a href=\"/files/linked.whl\">l</a>");
    let session = session(&index).await;
    let root = session.index_url().strip_suffix("/simple").unwrap();
    assert_eq!(get(&format!("{root}/simple/other/")).await.0, StatusCode::OK);
    for path in [
        "/api/token",
        "/simple/",
        "/simple/some/source.zip",
        "/simple/some/?x=1",
        "/simple/%2e%2e/api/token",
        "/simple/..%2fapi%2ftoken",
        "/files/unlinked.whl",
        "/files/linked.whl?x=1",
        "//127.0.0.1/api/token",
        "",
    ] {
        assert_eq!(get(&format!("{root}{path}")).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(index.requests().len(), 1);
    let posted = client(0).request(Method::POST, format!("{root}/simple/other/")).send().await.unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn only_the_token_of_a_living_session_opens_it() {
    let index = index();
    let (file, content) = index::wheel("some", "1.0");
    index.add("some", &file, content);
    let session = session(&index).await;
    let page = format!("{}/some/", session.index_url());
    assert_eq!(get(&page).await.0, StatusCode::OK);
    for other in ["/t0kem/", "/t0ke/", "/t0kenn/", "/"] {
        assert_eq!(get(&page.replace("/t0ken/", other)).await.0, StatusCode::NOT_FOUND, "{other}");
    }
    let keeps_alive = client(0);
    assert_eq!(keeps_alive.get(&page).send().await.unwrap().status(), StatusCode::OK);
    drop(session);
    tokio::task::yield_now().await;
    assert!(keeps_alive.get(&page).send().await.unwrap_err().is_request());
    assert_eq!(index.requests().len(), 2);
}

#[tokio::test]
async fn another_origin_gets_no_credentials() {
    let index = index();
    let elsewhere = IndexServer::start_at(Ipv4Addr::new(127, 0, 0, 2).into(), None);
    elsewhere.answer("/moved.whl", "text/plain", "moved");
    elsewhere.answer("/linked.whl", "text/plain", "linked");
    elsewhere.answer("/page", "text/plain", "page");
    index.redirect("/files/moved.whl", &format!("{}/moved.whl", elsewhere.origin()));
    index.redirect("/files/near.whl", "/files/here.whl");
    index.answer("/files/here.whl", "text/plain", "here");
    index.redirect("/simple/page/", &format!("{}/page", elsewhere.origin()));
    index.answer(
        "/simple/some/",
        "text/html",
        &format!(
            "<a href='/files/moved.whl'>m</a><a href='/files/near.whl'>n</a><a href='http://user:{}@{}/linked.whl'>l</a>",
            "x",
            &elsewhere.origin()["http://".len()..]
        ),
    );
    let session = session(&index).await;
    let root = session.index_url().strip_suffix("/simple").unwrap();
    let (_, page) = get(&format!("{root}/simple/some/")).await;
    assert_eq!(
        page,
        format!(
            "<a href=\"{root}/files/moved.whl\">m</a><a href=\"{root}/files/near.whl\">n</a><a href=\"{}/linked.whl\">l</a>",
            elsewhere.origin()
        )
    );
    assert_eq!(get(&format!("{root}/files/moved.whl")).await.1, "moved");
    assert_eq!(get(&format!("{root}/files/near.whl")).await.1, "here");
    assert_eq!(get(&format!("{root}/simple/page/")).await.1, "page");
    let seen = elsewhere.requests();
    assert_eq!(seen.iter().map(|r| r.path.as_str()).collect::<Vec<_>>(), ["/moved.whl", "/page"]);
    assert!(seen.iter().all(|r| r.authorization.is_none()));
    // Left to the client, who has none.
    let answer = client(0).get(format!("{root}/files/moved.whl")).send().await;
    assert!(answer.unwrap_err().is_redirect());
}

#[tokio::test]
async fn links_of_every_form_lead_through_the_session() {
    let index = index();
    let page = "<!-- <a href=\"/no\"> --><html><base href=\"/base/\"><a class='x>y' HREF = '../a.whl?x=1&amp;y=2#sha256=0'\
                data-requires-python=\"&gt;=3.7\">a</a><a href=unquoted.whl>u</a><a data-href=\"d.whl\">d</a><p title=\"<a\">";
    index.answer("/simple/html/", "text/html; charset=utf-8", page);
    index.answer(
        "/simple/json/",
        "application/vnd.pypi.simple.v1+json",
        r#"{"name":"json","files":[{"url":"../../files/j.whl","hashes":{}},{"url":"https://other.example/o.whl"}]}"#,
    );
    index.answer("/simple/text/", "text/plain", "no page");
    index.answer("/simple/list/", "application/json", "[1]");
    index.answer("/simple/empty/", "application/json", r#"{ "files": [ ], "meta": {"api-version":"1.0"} }"#);
    index.answer("/simple/latin/", "text/html", "<a href=\"\u{e9}.whl\">\u{e9}</a>");
    let session = session(&index).await;
    let root = session.index_url().strip_suffix("/simple").unwrap();
    let (_, html) = get(&format!("{root}/simple/html/")).await;
    assert_eq!(
        html,
        format!(
            "<html><a class='x>y' HREF = \"{root}/a.whl?x=1&amp;y=2#sha256=0\"\
             data-requires-python=\"&gt;=3.7\">a</a><a>u</a><a>d</a><p title=\"<a\">"
        )
    );
    let (_, json) = get(&format!("{root}/simple/json/")).await;
    assert_eq!(
        json,
        format!(
            r#"{{"name":"json","files":[{{"url":"{root}/files/j.whl","hashes":{{}}}},{{"url":"https://other.example/o.whl"}}]}}"#
        )
    );
    assert_eq!(get(&format!("{root}/files/j.whl")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(index.requests().last().unwrap().path, "/files/j.whl");
    for (page, told) in [
        ("/simple/text/", "a project page is neither HTML nor JSON"),
        ("/simple/list/", "a project page is not valid JSON"),
    ] {
        assert_eq!(get(&format!("{root}{page}")).await, (StatusCode::BAD_GATEWAY, told.into()));
    }
    assert_eq!(get(&format!("{root}/simple/empty/")).await.1, r#"{"files":[],"meta":{"api-version":"1.0"}}"#);
    let (_, latin) = get(&format!("{root}/simple/latin/")).await;
    assert_eq!(latin, format!("<a href=\"{root}/simple/latin/%C3%A9.whl\">\u{e9}</a>"));
}

#[tokio::test]
async fn what_the_index_says_beside_a_refusal_stays_here() {
    let index = index();
    let wrong = index.url().replace(PASSWORD, "wrong");
    let proxy = IndexProxy::of(&wrong, &BTreeMap::new(), Arc::new(SystemClock)).unwrap().unwrap();
    assert!(!format!("{proxy:?}").contains("wrong"));
    let session = proxy.open("t").await.unwrap();
    let refused = client(0).get(format!("{}/some/", session.index_url())).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(refused.headers().get("www-authenticate"), None);
    drop(index);
    let unreachable = "it can't be reached".to_owned();
    assert_eq!(get(&format!("{}/some/", session.index_url())).await, (StatusCode::BAD_GATEWAY, unreachable));
}

#[tokio::test]
async fn the_proxies_of_the_environment_are_on_the_way_to_the_index() {
    let (index, between) = (index(), IndexServer::start(None));
    between.answer("/simple/some/", "text/html", "from between");
    let via = |no_proxy: &str| {
        let environment = [("http_proxy", between.origin()), ("no_proxy", no_proxy.to_owned())];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
        IndexProxy::of(&url(&index), &environment, Arc::new(SystemClock)).unwrap().unwrap()
    };
    let session = via("").open("t").await.unwrap();
    assert_eq!(get(&format!("{}/some/", session.index_url())).await.1, "from between");
    let session = via("127.0.0.1").open("t").await.unwrap();
    assert_eq!(get(&format!("{}/some/", session.index_url())).await.0, StatusCode::NOT_FOUND);
    assert_eq!((index.requests().len(), between.requests().len()), (1, 1));
}

#[test]
fn an_index_without_credentials_needs_no_proxy() {
    for url in ["https://index.example/simple", "file:///srv/simple", "file://user@host/simple", "no url"] {
        assert!(IndexProxy::of(url, &BTreeMap::new(), Arc::new(SystemClock)).unwrap().is_none(), "{url}");
    }
    let bad = [("HTTPS_PROXY".to_owned(), "http://secret@:bad".to_owned())].into();
    let told = IndexProxy::of("https://token@index.example/simple", &bad, Arc::new(SystemClock)).unwrap_err();
    assert_eq!(told, "the variable HTTPS_PROXY is not the URL of a proxy");
}

/// So long that neither the buffers of the kernel nor those of the server hold a page of it.
const LONG_BYTES: usize = 3 * 1024 * 1024;

/// An index with a long page `big`, a short page `small`, and a page `linking` to a long file.
fn index_of_long_answers() -> IndexServer {
    let index = index();
    let page = "<a href=\"/x.whl\">x</a>\n";
    index.answer("/simple/big/", "text/html", &page.repeat(LONG_BYTES / page.len() + 1));
    index.answer("/simple/small/", "text/html", "small");
    index.answer("/simple/linking/", "text/html", "<a href=\"/files/big.whl\">b</a>");
    index.answer("/files/big.whl", "text/plain", &"x".repeat(2 * LONG_BYTES));
    index
}

fn proxy(index: &IndexServer, stall_limit: Duration) -> IndexProxy {
    IndexProxy::of(&url(index), &BTreeMap::new(), Arc::new(SystemClock)).unwrap().unwrap().with_stall_limit(stall_limit)
}

/// Asks for a URL without reading the answer. The kernel buffers little of it.
async fn ask(url: &str) -> TcpStream {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

/// Waits for the status of an answer.
async fn status(stream: &mut TcpStream) -> u16 {
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line).await.unwrap();
    std::str::from_utf8(&line).unwrap().split_once(' ').unwrap().1.parse().unwrap()
}

/// The rest of an answer, until the connection ends in whatever way.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    all
}

fn requests(index: &IndexServer, path: &str) -> usize {
    index.requests().iter().filter(|r| r.path == path).count()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
}

#[tokio::test]
async fn two_pages_without_a_reader_delay_others_until_the_stall_limit_ends_their_connections() {
    let stall_limit = Duration::from_secs(3);
    let index = index_of_long_answers();
    let proxy = proxy(&index, stall_limit);
    let mut first_answered = None;
    let mut stalled = Vec::new();
    for token in ["a", "b"] {
        let session = proxy.open(token).await.unwrap();
        let mut stream = ask(&format!("{}/big/", session.index_url())).await;
        assert_eq!(status(&mut stream).await, 200);
        first_answered.get_or_insert_with(Instant::now);
        stalled.push((session, stream));
    }
    let honest = proxy.open("c").await.unwrap();
    assert_eq!(get(&format!("{}/small/", honest.index_url())).await, (StatusCode::OK, "small".into()));
    // Its limit began shortly before its status arrived here.
    let held = first_answered.expect("an answer").elapsed() + Duration::from_millis(300);
    assert!(held >= stall_limit, "more than two pages are held: {held:?}");
    // Its place is the one that the answer got.
    assert!(rest(&mut stalled[0].1).await.len() < LONG_BYTES);
}

#[tokio::test]
async fn a_page_that_is_read_too_slowly_is_cut_off() {
    let index = index_of_long_answers();
    let session = proxy(&index, Duration::from_millis(500)).open("t").await.unwrap();
    let mut stream = ask(&format!("{}/big/", session.index_url())).await;
    let mut bytes = 0;
    let mut part = vec![0; 8 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut part).await {
        bytes += read;
        assert!(bytes < LONG_BYTES, "the page was read whole");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(bytes > 0);
}

#[tokio::test]
async fn a_session_holds_one_page_and_eight_connections() {
    let index = index_of_long_answers();
    let proxy = proxy(&index, Duration::from_secs(60));
    let hostile = proxy.open("a").await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..12 {
        stalled.push(ask(&format!("{}/big/", hostile.index_url())).await);
    }
    until(|| requests(&index, "/simple/big/") == 8).await;
    assert_eq!(status(&mut stalled[0]).await, 200);

    let honest = proxy.open("b").await.unwrap();
    for _ in 0..20 {
        assert_eq!(get(&format!("{}/small/", honest.index_url())).await.1, "small");
    }
    assert_eq!(requests(&index, "/simple/big/"), 8);
    let (_, page) = get(&format!("{}/big/", honest.index_url())).await;
    assert!(page.len() > LONG_BYTES && page.ends_with("</a>\n"), "{}", page.len());
    drop(stalled.remove(0));
    until(|| requests(&index, "/simple/big/") == 10).await;
    assert_eq!(status(&mut stalled[0]).await, 200);
}

#[tokio::test]
async fn a_request_waits_for_the_pages_before_it_no_longer_than_four_stall_limits() {
    let index = index_of_long_answers();
    let session = proxy(&index, Duration::from_millis(500)).open("t").await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..8 {
        stalled.push(ask(&format!("{}/big/", session.index_url())).await);
    }
    until(|| requests(&index, "/simple/big/") == 8).await;
    let mut pages = 0;
    for stream in &mut stalled {
        if status(stream).await == 200 {
            pages += 1;
            continue;
        }
        let told = String::from_utf8(rest(stream).await).unwrap();
        let why = "other project pages are still being read (limits 1 per build and 2 in all); gave up after 2 s";
        assert!(told.starts_with(" Service Unavailable") && told.ends_with(&format!("\r\n\r\n{why}")), "{told}");
    }
    assert!((1..=5).contains(&pages), "{pages}");
}

#[tokio::test]
async fn a_file_without_a_reader_loses_its_connection() {
    let index = index_of_long_answers();
    let session = proxy(&index, Duration::from_millis(500)).open("t").await.unwrap();
    let file = format!("{}/files/big.whl", session.index_url().strip_suffix("/simple").unwrap());
    assert_eq!(get(&format!("{}/linking/", session.index_url())).await.0, StatusCode::OK);
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut stream = ask(&file).await;
        assert_eq!(status(&mut stream).await, 200);
        stalled.push(stream);
    }
    // All places are taken, so that this answer needs the end of one.
    assert_eq!(get(&file).await.1.len(), 2 * LONG_BYTES);
    assert!(rest(&mut stalled[0]).await.len() < LONG_BYTES);
}

#[tokio::test]
async fn pages_have_a_limit_before_and_after_they_are_rewritten() {
    const MIB: usize = 1024 * 1024;
    let index = index();
    index.answer("/simple/long/", "text/html", &"x".repeat(16 * MIB + 1));
    index.answer("/simple/longer/", "text/html", &"<a href=\"/\">".repeat(MIB));
    let files = vec![r#"{"url":"/"}"#; MIB].join(",");
    index.answer("/simple/json/", "application/json", &format!(r#"{{"files":[{files}]}}"#));
    let session = session(&index).await;
    let too_long = "a project page is too long once its links lead through the proxy (limit 32 MiB)";
    for (project, told) in [
        ("long", "a project page can't be read: the answer has more than 16777216 bytes"),
        ("longer", too_long),
        ("json", too_long),
    ] {
        let answer = get(&format!("{}/{project}/", session.index_url())).await;
        assert_eq!(answer, (StatusCode::BAD_GATEWAY, told.into()), "{project}");
    }
}
