//! The cluster follows the database, whatever is done to it.

use e2e::{job::Job, wait};
use serde_json::{Value, json};
use testing::Database;

use crate::fixture::{Fixture, LONGEST, Node};

fn spec(object: Option<&Value>) -> Option<&Value> {
    object.map(|object| &object["spec"])
}

#[tokio::test]
async fn what_others_change_add_or_delete_is_reverted() {
    let fixture = Fixture::new("drift", Database::Sqlite, Node::InNameOnly);
    let name = "is-changed";
    fixture.deployed(&Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass")).await;
    let written = fixture.object("cronjob", name).expect("a CronJob");
    let as_written = |object: Option<&Value>| spec(object) == Some(&written["spec"]);

    // A change, and an addition beside it.
    let change = json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {
        "initContainers": [{"name": "mine", "image": "mine:1"}], "priority": 0,
    }}}}}});
    fixture.kubectl(&["patch", "cronjob", name, "--type=merge", "-p", &change.to_string()]);
    fixture.becomes("the change is undone", "cronjob", name, as_written).await;

    // The label of managed objects.
    fixture.kubectl(&["label", "cronjob", name, "holdfast/job-id-"]);
    fixture
        .becomes("the label is back", "cronjob", name, |object| {
            object.is_some_and(|o| o["metadata"]["labels"]["holdfast/job-id"].is_string())
        })
        .await;

    // Metadata of others is left alone.
    fixture.kubectl(&["annotate", "cronjob", name, "example.com/note=mine"]);
    fixture.kubectl(&["patch", "cronjob", name, "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    let after = fixture.becomes("the switch is back", "cronjob", name, as_written).await.expect("a CronJob");
    assert_eq!(after["metadata"]["annotations"]["example.com/note"], "mine");

    fixture.kubectl(&["delete", "cronjob", name]);
    fixture.becomes("it is recreated", "cronjob", name, as_written).await;
}

#[tokio::test]
async fn a_name_of_an_unmanaged_object_is_left_alone_until_it_is_free() {
    let fixture = Fixture::new("foreign", Database::Sqlite, Node::InNameOnly);
    let api = fixture.api();
    let name = "is-taken";
    fixture.kubectl(&["create", "cronjob", name, "--image=theirs:1", "--schedule=0 0 1 1 *"]);
    let theirs = fixture.object("cronjob", name).expect("their CronJob");
    let job = Job::new(name).step("10_step.py", "pass");
    let _ = api.create(name).await.is(201);
    let version = api.deploy(&job).await;
    let rollout = wait::until("the rollout says why", LONGEST, async || {
        let rollout = api.get(&format!("/jobs/{name}/deployments/production/rollout")).await.json();
        rollout["problem"].to_string().contains("cron_job_unmanaged").then_some(rollout)
    })
    .await;
    assert_ne!(rollout["phase"], "rolled_out", "{rollout}");
    let now = fixture.object("cronjob", name).expect("their CronJob");
    assert_eq!(now["metadata"]["resourceVersion"], theirs["metadata"]["resourceVersion"], "nobody touched it");
    fixture.kubectl(&["delete", "cronjob", name]);
    api.reached(name, &version).await;
    fixture.kubectl(&["create", "job", "bystander", "--image=theirs:1"]);
    let _ = api.delete(&format!("/jobs/{name}")).await.is(200);
    fixture.becomes("ours goes", "cronjob", name, |object| object.is_none()).await;
    assert!(fixture.object("job", "bystander").is_some());
}

#[tokio::test]
async fn what_was_done_while_the_service_was_down_is_reverted_when_it_is_back() {
    let mut fixture = Fixture::new("down", Database::Sqlite, Node::InNameOnly);
    let names = ["edited", "deleted", "left-alone"];
    for name in names {
        fixture.deployed(&Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass")).await;
    }
    let before = names.map(|name| fixture.object("cronjob", name).expect("a CronJob"));
    fixture.service.stop();
    fixture.kubectl(&["patch", "cronjob", "edited", "--type=merge", "-p", r#"{"spec":{"schedule":"* * * * *"}}"#]);
    fixture.kubectl(&["delete", "cronjob", "deleted"]);
    fixture.service.start_again();
    for (name, before) in names.iter().zip(&before) {
        fixture.becomes("it is as it was", "cronjob", name, |object| spec(object) == Some(&before["spec"])).await;
    }
    let untouched = fixture.object("cronjob", "left-alone").expect("a CronJob");
    assert_eq!(untouched["metadata"]["resourceVersion"], before[2]["metadata"]["resourceVersion"], "no write");
}

#[tokio::test]
async fn one_changed_line_of_the_options_file_concerns_its_job_alone() {
    let mut fixture = Fixture::with("options", Database::Sqlite, Node::InNameOnly, |options| {
        options.set("HOLDFAST_VDK_OPTIONS_FILE", "{folder}/options.ini").file("options.ini", "[default]\nA = 1\n")
    });
    for name in ["concerned", "not-concerned"] {
        fixture.deployed(&Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass")).await;
    }
    let untouched = fixture.object("cronjob", "not-concerned").expect("a CronJob");
    fixture.service.stop();
    let file = fixture.service.data_dir().parent().expect("its folder").join("options.ini");
    std::fs::write(file, "[default]\nA = 1\n[concerned]\nB = 2\n").expect("the options file");
    fixture.service.start_again();
    let secret = "holdfast-options-concerned";
    fixture
        .becomes("the variable is in the CronJob", "cronjob", "concerned", |object| {
            object.is_some_and(|o| o.to_string().contains(r#""key":"B","name":"holdfast-options-concerned""#))
        })
        .await;
    // The values are in the secret alone, as base64.
    let (values, cron_job) = (fixture.object("secret", secret), fixture.object("cronjob", "concerned"));
    assert_eq!(values.expect("a secret")["data"], json!({"A": "MQ==", "B": "Mg=="}));
    let env = &cron_job.expect("a CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"];
    let names_a_value = |name: &str| {
        let variable = env.as_array().into_iter().flatten().find(|variable| variable["name"] == name);
        variable.is_none_or(|variable| variable.get("value").is_some())
    };
    assert!(!names_a_value("A") && !names_a_value("B"), "{env}");
    let now = fixture.object("cronjob", "not-concerned").expect("a CronJob");
    assert_eq!(now["metadata"]["resourceVersion"], untouched["metadata"]["resourceVersion"]);

    // A changed value is written, and changes the CronJob; without values the secret is deleted.
    let file = fixture.service.data_dir().parent().expect("its folder").join("options.ini");
    for (content, data) in [("[concerned]\nB = 3\n", Some(json!({"B": "Mw=="}))), ("[default]\n", None)] {
        fixture.service.stop();
        std::fs::write(&file, content).expect("the options file");
        fixture.service.start_again();
        fixture
            .becomes("the secret follows the options file", "secret", secret, |object| {
                object.map(|object| object["data"].clone()) == data
            })
            .await;
    }
    let cron_job = fixture.object("cronjob", "concerned").expect("a CronJob");
    assert!(!cron_job.to_string().contains("holdfast-options"), "{cron_job}");
}
