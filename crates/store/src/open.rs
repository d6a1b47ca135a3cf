//! Opening a database: its schema is brought up to date, and rows that an older program wrote are completed.

use std::{path::Path, time::Duration};

use model::clock::{Clock, SharedClock};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use crate::{
    db::{Db, Pools},
    error::{Result, StoreError},
    jobs, migrate,
    notifications::Notifications,
    postgres::{Pools as PostgresPools, PostgresOptions, Server},
    sqlite::Pools as SqlitePools,
    team_secrets,
};

/// The oldest PostgreSQL that is supported.
pub(crate) const OLDEST_VERSION: i32 = 14;

/// How many searches ([`Db::read_search`]) read SQLite at the same time. They may use a processor each.
const SEARCHES_SQLITE_MAX: usize = 2;

/// The share of callers' connections to PostgreSQL that searches may use: one of this number.
const SEARCHES_POSTGRES_SHARE: u32 = 4;

impl Db {
    /// Opens the database that a URL names: `postgres://…` (or `postgresql://…`), or `sqlite:<path>`.
    ///
    /// # Errors
    /// As [`Db::open_sqlite`] and [`Db::open_postgres`]; [`StoreError::Unfit`] for any other URL.
    pub async fn open(url: &str, options: &PostgresOptions, clock: SharedClock) -> Result<Self> {
        match url.split_once(':') {
            Some(("postgres" | "postgresql", _)) => Self::open_postgres(url, options, clock).await,
            Some(("sqlite", path)) => {
                Self::open_sqlite(Path::new(path.strip_prefix("//").unwrap_or(path)), clock).await
            }
            _ => Err(StoreError::Unfit { why: "its URL begins with neither postgres:// nor sqlite:".into() }),
        }
    }

    /// Opens the SQLite file at `path`, makes it where there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the file can't be opened, [`StoreError::SchemaTooNew`] when only a newer program
    /// can work with it, [`StoreError::Migration`] when its schema was changed by hand.
    pub async fn open_sqlite(path: &Path, clock: SharedClock) -> Result<Self> {
        let pools = SqlitePools::open(path, clock.clone()).await?;
        let db = Self::new(Pools::Sqlite(pools), SEARCHES_SQLITE_MAX, Notifications::default(), clock);
        db.ping().await?;
        complete(&db).await?;
        Ok(db)
    }

    /// Connects to PostgreSQL 14 or later and brings the schema up to date; instances that start together take turns.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server can't be reached, [`StoreError::Unfit`] when it is none that can be
    /// used, [`StoreError::SchemaTooNew`] when only a newer program can work with the schema, [`StoreError::Migration`]
    /// when the schema was changed by hand.
    pub async fn open_postgres(url: &str, options: &PostgresOptions, clock: SharedClock) -> Result<Self> {
        let server = Server::parse(url, options)?;
        prepare(&*clock, &server.direct, options).await?;
        let (pools, notifications) = PostgresPools::new(&server, options, &clock);
        let searches = usize::try_from((options.callers / SEARCHES_POSTGRES_SHARE).max(1)).unwrap_or(1);
        let db = Self::new(Pools::Postgres(pools), searches, notifications, clock);
        db.ping().await?;
        complete(&db).await?;
        Ok(db)
    }
}

/// Completes rows that an older program wrote: columns that lists need, a few hundred in a transaction, and the names of
/// teams' secrets.
async fn complete(db: &Db) -> Result<()> {
    loop {
        let mut tx = db.write().await?;
        let more = jobs::complete(&mut tx).await?;
        tx.commit().await?;
        if !more {
            break;
        }
    }
    let mut tx = db.write().await?;
    team_secrets::complete(&mut tx).await?;
    tx.commit().await
}

/// Connects once, outside of the pools. `part` is added to the name of the connection on the server.
pub(crate) async fn connect(
    clock: &dyn Clock,
    direct: &PgConnectOptions,
    options: &PostgresOptions,
    part: &str,
) -> Result<PgConnection> {
    let to = direct
        .clone()
        .application_name(&format!("{} {part}", options.application_name))
        // Existing objects are no news.
        .options([("client_min_messages", "warning")]);
    let connecting = clock.timeout(options.acquire_timeout.max(Duration::from_secs(5)), to.connect());
    match connecting.await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(sqlx::Error::Tls(cause))) => {
            Err(StoreError::Unfit { why: format!("the connection can't be encrypted: {cause}") })
        }
        // A certificate that is not trusted comes like this.
        Ok(Err(sqlx::Error::Io(cause))) if cause.kind() == std::io::ErrorKind::InvalidData => {
            Err(StoreError::Unfit { why: format!("the connection can't be encrypted: {cause}") })
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
    }
}

/// Checks the server and brings the schema up to date, on a connection of its own: a migration may take longer than any
/// statement afterwards.
async fn prepare(clock: &dyn Clock, direct: &PgConnectOptions, options: &PostgresOptions) -> Result<()> {
    let mut connection = connect(clock, direct, options, "migrate").await?;
    let (version, encoding): (i32, String) =
        sqlx::query_as("select current_setting('server_version_num')::int / 10000, current_setting('server_encoding')")
            .fetch_one(&mut connection)
            .await?;
    if version < OLDEST_VERSION {
        let why = format!("it is PostgreSQL {version}, and {OLDEST_VERSION} is the oldest that is supported");
        return Err(StoreError::Unfit { why });
    }
    if encoding != "UTF8" {
        return Err(StoreError::Unfit { why: format!("its encoding is {encoding}, and must be UTF8") });
    }
    migrate::postgres(clock, &mut connection).await?;
    let _ = connection.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clock::SystemClock;

    use super::*;

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unavailable() {
        let opened =
            Db::open_postgres("postgres://me@127.0.0.1:9/x", &PostgresOptions::default(), Arc::new(SystemClock)).await;
        assert!(matches!(opened, Err(StoreError::Unavailable(_))), "{opened:?}");
    }
}
