//! The decision of a reconciliation: what to do about one deployment. It has no side effects.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::{
    Problem,
    deployment::Deployment,
    digest,
    problem::Code,
    rollout::{Rollout, Status},
    runtime::Observed,
};

/// Counts the ways in which this program turns a deployment into what runs. A higher one deploys anew; an instance with
/// a lower one than the database has seen must not lead.
pub const RENDERER_VERSION: i64 = 1;

/// The desired state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Desired<'a> {
    /// This deployment.
    Deployment(&'a Deployment),
    /// None: it was removed, and what exists of it has to go.
    Removed,
}

/// The decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// All is as wanted.
    Nothing,
    /// A try failed by the platform's fault; the next one is due at this instant.
    Wait(Timestamp),
    /// It can't be reached as it is and waits for a change.
    Blocked(Problem),
    /// Make it so.
    Apply(Reason),
    /// Remove what exists.
    Remove,
}

/// Why something is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing was reached so far.
    New,
    /// Another generation is wanted than the one that was reached.
    Changed,
    /// The configuration of the service, or the service itself, changed.
    Configuration,
    /// The object no longer exists.
    Missing,
    /// Another field manager changed the object.
    Drift,
}

/// The hash of all inputs of a deployment: the desired revision, the configuration and the renderer. SHA-256 in
/// hexadecimal.
pub fn inputs_hash(deployment: &Deployment, configuration_fingerprint: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"holdfast inputs 1");
    hash.update(deployment.job_id.0.as_bytes());
    hash.update(deployment.generation.to_le_bytes());
    hash.update(RENDERER_VERSION.to_le_bytes());
    hash.update(configuration_fingerprint.as_bytes());
    hex::encode(hash.finalize())
}

/// The hash of texts that tell one configuration from another. SHA-256 in hexadecimal.
pub fn configuration_hash(texts: impl IntoIterator<Item = String>) -> String {
    hex::encode(digest::of_parts(b"holdfast configuration 1", u64::to_le_bytes, texts))
}

/// Decides what to do about one deployment.
///
/// `inputs` is [`inputs_hash`] of what is wanted. A rollout that failed by the platform's fault is tried again when it is
/// due; one that failed by the user's waits until its inputs change.
pub fn plan(desired: Desired<'_>, inputs: &str, rollout: &Rollout, observed: &Observed, now: Timestamp) -> Plan {
    let deployment = match (desired, observed) {
        (_, Observed::Unmanaged { object, owner }) => {
            return match desired {
                Desired::Removed => Plan::Nothing,
                Desired::Deployment(d) => Plan::Blocked(
                    Problem::new(
                        Code::CronJobUnmanaged,
                        format!("Revision {} was not rolled out.", d.generation),
                        format!("The {object} exists and is not managed by Holdfast (owner: {owner})."),
                    )
                    .follows("Holdfast leaves it unchanged, and retries until the name is free.")
                    .fix(format!("Delete or rename the {object}, or let Holdfast adopt it (`kubernetes.adopt`).")),
                ),
            };
        }
        (Desired::Removed, _) => return may_try(rollout, inputs, now).err().unwrap_or(Plan::Remove),
        (Desired::Deployment(deployment), _) => deployment,
    };
    let reached = rollout.inputs_hash.as_deref() == Some(inputs);
    let reason = match observed {
        Observed::Present { inputs_hash } if reached && inputs_hash == inputs => return Plan::Nothing,
        _ if rollout.reached_generation.is_none() => Reason::New,
        _ if rollout.reached_generation != Some(deployment.generation) => Reason::Changed,
        _ if !reached => Reason::Configuration,
        Observed::Missing => Reason::Missing,
        _ => Reason::Drift,
    };
    match may_try(rollout, inputs, now) {
        Ok(()) => Plan::Apply(reason),
        Err(wait) => wait,
    }
}

/// Removals up to this number are always carried out.
const REMOVALS_FREE: i64 = 20;

/// Whether the bulk-removal guard holds these removals until the operator raises the limit.
/// `fleet` counts all deployments, including those pending removal; `most_percent` is the limit.
pub fn removes_too_much(removals: i64, fleet: i64, most_percent: i64) -> bool {
    removals > REMOVALS_FREE && removals.saturating_mul(100) > fleet.saturating_mul(most_percent)
}

