//! Images that are assembled in this process: base image, VDK's packages, the job's packages, source.
//!
//! ```text
//! images/bases/<digest>.json      what was found in a base image
//! images/layers/<key>/layer.json  a layer that was written: its digests, and repositories that have it
//! images/layers/<key>/blob        its content
//! ```
//!
//! A layer is known by the key of what it follows from, so jobs with equal requirements share it. All of the folder can be
//! deleted while the service is stopped: the database has the sources and the locks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use model::{
    BoxFuture, Problem,
    artifact::Artifact,
    build::{ArtifactBuilder, ArtifactRequest, BuildInputs, BuildKey, Built, Phase, Progress, Report, Stored},
    lock::ResolutionInputs,
    name::JobId,
    problem::Code,
    python::PythonVersion,
    runtime::DeploymentSpec,
    source::SourceVersion,
};
use python::{ImagePlatform, Tools, Wheels};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    LockResolver,
    lock::ImageLocks,
    oci::{
        Assembled, BaseImage, Compression, Digest, Layer, LayerBlob, Manifest, Reference, Settings,
        assemble::{Document, assemble, index},
        base::{BaseFacts, Inspection},
        content::{self, ContentError, Site},
        manifest,
    },
    prebuilt::ImageTemplate,
    registry::{Blob, BlobContent, Registries, RegistryError, Repository},
    requirements,
};

const WHAT: &str = "The image of the data job was not built.";
/// Counts the ways in which images are made. Another number builds every image again.
const FORMAT: u32 = 1;
const CONFIG_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// The disk space that layers here may take; the ones that were not used for longest are removed.
const LAYERS_MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Repositories that are noted for a layer.
const PLACES_MAX: usize = 3;
const NOTE: &str = "layer.json";
const CONTENT: &str = "blob";

/// The parts of images, and the registry that they are pushed to.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Base images by the version of their Python.
    pub base_images: BTreeMap<PythonVersion, Reference>,
    /// Versions whose VDK another image brings.
    pub vdk_apart: BTreeSet<PythonVersion>,
    /// Processors that images are for, such as `amd64`. With several, an image is an index.
    pub architectures: Vec<String>,
    /// The names under which images are pushed; `{job}`, `{version}` and so on stand for what differs.
    pub push_name: ImageTemplate,
    /// The names under which nodes pull them.
    pub pull_name: ImageTemplate,
    /// How layers are compressed.
    pub compression: Compression,
    /// Whether layers of packages have compiled modules, so that jobs start sooner.
    pub bytecode: bool,
    /// The distribution of VDK on the package index.
    pub vdk_distribution: String,
    /// Constraints for VDK's packages, one a line.
    pub vdk_constraints: String,
    /// The folder of the cache.
    pub cache_dir: PathBuf,
}

/// Assembles images.
#[derive(Debug)]
pub struct Embedded {
    options: EmbeddedOptions,
    tools: Arc<Tools>,
    locker: LockResolver,
    registries: Arc<Registries>,
    stored: Arc<dyn Stored>,
    /// Layers that are being written, by their keys: who wants the same waits.
    writing: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// All that a build needs, as rows keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    format: u32,
    job: String,
    job_id: JobId,
    version: String,
    base: String,
    architectures: Vec<String>,
    compression: String,
    /// The full version of the Python that compiles modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytecode: Option<String>,
    push: String,
    pull: String,
    packages: ResolutionInputs,
}

/// A base image for one processor, and what was found in it.
#[derive(Debug, Clone)]
struct Base {
    image: BaseImage,
    facts: BaseFacts,
    repository: Repository,
}

/// The record of a base image in the cache.
#[derive(Debug, Serialize, Deserialize)]
struct BaseNote {
    manifest: Manifest,
    config: serde_json::Value,
    facts: BaseFacts,
}

/// A layer in the cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LayerNote {
    blob: LayerBlob,
    /// Repositories of the registry that had it last.
    repositories: BTreeSet<String>,
}

