//! Classifies failures of the installer by its own words.

use std::{io, path::Path};

use model::{Problem, problem::Code};

use crate::{Interpreter, command::Output};

/// Lines of the installer's that are shown, and bytes of them.
const SHOWN_LINES: usize = 20;
const SHOWN_BYTES: usize = 2000;

/// The installer's words for a mistake in the requirements or in a package: those of its solver, of its parser and of build
/// back ends. Each is a text in the program of uv 0.13.9. Any other text means a platform error, which is retried: a wrong
/// guess then costs a retry, where a wrong user error would stop the deployment until it is changed.
const USER_SIGNS: [&str; 10] = [
    "no solution found",
    "requirements are unsatisfiable",
    "failed to build `",
    "build backend returned an error",
    "couldn't parse requirement",
    "failed to parse",
    "expected one of `@`",
    "requirements contain conflicting urls",
    "url dependencies must be expressed as direct requirements",
    "metadata name `",
];

/// The installer's words for a failure of something that it depends on, which may come together with those for a mistake: a build
/// that can't fetch what it needs has failed to build. Seen with uv 0.13, or in its sources.
const PLATFORM_SIGNS: [&str; 20] = [
    "failed to fetch",
    "failed to download",
    "request failed after",
    "error sending request",
    "tcp connect error",
    "dns error",
    "invalid peer certificate",
    "operation timed out",
    "network connectivity is disabled",
    "http status server error",
    "http status client error (401",
    "http status client error (403",
    "http status client error (407",
    "http status client error (429",
    "no space left on device",
    "disk quota exceeded",
    "read-only file system",
    "too many open files",
    "no interpreter found",
    "hash mismatch",
];

/// The installer's words before and after the name of a package that it would have to build.
const NO_WHEEL: (&str, &str) = ("Wheels are required for `", "`");

