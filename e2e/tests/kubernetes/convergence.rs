//! From any state of database and cluster the service comes to what is wanted, and then writes nothing.

use std::{collections::BTreeMap, process::Command};

use e2e::{count, job::Job, service::Options, wait};
use serde_json::{Value, json};
use testing::{Database, Proxy, Webhook};

use crate::fixture::{Fixture, LONGEST, Node};

/// Changes of a deployment while the service can't see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Nothing,
    Deleted,
    Rescheduled,
    Added,
    Unlabelled,
    /// Its CronJob is gone, and one of others has the name.
    Taken,
    /// It was written, and the instance died before it recorded that.
    NotRecorded,
    /// The recorded state is of another time: a restored backup.
    Stale,
    /// Its removal was asked for, and not carried out.
    Removed,
    /// The job was deleted, and one of its name was made.
    Namesake,
    /// A change was asked for, and not carried out.
    Changed,
}

const ALL: [Done; 11] = [
    Done::Nothing,
    Done::Deleted,
    Done::Rescheduled,
    Done::Added,
    Done::Unlabelled,
    Done::Taken,
    Done::NotRecorded,
    Done::Stale,
    Done::Removed,
    Done::Namesake,
    Done::Changed,
];

const SWEEP_SECONDS: &str = "2";

fn often_swept(options: Options) -> Options {
    options.set("HOLDFAST_SYNC_SWEEP_INTERVAL_SECONDS", SWEEP_SECONDS)
}

/// The CronJobs of the namespace by name.
fn cron_jobs(fixture: &Fixture) -> BTreeMap<String, Value> {
    let list: Value = serde_json::from_str(&fixture.kubectl(&["get", "cronjobs", "-o", "json"])).expect("JSON");
    let items = list["items"].as_array().expect("a list").iter();
    items.map(|object| (object["metadata"]["name"].as_str().expect("a name").to_owned(), object.clone())).collect()
}

