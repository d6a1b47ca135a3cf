//! A filled database of an earlier version is upgraded while that version serves requests.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, PgPool, SqlitePool, migrate::Migrator, postgres::PgPoolOptions};
use store::{Db, retention};
use testing::{Database, Fresh, for_each_database};

for_each_database!(an_upgraded_database_has_its_rows_and_serves_the_version_before);

/// The first migration that is online.
const FIRST_ONLINE: i64 = 60;

/// The statements of that version for the start of an execution and for its end.
const START: [&str; 2] = [
    "select job_id from data_job where job_id = $1 and deleted_at is null {lock}",
    "insert into data_job_execution (execution_id, job_number, type, status, submitted_at, started_by, op_id, holds_slot,
        leader_epoch)
     select $2, number, 'MANUAL', 'SUBMITTED', 7, 'someone', 'op', true, 0 from data_job where job_id = $1",
];
const END: [&str; 4] = [
    "select job_id from data_job where job_id = $1 {lock}",
    "update data_job_execution set status = 'SUCCEEDED', message = 'Success', started_at = 8, ended_at = 9,
        holds_slot = false, generation = 1 where execution_id = $2
        and job_number = (select number from data_job where job_id = $1)",
    "update data_job set successful_executions = successful_executions + 1, last_execution_id = $2,
        last_execution_status = 'SUCCEEDED', last_execution_start = 8, last_execution_end = 9,
        last_execution_duration_seconds = 0 where job_id = $1",
    "insert into log_chunk (execution_id, chunk, content) values ($2, 0, 'the log of ' || $2 || $1)",
];

fn job_id(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

async fn migrator(kind: &str) -> Migrator {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("migrations").join(kind);
    Migrator::new(folder).await.unwrap()
}

/// The last migration of the version before.
fn before(migrator: &Migrator) -> i64 {
    migrator.iter().map(|m| m.version).filter(|version| *version < FIRST_ONLINE).max().unwrap()
}

fn filled(jobs: usize, runs: usize) -> String {
    include_str!("online_migrations/before.sql")
        .replace("{jobs}", &jobs.to_string())
        .replace("{runs}", &runs.to_string())
}

async fn postgres_of_before(fresh: &Fresh, jobs: usize, runs: usize) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(16).connect(fresh.url()).await.unwrap();
    let migrator = migrator("postgres").await;
    migrator.run_to(before(&migrator), &pool).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(filled(jobs, runs))).execute(&pool).await.unwrap();
    pool
}

macro_rules! request {
    ($pool:expr, $statements:expr, $lock:expr, $job:expr, $execution:expr) => {{
        let mut tx = $pool.begin().await.unwrap();
        for statement in $statements {
            let sql = AssertSqlSafe(statement.replace("{lock}", $lock));
            sqlx::query(sql).bind(&$job).bind(&$execution).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
    }};
}

async fn an_upgraded_database_has_its_rows_and_serves_the_version_before(on: Database) {
    let fresh = on.empty();
    let (logs, db) = if let Some(file) = fresh.file() {
        let url = format!("sqlite:{}?mode=rwc", file.display());
        let pool = SqlitePool::connect(&url).await.unwrap();
        let migrator = migrator("sqlite").await;
        migrator.run_to(before(&migrator), &pool).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(filled(3, 20))).execute(&pool).await.unwrap();
        pool.close().await;
        let db = fresh.open().await;
        let pool = SqlitePool::connect(&url).await.unwrap();
        request!(pool, START, "", job_id(1), "some-job-1-new");
        request!(pool, END, "", job_id(1), "some-job-1-new");
        pool.close().await;
        (30, db)
    } else {
        let pool = postgres_of_before(&fresh, 3, 20).await;
        let db = fresh.open().await;
        request!(pool, START, "for no key update", job_id(1), "some-job-1-new");
        request!(pool, END, "for no key update", job_id(1), "some-job-1-new");
        pool.close().await;
        (30, db)
    };
    let mut tx = db.read().await.unwrap();
    let query = store::executions::ExecutionQuery { limit: 100, ..Default::default() };
    assert_eq!(store::executions::page(&mut tx, &query).await.unwrap().len(), 61);
    // Logs of the version before have no size until the leader measures them.
    assert_eq!(retention::logs::total_bytes(&mut tx).await.unwrap(), 0);
    let found = retention::logs::find_unmeasured(&mut tx, "").await.unwrap();
    assert_eq!((found.executions.len(), found.next.clone()), (logs + 1, None));
    drop(tx);
    let mut tx = db.write().await.unwrap();
    retention::logs::measure(&mut tx, &found.executions).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.read().await.unwrap();
    let expected = 30 * "the log of some-job-0-0".len() + format!("the log of some-job-1-new{}", job_id(1)).len();
    assert_eq!(retention::logs::total_bytes(&mut tx).await.unwrap(), i64::try_from(expected).unwrap());
    assert_eq!(retention::logs::find_unmeasured(&mut tx, "").await.unwrap().executions, Vec::<String>::new());
}

