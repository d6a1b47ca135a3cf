//! What events of the namespace say of objects that get no further.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};
use model::clock::SharedClock;
use tokio::sync::Mutex;

use super::fault::{Fault, call};

/// How long an answer serves all that ask: hundreds may wait for the same slow cluster, which a list for each of them would
/// make slower.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// How many events are read at once. Where there are more, those of one object are asked for alone.
const EVENTS_MAX: u32 = 500;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum About {
    /// Why the controller could make no pod for a Job.
    RefusedPods,
    /// Why the node can't give a pod its volumes.
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

/// The newest words about each object.
#[derive(Debug)]
struct Reported {
    /// On the boot clock.
    read_at: Duration,
    newest: HashMap<String, String>,
    /// Whether there are no others.
    whole: bool,
}

impl Events {
    pub(crate) fn new(api: Api<Event>, clock: SharedClock) -> Self {
        Self { api, clock, refused_pods: Arc::default(), missing_volumes: Arc::default() }
    }

    /// The newest words about an object, a few seconds old at most.
    pub(crate) async fn reported(&self, about: About, name: &str) -> Result<Option<String>, Fault> {
        let kept = match about {
            About::RefusedPods => &self.refused_pods,
            About::MissingVolumes => &self.missing_volumes,
        };
        {
            // Who comes while they are read waits for the same answer.
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
