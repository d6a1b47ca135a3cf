//! Behaviour on PostgreSQL: several instances, each seeing the others' commits between its own statements.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]
#![allow(clippy::print_stdout, reason = "a test starts itself and reads what it says")]

mod support;

use std::{collections::HashSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use model::{
    execution::Type,
    job::DataJob,
    name::{JobId, JobName},
};
use store::{
    Db, PostgresOptions, StoreError, Tx, audit,
    executions::{self, NewExecution},
    hosts, jobs,
    leases::{self, SYNCHRONIZER},
    retention,
};
use support::{insert, job, raw};
use testing::{Database, Fresh, Server, for_each_database};
use tokio::time::{Instant, timeout};

for_each_database!(
    a_host_that_is_given_up_leads_no_more_and_what_ran_there_is_known,
    a_schema_that_only_a_newer_program_can_serve_is_refused_by_name,
    every_text_means_the_same,
    a_text_that_only_one_of_them_could_hold_is_refused,
);

async fn a_host_that_is_given_up_leads_no_more_and_what_ran_there_is_known(on: Database) {
    let fresh = on.empty();
    let db = fresh.open().await;
    let lead = async |holder: &str, host: &str| {
        let seen = leases::find(&db, SYNCHRONIZER).await.unwrap();
        let candidate = leases::Candidate { holder, host: Some(host), renderer: 1, configuration: "" };
        match leases::take_at(&db, SYNCHRONIZER, candidate, seen.as_ref()).await.unwrap() {
            leases::Taken::Leads(epoch) => Some(epoch),
            leases::Taken::No => None,
            outdated @ leases::Taken::Outdated { .. } => panic!("{outdated:?}"),
        }
    };
    assert_eq!(lead("old", "old").await, None, "no site was claimed");
    assert_eq!(hosts::claim(&db, "old").await.unwrap(), "old");
    assert_eq!(hosts::claim(&db, "new").await.unwrap(), "old", "the first one stays");
    assert_eq!(lead("new", "new").await, None);
    let old = lead("old", "old").await.unwrap();

    let host = hosts::find(&mut db.read().await.unwrap()).await.unwrap().unwrap();
    let seen = leases::find(&db, SYNCHRONIZER).await.unwrap();
    assert!(leases::renew(&db, SYNCHRONIZER, old).await.unwrap());
    let taken = hosts::take_over(&db, SYNCHRONIZER, &host, seen.as_ref(), "new").await.unwrap();
    assert_eq!(taken, None, "the old one is alive");

    let seen = leases::find(&db, SYNCHRONIZER).await.unwrap();
    let since = hosts::take_over(&db, SYNCHRONIZER, &host, seen.as_ref(), "new").await.unwrap().unwrap();
    assert!(old < since);
    let named = hosts::find(&mut db.read().await.unwrap()).await.unwrap().unwrap();
    assert_eq!((named.id.as_str(), named.since), ("new", since));
    // It was frozen only, and writes nothing any more.
    assert!(!leases::renew(&db, SYNCHRONIZER, old).await.unwrap());
    let mut tx = db.write().await.unwrap();
    assert!(matches!(leases::fence(&mut tx, old).await, Err(StoreError::Fenced { .. })));
    drop(tx);
    assert_eq!(lead("old", "old").await, None);
    assert!(lead("new", "new").await.unwrap() > since);
}

async fn a_schema_that_only_a_newer_program_can_serve_is_refused_by_name(on: Database) {
    let fresh = on.empty();
    let db = fresh.open().await;
    let mut tx = db.write().await.unwrap();
    raw(
        &mut tx,
        "insert into _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
         values (9000, 'of a later version', current_timestamp, true, '', 0)",
    )
    .await;
    tx.commit().await.unwrap();
    // It was only expanded: the program before works on.
    db.ping().await.unwrap();
    fresh.open().await.close().await;

    let mut tx = db.write().await.unwrap();
    raw(&mut tx, "update service_state set value = '9000' where name = 'schema.oldest_program'").await;
    tx.commit().await.unwrap();
    let refused = |result: Result<(), StoreError>| match result {
        Err(error @ StoreError::SchemaTooNew { needed: 9000, .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused(db.ping().await).contains("newer than this program"));
    refused(Db::open(fresh.url(), &PostgresOptions::default(), testing::clock()).await.map(drop));
}

async fn every_text_means_the_same(on: Database) {
    let fresh = on.empty();
    let db = fresh.open().await;
    for (n, (name, team, description)) in [
        ("b-example", "zeta", "Ähnlich wie ÉTÉ"),
        ("a-example", "Zeta", "100% _exact_ \\ text"),
        ("c-example", "alpha", "plain"),
        ("d-example", "Äther", ""),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(
            insert(
                &db,
                &DataJob { description: description.into(), team: support::team(team), ..job(n as u128, name) }
            )
            .await
        );
    }
    let mut tx = db.read().await.unwrap();
    let mut names = async |query: jobs::JobQuery| -> Vec<String> {
        let page = jobs::page(&mut tx, &jobs::JobQuery { limit: 10, ..query.clone() }).await.unwrap();
        assert_eq!(jobs::count(&mut tx, &query).await.unwrap(), i64::try_from(page.len()).unwrap());
        page.iter().map(|s| s.job.name.as_str()[..1].to_owned()).collect()
    };
    let default = jobs::JobQuery::default;
    // By bytes: capitals first, letters of other alphabets last.
    let by_team = jobs::JobQuery { sort: jobs::JobSort::Team, ..default() };
    assert_eq!(names(by_team.clone()).await, ["a", "c", "b", "d"]);
    assert_eq!(names(jobs::JobQuery { descending: true, ..by_team }).await, ["d", "b", "c", "a"]);
    let team = |pattern: &str| jobs::JobQuery { teams: vec![pattern.into()], ..default() };
    assert_eq!(names(team("zeta")).await, ["a", "b"]);
    assert_eq!(names(team("z*")).await, ["a", "b"]);
    assert_eq!(names(team("ÄTHER")).await, ["d"]);
    assert_eq!(names(team("*eta")).await, ["a", "b"]);
    let description = |text: &str| jobs::JobQuery { descriptions: vec![text.into()], ..default() };
    assert_eq!(names(description("WIE ÉTÉ")).await, ["b"]);
    assert_eq!(names(description("wie été")).await, ["b"]);
    assert_eq!(names(description("% _EXACT_ \\")).await, ["a"]);
    assert_eq!(names(description("%plain")).await, Vec::<String>::new());
    // Missing values come last in either direction.
    let by_next = jobs::JobQuery { sort: jobs::JobSort::NextRun, ..default() };
    assert_eq!(names(by_next).await, ["a", "b", "c", "d"]);
}

async fn a_text_that_only_one_of_them_could_hold_is_refused(on: Database) {
    let fresh = on.empty();
    let db = fresh.open().await;
    let job = DataJob { description: "a\0b".into(), ..job(1, "example-job") };
    let mut tx = db.write().await.unwrap();
    let refused = jobs::insert(&mut tx, &job, None, "someone", Timestamp::UNIX_EPOCH).await;
    assert!(matches!(refused, Err(StoreError::Unstorable)), "{refused:?}");
    drop(tx);
    let mut tx = db.read().await.unwrap();
    let query = jobs::JobQuery { search: Some("a\0".into()), limit: 1, ..jobs::JobQuery::default() };
    let found = jobs::page(&mut tx, &query).await;
    assert!(matches!(&found, Err(StoreError::Unstorable)), "{found:?}");
}

/// Shared by the tests below, which are about PostgreSQL alone.
async fn two_instances() -> (Fresh, Db, Db) {
    let fresh = Database::Postgresql.empty();
    let (one, two) = (fresh.open().await, fresh.open().await);
    (fresh, one, two)
}

#[tokio::test]
async fn every_text_is_compared_by_bytes_and_nothing_is_a_timestamp() {
    let (_fresh, db, _) = two_instances().await;
    let Tx::Postgres(mut tx) = db.read().await.unwrap() else { panic!() };
    let odd: Vec<(String, String, String)> = sqlx::query_as(
        "select table_name::text, column_name::text, data_type::text from information_schema.columns
         where table_schema = current_schema() and table_name <> '_sqlx_migrations'
           and ((data_type = 'text' and collation_name is distinct from 'C')
             or data_type not in ('text', 'bigint', 'boolean', 'bytea', 'double precision'))",
    )
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    assert_eq!(odd, []);
}

#[tokio::test]
async fn a_take_over_waits_for_a_fenced_write_and_a_renewal_does_not() {
    let (_fresh, one, two) = two_instances().await;
    let old = leases::take(&one, SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    let mut write = one.for_sync().write().await.unwrap();
    leases::fence(&mut write, old).await.unwrap();

    assert!(timeout(Duration::from_secs(1), leases::renew(&one, SYNCHRONIZER, old)).await.unwrap().unwrap());
    let seen = leases::find(&two, SYNCHRONIZER).await.unwrap().unwrap();
    let taking = tokio::spawn(async move { leases::take(&two, SYNCHRONIZER, "two", Some(&seen)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!taking.is_finished(), "it would have slipped between the fence and the commit");
    insert_in(&mut write, 1).await;
    write.commit().await.unwrap();
    let new = taking.await.unwrap().unwrap().unwrap();
    assert!(new > old);

    let mut late = one.for_sync().write().await.unwrap();
    let refused = leases::fence(&mut late, old).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    leases::fence(&mut late, new).await.unwrap();
}

async fn insert_in(tx: &mut Tx, n: u128) {
    jobs::insert(tx, &job(n, &format!("example-job-{n}")), None, "someone", Timestamp::UNIX_EPOCH).await.unwrap();
}

#[tokio::test]
async fn a_leader_that_froze_within_a_write_holds_up_the_next_for_a_bounded_time() {
    let fresh = Database::Postgresql.empty();
    let options =
        PostgresOptions { idle_in_transaction_timeout: Duration::from_millis(500), ..PostgresOptions::default() };
    let (one, two) = (fresh.open_with(&options).await, fresh.open_with(&options).await);
    let old = leases::take(&one, SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    let mut write = one.for_sync().write().await.unwrap();
    leases::fence(&mut write, old).await.unwrap();
    insert_in(&mut write, 1).await;
    let seen = leases::find(&two, SYNCHRONIZER).await.unwrap().unwrap();
    let begun = Instant::now();
    assert!(leases::take(&two, SYNCHRONIZER, "two", Some(&seen)).await.unwrap().is_some());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // The write that it had begun is rejected when it continues.
    let late = write.commit().await;
    assert!(matches!(late, Err(StoreError::Uncertain(_) | StoreError::Unavailable(_))), "{late:?}");
    let mut tx = two.read().await.unwrap();
    assert_eq!(jobs::count(&mut tx, &jobs::JobQuery::default()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_notification_reaches_every_instance_once_per_moment() {
    let (fresh, one, two) = two_instances().await;
    let pool = sqlx::PgPool::connect(fresh.url()).await.unwrap();
    let mut listener = sqlx::postgres::PgListener::connect_with(&pool).await.unwrap();
    listener.listen("holdfast_notifications").await.unwrap();
    // Listeners notify once when they are connected.
    timeout(Duration::from_secs(5), two.notifications().executions.notified()).await.unwrap();
    timeout(Duration::from_secs(5), two.notifications().deployments.notified()).await.unwrap();

    let begun = Instant::now();
    one.notifications().executions.notify_one();
    timeout(Duration::from_secs(5), two.notifications().executions.notified()).await.unwrap();
    let latency = begun.elapsed();
    assert!(latency < Duration::from_millis(500), "{latency:?}");
    assert!(timeout(Duration::from_millis(200), two.notifications().deployments.notified()).await.is_err());
    while timeout(Duration::from_millis(100), listener.recv()).await.is_ok() {}

    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        one.notifications().deployments.notify_one();
        one.notifications().executions.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut told = 0;
    while timeout(Duration::from_millis(200), listener.recv()).await.is_ok() {
        told += 1;
    }
    assert!((2..=12).contains(&told), "{told} notifications in half a second");

    // A notification of a loop concerns its own instance.
    one.for_sync().notifications().schedules.notify_one();
    assert!(timeout(Duration::from_millis(200), listener.recv()).await.is_err());
    timeout(Duration::from_secs(1), one.notifications().schedules.notified()).await.unwrap();
}

#[tokio::test]
async fn a_listener_that_lost_its_connection_comes_back() {
    let (_fresh, one, two) = two_instances().await;
    timeout(Duration::from_secs(5), two.notifications().schedules.notified()).await.unwrap();
    let mut tx = one.read().await.unwrap();
    raw(
        &mut tx,
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'holdfast listen' and datname = current_database()",
    )
    .await;
    drop(tx);
    // It notifies in case one was missed, and listens again.
    timeout(Duration::from_secs(5), two.notifications().schedules.notified()).await.unwrap();
    one.notifications().schedules.notify_one();
    timeout(Duration::from_secs(5), two.notifications().schedules.notified()).await.unwrap();
}

#[tokio::test]
async fn a_read_by_a_single_statement_is_sent_again_when_its_connection_died_idle() {
    let (_fresh, one, two) = two_instances().await;
    let idle = (two.read().await.unwrap(), two.read().await.unwrap(), two.read().await.unwrap());
    drop(idle);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut tx = one.read().await.unwrap();
    raw(
        &mut tx,
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'holdfast api' and datname = current_database() and pid <> pg_backend_pid()",
    )
    .await;
    drop(tx);
    let (mut read, mut sent) = (two.read_once(), 0);
    let count = loop {
        let count = jobs::count(&mut read.begin().await.unwrap(), &jobs::JobQuery::default()).await;
        sent += 1;
        if !read.is_again(&count) {
            break count.unwrap();
        }
    };
    assert_eq!(count, 0);
    assert!((4..=6).contains(&sent), "once for each connection that died, and once more: {sent}");
}

#[tokio::test]
async fn a_database_that_is_down_is_reported_soon_and_used_again_as_soon_as_it_is_up() {
    let server = Server::start();
    let fresh = Fresh::on(&server);
    let db = fresh.open().await;
    assert!(insert(&db, &job(1, "example-job")).await);
    for crash in [false, true] {
        // Idle connections, which die with the server.
        let idle = (db.read().await.unwrap(), db.read().await.unwrap(), db.write().await.unwrap());
        drop(idle);
        let mut open = db.write().await.unwrap();
        insert_in(&mut open, 2).await;
        if crash {
            server.crash();
        } else {
            server.stop();
        }
        let begun = Instant::now();
        assert!(matches!(db.read().await, Err(StoreError::Unavailable(_))));
        assert!(matches!(db.write().await, Err(StoreError::Unavailable(_))));
        assert!(matches!(db.ping().await, Err(StoreError::Unavailable(_))));
        assert!(matches!(leases::find(&db, SYNCHRONIZER).await, Err(StoreError::Unavailable(_))));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let lost = open.commit().await;
        assert!(matches!(lost, Err(StoreError::Uncertain(_) | StoreError::Unavailable(_))), "{lost:?}");
        server.start_again();
        for _ in 0..20 {
            db.ping().await.unwrap();
        }
        let mut tx = db.read().await.unwrap();
        assert_eq!(jobs::count(&mut tx, &jobs::JobQuery::default()).await.unwrap(), 1);
        drop(tx);
        assert!(leases::find(&db, SYNCHRONIZER).await.unwrap().is_none());
    }
    db.close().await;
}

#[tokio::test]
async fn callers_that_take_all_connections_stop_no_loop_and_no_lease() {
    let fresh = Database::Postgresql.empty();
    let options = PostgresOptions { callers: 3, ..PostgresOptions::default() };
    let db = fresh.open_with(&options).await;
    let epoch = leases::take(&db, SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    let pool_state = [db.write().await.unwrap(), db.write().await.unwrap(), db.read().await.unwrap()];
    let begun = Instant::now();
    assert!(matches!(db.read().await, Err(StoreError::Unavailable(_))));
    assert!((1800..4000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert!(leases::renew(&db, SYNCHRONIZER, epoch).await.unwrap());
    db.for_sync().write().await.unwrap().commit().await.unwrap();
    // Readiness is about the database, not about how many wait for it.
    let begun = Instant::now();
    db.ping().await.unwrap();
    assert!(begun.elapsed().as_millis() < 1000, "{:?}", begun.elapsed());
    drop(pool_state);
    db.ping().await.unwrap();
}

#[tokio::test]
async fn an_exhausted_pool_of_a_database_that_answers_is_reported() {
    let fresh = Database::Postgresql.empty();
    let options =
        PostgresOptions { callers: 1, acquire_timeout: Duration::from_millis(300), ..PostgresOptions::default() };
    let db = fresh.open_with(&options).await;
    let mut pool_state = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let db = db.clone();
        pool_state.spawn(async move {
            let tx = db.read().await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(tx);
            Ok::<_, StoreError>(())
        });
    }
    let told = pool_state.join_all().await;
    assert!(told.iter().any(Result::is_ok), "{told:?}");
    let refused: Vec<_> = told.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty() && refused.iter().all(|e| matches!(e, StoreError::PoolExhausted)), "{refused:?}");
    let problem = model::Problem::from(StoreError::PoolExhausted);
    assert_eq!(problem.kind, model::problem::Kind::Overloaded);
}

#[tokio::test]
async fn a_statement_that_waits_for_a_lock_is_given_up() {
    let fresh = Database::Postgresql.empty();
    let options = PostgresOptions { lock_timeout: Duration::from_millis(300), ..PostgresOptions::default() };
    let db = fresh.open_with(&options).await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let mut first = db.write().await.unwrap();
    jobs::find_for_update(&mut first, &job.name).await.unwrap().unwrap();
    let mut second = db.write().await.unwrap();
    let refused = jobs::find_for_update(&mut second, &job.name).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    // A read-only transaction waits for no other.
    let mut reader = db.read().await.unwrap();
    assert!(jobs::find_for_update(&mut reader, &job.name).await.unwrap().is_some());
}

#[tokio::test]
async fn a_connection_that_must_be_encrypted_and_can_t_be_is_refused_with_the_reason() {
    let fresh = Database::Postgresql.empty();
    let url = format!("{}&sslmode=require", fresh.url());
    match Db::open(&url, &PostgresOptions::default(), testing::clock()).await {
        Err(StoreError::Unfit { why }) => assert!(why.contains("encrypted"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn connections_are_encrypted_and_a_strange_server_is_refused() {
    let server = Server::start_encrypted();
    let url = server.database_over_network();
    let options = testing::options();
    for mode in ["require".to_owned(), format!("verify-full&sslrootcert={}", server.certificate().display())] {
        let db = Db::open(&format!("{url}?sslmode={mode}"), &options, testing::clock()).await.unwrap();
        let mut tx = db.read().await.unwrap();
        let Tx::Postgres(connection) = &mut tx else { panic!("PostgreSQL") };
        let (encrypted,): (bool,) = sqlx::query_as("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
            .fetch_one(&mut **connection)
            .await
            .unwrap();
        assert!(encrypted, "{mode}");
        drop(tx);
        db.close().await;
    }
    for wrong in [
        "sslmode=verify-full".to_owned(),
        format!("sslmode=verify-full&sslrootcert={}", server.strange_certificate().display()),
    ] {
        let error = Db::open(&format!("{url}?{wrong}"), &options, testing::clock()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unfit { why } if why.contains("encrypted")), "{wrong}: {error:?}");
        assert!(!error.is_transient());
    }
}

/// In the process of this test without the variable; in a process that it starts, with the trust store of a machine that
/// knows the server's certificate and of one that does not.
#[tokio::test]
async fn the_trust_store_of_the_machine_decides_which_servers_are_known() {
    const URL: &str = "HOLDFAST_TEST_ENCRYPTED_URL";
    #[expect(clippy::disallowed_methods, reason = "the test starts itself with it")]
    if let Ok(url) = std::env::var(URL) {
        let opened = Db::open(&url, &testing::options(), testing::clock()).await;
        println!("the server is {}.", if opened.is_ok() { "known" } else { "unknown" });
        return;
    }
    let server = Server::start_encrypted();
    let url = format!("{}?sslmode=verify-full", server.database_over_network());
    for (trusted, expected) in [(server.certificate(), "known"), (server.strange_certificate(), "unknown")] {
        let name = "the_trust_store_of_the_machine_decides_which_servers_are_known";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(URL, &url)
            .env("SSL_CERT_FILE", &trusted)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(said.contains(&format!("the server is {expected}.")), "{said}");
    }
}

#[tokio::test]
async fn a_reader_sees_one_state_of_the_database() {
    let (_fresh, one, two) = two_instances().await;
    let mut reader = one.read().await.unwrap();
    assert_eq!(jobs::count(&mut reader, &jobs::JobQuery::default()).await.unwrap(), 0);
    assert!(insert(&two, &job(1, "example-job")).await);
    assert_eq!(jobs::count(&mut reader, &jobs::JobQuery::default()).await.unwrap(), 0);
    let refused = jobs::delete(&mut reader, job(1, "example-job").id, "someone", None, Timestamp::UNIX_EPOCH).await;
    assert!(refused.is_err(), "it only reads");
}

#[tokio::test]
async fn the_work_of_loops_is_found_by_partial_indexes() {
    let fresh = Database::Postgresql.empty();
    // Nothing is a large table here: only what an index can't serve is scanned.
    let url = format!("{}&options=-c%20enable_seqscan%3Doff%20-c%20enable_bitmapscan%3Doff", fresh.url());
    let db = Db::open(&url, &PostgresOptions::default(), testing::clock()).await.unwrap();
    let mut tx = db.write().await.unwrap();
    for n in 0..300 {
        insert_in(&mut tx, n).await;
    }
    raw(
        &mut tx,
        "insert into audit_event (at, by, op_id, action, job_id)
         select cast(n as bigint) * 1000000, 'someone', 'op', 'job.update', cast(n % 100 as text) from generate_series(1, 3000) n",
    )
    .await;
    raw(&mut tx, "analyze data_job, audit_event").await;
    let now = Timestamp::from_second(1).unwrap();
    assert_eq!(audit::purge(&mut tx, now + SignedDuration::from_secs(1), 10).await.unwrap(), 1);
    audit::page(&mut tx, JobId(uuid::Uuid::nil()), 9, 10).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.read().await.unwrap();
    store::schedules::due(&mut tx, now).await.unwrap();
    store::schedules::earliest(&mut tx).await.unwrap();
    store::schedules::pending(&mut tx, 10).await.unwrap();
    store::deployments::due(&mut tx, now, 10).await.unwrap();
    store::deployments::next_due(&mut tx, now).await.unwrap();
    executions::active_ids(&mut tx, 10).await.unwrap();
    jobs::find(&mut tx, &JobName::parse("example-job-7").unwrap()).await.unwrap().unwrap();
    drop(tx);
    db.close().await;

    let pool = sqlx::PgPool::connect(fresh.url()).await.unwrap();
    let expected = [
        "schedule_next_tick",
        "deployment_pending_tick",
        "rollout_due",
        "data_job_execution_active",
        "data_job_live_name",
        "audit_event_at",
        "audit_event_job",
    ];
    let mut unused = Vec::new();
    for _ in 0..50 {
        let rows: Vec<(String,)> =
            sqlx::query_as("select indexrelname::text from pg_stat_user_indexes where idx_scan > 0")
                .fetch_all(&pool)
                .await
                .unwrap();
        let used: HashSet<_> = rows.iter().map(|(name,)| name.as_str()).collect();
        unused = expected.into_iter().filter(|name| !used.contains(name)).collect();
        if unused.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not used: {unused:?}");
}

#[tokio::test]
async fn clean_up_leaves_what_comes_into_use_meanwhile() {
    let (_fresh, one, two) = two_instances().await;
    let old = job(1, "old-job");
    let new = job(2, "new-job");
    assert!(insert(&one, &old).await);
    assert!(insert(&one, &new).await);
    let version = model::source::SourceVersion::parse(&"a".repeat(40)).unwrap();
    let source = model::source::Source {
        version: version.clone(),
        archive_bytes: 1,
        requirements: String::new(),
        uploaded_by: "someone".into(),
        uploaded_at: Timestamp::UNIX_EPOCH,
        reason: String::new(),
    };
    let mut tx = one.write().await.unwrap();
    store::sources::insert(&mut tx, old.id, &source, b"the same").await.unwrap();
    let unused = store::schedules::ensure(&mut tx, "* * * * *", "UTC", None).await.unwrap();
    jobs::delete(&mut tx, old.id, "someone", None, Timestamp::UNIX_EPOCH).await.unwrap();
    tx.commit().await.unwrap();

    // Another job gets the same archive and the schedule, and is not committed yet.
    let mut upload = two.write().await.unwrap();
    store::sources::insert(&mut upload, new.id, &source, b"the same").await.unwrap();
    let schedule = store::schedules::ensure(&mut upload, "* * * * *", "UTC", None).await.unwrap();
    assert_eq!(schedule, unused);
    jobs::update(&mut upload, &new, Some(schedule), Timestamp::UNIX_EPOCH).await.unwrap();
    let cleaning = tokio::spawn(async move {
        let mut tx = one.write().await.unwrap();
        let schedules = store::schedules::unused(&mut tx, 10).await.unwrap();
        assert_eq!(schedules, [unused], "the other transaction is not seen");
        store::schedules::remove_unused(&mut tx, &schedules).await.unwrap();
        let before = Timestamp::from_second(9).unwrap();
        assert!(retention::jobs::begin(&mut tx, old.id, before, before).await.unwrap());
        loop {
            let part = retention::jobs::next_part(&mut tx, old.id, 500).await.unwrap();
            assert!(retention::jobs::remove(&mut tx, old.id, &part).await.unwrap());
            if part == retention::jobs::Part::Rest {
                break;
            }
        }
        tx.commit().await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    upload.commit().await.unwrap();
    cleaning.await.unwrap();
    let mut tx = two.read().await.unwrap();
    let archive = store::sources::archive(&mut tx, new.id, &version).await.unwrap();
    assert_eq!(archive.as_deref(), Some(&b"the same"[..]));
}

#[tokio::test]
async fn a_tick_of_a_job_that_is_deleted_at_this_moment_starts_nothing() {
    let (_fresh, one, two) = two_instances().await;
    let job = job(1, "example-job");
    assert!(insert(&one, &job).await);
    let mut delete = one.write().await.unwrap();
    jobs::find_for_update(&mut delete, &job.name).await.unwrap().unwrap();
    jobs::delete(&mut delete, job.id, "someone", None, Timestamp::UNIX_EPOCH).await.unwrap();
    let (id, name) = (job.id, job.name.clone());
    let firing = tokio::spawn(async move {
        let new = NewExecution {
            job_id: id,
            job_name: &name,
            kind: Type::Scheduled,
            started_by: "scheduled/runtime",
            op_id: None,
            arguments: None,
            scheduled_tick: Some(Timestamp::UNIX_EPOCH),
        };
        let mut tx = two.write().await.unwrap();
        executions::insert(&mut tx, &new, Timestamp::UNIX_EPOCH).await.unwrap()
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!firing.is_finished());
    delete.commit().await.unwrap();
    assert_eq!(firing.await.unwrap(), executions::Started::SlotTaken);
}
