//! Pages of jobs and executions: each strategy returns the same rows.

mod support;

use jiff::Timestamp;
use model::{
    execution::{Execution, Status, Type},
    job::DataJob,
    name::JobName,
    rollout::Status as DeploymentStatus,
};
use store::{
    Db, Tx, counts,
    deployments::{self, Deployed, DeploymentDetail, Reached},
    executions::{self, Detail, ExecutionQuery, ExecutionSort},
    jobs::{self, DeploymentFilter, JobQuery, JobSort, Measure, Search, SearchField, With},
    retention,
};
use support::{job, raw, team};
use testing::{Database, Fresh, for_each_database};

for_each_database!(
    a_page_is_the_same_whether_its_jobs_are_found_or_met_along_the_order,
    jobs_are_sorted_by_the_value_of_each_property,
    the_number_of_all_jobs_follows_every_change,
    executions_are_sorted_by_the_value_of_each_property,
    pages_of_many_found_jobs_follow_each_other_by_name,
    words_are_found_in_any_case_and_follow_every_change,
    a_text_is_compared_as_a_whole_however_long_it_is,
    rows_of_an_older_program_are_completed_at_the_next_start,
    runs_of_a_page_of_jobs_are_the_newest_of_each,
    a_page_of_jobs_brings_along_what_other_statements_find,
    executions_have_their_revision_where_neighbours_have_another_one,
    runs_of_a_page_of_jobs_are_in_the_order_of_the_list_of_each_job,
    runs_are_sorted_by_each_property_and_counted_without_those_of_deleted_jobs,
    runs_since_a_time_are_counted_by_hours_and_every_change_of_a_run_counts,
);

const NOW: i64 = 1_732_300_000;
const JOBS: usize = 120;

/// So many that a seventh of them are more than are sorted lightly.
const MANY_JOBS: usize = 8000;

const SORTS: [JobSort; 13] = [
    JobSort::Name,
    JobSort::Team,
    JobSort::Description,
    JobSort::NextRun,
    JobSort::Contacts,
    JobSort::DeploymentStatus,
    JobSort::DeploymentEnabled,
    JobSort::Python,
    JobSort::LastExecutionStatus,
    JobSort::LastExecutionTime,
    JobSort::LastExecutionDuration,
    JobSort::SuccessfulExecutions,
    JobSort::FailedExecutions,
];

const EXECUTION_SORTS: [ExecutionSort; 15] = [
    ExecutionSort::StartTime,
    ExecutionSort::EndTime,
    ExecutionSort::Status,
    ExecutionSort::Type,
    ExecutionSort::JobName,
    ExecutionSort::Id,
    ExecutionSort::StartedBy,
    ExecutionSort::Message,
    ExecutionSort::OpId,
    ExecutionSort::Team,
    ExecutionSort::JobVersion,
    ExecutionSort::VdkVersion,
    ExecutionSort::Schedule,
    ExecutionSort::DeployedAt,
    ExecutionSort::DeployedBy,
];

/// A database with a small fleet of the benchmarks.
async fn filled(on: Database) -> (Fresh, Db) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    fill_with(&db, JOBS, 5).await;
    (fresh, db)
}

/// Gives jobs and executions different values of each property.
async fn vary(tx: &mut Tx) {
    for statement in VARIED {
        raw(tx, statement).await;
    }
}

async fn fill_with(db: &Db, jobs: usize, runs: usize) {
    let mut tx = db.write().await.unwrap();
    for statement in include_str!("../examples/fill.sql").split(";\n") {
        let sql = statement
            .replace("{jobs}", &jobs.to_string())
            .replace("{runs}", &runs.to_string())
            .replace("{schedules}", "30")
            .replace("{now}", &NOW.to_string());
        raw(&mut tx, sql).await;
    }
    tx.commit().await.unwrap();
}

fn names(page: Vec<jobs::JobSummary>) -> Vec<String> {
    page.into_iter().map(|summary| summary.job.name.to_string()).collect()
}

