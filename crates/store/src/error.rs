//! Errors of the store, and the problems that callers receive for them.

use model::problem::Code;

/// How long the statements of a caller's read may take: on SQLite all of a transaction together, on PostgreSQL each. The
/// statement of an abandoned request continues no longer than that.
pub const CALLERS_READ_SECONDS_MAX: u64 = 10;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique index or a foreign key refused it.
    #[error("a constraint of the database refused the change")]
    Constraint(#[source] sqlx::Error),
    /// The database can't be reached, is full, or did not answer in time.
    #[error("the database did not answer")]
    Unavailable(#[source] sqlx::Error),
    /// More callers than connections: none became free in time, although the database answers.
    #[error("no connection to the database became free in time")]
    PoolExhausted,
    /// A statement took longer than the limit, or is of a shape that the database does not work on.
    #[error("a statement was given up, because it takes too long")]
    TooExpensive(#[source] sqlx::Error),
    /// The rows that were read hold more memory than they may.
    #[error("the rows hold more memory than they may")]
    Refused(model::Problem),
    /// The database went away while it was asked to commit: the change may be stored or not.
    #[error("the database did not say whether the change is stored")]
    Uncertain(#[source] sqlx::Error),
    /// Text holds a character that PostgreSQL can't store: U+0000.
    #[error("a text holds the character U+0000")]
    Unstorable,
    /// This is no database that can be used.
    #[error("the database can't be used: {why}")]
    Unfit {
        /// The mistake in it, without a password.
        why: String,
    },
    /// A newer program brought the schema to where this one can't follow.
    #[error(
        "the database's schema is newer than this program: it needs one that knows migration {needed}, and this one knows \
         those up to {known}; install the newer version"
    )]
    SchemaTooNew {
        /// The migration that a program must know at least.
        needed: i64,
        /// The newest one that this program knows.
        known: i64,
    },
    /// A row holds what this program never writes.
    #[error("the database holds {what} that this program cannot read")]
    Corrupt {
        /// Which value, without its content.
        what: String,
    },
    /// This instance does not have a key of the secrets.
    #[error("this instance does not have the encryption key {key_id}")]
    KeyMissing {
        /// Which key.
        key_id: String,
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

impl StoreError {
    /// Whether a server that is not there yet may explain it, so that it is worth waiting. A user, a password or a name
    /// of a database that is wrong stays wrong.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(sqlx::Error::Database(e)) => {
                let code = e.code().unwrap_or_default();
                !(code.starts_with("28") || code == "3D000")
                    && e.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_none()
            }
            Self::Unavailable(_) | Self::Uncertain(_) => true,
            _ => false,
        }
    }

    /// Whether another row has what only one may have.
    pub(crate) fn is_of_unique_index(&self) -> bool {
        matches!(self, Self::Constraint(sqlx::Error::Database(e)) if e.is_unique_violation())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let error = match error {
            sqlx::Error::Decode(cause) => match cause.downcast::<Refused>() {
                Ok(refused) => return Self::Refused(refused.0),
                Err(cause) => sqlx::Error::Decode(cause),
            },
            error => error,
        };
        match &error {
            sqlx::Error::Database(e)
                if e.is_unique_violation() || e.is_foreign_key_violation() || e.is_check_violation() =>
            {
                Self::Constraint(error)
            }
            // Its byte sequence is valid UTF-8: it came from a Rust string.
            sqlx::Error::Database(e) if e.code().as_deref() == Some("22021") => Self::Unstorable,
            error_ if is_too_expensive(error_) => Self::TooExpensive(error),
            error_ if is_unavailable(error_) => Self::Unavailable(error),
            _ => Self::Statement(error),
        }
    }
}

/// Whether the database ended a statement that took too long, or refused one as too complex.
fn is_too_expensive(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(e) = error else { return false };
    match (e.try_downcast_ref::<sqlx::sqlite::SqliteError>(), e.code().as_deref()) {
        // INTERRUPT.
        (Some(_), Some("9")) => true,
        (Some(_), _) => e.message().starts_with("Expression tree is too large"),
        // Query canceled, statement too complex.
        (None, Some(code)) => matches!(code, "57014" | "54001"),
        (None, None) => false,
    }
}

