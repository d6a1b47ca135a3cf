//! Executions as Jobs: manual and scheduled ones.
//!
//! A manual execution has to hold back scheduled ones, and must not begin when a scheduled one came first.
//! `concurrencyPolicy: Forbid` considers only `status.active`. So the Job is created suspended, added to `status.active` with
//! the resource version that was read, and resumed only after a check that no scheduled Job is active. A crash in between leaves
//! a suspended Job, which runs nothing and is found by its name.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job},
        core::v1::{ObjectReference, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
};
use model::{
    Problem,
    clock::SharedClock,
    name::{ExecutionId, JobId, JobName},
    problem::Code,
    runtime::{ExecutionSpec, Started},
    schedule::Schedule,
};

use super::{
    MANAGER,
    apply::{last_fired, patch_status},
    fault::{Fault, call},
    fence::Fence,
    manifest::{self, ManifestOptions},
    names,
    stage::{RunState, run_state},
    view::{CronJobView, JobView, PodView, job_id_of},
};

/// The most attempts to write an object while others change it.
const TRIES: usize = 8;

/// The pause between these attempts.
const TRY_PAUSE: Duration = Duration::from_millis(50);

/// How long the controller may act on an older state after a Job was added to the list: it limits its own writes to 20 per
/// second, and its watch may be late. Usually this takes a fraction of a second.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// How far ahead a tick may be that the controller may start without having seen a Job that was just added. This includes the
/// difference of two clocks.
const TICK_AHEAD: SignedDuration = SignedDuration::from_secs(2);

/// The outcome of removing the rest of an execution.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// Nothing of it existed.
    Absent,
    /// Its Job, which belongs to this data job, was deleted.
    Gone(Option<JobName>),
    /// Its Job still runs. It was cancelled, and is removed once it is over.
    Running,
}

/// Jobs and pods of the namespace. Every write has the uid and the resource version of the Job on which its decision is based,
/// and only managed Jobs are written.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) cron_jobs: Api<CronJob>,
    pub(crate) jobs: Api<Job>,
    pub(crate) pods: Api<Pod>,
    /// Whether CronJobs of another Control Service are taken over.
    pub(crate) adopts: bool,
    pub(crate) clock: SharedClock,
    pub(crate) fence: Fence,
}

impl Runner {
    /// Starts an execution, unless a scheduled one came first. `known` is the watched state of its CronJob.
    pub(crate) async fn start(
        &self,
        options: &ManifestOptions,
        run: &ExecutionSpec,
        image: &str,
        known: Option<CronJobView>,
    ) -> Result<Started, Problem> {
        let what = || format!("The run {} was not started.", run.id);
        Box::pin(self.try_start(options, run, image, known))
            .await
            .map_err(|fault| fault.into_problem_of(what(), &run.deployment_spec.deployment))?
    }

