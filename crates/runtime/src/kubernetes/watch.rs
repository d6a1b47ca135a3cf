//! The watched state of the namespace: three watches whose objects are reduced on arrival, and notifications of changes.
//!
//! This state may be behind the API server. So it is used only for decisions that are safe then (an unchanged object, the stage
//! of an execution); decisions that lead to a write read the object again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::runtime::WatchStreamExt;
use kube::{
    Api,
    core::PartialObjectMeta,
    runtime::watcher::{self, DefaultBackoff, Event},
};
use model::{
    clock::Clock,
    name::JobName,
    runtime::{Changes, KnownDeployment},
};
use tokio::{sync::Notify, task::JoinSet};

use super::{
    names,
    reduced::Reduced,
    view::{CronJobView, JobView, PodView},
};

/// The number of objects per page of a list.
const PAGE: u32 = 500;

/// How long a watch may be silent before it reconnects, in seconds. A cluster that disappeared silently is noticed after this
/// time.
const WATCH_SECONDS: u32 = 60;

/// How long a node may report a secret as missing that was recreated: a node retries every two minutes at the latest.
const NOTIFY_LATER: SignedDuration = SignedDuration::from_mins(3);

/// The objects of the namespace.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    state: Mutex<State>,
    /// Notified when the list of a kind is complete.
    listed: Notify,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    cron_jobs: Objects<CronJobView>,
    jobs: Objects<Arc<JobView>>,
    /// Pods by their Job.
    pods: Objects<Arc<PodView>>,
    pods_of: HashMap<String, BTreeMap<String, Arc<PodView>>>,
    /// The last known state of removed pods by their Job, as long as the Job exists. A Job fails only after a pod was removed with
    /// a lost node or by an eviction, and only that pod has the outcome.
    gone_of: HashMap<String, BTreeMap<String, Arc<PodView>>>,
    /// Notifications of changes of Jobs.
    notifiers: HashMap<String, Arc<Notify>>,
    /// CronJobs whose secrets were missing for an execution, and since when the secrets exist again.
    incomplete: HashMap<String, (Timestamp, bool)>,
    /// Changes that were not passed to the synchronizer yet: names of CronJobs, and whether there are new scheduled Jobs.
    news: HashSet<String>,
    news_of_runs: bool,
    recovered: bool,
}

/// Objects of a kind by name.
#[derive(Debug)]
struct Objects<T> {
    all: HashMap<String, T>,
    /// The objects of an unfinished list.
    listing: Option<HashMap<String, T>>,
    /// Whether a list was completed once.
    listed: bool,
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self { all: HashMap::new(), listing: None, listed: false }
    }
}

impl<T: Clone + PartialEq> Objects<T> {
    /// Applies an event, and returns the names of changed objects.
    fn take(&mut self, event: Event<(String, Option<T>)>) -> Vec<String> {
        match event {
            Event::Init => {
                self.listing = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply((name, Some(object))) => {
                self.listing.get_or_insert_default().insert(name, object);
                Vec::new()
            }
            Event::InitApply((_, None)) => Vec::new(),
            Event::InitDone => {
                let new = self.listing.take().unwrap_or_default();
                let old = std::mem::replace(&mut self.all, new);
                self.listed = true;
                let gone = old.keys().filter(|name| !self.all.contains_key(*name)).cloned();
                let moved = self.all.iter().filter(|(name, object)| old.get(*name) != Some(*object));
                gone.chain(moved.map(|(name, _)| name.clone())).collect()
            }
            Event::Apply((name, Some(object))) => {
                let changed = self.all.get(&name) != Some(&object);
                self.all.insert(name.clone(), object);
                changed.then_some(name).into_iter().collect()
            }
            Event::Apply((name, None)) | Event::Delete((name, _)) => {
                self.all.remove(&name).map(|_| name).into_iter().collect()
            }
        }
    }
}

impl Namespace {
    /// Watches the namespace until the tasks are dropped.
    pub(crate) fn watch(self: &Arc<Self>, client: &kube::Client, namespace: &str, tasks: &mut JoinSet<()>) {
        let config = || watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
        let ours = || config().labels(names::JOB_ID);
        let cron_jobs: Api<PartialObjectMeta<CronJob>> = Api::namespaced(client.clone(), namespace);
        let jobs: Api<Reduced<Job>> = Api::namespaced(client.clone(), namespace);
        let pods: Api<Reduced<Pod>> = Api::namespaced(client.clone(), namespace);
        tasks.spawn(self.clone().follow(
            "CronJobs",
            // All of them, because unmanaged objects with a job's name matter too.
            watcher::watcher(cron_jobs, config()).backoff(DefaultBackoff::default()).boxed(),
            |object| (object.metadata.name.clone().unwrap_or_default(), Some(CronJobView::from(object))),
            Self::take_cron_job,
        ));
        tasks.spawn(self.clone().follow(
            "Jobs",
            watcher::watcher(jobs, ours()).backoff(DefaultBackoff::default()).boxed(),
            |Reduced(job)| (job.metadata.name.clone().unwrap_or_default(), JobView::of(job).map(Arc::new)),
            Self::take_job,
        ));
        tasks.spawn(self.clone().follow(
            "Pods",
            watcher::watcher(pods, ours()).backoff(DefaultBackoff::default()).boxed(),
            |Reduced(pod)| (pod.metadata.name.clone().unwrap_or_default(), PodView::of(pod).map(Arc::new)),
            Self::take_pod,
        ));
    }

