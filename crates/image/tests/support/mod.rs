//! A registry that does what a test tells it.

#![allow(dead_code, unreachable_pub, reason = "each program of tests uses a part of it")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use clock::SystemClock;
use image::{
    oci::{Digest, Reference},
    registry::{Blob, Registries, RegistryOptions, Repository},
};

/// A request without its body.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }

    pub fn authorization(&self) -> &str {
        self.headers.get("authorization").map_or("", String::as_str)
    }
}

/// The response to a request.
pub enum Act {
    /// The registry does what it should.
    Pass,
    /// This is the answer.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection ends after so many bytes of the body.
    BreakAfter(usize),
    /// Nothing is read and nothing is answered.
    Silence,
}

#[derive(Default)]
pub struct Stored {
    pub blobs: BTreeMap<(String, String), Vec<u8>>,
    pub manifests: BTreeMap<(String, String), Vec<u8>>,
    pub uploads: BTreeMap<String, Vec<u8>>,
    pub opened: usize,
    pub abandoned: usize,
    pub requests: Vec<Request>,
}

type Script = Box<dyn FnMut(&Request) -> Act + Send>;

/// A registry in memory, over plain HTTP.
pub struct Registry {
    pub address: String,
    pub stored: Arc<Mutex<Stored>>,
}

impl Registry {
    pub fn with(script: impl FnMut(&Request) -> Act + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stored = Arc::<Mutex<Stored>>::default();
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let (own, at) = (stored.clone(), address.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (stored, script, at) = (own.clone(), script.clone(), at.clone());
                std::thread::spawn(move || serve(connection, &stored, &script, &at));
            }
        });
        Self { address, stored }
    }

    pub fn good() -> Self {
        Self::with(|_| Act::Pass)
    }

    pub fn options(&self) -> RegistryOptions {
        RegistryOptions {
            plain_http: vec![self.address.clone()],
            attempts_max: 3,
            pause: Duration::from_millis(5),
            pause_max: Duration::from_secs(2),
            silence_max: Duration::from_secs(5),
            ..RegistryOptions::new(Arc::new(SystemClock))
        }
    }

    pub fn repository_with(&self, name: &str, options: RegistryOptions) -> Repository {
        let reference = Reference::parse(&format!("{}/{name}", self.address)).unwrap();
        Arc::new(Registries::new(options).unwrap()).repository(&reference)
    }

    pub fn repository(&self, name: &str) -> Repository {
        self.repository_with(name, self.options())
    }

    pub fn asked(&self, method: &str, part: &str) -> usize {
        self.stored.lock().unwrap().requests.iter().filter(|request| request.is(method, part)).count()
    }

    pub fn has(&self, name: &str, blob: &Blob) -> bool {
        self.stored.lock().unwrap().blobs.contains_key(&(name.to_owned(), blob.digest.to_string()))
    }
}

fn serve(mut connection: TcpStream, stored: &Mutex<Stored>, script: &Mutex<Script>, at: &str) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut first = String::new();
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request { method, path: path.to_owned(), query: query.to_owned(), headers };
    let act = script.lock().unwrap()(&request);
    stored.lock().unwrap().requests.push(request.clone());
    let length: usize = request.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    let (status, headers, content) = match act {
        Act::Silence => {
            SystemClock.block_for(Duration::from_secs(20));
            return;
        }
        Act::BreakAfter(bytes) => {
            let _ = reader.read_exact(&mut body[..bytes.min(length)]);
            return;
        }
        Act::Answer(status, headers, content) => {
            let _ = reader.read_exact(&mut body);
            (status, headers, content.into_bytes())
        }
        Act::Pass => {
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            answer(&request, body, &mut stored.lock().unwrap(), at)
        }
    };
    let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", content.len());
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = connection.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let _ = connection.write_all(&content);
    }
}

type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

fn answer(request: &Request, body: Vec<u8>, stored: &mut Stored, at: &str) -> Answer {
    let path = request.path.strip_prefix("/v2/").unwrap();
    let query: BTreeMap<String, String> = url::form_urlencoded::parse(request.query.as_bytes()).into_owned().collect();
    let location =
        |name: &str, id: &str| vec![("Location", format!("http://{at}/v2/{name}/blobs/uploads/{id}?state=x"))];
    let of =
        |content: Option<&Vec<u8>>| content.map_or((404, vec![], vec![]), |content| (200, vec![], content.clone()));
    if let Some((name, version)) = path.split_once("/manifests/") {
        let key = (name.to_owned(), version.to_owned());
        if request.method == "PUT" {
            let digest = Digest::of(&body).to_string();
            stored.manifests.insert((name.to_owned(), digest), body.clone());
            stored.manifests.insert(key, body);
            return (201, vec![], vec![]);
        }
        return of(stored.manifests.get(&key));
    }
    if let Some((name, id)) = path.split_once("/blobs/uploads/") {
        match request.method.as_str() {
            "POST" => {
                if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from"))
                    && let Some(blob) = stored.blobs.get(&(from.clone(), digest.clone())).cloned()
                {
                    stored.blobs.insert((name.to_owned(), digest.clone()), blob);
                    return (201, vec![], vec![]);
                }
                stored.opened += 1;
                let id = stored.opened.to_string();
                stored.uploads.insert(id.clone(), Vec::new());
                return (202, location(name, &id), vec![]);
            }
            "PATCH" => {
                let Some(upload) = stored.uploads.get_mut(id) else { return (404, vec![], vec![]) };
                upload.extend(body);
                return (202, location(name, id), vec![]);
            }
            "PUT" => {
                let Some(mut upload) = stored.uploads.remove(id) else { return (404, vec![], vec![]) };
                upload.extend(body);
                let digest = Digest::of(&upload).to_string();
                if query.get("digest") != Some(&digest) {
                    return (400, vec![], br#"{"errors":[{"code":"DIGEST_INVALID"}]}"#.to_vec());
                }
                stored.blobs.insert((name.to_owned(), digest), upload);
                return (201, vec![], vec![]);
            }
            _ => {
                stored.abandoned += 1;
                stored.uploads.remove(id);
                return (204, vec![], vec![]);
            }
        }
    }
    let (name, digest) = path.split_once("/blobs/").unwrap();
    of(stored.blobs.get(&(name.to_owned(), digest.to_owned())))
}