/// Changes the rows of a service that does not run.
fn in_database(fixture: &Fixture, sql: &str) {
    let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as db:\n    db.executescript(sys.argv[2])\n";
    let done = Command::new("python3")
        .args(["-c", script])
        .arg(fixture.service.data_dir().join("holdfast.db"))
        .arg(sql)
        .output()
        .expect("python3");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn patch(fixture: &Fixture, name: &str, patch: &Value) {
    fixture.kubectl(&["patch", "cronjob", name, "--type=merge", "-p", &patch.to_string()]);
}

/// Waits for two more sweeps from their beginning to their end.
async fn two_sweeps(fixture: &Fixture) {
    let swept = || fixture.service.log().matches("swept").count();
    let before = swept();
    wait::until("two sweeps", LONGEST, async || (swept() >= before + 3).then_some(())).await;
}

/// Asserts that there are no more writes, whichever way they are counted.
async fn nothing_is_written(fixture: &Fixture, proxy: &Proxy) {
    proxy.reset();
    two_sweeps(fixture).await;
    assert_eq!(proxy.writes(), BTreeMap::new());
}

#[tokio::test]
async fn from_any_state_the_cluster_comes_to_equal_the_database_and_then_nothing_is_written() {
    let (mut fixture, proxy) = Fixture::through_proxy_with("converge", Database::Sqlite, Node::InNameOnly, often_swept);
    // 200 on demand; here each state three times.
    let jobs: Vec<_> = (0..count(33, 200))
        .map(|n| Job::new(&format!("example-job-{n}")).schedule("0 3 * * *").step("10_step.py", "pass"))
        .collect();
    fixture.deployed_in_name(&jobs).await;
    let before = cron_jobs(&fixture);
    let states: Vec<(&str, Done)> =
        jobs.iter().zip(ALL.iter().cycle()).map(|(job, done)| (job.name(), *done)).collect();

    // Runs in progress.
    for (name, done) in states.iter().filter(|(_, done)| !matches!(done, Done::Deleted | Done::Taken)).take(11) {
        if *done == Done::Namesake {
            continue;
        }
        let pod = json!({
            "restartPolicy": "Never", "nodeSelector": {"there-is": "no-such-node"},
            "containers": [{"name": "main", "image": "example:1"}],
        });
        let owner = json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": before[*name]["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        });
        let run = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": format!("{name}-of-theirs"), "ownerReferences": [owner]},
            "spec": {"template": {"spec": pod}},
        });
        fixture.namespace.apply(&run.to_string()).expect("a Job");
    }
    let uids = |fixture: &Fixture| fixture.kubectl(&["get", "jobs", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let runs_before = uids(&fixture);

    proxy.cut();
    let api = fixture.api();
    for (name, done) in &states {
        match done {
            Done::Removed => drop(api.delete(&format!("/jobs/{name}/deployments/production")).await.ok()),
            Done::Changed => fixture.reschedule(name, "30 4 * * *").await,
            Done::Namesake => {
                let _ = api.delete(&format!("/jobs/{name}")).await.ok();
                fixture.asked_for(&Job::new(name).schedule("0 5 * * *").step("10_step.py", "pass")).await;
            }
            _ => {}
        }
    }
    fixture.service.kill();
    let mut theirs = BTreeMap::new();
    for (name, done) in &states {
        match done {
            Done::Deleted => drop(fixture.kubectl(&["delete", "cronjob", name])),
            Done::Rescheduled => patch(&fixture, name, &json!({"spec": {"schedule": "* * * * *"}})),
            Done::Added => patch(
                &fixture,
                name,
                &json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {
                    "initContainers": [{"name": "mine", "image": "mine:1"}], "priority": 0,
                }}}}}}),
            ),
            Done::Unlabelled => drop(fixture.kubectl(&["label", "cronjob", name, "holdfast/job-id-"])),
            Done::Taken => {
                fixture.kubectl(&["delete", "cronjob", name]);
                fixture.kubectl(&["create", "cronjob", name, "--image=theirs:1", "--schedule=0 0 1 1 *"]);
                theirs.insert(*name, fixture.object("cronjob", name).expect("theirs")["metadata"]["resourceVersion"].clone());
            }
            Done::NotRecorded => in_database(
                &fixture,
                &format!(
                    "update rollout set reached_generation = null, inputs_hash = null, image = null, mark = null,
                        reached_at = null, tried_inputs_hash = null, tried_generation = null, status = 'NONE', due_at = 0
                     where job_id = (select job_id from data_job where name = '{name}')"
                ),
            ),
            Done::Stale => in_database(
                &fixture,
                &format!(
                    "update rollout set inputs_hash = 'of another time', mark = null
                     where job_id = (select job_id from data_job where name = '{name}')"
                ),
            ),
            Done::Nothing | Done::Removed | Done::Namesake | Done::Changed => {}
        }
    }
    proxy.restore();
    let _ = fixture.service.start_again();

    let wrong = |fixture: &Fixture| {
        let now = cron_jobs(fixture);
        let is_as_wanted = |name: &str, done: Done| match (done, now.get(name)) {
            (Done::Removed, object) => object.is_none(),
            (_, None) => false,
            (Done::Taken, Some(object)) => object["metadata"]["resourceVersion"] == theirs[name],
            (Done::Namesake, Some(object)) => {
                let id = |object: &Value| object["metadata"]["labels"]["holdfast/job-id"].clone();
                object["spec"]["schedule"] == "0 5 * * *" && id(object) != id(&before[name])
            }
            (Done::Changed, Some(object)) => object["spec"]["schedule"] == "30 4 * * *",
            (_, Some(object)) => {
                object["spec"] == before[name]["spec"]
                    && object["metadata"]["labels"] == before[name]["metadata"]["labels"]
            }
        };
        states.iter().filter(|(name, done)| !is_as_wanted(name, *done)).copied().collect::<Vec<_>>()
    };
    let converged = wait::attempt(LONGEST, async || wrong(&fixture).is_empty().then_some(())).await;
    assert!(converged.is_some(), "{:?}", wrong(&fixture));
    for name in theirs.keys() {
        wait::until("the rollout names the owner", LONGEST, async || {
            let rollout = api.get(&format!("/jobs/{name}/deployments/production/rollout")).await.json();
            rollout["problem"].to_string().contains("cron_job_unmanaged").then_some(())
        })
        .await;
    }
    nothing_is_written(&fixture, &proxy).await;
    assert_eq!(wrong(&fixture), []);
    assert_eq!(uids(&fixture), runs_before, "no run died, and none began");
}

