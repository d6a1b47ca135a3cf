//! The bill of materials (CycloneDX 1.5): each package that is compiled into the binary.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use anyhow::{Context, Result};
use devtools::{
    command,
    environment::{cargo, workspace},
};
use serde_json::{Value, json};

/// The platform of the binary.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// The document for the binary of a version.
pub(super) fn document(version: &str) -> Result<String> {
    let mut metadata = Command::new(cargo());
    metadata.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", PLATFORM]);
    let metadata: Value = serde_json::from_str(&command::output(metadata.current_dir(workspace()))?)?;
    let lock = fs::read_to_string(workspace().join("Cargo.lock"))?;
    Ok(format!("{:#}\n", of_metadata(version, &metadata, &lock)?))
}

fn of_metadata(version: &str, metadata: &Value, lock: &str) -> Result<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    // Dependencies of tests and of build scripts are not in the binary.
    let edges: BTreeMap<String, Vec<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let compiled_in = list(&node["deps"])
                .iter()
                .filter(|dep| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()))
                .map(|dep| text(&dep["pkg"]))
                .collect();
            (text(&node["id"]), compiled_in)
        })
        .collect();
    let root =
        packages.iter().find(|(_, package)| package["name"] == "holdfast").context("there is no crate holdfast")?.0;
    let (mut found, mut waiting) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(id) = waiting.pop() {
        if found.insert(id.clone()) {
            waiting.extend(edges.get(&id).cloned().unwrap_or_default());
        }
    }
    let checksums = checksums(lock);
    let url = |package: &Value| format!("pkg:cargo/{}@{}", text(&package["name"]), text(&package["version"]));
    let component = |package: &Value| {
        let mut component = json!({
            "type": "library",
            "bom-ref": url(package),
            "name": package["name"],
            "version": package["version"],
            "purl": url(package),
        });
        if let Some(license) = package["license"].as_str() {
            // `/` is an old form of OR.
            component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
        }
        if let Some(hash) = checksums.get(&(text(&package["name"]), text(&package["version"]))) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": hash}]);
        }
        component
    };
    let of = |id: &String| packages.get(id).with_context(|| format!("cargo does not describe {id}"));
    let mut components = BTreeMap::new();
    let mut dependencies = BTreeMap::new();
    for id in &found {
        let package = of(id)?;
        let mut below = Vec::new();
        for dependency in edges.get(id).into_iter().flatten() {
            below.push(url(of(dependency)?));
        }
        below.sort();
        below.dedup();
        dependencies.insert(url(package), json!({"ref": url(package), "dependsOn": below}));
        if id != root {
            components.insert(url(package), component(package));
        }
    }
    let mut program = component(of(root)?);
    program["type"] = "application".into();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": program, "properties": [{"name": "holdfast:version", "value": version}]},
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies.into_values().collect::<Vec<_>>(),
    }))
}

/// The checksums of packages by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let field = |block: &str, name: &str| {
        let value = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""))?;
        Some(value.trim_end_matches('"').to_owned())
    };
    lock.split("[[package]]")
        .filter_map(|block| Some(((field(block, "name")?, field(block, "version")?), field(block, "checksum")?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_the_binary_are_listed_with_licence_and_checksum_and_those_of_tests_are_not() {
        let package =
            |id: &str, name: &str| json!({"id": id, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0"});
        let dep = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package("a", "holdfast"), package("b", "used"), package("c", "tests"), package("d", "below")],
            "resolve": {"nodes": [
                {"id": "a", "deps": [dep("b", Value::Null), dep("c", "dev".into())]},
                {"id": "b", "deps": [dep("d", Value::Null), dep("c", "build".into())]},
                {"id": "c", "deps": []},
                {"id": "d", "deps": []},
            ]},
        });
        let lock = "[[package]]\nname = \"used\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n";
        let document = of_metadata("1.0.0", &metadata, lock).unwrap();
        let names: Vec<_> =
            document["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["below", "used"]);
        assert_eq!(document["components"][1]["hashes"][0]["content"], "abc");
        assert_eq!(document["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(document["metadata"]["component"]["name"], "holdfast");
        assert_eq!(document["dependencies"][1]["dependsOn"], json!(["pkg:cargo/used@1.0.0"]));
    }
}
