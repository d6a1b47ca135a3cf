//! `holdfast serve`: opens the data folder, connects the layers and serves until a signal stops it.

use std::{collections::BTreeMap, io::Write, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use api::{
    Api, DateFormat, HttpMetrics, Limits, LogsUrl, MemoryBudget, MetricsAccess, MetricsPage, MetricsToken,
    PrincipalLimits, Principals, Scratch, ServerLimits, Transfers, WebPage, metrics_router,
};
use clock::SystemClock;
use image::{LockResolver, Packages};
use jiff::SignedDuration;
use model::{
    build::ArtifactBuilder,
    clock::{Clock, SharedClock},
    deployment::VersionDefaults,
    python::default_python,
    runtime::Runtime,
    source::ArchiveLimits,
    variables::JobOptions,
};
use prometheus_client::registry::Registry;
use python::{Interpreter, Tools};
use runtime::kubernetes::KubernetesRuntime;
use runtime::local::{Confine, LocalOptions, LocalRuntime};
use sync::Synchronizer;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    authentication, cluster,
    config::{Loaded, LogsDateFormat, ProcessEnvironment, RuntimeName, Settings, Value, check_exposure},
    data_folder::DataFolder,
    database,
    modes::Private,
    packages,
    watchdog::Manager,
};

/// Open files that the service needs beside its connections: databases, logs, executions and calls to other services.
const OTHER_FILES: usize = 512;

/// The most connections to the metrics endpoint, when it has a listener of its own.
const METRICS_CONNECTIONS_MAX: usize = 64;

/// The time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The time limit for closing database connections at the end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// The message if the encryption key of a shared database can't be used; the cause follows it.
const ONE_KEY: &str = "The secrets of this database can't be read here. Instances that share a database share its key files: \
                       copy `secret.key` and the folder `keys` from the data folder of one that works.";

/// The version of the public API that `info` answers.
const API_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Variables of the service's environment that jobs get, beside those of the installer.
const FOR_JOBS: &[&str] = &["TZ", "LC_CTYPE"];

/// Variables of the installer that jobs don't get, because each execution has its own.
const NOT_FOR_JOBS: &[&str] = &["TMPDIR"];

