//! Connections and transactions on either database.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    time::Duration,
};

use sqlx::{
    Connection, PgConnection, Postgres, Sqlite, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    Result, StoreError, Wake, migrate,
    postgres::{Pools as PostgresPools, PostgresOptions},
};

/// How long a verb waits for the one connection that writes SQLite before it answers that the database is busy.
const ACQUIRE_TIMEOUT_SECONDS: u64 = 5;

/// Connections that read at the same time on SQLite.
const SQLITE_READERS: u32 = 4;

/// Prepared statements that a connection to a file keeps. Those of lists take tens of kilobytes each.
const STATEMENTS_KEPT_MAX: usize = 40;

/// Rows that SQLite's threads read ahead of their takers.
const ROWS_WAITING_MAX: usize = 1000;

/// How long PostgreSQL may take for one statement before its connection is given up. Its own time-outs are shorter: this
/// one is for a server that vanished without a word.
const ANSWER_MAX: Duration = Duration::from_secs(45);

/// The database, and the bells of those who follow it.
#[derive(Debug, Clone)]
pub struct Db {
    pools: Pools,
    wake: Wake,
}

/// SQLite has one connection that writes and several that only read: a second writer would fail at once where it read
/// first, whatever the busy time-out. On PostgreSQL callers, loops and the lease have pools of their own, so that none of
/// them starves another.
#[derive(Debug, Clone)]
enum Pools {
    Sqlite { write: SqlitePool, read: SqlitePool },
    Postgres { pools: PostgresPools, user: User },
}

/// Who draws connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Callers,
    Loops,
}

/// A transaction on either database. It is rolled back when it is dropped.
#[derive(Debug)]
pub enum Tx {
    /// On SQLite.
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    /// On PostgreSQL.
    Postgres(PostgresTx),
}

/// A transaction on PostgreSQL.
#[derive(Debug)]
pub struct PostgresTx {
    tx: sqlx::Transaction<'static, Postgres>,
    writes: bool,
}

impl Deref for PostgresTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for PostgresTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

/// Runs the same expression on the connection of either database.
macro_rules! on {
    ($tx:expr, $connection:ident => $body:expr) => {
        match $tx {
            $crate::Tx::Sqlite(tx) => {
                let $connection = &mut **tx;
                $body
            }
            $crate::Tx::Postgres(tx) => {
                let $connection = &mut **tx;
                $crate::db::answered(async { $body }).await
            }
        }
    };
}
pub(crate) use on;

