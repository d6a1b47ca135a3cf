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
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use model::{
    clock::{Clock, SharedClock},
    log::LogChunk,
    name::ExecutionId,
};
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

/// How long a log is asked for that the API server can't get from the node. A run is not left without its end for it: a node
/// that was lost never answers.
const NODE_SILENT_MAX: Duration = Duration::from_secs(60);

/// How long the last words of a pod that is gone may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Logs of a namespace.
#[derive(Debug)]
pub(crate) struct Logs {
    pods: Api<Pod>,
    folder: PathBuf,
    log_max_bytes: u64,
    places: Arc<Semaphore>,
    clock: SharedClock,
    /// Counts what was pulled, so that two readers of a log don't write into one folder.
    pulls: AtomicU64,
    /// Followers by the pod's uid.
    followers: Mutex<HashMap<String, (ExecutionId, JoinHandle<()>)>>,
    /// Since when the logs of runs can't be had from their nodes, on the boot clock.
    silent: Mutex<HashMap<ExecutionId, Duration>>,
}

impl Logs {
    /// Logs of the pods of `pods`, with `folder` for what is followed.
    pub(crate) fn new(pods: Api<Pod>, folder: PathBuf, log_max_bytes: u64, clock: SharedClock) -> Self {
        let places = Arc::new(Semaphore::new(FOLLOWED_MAX));
        Self {
            pods,
            folder,
            log_max_bytes,
            places,
            clock,
            pulls: AtomicU64::new(0),
            followers: Mutex::default(),
            silent: Mutex::default(),
        }
    }

    /// Begins to follow the pods of a run that write a log, unless that was begun.
    pub(crate) fn follow(&self, id: &ExecutionId, pods: &[PodView]) {
        for pod in pods.iter().filter(|pod| !pod.is_over() && pod.main.started_at.is_some() && pod.main.ended.is_none())
        {
            let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
            if followers.contains_key(&pod.uid) {
                continue;
            }
            let Ok(place) = self.places.clone().try_acquire_owned() else { return };
            let (api, to, limit, pod) = (self.pods.clone(), self.folder_of(id, pod), self.log_max_bytes, pod.clone());
            let (uid, clock) = (pod.uid.clone(), self.clock.clone());
            let task = tokio::spawn(async move {
                if let Err(error) = stream(&*clock, &api, &pod, true, to, limit).await {
                    tracing::debug!(pod = pod.name, %error, "the log of a pod is not followed any more");
                }
                drop(place);
            });
            followers.insert(uid, (id.clone(), task));
        }
    }

    /// The log of a run: of the pods that are there, and of those that were followed and are gone. `None` when there was
    /// none of them.
    pub(crate) async fn read(&self, id: &ExecutionId, pods: &[PodView]) -> Result<Option<LogChunk>, Fault> {
        let mut parts: Vec<(String, LogChunk)> = Vec::new();
        let mut given_up: Vec<(String, LogChunk)> = Vec::new();
        for pod in pods.iter().filter(|pod| pod.main.started_at.is_some() || pod.init.is_some()) {
            let to =
                self.folder.join("pulled").join(format!("{}-{}", pod.uid, self.pulls.fetch_add(1, Ordering::Relaxed)));
            let pulling = stream(&*self.clock, &self.pods, pod, false, to.clone(), self.log_max_bytes);
            match self.clock.timeout(PULL_TIMEOUT, pulling).await {
                Ok(Ok(())) => {
                    self.silent.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                    let chunk = self.read_folder(to.clone()).await;
                    let _ = spawn_blocking(move || fs::remove_dir_all(to)).await;
                    if !is_apology(&chunk.text) {
                        parts.push((part_name(pod), chunk));
                    }
                }
                // The pod is gone, or the node has its log no more: what was followed counts.
                Ok(Err(fault)) if fault.is_missing() || fault.is_refused_as_bad() => {}
                failed => {
                    let silent = |_| Fault::Silent("The log was not read within a minute.".into());
                    let fault = failed.map_err(silent).and_then(|done| done).err();
                    // An API server that is away is waited for. One that answers speaks for a node that does not.
                    let is_there = call(&*self.clock, self.pods.get_metadata_opt(&pod.name)).await?.is_some();
                    let Some(fault) = fault.filter(|_| is_there) else { continue };
                    // A node that has no address can't be asked, whether it is there or not.
                    let has_no_address = fault.to_string().contains("no preferred addresses found");
                    if !has_no_address && !self.is_silent_for_long(id) {
                        return Err(fault);
                    }
                    tracing::warn!(execution = %id, pod = pod.name, %fault, "the log of a pod is given up");
                    let text = format!("[... the log could not be read from the node: {fault} ...]\n");
                    given_up.push((part_name(pod), LogChunk { text, ..LogChunk::default() }));
                }
            }
        }
        self.wait_for_last_words(id).await;
        for name in self.followed(id).await {
            if !parts.iter().any(|(known, _)| *known == name) {
                let chunk = self.read_folder(self.folder.join(id.as_str()).join(&name)).await;
                parts.push((name, chunk));
            }
        }
        for (name, apology) in given_up {
            if !parts.iter().any(|(known, _)| *known == name) {
                parts.push((name, apology));
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
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let folder = self.folder.join(id.as_str());
        let _ = spawn_blocking(move || fs::remove_dir_all(folder)).await;
    }

    /// Notes that a log can't be had from its node, and tells whether that has been so for long.
    fn is_silent_for_long(&self, id: &ExecutionId) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.boot();
        now.saturating_sub(*silent.entry(id.clone()).or_insert(now)) >= NODE_SILENT_MAX
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
        let until = self.clock.boot() + LAST_WORDS;
        while running() && self.clock.boot() < until {
            self.clock.sleep(Duration::from_millis(50)).await;
        }
    }

    async fn read_folder(&self, folder: PathBuf) -> LogChunk {
        let max = self.log_max_bytes;
        spawn_blocking(move || logs::read(&folder, max)).await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// Whether a node says in place of a log, and as if it were one, that it has it no more: it removes the containers of a pod
/// that it evicts.
fn is_apology(text: &str) -> bool {
    text.starts_with("unable to retrieve container logs for ") && text.trim_end().lines().count() == 1
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
async fn stream(
    clock: &dyn Clock,
    pods: &Api<Pod>,
    pod: &PodView,
    follow: bool,
    to: PathBuf,
    log_max_bytes: u64,
) -> Result<(), Fault> {
    let container = match &pod.init {
        Some((name, _)) if pod.main.started_at.is_none() => name.clone(),
        _ => pod.main_name.clone(),
    };
    let params = LogParams { container: Some(container), follow, ..LogParams::default() };
    let mut bytes = std::pin::pin!(call(clock, pods.log_stream(&pod.name, &params)).await?);
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
    use super::*;

    #[test]
    fn a_node_that_has_a_log_no_more_says_so_in_its_place() {
        assert!(is_apology("unable to retrieve container logs for containerd://c84892ee4a39"));
        assert!(!is_apology("unable to retrieve container logs for containerd://c84892ee4a39\nsays this job"));
        assert!(!is_apology("begun\n"));
    }
}
