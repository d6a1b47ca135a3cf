//! Files that survive a crash, and locks between processes.
//!
//! All files are private: mode 0600 for files, 0700 for folders.

mod durable;
mod lock;

pub use durable::{copy_synced, create, make_private_folder, publish, sync_folder, write_durably};
pub use lock::Lock;
