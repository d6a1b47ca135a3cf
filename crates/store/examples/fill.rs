//! Fills an empty database with a fleet for benchmarks: `cargo run -p store --example fill -- <URL> <jobs> <runs>`.

use std::process::ExitCode;

use store::{Db, PostgresOptions, Tx};

/// Keeps a service on this database from leading: nothing of the fleet could be run, and tries to would be measured.
const NO_LEADER: &str = "insert into lease (name, holder, epoch, renewals) values ('synchronizer', 'nobody', 1, 1)";
const NO_LEADER_SQLITE: &str =
    "create trigger nobody_leads before update on lease begin select raise(abort, 'nobody leads here'); end";
const NO_LEADER_POSTGRESQL: &str = "
    create function nobody_leads() returns trigger language plpgsql as
        $$ begin raise exception 'nobody leads here'; end $$;
    create trigger nobody_leads before update on lease for each row execute function nobody_leads()";

/// Distinct schedules of the fleet.
const SCHEDULES_MAX: i64 = 2000;

#[tokio::main]
#[expect(clippy::print_stderr, reason = "it is a program of its own")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, jobs, runs] = arguments.as_slice() else {
        eprintln!("usage: fill <URL of an empty database> <jobs> <runs of each>");
        return ExitCode::FAILURE;
    };
    match fill(url, jobs, runs).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the fleet is as of now")]
async fn fill(url: &str, jobs: &str, runs: &str) -> Result<(), Box<dyn std::error::Error>> {
    let schedules = jobs.parse::<i64>()?.clamp(1, SCHEDULES_MAX);
    let now = jiff::Timestamp::now().as_second();
    let options = PostgresOptions { statement_timeout: std::time::Duration::ZERO, ..PostgresOptions::default() };
    let db = Db::open(url, &options).await?;
    for statement in include_str!("fill.sql").split(";\n") {
        let sql = statement
            .replace("{jobs}", jobs)
            .replace("{runs}", runs)
            .replace("{schedules}", &schedules.to_string())
            .replace("{now}", &now.to_string());
        let mut tx = db.write().await?;
        let sql = sqlx::AssertSqlSafe(sql);
        match &mut tx {
            Tx::Sqlite(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await?.rows_affected(),
            Tx::Postgres(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await?.rows_affected(),
        };
        tx.commit().await?;
    }
    let mut tx = db.write().await?;
    match &mut tx {
        Tx::Sqlite(tx) => {
            sqlx::raw_sql(NO_LEADER).execute(&mut **tx).await?;
            sqlx::raw_sql(NO_LEADER_SQLITE).execute(&mut **tx).await?;
        }
        Tx::Postgres(tx) => {
            sqlx::raw_sql(NO_LEADER).execute(&mut **tx).await?;
            sqlx::raw_sql(NO_LEADER_POSTGRESQL).execute(&mut **tx).await?;
        }
    }
    tx.commit().await?;
    db.close().await;
    Ok(())
}
