//! Ticks with the real controller: runs are exactly those that the rules say, and none is of a tick that lies before.

use e2e::{job::Job, wait};
use serde_json::{Value, json};
use testing::Database;

use crate::{
    fixture::{Fixture, LONGEST, Node, tick},
    history::History,
};

/// The zone of schedules that name none, which is 5 hours and 30 minutes ahead, and zones that schedules name. The minutes
/// of all of them differ from each other's and from those of UTC, and none has summer time.
const ZONES: [(&str, &str, u64); 3] = [
    ("of-default-zone", "Asia/Kolkata", 330),
    ("of-zone", "Asia/Kathmandu", 345),
    ("of-zone-too", "Australia/Eucla", 525),
];

/// Jobs that miss a tick, each in its way.
const QUIET: [&str; 4] = ["is-rescheduled", "is-enabled-again", "is-deleted", "is-suspended-by-hand"];
const THEIRS: &str = "is-theirs";

/// A CronJob as upstream makes it: an unmanaged one.
fn theirs(name: &str, schedule: &str, suspend: bool) -> Value {
    let pod = json!({
        "restartPolicy": "OnFailure",
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [{"name": name, "image": "theirs:1"}],
    });
    json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name},
        "spec": {
            "schedule": schedule,
            "timeZone": ZONES[0].1,
            "suspend": suspend,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 1800,
            "jobTemplate": {
                "metadata": {
                    "labels": {
                        "com.vmware.taurus/type": "DataJob",
                        "com.vmware.taurus/name": name,
                        "com.vmware.taurus/version": "1",
                    },
                    "annotations": {"com.vmware.taurus/execution-type": "scheduled"},
                },
                "spec": {"backoffLimit": 3, "template": {"spec": pod}},
            },
        },
    })
}

/// Each fourth minute from that one on, on a wall clock that is so many minutes ahead.
fn each_fourth(minute: u64, ahead: u64) -> String {
    format!("{}-59/4 * * * *", (minute + ahead) % 4)
}

fn job(name: &str, schedule: &str) -> Job {
    Job::new(name).schedule(schedule).step("10_step.py", "pass")
}

/// The minutes of the ticks of a job that fired.
fn ticks(history: &History, job: &str) -> Vec<u64> {
    history.jobs().values().filter(|of| of.of == job && !of.is_manual).filter_map(|of| of.tick).collect()
}

