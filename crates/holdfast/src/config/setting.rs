//! What is known of a setting beside its value.

use super::{environment::ProcessEnvironment, value::Shape};

/// What is known of a setting beside its value.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its key in `holdfast.toml`; a dot stands between the table and the key in it.
    pub(crate) key: &'static str,
    /// Its variable in the environment; see [`variable`].
    pub(crate) env: &'static str,
    /// Its flag without dashes; see [`flag`].
    pub(crate) flag: &'static str,
    /// What it belongs to.
    pub(crate) group: Group,
    /// What it is for.
    pub(crate) doc: &'static str,
    /// Its value when nobody sets it.
    pub(crate) default: Default,
    /// A value that it takes.
    pub(crate) example: &'static str,
    /// How it is written.
    pub(crate) shape: Shape,
    /// Whether it may hold what must not be shown.
    pub(crate) secret: bool,
    /// What it takes, as part of a sentence.
    pub(crate) kind: fn() -> String,
}

/// What a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// The service as others see it.
    Service,
    /// Who may call.
    Authentication,
    /// What is kept where.
    Storage,
    /// What jobs are run with.
    Python,
    /// How jobs run.
    Runs,
    /// The cluster where jobs run.
    Kubernetes,
    /// What is kept how long.
    Retention,
    /// The loop that makes the runtime follow the database.
    Synchronizer,
    /// The service's own log and its metrics.
    Telemetry,
}

impl Group {
    /// In this order they are listed.
    pub(crate) const ALL: [Self; 9] = [
        Self::Service,
        Self::Authentication,
        Self::Storage,
        Self::Python,
        Self::Runs,
        Self::Kubernetes,
        Self::Retention,
        Self::Synchronizer,
        Self::Telemetry,
    ];

    /// Its heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Authentication => "Authentication and authorization",
            Self::Storage => "Storage",
            Self::Python => "Python and VDK",
            Self::Runs => "Runs",
            Self::Kubernetes => "Kubernetes",
            Self::Retention => "Retention",
            Self::Synchronizer => "Synchronizer",
            Self::Telemetry => "Log and metrics",
        }
    }
}

/// The value of a setting that nobody sets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Default {
    /// This one.
    Text(&'static str),
    /// None; where something else takes its place, this says what.
    Absent(&'static str),
    /// It follows from the machine.
    Computed {
        /// As text; without one, the setting has to be set.
        of: fn(&ProcessEnvironment) -> Option<String>,
        /// How it follows.
        told: &'static str,
    },
}

impl Default {
    /// In words.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Text(text) => text,
            Self::Absent(told) | Self::Computed { told, .. } => told,
        }
    }
}

impl Setting {
    /// The unit that its name ends in.
    pub(crate) fn unit(&self) -> Option<&'static str> {
        ["seconds", "days", "bytes", "mib"].into_iter().find(|unit| self.key.ends_with(&format!("_{unit}")))
    }

    /// Its example as `holdfast.toml` writes it.
    pub(crate) fn example_toml(&self) -> String {
        match self.shape {
            Shape::Text => toml::Value::from(self.example).to_string(),
            Shape::Number | Shape::Switch => self.example.into(),
            Shape::Table => format!("{{ {} }}", self.example),
            Shape::List => toml::Value::from(self.example.split(',').collect::<Vec<_>>()).to_string(),
        }
    }
}

/// The example that is given, if any, else the default.
pub(super) const fn or_default(given: &[&'static str], default: Default) -> &'static str {
    match (given, default) {
        (&[example, ..], _) | ([], Default::Text(example)) => example,
        ([], Default::Absent(_) | Default::Computed { .. }) => panic!("a setting without a default has an example"),
    }
}

/// What the variable of each setting starts with.
pub(crate) const PREFIX: &str = "HOLDFAST_";

/// The variable of the setting with this key, which has `N` bytes with its prefix.
pub(super) const fn variable<const N: usize>(key: &str) -> [u8; N] {
    spelled(PREFIX, key, b'_', true)
}

/// The flag of the setting with this key, which has `N` bytes.
pub(super) const fn flag<const N: usize>(key: &str) -> [u8; N] {
    spelled("", key, b'-', false)
}

const fn spelled<const N: usize>(prefix: &str, key: &str, between: u8, upper: bool) -> [u8; N] {
    let (prefix, key) = (prefix.as_bytes(), key.as_bytes());
    assert!(N == prefix.len() + key.len());
    let mut out = [0; N];
    let mut at = 0;
    while at < N {
        out[at] = if at < prefix.len() {
            prefix[at]
        } else {
            match key[at - prefix.len()] {
                b'.' | b'_' => between,
                letter if upper => letter.to_ascii_uppercase(),
                letter => letter,
            }
        };
        at += 1;
    }
    out
}

/// A name that [`variable`] or [`flag`] made.
pub(super) const fn text(name: &[u8]) -> &str {
    match std::str::from_utf8(name) {
        Ok(text) => text,
        Err(_) => panic!("a key is ASCII"),
    }
}
