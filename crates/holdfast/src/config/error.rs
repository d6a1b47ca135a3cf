//! Errors of the configuration: the place, the cause and the correct form.

use std::{fmt, path::PathBuf};

use super::setting::Setting;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The default.
    Default,
    /// A line of `holdfast.toml`.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl Origin {
    /// The kind of place, for machines.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Environment(_) => "environment",
            Self::Flag(_) => "flag",
        }
    }

    /// How `setting` is written in this place, with its example.
    pub(crate) fn example(&self, setting: &Setting) -> String {
        match self {
            Self::File { .. } => match setting.key.rsplit_once('.') {
                Some((table, key)) => format!("{key} = {} (under [{table}])", setting.example_toml()),
                None => format!("{} = {}", setting.key, setting.example_toml()),
            },
            Self::Flag(flag) => format!("{flag}={}", setting.example),
            Self::Default | Self::Environment(_) => format!("{}={}", setting.env, setting.example),
        }
    }
}

/// One error of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigIssue {
    /// Where it is written: a place and, where it is known, a setting.
    pub(crate) place: String,
    /// The error, without a secret.
    pub(crate) wrong: String,
    /// The correct form.
    pub(crate) hint: String,
}

impl ConfigIssue {
    /// A value that a setting does not accept. `why` is a sentence about "it".
    pub(crate) fn value(setting: &Setting, origin: &Origin, given: Option<&str>, why: &str) -> Self {
        let wrong = match given {
            Some(given) if !setting.secret => format!("{} is not accepted: {why}", model::name::excerpt(given)),
            _ => format!("The value is not accepted: {why}"),
        };
        Self {
            place: format!("{} ({origin})", setting.key),
            wrong,
            hint: format!("For example: {}", origin.example(setting)),
        }
    }

    /// A name that none of `settings` has. `spelled` writes a setting in the form of the place where the name was found.
    pub(crate) fn unknown(
        settings: &[Setting],
        origin: &Origin,
        sort: &str,
        name: &str,
        spelled: impl Fn(&Setting) -> String,
    ) -> Self {
        let wrong = format!("There is no {sort} {}.", model::name::excerpt(name));
        let hint = match closest(settings, name) {
            Some(setting) => format!("Did you mean {}?", spelled(setting)),
            None => "`holdfast config` lists the settings.".into(),
        };
        Self { place: origin.to_string(), wrong, hint }
    }
}

/// All errors of the configuration, reported at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigError(pub(crate) Vec<ConfigIssue>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("The configuration is not valid.")?,
            many => write!(f, "The configuration is not valid in {many} places.")?,
        }
        for ConfigIssue { place, wrong, hint } in &self.0 {
            write!(f, "\n\n  {place}\n    {wrong}\n    {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A name without the differences between key, variable and flag.
fn normal(name: &str) -> String {
    let name = name.trim_start_matches('-').to_lowercase().replace(['.', '-'], "_");
    name.strip_prefix("holdfast_").unwrap_or(&name).to_owned()
}

/// The setting with the most similar name.
fn closest<'a>(settings: &'a [Setting], name: &str) -> Option<&'a Setting> {
    /// From 0 (nothing in common) to 1 (equal); below this, a suggestion would only confuse.
    const ALIKE_ENOUGH: f64 = 0.84;
    // A right key in a wrong table.
    let alone = name.rsplit_once('.').map(|(_, key)| key);
    let name = normal(name);
    let likeness = |setting: &Setting| {
        let other = normal(setting.key);
        if other == name || alone == Some(setting.key) || other.ends_with(&format!("_{name}")) {
            return 1.0;
        }
        let (whole, last) = (strsim::jaro_winkler(&other, &name), setting.key.rsplit('.').next().unwrap_or_default());
        whole.max(strsim::jaro_winkler(last, &name) - 0.01)
    };
    settings
        .iter()
        .map(|setting| (likeness(setting), setting))
        .filter(|(likeness, _)| *likeness >= ALIKE_ENOUGH)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, setting)| setting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    #[test]
    fn a_misspelt_name_finds_the_setting_that_was_meant() {
        for (given, meant) in [
            ("listn", Some("listen")),
            ("HOLDFAST_DATADIR", Some("data_dir")),
            ("sync_parallelism", Some("sync.parallelism")),
            ("sync.paralelism", Some("sync.parallelism")),
            ("sync.sweep_interval", Some("sync.sweep_interval_seconds")),
            ("sweep_interval_seconds", Some("sync.sweep_interval_seconds")),
            ("lease", Some("lease_seconds")),
            ("sync.lease_seconds", Some("lease_seconds")),
            ("service.listen", Some("listen")),
            ("allowed_host", Some("allowed_hosts")),
            ("HOLDFAST_DATABASE", Some("database_url")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(closest(SETTINGS, given).map(|s| s.key), meant, "{given}");
        }
    }

    #[test]
    fn a_setting_that_is_written_without_its_table_is_reported_with_it() {
        for (given, meant) in [
            ("image_builder", "image.builder"),
            ("image_name", "image.name"),
            ("kubernetes_context", "kubernetes.context"),
            ("kubernetes_namespace", "kubernetes.namespace"),
            ("kubernetes.outage_window_seconds", "outage_window_seconds"),
            ("image.registry_url", "registry_url"),
        ] {
            assert_eq!(closest(SETTINGS, given).map(|s| s.key), Some(meant), "{given}");
        }
    }
}
