//! The list of jobs and runs in GraphQL, with the queries that the clients send.

use std::collections::BTreeMap;

use async_graphql::parser::{
    parse_schema,
    types::{ServiceDocument, TypeKind, TypeSystemDefinition},
};
use model::{Problem, execution::Status};
use serde_json::{Value, json};

use crate::support::{Service, Wish};

on_each_database!(
    the_command_line_client_gets_its_list,
    the_operations_page_gets_its_list_and_its_executions,
    without_a_query_the_first_jobs_are_answered,
    totals_are_zero_when_they_are_not_asked_for,
    jobs_are_filtered_as_upstream,
    a_search_looks_at_the_fields_that_are_selected,
    jobs_are_sorted_by_each_property_and_the_last_sort_counts,
    executions_are_sorted_by_the_value_of_each_property,
    executions_are_filtered_and_sorted,
    executions_of_deployments_take_variables_and_one_set_of_arguments,
    the_operation_is_chosen_by_name_where_there_are_several,
    bad_queries_are_refused_with_the_sentences_and_a_list_of_errors,
    the_schema_can_be_asked_for,
);

/// `vdk list -t t1`, letter by letter.
pub(crate) const CLI: &str = "{ jobs(pageNumber: 1, pageSize: 100, filter: [{ property: \"config.team\", \
        pattern: \"t1\", sort: ASC }, { property: \"jobName\", sort: ASC }]) { content \
        { jobName config { team description schedule { scheduleCron }  }  deployments \
        { enabled status }  }  }  }";

/// `vdk list -a -mmm`.
pub(crate) const CLI_MORE: &str = "{ jobs(pageNumber: 1, pageSize: 100, filter: [{ property: \"config.team\", \
        sort: ASC }, { property: \"jobName\", sort: ASC }]) { content { jobName config \
        { team description schedule { scheduleCron }  contacts { notifiedOnJobDeploy \
        notifiedOnJobSuccess notifiedOnJobFailurePlatformError \
        notifiedOnJobFailureUserError } }  deployments { enabled status jobVersion \
        lastDeployedBy lastDeployedDate executions { id type status startTime endTime \
        opId startedBy } }  }  }  }";

/// The operations page's list, as its GraphQL library sends it.
pub(crate) const PAGE: &str = "query jobsQuery($filter: [Predicate], $search: String, $pageNumber: Int, $pageSize: Int) {\n  jobs(pageNumber: $pageNumber, pageSize: $pageSize, filter: $filter, search: $search) {\n    content {\n      jobName\n      config {\n        team\n        description\n        sourceUrl\n        schedule {\n          scheduleCron\n          nextRunEpochSeconds\n          __typename\n        }\n        contacts {\n          notifiedOnJobSuccess\n          notifiedOnJobDeploy\n          notifiedOnJobFailureUserError\n          notifiedOnJobFailurePlatformError\n          __typename\n        }\n        __typename\n      }\n      deployments {\n        id\n        enabled\n        lastDeployedDate\n        lastDeployedBy\n        lastExecutionStatus\n        lastExecutionTime\n        lastExecutionDuration\n        successfulExecutions\n        failedExecutions\n        jobPythonVersion\n        executions(\n          pageNumber: 1\n          pageSize: 10\n          order: {property: \"startTime\", direction: DESC}\n        ) {\n          id\n          status\n          logsUrl\n          message\n          __typename\n        }\n        __typename\n      }\n      __typename\n    }\n    totalPages\n    totalItems\n    __typename\n  }\n}\n";

