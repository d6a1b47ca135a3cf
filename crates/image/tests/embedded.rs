//! Images of data jobs, assembled with the real installer, a package index and a registry of the tests' own.

#![allow(clippy::disallowed_methods, reason = "it uses the machine's installer")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Cursor, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, AtomicUsize, Ordering},
    },
};

use clock::SystemClock;
use image::{
    Embedded, EmbeddedOptions,
    oci::{
        Compression, Digest, Manifest, Reference,
        manifest::{CONFIG, LAYER, MANIFEST, canonical},
    },
    prebuilt::ImageTemplate,
    registry::{Registries, RegistryOptions},
};
use model::{
    BoxFuture, Problem,
    artifact::Artifact,
    build::{ArtifactBuilder, ArtifactRequest, BuildInputs, Built, Phase, Progress, Stored},
    clock::{Clock, SharedClock},
    deployment::{Deployment, Mode},
    job::Contacts,
    lock::{Lock, LockKey},
    name::{JobId, JobName, TeamName},
    problem::Fault,
    resources::Resources,
    runtime::DeploymentSpec,
    source::SourceVersion,
    variables::Variables,
};
use python::{Discovery, Interpreter, Tools, ToolsOptions, discover, usual_folders};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use testing::{IndexServer, index};
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

use support::{Act, Registry};

fn environment() -> BTreeMap<String, String> {
    std::env::vars().filter(|(name, _)| !name.starts_with("UV_") && !name.starts_with("PIP_")).collect()
}

/// The installer and a Python, from the cache that all tests share.
async fn machine() -> (PathBuf, Vec<Interpreter>) {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let home = environment.get("HOME").map(PathBuf::from);
    let cache = environment.get("HOLDFAST_TEST_CACHE_DIR").map(PathBuf::from);
    let cache_dir = cache.or_else(|| Some(home.clone()?.join(".cache/holdfast-test"))).expect("HOME");
    let path = environment.get("PATH").map(String::as_str).unwrap_or_default();
    let interpreters = discover(&Discovery {
        search_path: std::env::split_paths(path).chain(usual_folders(home.as_deref())).collect(),
        home,
        probe_timeout: std::time::Duration::from_secs(20),
        memory: Some(cache_dir.join("interpreters.json")),
        clock: Arc::new(SystemClock),
    })
    .await;
    let options = ToolsOptions { environment, ..options(&cache_dir, &interpreters) };
    (Tools::new(options).uv().await.unwrap(), interpreters)
}

fn options(cache: &Path, interpreters: &[Interpreter]) -> ToolsOptions {
    ToolsOptions {
        cache_dir: cache.into(),
        uv: None,
        index_url: None,
        environment: environment(),
        interpreters: interpreters.to_vec(),
        vdk_constraints: String::new(),
        allow_builds: false,
        build_disk_max_mib: 256,
        sandbox_policy: None,
        index_access: None,
        clock: Arc::new(SystemClock),
    }
}

/// Sources and locks, as a database keeps them.
#[derive(Debug, Default)]
struct Memory {
    sources: Mutex<BTreeMap<(JobId, String), Vec<u8>>>,
    locks: Mutex<BTreeMap<LockKey, Lock>>,
}

impl Stored for Memory {
    fn source<'a>(
        &'a self,
        job_id: JobId,
        version: &'a SourceVersion,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Problem>> {
        let found = self.sources.lock().unwrap().get(&(job_id, version.to_string())).cloned();
        Box::pin(async { Ok(found) })
    }

    fn lock<'a>(&'a self, key: &'a LockKey) -> BoxFuture<'a, Result<Option<Lock>, Problem>> {
        let found = self.locks.lock().unwrap().get(key).cloned();
        Box::pin(async { Ok(found) })
    }
}

/// A registry with a base image, an index with VDK, and a database.
struct World {
    registry: Registry,
    index: IndexServer,
    memory: Arc<Memory>,
    uv: PathBuf,
    interpreters: Vec<Interpreter>,
    folder: tempfile::TempDir,
}

/// The parts of a world that a service needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Surroundings {
    registry: String,
    index: String,
    uv: PathBuf,
    cache: PathBuf,
}

/// A service with a cache of its own.
struct Service {
    builder: Embedded,
    cache: PathBuf,
}

const PYTHON: &str = "3.11";

