//! Authentication, with the stock client against a token endpoint and key set that the test runs.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use e2e::{
    TEAM,
    job::Job,
    service::{Options, Service},
    wait,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const NAME: &str = "a-job-with-token";
const API_TOKEN: &str = "correct-horse";
const LONGEST: Duration = Duration::from_secs(90);

/// An issuer on a free port, as operators have one: OpenID configuration, key set and token endpoint.
async fn issuer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let name = format!("http://{}", listener.local_addr().expect("an address"));
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key pair");
    let key = Arc::new(EncodingKey::from_ec_der(pair.to_pkcs8v1().expect("a key").as_ref()));
    let public = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a public key");
    let configuration = json!({"issuer": name, "jwks_uri": format!("{name}/keys")});
    let issued_by = name.clone();
    let issue = async move |form: String| -> Result<Json<Value>, StatusCode> {
        if form != format!("grant_type=refresh_token&refresh_token={API_TOKEN}") {
            return Err(StatusCode::BAD_REQUEST);
        }
        let claims = json!({"iss": issued_by, "aud": "holdfast", "exp": wait::now_seconds() + 3600, "sub": "1",
                            "username": "ann", "teams": [TEAM]});
        let token = encode(&Header::new(Algorithm::ES256), &claims, &key).expect("a token");
        Ok(Json(json!({"access_token": token, "token_type": "bearer", "expires_in": 3600})))
    };
    let router = Router::new()
        .route("/.well-known/openid-configuration", get(async move || Json(configuration)))
        .route("/keys", get(async move || Json(json!({"keys": [public]}))))
        .route("/token", post(issue));
    tokio::spawn(async move { axum::serve(listener, router).await });
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn who_logs_in_works_as_always_and_a_job_keeps_its_properties_while_authentication_is_on() {
    let issuer = issuer().await;
    let service = Service::start_with(
        Options::default()
            .set("HOLDFAST_AUTH_ISSUERS", &issuer)
            .set("HOLDFAST_AUTH_AUDIENCES", "holdfast")
            .set("HOLDFAST_AUTH_TEAMS_CLAIM", "teams"),
    );
    let vdk = service.vdk().with("OAUTHLIB_INSECURE_TRANSPORT", "1");
    let job = Job::new(NAME).step(
        "10_count.py",
        "runs = int(job_input.get_property('runs', 0)) + 1\n\
         job_input.set_all_properties({'runs': runs})\n\
         print('this is run', runs)",
    );

    // Without a login the client says what is wrong and what to do.
    vdk.run(&["list"]).await.failed(2, &["its sender is not known", "vdk login"]);
    let login = async |token: &str| {
        vdk.run_bare(&["login", "-t", "api-token", "-a", token, "-u", &format!("{issuer}/token")]).await
    };
    assert_ne!(login("wrong").await.code, 0);
    let _ = login(API_TOKEN).await.ok();

    vdk.ok(&["create", "--cloud", "-n", NAME]).await;
    let version = vdk.deploy(&job).await;
    wait::until("the deployment is reached", LONGEST, async || {
        let shown = vdk.json(&["deploy", "--show", "-n", NAME]).await;
        (shown[0]["job_version"] == version.as_str()).then_some(())
    })
    .await;
    assert_eq!(vdk.json(&["deploy", "--show", "-n", NAME]).await[0]["last_deployed_by"], "ann");
    for run in ["1", "2"] {
        let id = vdk.start(NAME).await;
        let ended = wait::until("the run ends", LONGEST, async || {
            let shown = vdk.execution(NAME, &id).await;
            (!shown["end_time"].is_null()).then_some(shown)
        })
        .await;
        assert_eq!(ended["status"], "succeeded", "{ended}\n{}", vdk.log(NAME, &id).await);
        let said = vdk.ok(&["properties", "-n", NAME, "--get", "runs"]).await;
        assert_eq!(said.split_whitespace().last(), Some(run), "{said}");
    }
    // Neither the operator's log nor the user's has a credential in it.
    assert!(!service.log().contains("hfc1.") && !service.log().contains("hfa1."));

    // Another team is refused, and after the logout everything is.
    let foreign = vdk.run_bare(&["list", "-t", "another-team", "--rest-api-url", service.url(), "-o", "json"]).await;
    assert!(!foreign.out.contains(NAME), "{foreign:?}");
    let foreign = ["deploy", "--show", "-n", NAME, "-t", "another-team", "--rest-api-url", service.url()];
    vdk.run_bare(&foreign).await.failed(2, &["You do not belong to the team"]);
    let _ = vdk.run_bare(&["logout"]).await.ok();
    vdk.run(&["list"]).await.failed(2, &["its sender is not known"]);
}