/// A layer of an image: where it is here, and what is said of it in the image's history.
#[derive(Debug, Clone)]
struct Made {
    folder: PathBuf,
    note: LayerNote,
    what: &'static str,
}

/// The name of an image that is pushed.
struct Name {
    push: Reference,
    pull: Reference,
}

impl Embedded {
    /// A builder. Nothing is read or asked for before the first build.
    pub fn new(
        options: EmbeddedOptions,
        tools: Arc<Tools>,
        registries: Arc<Registries>,
        stored: Arc<dyn Stored>,
    ) -> Self {
        Self { locker: LockResolver::new(tools.clone()), options, tools, registries, stored, writing: Mutex::default() }
    }

    fn base_of(&self, version: PythonVersion) -> Result<&Reference, Problem> {
        self.options.base_images.get(&version).ok_or_else(|| {
            let offered: Vec<String> = self.options.base_images.keys().map(ToString::to_string).collect();
            Problem::new(
                Code::ImageBaseMissing,
                WHAT,
                format!("Python {version} has no base image; there are base images for {}.", offered.join(", ")),
            )
            .not_rolled_out()
            .fix("Deploy with one of those versions, or have the operator set `image.base_images`.")
        })
    }

    fn packages(&self, deployment_spec: &DeploymentSpec, requirements: String) -> ResolutionInputs {
        let deployment = &deployment_spec.deployment;
        let apart = self.options.vdk_apart.contains(&deployment.python_version);
        ResolutionInputs {
            python_version: deployment.python_version,
            vdk_requirement: if apart {
                String::new()
            } else {
                format!("{}=={}", self.options.vdk_distribution, deployment.vdk_version)
            },
            constraints: if apart { String::new() } else { self.options.vdk_constraints.clone() },
            requirements,
            platform: None,
        }
    }

    /// The full version of the Python that compiles modules for images with this version.
    fn bytecode(&self, version: PythonVersion) -> Option<String> {
        self.options.bytecode.then(|| self.tools.compiler(version)).flatten().map(|python| python.full_version.clone())
    }

    async fn build_image(&self, content: &Content, report: Report<'_>) -> Result<Built, Problem> {
        let name = names(content)?;
        let phase = |phase: Phase| report(Progress { phase, bytes: 0 });
        phase(Phase::Resolving);
        let reference = Reference::parse(&content.base).map_err(|why| unusable_base(&content.base, &why))?;
        let (mut images, mut locks) = (Vec::new(), Vec::new());
        let written = Counter::new(report, Phase::BuildingLayers);
        for architecture in &content.architectures {
            let base = self.base(&reference, architecture).await?;
            let platform = platform(&base, &content.base, architecture, content.packages.python_version)?;
            let inputs = ResolutionInputs { platform: Some(platform.platform.clone()), ..content.packages.clone() };
            let image_locks = self.locker.image_locks(&inputs, &*self.stored).await?;
            phase(Phase::BuildingLayers);
            let layers = self.layers(content, &base, &platform, &image_locks, &written).await?;
            locks.extend(image_locks.vdk);
            locks.extend(image_locks.job);
            let settings = settings(content);
            let with_history: Vec<_> = layers.iter().map(|made| (made.note.blob.clone(), made.what)).collect();
            let image =
                assemble(&base.image, &with_history, &settings).map_err(|why| unusable_base(&content.base, &why))?;
            images.push((base, layers, image));
        }
        locks.sort_by(|a, b| a.key.cmp(&b.key));
        locks.dedup_by(|a, b| a.key == b.key);
        let sent = Counter::new(report, Phase::Pushing);
        phase(Phase::Pushing);
        let digest = self.push(&name.push, images, &sent).await?;
        let image = Reference { tag: None, digest: Some(digest), ..name.pull };
        Ok(Built { artifact: Artifact::Image(image.to_string()), locks })
    }

