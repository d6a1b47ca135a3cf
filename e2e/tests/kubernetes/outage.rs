//! One of the two is away, the service or the API server, and the other continues.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    process::{Child, Stdio},
};

use devtools::cluster::{Cluster, Namespace};
use e2e::{count, job::Job, wait};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use testing::{Database, for_each_database};

use crate::fixture::{Fixture, LONGEST, Node};

/// The history of all Jobs since it was begun, independent of the service.
struct Witness {
    told: NamedTempFile,
    kubectl: RefCell<Child>,
    cluster: Cluster,
    namespace: String,
}

impl Witness {
    fn of(namespace: &Namespace) -> Self {
        let told = NamedTempFile::new().expect("a file");
        let (cluster, namespace) = (namespace.cluster().clone(), namespace.name().to_owned());
        let kubectl = RefCell::new(Self::watch(&cluster, &namespace, &told));
        Self { told, kubectl, cluster, namespace }
    }

    /// Adds to the events, from now on.
    fn watch(cluster: &Cluster, namespace: &str, told: &NamedTempFile) -> Child {
        let line = r#"jsonpath={.metadata.name} {.status.conditions[?(@.status=="True")].type}{"\n"}"#;
        cluster
            .kubectl()
            .args(["--namespace", namespace, "get", "jobs", "--watch", "-o", line])
            .stdout(File::options().append(true).open(told.path()).expect("the file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl")
    }

    /// The Jobs, and how they ended as far as they have.
    fn jobs(&self) -> BTreeMap<String, Option<&'static str>> {
        {
            // An overloaded server ends watches; the next one reports the existing objects again.
            let mut kubectl = self.kubectl.borrow_mut();
            if kubectl.try_wait().expect("kubectl").is_some() {
                *kubectl = Self::watch(&self.cluster, &self.namespace, &self.told);
            }
        }
        let text = std::fs::read_to_string(self.told.path()).expect("what was told");
        let mut jobs = BTreeMap::new();
        // The last line may not be whole yet, and a server that ends a watch may tell why in an object without a name.
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        for line in lines.filter(|line| !line.starts_with(' ')) {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default().to_owned();
            let end = words.find_map(|word| ["Complete", "Failed"].into_iter().find(|end| *end == word));
            let known = jobs.entry(name).or_insert(None);
            *known = end.or(*known);
        }
        jobs
    }

    /// Whether each of these jobs had so many Jobs that are over, beside these.
    fn had(&self, names: &[String], ticks: usize, beside: &BTreeSet<String>) -> bool {
        let jobs = self.jobs();
        let over = || jobs.iter().filter(|(name, end)| end.is_some() && !beside.contains(*name));
        let of = |name: &str, job: &str| name.rsplit_once('-').is_some_and(|(of, _)| of == job);
        names.iter().all(|job| over().filter(|(name, _)| of(name, job)).count() >= ticks)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let kubectl = self.kubectl.get_mut();
        let _ = kubectl.kill();
        let _ = kubectl.wait();
    }
}

/// All executions by id.
async fn rows(fixture: &Fixture, names: &[String]) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    for name in names {
        for execution in fixture.api().executions(name).await {
            let id = execution["id"].as_str().expect("id").to_owned();
            assert!(rows.insert(id, execution).is_none(), "each Job has one row");
        }
    }
    rows
}

fn is_over(row: &Value) -> bool {
    !matches!(row["status"].as_str(), Some("submitted" | "running"))
}

/// Waits until all CronJobs are, or none of them is.
async fn suspended(fixture: &Fixture, all: bool) {
    wait::until(format!("all CronJobs are suspended: {all}"), LONGEST, async || {
        let told = fixture.kubectl(&["get", "cronjobs", "-o", "jsonpath={.items[*].spec.suspend}"]);
        told.split(' ').all(|is| is == all.to_string()).then_some(())
    })
    .await;
}