    async fn try_start(
        &self,
        options: &ManifestOptions,
        run: &ExecutionSpec,
        image: &str,
        known: Option<CronJobView>,
    ) -> Result<Result<Started, Problem>, Fault> {
        let name = run.deployment_spec.job_name.as_str();
        let is_of_job = |view: &CronJobView| view.job_id == Some(run.deployment_spec.deployment.job_id);
        let (job, cron_job) = if let Some(known) = known.filter(is_of_job) {
            // The CronJob is read while the Job is created, because the suspended Job runs nothing yet.
            tokio::try_join!(
                self.make(options, run, image, known.uid),
                call(&*self.clock, self.cron_jobs.get_opt(name))
            )?
        } else {
            let live = call(&*self.clock, self.cron_jobs.get_opt(name)).await?;
            let Some(cron_job) = live.filter(|live| is_of_job(&CronJobView::of(&live.metadata))) else {
                return Ok(Err(not_deployed(run)));
            };
            (self.make(options, run, image, cron_job.uid().unwrap_or_default()).await?, Some(cron_job))
        };
        let Some(job) = job else {
            return Ok(Err(Problem::new(
                Code::JobObjectUnmanaged,
                format!("The execution {} was not started.", run.id),
                format!("The Job {} exists and was not created by Holdfast, or is still being deleted.", run.id),
            )
            .follows("The execution waits.")
            .no_action("Holdfast retries. If it persists, delete that Job.")));
        };
        if !is_suspended(&job) || is_cancelled(&job) {
            // An earlier attempt resumed it already, or it was cancelled since then: follow it to its end.
            return Ok(Ok(Started::Running));
        }
        let owner = |job: &Job| job.owner_references().first().map(|owner| owner.uid.clone());
        let Some(cron_job) = cron_job.filter(|live| live.uid().is_some() && live.uid() == owner(&job)) else {
            // It was made for a CronJob that is gone, and would go with it.
            Box::pin(self.drop_unstarted(run, job)).await?;
            return Ok(Err(not_deployed(run)));
        };
        let cron_job = Box::pin(self.enter(name, cron_job, &job)).await?;
        if awaits_scheduled_time(&cron_job, self.clock.now()) {
            self.clock.sleep(SETTLED_AFTER).await;
        }
        let job_id = run.deployment_spec.deployment.job_id;
        let jobs = self.jobs_of(job_id, name).await?;
        let ticks = unfinished_ticks(&jobs, job_id);
        // Its controller has written to it since it was made.
        let read = jobs.into_iter().find(|other| other.uid() == job.uid()).unwrap_or_else(|| job.clone());
        if let Some((before, _)) = ticks.first() {
            self.give_way(name, &job, &ticks).await?;
            Box::pin(self.drop_unstarted(run, read)).await?;
            return Ok(Ok(Started::Skipped { for_run: before.clone() }));
        }
        Ok(Box::pin(self.release(run, read)).await?.then_some(Started::Running).ok_or_else(|| {
            Problem::new(
                Code::JobObjectDeleted,
                format!("The execution {} was not started.", run.id),
                "Its Job was deleted before it was resumed.",
            )
            .follows("The execution waits.")
            .no_action("Holdfast recreates the Job.")
        }))
    }

    /// Resumes the suspended Job of an execution, unless it was cancelled since it was `read`. `false` when it is gone.
    async fn release(&self, run: &ExecutionSpec, read: Job) -> Result<bool, Fault> {
        let (uid, mut known, mut last) = (read.uid(), Some(read), None);
        for _ in 0..TRIES {
            let live = match known.take() {
                Some(known) => Some(known),
                None => self.claimed(run).await?.filter(|live| live.uid() == uid),
            };
            let Some(live) = live else { return Ok(false) };
            if !is_suspended(&live) || is_cancelled(&live) {
                return Ok(true);
            }
            match self.suspend(&live, false, None).await {
                Ok(()) => return Ok(true),
                Err(fault) if fault.is_missing() => return Ok(false),
                Err(fault) if fault.is_conflict() => last = Some(fault),
                Err(fault) => return Err(fault),
            }
        }
        Err(overtaken(last))
    }

    /// Deletes the suspended Job of an execution, unless it was resumed since it was `read`.
    async fn drop_unstarted(&self, run: &ExecutionSpec, read: Job) -> Result<(), Fault> {
        let (uid, mut known, mut last) = (read.uid(), Some(read), None);
        for _ in 0..TRIES {
            let live = match known.take() {
                Some(known) => Some(known),
                None => self.claimed(run).await?.filter(|live| live.uid() == uid),
            };
            let Some(live) = live else { return Ok(()) };
            if !is_suspended(&live) {
                return Err(Fault::Silent("Another instance has already resumed its Job.".into()));
            }
            match self.delete(&live).await {
                Err(fault) if fault.is_conflict() => last = Some(fault),
                done => return done,
            }
        }
        Err(overtaken(last))
    }

