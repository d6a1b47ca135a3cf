//! Images that the service assembles: nothing is prepared but a base image with Python.

use std::{
    cell::RefCell,
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
};

use devtools::{
    cluster::{self, Cluster},
    environment,
};
use e2e::{job::Job, wait};
use serde_json::{Value, json};
use testing::Database;

use crate::fixture::{Fixture, LONGEST, Node};

/// The report of a step about its container and its packages.
const TELL: &str = "\
import getpass, importlib.metadata as metadata, markupsafe._speedups, of_the_base, requests, vdk.internal
print('base', of_the_base.WORD, flush=True)
print('packages', metadata.version('markupsafe'), metadata.version('requests'), flush=True)
print('place', os.getcwd(), os.environ['HOME'], os.environ['JOB_NAME'], os.environ['VDK_JOB_GITHASH'], flush=True)
print('user', os.getuid(), os.getgid(), getpass.getuser(), os.access('/job', os.W_OK), flush=True)
runs = int(job_input.get_property('runs', 0)) + 1
job_input.set_all_properties({'runs': runs})
print('run', runs, flush=True)";

/// A base image that has Python, a module of its own, and no VDK.
pub(crate) fn base(cluster: &Cluster) -> anyhow::Result<String> {
    let modules = tempfile::tempdir()?;
    std::fs::write(modules.path().join("of_the_base.py"), "WORD = 'importable'\n")?;
    cluster.push_python_image(modules.path(), "usr/lib/python3/dist-packages", "holdfast-test/python:3.11")
}

/// A service that assembles images upon a base image that has Python and no VDK.
fn embedded(name: &str, on: Database, more: &[(&str, &str)]) -> Fixture {
    let cluster = cluster::shared().unwrap_or_else(|e| panic!("{e:#}"));
    let base = base(&cluster).unwrap_or_else(|e| panic!("{e:#}"));
    Fixture::with(name, on, Node::Real, |options| {
        let options = options
            .set("HOLDFAST_IMAGE_BUILDER", "embedded")
            .set("HOLDFAST_IMAGE_BASE_IMAGES", &format!("3.11={base}"))
            .set("HOLDFAST_IMAGE_REGISTRY_PLAIN_HTTP", &cluster.registry)
            .set("HOLDFAST_LOG", "info,image=debug,sync=debug");
        more.iter().fold(options, |options, (name, value)| options.set(name, value))
    })
}

impl Fixture {
    /// The image of a job's container in the cluster.
    fn image(&self, job: &str) -> String {
        let cron_job = self.object("cronjob", job).expect("a CronJob");
        let pod = &cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        pod["containers"][0]["image"].as_str().expect("an image").to_owned()
    }

    /// Waits until a rollout is over, and gives it and the phases that were seen on the way.
    async fn rolled_out(&self, job: &str, version: &str) -> (Value, Vec<String>) {
        let api = self.api();
        let phases = RefCell::new(Vec::<String>::new());
        let path = format!("/jobs/{job}/deployments/production/rollout");
        let rollout = wait::until(format!("the rollout of {job}"), LONGEST, async || {
            let rollout = api.get(&path).await.ok().json();
            if let Some(phase) = rollout["build"]["phase"].as_str()
                && phases.borrow().last().is_none_or(|last| last != phase)
            {
                phases.borrow_mut().push(phase.to_owned());
            }
            let is_over = matches!(rollout["phase"].as_str(), Some("rolled_out" | "failed"));
            (is_over && rollout["desired"]["job_version"] == version).then_some(rollout)
        })
        .await;
        (rollout, phases.into_inner())
    }
}

