//! A Kubernetes cluster for tests: real servers, one real node, and one node that runs pods in name only. Linux, and root
//! for the real node. `testcluster/README.md` says what it is made of.
//!
//! Everything is built once into the cache. [`shared`] is what tests ask for.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions, TryLockError},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Write as _,
    iter,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    cache, client,
    environment::{variable, workspace},
    progress::{self, say},
};

/// The part of the cache that is the cluster's.
const CACHE: &str = "testcluster";

/// The image that jobs of tests are put upon, within a registry.
const BASE: &str = "holdfast-test/vdk:base";

/// The longest that removing a namespace may wait for the API server, which may be away.
const REMOVE_SECONDS_MAX: u32 = 10;

/// How many of a script's last lines are shown when it fails.
const LINES_SHOWN: usize = 20;

/// Which cluster is brought up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its folder; this checkout's folder in the cache when there is none.
    pub state: Option<PathBuf>,
    /// The first of its ten ports; free ones are chosen when there is none.
    pub port_base: Option<u16>,
    /// Whether there is no real node: pods run in name only then, and root is not needed.
    pub no_node: bool,
}

/// A running cluster. It goes on when this is dropped; while this is held, no run of tests takes it down.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The file that lets clients in as an administrator.
    pub kubeconfig: PathBuf,
    /// Where its API server is.
    pub api_server_url: String,
    /// Its registry (`host:port`): plain HTTP, no credentials, the same name for this machine and for pods.
    pub registry: String,
    /// The address where pods of the real node reach programs of this machine that listen on it.
    pub host_address: String,
    kubectl: PathBuf,
    /// None when it is somebody else's.
    state: Option<PathBuf>,
    _in_use: Option<Arc<File>>,
}

/// What an administrator of a cluster shows to its API server.
#[derive(Debug, Clone)]
pub struct Administrator {
    /// The API server's URL.
    pub url: String,
    /// The certificate of who signed the server's, as PEM.
    pub ca_certificate: String,
    /// The administrator's certificate, as PEM.
    pub certificate: String,
    /// The private key of it, as PEM.
    pub private_key: String,
}

/// A namespace of a test's own. Dropping it has it deleted, without waiting for the end of that.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    cluster: Cluster,
}

/// Something that is built once, known by what it is made of.
#[derive(Debug)]
struct Product {
    name: &'static str,
    doing: &'static str,
    script: &'static str,
    /// What else decides how it turns out.
    inputs: &'static [&'static str],
}

const KUBERNETES: Product = Product {
    name: "kubernetes",
    doing: "compiling Kubernetes (once, 10 to 20 minutes)",
    script: "build-kubernetes.sh",
    inputs: &["kubernetes/go.mod", "kubernetes/go.sum", "kubernetes/main.go"],
};
const KWOK: Product = Product {
    name: "kwok",
    doing: "compiling kwok (once, 2 to 5 minutes)",
    script: "build-kwok.sh",
    inputs: &["kwok/go.mod", "kwok/go.sum"],
};
const PAUSE_IMAGE: Product = Product {
    name: "pause-image",
    doing: "making the image of pods (once)",
    script: "build-pause-image.sh",
    inputs: &["pause.c", "mkimage.py"],
};
const JOB_IMAGE: Product = Product {
    name: "job-image",
    doing: "making the image of jobs (once, a minute)",
    script: "build-job-image.sh",
    inputs: &["mkimage.py"],
};

impl Product {
    /// Its name in the cache.
    fn key(&self) -> Result<String> {
        let mut key = DefaultHasher::new();
        for input in iter::once(&self.script).chain(self.inputs) {
            (input, fs::read(scripts().join(input)).with_context(|| format!("testcluster/{input}"))?).hash(&mut key);
        }
        if self.name == JOB_IMAGE.name {
            (client::REQUIREMENT, client::CONSTRAINTS).hash(&mut key);
        }
        Ok(format!("{CACHE}/{}-{:016x}", self.name, key.finish()))
    }

    fn is_built(&self) -> Result<bool> {
        Ok(cache::folder()?.join(self.key()?).exists())
    }

