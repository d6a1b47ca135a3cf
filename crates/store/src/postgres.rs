//! PostgreSQL: four pools, so that many callers delay neither the loops nor the lease renewals of a leader.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use model::clock::{Clock, Elapsed, SharedClock};
use sqlx::{
    AssertSqlSafe, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::task::AbortHandle;

use crate::{
    error::{CALLERS_READ_SECONDS_MAX, Result, StoreError},
    notifications::{self, Notifications},
};

/// How long [`Pools::close`] waits for transactions in progress. The server rolls back those whose connection ends.
const CLOSE_MAX: Duration = Duration::from_secs(4);

/// How long a statement of a caller's read may take, unless a [`crate::Db`] has another limit.
pub(crate) const CALLERS_READ_MAX: Duration = Duration::from_secs(CALLERS_READ_SECONDS_MAX);

/// How long PostgreSQL may take for one statement before its connection is given up. Its own time-outs are shorter: this
/// one is for a server that vanished without a word.
const ANSWER_MAX: Duration = Duration::from_secs(45);

/// How PostgreSQL is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// The name of these connections on the server, to which the part that uses each is added.
    pub application_name: String,
    /// Connections for callers.
    pub callers: u32,
    /// Connections for loops.
    pub loops: u32,
    /// How long a free connection is waited for.
    pub acquire_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// How long a statement may wait for a lock.
    pub lock_timeout: Duration,
    /// How long a transaction may rest. A leader that froze within one keeps the next from taking over as long, so it
    /// is well below the lease.
    pub idle_in_transaction_timeout: Duration,
    /// Where the server is reached without a pooler between, when that is another URL: notifications, the lease and
    /// migrations need it.
    pub direct_url: Option<String>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            application_name: "holdfast".into(),
            callers: 16,
            loops: 8,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            idle_in_transaction_timeout: Duration::from_secs(5),
            direct_url: None,
        }
    }
}

/// The pools, and the tasks that live as long as they do.
#[derive(Debug, Clone)]
pub(crate) struct Pools {
    callers: PgPool,
    pool_state: Arc<PoolState>,
    loops: PgPool,
    lease: PgPool,
    listen: PgPool,
    tasks: Arc<Tasks>,
    clock: SharedClock,
    /// How long a statement of a transaction that writes may take.
    pub(crate) statement_timeout: Duration,
}

/// Distinguishes an exhausted pool of a server that answers from a server that does not.
#[derive(Debug)]
struct PoolState {
    clock: SharedClock,
    /// On the boot clock.
    opened: Duration,
    /// Milliseconds from `opened` to the latest transaction that began.
    began_milliseconds: AtomicU64,
}

/// A server that began a transaction within this time answers.
const ANSWERS: Duration = Duration::from_millis(500);

impl PoolState {
    fn milliseconds(&self) -> u64 {
        u64::try_from(self.clock.boot().saturating_sub(self.opened).as_millis()).unwrap_or(u64::MAX)
    }

    fn judge<T>(&self, begun: Result<T>) -> Result<T> {
        let begun = self.judge_wait(begun);
        if begun.is_ok() {
            self.note_answer();
        }
        begun
    }

    /// Judges a wait for a connection, which does not show whether the server answers.
    fn judge_wait<T>(&self, waited: Result<T>) -> Result<T> {
        match waited {
            Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)) if self.answers() => Err(StoreError::PoolExhausted),
            waited => waited,
        }
    }

    fn note_answer(&self) {
        self.began_milliseconds.fetch_max(self.milliseconds(), Ordering::Relaxed);
    }

    fn answers(&self) -> bool {
        let silent = self.milliseconds().saturating_sub(self.began_milliseconds.load(Ordering::Relaxed));
        Duration::from_millis(silent) < ANSWERS
    }
}

