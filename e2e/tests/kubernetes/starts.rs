//! Starts and ticks: a job runs once at a time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
};

use e2e::{api::Api, job::Job, wait};
use serde_json::Value;
use testing::Database;
use tokio::task::JoinSet;

use crate::{
    fixture::{self, Fixture, LONGEST, Node},
    history::{History, JobHistory},
};

fn scheduled(executions: &[Value]) -> Vec<&Value> {
    executions.iter().filter(|e| e["type"] == "scheduled").collect()
}

/// The instant in seconds since 1970 of the tick that an execution's id tells.
fn tick(execution: &Value) -> u64 {
    fixture::tick(execution) * 60
}

#[tokio::test]
async fn a_manual_run_keeps_ticks_away_until_it_is_over() {
    let fixture = Fixture::new("forbid", Database::Sqlite, Node::Real);
    let api = fixture.api();
    let name = "runs-long";
    let body = "print('begun', flush=True)\ntime.sleep(job_input.get_arguments().get('seconds', 0))";
    fixture.deployed(&Job::new(name).schedule("* * * * *").step("10_step.py", body)).await;
    // Begun in the middle of a minute, so that it runs when the tick comes. On a busy machine the run of the tick before may still
    // continue then.
    for _ in 0..5 {
        wait::second_of_minute(20).await;
        if api.executions(name).await.iter().all(is_over) {
            break;
        }
    }
    let arguments = serde_json::json!({"args": {"seconds": 60}, "started_by": "a person"});
    let id =
        api.post(&format!("/jobs/{name}/deployments/production/executions"), &arguments).await.is(202).location_id();
    wait::until("it runs", LONGEST, async || (api.execution(name, &id).await["status"] == "running").then_some(()))
        .await;
    let ended = fixture.ended(name, &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let (start, end) = (seconds(&ended["start_time"]), seconds(&ended["end_time"]));
    let held = wait::until("the tick that was held back runs after it", LONGEST, async || {
        scheduled(&api.executions(name).await).into_iter().find(|e| tick(e) > start).cloned()
    })
    .await;
    let ended = fixture.ended(name, held["id"].as_str().expect("id")).await;
    assert!(seconds(&ended["start_time"]) >= end, "{ended} began before the end of {id} at {end}");
}

fn seconds(time: &Value) -> u64 {
    let at: jiff::Timestamp = time.as_str().expect("a time").parse().expect("a time");
    u64::try_from(at.as_second()).expect("after 1970")
}

/// How long before a minute begins the first start of a race is asked for, and how long after the first one the last.
const RACE: (u64, u64) = (1500, 5000);

/// How long the controller may take until it acts upon the end of a run: no time, unless the cluster was started with
/// controllers that may make fewer calls a second than they do by default.
fn controller_hears_seconds() -> u64 {
    let calls =
        devtools::environment::variable("CONTROLLERS_QPS").and_then(|calls| calls.to_str()?.parse::<u64>().ok());
    if calls.is_some_and(|calls| calls < 20) { 5 } else { 0 }
}

fn is_over(execution: &Value) -> bool {
    !matches!(execution["status"].as_str(), Some("submitted" | "running"))
}

/// Every execution of these jobs by its id.
async fn rows(api: &Api, jobs: &[String]) -> HashMap<String, Value> {
    let mut rows = HashMap::new();
    for job in jobs {
        for row in api.executions(job).await {
            rows.insert(row["id"].as_str().expect("id").to_owned(), row);
        }
    }
    rows
}

/// Asks for a start at an instant, and for another as soon as the first is over: ids of those that were accepted.
async fn race(api: Api, name: String, at_millis: u64) -> Vec<String> {
    let mut accepted = Vec::new();
    wait::until_millis(at_millis).await;
    for _ in 0..2 {
        let answer = api.start(&name).await;
        if answer.status == 409 {
            // A tick came first, and its run has its row already.
            break;
        }
        let id = answer.is(202).location_id();
        accepted.push(id.clone());
        wait::until(format!("the end of {id}"), LONGEST, async || {
            is_over(&api.execution(&name, &id).await).then_some(())
        })
        .await;
    }
    accepted
}

/// The ticks of a job that have no run though the rules ask for one. A tick that waits for a run until the next one comes
/// is not run any more, nor is one of which slow controllers hear too late that the run is over.
fn unmet(jobs: &BTreeMap<String, JobHistory>, of: &str, ticks: RangeInclusive<u64>) -> Vec<u64> {
    let of_job: Vec<_> = jobs.values().filter(|job| job.of == of && job.begun.is_some()).collect();
    let is_run = |tick: u64| of_job.iter().any(|job| job.tick == Some(tick));
    let is_held_at = |second: u64| {
        let until = second - controller_hears_seconds();
        of_job.iter().any(|job| job.created <= second && job.completion.is_none_or(|completion| completion >= until))
    };
    ticks.filter(|tick| !is_run(*tick) && !is_held_at((tick + 1) * 60)).collect()
}

/// Whether the controller is done with a tick of a job: it ran it, or one after it.
fn is_done_with(jobs: &BTreeMap<String, JobHistory>, of: &str, tick: u64) -> bool {
    jobs.values().any(|job| job.of == of && job.tick.is_some_and(|ran| ran >= tick))
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "how often which of two came first is chance, and worth to know")]
async fn of_a_start_and_a_tick_at_one_instant_each_runs_alone() {
    // 20 jobs in two minutes; with HOLDFAST_TEST_LONG=1 40 jobs in four, and so hundreds of starts that race with 160 ticks.
    // Many more are more than the controllers do in a minute.
    let (jobs_max, minutes) = (e2e::count(20, 40), e2e::count(2, 4) as u64);
    let fixture = Fixture::new("races", Database::Sqlite, Node::InNameOnly);
    let api = fixture.api();
    let (history, pods) = (History::of(&fixture.namespace, "jobs"), History::of(&fixture.namespace, "pods"));
    let names: Vec<_> = (0..jobs_max).map(|n| format!("races-{n}")).collect();
    let jobs: Vec<_> =
        names.iter().map(|name| Job::new(name).schedule("* * * * *").step("10_step.py", "pass")).collect();
    fixture.deployed_in_name(&jobs).await;
    // All of them are there from this minute on.
    let first = wait::now_seconds() / 60 + 1;
    let mut accepted = Vec::new();
    let mut minute = first;
    for _ in 0..minutes {
        minute = wait::now_seconds() / 60 + 1;
        let mut races = JoinSet::new();
        for (n, name) in names.iter().enumerate() {
            let at = minute * 60_000 - RACE.0 + RACE.1 * n as u64 / jobs_max as u64;
            races.spawn(race(api.clone(), name.clone(), at));
        }
        for ids in races.join_all().await {
            accepted.extend(ids);
        }
    }
    let last = minute;

    // All of it comes to rest.
    let rows = wait::until("each run up to the last race is over", LONGEST, async || {
        let rows = rows(&api, &names).await;
        let jobs = history.jobs();
        let counts = |job: &JobHistory| job.tick.is_none_or(|tick| tick <= last);
        let at_rest = jobs.values().filter(|job| counts(job)).all(|job| job.is_gone);
        let is_done = names.iter().all(|name| is_done_with(&jobs, name, last));
        (at_rest && is_done && accepted.iter().all(|id| is_over(&rows[id]))).then_some(rows)
    })
    .await;
    let jobs = history.jobs();
    let with_pod: BTreeSet<_> = pods
        .events()
        .iter()
        .filter_map(|event| event["object"]["metadata"]["labels"]["batch.kubernetes.io/job-name"].as_str())
        .map(str::to_owned)
        .collect();

    // No two runs of a job at once, in the order in which the API server told it, and by the times of the Jobs; and each
    // tick ran, unless it had to wait for too long.
    for name in &names {
        let mut runs: Vec<_> = jobs.iter().filter(|(_, job)| job.of == *name && job.begun.is_some()).collect();
        runs.sort_by_key(|(_, job)| job.begun);
        for pair in runs.windows(2) {
            let [(before, a), (after, b)] = pair else { continue };
            assert!(a.over.is_some_and(|over| Some(over) < b.begun), "{before} and {after} overlap: {a:?} {b:?}");
            assert!(b.start.is_none() || a.completion <= b.start, "{before} and {after} overlap: {a:?} {b:?}");
        }
        let unmet = unmet(&jobs, name, first..=last);
        assert!(unmet.is_empty(), "ticks of {name} that did not run: {unmet:?} of {first} to {last}: {runs:?}");
    }
    // Each start ran once, or stepped aside and ran nothing.
    let (mut ran, mut skipped, mut held) = (0, 0, 0);
    for id in &accepted {
        let (row, job) = (&rows[id], jobs.get(id));
        let begun = job.and_then(|job| job.begun);
        match row["status"].as_str() {
            Some("succeeded") => {
                assert!(begun.is_some() && with_pod.contains(id), "{row} {job:?}");
                ran += 1;
            }
            Some("skipped") => {
                assert!(begun.is_none() && !with_pod.contains(id), "{row} {job:?}");
                skipped += 1;
            }
            _ => panic!("{row} {job:?}"),
        }
    }
    // Each ran once at most and has one row, and each row a Job.
    for (name, job) in &jobs {
        assert!(job.ran.len() <= 1, "{name}: {job:?}");
        assert!(rows.contains_key(name) || job.tick.is_some_and(|tick| tick > last), "{name} has no row: {job:?}");
        held += usize::from(job.tick.is_some_and(|tick| job.start.is_some_and(|start| start > tick * 60 + 5)));
    }
    let without: Vec<_> = rows.keys().filter(|id| !jobs.contains_key(*id)).collect();
    assert!(without.is_empty(), "{without:?}");
    let ticks = jobs.values().filter(|job| job.tick.is_some()).count();
    eprintln!("of {} starts {ran} ran and {skipped} stepped aside; of {ticks} ticks {held} ran late", accepted.len());
    assert!(ran > 0);
}
