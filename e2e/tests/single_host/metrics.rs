//! Alert rules find what they look for in a real scrape, by the judgement of the real rule engine.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use e2e::{
    TEAM,
    api::Api,
    job::Job,
    service::{Options, Service},
    wait,
};
use serde_json::{Value, json};

const TEXT: &str = "text/plain;version=0.0.4";
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// When the rules are evaluated, in seconds after the first sample; what a test of rules begins at is 1970.
const EVALUATED_AT_SECONDS: u64 = 1800;

/// A real scrape of a service in which jobs ended in each way, were deleted and are late, is put before rules that join it
/// with the series of the cluster that runs the jobs.
#[tokio::test]
async fn alert_rules_find_runs_that_failed_and_jobs_that_are_late() {
    let promtool = devtools::promtool::install().expect("promtool");
    let service = Service::start_with(
        Options::default().set("HOLDFAST_RUN_BACKOFF_LIMIT", "0").set("HOLDFAST_METRICS_LISTEN", "127.0.0.1:0"),
    );
    let api = service.api();
    let metrics = service.metrics_url().expect("an address of its own");
    let mut runs = Vec::new();
    for (name, step, status) in [
        ("alert-success", "print('done')", "succeeded"),
        ("alert-user-error", "raise ValueError('odd')", "user_error"),
        ("alert-platform-error", "os.kill(os.getpid(), 9)", "platform_error"),
        ("alert-quiet", "raise ValueError('odd')", "user_error"),
        ("alert-deleted", "raise ValueError('odd')", "user_error"),
    ] {
        api.deployed(&Job::new(name).step("10_step.py", step)).await;
        configure(&api, name, name != "alert-quiet", 240).await;
        let id = api.started(name).await;
        assert_eq!(api.ended(name, &id).await["status"], status);
        runs.push(id);
    }
    for (name, delay_minutes) in [("alert-late", 10), ("alert-patient", 240)] {
        let _ = api.create(name).await.is(201);
        configure(&api, name, true, delay_minutes).await;
    }
    let _ = api.delete("/jobs/alert-deleted").await.ok();
    let page = wait::until("the series follow the rows", wait::SOON, async || {
        let page = api.scrape_at(&metrics, TEXT).await.ok().text();
        (page.contains(r#"data_job="alert-patient""#) && !page.contains("alert-deleted")).then_some(page)
    })
    .await;

    let rules = json!({ "groups": [{ "name": "runs", "rules": [
        rule("RunSucceeded", &format!(
            r"{} * on (data_job) group_left (team, email_notified_on_success) {}
               and on (data_job) max by (data_job) (taurus_datajob_termination_status) == 0",
            run("kube_job_status_completion_time"), listeners("email_notified_on_success"),
        )),
        rule("RunFailedByUser", &format!(
            r"{} * on (data_job) group_left (team, email_notified_on_user_error) {}
               and on (data_job) max by (data_job) (taurus_datajob_termination_status) == 3",
            run("kube_job_status_failed > 0"), listeners("email_notified_on_user_error"),
        )),
        rule("RunFailedByPlatform", &format!(
            r"{} * on (data_job) group_left (team, email_notified_on_platform_error) {}
               and on (data_job) max by (data_job) (taurus_datajob_termination_status) == 1",
            run("kube_job_status_failed > 0"), listeners("email_notified_on_platform_error"),
        )),
        rule("StartIsLate", &format!(
            r#"label_replace(time() - (kube_cronjob_next_schedule_time > 0), "data_job", "$1", "cronjob", "(.+)")
               > on (data_job) group_left (team, email_notified_on_platform_error)
               ({} * on (data_job) group_left () (60 * min by (data_job) (taurus_datajob_notification_delay)))"#,
            listeners("email_notified_on_platform_error"),
        )),
        rule("DeploymentFailed", "max by (dataJob) (taurus_deployment_status_gauge) > 0"),
        rule("RunsAreNotWatched", "sum(taurus_datajob_watch_task_invocations_counter_total) == 0"),
    ] }] });
    let of_run = |run: &str, list: &str, address: &str| {
        let job = run.rsplit_once('-').expect("an id").0;
        json!({ "data_job": job, "job_name": run, "namespace": "jobs", "team": TEAM, list: address })
    };
    let found = [
        ("RunSucceeded", vec![of_run(&runs[0], "email_notified_on_success", "ok@example.com;all@example.com")]),
        ("RunFailedByUser", vec![of_run(&runs[1], "email_notified_on_user_error", "user@example.com")]),
        ("RunFailedByPlatform", vec![of_run(&runs[2], "email_notified_on_platform_error", "operator@example.com")]),
        (
            "StartIsLate",
            vec![json!({ "data_job": "alert-late", "cronjob": "alert-late", "namespace": "jobs", "team": TEAM,
            "email_notified_on_platform_error": "operator@example.com" })],
        ),
        ("DeploymentFailed", vec![]),
        ("RunsAreNotWatched", vec![]),
    ];
    // Two instances show the same jobs, and the cluster knows every run and two schedules.
    let mut series: Vec<Value> = ["one", "two"].iter().flat_map(|instance| scraped(&page, instance)).collect();
    series.extend(runs.iter().flat_map(|run| of_cluster(run)));
    for cron in ["alert-late", "alert-patient", "alert-deleted"] {
        let next = EVALUATED_AT_SECONDS - 20 * 60;
        series
            .push(constant(&format!(r#"kube_cronjob_next_schedule_time{{cronjob="{cron}",namespace="jobs"}}"#), next));
    }
    let evaluated = format!("{EVALUATED_AT_SECONDS}s");
    let alerts: Vec<_> = found
        .iter()
        .map(|(name, alerts)| {
            let alerts: Vec<_> = alerts.iter().map(|labels| json!({ "exp_labels": labels })).collect();
            json!({ "eval_time": evaluated, "alertname": name, "exp_alerts": alerts })
        })
        .collect();
    let tests = json!({
        "rule_files": ["rules.yml"],
        "evaluation_interval": "30s",
        "tests": [{ "interval": "30s", "input_series": series, "alert_rule_test": alerts }],
    });
    let folder = service.beside();
    // JSON is YAML.
    fs::write(folder.join("rules.yml"), rules.to_string()).expect("a file");
    fs::write(folder.join("tests.yml"), tests.to_string()).expect("a file");
    let judged = run_promtool(&promtool, &folder, &["test", "rules", "tests.yml"], "");
    assert!(judged.status.success(), "{}\n{page}", said(&judged));

    is_well_formed(&promtool, &folder, &page);
    let page = api.scrape_at(&metrics, OPEN_METRICS).await.ok();
    assert_eq!(page.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    parses_as_open_metrics(&promtool, &folder, &page.text());
}

#[test]
fn the_shipped_alert_rules_are_rules() {
    let promtool = devtools::promtool::install().expect("promtool");
    let folder = shipped_rules();
    let checked = run_promtool(&promtool, folder.path(), &["check", "rules", "rules.yml"], "");
    assert!(checked.status.success(), "{}", said(&checked));
}

#[test]
fn the_shipped_alerts_of_retention_come_before_logs_are_lost_and_when_a_kind_keeps_failing() {
    let promtool = devtools::promtool::install().expect("promtool");
    let folder = shipped_rules();
    let series = |name: &str, values: &str| json!({ "series": name, "values": values });
    let logs = |bytes: &str| {
        [
            series(r#"holdfast_stored_logs_bytes{instance="leader"}"#, bytes),
            series(r#"holdfast_stored_logs_max_bytes{instance="leader"}"#, "4096x90"),
            series(r#"holdfast_stored_logs_bytes{instance="other"}"#, "0x90"),
            series(r#"holdfast_stored_logs_max_bytes{instance="other"}"#, "0x90"),
        ]
    };
    let near = |time: &str, alerts: Value| json!({ "eval_time": time, "alertname": "HoldfastLogsNearLimit", "exp_alerts": alerts });
    let failing =
        |kind: &str, values: &str| series(&format!("holdfast_retention_failures_total{{kind=\"{kind}\"}}"), values);
    let tests = json!({
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            { "interval": "1m", "input_series": logs("3584x90"), "alert_rule_test": [
                near("20m", json!([])),
                near("40m", json!([{
                    "exp_labels": { "severity": "warning" },
                    "exp_annotations": {
                        "summary": "Stored logs have 3.5kiB, more than 80 % of logs.total_max_mib",
                        "runbook_url": "docs/operations/monitoring.md#holdfastlogsnearlimit",
                    },
                }])),
            ] },
            { "interval": "1m", "input_series": logs("3200x90"), "alert_rule_test": [near("80m", json!([]))] },
            { "interval": "1m", "input_series": [
                failing("logs", "0x9 1x9 2x9 3x9 4x50"),
                failing("jobs", "0x30 1x60"),
                failing("builds", "0x90"),
            ], "alert_rule_test": [{
                "eval_time": "55m",
                "alertname": "HoldfastRetentionFailing",
                "exp_alerts": [{
                    "exp_labels": { "kind": "logs", "severity": "warning" },
                    "exp_annotations": {
                        "summary": "Retention of logs fails",
                        "runbook_url": "docs/operations/monitoring.md#holdfastretentionfailing",
                    },
                }],
            }] },
        ],
    });
    fs::write(folder.path().join("tests.yml"), tests.to_string()).expect("a file");
    let judged = run_promtool(&promtool, folder.path(), &["test", "rules", "tests.yml"], "");
    assert!(judged.status.success(), "{}", said(&judged));
}

#[test]
fn the_alert_of_a_missing_leader_fires_also_when_no_instance_is_scraped() {
    let promtool = devtools::promtool::install().expect("promtool");
    let folder = shipped_rules();
    let fires = json!([{
        "exp_labels": { "severity": "critical" },
        "exp_annotations": {
            "summary": "No instance of Holdfast leads; nothing is rolled out, started or recorded",
            "runbook_url": "docs/operations/monitoring.md#holdfastnoleader",
        },
    }]);
    let case = |series: Value, alerts: &Value| {
        json!({ "interval": "1m", "input_series": series, "alert_rule_test": [
            { "eval_time": "10m", "alertname": "HoldfastNoLeader", "exp_alerts": alerts },
        ] })
    };
    let leader = |instance: &str, value: u8| json!({ "series": format!("holdfast_leader{{instance=\"{instance}\"}}"), "values": format!("{value}x20") });
    let tests = json!({
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            case(json!([]), &fires),
            case(json!([leader("one", 0), leader("two", 0)]), &fires),
            case(json!([leader("one", 1), leader("two", 0)]), &json!([])),
        ],
    });
    fs::write(folder.path().join("tests.yml"), tests.to_string()).expect("a file");
    let judged = run_promtool(&promtool, folder.path(), &["test", "rules", "tests.yml"], "");
    assert!(judged.status.success(), "{}", said(&judged));
}

/// A folder with the shipped rules as `rules.yml`.
fn shipped_rules() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = devtools::environment::workspace().join("deploy/prometheus/holdfast-alerts.yaml");
    fs::copy(rules, folder.path().join("rules.yml")).expect("the shipped rules");
    folder
}

/// Sets a recipient for each way in which a job's runs end.
async fn configure(api: &Api, job: &str, notifications: bool, delay_minutes: u64) {
    let path = format!("/jobs/{job}");
    let mut definition = api.get(&path).await.ok().json();
    definition["config"]["enable_execution_notifications"] = notifications.into();
    definition["config"]["notification_delay_period_minutes"] = delay_minutes.into();
    definition["config"]["contacts"] = json!({
        "notified_on_job_success": ["ok@example.com", "all@example.com"],
        "notified_on_job_failure_user_error": ["user@example.com"],
        "notified_on_job_failure_platform_error": ["operator@example.com"],
        "notified_on_job_deploy": [],
    });
    let _ = api.put(&path, &definition).await.ok();
}

fn rule(name: &str, expression: &str) -> Value {
    json!({ "alert": name, "expr": expression, "for": "1m" })
}

/// A series about a Job of the cluster, with the name of the data job that its name begins with.
fn run(series: &str) -> String {
    format!(r#"label_replace({series}, "data_job", "$1", "job_name", "(.+)-[^-]+")"#)
}

/// The recipients of a notification, whichever instance reports it.
fn listeners(list: &str) -> String {
    format!(r#"max by (data_job, team, {list}) (taurus_datajob_info{{{list}!=""}})"#)
}

/// The samples of a page as one instance's series that don't change.
fn scraped(page: &str, instance: &str) -> Vec<Value> {
    page.lines()
        .filter(|line| line.starts_with("taurus_") || line.starts_with("vdk_"))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            constant(&format!("{name}{{instance=\"{instance}\",{labels}"), value)
        })
        .collect()
}

/// The series of a cluster for the Job of a run; each of them failed and was completed, so that the join alone decides.
fn of_cluster(run: &str) -> [Value; 2] {
    ["kube_job_status_failed", "kube_job_status_completion_time"]
        .map(|name| constant(&format!(r#"{name}{{job_name="{run}",namespace="jobs"}}"#), 1))
}

fn constant(series: &str, value: impl std::fmt::Display) -> Value {
    json!({ "series": series, "values": format!("{value}+0x{}", EVALUATED_AT_SECONDS / 30) })
}

/// Fails unless the linter finds nothing but what other names, which are kept, can't have.
fn is_well_formed(promtool: &Path, folder: &Path, page: &str) {
    let checked = run_promtool(promtool, folder, &["check", "metrics"], page);
    let said = said(&checked);
    let kept = |line: &str| {
        (line.starts_with("taurus_") || line.starts_with("vdk_"))
            && (line.contains("should not include type") || line.contains("'camelCase'"))
    };
    let found: Vec<_> = said.lines().filter(|line| !line.is_empty() && !kept(line)).collect();
    assert!(found.is_empty() && said.contains("taurus_deployment_status_gauge"), "{said}");
}

/// Fails unless the real parser takes every sample of the page; it wants a time for each.
fn parses_as_open_metrics(promtool: &Path, folder: &Path, page: &str) {
    let timed: String = page
        .lines()
        .map(|line| if line.starts_with('#') { format!("{line}\n") } else { format!("{line} 1764000000\n") })
        .collect();
    fs::write(folder.join("page.txt"), timed).expect("a file");
    let parsed =
        run_promtool(promtool, folder, &["tsdb", "create-blocks-from", "openmetrics", "page.txt", "blocks"], "");
    assert!(parsed.status.success(), "{}\n{page}", said(&parsed));
}

fn run_promtool(promtool: &Path, folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut process = Command::new(PathBuf::from(promtool))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    process.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    process.wait_with_output().expect("its output")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}
