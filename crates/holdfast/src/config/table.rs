//! Every setting, declared once.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use model::python::PythonVersion;
use secrecy::SecretString;

use super::{
    error::{ConfigError, Flaw},
    load::Reader,
    options::VdkOptions,
    surroundings::Surroundings,
    types::{
        Algorithms, ClaimName, ContextName, DatabaseUrl, FieldsOfSpec, Folders, HostNames, HttpUrl, ImageBuilderName,
        ImageForm, ImagesByPython, IndexUrl, IssuerUrls, Listen, LogFilter, LogFormat, NamespaceName, OfExecution,
        OfJob, PackageName, PackageVersion, PostgresUrl, PullPolicy, PythonVersions, RegistryName, RuntimeName,
        UrlTemplate, Words, ZoneName,
    },
    value::{Shape, Value, Whole},
};

/// What is known of a setting beside its value.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its key in `holdfast.toml`; a dot stands between the table and the key in it.
    pub(crate) key: &'static str,
    /// Its variable in the environment.
    pub(crate) env: &'static str,
    /// Its flag without dashes.
    pub(crate) flag: &'static str,
    /// What it belongs to.
    pub(crate) group: Group,
    /// What it is for.
    pub(crate) doc: &'static str,
    /// Its value when nobody sets it.
    pub(crate) default: Default,
    /// A value that it takes.
    pub(crate) example: &'static str,
    /// How it is written.
    pub(crate) shape: Shape,
    /// Whether it may hold what must not be shown.
    pub(crate) secret: bool,
    /// What it takes, as part of a sentence.
    pub(crate) kind: fn() -> String,
}

/// What a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// The service as others see it.
    Service,
    /// Who may call.
    Authentication,
    /// What is kept where.
    Storage,
    /// What jobs are run with.
    Python,
    /// How jobs run.
    Runs,
    /// The cluster where jobs run.
    Kubernetes,
    /// What is kept how long.
    Retention,
    /// The loop that makes the runtime follow the database.
    Synchronizer,
    /// The service's own log and its metrics.
    Telemetry,
}

impl Group {
    /// In this order they are listed.
    pub(crate) const ALL: [Self; 9] = [
        Self::Service,
        Self::Authentication,
        Self::Storage,
        Self::Python,
        Self::Runs,
        Self::Kubernetes,
        Self::Retention,
        Self::Synchronizer,
        Self::Telemetry,
    ];

    /// Its heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Authentication => "Authentication and authorization",
            Self::Storage => "Storage",
            Self::Python => "Python and VDK",
            Self::Runs => "Runs",
            Self::Kubernetes => "Kubernetes",
            Self::Retention => "Retention",
            Self::Synchronizer => "Synchronizer",
            Self::Telemetry => "Log and metrics",
        }
    }
}

/// The value of a setting that nobody sets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Default {
    /// This one.
    Text(&'static str),
    /// None; where something else takes its place, this says what.
    Absent(&'static str),
    /// It follows from the machine.
    Computed {
        /// As text; without one, the setting has to be set.
        of: fn(&Surroundings) -> Option<String>,
        /// How it follows.
        told: &'static str,
    },
}

impl Default {
    /// In words.
    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::Text(text) => text,
            Self::Absent(told) | Self::Computed { told, .. } => told,
        }
    }
}

impl Setting {
    /// The unit that its name ends in.
    pub(crate) fn unit(&self) -> Option<&'static str> {
        ["seconds", "days", "bytes", "mib"].into_iter().find(|unit| self.key.ends_with(&format!("_{unit}")))
    }

    /// Its example as `holdfast.toml` writes it.
    pub(crate) fn example_toml(&self) -> String {
        match self.shape {
            Shape::Text => toml::Value::from(self.example).to_string(),
            Shape::Number | Shape::Switch => self.example.into(),
            Shape::List => toml::Value::from(self.example.split(',').collect::<Vec<_>>()).to_string(),
        }
    }
}

macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty {
            $key:literal, $env:literal, $flag:literal, $group:ident, default $default:expr, example $example:expr
        }
    )+) => {
        /// Every setting, in the order in which they are listed.
        pub(crate) static SETTINGS: &[Setting] = &[$(
            Setting {
                key: $key,
                env: $env,
                flag: $flag,
                group: Group::$group,
                doc: concat!($($doc),+),
                default: $default,
                example: $example,
                shape: <$type as Value>::SHAPE,
                secret: <$type as Value>::SECRET,
                kind: <$type as Value>::kind,
            },
        )+];

        /// The value of every setting.
        #[derive(Debug, Clone)]
        pub(crate) struct Settings {
            $($(#[doc = $doc])+ pub(crate) $field: $type,)+
        }

        impl Settings {
            /// Reads each setting, in the order of [`SETTINGS`]. Nothing comes back when one can't be read.
            pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
                // All are read before one that failed ends it, so that all that is wrong is told at once.
                $(let $field = reader.read::<$type>();)+
                Some(Self { $($field: $field?,)+ })
            }

            /// Each value as people may see it, in the order of [`SETTINGS`].
            pub(super) fn shown(&self) -> Vec<serde_json::Value> {
                vec![$(self.$field.shown(),)+]
            }
        }
    };
}

