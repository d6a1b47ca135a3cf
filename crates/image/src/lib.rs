//! The artifacts of deployments: requirements read and resolved into one lock with VDK's, or the names of images.

pub mod embedded;
pub mod lock;
pub mod oci;
pub mod packages;
pub mod prebuilt;
pub mod registry;
pub mod requirements;
pub mod service;

pub use embedded::{Embedded, EmbeddedOptions};
pub use lock::LockResolver;
pub use packages::Packages;
