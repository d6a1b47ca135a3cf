//! Jobs in a Kubernetes cluster: a CronJob per deployment, a Job per execution.
//!
//! The cluster schedules, places and restarts; this module writes the desired objects, reports drift, and reads the results of
//! executions. All its state is also in the cluster or in the database, so that a new instance can continue.

mod api_metrics;
mod apply;
mod connect;
mod events;
#[cfg(test)]
mod fake;
mod fault;
mod fence;
mod field_conflict;
#[cfg(test)]
mod follow_tests;
mod logs;
mod manifest;
mod names;
mod position;
mod pull_secret;
#[cfg(test)]
mod race_tests;
mod reduced;
mod rights;
mod runs;
mod stage;
#[cfg(test)]
mod unreachable_tests;
mod view;
mod watch;
#[cfg(test)]
mod write_tests;
mod write_window;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};
use model::{
    BoxFuture, Problem,
    artifact::{Artifact, LastApplied},
    clock::SharedClock,
    lock::LockKey,
    log::{LogChunk, LogPart},
    name::{ExecutionId, JobId, JobName},
    problem::Code,
    runtime::{
        ApplyRequest, Changes, DeploymentSpec, ExecutionSpec, KnownDeployment, KnownExecution, Observed, Runtime,
        ScheduledExecution, Seen, Stage, Started, Target,
    },
};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

pub use self::{
    api_metrics::ApiMetrics,
    connect::{ConnectError, Connection, connect},
    manifest::{ManifestOptions, Template},
    rights::missing_rights,
};
use self::{
    apply::{AppliedObject, Content, EqualCronJobs, Writer},
    events::{About, Events},
    fence::Fence,
    logs::Logs,
    pull_secret::PullSecret,
    runs::{Forgotten, Runner},
    stage::RunState,
    view::JobView,
    watch::Namespace,
};

/// The field manager of all writes.
const MANAGER: &str = "holdfast";

/// The longest pause before an execution is observed without a notification, and before events are read.
const POLL_MAX: Duration = Duration::from_secs(10);

/// The same for an execution that is over unless its controller reports a pod within seconds.
const POLL_SOON: Duration = Duration::from_secs(1);

/// How long a Job may be without a pod, and a pod without its volumes, before its events are read.
const POD_EXPECTED: SignedDuration = SignedDuration::from_secs(5);

/// How long the first lists of the namespace may take before objects are read one by one.
const LISTED_MAX: Duration = Duration::from_secs(30);

/// The most active executions. Further ones wait in the database.
const RUNS_MAX: usize = 10_000;

/// The options of a [`KubernetesRuntime`].
#[derive(Debug, Clone)]
pub struct KubernetesOptions {
    /// The settings of the manifests.
    pub manifest: ManifestOptions,
    /// A local folder for cached logs. Instances may share it.
    pub logs_folder: PathBuf,
    /// The most bytes of an execution's log that are kept, half from the beginning and half from the end.
    pub log_max_bytes: u64,
    /// Fields of a CronJob that others own, as JSON pointers that begin with `/spec/`. Their values are kept and never reverted.
    pub ignore_paths: Vec<String>,
    /// Whether CronJobs that another Control Service made for a job of the same name are taken over.
    pub adopt: bool,
    /// The time zone of the cluster's controller manager, which applies to CronJobs without one.
    pub controller_zone: String,
    /// The Docker configuration file that becomes the Secret with which nodes pull images.
    pub pull_credentials_file: Option<PathBuf>,
    /// Time, and waiting.
    pub clock: SharedClock,
}

/// Jobs in a cluster.
pub struct KubernetesRuntime {
    /// To the cluster and the namespace of the jobs.
    connection: Connection,
    options: KubernetesOptions,
    namespace: Arc<Namespace>,
    writer: Writer,
    runner: Runner,
    events: Events,
    fence: Fence,
    logs: Logs,
    pull_secret: Option<PullSecret>,
    /// The watches end with the runtime.
    _watches: JoinSet<()>,
}

