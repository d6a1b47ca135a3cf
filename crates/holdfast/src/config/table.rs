//! Every setting, declared once.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use api::auth::Algorithm;
use model::{python::PythonVersion, variables::PrincipalPattern};

use super::{
    lists::{BaseImages, FieldOfSpec, HostName, IssuerUrl, List, VdkImage, Word},
    read::Reader,
    setting::{
        Default::{Absent, Computed, Text},
        Group, PREFIX, Setting, flag, or_default, text, variable,
    },
    types::{
        ClaimName, CompressionName, ContextName, DatabaseUrl, HttpUrl, ImageBuilderName, ImageForm, IndexUrl, Listen,
        LogFilter, LogFormat, LogsDateFormat, NamespaceName, OfExecution, OfJob, PackageName, PackageVersion,
        PostgresUrl, PullPolicy, RegistryName, RuntimeName, UrlTemplate, ZoneName,
    },
    value::{Signed, Value, Whole},
};

macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $key:literal, $group:ident, default $default:expr $(, example $example:expr)?;
    )+) => {
        /// Every setting, in the order in which they are listed.
        pub(crate) static SETTINGS: &[Setting] = &[$(
            Setting {
                key: $key,
                env: text(const { &variable::<{ PREFIX.len() + $key.len() }>($key) }),
                flag: text(const { &flag::<{ $key.len() }>($key) }),
                group: Group::$group,
                doc: concat!($($doc),+),
                default: $default,
                example: or_default(&[$($example)?], $default),
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
                // All are read before an error ends it, so that all errors are reported at once.
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
    /// Address of the API, the pages and the probes. Port 0 takes a free port, which the start-up message shows.
    listen: Listen = "listen", Service, default Text("127.0.0.1:8092");
    /// Allow a non-loopback `listen` address where that is unsafe: without authentication, or with `runtime = "local"`,
    /// where every job runs as the same operating-system user. Also allows plain-http issuer URLs.
    insecure: bool = "insecure", Service, default Text("false");
    /// Host names, beside `localhost` and loopback addresses, that requests may use. Requests with another `Host` header
    /// are rejected with 403, so that a web page can't reach the service through a name of its own (DNS rebinding).
    allowed_hosts: List<HostName> =
        "allowed_hosts", Service, default Absent("none"), example "jobs.example.com,10.0.0.7";
    /// URL of the service as jobs reach it, without a trailing slash.
    rest_api_url: Option<HttpUrl> =
        "rest_api_url", Service, default Absent("the address listened on"), example "https://jobs.example.com";
    /// Largest upload of a job's sources. Larger ones are rejected with 413.
    max_upload_bytes: Whole<1_024, 1_073_741_824> = "max_upload_bytes", Service, default Text("33554432");
    /// Concurrent requests. Further requests are rejected with 429 before any work is done. One caller gets at most half of
    /// them.
    requests_max: Whole<1, 100_000> = "requests_max", Service, default Text("512");
    /// Memory for request bodies, archives and rows of responses, over all requests. A request that would exceed it is
    /// rejected with 429.
    memory_budget_mib: Whole<64, 1_048_576> = "memory_budget_mib", Service, default Text("192");
    /// Open connections. When one more arrives, the connection that has waited longest for a complete request is closed.
    /// The service lowers the value if the limit of open files requires it.
    connections_max: Whole<16, 1_000_000> = "connections_max", Service, default Text("4096");
    /// Uploads of sources per caller and minute, with authentication on. Further ones are rejected with 429. Each instance
    /// counts for itself.
    uploads_per_minute: Whole<1, 1_000_000> = "uploads_per_minute", Service, default Text("1200");
    /// Started executions per caller and minute, with authentication on. Further ones are rejected with 429. Each instance
    /// counts for itself.
    starts_per_minute: Whole<1, 1_000_000> = "starts_per_minute", Service, default Text("6000");
    /// Rows and fields that the GraphQL queries of one caller may request per minute, with authentication on. Further
    /// queries are rejected with 429. For example, a list of 100,000 jobs with every field costs 10,000,000.
    query_cost_per_minute: Whole<1, 1_000_000_000_000> = "query_cost_per_minute", Service, default Text("20000000");
    /// URL of a page that shows the log of an execution, if logs are collected elsewhere. Clients open it instead of asking
    /// the service. `{end_time}` of an active execution is the current time.
    logs_url_template: Option<UrlTemplate<OfExecution>> =
        "logs_url_template", Service, default Absent("none"), example "https://logs.example.com/?q={execution_id}";
    /// Format of `{start_time}` and `{end_time}` in `logs_url_template`: milliseconds since 1970, or RFC 3339 in UTC.
    logs_url_date_format: LogsDateFormat = "logs_url_date_format", Service, default Text("unix");
    /// Seconds added to `{start_time}` in `logs_url_template`. A negative value means an earlier time.
    logs_url_start_offset_seconds: Signed<-31_536_000, 31_536_000> =
        "logs_url_start_offset_seconds", Service, default Text("0"), example "-60";
    /// Seconds added to `{end_time}` in `logs_url_template`.
    logs_url_end_offset_seconds: Signed<-31_536_000, 31_536_000> =
        "logs_url_end_offset_seconds", Service, default Text("0"), example "60";
    /// URL of a page that shows the sources of a job.
    source_url_template: Option<UrlTemplate<OfJob>> =
        "source_url_template", Service, default Absent("none"), example "https://git.example.com/jobs/{job_name}";
    /// Time that requests in progress have to finish after SIGTERM. Executions continue without the service.
    shutdown_grace_seconds: Whole<0, 600> = "shutdown_grace_seconds", Service, default Text("10");

    /// Issuers whose access tokens are accepted, as tokens name them in `iss`. Without one, authentication is off.
    auth_issuers: List<IssuerUrl> =
        "auth.issuers", Authentication, default Absent("none"), example "https://id.example.com/realms/data";
    /// URLs of the issuers' key sets, in the order of `auth.issuers`. They must be https, or on this machine.
    auth_jwks_urls: List<IssuerUrl> =
        "auth.jwks_urls", Authentication,
        default Absent("those that the issuers name in `/.well-known/openid-configuration`"),
        example "https://id.example.com/realms/data/certs";
    /// Audiences of which a token must have one (`aud`). `*` accepts tokens for any service. Without an audience the
    /// service listens only on loopback addresses.
    auth_audiences: List<Word> = "auth.audiences", Authentication, default Absent("any"), example "holdfast";
    /// Accepted signature algorithms of tokens.
    auth_algorithms: List<Algorithm> =
        "auth.algorithms", Authentication, default Text("RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,EdDSA"),
        example "RS256,ES256";
    /// Accepted difference between the clocks of an issuer and of the service.
    auth_leeway_seconds: Whole<0, 600> = "auth.leeway_seconds", Authentication, default Text("60");
    /// Claim with the user's name. A token without it is treated as one of a team's OAuth application.
    auth_user_claim: ClaimName =
        "auth.user_claim", Authentication, default Text("username"), example "preferred_username";
    /// Claim that must have one of the values in `auth.custom_claim_values`.
    auth_custom_claim: Option<ClaimName> =
        "auth.custom_claim", Authentication, default Absent("none"), example "context_name";
    /// Accepted values of `auth.custom_claim`.
    auth_custom_claim_values: List<Word> =
        "auth.custom_claim_values", Authentication, default Absent("any"), example "organisation-1,organisation-2";
    /// Claim with a caller's roles: a list, or one text with spaces.
    auth_authorities_claim: Option<ClaimName> =
        "auth.authorities_claim", Authentication, default Absent("`scope`, or `scp`"), example "perms";
    /// Roles of which a caller needs one.
    auth_authorized_roles: List<Word> =
        "auth.authorized_roles", Authentication, default Absent("none is needed"), example "data-jobs";
    /// Claim with the teams of a user: a list, or one text with commas. If it is set, users read and change only what
    /// belongs to their teams.
    auth_teams_claim: Option<ClaimName> =
        "auth.teams_claim", Authentication, default Absent("none: users are not limited to teams"), example "groups";
    /// Roles of users who are not limited to their teams.
    auth_admin_roles: List<Word> =
        "auth.admin_roles", Authentication, default Absent("none"), example "data-jobs-admin";
    /// URL of an authorization webhook. It decides on every request of a user before the service acts.
    auth_webhook_url: Option<HttpUrl> =
        "auth.webhook_url", Authentication, default Absent("none"), example "https://permissions.example.com/data-jobs";
    /// Time limit for the webhook's response. Without a response the request is rejected with 503.
    auth_webhook_timeout_seconds: Whole<1, 25> = "auth.webhook_timeout_seconds", Authentication, default Text("5");
    /// URL of a token endpoint. The service gets access tokens for `auth.webhook_url` there, in exchange for the token in
    /// `auth.webhook_refresh_token_file`.
    auth_webhook_token_url: Option<HttpUrl> =
        "auth.webhook_token_url", Authentication, default Absent("none"),
        example "https://id.example.com/realms/data/token";
    /// File that holds only the refresh token for `auth.webhook_token_url`.
    auth_webhook_refresh_token_file: Option<PathBuf> =
        "auth.webhook_refresh_token_file", Authentication, default Absent("none"),
        example "/etc/holdfast/webhook-token";
    /// Send the user's own token to the webhook.
    auth_webhook_forward_token: bool = "auth.webhook_forward_token", Authentication, default Text("false");
    /// Let several teams have jobs on the local runtime with authentication on. There all jobs run as one operating-system
    /// user, so that one team could read the data of another.
    auth_teams_trust_each_other: bool = "auth.teams_trust_each_other", Authentication, default Text("false");
    /// Let a running job start executions of its team's jobs and read their results with its own token, as `vdk-dag` does.
    /// The code of a job can then run every job of its team.
    auth_jobs_may_start_jobs: bool = "auth.jobs_may_start_jobs", Authentication, default Text("false");

    /// Folder of the SQLite file, the encryption keys and local executions. Back it up. With SQLite one instance at a time
    /// uses it; with PostgreSQL several instances of one machine may share it.
    data_dir: PathBuf =
        "data_dir", Storage, default Computed {
            of: |s| s.data_folder(),
            told: "`$XDG_DATA_HOME/holdfast`, or `~/.local/share/holdfast`",
        },
        example "/var/lib/holdfast";
    /// Folder of Python packages and tools that can be downloaded again. It may be deleted while the service is stopped.
    /// Inside `data_dir`, the kernel keeps jobs from changing what others run.
    cache_dir: Option<PathBuf> =
        "cache_dir", Storage, default Absent("the folder `cache` in the data folder"), example "/var/cache/holdfast";
    /// Database: `sqlite` (a file in `data_dir`) or the URL of a PostgreSQL server (14 or later). The URL may hold a
    /// password, which is never shown. Then set it in the file or the environment, because other users of this machine can
    /// read flags, or use `database_password_file`.
    database_url: DatabaseUrl =
        "database_url", Storage, default Text("sqlite"),
        example "postgres://holdfast@db.example.com/holdfast?sslmode=verify-full";
    /// File that holds only the password for PostgreSQL.
    database_password_file: Option<PathBuf> =
        "database_password_file", Storage, default Absent("none"), example "/etc/holdfast/database-password";
    /// URL of the PostgreSQL server without a pooler, if `database_url` leads to a pooler. Notifications, the lease and
    /// migrations need direct connections.
    database_direct_url: Option<PostgresUrl> =
        "database_direct_url", Storage, default Absent("the URL above"),
        example "postgres://holdfast@db-0.example.com/holdfast";
    /// Connections to PostgreSQL per instance for requests. If all are in use for two seconds, further requests are
    /// rejected with 429.
    database_connections: Whole<2, 1_000> = "database_connections", Storage, default Text("16");
    /// Connections to PostgreSQL for the loops of the leader. Two more are for the lease and notifications.
    database_sync_connections: Whole<2, 1_000> = "database_sync_connections", Storage, default Text("8");

    /// Python version of deployments that name none, if it is installed.
    python_version: Option<PythonVersion> =
        "python.version", Python, default Absent("the newest that is found"), example "3.11";
    /// Folders that are searched for Python interpreters before those of `PATH` and the usual ones.
    python_search_path: List<PathBuf> =
        "python.search_path", Python, default Absent("none"), example "/opt/python3.11/bin,/opt/python3.12/bin";
    /// Build required packages that have no wheel for this machine from source. A build runs code of the package in the
    /// sandbox of data jobs, in a temporary folder, without the credentials of the index. The packages of VDK are built in
    /// any case.
    python_allow_builds: Option<bool> =
        "python.allow_builds", Python, default Absent("true; false when authentication is on"), example "true";
    /// Disk that the build of one package may use, and each unpacked wheel. A build or an installation that uses more is
    /// stopped.
    python_build_disk_max_mib: Whole<16, 1_048_576> = "python.build_disk_max_mib", Python, default Text("4096");
    /// The `uv` program that installs packages.
    uv: Option<PathBuf> =
        "uv", Python, default Absent("the one in `PATH`, or one that is installed into the cache folder"),
        example "/usr/local/bin/uv";
    /// Package index to install from. The URL may hold a user name and a password, which are never shown. Then set it in
    /// the file or the environment, because other users of this machine can read flags.
    index_url: Option<IndexUrl> =
        "index_url", Python, default Absent("the installer's own: PyPI"), example "https://pypi.example.com/simple";
    /// Python package with the `vdk` command that runs jobs.
    vdk_distribution: PackageName = "vdk.distribution", Python, default Text(vdk::DISTRIBUTION);
    /// Version of `vdk.distribution` for deployments that name none.
    vdk_version: PackageVersion = "vdk.version", Python, default Text(vdk::VERSION);
    /// File of constraints, as for `pip install --constraint`, for `vdk.distribution` and its dependencies.
    vdk_constraints_file: Option<PathBuf> =
        "vdk.constraints_file", Python, default Absent("constraints that work with the default version"),
        example "/etc/holdfast/constraints.txt";
    /// File of environment variables for jobs: `[default]` for every job, `[name-of-a-job]` for one.
    vdk_options_file: Option<PathBuf> =
        "vdk.options_file", Python, default Absent("none"), example "/etc/holdfast/vdk_options.ini";
    /// Kerberos principal of a job, passed as `VDK_KEYTAB_PRINCIPAL`. `{job}` stands for the name of the job.
    vdk_principal_pattern: PrincipalPattern =
        "vdk.principal_pattern", Python, default Text(PrincipalPattern::DEFAULT), example "jobs/{job}@EXAMPLE.COM";

    /// Where jobs run: `local` (processes of this machine) or `kubernetes`.
    runtime: RuntimeName = "runtime", Runs, default Text("local");
    /// Concurrent local executions. Further ones wait as `submitted`.
    parallel_runs: Whole<1, 1_000> =
        "parallel_runs", Runs, default Computed {
            of: |s| Some(s.cores.clamp(2, 1_000).to_string()),
            told: "the number of processor cores, at least 2",
        },
        example "4";
    /// Time limit of an execution. After it, the execution is stopped.
    run_deadline_seconds: Whole<1, 2_592_000> = "run.deadline_seconds", Runs, default Text("43200");
    /// Retries of an execution that failed.
    run_backoff_limit: Option<Whole<0, 10>> =
        "run.backoff_limit", Runs, default Absent("0, and 3 in a cluster"), example "0";
    /// How late an execution may start after its scheduled time or its request.
    start_deadline_seconds: Whole<10, 604_800> = "start_deadline_seconds", Runs, default Text("1800");
    /// Size of an execution's log that is kept. Of a longer one, the beginning and the end are kept.
    log_max_bytes: Whole<65_536, 268_435_456> = "log_max_bytes", Runs, default Text("4194304");
    /// Time zone of schedules that name none.
    time_zone: ZoneName = "time_zone", Runs, default Text("UTC"), example "Europe/Sofia";

    /// Context of the kubeconfig (`KUBECONFIG`, or `~/.kube/config`).
    kubernetes_context: Option<ContextName> =
        "kubernetes.context", Kubernetes,
        default Absent("the current one; in a pod without a kubeconfig, the pod's own cluster"),
        example "production";
    /// Namespace of the jobs. Holdfast does not change objects in it that it does not manage.
    kubernetes_namespace: Option<NamespaceName> =
        "kubernetes.namespace", Kubernetes, default Absent("that of the context, or of the pod"), example "data-jobs";
    /// File with a CronJob (YAML or JSON) that the CronJob of each job is built from. Holdfast overwrites names, schedule,
    /// labels and the first container. Requests, limits, tolerations, affinity, further containers and volumes of the
    /// template are kept.
    kubernetes_template_file: Option<PathBuf> =
        "kubernetes.template_file", Kubernetes, default Absent("none"), example "/etc/holdfast/data-job.yaml";
    /// Python versions that deployments may use in the cluster. The images must contain them.
    kubernetes_python_versions: List<PythonVersion> =
        "kubernetes.python_versions", Kubernetes, default Text("3.9,3.10,3.11,3.12"), example "3.11,3.12";
    /// Images with VDK, per Python version, for images of jobs that have none. `{vdk}` stands for the version of VDK.
    kubernetes_vdk_images: List<VdkImage> =
        "kubernetes.vdk_images", Kubernetes, default Absent("none: the images of jobs have the `vdk` command"),
        example "3.11=registry.example.com/vdk-3.11:{vdk}";
    /// Names of the pull Secrets in the namespace.
    kubernetes_pull_secrets: List<Word> =
        "kubernetes.pull_secrets", Kubernetes, default Absent("none"), example "registry-credentials";
    /// Pull policy of images.
    kubernetes_pull_policy: PullPolicy = "kubernetes.pull_policy", Kubernetes, default Text("IfNotPresent");
    /// Let the containers of jobs write only to their volumes.
    kubernetes_read_only_root_filesystem: bool =
        "kubernetes.read_only_root_filesystem", Kubernetes, default Text("false"), example "true";
    /// Fields of CronJobs, as JSON pointers, that other field managers may set. Holdfast keeps the value that they have in
    /// the cluster.
    kubernetes_ignore_paths: List<FieldOfSpec> =
        "kubernetes.ignore_paths", Kubernetes, default Absent("none: Holdfast reverts changes by others"),
        example "/spec/jobTemplate/spec/template/spec/priorityClassName";
    /// Adopt the CronJob of another Control Service when a job of the same name is deployed. Use it only after the other
    /// service is shut down.
    kubernetes_adopt: bool = "kubernetes.adopt", Kubernetes, default Text("false"), example "true";
    /// Time zone of the cluster's controller manager, which is that of CronJobs without `timeZone`. Holdfast does not
    /// change a CronJob that only lacks this zone.
    kubernetes_controller_time_zone: ZoneName =
        "kubernetes.controller_time_zone", Kubernetes, default Text("UTC"), example "Europe/Sofia";
    /// CPU limit of an execution whose deployment has none, in thousandths of a core.
    kubernetes_cpu_limit_millicores: Whole<1, 1_024_000> =
        "kubernetes.cpu_limit_millicores", Kubernetes, default Text("500");
    /// CPU request of an execution whose deployment has none, in thousandths of a core.
    kubernetes_cpu_request_millicores: Whole<1, 1_024_000> =
        "kubernetes.cpu_request_millicores", Kubernetes, default Text("500"), example "100";
    /// Memory limit of an execution whose deployment has none, in mebibytes.
    kubernetes_memory_limit_mi: Whole<1, 16_777_216> = "kubernetes.memory_limit_mi", Kubernetes, default Text("1000");
    /// Memory request of an execution whose deployment has none, in mebibytes.
    kubernetes_memory_request_mi: Whole<1, 16_777_216> =
        "kubernetes.memory_request_mi", Kubernetes, default Text("1000"), example "250";
    /// CPU limit of the init container with VDK, in thousandths of a core.
    kubernetes_vdk_cpu_limit_millicores: Whole<1, 1_024_000> =
        "kubernetes.vdk_cpu_limit_millicores", Kubernetes, default Text("500");
    /// CPU request of the init container with VDK, in thousandths of a core.
    kubernetes_vdk_cpu_request_millicores: Whole<1, 1_024_000> =
        "kubernetes.vdk_cpu_request_millicores", Kubernetes, default Text("100");
    /// Memory limit of the init container with VDK, in mebibytes.
    kubernetes_vdk_memory_limit_mi: Whole<1, 16_777_216> =
        "kubernetes.vdk_memory_limit_mi", Kubernetes, default Text("500");
    /// Memory request of the init container with VDK, in mebibytes.
    kubernetes_vdk_memory_request_mi: Whole<1, 16_777_216> =
        "kubernetes.vdk_memory_request_mi", Kubernetes, default Text("100");
    /// How long the result of an execution stays in the cluster until Holdfast records it. A shorter outage of Holdfast
    /// loses no result.
    outage_window_seconds: Whole<600, 604_800> = "outage_window_seconds", Kubernetes, default Text("21600");
    /// Source of the images of jobs. `embedded`: Holdfast assembles them from `image.base_images`, packages and sources.
    /// `prebuilt`: each team builds and pushes them under the name that `image.name` gives.
    image_builder: Option<ImageBuilderName> =
        "image.builder", Kubernetes, default Absent("`embedded` where `image.base_images` is set; else it must be set"),
        example "embedded";
    /// Base images of jobs by Python version. Each must contain that Python. Name it with its digest, because a moved tag
    /// changes images at their next build. `{ baseImage = "…", vdkImage = "…" }` takes VDK from an init container, as upstream's
    /// chart does.
    image_base_images: BaseImages =
        "image.base_images", Kubernetes, default Absent("none"),
        example "\"3.11\" = \"registry.example.com/python:3.11\"";
    /// Compression of the layers of images.
    image_compression: CompressionName = "image.compression", Kubernetes, default Text("zstd"), example "gzip";
    /// Put compiled modules of the packages into images, so that jobs start sooner. Holdfast needs a Python of the image's minor version
    /// for it, and compiles nothing otherwise. Layers become about twice as large.
    image_bytecode: bool = "image.bytecode", Kubernetes, default Text("true"), example "false";
    /// Processor architectures of the images of jobs. With several, each image is an index.
    image_architectures: List<Word> =
        "image.architectures", Kubernetes, default Absent("that of the service"), example "amd64,arm64";
    /// Registry to push images to, if Holdfast reaches it under another name than the nodes. Replaces `{registry}` in
    /// `image.name`.
    image_registry_push_url: Option<RegistryName> =
        "image.registry_push_url", Kubernetes, default Absent("`registry_url`"), example "registry.internal:5000/data-jobs";
    /// Docker configuration file (`config.json`) with the credentials of registries. Credential helpers are not run.
    image_registry_credentials_file: Option<PathBuf> =
        "image.registry_credentials_file", Kubernetes, default Absent("none: registries are asked without credentials"),
        example "/etc/holdfast/registry/config.json";
    /// Docker configuration file with read-only credentials, by which nodes pull the images of jobs. Holdfast keeps it as the Secret
    /// `holdfast-pull-credentials` in the namespace of the jobs and reads the file again at each full resync. Pods of jobs can't
    /// read the Secret, but whoever may read Secrets of that namespace can.
    image_pull_credentials_file: Option<PathBuf> =
        "image.pull_credentials_file", Kubernetes,
        default Absent("none: nodes have credentials of their own, or `kubernetes.pull_secrets` names Secrets"),
        example "/etc/holdfast/registry/pull.json";
    /// Registries that Holdfast reaches by plain HTTP: hosts with their ports.
    image_registry_plain_http: List<Word> =
        "image.registry_plain_http", Kubernetes, default Absent("none"), example "registry.internal:5000";
    /// File with certificates of authorities in PEM form that sign certificates of registries, in addition to those of the
    /// machine.
    image_registry_ca_file: Option<PathBuf> =
        "image.registry_ca_file", Kubernetes, default Absent("none"), example "/etc/holdfast/registry-ca.pem";
    /// Names of images, with `{registry}`, `{job}`, `{team}`, `{version}` (of the sources), `{python}` and `{vdk}`.
    image_template: ImageForm =
        "image.name", Kubernetes, default Text("{registry}/{job}:{version}"),
        example "{registry}/{team}/{job}:{version}";
    /// Registry that `{registry}` stands for, as the nodes of the cluster reach it.
    registry_url: Option<RegistryName> =
        "registry_url", Kubernetes, default Absent("none"), example "registry.example.com/data-jobs";

    /// How long ended executions are kept.
    executions_keep_days: Whole<1, 3_650> = "executions.keep_days", Retention, default Text("14");
    /// Latest executions of a job that are kept regardless of their age.
    executions_keep_per_job: Whole<1, 100_000> = "executions.keep_per_job", Retention, default Text("100");
    /// How long logs of ended executions are kept. A log is removed with its execution at the latest.
    logs_keep_days: Whole<1, 3_650> = "logs.keep_days", Retention, default Text("90");
    /// Total size of stored logs. Above it, the oldest are removed within ten minutes.
    logs_total_max_mib: Whole<16, 1_048_576> = "logs.total_max_mib", Retention, default Text("10240");
    /// Latest revisions of a job that are kept, and latest uploads. A revision that is deployed or that a kept execution
    /// used is kept as well, and so is an upload that a kept revision uses.
    revisions_keep: Whole<1, 10_000> = "revisions.keep", Retention, default Text("100");
    /// How long a deleted job can be restored. Then its data is removed from the database.
    deleted_jobs_keep_days: Whole<0, 3_650> = "deleted_jobs_keep_days", Retention, default Text("7");
    /// How long audit events are kept.
    audit_keep_days: Whole<1, 36_500> = "audit.keep_days", Retention, default Text("400");

    /// Interval of the full resync, which compares every deployment with the runtime. Changes are rolled out immediately,
    /// without waiting for it.
    sync_sweep_interval_seconds: Whole<1, 86_400> = "sync.sweep_interval_seconds", Synchronizer, default Text("300");
    /// Bulk-removal guard, in percent of all deployments. If more than 20 deployments *and* more than this percentage are
    /// pending removal, Holdfast removes none of them, logs an error and sets `holdfast_removals_held_back`. Raise the
    /// setting and restart to proceed.
    sync_removals_max_percent: Whole<0, 100> = "sync.removals_max_percent", Synchronizer, default Text("25");
    /// Deployments that are reconciled at the same time.
    sync_parallelism: Whole<1, 1_024> = "sync.parallelism", Synchronizer, default Text("32");
    /// Lease of the leader. If the leader does not renew it for this time, another instance becomes leader.
    lease_seconds: Whole<3, 300> = "lease_seconds", Synchronizer, default Text("15");

    /// Log filter: a level, or levels per crate.
    log: LogFilter = "log", Telemetry, default Text("info"), example "info,sync=debug";
    /// Log format: `text` for people, `json` for machines.
    log_format: LogFormat = "log_format", Telemetry, default Text("text");
    /// Write a log line with the target `access` for each request except probes. The line has the operation id, method,
    /// route, path, status, latency, user and bytes of the response.
    access_log: bool = "access_log", Telemetry, default Text("false");
    /// Serve metrics at `/data-jobs/debug/prometheus`.
    metrics_enabled: bool = "metrics_enabled", Telemetry, default Text("true");
    /// Separate address for `/data-jobs/debug/prometheus`, which is then not served at `listen`. Metrics show teams, jobs
    /// and mail addresses to everyone who reaches this address, unless `metrics_token_file` is set.
    metrics_listen: Option<Listen> =
        "metrics_listen", Telemetry, default Absent("at `listen`"), example "127.0.0.1:9092";
    /// File that holds only the bearer token that scrapers of `/data-jobs/debug/prometheus` must send. Mail addresses are
    /// shown only with it, or at `metrics_listen`.
    metrics_token_file: Option<PathBuf> =
        "metrics_token_file", Telemetry, default Absent("none"), example "/etc/holdfast/metrics-token";
}

impl Settings {
    /// Whether packages that jobs require are built: as set, else unless callers have to say who they are.
    pub(crate) fn allow_builds(&self) -> bool {
        self.python_allow_builds.unwrap_or(self.auth_issuers.0.is_empty())
    }

    /// The folder of packages and tools that can be downloaded again.
    pub(crate) fn cache_folder(&self) -> PathBuf {
        self.cache_dir.clone().unwrap_or_else(|| self.data_dir.join("cache"))
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
        let default = |key: &str| SETTINGS.iter().find(|s| s.key == key).unwrap().default.describe();
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
    fn settings_of_a_group_are_together_in_the_order_of_groups() {
        let groups: Vec<_> = SETTINGS.iter().map(|s| Group::ALL.iter().position(|g| *g == s.group)).collect();
        assert!(groups.is_sorted());
    }
}
