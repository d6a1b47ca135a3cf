//! Permissions: every operation for every kind of caller, each cell asserted.

use std::{sync::Arc, time::Duration};

use api::auth::{ALGORITHMS, Authentication, ClaimRules};
use axum::{
    body::Body,
    http::{Method, Request},
};
use clients::jwks::{Jwks, Options};
use jsonwebtoken::{EncodingKey, Header, encode};
use model::name::JobName;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use store::{
    keys::{KeyRing, SecretKey},
    tokens::Credential,
};

use crate::{
    issuer::{Issuer, Key},
    support::{Answer, Service, Wish, archive, system_clock},
};

on_each_database!(
    every_operation_is_open_to_those_whom_the_table_names_and_to_no_other,
    a_job_starts_jobs_of_its_team_and_reads_how_they_end_when_the_operator_allows_it,
    lists_have_what_the_caller_may_read_and_nothing_else,
    a_job_of_another_team_is_refused_whether_or_not_it_exists,
    without_a_claim_for_teams_users_are_not_limited_to_any,
    a_header_that_holds_no_single_token_is_refused_in_a_way_that_the_client_prints,
    an_issuer_may_change_its_keys_and_may_be_down,
    keys_that_have_grown_old_are_read_again_while_no_request_waits,
    made_up_key_ids_do_not_make_the_service_ask_on_and_on,
    a_job_gets_a_token_as_long_as_its_deployment_counts,
    the_token_endpoint_takes_one_grant_as_a_form_and_no_other_address_takes_forms,
    only_one_team_has_jobs_where_jobs_could_read_each_other,
);

const NOW: i64 = 1_710_000_000;
pub(crate) const JOB: &str = "/data-jobs/for-team/t1/jobs/daily-sales";

/// How a table's columns are called. `daily-sales` and `other-job` are jobs of the team t1; the users belong to one team
/// each, the admin to none.
const CALLERS: [&str; 14] = [
    "nobody",
    "a user of another team",
    "a user of the team",
    "an admin",
    "the team's application",
    "another team's application",
    "the job",
    "another job of the team",
    "the user, expired",
    "the user, of an unknown issuer",
    "the user, alg none",
    "the user, for another service",
    "the user, signed with the public key as a shared secret",
    "the user, signed by a stranger",
];

/// The rule, one letter per caller in the order of [`CALLERS`]: `y` yes, `u` 401, `f` 403.
const OF_THE_TEAM: &str = "ufyyyfffuuuuuu";
const OF_THE_JOB: &str = "ufyyyfyfuuuuuu";
const OF_TWO_TEAMS: &str = "uffyffffuuuuuu";
const LISTS: &str = "uyyyyyffuuuuuu";
const OPEN: &str = "yyyyyyyyyyyyyy";

struct Operation {
    method: Method,
    uri: &'static str,
    body: Option<(&'static str, Vec<u8>)>,
    rule: &'static str,
    /// The status for the first caller who may, and for those after it.
    status: (u16, u16),
}

fn operation(rule: &'static str, method: Method, uri: &'static str, status: u16) -> Operation {
    Operation { method, uri, body: None, rule, status: (status, status) }
}

impl Operation {
    fn json(mut self, body: &Value) -> Self {
        self.body = Some(("application/json", body.to_string().into_bytes()));
        self
    }