fn base_layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in [
        ("usr/bin/python3.11", "python"),
        ("lib/x86_64-linux-gnu/libc.so.6", "GNU C Library stable release version 2.36."),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_entry_type(tar::EntryType::Regular);
        archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

impl World {
    async fn new() -> Self {
        Self::with(Registry::good()).await
    }

    async fn with(registry: Registry) -> Self {
        let (uv, interpreters) = machine().await;
        let index = IndexServer::start(None);
        let (file, content) = index::wheel_with("fake_vdk", "1.0", "def main():\n    pass\n", Some("vdk"));
        index.add("fake-vdk", &file, content);
        let world =
            Self { registry, index, memory: Arc::default(), uv, interpreters, folder: tempfile::tempdir().unwrap() };
        world.put_base();
        world
    }

    /// Puts the base image into the registry.
    fn put_base(&self) {
        let layer = base_layer();
        let config = canonical(&json!({
            "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]},
        }));
        let descriptor = |media_type: &str, content: &[u8]| json!({"mediaType": media_type, "digest": Digest::of(content), "size": content.len()});
        let manifest = canonical(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        }));
        let mut stored = self.registry.stored.lock().unwrap();
        for blob in [layer, config] {
            stored.blobs.insert(("base/python".into(), Digest::of(&blob).to_string()), blob);
        }
        for version in ["3.11".to_owned(), Digest::of(&manifest).to_string()] {
            stored.manifests.insert(("base/python".into(), version), manifest.clone());
        }
    }

    fn service(&self, name: &str, change: impl FnOnce(&mut EmbeddedOptions)) -> Service {
        self.surroundings(name).service(self.memory.clone(), &self.interpreters, Arc::new(SystemClock), change)
    }

    /// The parts that a service of this world needs, also in another process.
    fn surroundings(&self, name: &str) -> Surroundings {
        Surroundings {
            registry: self.registry.address.clone(),
            index: self.index.url(),
            uv: self.uv.clone(),
            cache: self.folder.path().join(name),
        }
    }
}

/// How long a registry of the tests is left alone after a fault.
const MOMENT: std::time::Duration = std::time::Duration::from_millis(5);

impl Surroundings {
    fn service(
        &self,
        stored: Arc<Memory>,
        interpreters: &[Interpreter],
        clock: SharedClock,
        change: impl FnOnce(&mut EmbeddedOptions),
    ) -> Service {
        let (address, cache) = (&self.registry, &self.cache);
        let tools = Arc::new(Tools::new(ToolsOptions {
            uv: Some(self.uv.clone()),
            index_url: Some(self.index.clone()),
            environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            clock: clock.clone(),
            ..options(cache, interpreters)
        }));
        let name = ImageTemplate::parse(&format!("{address}/jobs/{{job}}:{{version}}")).unwrap();
        let mut options = EmbeddedOptions {
            base_images: [(PYTHON.parse().unwrap(), Reference::parse(&format!("{address}/base/python:3.11")).unwrap())]
                .into(),
            vdk_apart: BTreeSet::new(),
            architectures: vec!["amd64".into()],
            push_name: name.clone(),
            pull_name: name,
            compression: Compression::Zstd,
            bytecode: false,
            vdk_distribution: "fake-vdk".into(),
            vdk_constraints: String::new(),
            cache_dir: cache.clone(),
        };
        change(&mut options);
        let plain_http = vec![address.clone()];
        let registries = RegistryOptions { plain_http, attempts_max: 3, pause: MOMENT, ..RegistryOptions::new(clock) };
        let registries = Arc::new(Registries::new(registries).unwrap());
        Service { builder: Embedded::new(options, tools, registries, stored), cache: cache.clone() }
    }
}

/// Stores the source of a job with one step, and gives the inputs of its image.
fn inputs_of(
    memory: &Memory,
    service: &Service,
    job: &str,
    requirements: &str,
    step: &str,
) -> Result<BuildInputs, Problem> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(format!("{job}/10_step.py"), SimpleFileOptions::default()).unwrap();
    zip.write_all(step.as_bytes()).unwrap();
    let archive = zip.finish().unwrap().into_inner();
    let version = Digest::of(&archive).hex()[..40].to_owned();
    let deployment_spec = deployment_spec(job, &version);
    let id = deployment_spec.deployment.job_id;
    memory.sources.lock().unwrap().insert((id, version), archive);
    service.builder.inputs(&ArtifactRequest { deployment_spec: &deployment_spec, requirements: Some(requirements) })
}

impl World {
    /// The inputs of a job's image whose source was stored.
    fn inputs(&self, service: &Service, job: &str, requirements: &str, step: &str) -> Result<BuildInputs, Problem> {
        inputs_of(&self.memory, service, job, requirements, step)
    }

