//! The page of metrics in the format that a scraper reads.
//!
//! The library writes OpenMetrics text. The older text of Prometheus has the same samples under other headings, and both
//! know summaries, which the library does not: a histogram without buckets is one.

use std::fmt::{self, Write};

use axum::http::{HeaderMap, header::ACCEPT};

/// The text formats of series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus's text format 0.0.4, which every scraper reads.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that a request prefers; text by default.
    pub(crate) fn negotiated(headers: &HeaderMap) -> Self {
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

    /// The media type of the response.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Takes the library's text in, in pieces, and writes it in the format of the answer.
pub(crate) struct Page<W> {
    format: Format,
    out: W,
    /// The beginning of a line whose end has not come yet.
    line: String,
    /// The help of the family that begins.
    help: String,
    histogram: Option<Histogram>,
}

/// A histogram family whose first bucket has not been written yet.
struct Histogram {
    /// The heading up to the type.
    heading: String,
    samples: Vec<String>,
}

/// A histogram's sum and count come before its first bucket.
const BEFORE_BUCKETS: usize = 2;

impl<W: Write> Page<W> {
    pub(crate) fn new(format: Format, out: W) -> Self {
        Self { format, out, line: String::new(), help: String::new(), histogram: None }
    }

    /// Writes what is left, after all of the text has come.
    pub(crate) fn finish(mut self) -> Result<W, fmt::Error> {
        self.set_histogram_type("summary")?;
        Ok(self.out)
    }

    fn take_line(&mut self, line: &str) -> fmt::Result {
        let Some(comment) = line.strip_prefix("# ") else { return self.take_sample(line) };
        if let Some(help) = comment.strip_prefix("HELP ") {
            self.set_histogram_type("summary")?;
            help.split_once(' ').map_or("", |(_, help)| help).clone_into(&mut self.help);
            Ok(())
        } else if let Some((name, kind)) = comment.strip_prefix("TYPE ").and_then(|rest| rest.split_once(' ')) {
            self.begin_family(name, kind)
        } else if self.format != Format::OpenMetrics {
            Ok(())
        } else if let Some(histogram) = &mut self.histogram {
            // Its unit, before the first sample.
            histogram.samples.push(line.to_owned());
            Ok(())
        } else {
            self.push(line)
        }
    }

    fn take_sample(&mut self, line: &str) -> fmt::Result {
        let Some(histogram) = &mut self.histogram else { return self.push(line) };
        // Of a histogram's samples only the names of buckets end so, and they all have labels.
        let is_bucket = line.split('{').next().is_some_and(|name| name.ends_with("_bucket"));
        if !is_bucket && histogram.samples.iter().filter(|line| !line.starts_with('#')).count() < BEFORE_BUCKETS {
            histogram.samples.push(line.to_owned());
            return Ok(());
        }
        self.set_histogram_type(if is_bucket { HISTOGRAM } else { "summary" })?;
        self.push(line)
    }

    fn begin_family(&mut self, name: &str, kind: &str) -> fmt::Result {
        let (suffix, kind) = match (self.format, kind) {
            // In text a family is called as its samples are.
            (Format::Text, "counter") => ("_total", "counter"),
            (Format::Text, "info") => ("_info", "gauge"),
            (Format::Text, "unknown") => ("", "untyped"),
            (Format::Text | Format::OpenMetrics, kind) => ("", kind),
        };
        let heading = format!("# HELP {name}{suffix} {}\n# TYPE {name}{suffix} ", self.help);
        if kind == HISTOGRAM {
            self.histogram = Some(Histogram { heading, samples: Vec::new() });
            return Ok(());
        }
        self.push(&(heading + kind))
    }

    fn set_histogram_type(&mut self, kind: &str) -> fmt::Result {
        let Some(Histogram { heading, samples }) = self.histogram.take() else { return Ok(()) };
        self.push(&(heading + kind))?;
        samples.iter().try_for_each(|sample| self.push(sample))
    }

    fn push(&mut self, line: &str) -> fmt::Result {
        self.out.write_str(line)?;
        self.out.write_char('\n')
    }
}

impl<W: Write> Write for Page<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece);
            if self.line.ends_with('\n') {
                let mut line = std::mem::take(&mut self.line);
                line.pop();
                self.take_line(&line)?;
                line.clear();
                self.line = line;
            }
        }
        Ok(())
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

    fn negotiated(accept: &[&str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        Format::negotiated(&headers)
    }

    #[test]
    fn a_scraper_gets_what_it_prefers_and_all_others_plain_text() {
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
            assert_eq!(negotiated(accept), format, "{accept:?}");
        }
    }

    #[derive(Debug)]
    struct Summary;

    impl Collector for Summary {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
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
        let page = |format: Format, piece: usize| {
            let mut page = Page::new(format, String::new());
            // All of it is ASCII.
            for piece in library.as_bytes().chunks(piece) {
                page.write_str(std::str::from_utf8(piece).unwrap()).unwrap();
            }
            page.finish().unwrap()
        };
        let text = page(Format::Text, 1);
        let open_metrics = page(Format::OpenMetrics, 7);
        assert_eq!(text, page(Format::Text, library.len()), "however it comes in pieces");
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
