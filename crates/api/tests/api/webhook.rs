//! The operator's authorization service, as a real server with scripted responses.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::auth::Authentication;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
    routing::post,
};
use clients::{
    tokens::{self, Tokens},
    webhook::{Bearer, Options, Webhook},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    access::{JOB, authentication, claims, service},
    issuer::{Issuer, Key},
    support::{Service, system_clock},
};

on_each_database!(
    the_service_is_asked_with_the_references_body_for_reads_too,
    what_it_says_reaches_the_user_and_without_an_answer_access_is_denied,
    it_is_asked_for_users_alone_and_not_for_what_the_rule_refuses,
    with_a_refresh_token_it_is_asked_with_a_token_of_the_services_own,
);

/// The server's next responses, and the requests that it received.
#[derive(Default)]
struct Script {
    says: VecDeque<(u16, &'static str)>,
    asked: Vec<Value>,
    tokens: Vec<String>,
}

type Shared = Arc<Mutex<Script>>;

/// A status that makes the server say nothing at all.
const HANG: u16 = 999;

async fn answer(State(script): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let (status, text) = {
        let mut script = script.lock().unwrap();
        script.asked.push(body);
        let token = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        script.tokens.push(token.unwrap_or_default());
        script.says.pop_front().unwrap_or((200, ""))
    };
    if status == HANG {
        std::future::pending::<()>().await;
    }
    (StatusCode::from_u16(status).unwrap(), [(LOCATION, "/")], text).into_response()
}

struct Scene {
    script: Shared,
    service: Service,
    token: String,
    key: Key,
    issuer: Issuer,
}

async fn scene(bearer: Bearer) -> Scene {
    let script = Shared::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/authorize", listener.local_addr().unwrap());
    let router = Router::new().route("/authorize", post(answer)).with_state(Arc::clone(&script));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let options = Options { url, timeout: Duration::from_millis(500), bearer };
    let auth = Authentication { authorizer: Some(Arc::new(Webhook::new(options))), ..authentication(&issuer) };
    let service = service(auth).await;
    let token = key.sign(&claims(&issuer, json!({"username": "ann", "teams": ["t1", "t2", "team one"]})));
    *service.bearer.lock().unwrap() = Some(token.clone());
    Scene { script, service, token, key, issuer }
}

impl Scene {
    fn says(&self, answers: &[(u16, &'static str)]) {
        let mut script = self.script.lock().unwrap();
        script.says = answers.iter().copied().collect();
        script.asked.clear();
    }

    fn asked(&self) -> Vec<Value> {
        self.script.lock().unwrap().asked.clone()
    }
}

async fn the_service_is_asked_with_the_references_body_for_reads_too() {
    let scene = scene(Bearer::None).await;
    let service = &scene.service;
    service.create("team one", "daily-sales").await;
    service.get("/data-jobs/for-team/team%20one/jobs/daily-sales").await.ok();
    service.put("/data-jobs/for-team/team%20one/jobs/daily-sales/team/t2", "").await.is(200);
    service.query(&[("query", "{jobs {content {jobName}}}")]).await.ok();
    let body = |team: &str, new_team: &str, id: &str, path: &str, verb: &str, permission: &str| {
        json!({
            "requester_user_id": "ann", "requested_resource_team": team, "requested_resource_name": "data-job",
            "requested_resource_id": id, "requested_http_path": path, "requested_http_verb": verb,
            "requested_resource_new_team": new_team, "requested_permission": permission,
        })
    };
    let base = "/data-jobs/for-team/team%20one/jobs";
    let job = format!("{base}/daily-sales");
    let none = "no-team-specified";
    assert_eq!(
        scene.asked(),
        [
            body("team one", "team one", "daily-sales", base, "POST", "write"),
            body("team one", "team one", "daily-sales", &job, "GET", "read"),
            body("team one", "t2", "daily-sales", &format!("{job}/team/t2"), "PUT", "write"),
            body(none, none, "", &format!("/data-jobs/for-team/{none}/jobs"), "GET", "read"),
        ]
    );
    assert!(scene.script.lock().unwrap().tokens.iter().all(String::is_empty));
}

async fn what_it_says_reaches_the_user_and_without_an_answer_access_is_denied() {
    let scene = scene(Bearer::User).await;
    scene.service.create("t1", "daily-sales").await;
    assert_eq!(scene.script.lock().unwrap().tokens, [format!("Bearer {}", scene.token)]);
    for (answers, status, why, asked) in [
        (&[(200, "")][..], 200, "", 1),
        (&[(204, "")], 200, "", 1),
        (&[(403, "Ann may not read on Sundays.")], 403, "Ann may not read on Sundays.", 1),
        (&[(404, "")], 404, "without a reason", 1),
        (&[(418, "A teapot.")], 418, "A teapot.", 1),
        (&[(500, ""), (200, "")], 200, "", 2),
        (&[(503, ""), (401, "Not you.")], 401, "Not you.", 2),
        (&[(500, ""), (502, ""), (200, "")], 503, "status 502", 2),
        (&[(302, ""), (200, "")], 503, "status 302", 1),
        (&[(HANG, ""), (200, "")], 503, "did not answer in time", 1),
    ] {
        scene.says(answers);
        let answer = scene.service.get(JOB).await;
        assert_eq!(answer.status, status, "{answers:?}");
        if status != 200 {
            assert!(answer.refused(status).contains(why), "{answers:?}");
        }
        assert_eq!(scene.asked().len(), asked, "{answers:?}");
    }
    // GraphQL in either shape is no way around it.
    scene.says(&[(403, "No."), (403, "No.")]);
    scene.service.query(&[("query", "{jobs {content {jobName}}}")]).await.refused(403);
    let body = json!({"query": "{jobs {content {jobName}}}"});
    scene.service.post("/data-jobs/graphql", body).await.refused(403);
    // Queries of the schema alone and texts that are no query are authorized first as well.
    for query in ["{ __typename }", "{ __schema { queryType { name } } }", "{"] {
        scene.says(&[(403, "No."), (403, "No.")]);
        scene.service.query(&[("query", query)]).await.refused(403);
        scene.service.post("/data-jobs/graphql", json!({ "query": query })).await.refused(403);
        assert_eq!(scene.asked().len(), 2, "{query}");
    }
    // The lists of a query are one question.
    let lists = "{jobs {content {jobName}} again: jobs {content {jobName}} executions {content {id}}}";
    for (answers, status) in [(&[(200, "")][..], 200), (&[(403, "No.")], 403)] {
        scene.says(answers);
        assert_eq!(scene.service.post("/data-jobs/graphql", json!({ "query": lists })).await.status, status);
        assert_eq!(scene.asked().len(), 1);
    }
    // A rejected request had no effect.
    scene.says(&[(403, "No.")]);
    scene.service.delete(JOB).await.refused(403);
    scene.service.get(JOB).await.ok();
}

async fn it_is_asked_for_users_alone_and_not_for_what_the_rule_refuses() {
    let scene = scene(Bearer::None).await;
    let service = &scene.service;
    service.deploy("t1", "daily-sales").await;
    service
        .put("/data-jobs/teams/t1/oauth-credentials", json!({"clientId": "app-1", "clientSecret": "s"}))
        .await
        .is(202);
    scene.says(&[]);
    let application = scene.key.sign(&claims(&scene.issuer, json!({"sub": "client:app-1"})));
    let job = service.job_token("daily-sales").await;
    service.with_token(&application).get(JOB).await.ok();
    service.with_token(&job).get(&format!("{JOB}/executions")).await.ok();
    service.with_token(&scene.token).get("/data-jobs/for-team/t9/jobs/daily-sales").await.refused(403);
    service.with_token("").get(JOB).await.refused(401);
    assert_eq!(scene.asked(), Vec::<Value>::new());
}

/// A token endpoint with scripted responses that records its requests.
async fn token_endpoint(answers: &[(u16, &'static str)]) -> (Tokens, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let answers: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(answers.iter().copied().collect()));
    let respond = {
        let asked = Arc::clone(&asked);
        move |body: String| async move {
            asked.lock().unwrap().push(body);
            let (status, text) = answers.lock().unwrap().pop_front().expect("one answer more");
            (StatusCode::from_u16(status).unwrap(), text)
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap()).parse().unwrap();
    let router = Router::new().route("/token", post(respond));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let options = tokens::Options { url, refresh_token: "long+lived".into(), timeout: Duration::from_secs(5) };
    (Tokens::new(options, system_clock()), asked)
}

async fn with_a_refresh_token_it_is_asked_with_a_token_of_the_services_own() {
    let (tokens, exchanged) = token_endpoint(&[
        (200, r#"{"access_token": "first", "expires_in": 3600}"#),
        (200, r#"{"access_token": "second", "expires_in": 3600}"#),
        (200, r#"{"access_token": "third", "expires_in": 30}"#),
        (200, r#"{"access_token": "fourth"}"#),
        (400, r#"{"error": "invalid_grant", "hint": "long+lived"}"#),
        (200, r#"{"token": "none"}"#),
    ])
    .await;
    let scene = scene(Bearer::Service(Box::new(tokens))).await;
    let sent = || std::mem::take(&mut scene.script.lock().unwrap().tokens);
    scene.service.create("t1", "daily-sales").await;
    scene.service.get(JOB).await.ok();
    // One token serves until it ends.
    assert_eq!(sent(), ["Bearer first", "Bearer first"]);
    assert_eq!(exchanged.lock().unwrap()[..], ["grant_type=refresh_token&refresh_token=long%2Blived"]);
    // One that was taken back is renewed, once: then the word is about the user.
    scene.says(&[(401, "Who are you?"), (200, "")]);
    scene.service.get(JOB).await.ok();
    scene.says(&[(401, "Who are you?"), (401, "Not you.")]);
    assert!(scene.service.get(JOB).await.refused(401).contains("Not you."));
    assert_eq!(sent(), ["Bearer first", "Bearer second", "Bearer second", "Bearer third"]);
    // One that is about to end is not used again.
    scene.says(&[]);
    scene.service.get(JOB).await.ok();
    assert_eq!(sent(), ["Bearer fourth"]);
    // Without a token the webhook is not called, and the request is rejected.
    scene.says(&[(401, ""), (401, "")]);
    for why in ["status 400", "is not JSON with an `access_token`"] {
        let told = scene.service.get(JOB).await.refused(503);
        assert!(told.contains(why) && !told.contains("long"), "{told}");
    }
    assert_eq!(sent(), ["Bearer fourth", "Bearer fourth"]);
}
