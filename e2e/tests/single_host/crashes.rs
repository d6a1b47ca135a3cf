//! `kill -9` of the service loses nothing that it accepted.

use std::{fs, time::Duration};

use e2e::{job::Job, service::Service, wait};

#[tokio::test]
async fn a_deployment_is_reached_although_the_service_was_killed_during_its_installation() {
    // A requirement of its own makes an environment of its own; the kill comes at several instants of its making.
    const REQUIREMENTS: [&str; 3] = ["toolz==1.0.0", "six==1.17.0", "colorama==0.4.6"];
    const KILLED_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500)];
    let mut service = Service::start();
    for (round, (requirement, after)) in REQUIREMENTS.iter().zip(KILLED_AFTER).enumerate() {
        let module = requirement.split('=').next().expect("a name");
        let job = Job::new(&format!("killed-install-{round}"))
            .file("requirements.txt", requirement)
            .step("10_step.py", &format!("import {module}\nprint('has', {module}.__name__)"));
        let api = service.api();
        let _ = api.create(job.name()).await.ok();
        let version = api.deploy(&job).await;
        wait::let_pass(after).await;
        service.kill();
        service.start_again();
        let api = service.api();
        api.reached(job.name(), &version).await;
        let id = api.started(job.name()).await;
        let ended = api.ended(job.name(), &id).await;
        let log = api.log(job.name(), &id).await;
        assert_eq!(ended["status"], "succeeded", "{ended}\n{log}");
        assert!(log.contains(&format!("has {module}")), "{log}");
    }
}

#[tokio::test]
async fn a_run_ends_once_with_its_whole_log_although_the_service_was_killed() {
    const LINES: usize = 40;
    let mut service = Service::start();
    let marker = service.beside().join("ran");
    let job = Job::new("killed-run").step(
        "10_step.py",
        &format!(
            "with open('{}', 'a') as ran: ran.write('begun\\n')\n\
             for i in range({LINES}):\n    print(f'line {{i}} of it')\n    time.sleep(0.15)\n\
             with open('{}', 'a') as ran: ran.write('done\\n')",
            marker.display(),
            marker.display()
        ),
    );
    let name = job.name();
    service.api().deployed(&job).await;

    // Killed and back while it runs; killed and back after it has ended; stopped in order and back.
    for round in ["during", "after", "stopped"] {
        fs::write(&marker, "").expect("a file");
        let id = service.api().started(name).await;
        service.api().log_says(name, &id, "line 3 of it").await;
        if round == "stopped" {
            let status = service.stop();
            assert!(status.success(), "SIGTERM is an orderly end: {status}");
        } else {
            service.kill();
        }
        if round == "after" {
            wait::until("the run continues without the service", wait::RUN, async || {
                fs::read_to_string(&marker).unwrap_or_default().contains("done").then_some(())
            })
            .await;
            // Its supervisor needs a moment to write down how it ended.
            wait::let_pass(Duration::from_secs(2)).await;
        }
        service.start_again();
        let api = service.api();
        let ended = api.ended(name, &id).await;
        let log = api.log(name, &id).await;
        assert_eq!(ended["status"], "succeeded", "{round}: {ended}\n{log}");
        for line in 0..LINES {
            let count = log.matches(&format!("line {line} of it")).count();
            assert_eq!(count, 1, "{round}: line {line} is there {count} times:\n{log}");
        }
        assert_eq!(fs::read_to_string(&marker).expect("the file"), "begun\ndone\n", "{round}: it ran once");
    }
    let executions = service.api().executions(name).await;
    assert_eq!(executions.len(), 3, "{executions:?}");
}

#[tokio::test]
async fn a_service_that_is_asked_to_stop_right_after_its_start_stops() {
    // Of the moment in which it was not heard: the second or third time would have met it.
    for _ in 0..10 {
        let mut service = Service::start();
        let status = service.stop();
        assert!(status.success(), "{status}");
    }
}
