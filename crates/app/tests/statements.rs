//! A page costs the page: the same few statements whatever is on it.

use std::sync::atomic::{AtomicUsize, Ordering};

use app::queries::{self, ExecutionQuery, JobPageRequest, JobQuery, JobSort, Search, SearchField};
use model::{access::Caller, deployment::Status as DeploymentStatus};
use store::{Db, Tx};
use testing::{Database, for_each_database};
use tracing::{
    Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

for_each_database!(a_request_for_a_page_takes_at_most_five_statements);

/// The most statements that a request may take.
const STATEMENTS_MAX: usize = 5;

static STATEMENTS: AtomicUsize = AtomicUsize::new(0);
/// One test counts at a time.
static COUNTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Counts what the database driver logs.
struct Counter;

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        if event.metadata().target() == "sqlx::query" {
            STATEMENTS.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

async fn fill(db: &Db) {
    let mut tx = db.write().await.unwrap();
    for statement in include_str!("../../store/examples/fill.sql").split(";\n") {
        let values = [("{jobs}", "60"), ("{runs}", "4"), ("{schedules}", "20"), ("{now}", "1732300000")];
        let sql = values.iter().fold(statement.to_owned(), |sql, (name, value)| sql.replace(name, value));
        let sql = sqlx::AssertSqlSafe(sql);
        match &mut tx {
            Tx::Sqlite(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap().rows_affected(),
            Tx::Postgres(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap().rows_affected(),
        };
    }
    tx.commit().await.unwrap();
}

async fn a_request_for_a_page_takes_at_most_five_statements(on: Database) {
    let _alone = COUNTING.lock().await;
    let _ = tracing::subscriber::set_global_default(Counter);
    let fresh = on.fresh();
    let db = fresh.open().await;
    fill(&db).await;
    let caller = Caller::anonymous("op");
    let runs = ExecutionQuery { descending: true, limit: 10, ..ExecutionQuery::default() };
    let search = Search { text: "sales".into(), fields: vec![SearchField::Name, SearchField::Description] };
    for query in [
        JobQuery::default(),
        JobQuery { names: vec!["daily%".into()], sort: JobSort::LastExecutionTime, ..JobQuery::default() },
        JobQuery { search: Some(search), sort: JobSort::NextRun, descending: true, ..JobQuery::default() },
        JobQuery { deployment_status: Some(DeploymentStatus::Success), sort: JobSort::Team, ..JobQuery::default() },
    ] {
        for (limit, with_total) in [(1, false), (50, false), (50, true), (1000, true)] {
            let query = JobQuery { limit, ..query.clone() };
            let request = JobPageRequest { query, with_total, with_deployments: true, executions: Some(runs.clone()) };
            let before = STATEMENTS.load(Ordering::SeqCst);
            let page = queries::jobs(&db, &caller, &request).await.unwrap();
            let statements = STATEMENTS.load(Ordering::SeqCst) - before;
            assert!(!page.content.is_empty() && page.total.is_some() == with_total);
            assert!((1..=STATEMENTS_MAX).contains(&statements), "{statements} statements for {request:?}");
        }
    }
    let before = STATEMENTS.load(Ordering::SeqCst);
    let page = queries::executions(&db, &caller, &ExecutionQuery { limit: 100, ..runs }, true).await.unwrap();
    assert_eq!(page.content.len(), 100);
    assert_eq!(STATEMENTS.load(Ordering::SeqCst) - before, 2);
}
