//! Time and randomness as parameters, so that a test can hold both still.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

/// Where "now" and fresh identifiers come from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The present instant on the wall clock, in whole microseconds: what rows hold, so that an instant that was stored is
    /// the one that was meant.
    fn now(&self) -> Timestamp;

    /// A new random (version 4) identifier.
    fn new_id(&self) -> Uuid;
}

/// A clock that several parts share.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the machine and its random numbers: what production uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that draws identifiers")]
    fn new_id(&self) -> Uuid {
        Uuid::new_v4()
    }
}
