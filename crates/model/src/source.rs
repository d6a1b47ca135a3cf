//! The uploaded folder of a job, by version.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Problem, problem::Code};

/// The version of a job's source: 40 lower-case hexadecimal digits that follow from its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceVersion(String);

impl SourceVersion {
    /// Checks that `raw` is 40 lower-case hexadecimal digits.
    pub fn parse(raw: &str) -> Result<Self, Problem> {
        if raw.len() == 40 && raw.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(Self(raw.to_owned()));
        }
        Err(Problem::new(
            Code::SourceVersionInvalid,
            format!("The job version {} is not valid.", crate::name::excerpt(raw)),
            "A version has 40 hexadecimal digits.",
        )
        .nothing_changed()
        .fix("Send the version_sha that the upload of the sources returned."))
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The metadata of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Follows from the content.
    pub version: SourceVersion,
    /// Bytes of the stored archive.
    pub archive_bytes: i64,
    /// The job's `requirements.txt` as uploaded; empty when it has none.
    pub requirements: String,
    /// The user who uploaded it last.
    pub uploaded_by: String,
    /// When it was uploaded last.
    pub uploaded_at: Timestamp,
    /// Why, as the uploader said.
    pub reason: String,
}

/// The limits of an upload. Each is checked while unpacking, so that a small archive can't grow past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Bytes of the upload itself.
    pub archive_max_bytes: usize,
    /// Bytes of all files unpacked.
    pub unpacked_max_bytes: u64,
    /// Files and folders.
    pub entries_max: usize,
    /// Folders inside folders.
    pub depth_max: usize,
    /// Bytes of one path.
    pub path_max_bytes: usize,
    /// Bytes of the archive's central directory: all paths, and what else the archive says of its entries.
    pub directory_max_bytes: usize,
    /// Bytes of the job's `requirements.txt`.
    pub requirements_max_bytes: usize,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self {
            archive_max_bytes: 32 * 1024 * 1024,
            unpacked_max_bytes: 256 * 1024 * 1024,
            entries_max: 10_000,
            depth_max: 32,
            path_max_bytes: 1024,
            directory_max_bytes: 2 * 1024 * 1024,
            requirements_max_bytes: 1024 * 1024,
        }
    }
}
