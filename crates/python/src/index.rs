//! The way to the package index for programs that must not learn its credentials.

use std::fmt::Debug;

use model::{BoxFuture, Problem};

/// Opens sessions with an index that has credentials. Production has a loopback proxy that adds them.
pub trait IndexAccess: Send + Sync + Debug {
    /// Opens a session.
    ///
    /// # Errors
    /// The platform's, when it can't be opened.
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn IndexSession>, Problem>>;
}

/// A way to the index that is open until it is dropped.
pub trait IndexSession: Send + Sync + Debug {
    /// A URL that stands for the index, without its credentials.
    fn index_url(&self) -> &str;

    /// The text with the index's own URL in place of the session's, for people.
    fn without_session(&self, text: &str) -> String;
}