/// Has jobs run each minute for some ticks, with the service away for those in the middle, and gives the rows, which are
/// exactly those of the Jobs that the cluster made.
async fn ticks_without_service(
    fixture: &mut Fixture,
    names: &[String],
    ticks: usize,
    away: usize,
) -> BTreeMap<String, Value> {
    let witness = Witness::of(&fixture.namespace);
    for name in names {
        let schedule = json!({"config": {"schedule": {"schedule_cron": "* * * * *"}}});
        let _ = fixture.api().put(&format!("/jobs/{name}"), &schedule).await.is(200);
    }
    suspended(fixture, false).await;
    // It dies in the middle of recording a tick.
    let before = rows(fixture, names).await.len();
    wait::until("a tick has a row", LONGEST, async || (rows(fixture, names).await.len() > before).then_some(())).await;
    fixture.service.kill();
    let before: BTreeSet<_> = witness.jobs().into_keys().collect();
    let longest = LONGEST * u32::try_from(away).expect("a count");
    let alone = async || witness.had(names, away, &before).then_some(());
    wait::until("ticks that are not recorded", longest, alone).await;
    let _ = fixture.service.start_again();
    let longest = LONGEST * u32::try_from(ticks).expect("a count");
    wait::until("ticks after it", longest, async || witness.had(names, ticks, &BTreeSet::new()).then_some(())).await;

    for name in names {
        let path = format!("/jobs/{name}/deployments/production");
        let _ = fixture.api().patch(&path, &json!({"enabled": false})).await.is(202);
    }
    suspended(fixture, true).await;
    wait::until("recorded Jobs are deleted", LONGEST, async || {
        fixture.kubectl(&["get", "jobs", "-o", "name"]).is_empty().then_some(())
    })
    .await;
    let rows = rows(fixture, names).await;
    // Its events may come a moment later.
    let all = async || (witness.jobs().len() >= rows.len()).then_some(());
    let _ = wait::attempt(wait::SOON, all).await;
    let jobs = witness.jobs();
    assert_eq!(jobs.keys().collect::<Vec<_>>(), rows.keys().collect::<Vec<_>>(), "a row for each Job, and no other");
    for (id, row) in &rows {
        assert!(is_over(row), "{row}");
        let well = row["status"] == "succeeded";
        assert_eq!(jobs[id], Some(if well { "Complete" } else { "Failed" }), "{row}");
    }
    rows
}

for_each_database!(each_run_of_a_tick_has_its_one_row_though_the_service_was_away);

async fn each_run_of_a_tick_has_its_one_row_though_the_service_was_away(on: Database) {
    // 60 runs, and 2,000 in the long tests.
    let (jobs, ticks, away) = (count(20, 200), count(3, 10), count(1, 4));
    let mut fixture = Fixture::new("away", on, Node::InNameOnly);
    let names: Vec<String> = (0..jobs).map(|number| format!("ticks-{number:03}")).collect();
    let api = fixture.api();
    for name in &names {
        // No image is pulled there.
        let _ = api.create(name).await.is(201);
        let version = api.deploy(&Job::new(name).step("10_step.py", "pass")).await;
        api.reached(name, &version).await;
    }
    let rows = ticks_without_service(&mut fixture, &names, ticks, away).await;
    assert!(rows.len() >= jobs * ticks);
    assert!(rows.values().all(|row| row["status"] == "succeeded"));
}

#[tokio::test]
async fn runs_that_ended_while_the_service_was_away_have_their_true_status_and_log() {
    // The client asks the service first whether another run is active, and continues without an answer after some minutes.
    let mut fixture = Fixture::with("logs", Database::Sqlite, Node::Real, |options| {
        options
            .set("HOLDFAST_VDK_OPTIONS_FILE", "{folder}/options.ini")
            .file("options.ini", "[default]\nVDK_EXECUTION_SKIP_CHECKER_ENABLED = false\n")
    });
    let names = ["goes-well", "goes-wrong"].map(ToOwned::to_owned);
    for (name, last) in names.iter().zip(["pass", "raise ValueError('a wrong value')"]) {
        let body = format!("print('this is', os.environ['VDK_EXECUTION_ID'], flush=True)\n{last}");
        fixture.deployed(&Job::new(name).step("10_step.py", &body)).await;
    }
    let rows = ticks_without_service(&mut fixture, &names, 2, 1).await;
    for (id, row) in &rows {
        let name = row["job_name"].as_str().expect("job_name");
        let status = if name == "goes-well" { "succeeded" } else { "user_error" };
        assert_eq!(row["status"], status, "{row}");
        let log = fixture.api().log(name, id).await;
        assert!(log.contains(&format!("this is {id}")), "{row}\n{log}");
    }
}

