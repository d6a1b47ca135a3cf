//! The manifests of a deployment: a CronJob, and the Job of a manual execution. Pure: the same revision, job and configuration
//! give the same bytes.
//!
//! Names, labels and annotations on the job template, the name of the container and the optional secrets are those of upstream,
//! because operators and alert rules rely on them. All else is the safer choice: the Pod Security profile "restricted", no
//! restart within a pod, arguments without a shell.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec, Job, JobSpec, JobTemplateSpec},
        core::v1::{
            Capabilities, Container, EmptyDirVolumeSource, EnvFromSource, EnvVar, EnvVarSource, LocalObjectReference,
            ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
            SecretEnvSource, SecretKeySelector, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference},
};
use model::{
    Problem,
    name::ExecutionId,
    python::PythonVersion,
    resources::Resources,
    runtime::{DeploymentSpec, ExecutionSpec},
    schedule::Schedule,
};

use super::names;

/// The folder for files of a container, as in upstream.
const SCRATCH: (&str, &str) = ("tmpfs", "/var/tmp");
/// The folder of VDK if an image of its own provides it, as in upstream.
const VDK: (&str, &str) = ("vdk", "/vdk");
/// The folder of the keytab, as in upstream.
const KEYTAB_FOLDER: &str = "/credentials";
/// The user and group of jobs, as in upstream.
const USER: i64 = 1000;
/// The schedule of a job without one, whose CronJob is suspended as well. A schedule that never matches would make the controller
/// log an error at each sync.
const NEVER: &str = "@yearly";
/// The most finished Jobs that a CronJob keeps of each kind.
const HISTORY_MAX: usize = 100;

/// The template of all CronJobs.
#[derive(Debug, Clone, Default)]
pub struct Template(CronJob);

impl Template {
    /// Parses YAML or JSON.
    ///
    /// # Errors
    /// The reason why the text is no CronJob.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Through a JSON value: a YAML parser for each type of the API would be a tenth of the program.
        // Only true and false are booleans: an image or a name may be `y` or `off`.
        let options = serde_saphyr::options! { strict_booleans: true };
        let value: serde_json::Value =
            serde_saphyr::from_str_with_options(text, options).map_err(|e| format!("it is no YAML or JSON: {e}."))?;
        let cron_job = serde_path_to_error::deserialize(value)
            .map_err(|e| format!("it is no CronJob of batch/v1: at {}: {}.", e.path(), e.inner()))?;
        Ok(Self(cron_job))
    }
}

/// The settings of the manifests.
#[derive(Debug, Clone)]
pub struct ManifestOptions {
    /// The template; this module overwrites its own fields.
    pub template: Template,
    /// The resources of an execution whose deployment sets none.
    pub resources: Resources,
    /// The resources of the container that provides VDK.
    pub vdk_resources: Resources,
    /// The image that provides VDK, by Python version, with `{vdk}` for the version of VDK. For other versions the job's image
    /// has the `vdk` command.
    pub vdk_images: BTreeMap<PythonVersion, String>,
    /// The image pull secrets.
    pub pull_secrets: Vec<String>,
    /// When images are pulled: `IfNotPresent`, `Always` or `Never`.
    pub pull_policy: String,
    /// Whether containers can write only to their volumes.
    pub read_only_root: bool,
    /// Whether jobs get a token of this service from a secret.
    pub has_token: bool,
    /// How long a run may take.
    pub deadline_seconds: u64,
    /// How often a failed run is tried again.
    pub backoff_limit: u32,
    /// How late a scheduled execution may start.
    pub start_deadline_seconds: u64,
    /// How long the service may be down before results of executions are lost.
    pub outage_window_seconds: u64,
    /// The time zone of schedules that name none.
    pub default_zone: String,
}

