//! The direction of dependencies: no crate depends on a layer above it, and libraries stay in their layers.

mod chart;
mod documents;
mod language;
mod metadata;
mod metrics;
mod modules;

use std::collections::BTreeSet;

use metadata::{Package, all_dependencies, ask, packages};

/// Which of our crates each uses. Another dependency is a failure of this test, and needs a decision first; so is one that is
/// listed and that no crate has.
const DEPENDENCIES: [(&str, &[&str]); 20] = [
    ("files", &[]),
    ("page", &[]),
    ("vdk", &[]),
    ("model", &[]),
    ("auth", &["model"]),
    ("clock", &["model"]),
    ("sandbox", &[]),
    ("python", &["files", "vdk", "model", "sandbox"]),
    ("store", &["model"]),
    ("clients", &["model", "auth"]),
    ("image", &["files", "vdk", "model", "clock", "python"]),
    ("runtime", &["files", "model", "clock", "python", "sandbox"]),
    ("app", &["model", "store"]),
    ("sync", &["model", "store"]),
    ("api", &["model", "auth", "app"]),
    (
        "holdfast",
        &[
            "files", "page", "vdk", "model", "auth", "clock", "sandbox", "store", "clients", "python", "image",
            "runtime", "sync", "api",
        ],
    ),
    ("devtools", &["files", "vdk"]),
    ("testing", &["clock", "devtools", "model", "store"]),
    ("e2e", &["devtools", "testing"]),
    ("xtask", &["devtools"]),
];

/// The additional dependencies of a crate's tests, which drive it through real neighbours.
const DEPENDENCIES_OF_TESTS: [(&str, &[&str]); 7] = [
    ("python", &["clock"]),
    ("image", &["clients", "testing"]),
    ("clients", &["clock", "testing"]),
    ("api", &["clients", "clock", "store", "testing"]),
    ("app", &["clock", "testing"]),
    ("sync", &["app", "clock", "testing"]),
    ("store", &["clock", "testing"]),
];

/// Libraries that belong to some layers alone, and to the end-to-end tests where these play a service's neighbour.
const ONLY: [(&str, &[&str]); 9] = [
    ("axum", &["api", "holdfast", "e2e"]),
    ("async-graphql", &["api"]),
    ("sqlx", &["store"]),
    ("sea-query", &["store"]),
    ("kube", &["runtime"]),
    ("reqwest", &["clients", "image", "e2e"]),
    ("clap", &["holdfast", "xtask", "e2e"]),
    ("chacha20poly1305", &["store"]),
    ("jsonwebtoken", &["api", "e2e"]),
];

/// Libraries that take long to compile. The tools that a newcomer compiles first do without.
const HEAVY: [&str; 8] = ["tokio", "sqlx", "kube", "reqwest", "axum", "hyper", "aws-lc-rs", "async-graphql"];

/// Libraries that the pure crate must never use.
const IMPURE: [&str; 9] =
    ["tokio", "tokio-util", "sqlx", "axum", "kube", "reqwest", "tracing", "futures", "async-trait"];

/// The dependencies of a package outside its tests.
fn uses(package: &Package) -> impl Iterator<Item = &str> {
    package.dependencies.iter().filter(|d| !d.is_for_tests).map(|d| d.name.as_str())
}

/// The crates of this workspace that a package uses, in tests or outside of them.
fn uses_of_ours<'a>(package: &'a Package, ours: &BTreeSet<String>, in_tests: bool) -> BTreeSet<&'a str> {
    let dependencies = package.dependencies.iter();
    let chosen = dependencies.filter(|d| d.is_for_tests == in_tests);
    chosen.map(|d| d.name.as_str()).filter(|name| ours.contains(*name)).collect()
}

