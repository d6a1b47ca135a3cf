//! Loops that bring the runtime in line with the database, each at its own pace.
//!
//! Each file is a loop. A loop finds its work by a query, so that a lost notification costs latency and never work. Those that
//! write run within a leader epoch, and every row that they write names that epoch. Hints are the exception: `make_due`,
//! `retry` and `retry_spread` in `store::deployments` only set when a deployment is reconciled next. A late one costs the
//! present leader one reconciliation.

pub mod builds;
pub mod cleanup;
mod configuration;
pub mod deployments;
pub mod executions;
pub mod fence;
pub mod gauges;
pub mod keys;
pub mod leader;
pub mod schedules;
pub mod watch;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use model::{
    Problem,
    build::ArtifactBuilder,
    clock::{Clock, SharedClock},
    deployment::Deployment,
    name::{JobName, TeamName},
    plan,
    runtime::{DeploymentSpec, Runtime},
    variables::{JobOptions, token_variables, variables},
};
use secrecy::ExposeSecret;
use store::{Db, StoreError, leases::Epoch, tokens::Credential};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The loops, and everything they depend on.
#[derive(Debug, Clone)]
pub struct Synchronizer {
    /// The database.
    pub db: Db,
    /// The clock.
    pub clock: SharedClock,
    /// Where jobs run.
    pub runtime: Arc<dyn Runtime>,
    /// The keys that secrets are encrypted with.
    pub keys: Arc<store::keys::KeyRing>,
    /// Builds the artifacts that executions run.
    pub builder: Arc<dyn ArtifactBuilder>,
    /// The operator's choices.
    pub options: Arc<Options>,
    /// Metrics of the loops.
    pub gauges: gauges::Gauges,
}

/// The operator's choices for the loops.
#[derive(Debug, Clone)]
pub struct Options {
    /// A name for this instance in the lease row.
    pub holder: String,
    /// Whether no other instance can use this database, so that leadership needs no waiting.
    pub exclusive: bool,
    /// How long a lease is valid after its last renewal.
    pub lease: Duration,
    /// How often every deployment is reconciled, whether or not a change of it was reported.
    pub sweep_interval: Duration,
    /// Removals wait if more than this share of all deployments, in percent, is to be removed at the same time.
    pub removals_max_percent: i64,
    /// The most deployments that are reconciled at the same time.
    pub parallelism: usize,
    /// The most artifacts that are built at the same time.
    pub builds_parallelism: usize,
    /// The most deployments that are installed at the same time.
    pub installs_parallelism: usize,
    /// Options of every deployed job.
    pub job_options: JobOptions,
    /// How long a run may take.
    pub run_deadline_seconds: u64,
    /// How often a failed run is tried again.
    pub run_backoff_limit: u32,
    /// How long a start may wait for what it needs, and a tick for its turn.
    pub start_deadline: jiff::SignedDuration,
    /// The time zone of cron expressions that name none.
    pub default_zone: String,
    /// How long rows are kept.
    pub retention: cleanup::Rules,
}

impl Synchronizer {
    /// Everything that a runtime needs to make a deployment.
    fn deployment_spec(
        &self,
        job_name: &JobName,
        team: &TeamName,
        team_secret: Option<String>,
        deployment: &Deployment,
    ) -> DeploymentSpec {
        let keyed_hash = |text: &str| hex::encode(self.keys.derive(&format!("hash of job options {text}")));
        DeploymentSpec {
            job_name: job_name.clone(),
            team: team.clone(),
            variables: variables(&self.options.job_options, job_name, team, deployment, keyed_hash),
            team_secret: team_secret.filter(|_| self.runtime.mounts_team_secrets()),
            deployment: deployment.clone(),
        }
    }

    /// The name of the secret with a team's OAuth application. It is assigned here for rows of an older version that have
    /// none. `None` where runs get no such secret.
    async fn team_secret(&self, team: &TeamName) -> Result<Option<String>, StoreError> {
        if !self.runtime.mounts_team_secrets() {
            return Ok(None);
        }
        if let Some(name) = store::team_secrets::find(&mut self.db.read().await?, team).await? {
            return Ok(Some(name));
        }
        let mut tx = self.db.write().await?;
        let name = store::team_secrets::claim(&mut tx, team, self.clock.now()).await?;
        tx.commit().await?;
        Ok(Some(name))
    }

    /// Whether removals wait for the operator, because there are too many at once.
    async fn holds_removals_back(&self) -> Result<bool, StoreError> {
        let mut tx = self.db.read().await?;
        let (removals, fleet) = store::deployments::removals(&mut tx).await?;
        Ok(plan::removes_too_much(removals, fleet, self.options.removals_max_percent))
    }

    /// The variables by which runs of a deployment are known to this service.
    fn token(&self, job_name: &JobName, deployment: &Deployment) -> Result<BTreeMap<String, String>, Problem> {
        let credential = || -> Result<String, Problem> {
            let of = Credential { job_id: deployment.job_id, generation: deployment.generation };
            Ok(of.seal(&self.keys)?.expose_secret().to_owned())
        };
        token_variables(&self.options.job_options, job_name, credential)
    }