async fn a_page_is_the_same_whether_its_jobs_are_found_or_met_along_the_order(on: Database) {
    let (_fresh, db) = filled(on).await;
    let search = |text: &str, fields: &[SearchField]| JobQuery {
        search: Some(Search { text: text.into(), fields: fields.to_vec() }),
        ..JobQuery::default()
    };
    let range = |measure, least, most| JobQuery { ranges: vec![(measure, least, most)], ..JobQuery::default() };
    let filters = [
        JobQuery::default(),
        JobQuery { names: vec!["DAILY-sales-000000".into()], ..JobQuery::default() },
        JobQuery { names: vec!["daily-*".into()], ..JobQuery::default() },
        JobQuery { names: vec!["*sales*".into(), "w?ekly*".into()], ..JobQuery::default() },
        JobQuery { teams: vec!["team 0001".into()], ..JobQuery::default() },
        JobQuery { teams: vec!["TEAM*1".into()], ..JobQuery::default() },
        JobQuery { descriptions: vec!["Region 7 ".into()], pythons: vec!["3.11".into()], ..JobQuery::default() },
        JobQuery { deployment: Some(DeploymentFilter::Enabled), ..JobQuery::default() },
        JobQuery { deployment: Some(DeploymentFilter::NotDeployed), ..JobQuery::default() },
        JobQuery { deployment_status: Some(DeploymentStatus::UserError), ..JobQuery::default() },
        JobQuery { last_execution_status: Some(Status::UserError), ..JobQuery::default() },
        JobQuery { pythons: vec!["3.1".into()], ..JobQuery::default() },
        JobQuery { pythons: vec!["3.1".into(), "12".into()], ..JobQuery::default() },
        JobQuery { pythons: vec!["2.7".into()], ..JobQuery::default() },
        JobQuery {
            pythons: vec![".11".into()],
            last_execution_status: Some(Status::Succeeded),
            deployment_status: Some(DeploymentStatus::Success),
            deployment: Some(DeploymentFilter::Enabled),
            ..JobQuery::default()
        },
        range(Measure::NextRun, NOW, NOW + 600),
        range(Measure::LastExecutionTime, NOW - 3600, NOW),
        range(Measure::LastExecutionDuration, 30, 60),
        range(Measure::FailedExecutions, 1, 9),
        range(Measure::SuccessfulExecutions, 5, 5),
        search("ORDERS", &[SearchField::Name, SearchField::Description]),
        search("es", &[SearchField::Name]),
        search("\"%_", &[SearchField::Name, SearchField::Team]),
        search("-1", &[SearchField::NextRun]),
        search("17323", &[SearchField::NextRun, SearchField::Name]),
        search("disabled", &[SearchField::DeploymentEnabled, SearchField::Name]),
        search("user_error", &[SearchField::LastExecutionStatus]),
        search("3.12", &[SearchField::Python, SearchField::Cron]),
        search("x", &[]),
    ];
    let mut tx = db.read().await.unwrap();
    for filter in filters {
        let count = jobs::count(&mut tx, &filter).await.unwrap();
        for sort in SORTS {
            for descending in [false, true] {
                let all = JobQuery { sort, descending, limit: 1000, ..filter.clone() };
                // Up to a thousand are found and sorted; the second number says that there are more.
                let found = names(jobs::page_of(&mut tx, &all, Some(1000), &With::default()).await.unwrap().jobs);
                let met = names(jobs::page_of(&mut tx, &all, Some(2000), &With::default()).await.unwrap().jobs);
                assert_eq!(found, met, "{all:?}");
                assert_eq!(i64::try_from(found.len()), Ok(count), "{all:?}");
                let second = JobQuery { limit: 7, offset: 7, ..all.clone() };
                let expected: Vec<_> = found.iter().skip(7).take(7).cloned().collect();
                assert_eq!(names(jobs::page(&mut tx, &second).await.unwrap()), expected, "{second:?}");
            }
        }
    }
    let late = JobQuery { sort: JobSort::NextRun, limit: 20, offset: 80, ..JobQuery::default() };
    let all = names(jobs::page(&mut tx, &JobQuery { limit: 1000, offset: 0, ..late.clone() }).await.unwrap());
    assert_eq!(names(jobs::page(&mut tx, &late).await.unwrap()), all[80..100], "across the end of the schedules");
}

/// Whether a job belongs to what a query finds.
type Is = fn(&jobs::JobSummary) -> bool;

async fn pages_of_many_found_jobs_follow_each_other_by_name(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    fill_with(&db, MANY_JOBS, 1).await;
    let mut tx = db.write().await.unwrap();
    // PostgreSQL asks its statistics whether many are a part of all.
    raw(&mut tx, "analyze").await;
    let found = async |tx: &mut Tx, query: &JobQuery| -> Vec<jobs::JobSummary> {
        let count = jobs::count(tx, query).await.unwrap();
        let all = JobQuery { limit: 10_000, ..query.clone() };
        let page = jobs::page_of(tx, &all, Some(count), &With::default()).await.unwrap().jobs;
        assert_eq!(i64::try_from(page.len()), Ok(count), "{all:?}");
        page
    };
    let everything = found(&mut tx, &JobQuery::default()).await;
    assert_eq!(everything.len(), MANY_JOBS);
    let search = Search { text: "SALES".into(), fields: vec![SearchField::Name, SearchField::Description] };
    let cases: [(JobQuery, Is); 4] = [
        (JobQuery { search: Some(search), ..JobQuery::default() }, |job| job.job.name.as_str().contains("sales")),
        (JobQuery { descriptions: vec!["region 7 ".into()], ..JobQuery::default() }, |job| {
            job.job.description.contains("region 7 ")
        }),
        (JobQuery { last_execution_status: Some(Status::UserError), ..JobQuery::default() }, |job| {
            job.last_execution_status == Some(Status::UserError)
        }),
        (JobQuery { deployment: Some(DeploymentFilter::NotDeployed), ..JobQuery::default() }, |job| {
            job.deployment_enabled.is_none()
        }),
    ];
    for (query, is) in cases {
        for descending in [false, true] {
            let query = JobQuery { descending, ..query.clone() };
            let mut expected = names(everything.iter().filter(|job| is(job)).cloned().collect());
            if descending {
                expected.reverse();
            }
            assert_eq!(names(found(&mut tx, &query).await), expected, "{query:?}");
            for offset in [0, 50, i64::try_from(expected.len()).unwrap() - 20] {
                let page = JobQuery { limit: 50, offset, ..query.clone() };
                let count = i64::try_from(expected.len()).ok();
                let part = usize::try_from(offset).unwrap()..expected.len().min(usize::try_from(offset).unwrap() + 50);
                let found = jobs::page_of(&mut tx, &page, count, &With::default()).await.unwrap().jobs;
                assert_eq!(names(found), expected[part], "{page:?}");
            }
        }
    }
}