/// The operations page's executions.
pub(crate) const EXECUTIONS: &str = "query jobsQuery($pageNumber: Int, $pageSize: Int, $filter: DataJobExecutionFilter, $order: DataJobExecutionOrder) {\n  executions(pageNumber: $pageNumber, pageSize: $pageSize, filter: $filter, order: $order) {\n    content {\n      id\n      type\n      jobName\n      status\n      startTime\n      endTime\n      startedBy\n      message\n      opId\n      logsUrl\n      deployment {\n        enabled\n        jobVersion\n        deployedDate\n        deployedBy\n        resources {\n          cpuLimit\n          cpuRequest\n          memoryLimit\n          memoryRequest\n          __typename\n        }\n        schedule {\n          scheduleCron\n          __typename\n        }\n        vdkVersion\n        status\n        jobPythonVersion\n        __typename\n      }\n      __typename\n    }\n    totalPages\n    totalItems\n    __typename\n  }\n}\n";

/// One job with a deployment and two runs, one without anything, one of another team.
async fn fleet() -> Service {
    let service = Service::with(Wish { templates: true, ..Wish::default() }).await;
    service.deploy("t1", "daily-sales").await;
    service.reach("daily-sales").await;
    for status in [Status::UserError, Status::Succeeded] {
        let id = service.execute("t1", "daily-sales").await;
        service.run(&id).await;
        service.pass(60);
        service.end(&id, status, "").await;
        service.pass(60);
    }
    service.create("t1", "weekly-report").await;
    let job = "/data-jobs/for-team/t1/jobs/weekly-report";
    service
        .put(job, json!({"description": "100% of_the week", "config": {"schedule": {"schedule_cron": "0 3 * * MON"}}}))
        .await
        .is(200);
    service.create("team two", "daily-costs").await;
    service
}

/// The fleet with a value of its own in each property of jobs that lists are sorted by: another deployment that is disabled
/// and failed its last rollout, with executions of its own, one of which is active.
async fn varied_fleet() -> Service {
    let service = fleet().await;
    let job = |team: &str, name: &str| format!("/data-jobs/for-team/{team}/jobs/{name}");
    let contacts = json!({"config": {"contacts": {"notified_on_job_deploy": ["ann@example.com"]}}});
    service.put(&job("team%20two", "daily-costs"), contacts).await.is(200);
    let version = service.upload("t1", "weekly-report").await;
    let deployments = format!("{}/deployments", job("t1", "weekly-report"));
    let body = json!({"job_version": version, "python_version": "3.10", "vdk_version": "0.3.1", "enabled": false});
    service.post(&deployments, body).await.is(202);
    service.reach("weekly-report").await;
    for (status, seconds) in [(Status::UserError, 20), (Status::PlatformError, 30)] {
        let id = service.execute("t1", "weekly-report").await;
        service.run(&id).await;
        service.pass(seconds);
        service.end(&id, status, "").await;
        service.pass(60);
    }
    service
        .put(&job("t1", "daily-sales"), json!({"config": {"schedule": {"schedule_cron": "0 5 * * *"}}}))
        .await
        .is(200);
    service.reach("daily-sales").await;
    service
        .fail(
            "weekly-report",
            Problem::new(model::problem::Code::PackagesUnresolvable, "a", "b").nothing_changed().fix("Retry."),
        )
        .await;
    let id = service.execute("t1", "daily-sales").await;
    service.run(&id).await;
    service
}

fn names(body: &Value) -> Vec<&str> {
    body["data"]["content"].as_array().unwrap().iter().map(|job| job["jobName"].as_str().unwrap()).collect()
}

async fn the_command_line_client_gets_its_list() {
    let service = fleet().await;
    insta::assert_json_snapshot!("vdk list", service.query(&[("query", CLI)]).await.ok());
    insta::assert_json_snapshot!("vdk list with more", service.query(&[("query", CLI_MORE)]).await.ok());
}

