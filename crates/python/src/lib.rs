//! The Python of this machine: which interpreters there are, the installer that is used with them, and environments.
//!
//! Above [`model`], below `image` (which resolves locks with [`Tools`]) and `runtime` (which makes environments with
//! them). Nothing here reads the service's own environment or configuration: [`ToolsOptions`] and [`Discovery`] carry
//! all of it.

mod command;
mod environment;
mod fault;
mod interpreters;
mod open_files;
mod tools;
mod wheels;

pub use interpreters::{Discovery, Interpreter, SUPPORTED, discover, supported};
pub use open_files::{open_files_of_children, raise_open_files};
pub use tools::{BUILD_CONSTRAINTS, DEFAULT_CONSTRAINTS, DEFAULT_VDK_REQUIREMENT, Tools, ToolsOptions};
pub use wheels::{Wheels, checked, constraints_for};