/// Serves until SIGTERM or Ctrl-C. Active executions continue.
pub(crate) async fn run(environment: ProcessEnvironment, loaded: Loaded) -> anyhow::Result<()> {
    // Signals are received from here on; an earlier one would be lost.
    let mut stop_signals = StopSignals::listen()?;
    let settings = &loaded.settings;
    let clock: SharedClock = Arc::new(SystemClock);
    let auth = authentication::of(settings, &clock)?;
    check_exposure(settings.listen, settings.runtime, authentication::callers(settings), settings.insecure)
        .map_err(|p| anyhow!(p.sentences().join("\n  ")))?;
    for warning in crate::warnings::warnings(&environment, &loaded) {
        tracing::warn!("{warning}");
    }
    runtime::local::harden_process().context("This process can't be protected from reads by other processes.")?;
    let connections_max = connections_max(settings);
    let server_limits = ServerLimits::new(connections_max);
    let memory = MemoryBudget::new(settings.memory_budget_mib.count());
    let metrics_access = MetricsAccess {
        has_own_listener: settings.metrics_listen.is_some(),
        token: settings.metrics_token()?.as_ref().map(MetricsToken::new),
    };
    let vdk_options = settings.vdk_options()?;
    let vdk_constraints = settings.vdk_constraints()?.unwrap_or_else(|| vdk::CONSTRAINTS.to_owned());

    let folder = DataFolder::open(&settings.data_dir, database::folder_use(settings))?;
    let private = Private::new(folder.path(), &settings.cache_folder())
        .with_context(|| format!("The cache folder {} can't be created.", settings.cache_folder().display()))?;
    private.repair();
    let listener = listen(settings.listen.0, "--listen").await?;
    let metrics_listener = match settings.metrics_listen {
        Some(at) if settings.metrics_enabled => Some(listen(at.0, "--metrics-listen").await?),
        _ => None,
    };
    let address = listener.local_addr()?;
    let manager = Manager::of(&environment).map(Arc::new);
    let page = Arc::new(WebPage::new(page::FILES));
    let (routers, router_now) = watch::channel(api::waiting_router(Arc::clone(&page)));
    let (watched, gauges_now) = watch::channel(None::<sync::gauges::Gauges>);
    if let Some(manager) = &manager {
        // The service waits for its database; the service manager does not.
        manager.ready("opening the database");
        let (manager, clock) = (Arc::clone(manager), clock.clone());
        tokio::spawn(async move {
            manager
                .feed(&*clock, router_now, || gauges_now.borrow().as_ref().and_then(sync::gauges::Gauges::stuck_loop))
                .await;
        });
    }
    let listener = listener.into_std()?;
    let file = folder.database();
    // The configuration of the cluster is checked before any wait, so that an error is reported immediately.
    let cluster = match settings.runtime {
        RuntimeName::Local => None,
        RuntimeName::Kubernetes => Some(cluster::plan(settings, &clock).await?),
    };
    let local = cluster.is_none();
    let installs = local || cluster::is_embedded(settings);
    let opening = async {
        tokio::try_join!(
            database::open_or_wait(
                settings,
                &file,
                listener.try_clone()?,
                server_limits,
                &memory,
                &clock,
                Arc::clone(&page)
            ),
            async {
                Ok(if installs {
                    python::discover(&packages::discovery(&environment, settings, clock.clone())).await
                } else {
                    Vec::new()
                })
            }
        )
    };
    let (db, interpreters) = tokio::select! {
        opened = opening => opened?,
        signal = stop_signals.received() => {
            tracing::info!(signal, "stopping while waiting for the database");
            return Ok(());
        }
    };
    let listener = TcpListener::from_std(listener)?;
    let (keys, host) = {
        // Instances that start together must not create two keys.
        let startup_lock = folder.startup_lock().await?;
        let shared = !db.is_exclusive();
        let keys =
            crate::keys::open(folder.path(), &db).await.map_err(|e| if shared { e.context(ONE_KEY) } else { e })?;
        // Every instance sees executions in a cluster.
        (keys, if shared && local { Some(folder.host(&db, &*clock, &startup_lock).await?) } else { None })
    };
    if let Some(host) = &host {
        store::hosts::claim(&db, host).await?;
    }
    authentication::check_teams(settings, &db).await?;
    let (auth, issuers) = auth.unzip();
    let versions = Arc::new(if local { versions(settings, &interpreters)? } else { cluster::versions(settings)? });
    let token_url = auth.as_ref().map(|_| format!("{}{}", settings.rest_api_url(address), api::auth::TOKEN_PATH));
    let tools = if installs {
        let tools =
            packages::tools(&environment, &loaded, folder.path(), interpreters.clone(), &vdk_constraints, &clock)?;
        Some(Arc::new(tools))
    } else {
        None
    };
    let (backend, builder): (RuntimeBackend, Arc<dyn ArtifactBuilder>) = if let Some(plan) = cluster {
        let stored = Arc::new(db.clone());
        let building = tools.map(|tools| cluster::Building { tools, stored, vdk_constraints });
        let (runtime, builder) = plan.open(settings, token_url.is_some(), building, clock.clone())?;
        (RuntimeBackend::Cluster(Arc::new(runtime)), builder)
    } else {
        let tools = tools.context("The local runtime installs packages.")?;
        let options = local_options(&environment, &loaded, &folder, host, interpreters, tools.clone(), clock.clone())?;
        let runtime = LocalRuntime::open(options).map_err(|p| anyhow!(p.sentences().join("\n  ")))?;
        let distribution = settings.vdk_distribution.as_str().to_owned();
        let builder = Packages::new(Arc::new(LockResolver::new(tools)), distribution, vdk_constraints);
        (RuntimeBackend::Machine(Arc::new(runtime)), Arc::new(builder))
    };
    let runtime = backend.runtime();
    let mut registry = Registry::default();
    if settings.metrics_enabled {
        db.statements().register(&mut registry);
    }
    if let RuntimeBackend::Cluster(cluster) = &backend
        && settings.metrics_enabled
    {
        cluster.connection().calls.register(&mut registry);
    }
    let principal_pattern = settings.vdk_principal_pattern.clone();
    let job_options =
        JobOptions { token_url, principal_pattern, ..vdk_options.for_jobs(settings.rest_api_url(address)) };
    let synchronizer = Synchronizer {
        db: db.clone(),
        clock: clock.clone(),
        runtime: runtime.clone(),
        keys: keys.clone(),
        builder,
        options: Arc::new(sync_options(&environment, settings, clock.as_ref(), db.is_exclusive(), job_options)),
        gauges: if settings.metrics_enabled {
            sync::gauges::Gauges::register(&mut registry, metrics_access.is_restricted(), clock.clone())
        } else {
            sync::gauges::Gauges::unseen(clock.clone())
        },
    };
    watched.send_replace(Some(synchronizer.gauges.clone()));
    let metrics = HttpMetrics::register(&mut registry);
    let scratch = Scratch::new(folder.path().join("tmp"))
        .with_context(|| format!("The folder tmp in {} can't be created.", folder.path().display()))?;
    let (requests_max, log_max_bytes) = (settings.requests_max.count(), settings.log_max_bytes.count());
    let transfers = Transfers::new(&scratch, &memory, &clock, requests_max, log_max_bytes);
    let principal_limits = PrincipalLimits {
        uploads_per_minute: settings.uploads_per_minute.get(),
        starts_per_minute: settings.starts_per_minute.get(),
        query_cost_per_minute: settings.query_cost_per_minute.get(),
    };
    let (ready, readiness) = watch::channel(true);
    let api = Arc::new(Api {
        db: db.clone(),
        clock: clock.clone(),
        runtime: runtime.clone(),
        keys: keys.clone(),
        archive_limits: ArchiveLimits {
            archive_max_bytes: settings.max_upload_bytes.count(),
            ..ArchiveLimits::default()
        },
        default_zone: settings.time_zone.as_str().to_owned(),
        versions: versions.clone(),
        hosts: settings.allowed_hosts.0.clone(),
        logs_url: settings.logs_url_template.as_ref().map(|t| LogsUrl {
            template: t.0.clone(),
            date_format: match settings.logs_url_date_format {
                LogsDateFormat::Unix => DateFormat::Unix,
                LogsDateFormat::Iso => DateFormat::Iso,
            },
            start_offset: SignedDuration::from_secs(settings.logs_url_start_offset_seconds.0),
            end_offset: SignedDuration::from_secs(settings.logs_url_end_offset_seconds.0),
        }),
        source_url_template: settings.source_url_template.as_ref().map(|t| t.0.clone()),
        page,
        api_version: API_VERSION.to_owned(),
        readiness,
        metrics_page: settings
            .metrics_enabled
            .then(|| MetricsPage::new(Arc::new(registry), memory.clone(), clock.clone())),
        metrics_access,
        access_log: settings.access_log,
        metrics,
        auth,
        limits: Limits::new(settings.requests_max.count(), REQUEST_TIMEOUT),
        principals: Principals::new(principal_limits, clock.clone()),
        transfers,
        memory: memory.clone(),
    });

    let stop = CancellationToken::new();
    let mut synchronizing = tokio::spawn(synchronizer.run(stop.child_token()));
    let watching_keys =
        tokio::spawn(crate::keys::watch(keys, folder.path().to_owned(), db.clone(), clock.clone(), stop.child_token()));
    // Within namespaces jobs can't change modes.
    if let RuntimeBackend::Machine(runtime) = &backend
        && !runtime.confinement().namespaces.is_enforced()
    {
        tokio::spawn(private.watch(clock.clone(), stop.child_token()));
    }
    let serving_stop = CancellationToken::new();
    let metrics_address = metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    if let Some(listener) = metrics_listener {
        let (router, stop) = (metrics_router(Arc::clone(&api)), serving_stop.clone());
        let limits = ServerLimits::new(METRICS_CONNECTIONS_MAX);
        tokio::spawn(api::serve(listener, router, limits, memory.clone(), clock.clone(), stop));
    }
    let router = api::router(api);
    drop(routers.send_replace(router.clone()));
    let serving =
        tokio::spawn(api::serve(listener, router, server_limits, memory, clock.clone(), serving_stop.clone()));
    announce(address, metrics_address, settings, &folder, &versions, &backend)?;
    if let Some(manager) = &manager {
        manager.ready("serving");
    }
    if let RuntimeBackend::Machine(runtime) = &backend {
        for warning in runtime.warnings().into_iter().chain(runtime::local::shares_fate(&*clock).await) {
            tracing::warn!("{warning}");
        }
    }

    if let Some(issuers) = issuers {
        tokio::spawn(async move { issuers.warm_up().await });
    }

    tokio::select! {
        signal = stop_signals.received() => tracing::info!(signal, "stopping; active executions continue"),
        ended = &mut synchronizing => return Err(anyhow!("The synchronizer ended unexpectedly: {ended:?}.")),
    }
    if let Some(manager) = &manager {
        manager.stopping();
    }
    let _ = ready.send(false);
    // The loops stop immediately, so that another instance can lead; requests in progress get the grace period.
    serving_stop.cancel();
    stop.cancel();
    let grace = settings.shutdown_grace_seconds.seconds();
    // Tasks that did not end within the grace period are aborted, because they hold connections to the database.
    let unfinished = [serving.abort_handle(), synchronizing.abort_handle(), watching_keys.abort_handle()];
    let (served, synchronized) = tokio::join!(clock.timeout(grace, serving), clock.timeout(grace, synchronizing));
    for task in unfinished {
        task.abort();
    }
    if served.is_err() {
        tracing::warn!(
            grace_seconds = grace.as_secs(),
            "cancelled the requests that took longer than the grace period"
        );
    }
    if synchronized.is_err() {
        tracing::warn!(grace_seconds = grace.as_secs(), "the synchronizer did not stop within the grace period");
    }
    close(&*clock, db.close()).await;
    tracing::info!("stopped");
    Ok(())
}

