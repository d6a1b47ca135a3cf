//! What the rows beside jobs, deployments and runs refuse and keep.

use jiff::Timestamp;
use model::{
    deployment::{Deployment, DeploymentChange, JobPart, Stamp, VersionDefaults},
    job::{DataJob, JobConfig},
    name::{JobId, JobName, TeamName},
    source::{Source, SourceVersion},
};
use store::{Db, Tx, deployments, jobs, revisions, sources};
use testing::{Database, for_each_database};

for_each_database!(removed_sources_go_when_nothing_needs_them,);

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

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
