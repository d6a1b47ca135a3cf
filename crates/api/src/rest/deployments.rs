//! Deployments as JSON. A read returns the reached deployment. A change is accepted with 202 and rolled out afterwards.

use std::sync::Arc;

use app::{Awaited, Reached, deployments::Missing};
use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use model::{
    Problem,
    deployment::{Deployment, DeploymentChange, Mode},
    job::DataJob,
    name::excerpt,
    problem::{Code, Fault},
    python::{PythonVersion, vdk_version},
    resources::Resources,
    rollout::Rollout,
    source::SourceVersion,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use utoipa::ToSchema;

use super::{
    JobPath, PartPath,
    jobs::{ContactsBody, DataJobScheduleDefinition, ScheduleBody},
};
use crate::{
    Api,
    caller::RequestCaller,
    error::ApiResult,
    input::{OptionalJsonBody, Path, Query},
    openapi::names::{DataJobMode, FaultName, RolloutPhase, RolloutStatus},
    preconditions::WithEtag,
};

/// A change of a deployment on the wire. Fields that only the service sets (id, schedule, user, time) are accepted and ignored,
/// because clients send whole objects back.
#[derive(Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
#[schema(as = DataJobDeploymentChange, example = json!({
    "job_version": "78ea24478fce7ccd34444e8b04647abec70e7d4d", "enabled": true,
    "resources": { "memory_limit": 512 }
}))]
pub(crate) struct DataJobDeploymentBody {
    /// The VDK version of executions: a version of the package index. Absent or blank follows the service's default.
    #[schema(max_length = 100, pattern = "^([A-Za-z0-9][A-Za-z0-9._+!-]*)?$", example = "0.2.1810444937")]
    vdk_version: Option<String>,
    /// The source version: the 40 hexadecimal digits that the upload returned. Required for the first deployment.
    #[schema(pattern = "^([0-9a-f]{40})?$", example = "78ea24478fce7ccd34444e8b04647abec70e7d4d")]
    job_version: Option<String>,
    /// The Python version of executions, one of those that `info` lists.
    #[schema(pattern = r"^([0-9]{1,3}\.[0-9]{1,3})?$", example = "3.11")]
    python_version: Option<String>,
    /// The mode; stored and returned without effect.
    #[schema(value_type = Option<DataJobMode>)]
    mode: Option<Mode>,
    /// Whether the schedule starts executions. Manual executions start in either case. The first deployment is enabled by
    /// default.
    enabled: Option<bool>,
    /// The resources of an execution.
    #[serde(default, deserialize_with = "crate::input::object")]
    resources: Option<ResourcesChange>,
    /// Ignored: the schedule belongs to the job.
    #[serde(rename = "schedule", default, deserialize_with = "crate::input::object")]
    _schedule: Option<DataJobScheduleDefinition>,
    /// Ignored: a job has one deployment.
    #[serde(rename = "id")]
    #[schema(value_type = Option<serde_json::Value>)]
    _id: Option<IgnoredAny>,
    /// Ignored: the service sets this field.
    #[serde(rename = "deployed_by")]
    #[schema(value_type = Option<serde_json::Value>)]
    _deployed_by: Option<IgnoredAny>,
    /// Ignored: the service sets this field.
    #[serde(rename = "deployed_date")]
    #[schema(value_type = Option<serde_json::Value>)]
    _deployed_date: Option<IgnoredAny>,
}

/// The resources of an execution in a change. Omitted fields keep their current value. A request must not exceed its limit.
#[derive(Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object")]
#[schema(as = DataJobResourcesChange)]
struct ResourcesChange {
    /// The CPU request, in cores.
    #[schema(exclusive_minimum = 0, maximum = 1024, example = 0.5)]
    cpu_request: Option<f64>,
    /// The CPU limit, in cores.
    #[schema(exclusive_minimum = 0, maximum = 1024, example = 1.0)]
    cpu_limit: Option<f64>,
    /// The memory request, in MiB.
    #[schema(minimum = 1, maximum = 16_777_216, example = 256)]
    #[serde(default, deserialize_with = "crate::input::whole_number")]
    memory_request: Option<i32>,
    /// The memory limit, in MiB.
    #[schema(minimum = 1, maximum = 16_777_216, example = 512)]
    #[serde(default, deserialize_with = "crate::input::whole_number")]
    memory_limit: Option<i32>,
}

/// The resources of an execution. An absent field means the operator's default.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = DataJobResources)]
pub(crate) struct ResourcesBody {
    /// The CPU request, in cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 0.5)]
    cpu_request: Option<f64>,
    /// The CPU limit, in cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 1.0)]
    cpu_limit: Option<f64>,
    /// The memory request, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 256)]
    memory_request: Option<i32>,
    /// The memory limit, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 512)]
    memory_limit: Option<i32>,
}

