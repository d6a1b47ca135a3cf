//! Several instances on one PostgreSQL, and what happens without it.

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use e2e::{
    TEAM,
    api::Api,
    job::Job,
    service::{Options, Service},
    wait,
};
use testing::{Database, Fresh, Server};

/// Longer than the lease below, and than a server needs to come back.
const BACK: Duration = Duration::from_secs(30);

fn shared(url: &str) -> Options {
    Options::default().set("HOLDFAST_DATABASE_URL", url).set("HOLDFAST_LEASE_SECONDS", "3")
}

/// What everybody gets while the database is away.
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
    let url = Database::Postgresql.fresh().url().to_owned();
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
async fn instances_of_the_site_lead_in_turn_and_another_only_answers_until_it_takes_the_site_over() {
    let database = Database::Postgresql.fresh();
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

    // A run is asked for there, and runs where runs are; its log is told where it is.
    let start = async |api: &Api, seconds: u64| {
        let body = serde_json::json!({ "started_by": "test", "args": { "seconds": seconds } });
        api.post(&format!("/jobs/{name}/deployments/production/executions"), &body).await.is(202).location_id()
    };
    let id = start(&far.api(), 6).await;
    second.api().log_says(name, &id, "begun").await;
    let [_, why, ..] = far.api().get(&format!("/jobs/{name}/executions/{id}/logs")).await.is(409).sentences();
    assert!(why.contains("another machine"), "{why}");

    // The leader is killed; the other instance of the site goes on, and nothing runs twice.
    first.kill();
    let ended = far.api().ended(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert!(far.api().log(name, &id).await.contains("begun"));
    assert_eq!(fs::read_to_string(&ran).expect("a file"), "ran\n");

    // While the site lives it is not taken; when it is lost, what ran there is over and not repeated.
    let lost = start(&far.api(), 600).await;
    second.api().log_says(name, &lost, "begun").await;
    let refused = far.command("take-over-site");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("is alive"), "{refused:?}");
    second.kill();
    let taken = far.command("take-over-site");
    assert!(taken.status.success() && String::from_utf8_lossy(&taken.stdout).contains("other site: 1"), "{taken:?}");
    let ended = far.api().ended(name, &lost).await;
    assert_eq!(ended["status"], "platform_error", "{ended}");
    assert!(ended["message"].as_str().is_some_and(|m| m.contains("left behind")), "{ended}");

    // Jobs run here now, and the old site does not lead when it is back.
    second.start_again();
    let id = start(&second.api(), 0).await;
    let ended = second.api().ended(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{}", far.api().log(name, &id).await);
    assert!(second.log().contains("never leads"), "{}", second.log());
    assert_eq!(fs::read_to_string(&ran).expect("a file").lines().count(), 3, "no run is repeated");
    assert!(far.is_running() && far.stop().success());
}