    /// A base image for a processor. The facts about it are cached by its digest.
    async fn base(&self, reference: &Reference, architecture: &str) -> Result<Base, Problem> {
        let repository = self.registries.repository(reference);
        let failed = |error: RegistryError| error.problem(WHAT);
        let missing = || unusable_base(&reference.to_string(), "the registry has no such image");
        let version = reference.version();
        if let Some(digest) = &reference.digest
            && let Some(found) = self.noted_base(digest, &repository)
        {
            return Ok(found);
        }
        let mut fetched = repository.manifest(version).await.map_err(failed)?.ok_or_else(missing)?;
        let garbled = |error: serde_json::Error| unusable_base(&reference.to_string(), &error.to_string());
        if manifest::is_index(&fetched.media_type) {
            let all: crate::oci::Index = serde_json::from_slice(&fetched.content).map_err(garbled)?;
            let Some(one) = all.for_architecture(architecture) else {
                let why = format!("it is for {}, not for {architecture}", all.architectures().join(", "));
                return Err(unusable_base(&reference.to_string(), &why));
            };
            let digest = one.digest.clone();
            if let Some(found) = self.noted_base(&digest, &repository) {
                return Ok(found);
            }
            fetched = repository.manifest(digest.as_str()).await.map_err(failed)?.ok_or_else(missing)?;
        }
        if let Some(found) = self.noted_base(&fetched.digest, &repository) {
            return Ok(found);
        }
        let manifest: Manifest = serde_json::from_slice(&fetched.content).map_err(garbled)?;
        let config = repository.blob(&manifest.config.digest, CONFIG_MAX_BYTES).await.map_err(failed)?;
        let config = serde_json::from_slice(&config.ok_or_else(missing)?).map_err(garbled)?;
        tracing::info!(base = %reference, digest = %fetched.digest, "inspecting a base image, once");
        let scratch = self.tools.scratch().await?;
        let mut inspection = Inspection::default();
        for (number, layer) in manifest.layers.iter().enumerate() {
            let file = scratch.path().join(number.to_string());
            if !repository.download(&layer.digest, layer.size, &file).await.map_err(failed)? {
                return Err(missing());
            }
            let media_type = layer.media_type.clone();
            let (read, next) = blocking(move || {
                let read = inspection.layer(&media_type, &file);
                let _ = std::fs::remove_file(&file);
                (read, inspection)
            })
            .await?;
            read.map_err(|error| unusable_base(&reference.to_string(), &format!("a layer can't be read: {error}")))?;
            inspection = next;
        }
        let note = BaseNote { manifest, config, facts: inspection.facts() };
        let path = self.base_note(&fetched.digest);
        let kept = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| files::write_durably(&path, &serde_json::to_vec(&note)?));
        if let Err(error) = kept {
            tracing::warn!(path = %path.display(), %error, "the inspection of a base image was not kept");
        }
        Ok(base(fetched.digest, note, repository))
    }

    fn base_note(&self, digest: &Digest) -> PathBuf {
        self.options.cache_dir.join("images").join("bases").join(format!("{}.json", digest.hex()))
    }

    fn noted_base(&self, digest: &Digest, repository: &Repository) -> Option<Base> {
        let note = serde_json::from_slice(&std::fs::read(self.base_note(digest)).ok()?).ok()?;
        Some(base(digest.clone(), note, repository.clone()))
    }

    /// The layers upon the base, the lowest first.
    async fn layers(
        &self,
        content: &Content,
        base: &Base,
        platform: &ImagePlatform,
        locks: &ImageLocks,
        written: &Counter<'_>,
    ) -> Result<Vec<Made>, Problem> {
        let python_version = platform.python_version.to_string();
        let search_path = base.image.variable("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin");
        let folder = base.facts.python_folder(&python_version, search_path).ok_or_else(|| {
            unusable_base(&content.base, &format!("it has no python{python_version} in its PATH, {search_path}"))
        })?;
        let mut environment = Layer::of_owner(0);
        let with_vdk = locks.vdk.is_some();
        content::environment(&mut environment, &python_version, &folder, with_vdk)
            .and_then(|()| content::account(&mut environment, &base.facts))
            .map_err(|refused| not_packed(&refused.into()))?;
        // Another Python than the one that was asked for compiles to other bytes; such an image has none.
        let bytecode =
            content.bytecode.clone().filter(|asked| self.bytecode(platform.python_version).as_ref() == Some(asked));
        let compiles = bytecode.is_some();
        let no_lock = String::new();
        let vdk_lock = locks.vdk.as_ref().map_or(&no_lock, |lock| &lock.text);
        let common = [
            format!("{FORMAT} {}", content::FORMAT),
            content.compression.clone(),
            python_version.clone(),
            platform.platform.clone(),
            bytecode.clone().unwrap_or_default(),
        ];
        let key = key(&common, &["vdk", vdk_lock, &folder, &base.facts.passwd, &base.facts.group]);
        let wheels = locks.wheels.as_ref();
        let mut all = Vec::new();
        let make = self.package_layer(vdk_lock.clone(), wheels, platform, environment, Site::Vdk, compiles);
        all.push(self.layer(&key, "VDK", written, make).await?);
        let own = own_packages(vdk_lock, locks.job.as_ref().map_or(&no_lock, |lock| &lock.text))?;
        if !own.is_empty() {
            let key = self::key(&common, &["packages", &own]);
            let site = Site::Job(&python_version);
            let make = self.package_layer(own, wheels, platform, Layer::of_owner(0), site, compiles);
            all.push(self.layer(&key, "packages of the data job", written, make).await?);
        }
        let key = self::key(&common, &["source", &content.job, &content.version]);
        let make = async {
            let version = SourceVersion::parse(&content.version)?;
            let archive = self
                .stored
                .source(content.job_id, &version)
                .await?
                .ok_or_else(|| sources_missing(&version.to_string()))?;
            let mut layer = Layer::of_owner(content::JOB_USER);
            content::source(&mut layer, archive, &content.job).map_err(|error| not_packed(&error))?;
            Ok((layer, None))
        };
        all.push(self.layer(&key, "source of the data job", written, make).await?);
        Ok(all)
    }

    /// A layer with the packages of a lock upon what it has. The folder of the packages goes with the second value.
    async fn package_layer(
        &self,
        lock: String,
        wheels: Option<&Wheels>,
        platform: &ImagePlatform,
        mut layer: Layer,
        site: Site<'_>,
        compiles: bool,
    ) -> Result<(Layer, Option<tempfile::TempDir>), Problem> {
        if lock.is_empty() {
            return Ok((layer, None));
        }
        let scratch = self.tools.scratch().await?;
        let installed = scratch.path().join("packages");
        self.tools.unpack_for_image(&lock, wheels, platform, &installed).await?;
        let (compiled, folder) = (scratch.path().join("compiled"), site.folder());
        let compiles = compiles
            && self
                .tools
                .compile_for_image(platform.python_version, &installed, &compiled, &format!("/{folder}"))
                .await?;
        let version = if let Site::Job(version) = site { Some(version.to_owned()) } else { None };
        let (packed, layer) = blocking(move || {
            let site = version.as_deref().map_or(Site::Vdk, Site::Job);
            let packed = content::packages(&mut layer, &installed, site).and_then(|()| {
                if compiles { content::compiled(&mut layer, &installed, &compiled, site) } else { Ok(()) }
            });
            (packed, layer)
        })
        .await?;
        packed.map_err(|error| not_packed(&error))?;
        Ok((layer, Some(scratch)))
    }

    /// A layer from the cache, or written now. Concurrent builds that need the same layer wait for it.
    async fn layer(
        &self,
        key: &str,
        what: &'static str,
        written: &Counter<'_>,
        make: impl Future<Output = Result<(Layer, Option<tempfile::TempDir>), Problem>>,
    ) -> Result<Made, Problem> {
        let layers = self.options.cache_dir.join("images").join("layers");
        let folder = layers.join(key);
        let turn = {
            let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            writing.retain(|_, turn| Arc::strong_count(turn) > 1);
            writing.entry(key.to_owned()).or_default().clone()
        };
        let _turn = turn.lock().await;
        if let Some(note) = noted_layer(&folder) {
            return Ok(Made { folder, note, what });
        }
        let (layer, source) = make.await?;
        let compression = self.options.compression;
        let scratch = self.tools.scratch().await?;
        let published = folder.clone();
        let note = blocking(move || {
            let new = scratch.path().join("layer");
            std::fs::create_dir(&new)?;
            let blob = layer.write(&new.join(CONTENT), compression)?;
            let note = LayerNote { blob, repositories: BTreeSet::new() };
            files::write_durably(&new.join(NOTE), &serde_json::to_vec(&note)?)?;
            std::fs::create_dir_all(&layers)?;
            make_room(&layers, note.blob.bytes)?;
            // An unreadable entry is replaced.
            let _ = std::fs::remove_dir_all(&published);
            files::publish(&new, &published)?;
            drop(source);
            Ok::<_, std::io::Error>(note)
        })
        .await?;
        let note = note.map_err(|error| not_packed(&error.into()))?;
        written.add(note.blob.bytes);
        tracing::info!(layer = what, bytes = note.blob.bytes, digest = %note.blob.digest, "wrote a layer");
        Ok(Made { folder, note, what })
    }

    /// Pushes images, each after all of its blobs, and an index when there are several. Gives the digest to run.
    async fn push(
        &self,
        name: &Reference,
        images: Vec<(Base, Vec<Made>, Assembled)>,
        sent: &Counter<'_>,
    ) -> Result<Digest, Problem> {
        let repository = self.registries.repository(name);
        let failed = |error: RegistryError| error.problem(WHAT);
        let count = |bytes: u64| sent.add(bytes);
        let mut assembled = Vec::new();
        for (base, layers, image) in images {
            self.push_base(&repository, &base, &image, &count).await?;
            for made in layers {
                let blob = Blob {
                    digest: made.note.blob.digest.clone(),
                    bytes: made.note.blob.bytes,
                    content: BlobContent::File(made.folder.join(CONTENT)),
                };
                let from: Vec<String> = made.note.repositories.iter().cloned().collect();
                let pushed = repository.push(&blob, &from, &count).await;
                if pushed.is_err() {
                    // The registry may have refused a file that was changed here; then it has to be written again.
                    forget_unless_whole(&made);
                }
                let pushed = pushed.map_err(failed)?;
                tracing::info!(layer = made.what, how = ?pushed, repository = ?repository, "a layer is in the registry");
                remember(&made, repository.name());
            }
            repository.push(&blob_of(&image.config), &[], &count).await.map_err(failed)?;
            assembled.push(image);
        }
        let several = assembled.len() > 1;
        let top = match assembled.as_slice() {
            [one] => one.manifest.clone(),
            all => index(all),
        };
        if several {
            for image in &assembled {
                let Document { media_type, digest, content } = &image.manifest;
                repository.push_manifest(digest.as_str(), media_type, content).await.map_err(failed)?;
            }
        }
        // A tag of its own for each digest: registries remove what no tag names.
        let tag = format!("{}-{}", name.tag.as_deref().unwrap_or("image"), &top.digest.hex()[..12]);
        repository.push_manifest(&tag, top.media_type, &top.content).await.map_err(failed)?;
        Ok(top.digest)
    }

    /// Brings the layers of the base into the repository: by mounting them where both are in one registry.
    async fn push_base(
        &self,
        repository: &Repository,
        base: &Base,
        image: &Assembled,
        count: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Problem> {
        let failed = |error: RegistryError| error.problem(WHAT);
        let one_registry = base.repository.host() == repository.host();
        let from: Vec<String> = one_registry.then(|| base.repository.name().to_owned()).into_iter().collect();
        for layer in &image.base_layers {
            if repository.mount_or_find(&layer.digest, &from).await.map_err(failed)? {
                continue;
            }
            let scratch = self.tools.scratch().await?;
            let file = scratch.path().join("layer");
            if !base.repository.download(&layer.digest, layer.size, &file).await.map_err(failed)? {
                let why = format!("its registry has no layer {} any more", layer.digest);
                return Err(unusable_base(&format!("{:?}", base.repository), &why));
            }
            let blob = Blob { digest: layer.digest.clone(), bytes: layer.size, content: BlobContent::File(file) };
            repository.push(&blob, &[], count).await.map_err(failed)?;
        }
        Ok(())
    }
}

