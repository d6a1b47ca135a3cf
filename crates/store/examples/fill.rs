//! Fills an empty database with a fleet for benchmarks: `cargo run -p store --example fill -- <URL> <jobs> <runs>`.
//! With `due` at the end nothing of it was rolled out yet, and a service on that database does so.

use std::process::ExitCode;

use store::{Db, PostgresOptions, Tx};

/// Keeps a service on this database from leading: nothing of the fleet could be run, and tries to would be measured.
const NO_LEADER_SQLITE: &str = "
    insert into lease (name, holder, epoch, renewals) values ('synchronizer', 'nobody', 1, 1);
    create trigger nobody_leads before update on lease begin select raise(abort, 'nobody leads here'); end";
const NO_LEADER_POSTGRESQL: &str = "
    insert into lease (name, holder, epoch, renewals) values ('synchronizer', 'nobody', 1, 1);
    create function nobody_leads() returns trigger language plpgsql as
        $$ begin raise exception 'nobody leads here'; end $$;
    create trigger nobody_leads before update on lease for each row execute function nobody_leads()";

/// Leaves what accepted requests leave before the synchronizer checks them. No tick comes while it is measured: all
/// schedules are of one month that is far.
const DUE: &str = "
    delete from rollout;
    insert into rollout (job_id, status, attempts, due_at, leader_epoch, row_version)
        select job_id, 'NONE', 0, cast({now} as bigint) * 1000000, 0, 1 from deployment;
    update data_job set deployment_status = 'NONE', deployment_enabled = null, deployment_python = null,
        schedule_cron = replace(schedule_cron, ' * *', ' {month} *');
    update data_job_text set python = '', cron = replace(cron, ' * *', ' {month} *');
    update schedule set cron = replace(cron, ' * *', ' {month} *');
    update deployment set schedule_cron = replace(schedule_cron, ' * *', ' {month} *');
    update deployment_revision set content = replace(content, ' * *\"', ' {month} *\"')";

/// Distinct schedules of the fleet.
const SCHEDULES_MAX: i64 = 2000;

#[tokio::main]
#[expect(clippy::print_stderr, reason = "it is a program of its own")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (url, jobs, runs, is_due) = match arguments.as_slice() {
        [url, jobs, runs] => (url, jobs, runs, false),
        [url, jobs, runs, due] if due == "due" => (url, jobs, runs, true),
        _ => {
            eprintln!("usage: fill <URL of an empty database> <jobs> <runs of each> [due]");
            return ExitCode::FAILURE;
        }
    };
    match fill(url, jobs, runs, is_due).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the fleet is as of now")]
async fn fill(url: &str, jobs: &str, runs: &str, is_due: bool) -> Result<(), Box<dyn std::error::Error>> {
    let schedules = jobs.parse::<i64>()?.clamp(1, SCHEDULES_MAX);
    let now = jiff::Timestamp::now();
    let far_month = (now.to_zoned(jiff::tz::TimeZone::UTC).month() + 5) % 12 + 1;
    let options = PostgresOptions { statement_timeout: std::time::Duration::ZERO, ..PostgresOptions::default() };
    let db = Db::open(url, &options, std::sync::Arc::new(clock::SystemClock)).await?;
    let mut tx = db.write().await?;
    if let Tx::Sqlite(tx) = &mut tx {
        // Rows come in the order of time, and most indexes are in another one.
        sqlx::raw_sql("pragma cache_size = -2000000").execute(&mut **tx).await?;
    }
    let last = match (is_due, &tx) {
        (true, _) => DUE,
        (false, Tx::Sqlite(_)) => NO_LEADER_SQLITE,
        (false, Tx::Postgres(_)) => NO_LEADER_POSTGRESQL,
    };
    for statement in include_str!("fill.sql").split(";\n").chain([last]) {
        let sql = statement
            .replace("{jobs}", jobs)
            .replace("{runs}", runs)
            .replace("{schedules}", &schedules.to_string())
            .replace("{month}", &far_month.to_string())
            .replace("{now}", &now.as_second().to_string());
        let sql = sqlx::AssertSqlSafe(sql);
        match &mut tx {
            Tx::Sqlite(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await?.rows_affected(),
            Tx::Postgres(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await?.rows_affected(),
        };
        tx.commit().await?;
        tx = db.write().await?;
    }
    drop(tx);
    db.close().await;
    Ok(())
}