settings! {
    /// The address of API, pages and probes. Port 0 takes a free one, and the start-up message says which.
    listen: Listen {
        "listen", "HOLDFAST_LISTEN", "listen", Service,
        default Default::Text("127.0.0.1:8092"), example "127.0.0.1:8092"
    }
    /// Listen beyond this machine although nobody who calls is asked who they are. Everyone who reaches the address can
    /// then run code on this machine.
    insecure: bool {
        "insecure", "HOLDFAST_INSECURE", "insecure", Service, default Default::Text("false"), example "false"
    }
    /// Host names beside `localhost` and the loopback addresses under which the service may be called; a request for
    /// another one is refused, so that no web page can reach the service through a name of its own.
    allowed_hosts: HostNames {
        "allowed_hosts", "HOLDFAST_ALLOWED_HOSTS", "allowed-hosts", Service,
        default Default::Absent("none"), example "jobs.example.com,10.0.0.7"
    }
    /// The address of this service as jobs reach it, without a slash at its end.
    rest_api_url: Option<HttpUrl> {
        "rest_api_url", "HOLDFAST_REST_API_URL", "rest-api-url", Service,
        default Default::Absent("the address listened on"), example "https://jobs.example.com"
    }
    /// The largest upload of a job's source.
    max_upload_bytes: Whole<1_024, 1_073_741_824> {
        "max_upload_bytes", "HOLDFAST_MAX_UPLOAD_BYTES", "max-upload-bytes", Service,
        default Default::Text("33554432"), example "33554432"
    }
    /// How many requests are worked on at once. More are told to come again (429), before any of their work is done.
    requests_max: Whole<1, 100_000> {
        "requests_max", "HOLDFAST_REQUESTS_MAX", "requests-max", Service,
        default Default::Text("512"), example "512"
    }
    /// The memory that request bodies, archives and rows of responses may take at once, over all requests. A request that
    /// would exceed it is rejected with 429.
    memory_budget_mib: Whole<64, 1_048_576> {
        "memory_budget_mib", "HOLDFAST_MEMORY_BUDGET_MIB", "memory-budget-mib", Service,
        default Default::Text("192"), example "192"
    }
    /// How many connections are open at once. When one more comes, the connection that has waited longest for a complete
    /// request is closed. It is lowered where the limit of open files does not allow for it.
    connections_max: Whole<16, 1_000_000> {
        "connections_max", "HOLDFAST_CONNECTIONS_MAX", "connections-max", Service,
        default Default::Text("4096"), example "4096"
    }
    /// How many sources one caller may upload in a minute, with authentication on. More are rejected with 429. Each
    /// instance of the service counts for itself.
    uploads_per_minute: Whole<1, 1_000_000> {
        "uploads_per_minute", "HOLDFAST_UPLOADS_PER_MINUTE", "uploads-per-minute", Service,
        default Default::Text("1200"), example "1200"
    }
    /// How many executions one caller may start in a minute, with authentication on. More are rejected with 429.
    starts_per_minute: Whole<1, 1_000_000> {
        "starts_per_minute", "HOLDFAST_STARTS_PER_MINUTE", "starts-per-minute", Service,
        default Default::Text("6000"), example "6000"
    }
    /// How many rows and fields the GraphQL queries of one caller may ask for in a minute, with authentication on. More are
    /// rejected with 429. The list of 100,000 jobs with everything in it costs 10,000,000.
    query_cost_per_minute: Whole<1, 1_000_000_000_000> {
        "query_cost_per_minute", "HOLDFAST_QUERY_COST_PER_MINUTE", "query-cost-per-minute", Service,
        default Default::Text("20000000"), example "20000000"
    }
    /// The address of a page that shows the log of a run, for those who collect logs elsewhere. Clients open it instead
    /// of asking this service. `{{start_time}}` and `{{end_time}}` are milliseconds since 1970.
    logs_url_template: Option<UrlTemplate<OfExecution>> {
        "logs_url_template", "HOLDFAST_LOGS_URL_TEMPLATE", "logs-url-template", Service,
        default Default::Absent("none"), example "https://logs.example.com/?q={{execution_id}}"
    }
    /// The address of a page that shows the source of a job.
    source_url_template: Option<UrlTemplate<OfJob>> {
        "source_url_template", "HOLDFAST_SOURCE_URL_TEMPLATE", "source-url-template", Service,
        default Default::Absent("none"), example "https://git.example.com/jobs/{{job_name}}"
    }
    /// How long requests in progress may take to end after the service is told to stop. Runs go on without it.
    shutdown_grace_seconds: Whole<0, 600> {
        "shutdown_grace_seconds", "HOLDFAST_SHUTDOWN_GRACE_SECONDS", "shutdown-grace-seconds", Service,
        default Default::Text("10"), example "10"
    }

    /// The issuers whose access tokens let callers in, as tokens name them in `iss`. Without one, authentication is off:
    /// nobody is asked who they are.
    auth_issuers: IssuerUrls {
        "auth.issuers", "HOLDFAST_AUTH_ISSUERS", "auth-issuers", Authentication,
        default Default::Absent("none"), example "https://id.example.com/realms/data"
    }
    /// The addresses of the issuers' key sets, in the order of `auth.issuers`. They are read over https, or from this
    /// machine.
    auth_jwks_urls: IssuerUrls {
        "auth.jwks_urls", "HOLDFAST_AUTH_JWKS_URLS", "auth-jwks-urls", Authentication,
        default Default::Absent("those that the issuers name in `/.well-known/openid-configuration`"),
        example "https://id.example.com/realms/data/certs"
    }
    /// The audiences of which a token has to have one (`aud`). `*` accepts tokens for any service; without an audience the
    /// service listens on loopback only.
    auth_audiences: Words {
        "auth.audiences", "HOLDFAST_AUTH_AUDIENCES", "auth-audiences", Authentication,
        default Default::Absent("any"), example "holdfast"
    }
    /// How tokens may be signed.
    auth_algorithms: Algorithms {
        "auth.algorithms", "HOLDFAST_AUTH_ALGORITHMS", "auth-algorithms", Authentication,
        default Default::Text("RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,EdDSA"), example "RS256,ES256"
    }
    /// How far the clocks of an issuer and of this service may differ.
    auth_leeway_seconds: Whole<0, 600> {
        "auth.leeway_seconds", "HOLDFAST_AUTH_LEEWAY_SECONDS", "auth-leeway-seconds", Authentication,
        default Default::Text("60"), example "60"
    }
    /// The claim with the user's name. A token without it is taken for that of a team's OAuth application.
    auth_user_claim: ClaimName {
        "auth.user_claim", "HOLDFAST_AUTH_USER_CLAIM", "auth-user-claim", Authentication,
        default Default::Text("username"), example "preferred_username"
    }
    /// A claim that must have one of the values in `auth.custom_claim_values`.
    auth_custom_claim: Option<ClaimName> {
        "auth.custom_claim", "HOLDFAST_AUTH_CUSTOM_CLAIM", "auth-custom-claim", Authentication,
        default Default::Absent("none"), example "context_name"
    }
    /// The values that `auth.custom_claim` may have.
    auth_custom_claim_values: Words {
        "auth.custom_claim_values", "HOLDFAST_AUTH_CUSTOM_CLAIM_VALUES", "auth-custom-claim-values", Authentication,
        default Default::Absent("any"), example "organisation-1,organisation-2"
    }
    /// The claim with a caller's roles: a list, or words in one text.
    auth_authorities_claim: Option<ClaimName> {
        "auth.authorities_claim", "HOLDFAST_AUTH_AUTHORITIES_CLAIM", "auth-authorities-claim", Authentication,
        default Default::Absent("`scope`, or `scp`"), example "perms"
    }
    /// The roles of which a caller needs one.
    auth_authorized_roles: Words {
        "auth.authorized_roles", "HOLDFAST_AUTH_AUTHORIZED_ROLES", "auth-authorized-roles", Authentication,
        default Default::Absent("none is needed"), example "data-jobs"
    }
    /// The claim with the teams of a user: a list, or names with commas in one text. With it, a user reads and changes what
    /// belongs to these teams alone.
    auth_teams_claim: Option<ClaimName> {
        "auth.teams_claim", "HOLDFAST_AUTH_TEAMS_CLAIM", "auth-teams-claim", Authentication,
        default Default::Absent("none: users are not limited to teams"), example "groups"
    }
    /// The roles of those who are not limited to their teams.
    auth_admin_roles: Words {
        "auth.admin_roles", "HOLDFAST_AUTH_ADMIN_ROLES", "auth-admin-roles", Authentication,
        default Default::Absent("none"), example "data-jobs-admin"
    }
    /// The address of an authorization service that is asked before anything is done for a user.
    auth_webhook_url: Option<HttpUrl> {
        "auth.webhook_url", "HOLDFAST_AUTH_WEBHOOK_URL", "auth-webhook-url", Authentication,
        default Default::Absent("none"), example "https://permissions.example.com/data-jobs"
    }
    /// How long that service may take to answer. Without an answer nobody gets in.
    auth_webhook_timeout_seconds: Whole<1, 25> {
        "auth.webhook_timeout_seconds", "HOLDFAST_AUTH_WEBHOOK_TIMEOUT_SECONDS", "auth-webhook-timeout-seconds",
        Authentication, default Default::Text("5"), example "5"
    }
    /// The address of a token endpoint where this service gets access tokens of its own for `auth.webhook_url`, in exchange
    /// for the token in `auth.webhook_refresh_token_file`.
    auth_webhook_token_url: Option<HttpUrl> {
        "auth.webhook_token_url", "HOLDFAST_AUTH_WEBHOOK_TOKEN_URL", "auth-webhook-token-url", Authentication,
        default Default::Absent("none"), example "https://id.example.com/realms/data/token"
    }
    /// A file that holds the refresh token for `auth.webhook_token_url` and nothing else.
    auth_webhook_refresh_token_file: Option<PathBuf> {
        "auth.webhook_refresh_token_file", "HOLDFAST_AUTH_WEBHOOK_REFRESH_TOKEN_FILE", "auth-webhook-refresh-token-file",
        Authentication, default Default::Absent("none"), example "/etc/holdfast/webhook-token"
    }
    /// Whether that service gets the user's own token with each question.
    auth_webhook_forward_token: bool {
        "auth.webhook_forward_token", "HOLDFAST_AUTH_WEBHOOK_FORWARD_TOKEN", "auth-webhook-forward-token",
        Authentication, default Default::Text("false"), example "false"
    }
    /// Let several teams have jobs although authentication is on and jobs run as processes of one user, where one could
    /// read what another one keeps.
    auth_teams_trust_each_other: bool {
        "auth.teams_trust_each_other", "HOLDFAST_AUTH_TEAMS_TRUST_EACH_OTHER", "auth-teams-trust-each-other",
        Authentication, default Default::Text("false"), example "false"
    }

    /// The folder of the SQLite file, the key file and the run folders. Back it up. With SQLite one instance at a time
    /// uses it; with PostgreSQL several instances of one machine may share it.
    data_dir: PathBuf {
        "data_dir", "HOLDFAST_DATA_DIR", "data-dir", Storage,
        default Default::Computed {
            of: |s| s.data_folder(),
            told: "`$XDG_DATA_HOME/holdfast`, or `~/.local/share/holdfast`",
        },
        example "/var/lib/holdfast"
    }
    /// The folder of what can be made again: Python packages and tools. It may be deleted while the service is down. Within
    /// the data folder the kernel keeps jobs from changing what others run.
    cache_dir: Option<PathBuf> {
        "cache_dir", "HOLDFAST_CACHE_DIR", "cache-dir", Storage,
        default Default::Absent("the folder `cache` in the data folder"),
        example "/var/cache/holdfast"
    }
    /// The database: SQLite in a file of the data folder, or a PostgreSQL server (14 or later). The URL may hold a
    /// password, which is never shown; then set it in the file or the environment, because other users of this machine can
    /// see flags, or keep the password in a file of its own.
    database_url: DatabaseUrl {
        "database_url", "HOLDFAST_DATABASE_URL", "database-url", Storage,
        default Default::Text("sqlite"), example "postgres://holdfast@db.example.com/holdfast?sslmode=verify-full"
    }
    /// A file that holds the password for PostgreSQL and nothing else.
    database_password_file: Option<PathBuf> {
        "database_password_file", "HOLDFAST_DATABASE_PASSWORD_FILE", "database-password-file", Storage,
        default Default::Absent("none"), example "/etc/holdfast/database-password"
    }
    /// Where the PostgreSQL server is reached directly, when the URL above leads to a pooler: notifications, the lease and
    /// migrations need a connection of their own.
    database_direct_url: Option<PostgresUrl> {
        "database_direct_url", "HOLDFAST_DATABASE_DIRECT_URL", "database-direct-url", Storage,
        default Default::Absent("the URL above"), example "postgres://holdfast@db-0.example.com/holdfast"
    }
    /// How many connections to PostgreSQL an instance uses for requests at most. When all are in use for two seconds, more
    /// requests are told to come again.
    database_connections: Whole<2, 1_000> {
        "database_connections", "HOLDFAST_DATABASE_CONNECTIONS", "database-connections", Storage,
        default Default::Text("16"), example "16"
    }
    /// How many connections to PostgreSQL the loops of the leading instance use at most. Two more are for lease and
    /// notifications.
    database_sync_connections: Whole<2, 1_000> {
        "database_sync_connections", "HOLDFAST_DATABASE_SYNC_CONNECTIONS", "database-sync-connections", Storage,
        default Default::Text("8"), example "8"
    }

    /// The Python version of deployments that ask for none, if this machine has it.
    python_version: Option<PythonVersion> {
        "python.version", "HOLDFAST_PYTHON_VERSION", "python-version", Python,
        default Default::Absent("the newest that is found"), example "3.11"
    }
    /// Folders to look for Python interpreters in, before those of `PATH` and the usual places.
    python_search_path: Folders {
        "python.search_path", "HOLDFAST_PYTHON_SEARCH_PATH", "python-search-path", Python,
        default Default::Absent("none"), example "/opt/python3.11/bin,/opt/python3.12/bin"
    }
    /// Whether a required package that has no wheel for this machine is built from its source. A build runs code of the
    /// package: within the walls of data jobs, in a folder that is thrown away, without the credentials of the index. The
    /// packages of VDK are built in any case.
    python_allow_builds: Option<bool> {
        "python.allow_builds", "HOLDFAST_PYTHON_ALLOW_BUILDS", "python-allow-builds", Python,
        default Default::Absent("true; false when authentication is on"), example "true"
    }
    /// The disk that the build of one package may use, and each wheel once it is unpacked. A build or an installation that
    /// uses more is ended.
    python_build_disk_max_mib: Whole<16, 1_048_576> {
        "python.build_disk_max_mib", "HOLDFAST_PYTHON_BUILD_DISK_MAX_MIB", "python-build-disk-max-mib", Python,
        default Default::Text("4096"), example "4096"
    }
    /// The `uv` program that installs packages.
    uv: Option<PathBuf> {
        "uv", "HOLDFAST_UV", "uv", Python,
        default Default::Absent("the one in `PATH`, or one that is installed into the cache folder"),
        example "/usr/local/bin/uv"
    }
    /// The package index to install from. It may hold a user name and a password, which are never shown; then set it in
    /// the file or the environment, because other users of this machine can see flags.
    index_url: Option<IndexUrl> {
        "index_url", "HOLDFAST_INDEX_URL", "index-url", Python,
        default Default::Absent("the installer's own: PyPI"), example "https://pypi.example.com/simple"
    }
    /// The Python package that brings the `vdk` command which runs jobs.
    vdk_distribution: PackageName {
        "vdk.distribution", "HOLDFAST_VDK_DISTRIBUTION", "vdk-distribution", Python,
        default Default::Text(vdk::DISTRIBUTION), example vdk::DISTRIBUTION
    }
    /// The version of that package for deployments that ask for none.
    vdk_version: PackageVersion {
        "vdk.version", "HOLDFAST_VDK_VERSION", "vdk-version", Python,
        default Default::Text(vdk::VERSION), example vdk::VERSION
    }
    /// A file of constraints, as `pip install --constraint` takes it, for that package and what it depends on.
    vdk_constraints_file: Option<PathBuf> {
        "vdk.constraints_file", "HOLDFAST_VDK_CONSTRAINTS_FILE", "vdk-constraints-file", Python,
        default Default::Absent("constraints that work with the default version"), example "/etc/holdfast/constraints.txt"
    }
    /// A file of environment variables for jobs: `[default]` for every job, `[name-of-a-job]` for one.
    vdk_options_file: Option<PathBuf> {
        "vdk.options_file", "HOLDFAST_VDK_OPTIONS_FILE", "vdk-options-file", Python,
        default Default::Absent("none"), example "/etc/holdfast/vdk_options.ini"
    }

    /// Where jobs run: as processes of this machine, or in a Kubernetes cluster.
    runtime: RuntimeName {
        "runtime", "HOLDFAST_RUNTIME", "runtime", Runs, default Default::Text("local"), example "local"
    }
    /// How many runs are active at once; the others wait.
    parallel_runs: Whole<1, 1_000> {
        "parallel_runs", "HOLDFAST_PARALLEL_RUNS", "parallel-runs", Runs,
        default Default::Computed {
            of: |s| Some(s.cores.clamp(2, 1_000).to_string()),
            told: "the number of processor cores, at least 2",
        },
        example "4"
    }
    /// How long a run may take; then it is ended.
    run_deadline_seconds: Whole<1, 2_592_000> {
        "run.deadline_seconds", "HOLDFAST_RUN_DEADLINE_SECONDS", "run-deadline-seconds", Runs,
        default Default::Text("43200"), example "43200"
    }
    /// How often a run that failed is tried again.
    run_backoff_limit: Option<Whole<0, 10>> {
        "run.backoff_limit", "HOLDFAST_RUN_BACKOFF_LIMIT", "run-backoff-limit", Runs,
        default Default::Absent("0, and 3 in a cluster"), example "0"
    }
    /// How late a run may start: after its tick, or after it was asked for.
    start_deadline_seconds: Whole<10, 604_800> {
        "start_deadline_seconds", "HOLDFAST_START_DEADLINE_SECONDS", "start-deadline-seconds", Runs,
        default Default::Text("1800"), example "1800"
    }
    /// How much of a run's log is kept; of a longer one, beginning and end.
    log_max_bytes: Whole<65_536, 268_435_456> {
        "log_max_bytes", "HOLDFAST_LOG_MAX_BYTES", "log-max-bytes", Runs,
        default Default::Text("4194304"), example "4194304"
    }
    /// The time zone of schedules that name none.
    time_zone: ZoneName {
        "time_zone", "HOLDFAST_TIME_ZONE", "time-zone", Runs, default Default::Text("UTC"), example "Europe/Sofia"
    }

    /// The context of the kubeconfig (`KUBECONFIG`, or `~/.kube/config`) that leads to the cluster.
    kubernetes_context: Option<ContextName> {
        "kubernetes.context", "HOLDFAST_KUBERNETES_CONTEXT", "kubernetes-context", Kubernetes,
        default Default::Absent("the current one; in a pod without a kubeconfig, the pod's own cluster"),
        example "production"
    }
    /// The namespace of the jobs. Objects in it that this service did not make are left alone.
    kubernetes_namespace: Option<NamespaceName> {
        "kubernetes.namespace", "HOLDFAST_KUBERNETES_NAMESPACE", "kubernetes-namespace", Kubernetes,
        default Default::Absent("that of the context, or of the pod"), example "data-jobs"
    }
    /// A file with a CronJob in YAML or JSON that each job's is made from. What the service sets goes over it: names,
    /// schedule, labels, the first container. Requests, limits, tolerations, affinity, further containers and volumes stay.
    kubernetes_template_file: Option<PathBuf> {
        "kubernetes.template_file", "HOLDFAST_KUBERNETES_TEMPLATE_FILE", "kubernetes-template-file", Kubernetes,
        default Default::Absent("none"), example "/etc/holdfast/data-job.yaml"
    }
    /// The Python versions that deployments can have in the cluster; the images have to bring them.
    kubernetes_python_versions: PythonVersions {
        "kubernetes.python_versions", "HOLDFAST_KUBERNETES_PYTHON_VERSIONS", "kubernetes-python-versions", Kubernetes,
        default Default::Text("3.9,3.10,3.11,3.12"), example "3.11,3.12"
    }
    /// Images that bring VDK to a job's image which has none, by Python version; `{vdk}` stands for the version of VDK.
    kubernetes_vdk_images: ImagesByPython {
        "kubernetes.vdk_images", "HOLDFAST_KUBERNETES_VDK_IMAGES", "kubernetes-vdk-images", Kubernetes,
        default Default::Absent("none: the images of jobs have the `vdk` command"),
        example "3.11=registry.example.com/vdk-3.11:{vdk}"
    }
    /// Names of the secrets in the namespace that images are pulled with.
    kubernetes_pull_secrets: Words {
        "kubernetes.pull_secrets", "HOLDFAST_KUBERNETES_PULL_SECRETS", "kubernetes-pull-secrets", Kubernetes,
        default Default::Absent("none"), example "registry-credentials"
    }
    /// When nodes pull images.
    kubernetes_pull_policy: PullPolicy {
        "kubernetes.pull_policy", "HOLDFAST_KUBERNETES_PULL_POLICY", "kubernetes-pull-policy", Kubernetes,
        default Default::Text("IfNotPresent"), example "IfNotPresent"
    }
    /// Whether the containers of jobs can write to their volumes alone.
    kubernetes_read_only_root_filesystem: bool {
        "kubernetes.read_only_root_filesystem", "HOLDFAST_KUBERNETES_READ_ONLY_ROOT_FILESYSTEM",
        "kubernetes-read-only-root-filesystem", Kubernetes, default Default::Text("false"), example "true"
    }
    /// Fields of CronJobs that others may write, as JSON pointers: they keep the value that they have in the cluster.
    kubernetes_ignore_paths: FieldsOfSpec {
        "kubernetes.ignore_paths", "HOLDFAST_KUBERNETES_IGNORE_PATHS", "kubernetes-ignore-paths", Kubernetes,
        default Default::Absent("none: what others change is put back"),
        example "/spec/jobTemplate/spec/template/spec/priorityClassName"
    }
    /// Whether CronJobs that another Control Service made for data jobs are taken over when a job of the same name is deployed.
    /// Only for one that is shut down.
    kubernetes_adopt: bool {
        "kubernetes.adopt", "HOLDFAST_KUBERNETES_ADOPT", "kubernetes-adopt", Kubernetes, default Default::Text("false"),
        example "true"
    }
    /// Processor time that a run may use at most when its deployment does not say, in thousandths of a core.
    kubernetes_cpu_limit_millicores: Whole<1, 1_024_000> {
        "kubernetes.cpu_limit_millicores", "HOLDFAST_KUBERNETES_CPU_LIMIT_MILLICORES",
        "kubernetes-cpu-limit-millicores", Kubernetes, default Default::Text("500"), example "500"
    }
    /// Processor time that is set aside for a run when its deployment does not say, in thousandths of a core.
    kubernetes_cpu_request_millicores: Whole<1, 1_024_000> {
        "kubernetes.cpu_request_millicores", "HOLDFAST_KUBERNETES_CPU_REQUEST_MILLICORES",
        "kubernetes-cpu-request-millicores", Kubernetes, default Default::Text("500"), example "100"
    }
    /// Memory that a run may use at most when its deployment does not say, in mebibytes.
    kubernetes_memory_limit_mi: Whole<1, 16_777_216> {
        "kubernetes.memory_limit_mi", "HOLDFAST_KUBERNETES_MEMORY_LIMIT_MI", "kubernetes-memory-limit-mi", Kubernetes,
        default Default::Text("1000"), example "1000"
    }
    /// Memory that is set aside for a run when its deployment does not say, in mebibytes.
    kubernetes_memory_request_mi: Whole<1, 16_777_216> {
        "kubernetes.memory_request_mi", "HOLDFAST_KUBERNETES_MEMORY_REQUEST_MI", "kubernetes-memory-request-mi",
        Kubernetes, default Default::Text("1000"), example "250"
    }
    /// How long the result of a run waits in the cluster to be recorded. An outage of this service that is shorter loses
    /// none.
    outage_window_seconds: Whole<600, 604_800> {
        "outage_window_seconds", "HOLDFAST_OUTAGE_WINDOW_SECONDS", "outage-window-seconds", Kubernetes,
        default Default::Text("21600"), example "21600"
    }
    /// Where the images of jobs come from. `prebuilt`: a team's own build pushes them under the name that `image.name`
    /// gives.
    image_builder: Option<ImageBuilderName> {
        "image.builder", "HOLDFAST_IMAGE_BUILDER", "image-builder", Kubernetes,
        default Default::Absent("none; with `runtime = kubernetes` it has to be set"), example "prebuilt"
    }
    /// The names of images, with `{registry}`, `{job}`, `{team}`, `{version}` (of the source), `{python}` and `{vdk}`.
    image_name: ImageForm {
        "image.name", "HOLDFAST_IMAGE_NAME", "image-name", Kubernetes,
        default Default::Text("{registry}/{job}:{version}"), example "{registry}/{team}/{job}:{version}"
    }
    /// The registry that `{registry}` stands for, as the nodes of the cluster reach it.
    registry_url: Option<RegistryName> {
        "registry_url", "HOLDFAST_REGISTRY_URL", "registry-url", Kubernetes,
        default Default::Absent("none"), example "registry.example.com/data-jobs"
    }

    /// How long ended executions and their logs are kept.
    executions_keep_days: Whole<1, 3_650> {
        "executions.keep_days", "HOLDFAST_EXECUTIONS_KEEP_DAYS", "executions-keep-days", Retention,
        default Default::Text("14"), example "14"
    }
    /// How many of a job's latest executions are kept however old they are.
    executions_keep_per_job: Whole<1, 100_000> {
        "executions.keep_per_job", "HOLDFAST_EXECUTIONS_KEEP_PER_JOB", "executions-keep-per-job", Retention,
        default Default::Text("100"), example "100"
    }
    /// How long what belonged to a deleted job is kept in the database.
    deleted_jobs_keep_days: Whole<0, 3_650> {
        "deleted_jobs_keep_days", "HOLDFAST_DELETED_JOBS_KEEP_DAYS", "deleted-jobs-keep-days", Retention,
        default Default::Text("7"), example "7"
    }

    /// How often every deployment is compared with what exists of it. Changes are carried out at once, without waiting
    /// for it.
    sync_sweep_interval_seconds: Whole<1, 86_400> {
        "sync.sweep_interval_seconds", "HOLDFAST_SYNC_SWEEP_INTERVAL_SECONDS", "sync-sweep-interval-seconds",
        Synchronizer, default Default::Text("300"), example "300"
    }
    /// How large a part of all deployments may be removed at once, in percent, when that is more than 20. More waits, and is
    /// told, until there are fewer or this is set higher: nobody may have meant it.
    sync_removals_max_percent: Whole<0, 100> {
        "sync.removals_max_percent", "HOLDFAST_SYNC_REMOVALS_MAX_PERCENT", "sync-removals-max-percent", Synchronizer,
        default Default::Text("25"), example "25"
    }
    /// How many deployments are worked on at once.
    sync_parallelism: Whole<1, 1_024> {
        "sync.parallelism", "HOLDFAST_SYNC_PARALLELISM", "sync-parallelism", Synchronizer,
        default Default::Text("32"), example "32"
    }
    /// How long the leading instance may be silent before another one takes over.
    lease_seconds: Whole<3, 300> {
        "lease_seconds", "HOLDFAST_LEASE_SECONDS", "lease-seconds", Synchronizer,
        default Default::Text("15"), example "15"
    }

    /// Which lines the service writes to its own log.
    log: LogFilter {
        "log", "HOLDFAST_LOG", "log", Telemetry, default Default::Text("info"), example "info,sync=debug"
    }
    /// How it writes them: `text` for people, `json` for machines.
    log_format: LogFormat {
        "log_format", "HOLDFAST_LOG_FORMAT", "log-format", Telemetry, default Default::Text("text"), example "text"
    }
    /// Whether `/data-jobs/debug/prometheus` offers metrics.
    metrics_enabled: bool {
        "metrics_enabled", "HOLDFAST_METRICS_ENABLED", "metrics-enabled", Telemetry,
        default Default::Text("true"), example "true"
    }
    /// An address of its own for `/data-jobs/debug/prometheus`, which is then not at `listen`. The page tells teams, jobs and
    /// mail addresses to everyone who reaches this address, unless `metrics_token_file` is set.
    metrics_listen: Option<Listen> {
        "metrics_listen", "HOLDFAST_METRICS_LISTEN", "metrics-listen", Telemetry,
        default Default::Absent("at `listen`"), example "127.0.0.1:9092"
    }
    /// A file that holds the bearer token which scrapers of `/data-jobs/debug/prometheus` have to send, and nothing else. Mail
    /// addresses are shown only with it or at `metrics_listen`.
    metrics_token_file: Option<PathBuf> {
        "metrics_token_file", "HOLDFAST_METRICS_TOKEN_FILE", "metrics-token-file", Telemetry,
        default Default::Absent("none"), example "/etc/holdfast/metrics-token"
    }
}

