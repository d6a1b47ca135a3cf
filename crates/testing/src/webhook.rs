//! An admission webhook that an API server asks about writes.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{background::Background, tls};

/// A webhook that changes or denies whatever it is asked about. It has a thread of its own, and ends when it is dropped.
#[derive(Debug)]
pub struct Webhook {
    background: Background,
    certificate: String,
    asked: Arc<AtomicU64>,
}

/// The answer to each review.
#[derive(Debug, Clone)]
enum Answer {
    /// The field of this JSON pointer is set to the number of times that it was asked, as text.
    Sets(String),
    /// No, for this reason, and without a code.
    Denies(String),
}

impl Webhook {
    /// Starts one on an address of this machine that sets a field to another value each time. `field` is its JSON pointer.
    ///
    /// # Panics
    /// When there can be no certificate, or no port is free.
    pub fn start(address: IpAddr, field: &str) -> Self {
        Self::answering(address, Answer::Sets(field.to_owned()))
    }

    /// Starts one that denies everything, and says why.
    ///
    /// # Panics
    /// When there can be no certificate, or no port is free.
    pub fn denying(address: IpAddr, why: &str) -> Self {
        Self::answering(address, Answer::Denies(why.to_owned()))
    }

    fn answering(address: IpAddr, answer: Answer) -> Self {
        let (acceptor, certificate) = tls::acceptor(address);
        let asked = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&asked);
        let background = Background::start(address, async move |listener| {
            accept(&listener, &acceptor, &counting, &answer).await;
        });
        Self { background, certificate, asked }
    }

    /// Its URL and certificate for an API server: a `clientConfig`.
    pub fn client_config(&self) -> Value {
        json!({
            "url": format!("https://{}/", self.background.address()),
            "caBundle": BASE64_STANDARD.encode(&self.certificate),
        })
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }
}

async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor, asked: &Arc<AtomicU64>, answer: &Answer) {
    loop {
        let Ok((connection, _)) = listener.accept().await else { continue };
        tokio::spawn(serve(connection, acceptor.clone(), Arc::clone(asked), answer.clone()));
    }
}

async fn serve(connection: TcpStream, acceptor: TlsAcceptor, asked: Arc<AtomicU64>, answer: Answer) {
    let Ok(connection) = acceptor.accept(connection).await else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let (asked, answer) = (Arc::clone(&asked), answer.clone());
        async move {
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let review: Value = serde_json::from_slice(&body).unwrap_or_default();
            let value = (asked.fetch_add(1, Ordering::AcqRel) + 1).to_string();
            let mut response = json!({ "uid": review["request"]["uid"] });
            match answer {
                Answer::Sets(field) => {
                    let patch = json!([{"op": "add", "path": field, "value": value}]).to_string();
                    response["allowed"] = true.into();
                    response["patchType"] = "JSONPatch".into();
                    response["patch"] = BASE64_STANDARD.encode(patch).into();
                }
                Answer::Denies(why) => {
                    response["allowed"] = false.into();
                    response["status"] = json!({ "message": why });
                }
            }
            let answer = json!({
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "response": response,
            });
            Ok::<_, Infallible>(
                Response::builder()
                    .header(hyper::header::CONTENT_TYPE, "application/json")
                    .body(Full::new(Bytes::from(answer.to_string())))
                    .expect("a response"),
            )
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}
