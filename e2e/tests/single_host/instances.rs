//! Several instances on one PostgreSQL, and what happens without it.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::fs::OpenOptionsExt as _,
    time::{Duration, Instant},
};

use e2e::{
    TEAM,
    api::Api,
    job::Job,
    service::{Options, Service},
    wait,
};
use serde_json::json;
use testing::{Database, Fresh, Server};

/// Longer than the lease below, and than a server needs to come back.
const BACK: Duration = Duration::from_secs(30);

fn shared(url: &str) -> Options {
    Options::default().set("HOLDFAST_DATABASE_URL", url).set("HOLDFAST_LEASE_SECONDS", "3")
}

/// The response to everyone while the database is away.
async fn is_away(api: &Api, base: &str) {
    let answer = api.create("created-meanwhile").await.is(503);
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    answer.sentences();
    let status = async |path: &str| api.get_at(&format!("{base}{path}")).await.status.as_u16();
    assert_eq!((status("/livez").await, status("/readyz").await), (200, 503));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_waited_for_at_the_start_and_later() {
    let server = Server::start();
    let database = Fresh::on(&server);
    server.stop();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let base = format!("http://127.0.0.1:{port}");
    let options = shared(database.url()).set("HOLDFAST_LISTEN", &format!("127.0.0.1:{port}"));
    let starting = tokio::task::spawn_blocking(move || Service::start_with(options));

    let api = Api::new(&base, TEAM);
    wait::until("it answers before its database does", wait::SOON, async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    is_away(&api, &base).await;
    server.start_again();
    let service = starting.await.expect("it starts");
    assert_eq!(service.log().matches("the service waits for it").count(), 1, "{}", service.log());
    let _ = api.create("created-before").await.is(201);

    for how in [Server::stop, Server::crash] {
        how(&server);
        is_away(&api, &base).await;
        server.start_again();
        wait::until("it is ready again", BACK, async || {
            (api.get_at(&format!("{base}/readyz")).await.status == 200).then_some(())
        })
        .await;
        let _ = api.get("/jobs/created-before").await.is(200);
    }
    // The loops are back too.
    let job = Job::new("deployed-after").step("10_step.py", "print('hello')");
    api.deployed(&job).await;
}

#[tokio::test]
async fn a_database_that_will_never_do_is_refused_at_once() {
    let url = Database::Postgresql.empty().url().to_owned();
    for (wrong, why) in [
        (url.replace("/test_", "/no_such_"), "does not exist"),
        (url.replace("holdfast@", "stranger:hunter2@"), "stranger"),
    ] {
        let begun = Instant::now();
        let error = Service::try_start(shared(&wrong)).expect_err("a database that will not do");
        let error = format!("{error:#}");
        assert!(error.contains("can't be used") && error.contains(why), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn instances_of_the_host_lead_in_turn_and_another_only_serves_requests_until_it_takes_over() {
    let database = Database::Postgresql.empty();
    let mut first = Service::start_with(shared(database.url()));
    let mut second = first.another();
    let ran = first.beside().join("ran");
    let step = format!(
        "with open('{}', 'a') as ran: ran.write('ran\\n')\nprint('begun')\n\
         time.sleep(job_input.get_arguments().get('seconds', 0))",
        ran.display()
    );
    let job = Job::new("runs-on-a-site").step("10_step.py", &step);
    let name = job.name();
    first.api().deployed(&job).await;

    // Another machine: its own data folder, and the same key or none of it.
    let keyless = format!("{:#}", Service::try_start(shared(database.url())).expect_err("without the key"));
    assert!(keyless.contains("share its key file") && keyless.contains("secret.key"), "{keyless}");
    let key = fs::read_to_string(first.data_dir().join("secret.key")).expect("the key");
    let mut far = Service::start_with(shared(database.url()).file("data/secret.key", &key));
    wait::until("it says that it never leads", wait::SOON, async || far.log().contains("never leads").then_some(()))
        .await;
    let ready = far.api().get_at(&format!("{}/readyz", far.url())).await.is(200).json();
    assert!(ready["components"]["runs"]["reason"].as_str().is_some_and(|r| r.contains("never leads")), "{ready}");

    // A run is requested there, and runs where runs are; its log names that place.
    let start = async |api: &Api, seconds: u64| {
        let body = json!({ "started_by": "test", "args": { "seconds": seconds } });
        api.post(&format!("/jobs/{name}/deployments/production/executions"), &body).await.is(202).location_id()
    };
    let id = start(&far.api(), 6).await;
    second.api().log_says(name, &id, "begun").await;
    let [_, why, ..] = far.api().get(&format!("/jobs/{name}/executions/{id}/logs")).await.is(409).sentences();
    assert!(why.contains("another host"), "{why}");

    // The leader is killed; the other instance of the host continues, and nothing runs twice.
    first.kill();
    let ended = far.api().ended(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert!(far.api().log(name, &id).await.contains("begun"));
    assert_eq!(fs::read_to_string(&ran).expect("a file"), "ran\n");

    // While the host lives it is not taken; when it is lost, what ran there is over and not repeated.
    let lost = start(&far.api(), 600).await;
    second.api().log_says(name, &lost, "begun").await;
    let refused = far.command(&["take-over"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("still renews the lease"),
        "{refused:?}"
    );
    second.kill();
    let taken = far.command(&["take-over"]);
    assert!(taken.status.success() && String::from_utf8_lossy(&taken.stdout).contains("former host: 1"), "{taken:?}");
    let ended = far.api().ended(name, &lost).await;
    assert_eq!(ended["status"], "platform_error", "{ended}");
    assert!(ended["message"].as_str().is_some_and(|m| m.contains("that the operator replaced")), "{ended}");

    // Jobs run here now, and the old site does not lead when it is back.
    second.start_again();
    let id = start(&second.api(), 0).await;
    let ended = second.api().ended(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{}", far.api().log(name, &id).await);
    assert!(second.log().contains("never leads"), "{}", second.log());
    assert_eq!(fs::read_to_string(&ran).expect("a file").lines().count(), 3, "no run is repeated");
    assert!(far.is_running() && far.stop().success());
}

#[tokio::test]
async fn a_key_is_rotated_while_instances_run_and_the_one_that_was_forgotten_says_so() {
    const JOB: &str = "has-secrets";
    let database = Database::Postgresql.empty();
    let near = Service::start_with(shared(database.url()));
    let first_key = fs::read_to_string(near.data_dir().join("secret.key")).expect("the key");
    let mut far = Service::start_with(shared(database.url()).file("data/secret.key", &first_key));
    let said = |service: &Service, arguments: &[&str]| {
        let output = service.command(&[&["keys"], arguments].concat());
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), said)
    };
    let path = format!("/jobs/{JOB}/deployments/production/secrets");
    let store = async |service: &Service, value: &str| service.api().put(&path, &json!({ "token": value })).await;
    let read = async |service: &Service| service.api().get(&path).await;
    let keys_of = async |service: &Service| {
        let ready = service.api().get_at(&format!("{}/readyz", service.url())).await.is(200).json();
        ready["components"]["keys"]["status"].as_str().map(str::to_owned)
    };
    let _ = near.api().create(JOB).await.is(201);
    let _ = store(&near, "one").await.ok();
    assert_eq!(read(&far).await.ok().json()["token"], "one");

    // The file is made where it is asked for, and nothing else happens.
    let (done, told) = said(&near, &["rotate"]);
    assert!(done && told.contains("Copy the file"), "{told}");
    let id = told.split_whitespace().nth(3).expect("the key").to_owned();
    let file = format!("keys/{id}.key");
    let (listed, list) = said(&near, &["list"]);
    let state = |key: &str| list.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(listed && state(&id).contains("not needed"), "{list}");
    let former = list.lines().find(|line| line.contains(" active ")).and_then(|l| l.split_whitespace().next());
    let former = former.expect("the active key").to_owned();
    let (done, told) = said(&far, &["rotate", "--to", &id]);
    assert!(!done && told.contains("There is no file"), "{told}");

    // Far is forgotten: it continues with everything that does not need the key.
    let (done, told) = said(&near, &["rotate", "--to", &id]);
    assert!(done && told.contains(&id), "{told}");
    wait::until("the new key is active here", wait::SOON, async || {
        (store(&near, "two").await.status.is_success()).then_some(())
    })
    .await;
    let answer = store(&far, "lost").await.is(503);
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    answer.sentences();
    wait::until("it says that its key is missing", wait::SOON, async || {
        (keys_of(&far).await.as_deref() == Some("DOWN")).then_some(())
    })
    .await;
    assert!(far.log().contains("the file of the active encryption key is missing"), "{}", far.log());
    let _ = far.api().get(&format!("/jobs/{JOB}")).await.ok();
    assert_eq!(keys_of(&near).await, None);

    // It needs the file, and no restart.
    let there = far.data_dir().join(&file);
    fs::create_dir_all(there.parent().expect("a folder")).expect("a folder");
    let new_key = fs::read(near.data_dir().join(&file)).expect("the new key");
    let mut created = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&there).expect("a file");
    created.write_all(&new_key).expect("the key is copied");
    wait::until("it has the key", wait::SOON, async || keys_of(&far).await.is_none().then_some(())).await;
    assert_eq!(read(&far).await.ok().json()["token"], "two");
    let _ = store(&far, "three").await.ok();

    // The former one is removed from each folder, and is not missed.
    for service in [&near, &far] {
        wait::until("the former key is not needed", wait::SOON, async || {
            said(service, &["remove", &former]).0.then_some(())
        })
        .await;
    }
    far.stop();
    far.start_again();
    for service in [&near, &far] {
        assert_eq!(read(service).await.ok().json()["token"], "three");
    }
}
