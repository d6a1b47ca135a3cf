//! The cluster follows the database, whatever is done to it.

use e2e::{job::Job, wait};
use serde_json::{Value, json};
use testing::Database;

use crate::place::{LONGEST, Node, Place};

fn spec(object: Option<&Value>) -> Option<&Value> {
    object.map(|object| &object["spec"])
}

#[tokio::test]
async fn what_others_change_add_or_delete_is_put_back() {
    let place = Place::new("drift", Database::Sqlite, Node::InNameOnly);
    let name = "is-changed";
    place.deployed(&Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass")).await;
    let written = place.object("cronjob", name).expect("a CronJob");
    let as_written = |object: Option<&Value>| spec(object) == Some(&written["spec"]);

    // A change, and an addition beside it.
    let change = json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {
        "initContainers": [{"name": "mine", "image": "mine:1"}], "priority": 0,
    }}}}}});
    place.kubectl(&["patch", "cronjob", name, "--type=merge", "-p", &change.to_string()]);
    place.becomes("the change is undone", "cronjob", name, as_written).await;

    // What says that it is ours.
    place.kubectl(&["label", "cronjob", name, "holdfast/job-id-"]);
    place
        .becomes("the label is back", "cronjob", name, |object| {
            object.is_some_and(|o| o["metadata"]["labels"]["holdfast/job-id"].is_string())
        })
        .await;

    // What others note in the metadata is theirs.
    place.kubectl(&["annotate", "cronjob", name, "example.com/note=mine"]);
    place.kubectl(&["patch", "cronjob", name, "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    let after = place.becomes("the switch is back", "cronjob", name, as_written).await.expect("a CronJob");
    assert_eq!(after["metadata"]["annotations"]["example.com/note"], "mine");

    place.kubectl(&["delete", "cronjob", name]);
    place.becomes("it is made again", "cronjob", name, as_written).await;
}

#[tokio::test]
async fn a_name_that_somebody_else_has_is_left_alone_until_it_is_free() {
    let place = Place::new("foreign", Database::Sqlite, Node::InNameOnly);
    let api = place.api();
    let name = "is-taken";
    place.kubectl(&["create", "cronjob", name, "--image=theirs:1", "--schedule=0 0 1 1 *"]);
    let theirs = place.object("cronjob", name).expect("their CronJob");
    let job = Job::new(name).step("10_step.py", "pass");
    let _ = api.create(name).await.is(201);
    let version = api.deploy(&job).await;
    let rollout = wait::until("the rollout says why", LONGEST, async || {
        let rollout = api.get(&format!("/jobs/{name}/deployments/production/rollout")).await.json();
        rollout["problem"].to_string().contains("taken").then_some(rollout)
    })
    .await;
    assert_ne!(rollout["phase"], "reached", "{rollout}");
    let now = place.object("cronjob", name).expect("their CronJob");
    assert_eq!(now["metadata"]["resourceVersion"], theirs["metadata"]["resourceVersion"], "nobody touched it");
    place.kubectl(&["delete", "cronjob", name]);
    api.reached(name, &version).await;
    place.kubectl(&["create", "job", "bystander", "--image=theirs:1"]);
    let _ = api.delete(&format!("/jobs/{name}")).await.is(200);
    place.becomes("ours goes", "cronjob", name, |object| object.is_none()).await;
    assert!(place.object("job", "bystander").is_some());
}

#[tokio::test]
async fn what_was_done_while_the_service_was_down_is_put_back_when_it_is_back() {
    let mut place = Place::new("down", Database::Sqlite, Node::InNameOnly);
    let names = ["edited", "deleted", "left-alone"];
    for name in names {
        place.deployed(&Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass")).await;
    }
    let before = names.map(|name| place.object("cronjob", name).expect("a CronJob"));
    place.service.stop();
    place.kubectl(&["patch", "cronjob", "edited", "--type=merge", "-p", r#"{"spec":{"schedule":"* * * * *"}}"#]);
    place.kubectl(&["delete", "cronjob", "deleted"]);
    place.service.start_again();
    for (name, before) in names.iter().zip(&before) {
        place.becomes("it is as it was", "cronjob", name, |object| spec(object) == Some(&before["spec"])).await;
    }
    let untouched = place.object("cronjob", "left-alone").expect("a CronJob");
    assert_eq!(untouched["metadata"]["resourceVersion"], before[2]["metadata"]["resourceVersion"], "no write");
}

#[tokio::test]
async fn one_changed_line_of_the_options_file_concerns_its_job_alone() {
    let mut place = Place::with("options", Database::Sqlite, Node::InNameOnly, |options| {
        options.set("HOLDFAST_VDK_OPTIONS_FILE", "{folder}/options.ini").file("options.ini", "[default]\nA = 1\n")
    });
    for name in ["concerned", "not-concerned"] {
        place.deployed(&Job::new(name).schedule("0 3 * * *").step("10_step.py", "pass")).await;
    }
    let untouched = place.object("cronjob", "not-concerned").expect("a CronJob");
    place.service.stop();
    let file = place.service.data_dir().parent().expect("its folder").join("options.ini");
    std::fs::write(file, "[default]\nA = 1\n[concerned]\nB = 2\n").expect("the options file");
    place.service.start_again();
    let secret = "holdfast-options-concerned";
    place
        .becomes("the variable is in the CronJob", "cronjob", "concerned", |object| {
            object.is_some_and(|o| o.to_string().contains(r#""key":"B","name":"holdfast-options-concerned""#))
        })
        .await;
    // The values are in the secret alone, as base64.
    let (values, cron_job) = (place.object("secret", secret), place.object("cronjob", "concerned"));
    assert_eq!(values.expect("a secret")["data"], json!({"A": "MQ==", "B": "Mg=="}));
    let env = &cron_job.expect("a CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"];
    let names_a_value = |name: &str| {
        let variable = env.as_array().into_iter().flatten().find(|variable| variable["name"] == name);
        variable.is_none_or(|variable| variable.get("value").is_some())
    };
    assert!(!names_a_value("A") && !names_a_value("B"), "{env}");
    let now = place.object("cronjob", "not-concerned").expect("a CronJob");
    assert_eq!(now["metadata"]["resourceVersion"], untouched["metadata"]["resourceVersion"]);

    // A value that changes is written, and the CronJob says so; without values the secret goes.
    let file = place.service.data_dir().parent().expect("its folder").join("options.ini");
    for (content, data) in [("[concerned]\nB = 3\n", Some(json!({"B": "Mw=="}))), ("[default]\n", None)] {
        place.service.stop();
        std::fs::write(&file, content).expect("the options file");
        place.service.start_again();
        place
            .becomes("the secret follows the options file", "secret", secret, |object| {
                object.map(|object| object["data"].clone()) == data
            })
            .await;
    }
    let cron_job = place.object("cronjob", "concerned").expect("a CronJob");
    assert!(!cron_job.to_string().contains("holdfast-options"), "{cron_job}");
}
