//! A job's `requirements.txt`: names, versions and markers, and nothing else.
//!
//! The file comes from a user and steers a program that fetches: so every option, address and path in it is refused, and
//! only the parsed content is used.

use std::{collections::BTreeSet, str::FromStr};

use model::{Problem, name::excerpt, problem::Code};
use pep508_rs::{Requirement, VerbatimUrl, VersionOrUrl};

/// Lines of a file.
const LINES_MAX: usize = 1000;
/// Bytes of a file.
const FILE_MAX_BYTES: usize = 64 * 1024;

/// Returns the requirements in `raw`, one per line, sorted, without comments and repetitions.
///
/// # Errors
/// The user's: a line that is no requirement, or more than 1,000 lines or 64 KiB.
pub fn normalise(raw: &str) -> Result<String, Problem> {
    const WHAT: &str = "The job's requirements.txt is too large.";
    if raw.len() > FILE_MAX_BYTES {
        return Err(Problem::new(
            Code::RequirementsTooLarge,
            WHAT,
            format!("It has {} bytes (limit {FILE_MAX_BYTES}).", raw.len()),
        )
        .not_rolled_out()
        .fix("Remove requirements that other packages install anyway."));
    }
    let raw = raw.strip_prefix('\u{feff}').unwrap_or(raw);
    if raw.lines().count() > LINES_MAX {
        return Err(Problem::new(Code::RequirementsTooLarge, WHAT, format!("It has more than {LINES_MAX} lines."))
            .not_rolled_out()
            .fix("Remove requirements that other packages install anyway."));
    }
    let mut all = BTreeSet::new();
    for (number, line) in logical_lines(raw) {
        let line = without_comment(&line);
        if !line.is_empty() {
            all.insert(requirement(number, line)?);
        }
    }
    Ok(all.into_iter().map(|r| r + "\n").collect())
}

/// Lines joined where one ends with a backslash, each with the number of its first.
fn logical_lines(raw: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in raw.lines().enumerate() {
        let comment = line.trim_start().starts_with('#');
        let (number, mut joined) = open.take().unwrap_or((index + 1, String::new()));
        if let Some(part) = line.strip_suffix('\\').filter(|_| !comment) {
            joined.push_str(part);
            open = Some((number, joined));
        } else {
            // A comment ends a continued line and is no part of it.
            joined.push_str(if comment { "" } else { line });
            all.push((number, joined));
        }
    }
    all.extend(open);
    all
}

/// The line up to a `#` that begins it or follows white space.
fn without_comment(line: &str) -> &str {
    let cut = line
        .char_indices()
        .find(|&(at, c)| c == '#' && line[..at].chars().next_back().is_none_or(char::is_whitespace))
        .map_or(line.len(), |(at, _)| at);
    line[..cut].trim()
}

/// The way out of what is refused.
const PLAIN: &str = "Write the package by its name and version, such as \"requests>=2.31\"; the operator of this \
                     service can offer an index with other packages.";

fn requirement(number: usize, line: &str) -> Result<String, Problem> {
    let refuse = |why: String, fix: &str| {
        Err(Problem::new(
            Code::RequirementsInvalid,
            "The job's requirements.txt is not valid.",
            format!("Line {number}, {}: {why}", excerpt(&without_password(line))),
        )
        .not_rolled_out()
        .fix(fix))
    };
    if line.starts_with('-') {
        return refuse("options are not allowed.".into(), PLAIN);
    }
    if line.contains(" --") {
        return refuse("options after a package are not allowed.".into(), PLAIN);
    }
    if line.contains("://") {
        return refuse("addresses are not allowed.".into(), PLAIN);
    }
    let name_end = line.find(['[', '<', '>', '=', '!', '~', ';', ' ', '@', '(']).unwrap_or(line.len());
    let head = &line[..name_end];
    if head.starts_with(['.', '~'])
        || head.contains(['/', '\\'])
        || [".whl", ".gz", ".zip"].iter().any(|x| head.ends_with(x))
    {
        return refuse("files and folders are not allowed.".into(), PLAIN);
    }
    match Requirement::<VerbatimUrl>::from_str(line) {
        Ok(r) if matches!(r.version_or_url, Some(VersionOrUrl::Url(_))) => {
            refuse("addresses are not allowed.".into(), PLAIN)
        }
        Ok(r) => Ok(r.to_string()),
        Err(e) => refuse(
            format!("{}.", e.message.to_string().trim_end_matches('.')),
            "Write each line as a package, its version and, if need be, a marker: \
                    \"requests>=2.31; python_version >= '3.9'\".",
        ),
    }
}

