//! SQL: the only truth.
//!
//! Functions are grouped by noun and take a [`Tx`] or a [`Db`]; a verb of a higher layer composes them in one
//! transaction. One text serves SQLite and PostgreSQL. Concurrency is settled here by unique indexes and conditional
//! updates, never by looking first.

mod artifact;
pub mod audit;
pub mod builds;
mod codec;
pub mod counts;
pub mod credentials;
pub mod db;
pub mod deployments;
mod dialect;
mod encrypted;
mod epoch;
mod error;
pub mod executions;
pub mod hosts;
pub mod idempotency;
pub mod inspection;
pub mod jobs;
pub mod keys;
pub mod leases;
mod like;
pub mod locks;
pub mod logs;
mod material;
mod meter;
pub mod metrics;
mod migrate;
pub mod notifications;
mod open;
mod postgres;
pub mod properties;
pub mod retention;
pub mod revisions;
pub mod schedules;
pub mod secrets;
pub mod sources;
mod sql;
mod sqlite;
mod statements;
pub mod team_secrets;
pub mod tokens;

pub use db::{Db, PostgresTx, ReadOnce, Tx};
pub use error::{CALLERS_READ_SECONDS_MAX, Result, StoreError};
pub use meter::Meter;
pub use notifications::{Notifications, Notifier};
pub use postgres::PostgresOptions;
pub use sqlite::SqliteTx;
pub use statements::Statements;
