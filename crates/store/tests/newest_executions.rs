//! The newest executions of each job, which the database keeps packed, are those that are found among all executions.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]

mod support;

use std::time::Duration;

use jiff::Timestamp;
use model::{
    execution::{Execution, Status, Type},
    job::DataJob,
    name::ExecutionId,
};
use store::{
    Db, Tx,
    executions::{self, Detail, Ended, ExecutionQuery, NewExecution, Started, newest},
    leases::{self, Epoch, SYNCHRONIZER},
    retention::{self, executions::Position},
};
use support::{insert, job, number, raw};
use testing::{Database, for_each_database};

for_each_database!(
    the_newest_executions_follow_every_change_of_any_execution,
    missing_rows_are_looked_up_until_they_are_added,
);

/// Random numbers that are the same in each run.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// Names of which one is the beginning of another.
fn jobs() -> [DataJob; 3] {
    [job(1, "some-job"), job(2, "some-job-17"), job(3, "other-job")]
}

fn query(job: &DataJob, limit: i64) -> ExecutionQuery {
    ExecutionQuery { jobs: vec![job.id], descending: true, limit, detail: Detail::Status, ..ExecutionQuery::default() }
}

/// Compares what is kept of each job with what is found.
async fn check(tx: &mut Tx, step: &str) {
    let fields = |runs: &[Execution]| {
        runs.iter().map(|run| (run.id.clone(), run.status, run.message.clone())).collect::<Vec<_>>()
    };
    for job in &jobs() {
        for limit in [10, 3] {
            let kept = executions::page_by_job(tx, &query(job, limit)).await.unwrap();
            let found = executions::page(tx, &query(job, limit)).await.unwrap();
            assert_eq!(fields(&kept), fields(&found), "{step}: {limit} of {}", job.name);
        }
    }
}

/// How many jobs have executions and no text that is kept.
async fn looked_up(tx: &mut Tx) -> i64 {
    number(
        tx,
        "select count(*) from data_job j left join newest_executions n on n.job_number = j.number
         where n.packed is null and exists (select 1 from data_job_execution e where e.job_number = j.number)",
    )
    .await
}

fn message(random: &mut Random) -> String {
    match random.below(6) {
        0..=2 => "Success".into(),
        3 => "ü: ~ 5:a. /b".into(),
        4 => String::new(),
        // Three of them are too long to be kept.
        _ => "long ".repeat(400),
    }
}

async fn start(tx: &mut Tx, job: &DataJob, second: i64) -> Option<ExecutionId> {
    let new = NewExecution {
        job_id: job.id,
        job_name: &job.name,
        kind: Type::Manual,
        started_by: "someone",
        op_id: None,
        arguments: None,
        scheduled_tick: None,
    };
    match executions::insert(tx, &new, Timestamp::from_second(second).unwrap()).await.unwrap() {
        Started::Accepted(id) => Some(id),
        Started::SlotTaken => None,
    }
}

async fn finish(tx: &mut Tx, epoch: Epoch, id: &ExecutionId, random: &mut Random, at: Timestamp) {
    let status = random.of(&[Status::Succeeded, Status::Succeeded, Status::UserError, Status::Cancelled]);
    let ended = Ended { status, message: &message(random), started_at: Some(at), ended_at: at };
    // An execution that was changed meanwhile may have another status.
    executions::finish(tx, epoch, id, &ended).await.unwrap();
}

/// Removes what retention removes, all but `keep` of each job.
async fn retain(tx: &mut Tx, before: Timestamp, keep: i64) -> u64 {
    let found = retention::executions::find(tx, before, keep, &Position::default(), 500).await.unwrap();
    retention::executions::remove(tx, before, &found.old).await.unwrap()
}

/// Stores an execution that is over, of some time and under some name, as an import does.
fn import(random: &mut Random, job: &DataJob) -> String {
    let (id, second) = (random.below(1_000_000), random.below(60));
    let name = if id % 3 == 0 { "imported" } else { job.name.as_str() };
    let status = random.of(&["SUCCEEDED", "USER_ERROR", "CANCELLED"]);
    format!(
        "insert into data_job_execution (execution_id, job_number, type, status, submitted_at, started_at, ended_at,
            started_by, op_id, message, holds_slot)
         select '{name}-{id}', number, 'MANUAL', '{status}', {second}000000, {second}000000, {second}500000, 'someone', 'op',
            '{}', false from data_job where job_id = '{}'
         on conflict (execution_id) do nothing",
        message(random),
        job.id
    )
}

/// Changes one execution of a job, one of its newest or any.
fn change(random: &mut Random, job: &DataJob) -> String {
    let one = format!(
        "(select e.execution_id from data_job_execution e join data_job j on j.number = e.job_number
          where j.job_id = '{}' and e.ended_at is not null order by e.start_at desc, e.execution_id limit 1 offset {})",
        job.id,
        random.below(12)
    );
    match random.below(4) {
        0 => format!("delete from data_job_execution where execution_id = {one}"),
        1 => format!("update data_job_execution set message = null where execution_id = {one}"),
        2 => format!("update data_job_execution set status = 'PLATFORM_ERROR' where execution_id = {one}"),
        _ => {
            format!("update data_job_execution set started_at = {}000000 where execution_id = {one}", random.below(60))
        }
    }
}

