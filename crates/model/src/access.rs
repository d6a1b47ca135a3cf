//! Who asks. Every verb takes the caller, so that no transport can forget to.

use crate::terms::Terms;

/// The one on whose behalf a verb is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user's name, as it is recorded in `deployed_by`, `started_by` and the audit trail.
    pub user: String,
    /// The operation id (`X-OPID`) that ties the request, its log lines and what it caused together.
    pub op_id: String,
    /// The terms of the request.
    pub terms: Terms,
}

impl Caller {
    /// The name that stands for a caller when authentication is off.
    pub const ANONYMOUS: &'static str = "anonymous";

    /// A caller when authentication is off.
    pub fn anonymous(op_id: impl Into<String>) -> Self {
        Self { user: Self::ANONYMOUS.into(), op_id: op_id.into(), terms: Terms::default() }
    }
}