#[tokio::test]
async fn what_others_do_to_many_at_once_is_reverted_and_nothing_else_is_written() {
    let (fixture, proxy) = Fixture::through_proxy_with("many-edits", Database::Sqlite, Node::InNameOnly, often_swept);
    // 100 of 1,000 on demand.
    let (fleet, edited) = (count(60, 1000), count(12, 100));
    let jobs: Vec<_> = (0..fleet)
        .map(|n| Job::new(&format!("example-job-{n}")).schedule("0 3 * * *").step("10_step.py", "pass"))
        .collect();
    fixture.deployed_in_name(&jobs).await;
    let before = cron_jobs(&fixture);
    nothing_is_written(&fixture, &proxy).await;

    proxy.reset();
    for (n, job) in jobs.iter().take(edited).enumerate() {
        match n % 3 {
            0 => patch(&fixture, job.name(), &json!({"spec": {"schedule": "* * * * *"}})),
            1 => patch(&fixture, job.name(), &json!({"spec": {"jobTemplate": {"metadata": {"labels": {"my": "x"}}}}})),
            _ => drop(fixture.kubectl(&["delete", "cronjob", job.name()])),
        }
    }
    let specs = |objects: &BTreeMap<String, Value>| {
        objects.iter().map(|(name, object)| (name.clone(), object["spec"].clone())).collect::<BTreeMap<_, _>>()
    };
    let wanted = specs(&before);
    wait::until("all are as they were", LONGEST, async || (specs(&cron_jobs(&fixture)) == wanted).then_some(())).await;
    two_sweeps(&fixture).await;
    let cron_job = "/apis/batch/v1/namespaces/{namespace}/cronjobs/{name}";
    // The controller manager starts a Job of the schedule that is to be reverted, and notes that in the CronJob's status: a
    // write of the service that comes in between is rejected and repeated.
    let of = |method: &str, path: &str| {
        proxy.accepted_writes().get(&(method.to_owned(), path.to_owned())).copied().unwrap_or_default()
    };
    let (edits, deletions) = (edited - edited / 3, edited / 3);
    assert_eq!(of("PUT", cron_job), edits as u64, "one write an edit: {:?}", proxy.writes());
    assert_eq!(of("POST", "/apis/batch/v1/namespaces/{namespace}/cronjobs"), deletions as u64, "{:?}", proxy.writes());
    nothing_is_written(&fixture, &proxy).await;
}

