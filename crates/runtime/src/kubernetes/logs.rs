//! Logs of executions: followed into local folders while they are written, because the log of a pod is lost with the pod (at a
//! deadline, a cancellation, an eviction), and otherwise read from the node.
//!
//! A follower continues to the end of its container, also after a stream breaks off. A log that was followed to its end is not
//! read again. The number of followers is limited; without a follower the log is that of the pods at the end. Lost lines are
//! marked at their place.
//!
//! The folders are caches: their content can be read again as long as the pod exists. They are removed with the execution and at
//! the end of the leader epoch. Processes may share the parent folder; the next start removes folders of dead processes.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use files::Lock;
use futures::AsyncReadExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use model::{
    clock::SharedClock,
    log::{LogChunk, LogPart},
    name::ExecutionId,
};
use tempfile::TempDir;
use tokio::{
    sync::Semaphore,
    task::{AbortHandle, spawn_blocking},
};

use super::{
    fault::{Fault, call},
    position::{APOLOGY, BROKEN_OFF, Position},
    view::PodView,
    watch::Namespace,
};
use crate::logs::{self, LogWriter};

/// The most logs that are followed at once.
const FOLLOWED_MAX: usize = 256;

/// The most bytes of one read.
const PIECE_BYTES: usize = 64 * 1024;

/// The longest time to read a log from its node.
const PULL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a followed log may be silent before it is requested again, because a dead connection is silent too.
const SILENCE_MAX: Duration = Duration::from_secs(10 * 60);

/// The first and the longest pause before a log that broke off is continued.
const CONTINUE_AFTER: Duration = Duration::from_millis(250);
const CONTINUE_AFTER_MAX: Duration = Duration::from_secs(30);

/// The most requests for the end of a log whose container has ended.
const ENDS_MAX: u32 = 6;

/// How long a log is requested that the API server can't get from the node. A lost node never answers, and the end of the
/// execution must be recorded.
const NODE_SILENT_MAX: Duration = Duration::from_secs(60);

/// How long the last lines of an ended pod may take to arrive.
const LOG_TAIL_WAIT: Duration = Duration::from_secs(5);

/// Follows and reads the logs of executions in a namespace.
#[derive(Debug)]
pub(crate) struct Logs {
    source: Source,
    namespace: Arc<Namespace>,
    folder: PathBuf,
    /// The subfolder of this process, once it is needed.
    own: Mutex<Option<OwnFolder>>,
    places: Arc<Semaphore>,
    /// The logs that are or were followed; absent while this instance does not lead.
    followed: Mutex<Option<HashMap<ExecutionId, BTreeMap<String, Followed>>>>,
    /// Since when logs of executions can't be read from their nodes, on the boot clock.
    silent: Mutex<HashMap<ExecutionId, Duration>>,
}

/// A folder of one process, which holds a lock on it while it runs.
#[derive(Debug)]
struct OwnFolder {
    folder: TempDir,
    _lock: Lock,
}

impl OwnFolder {
    const LOCK: &str = "lock";

    fn new(shared: &Path) -> io::Result<Self> {
        fs::create_dir_all(shared)?;
        // No other process removes the folder before it is locked.
        let _alone = Lock::exclusive(&shared.join(Self::LOCK))?;
        let folder = tempfile::Builder::new().prefix("process-").tempdir_in(shared)?;
        let lock = Lock::exclusive(&folder.path().join(Self::LOCK))?;
        Ok(Self { folder, _lock: lock })
    }

    /// Removes the folders of processes that ended.
    fn remove_left(shared: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(shared) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let _alone = Lock::exclusive(&shared.join(Self::LOCK))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && Lock::try_exclusive(&path.join(Self::LOCK))?.is_some() {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }
}

/// The source of logs.
#[derive(Debug, Clone)]
struct Source {
    /// With a client without a read timeout.
    pods: Api<Pod>,
    log_max_bytes: u64,
    clock: SharedClock,
}

/// A pod whose log is followed, under its name in the order of creation.
#[derive(Debug)]
struct Followed {
    pod: PodView,
    folder: Arc<TempDir>,
    state: Arc<FollowState>,
    task: AbortHandle,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The state of a followed log.
#[derive(Debug, Default)]
struct FollowState(AtomicU8);

impl FollowState {
    const READING: u8 = 0;
    const BROKEN_OFF: u8 = 1;
    const COMPLETE: u8 = 2;

    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Release);
    }
}