    /// Builds, and stores what a database would.
    async fn build(&self, service: &Service, inputs: &BuildInputs) -> Result<Built, Problem> {
        let built = service.builder.build(inputs, &|_| ()).await?;
        for lock in &built.locks {
            self.memory.locks.lock().unwrap().entry(lock.key.clone()).or_insert_with(|| lock.clone());
        }
        Ok(built)
    }

    async fn image(&self, service: &Service, job: &str, requirements: &str, step: &str) -> Result<Image, Problem> {
        let inputs = self.inputs(service, job, requirements, step)?;
        Ok(self.read(&self.build(service, &inputs).await?))
    }

    /// The image as a node would have it.
    fn read(&self, built: &Built) -> Image {
        let Artifact::Image(name) = &built.artifact else { panic!("{built:?}") };
        let reference = Reference::parse(name).unwrap();
        let stored = self.registry.stored.lock().unwrap();
        let of = |digest: &Digest| stored.blobs[&(reference.repository.clone(), digest.to_string())].clone();
        let manifest = &stored.manifests[&(reference.repository.clone(), reference.version().to_owned())];
        let manifest: Manifest = serde_json::from_slice(manifest).unwrap();
        let mut files = BTreeMap::new();
        for layer in &manifest.layers {
            let blob = of(&layer.digest);
            let bytes =
                if layer.media_type.ends_with("zstd") { zstd::decode_all(blob.as_slice()).unwrap() } else { blob };
            let mut archive = tar::Archive::new(bytes.as_slice());
            for entry in archive.entries().unwrap() {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mut text = entry.link_name().unwrap().map_or(String::new(), |to| format!("-> {}", to.display()));
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                text.push_str(&String::from_utf8_lossy(&content));
                files.insert(path, text);
            }
        }
        let config = serde_json::from_slice(&of(&manifest.config.digest)).unwrap();
        Image { name: name.clone(), layers: manifest.layers.into_iter().map(|l| l.digest).collect(), config, files }
    }
}

#[derive(Debug)]
struct Image {
    name: String,
    layers: Vec<Digest>,
    config: Value,
    files: BTreeMap<String, String>,
}

fn deployment_spec(job: &str, version: &str) -> DeploymentSpec {
    let at = jiff::Timestamp::UNIX_EPOCH;
    let deployment = Deployment {
        job_id: JobId(uuid::Uuid::from_u128(u128::from(job.bytes().map(u64::from).sum::<u64>()))),
        generation: 1,
        job_version: SourceVersion::parse(version).unwrap(),
        python_version_asked: None,
        python_version: PYTHON.parse().unwrap(),
        vdk_version_asked: None,
        vdk_version: "1.0".into(),
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
        job_name: JobName::parse(job).unwrap(),
        team: TeamName::parse("a team").unwrap(),
        deployment,
        variables: Variables::default(),
        team_secret: None,
    }
}

/// A wheel with these further entries.
fn hostile_wheel(name: &str, entries: &[(&str, u32)]) -> (String, Vec<u8>) {
    let (file, content) = index::wheel(name, "1.0");
    let mut wheel = ZipArchive::new(Cursor::new(content)).unwrap();
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for number in 0..wheel.len() {
        zip.raw_copy_file(wheel.by_index_raw(number).unwrap()).unwrap();
    }
    for (path, mode) in entries {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        if mode & 0o170_000 == 0o120_000 {
            zip.add_symlink(*path, "/etc/passwd", options).unwrap();
        } else {
            zip.start_file(*path, options).unwrap();
            zip.write_all(b"evil").unwrap();
        }
    }
    (file, zip.finish().unwrap().into_inner())
}

