//! The service in the cluster whose jobs it keeps, from the manifests that are shipped.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdout, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use devtools::{
    binary::{self, Profile},
    cluster::{self, Cluster, Namespace},
    environment::workspace,
    image,
};
use e2e::{TEAM, api::Api, job::Job, vdk::Vdk, wait};
use serde_json::{Value, json};
use testing::Server;

use crate::fixture::LONGEST;

/// The parts of the shipped manifests that each operator replaces.
const IMAGE: &str = "registry.example.com/holdfast:0.1.0";
const ADDRESS: &str = "http://holdfast.holdfast.svc.cluster.local:8092";
const JOB_IMAGES: &str = "registry.example.com/data-jobs/";
const BUILDER: &str = "    builder = \"prebuilt\"\n";

/// Certificates of the authorities that this machine trusts.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How long the first image may take: VDK's own packages are fetched and built before.
const FIRST_IMAGE: Duration = Duration::from_secs(480);

/// Where the images of jobs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Images {
    /// The test pushes them.
    Prebuilt,
    /// The service assembles them upon a base image that has Python and no VDK.
    Embedded,
}

/// The namespace of the service and that of its jobs, both under the Pod Security profile "restricted".
struct Inside {
    service: Namespace,
    jobs: Namespace,
    door: Door,
    _database: Server,
}

/// A proxy by which pods reach package indexes: the cluster of the tests has no route to other machines.
struct Proxy {
    address: String,
}

impl Proxy {
    fn new(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?.to_string();
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                thread::spawn(move || connect(&caller));
            }
        });
        Ok(Self { address })
    }
}

/// Connects a caller to the host that its CONNECT request names.
fn connect(caller: &TcpStream) -> io::Result<()> {
    let mut caller = caller;
    let head = String::from_utf8_lossy(&crate::images::head_of(caller)?).into_owned();
    let to = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let host = TcpStream::connect(to)?;
    caller.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    pass(caller, &host)?;
    pass(&host, caller)
}

/// An address of this machine that leads to whatever port it is turned to: the cluster of the tests has neither a proxy for
/// Services nor DNS, and runs look for the service under one address.
struct Door {
    url: String,
    target: Arc<Mutex<Option<String>>>,
}

impl Door {
    fn new(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let target = Arc::<Mutex<Option<String>>>::default();
        let turned_to = target.clone();
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let to = turned_to.lock().expect("the door").clone();
                if let Some(service) = to.and_then(|to| TcpStream::connect(to).ok()) {
                    let _ = pass(&caller, &service).and_then(|()| pass(&service, &caller));
                }
            }
        });
        Ok(Self { url, target })
    }

    fn leads_to(&self, forward: &Forward) {
        let to = forward.url.trim_start_matches("http://").to_owned();
        *self.target.lock().expect("the door") = Some(to);
    }
}

/// Passes on what one side says, beside the caller.
fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    Ok(())
}

/// A pod of the service that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leader {
    pod: String,
    epoch: u64,
}

