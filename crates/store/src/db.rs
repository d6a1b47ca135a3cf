//! Connections and transactions on either database.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use model::clock::SharedClock;
use sqlx::{Connection as _, PgConnection, Postgres, pool::PoolConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    dialect::Dialect,
    error::{Result, StoreError},
    meter::Meter,
    migrate,
    notifications::Notifications,
    postgres::{CALLERS_READ_MAX, Pools as PostgresPools, answered, has_died},
    sqlite::{Pools as SqlitePools, SqliteTx},
    statements::{Statements, Timing},
};

/// How long a search waits for others to end before it is refused.
const SEARCH_WAIT_MAX: Duration = Duration::from_secs(2);

/// The most errors of an abandoned statement that are waited for.
const ERRORS_MAX: usize = 3;

/// The database, and the notifications of those who follow it.
#[derive(Debug, Clone)]
pub struct Db {
    pools: Pools,
    user: User,
    callers_read_max: Duration,
    searches: Arc<Semaphore>,
    meter: Option<Arc<dyn Meter>>,
    statements: Statements,
    notifications: Notifications,
}

/// Callers and loops have connections of their own, so that none of them starves the other; on PostgreSQL the lease has
/// them too.
#[derive(Debug, Clone)]
pub(crate) enum Pools {
    Sqlite(SqlitePools),
    Postgres(PostgresPools),
}

/// The user of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Callers,
    Loops,
}

/// A transaction on either database. It is rolled back when it is dropped.
#[derive(Debug)]
pub enum Tx {
    /// On SQLite.
    Sqlite(SqliteTx),
    /// On PostgreSQL.
    Postgres(PostgresTx),
}

/// A transaction on PostgreSQL, or a connection for a single statement.
#[derive(Debug)]
pub struct PostgresTx {
    /// Absent while it is committed or dropped alone.
    connection: Option<Connection>,
    writes: bool,
    meter: Option<Arc<dyn Meter>>,
    statements: Statements,
    search: Option<OwnedSemaphorePermit>,
}

/// Where the statements of a [`PostgresTx`] are sent.
#[derive(Debug)]
enum Connection {
    Transaction(sqlx::Transaction<'static, Postgres>),
    /// Each statement is a transaction of its own.
    Statement(PoolConnection<Postgres>),
}

impl PostgresTx {
    fn new(connection: Connection, writes: bool, db: &Db) -> Self {
        let meter = if writes { None } else { db.meter.clone() };
        Self { connection: Some(connection), writes, meter, statements: db.statements.clone(), search: None }
    }

    pub(crate) fn begin_statement(&self, operation: &'static str) -> Timing {
        self.statements.begin(operation)
    }

    async fn commit(mut self) -> sqlx::Result<()> {
        match self.connection.take() {
            Some(Connection::Transaction(tx)) => tx.commit().await,
            Some(Connection::Statement(_)) | None => Ok(()),
        }
    }
}

const IN_USE: &str = "a connection is there until the transaction is committed or dropped";

impl Deref for PostgresTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self.connection.as_ref().expect(IN_USE) {
            Connection::Transaction(tx) => tx,
            Connection::Statement(connection) => connection,
        }
    }
}

impl DerefMut for PostgresTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self.connection.as_mut().expect(IN_USE) {
            Connection::Transaction(tx) => tx,
            Connection::Statement(connection) => connection,
        }
    }
}

impl Drop for PostgresTx {
    /// The server works on the statement of a search that was given up until its limit: it counts as a search as long.
    fn drop(&mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && let Some(search) = self.search.take()
            && let Some(Connection::Transaction(mut tx)) = self.connection.take()
        {
            let clock = Arc::clone(self.statements.clock());
            runtime.spawn(async move {
                // The error of the statement comes before the server has cleaned up after it.
                for _ in 0..ERRORS_MAX {
                    match answered(&*clock, tx.ping()).await {
                        Err(sqlx::Error::Database(_)) => {}
                        _ => break,
                    }
                }
                drop((tx, search));
            });
        }
    }
}

/// Runs the same expression on the connection of either database. Its duration counts for the function around it.
macro_rules! on {
    ($tx:expr, $connection:ident => $body:expr) => {{
        let operation = $crate::statements::operation!();
        match $tx {
            $crate::db::Tx::Sqlite(tx) => {
                let timing = tx.begin_statement(operation);
                let $connection = &mut **tx;
                timing.of(async { $body }).await
            }
            $crate::db::Tx::Postgres(tx) => {
                let timing = tx.begin_statement(operation);
                let $connection = &mut **tx;
                timing.of_server(async { $body }).await
            }
        }
    }};
}
pub(crate) use on;

