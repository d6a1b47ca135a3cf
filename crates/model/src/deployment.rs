//! The desired state of a deployment, the deployed state, and how a request changes the desired one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Problem, job::Contacts, name::JobId, problem::Code, python::PythonVersion, resources::Resources,
    source::SourceVersion,
};

/// The id that the `vdk` client uses for the only deployment of a job.
pub const PRODUCTION: &str = "production";

/// The id of the deployment of an execution.
pub const RELEASE: &str = "release";

/// The id that upstream's operations page uses where it knows none.
pub const DEFAULT: &str = "default";

/// The wire's `mode`. A job has one deployment; the value is stored and returned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Not for production data.
    Testing,
    /// The default.
    #[default]
    Release,
}

impl Mode {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Testing => "testing",
            Self::Release => "release",
        }
    }

    /// Reads the value on the wire.
    pub fn parse(raw: &str) -> Option<Self> {
        match raw {
            "testing" => Some(Self::Testing),
            "release" => Some(Self::Release),
            _ => None,
        }
    }
}

/// The desired state: each field of a deployment at one revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// The job that it belongs to.
    pub job_id: JobId,
    /// Counts every accepted change of this job's name, also across a deletion.
    pub generation: i64,
    /// The source that runs.
    pub job_version: SourceVersion,
    /// The value of the latest request that had one; absent if none had: then the service's default at the first deployment
    /// is kept.
    pub python_version_asked: Option<PythonVersion>,
    /// The resolved value.
    pub python_version: PythonVersion,
    /// The value of the latest request that had one; absent if none had: then the service's default at the first deployment
    /// is kept.
    pub vdk_version_asked: Option<String>,
    /// The resolved value.
    pub vdk_version: String,
    /// Whether the schedule is enabled. Manual executions of a disabled deployment are allowed.
    pub enabled: bool,
    /// Stored and returned.
    pub mode: Mode,
    /// The CPU and memory of an execution.
    pub resources: Resources,
    /// The job's cron expression at this revision.
    pub schedule_cron: Option<String>,
    /// When the schedule (with `enabled`) took effect: no earlier scheduled time starts an execution.
    pub schedule_since: Timestamp,
    /// The job's contacts at this revision.
    pub contacts: Contacts,
    /// `VDK_DB_DEFAULT_TYPE` of the job at this revision.
    pub db_default_type: Option<String>,
    /// Whether notifications are sent, at this revision.
    pub enable_execution_notifications: bool,
    /// The user who requested this revision.
    pub deployed_by: String,
    /// When it was accepted.
    pub deployed_at: Timestamp,
}

/// The fields of a POST or PATCH of a deployment. Omitted fields keep their current value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeploymentChange {
    /// The source to run.
    pub job_version: Option<SourceVersion>,
    /// The Python version to run it with.
    pub python_version: Option<PythonVersion>,
    /// The VDK version to run it with.
    pub vdk_version: Option<String>,
    /// Whether ticks start runs.
    pub enabled: Option<bool>,
    /// Stored and returned.
    pub mode: Option<Mode>,
    /// Amounts to change; those absent stay.
    pub resources: Option<Resources>,
}

/// The service's own choices for what a request leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionDefaults {
    /// Every Python version that the runtime offers, ascending; never empty when a deployment is accepted.
    pub python_versions: Vec<PythonVersion>,
    /// The version of deployments that name none.
    pub python_version: PythonVersion,
    /// The VDK version that a deployment gets when it names none.
    pub vdk_version: String,
}

/// The part of a job that becomes part of its deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPart {
    /// Cron expression.
    pub schedule_cron: Option<String>,
    /// Contacts.
    pub contacts: Contacts,
    /// `VDK_DB_DEFAULT_TYPE`.
    pub db_default_type: Option<String>,
    /// Whether runs are reported.
    pub enable_execution_notifications: bool,
}

impl From<&crate::job::JobConfig> for JobPart {
    fn from(config: &crate::job::JobConfig) -> Self {
        Self {
            schedule_cron: config.schedule_cron.clone(),
            contacts: config.contacts.clone(),
            db_default_type: config.db_default_type.clone(),
            enable_execution_notifications: config.enable_execution_notifications,
        }
    }
}

/// The user, the time and the revision of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The generation of the change.
    pub generation: i64,
    /// The user.
    pub by: String,
    /// When it is accepted.
    pub at: Timestamp,
}

