//! A program of this version on a database that an older one filled.

use model::{
    execution::ExecutionRevision,
    name::{ExecutionId, JobId, JobName},
};
use sqlx::{Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use store::{executions, jobs, logs};
use testing::{Database, Fresh, for_each_database};

for_each_database!(executions_of_an_older_program_keep_what_is_known_of_their_revisions);

/// Brings an empty database to a migration, and fills it.
async fn older(on: Database, fresh: &Fresh, migration: i64, rows: &str) {
    let rows = sqlx::AssertSqlSafe(rows.to_owned());
    match on {
        Database::Sqlite => {
            let options = SqliteConnectOptions::new().filename(fresh.file().unwrap()).create_if_missing(true);
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::migrate!("migrations/sqlite").run_to(migration, &mut connection).await.unwrap();
            sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        Database::Postgresql => {
            let mut connection = PgConnection::connect(fresh.url()).await.unwrap();
            sqlx::migrate!("migrations/postgres").run_to(migration, &mut connection).await.unwrap();
            sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

const REVISION: &str = r#"{"job_id":"00000000-0000-4000-8000-000000000001","generation":1,
    "job_version":"0123456789abcdef0123456789abcdef01234567","python_version_asked":null,"python_version":"3.11",
    "vdk_version_asked":null,"vdk_version":"0.3.1","enabled":true,"mode":"release","resources":{"cpu_request":null,
    "cpu_limit":null,"memory_request":null,"memory_limit":null},"schedule_cron":null,"schedule_since":"2024-11-01T00:00:00Z",
    "contacts":{"notified_on_job_failure_user_error":[],"notified_on_job_failure_platform_error":[],
    "notified_on_job_success":[],"notified_on_job_deploy":[]},"db_default_type":null,
    "enable_execution_notifications":true,"deployed_by":"someone","deployed_at":"2024-11-01T00:00:00Z"}"#;

async fn executions_of_an_older_program_keep_what_is_known_of_their_revisions(on: Database) {
    let fresh = on.empty();
    let job = |id: &str, name: &str, deleted_at: &str| {
        format!(
            "insert into data_job (job_id, name, team, description, contacts, generate_keytab,
                enable_execution_notifications, notification_delay_period_minutes, created_at, created_by, updated_at,
                row_version, deployment_status, successful_executions, failed_executions, deleted_at)
             values ('{id}', '{name}', 'a team', '', '{{\"notified_on_job_failure_user_error\":[],\"notified_on_job_failure_platform_error\":[],
                \"notified_on_job_success\":[],\"notified_on_job_deploy\":[]}}', true, true, 1, 0, 'someone', 0, 1, 'NONE', 0, 0, {deleted_at});"
        )
    };
    let execution = |id: &str, job: &str, status: &str, ended_at: &str, generation: &str, revision: &str| {
        format!(
            "insert into data_job_execution (execution_id, job_id, type, status, submitted_at, ended_at, started_by, op_id,
                holds_slot, generation, revision, lock_key, leader_epoch)
             values ('{id}', '{job}', 'MANUAL', '{status}', 5, {ended_at}, 'someone', 'op', {ended_at} is null, {generation},
                {revision}, 'a lock', 1);
             insert into log_chunk (execution_id, chunk, content) values ('{id}', 0, 'log of {id}');"
        )
    };
    let (gone, alive) = ("00000000-0000-4000-8000-000000000009", "00000000-0000-4000-8000-000000000001");
    let changed = REVISION.replace("someone", "another");
    let quoted = |text: &str| format!("'{text}'");
    let rows = [
        job(gone, "gone-job", "7"),
        job(alive, "example-job", "null"),
        format!(
            "insert into deployment_revision (job_id, generation, content, created_at, created_by)
             values ('{alive}', 1, '{REVISION}', 0, 'someone');"
        ),
        execution("active", alive, "RUNNING", "null", "1", &quoted(REVISION)),
        execution("equal", alive, "SUCCEEDED", "6", "1", &quoted(REVISION)),
        execution("changed", alive, "SUCCEEDED", "6", "1", &quoted(&changed)),
        execution("lost", alive, "SUCCEEDED", "6", "2", &quoted(&changed)),
        execution("unstarted", alive, "CANCELLED", "6", "null", "null"),
        execution("of-gone", gone, "SUCCEEDED", "6", "1", &quoted(REVISION)),
    ];
    older(on, &fresh, 49, &rows.concat()).await;

    let db = fresh.open().await;
    let mut tx = db.write().await.unwrap();
    let revision: ExecutionRevision = serde_json::from_str(REVISION).unwrap();
    assert_eq!((revision.generation, revision.deployed_by.as_deref()), (Some(1), Some("someone")));
    let other = ExecutionRevision { deployed_by: Some("another".into()), ..revision.clone() };
    for (id, job, expected) in [
        ("active", alive, Some(&revision)),
        ("equal", alive, Some(&revision)),
        ("changed", alive, Some(&other)),
        ("lost", alive, Some(&other)),
        ("unstarted", alive, None),
        ("of-gone", gone, Some(&revision)),
    ] {
        let execution = executions::find(&mut tx, &ExecutionId::parse(id).unwrap()).await.unwrap().unwrap();
        assert_eq!(execution.job_id, JobId(job.parse().unwrap()), "{id}");
        assert_eq!(execution.revision.as_ref(), expected, "{id}");
        let log = logs::find(&mut tx, &execution.id).await.unwrap().unwrap();
        assert!(log.text.contains(&format!("log of {id}")), "{id}");
    }
    let ids: Vec<_> = executions::active_ids(&mut tx, 10).await.unwrap().into_iter().map(|run| run.id).collect();
    let active = executions::active(&mut tx, &ids).await.unwrap();
    assert_eq!(active.len(), 1);
    assert_eq!(active[0].dispatched.as_ref().unwrap().generation, 1);
    // A copy of a revision that is there is not kept.
    let (copies,): (i64,) = match &mut tx {
        store::Tx::Sqlite(tx) => {
            sqlx::query_as("select count(revision) from data_job_execution").fetch_one(&mut **tx).await
        }
        store::Tx::Postgres(tx) => {
            sqlx::query_as("select count(revision) from data_job_execution").fetch_one(&mut **tx).await
        }
    }
    .unwrap();
    assert_eq!(copies, 3);
    // Jobs that come later have numbers of their own.
    let found = jobs::find(&mut tx, &JobName::parse("example-job").unwrap()).await.unwrap().unwrap();
    let later =
        model::job::DataJob { id: JobId(uuid::Uuid::from_u128(7)), name: JobName::parse("new-job").unwrap(), ..found };
    assert!(jobs::insert(&mut tx, &later, None, "someone", jiff::Timestamp::UNIX_EPOCH).await.unwrap());
    tx.commit().await.unwrap();
}
