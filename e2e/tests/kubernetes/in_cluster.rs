//! The service in the cluster whose jobs it keeps, installed with the packaged chart.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdout, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use devtools::{
    binary::{self, Profile},
    cluster::{self, Cluster, Namespace},
    command, image,
};
use e2e::{TEAM, api::Api, chart, job::Job, vdk::Vdk, wait};
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::Server;

use crate::fixture::LONGEST;

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
    values: Value,
    /// Files of Helm.
    folder: TempDir,
    package: PathBuf,
    database: Server,
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

/// Makes the service assemble images: the registry has another address for pods than for nodes, and packages come through a
/// proxy with certificates of its own.
fn embed(values: &mut Value, cluster: &Cluster, jobs: &Namespace, proxy: &Proxy) -> anyhow::Result<()> {
    let port = cluster.registry.rsplit_once(':').map_or("", |(_, port)| port);
    let registry = format!("{}:{port}", cluster.host_address);
    let base = crate::images::base(cluster)?.replace(&cluster.registry, &registry);
    values["config"]["registry_url"] = format!("{}/{}", cluster.registry, jobs.name()).into();
    values["config"]["image"] = json!({
        "builder": "embedded",
        "base_images": {"3.11": base},
        "registry_plain_http": [registry],
        "registry_push_url": format!("{registry}/{}", jobs.name()),
        "name": "{registry}/{job}:{version}",
    });
    let variable = |name: &str, value: String| json!({"name": name, "value": value});
    values["extraEnv"] = json!([
        variable("HTTPS_PROXY", format!("http://{}", proxy.address)),
        variable("SSL_CERT_FILE", "/etc/authorities/ca.crt".into()),
        variable("NO_PROXY", "kubernetes.default.svc,$(KUBERNETES_SERVICE_HOST)".into()),
    ]);
    values["extraVolumes"] = json!([{"name": "authorities", "configMap": {"name": "authorities"}}]);
    values["extraVolumeMounts"] = json!([{"name": "authorities", "mountPath": "/etc/authorities", "readOnly": true}]);
    // A compiler's output without optimization, and two installations at once.
    values["resources"] = json!({"limits": {"memory": "1Gi"}});
    values["replicas"] = 1.into();
    Ok(())
}

impl Inside {
    /// Installs the packaged chart, after the steps that an operator takes before it.
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
        let door = Door::new(&cluster.host_address)?;
        let (repository, tag) = image.rsplit_once(':').expect("a tag");
        let mut values = chart::values(jobs.name());
        values["image"] = json!({"repository": repository, "tag": tag});
        values["config"] = json!({
            // There is no source of tokens here.
            "insecure": true,
            "allowed_hosts": [cluster.host_address],
            "rest_api_url": door.url,
            "image": {"builder": "prebuilt", "name": format!("{}/{}/{{job}}:{{version}}", cluster.registry, jobs.name())},
            // Runs that find room on a node which many tests share.
            "kubernetes": {"cpu_request_millicores": 10, "memory_request_mi": 32},
        });
        if images == Images::Embedded {
            let proxy = Proxy::new(&cluster.host_address)?;
            service.ask(&["create", "configmap", "authorities", &format!("--from-file=ca.crt={CERTIFICATES}")])?;
            embed(&mut values, &cluster, &jobs, &proxy)?;
        }
        let folder = tempfile::tempdir()?;
        let package = devtools::chart::package(folder.path())?;
        let inside = Self { service, jobs, door, values, folder, package, database };

