//! Limits of what one request and one caller may take.

use std::{fs, sync::Arc, time::Duration};

use e2e::{
    count,
    hostile::{self, SlowReader},
    issuer::{API_TOKEN, Issuer},
    job::Job,
    measure::memory,
    service::{Options, Service},
};

/// Waits for all of them at once.
async fn join_all<T: Send + 'static>(
    all: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = all.into_iter().map(tokio::spawn).collect();
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.expect("a task"));
    }
    done
}

/// The resident memory of the service now, after which its peak counts again. Only root may reset the peak of a process that
/// others can't read: for an ordinary user it is the peak until now.
fn rest(service: &mut Service) -> f64 {
    let process = service.process().id();
    let reset = fs::write(format!("/proc/{process}/clear_refs"), "5");
    let (now, peak) = memory(process).expect("a process");
    if reset.is_ok() { now } else { peak }
}

/// By how many MiB the service grew at most since [`rest`].
fn grown(service: &mut Service, before: f64) -> f64 {
    memory(service.process().id()).expect("a process").1 - before
}

#[tokio::test(flavor = "multi_thread")]
async fn three_archives_that_unpack_to_256_mib_take_little_memory() {
    let mut service = Service::start();
    let api = service.api();
    for name in ["first-bomb", "second-bomb", "third-bomb"] {
        let _ = api.create(name).await.ok();
    }
    let archive = hostile::zeros(256);
    assert!(archive.len() < 300_000);
    let before = rest(&mut service);
    let uploads = ["first-bomb", "second-bomb", "third-bomb"].map(|name| {
        let (api, archive) = (api.clone(), archive.clone());
        async move { api.upload(name, archive).await.status.as_u16() }
    });
    assert_eq!(join_all(uploads).await, [200; 3]);
    let grown = grown(&mut service, before);
    assert!(grown < 96.0, "{grown:.0} MiB more than the {before:.0} MiB before");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_many_entries_is_refused_before_its_directory_is_read() {
    let mut service = Service::start();
    let api = service.api();
    let _ = api.create("many-entries").await.ok();
    let archive = hostile::entries(600_000);
    let before = rest(&mut service);
    let answer = api.upload("many-entries", archive).await.is(413);
    assert!(answer.sentences()[1].contains("600000 files and folders; at most 10000"), "{}", answer.text());
    let grown = grown(&mut service, before);
    assert!(grown < 32.0, "{grown:.0} MiB more than the {before:.0} MiB before");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_large_sources_who_do_not_read_take_little_memory_and_no_connection_of_others() {
    const READERS: usize = 32;
    let mut service = Service::start();
    let api = service.api();
    let _ = api.create("large-source").await.ok();
    let archive = hostile::noise(16 * 1024 * 1024, 7);
    let _ = api.upload("large-source", archive).await.ok();
    let whole = api.get("/jobs/large-source/sources").await.ok();
    assert_eq!(whole.headers["content-length"], whole.bytes.len().to_string().as_str());
    let before = rest(&mut service);
    let url = api.url("/jobs/large-source/sources");
    let readers = join_all((0..READERS).map(|_| {
        let url = url.clone();
        async move { SlowReader::get(&url, Duration::from_secs(60)).await.expect("a connection") }
    }))
    .await;
    assert!(readers.iter().all(|reader| reader.status == Some(200)));
    // They hold no connection of the database: SQLite has four for reading.
    let _ = api.get("/jobs/large-source").await.is(200);
    assert_eq!(api.get("/jobs/large-source/sources").await.is(200).bytes, whole.bytes);
    let grown = grown(&mut service, before);
    assert!(grown < 64.0, "{grown:.0} MiB more than the {before:.0} MiB before");
    drop(readers);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_deploys_many_jobs_with_the_released_client_and_sees_no_error() {
    let jobs = count(4, 500);
    let issuer = Arc::new(Issuer::start().await);
    let service = Service::start_with(issuer.trusted(Options::default()));
    let logged_in = || service.vdk().with("OAUTHLIB_INSECURE_TRANSPORT", "1");
    // Several at a time, as a pipeline runs them; each with a home folder of its own.
    let workers = 8.min(jobs);
    let all = join_all((0..workers).map(|worker| {
        let vdk = logged_in();
        let issuer = Arc::clone(&issuer);
        async move {
            let _ = issuer.login(&vdk, API_TOKEN).await.ok();
            let mut deployed = 0;
            for number in (worker..jobs).step_by(workers) {
                let name = format!("pipeline-job-{number}");
                vdk.ok(&["create", "--cloud", "-n", &name]).await;
                let version = vdk.deploy(&Job::new(&name).step("10_step.py", "pass")).await;
                assert_eq!(version.len(), 40, "{name}");
                deployed += 1;
            }
            deployed
        }
    }))
    .await;
    assert_eq!(all.iter().sum::<usize>(), jobs);
}