/// The entry of a crate in a table.
fn listed(table: &[(&str, &[&'static str])], name: &str) -> Option<BTreeSet<&'static str>> {
    table.iter().find(|(listed, _)| *listed == name).map(|(_, to)| to.iter().copied().collect())
}

#[test]
fn dependencies_point_down_and_none_is_listed_in_vain() {
    let packages = packages();
    let ours: BTreeSet<String> = packages.iter().map(|p| p.name.clone()).collect();
    let mut wrong = Vec::new();
    for package in &packages {
        let name = package.name.as_str();
        let Some(allowed) = listed(&DEPENDENCIES, name) else {
            wrong.push(format!("{name}: ARCHITECTURE.md has no such crate; name its layer in DEPENDENCIES"));
            continue;
        };
        let allowed_in_tests = listed(&DEPENDENCIES_OF_TESTS, name).unwrap_or_default();
        let used = uses_of_ours(package, &ours, false);
        let used_in_tests: BTreeSet<&str> = &uses_of_ours(package, &ours, true) - &allowed;
        for (what, used, allowed) in [("", used, allowed), (" (in tests)", used_in_tests, allowed_in_tests)] {
            wrong.extend(used.difference(&allowed).map(|to| format!("{name} -> {to}{what} must not be")));
            wrong.extend(
                allowed.difference(&used).map(|to| format!("{name} -> {to}{what} is listed, and is not there")),
            );
        }
    }
    for (name, _) in DEPENDENCIES.iter().chain(&DEPENDENCIES_OF_TESTS) {
        if !ours.contains(*name) {
            wrong.push(format!("{name} is listed, and is not there"));
        }
    }
    assert!(wrong.is_empty(), "dependencies:\n  {}", wrong.join("\n  "));
}

#[test]
fn xtask_is_a_leaf_and_compiles_little() {
    let heavy: Vec<_> = all_dependencies("xtask").into_iter().filter(|name| HEAVY.contains(&name.as_str())).collect();
    assert!(heavy.is_empty(), "xtask compiles {heavy:?}");
    let xtask = packages().into_iter().find(|p| p.name == "xtask").expect("xtask");
    assert!(xtask.targets.iter().all(|target| target.kinds != ["lib"]), "nothing can import xtask");
}

#[test]
fn no_library_is_compiled_with_other_features_for_tests() {
    // With other features it would be compiled twice, and with it all that uses it.
    let libraries = |edges: &str| -> BTreeSet<String> {
        let tree = ask(&["tree", "--workspace", "--edges", edges, "--prefix", "none", "--format", "{p} with {f}"]);
        tree.lines().filter(|line| !line.contains('(')).map(|line| line.replace(" (*)", "")).collect()
    };
    let (product, tests) = (libraries("normal,build"), libraries("normal,build,dev"));
    assert!(product.len() > 100, "{product:?}");
    let twice: Vec<_> = product.difference(&tests).collect();
    assert!(twice.is_empty(), "tests use these with other features: {twice:?}");
}

#[test]
fn the_model_is_pure() {
    let model = packages().into_iter().find(|p| p.name == "model").expect("model");
    let impure: Vec<_> = uses(&model).filter(|d| IMPURE.contains(d)).collect();
    assert!(impure.is_empty(), "model uses {impure:?}");
}

#[test]
fn each_outside_library_stays_on_its_layers_and_is_used_there() {
    let packages = packages();
    let mut wrong = Vec::new();
    for (library, layers) in ONLY {
        let layers: BTreeSet<&str> = layers.iter().copied().collect();
        let users: BTreeSet<&str> =
            packages.iter().filter(|p| uses(p).any(|used| used == library)).map(|p| p.name.as_str()).collect();
        wrong.extend(users.difference(&layers).map(|name| format!("{name} uses {library}, and is not listed in ONLY")));
        wrong.extend(
            layers.difference(&users).map(|name| format!("ONLY lists {library} for {name}, which has no use of it")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_of_a_crate_use_one_another_in_one_direction() {
    let mut wrong = Vec::new();
    for package in packages() {
        for target in &package.targets {
            let dependencies = modules::dependencies(&target.root);
            for circle in modules::circles(&dependencies) {
                wrong.push(format!("{}, {}: a circle of files:", package.name, target.root.display()));
                for file in &circle {
                    let to: Vec<_> = dependencies[file].intersection(&circle).map(String::as_str).collect();
                    wrong.push(format!("  {file} -> {}", to.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_takes_the_workspace_lints_and_no_version_of_its_own() {
    for package in packages() {
        let manifest = std::fs::read_to_string(&package.manifest).expect("manifest");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} has no workspace lints", package.name);
        assert!(manifest.contains("version.workspace = true"), "{} has a version of its own", package.name);
        let own = manifest.lines().find(|line| line.contains("version = \""));
        assert_eq!(own, None, "{}: versions of libraries are named in the workspace alone", package.name);
    }
}
