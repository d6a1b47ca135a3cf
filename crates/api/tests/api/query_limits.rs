//! Limits of a GraphQL query: what is larger is refused before it is validated and before any row is read.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use model::{
    job::{DataJob, JobConfig},
    name::{JobId, JobName, TeamName},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, Service, Wish};

on_each_database!(
    fragments_that_expand_without_bounds_are_refused_at_once,
    a_query_that_is_as_large_as_it_may_be_is_answered_soon,
    the_explorers_ask_for_the_schema_and_nesting_it_further_is_refused,
    rows_of_aliases_and_nested_pages_count_together,
    what_is_looked_for_is_limited_over_all_pages,
    every_query_of_the_clients_is_accepted_at_its_largest_page,
    an_answer_that_takes_more_memory_than_there_is_is_refused,
    a_large_answer_delays_no_other_request,
    the_search_of_a_client_that_left_ends_soon,
);

const POST: &str = "/data-jobs/graphql";

/// `n` fragments, each of which spreads the next `times` times.
fn bomb(n: usize, times: usize) -> String {
    let spreads = |to: usize| format!("...f{to} ").repeat(times);
    let mut query = format!("{{ {} }}", spreads(0));
    for i in 0..n {
        write!(query, " fragment f{i} on Query {{ {} }}", spreads(i + 1)).unwrap();
    }
    write!(query, " fragment f{n} on Query {{ __typename }}").unwrap();
    query
}

/// A part `count` times, with its number in place of each `#`.
fn many(part: &str, count: usize) -> String {
    (0..count).map(|n| part.replace('#', &n.to_string())).collect()
}

/// Sends a query both ways; both have to answer alike.
async fn both(service: &Service, query: &str, variables: &Value) -> [Answer; 2] {
    let text = variables.to_string();
    let got = service.query(&[("query", query), ("variables", &text)]).await;
    [got, service.post(POST, json!({"query": query, "variables": variables})).await]
}

async fn refused(service: &Service, query: &str, variables: &Value, limit: &str) {
    let begun = Instant::now();
    for answer in both(service, query, variables).await {
        let why = answer.refused(400);
        assert!(why.contains(limit), "{why}: {}", &query[..query.len().min(200)]);
        assert_eq!(answer.json()["errors"][0]["message"], why.as_str());
    }
    assert!(begun.elapsed().as_secs() < 2, "{:?}: {}", begun.elapsed(), &query[..query.len().min(200)]);
}

async fn fragments_that_expand_without_bounds_are_refused_at_once() {
    let service = Service::start().await;
    for (n, times) in [(7, 4), (22, 2), (31, 2), (31, 3), (200, 2)] {
        refused(&service, &bomb(n, times), &json!({}), "limit").await;
    }
    // Operations that are not executed are validated as well.
    let unused = bomb(7, 4).replacen("{ ...f0", "query a { __typename } query b { ...f0", 1);
    for name in ["a", "b"] {
        let query = [("query", unused.as_str()), ("operationName", name)];
        assert!(service.query(&query).await.refused(400).contains("limit 2000"));
        let body = json!({"query": unused, "operationName": name});
        assert!(service.post(POST, body).await.refused(400).contains("limit 2000"));
    }
    let never_spread = bomb(7, 4).replacen("{ ...f0 ...f0 ...f0 ...f0  }", "{ __typename }", 1);
    assert!(never_spread.starts_with("{ __typename }"));
    refused(&service, &never_spread, &json!({}), "limit 2000").await;
    for circle in [
        "{ ...a } fragment a on Query { ...a }",
        "{ ...a } fragment a on Query { ...b } fragment b on Query { ...c } fragment c on Query { ...a }",
        "{ __typename } fragment a on Query { ...b ...b } fragment b on Query { ...a ...a }",
    ] {
        refused(&service, circle, &json!({}), "spreads itself").await;
    }
    refused(&service, &bomb(8, 1), &json!({}), "limit 8").await;
    service.query(&[("query", &bomb(7, 1))]).await.ok();
    // The library's own message for an unknown fragment stays.
    let unknown = service.query(&[("query", "{ ...nobody }")]).await;
    assert!(unknown.refused(400).contains("nobody"));
}

