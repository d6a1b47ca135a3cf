//! Connections and transactions on either database.

use std::{path::Path, time::Duration};

use sqlx::{
    Postgres, Sqlite,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{Result, StoreError, Wake};

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a verb waits for a connection before it answers that the database is busy.
const ACQUIRE_TIMEOUT_SECONDS: u64 = 5;

/// Connections that read at the same time on SQLite.
const SQLITE_READERS: u32 = 4;

/// The database, and the bells of those who follow it.
#[derive(Debug, Clone)]
pub struct Db {
    pools: Pools,
    wake: Wake,
}

/// SQLite has one connection that writes and several that only read: a second writer would fail at once where it read
/// first, whatever the busy time-out.
#[derive(Debug, Clone)]
enum Pools {
    Sqlite { write: SqlitePool, read: SqlitePool },
}

/// A transaction on either database. It is rolled back when it is dropped.
#[derive(Debug)]
pub enum Tx {
    /// On SQLite.
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    /// On PostgreSQL.
    Postgres(sqlx::Transaction<'static, Postgres>),
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
                $body
            }
        }
    };
}
pub(crate) use on;

impl Db {
    /// Opens the SQLite file at `path`, makes it where there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the file can't be opened, [`StoreError::Migration`] when its schema is newer than
    /// this program or was changed by hand.
    pub async fn open_sqlite(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A 2xx is a promise that outlives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(ACQUIRE_TIMEOUT_SECONDS))
            .pragma("wal_autocheckpoint", "1000");
        let pool = |connections: u32| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(ACQUIRE_TIMEOUT_SECONDS))
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let write = pool(1).connect_with(options.clone()).await?;
        SQLITE_MIGRATIONS.run(&write).await.map_err(StoreError::Migration)?;
        let read = pool(SQLITE_READERS).connect_with(options.read_only(true)).await?;
        Ok(Self { pools: Pools::Sqlite { write, read }, wake: Wake::default() })
    }

    /// The bells to ring after a commit.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Begins a transaction that may write.
    pub async fn write(&self) -> Result<Tx> {
        match &self.pools {
            Pools::Sqlite { write, .. } => Ok(Tx::Sqlite(write.begin_with("begin immediate").await?)),
        }
    }

    /// Begins a transaction that only reads, from one state of the database.
    pub async fn read(&self) -> Result<Tx> {
        match &self.pools {
            Pools::Sqlite { read, .. } => Ok(Tx::Sqlite(read.begin().await?)),
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        let mut tx = self.read().await?;
        on!(&mut tx, c => sqlx::query("select 1").execute(c).await.map(drop))?;
        Ok(())
    }

    /// Closes every connection.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
        }
    }
}

impl Tx {
    /// Makes the changes durable.
    pub async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}
