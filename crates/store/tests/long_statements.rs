//! Statements that take long end at their limit or with their transaction, and do not delay others.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]

mod support;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use model::job::DataJob;
use store::{
    Db, PostgresOptions, Result, StoreError, Tx,
    jobs::{self, JobQuery},
};
use testing::{Database, Fresh, for_each_database};
use tokio::task::JoinHandle;

for_each_database!(
    a_callers_statement_ends_at_its_limit_and_its_connection_is_used_again,
    the_statement_of_a_reader_who_went_away_ends_and_gives_its_connection_back,
    readers_of_callers_hold_up_no_loop,
    closing_waits_for_no_statement,
    a_few_searches_at_the_same_time_leave_connections_to_other_reads,
    the_hardest_search_that_is_allowed_ends_at_its_limit_and_delays_no_other,
);

/// Far longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);

/// A limit that no test reaches on SQLite, where a statement ends with the test; on PostgreSQL it would not.
fn limit_on(on: Database) -> Duration {
    if on == Database::Sqlite { FOREVER } else { Duration::from_secs(6) }
}

/// The readers of callers that tests open databases with: those of SQLite, and those of `testing::options`.
fn readers(on: Database) -> usize {
    if on == Database::Sqlite { 4 } else { 8 }
}

/// Counts more than any test waits for.
async fn count_for_ever(tx: &mut Tx) -> Result<()> {
    let counted = match tx {
        Tx::Sqlite(tx) => {
            sqlx::query("with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n")
                .fetch_one(&mut **tx)
                .await
                .map(drop)
        }
        Tx::Postgres(tx) => sqlx::query(
            "select count(*) from generate_series(1, 100000) a, generate_series(1, 100000) b, generate_series(1, 9) c",
        )
        .fetch_one(&mut **tx)
        .await
        .map(drop),
    };
    Ok(counted?)
}

/// Takes all readers of callers, and answers when each of them works.
async fn take_all_readers(db: &Db, on: Database) -> Vec<JoinHandle<Result<()>>> {
    let mut taken = Vec::new();
    for _ in 0..readers(on) {
        let mut tx = db.read().await.unwrap();
        taken.push(tokio::spawn(async move { count_for_ever(&mut tx).await }));
    }
    // Each has handed its statement over before others are served.
    tokio::time::sleep(Duration::from_millis(100)).await;
    taken
}

/// The statements of this database that its server works on.
fn working(fresh: &Fresh) -> String {
    fresh.psql(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
            and state = 'active' and query like '%generate_series(1,%'",
    )
}