    /// Leads whenever it can, until `shutdown`. Executions continue without it. The metrics of jobs follow the database on
    /// every instance, whether it leads or not.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.db = self.db.for_sync();
        tokio::join!(
            self.supervise("series loop", &shutdown, || gauges::follow_rows(&self, &shutdown)),
            self.supervise("leadership loop", &shutdown, || self.lead(&shutdown)),
        );
    }

    /// Runs a loop to its end. If the loop panics, it is counted and started again after a pause, unless `over` comes first;
    /// the others continue meanwhile.
    async fn supervise<F: Future<Output = ()>>(
        &self,
        name: &'static str,
        over: &CancellationToken,
        run: impl Fn() -> F,
    ) {
        loop {
            let mut running = pin!(run());
            let ended = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(())) => Poll::Ready(true),
                Err(_) => Poll::Ready(false),
            });
            if ended.await {
                return;
            }
            self.gauges.panicked(name);
            tracing::error!(name, retry_in = ?PANIC_PAUSE, "a loop panicked; restarting it");
            tokio::select! {
                () = self.clock.sleep(PANIC_PAUSE) => {}
                () = over.cancelled() => return,
            }
        }
    }

    /// Same as [`Synchronizer::supervise`]; the loop ends with the leader epoch.
    async fn supervise_in<F: Future<Output = ()>>(
        &self,
        leader_epoch: &LeaderEpoch,
        name: &'static str,
        run: impl Fn() -> F,
    ) {
        self.supervise(name, &leader_epoch.over, run).await;
    }

    /// Renews the lease. If that panics, the leader epoch is over.
    async fn supervise_lease(&self, leader_epoch: &LeaderEpoch, alive: Duration) {
        self.supervise_in(leader_epoch, "lease loop", || async move {
            let end = leader_epoch.over.clone().drop_guard();
            leader::renew(self, leader_epoch, alive).await;
            end.disarm();
        })
        .await;
    }

    async fn lead(&self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            let Some(leader::Acquired { epoch, alive }) = leader::acquire(self, shutdown).await else { return };
            tracing::info!(epoch = epoch.0, "this instance leads");
            self.gauges.rest();
            let (clock, over) = (self.clock.clone(), shutdown.child_token());
            let leader_epoch = LeaderEpoch { epoch, over, clock, builds: Arc::default() };
            tokio::join!(
                self.supervise_lease(&leader_epoch, alive),
                // Before the loops that write, because their writes name the epoch.
                self.supervise_in(&leader_epoch, "fence loop", || fence::run(self, &leader_epoch)),
                self.supervise_in(&leader_epoch, "deployments loop", || deployments::run(self, &leader_epoch)),
                self.supervise_in(&leader_epoch, "builds loop", || builds::run(self, &leader_epoch)),
                self.supervise_in(&leader_epoch, "executions loop", || executions::run(self, &leader_epoch)),
                self.supervise_in(&leader_epoch, "schedules loop", || schedules::run(self, &leader_epoch)),
                self.supervise_in(&leader_epoch, "cleanup loop", || cleanup::run(self, &leader_epoch)),
                self.supervise_in(&leader_epoch, "gauges loop", || gauges::run(self, &leader_epoch)),
                self.supervise_in(&leader_epoch, "keys loop", || keys::run(self, &leader_epoch)),
                self.supervise_in(&leader_epoch, "watch loop", || watch::run(self, &leader_epoch)),
            );
            self.gauges.rest();
            tracing::info!(epoch = epoch.0, "the leader epoch of this instance is over");
        }
    }
}

/// A leader epoch: its number, the signal of its end, and the notifications between its loops.
#[derive(Debug, Clone)]
pub struct LeaderEpoch {
    epoch: Epoch,
    over: CancellationToken,
    clock: SharedClock,
    /// Notified when a build was queued.
    builds: Arc<Notify>,
}

impl LeaderEpoch {
    /// Ends the leader epoch when a write was rejected because another instance leads; logs any other failure of the
    /// database. Returns whether the loop may continue.
    fn survives(&self, error: &StoreError) -> bool {
        if let StoreError::Fenced { epoch } = error {
            tracing::warn!(epoch, "another instance leads; this instance stops its loops");
            self.over.cancel();
            return false;
        }
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%error, cause, "a loop failed on the database; retrying");
        true
    }

    /// Waits until `delay` or the leader epoch is over. `false` when the leader epoch is over.
    async fn pause(&self, delay: Duration) -> bool {
        tokio::select! {
            () = self.clock.sleep(delay) => true,
            () = self.over.cancelled() => false,
        }
    }
}

/// The pause before a task that panicked is started again.
const PANIC_PAUSE: Duration = Duration::from_secs(5);

/// The pause of a loop after a failure of the database.
const DATABASE_RETRY: Duration = Duration::from_secs(1);

/// The pause of a loop: until the wall clock shows an instant, and for `most` at most.
#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Option<jiff::Timestamp>,
    most: Duration,
}

impl Pause {
    async fn pass(self, clock: &dyn Clock) {
        match self.until {
            Some(until) => drop(clock.timeout(self.most, clock.sleep_until(until)).await),
            None => clock.sleep(self.most).await,
        }
    }
}

impl From<Duration> for Pause {
    fn from(most: Duration) -> Self {
        Self { until: None, most }
    }
}
