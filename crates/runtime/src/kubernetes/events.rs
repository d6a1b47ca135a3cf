//! Events of the namespace about objects that make no progress.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};
use model::clock::SharedClock;
use tokio::sync::Mutex;

use super::fault::{Fault, call};

/// How long a list of events is reused: hundreds of executions may wait for a slow cluster, which a list for each of them would
/// slow down further.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// The most events per list. If there are more, the events of a single object are listed.
const EVENTS_MAX: u32 = 500;

/// The subject of a list of events.
#[derive(Debug, Clone, Copy)]
pub(crate) enum About {
    /// Failures of the controller to create a pod for a Job.
    RefusedPods,
    /// Failures of a node to mount the volumes of a pod.
    MissingVolumes,
}

impl About {
    fn selector(self) -> &'static str {
        match self {
            Self::RefusedPods => "involvedObject.kind=Job,reason=FailedCreate",
            Self::MissingVolumes => "involvedObject.kind=Pod,reason=FailedMount",
        }
    }
}

/// The events of a namespace, read for many at once.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    api: Api<Event>,
    clock: SharedClock,
    refused_pods: Arc<Mutex<Option<Reported>>>,
    missing_volumes: Arc<Mutex<Option<Reported>>>,
}

/// The newest message about each object.
#[derive(Debug)]
struct Reported {
    /// On the boot clock.
    read_at: Duration,
    newest: HashMap<String, String>,
    /// Whether the list is complete.
    whole: bool,
}

impl Events {
    pub(crate) fn new(api: Api<Event>, clock: SharedClock) -> Self {
        Self { api, clock, refused_pods: Arc::default(), missing_volumes: Arc::default() }
    }

    /// The newest message about an object, at most a few seconds old.
    pub(crate) async fn reported(&self, about: About, name: &str) -> Result<Option<String>, Fault> {
        let kept = match about {
            About::RefusedPods => &self.refused_pods,
            About::MissingVolumes => &self.missing_volumes,
        };
        {
            // Concurrent callers wait for the same list.
            let mut kept = kept.lock().await;
            let told = match kept.take().filter(|told| self.clock.boot().saturating_sub(told.read_at) < FRESH_FOR) {
                Some(told) => told,
                None => self.read(about.selector()).await?,
            };
            let told = kept.insert(told);
            if told.whole || told.newest.contains_key(name) {
                return Ok(told.newest.get(name).cloned());
            }
        }
        let selector = format!("{},involvedObject.name={name}", about.selector());
        Ok(self.read(&selector).await?.newest.remove(name))
    }

    async fn read(&self, selector: &str) -> Result<Reported, Fault> {
        let read_at = self.clock.boot();
        let events =
            call(&*self.clock, self.api.list(&ListParams::default().fields(selector).limit(EVENTS_MAX))).await?;
        let whole = events.metadata.continue_.is_none_or(|token| token.is_empty());
        Ok(Reported { read_at, newest: newest(events.items), whole })
    }
}

fn newest(events: Vec<Event>) -> HashMap<String, String> {
    let mut newest: HashMap<String, (Timestamp, String)> = HashMap::new();
    for event in events {
        let at = event.last_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let (Some(name), Some(message)) = (event.involved_object.name, event.message) else { continue };
        if newest.get(&name).is_none_or(|(known, _)| *known <= at) {
            newest.insert(name, (at, message));
        }
    }
    newest.into_iter().map(|(name, (_, message))| (name, message)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_words_about_each_object_count() {
        let event = |name: &str, second: i64, message: &str| -> Event {
            let at = Timestamp::from_second(second).unwrap().to_string();
            let event =
                json!({"metadata": {}, "involvedObject": {"name": name}, "lastTimestamp": at, "message": message});
            serde_json::from_value(event).unwrap()
        };
        let read = newest(vec![event("a", 2, "later"), event("a", 1, "first"), event("b", 1, "of b")]);
        assert_eq!(read, HashMap::from([("a".into(), "later".into()), ("b".into(), "of b".into())]));
    }
}
