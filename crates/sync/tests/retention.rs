//! The rows that retention removes and keeps, the size of its steps, and kinds that fail without stopping others.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]

mod support;

use std::sync::Arc;

use clock::SystemClock;
use jiff::{SignedDuration, Timestamp};
use model::{
    execution::{Status, Type},
    log::LogChunk,
    name::{ExecutionId, JobId, JobName},
    preconditions::IdempotencyKey,
    source::{Source, SourceVersion},
};
use prometheus_client::registry::Registry;
use store::{
    Db, StoreError, Tx,
    executions::{self, Ended, ExecutionQuery, NewExecution, Started},
    idempotency, jobs,
    leases::{self, Epoch, SYNCHRONIZER},
    sources,
};
use support::{Harness, TEAM};
use sync::{
    cleanup::{Kind, Retention, Rules},
    gauges::Gauges,
};
use testing::{Database, for_each_database};
use tokio_util::sync::CancellationToken;

for_each_database!(
    a_kind_that_fails_is_counted_and_stops_no_other,
    old_executions_of_many_jobs_go_in_steps_and_each_job_keeps_its_newest,
    logs_go_before_their_executions_and_the_oldest_of_all_when_there_are_too_many,
    old_revisions_and_uploads_go_unless_something_needs_them,
    a_purged_job_goes_in_steps_with_all_that_was_its_own,
    the_first_round_packs_the_newest_executions_of_jobs_without_a_row,
);

fn rules() -> Rules {
    Rules {
        executions_keep: SignedDuration::from_hours(24),
        executions_keep_per_job: 2,
        logs_keep: SignedDuration::from_hours(24),
        logs_max_bytes: i64::MAX,
        revisions_keep_per_job: 2,
        deleted_jobs_keep: SignedDuration::from_hours(24),
        audit_keep: SignedDuration::from_hours(24),
    }
}

struct Fixture {
    harness: Harness,
    epoch: Epoch,
    registry: Registry,
    gauges: Gauges,
}

impl Fixture {
    async fn new(on: Database) -> Self {
        let harness = Harness::new(on).await;
        let epoch = leases::take(&harness.db, SYNCHRONIZER, "test", None).await.unwrap().unwrap();
        let mut registry = Registry::default();
        let gauges = Gauges::register(&mut registry, false, Arc::new(SystemClock));
        Self { harness, epoch, registry, gauges }
    }

    fn db(&self) -> &Db {
        &self.harness.db
    }

    fn now(&self) -> Timestamp {
        model::clock::Clock::now(&*self.harness.clock)
    }

    fn hours_ago(&self, hours: i64) -> Timestamp {
        self.now() - SignedDuration::from_hours(hours)
    }

    /// Removes what these rules do not keep, and returns the kinds that failed.
    async fn round(&self, rules: &Rules) -> Result<Vec<Kind>, StoreError> {
        let mut retention = Retention::new(self.db(), &*self.harness.clock, rules, &self.gauges);
        let steps = retention.round(self.epoch, &CancellationToken::new()).await?;
        Ok(steps.iter().filter(|step| step.failed).map(|step| step.kind).collect())
    }

    /// The value of a series.
    fn sample(&self, series: &str) -> String {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        let found = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{series}: {page}")).to_owned()
    }

    fn removed(&self, kind: Kind) -> String {
        self.sample(&format!("holdfast_retention_removed_total{{kind=\"{}\"}}", kind.as_str()))
    }

    /// Stores an execution that ended at an instant, with a log.
    async fn ended(&self, job: JobId, name: &str, at: Timestamp, status: Status, log: &str) -> ExecutionId {
        let mut tx = self.db().write().await.unwrap();
        let id = ended_in(&mut tx, self.epoch, job, name, at, status, log).await;
        tx.commit().await.unwrap();
        id
    }