/// Whether the database can't serve at the moment, as opposed to a statement that it refuses.
pub(crate) fn is_unavailable(error: &sqlx::Error) -> bool {
    use sqlx::Error::{Database, Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
    match error {
        Database(e) => match (e.try_downcast_ref::<sqlx::sqlite::SqliteError>(), e.code()) {
            // BUSY, IOERR, FULL, CANTOPEN, READONLY; the primary code is the lowest byte.
            (Some(_), Some(code)) => code.parse().is_ok_and(|code: i32| matches!(code & 0xff, 5 | 8 | 10 | 13 | 14)),
            (None, Some(code)) => {
                // Connection exceptions, a login refused, resources, operator intervention, system errors.
                ["08", "28", "53", "57", "58"].iter().any(|class| code.starts_with(class))
                    // Not to be serialized, a deadlock, a lock that was not free in time, a transaction that rested too
                    // long, a server that only reads at the moment, a database that is not there at the moment.
                    || matches!(&*code, "40001" | "40P01" | "55P03" | "25P03" | "25006" | "3D000")
            }
            (_, None) => false,
        },
        Io(_) | PoolTimedOut | PoolClosed | WorkerCrashed | Protocol(_) | Tls(_) => true,
        _ => false,
    }
}

/// The result of a function of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A meter's refusal on its way through the database library.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) model::Problem);

pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { what: what.into() }
}

impl From<StoreError> for model::Problem {
    /// The problem that a caller gets when the database fails. The cause goes to the log, not to the caller.
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(error = %error, %cause, "the database is not available");
                Self::new(Code::DatabaseUnavailable, "The request failed.", "The database does not respond.")
                    .nothing_changed()
                    .fix("Retry; if it persists, the operator checks the database and `GET /readyz`.")
            }
            StoreError::PoolExhausted => Self::new(
                Code::DatabaseConnectionsExhausted,
                "The request was rejected.",
                "All connections to the database are in use (`database_connections`).",
            )
            .nothing_changed()
            .fix("Retry in a few seconds."),
            StoreError::Refused(problem) => problem.clone(),
            StoreError::TooExpensive(cause) => {
                tracing::warn!(error = %error, %cause, "a statement was cancelled");
                Self::new(
                    Code::DatabaseStatementTimeout,
                    "The request was cancelled.",
                    format!("The database took too long for it (limit {CALLERS_READ_SECONDS_MAX} seconds)."),
                )
                .nothing_changed()
                .fix("Retry in a few seconds.")
            }
            StoreError::Uncertain(cause) => {
                tracing::warn!(error = %error, %cause, "the connection to the database broke during a commit");
                Self::new(
                    Code::CommitOutcomeUnknown,
                    "It is not known whether the request was carried out.",
                    "The connection to the database broke during the commit.",
                )
                .follows("The change is stored as a whole or not at all.")
                .fix("Check whether the change was applied; if not, retry.")
            }
            StoreError::SchemaTooNew { .. } => {
                tracing::error!(error = %error, "this program is too old for the database");
                Self::new(
                    Code::DatabaseSchemaTooNew,
                    "The request was rejected.",
                    "This instance is older than the schema of its database.",
                )
                .nothing_changed()
                .fix("Retry at another instance; the operator upgrades this one.")
            }
            StoreError::KeyMissing { key_id } => {
                tracing::error!(key_id, "an encryption key is missing");
                Self::new(
                    Code::EncryptionKeyMissing,
                    "The request was rejected.",
                    format!("This instance does not have the encryption key {key_id}."),
                )
                .follows("Nothing was changed. Requests without secrets continue to work.")
                .fix(format!("The operator copies {key_id}.key into the folder of keys of this instance."))
            }
            StoreError::Unstorable => Self::new(
                Code::TextUnstorable,
                "The request was rejected.",
                "A text in it holds the character U+0000, which can't be stored.",
            )
            .nothing_changed()
            .fix("Remove the character and send the request again."),
            other => {
                let cause = std::error::Error::source(other).map(ToString::to_string);
                tracing::error!(error = %other, cause, "a statement failed");
                Self::new(
                    Code::DatabaseError,
                    "The request failed.",
                    "The database rejected a statement: this is a bug in Holdfast, or a damaged row.",
                )
                .nothing_changed()
                .fix("The operator finds the details in the log under this operation id.")
            }
        }
    }
}