    fn then(mut self, status: u16) -> Self {
        self.status.1 = status;
        self
    }
}

fn definition(name: &str, team: &str) -> Value {
    json!({"job_name": name, "description": "new", "team": team, "config": {"schedule": {}}})
}

/// Every operation. `{job}` is the job, `{id}` a run of it, `{version}` its source.
fn operations() -> Vec<Operation> {
    let (get, post, put, patch, delete) = (Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE);
    let teams = "/data-jobs/teams/t1/oauth-credentials";
    let of_job = |method: &Method, uri, status| operation(OF_THE_TEAM, method.clone(), uri, status);
    let own = |method: &Method, uri, status| operation(OF_THE_JOB, method.clone(), uri, status);
    let open = |method: &Method, uri, status| operation(OPEN, method.clone(), uri, status);
    let list = |method: &Method, uri, status| operation(LISTS, method.clone(), uri, status);
    let mut upload = of_job(&post, "{job}/sources", 200);
    upload.body = Some(("application/octet-stream", archive("daily-sales")));
    let mut token = open(&post, "/data-jobs/oauth2/token", 400);
    token.body = Some(("application/x-www-form-urlencoded", b"grant_type=refresh_token&refresh_token=x".to_vec()));
    vec![
        of_job(&post, "/data-jobs/for-team/t1/jobs", 201).json(&definition("a-new-job", "t1")).then(409),
        of_job(&get, "{job}", 200),
        of_job(&put, "{job}", 200).json(&definition("daily-sales", "t1")),
        operation(OF_TWO_TEAMS, put.clone(), "{job}/team/t3", 200),
        of_job(&delete, "{job}", 200).then(404),
        of_job(&get, "/data-jobs/for-team/t1/deleted-jobs", 200),
        of_job(&post, "{job}/undelete", 404),
        of_job(&get, "{job}/keytab", 200),
        of_job(&get, "{job}/sources", 200),
        upload,
        of_job(&delete, "{job}/sources", 200),
        of_job(&get, "{job}/deployments", 200),
        of_job(&post, "{job}/deployments", 202).json(&json!({"job_version": "{version}"})),
        of_job(&get, "{job}/deployments/production", 200),
        of_job(&patch, "{job}/deployments/production", 202).json(&json!({"enabled": false})),
        of_job(&delete, "{job}/deployments/production", 202),
        of_job(&get, "{job}/deployments/production/rollout", 200),
        of_job(&get, "{job}/deployments/production/revisions", 200),
        of_job(&get, "{job}/deployments/production/revisions/1", 200),
        of_job(&get, "{job}/deployments/production/revisions/1/diff/1", 200),
        of_job(&post, "{job}/deployments/production/revisions/1/rollback", 202),
        of_job(&get, "{job}/audit-events", 200),
        of_job(&get, "{job}/scheduled-times", 200),
        of_job(&post, "{job}/deployments/production/executions", 202).json(&json!({})).then(409),
        of_job(&get, "{job}/executions/{id}", 200),
        of_job(&delete, "{job}/executions/{id}", 200),
        of_job(&get, "{job}/executions/{id}/logs", 200),
        own(&get, "{job}/executions", 200),
        own(&get, "{job}/deployments/production/executions", 200),
        own(&get, "{job}/deployments/TODO/properties", 200),
        own(&put, "{job}/deployments/TODO/properties", 204).json(&json!({"a": 1})),
        own(&get, "{job}/deployments/TODO/secrets", 200),
        own(&put, "{job}/deployments/TODO/secrets", 202).json(&json!({"a": "b"})),
        of_job(&get, teams, 200),
        of_job(&put, teams, 202).json(&json!({"clientId": "app-1", "clientSecret": "s"})),
        list(&get, "/data-jobs/for-team/t1/info", 200),
        list(&get, "/data-jobs/for-team/t1/jobs", 200),
        list(&post, "/data-jobs/graphql", 200).json(&json!({"query": "{jobs {content {jobName}}}"})),
        list(&post, "/data-jobs/graphql", 200).json(&json!({"query": "{executions {content {id}}}"})),
        open(&get, "/data-jobs/teams/t1/oauth-credentials/client-id", 200),
        open(&post, "/data-jobs/oauth-credentials/client-ids", 200).json(&json!(["app-1"])),
        token,
        open(&get, "/data-jobs/graphql", 200),
        open(&get, "/data-jobs/debug/prometheus", 200),
        open(&get, "/", 200),
        open(&get, "/livez", 200),
        open(&get, "/readyz", 200),
        operation("uyyyyyyyuuuuuu", get, "/data-jobs/no-such-address", 404),
    ]
}

pub(crate) fn claims(issuer: &Issuer, mut more: Value) -> Value {
    let mut claims =
        json!({"iss": issuer.name, "aud": ["other", "holdfast"], "exp": NOW + 600, "nbf": NOW, "sub": "x"});
    claims.as_object_mut().unwrap().append(more.as_object_mut().unwrap());
    claims
}

pub(crate) fn authentication(issuer: &Issuer) -> Authentication {
    let issuers = vec![clients::jwks::Issuer { name: issuer.name.clone(), jwks_url: None }];
    Authentication {
        issuers: vec![issuer.name.clone()],
        audiences: vec!["holdfast".into()],
        algorithms: ALGORITHMS.to_vec(),
        leeway_seconds: 60,
        claims: ClaimRules {
            user_claim: "username".into(),
            teams_claim: Some("teams".into()),
            admin_roles: vec!["admin".into()],
            ..ClaimRules::default()
        },
        keys: Arc::new(Jwks::new(&Options { pause: Duration::ZERO, ..Options::new(issuers) }, &system_clock())),
        authorizer: None,
        one_team: false,
        jobs_may_start_jobs: false,
    }
}

pub(crate) async fn service(auth: Authentication) -> Service {
    Service::with(Wish { auth: Some(auth), ..Wish::default() }).await
}

impl Service {
    pub(crate) fn with_token(&self, token: &str) -> &Self {
        *self.bearer.lock().unwrap() = Some(token.to_owned()).filter(|token| !token.is_empty());
        self
    }

