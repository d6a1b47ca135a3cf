//! What the API asks other services about the sender of a request: an operator's authorization service and the issuers of
//! tokens. The API asks through these traits, and `clients` implements them. The rules themselves are in
//! [`model::access`], which knows nothing of HTTP.

use model::{BoxFuture, Problem, access::AccessRequest};

/// The decision of an authorization service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The user may.
    Allowed,
    /// The user may not.
    Refused {
        /// The service's own code for it.
        code: u16,
        /// The reason for the user; may be empty.
        text: String,
    },
}

/// A question, with the request that caused it.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizationRequest<'a> {
    /// The question.
    pub access: AccessRequest<'a>,
    /// The address of the request, without the part after a question mark.
    pub path: &'a str,
    /// The method of the request.
    pub method: &'a str,
    /// The token that the request came with.
    pub token: &'a str,
}

/// The operator's authorization service itself.
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    /// The decision of the service.
    ///
    /// # Errors
    /// Unavailable when it can't be asked, or does not say yes or no.
    fn authorize<'a>(&'a self, authorization: &'a AuthorizationRequest<'a>)
    -> BoxFuture<'a, Result<Decision, Problem>>;
}

/// The public keys of token issuers.
pub trait KeySets: Send + Sync + std::fmt::Debug {
    /// The keys (JSON Web Keys) that a token of this issuer with this key id can be signed with: those of this id, or all
    /// when the token names none. Empty when the issuer has no such key.
    ///
    /// # Errors
    /// Unavailable when the keys were never read and can't be read now.
    fn keys<'a>(
        &'a self,
        issuer: &'a str,
        key_id: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<serde_json::Value>, Problem>>;
}