async fn the_operations_page_gets_its_list_and_its_executions() {
    let service = fleet().await;
    let variables = json!({"pageNumber": 1, "pageSize": 25, "search": "",
        "filter": [{"property": "deployments.enabled", "pattern": "enabled", "sort": null},
                   {"property": "deployments.lastExecutionTime", "pattern": null, "sort": "DESC"}]});
    let page = [("operationName", "jobsQuery"), ("variables", &variables.to_string()), ("query", PAGE)];
    insta::assert_json_snapshot!("the page's list", service.query(&page).await.ok());

    let variables = json!({"pageNumber": 1, "pageSize": 500, "order": null,
        "filter": {"statusIn": ["USER_ERROR", "PLATFORM_ERROR"], "startTimeGte": "2024-03-08T00:00:00.000Z", "teamNameIn": []}});
    let page = [("operationName", "jobsQuery"), ("variables", &variables.to_string()), ("query", EXECUTIONS)];
    insta::assert_json_snapshot!("the page's executions", service.query(&page).await.ok());
}

async fn without_a_query_the_first_jobs_are_answered() {
    let service = fleet().await;
    let body = service.get("/data-jobs/for-team/anything/jobs").await.ok();
    assert_eq!(names(&body), ["daily-costs", "daily-sales", "weekly-report"]);
    assert_eq!((&body["data"]["totalItems"], &body["data"]["totalPages"]), (&json!(3), &json!(1)));
}

async fn totals_are_zero_when_they_are_not_asked_for() {
    let service = fleet().await;
    let ask = async |query: &str| service.query(&[("query", query)]).await.ok();
    assert_eq!(
        ask("{ jobs { content { jobName } } }").await,
        json!({"data": {"content": [{"jobName": "daily-costs"}, {"jobName": "daily-sales"}, {"jobName": "weekly-report"}],
            "totalPages": 0, "totalItems": 0}, "errors": []})
    );
    assert_eq!(
        ask("{ jobs(pageSize: 2) { totalPages } }").await["data"],
        json!({"totalPages": 2, "totalItems": 0, "content": null})
    );
    assert_eq!(ask("{ executions { totalItems } }").await["data"]["totalItems"], 2);
    assert_eq!(ask("{ executions(filter: {jobNameIn: [\"none\"]}) { totalPages } }").await["data"]["totalPages"], 1);
    let page = ask("query q($n: Int) { a: jobs(pageNumber: $n) { content { jobName } } }").await;
    assert_eq!(names(&page).len(), 3, "an alias hides nothing");
}