    async fn job_id(&self, name: &str) -> model::name::JobId {
        let mut tx = self.db.read().await.unwrap();
        store::jobs::find(&mut tx, &JobName::parse(name).unwrap()).await.unwrap().unwrap().id
    }

    pub(crate) async fn credential(&self, name: &str) -> String {
        let credential = Credential { job_id: self.job_id(name).await, generation: 1 };
        credential.seal(&KeyRing::from(SecretKey::new([7; 32]))).unwrap().expose_secret().to_owned()
    }

    pub(crate) async fn exchange(&self, credential: &str) -> Answer {
        let form = format!("grant_type=refresh_token&refresh_token={credential}");
        let request = Request::post("/data-jobs/oauth2/token")
            .header("host", "localhost")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form));
        self.send(request.unwrap()).await
    }

    pub(crate) async fn job_token(&self, name: &str) -> String {
        let answer = self.exchange(&self.credential(name).await).await.ok();
        assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(900)));
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

/// The tokens of [`CALLERS`].
async fn tokens(service: &Service, issuer: &Issuer, key: &Key) -> Vec<String> {
    let user = |more: Value| {
        let mut all = json!({"username": "ann", "teams": ["t1"]});
        all.as_object_mut().unwrap().append(more.clone().as_object_mut().unwrap());
        key.sign(&claims(issuer, all))
    };
    let good = user(json!({}));
    let payload = good.split('.').nth(1).unwrap();
    let public = key.public()["x"].as_str().unwrap().to_owned();
    let shared = Header { kid: Some("one".into()), ..Header::default() };
    let stranger = Key::new("one");
    vec![
        String::new(),
        user(json!({"username": "bob", "teams": ["t2"]})),
        good.clone(),
        user(json!({"username": "eve", "teams": [], "scope": "openid admin"})),
        key.sign(&claims(issuer, json!({"sub": "client:app-1"}))),
        key.sign(&claims(issuer, json!({"sub": "client:app-2"}))),
        service.job_token("daily-sales").await,
        service.job_token("other-job").await,
        user(json!({"exp": NOW - 61})),
        user(json!({"iss": "https://unknown.example"})),
        // {"alg":"none"}
        format!("eyJhbGciOiJub25lIn0.{payload}."),
        user(json!({"aud": "other"})),
        encode(&shared, &claims(issuer, json!({"username": "ann"})), &EncodingKey::from_secret(public.as_bytes()))
            .unwrap(),
        stranger.sign(&claims(issuer, json!({"username": "ann", "teams": ["t1"]}))),
    ]
}