    /// Its folder, filled when the cache has none.
    fn built(&self) -> Result<PathBuf> {
        let key = self.key()?;
        let folder = cache::folder()?.join(&key);
        if folder.exists() {
            return Ok(folder);
        }
        progress::during(self.doing, || {
            let _lock = cache::lock(&key)?;
            if folder.exists() {
                return Ok(());
            }
            // What was begun and not ended has another name.
            let new = beside(&folder, ".new");
            if new.exists() {
                fs::remove_dir_all(&new)?;
            }
            fs::create_dir_all(&new)?;
            let mut command = script(self.script);
            command.arg(&new);
            if self.name == JOB_IMAGE.name {
                let constraints = beside(&folder, ".constraints");
                fs::write(&constraints, client::CONSTRAINTS)?;
                command.args([OsStr::new(client::REQUIREMENT), constraints.as_os_str()]);
            }
            run(&mut command, &beside(&folder, ".log"))?;
            fs::rename(&new, &folder)?;
            Ok(())
        })?;
        Ok(folder)
    }
}

/// The folder of the scripts.
fn scripts() -> PathBuf {
    workspace().join("testcluster")
}

fn script(name: &str) -> Command {
    Command::new(scripts().join(name))
}

/// A path with something at the end of its name.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// Runs a script, its output into a log that begins anew.
fn run(command: &mut Command, log_path: &Path) -> Result<()> {
    let name = command.get_program().display().to_string();
    let log = File::create(log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        let text = fs::read_to_string(log_path).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        bail!(
            "{name} ended with {status}. Its last lines (all of them: {}):\n{}",
            log_path.display(),
            lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
        );
    }
    Ok(())
}