impl ArtifactBuilder for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn fingerprint(&self, deployment_spec: &DeploymentSpec) -> String {
        let version = deployment_spec.deployment.python_version;
        let base = self.options.base_images.get(&version).map(ToString::to_string).unwrap_or_default();
        let packages = self.packages(deployment_spec, String::new());
        [
            FORMAT.to_string(),
            base,
            self.options.architectures.join(","),
            self.options.compression.fingerprint(),
            self.options.push_name.of(deployment_spec),
            self.options.pull_name.of(deployment_spec),
            packages.vdk_requirement,
            packages.constraints,
        ]
        .join("\n")
    }

    fn inputs(&self, request: &ArtifactRequest<'_>) -> Result<BuildInputs, Problem> {
        let deployment_spec = request.deployment_spec;
        let deployment = &deployment_spec.deployment;
        let raw = request.requirements.ok_or_else(|| sources_missing(&deployment.job_version.to_string()))?;
        let content = Content {
            format: FORMAT,
            job: deployment_spec.job_name.to_string(),
            job_id: deployment.job_id,
            version: deployment.job_version.to_string(),
            base: self.base_of(deployment.python_version)?.to_string(),
            architectures: self.options.architectures.clone(),
            compression: self.options.compression.fingerprint(),
            bytecode: self.bytecode(deployment.python_version),
            push: self.options.push_name.of(deployment_spec),
            pull: self.options.pull_name.of(deployment_spec),
            packages: self.packages(deployment_spec, requirements::normalise(raw)?),
        };
        let content = serde_json::to_string(&content).map_err(|error| unreadable(&error))?;
        let key = format!("image {}", hex::encode(Sha256::digest(&content)));
        Ok(BuildInputs { key: BuildKey::new(key), content })
    }

    fn known(&self, _inputs: &BuildInputs) -> Option<Artifact> {
        None
    }

    fn build<'a>(&'a self, inputs: &'a BuildInputs, report: Report<'a>) -> BoxFuture<'a, Result<Built, Problem>> {
        Box::pin(async move {
            let content: Content = serde_json::from_str(&inputs.content).map_err(|error| unreadable(&error))?;
            if content.format != FORMAT || content.compression != self.options.compression.fingerprint() {
                return Err(Problem::new(
                    Code::ImageBuildOutdated,
                    WHAT,
                    "The build was requested by another version of Holdfast.",
                )
                .not_rolled_out()
                .no_action("Holdfast requests the build again."));
            }
            self.build_image(&content, report).await
        })
    }

    fn exists<'a>(&'a self, artifact: &'a Artifact) -> BoxFuture<'a, Result<bool, Problem>> {
        Box::pin(async move {
            let Artifact::Image(name) = artifact else { return Ok(false) };
            let Ok(pull) = Reference::parse(name) else { return Ok(false) };
            let Some(digest) = &pull.digest else { return Ok(false) };
            // The setting was changed since; another deployment comes of that.
            let Some(push) = self.pushed_as(&pull) else { return Ok(true) };
            self.registries.repository(&push).has_manifest(digest).await.map_err(|error| error.problem(WHAT))
        })
    }
}

