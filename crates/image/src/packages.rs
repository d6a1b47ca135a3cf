//! Packages as the artifact: chosen here as one lock, and installed by the runtime.

use std::sync::Arc;

use model::{
    BoxFuture, Problem,
    artifact::Artifact,
    build::{ArtifactBuilder, ArtifactRequest, BuildInputs, BuildKey, Built, Report},
    lock::{ResolutionInputs, Resolver},
    problem::Code,
    runtime::DeploymentSpec,
};

use crate::requirements;

/// Builds locks of packages. The key of a build is the key of its lock.
#[derive(Debug)]
pub struct Packages {
    resolver: Arc<dyn Resolver>,
    vdk_distribution: String,
    vdk_constraints: String,
}

impl Packages {
    /// A builder whose packages `resolver` chooses, with VDK from this distribution on the package index and under these
    /// constraints.
    pub fn new(resolver: Arc<dyn Resolver>, vdk_distribution: String, vdk_constraints: String) -> Self {
        Self { resolver, vdk_distribution, vdk_constraints }
    }
}

impl ArtifactBuilder for Packages {
    fn name(&self) -> &'static str {
        "packages"
    }

    fn fingerprint(&self, _blueprint: &DeploymentSpec) -> String {
        format!("{}\n{}", self.vdk_distribution, self.vdk_constraints)
    }

    fn inputs(&self, request: &ArtifactRequest<'_>) -> Result<BuildInputs, Problem> {
        let deployment = &request.deployment_spec.deployment;
        let raw = request.requirements.ok_or_else(|| {
            Problem::new(
                Code::RolloutSourcesMissing,
                format!("Revision {} was not rolled out.", deployment.generation),
                "Its sources are not in the database.",
            )
            .not_rolled_out()
            .fix("Upload the sources again and deploy them.")
        })?;
        let inputs = ResolutionInputs {
            python_version: deployment.python_version,
            vdk_requirement: format!("{}=={}", self.vdk_distribution, deployment.vdk_version),
            constraints: self.vdk_constraints.clone(),
            requirements: requirements::normalise(raw)?,
            platform: None,
        };
        let content = serde_json::to_string(&inputs).map_err(|error| unreadable(&error))?;
        Ok(BuildInputs { key: BuildKey::new(inputs.key().to_string()), content })
    }

    fn known(&self, _inputs: &BuildInputs) -> Option<Artifact> {
        None
    }

    fn build<'a>(&'a self, inputs: &'a BuildInputs, _report: Report<'a>) -> BoxFuture<'a, Result<Built, Problem>> {
        Box::pin(async move {
            let inputs: ResolutionInputs = serde_json::from_str(&inputs.content).map_err(|error| unreadable(&error))?;
            let lock = self.resolver.lock(&inputs).await?;
            Ok(Built { artifact: Artifact::Packages(lock.key.clone()), locks: vec![lock] })
        })
    }
}

fn unreadable(error: &serde_json::Error) -> Problem {
    Problem::new(
        Code::PackageInputsUnreadable,
        "The packages of the data job were not chosen.",
        format!("Their stored inputs can't be read: {error}."),
    )
    .not_rolled_out()
    .fix("Deploy again.")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use model::{
        deployment::{Deployment, Mode},
        job::Contacts,
        lock::Lock,
        name::{JobId, JobName, TeamName},
        problem::Fault,
        python::PythonVersion,
        resources::Resources,
        source::SourceVersion,
        variables::Variables,
    };

    use super::*;

    /// Chooses nothing, and keeps what it was asked for.
    #[derive(Debug, Default)]
    struct TestResolver(Mutex<Vec<ResolutionInputs>>);

    impl Resolver for TestResolver {
        fn lock<'a>(&'a self, inputs: &'a ResolutionInputs) -> BoxFuture<'a, Result<Lock, Problem>> {
            self.0.lock().unwrap().push(inputs.clone());
            let lock = Lock { key: inputs.key(), python_version: inputs.python_version, text: "none".into() };
            Box::pin(async { Ok(lock) })
        }
    }

    fn deployment_spec() -> DeploymentSpec {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let deployment = Deployment {
            job_id: JobId(uuid::Uuid::nil()),
            generation: 7,
            job_version: SourceVersion::parse(&"a".repeat(40)).unwrap(),
            python_version_asked: None,
            python_version: PythonVersion { major: 3, minor: 11 },
            vdk_version_asked: None,
            vdk_version: "1.2".into(),
            enabled: true,
            mode: Mode::Release,
            resources: Resources::default(),
            schedule_cron: None,
            schedule_since: at,
            contacts: Contacts::default(),
            db_default_type: None,
            enable_execution_notifications: true,
            deployed_by: "someone".into(),
            deployed_at: at,
        };
        DeploymentSpec {
            job_name: JobName::parse("example-job").unwrap(),
            team: TeamName::parse("a team").unwrap(),
            deployment,
            variables: Variables::default(),
            team_secret: None,
        }
    }

    #[test]
    fn equal_requirements_have_one_build_however_they_are_written() {
        let builder = Packages::new(Arc::new(TestResolver::default()), "vdk".into(), "a<2".into());
        let deployment_spec = deployment_spec();
        let inputs = |text: &str| {
            builder.inputs(&ArtifactRequest { deployment_spec: &deployment_spec, requirements: Some(text) }).unwrap()
        };
        assert_eq!(inputs("requests\n# a note\nabc==1\n"), inputs("abc==1\nrequests"));
        assert_ne!(inputs("abc==1").key, inputs("abc==2").key);
        let missing =
            builder.inputs(&ArtifactRequest { deployment_spec: &deployment_spec, requirements: None }).unwrap_err();
        assert_eq!((missing.fault, missing.what.as_str()), (Fault::Platform, "Revision 7 was not rolled out."));
        let wrong = ArtifactRequest { deployment_spec: &deployment_spec, requirements: Some("-r other.txt") };
        assert_eq!(builder.inputs(&wrong).unwrap_err().fault, Fault::User);
    }

    #[tokio::test]
    async fn a_build_needs_nothing_but_its_inputs() {
        let resolver = Arc::new(TestResolver::default());
        let builder = Packages::new(resolver.clone(), "vdk".into(), "a<2".into());
        let deployment_spec = deployment_spec();
        let request = ArtifactRequest { deployment_spec: &deployment_spec, requirements: Some("requests") };
        let inputs = builder.inputs(&request).unwrap();
        let built = builder.build(&inputs, &|_| ()).await.unwrap();
        let asked = resolver.0.lock().unwrap().pop().unwrap();
        assert_eq!((asked.vdk_requirement.as_str(), asked.constraints.as_str()), ("vdk==1.2", "a<2"));
        assert_eq!(asked.requirements, "requests\n");
        let lock = &built.locks[0];
        assert_eq!(built.artifact, Artifact::Packages(lock.key.clone()));
        assert_eq!(inputs.key.as_str(), lock.key.as_str());
        let other = BuildInputs { content: "{}".into(), ..inputs };
        assert_eq!(builder.build(&other, &|_| ()).await.unwrap_err().fault, Fault::Platform);
    }
}