async fn a_query_that_is_as_large_as_it_may_be_is_answered_soon() {
    let service = Service::start().await;
    for (query, status) in [
        (format!("{{ {} }}", many("a#: __typename ", 1500)), 200),
        (format!("{{ {} }}", "__typename ".repeat(1900)), 200),
        (format!("{{ jobs {{ content {{ {} }} }} }}", many("a#: jobName ", 1900)), 200),
        (format!("{{ jobs {{ content {{ {} }} }} }}", many("unknownField# ", 1500)), 400),
        (format!("{{ jobs {{ content {{ {} }} }} }}", many("a: jobName a: config { team } ", 600)), 400),
        (format!("{{ {} __typename {} }}", "... on Query { ".repeat(15), "} ".repeat(15)), 200),
        (format!("{{ __typename {} }}", "@include(if: true) ".repeat(40)), 200),
        (format!("query({}) {{ __typename }}", many("$v#: Int ", 1500)), 400),
        (many("query q# { __typename } ", 900), 400),
        (format!("{{ __typename }} {}", many("fragment f# on Query { __typename } ", 800)), 400),
        (bomb(7, 2), 200),
        (format!("{{ jobs(filter: [{}]) {{ totalItems }} }}", "{property: \"jobName\"} ".repeat(1000)), 400),
        (format!("{{ jobs(search: {}1{}) {{ totalItems }} }}", "[".repeat(60), "]".repeat(60)), 400),
    ] {
        let begun = Instant::now();
        let answer = service.query(&[("query", &query)]).await;
        let took = begun.elapsed();
        assert_eq!(answer.status, status, "{}: {}", &query[..100], String::from_utf8_lossy(&answer.bytes));
        assert!(took.as_millis() < 1000, "{took:?}: {}", &query[..100]);
    }
    // Texts that are hard to read are no queries, and soon found out.
    for text in [
        "{".repeat(32_000),
        "[".repeat(32_000),
        format!("{{ a(b: {}", "[".repeat(30_000)),
        format!("{{ a(b: {}", "{a:".repeat(10_000)),
        format!("{{ a {}", "@b".repeat(15_000)),
        format!("query(a: {}", "[".repeat(30_000)),
        "\"\"\"".repeat(10_000),
        "#".repeat(32_000),
        format!("{{ a(b: \"{}\") }}", "\\u0061".repeat(5_000)),
    ] {
        let begun = Instant::now();
        let body = service.post(POST, json!({"query": text})).await.ok();
        assert!(body["errors"][0]["message"].is_string(), "{body}");
        assert!(begun.elapsed().as_millis() < 1000, "{:?}: {}", begun.elapsed(), &text[..20]);
    }
}

async fn the_explorers_ask_for_the_schema_and_nesting_it_further_is_refused() {
    let service = Service::start().await;
    let kinds = "kind name ofType { ".repeat(9);
    let reference = format!("{kinds} kind name {}", "}".repeat(9));
    let introspection = format!(
        "query IntrospectionQuery {{ __schema {{ queryType {{ name }} mutationType {{ name }} subscriptionType {{ name }} \
           types {{ ...FullType }} directives {{ name description isRepeatable locations args {{ ...InputValue }} }} }} }} \
         fragment FullType on __Type {{ kind name description specifiedByURL fields(includeDeprecated: true) {{ name \
           description args(includeDeprecated: true) {{ ...InputValue }} type {{ ...TypeRef }} isDeprecated \
           deprecationReason }} inputFields(includeDeprecated: true) {{ ...InputValue }} interfaces {{ ...TypeRef }} \
           enumValues(includeDeprecated: true) {{ name description isDeprecated deprecationReason }} possibleTypes \
           {{ ...TypeRef }} }} \
         fragment InputValue on __InputValue {{ name description type {{ ...TypeRef }} defaultValue isDeprecated \
           deprecationReason }} \
         fragment TypeRef on __Type {{ {reference} }}"
    );
    let [got, posted] = both(&service, &introspection, &json!({})).await;
    got.ok();
    let types = posted.ok()["data"]["__schema"]["types"].as_array().unwrap().len();
    assert!((20..40).contains(&types), "{types}");

    let nested = "fields { type { ofType { ofType { ".repeat(3);
    let query = format!("{{ __schema {{ types {{ {nested} name {} }} }} }}", "} } } } ".repeat(3));
    let begun = Instant::now();
    service.query(&[("query", &query)]).await.ok();
    assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
    let nested = "fields { type { ofType { ofType { ".repeat(4);
    let query = format!("{{ __schema {{ types {{ {nested} name {} }} }} }}", "} } } } ".repeat(4));
    refused(&service, &query, &json!({}), "limit 400000").await;
}

