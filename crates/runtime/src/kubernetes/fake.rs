//! An API server for tests: objects in memory with the rules for names, uids and resource versions, changes that others make
//! just before a call arrives, and logs whose every byte the test sends.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use clock::SystemClock;
use futures::{StreamExt as _, channel::mpsc};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use jiff::{SignedDuration, Timestamp};
use kube::{Client, client::Body};
use model::{BoxFuture, clock::Clock};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// The namespace of all objects.
pub(crate) const NAMESPACE: &str = "data";

/// A clock that stands still until a test moves it on.
#[derive(Debug, Clone)]
pub(crate) struct HeldClock(watch::Sender<Duration>);

impl HeldClock {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Duration::from_secs(1000)))
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.0.send_modify(|now| *now += time);
    }

    /// Moves on for ever.
    pub(crate) async fn goes(&self) {
        let clock: &dyn Clock = &SystemClock;
        loop {
            clock.sleep(Duration::from_millis(5)).await;
            self.advance(Duration::from_secs(1));
        }
    }

    /// Moves on by a second after each look until this holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let clock: &dyn Clock = &SystemClock;
        for _ in 0..2000 {
            if holds() {
                return;
            }
            clock.sleep(Duration::from_millis(5)).await;
            self.advance(Duration::from_secs(1));
        }
        panic!("{what}: it did not happen");
    }
}

impl Clock for HeldClock {
    fn now(&self) -> Timestamp {
        "2024-05-01T10:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::try_from(self.boot()).unwrap()
    }

    fn boot(&self) -> Duration {
        *self.0.borrow()
    }

    fn sleep_until_boot(&self, at: Duration) -> BoxFuture<'static, ()> {
        let mut now = self.0.subscribe();
        Box::pin(async move {
            let _ = now.wait_for(|now| *now >= at).await;
        })
    }

    fn new_id(&self) -> uuid::Uuid {
        SystemClock.new_id()
    }
}

type Answer = UnsyncBoxBody<Bytes, io::Error>;
type Change = Box<dyn FnOnce(&mut Objects) + Send>;

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct FakeServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: Objects,
    calls: Vec<Call>,
    /// Changes by others before a call with this method and this path is carried out.
    changes: Vec<(Method, String, Change)>,
    logs: VecDeque<Log>,
}

/// A call that arrived.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Without the API group and the namespace: `jobs/daily-1`.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

/// How the log of a pod is answered.
pub(crate) enum Log {
    /// Refused, with this code and text.
    Refused(u16, &'static str),
    /// Sent as it comes; an error breaks it off.
    Stream(mpsc::UnboundedReceiver<io::Result<String>>),
}

impl Log {
    /// One that the test sends, and ends by dropping the other end.
    pub(crate) fn stream() -> (mpsc::UnboundedSender<io::Result<String>>, Self) {
        let (send, receive) = mpsc::unbounded();
        (send, Self::Stream(receive))
    }

    /// One that is all there.
    pub(crate) fn whole(text: &str) -> Self {
        let (send, receive) = mpsc::unbounded();
        send.unbounded_send(Ok(text.to_owned())).unwrap();
        Self::Stream(receive)
    }
}

/// Objects by their path, such as `jobs/daily-1`.
#[derive(Default)]
pub(crate) struct Objects {
    all: BTreeMap<String, Value>,
    version: u64,
}

impl Objects {
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        self.all.get(path)
    }

