//! The settings of a cluster where jobs run.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, anyhow};
use image::{
    Embedded, EmbeddedOptions,
    oci::{Compression, Reference},
    prebuilt::{ImageTemplate, Prebuilt},
    registry::{CredentialsFile, Registries, RegistryOptions},
};
use model::{
    build::{ArtifactBuilder, Stored},
    clock::SharedClock,
    deployment::VersionDefaults,
    python::{PythonVersion, default_python},
    resources::Resources,
};
use python::Tools;
use runtime::kubernetes::{self, Connection, KubernetesOptions, KubernetesRuntime, ManifestOptions, Template};

use crate::config::{CompressionName, ContextName, ImageBuilderName, NamespaceName, RegistryName, Settings};

/// The default number of retries of a failed execution in a cluster, as in upstream.
const BACKOFF_LIMIT: u32 = 3;

/// The shortest lease. Changes are started only for a part of the lease after a renewal, so that they end before a follower
/// leads; this part must be longer than the interval of renewals.
const LEASE_MIN_SECONDS: u64 = 10;

/// The configured cluster, before the first request to it.
#[derive(Debug)]
pub(crate) struct ClusterConfig {
    connection: Connection,
    template: Template,
    images: Images,
}

/// Where the images of jobs come from.
#[derive(Debug, Clone)]
enum Images {
    Prebuilt(ImageTemplate),
    Embedded(EmbeddedOptions, Arc<Registries>),
}

/// Reads the settings of the cluster and the files that they name.
///
/// # Errors
/// When no cluster is configured, or a setting is missing or wrong.
pub(crate) async fn plan(settings: &Settings, clock: &SharedClock) -> anyhow::Result<ClusterConfig> {
    let images = images(settings, clock)?;
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
            "With a lease of {} seconds, a change of the cluster could arrive after another instance became leader. Set lease_seconds to \
             {LEASE_MIN_SECONDS} or more.",
            settings.lease_seconds.get()
        ));
    }
    let context = settings.kubernetes_context.as_ref().map(ContextName::as_str);
    let namespace = settings.kubernetes_namespace.as_ref().map(NamespaceName::as_str);
    let connection = kubernetes::connect(Arc::clone(clock), context, namespace).await.context(
        "No cluster is configured. Set KUBECONFIG and, if needed, kubernetes.context, or run the service in a pod.",
    )?;
    Ok(ClusterConfig { connection, template, images })
}

/// Whether the settings have the service assemble images.
pub(crate) fn is_embedded(settings: &Settings) -> bool {
    match settings.image_builder {
        Some(builder) => builder == ImageBuilderName::Embedded,
        None => !settings.image_base_images.0.is_empty(),
    }
}