impl std::fmt::Debug for KubernetesRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesRuntime").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl KubernetesRuntime {
    /// Begins to watch the namespace, and retries while the cluster can't be reached.
    pub fn open(connection: Connection, mut options: KubernetesOptions) -> Self {
        if options.pull_credentials_file.is_some() {
            options.manifest.pull_secrets.push(names::PULL_SECRET.to_owned());
        }
        let Connection { client, namespace: name, .. } = &connection;
        let namespace = Arc::new(Namespace::default());
        let mut watches = JoinSet::new();
        namespace.watch(client, name, &mut watches);
        let fence = Fence::new(Api::namespaced(client.clone(), name), options.clock.clone());
        let api = |client: &Client| Runner {
            cron_jobs: Api::namespaced(client.clone(), name),
            jobs: Api::namespaced(client.clone(), name),
            pods: Api::namespaced(client.clone(), name),
            adopts: options.adopt,
            clock: options.clock.clone(),
            fence: fence.clone(),
        };
        let runner = api(client);
        let in_spec = |pointer: &String| pointer.strip_prefix("/spec").map(ToOwned::to_owned);
        let writer = Writer {
            cron_jobs: runner.cron_jobs.clone(),
            secrets: Api::namespaced(client.clone(), name),
            ignored: options.ignore_paths.iter().filter_map(in_spec).collect(),
            adopts: options.adopt,
            controller_zone: options.controller_zone.clone(),
            clock: options.clock.clone(),
            fence: fence.clone(),
            equal: EqualCronJobs::default(),
        };
        let events = Events::new(Api::namespaced(client.clone(), name), options.clock.clone());
        let logs = Logs::new(
            Api::namespaced(connection.log_client.clone(), name),
            namespace.clone(),
            options.logs_folder.clone(),
            options.log_max_bytes,
            options.clock.clone(),
        );
        let pull_secret = options
            .pull_credentials_file
            .clone()
            .map(|file| PullSecret::new(Api::namespaced(client.clone(), name), file, options.clock.clone()));
        Self { connection, options, namespace, writer, runner, events, fence, logs, pull_secret, _watches: watches }
    }

    /// The cluster and the namespace of the jobs.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The image of a deployment.
    fn image(artifact: &Artifact) -> Result<&str, Problem> {
        match artifact {
            Artifact::Image(name) => Ok(name),
            Artifact::Packages(_) => Err(Problem::new(
                Code::ArtifactMismatch,
                "The deployment was not rolled out.",
                "It has packages for one machine, and no image for a cluster.",
            )
            .not_rolled_out()
            .fix("Deploy again with this runtime.")),
        }
    }

    /// Waits until the objects of the namespace are known; the error names those that are not.
    async fn await_lists(&self, what: &str) -> Result<(), Problem> {
        if self.namespace.listed(&*self.options.clock, LISTED_MAX).await {
            return Ok(());
        }
        Err(Problem::new(Code::ClusterUnreachable, what, "The API server can't be reached.")
            .follows("Jobs in the cluster continue.")
            .no_action("Holdfast retries. If it persists, the operator checks the connection to the cluster."))
    }

    /// A Job and its pods from the watch, or read from the API server if the watch has none.
    async fn look(&self, name: &str) -> Result<Option<(JobView, Vec<view::PodView>)>, fault::Fault> {
        if let Some((job, pods)) = self.namespace.job(name) {
            return Ok(Some(((*job).clone(), pods)));
        }
        match self.runner.job(name).await? {
            Some(job) => Ok(Some((job, self.runner.pods(name).await?))),
            None => Ok(None),
        }
    }

    async fn next_stage(&self, id: &ExecutionId, seen: &Seen) -> Result<Stage, Problem> {
        let what = || format!("The run {id} can't be looked at.");
        // While the API server is unreachable at the start, only the lists are requested, however many executions are followed.
        self.await_lists(&what()).await?;
        let name = manifest::job_name(id);
        let notifier = self.namespace.notifier(name);
        loop {
            let notified = notifier.notified();
            tokio::pin!(notified);
            // Registered before the check, so that a change in between notifies.
            notified.as_mut().enable();
            let Some((job, pods)) = self.look(name).await.map_err(|fault| fault.into_problem(what()))? else {
                return Ok(Stage::Unknown);
            };
            self.logs.follow(id, &pods);
            match stage::run_state(&job, &pods, self.options.clock.now()) {
                RunState::Ended(end) => return Ok(Stage::Ended(end)),
                RunState::Running(at) if !matches!(seen, Seen::Running) => return Ok(Stage::Running(at)),
                RunState::Held(problem) => {
                    self.note_missing(&problem, &pods);
                    if seen.is_news(&problem) {
                        return Ok(Stage::Held(problem));
                    }
                }
                RunState::Waiting if pods.is_empty() && !job.suspended && self.is_late(job.created_at) => {
                    if let Some(problem) =
                        self.reported(About::RefusedPods, name, &what).await?.map(|m| stage::refused(&m))
                        && seen.is_news(&problem)
                    {
                        return Ok(Stage::Held(problem));
                    }
                }
                RunState::Unprepared(pod, since) if self.is_late(since) => {
                    if let Some(problem) =
                        self.reported(About::MissingVolumes, &pod, &what).await?.map(|m| stage::unmounted(&m))
                    {
                        self.note_missing(&problem, &pods);
                        if seen.is_news(&problem) {
                            return Ok(Stage::Held(problem));
                        }
                    }
                }
                RunState::Waiting if job.manual && job.suspended && job.cancelled_at.is_none() => {
                    // The watch may be older than the resumption of this Job, and the result of this method leads to a write.
                    let live = self.runner.job(name).await.map_err(|fault| fault.into_problem(what()))?;
                    if live.is_none_or(|live| live.suspended) {
                        // An earlier attempt created it and got no further: the start has to be repeated.
                        return Ok(Stage::Unknown);
                    }
                }
                _ => {}
            }
            // The controller may act on a cancellation without a notification.
            let most = if job.cancelled_at.is_some() && job.active == 0 { POLL_SOON } else { POLL_MAX };
            let _ = self.options.clock.timeout(most, notified).await;
        }
    }

    /// Makes a deployment due whose execution lacks a secret of the deployment.
    fn note_missing(&self, problem: &Problem, pods: &[view::PodView]) {
        for name in pods.iter().filter_map(|pod| JobName::parse(&pod.main_name).ok()) {
            if own_secrets(&name).iter().any(|own| stage::lacks(problem, own)) {
                self.namespace.lacks_secret(name.as_str(), self.options.clock.now());
            }
        }
    }

    async fn reported(&self, about: About, name: &str, what: &impl Fn() -> String) -> Result<Option<String>, Problem> {
        self.events.reported(about, name).await.map_err(|fault| fault.into_problem(what()))
    }

    /// Removes the secrets of a job that has neither a CronJob nor an execution.
    async fn forget_secrets(&self, job_id: JobId, name: &JobName) -> Result<(), fault::Fault> {
        if self.has_active_runs(job_id) {
            return Ok(());
        }
        for secret in own_secrets(name) {
            self.writer.forget_secret(job_id, name, &secret).await?;
        }
        Ok(())
    }

    fn has_active_runs(&self, job_id: JobId) -> bool {
        self.namespace.jobs().iter().any(|job| job.job_id == job_id && !job.is_over())
    }

    fn is_late(&self, created_at: Timestamp) -> bool {
        self.options.clock.now().duration_since(created_at) > POD_EXPECTED
    }

    fn manifest_hash(&self, deployment_spec: &DeploymentSpec) -> String {
        // The image and the hash are known later; all other inputs are here.
        let rendered = manifest::cron_job(&self.options.manifest, deployment_spec, "", "");
        let bytes = rendered.map(|cron_job| serde_json::to_vec(&cron_job).unwrap_or_default()).unwrap_or_default();
        hex::encode(Sha256::digest(bytes))
    }
}