#[tokio::test]
async fn a_field_that_another_writer_owns_is_left_alone_and_reported() {
    let fixture = Fixture::with("contested", Database::Sqlite, Node::InNameOnly, |options| {
        options.set("HOLDFAST_KUBERNETES_IGNORE_PATHS", "/spec/startingDeadlineSeconds")
    });
    let name = "is-contested";
    fixture.deployed_in_name(&[Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass")]).await;
    let schedule_is = |schedule: &'static str| {
        move |object: Option<&Value>| object.is_some_and(|object| object["spec"]["schedule"] == schedule)
    };
    let theirs = json!({"spec": {"schedule": "30 3 * * *", "startingDeadlineSeconds": 77}}).to_string();
    let patch =
        || fixture.kubectl(&["patch", "cronjob", name, "--type=merge", "--field-manager=autopilot", "-p", &theirs]);
    for _ in 0..3 {
        patch();
        let after = fixture.becomes("it is put back", "cronjob", name, schedule_is("0 3 * * *")).await.expect("it");
        assert_eq!(after["spec"]["startingDeadlineSeconds"], 77, "what others may keep");
    }
    patch();
    let api = fixture.api();
    let rollout = wait::until("it is told", LONGEST, async || {
        let rollout = api.get(&format!("/jobs/{name}/deployments/production/rollout")).await.json();
        rollout["problem"].to_string().contains("spec.schedule").then_some(rollout)
    })
    .await;
    assert!(rollout["problem"].to_string().contains("autopilot"), "{rollout}");
    assert_eq!(fixture.object("cronjob", name).expect("it")["spec"]["schedule"], "30 3 * * *", "left alone");
    // The change of the job's owner is carried out nevertheless.
    fixture.reschedule(name, "0 6 * * *").await;
    fixture.becomes("the change is there", "cronjob", name, schedule_is("0 6 * * *")).await;
    wait::until("there is no problem", LONGEST, async || {
        let rollout = api.get(&format!("/jobs/{name}/deployments/production/rollout")).await.json();
        (rollout["phase"] == "rolled_out").then_some(())
    })
    .await;
}

/// A webhook of the whole cluster that is asked about the CronJobs of one namespace; it goes when it is dropped.
struct Admission<'a> {
    fixture: &'a Fixture,
    webhook: Webhook,
    kind: &'static str,
}

impl<'a> Admission<'a> {
    fn changing(fixture: &'a Fixture, field: &str) -> Self {
        Self::of_cron_jobs(fixture, Webhook::start(Self::address(fixture), field), "MutatingWebhookConfiguration")
    }

    fn denying(fixture: &'a Fixture, why: &str) -> Self {
        Self::of_cron_jobs(fixture, Webhook::denying(Self::address(fixture), why), "ValidatingWebhookConfiguration")
    }

    fn address(fixture: &Fixture) -> std::net::IpAddr {
        fixture.namespace.cluster().host_address.parse().expect("an address")
    }

    fn of_cron_jobs(fixture: &'a Fixture, webhook: Webhook, kind: &'static str) -> Self {
        let name = fixture.namespace.name();
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name},
            "webhooks": [{
                "name": "cron-jobs.example.com",
                "clientConfig": webhook.client_config(),
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                "rules": [{
                    "apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["cronjobs"],
                    "operations": ["CREATE", "UPDATE"],
                }],
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }],
        });
        fixture.namespace.cluster().apply(&configuration.to_string()).expect("a webhook's configuration");
        Self { fixture, webhook, kind }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        let namespace = &self.fixture.namespace;
        let _ = namespace.ask(&["delete", self.kind, namespace.name(), "--ignore-not-found"]);
    }
}

/// Asks the API server about a CronJob without making one.
fn probe(fixture: &Fixture) -> anyhow::Result<String> {
    fixture.namespace.ask(&["create", "cronjob", "probe", "--image=mine:1", "--schedule=0 3 * * *", "--dry-run=server"])
}

#[tokio::test]
async fn a_denial_by_an_admission_rule_is_not_the_users_and_ends_with_the_rule() {
    let fixture = Fixture::new("denial", Database::Sqlite, Node::InNameOnly);
    let api = fixture.api();
    let job = Job::new("is-denied").schedule("0 3 * * *").step("10_step.py", "pass");
    let denies = |asked: &str| {
        let said = probe(&fixture).err().map(|error| format!("{error:#}"));
        said.is_some_and(|said| said.contains(asked)).then_some(())
    };
    let says = async |rule: &str, why: &str| {
        wait::until(format!("the rollout names {rule}"), LONGEST, async || {
            let rollout = api.get(&format!("/jobs/{}/deployments/production/rollout", job.name())).await.json();
            (rollout.to_string().contains(rule) && rollout.to_string().contains(why)).then_some(rollout)
        })
        .await
    };

    // By a webhook that gives no code, which the API server makes a 400.
    let admission = Admission::denying(&fixture, "images need a digest");
    wait::until("the webhook is asked", LONGEST, async || denies("images need a digest")).await;
    let version = fixture.asked_for(&job).await;
    let denied = says("cron-jobs.example.com", "images need a digest").await;
    assert_eq!(denied["problem"]["fault"], "platform", "{denied}");

    // By a policy that gives no reason, which the API server makes a 422.
    let name = fixture.namespace.name();
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["cronjobs"], "operations": ["*"],
            }]},
            "validations": [{"expression": "false", "message": "no jobs today"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
        },
    });
    let cluster = fixture.namespace.cluster();
    for object in [&policy, &binding] {
        cluster.apply(&object.to_string()).expect("a policy");
    }
    // Policies are asked before webhooks, so that no write gets through between the two.
    wait::until("the policy denies", LONGEST, async || denies("no jobs today")).await;
    drop(admission);
    let denied = says("ValidatingAdmissionPolicy", "no jobs today").await;
    assert_eq!(denied["problem"]["fault"], "platform", "{denied}");

    // There is no further deployment.
    fixture.kubectl(&["delete", "validatingadmissionpolicybinding", name]);
    fixture.kubectl(&["delete", "validatingadmissionpolicy", name]);
    api.reached(job.name(), &version).await;
    assert!(fixture.object("cronjob", job.name()).is_some());
}

