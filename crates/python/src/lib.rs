//! The Python of this machine: which interpreters there are, the installer that is used with them, and environments.
//!
//! Above [`model`], below `image` (which resolves locks with [`Tools`]) and `runtime` (which makes environments with
//! them). Nothing here reads the service's own environment or configuration: [`ToolsOptions`] and [`Discovery`] carry
//! all of it.

mod built;
mod command;
mod environment;
mod fault;
mod index;
mod interpreters;
mod open_files;
mod pins;
mod provenance;
mod sandbox_policy;
mod sandboxed;
mod secrets_client;
mod target;
mod tools;
mod untrusted;
mod wheels;

pub use command::Output;
pub use fault::{builds_are_off, of_installer, without_wheels};
pub use index::{IndexAccess, IndexSession};
pub use interpreters::{Discovery, Interpreter, SUPPORTED, discover, supported, usual_folders};
pub use open_files::{open_files_of_children, raise_open_files};
pub use pins::{checked_lock, packages_of};
/// The hidden command that starts foreign code in its sandbox, and its launcher.
pub use sandbox::{Launcher, SandboxPolicy, main as confined};
pub use sandbox_policy::BuildSandboxPolicy;
pub use sandboxed::BuildSandbox;
pub use target::{ImagePlatform, no_wheel};
pub use tools::{ENVIRONMENT, Tools, ToolsOptions};
pub use wheels::{Wheels, checked, constraints_for};
