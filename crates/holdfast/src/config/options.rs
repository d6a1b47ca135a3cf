//! The options file: environment variables that the operator gives to jobs.

use std::{collections::BTreeMap, fmt, path::Path};

use model::{
    name::{JobName, excerpt},
    variables::JobOptions,
};

use super::error::{ConfigIssue, Origin};

/// The options of every job and of single ones.
///
/// The file is in the ini format that upstream uses: sections in brackets, then lines `NAME = value` (or a colon).
/// A line that starts with `#` or `;` is a comment. A value is used verbatim, without the blanks around it: quotes,
/// backslashes and `#` inside it are part of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct VdkOptions {
    /// Of `[default]`.
    default: BTreeMap<String, String>,
    /// Of each `[name-of-a-job]`.
    by_job: BTreeMap<String, BTreeMap<String, String>>,
}

// Values are secrets.
impl fmt::Debug for VdkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs: Vec<_> = self.by_job.iter().map(|(job, options)| (job, options.keys())).collect();
        f.debug_struct("VdkOptions").field("default", &self.default.keys()).field("by_job", &jobs).finish()
    }
}

/// The longest name of an option: in a cluster it is a key of a Secret.
const NAME_MAX_BYTES: usize = 253;

/// The section for every job.
const DEFAULT: &str = "default";

impl VdkOptions {
    /// Reads the file's text; `path` is named in errors.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, Vec<ConfigIssue>> {
        let mut options = Self::default();
        let mut issues = Vec::new();
        let mut section: Option<String> = None;
        let mut seen = BTreeMap::new();
        for (number, line) in (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let read = if line.starts_with('[') {
                read_section(line).map(|name| {
                    seen.entry((name.clone(), None)).or_insert(number);
                    section = Some(name);
                })
            } else {
                read_option(line, section.as_deref()).and_then(|(section, name, value)| {
                    let first = *seen.entry((section.to_owned(), Some(name.to_owned()))).or_insert(number);
                    if first != number {
                        return Err(Wrong::new(
                            format!("{name} is in [{section}] twice, first in line {first}."),
                            "Remove one of the two lines.",
                        ));
                    }
                    options.section(section).insert(name.to_owned(), value.to_owned());
                    Ok(())
                })
            };
            if let Err(Wrong { wrong, hint }) = read {
                let place = Origin::File { path: path.to_owned(), line: number }.to_string();
                issues.push(ConfigIssue { place, wrong, hint: hint.into() });
            }
        }
        if issues.is_empty() { Ok(options) } else { Err(issues) }
    }

    fn section(&mut self, name: &str) -> &mut BTreeMap<String, String> {
        if name == DEFAULT { &mut self.default } else { self.by_job.entry(name.to_owned()).or_default() }
    }

    /// With the address of the API as jobs reach it.
    pub(crate) fn for_jobs(self, rest_api_url: String) -> JobOptions {
        JobOptions { rest_api_url, default: self.default, by_job: self.by_job, ..JobOptions::default() }
    }
}

struct Wrong {
    wrong: String,
    hint: &'static str,
}

impl Wrong {
    fn new(wrong: String, hint: &'static str) -> Self {
        Self { wrong, hint }
    }
}

fn read_section(line: &str) -> Result<String, Wrong> {
    let hint = "Write [default], or the name of a job as in [daily-sales-report].";
    let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::trim) else {
        return Err(Wrong::new("A section's name stands alone on its line, in brackets.".into(), hint));
    };
    if name == DEFAULT {
        return Ok(name.into());
    }
    JobName::parse(name).map(|job| job.to_string()).map_err(|problem| {
        Wrong::new(format!("[{name}] is neither [default] nor the name of a job. {}", problem.why), hint)
    })
}