#[tokio::test]
async fn no_tick_of_the_past_fires_and_those_to_come_do_in_their_zones() {
    let mut fixture = Fixture::with("past-ticks", Database::Sqlite, Node::InNameOnly, |options| {
        options.set("HOLDFAST_TIME_ZONE", ZONES[0].1)
    });
    let history = History::of(&fixture.namespace, "jobs");
    let suspended = |object: Option<&Value>, is: bool| object.is_some_and(|o| o["spec"]["suspend"] == is);

    let begun = wait::now_seconds() / 60;
    // The last tick was seven minutes ago.
    let hourly = format!("{} * * * *", (begun + ZONES[0].2 - 7) % 60);
    let theirs = theirs(THEIRS, &hourly, true);
    fixture.namespace.apply(&theirs.to_string()).expect("their CronJob");
    let mut jobs: Vec<_> =
        QUIET.map(|name| job(name, if name == QUIET[0] { &hourly } else { "* * * * *" })).into_iter().collect();
    let soon = begun + 3;
    for ((name, zone, ahead), prefix) in ZONES.iter().zip(["", "CRON_TZ=", "TZ="]) {
        let named = if prefix.is_empty() { String::new() } else { format!("{prefix}{zone} ") };
        jobs.push(job(name, &format!("{named}{}", each_fourth(soon, *ahead))));
    }
    fixture.deployed_in_name(&jobs).await;
    let their_version = fixture.asked_for(&job(THEIRS, "* * * * *")).await;
    wait::until("the error names how to adopt theirs", LONGEST, async || {
        let rollout = fixture.api().get(&format!("/jobs/{THEIRS}/deployments/production/rollout")).await.json();
        rollout["problem"].to_string().contains("kubernetes.adopt").then_some(())
    })
    .await;
    for (name, zone, ahead) in ZONES {
        let spec = &fixture.object("cronjob", name).expect("a CronJob")["spec"];
        assert_eq!((&spec["timeZone"], &spec["schedule"]), (&json!(zone), &json!(each_fourth(soon, ahead))));
    }

    // A tick passes that the schedule of one does not have, that another one is switched off for, and that two can't fire.
    fixture.vdk().ok(&["deploy", "--disable", "-n", QUIET[1]]).await;
    fixture.becomes("it is suspended", "cronjob", QUIET[1], |o| suspended(o, true)).await;
    fixture.service.stop();
    fixture.kubectl(&["delete", "cronjob", QUIET[2]]);
    fixture.kubectl(&["patch", "cronjob", QUIET[3], "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    let missed = wait::now_seconds() / 60 + 1;
    wait::until_millis((missed * 60 + 5) * 1000).await;

    // From now on all of them have ticks again.
    fixture.service.start_again();
    fixture.reschedule(QUIET[0], "* * * * *").await;
    fixture.vdk().ok(&["deploy", "--enable", "-n", QUIET[1]]).await;
    for name in QUIET {
        fixture
            .becomes("it has ticks again", "cronjob", name, |o| {
                suspended(o, false) && o.is_some_and(|o| o["spec"]["schedule"] == "* * * * *")
            })
            .await;
    }
    // Each write makes the controller reconcile at once; another schedule alone does not.
    for name in QUIET {
        fixture.kubectl(&["annotate", "cronjob", name, "example.com/note=mine"]);
    }
    // The behaviour of the controller for a past tick of a new schedule, if nothing prevents it.
    for change in [r#"{"spec":{"schedule":"* * * * *"}}"#, r#"{"spec":{"suspend":false}}"#] {
        fixture.kubectl(&["patch", "cronjob", THEIRS, "--type=merge", "-p", change]);
    }
    let settled = wait::now_seconds() / 60;
    wait::until("their missed tick fires", LONGEST, async || {
        ticks(&history, THEIRS).iter().any(|tick| (missed..=settled).contains(tick)).then_some(())
    })
    .await;
    for name in QUIET {
        wait::until(format!("the next tick of {name}"), LONGEST, async || {
            ticks(&history, name).iter().any(|tick| *tick > settled).then_some(())
        })
        .await;
        let ticks = ticks(&history, name);
        assert!(!ticks.contains(&missed), "{name}: {ticks:?} has {missed}");
        let last = *ticks.iter().max().expect("a tick");
        for tick in settled + 1..=last {
            assert_eq!(
                ticks.iter().filter(|each| **each == tick).count(),
                1,
                "{name}: {ticks:?}, not each once after {settled}"
            );
        }
    }
    assert!(ticks(&history, QUIET[0]).iter().all(|tick| *tick > missed), "it had no tick before");

    // Theirs is theirs, and fires for them alone.
    let now = fixture.object("cronjob", THEIRS).expect("their CronJob");
    assert_eq!(now["spec"]["jobTemplate"]["metadata"], theirs["spec"]["jobTemplate"]["metadata"]);
    assert_eq!((&now["metadata"]["generation"], &now["metadata"]["labels"]), (&json!(3), &Value::Null), "{now}");
    assert_eq!(fixture.api().executions(THEIRS).await, Vec::<Value>::new());
    // When it is gone, ours comes, and begins with the next tick.
    let fired = ticks(&history, THEIRS);
    fixture.kubectl(&["delete", "cronjob", THEIRS]);
    fixture.api().reached(THEIRS, &their_version).await;
    let first = wait::until("the first tick of ours", LONGEST, async || {
        fixture.api().executions(THEIRS).await.into_iter().next()
    })
    .await;
    assert!(!fired.contains(&tick(&first)), "{first} was run before: {fired:?}");

    for (name, zone, _) in ZONES {
        // The next one comes within four minutes.
        wait::until(format!("a tick of {name}"), LONGEST * 2, async || {
            (!ticks(&history, name).is_empty()).then_some(())
        })
        .await;
        let ticks = ticks(&history, name);
        assert!(ticks.iter().all(|tick| tick % 4 == soon % 4), "{name} in {zone}: {ticks:?}, from {soon} on");
    }

    // Each tick ran once and has one row.
    for name in QUIET.iter().chain(ZONES.iter().map(|(name, ..)| name)) {
        wait::until(format!("each run of {name} has its row"), LONGEST, async || {
            let mut rows: Vec<_> = fixture.api().executions(name).await.iter().map(tick).collect();
            rows.sort_unstable();
            (rows == ticks(&history, name)).then_some(())
        })
        .await;
    }
    let jobs = history.jobs();
    let twice: Vec<_> = jobs.iter().filter(|(_, job)| job.ran.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// The service of the one that made them is shut down, and its jobs are deployed again: shortly before a tick, with a tick that
/// was missed, and with a run in progress.
#[tokio::test]
async fn a_cron_job_of_another_control_service_is_taken_over_shortly_before_a_tick() {
    let fixture = Fixture::with("taken-over", Database::Sqlite, Node::InNameOnly, |options| {
        options.set("HOLDFAST_TIME_ZONE", ZONES[0].1).set("HOLDFAST_KUBERNETES_ADOPT", "true")
    });
    let history = History::of(&fixture.namespace, "jobs");
    let (firing, missed, busy, foreign, not_asked) =
        ("is-firing", "has-missed", "is-busy", "is-no-job", "is-not-asked");
    let objects = [
        theirs(firing, "* * * * *", false),
        theirs(missed, "* * * * *", true),
        theirs(busy, "0 0 1 1 *", false),
        theirs(not_asked, "0 0 1 1 *", false),
    ];
    for object in &objects {
        fixture.namespace.apply(&object.to_string()).expect("their CronJob");
    }
    fixture.kubectl(&["create", "cronjob", foreign, "--image=mine:1", "--schedule=0 0 1 1 *"]);
    let uid = |name: &str| fixture.object("cronjob", name).expect("a CronJob")["metadata"]["uid"].clone();
    let uids = [firing, missed, busy].map(uid);
    let run = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": "is-busy-1",
            "labels": objects[2]["spec"]["jobTemplate"]["metadata"]["labels"],
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": busy, "uid": uids[2], "controller": true}],
        },
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "nodeSelector": {"there-is": "no-such-node"},
            "containers": [{"name": busy, "image": "theirs:1"}],
        }}},
    });
    fixture.namespace.apply(&run.to_string()).expect("their run");
    wait::until("theirs fires", LONGEST, async || (!ticks(&history, firing).is_empty()).then_some(())).await;

    // Twelve seconds for what takes two.
    wait::second_of_minute(48).await;
    let next = wait::now_seconds() / 60 + 1;
    let mut versions = Vec::new();
    for name in [firing, missed, busy, foreign] {
        let schedule = if name == firing || name == missed { "* * * * *" } else { "0 0 1 1 *" };
        versions.push(fixture.asked_for(&job(name, schedule)).await);
    }
    for (name, version) in [firing, missed, busy].iter().zip(&versions) {
        fixture.api().reached(name, version).await;
    }
    for (name, before) in [firing, missed, busy].iter().zip(&uids) {
        let now = fixture.object("cronjob", name).expect("a CronJob");
        assert_eq!(&now["metadata"]["uid"], before, "it is the same one");
        assert!(now["metadata"]["labels"]["holdfast/job-id"].is_string(), "and ours: {now}");
    }

    for name in [firing, missed] {
        let ticks = wait::until(format!("two ticks of {name}"), LONGEST, async || {
            let ticks = ticks(&history, name);
            ticks.contains(&(next + 1)).then_some(ticks)
        })
        .await;
        let last = *ticks.iter().max().expect("a tick");
        for tick in next..=last {
            assert_eq!(
                ticks.iter().filter(|each| **each == tick).count(),
                1,
                "{name}: {ticks:?}, not each once from {next}"
            );
        }
        if name == missed {
            assert!(
                ticks.iter().all(|tick| *tick >= next),
                "{ticks:?}: what was missed before {next} is not made up for"
            );
        }
        wait::until(format!("each run of {name} since then has its row"), LONGEST, async || {
            let mut rows: Vec<_> = fixture.api().executions(name).await.iter().map(tick).collect();
            rows.sort_unstable();
            let mut of_ours: Vec<_> = self::ticks(&history, name).into_iter().filter(|tick| *tick >= next).collect();
            of_ours.sort_unstable();
            (rows == of_ours).then_some(())
        })
        .await;
    }
    // A run that began under the former service is one that a start must not join.
    let id = fixture.api().started(busy).await;
    assert_eq!(fixture.ended(busy, &id).await["status"], "skipped");

    // Objects of no data job, or that were not deployed here, are left alone.
    let rollout = wait::until("the rollout says why", LONGEST, async || {
        let rollout = fixture.api().get(&format!("/jobs/{foreign}/deployments/production/rollout")).await.json();
        rollout["problem"].to_string().contains("cron_job_unmanaged").then_some(rollout)
    })
    .await;
    assert_ne!(rollout["phase"], "rolled_out", "{rollout}");
    for name in [foreign, not_asked] {
        let now = fixture.object("cronjob", name).expect("a CronJob");
        assert_eq!((&now["metadata"]["generation"], &now["metadata"]["labels"]), (&json!(1), &Value::Null), "{now}");
    }
    let jobs = history.jobs();
    let twice: Vec<_> = jobs.iter().filter(|(_, job)| job.ran.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
