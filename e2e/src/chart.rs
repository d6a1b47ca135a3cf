//! The Helm chart, as operators use it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use devtools::{chart, cluster, command};
use serde_json::{Value, json};

/// The values that each installation has to set, without settings.
#[must_use]
pub fn values(jobs_namespace: &str) -> Value {
    json!({
        "image": {"repository": "registry.example.com/holdfast"},
        "jobs": {"namespace": jobs_namespace},
        "database": {"existingSecret": "holdfast"},
        "encryptionKey": {"existingSecret": "holdfast-keys"},
    })
}

/// The manifests of a release in a namespace, or one template of them, rendered without a cluster.
///
/// # Errors
/// When the chart rejects the values; the message has the reason.
pub fn rendered(namespace: &str, values: &Value, template: Option<&str>) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let file = written(folder.path(), values)?;
    let mut helm = template_command(namespace)?;
    helm.arg("--values").arg(file);
    if let Some(template) = template {
        helm.args(["--show-only", template]);
    }
    command::output(&mut helm)
}

/// The manifests of an example values file, for these two namespaces.
///
/// # Errors
/// When the chart rejects the values; the message has the reason.
pub fn rendered_example(example: &Path, namespace: &str, jobs_namespace: &str) -> Result<String> {
    let mut helm = template_command(namespace)?;
    helm.arg("--values").arg(example).args(["--set", &format!("jobs.namespace={jobs_namespace}")]);
    command::output(&mut helm)
}

fn template_command(namespace: &str) -> Result<Command> {
    let mut helm = Command::new(cluster::helm()?);
    helm.args(["template", "holdfast"]).arg(chart::folder()).args(["--namespace", namespace]);
    Ok(helm)
}

/// Writes values into a file. JSON is YAML.
///
/// # Errors
/// When the folder can't be written to.
pub fn written(folder: &Path, values: &Value) -> Result<PathBuf> {
    let file = folder.join("values.yaml");
    std::fs::write(&file, values.to_string())?;
    Ok(file)
}

/// The file `holdfast.toml` in rendered manifests.
///
/// # Errors
/// When there is none.
pub fn configuration(manifests: &str) -> Result<String> {
    let (_, rest) = manifests.split_once("  holdfast.toml: |\n").context("there is no holdfast.toml")?;
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let mut text = String::new();
    for line in lines {
        text.push_str(line.trim_start_matches("    "));
        text.push('\n');
    }
    Ok(text)
}