/// A value that a list is sorted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Number(i64),
    Text(String),
}

fn number(value: impl Into<i64>) -> Key {
    Key::Number(value.into())
}

fn text(value: impl Into<String>) -> Key {
    Key::Text(value.into())
}

fn time(value: Option<Timestamp>) -> Option<Key> {
    value.map(|at| Key::Number(at.as_microsecond()))
}

/// Sorts by a key, and by a name where that is equal: what is absent comes last, in either direction.
fn sort<T>(items: &mut [T], descending: bool, key: impl Fn(&T) -> (Option<Key>, String)) {
    items.sort_by(|one, other| {
        let ((one, one_name), (other, other_name)) = (key(one), key(other));
        let absent = one.is_none().cmp(&other.is_none());
        let values = one.cmp(&other).then(one_name.cmp(&other_name));
        absent.then(if descending { values.reverse() } else { values })
    });
}

/// The key of a job by its row in the list. The Python version is not in it, and follows from the number in the job's name.
fn key_of_job(job: &jobs::JobSummary, sort: JobSort) -> Option<Key> {
    match sort {
        JobSort::Name => Some(text(job.job.name.as_str())),
        JobSort::Team => Some(text(job.job.team.as_str())),
        JobSort::Description => Some(text(job.job.description.clone())),
        JobSort::NextRun => time(job.next_run),
        JobSort::Contacts => Some(number(!job.job.config.contacts.notified_on_job_deploy.is_empty())),
        JobSort::DeploymentStatus => Some(text(job.deployment_status.as_str())),
        JobSort::DeploymentEnabled => job.deployment_enabled.map(|enabled| Key::Number(enabled.into())),
        JobSort::Python => {
            let (_, number) = job.job.name.as_str().rsplit_once('-').unwrap();
            let number = number.parse::<u32>().unwrap();
            let minor = if number.is_multiple_of(15) {
                9
            } else if number.is_multiple_of(6) {
                12
            } else {
                11
            };
            job.deployment_enabled.map(|_| Key::Number(minor))
        }
        JobSort::LastExecutionStatus => job.last_execution_status.map(|status| Key::Text(status.as_str().into())),
        JobSort::LastExecutionTime => time(job.last_execution_end),
        JobSort::LastExecutionDuration => job.last_execution_duration_seconds.map(Key::Number),
        JobSort::SuccessfulExecutions => Some(number(job.successful_executions)),
        JobSort::FailedExecutions => Some(number(job.failed_executions)),
    }
}

async fn jobs_are_sorted_by_the_value_of_each_property(on: Database) {
    let (_fresh, db) = filled(on).await;
    let mut tx = db.write().await.unwrap();
    // As a number it comes before the others, as a text after them.
    raw(
        &mut tx,
        "update data_job set deployment_python = '3.9'
         where deployment_python is not null and cast(substr(name, length(name) - 5) as integer) % 15 = 0",
    )
    .await;
    tx.commit().await.unwrap();
    let mut tx = db.read().await.unwrap();
    for property in SORTS {
        for descending in [false, true] {
            let query = JobQuery { sort: property, descending, limit: 1000, ..JobQuery::default() };
            let page = jobs::page(&mut tx, &query).await.unwrap();
            assert_eq!(page.len(), JOBS);
            let keys: std::collections::BTreeSet<_> = page.iter().map(|job| key_of_job(job, property)).collect();
            assert!(keys.len() > 1, "{property:?}: nothing to be sorted");
            let mut expected = page.clone();
            // Ascending means: enabled ones first.
            let turned = descending != (property == JobSort::DeploymentEnabled);
            sort(&mut expected, turned, |job| (key_of_job(job, property), job.job.name.to_string()));
            assert_eq!(names(page), names(expected.clone()), "{query:?}");
            let second = jobs::page(&mut tx, &JobQuery { limit: 20, offset: 20, ..query.clone() }).await.unwrap();
            assert_eq!(names(second), names(expected.clone())[20..40], "{query:?}");
            let few = JobQuery { teams: vec!["team 0000".into()], ..query };
            let found = jobs::page(&mut tx, &few).await.unwrap();
            expected.retain(|job| job.job.team.as_str() == "Team 0000");
            assert_eq!(names(found), names(expected), "{few:?}");
        }
    }
}

