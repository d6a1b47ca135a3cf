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
    for group in Group::ALL {
        let _ = write!(out, "\n## {}\n", group.title());
        for setting in SETTINGS.iter().filter(|s| s.group == group) {
            let Setting { key, env, flag, doc, .. } = setting;
            let _ = write!(out, "\n### `{key}`\n\n{}\n\n", doc.trim());
            let _ = writeln!(out, "- Variable `{env}`, flag `--{flag}`");
            let unit = setting.unit().map(|unit| format!(", in {unit}")).unwrap_or_default();
            let _ = writeln!(out, "- Takes {}{unit}", (setting.kind)());
            let _ = writeln!(out, "- Default: {}", default_text(setting));
            if setting.secret {
                let _ = writeln!(out, "- May hold a secret: shown without it");
            }
        }
    }
    let _ =
        write!(out, "\n## A file with every setting\n\nThe values are examples.\n\n```toml\n{}```\n", example_file());
    out
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `cargo run -p holdfast -- config --markdown`; a test compares. -->

Holdfast needs no configuration: `holdfast serve` starts with the defaults on this page. `holdfast config` prints what
is in force and where each value came from.

A setting has one name, written in three ways: `sync.parallelism` in the file, `HOLDFAST_SYNC_PARALLELISM` in the
environment, `--sync-parallelism` on the command line. A flag wins over the environment, the environment over the file,
the file over the default.

- **The file** is the one that `--config` names, else the one that `HOLDFAST_CONFIG` names, else `holdfast.toml` in the
  folder that the program is started in, else `$XDG_CONFIG_HOME/holdfast/holdfast.toml` (`~/.config/holdfast/`). Only
  one file is read. A dot in a name stands for a table: `sync.parallelism` is `parallelism` under `[sync]`.
- **Variables** that are empty count as not set. What a cluster or Docker sets for a service that is called `holdfast`
  (`HOLDFAST_SERVICE_HOST`, `HOLDFAST_PORT=tcp://…`) is passed over.
- **Lists** are `[\"one\", \"two\"]` in the file and `one,two` elsewhere.
- **Paths** may start with `~/`. One that is not absolute is relative to the file that it stands in, or to the folder
  that the program is started in.
- **A name that is not on this page is an error**, in the file, as a `HOLDFAST_` variable and as a flag, so that a
  misspelt setting is never passed over in silence. So is a value that a setting does not take.
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
    use crate::config::{Flags, ProcessEnvironment, load};

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