    async fn executions(&self) -> Vec<String> {
        let query = ExecutionQuery { limit: 10_000, ..ExecutionQuery::default() };
        let found = executions::page(&mut self.db().read().await.unwrap(), &query).await.unwrap();
        let mut ids: Vec<_> = found.iter().map(|e| e.id.as_str().to_owned()).collect();
        ids.sort();
        ids
    }
}

async fn ended_in(
    tx: &mut Tx,
    epoch: Epoch,
    job: JobId,
    name: &str,
    at: Timestamp,
    status: Status,
    log: &str,
) -> ExecutionId {
    let name = JobName::parse(name).unwrap();
    let new = NewExecution {
        job_id: job,
        job_name: &name,
        kind: Type::Manual,
        started_by: "someone",
        op_id: Some("op"),
        arguments: None,
        scheduled_tick: None,
    };
    let Started::Accepted(id) = executions::insert(tx, &new, at).await.unwrap() else { panic!("{at}") };
    let ended = Ended { status, message: "m", started_at: Some(at), ended_at: at };
    assert!(executions::finish(tx, epoch, &id, &ended).await.unwrap());
    store::logs::replace(tx, &id, &LogChunk { text: log.into(), omitted_bytes: 0 }).await.unwrap();
    id
}

/// Runs a statement that no function of the store makes.
async fn raw(db: &Db, on: Database, sqlite: &'static str, postgresql: &'static str) {
    let mut tx = db.write().await.unwrap();
    support::raw(&mut tx, if on == Database::Sqlite { sqlite } else { postgresql }).await;
    tx.commit().await.unwrap();
}

async fn a_kind_that_fails_is_counted_and_stops_no_other(on: Database) {
    let it = Fixture::new(on).await;
    let job = it.harness.create("example-job", None).await;
    for hour in 0..4 {
        it.ended(job, "example-job", it.hours_ago(100 - hour), Status::Succeeded, "log").await;
    }
    let mut tx = it.db().write().await.unwrap();
    let once = IdempotencyKey::new("a key".into(), &[b"one"]);
    idempotency::claim(&mut tx, "someone", &once, it.hours_ago(100)).await.unwrap();
    store::schedules::ensure(&mut tx, "1 2 3 4 5", "UTC", None).await.unwrap();
    tx.commit().await.unwrap();
    // The first kind and one in the middle.
    raw(
        it.db(),
        on,
        "create trigger no_logs before delete on execution_log begin select raise(abort, 'no'); end;
         create trigger no_keys before delete on idempotency_key begin select raise(abort, 'no'); end;
         create trigger no_executions before delete on data_job_execution begin select raise(abort, 'no'); end",
        "create function fails() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
         create trigger no_logs before delete on execution_log for each row execute function fails();
         create trigger no_keys before delete on idempotency_key for each row execute function fails();
         create trigger no_executions before delete on data_job_execution for each row execute function fails()",
    )
    .await;
    assert_eq!(it.round(&rules()).await.unwrap(), [Kind::Logs, Kind::Executions, Kind::IdempotencyKeys]);
    assert_eq!(it.sample("holdfast_retention_failures_total{kind=\"logs\"}"), "1");
    assert_eq!(it.sample("holdfast_retention_failures_total{kind=\"idempotency_keys\"}"), "1");
    assert_eq!(it.sample("holdfast_retention_failures_total{kind=\"schedules\"}"), "0");
    assert_eq!((it.removed(Kind::Executions), it.removed(Kind::Schedules)), ("0".into(), "1".into()));
    assert_eq!(it.executions().await.len(), 4);

    let gone = "drop trigger no_logs; drop trigger no_keys; drop trigger no_executions";
    let gone_on_server = "drop function fails() cascade";
    raw(it.db(), on, gone, gone_on_server).await;
    assert_eq!(it.round(&rules()).await.unwrap(), []);
    assert_eq!((it.removed(Kind::Executions), it.removed(Kind::IdempotencyKeys)), ("2".into(), "1".into()));
    assert_eq!(it.removed(Kind::Logs), "4");

    // Who does not lead any more removes nothing.
    let seen = leases::find(it.db(), SYNCHRONIZER).await.unwrap();
    leases::take(it.db(), SYNCHRONIZER, "other", seen.as_ref()).await.unwrap().unwrap();
    let fenced = it.round(&rules()).await;
    assert!(matches!(fenced, Err(StoreError::Fenced { .. })), "{fenced:?}");
}

