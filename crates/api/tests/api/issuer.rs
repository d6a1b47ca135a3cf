//! An issuer of tokens with a real key-set endpoint, and what tests sign with it.

use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A key pair with its id.
pub(crate) struct Key {
    id: &'static str,
    private: EncodingKey,
}

impl Key {
    pub(crate) fn new(id: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { id, private: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()) }
    }

    pub(crate) fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.id.into());
        serde_json::to_value(jwk).unwrap()
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.into()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &self.private).unwrap()
    }

    /// Signs a token whose header is the usual one with these members.
    pub(crate) fn sign_with_header(&self, more: &Value, claims: &Value) -> String {
        let mut header = json!({"alg": "ES256", "kid": self.id});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.private, Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }
}

/// The current response of the endpoint.
#[derive(Default)]
struct Shown {
    keys: Vec<Value>,
    down: bool,
    asked: usize,
}

/// An issuer on a free port.
pub(crate) struct Issuer {
    pub(crate) name: String,
    shown: Arc<Mutex<Shown>>,
}

impl Issuer {
    pub(crate) async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("http://{}", listener.local_addr().unwrap());
        let shown = Arc::new(Mutex::new(Shown::default()));
        let configuration = json!({"issuer": name, "jwks_uri": format!("{name}/keys")});
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(async move || Json(configuration.clone())))
            .route("/keys", get(key_set))
            .with_state(Arc::clone(&shown));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let issuer = Self { name, shown };
        issuer.show(keys);
        issuer
    }

    /// Changes the keys.
    pub(crate) fn show(&self, keys: &[&Key]) {
        self.shown.lock().unwrap().keys = keys.iter().map(|key| key.public()).collect();
    }

    /// Takes the endpoint down, or brings it back.
    pub(crate) fn down(&self, down: bool) {
        self.shown.lock().unwrap().down = down;
    }

    /// How often the keys were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.shown.lock().unwrap().asked
    }
}

async fn key_set(State(shown): State<Arc<Mutex<Shown>>>) -> Result<Json<Value>, StatusCode> {
    let mut shown = shown.lock().unwrap();
    shown.asked += 1;
    if shown.down { Err(StatusCode::BAD_GATEWAY) } else { Ok(Json(json!({"keys": shown.keys}))) }
}
