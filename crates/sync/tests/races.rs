//! Verbs and loops that meet on the same rows, from several instances.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]
#![allow(clippy::print_stdout, reason = "the figures of a test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use app::{
    KeyRing, SecretKey, credentials::Credentials, deployments::Missing, executions::StartRequest, memory::MemoryBudget,
    scratch::Scratch, sources::Uploads,
};
use model::{
    BoxFuture, Problem,
    clock::Clock,
    deployment::DeploymentChange,
    execution::EndCause,
    job::JobConfig,
    preconditions::{IdempotencyKey, Precondition},
    problem::Kind,
    runtime::Stage,
    source::ArchiveLimits,
};
use store::{Db, Tx, deployments::Request, jobs};
use support::{Harness, TEAM, version};
use testing::{Database, for_each_database};
use tokio::time::Instant;

for_each_database!(
    of_starts_in_three_instances_at_one_instant_exactly_one_is_accepted,
    secrets_follow_a_rotation_while_writes_continue,
    a_request_with_a_key_that_three_instances_get_at_one_instant_is_carried_out_once,
    of_changes_that_know_the_same_state_one_is_accepted,
    of_three_who_bring_a_job_back_one_does,
    credentials_that_three_instances_store_at_one_instant_are_those_of_one,
);

type Verb = for<'a> fn(&'a Harness, &'a Db, &'a str) -> BoxFuture<'a, Result<(), Problem>>;

fn change(
    harness: &Harness,
    db: &Db,
    name: &str,
    change: DeploymentChange,
) -> impl Future<Output = Result<(), Problem>> {
    let (db, name, clock, defaults) = (db.clone(), name.to_owned(), harness.clock.clone(), harness.defaults.clone());
    let caller = harness.caller();
    async move { app::deployments::change(&db, &*clock, &caller, &defaults, TEAM, &name, &change, Missing::Create).await }
}

/// Every verb that changes something of a job that exists.
const VERBS: [(&str, Verb); 13] = [
    ("jobs::update", |harness, db, name| {
        Box::pin(async move {
            let definition = Harness::definition(name, Some("*/7 * * * *"));
            let (caller, defaults) = (harness.caller(), &harness.defaults);
            app::jobs::update(db, &*harness.clock, &caller, "UTC", defaults, TEAM, name, definition).await
        })
    }),
    ("jobs::delete", |harness, db, name| {
        Box::pin(async move { app::jobs::delete(db, &*harness.clock, &harness.caller(), TEAM, name).await })
    }),
    ("deployments::change", |harness, db, name| {
        Box::pin(change(
            harness,
            db,
            name,
            DeploymentChange { job_version: Some(version()), enabled: Some(false), ..DeploymentChange::default() },
        ))
    }),
    ("deployments::change to what is wanted already", |harness, db, name| {
        Box::pin(change(
            harness,
            db,
            name,
            DeploymentChange { job_version: Some(version()), ..DeploymentChange::default() },
        ))
    }),
    ("deployments::remove", |harness, db, name| {
        Box::pin(async move {
            app::deployments::remove(db, &*harness.clock, &harness.caller(), TEAM, name, "production").await
        })
    }),
    ("executions::start", |harness, db, name| {
        Box::pin(async move {
            let request = StartRequest::default();
            let caller = harness.caller();
            app::executions::start(db, &*harness.clock, &caller, TEAM, name, "production", &request).await.map(drop)
        })
    }),
    ("executions::cancel", |harness, db, name| {
        Box::pin(async move {
            let Some(active) = harness.executions(name).await.pop() else { return Ok(()) };
            app::executions::cancel(db, &*harness.clock, &harness.caller(), TEAM, name, active.id.as_str()).await
        })
    }),
    ("properties::replace", |harness, db, name| {
        Box::pin(async move {
            let properties = serde_json::from_str("{\"a\": 1}").unwrap();
            app::properties::replace(db, &*harness.clock, &harness.caller(), TEAM, name, &properties).await
        })
    }),
    ("secrets::replace", |harness, db, name| {
        Box::pin(async move {
            let secrets = serde_json::from_str("{\"a\": 1}").unwrap();
            let keys = SecretKey::new([7; 32]).into();
            app::secrets::replace(db, &keys, &*harness.clock, &harness.caller(), TEAM, name, &secrets).await
        })
    }),
    ("sources::upload", |harness, db, name| {
        Box::pin(async move {
            let (clock, caller, limits) = (&*harness.clock, harness.caller(), ArchiveLimits::default());
            let uploads = Uploads::new(
                Scratch::new(std::env::temp_dir()).unwrap(),
                &(Arc::new(clock::SystemClock) as model::clock::SharedClock),
            );
            let memory = MemoryBudget::new(64);
            let upload = app::sources::begin_upload(db, &caller, TEAM, name, "r").await?;
            let (received, _) = uploads.receive(None).await?.write(archive(name)).await?.complete();
            upload.store(db, clock, &caller, None, &limits, &memory, &uploads, received).await.map(drop)
        })
    }),
    ("sources::remove", |harness, db, name| {
        Box::pin(async move { app::sources::remove(db, &*harness.clock, &harness.caller(), TEAM, name, "r").await })
    }),
    ("jobs::move_to_team", |harness, db, name| {
        Box::pin(async move {
            let (clock, caller, defaults) = (&*harness.clock, harness.caller(), &harness.defaults);
            app::jobs::move_to_team(db, clock, &caller, "UTC", defaults, TEAM, name, "third team").await
        })
    }),
    ("history::roll_back", |harness, db, name| {
        Box::pin(async move {
            let (clock, caller, defaults) = (&*harness.clock, harness.caller(), &harness.defaults);
            let mut tx = db.read().await?;
            let job = jobs::find(&mut tx, &model::name::JobName::parse(name)?).await?.unwrap();
            let latest = store::revisions::page(&mut tx, job.id, i64::MAX, 1).await?.remove(0).generation;
            drop(tx);
            let to = ("production", latest);
            app::history::roll_back(db, clock, &caller, "UTC", defaults, TEAM, name, to).await
        })
    }),
];

