//! What a deployment's packages are: requirements read, and resolved into one lock with VDK's.

pub mod lock;
pub mod prebuilt;
pub mod requirements;

pub use lock::Locker;
