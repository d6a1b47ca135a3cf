//! Constraints and contents of the rows beside jobs, deployments and executions.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]

mod support;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use model::{
    access::Caller,
    artifact::{Artifact, LastApplied},
    deployment::{Deployment, DeploymentChange, JobPart, Stamp, VersionDefaults},
    execution::{ExecutionRevision, Status, Type},
    job::DataJob,
    name::{JobId, TeamName},
    preconditions::IdempotencyKey,
    source::{Source, SourceVersion},
};
use secrecy::ExposeSecret;
use store::{
    Db, StoreError, Tx, audit,
    credentials::{self, Credentials},
    deployments::{self, Request},
    executions::{self, Dispatched, Ended, ExecutionQuery, NewExecution, Started},
    idempotency::{self, Claim},
    jobs,
    keys::{self, KeyRing, SecretKey},
    leases::{self, Epoch},
    retention::{self, jobs::Part, sources::Position},
    revisions, secrets, sources,
};
use support::{insert, job, raw};
use testing::{Database, Fresh, for_each_database};

for_each_database!(
    removed_sources_go_when_nothing_needs_them,
    audit_events_are_deleted_by_their_age_and_the_request_of_a_deployment_stays,
    a_look_that_began_before_a_deployment_was_asked_for_leaves_it_due,
    an_object_that_was_written_is_recorded_although_its_deployment_became_due_meanwhile,
    an_execution_refers_to_its_revision_or_keeps_what_is_known_of_it,
    a_teams_secret_is_encrypted_and_bound_to_its_row,
    a_rotation_that_stops_in_the_middle_continues_and_every_secret_is_read_meanwhile,
    without_the_active_key_nothing_is_stored_and_what_is_under_another_one_is_read,
    the_name_of_a_request_is_known_for_a_day_and_swept_after_it,
    a_deleted_job_keeps_what_it_needs_to_come_back_and_is_gone_for_good_after_its_days,
);

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn version(digit: &str) -> SourceVersion {
    SourceVersion::parse(&digit.repeat(40)).unwrap()
}

async fn upload(tx: &mut Tx, job: &DataJob, digit: &str) {
    let source = Source {
        version: version(digit),
        archive_bytes: 1,
        requirements: String::new(),
        uploaded_by: "someone".into(),
        uploaded_at: NOW,
        reason: String::new(),
    };
    sources::insert(tx, job.id, &source, digit.as_bytes()).await.unwrap();
}

async fn deploy(tx: &mut Tx, job: &DataJob, digit: &str) -> Deployment {
    let python = "3.11".parse().unwrap();
    let defaults = VersionDefaults { python_versions: vec![python], python_version: python, vdk_version: "1".into() };
    let generation = jobs::next_generation(tx, &job.name).await.unwrap();
    let stamp = Stamp { generation, by: "someone".into(), at: NOW };
    let change = DeploymentChange { job_version: Some(version(digit)), ..DeploymentChange::default() };
    let wanted = Deployment::merge(None, &change, job.id, &JobPart::from(&job.config), &defaults, stamp).unwrap();
    revisions::insert(tx, &wanted, NOW).await.unwrap();
    deployments::replace(tx, &wanted, "op of the change", NOW).await.unwrap();
    wanted
}

/// Removes uploads that nothing needs, and returns how many.
async fn remove_sources(db: &Db, keep_per_job: i64) -> u64 {
    let (mut removed, mut next) = (0, Some(Position::default()));
    while let Some(from) = next {
        let before = NOW + SignedDuration::from_secs(1);
        let found = retention::sources::find(&mut db.read().await.unwrap(), before, keep_per_job, &from).await.unwrap();
        let mut tx = db.write().await.unwrap();
        removed += retention::sources::remove(&mut tx, &found.old).await.unwrap();
        tx.commit().await.unwrap();
        next = found.next;
    }
    removed
}

