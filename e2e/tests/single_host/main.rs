//! Promises of Holdfast to users of the `vdk` client, each a test against the real binary.

mod access;
mod attacks;
mod bad_input;
mod clients;
mod commands;
mod crashes;
mod dags;
mod dashboard;
mod engineers;
mod instances;
mod lifecycle;
mod limits;
mod load;
mod metrics;
mod on_call;
mod openapi;
mod outcomes;
mod sandbox;
mod service_manager;
mod starts;
