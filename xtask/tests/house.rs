//! The direction of dependencies: nobody calls upward, strangers stay strangers.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Which of our crates each may use. Another arrow is a failure of this test, and needs a decision first.
const ARROWS: [(&str, &[&str]); 17] = [
    ("files", &[]),
    ("vdk", &[]),
    ("model", &[]),
    ("sandbox", &[]),
    ("python", &["files", "vdk", "model", "sandbox"]),
    ("store", &["model"]),
    ("clients", &["model"]),
    ("image", &["files", "vdk", "model", "python"]),
    ("runtime", &["files", "model", "python", "sandbox"]),
    ("app", &["model", "store"]),
    ("sync", &["model", "store", "image", "runtime"]),
    ("api", &["model", "app"]),
    (
        "holdfast",
        &["files", "vdk", "model", "sandbox", "store", "clients", "python", "image", "runtime", "app", "sync", "api"],
    ),
    ("devtools", &[]),
    ("testing", &["devtools", "store"]),
    ("e2e", &["devtools", "testing"]),
    ("xtask", &["devtools"]),
];

/// What tests of a crate may use beside that, to drive it through real neighbours.
const ARROWS_OF_TESTS: [(&str, &[&str]); 6] = [
    ("image", &["clients", "testing"]),
    ("clients", &["testing"]),
    ("api", &["clients", "store", "testing"]),
    ("app", &["testing"]),
    ("sync", &["app", "testing"]),
    ("store", &["testing"]),
];

/// Libraries that belong to some floors alone, and to the end-to-end tests where these play a service's neighbour.
const ONLY: [(&str, &[&str]); 8] = [
    ("axum", &["api", "holdfast", "e2e"]),
    ("async-graphql", &["api"]),
    ("sqlx", &["store"]),
    ("kube", &["runtime", "holdfast"]),
    ("reqwest", &["clients", "image", "runtime", "e2e"]),
    ("clap", &["holdfast", "xtask", "e2e"]),
    ("chacha20poly1305", &["store"]),
    ("jsonwebtoken", &["api", "e2e"]),
];

/// What the pure crate must never know.
const IMPURE: [&str; 9] =
    ["tokio", "tokio-util", "sqlx", "axum", "kube", "reqwest", "tracing", "futures", "async-trait"];

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().other_options(["--offline".into()]).exec().expect("cargo metadata")
}

/// What a package uses outside its tests.
fn uses(package: &Package) -> impl Iterator<Item = &str> {
    package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development).map(|d| d.name.as_str())
}

#[test]
fn arrows_point_down() {
    let metadata = metadata();
    let ours: BTreeSet<&str> = metadata.workspace_packages().iter().map(|p| p.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let allowed = ARROWS.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, allowed)| *allowed);
        let Some(allowed) = allowed else {
            wrong.push(format!("{name}: the house has no such crate; name its floor in ARROWS"));
            continue;
        };
        let in_tests = ARROWS_OF_TESTS.iter().find(|(crate_name, _)| *crate_name == name).map_or(&[][..], |(_, a)| *a);
        for dependency in package.dependencies.iter().filter(|d| ours.contains(d.name.as_str())) {
            let to = dependency.name.as_str();
            let test = dependency.kind == DependencyKind::Development;
            let fits = allowed.contains(&to) || (test && in_tests.contains(&to));
            if !fits {
                wrong.push(format!("{name} -> {to}{}", if test { " (in tests)" } else { "" }));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that must not be:\n  {}", wrong.join("\n  "));
}

#[test]
fn the_model_is_pure() {
    let metadata = metadata();
    let model = metadata.workspace_packages().into_iter().find(|p| p.name.as_str() == "model").expect("model");
    let impure: Vec<_> = uses(model).filter(|d| IMPURE.contains(d)).collect();
    assert!(impure.is_empty(), "model uses {impure:?}");
}

#[test]
fn each_outside_library_stays_on_its_floor() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        for dependency in uses(package) {
            if let Some((_, floors)) = ONLY.iter().find(|(library, _)| *library == dependency)
                && !floors.contains(&name)
            {
                wrong.push(format!("{name} uses {dependency}, which belongs to {}", floors.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_takes_the_house_lints_and_no_version_of_its_own() {
    for package in metadata().workspace_packages() {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("manifest");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} has no house lints", package.name);
        assert!(manifest.contains("version.workspace = true"), "{} has a version of its own", package.name);
        let own = manifest.lines().find(|line| line.contains("version = \""));
        assert_eq!(own, None, "{}: versions of libraries are named in the workspace alone", package.name);
    }
}
