//! Constraints and contents of the rows.

mod support;

use jiff::Timestamp;
use model::{
    access::Caller,
    execution::{Status, Type},
    job::DataJob,
    name::{ExecutionId, JobName},
    source::{Source, SourceVersion},
};
use secrecy::ExposeSecret;
use store::{
    Db, StoreError, Tx,
    executions::{self, Ended, ExecutionQuery, NewExecution, Started},
    jobs::{self, JobQuery, JobSort},
    keys::{KeyRing, SecretKey},
    leases::{self, Epoch, SYNCHRONIZER, Taken},
    retention::{self, executions::Position},
    secrets, sources,
};
use support::{insert, job, number, raw};
use testing::{Database, for_each_database};

for_each_database!(
    a_name_is_unique_among_live_jobs_and_free_after_a_deletion,
    what_was_committed_is_there_after_the_file_is_opened_again,
    a_leader_whose_epoch_is_over_writes_nothing,
    a_program_with_an_older_renderer_does_not_lead_after_a_newer_one,
    a_final_status_never_changes_and_is_counted_once,
    a_start_of_an_unknown_job_is_no_start_beside_another,
    the_end_of_an_execution_writes_the_row_of_its_job_once,
    retention_takes_old_runs_with_their_logs_and_counts_but_keeps_the_newest_of_each_job,
    a_piece_of_a_log_knows_the_bytes_and_lines_before_it,
    a_secret_is_stored_encrypted_and_bound_to_its_row,
    old_content_uploaded_again_is_the_latest_version_once_more,
    pages_are_sorted_the_same_way_every_time_and_patterns_mean_what_they_say,
    an_audit_event_is_part_of_the_change,
);

async fn start(db: &Db, job: &DataJob, second: i64) -> Started {
    let new = NewExecution {
        job_id: job.id,
        job_name: &job.name,
        kind: Type::Manual,
        started_by: "someone",
        op_id: Some("op"),
        arguments: None,
        scheduled_tick: None,
    };
    let mut tx = db.write().await.unwrap();
    let started = executions::insert(&mut tx, &new, Timestamp::from_second(second).unwrap()).await.unwrap();
    if matches!(started, Started::Accepted(_)) {
        tx.commit().await.unwrap();
    }
    started
}

async fn finish(db: &Db, epoch: Epoch, id: &ExecutionId, status: Status, second: i64) -> Result<bool, StoreError> {
    let ended_at = Timestamp::from_second(second).unwrap();
    let ended = Ended { status, message: "m", started_at: Some(ended_at), ended_at };
    let mut tx = db.write().await?;
    let changed = executions::finish(&mut tx, epoch, id, &ended).await?;
    tx.commit().await?;
    Ok(changed)
}

async fn a_name_is_unique_among_live_jobs_and_free_after_a_deletion(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    assert!(insert(&db, &job(1, "example-job")).await);
    assert!(!insert(&db, &job(2, "example-job")).await);
    let mut tx = db.write().await.unwrap();
    assert!(jobs::delete(&mut tx, job(1, "example-job").id, "someone", None, Timestamp::UNIX_EPOCH).await.unwrap());
    tx.commit().await.unwrap();
    assert!(insert(&db, &job(2, "example-job")).await);
}

async fn what_was_committed_is_there_after_the_file_is_opened_again(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    assert!(insert(&db, &job(1, "example-job")).await);
    db.close().await;
    let db = fresh.open().await;
    let mut tx = db.read().await.unwrap();
    let found = jobs::find(&mut tx, &JobName::parse("example-job").unwrap()).await.unwrap();
    assert_eq!(found, Some(job(1, "example-job")));
}

