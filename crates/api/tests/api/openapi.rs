//! The document says what upstream's interface has, and what the router has, no more and no less.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use model::{
    problem::Fault,
    rollout::{Phase, Status},
};
use serde_json::Value;

use crate::support::Service;

on_each_database!(
    every_operation_of_the_document_is_one_of_the_router,
    every_operation_of_the_router_is_in_the_document,
    the_document_and_its_page_are_served_and_load_nothing_from_elsewhere,
);

/// The interface that clients know, as facts: operations, parameters, and members of bodies with their types.
const INTERFACE: &str = include_str!("interface.txt");

fn document() -> Value {
    serde_json::from_str(api::openapi_document()).unwrap()
}

/// A schema, or what it refers to; of alternatives with null, the other one; of several that all hold, their union.
fn resolved(document: &Value, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#'));
        return resolved(document, target.unwrap_or_else(|| panic!("{reference} leads nowhere")));
    }
    let parts = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
    let alternatives: Vec<_> =
        [parts("oneOf"), parts("anyOf")].concat().into_iter().filter(|part| part["type"] != "null").collect();
    if let [only] = &alternatives[..] {
        return resolved(document, only);
    }
    let mut whole = schema.clone();
    for part in parts("allOf") {
        let part = resolved(document, &part);
        for (name, member) in part["properties"].as_object().into_iter().flatten() {
            whole["properties"][name] = member.clone();
        }
        whole["type"] = part["type"].clone();
    }
    whole
}

/// The type of a schema, without null.
fn kind(schema: &Value) -> &str {
    let types = schema["type"].as_array().map_or(std::slice::from_ref(&schema["type"]), Vec::as_slice);
    types.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("any")
}

/// The schema of a member such as `config.contacts` or `content[]`.
fn member(document: &Value, schema: &Value, path: &str) -> Option<Value> {
    let mut found = resolved(document, schema);
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let name = step.trim_end_matches("[]");
        if !name.is_empty() {
            found = resolved(document, found["properties"].get(name)?);
        }
        if step.ends_with("[]") {
            found = resolved(document, found.get("items")?);
        }
    }
    Some(found)
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    all
}

/// A path with the examples of its parts.
fn with_examples(path: &str, operation: &Value) -> String {
    let mut uri = path.to_owned();
    for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "path") {
        let example = parameter["example"].to_string();
        uri = uri.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), example.trim_matches('"'));
    }
    assert!(!uri.contains('{'), "{path}: a part of the address is not described, or has no example");
    uri
}

#[test]
fn the_document_has_all_of_the_interface_that_clients_know() {
    let document = document();
    let (mut operation, mut missing) = (Value::Null, Vec::new());
    for line in INTERFACE.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (line.starts_with(' '), &words[..]) {
            (false, [method, path, id]) => {
                operation = document["paths"][path][method.to_lowercase()].clone();
                if operation["operationId"] != *id {
                    missing.push(line);
                }
            }
            (true, ["query", name, kind_wanted]) => {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let found = parameters.into_iter().find(|p| p["in"] == "query" && p["name"] == *name);
                if !found.is_some_and(|p| {
                    kind(&resolved(&document, &p["schema"])) == *kind_wanted
                        || p["schema"]["$ref"].is_string()
                        || p["content"].is_object()
                        || p["schema"]["oneOf"].is_array()
                }) {
                    missing.push(line);
                }
            }
            (true, [place @ ("body" | "answer"), media_type, path, kind_wanted]) => {
                let bodies: Vec<&Value> = match *place {
                    "body" => vec![&operation["requestBody"]["content"][media_type]["schema"]],
                    _ => operation["responses"]
                        .as_object()
                        .unwrap()
                        .iter()
                        .filter(|(status, _)| status.starts_with('2'))
                        .map(|(_, response)| &response["content"][media_type]["schema"])
                        .collect(),
                };
                let (kind_wanted, words) = kind_wanted.split_once('=').unwrap_or((kind_wanted, ""));
                let fits = bodies.into_iter().filter(|body| !body.is_null()).any(|body| {
                    member(&document, body, path.trim_start_matches('.')).is_some_and(|found| {
                        let known = found["enum"].as_array().cloned().unwrap_or_default();
                        let all = words.split('|').filter(|w| !w.is_empty()).all(|w| known.iter().any(|k| k == w));
                        all && matches!(kind(&found), k if k == kind_wanted || k == "any" || kind_wanted == "any")
                    })
                });
                if !fits {
                    missing.push(line);
                }
            }
            _ => panic!("not a line of the interface: {line}"),
        }
    }
    assert!(missing.is_empty(), "missing in the document:\n{}", missing.join("\n"));
}