/// Two jobs of t1, of which one is deployed and runs if `started`, one of t2, and the applications of both teams.
async fn populate(service: &Service, issuer: &Issuer, key: &Key, started: bool) -> (String, String) {
    service.with_token(&key.sign(&claims(issuer, json!({"username": "eve", "scope": "admin"}))));
    for (team, job) in [("t1", "daily-sales"), ("t1", "other-job"), ("t2", "far-away")] {
        service.deploy(team, job).await;
    }
    service.reach("daily-sales").await;
    for (team, app) in [("t1", "app-1"), ("t2", "app-2")] {
        let uri = format!("/data-jobs/teams/{team}/oauth-credentials");
        service.put(&uri, json!({"clientId": app, "clientSecret": "s"})).await.is(202);
    }
    let version = service.get(&format!("{JOB}/deployments")).await.ok()[0]["job_version"].as_str().unwrap().to_owned();
    let id = if started { service.execute("t1", "daily-sales").await } else { String::new() };
    (id, version)
}

/// The differences from a row.
async fn wrong_cells(auth: Authentication, issuer: &Issuer, key: &Key, operation: &Operation) -> Vec<String> {
    let service = service(auth).await;
    let (id, version) = populate(&service, issuer, key, operation.uri.contains("{id}")).await;
    let tokens = tokens(&service, issuer, key).await;
    let uri = operation.uri.replace("{job}", JOB).replace("{id}", &id);
    let body = operation.body.clone().map(|(kind, bytes)| match String::from_utf8(bytes) {
        Ok(text) => (kind, text.replace("{version}", &version).into_bytes()),
        Err(error) => (kind, error.into_bytes()),
    });
    // Those who may not come first: what they were refused must still be there for the others.
    let mut cells: Vec<_> = CALLERS.iter().zip(operation.rule.chars()).zip(&tokens).collect();
    assert_eq!(cells.len(), operation.rule.len());
    cells.sort_by_key(|((_, cell), _)| *cell == 'y');
    let (first, then) = operation.status;
    let (mut allowed, mut wrong) = (first, Vec::new());
    for ((caller, cell), token) in cells {
        let answer = service.with_token(token).call(operation.method.clone(), &uri, body.clone()).await;
        let expected = match cell {
            'y' => std::mem::replace(&mut allowed, then),
            'u' => 401,
            _ => 403,
        };
        if answer.status != expected {
            let body = String::from_utf8_lossy(&answer.bytes);
            wrong.push(format!(
                "{} {uri} by {caller}: {} instead of {expected}\n    {body}",
                operation.method, answer.status
            ));
        } else if cell != 'y' {
            answer.refused(expected);
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge.starts_with("Bearer realm=\"holdfast\""), cell == 'u', "{challenge}");
        }
    }
    wrong
}