    /// Suspends or resumes a Job, unless it changed since it was read.
    async fn suspend(&self, read: &Job, suspend: bool, mark: Option<(String, String)>) -> Result<(), Fault> {
        let annotations: BTreeMap<_, _> = mark.into_iter().chain([self.fence.annotation()]).collect();
        let patch = serde_json::json!({
            "metadata": {
                "uid": read.uid(),
                "resourceVersion": read.resource_version(),
                "annotations": annotations,
            },
            "spec": { "suspend": suspend },
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        call(&*self.clock, self.jobs.patch(&read.name_any(), &params, &Patch::Merge(&patch))).await.map(drop)
    }

    /// Creates the suspended Job of an execution, or finds that of an earlier attempt of the same start. `None` when another
    /// object has its name.
    async fn make(
        &self,
        options: &ManifestOptions,
        run: &ExecutionSpec,
        image: &str,
        owner_uid: String,
    ) -> Result<Option<Job>, Fault> {
        let owner = OwnerReference {
            api_version: "batch/v1".into(),
            kind: "CronJob".into(),
            name: run.deployment_spec.job_name.to_string(),
            uid: owner_uid,
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let mut job = manifest::manual_job(options, run, image, owner);
        self.fence.mark(&mut job.metadata);
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        match call(&*self.clock, self.jobs.create(&params, &job)).await {
            Ok(job) => Ok(Some(job)),
            Err(fault) if fault.is_taken() => self.claimed(run).await,
            Err(fault) => Err(fault),
        }
    }

    /// The Job of an earlier attempt of the same start.
    async fn claimed(&self, run: &ExecutionSpec) -> Result<Option<Job>, Fault> {
        let job = call(&*self.clock, self.jobs.get_opt(run.id.as_str())).await?;
        Ok(job.filter(|job| {
            job.metadata.deletion_timestamp.is_none()
                && job_id_of(job) == Some(run.deployment_spec.deployment.job_id)
                && job.annotations().contains_key(names::MANUAL)
        }))
    }

    /// Adds a Job to its CronJob's list of active ones, which scheduled executions respect. `live` is the CronJob as it was read.
    /// Returns the CronJob before the change.
    async fn enter(&self, cron_job: &str, live: CronJob, job: &Job) -> Result<CronJob, Fault> {
        self.edit_status(cron_job, Some(live), |notes| notes.enter(job)).await
    }

    /// Replaces a manual Job by scheduled ones in the list of active Jobs.
    async fn give_way(&self, cron_job: &str, job: &Job, to: &[(ExecutionId, Job)]) -> Result<CronJob, Fault> {
        self.edit_status(cron_job, None, |notes| {
            let removed = notes.remove(job);
            notes.fire_all(to) || removed
        })
        .await
    }

    /// Changes the status of a CronJob. `known` is the CronJob as it was read, and `change` returns whether it changed anything.
    async fn edit_status(
        &self,
        cron_job: &str,
        mut known: Option<CronJob>,
        change: impl Fn(&mut StatusEdit) -> bool,
    ) -> Result<CronJob, Fault> {
        let mut last = None;
        for _ in 0..TRIES {
            let live = match known.take() {
                Some(known) => known,
                None => call(&*self.clock, self.cron_jobs.get_status(cron_job)).await?,
            };
            let mut notes = StatusEdit::of(&live);
            if !change(&mut notes) {
                return Ok(live);
            }
            match patch_status(&*self.clock, &self.cron_jobs, &live, notes.into_status()).await {
                Ok(changed) => return Ok(changed),
                Err(fault) if fault.is_conflict() => last = Some(fault),
                Err(fault) => return Err(fault),
            }
            self.clock.sleep(TRY_PAUSE).await;
        }
        Err(overtaken(last))
    }

    /// Reads the Jobs of a data job from the API server. The CronJob has the name of the data job.
    async fn jobs_of(&self, job_id: JobId, cron_job: &str) -> Result<Vec<Job>, Fault> {
        let of_job = if self.adopts {
            // This includes Jobs from before the CronJob was taken over.
            format!("{}={},{}={cron_job}", names::TYPE.0, names::TYPE.1, names::NAME)
        } else {
            format!("{}={job_id}", names::JOB_ID)
        };
        Ok(call(&*self.clock, self.jobs.list(&ListParams::default().labels(&of_job))).await?.items)
    }

    /// Deletes a Job with its pods, unless it changed since it was read. Without a propagation policy the pods would stay.
    async fn delete(&self, read: &Job) -> Result<(), Fault> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid: read.uid(), resource_version: read.resource_version() }),
            ..DeleteParams::default()
        };
        match call(&*self.clock, self.jobs.delete(&read.name_any(), &params)).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_missing() => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Reads the Job of an execution of this data job from the API server. `None` when there is none, or when the object of this
    /// name is no execution of the data job.
    async fn run_of(&self, id: &ExecutionId, job_id: JobId) -> Result<Option<Job>, Fault> {
        let live = call(&*self.clock, self.jobs.get_opt(id.as_str())).await?;
        Ok(live.filter(|job| is_run_of(job, job_id)))
    }