impl Embedded {
    /// Where an image was pushed that is pulled by this name.
    fn pushed_as(&self, pull: &Reference) -> Option<Reference> {
        let (push_form, pull_form) = (self.options.push_name.to_string(), self.options.pull_name.to_string());
        let prefix = |form: &str| form.split('{').next().unwrap_or_default().to_owned();
        let (push, pulled) = (prefix(&push_form), prefix(&pull_form));
        let name = Reference { tag: None, digest: None, ..pull.clone() }.to_string();
        Reference::parse(&format!("{push}{}", name.strip_prefix(&pulled)?)).ok()
    }
}

/// Adds up the bytes of a phase.
struct Counter<'a> {
    report: Report<'a>,
    phase: Phase,
    bytes: std::sync::atomic::AtomicU64,
}

impl<'a> Counter<'a> {
    fn new(report: Report<'a>, phase: Phase) -> Self {
        Self { report, phase, bytes: std::sync::atomic::AtomicU64::new(0) }
    }

    fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        (self.report)(Progress { phase: self.phase, bytes: before + bytes });
    }
}

fn base(digest: Digest, note: BaseNote, repository: Repository) -> Base {
    Base {
        image: BaseImage { digest: Some(digest), manifest: note.manifest, config: note.config },
        facts: note.facts,
        repository,
    }
}