/// Whether a connection can begin a transaction. Where the disk is full SQLite rolls back by itself, so that the rollback
/// that follows fails and the connection counts as within a transaction for ever: it is closed, and a new one opened.
async fn is_fit(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    // Lets a rollback that is still queued come to its end.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// Gives a server up that does not answer.
pub(crate) async fn answered<T>(statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    match tokio::time::timeout(ANSWER_MAX, statement).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

impl Db {
    /// Opens the database that a URL names: `postgres://…` (or `postgresql://…`), or `sqlite:<path>`.
    ///
    /// # Errors
    /// As [`Db::open_sqlite`] and [`Db::open_postgres`]; [`StoreError::Unfit`] for any other URL.
    pub async fn open(url: &str, options: &PostgresOptions) -> Result<Self> {
        match url.split_once(':') {
            Some(("postgres" | "postgresql", _)) => Self::open_postgres(url, options).await,
            Some(("sqlite", path)) => Self::open_sqlite(Path::new(path.strip_prefix("//").unwrap_or(path))).await,
            _ => Err(StoreError::Unfit { why: "its URL begins with neither postgres:// nor sqlite:".into() }),
        }
    }

    /// Opens the SQLite file at `path`, makes it where there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the file can't be opened, [`StoreError::SchemaTooNew`] when only a newer program
    /// can work with it, [`StoreError::Migration`] when its schema was changed by hand.
    pub async fn open_sqlite(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A 2xx is a promise that outlives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(ACQUIRE_TIMEOUT_SECONDS))
            // As on PostgreSQL.
            .pragma("case_sensitive_like", "on")
            .pragma("wal_autocheckpoint", "1000")
            // Rows that wait to be taken: each wait costs two changes of threads, and no statement answers many more.
            .row_buffer_size(ROWS_WAITING_MAX)
            .statement_cache_capacity(STATEMENTS_KEPT_MAX);
        let pool = |connections: u32| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(ACQUIRE_TIMEOUT_SECONDS))
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .before_acquire(|connection, _| Box::pin(is_fit(connection)))
        };
        let write = pool(1).connect_with(options.clone()).await?;
        migrate::sqlite(&write).await?;
        let read = pool(SQLITE_READERS).connect_with(options.read_only(true)).await?;
        let db = Self { pools: Pools::Sqlite { write, read }, wake: Wake::default() };
        db.ping().await?;
        migrate::complete(&db).await?;
        Ok(db)
    }

    /// Connects to PostgreSQL 14 or later and brings the schema up to date; instances that start together take turns.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server can't be reached, [`StoreError::Unfit`] when it is none that can be
    /// used, [`StoreError::SchemaTooNew`] when only a newer program can work with the schema, [`StoreError::Migration`]
    /// when the schema was changed by hand.
    pub async fn open_postgres(url: &str, options: &PostgresOptions) -> Result<Self> {
        let (pools, wake) = PostgresPools::open(url, options).await?;
        let db = Self { pools: Pools::Postgres { pools, user: User::Callers }, wake };
        db.ping().await?;
        migrate::complete(&db).await?;
        Ok(db)
    }

    /// The same database for loops: they have connections of their own on PostgreSQL, and what they ring for stays within
    /// this instance.
    #[must_use]
    pub fn for_sync(&self) -> Self {
        let pools = match &self.pools {
            Pools::Sqlite { .. } => self.pools.clone(),
            Pools::Postgres { pools, .. } => Pools::Postgres { pools: pools.clone(), user: User::Loops },
        };
        Self { pools, wake: self.wake.within_instance() }
    }

    /// Whether no other instance can use this database.
    pub fn is_exclusive(&self) -> bool {
        matches!(self.pools, Pools::Sqlite { .. })
    }

    /// The bells to ring after a commit.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Begins a transaction that may write.
    pub async fn write(&self) -> Result<Tx> {
        match &self.pools {
            Pools::Sqlite { write, .. } => Ok(Tx::Sqlite(write.begin_with("begin immediate").await?)),
            Pools::Postgres { pools, user: User::Callers } => postgres_write(pools.begin_callers(WRITE).await?),
            Pools::Postgres { pools, user: User::Loops } => postgres_write(pools.begin_loops(WRITE).await?),
        }
    }

    /// Begins a transaction that only reads, from one state of the database.
    pub async fn read(&self) -> Result<Tx> {
        let tx = match &self.pools {
            Pools::Sqlite { read, .. } => return Ok(Tx::Sqlite(read.begin().await?)),
            Pools::Postgres { pools, user: User::Callers } => pools.begin_callers(READ).await?,
            Pools::Postgres { pools, user: User::Loops } => pools.begin_loops(READ).await?,
        };
        Ok(Tx::Postgres(PostgresTx { tx, writes: false }))
    }

    /// Begins a transaction on the lease, which no other work holds up.
    pub(crate) async fn lease(&self) -> Result<Tx> {
        match &self.pools {
            Pools::Sqlite { .. } => self.write().await,
            Pools::Postgres { pools, .. } => postgres_write(pools.begin_lease(WRITE).await?),
        }
    }

    /// Whether the database answers, and with a schema that this program can work with.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::SchemaTooNew`].
    pub async fn ping(&self) -> Result<()> {
        let mut tx = self.read().await?;
        let oldest: Option<(String,)> = on!(&mut tx, c => sqlx::query_as(
            "select value from service_state where name = 'schema.oldest_program'",
        )
        .fetch_optional(c)
        .await)?;
        migrate::check(oldest.map(|(value,)| value))
    }

    /// Closes every connection, after those who use one are done.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Pools::Postgres { pools, .. } => pools.close().await,
        }
    }
}

/// What depends on a row locks it first, so that each statement may see the newest commit.
const WRITE: &str = "begin isolation level read committed";
const READ: &str = "begin isolation level repeatable read read only";

#[expect(clippy::unnecessary_wraps, reason = "it stands at the end of what can fail")]
fn postgres_write(tx: sqlx::Transaction<'static, Postgres>) -> Result<Tx> {
    Ok(Tx::Postgres(PostgresTx { tx, writes: true }))
}

impl Tx {
    /// Makes the changes durable.
    ///
    /// # Errors
    /// [`StoreError::Uncertain`] when the database went away before it said whether they are.
    pub async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(tx) => Ok(tx.commit().await?),
            Self::Postgres(PostgresTx { tx, .. }) => answered(tx.commit()).await.map_err(|error| match error {
                sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => StoreError::Uncertain(error),
                error => error.into(),
            }),
        }
    }

    /// What makes a `select` lock its rows: nothing on SQLite, whose one writer is alone, and where nothing is written.
    pub(crate) fn locking(&self, clause: &'static str) -> &'static str {
        match self {
            Self::Postgres(PostgresTx { writes: true, .. }) => clause,
            Self::Postgres(_) | Self::Sqlite(_) => "",
        }
    }

    /// Whether others write at the same time.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}
