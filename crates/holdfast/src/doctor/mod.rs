//! `holdfast doctor`: checks what the service needs, and names the command that fixes what is wrong.

mod machine;
mod neighbours;
mod verdict;

use std::io::Write;

use model::clock::SharedClock;
use serde::Serialize;

use self::verdict::Verdict;
use crate::config::{Loaded, ProcessEnvironment};

/// A check and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The name of the check.
    check: &'static str,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Carries out every check.
pub(crate) async fn examine(environment: &ProcessEnvironment, loaded: &Loaded, clock: &SharedClock) -> Vec<Finding> {
    let settings = &loaded.settings;
    let (database, server_time) = neighbours::database(settings, clock).await;
    let verdicts = [
        ("python", machine::python(environment, settings, clock).await),
        ("disk", machine::disk(&[&settings.data_dir, &settings.cache_folder()])),
        ("clock", machine::clock(clock.now(), server_time)),
        ("permissions", machine::permissions(&settings.data_dir)),
        ("port", machine::port(settings).await),
        ("database", database),
        ("cluster", neighbours::cluster(settings, clock).await),
        ("registry", neighbours::registry(settings, clock).await),
        ("issuer", neighbours::issuer(settings, clock).await),
    ];
    verdicts.map(|(check, verdict)| Finding { check, verdict }).into()
}

/// A configuration that can't be loaded, as the only finding.
pub(crate) fn unreadable_configuration(error: &dyn std::fmt::Display) -> Vec<Finding> {
    let verdict =
        Verdict::wrong(error.to_string(), "correct the setting; `holdfast config` shows where each value comes from");
    vec![Finding { check: "configuration", verdict }]
}

/// Whether nothing is wrong. Warnings do not count.
pub(crate) fn is_well(findings: &[Finding]) -> bool {
    !findings.iter().any(|finding| matches!(finding.verdict, Verdict::Wrong { .. }))
}

/// Prints the findings for people.
pub(crate) fn print(findings: &[Finding], out: &mut dyn Write) -> std::io::Result<()> {
    for Finding { check, verdict } in findings {
        let (word, found, fix) = match verdict {
            Verdict::Ok { found } => ("ok", found, None),
            Verdict::Warning { found, fix } => ("warning", found, Some(fix)),
            Verdict::Wrong { found, fix } => ("WRONG", found, Some(fix)),
            Verdict::Skipped { found } => ("skipped", found, None),
        };
        writeln!(out, "{word:<8} {check:<12} {}", found.trim().replace('\n', "\n                      "))?;
        if let Some(fix) = fix {
            writeln!(out, "         {:<12} {fix}", "  fix:")?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_no_failure_and_each_fault_has_its_fix_below() {
        let finding = |check, verdict| Finding { check, verdict };
        let mut findings =
            vec![finding("python", Verdict::ok("3.11")), finding("disk", Verdict::warning("2 GiB", "free some"))];
        assert!(is_well(&findings));
        findings.push(finding("port", Verdict::wrong("in use", "ss -ltnp")));
        findings.push(finding("cluster", Verdict::skipped("jobs run here")));
        assert!(!is_well(&findings));
        let mut out = Vec::new();
        print(&findings, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok       python       3.11\n\
             warning  disk         2 GiB\n           \
             fix:       free some\n\
             WRONG    port         in use\n           \
             fix:       ss -ltnp\n\
             skipped  cluster      jobs run here\n"
        );
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!(
            json[2],
            serde_json::json!({ "check": "port", "result": "wrong", "found": "in use", "fix": "ss -ltnp" })
        );
    }
}