async fn every_operation_of_the_document_is_one_of_the_router() {
    let service = Service::start().await;
    let document = document();
    for (method, path, operation) in operations(&document) {
        let uri = with_examples(&path, &operation);
        let answer = service.call(Method::from_bytes(method.as_bytes()).unwrap(), &uri, None).await;
        assert_ne!(answer.status, 405, "{method} {path}");
        let body = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert!(!body.contains("No operation has this path."), "{method} {path}: {body}");
        let status = answer.status.as_u16().to_string();
        assert!(operation["responses"].get(&status).is_some(), "{method} {path}: {status} is not in the document");
    }
}

async fn every_operation_of_the_router_is_in_the_document() {
    let service = Service::start().await;
    let document = document();
    for (path, item) in document["paths"].as_object().unwrap() {
        let (_, operation) = item.as_object().unwrap().iter().next().unwrap();
        let uri = with_examples(path, operation);
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE"] {
            let answer = service.call(Method::from_bytes(method.as_bytes()).unwrap(), &uri, None).await;
            let is_known = item.get(method.to_lowercase()).is_some();
            assert_eq!(answer.status != 405, is_known, "{method} {path}: {}", answer.status);
        }
    }
}

#[test]
fn every_operation_is_described_in_full() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let place = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{place}: no id")).to_owned();
        assert!(ids.insert(id), "{place}: its id is taken");
        assert!(operation["summary"].as_str().is_some_and(|s| s.ends_with('.')), "{place}: no summary");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{place}");
        let tag = &operation["tags"][0];
        assert!(document["tags"].as_array().unwrap().iter().any(|t| t["name"] == *tag), "{place}: {tag}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{place}: {parameter}");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = resolved(&document, response);
            assert!(response["description"].as_str().is_some_and(|d| !d.is_empty()), "{place}: {status}");
            if status == "414" || status == "431" {
                continue;
            }
            assert!(response["headers"]["X-OPID"].is_object(), "{place}: {status}");
            if status == "429" || status == "503" {
                assert!(response["headers"]["Retry-After"].is_object(), "{place}: {status}");
            }
            if !status.starts_with('2') && status != "304" {
                assert!(!response["content"]["application/json"].is_null(), "{place}: {status} without a body");
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(schema["description"].is_string(), "{name}: no description");
        for (member, of) in schema["properties"].as_object().into_iter().flatten() {
            let said = of["description"].is_string() || of["$ref"].is_string() || of["oneOf"].is_array();
            assert!(said, "{name}.{member}: no description");
        }
    }
}

#[test]
fn the_operations_that_a_key_makes_happen_once_are_those_that_their_routes_mark() {
    let document = document();
    let has_key = |operation: &Value| {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        parameters.into_iter().any(|parameter| parameter["name"] == "Idempotency-Key")
    };
    let keyed: BTreeSet<_> = operations(&document)
        .into_iter()
        .filter(|(.., operation)| has_key(operation))
        .map(|(.., operation)| {
            assert!(operation["responses"]["422"].is_object());
            operation["operationId"].as_str().unwrap().to_owned()
        })
        .collect();
    let known = [
        "dataJobCreate",
        "dataJobExecutionStart",
        "dataJobUndelete",
        "deploymentRollback",
        "deploymentUpdate",
        "sourcesUpload",
    ];
    assert!(keyed.iter().eq(known), "{keyed:?}");
}

