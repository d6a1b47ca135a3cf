//! GraphQL in its standard shape, and the page to try it.

use serde_json::{Value, json};

use crate::support::Service;

on_each_database!(
    a_post_is_answered_with_the_names_of_the_query,
    what_is_wrong_with_a_query_is_reported_in_its_errors,
    a_query_of_the_schema_alone_is_a_page_of_nothing_to_the_clients_that_get_pages,
    a_database_that_is_gone_is_reported_by_the_status,
    the_explorer_is_one_page_that_loads_nothing_from_elsewhere,
);

const PATH: &str = "/data-jobs/graphql";

async fn a_post_is_answered_with_the_names_of_the_query() {
    let service = Service::start().await;
    service.create("t1", "daily-sales").await;
    let query = "query q($name: String) { jobs(filter: [{property: \"jobName\", pattern: \
            $name}]) { totalItems content { jobName } } }";
    let answer =
        service.post(PATH, json!({"query": query, "variables": {"name": "DAILY*"}, "operationName": "q"})).await;
    assert_eq!(answer.ok(), json!({"data": {"jobs": {"totalItems": 1, "content": [{"jobName": "daily-sales"}]}}}));
    let body = json!({"query": "{ a: jobs { totalItems } executions { totalItems } }", "variables": null});
    let both = service.post(PATH, body).await.ok();
    assert_eq!(both, json!({"data": {"a": {"totalItems": 1}, "executions": {"totalItems": 0}}}));
    let two = "query a { jobs { totalItems } } query b { executions { totalItems } }";
    let named = service.post(PATH, json!({"query": two, "operationName": "b"})).await.ok();
    assert_eq!(named, json!({"data": {"executions": {"totalItems": 0}}}));
}

async fn what_is_wrong_with_a_query_is_reported_in_its_errors() {
    let service = Service::start().await;
    for (query, part) in [
        ("{ nothing }", "nothing"),
        ("{", "expected"),
        ("{ jobs(pageSize: 5000) { totalItems } }", "query"),
        ("{ jobs(filter: [{property: \"color\"}]) { totalItems } }", "query"),
    ] {
        let body: Value = service.post(PATH, json!({ "query": query })).await.ok();
        assert!(body["data"].is_null(), "{body}");
        let message = body["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(part), "{query}: {message}");
        assert_eq!(body["errors"][0]["extensions"]["code"], "graphql_query_invalid", "{body}");
    }
    let aliases: Vec<_> = (0..20).map(|n| format!("a{n}: jobs {{ totalItems }}")).collect();
    let why = service.post(PATH, json!({"query": format!("{{ {} }}", aliases.join(" "))})).await.refused(400);
    assert!(why.contains("limit 3"), "{why}");
    service.post(PATH, "no JSON").await.refused(400);
    service.post(PATH, json!({"variables": {}})).await.refused(400);
    service.post(PATH, json!({"query": "{ x }", "variables": [1]})).await.refused(400);
    service.post(PATH, json!({"query": "#".repeat(40_000)})).await.refused(400);
}

async fn a_query_of_the_schema_alone_is_a_page_of_nothing_to_the_clients_that_get_pages() {
    let service = Service::start().await;
    let answer = service.query(&[("query", "{ __typename }")]).await.ok();
    assert_eq!(answer["data"], json!({"__typename": "Query", "content": null, "totalPages": 0, "totalItems": 0}));
    let answer = service.post("/data-jobs/graphql", json!({"query": "{ __typename }"})).await.ok();
    assert_eq!(answer["data"], json!({"__typename": "Query"}));
}

async fn a_database_that_is_gone_is_reported_by_the_status() {
    let service = Service::start().await;
    service.lose_database().await;
    service.post(PATH, json!({"query": "{ jobs { totalItems } }"})).await.refused(503);
}

async fn the_explorer_is_one_page_that_loads_nothing_from_elsewhere() {
    let service = Service::start().await;
    let answer = service.get(PATH).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/html"));
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
    let page = String::from_utf8(answer.bytes).unwrap();
    for elsewhere in ["http://", "https://", "src=", "@import", "<link"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    for id in ["query", "variables", "token"] {
        assert!(page.contains(&format!("<label for=\"{id}\">")), "{id} has a label");
    }
}