async fn every_operation_is_open_to_those_whom_the_table_names_and_to_no_other() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let operations = operations();
    let mut wrong = Vec::new();
    // A few at a time: each has a database of its own.
    for some in operations.chunks(4) {
        let rows = some.iter().map(|operation| wrong_cells(authentication(&issuer), &issuer, &key, operation));
        wrong.extend(futures::future::join_all(rows).await.concat());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn a_job_starts_jobs_of_its_team_and_reads_how_they_end_when_the_operator_allows_it() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let auth = || Authentication { jobs_may_start_jobs: true, ..authentication(&issuer) };
    // By the job itself, and by another job of its team.
    let changed = [
        ("{job}/deployments/production/executions", "ufyyyfyyuuuuuu"),
        ("{job}/executions", "ufyyyfyyuuuuuu"),
        ("{job}/executions/{id}", "ufyyyfyyuuuuuu"),
    ];
    let mut wrong = Vec::new();
    for mut operation in operations() {
        let is_cancel = operation.method == Method::DELETE && operation.uri == "{job}/executions/{id}";
        if let Some((_, rule)) = changed.iter().find(|(uri, _)| *uri == operation.uri)
            && !is_cancel
        {
            operation.rule = rule;
        }
        wrong.extend(wrong_cells(auth(), &issuer, &key, &operation).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Not those of another team, which it names rightly or claims to be in its own.
    let service = service(auth()).await;
    populate(&service, &issuer, &key, true).await;
    service.with_token(&service.job_token("daily-sales").await);
    for job in ["/data-jobs/for-team/t2/jobs/far-away", "/data-jobs/for-team/t2/jobs/no-such-job"] {
        service.post(&format!("{job}/deployments/production/executions"), "{}").await.refused(403);
        service.get(&format!("{job}/executions")).await.refused(403);
    }
    let claimed = "/data-jobs/for-team/t1/jobs/far-away/deployments/production/executions";
    service.post(claimed, "{}").await.refused(404);
}

async fn lists_have_what_the_caller_may_read_and_nothing_else() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    populate(&service, &issuer, &key, true).await;
    service.execute("t2", "far-away").await;
    let tokens = tokens(&service, &issuer, &key).await;
    for (caller, names) in [
        (1, vec!["far-away"]),
        (2, vec!["daily-sales", "other-job"]),
        (3, vec!["daily-sales", "far-away", "other-job"]),
        (4, vec!["daily-sales", "other-job"]),
        (5, vec!["far-away"]),
    ] {
        service.with_token(&tokens[caller]);
        let names_in = |page: &Value| -> Vec<String> {
            page["content"].as_array().unwrap().iter().map(|j| j["jobName"].as_str().unwrap().to_owned()).collect()
        };
        // The address has the team of others, as clients without a team send it; it does not matter.
        let jobs = "{jobs(filter: [{property: \"jobName\", sort: ASC}]) {content {jobName} totalItems}}";
        let page = service.query(&[("query", jobs)]).await.ok()["data"].clone();
        assert_eq!(names_in(&page), names, "{}", CALLERS[caller]);
        assert_eq!(page["totalItems"], names.len());
        let running: Vec<_> = names.iter().filter(|name| **name != "other-job").collect();
        let runs = "{executions(order: {property: \"jobName\", direction: ASC}) {content {jobName} totalItems}}";
        let page = service.query(&[("query", runs)]).await.ok()["data"].clone();
        assert_eq!(names_in(&page).iter().collect::<Vec<_>>(), running, "{}", CALLERS[caller]);
        let body = json!({"query": runs});
        assert_eq!(
            service.post("/data-jobs/graphql", body).await.ok()["data"]["executions"]["totalItems"],
            running.len()
        );
        // Asking for a foreign team by name shows nothing.
        let foreign = if names.contains(&"far-away") { "t1" } else { "t2" };
        let runs = format!("{{executions(filter: {{teamNameIn: [\"{foreign}\"]}}) {{content {{id}} totalItems}}}}");
        let page = service.query(&[("query", &runs)]).await.ok()["data"].clone();
        assert_eq!(page["totalItems"], usize::from(caller == 3), "{}", CALLERS[caller]);
        let jobs = format!(
            "{{jobs(filter: [{{property: \"config.team\", pattern: \"{foreign}\"}}]) {{content {{jobName}}}}}}"
        );
        let page = service.query(&[("query", &jobs)]).await.ok()["data"].clone();
        assert_eq!(names_in(&page).is_empty(), caller != 3, "{}", CALLERS[caller]);
    }
    let nobody = key.sign(&claims(&issuer, json!({"username": "new", "teams": []})));
    let page = service.with_token(&nobody).query(&[("query", "{jobs {content {jobName} totalItems}}")]).await.ok();
    assert_eq!((&page["data"]["content"], &page["data"]["totalItems"]), (&json!([]), &json!(0)));
}

async fn a_job_of_another_team_is_refused_whether_or_not_it_exists() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    populate(&service, &issuer, &key, false).await;
    let stranger = key.sign(&claims(&issuer, json!({"username": "bob", "teams": ["t2"]})));
    service.with_token(&stranger);
    let there = service.get(JOB).await.refused(403);
    assert_eq!(there, service.get("/data-jobs/for-team/t1/jobs/not-there").await.refused(403));
    // Under the caller's own team it is not there, as any other name.
    service.get("/data-jobs/for-team/t2/jobs/daily-sales").await.refused(404);
}

