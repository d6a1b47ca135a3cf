//! Traits for questions to other services about the sender of a request: the operator's authorization webhook and the
//! issuers of tokens. The API calls them, and `clients` implements them. The rules themselves are in [`model::access`],
//! which is independent of HTTP.

use model::{BoxFuture, Problem, access::AccessRequest};

/// The decision of an authorization service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The user has the permission.
    Allowed,
    /// The user lacks the permission.
    Refused {
        /// The status of the webhook.
        code: u16,
        /// The reason for the user; may be empty.
        text: String,
    },
}

/// A question to the authorization webhook, with the HTTP request that caused it.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizationRequest<'a> {
    /// The action and the resource.
    pub access: AccessRequest<'a>,
    /// The path of the request.
    pub path: &'a str,
    /// The method of the request.
    pub method: &'a str,
    /// The token of the request.
    pub token: &'a str,
}

/// The operator's authorization webhook.
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    /// Asks for a decision.
    ///
    /// # Errors
    /// Unavailable if it can't be reached, or does not decide.
    fn authorize<'a>(&'a self, authorization: &'a AuthorizationRequest<'a>)
    -> BoxFuture<'a, Result<Decision, Problem>>;
}

/// The public keys of token issuers.
pub trait KeySets: Send + Sync + std::fmt::Debug {
    /// The keys (JSON Web Keys) that a token of this issuer with this key id can be signed with: those of this id, or all
    /// when the token names none. Empty when the issuer has no such key.
    ///
    /// # Errors
    /// Unavailable if the keys were never read and can't be read now.
    fn keys<'a>(
        &'a self,
        issuer: &'a str,
        key_id: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<serde_json::Value>, Problem>>;
}