impl Logs {
    /// Logs of the pods of `pods`, cached in `folder`. Removes folders of processes that ended.
    pub(crate) fn new(
        pods: Api<Pod>,
        namespace: Arc<Namespace>,
        folder: PathBuf,
        log_max_bytes: u64,
        clock: SharedClock,
    ) -> Self {
        if let Err(error) = OwnFolder::remove_left(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "failed to remove the log folder of a former process");
        }
        Self {
            source: Source { pods, log_max_bytes, clock },
            namespace,
            folder,
            own: Mutex::default(),
            places: Arc::new(Semaphore::new(FOLLOWED_MAX)),
            followed: Mutex::default(),
            silent: Mutex::default(),
        }
    }

    /// Allows logs to be followed: a leader epoch begins.
    pub(crate) fn begin(&self) {
        self.followed().get_or_insert_default();
    }

    /// Stops following and removes the caches, because another instance leads.
    pub(crate) fn stop(&self) {
        let followed = self.followed().take();
        // Folders are removed with it.
        spawn_blocking(move || drop(followed));
    }

    /// Begins to follow the running pods of an execution that are not followed yet.
    pub(crate) fn follow(&self, id: &ExecutionId, pods: &[PodView]) {
        for pod in pods.iter().filter(|pod| !pod.is_over() && pod.main.started_at.is_some() && pod.main.ended.is_none())
        {
            let mut followed = self.followed();
            let Some(followed) = &mut *followed else { return };
            let name = part_name(pod);
            if followed.get(id).is_some_and(|of_run| of_run.contains_key(&name)) {
                continue;
            }
            let Ok(place) = self.places.clone().try_acquire_owned() else { return };
            let folder = match self.new_folder() {
                Ok(folder) => Arc::new(folder),
                Err(error) => {
                    tracing::warn!(folder = %self.folder.display(), %error, "a log can't be followed");
                    return;
                }
            };
            let state = Arc::<FollowState>::default();
            let follower = Follower {
                source: self.source.clone(),
                namespace: self.namespace.clone(),
                pod: pod.clone(),
                state: state.clone(),
                folder: folder.clone(),
            };
            let task = tokio::spawn(async move {
                follower.follow().await;
                drop(place);
            });
            let entry = Followed { pod: pod.clone(), folder, state, task: task.abort_handle() };
            followed.entry(id.clone()).or_default().insert(name, entry);
        }
    }

    /// Reads a part of the log of an execution: of the given pods and of those that were followed. `None` when there are none.
    /// The state of the pods may be older than `goes_on`.
    pub(crate) async fn read(
        &self,
        id: &ExecutionId,
        pods: &[PodView],
        goes_on: bool,
        part: LogPart,
    ) -> Result<Option<LogChunk>, Fault> {
        self.wait_for_log_tail(id, goes_on).await;
        let mut of_run: BTreeMap<String, PodView> = pods
            .iter()
            .filter(|pod| pod.main.started_at.is_some() || pod.init.is_some())
            .map(|pod| (part_name(pod), pod.clone()))
            .collect();
        for (name, followed) in self.followed().iter().flatten().filter(|(of, _)| *of == id).flat_map(|(_, of)| of) {
            of_run.entry(name.clone()).or_insert_with(|| PodView { gone: true, ..followed.pod.clone() });
        }
        let pods_count = of_run.len();
        let mut texts: Vec<(usize, String, LogChunk)> = Vec::new();
        let mut lines = 0;
        for (number, pod) in of_run.into_values().enumerate().rev() {
            let wanted = match part {
                LogPart::Whole => LogPart::Whole,
                LogPart::LastLines(wanted) if lines < wanted => LogPart::LastLines(wanted - lines),
                LogPart::LastLines(_) => break,
            };
            if let Some(chunk) = self.read_pod(id, &pod, goes_on, wanted).await? {
                lines += chunk.text.lines().count();
                texts.push((number, pod.name, chunk));
            }
        }
        texts.reverse();
        let mut log = joined(texts, pods_count);
        if let (Some(log), LogPart::LastLines(wanted)) = (&mut log, part) {
            log.text = log.tail(wanted).to_owned();
        }
        Ok(log)
    }

    /// Reads a part of the log of a pod. `None` when the pod is not known to have had one.
    async fn read_pod(
        &self,
        id: &ExecutionId,
        pod: &PodView,
        goes_on: bool,
        part: LogPart,
    ) -> Result<Option<LogChunk>, Fault> {
        let followed = self
            .followed()
            .as_ref()
            .and_then(|followed| followed.get(id)?.get(&part_name(pod)))
            .map(|followed| (followed.folder.clone(), followed.state.get()));
        // The log was followed to its end, or is being followed while the container runs.
        let is_at_hand = followed.as_ref().is_some_and(|(_, state)| {
            *state == FollowState::COMPLETE
                || goes_on && *state == FollowState::READING && !pod.is_over() && pod.main.ended.is_none()
        });
        if let Some((folder, _)) = followed.as_ref().filter(|_| is_at_hand) {
            return Ok(Some(self.read_folder(folder.clone(), part).await));
        }
        let pulled = if pod.gone { Pulled::Gone } else { self.pull(id, pod, part).await? };
        let (folder, state) = match (pulled, followed) {
            (Pulled::Log(chunk), _) => return Ok(Some(chunk)),
            (Pulled::Unreadable(fault), None) => {
                let text = format!("[... the log could not be read from the node: {fault} ...]\n");
                return Ok(Some(LogChunk { text, ..LogChunk::default() }));
            }
            (Pulled::Gone, None) if pod.main.started_at.is_some() => {
                let text = format!("[... the pod {} was removed before its log was read ...]\n", pod.name);
                return Ok(Some(LogChunk { text, ..LogChunk::default() }));
            }
            (Pulled::Gone, None) => return Ok(None),
            (Pulled::Gone | Pulled::Unreadable(_), Some(followed)) => followed,
        };
        let mut chunk = self.read_folder(folder, part).await;
        if state == FollowState::BROKEN_OFF {
            if !chunk.text.is_empty() && !chunk.text.ends_with('\n') {
                chunk.text.push('\n');
            }
            chunk.text.push_str(BROKEN_OFF);
        }
        Ok(Some(chunk))
    }

    /// Reads a part of the log of a pod from its node.
    async fn pull(&self, id: &ExecutionId, pod: &PodView, part: LogPart) -> Result<Pulled, Fault> {
        let folder = Arc::new(self.new_folder().map_err(|error| on_disk(&self.folder, &error))?);
        let clock = &self.source.clock;
        match clock.timeout(PULL_TIMEOUT, self.source.pull(pod, part, folder.clone())).await {
            Ok(Ok(())) => {
                self.silent.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                let chunk = self.read_folder(folder, LogPart::Whole).await;
                Ok(if is_apology(&chunk.text) { Pulled::Gone } else { Pulled::Log(chunk) })
            }
            // The pod is gone, or the node no longer has its log.
            Ok(Err(fault)) if fault.is_missing() || fault.is_refused_as_bad() => Ok(Pulled::Gone),
            failed => {
                let silent = |_| Fault::Silent("The log was not read within a minute.".into());
                let Err(fault) = failed.map_err(silent).and_then(|done| done) else { return Ok(Pulled::Gone) };
                // Wait while the API server is unreachable. If it answers, only the node is.
                let is_there = call(&**clock, self.source.pods.get_metadata_opt(&pod.name)).await?.is_some();
                if !is_there {
                    return Ok(Pulled::Gone);
                }
                // A node without an address can't be reached at all.
                let has_no_address = fault.to_string().contains("no preferred addresses found");
                if !has_no_address && !self.is_silent_for_long(id) {
                    return Err(fault);
                }
                tracing::warn!(execution = %id, pod = pod.name, %fault, "gave up reading the log of a pod");
                Ok(Pulled::Unreadable(fault))
            }
        }
    }

    /// Removes the cached logs of an execution.
    pub(crate) fn forget(&self, id: &ExecutionId) {
        let followed = self.followed().as_mut().and_then(|followed| followed.remove(id));
        // Folders are removed with it.
        spawn_blocking(move || drop(followed));
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn followed(&self) -> MutexGuard<'_, Option<HashMap<ExecutionId, BTreeMap<String, Followed>>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a log can't be read from its node, and returns whether that has been so for long.
    fn is_silent_for_long(&self, id: &ExecutionId) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.source.clock.boot();
        now.saturating_sub(*silent.entry(id.clone()).or_insert(now)) >= NODE_SILENT_MAX
    }

    /// Waits a moment for the followers of ended pods.
    async fn wait_for_log_tail(&self, id: &ExecutionId, goes_on: bool) {
        let is_awaited = || {
            let followed = self.followed();
            let of_run = followed.as_ref().and_then(|followed| followed.get(id)).into_iter().flat_map(BTreeMap::values);
            of_run
                .into_iter()
                .any(|followed| !followed.task.is_finished() && (!goes_on || self.namespace.is_over(&followed.pod)))
        };
        let clock = &self.source.clock;
        let until = clock.boot() + LOG_TAIL_WAIT;
        while is_awaited() && clock.boot() < until {
            clock.sleep(Duration::from_millis(50)).await;
        }
    }

    /// Creates a folder that is removed after its last use.
    fn new_folder(&self) -> io::Result<TempDir> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match own.take() {
            Some(made) => made,
            None => OwnFolder::new(&self.folder)?,
        };
        tempfile::Builder::new().prefix("log-").tempdir_in(own.insert(made).folder.path())
    }

    async fn read_folder(&self, folder: Arc<TempDir>, part: LogPart) -> LogChunk {
        let max = self.source.log_max_bytes;
        let read = spawn_blocking(move || logs::read_part(folder.path(), max, part));
        read.await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// The result of reading a log from a node.
enum Pulled {
    Log(LogChunk),
    /// The pod is gone, or the node no longer has its log.
    Gone,
    /// The node has not answered for long.
    Unreadable(Fault),
}

/// The end of a stream of a log that did not break off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamEnd {
    /// Nothing more was sent.
    Ended,
    /// The node had removed the container.
    Removed,
}

