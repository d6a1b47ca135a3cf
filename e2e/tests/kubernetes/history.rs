//! The history of the objects of a namespace, event by event, in the API server's own order.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Child, Stdio},
    sync::{Mutex, PoisonError},
};

use devtools::cluster::Namespace;
use serde_json::Value;
use tempfile::NamedTempFile;

/// A watch of the objects of a kind. It is begun before the first of them is made.
#[derive(Debug)]
pub(crate) struct History {
    watching: Mutex<Child>,
    events: NamedTempFile,
}

/// A Job as its events tell.
#[derive(Debug, Default)]
pub(crate) struct JobHistory {
    /// The data job.
    pub(crate) of: String,
    /// Whether a request started it.
    pub(crate) is_manual: bool,
    /// The minute since 1970 of its tick.
    pub(crate) tick: Option<u64>,
    /// The Jobs of this name that could run something.
    pub(crate) ran: BTreeSet<String>,
    /// The position of the event from which on it could run something.
    pub(crate) begun: Option<usize>,
    /// The position of the event that says that nothing of it runs any more.
    pub(crate) over: Option<usize>,
    /// When it was made, in seconds since 1970.
    pub(crate) created: u64,
    /// When it began, in seconds since 1970, as its status has it.
    pub(crate) start: Option<u64>,
    /// When it was complete, in seconds since 1970, as its status has it.
    pub(crate) completion: Option<u64>,
    /// Whether it is gone.
    pub(crate) is_gone: bool,
}

impl JobHistory {
    fn take(&mut self, position: usize, event: &Value) {
        let object = &event["object"];
        let annotations = &object["metadata"]["annotations"];
        self.of = text(&object["metadata"]["labels"]["com.vmware.taurus/name"]);
        self.is_manual = annotations["holdfast/manual"].is_string();
        self.tick = annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str().map(|at| seconds(at) / 60);
        self.created = object["metadata"]["creationTimestamp"].as_str().map(seconds).unwrap_or_default();
        self.is_gone = event["type"] == "DELETED";
        let is_over = self.is_gone
            || object["status"]["conditions"].as_array().into_iter().flatten().any(|condition| {
                condition["status"] == "True" && (condition["type"] == "Complete" || condition["type"] == "Failed")
            });
        if object["spec"]["suspend"] != true && !is_over {
            self.begun = self.begun.or(Some(position));
            self.ran.insert(text(&object["metadata"]["uid"]));
        }
        if is_over && self.over.is_none() {
            self.over = Some(position);
        }
        self.start = object["status"]["startTime"].as_str().map(seconds).or(self.start);
        self.completion = object["status"]["completionTime"].as_str().map(seconds).or(self.completion);
    }
}

impl History {
    /// Begins to watch.
    pub(crate) fn of(namespace: &Namespace, kind: &str) -> Self {
        let events = NamedTempFile::new().expect("a temporary file");
        let mut kubectl = namespace.kubectl();
        kubectl.args(["get", kind, "--watch", "--output-watch-events", "-o", "json"]);
        let output = events.reopen().expect("the temporary file");
        let watching = kubectl.stdout(output).stderr(Stdio::inherit()).spawn().expect("kubectl");
        Self { watching: Mutex::new(watching), events }
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        let ended = self.watching.lock().expect("no panic").try_wait().expect("kubectl");
        assert!(ended.is_none(), "kubectl does not watch any more: {ended:?}");
        let bytes = std::fs::read(self.events.path()).expect("the events");
        // The last one may not be written to its end yet.
        serde_json::Deserializer::from_slice(&bytes).into_iter().map_while(Result::ok).collect()
    }

    /// The Jobs so far, by name.
    pub(crate) fn jobs(&self) -> BTreeMap<String, JobHistory> {
        let mut all = BTreeMap::<String, JobHistory>::new();
        for (position, event) in self.events().iter().enumerate() {
            all.entry(text(&event["object"]["metadata"]["name"])).or_default().take(position, event);
        }
        all
    }
}

impl Drop for History {
    fn drop(&mut self) {
        let watching = self.watching.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = watching.kill();
        let _ = watching.wait();
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn seconds(time: &str) -> u64 {
    let at: jiff::Timestamp = time.parse().expect("a time");
    u64::try_from(at.as_second()).expect("after 1970")
}