#[derive(Debug)]
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Pools {
    /// Makes the pools, on a server whose schema is up to date. Connections are made when they are needed.
    pub(crate) fn new(server: &Server, options: &PostgresOptions, clock: &SharedClock) -> (Self, Notifications) {
        let Server { url, direct } = server;
        let pool = |to: &PgConnectOptions, part: &str, connections: u32, statement_timeout: Duration| {
            let to = to.clone().application_name(&format!("{} {part}", options.application_name));
            // A pooler refuses these as parameters of a connection's start, so a statement sets them. Every statement is
            // small, or one of many at once: more processes for one of them are worth nothing, and their prospect makes
            // the planner read whole tables.
            let session = format!(
                "set statement_timeout = {}; set lock_timeout = {}; set idle_in_transaction_session_timeout = {};
                 set max_parallel_workers_per_gather = 0",
                statement_timeout.as_millis(),
                options.lock_timeout.as_millis(),
                options.idle_in_transaction_timeout.as_millis()
            );
            PgPoolOptions::new()
                .after_connect(move |connection, _| {
                    let session = session.clone();
                    Box::pin(async move { sqlx::raw_sql(AssertSqlSafe(session)).execute(connection).await.map(drop) })
                })
                .max_connections(connections)
                .acquire_timeout(options.acquire_timeout)
                // The statement that begins a transaction finds connections that died while they were idle.
                .test_before_acquire(false)
                .connect_lazy_with(to)
        };
        let statement_timeout = options.statement_timeout;
        // Most of what callers ask for is a read. A transaction that writes sets its own limit.
        let callers = pool(url, "api", options.callers, CALLERS_READ_MAX);
        let loops = pool(url, "sync", options.loops, statement_timeout);
        let lease = pool(direct, "lease", 1, statement_timeout);
        let listen = pool(direct, "listen", 1, statement_timeout);

        let (notifications, pending) = Notifications::across_instances();
        let notifying = tokio::spawn(notifications::notify(callers.clone(), pending, Arc::clone(clock)));
        let listening = tokio::spawn(notifications::listen(listen.clone(), notifications.clone(), Arc::clone(clock)));
        let tasks = Arc::new(Tasks(vec![notifying.abort_handle(), listening.abort_handle()]));
        let pool_state =
            PoolState { clock: Arc::clone(clock), opened: clock.boot(), began_milliseconds: AtomicU64::new(0) };
        let (pool_state, clock) = (Arc::new(pool_state), Arc::clone(clock));
        (Self { callers, pool_state, loops, lease, listen, tasks, clock, statement_timeout }, notifications)
    }

    /// Takes a connection for statements without a transaction.
    pub(crate) async fn acquire_callers(&self) -> Result<PoolConnection<Postgres>> {
        self.pool_state.judge_wait(answered(&*self.clock, self.callers.acquire()).await.map_err(Into::into))
    }

    /// The most connections for callers.
    pub(crate) fn callers_max(&self) -> u32 {
        self.callers.options().get_max_connections()
    }

    /// Notes that the server answered a statement of a caller.
    pub(crate) fn note_answer(&self) {
        self.pool_state.note_answer();
    }

    pub(crate) async fn begin_callers(&self, statement: String) -> Result<Transaction<'static, Postgres>> {
        self.pool_state.judge(begin(&*self.clock, &self.callers, &statement).await)
    }

    pub(crate) async fn begin_loops(&self, statement: String) -> Result<Transaction<'static, Postgres>> {
        begin(&*self.clock, &self.loops, &statement).await
    }

    pub(crate) async fn begin_lease(&self, statement: String) -> Result<Transaction<'static, Postgres>> {
        begin(&*self.clock, &self.lease, &statement).await
    }

    pub(crate) async fn close(&self) {
        for task in &self.tasks.0 {
            task.abort();
        }
        let pools = [&self.listen, &self.callers, &self.loops, &self.lease];
        let closing = futures::future::join_all(pools.map(PgPool::close));
        if self.clock.timeout(CLOSE_MAX, closing).await.is_err() {
            let wait_seconds = CLOSE_MAX.as_secs();
            tracing::warn!(wait_seconds, "transactions on the database did not end; leaving them to be rolled back");
        }
    }
}

/// Gives a server up that does not answer.
pub(crate) fn answered<T, F: Future<Output = sqlx::Result<T>>>(
    clock: &dyn Clock,
    statement: F,
) -> impl Future<Output = sqlx::Result<T>> + use<T, F> {
    let given_up = |_: Elapsed| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
    clock.timeout(ANSWER_MAX, statement).map(move |answer| answer.unwrap_or_else(given_up))
}

/// Begins a transaction on a connection that is alive: those that died while they lay idle are dropped on the way.
async fn begin(clock: &dyn Clock, pool: &PgPool, statement: &str) -> Result<Transaction<'static, Postgres>> {
    let most = pool.options().get_max_connections();
    let mut dead = 0;
    loop {
        match answered(clock, pool.begin_with(AssertSqlSafe(statement.to_owned()))).await {
            Ok(tx) => return Ok(tx),
            Err(error) if dead < most && has_died(&error) => dead += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a connection broke, as opposed to one that could not be made.
pub(crate) fn has_died(error: &sqlx::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        sqlx::Error::Io(e) => matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof),
        // The server's last words on it: shut down, crashed, idle for too long.
        sqlx::Error::Database(e) => {
            e.code().is_some_and(|code| matches!(&*code, "57P01" | "57P02" | "57P05" | "25P03"))
        }
        _ => false,
    }
}

/// Where a server is reached.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// The URL, which may lead to a pooler.
    url: PgConnectOptions,
    /// The same without a pooler between.
    pub(crate) direct: PgConnectOptions,
}

impl Server {
    pub(crate) fn parse(url: &str, options: &PostgresOptions) -> Result<Self> {
        let url = parse(url)?;
        let direct = options.direct_url.as_deref().map(parse).transpose()?.unwrap_or_else(|| url.clone());
        Ok(Self { url, direct })
    }
}

/// Reads a URL. Errors do not contain its password.
fn parse(url: &str) -> Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| StoreError::Unfit { why: "its URL is none of PostgreSQL's form".into() })?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        for url in ["postgres://me:hunter2@db:port/x", "postgres://me:hunter2@[::/x"] {
            let error = parse(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