/// Reads where the images of jobs come from.
fn images(settings: &Settings, clock: &SharedClock) -> anyhow::Result<Images> {
    if settings.image_builder.is_none() && settings.image_base_images.0.is_empty() {
        return Err(anyhow!(
            "With runtime = kubernetes, images have to come from somewhere. Set image.base_images \
             (HOLDFAST_IMAGE_BASE_IMAGES=3.11=registry.example.com/python:3.11) and registry_url, and the service assembles \
             them; or set image.builder = \"prebuilt\" and image.name to the name under which they are pushed."
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
    let name = |registry: Option<&str>| {
        ImageTemplate::parse(&form.replace("{registry}", registry.unwrap_or_default()))
            .map_err(|problem| anyhow!(problem.sentences().join("\n  ")))
    };
    let pull_name = name(registry)?;
    if !is_embedded(settings) {
        return Ok(Images::Prebuilt(pull_name));
    }
    let base_images = &settings.image_base_images.0;
    if base_images.is_empty() {
        return Err(anyhow!(
            "With image.builder = \"embedded\", the setting image.base_images has to name a base image for each Python version \
             (HOLDFAST_IMAGE_BASE_IMAGES=3.11=registry.example.com/python:3.11)."
        ));
    }
    for (version, image) in base_images.iter().filter(|(_, image)| image.base.digest.is_none()) {
        tracing::warn!(python = %version, base = %image.base,
            "a base image has no digest: a moved tag changes images when they are built the next time");
    }
    let push_name = name(settings.image_registry_push_url.as_ref().map(RegistryName::as_str).or(registry))?;
    for name in [&pull_name, &push_name] {
        name.check()
            .map_err(|why| anyhow!("The setting image.name gives {name}, which is no name of an image: {why}."))?;
    }
    let architectures = match settings.image_architectures.0.as_slice() {
        [] => vec![own_architecture()?.to_owned()],
        given => given.to_vec(),
    };
    let options = EmbeddedOptions {
        base_images: base_images.iter().map(|(version, image)| (*version, image.base.clone())).collect(),
        vdk_apart: vdk_images(settings).into_keys().collect(),
        architectures,
        push_name,
        pull_name,
        compression: match settings.image_compression {
            CompressionName::Zstd => Compression::Zstd,
            CompressionName::Gzip => Compression::Gzip,
        },
        bytecode: settings.image_bytecode,
        vdk_distribution: settings.vdk_distribution.as_str().to_owned(),
        vdk_constraints: String::new(),
        cache_dir: settings.cache_folder(),
    };
    Ok(Images::Embedded(options, Arc::new(registries(registry_options(settings, clock)?)?)))
}

/// How registries are reached.
///
/// # Errors
/// When the file of certificates can't be read.
fn registry_options(settings: &Settings, clock: &SharedClock) -> anyhow::Result<RegistryOptions> {
    let ca_certificates = match &settings.image_registry_ca_file {
        Some(path) => Some(
            std::fs::read(path)
                .with_context(|| format!("The file {} of image.registry_ca_file can't be read.", path.display()))?,
        ),
        None => None,
    };
    Ok(RegistryOptions {
        plain_http: settings.image_registry_plain_http.0.clone(),
        ca_certificates,
        credentials: settings.image_registry_credentials_file.clone().map(CredentialsFile),
        ..RegistryOptions::new(Arc::clone(clock))
    })
}

fn registries(options: RegistryOptions) -> anyhow::Result<Registries> {
    Registries::new(options).map_err(|why| anyhow!("Registries can't be reached with image.registry_ca_file: {why}."))
}

/// The processor of this program, as images name it.
fn own_architecture() -> anyhow::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(anyhow!("Images can't be assembled for {other}. Set image.architectures to amd64 or arm64.")),
    }
}

/// The images that bring VDK, by Python version.
fn vdk_images(settings: &Settings) -> BTreeMap<PythonVersion, String> {
    let of_base = settings.image_base_images.0.iter();
    let mut all: BTreeMap<_, _> = of_base.filter_map(|(version, image)| Some((*version, image.vdk.clone()?))).collect();
    all.extend(settings.kubernetes_vdk_images.0.iter().cloned());
    all
}

/// The Python and VDK versions that deployments can have.
///
/// # Errors
/// If the default is not one of the offered versions.
pub(crate) fn versions(settings: &Settings) -> anyhow::Result<VersionDefaults> {
    let offered = if is_embedded(settings) {
        settings.image_base_images.0.keys().copied().collect()
    } else {
        settings.kubernetes_python_versions.0.clone()
    };
    if let Some(wanted) = settings.python_version
        && !offered.contains(&wanted)
    {
        return Err(anyhow!(
            "The setting python.version is {wanted}, which neither image.base_images nor kubernetes.python_versions has. Add it, \
             or choose another default."
        ));
    }
    let python_version =
        default_python(&offered, settings.python_version).context("kubernetes.python_versions is empty.")?;
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

/// The means with which images are assembled.
pub(crate) struct Building {
    /// The installer of packages.
    pub(crate) tools: Arc<Tools>,
    /// Sources and locks.
    pub(crate) stored: Arc<dyn Stored>,
    /// Constraints for VDK's packages.
    pub(crate) vdk_constraints: String,
}

/// The base images of jobs and their registries, before the first request.
pub(crate) struct BaseImages {
    images: Vec<Reference>,
    registries: Arc<Registries>,
}

/// The base images that the settings name. Each request is sent once.
///
/// # Errors
/// When a file that the settings name can't be used.
pub(crate) fn base_images(settings: &Settings, clock: &SharedClock) -> anyhow::Result<BaseImages> {
    let options = RegistryOptions { attempts_max: 1, ..registry_options(settings, clock)? };
    let images = settings.image_base_images.0.values().map(|image| image.base.clone()).collect();
    Ok(BaseImages { images, registries: Arc::new(registries(options)?) })
}

impl BaseImages {
    /// Reads the manifest of each image, and returns their names.
    ///
    /// # Errors
    /// When a registry does not respond, denies the read, or has no such image.
    pub(crate) async fn check(&self) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for image in &self.images {
            let digest = image.digest.as_ref().map(ToString::to_string);
            let version = digest.or_else(|| image.tag.clone()).unwrap_or_else(|| "latest".to_owned());
            let found = self.registries.repository(image).manifest(&version).await?;
            found.with_context(|| format!("The registry has no image {image}."))?;
            names.push(image.to_string());
        }
        Ok(names)
    }
}

impl ClusterConfig {
    /// The cluster and the namespace.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Begins to watch the namespace.
    pub(crate) fn open(
        self,
        settings: &Settings,
        has_token: bool,
        building: Option<Building>,
        clock: SharedClock,
    ) -> anyhow::Result<(KubernetesRuntime, Arc<dyn ArtifactBuilder>)> {
        let images = self.images.clone();
        let builder: Arc<dyn ArtifactBuilder> = match (images, building) {
            (Images::Prebuilt(name), _) => Arc::new(Prebuilt::new(name)),
            (Images::Embedded(options, registries), Some(Building { tools, stored, vdk_constraints })) => {
                let options = EmbeddedOptions { vdk_constraints, ..options };
                Arc::new(Embedded::new(options, tools, registries, stored))
            }
            (Images::Embedded(..), None) => {
                return Err(anyhow!("Images are assembled, and nothing installs packages."));
            }
        };
        Ok((self.open_runtime(settings, has_token, clock), builder))
    }

    /// Begins to watch the namespace.
    pub(crate) fn open_runtime(self, settings: &Settings, has_token: bool, clock: SharedClock) -> KubernetesRuntime {
        KubernetesRuntime::open(self.connection, options(self.template, settings, has_token, clock))
    }
}

/// The options of the runtime by the settings.
fn options(template: Template, settings: &Settings, has_token: bool, clock: SharedClock) -> KubernetesOptions {
    let manifest = ManifestOptions {
        template,
        resources: Resources {
            cpu_request: Some(cores(settings.kubernetes_cpu_request_millicores.get())),
            cpu_limit: Some(cores(settings.kubernetes_cpu_limit_millicores.get())),
            memory_request_mi: mebibytes(settings.kubernetes_memory_request_mi.get()),
            memory_limit_mi: mebibytes(settings.kubernetes_memory_limit_mi.get()),
        },
        vdk_resources: vdk_resources(settings),
        vdk_images: vdk_images(settings),
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
    KubernetesOptions {
        manifest,
        logs_folder: settings.cache_folder().join("logs"),
        log_max_bytes: settings.log_max_bytes.get(),
        ignore_paths: settings.kubernetes_ignore_paths.0.clone(),
        adopt: settings.kubernetes_adopt,
        controller_zone: settings.kubernetes_controller_time_zone.as_str().to_owned(),
        pull_credentials_file: settings.image_pull_credentials_file.clone(),
        clock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, ProcessEnvironment, load};

    fn settings(folder: &std::path::Path, variables: &[(&str, &str)]) -> Settings {
        let environment = ProcessEnvironment {
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            folder: folder.into(),
            home: Some(folder.into()),
            cores: 4,
        };
        load(&environment, &Flags::default()).unwrap().settings
    }

    #[test]
    fn cron_jobs_without_a_time_zone_are_in_the_one_of_the_controller_and_others_in_that_of_the_service() {
        let folder = tempfile::tempdir().unwrap();
        let zones = |variables: &[(&str, &str)]| {
            let settings = settings(folder.path(), variables);
            let options = options(Template::default(), &settings, false, Arc::new(clock::SystemClock));
            (options.controller_zone, options.manifest.default_zone)
        };
        assert_eq!(zones(&[]), ("UTC".into(), "UTC".into()));
        let set = [("HOLDFAST_KUBERNETES_CONTROLLER_TIME_ZONE", "Europe/Sofia"), ("HOLDFAST_TIME_ZONE", "Asia/Tokyo")];
        assert_eq!(zones(&set), ("Europe/Sofia".into(), "Asia/Tokyo".into()));
    }

    #[test]
    fn the_container_that_brings_vdk_has_the_resources_of_upstreams_chart_unless_they_are_set() {
        let folder = tempfile::tempdir().unwrap();
        let resources = |variables: &[(&str, &str)]| vdk_resources(&settings(folder.path(), variables));
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