    /// Makes an object, or gives it other content, as another client would.
    pub(crate) fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        let (_, name) = path.split_once('/').unwrap();
        let before = self.all.get(path).cloned().unwrap_or_default();
        let generation = before["metadata"]["generation"].as_i64().unwrap_or(0);
        let moved = before["spec"] != object["spec"];
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("name".into(), name.into());
        metadata.insert("namespace".into(), NAMESPACE.into());
        let uid = || json!(format!("00000000-0000-4000-8000-{:012}", self.version));
        metadata.entry("uid").or_insert_with(uid);
        metadata.entry("creationTimestamp").or_insert_with(|| "2024-05-01T10:00:00Z".into());
        metadata.insert("resourceVersion".into(), self.version.to_string().into());
        metadata.insert("generation".into(), (generation + i64::from(moved)).into());
        self.all.insert(path.to_owned(), object);
    }

    /// Merges a change into an object, as another client would.
    pub(crate) fn merge(&mut self, path: &str, patch: &Value) {
        let mut object = self.all[path].clone();
        merge(&mut object, patch);
        self.put(path, object);
    }

    pub(crate) fn remove(&mut self, path: &str) {
        self.all.remove(path);
    }

    /// Whether these preconditions, or this metadata, name the object as it is.
    fn is_as_named(&self, path: &str, named: &Value) -> bool {
        let live = &self.all[path]["metadata"];
        ["uid", "resourceVersion"].iter().all(|name| named.get(name).is_none_or(|is| *is == live[name]))
    }

    fn list(&self, kind: &str, selector: &str) -> Value {
        let has = |object: &Value, term: &str| {
            let (name, value) = term.split_once('=').map_or((term, None), |(name, value)| (name, Some(value)));
            let label = object["metadata"]["labels"][name].as_str();
            label.is_some() && value.is_none_or(|value| label == Some(value))
        };
        let of_kind = self.all.iter().filter(|(path, _)| path.starts_with(&format!("{kind}/")));
        let items: Vec<_> = of_kind
            .map(|(_, object)| object)
            .filter(|object| selector.split(',').filter(|term| !term.is_empty()).all(|term| has(object, term)))
            .collect();
        json!({"metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let object = target.as_object_mut().unwrap();
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

impl FakeServer {
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, NAMESPACE)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Looks at the objects, or changes them as another client would.
    pub(crate) fn objects<T>(&self, look: impl FnOnce(&mut Objects) -> T) -> T {
        look(&mut self.state().objects)
    }

    /// Does this just before the next such call is carried out.
    pub(crate) fn before(&self, method: Method, path: &str, change: impl FnOnce(&mut Objects) + Send + 'static) {
        self.state().changes.push((method, path.to_owned(), Box::new(change)));
    }

    /// Answers the next request for a log so.
    pub(crate) fn log(&self, log: Log) {
        self.state().logs.push_back(log);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The calls that change something: method and path.
    pub(crate) fn writes(&self) -> Vec<String> {
        let calls = self.calls();
        calls.iter().filter(|call| call.method != Method::GET).map(|c| format!("{} {}", c.method, c.path)).collect()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let path = parts.uri.path().split_once(&format!("/namespaces/{NAMESPACE}/")).unwrap().1.to_owned();
        let query: BTreeMap<String, String> =
            serde_json::from_value(query(parts.uri.query().unwrap_or_default())).unwrap();
        let call = Call {
            method: parts.method.clone(),
            path: path.clone(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body: body.clone(),
        };
        let mut state = self.state();
        if query.contains_key("watch") {
            // It has nothing to tell.
            return Response::new(StreamBody::new(futures::stream::pending()).boxed_unsync());
        }
        state.calls.push(call);
        while let Some(at) = state.changes.iter().position(|(method, of, _)| *method == parts.method && *of == path) {
            let (_, _, change) = state.changes.remove(at);
            change(&mut state.objects);
        }
        let State { objects, logs, .. } = &mut *state;
        if path.ends_with("/log") {
            return match logs.pop_front() {
                Some(Log::Stream(pieces)) => Response::new(
                    StreamBody::new(pieces.map(|piece| piece.map(|text| Frame::data(Bytes::from(text)))))
                        .boxed_unsync(),
                ),
                Some(Log::Refused(code, text)) => refusal(code, "Refused", text),
                None => refusal(404, "NotFound", "there is no such log"),
            };
        }
        let is_there = |objects: &Objects, path: &str| objects.all.contains_key(path);
        let (object_path, is_status) = path.strip_suffix("/status").map_or((&*path, false), |path| (path, true));
        match parts.method {
            Method::GET if !path.contains('/') => {
                ok(&objects.list(&path, query.get("labelSelector").map_or("", String::as_str)))
            }
            Method::POST => {
                let object_path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if is_there(objects, &object_path) {
                    return refusal(409, "AlreadyExists", "it is there already");
                }
                objects.put(&object_path, body);
                ok(&objects.all[&object_path])
            }
            _ if !is_there(objects, object_path) => refusal(404, "NotFound", "it is not there"),
            Method::GET => ok(&objects.all[object_path]),
            Method::PATCH | Method::PUT if !objects.is_as_named(object_path, &body["metadata"]) => {
                refusal(409, "Conflict", "the object has been modified")
            }
            Method::PATCH => {
                let mut patch = body;
                if let Some(metadata) = patch["metadata"].as_object_mut() {
                    metadata.remove("resourceVersion");
                }
                if !is_status && let Some(fields) = patch.as_object_mut() {
                    fields.remove("status");
                }
                objects.merge(object_path, &patch);
                ok(&objects.all[object_path])
            }
            Method::PUT => {
                let mut object = body;
                object["status"] = objects.all[object_path]["status"].clone();
                objects.put(object_path, object);
                ok(&objects.all[object_path])
            }
            Method::DELETE if !objects.is_as_named(object_path, &body["preconditions"]) => {
                refusal(409, "Conflict", "the preconditions do not hold")
            }
            Method::DELETE => {
                let gone = objects.all.remove(object_path).unwrap();
                ok(&gone)
            }
            other => panic!("{other} {path}"),
        }
    }
}

fn query(text: &str) -> Value {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    let plain = |text: &str| text.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",").replace("%3A", ":");
    Value::Object(pairs.map(|(name, value)| (name.to_owned(), plain(value).into())).collect())
}

fn ok(value: &Value) -> Response<Answer> {
    Response::new(body(value))
}

fn body(value: &Value) -> Answer {
    Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync()
}

fn refusal(code: u16, reason: &str, message: &str) -> Response<Answer> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": message,
        "code": code,
    });
    Response::builder().status(code).body(body(&status)).unwrap()
}