/// The CronJob of a deployment.
///
/// # Errors
/// [`model::problem::Kind::Invalid`] when the stored schedule can't be read (by a change of the rules).
pub(crate) fn cron_job(
    options: &ManifestOptions,
    deployment_spec: &DeploymentSpec,
    image: &str,
    inputs_hash: &str,
) -> Result<CronJob, Problem> {
    let deployment = &deployment_spec.deployment;
    let schedule =
        deployment.schedule_cron.as_deref().map(|cron| Schedule::parse(cron, &options.default_zone)).transpose()?;
    let mut cron_job = options.template.0.clone();
    let template = cron_job.spec.take();
    let history = i32::try_from(history(options, schedule.as_ref(), deployment.schedule_since)).unwrap_or(i32::MAX);
    let metadata = &mut cron_job.metadata;
    metadata.name = Some(deployment_spec.job_name.to_string());
    metadata.labels.get_or_insert_default().extend(labels(deployment_spec));
    metadata.annotations.get_or_insert_default().extend([
        (names::REVISION.to_owned(), deployment.generation.to_string()),
        (names::INPUTS_HASH.to_owned(), inputs_hash.to_owned()),
        (names::TEAM.to_owned(), deployment_spec.team.to_string()),
    ]);
    let job_template = job_template(options, deployment_spec, image, template.as_ref().map(|spec| &spec.job_template));
    let template = template.unwrap_or_default();
    cron_job.spec = Some(CronJobSpec {
        schedule: schedule.as_ref().map_or(NEVER, Schedule::expression).to_owned(),
        time_zone: Some(schedule.as_ref().map_or(options.default_zone.as_str(), Schedule::zone).to_owned()),
        suspend: Some(!deployment.enabled || schedule.is_none()),
        concurrency_policy: Some("Forbid".into()),
        starting_deadline_seconds: template
            .starting_deadline_seconds
            .or_else(|| i64::try_from(options.start_deadline_seconds).ok()),
        // Both limits are set, so that results stay until they are recorded.
        successful_jobs_history_limit: Some(template.successful_jobs_history_limit.unwrap_or(0).max(history)),
        failed_jobs_history_limit: Some(template.failed_jobs_history_limit.unwrap_or(0).max(history)),
        job_template,
    });
    Ok(cron_job)
}

/// The Job of a manual execution. It is created suspended, and resumed after a check that no scheduled Job is active.
pub(crate) fn manual_job(options: &ManifestOptions, run: &ExecutionSpec, image: &str, owner: OwnerReference) -> Job {
    let deployment_spec = &run.deployment_spec;
    let spec = options.template.0.spec.as_ref().map(|spec| &spec.job_template);
    let JobTemplateSpec { metadata, spec } = job_template(options, deployment_spec, image, spec);
    let mut metadata = metadata.unwrap_or_default();
    metadata.name = Some(run.id.to_string());
    metadata.owner_references = Some(vec![owner]);
    metadata.annotations.get_or_insert_default().extend([
        (names::MANUAL.to_owned(), "true".to_owned()),
        (names::EXECUTION_TYPE.to_owned(), "manual".to_owned()),
        (names::STARTED_BY.to_owned(), run.started_by.clone()),
        (names::OP_ID.to_owned(), run.op_id.clone()),
    ]);
    let mut spec = spec.unwrap_or_default();
    spec.suspend = Some(true);
    if let Some(container) = spec.template.spec.as_mut().and_then(|pod| pod.containers.first_mut()) {
        if let Some(arguments) = &run.arguments {
            container.args.get_or_insert_default().extend(["--arguments".to_owned(), literal(arguments)]);
        }
        for variable in container.env.iter_mut().flatten() {
            if matches!(variable.name.as_str(), "VDK_OP_ID" | "VDK_OP_ID_OVERRIDE") {
                variable.value = Some(literal(&run.op_id));
            }
        }
    }
    Job { metadata, spec: Some(spec), status: None }
}

fn labels(deployment_spec: &DeploymentSpec) -> [(String, String); 4] {
    let deployment = &deployment_spec.deployment;
    [
        (names::JOB_ID.to_owned(), deployment.job_id.to_string()),
        (names::TYPE.0.to_owned(), names::TYPE.1.to_owned()),
        (names::NAME.to_owned(), deployment_spec.job_name.to_string()),
        (names::VERSION.to_owned(), deployment.job_version.to_string()),
    ]
}