async fn the_number_of_all_jobs_follows_every_change(on: Database) {
    let (_fresh, db) = filled(on).await;
    let mut tx = db.write().await.unwrap();
    let check = async |tx: &mut Tx, expected: usize| {
        let query = JobQuery { limit: 1000, ..JobQuery::default() };
        let page = jobs::page(tx, &query).await.unwrap();
        assert_eq!((jobs::count(tx, &query).await.unwrap(), page.len()), (i64::try_from(expected).unwrap(), expected));
        while counts::sum_up_jobs(tx, 2).await.unwrap() == 2 {}
        assert_eq!(jobs::count(tx, &query).await.unwrap(), i64::try_from(expected).unwrap());
    };
    check(&mut tx, JOBS).await;
    let new = job(1, "new-job");
    assert!(jobs::insert(&mut tx, &new, None, "someone", Timestamp::UNIX_EPOCH).await.unwrap());
    assert!(!jobs::insert(&mut tx, &new, None, "someone", Timestamp::UNIX_EPOCH).await.unwrap());
    check(&mut tx, JOBS + 1).await;
    assert!(jobs::delete(&mut tx, new.id, "someone", None, Timestamp::UNIX_EPOCH).await.unwrap());
    check(&mut tx, JOBS).await;
    assert!(jobs::deleted::undelete(&mut tx, &new, None, Timestamp::UNIX_EPOCH).await.unwrap());
    check(&mut tx, JOBS + 1).await;
    jobs::update(&mut tx, &new, None, Timestamp::UNIX_EPOCH).await.unwrap();
    assert!(jobs::delete(&mut tx, new.id, "someone", None, Timestamp::UNIX_EPOCH).await.unwrap());
    let later = Timestamp::from_second(1).unwrap();
    assert!(retention::jobs::begin(&mut tx, new.id, later, later).await.unwrap());
    assert!(retention::jobs::remove(&mut tx, new.id, &retention::jobs::Part::Rest).await.unwrap());
    check(&mut tx, JOBS).await;
}

async fn words_are_found_in_any_case_and_follow_every_change(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let now = Timestamp::UNIX_EPOCH;
    let mut before =
        DataJob { team: team("Équipe Ä"), description: "Straße ÜBER \"alles\"".into(), ..job(1, "first-job") };
    let another = DataJob { team: team("other"), ..job(2, "second-job") };
    let mut tx = db.write().await.unwrap();
    assert!(jobs::insert(&mut tx, &before, None, "someone", now).await.unwrap());
    assert!(jobs::insert(&mut tx, &another, None, "someone", now).await.unwrap());
    let described = async |tx: &mut Tx, text: &str| {
        let query = JobQuery { descriptions: vec![text.into()], limit: 9, ..JobQuery::default() };
        let page = names(jobs::page(tx, &query).await.unwrap());
        assert_eq!(jobs::count(tx, &query).await.unwrap(), i64::try_from(page.len()).unwrap());
        page
    };
    for text in ["straße", "über", "ÜB", "\"ALLES\"", "e ü"] {
        assert_eq!(described(&mut tx, text).await, ["first-job"], "{text}");
    }
    let teams = JobQuery { teams: vec!["éQUIPE ä".into()], limit: 9, ..JobQuery::default() };
    assert_eq!(names(jobs::page(&mut tx, &teams).await.unwrap()), ["first-job"]);
    before.description = "something else".into();
    jobs::update(&mut tx, &before, None, now).await.unwrap();
    assert_eq!(described(&mut tx, "über").await, Vec::<String>::new());
    assert_eq!(described(&mut tx, "THING").await, ["first-job"]);
    assert!(jobs::delete(&mut tx, before.id, "someone", None, now).await.unwrap());
    assert_eq!(described(&mut tx, "thing").await, Vec::<String>::new());
}

async fn rows_of_an_older_program_are_completed_at_the_next_start(on: Database) {
    let (fresh, db) = filled(on).await;
    let mut tx = db.write().await.unwrap();
    raw(&mut tx, "update data_job set team_lower = null, contacts_present = null, deployment_python = null").await;
    raw(&mut tx, "delete from data_job_text").await;
    tx.commit().await.unwrap();
    db.close().await;
    let db = fresh.open().await;
    let mut tx = db.read().await.unwrap();
    for query in [
        JobQuery { teams: vec!["team 0001".into()], ..JobQuery::default() },
        JobQuery { search: Some("-000111".into()), pythons: vec!["3.1".into()], ..JobQuery::default() },
    ] {
        assert!(jobs::count(&mut tx, &query).await.unwrap() > 0, "{query:?}");
    }
}

