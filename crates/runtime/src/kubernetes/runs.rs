//! Runs as Jobs: those that requests start, and those that ticks do.
//!
//! A started run has to keep ticks away, and must not begin when a tick came first. `concurrencyPolicy: Forbid` looks at
//! `status.active` alone. So the Job is made suspended, entered there with the resource version that was read, and let go
//! only after no unfinished Job of a tick was found. Whatever dies between leaves a suspended Job, which runs nothing, and
//! is found by its name.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job},
        core::v1::{Event, ObjectReference, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
};
use model::{
    Problem,
    name::ExecutionId,
    runtime::{Run, Started},
};

use super::{
    MANAGER,
    fault::{Fault, call},
    fence::Fence,
    manifest::{self, ManifestOptions},
    names,
    view::{JobView, PodView, job_id},
};

/// How often the CronJob's list of active Jobs is written that others keep overtaking.
const TRIES: usize = 8;

/// The pause before the next of these tries.
const TRY_PAUSE: Duration = Duration::from_millis(50);

/// Jobs and pods of the namespace.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) cron_jobs: Api<CronJob>,
    pub(crate) jobs: Api<Job>,
    pub(crate) pods: Api<Pod>,
    pub(crate) events: Api<Event>,
    pub(crate) fence: Fence,
}

impl Runner {
    /// Starts a run, unless a tick came first.
    pub(crate) async fn start(&self, options: &ManifestOptions, run: &Run, image: &str) -> Result<Started, Problem> {
        let what = || format!("The run {} was not started.", run.id);
        Box::pin(self.try_start(options, run, image)).await.map_err(|fault| fault.into_problem(what()))?
    }