/// Sends a request of the version before 50 times a second until `over`, and returns how long each took from when it was
/// due.
async fn requests(pool: PgPool, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut sent = tokio::task::JoinSet::new();
    let mut due = tokio::time::interval(Duration::from_millis(20));
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        due.tick().await;
        let pool = pool.clone();
        sent.spawn(async move {
            let begun = Instant::now();
            let (job, execution) = (job_id(number % 200), format!("some-job-{}-new-{number}", number % 200));
            request!(pool, START, "for no key update", job, execution);
            request!(pool, END, "for no key update", job, execution);
            begun.elapsed()
        });
        number += 1;
    }
    sent.join_all().await
}

fn is_valid(fresh: &Fresh) -> String {
    fresh.psql(
        "select i.indisvalid, i.indnatts from pg_index i join pg_class c on c.oid = i.indexrelid
         where c.relname = 'data_job_execution_by_revision'",
    )
}

/// With 1,000,000 executions where `HOLDFAST_TEST_LONG` is on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filled_database_is_upgraded_while_the_version_before_writes_and_no_request_waits_a_second() {
    let fresh = Database::Postgresql.empty();
    let runs = testing::count(100, 5000);
    let pool = postgres_of_before(&fresh, 200, runs).await;
    let over = Arc::new(AtomicBool::new(false));
    let serving = tokio::spawn(requests(pool.clone(), Arc::clone(&over)));
    tokio::time::sleep(Duration::from_secs(1)).await;

    // A long read, such as a backup, holds the tables for a while: what changes one of them has to wait.
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("select count(*) from data_job j join data_job_execution e on e.job_number = j.number")
        .execute(&mut *reader)
        .await
        .unwrap();
    let reading = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        reader.rollback().await.unwrap();
    };
    // Two instances of this version start at once.
    let open = async || Db::open(fresh.url(), &testing::options(), testing::clock()).await.unwrap();
    let begun = Instant::now();
    let ((), one, two) = tokio::join!(reading, open(), open());
    let upgraded = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    over.store(true, Ordering::Relaxed);

    let took = serving.await.unwrap();
    let longest = took.iter().max().copied().unwrap();
    assert!(longest < Duration::from_secs(1), "{longest:?} of {} requests", took.len());
    assert!(took.len() > 150, "{}", took.len());
    assert!((3..60).contains(&upgraded.as_secs()), "they wait for the reader, and come up: {upgraded:?}");
    assert_eq!(is_valid(&fresh), "t|2");
    let succeeded = fresh.psql("select sum(successful_executions) from data_job");
    assert_eq!(succeeded, (200 * runs + took.len()).to_string());
    one.ping().await.unwrap();
    two.ping().await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn an_index_whose_concurrent_build_failed_is_built_again() {
    let fresh = Database::Postgresql.empty();
    let pool = postgres_of_before(&fresh, 2, 10).await;
    // A build that fails leaves an index that counts as there, and is never used.
    let fail = async || {
        let failed = sqlx::raw_sql(
            "create unique index concurrently data_job_execution_by_revision on data_job_execution (job_number)",
        );
        let error = failed.execute(&pool).await.unwrap_err();
        assert!(error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation), "{error}");
        assert_eq!(is_valid(&fresh), "f|1");
    };
    fail().await;
    fresh.open().await.close().await;
    assert_eq!(is_valid(&fresh), "t|2", "before its migration was applied");
    sqlx::raw_sql("drop index data_job_execution_by_revision").execute(&pool).await.unwrap();
    fail().await;
    fresh.open().await.close().await;
    assert_eq!(is_valid(&fresh), "t|2", "after it was");
}