fn names(content: &Content) -> Result<Name, Problem> {
    let read = |name: &str| {
        Reference::parse(name).map_err(|why| {
            Problem::new(
                Code::ImageNameInvalid,
                WHAT,
                format!("The image name {} is not valid: {why}.", model::name::excerpt(name)),
            )
            .not_rolled_out()
            .fix("The operator corrects `image.name`, for example to \"{registry}/{job}:{version}\".")
            .of_platform()
        })
    };
    Ok(Name { push: read(&content.push)?, pull: read(&content.pull)? })
}

fn platform(base: &Base, name: &str, architecture: &str, version: PythonVersion) -> Result<ImagePlatform, Problem> {
    let actual = base.image.platform().architecture;
    if actual != architecture {
        return Err(unusable_base(name, &format!("it is for {actual}, not for {architecture}")));
    }
    let platform = base.facts.libc.as_ref().and_then(|libc| libc.platform(architecture)).ok_or_else(|| {
        unusable_base(name, &format!("no C library was found in it that wheels for {architecture} are built for"))
    })?;
    Ok(ImagePlatform { python_version: version, platform })
}

/// The settings that upstream's images have.
fn settings(content: &Content) -> Settings {
    let mut settings = Settings {
        environment: BTreeMap::new(),
        path_first: vec![content::COMMANDS.into()],
        user: format!("{0}:{0}", content::JOB_USER),
        working_directory: format!("/{}", content::JOB_FOLDER),
        entry_point: Vec::new(),
        command: vec!["vdk".into(), "run".into(), format!("./{}", content.job)],
        labels: BTreeMap::new(),
    };
    for (name, value) in [
        ("HOME", format!("/{}", content::JOB_FOLDER)),
        ("JOB_NAME", content.job.clone()),
        ("VDK_JOB_GITHASH", content.version.clone()),
        ("PYTHONUNBUFFERED", "1".to_owned()),
    ] {
        settings.environment.insert(name.into(), value);
    }
    settings
}