impl From<ResourcesChange> for Resources {
    fn from(body: ResourcesChange) -> Self {
        Self {
            cpu_request: body.cpu_request,
            cpu_limit: body.cpu_limit,
            memory_request_mi: body.memory_request,
            memory_limit_mi: body.memory_limit,
        }
    }
}

impl From<Resources> for ResourcesBody {
    fn from(resources: Resources) -> Self {
        Self {
            cpu_request: resources.cpu_request,
            cpu_limit: resources.cpu_limit,
            memory_request: resources.memory_request_mi,
            memory_limit: resources.memory_limit_mi,
        }
    }
}

/// The reached deployment.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobDeploymentStatus {
    /// The id of the deployment: the job's name. In a URL, `production`, `release` and `default` name it too.
    #[schema(example = "my-first-job")]
    id: String,
    /// The VDK version of executions.
    #[schema(example = "0.2.1810444937")]
    vdk_version: String,
    /// The source version of executions.
    #[schema(pattern = "^[0-9a-f]{40}$", example = "78ea24478fce7ccd34444e8b04647abec70e7d4d")]
    job_version: String,
    /// The Python version of executions.
    #[schema(example = "3.11")]
    python_version: String,
    /// The mode of the deployment.
    #[schema(value_type = DataJobMode)]
    mode: &'static str,
    /// Whether the schedule starts executions.
    enabled: bool,
    /// The mail addresses of notifications.
    contacts: ContactsBody,
    /// The schedule.
    schedule: ScheduleBody,
    /// The resources of an execution.
    resources: ResourcesBody,
    /// The time of the request for this deployment.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    last_deployed_date: String,
    /// The user who requested this deployment.
    #[schema(example = "anonymous")]
    last_deployed_by: String,
    /// The last outcome of the rollout, which may be that of a later change than the reached one.
    #[schema(value_type = RolloutStatus)]
    status: &'static str,
}

/// The progress of the desired deployment.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataJobDeploymentRollout {
    /// The phase of the rollout. `rolled_out` means that the desired deployment is deployed.
    #[schema(value_type = RolloutPhase)]
    phase: &'static str,
    /// The desired generation.
    #[schema(minimum = 1, example = 3)]
    desired_revision: i64,
    /// The reached generation; null before the first success.
    #[schema(minimum = 1, example = 2)]
    deployed_revision: Option<i64>,
    /// The time when that generation was reached; null before the first success.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    rolled_out_date: Option<String>,
    /// The last outcome.
    #[schema(value_type = RolloutStatus)]
    status: &'static str,
    /// The hash of all inputs of the reached deployment; null before the first success.
    deployment_version_hash: Option<String>,
    /// The number of attempts at the desired generation.
    #[schema(minimum = 0)]
    attempts: i32,
    /// The time of the next attempt after a platform error; null otherwise.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    next_attempt_date: Option<String>,
    /// The problem that prevents the rollout; null if there is none.
    problem: Option<RolloutProblem>,
    /// The build of packages or of an image that the rollout waits for; null if there is none.
    build: Option<RolloutBuild>,
    /// The desired deployment.
    desired: DesiredDeployment,
}

/// A build that a rollout waits for.
#[derive(Serialize, ToSchema)]
struct RolloutBuild {
    /// `queued`, `running`, or the phase that a running build reported: `resolving`, `building_layers`, `pushing`.
    #[schema(example = "pushing")]
    phase: &'static str,
    /// The bytes that this phase wrote or sent so far.
    #[schema(minimum = 0, example = 4_194_304)]
    bytes: u64,
    /// When the build was asked for.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    queued_date: String,
    /// When the build began; null while it waits for its turn.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    started_date: Option<String>,
    /// The seconds since the build began, or since it was asked for while it waits.
    #[schema(minimum = 0, example = 3)]
    elapsed_seconds: u64,
}

impl RolloutBuild {
    fn new(build: Awaited, now: Timestamp) -> Self {
        let since = build.started_at.unwrap_or(build.queued_at);
        Self {
            phase: match (build.progress, build.started_at) {
                (Some(progress), _) => progress.phase.as_str(),
                (None, Some(_)) => "running",
                (None, None) => "queued",
            },
            bytes: build.progress.map_or(0, |progress| progress.bytes),
            queued_date: build.queued_at.to_string(),
            started_date: build.started_at.map(|at| at.to_string()),
            elapsed_seconds: u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0),
        }
    }
}

/// A problem that prevents a rollout, and who has to act.
#[derive(Serialize, ToSchema)]
struct RolloutProblem {
    /// The failure, with the name of the object.
    what: String,
    /// The cause of the failure.
    why: String,
    /// The consequences of the failure.
    consequences: String,
    /// The next step.
    countermeasures: String,
    /// The code of the problem, as in an error body. All codes are in docs/errors.md.
    #[schema(value_type = String, example = "packages_unresolvable")]
    code: Code,
    /// The party that has to act: `user` (change the job or its deployment) or `platform` (Holdfast retries).
    #[schema(value_type = FaultName)]
    fault: Fault,
}