async fn rows_of_aliases_and_nested_pages_count_together() {
    let service = Service::start().await;
    let pages = |count: usize, size: usize, runs: usize| {
        let executions = format!("executions(pageSize: {runs}) {{ id }}");
        let page = format!("a#: jobs(pageSize: {size}) {{ content {{ deployments {{ {executions} }} }} }} ");
        format!("{{ {} }}", many(&page, count))
    };
    refused(&service, &pages(14, 1000, 100), &json!({}), "limit 3").await;
    refused(&service, &pages(1, 1000, 100), &json!({}), "limit 12000").await;
    refused(&service, &pages(1, 1000, 12), &json!({}), "limit 12000").await;
    refused(&service, &pages(2, 1000, 10), &json!({}), "limit 12000").await;
    refused(&service, &pages(4, 1, 1), &json!({}), "limit 3").await;
    for accepted in
        [pages(1, 1000, 10), pages(3, 390, 9), "{ a: executions { content { id } } jobs { totalItems } }".into()]
    {
        for answer in both(&service, &accepted, &json!({})).await {
            answer.ok();
        }
    }
    // Defaults of variables and of the schema count, also if another operation has a smaller one.
    let query = "query a($n: Int = 1000) { jobs(pageSize: $n) { content { deployments { executions { id } } } } } \
                 query b($n: Int = 1) { jobs(pageSize: $n) { totalItems } }";
    for name in ["a", "b"] {
        let why = service.query(&[("query", query), ("operationName", name)]).await.refused(400);
        assert!(why.contains("limit 12000"), "{why}");
    }
    let query = "query a($n: Int = 1) { jobs(pageSize: $n) { content { deployments { executions { id } } } } }";
    refused(&service, query, &json!({"n": 1000}), "limit 12000").await;
    for answer in both(&service, query, &json!({})).await {
        answer.ok();
    }
    // Through fragments, on the query and on its parts.
    let query = "{ ...q } fragment q on Query { jobs(pageSize: 1000) { content { deployments { ...d } } } } \
                 fragment d on DataJobDeployment { executions(pageSize: 50) { id } }";
    refused(&service, query, &json!({}), "limit 12000").await;
    let fields = many("a#: id ", 100);
    let query = format!(
        "{{ jobs(pageSize: 1000) {{ content {{ deployments {{ executions(pageSize: 10) {{ {fields} }} }} }} }} }}"
    );
    refused(&service, &query, &json!({}), "limit 400000").await;
}

