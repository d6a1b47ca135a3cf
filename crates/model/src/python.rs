//! Versions of Python and of VDK.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Problem, name::excerpt, problem::Code};

/// A minor version of Python, such as 3.11.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PythonVersion {
    /// 3
    pub major: u16,
    /// 11
    pub minor: u16,
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for PythonVersion {
    type Err = Problem;

    fn from_str(raw: &str) -> Result<Self, Problem> {
        let digits = |part: &str| {
            (!part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse().ok())
                .flatten()
        };
        raw.split_once('.')
            .and_then(|(major, minor)| Some(Self { major: digits(major)?, minor: digits(minor)? }))
            .ok_or_else(|| {
                Problem::new(
                    Code::PythonVersionInvalid,
                    format!("The Python version {} is not valid.", excerpt(raw)),
                    "A Python version has a major and a minor number.",
                )
                .nothing_changed()
                .fix("Write it like \"3.11\".")
            })
    }
}

impl Serialize for PythonVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PythonVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|p: Problem| serde::de::Error::custom(p.why))
    }
}

/// Checks a version of VDK. It ends up in a requirement of the installer, so it is held to the characters of versions.
pub fn vdk_version(raw: &str) -> Result<String, Problem> {
    const MAX_CHARS: usize = 100;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '!');
    if raw.len() <= MAX_CHARS && raw.starts_with(|c: char| c.is_ascii_alphanumeric()) && raw.chars().all(plain) {
        return Ok(raw.to_owned());
    }
    Err(Problem::new(
        Code::VdkVersionInvalid,
        format!("The VDK version {} is not valid.", excerpt(raw)),
        format!("A version has letters, digits and \".\", \"_\", \"-\", \"+\", \"!\" only, at most {MAX_CHARS}."),
    )
    .nothing_changed()
    .fix("Write it like \"0.2.1810444937\", or leave it out."))
}

/// The Python versions that the machine or the configuration offers, ascending.
pub fn default_python(offered: &[PythonVersion], preferred: Option<PythonVersion>) -> Option<PythonVersion> {
    preferred.filter(|p| offered.contains(p)).or_else(|| offered.last().copied())
}
