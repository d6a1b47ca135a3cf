//! What a request costs in statements, counted where they are sent.

#![allow(clippy::print_stdout, reason = "the figures of a test")]

mod support;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use app::queries::{ExecutionQuery, JobPageRequest, JobQuery};
use jiff::SignedDuration;
use model::{
    clock::Clock,
    execution::{Status, Type},
    name::JobName,
};
use store::{
    executions::{Ended, NewExecution, Started},
    leases::{self, SYNCHRONIZER},
};
use support::{House, TEAM};
use testing::{Database, run};
use tracing::{Event, Metadata, Subscriber, span};

static STATEMENTS: AtomicUsize = AtomicUsize::new(0);

/// Counts the events that the library makes of each statement, whatever thread it runs on.
struct Counter;

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        STATEMENTS.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

async fn statements_of<T>(request: impl Future<Output = T>) -> (T, usize) {
    STATEMENTS.store(0, Ordering::SeqCst);
    let answer = request.await;
    // SQLite's own threads tell a moment later.
    tokio::time::sleep(Duration::from_millis(50)).await;
    (answer, STATEMENTS.load(Ordering::SeqCst))
}

const JOBS: usize = 50;
const EXECUTIONS: i64 = 12;

/// Alone in its file, for the count is of the whole process.
#[test]
fn a_page_of_a_list_takes_five_statements_at_most_whatever_it_holds() {
    tracing::subscriber::set_global_default(Counter).unwrap();
    for on in [Database::Sqlite, Database::Postgresql] {
        run(a_page(on));
    }
}

async fn a_page(on: Database) {
    let mut house = House::running(on).await;
    for n in 0..JOBS {
        house.create(&format!("example-job-{n:02}"), Some("0 0 1 1 *")).await;
        house.deploy(&format!("example-job-{n:02}")).await;
    }
    for n in 0..JOBS {
        let name = format!("example-job-{n:02}");
        house.until("it is reached", async || house.reached(&name).await.is_some()).await;
    }
    house.stop_instance().await;
    let seen = leases::find(&house.db, SYNCHRONIZER).await.unwrap();
    let epoch = leases::take(&house.db, SYNCHRONIZER, "test", seen.as_ref()).await.unwrap().unwrap();
    for n in 0..JOBS {
        let name = JobName::parse(&format!("example-job-{n:02}")).unwrap();
        let mut tx = house.db.write().await.unwrap();
        let job = store::jobs::find(&mut tx, &name).await.unwrap().unwrap();
        for second in 0..EXECUTIONS {
            let at = house.clock.now() + SignedDuration::from_secs(second);
            let new = NewExecution {
                job_id: job.id,
                job_name: &name,
                kind: Type::Manual,
                started_by: "someone",
                op_id: None,
                arguments: None,
                scheduled_tick: None,
            };
            let Started::Accepted(id) = store::executions::insert(&mut tx, &new, at).await.unwrap() else { panic!() };
            let ended = Ended { status: Status::Succeeded, message: "", started_at: Some(at), ended_at: at };
            assert!(store::executions::finish(&mut tx, epoch, &id, &ended).await.unwrap());
        }
        tx.commit().await.unwrap();
    }

    let caller = house.caller();
    let request = JobPageRequest {
        query: JobQuery { limit: 50, ..JobQuery::default() },
        with_total: true,
        with_deployments: true,
        executions: Some(ExecutionQuery { limit: 10, descending: true, ..ExecutionQuery::default() }),
    };
    let (page, count) = statements_of(app::queries::jobs(&house.db, &caller, &request)).await;
    let page = page.unwrap();
    assert_eq!((page.content.len(), page.total), (JOBS, Some(50)));
    assert!(page.content.iter().all(|job| job.deployment.is_some() && job.executions.len() == 10));
    println!("{on:?}: a page of {JOBS} jobs with total, deployments and 10 executions each: {count} statements");
    assert!((1..=5).contains(&count), "{count} statements");

    let name = "example-job-07";
    let (_, count) = statements_of(app::jobs::read(&house.db, &caller, TEAM, name)).await;
    println!("{on:?}: one job: {count}");
    assert!((1..=5).contains(&count), "{count} statements");
    let (_, count) = statements_of(house.executions(name)).await;
    println!("{on:?}: the executions of a job: {count}");
    assert!((1..=5).contains(&count), "{count} statements");
    house.advance(SignedDuration::from_mins(1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, count) = statements_of(house.start(name)).await;
    println!("{on:?}: a start: {count}");
    // The job, its deployment, the row, the event, the commit, and word to other instances.
    assert!((1..=6).contains(&count), "{count} statements");
}