impl Settings {
    /// Whether packages that jobs require are built: as set, else unless callers have to say who they are.
    pub(crate) fn allow_builds(&self) -> bool {
        self.python_allow_builds.unwrap_or(self.auth_issuers.0.is_empty())
    }

    /// The folder of what can be made again.
    pub(crate) fn cache_folder(&self) -> PathBuf {
        self.cache_dir.clone().unwrap_or_else(|| self.data_dir.join("cache"))
    }

    /// The password for PostgreSQL, when it stands in a file of its own.
    pub(crate) fn database_password(&self) -> Result<Option<SecretString>, ConfigError> {
        let Some(path) = &self.database_password_file else { return Ok(None) };
        let text = named_file("database_password_file", path)?;
        Ok(Some(text.trim_end_matches(['\n', '\r']).into()))
    }

    /// The refresh token for the authorization service's token endpoint, when one is set.
    pub(crate) fn webhook_refresh_token(&self) -> Result<Option<SecretString>, ConfigError> {
        let Some(path) = &self.auth_webhook_refresh_token_file else { return Ok(None) };
        let text = named_file("auth.webhook_refresh_token_file", path)?;
        Ok(Some(text.trim().into()))
    }

    /// The token of scrapers, when one is set.
    pub(crate) fn metrics_token(&self) -> Result<Option<SecretString>, ConfigError> {
        let Some(path) = &self.metrics_token_file else { return Ok(None) };
        let text = named_file("metrics_token_file", path)?;
        if text.trim().is_empty() {
            let place = format!("metrics_token_file ({})", path.display());
            let way_out = "Write a random token into it, for example that of `openssl rand -hex 32`.".into();
            return Err(ConfigError(vec![Flaw { place, wrong: "it is empty.".into(), way_out }]));
        }
        Ok(Some(text.trim().into()))
    }