    /// Cancels an execution: the pods of a suspended Job are terminated with their grace period, and the Job stays until its
    /// result is recorded. `false` when there is no such Job.
    pub(crate) async fn cancel(&self, id: &ExecutionId, job_id: JobId) -> Result<bool, Fault> {
        let mut last = None;
        for _ in 0..TRIES {
            let Some(live) = self.run_of(id, job_id).await? else { return Ok(false) };
            let is_over = JobView::with(&live, job_id).is_some_and(|view| view.is_over());
            if is_over || is_suspended(&live) && is_cancelled(&live) {
                return Ok(true);
            }
            match self.suspend(&live, true, Some((names::CANCELLED.to_owned(), self.clock.now().to_string()))).await {
                Ok(()) => return Ok(true),
                Err(fault) if fault.is_missing() => return Ok(false),
                Err(fault) if fault.is_conflict() => last = Some(fault),
                Err(fault) => return Err(fault),
            }
        }
        Err(overtaken(last))
    }

    /// Removes the Job of an execution. One that still runs is only cancelled, and has to be removed once it is over.
    pub(crate) async fn forget(&self, id: &ExecutionId, job_id: JobId) -> Result<Forgotten, Fault> {
        let mut last = None;
        for _ in 0..TRIES {
            let Some(live) = self.run_of(id, job_id).await? else { return Ok(Forgotten::Absent) };
            if live.metadata.deletion_timestamp.is_some() {
                return Ok(Forgotten::Absent);
            }
            if !self.is_at_rest(&live, job_id).await? {
                self.cancel(id, job_id).await?;
                return Ok(Forgotten::Running);
            }
            if !live.annotations().contains_key(names::MANUAL)
                && let Some(tick) = live.annotations().get(names::SCHEDULED_AT).and_then(|tick| tick.parse().ok())
                && let Some(owner) = live.owner_references().iter().find(|owner| owner.kind == "CronJob")
            {
                Box::pin(self.keep_fired(owner, tick, job_id)).await?;
            }
            match self.delete(&live).await {
                Ok(()) => {
                    let name = live.labels().get(names::NAME).and_then(|name| JobName::parse(name).ok());
                    return Ok(Forgotten::Gone(name));
                }
                Err(fault) if fault.is_conflict() => last = Some(fault),
                Err(fault) => return Err(fault),
            }
        }
        Err(overtaken(last))
    }

    /// Whether a Job runs nothing, now and later.
    async fn is_at_rest(&self, job: &Job, job_id: JobId) -> Result<bool, Fault> {
        let Some(view) = JobView::with(job, job_id) else { return Ok(false) };
        if view.is_over() {
            return Ok(true);
        }
        if !view.suspended || view.active > 0 {
            return Ok(false);
        }
        let pods = self.pods(&view.name).await?;
        // A cancelled Job may have a pod that was not reported yet; a Job that was never resumed has none.
        let is_ended = || matches!(run_state(&view, &pods, self.clock.now()), RunState::Ended(_));
        Ok(pods.iter().all(PodView::is_over) && (view.cancelled_at.is_none() || is_ended()))
    }

    /// Records a tick as started before its Job is removed. The controller records it only after it created the Job, and starts
    /// over after a concurrent write: then it must find the Job or the record, or it creates the Job a second time.
    async fn keep_fired(&self, owner: &OwnerReference, tick: Timestamp, job_id: JobId) -> Result<(), Fault> {
        let Some(live) = call(&*self.clock, self.cron_jobs.get_opt(&owner.name)).await? else { return Ok(()) };
        let mut notes = StatusEdit::of(&live);
        if live.uid().as_deref() != Some(&owner.uid) || !notes.fired_at(tick) {
            return Ok(());
        }
        patch_status(&*self.clock, &self.cron_jobs, &live, notes.into_status()).await?;
        // Wait until the controller has read it: it may have been about to record the next tick, which conflicts with this write.
        self.clock.sleep(SETTLED_AFTER).await;
        let ticks = unfinished_ticks(&self.jobs_of(job_id, &owner.name).await?, job_id);
        self.edit_status(&owner.name, None, |notes| notes.fire_all(&ticks)).await.map(drop)
    }

    /// Reads a Job from the API server.
    pub(crate) async fn job(&self, name: &str) -> Result<Option<JobView>, Fault> {
        Ok(call(&*self.clock, self.jobs.get_opt(name)).await?.as_ref().and_then(JobView::of))
    }

    /// Reads the pods of a Job from the API server.
    pub(crate) async fn pods(&self, job: &str) -> Result<Vec<PodView>, Fault> {
        let of_job = format!("{}={job}", names::JOB_OF_POD);
        let pods = call(&*self.clock, self.pods.list(&ListParams::default().labels(&of_job))).await?;
        Ok(pods.items.iter().filter_map(PodView::of).collect())
    }
}

