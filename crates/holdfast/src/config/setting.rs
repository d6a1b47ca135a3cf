//! The definition of a setting.

use super::{environment::ProcessEnvironment, value::Shape};

/// The definition of a setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its key in `holdfast.toml`; a dot separates the table from the key.
    pub(crate) key: &'static str,
    /// Its variable in the environment; see [`variable`].
    pub(crate) env: &'static str,
    /// Its flag without dashes; see [`flag`].
    pub(crate) flag: &'static str,
    /// The group of the setting.
    pub(crate) group: Group,
    /// The description.
    pub(crate) doc: &'static str,
    /// The default.
    pub(crate) default: Default,
    /// A valid value.
    pub(crate) example: &'static str,
    /// How it is written.
    pub(crate) shape: Shape,
    /// Whether it may hold a secret.
    pub(crate) secret: bool,
    /// The accepted values, as part of a sentence.
    pub(crate) kind: fn() -> String,
}

/// The runtimes that a setting applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppliesTo {
    /// Every runtime.
    Both,
    /// `runtime = "local"`.
    Local,
    /// `runtime = "kubernetes"`.
    Kubernetes,
}

impl AppliesTo {
    /// The text in the index of the document.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Local => "local",
            Self::Kubernetes => "Kubernetes",
        }
    }
}

/// When a changed setting takes effect. The service reads settings only at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakesEffect {
    /// At the restart.
    Restart,
    /// For deployments that are made after the restart.
    NextDeployment,
    /// For executions that start after the restart; in a cluster after the rollout of their deployments.
    NextExecution,
    /// After the restart, existing deployments are rolled out again.
    Rollout,
}

impl TakesEffect {
    /// The text in the document.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "at restart",
            Self::NextDeployment => "after restart, for new deployments",
            Self::NextExecution => {
                "after restart, for new executions (in Kubernetes, Holdfast rolls existing \
                        deployments out again in batches)"
            }
            Self::Rollout => "after restart, when Holdfast has rolled existing deployments out again (in batches)",
        }
    }
}

/// A group of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Addresses, limits and links.
    Service,
    /// Authentication of callers.
    Authentication,
    /// Files and database.
    Storage,
    /// Python and VDK.
    Python,
    /// How jobs run.
    Runs,
    /// The cluster where jobs run.
    Kubernetes,
    /// Retention.
    Retention,
    /// The loops of the leader.
    Synchronizer,
    /// The service's own log and its metrics.
    Telemetry,
}

impl Group {
    /// All groups, in the order of the document.
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

/// The default of a setting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Default {
    /// This one.
    Text(&'static str),
    /// No value; the text says what applies instead.
    Absent(&'static str),
    /// A value that depends on the machine.
    Computed {
        /// The value as text; without one, the setting must be set.
        of: fn(&ProcessEnvironment) -> Option<String>,
        /// How it is computed, in words.
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

    /// The runtimes that it applies to.
    pub(crate) fn applies_to(&self) -> AppliesTo {
        match (self.group, self.key) {
            (Group::Python, "vdk.version" | "vdk.options_file" | "vdk.principal_pattern") => AppliesTo::Both,
            (Group::Python, _) | (_, "parallel_runs" | "cache_dir" | "auth.teams_trust_each_other") => AppliesTo::Local,
            (Group::Kubernetes, _) => AppliesTo::Kubernetes,
            _ => AppliesTo::Both,
        }
    }

    /// When a change of it takes effect.
    pub(crate) fn takes_effect(&self) -> TakesEffect {
        match self.key {
            "python.version" | "vdk.version" | "kubernetes.python_versions" => TakesEffect::NextDeployment,
            "vdk.options_file"
            | "vdk.principal_pattern"
            | "rest_api_url"
            | "run.deadline_seconds"
            | "run.backoff_limit"
            | "start_deadline_seconds"
            | "time_zone" => TakesEffect::NextExecution,
            "vdk.distribution"
            | "vdk.constraints_file"
            | "outage_window_seconds"
            | "image.builder"
            | "image.base_images"
            | "image.name"
            | "registry_url" => TakesEffect::Rollout,
            "kubernetes.context"
            | "kubernetes.namespace"
            | "kubernetes.adopt"
            | "kubernetes.ignore_paths"
            | "kubernetes.controller_time_zone" => TakesEffect::Restart,
            key if key.starts_with("kubernetes.") => TakesEffect::Rollout,
            _ => TakesEffect::Restart,
        }
    }

    /// The first sentence of its description.
    pub(crate) fn summary(&self) -> &'static str {
        let doc = self.doc.trim();
        doc.find(". ").map_or(doc, |end| &doc[..=end])
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

/// The prefix of environment variables.
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
