//! Calls of a service that starts while its API server can't be reached.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and their figures")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clock::SystemClock;
use futures::future::join_all;
use kube::{Client, client::Body};
use model::{
    clock::Clock,
    name::ExecutionId,
    resources::Resources,
    runtime::{Runtime, Seen},
};

use super::{
    ApiMetrics, Connection, KubernetesOptions, KubernetesRuntime, ManifestOptions, manifest::Template,
    write_window::WriteWindow,
};

const RUNS: usize = 1000;
const TIME: Duration = Duration::from_secs(5);

/// A runtime whose every call fails at once, with counters of calls for one Job and of other calls.
fn unreachable() -> (KubernetesRuntime, Arc<[AtomicUsize; 2]>) {
    let calls: Arc<[AtomicUsize; 2]> = Arc::default();
    let counted = calls.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let is_of_one = request.uri().path().contains("/jobs/");
        counted[usize::from(!is_of_one)].fetch_add(1, Ordering::Relaxed);
        std::future::ready(Err::<http::Response<Body>, _>(std::io::Error::other("it can't be reached")))
    });
    let clock = Arc::new(SystemClock);
    let client = Client::new(service, "data");
    let connection = Connection {
        log_client: client.clone(),
        client,
        window: WriteWindow::new(clock.clone()),
        calls: ApiMetrics::new(clock.clone()),
        namespace: "data".into(),
        server: "https://127.0.0.1:1".into(),
    };
    let manifest = ManifestOptions {
        template: Template::default(),
        resources: Resources::default(),
        vdk_resources: Resources::default(),
        vdk_images: BTreeMap::new(),
        pull_secrets: Vec::new(),
        pull_policy: "IfNotPresent".into(),
        read_only_root: true,
        has_token: false,
        deadline_seconds: 60,
        backoff_limit: 0,
        start_deadline_seconds: 1800,
        outage_window_seconds: 21_600,
        default_zone: "UTC".into(),
    };
    let logs_folder = std::env::temp_dir().join(format!("holdfast-unreachable-{}", SystemClock.new_id()));
    let options = KubernetesOptions {
        manifest,
        logs_folder,
        log_max_bytes: 1024,
        ignore_paths: Vec::new(),
        adopt: false,
        controller_zone: "UTC".into(),
        pull_credentials_file: None,
        clock,
    };
    (KubernetesRuntime::open(connection, options), calls)
}

#[tokio::test]
async fn a_thousand_runs_ask_nothing_of_an_api_server_that_was_never_reached() {
    let (runtime, calls) = unreachable();
    let clock: &dyn Clock = &SystemClock;
    let runs = (0..RUNS).map(|n| {
        let (runtime, id) = (&runtime, ExecutionId::parse(&format!("example-job-{n}")).unwrap());
        async move {
            loop {
                let _ = runtime.next(&id, &Seen::Submitted).await;
                // The shortest pause of a follower.
                clock.sleep(Duration::from_millis(500)).await;
            }
        }
    });
    let _ = clock.timeout(TIME, join_all(runs)).await;
    let [of_one, others] = [0, 1].map(|kind: usize| calls[kind].load(Ordering::Relaxed));
    println!("{RUNS} runs for {TIME:?}: {of_one} calls for one Job, {others} others");
    assert_eq!(of_one, 0);
    assert!(others > 0, "the lists are asked for");
}