/// The line without the part between `://` and `@`.
fn without_password(line: &str) -> String {
    match line.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://***@{host}"),
            None => line.to_owned(),
        },
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use model::problem::{Fault, Kind};

    use super::*;

    #[test]
    fn what_is_understood_comes_back_in_one_form() {
        for (raw, normal) in [
            ("", ""),
            ("\u{feff}requests\r\n", "requests\n"),
            ("# words\n\n  requests == 2.31.0   # why\n", "requests==2.31.0\n"),
            ("zope.interface\nDjango>=4,<5\nrequests\n", "django>=4,<5\nrequests\nzope-interface\n"),
            ("requests\nrequests\nRequests\n", "requests\n"),
            ("requests[socks, security]~=2.31", "requests[socks,security]~=2.31\n"),
            ("pandas>=2, \\\n   <3 \\\n\nclick", "click\npandas>=2,<3\n"),
            ("pandas \\\n# words \\\nclick", "click\npandas\n"),
            ("tzdata; sys_platform == 'win32'", "tzdata ; sys_platform == 'win32'\n"),
            ("a-b>=1.0.dev0 # x#y", "a-b>=1.0.dev0\n"),
            ("requests (>=2)", "requests>=2\n"),
        ] {
            let once = normalise(raw).unwrap_or_else(|p| panic!("{raw:?}: {p}"));
            assert_eq!(once, normal, "{raw:?}");
            assert_eq!(normalise(&once).unwrap(), once, "its own form is stable");
        }
    }

    #[test]
    fn whatever_could_fetch_or_read_something_else_is_refused_by_its_line() {
        for bad in [
            "-r other.txt",
            "--index-url https://evil/simple",
            "-e .",
            "--extra-index-url=https://u:secret@evil/",
            "requests --hash=sha256:00",
            "requests --config-settings x=y",
            "https://evil/a.whl",
            "git+https://u:secret@evil/a.git",
            "a @ https://u:secret@evil/a.whl",
            "a @ file:///etc/passwd",
            "a@file:/etc/passwd",
            "./folder",
            "/etc/passwd",
            "~/x",
            "..",
            "a/b",
            "a-1.0.tar.gz",
            "a-1.0-py3-none-any.whl",
            "${HOME}",
            "a==${X}",
            "requests==",
            "requests=2",
            "a b",
            "a\u{0}b",
            "requests; python_version >",
            "ä",
        ] {
            let problem =
                normalise(&format!("click\n# words\n{bad}\n")).map(|t| panic!("{bad:?} -> {t:?}")).unwrap_err();
            assert_eq!((problem.kind, problem.fault), (Kind::Invalid, Fault::User));
            assert!(problem.why.starts_with("Line 3, "), "{}", problem.why);
            assert!(!problem.why.contains("secret"), "{}", problem.why);
        }
        assert!(normalise("requests\\\n --index-url=https://evil").unwrap_err().why.starts_with("Line 1, "));
    }

    #[test]
    fn a_file_has_limits() {
        assert_eq!(normalise(&"a\n".repeat(1000)).unwrap(), "a\n");
        assert_eq!(normalise(&"a\n".repeat(1001)).unwrap_err().kind, Kind::TooLarge);
        assert_eq!(normalise(&"#".repeat(64 * 1024 + 1)).unwrap_err().kind, Kind::TooLarge);
    }
}
