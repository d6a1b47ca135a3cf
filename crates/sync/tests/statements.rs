//! The number of statements of requests and rounds, counted where the driver sends them.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]
#![allow(clippy::print_stdout, reason = "the figures of a test")]

mod support;

use std::time::Duration;

use app::queries::{DeploymentDetail, ExecutionQuery, JobPageRequest, JobQuery};
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
use support::{Harness, TEAM};
use testing::{Database, Statements, for_each_database};

const JOBS: usize = 50;
const EXECUTIONS: i64 = 12;

for_each_database!(
    a_page_of_a_list_takes_five_statements_at_most_whatever_it_holds,
    rows_of_followed_executions_are_not_read_again_by_each_round,
);

async fn a_page_of_a_list_takes_five_statements_at_most_whatever_it_holds(on: Database) {
    let statements = Statements::heard().await;
    let mut harness = Harness::running(on).await;
    for n in 0..JOBS {
        harness.create(&format!("example-job-{n:02}"), Some("0 0 1 1 *")).await;
        harness.deploy(&format!("example-job-{n:02}")).await;
    }
    for n in 0..JOBS {
        let name = format!("example-job-{n:02}");
        harness.until("it is reached", async || harness.reached(&name).await.is_some()).await;
    }
    harness.stop_instance().await;
    let seen = leases::find(&harness.db, SYNCHRONIZER).await.unwrap();
    let epoch = leases::take(&harness.db, SYNCHRONIZER, "test", seen.as_ref()).await.unwrap().unwrap();
    for n in 0..JOBS {
        let name = JobName::parse(&format!("example-job-{n:02}")).unwrap();
        let mut tx = harness.db.write().await.unwrap();
        let job = store::jobs::find(&mut tx, &name).await.unwrap().unwrap();
        for second in 0..EXECUTIONS {
            let at = harness.clock.now() + SignedDuration::from_secs(second);
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

    let caller = harness.caller();
    let request = JobPageRequest {
        query: JobQuery { limit: 50, ..JobQuery::default() },
        with_total: true,
        deployments: Some(DeploymentDetail::Whole),
        executions: Some(ExecutionQuery { limit: 10, descending: true, ..ExecutionQuery::default() }),
    };
    let (page, took) = statements.of(&harness.db, app::queries::jobs(&harness.db, &caller, &request)).await;
    let page = page.unwrap();
    assert_eq!((page.content.len(), page.total), (JOBS, Some(50)));
    assert!(page.content.iter().all(|job| job.deployed.is_some() && job.executions.len() == 10));
    println!("{on:?}: a page of {JOBS} jobs with total, deployments and 10 executions each: {took:?}");
    assert!((1..=5).contains(&took.len()), "{took:?}");

    let name = "example-job-07";
    let (_, took) = statements.of(&harness.db, app::jobs::read(&harness.db, &caller, TEAM, name)).await;
    println!("{on:?}: one job: {took:?}");
    assert!((1..=5).contains(&took.len()), "{took:?}");
    let (_, took) = statements.of(&harness.db, harness.executions(name)).await;
    println!("{on:?}: the executions of a job: {took:?}");
    assert!((1..=5).contains(&took.len()), "{took:?}");
    harness.advance(SignedDuration::from_mins(1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, took) = statements.of(&harness.db, harness.start(name)).await;
    println!("{on:?}: a start: {took:?}");
    // The job, its deployment, the row, the event, the commit, and word to other instances.
    assert!((1..=6).contains(&took.len()), "{took:?}");
}

async fn rows_of_followed_executions_are_not_read_again_by_each_round(on: Database) {
    const FOLLOWED: usize = 12;
    let statements = Statements::heard().await;
    let harness = Harness::running(on).await;
    harness.runtime.change(|s| {
        s.parallel_runs_max = 2 * FOLLOWED;
        // As in a cluster, each round compares the executions of the runtime with their rows.
        s.fires_ticks = true;
    });
    for n in 0..=FOLLOWED {
        harness.deployed(&format!("example-job-{n:02}"), None).await;
    }
    let are_running = async |count: usize| {
        harness.until("they run", async || harness.runtime.change(|s| s.started.len() == count)).await;
        // A start is a round, the end of its gathering another one.
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    for n in 0..FOLLOWED {
        harness.start(&format!("example-job-{n:02}")).await;
    }
    are_running(FOLLOWED).await;
    let one_more = async {
        harness.start(&format!("example-job-{FOLLOWED:02}")).await;
        are_running(FOLLOWED + 1).await;
    };
    let ((), took) = statements.of(&harness.db, one_more).await;
    let rows_of = |words: &str| {
        let chosen: Vec<_> = took.iter().filter(|statement| statement.words.starts_with(words)).collect();
        (chosen.len(), chosen.iter().map(|statement| statement.rows).sum::<u64>())
    };
    println!("{on:?}: {took:?}");
    let (rounds, ids) = rows_of("select execution_id, cancel_requested_at");
    assert!(rounds >= 1 && ids > FOLLOWED as u64, "{took:?}");
    assert_eq!(rows_of("select e.execution_id, e.status,").1, 0, "{took:?}");
    // The whole row of the new one, by one round.
    assert_eq!(rows_of("select e.execution_id, j.job_id").1, 1, "{took:?}");
}
