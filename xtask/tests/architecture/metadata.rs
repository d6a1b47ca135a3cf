//! The metadata of the workspace, from cargo.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use devtools::{
    command::output,
    environment::{cargo, workspace},
};
use serde_json::Value;

/// A crate of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// A dependency of a crate.
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Whether tests alone use it.
    pub(crate) is_for_tests: bool,
}

/// A library, a program, or a program of tests.
pub(crate) struct Target {
    pub(crate) root: PathBuf,
    pub(crate) kinds: Vec<String>,
}

/// Runs a command of cargo that needs no network, and gives its output.
pub(crate) fn ask(arguments: &[&str]) -> String {
    let mut command = Command::new(cargo());
    command.args(arguments).arg("--offline").current_dir(workspace());
    output(&mut command).unwrap_or_else(|error| panic!("{error:#}"))
}

/// For this platform alone: what other platforms need may not be on this machine.
fn asked(arguments: &[&str]) -> Value {
    let version = output(Command::new("rustc").arg("-vV")).unwrap_or_else(|error| panic!("{error:#}"));
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let all = [&["metadata", "--format-version", "1", "--filter-platform", host], arguments].concat();
    serde_json::from_str(&ask(&all)).expect("JSON")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The crates of the workspace.
pub(crate) fn packages() -> Vec<Package> {
    let metadata = asked(&["--no-deps"]);
    let packages: Vec<_> = list(&metadata["packages"])
        .map(|package| Package {
            name: text(&package["name"]),
            manifest: text(&package["manifest_path"]).into(),
            dependencies: list(&package["dependencies"])
                .map(|d| Dependency { name: text(&d["name"]), is_for_tests: d["kind"] == "dev" })
                .collect(),
            targets: list(&package["targets"])
                .map(|t| Target { root: text(&t["src_path"]).into(), kinds: list(&t["kind"]).map(text).collect() })
                .collect(),
        })
        .collect();
    assert!(packages.len() > 10, "cargo names the crates");
    packages
}

/// The names of all libraries that a crate of the workspace is compiled with, those for tests alone left out.
pub(crate) fn all_dependencies(name: &str) -> Vec<String> {
    let metadata = asked(&[]);
    let names: BTreeMap<String, String> =
        list(&metadata["packages"]).map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let nodes: BTreeMap<String, &Value> =
        list(&metadata["resolve"]["nodes"]).map(|node| (text(&node["id"]), node)).collect();
    let member = |id: &&Value| names[&text(id)] == name;
    let mut reached = vec![text(list(&metadata["workspace_members"]).find(member).expect("a crate of the workspace"))];
    let mut next = 0;
    while next < reached.len() {
        for dependency in list(&nodes[&reached[next]]["deps"]) {
            let is_for_tests = list(&dependency["dep_kinds"]).all(|kind| kind["kind"] == "dev");
            let package = text(&dependency["pkg"]);
            if !is_for_tests && !reached.contains(&package) {
                reached.push(package);
            }
        }
        next += 1;
    }
    reached.iter().map(|id| names[id].clone()).collect()
}