/// A way from this machine to a port in the cluster, as long as it is there.
struct Forward {
    kubectl: Child,
    url: String,
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

fn shipped(name: &str) -> String {
    let path = workspace().join("deploy/kubernetes").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The image of the service with the program of the tests, pushed under this name for pods.
fn service_image(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    let name = format!("{}/{name}", cluster.registry);
    image::assemble_with_any_list(image::Options {
        program: binary::path(Profile::Dev)?,
        packages: None,
        name: name.clone(),
        archive: None,
        push: true,
        plain_http: true,
        credentials: None,
    })?;
    Ok(name)
}

/// Changes of the shipped manifest with which the service assembles images: the registry has another address for pods than for
/// nodes, and packages come through a proxy with certificates of its own.
fn embedded(cluster: &Cluster, jobs: &Namespace, proxy: &Proxy) -> anyhow::Result<Vec<(String, String)>> {
    let base = crate::images::base(cluster)?;
    let port = cluster.registry.rsplit_once(':').map_or("", |(_, port)| port);
    let registry = format!("{}:{port}", cluster.host_address);
    let base = base.replace(&cluster.registry, &registry);
    let settings = format!(
        "    builder = \"embedded\"\n    base_images = {{ \"3.11\" = \"{base}\" }}\n    \
         registry_plain_http = [\"{registry}\"]\n    registry_push_url = \"{registry}/{0}\"\n    \
         name = \"{{registry}}/{{job}}:{{version}}\"\n",
        jobs.name()
    );
    let pull = format!("    registry_url = \"{}/{}\"\n", cluster.registry, jobs.name());
    let name = format!("    name = \"{}/{}/{{job}}:{{version}}\"\n", cluster.registry, jobs.name());
    let variables = format!(
        "            - name: HTTPS_PROXY\n              value: http://{}\n            - name: SSL_CERT_FILE\n              \
         value: /etc/authorities/ca.crt\n            - name: NO_PROXY\n              value: kubernetes.default.svc,\
         $(KUBERNETES_SERVICE_HOST)\n            - name: HOLDFAST_DATABASE_URL\n",
        proxy.address
    );
    let change = |from: &str, to: String| (from.to_owned(), to);
    Ok(vec![
        change(&name, String::new()),
        change(BUILDER, settings),
        change("    runtime = \"kubernetes\"\n", format!("    runtime = \"kubernetes\"\n{pull}")),
        change("            - name: HOLDFAST_DATABASE_URL\n", variables),
        change(
            "            - {name: data, mountPath: /var/lib/holdfast}\n      # Key files",
            "            - {name: data, mountPath: /var/lib/holdfast}\n            - {name: authorities, mountPath: \
             /etc/authorities, readOnly: true}\n      # Key files"
                .to_owned(),
        ),
        change(
            "      volumes:\n",
            "      volumes:\n        - name: authorities\n          configMap: {name: authorities}\n".to_owned(),
        ),
        // A compiler's output without optimisation, and two installations at once.
        change("limits: {memory: 512Mi}", "limits: {memory: 1Gi}".to_owned()),
        change("  replicas: 2\n", "  replicas: 1\n".to_owned()),
        change("  minAvailable: 1\n", "  minAvailable: 0\n".to_owned()),
    ])
}

/// The manifests with what is each operator's own.
fn manifests(cluster: &Cluster, service: &Namespace, jobs: &Namespace, image: &str, url: &str) -> String {
    let shipped = shipped("holdfast.yaml");
    let authentication = shipped.split_once("    [auth]\n").and_then(|(_, rest)| rest.split_once("---\n"));
    let authentication = format!("    [auth]\n{}", authentication.expect("the part about authentication").0);
    let (service, jobs_name) = (format!("namespace: {}\n", service.name()), jobs.name());
    let changes = [
        ("namespace: holdfast\n", service.as_str()),
        ("namespace: data-jobs\n", &format!("namespace: {jobs_name}\n")),
        ("namespace = \"data-jobs\"\n", &format!("namespace = \"{jobs_name}\"\n{SMALL}")),
        (IMAGE, image),
        (ADDRESS, url),
        ("allowed_hosts = [", &format!("allowed_hosts = [\"{}\", ", cluster.host_address)),
        (JOB_IMAGES, &format!("{}/{jobs_name}/", cluster.registry)),
        // There is no source of tokens here.
        (authentication.as_str(), ""),
        ("    listen = ", "    insecure = true\n    listen = "),
    ];
    changed(shipped, &changes.map(|(from, to)| (from.to_owned(), to.to_owned())))
}

fn changed(manifests: String, changes: &[(String, String)]) -> String {
    changes.iter().fold(manifests, |text, (from, to)| {
        assert!(text.contains(from), "the shipped manifest has no {from:?}:\n{text}");
        text.replace(from, to)
    })
}

/// Runs that find room on a node which many tests share.
const SMALL: &str = "    cpu_request_millicores = 10\n    memory_request_mi = 32\n";

impl Inside {
    /// Does what the head of the shipped manifest says.
    fn new(images: Images) -> Self {
        Self::try_new(images).unwrap_or_else(|e| panic!("{e:#}"))
    }

    fn try_new(images: Images) -> anyhow::Result<Self> {
        let cluster = cluster::shared()?;
        let (service, jobs) = (cluster.namespace("inside")?, cluster.namespace("inside-jobs")?);
        for namespace in [&service, &jobs] {
            let restricted = "pod-security.kubernetes.io/enforce=restricted";
            cluster.ask(&["label", "namespace", namespace.name(), restricted])?;
        }
        let image = service_image(&cluster, &format!("{}/holdfast:test", service.name()))?;
        let database = Server::start_at(cluster.host_address.parse()?, "secretpassword");
        let url = format!("--from-literal=database-url={}", database.database_over_network());
        service.ask(&["create", "secret", "generic", "holdfast", &url])?;
        let key = format!("--from-literal=secret.key={}", "0123456789abcdef".repeat(4));
        service.ask(&["create", "secret", "generic", "holdfast-keys", &key])?;
        jobs.apply(&shipped("role.yaml"))?;
        let door = Door::new(&cluster.host_address)?;
        let inside = Self { service, jobs, door, _database: database };
        let mut manifests = manifests(&cluster, &inside.service, &inside.jobs, &image, &inside.door.url);
        if images == Images::Embedded {
            let proxy = Proxy::new(&cluster.host_address)?;
            let authorities = format!("--from-file=ca.crt={}", Path::new(CERTIFICATES).display());
            inside.service.ask(&["create", "configmap", "authorities", &authorities])?;
            manifests = changed(manifests, &embedded(&cluster, &inside.jobs, &proxy)?);
        }
        // The objects name their namespaces: they are in two.
        cluster.apply(&manifests)?;
        Ok(inside)
    }

    /// A command of `kubectl` about the service that must succeed.
    fn kubectl(&self, arguments: &[&str]) -> String {
        self.service.ask(arguments).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// The pods of the service that are not being deleted.
    fn pods(&self) -> Vec<Value> {
        let of_service = "app.kubernetes.io/name=holdfast";
        let list: Value =
            serde_json::from_str(&self.kubectl(&["get", "pods", "-l", of_service, "-o", "json"])).expect("JSON");
        let pods = list["items"].as_array().expect("a list").iter();
        pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect()
    }

    /// Waits until as many pods are ready as the Deployment wants.
    fn is_rolled_out(&self) {
        let longest = format!("--timeout={}s", LONGEST.as_secs());
        if let Err(error) = self.service.ask(&["rollout", "status", "deployment/holdfast", &longest]) {
            panic!("{error:#}\n{}\n{}", self.kubectl(&["get", "events"]), self.log());
        }
    }

    fn log(&self) -> String {
        self.kubectl(&["logs", "-l", "app.kubernetes.io/name=holdfast", "--prefix", "--tail=40"])
    }

    /// The epoch under which a pod leads: 0 when it does not lead, and nothing when it does not answer.
    fn epoch(&self, pod: &str) -> Option<u64> {
        let path =
            format!("/api/v1/namespaces/{}/pods/{pod}:8092/proxy/data-jobs/debug/prometheus", self.service.name());
        let page = self.service.ask(&["get", "--raw", &path]).ok()?;
        let gauge = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        let (leads, epoch): (u64, u64) = (gauge("holdfast_leader")?, gauge("holdfast_leader_epoch")?);
        assert_eq!(leads == 1, epoch > 0, "{page}");
        Some(epoch)
    }

    /// Waits until exactly one pod leads, under a later epoch than this one.
    async fn leader_after(&self, epoch: u64) -> Leader {
        wait::until(format!("one pod leads under an epoch after {epoch}"), LONGEST, async || {
            let pods = self.pods();
            let names = pods.iter().map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned());
            let leaders: Vec<_> = names.filter_map(|pod| Some(Leader { epoch: self.epoch(&pod)?, pod })).collect();
            let mut leading = leaders.into_iter().filter(|leader| leader.epoch > 0);
            let (first, second) = (leading.next()?, leading.next());
            (second.is_none() && first.epoch > epoch).then_some(first)
        })
        .await
    }

    /// The way to a port of a pod or a Service.
    fn forward(&self, to: &str) -> Forward {
        let mut command = self.service.kubectl();
        command.args(["port-forward", to, ":8092"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut kubectl = command.spawn().expect("kubectl");
        let (mut line, mut lines) = (String::new(), lines(&mut kubectl));
        lines.read_line(&mut line).expect("a line");
        // It logs each connection, and ends when it has no reader.
        thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
        let port = line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split(' ').next()).map(ToOwned::to_owned);
        let mut forward = Forward { kubectl, url: String::new() };
        forward.url = format!("http://127.0.0.1:{}", port.unwrap_or_else(|| panic!("no way to {to}: {line:?}")));
        forward
    }

    /// Deploys a job through a pod, pushes its image, and waits until its CronJob is there.
    async fn deploy(&self, through: &str, job: &Job) {
        let forward = self.forward(through);
        let api = Api::new(&forward.url, TEAM);
        let _ = api.create(job.name()).await.is(201);
        let schedule = json!({"config": {"schedule": {"schedule_cron": job.cron()}}});
        let _ = api.put(&format!("/jobs/{}", job.name()), &schedule).await.is(200);
        let version = api.deploy(job).await;
        let image = format!("{}/{}:{version}", self.jobs.name(), job.name());
        let pushed = self.jobs.cluster().push_job_image(&job.path(), job.name(), &image);
        pushed.unwrap_or_else(|e| panic!("{e:#}"));
        api.reached(job.name(), &version).await;
        let cron_job = self.jobs.ask(&["get", "cronjob", job.name(), "-o", "json"]).unwrap_or_else(|e| panic!("{e:#}"));
        let cron_job: Value = serde_json::from_str(&cron_job).expect("JSON");
        let labels = &cron_job["spec"]["jobTemplate"]["metadata"]["labels"];
        assert_eq!(labels["com.vmware.taurus/version"], version.as_str());
    }

    /// Deletes a pod as a rollout does, and gives the exit code of its program.
    fn exit_code(&self, pod: &str) -> String {
        let exit_code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}{\"\\n\"}";
        let mut command = self.service.kubectl();
        command.args(["get", "pod", pod, "--watch", "-o", exit_code]).stdout(Stdio::piped());
        let mut watch = command.spawn().expect("kubectl");
        let mut lines = lines(&mut watch);
        // The watch is there once it has told how the pod is.
        lines.read_line(&mut String::new()).expect("a line");
        self.kubectl(&["delete", "pod", pod, "--wait"]);
        let _ = watch.kill();
        let _ = watch.wait();
        let mut text = String::new();
        lines.read_to_string(&mut text).expect("text");
        text.lines().rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
    }
}

fn lines(kubectl: &mut Child) -> BufReader<ChildStdout> {
    BufReader::new(kubectl.stdout.take().expect("its output"))
}

fn job(name: &str) -> Job {
    let body = "job_input.set_all_properties({'seen': 'yes'})\nprint('done in the cluster', flush=True)";
    Job::new(name).schedule("0 0 1 1 *").step("10_step.py", body)
}

#[tokio::test]
async fn two_instances_in_the_cluster_have_one_leader_and_outlive_it() {
    let inside = Inside::new(Images::Prebuilt);
    inside.is_rolled_out();
    let first = inside.leader_after(0).await;
    let pods = inside.pods();
    assert_eq!(pods.len(), 2);
    let other = |leader: &Leader| {
        let names = inside.pods().into_iter().map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned());
        names.into_iter().find(|name| *name != leader.pod).expect("another pod")
    };

    // A request that one instance accepts is carried out by the other one.
    inside.deploy(&format!("pod/{}", other(&first)), &job("through-a-pod")).await;
    inside.deploy("service/holdfast", &job("through-the-service")).await;
    let forward = inside.forward("service/holdfast");
    inside.door.leads_to(&forward);
    let api = Api::new(&forward.url, TEAM);
    let id = api.started("through-the-service").await;
    let ended = wait::until(format!("the end of {id}"), LONGEST, async || {
        let execution = api.execution("through-the-service", &id).await;
        (!matches!(execution["status"].as_str(), Some("submitted" | "running"))).then_some(execution)
    })
    .await;
    let log = api.log("through-the-service", &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{log}\n{}", inside.log());
    assert!(log.contains("done in the cluster"), "{log}");
    drop(forward);

    // The leader is killed and does not release its lease.
    let id = pods
        .iter()
        .find(|pod| pod["metadata"]["name"] == first.pod.as_str())
        .and_then(|pod| pod["status"]["containerStatuses"][0]["containerID"].as_str()?.strip_prefix("containerd://"));
    let fault = format!("container-kill={}", id.expect("a container"));
    inside.service.cluster().fault(&fault).unwrap_or_else(|e| panic!("{e:#}"));
    let second = inside.leader_after(first.epoch).await;
    inside.is_rolled_out();
    inside.deploy(&format!("pod/{}", other(&second)), &job("after-a-crash")).await;

    // The leader is stopped: it ends well, and within the time that it is given, or it would be killed.
    assert_eq!(inside.exit_code(&second.pod), "0");
    let third = inside.leader_after(second.epoch).await;
    assert_ne!(third.pod, second.pod);
    inside.is_rolled_out();
    inside.deploy("service/holdfast", &job("after-a-stop")).await;
}

#[tokio::test]
async fn a_service_in_a_pod_of_its_own_image_assembles_and_runs_a_job() {
    let name = "assembled-in-a-pod";
    let inside = Inside::new(Images::Embedded);
    inside.is_rolled_out();
    let _ = inside.leader_after(0).await;
    let forward = inside.forward("service/holdfast");
    inside.door.leads_to(&forward);
    let (api, vdk) = (Api::new(&forward.url, TEAM), Vdk::new(&forward.url, TEAM));
    let body = "import markupsafe._speedups, requests\njob_input.set_all_properties({'seen': 'yes'})\nprint('assembled', flush=True)";
    let job = Job::new(name).step("10_step.py", body).file("requirements.txt", "requests\nmarkupsafe==2.1.5\n");
    vdk.ok(&["create", "--cloud", "-n", name]).await;
    let version = vdk.deploy(&job).await;
    let path = format!("/jobs/{name}/deployments/production/rollout");
    let rollout = wait::until(format!("the rollout of {name}"), FIRST_IMAGE, async || {
        let rollout = api.get(&path).await.ok().json();
        let is_over = matches!(rollout["phase"].as_str(), Some("rolled_out" | "failed"));
        (is_over && rollout["desired"]["job_version"] == version).then_some(rollout)
    })
    .await;
    assert_eq!(rollout["phase"], "rolled_out", "{rollout:#}\n{}", inside.log());
    let id = vdk.start(name).await;
    let ended = wait::until(format!("the end of {id}"), LONGEST, async || {
        let execution = api.execution(name, &id).await;
        (!matches!(execution["status"].as_str(), Some("submitted" | "running"))).then_some(execution)
    })
    .await;
    let log = api.log(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}\n{log}\n{}", inside.log());
    assert!(log.contains("assembled"), "{log}");

    // The image has neither a shell nor a package manager, and its root can't be written to.
    let pod = inside.pods()[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let run = |command: &[&str]| inside.service.ask(&[&["exec", &pod, "-c", "holdfast", "--"], command].concat());
    assert!(run(&["/usr/local/bin/holdfast", "--version"]).is_ok());
    for absent in ["/bin/sh", "/bin/dash", "/usr/bin/dpkg", "/usr/bin/apt-get"] {
        assert!(run(&[absent, "--version"]).is_err(), "{absent}");
    }
    let write = "import os\ntry:\n open('/usr/x', 'w')\nexcept OSError as e: print(e.errno == 30, os.getuid())";
    let written = run(&["/usr/bin/python3", "-c", write]).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(written.trim(), "True 1000");
}
