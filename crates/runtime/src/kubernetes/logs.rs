//! Logs of runs: pulled from the nodes where they are, and followed into a folder of this machine for the pods that will
//! take theirs along when they go (at a deadline, a cancellation, an eviction).
//!
//! The folder is a cache: what is in it can be had again as long as the pod is there. Followers are bounded; a run beyond
//! the bound has the log that its pods have at the end.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::AsyncReadExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use model::{name::ExecutionId, runtime::LogChunk};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
};

use super::{
    fault::{Fault, call},
    view::PodView,
};
use crate::logs::{self, LogWriter};

/// The most logs that are followed at once.
const FOLLOWED_MAX: usize = 256;

/// The bytes that are taken from a stream at once.
const PIECE_BYTES: usize = 64 * 1024;

/// How long a log may be pulled.
const PULL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long after the end of a pod its node may be away before its log is given up.
const NODE_PATIENCE: SignedDuration = SignedDuration::from_secs(120);

/// How long the last words of a pod that is gone may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Logs of a namespace.
#[derive(Debug)]
pub(crate) struct Logs {
    pods: Api<Pod>,
    folder: PathBuf,
    log_max_bytes: u64,
    places: Arc<Semaphore>,
    /// Counts what was pulled, so that two readers of a log don't write into one folder.
    pulls: AtomicU64,
    /// Followers by the pod's uid.
    followers: Mutex<HashMap<String, (ExecutionId, JoinHandle<()>)>>,
}

impl Logs {
    /// Logs of the pods of `pods`, with `folder` for what is followed.
    pub(crate) fn new(pods: Api<Pod>, folder: PathBuf, log_max_bytes: u64) -> Self {
        let places = Arc::new(Semaphore::new(FOLLOWED_MAX));
        Self { pods, folder, log_max_bytes, places, pulls: AtomicU64::new(0), followers: Mutex::default() }
    }

    /// Begins to follow the pods of a run that write a log, unless that was begun.
    pub(crate) fn follow(&self, id: &ExecutionId, pods: &[PodView]) {
        for pod in pods.iter().filter(|pod| pod.main.started_at.is_some() && pod.main.ended.is_none()) {
            let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
            if followers.contains_key(&pod.uid) {
                continue;
            }
            let Ok(place) = self.places.clone().try_acquire_owned() else { return };
            let (api, to, limit, pod) = (self.pods.clone(), self.folder_of(id, pod), self.log_max_bytes, pod.clone());
            let uid = pod.uid.clone();
            let task = tokio::spawn(async move {
                if let Err(error) = stream(&api, &pod, true, to, limit).await {
                    tracing::debug!(pod = pod.name, %error, "the log of a pod is not followed any more");
                }
                drop(place);
            });
            followers.insert(uid, (id.clone(), task));
        }
    }

    /// The log of a run: of the pods that are there, and of those that were followed and are gone. `None` when there was
    /// none of them.
    pub(crate) async fn read(
        &self,
        id: &ExecutionId,
        pods: &[PodView],
        now: Timestamp,
    ) -> Result<Option<LogChunk>, Fault> {
        let mut parts: Vec<(String, LogChunk)> = Vec::new();
        for pod in pods.iter().filter(|pod| pod.main.started_at.is_some() || pod.init.is_some()) {
            let to =
                self.folder.join("pulled").join(format!("{}-{}", pod.uid, self.pulls.fetch_add(1, Ordering::Relaxed)));
            match tokio::time::timeout(PULL_TIMEOUT, stream(&self.pods, pod, false, to.clone(), self.log_max_bytes))
                .await
            {
                Ok(Ok(())) => {
                    let chunk = self.read_folder(to.clone()).await;
                    let _ = spawn_blocking(move || fs::remove_dir_all(to)).await;
                    parts.push((part_name(pod), chunk));
                }
                // The pod is gone, or the node has its log no more: what was followed counts.
                Ok(Err(fault)) if fault.is_missing() || fault.is_refused_as_bad() => {}
                // A run has to end, also when its node never comes back.
                Ok(Err(fault)) if fault.is_of_node() && is_given_up(pod, &fault, now) => {
                    tracing::warn!(pod = pod.name, %fault, "the node of a pod does not give its log; it is given up");
                }
                Ok(Err(fault)) => return Err(fault),
                Err(_) => return Err(Fault::Silent("The log was not read within a minute.".into())),
            }
        }
        self.wait_for_last_words(id).await;
        for name in self.followed(id).await {
            if !parts.iter().any(|(known, _)| *known == name) {
                let chunk = self.read_folder(self.folder.join(id.as_str()).join(&name)).await;
                parts.push((name, chunk));
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        parts.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Some(joined(parts)))
    }

    /// Drops what was followed of a run.
    pub(crate) async fn forget(&self, id: &ExecutionId) {
        {
            let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
            followers.retain(|_, (of, task)| {
                if of == id {
                    task.abort();
                }
                of != id
            });
        }
        let folder = self.folder.join(id.as_str());
        let _ = spawn_blocking(move || fs::remove_dir_all(folder)).await;
    }

    fn folder_of(&self, id: &ExecutionId, pod: &PodView) -> PathBuf {
        self.folder.join(id.as_str()).join(part_name(pod))
    }

    /// Names of the followed pods of a run, in the order of their creation.
    async fn followed(&self, id: &ExecutionId) -> Vec<String> {
        let folder = self.folder.join(id.as_str());
        let names = spawn_blocking(move || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(folder)? {
                names.extend(entry?.file_name().into_string());
            }
            names.sort();
            Ok(names)
        });
        names.await.ok().and_then(Result::ok).unwrap_or_default()
    }