impl Deployment {
    /// Merges a change into what is wanted so far.
    ///
    /// Absent fields keep their value; without a deployment so far, `enabled` is true and the versions are the defaults.
    /// A new Python version clears a pinned VDK version, which was chosen for the old one. The schedule counts from
    /// `stamp.at` when the cron expression or `enabled` changes, so that no past tick fires.
    ///
    /// # Errors
    /// [`crate::problem::Kind::Conflict`] when there is no deployment so far and the change names no source, when the Python
    /// version is not one of those offered, or when a request would be above its limit.
    pub fn merge(
        current: Option<&Self>,
        change: &DeploymentChange,
        job_id: JobId,
        job: &JobPart,
        defaults: &VersionDefaults,
        stamp: Stamp,
    ) -> Result<Self, Problem> {
        let Some(job_version) = change.job_version.clone().or_else(|| current.map(|c| c.job_version.clone())) else {
            return Err(Problem::new(
                Code::DeploymentVersionMissing,
                "The deployment was not accepted.",
                "The job has no deployment yet, and the request has no job_version.",
            )
            .nothing_changed()
            .fix("Upload the sources, then send their version; `vdk deploy -p <folder>` does both."));
        };
        let python_version_asked = change.python_version.or(current.and_then(|c| c.python_version_asked));
        let python_version = match change.python_version {
            Some(asked) => {
                if !defaults.python_versions.contains(&asked) {
                    let offered: Vec<_> = defaults.python_versions.iter().map(ToString::to_string).collect();
                    return Err(Problem::new(
                        Code::PythonVersionUnsupported,
                        "The deployment was not accepted.",
                        format!("Python {asked} is not supported here; supported: {}.", offered.join(", ")),
                    )
                    .nothing_changed()
                    .fix("Choose a supported version in config.ini or in the request."));
                }
                asked
            }
            None => current.map_or(defaults.python_version, |c| c.python_version),
        };
        let python_changes = current.is_some_and(|c| c.python_version != python_version);
        let kept = current.filter(|_| !python_changes);
        let vdk_version_asked = change.vdk_version.clone().or_else(|| kept.and_then(|c| c.vdk_version_asked.clone()));
        let vdk_version = change
            .vdk_version
            .clone()
            .or_else(|| kept.map(|c| c.vdk_version.clone()))
            .unwrap_or_else(|| defaults.vdk_version.clone());
        let enabled = change.enabled.unwrap_or_else(|| current.is_none_or(|c| c.enabled));
        let resources =
            change.resources.unwrap_or_default().or(current.map(|c| c.resources).unwrap_or_default()).validated()?;
        let schedule_since = current
            .filter(|c| c.enabled == enabled && c.schedule_cron == job.schedule_cron)
            .map_or(stamp.at, |c| c.schedule_since);
        Ok(Self {
            job_id,
            generation: stamp.generation,
            job_version,
            python_version_asked,
            python_version,
            vdk_version_asked,
            vdk_version,
            enabled,
            mode: change.mode.or(current.map(|c| c.mode)).unwrap_or_default(),
            resources,
            schedule_cron: job.schedule_cron.clone(),
            schedule_since,
            contacts: job.contacts.clone(),
            db_default_type: job.db_default_type.clone(),
            enable_execution_notifications: job.enable_execution_notifications,
            deployed_by: stamp.by,
            deployed_at: stamp.at,
        })
    }

    /// An old generation as the wanted one again, whole: source, versions, switch, resources, and what it had of the job.
    /// The schedule counts from `stamp.at` unless it is the present one, so that no past tick fires.
    ///
    /// # Errors
    /// [`crate::problem::Kind::Conflict`] when its Python version is not offered any more.
    pub fn rolled_back(
        old: &Self,
        current: Option<&Self>,
        defaults: &VersionDefaults,
        stamp: Stamp,
    ) -> Result<Self, Problem> {
        if !defaults.python_versions.contains(&old.python_version) {
            let offered: Vec<_> = defaults.python_versions.iter().map(ToString::to_string).collect();
            return Err(Problem::new(
                Code::RevisionPythonUnsupported,
                format!("The deployment was not rolled back to revision {}.", old.generation),
                format!(
                    "The revision uses Python {}, which is no longer supported here; supported: {}.",
                    old.python_version,
                    offered.join(", ")
                ),
            )
            .nothing_changed()
            .fix("Deploy the version of its sources with a supported Python version."));
        }
        let schedule_since = current
            .filter(|c| c.enabled == old.enabled && c.schedule_cron == old.schedule_cron)
            .map_or(stamp.at, |c| c.schedule_since);
        Ok(Self {
            generation: stamp.generation,
            deployed_by: stamp.by,
            deployed_at: stamp.at,
            schedule_since,
            ..old.clone()
        })
    }

    /// The part of the job that a revision holds.
    pub fn job_part(&self) -> JobPart {
        JobPart {
            schedule_cron: self.schedule_cron.clone(),
            contacts: self.contacts.clone(),
            db_default_type: self.db_default_type.clone(),
            enable_execution_notifications: self.enable_execution_notifications,
        }
    }