#[tokio::test]
async fn a_job_is_deployed_from_a_base_image_alone() {
    let name = "from-a-base";
    let fixture = embedded("embedded", Database::Sqlite, &[]);
    let (vdk, api) = (fixture.vdk(), fixture.api());
    let job = Job::new(name).step("10_tell.py", TELL).file("requirements.txt", "requests\nmarkupsafe==2.1.5\n");
    vdk.ok(&["create", "--cloud", "-n", name]).await;
    let first = vdk.deploy(&job).await;
    let (rollout, phases) = fixture.rolled_out(name, &first).await;
    assert_eq!(rollout["phase"], "rolled_out", "{rollout:#}");
    assert!(phases.iter().any(|phase| phase == "resolving" || phase == "building_layers"), "{phases:?}");
    let first_image = fixture.image(name);
    assert!(first_image.contains(&format!("/{name}@sha256:")), "{first_image}");

    let id = vdk.start(name).await;
    let ended = fixture.ended(name, &id).await;
    let log = api.log(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended:#}\n{log}");
    assert!(log.contains("packages 2.1.5 ") && log.contains("run 1"), "{log}");
    assert!(log.contains(&format!("place /job /job {name} {first}")), "{log}");
    assert!(log.contains("user 1000 1000 job True"), "{log}");
    assert!(log.contains("base importable"), "{log}");
    is_read_by_another_client(&first_image);

    // Only a step changes: one small layer. The step is another one in each run of the test, because runs share a cache of layers.
    job.put("20_more.py", &format!("def run(job_input):\n    print('a second step', flush=True)  # {id}\n"));
    let written = |layer: &str| {
        let log = fixture.service.log();
        log.lines().filter(|line| line.contains("wrote a layer") && line.contains(layer)).count()
    };
    let [packages, source] = ["packages of the data job", "source of the data job"];
    let before = (written(packages), written(source));
    let second = vdk.deploy(&job).await;
    let _ = fixture.rolled_out(name, &second).await;
    assert_ne!(fixture.image(name), first_image);
    assert_eq!((written(packages), written(source)), (before.0, before.1 + 1));
    let id = vdk.start(name).await;
    assert_eq!(fixture.ended(name, &id).await["status"], "succeeded");
    assert!(api.log(name, &id).await.contains("a second step"));

    // A requirement changes.
    job.put("requirements.txt", "requests\nmarkupsafe==2.1.4\n");
    let third = vdk.deploy(&job).await;
    let _ = fixture.rolled_out(name, &third).await;
    let id = vdk.start(name).await;
    assert_eq!(fixture.ended(name, &id).await["status"], "succeeded");
    assert!(api.log(name, &id).await.contains("packages 2.1.4 "));

    // The first version comes back as the image that it was.
    vdk.ok(&["deploy", "--update", "-n", name, "--job-version", &first]).await;
    let (rollout, _) = fixture.rolled_out(name, &first).await;
    assert_eq!(rollout["phase"], "rolled_out", "{rollout:#}");
    assert_eq!(fixture.image(name), first_image);
}

#[tokio::test]
async fn a_package_without_a_wheel_is_a_user_error_that_names_it() {
    let name = "without-a-wheel";
    let fixture = embedded("no-wheel", Database::Sqlite, &[]);
    let job = Job::new(name).step("10_step.py", "pass").file("requirements.txt", "docopt==0.6.2\n");
    fixture.vdk().ok(&["create", "--cloud", "-n", name]).await;
    let version = fixture.vdk().deploy(&job).await;
    let (rollout, _) = fixture.rolled_out(name, &version).await;
    assert_eq!((rollout["phase"].as_str(), rollout["status"].as_str()), (Some("failed"), Some("USER_ERROR")));
    let why = rollout["problem"]["why"].as_str().expect("why");
    assert!(why.contains("docopt has no wheel for Python 3.11"), "{why}");
    assert!(fixture.object("cronjob", name).is_none());
}

/// Has another implementation of the image specification read an image: each blob by its digest, and the layers unpacked.
fn is_read_by_another_client(image: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let layout = format!("oci:{}:copied", folder.path().display());
    let skopeo = |arguments: &[&str]| {
        let output = Command::new("skopeo").args(arguments).output().expect("skopeo");
        assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()
    };
    let from = format!("docker://{image}");
    skopeo(&["--insecure-policy", "copy", "--src-tls-verify=false", &from, &layout]);
    let about = skopeo(&["inspect", "--config", &layout]);
    assert_eq!(about["config"]["User"], "1000:1000", "{about:#}");
    // Another compression has every layer unpacked and its digest compared with that of the configuration.
    let unpacked = format!("dir:{}", folder.path().join("unpacked").display());
    skopeo(&["--insecure-policy", "copy", "--dest-decompress", &layout, &unpacked]);
    let mut expected: Vec<_> = about["rootfs"]["diff_ids"].as_array().expect("layers").iter().map(digits).collect();
    let mut found: Vec<_> = sha256_of_files(&folder.path().join("unpacked"));
    found.retain(|hash| expected.contains(hash));
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "{about:#}");
}

fn digits(digest: &Value) -> String {
    digest.as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest").to_owned()
}

fn sha256_of_files(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let output = Command::new("sha256sum").args(files).output().expect("sha256sum");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split(' ').next().map(ToOwned::to_owned)).collect()
}

/// A registry that asks for a password, in front of one that does not.
struct Locked {
    address: String,
}

const USERS: [(&str, &str); 2] = [("writer", "may-push"), ("reader", "may-pull")];

impl Locked {
    fn new(cluster: &Cluster) -> io::Result<Self> {
        let port = cluster.registry.rsplit_once(':').map_or("", |(_, port)| port);
        let behind = format!("{}:{port}", cluster.host_address);
        let listener = TcpListener::bind((cluster.host_address.as_str(), 0))?;
        let address = listener.local_addr()?.to_string();
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let behind = behind.clone();
                thread::spawn(move || unlock(&caller, &behind));
            }
        });
        Ok(Self { address })
    }

    /// A Docker configuration file with the password of a user.
    fn config(&self, (user, password): (&str, &str)) -> String {
        json!({"auths": {&self.address: {"username": user, "password": password}}}).to_string()
    }
}

