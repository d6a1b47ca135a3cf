//! The artifacts of deployments: requirements read and resolved into one lock with VDK's, or the names of images.

pub mod lock;
pub mod packages;
pub mod prebuilt;
pub mod requirements;

pub use lock::LockResolver;
pub use packages::Packages;