#[tokio::test]
async fn an_image_has_vdk_the_packages_and_the_source_of_the_job() {
    let world = World::new().await;
    let (file, content) = index::wheel_with("tool", "2.0", "def main():\n    pass\n", Some("tool"));
    world.index.add("tool", &file, content);
    let service = world.service("one", |_| ());
    let inputs = world.inputs(&service, "selling", "tool", "print(1)").unwrap();
    let seen = Mutex::new(Vec::<Progress>::new());
    let report = |progress| seen.lock().unwrap().push(progress);
    let built = service.builder.build(&inputs, &report).await.unwrap();
    let image = world.read(&built);
    let site = "opt/job/lib/python3.11/site-packages";
    for (path, part) in [
        ("job/selling/10_step.py".to_owned(), "print(1)"),
        ("opt/vdk/site/fake_vdk/__init__.py".to_owned(), "def main"),
        (format!("{site}/tool/__init__.py"), "2.0"),
        (format!("{site}/zz_holdfast_vdk.pth"), "/opt/vdk/site"),
        ("opt/job/bin/tool".to_owned(), "#!/opt/job/bin/python3\n"),
        ("opt/job/bin/vdk".to_owned(), "entry_points"),
        ("opt/job/bin/python3".to_owned(), "/usr/bin/python3.11"),
        ("opt/job/pyvenv.cfg".to_owned(), "include-system-site-packages = true"),
        ("etc/passwd".to_owned(), "job:x:1000:1000::/job:/bin/sh"),
    ] {
        assert!(image.files.get(&path).is_some_and(|text| text.contains(part)), "{path}: {:#?}", image.files.keys());
    }
    assert!(!image.files.contains_key(&format!("{site}/fake_vdk/__init__.py")), "VDK is in its own layer alone");
    let run = &image.config["config"];
    let version = image.config["config"]["Env"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|v| v.as_str()?.strip_prefix("VDK_JOB_GITHASH="));
    assert_eq!(version.unwrap().len(), 40);
    for variable in ["HOME=/job", "JOB_NAME=selling", "PATH=/opt/job/bin:/usr/bin"] {
        assert!(run["Env"].as_array().unwrap().contains(&json!(variable)), "{run}");
    }
    assert_eq!((&run["User"], &run["WorkingDir"]), (&json!("1000:1000"), &json!("/job")));
    assert_eq!(built.locks.len(), 2);
    let seen = seen.into_inner().unwrap();
    for phase in Phase::ALL {
        assert!(seen.iter().any(|progress| progress.phase == phase), "{phase:?}: {seen:?}");
    }
    assert!(seen.last().unwrap().bytes > 1000 && seen.last().unwrap().phase == Phase::Pushing, "{seen:?}");
    assert!(service.builder.exists(&built.artifact).await.unwrap());
}

#[tokio::test]
async fn two_services_with_caches_of_their_own_give_one_digest() {
    let world = World::new().await;
    for name in ["abc", "xyz"] {
        let (file, content) = index::wheel(name, "1.0");
        world.index.add(name, &file, content);
    }
    let one = world.image(&world.service("one", |_| ()), "selling", "abc\nxyz\n", "pass").await.unwrap();
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let two = world.image(&world.service("two", |_| ()), "selling", "# other\nxyz\nabc", "pass").await;
    rustix::process::umask(before);
    assert_eq!(two.unwrap().name, one.name);
    let gzip = world.service("three", |options| options.compression = Compression::Gzip);
    assert_ne!(
        world.build(&gzip, &world.inputs(&gzip, "selling", "abc\nxyz", "pass").unwrap()).await.unwrap().artifact,
        Artifact::Image(one.name)
    );
}

#[tokio::test]
async fn a_second_job_with_the_same_requirements_sends_its_source_alone() {
    let world = World::new().await;
    let (file, content) = index::wheel("abc", "1.0");
    world.index.add("abc", &file, content);
    let service = world.service("one", |_| ());
    let first = world.image(&service, "selling", "abc", "print(1)").await.unwrap();
    let asked = world.index.requests().len();
    let opened = world.registry.stored.lock().unwrap().opened;
    let second = world.image(&service, "orders", "abc", "print(2)").await.unwrap();
    assert_eq!(first.layers[..3], second.layers[..3]);
    assert_ne!(first.layers[3], second.layers[3]);
    // The source and the configuration.
    assert_eq!(world.registry.stored.lock().unwrap().opened - opened, 2);
    assert_eq!(world.index.requests().len(), asked, "the lock was stored");
    // A changed step is the same.
    let changed = world.image(&service, "orders", "abc", "print(3)").await.unwrap();
    assert_eq!(changed.layers[..3], second.layers[..3]);
}

#[tokio::test]
async fn a_registry_that_lost_everything_gets_the_same_image_from_what_is_stored() {
    let world = World::new().await;
    let (file, content) = index::wheel("abc", "1.0");
    world.index.add("abc", &file, content);
    let service = world.service("one", |_| ());
    let first = world.image(&service, "selling", "abc", "pass").await.unwrap();
    {
        let mut stored = world.registry.stored.lock().unwrap();
        stored.blobs.clear();
        stored.manifests.clear();
    }
    world.put_base();
    assert!(!service.builder.exists(&Artifact::Image(first.name.clone())).await.unwrap());
    // A newer version would be chosen without the stored lock.
    let (file, content) = index::wheel("abc", "2.0");
    world.index.add("abc", &file, content);
    for service in [service, world.service("new", |_| ())] {
        let again = world.image(&service, "selling", "abc", "pass").await.unwrap();
        assert_eq!(again.name, first.name);
    }
}