    #[expect(clippy::type_complexity, reason = "two functions that say what they are by their types")]
    async fn follow<K, T>(
        self: Arc<Self>,
        kind: &'static str,
        mut events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Unpin,
        view: fn(&K) -> (String, Option<T>),
        take: fn(&Self, Event<(String, Option<T>)>),
    ) {
        let mut failing = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(kind, "the watch of the cluster continues");
                        self.state().recovered = true;
                        self.changed.notify_one();
                    }
                    let done = matches!(event, Event::InitDone);
                    take(
                        &self,
                        match event {
                            Event::Init => Event::Init,
                            Event::InitApply(object) => Event::InitApply(view(&object)),
                            Event::InitDone => Event::InitDone,
                            Event::Apply(object) => Event::Apply(view(&object)),
                            Event::Delete(object) => Event::Delete(view(&object)),
                        },
                    );
                    if done {
                        self.listed.notify_waiters();
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(kind, %error, "failed to watch the cluster; its known state may be behind; retrying");
                    }
                }
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_cron_job(&self, event: Event<(String, Option<CronJobView>)>) {
        let mut state = self.state();
        // The first list is no change: a new leader reads all of it.
        let is_first = !state.cron_jobs.listed;
        let changed = state.cron_jobs.take(event);
        if !is_first && !changed.is_empty() {
            state.news.extend(changed);
            self.changed.notify_one();
        }
    }

    fn take_job(&self, event: Event<(String, Option<Arc<JobView>>)>) {
        let mut state = self.state();
        for name in state.jobs.take(event) {
            match state.jobs.all.get(&name) {
                Some(job) if !job.manual => {
                    state.news_of_runs = true;
                    self.changed.notify_one();
                }
                Some(_) => {}
                None => drop(state.gone_of.remove(&name)),
            }
            state.notify(&name);
        }
    }

    fn take_pod(&self, event: Event<(String, Option<Arc<PodView>>)>) {
        let mut state = self.state();
        let before = matches!(event, Event::InitDone).then(|| state.pods.all.clone());
        let removed = match &event {
            // The event of its deletion contains its last state.
            Event::Delete((name, last)) => last.clone().or_else(|| state.pods.all.get(name).cloned()),
            Event::Apply((name, None)) => state.pods.all.get(name).cloned(),
            _ => None,
        };
        let changed = state.pods.take(event);
        for name in changed {
            let now = state.pods.all.get(&name).cloned();
            let old = removed.clone().or_else(|| before.as_ref().and_then(|before| before.get(&name).cloned()));
            let Some(job) = now.as_ref().or(old.as_ref()).map(|pod| pod.job.clone()) else { continue };
            let of_job = state.pods_of.entry(job.clone()).or_default();
            match now {
                Some(pod) => {
                    of_job.insert(name, pod);
                }
                None => {
                    of_job.remove(&name);
                }
            }
            if of_job.is_empty() {
                state.pods_of.remove(&job);
            }
            if let Some(old) = old.filter(|old| !state.pods.all.contains_key(&old.name))
                && state.jobs.all.contains_key(&job)
            {
                let last = Arc::new(PodView { gone: true, ..(*old).clone() });
                state.gone_of.entry(job.clone()).or_default().insert(last.name.clone(), last);
            }
            state.notify(&job);
        }
    }