/// The packages of a lock that VDK's lock has not, or has in another version.
fn own_packages(vdk: &str, job: &str) -> Result<String, Problem> {
    let read = |lock: &str| {
        if lock.is_empty() {
            return Ok(BTreeMap::new());
        }
        python::packages_of(lock).map_err(|why| {
            Problem::new(Code::PackageLockInvalid, WHAT, format!("A stored lock is not valid: {why}."))
                .not_rolled_out()
                .fix("Deploy again; if it fails again, the operator reports a bug with the log.")
        })
    };
    let (vdk, job) = (read(vdk)?, read(job)?);
    let own = job.iter().filter(|(name, (version, _))| vdk.get(*name).is_none_or(|(other, _)| other != version));
    Ok(own.map(|(_, (_, text))| text.as_str()).collect())
}

/// The key of a layer: SHA-256 over what it follows from, each part preceded by its length.
fn key(common: &[String], parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in common.iter().map(String::as_str).chain(parts.iter().copied()) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(&hash.finalize()[..20])
}

fn blob_of(document: &Document) -> Blob {
    Blob {
        digest: document.digest.clone(),
        bytes: document.content.len() as u64,
        content: BlobContent::Bytes(document.content.clone()),
    }
}

fn noted_layer(folder: &Path) -> Option<LayerNote> {
    let note: LayerNote = serde_json::from_slice(&std::fs::read(folder.join(NOTE)).ok()?).ok()?;
    let whole = std::fs::metadata(folder.join(CONTENT)).is_ok_and(|file| file.len() == note.blob.bytes);
    whole.then_some(note)
}