#[tokio::test]
async fn two_builds_of_one_job_at_once_write_each_layer_once() {
    let world = World::new().await;
    let (file, content) = index::wheel("abc", "1.0");
    world.index.add("abc", &file, content);
    let service = world.service("one", |_| ());
    let inputs = world.inputs(&service, "selling", "abc", "pass").unwrap();
    let (one, two) = tokio::join!(world.build(&service, &inputs), world.build(&service, &inputs));
    assert_eq!(one.unwrap().artifact, two.unwrap().artifact);
    assert_eq!(fs::read_dir(service.cache.join("images/layers")).unwrap().count(), 3);
}

#[tokio::test]
async fn no_manifest_is_pushed_before_all_blobs_and_the_next_build_continues() {
    let mut left = 1;
    let registry = Registry::with(move |request| {
        // The configuration is the last blob.
        if request.method == "PUT" && request.is("PUT", "/jobs/selling/blobs/") {
            left += 1;
        }
        if left == 4 && request.method == "POST" { Act::Answer(403, vec![], String::new()) } else { Act::Pass }
    });
    let world = World::with(registry).await;
    let (file, content) = index::wheel("abc", "1.0");
    world.index.add("abc", &file, content);
    let service = world.service("one", |_| ());
    let inputs = world.inputs(&service, "selling", "abc", "pass").unwrap();
    let problem = world.build(&service, &inputs).await.unwrap_err();
    assert_eq!(problem.fault, Fault::Platform, "{problem}");
    assert_eq!(world.registry.asked("PUT", "/jobs/selling/manifests/"), 0);
    let sent = world.registry.asked("PUT", "/jobs/selling/blobs/");
    assert_eq!(sent, 3);
    let next = world.service("one", |_| ());
    let error = world.build(&next, &inputs).await.unwrap_err();
    assert!(error.why.contains("refused access"), "{error}");
    assert_eq!(world.registry.asked("PUT", "/jobs/selling/blobs/"), sent, "no blob is sent twice");
}

