//! The fingerprint of an instance's configuration: two instances whose fingerprints differ would recreate each other's
//! deployments at each change of leadership.

use jiff::Timestamp;
use model::{
    deployment::{Deployment, Mode},
    job::Contacts,
    name::{JobId, JobName, TeamName},
    plan::configuration_hash,
    python::PythonVersion,
    resources::Resources,
    source::SourceVersion,
};

use crate::{Synchronizer, deployments::fingerprint_of};

/// The Python versions of the samples: an image may be set for each version.
const PYTHON_MINORS: std::ops::RangeInclusive<u16> = 6..=20;

/// The fingerprint of all that the configuration of this instance puts into deployments: that of a sample with each Python
/// version, and of one for each job that has options of its own.
pub(crate) fn fingerprint(sync: &Synchronizer) -> String {
    let Some(sample) = Sample::new() else { return String::new() };
    let jobs = sync.options.job_options.by_job.keys().filter_map(|name| JobName::parse(name).ok());
    let newest = *PYTHON_MINORS.end();
    let samples = PYTHON_MINORS.map(|minor| (sample.job.clone(), minor)).chain(jobs.map(|job| (job, newest)));
    configuration_hash(samples.map(|(job, minor)| {
        let python_version = PythonVersion { major: 3, minor };
        let deployment = Deployment { python_version, ..sample.deployment.clone() };
        fingerprint_of(sync, &sync.deployment_spec(&job, &sample.team, None, &deployment))
    }))
}

/// A deployment with all that a configuration has a default for left out.
struct Sample {
    job: JobName,
    team: TeamName,
    deployment: Deployment,
}

impl Sample {
    fn new() -> Option<Self> {
        let deployment = Deployment {
            job_id: JobId(uuid::Uuid::nil()),
            generation: 1,
            job_version: SourceVersion::parse(&"0".repeat(40)).ok()?,
            python_version_asked: None,
            python_version: PythonVersion { major: 3, minor: 0 },
            vdk_version_asked: None,
            vdk_version: "1".into(),
            enabled: true,
            mode: Mode::Release,
            resources: Resources::default(),
            schedule_cron: Some("0 0 1 1 *".into()),
            schedule_since: Timestamp::UNIX_EPOCH,
            contacts: Contacts::default(),
            db_default_type: None,
            enable_execution_notifications: true,
            deployed_by: String::new(),
            deployed_at: Timestamp::UNIX_EPOCH,
        };
        Some(Self { job: JobName::parse("sample-job").ok()?, team: TeamName::parse("sample").ok()?, deployment })
    }
}