async fn old_executions_of_many_jobs_go_in_steps_and_each_job_keeps_its_newest(on: Database) {
    let it = Fixture::new(on).await;
    let many = it.harness.create("job-many", None).await;
    let mut kept = Vec::new();
    let mut tx = it.db().write().await.unwrap();
    // More than a transaction takes, all of one instant in pairs.
    for number in 0..700 {
        let at = it.hours_ago(1000) + SignedDuration::from_secs(number / 2);
        let status = if number % 2 == 0 { Status::Succeeded } else { Status::UserError };
        let id = ended_in(&mut tx, it.epoch, many, "job-many", at, status, "").await;
        kept.extend((number >= 698).then(|| id.as_str().to_owned()));
    }
    tx.commit().await.unwrap();
    for number in 0..60 {
        let name = format!("job-{number:02}");
        let job = it.harness.create(&name, None).await;
        // Old and over the number; old and among the newest; recent.
        for (hours, is_kept) in [(50, false), (49, false), (48, true), (1, true)] {
            let id = it.ended(job, &name, it.hours_ago(hours), Status::Succeeded, "").await;
            kept.extend(is_kept.then(|| id.as_str().to_owned()));
        }
    }
    kept.sort();
    // One job has many recent ones: its old ones go whatever the number.
    let rules = Rules { logs_keep: SignedDuration::from_hours(24 * 365), ..rules() };
    assert_eq!(it.round(&rules).await.unwrap(), []);
    assert_eq!(it.executions().await, kept);
    assert_eq!(it.removed(Kind::Executions), "818");
    // 818 executions with two rows each: at most 500 rows, and at least 20, in a transaction.
    let transactions = it.sample("holdfast_retention_transaction_duration_seconds_count{kind=\"executions\"}");
    assert!((4..=90).contains(&transactions.parse::<u32>().unwrap()), "{transactions}");
    let mut tx = it.db().read().await.unwrap();
    let query = jobs::JobQuery { limit: 100, ..Default::default() };
    let summaries = jobs::page(&mut tx, &query).await.unwrap();
    let counts = |name: &str| {
        let summary = summaries.iter().find(|s| s.job.name.as_str() == name).unwrap();
        (summary.successful_executions, summary.failed_executions)
    };
    assert_eq!((counts("job-many"), counts("job-00")), ((1, 1), (2, 0)));
    drop(tx);
    assert_eq!(it.round(&rules).await.unwrap(), []);
    assert_eq!(it.removed(Kind::Executions), "818");
}