#[tokio::test]
async fn a_layer_that_was_changed_in_the_cache_is_written_again() {
    let world = World::new().await;
    let service = world.service("one", |_| ());
    let first = world.image(&service, "selling", "", "pass").await.unwrap();
    for layer in fs::read_dir(service.cache.join("images/layers")).unwrap().flatten() {
        let blob = layer.path().join("blob");
        let bytes = fs::metadata(&blob).unwrap().len();
        fs::write(&blob, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
    }
    world.registry.stored.lock().unwrap().blobs.retain(|(name, _), _| !name.starts_with("jobs/"));
    let mut problems = 0;
    let again = loop {
        match world.image(&service, "selling", "", "pass").await {
            Ok(image) => break image,
            Err(problem) => {
                problems += 1;
                assert!(problems < 3, "{problem}");
            }
        }
    };
    assert_eq!((again.name, problems), (first.name, 2));
}

#[tokio::test]
async fn wheels_that_escape_overwrite_or_delete_are_refused_and_nothing_outside_is_written() {
    let world = World::new().await;
    let service = world.service("one", |_| ());
    let outside = world.folder.path().join("evil");
    for (name, entries) in [
        ("escaping", vec![("../../../../../../evil", 0o644)]),
        ("absolute", vec![(outside.to_str().unwrap(), 0o644)]),
        ("of_data", vec![("of_data-1.0.data/data/../../../../../../../evil", 0o644)]),
        ("linking", vec![("linking/link.py", 0o120_777)]),
    ] {
        let (file, content) = hostile_wheel(name, &entries);
        world.index.add(&name.replace('_', "-"), &file, content);
        // The installer leaves these entries out, or unpacks a link as a plain file.
        let image = world.image(&service, "selling", name, "pass").await.unwrap();
        let evil = |text: &String| text == "evil" || text == "-> /etc/passwd";
        assert!(!image.files.values().any(evil), "{name}: {:#?}", image.files.keys());
        assert!(!outside.exists() && !world.folder.path().join("one/evil").exists(), "{name}");
        assert!(!Path::new("/evil").exists(), "{name}");
    }
    for (name, entry, why) in [
        ("deleting", "deleting/.wh.etc", "would delete files of the base image"),
        ("replacing", "zz_holdfast_vdk.pth", "zz_holdfast_vdk.pth, whose name is the service's own"),
    ] {
        let (file, content) = hostile_wheel(name, &[(entry, 0o644)]);
        world.index.add(name, &file, content);
        let problem = world.image(&service, "selling", name, "pass").await.unwrap_err();
        assert_eq!(problem.fault, Fault::User, "{problem}");
        assert!(problem.why.contains(why), "{problem}");
    }
}

#[tokio::test]
async fn what_the_user_or_the_operator_has_to_change_is_said() {
    let world = World::new().await;
    let (file, content) = index::wheel("abc", "1.0");
    world.index.add("abc", &file, content);
    let (file, content) = index::source("only_source", "1.0", "");
    world.index.add("only-source", &file, content);
    let service = world.service("one", |_| ());
    for (requirements, part) in [
        ("abc==9", "abc==9"),
        ("only-source", "only-source has no wheel for Python 3.11 on x86_64-manylinux_2_36"),
        ("fake-vdk==2.0", "fake-vdk"),
    ] {
        let problem = world.image(&service, "selling", requirements, "pass").await.unwrap_err();
        assert_eq!(problem.fault, Fault::User, "{problem}");
        assert!(problem.why.contains(part), "{problem}");
    }
    let none = world.service("two", |options| options.base_images.clear());
    let problem = world.inputs(&none, "selling", "", "pass").unwrap_err();
    assert!(problem.why.contains("Python 3.11 has no base image"), "{problem}");
    for (base, part) in [("base/none:1", "no such image"), ("base/python:3.11", "not for arm64")] {
        let other = world.service("three", |options| {
            let reference = Reference::parse(&format!("{}/{base}", world.registry.address)).unwrap();
            options.base_images.insert(PYTHON.parse().unwrap(), reference);
            if part.contains("arm64") {
                options.architectures = vec!["arm64".into()];
            }
        });
        let problem = world.image(&other, "selling", "", "pass").await.unwrap_err();
        assert_eq!(problem.fault, Fault::Platform);
        assert!(problem.why.contains(part) && problem.countermeasures.contains("image.base_images"), "{problem:#}");
    }
}

#[tokio::test]
async fn with_vdk_apart_the_image_has_the_packages_of_the_job_alone() {
    let world = World::new().await;
    let (file, content) = index::wheel("abc", "1.0");
    world.index.add("abc", &file, content);
    let service = world.service("one", |options| {
        options.vdk_apart.insert(PYTHON.parse().unwrap());
    });
    for requirements in ["abc", ""] {
        let image = world.image(&service, "selling", requirements, "pass").await.unwrap();
        assert!(image.files.keys().all(|path| !path.contains("vdk")), "{:#?}", image.files.keys());
        let has = image.files.contains_key("opt/job/lib/python3.11/site-packages/abc/__init__.py");
        assert_eq!(has, !requirements.is_empty());
    }
}

#[tokio::test]
async fn an_image_is_pulled_under_another_address_than_it_was_pushed_to() {
    let world = World::new().await;
    let service = world.service("one", |options| {
        options.pull_name = ImageTemplate::parse("registry.example.com/pulled/{job}:{version}").unwrap();
    });
    let inputs = world.inputs(&service, "selling", "", "pass").unwrap();
    let built = service.builder.build(&inputs, &|_| ()).await.unwrap();
    let Artifact::Image(name) = &built.artifact else { panic!("{built:?}") };
    let digest = name.strip_prefix("registry.example.com/pulled/selling@").unwrap_or_else(|| panic!("{name}"));
    let key = ("jobs/selling".to_owned(), digest.to_owned());
    assert!(world.registry.stored.lock().unwrap().manifests.contains_key(&key));
    assert!(service.builder.exists(&built.artifact).await.unwrap());
    world.registry.stored.lock().unwrap().manifests.remove(&key);
    assert!(!service.builder.exists(&built.artifact).await.unwrap());
}

/// A clock that is ten years ahead.
#[derive(Debug)]
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> jiff::Timestamp {
        SystemClock.now() + jiff::SignedDuration::from_hours(24 * 3650)
    }

    fn boot(&self) -> std::time::Duration {
        SystemClock.boot()
    }

    fn sleep_until_boot(&self, at: std::time::Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep_until_boot(at)
    }

    fn new_id(&self) -> uuid::Uuid {
        SystemClock.new_id()
    }
}