/// Waits until the database is closed, at most [`CLOSE_MAX`].
async fn close(clock: &dyn Clock, closing: impl Future<Output = ()>) {
    if clock.timeout(CLOSE_MAX, closing).await.is_err() {
        tracing::warn!(limit_seconds = CLOSE_MAX.as_secs(), "closed with open connections to the database");
    }
}

/// The limit of connections: `connections_max`, or fewer if the limit of open files requires it.
fn connections_max(settings: &Settings) -> usize {
    let wanted = settings.connections_max.count();
    let Some(open_files) = python::raise_open_files().and_then(|files| usize::try_from(files).ok()) else {
        return wanted;
    };
    let allowed = open_files.saturating_sub(OTHER_FILES).max(open_files / 2).max(1);
    if wanted > allowed {
        tracing::warn!(
            open_files,
            connections_max = allowed,
            "the limit of open files allows for fewer connections than `connections_max`; raise it (LimitNOFILE=)"
        );
    }
    wanted.min(allowed)
}

async fn listen(at: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.with_context(|| {
        format!("Can't listen on {at}. Choose another address with {flag}, or port 0 for a free port.")
    })
}

/// Where jobs run.
enum RuntimeBackend {
    Machine(Arc<LocalRuntime>),
    Cluster(Arc<KubernetesRuntime>),
}