/// Follows the log of one pod.
struct Follower {
    source: Source,
    namespace: Arc<Namespace>,
    pod: PodView,
    state: Arc<FollowState>,
    folder: Arc<TempDir>,
}

impl Follower {
    /// Follows to the end of the container.
    async fn follow(self) {
        let mut position = Position::default();
        let mut writing = match Writing::begin(self.folder.clone(), self.source.log_max_bytes).await {
            Ok(writing) => Some(writing),
            Err(error) => {
                tracing::warn!(pod = self.pod.name, %error, "the log of a pod can't be followed");
                return;
            }
        };
        let (mut failures, mut ends) = (0, 0);
        loop {
            let notifier = self.namespace.notifier(&self.pod.job);
            let notified = notifier.notified();
            tokio::pin!(notified);
            // Registered before the check, so that a change in between notifies.
            notified.as_mut().enable();
            // Only a request after the end of the container is certain to return its last lines.
            let is_over = self.namespace.is_over(&self.pod);
            let (before, state_before) = (position.taken_bytes(), self.state.get());
            let opened = || self.state.set(FollowState::READING);
            let told = self.source.follow(&self.pod, !is_over, &mut position, &mut writing, opened).await;
            match &told {
                Ok(StreamEnd::Ended) if is_over => self.state.set(FollowState::COMPLETE),
                Ok(StreamEnd::Ended) => {}
                // Like a pod that is gone: a log whose stream ended without an error is whole.
                Ok(StreamEnd::Removed) if before > 0 => self.state.set(state_before),
                Ok(StreamEnd::Removed) => self.state.set(FollowState::BROKEN_OFF),
                // The pod is gone, or its container does not exist yet or any more.
                Err(fault) if fault.is_missing() || fault.is_refused_as_bad() => {}
                Err(fault) => {
                    tracing::debug!(pod = self.pod.name, %fault, "the log of a pod broke off; continuing");
                    self.state.set(FollowState::BROKEN_OFF);
                }
            }
            ends += u32::from(is_over);
            let is_gone = told.map_or_else(|fault| fault.is_missing(), |end| end == StreamEnd::Removed);
            if self.state.get() == FollowState::COMPLETE || is_over && (is_gone || ends >= ENDS_MAX) {
                Writing::end(writing).await;
                return;
            }
            failures = if position.taken_bytes() > before { 0 } else { failures + 1 };
            let pause = CONTINUE_AFTER.saturating_mul(1 << failures.min(7)).min(CONTINUE_AFTER_MAX);
            let _ = self.source.clock.timeout(pause, notified).await;
        }
    }
}

