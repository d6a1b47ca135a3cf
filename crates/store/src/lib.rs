//! SQL: the only truth.
//!
//! Functions are grouped by noun and take a [`Tx`] or a [`Db`]; a verb of a higher floor composes them in one
//! transaction. One text serves SQLite and PostgreSQL. Concurrency is settled here by unique indexes and conditional
//! updates, never by looking first.

pub mod audit;
pub mod db;
pub mod deployments;
pub mod executions;
pub mod jobs;
pub mod leases;
pub mod locks;
pub mod logs;
pub mod properties;
pub mod revisions;
pub mod schedules;
pub mod secrets;
pub mod sources;
pub mod wake;

pub use db::{Db, Tx};
pub use wake::Wake;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique index or a foreign key refused it.
    #[error("a constraint of the database refused the change")]
    Constraint(#[source] sqlx::Error),
    /// The database can't be reached, is full, or did not answer in time.
    #[error("the database did not answer")]
    Unavailable(#[source] sqlx::Error),
    /// A row holds what this program never writes.
    #[error("the database holds {what} that this program cannot read")]
    Corrupt {
        /// Which value, without its content.
        what: String,
    },
    /// The leader that wrote was replaced meanwhile; the write was refused.
    #[error("the leader's epoch {epoch} is over")]
    Fenced {
        /// The epoch that it wrote under.
        epoch: i64,
    },
    /// Anything else that SQL can say, which is a fault of this program.
    #[error("the database refused a statement")]
    Statement(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date")]
    Migration(#[source] sqlx::migrate::MigrateError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(e)
                if e.is_unique_violation() || e.is_foreign_key_violation() || e.is_check_violation() =>
            {
                Self::Constraint(error)
            }
            // SQLite: BUSY, IOERR, FULL, CANTOPEN, READONLY; their primary code is the lowest byte.
            sqlx::Error::Database(e)
                if e.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some()
                    && e.code()
                        .and_then(|code| code.parse::<i32>().ok())
                        .is_some_and(|code| matches!(code & 0xff, 5 | 8 | 10 | 13 | 14)) =>
            {
                Self::Unavailable(error)
            }
            // PostgreSQL: connection exceptions, resources, operator intervention.
            sqlx::Error::Database(e)
                if e.code().is_some_and(|code| ["08", "53", "57"].iter().any(|class| code.starts_with(class))) =>
            {
                Self::Unavailable(error)
            }
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::Unavailable(error)
            }
            _ => Self::Statement(error),
        }
    }
}

/// What a store function answers.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { what: what.into() }
}

/// An instant as rows have it: microseconds since 1970.
pub(crate) fn micros(at: jiff::Timestamp) -> i64 {
    at.as_microsecond()
}

/// An instant from a row.
pub(crate) fn instant(micros: i64) -> Result<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(micros).map_err(|_| corrupt("an instant out of range"))
}

/// An optional instant from a row.
pub(crate) fn instant_opt(micros: Option<i64>) -> Result<Option<jiff::Timestamp>> {
    micros.map(instant).transpose()
}

/// A value that a row holds as JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| corrupt(what))
}

/// A value as a row holds it.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the model's types have string keys and finite numbers")
}

/// The job id that a row names.
pub(crate) fn job_id(text: &str) -> Result<model::name::JobId> {
    uuid::Uuid::parse_str(text).map(model::name::JobId).map_err(|_| corrupt("a job id"))
}

impl From<StoreError> for model::Problem {
    /// What a caller is told when the database fails it. The cause goes to the log, not to the caller.
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(error = %error, %cause, "the database is not available");
                Self::unavailable("The request was not carried out.", "The database does not answer at the moment.")
                    .follows("Nothing was changed.")
            }
            other => {
                let cause = std::error::Error::source(other).map(ToString::to_string);
                tracing::error!(error = %other, cause, "a statement failed");
                Self::internal(
                    "The request was not carried out.",
                    "The service met a fault of its own in the database.",
                )
                .fix("Tell the operator of this service; its log has the details under this operation id.")
            }
        }
    }
}