async fn a_callers_statement_ends_at_its_limit_and_its_connection_is_used_again(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await.with_callers_read_max(Duration::from_millis(300));
    for _ in 0..=readers(on) {
        let begun = Instant::now();
        let mut tx = db.read().await.unwrap();
        let ended = count_for_ever(&mut tx).await;
        assert!(matches!(ended, Err(StoreError::TooExpensive(_))), "{ended:?}");
        assert!((250..5000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }
    let problem = model::Problem::from(count_for_ever(&mut db.read().await.unwrap()).await.unwrap_err());
    assert!(problem.why.contains("limit 10 seconds"), "{problem}");
    for _ in 0..=readers(on) {
        db.ping().await.unwrap();
    }
}

async fn the_statement_of_a_reader_who_went_away_ends_and_gives_its_connection_back(on: Database) {
    let fresh = on.fresh();
    // SQLite ends a statement when it is dropped, PostgreSQL at its limit.
    let limit = if on == Database::Sqlite { FOREVER } else { Duration::from_secs(4) };
    let db = fresh.open().await.with_callers_read_max(limit);
    let taken = take_all_readers(&db, on).await;
    // The server may need longer until it works on each of them; none ends before its limit.
    while on == Database::Postgresql && working(&fresh) != readers(on).to_string() {
        assert!(taken.iter().all(|reader| !reader.is_finished()), "{} of {}", working(&fresh), readers(on));
    }
    for reader in taken {
        reader.abort();
        assert!(reader.await.unwrap_err().is_cancelled());
    }
    let begun = Instant::now();
    let all: Vec<_> = futures::future::join_all((0..readers(on)).map(|_| async {
        loop {
            match db.read().await {
                Ok(tx) => return tx,
                Err(StoreError::PoolExhausted | StoreError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }))
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(all.len(), readers(on));
    drop(all);
    db.ping().await.unwrap();
    if on == Database::Postgresql {
        assert_eq!(working(&fresh), "0");
    }
}

async fn readers_of_callers_hold_up_no_loop(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await.with_callers_read_max(limit_on(on));
    let taken = take_all_readers(&db, on).await;
    let begun = Instant::now();
    for _ in 0..20 {
        db.for_sync().ping().await.unwrap();
        // A ping is content with a database whose readers are all taken.
        drop(db.for_sync().read().await.unwrap());
        db.for_sync().write().await.unwrap().commit().await.unwrap();
    }
    assert!(taken.iter().all(|reader| !reader.is_finished()), "{:?}", begun.elapsed());
    if on == Database::Sqlite {
        let refused = db.read().await;
        assert!(matches!(refused, Err(StoreError::PoolExhausted)), "{refused:?}");
    }
    for reader in taken {
        reader.abort();
    }
}

async fn closing_waits_for_no_statement(on: Database) {
    let fresh = on.fresh();
    let options = PostgresOptions { statement_timeout: limit_on(on), ..testing::options() };
    let db = fresh.open_with(&options).await.with_callers_read_max(limit_on(on));
    let taken = take_all_readers(&db, on).await;
    let loops = db.for_sync();
    let mut of_loop = loops.read().await.unwrap();
    let looping = tokio::spawn(async move { count_for_ever(&mut of_loop).await });
    let begun = Instant::now();
    db.close().await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    if on == Database::Sqlite {
        for ended in taken.into_iter().chain([looping]) {
            assert!(matches!(ended.await.unwrap(), Err(StoreError::TooExpensive(_))));
        }
    } else {
        for unended in taken.into_iter().chain([looping]) {
            unended.abort();
        }
    }
    assert!(matches!(db.read().await, Err(StoreError::Unavailable(_))));
}

async fn a_few_searches_at_the_same_time_leave_connections_to_other_reads(on: Database) {
    let fresh = on.fresh();
    let limit = if on == Database::Sqlite { FOREVER } else { Duration::from_secs(4) };
    let db = fresh.open().await.with_callers_read_max(limit);
    let mut searches = Vec::new();
    // A quarter of the eight connections, on PostgreSQL.
    for _ in 0..2 {
        let mut tx = db.read_search().await.unwrap();
        searches.push(tokio::spawn(async move { count_for_ever(&mut tx).await }));
    }
    let refused = db.read_search().await;
    assert!(matches!(refused, Err(StoreError::PoolExhausted)), "{refused:?}");
    assert!(searches.iter().all(|search| !search.is_finished()));
    db.ping().await.unwrap();
    for search in searches {
        search.abort();
        assert!(search.await.unwrap_err().is_cancelled());
    }
    let next = loop {
        match db.read_search().await {
            Ok(tx) => break tx,
            Err(StoreError::PoolExhausted) => {}
            Err(error) => panic!("{error}"),
        }
    };
    if on == Database::Postgresql {
        // An abandoned search counts until the server has ended it.
        assert!(working(&fresh).parse::<u32>().unwrap() < 2);
    }
    drop(next);
}

/// Jobs whose descriptions hold a pattern at their end alone, and almost hold it everywhere else.
async fn fill(db: &Db, count: u128) {
    let mut tx = db.write().await.unwrap();
    for number in 0..count {
        let description = format!("{}c", "ab".repeat(4_999));
        let job = DataJob { description, ..support::job(number, &format!("daily-sales-{number}")) };
        assert!(jobs::insert(&mut tx, &job, None, "test", Timestamp::UNIX_EPOCH).await.unwrap());
    }
    tx.commit().await.unwrap();
}

async fn the_hardest_search_that_is_allowed_ends_at_its_limit_and_delays_no_other(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    fill(&db, 300).await;
    let limited = db.with_callers_read_max(Duration::from_millis(300));
    let descriptions = (84..100).map(|times| format!("{}c", "ab".repeat(times))).collect();
    let query = JobQuery { descriptions, limit: 1000, ..JobQuery::default() };
    let mut tx = limited.read().await.unwrap();
    let begun = Instant::now();
    let searching = tokio::spawn(async move {
        let counted = jobs::count(&mut tx, &query).await;
        (counted, begun.elapsed())
    });
    let mut served = 0;
    while !searching.is_finished() {
        db.ping().await.unwrap();
        db.for_sync().ping().await.unwrap();
        served += 1;
    }
    let (counted, took) = searching.await.unwrap();
    assert!(matches!(counted, Err(StoreError::TooExpensive(_))), "{counted:?} after {took:?}");
    assert!((250..3000).contains(&took.as_millis()), "{took:?}");
    assert!(served > 5, "{served}");
}

#[test]
#[ignore = "takes a minute: three thousand jobs with the longest descriptions"]
fn a_search_of_a_fleet_of_long_descriptions_ends_within_a_second_of_the_limit() {
    testing::run(async {
        let fresh = Database::Sqlite.fresh();
        let db = fresh.open().await;
        fill(&db, 3000).await;
        for pattern in
            [format!("{}c", "ab".repeat(99)), "ab".repeat(100), "ab".repeat(12), format!("{}d", "ab".repeat(99))]
        {
            let query = JobQuery { descriptions: vec![pattern; 16], limit: 1000, ..JobQuery::default() };
            let mut tx = db.read_search().await.unwrap();
            let begun = Instant::now();
            let page = jobs::page(&mut tx, &query).await;
            let took = begun.elapsed();
            assert!(page.is_ok() || matches!(page, Err(StoreError::TooExpensive(_))), "{page:?}");
            assert!(took < Duration::from_secs(store::CALLERS_READ_SECONDS_MAX + 1), "{took:?}");
        }
    });
}
