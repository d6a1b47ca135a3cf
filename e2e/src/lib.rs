//! The harness of the end-to-end tests: the real binary, the released `vdk` client, sample jobs and plain HTTP.
//!
//! A test reads as a story: [`service::Service`] is up, [`vdk::Vdk`] types commands, [`api::Api`] asks what the client
//! can't, and [`wait::until`] is the only place that sleeps.

pub mod api;
pub mod cgroup;
pub mod chart;
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

/// The same for a test that `cargo xtask test --long-of` names.
pub fn count_of(test: &str, small: usize, large: usize) -> usize {
    let chosen = devtools::environment::variable("HOLDFAST_TEST_LONG_OF");
    let is_chosen = chosen.is_some_and(|chosen| chosen.to_string_lossy().split(',').any(|name| name == test));
    if is_chosen { large } else { count(small, large) }
}

/// The team of most tests.
pub const TEAM: &str = "my team";