    /// Waits until all kinds were listed once, for at most this long.
    pub(crate) async fn listed(&self, clock: &dyn Clock, most: Duration) -> bool {
        let waiting = async {
            loop {
                let listed = self.listed.notified();
                if self.is_listed() {
                    return;
                }
                listed.await;
            }
        };
        clock.timeout(most, waiting).await.is_ok()
    }

    /// Whether all kinds were listed once.
    pub(crate) fn is_listed(&self) -> bool {
        let state = self.state();
        state.cron_jobs.listed && state.jobs.listed && state.pods.listed
    }

    /// The watched state of a CronJob.
    pub(crate) fn cron_job(&self, name: &str) -> Option<CronJobView> {
        self.state().cron_jobs.all.get(name).cloned()
    }

    /// The managed CronJobs with valid job names.
    pub(crate) fn deployments(&self) -> Vec<KnownDeployment> {
        let state = self.state();
        let ours = state.cron_jobs.all.iter().filter_map(|(name, seen)| {
            Some(KnownDeployment { job_name: JobName::parse(name).ok()?, job_id: seen.job_id? })
        });
        ours.collect()
    }

    /// The watched state of a Job and its pods, including removed pods.
    pub(crate) fn job(&self, name: &str) -> Option<(Arc<JobView>, Vec<PodView>)> {
        let state = self.state();
        let job = state.jobs.all.get(name)?.clone();
        let pods = [state.pods_of.get(name), state.gone_of.get(name)];
        let pods = pods.into_iter().flatten().flat_map(BTreeMap::values).map(|pod| (**pod).clone()).collect();
        Some((job, pods))
    }

    /// The pods of a Job; the Job itself may be gone.
    pub(crate) fn pods(&self, job: &str) -> Vec<PodView> {
        self.state().pods_of.get(job).into_iter().flat_map(BTreeMap::values).map(|pod| (**pod).clone()).collect()
    }

    /// Whether the container of a pod has ended, or the pod is gone.
    pub(crate) fn is_over(&self, pod: &PodView) -> bool {
        let state = self.state();
        [&state.pods_of, &state.gone_of].into_iter().any(|pods| {
            let known = pods.get(&pod.job).and_then(|of_job| of_job.get(&pod.name));
            known.is_some_and(|known| known.uid == pod.uid && (known.is_over() || known.main.ended.is_some()))
        })
    }

    /// All managed Jobs.
    pub(crate) fn jobs(&self) -> Vec<Arc<JobView>> {
        self.state().jobs.all.values().cloned().collect()
    }

    /// Returns a notification of changes of a Job and its pods.
    pub(crate) fn notifier(&self, job: &str) -> Notifier<'_> {
        let mut state = self.state();
        Notifier {
            namespace: self,
            job: job.to_owned(),
            notify: state.notifiers.entry(job.to_owned()).or_default().clone(),
        }
    }

    /// Notes that a CronJob lacks one of its secrets, and notifies the synchronizer. A node reports this for a while after the
    /// secret exists again.
    pub(crate) fn lacks_secret(&self, cron_job: &str, now: Timestamp) {
        let mut state = self.state();
        state.incomplete.retain(|_, (noted, _)| now.duration_since(*noted) < NOTIFY_LATER);
        if !state.incomplete.contains_key(cron_job) {
            state.incomplete.insert(cron_job.to_owned(), (now, false));
            state.news.insert(cron_job.to_owned());
            self.changed.notify_one();
        }
    }

    /// Whether a CronJob lacks one of its secrets.
    pub(crate) fn is_incomplete(&self, cron_job: &str) -> bool {
        self.state().incomplete.get(cron_job).is_some_and(|(_, made_again)| !made_again)
    }

    /// Notes that a CronJob has its secrets.
    pub(crate) fn has_secrets(&self, cron_job: &str) {
        if let Some((_, made_again)) = self.state().incomplete.get_mut(cron_job) {
            *made_again = true;
        }
    }

    /// Waits for changes for the synchronizer, and returns them.
    pub(crate) async fn changes(&self) -> Changes {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                if !state.news.is_empty() || state.news_of_runs || state.recovered {
                    return Changes {
                        deployments: std::mem::take(&mut state.news).into_iter().collect(),
                        runs: std::mem::take(&mut state.news_of_runs),
                        recovered: std::mem::take(&mut state.recovered),
                    };
                }
            }
            changed.await;
        }
    }
}