async fn the_newest_executions_follow_every_change_of_any_execution(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    for job in &jobs() {
        assert!(insert(&db, job).await);
    }
    let epoch = leases::take(&db, SYNCHRONIZER, "one", None).await.unwrap().unwrap();
    let (all, random) = (jobs(), &mut Random(0x9e37_79b9_7f4a_7c15));
    let mut active: Vec<ExecutionId> = Vec::new();
    let (mut too_long, mut removed) = (0, 0);
    for step in 0..testing::count(400, 5000) {
        let mut tx = db.write().await.unwrap();
        let job = &all[usize::try_from(random.below(3)).unwrap()];
        let second = i64::try_from(step / 8).unwrap();
        let at = Timestamp::from_second(second).unwrap();
        let chosen = (!active.is_empty()).then(|| random.below(active.len() as u64));
        let kind = random.below(12);
        match (kind, chosen.map(|place| usize::try_from(place).unwrap())) {
            (0..=2, _) => match start(&mut tx, job, second).await {
                Some(id) => active.push(id),
                // The transaction is of no more use.
                None => continue,
            },
            (3, Some(place)) => {
                executions::running(&mut tx, epoch, &active[place], at).await.unwrap();
            }
            (4, Some(place)) => {
                executions::record_waiting(&mut tx, epoch, &active[place], &message(random)).await.unwrap();
            }
            (5 | 6, Some(place)) => finish(&mut tx, epoch, &active.swap_remove(place), random, at).await,
            (7, _) => removed += retain(&mut tx, at, i64::try_from(random.below(12)).unwrap()).await,
            (8 | 9, _) => raw(&mut tx, import(random, job)).await,
            _ => raw(&mut tx, change(random, job)).await,
        }
        check(&mut tx, &format!("step {step}, {kind}")).await;
        too_long += looked_up(&mut tx).await;
        tx.commit().await.unwrap();
    }
    assert!(too_long > 0 && removed > 20, "{too_long} {removed}");
    let mut tx = db.write().await.unwrap();
    raw(&mut tx, "update data_job_execution set message = 'short'").await;
    assert_eq!(looked_up(&mut tx).await, 0);
    // Nothing else would show that the kept text is what is read.
    raw(&mut tx, "update newest_executions set packed = '7 RUNNING ~'").await;
    let read = executions::page_by_job(&mut tx, &query(&jobs()[2], 10)).await.unwrap();
    assert_eq!(
        read.iter().map(|run| (run.id.as_str(), run.status)).collect::<Vec<_>>(),
        [("other-job-7", Status::Running)]
    );
}

async fn missing_rows_are_looked_up_until_they_are_added(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let random = &mut Random(7);
    let mut tx = db.write().await.unwrap();
    for job in &jobs() {
        store::jobs::insert(&mut tx, job, None, "someone", Timestamp::UNIX_EPOCH).await.unwrap();
    }
    for _ in 0..30 {
        raw(&mut tx, import(random, &jobs()[0])).await;
        raw(&mut tx, import(random, &jobs()[1])).await;
    }
    raw(&mut tx, "update data_job_execution set message = 'short' where message like 'long%'").await;
    raw(&mut tx, "delete from newest_executions").await;
    check(&mut tx, "without rows").await;
    assert_eq!(looked_up(&mut tx).await, 2);
    let found = newest::find_missing(&mut tx, "").await.unwrap();
    assert_eq!((found.jobs.len(), &found.next), (2, &None));
    // A change in between packs one of them.
    raw(&mut tx, change(&mut Random(1), &jobs()[1])).await;
    newest::pack(&mut tx, &found.jobs).await.unwrap();
    assert_eq!(looked_up(&mut tx).await, 0);
    check(&mut tx, "with rows").await;
    assert_eq!(newest::find_missing(&mut tx, "").await.unwrap().jobs, Vec::<i64>::new());
    // A job that is purged takes its row along.
    for sql in ["delete from data_job_execution", "delete from data_job_text", "delete from data_job"] {
        raw(&mut tx, sql).await;
    }
    assert_eq!(number(&mut tx, "select count(*) from newest_executions").await, 0);
    tx.commit().await.unwrap();
}

/// Transactions that overlap on one job, each with one change, as those of an instance are.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_that_overlap_leave_the_newest_executions_right() {
    let fresh = Database::Postgresql.empty();
    let dbs: [Db; 2] = [fresh.open().await, fresh.open().await];
    for job in &jobs() {
        assert!(insert(&dbs[0], job).await);
    }
    for round in 0..testing::count(10, 100) {
        let mut changing = tokio::task::JoinSet::new();
        for task in 0..8_u64 {
            let (db, mut random) =
                (dbs[usize::try_from(task % 2).unwrap()].clone(), Random(1 + task + round as u64 * 8));
            changing.spawn(async move {
                let all = jobs();
                for _ in 0..10 {
                    let job = &all[usize::try_from(random.below(2)).unwrap()];
                    let sql = if random.below(2) == 0 { import(&mut random, job) } else { change(&mut random, job) };
                    let mut tx = db.write().await.unwrap();
                    raw(&mut tx, sql).await;
                    tokio::time::sleep(Duration::from_millis(random.below(4))).await;
                    tx.commit().await.unwrap();
                }
            });
        }
        changing.join_all().await;
        check(&mut dbs[0].read().await.unwrap(), &format!("round {round}")).await;
    }
}
