//! The Helm chart: its generated parts, and its package.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cluster, command, environment::workspace};

/// Settings that the chart sets: values or mounted files stand for them, so `config` rejects them.
const SET_BY_THE_CHART: [&str; 13] = [
    "listen",
    "data_dir",
    "database_url",
    "runtime",
    "kubernetes.context",
    "kubernetes.namespace",
    "kubernetes.template_file",
    "vdk.options_file",
    "image.registry_credentials_file",
    "image.registry_ca_file",
    "auth.webhook_refresh_token_file",
    "metrics_listen",
    "metrics_token_file",
];

/// The line of README.md above the table of values.
const MARKER: &str = "<!-- The table is generated from values.yaml by `cargo xtask chart`; a test compares. -->\n";

/// The folder of the chart.
#[must_use]
pub fn folder() -> PathBuf {
    workspace().join("charts/holdfast")
}

/// The paths of the example values files, which are documentation.
///
/// # Errors
/// When the folder can't be read.
pub fn examples() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder().join("examples"))? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

/// README.md of the chart with the table of `values.yaml`.
///
/// # Errors
/// When the page has no place for the table, or a value has no description.
pub fn readme(page: &str, values: &str) -> Result<String> {
    let (before, _) = page.split_once(MARKER).context("README.md of the chart has no place for the table")?;
    let mut text = format!("{before}{MARKER}\n| value | default | description |\n| --- | --- | --- |\n");
    for Entry { path, default, description } in entries(values)? {
        let [default, description] = [default, description].map(|text| text.replace('|', "\\|"));
        let _ = writeln!(text, "| `{path}` | {default} | {description} |");
    }
    Ok(text)
}

/// A value that has a description.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    path: String,
    default: String,
    description: String,
}

/// The values of the file, each with the comment above it. A value without a comment belongs to the nearest one above it that
/// is described and has no described parts.
fn entries(values: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let (mut comment, mut parents): (Vec<&str>, Vec<(usize, &str)>) = (Vec::new(), Vec::new());
    for line in values.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(words) = text.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        let Some((key, value)) = text.split_once(':').filter(|(key, _)| key.bytes().all(|b| b.is_ascii_alphanumeric()))
        else {
            comment.clear();
            continue;
        };
        parents.retain(|(of, _)| *of < indent);
        parents.push((indent, key));
        let path = parents.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
        let value = value.trim();
        if !comment.is_empty() {
            let default = if value.is_empty() { "see values.yaml".to_owned() } else { format!("`{value}`") };
            entries.push(Entry { path, default, description: comment.join(" ") });
        } else if indent == 0 {
            bail!("the value {path} has no description");
        }
        comment.clear();
    }
    // The default of a section is in its parts.
    let paths: Vec<String> = entries.iter().map(|entry| format!("{}.", entry.path)).collect();
    for (at, entry) in entries.iter_mut().enumerate() {
        if paths.get(at + 1).is_some_and(|next| next.starts_with(&paths[at])) {
            entry.default = String::new();
        }
    }
    Ok(entries)
}

/// `values.schema.json` with the settings of this schema of `holdfast.toml`, less those that the chart sets.
///
/// # Errors
/// When one of both is not JSON, or a setting that the chart sets does not exist.
pub fn schema(old: &str, settings: &str) -> Result<String> {
    let (mut schema, mut settings): (Value, Value) = (serde_json::from_str(old)?, serde_json::from_str(settings)?);
    for key in SET_BY_THE_CHART {
        let (of, name) = key.split_once('.').map_or(("", key), |(of, name)| (of, name));
        let table = if of.is_empty() { &mut settings } else { &mut settings["properties"][of] };
        let removed = table["properties"].as_object_mut().and_then(|properties| properties.remove(name));
        removed.with_context(|| format!("there is no setting {key}"))?;
    }
    settings.as_object_mut().context("the schema is no object")?.remove("$schema");
    schema["properties"]["config"] = settings;
    Ok(format!("{schema:#}\n"))
}

/// The version in `Chart.yaml`, of the chart and of the program.
///
/// # Errors
/// When the file can't be read, or names two versions.
pub fn version() -> Result<String> {
    let text = fs::read_to_string(folder().join("Chart.yaml"))?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map(|value| value.trim_matches('"').to_owned()).with_context(|| format!("Chart.yaml has no {name}"))
    };
    let (chart, program) = (field("version")?, field("appVersion")?);
    if chart != program {
        bail!("Chart.yaml names the versions {chart} and {program}");
    }
    Ok(chart)
}

/// Packages the chart into a folder, and gives the path of the package.
///
/// # Errors
/// When Helm can't be had, or rejects the chart.
pub fn package(to: &Path) -> Result<PathBuf> {
    let mut helm = Command::new(cluster::helm()?);
    command::output(helm.arg("package").arg(folder()).arg("--destination").arg(to))?;
    let package = to.join(format!("holdfast-{}.tgz", version()?));
    if !package.is_file() {
        bail!("Helm made no {}", package.display());
    }
    Ok(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_listed_with_their_comments_and_sections_have_no_default() {
        let values = "# A head.\n\n# The image,\n# which is big.\nimage:\n  # Its tag.\n  tag: \"\"\n\n# Room.\nresources:\n  limits:\n    cpu: 1\n";
        let entry = |path: &str, default: &str, description: &str| Entry {
            path: path.into(),
            default: default.into(),
            description: description.into(),
        };
        assert_eq!(
            entries(values).unwrap(),
            [
                entry("image", "", "The image, which is big."),
                entry("image.tag", "`\"\"`", "Its tag."),
                entry("resources", "see values.yaml", "Room."),
            ]
        );
        assert!(entries("# A head.\n\nreplicas: 2\n").unwrap_err().to_string().contains("replicas"));
    }

    #[test]
    fn the_settings_of_the_schema_are_those_that_the_chart_does_not_set() {
        let mut settings = serde_json::json!({"$schema": "x", "properties": {"replicas_max": {"type": "integer"}}});
        for key in SET_BY_THE_CHART {
            match key.split_once('.') {
                Some((of, name)) => settings["properties"][of]["properties"][name] = Value::Bool(true),
                None => settings["properties"][key] = Value::Bool(true),
            }
        }
        let schema: Value = serde_json::from_str(&schema("{}", &settings.to_string()).unwrap()).unwrap();
        let config = &schema["properties"]["config"];
        assert_eq!(config["properties"]["replicas_max"]["type"], "integer");
        assert!(config["properties"].get("listen").is_none() && config.get("$schema").is_none(), "{config}");
        assert_eq!(config["properties"]["kubernetes"]["properties"], serde_json::json!({}));
    }
}