fn read_option<'a>(line: &'a str, section: Option<&'a str>) -> Result<(&'a str, &'a str, &'a str), Wrong> {
    let hint = "Write a name and a value, as in VDK_DB_DEFAULT_TYPE = trino.";
    // The line may hold a secret, so no message repeats more of it than a name.
    let Some((name, value)) = line.split_once(['=', ':']).map(|(name, value)| (name.trim(), value.trim())) else {
        return Err(Wrong::new("The line is neither a section nor a name and a value.".into(), hint));
    };
    if name.len() > NAME_MAX_BYTES {
        let wrong = format!("The name {} has more than {NAME_MAX_BYTES} bytes.", excerpt(name));
        return Err(Wrong::new(wrong, hint));
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let wrong = format!("{} is no name of a variable: it has letters, digits and underscores.", excerpt(name));
        return Err(Wrong::new(wrong, hint));
    }
    if value.contains('\0') {
        return Err(Wrong::new(format!("The value of {name} has a zero byte."), hint));
    }
    match section {
        Some(section) => Ok((section, name, value)),
        None => Err(Wrong::new(format!("{name} comes before any section."), "Write [default] above it.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<JobOptions, Vec<ConfigIssue>> {
        VdkOptions::parse(text, Path::new("o.ini")).map(|options| options.for_jobs("http://api".into()))
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_job_has_the_default_section_and_a_job_its_own() {
        let options = parse(
            "\u{feff}# comment\n; comment\n\n[default]\nVDK_A=1\n  vdk_b : two words  \r\nEMPTY =\n\n\
             [my-first-job]\nVDK_A = 2\n[ another-job ]\n[default]\nC=3\n",
        )
        .unwrap();
        assert_eq!(options.rest_api_url, "http://api");
        assert_eq!(options.default, map(&[("VDK_A", "1"), ("vdk_b", "two words"), ("EMPTY", ""), ("C", "3")]));
        assert_eq!(options.by_job, BTreeMap::from([("my-first-job".into(), map(&[("VDK_A", "2")]))]));
    }

    #[test]
    fn a_value_is_taken_as_it_is() {
        let options = parse("[default]\nA=\"q\"\nB=x#y;z\nC=c:\\n\\t\nD=k=v=w\nE:http://u\n").unwrap();
        assert_eq!(
            options.default,
            map(&[("A", "\"q\""), ("B", "x#y;z"), ("C", "c:\\n\\t"), ("D", "k=v=w"), ("E", "http://u")])
        );
    }

    #[test]
    fn an_error_names_the_line_and_no_value() {
        for (text, line, wrong) in [
            ("A=hunter2", 1, "A comes before any section."),
            ("[default]\nhunter2", 2, "neither a section nor"),
            ("[default]\n\n1A=hunter2", 3, "\"1A\" is no name of a variable"),
            ("[default]\n=hunter2", 2, "\"\" is no name of a variable"),
            ("[default]\nA B=hunter2", 2, "\"A B\" is no name"),
            ("[default]\nA=hunter2\n#\nA=hunter2", 4, "A is in [default] twice, first in line 2."),
            ("[job]\nA=1", 1, "[job] is neither [default] nor the name of a job. A name has 6 to 50 characters"),
            ("[default\nA=1", 1, "alone on its line"),
            (&format!("[default]\n{}=hunter2", "A".repeat(254)), 2, "more than 253 bytes"),
            ("[Default]", 1, "neither [default] nor"),
        ] {
            let issues = parse(text).unwrap_err();
            assert_eq!(issues[0].place, format!("o.ini:{line}"), "{text}");
            assert!(issues[0].wrong.contains(wrong), "{text}: {}", issues[0].wrong);
            assert!(!format!("{issues:?}").contains("=hunter2"));
        }
    }

    #[test]
    fn no_value_shows_in_a_debug_print() {
        let options = VdkOptions::parse("[default]\nA=hunter2\n[my-first-job]\nB=hunter2", Path::new("o")).unwrap();
        let printed = format!("{options:?}");
        assert!(printed.contains('A') && printed.contains("my-first-job") && !printed.contains("hunter2"), "{printed}");
    }
}
