//! The two dialects of SQL.

/// The dialect of SQL that a database speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// SQLite's: one writer at a time, and hints in the text.
    Sqlite,
    /// PostgreSQL's: rows are locked, and the planner takes no hints.
    Postgres,
}