/// Whether the deployed revision must be recreated in addition to the plan: the desired revision can't be rolled out (yet),
/// and the objects of the deployed one are missing. The last good version continues to run.
pub fn restores_deployed(planned: &Plan, rollout: &Rollout, observed: &Observed) -> bool {
    matches!(planned, Plan::Blocked(_) | Plan::Wait(_))
        && rollout.reached_generation.is_some()
        && match observed {
            Observed::Missing | Observed::Changed { .. } => true,
            Observed::Present { inputs_hash } => rollout.inputs_hash.as_ref() != Some(inputs_hash),
            Observed::Unmanaged { .. } => false,
        }
}

/// No retry waits longer than this. An instant that is further away was written by a clock that had jumped ahead, and is not
/// waited for.
pub const RETRY_WAIT_MAX: SignedDuration = SignedDuration::from_mins(10);

/// Whether these inputs may be tried now; if not, what to do instead.
fn may_try(rollout: &Rollout, inputs: &str, now: Timestamp) -> Result<(), Plan> {
    if rollout.tried_inputs_hash.as_deref() != Some(inputs) {
        return Ok(());
    }
    match (rollout.status, &rollout.problem, rollout.retry_at) {
        (Status::UserError, Some(problem), _) => Err(Plan::Blocked(problem.clone())),
        (Status::PlatformError, _, Some(at)) if at > now && at <= now + RETRY_WAIT_MAX => Err(Plan::Wait(at)),
        _ => Ok(()),
    }
}

