//! `holdfast explain`: the state of a job in ten lines.

use std::io::Write;

use clap::{Arg, ArgMatches, Command};
use clients::control_service::ControlService;
use jiff::Timestamp;
use model::clock::SharedClock;
use serde_json::Value;

use super::connection::{ConnectionFlags, JobPlace};
use crate::config::ProcessEnvironment;

/// The longest text of a line, before it is cut.
const LINE_MAX_CHARS: usize = 300;

/// The job to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Explain {
    flags: ConnectionFlags,
    job: String,
}

/// The command line of `explain`.
pub(super) fn command() -> Command {
    Command::new("explain")
        .about("Explain the state of a job in ten lines: deployment, last failure, changes since the last success, next start.")
        .arg(Arg::new("job").value_name("JOB").required(true).help("The name of the job"))
        .args(ConnectionFlags::args())
        .after_help("Example:\n  holdfast explain my-first-job")
}

impl Explain {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        Self { flags: ConnectionFlags::of(matches), job: matches.get_one("job").cloned().unwrap_or_default() }
    }
}

/// Prints the ten lines.
///
/// # Errors
/// If the service can't be reached, or the user may see no such job.
pub(crate) async fn run(
    environment: &ProcessEnvironment,
    explain: &Explain,
    clock: &SharedClock,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let connection = explain.flags.connect(environment, &**clock)?;
    let place = connection.find(&explain.job).await?;
    let facts = Facts::read(&connection.service, place).await?;
    for (name, text) in facts.lines(clock.now()) {
        writeln!(out, "{name:<16}{}", one_line(&text))?;
    }
    Ok(out.flush()?)
}

/// The lines of a deployment, executions and revisions as the API describes them.
struct Facts {
    place: JobPlace,
    rollout: Option<Value>,
    /// Oldest first.
    executions: Vec<Value>,
    /// The changes between the revision of the last success and the desired one; absent if they are unknown.
    changes: Option<Vec<Value>>,
}

impl Facts {
    async fn read(service: &ControlService, place: JobPlace) -> anyhow::Result<Self> {
        let rollout = place.rollout(service).await?;
        let executions = service.get(&place.path(&["executions"]), &[]).await?;
        let executions = executions.as_array().cloned().unwrap_or_default();
        let mut facts = Self { place, rollout, executions, changes: None };
        facts.changes = facts.changes_since_success(service).await?;
        Ok(facts)
    }

    /// The newest execution with one of these statuses.
    fn newest(&self, statuses: &[&str]) -> Option<&Value> {
        let is = |execution: &&Value| execution["status"].as_str().is_some_and(|status| statuses.contains(&status));
        self.executions.iter().rev().find(is)
    }

    async fn changes_since_success(&self, service: &ControlService) -> anyhow::Result<Option<Vec<Value>>> {
        let Some((rollout, success)) = self.rollout.as_ref().zip(self.newest(&["succeeded"])) else { return Ok(None) };
        let Some(desired) = rollout["desired_revision"].as_i64() else { return Ok(None) };
        let listed = self.place.path(&["deployments", "production", "revisions"]);
        let listed = service.get(&listed, &[("limit", "1000")]).await?;
        let deployed = &success["deployment"];
        let same = |revision: &&Value| {
            ["job_version", "python_version", "vdk_version"].iter().all(|field| revision[*field] == deployed[*field])
                && same_time(&revision["deployed_date"], &deployed["deployed_date"])
        };
        let revisions = listed["revisions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(before) = revisions.iter().find(same).and_then(|found| found["revision"].as_i64()) else {
            return Ok(None);
        };
        let (before, desired) = (before.to_string(), desired.to_string());
        let diff = self.place.path(&["deployments", "production", "revisions", &before, "diff", &desired]);
        let diff = service.get(&diff, &[]).await?;
        Ok(diff["changes"].as_array().cloned())
    }

