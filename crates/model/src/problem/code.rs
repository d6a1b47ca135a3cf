//! The stable, machine-readable codes of problems. `docs/errors.md` is generated from this file.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Fault, Kind};

/// Defines [`Code`] with everything that is known of each code: its text, its kind, its fault, when it happens (the doc
/// comment) and the way out.
macro_rules! codes {
    ($($group:literal {
        $($(#[doc = $when:literal])+ $name:ident = $text:literal, $kind:ident, $fault:ident, $hint:literal;)+
    })+) => {
        /// The exact kind of a problem. One code per distinct problem; a code never changes its meaning.
        ///
        /// Clients compare codes and not sentences.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub enum Code {
            /// A problem that was stored by a version without codes, or by a newer version whose code this one does not know.
            #[default]
            Unspecified,
            $($($(#[doc = $when])+ $name,)+)+
        }

        impl Code {
            /// Every code with a problem of its own, in the order of the document. Without [`Code::Unspecified`].
            pub const ALL: &[Self] = &[$($(Self::$name,)+)+];

            /// The code as it is on the wire and in the database.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Unspecified => "unspecified",
                    $($(Self::$name => $text,)+)+
                }
            }

            /// The name of the variant in the source.
            pub const fn variant(self) -> &'static str {
                match self {
                    Self::Unspecified => "Unspecified",
                    $($(Self::$name => stringify!($name),)+)+
                }
            }

            /// The kind of all problems with this code.
            pub const fn kind(self) -> Kind {
                match self {
                    Self::Unspecified => Kind::Internal,
                    $($(Self::$name => Kind::$kind,)+)+
                }
            }

            /// The party that has to act.
            pub const fn fault(self) -> Fault {
                match self {
                    Self::Unspecified => Fault::Platform,
                    $($(Self::$name => Fault::$fault,)+)+
                }
            }

            /// When the problem happens, in a sentence or two.
            pub const fn when(self) -> &'static str {
                match self {
                    Self::Unspecified => {
                        "A problem that was stored by a version without codes, or by a newer version whose code this one does \
                         not know."
                    }
                    $($(Self::$name => concat!($($when),+),)+)+
                }
            }

            /// The remedy in general. A problem's fourth field says it with names.
            pub const fn hint(self) -> &'static str {
                match self {
                    Self::Unspecified => "Read the four fields.",
                    $($(Self::$name => $hint,)+)+
                }
            }

            /// Where the problem appears: a heading of the document.
            pub const fn group(self) -> &'static str {
                match self {
                    Self::Unspecified => "Stored problems",
                    $($(Self::$name => $group,)+)+
                }
            }
        }
    };
}

