//! Documents: each link leads somewhere, each alert has its runbook entry, and the recorded demo is drawn from its text.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use devtools::environment::workspace;

/// Folders that are not searched.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

/// The Prometheus rules, below the workspace.
const ALERTS: &str = "deploy/prometheus/holdfast-alerts.yaml";

#[test]
fn each_link_in_a_document_leads_to_a_file_and_a_heading_that_exist() {
    let documents = files_of(&workspace(), &["md"]);
    assert!(documents.len() > 50, "{documents:?}");
    let mut links = 0;
    let mut broken = Vec::new();
    for document in &documents {
        for (line, target) in links_of(&read(document)) {
            links += 1;
            let (path, anchor) = target.split_once('#').map_or((target.as_str(), None), |(path, a)| (path, Some(a)));
            let folder = document.parent().expect("a folder");
            let file = if path.is_empty() { document.clone() } else { normal(&folder.join(path)) };
            if let Err(reason) = leads_to(&file, anchor) {
                broken.push(format!("{}:{line}: {target}: {reason}", shown(document)));
            }
        }
    }
    assert!(links > 200, "only {links} links were found");
    assert!(broken.is_empty(), "broken links:\n  {}", broken.join("\n  "));
}

#[test]
fn each_document_that_source_files_name_exists() {
    let sources = files_of(&workspace(), &["rs", "yaml", "yml", "toml", "py", "sh", "sql"]);
    let mut named = 0;
    let mut broken = Vec::new();
    for source in &sources {
        for (number, line) in read(source).lines().enumerate() {
            for target in named_in(line) {
                named += 1;
                let (path, anchor) = target.split_once('#').map_or((target, None), |(path, a)| (path, Some(a)));
                if let Err(reason) = leads_to(&workspace().join(path), anchor) {
                    broken.push(format!("{}:{}: {target}: {reason}", shown(source), number + 1));
                }
            }
        }
    }
    assert!(named > 10, "only {named} names of documents were found");
    assert!(broken.is_empty(), "names of documents that don't exist:\n  {}", broken.join("\n  "));
}

#[test]
fn each_long_name_in_a_document_is_a_name_of_the_sources() {
    let sources = files_of(&workspace(), &["rs", "py", "sql"]).iter().map(|file| read(file)).collect::<String>();
    let words: BTreeSet<&str> = sources.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let mut named = 0;
    let mut unknown = Vec::new();
    // The changelog has former names.
    for document in files_of(&workspace(), &["md"]).into_iter().filter(|file| !file.ends_with("CHANGELOG.md")) {
        for (line, text) in outside_fences(&read(&document)) {
            for name in text.split('`').skip(1).step_by(2).filter(|name| is_long_name(name)) {
                named += 1;
                if !words.contains(name) {
                    unknown.push(format!("{}:{line}: {name}", shown(&document)));
                }
            }
        }
    }
    assert!(named > 100, "only {named} names were found");
    assert!(unknown.is_empty(), "names that no source file has:\n  {}", unknown.join("\n  "));
}

#[test]
fn each_source_file_that_a_document_names_exists() {
    let sources = files_of(&workspace(), &["rs"]);
    let mut named = 0;
    let mut unknown = Vec::new();
    for document in files_of(&workspace(), &["md"]).into_iter().filter(|file| !file.ends_with("CHANGELOG.md")) {
        for (line, text) in outside_fences(&read(&document)) {
            for path in text.split('`').skip(1).step_by(2) {
                let is_path = path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
                if !is_path || Path::new(path).extension().is_none_or(|extension| extension != "rs") {
                    continue;
                }
                named += 1;
                if !sources.iter().any(|source| source.ends_with(path)) {
                    unknown.push(format!("{}:{line}: {path}", shown(&document)));
                }
            }
        }
    }
    assert!(named > 80, "only {named} source files were named");
    assert!(unknown.is_empty(), "source files that don't exist:\n  {}", unknown.join("\n  "));
}

