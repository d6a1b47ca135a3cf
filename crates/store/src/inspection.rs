//! Facts about a database that help to find out why it can't be used. Nothing is changed.

use std::path::Path;

use jiff::Timestamp;
use model::clock::Clock;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    PostgresOptions,
    error::{Result, StoreError},
    open,
    postgres::Server,
};

/// The oldest version of PostgreSQL that is supported.
pub const OLDEST_POSTGRES: i32 = open::OLDEST_VERSION;

/// The facts about a PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresFacts {
    /// The major version.
    pub version: i32,
    /// The encoding of the database.
    pub encoding: String,
    /// The server's time.
    pub now: Timestamp,
    /// The user of the connection.
    pub user: String,
    /// The schema in which tables are created; absent if the search path has none.
    pub schema: Option<String>,
    /// Whether the user may create tables there.
    pub may_create: bool,
    /// Whether the server is a replica, which can't be written to.
    pub is_replica: bool,
}

/// Asks a PostgreSQL server.
///
/// # Errors
/// As [`crate::Db::open_postgres`], but nothing is migrated.
pub async fn postgres(url: &str, options: &PostgresOptions, clock: &dyn Clock) -> Result<PostgresFacts> {
    let server = Server::parse(url, options)?;
    let mut connection = open::connect(clock, &server.direct, options, "doctor").await?;
    let row: (i32, String, i64, String, Option<String>, bool, bool) = sqlx::query_as(
        "select current_setting('server_version_num')::int / 10000, current_setting('server_encoding'),
            (extract(epoch from clock_timestamp()) * 1000)::bigint, current_user::text, current_schema()::text,
            coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), pg_is_in_recovery()",
    )
    .fetch_one(&mut connection)
    .await?;
    let _ = connection.close().await;
    let (version, encoding, millis, user, schema, may_create, is_replica) = row;
    let now = Timestamp::from_millisecond(millis).unwrap_or_default();
    Ok(PostgresFacts { version, encoding, now, user, schema, may_create, is_replica })
}

/// Checks the pages of a SQLite file. `None` means that they are intact, a text names the first fault.
///
/// # Errors
/// [`StoreError::Unavailable`] if the file can't be opened as a database.
pub async fn sqlite_fault(path: &Path) -> Result<Option<String>> {
    let mut connection = open_file(path).await?;
    let checked = sqlx::query_as("pragma quick_check(1)").fetch_one(&mut connection).await;
    let (found,): (String,) = checked.map_err(StoreError::Unavailable)?;
    let _ = connection.close().await;
    Ok((found != "ok").then_some(found))
}

async fn open_file(path: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    options.connect().await.map_err(StoreError::Unavailable)
}

/// Rollouts with a problem, then executions that ended as platform errors, newest first.
const PROBLEMS: [&str; 2] = [
    "select j.name, r.problem from rollout r join data_job j on j.job_id = r.job_id where r.problem is not null
     order by r.attempts desc, j.name limit $1",
    "select execution_id, coalesce(message, '') from data_job_execution where status = 'platform_error'
     order by submitted_at desc limit $1",
];

/// The problems in a SQLite file: a name and its problem per line, at most `limit` of each kind.
///
/// # Errors
/// If the file can't be read.
pub async fn sqlite_problems(path: &Path, limit: i64) -> Result<Vec<String>> {
    let mut connection = open_file(path).await?;
    let mut lines = Vec::new();
    for sql in PROBLEMS {
        let rows: Vec<(String, String)> = sqlx::query_as(sql).bind(limit).fetch_all(&mut connection).await?;
        lines.extend(rows.into_iter().map(line));
    }
    let _ = connection.close().await;
    Ok(lines)
}

/// The problems on a PostgreSQL server, as [`sqlite_problems`].
///
/// # Errors
/// If the server can't be read.
pub async fn postgres_problems(
    url: &str,
    options: &PostgresOptions,
    limit: i64,
    clock: &dyn Clock,
) -> Result<Vec<String>> {
    let server = Server::parse(url, options)?;
    let mut connection = open::connect(clock, &server.direct, options, "support").await?;
    let mut lines = Vec::new();
    for sql in PROBLEMS {
        let rows: Vec<(String, String)> = sqlx::query_as(sql).bind(limit).fetch_all(&mut connection).await?;
        lines.extend(rows.into_iter().map(line));
    }
    let _ = connection.close().await;
    Ok(lines)
}

fn line((name, problem): (String, String)) -> String {
    format!("{name}: {problem}")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Seek as _, SeekFrom, Write as _},
        sync::Arc,
    };

    use clock::SystemClock;
    use testing::Database;

    use super::*;
    use crate::Db;

    #[tokio::test]
    async fn an_intact_file_has_no_fault_and_a_damaged_one_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("holdfast.db");
        Db::open_sqlite(&path, Arc::new(SystemClock)).await.unwrap().close().await;
        assert_eq!(sqlite_fault(&path).await.unwrap(), None);
        assert_eq!(sqlite_problems(&path, 10).await.unwrap(), [""; 0]);
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(8192)).unwrap();
        file.write_all(&vec![0xff; 65_536]).unwrap();
        let fault = sqlite_fault(&path).await;
        assert!(matches!(&fault, Ok(Some(_)) | Err(StoreError::Unavailable(_))), "{fault:?}");
        std::fs::write(&path, "no database at all, but a text that is long enough for a header").unwrap();
        assert!(matches!(sqlite_fault(&path).await, Err(StoreError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_server_reports_its_version_and_rights_and_gets_no_table() {
        let database = Database::Postgresql.fresh();
        let facts = postgres(database.url(), &PostgresOptions::default(), &SystemClock).await.unwrap();
        assert!(facts.version >= OLDEST_POSTGRES && facts.may_create && !facts.is_replica, "{facts:?}");
        assert_eq!((facts.encoding.as_str(), facts.schema.as_deref()), ("UTF8", Some("public")));
        assert!(SystemClock.now().duration_since(facts.now).as_secs().abs() < 60, "{facts:?}");
        let problems = postgres_problems(database.url(), &PostgresOptions::default(), 10, &SystemClock).await;
        assert_eq!(problems.unwrap(), [""; 0]);
        let gone = postgres("postgres://me@127.0.0.1:9/x", &PostgresOptions::default(), &SystemClock).await;
        assert!(matches!(gone, Err(StoreError::Unavailable(_))), "{gone:?}");
    }
}