/// Reads the rows of a statement, counting each with the meter of the transaction.
macro_rules! metered_rows {
    ($tx:expr, $statement:expr) => {{
        let meter = $tx.meter();
        $crate::db::on!($tx, c => {
            let mut stream = $statement.fetch(c);
            let mut rows = Vec::new();
            let read = async {
                while let Some(row) = futures::TryStreamExt::try_next(&mut stream).await? {
                    $crate::meter::count(meter.as_deref(), &row)?;
                    rows.push(row);
                }
                Ok::<(), sqlx::Error>(())
            };
            read.await.map(|()| rows)
        })
    }};
}
pub(crate) use metered_rows;

impl Db {
    /// A database whose schema is up to date; `searches` is how many searches it serves at the same time.
    pub(crate) fn new(pools: Pools, searches: usize, notifications: Notifications, clock: SharedClock) -> Self {
        let callers_read_max = CALLERS_READ_MAX;
        let searches = Arc::new(Semaphore::new(searches));
        Self {
            pools,
            user: User::Callers,
            callers_read_max,
            searches,
            meter: None,
            statements: Statements::new(clock),
            notifications,
        }
    }

    /// The same database for loops: they have connections of their own, statements without the time limit of callers, and
    /// notifications of theirs stay within this instance.
    #[must_use]
    pub fn for_sync(&self) -> Self {
        Self { user: User::Loops, notifications: self.notifications.within_instance(), ..self.clone() }
    }

    /// The same database with another limit than [`crate::CALLERS_READ_SECONDS_MAX`].
    #[must_use]
    pub fn with_callers_read_max(&self, callers_read_max: Duration) -> Self {
        Self { callers_read_max, ..self.clone() }
    }

    /// The same database, with the rows of lists counted as they are read.
    #[must_use]
    pub fn metered(&self, meter: Arc<dyn Meter>) -> Self {
        Self { meter: Some(meter), ..self.clone() }
    }

    /// How long its statements take.
    pub fn statements(&self) -> &Statements {
        &self.statements
    }

    /// Whether no other instance can use this database.
    pub fn is_exclusive(&self) -> bool {
        matches!(self.pools, Pools::Sqlite(_))
    }

    /// The notifications to send after a commit.
    pub fn notifications(&self) -> &Notifications {
        &self.notifications
    }

    /// Begins a transaction that may write.
    pub async fn write(&self) -> Result<Tx> {
        self.begin(async {
            match (&self.pools, self.user) {
                (Pools::Sqlite(pools), _) => Ok(Tx::Sqlite(pools.begin_write(&self.statements).await?)),
                (Pools::Postgres(pools), User::Callers) => {
                    let limit = pools.statement_timeout.as_millis();
                    let begin = format!("{WRITE}; set local statement_timeout = {limit}");
                    Ok(self.postgres_write(pools.begin_callers(begin).await?))
                }
                (Pools::Postgres(pools), User::Loops) => {
                    Ok(self.postgres_write(pools.begin_loops(WRITE.into()).await?))
                }
            }
        })
        .await
    }

    /// Begins a transaction that only reads, from one state of the database. For callers it is limited in time.
    pub async fn read(&self) -> Result<Tx> {
        self.begin(async {
            let tx = match (&self.pools, self.user) {
                (Pools::Sqlite(pools), User::Callers) => {
                    let tx = pools.begin_callers(self.callers_read_max, self.meter.clone(), &self.statements).await?;
                    return Ok(Tx::Sqlite(tx));
                }
                (Pools::Sqlite(pools), User::Loops) => {
                    return Ok(Tx::Sqlite(pools.begin_loops(&self.statements).await?));
                }
                // Connections of callers have this limit.
                (Pools::Postgres(pools), User::Callers) if self.callers_read_max == CALLERS_READ_MAX => {
                    pools.begin_callers(READ.into()).await?
                }
                (Pools::Postgres(pools), User::Callers) => {
                    let limit = self.callers_read_max.as_millis();
                    pools.begin_callers(format!("{READ}; set local statement_timeout = {limit}")).await?
                }
                (Pools::Postgres(pools), User::Loops) => pools.begin_loops(READ.into()).await?,
            };
            Ok(Tx::Postgres(PostgresTx::new(Connection::Transaction(tx), false, self)))
        })
        .await
    }

