//! The page of metrics in the format that a scraper reads.
//!
//! The library writes OpenMetrics text. The older text of Prometheus has the same samples under other headings, and both
//! know summaries, which the library does not: a histogram without buckets is one.

use axum::http::{HeaderMap, header::ACCEPT};

/// How series are told as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus's text format 0.0.4, which every scraper reads.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a request prefers; text where it does not say.
    pub(crate) fn wanted(headers: &HeaderMap) -> Self {
        let (mut text, mut open_metrics) = (0.0_f32, 0.0_f32);
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in ranges.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let (mut version, mut quality) = (None, 1.0);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "version" => version = Some(value.trim().trim_matches('"')),
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    _ => {}
                }
            }
            let (wish, ours) = match media_type.to_ascii_lowercase().as_str() {
                "text/plain" => (&mut text, "0.0.4"),
                "application/openmetrics-text" => (&mut open_metrics, "1.0.0"),
                _ => continue,
            };
            if version.is_none_or(|version| version == ours) {
                *wish = wish.max(quality);
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// What the answer is called.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The library's text in this format.
    pub(crate) fn page(self, library: &str) -> String {
        let mut page = Page { format: self, text: String::with_capacity(library.len()), help: "", histogram: None };
        for line in library.lines() {
            page.line(line);
        }
        page.end_family();
        page.text
    }
}

/// A page that is being written.
struct Page<'a> {
    format: Format,
    text: String,
    /// The help of the family that begins.
    help: &'a str,
    /// Where the type of a histogram stands that has shown no bucket so far.
    histogram: Option<usize>,
}

impl<'a> Page<'a> {
    fn line(&mut self, line: &'a str) {
        let Some(comment) = line.strip_prefix("# ") else {
            // Of a histogram's samples only the names of buckets end so, and they all have labels.
            if self.histogram.is_some() && line.split('{').next().is_some_and(|name| name.ends_with("_bucket")) {
                self.histogram = None;
            }
            return self.push(line);
        };
        if let Some(help) = comment.strip_prefix("HELP ") {
            self.end_family();
            self.help = help.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = comment.strip_prefix("TYPE ").and_then(|rest| rest.split_once(' ')) {
            self.begin_family(name, kind);
        } else if self.format == Format::OpenMetrics {
            self.push(line);
        }
    }

    fn begin_family(&mut self, name: &str, kind: &str) {
        let (suffix, kind) = match (self.format, kind) {
            // In text a family is called as its samples are.
            (Format::Text, "counter") => ("_total", "counter"),
            (Format::Text, "info") => ("_info", "gauge"),
            (Format::Text, "unknown") => ("", "untyped"),
            (Format::Text | Format::OpenMetrics, kind) => ("", kind),
        };
        let help = self.help;
        self.push(&format!("# HELP {name}{suffix} {help}"));
        for part in ["# TYPE ", name, suffix, " "] {
            self.text.push_str(part);
        }
        self.histogram = (kind == HISTOGRAM).then_some(self.text.len());
        self.push(kind);
    }

    fn end_family(&mut self) {
        if let Some(at) = self.histogram.take() {
            self.text.replace_range(at..at + HISTOGRAM.len(), "summary");
        }
    }

    fn push(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

const HISTOGRAM: &str = "histogram";

#[cfg(test)]
mod tests {
    use prometheus_client::{
        collector::Collector,
        encoding::{DescriptorEncoder, NoLabelSet, text::encode},
        metrics::{MetricType, counter::Counter, gauge::Gauge, histogram::Histogram},
        registry::{Registry, Unit},
    };

    use super::*;

    fn wanted(accept: &[&str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        Format::wanted(&headers)
    }

    #[test]
    fn a_scraper_gets_what_it_prefers_and_everybody_else_plain_text() {
        for (accept, format) in [
            (&[][..], Format::Text),
            (&["*/*"], Format::Text),
            (&["application/json"], Format::Text),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], Format::Text),
            (&["text/plain;version=0.0.4"], Format::Text),
            (&["application/openmetrics-text"], Format::OpenMetrics),
            // Prometheus 2.42 and 3.
            (
                &["application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
                Format::OpenMetrics,
            ),
            (
                &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                   application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                   text/plain;version=0.0.4;q=0.2,*/*;q=0.1"],
                Format::OpenMetrics,
            ),
            // One that reads a version of before only, and one that would rather not.
            (&["application/openmetrics-text; version=0.0.1, text/plain;q=0.5"], Format::Text),
            (&["application/openmetrics-text;q=0.2", "text/plain;version=0.0.4;q=0.9"], Format::Text),
            (&["application/openmetrics-text;q=0"], Format::Text),
        ] {
            assert_eq!(wanted(accept), format, "{accept:?}");
        }
    }

    #[derive(Debug)]
    struct Summary;

    impl Collector for Summary {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
            let mut family = encoder.encode_descriptor("outcomes", "Outcomes", None, MetricType::Histogram)?;
            family.encode_family(&[("job", "a_bucket{")])?.encode_histogram::<NoLabelSet>(2.0, 2, &[], None)
        }
    }

    #[test]
    fn both_formats_have_the_same_samples_under_headings_of_their_own() {
        let mut registry = Registry::default();
        registry.register("plans", "Plans", Counter::<u64>::default());
        registry.register_with_unit("took", "Took", Unit::Seconds, Histogram::new([1.0]));
        registry.register("leads", "Leads", Gauge::<i64>::default());
        registry.register_collector(Box::new(Summary));
        let mut library = String::new();
        encode(&mut library, &registry).unwrap();
        let samples = "\
            plans_total 0\n\
            took_seconds_sum 0.0\n\
            took_seconds_count 0\n\
            took_seconds_bucket{le=\"1.0\"} 0\n\
            took_seconds_bucket{le=\"+Inf\"} 0\n\
            leads 0\n\
            outcomes_sum{job=\"a_bucket{\"} 2.0\n\
            outcomes_count{job=\"a_bucket{\"} 2\n";
        let text = Format::Text.page(&library);
        let open_metrics = Format::OpenMetrics.page(&library);
        for page in [&text, &open_metrics] {
            let found: String = page.lines().filter(|l| !l.starts_with('#')).flat_map(|l| [l, "\n"]).collect();
            assert_eq!(found, samples);
        }
        let headings = |page: &str| -> String {
            page.lines().filter(|l| l.starts_with('#') && !l.starts_with("# HELP")).flat_map(|l| [l, "\n"]).collect()
        };
        assert_eq!(
            headings(&text),
            "# TYPE plans_total counter\n# TYPE took_seconds histogram\n# TYPE leads gauge\n# TYPE outcomes summary\n"
        );
        assert_eq!(
            headings(&open_metrics),
            "# TYPE plans counter\n# TYPE took_seconds histogram\n# UNIT took_seconds seconds\n# TYPE leads gauge\n\
             # TYPE outcomes summary\n# EOF\n"
        );
        assert!(text.starts_with("# HELP plans_total Plans.\n# TYPE plans_total counter\nplans_total 0\n"), "{text}");
    }
}