fn job_template(
    options: &ManifestOptions,
    deployment_spec: &DeploymentSpec,
    image: &str,
    template: Option<&JobTemplateSpec>,
) -> JobTemplateSpec {
    let deployment = &deployment_spec.deployment;
    let mut job_template = template.cloned().unwrap_or_default();
    let metadata = job_template.metadata.get_or_insert_default();
    metadata.labels.get_or_insert_default().extend(labels(deployment_spec));
    metadata.annotations.get_or_insert_default().extend([
        (names::REVISION.to_owned(), deployment.generation.to_string()),
        (names::TEAM.to_owned(), deployment_spec.team.to_string()),
        (names::SCHEDULE.to_owned(), deployment.schedule_cron.clone().unwrap_or_default()),
        (names::EXECUTION_TYPE.to_owned(), "scheduled".to_owned()),
        (names::STARTED_BY.to_owned(), "scheduled/runtime".to_owned()),
        (names::DEPLOYED_BY.to_owned(), deployment.deployed_by.clone()),
        (names::DEPLOYED_DATE.to_owned(), deployment.deployed_at.to_string()),
        (names::PYTHON_VERSION.to_owned(), deployment.python_version.to_string()),
        (names::UNSCHEDULED.to_owned(), deployment.schedule_cron.is_none().to_string()),
    ]);
    if !secret_options(deployment_spec).is_empty() {
        let hash = deployment_spec.variables.options_hash.clone().unwrap_or_default();
        metadata.annotations.get_or_insert_default().insert(names::OPTIONS_HASH.to_owned(), hash);
    }
    let given = job_template.spec.take().unwrap_or_default();
    job_template.spec = Some(JobSpec {
        active_deadline_seconds: given.active_deadline_seconds.or_else(|| i64::try_from(options.deadline_seconds).ok()),
        backoff_limit: given.backoff_limit.or_else(|| i32::try_from(options.backoff_limit).ok()),
        ttl_seconds_after_finished: i32::try_from(options.outage_window_seconds).ok(),
        template: pod_template(options, deployment_spec, image, given.template.clone()),
        ..given
    });
    job_template
}

fn pod_template(
    options: &ManifestOptions,
    deployment_spec: &DeploymentSpec,
    image: &str,
    given: PodTemplateSpec,
) -> PodTemplateSpec {
    let deployment = &deployment_spec.deployment;
    let mut metadata = given.metadata.unwrap_or_default();
    metadata.labels.get_or_insert_default().extend(labels(deployment_spec));
    let pod = given.spec.unwrap_or_default();
    let vdk_image = options.vdk_images.get(&deployment.python_version);
    let mut mounts = vec![mount(SCRATCH.0, SCRATCH.1, false), mount("keytab", KEYTAB_FOLDER, true)];
    let mut volumes = vec![
        scratch(SCRATCH.0),
        Volume {
            name: "keytab".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(names::keytab_secret(&deployment_spec.job_name)),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    if vdk_image.is_some() {
        mounts.push(mount(VDK.0, VDK.1, false));
        volumes.push(scratch(VDK.0));
    }
    // Both are upstream's names: the values that operators put into them reach every job, or those of a team.
    let secrets: Vec<_> = std::iter::once("builder-secrets".to_owned())
        .chain(deployment_spec.team_secret.clone())
        .map(optional_secret)
        .collect();
    let (mut containers, mut sidecars) = (pod.containers.into_iter(), Vec::new());
    let main = containers.next();
    sidecars.extend(containers);
    let (command, arguments) = command(deployment_spec, vdk_image.is_some());
    let main = Container {
        name: deployment_spec.job_name.to_string(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(options.pull_policy.clone()),
        command: Some(command),
        args: Some(arguments),
        env: Some(environment(options, deployment_spec)),
        env_from: Some(secrets.clone()),
        resources: Some(requirements(deployment.resources.or(options.resources))),
        volume_mounts: Some(mounts.clone()),
        security_context: Some(restricted(options)),
        ..main.unwrap_or_default()
    };
    let mut init_containers = pod.init_containers.unwrap_or_default();
    if let Some(image) = vdk_image {
        init_containers.push(Container {
            name: "vdk".into(),
            image: Some(image.replace("{vdk}", &deployment.vdk_version)),
            image_pull_policy: Some(options.pull_policy.clone()),
            command: Some(vec!["/bin/sh".into(), "-c".into(), COPY_VDK.into()]),
            env_from: Some(secrets.clone()),
            resources: Some(requirements(options.vdk_resources)),
            volume_mounts: Some(mounts),
            security_context: Some(restricted(options)),
            ..Container::default()
        });
    }
    let mut all_volumes = pod.volumes.unwrap_or_default();
    all_volumes.extend(volumes);
    let mut pull_secrets = pod.image_pull_secrets.unwrap_or_default();
    pull_secrets.extend(options.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }));
    PodTemplateSpec {
        metadata: Some(metadata),
        spec: Some(PodSpec {
            containers: std::iter::once(main).chain(sidecars).collect(),
            init_containers: (!init_containers.is_empty()).then_some(init_containers),
            volumes: Some(all_volumes),
            image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
            // A pod that restarts its container is deleted at the last failure, together with its log and termination message.
            restart_policy: Some("Never".into()),
            automount_service_account_token: pod.automount_service_account_token.or(Some(false)),
            security_context: Some(pod.security_context.unwrap_or_else(|| PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
                ..PodSecurityContext::default()
            })),
            ..pod
        }),
    }
}

