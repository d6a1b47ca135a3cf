//! The real router on a real database in a temporary folder, request by request.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]

// Its macros are for the others.
#[macro_use]
mod support;

mod access;
mod deleted_jobs;
mod deployments;
mod descriptions;
mod edge;
mod executions;
mod graphql;
mod guard;
mod history;
mod inputs;
mod issuer;
mod jobs;
mod lists;
mod openapi;
mod operations;
mod page;
mod preconditions;
mod properties;
mod query_limits;
mod sources;
mod teams;
mod tokens;
mod transfers;
mod webhook;