async fn jobs_are_filtered_as_upstream() {
    let service = fleet().await;
    let all = vec!["daily-costs", "daily-sales", "weekly-report"];
    for (filter, expected) in [
        (json!([]), all.clone()),
        (json!([null]), all.clone()),
        (json!([{"property": "config.team", "pattern": "t1"}]), vec!["daily-sales", "weekly-report"]),
        (json!([{"property": "config.team", "pattern": "t_"}]), vec![]),
        (json!([{"property": "config.team", "pattern": "%two"}]), vec!["daily-costs"]),
        (json!([{"property": "config.team", "pattern": "t%"}]), all.clone()),
        (json!([{"property": "config.team", "pattern": null, "sort": null}]), all.clone()),
        (json!([{"property": null}]), all.clone()),
        (json!([{"property": "jobName", "pattern": "Daily-Sales"}]), vec!["daily-sales"]),
        (json!([{"property": "JOBNAME", "pattern": "daily"}]), vec![]),
        (json!([{"property": "jobName", "pattern": "daily%"}]), vec![]),
        (json!([{"property": "jobName", "pattern": "DAILY*"}]), vec!["daily-costs", "daily-sales"]),
        (json!([{"property": "jobName", "pattern": "*-s?les"}]), vec!["daily-sales"]),
        (json!([{"property": "jobName", "pattern": ""}]), all.clone()),
        (json!([{"property": "config.description", "pattern": "100% OF_THE"}]), vec!["weekly-report"]),
        (json!([{"property": "config.description", "pattern": "of.the"}]), vec![]),
        (json!([{"property": "config.schedule.scheduleCron", "pattern": "x", "sort": "ASC"}]), all.clone()),
        (json!([{"property": "deployments.enabled", "pattern": "enabled"}]), vec!["daily-sales"]),
        (json!([{"property": "deployments.enabled", "pattern": "DISABLED"}]), vec![]),
        (json!([{"property": "deployments.enabled", "pattern": "not_deployed"}]), vec!["daily-costs", "weekly-report"]),
        (
            json!([{"property": "deployments.enabled", "pattern": "enabled"}, {"property": "deployments.enabled", "pattern": "disabled"}]),
            vec![],
        ),
        (json!([{"property": "deployments.status", "pattern": "success"}]), vec!["daily-sales"]),
        (json!([{"property": "deployments.lastExecutionStatus", "pattern": "succeeded"}]), vec!["daily-sales"]),
        (json!([{"property": "deployments.lastExecutionStatus", "pattern": "USER_ERROR"}]), vec![]),
        (json!([{"property": "config.team", "pattern": "TEAM Two"}]), vec!["daily-costs"]),
        (json!([{"property": "config.sourceUrl", "pattern": "x", "sort": "ASC"}]), all.clone()),
        (
            json!([{"property": "config.schedule.nextRunEpochSeconds", "pattern": "1710000000-1720000000"}]),
            vec!["weekly-report"],
        ),
        (json!([{"property": "config.schedule.nextRunEpochSeconds", "pattern": "1-2"}]), vec![]),
        (json!([{"property": "deployments.jobPythonVersion", "pattern": "3.1"}]), vec!["daily-sales"]),
        (json!([{"property": "deployments.jobPythonVersion", "pattern": "3.12"}]), vec![]),
        (
            json!([{"property": "deployments.lastExecutionTime", "pattern": "1710000000-1710000180"}]),
            vec!["daily-sales"],
        ),
        (json!([{"property": "deployments.lastExecutionTime", "pattern": "1710000000-1710000179"}]), vec![]),
        (json!([{"property": "deployments.lastExecutionDuration", "pattern": "60"}]), vec!["daily-sales"]),
        (json!([{"property": "deployments.successfulExecutions", "pattern": "1-5"}]), vec!["daily-sales"]),
        (json!([{"property": "deployments.failedExecutions", "pattern": "0"}]), vec!["daily-costs", "weekly-report"]),
    ] {
        let variables = json!({"f": filter}).to_string();
        let query = "query($f: [Predicate]) { jobs(filter: $f) { content { jobName } totalItems } }";
        let body = service.query(&[("query", query), ("variables", &variables)]).await.ok();
        assert_eq!(names(&body), expected, "{filter}");
        assert_eq!(body["data"]["totalItems"], expected.len(), "{filter}");
    }
    for (search, count) in [("DAILY", 2), ("port", 1), ("%", 0), ("", 3), ("  ", 3)] {
        let variables = json!({"s": search}).to_string();
        let query = "query($s: String) { jobs(search: $s) { content { jobName } } }";
        let body = service.query(&[("query", query), ("variables", &variables)]).await.ok();
        assert_eq!(names(&body).len(), count, "{search}");
    }
}

async fn a_search_looks_at_the_fields_that_are_selected() {
    let service = fleet().await;
    let team = "config { team }";
    let schedule = "config { schedule { scheduleCron nextRunEpochSeconds } }";
    let state = "deployments { enabled lastExecutionStatus jobPythonVersion }";
    for (search, selected, expected) in [
        ("TWO", "", vec![]),
        ("TWO", team, vec!["daily-costs"]),
        ("of_the", "config { description }", vec!["weekly-report"]),
        ("mon", schedule, vec!["weekly-report"]),
        ("17", schedule, vec!["weekly-report"]),
        ("-1", schedule, vec!["daily-costs", "daily-sales"]),
        ("Enabled", state, vec!["daily-sales"]),
        ("not_deployed", state, vec!["daily-costs", "weekly-report"]),
        ("succeeded", state, vec!["daily-sales"]),
        ("3.11", state, vec!["daily-sales"]),
        ("https", "config { sourceUrl }", vec![]),
    ] {
        let query = format!("{{ jobs(search: {search:?}) {{ content {{ jobName {selected} }} totalItems }} }}");
        let body = service.query(&[("query", &query)]).await.ok();
        assert_eq!(names(&body), expected, "{search} {selected}");
        assert_eq!(body["data"]["totalItems"], expected.len(), "{search} {selected}");
    }
    let totals = service.query(&[("query", "{ jobs(search: \"none\") { totalItems } }")]).await.ok();
    assert_eq!(totals["data"]["totalItems"], 3, "with no field selected there is nothing to look at");
}

