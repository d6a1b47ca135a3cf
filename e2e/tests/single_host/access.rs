//! Authentication, with the stock client against a token endpoint and key set that the test runs.

use std::time::Duration;

use e2e::{
    issuer::{API_TOKEN, Issuer},
    job::Job,
    service::{Options, Service},
    wait,
};

const NAME: &str = "a-job-with-token";
const LONGEST: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn who_logs_in_works_as_always_and_a_job_keeps_its_properties_while_authentication_is_on() {
    let issuer = Issuer::start().await;
    let service = Service::start_with(issuer.trusted(Options::default()));
    let vdk = service.vdk().with("OAUTHLIB_INSECURE_TRANSPORT", "1");
    let job = Job::new(NAME).step(
        "10_count.py",
        "runs = int(job_input.get_property('runs', 0)) + 1\n\
         job_input.set_all_properties({'runs': runs})\n\
         print('this is run', runs)",
    );

    // Without a login the client says what is wrong and what to do.
    vdk.run(&["list"]).await.failed(2, &["its sender is not known", "vdk login"]);
    assert_ne!(issuer.login(&vdk, "wrong").await.code, 0);
    let _ = issuer.login(&vdk, API_TOKEN).await.ok();

    vdk.ok(&["create", "--cloud", "-n", NAME]).await;
    let version = vdk.deploy(&job).await;
    wait::until("the deployment is reached", LONGEST, async || {
        let shown = vdk.json(&["deploy", "--show", "-n", NAME]).await;
        (shown[0]["job_version"] == version.as_str()).then_some(())
    })
    .await;
    assert_eq!(vdk.json(&["deploy", "--show", "-n", NAME]).await[0]["last_deployed_by"], "ann");
    for run in ["1", "2"] {
        let id = vdk.start(NAME).await;
        let ended = wait::until("the run ends", LONGEST, async || {
            let shown = vdk.execution(NAME, &id).await;
            (!shown["end_time"].is_null()).then_some(shown)
        })
        .await;
        assert_eq!(ended["status"], "succeeded", "{ended}\n{}", vdk.log(NAME, &id).await);
        let said = vdk.ok(&["properties", "-n", NAME, "--get", "runs"]).await;
        assert_eq!(said.split_whitespace().last(), Some(run), "{said}");
    }
    // Neither the operator's log nor the user's has a credential in it.
    assert!(!service.log().contains("hfc1.") && !service.log().contains("hfa1."));

    // Another team is refused, and after the logout everything is.
    let foreign = vdk.run_bare(&["list", "-t", "another-team", "--rest-api-url", service.url(), "-o", "json"]).await;
    assert!(!foreign.out.contains(NAME), "{foreign:?}");
    let foreign = ["deploy", "--show", "-n", NAME, "-t", "another-team", "--rest-api-url", service.url()];
    vdk.run_bare(&foreign).await.failed(2, &["You do not belong to the team"]);
    let _ = vdk.run_bare(&["logout"]).await.ok();
    vdk.run(&["list"]).await.failed(2, &["its sender is not known"]);
}