/// The variable with the surroundings of a build in a process of its own.
const CHILD: &str = "HOLDFAST_TEST_SURROUNDINGS";

#[tokio::test]
#[ignore = "the build that tests below have in processes of their own"]
async fn a_build_in_a_process_of_its_own() {
    let surroundings: Surroundings = serde_json::from_str(&std::env::var(CHILD).unwrap()).unwrap();
    let path = std::env::var("PATH").unwrap();
    let interpreters = discover(&Discovery {
        search_path: std::env::split_paths(&path).collect(),
        home: None,
        probe_timeout: std::time::Duration::from_secs(20),
        memory: None,
        clock: Arc::new(SystemClock),
    })
    .await;
    let memory = Arc::<Memory>::default();
    let service = surroundings.service(memory.clone(), &interpreters, Arc::new(Ahead), |_| ());
    let inputs = inputs_of(&memory, &service, "selling", "abc", "pass").unwrap();
    let said = match service.builder.build(&inputs, &|_| ()).await {
        Ok(Built { artifact: Artifact::Image(name), .. }) => name,
        other => format!("{other:?}"),
    };
    writeln!(std::io::stdout(), "\nbuilt: {said}").unwrap();
}

/// The command that builds in a process of its own.
fn child(surroundings: &Surroundings) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "a_build_in_a_process_of_its_own", "--nocapture"]);
    command.env_clear().env("PATH", "/usr/bin:/bin").env(CHILD, serde_json::to_string(surroundings).unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The output of a build in a process of its own.
fn said(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(|line| line.strip_prefix("built: ")).map(ToOwned::to_owned)
}

/// A world whose index has the package of those builds.
async fn world_with_abc(registry: Registry) -> World {
    let world = World::with(registry).await;
    let (file, content) = index::wheel("abc", "1.0");
    world.index.add("abc", &file, content);
    world
}

#[tokio::test]
async fn the_time_zone_the_language_the_user_and_the_date_do_not_show_in_an_image() {
    let world = world_with_abc(Registry::good()).await;
    let here = world.image(&world.service("here", |_| ()), "selling", "abc", "pass").await.unwrap();
    let mut surroundings = world.surroundings("there");
    let is_root = rustix::process::geteuid().is_root();
    // Another user reaches neither the folders of this one nor its programs.
    let open = tempfile::tempdir().unwrap();
    let copy = |from: &Path| {
        let to = open.path().join(from.file_name().unwrap());
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    surroundings.uv = copy(&world.uv);
    surroundings.cache = open.path().join("cache");
    fs::create_dir(&surroundings.cache).unwrap();
    for folder in [open.path(), &surroundings.cache] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut there = Command::new(copy(&std::env::current_exe().unwrap()));
    let like = child(&surroundings);
    there.args(like.get_args()).env_clear().stdin(Stdio::null()).current_dir(open.path());
    there.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    there.envs([("TZ", "Pacific/Kiritimati"), ("LANG", "tr_TR.UTF-8"), ("LC_ALL", "tr_TR.UTF-8")]);
    if is_root {
        there.uid(65534).gid(65534);
    }
    let output = there.output().unwrap();
    assert_eq!(said(&output).as_deref(), Some(here.name.as_str()), "{output:?}");
}

#[tokio::test]
async fn a_build_that_is_killed_leaves_no_half_image_and_the_next_one_continues() {
    // The requests of a build at which it is killed: method, part of the path, and how many of them come before.
    let points = [
        ("GET", "base/python/manifests", 0),
        ("GET", "base/python/blobs", 1),
        ("HEAD", "jobs/selling/blobs", 0),
        ("POST", "jobs/selling/blobs/uploads", 1),
        ("PUT", "jobs/selling/blobs/uploads", 2),
        ("PUT", "jobs/selling/manifests", 0),
    ];
    let expected = {
        let world = world_with_abc(Registry::good()).await;
        world.image(&world.service("one", |_| ()), "selling", "abc", "pass").await.unwrap()
    };
    let digest = |name: &str| name.split_once('@').map(|(_, digest)| digest.to_owned());
    for (method, part, before) in points {
        let (process, seen) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicUsize::new(0)));
        let (victim, counter) = (process.clone(), seen.clone());
        let registry = Registry::with(move |request| {
            if request.is(method, part) && counter.fetch_add(1, Ordering::SeqCst) == before {
                let id = rustix::process::Pid::from_raw(victim.load(Ordering::SeqCst)).unwrap();
                rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
                return Act::BreakAfter(0);
            }
            Act::Pass
        });
        let world = world_with_abc(registry).await;
        let surroundings = world.surroundings("one");
        let build = || {
            let started = child(&surroundings).spawn().unwrap();
            process.store(started.id().cast_signed(), Ordering::SeqCst);
            started.wait_with_output().unwrap()
        };
        let killed = build();
        assert_eq!((killed.status.code(), said(&killed)), (None, None), "{method} {part}: {killed:?}");
        let (sent, tags) = {
            let stored = world.registry.stored.lock().unwrap();
            let of_job = |key: &&(String, String)| key.0 == "jobs/selling";
            let sent: BTreeSet<_> = stored.blobs.keys().filter(of_job).cloned().collect();
            (sent, stored.manifests.keys().filter(of_job).count())
        };
        assert_eq!(tags, 0, "{method} {part}: a manifest was pushed");
        let opened = world.registry.stored.lock().unwrap().opened;
        let next = build();
        let name = said(&next).unwrap_or_else(|| panic!("{method} {part}: {next:?}"));
        assert_eq!(digest(&name), digest(&expected.name), "{method} {part}");
        let stored = world.registry.stored.lock().unwrap();
        let all = stored.blobs.keys().filter(|key| key.0 == "jobs/selling").count();
        // Blobs that had arrived are not sent again; the base's layer is mounted by an upload that is not opened.
        assert!(stored.opened - opened <= all - sent.len(), "{method} {part}: {all} {sent:?}");
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_of_the_platform_and_the_next_build_succeeds() {
    if !rustix::process::geteuid().is_root() {
        // No file system of this size can be made.
        return;
    }
    let world = world_with_abc(Registry::good()).await;
    let surroundings = world.surroundings("one");
    fs::create_dir_all(&surroundings.cache).unwrap();
    let build = |disk: &str| {
        let like = child(&surroundings);
        let mut command = Command::new("unshare");
        // Both go with the process.
        let script = r#"mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@""#;
        command.args(["--mount", "sh", "-euc", script, "sh", disk]).arg(&surroundings.cache);
        command.arg(like.get_program()).args(like.get_args()).env_clear();
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        said(&output).unwrap_or_else(|| panic!("{output:?}"))
    };
    let full = build("24k");
    assert!(full.starts_with("Err(Problem") && full.contains("fault: Platform"), "{full}");
    let manifests =
        world.registry.stored.lock().unwrap().manifests.keys().filter(|key| key.0.starts_with("jobs/")).count();
    assert_eq!(manifests, 0);
    let built = build("64m");
    assert!(built.contains("/jobs/selling@sha256:"), "{built}");
}

#[tokio::test]
async fn packages_have_compiled_modules_that_do_not_depend_on_time_or_place() {
    let world = world_with_abc(Registry::good()).await;
    let service = |name: &str| world.service(name, |options| options.bytecode = true);
    let one = world.image(&service("one"), "selling", "abc", "pass").await.unwrap();
    let two = world.image(&service("elsewhere"), "selling", "abc", "pass").await.unwrap();
    assert_eq!(one.name, two.name);
    let compiled: Vec<_> = one
        .files
        .keys()
        .filter(|path| path.contains("/__pycache__/") && !path.ends_with('/'))
        .map(String::as_str)
        .collect();
    let eleven = world.interpreters.iter().any(|python| python.version == PYTHON.parse().unwrap());
    if !eleven {
        assert!(compiled.is_empty(), "{compiled:?}");
        return;
    }
    let site = "opt/job/lib/python3.11/site-packages";
    let expected = [
        format!("{site}/abc/__pycache__/__init__.cpython-311.pyc"),
        "opt/vdk/site/fake_vdk/__pycache__/__init__.cpython-311.pyc".to_owned(),
    ];
    assert_eq!(compiled, expected);
    // Of the kind that is never compared with its source, with the path in the image.
    for path in &expected {
        let (_, flags) = one.files[path].split_once('\n').unwrap();
        assert_eq!(flags.as_bytes()[..4], [1, 0, 0, 0], "{path}");
    }
    let text = &one.files[&expected[0]];
    assert!(text.contains("/opt/job/lib/python3.11/site-packages/abc/__init__.py"), "{text}");
    assert!(!text.contains(&*world.folder.path().to_string_lossy()), "{text}");
    let without = world.image(&world.service("three", |_| ()), "selling", "abc", "pass").await.unwrap();
    assert_ne!(without.name, one.name);
}
