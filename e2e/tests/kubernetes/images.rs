//! Images that the service assembles: nothing is prepared but a base image with Python.

use std::cell::RefCell;

use devtools::cluster;
use e2e::{job::Job, wait};
use serde_json::Value;
use testing::Database;

use crate::fixture::{Fixture, LONGEST, Node};

/// The report of a step about its container and its packages.
const TELL: &str = "\
import getpass, importlib.metadata as metadata, markupsafe._speedups, requests, vdk.internal
print('packages', metadata.version('markupsafe'), metadata.version('requests'), flush=True)
print('place', os.getcwd(), os.environ['HOME'], os.environ['JOB_NAME'], os.environ['VDK_JOB_GITHASH'], flush=True)
print('user', os.getuid(), os.getgid(), getpass.getuser(), os.access('/job', os.W_OK), flush=True)
runs = int(job_input.get_property('runs', 0)) + 1
job_input.set_all_properties({'runs': runs})
print('run', runs, flush=True)";

/// A service that assembles images upon a base image that has Python and no VDK.
fn embedded(name: &str, on: Database, more: &[(&str, &str)]) -> Fixture {
    let cluster = cluster::shared().unwrap_or_else(|e| panic!("{e:#}"));
    let empty = Job::new("nothing");
    let base = cluster.push_bare_job_image(&empty.path(), "nothing", "holdfast-test/python:3.11");
    let base = base.unwrap_or_else(|e| panic!("{e:#}"));
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