/// The secrets that are created and removed together with a job's CronJob.
fn own_secrets(job: &JobName) -> [String; 3] {
    [names::keytab_secret(job), names::token_secret(job), names::options_secret(job)]
}

impl Runtime for KubernetesRuntime {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn fires_ticks(&self) -> bool {
        true
    }

    fn mounts_team_secrets(&self) -> bool {
        true
    }

    fn parallel_runs_max(&self) -> usize {
        RUNS_MAX
    }

    fn takes_sources(&self) -> bool {
        false
    }

    fn may_write_until(&self, until: Duration) {
        self.connection.window.open_until(until);
    }

    fn lead(&self, epoch: i64) -> BoxFuture<'_, Result<(), Problem>> {
        self.fence.begin(epoch);
        self.logs.begin();
        Box::pin(self.fence.raise(epoch))
    }

    fn resign(&self) {
        self.logs.stop();
    }

    fn keep_shared(&self) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(async move {
            match &self.pull_secret {
                Some(secret) => secret.keep().await,
                None => Ok(()),
            }
        })
    }

    fn fingerprint(&self, deployment_spec: &DeploymentSpec) -> String {
        self.manifest_hash(deployment_spec)
    }

    fn observe<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Observed, Problem>> {
        Box::pin(async move {
            let what = || format!("The CronJob {} can't be looked at.", target.job_name);
            // Thousands of first reconciliations must not need a call each.
            self.namespace.listed(&*self.options.clock, LISTED_MAX).await;
            let observed = self.writer.observe(&self.namespace, target).await;
            Ok(match observed.map_err(|fault| fault.into_problem(what()))? {
                Observed::Present { .. } if self.namespace.is_incomplete(target.job_name.as_str()) => {
                    Observed::Changed { by: None }
                }
                observed => observed,
            })
        })
    }

    fn apply<'a>(
        &'a self,
        target: &'a Target,
        wanted: &'a ApplyRequest,
    ) -> BoxFuture<'a, Result<Option<LastApplied>, Problem>> {
        Box::pin(async move {
            let image = Self::image(&wanted.artifact)?;
            let deployment_spec = &wanted.deployment_spec;
            let cron_job = manifest::cron_job(&self.options.manifest, deployment_spec, image, &wanted.inputs_hash)?;
            let what = || format!("The secrets of the job {} were not written.", deployment_spec.job_name);
            let content = |data, keeps_more| Content { data, keeps_more };
            // The volume of the first secret is not optional: a pod waits for it.
            let mut secrets = vec![(names::keytab_secret(&deployment_spec.job_name), content(None, false))];
            if self.options.manifest.has_token {
                secrets.push((names::token_secret(&deployment_spec.job_name), content(Some(&wanted.token), false)));
            }
            let options = manifest::secret_options(deployment_spec);
            let options_secret = names::options_secret(&deployment_spec.job_name);
            if !options.is_empty() {
                let keeps_more = self.has_active_runs(target.job_id);
                secrets.push((options_secret.clone(), content(Some(&options), keeps_more)));
            }
            let mut all_made = true;
            for (name, content) in &secrets {
                let kept = self.writer.keep_secret(target, name, *content).await;
                all_made &= kept.map_err(|fault| fault.into_problem(what()))?;
            }
            self.namespace.has_secrets(deployment_spec.job_name.as_str());
            let (last_applied, is_new) =
                self.writer.apply(target, &cron_job, &deployment_spec.deployment, wanted.ticks_after).await?;
            // The end of an earlier execution of a job with this name may have removed them meanwhile; from now on it finds the
            // CronJob or a new resource version. A secret that was just created is safe if the job has no execution.
            if is_new && !(all_made && self.namespace.jobs().iter().all(|job| job.job_id != target.job_id)) {
                for (name, content) in &secrets {
                    let touched = self.writer.touch_secret(target, name, *content).await;
                    touched.map_err(|fault| fault.into_problem(what()))?;
                }
            }
            let had_options =
                target.last_applied.as_ref().and_then(AppliedObject::read).is_some_and(|written| written.has_options);
            if had_options && options.is_empty() && !self.has_active_runs(target.job_id) {
                let dropped = self.writer.drop_secret(target.job_id, &options_secret).await;
                dropped.map_err(|fault| fault.into_problem(what()))?;
            }
            Ok(Some(last_applied))
        })
    }

    fn deployments(&self) -> BoxFuture<'_, Result<Vec<KnownDeployment>, Problem>> {
        Box::pin(async move {
            self.await_lists("The CronJobs of the cluster are not known.").await?;
            Ok(self.namespace.deployments())
        })
    }

    fn remove<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async move {
            let what = || format!("The CronJob {} was not removed.", target.job_name);
            self.writer.remove(target).await.map_err(|fault| fault.into_problem(what()))?;
            self.namespace.has_secrets(target.job_name.as_str());
            self.forget_secrets(target.job_id, &target.job_name).await.map_err(|fault| fault.into_problem(what()))
        })
    }

    fn start<'a>(&'a self, run: &'a ExecutionSpec) -> BoxFuture<'a, Result<Started, Problem>> {
        Box::pin(async move {
            let image = Self::image(&run.artifact)?;
            let known = self.namespace.cron_job(run.deployment_spec.job_name.as_str());
            Box::pin(self.runner.start(&self.options.manifest, run, image, known)).await
        })
    }

    fn cancel<'a>(&'a self, id: &'a ExecutionId, job_id: JobId) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async move {
            let what = || format!("The run {id} was not cancelled.");
            self.runner.cancel(id, job_id).await.map(drop).map_err(|fault| fault.into_problem(what()))
        })
    }

    fn runs(&self) -> BoxFuture<'_, Result<Vec<KnownExecution>, Problem>> {
        Box::pin(async move {
            self.await_lists("The runs in the cluster are not known.").await?;
            let known = self.namespace.jobs().into_iter().filter(|job| !job.terminating).filter_map(|job| {
                Some(KnownExecution {
                    id: ExecutionId::parse(&job.name)?,
                    scheduled: job.tick.map(|tick| ScheduledExecution {
                        job_id: job.job_id,
                        generation: job.generation,
                        tick,
                        created_at: job.created_at,
                    }),
                })
            });
            Ok(known.collect())
        })
    }

    fn changes(&self) -> BoxFuture<'_, Changes> {
        Box::pin(self.namespace.changes())
    }

    fn next<'a>(&'a self, id: &'a ExecutionId, seen: &'a Seen) -> BoxFuture<'a, Result<Stage, Problem>> {
        Box::pin(self.next_stage(id, seen))
    }

    fn log<'a>(&'a self, id: &'a ExecutionId, part: LogPart) -> BoxFuture<'a, Result<Option<LogChunk>, Problem>> {
        Box::pin(async move {
            let what = || format!("The log of the run {id} can't be read.");
            let name = manifest::job_name(id);
            // Also removed pods, as long as their Job exists.
            let (job, known) = match self.namespace.job(name) {
                Some((job, pods)) => (Some(job), pods),
                None => (None, self.namespace.pods(name)),
            };
            let goes_on = job.is_some_and(|job| !job.is_over() && job.cancelled_at.is_none());
            let pods = if known.is_empty() {
                self.runner.pods(name).await.map_err(|fault| fault.into_problem(what()))?
            } else {
                known
            };
            self.logs.read(id, &pods, goes_on, part).await.map_err(|fault| fault.into_problem(what()))
        })
    }

    fn forget<'a>(&'a self, id: &'a ExecutionId, job_id: JobId) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async move {
            let what = || format!("The remains of the run {id} were not removed.");
            let forgotten = self.runner.forget(id, job_id).await.map_err(|fault| fault.into_problem(what()))?;
            self.logs.forget(id);
            match forgotten {
                Forgotten::Gone(Some(name)) if self.namespace.cron_job(name.as_str()).is_none() => {
                    self.forget_secrets(job_id, &name).await.map_err(|fault| fault.into_problem(what()))
                }
                Forgotten::Gone(_) | Forgotten::Absent => Ok(()),
                Forgotten::Running => Err(Problem::new(
                    Code::ExecutionStillActive,
                    what(),
                    "Its Job still runs, and was cancelled just now.",
                )
                .nothing_changed()
                .no_action("Holdfast removes it after its end.")),
            }
        })
    }

    fn clean_up<'a>(&'a self, _keep: &'a [LockKey]) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async { Ok(()) })
    }
}