    async fn wait_for_last_words(&self, id: &ExecutionId) {
        let running = || {
            let followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
            followers.values().any(|(of, task)| of == id && !task.is_finished())
        };
        let until = tokio::time::Instant::now() + LAST_WORDS;
        while running() && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn read_folder(&self, folder: PathBuf) -> LogChunk {
        let max = self.log_max_bytes;
        spawn_blocking(move || logs::read(&folder, max)).await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// Whether a node that can't be asked is not waited for any more.
fn is_given_up(pod: &PodView, fault: &Fault, now: Timestamp) -> bool {
    // A node that has no address can't be asked, whether it is there or not.
    let has_no_address = fault.to_string().contains("no preferred addresses found");
    let ended_at = pod.main.ended.as_ref().and_then(|end| end.at);
    has_no_address || ended_at.is_some_and(|at| now.duration_since(at) > NODE_PATIENCE)
}

/// Sorts by creation.
fn part_name(pod: &PodView) -> String {
    format!("{:015}-{}", pod.created_at.as_second(), pod.name)
}

/// The attempts one after the other, each with its name where there are several.
fn joined(parts: Vec<(String, LogChunk)>) -> LogChunk {
    let several = parts.len() > 1;
    let mut all = LogChunk::default();
    for (number, (name, chunk)) in parts.into_iter().enumerate() {
        if several {
            if !all.text.is_empty() && !all.text.ends_with('\n') {
                all.text.push('\n');
            }
            let pod = name.split_once('-').map_or(name.as_str(), |(_, pod)| pod);
            let _ = writeln!(all.text, "[... attempt {} in the pod {pod} ...]", number + 1);
        }
        all.text.push_str(&chunk.text);
        all.omitted_bytes += chunk.omitted_bytes;
    }
    all
}

/// Takes a pod's log into a folder, from its beginning; with `follow`, to the end of its container.
async fn stream(pods: &Api<Pod>, pod: &PodView, follow: bool, to: PathBuf, log_max_bytes: u64) -> Result<(), Fault> {
    let container = match &pod.init {
        Some((name, _)) if pod.main.started_at.is_none() => name.clone(),
        _ => pod.main_name.clone(),
    };
    let params = LogParams { container: Some(container), follow, ..LogParams::default() };
    let mut bytes = std::pin::pin!(call(pods.log_stream(&pod.name, &params)).await?);
    let disk = |e: io::Error| Fault::Silent(format!("The log can't be written to {}: {e}.", to.display()));
    let mut writer = {
        let to = to.clone();
        spawn_blocking(move || new_writer(&to, log_max_bytes)).await.map_err(|e| disk(e.into()))?.map_err(disk)?
    };
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = bytes.read(&mut piece).await.map_err(|e| Fault::Silent(format!("The log broke off: {e}.")))?;
        let taken = piece[..read].to_vec();
        writer = spawn_blocking(move || {
            if taken.is_empty() {
                writer.finish();
            } else {
                writer.append(&taken);
            }
            writer
        })
        .await
        .map_err(|e| disk(e.into()))?;
        if read == 0 {
            return Ok(());
        }
    }
}

fn new_writer(folder: &Path, log_max_bytes: u64) -> io::Result<LogWriter> {
    // What a former process followed of it is had again.
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::create_dir_all(folder)?;
    Ok(LogWriter::new(folder.to_owned(), log_max_bytes))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::core::Status;

    use super::*;
    use crate::kubernetes::{
        names,
        view::{ContainerEnd, ContainerView},
    };

    #[test]
    fn the_log_on_a_node_that_is_away_is_given_up_after_a_time() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let end = ContainerEnd { exit_code: 0, reason: "Completed".into(), message: None, at: Some(at(100)) };
        let pod = PodView {
            main: ContainerView { ended: Some(end), ..ContainerView::default() },
            ..PodView::of(&Pod {
                metadata: ObjectMeta {
                    name: Some("daily-sales-1-abcde".into()),
                    labels: Some([(names::JOB_OF_POD.to_owned(), "daily-sales-1".to_owned())].into()),
                    ..ObjectMeta::default()
                },
                ..Pod::default()
            })
            .unwrap()
        };
        let answers = |code: u16, message: &str| {
            Fault::from(kube::Error::Api(Box::new(Status::failure(message, "InternalError").with_code(code))))
        };
        let away = answers(500, "dial tcp 198.18.0.2:10250: connect: no route to host");
        assert!(away.is_of_node() && !answers(403, "no").is_of_node());
        assert!(!is_given_up(&pod, &away, at(110)), "it may come back");
        assert!(is_given_up(&pod, &away, at(300)));
        // The way it answers for a node that has no address.
        assert!(is_given_up(&pod, &answers(500, "no preferred addresses found; known addresses: []"), at(100)));
        let going_on = PodView { main: ContainerView::default(), ..pod };
        assert!(!is_given_up(&going_on, &away, at(300)), "it is not over");
    }
}
