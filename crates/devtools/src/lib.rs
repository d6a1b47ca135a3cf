//! Shared by `cargo xtask`, the end-to-end tests and the databases of tests: the developer's cache folder, the `vdk`
//! client, the built binary, and a Kubernetes cluster.

pub mod binary;
pub mod cache;
pub mod chart;
pub mod client;
pub mod cluster;
pub mod command;
pub mod environment;
pub mod image;
pub mod progress;
pub mod promtool;
pub mod schemathesis;
pub mod service;
pub mod venv;
pub mod web;
