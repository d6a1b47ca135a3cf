//! A package index of a test's own, with credentials, and the packages that it serves.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    io::{Cursor, Write as _},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::Engine as _;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use zip::write::SimpleFileOptions;

use crate::background::Background;

/// A package index (PEP 503) on the loopback address. It has a thread of its own, and ends when it is dropped.
///
/// Project pages are at `/simple/<project>/`, files at `/files/<name>`. With credentials, a request without them gets 401,
/// whatever its path.
#[derive(Debug)]
pub struct IndexServer {
    background: Background,
    shared: Arc<Shared>,
    credentials: Option<(String, String)>,
}

/// A request as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRequest {
    /// Its path, with the query.
    pub path: String,
    /// Its `Authorization` header.
    pub authorization: Option<String>,
}

#[derive(Debug)]
struct Shared {
    authorization: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The files of each project, with their SHA-256.
    projects: BTreeMap<String, Vec<(String, String)>>,
    bodies: BTreeMap<String, (&'static str, Bytes)>,
    redirects: BTreeMap<String, String>,
    requests: Vec<IndexRequest>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IndexServer {
    /// Starts one that serves nothing yet, on 127.0.0.1. `credentials` are a user name and a password.
    ///
    /// # Panics
    /// When no port is free.
    pub fn start(credentials: Option<(&str, &str)>) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), credentials)
    }

    /// The same on another loopback address, such as 127.0.0.2: another host.
    ///
    /// # Panics
    /// When no port is free.
    pub fn start_at(address: IpAddr, credentials: Option<(&str, &str)>) -> Self {
        let encode = |(user, password)| base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let shared = Arc::new(Shared {
            authorization: credentials.map(|c| format!("Basic {}", encode(c))),
            state: Mutex::default(),
        });
        let serving = shared.clone();
        let background = Background::start(address, async move |listener| accept(&listener, &serving).await);
        Self { background, shared, credentials: credentials.map(|(u, p)| (u.to_owned(), p.to_owned())) }
    }

    /// The origin, `http://127.0.0.1:1234`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.background.address())
    }

    /// The URL of the index with its credentials.
    pub fn url(&self) -> String {
        let credentials = self.credentials.as_ref().map(|(u, p)| format!("{u}:{p}@")).unwrap_or_default();
        format!("http://{credentials}{}/simple", self.background.address())
    }

    /// Offers a file of a project.
    pub fn add(&self, project: &str, file: &str, content: Vec<u8>) {
        let hash = hex::encode(Sha256::digest(&content));
        let mut state = self.shared.state();
        state.bodies.insert(format!("/files/{file}"), ("application/octet-stream", content.into()));
        state.projects.entry(project.to_owned()).or_default().push((file.to_owned(), hash));
    }

    /// Answers requests for a path with this text.
    pub fn answer(&self, path: &str, media: &'static str, text: &str) {
        self.shared.state().bodies.insert(path.to_owned(), (media, text.to_owned().into()));
    }

    /// Answers requests for a path with a redirect.
    pub fn redirect(&self, path: &str, to: &str) {
        self.shared.state().redirects.insert(path.to_owned(), to.to_owned());
    }

    /// All requests since the start.
    pub fn requests(&self) -> Vec<IndexRequest> {
        self.shared.state().requests.clone()
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&shared, &request);
                async { Ok::<_, Infallible>(answer) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let authorization = request.headers().get(AUTHORIZATION).and_then(|a| a.to_str().ok()).map(str::to_owned);
    let mut state = shared.state();
    state.requests.push(IndexRequest { path: path.clone(), authorization: authorization.clone() });
    let builder = Response::builder();
    let answer = if shared.authorization.is_some() && shared.authorization != authorization {
        builder.status(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, "Basic").body(Full::default())
    } else if let Some(to) = state.redirects.get(&path) {
        builder.status(StatusCode::FOUND).header(LOCATION, to).body(Full::default())
    } else if let Some((media, body)) = state.bodies.get(&path) {
        builder.header(CONTENT_TYPE, *media).body(Full::new(body.clone()))
    } else if let Some(files) = path.strip_prefix("/simple/").and_then(|p| state.projects.get(p.trim_end_matches('/')))
    {
        let mut links = String::new();
        for (file, hash) in files {
            let _ = writeln!(links, "<a href=\"../../files/{file}#sha256={hash}\">{file}</a>");
        }
        let page = format!("<!DOCTYPE html><html><body>\n{links}</body></html>");
        builder.header(CONTENT_TYPE, "text/html").body(Full::new(page.into()))
    } else {
        builder.status(StatusCode::NOT_FOUND).body(Full::default())
    };
    answer.expect("a response")
}

/// The wheel of a package with one module, which says its version.
pub fn wheel(name: &str, version: &str) -> (String, Vec<u8>) {
    wheel_with(name, version, "", None)
}

/// The same with more in the module, and with a command that calls its `main`.
pub fn wheel_with(name: &str, version: &str, module: &str, command: Option<&str>) -> (String, Vec<u8>) {
    let commands = command.map(|c| format!("[console_scripts]\n{c} = {name}:main\n")).unwrap_or_default();
    let info = format!("{name}-{version}.dist-info");
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    let content = archive(&[
        (&format!("{name}/__init__.py"), &format!("VERSION = {version:?}\n{module}")),
        (&format!("{info}/entry_points.txt"), &commands),
        (&format!("{info}/METADATA"), &metadata),
        (&format!("{info}/WHEEL"), "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        (
            &format!("{info}/RECORD"),
            &format!(
                "{name}/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/entry_points.txt,,\n{info}/RECORD,,\n"
            ),
        ),
    ]);
    (format!("{name}-{version}-py3-none-any.whl"), content)
}

/// The source of a package that is built by `hooks`, a Python module. The module gets `wheel(directory)`, which writes the
/// package's wheel there and returns its name; what it does beside that is the test's.
pub fn source(name: &str, version: &str, hooks: &str) -> (String, Vec<u8>) {
    let root = format!("{name}-{version}");
    let backend = format!("NAME, VERSION = {name:?}, {version:?}\n{BACKEND}\n{hooks}");
    let content = archive(&[
        (
            &format!("{root}/pyproject.toml"),
            "[build-system]\nrequires = []\nbuild-backend = \"hooks\"\nbackend-path = [\".\"]\n",
        ),
        (&format!("{root}/PKG-INFO"), &format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")),
        (&format!("{root}/hooks.py"), &backend),
    ]);
    (format!("{root}.zip"), content)
}

const BACKEND: &str = r#"
import os, zipfile

def wheel(directory, text="", name=NAME):
    info = "%s-%s.dist-info/" % (name, VERSION)
    file = "%s-%s-py3-none-any.whl" % (name, VERSION)
    with zipfile.ZipFile(os.path.join(directory, file), "w") as out:
        out.writestr(NAME + "/__init__.py", "VERSION = %r\n%s" % (VERSION, text))
        out.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: %s\nVersion: %s\n" % (name, VERSION))
        out.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(info + "RECORD", NAME + "/__init__.py,,\n" + "".join(info + f + ",,\n" for f in ("METADATA", "WHEEL", "RECORD")))
    return file

def build_wheel(directory, config_settings=None, metadata_directory=None):
    return wheel(directory)
"#;

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        out.start_file(*name, SimpleFileOptions::default()).expect("an entry");
        out.write_all(text.as_bytes()).expect("an entry");
    }
    out.finish().expect("an archive").into_inner()
}
