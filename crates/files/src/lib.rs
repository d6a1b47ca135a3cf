//! Files that survive a crash, and locks between processes.
//!
//! What is written here is private: files have mode 0600, folders 0700.

mod durable;
mod lock;

pub use durable::{copy_synced, create, make_private_folder, publish, sync_folder, write_durably};
pub use lock::Lock;