    fn lines(&self, now: Timestamp) -> [(&'static str, String); 10] {
        let failure = self.newest(&["user_error", "platform_error"]);
        let (last_failure, reason) = match failure {
            Some(execution) => (
                format!(
                    "{}, {}, {}",
                    text(&execution["id"]),
                    text(&execution["status"]),
                    ago(&execution["end_time"], now)
                ),
                text(&execution["message"]),
            ),
            None => ("none".to_owned(), "none".to_owned()),
        };
        [
            ("job", format!("{} of the team {}", self.place.job, self.place.team)),
            ("deployment", self.deployment()),
            ("rollout", self.rollout_state()),
            ("running", self.running(now)),
            ("last success", self.last_success(now)),
            ("last failure", last_failure),
            ("  its reason", reason),
            ("changed since", self.changed()),
            ("next start", self.next_start(now)),
            ("action", self.action()),
        ]
    }

    fn deployment(&self) -> String {
        let Some(rollout) = &self.rollout else { return "none".to_owned() };
        let desired = &rollout["desired"];
        format!(
            "revision {}, source {}, Python {}, VDK {}, by {} at {}{}",
            rollout["desired_revision"],
            short(&text(&desired["job_version"])),
            text(&desired["python_version"]),
            text(&desired["vdk_version"]),
            text(&desired["deployed_by"]),
            text(&desired["deployed_date"]),
            if desired["enabled"] == true { "" } else { ", disabled" }
        )
    }

    fn rollout_state(&self) -> String {
        let Some(rollout) = &self.rollout else { return "none".to_owned() };
        let problem = &rollout["problem"];
        let runs = rollout["deployed_revision"].as_i64().map_or_else(
            || "no revision is rolled out".to_owned(),
            |revision| format!("executions use revision {revision}"),
        );
        match rollout["phase"].as_str() {
            Some("rolled_out") => format!("rolled out at {}", text(&rollout["rolled_out_date"])),
            Some("failed") => format!("user error, {runs}: {} {}", text(&problem["what"]), text(&problem["why"])),
            Some("retrying") => {
                format!(
                    "platform error, {runs}, next attempt at {}: {} {}",
                    text(&rollout["next_attempt_date"]),
                    text(&problem["what"]),
                    text(&problem["why"])
                )
            }
            _ => match rollout["build"]["phase"].as_str() {
                Some(step) => format!("in progress ({step} packages or the image), {runs}"),
                None => format!("in progress, {runs}"),
            },
        }
    }

    fn running(&self, now: Timestamp) -> String {
        self.newest(&["submitted", "running"]).map_or_else(
            || "no execution".to_owned(),
            |execution| {
                let message = text(&execution["message"]);
                let message = if message.is_empty() { message } else { format!(": {message}") };
                let status = if execution["status"] == "running" { "running" } else { "waiting" };
                format!("{}, {status}, since {}{message}", text(&execution["id"]), ago(&execution["start_time"], now))
            },
        )
    }

    fn last_success(&self, now: Timestamp) -> String {
        self.newest(&["succeeded"]).map_or_else(
            || "none".to_owned(),
            |execution| format!("{}, {}", text(&execution["id"]), ago(&execution["end_time"], now)),
        )
    }

    fn changed(&self) -> String {
        if self.newest(&["succeeded"]).is_none() {
            return "unknown: no execution has succeeded".to_owned();
        }
        match self.changes.as_deref() {
            None => "unknown: the revision of the last success is not kept".to_owned(),
            Some([]) => "nothing in the deployment".to_owned(),
            Some(changes) => {
                let change = |change: &Value| {
                    format!("{} {} → {}", text(&change["field"]), value(&change["from"]), value(&change["to"]))
                };
                changes.iter().map(change).collect::<Vec<_>>().join("; ")
            }
        }
    }

    fn next_start(&self, now: Timestamp) -> String {
        let enabled = self.rollout.as_ref().map(|rollout| rollout["desired"]["enabled"] == true);
        match (&self.place.cron, enabled, self.place.next_start.and_then(|at| Timestamp::from_second(at).ok())) {
            (None, ..) => "none: the job has no schedule".to_owned(),
            (Some(_), None, _) => "none: the job has no deployment".to_owned(),
            (Some(_), Some(false), _) => "none: the deployment is disabled".to_owned(),
            (Some(cron), Some(true), None) => format!("none: the schedule {cron} has no further time"),
            (Some(cron), Some(true), Some(at)) => {
                let minutes = (at.duration_since(now).as_secs().max(0) + 59) / 60;
                format!("{at}, in {} (schedule {cron})", minutes_text(minutes))
            }
        }
    }

    /// The party that has to act, and its action.
    fn action(&self) -> String {
        let Some(rollout) = &self.rollout else {
            return "you: deploy the job with `vdk deploy`".to_owned();
        };
        let fix = text(&rollout["problem"]["countermeasures"]);
        match rollout["phase"].as_str() {
            Some("failed") => return format!("you: {fix}"),
            Some("retrying") => return format!("platform (Holdfast retries): {fix}"),
            _ => {}
        }
        let ended = ["succeeded", "user_error", "platform_error", "cancelled"];
        let Some(last) = self.newest(&ended) else { return "none".to_owned() };
        let id = text(&last["id"]);
        match last["status"].as_str() {
            Some("user_error") => {
                format!("you: read `vdk execute --logs -n {} -i {id}`, change the job and deploy it", self.place.job)
            }
            Some("platform_error") => format!(
                "you: start the job again if that is safe, because Holdfast does not repeat {id}; platform: its reason is above"
            ),
            _ => "none".to_owned(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A value of any type, short.
fn value(value: &Value) -> String {
    match value {
        Value::String(text) => short(text),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

/// The beginning of a version of a source; any other text whole.
fn short(text: &str) -> String {
    let is_hash = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { text[..10].to_owned() } else { text.to_owned() }
}

fn same_time(one: &Value, other: &Value) -> bool {
    let parsed = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    parsed(one).is_some_and(|one| parsed(other) == Some(one))
}

fn ago(date: &Value, now: Timestamp) -> String {
    let Some(at) = date.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else { return "unknown".to_owned() };
    match now.duration_since(at).as_secs().max(0) {
        seconds @ 0..=119 => format!("{seconds} s ago"),
        seconds => format!("{} ago", minutes_text(seconds / 60)),
    }
}

fn minutes_text(minutes: i64) -> String {
    match minutes {
        0..=119 => format!("{minutes} min"),
        120..=2879 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

/// A text on one line, cut if it is too long.
fn one_line(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if joined.chars().count() <= LINE_MAX_CHARS {
        return joined;
    }
    joined.chars().take(LINE_MAX_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(rollout: Option<Value>, executions: Vec<Value>, changes: Option<Vec<Value>>) -> Facts {
        let place = JobPlace {
            team: "team-one".into(),
            job: "daily-sales".into(),
            next_start: Some(1_795_953_600),
            cron: Some("0 12 * * *".into()),
        };
        Facts { place, rollout, executions, changes }
    }

    fn shown(facts: &Facts) -> String {
        let lines = facts.lines("2026-11-29T11:00:00Z".parse().unwrap());
        lines.map(|(name, text)| format!("{name}: {}", one_line(&text))).join("\n")
    }

    fn rollout(phase: &str, problem: &Value) -> Value {
        json!({
            "phase": phase, "desired_revision": 4, "deployed_revision": 3, "rolled_out_date": "2026-11-29T10:00:00Z",
            "next_attempt_date": "2026-11-29T11:00:30Z", "problem": problem, "build": null,
            "desired": {
                "job_version": "78ea24478fce7ccd34444e8b04647abec70e7d4d", "vdk_version": "0.2", "python_version": "3.11",
                "enabled": true, "deployed_by": "ann", "deployed_date": "2026-11-29T09:59:00Z"
            }
        })
    }

    #[test]
    fn a_job_that_failed_after_a_change_is_explained_in_ten_lines() {
        let execution = |id: &str, status: &str, end: &str, message: &str| json!({ "id": id, "status": status, "start_time": end, "end_time": end, "message": message });
        let executions = vec![
            execution("daily-sales-1", "succeeded", "2026-11-28T11:00:00Z", "Success"),
            execution("daily-sales-2", "user_error", "2026-11-29T10:59:00Z", "no such\ntable"),
        ];
        let changes = vec![json!({
            "field": "job_version", "from": "0000000000000000000000000000000000000000",
            "to": "78ea24478fce7ccd34444e8b04647abec70e7d4d"
        })];
        let facts = facts(Some(rollout("rolled_out", &Value::Null)), executions, Some(changes));
        assert_eq!(
            shown(&facts),
            "job: daily-sales of the team team-one\n\
             deployment: revision 4, source 78ea24478f, Python 3.11, VDK 0.2, by ann at 2026-11-29T09:59:00Z\n\
             rollout: rolled out at 2026-11-29T10:00:00Z\n\
             running: no execution\n\
             last success: daily-sales-1, 24 h ago\n\
             last failure: daily-sales-2, user_error, 60 s ago\n  \
             its reason: no such table\n\
             changed since: job_version 0000000000 → 78ea24478f\n\
             next start: 2026-11-29T12:00:00Z, in 60 min (schedule 0 12 * * *)\n\
             action: you: read `vdk execute --logs -n daily-sales -i daily-sales-2`, change the job and deploy it"
        );
    }

    #[test]
    fn the_party_that_has_to_act_follows_from_the_rollout_first() {
        let problem = json!({ "what": "W.", "why": "Y.", "countermeasures": "Do it." });
        let action = |facts: &Facts| facts.action();
        assert_eq!(action(&facts(Some(rollout("failed", &problem)), vec![], None)), "you: Do it.");
        let retrying = facts(Some(rollout("retrying", &problem)), vec![], None);
        assert_eq!(action(&retrying), "platform (Holdfast retries): Do it.");
        assert!(shown(&retrying).contains("executions use revision 3, next attempt at 2026-11-29T11:00:30Z: W. Y."));
        assert_eq!(action(&facts(None, vec![], None)), "you: deploy the job with `vdk deploy`");
        assert_eq!(action(&facts(Some(rollout("pending", &Value::Null)), vec![], None)), "none");
        let lost = vec![json!({ "id": "daily-sales-1", "status": "platform_error", "message": "The node vanished." })];
        let lost = facts(Some(rollout("rolled_out", &Value::Null)), lost, None);
        assert!(action(&lost).starts_with("you: start the job again if that is safe"));
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(one_line(&"a b ".repeat(1_000)).chars().count(), LINE_MAX_CHARS);
    }
}
