//! SQLite: one connection that writes, and two pools that only read, so that callers' reads never hold up the loops.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use model::clock::SharedClock;
use sqlx::{
    Connection, Sqlite, SqliteConnection, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    error::{Result, StoreError},
    meter::Meter,
    migrate,
    statements::{Statements, Timing},
};

/// How long a transaction waits for a free connection before it is refused.
const ACQUIRE_TIMEOUT_SECONDS: u64 = 5;

/// Connections that read for callers at the same time.
const CALLERS_READERS: u32 = 4;

/// Connections that read for the loops at the same time.
const LOOPS_READERS: u32 = 4;

/// Prepared statements that a connection to a file keeps. Those of lists take tens of kilobytes each.
const STATEMENTS_KEPT_MAX: usize = 40;

/// Rows that SQLite's threads read ahead of their takers. They count in no memory budget until they are taken.
const ROWS_WAITING_MAX: usize = 50;

/// Instructions of SQLite's virtual machine between two checks whether the statement has to end.
const INSTRUCTIONS_PER_CHECK: i32 = 250;

/// How long [`Pools::close`] waits for transactions in progress before it interrupts their statements, and how long it
/// waits after that.
const CLOSE_STEP_MAX: Duration = Duration::from_secs(2);

/// The pools of one database file.
///
/// A second writer would fail at once where it read first, whatever the busy time-out, so there is one.
#[derive(Debug, Clone)]
pub(crate) struct Pools {
    write: SqlitePool,
    callers: SqlitePool,
    loops: SqlitePool,
    closing: Arc<AtomicBool>,
    clock: SharedClock,
}

/// Creates the file so that this user alone can read it, whatever the umask. SQLite gives the files of its write-ahead log
/// the mode of the database. An error is left to SQLite to report.
fn create_private(path: &Path) {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let _ = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = std::fs::set_permissions(name, std::fs::Permissions::from_mode(0o600));
    }
}

impl Pools {
    pub(crate) async fn open(path: &Path, clock: SharedClock) -> Result<Self> {
        create_private(path);
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
            // Each wait for a row costs two changes of threads.
            .row_buffer_size(ROWS_WAITING_MAX)
            .statement_cache_capacity(STATEMENTS_KEPT_MAX);
        let closing = Arc::new(AtomicBool::new(false));
        let pool = |connections: u32| {
            let closing = Arc::clone(&closing);
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(ACQUIRE_TIMEOUT_SECONDS))
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .after_connect(move |connection, _| {
                    let closing = Arc::clone(&closing);
                    Box::pin(async move {
                        let goes_on = move || !closing.load(Ordering::Relaxed);
                        connection.lock_handle().await?.set_progress_handler(INSTRUCTIONS_PER_CHECK, goes_on);
                        Ok(())
                    })
                })
                .before_acquire(|connection, _| Box::pin(is_fit(connection)))
        };
        let write = pool(1).connect_with(options.clone()).await?;
        migrate::sqlite(&write).await?;
        let read_only = options.read_only(true);
        let callers = pool(CALLERS_READERS).connect_with(read_only.clone()).await?;
        let loops = pool(LOOPS_READERS).connect_lazy_with(read_only);
        Ok(Self { write, callers, loops, closing, clock })
    }

    pub(crate) async fn begin_write(&self, statements: &Statements) -> Result<SqliteTx> {
        let tx = self.write.begin_with("begin immediate").await.map_err(pool_exhausted)?;
        Ok(SqliteTx { reading: None, tx, meter: None, statements: statements.clone(), search: None })
    }

    /// Begins a read of a caller: its statements are interrupted when they took longer than `limit` in all, and when the
    /// transaction is dropped.
    pub(crate) async fn begin_callers(
        &self,
        limit: Duration,
        meter: Option<Arc<dyn Meter>>,
        statements: &Statements,
    ) -> Result<SqliteTx> {
        let mut tx = self.callers.begin().await.map_err(pool_exhausted)?;
        let reading = Reading(Arc::new(AtomicBool::new(true)));
        let (goes_on, closing, until) = (Arc::clone(&reading.0), Arc::clone(&self.closing), self.clock.boot() + limit);
        let clock = Arc::clone(&self.clock);
        tx.lock_handle().await?.set_progress_handler(INSTRUCTIONS_PER_CHECK, move || {
            goes_on.load(Ordering::Relaxed) && !closing.load(Ordering::Relaxed) && clock.boot() < until
        });
        Ok(SqliteTx { reading: Some(reading), tx, meter, statements: statements.clone(), search: None })
    }

    pub(crate) async fn begin_loops(&self, statements: &Statements) -> Result<SqliteTx> {
        let tx = self.loops.begin().await.map_err(pool_exhausted)?;
        Ok(SqliteTx { reading: None, tx, meter: None, statements: statements.clone(), search: None })
    }

    /// Closes every connection. Transactions in progress have a moment to end, then their statements are interrupted:
    /// what they did not commit is rolled back.
    pub(crate) async fn close(&self) {
        let closing = async {
            tokio::join!(self.callers.close(), self.loops.close());
            self.write.close().await;
        };
        tokio::pin!(closing);
        if self.clock.timeout(CLOSE_STEP_MAX, &mut closing).await.is_ok() {
            return;
        }
        self.closing.store(true, Ordering::Relaxed);
        if self.clock.timeout(CLOSE_STEP_MAX, closing).await.is_err() {
            let wait_seconds = 2 * CLOSE_STEP_MAX.as_secs();
            tracing::warn!(wait_seconds, "transactions on the database did not end; leaving them to be rolled back");
        }
    }
}

/// A transaction on SQLite.
#[derive(Debug)]
pub struct SqliteTx {
    // Dropped first: the statement in progress ends before the rollback that waits for it.
    reading: Option<Reading>,
    tx: Transaction<'static, Sqlite>,
    meter: Option<Arc<dyn Meter>>,
    statements: Statements,
    search: Option<OwnedSemaphorePermit>,
}

impl SqliteTx {
    pub(crate) fn count_as_search(&mut self, search: OwnedSemaphorePermit) {
        self.search = Some(search);
    }

    pub(crate) fn begin_statement(&self, operation: &'static str) -> Timing {
        self.statements.begin(operation)
    }

    pub(crate) fn meter(&self) -> Option<Arc<dyn Meter>> {
        self.meter.clone()
    }

    pub(crate) async fn commit(self) -> sqlx::Result<()> {
        let Self { reading, tx, .. } = self;
        let committed = tx.commit().await;
        drop(reading);
        committed
    }
}

impl std::ops::Deref for SqliteTx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.tx
    }
}

impl std::ops::DerefMut for SqliteTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }
}

/// Whether the transaction is still in use; false when it is dropped.
#[derive(Debug)]
struct Reading(Arc<AtomicBool>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The file is there as long as the process: a connection that does not become free is in use.
fn pool_exhausted(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::PoolTimedOut => StoreError::PoolExhausted,
        error => error.into(),
    }
}

/// Whether a connection can begin a transaction. On a full disk SQLite rolls back automatically, so that the rollback
/// that follows fails and the connection counts as within a transaction for ever: it is closed, and a new one opened.
async fn is_fit(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    // Lets a rollback that is still queued come to its end.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}