    /// Whether the two have the same desired state, regardless of user and time.
    pub fn wants_the_same(&self, other: &Self) -> bool {
        let bare = |d: &Self| Self {
            generation: 0,
            deployed_by: String::new(),
            deployed_at: Timestamp::UNIX_EPOCH,
            schedule_since: Timestamp::UNIX_EPOCH,
            ..d.clone()
        };
        bare(self) == bare(other)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;

    pub(crate) fn version(digit: char) -> SourceVersion {
        SourceVersion::parse(&digit.to_string().repeat(40)).unwrap()
    }

    fn defaults() -> VersionDefaults {
        let (old, new) = (PythonVersion { major: 3, minor: 10 }, PythonVersion { major: 3, minor: 11 });
        VersionDefaults { python_versions: vec![old, new], python_version: new, vdk_version: "1.0".into() }
    }

    pub(crate) fn merge(
        current: Option<&Deployment>,
        change: &DeploymentChange,
        generation: i64,
    ) -> Result<Deployment, Problem> {
        let job = JobPart::from(&crate::job::JobConfig::default());
        let at = Timestamp::from_second(generation).unwrap();
        let stamp = Stamp { generation, by: "someone".into(), at };
        Deployment::merge(current, change, JobId(Uuid::nil()), &job, &defaults(), stamp)
    }

    #[test]
    fn the_first_deployment_needs_a_version_and_is_enabled() {
        assert!(merge(None, &DeploymentChange::default(), 1).is_err());
        let first =
            merge(None, &DeploymentChange { job_version: Some(version('a')), ..Default::default() }, 1).unwrap();
        assert!(first.enabled);
        assert_eq!(first.vdk_version, "1.0");
        assert_eq!(first.python_version_asked, None);
    }

    #[test]
    fn a_version_update_does_not_enable_a_disabled_deployment() {
        let first = merge(
            None,
            &DeploymentChange { job_version: Some(version('a')), enabled: Some(false), ..Default::default() },
            1,
        )
        .unwrap();
        let second =
            merge(Some(&first), &DeploymentChange { job_version: Some(version('b')), ..Default::default() }, 2)
                .unwrap();
        assert!(!second.enabled);
        assert_eq!(second.schedule_since, first.schedule_since);
        let third = merge(Some(&second), &DeploymentChange { enabled: Some(true), ..Default::default() }, 3).unwrap();
        assert!(third.enabled);
        assert_eq!(third.job_version, version('b'));
        assert_eq!(third.schedule_since, Timestamp::from_second(3).unwrap());
    }

    #[test]
    fn a_new_python_version_clears_a_pinned_vdk_version() {
        let pinned =
            DeploymentChange { job_version: Some(version('a')), vdk_version: Some("0.9".into()), ..Default::default() };
        let first = merge(None, &pinned, 1).unwrap();
        let python = Some(PythonVersion { major: 3, minor: 10 });
        let second =
            merge(Some(&first), &DeploymentChange { python_version: python, ..Default::default() }, 2).unwrap();
        assert_eq!((second.vdk_version_asked, second.vdk_version.as_str()), (None, "1.0"));
    }

    #[test]
    fn an_unsupported_python_version_is_a_conflict_that_names_the_supported_ones() {
        let change = DeploymentChange {
            job_version: Some(version('a')),
            python_version: Some(PythonVersion { major: 2, minor: 7 }),
            ..Default::default()
        };
        let problem = merge(None, &change, 1).unwrap_err();
        assert_eq!(problem.kind, crate::problem::Kind::Conflict);
        assert!(problem.why.contains("3.10, 3.11"), "{problem}");
    }

    #[test]
    fn resources_change_one_by_one() {
        let first = merge(
            None,
            &DeploymentChange {
                job_version: Some(version('a')),
                resources: Some(Resources { cpu_limit: Some(2.0), ..Default::default() }),
                ..Default::default()
            },
            1,
        )
        .unwrap();
        let change = DeploymentChange {
            resources: Some(Resources { memory_limit_mi: Some(512), ..Default::default() }),
            ..Default::default()
        };
        let second = merge(Some(&first), &change, 2).unwrap();
        assert_eq!(second.resources.cpu_limit, Some(2.0));
        assert_eq!(second.resources.memory_limit_mi, Some(512));
        assert!(!second.wants_the_same(&first));
    }

    #[test]
    fn a_rollback_is_the_old_revision_whole_and_starts_no_past_tick() {
        let first =
            merge(None, &DeploymentChange { job_version: Some(version('a')), ..Default::default() }, 1).unwrap();
        let change = DeploymentChange { enabled: Some(false), vdk_version: Some("9".into()), ..Default::default() };
        let second = merge(Some(&first), &change, 2).unwrap();
        let python = first.python_version;
        let defaults =
            VersionDefaults { python_versions: vec![python], python_version: python, vdk_version: "8".into() };
        let at = Timestamp::from_second(99).unwrap();
        let stamp = || Stamp { generation: 3, by: "someone".into(), at };
        let third = Deployment::rolled_back(&first, Some(&second), &defaults, stamp()).unwrap();
        assert!(third.wants_the_same(&first));
        assert_eq!((third.generation, third.schedule_since, third.deployed_at), (3, at, at));
        let same = Deployment::rolled_back(&first, Some(&first), &defaults, stamp()).unwrap();
        assert_eq!(same.schedule_since, first.schedule_since);
        let other = VersionDefaults { python_versions: vec![PythonVersion { major: 3, minor: 99 }], ..defaults };
        let problem = Deployment::rolled_back(&first, None, &other, stamp()).unwrap_err();
        assert_eq!(problem.kind, crate::problem::Kind::Conflict);
    }
}
