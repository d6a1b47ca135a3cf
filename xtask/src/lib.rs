//! What the doorway for people (`cargo xtask`) and the end-to-end tests share: where things are kept on a developer's
//! machine, the released `vdk` client, the built binary, and a Kubernetes cluster.

pub mod binary;
pub mod cache;
pub mod client;
pub mod cluster;
pub mod environment;
pub mod progress;
pub mod promtool;
pub mod schemathesis;
pub mod service;