async fn without_a_claim_for_teams_users_are_not_limited_to_any() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let mut auth = authentication(&issuer);
    auth.claims.teams_claim = None;
    auth.claims.custom_claim = Some("org".into());
    auth.claims.custom_values = vec!["o1".into()];
    auth.claims.authorized_roles = vec!["run".into()];
    let service = service(auth).await;
    let user = |more: Value| {
        let mut all = json!({"username": "ann", "org": "o1", "scope": "run"});
        all.as_object_mut().unwrap().append(more.clone().as_object_mut().unwrap());
        key.sign(&claims(&issuer, all))
    };
    service.with_token(&user(json!({})));
    service.create("t1", "daily-sales").await;
    service.create("t2", "far-away").await;
    assert_eq!(service.get(&format!("{JOB}/audit-events")).await.ok()["events"][0]["by"], "ann");
    // Known, and of no business here.
    for (more, why) in [
        (json!({"org": "o2"}), "The claim \"org\""),
        (json!({"org": null}), "The claim \"org\""),
        (json!({"scope": "walk"}), "none of the roles"),
        (json!({"username": null, "sub": "client:unknown"}), "not a team's OAuth application"),
        (json!({"username": null}), "not a team's OAuth application"),
    ] {
        let answer = service.with_token(&user(more)).get(JOB).await;
        assert!(answer.refused(403).contains(why));
        assert!(answer.header("www-authenticate").contains("insufficient_scope"));
    }
    // Not known at all.
    for more in [
        json!({"username": "a\u{0}b"}),
        json!({"username": ["a"]}),
        json!({"exp": null}),
        json!({"exp": "soon"}),
        json!({"nbf": NOW + 61}),
        json!({"aud": null}),
        json!({"aud": ["a", 7]}),
        json!({"iss": ["a"]}),
    ] {
        service.with_token(&user(more)).get(JOB).await.refused(401);
    }
    // Clocks may differ a little.
    service.with_token(&user(json!({"exp": NOW - 59, "nbf": NOW + 59}))).get(JOB).await.ok();
}

async fn a_header_that_holds_no_single_token_is_refused_in_a_way_that_the_client_prints() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    let good = key.sign(&claims(&issuer, json!({"username": "ann", "teams": ["t1"]})));
    let long = format!("Bearer {}", "a".repeat(17 * 1024));
    for headers in [
        vec![],
        vec!["Basic YTpi".to_owned()],
        vec!["Bearer".into()],
        vec!["Bearer  ".into()],
        vec![good.clone()],
        vec![long],
        vec![format!("Bearer {good}"), format!("Bearer {good}")],
        vec!["Bearer hfa1.x.y".into()],
        vec!["Bearer a.b.c".into()],
    ] {
        let mut request = Request::get(JOB).header("host", "localhost");
        for header in &headers {
            request = request.header("authorization", header);
        }
        let answer = service.send(request.body(Body::empty()).unwrap()).await;
        answer.refused(401);
        assert!(answer.json()["countermeasures"].as_str().unwrap().contains("vdk login"), "{headers:?}");
        assert!(!String::from_utf8_lossy(&answer.bytes).contains(&good));
    }
    let request = Request::get(JOB).header("host", "localhost").header("authorization", format!("bearer {good}"));
    service.send(request.body(Body::empty()).unwrap()).await.refused(404);
}