async fn jobs_are_sorted_by_each_property_and_the_last_sort_counts() {
    let service = varied_fleet().await;
    let (costs, sales, weekly) = ("daily-costs", "daily-sales", "weekly-report");
    for (property, ascending, descending) in [
        ("jobName", [costs, sales, weekly], [weekly, sales, costs]),
        ("config.team", [sales, weekly, costs], [costs, weekly, sales]),
        ("config.description", [costs, sales, weekly], [weekly, sales, costs]),
        // An absent value is the last one in both directions.
        ("config.schedule.nextRunEpochSeconds", [sales, weekly, costs], [weekly, sales, costs]),
        ("config.contacts", [sales, weekly, costs], [costs, weekly, sales]),
        ("config.contacts.present", [sales, weekly, costs], [costs, weekly, sales]),
        ("deployments.jobPythonVersion", [weekly, sales, costs], [sales, weekly, costs]),
        ("deployments.enabled", [sales, weekly, costs], [weekly, sales, costs]),
        ("deployments.status", [costs, sales, weekly], [weekly, sales, costs]),
        ("deployments.lastExecutionStatus", [weekly, sales, costs], [sales, weekly, costs]),
        ("deployments.lastExecutionTime", [sales, weekly, costs], [weekly, sales, costs]),
        ("deployments.lastExecutionDuration", [weekly, sales, costs], [sales, weekly, costs]),
        ("deployments.successfulExecutions", [costs, weekly, sales], [sales, weekly, costs]),
        ("deployments.failedExecutions", [costs, sales, weekly], [weekly, sales, costs]),
        // Nothing to sort by: the names decide.
        ("config.schedule.scheduleCron", [costs, sales, weekly], [costs, sales, weekly]),
        ("config.sourceUrl", [costs, sales, weekly], [costs, sales, weekly]),
    ] {
        for (direction, expected) in [("ASC", ascending), ("DESC", descending)] {
            let query = format!(
                "{{ jobs(filter: [{{property: \"{property}\", sort: {direction}}}]) {{ content {{ jobName }} }} }}"
            );
            let body = service.query(&[("query", &query)]).await.ok();
            assert_eq!(names(&body), expected, "{property} {direction}");
        }
    }
    let query = "{ jobs(filter: [{property: \"config.team\", sort: ASC}, {property: \
            \"jobName\", sort: DESC}]) { content { jobName } } }";
    assert_eq!(names(&service.query(&[("query", query)]).await.ok()), ["weekly-report", "daily-sales", "daily-costs"]);
    let query =
        "{ jobs(filter: [{property: \"jobName\", sort: ASC}], pageNumber: 2, pageSize: 2) { content { jobName } } }";
    assert_eq!(names(&service.query(&[("query", query)]).await.ok()), ["weekly-report"]);
    for number in ["0", "null", "1"] {
        let query = format!("{{ jobs(pageNumber: {number}, pageSize: 1) {{ content {{ jobName }} }} }}");
        assert_eq!(names(&service.query(&[("query", &query)]).await.ok()), ["daily-costs"], "{number}");
    }
}