/// The worst of them: each write gets another value, so that no write is ever what was asked for.
#[tokio::test]
async fn a_webhook_that_adds_a_field_to_each_write_makes_no_loop() {
    let (fixture, proxy) = Fixture::through_proxy_with("webhook", Database::Sqlite, Node::InNameOnly, often_swept);
    let jobs = ["before-it", "after-it"].map(|name| Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass"));
    fixture.deployed_in_name(&jobs[..1]).await;
    let admission = Admission::changing(&fixture, "/spec/jobTemplate/metadata/annotations/example.com~1written");
    let added =
        |object: &Value| object["spec"]["jobTemplate"]["metadata"]["annotations"]["example.com/written"].clone();
    // An API server applies a policy some time after it was created.
    wait::until("the webhook is asked", LONGEST, async || {
        probe(&fixture).map_or_else(
            // A CronJob without annotations has no place for the field.
            |refused| refused.to_string().contains("annotations").then_some(()),
            |_| (admission.webhook.asked() > 0).then_some(()),
        )
    })
    .await;
    fixture.deployed_in_name(&jobs[1..]).await;
    assert!(added(&fixture.object("cronjob", "after-it").expect("a CronJob")).is_string());
    nothing_is_written(&fixture, &proxy).await;

    // The object from before is as it was until the next write: then both changes are there, and one is reverted.
    proxy.reset();
    for name in ["before-it", "after-it"] {
        patch(&fixture, name, &json!({"spec": {"schedule": "* * * * *"}}));
        fixture
            .becomes("it is put back", "cronjob", name, |object| {
                object.is_some_and(|object| object["spec"]["schedule"] == "0 3 * * *" && added(object).is_string())
            })
            .await;
    }
    two_sweeps(&fixture).await;
    let replaced = ("PUT".to_owned(), "/apis/batch/v1/namespaces/{namespace}/cronjobs/{name}".to_owned());
    assert_eq!(proxy.accepted_writes().get(&replaced), Some(&2), "one write an edit: {:?}", proxy.writes());
    nothing_is_written(&fixture, &proxy).await;
}

#[tokio::test]
async fn the_secrets_of_a_job_go_with_it() {
    let fixture = Fixture::new("secrets", Database::Sqlite, Node::InNameOnly);
    let api = fixture.api();
    let (name, secret) = ("goes-away", "data-job-keytab-goes-away");
    fixture.deployed_in_name(&[Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass")]).await;
    assert!(fixture.object("secret", secret).is_some());
    fixture.kubectl(&["create", "secret", "generic", "data-job-keytab-of-theirs"]);
    let _ = api.delete(&format!("/jobs/{name}")).await.ok();
    fixture.becomes("it goes", "secret", secret, |object| object.is_none()).await;
    assert!(fixture.object("cronjob", name).is_none());
    assert!(fixture.object("secret", "data-job-keytab-of-theirs").is_some());
}