    /// The constraints for VDK's packages, when a file of them is set.
    pub(crate) fn vdk_constraints(&self) -> Result<Option<String>, ConfigError> {
        self.vdk_constraints_file.as_deref().map(|path| named_file("vdk.constraints_file", path)).transpose()
    }

    /// What the options file says; nothing when none is set.
    pub(crate) fn vdk_options(&self) -> Result<VdkOptions, ConfigError> {
        let Some(path) = &self.vdk_options_file else { return Ok(VdkOptions::default()) };
        let text = named_file("vdk.options_file", path)?;
        VdkOptions::parse(&text, path).map_err(ConfigError)
    }

    /// The address of the API as jobs reach it, when the service listens on `bound`.
    pub(crate) fn rest_api_url(&self, bound: SocketAddr) -> String {
        if let Some(url) = &self.rest_api_url {
            return url.as_str().to_owned();
        }
        let reachable = match bound.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}", SocketAddr::from((reachable, bound.port())))
    }
}

/// The text of a file that the setting `key` names.
fn named_file(key: &str, path: &Path) -> Result<String, ConfigError> {
    super::file::text(path).map_err(|wrong| {
        let place = format!("{key} ({})", path.display());
        ConfigError(vec![Flaw { place, wrong, way_out: "Name a file that this user can read.".into() }])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_flag_and_key_of_a_setting_are_one_name() {
        for setting in SETTINGS {
            let name = setting.key.replace('.', "_");
            assert_eq!(setting.env, format!("HOLDFAST_{}", name.to_uppercase()));
            assert_eq!(setting.flag, name.replace('_', "-"));
        }
    }

    #[test]
    fn the_default_distribution_is_the_one_that_the_built_in_constraints_are_for() {
        let default = |key: &str| SETTINGS.iter().find(|s| s.key == key).unwrap().default.told();
        let requirement = format!("{}=={}", default("vdk.distribution"), default("vdk.version"));
        assert_eq!(requirement, vdk::REQUIREMENT);
    }

    #[test]
    fn a_key_is_used_once_and_is_not_a_table_as_well() {
        for (at, setting) in SETTINGS.iter().enumerate() {
            for other in &SETTINGS[at + 1..] {
                assert_ne!(setting.env, other.env);
                assert!(!other.key.starts_with(&format!("{}.", setting.key)), "{} {}", setting.key, other.key);
                assert!(!setting.key.starts_with(&format!("{}.", other.key)), "{} {}", setting.key, other.key);
            }
        }
    }

    #[test]
    fn settings_of_a_group_stand_together_in_the_order_of_groups() {
        let groups: Vec<_> = SETTINGS.iter().map(|s| Group::ALL.iter().position(|g| *g == s.group)).collect();
        assert!(groups.is_sorted());
    }
}
