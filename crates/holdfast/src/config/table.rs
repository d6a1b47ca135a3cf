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
    listen: Listen = "listen", Service, default Text("127.0.0.1:8092");
    /// Listen beyond this machine although nobody who calls is asked who they are. Everyone who reaches the address can
    /// then run code on this machine.
    insecure: bool = "insecure", Service, default Text("false");
    /// Host names beside `localhost` and the loopback addresses under which the service may be called; a request for
    /// another one is refused, so that no web page can reach the service through a name of its own.
    allowed_hosts: List<HostName> =
        "allowed_hosts", Service, default Absent("none"), example "jobs.example.com,10.0.0.7";
    /// The address of this service as jobs reach it, without a slash at its end.
    rest_api_url: Option<HttpUrl> =
        "rest_api_url", Service, default Absent("the address listened on"), example "https://jobs.example.com";
    /// The largest upload of a job's source.
    max_upload_bytes: Whole<1_024, 1_073_741_824> = "max_upload_bytes", Service, default Text("33554432");
    /// How many requests are worked on at once. More are told to come again (429), before any of their work is done.
    requests_max: Whole<1, 100_000> = "requests_max", Service, default Text("512");
    /// The memory that request bodies, archives and rows of responses may take at once, over all requests. A request that
    /// would exceed it is rejected with 429.
    memory_budget_mib: Whole<64, 1_048_576> = "memory_budget_mib", Service, default Text("192");
    /// How many connections are open at once. When one more comes, the connection that has waited longest for a complete
    /// request is closed. It is lowered where the limit of open files does not allow for it.
    connections_max: Whole<16, 1_000_000> = "connections_max", Service, default Text("4096");
    /// How many sources one caller may upload in a minute, with authentication on. More are rejected with 429. Each
    /// instance of the service counts for itself.
    uploads_per_minute: Whole<1, 1_000_000> = "uploads_per_minute", Service, default Text("1200");
    /// How many executions one caller may start in a minute, with authentication on. More are rejected with 429.
    starts_per_minute: Whole<1, 1_000_000> = "starts_per_minute", Service, default Text("6000");
    /// How many rows and fields the GraphQL queries of one caller may ask for in a minute, with authentication on. More are
    /// rejected with 429. The list of 100,000 jobs with everything in it costs 10,000,000.
    query_cost_per_minute: Whole<1, 1_000_000_000_000> = "query_cost_per_minute", Service, default Text("20000000");
    /// The URL of a page that shows the log of an execution, for those who collect logs elsewhere. Clients open it instead
    /// of asking this service. The end of an execution in progress is the present.
    logs_url_template: Option<UrlTemplate<OfExecution>> =
        "logs_url_template", Service, default Absent("none"), example "https://logs.example.com/?q={execution_id}";
    /// How `{start_time}` and `{end_time}` are written in `logs_url_template`: milliseconds since 1970, or RFC 3339 in UTC.
    logs_url_date_format: LogsDateFormat = "logs_url_date_format", Service, default Text("unix");
    /// Seconds that are added to `{start_time}` in `logs_url_template`; less than zero for an earlier time.
    logs_url_start_offset_seconds: Signed<-31_536_000, 31_536_000> =
        "logs_url_start_offset_seconds", Service, default Text("0"), example "-60";
    /// Seconds that are added to `{end_time}` in `logs_url_template`.
    logs_url_end_offset_seconds: Signed<-31_536_000, 31_536_000> =
        "logs_url_end_offset_seconds", Service, default Text("0"), example "60";
    /// The address of a page that shows the source of a job.
    source_url_template: Option<UrlTemplate<OfJob>> =
        "source_url_template", Service, default Absent("none"), example "https://git.example.com/jobs/{job_name}";
    /// How long requests in progress may take to end after the service is told to stop. Runs go on without it.
    shutdown_grace_seconds: Whole<0, 600> = "shutdown_grace_seconds", Service, default Text("10");

    /// The issuers whose access tokens let callers in, as tokens name them in `iss`. Without one, authentication is off:
    /// nobody is asked who they are.
    auth_issuers: List<IssuerUrl> =
        "auth.issuers", Authentication, default Absent("none"), example "https://id.example.com/realms/data";
    /// The addresses of the issuers' key sets, in the order of `auth.issuers`. They are read over https, or from this
    /// machine.
    auth_jwks_urls: List<IssuerUrl> =
        "auth.jwks_urls", Authentication,
        default Absent("those that the issuers name in `/.well-known/openid-configuration`"),
        example "https://id.example.com/realms/data/certs";
    /// The audiences of which a token has to have one (`aud`). `*` accepts tokens for any service; without an audience the
    /// service listens on loopback only.
    auth_audiences: List<Word> = "auth.audiences", Authentication, default Absent("any"), example "holdfast";
    /// How tokens may be signed.
    auth_algorithms: List<Algorithm> =
        "auth.algorithms", Authentication, default Text("RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,EdDSA"),
        example "RS256,ES256";
    /// How far the clocks of an issuer and of this service may differ.
    auth_leeway_seconds: Whole<0, 600> = "auth.leeway_seconds", Authentication, default Text("60");
    /// The claim with the user's name. A token without it is taken for that of a team's OAuth application.
    auth_user_claim: ClaimName =
        "auth.user_claim", Authentication, default Text("username"), example "preferred_username";
    /// A claim that must have one of the values in `auth.custom_claim_values`.
    auth_custom_claim: Option<ClaimName> =
        "auth.custom_claim", Authentication, default Absent("none"), example "context_name";
    /// The values that `auth.custom_claim` may have.
    auth_custom_claim_values: List<Word> =
        "auth.custom_claim_values", Authentication, default Absent("any"), example "organisation-1,organisation-2";
    /// The claim with a caller's roles: a list, or words in one text.
    auth_authorities_claim: Option<ClaimName> =
        "auth.authorities_claim", Authentication, default Absent("`scope`, or `scp`"), example "perms";
    /// The roles of which a caller needs one.
    auth_authorized_roles: List<Word> =
        "auth.authorized_roles", Authentication, default Absent("none is needed"), example "data-jobs";
    /// The claim with the teams of a user: a list, or names with commas in one text. With it, a user reads and changes what
    /// belongs to these teams alone.
    auth_teams_claim: Option<ClaimName> =
        "auth.teams_claim", Authentication, default Absent("none: users are not limited to teams"), example "groups";
    /// The roles of those who are not limited to their teams.
    auth_admin_roles: List<Word> =
        "auth.admin_roles", Authentication, default Absent("none"), example "data-jobs-admin";
    /// The address of an authorization service that is asked before anything is done for a user.
    auth_webhook_url: Option<HttpUrl> =
        "auth.webhook_url", Authentication, default Absent("none"), example "https://permissions.example.com/data-jobs";
    /// How long that service may take to answer. Without an answer nobody gets in.
    auth_webhook_timeout_seconds: Whole<1, 25> = "auth.webhook_timeout_seconds", Authentication, default Text("5");
    /// The address of a token endpoint where this service gets access tokens of its own for `auth.webhook_url`, in exchange
    /// for the token in `auth.webhook_refresh_token_file`.
    auth_webhook_token_url: Option<HttpUrl> =
        "auth.webhook_token_url", Authentication, default Absent("none"),
        example "https://id.example.com/realms/data/token";
    /// A file that holds the refresh token for `auth.webhook_token_url` and nothing else.
    auth_webhook_refresh_token_file: Option<PathBuf> =
        "auth.webhook_refresh_token_file", Authentication, default Absent("none"),
        example "/etc/holdfast/webhook-token";
    /// Whether that service gets the user's own token with each question.
    auth_webhook_forward_token: bool = "auth.webhook_forward_token", Authentication, default Text("false");
    /// Let several teams have jobs although authentication is on and jobs run as processes of one user, where one could
    /// read what another one keeps.
    auth_teams_trust_each_other: bool = "auth.teams_trust_each_other", Authentication, default Text("false");
    /// Let a running job start executions of its team's jobs and read how they ended, with the job's own token, as `vdk-dag`
    /// does. Code of a job can then run every job of its team.
    auth_jobs_may_start_jobs: bool = "auth.jobs_may_start_jobs", Authentication, default Text("false");

    /// The folder of the SQLite file, the key file and the run folders. Back it up. With SQLite one instance at a time
    /// uses it; with PostgreSQL several instances of one machine may share it.
    data_dir: PathBuf =
        "data_dir", Storage, default Computed {
            of: |s| s.data_folder(),
            told: "`$XDG_DATA_HOME/holdfast`, or `~/.local/share/holdfast`",
        },
        example "/var/lib/holdfast";
    /// The folder of what can be made again: Python packages and tools. It may be deleted while the service is down. Within
    /// the data folder the kernel keeps jobs from changing what others run.
    cache_dir: Option<PathBuf> =
        "cache_dir", Storage, default Absent("the folder `cache` in the data folder"), example "/var/cache/holdfast";
    /// The database: SQLite in a file of the data folder, or a PostgreSQL server (14 or later). The URL may hold a
    /// password, which is never shown; then set it in the file or the environment, because other users of this machine can
    /// see flags, or keep the password in a file of its own.
    database_url: DatabaseUrl =
        "database_url", Storage, default Text("sqlite"),
        example "postgres://holdfast@db.example.com/holdfast?sslmode=verify-full";
    /// A file that holds the password for PostgreSQL and nothing else.
    database_password_file: Option<PathBuf> =
        "database_password_file", Storage, default Absent("none"), example "/etc/holdfast/database-password";
    /// Where the PostgreSQL server is reached directly, when the URL above leads to a pooler: notifications, the lease and
    /// migrations need a connection of their own.
    database_direct_url: Option<PostgresUrl> =
        "database_direct_url", Storage, default Absent("the URL above"),
        example "postgres://holdfast@db-0.example.com/holdfast";
    /// How many connections to PostgreSQL an instance uses for requests at most. When all are in use for two seconds, more
    /// requests are told to come again.
    database_connections: Whole<2, 1_000> = "database_connections", Storage, default Text("16");
    /// How many connections to PostgreSQL the loops of the leading instance use at most. Two more are for lease and
    /// notifications.
    database_sync_connections: Whole<2, 1_000> = "database_sync_connections", Storage, default Text("8");

    /// The Python version of deployments that ask for none, if this machine has it.
    python_version: Option<PythonVersion> =
        "python.version", Python, default Absent("the newest that is found"), example "3.11";
    /// Folders to look for Python interpreters in, before those of `PATH` and the usual places.
    python_search_path: List<PathBuf> =
        "python.search_path", Python, default Absent("none"), example "/opt/python3.11/bin,/opt/python3.12/bin";
    /// Whether a required package that has no wheel for this machine is built from its source. A build runs code of the
    /// package: within the walls of data jobs, in a folder that is thrown away, without the credentials of the index. The
    /// packages of VDK are built in any case.
    python_allow_builds: Option<bool> =
        "python.allow_builds", Python, default Absent("true; false when authentication is on"), example "true";
    /// The disk that the build of one package may use, and each wheel once it is unpacked. A build or an installation that
    /// uses more is ended.
    python_build_disk_max_mib: Whole<16, 1_048_576> = "python.build_disk_max_mib", Python, default Text("4096");
    /// The `uv` program that installs packages.
    uv: Option<PathBuf> =
        "uv", Python, default Absent("the one in `PATH`, or one that is installed into the cache folder"),
        example "/usr/local/bin/uv";
    /// The package index to install from. It may hold a user name and a password, which are never shown; then set it in
    /// the file or the environment, because other users of this machine can see flags.
    index_url: Option<IndexUrl> =
        "index_url", Python, default Absent("the installer's own: PyPI"), example "https://pypi.example.com/simple";
    /// The Python package that brings the `vdk` command which runs jobs.
    vdk_distribution: PackageName = "vdk.distribution", Python, default Text(vdk::DISTRIBUTION);
    /// The version of that package for deployments that ask for none.
    vdk_version: PackageVersion = "vdk.version", Python, default Text(vdk::VERSION);
    /// A file of constraints, as `pip install --constraint` takes it, for that package and what it depends on.
    vdk_constraints_file: Option<PathBuf> =
        "vdk.constraints_file", Python, default Absent("constraints that work with the default version"),
        example "/etc/holdfast/constraints.txt";
    /// A file of environment variables for jobs: `[default]` for every job, `[name-of-a-job]` for one.
    vdk_options_file: Option<PathBuf> =
        "vdk.options_file", Python, default Absent("none"), example "/etc/holdfast/vdk_options.ini";
    /// The Kerberos principal of a job, which it gets as `VDK_KEYTAB_PRINCIPAL`; `{job}` stands for its name.
    vdk_principal_pattern: PrincipalPattern =
        "vdk.principal_pattern", Python, default Text(PrincipalPattern::DEFAULT), example "jobs/{job}@EXAMPLE.COM";

    /// Where jobs run: as processes of this machine, or in a Kubernetes cluster.
    runtime: RuntimeName = "runtime", Runs, default Text("local");
    /// How many runs are active at once; the others wait.
    parallel_runs: Whole<1, 1_000> =
        "parallel_runs", Runs, default Computed {
            of: |s| Some(s.cores.clamp(2, 1_000).to_string()),
            told: "the number of processor cores, at least 2",
        },
        example "4";
    /// How long a run may take; then it is ended.
    run_deadline_seconds: Whole<1, 2_592_000> = "run.deadline_seconds", Runs, default Text("43200");
    /// How often a run that failed is tried again.
    run_backoff_limit: Option<Whole<0, 10>> =
        "run.backoff_limit", Runs, default Absent("0, and 3 in a cluster"), example "0";
    /// How late a run may start: after its tick, or after it was asked for.
    start_deadline_seconds: Whole<10, 604_800> = "start_deadline_seconds", Runs, default Text("1800");
    /// How much of a run's log is kept; of a longer one, beginning and end.
    log_max_bytes: Whole<65_536, 268_435_456> = "log_max_bytes", Runs, default Text("4194304");
    /// The time zone of schedules that name none.
    time_zone: ZoneName = "time_zone", Runs, default Text("UTC"), example "Europe/Sofia";

    /// The context of the kubeconfig (`KUBECONFIG`, or `~/.kube/config`) that leads to the cluster.
    kubernetes_context: Option<ContextName> =
        "kubernetes.context", Kubernetes,
        default Absent("the current one; in a pod without a kubeconfig, the pod's own cluster"),
        example "production";
    /// The namespace of the jobs. Objects in it that this service did not make are left alone.
    kubernetes_namespace: Option<NamespaceName> =
        "kubernetes.namespace", Kubernetes, default Absent("that of the context, or of the pod"), example "data-jobs";
    /// A file with a CronJob in YAML or JSON that each job's is made from. What the service sets goes over it: names,
    /// schedule, labels, the first container. Requests, limits, tolerations, affinity, further containers and volumes stay.
    kubernetes_template_file: Option<PathBuf> =
        "kubernetes.template_file", Kubernetes, default Absent("none"), example "/etc/holdfast/data-job.yaml";
    /// The Python versions that deployments can have in the cluster; the images have to bring them.
    kubernetes_python_versions: List<PythonVersion> =
        "kubernetes.python_versions", Kubernetes, default Text("3.9,3.10,3.11,3.12"), example "3.11,3.12";
    /// Images that bring VDK to a job's image which has none, by Python version; `{vdk}` stands for the version of VDK.
    kubernetes_vdk_images: List<VdkImage> =
        "kubernetes.vdk_images", Kubernetes, default Absent("none: the images of jobs have the `vdk` command"),
        example "3.11=registry.example.com/vdk-3.11:{vdk}";
    /// Names of the secrets in the namespace that images are pulled with.
    kubernetes_pull_secrets: List<Word> =
        "kubernetes.pull_secrets", Kubernetes, default Absent("none"), example "registry-credentials";
    /// When nodes pull images.
    kubernetes_pull_policy: PullPolicy = "kubernetes.pull_policy", Kubernetes, default Text("IfNotPresent");
    /// Whether the containers of jobs can write to their volumes alone.
    kubernetes_read_only_root_filesystem: bool =
        "kubernetes.read_only_root_filesystem", Kubernetes, default Text("false"), example "true";
    /// Fields of CronJobs that others may write, as JSON pointers: they keep the value that they have in the cluster.
    kubernetes_ignore_paths: List<FieldOfSpec> =
        "kubernetes.ignore_paths", Kubernetes, default Absent("none: what others change is put back"),
        example "/spec/jobTemplate/spec/template/spec/priorityClassName";
    /// Whether CronJobs that another Control Service made for data jobs are taken over when a job of the same name is deployed.
    /// Only for one that is shut down.
    kubernetes_adopt: bool = "kubernetes.adopt", Kubernetes, default Text("false"), example "true";
    /// The time zone of the cluster's controller manager: a CronJob that names no time zone runs by it. One that differs from
    /// what is wanted only in that it does not name this zone is left as it is.
    kubernetes_controller_time_zone: ZoneName =
        "kubernetes.controller_time_zone", Kubernetes, default Text("UTC"), example "Europe/Sofia";
    /// Processor time that a run may use at most when its deployment does not say, in thousandths of a core.
    kubernetes_cpu_limit_millicores: Whole<1, 1_024_000> =
        "kubernetes.cpu_limit_millicores", Kubernetes, default Text("500");
    /// Processor time that is set aside for a run when its deployment does not say, in thousandths of a core.
    kubernetes_cpu_request_millicores: Whole<1, 1_024_000> =
        "kubernetes.cpu_request_millicores", Kubernetes, default Text("500"), example "100";
    /// Memory that a run may use at most when its deployment does not say, in mebibytes.
    kubernetes_memory_limit_mi: Whole<1, 16_777_216> = "kubernetes.memory_limit_mi", Kubernetes, default Text("1000");
    /// Memory that is set aside for a run when its deployment does not say, in mebibytes.
    kubernetes_memory_request_mi: Whole<1, 16_777_216> =
        "kubernetes.memory_request_mi", Kubernetes, default Text("1000"), example "250";
    /// Processor time that the container which brings VDK may use at most, in thousandths of a core.
    kubernetes_vdk_cpu_limit_millicores: Whole<1, 1_024_000> =
        "kubernetes.vdk_cpu_limit_millicores", Kubernetes, default Text("500");
    /// Processor time that is set aside for the container which brings VDK, in thousandths of a core.
    kubernetes_vdk_cpu_request_millicores: Whole<1, 1_024_000> =
        "kubernetes.vdk_cpu_request_millicores", Kubernetes, default Text("100");
    /// Memory that the container which brings VDK may use at most, in mebibytes.
    kubernetes_vdk_memory_limit_mi: Whole<1, 16_777_216> =
        "kubernetes.vdk_memory_limit_mi", Kubernetes, default Text("500");
    /// Memory that is set aside for the container which brings VDK, in mebibytes.
    kubernetes_vdk_memory_request_mi: Whole<1, 16_777_216> =
        "kubernetes.vdk_memory_request_mi", Kubernetes, default Text("100");
    /// How long the result of a run waits in the cluster to be recorded. An outage of this service that is shorter loses
    /// none.
    outage_window_seconds: Whole<600, 604_800> = "outage_window_seconds", Kubernetes, default Text("21600");
    /// Where the images of jobs come from. `embedded`: the service assembles them from `image.base_images`, packages and source.
    /// `prebuilt`: a team's own build pushes them under the name that `image.name` gives.
    image_builder: Option<ImageBuilderName> =
        "image.builder", Kubernetes, default Absent("`embedded` where `image.base_images` is set; else it must be set"),
        example "embedded";
    /// The base images of jobs by Python version. Each has that Python; its tag is best followed by its digest, so that images
    /// are equal in each build. In place of an image, `{ baseImage = "…", vdkImage = "…" }` takes VDK from a container of its
    /// own, as upstream's chart does.
    image_base_images: BaseImages =
        "image.base_images", Kubernetes, default Absent("none"),
        example "\"3.11\" = \"registry.example.com/python:3.11\"";
    /// How the layers of images are compressed.
    image_compression: CompressionName = "image.compression", Kubernetes, default Text("zstd"), example "gzip";
    /// The processors that images are for, as images name them. With several, each image is an index.
    image_architectures: List<Word> =
        "image.architectures", Kubernetes, default Absent("that of the service"), example "amd64,arm64";
    /// The registry that `{registry}` stands for when images are pushed, where the service reaches it by another name than the
    /// nodes.
    image_registry_push_url: Option<RegistryName> =
        "image.registry_push_url", Kubernetes, default Absent("`registry_url`"), example "registry.internal:5000/data-jobs";
    /// A Docker configuration file (`config.json`) with the credentials of registries. Credential helpers are not run.
    image_registry_credentials_file: Option<PathBuf> =
        "image.registry_credentials_file", Kubernetes, default Absent("none: registries are asked without credentials"),
        example "/etc/holdfast/registry/config.json";
    /// Hosts of registries, with their ports, that are reached by plain HTTP.
    image_registry_plain_http: List<Word> =
        "image.registry_plain_http", Kubernetes, default Absent("none"), example "registry.internal:5000";
    /// A file with certificates of authorities, in PEM form, that registries are trusted by beside those of the machine.
    image_registry_ca_file: Option<PathBuf> =
        "image.registry_ca_file", Kubernetes, default Absent("none"), example "/etc/holdfast/registry-ca.pem";
    /// The names of images, with `{registry}`, `{job}`, `{team}`, `{version}` (of the source), `{python}` and `{vdk}`.
    image_template: ImageForm =
        "image.name", Kubernetes, default Text("{registry}/{job}:{version}"),
        example "{registry}/{team}/{job}:{version}";
    /// The registry that `{registry}` stands for, as the nodes of the cluster reach it.
    registry_url: Option<RegistryName> =
        "registry_url", Kubernetes, default Absent("none"), example "registry.example.com/data-jobs";

    /// How long ended executions are kept.
    executions_keep_days: Whole<1, 3_650> = "executions.keep_days", Retention, default Text("14");
    /// How many of a job's latest executions are kept however old they are.
    executions_keep_per_job: Whole<1, 100_000> = "executions.keep_per_job", Retention, default Text("100");
    /// How long the logs of ended executions are kept. A log goes with its execution at the latest.
    logs_keep_days: Whole<1, 3_650> = "logs.keep_days", Retention, default Text("90");
    /// The size of all stored logs above which the oldest are removed, within ten minutes.
    logs_total_max_mib: Whole<16, 1_048_576> = "logs.total_max_mib", Retention, default Text("10240");
    /// How many of a job's latest revisions are kept, and how many of its latest uploads. A revision that is deployed or that a
    /// kept execution ran stays as well, and so does an upload that a kept revision names.
    revisions_keep: Whole<1, 10_000> = "revisions.keep", Retention, default Text("100");
    /// How long what belonged to a deleted job is kept in the database.
    deleted_jobs_keep_days: Whole<0, 3_650> = "deleted_jobs_keep_days", Retention, default Text("7");
    /// How long audit events are kept.
    audit_keep_days: Whole<1, 36_500> = "audit.keep_days", Retention, default Text("400");

    /// How often every deployment is compared with what exists of it. Changes are carried out at once, without waiting
    /// for it.
    sync_sweep_interval_seconds: Whole<1, 86_400> = "sync.sweep_interval_seconds", Synchronizer, default Text("300");
    /// How large a part of all deployments may be removed at once, in percent, when that is more than 20. More waits, and is
    /// told, until there are fewer or this is set higher: nobody may have meant it.
    sync_removals_max_percent: Whole<0, 100> = "sync.removals_max_percent", Synchronizer, default Text("25");
    /// How many deployments are worked on at once.
    sync_parallelism: Whole<1, 1_024> = "sync.parallelism", Synchronizer, default Text("32");
    /// How long the leading instance may be silent before another one takes over.
    lease_seconds: Whole<3, 300> = "lease_seconds", Synchronizer, default Text("15");

    /// Which lines the service writes to its own log.
    log: LogFilter = "log", Telemetry, default Text("info"), example "info,sync=debug";
    /// How it writes them: `text` for people, `json` for machines.
    log_format: LogFormat = "log_format", Telemetry, default Text("text");
    /// Whether `/data-jobs/debug/prometheus` offers metrics.
    metrics_enabled: bool = "metrics_enabled", Telemetry, default Text("true");
    /// An address of its own for `/data-jobs/debug/prometheus`, which is then not at `listen`. The page tells teams, jobs and
    /// mail addresses to everyone who reaches this address, unless `metrics_token_file` is set.
    metrics_listen: Option<Listen> =
        "metrics_listen", Telemetry, default Absent("at `listen`"), example "127.0.0.1:9092";
    /// A file that holds the bearer token which scrapers of `/data-jobs/debug/prometheus` have to send, and nothing else. Mail
    /// addresses are shown only with it or at `metrics_listen`.
    metrics_token_file: Option<PathBuf> =
        "metrics_token_file", Telemetry, default Absent("none"), example "/etc/holdfast/metrics-token";
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
    fn settings_of_a_group_stand_together_in_the_order_of_groups() {
        let groups: Vec<_> = SETTINGS.iter().map(|s| Group::ALL.iter().position(|g| *g == s.group)).collect();
        assert!(groups.is_sorted());
    }
}