codes! {
"Any request" {
    /// The URL has a path that can't be decoded, for example broken percent-encoding.
    PathUnreadable = "path_unreadable", Invalid, User, "Percent-encode each path segment as UTF-8.";
    /// No operation has this path.
    RouteNotFound = "route_not_found", NotFound, User, "Check the path. The client's `--rest-api-url` has no path, only scheme, host and port.";
    /// The path exists, but has no operation with this HTTP method.
    MethodNotAllowed = "method_not_allowed", Invalid, User, "See the methods of the path in the OpenAPI document.";
    /// A query parameter has a value that it does not accept.
    QueryParameterInvalid = "query_parameter_invalid", Invalid, User, "Send a value that the error body names.";
    /// A body is required and the request has none.
    BodyMissing = "body_missing", Invalid, User, "Send a JSON body.";
    /// The body is not JSON, or a field has the wrong type.
    BodyInvalid = "body_invalid", Invalid, User, "Correct the field that the error body names.";
    /// The body has more bytes than the operation accepts.
    BodyTooLarge = "body_too_large", TooLarge, User, "Send a smaller body.";
    /// The body arrived more slowly than the limit allows.
    BodyTooSlow = "body_too_slow", Invalid, User, "Send it again over a faster connection.";
    /// The connection ended before the whole body arrived.
    BodyIncomplete = "body_incomplete", Invalid, User, "Send it again.";
    /// The header `Content-Type` names a media type that Holdfast does not read.
    MediaTypeUnsupported = "media_type_unsupported", Invalid, User, "Send `application/json`, or `application/octet-stream` for sources.";
    /// A text in the request holds the character U+0000, which the database can't store.
    TextUnstorable = "text_unstorable", Invalid, User, "Remove the character.";
    /// The request has more than one `Host` header.
    HostHeaderRepeated = "host_header_repeated", Invalid, User, "Send one `Host` header.";
    /// The `Host` header is missing or is not a host name.
    HostHeaderInvalid = "host_header_invalid", Forbidden, User, "Send the host name of the service.";
    /// The host name of the request is not one of the service's (protection against DNS rebinding).
    HostNotAllowed = "host_not_allowed", Forbidden, User, "Add the host name to the setting `allowed_hosts`.";
    /// A page of another origin sent the request (protection against cross-site requests).
    CrossSiteRequest = "cross_site_request", Forbidden, User, "Send the request from a client, or from a page of the service itself.";
    /// The header `If-Match` or `If-None-Match` is not `*` or a list of ETags.
    EtagHeaderInvalid = "etag_header_invalid", Invalid, User, "Send the `ETag` of the response that you read before.";
    /// The resource is not in the state that `If-Match` or `If-None-Match` requires. Nothing was changed.
    PreconditionFailed = "precondition_failed", PreconditionFailed, User, "Read the resource again, and retry with its new `ETag`.";
    /// The header `idempotency-key` has the wrong form.
    IdempotencyKeyInvalid = "idempotency_key_invalid", Invalid, User, "Send a random UUID for each request.";
    /// The idempotency key was used before, with another request.
    IdempotencyKeyReused = "idempotency_key_reused", IdempotencyConflict, User, "Use a new key for each request; repeat a request unchanged.";
    /// The stored outcome of a request with this idempotency key can't be read.
    IdempotentOutcomeUnreadable = "idempotent_outcome_unreadable", Internal, Platform, "Read the resource, then retry with a new key if nothing changed.";
    /// The response needs more memory than one request may use.
    ResponseTooLarge = "response_too_large", Invalid, User, "Request smaller pages or fewer fields.";
    /// More requests are in progress than `requests_max` allows.
    TooManyRequests = "too_many_requests", Overloaded, Platform, "Retry after the seconds in `Retry-After`. The operator can raise `requests_max`.";
    /// One caller uses its share (half) of `requests_max`.
    TooManyRequestsOfCaller = "too_many_requests_of_caller", Overloaded, Platform, "Send fewer requests at the same time.";
    /// A transfer or a large query waited too long for one of a limited number of places.
    NoPlaceFree = "no_place_free", Overloaded, Platform, "Retry after the seconds in `Retry-After`.";
    /// A caller sent more uploads, starts or query cost per minute than the setting allows.
    RateLimitExceeded = "rate_limit_exceeded", Overloaded, Platform, "Retry after the seconds in `Retry-After`. The operator can raise the setting that the error body names.";
    /// The requests in progress use all of `memory_budget_mib`.
    MemoryBudgetExhausted = "memory_budget_exhausted", Overloaded, Platform, "Retry after the seconds in `Retry-After`. The operator can raise `memory_budget_mib`.";
    /// The request took longer than the limit of a request. A change may or may not have been made.
    RequestTimeout = "request_timeout", Unavailable, Platform, "Read the resource before you send the request again.";
    /// The service starts and waits for its database.
    ServiceStarting = "service_starting", Unavailable, Platform, "Retry in a few seconds. `GET /readyz` reports when the service is ready.";
    /// The service is shutting down.
    ServiceStopping = "service_stopping", Unavailable, Platform, "Retry in a few seconds.";
    /// A file in `data_dir` can't be written or read.
    TemporaryFileFailed = "temporary_file_failed", Unavailable, Platform, "The operator frees space in `data_dir`.";
    /// A handler failed unexpectedly: a bug in Holdfast.
    InternalError = "internal_error", Internal, Platform, "The operator finds the details in the log under the operation id.";
    /// The request reached a handler without a caller: a bug in Holdfast.
    CallerUnresolved = "caller_unresolved", Internal, Platform, "The operator reports the bug.";
}
"Database" {
    /// The database can't be reached, is full, or did not reply in time.
    DatabaseUnavailable = "database_unavailable", Unavailable, Platform, "Retry. The operator checks the database and `GET /readyz`.";
    /// No connection became free in time, although the database replies.
    DatabaseConnectionsExhausted = "database_connections_exhausted", Overloaded, Platform, "Retry in a few seconds. The operator can raise `database_connections`.";
    /// A statement took longer than its limit because the database is busy.
    DatabaseStatementTimeout = "database_statement_timeout", Overloaded, Platform, "Retry in a few seconds.";
    /// The connection broke during the commit, so the change is stored as a whole or not at all.
    CommitOutcomeUnknown = "commit_outcome_unknown", Unavailable, Platform, "Check whether the change was applied; if not, send the request again.";
    /// A newer version has migrated the database, and this instance is too old for it.
    DatabaseSchemaTooNew = "database_schema_too_new", Unavailable, Platform, "The operator upgrades this instance.";
    /// The file of an encryption key is missing on this instance.
    EncryptionKeyMissing = "encryption_key_missing", Unavailable, Platform, "The operator copies the key file into the folder of keys.";
    /// The database rejected a statement, or holds a value that Holdfast never writes: a bug in Holdfast, or a damaged row.
    DatabaseError = "database_error", Internal, Platform, "The operator finds the details in the log under the operation id.";
}
"Authentication and authorization" {
    /// The request has no access token.
    AccessTokenMissing = "access_token_missing", Unauthenticated, User, "Log in (`vdk login`), or send `Authorization: Bearer <token>`.";
    /// The access token is not a JSON Web Token that Holdfast accepts: form, type, algorithm, size or a claim.
    AccessTokenInvalid = "access_token_invalid", Unauthenticated, User, "Send an access token of a trusted issuer.";
    /// The access token is not signed by a key of a trusted issuer.
    AccessTokenUntrusted = "access_token_untrusted", Unauthenticated, User, "Log in at an issuer that the setting `auth.issuers` names.";
    /// The access token has expired.
    AccessTokenExpired = "access_token_expired", Unauthenticated, User, "Log in again (`vdk login`).";
    /// The access token is not valid yet (`nbf`).
    AccessTokenNotYetValid = "access_token_not_yet_valid", Unauthenticated, User, "Compare the clocks of the issuer and of the service.";
    /// The access token is for another service (`aud`).
    AccessTokenAudienceMismatch = "access_token_audience_mismatch", Unauthenticated, User, "Request a token for an audience that the setting `auth.audiences` names.";
    /// The refresh token is not the credential of a deployed job (at the token endpoint: HTTP 400, `invalid_grant`), or the
    /// token of a job was not issued here.
    JobCredentialInvalid = "job_credential_invalid", Unauthenticated, User, "Deploy the job again; each execution gets its credential automatically.";
    /// A claim or a role that a setting under `auth` requires is missing from the access token.
    RoleMissing = "role_missing", Forbidden, User, "Ask the operator for the role.";
    /// The token is neither a user's nor that of a team's OAuth application.
    UserUnknown = "user_unknown", Forbidden, User, "Store the OAuth application of the team, or ask the operator to set `auth.user_claim`.";
    /// The caller does not belong to the team.
    TeamPermissionDenied = "team_permission_denied", Forbidden, User, "Check the name of the team, or ask the operator for access.";
    /// The token of a job was used for another job, or for an operation that jobs may not call.
    JobTokenScopeExceeded = "job_token_scope_exceeded", Forbidden, User, "Use the token of a user or of a team's OAuth application.";
    /// The authorization webhook denied the request.
    AuthorizationDenied = "authorization_denied", Forbidden, User, "Ask the team that operates the authorization webhook.";
    /// A second team wants jobs on the local runtime, where all jobs run as one operating-system user.
    TeamNotIsolated = "team_not_isolated", Forbidden, User, "Run one service per team, or set `auth.teams_trust_each_other` to true.";
    /// The keys of the token's issuer can't be read.
    IssuerKeysUnavailable = "issuer_keys_unavailable", Unavailable, Platform, "Retry. The operator checks the connection to the issuer.";
    /// The authorization webhook, or the token endpoint for it, gave no usable response.
    AuthorizationWebhookUnavailable = "authorization_webhook_unavailable", Unavailable, Platform, "Retry. The operator checks the webhook (`auth.webhook_url`).";
    /// A token was requested, but authentication is off.
    AuthenticationDisabled = "authentication_disabled", NotFound, User, "Send requests without a token.";
    /// The token endpoint accepts only `grant_type=refresh_token`.
    GrantTypeUnsupported = "grant_type_unsupported", Invalid, User, "Log in at the token endpoint of your organization.";
}
"Jobs" {
    /// The name of a data job breaks a rule: 6 to 50 characters, a-z, 0-9 and hyphens, a letter first.
    JobNameInvalid = "job_name_invalid", Invalid, User, "Choose a name such as `daily-sales-report`.";
    /// The name of a team is empty, too long, or has a slash or a control character.
    TeamNameInvalid = "team_name_invalid", Invalid, User, "Choose a name of 1 to 100 characters without slashes.";
    /// The team has no data job of this name, or the caller may not see it.
    JobNotFound = "job_not_found", NotFound, User, "`vdk list -t <team>` lists the jobs of a team.";
    /// A job of this name exists, in this team or another.
    JobNameTaken = "job_name_taken", Conflict, User, "Choose another name, or use the existing job.";
    /// The request to create a job has no `job_name`.
    JobNameMissing = "job_name_missing", Invalid, User, "Send `job_name` in the body or as a query parameter.";
    /// The body names another job than the URL, and a job can't be renamed.
    JobNameMismatch = "job_name_mismatch", Invalid, User, "Send the same name in the URL and in the body.";
    /// The body names another team than the URL.
    JobTeamMismatch = "job_team_mismatch", Invalid, User, "Send the team of the URL. `PUT …/jobs/<job>/team/<new team>` moves a job.";
    /// The description of a job has too many bytes.
    JobDescriptionTooLong = "job_description_too_long", Invalid, User, "Shorten the description.";
    /// A field of the job's configuration is out of its range.
    JobConfigInvalid = "job_config_invalid", Invalid, User, "Correct the field in config.ini.";
    /// The cron expression of a schedule can't be read.
    ScheduleInvalid = "schedule_invalid", Invalid, User, "Write it like `30 2 * * 1-5`, or `TZ=Europe/Sofia 30 2 * * *`.";
    /// No deleted job of this name is kept for the team.
    DeletedJobNotFound = "deleted_job_not_found", NotFound, User, "`GET …/deleted-jobs` lists the jobs that can be restored.";
    /// The job can't be restored because a new job has its name.
    DeletedJobNameTaken = "deleted_job_name_taken", Conflict, User, "Delete the new job first.";
    /// The job was restored, but not its deployment: its revision is not kept.
    RestoredRevisionMissing = "restored_revision_missing", Conflict, User, "Deploy the job.";
    /// The job was restored, but not its deployment: its sources were removed.
    RestoredSourcesMissing = "restored_sources_missing", Conflict, User, "Upload the sources and deploy them.";
    /// The job's configuration says `generate_keytab = false`.
    KeytabDisabled = "keytab_disabled", NotFound, User, "Set `generate_keytab = true` in config.ini if the job needs Kerberos.";
    /// The properties of a job have too many bytes.
    PropertiesTooLarge = "properties_too_large", TooLarge, User, "Keep large state in a table or a file.";
    /// The stored properties are damaged.
    PropertiesUnreadable = "properties_unreadable", Internal, Platform, "The operator restores a backup, or the user writes the properties again.";
    /// The secrets of a job have too many bytes.
    SecretsTooLarge = "secrets_too_large", TooLarge, User, "Keep large files elsewhere, and only their passwords here.";
    /// The stored secrets are damaged.
    SecretsUnreadable = "secrets_unreadable", Internal, Platform, "The operator restores a backup, or the user writes the secrets again.";
    /// The OAuth credentials of a team are blank, too long or have a control character.
    OauthCredentialsInvalid = "oauth_credentials_invalid", Invalid, User, "Correct the field that the error body names.";
    /// Another team has the OAuth application with this client id.
    OauthClientTaken = "oauth_client_taken", Conflict, User, "Use one OAuth application per team.";
    /// No OAuth credentials are stored for the team.
    OauthCredentialsNotFound = "oauth_credentials_not_found", NotFound, User, "Check the name of the team, or store its credentials.";
    /// A request looks up too many client ids.
    OauthClientsTooMany = "oauth_clients_too_many", Invalid, User, "Split the lookup into several requests.";
}
"Sources and deployments" {
    /// The upload is not a ZIP archive with one top folder and plain files.
    SourcesInvalid = "sources_invalid", Invalid, User, "`vdk deploy -p <folder>` packs the folder as required.";
    /// The upload exceeds a limit: bytes, files, folders or depth.
    SourcesTooLarge = "sources_too_large", TooLarge, User, "Leave data, virtual environments and build results out of the job's folder.";
    /// The reason of an upload or a removal has too many bytes.
    SourcesReasonTooLong = "sources_reason_too_long", Invalid, User, "Shorten the reason.";
    /// No sources are stored for the job.
    SourcesNotFound = "sources_not_found", NotFound, User, "`vdk deploy -n <job> -t <team> -p <folder> -r <reason>`.";
    /// The sources were removed while they were downloaded.
    SourcesRemovedDuringDownload = "sources_removed_during_download", NotFound, User, "Upload the sources again.";
    /// The upload could not be written, or read again.
    SourcesStorageFailed = "sources_storage_failed", Internal, Platform, "Upload again. The operator checks `data_dir` and the log.";
    /// Packing the sources in their normal form failed.
    SourcesPackingFailed = "sources_packing_failed", Unavailable, Platform, "Upload again. The operator checks `data_dir`.";
    /// A file of the upload changed while it was packed: a damaged disk, or a bug in Holdfast.
    SourcesChanged = "sources_changed", Internal, Platform, "Upload again.";
    /// The version of the sources is not 40 hexadecimal digits.
    SourceVersionInvalid = "source_version_invalid", Invalid, User, "Send the `version_sha` that the upload returned.";
    /// No sources of this version are stored for the job.
    SourceVersionUnknown = "source_version_unknown", Conflict, User, "Upload the sources, and send the `version_sha` that the upload returns.";
    /// The first deployment of a job has no `job_version`.
    DeploymentVersionMissing = "deployment_version_missing", Conflict, User, "`vdk deploy -p <folder>` uploads the sources and deploys them.";
    /// The only deployment id is `production`.
    DeploymentIdUnknown = "deployment_id_unknown", NotFound, User, "Use the deployment id `production`.";
    /// The job has no deployment.
    DeploymentNotFound = "deployment_not_found", NotFound, User, "`vdk deploy -n <job> -t <team> -p <folder> -r <reason>`.";
    /// A Python version is not written as major and minor number.
    PythonVersionInvalid = "python_version_invalid", Invalid, User, "Write it like `3.11`.";
    /// The service does not offer this Python version.
    PythonVersionUnsupported = "python_version_unsupported", Conflict, User, "Choose a version that `vdk info -t <team>` lists.";
    /// A VDK version is not the version of a package.
    VdkVersionInvalid = "vdk_version_invalid", Invalid, User, "Write it like `0.2.1810444937`, or leave it out.";
    /// A CPU or memory amount is out of range.
    ResourcesInvalid = "resources_invalid", Invalid, User, "Send an amount in the range that the error body names.";
    /// A resource request is above its limit.
    ResourceRequestAboveLimit = "resource_request_above_limit", Conflict, User, "Send request and limit together, with the request not above the limit.";
    /// The deployment has no revision of this number.
    RevisionNotFound = "revision_not_found", NotFound, User, "`GET …/deployments/production/revisions` lists the revisions.";
    /// A rollback needs sources that were removed.
    RevisionSourcesRemoved = "revision_sources_removed", Conflict, User, "Upload the sources again; the same content has the same version.";
    /// A rollback needs a Python version that the service no longer offers.
    RevisionPythonUnsupported = "revision_python_unsupported", Conflict, User, "Deploy those sources with a supported Python version.";
}
"Executions" {
    /// The job has an active execution, and a job runs once at a time.
    ExecutionAlreadyActive = "execution_already_active", Conflict, User, "Wait for the active execution, or cancel it: `vdk execute --cancel -n <job> -t <team> -i <id>`.";
    /// The arguments of an execution have too many bytes.
    ExecutionArgumentsTooLarge = "execution_arguments_too_large", TooLarge, User, "Pass large input through a file, a table or the job's properties.";
    /// `started_by` is too long or has a control character.
    ExecutionStartedByInvalid = "execution_started_by_invalid", Invalid, User, "Shorten `started_by`.";
    /// The job has no execution with this id, or it was removed by retention.
    ExecutionNotFound = "execution_not_found", NotFound, User, "`vdk execute --list -n <job> -t <team>` lists the executions of a job.";
    /// An execution can't be cancelled because it has ended.
    ExecutionAlreadyEnded = "execution_already_ended", Invalid, User, "No action needed. `vdk execute --show -n <job> -t <team> -i <id>` shows the result.";
    /// A filter names an execution status that does not exist.
    ExecutionStatusUnknown = "execution_status_unknown", NotFound, User, "Use a status that the error body lists.";
    /// The log of an active local execution is on another host than this instance.
    ExecutionLogOnAnotherHost = "execution_log_on_another_host", Conflict, User, "Wait for the end of the execution, or ask an instance on the host that runs jobs.";
    /// The stored log could not be copied for the response.
    ExecutionLogUnreadable = "execution_log_unreadable", Unavailable, Platform, "Retry. The operator checks `data_dir`.";
}
"Queries and pages" {
    /// The GraphQL query, its variables, a filter or a page is not valid.
    GraphqlQueryInvalid = "graphql_query_invalid", Invalid, User, "Correct the part that the error body names. `GET /data-jobs/graphql` opens an explorer with the schema.";
    /// The GraphQL query exceeds a limit: fields, pages or rows.
    GraphqlQueryTooLarge = "graphql_query_too_large", Invalid, User, "Request fewer fields, smaller pages or fewer pages per query.";
    /// The database took too long for a query or list.
    QueryTooExpensive = "query_too_expensive", Invalid, User, "Use fewer or longer filters, one team, or smaller pages.";
    /// Too many large GraphQL responses are being built.
    GraphqlLargeResponsesBusy = "graphql_large_responses_busy", Overloaded, Platform, "Retry in a few seconds, or request smaller pages.";
    /// Metrics have a listener of their own.
    MetricsOnOtherListener = "metrics_on_other_listener", NotFound, User, "Scrape the address of the setting `metrics_listen`.";
    /// Metrics are switched off.
    MetricsDisabled = "metrics_disabled", NotFound, User, "Set `metrics_enabled = true` and restart the service.";
    /// The request for metrics has no valid token.
    MetricsTokenInvalid = "metrics_token_invalid", Unauthenticated, User, "Have the scraper send the token of `metrics_token_file` as `Authorization: Bearer <token>`.";
    /// Rendering the metrics failed.
    MetricsFailed = "metrics_failed", Internal, Platform, "Scrape again. The operator finds the details in the log.";
    /// The Swagger UI page has no file of this name.
    PageFileNotFound = "page_file_not_found", NotFound, User, "Open `/data-jobs/swagger-ui.html`.";
    /// A file of Swagger UI within the program is damaged.
    PageFileDamaged = "page_file_damaged", Internal, Platform, "The operator installs the program again.";
}
"Start-up" {
    /// `listen` is reachable from other machines and `auth.audiences` is not set.
    ListenWithoutAudiences = "listen_without_audiences", Forbidden, User, "Set `auth.audiences`.";
    /// `listen` is reachable from other machines, without authentication or with the local runtime.
    ListenUnsafe = "listen_unsafe", Forbidden, User, "Keep `listen` on 127.0.0.1, or pass `--insecure`.";
    /// The data directory can't be used.
    DataDirUnusable = "data_dir_unusable", Unavailable, Platform, "Set `data_dir` to a folder that the service can write to.";
    /// The setting `image.name` is not the name of an image.
    ImageNameInvalid = "image_name_invalid", Invalid, User, "Write it like `registry.example.com/jobs/{job}:{version}`.";
}
"Rollouts: packages" {
    /// requirements.txt has a line that is not a package with a version.
    RequirementsInvalid = "requirements_invalid", Invalid, User, "Write each package like `requests>=2.31`.";
    /// requirements.txt has too many bytes or lines.
    RequirementsTooLarge = "requirements_too_large", TooLarge, User, "Remove requirements that others bring along.";
    /// The installer found no set of packages for the requirements.
    PackagesUnresolvable = "packages_unresolvable", Invalid, User, "Correct requirements.txt or the VDK version, and deploy again.";
    /// The installer failed because of the package index, the network or the disk.
    PackageInstallerFailed = "package_installer_failed", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, the operator checks the package index, the network and the disk.";
    /// The installer took longer than its limit.
    PackageInstallerTimeout = "package_installer_timeout", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, the operator checks the package index.";
    /// The installer could not be started.
    PackageInstallerNotStarted = "package_installer_not_started", Unavailable, Platform, "The operator checks the process limits and the log.";
    /// The configured `uv` does not run or has an unsupported version.
    PackageInstallerUnsupported = "package_installer_unsupported", Internal, Platform, "The operator corrects the setting `uv`, or removes it.";
    /// The machine has neither `uv` nor a Python to install it with.
    PackageInstallerMissing = "package_installer_missing", Unavailable, Platform, "The operator installs uv, or Python 3.8 or later.";
    /// The installer returned something that is not a lock of packages.
    PackageLockInvalid = "package_lock_invalid", Internal, Platform, "The operator reports the bug with the log.";
    /// The inputs of a package build can't be read: a bug in Holdfast, or a damaged row.
    PackageInputsUnreadable = "package_inputs_unreadable", Internal, Platform, "Deploy again.";
    /// A package has no wheel for this Python, and package builds are off.
    PackageWheelMissing = "package_wheel_missing", Invalid, User, "Require versions with wheels. The operator can set `python.allow_builds = true`.";
    /// A package has neither a wheel for this Python nor a source with the locked hash.
    PackageSourceMissing = "package_source_missing", Invalid, User, "Require another version of the package.";
    /// A package did not build.
    PackageBuildFailed = "package_build_failed", Invalid, User, "Require a version with a wheel, or one that builds in the sandbox.";
    /// A package took longer to build than the limit.
    PackageBuildTimeout = "package_build_timeout", Invalid, User, "Require a version of the package that has a wheel.";
    /// A package build used more disk than `python.build_disk_max_mib`.
    PackageBuildDiskExceeded = "package_build_disk_exceeded", TooLarge, User, "Require a version with a wheel. The operator can raise `python.build_disk_max_mib`.";
    /// A wheel is larger than `python.build_disk_max_mib` when unpacked.
    PackageWheelTooLarge = "package_wheel_too_large", TooLarge, User, "Require a smaller version. The operator can raise `python.build_disk_max_mib`.";
    /// A package build left no usable result.
    PackageBuildOutputUnusable = "package_build_output_unusable", Invalid, User, "Require another version of the package.";
    /// A build hook of a package changed the lock.
    PackageBuildTampered = "package_build_tampered", Invalid, User, "Require packages with wheels, or other versions.";
    /// The sandbox for package builds can't be used on this machine.
    PackageSandboxUnavailable = "package_sandbox_unavailable", Internal, Platform, "The operator checks user namespaces and the log, or sets `python.allow_builds = false`.";
    /// The proxy to the package index can't listen.
    PackageIndexProxyFailed = "package_index_proxy_failed", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, the operator checks the limit of open files.";
    /// A file of the package cache can't be written, read or locked.
    PackageCacheFailed = "package_cache_failed", Unavailable, Platform, "The operator frees space in the data directory and checks its permissions.";
    /// The Python version of the deployment is not installed on this machine.
    PythonNotInstalled = "python_not_installed", Unavailable, Platform, "Deploy with an installed version. The operator can install this one.";
    /// The packages are for another Python than the interpreter: a bug in Holdfast.
    PackagePythonMismatch = "package_python_mismatch", Internal, Platform, "Deploy again. The operator reports the bug.";
    /// The VDK package has no command `vdk`.
    VdkCommandMissing = "vdk_command_missing", Internal, Platform, "Deploy with another VDK version. The operator checks `vdk.distribution` and `vdk.version`.";
    /// VDK does not start with the installed packages.
    VdkStartFailed = "vdk_start_failed", Invalid, User, "Remove or change the requirement that the message names.";
    /// The built wheels of VDK are missing or can't be read.
    VdkWheelsUnreadable = "vdk_wheels_unreadable", Internal, Platform, "No action needed: Holdfast builds them again.";
    /// The build stopped because of a bug in Holdfast.
    BuildFailedInternally = "build_failed_internally", Internal, Platform, "The operator finds the details in the log.";
    /// The deployment needs sources that are not in the database.
    RolloutSourcesMissing = "rollout_sources_missing", Internal, Platform, "Upload the sources again and deploy them.";
}
"Rollouts: Kubernetes and the local runtime" {
    /// A CronJob of the job's name exists and is not managed by Holdfast.
    CronJobUnmanaged = "cron_job_unmanaged", Conflict, Platform, "Delete or rename that CronJob, or let Holdfast adopt it (`kubernetes.adopt`).";
    /// The CronJob is being deleted and is not gone yet.
    CronJobBeingDeleted = "cron_job_being_deleted", Unavailable, Platform, "No action needed: Holdfast recreates the CronJob when it is gone.";
    /// Another field manager keeps changing a field of the CronJob.
    CronJobFieldConflict = "cron_job_field_conflict", Unavailable, Platform, "Stop the other field manager, or add the field to `kubernetes.ignore_paths`.";
    /// Others changed the CronJob each time that Holdfast wrote it.
    CronJobWriteConflict = "cron_job_write_conflict", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, find and stop the other writer of the CronJob.";
    /// The API server can't be reached.
    ClusterUnreachable = "cluster_unreachable", Unavailable, Platform, "No action needed: Holdfast retries. The operator checks the connection to the cluster.";
    /// The API server rejects a field that the user set.
    ClusterFieldInvalid = "cluster_field_invalid", Invalid, User, "Change that field in the deployment.";
    /// The API server rejects an object because of the template or the settings.
    ClusterObjectInvalid = "cluster_object_invalid", Unavailable, Platform, "The operator corrects the CronJob template and the settings under `kubernetes`.";
    /// A quota of the namespace is exhausted.
    ClusterQuotaExceeded = "cluster_quota_exceeded", Unavailable, Platform, "The operator raises the quota, or removes objects that are not needed.";
    /// An admission webhook or policy denied the object.
    ClusterAdmissionDenied = "cluster_admission_denied", Unavailable, Platform, "The operator changes that rule or the CronJob template.";
    /// The service's role in the cluster lacks a permission.
    ClusterPermissionDenied = "cluster_permission_denied", Unavailable, Platform, "The operator compares the role with `charts/holdfast/files/role.yaml`.";
    /// An object or the namespace does not exist.
    ClusterObjectMissing = "cluster_object_missing", Unavailable, Platform, "The operator creates the namespace; Holdfast recreates its objects.";
    /// The API server returned another error.
    ClusterError = "cluster_error", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, the operator checks the cluster.";
    /// A Secret of this name exists and is not managed by Holdfast.
    SecretUnmanaged = "secret_unmanaged", Unavailable, Platform, "The operator deletes the Secret, or finds out who created it.";
    /// The file with the credentials for pulling images can't be read, or is no Docker configuration file.
    PullCredentialsUnusable = "pull_credentials_unusable", Unavailable, Platform, "The operator corrects the file of `image.pull_credentials_file`.";
    /// Another instance has become leader since; the fencing policy rejects writes of this one.
    LeaderEpochOutdated = "leader_epoch_outdated", Conflict, Platform, "No action needed if another instance leads. After a restore of the database, delete the ConfigMap `holdfast-epoch` once no former instance runs.";
    /// Others changed the ConfigMap `holdfast-epoch` each time that Holdfast wrote it.
    LeaderEpochWriteConflict = "leader_epoch_write_conflict", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, find the other writer of the ConfigMap.";
    /// The artifact of a deployment is of the other runtime: packages in a cluster, or an image on one machine.
    ArtifactMismatch = "artifact_mismatch", Internal, Platform, "Deploy again.";
    /// The environment of a deployment can't be read from the disk.
    EnvironmentUnreadable = "environment_unreadable", Unavailable, Platform, "The operator checks the disk and the permissions of the data directory.";
}
"Rollouts: images" {
    /// The deployment's Python version has no base image in `image.base_images`.
    ImageBaseMissing = "image_base_missing", Invalid, User, "Deploy with a Python version that has a base image; the operator sets `image.base_images`.";
    /// A package has no wheel for the platform of the image. Images are assembled from wheels only.
    ImagePackageWithoutWheel = "image_package_without_wheel", Invalid, User, "Require a version of the package with a wheel for this platform.";
    /// A file of the sources or of a package can't be part of an image, for example a link out of its folder.
    ImageContentRejected = "image_content_rejected", Invalid, User, "Change the file or the requirement that is named, and deploy again.";
    /// The base image can't be used: it is not in the registry, is for another platform, or has no Python.
    ImageBaseUnusable = "image_base_unusable", Unavailable, Platform, "The operator corrects `image.base_images`.";
    /// A layer of an image could not be written to the cache folder.
    ImageLayerNotWritten = "image_layer_not_written", Unavailable, Platform, "The operator checks the disk of `cache_dir`.";
    /// A build was requested by another version of Holdfast.
    ImageBuildOutdated = "image_build_outdated", Unavailable, Platform, "No action needed: Holdfast requests the build again.";
    /// The inputs of a stored build can't be read.
    ImageBuildUnreadable = "image_build_unreadable", Internal, Platform, "The operator reports the bug with the log.";
    /// The registry rejects the service's credentials, or they may not pull or push there.
    RegistryAccessDenied = "registry_access_denied", Unavailable, Platform, "The operator corrects the credentials in `image.registry_credentials_file`.";
    /// The registry has no room for a layer, or its quota is exhausted.
    RegistryFull = "registry_full", Unavailable, Platform, "The operator makes room in the registry, or raises its quota.";
    /// The registry does not answer, is too busy, or limits the rate of requests.
    RegistryUnreachable = "registry_unreachable", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, the operator checks the registry.";
    /// The registry rejected a request, or its response is not that of a registry.
    RegistryResponseInvalid = "registry_response_invalid", Unavailable, Platform, "The operator checks `registry_url` and `image.base_images`.";
}
"Executions that do not start or are not seen" {
    /// The CronJob of the deployment does not exist.
    CronJobMissing = "cron_job_missing", Unavailable, Platform, "No action needed: Holdfast recreates the CronJob and retries.";
    /// A Job of the execution's name exists that Holdfast did not create, or that is being deleted.
    JobObjectUnmanaged = "job_object_unmanaged", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, delete that Job.";
    /// The Job was deleted before it started.
    JobObjectDeleted = "job_object_deleted", Unavailable, Platform, "No action needed: Holdfast recreates the Job.";
    /// No node has room for the pod.
    PodUnschedulable = "pod_unschedulable", Unavailable, Platform, "Lower `cpu_request` and `memory_request`, or ask the operator for nodes.";
    /// The image can't be pulled.
    ImageUnavailable = "image_unavailable", Unavailable, Platform, "Push the image, or ask the operator to check the pull secret.";
    /// The configuration of the container is not valid.
    ContainerConfigInvalid = "container_config_invalid", Unavailable, Platform, "The operator checks what the CronJob template refers to.";
    /// The container can't be created or started.
    ContainerNotCreated = "container_not_created", Unavailable, Platform, "Check that the image has the command that it is started with.";
    /// A Secret lacks a key that the pod needs.
    SecretIncomplete = "secret_incomplete", Unavailable, Platform, "No action needed for Secrets of Holdfast: it writes them again. The operator completes others.";
    /// A Secret or ConfigMap that the pod needs does not exist.
    PodDependencyMissing = "pod_dependency_missing", Unavailable, Platform, "The operator creates it in the namespace of the jobs.";
    /// A volume of the pod can't be mounted.
    VolumeNotMounted = "volume_not_mounted", Unavailable, Platform, "The operator checks the volumes of the CronJob template.";
    /// The pod would exceed a quota or limit range of the namespace.
    PodQuotaExceeded = "pod_quota_exceeded", Unavailable, Platform, "Wait for other executions, lower the resources, or ask the operator to raise the quota.";
    /// The cluster rejects the pod.
    PodRejected = "pod_rejected", Unavailable, Platform, "The operator finds the rule that rejects it.";
    /// Data of an execution can't be removed because it has not ended.
    ExecutionStillActive = "execution_still_active", Conflict, Platform, "No action needed: Holdfast removes it after its end.";
    /// The revision of a waiting execution is not kept any more.
    ExecutionRevisionMissing = "execution_revision_missing", NotFound, User, "Start the job again.";
    /// The sources of a waiting execution were removed.
    ExecutionSourcesRemoved = "execution_sources_removed", NotFound, User, "Deploy the job, then start it again.";
    /// The stored sources can't be unpacked.
    ExecutionSourcesUnusable = "execution_sources_unusable", Invalid, User, "Deploy the job again.";
    /// The sources can't be written to the disk.
    ExecutionSourcesNotWritten = "execution_sources_not_written", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, the operator frees space in the data directory.";
    /// The folder of a local execution can't be created, read or written.
    ExecutionFolderFailed = "execution_folder_failed", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, the operator checks the data directory.";
    /// The environment of the deployment is missing on this machine.
    EnvironmentMissing = "environment_missing", Unavailable, Platform, "No action needed: Holdfast recreates the environment, then starts the execution.";
    /// The supervisor of a local execution did not start.
    SupervisorNotStarted = "supervisor_not_started", Unavailable, Platform, "No action needed: Holdfast retries. If it persists, the operator checks the process limits and the log.";
    /// A task of the local runtime ended early: a bug in Holdfast.
    LocalRuntimeFailed = "local_runtime_failed", Internal, Platform, "The operator finds the details in the log.";
}
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    /// Reads a code. One that a newer version wrote is [`Code::Unspecified`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self::ALL.iter().copied().find(|code| code.as_str() == text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_code_is_the_name_of_its_variant_in_snake_case_and_says_when_it_happens_and_what_to_do() {
        let mut seen = BTreeSet::new();
        for code in Code::ALL {
            let mut snake = String::new();
            for c in code.variant().chars() {
                if c.is_ascii_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
            }
            assert_eq!(code.as_str(), snake);
            assert!(seen.insert(code.as_str()), "{code} is there twice");
            for text in [code.when().trim(), code.hint()] {
                assert!(text.ends_with('.') && text.len() > 10, "{code}: {text:?}");
            }
        }
    }

    #[test]
    fn a_code_that_this_version_does_not_know_is_read_as_unspecified() {
        let read = |text: &str| serde_json::from_str::<Code>(text).unwrap();
        assert_eq!(read("\"job_not_found\""), Code::JobNotFound);
        assert_eq!(read("\"a_code_of_a_later_version\""), Code::Unspecified);
        assert_eq!(serde_json::to_string(&Code::JobNotFound).unwrap(), "\"job_not_found\"");
    }
}