async fn what_is_looked_for_is_limited_over_all_pages() {
    let service = Service::start().await;
    let ask = async |query: &str, variables: Value| {
        service.query(&[("query", query), ("variables", &variables.to_string())]).await
    };
    let predicate = json!({"property": "config.description", "pattern": "baba"});
    let predicates = |count: usize| json!({"f": vec![predicate.clone(); count]});
    let one = "query($f: [Predicate]) { jobs(filter: $f) { totalItems } }";
    ask(one, predicates(16)).await.ok();
    assert!(ask(one, predicates(17)).await.refused(400).contains("limit 16"));
    let three = "query($f: [Predicate]) { a: jobs(filter: $f) { totalItems } b: jobs(filter: $f) { totalItems } \
                 c: jobs(filter: $f) { totalItems } }";
    ask(three, predicates(5)).await.ok();
    assert!(ask(three, predicates(6)).await.refused(400).contains("limit 16"));
    let aliases = many("a#: jobs(filter: $f) { totalItems } ", 13);
    let thirteen = format!("query($f: [Predicate]) {{ {aliases} }}");
    assert!(ask(&thirteen, predicates(400)).await.refused(400).contains("limit"));
    // A variable counts in each place that uses it.
    let runs = many("a#: executions(filter: $f) { id } ", 20);
    let query = format!("query($f: DataJobExecutionFilter) {{ jobs {{ content {{ deployments {{ {runs} }} }} }} }}");
    let names: Vec<_> = (0..2000).map(|n| format!("j{n}")).collect();
    assert!(ask(&query, json!({"f": {"jobNameIn": names}})).await.refused(400).contains("limit 20000"));

    let text = "x".repeat(201);
    for (variables, limit) in [
        (json!({"f": [{"property": "jobName", "pattern": text}]}), "limit 200 characters"),
        (json!({"f": [{"property": "config.description", "pattern": text}]}), "limit 200 characters"),
        (json!({"f": [{"property": "jobName", "pattern": "*a".repeat(9)}]}), "limit 8"),
        (json!({"f": [{"property": "jobName", "pattern": "?".repeat(9) + "*"}]}), "limit 8"),
        (json!({"f": [{"property": "config.team", "pattern": "%a".repeat(9)}]}), "limit 8"),
    ] {
        assert!(ask(one, variables).await.refused(400).contains(limit), "{limit}");
    }
    ask(one, json!({"f": [{"property": "jobName", "pattern": "*a".repeat(8)}]})).await.ok();
    let search = "query($s: String) { jobs(search: $s) { content { jobName } } }";
    assert!(ask(search, json!({"s": text})).await.refused(400).contains("limit 200"));
    ask(search, json!({"s": "%a_".repeat(60)})).await.ok();

    let runs =
        "query($f: DataJobExecutionFilter, $n: Int) { executions(filter: $f, pageNumber: $n) { content { id } } }";
    let names: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    assert!(ask(runs, json!({"f": {"jobNameIn": names}})).await.refused(400).contains("limit 1000"));
    assert!(ask(runs, json!({"f": {"teamNameIn": names}})).await.refused(400).contains("limit 1000"));
    ask(runs, json!({"f": {"jobNameIn": names[..1000], "statusIn": vec!["RUNNING"; 2000]}, "n": i32::MAX})).await.ok();
}

async fn every_query_of_the_clients_is_accepted_at_its_largest_page() {
    use crate::lists::{CLI, CLI_MORE, EXECUTIONS, PAGE};
    let service = Service::with(Wish { templates: true, ..Wish::default() }).await;
    service.query(&[("query", CLI)]).await.ok();
    service.query(&[("query", &CLI.replace("pageSize: 100", "pageSize: 1000"))]).await.ok();
    service.query(&[("query", CLI_MORE)]).await.ok();
    let properties = [
        "jobName",
        "config.team",
        "config.description",
        "config.schedule.nextRunEpochSeconds",
        "deployments.enabled",
        "deployments.status",
        "deployments.jobPythonVersion",
        "deployments.lastExecutionStatus",
        "deployments.lastExecutionTime",
        "deployments.lastExecutionDuration",
        "deployments.successfulExecutions",
        "deployments.failedExecutions",
    ];
    let filter: Vec<_> = properties.map(|property| json!({"property": property, "pattern": null, "sort": null})).into();
    let variables = json!({"pageNumber": 1, "pageSize": 1000, "search": "", "filter": filter});
    for answer in both(&service, PAGE, &variables).await {
        answer.ok();
    }
    let variables = json!({"pageNumber": 1, "pageSize": 1000, "order": {"property": "startTime", "direction": "DESC"},
        "filter": {"statusIn": ["USER_ERROR", "PLATFORM_ERROR"], "startTimeGte": "2024-03-08T00:00:00.000Z",
                   "teamNameIn": [], "jobNameIn": ["daily-sales"]}});
    for answer in both(&service, EXECUTIONS, &variables).await {
        answer.ok();
    }
}

