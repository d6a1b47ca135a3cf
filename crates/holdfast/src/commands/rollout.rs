//! `holdfast rollout wait`: waits until a job's deployment is rolled out.

use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};
use clients::control_service::ControlService;
use model::clock::SharedClock;
use serde_json::Value;

use super::{
    connection::{ConnectionFlags, JobPlace},
    outcome::Outcome,
};
use crate::{
    config::ProcessEnvironment,
    progress::{say, seconds},
};

/// The pause between two reads of the rollout.
const POLL: Duration = Duration::from_millis(500);

/// The time limit without `--timeout`.
const TIMEOUT_SECONDS: &str = "900";

/// The rollout to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    flags: ConnectionFlags,
    job: String,
    timeout: Duration,
}

/// The command line of `rollout`.
pub(super) fn command() -> Command {
    Command::new("rollout")
        .about("Wait for the rollout of a job, for example in a pipeline.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("wait")
                .about("Wait until the desired deployment of a job is rolled out.")
                .long_about(
                    "Wait until the desired deployment of a job is rolled out. A user error ends the wait immediately, because it \
                     needs a change of the job. Holdfast retries platform errors, so the wait continues until the time limit.",
                )
                .arg(Arg::new("job").value_name("JOB").required(true).help("The name of the job"))
                .arg(
                    Arg::new("timeout")
                        .long("timeout")
                        .value_name("SECONDS")
                        .value_parser(value_parser!(u64).range(0..=86_400))
                        .default_value(TIMEOUT_SECONDS)
                        .help("The time limit"),
                )
                .args(ConnectionFlags::args())
                .after_help(format!("{}\n\nExample:\n  holdfast rollout wait my-first-job --timeout 300", Outcome::HELP)),
        )
}

impl Wait {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        let (_, matches) = matches.subcommand().unwrap_or(("", matches));
        Self {
            flags: ConnectionFlags::of(matches),
            job: matches.get_one("job").cloned().unwrap_or_default(),
            timeout: Duration::from_secs(matches.get_one("timeout").copied().unwrap_or_default()),
        }
    }
}

/// Waits and says what happens.
///
/// # Errors
/// If the job has no deployment, or the service rejects the request.
pub(crate) async fn run(environment: &ProcessEnvironment, wait: &Wait, clock: &SharedClock) -> anyhow::Result<Outcome> {
    let connection = wait.flags.connect(environment, &**clock)?;
    let place = connection.find(&wait.job).await?;
    until_rolled_out(&connection.service, &place, wait.timeout, clock).await
}

/// Waits until a job is rolled out, and says what happens.
///
/// # Errors
/// As [`run`].
pub(super) async fn until_rolled_out(
    service: &ControlService,
    place: &JobPlace,
    timeout: Duration,
    clock: &SharedClock,
) -> anyhow::Result<Outcome> {
    let begun = clock.boot();
    let mut said = String::new();
    let mut last = None;
    loop {
        match place.rollout(service).await {
            Ok(rollout) => {
                let rollout = rollout.with_context(|| {
                    format!("The job {} has no deployment. Deploy it with `vdk deploy`.", place.job)
                })?;
                let state = State::of(&rollout);
                let line = state.line(&place.job);
                if line != said {
                    say(&line);
                    said = line;
                }
                match &state {
                    State::RolledOut { .. } => return Ok(Outcome::Succeeded),
                    State::Failed { .. } => return Ok(Outcome::UserError),
                    State::Retrying { .. } | State::Pending { .. } => last = Some(state),
                }
            }
            // The service may be restarting, or busy.
            Err(error) if error.may_pass() => {
                let line = error.to_string();
                if line != said {
                    say(&line);
                    said = line;
                }
            }
            Err(error) => return Err(error.into()),
        }
        let elapsed = clock.boot().saturating_sub(begun);
        if elapsed >= timeout {
            say(format_args!("{} is not rolled out after {}.", place.job, seconds(elapsed)));
            return Ok(match last {
                Some(State::Retrying { .. }) => Outcome::PlatformError,
                _ => Outcome::TimedOut,
            });
        }
        clock.sleep(POLL.min(timeout.saturating_sub(elapsed))).await;
    }
}

/// The state of a rollout, as far as a user needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    RolledOut { revision: i64, version: String },
    Pending { revision: i64, step: Option<String> },
    Retrying { what: String, why: String, next: Option<String> },
    Failed { what: String, why: String, fix: String },
}

impl State {
    fn of(rollout: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let problem = &rollout["problem"];
        let revision = rollout["desired_revision"].as_i64().unwrap_or_default();
        match rollout["phase"].as_str() {
            Some("rolled_out") => Self::RolledOut { revision, version: text(&rollout["desired"]["job_version"]) },
            Some("failed") => Self::Failed {
                what: text(&problem["what"]),
                why: text(&problem["why"]),
                fix: text(&problem["countermeasures"]),
            },
            Some("retrying") => Self::Retrying {
                what: text(&problem["what"]),
                why: text(&problem["why"]),
                next: rollout["next_attempt_date"].as_str().map(str::to_owned),
            },
            _ => Self::Pending { revision, step: rollout["build"]["phase"].as_str().map(str::to_owned) },
        }
    }

    fn line(&self, job: &str) -> String {
        match self {
            Self::RolledOut { revision, version } => {
                format!("{job} is rolled out: revision {revision}, version {version}.")
            }
            Self::Pending { revision, step: None } => format!("{job}: revision {revision} is being rolled out …"),
            Self::Pending { revision, step: Some(step) } => {
                format!("{job}: revision {revision} waits for its packages or image ({step}) …")
            }
            Self::Retrying { what, why, next } => {
                let next = next.as_ref().map(|next| format!(" at {next}")).unwrap_or_default();
                format!("{job}: platform error; Holdfast retries{next}.\n  {what}\n  {why}")
            }
            Self::Failed { what, why, fix } => format!("{job}: user error.\n  {what}\n  {why}\n  {fix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_phase_of_a_rollout_is_one_state() {
        let problem = json!({ "what": "W", "why": "Y", "countermeasures": "C" });
        for (rollout, line) in [
            (
                json!({ "phase": "rolled_out", "desired_revision": 3, "desired": { "job_version": "abc" } }),
                "a is rolled out: revision 3, version abc.",
            ),
            (
                json!({ "phase": "pending", "desired_revision": 3, "build": null }),
                "a: revision 3 is being rolled out …",
            ),
            (
                json!({ "phase": "pending", "desired_revision": 3, "build": { "phase": "pushing" } }),
                "a: revision 3 waits for its packages or image (pushing) …",
            ),
            (
                json!({ "phase": "retrying", "problem": problem, "next_attempt_date": "2026" }),
                "a: platform error; Holdfast retries at 2026.\n  W\n  Y",
            ),
            (json!({ "phase": "failed", "problem": problem }), "a: user error.\n  W\n  Y\n  C"),
        ] {
            assert_eq!(State::of(&rollout).line("a"), line);
        }
    }
}