/// The packages that the installer did not take because it would have to build them.
pub fn without_wheels(output: &Output) -> Vec<String> {
    let text = output.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut names: Vec<String> =
        text.split(NO_WHEEL.0).skip(1).filter_map(|rest| Some(rest.split_once(NO_WHEEL.1)?.0.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

/// The problem of packages without wheels where nothing is built.
pub fn builds_are_off(what: &str, output: &Output, interpreter: &Interpreter) -> Problem {
    let names = without_wheels(output);
    let has = if names.len() == 1 { "has" } else { "have" };
    Problem::new(
        Code::PackageWheelMissing,
        what,
        format!(
            "{} {has} no wheel for Python {} on {}, and package builds are off. The installer said: {}",
            names.join(", "),
            interpreter.version,
            interpreter.platform,
            last_words(output)
        ),
    )
    .not_rolled_out()
    .fix("Require versions with wheels, or ask the operator to set `python.allow_builds = true`.")
}

/// The problem of a package whose build failed.
pub(crate) fn of_build(what: &str, name: &str, version: &str, output: &Output) -> Problem {
    let problem = of_installer(what, output);
    if problem.fault == model::problem::Fault::Platform {
        return problem;
    }
    Problem::new(
        Code::PackageBuildFailed,
        what,
        format!("{name} {version} did not build. The installer said: {}", last_words(output)),
    )
    .not_rolled_out()
    .fix("Require a version with a wheel, or one that builds in the sandbox.")
}

/// The problem behind a failed resolution or installation of a job's packages.
pub fn of_installer(what: &str, output: &Output) -> Problem {
    let text = output.stderr.to_lowercase();
    // Lines are wrapped where the terminal would end.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let says = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    if output.code.is_none() || says(&PLATFORM_SIGNS) || !says(&USER_SIGNS) {
        return of_platform(what, output);
    }
    Problem::new(Code::PackagesUnresolvable, what, format!("The installer said: {}", last_words(output)))
        .not_rolled_out()
        .fix("Correct requirements.txt or the VDK version, and deploy again.")
}

/// A failure of something that the installer depends on.
pub(crate) fn of_platform(what: &str, output: &Output) -> Problem {
    let ended = match output.code {
        Some(_) => String::new(),
        None => "The installer was killed. ".to_owned(),
    };
    Problem::new(Code::PackageInstallerFailed, what, format!("{ended}The installer said: {}", last_words(output)))
        .not_rolled_out()
        .no_action("Holdfast retries. If it persists, the operator checks the package index, the network and the disk.")
}

/// A folder that could not be used.
pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Problem {
    tracing::warn!(path = %path.display(), %error, "{what}");
    Problem::new(Code::PackageCacheFailed, what, format!("{}: {error}.", path.display()))
        .not_rolled_out()
        .no_action("Holdfast retries. If it persists, the operator checks the disk and its permissions.")
}

/// The end of a program's error output, without credentials.
pub(crate) fn last_words(output: &Output) -> String {
    let text = match output.stderr.trim() {
        "" => output.stdout.trim(),
        text => text,
    };
    if text.is_empty() {
        return "nothing.".into();
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    // The first line names the package; a traceback may follow before the end.
    let mut shown = match lines.len().checked_sub(SHOWN_LINES) {
        Some(1..) => format!("{}\n…\n{}", lines[0], lines[lines.len() - SHOWN_LINES + 1..].join("\n")),
        _ => lines.join("\n"),
    };
    if shown.len() > SHOWN_BYTES {
        let half = SHOWN_BYTES / 2;
        let mut cut = [half, shown.len() - half];
        for at in &mut cut {
            while !shown.is_char_boundary(*at) {
                *at -= 1;
            }
        }
        shown = format!("{}…{}", &shown[..cut[0]], &shown[cut[1]..]);
    }
    redacted(&shown)
}

/// The text with the user and password of every URL replaced.
pub(crate) fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '`' | '<' | '>'))
            .unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(sign) => {
                out.push_str("***");
                &after[sign..]
            }
            None => after,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use model::problem::Fault;

    use super::*;

    fn failed(stderr: &str) -> Output {
        Output { success: false, code: Some(1), stdout: String::new(), stderr: stderr.into() }
    }

    #[test]
    fn packages_without_wheels_are_named() {
        let said = "error: No solution found\n  cause: Because b==1 has no usable wheels …\n\nhint: Wheels are required \
                    for `b-c` because building from source is disabled for all packages\nhint: Wheels are\n  required for `a` because";
        assert_eq!(without_wheels(&failed(said)), ["a", "b-c"]);
        assert!(without_wheels(&failed("error: No solution found")).is_empty());
    }

    #[test]
    fn the_user_hears_of_requirements_and_the_operator_of_the_network() {
        for (said, fault) in [
            (
                "error: No solution found when resolving dependencies\n  cause: Because there is no version of requests==99.0 and you require requests==99.0",
                Fault::User,
            ),
            ("error: Failed to build `docopt==0.6`\n  cause: The build backend returned an error", Fault::User),
            (
                "error: Request failed after 3 retries in 5.4s\n  cause: Failed to fetch: http://127.0.0.1:9/simple/requests/",
                Fault::Platform,
            ),
            ("error: failed to write\n  cause: No space left on device (os error 28)", Fault::Platform),
            ("error: Couldn't parse requirement in `requirements.txt` at position 0\n  cause: no name", Fault::User),
            (
                "error: Failed to build `docopt==0.6`\n  cause: Failed to resolve requirements\n  cause: No solution found\n  \
                 cause: dns error: failed to lookup address",
                Fault::Platform,
            ),
            // Words of another version, or of none that was seen.
            ("error: Could not retrieve `requests` from the index: it is not available", Fault::Platform),
            ("thread 'main' panicked at crates/uv/src/lib.rs", Fault::Platform),
        ] {
            let problem = of_installer("The packages were not resolved.", &failed(said));
            assert_eq!(problem.fault, fault, "{said}");
            assert!(problem.why.contains(said.lines().last().unwrap().trim()), "{}", problem.why);
        }
    }

    #[test]
    fn a_long_complaint_keeps_its_first_and_last_lines() {
        let text = format!("error: first\n{}last", "between\n".repeat(500));
        let shown = last_words(&failed(&text));
        assert!(shown.starts_with("error: first\n…") && shown.ends_with("last") && shown.len() <= SHOWN_BYTES + 12);
        let wide = last_words(&failed(&"ä".repeat(5000)));
        assert!(wide.len() <= SHOWN_BYTES + 12);
    }

    #[test]
    fn no_password_of_a_url_is_shown() {
        for (said, shown) in [
            ("see https://u:p@host/simple/ and", "see https://***@host/simple/ and"),
            ("(http://token@h:9/x) https://h/y", "(http://***@h:9/x) https://h/y"),
            ("https://u:p@ss@host", "https://***@host"),
            ("a@b :// c@d", "a@b :// c@d"),
        ] {
            assert_eq!(redacted(said), shown);
        }
    }
}