impl RuntimeBackend {
    fn runtime(&self) -> Arc<dyn Runtime> {
        match self {
            Self::Machine(runtime) => runtime.clone(),
            Self::Cluster(runtime) => runtime.clone(),
        }
    }

    /// A description for people: where jobs run, and how they are isolated.
    fn describe(&self) -> String {
        match self {
            Self::Machine(runtime) => {
                let confinement = runtime.confinement();
                let gaps = if confinement.gaps().is_empty() { "" } else { "; see the warnings" };
                match confinement.describe() {
                    Some(layers) => format!("can't read the data folder: confined by the kernel ({layers}){gaps}"),
                    None => format!("can read the data folder: run only trusted code{gaps}"),
                }
            }
            Self::Cluster(runtime) => {
                let connection = runtime.connection();
                format!("in the namespace {} of the cluster at {}", connection.namespace, connection.server)
            }
        }
    }
}

/// The signals that stop the service. As long as this exists, no signal is lost.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for a signal and returns its name.
    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The Python and VDK versions that deployments can have.
fn versions(settings: &Settings, interpreters: &[Interpreter]) -> anyhow::Result<VersionDefaults> {
    let offered: Vec<_> = interpreters.iter().map(|i| i.version).collect();
    if let Some(wanted) = settings.python_version
        && !offered.contains(&wanted)
    {
        return Err(anyhow!(
            "Python {wanted} (setting python.version) was not found. Found: {}. Install it, or add its \
             folder to python.search_path.",
            listed(&offered)
        ));
    }
    let python_version = default_python(&offered, settings.python_version).with_context(|| {
        let (oldest, newest) = python::SUPPORTED;
        format!(
            "No Python was found that can run VDK. Install one from {oldest} to {newest} (with its venv and ssl modules), or \
             add its folder to python.search_path."
        )
    })?;
    Ok(VersionDefaults {
        python_versions: offered,
        python_version,
        vdk_version: settings.vdk_version.as_str().to_owned(),
    })
}