async fn a_text_is_compared_as_a_whole_however_long_it_is(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let mut tx = db.write().await.unwrap();
    for (number, end) in [(1, "of Monday"), (2, "of Tuesday"), (3, "of Monday and Tuesday")] {
        let description = format!("The sales of all shops in all countries, the figures {end}");
        let job = DataJob { description, ..job(number, &format!("daily-sales-{number}")) };
        assert!(jobs::insert(&mut tx, &job, None, "test", Timestamp::UNIX_EPOCH).await.unwrap());
    }
    tx.commit().await.unwrap();
    let mut tx = db.read().await.unwrap();
    for (text, expected) in [
        ("SALES of all shops in all countries, the figures of monday", vec!["daily-sales-1", "daily-sales-3"]),
        ("the sales of all shops in all countries", vec!["daily-sales-1", "daily-sales-2", "daily-sales-3"]),
        ("sales of all shops in all countries, the figures of tuesday", vec!["daily-sales-2"]),
        ("sales of all shops in all countries, the figures of 100%", vec![]),
        ("shops", vec!["daily-sales-1", "daily-sales-2", "daily-sales-3"]),
    ] {
        let search = Search { text: text.into(), fields: vec![SearchField::Name, SearchField::Description] };
        for query in [
            JobQuery { descriptions: vec![text.into()], limit: 10, ..JobQuery::default() },
            JobQuery { search: Some(search.clone()), limit: 10, ..JobQuery::default() },
            JobQuery { search: Some(search.clone()), sort: JobSort::Team, limit: 10, ..JobQuery::default() },
            JobQuery { search: Some(search), teams: vec!["a team".into()], limit: 10, ..JobQuery::default() },
        ] {
            assert_eq!(jobs::count(&mut tx, &query).await.unwrap(), i64::try_from(expected.len()).unwrap(), "{text}");
            let page = jobs::page(&mut tx, &query).await.unwrap();
            let names: Vec<_> = page.iter().map(|summary| summary.job.name.as_str()).collect();
            assert_eq!(names, expected, "{text}");
        }
    }
}

async fn runs_of_a_page_of_jobs_are_the_newest_of_each(on: Database) {
    let (_fresh, db) = filled(on).await;
    let mut tx = db.read().await.unwrap();
    let page = jobs::page(&mut tx, &JobQuery { limit: 10, ..JobQuery::default() }).await.unwrap();
    let jobs: Vec<_> = page.iter().map(|summary| summary.job.id).collect();
    let query = ExecutionQuery { jobs, descending: true, limit: 3, ..ExecutionQuery::default() };
    let runs = executions::page_by_job(&mut tx, &query).await.unwrap();
    for summary in &page {
        let own: Vec<_> = runs.iter().filter(|run| run.job_id == summary.job.id).collect();
        assert_eq!(own.len(), if summary.deployment_enabled.is_some() { 3 } else { 0 });
        assert_eq!(own.first().and_then(|run| run.started_at), summary.last_execution_start);
        assert!(own.is_sorted_by_key(|run| std::cmp::Reverse(run.started_at)));
        assert!(own.iter().all(|run| run.revision.is_some()));
    }
    let second = ExecutionQuery {
        offset: 3,
        statuses: vec![Status::Succeeded],
        started_until: Timestamp::from_second(NOW).ok(),
        ..query
    };
    let whole = executions::page_by_job(&mut tx, &second).await.unwrap();
    assert!(!whole.is_empty() && whole.iter().all(|run| run.status == Status::Succeeded && run.revision.is_some()));
    // Omitted columns are empty, and the rest is as it was.
    let less = async |tx: &mut Tx, detail| {
        executions::page_by_job(tx, &ExecutionQuery { detail, ..second.clone() }).await.unwrap()
    };
    let revision =
        |run: &Execution| Execution { arguments: None, scheduled_tick: None, cancel_requested_at: None, ..run.clone() };
    assert_eq!(less(&mut tx, Detail::Revision).await, whole.iter().map(revision).collect::<Vec<_>>());
    let run = |run: &Execution| Execution { revision: None, ..revision(run) };
    assert_eq!(less(&mut tx, Detail::Run).await, whole.iter().map(run).collect::<Vec<_>>());
    let outcome = |one: &Execution| Execution { started_by: String::new(), ..run(one) };
    assert_eq!(less(&mut tx, Detail::Outcome).await, whole.iter().map(outcome).collect::<Vec<_>>());
    let status = |one: &Execution| Execution {
        kind: Type::Manual,
        op_id: String::new(),
        submitted_at: Timestamp::UNIX_EPOCH,
        started_at: None,
        ended_at: None,
        ..outcome(one)
    };
    assert_eq!(less(&mut tx, Detail::Status).await, whole.iter().map(status).collect::<Vec<_>>());
}