/// Notes that a repository has a layer, and that the layer was used now.
fn remember(made: &Made, repository: &str) {
    let mut note = noted_layer(&made.folder).unwrap_or_else(|| made.note.clone());
    note.repositories.insert(repository.to_owned());
    while note.repositories.len() > PLACES_MAX {
        let other = note.repositories.iter().find(|name| *name != repository).cloned();
        note.repositories.remove(&other.unwrap_or_default());
    }
    let written = serde_json::to_vec(&note).map_err(std::io::Error::from);
    if let Err(error) = written.and_then(|bytes| files::write_durably(&made.folder.join(NOTE), &bytes)) {
        tracing::debug!(%error, "the repository of a layer was not noted");
    }
}

/// Removes a layer from the cache whose content is not what was written.
fn forget_unless_whole(made: &Made) {
    let mut hash = crate::oci::digest::Hashing::new(std::io::sink());
    let read = std::fs::File::open(made.folder.join(CONTENT)).and_then(|mut file| std::io::copy(&mut file, &mut hash));
    if read.is_err() || hash.finish().1 != made.note.blob.digest {
        tracing::warn!(layer = made.what, path = %made.folder.display(), "a layer in the cache was changed; removing it");
        let _ = std::fs::remove_dir_all(&made.folder);
    }
}

/// Removes the layers that were not used for longest, until a new one fits.
fn make_room(layers: &Path, bytes: u64) -> std::io::Result<()> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(layers)?.flatten() {
        let path = entry.path();
        let used = std::fs::metadata(path.join(NOTE)).and_then(|note| note.modified()).ok();
        let size = std::fs::metadata(path.join(CONTENT)).map_or(0, |content| content.len());
        all.push((used, path, size));
    }
    all.sort();
    let mut total: u64 = all.iter().map(|(_, _, size)| size).sum::<u64>().saturating_add(bytes);
    for (_, path, size) in all {
        if total <= LAYERS_MAX_BYTES {
            break;
        }
        std::fs::remove_dir_all(path)?;
        total = total.saturating_sub(size);
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Problem::new(
            Code::BuildFailedInternally,
            WHAT,
            format!("The build stopped because of a bug in Holdfast: {error}."),
        )
        .not_rolled_out()
        .no_action("Holdfast retries. The operator finds the details in the log.")
    })
}

fn sources_missing(version: &str) -> Problem {
    Problem::new(Code::RolloutSourcesMissing, WHAT, format!("The sources {version} are not in the database."))
        .not_rolled_out()
        .fix("Upload the sources again and deploy them.")
}

fn unusable_base(name: &str, why: &str) -> Problem {
    Problem::new(Code::ImageBaseUnusable, WHAT, format!("The base image {name} can't be used: {why}."))
        .not_rolled_out()
        .fix("The operator corrects `image.base_images`; Holdfast retries.")
}

fn not_packed(error: &ContentError) -> Problem {
    match error {
        ContentError::Refused(why) => {
            Problem::new(Code::ImageContentRejected, WHAT, format!("A file can't be part of an image: {why}."))
                .not_rolled_out()
                .fix("Change the requirement or the file that is named, and deploy again.")
        }
        ContentError::Io(error) => {
            Problem::new(Code::ImageLayerNotWritten, WHAT, format!("A layer was not written: {error}."))
                .not_rolled_out()
                .no_action("Holdfast retries. If it persists, the operator checks the disk of `cache_dir`.")
        }
    }
}

fn unreadable(error: &serde_json::Error) -> Problem {
    Problem::new(Code::ImageBuildUnreadable, WHAT, format!("The inputs of the build can't be read: {error}."))
        .not_rolled_out()
        .fix("The operator reports a bug with the log.")
}