/// The desired deployment.
#[derive(Serialize, ToSchema)]
#[schema(as = DataJobDesiredDeployment)]
struct DesiredDeployment {
    /// The source version of executions.
    #[schema(pattern = "^[0-9a-f]{40}$", example = "78ea24478fce7ccd34444e8b04647abec70e7d4d")]
    job_version: String,
    /// The VDK version of executions.
    #[schema(example = "0.2.1810444937")]
    vdk_version: String,
    /// The Python version of executions.
    #[schema(example = "3.11")]
    python_version: String,
    /// Whether the schedule starts executions.
    enabled: bool,
    /// The user who requested this deployment.
    #[schema(example = "anonymous")]
    deployed_by: String,
    /// The time of the request for this deployment.
    #[schema(format = DateTime, example = "2024-03-09T16:00:00Z")]
    deployed_date: String,
}

impl DataJobDeploymentRollout {
    fn new(deployment: Deployment, rollout: Rollout, build: Option<RolloutBuild>) -> Self {
        let phase = rollout.phase(&deployment);
        Self {
            phase: phase.as_str(),
            desired_revision: deployment.generation,
            deployed_revision: rollout.reached_generation,
            rolled_out_date: rollout.reached_at.map(|at| at.to_string()),
            status: rollout.status.as_str(),
            deployment_version_hash: rollout.inputs_hash,
            attempts: rollout.attempts,
            next_attempt_date: rollout.retry_at.map(|at| at.to_string()),
            problem: rollout.problem.map(|p| RolloutProblem {
                what: p.what,
                why: p.why,
                consequences: p.consequences,
                countermeasures: p.countermeasures,
                code: p.code,
                fault: p.fault,
            }),
            build,
            desired: DesiredDeployment {
                job_version: deployment.job_version.to_string(),
                vdk_version: deployment.vdk_version,
                python_version: deployment.python_version.to_string(),
                enabled: deployment.enabled,
                deployed_by: deployment.deployed_by,
                deployed_date: deployment.deployed_at.to_string(),
            },
        }
    }
}

impl DataJobDeploymentStatus {
    fn new(job: &DataJob, reached: Reached) -> Self {
        let deployment = reached.deployment;
        Self {
            id: job.name.to_string(),
            vdk_version: deployment.vdk_version,
            job_version: deployment.job_version.to_string(),
            python_version: deployment.python_version.to_string(),
            mode: deployment.mode.as_str(),
            enabled: deployment.enabled,
            contacts: ContactsBody::from(&deployment.contacts),
            schedule: ScheduleBody { schedule_cron: deployment.schedule_cron },
            resources: deployment.resources.into(),
            last_deployed_date: deployment.deployed_at.to_string(),
            last_deployed_by: deployment.deployed_by,
            status: reached.status.as_str(),
        }
    }
}

impl DataJobDeploymentBody {
    fn change(self) -> Result<DeploymentChange, Problem> {
        let given = |text: Option<String>| text.filter(|t| !t.trim().is_empty());
        let python_version: Option<PythonVersion> =
            given(self.python_version).map(|version| version.parse()).transpose()?;
        let job_version = given(self.job_version).map(|version| SourceVersion::parse(&version)).transpose()?;
        Ok(DeploymentChange {
            job_version,
            python_version,
            vdk_version: given(self.vdk_version).map(|version| vdk_version(&version)).transpose()?,
            enabled: self.enabled,
            mode: self.mode,
            resources: self.resources.map(Resources::from),
        })
    }
}

/// Lists the deployment of a data job.
///
/// The list has the reached deployment, and is empty before the first success. `…/rollout` reports the progress of a desired one.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Deployment",
    params(
        ("deployment_id" = Option<String>, Query, description = "Only the deployment of this id.", example = "production"),
        ("mode" = Option<DataJobMode>, Query, description = "Only deployments of this mode."),
    ),
    responses(
        (status = 200, description = "The deployment, if there is one.", body = Vec<DataJobDeploymentStatus>),
        (status = 404, description = "The job is unknown, or belongs to another team."),
    )
)]
pub(crate) async fn deployment_list(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
    query: Query,
) -> ApiResult<Json<Vec<DataJobDeploymentStatus>>> {
    let mode = query
        .text("mode")
        .map(|raw| {
            Mode::parse(raw).ok_or_else(|| {
                Problem::new(
                    Code::QueryParameterInvalid,
                    "The deployments were not listed.",
                    format!("mode {} does not exist.", excerpt(raw)),
                )
                .nothing_returned()
                .fix("Send mode=release or mode=testing, or leave it out.")
            })
        })
        .transpose()?;
    let (job, reached) = app::deployments::list(&api.db, &caller, &team, &name).await?;
    let listed = reached
        .filter(|r| mode.is_none_or(|mode| r.deployment.mode == mode))
        .filter(|_| query.text("deployment_id").is_none_or(|id| app::deployments::check_id(&job.name, id).is_ok()));
    Ok(Json(listed.map(|reached| DataJobDeploymentStatus::new(&job, reached)).into_iter().collect()))
}