/// The command that copies VDK into the volume: its packages and its program, wherever the image's Python has them.
const COPY_VDK: &str = "mkdir -p /vdk/site-packages \
                        && cp -r \"$(python3 -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')/.\" /vdk/site-packages/ \
                        && cp \"$(command -v vdk)\" /vdk/";

/// The command that runs the job if another image provides VDK. The shell passes arguments unchanged.
const RUN_WITH_VDK: &str = "export PYTHONPATH=\"$(python3 -c 'import sysconfig; \
                            print(sysconfig.get_path(\"purelib\"))'):/vdk/site-packages\"; exec python3 /vdk/vdk run \"$@\"";

/// Command and arguments of the job's container. More arguments can be added at the end of the latter.
fn command(deployment_spec: &DeploymentSpec, vdk_apart: bool) -> (Vec<String>, Vec<String>) {
    let folder = format!("./{}", deployment_spec.job_name);
    if vdk_apart {
        // The kubelet reads `$$` as a dollar sign.
        let script = literal(RUN_WITH_VDK);
        return (vec!["/bin/sh".into(), "-c".into(), script, "vdk".into()], vec![folder]);
    }
    (vec!["vdk".into(), "run".into()], vec![folder])
}

/// The variables of a container, those of the pod first: others may name them.
fn environment(options: &ManifestOptions, deployment_spec: &DeploymentSpec) -> Vec<EnvVar> {
    let of_label = format!("metadata.labels['{}']", names::JOB_OF_POD);
    let mut all = vec![
        field("VDK_EXECUTION_ID", &of_label),
        field("HOLDFAST_POD_UID", "metadata.uid"),
        // The `vdk` client skips its execution if the attempt's id does not begin with the execution's id. So the name of the pod
        // can't be used, because it is truncated for long job names.
        plain("VDK_ATTEMPT_ID", "$(VDK_EXECUTION_ID)-$(HOLDFAST_POD_UID)".to_owned()),
        plain("VDK_OP_ID", "$(VDK_EXECUTION_ID)".to_owned()),
        plain("VDK_OP_ID_OVERRIDE", "$(VDK_EXECUTION_ID)".to_owned()),
    ];
    let mut own = BTreeMap::from([
        ("VDK_KEYTAB_FOLDER", plain("VDK_KEYTAB_FOLDER", KEYTAB_FOLDER.to_owned())),
        ("VDK_BASE_CONFIG_FOLDER", plain("VDK_BASE_CONFIG_FOLDER", SCRATCH.1.to_owned())),
        ("VDK_TEMPORARY_WRITE_DIRECTORY", plain("VDK_TEMPORARY_WRITE_DIRECTORY", SCRATCH.1.to_owned())),
    ]);
    let variables = &deployment_spec.variables;
    own.extend(variables.plain.iter().map(|(name, value)| (name.as_str(), plain(name, literal(value)))));
    let secret = names::options_secret(&deployment_spec.job_name);
    own.extend(variables.options.iter().map(|(name, value)| {
        let variable = match as_field(value) {
            Some(path) => field(name, path),
            None => of_secret(name, &secret, false),
        };
        (name.as_str(), variable)
    }));
    for (name, variable) in own {
        all.retain(|other| other.name != name);
        all.push(variable);
    }
    if options.has_token {
        let secret = names::token_secret(&deployment_spec.job_name);
        for name in ["VDK_API_TOKEN", "VDK_API_TOKEN_AUTHORIZATION_URL", "OAUTHLIB_INSECURE_TRANSPORT"] {
            if all.iter().any(|variable| variable.name == name) {
                continue;
            }
            all.push(of_secret(name, &secret, name == "OAUTHLIB_INSECURE_TRANSPORT"));
        }
    }
    all
}