    async fn try_start(
        &self,
        options: &ManifestOptions,
        run: &Run,
        image: &str,
    ) -> Result<Result<Started, Problem>, Fault> {
        let name = run.blueprint.job_name.as_str();
        let Some(cron_job) = call(self.cron_jobs.get_opt(name)).await? else {
            return Ok(Err(not_deployed(run)));
        };
        if job_id(&cron_job.metadata) != Some(run.blueprint.deployment.job_id) {
            return Ok(Err(not_deployed(run)));
        }
        let owner = OwnerReference {
            api_version: "batch/v1".into(),
            kind: "CronJob".into(),
            name: name.to_owned(),
            uid: cron_job.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let mut job = manifest::manual_job(options, run, image, owner);
        self.fence.mark(&mut job.metadata);
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let job = match call(self.jobs.create(&params, &job)).await {
            Ok(job) => job,
            Err(fault) if fault.is_taken() => match self.claimed(run).await? {
                Some(job) => job,
                None => {
                    return Ok(Err(Problem::unavailable(
                        format!("The run {} was not started.", run.id),
                        "A Job of its name is there that this service did not make, or that somebody deletes.",
                    )
                    .follows("The start is tried again.")));
                }
            },
            Err(fault) => return Err(fault),
        };
        if !job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or_default() {
            // A former try let it go already.
            return Ok(Ok(Started::Running));
        }
        self.enter(name, &job).await?;
        if let Some(before) = self.unfinished_tick(run).await? {
            self.delete(&job).await?;
            return Ok(Ok(Started::SteppedAside { for_run: before }));
        }
        let patch = serde_json::json!({
            "metadata": { "uid": job.uid(), "annotations": BTreeMap::from([self.fence.annotation()]) },
            "spec": { "suspend": false },
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        call(self.jobs.patch(run.id.as_str(), &params, &Patch::Merge(&patch))).await?;
        Ok(Ok(Started::Running))
    }

    /// The Job of a former try of the same start.
    async fn claimed(&self, run: &Run) -> Result<Option<Job>, Fault> {
        let job = call(self.jobs.get_opt(run.id.as_str())).await?;
        Ok(job.filter(|job| {
            job.metadata.deletion_timestamp.is_none()
                && job_id(&job.metadata) == Some(run.blueprint.deployment.job_id)
                && job.annotations().contains_key(names::MANUAL)
        }))
    }

    /// Enters a Job in its CronJob's list of active ones, where ticks see it.
    async fn enter(&self, cron_job: &str, job: &Job) -> Result<(), Fault> {
        let mut last = None;
        for _ in 0..TRIES {
            let live = call(self.cron_jobs.get_status(cron_job)).await?;
            let mut active = live.status.as_ref().and_then(|status| status.active.clone()).unwrap_or_default();
            if active.iter().any(|entry| entry.uid == job.uid()) {
                return Ok(());
            }
            active.push(ObjectReference {
                api_version: Some("batch/v1".into()),
                kind: Some("Job".into()),
                name: job.metadata.name.clone(),
                namespace: job.metadata.namespace.clone(),
                uid: job.uid(),
                resource_version: job.resource_version(),
                ..ObjectReference::default()
            });
            let patch = serde_json::json!({
                "metadata": { "resourceVersion": live.resource_version(), "uid": live.uid() },
                "status": { "active": active },
            });
            let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
            match call(self.cron_jobs.patch_status(cron_job, &params, &Patch::Merge(&patch))).await {
                Ok(_) => return Ok(()),
                Err(fault) if fault.is_conflict() => last = Some(fault),
                Err(fault) => return Err(fault),
            }
            tokio::time::sleep(TRY_PAUSE).await;
        }
        Err(last.unwrap_or_else(|| Fault::Silent("Others keep changing the CronJob.".into())))
    }

    /// A run of the same job that a tick started and that is not over.
    async fn unfinished_tick(&self, run: &Run) -> Result<Option<ExecutionId>, Fault> {
        let of_job = format!("{}={}", names::JOB_ID, run.blueprint.deployment.job_id);
        let jobs = call(self.jobs.list(&ListParams::default().labels(&of_job))).await?;
        Ok(jobs
            .items
            .iter()
            .filter_map(JobView::of)
            .find(|job| !job.manual && !job.is_over() && !job.terminating)
            .and_then(|job| ExecutionId::parse(&job.name)))
    }

    async fn delete(&self, job: &Job) -> Result<(), Fault> {
        self.delete_by(&job.name_any(), job.uid()).await
    }

    /// Deletes a Job with its pods. Without a word about its pods they would stay.
    async fn delete_by(&self, name: &str, uid: Option<String>) -> Result<(), Fault> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        match call(self.jobs.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_missing() || fault.is_conflict() => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Asks a run to end: a suspended Job's pods are ended with their grace period, and the Job stays to be recorded. `false`
    /// when there is no such Job.
    pub(crate) async fn cancel(&self, id: &ExecutionId) -> Result<bool, Fault> {
        let annotations = BTreeMap::from([(names::CANCELLED.to_owned(), "true".to_owned()), self.fence.annotation()]);
        let patch = serde_json::json!({
            "metadata": { "annotations": annotations },
            "spec": { "suspend": true },
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match call(self.jobs.patch(id.as_str(), &params, &Patch::Merge(&patch))).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_missing() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Removes what is left of a run.
    pub(crate) async fn forget(&self, id: &ExecutionId) -> Result<(), Fault> {
        let Some(live) = call(self.jobs.get_metadata_opt(id.as_str())).await? else { return Ok(()) };
        if job_id(&live.metadata).is_none() || live.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        self.delete_by(id.as_str(), live.metadata.uid).await
    }

    /// A Job as it is now.
    pub(crate) async fn job(&self, name: &str) -> Result<Option<JobView>, Fault> {
        Ok(call(self.jobs.get_opt(name)).await?.as_ref().and_then(JobView::of))
    }

    /// The pods of a Job as they are now.
    pub(crate) async fn pods(&self, job: &str) -> Result<Vec<PodView>, Fault> {
        let of_job = format!("{}={job}", names::JOB_OF_POD);
        let pods = call(self.pods.list(&ListParams::default().labels(&of_job))).await?;
        Ok(pods.items.iter().filter_map(PodView::of).collect())
    }

    /// Why the controller could make no pod for a Job, by its newest event.
    pub(crate) async fn refusal(&self, job: &str) -> Result<Option<String>, Fault> {
        let of_job = format!("involvedObject.kind=Job,involvedObject.name={job},reason=FailedCreate");
        let events = call(self.events.list(&ListParams::default().fields(&of_job).limit(50))).await?;
        Ok(events
            .items
            .into_iter()
            .max_by_key(|event| event.last_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
            .and_then(|event| event.message))
    }
}

fn not_deployed(run: &Run) -> Problem {
    Problem::unavailable(
        format!("The run {} was not started.", run.id),
        format!("The CronJob {} is not in the cluster.", run.blueprint.job_name),
    )
    .follows("The deployment is made again, and then the start is tried again.")
    .fix("Nothing.")
}
