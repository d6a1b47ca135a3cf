//! Leader epochs and leases.

/// A leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub i64);

/// The content of a lease row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The id of the instance that leads; empty after it released the lease.
    pub holder: String,
    /// The leader epoch.
    pub epoch: i64,
    /// Counts the lease renewals within the epoch.
    pub renewals: i64,
    /// The fingerprint of the holder's configuration; absent where an older program leads.
    pub configuration: Option<String>,
}
