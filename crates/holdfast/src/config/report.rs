//! The settings as a table for people, as JSON, and as the page `docs/configuration.md`.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::{
    load::Loaded,
    setting::{Default, Group, Setting},
    table::SETTINGS,
};

impl Loaded {
    /// A table of setting, value and where it came from.
    pub(crate) fn as_text(&self) -> String {
        let rows: Vec<[String; 3]> = SETTINGS
            .iter()
            .zip(self.settings.shown())
            .zip(&self.origins)
            .map(|((setting, value), origin)| [setting.key.to_owned(), text(setting, &value), origin.to_string()])
            .collect();
        let heading = ["SETTING", "VALUE", "FROM"].map(str::to_owned);
        let width = |column: usize| {
            rows.iter().chain([&heading]).map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let (first, second) = (width(0), width(1));
        let mut out = match &self.file {
            Some(file) => format!("Configuration file: {}\n\n", file.display()),
            None => "Configuration file: none\n\n".into(),
        };
        for [setting, value, origin] in [&heading].into_iter().chain(&rows) {
            let _ = writeln!(out, "{setting:first$}  {value:second$}  {origin}");
        }
        out
    }

    /// The same for machines.
    pub(crate) fn as_json(&self) -> Json {
        let settings: Vec<_> = SETTINGS
            .iter()
            .zip(self.settings.shown())
            .zip(&self.origins)
            .map(|((setting, value), origin)| {
                json!({
                    "name": setting.key,
                    "value": value,
                    "source": origin.kind(),
                    "at": origin.to_string(),
                    "environment": setting.env,
                    "flag": format!("--{}", setting.flag),
                })
            })
            .collect();
        json!({ "file": self.file, "settings": settings })
    }
}

/// A value in one line.
fn text(setting: &Setting, value: &Json) -> String {
    let absent = || match setting.default {
        Default::Absent(told) => format!("({})", told.replace('`', "")),
        Default::Text(_) | Default::Computed { .. } => "-".into(),
    };
    match value {
        Json::Null => absent(),
        Json::String(text) => text.clone(),
        Json::Array(parts) if parts.is_empty() => absent(),
        Json::Array(parts) => parts.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// The page that lists every setting.
pub(crate) fn markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    index(&mut out);
    for group in Group::ALL {
        let _ = write!(out, "\n## {}\n", group.title());
        for setting in SETTINGS.iter().filter(|s| s.group == group) {
            let Setting { key, env, flag, doc, .. } = setting;
            let _ = write!(out, "\n### `{key}`\n\n{}\n\n", doc.trim());
            let _ = writeln!(out, "- Variable `{env}`, flag `--{flag}`");
            let unit = setting.unit().map(|unit| format!(", in {unit}")).unwrap_or_default();
            let _ = writeln!(out, "- Accepts {}{unit}", (setting.kind)());
            let _ = writeln!(out, "- Default: {}", default_text(setting));
            let _ = writeln!(out, "- Runtime: {}", setting.applies_to().as_str());
            let _ = writeln!(out, "- Takes effect {}", setting.takes_effect().as_str());
            if setting.secret {
                let _ = writeln!(out, "- May hold a secret: shown without it");
            }
        }
    }
    let _ =
        write!(out, "\n## A file with every setting\n\nThe values are examples.\n\n```toml\n{}```\n", example_file());
    out
}

/// The index: a line for each setting.
fn index(out: &mut String) {
    out.push_str("\n## Index\n\n| setting | default | runtime | description |\n| --- | --- | --- | --- |\n");
    for group in Group::ALL {
        for setting in SETTINGS.iter().filter(|s| s.group == group) {
            let anchor: String =
                setting.key.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect();
            let (default, summary) = (default_text(setting), setting.summary().trim().replace('|', "\\|"));
            let runtime = setting.applies_to().as_str();
            let _ = writeln!(out, "| [`{}`](#{anchor}) | {default} | {runtime} | {summary} |", setting.key);
        }
    }
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `cargo run -p holdfast -- config --markdown`; a test compares. -->

Holdfast needs no configuration: `holdfast serve` starts with the defaults on this page. `holdfast config` prints the
current values and where each one came from.

A setting has one name, written in three ways:

| place | example |
| --- | --- |
| file (`holdfast.toml`) | `parallelism = 32` under `[sync]` |
| environment | `HOLDFAST_SYNC_PARALLELISM=32` |
| command line | `--sync-parallelism 32` |

A flag overrides the environment, the environment overrides the file, and the file overrides the default. The service
reads settings only at its start.

- File: the one that `--config` names, else `HOLDFAST_CONFIG`, else `holdfast.toml` in the current folder, else
  `$XDG_CONFIG_HOME/holdfast/holdfast.toml` (`~/.config/holdfast/`). Only one file is read. A dot in a name stands for a
  table: `sync.parallelism` is `parallelism` under `[sync]`.
- Variables: an empty one is the same as none. Variables that Kubernetes or Docker sets for a service named `holdfast`
  (`HOLDFAST_SERVICE_HOST`, `HOLDFAST_PORT=tcp://…`) are ignored.
- Lists: `[\"one\", \"two\"]` in the file, `one,two` elsewhere.
- Paths: may start with `~/`. A relative path is relative to the folder of the file, or to the current folder.
- Unknown names: an error in the file, as a `HOLDFAST_` variable and as a flag, with a suggestion. So is a value that a
  setting does not accept.
";

fn default_text(setting: &Setting) -> String {
    match setting.default {
        Default::Text(text) => format!("`{text}`"),
        Default::Absent(told) | Default::Computed { told, .. } => told.into(),
    }
}

/// A `holdfast.toml` with the example of every setting.
fn example_file() -> String {
    let mut out = String::new();
    for setting in SETTINGS.iter().filter(|s| !s.key.contains('.')) {
        let _ = writeln!(out, "{} = {}", setting.key, setting.example_toml());
    }
    let mut open = "";
    for setting in SETTINGS {
        let Some((table, key)) = setting.key.split_once('.') else { continue };
        if table != open {
            let _ = write!(out, "\n[{table}]\n");
            open = table;
        }
        let _ = writeln!(out, "{key} = {}", setting.example_toml());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Flags, ProcessEnvironment, load,
        setting::{AppliesTo, TakesEffect},
    };

    fn loaded(folder: &std::path::Path, variables: &[(&str, &str)]) -> Loaded {
        let environment = ProcessEnvironment {
            variables: variables.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            folder: folder.into(),
            home: Some("/home/me".into()),
            cores: 4,
        };
        load(&environment, &Flags::default()).unwrap()
    }

    #[test]
    fn the_page_configuration_md_lists_what_the_program_takes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == markdown(),
            "docs/configuration.md is not what the program says. Renew it:\n\n    \
             cargo run -p holdfast -- config --markdown > docs/configuration.md\n"
        );
    }

    #[test]
    fn the_index_has_a_line_of_moderate_length_for_each_setting_and_each_link_has_a_heading() {
        let page = markdown();
        for setting in SETTINGS {
            let start = format!("| [`{}`](#{}) | ", setting.key, setting.key.replace('.', ""));
            let line = page.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{start}"));
            assert!(line.matches(" | ").count() == 3 && setting.summary().len() <= 170, "{line}");
            assert!(page.contains(&format!("\n### `{}`\n", setting.key)));
        }
    }

    #[test]
    fn a_setting_of_one_runtime_or_with_a_later_effect_is_distinguished() {
        let of = |key: &str| SETTINGS.iter().find(|s| s.key == key).unwrap();
        let runtimes = |runtime| SETTINGS.iter().filter(|s| s.applies_to() == runtime).count();
        assert_eq!(runtimes(AppliesTo::Kubernetes), SETTINGS.iter().filter(|s| s.group == Group::Kubernetes).count());
        assert_eq!(of("parallel_runs").applies_to(), AppliesTo::Local);
        assert_eq!(of("vdk.version").takes_effect(), TakesEffect::NextDeployment);
        assert_eq!(of("kubernetes.template_file").takes_effect(), TakesEffect::Rollout);
        assert_eq!(of("kubernetes.namespace").takes_effect(), TakesEffect::Restart);
    }

    #[test]
    fn the_file_with_every_setting_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("holdfast.toml"), example_file()).unwrap();
        let loaded = loaded(folder.path(), &[]);
        assert!(loaded.origins.iter().all(|o| o.kind() == "file"), "{}", loaded.as_text());
    }

    #[test]
    fn the_table_says_what_is_in_force_and_where_it_came_from() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("holdfast.toml"), "\nallowed_hosts = [\"a.b\", \"c.d\"]").unwrap();
        let loaded = loaded(folder.path(), &[("HOLDFAST_SYNC_PARALLELISM", "3")]);
        let table = loaded.as_text();
        let squeezed: Vec<_> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            format!("Configuration file: {}/holdfast.toml", folder.path().display()),
            "SETTING VALUE FROM".into(),
            "listen 127.0.0.1:8092 default".into(),
            format!("allowed_hosts a.b,c.d {}/holdfast.toml:2", folder.path().display()),
            "sync.parallelism 3 HOLDFAST_SYNC_PARALLELISM".into(),
            "index_url (the installer's own: PyPI) default".into(),
        ] {
            assert!(squeezed.contains(&line), "{line}\n{table}");
        }
    }

    #[test]
    fn the_json_has_values_of_their_types() {
        let folder = tempfile::tempdir().unwrap();
        let json = loaded(folder.path(), &[("HOLDFAST_INSECURE", "true")]).as_json();
        let of = |name: &str| json["settings"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone();
        assert_eq!(of("insecure")["value"], json!(true));
        assert_eq!(of("insecure")["source"], json!("environment"));
        assert_eq!(of("insecure")["at"], json!("HOLDFAST_INSECURE"));
        assert_eq!(of("lease_seconds")["value"], json!(15));
        assert_eq!(of("allowed_hosts")["value"], json!([]));
        assert_eq!(of("uv")["value"], Json::Null);
        assert_eq!(json["file"], Json::Null);
    }

    #[test]
    fn no_secret_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let loaded = loaded(folder.path(), &[("HOLDFAST_INDEX_URL", "https://me:hunter2@host/simple")]);
        for out in [loaded.as_text(), loaded.as_json().to_string(), format!("{loaded:?}")] {
            assert!(!out.contains("hunter2"), "{out}");
        }
        assert!(loaded.as_text().contains("https://***@host/simple"));
    }
}