/// Escapes a text for the kubelet, which replaces `$(NAME)` by the value of a variable and `$$` by a dollar sign.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// The fields of a pod that a variable can refer to.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The field of the pod that a value of the options file refers to: as in upstream, with a leading dollar sign.
fn as_field(value: &str) -> Option<&str> {
    let path = value.strip_prefix('$')?;
    let is_entry = ["metadata.labels['", "metadata.annotations['"].iter().any(|map| {
        let key = path.strip_prefix(map).and_then(|rest| rest.strip_suffix("']"));
        key.is_some_and(|key| key.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c)))
    });
    (is_entry || FIELDS.contains(&path)).then_some(path)
}

/// The values of the options file that reach a job through its secret.
pub(crate) fn secret_options(deployment_spec: &DeploymentSpec) -> BTreeMap<String, String> {
    let options = deployment_spec.variables.options.iter().filter(|(_, value)| as_field(value).is_none());
    options.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn of_secret(name: &str, secret: &str, optional: bool) -> EnvVar {
    EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: secret.into(), key: name.into(), optional: Some(optional) }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn plain(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value), ..EnvVar::default() }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.into(), ..ObjectFieldSelector::default() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn scratch(name: &str) -> Volume {
    Volume { name: name.into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

fn optional_secret(name: String) -> EnvFromSource {
    EnvFromSource { secret_ref: Some(SecretEnvSource { name, optional: Some(true) }), ..EnvFromSource::default() }
}

/// The requirements of the Pod Security profile "restricted" for a container.
fn restricted(options: &ManifestOptions) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
        privileged: Some(false),
        read_only_root_filesystem: Some(options.read_only_root),
        ..SecurityContext::default()
    }
}

fn requirements(resources: Resources) -> ResourceRequirements {
    let quantities = |cpu: Option<f64>, memory_mi: Option<i32>| {
        let mut all = BTreeMap::new();
        // In the normal form of the API server: thousandths of a core.
        all.extend(cpu.map(|cores| ("cpu".to_owned(), Quantity(format!("{:.0}m", (cores * 1000.0).max(1.0))))));
        all.extend(memory_mi.map(|mi| ("memory".to_owned(), Quantity(format!("{mi}Mi")))));
        (!all.is_empty()).then_some(all)
    };
    ResourceRequirements {
        requests: quantities(resources.cpu_request, resources.memory_request_mi),
        limits: quantities(resources.cpu_limit, resources.memory_limit_mi),
        ..ResourceRequirements::default()
    }
}