/// Whether a Job is an execution of this data job: it has the data job's label, and is manual or scheduled.
fn is_run_of(job: &Job, job_id: JobId) -> bool {
    let has = |name: &str| job.annotations().contains_key(name);
    let is_of_cron_job = || job.owner_references().iter().any(|owner| owner.kind == "CronJob");
    job_id_of(job) == Some(job_id) && (has(names::MANUAL) || has(names::SCHEDULED_AT) || is_of_cron_job())
}

fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or_default()
}

fn is_cancelled(job: &Job) -> bool {
    job.annotations().contains_key(names::CANCELLED)
}

/// The scheduled executions among these Jobs that are not over.
fn unfinished_ticks(jobs: &[Job], job_id: JobId) -> Vec<(ExecutionId, Job)> {
    let unfinished = jobs.iter().filter_map(|job| {
        let view = JobView::with(job, job_id)?;
        let is_unfinished_tick = !view.manual && !view.is_over() && !view.terminating;
        is_unfinished_tick.then(|| ExecutionId::parse(&view.name)).flatten().map(|id| (id, job.clone()))
    });
    unfinished.collect()
}

/// The error after others changed an object at each attempt to write it.
fn overtaken(last: Option<Fault>) -> Fault {
    last.unwrap_or_else(|| Fault::Silent("Others keep changing the object.".into()))
}

/// The part of the status of a CronJob that decides whether the controller creates another Job. The controller adds its own Jobs,
/// but after a concurrent write only until the next tick is due, and a missing Job does not hold that tick back. So each write
/// of this service adds missing Jobs.
#[derive(Debug, Clone, PartialEq)]
struct StatusEdit {
    active: Vec<ObjectReference>,
    last_fired: Option<Timestamp>,
}

impl StatusEdit {
    fn of(cron_job: &CronJob) -> Self {
        Self {
            active: cron_job.status.as_ref().and_then(|status| status.active.clone()).unwrap_or_default(),
            last_fired: last_fired(cron_job),
        }
    }

    /// Adds a Job to the list of active ones. Returns whether it was missing.
    fn enter(&mut self, job: &Job) -> bool {
        if self.active.iter().any(|entry| entry.uid == job.uid()) {
            return false;
        }
        self.active.push(ObjectReference {
            api_version: Some("batch/v1".into()),
            kind: Some("Job".into()),
            name: job.metadata.name.clone(),
            namespace: job.metadata.namespace.clone(),
            uid: job.uid(),
            resource_version: job.resource_version(),
            ..ObjectReference::default()
        });
        true
    }

    /// Removes a Job from the list of active ones. Returns whether it was there.
    fn remove(&mut self, job: &Job) -> bool {
        let before = self.active.len();
        self.active.retain(|entry| entry.uid != job.uid());
        self.active.len() != before
    }

    /// Records a tick as started. Returns whether neither it nor a later one was recorded.
    fn fired_at(&mut self, tick: Timestamp) -> bool {
        let is_news = self.last_fired.is_none_or(|last| last < tick);
        if is_news {
            self.last_fired = Some(tick);
        }
        is_news
    }

    /// Adds scheduled Jobs and records their ticks as started. Returns whether anything changed.
    fn fire_all(&mut self, ticks: &[(ExecutionId, Job)]) -> bool {
        ticks.iter().fold(false, |changed, (_, job)| {
            let entered = self.enter(job);
            let tick = job.annotations().get(names::SCHEDULED_AT).and_then(|tick| tick.parse().ok());
            tick.is_some_and(|tick| self.fired_at(tick)) || entered || changed
        })
    }

    fn into_status(self) -> serde_json::Value {
        let mut status = serde_json::json!({ "active": self.active });
        if let Some(last) = self.last_fired {
            status["lastScheduleTime"] = last.to_string().into();
        }
        status
    }
}

