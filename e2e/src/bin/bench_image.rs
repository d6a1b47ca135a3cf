//! Measures how images are assembled, beside `buildah` on the equivalent Dockerfile, the same base image and the same registry. Prints
//! Markdown for `docs/benchmarks.md`. Pods run in name only. Both sides have a warm cache of downloaded packages.

#![expect(clippy::print_stdout, reason = "its figures are its output")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use devtools::{
    cache,
    cluster::{self, Cluster, Namespace},
    progress::say,
};
use e2e::{
    TEAM,
    api::Api,
    job::Job,
    kubernetes::{Node, settings},
    measure::{load, machine, memory, quantile},
    service::{Options, Service},
    wait,
};
use serde_json::Value;
use testing::Database;

/// Figures of one machine, from one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each step is measured. A change of the source is measured five times as often.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many jobs are deployed at once.
    #[arg(long, default_value_t = 20)]
    at_once: usize,
    /// Have Holdfast put compiled modules into images, which buildah does not.
    #[arg(long)]
    bytecode: bool,
    /// The path of `uv` for buildah's side; that of the image of the service when there is none.
    #[arg(long)]
    uv: Option<PathBuf>,
}

const REQUIREMENTS: &str = "pandas\nsqlalchemy\nrequests\n";
const ONE_MORE: &str = "pandas\nsqlalchemy\nrequests\npolars\n";
const LONGEST: Duration = Duration::from_secs(900);
/// How often a rollout is read while it is measured.
const POLL: Duration = Duration::from_millis(5);
/// How often processes are looked for.
const SAMPLE: Duration = Duration::from_millis(20);
const MANIFESTS: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// The times of a step, and the bytes of the layers that it added to its image.
#[derive(Debug, Default)]
struct Step {
    times: Vec<Duration>,
    bytes: Vec<u64>,
}

