//! What the settings say of a cluster where jobs run.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use image::prebuilt::{ImageTemplate, Prebuilt};
use model::{
    build::ArtifactBuilder, clock::SharedClock, deployment::VersionDefaults, python::default_python,
    resources::Resources,
};
use runtime::kubernetes::{self, Connection, KubernetesOptions, KubernetesRuntime, ManifestOptions, Template};

use crate::config::{ContextName, NamespaceName, RegistryName, Settings};

/// How often a run that failed is tried again in a cluster when the settings do not say, as the reference has it.
const BACKOFF_LIMIT: u32 = 3;

/// The shortest lease: changes are begun for so long after a sign of life that they are over before a follower leads, and
/// that has to be longer than the pause between two signs.
const LEASE_MIN_SECONDS: u64 = 10;

/// A cluster that the settings lead to, before anything is asked of it.
#[derive(Debug)]
pub(crate) struct ClusterConfig {
    connection: Connection,
    template: Template,
    image_template: ImageTemplate,
}

/// Reads what the settings name.
///
/// # Errors
/// When there is no way to a cluster, or a setting is missing or wrong.
pub(crate) async fn plan(settings: &Settings, clock: &SharedClock) -> anyhow::Result<ClusterConfig> {
    if settings.image_builder.is_none() {
        return Err(anyhow!(
            "With runtime = kubernetes the setting image.builder has to be set. This version takes images that are built \
             elsewhere: set image.builder = \"prebuilt\" (HOLDFAST_IMAGE_BUILDER=prebuilt), and image.name to the name \
             under which they are pushed."
        ));
    }
    let form = settings.image_template.as_str();
    let registry = settings.registry_url.as_ref().map(RegistryName::as_str);
    if form.contains("{registry}") && registry.is_none() {
        return Err(anyhow!(
            "The setting image.name has {{registry}}, and registry_url is not set. Set registry_url \
             (HOLDFAST_REGISTRY_URL=registry.example.com/jobs), or write the registry into image.name."
        ));
    }
    let image_template = ImageTemplate::parse(&form.replace("{registry}", registry.unwrap_or_default()))
        .map_err(|problem| anyhow!(problem.sentences().join("\n  ")))?;
    let template = match &settings.kubernetes_template_file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("The template {} can't be read.", path.display()))?;
            Template::parse(&text).map_err(|why| anyhow!("The template {} can't be used: {why}", path.display()))?
        }
        None => Template::default(),
    };
    if settings.lease_seconds.get() < LEASE_MIN_SECONDS {
        return Err(anyhow!(
            "With a lease of {} seconds changes of the cluster could arrive after another instance leads. Set lease_seconds to \
             {LEASE_MIN_SECONDS} or more.",
            settings.lease_seconds.get()
        ));
    }
    let context = settings.kubernetes_context.as_ref().map(ContextName::as_str);
    let namespace = settings.kubernetes_namespace.as_ref().map(NamespaceName::as_str);
    let connection = kubernetes::connect(Arc::clone(clock), context, namespace).await.context(
        "There is no way to a cluster. Set KUBECONFIG to a file that leads to one and kubernetes.context to its context, or \
         run the service in a pod.",
    )?;
    Ok(ClusterConfig { connection, template, image_template })
}

/// The Python and VDK versions that deployments can have.
///
/// # Errors
/// When the default is not among those on offer.
pub(crate) fn versions(settings: &Settings) -> anyhow::Result<VersionDefaults> {
    let offered = settings.kubernetes_python_versions.0.clone();
    if let Some(wanted) = settings.python_version
        && !offered.contains(&wanted)
    {
        return Err(anyhow!(
            "The setting python.version is {wanted}, which kubernetes.python_versions does not have. Add it there, or choose \
             another default."
        ));
    }
    let python_version =
        default_python(&offered, settings.python_version).context("kubernetes.python_versions names none.")?;
    Ok(VersionDefaults {
        python_versions: offered,
        python_version,
        vdk_version: settings.vdk_version.as_str().to_owned(),
    })
}

fn cores(millicores: u64) -> f64 {
    f64::from(u32::try_from(millicores).unwrap_or(u32::MAX)) / 1000.0
}

