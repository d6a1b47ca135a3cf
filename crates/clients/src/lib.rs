//! Outside systems, one a file: the key sets of token issuers, and the operator's authorization service.
//!
//! Their addresses are the operator's alone, and still nothing that they answer is trusted: no redirect is followed, an
//! answer has a size and a time, and what does not come in time is an error of the platform.

mod http;
pub mod jwks;
pub mod webhook;
