//! A page costs the page: the same few statements whatever is on it.

use app::queries::{self, DeploymentDetail, ExecutionQuery, JobPageRequest, JobQuery, JobSort, Search, SearchField};
use model::{
    access::Caller,
    deployment::{DeploymentChange, VersionDefaults},
    python::PythonVersion,
    rollout::Status as DeploymentStatus,
};
use store::{Db, Tx};
use testing::{Database, Statements, for_each_database};

for_each_database!(
    a_request_for_a_page_takes_at_most_five_statements,
    the_deletion_of_a_deployed_job_writes_the_row_of_the_job_once,
    a_change_to_what_is_desired_is_retried_in_the_transaction_that_compared_it,
);

/// The most statements that a request may take.
const STATEMENTS_MAX: usize = 5;

async fn fill(db: &Db) {
    let mut tx = db.write().await.unwrap();
    for statement in include_str!("../../store/examples/fill.sql").split(";\n") {
        let values = [("{jobs}", "60"), ("{runs}", "4"), ("{schedules}", "20"), ("{now}", "1732300000")];
        let sql = values.iter().fold(statement.to_owned(), |sql, (name, value)| sql.replace(name, value));
        let sql = sqlx::AssertSqlSafe(sql);
        match &mut tx {
            Tx::Sqlite(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap().rows_affected(),
            Tx::Postgres(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap().rows_affected(),
        };
    }
    tx.commit().await.unwrap();
}

async fn a_request_for_a_page_takes_at_most_five_statements(on: Database) {
    let statements = Statements::heard().await;
    let fresh = on.fresh();
    let db = fresh.open().await;
    fill(&db).await;
    let caller = Caller::anonymous("op");
    let runs = ExecutionQuery { descending: true, limit: 10, ..ExecutionQuery::default() };
    let search = Search { text: "sales".into(), fields: vec![SearchField::Name, SearchField::Description] };
    for query in [
        JobQuery::default(),
        JobQuery { names: vec!["daily*".into()], sort: JobSort::LastExecutionTime, ..JobQuery::default() },
        JobQuery { search: Some(search), sort: JobSort::NextRun, descending: true, ..JobQuery::default() },
        JobQuery { deployment_status: Some(DeploymentStatus::Success), sort: JobSort::Team, ..JobQuery::default() },
    ] {
        for (limit, with_total) in [(1, false), (50, false), (50, true), (1000, true)] {
            let query = JobQuery { limit, ..query.clone() };
            let request = JobPageRequest {
                query,
                with_total,
                deployments: Some(DeploymentDetail::Whole),
                executions: Some(runs.clone()),
            };
            let (page, took) = statements.of(&db, queries::jobs(&db, &caller, &request)).await;
            let page = page.unwrap();
            assert!(!page.content.is_empty() && page.total.is_some() == with_total);
            assert!((1..=STATEMENTS_MAX).contains(&took.len()), "{took:?} for {request:?}");
        }
    }
    let newest = ExecutionQuery { limit: 100, ..runs };
    let (page, took) = statements.of(&db, queries::executions(&db, &caller, &newest, true)).await;
    assert_eq!(page.unwrap().content.len(), 100);
    assert_eq!(took.len(), 2, "{took:?}");
}

async fn the_deletion_of_a_deployed_job_writes_the_row_of_the_job_once(on: Database) {
    let statements = Statements::heard().await;
    let fresh = on.fresh();
    let db = fresh.open().await;
    fill(&db).await;
    let (caller, clock) = (Caller::anonymous("op"), testing::clock());
    let delete = app::jobs::delete(&db, &*clock, &caller, "Team 0000", "daily-sales-000000");
    let (deleted, took) = statements.of(&db, delete).await;
    deleted.unwrap();
    let of_job = took.iter().filter(|statement| statement.words.starts_with("update data_job set")).count();
    assert_eq!(of_job, 1, "{took:?}");
}

async fn a_change_to_what_is_desired_is_retried_in_the_transaction_that_compared_it(on: Database) {
    let statements = Statements::heard().await;
    let fresh = on.fresh();
    let db = fresh.open().await;
    fill(&db).await;
    // Its rollout failed.
    let (team, name) = ("Team 0000", "daily-sales-000000");
    let (caller, clock) = (Caller::anonymous("op"), testing::clock());
    let defaults = VersionDefaults {
        python_versions: vec![PythonVersion { major: 3, minor: 11 }],
        python_version: PythonVersion { major: 3, minor: 11 },
        vdk_version: "0.3".into(),
    };
    let change = DeploymentChange::default();
    let missing = app::deployments::Missing::Create;
    let ask = app::deployments::change(&db, &*clock, &caller, &defaults, team, name, &change, missing);
    let (answer, took) = statements.of(&db, ask).await;
    answer.unwrap();
    let of = |words: &str| took.iter().filter(|statement| statement.words.starts_with(words)).count();
    assert_eq!(
        (of("insert into job_generation"), of("update rollout"), of("insert into audit_event")),
        (0, 1, 1),
        "{took:?}"
    );
    // The job was looked up once, with a lock.
    assert_eq!(of("select job_id, name, team"), 1, "{took:?}");
}

#[test]
fn a_list_that_takes_too_long_is_a_user_error_that_names_the_limit() {
    testing::run(async {
        let fresh = Database::Sqlite.fresh();
        let db = fresh.open().await;
        fill(&db).await;
        let (caller, hasty) = (Caller::anonymous("op"), db.with_callers_read_max(std::time::Duration::ZERO));
        let query = JobQuery { descriptions: vec!["a".into()], limit: 10, ..JobQuery::default() };
        let request = JobPageRequest { query, with_total: true, ..JobPageRequest::default() };
        let of_jobs = queries::jobs(&hasty, &caller, &request).await.unwrap_err();
        let all = ExecutionQuery { limit: 1000, ..ExecutionQuery::default() };
        let of_executions = queries::executions(&hasty, &caller, &all, true).await.unwrap_err();
        for problem in [of_jobs, of_executions] {
            assert_eq!(problem.kind, model::problem::Kind::Invalid, "{problem}");
            assert!(problem.why.contains("limit 10 seconds"), "{problem}");
        }
        assert_eq!(queries::jobs(&db, &caller, &request).await.unwrap().content.len(), 10);
    });
}
