//! A cluster as tests use it: `kubectl`, namespaces, images.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result};
use files::Lock;

use super::{
    lifetime::{self, Options},
    products::{JOB_IMAGE, KUBERNETES, scripts},
};
use crate::{command, environment::variable};

/// The image that jobs of tests are put upon, within a registry.
const BASE: &str = "holdfast-test/vdk:base";

/// The real node of a cluster of this project's own.
const REAL_NODE: &str = "node-0";

/// The longest that removing a namespace may wait for the API server, which may be away.
const REMOVE_SECONDS_MAX: u32 = 10;

/// A running cluster. It keeps running when this is dropped; while this is held, no run of tests takes it down.
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
    /// The name of the real node.
    pub node: String,
    kubectl: PathBuf,
    /// None if the cluster was started by others.
    state: Option<PathBuf>,
    _in_use: Option<Arc<Lock>>,
}

/// The certificate and key of an administrator of a cluster.
#[derive(Debug, Clone)]
pub struct Administrator {
    /// The API server's URL.
    pub url: String,
    /// The certificate of the server's authority, as PEM.
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

/// Whether `cargo xtask cluster up` made the cluster of this KUBECONFIG. Tests that do harm to a node need that.
pub fn is_own(kubeconfig: &Path) -> bool {
    own_folder(kubeconfig).is_some()
}

fn own_folder(kubeconfig: &Path) -> Option<&Path> {
    kubeconfig.parent().filter(|folder| folder.join("addresses").exists())
}

/// A cluster that someone else brought up.
pub(super) fn named(kubeconfig: &Path) -> Result<Cluster> {
    if let Some(state) = own_folder(kubeconfig) {
        return Cluster::of(state, None);
    }
    let registry = variable("HOLDFAST_TEST_REGISTRY")
        .context("HOLDFAST_TEST_KUBECONFIG names a cluster; name its registry in HOLDFAST_TEST_REGISTRY (host:port)")?;
    let mut cluster = Cluster {
        kubeconfig: kubeconfig.to_owned(),
        api_server_url: String::new(),
        registry: registry.to_string_lossy().into_owned(),
        host_address: variable("HOLDFAST_TEST_HOST_ADDRESS").unwrap_or_default().to_string_lossy().into_owned(),
        node: String::new(),
        kubectl: "kubectl".into(),
        state: None,
        _in_use: None,
    };
    cluster.api_server_url =
        cluster.ask(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    cluster.ask(&["version"])?;
    cluster.node = match variable("HOLDFAST_TEST_NODE") {
        Some(given) => given.to_string_lossy().into_owned(),
        None => cluster.ask(&["get", "nodes", "-l", "type!=kwok", "-o", "jsonpath={.items[0].metadata.name}"])?,
    };
    let image = JOB_IMAGE.built()?.join("image.tar");
    command::output(python().arg("archive").arg(&cluster.registry).arg(image).arg(BASE))?;
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
    pub(super) fn of(state: &Path, in_use: Option<Arc<Lock>>) -> Result<Self> {
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
            node: REAL_NODE.into(),
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
            without_proxies(&mut command);
        }
        command
    }

    /// Helm for this cluster, with its own files below `folder`.
    ///
    /// # Errors
    /// When it can't be compiled.
    pub fn helm(&self, folder: &Path) -> Result<Command> {
        let mut command = Command::new(super::helm()?);
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        for (variable, part) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, folder.join("helm").join(part));
        }
        if self.state.is_some() {
            without_proxies(&mut command);
        }
        Ok(command)
    }

    /// The output of a command of `kubectl`.
    ///
    /// # Errors
    /// When it fails; the message has its output.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        command::output(self.kubectl().args(arguments))
    }

    /// Whether the API server would accept the objects of a manifest, each in the namespace that it names. Nothing is
    /// written.
    ///
    /// # Errors
    /// When it would reject one, or when one has a field that its kind does not have; the message has the reason.
    pub fn accepts(&self, manifest: &str) -> Result<()> {
        answer(self.kubectl().args(["apply", "--dry-run=server", "--validate=strict", "-f", "-"]), manifest).map(drop)
    }

    /// Creates or changes the objects of a manifest, YAML or JSON, each in the namespace that it names.
    ///
    /// # Errors
    /// When the API server rejects it; the message has its reason.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        answer(self.kubectl().args(["apply", "-f", "-"]), manifest).map(drop)
    }

    /// Makes a namespace whose name begins like this, and waits until pods can be made in it.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let manifest = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"generateName":"{name}-"}}}}"#);
        let mut create = self.kubectl();
        create.args(["create", "-f", "-", "-o", "jsonpath={.metadata.name}"]);
        let name = answer(&mut create, &manifest)?;
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
        self.push("job", job_folder, job_name, repository_and_tag)
    }

    /// Puts an image that has Python and no VDK into the registry under `repository:tag`, with a folder at a path of the image.
    /// Gives the name that pods pull.
    ///
    /// # Errors
    /// When the folder can't be read, or the registry refuses or does not answer.
    pub fn push_python_image(&self, folder: &Path, path: &str, repository_and_tag: &str) -> Result<String> {
        self.push("bare", folder, path, repository_and_tag)
    }

    fn push(&self, how: &str, folder: &Path, name: &str, repository_and_tag: &str) -> Result<String> {
        command::output(python().arg(how).args([&self.registry, BASE]).arg(folder).args([name, repository_and_tag]))?;
        Ok(format!("{}/{repository_and_tag}", self.registry))
    }

    /// Has the real node pull from a registry without TLS at this address (`host:port`), under the same name.
    ///
    /// # Errors
    /// If the cluster was started by others, or the file can't be written.
    pub fn let_node_pull_from(&self, registry: &str) -> Result<()> {
        let folder = self.own()?.join("node/registries").join(registry);
        fs::create_dir_all(&folder)?;
        let hosts = format!(
            "server = \"http://{registry}\"\n[host.\"http://{registry}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        Ok(fs::write(folder.join("hosts.toml"), hosts)?)
    }

    /// The certificate and key of the administrator.
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

    /// Breaks the cluster: `testcluster/fault.sh` lists the faults. [`Self::repair`] restarts the killed processes.
    ///
    /// # Errors
    /// If there is no such fault, if its object is missing, or if the cluster was started by others.
    pub fn fault(&self, what: &str) -> Result<()> {
        lifetime::fault(self.own()?, what)
    }

    /// Repairs the damage of a fault, and waits until the cluster is ready.
    ///
    /// # Errors
    /// As [`super::up`], and if the cluster was started by others.
    pub fn repair(&self) -> Result<()> {
        let state = self.own()?.to_owned();
        let settings = fs::read_to_string(state.join("settings"))?;
        let no_node = settings.lines().any(|line| line == "WITH_NODE=0");
        lifetime::up(&Options { state: Some(state), port_base: None, no_node }).map(drop)
    }

    /// Takes it down, and removes its folder.
    ///
    /// # Errors
    /// As [`super::down`], and if the cluster was started by others.
    pub fn down(&self) -> Result<()> {
        lifetime::down(self.own()?)
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

    /// The output of a command of `kubectl` in this namespace.
    ///
    /// # Errors
    /// When it fails; the message has its output.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        command::output(self.kubectl().args(arguments))
    }

    /// Creates or changes the objects of a manifest, YAML or JSON.
    ///
    /// # Errors
    /// When the API server rejects it; the message has its reason.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        answer(self.kubectl().args(["apply", "-f", "-"]), manifest).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let longest = format!("--request-timeout={REMOVE_SECONDS_MAX}s");
        let _ = self.cluster.ask(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found", &longest]);
    }
}

/// Has a program reach this machine's own addresses.
fn without_proxies(command: &mut Command) {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name);
    }
}

/// Runs a command with something on its input, and gives its output.
fn answer(command: &mut Command, input: &str) -> Result<String> {
    let mut file = tempfile::tempfile()?;
    file.write_all(input.as_bytes())?;
    std::io::Seek::rewind(&mut file)?;
    command::output(command.stdin(file))
}