async fn logs_go_before_their_executions_and_the_oldest_of_all_when_there_are_too_many(on: Database) {
    let it = Fixture::new(on).await;
    let (one, two) = (it.harness.create("job-one", None).await, it.harness.create("job-two", None).await);
    let megabyte = "x".repeat(1_000_000);
    let mut ids = Vec::new();
    for (job, name, hours) in
        [(one, "job-one", 80), (two, "job-two", 70), (one, "job-one", 60), (two, "job-two", 20), (one, "job-one", 10)]
    {
        ids.push(it.ended(job, name, it.hours_ago(hours), Status::Succeeded, &megabyte).await);
    }
    let logs = async || {
        let mut tx = it.db().read().await.unwrap();
        let mut present = Vec::new();
        for id in &ids {
            present.push(store::logs::last_position(&mut tx, id).await.unwrap().is_some());
        }
        present
    };
    let all = Rules { executions_keep_per_job: 100, logs_keep: SignedDuration::from_hours(1000), ..rules() };
    assert_eq!(it.round(&all).await.unwrap(), []);
    assert_eq!(logs().await, [true; 5]);
    assert_eq!(it.sample("holdfast_stored_logs_bytes"), "5000000");

    let by_size = Rules { logs_max_bytes: 3_500_000, ..all.clone() };
    assert_eq!(it.round(&by_size).await.unwrap(), []);
    assert_eq!(logs().await, [false, false, true, true, true], "the oldest, whose ever they are");
    assert_eq!(it.sample("holdfast_stored_logs_bytes"), "3000000");
    assert_eq!(it.sample("holdfast_stored_logs_max_bytes"), "3500000");

    let by_age = Rules { logs_keep: SignedDuration::from_hours(24), ..by_size };
    assert_eq!(it.round(&by_age).await.unwrap(), []);
    assert_eq!(logs().await, [false, false, false, true, true]);
    assert_eq!(it.executions().await.len(), 5, "the executions stay");
    assert_eq!(it.removed(Kind::Logs), "3");

    // A log that a program without sizes stored is measured first.
    let sql = "delete from execution_log";
    raw(it.db(), on, sql, sql).await;
    assert_eq!(it.round(&Rules { logs_max_bytes: 1_500_000, ..by_age }).await.unwrap(), []);
    assert_eq!(logs().await, [false, false, false, false, true]);
}

async fn old_revisions_and_uploads_go_unless_something_needs_them(on: Database) {
    let it = Fixture::new(on).await;
    let job = it.harness.create("example-job", None).await;
    let version = |number: usize| SourceVersion::parse(&format!("{number:040}")).unwrap();
    for number in 0..8 {
        let source = Source {
            version: version(number),
            archive_bytes: 1,
            requirements: String::new(),
            uploaded_by: "test".into(),
            uploaded_at: it.now(),
            reason: String::new(),
        };
        let mut tx = it.db().write().await.unwrap();
        sources::insert(&mut tx, job, &source, number.to_string().as_bytes()).await.unwrap();
        tx.commit().await.unwrap();
        let change = model::deployment::DeploymentChange { job_version: Some(version(number)), ..Default::default() };
        it.harness.change("example-job", change).await;
    }
    // The second one is deployed, and an execution ran the fourth.
    let mut tx = it.db().write().await.unwrap();
    support::raw(&mut tx, "update rollout set reached_generation = 2").await;
    tx.commit().await.unwrap();
    it.ended(job, "example-job", it.now(), Status::Succeeded, "").await;
    let mut tx = it.db().write().await.unwrap();
    support::raw(&mut tx, "update data_job_execution set generation = 4").await;
    tx.commit().await.unwrap();
    let left = async |it: &Fixture| {
        let mut tx = it.db().read().await.unwrap();
        let revisions = store::revisions::page(&mut tx, job, i64::MAX, 100).await.unwrap();
        let mut uploads = Vec::new();
        for number in 0..8 {
            uploads.extend(sources::find(&mut tx, job, &version(number)).await.unwrap().map(|_| number));
        }
        (revisions.iter().map(|r| r.generation).collect::<Vec<_>>(), uploads)
    };
    let keeps_executions = Rules { executions_keep_per_job: 100, ..rules() };
    assert_eq!(it.round(&keeps_executions).await.unwrap(), []);
    let all = left(&it).await;
    assert_eq!((all.0.len(), all.1.len()), (8, 8), "all are of today");

    it.harness.advance(SignedDuration::from_hours(25));
    assert_eq!(it.round(&keeps_executions).await.unwrap(), []);
    // The first upload of all is the one that jobs of these tests have.
    assert_eq!(left(&it).await, (vec![8, 7, 4, 2], vec![1, 3, 6, 7]));
    assert_eq!((it.removed(Kind::Revisions), it.removed(Kind::Uploads)), ("4".into(), "5".into()));

    // Without the execution nothing needs what it ran.
    let mut tx = it.db().write().await.unwrap();
    support::raw(&mut tx, "delete from data_job_execution").await;
    tx.commit().await.unwrap();
    assert_eq!(it.round(&keeps_executions).await.unwrap(), []);
    assert_eq!(left(&it).await, (vec![8, 7, 2], vec![1, 6, 7]));
    // A new revision makes the oldest of the kept ones go.
    let change = model::deployment::DeploymentChange { job_version: Some(version(1)), ..Default::default() };
    it.harness.change("example-job", change).await;
    it.harness.advance(SignedDuration::from_hours(25));
    assert_eq!(it.round(&keeps_executions).await.unwrap(), []);
    assert_eq!(left(&it).await, (vec![9, 8, 2], vec![1, 6, 7]));
}

