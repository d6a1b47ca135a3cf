//! Metrics of calls of the API server, as this service sees them.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, Request, Response};
use model::clock::SharedClock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tower::Service;

/// Upper bounds of the buckets, in seconds: the last one is longer than any call but a watch may take.
const BUCKETS_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The code label of a call without an answer, or whose caller stopped waiting.
const NO_ANSWER: &str = "none";

/// The resource label of a path without a resource, such as that of the version.
const NO_RESOURCE: &str = "other";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAnswer {
    verb: &'static str,
    resource: String,
    code: String,
}

/// The duration of calls of the API server by verb, resource and code, from sending the request to the begin of the answer.
#[derive(Debug, Clone)]
pub struct ApiMetrics {
    answers: Family<ByAnswer, Histogram, fn() -> Histogram>,
    clock: SharedClock,
}

impl ApiMetrics {
    /// None yet.
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self { answers: Family::new_with_constructor(|| Histogram::new(BUCKETS_SECONDS)), clock }
    }

    /// Publishes the metrics in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "holdfast_kubernetes_call_duration",
            "Time until the API server began to respond, by verb, resource and code (none: no response)",
            Unit::Seconds,
            self.answers.clone(),
        );
    }

    /// Returns a client whose calls are counted.
    pub(crate) fn counted<S>(&self, inner: S) -> Measured<S> {
        Measured { inner, calls: self.clone() }
    }
}

/// See [`ApiMetrics::counted`].
#[derive(Debug, Clone)]
pub(crate) struct Measured<S> {
    inner: S,
    calls: ApiMetrics,
}

impl<S, B, A> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Unpin,
{
    type Error = S::Error;
    type Future = Call<S::Future>;
    type Response = S::Response;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Call<S::Future> {
        let (verb, resource) = asked(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
        let pending = Pending { calls: self.calls.clone(), verb, resource, begun: self.calls.clock.boot(), code: None };
        Call { answer: self.inner.call(request), pending }
    }
}

/// A call in progress.
#[derive(Debug)]
pub(crate) struct Call<F> {
    answer: F,
    pending: Pending,
}

/// Counts the call when it is dropped, which also happens when its caller stops waiting.
#[derive(Debug)]
struct Pending {
    calls: ApiMetrics,
    verb: &'static str,
    resource: String,
    /// On the boot clock.
    begun: Duration,
    code: Option<u16>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let labels = ByAnswer {
            verb: self.verb,
            resource: std::mem::take(&mut self.resource),
            code: self.code.map_or_else(|| NO_ANSWER.to_owned(), |code| code.to_string()),
        };
        let took = self.calls.clock.boot().saturating_sub(self.begun);
        self.calls.answers.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

impl<F, A, E> Future for Call<F>
where
    F: Future<Output = Result<Response<A>, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        self.pending.code = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        Poll::Ready(answer)
    }
}

/// The verb and the resource of a request, as roles name them. They contain no name of an object, because the number of series
/// must be limited.
fn asked(method: &Method, path: &str, query: &str) -> (&'static str, String) {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let is_named_group = match parts.next() {
        Some("api") => false,
        Some("apis") => true,
        _ => return (verb(method, true, query), NO_RESOURCE.to_owned()),
    };
    // Group and version, or the version of the core alone.
    let mut parts = parts.skip(if is_named_group { 2 } else { 1 }).peekable();
    if parts.peek() == Some(&"namespaces") {
        let mut within = parts.clone().skip(2);
        if let Some(resource) = within.next() {
            return with_resource(method, query, resource, within.next(), within.next());
        }
    }
    match parts.next() {
        Some(resource) => with_resource(method, query, resource, parts.next(), parts.next()),
        None => (verb(method, true, query), NO_RESOURCE.to_owned()),
    }
}

fn with_resource(
    method: &Method,
    query: &str,
    resource: &str,
    name: Option<&str>,
    part: Option<&str>,
) -> (&'static str, String) {
    let resource = part.map_or_else(|| resource.to_owned(), |part| format!("{resource}/{part}"));
    (verb(method, name.is_some(), query), resource)
}

fn verb(method: &Method, is_named: bool, query: &str) -> &'static str {
    match *method {
        Method::GET if query.split('&').any(|part| part == "watch=true" || part == "watch=1") => "watch",
        Method::GET if is_named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => NO_RESOURCE,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clock::SystemClock;
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn a_call_is_known_by_verb_and_resource_and_by_no_name() {
        let jobs = "/apis/batch/v1/namespaces/jobs-of-all/cronjobs";
        for (method, path, query, expected) in [
            (Method::GET, jobs, "limit=500", ("list", "cronjobs")),
            (Method::GET, jobs, "limit=500&watch=true", ("watch", "cronjobs")),
            (Method::GET, &format!("{jobs}/daily-sales"), "", ("get", "cronjobs")),
            (Method::PUT, &format!("{jobs}/daily-sales"), "fieldManager=holdfast", ("update", "cronjobs")),
            (Method::PATCH, &format!("{jobs}/daily-sales/status"), "", ("patch", "cronjobs/status")),
            (Method::POST, "/apis/batch/v1/namespaces/a/jobs", "", ("create", "jobs")),
            (Method::DELETE, "/apis/batch/v1/namespaces/a/jobs/b", "", ("delete", "jobs")),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "follow=true", ("get", "pods/log")),
            (Method::GET, "/api/v1/namespaces/a", "", ("get", "namespaces")),
            (Method::GET, "/api/v1/namespaces", "", ("list", "namespaces")),
            (Method::GET, "/version", "", ("get", "other")),
        ] {
            let (verb, resource) = asked(&method, path, query);
            assert_eq!((verb, resource.as_str()), expected, "{method} {path}?{query}");
        }
    }

    #[tokio::test]
    async fn an_answer_a_failure_and_an_abandoned_call_are_counted() {
        let clock: SharedClock = Arc::new(SystemClock);
        let calls = ApiMetrics::new(Arc::clone(&clock));
        let client = calls.counted(tower::service_fn(|request: Request<()>| {
            Box::pin(async move {
                match request.uri().path() {
                    "/version" => Ok(Response::builder().status(418).body(()).expect("a response")),
                    "/livez" => Err("the connection broke"),
                    _ => std::future::pending().await,
                }
            })
        }));
        let ask = |path: &str| client.clone().oneshot(Request::get(path).body(()).expect("a request"));
        ask("/version").await.expect("an answer");
        ask("/livez").await.expect_err("no answer");
        drop(clock.timeout(Duration::from_millis(1), ask("/api/v1/pods")).await);

        let mut registry = Registry::default();
        calls.register(&mut registry);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).expect("a page");
        for labels in [
            r#"verb="get",resource="other",code="418""#,
            r#"verb="get",resource="other",code="none""#,
            r#"verb="list",resource="pods",code="none""#,
        ] {
            let count = format!("holdfast_kubernetes_call_duration_seconds_count{{{labels}}} 1");
            assert!(page.contains(&count), "{count} in {page}");
        }
    }
}
