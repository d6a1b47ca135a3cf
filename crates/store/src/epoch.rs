//! What leadership is counted with.

/// A term of leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub i64);

/// What a lease row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who leads.
    pub holder: String,
    /// The term.
    pub epoch: i64,
    /// Counts the signs of life within the term.
    pub renewals: i64,
    /// The fingerprint of the holder's configuration; absent where an older program leads.
    pub configuration: Option<String>,
}