async fn an_issuer_may_change_its_keys_and_may_be_down() {
    let (old, new, made_up) = (Key::new("old"), Key::new("new"), Key::new("made-up"));
    let issuer = Issuer::start(&[&old]).await;
    issuer.down(true);
    let service = service(authentication(&issuer)).await;
    let token = |key: &Key| key.sign(&claims(&issuer, json!({"username": "ann", "teams": ["t1"]})));
    // No token can be checked before the keys were read once.
    let answer = service.with_token(&token(&old)).get(JOB).await;
    answer.refused(503);
    assert_eq!(answer.header("retry-after"), "5");

    issuer.down(false);
    service.get(JOB).await.refused(404);
    issuer.down(true);
    // Keys that were read stay valid; an unknown key is not known to be wrong.
    service.get(JOB).await.refused(404);
    service.with_token(&token(&new)).get(JOB).await.refused(503);
    issuer.down(false);
    issuer.show(&[&old, &new]);
    service.get(JOB).await.refused(404);
    service.with_token(&token(&old)).get(JOB).await.refused(404);
    assert!(service.with_token(&token(&made_up)).get(JOB).await.refused(401).contains("does not have"));
    // A key that was withdrawn counts no more once the keys were read again, as for the key that was made up.
    issuer.show(&[&new]);
    service.get(JOB).await.refused(401);
    service.with_token(&token(&old)).get(JOB).await.refused(401);
    service.with_token(&token(&new)).get(JOB).await.refused(404);
}

async fn keys_that_have_grown_old_are_read_again_while_no_request_waits() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let issuer = Issuer::start(&[&old]).await;
    let mut auth = authentication(&issuer);
    let issuers = vec![clients::jwks::Issuer { name: issuer.name.clone(), jwks_url: None }];
    let options = Options { pause: Duration::ZERO, renew_after: Duration::ZERO, ..Options::new(issuers) };
    auth.keys = Arc::new(Jwks::new(&options, &system_clock()));
    let service = service(auth).await;
    let token = |key: &Key| key.sign(&claims(&issuer, json!({"username": "ann", "teams": ["t1"]})));
    service.with_token(&token(&old)).get(JOB).await.refused(404);
    issuer.show(&[&new]);
    // The one who asks is answered by what is known, and the key that is gone counts no more soon afterwards.
    service.get(JOB).await.refused(404);
    while service.get(JOB).await.status != 401 {
        tokio::task::yield_now().await;
    }
    service.with_token(&token(&new)).get(JOB).await.refused(404);
}

async fn made_up_key_ids_do_not_make_the_service_ask_on_and_on() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let mut auth = authentication(&issuer);
    let issuers =
        vec![clients::jwks::Issuer { name: issuer.name.clone(), jwks_url: Some(format!("{}/keys", issuer.name)) }];
    auth.keys =
        Arc::new(Jwks::new(&Options { pause: Duration::from_secs(3600), ..Options::new(issuers) }, &system_clock()));
    let service = service(auth).await;
    for id in ["a", "b", "c", "d"] {
        let token = Key::new(id).sign(&claims(&issuer, json!({"username": "ann", "teams": ["t1"]})));
        service.with_token(&token).get(JOB).await.refused(401);
    }
    assert_eq!(issuer.asked(), 1);
    service
        .with_token(&key.sign(&claims(&issuer, json!({"username": "ann", "teams": ["t1"]}))))
        .get(JOB)
        .await
        .refused(404);
    assert_eq!(issuer.asked(), 1);
}

