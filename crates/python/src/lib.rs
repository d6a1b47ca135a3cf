//! The Python of this machine: which interpreters there are, the installer that is used with them, and environments.
//!
//! Above [`model`], below `image` (which resolves locks with [`Tools`]) and `runtime` (which makes environments with
//! them). Nothing here reads the service's own environment or configuration: [`ToolsOptions`] and [`Discovery`] carry
//! all of it.

mod environment;
mod interpreters;
mod tools;

pub use interpreters::{Discovery, Interpreter, discover};
pub use tools::{DEFAULT_CONSTRAINTS, DEFAULT_VDK_REQUIREMENT, Tools, ToolsOptions};