    /// Prepares a read by a single statement, which needs no transaction. On PostgreSQL that saves two of three round trips.
    pub fn read_once(&self) -> ReadOnce<'_> {
        ReadOnce { db: self, dead: 0 }
    }

    /// Begins a transaction; the wait for a connection counts.
    fn begin<F: Future<Output = Result<Tx>>>(&self, beginning: F) -> impl Future<Output = Result<Tx>> {
        self.statements.begin("transaction.begin").of(beginning)
    }

    fn postgres_write(&self, tx: sqlx::Transaction<'static, Postgres>) -> Tx {
        Tx::Postgres(PostgresTx::new(Connection::Transaction(tx), true, self))
    }

    /// Begins a transaction that only reads, and for whose statements no index may help. A few at the same time, so that
    /// they leave connections to reads that are quick.
    ///
    /// # Errors
    /// [`StoreError::PoolExhausted`] when others did not end in time.
    pub async fn read_search(&self) -> Result<Tx> {
        let waiting = self.statements.clock().timeout(SEARCH_WAIT_MAX, Arc::clone(&self.searches).acquire_owned());
        let Ok(Ok(search)) = waiting.await else { return Err(StoreError::PoolExhausted) };
        let mut tx = self.read().await?;
        match &mut tx {
            Tx::Sqlite(tx) => tx.count_as_search(search),
            Tx::Postgres(tx) => tx.search = Some(search),
        }
        Ok(tx)
    }

    /// Begins a transaction on the lease, which no other work holds up.
    pub(crate) async fn lease(&self) -> Result<Tx> {
        match &self.pools {
            Pools::Sqlite(_) => self.write().await,
            Pools::Postgres(pools) => {
                self.begin(async { Ok(self.postgres_write(pools.begin_lease(WRITE.into()).await?)) }).await
            }
        }
    }

    /// Whether the database answers, and with a schema that this program can work with.
    ///
    /// A connection of the loops is used: the database answers even if many callers wait for theirs.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::SchemaTooNew`].
    pub async fn ping(&self) -> Result<()> {
        let mut tx = match self.for_sync().read().await {
            // It answers, and others at that.
            Err(StoreError::PoolExhausted) => return Ok(()),
            begun => begun?,
        };
        let oldest: Option<(String,)> = on!(&mut tx, c => sqlx::query_as(
            "select value from service_state where name = 'schema.oldest_program'",
        )
        .fetch_optional(c)
        .await)?;
        migrate::check(oldest.map(|(value,)| value))
    }

    /// Closes every connection. Those in use have a few seconds to end, then their statements are interrupted.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite(pools) => pools.close().await,
            Pools::Postgres(pools) => pools.close().await,
        }
    }
}

/// Transactions lock the rows that they depend on first, so that each statement may see the newest commit.
const WRITE: &str = "begin isolation level read committed";
const READ: &str = "begin isolation level repeatable read read only";

/// A read by a single statement.
///
/// Without a transaction the statement is the first to find that a connection broke while it lay idle, so it is sent again
/// on another one:
///
/// ```ignore
/// let mut read = db.read_once();
/// let found = loop {
///     let found = find(&mut read.begin().await?).await;
///     if !read.is_again(&found) {
///         break found?;
///     }
/// };
/// ```
#[derive(Debug)]
pub struct ReadOnce<'a> {
    db: &'a Db,
    /// Connections that broke while they lay idle.
    dead: u32,
}

impl ReadOnce<'_> {
    /// Takes a connection for the statement.
    pub async fn begin(&self) -> Result<Tx> {
        let db = self.db;
        match &db.pools {
            Pools::Postgres(pools) if db.user == User::Callers && db.callers_read_max == CALLERS_READ_MAX => {
                let acquiring = async {
                    let connection = pools.acquire_callers().await?;
                    Ok(Tx::Postgres(PostgresTx::new(Connection::Statement(connection), false, db)))
                };
                db.statements.begin("connection.acquire").of(acquiring).await
            }
            _ => db.read().await,
        }
    }

    /// Whether the statement has to be sent again, on another connection.
    pub fn is_again<T>(&mut self, result: &Result<T>) -> bool {
        let Pools::Postgres(pools) = &self.db.pools else { return false };
        match result {
            Err(StoreError::Unavailable(error)) if self.dead < pools.callers_max() && has_died(error) => {
                self.dead += 1;
                true
            }
            Err(StoreError::Unavailable(_)) => false,
            _ => {
                pools.note_answer();
                false
            }
        }
    }
}

/// The operation of a commit.
const COMMIT: &str = "transaction.commit";

impl Tx {
    /// Makes the changes durable.
    ///
    /// # Errors
    /// [`StoreError::Uncertain`] when the database went away before it said whether they are.
    pub async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(tx) => Ok(tx.begin_statement(COMMIT).of(tx.commit()).await?),
            Self::Postgres(tx) => {
                tx.begin_statement(COMMIT).of_server(tx.commit()).await.map_err(|error| match error {
                    sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => StoreError::Uncertain(error),
                    error => error.into(),
                })
            }
        }
    }

    /// The clause with which a `select` locks its rows: empty on SQLite, which has one writer, and in read transactions.
    pub(crate) fn locking(&self, clause: &'static str) -> &'static str {
        match self {
            Self::Postgres(PostgresTx { writes: true, .. }) => clause,
            Self::Postgres(_) | Self::Sqlite(_) => "",
        }
    }

    /// The meter that counts the rows of lists.
    pub(crate) fn meter(&self) -> Option<Arc<dyn Meter>> {
        match self {
            Self::Sqlite(tx) => tx.meter(),
            Self::Postgres(tx) => tx.meter.clone(),
        }
    }

    /// The dialect that the database speaks.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }
}