async fn executions_are_sorted_by_the_value_of_each_property() {
    let service = varied_fleet().await;
    let fields = "id type status startTime endTime startedBy message opId jobName deployment { jobVersion vdkVersion \
                  deployedDate deployedBy schedule { scheduleCron } }";
    let run = |run: &Value, pointer: &str| run.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
    for (property, pointer) in [
        ("id", "/id"),
        ("type", "/type"),
        ("startTime", "/startTime"),
        ("endTime", "/endTime"),
        ("startedBy", "/startedBy"),
        ("message", "/message"),
        ("opId", "/opId"),
        ("jobName", "/jobName"),
        ("jobSchedule", "/deployment/schedule/scheduleCron"),
        ("jobVersion", "/deployment/jobVersion"),
        ("vdkVersion", "/deployment/vdkVersion"),
        ("lastDeployedDate", "/deployment/deployedDate"),
        ("lastDeployedBy", "/deployment/deployedBy"),
    ] {
        for direction in ["ASC", "DESC"] {
            let query = format!(
                "{{ executions(order: {{property: \"{property}\", direction: {direction}}}) {{ \
                        content {{ {fields} }} }} }}"
            );
            let listed = service.query(&[("query", &query)]).await.ok()["data"]["content"].as_array().unwrap().clone();
            assert_eq!(listed.len(), 5);
            let mut expected = listed.clone();
            expected.sort_by(|one, other| {
                let (a, b) = (run(one, pointer), run(other, pointer));
                let values = a.cmp(&b).then(run(one, "/id").cmp(&run(other, "/id")));
                // An absent value is the last one in both directions.
                a.is_none().cmp(&b.is_none()).then(if direction == "DESC" { values.reverse() } else { values })
            });
            let ids = |runs: &[Value]| runs.iter().map(|one| run(one, "/id").unwrap()).collect::<Vec<_>>();
            assert_eq!(ids(&listed), ids(&expected), "{property} {direction}");
            let different =
                |pointer| listed.iter().map(|one| run(one, pointer)).collect::<std::collections::HashSet<_>>();
            let all_alike = ["type", "jobVersion", "startedBy", "lastDeployedBy"];
            assert_eq!(different(pointer).len() == 1, all_alike.contains(&property), "{property}");
        }
    }
}

