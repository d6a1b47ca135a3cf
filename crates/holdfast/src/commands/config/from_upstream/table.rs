//! Each value of upstream's chart, in its order, and its counterpart.

use super::convert::{
    Convert, as_text, base_images, days, first_host, list, lower_case, mebibytes, millicores, number,
    principal_pattern, same, switch, url_template,
};

/// The counterpart of a value of upstream's chart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Counterpart {
    /// A value of Holdfast's chart; `config.` begins the path of a setting.
    Value(&'static str, Convert),
    /// An object that the operator creates, or a decision.
    ByHand(&'static str),
    /// Nothing, because there is no such part.
    NotNeeded(&'static str),
    /// Nothing, although a value of the part may be missed.
    None(&'static str),
}

/// A value, or a group of values, of upstream's chart.
#[derive(Debug)]
pub(super) struct Entry {
    /// The path of its keys. `*` at its end stands for all keys that begin so.
    pub(super) key: &'static str,
    pub(super) counterpart: Counterpart,
    /// How the value changes.
    pub(super) remark: Option<&'static str>,
}

const fn value(key: &'static str, target: &'static str, convert: Convert) -> Entry {
    Entry { key, counterpart: Counterpart::Value(target, convert), remark: None }
}

const fn converted(key: &'static str, target: &'static str, convert: Convert, remark: &'static str) -> Entry {
    Entry { key, counterpart: Counterpart::Value(target, convert), remark: Some(remark) }
}

const fn by_hand(key: &'static str, what: &'static str) -> Entry {
    Entry { key, counterpart: Counterpart::ByHand(what), remark: None }
}

const fn not_needed(key: &'static str, why: &'static str) -> Entry {
    Entry { key, counterpart: Counterpart::NotNeeded(why), remark: None }
}

const fn none(key: &'static str, why: &'static str) -> Entry {
    Entry { key, counterpart: Counterpart::None(why), remark: None }
}

const NO_GIT: &str = "sources are in the database; `config.source_url_template` links to a repository of your own";
const NO_BUILDER: &str = "images are assembled in the service, without builder pods";
const NO_MAILS: &str = "Holdfast sends no mails; route the alerts of the metrics";
const NO_ECR: &str = "tokens of ECR expire and are not renewed; use a registry with lasting credentials";
const NO_HOOKS: &str = "no webhook is called after the creation or deletion of a job";
const NO_UPLOAD_RULES: &str = "uploads are not filtered by type";
const NO_KERBEROS: &str = "Kerberos is not supported";
const NO_EXPOSURE: &str = "use an Ingress or a Gateway";
const NO_PAGE: &str = "there is no separate web page";
const PUSH: &str =
    "create a Secret of the type `kubernetes.io/dockerconfigjson`, and name it in `registry.credentialsSecret`";
const PULL: &str = "create a pull Secret in the namespace of jobs, and name it in `config.kubernetes.pull_secrets`";
const OPERATOR: &str = "set it in a ServiceMonitor of your own";
const LIMITS: &str = "create the object in the namespace of jobs yourself; Holdfast has no right to";

pub(super) const MAPPING: &[Entry] = &[
    not_needed("global", "`image.repository` contains the registry"),
    value("image.pullPolicy", "image.pullPolicy", same),
    by_hand("image.registry*Only", "create a pull Secret, and name it in `image.pullSecrets`"),
    not_needed("image.*", "another image: `image.repository` and `image.tag`"),
    none("operationsUi.*", NO_PAGE),
    by_hand("deploymentBuilderImage.username", PULL),
    by_hand("deploymentBuilderImage.password", PULL),
    not_needed("deploymentBuilderImage.*", NO_BUILDER),
    not_needed("deploymentBuilder.*", NO_BUILDER),
    not_needed("nameOverride", "`fullnameOverride` sets the name of all objects"),
    value("fullnameOverride", "fullnameOverride", same),
    not_needed("service.internalPort", "always 8092"),
    value("service.type", "service.type", same),
    none("service.*", NO_EXPOSURE),
    none("nginx.*", NO_PAGE),
    value("ingress.enabled", "ingress.enabled", switch),
    value("ingress.annotations", "ingress.annotations", same),
    converted("ingress.hosts", "ingress", first_host, "the first host, as `ingress.host`; one rule for all paths"),
    not_needed("ingress.tls", "`ingress.tlsSecret` turns TLS on"),
    value("ingress.tlsSecretName", "ingress.tlsSecret", same),
    value("ingress.className", "ingress.className", same),
    not_needed("server.*", "the size of headers is limited"),
    none("credentials.kerberos*", NO_KERBEROS),
    not_needed("credentials.repository", "Holdfast creates an empty keytab Secret per job, and keeps existing ones"),
    converted("credentials.principalPattern", "config.vdk.principal_pattern", principal_pattern, "`{job}` for the job"),
    none("notification*", NO_MAILS),
    converted("deploymentK8sNamespace", "jobs.namespace", same, "required, and not that of the service"),
    by_hand(
        "deploymentK8sKubeconfig",
        "mount a Secret with the kubeconfig (`extraVolumes`, `extraVolumeMounts`), name the file in KUBECONFIG (`extraEnv`), \
         and create the role of `charts/holdfast/files/role.yaml` in that cluster",
    ),
    not_needed("controlK8sNamespace", NO_BUILDER),
    not_needed("deploymentGit*", NO_GIT),
    not_needed("uploadGit*", NO_GIT),
    none("uploadValidation*", NO_UPLOAD_RULES),
    converted("deploymentDockerRepository", "config.image.registry_push_url", same, "where images are pushed"),
    converted("proxyRepositoryURL", "config.registry_url", same, "where nodes pull images"),
    not_needed("deploymentDockerRegistryType", "every registry with the OCI interface, with user and password"),
    none("deploymentEcr*", NO_ECR),
    by_hand("deploymentDockerRegistry*ReadOnly", PULL),
    by_hand("deploymentDockerRegistry*", PUSH),
    not_needed("jfrog*", "whether an image exists is read from the registry"),
    by_hand("deploymentVdkDistributionImage.registry*Only", PULL),
    not_needed("deploymentVdkDistributionImage.*", "`config.image.base_images` has whole names"),
    by_hand("deploymentDataJobBaseImage.username", PUSH),
    by_hand("deploymentDataJobBaseImage.password", PUSH),
    not_needed("deploymentDataJobBaseImage.*", "`config.image.base_images` has whole names"),
    converted(
        "deploymentSupportedPythonVersions",
        "config.image.base_images",
        base_images,
        "without `builderImage`; name images by digest",
    ),
    value("deploymentDefaultPythonVersion", "config.python.version", as_text),
    by_hand(
        "vdkOptions",
        "create a Secret with the text under the key `vdk_options.ini`, and name it in `jobs.options.existingSecret`",
    ),
    converted(
        "deploymentDefaultDataJobsResources.limits.cpu",
        "config.kubernetes.cpu_limit_millicores",
        millicores,
        "thousandths of a core",
    ),
    converted(
        "deploymentDefaultDataJobsResources.limits.memory",
        "config.kubernetes.memory_limit_mi",
        mebibytes,
        "mebibytes",
    ),
    converted(
        "deploymentDefaultDataJobsResources.requests.cpu",
        "config.kubernetes.cpu_request_millicores",
        millicores,
        "thousandths of a core",
    ),
    converted(
        "deploymentDefaultDataJobsResources.requests.memory",
        "config.kubernetes.memory_request_mi",
        mebibytes,
        "mebibytes",
    ),
    not_needed("deploymentBuilderResourcesDefault.*", NO_BUILDER),
    value("deploymentAdditionalLabels", "podLabels", same),
    none("webHooks.*", NO_HOOKS),
    not_needed("security.enabled", "authentication is on if `config.auth.issuers` is set"),
    converted("security.oauth2.jwtJwkSetUri", "config.auth.jwks_urls", list, "one per issuer"),
    converted("security.oauth2.jwtIssuerUrl", "config.auth.issuers", list, "a list; set `config.auth.audiences` too"),
    converted("security.oauth2.jwtIssuerUris", "config.auth.issuers", list, "a list; set `config.auth.audiences` too"),
    none("security.kerberos.*", NO_KERBEROS),
    not_needed("security.authorizationEnabled", "authorization is on if a role, a claim or a webhook is set"),
    value("security.authorization.webhookUri", "config.auth.webhook_url", same),
    by_hand(
        "security.authorization.webhookAuthenticationEnabled",
        "set `config.auth.webhook_token_url`, or `config.auth.webhook_forward_token` for the user's own token",
    ),
    value("security.authorization.webhookAuthorizationServerEndpoint", "config.auth.webhook_token_url", same),
    by_hand(
        "security.authorization.webhookAuthorizationRefreshToken",
        "create a Secret with the token, and name it in `webhookToken.existingSecret`",
    ),
    value("security.authorization.jwtClaimUsername", "config.auth.user_claim", same),
    value("security.authorization.customClaimName", "config.auth.custom_claim", same),
    converted("security.authorization.authorizedCustomClaimValues", "config.auth.custom_claim_values", list, "a list"),
    value("security.authorization.authoritiesClaimName", "config.auth.authorities_claim", same),
    converted("security.authorization.authorizedRoles", "config.auth.authorized_roles", list, "a list"),
    value("replicas", "replicas", number),
    value("resources", "resources", same),
    value("poddisruptionbudget.enabled", "podDisruptionBudget.enabled", switch),
    none("poddisruptionbudget.metadata.*", "its labels are those of the chart"),
    value("poddisruptionbudget.minAvailable", "podDisruptionBudget.minAvailable", number),
    by_hand("datajobslimitrange.*", LIMITS),
    by_hand("datajobsresourcequota.*", LIMITS),
    by_hand(
        "postgresql.*",
        "no database is installed: bring PostgreSQL 14 or later, and name a Secret with its URL in `database.existingSecret`",
    ),
    none("cockroachdb.*", "CockroachDB is not supported; bring PostgreSQL 14 or later"),
    by_hand(
        "database.*",
        "create a Secret with the URL of a PostgreSQL database, and name it in `database.existingSecret`",
    ),
    value("metrics.enabled", "config.metrics_enabled", switch),
    value("metrics.serviceMonitor.enabled", "metrics.serviceMonitor.enabled", switch),
    value("metrics.serviceMonitor.interval", "metrics.serviceMonitor.interval", same),
    none("metrics.serviceMonitor.*", OPERATOR),
    value("alerting.enabled", "metrics.prometheusRule.enabled", switch),
    value("alerting.prometheusRule.additionalLabels", "metrics.prometheusRule.labels", same),
    by_hand(
        "alerting.prometheusRule.*",
        "Holdfast has the same metrics of jobs: apply rules of your own in a PrometheusRule of your own",
    ),
    not_needed("monitoringSync.*", "executions are followed by watches"),
    not_needed("rbac.create", "the service has no rights in its own namespace"),
    value("rbac.datajobsDeployment.create", "rbac.create", switch),
    value("serviceAccount.create", "serviceAccount.create", switch),
    value("serviceAccount.name", "serviceAccount.name", same),
    by_hand("extraVars", "variables of upstream's service: set the settings that they stand for"),
    by_hand("extraEnvVars", "variables of upstream's service: set the settings that they stand for"),
    not_needed("livenessProbe.*", "the probes fit a service that is ready within seconds"),
    not_needed("readinessProbe.*", "the probes fit a service that is ready within seconds"),
    not_needed("startupProbe.*", "the probes fit a service that is ready within seconds"),
    none("custom*", "the probes are those of the chart"),
    not_needed("datajobTemplate.enabled", "`jobs.template` is used if it is set"),
    value("datajobTemplate.template", "jobs.template", same),
    not_needed("fluentd.*", "pods log JSON lines on standard error, for any collector"),
    value("dataJob.readOnlyRootFileSystem", "config.kubernetes.read_only_root_filesystem", switch),
    converted(
        "dataJob.executions.cleanupTask.maximumExecutionsToStore",
        "config.executions.keep_per_job",
        number,
        "the latest executions that are kept",
    ),
    converted(
        "dataJob.executions.cleanupTask.executionsTtlSeconds",
        "config.executions.keep_days",
        days,
        "days, rounded up",
    ),
    converted(
        "dataJob.executions.logsUrl.urlTemplate",
        "config.logs_url_template",
        url_template,
        "`{name}` for `{{name}}`",
    ),
    value("dataJob.executions.logsUrl.dateFormat", "config.logs_url_date_format", lower_case),
    value("dataJob.executions.logsUrl.startTimeOffsetSeconds", "config.logs_url_start_offset_seconds", number),
    value("dataJob.executions.logsUrl.endTimeOffsetSeconds", "config.logs_url_end_offset_seconds", number),
    not_needed("dataJob.deployment.configuration.*", "the database is always the source of truth, and always followed"),
    value("dataJob.deployment.jobImagePullPolicy", "config.kubernetes.pull_policy", same),
    converted(
        "dataJob.deployment.initContainer.resources.limits.cpu",
        "config.kubernetes.vdk_cpu_limit_millicores",
        millicores,
        "thousandths of a core",
    ),
    converted(
        "dataJob.deployment.initContainer.resources.limits.memory",
        "config.kubernetes.vdk_memory_limit_mi",
        mebibytes,
        "mebibytes",
    ),
    converted(
        "dataJob.deployment.initContainer.resources.requests.cpu",
        "config.kubernetes.vdk_cpu_request_millicores",
        millicores,
        "thousandths of a core",
    ),
    converted(
        "dataJob.deployment.initContainer.resources.requests.memory",
        "config.kubernetes.vdk_memory_request_mi",
        mebibytes,
        "mebibytes",
    ),
    not_needed("dataJob.fluentd.*", "Holdfast keeps the logs of executions; pods log on standard output"),
    value("loggingFormat", "config.log_format", lower_case),
    none("mail.*", NO_MAILS),
    by_hand("alertmanager.*", "create the AlertmanagerConfig yourself; the labels of alerts are in the alert rules"),
    not_needed("secrets.vault.*", "secrets of jobs are encrypted in the database"),
];

/// Whether an entry stands for this path.
fn is_for(entry: &Entry, path: &str) -> bool {
    match entry.key.split_once('*') {
        None => entry.key == path,
        Some((start, end)) => path.len() > start.len() && path.starts_with(start) && path.ends_with(end),
    }
}

/// The entry for a path: the first one, so that an exception is above its group.
pub(super) fn find(path: &str) -> Option<&'static Entry> {
    MAPPING.iter().find(|entry| is_for(entry, path))
}

/// Whether there are entries for keys below a path.
pub(super) fn has_below(path: &str) -> bool {
    let below = format!("{path}.");
    MAPPING.iter().any(|entry| entry.key.starts_with(&below))
}

/// The entry for a path or for what contains it.
#[cfg(test)]
pub(super) fn find_or_above(path: &str) -> Option<&'static Entry> {
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
    // From the top, as a walk over the values does.
    ends.map(|end| &path[..end]).find_map(find)
}