fn mebibytes(amount: u64) -> Option<i32> {
    i32::try_from(amount).ok()
}

/// Resources of the container that brings VDK.
fn vdk_resources(settings: &Settings) -> Resources {
    Resources {
        cpu_request: Some(cores(settings.kubernetes_vdk_cpu_request_millicores.get())),
        cpu_limit: Some(cores(settings.kubernetes_vdk_cpu_limit_millicores.get())),
        memory_request_mi: mebibytes(settings.kubernetes_vdk_memory_request_mi.get()),
        memory_limit_mi: mebibytes(settings.kubernetes_vdk_memory_limit_mi.get()),
    }
}

impl ClusterConfig {
    /// Begins to watch the namespace.
    pub(crate) fn open(
        self,
        settings: &Settings,
        has_token: bool,
        clock: SharedClock,
    ) -> (KubernetesRuntime, Arc<dyn ArtifactBuilder>) {
        let manifest = ManifestOptions {
            template: self.template,
            resources: Resources {
                cpu_request: Some(cores(settings.kubernetes_cpu_request_millicores.get())),
                cpu_limit: Some(cores(settings.kubernetes_cpu_limit_millicores.get())),
                memory_request_mi: mebibytes(settings.kubernetes_memory_request_mi.get()),
                memory_limit_mi: mebibytes(settings.kubernetes_memory_limit_mi.get()),
            },
            vdk_resources: vdk_resources(settings),
            vdk_images: settings.kubernetes_vdk_images.0.iter().cloned().collect(),
            pull_secrets: settings.kubernetes_pull_secrets.0.clone(),
            pull_policy: settings.kubernetes_pull_policy.as_str().to_owned(),
            read_only_root: settings.kubernetes_read_only_root_filesystem,
            has_token,
            deadline_seconds: settings.run_deadline_seconds.get(),
            backoff_limit: settings
                .run_backoff_limit
                .map_or(BACKOFF_LIMIT, |limit| limit.get().try_into().unwrap_or(u32::MAX)),
            start_deadline_seconds: settings.start_deadline_seconds.get(),
            outage_window_seconds: settings.outage_window_seconds.get(),
            default_zone: settings.time_zone.as_str().to_owned(),
        };
        let runtime = KubernetesRuntime::open(KubernetesOptions {
            connection: self.connection,
            manifest,
            logs_folder: settings.cache_folder().join("logs"),
            log_max_bytes: settings.log_max_bytes.get(),
            ignore_paths: settings.kubernetes_ignore_paths.0.clone(),
            adopt: settings.kubernetes_adopt,
            controller_zone: settings.kubernetes_controller_time_zone.as_str().to_owned(),
            clock,
        });
        (runtime, Arc::new(Prebuilt::new(self.image_template)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, ProcessEnvironment, load};

    #[test]
    fn the_container_that_brings_vdk_has_the_resources_of_upstreams_chart_unless_they_are_set() {
        let folder = tempfile::tempdir().unwrap();
        let resources = |variables: &[(&str, &str)]| {
            let environment = ProcessEnvironment {
                variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
                folder: folder.path().into(),
                home: Some(folder.path().into()),
                cores: 4,
            };
            vdk_resources(&load(&environment, &Flags::default()).unwrap().settings)
        };
        let chart = Resources {
            cpu_request: Some(0.1),
            cpu_limit: Some(0.5),
            memory_request_mi: Some(100),
            memory_limit_mi: Some(500),
        };
        assert_eq!(resources(&[]), chart);
        let set = [
            ("HOLDFAST_KUBERNETES_VDK_CPU_REQUEST_MILLICORES", "200"),
            ("HOLDFAST_KUBERNETES_VDK_CPU_LIMIT_MILLICORES", "1000"),
            ("HOLDFAST_KUBERNETES_VDK_MEMORY_REQUEST_MI", "50"),
            ("HOLDFAST_KUBERNETES_VDK_MEMORY_LIMIT_MI", "800"),
        ];
        let expected = Resources {
            cpu_request: Some(0.2),
            cpu_limit: Some(1.0),
            memory_request_mi: Some(50),
            memory_limit_mi: Some(800),
        };
        assert_eq!(resources(&set), expected);
    }
}
