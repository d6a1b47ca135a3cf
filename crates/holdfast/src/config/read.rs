//! Reading the values of settings from the file, the environment and flags.

use std::path::Path;

use super::{
    environment::ProcessEnvironment,
    error::{ConfigIssue, Origin},
    file,
    setting::{Default, PREFIX, Setting},
    value::{Base, Raw, Value},
};

/// Variables of commands that speak to a service as its users: its URL, the user's team and token. They are no settings.
pub(crate) const CLIENT_VARIABLES: [&str; 3] = ["HOLDFAST_URL", "HOLDFAST_TEAM", "HOLDFAST_TOKEN"];

/// The values that were found, and their parsed form.
pub(super) struct Reader<'a> {
    settings: &'static [Setting],
    environment: &'a ProcessEnvironment,
    /// In the order of `settings`.
    found: Vec<Option<(Raw, Origin)>>,
    issues: Vec<ConfigIssue>,
    /// One for each setting that was read.
    origins: Vec<Origin>,
}

impl<'a> Reader<'a> {
    /// A reader without values.
    pub(super) fn new(settings: &'static [Setting], environment: &'a ProcessEnvironment) -> Self {
        let found = settings.iter().map(|_| None).collect();
        Self { settings, environment, found, issues: Vec::new(), origins: Vec::with_capacity(settings.len()) }
    }

    /// The origin of each value, in the order of the settings, and all errors.
    pub(super) fn finish(self) -> (Vec<Origin>, Vec<ConfigIssue>) {
        (self.origins, self.issues)
    }

    /// Adds a value, which replaces an earlier one.
    pub(super) fn put(&mut self, setting: &'static Setting, raw: Raw, origin: Origin) {
        let at = self.settings.iter().position(|s| s.key == setting.key);
        if let Some(place) = at.and_then(|at| self.found.get_mut(at)) {
            *place = Some((raw, origin));
        }
    }

    /// Adds the values of a file.
    pub(super) fn file(&mut self, path: &Path) {
        match file::text(path) {
            Ok(text) => {
                let (found, issues) = file::values(self.settings, path, &text);
                self.issues.extend(issues);
                for (setting, raw, origin) in found {
                    self.put(setting, raw, origin);
                }
            }
            Err(wrong) => self.issues.push(ConfigIssue {
                place: path.display().to_string(),
                wrong,
                hint: "Name another file with --config or HOLDFAST_CONFIG, or correct this one.".into(),
            }),
        }
    }

    /// Adds the values of the environment.
    pub(super) fn environment(&mut self) {
        for (name, value) in &self.environment.variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            let is_no_setting = name == "HOLDFAST_CONFIG" || CLIENT_VARIABLES.contains(&name);
            if value.is_empty() || is_no_setting || is_service_link(name, &value.to_string_lossy()) {
                continue;
            }
            let origin = Origin::Environment(name.to_owned());
            match (self.settings.iter().find(|s| s.env == name), value.to_str()) {
                (Some(setting), Some(value)) => self.put(setting, Raw::Text(value.to_owned()), origin),
                (Some(setting), None) => {
                    self.issues.push(ConfigIssue::value(setting, &origin, None, "it must be text in UTF-8."));
                }
                (None, _) => {
                    self.issues.push(ConfigIssue::unknown(
                        self.settings,
                        &origin,
                        "setting with the variable",
                        name,
                        |s| s.env.into(),
                    ));
                }
            }
        }
    }

    /// The value of the next setting.
    pub(super) fn read<T: Value>(&mut self) -> Option<T> {
        let at = self.origins.len();
        let setting = self.settings.get(at)?;
        let (raw, origin) = match self.found.get_mut(at).and_then(Option::take) {
            Some((raw, origin)) => (Some(raw), origin),
            None => (self.default_of(setting), Origin::Default),
        };
        self.origins.push(origin.clone());
        let Some(raw) = raw else {
            let absent = T::absent();
            if absent.is_none() {
                self.issues.push(ConfigIssue {
                    place: setting.key.into(),
                    wrong: "It has to be set: there is no home folder (HOME is not set) that its default is in.".into(),
                    hint: format!("For example: {}", origin.example(setting)),
                });
            }
            return absent;
        };
        let folder = match &origin {
            Origin::File { path, .. } => path.parent().unwrap_or(&self.environment.folder),
            _ => &self.environment.folder,
        };
        match T::parse(&raw, Base { folder, home: self.environment.home.as_deref() }) {
            Ok(value) => Some(value),
            Err(why) => {
                self.issues.push(ConfigIssue::value(setting, &origin, Some(&raw.text()), &why));
                None
            }
        }
    }

    fn default_of(&self, setting: &Setting) -> Option<Raw> {
        match setting.default {
            Default::Text(text) => Some(text.to_owned()),
            Default::Absent(_) => None,
            Default::Computed { of, .. } => of(self.environment),
        }
        .map(Raw::Text)
    }
}

/// Whether Kubernetes or Docker set this variable for a service whose name is or starts with "holdfast":
/// `HOLDFAST_SERVICE_HOST`, `HOLDFAST_PORT=tcp://…`, `HOLDFAST_WEB_PORT_80_TCP_ADDR`.
fn is_service_link(name: &str, value: &str) -> bool {
    let words: Vec<_> = name.split('_').collect();
    let ends_with = |end: &[&str]| words.ends_with(end);
    let has = |pair: [&str; 2]| words.windows(2).any(|window| window == pair);
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let of_port = |word: &&str| word.bytes().all(|b| b.is_ascii_digit());
    ends_with(&["SERVICE", "HOST"])
        || has(["SERVICE", "PORT"])
        || (is_address && words.contains(&"PORT"))
        || words.windows(3).any(|w| w[0] == "PORT" && of_port(&w[1]) && matches!(w[2], "TCP" | "UDP" | "SCTP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    #[test]
    fn variables_that_a_cluster_sets_for_a_service_of_our_name_are_passed_over() {
        for (name, value) in [
            ("HOLDFAST_SERVICE_HOST", "10.0.0.1"),
            ("HOLDFAST_SERVICE_PORT", "8092"),
            ("HOLDFAST_SERVICE_PORT_HTTP", "8092"),
            ("HOLDFAST_PORT", "tcp://10.0.0.1:8092"),
            ("HOLDFAST_PORT_8092_TCP", "tcp://10.0.0.1:8092"),
            ("HOLDFAST_PORT_8092_TCP_PROTO", "tcp"),
            ("HOLDFAST_WEB_SERVICE_HOST", "10.0.0.1"),
            ("HOLDFAST_WEB_PORT_80_TCP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for setting in SETTINGS {
            assert!(!is_service_link(setting.env, "1"), "{}", setting.env);
        }
        assert!(!is_service_link("HOLDFAST_PORT", "8092"));
    }
}