async fn a_leader_whose_epoch_is_over_writes_nothing(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let old = leases::take(&db, SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    let Started::Accepted(id) = start(&db, &job, 1).await else { panic!() };
    let seen = leases::find(&db, SYNCHRONIZER).await.unwrap().unwrap();
    let new = leases::take(&db, SYNCHRONIZER, "two", Some(&seen)).await.unwrap().unwrap();
    assert!(new > old);
    assert!(leases::take(&db, SYNCHRONIZER, "three", Some(&seen)).await.unwrap().is_none());
    assert!(!leases::renew(&db, SYNCHRONIZER, old).await.unwrap());
    assert!(leases::renew(&db, SYNCHRONIZER, new).await.unwrap());

    let late = finish(&db, old, &id, Status::Succeeded, 2).await;
    assert!(matches!(late, Err(StoreError::Fenced { epoch }) if epoch == old.0), "{late:?}");
    assert!(finish(&db, new, &id, Status::UserError, 2).await.unwrap());
}

async fn a_program_with_an_older_renderer_does_not_lead_after_a_newer_one(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let take = async |holder: &str, renderer| {
        let seen = leases::find(&db, SYNCHRONIZER).await.unwrap();
        let candidate = leases::Candidate { holder, host: None, renderer, configuration: "" };
        leases::take_at(&db, SYNCHRONIZER, candidate, seen.as_ref()).await.unwrap()
    };
    assert_eq!(take("old", 9).await, Taken::Leads(Epoch(1)));
    assert_eq!(take("new", 10).await, Taken::Leads(Epoch(2)));
    assert_eq!(take("old", 9).await, Taken::Outdated { renderer: 10 });
    // The newer one leads on: nothing of the try is left.
    assert!(leases::renew(&db, SYNCHRONIZER, Epoch(2)).await.unwrap());
    assert_eq!(leases::find(&db, SYNCHRONIZER).await.unwrap().unwrap().holder, "new");
    assert_eq!(take("new too", 10).await, Taken::Leads(Epoch(3)));
}

async fn a_final_status_never_changes_and_is_counted_once(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let epoch = leases::take(&db, SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    let Started::Accepted(first) = start(&db, &job, 10).await else { panic!() };
    assert_eq!(first.as_str(), "example-job-10");
    assert_eq!(start(&db, &job, 10).await, Started::SlotTaken);
    assert!(finish(&db, epoch, &first, Status::Succeeded, 12).await.unwrap());
    assert!(!finish(&db, epoch, &first, Status::PlatformError, 13).await.unwrap());
    let mut tx = db.write().await.unwrap();
    assert!(!executions::request_cancel(&mut tx, &first, Timestamp::UNIX_EPOCH).await.unwrap());
    drop(tx);

    let Started::Accepted(second) = start(&db, &job, 10).await else { panic!() };
    assert_eq!(second.as_str(), "example-job-11");
    assert!(finish(&db, epoch, &second, Status::UserError, 11).await.unwrap());

    let mut tx = db.read().await.unwrap();
    let query = JobQuery { limit: 10, ..JobQuery::default() };
    let summary = jobs::page(&mut tx, &query).await.unwrap().pop().unwrap();
    assert_eq!((summary.successful_executions, summary.failed_executions), (1, 1));
    // The one that ended last counts, though it was not the last to be recorded.
    assert_eq!(summary.last_execution_status, Some(Status::Succeeded));
}

async fn a_start_of_an_unknown_job_is_no_start_beside_another(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let unknown = job(1, "example-job");
    let new = NewExecution {
        job_id: unknown.id,
        job_name: &unknown.name,
        kind: Type::Manual,
        started_by: "someone",
        op_id: None,
        arguments: None,
        scheduled_tick: None,
    };
    let mut tx = db.write().await.unwrap();
    let started = executions::insert(&mut tx, &new, Timestamp::UNIX_EPOCH).await;
    assert!(started.is_err(), "{started:?}");
}

async fn the_end_of_an_execution_writes_the_row_of_its_job_once(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let epoch = leases::take(&db, SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    let Started::Accepted(id) = start(&db, &job, 10).await else { panic!() };
    assert!(finish(&db, epoch, &id, Status::UserError, 11).await.unwrap());
    let mut registry = prometheus_client::registry::Registry::default();
    db.statements().register(&mut registry);
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    // One statement for the execution and one for its job.
    let line = "statement_duration_seconds_count{operation=\"executions.finish\"} 2\n";
    assert!(page.contains(line), "{page}");
}

async fn a_piece_of_a_log_knows_the_bytes_and_lines_before_it(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let Started::Accepted(id) = start(&db, &job, 10).await else { panic!() };
    let text: String = (0..90_000).fold(String::new(), |text, n| text + &n.to_string() + " \u{20ac}\n");
    let mut tx = db.write().await.unwrap();
    let log = model::log::LogChunk { text: text.clone(), omitted_bytes: 0 };
    store::logs::replace(&mut tx, &id, &log).await.unwrap();
    let last = store::logs::last_position(&mut tx, &id).await.unwrap().unwrap();
    assert!(last.chunk >= 2, "{last:?}");
    let mut before = 0;
    for line in [1, 2, 20_000, 45_000, 89_999, 90_000] {
        let position = store::logs::position_of_line(&mut tx, &id, line).await.unwrap().unwrap();
        let piece = store::logs::chunk(&mut tx, &id, position.chunk).await.unwrap().unwrap();
        let (first_byte, first_line) = (position.first_byte.unwrap(), position.first_line.unwrap());
        assert_eq!(&text[usize::try_from(first_byte).unwrap()..][..piece.len()], piece);
        let ends = i64::try_from(piece.matches('\n').count()).unwrap();
        assert!((first_line + 1..=first_line + ends).contains(&line), "{line}: {position:?} has {ends}");
        assert!(position.chunk >= before);
        before = position.chunk;
    }
    assert_eq!(before, last.chunk);
    assert_eq!(store::logs::position_of_line(&mut tx, &id, 0).await.unwrap(), None);
}

async fn retention_takes_old_runs_with_their_logs_and_counts_but_keeps_the_newest_of_each_job(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let epoch = leases::take(&db, SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    for second in [10, 20, 30, 40] {
        let Started::Accepted(id) = start(&db, &job, second).await else { panic!() };
        let mut tx = db.write().await.unwrap();
        let log = model::log::LogChunk { text: "a\0b".repeat(200_000), omitted_bytes: 0 };
        store::logs::replace(&mut tx, &id, &log).await.unwrap();
        assert_eq!(store::logs::find(&mut tx, &id).await.unwrap().unwrap().text, "a\u{FFFD}b".repeat(200_000));
        let last = store::logs::last_position(&mut tx, &id).await.unwrap().unwrap().chunk;
        let mut text = String::new();
        for chunk in 0..=last {
            text += &store::logs::chunk(&mut tx, &id, chunk).await.unwrap().unwrap();
        }
        assert_eq!(text, "a\u{FFFD}b".repeat(200_000));
        assert_eq!(store::logs::chunk(&mut tx, &id, last + 1).await.unwrap(), None);
        tx.commit().await.unwrap();
        finish(&db, epoch, &id, Status::Succeeded, second + 1).await.unwrap();
    }
    let log_bytes = i64::try_from("a\u{FFFD}b".repeat(200_000).len()).unwrap();
    assert_eq!(retention::logs::total_bytes(&mut db.read().await.unwrap()).await.unwrap(), 4 * log_bytes);
    let before = Timestamp::from_second(35).unwrap();
    for removed in [2, 0] {
        let mut tx = db.write().await.unwrap();
        let found = retention::executions::find(&mut tx, before, 2, &Position::default(), 500).await.unwrap();
        assert_eq!(found.next, None);
        assert_eq!(retention::executions::remove(&mut tx, before, &found.old).await.unwrap(), removed);
        tx.commit().await.unwrap();
    }
    let mut tx = db.read().await.unwrap();
    assert_eq!(retention::logs::total_bytes(&mut tx).await.unwrap(), 2 * log_bytes);
    let query = ExecutionQuery { limit: 10, ..ExecutionQuery::default() };
    let left: Vec<_> = executions::page(&mut tx, &query).await.unwrap();
    assert_eq!(left.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["example-job-30", "example-job-40"]);
    let gone = ExecutionId::parse("example-job-10").unwrap();
    assert_eq!(store::logs::find(&mut tx, &gone).await.unwrap(), None);
    assert_eq!(store::logs::last_position(&mut tx, &gone).await.unwrap(), None);
    let query = JobQuery { limit: 10, ..JobQuery::default() };
    assert_eq!(jobs::page(&mut tx, &query).await.unwrap()[0].successful_executions, 2);
}

async fn a_secret_is_stored_encrypted_and_bound_to_its_row(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let (one, two) = (job(1, "example-job"), job(2, "another-job"));
    assert!(insert(&db, &one).await);
    assert!(insert(&db, &two).await);
    let key = KeyRing::from(SecretKey::new([7; 32]));
    let content = "{\"password\":\"correct horse\"}".to_owned().into();
    let mut tx = db.write().await.unwrap();
    secrets::replace(&mut tx, &key, one.id, &content, "someone", Timestamp::UNIX_EPOCH).await.unwrap();
    let found = secrets::find(&mut tx, &key, one.id).await.unwrap().unwrap();
    assert_eq!(found.expose_secret(), content.expose_secret());
    assert!(secrets::find(&mut tx, &KeyRing::from(SecretKey::new([8; 32])), one.id).await.is_err());
    // A row moved to another job does not open.
    raw(&mut tx, "update job_secret set job_id = '00000000-0000-0000-0000-000000000002'").await;
    assert!(secrets::find(&mut tx, &key, two.id).await.is_err());
    tx.commit().await.unwrap();
    let Some(file) = fresh.file() else {
        let mut tx = db.read().await.unwrap();
        let plain = "select count(*) from job_secret where position('correct'::bytea in ciphertext) > 0";
        assert_eq!(number(&mut tx, plain).await, 0);
        return;
    };
    db.close().await;
    for entry in std::fs::read_dir(file.parent().unwrap()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(13).any(|w| w == b"correct horse"));
    }
}

async fn old_content_uploaded_again_is_the_latest_version_once_more(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let version = |digit: &str| SourceVersion::parse(&digit.repeat(40)).unwrap();
    let large: Vec<u8> = (0..=250).cycle().take(3 * 1024 * 1024 + 5).collect();
    let mut tx = db.write().await.unwrap();
    for (digit, archive) in [("a", &large[..]), ("b", b"b"), ("a", &large[..])] {
        let source = Source {
            version: version(digit),
            archive_bytes: i64::try_from(archive.len()).unwrap(),
            requirements: String::new(),
            uploaded_by: "someone".into(),
            uploaded_at: Timestamp::UNIX_EPOCH,
            reason: String::new(),
        };
        sources::insert(&mut tx, job.id, &source, archive).await.unwrap();
    }
    assert_eq!(sources::latest(&mut tx, job.id).await.unwrap().unwrap().version, version("a"));
    // In pieces that end where a row does.
    let (mut whole, mut pieces) = (Vec::new(), 0);
    while let Some(piece) = sources::piece(&mut tx, job.id, &version("a"), whole.len() as u64, 1_000_000)
        .await
        .unwrap()
        .filter(|p| !p.is_empty())
    {
        assert!(piece.len() <= 1_000_000);
        whole.extend(piece);
        pieces += 1;
    }
    assert!(whole == large);
    assert_eq!(pieces, 7);
    assert!(sources::is_stored(&mut tx, job.id, &version("b")).await.unwrap());
    assert!(!sources::is_stored(&mut tx, job.id, &version("c")).await.unwrap());
    assert_eq!(sources::archive(&mut tx, job.id, &version("a")).await.unwrap(), Some(large));
    assert_eq!(sources::archive(&mut tx, job.id, &version("c")).await.unwrap(), None);
}

async fn pages_are_sorted_the_same_way_every_time_and_patterns_mean_what_they_say(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    for (n, name) in ["b-100-percent", "a-example", "c_example".replace('_', "-").as_str()].iter().enumerate() {
        assert!(insert(&db, &job(n as u128, name)).await);
    }
    let mut tx = db.read().await.unwrap();
    let names = async |tx: &mut Tx, query: JobQuery| -> Vec<String> {
        let page = jobs::page(tx, &JobQuery { limit: 10, ..query }).await.unwrap();
        page.iter().map(|s| s.job.name.to_string()).collect()
    };
    let all = ["a-example", "b-100-percent", "c-example"];
    assert_eq!(names(&mut tx, JobQuery::default()).await, all);
    assert_eq!(names(&mut tx, JobQuery { sort: JobSort::LastExecutionTime, ..JobQuery::default() }).await, all);
    let by_pattern = |pattern: &str| JobQuery { names: vec![pattern.into()], ..JobQuery::default() };
    assert_eq!(names(&mut tx, by_pattern("*EXAMPLE")).await, ["a-example", "c-example"]);
    assert_eq!(names(&mut tx, by_pattern("c_example")).await, Vec::<String>::new());
    let search = JobQuery { search: Some("100".into()), ..JobQuery::default() };
    assert_eq!(names(&mut tx, search).await, ["b-100-percent"]);
    let teams = |team: &str| JobQuery { teams: vec![team.into()], ..JobQuery::default() };
    assert_eq!(names(&mut tx, teams("a team")).await.len(), 3);
    assert_eq!(names(&mut tx, teams("a*")).await.len(), 3);
    assert_eq!(names(&mut tx, teams("A TEAM")).await.len(), 3);
}

async fn an_audit_event_is_part_of_the_change(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let job = job(1, "example-job");
    assert!(insert(&db, &job).await);
    let event = store::audit::Event {
        action: "job.create",
        job_id: job.id,
        job_name: job.name.as_str(),
        team: job.team.as_str(),
        generation: None,
        detail: None,
    };
    let mut tx = db.write().await.unwrap();
    store::audit::record(&mut tx, &Caller::anonymous("op"), &event, Timestamp::UNIX_EPOCH).await.unwrap();
    drop(tx);
    let count = async || number(&mut db.read().await.unwrap(), "select count(*) from audit_event").await;
    assert_eq!(count().await, 0);
    let mut tx = db.write().await.unwrap();
    store::audit::record(&mut tx, &Caller::anonymous("op"), &event, Timestamp::UNIX_EPOCH).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(count().await, 1);
}

#[tokio::test]
async fn a_full_disk_is_reported_and_over_when_there_is_room() {
    let fresh = Database::Sqlite.fresh();
    let db = fresh.open().await;
    assert!(insert(&db, &job(1, "example-job")).await);
    let mut tx = db.write().await.unwrap();
    // As if the disk had no room for another page: SQLite ends the transaction automatically.
    raw(&mut tx, "pragma max_page_count = 1").await;
    tx.commit().await.unwrap();
    let source = Source {
        version: SourceVersion::parse(&"a".repeat(40)).unwrap(),
        archive_bytes: 1,
        requirements: String::new(),
        uploaded_by: "someone".into(),
        uploaded_at: Timestamp::UNIX_EPOCH,
        reason: String::new(),
    };
    let archive = vec![1_u8; 1024 * 1024];
    let mut tx = db.write().await.unwrap();
    let full = sources::insert(&mut tx, job(1, "example-job").id, &source, &archive).await;
    assert!(matches!(full, Err(StoreError::Unavailable(_))), "{full:?}");
    drop(tx);
    // The limit goes with the connection that was in the middle of it.
    let mut tx = db.write().await.unwrap();
    sources::insert(&mut tx, job(1, "example-job").id, &source, &archive).await.unwrap();
    tx.commit().await.unwrap();
}