async fn executions_are_filtered_and_sorted() {
    let service = fleet().await;
    let (first, second) = ("daily-sales-1710000000", "daily-sales-1710000120");
    for (arguments, expected) in [
        ("", vec![second, first]),
        ("(order: {property: \"startTime\", direction: ASC})", vec![first, second]),
        ("(order: {property: \"endTime\", direction: DESC})", vec![second, first]),
        ("(order: {property: \"status\", direction: ASC})", vec![second, first]),
        ("(order: {property: \"jobTeam\", direction: DESC})", vec![second, first]),
        ("(order: {property: \"jobSchedule\", direction: DESC})", vec![second, first]),
        ("(order: {property: \"jobVersion\", direction: ASC})", vec![first, second]),
        ("(order: {property: \"vdkVersion\", direction: ASC})", vec![first, second]),
        ("(order: {property: \"lastDeployedDate\", direction: ASC})", vec![first, second]),
        ("(order: {property: \"lastDeployedBy\", direction: ASC})", vec![first, second]),
        ("(filter: {statusIn: [USER_ERROR]})", vec![first]),
        ("(filter: {statusIn: [], jobNameIn: [], teamNameIn: []})", vec![second, first]),
        ("(filter: {jobNameIn: [\"daily-sales\", \"other\"]})", vec![second, first]),
        ("(filter: {teamNameIn: [\"team two\"]})", vec![]),
        ("(filter: {startTimeGte: \"2024-03-09T17:02:00+01:00\"})", vec![second]),
        ("(filter: {startTimeLte: \"2024-03-09T16:01:59Z\"})", vec![first]),
        ("(filter: {endTimeGte: \"2024-03-09T16:03:00Z\"})", vec![second]),
        ("(filter: {endTimeLte: \"2024-03-09T16:01:00Z\"})", vec![first]),
        ("(pageNumber: 2, pageSize: 1)", vec![first]),
    ] {
        let query = format!("{{ executions{arguments} {{ content {{ id }} }} }}");
        let body = service.query(&[("query", &query)]).await.ok();
        let ids: Vec<_> =
            body["data"]["content"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{arguments}");
        if !arguments.contains("teamNameIn: [\"") {
            let query = format!("{{ jobs {{ content {{ deployments {{ executions{arguments} {{ id }} }} }} }} }}");
            let body = service.query(&[("query", &query)]).await.ok();
            let runs = body["data"]["content"][1]["deployments"][0]["executions"].as_array().unwrap();
            assert_eq!(runs.iter().map(|run| run["id"].as_str().unwrap()).collect::<Vec<_>>(), expected, "{arguments}");
        }
    }
}

async fn executions_of_deployments_take_variables_and_one_set_of_arguments() {
    let service = fleet().await;
    let query = "query($s: [DataJobExecutionStatus], $n: Int) { jobs { content { deployments { \
            executions(filter: {statusIn: $s}, pageSize: $n) { ...run } } } } } fragment \
            run on DataJobExecution { status }";
    let variables = r#"{"s": ["SUCCEEDED"], "n": null}"#;
    let body = service.query(&[("query", query), ("variables", variables)]).await.ok();
    assert_eq!(body["data"]["content"][1]["deployments"][0]["executions"], json!([{"status": "SUCCEEDED"}]));

    let query =
        "{ jobs { content { deployments { a: executions(pageSize: 1) { id } b: executions(pageSize: 2) { id } } } } }";
    assert!(service.query(&[("query", query)]).await.refused(400).contains("twice"));
    let query = "{ jobs(pageSize: 1000) { content { deployments { executions(pageSize: 1000) { id } } } } }";
    assert!(service.query(&[("query", query)]).await.refused(400).contains("limit 12000"));
}

async fn the_operation_is_chosen_by_name_where_there_are_several() {
    let service = fleet().await;
    let two = "query a { jobs { totalItems } } query b { executions { totalItems } }";
    for (parameter, name, total) in
        [("operation_name", "a", 3), ("operationName", "b", 2), ("operation_name", "\"b\"", 2)]
    {
        assert_eq!(service.query(&[("query", two), (parameter, name)]).await.ok()["data"]["totalItems"], total);
    }
    service.query(&[("query", two)]).await.refused(400);
    service.query(&[("query", two), ("operationName", "c")]).await.refused(400);
    let one = "{ jobs { totalItems } }";
    assert_eq!(service.query(&[("query", one), ("operationName", "other")]).await.ok()["data"]["totalItems"], 3);
}

async fn bad_queries_are_refused_with_the_sentences_and_a_list_of_errors() {
    let service = fleet().await;
    let many = |part: &str, count: usize| (0..count).map(|n| part.replace('#', &n.to_string())).collect::<String>();
    let aliases = format!("{{ {} }}", many("a#: jobs { totalItems } ", 20));
    let deep = format!("{{ __schema {{ types {{ {} name {} }} }} }}", "ofType { ".repeat(30), "} ".repeat(30));
    let long = format!("{{ jobs {{ totalItems }} }} #{}", "x".repeat(32 * 1024));
    for (query, part) in [
        ("{", "expected"),
        ("{ nothing }", "nothing"),
        ("{ jobs { content { jobName(x: 1) } } }", "jobName"),
        ("{ jobs { content } }", "content"),
        ("mutation { x }", "mutation"),
        ("{ jobs(pageNumber: -1) { totalItems } }", "count from 1"),
        ("{ jobs(pageSize: 0) { totalItems } }", "1 to 1000"),
        ("{ jobs(pageSize: 1001) { totalItems } }", "1 to 1000"),
        ("{ jobs(pageSize: -5) { totalItems } }", "1 to 1000"),
        ("{ jobs(pageSize: \"x\") { totalItems } }", "pageSize"),
        (
            "{ jobs(filter: [{property: \"config.color\", sort: ASC}]) { totalItems } }",
            "known are jobName, config.team",
        ),
        (
            "{ jobs(filter: [{property: \"deployments.lastExecutionTime\", pattern: \"yesterday\"}]) { totalItems } }",
            "1619460302-1619546702",
        ),
        (
            "{ jobs(filter: [{property: \"config.schedule.nextRunEpochSeconds\", pattern: \"2-1\"}]) { totalItems } }",
            "must not be above",
        ),
        ("{ jobs(filter: [{pattern: \"x\"}]) { totalItems } }", "no property"),
        ("{ jobs(filter: [{property: \"deployments.enabled\", pattern: \"maybe\"}]) { totalItems } }", "not_deployed"),
        ("{ jobs(filter: [{property: \"jobName\", sort: UP}]) { totalItems } }", "UP"),
        ("{ executions(order: {property: \"color\", direction: ASC}) { totalItems } }", "startTime"),
        ("{ executions(filter: {startTimeGte: \"yesterday\"}) { totalItems } }", "yesterday"),
        ("{ executions(pageSize: 5000) { totalItems } }", "1 to 1000"),
        ("{ jobs { content { deployments { executions(filter: {startTimeGte: 5}) { id } } } } }", ""),
        (&aliases, "limit 3"),
        (&deep, "deep"),
        (&long, "32768"),
    ] {
        let answer = service.query(&[("query", query)]).await;
        let why = answer.refused(400);
        assert!(why.contains(part), "{query}: {why}");
        let body = answer.json();
        assert!(body["data"].is_null());
        if !query.contains('#') {
            assert!(body["errors"][0]["message"].is_string(), "{body}");
        }
    }
    for variables in ["[]", "x", "1", "{\"a\":"] {
        service.query(&[("query", CLI), ("variables", variables)]).await.refused(400);
    }
    for variables in ["", "null", "{}", "{\"unused\": 1}"] {
        service.query(&[("query", CLI), ("variables", variables)]).await.ok();
    }
}

async fn the_schema_can_be_asked_for() {
    let service = Service::start().await;
    let body = service.query(&[("query", "{ __schema { queryType { name } } }")]).await.ok();
    assert_eq!(body["data"]["__schema"]["queryType"]["name"], "Query");
}

/// Every type with its fields or values, their arguments and types.
fn shape(document: &ServiceDocument) -> BTreeMap<String, Vec<String>> {
    let mut types = BTreeMap::new();
    for definition in &document.definitions {
        let TypeSystemDefinition::Type(definition) = definition else { continue };
        let mut members: Vec<String> = match &definition.node.kind {
            TypeKind::Object(object) => object
                .fields
                .iter()
                .map(|field| {
                    let field = &field.node;
                    let mut arguments: Vec<_> =
                        field.arguments.iter().map(|a| format!("{}: {}", a.node.name, a.node.ty)).collect();
                    arguments.sort();
                    format!("{}({}): {}", field.name, arguments.join(", "), field.ty)
                })
                .collect(),
            TypeKind::InputObject(input) => {
                input.fields.iter().map(|field| format!("{}: {}", field.node.name, field.node.ty)).collect()
            }
            TypeKind::Enum(values) => values.values.iter().map(|value| value.node.value.to_string()).collect(),
            _ => Vec::new(),
        };
        members.sort();
        types.insert(definition.node.name.to_string(), members);
    }
    types
}

#[test]
fn the_schema_is_the_references() {
    let ours = shape(&parse_schema(api::graphql::sdl()).unwrap());
    let theirs = shape(&parse_schema(include_str!("schema.graphql")).unwrap());
    for (name, members) in &theirs {
        assert_eq!(ours.get(name), Some(members), "{name}");
    }
}