/// The smallest archive of a job: one stored file.
fn archive(name: &str) -> Vec<u8> {
    let path = format!("{name}/10_step.py");
    let content = b"pass\n";
    let crc = content
        .iter()
        .fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))));
    let mut common = Vec::new();
    common.extend_from_slice(&[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]);
    common.extend_from_slice(&(!crc).to_le_bytes());
    for size in [content.len(), content.len()] {
        common.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    }
    common.extend_from_slice(&u16::try_from(path.len()).unwrap().to_le_bytes());
    common.extend_from_slice(&[0, 0]);
    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend_from_slice(&common);
    zip.extend_from_slice(path.as_bytes());
    zip.extend_from_slice(content);
    let directory = zip.len();
    zip.extend_from_slice(b"PK\x01\x02\x14\x00");
    zip.extend_from_slice(&common);
    zip.extend_from_slice(&[0; 14]);
    zip.extend_from_slice(path.as_bytes());
    let size = zip.len() - directory;
    zip.extend_from_slice(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    zip.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    zip.extend_from_slice(&u32::try_from(directory).unwrap().to_le_bytes());
    zip.extend_from_slice(&[0, 0]);
    zip
}

async fn prepared(harness: &Harness, name: &str) -> model::name::JobId {
    let id = harness.create(name, None).await;
    harness.deploy(name).await;
    harness.start(name).await;
    id
}

