//! Logs that break off, pause and are thrown away, and what is left of them on disk.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use futures::channel::mpsc::UnboundedSender;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::Api;
use model::{
    log::{LogChunk, LogPart},
    name::ExecutionId,
};
use serde_json::json;

use super::{
    fake::{FakeServer, HeldClock, Log, NAMESPACE},
    logs::Logs,
    names,
    view::PodView,
    watch::Namespace,
};

const BROKEN_OFF: &str = "[... the log broke off here ...]\n";

/// An instance that leads, and one run with a pod that has begun.
struct Place {
    server: FakeServer,
    clock: HeldClock,
    namespace: Arc<Namespace>,
    folder: tempfile::TempDir,
    logs: Logs,
    id: ExecutionId,
}

impl Place {
    fn new() -> Self {
        let (server, clock, namespace) = (FakeServer::default(), HeldClock::new(), Arc::<Namespace>::default());
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(
            Api::namespaced(server.client(), NAMESPACE),
            namespace.clone(),
            folder.path().join("logs"),
            1_000_000,
            Arc::new(clock.clone()),
        );
        logs.begin();
        let place = Self { server, clock, namespace, folder, logs, id: ExecutionId::parse("daily-1").unwrap() };
        place.reported("Running", true);
        place
    }

    /// One whose log is followed, with the stream that brought its first line.
    async fn followed() -> (Self, UnboundedSender<io::Result<String>>) {
        let place = Self::new();
        let stream = place.stream();
        place.follow();
        place.asked(1).await;
        stream.unbounded_send(Ok(at(1, "one\n"))).unwrap();
        (place, stream)
    }

    /// The pod is seen in this phase, or is gone after it.
    fn reported(&self, phase: &str, is_there: bool) {
        let labels = json!({names::JOB_ID: "00000000-0000-0000-0000-000000000001", names::JOB_OF_POD: "daily-1"});
        let started = "2024-05-01T10:00:00Z";
        let state = if phase == "Running" {
            json!({"running": {"startedAt": started}})
        } else {
            json!({"terminated": {"exitCode": 0, "startedAt": started, "finishedAt": started}})
        };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "daily-1-abc", "uid": "uid of the pod", "labels": labels, "creationTimestamp": started},
            "spec": {"containers": [{"name": "daily"}]},
            "status": {"phase": phase, "containerStatuses": [{
                "name": "daily", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state,
            }]},
        }))
        .unwrap();
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "daily-1", "labels": labels}})).unwrap();
        self.server.objects(|objects| {
            if is_there {
                objects.put("pods/daily-1-abc", serde_json::to_value(&pod).unwrap());
            } else {
                objects.remove("pods/daily-1-abc");
            }
        });
        self.namespace.notify_of(&job, &pod, is_there);
    }

    fn pods(&self) -> Vec<PodView> {
        self.namespace.job("daily-1").unwrap().1
    }

    fn follow(&self) {
        self.logs.follow(&self.id, &self.pods());
    }

    /// The next stream that the node sends.
    fn stream(&self) -> UnboundedSender<io::Result<String>> {
        let (send, log) = Log::stream();
        self.server.log(log);
        send
    }

    async fn read(&self, part: LogPart) -> Option<LogChunk> {
        let pods = self.pods();
        tokio::select! {
            read = self.logs.read(&self.id, &pods, part != LogPart::Whole, part) => read.unwrap(),
            () = self.clock.goes() => None,
        }
    }

    async fn whole(&self) -> String {
        self.read(LogPart::Whole).await.map(|chunk| chunk.text).unwrap_or_default()
    }

    /// The queries for logs.
    fn queries(&self) -> Vec<String> {
        let calls = self.server.calls();
        calls.into_iter().filter(|call| call.path.ends_with("/log")).map(|call| call.query).collect()
    }

    async fn asked(&self, times: usize) {
        self.clock.until("the log is asked for", || self.queries().len() >= times).await;
    }

    fn on_disk(&self) -> usize {
        let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
        let of_processes = entries(&self.folder.path().join("logs"));
        of_processes.flat_map(|process| entries(&process)).filter(|path| path.is_dir()).count()
    }
}

fn at(second: u32, text: &str) -> String {
    format!("2024-05-01T10:{:02}:{:02}.500000000Z {text}", second / 60, second % 60)
}

fn broken() -> io::Result<String> {
    Err(io::Error::other("the API server was restarted"))
}