impl Source {
    fn params(pod: &PodView) -> LogParams {
        let container = match &pod.init {
            Some((name, _)) if pod.main.started_at.is_none() => name.clone(),
            _ => pod.main_name.clone(),
        };
        LogParams { container: Some(container), ..LogParams::default() }
    }

    /// Reads a part of a pod's log into a folder.
    async fn pull(&self, pod: &PodView, part: LogPart, folder: Arc<TempDir>) -> Result<(), Fault> {
        let tail_lines = match part {
            LogPart::Whole => None,
            LogPart::LastLines(lines) => i64::try_from(lines).ok(),
        };
        let params = LogParams { tail_lines, ..Self::params(pod) };
        let mut bytes = std::pin::pin!(call(&*self.clock, self.pods.log_stream(&pod.name, &params)).await?);
        let mut writing = Some(Writing::begin(folder, self.log_max_bytes).await?);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = bytes.read(&mut piece).await.map_err(|error| broken_off(&error))?;
            if read == 0 {
                Writing::end(writing).await;
                return Ok(());
            }
            Writing::append(&mut writing, piece[..read].to_vec()).await?;
        }
    }

    /// Reads a pod's log from a position on; with `follow`, to the end of its container or until it breaks off.
    async fn follow(
        &self,
        pod: &PodView,
        follow: bool,
        position: &mut Position,
        writing: &mut Option<Writing>,
        opened: impl FnOnce(),
    ) -> Result<StreamEnd, Fault> {
        let params = LogParams { follow, timestamps: true, since_time: position.since(), ..Self::params(pod) };
        let mut bytes = std::pin::pin!(call(&*self.clock, self.pods.log_stream(&pod.name, &params)).await?);
        opened();
        let mut stream = position.stream();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match self.clock.timeout(SILENCE_MAX, bytes.read(&mut piece)).await {
                Ok(read) => read.map_err(|error| broken_off(&error))?,
                Err(_) if follow => return Ok(StreamEnd::Ended),
                Err(_) => return Err(Fault::Silent("The log was not read to its end.".into())),
            };
            if read == 0 {
                return Ok(if stream.has_apologised() { StreamEnd::Removed } else { StreamEnd::Ended });
            }
            let mut text = Vec::new();
            stream.take(&piece[..read], &mut text);
            if !text.is_empty() {
                Writing::append(writing, text).await?;
            }
        }
    }
}

