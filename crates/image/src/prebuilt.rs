//! Images that come ready from elsewhere, such as a team's own build: known by their names.

use std::fmt;

use model::{
    BoxFuture, Problem,
    artifact::Artifact,
    build::{ArtifactBuilder, ArtifactRequest, BuildInputs, BuildKey, Built, Report},
    name::excerpt,
    problem::Code,
    runtime::DeploymentSpec,
};

use crate::oci::Reference;

/// The form of an image's name, with places for what differs from deployment to deployment.
///
/// Places are `{job}`, `{team}` (in lower case, and with a dash for what a name of an image can't have), `{version}` (of
/// the job's source), `{python}` (`3.11`) and `{vdk}` (the version of VDK).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTemplate(String);

/// The placeholders that `image.name` may contain.
const PLACES: [&str; 5] = ["job", "team", "version", "python", "vdk"];

/// The most characters of a form.
const MAX_CHARS: usize = 500;

impl ImageTemplate {
    /// Reads a form.
    ///
    /// # Errors
    /// [`model::problem::Kind::Invalid`] when it names no image of its own for each job and version, or has a place that is
    /// not known.
    pub fn parse(raw: &str) -> Result<Self, Problem> {
        let refuse = |why: String| {
            Err(Problem::new(Code::ImageNameInvalid, format!("The image name {} can't be used.", excerpt(raw)), why)
                .follows("The service was not started.")
                .fix("Write `image.name` like \"registry.example.com/jobs/{job}:{version}\"."))
        };
        if raw.is_empty() || raw.len() > MAX_CHARS || raw.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return refuse(format!("It has 1 to {MAX_CHARS} characters, and no blanks."));
        }
        let mut rest = raw;
        while let Some((_, after)) = rest.split_once('{') {
            let Some((place, after)) = after.split_once('}') else {
                return refuse("A place in braces is not closed.".into());
            };
            if !PLACES.contains(&place) {
                return refuse(format!("{{{place}}} is not known; there are {{{}}}.", PLACES.join("}, {")));
            }
            rest = after;
        }
        if !raw.contains("{job}") {
            return refuse("Without {job} all jobs would have the same image.".into());
        }
        Ok(Self(raw.to_owned()))
    }

    /// Checks that names of this form are valid image names.
    ///
    /// # Errors
    /// The first rule that a name would break.
    pub fn check(&self) -> Result<(), String> {
        let name = PLACES.iter().fold(self.0.clone(), |name, place| name.replace(&format!("{{{place}}}"), "0"));
        Reference::parse(&name).map(drop)
    }

    /// The name for a deployment.
    pub fn of(&self, deployment_spec: &DeploymentSpec) -> String {
        let deployment = &deployment_spec.deployment;
        let team: String = deployment_spec
            .team
            .as_str()
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        self.0
            .replace("{job}", deployment_spec.job_name.as_str())
            .replace("{team}", team.trim_matches('-'))
            .replace("{version}", deployment.job_version.as_str())
            .replace("{python}", &deployment.python_version.to_string())
            .replace("{vdk}", &deployment.vdk_version)
    }
}

impl fmt::Display for ImageTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names images that are built elsewhere.
#[derive(Debug)]
pub struct Prebuilt(ImageTemplate);

impl Prebuilt {
    /// A builder whose images have names of this form.
    pub fn new(name: ImageTemplate) -> Self {
        Self(name)
    }
}

impl ArtifactBuilder for Prebuilt {
    fn name(&self) -> &'static str {
        "prebuilt"
    }

    fn fingerprint(&self, deployment_spec: &DeploymentSpec) -> String {
        self.0.of(deployment_spec)
    }

    fn inputs(&self, request: &ArtifactRequest<'_>) -> Result<BuildInputs, Problem> {
        let name = self.0.of(request.deployment_spec);
        Ok(BuildInputs { key: BuildKey::new(format!("prebuilt {name}")), content: name })
    }

    fn known(&self, inputs: &BuildInputs) -> Option<Artifact> {
        Some(Artifact::Image(inputs.content.clone()))
    }

    fn build<'a>(&'a self, inputs: &'a BuildInputs, _report: Report<'a>) -> BoxFuture<'a, Result<Built, Problem>> {
        Box::pin(async { Ok(Built { artifact: Artifact::Image(inputs.content.clone()), locks: Vec::new() }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_that_gives_all_jobs_one_image_is_refused() {
        for raw in ["", "registry/jobs:1", "registry/{job", "registry/{job}:{tag}", "registry/{job}: {version}"] {
            assert!(ImageTemplate::parse(raw).is_err(), "{raw}");
        }
        assert!(ImageTemplate::parse("localhost:5000/{team}/{job}:{version}-{python}-{vdk}").is_ok());
    }
}
