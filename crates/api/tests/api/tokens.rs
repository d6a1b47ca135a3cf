//! Which tokens are access tokens, and whose name a caller has when several issuers are trusted.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::auth::Authentication;
use auth::{AuthorizationRequest, Authorizer, Decision};
use axum::http::{Method, Request, header::AUTHORIZATION};
use clients::jwks::{Jwks, Options};
use model::{BoxFuture, Problem};
use serde_json::{Value, json};
use testing::Database;

use crate::{
    access::{JOB, authentication, claims, service},
    issuer::{Issuer, Key},
    support::{Answer, Service, database, system_clock},
};

on_each_database!(
    a_token_with_a_critical_extension_or_of_another_kind_is_refused,
    no_user_has_the_name_of_a_job_or_of_an_application,
    users_of_two_issuers_who_have_one_name_are_distinguished,
    the_credential_of_a_job_ends_with_its_deployment,
    a_retry_of_a_failed_rollout_is_an_audit_event_and_a_repetition_of_a_good_one_is_none,
    each_request_has_a_line_in_the_access_log_with_its_caller_and_without_its_query,
    refusals_and_reads_of_secrets_are_logged_with_their_caller_and_without_an_end_to_the_lines,
);

async fn a_token_with_a_critical_extension_or_of_another_kind_is_refused() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    let claims = |more: Value| {
        let mut all = json!({"username": "ann", "teams": ["t1"]});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims(&issuer, all)
    };
    let ask = async |header: Value, more: Value| {
        let token = key.sign_with_header(&header, &claims(more));
        service.with_token(&token).get(JOB).await
    };
    for header in [
        json!({}),
        json!({"typ": "JWT"}),
        json!({"typ": "jwt"}),
        json!({"typ": "at+jwt"}),
        json!({"typ": "application/at+jwt"}),
        json!({"b64": true}),
    ] {
        ask(header, json!({})).await.refused(404);
    }
    ask(json!({"typ": "JWT"}), json!({"typ": "Bearer"})).await.refused(404);
    for header in
        [json!({"crit": ["x"]}), json!({"crit": ["b64"], "b64": false}), json!({"crit": []}), json!({"b64": false})]
    {
        assert!(ask(header, json!({})).await.refused(401).contains("crit or b64"));
    }
    for kind in ["logout+jwt", "dpop+jwt", "id_token", "application/secevent+jwt"] {
        assert!(ask(json!({"typ": kind}), json!({})).await.refused(401).contains("not an access token"), "{kind}");
    }
    ask(json!({"typ": 7}), json!({})).await.refused(401);
    for kind in ["ID", "Refresh", "Offline", "Logout", "id"] {
        let answer = ask(json!({"typ": "JWT"}), json!({"typ": kind})).await;
        assert!(answer.refused(401).contains("its claim typ"), "{kind}");
    }
    for kind in [json!(["ID"]), json!({"ID": true}), json!(7), json!(false)] {
        let why = ask(json!({"typ": "JWT"}), json!({"typ": kind})).await.refused(401);
        assert!(why.contains("claim typ") && why.contains("not a text"), "{kind}: {why}");
    }
    ask(json!({"typ": "JWT"}), json!({"typ": null})).await.refused(404);
}

async fn no_user_has_the_name_of_a_job_or_of_an_application() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    let named = |name: &str| key.sign(&claims(&issuer, json!({"username": name, "teams": ["t1"]})));
    for name in ["job:daily-sales", "application:app-1", "Job:daily-sales", "job:"] {
        let why = service.with_token(&named(name)).get(JOB).await.refused(401);
        assert!(why.contains("only the names of jobs and applications"), "{name}: {why}");
    }
    for name in [" job:x", "\u{200b}job:x", "a\u{202e}b", "\u{2028}z"] {
        let why = service.with_token(&named(name)).get(JOB).await.refused(401);
        assert!(why.contains("username") && why.contains("invisible characters"), "{name:?}: {why}");
    }
    for name in ["job", "jobs:x", "ann:job:x", "jöb:x", "äpplication:x", "Ann Lee", "安", "ann@example.org"] {
        service.with_token(&named(name)).get(JOB).await.refused(404);
    }
}

