//! Measures one complete round of retention on a database that `store`'s example `fill` filled, with a writer beside it:
//! `retention <URL> <hours that are kept> <executions that each job keeps>`. It waits for a line before the round, so that
//! its CPU time can be read, and for the end of its input after it. `cargo xtask bench retention` drives it.

use std::{
    io::{BufRead, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clock::SystemClock;
use jiff::SignedDuration;
use model::clock::{Clock, SharedClock};
use serde_json::json;
use store::{Db, PostgresOptions, Tx, jobs, leases::Epoch, properties};
use sync::{
    cleanup::{Retention, Rules, Step},
    gauges::Gauges,
};
use tokio_util::sync::CancellationToken;

/// Writes of callers in a second.
const WRITES_PER_SECOND: u64 = 50;

/// How long the writer is measured alone.
const ALONE: Duration = Duration::from_secs(10);

/// One execution in ten has a log of 2 KiB, stored as by a program that noted no sizes.
const LOGS: &str = "insert into log_chunk (execution_id, chunk, content)
    select e.execution_id, 0, {log} from data_job_execution e
    where e.submitted_at % 36000000000 < 3600000000";

#[tokio::main]
#[expect(clippy::print_stderr, reason = "it is a program of its own")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, hours, keep] = arguments.as_slice() else {
        eprintln!("usage: retention <URL of a filled database> <hours that are kept> <executions that each job keeps>");
        return ExitCode::FAILURE;
    };
    match measure(url, hours, keep).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(url: &str, hours: &str, keep: &str) -> Result<(), Box<dyn std::error::Error>> {
    let clock: SharedClock = Arc::new(SystemClock);
    let rules = Rules {
        executions_keep: SignedDuration::from_hours(hours.parse()?),
        executions_keep_per_job: keep.parse()?,
        logs_keep: SignedDuration::from_hours(hours.parse()?),
        logs_max_bytes: i64::MAX,
        revisions_keep_per_job: 100,
        deleted_jobs_keep: SignedDuration::from_hours(24),
        audit_keep: SignedDuration::from_hours(24 * 400),
    };
    let db = Db::open(url, &PostgresOptions::default(), clock.clone()).await?;
    let mut tx = db.write().await?;
    let logs = LOGS.replace("{log}", &format!("'{}'", "x".repeat(2048)));
    let logs = sqlx::AssertSqlSafe(logs);
    match &mut tx {
        Tx::Sqlite(tx) => sqlx::raw_sql(logs).execute(&mut **tx).await?.rows_affected(),
        Tx::Postgres(tx) => sqlx::raw_sql(logs).execute(&mut **tx).await?.rows_affected(),
    };
    tx.commit().await?;
    let (alone, ()) = with_writer(&db, clock.sleep(ALONE)).await?;
    line()?;

    let gauges = Gauges::unseen(clock.clone());
    // The epoch of the leader that `fill` inserted.
    let (epoch, over) = (Epoch(1), CancellationToken::new());
    let loops = db.for_sync();
    let mut retention = Retention::new(&loops, &*clock, &rules, &gauges);
    let begun = clock.boot();
    let round = retention.round(epoch, &over);
    let (beside, steps) = with_writer(&db, round).await?;
    let took = clock.boot().saturating_sub(begun);
    let steps: Vec<_> = steps?.iter().filter(|step| !step.transactions.is_empty()).map(told).collect();
    let told = json!({ "seconds": took.as_secs_f64(), "alone_ms": alone, "beside_ms": beside, "steps": steps });
    writeln!(std::io::stdout(), "{told}")?;
    line()?;
    db.close().await;
    Ok(())
}

fn told(step: &Step) -> serde_json::Value {
    json!({
        "kind": step.kind.as_str(),
        "failed": step.failed,
        "removed": step.removed(),
        "transactions": step.transactions.len(),
        "most_removed": step.transactions.iter().map(|(_, removed)| removed).max(),
        "longest_ms": step.longest().as_secs_f64() * 1000.0,
    })
}

/// Says that it waits, and reads a line or the end.
fn line() -> std::io::Result<()> {
    writeln!(std::io::stdout(), "waits")?;
    std::io::stdin().lock().read_line(&mut String::new()).map(drop)
}

/// Writes as callers do as long as `work` takes. Returns how long each write took from when it was due, in milliseconds.
async fn with_writer<T>(db: &Db, work: impl Future<Output = T>) -> Result<(Vec<f64>, T), Box<dyn std::error::Error>> {
    let over = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write(db.clone(), Arc::clone(&over)));
    let done = work.await;
    over.store(true, Ordering::Relaxed);
    Ok((writing.await?, done))
}

async fn write(db: Db, over: Arc<AtomicBool>) -> Vec<f64> {
    let mut writes = tokio::task::JoinSet::new();
    let begun = SystemClock.boot();
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        let due = begun + Duration::from_millis(number * 1000 / WRITES_PER_SECOND);
        SystemClock.sleep_until_boot(due).await;
        let db = db.clone();
        writes.spawn(async move {
            // One that fails took for ever.
            let done = replace(&db, number).await.is_ok();
            if done { SystemClock.boot().saturating_sub(due).as_secs_f64() * 1000.0 } else { f64::MAX }
        });
        number += 1;
    }
    writes.join_all().await
}

/// Replaces the properties of a job of the fleet.
async fn replace(db: &Db, number: u64) -> store::Result<()> {
    let number = number * 7919 % 900;
    let word = ["daily", "weekly", "hourly", "ingest", "report"][usize::try_from(number % 5).unwrap_or(0)];
    let about = ["sales", "orders", "costs", "stock", "payments", "returns", "customers"]
        [usize::try_from(number / 5 % 7).unwrap_or(0)];
    let Ok(name) = model::name::JobName::parse(&format!("{word}-{about}-{number:06}")) else { return Ok(()) };
    let mut tx = db.write().await?;
    if let Some(job) = jobs::find_for_update(&mut tx, &name).await? {
        properties::replace(&mut tx, job.id, "{}", "someone", SystemClock.now()).await?;
    }
    tx.commit().await
}