#[tokio::test]
async fn a_followed_log_survives_breaks_and_half_an_hour_of_silence_and_is_not_asked_for_again_at_its_end() {
    let place = Place::new();
    let first = place.stream();
    place.follow();
    place.asked(1).await;
    first.unbounded_send(Ok(at(1, "one\n"))).unwrap();
    first.unbounded_send(Ok(at(2, "two, and mo"))).unwrap();
    first.unbounded_send(broken()).unwrap();
    // The node is away for a while as well.
    place.server.log(Log::Refused(500, "dial tcp: connection refused"));
    let second = place.stream();
    place.asked(3).await;
    second.unbounded_send(Ok(at(1, "one\n"))).unwrap();
    second.unbounded_send(Ok(at(2, "two, and more\n"))).unwrap();
    place.clock.advance(Duration::from_secs(9 * 60));
    second.unbounded_send(Ok(at(600, "after nine minutes\n"))).unwrap();
    let lines = async |count| place.read(LogPart::LastLines(count)).await.unwrap_or_default().text;
    let waited = async |text: &str| {
        for _ in 0..1000 {
            if lines(1).await == text {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{:?}", lines(9).await);
    };
    waited("after nine minutes\n").await;
    assert_eq!(place.queries().len(), 3, "silence alone breaks nothing off");
    assert_eq!(lines(2).await, "two, and more\nafter nine minutes\n");
    // After longer silence the log is asked for anew, because a connection may be dead.
    let third = place.stream();
    place.clock.advance(Duration::from_secs(30 * 60));
    place.asked(4).await;
    third.unbounded_send(Ok(at(600, "after nine minutes\n"))).unwrap();
    third.unbounded_send(Ok(at(3000, "after all\n"))).unwrap();
    waited("after all\n").await;
    assert_eq!(place.queries().len(), 4, "what is followed is not asked for to be shown");
    place.reported("Succeeded", true);
    drop(third);
    // Its end is asked for once more.
    place.server.log(Log::whole(&at(3000, "after all\n")));
    let expected = "one\ntwo, and more\nafter nine minutes\nafter all\n";
    place.clock.until("it is complete", || place.queries().len() == 5).await;
    assert_eq!(place.whole().await, expected);
    assert_eq!(place.whole().await, expected);
    let since = |query: &str| query.split('&').find_map(|pair| pair.strip_prefix("sinceTime=")).map(ToOwned::to_owned);
    let queries = place.queries();
    let asked: Vec<_> = queries.iter().map(|query| (since(query), query.contains("follow=true"))).collect();
    let from = |time: &str| Some(format!("2024-05-01T{}Z", time.replace(':', "%3A")));
    let (of_first, of_last) = (from("10:00:01"), from("10:49:59"));
    let expected =
        [(None, true), (of_first.clone(), true), (of_first, true), (from("10:09:59"), true), (of_last, false)];
    assert_eq!(asked, expected, "{queries:?}");
}

#[tokio::test]
async fn what_was_lost_of_a_log_is_marked_where_it_was() {
    // It breaks off, and the pod goes before it can be continued.
    let (place, stream) = Place::followed().await;
    stream.unbounded_send(broken()).unwrap();
    place.server.log(Log::Refused(500, "dial tcp: connection refused"));
    place.asked(2).await;
    place.reported("Failed", false);
    assert_eq!(place.whole().await, format!("one\n{BROKEN_OFF}"));

    // It ends as logs end, and the pod goes.
    let (place, stream) = Place::followed().await;
    drop(stream);
    place.asked(2).await;
    place.reported("Failed", false);
    assert_eq!(place.whole().await, "one\n");

    // It ends as logs end, and the node has removed its container when it is requested again: as it does with a deleted pod.
    let removed = || Log::whole("unable to retrieve container logs for containerd://c84892ee4a39");
    let (place, stream) = Place::followed().await;
    place.server.log(removed());
    drop(stream);
    place.asked(2).await;
    place.server.log(removed());
    place.reported("Failed", false);
    assert_eq!(place.whole().await, "one\n");
    assert_eq!(place.queries().len(), 3, "a container that was removed has no more lines");

    // It breaks off, and the node has removed its container then.
    let (place, stream) = Place::followed().await;
    place.server.log(removed());
    stream.unbounded_send(broken()).unwrap();
    place.asked(2).await;
    place.server.log(removed());
    place.reported("Failed", false);
    assert_eq!(place.whole().await, format!("one\n{BROKEN_OFF}"));

    // The node threw a part away before it could be continued.
    let (place, stream) = Place::followed().await;
    stream.unbounded_send(broken()).unwrap();
    let stream = place.stream();
    place.asked(2).await;
    stream.unbounded_send(Ok(at(70, "much later\n"))).unwrap();
    place.reported("Succeeded", true);
    drop(stream);
    place.server.log(Log::whole(&at(70, "much later\n")));
    place.asked(3).await;
    assert_eq!(place.whole().await, format!("one\n{BROKEN_OFF}much later\n"));

    // No follower was there.
    let place = Place::new();
    place.reported("Failed", false);
    assert_eq!(place.whole().await, "[... the pod daily-1-abc was removed before its log was read ...]\n");
}

#[tokio::test]
async fn the_log_of_a_run_that_is_over_is_whole_though_the_end_of_its_pod_was_not_reported_yet() {
    // The last line is on its way, and so is the news of the pod.
    let (place, stream) = Place::followed().await;
    place.server.log(Log::whole("one\ntwo\n"));
    assert_eq!(place.whole().await, "one\ntwo\n");
    drop(stream);
}

#[tokio::test]
async fn a_look_at_a_log_that_is_not_followed_asks_the_node_for_no_more_than_its_last_lines() {
    let place = Place::new();
    place.server.log(Log::whole("two\nthree\n"));
    assert_eq!(place.read(LogPart::LastLines(2)).await.unwrap().text, "two\nthree\n");
    assert!(place.queries()[0].contains("tailLines=2"), "{:?}", place.queries());
}

#[tokio::test]
async fn nothing_of_logs_stays_on_disk() {
    let place = Place::new();
    let is_empty = async |what: &str| place.clock.until(what, || place.on_disk() == 0).await;

    // Of a read whose caller stopped waiting.
    let stream = place.stream();
    stream.unbounded_send(Ok("one\n".into())).unwrap();
    let pods = place.pods();
    {
        let reading = place.logs.read(&place.id, &pods, false, LogPart::Whole);
        tokio::select! {
            _ = reading => panic!("it is not at its end"),
            () = place.clock.until("it is being read", || place.queries().len() == 1 && place.on_disk() > 0) => {}
        }
    }
    is_empty("the pull was given up").await;
    drop(stream);

    // Of one that fails.
    let stream = place.stream();
    stream.unbounded_send(Ok("one\n".into())).unwrap();
    stream.unbounded_send(broken()).unwrap();
    tokio::select! {
        read = place.logs.read(&place.id, &pods, false, LogPart::Whole) => assert!(read.is_err()),
        () = place.clock.goes() => {}
    }
    is_empty("the pull failed").await;

    // Of a run that is recorded, and of runs that another instance follows from now on.
    for end in ["the execution", "the leader epoch"] {
        let (stream, asked) = (place.stream(), place.queries().len());
        place.follow();
        place.asked(asked + 1).await;
        place.clock.until("it is followed", || place.on_disk() > 0).await;
        stream.unbounded_send(Ok(at(1, "one\n"))).unwrap();
        if end == "the execution" {
            place.logs.forget(&place.id);
        } else {
            place.logs.stop();
        }
        is_empty(end).await;
        place.clock.until("its stream is closed", || stream.is_closed()).await;
    }
    let calls = place.queries().len();
    place.follow();
    assert_eq!((place.queries().len(), place.on_disk()), (calls, 0), "only who leads follows");

    // Of a process that died, whatever shares the folder.
    let folder = place.folder.path().join("logs");
    fs::create_dir_all(folder.join("process-dead/log-of-before")).unwrap();
    place.logs.begin();
    let (_stream, asked) = (place.stream(), place.queries().len());
    place.follow();
    place.asked(asked + 1).await;
    assert_eq!(place.on_disk(), 2);
    let pods = Api::namespaced(place.server.client(), NAMESPACE);
    let _ = Logs::new(pods, place.namespace.clone(), folder.clone(), 1000, Arc::new(HeldClock::new()));
    assert_eq!(place.on_disk(), 1, "that of a living process stays");
    assert!(!folder.join("process-dead").exists());
    drop(place.logs);
    let left = || fs::read_dir(&folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    place.clock.until("all of it goes with the process", || left() == 0).await;
}