/// An authorization service that allows everything and remembers about whom it was asked.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<String>>);

impl Authorizer for Asked {
    fn authorize<'a>(
        &'a self,
        authorization: &'a AuthorizationRequest<'a>,
    ) -> BoxFuture<'a, Result<Decision, Problem>> {
        self.0.lock().unwrap().push(authorization.access.user.to_owned());
        Box::pin(std::future::ready(Ok(Decision::Allowed)))
    }
}

/// A service that trusts two issuers, their keys, and its authorization service.
async fn two_issuers() -> (Service, [(Issuer, Key); 2], Arc<Asked>) {
    let (one, two) = (Key::new("one"), Key::new("two"));
    let (first, second) = (Issuer::start(&[&one]).await, Issuer::start(&[&two]).await);
    let issuers = [&first, &second].map(|issuer| clients::jwks::Issuer { name: issuer.name.clone(), jwks_url: None });
    let asked = Arc::new(Asked::default());
    let auth = Authentication {
        authorizer: Some(asked.clone()),
        issuers: vec![first.name.clone(), second.name.clone()],
        keys: Arc::new(Jwks::new(
            &Options { pause: Duration::ZERO, ..Options::new(issuers.to_vec()) },
            &system_clock(),
        )),
        ..authentication(&first)
    };
    (service(auth).await, [(first, one), (second, two)], asked)
}

async fn create_once(service: &Service, token: &str) -> Answer {
    let body = json!({"job_name": "daily-sales", "description": "", "team": "t1", "config": {"schedule": {}}});
    let request = Request::builder()
        .method(Method::POST)
        .uri("/data-jobs/for-team/t1/jobs")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("idempotency-key", "the-first-try")
        .header(AUTHORIZATION, format!("Bearer {token}"));
    service.send(request.body(body.to_string().into()).unwrap()).await
}

async fn users_of_two_issuers_who_have_one_name_are_distinguished() {
    let (service, [(first, one), (second, two)], asked) = two_issuers().await;
    let ann = |issuer: &Issuer, key: &Key| key.sign(&claims(issuer, json!({"username": "ann", "teams": ["t1"]})));
    let (at_first, at_second) = (ann(&first, &one), ann(&second, &two));
    create_once(&service, &at_first).await.is(201);
    // A repetition is one for the same user alone.
    create_once(&service, &at_first).await.is(201);
    create_once(&service, &at_second).await.refused(409);

    let properties = format!("{JOB}/deployments/TODO/properties");
    service.with_token(&at_second).put(&properties, json!({"a": 1})).await.is(204);
    let events = service.get(&format!("{JOB}/audit-events")).await.ok()["events"].clone();
    let by: Vec<_> = events.as_array().unwrap().iter().map(|event| event["by"].as_str().unwrap().to_owned()).collect();
    let (at_first, at_second) = (format!("{}#ann", first.name), format!("{}#ann", second.name));
    assert_eq!(by, [at_second.clone(), at_first.clone()]);
    let asked = asked.0.lock().unwrap();
    assert_eq!(asked[..4], [at_first.clone(), at_first, at_second.clone(), at_second]);
}

async fn the_credential_of_a_job_ends_with_its_deployment() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    service.with_token(&key.sign(&claims(&issuer, json!({"username": "ann", "teams": ["t1"]}))));
    service.deploy("t1", "daily-sales").await;
    service.reach("daily-sales").await;
    let credential = service.credential("daily-sales").await;
    service.exchange(&credential).await.ok();
    service.delete(&format!("{JOB}/deployments/production")).await.is(202);
    service.remove("daily-sales").await;
    let refused = service.exchange(&credential).await;
    refused.refused(400);
    assert_eq!(refused.json()["error"], "invalid_grant");
}