#[tokio::test]
async fn while_the_api_server_is_away_the_service_answers_and_nothing_is_lost_or_done_twice() {
    let (fixture, proxy) = Fixture::through_proxy("cut", Database::Sqlite, Node::Real);
    let api = fixture.api();
    let (runs, waits, changes) = ("runs-on", "is-held", "is-changed");
    let body = "print('begun', flush=True)\nwhile not os.path.exists('/var/tmp/end'): time.sleep(0.2)\nprint('done')";
    fixture.deployed(&Job::new(runs).step("10_step.py", body)).await;
    fixture.deployed(&Job::new(waits).step("10_step.py", "print('begun')")).await;
    fixture.deployed(&Job::new(changes).schedule("0 3 * * *").step("10_step.py", "pass")).await;
    let run = api.started(runs).await;
    wait::until("it runs", LONGEST, async || (api.execution(runs, &run).await["status"] == "running").then_some(()))
        .await;
    let deployments = format!("/jobs/{changes}/deployments");
    let reached = async |job: &str| api.get(&format!("/jobs/{job}/deployments")).await.ok().json();
    let (before, of_others) = (reached(changes).await, reached(runs).await);

    proxy.cut();
    let change = json!({"resources": {"memory_request": 48, "memory_limit": 480}});
    let _ = api.patch(&format!("{deployments}/production"), &change).await.is(202);
    let start = api.started(waits).await;
    let rollout = wait::until("the rollout says why", LONGEST, async || {
        let rollout = api.get(&format!("{deployments}/production/rollout")).await.ok().json();
        rollout["problem"].to_string().contains("API server can't be reached").then_some(rollout)
    })
    .await;
    assert_ne!(rollout["phase"], "rolled_out", "{rollout}");
    let pods = format!("--selector=batch.kubernetes.io/job-name={run}");
    let pod = fixture.kubectl(&["get", "pods", &pods, "-o", "jsonpath={.items[0].metadata.name}"]);
    fixture.kubectl(&["exec", &pod, "-c", runs, "--", "touch", "/var/tmp/end"]);
    fixture.kubectl(&["wait", "--for=condition=Complete", &format!("job/{run}"), "--timeout=180s"]);
    let _ = api.get_at(&format!("{}/readyz", fixture.service.url())).await.is(200);
    assert_eq!(reached(runs).await, of_others, "an unchanged deployment is no worse");
    let mut during = reached(changes).await;
    assert_eq!(during[0]["status"], "PLATFORM_ERROR", "so the change went");
    during[0]["status"] = before[0]["status"].clone();
    assert_eq!(during, before, "what was reached before stays");
    assert_eq!(api.execution(runs, &run).await["status"], "running", "nobody knows better");
    assert_eq!(api.execution(waits, &start).await["status"], "submitted");

    proxy.reset();
    proxy.restore();
    let ended = fixture.ended(runs, &run).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert!(api.log(runs, &run).await.contains("done"));
    assert_eq!(fixture.ended(waits, &start).await["status"], "succeeded");
    fixture
        .becomes("the change reaches the cluster", "cronjob", changes, |cron_job| {
            cron_job.is_some_and(|cron_job| cron_job.to_string().contains("480Mi"))
        })
        .await;
    for id in [&run, &start] {
        fixture.becomes("the Job of a recorded run goes", "job", id, |job| job.is_none()).await;
    }
    wait::until("the rollout is over", LONGEST, async || {
        let rollout = api.get(&format!("{deployments}/production/rollout")).await.ok().json();
        (rollout["phase"] == "rolled_out").then_some(())
    })
    .await;
    let writes = proxy.writes();
    let of = |method: &str, resource: &str| {
        let path = format!("/apis/batch/v1/namespaces/{{namespace}}/{resource}");
        writes.get(&(method.to_owned(), path)).copied().unwrap_or_default()
    };
    // The changed CronJob; the waiting start, created and released; the two recorded Jobs. A write with a resource version is
    // again when the controller came between: letting a Job go, deleting it, and entering it in its CronJob's status.
    let told = [of("PUT", "cronjobs/{name}"), of("POST", "jobs")];
    assert_eq!(told, [1, 1], "{writes:?}");
    assert!((1..=2).contains(&of("PATCH", "jobs/{name}")), "{writes:?}");
    assert!((2..=4).contains(&of("DELETE", "jobs/{name}")), "{writes:?}");
    assert_eq!(of("POST", "cronjobs") + of("DELETE", "cronjobs/{name}"), 0, "{writes:?}");
}
