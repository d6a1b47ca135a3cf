//! Fresh databases for tests, on SQLite and on a PostgreSQL that a test process starts for itself; a [`Proxy`] in front
//! of a Kubernetes API server that a test may cut; a [`Webhook`] that such a server asks about what is written; a package
//! index with credentials, [`IndexServer`]; and [`TlsFront`], by which any server has a certificate of its own.
//!
//! A test that stores something takes a [`Database`] and is named in [`for_each_database!`], which runs it on both.

mod background;
pub mod index;
mod install;
mod proxy;
mod server;
mod statements;
mod tls;
mod webhook;

use std::{path::PathBuf, sync::Arc};

use clock::SystemClock;
use model::clock::SharedClock;
use store::{Db, PostgresOptions};
use tempfile::TempDir;

pub use index::{IndexRequest, IndexServer};
pub use proxy::{Identity, Proxy};
pub use server::Server;
pub use statements::{Statement, Statements};
pub use tls::TlsFront;
pub use webhook::Webhook;

/// A database that tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// A file.
    Sqlite,
    /// A server.
    Postgresql,
}

/// A database that only one test knows.
#[derive(Debug)]
pub struct Fresh {
    url: String,
    folder: Option<TempDir>,
}

impl Database {
    /// Makes a database without rows. On PostgreSQL it has the schema already, which is quicker than to make it again.
    ///
    /// # Panics
    /// When there is no PostgreSQL and none can be had: a test that can't run is not a test that passed.
    pub fn fresh(self) -> Fresh {
        match self {
            Self::Sqlite => self.empty(),
            Self::Postgresql => Fresh { url: Server::shared().database_with_schema(), folder: None },
        }
    }

    /// Makes an empty database, for tests of the first start on it.
    ///
    /// # Panics
    /// As [`Database::fresh`].
    pub fn empty(self) -> Fresh {
        match self {
            Self::Sqlite => {
                let folder = tempfile::tempdir().expect("a temporary folder can be made");
                Fresh { url: format!("sqlite:{}", folder.path().join("test.db").display()), folder: Some(folder) }
            }
            Self::Postgresql => Fresh { url: Server::shared().database(), folder: None },
        }
    }
}

/// The clock of the machine, which tests open databases with.
pub fn clock() -> SharedClock {
    Arc::new(SystemClock)
}

/// A large count with `cargo xtask test --long`, a small one otherwise.
pub fn count(small: usize, large: usize) -> usize {
    if devtools::environment::is_on("HOLDFAST_TEST_LONG") { large } else { small }
}

/// The options that tests open databases with: many share one server's connections.
pub fn options() -> PostgresOptions {
    PostgresOptions { callers: 8, loops: 4, ..PostgresOptions::default() }
}

impl Fresh {
    /// An empty database on a server of a test's own.
    pub fn on(server: &Server) -> Self {
        Self { url: server.database(), folder: None }
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The file, on SQLite.
    pub fn file(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join("test.db"))
    }

    /// Sends a query to PostgreSQL for which the store has no function.
    ///
    /// # Panics
    /// When it refuses, or this is no PostgreSQL.
    pub fn psql(&self, sql: &str) -> String {
        Server::psql(&self.url, sql)
    }

    /// Opens it, as one more instance does.
    ///
    /// # Panics
    /// When it can't be opened.
    pub async fn open(&self) -> Db {
        self.open_with(&options()).await
    }

    /// Opens it with options of a test's own.
    ///
    /// # Panics
    /// When it can't be opened.
    pub async fn open_with(&self, options: &PostgresOptions) -> Db {
        match Db::open(&self.url, options, clock()).await {
            Ok(db) => db,
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        }
    }
}

/// Runs a test to its end, as `#[tokio::test]` does.
///
/// # Panics
/// When there can be no runtime, or the test panics.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built").block_on(test);
}

/// Makes of each `async fn name(on: Database)` two tests: `name::on_sqlite` and `name::on_postgresql`.
#[macro_export]
macro_rules! for_each_database {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn on_sqlite() {
                $crate::run(super::$name($crate::Database::Sqlite));
            }

            #[test]
            fn on_postgresql() {
                $crate::run(super::$name($crate::Database::Postgresql));
            }
        }
    )+};
}