/// Runs a command and gives its output.
fn said(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!(
            "{} {} ended with {}: {}",
            command.get_program().display(),
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Builds all that a cluster is made of, unless the cache has it. Another process that builds the same is waited for.
///
/// # Errors
/// When this is no Linux, a program is missing that can't be installed, or something can't be built: the last lines of
/// the builder's output are in the message.
pub fn build() -> Result<()> {
    let all = [&JOB_IMAGE, &PAUSE_IMAGE, &KWOK, &KUBERNETES];
    fs::create_dir_all(cache::folder()?.join(CACHE))?;
    let mut complete = true;
    for product in all {
        complete &= product.is_built()?;
    }
    let purpose = if complete { "run" } else { "build" };
    {
        let name = format!("{CACHE}/packages");
        let _lock = cache::lock(&name)?;
        let log = cache::folder()?.join(format!("{name}.log"));
        run(script("packages.sh").arg(purpose), &log)?;
    }
    for product in all {
        product.built()?;
    }
    Ok(())
}

/// The folder of this checkout's cluster.
///
/// # Errors
/// When there is no cache folder.
pub fn default_state() -> Result<PathBuf> {
    let mut key = DefaultHasher::new();
    workspace().hash(&mut key);
    // A socket is in it, whose path must be short.
    Ok(cache::folder()?.join(CACHE).join(format!("state-{:08x}", key.finish() & 0xffff_ffff)))
}

/// Whether a cluster was brought up in this folder and not taken down.
pub fn is_up(state: &Path) -> bool {
    state.join("settings").exists()
}

/// Brings a cluster up, or what is missing of it, and waits until its nodes are ready. What it is made of is built first.
///
/// # Errors
/// As [`build`]; when this is not root and a real node is wanted; when there is no free port or network; when a server does
/// not come up within five minutes. The last lines of the script are in the message, and name the folder of the logs.
pub fn up(options: &Options) -> Result<Cluster> {
    let state = match &options.state {
        Some(given) => std::path::absolute(given)?,
        None => default_state()?,
    };
    build()?;
    let in_use = in_use(&state)?;
    in_use.lock_shared()?;
    let _lock = lock(&state)?;
    let mut command = script("up.sh");
    command
        .arg(&state)
        .env("KUBERNETES", KUBERNETES.built()?)
        .env("KWOK", KWOK.built()?)
        .env("PAUSE_IMAGE", PAUSE_IMAGE.built()?)
        .env("JOB_IMAGE", JOB_IMAGE.built()?)
        .env("WITH_NODE", if options.no_node { "0" } else { "1" })
        .env_remove("PORT_BASE");
    if let Some(port) = options.port_base {
        command.env("PORT_BASE", port.to_string());
    }
    progress::during("starting the test cluster", || run(&mut command, &beside(&state, ".log")))?;
    Cluster::of(&state, Some(Arc::new(in_use)))
}

/// Takes a cluster down and removes its folder: processes, network and cgroups of it are gone then.
///
/// # Errors
/// When something can't be ended or removed; the folder is kept then, for another try.
pub fn down(state: &Path) -> Result<()> {
    let _lock = lock(state)?;
    run(script("down.sh").arg(state), &beside(state, ".log"))?;
    if state.exists() {
        fs::remove_dir_all(state).with_context(|| format!("cannot remove {}", state.display()))?;
    }
    Ok(())
}

/// Takes a cluster down, unless another process uses it: whether that was done.
///
/// # Errors
/// As [`down`].
pub fn down_unless_used(state: &Path) -> Result<bool> {
    match in_use(state)?.try_lock() {
        Ok(()) => down(state).map(|()| true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Does harm to the cluster of a folder: see [`Cluster::fault`].
///
/// # Errors
/// When there is no such fault, or what it is done to is not there.
pub fn fault(state: &Path, fault: &str) -> Result<()> {
    said(script("fault.sh").arg(state).arg(fault)).map(drop)
}

/// Holds off others that bring the same cluster up or take it down.
fn lock(state: &Path) -> Result<File> {
    let path = beside(state, ".lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// A file on which each process that uses a cluster has a shared lock.
fn in_use(state: &Path) -> Result<File> {
    let path = beside(state, ".used");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// The cluster that tests share: the one that `HOLDFAST_TEST_KUBECONFIG` names, or this checkout's, which is brought up
/// when it is not there. The first call of a process may take long, further ones give what it gave.
///
/// A named cluster's registry has to be named too, in `HOLDFAST_TEST_REGISTRY` (`host:port`, the same name for this machine
/// and for pods, plain HTTP), unless the cluster is one that `cargo xtask cluster up` made.
///
/// # Errors
/// As [`up`]; when a named cluster does not answer, or its registry has no name or does not answer.
pub fn shared() -> Result<Cluster> {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let found = match variable("HOLDFAST_TEST_KUBECONFIG") {
            Some(kubeconfig) => named(&workspace().join(kubeconfig)),
            None => up(&Options::default()),
        };
        found.map_err(|error| format!("there is no test cluster: {error:#}"))
    });
    shared.clone().map_err(|error| anyhow!(error))
}

/// A cluster that someone else brought up.
fn named(kubeconfig: &Path) -> Result<Cluster> {
    if let Some(state) = kubeconfig.parent()
        && state.join("addresses").exists()
    {
        return Cluster::of(state, None);
    }
    let registry = variable("HOLDFAST_TEST_REGISTRY")
        .context("HOLDFAST_TEST_KUBECONFIG names a cluster; name its registry in HOLDFAST_TEST_REGISTRY (host:port)")?;
    let mut cluster = Cluster {
        kubeconfig: kubeconfig.to_owned(),
        api_server_url: String::new(),
        registry: registry.to_string_lossy().into_owned(),
        host_address: variable("HOLDFAST_TEST_HOST_ADDRESS").unwrap_or_default().to_string_lossy().into_owned(),
        kubectl: "kubectl".into(),
        state: None,
        _in_use: None,
    };
    cluster.api_server_url =
        cluster.ask(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    cluster.ask(&["version"])?;
    let image = JOB_IMAGE.built()?.join("image.tar");
    said(python().arg("archive").arg(&cluster.registry).arg(image).arg(BASE))?;
    Ok(cluster)
}

/// The program that talks to a registry.
fn python() -> Command {
    let mut command = Command::new("python3");
    command.arg(scripts().join("jobimage.py"));
    command
}

impl Cluster {
    /// The cluster of a folder, as it was brought up.
    fn of(state: &Path, in_use: Option<Arc<File>>) -> Result<Self> {
        let path = state.join("addresses");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let addresses: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let address = |name: &str| {
            addresses.get(name).map(ToString::to_string).with_context(|| format!("{} has no {name}", path.display()))
        };
        Ok(Self {
            kubeconfig: state.join("kubeconfig"),
            api_server_url: address("API_SERVER_URL")?,
            registry: address("REGISTRY")?,
            host_address: address("HOST_IP")?,
            kubectl: KUBERNETES.built()?.join("kubectl"),
            state: Some(state.to_owned()),
            _in_use: in_use,
        })
    }

    /// The image of a job without a job, as pods name it: Python and the released `vdk` client, working folder `/job`, uid
    /// 1000.
    pub fn base_image(&self) -> String {
        format!("{}/{BASE}", self.registry)
    }

    /// `kubectl` for this cluster.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        if let Some(state) = &self.state {
            command.env("KUBECACHEDIR", state.join("kubectl"));
            for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
                command.env_remove(name);
            }
        }
        command
    }

    /// What a command of `kubectl` says.
    ///
    /// # Errors
    /// When it fails; what it said is in the message.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        said(self.kubectl().args(arguments))
    }

    /// Creates or changes the objects of a manifest, YAML or JSON, each in the namespace that it names.
    ///
    /// # Errors
    /// When the API server refuses; what it said is in the message.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        given(self.kubectl().args(["apply", "-f", "-"]), manifest).map(drop)
    }

    /// Makes a namespace whose name begins like this, and waits until pods can be made in it.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let manifest = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"generateName":"{name}-"}}}}"#);
        let mut create = self.kubectl();
        create.args(["create", "-f", "-", "-o", "jsonpath={.metadata.name}"]);
        let name = given(&mut create, &manifest)?;
        // From here on it goes when something fails.
        let namespace = Namespace { name, cluster: self.clone() };
        namespace.ask(&["wait", "--for=create", "serviceaccount/default", "--timeout=180s"])?;
        Ok(namespace)
    }

    /// Puts the job of a folder into an image, at `/job/<job_name>` upon [`Self::base_image`], and into the registry under
    /// `repository:tag`. Gives the name that pods pull.
    ///
    /// # Errors
    /// When the folder can't be read, or the registry refuses or does not answer.
    pub fn push_job_image(&self, job_folder: &Path, job_name: &str, repository_and_tag: &str) -> Result<String> {
        self.push_job("job", job_folder, job_name, repository_and_tag)
    }

    /// The same as [`Self::push_job_image`], in an image that has Python and no VDK.
    ///
    /// # Errors
    /// When the folder can't be read, or the registry refuses or does not answer.
    pub fn push_bare_job_image(&self, job_folder: &Path, job_name: &str, repository_and_tag: &str) -> Result<String> {
        self.push_job("bare-job", job_folder, job_name, repository_and_tag)
    }

    fn push_job(&self, how: &str, folder: &Path, name: &str, repository_and_tag: &str) -> Result<String> {
        said(python().arg(how).args([&self.registry, BASE]).arg(folder).args([name, repository_and_tag]))?;
        Ok(format!("{}/{repository_and_tag}", self.registry))
    }

    /// Puts a program into an image, as its entry point upon [`Self::base_image`], and into the registry under
    /// `repository:tag`. Gives the name that pods pull.
    ///
    /// # Errors
    /// When the file can't be read, or the registry refuses or does not answer.
    pub fn push_program_image(&self, program: &Path, repository_and_tag: &str) -> Result<String> {
        said(python().arg("program").args([&self.registry, BASE]).arg(program).arg(repository_and_tag))?;
        Ok(format!("{}/{repository_and_tag}", self.registry))
    }

    /// What lets in as the administrator.
    ///
    /// # Errors
    /// When the KUBECONFIG has no client certificate, or can't be read.
    pub fn administrator(&self) -> Result<Administrator> {
        let field = |place: &str, name: &str| {
            let template = format!("{{{{index (index .{place} \"{name}\" | base64decode}}}}");
            let text = self.ask(&[
                "config",
                "view",
                "--raw",
                "--minify",
                "--flatten",
                "-o",
                "go-template",
                "--template",
                &template,
            ]);
            text.with_context(|| format!("{} has no {name}", self.kubeconfig.display()))
        };
        Ok(Administrator {
            url: self.api_server_url.clone(),
            ca_certificate: field("clusters 0).cluster", "certificate-authority-data")?,
            certificate: field("users 0).user", "client-certificate-data")?,
            private_key: field("users 0).user", "client-key-data")?,
        })
    }

    /// Does harm to the cluster: `testcluster/fault.sh` lists the faults. What was killed comes back by [`Self::repair`].
    ///
    /// # Errors
    /// When there is no such fault, what it is done to is not there, or the cluster is somebody else's.
    pub fn fault(&self, what: &str) -> Result<()> {
        fault(self.own()?, what)
    }

    /// Brings back what a fault took, and waits until it is ready.
    ///
    /// # Errors
    /// As [`up`], and when the cluster is somebody else's.
    pub fn repair(&self) -> Result<()> {
        let state = self.own()?.to_owned();
        let settings = fs::read_to_string(state.join("settings"))?;
        let no_node = settings.lines().any(|line| line == "WITH_NODE=0");
        up(&Options { state: Some(state), port_base: None, no_node }).map(drop)
    }

    /// Takes it down, and removes its folder.
    ///
    /// # Errors
    /// As [`down`], and when the cluster is somebody else's.
    pub fn down(&self) -> Result<()> {
        down(self.own()?)
    }

    fn own(&self) -> Result<&Path> {
        self.state
            .as_deref()
            .context("HOLDFAST_TEST_KUBECONFIG names this cluster, and it was not made by this project")
    }
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that it is in.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// `kubectl` for this namespace.
    pub fn kubectl(&self) -> Command {
        let mut command = self.cluster.kubectl();
        command.args(["--namespace", &self.name]);
        command
    }

    /// What a command of `kubectl` says in this namespace.
    ///
    /// # Errors
    /// When it fails; what it said is in the message.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        said(self.kubectl().args(arguments))
    }

    /// Creates or changes the objects of a manifest, YAML or JSON.
    ///
    /// # Errors
    /// When the API server refuses; what it said is in the message.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        given(self.kubectl().args(["apply", "-f", "-"]), manifest).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let longest = format!("--request-timeout={REMOVE_SECONDS_MAX}s");
        let _ = self.cluster.ask(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found", &longest]);
    }
}