/// On the indexes of Python and Rust, the name `holdfast` belongs to other projects.
#[test]
fn no_document_installs_a_package_of_another_project() {
    let installed = |line: &str| {
        let words: Vec<_> = line.split(|c: char| c.is_whitespace() || "`\"'".contains(c)).collect();
        let commands = ["install", "uvx", "run", "download"];
        let from_index = ["pip", "pip3", "pipx", "uv", "uvx", "cargo"];
        words.iter().any(|word| from_index.contains(word))
            && words.windows(2).any(|pair| {
                commands.contains(&pair[0]) && pair[1].split(['=', '[', '@', '<', '>']).next() == Some("holdfast")
            })
    };
    assert!(
        installed("$ pip install holdfast==1") && installed("`uvx holdfast`") && installed("cargo install holdfast")
    );
    assert!(
        !installed("pip install vdk-holdfast && holdfast demo") && !installed("helm install holdfast charts/holdfast")
    );
    let mut found = Vec::new();
    for document in files_of(&workspace(), &["md", "txt", "yaml", "html"]) {
        let text = read(&document);
        let lines = text.lines().enumerate().filter(|(_, line)| installed(line));
        found.extend(lines.map(|(number, line)| format!("{}:{}: {line}", shown(&document), number + 1)));
    }
    assert!(found.is_empty(), "the distribution is vdk-holdfast:\n  {}", found.join("\n  "));
}

#[test]
fn each_alert_has_a_prefix_a_severity_a_summary_and_its_own_runbook_entry() {
    let rules = read(&workspace().join(ALERTS));
    let mut alerts = BTreeSet::new();
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().expect("a name").trim();
        assert!(name.starts_with("Holdfast"), "{name} has no prefix");
        assert!(alerts.insert(name.to_lowercase()), "{name} is there twice");
        let has = |severity: &str| rule.contains(&format!("labels: {{severity: {severity}}}"));
        assert!(["critical", "warning", "info"].into_iter().any(has), "{name} has no severity");
        assert!(rule.lines().any(|line| line.trim().starts_with("summary: ")), "{name} has no summary");
        let runbook = rule.lines().find_map(|line| line.trim().strip_prefix("runbook_url: ")).expect("a runbook");
        assert_eq!(runbook, format!("docs/operations/monitoring.md#{}", name.to_lowercase()), "{name}");
    }
    assert!(alerts.len() > 15, "{alerts:?}");
    let text = read(&workspace().join("docs/operations/monitoring.md"));
    let entries: BTreeSet<_> = anchors_of(&text).into_iter().filter(|a| a.starts_with("holdfast")).collect();
    assert_eq!(entries, alerts, "entries of the runbook, and alerts");
}

#[test]
fn each_renamed_thing_in_the_changelog_has_a_former_name_and_another_one_now() {
    let changelog = read(&workspace().join("CHANGELOG.md"));
    let (_, renamed) = changelog.split_once("### Renamed").expect("the section");
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect::<BTreeSet<_>>();
    let (mut rows, mut broken) = (0, Vec::new());
    for row in renamed.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let cells: Vec<_> = row.split(" | ").collect();
        let [_, former, now] = cells[..] else { panic!("{row}") };
        let (former, now) = (names(former), names(now));
        rows += 1;
        if former.is_empty() || former.len() != now.len() || !former.is_disjoint(&now) {
            broken.push(row);
        }
    }
    assert!(rows > 20, "only {rows} rows were read");
    assert!(broken.is_empty(), "names that did not change, or without a partner:\n  {}", broken.join("\n  "));
}

#[test]
fn the_recorded_demo_is_drawn_from_its_text_and_shown_in_the_readme() {
    let media = workspace().join("docs/media");
    let (text, drawing) = (read(&media.join("demo.txt")), read(&media.join("demo.svg")));
    for line in text.lines().filter(|line| line.starts_with("$ ") || line.starts_with('✓')) {
        // A long line is cut.
        let start: String = line.chars().take(100).collect();
        assert!(drawing.contains(&format!(">{start}")), "demo.svg lacks {line:?}; run docs/media/record.py --draw");
    }
    for command in ["$ holdfast demo --once", "$ vdk create ", "$ vdk deploy ", "$ vdk execute --start "] {
        assert!(text.contains(command), "demo.txt lacks {command}");
    }
    assert!(read(&workspace().join("README.md")).contains("](docs/media/demo.svg)"), "README does not show the demo");
}

#[test]
fn the_chart_of_the_benchmarks_shows_the_figures_of_its_data() {
    let folder = workspace().join("docs/benchmarks");
    let chart = read(&folder.join("lists.svg"));
    let mut shown = 0;
    for row in read(&folder.join("api-postgresql.csv")).lines().filter(|row| row.starts_with("\"list of 50,")) {
        // The name of the request has a comma, so that fields are counted from the right.
        let fields: Vec<_> = row.rsplit(',').collect();
        let (p50, upstream) = (fields[6], fields[0]);
        for figure in [p50, upstream].into_iter().filter(|figure| !figure.is_empty()) {
            assert!(
                chart.contains(&format!(">{figure} ms<")),
                "the chart lacks {figure}; run docs/benchmarks/chart.py"
            );
            shown += 1;
        }
    }
    assert_eq!(shown, 5, "figures of the list of 50 jobs");
    assert!(
        read(&workspace().join("docs/benchmarks.md")).contains("](benchmarks/lists.svg)"),
        "the chart is not shown"
    );
}

