//! What the rows beside jobs, deployments and runs refuse and keep.

use jiff::Timestamp;
use model::{
    deployment::{Deployment, DeploymentChange, JobPart, Stamp, VersionDefaults},
    job::{DataJob, JobConfig},
    name::{JobId, JobName, TeamName},
    source::{Source, SourceVersion},
};
use store::{
    Db, Tx,
    credentials::{self, Credentials},
    deployments, jobs, revisions,
    secrets::SecretKey,
    sources,
};
use testing::{Database, for_each_database};

for_each_database!(removed_sources_go_when_nothing_needs_them, a_teams_secret_is_encrypted_and_bound_to_its_row,);

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Runs a statement that no function of the store makes.
async fn raw(tx: &mut Tx, sql: &'static str) {
    match tx {
        Tx::Sqlite(tx) => drop(sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap()),
        Tx::Postgres(tx) => drop(sqlx::raw_sql(sql).execute(&mut **tx).await.unwrap()),
    }
}

fn job(n: u128, name: &str) -> DataJob {
    DataJob {
        id: JobId(uuid::Uuid::from_u128(n)),
        name: JobName::parse(name).unwrap(),
        team: TeamName::parse("a team").unwrap(),
        description: String::new(),
        config: JobConfig::default(),
    }
}

async fn insert(db: &Db, job: &DataJob) {
    let mut tx = db.write().await.unwrap();
    assert!(jobs::insert(&mut tx, job, None, "someone", NOW).await.unwrap());
    tx.commit().await.unwrap();
}

fn version(digit: &str) -> SourceVersion {
    SourceVersion::parse(&digit.repeat(40)).unwrap()
}

async fn upload(tx: &mut Tx, job: &DataJob, digit: &str) {
    let source = Source {
        version: version(digit),
        archive_bytes: 1,
        requirements: String::new(),
        uploaded_by: "someone".into(),
        uploaded_at: NOW,
        reason: String::new(),
    };
    sources::insert(tx, job.id, &source, digit.as_bytes()).await.unwrap();
}

async fn deploy(tx: &mut Tx, job: &DataJob, digit: &str) -> Deployment {
    let python = "3.11".parse().unwrap();
    let defaults = VersionDefaults { python_versions: vec![python], python_version: python, vdk_version: "1".into() };
    let generation = jobs::next_generation(tx, &job.name).await.unwrap();
    let stamp = Stamp { generation, by: "someone".into(), at: NOW };
    let change = DeploymentChange { job_version: Some(version(digit)), ..DeploymentChange::default() };
    let wanted = Deployment::merge(None, &change, job.id, &JobPart::from(&job.config), &defaults, stamp).unwrap();
    revisions::insert(tx, &wanted, NOW).await.unwrap();
    deployments::replace(tx, &wanted, NOW).await.unwrap();
    wanted
}

async fn removed_sources_go_when_nothing_needs_them(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let (one, two) = (job(1, "example-job"), job(2, "another-job"));
    insert(&db, &one).await;
    insert(&db, &two).await;
    let mut tx = db.write().await.unwrap();
    for (job, digit) in [(&one, "a"), (&one, "b"), (&one, "c"), (&two, "b")] {
        upload(&mut tx, job, digit).await;
    }
    deploy(&mut tx, &one, "a").await;
    assert_eq!(sources::remove_all(&mut tx, one.id, NOW).await.unwrap(), 3);
    assert_eq!(sources::remove_all(&mut tx, one.id, NOW).await.unwrap(), 0);
    upload(&mut tx, &one, "c").await;
    tx.commit().await.unwrap();

    let mut tx = db.write().await.unwrap();
    let first = sources::purge_removed(&mut tx, None, 1).await.unwrap();
    assert_eq!(sources::purge_removed(&mut tx, first.as_ref(), 10).await.unwrap(), None);
    tx.commit().await.unwrap();
    let mut tx = db.read().await.unwrap();
    assert_eq!(sources::archive(&mut tx, one.id, &version("a")).await.unwrap().as_deref(), Some(&b"a"[..]));
    assert!(!sources::is_offered(&mut tx, one.id, &version("a")).await.unwrap());
    assert_eq!(sources::find(&mut tx, one.id, &version("b")).await.unwrap(), None);
    assert!(sources::is_offered(&mut tx, one.id, &version("c")).await.unwrap());
    // The bytes are another job's too.
    assert_eq!(sources::archive(&mut tx, two.id, &version("b")).await.unwrap().as_deref(), Some(&b"b"[..]));
    assert_eq!(sources::latest(&mut tx, one.id).await.unwrap().unwrap().version, version("c"));
}

async fn a_teams_secret_is_encrypted_and_bound_to_its_row(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    let key = SecretKey::new([7; 32]);
    let (one, two) = (TeamName::parse("team one").unwrap(), TeamName::parse("team two").unwrap());
    let application = |id: &str| Credentials { client_id: id.into(), client_secret: "correct horse".to_owned().into() };
    let mut tx = db.write().await.unwrap();
    for (team, id) in [(&one, "app-1"), (&two, "app-2"), (&one, "app-3")] {
        credentials::replace(&mut tx, &key, team, &application(id), "someone", NOW).await.unwrap();
    }
    let found = credentials::find(&mut tx, &key, &one).await.unwrap().unwrap();
    assert_eq!((&*found.client_id, found.told()), ("app-3", "correct horse"));
    assert!(!format!("{found:?}").contains("horse"));
    assert!(credentials::find(&mut tx, &SecretKey::new([8; 32]), &one).await.is_err());
    let asked = ["app-1", "app-2", "app-3"].map(String::from);
    let teams = credentials::teams(&mut tx, &asked).await.unwrap();
    assert_eq!(teams, [("app-2".to_owned(), two.clone()), ("app-3".to_owned(), one.clone())]);
    raw(
        &mut tx,
        "update team_credential set ciphertext = (select ciphertext from team_credential where team = 'team one'),
        nonce = (select nonce from team_credential where team = 'team one') where team = 'team two'",
    )
    .await;
    assert!(credentials::find(&mut tx, &key, &two).await.is_err());
    raw(&mut tx, "update team_credential set client_id = 'app-4' where team = 'team one'").await;
    assert!(credentials::find(&mut tx, &key, &one).await.is_err());
}
