//! Outside systems, one a file: the key sets of token issuers, the operator's authorization service, and the token endpoint
//! that lets this service in there.
//!
//! So is the way to a package index for programs that must not have its credentials.
//!
//! Their addresses are the operator's alone, and still nothing that they answer is trusted: no redirect is followed, an
//! answer has a size and a time, and what does not come in time is an error of the platform.

mod http;
pub mod index_proxy;
pub mod jwks;
pub mod tokens;
pub mod webhook;
