//! An issuer of tokens, as operators have one: OpenID configuration, key set, and a token endpoint that knows one person.

use std::{fmt, sync::Arc};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    TEAM,
    service::Options,
    vdk::{Said, Vdk},
    wait,
};

/// The one API token that it takes: that of "ann", who is of [`TEAM`].
pub const API_TOKEN: &str = "correct-horse";

/// See the module.
pub struct Issuer {
    name: String,
    key: Arc<EncodingKey>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Issuer {
    /// Starts one on a free port. It ends with the test.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let name = format!("http://{}", listener.local_addr().expect("an address"));
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key pair");
        let key = Arc::new(EncodingKey::from_ec_der(pair.to_pkcs8v1().expect("a key").as_ref()));
        let public = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a public key");
        let configuration = json!({"issuer": name, "jwks_uri": format!("{name}/keys")});
        let (issued_by, signing_key) = (name.clone(), Arc::clone(&key));
        let issue = async move |form: String| -> Result<Json<Value>, StatusCode> {
            if form != format!("grant_type=refresh_token&refresh_token={API_TOKEN}") {
                return Err(StatusCode::BAD_REQUEST);
            }
            let token = token(&issued_by, &signing_key, "ann", TEAM);
            Ok(Json(json!({"access_token": token, "token_type": "bearer", "expires_in": 3600})))
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(async move || Json(configuration)))
            .route("/keys", get(async move || Json(json!({"keys": [public]}))))
            .route("/token", post(issue));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { name, key }
    }

    /// An access token of a user who belongs to one team; it is valid for an hour.
    pub fn token(&self, user: &str, team: &str) -> String {
        token(&self.name, &self.key, user, team)
    }

    /// The service's settings with which it believes this issuer.
    #[must_use]
    pub fn trusted(&self, options: Options) -> Options {
        options
            .set("HOLDFAST_AUTH_ISSUERS", &self.name)
            .set("HOLDFAST_AUTH_AUDIENCES", "holdfast")
            .set("HOLDFAST_AUTH_TEAMS_CLAIM", "teams")
    }

    /// `vdk login` with an API token.
    pub async fn login(&self, vdk: &Vdk, token: &str) -> Said {
        vdk.run_bare(&["login", "-t", "api-token", "-a", token, "-u", &format!("{}/token", self.name)]).await
    }
}

fn token(issuer: &str, key: &EncodingKey, user: &str, team: &str) -> String {
    let claims = json!({"iss": issuer, "aud": "holdfast", "exp": wait::now_seconds() + 3600, "sub": "1",
                        "username": user, "teams": [team]});
    encode(&Header::new(Algorithm::ES256), &claims, key).expect("a token")
}