impl Step {
    fn text(&self) -> String {
        let middle = |mut all: Vec<u64>| {
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        #[expect(clippy::cast_precision_loss, reason = "kilobytes for people")]
        let kilobytes = middle(self.bytes.clone()) as f64 / 1e3;
        format!("{:.2} s, {kilobytes:.1} KB", quantile(&self.times, 0.5).as_secs_f64())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let load = load();
    let cluster = cluster::shared()?;
    let ours = assembled(&arguments, &cluster).await?;
    let theirs = built_by_buildah(&arguments, &cluster).await?;
    println!("{load}\n\n{}\n", machine());
    println!("| step | Holdfast: accepted to CronJob, new layers | buildah: build and push, new layers |");
    println!("| --- | ---: | ---: |");
    for ((name, step), (_, other)) in ours.steps.iter().zip(&theirs) {
        println!("| {name} | {} | {} |", step.text(), other.as_ref().map_or("–".to_owned(), Step::text));
    }
    println!(
        "\nPeak memory of the service {:.0} MiB; at most {} resolver processes at once, with {:.0} MiB together.",
        ours.memory_mib, ours.resolvers, ours.resolvers_mib
    );
    Ok(())
}

/// The figures of the service.
struct Ours {
    steps: Vec<(&'static str, Step)>,
    memory_mib: f64,
    resolvers: usize,
    resolvers_mib: f64,
}

const NAMES: [&str; 5] =
    ["first build", "source changed", "second job, same requirements", "one more requirement (polars)", "at once"];

/// A service that assembles images, with a cache of its own.
struct Place {
    service: Service,
    namespace: Namespace,
    api: Api,
    cache: tempfile::TempDir,
}

async fn assembled(arguments: &Arguments, cluster: &Cluster) -> Result<Ours> {
    let namespace = cluster.namespace("bench-image")?;
    let nothing = tempfile::tempdir()?;
    let base = cluster.push_python_image(nothing.path(), "opt/nothing", "holdfast-bench/python:3.11")?;
    let cache = tempfile::tempdir()?;
    let options = settings(Options::on(Database::Sqlite), &namespace, Node::InNameOnly)
        .set("KUBECONFIG", &cluster.kubeconfig.to_string_lossy())
        .set("HOLDFAST_CACHE_DIR", &cache.path().to_string_lossy())
        .set("HOLDFAST_INSECURE", "true")
        .set("HOLDFAST_IMAGE_BUILDER", "embedded")
        .set("HOLDFAST_IMAGE_BASE_IMAGES", &format!("3.11={base}"))
        .set("HOLDFAST_IMAGE_BYTECODE", &arguments.bytecode.to_string())
        .set("HOLDFAST_IMAGE_REGISTRY_PLAIN_HTTP", &cluster.registry);
    let service = Service::start_with(options);
    let api = Api::new(service.url(), TEAM);
    let mut place = Place { service, namespace, api, cache };
    let sampler = Sampler::start(place.service.process().id());

    say("warming the cache of packages");
    let warm = Job::new("warm-up-job").step("10_step.py", "pass").file("requirements.txt", ONE_MORE);
    place.deployed(&warm, &[]).await?;
    let job = Job::new("first-job").step("10_step.py", "pass").file("requirements.txt", REQUIREMENTS);
    place.deployed(&job, &[]).await?;

    let mut steps: [Step; 5] = Default::default();
    for round in 0..arguments.rounds {
        place.forget_layers()?;
        job.put("20_more.py", &format!("# round {round}\n"));
        // The layer of VDK is written by another job, as it is there for every job of an installation.
        warm.put("20_more.py", &format!("# round {round}\n"));
        warm.put("requirements.txt", "");
        place.deployed(&warm, &[]).await?;
        steps[0].add(place.deployed(&job, &["warm-up-job"]).await?);
        for change in 0..5 {
            job.put("20_more.py", &format!("# round {round}, change {change}\n"));
            steps[1].add(place.deployed(&job, &["first-job"]).await?);
        }
        let second =
            Job::new(&format!("second-job-{round}")).step("10_step.py", "pass").file("requirements.txt", REQUIREMENTS);
        steps[2].add(place.deployed(&second, &["first-job"]).await?);
        job.put("requirements.txt", ONE_MORE);
        steps[3].add(place.deployed(&job, &["second-job-0"]).await?);
        job.put("requirements.txt", REQUIREMENTS);
    }
    let jobs: Vec<_> = (0..arguments.at_once)
        .map(|n| {
            Job::new(&format!("one-of-many-{n}")).step("10_step.py", "pass").file("requirements.txt", REQUIREMENTS)
        })
        .collect();
    let mut versions = Vec::new();
    for job in &jobs {
        let _ = place.api.create(job.name()).await.is(201);
    }
    let begun = Instant::now();
    for job in &jobs {
        versions.push(place.api.deploy(job).await);
    }
    for (job, version) in jobs.iter().zip(&versions) {
        place.rolled_out(job.name(), version).await?;
    }
    steps[4].add((begun.elapsed(), 0));
    let (resolvers, resolvers_mib) = sampler.end();
    let (_, memory_mib) = memory(place.service.process().id())?;
    Ok(Ours { steps: NAMES.into_iter().zip(steps).collect(), memory_mib, resolvers, resolvers_mib })
}

impl Step {
    fn add(&mut self, (time, bytes): (Duration, u64)) {
        say(format_args!("  {:.3} s, {bytes} bytes", time.as_secs_f64()));
        self.times.push(time);
        self.bytes.push(bytes);
    }
}

impl Place {
    /// Deploys a job, and gives the time from the accepted deployment to the CronJob, and the bytes of those layers of its image
    /// that the images of these jobs lack.
    async fn deployed(&self, job: &Job, others: &[&str]) -> Result<(Duration, u64)> {
        if self.api.get(&format!("/jobs/{}", job.name())).await.status.as_u16() == 404 {
            let _ = self.api.create(job.name()).await.is(201);
        }
        let mut known = BTreeSet::new();
        for other in others {
            known.extend(self.layers(other).await?.into_iter().map(|(digest, _)| digest));
        }
        let version = self.api.deploy(job).await;
        let begun = Instant::now();
        self.rolled_out(job.name(), &version).await?;
        let time = begun.elapsed();
        let layers = self.layers(job.name()).await?;
        Ok((time, layers.into_iter().filter(|(digest, _)| !known.contains(digest)).map(|(_, bytes)| bytes).sum()))
    }

    async fn rolled_out(&self, job: &str, version: &str) -> Result<()> {
        let path = format!("/jobs/{job}/deployments/production/rollout");
        let begun = Instant::now();
        loop {
            let rollout = self.api.get(&path).await.ok().json();
            if rollout["desired"]["job_version"] == version {
                match rollout["phase"].as_str() {
                    Some("rolled_out") => return Ok(()),
                    Some("failed") => bail!("{job}: {rollout:#}"),
                    _ => {}
                }
            }
            ensure!(begun.elapsed() < LONGEST, "{job} was not rolled out: {rollout:#}");
            wait::let_pass(POLL).await;
        }
    }

    /// The layers of the image that the CronJob of a job names.
    async fn layers(&self, job: &str) -> Result<Vec<(String, u64)>> {
        let image = "jsonpath={.spec.jobTemplate.spec.template.spec.containers[0].image}";
        layers_of(&self.namespace.ask(&["get", "cronjob", job, "-o", image])?).await
    }

    fn forget_layers(&self) -> Result<()> {
        let layers = self.cache.path().join("images/layers");
        if layers.exists() {
            fs::remove_dir_all(layers)?;
        }
        Ok(())
    }
}

/// The layers of an image, with their bytes.
async fn layers_of(image: &str) -> Result<Vec<(String, u64)>> {
    let (registry, rest) = image.trim().split_once('/').context("no registry")?;
    let (repository, version) =
        rest.split_once('@').or_else(|| rest.rsplit_once(':')).context("neither a digest nor a tag")?;
    let url = format!("http://{registry}/v2/{repository}/manifests/{version}");
    let answer = reqwest::Client::new().get(url).header("Accept", MANIFESTS).send().await?.error_for_status()?;
    let manifest: Value = answer.json().await?;
    let layers = manifest["layers"].as_array().context("no layers")?.iter();
    layers
        .map(|layer| Some((layer["digest"].as_str()?.to_owned(), layer["size"].as_u64()?)))
        .collect::<Option<_>>()
        .context("a layer without a digest")
}

/// Counts the resolvers of a service and their memory, until it is ended.
struct Sampler {
    over: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    task: JoinHandle<f64>,
}

impl Sampler {
    fn start(service: u32) -> Self {
        let (over, most) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (is_over, count) = (over.clone(), most.clone());
        let task = thread::spawn(move || {
            let mut mib: f64 = 0.0;
            while !is_over.load(Ordering::Acquire) {
                let resolvers = resolvers_of(service);
                count.fetch_max(resolvers.len(), Ordering::AcqRel);
                let sum = resolvers.iter().filter_map(|id| memory(*id).ok()).map(|(resident, _)| resident).sum();
                mib = mib.max(sum);
                thread::sleep(SAMPLE);
            }
            mib
        });
        Self { over, most, task }
    }

    fn end(self) -> (usize, f64) {
        self.over.store(true, Ordering::Release);
        (self.most.load(Ordering::Acquire), self.task.join().unwrap_or_default())
    }
}

fn resolvers_of(service: u32) -> Vec<u32> {
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parent == Some(service) && stat.contains("(uv)")
    })
    .collect()
}

/// The inputs of a build by buildah.
struct Buildah {
    storage: tempfile::TempDir,
    uv: PathBuf,
    base: String,
    registry: String,
}

async fn built_by_buildah(arguments: &Arguments, cluster: &Cluster) -> Result<Vec<(&'static str, Option<Step>)>> {
    let uv = match &arguments.uv {
        Some(given) => given.clone(),
        None => cached_uv()?,
    };
    let buildah =
        Buildah { storage: tempfile::tempdir()?, uv, base: cluster.base_image(), registry: cluster.registry.clone() };
    say("warming the caches of buildah");
    let warm = Job::new("warm-up-job").step("10_step.py", "pass").file("requirements.txt", ONE_MORE);
    buildah.built(&warm, "warm-up-job", &[], true).await?;
    let mut steps: [Step; 4] = Default::default();
    for round in 0..arguments.rounds {
        let job = Job::new("first-job").step("10_step.py", "pass").file("requirements.txt", REQUIREMENTS);
        job.put("20_more.py", &format!("# round {round}\n"));
        steps[0].add(buildah.built(&job, "first-job", &["warm-up-job"], true).await?);
        for change in 0..5 {
            job.put("20_more.py", &format!("# round {round}, change {change}\n"));
            steps[1].add(buildah.built(&job, "first-job", &["first-job"], false).await?);
        }
        let second = format!("second-job-{round}");
        let other = Job::new(&second).step("10_step.py", "pass").file("requirements.txt", REQUIREMENTS);
        steps[2].add(buildah.built(&other, &second, &["first-job"], false).await?);
        job.put("requirements.txt", ONE_MORE);
        job.put("20_more.py", &format!("# round {round}, one more\n"));
        steps[3].add(buildah.built(&job, "one-more", &["first-job"], true).await?);
    }
    let steps = steps.into_iter().map(Some).chain([None]);
    Ok(NAMES.into_iter().zip(steps).collect())
}

impl Buildah {
    fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "overlay", "--root"]).arg(self.storage.path().join("root"));
        command.arg("--runroot").arg(self.storage.path().join("run")).stdin(Stdio::null());
        command
    }

    /// Builds and pushes the image of a job, and gives the time and the bytes of its layers that these images lack. `anew` uses no
    /// layer of a former build.
    async fn built(&self, job: &Job, name: &str, others: &[&str], anew: bool) -> Result<(Duration, u64)> {
        let image = |name: &str| format!("{}/holdfast-bench/{name}:latest", self.registry);
        let mut known = BTreeSet::new();
        for other in others {
            known.extend(layers_of(&image(other)).await?.into_iter().map(|(digest, _)| digest));
        }
        let cache = self.storage.path().join("packages");
        fs::create_dir_all(&cache)?;
        let dockerfile = self.storage.path().join("Dockerfile");
        fs::write(
            &dockerfile,
            format!(
                "FROM {}\nUSER 0\nCOPY {1}/requirements.txt /requirements.txt\nRUN SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
                 UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy UV_CACHE_DIR=/packages /uv/uv pip install --system \
                 --break-system-packages --python /usr/bin/python3 --only-binary :all: -r /requirements.txt\nCOPY --chown=1000 {1} \
                 /job/{1}\nUSER 1000\n",
                self.base,
                job.name()
            ),
        )?;
        let uv = self.uv.parent().context("no folder of uv")?;
        let begun = Instant::now();
        let mut build = self.command();
        build.args(["bud", "--isolation", "chroot", "--tls-verify=false", "--layers", "--format", "oci"]);
        if anew {
            build.arg("--no-cache");
        }
        for (from, to) in [(uv, "/uv:ro"), (&cache, "/packages"), (Path::new("/etc/ssl/certs"), "/etc/ssl/certs:ro")] {
            build.arg("--volume").arg(format!("{}:{to}", from.display()));
        }
        build.args(["--tag", &image(name), "--file"]).arg(&dockerfile).arg(job.parent());
        run(&mut build)?;
        run(self.command().args(["push", "--tls-verify=false", &image(name)]))?;
        let time = begun.elapsed();
        let layers = layers_of(&image(name)).await?;
        Ok((time, layers.into_iter().filter(|(digest, _)| !known.contains(digest)).map(|(_, bytes)| bytes).sum()))
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("buildah can't be started; as root: apt-get install buildah")?;
    ensure!(output.status.success(), "buildah: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The installer that the image of the service has.
fn cached_uv() -> Result<PathBuf> {
    let folders =
        fs::read_dir(cache::service_folder()?.join("tools"))?.flatten().map(|entry| entry.path().join("bin/uv"));
    folders.filter(|uv| uv.is_file()).max().context("no uv in the cache; name one with --uv")
}
