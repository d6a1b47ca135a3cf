//! Deployments as JSON. What is answered is the reached state; what is asked for becomes true later, hence 202.

use std::sync::Arc;

use app::{Reached, deployments::Missing};
use axum::{Json, extract::State, http::StatusCode};
use model::{
    Problem,
    deployment::{Deployment, DeploymentChange, Mode, PythonVersion, Rollout, vdk_version},
    job::DataJob,
    name::shown,
    problem::Fault,
    resources::Resources,
    source::SourceVersion,
};
use serde::{Deserialize, Serialize};

use super::{
    JobPath, PartPath,
    jobs::{ContactsBody, ScheduleBody},
};
use crate::{
    Api,
    caller::By,
    error::Answer,
    input::{OptionalJsonBody, Path, Query},
};

/// A change of a deployment on the wire. What only the service says (id, schedule, by whom, when) is read and left aside,
/// for clients send whole objects back.
#[derive(Default, Deserialize)]
#[serde(expecting = "a JSON object")]
pub(crate) struct DataJobDeploymentBody {
    vdk_version: Option<String>,
    job_version: Option<String>,
    python_version: Option<String>,
    mode: Option<Mode>,
    enabled: Option<bool>,
    resources: Option<ResourcesBody>,
    #[serde(rename = "schedule")]
    _schedule: Option<ScheduleBody>,
}

/// What a run may use.
#[derive(Default, Serialize, Deserialize)]
#[serde(expecting = "a JSON object")]
pub(crate) struct ResourcesBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_request: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_request: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_limit: Option<i32>,
}

impl From<ResourcesBody> for Resources {
    fn from(body: ResourcesBody) -> Self {
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

/// A reached deployment on the wire.
#[derive(Serialize)]
pub(crate) struct DataJobDeploymentStatus {
    id: String,
    vdk_version: String,
    job_version: String,
    python_version: String,
    mode: &'static str,
    enabled: bool,
    contacts: ContactsBody,
    schedule: ScheduleBody,
    resources: ResourcesBody,
    last_deployed_date: String,
    last_deployed_by: String,
    /// The last outcome of the rollout, which may speak of a later change than the one that runs.
    status: &'static str,
}

/// How far what is wanted got.
#[derive(Serialize)]
pub(crate) struct DataJobDeploymentRollout {
    /// `pending`, `reached`, `retrying` or `failed`.
    phase: &'static str,
    wanted_generation: i64,
    reached_generation: Option<i64>,
    reached_date: Option<String>,
    status: &'static str,
    deployment_version_hash: Option<String>,
    attempts: i32,
    next_try_date: Option<String>,
    problem: Option<RolloutProblem>,
    wanted: Wanted,
}

/// What stands in the way, and whose move it is.
#[derive(Serialize)]
struct RolloutProblem {
    what: String,
    why: String,
    consequences: String,
    countermeasures: String,
    fault: Fault,
}

/// The wanted deployment.
#[derive(Serialize)]
struct Wanted {
    job_version: String,
    vdk_version: String,
    python_version: String,
    enabled: bool,
    deployed_by: String,
    deployed_date: String,
}

impl From<(Deployment, Rollout)> for DataJobDeploymentRollout {
    fn from((deployment, rollout): (Deployment, Rollout)) -> Self {
        let phase = rollout.phase(&deployment);
        Self {
            phase: phase.as_str(),
            wanted_generation: deployment.generation,
            reached_generation: rollout.reached_generation,
            reached_date: rollout.reached_at.map(|at| at.to_string()),
            status: rollout.status.as_str(),
            deployment_version_hash: rollout.inputs_hash,
            attempts: rollout.attempts,
            next_try_date: rollout.retry_at.map(|at| at.to_string()),
            problem: rollout.problem.map(|p| RolloutProblem {
                what: p.what,
                why: p.why,
                consequences: p.consequences,
                countermeasures: p.countermeasures,
                fault: p.fault,
            }),
            wanted: Wanted {
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

/// The deployment that runs, in a list: empty before the first success.
pub(crate) async fn deployment_list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
    query: Query,
) -> Answer<Json<Vec<DataJobDeploymentStatus>>> {
    let mode = query
        .text("mode")
        .map(|raw| {
            Mode::parse(raw).ok_or_else(|| {
                Problem::invalid(
                    "The deployments were not listed.",
                    format!("mode: it is {}; known are \"testing\" and \"release\".", shown(raw)),
                )
            })
        })
        .transpose()?;
    let (job, reached) = app::deployments::list(&api.db, &caller, &team, &name).await?;
    let listed = reached
        .filter(|r| mode.is_none_or(|mode| r.deployment.mode == mode))
        .filter(|_| query.text("deployment_id").is_none_or(|id| app::deployments::check_id(&job, id).is_ok()));
    Ok(Json(listed.map(|reached| DataJobDeploymentStatus::new(&job, reached)).into_iter().collect()))
}

/// Deploys a job, or changes its deployment: 202. Absent members stay as they are; the first one is enabled unless it says
/// otherwise.
pub(crate) async fn deployment_update(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name)): JobPath,
    OptionalJsonBody(body): OptionalJsonBody<DataJobDeploymentBody>,
) -> Answer<StatusCode> {
    let change = body.change()?;
    let (db, clock, versions) = (&api.db, &*api.clock, &api.versions);
    app::deployments::change(db, clock, &caller, versions, &team, &name, &change, Missing::Create).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The deployment that runs.
pub(crate) async fn deployment_read(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
) -> Answer<Json<DataJobDeploymentStatus>> {
    let (job, reached) = app::deployments::read(&api.db, &caller, &team, &name, &id).await?;
    Ok(Json(DataJobDeploymentStatus::new(&job, reached)))
}

/// How far the wanted deployment got, and what stands in its way.
pub(crate) async fn deployment_rollout_read(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
) -> Answer<Json<DataJobDeploymentRollout>> {
    Ok(Json(app::deployments::rollout(&api.db, &caller, &team, &name, &id).await?.into()))
}

/// Changes the deployment: 202. Absent members stay as they are.
pub(crate) async fn deployment_patch(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
    OptionalJsonBody(body): OptionalJsonBody<DataJobDeploymentBody>,
) -> Answer<StatusCode> {
    let change = body.change()?;
    let missing = Missing::Refuse { deployment_id: &id };
    let (db, clock, versions) = (&api.db, &*api.clock, &api.versions);
    app::deployments::change(db, clock, &caller, versions, &team, &name, &change, missing).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Removes the deployment: 202. Runs in progress go on.
pub(crate) async fn deployment_delete(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path((team, name, id)): PartPath,
) -> Answer<StatusCode> {
    app::deployments::remove(&api.db, &*api.clock, &caller, &team, &name, &id).await?;
    Ok(StatusCode::ACCEPTED)
}
