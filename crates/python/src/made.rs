//! Notes of what wheels were made of.

use serde::{Deserialize, Serialize};

/// In a folder that is complete: which wheel was made of what.
pub(crate) const NOTE: &str = "wheels.json";

/// A wheel, and the source that it was made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) source_sha256: String,
    pub(crate) wheel: String,
    pub(crate) wheel_sha256: String,
}