/// Runs a command with something on its input, and gives its output.
fn given(command: &mut Command, input: &str) -> Result<String> {
    let mut file = tempfile::tempfile()?;
    file.write_all(input.as_bytes())?;
    std::io::Seek::rewind(&mut file)?;
    let output = command.stdin(file).output().context("kubectl cannot be started")?;
    if !output.status.success() {
        bail!("kubectl ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Building that goes on beside other work. Dropping it ends it.
#[derive(Debug)]
pub struct Building {
    group: Pid,
    given_up: Arc<AtomicBool>,
    built: Option<JoinHandle<Result<()>>>,
}

impl Building {
    /// Has `command` (this program's own command that calls [`build`]) run beside this process. When it fails, that is said
    /// at once.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let log_path = cache::folder()?.join(format!("{CACHE}-build.log"));
        let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
        // A group of its own, so that all of it can be ended.
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("the building of the test cluster can't be started")?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id out of range")?;
        let given_up = Arc::new(AtomicBool::new(false));
        let quiet = Arc::clone(&given_up);
        let built = thread::spawn(move || {
            let status = child.wait()?;
            if status.success() || quiet.load(Ordering::Relaxed) {
                return Ok(());
            }
            let text = fs::read_to_string(&log_path).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let error = anyhow!(
                "the test cluster can't be built, so tests that need it fail. {}:\n{}",
                log_path.display(),
                lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
            );
            say(format_args!("\n✗ {error}\n"));
            Err(error)
        });
        Ok(Self { group, given_up, built: Some(built) })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it failed; the last lines of its log are in the message.
    pub fn finish(mut self) -> Result<()> {
        match self.built.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            _ => bail!("the building of the test cluster was not seen to its end"),
        }
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Some(built) = self.built.take()
            && !built.is_finished()
        {
            self.given_up.store(true, Ordering::Relaxed);
            let _ = kill_process_group(self.group, Signal::TERM);
            let _ = built.join();
        }
    }
}