/// The generated requests of `the_service_does_what_its_document_says` must not allow more than the document describes.
#[test]
fn generated_requests_allow_a_precondition_or_a_used_key_to_fail_only_where_the_document_says_so() {
    const CONDITIONAL: [&str; 4] = ["304", "400", "412", "422"];
    /// The operations with a rule that JSON Schema can't express; each has its reason in the file.
    const BEYOND_SCHEMA: [&str; 5] =
        ["dataJobCreate", "dataJobExecutionCancel", "dataJobUpdate", "jobsQuery", "sourcesUpload"];
    let settings: toml::Value =
        toml::from_str(include_str!("../../../devtools/schemathesis/schemathesis.toml")).unwrap();
    let texts = |value: Option<&toml::Value>| -> Vec<String> {
        match value {
            Some(toml::Value::Array(texts)) => texts.iter().map(|text| text.as_str().unwrap().to_owned()).collect(),
            Some(text) => vec![text.as_str().unwrap().to_owned()],
            None => Vec::new(),
        }
    };
    let allowed_in = |part: &toml::Value| {
        texts(part.get("checks").and_then(|checks| checks.get("positive_data_acceptance")?.get("expected-statuses")))
    };
    let is_conditional = |status: &String| CONDITIONAL.contains(&status.as_str());
    assert!(!allowed_in(&settings).iter().any(is_conditional), "not for every operation");
    let mut allowed = BTreeMap::new();
    for part in settings["operations"].as_array().unwrap() {
        let statuses: BTreeSet<_> = allowed_in(part).into_iter().filter(is_conditional).collect();
        if statuses.is_empty() {
            continue;
        }
        for operation in texts(part.get("include-operation-id")) {
            assert_eq!(allowed.insert(operation.clone(), statuses.clone()), None, "{operation} is named twice");
        }
    }
    for (_, path, operation) in operations(&document()) {
        let id = operation["operationId"].as_str().unwrap();
        let described =
            operation["responses"].as_object().unwrap().keys().filter(|status| is_conditional(status)).cloned();
        let expected: BTreeSet<_> = described.filter(|status| status != "400" || BEYOND_SCHEMA.contains(&id)).collect();
        assert_eq!(allowed.remove(id).unwrap_or_default(), expected, "{id}: {path}");
    }
    assert!(allowed.is_empty(), "no such operations: {allowed:?}");
}

#[test]
fn the_words_of_the_document_are_those_of_the_model() {
    let words = |name: &str| -> Vec<String> {
        let document = document();
        let words = document["components"]["schemas"][name]["enum"].as_array().unwrap_or_else(|| panic!("{name}"));
        words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let statuses = model::execution::Status::ALL.map(|status| status.as_str().to_lowercase());
    assert_eq!(words("DataJobExecutionStatus"), statuses);
    assert_eq!(words("DataJobMode"), ["testing", "release"]);
    for mode in words("DataJobMode") {
        assert_eq!(model::deployment::Mode::parse(&mode).map(model::deployment::Mode::as_str), Some(&*mode));
    }
    let types = [model::execution::Type::Manual, model::execution::Type::Scheduled];
    assert_eq!(words("DataJobExecutionType"), types.map(|kind| kind.as_str().to_lowercase()));
    let statuses = [Status::None, Status::Success, Status::PlatformError, Status::UserError];
    assert_eq!(words("DataJobRolloutStatus"), statuses.map(Status::as_str));
    let phases = [Phase::Pending, Phase::RolledOut, Phase::Retrying, Phase::Failed];
    assert_eq!(words("DataJobRolloutPhase"), phases.map(Phase::as_str));
    let faults = [Fault::User, Fault::Platform].map(|fault| serde_json::to_value(fault).unwrap());
    assert_eq!(words("Fault").into_iter().map(Value::String).collect::<Vec<_>>(), faults);
}

async fn the_document_and_its_page_are_served_and_load_nothing_from_elsewhere() {
    let service = Service::start().await;
    let served = service.get("/data-jobs/api-docs").await;
    assert_eq!(served.header("content-type"), "application/json");
    assert_eq!(served.ok()["openapi"], "3.1.0");
    let page = service.get("/data-jobs/swagger-ui.html").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    let html = String::from_utf8(page.bytes).unwrap();
    assert!(!html.contains("//"), "{html}");
    let files: Vec<&str> = html.split('"').filter(|part| part.starts_with("swagger-ui/")).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let answer = service.get(&format!("/data-jobs/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(answer.bytes.len() > 100 && answer.header("x-content-type-options") == "nosniff", "{file}");
        let media_type = match file.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "image/png",
        };
        assert_eq!(answer.header("content-type"), media_type, "{file}");
    }
    service.get("/data-jobs/swagger-ui/index.html").await.refused(404);
}
