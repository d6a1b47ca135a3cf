//! `holdfast doctor` with the rights that the service has in a cluster, and without.

use serde_json::Value;
use testing::Database;

use crate::fixture::{Fixture, Node};

#[tokio::test]
async fn the_rights_of_the_role_are_enough_and_missing_ones_are_named() {
    let fixture = Fixture::new("doctor", Database::Sqlite, Node::InNameOnly);
    let finding = || {
        let address = fixture.service.url().trim_start_matches("http://").to_owned();
        let output = fixture.service.command(&["doctor", "--json", "--listen", &address]);
        let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let found = findings.as_array().expect("a list").iter().find(|finding| finding["check"] == "cluster").cloned();
        (output.status.code(), found.expect("the cluster"))
    };
    let (code, found) = finding();
    assert_eq!((code, &found["result"]), (Some(0), &Value::from("ok")), "{found}");
    fixture.kubectl(&["delete", "rolebinding", "--all"]);
    let (code, found) = finding();
    assert_eq!((code, &found["result"]), (Some(1), &Value::from("wrong")), "{found}");
    let text = found["found"].as_str().expect("a text");
    assert!(text.contains("create cronjobs.batch") && text.contains("get pods/log"), "{text}");
    assert!(found["fix"].as_str().is_some_and(|fix| fix.contains("Role")), "{found}");
}
