//! Verbs and loops that meet on the same rows, from several instances.

#![allow(clippy::print_stdout, reason = "the figures of a test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use app::{SecretKey, deployments::Missing, executions::StartRequest};
use model::{
    BoxFuture, Problem, clock::Clock, deployment::DeploymentChange, execution::EndCause, job::JobConfig, problem::Kind,
    runtime::Stage, source::ArchiveLimits,
};
use store::{Db, Tx, jobs};
use support::{House, TEAM, version};
use testing::{Database, for_each_database};
use tokio::time::Instant;

for_each_database!(of_starts_in_three_instances_at_one_instant_exactly_one_is_accepted,);

type Verb = for<'a> fn(&'a House, &'a Db, &'a str) -> BoxFuture<'a, Result<(), Problem>>;

fn change(house: &House, db: &Db, name: &str, change: DeploymentChange) -> impl Future<Output = Result<(), Problem>> {
    let (db, name, clock, defaults) = (db.clone(), name.to_owned(), house.clock.clone(), house.defaults.clone());
    let caller = house.caller();
    async move { app::deployments::change(&db, &*clock, &caller, &defaults, TEAM, &name, &change, Missing::Create).await }
}

/// Every verb that changes something of a job that exists.
const VERBS: [(&str, Verb); 13] = [
    ("jobs::update", |house, db, name| {
        Box::pin(async move {
            let definition = House::definition(name, Some("*/7 * * * *"));
            let (caller, defaults) = (house.caller(), &house.defaults);
            app::jobs::update(db, &*house.clock, &caller, "UTC", defaults, TEAM, name, definition).await
        })
    }),
    ("jobs::delete", |house, db, name| {
        Box::pin(async move { app::jobs::delete(db, &*house.clock, &house.caller(), TEAM, name).await })
    }),
    ("deployments::change", |house, db, name| {
        Box::pin(change(
            house,
            db,
            name,
            DeploymentChange { job_version: Some(version()), enabled: Some(false), ..DeploymentChange::default() },
        ))
    }),
    ("deployments::change to what is wanted already", |house, db, name| {
        Box::pin(change(
            house,
            db,
            name,
            DeploymentChange { job_version: Some(version()), ..DeploymentChange::default() },
        ))
    }),
    ("deployments::remove", |house, db, name| {
        Box::pin(
            async move { app::deployments::remove(db, &*house.clock, &house.caller(), TEAM, name, "production").await },
        )
    }),
    ("executions::start", |house, db, name| {
        Box::pin(async move {
            let request = StartRequest::default();
            let caller = house.caller();
            app::executions::start(db, &*house.clock, &caller, TEAM, name, "production", &request).await.map(drop)
        })
    }),
    ("executions::cancel", |house, db, name| {
        Box::pin(async move {
            let Some(active) = house.executions(name).await.pop() else { return Ok(()) };
            app::executions::cancel(db, &*house.clock, &house.caller(), TEAM, name, active.id.as_str()).await
        })
    }),
    ("properties::replace", |house, db, name| {
        Box::pin(async move {
            let properties = serde_json::from_str("{\"a\": 1}").unwrap();
            app::properties::replace(db, &*house.clock, &house.caller(), TEAM, name, &properties).await
        })
    }),
    ("secrets::replace", |house, db, name| {
        Box::pin(async move {
            let secrets = serde_json::from_str("{\"a\": 1}").unwrap();
            let key = SecretKey::new([7; 32]);
            app::secrets::replace(db, &key, &*house.clock, &house.caller(), TEAM, name, &secrets).await
        })
    }),
    ("sources::upload", |house, db, name| {
        Box::pin(async move {
            let limits = ArchiveLimits::default();
            let archive = archive(name);
            app::sources::upload(db, &*house.clock, &house.caller(), &limits, TEAM, name, "r", archive).await.map(drop)
        })
    }),
    ("sources::remove", |house, db, name| {
        Box::pin(async move { app::sources::remove(db, &*house.clock, &house.caller(), TEAM, name, "r").await })
    }),
    ("jobs::move_to_team", |house, db, name| {
        Box::pin(async move {
            let (clock, caller, defaults) = (&*house.clock, house.caller(), &house.defaults);
            app::jobs::move_to_team(db, clock, &caller, "UTC", defaults, TEAM, name, "third team").await
        })
    }),
    ("history::roll_back", |house, db, name| {
        Box::pin(async move {
            let (clock, caller, defaults) = (&*house.clock, house.caller(), &house.defaults);
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

async fn prepared(house: &House, name: &str) -> model::name::JobId {
    let id = house.create(name, None).await;
    house.deploy(name).await;
    house.start(name).await;
    id
}

/// Does all that deleting a job does, and leaves the transaction open.
async fn half_deleted(house: &House, id: model::name::JobId) -> Tx {
    let now = house.clock.now();
    let mut tx = house.db.write().await.unwrap();
    let job = jobs::by_id(&mut tx, id).await.unwrap().unwrap();
    jobs::find_for_update(&mut tx, &job.name).await.unwrap().unwrap();
    store::executions::request_cancel_all(&mut tx, id, now).await.unwrap();
    let generation = jobs::next_generation(&mut tx, &job.name).await.unwrap();
    store::deployments::remove(&mut tx, id, generation, "someone", now).await.unwrap();
    assert!(jobs::delete(&mut tx, id, now).await.unwrap());
    tx
}

#[tokio::test]
async fn no_verb_changes_a_job_that_another_instance_deletes_at_this_moment() {
    let house = Arc::new(House::new(Database::Postgresql).await);
    let other = house.fresh.open().await;
    for (n, (label, verb)) in VERBS.into_iter().enumerate() {
        let name = format!("example-job-{n}");
        let id = prepared(&house, &name).await;
        for commits in [false, true] {
            let delete = half_deleted(&house, id).await;
            let (house, other, name) = (house.clone(), other.clone(), name.clone());
            let meeting = tokio::spawn(async move { verb(&house, &other, &name).await });
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert!(!meeting.is_finished(), "{label} did not wait");
            if !commits {
                // It was all a mistake: the verb finds the job as it was.
                drop(delete);
                let done = meeting.await.unwrap();
                assert!(
                    done.as_ref().is_ok_and(|()| true) || done.as_ref().is_err_and(|p| p.kind == Kind::Conflict),
                    "{label}: {done:?}"
                );
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
    let house = Arc::new(House::new(Database::Postgresql).await);
    let other = house.fresh.open().await;
    for (n, (label, verb)) in VERBS.into_iter().enumerate() {
        let name = format!("example-job-{n}");
        let id = prepared(&house, &name).await;
        let mut tx = house.db.write().await.unwrap();
        let mut job = jobs::by_id(&mut tx, id).await.unwrap().unwrap();
        job.team = model::name::TeamName::parse("other team").unwrap();
        jobs::find_for_update(&mut tx, &job.name).await.unwrap().unwrap();
        jobs::update(&mut tx, &job, None, house.clock.now()).await.unwrap();
        let meeting = {
            let (house, other, name) = (house.clone(), other.clone(), name.clone());
            tokio::spawn(async move { verb(&house, &other, &name).await })
        };
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(!meeting.is_finished(), "{label} did not wait");
        tx.commit().await.unwrap();
        assert_eq!(meeting.await.unwrap().unwrap_err().kind, Kind::NotFound, "{label}");
    }
}

#[tokio::test]
async fn of_two_jobs_of_one_name_at_one_instant_one_is_created() {
    let house = Arc::new(House::new(Database::Postgresql).await);
    let other = house.fresh.open().await;
    for commits in [true, false] {
        let name = format!("example-job-{commits}");
        let mut tx = house.db.write().await.unwrap();
        let job = model::job::DataJob {
            id: model::name::JobId(house.clock.new_id()),
            name: model::name::JobName::parse(&name).unwrap(),
            team: model::name::TeamName::parse(TEAM).unwrap(),
            description: String::new(),
            config: JobConfig::default(),
        };
        assert!(jobs::insert(&mut tx, &job, None, "someone", house.clock.now()).await.unwrap());
        let meeting = {
            let (house, other, name) = (house.clone(), other.clone(), name.clone());
            tokio::spawn(async move {
                let definition = House::definition(&name, None);
                app::jobs::create(&other, &*house.clock, &house.caller(), "UTC", definition).await
            })
        };
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(!meeting.is_finished());
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
    let house = Arc::new(House::new(on).await);
    house.create("example-job", None).await;
    house.deploy("example-job").await;
    let instances = match on {
        Database::Sqlite => vec![house.db.clone()],
        Database::Postgresql => vec![house.db.clone(), house.fresh.open().await, house.fresh.open().await],
    };
    let starts: Vec<_> = (0..60)
        .map(|n| {
            let (house, db) = (house.clone(), instances[n % instances.len()].clone());
            tokio::spawn(async move {
                let (caller, request) = (house.caller(), StartRequest::default());
                app::executions::start(&db, &*house.clock, &caller, TEAM, "example-job", "production", &request).await
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
    let house = Arc::new(House::new(Database::Postgresql).await);
    let mut instances = vec![house.db.clone()];
    let mut synchronizers = Vec::new();
    for holder in ["one", "two", "three"] {
        let db = house.fresh.open().await;
        synchronizers.push(house.instance(holder, db.clone(), false, Duration::from_secs(15)));
        instances.push(db);
    }
    let end = Instant::now() + Duration::from_secs(6);
    let done = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (house, db, done) = (house.clone(), instances[caller % instances.len()].clone(), done.clone());
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
                            let definition = House::definition(&name, cron);
                            app::jobs::create(&db, &*house.clock, &house.caller(), "UTC", definition).await.map(drop)
                        }
                        6..12 => VERBS[9].1(&house, &db, &name).await,
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
                            change(&house, &db, &name, wanted).await
                        }
                        18..28 => VERBS[5].1(&house, &db, &name).await,
                        28..30 => {
                            // Without the helper that expects the job to exist.
                            let listed = app::executions::list(&db, &house.caller(), TEAM, &name, None, &[]).await;
                            match listed.map(|mut l| l.drain(..).next()) {
                                Ok(Some(run)) => {
                                    app::executions::cancel(
                                        &db,
                                        &*house.clock,
                                        &house.caller(),
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
                        30 => VERBS[4].1(&house, &db, &name).await,
                        31 => VERBS[1].1(&house, &db, &name).await,
                        32..36 => VERBS[7].1(&house, &db, &name).await,
                        _ => {
                            let cron = ["* * * * *", "*/2 * * * *", "*/3 * * * *"][turn % 3];
                            let definition = House::definition(&name, Some(cron));
                            let (caller, defaults) = (house.caller(), &house.defaults);
                            app::jobs::update(&db, &*house.clock, &caller, "UTC", defaults, TEAM, &name, definition)
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
        house.advance(jiff::SignedDuration::from_secs(20));
        let running: Vec<_> = house.runtime.change(|s| {
            s.stages.iter().filter(|(_, stage)| matches!(stage, Stage::Running(_))).map(|(id, _)| id.clone()).collect()
        });
        for id in running.into_iter().filter(|_| !scramble(n).is_multiple_of(3)) {
            let cause = if house.runtime.change(|s| s.cancelled.contains(&id)) {
                EndCause::Cancelled
            } else {
                EndCause::Exited(0)
            };
            house.runtime.end(&id, house.clock.now(), cause);
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
        let _ = app::deployments::remove(&house.db, &*house.clock, &house.caller(), TEAM, &name, "production").await;
    }
    house
        .until("every run is over", async || {
            house.wake();
            let ids: Vec<_> = house.runtime.change(|s| s.stages.keys().cloned().collect());
            for id in ids {
                let running = house.runtime.change(|s| matches!(s.stages.get(&id), Some(Stage::Running(_))));
                if running {
                    house.runtime.end(&id, house.clock.now(), EndCause::Exited(0));
                }
            }
            let mut tx = house.db.read().await.unwrap();
            store::executions::active(&mut tx, 1).await.unwrap().is_empty()
        })
        .await;
    house
        .until("every removed deployment is gone", async || {
            house.fresh.psql("select count(*) from deployment where removed_at is not null") == "0"
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
                (select count(*) from data_job_execution e where e.job_id = j.job_id and e.status = 'SUCCEEDED')",
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
        assert_eq!(house.fresh.psql(sql), "0", "{what}");
    }
    let outcomes = house.fresh.psql("select status, count(*) from data_job_execution group by status order by status");
    println!("{}", outcomes.replace('\n', ", "));
    assert!(outcomes.contains("SUCCEEDED") && outcomes.contains("CANCELLED"), "{outcomes}");
}
