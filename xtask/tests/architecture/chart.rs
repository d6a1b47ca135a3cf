//! The Helm chart: its page is generated from its values, and it has the version of the program.

use devtools::chart;

use super::documents::read;

#[test]
fn the_page_of_the_chart_has_the_values_with_their_comments() {
    let page = read(&chart::folder().join("README.md"));
    let renewed = chart::readme(&page, &read(&chart::folder().join("values.yaml"))).expect("a page");
    assert!(page == renewed, "charts/holdfast/README.md is old; run `cargo xtask chart`");
    assert!(page.lines().filter(|line| line.starts_with("| `")).count() > 80, "{page}");
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    assert_eq!(chart::version().expect("a version"), env!("CARGO_PKG_VERSION"));
}
