//! Resources, rules and types that all layers share.
//!
//! Everything here is pure: no input or output, no clock, no randomness, no runtime. Side effects are traits
//! ([`runtime::Runtime`], [`clock::Clock`]) that a higher crate implements. A module is a resource, and the same resource has
//! the same file name in every other crate.

pub mod access;
pub mod artifact;
pub mod build;
pub mod clock;
pub mod deployment;
pub mod difference;
mod digest;
pub mod execution;
pub mod glob;
pub mod job;
pub mod lock;
pub mod log;
pub mod name;
pub mod plan;
pub mod preconditions;
pub mod problem;
pub mod python;
pub mod resources;
pub mod rollout;
pub mod runtime;
pub mod schedule;
pub mod source;
pub mod team_secret;
pub mod variables;

pub use problem::Problem;

/// A boxed future: what the methods of a trait object return.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
