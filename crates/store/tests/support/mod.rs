//! Rows that the tests of the store begin with, and statements that no function of the store makes.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "test support")]

use jiff::Timestamp;
use model::{
    job::{DataJob, JobConfig},
    name::{JobId, JobName, TeamName},
};
use store::{Db, Tx, jobs};

/// Runs one or more statements.
pub async fn raw(tx: &mut Tx, sql: impl Into<String>) {
    let sql = sqlx::AssertSqlSafe(sql.into());
    match tx {
        Tx::Sqlite(tx) => drop(sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap()),
        Tx::Postgres(tx) => drop(sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap()),
    }
}

/// The number that a statement returns.
pub async fn number(tx: &mut Tx, sql: &'static str) -> i64 {
    match tx {
        Tx::Sqlite(tx) => sqlx::query_scalar(sql).fetch_one(&mut **tx).await.unwrap(),
        Tx::Postgres(tx) => sqlx::query_scalar(sql).fetch_one(&mut **tx).await.unwrap(),
    }
}

/// A job of the team "a team".
pub fn job(n: u128, name: &str) -> DataJob {
    DataJob {
        id: JobId(uuid::Uuid::from_u128(n)),
        name: JobName::parse(name).unwrap(),
        team: team("a team"),
        description: String::new(),
        config: JobConfig::default(),
    }
}

pub fn team(name: &str) -> TeamName {
    TeamName::parse(name).unwrap()
}

/// Inserts a job in a transaction of its own. `false` when its name is taken.
pub async fn insert(db: &Db, job: &DataJob) -> bool {
    let mut tx = db.write().await.unwrap();
    let inserted = jobs::insert(&mut tx, job, None, "someone", Timestamp::UNIX_EPOCH).await.unwrap();
    tx.commit().await.unwrap();
    inserted
}
