//! Each query of the shipped dashboard finds data in a scrape of a service that has worked, by the judgement of Prometheus' own
//! rule engine.

use std::{fs, process::Command};

use e2e::{
    job::Job,
    service::{Options, Service},
    wait,
};
use serde_json::{Value, json};

const TEXT: &str = "text/plain;version=0.0.4";

/// Panels of failures and of clusters, which a healthy service on one machine has no data for. Their queries are parsed.
const BLANK: [&str; 5] = ["Errors by route", "Panics", "Calls by code", "Duration of calls", "Retention"];

#[tokio::test]
async fn each_query_of_the_dashboard_finds_data_on_a_service_that_has_worked() {
    let promtool = devtools::promtool::install().expect("promtool");
    let service = Service::start_with(Options::default());
    let api = service.api();
    let name = "is-on-the-dashboard";
    let job = Job::new(name).step("10_step.py", "print('done')");
    let _ = api.create(name).await.ok();
    let schedule = json!({"config": {"schedule": {"schedule_cron": "* * * * *"}}});
    let _ = api.put(&format!("/jobs/{name}"), &schedule).await.ok();
    let version = api.deploy(&job).await;
    api.reached(name, &version).await;
    // The next scheduled time, and the count of the leader.
    let page = wait::until("a scheduled execution has ended, and is counted", wait::SOON * 6, async || {
        let page = api.scrape(TEXT).await.ok().text();
        let is_there = |series: &str| page.lines().any(|line| line.starts_with(series));
        (is_there("holdfast_executions_ended_total{") && is_there(r#"holdfast_deployments{status="SUCCESS"} 1"#))
            .then_some(page)
    })
    .await;

    let path = devtools::environment::workspace().join("deploy/grafana/holdfast.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).expect("a dashboard")).expect("JSON");
    let mut rules = Vec::new();
    let mut expected = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        for (number, target) in panel["targets"].as_array().into_iter().flatten().enumerate() {
            let query =
                target["expr"].as_str().expect("a query").replace("$__rate_interval", "5m").replace("$job", ".+");
            let alert = format!("{title} {number}");
            rules.push(json!({"alert": alert, "expr": format!("count({query}) > 0")}));
            if !BLANK.contains(&title) {
                expected.push(json!({"eval_time": "30m", "alertname": alert, "exp_alerts": [{"exp_labels": {}}]}));
            }
        }
    }
    assert!(expected.len() > 30, "{}", expected.len());
    let series: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("holdfast_"))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let series = format!("{name}{{instance=\"one\",job=\"holdfast\",{labels}");
            json!({"series": series, "values": format!("{value}+0x60")})
        })
        .collect();
    let folder = service.beside();
    // JSON is YAML.
    fs::write(folder.join("rules.yml"), json!({"groups": [{"name": "panels", "rules": rules}]}).to_string())
        .expect("a file");
    let tests = json!({
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "30s", "input_series": series, "alert_rule_test": expected}],
    });
    fs::write(folder.join("tests.yml"), tests.to_string()).expect("a file");
    let judged =
        Command::new(promtool).args(["test", "rules", "tests.yml"]).current_dir(folder).output().expect("promtool");
    assert!(
        judged.status.success(),
        "{}{}\n{page}",
        String::from_utf8_lossy(&judged.stdout),
        String::from_utf8_lossy(&judged.stderr)
    );
}