async fn removed_sources_go_when_nothing_needs_them(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let (one, two) = (job(1, "example-job"), job(2, "another-job"));
    assert!(insert(&db, &one).await);
    assert!(insert(&db, &two).await);
    let mut tx = db.write().await.unwrap();
    for (job, digit) in [(&one, "a"), (&one, "b"), (&one, "c"), (&two, "b")] {
        upload(&mut tx, job, digit).await;
    }
    deploy(&mut tx, &one, "a").await;
    assert_eq!(sources::remove_all(&mut tx, one.id, NOW).await.unwrap(), 3);
    assert_eq!(sources::remove_all(&mut tx, one.id, NOW).await.unwrap(), 0);
    upload(&mut tx, &one, "c").await;
    tx.commit().await.unwrap();

    assert_eq!(remove_sources(&db, 100).await, 1);
    let mut tx = db.read().await.unwrap();
    assert_eq!(sources::archive(&mut tx, one.id, &version("a")).await.unwrap().as_deref(), Some(&b"a"[..]));
    assert!(!sources::is_offered(&mut tx, one.id, &version("a")).await.unwrap());
    assert_eq!(sources::find(&mut tx, one.id, &version("b")).await.unwrap(), None);
    assert!(sources::is_offered(&mut tx, one.id, &version("c")).await.unwrap());
    // The bytes are another job's too.
    assert_eq!(sources::archive(&mut tx, two.id, &version("b")).await.unwrap().as_deref(), Some(&b"b"[..]));
    assert_eq!(sources::latest(&mut tx, one.id).await.unwrap().unwrap().version, version("c"));
}

async fn audit_events_are_deleted_by_their_age_and_the_request_of_a_deployment_stays(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let mut tx = db.write().await.unwrap();
    upload(&mut tx, &job, "a").await;
    let revision = deploy(&mut tx, &job, "a").await;
    let event = |action| audit::Event {
        action,
        job_id: job.id,
        job_name: job.name.as_str(),
        team: job.team.as_str(),
        generation: None,
        detail: None,
    };
    let at = |second| NOW + SignedDuration::from_secs(second);
    for (action, second) in [("first", 1), ("second", 2), ("third", 3), ("fourth", 3)] {
        audit::record(&mut tx, &Caller::anonymous("op"), &event(action), at(second)).await.unwrap();
    }
    // No more in a call than asked for, the oldest first, and none of the instant itself.
    for (limit, deleted, left) in [(1, 1, 3), (9, 1, 2), (9, 0, 2)] {
        assert_eq!(audit::purge(&mut tx, at(3), limit).await.unwrap(), deleted);
        assert_eq!(audit::page(&mut tx, job.id, i64::MAX, 9).await.unwrap().len(), left);
    }
    let op_id = async |tx: &mut Tx, generation| deployments::op_id(tx, job.id, generation).await.unwrap();
    assert_eq!(op_id(&mut tx, revision.generation).await.as_deref(), Some("op of the change"));
    assert_eq!(op_id(&mut tx, revision.generation + 1).await, None);
    let removal = Request { by: "someone", op_id: "op of the removal" };
    assert!(deployments::remove(&mut tx, job.id, revision.generation + 1, removal, NOW).await.unwrap());
    assert_eq!(op_id(&mut tx, revision.generation + 1).await.as_deref(), Some("op of the removal"));
}

/// A database with one job and a leader.
async fn led(on: Database) -> (Fresh, Db, DataJob, Epoch) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let epoch = leases::take(&db, leases::SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    (fresh, db, job, epoch)
}

async fn a_look_that_began_before_a_deployment_was_asked_for_leaves_it_due(on: Database) {
    let (_fresh, db, job, epoch) = led(on).await;
    let mut tx = db.write().await.unwrap();
    upload(&mut tx, &job, "a").await;
    deploy(&mut tx, &job, "a").await;
    let looked = deployments::Outcome::Unchanged(None);
    let work = deployments::work(&mut tx, job.id).await.unwrap().unwrap();
    deployments::make_due(&mut tx, job.id, NOW).await.unwrap();
    assert!(!deployments::record(&mut tx, epoch, &work, &looked, NOW).await.unwrap());
    assert_eq!(deployments::due(&mut tx, NOW, 9).await.unwrap(), [job.id]);
    let work = deployments::work(&mut tx, job.id).await.unwrap().unwrap();
    assert!(deployments::record(&mut tx, epoch, &work, &looked, NOW).await.unwrap());
    assert_eq!(deployments::due(&mut tx, NOW, 9).await.unwrap(), []);
}