fn listed<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".into();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn local_options(
    environment: &ProcessEnvironment,
    loaded: &Loaded,
    folder: &DataFolder,
    host: Option<String>,
    interpreters: Vec<Interpreter>,
    tools: Arc<Tools>,
    clock: SharedClock,
) -> anyhow::Result<LocalOptions> {
    let settings = &loaded.settings;
    let program = std::env::current_exe().context("The program's own file can't be found.")?;
    Ok(LocalOptions {
        data_dir: folder.path().to_owned(),
        host,
        shim_command: (program, vec!["shim".into()]),
        parallel_runs_max: settings.parallel_runs.count(),
        log_max_bytes: settings.log_max_bytes.get(),
        grace: LocalOptions::GRACE,
        backoff: LocalOptions::BACKOFF,
        interpreters,
        tools,
        vdk_distribution: settings.vdk_distribution.as_str().to_owned(),
        pass_environment: job_environment(environment),
        job_hidden_paths: vec![settings.cache_folder()],
        job_covered_files: packages::covered_files(loaded),
        job_open_files: python::open_files_of_children(),
        confine: Confine::Fully,
        clock,
    })
}

/// The variables of the service's environment that jobs get: search path, time zone, language and proxies. Requests to this
/// machine never use a proxy, because a job must reach the service.
fn job_environment(environment: &ProcessEnvironment) -> BTreeMap<String, String> {
    let mut variables = environment.for_tools();
    variables.retain(|name, _| !NOT_FOR_JOBS.contains(&name.as_str()));
    for name in FOR_JOBS {
        if let Some(value) = environment.variable(name).and_then(|value| value.to_str()) {
            variables.insert((*name).to_owned(), value.to_owned());
        }
    }
    if variables.keys().any(|name| name.to_ascii_lowercase().ends_with("_proxy")) {
        for name in ["NO_PROXY", "no_proxy"] {
            let value = variables.entry(name.to_owned()).or_default();
            let separator = if value.is_empty() { "" } else { "," };
            value.push_str(separator);
            value.push_str("localhost,127.0.0.1,::1");
        }
    }
    variables
}

fn sync_options(
    environment: &ProcessEnvironment,
    settings: &Settings,
    clock: &dyn Clock,
    exclusive: bool,
    job_options: JobOptions,
) -> sync::Options {
    let days = |count: u64| SignedDuration::from_hours(24 * i64::try_from(count).unwrap_or(i64::MAX / 24));
    sync::Options {
        holder: format!("{}", clock.new_id()),
        exclusive,
        lease: settings.lease_seconds.seconds(),
        sweep_interval: settings.sync_sweep_interval_seconds.seconds(),
        removals_max_percent: settings.sync_removals_max_percent.get().try_into().unwrap_or(i64::MAX),
        parallelism: settings.sync_parallelism.count(),
        builds_parallelism: environment.cores.clamp(1, 4),
        installs_parallelism: environment.cores.clamp(1, 4),
        job_options,
        run_deadline_seconds: settings.run_deadline_seconds.get(),
        run_backoff_limit: settings.run_backoff_limit.map_or(0, |limit| limit.get().try_into().unwrap_or(u32::MAX)),
        start_deadline: SignedDuration::from_secs(settings.start_deadline_seconds.signed()),
        default_zone: settings.time_zone.as_str().to_owned(),
        retention: sync::cleanup::Rules {
            executions_keep: days(settings.executions_keep_days.get()),
            executions_keep_per_job: settings.executions_keep_per_job.signed(),
            logs_keep: days(settings.logs_keep_days.get()),
            logs_max_bytes: settings.logs_total_max_mib.signed().saturating_mul(1024 * 1024),
            revisions_keep_per_job: settings.revisions_keep.signed(),
            deleted_jobs_keep: days(settings.deleted_jobs_keep_days.get()),
            audit_keep: days(settings.audit_keep_days.get()),
        },
    }
}

