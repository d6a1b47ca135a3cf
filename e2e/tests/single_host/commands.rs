//! Each command of the stock client that the lifecycle does not use.

use std::fs;

use e2e::{api::Api, job::Job, service::shared_on, vdk::Vdk};
use serde_json::json;
use testing::{Database, for_each_database};

for_each_database!(
    list_shows_a_teams_jobs_in_every_detail,
    list_turns_pages_of_a_hundred,
    create_show_info_and_a_second_create,
    a_jobs_source_is_downloaded_as_it_was_deployed,
    the_key_is_downloaded,
    properties_and_secrets_are_set_read_and_deleted,
);

/// A team of its own, so that its list is its own; with a space, as real ones have.
async fn team_with_jobs(service: &e2e::service::Service, team: &str, jobs: &[&str]) -> (Vdk, Api) {
    let (vdk, api) = (Vdk::new(service.url(), team), Api::new(service.url(), team));
    for job in jobs {
        vdk.ok(&["create", "--cloud", "-n", job]).await;
    }
    (vdk, api)
}

async fn list_shows_a_teams_jobs_in_every_detail(on: Database) {
    let service = shared_on(on);
    let (vdk, _) = team_with_jobs(&service, "team of lists", &["list-b-job", "list-a-job"]).await;
    let names = |listed: &serde_json::Value| -> Vec<String> {
        let list = listed.as_array().expect("a list").iter();
        list.map(|job| job["job_name"].as_str().expect("job_name").to_owned()).collect()
    };
    for details in [&[][..], &["-m"], &["-mm"], &["-mmm"]] {
        let listed = vdk.json(&[&["list"], details].concat()).await;
        assert_eq!(names(&listed), ["list-a-job", "list-b-job"], "{details:?}: {listed}");
    }
    // Text is a table, and all teams are shown with -a.
    assert!(vdk.ok(&["list", "-mmm"]).await.contains("list-b-job"));
    let stranger = Vdk::new(service.url(), "another team");
    assert_eq!(stranger.json(&["list"]).await, json!([]));
    assert!(names(&stranger.json(&["list", "-a"]).await).contains(&"list-a-job".to_owned()));
}

async fn list_turns_pages_of_a_hundred(on: Database) {
    let service = shared_on(on);
    let (vdk, api) = team_with_jobs(&service, "team of pages", &[]).await;
    for number in 0..105 {
        let _ = api.create(&format!("page-job-{number:03}")).await.ok();
    }
    let listed = vdk.json(&["list"]).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(105));
}

async fn create_show_info_and_a_second_create(on: Database) {
    let service = shared_on(on);
    let (vdk, _) = team_with_jobs(&service, "team of shows", &[]).await;
    let home = vdk.home();
    let home = home.to_string_lossy();
    vdk.ok(&["create", "-n", "shown-job", "-p", &home]).await;
    assert!(vdk.home().join("shown-job/config.ini").exists(), "the sample job");
    vdk.ok(&["create", "--cloud", "-n", "shown-job"]).await;
    let shown = vdk.json(&["show", "-n", "shown-job"]).await;
    assert!(shown.to_string().contains("shown-job"), "{shown}");
    vdk.run(&["show", "-n", "no-such-job"]).await.failed(2, &[]);
    let info = vdk.ok(&["info"]).await;
    assert!(info.contains("3."), "Python versions: {info}");
}

async fn a_jobs_source_is_downloaded_as_it_was_deployed(on: Database) {
    let service = shared_on(on);
    let vdk = service.vdk();
    let job = Job::new("download-me").step("10_step.py", "print('ä')").file("20_query.sql", "SELECT 1;\n");
    vdk.ok(&["create", "--cloud", "-n", job.name()]).await;
    vdk.run(&["download-job", "-n", job.name(), "-p", &vdk.home().to_string_lossy()]).await.failed(2, &[]);
    vdk.deploy(&job).await;
    vdk.ok(&["download-job", "-n", job.name(), "-p", &vdk.home().to_string_lossy()]).await;
    for file in ["config.ini", "10_step.py", "20_query.sql"] {
        let (sent, got) = (job.path().join(file), vdk.home().join(job.name()).join(file));
        assert_eq!(fs::read(sent).expect("sent"), fs::read(&got).expect("got"), "{}", got.display());
    }
    // The same content has the same version, and another one another.
    let again = vdk.deploy(&job).await;
    job.put("20_query.sql", "SELECT 2;\n");
    assert_ne!(again, vdk.deploy(&job).await);
    job.put("20_query.sql", "SELECT 1;\n");
    assert_eq!(again, vdk.deploy(&job).await);
}

async fn the_key_is_downloaded(on: Database) {
    let service = shared_on(on);
    let (vdk, _) = team_with_jobs(&service, "team of keys", &["keytab-job"]).await;
    vdk.ok(&["download-key", "-n", "keytab-job", "-p", &vdk.home().to_string_lossy()]).await;
}

async fn properties_and_secrets_are_set_read_and_deleted(on: Database) {
    let service = shared_on(on);
    let (vdk, _) = team_with_jobs(&service, "team of secrets", &["secret-job"]).await;
    for (command, all) in [("properties", "job-properties"), ("secrets", "job-secrets")] {
        let of_job = [command, "-n", "secret-job"];
        let say = |more: &[&'static str]| [&of_job[..], more].concat();
        vdk.ok(&say(&["--set", "one", "1", "--set", "zwei", "zwölf \"Boxkämpfer\""])).await;
        let listed = vdk.json(&say(&["--list"])).await;
        assert_eq!(listed, json!({ "one": "1", "zwei": "zwölf \"Boxkämpfer\"" }), "{command}");
        assert_eq!(vdk.json(&say(&["--get", "one"])).await, json!({ "one": "1" }), "{command}");
        vdk.ok(&say(&["--delete", "one"])).await;
        assert_eq!(vdk.json(&say(&["--list"])).await, json!({ "zwei": "zwölf \"Boxkämpfer\"" }), "{command}");
        let file = vdk.home().join("all.json");
        fs::write(&file, r#"{"a": [1, {"b": null}], "c": 1.5, "d": true}"#).expect("a file");
        let overwrite = format!("--overwrite-all-{all}");
        let delete = format!("--delete-all-{all}");
        vdk.ok(&[&of_job[..], &[&overwrite, &file.to_string_lossy()]].concat()).await;
        let listed = vdk.json(&say(&["--list"])).await;
        assert_eq!(listed, json!({ "a": [1, { "b": null }], "c": 1.5, "d": true }), "{command}");
        vdk.ok(&[&of_job[..], &[&*delete]].concat()).await;
        assert_eq!(vdk.json(&say(&["--list"])).await, json!({}), "{command}");
    }
    let files = fs::read_dir(service.data_dir()).expect("the data folder");
    vdk.ok(&["secrets", "-n", "secret-job", "--set", "password", "plain-text-of-a-secret"]).await;
    for file in files.flatten().filter(|f| f.path().is_file()) {
        let bytes = fs::read(file.path()).unwrap_or_default();
        let found = bytes.windows(22).any(|part| part == b"plain-text-of-a-secret");
        assert!(!found, "a secret is readable in {}", file.path().display());
    }
}