async fn an_answer_that_takes_more_memory_than_there_is_is_refused() {
    let fill = async |memory_budget_mib| {
        let service = Service::with(Wish { memory_budget_mib, ..Wish::default() }).await;
        for n in 0..20 {
            let name = format!("daily-sales-{n}");
            service.create("t1", &name).await;
            let description = "x".repeat(10_000);
            let job = format!("/data-jobs/for-team/t1/jobs/{name}");
            service.put(&job, json!({"description": description, "config": {"schedule": {}}})).await.is(200);
        }
        service
    };
    let one = "{ jobs { content { config { description } } } }";
    let aliases = many("a#: description ", 350);
    let many = format!("{{ jobs {{ content {{ config {{ {aliases} }} }} }} }}");

    let service = fill(Some(1)).await;
    for answer in both(&service, one, &json!({})).await {
        answer.ok();
    }
    for answer in both(&service, &many, &json!({})).await {
        let why = answer.refused(429);
        assert!(why.contains("limit 1 MiB") && answer.header("retry-after") == "5", "{why}");
    }
    // It is given back.
    service.query(&[("query", one)]).await.ok();

    let service = fill(None).await;
    let why = service.query(&[("query", &many)]).await.refused(400);
    assert!(why.contains("limit 64 MiB"), "{why}");
    let posted = service.post(POST, json!({"query": many})).await;
    assert!(String::from_utf8_lossy(&posted.bytes).contains("64 MiB"), "{posted:?}");
    service.query(&[("query", one)]).await.ok();
}

async fn a_large_answer_delays_no_other_request() {
    let service = Arc::new(Service::start().await);
    let mut tx = service.db.write().await.unwrap();
    for number in 0..1000 {
        let job = DataJob {
            id: JobId(Uuid::from_u128(number)),
            name: JobName::parse(&format!("daily-sales-{number}")).unwrap(),
            team: TeamName::parse("a team").unwrap(),
            description: String::new(),
            config: JobConfig::default(),
        };
        assert!(store::jobs::insert(&mut tx, &job, None, "test", Timestamp::UNIX_EPOCH).await.unwrap());
    }
    tx.commit().await.unwrap();
    let query = format!("{{ jobs(pageSize: 1000) {{ content {{ {} }} }} }}", many("a#: jobName ", 300));
    let asking = Arc::clone(&service);
    let asked = tokio::spawn(async move { asking.post(POST, json!({"query": query})).await.status });
    // This thread is the one that carries requests out.
    let begun = Instant::now();
    let (mut seen, mut longest) = (begun, Duration::ZERO);
    while !asked.is_finished() {
        tokio::task::yield_now().await;
        longest = longest.max(seen.elapsed());
        seen = Instant::now();
    }
    let whole = begun.elapsed();
    assert_eq!(asked.await.unwrap(), 200);
    assert!(longest * 3 < whole, "{longest:?} of {whole:?}");
}

async fn the_search_of_a_client_that_left_ends_soon() {
    let service = Arc::new(Service::start().await);
    let mut tx = service.db.write().await.unwrap();
    for number in 0..300 {
        let job = DataJob {
            id: JobId(Uuid::from_u128(number)),
            name: JobName::parse(&format!("daily-sales-{number}")).unwrap(),
            team: TeamName::parse("a team").unwrap(),
            description: format!("{}c", "ab".repeat(4_999)),
            config: JobConfig::default(),
        };
        assert!(store::jobs::insert(&mut tx, &job, None, "test", Timestamp::UNIX_EPOCH).await.unwrap());
    }
    tx.commit().await.unwrap();
    let pattern = |times| json!({"property": "config.description", "pattern": format!("{}c", "ab".repeat(times))});
    let variables = json!({"f": (84..100).map(pattern).collect::<Vec<_>>()});
    // One is answered at once, the other on a thread of its own.
    for size in [10, 1000] {
        let runs = "deployments { executions(pageSize: 10) { id status } }";
        let query = format!(
            "query($f: [Predicate]) {{ jobs(pageSize: {size}, filter: $f) {{ content {{ jobName {runs} }} totalItems }} }}"
        );
        let (asking, body) = (Arc::clone(&service), json!({"query": query, "variables": variables}));
        let asked = tokio::spawn(async move { asking.post(POST, body).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!asked.is_finished());
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        let begun = Instant::now();
        let mut free = Vec::new();
        while free.len() < 2 {
            free.extend(service.db.read_search().await.ok());
        }
        // PostgreSQL ends a statement at its limit, SQLite when its transaction is dropped.
        let limit_seconds = if service.db.is_exclusive() { 2 } else { 12 };
        assert!(begun.elapsed().as_secs() < limit_seconds, "{:?}", begun.elapsed());
    }
}