#[test]
fn each_decision_has_all_parts_and_is_in_the_index() {
    let folder = workspace().join("docs/decisions");
    let index = read(&folder.join("README.md"));
    let mut records = 0;
    for record in files_of(&folder, &["md"]).into_iter().filter(|file| !file.ends_with("README.md")) {
        let name = shown(&record);
        let text = read(&record);
        let file = record.file_name().and_then(|name| name.to_str()).expect("a name");
        records += 1;
        assert!(text.starts_with(&format!("# {}: ", &file[..4])), "{name}: the title has no number");
        for part in ["## Context", "## Decision", "## Alternatives", "## Consequences", "## Verified by"] {
            assert!(text.lines().any(|line| line == part), "{name} has no {part:?}");
        }
        for field in ["| Status |", "| Date |"] {
            assert!(text.contains(field), "{name} has no {field:?}");
        }
        assert!(index.contains(&format!("]({file})")), "docs/decisions/README.md does not list {name}");
    }
    assert!(records > 50, "only {records} records");
}

#[test]
fn headings_become_anchors_as_on_github() {
    let text = "# One: `two` & three\n```\n# no heading\n```\n## One\n## One\n### [A link](b.md), 4_5\n";
    let anchors = ["one-two--three", "one", "one-1", "a-link-4_5"].map(String::from);
    assert_eq!(anchors_of(text), BTreeSet::from(anchors));
    let links =
        links_of("see [a](b.md#c) and `[no](link)`\n```\n[no](x.md)\n```\n![p](q.svg) [w](https://x.y) [s](<a b.md>)");
    assert_eq!(links, [(1, "b.md#c".into()), (5, "q.svg".into()), (5, "a b.md".into())]);
}

/// Why a link to a file, and perhaps to a heading in it, leads nowhere.
fn leads_to(file: &Path, anchor: Option<&str>) -> Result<(), String> {
    if !file.exists() {
        return Err("there is no such file".into());
    }
    match anchor {
        Some(anchor) if file.extension().is_some_and(|e| e == "md") && !anchors_of(&read(file)).contains(anchor) => {
            Err(format!("{} has no heading for #{anchor}", shown(file)))
        }
        _ => Ok(()),
    }
}

/// The targets of links to files of the workspace, with their lines.
fn links_of(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in outside_fences(text) {
        let line = without_code(line);
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            let target = match rest.strip_prefix('<') {
                Some(rest) => rest.split('>').next(),
                None => rest.split([')', ' ']).next(),
            };
            let target = target.unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                links.push((number, target.to_owned()));
            }
        }
    }
    links
}

/// The anchors that GitHub makes of headings.
fn anchors_of(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in outside_fences(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let words = without_targets(heading.trim());
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase();
        let mut anchor = slug.clone();
        let mut number = 0;
        while !anchors.insert(anchor) {
            number += 1;
            anchor = format!("{slug}-{number}");
        }
    }
    anchors
}

/// Lines outside of fenced code, with their numbers from 1.
pub(super) fn outside_fences(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((index + 1, line))
    })
}

/// A line without its pieces in backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("CODE")
}

/// A heading with the texts of its links alone.
fn without_targets(heading: &str) -> String {
    let mut pieces = heading.split("](");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        text.push_str(piece.split_once(')').map_or("", |(_, rest)| rest));
    }
    text
}

/// Whether it is an identifier of six words or more, as names of tests are. Names of metrics are put together in the code.
fn is_long_name(text: &str) -> bool {
    text.matches('_').count() >= 5
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !["taurus_", "vdk_", "holdfast_"].iter().any(|prefix| text.starts_with(prefix))
}

/// Paths of documents in a line of a source file, such as `docs/guide.md#limits`.
fn named_in(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("docs/").filter_map(move |(at, _)| {
        let rest = &line[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"/._-#".contains(c)).unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches(['.', '#']);
        let before = line[..at].chars().next_back();
        let is_path = before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-');
        let file = Path::new(path.split('#').next().unwrap_or_default());
        (is_path && file.extension().is_some_and(|extension| extension == "md")).then_some(path)
    })
}

pub(super) fn files_of(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !SKIPPED.iter().any(|skipped| name == *skipped) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| extensions.iter().any(|extension| e == *extension)) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// A path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

pub(super) fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
}

pub(super) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
