//! Rows of teams: the names of their secrets, and the owners of OAuth applications.

mod support;

use jiff::Timestamp;
use model::job::DataJob;
use store::{
    Db,
    credentials::{self, Credentials},
    jobs,
    keys::{KeyRing, SecretKey},
    team_secrets,
};
use support::{job, raw, team};
use testing::{Database, for_each_database};

for_each_database!(
    a_teams_secret_keeps_its_name_and_no_other_team_gets_it,
    at_an_upgrade_the_team_with_the_oldest_job_has_the_plain_name,
    a_client_id_belongs_to_one_team,
    teams_that_shared_a_client_id_before_keep_it_and_no_other_team_gets_it,
);

async fn claim(db: &Db, name: &str) -> String {
    let mut tx = db.write().await.unwrap();
    let claimed = team_secrets::claim(&mut tx, &team(name), Timestamp::UNIX_EPOCH).await.unwrap();
    tx.commit().await.unwrap();
    claimed
}

async fn find(db: &Db, name: &str) -> Option<String> {
    team_secrets::find(&mut db.read().await.unwrap(), &team(name)).await.unwrap()
}

async fn a_teams_secret_keeps_its_name_and_no_other_team_gets_it(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    assert_eq!(claim(&db, "finance").await, "team-oauth-finance");
    assert_eq!(claim(&db, "Finance").await, "team-oauth-finance-b696d755");
    // One whose own form is the name that another team was given before.
    assert!(claim(&db, "finance-b696d755").await.starts_with("team-oauth-finance-b696d755-"));
    assert_eq!(claim(&db, "小").await.len(), "team-oauth-".len() + 8);
    db.close().await;
    let db = fresh.open().await;
    assert_eq!(claim(&db, "Finance").await, "team-oauth-finance-b696d755");
    assert_eq!(find(&db, "finance").await.as_deref(), Some("team-oauth-finance"));
    assert_eq!(find(&db, "FINANCE").await, None);
}

async fn at_an_upgrade_the_team_with_the_oldest_job_has_the_plain_name(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    for (number, name, second) in [(1, "FINANCE", 30), (2, "finance", 20), (3, "Finance", 10), (4, "finance", 5)] {
        let job = DataJob { team: team(name), ..job(number, &format!("job-number-{number}")) };
        let mut tx = db.write().await.unwrap();
        let at = Timestamp::from_second(second).unwrap();
        assert!(jobs::insert(&mut tx, &job, None, "someone", at).await.unwrap());
        // A deleted job is a sign of its team too.
        if second == 5 {
            assert!(jobs::delete(&mut tx, job.id, "someone", None, at).await.unwrap());
        }
        tx.commit().await.unwrap();
    }
    assert_eq!(find(&db, "finance").await, None);
    db.close().await;
    let db = fresh.open().await;
    assert_eq!(find(&db, "finance").await.as_deref(), Some("team-oauth-finance"));
    for name in ["Finance", "FINANCE"] {
        assert!(find(&db, name).await.unwrap().starts_with("team-oauth-finance-"), "{name}");
    }
}

fn ring() -> KeyRing {
    KeyRing::from(SecretKey::new([7; 32]))
}

/// Stores an application; `false` when another team has the client id.
async fn store(db: &Db, name: &str, client_id: &str) -> bool {
    let credentials = Credentials { client_id: client_id.into(), client_secret: "correct horse".to_owned().into() };
    let mut tx = db.write().await.unwrap();
    let (ring, team) = (ring(), team(name));
    let stored = credentials::replace(&mut tx, &ring, &team, &credentials, "someone", Timestamp::UNIX_EPOCH);
    let stored = stored.await.unwrap();
    if stored {
        tx.commit().await.unwrap();
    }
    stored
}

async fn a_client_id_belongs_to_one_team(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    assert!(store(&db, "t1", "app-1").await);
    assert!(store(&db, "t1", "app-1").await);
    assert!(!store(&db, "t2", "app-1").await);
    assert!(store(&db, "t2", "app-2").await);
    assert!(!store(&db, "t2", "app-1").await);
    let owners = credentials::teams(&mut db.read().await.unwrap(), &["app-1".into()]).await.unwrap();
    assert_eq!(owners, [("app-1".to_owned(), team("t1"))]);
    // One that is given up is free, and a long one is no trouble.
    assert!(store(&db, "t1", &"x".repeat(10_000)).await);
    assert!(!store(&db, "t3", &"x".repeat(10_000)).await);
    assert!(store(&db, "t2", "app-1").await);
}

async fn teams_that_shared_a_client_id_before_keep_it_and_no_other_team_gets_it(on: Database) {
    let fresh = on.fresh();
    let db = fresh.open().await;
    for (name, client_id) in [("t1", "app-1"), ("t2", "app-2"), ("t3", "app-3")] {
        assert!(store(&db, name, client_id).await);
    }
    let mut tx = db.write().await.unwrap();
    raw(
        &mut tx,
        "drop index team_credential_one_team;
         alter table team_credential drop column holds_client;
         update team_credential set client_id = 'app-1' where team = 't2';
         delete from _sqlx_migrations where version = 48",
    )
    .await;
    tx.commit().await.unwrap();
    db.close().await;
    let db = fresh.open().await;
    // Both replace their secrets, and a third team is refused.
    assert!(store(&db, "t1", "app-1").await && store(&db, "t2", "app-1").await);
    assert!(!store(&db, "t3", "app-1").await);
    assert!(store(&db, "t2", "app-2").await);
    assert!(!store(&db, "t2", "app-1").await);
}
