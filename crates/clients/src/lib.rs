//! External systems, one per file: the key sets of token issuers, the operator's authorization webhook, its token endpoint,
//! a proxy to the package index for programs that must not have its credentials, and the public API of a Control Service for
//! commands of its users.
//!
//! The operator configures their URLs, but their responses are not trusted: redirects are not followed, responses have limits
//! of size and time, and a timeout is a platform error.

pub mod control_service;
mod http;
pub mod index_proxy;
pub mod jwks;
pub mod tokens;
pub mod webhook;