/// The number of finished Jobs that are kept per kind: those that can end within the outage window, and two more.
fn history(options: &ManifestOptions, schedule: Option<&Schedule>, since: Timestamp) -> usize {
    let Some(schedule) = schedule else { return 2 };
    let window = SignedDuration::from_secs(i64::try_from(options.outage_window_seconds).unwrap_or(i64::MAX));
    let mut ticks = 0;
    let mut at = schedule.next_after(since);
    let Some(end) = at.and_then(|first| first.checked_add(window).ok()) else { return 2 };
    while let Some(tick) = at.filter(|tick| *tick <= end && ticks + 2 < HISTORY_MAX) {
        ticks += 1;
        at = schedule.next_after(tick);
    }
    ticks + 2
}

/// The name of an execution's Job.
pub(crate) fn job_name(id: &ExecutionId) -> &str {
    id.as_str()
}

#[cfg(test)]
pub(crate) mod tests {
    use model::{
        artifact::Artifact,
        deployment::{Deployment, Mode},
        job::Contacts,
        name::{JobId, JobName, TeamName},
        source::SourceVersion,
        variables::Variables,
    };

    use super::*;

    pub(crate) fn options() -> ManifestOptions {
        ManifestOptions {
            template: Template::default(),
            resources: Resources {
                cpu_request: Some(0.5),
                cpu_limit: Some(0.5),
                memory_request_mi: Some(1000),
                memory_limit_mi: Some(1000),
            },
            vdk_resources: Resources { cpu_limit: Some(0.1), ..Resources::default() },
            vdk_images: BTreeMap::new(),
            pull_secrets: vec!["registry".into()],
            pull_policy: "IfNotPresent".into(),
            read_only_root: true,
            has_token: true,
            deadline_seconds: 43_200,
            backoff_limit: 3,
            start_deadline_seconds: 1800,
            outage_window_seconds: 21_600,
            default_zone: "UTC".into(),
        }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    pub(crate) fn deployment_spec() -> DeploymentSpec {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        DeploymentSpec {
            job_name: JobName::parse("daily-sales").unwrap(),
            team: TeamName::parse("Sales & Co").unwrap(),
            deployment: Deployment {
                job_id: JobId(uuid::Uuid::nil()),
                generation: 7,
                job_version: SourceVersion::parse(&"a".repeat(40)).unwrap(),
                python_version_asked: None,
                python_version: PythonVersion { major: 3, minor: 11 },
                vdk_version_asked: None,
                vdk_version: "0.2".into(),
                enabled: true,
                mode: Mode::Release,
                resources: Resources { memory_limit_mi: Some(2000), ..Resources::default() },
                schedule_cron: Some("TZ=Europe/Sofia */10 * * * *".into()),
                schedule_since: at,
                contacts: Contacts::default(),
                db_default_type: None,
                enable_execution_notifications: true,
                deployed_by: "someone".into(),
                deployed_at: at,
            },
            variables: Variables {
                plain: map(&[("PRICE", "5$ or $(HOME)"), ("TRICK", "$spec.nodeName")]),
                options: map(&[("NODE", "$spec.nodeName"), ("PASSWORD", "hunter2"), ("SHELL", "$spec.x")]),
                options_hash: Some("keyed".into()),
            },
            team_secret: Some("team-oauth-sales-co".into()),
        }
    }

    pub(crate) fn run() -> ExecutionSpec {
        ExecutionSpec {
            id: ExecutionId::parse("daily-sales-1700000000").unwrap(),
            deployment_spec: deployment_spec(),
            artifact: Artifact::Image("registry/daily-sales:1".into()),
            archive: Vec::new(),
            arguments: Some(r#"{"q":"it's $(HOME) `id`"}"#.into()),
            started_by: "manual/someone".into(),
            op_id: "an operation".into(),
            variables: BTreeMap::new(),
            deadline_seconds: 60,
            backoff_limit: 0,
        }
    }

    fn owner() -> OwnerReference {
        OwnerReference {
            api_version: "batch/v1".into(),
            kind: "CronJob".into(),
            name: "daily-sales".into(),
            uid: "uid".into(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    #[test]
    fn a_deployment_as_a_cron_job() {
        let cron_job = cron_job(&options(), &deployment_spec(), "registry/daily-sales:1", "inputs").unwrap();
        insta::assert_json_snapshot!(cron_job);
    }

    #[test]
    fn values_of_the_options_file_are_in_no_object_but_the_secret() {
        let cron_job = cron_job(&options(), &deployment_spec(), "i", "h").unwrap();
        let job = manual_job(&options(), &run(), "i", owner());
        for text in [serde_json::to_string(&cron_job).unwrap(), serde_json::to_string(&job).unwrap()] {
            assert!(text.contains("PASSWORD") && !text.contains("hunter2"), "{text}");
        }
        assert_eq!(secret_options(&deployment_spec()), map(&[("PASSWORD", "hunter2"), ("SHELL", "$spec.x")]));
        let variables =
            |job: &Job| job.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0].env.clone();
        let variable = |name: &str| variables(&job).unwrap().into_iter().find(|v| v.name == name).unwrap();
        let selector = |name: &str| variable(name).value_from.unwrap().secret_key_ref.unwrap();
        for name in ["PASSWORD", "SHELL"] {
            let SecretKeySelector { name: secret, key, optional } = selector(name);
            assert_eq!((secret.as_str(), key.as_str(), optional), ("holdfast-options-daily-sales", name, Some(false)));
        }
        // The operator may refer to fields of the pod; a user's value of this form is a plain text.
        assert_eq!(variable("NODE").value_from.unwrap().field_ref.unwrap().field_path, "spec.nodeName");
        assert_eq!(variable("TRICK").value.as_deref(), Some("$$spec.nodeName"));
    }

    #[test]
    fn a_changed_value_changes_the_object_and_a_deployment_without_values_has_no_trace_of_them() {
        let rendered = |change: fn(&mut Variables)| {
            let mut deployment_spec = deployment_spec();
            change(&mut deployment_spec.variables);
            serde_json::to_string(&cron_job(&options(), &deployment_spec, "i", "h").unwrap()).unwrap()
        };
        assert_ne!(rendered(|_| ()), rendered(|v| v.options_hash = Some("another".into())));
        let without = rendered(|v| *v = Variables { plain: v.plain.clone(), ..Variables::default() });
        assert!(!without.contains("options"), "{without}");
        let fields_alone = rendered(|v| v.options = map(&[("NODE", "$spec.nodeName")]));
        assert!(!fields_alone.contains("options"), "{fields_alone}");
    }

    #[test]
    fn only_fields_that_a_variable_can_have_are_taken_for_fields() {
        for (value, path) in [
            ("$metadata.name", Some("metadata.name")),
            ("$metadata.labels['a.b/c']", Some("metadata.labels['a.b/c']")),
            ("$status.hostIP", Some("status.hostIP")),
            ("$metadata.labels", None),
            ("$spec.containers", None),
            ("$spec.nodeName.x", None),
            ("$metadata.labels['a'b']", None),
            ("metadata.name", None),
            ("$", None),
        ] {
            assert_eq!(as_field(value), path, "{value}");
        }
    }

    #[test]
    fn a_run_as_a_job() {
        insta::assert_json_snapshot!(manual_job(&options(), &run(), "registry/daily-sales:1", owner()));
    }

    #[test]
    fn an_image_of_its_own_brings_vdk_where_the_jobs_image_has_none() {
        let mut options = options();
        options.vdk_images.insert(PythonVersion { major: 3, minor: 11 }, "registry/vdk:{vdk}".into());
        let job = manual_job(&options, &run(), "registry/daily-sales:1", owner());
        let pod = job.spec.unwrap().template.spec.unwrap();
        let init = &pod.init_containers.unwrap()[0];
        assert_eq!((init.name.as_str(), init.image.as_deref()), ("vdk", Some("registry/vdk:0.2")));
        let main = &pod.containers[0];
        assert_eq!(main.command.as_ref().unwrap()[..2], ["/bin/sh", "-c"]);
        // The shell gets them as they are, behind its own name.
        assert_eq!(main.args.as_ref().unwrap()[..2], ["./daily-sales", "--arguments"]);
        assert!(!main.command.as_ref().unwrap()[2].contains("sales"));
    }

    #[test]
    fn a_template_keeps_what_the_service_does_not_set() {
        let text = "
apiVersion: batch/v1
kind: CronJob
metadata: {annotations: {example.com/a: b}}
spec:
  schedule: ''
  concurrencyPolicy: Allow
  failedJobsHistoryLimit: 99
  jobTemplate:
    spec:
      backoffLimit: 1
      activeDeadlineSeconds: 60
      template:
        metadata: {annotations: {example.com/pod: yes-please}}
        spec:
          nodeSelector: {disk: fast}
          restartPolicy: OnFailure
          securityContext: {runAsUser: 2000}
          volumes: [{name: more, emptyDir: {}}]
          containers:
            - {name: x, image: y, lifecycle: {preStop: {sleep: {seconds: 1}}}}
            - {name: beside, image: beside:1}
";
        let options = ManifestOptions { template: Template::parse(text).unwrap(), ..options() };
        let cron_job = cron_job(&options, &deployment_spec(), "i", "h").unwrap();
        assert_eq!(cron_job.metadata.annotations.unwrap()["example.com/a"], "b");
        let spec = cron_job.spec.unwrap();
        assert_eq!((spec.concurrency_policy.as_deref(), spec.failed_jobs_history_limit), (Some("Forbid"), Some(99)));
        let job = spec.job_template.spec.unwrap();
        assert_eq!((job.backoff_limit, job.active_deadline_seconds), (Some(1), Some(60)));
        let pod = job.template.spec.unwrap();
        assert_eq!(pod.node_selector.unwrap()["disk"], "fast");
        assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
        assert_eq!(pod.security_context.unwrap().run_as_user, Some(2000));
        assert!(pod.volumes.unwrap().iter().any(|volume| volume.name == "more"));
        assert_eq!(pod.containers.len(), 2);
        assert_eq!((pod.containers[0].name.as_str(), pod.containers[1].name.as_str()), ("daily-sales", "beside"));
        assert!(pod.containers[0].lifecycle.is_some());
        assert!(Template::parse("kind: Pod").is_err());
        let wrong = Template::parse("kind: CronJob\napiVersion: batch/v1\nmetadata: {}\nspec: {schedule: [1]}");
        assert_eq!(wrong.unwrap_err().split(": ").nth(1), Some("at spec.schedule"));
    }

    #[test]
    fn a_disabled_or_unscheduled_deployment_is_suspended() {
        let suspended = |change: fn(&mut Deployment)| {
            let mut deployment_spec = deployment_spec();
            change(&mut deployment_spec.deployment);
            let spec = cron_job(&options(), &deployment_spec, "i", "h").unwrap().spec.unwrap();
            (spec.suspend, spec.schedule)
        };
        assert_eq!(suspended(|_| {}), (Some(false), "*/10 * * * *".into()));
        assert_eq!(suspended(|d| d.enabled = false).0, Some(true));
        assert_eq!(suspended(|d| d.schedule_cron = None), (Some(true), NEVER.into()));
    }

    #[test]
    fn as_many_finished_jobs_are_kept_as_may_end_in_the_outage_window() {
        let kept = |cron: Option<&str>| {
            let schedule = cron.map(|cron| Schedule::parse(cron, "UTC").unwrap());
            history(&options(), schedule.as_ref(), Timestamp::UNIX_EPOCH)
        };
        // Both ends of six hours count.
        assert_eq!(kept(Some("0 * * * *")), 7 + 2);
        assert_eq!(kept(Some("* * * * *")), HISTORY_MAX);
        assert_eq!(kept(Some("0 0 1 1 *")), 1 + 2);
        assert_eq!(kept(None), 2);
    }
}