async fn a_purged_job_goes_in_steps_with_all_that_was_its_own(on: Database) {
    let it = Fixture::new(on).await;
    let (gone, stays) = (it.harness.create("job-gone", None).await, it.harness.create("job-stays", None).await);
    let mut tx = it.db().write().await.unwrap();
    for number in 0..300 {
        let at = it.hours_ago(1) + SignedDuration::from_secs(number);
        ended_in(&mut tx, it.epoch, gone, "job-gone", at, Status::Succeeded, "log").await;
    }
    tx.commit().await.unwrap();
    it.ended(stays, "job-stays", it.hours_ago(1), Status::Succeeded, "log").await;
    app::jobs::delete(it.db(), &*it.harness.clock, &it.harness.caller(), TEAM, "job-gone").await.unwrap();
    let rules = Rules { executions_keep_per_job: 1000, ..rules() };
    assert_eq!(it.round(&rules).await.unwrap(), []);
    let log_bytes = async || store::retention::logs::total_bytes(&mut it.db().read().await.unwrap()).await.unwrap();
    assert_eq!(log_bytes().await, 903, "it can be restored");
    it.harness.advance(SignedDuration::from_hours(25));
    let rules = Rules {
        executions_keep: SignedDuration::from_hours(1000),
        logs_keep: SignedDuration::from_hours(1000),
        ..rules
    };
    assert_eq!(it.round(&rules).await.unwrap(), []);
    assert_eq!(it.removed(Kind::Jobs), "1");
    assert_eq!((it.executions().await.len(), log_bytes().await), (1, 3));
    let mut tx = it.db().read().await.unwrap();
    assert_eq!(jobs::by_id(&mut tx, gone).await.unwrap(), None);
    assert!(jobs::by_id(&mut tx, stays).await.unwrap().is_some());
    // The archive is another job's as well.
    assert!(sources::archive(&mut tx, stays, &support::version()).await.unwrap().is_some());
    // The mark; 300 executions with three rows each; the upload; the rest.
    let transactions = it.sample("holdfast_retention_transaction_duration_seconds_count{kind=\"jobs\"}");
    assert!((5..=60).contains(&transactions.parse::<u32>().unwrap()), "{transactions}");
}

async fn the_first_round_packs_the_newest_executions_of_jobs_without_a_row(on: Database) {
    let it = Fixture::new(on).await;
    let job = it.harness.create("example-job", None).await;
    let _ = it.harness.create("other-job", None).await;
    for hour in 1..4 {
        it.ended(job, "example-job", it.hours_ago(hour), Status::UserError, "log").await;
    }
    // As a program before this table left them.
    let sql = "delete from newest_executions";
    raw(it.db(), on, sql, sql).await;
    let missing = async || executions::newest::find_missing(&mut it.db().read().await.unwrap(), "").await.unwrap().jobs;
    assert_eq!(missing().await.len(), 1);
    assert_eq!(it.round(&rules()).await.unwrap(), []);
    assert_eq!(missing().await, Vec::<i64>::new());
}