/// The head of a request, byte by byte: what follows is not read.
pub(crate) fn head_of(mut caller: &TcpStream) -> io::Result<Vec<u8>> {
    const HEAD_MAX_BYTES: usize = 64 * 1024;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX_BYTES {
        caller.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

/// Passes a connection on whose first request has a password; each further one is of the same client.
fn unlock(caller: &TcpStream, behind: &str) -> io::Result<()> {
    let mut caller = caller;
    let head = head_of(caller)?;
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if !text.contains("\r\nauthorization: basic ") {
        return caller.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"\r\nContent-Length: 0\r\n\
              Connection: close\r\n\r\n",
        );
    }
    let mut registry = TcpStream::connect(behind)?;
    registry.write_all(&head)?;
    let (mut from, mut to) = (registry.try_clone()?, caller.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    io::copy(&mut caller, &mut registry)?;
    registry.shutdown(Shutdown::Write)
}

#[tokio::test]
async fn nodes_pull_with_credentials_that_the_service_keeps_in_the_cluster() {
    let name = "behind-a-password";
    let cluster = cluster::shared().unwrap_or_else(|e| panic!("{e:#}"));
    if !cluster::is_own(&cluster.kubeconfig) {
        // The node of another cluster can't be told about a registry without TLS.
        return;
    }
    let base = base(&cluster).unwrap_or_else(|e| panic!("{e:#}"));
    let locked = Locked::new(&cluster).expect("a registry");
    cluster.let_node_pull_from(&locked.address).unwrap_or_else(|e| panic!("{e:#}"));
    let base = base.replace(&cluster.registry, &locked.address);
    let fixture = Fixture::with("locked", Database::Sqlite, Node::Real, |options| {
        options
            .set("HOLDFAST_IMAGE_BUILDER", "embedded")
            .set("HOLDFAST_IMAGE_BASE_IMAGES", &format!("3.11={base}"))
            .set("HOLDFAST_REGISTRY_URL", &locked.address)
            .set("HOLDFAST_IMAGE_REGISTRY_PLAIN_HTTP", &locked.address)
            .set("HOLDFAST_IMAGE_REGISTRY_CREDENTIALS_FILE", "{folder}/push.json")
            .file("push.json", &locked.config(USERS[0]))
            .set("HOLDFAST_IMAGE_PULL_CREDENTIALS_FILE", "{folder}/pull.json")
            .file("pull.json", &locked.config(USERS[1]))
            .set("HOLDFAST_SYNC_SWEEP_INTERVAL_SECONDS", "1")
    });
    let secret = |fixture: &Fixture| fixture.object("secret", "holdfast-pull-credentials");
    let written = fixture.becomes("the pull secret", "secret", "holdfast-pull-credentials", |it| it.is_some()).await;
    let written = written.expect("a Secret");
    assert_eq!(written["type"], "kubernetes.io/dockerconfigjson");
    let job = Job::new(name).step("10_step.py", "print('pulled', flush=True)");
    fixture.vdk().ok(&["create", "--cloud", "-n", name]).await;
    let version = fixture.vdk().deploy(&job).await;
    let (rollout, _) = fixture.rolled_out(name, &version).await;
    assert_eq!(rollout["phase"], "rolled_out", "{rollout:#}");
    let id = fixture.vdk().start(name).await;
    let ended = fixture.ended(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended:#}");
    assert!(fixture.api().log(name, &id).await.contains("pulled"));

    // Written again when it is deleted, and not before.
    assert_eq!(
        secret(&fixture).map(|it| it["metadata"]["resourceVersion"].clone()),
        Some(written["metadata"]["resourceVersion"].clone())
    );
    fixture.kubectl(&["delete", "secret", "holdfast-pull-credentials"]);
    fixture.becomes("the pull secret again", "secret", "holdfast-pull-credentials", |it| it.is_some()).await;
    for (_, password) in USERS {
        assert!(!fixture.service.log().contains(password), "a password is in the log");
    }
}

#[tokio::test]
async fn pandas_runs_upon_a_base_that_has_the_library_of_cpp() {
    if !environment::is_on("HOLDFAST_TEST_LONG") {
        return;
    }
    let name = "with-pandas";
    let fixture = embedded("pandas", Database::Sqlite, &[]);
    let body = "import pandas\nprint('sum', int(pandas.DataFrame({'a': [1, 2, 39]}).a.sum()), flush=True)";
    let job = Job::new(name).step("10_step.py", body).file("requirements.txt", "pandas\n");
    fixture.vdk().ok(&["create", "--cloud", "-n", name]).await;
    let version = fixture.vdk().deploy(&job).await;
    let (rollout, _) = fixture.rolled_out(name, &version).await;
    assert_eq!(rollout["phase"], "rolled_out", "{rollout:#}");
    let id = fixture.vdk().start(name).await;
    let ended = fixture.ended(name, &id).await;
    let log = fixture.api().log(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended:#}\n{log}");
    assert!(log.contains("sum 42"), "{log}");
}