/// How long to wait after the `attempts`-th failed try in a row: doubling from one second to five minutes, spread by
/// `jitter` (0 to 1) over the upper half so that what failed together does not come back together.
pub fn retry_delay(attempts: i32, jitter: f64) -> SignedDuration {
    const LONGEST_SECONDS: f64 = 300.0;
    let whole = 2f64.powi(attempts.clamp(1, 20) - 1).min(LONGEST_SECONDS);
    SignedDuration::from_secs_f64(whole * (0.5 + jitter.clamp(0.0, 1.0) / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        deployment::Mode, job::Contacts, name::JobId, python::PythonVersion, resources::Resources,
        source::SourceVersion,
    };

    fn deployment(generation: i64) -> Deployment {
        Deployment {
            job_id: JobId(uuid::Uuid::nil()),
            generation,
            job_version: SourceVersion::parse(&"a".repeat(40)).unwrap(),
            python_version_asked: None,
            python_version: PythonVersion { major: 3, minor: 11 },
            vdk_version_asked: None,
            vdk_version: "1".into(),
            enabled: true,
            mode: Mode::Release,
            resources: Resources::default(),
            schedule_cron: None,
            schedule_since: Timestamp::UNIX_EPOCH,
            contacts: Contacts::default(),
            db_default_type: None,
            enable_execution_notifications: true,
            deployed_by: "someone".into(),
            deployed_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn reached(d: &Deployment, inputs: &str) -> Rollout {
        Rollout {
            reached_generation: Some(d.generation),
            inputs_hash: Some(inputs.into()),
            tried_inputs_hash: Some(inputs.into()),
            status: Status::Success,
            ..Rollout::default()
        }
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn removals_wait_that_are_many_and_more_than_a_share_of_the_fleet() {
        assert!(!removes_too_much(20, 20, 0), "a few go, however small the fleet");
        assert!(!removes_too_much(2500, 10_000, 25) && removes_too_much(2501, 10_000, 25));
        assert!(removes_too_much(21, 21, 99) && !removes_too_much(21, 21, 100));
    }

    #[test]
    fn what_was_reached_and_is_there_needs_nothing() {
        let d = deployment(1);
        let inputs = inputs_hash(&d, "c");
        let there = Observed::Present { inputs_hash: inputs.clone() };
        assert_eq!(plan(Desired::Deployment(&d), &inputs, &reached(&d, &inputs), &there, NOW), Plan::Nothing);
    }

    #[test]
    fn every_way_of_being_out_of_step_has_its_reason() {
        let (old, new) = (deployment(1), deployment(2));
        let (a, b, c) = (inputs_hash(&old, "c"), inputs_hash(&new, "c"), inputs_hash(&new, "d"));
        let present = |hash: &str| Observed::Present { inputs_hash: hash.into() };
        let apply = |inputs: &str, rollout: &Rollout, observed: &Observed| match plan(
            Desired::Deployment(&new),
            inputs,
            rollout,
            observed,
            NOW,
        ) {
            Plan::Apply(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(apply(&b, &Rollout::default(), &Observed::Missing), Reason::New);
        assert_eq!(apply(&b, &reached(&old, &a), &present(&a)), Reason::Changed);
        assert_eq!(apply(&c, &reached(&new, &b), &present(&b)), Reason::Configuration);
        assert_eq!(apply(&b, &reached(&new, &b), &Observed::Missing), Reason::Missing);
        assert_eq!(apply(&b, &reached(&new, &b), &present("edited")), Reason::Drift);
    }

    #[test]
    fn a_user_error_waits_for_a_change_and_a_platform_error_for_its_time() {
        let d = deployment(1);
        let inputs = inputs_hash(&d, "c");
        let problem = Problem::new(Code::PackagesUnresolvable, "a", "b").nothing_changed().fix("Retry.");
        let mut failed = Rollout {
            status: Status::UserError,
            tried_inputs_hash: Some(inputs.clone()),
            problem: Some(problem.clone()),
            ..Rollout::default()
        };
        let decide =
            |rollout: &Rollout, inputs: &str| plan(Desired::Deployment(&d), inputs, rollout, &Observed::Missing, NOW);
        assert_eq!(decide(&failed, &inputs), Plan::Blocked(problem));
        assert_eq!(decide(&failed, "other"), Plan::Apply(Reason::New));
        let later = NOW + SignedDuration::from_secs(5);
        failed.status = Status::PlatformError;
        failed.retry_at = Some(later);
        assert_eq!(decide(&failed, &inputs), Plan::Wait(later));
        // An instant further away than any retry was written by a clock that was wrong.
        for at in [NOW, NOW + RETRY_WAIT_MAX + SignedDuration::from_secs(1)] {
            failed.retry_at = Some(at);
            assert_eq!(decide(&failed, &inputs), Plan::Apply(Reason::New), "{at}");
        }
    }

    #[test]
    fn the_last_good_version_is_recreated_while_a_later_one_waits() {
        let (old, new) = (deployment(1), deployment(2));
        let (a, b) = (inputs_hash(&old, "c"), inputs_hash(&new, "c"));
        let mut rollout = reached(&old, &a);
        rollout.tried_inputs_hash = Some(b.clone());
        rollout.status = Status::UserError;
        rollout.problem = Some(Problem::new(Code::PackagesUnresolvable, "a", "b").nothing_changed().fix("Retry."));
        let there = Observed::Present { inputs_hash: a };
        for (observed, again) in [(Observed::Missing, true), (there, false)] {
            let planned = plan(Desired::Deployment(&new), &b, &rollout, &observed, NOW);
            assert_eq!(restores_deployed(&planned, &rollout, &observed), again, "{observed:?}");
        }
        let planned = plan(Desired::Deployment(&new), "other", &rollout, &Observed::Missing, NOW);
        assert!(!restores_deployed(&planned, &rollout, &Observed::Missing), "{planned:?}");
    }

    #[test]
    fn unmanaged_objects_are_never_touched() {
        let d = deployment(1);
        let foreign = Observed::Unmanaged { object: "CronJob daily-sales".into(), owner: "someone".into() };
        let rollout = Rollout::default();
        assert!(matches!(plan(Desired::Deployment(&d), "i", &rollout, &foreign, NOW), Plan::Blocked(_)));
        assert_eq!(plan(Desired::Removed, "i", &rollout, &foreign, NOW), Plan::Nothing);
    }

    #[test]
    fn waiting_grows_to_five_minutes_and_is_spread() {
        assert_eq!(retry_delay(1, 1.0), SignedDuration::from_secs(1));
        assert_eq!(retry_delay(4, 1.0), SignedDuration::from_secs(8));
        assert_eq!(retry_delay(4, 0.0), SignedDuration::from_secs(4));
        assert_eq!(retry_delay(i32::MAX, 1.0), SignedDuration::from_secs(300));
        assert!(retry_delay(i32::MAX, 1.0) < RETRY_WAIT_MAX);
    }
}
