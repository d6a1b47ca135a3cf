//! Several instances on one database: one leads, and another one takes over when it is gone.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]
#![allow(clippy::print_stdout, reason = "the figures of a test")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use model::{
    clock::Clock,
    deployment::DeploymentChange,
    execution::{EndCause, Status},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use store::{
    Db, StoreError,
    leases::{self, Epoch, SYNCHRONIZER},
};
use support::Harness;
use sync::gauges::Gauges;
use testing::{Database, Fresh, Server};
use tokio::time::Instant;

/// Long enough to measure by on a machine with much to do.
const LEASE: Duration = Duration::from_secs(3);

async fn leader(db: &Db) -> Option<leases::Lease> {
    leases::find(db, SYNCHRONIZER).await.unwrap().filter(|lease| !lease.holder.is_empty())
}

async fn until_leads(harness: &Harness, holder: &str) -> Epoch {
    harness
        .until(&format!("{holder} leads"), async || leader(&harness.db).await.is_some_and(|l| l.holder == holder))
        .await;
    Epoch(leader(&harness.db).await.unwrap().epoch)
}

#[tokio::test]
async fn a_killed_leader_is_replaced_within_the_lease_and_writes_nothing_afterwards() {
    let harness = Harness::new(Database::Postgresql).await;
    let (_, one) = harness.instance("one", harness.fresh.open().await, false, LEASE);
    let old = until_leads(&harness, "one").await;
    let (stop, two) = harness.instance("two", harness.fresh.open().await, false, LEASE);
    harness.deployed("example-job", None).await;
    let run = harness.start("example-job").await;
    harness.until_status("example-job", &run, Status::Running).await;
    // It leads for longer than its lease, as long as it renews it.
    tokio::time::sleep(LEASE + LEASE / 2).await;
    assert_eq!(leader(&harness.db).await.unwrap().holder, "one");

    one.abort();
    let killed = Instant::now();
    let new = until_leads(&harness, "two").await;
    let took = killed.elapsed();
    assert!(took <= LEASE + Duration::from_millis(200), "{took:?}");
    println!("a killed leader was replaced after {took:?} (lease {LEASE:?})");
    assert_eq!(new.0, old.0 + 1);

    // Work in progress continues, and writes of the former leader are rejected.
    harness.runtime.end(&run, harness.clock.now(), EndCause::Exited(0));
    harness.until_status("example-job", &run, Status::Succeeded).await;
    let mut late = harness.db.write().await.unwrap();
    let refused = store::executions::running(&mut late, old, &run, harness.clock.now()).await.map(drop);
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    stop.cancel();
    two.await.unwrap();
}

#[tokio::test]
async fn a_leader_that_is_asked_to_stop_is_replaced_within_a_second() {
    let harness = Harness::new(Database::Postgresql).await;
    let lease = Duration::from_secs(15);
    let mut instances = Vec::new();
    for holder in ["one", "two", "three"] {
        instances.push((holder, harness.instance(holder, harness.fresh.open().await, false, lease)));
    }
    harness.until("one leads", async || leader(&harness.db).await.is_some()).await;
    while instances.len() > 1 {
        let holder = leader(&harness.db).await.unwrap().holder;
        let place = instances.iter().position(|(name, _)| *name == holder).unwrap();
        let (_, (stop, task)) = instances.remove(place);
        stop.cancel();
        let stopped = Instant::now();
        harness.until("another leads", async || leader(&harness.db).await.is_some_and(|l| l.holder != holder)).await;
        let took = stopped.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        println!("a stopped leader was replaced after {took:?}");
        task.await.unwrap();
        harness.deployed(&format!("job-after-{holder}"), None).await;
    }
}

#[tokio::test]
async fn a_leader_that_another_replaced_stops_following_rows() {
    let harness = Harness::new(Database::Postgresql).await;
    let (stop, one) = harness.instance("one", harness.fresh.open().await, false, LEASE);
    until_leads(&harness, "one").await;
    let seen = leases::find(&harness.db, SYNCHRONIZER).await.unwrap().unwrap();
    // As after a pause of the process that was longer than the lease.
    let usurper = loop {
        let seen = leases::find(&harness.db, SYNCHRONIZER).await.unwrap().unwrap_or(seen.clone());
        if let Some(epoch) = leases::take(&harness.db, SYNCHRONIZER, "usurper", Some(&seen)).await.unwrap() {
            break epoch;
        }
    };
    // The usurper does not renew the lease, so that it leads again with a new epoch.
    let again = until_leads(&harness, "one").await;
    assert!(again > usurper);
    harness.deployed("example-job", None).await;
    stop.cancel();
    one.await.unwrap();
}