impl State {
    fn notify(&self, job: &str) {
        if let Some(notifier) = self.notifiers.get(job) {
            notifier.notify_waiters();
        }
    }
}

/// See [`Namespace::notifier`].
pub(crate) struct Notifier<'a> {
    namespace: &'a Namespace,
    job: String,
    notify: Arc<Notify>,
}

impl Notifier<'_> {
    /// Waits for a change after this call.
    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Notifier<'_> {
    fn drop(&mut self) {
        let mut state = self.namespace.state();
        // Only the map and this value refer to it, so that no other task waits.
        if Arc::strong_count(&self.notify) <= 2 {
            state.notifiers.remove(&self.job);
        }
    }
}

#[cfg(test)]
impl Namespace {
    /// Applies an event of the watch of CronJobs.
    pub(crate) fn notify_of_cron_job(&self, name: &str, seen: CronJobView) {
        self.take_cron_job(Event::Apply((name.to_owned(), Some(seen))));
    }

    /// Applies events of a Job and of a pod of it; `false` when the pod is gone.
    pub(crate) fn notify_of(&self, job: &Job, pod: &Pod, is_there: bool) {
        let name =
            |metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| metadata.name.clone().unwrap();
        self.take_job(Event::Apply((name(&job.metadata), JobView::of(job).map(Arc::new))));
        let of_pod = (name(&pod.metadata), PodView::of(pod).map(Arc::new));
        self.take_pod(if is_there { Event::Apply(of_pod) } else { Event::Delete(of_pod) });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job() -> (String, Option<Arc<JobView>>) {
        let labels = json!({names::JOB_ID: "00000000-0000-0000-0000-000000000001"});
        let job = json!({"metadata": {"name": "daily-sales-1", "labels": labels}});
        let job: Job = serde_json::from_value(job).unwrap();
        ("daily-sales-1".into(), JobView::of(&job).map(Arc::new))
    }

    fn pod(phase: &str) -> (String, Option<Arc<PodView>>) {
        let labels = json!({names::JOB_OF_POD: "daily-sales-1"});
        let pod = json!({"metadata": {"name": "daily-sales-1-abc", "labels": labels}, "status": {"phase": phase}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        ("daily-sales-1-abc".into(), PodView::of(&pod).map(Arc::new))
    }

    #[test]
    fn the_last_that_was_seen_of_a_pod_stays_as_long_as_its_job() {
        let namespace = Namespace::default();
        namespace.take_job(Event::Apply(job()));
        namespace.take_pod(Event::Apply(pod("Running")));
        namespace.take_pod(Event::Delete(pod("Failed")));
        let (_, pods) = namespace.job("daily-sales-1").unwrap();
        assert_eq!(pods.iter().map(|pod| (pod.phase.as_str(), pod.gone)).collect::<Vec<_>>(), [("Failed", true)]);
        assert!(namespace.pods("daily-sales-1").is_empty());
        namespace.take_job(Event::Delete(job()));
        assert!(namespace.state().gone_of.is_empty());
    }

    #[test]
    fn a_pod_that_went_while_the_watch_was_down_is_as_it_was_seen_last() {
        let namespace = Namespace::default();
        namespace.take_job(Event::Apply(job()));
        namespace.take_pod(Event::Apply(pod("Running")));
        namespace.take_pod(Event::Init);
        namespace.take_pod(Event::InitDone);
        let (_, pods) = namespace.job("daily-sales-1").unwrap();
        assert_eq!(pods.iter().map(|pod| (pod.phase.as_str(), pod.gone)).collect::<Vec<_>>(), [("Running", true)]);
    }
}