/// Prints the start-up message: addresses, main settings and the next commands.
fn announce(
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    settings: &Settings,
    folder: &DataFolder,
    versions: &VersionDefaults,
    backend: &RuntimeBackend,
) -> anyhow::Result<()> {
    let url = format!("http://{address}");
    // One write, so that a program that reads the log finds the whole message with the first line.
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    writeln!(out, "Holdfast listens on {url}")?;
    writeln!(out, "  data folder   {}", folder.path().display())?;
    writeln!(out, "  database      {}", settings.database_url.shown().as_str().unwrap_or_default())?;
    writeln!(out, "  Python        {} (default {})", listed(&versions.python_versions), versions.python_version)?;
    writeln!(out, "  VDK           {}", versions.vdk_version)?;
    writeln!(out, "  jobs          {}", backend.describe())?;
    if matches!(backend, RuntimeBackend::Machine(_)) {
        let built = if settings.allow_builds() {
            "wheels; packages without one are built in the sandbox (python.allow_builds)"
        } else {
            "wheels only (python.allow_builds is false)"
        };
        writeln!(out, "  packages      {built}")?;
    }
    let callers = match settings.auth_issuers.0.len() {
        0 => "anyone (authentication is off: auth.issuers is empty)".to_owned(),
        count => format!("with a token of {count} issuer{} (auth.issuers)", if count == 1 { "" } else { "s" }),
    };
    writeln!(out, "  callers       {callers}")?;
    if let Some(address) = metrics {
        writeln!(out, "  metrics       http://{address}/data-jobs/debug/prometheus")?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "Next, in another terminal, with the vdk client (to install it, see docs/guide.md#install-the-client):"
    )?;
    // The address listened on may be 0.0.0.0, which is no address to send requests to.
    let url = settings.rest_api_url(address);
    writeln!(out, "  vdk create -n my-first-job -t my-team -p . -u {url}")?;
    writeln!(out, "  vdk deploy -n my-first-job -t my-team -p my-first-job -r first -u {url}")?;
    writeln!(out, "  vdk execute --start -n my-first-job -t my-team -u {url}")?;
    writeln!(out)?;
    writeln!(out, "Ctrl-C stops the service; active executions continue.")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Mutex};

    use futures::FutureExt as _;
    use jiff::Timestamp;
    use model::BoxFuture;
    use uuid::Uuid;

    use super::*;

    /// A clock by which every pause is over at once. It keeps until when these were.
    #[derive(Debug, Default)]
    struct Hurried(Mutex<Vec<Duration>>);

    impl Clock for Hurried {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn boot(&self) -> Duration {
            Duration::from_secs(100)
        }

        fn sleep_until_boot(&self, at: Duration) -> BoxFuture<'static, ()> {
            self.0.lock().unwrap().push(at);
            Box::pin(std::future::ready(()))
        }

        fn new_id(&self) -> Uuid {
            Uuid::nil()
        }
    }

    #[test]
    fn a_database_that_does_not_close_holds_up_the_end_for_five_seconds() {
        let clock = Hurried::default();
        assert_eq!(close(&clock, pending()).now_or_never(), Some(()));
        assert_eq!(*clock.0.lock().unwrap(), [Duration::from_secs(105)]);
    }
}