/// Deploys a data job, or changes its deployment.
///
/// Omitted fields keep their current value. The response means that the change is stored; executions use it once its rollout is
/// reached. The same request again creates no generation, but retries a failed rollout.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs Deployment",
    params((
        "send_notification" = Option<bool>, Query,
        description = "Whether the contacts get a mail about the outcome; true by default.",
    )),
    request_body(content = Option<DataJobDeploymentBody>, description = "The change. An absent body changes nothing."),
    responses(
        (status = 202, description = "The change was accepted. The rollout starts within seconds."),
        (status = 404, description = "The job is unknown, or belongs to another team."),
        (
            status = 409,
            description = "The source was never uploaded or was removed, a first deployment names none, the Python version is none \
                           of those on offer, or a request would be above its limit."
        ),
    )
)]
pub(crate) async fn deployment_update(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name)): JobPath,
    query: Query,
    OptionalJsonBody(body): OptionalJsonBody<DataJobDeploymentBody>,
) -> ApiResult<StatusCode> {
    query.switch("send_notification")?;
    let change = body.change()?;
    let (db, clock, versions) = (&api.db, &*api.clock, &api.versions);
    app::deployments::change(db, clock, &caller, versions, &team, &name, &change, Missing::Create).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Reads the reached deployment.
///
/// Returns 404 before the first success.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Deployment",
    responses(
        (status = 200, description = "The deployment.", body = DataJobDeploymentStatus),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment of this id."),
    )
)]
pub(crate) async fn deployment_read(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
) -> ApiResult<WithEtag<DataJobDeploymentStatus>> {
    let (job, reached) = app::deployments::read(&api.db, &caller, &team, &name, &id).await?;
    Ok(WithEtag(reached.deployment.etag(), DataJobDeploymentStatus::new(&job, reached)))
}

/// Reads the progress of the desired deployment.
///
/// The rollout can be read before the first success. A deployment is finished when `phase` is `rolled_out`; `problem` describes a
/// failure.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Deployment",
    responses(
        (status = 200, description = "The rollout.", body = DataJobDeploymentRollout),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment of this id."),
    )
)]
pub(crate) async fn deployment_rollout_read(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
) -> ApiResult<WithEtag<DataJobDeploymentRollout>> {
    let (desired, rollout, build) = app::deployments::rollout(&api.db, &caller, &team, &name, &id).await?;
    let build = build.map(|build| RolloutBuild::new(build, api.clock.now()));
    Ok(WithEtag(desired.etag(), DataJobDeploymentRollout::new(desired, rollout, build)))
}

/// Changes the deployment.
///
/// Omitted fields keep their current value. The response means that the change is stored; executions use it once its rollout is
/// reached.
#[utoipa::path(
    patch,
    path = "",
    tag = "Data Jobs Deployment",
    request_body(content = Option<DataJobDeploymentBody>, description = "The change. An absent body changes nothing."),
    responses(
        (status = 202, description = "The change was accepted. The rollout starts within seconds."),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment of this id."),
        (
            status = 409,
            description = "The source was never uploaded or was removed, a first deployment names none, the Python version is none \
                           of those on offer, or a request would be above its limit."
        ),
    )
)]
pub(crate) async fn deployment_patch(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
    OptionalJsonBody(body): OptionalJsonBody<DataJobDeploymentBody>,
) -> ApiResult<StatusCode> {
    let change = body.change()?;
    let missing = Missing::Refuse { deployment_id: &id };
    let (db, clock, versions) = (&api.db, &*api.clock, &api.versions);
    app::deployments::change(db, clock, &caller, versions, &team, &name, &change, missing).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Removes the deployment, if the job has one.
///
/// Executions in progress continue; the job, its source and its history stay.
#[utoipa::path(
    delete,
    path = "",
    tag = "Data Jobs Deployment",
    responses(
        (status = 202, description = "The change was accepted. The rollout starts within seconds."),
        (status = 404, description = "The job is unknown or belongs to another team, or has no deployment of this id."),
    )
)]
pub(crate) async fn deployment_delete(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path((team, name, id)): PartPath,
) -> ApiResult<StatusCode> {
    app::deployments::remove(&api.db, &*api.clock, &caller, &team, &name, &id).await?;
    Ok(StatusCode::ACCEPTED)
}