#[tokio::test]
async fn changes_of_the_cluster_count_from_before_the_lease_was_asked_for() {
    let harness = Harness::new(Database::Postgresql).await;
    let lease = Duration::from_secs(15);
    let former = leases::take(&harness.db, SYNCHRONIZER, "former", None).await.unwrap().unwrap();
    leases::release(&harness.db, SYNCHRONIZER, former).await.unwrap();
    // A write of the former leader holds the take-over up.
    let mut write = harness.db.write().await.unwrap();
    leases::fence(&mut write, former).await.unwrap();
    let (stop, one) = harness.instance("one", harness.fresh.open().await, false, lease);
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    harness.until("the take-over waits", async || harness.fresh.psql(waiting).trim() != "0").await;
    let asked_before = harness.clock.boot();
    write.commit().await.unwrap();
    until_leads(&harness, "one").await;
    harness.until("it may write", async || harness.runtime.change(|s| !s.writes_until.is_empty())).await;
    let until = harness.runtime.change(|s| s.writes_until[0]);
    assert!(until <= asked_before + lease / 2, "{until:?}, asked for before {asked_before:?}");
    stop.cancel();
    one.await.unwrap();
    assert_eq!(harness.runtime.change(|s| s.writes_until.last().copied()), Some(Duration::ZERO));
}

#[tokio::test]
async fn an_instance_shows_that_the_leader_has_another_configuration() {
    let mut harness = Harness::new(Database::Postgresql).await;
    harness.constraints = "numpy<2".into();
    let leading = harness.instance("one", harness.fresh.open().await, false, LEASE);
    until_leads(&harness, "one").await;
    let mut instances = vec![leading];
    let option = |value: &str| [("daily-sales".to_owned(), [("X".to_owned(), value.to_owned())].into())].into();
    let mut shown = Vec::new();
    for (holder, constraints, by_job, differs) in [
        ("same", "numpy<2", BTreeMap::new(), false),
        ("other", "numpy<3", BTreeMap::new(), true),
        ("of one job", "numpy<2", option("y"), true),
    ] {
        harness.constraints = constraints.into();
        harness.job_options.by_job = by_job;
        let mut registry = Registry::default();
        let gauges = Gauges::register(&mut registry, false, harness.clock.clone());
        let db = harness.fresh.open().await;
        instances.push(harness.instance_with(holder, db, false, LEASE, gauges));
        shown.push((holder, registry, differs));
    }
    let differs = |registry: &Registry| {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text.lines().any(|line| line == "holdfast_configuration_differs 1")
    };
    for (holder, registry, _) in shown.iter().filter(|(.., differs)| *differs) {
        harness.until(&format!("{holder} shows it"), async || differs(registry)).await;
    }
    for (holder, registry, expected) in &shown {
        assert_eq!(differs(registry), *expected, "{holder}");
    }
    for (stop, task) in instances {
        stop.cancel();
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_change_accepted_by_one_instance_wakes_the_leader_in_another() {
    let harness = Harness::new(Database::Postgresql).await;
    let (stop, leading) = harness.instance("one", harness.fresh.open().await, false, LEASE);
    until_leads(&harness, "one").await;
    harness.deployed("first-job", None).await;
    let mut slowest = Duration::ZERO;
    for n in 0..10 {
        let name = format!("example-job-{n}");
        harness.create(&name, None).await;
        let begun = Instant::now();
        harness.deploy(&name).await;
        harness.until("it is reached", async || harness.reached(&name).await.is_some()).await;
        slowest = slowest.max(begun.elapsed());
    }
    println!("accepted in one instance, reached by another after at most {slowest:?}");
    // A lost notification costs seconds and no work.
    harness.create("quiet-job", None).await;
    let begun = Instant::now();
    let (quiet, caller) = (harness.db.for_sync(), harness.caller());
    let wanted = DeploymentChange { job_version: Some(support::version()), ..DeploymentChange::default() };
    let missing = app::deployments::Missing::Create;
    let defaults = &harness.defaults;
    app::deployments::change(&quiet, &*harness.clock, &caller, defaults, support::TEAM, "quiet-job", &wanted, missing)
        .await
        .unwrap();
    harness.until("it is reached", async || harness.reached("quiet-job").await.is_some()).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // The loops' own polls come after many seconds.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    stop.cancel();
    leading.await.unwrap();
}

#[tokio::test]
async fn with_the_database_down_everything_waits_and_continues_automatically() {
    let server = Server::start();
    let harness = Harness::on(Fresh::on(&server)).await;
    let mut instances = Vec::new();
    for holder in ["one", "two"] {
        instances.push(harness.instance(holder, harness.fresh.open().await, false, LEASE));
    }
    harness.deployed("example-job", None).await;
    for (round, crash) in [false, true].into_iter().enumerate() {
        let run = harness.start("example-job").await;
        harness.until_status("example-job", &run, Status::Running).await;
        if crash {
            server.crash();
        } else {
            server.stop();
        }
        // It ends while no instance can record it.
        harness.runtime.end(&run, harness.clock.now(), EndCause::Exited(0));
        let begun = Instant::now();
        let refused = harness.try_start("example-job").await.unwrap_err();
        assert_eq!(refused.kind, model::problem::Kind::Unavailable, "{refused:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        // Longer than the lease: the leader stops on its own.
        tokio::time::sleep(LEASE).await;
        server.start_again();
        let up = Instant::now();
        harness.until("it answers", async || harness.db.ping().await.is_ok()).await;
        harness.until_status("example-job", &run, Status::Succeeded).await;
        harness.deployed(&format!("job-of-round-{round}"), None).await;
        println!("after an outage (crash: {crash}) all continued within {:?}", up.elapsed());
    }
    for (stop, task) in instances {
        stop.cancel();
        task.await.unwrap();
    }
}
