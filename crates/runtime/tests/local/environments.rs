//! Environments: shared, made once, kept while they are needed.

use std::{fs, path::PathBuf, sync::atomic::Ordering};

use model::{
    Problem,
    execution::EndCause,
    problem::Kind,
    runtime::{Observed, Runtime, Target},
};
use runtime::local::LocalRuntime;

use crate::harness::{Harness, JOB, id, interpreter, lock, options, target, wanted};

fn present() -> Observed {
    Observed::Present { inputs_hash: "inputs".into() }
}

fn environment(harness: &Harness) -> Option<PathBuf> {
    fs::read_dir(harness.data().join("environments"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.is_dir() && !p.ends_with("by-lock"))
}

#[tokio::test]
async fn an_environment_is_made_once_and_then_observed() {
    let harness = Harness::new().await;
    assert_eq!(harness.runtime.observe(&target()).await.unwrap(), present());
    let (target, a, b) = (target(), wanted(), wanted());
    let (one, two) = tokio::join!(harness.runtime.apply(&target, &a), harness.runtime.apply(&target, &b));
    one.unwrap();
    two.unwrap();
    harness.runtime.remove(&target).await.unwrap();
    assert_eq!(harness.reopened().observe(&target).await.unwrap(), present());
    assert_eq!(harness.tools.built.load(Ordering::SeqCst), 1);

    let nothing = Target { artifact: None, ..target };
    assert_eq!(harness.runtime.observe(&nothing).await.unwrap(), Observed::Missing);
}

#[tokio::test]
async fn a_half_made_environment_is_missing_and_recreated() {
    let harness = Harness::new().await;
    let at = environment(&harness).unwrap();
    fs::remove_file(at.join("complete")).unwrap();
    fs::write(at.join("half"), "").unwrap();
    assert_eq!(harness.runtime.observe(&target()).await.unwrap(), Observed::Missing);
    let refused = harness.runtime.start(&harness.run(1, "")).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable);
    assert_eq!(harness.runtime.runs().await.unwrap(), []);
    harness.runtime.apply(&target(), &wanted()).await.unwrap();
    assert!(!at.join("half").exists());
    assert_eq!(harness.runtime.observe(&target()).await.unwrap(), present());
}

#[tokio::test]
async fn an_environment_that_can_not_be_made_leaves_nothing_and_says_why() {
    let harness = Harness::new().await;
    fs::remove_file(environment(&harness).unwrap().join("complete")).unwrap();
    let why = Problem::new(
        model::problem::Code::PackagesUnresolvable,
        "The packages can't be installed.",
        "One of them is broken.",
    )
    .nothing_changed()
    .fix("Retry.");
    *harness.tools.fails.lock().unwrap() = Some(why.clone());
    assert_eq!(harness.runtime.apply(&target(), &wanted()).await.unwrap_err(), why);
    assert_eq!(environment(&harness), None);
    *harness.tools.fails.lock().unwrap() = None;
    harness.runtime.apply(&target(), &wanted()).await.unwrap();
    assert_eq!(harness.runtime.observe(&target()).await.unwrap(), present());
}

#[tokio::test]
async fn an_environment_of_an_interpreter_that_is_gone_or_replaced_is_missing() {
    let harness = Harness::new().await;
    let with = |interpreters| {
        let mut options = options(&harness.data(), harness.tools.clone());
        options.interpreters = interpreters;
        LocalRuntime::open(options).unwrap()
    };
    let none = with(Vec::new());
    assert_eq!(none.observe(&target()).await.unwrap(), Observed::Missing);
    let problem = none.apply(&target(), &wanted()).await.unwrap_err();
    assert_eq!(problem.kind, Kind::Unavailable);
    assert!(problem.why.contains("Python 3.11"), "{problem}");

    let newer = with(vec![python::Interpreter { full_version: "3.11.99".into(), ..interpreter() }]);
    assert_eq!(newer.observe(&target()).await.unwrap(), Observed::Missing);
    newer.apply(&target(), &wanted()).await.unwrap();
    assert_eq!(newer.observe(&target()).await.unwrap(), present());
    assert_eq!(harness.tools.built.load(Ordering::SeqCst), 2);
}

/// As if it had not been asked for lately.
fn age(harness: &Harness) {
    for entry in fs::read_dir(harness.data().join("environments/by-lock")).unwrap() {
        let path = entry.unwrap().path();
        let mut known: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        known["asked_at"] = "2020-01-01T00:00:00Z".into();
        fs::write(path, known.to_string()).unwrap();
    }
}

#[tokio::test]
async fn clean_up_keeps_what_is_needed_fresh_or_in_use_and_drops_the_rest() {
    let harness = Harness::new().await;
    harness.runtime.clean_up(&[]).await.unwrap();
    assert!(environment(&harness).is_some(), "fresh");
    age(&harness);
    harness.runtime.clean_up(&[lock().key]).await.unwrap();
    assert!(environment(&harness).is_some(), "wanted");

    harness
        .runtime
        .start(
            &harness.run(
                1,
                "meet().recv(1); print(open(os.environ['VIRTUAL_ENV'] + '/bin/vdk').read(2))"
                    .replace("meet", "import os; meet")
                    .as_str(),
            ),
        )
        .await
        .unwrap();
    let (_, connection) = harness.meet().await;
    harness.runtime.clean_up(&[]).await.unwrap();
    assert!(environment(&harness).is_some(), "in use");
    assert_eq!(harness.runtime.observe(&target()).await.unwrap(), Observed::Missing, "nobody wants it");
    drop(connection);
    assert_eq!(harness.end(1).await.cause, EndCause::Exited(0), "{}", harness.log(1).await);

    // The supervisor lets go of it right after it wrote the end.
    while !harness.supervisors(1).is_empty() {
        tokio::task::yield_now().await;
    }
    harness.runtime.clean_up(&[]).await.unwrap();
    assert_eq!(environment(&harness), None);
    harness.runtime.forget(&id(1), JOB).await.unwrap();
    let left = fs::read_dir(harness.data().join("environments")).unwrap().count();
    assert_eq!(left, 1, "by-lock alone");
    harness.runtime.apply(&target(), &wanted()).await.unwrap();
    assert_eq!(harness.runtime.observe(&target()).await.unwrap(), present());
}