        // Without the encryption key, nothing is installed.
        let url = format!("--from-literal=database-url={}", inside.database.database_over_network());
        inside.service.ask(&["create", "secret", "generic", "holdfast", &url])?;
        let refused = inside.install().expect_err("there is no encryption key").to_string();
        assert!(
            refused.contains("the Secret holdfast-keys, which encryptionKey.existingSecret names, is not"),
            "{refused}"
        );
        let key = format!("--from-literal=secret.key={}", "0123456789abcdef".repeat(4));
        inside.service.ask(&["create", "secret", "generic", "holdfast-keys", &key])?;
        inside.install()?;
        Ok(inside)
    }

    /// A command of Helm about the release, with the present values if it takes some.
    fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let values = chart::written(self.folder.path(), &self.values)?;
        let mut helm = self.service.cluster().helm(self.folder.path())?;
        helm.args(["--namespace", self.service.name()]).args(arguments);
        if matches!(arguments[0], "install" | "upgrade") {
            helm.arg(&self.package).arg("--values").arg(values);
        }
        command::output(&mut helm)
    }

    fn install(&self) -> anyhow::Result<String> {
        self.helm(&["install", "holdfast"])
    }

    /// A command of `kubectl` about the service that must succeed.
    fn kubectl(&self, arguments: &[&str]) -> String {
        self.service.ask(arguments).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// The pods of the service that are not being deleted.
    fn pods(&self) -> Vec<Value> {
        let of_service = "app.kubernetes.io/component=service";
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

/// The CronJobs of a namespace: uid, generation and resource version by name.
fn cron_jobs(namespace: &Namespace) -> BTreeMap<String, [String; 3]> {
    let list = namespace.ask(&["get", "cronjobs", "-o", "json"]).unwrap_or_else(|e| panic!("{e:#}"));
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let objects = list["items"].as_array().expect("a list").iter().map(|object| {
        let field = |name: &str| object["metadata"][name].to_string();
        (field("name"), ["uid", "generation", "resourceVersion"].map(field))
    });
    objects.collect()
}

/// Values change and change back, the release is removed and installed again: no CronJob is written, the jobs stay, and the
/// service is usable after each step.
#[tokio::test]
async fn the_chart_is_tested_upgraded_rolled_back_and_installed_again_without_a_write_to_a_cron_job() {
    let mut inside = Inside::new(Images::Prebuilt);
    inside.is_rolled_out();
    let leader = inside.leader_after(0).await;
    for name in ["stays-one", "stays-two"] {
        inside.deploy("service/holdfast", &job(name)).await;
    }
    let before = cron_jobs(&inside.jobs);
    assert_eq!(before.len(), 2, "{before:?}");
    let run = |inside: &Inside, arguments: &[&str]| {
        inside.helm(arguments).unwrap_or_else(|e| panic!("{e:#}\n{}", inside.log()))
    };
    // The pod of the test finds the service where jobs find it.
    let tested = |inside: &Inside| {
        let forward = inside.forward("service/holdfast");
        inside.door.leads_to(&forward);
        let said = run(inside, &["test", "holdfast"]);
        assert!(said.contains("TEST SUITE:     holdfast-test") && said.contains("Phase:          Succeeded"), "{said}");
    };
    tested(&inside);

    inside.values["config"]["log"] = "debug".into();
    run(&inside, &["upgrade", "holdfast"]);
    inside.is_rolled_out();
    let second = inside.leader_after(leader.epoch).await;
    let configuration = |inside: &Inside| inside.kubectl(&["get", "configmap", "holdfast", "-o", "yaml"]);
    assert!(configuration(&inside).contains("log = \"debug\""));

    run(&inside, &["rollback", "holdfast"]);
    inside.is_rolled_out();
    let third = inside.leader_after(second.epoch).await;
    assert!(!configuration(&inside).contains("log = \"debug\""));
    inside.values["config"].as_object_mut().expect("settings").remove("log");

    run(&inside, &["uninstall", "holdfast", "--wait", "--cascade", "foreground"]);
    assert!(inside.pods().is_empty());
    assert_eq!(cron_jobs(&inside.jobs), before, "uninstalling leaves the jobs");
    inside.kubectl(&["get", "secret", "holdfast-keys", "holdfast"]);

    run(&inside, &["install", "holdfast"]);
    inside.is_rolled_out();
    let fourth = inside.leader_after(third.epoch).await;
    tested(&inside);
    // A full resync of the new leader has compared each deployment: another one is rolled out after it.
    inside.deploy(&format!("pod/{}", fourth.pod), &job("comes-later")).await;
    let mut after = cron_jobs(&inside.jobs);
    assert!(after.remove("\"comes-later\"").is_some(), "{after:?}");
    assert_eq!(after, before, "nothing was written");
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
