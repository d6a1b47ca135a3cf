//! Metrics: the documents, the alert rules and the dashboard name what the program exports, and all of it is documented.

use std::{collections::BTreeSet, path::Path};

use devtools::environment::workspace;
use serde_json::Value;

use super::documents::{files_of, read};

/// Prefixes of the names of metrics: Holdfast's, and those that upstream's clients know.
const PREFIXES: [&str; 3] = ["holdfast_", "taurus_", "vdk_"];

/// The suffixes that the text format appends to a registered name: units, kinds, and the series of histograms and summaries.
const SUFFIXES: [&str; 8] = ["_seconds", "_total", "_bytes", "_bucket", "_count", "_sum", "_max", "_created"];

#[test]
fn each_metric_of_the_documents_the_rules_and_the_dashboard_exists_and_each_one_is_documented() {
    let registered = registered();
    assert!(registered.len() > 30, "{registered:?}");
    let documented = documented();
    let unknown: Vec<_> = documented.iter().filter(|name| !registered.iter().any(|r| is_of(name, r))).collect();
    assert!(unknown.is_empty(), "docs/operations/monitoring.md names metrics that do not exist: {unknown:?}");
    let missing: Vec<_> = registered.iter().filter(|r| !documented.iter().any(|name| is_of(name, r))).collect();
    assert!(missing.is_empty(), "docs/operations/monitoring.md does not describe these metrics: {missing:?}");

    let rules = read(&workspace().join("deploy/prometheus/holdfast-alerts.yaml"));
    let dashboard = queries().join("\n");
    for (what, text) in [("the alert rules", rules), ("the dashboard", dashboard)] {
        let used = names(&text);
        assert!(used.len() > 10, "{what}: {used:?}");
        let unknown: Vec<_> = used.iter().filter(|name| !documented.iter().any(|d| is_of(name, d))).collect();
        assert!(unknown.is_empty(), "{what} use metrics that are not documented: {unknown:?}");
    }
}

#[test]
fn each_panel_of_the_dashboard_has_a_description_a_unit_and_its_own_place() {
    let mut places = BTreeSet::new();
    let mut panels = 0;
    for panel in dashboard()["panels"].as_array().expect("panels") {
        let place = &panel["gridPos"];
        let number = |name: &str| place[name].as_u64().expect("a number");
        for x in number("x")..number("x") + number("w") {
            for y in number("y")..number("y") + number("h") {
                assert!(x < 24 && places.insert((x, y)), "{} overlaps another panel", panel["title"]);
            }
        }
        if panel["type"] != "row" {
            panels += 1;
            let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
            assert!(text(&panel["title"]) && text(&panel["description"]), "{panel}");
            assert!(text(&panel["fieldConfig"]["defaults"]["unit"]), "{}", panel["title"]);
        }
    }
    assert!(panels > 20, "{panels}");
}

fn dashboard() -> Value {
    serde_json::from_str(&read(&workspace().join("deploy/grafana/holdfast.json"))).expect("JSON")
}

/// The queries of the dashboard.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    panels
        .flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default())
        .map(|target| target["expr"].as_str().expect("a query").to_owned())
        .collect()
}

/// Whether a series has this registered or documented name.
fn is_of(name: &str, registered: &str) -> bool {
    let Some(mut rest) = name.strip_prefix(registered) else { return false };
    while let Some(suffix) = SUFFIXES.iter().find(|suffix| rest.starts_with(**suffix)) {
        rest = &rest[suffix.len()..];
    }
    rest.is_empty()
}

/// The names in the tables of the document.
fn documented() -> BTreeSet<String> {
    let text = read(&workspace().join("docs/operations/monitoring.md"));
    let (_, metrics) = text.split_once("## Metrics of Holdfast").expect("the part about metrics");
    let first_cells = metrics.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    first_cells.flat_map(names).collect()
}

/// The names that the program registers: literals of its sources, without tests.
fn registered() -> BTreeSet<String> {
    let mut registered = BTreeSet::new();
    for krate in ["api", "holdfast", "runtime", "store", "sync"] {
        for file in files_of(&workspace().join("crates").join(krate).join("src"), &["rs"]) {
            registered.extend(literals_beside_registration(&file));
        }
    }
    registered
}

/// Literals of a file that registers or encodes metrics, if they have the form of a metric's name.
fn literals_beside_registration(file: &Path) -> Vec<String> {
    let text = read(file);
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    if !text.contains("prometheus_client") {
        return Vec::new();
    }
    let after_quotes = text.match_indices('"').map(|(at, _)| &text[at + 1..]);
    let literals = after_quotes.filter_map(|rest| rest.split('"').next());
    literals
        .filter(|literal| names(literal).first().is_some_and(|name| name == literal))
        .map(ToOwned::to_owned)
        .collect()
}

/// The names of metrics in a text.
fn names(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix) && word.len() > prefix.len()))
        .map(ToOwned::to_owned)
        .collect()
}