/// A writer of a log into a folder, which exists at least as long.
struct Writing {
    writer: LogWriter,
    _folder: Arc<TempDir>,
}

impl Writing {
    async fn begin(folder: Arc<TempDir>, log_max_bytes: u64) -> Result<Self, Fault> {
        let begun = spawn_blocking(move || {
            let writer = LogWriter::new(folder.path().to_owned(), log_max_bytes);
            Self { writer, _folder: folder }
        });
        begun.await.map_err(|_| gone_wrong())
    }

    /// Adds to the log. `writing` is absent after an error.
    async fn append(writing: &mut Option<Self>, text: Vec<u8>) -> Result<(), Fault> {
        let mut taken = writing.take().ok_or_else(gone_wrong)?;
        let done = spawn_blocking(move || {
            taken.writer.append(&text);
            taken
        });
        *writing = Some(done.await.map_err(|_| gone_wrong())?);
        Ok(())
    }

    async fn end(writing: Option<Self>) {
        let Some(mut writing) = writing else { return };
        let ended = spawn_blocking(move || {
            writing.writer.finish();
            // This may remove the folder.
            drop(writing);
        });
        let _ = ended.await;
    }
}

fn gone_wrong() -> Fault {
    Fault::Silent("The log could not be written.".into())
}

fn broken_off(error: &io::Error) -> Fault {
    Fault::Silent(format!("The log broke off: {error}."))
}

fn on_disk(folder: &Path, error: &io::Error) -> Fault {
    Fault::Silent(format!("The log can't be written to {}: {error}.", folder.display()))
}

/// Whether this text is the message of a node in place of a log that it no longer has: a node removes the containers of evicted
/// pods.
fn is_apology(text: &str) -> bool {
    text.starts_with(APOLOGY) && text.trim_end().lines().count() == 1
}

/// Sorts by creation.
fn part_name(pod: &PodView) -> String {
    format!("{:015}-{}-{}", pod.created_at.as_second(), pod.name, pod.uid)
}

/// The attempts one after the other, each with its number and the name of its pod where there are several.
fn joined(parts: Vec<(usize, String, LogChunk)>, pods_count: usize) -> Option<LogChunk> {
    if parts.is_empty() {
        return None;
    }
    let mut all = LogChunk::default();
    for (number, pod, chunk) in parts {
        if pods_count > 1 {
            if !all.text.is_empty() && !all.text.ends_with('\n') {
                all.text.push('\n');
            }
            let _ = writeln!(all.text, "[... attempt {} in the pod {pod} ...]", number + 1);
        }
        all.text.push_str(&chunk.text);
        all.omitted_bytes += chunk.omitted_bytes;
    }
    Some(all)
}
