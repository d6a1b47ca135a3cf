//! The harness of the end-to-end tests: the real binary, the released `vdk` client, sample jobs and plain HTTP.
//!
//! A test reads as a story: [`service::Service`] is up, [`vdk::Vdk`] types commands, [`api::Api`] asks what the client
//! can't, and [`wait::until`] is the only place that sleeps.

pub mod api;
pub mod cgroup;
pub mod hostile;
pub mod issuer;
pub mod job;
pub mod kubernetes;
pub mod measure;
pub mod service;
pub mod vdk;
pub mod wait;

/// A large count with `cargo xtask test --long`, a small one otherwise.
pub fn count(small: usize, large: usize) -> usize {
    if devtools::environment::is_on("HOLDFAST_TEST_LONG") { large } else { small }
}

/// The team of most tests.
pub const TEAM: &str = "my team";