async fn a_retry_of_a_failed_rollout_is_an_audit_event_and_a_repetition_of_a_good_one_is_none() {
    let service = Service::start().await;
    service.deploy("t1", "daily-sales").await;
    let version = service.upload("t1", "daily-sales").await;
    let again = async || {
        service.post(&format!("{JOB}/deployments"), json!({"job_version": version})).await.is(202);
        let events = service.get(&format!("{JOB}/audit-events")).await.ok()["events"].clone();
        events.as_array().unwrap().iter().filter(|event| event["action"] == "deployment.retry").count()
    };
    service.reach("daily-sales").await;
    again().await;
    service.reach("daily-sales").await;
    assert_eq!(again().await, 0);
    service
        .fail(
            "daily-sales",
            Problem::new(
                model::problem::Code::PackageInstallerFailed,
                "It was not rolled out.",
                "The cluster is away.",
            )
            .nothing_changed()
            .fix("Retry."),
        )
        .await;
    assert_eq!(again().await, 1);
}

/// The log of a test, which works in one thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines since the last look that say this.
    fn lines(&self, said: &str) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        text.lines().filter(|line| line.contains(said)).map(ToOwned::to_owned).collect()
    }
}

/// The limit counts the lines of the whole process, so the tests of it take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn each_request_has_a_line_in_the_access_log_with_its_caller_and_without_its_query() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let ann = key.sign(&claims(&issuer, json!({"username": "ann", "teams": ["t1"], "exp": 2_000_000_000})));

    service.with_token(&ann).create("t1", "daily-sales").await;
    let _ = log.lines("access");
    service.with_token(&ann).get(&format!("{JOB}?query=hunter2")).await.ok();
    service.get("/livez").await.ok();
    service.with_token("no-token").get(JOB).await.refused(401);
    let lines = log.lines("access: ");
    assert_eq!(lines.len(), 2, "{lines:?}");
    for part in ["status=200", "user=\"ann\"", &format!("path=\"{JOB}\""), "latency_ms=", "op_id=", "method=GET"] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
    assert!(lines[1].contains("status=401") && lines[1].contains("user=\"\""), "{lines:?}");
    assert!(!lines.concat().contains("hunter2"));
}

async fn refusals_and_reads_of_secrets_are_logged_with_their_caller_and_without_an_end_to_the_lines() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    // In a minute of its own on each database as well.
    let _turn = TURN.lock().await;
    service.pass(if database() == Database::Sqlite { 987_654 } else { 1_987_654 });
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let user = |name: &str, team: &str| {
        key.sign(&claims(&issuer, json!({"username": name, "teams": [team], "exp": 2_000_000_000})))
    };

    service.with_token(&user("ann", "t1")).create("t1", "daily-sales").await;
    service.get(&format!("{JOB}/deployments/TODO/secrets")).await.ok();
    let read = log.lines("the secrets of a job were read");
    assert!(read.len() == 1 && read[0].contains("ann") && read[0].contains("op_id"), "{read:?}");

    service.with_token(&user("bob", "t2")).delete(JOB).await.refused(403);
    let refused = log.lines("a change was refused to its caller");
    assert!(refused.len() == 1 && refused[0].contains("bob") && refused[0].contains(JOB), "{refused:?}");

    let expired = key.sign(&claims(&issuer, json!({"username": "ann", "exp": 1})));
    for _ in 0..300 {
        service.with_token(&expired).get(JOB).await.refused(401);
    }
    let failed = log.lines("a token was refused");
    // More than 60 if refusals of other tests, in another minute, came in between.
    assert!((1..300).contains(&failed.len()) && failed[0].contains("has expired"), "{}", failed.len());
    assert!(!failed.concat().contains(&expired));
}