/// Whether the controller may be starting a tick at this moment, or has held one back.
fn awaits_scheduled_time(cron_job: &CronJob, now: Timestamp) -> bool {
    let Some(spec) = cron_job.spec.as_ref().filter(|spec| !spec.suspend.unwrap_or_default()) else { return false };
    let Ok(schedule) = Schedule::parse(&spec.schedule, spec.time_zone.as_deref().unwrap_or("UTC")) else {
        return false;
    };
    let made = cron_job.metadata.creation_timestamp.as_ref();
    let since = last_fired(cron_job).or(made.map(|time| time.0)).unwrap_or(Timestamp::UNIX_EPOCH);
    // A tick after its deadline is not started.
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let since = deadline.and_then(|deadline| now.checked_sub(deadline).ok()).map_or(since, |first| since.max(first));
    schedule.latest_between(since, now + TICK_AHEAD).is_some()
}

fn not_deployed(run: &ExecutionSpec) -> Problem {
    Problem::new(
        Code::CronJobMissing,
        format!("The execution {} was not started.", run.id),
        format!("The CronJob {} does not exist in the cluster.", run.deployment_spec.job_name),
    )
    .follows("The execution waits.")
    .no_action("Holdfast recreates the CronJob and retries.")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::batch::v1::{CronJobSpec, CronJobStatus},
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    };

    use super::*;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn the_job_of_a_tick_that_the_controller_forgot_is_noted_as_it_would_have_been() {
        let job = |name: &str, tick: Option<&str>| Job {
            metadata: ObjectMeta {
                name: Some(name.into()),
                uid: Some(format!("uid of {name}")),
                annotations: tick.map(|tick| BTreeMap::from([(names::SCHEDULED_AT.to_owned(), tick.to_owned())])),
                ..ObjectMeta::default()
            },
            ..Job::default()
        };
        let started = job("started", None);
        let mut notes = StatusEdit { active: Vec::new(), last_fired: Some(at("2024-05-01T10:29:00Z")) };
        assert!(notes.enter(&started) && !notes.enter(&started));
        let tick = |time| vec![(ExecutionId::parse("ticks-1").unwrap(), job("ticks-1", Some(time)))];
        let (forgotten, before) = (tick("2024-05-01T10:30:00Z"), tick("2024-05-01T10:15:00Z"));
        assert!(notes.remove(&started) && notes.fire_all(&forgotten));
        let status = notes.clone().into_status();
        assert_eq!(status["active"][0]["uid"], "uid of ticks-1", "{status}");
        assert_eq!(status["lastScheduleTime"], "2024-05-01T10:30:00Z");
        assert!(!notes.fire_all(&forgotten) && !notes.fire_all(&before), "nothing new");
        assert_eq!(notes.into_status(), status);
        let none = StatusEdit { active: Vec::new(), last_fired: None };
        assert_eq!(none.into_status(), serde_json::json!({"active": []}), "a time that there is not is not written");
    }

    #[test]
    fn a_start_waits_for_a_tick_that_may_fire_at_this_moment() {
        let cron_job = |last: Option<&str>, suspend: bool| CronJob {
            metadata: ObjectMeta {
                creation_timestamp: Some(Time(at("2024-05-01T10:20:00Z"))),
                ..ObjectMeta::default()
            },
            spec: Some(CronJobSpec {
                schedule: "15 * * * *".into(),
                // A quarter past in that zone is half past in this one.
                time_zone: Some("Asia/Kathmandu".into()),
                suspend: Some(suspend),
                starting_deadline_seconds: Some(1800),
                ..CronJobSpec::default()
            }),
            status: Some(CronJobStatus {
                last_schedule_time: last.map(|last| Time(at(last))),
                ..CronJobStatus::default()
            }),
        };
        let cases = [
            (None, "2024-05-01T10:25:00Z", false),
            (None, "2024-05-01T10:29:57.9Z", false),
            (None, "2024-05-01T10:29:58.5Z", true),
            (None, "2024-05-01T10:30:00.1Z", true),
            (Some("2024-05-01T10:30:00Z"), "2024-05-01T10:30:00.2Z", false),
            (Some("2024-05-01T10:30:00Z"), "2024-05-01T11:29:00Z", false),
            // An execution held it back until now.
            (Some("2024-05-01T10:30:00Z"), "2024-05-01T11:45:00Z", true),
            // Too late.
            (Some("2024-05-01T08:30:00Z"), "2024-05-01T10:05:00Z", false),
        ];
        for (last, now, expected) in cases {
            assert_eq!(awaits_scheduled_time(&cron_job(last, false), at(now)), expected, "{last:?} {now}");
            assert!(!awaits_scheduled_time(&cron_job(last, true), at(now)), "it is suspended");
        }
    }
}