async fn an_object_that_was_written_is_recorded_although_its_deployment_became_due_meanwhile(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    insert(&db, &job).await;
    let epoch = leases::take(&db, leases::SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    let mut tx = db.write().await.unwrap();
    upload(&mut tx, &job, "a").await;
    deploy(&mut tx, &job, "a").await;
    let last_applied = |text: &str| Some(LastApplied::new(text.into()));
    let reached = deployments::Outcome::Reached {
        inputs_hash: "inputs".into(),
        artifact: Artifact::Image("image".into()),
        last_applied: last_applied("first"),
    };
    let restored = deployments::Outcome::Restored { last_applied: last_applied("second"), next: None };
    for (written, expected) in [(reached, "first"), (restored, "second")] {
        let work = deployments::work(&mut tx, job.id).await.unwrap().unwrap();
        deployments::make_due(&mut tx, job.id, NOW).await.unwrap();
        assert!(deployments::record(&mut tx, epoch, &work, &written, NOW).await.unwrap());
        let rollout = deployments::rollout(&mut tx, job.id).await.unwrap().unwrap();
        assert_eq!(rollout.last_applied, last_applied(expected));
        assert_eq!(deployments::due(&mut tx, NOW, 9).await.unwrap(), [job.id], "and compared once more");
        let work = deployments::work(&mut tx, job.id).await.unwrap().unwrap();
        assert!(deployments::record(&mut tx, epoch, &work, &deployments::Outcome::Unchanged(None), NOW).await.unwrap());
        assert_eq!(deployments::due(&mut tx, NOW, 9).await.unwrap(), []);
    }
}

async fn an_execution_refers_to_its_revision_or_keeps_what_is_known_of_it(on: Database) {
    let (_fresh, db, job, epoch) = led(on).await;
    let mut tx = db.write().await.unwrap();
    upload(&mut tx, &job, "a").await;
    let revision = deploy(&mut tx, &job, "a").await;
    let new = NewExecution {
        job_id: job.id,
        job_name: &job.name,
        kind: Type::Manual,
        started_by: "someone",
        op_id: None,
        arguments: None,
        scheduled_tick: None,
    };
    let Started::Accepted(id) = executions::insert(&mut tx, &new, NOW).await.unwrap() else { panic!() };
    let artifact = Artifact::Image("image".into());
    let with = |generation| Dispatched { generation, artifact: artifact.clone() };
    assert!(!executions::dispatch(&mut tx, epoch, &id, &with(revision.generation + 1)).await.unwrap());
    assert!(executions::dispatch(&mut tx, epoch, &id, &with(revision.generation)).await.unwrap());
    assert!(!executions::dispatch(&mut tx, epoch, &id, &with(revision.generation)).await.unwrap());
    assert_eq!(
        executions::active(&mut tx, std::slice::from_ref(&id)).await.unwrap()[0].dispatched,
        Some(with(revision.generation))
    );

    let page = async |tx: &mut Tx| {
        let query = ExecutionQuery { limit: 10, ..ExecutionQuery::default() };
        executions::page(tx, &query).await.unwrap().remove(0).revision
    };
    let whole = ExecutionRevision {
        generation: Some(revision.generation),
        job_version: Some(revision.job_version.clone()),
        python_version: Some(revision.python_version),
        vdk_version: Some(revision.vdk_version.clone()),
        mode: Some(revision.mode),
        enabled: Some(revision.enabled),
        schedule_cron: revision.schedule_cron.clone(),
        resources: Some(revision.resources),
        deployed_by: Some(revision.deployed_by.clone()),
        deployed_at: Some(revision.deployed_at),
    };
    assert_eq!(page(&mut tx).await, Some(whole.clone()));
    let ended = Ended { status: Status::Cancelled, message: "m", started_at: None, ended_at: NOW };
    assert!(executions::finish(&mut tx, epoch, &id, &ended).await.unwrap());
    assert_eq!(executions::find(&mut tx, &id).await.unwrap().unwrap().revision, Some(whole));
    // The fields of the execution itself come first.
    raw(&mut tx, r#"update data_job_execution set revision = '{"vdk_version":"0.3"}'"#).await;
    let in_part = ExecutionRevision { vdk_version: Some("0.3".into()), ..ExecutionRevision::default() };
    assert_eq!(page(&mut tx).await, Some(in_part.clone()));
    raw(&mut tx, "update data_job_execution set generation = null").await;
    assert_eq!(executions::find(&mut tx, &id).await.unwrap().unwrap().revision, Some(in_part));
    raw(&mut tx, "update data_job_execution set revision = null").await;
    assert_eq!(page(&mut tx).await, None);
}

async fn a_teams_secret_is_encrypted_and_bound_to_its_row(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let key = KeyRing::from(SecretKey::new([7; 32]));
    let (one, two) = (TeamName::parse("team one").unwrap(), TeamName::parse("team two").unwrap());
    let application = |id: &str| Credentials { client_id: id.into(), client_secret: "correct horse".to_owned().into() };
    let mut tx = db.write().await.unwrap();
    for (team, id) in [(&one, "app-1"), (&two, "app-2"), (&one, "app-3")] {
        credentials::replace(&mut tx, &key, team, &application(id), "someone", NOW).await.unwrap();
    }
    let found = credentials::find(&mut tx, &key, &one).await.unwrap().unwrap();
    assert_eq!((&*found.client_id, found.expose_client_secret()), ("app-3", "correct horse"));
    assert!(!format!("{found:?}").contains("horse"));
    assert!(credentials::find(&mut tx, &KeyRing::from(SecretKey::new([8; 32])), &one).await.is_err());
    let asked = ["app-1", "app-2", "app-3"].map(String::from);
    let teams = credentials::teams(&mut tx, &asked).await.unwrap();
    assert_eq!(teams, [("app-2".to_owned(), two.clone()), ("app-3".to_owned(), one.clone())]);
    raw(
        &mut tx,
        "update team_credential set ciphertext = (select ciphertext from team_credential where team = 'team one'),
        nonce = (select nonce from team_credential where team = 'team one') where team = 'team two'",
    )
    .await;
    assert!(credentials::find(&mut tx, &key, &two).await.is_err());
    raw(&mut tx, "update team_credential set client_id = 'app-4' where team = 'team one'").await;
    assert!(credentials::find(&mut tx, &key, &one).await.is_err());
}

/// A key set with the keys of these numbers.
fn ring(numbers: &'static [u8]) -> KeyRing {
    let keys = move || numbers.iter().map(|number| SecretKey::new([*number; 32])).collect();
    KeyRing::new(Box::new(keys), SecretKey::new([numbers[0]; 32]).id().to_owned())
}

fn id(number: u8) -> String {
    SecretKey::new([number; 32]).id().to_owned()
}

async fn store_secret(db: &Db, ring: &KeyRing, job: &DataJob, text: &str) -> Result<(), StoreError> {
    let mut tx = db.write().await?;
    jobs::find_for_update(&mut tx, &job.name).await?.unwrap();
    secrets::replace(&mut tx, ring, job.id, &text.to_owned().into(), "someone", NOW).await?;
    tx.commit().await
}

async fn read_secret(db: &Db, ring: &KeyRing, job: &DataJob) -> Result<String, StoreError> {
    let found = secrets::find(&mut db.read().await?, ring, job.id).await?;
    Ok(found.unwrap().expose_secret().to_owned())
}

async fn make_active(db: &Db, number: u8) {
    let mut tx = db.write().await.unwrap();
    keys::lock_active(&mut tx).await.unwrap();
    keys::make_active(&mut tx, &id(number)).await.unwrap();
    tx.commit().await.unwrap();
}

async fn a_rotation_that_stops_in_the_middle_continues_and_every_secret_is_read_meanwhile(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let (one, both, new) = (ring(&[1]), ring(&[1, 2]), ring(&[2]));
    let all: Vec<_> = (1..=5).map(|n| job(n, &format!("example-job-{n}"))).collect();
    for job in &all {
        assert!(insert(&db, job).await);
        store_secret(&db, &one, job, job.name.as_str()).await.unwrap();
    }
    let team = TeamName::parse("a team").unwrap();
    let application = Credentials { client_id: "app".into(), client_secret: "correct horse".to_owned().into() };
    let mut tx = db.write().await.unwrap();
    credentials::replace(&mut tx, &one, &team, &application, "someone", NOW).await.unwrap();
    tx.commit().await.unwrap();
    make_active(&db, 2).await;
    assert!(keys::any_other(&mut db.read().await.unwrap(), &id(2)).await.unwrap());

    let mut tx = db.write().await.unwrap();
    let first = secrets::reencrypt(&mut tx, &both, "", 2).await.unwrap();
    assert_eq!((first.done, first.next), (2, Some(all[1].id.to_string())));
    tx.commit().await.unwrap();
    // This batch is lost.
    let mut tx = db.write().await.unwrap();
    assert_eq!(secrets::reencrypt(&mut tx, &both, "", 2).await.unwrap().done, 2);
    drop(tx);
    let mut tx = db.read().await.unwrap();
    let counted = |rows: &[(String, i64)], number| rows.iter().find(|(key, _)| *key == id(number)).map(|(_, n)| *n);
    let needed = keys::needed(&mut tx).await.unwrap();
    assert_eq!((counted(&needed, 1), counted(&needed, 2)), (Some(4), Some(2)));
    drop(tx);
    for job in &all {
        assert_eq!(read_secret(&db, &both, job).await.unwrap(), job.name.as_str());
    }

    // On PostgreSQL the lost batch may hold its rows for another moment; they are left to the next time.
    let mut done = 0;
    while done < 3 {
        let mut tx = db.write().await.unwrap();
        done += secrets::reencrypt(&mut tx, &both, "", 10).await.unwrap().done;
        tx.commit().await.unwrap();
    }
    let mut tx = db.write().await.unwrap();
    assert_eq!(credentials::reencrypt(&mut tx, &both, "", 10).await.unwrap().done, 1);
    tx.commit().await.unwrap();
    assert!(!keys::any_other(&mut db.read().await.unwrap(), &id(2)).await.unwrap());
    let mut tx = db.read().await.unwrap();
    assert_eq!(keys::needed_by(&mut tx, &id(1)).await.unwrap(), 0);
    assert_eq!(credentials::find(&mut tx, &new, &team).await.unwrap().unwrap().expose_client_secret(), "correct horse");
    drop(tx);
    assert_eq!(read_secret(&db, &new, &all[4]).await.unwrap(), "example-job-5");
}

async fn without_the_active_key_nothing_is_stored_and_what_is_under_another_one_is_read(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let (old, new) = (ring(&[1]), ring(&[2]));
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    store_secret(&db, &old, &job, "correct horse").await.unwrap();
    make_active(&db, 2).await;
    let missing = |result: Result<(), StoreError>, number| match result {
        Err(StoreError::KeyMissing { key_id }) => assert_eq!(key_id, id(number)),
        other => panic!("{other:?}"),
    };
    missing(store_secret(&db, &old, &job, "other").await, 2);
    assert_eq!(read_secret(&db, &old, &job).await.unwrap(), "correct horse");
    missing(read_secret(&db, &new, &job).await.map(drop), 1);
    let problem = model::Problem::from(store_secret(&db, &old, &job, "other").await.unwrap_err());
    assert!(problem.countermeasures.contains(&format!("{}.key", id(2))), "{problem:?}");

    // Sealing again needs both, and tells which one is missing.
    let mut tx = db.write().await.unwrap();
    missing(secrets::reencrypt(&mut tx, &old, "", 10).await.map(drop), 2);
    let stuck = secrets::reencrypt(&mut tx, &new, "", 10).await.unwrap();
    assert_eq!((stuck.done, stuck.missing), (0, vec![id(1)]));
}

#[tokio::test]
async fn a_write_with_the_former_key_precedes_the_rotation_and_wins_over_a_concurrent_re_encryption() {
    let fresh = Database::Postgresql.fresh();
    let (db, other) = (fresh.open().await, fresh.open().await);
    let both = Arc::new(ring(&[1, 2]));
    let (one, two) = (job(1, "example-job"), job(2, "another-job"));
    for job in [&one, &two] {
        assert!(insert(&db, job).await);
        store_secret(&db, &both, job, "first").await.unwrap();
    }
    // The write has its key, and the rotation waits for it: a count of the rows under a former key includes this one.
    let mut write = db.write().await.unwrap();
    secrets::replace(&mut write, &both, one.id, &"second".to_owned().into(), "someone", NOW).await.unwrap();
    let rotation = tokio::spawn(async move { make_active(&other, 2).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!rotation.is_finished());
    write.commit().await.unwrap();
    rotation.await.unwrap();
    assert_eq!(keys::needed_by(&mut db.read().await.unwrap(), &id(1)).await.unwrap(), 2);

    // A row that is being written is left alone; a write that comes during the re-encryption has the last word.
    let mut write = db.write().await.unwrap();
    secrets::replace(&mut write, &both, one.id, &"third".to_owned().into(), "someone", NOW).await.unwrap();
    let mut resealing = fresh.open().await.for_sync().write().await.unwrap();
    assert_eq!(secrets::reencrypt(&mut resealing, &both, "", 10).await.unwrap().done, 1);
    let late = {
        let (db, both, two) = (fresh.open().await, Arc::clone(&both), two.clone());
        tokio::spawn(async move { store_secret(&db, &both, &two, "last").await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!late.is_finished());
    write.commit().await.unwrap();
    resealing.commit().await.unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(read_secret(&db, &both, &one).await.unwrap(), "third");
    assert_eq!(read_secret(&db, &both, &two).await.unwrap(), "last");
    assert_eq!(keys::needed_by(&mut db.read().await.unwrap(), &id(1)).await.unwrap(), 0);
}

async fn a_deleted_job_keeps_what_it_needs_to_come_back_and_is_gone_for_good_after_its_days(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let ring = ring(&[1]);
    let (old, namesake) = (job(1, "example-job"), job(2, "example-job"));
    assert!(insert(&db, &old).await);
    store_secret(&db, &ring, &old, "correct horse").await.unwrap();
    let mut tx = db.write().await.unwrap();
    upload(&mut tx, &old, "a").await;
    upload(&mut tx, &old, "b").await;
    let wanted = deploy(&mut tx, &old, "a").await;
    store::properties::replace(&mut tx, old.id, "{}", "someone", NOW).await.unwrap();
    // The deployed source was removed since, and is needed.
    sources::remove_all(&mut tx, old.id, NOW).await.unwrap();
    let generation = jobs::next_generation(&mut tx, &old.name).await.unwrap();
    deployments::remove(&mut tx, old.id, generation, Request { by: "someone", op_id: "op" }, NOW).await.unwrap();
    jobs::delete(&mut tx, old.id, "someone", Some(wanted.generation), NOW).await.unwrap();
    // The synchronizer carried the removal out.
    raw(&mut tx, "delete from deployment").await;
    raw(&mut tx, "delete from rollout").await;
    tx.commit().await.unwrap();
    assert_eq!(remove_sources(&db, 100).await, 1);
    assert!(insert(&db, &namesake).await);
    let mut tx = db.write().await.unwrap();
    assert!(sources::find(&mut tx, old.id, &version("a")).await.unwrap().is_some());
    assert_eq!(sources::find(&mut tx, old.id, &version("b")).await.unwrap(), None);
    assert_eq!(retention::jobs::find(&mut tx, NOW, None).await.unwrap(), []);
    assert!(!retention::jobs::begin(&mut tx, old.id, NOW, NOW).await.unwrap());
    let found = jobs::deleted::newest(&mut tx, &old.team, &old.name).await.unwrap().unwrap();
    assert_eq!((found.job.id, found.generation), (old.id, Some(wanted.generation)));
    tx.commit().await.unwrap();
    let mut tx = db.write().await.unwrap();
    assert!(!jobs::deleted::undelete(&mut tx, &old, None, NOW).await.unwrap());
    drop(tx);

    let before = Timestamp::from_second(1).unwrap();
    let mut tx = db.write().await.unwrap();
    assert_eq!(retention::jobs::find(&mut tx, before, None).await.unwrap(), [old.id]);
    assert_eq!(retention::jobs::find(&mut tx, before, Some(old.id)).await.unwrap(), []);
    assert!(retention::jobs::begin(&mut tx, old.id, before, NOW).await.unwrap());
    tx.commit().await.unwrap();
    // It goes in several transactions, and can't come back from the first one on.
    let mut tx = db.write().await.unwrap();
    assert_eq!(jobs::deleted::newest(&mut tx, &old.team, &old.name).await.unwrap(), None);
    assert_eq!(jobs::deleted::page(&mut tx, &old.team, None, 10).await.unwrap(), []);
    raw(&mut tx, "update data_job set name = 'a-free-name' where deleted_at is null").await;
    assert!(!jobs::deleted::undelete(&mut tx, &old, None, NOW).await.unwrap());
    drop(tx);
    let mut parts = Vec::new();
    while parts.last() != Some(&Part::Rest) {
        let part = retention::jobs::next_part(&mut db.read().await.unwrap(), old.id, 500).await.unwrap();
        let mut tx = db.write().await.unwrap();
        assert!(retention::jobs::remove(&mut tx, old.id, &part).await.unwrap());
        tx.commit().await.unwrap();
        parts.push(part);
    }
    assert!(matches!(parts[..], [Part::Sources(_), Part::Rest]), "{parts:?}");
    let mut tx = db.read().await.unwrap();
    assert_eq!(jobs::deleted::newest(&mut tx, &old.team, &old.name).await.unwrap(), None);
    for table in ["data_job", "data_job_text", "source_version", "deployment_revision", "job_properties", "job_secret"]
    {
        let left = rows_of(&mut tx, table, old.id).await;
        assert_eq!(left, 0, "{table}");
    }
    assert_eq!(jobs::find(&mut tx, &namesake.name).await.unwrap(), Some(namesake));
}

async fn rows_of(tx: &mut Tx, table: &str, id: JobId) -> i64 {
    let sql = format!("select count(*) from {table} where job_id = '{id}'");
    let (rows,): (i64,) = match tx {
        Tx::Sqlite(tx) => sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(&mut **tx).await.unwrap(),
        Tx::Postgres(tx) => sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(&mut **tx).await.unwrap(),
    };
    rows
}

async fn the_name_of_a_request_is_known_for_a_day_and_swept_after_it(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let mut tx = db.write().await.unwrap();
    let (once, other) =
        (IdempotencyKey::new("a key".into(), &[b"one"]), IdempotencyKey::new("a key".into(), &[b"two"]));
    let later = |hours| NOW + SignedDuration::from_hours(hours);
    assert_eq!(idempotency::claim(&mut tx, "someone", &once, NOW).await.unwrap(), Claim::First);
    idempotency::record(&mut tx, "someone", &once, "1").await.unwrap();
    assert_eq!(idempotency::claim(&mut tx, "someone", &once, later(24)).await.unwrap(), Claim::Repeated("1".into()));
    assert_eq!(idempotency::claim(&mut tx, "someone", &other, later(24)).await.unwrap(), Claim::Another);
    assert_eq!(idempotency::claim(&mut tx, "another", &other, NOW).await.unwrap(), Claim::First);
    assert_eq!(idempotency::purge(&mut tx, later(24), 10).await.unwrap(), 0);
    // No resync ran yet, and it is free nevertheless.
    assert_eq!(idempotency::claim(&mut tx, "someone", &other, later(25)).await.unwrap(), Claim::First);
    assert_eq!(idempotency::purge(&mut tx, later(25), 10).await.unwrap(), 1);
    assert_eq!(idempotency::purge(&mut tx, later(50), 1).await.unwrap(), 1);
    assert_eq!(idempotency::purge(&mut tx, later(50), 1).await.unwrap(), 0);
}