/// Waits until a statement waits for a lock in the database, as the verb has to.
async fn a_lock_is_waited_for<T>(harness: &Harness, verb: &tokio::task::JoinHandle<T>, label: &str) {
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    while harness.fresh.psql(waiting).trim() == "0" {
        assert!(!verb.is_finished(), "{label} did not wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Does all that deleting a job does, and leaves the transaction open.
async fn half_deleted(harness: &Harness, id: model::name::JobId) -> Tx {
    let now = harness.clock.now();
    let mut tx = harness.db.write().await.unwrap();
    let job = jobs::by_id(&mut tx, id).await.unwrap().unwrap();
    jobs::find_for_update(&mut tx, &job.name).await.unwrap().unwrap();
    store::executions::request_cancel_all(&mut tx, id, now).await.unwrap();
    let generation = jobs::next_generation(&mut tx, &job.name).await.unwrap();
    store::deployments::remove(&mut tx, id, generation, Request { by: "someone", op_id: "op" }, now).await.unwrap();
    assert!(jobs::delete(&mut tx, id, "someone", None, now).await.unwrap());
    tx
}

#[tokio::test]
async fn no_verb_changes_a_job_that_another_instance_deletes_at_this_moment() {
    let harness = Arc::new(Harness::new(Database::Postgresql).await);
    let other = harness.fresh.open().await;
    for (n, (label, verb)) in VERBS.into_iter().enumerate() {
        let name = format!("example-job-{n}");
        let id = prepared(&harness, &name).await;
        for commits in [false, true] {
            let delete = half_deleted(&harness, id).await;
            let meeting = {
                let (harness, other, name) = (harness.clone(), other.clone(), name.clone());
                tokio::spawn(async move { verb(&harness, &other, &name).await })
            };
            a_lock_is_waited_for(&harness, &meeting, label).await;
            if !commits {
                // It was all a mistake: the verb finds the job as it was.
                drop(delete);
                let done = meeting.await.unwrap();
                assert!(done.is_ok() || done.as_ref().is_err_and(|p| p.kind == Kind::Conflict), "{label}: {done:?}");
                if label == "jobs::delete" {
                    break;
                }
                continue;
            }
            delete.commit().await.unwrap();
            let refused = meeting.await.unwrap();
            assert_eq!(refused.unwrap_err().kind, Kind::NotFound, "{label}");
        }
    }
}

#[tokio::test]
async fn no_verb_changes_a_job_that_moves_to_another_team_at_this_moment() {
    let harness = Arc::new(Harness::new(Database::Postgresql).await);
    let other = harness.fresh.open().await;
    for (n, (label, verb)) in VERBS.into_iter().enumerate() {
        let name = format!("example-job-{n}");
        let id = prepared(&harness, &name).await;
        let mut tx = harness.db.write().await.unwrap();
        let mut job = jobs::by_id(&mut tx, id).await.unwrap().unwrap();
        job.team = model::name::TeamName::parse("other team").unwrap();
        jobs::find_for_update(&mut tx, &job.name).await.unwrap().unwrap();
        jobs::update(&mut tx, &job, None, harness.clock.now()).await.unwrap();
        let meeting = {
            let (harness, other, name) = (harness.clone(), other.clone(), name.clone());
            tokio::spawn(async move { verb(&harness, &other, &name).await })
        };
        a_lock_is_waited_for(&harness, &meeting, label).await;
        tx.commit().await.unwrap();
        assert_eq!(meeting.await.unwrap().unwrap_err().kind, Kind::NotFound, "{label}");
    }
}

#[tokio::test]
async fn of_two_jobs_of_one_name_at_one_instant_one_is_created() {
    let harness = Arc::new(Harness::new(Database::Postgresql).await);
    let other = harness.fresh.open().await;
    for commits in [true, false] {
        let name = format!("example-job-{commits}");
        let mut tx = harness.db.write().await.unwrap();
        let job = model::job::DataJob {
            id: model::name::JobId(harness.clock.new_id()),
            name: model::name::JobName::parse(&name).unwrap(),
            team: model::name::TeamName::parse(TEAM).unwrap(),
            description: String::new(),
            config: JobConfig::default(),
        };
        assert!(jobs::insert(&mut tx, &job, None, "someone", harness.clock.now()).await.unwrap());
        let meeting = {
            let (harness, other, name) = (harness.clone(), other.clone(), name.clone());
            tokio::spawn(async move {
                let definition = Harness::definition(&name, None);
                app::jobs::create(&other, &*harness.clock, &harness.caller(), "UTC", definition).await
            })
        };
        a_lock_is_waited_for(&harness, &meeting, "jobs::create").await;
        if commits {
            tx.commit().await.unwrap();
            assert_eq!(meeting.await.unwrap().unwrap_err().kind, Kind::Conflict);
        } else {
            drop(tx);
            meeting.await.unwrap().unwrap();
        }
    }
}

async fn of_starts_in_three_instances_at_one_instant_exactly_one_is_accepted(on: Database) {
    let harness = Arc::new(Harness::new(on).await);
    harness.create("example-job", None).await;
    harness.deploy("example-job").await;
    let instances = match on {
        Database::Sqlite => vec![harness.db.clone()],
        Database::Postgresql => vec![harness.db.clone(), harness.fresh.open().await, harness.fresh.open().await],
    };
    let starts: Vec<_> = (0..60)
        .map(|n| {
            let (harness, db) = (harness.clone(), instances[n % instances.len()].clone());
            tokio::spawn(async move {
                let (caller, request) = (harness.caller(), StartRequest::default());
                app::executions::start(&db, &*harness.clock, &caller, TEAM, "example-job", "production", &request).await
            })
        })
        .collect();
    let mut accepted = 0;
    for start in starts {
        match start.await.unwrap() {
            Ok(_) => accepted += 1,
            Err(problem) => assert_eq!(problem.kind, Kind::Conflict),
        }
    }
    assert_eq!(accepted, 1);
}

/// A sequence without meaning.
fn scramble(n: usize) -> usize {
    (n.wrapping_mul(2_654_435_761) ^ (n >> 7)).wrapping_mul(40_503) >> 9
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_meets_nothing_waits_in_a_circle_and_no_row_contradicts_another() {
    const CALLERS: usize = 24;
    const JOBS: usize = 5;
    let harness = Arc::new(Harness::new(Database::Postgresql).await);
    let mut instances = vec![harness.db.clone()];
    let mut synchronizers = Vec::new();
    for holder in ["one", "two", "three"] {
        let db = harness.fresh.open().await;
        synchronizers.push(harness.instance(holder, db.clone(), false, Duration::from_secs(15)));
        instances.push(db);
    }
    let end = Instant::now() + Duration::from_secs(6);
    let done = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (harness, db, done) = (harness.clone(), instances[caller % instances.len()].clone(), done.clone());
            tokio::spawn(async move {
                let mut turn = caller * 7919;
                let mut odd = Vec::new();
                while Instant::now() < end {
                    turn += 1;
                    let name = format!("example-job-{}", scramble(turn) % JOBS);
                    let what = scramble(turn + 1) % 48;
                    let result = match what {
                        0..6 => {
                            let cron = what.is_multiple_of(2).then_some("* * * * *");
                            let definition = Harness::definition(&name, cron);
                            app::jobs::create(&db, &*harness.clock, &harness.caller(), "UTC", definition)
                                .await
                                .map(drop)
                        }
                        6..12 => VERBS[9].1(&harness, &db, &name).await,
                        12..18 => {
                            let enabled = Some(turn % 3 != 0);
                            // Whatever was uploaded last.
                            let mut tx = db.read().await.unwrap();
                            let parsed = model::name::JobName::parse(&name).unwrap();
                            let job = jobs::find(&mut tx, &parsed).await.unwrap();
                            let source = match &job {
                                Some(job) => store::sources::latest(&mut tx, job.id).await.unwrap(),
                                None => None,
                            };
                            drop(tx);
                            let job_version = source.map(|s| s.version);
                            if job_version.is_none() {
                                continue;
                            }
                            let wanted = DeploymentChange { job_version, enabled, ..DeploymentChange::default() };
                            change(&harness, &db, &name, wanted).await
                        }
                        18..28 => VERBS[5].1(&harness, &db, &name).await,
                        28..30 => {
                            // Without the helper that expects the job to exist.
                            let listed = app::executions::list(&db, &harness.caller(), TEAM, &name, None, &[]).await;
                            match listed.map(|mut l| l.drain(..).next()) {
                                Ok(Some(run)) => {
                                    app::executions::cancel(
                                        &db,
                                        &*harness.clock,
                                        &harness.caller(),
                                        TEAM,
                                        &name,
                                        run.id.as_str(),
                                    )
                                    .await
                                }
                                Ok(None) => Ok(()),
                                Err(problem) => Err(problem),
                            }
                        }
                        30 => VERBS[4].1(&harness, &db, &name).await,
                        31 => VERBS[1].1(&harness, &db, &name).await,
                        32..36 => VERBS[7].1(&harness, &db, &name).await,
                        _ => {
                            let cron = ["* * * * *", "*/2 * * * *", "*/3 * * * *"][turn % 3];
                            let definition = Harness::definition(&name, Some(cron));
                            let (caller, defaults) = (harness.caller(), &harness.defaults);
                            app::jobs::update(&db, &*harness.clock, &caller, "UTC", defaults, TEAM, &name, definition)
                                .await
                        }
                    };
                    done.fetch_add(1, Ordering::Relaxed);
                    if let Err(problem) = result
                        && !matches!(problem.kind, Kind::NotFound | Kind::Conflict | Kind::Invalid)
                    {
                        odd.push(format!("{what}: {problem:?}"));
                    }
                }
                odd
            })
        })
        .collect();
    // Time passes, ticks fire and runs end.
    let mut n = 0;
    while Instant::now() < end {
        n += 1;
        harness.advance(jiff::SignedDuration::from_secs(20));
        let running: Vec<_> = harness.runtime.change(|s| {
            s.stages.iter().filter(|(_, stage)| matches!(stage, Stage::Running(_))).map(|(id, _)| id.clone()).collect()
        });
        for id in running.into_iter().filter(|_| !scramble(n).is_multiple_of(3)) {
            let cause = if harness.runtime.change(|s| s.cancelled.contains(&id)) {
                EndCause::Cancelled
            } else {
                EndCause::Exited(0)
            };
            harness.runtime.end(&id, harness.clock.now(), cause);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut odd = Vec::new();
    for caller in callers {
        odd.extend(caller.await.unwrap());
    }
    println!("{} verbs by {CALLERS} callers in 6 s", done.load(Ordering::Relaxed));
    assert_eq!(odd, Vec::<String>::new());

    // No more starts; what runs ends.
    for n in 0..JOBS {
        let name = format!("example-job-{n}");
        let _ =
            app::deployments::remove(&harness.db, &*harness.clock, &harness.caller(), TEAM, &name, "production").await;
    }
    harness
        .until("every run is over", async || {
            harness.notify();
            let ids: Vec<_> = harness.runtime.change(|s| s.stages.keys().cloned().collect());
            for id in ids {
                let running = harness.runtime.change(|s| matches!(s.stages.get(&id), Some(Stage::Running(_))));
                if running {
                    harness.runtime.end(&id, harness.clock.now(), EndCause::Exited(0));
                }
            }
            let mut tx = harness.db.read().await.unwrap();
            store::executions::active_ids(&mut tx, 1).await.unwrap().is_empty()
        })
        .await;
    harness
        .until("every removed deployment is gone", async || {
            harness.fresh.psql("select count(*) from deployment where removed_at is not null") == "0"
        })
        .await;
    for (stop, task) in synchronizers {
        stop.cancel();
        task.await.unwrap();
    }
    for (what, sql) in [
        ("deadlocks", "select deadlocks from pg_stat_database where datname = current_database()"),
        (
            "live deployments of deleted jobs",
            "select count(*) from deployment d join data_job j on j.job_id = d.job_id
             where j.deleted_at is not null and d.removed_at is null",
        ),
        (
            "slots held by runs that are over",
            "select count(*) from data_job_execution where holds_slot and status not in ('SUBMITTED', 'RUNNING')",
        ),
        (
            "counts that differ from the rows",
            "select count(*) from data_job j where successful_executions <>
                (select count(*) from data_job_execution e where e.job_number = j.number and e.status = 'SUCCEEDED')",
        ),
        (
            "changes without their audit event",
            "select abs((select count(*) from deployment_revision)
                - (select count(*) from audit_event where action in ('deployment.change', 'job.update')
                    and generation is not null))",
        ),
        (
            "starts without their audit event",
            "select abs((select count(*) from data_job_execution where type = 'MANUAL')
                - (select count(*) from audit_event where action = 'execution.start'))",
        ),
    ] {
        assert_eq!(harness.fresh.psql(sql), "0", "{what}");
    }
    let outcomes =
        harness.fresh.psql("select status, count(*) from data_job_execution group by status order by status");
    println!("{}", outcomes.replace('\n', ", "));
    assert!(outcomes.contains("SUCCEEDED") && outcomes.contains("CANCELLED"), "{outcomes}");
}

async fn secrets_follow_a_rotation_while_writes_continue(on: Database) {
    const JOBS: usize = 40;
    let mut harness = Harness::new(on).await;
    let keys = || vec![SecretKey::new([1; 32]), SecretKey::new([2; 32])];
    let (old, new) = (keys()[0].id().to_owned(), keys()[1].id().to_owned());
    let ring = Arc::new(KeyRing::new(Box::new(keys), old.clone()));
    harness.keys = ring.clone();
    let write = async |name: &str, n: usize| {
        let secrets = serde_json::from_str(&format!("{{\"n\": {n}}}")).unwrap();
        app::secrets::replace(&harness.db, &ring, &*harness.clock, &harness.caller(), TEAM, name, &secrets)
            .await
            .unwrap();
    };
    let names: Vec<_> = (0..JOBS).map(|n| format!("example-job-{n}")).collect();
    for name in &names {
        harness.create(name, None).await;
        write(name, 0).await;
    }
    let (stop, _instance) = harness.instance("test", harness.db.clone(), true, Duration::from_secs(15));
    let mut tx = harness.db.write().await.unwrap();
    assert_eq!(store::keys::lock_active(&mut tx).await.unwrap().as_ref(), Some(&old));
    store::keys::make_active(&mut tx, &new).await.unwrap();
    tx.commit().await.unwrap();
    let left = async || store::keys::needed_by(&mut harness.db.read().await.unwrap(), &old).await.unwrap();
    let mut round = 0;
    while left().await > 0 {
        round += 1;
        for name in &names[..JOBS / 4] {
            write(name, round).await;
        }
    }
    for (n, name) in names.iter().enumerate() {
        let found = app::secrets::read(&harness.db, &ring, &harness.caller(), TEAM, name).await.unwrap();
        let expected = if n < JOBS / 4 { round } else { 0 };
        assert_eq!(found["n"].get(), expected.to_string(), "{name}");
    }
    stop.cancel();
}

/// Does the same from three instances at one instant.
async fn at_once<T: Send + 'static>(
    harness: &Harness,
    verb: impl Fn(Db) -> BoxFuture<'static, Result<T, Problem>>,
) -> Vec<Result<T, Problem>> {
    let mut instances = vec![harness.db.clone()];
    for _ in 0..2 {
        let is_shared = harness.fresh.file().is_none();
        instances.push(if is_shared { harness.fresh.open().await } else { harness.db.clone() });
    }
    let tasks: Vec<_> = instances.into_iter().map(|db| tokio::spawn(verb(db))).collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

async fn a_request_with_a_key_that_three_instances_get_at_one_instant_is_carried_out_once(on: Database) {
    let harness = Harness::new(on).await;
    for round in 0..10 {
        let name = format!("example-job-{round}");
        harness.create(&name, None).await;
        harness.deploy(&name).await;
        let mut caller = harness.caller();
        caller.preconditions.idempotency_key = Some(IdempotencyKey::new(format!("start-{round}"), &[name.as_bytes()]));
        let (clock, start) = (harness.clock.clone(), name.clone());
        let answers = at_once(&harness, |db| {
            let (clock, caller, name) = (clock.clone(), caller.clone(), start.clone());
            Box::pin(async move {
                let request = StartRequest::default();
                app::executions::start(&db, &*clock, &caller, TEAM, &name, "production", &request).await
            })
        })
        .await;
        let ids: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(harness.executions(&name).await.len(), 1);
        let events =
            app::history::events(&harness.db, &harness.caller(), TEAM, &name, app::history::PageRequest::default())
                .await;
        assert_eq!(events.unwrap().content.iter().filter(|event| event.action == "execution.start").count(), 1);
    }
}

async fn of_changes_that_know_the_same_state_one_is_accepted(on: Database) {
    let harness = Harness::new(on).await;
    for round in 0..10 {
        let name = format!("example-job-{round}");
        let id = harness.create(&name, None).await;
        harness.deploy(&name).await;
        let wanted = store::deployments::find(&mut harness.db.read().await.unwrap(), id).await.unwrap().unwrap();
        let mut caller = harness.caller();
        caller.preconditions.precondition = Some(Precondition::Matches(vec![wanted.etag().as_str().to_owned()]));
        let (clock, defaults, job) = (harness.clock.clone(), harness.defaults.clone(), name.clone());
        let number = AtomicUsize::new(0);
        let answers = at_once(&harness, |db| {
            let version = format!("9.{}", number.fetch_add(1, Ordering::Relaxed));
            let change = DeploymentChange { vdk_version: Some(version), ..DeploymentChange::default() };
            let (clock, defaults, caller, name) = (clock.clone(), defaults.clone(), caller.clone(), job.clone());
            Box::pin(async move {
                app::deployments::change(&db, &*clock, &caller, &defaults, TEAM, &name, &change, Missing::Create).await
            })
        })
        .await;
        let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(accepted.len(), 1);
        assert!(refused.into_iter().all(|answer| answer.unwrap_err().kind == Kind::PreconditionFailed));
    }
}

async fn of_three_who_bring_a_job_back_one_does(on: Database) {
    let harness = Harness::new(on).await;
    for round in 0..10 {
        let name = format!("example-job-{round}");
        harness.create(&name, None).await;
        harness.deploy(&name).await;
        app::jobs::delete(&harness.db, &*harness.clock, &harness.caller(), TEAM, &name).await.unwrap();
        let (clock, defaults, caller) = (harness.clock.clone(), harness.defaults.clone(), harness.caller());
        let number = AtomicUsize::new(0);
        let answers = at_once(&harness, |db| {
            let is_create = number.fetch_add(1, Ordering::Relaxed) == 2;
            let (clock, defaults, caller, name) = (clock.clone(), defaults.clone(), caller.clone(), name.clone());
            Box::pin(async move {
                if is_create {
                    let definition = Harness::definition(&name, None);
                    return app::jobs::create(&db, &*clock, &caller, "UTC", definition).await.map(drop);
                }
                app::jobs::undelete(&db, &*clock, &caller, "UTC", &defaults, TEAM, &name).await.map(drop)
            })
        })
        .await;
        let kinds: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err().map(|p| p.kind)).collect();
        assert_eq!(kinds.len(), 2, "{answers:?}");
        assert!(kinds.iter().all(|kind| matches!(kind, Kind::Conflict | Kind::NotFound)), "{answers:?}");
    }
}

async fn credentials_that_three_instances_store_at_one_instant_are_those_of_one(on: Database) {
    let mut harness = Harness::new(on).await;
    let keys = || vec![SecretKey::new([1; 32]), SecretKey::new([2; 32])];
    let ids: Vec<_> = keys().iter().map(|key| key.id().to_owned()).collect();
    harness.keys = Arc::new(KeyRing::new(Box::new(keys), ids[0].clone()));
    for round in 0..10 {
        let (clock, caller, ring) = (harness.clock.clone(), harness.caller(), harness.keys.clone());
        let number = AtomicUsize::new(0);
        let storing = at_once(&harness, |db| {
            let part = format!("{round}-{}", number.fetch_add(1, Ordering::Relaxed));
            let (clock, caller, ring) = (clock.clone(), caller.clone(), ring.clone());
            Box::pin(async move {
                let stored =
                    Credentials { client_id: format!("id-{part}"), client_secret: format!("secret-{part}").into() };
                app::credentials::replace(&db, &ring, &*clock, &caller, TEAM, &stored).await
            })
        });
        // Their secret is encrypted with whichever key is the primary one when it is stored.
        let rotating = async {
            let mut tx = harness.db.write().await.unwrap();
            store::keys::lock_active(&mut tx).await.unwrap();
            store::keys::make_active(&mut tx, &ids[round % 2]).await.unwrap();
            tx.commit().await.unwrap();
        };
        let (answers, ()) = tokio::join!(storing, rotating);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let found = app::credentials::read(&harness.db, &harness.keys, &harness.caller(), TEAM).await.unwrap();
        assert_eq!(found.client_id.replace("id", "secret"), found.expose_client_secret());
        assert!(found.client_id.starts_with(&format!("id-{round}-")), "{}", found.client_id);
        let teams = app::credentials::teams_of(&harness.db, &found.client_id).await.unwrap();
        assert_eq!(teams, [TEAM.to_owned()].into());
    }
}