async fn a_page_of_jobs_brings_along_what_other_statements_find(on: Database) {
    let (_fresh, db) = filled(on).await;
    let mut tx = db.write().await.unwrap();
    for statement in VARIED {
        raw(&mut tx, statement).await;
    }
    // The desired deployments of some jobs are not the reached ones, and others were removed.
    let newer =
        "update deployment set generation = 2, enabled = not enabled, python_version = '3.9', deployed_by = 'next'
        where job_id like '%3'";
    let removed = "update deployment set removed_at = 1 where job_id like '%4'";
    let alike = "update deployment set deployed_by = 'user ' || substr(job_id, 33, 4), deployed_at = 1730419200000000
        + 1000000 * cast(substr(job_id, 36, 1) as integer) where job_id not like '%3'";
    for statement in [newer, removed, alike] {
        raw(&mut tx, statement).await;
    }
    let runs = ExecutionQuery { descending: true, limit: 3, detail: Detail::Outcome, ..ExecutionQuery::default() };
    let search = Search { text: "sales".into(), fields: vec![SearchField::Name, SearchField::Description] };
    let filters = [
        JobQuery::default(),
        JobQuery { names: vec!["daily*".into()], ..JobQuery::default() },
        JobQuery { search: Some(search), ..JobQuery::default() },
    ];
    let mut seen = [0; 2];
    for filter in filters {
        for sort in SORTS {
            for (descending, offset) in [(false, 0), (true, 7)] {
                let query = JobQuery { sort, descending, offset, limit: 9, ..filter.clone() };
                let alone = jobs::page(&mut tx, &query).await.unwrap();
                let ids: Vec<_> = alone.iter().map(|job| job.job.id).collect();
                let executions = ExecutionQuery { jobs: ids.clone(), ..runs.clone() };
                let executions = executions::page_by_job(&mut tx, &executions).await.unwrap();
                let reached = deployments::reached(&mut tx, &ids).await.unwrap();
                for detail in [DeploymentDetail::Brief, DeploymentDetail::Whole] {
                    let with = With { deployments: Some(detail), executions: Some(&runs), total: true };
                    let page = jobs::page_of(&mut tx, &query, None, &with).await.unwrap();
                    let all = jobs::count(&mut tx, &JobQuery::default()).await.unwrap();
                    assert_eq!(page.total, Some(all), "{query:?}");
                    assert_eq!(page.jobs.iter().map(|job| job.job.id).collect::<Vec<_>>(), ids, "{query:?}");
                    for job in &page.jobs {
                        let own = executions.iter().filter(|run| run.job_id == job.job.id);
                        assert!(own.eq(&job.executions), "{job:?}");
                        let reached = reached.iter().find(|reached| reached.deployment.job_id == job.job.id);
                        let deployed = reached.map(|Reached { deployment, status }| Deployed {
                            status: *status,
                            enabled: deployment.enabled,
                            python_version: deployment.python_version,
                            deployed_at: deployment.deployed_at,
                            deployed_by: deployment.deployed_by.clone(),
                            whole: job.deployed.as_ref().and_then(|deployed| deployed.whole.clone()),
                        });
                        assert_eq!(job.deployed, deployed, "{query:?}");
                        let whole = job.deployed.as_ref().and_then(|deployed| deployed.whole.as_deref());
                        seen[usize::from(whole.is_some())] += 1;
                        if detail == DeploymentDetail::Whole {
                            assert_eq!(whole, reached.map(|reached| &reached.deployment));
                        }
                    }
                }
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen > 100), "{seen:?}");
}

async fn executions_have_their_revision_where_neighbours_have_another_one(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    fill_with(&db, JOBS, 8).await;
    let mut tx = db.write().await.unwrap();
    let second = "insert into deployment_revision (job_id, generation, content, created_at, created_by)
        select job_id, 2, replace(content, '0.3.1466514302', '0.4'), created_at, created_by from deployment_revision";
    raw(&mut tx, second).await;
    // Of the executions of a job: revision 1 twice, 2, one of their own twice, 2 again, and none.
    let own = "'{\"vdk_version\":\"0.5\"}'";
    for (place, values) in [
        (2, "generation = 2"),
        (3, &*format!("revision = {own}")),
        (4, &*format!("revision = {own}, generation = 2")),
        (5, "generation = 2"),
        (6, "generation = null"),
        (7, "generation = null"),
    ] {
        let sql = format!("update data_job_execution set {values} where op_id = 'daily-sales-000000-{place}'");
        raw(&mut tx, sql).await;
    }
    for sort in [ExecutionSort::StartTime, ExecutionSort::JobVersion] {
        for descending in [true, false] {
            let query = ExecutionQuery {
                job_names: vec!["daily-sales-000000".into()],
                sort,
                descending,
                limit: 8,
                ..ExecutionQuery::default()
            };
            let alone = executions::page(&mut tx, &query).await.unwrap();
            let mut versions: Vec<_> =
                alone.iter().map(|run| run.revision.as_ref().and_then(|it| it.vdk_version.clone())).collect();
            let packed = executions::page_of_job(&mut tx, &query).await.unwrap().unwrap();
            assert_eq!(packed.executions, alone, "{sort:?}");
            versions.sort();
            versions.dedup();
            let expected = [None, Some("0.3.1466514302"), Some("0.4"), Some("0.5")];
            assert_eq!(versions.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{sort:?}");
        }
    }
    let unknown = ExecutionQuery { job_names: vec!["unknown".into()], limit: 8, ..ExecutionQuery::default() };
    assert_eq!(executions::page_of_job(&mut tx, &unknown).await.unwrap(), None);
    let idle = ExecutionQuery { job_names: vec!["report-orders-000009".into()], limit: 8, ..ExecutionQuery::default() };
    let idle = executions::page_of_job(&mut tx, &idle).await.unwrap().unwrap();
    assert_eq!((idle.job_name.as_str(), idle.executions.len()), ("report-orders-000009", 0));
}

async fn runs_of_a_page_of_jobs_are_in_the_order_of_the_list_of_each_job(on: Database) {
    let (_fresh, db) = filled(on).await;
    let mut tx = db.write().await.unwrap();
    vary(&mut tx).await;
    // Texts hold what ends a member of a packed row, and some executions have not started.
    raw(
        &mut tx,
        "update data_job_execution set message = 'ü: ~ ' || execution_id, op_id = '5:a b', arguments = '{\"a\": 1}'
        where execution_id like '%3'",
    )
    .await;
    raw(&mut tx, "update data_job_execution set started_at = null, ended_at = null where execution_id like '%5'").await;
    let jobs = jobs::page(&mut tx, &JobQuery { limit: 7, ..JobQuery::default() }).await.unwrap();
    let jobs: Vec<_> = jobs.iter().map(|summary| summary.job.id).collect();
    for sort in EXECUTION_SORTS {
        for (descending, offset) in [(false, 0), (true, 1)] {
            let query = ExecutionQuery { sort, descending, limit: 3, offset, ..ExecutionQuery::default() };
            let together = ExecutionQuery { jobs: jobs.clone(), ..query.clone() };
            let mut together = executions::page_by_job(&mut tx, &together).await.unwrap();
            let mut alone = Vec::new();
            for job in &jobs {
                alone.extend(
                    executions::page(&mut tx, &ExecutionQuery { jobs: vec![*job], ..query.clone() }).await.unwrap(),
                );
            }
            // Both are by job; in which order the jobs come is open.
            alone.sort_by_key(|run| run.job_id);
            together.sort_by_key(|run| run.job_id);
            assert!(alone.len() > 7 && alone == together, "{sort:?}: {alone:?} {together:?}");
        }
    }
}

async fn runs_since_a_time_are_counted_by_hours_and_every_change_of_a_run_counts(on: Database) {
    let (_fresh, db) = filled(on).await;
    let mut tx = db.write().await.unwrap();
    let gone = jobs::find(&mut tx, &JobName::parse("daily-sales-000000").unwrap()).await.unwrap().unwrap();
    assert!(jobs::delete(&mut tx, gone.id, "someone", None, Timestamp::UNIX_EPOCH).await.unwrap());
    let check = async |tx: &mut Tx| {
        // The rows of a page are filtered one by one.
        let starts: Vec<_> = {
            let all = ExecutionQuery { limit: 1000, detail: Detail::Outcome, ..ExecutionQuery::default() };
            let page = executions::page(tx, &all).await.unwrap();
            page.iter().map(|run| run.started_at.unwrap_or(run.submitted_at)).collect()
        };
        let at = |second: i64| Timestamp::from_second(NOW - second).ok();
        let hour = NOW - NOW % 3600;
        for (from, until) in [
            (None, None),
            (at(7000), None),
            (None, at(9000)),
            (at(20_000), at(3000)),
            (at(3000), at(2000)),
            (at(2000), at(20_000)),
            (at(NOW - hour), at(NOW - hour + 7200)),
            (at(NOW - hour + 7200), at(NOW - hour)),
            (starts.first().copied(), starts.last().copied()),
            (starts.get(99).copied(), starts.get(99).copied()),
        ] {
            let expected =
                starts.iter().filter(|at| from.is_none_or(|f| f <= **at) && until.is_none_or(|u| **at <= u)).count();
            let query = ExecutionQuery { started_from: from, started_until: until, ..ExecutionQuery::default() };
            assert_eq!(executions::count(tx, &query).await.unwrap(), i64::try_from(expected).unwrap(), "{query:?}");
        }
        starts.len()
    };
    assert_eq!(check(&mut tx).await, 107 * 5);
    for (change, runs) in [
        ("update data_job_execution set status = 'RUNNING', ended_at = null where execution_id like '%1'", 107 * 5),
        ("update data_job_execution set started_at = started_at + 5400000000 where execution_id like '%1'", 107 * 5),
        (
            "update data_job_execution set status = 'CANCELLED' where execution_id like '%1' or execution_id like '%2'",
            107 * 5,
        ),
        (
            "delete from data_job_execution where job_number = (select number from data_job where name = 'weekly-sales-000001')",
            106 * 5,
        ),
    ] {
        raw(&mut tx, change).await;
        assert_eq!(check(&mut tx).await, runs, "{change}");
    }
    if on == Database::Postgresql {
        assert!(counts::find_hour(&mut tx, i64::MIN).await.unwrap().is_some());
        for rows_max in [2, 3, 500] {
            let mut next = Some(i64::MIN);
            while let Some(hour) = next {
                let Some(hour) = counts::find_hour(&mut tx, hour).await.unwrap() else { break };
                let done = counts::sum_up(&mut tx, hour, rows_max).await.unwrap();
                assert!((2..=u64::from(rows_max)).contains(&done.rows), "{done:?}");
                next = done.next_hour;
            }
        }
    }
    assert_eq!(counts::find_hour(&mut tx, i64::MIN).await.unwrap(), None, "an hour with several rows");
    assert_eq!(check(&mut tx).await, 106 * 5);
}

async fn runs_are_sorted_by_each_property_and_counted_without_those_of_deleted_jobs(on: Database) {
    let (_fresh, db) = filled(on).await;
    let mut tx = db.write().await.unwrap();
    let gone = jobs::find(&mut tx, &JobName::parse("daily-sales-000000").unwrap()).await.unwrap().unwrap();
    assert!(jobs::delete(&mut tx, gone.id, "someone", None, Timestamp::UNIX_EPOCH).await.unwrap());
    let team = |team: &str| ExecutionQuery { teams: vec![team.into()], ..ExecutionQuery::default() };
    let failed = vec![Status::UserError, Status::PlatformError];
    for (filter, count) in [
        (ExecutionQuery::default(), 107 * 5),
        (team("Team 0001"), 18 * 5),
        (ExecutionQuery { statuses: failed, ..ExecutionQuery::default() }, 18),
        (ExecutionQuery { statuses: vec![Status::Running], ..ExecutionQuery::default() }, 0),
    ] {
        assert_eq!(executions::count(&mut tx, &filter).await.unwrap(), count, "{filter:?}");
        for sort in EXECUTION_SORTS {
            let ids = async |tx: &mut Tx, descending, limit, offset| -> Vec<String> {
                let query = ExecutionQuery { sort, descending, limit, offset, ..filter.clone() };
                executions::page(tx, &query).await.unwrap().iter().map(|run| run.id.to_string()).collect()
            };
            let all = ids(&mut tx, true, 1000, 0).await;
            assert_eq!(i64::try_from(all.len()), Ok(count), "{sort:?}");
            let expected: Vec<_> = all.iter().skip(5).take(5).cloned().collect();
            assert_eq!(ids(&mut tx, true, 5, 5).await, expected, "{sort:?}");
            if matches!(sort, ExecutionSort::StartTime | ExecutionSort::Id | ExecutionSort::Type) {
                let mut turned = ids(&mut tx, false, 1000, 0).await;
                turned.reverse();
                assert_eq!(turned, all, "{sort:?}");
            }
        }
    }
}

/// Gives each job a revision of its own, and some executions no message.
/// Some know their revision themselves.
const VARIED: [&str; 3] = [
    "update deployment_revision set created_at = 1730419200000000 + 1000000 * cast(substr(job_id, 36, 1) as integer),
        content = replace(replace(replace(replace(content,
            '0123456789abcdef0123456789abcdef01234567', '0123456789abcdef0123456789ab' || substr(job_id, 25, 12)),
            '0.3.1466514302', '0.3.' || substr(job_id, 34, 3)),
            '\"deployed_by\":\"someone\"', '\"deployed_by\":\"user ' || substr(job_id, 33, 4) || '\"'),
            '2024-11-01T00:00:00Z\"}', '2024-11-01T00:00:0' || substr(job_id, 36, 1) || 'Z\"}')",
    "update data_job_execution set revision = (select v.content from deployment_revision v join data_job j on j.job_id = v.job_id
        where j.number = data_job_execution.job_number and v.generation = data_job_execution.generation)
        where execution_id like '%0'",
    "update data_job_execution set started_by = 'manual/' || substr(execution_id, length(execution_id) - 2),
        message = case when execution_id like '%1' then null else 'ended ' || substr(execution_id, 3) end",
];

fn key_of_execution(run: &Execution, sort: ExecutionSort) -> Option<Key> {
    let revision = run.revision.as_ref().expect("a revision");
    match sort {
        ExecutionSort::StartTime => time(run.started_at.or(Some(run.submitted_at))),
        ExecutionSort::EndTime => time(run.ended_at),
        ExecutionSort::Status => Some(text(format!("{} {}", run.status.as_str(), run.started_at.unwrap()))),
        ExecutionSort::Type => Some(text(run.kind.as_str())),
        ExecutionSort::JobName => Some(text(run.job_name.as_str())),
        ExecutionSort::Id => Some(text(run.id.as_str())),
        ExecutionSort::StartedBy => Some(text(run.started_by.clone())),
        ExecutionSort::Message => run.message.clone().map(Key::Text),
        ExecutionSort::OpId => Some(text(run.op_id.clone())),
        ExecutionSort::Team => Some(text(run.team.as_str())),
        ExecutionSort::JobVersion => revision.job_version.as_ref().map(|version| text(version.as_str())),
        ExecutionSort::VdkVersion => revision.vdk_version.clone().map(Key::Text),
        ExecutionSort::Schedule => revision.schedule_cron.clone().map(Key::Text),
        ExecutionSort::DeployedAt => time(revision.deployed_at),
        ExecutionSort::DeployedBy => revision.deployed_by.clone().map(Key::Text),
    }
}

async fn executions_are_sorted_by_the_value_of_each_property(on: Database) {
    let (_fresh, db) = filled(on).await;
    let mut tx = db.write().await.unwrap();
    vary(&mut tx).await;
    for property in EXECUTION_SORTS {
        for descending in [false, true] {
            let query = ExecutionQuery { sort: property, descending, limit: 1000, ..ExecutionQuery::default() };
            let page = executions::page(&mut tx, &query).await.unwrap();
            assert_eq!(page.len(), 108 * 5);
            let keys: std::collections::BTreeSet<_> = page.iter().map(|run| key_of_execution(run, property)).collect();
            assert!(keys.len() > 1, "{property:?}: nothing to be sorted");
            let mut expected = page.clone();
            sort(&mut expected, descending, |run| (key_of_execution(run, property), run.id.to_string()));
            let ids = |runs: &[Execution]| runs.iter().map(|run| run.id.to_string()).collect::<Vec<_>>();
            assert_eq!(ids(&page), ids(&expected), "{query:?}");
        }
    }
}