async fn a_job_gets_a_token_as_long_as_its_deployment_counts() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    populate(&service, &issuer, &key, false).await;
    let admin = service.bearer.lock().unwrap().clone().unwrap();
    let credential = service.credential("daily-sales").await;
    let properties = format!("{JOB}/deployments/TODO/properties");
    let token = service.job_token("daily-sales").await;
    service.with_token(&token).put(&properties, json!({"a": 1})).await.is(204);
    let by = service.with_token(&admin).get(&format!("{JOB}/audit-events")).await.ok()["events"][0]["by"].clone();
    assert_eq!(by, "job:daily-sales");

    // Nothing of GraphQL is for a job, whatever it asks for.
    for query in ["{ __typename }", "{ __schema { queryType { name } } }", "{ jobs { totalItems } }", "{", "{ ...f }"] {
        service.with_token(&token).query(&[("query", query)]).await.refused(403);
        service.with_token(&token).post("/data-jobs/graphql", json!({ "query": query })).await.refused(403);
    }

    // It has expired after its time, and the credential gives a new one.
    service.pass(900);
    let admin = key.sign(&claims(&issuer, json!({"username": "eve", "scope": "admin", "exp": NOW + 5000})));
    assert!(service.with_token(&token).get(&properties).await.refused(401).contains("expired"));
    let token = service.job_token("daily-sales").await;
    service.with_token(&token).get(&properties).await.ok();
    // A credential is no token, and a token no credential.
    service.with_token(&credential).get(&properties).await.refused(401);
    assert_eq!(service.exchange(&token).await.json()["error"], "invalid_grant");

    // A newer deployment replaces the desired one; the reached deployment and its active execution keep theirs.
    service.with_token(&admin);
    let id = service.execute("t1", "daily-sales").await;
    service.run(&id).await;
    service.patch(&format!("{JOB}/deployments/production"), json!({"enabled": false})).await.is(202);
    service.exchange(&credential).await.ok();
    service.reach("daily-sales").await;
    service.exchange(&credential).await.ok();
    service.end(&id, model::execution::Status::Succeeded, "").await;
    let answer = service.exchange(&credential).await;
    answer.refused(400);
    assert_eq!(answer.json()["error"], "invalid_grant");

    // A deleted job has nothing, and a new job with the same name inherits nothing.
    service.delete(JOB).await;
    service.deploy("t1", "daily-sales").await;
    service.exchange(&credential).await.refused(400);
    service.with_token(&token).get(&properties).await.refused(403);
}

async fn the_token_endpoint_takes_one_grant_as_a_form_and_no_other_address_takes_forms() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(authentication(&issuer)).await;
    let form = |uri: &'static str, body: &'static str| {
        let form = Some(("application/x-www-form-urlencoded", body.as_bytes().to_vec()));
        service.call(Method::POST, uri, form)
    };
    let endpoint = "/data-jobs/oauth2/token";
    let answer = form(endpoint, "grant_type=password&username=a&password=b").await;
    answer.refused(400);
    assert_eq!(answer.json()["error"], "unsupported_grant_type");
    for body in ["grant_type=refresh_token", "grant_type=refresh_token&refresh_token=hfc1.a.b"] {
        assert_eq!(form(endpoint, body).await.json()["error"], "invalid_grant");
    }
    form("/data-jobs/graphql", "query=x").await.refused(415);
    let open = Service::start().await;
    let body = Some(("application/x-www-form-urlencoded", b"grant_type=refresh_token&refresh_token=x".to_vec()));
    open.call(Method::POST, endpoint, body).await.refused(404);
}

async fn only_one_team_has_jobs_where_jobs_could_read_each_other() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(Authentication { one_team: true, ..authentication(&issuer) }).await;
    service.with_token(&key.sign(&claims(&issuer, json!({"username": "eve", "scope": "admin"}))));
    service.create("t1", "daily-sales").await;
    let refused = service.post("/data-jobs/for-team/t2/jobs", definition("far-away", "t2")).await;
    assert!(refused.refused(403).contains("\"t1\""));
    service.create("t1", "other-job").await;
    service.put(&format!("{JOB}/team/t2"), "").await.refused(403);
    service.delete("/data-jobs/for-team/t1/jobs/other-job").await;
    // The only job may move, and the next ones follow it.
    service.put(&format!("{JOB}/team/t2"), "").await.is(200);
    service.create("t2", "far-away").await;
    service.post("/data-jobs/for-team/t1/jobs", definition("other-job", "t1")).await.refused(403);
}
