//! Runs as Jobs: those that requests start, and those that ticks do.
//!
//! A started run has to keep ticks away, and must not begin when a tick came first. `concurrencyPolicy: Forbid` looks at
//! `status.active` alone. So the Job is made suspended, entered there with the resource version that was read, and let go
//! only after no unfinished Job of a tick was found. Whatever dies between leaves a suspended Job, which runs nothing, and
//! is found by its name.

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

/// How often an object is written that others keep overtaking.
const TRIES: usize = 8;

/// The pause before the next of these tries.
const TRY_PAUSE: Duration = Duration::from_millis(50);

/// How long the controller may still act upon what it knew before a Job was entered in the list: it holds back its own
/// writes to 20 a second, a few of them at once, and news take their time to reach it. A fraction of a second is usual.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// How far ahead a tick may be that the controller may fire without knowing of a Job that was entered just now. Clocks of
/// two machines differ as well.
const TICK_AHEAD: SignedDuration = SignedDuration::from_secs(2);

/// The outcome of forgetting a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// There was nothing of it.
    Absent,
    /// Its Job was deleted, which names this job.
    Gone(Option<JobName>),
    /// Its Job still runs. It was cancelled, and goes once it is over.
    Running,
}

/// Jobs and pods of the namespace. Every write names the uid and the resource version of the Job that it was decided upon, and
/// only Jobs of ours are written.
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
    /// Starts a run, unless a tick came first. `known` is what is known of its CronJob.
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
            // Whether that still holds is asked while the Job is made: it runs nothing yet.
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
            return Ok(Err(Problem::unavailable(
                format!("The run {} was not started.", run.id),
                "A Job of its name is there that this service did not make, or that somebody deletes.",
            )
            .follows("The start is tried again.")));
        };
        if !is_suspended(&job) || is_cancelled(&job) {
            // A former try let it go already, or it was cancelled since: its end shows.
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
            Problem::unavailable(
                format!("The run {} was not started.", run.id),
                "Its Job was deleted before it was let go.",
            )
            .follows("The start is tried again.")
        }))
    }

    /// Lets the suspended Job of a run go, unless it was cancelled since it was `read`. `false` when it is gone.
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

    /// Deletes the Job of a run, which is to run nothing, unless it was let go since it was `read`.
    async fn drop_unstarted(&self, run: &ExecutionSpec, read: Job) -> Result<(), Fault> {
        let (uid, mut known, mut last) = (read.uid(), Some(read), None);
        for _ in 0..TRIES {
            let live = match known.take() {
                Some(known) => Some(known),
                None => self.claimed(run).await?.filter(|live| live.uid() == uid),
            };
            let Some(live) = live else { return Ok(()) };
            if !is_suspended(&live) {
                return Err(Fault::Silent("Another instance has let its Job go.".into()));
            }
            match self.delete(&live).await {
                Err(fault) if fault.is_conflict() => last = Some(fault),
                done => return done,
            }
        }
        Err(overtaken(last))
    }

    /// Suspends a Job or lets it go, unless it was changed since it was read.
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

    /// Makes the Job of a run, suspended, or finds that of a former try of the same start. `None` when the name is taken by
    /// anything else.
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

    /// The Job of a former try of the same start.
    async fn claimed(&self, run: &ExecutionSpec) -> Result<Option<Job>, Fault> {
        let job = call(&*self.clock, self.jobs.get_opt(run.id.as_str())).await?;
        Ok(job.filter(|job| {
            job.metadata.deletion_timestamp.is_none()
                && job_id_of(job) == Some(run.deployment_spec.deployment.job_id)
                && job.annotations().contains_key(names::MANUAL)
        }))
    }

    /// Enters a Job in its CronJob's list of active ones, where ticks see it. `live` is the CronJob as it was read. Gives it
    /// as it was then.
    async fn enter(&self, cron_job: &str, live: CronJob, job: &Job) -> Result<CronJob, Fault> {
        self.edit_status(cron_job, Some(live), |notes| notes.enter(job)).await
    }

    /// Has the Jobs of ticks take the place of one that steps aside for them.
    async fn give_way(&self, cron_job: &str, job: &Job, to: &[(ExecutionId, Job)]) -> Result<CronJob, Fault> {
        self.edit_status(cron_job, None, |notes| {
            let removed = notes.remove(job);
            notes.fire_all(to) || removed
        })
        .await
    }

    /// Changes what a CronJob's status notes. `known` is the CronJob as it was read, and `change` tells whether it changed
    /// something.
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

    /// The Jobs of a job, as they are now. The CronJob is named as the job.
    async fn jobs_of(&self, job_id: JobId, cron_job: &str) -> Result<Vec<Job>, Fault> {
        let of_job = if self.adopts {
            // Also those that began before the CronJob was taken over.
            format!("{}={},{}={cron_job}", names::TYPE.0, names::TYPE.1, names::NAME)
        } else {
            format!("{}={job_id}", names::JOB_ID)
        };
        Ok(call(&*self.clock, self.jobs.list(&ListParams::default().labels(&of_job))).await?.items)
    }

    /// Deletes a Job with its pods, unless it was changed since it was read. Without a word about its pods they would
    /// stay.
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

    /// The Job of a run of this job, as it is now. `None` when there is none, or when what has its name is no run of the job.
    async fn run_of(&self, id: &ExecutionId, job_id: JobId) -> Result<Option<Job>, Fault> {
        let live = call(&*self.clock, self.jobs.get_opt(id.as_str())).await?;
        Ok(live.filter(|job| is_run_of(job, job_id)))
    }

    /// Asks a run of a job to end: a suspended Job's pods are ended with their grace period, and the Job stays to be recorded.
    /// `false` when there is no such Job.
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

    /// Removes what is left of a run of a job. One that still runs is cancelled first, and has to be forgotten once more when it
    /// is over.
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

    /// Whether nothing of a Job runs, and nothing will.
    async fn is_at_rest(&self, job: &Job, job_id: JobId) -> Result<bool, Fault> {
        let Some(view) = JobView::with(job, job_id) else { return Ok(false) };
        if view.is_over() {
            return Ok(true);
        }
        if !view.suspended || view.active > 0 {
            return Ok(false);
        }
        let pods = self.pods(&view.name).await?;
        // One that was cancelled may have a pod of which no news has come yet; one that was never let go has none.
        let is_ended = || matches!(run_state(&view, &pods, self.clock.now()), RunState::Ended(_));
        Ok(pods.iter().all(PodView::is_over) && (view.cancelled_at.is_none() || is_ended()))
    }

    /// Has a tick count as fired before its Job goes. The controller notes it only after it made the Job, and begins anew
    /// when somebody wrote in between: it must find the Job then, or the note, or it makes the Job a second time.
    async fn keep_fired(&self, owner: &OwnerReference, tick: Timestamp, job_id: JobId) -> Result<(), Fault> {
        let Some(live) = call(&*self.clock, self.cron_jobs.get_opt(&owner.name)).await? else { return Ok(()) };
        let mut notes = StatusEdit::of(&live);
        if live.uid().as_deref() != Some(&owner.uid) || !notes.fired_at(tick) {
            return Ok(());
        }
        patch_status(&*self.clock, &self.cron_jobs, &live, notes.into_status()).await?;
        // Until the controller has read it. It may have been about to note the next tick, and that is lost to this write.
        self.clock.sleep(SETTLED_AFTER).await;
        let ticks = unfinished_ticks(&self.jobs_of(job_id, &owner.name).await?, job_id);
        self.edit_status(&owner.name, None, |notes| notes.fire_all(&ticks)).await.map(drop)
    }

    /// A Job as it is now.
    pub(crate) async fn job(&self, name: &str) -> Result<Option<JobView>, Fault> {
        Ok(call(&*self.clock, self.jobs.get_opt(name)).await?.as_ref().and_then(JobView::of))
    }

    /// The pods of a Job as they are now.
    pub(crate) async fn pods(&self, job: &str) -> Result<Vec<PodView>, Fault> {
        let of_job = format!("{}={job}", names::JOB_OF_POD);
        let pods = call(&*self.clock, self.pods.list(&ListParams::default().labels(&of_job))).await?;
        Ok(pods.items.iter().filter_map(PodView::of).collect())
    }
}

/// Whether a Job is a run of this job: it has the job's label, and a request or a tick started it.
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

/// The runs among these Jobs of a job that ticks started and that are not over.
fn unfinished_ticks(jobs: &[Job], job_id: JobId) -> Vec<(ExecutionId, Job)> {
    let unfinished = jobs.iter().filter_map(|job| {
        let view = JobView::with(job, job_id)?;
        let is_unfinished_tick = !view.manual && !view.is_over() && !view.terminating;
        is_unfinished_tick.then(|| ExecutionId::parse(&view.name)).flatten().map(|id| (id, job.clone()))
    });
    unfinished.collect()
}

/// Others changed an object at each try to write it.
fn overtaken(last: Option<Fault>) -> Fault {
    last.unwrap_or_else(|| Fault::Silent("Others keep changing the object.".into()))
}

/// What the status of a CronJob notes of its Jobs, and what decides whether the controller makes another one. It enters what
/// it made by itself, unless somebody wrote in between: then it does so only until the next tick is due, and a Job that it
/// forgot does not hold that one back. So whoever writes here enters what was forgotten.
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

    /// Enters a Job in the list of active ones. Tells whether it was not there.
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

    /// Takes a Job out of the list of active ones. Tells whether it was there.
    fn remove(&mut self, job: &Job) -> bool {
        let before = self.active.len();
        self.active.retain(|entry| entry.uid != job.uid());
        self.active.len() != before
    }

    /// Has a tick count as fired. Tells whether it did not, nor one after it.
    fn fired_at(&mut self, tick: Timestamp) -> bool {
        let is_news = self.last_fired.is_none_or(|last| last < tick);
        if is_news {
            self.last_fired = Some(tick);
        }
        is_news
    }

    /// Enters Jobs of ticks, which count as fired from then on. Tells whether anything of that is new.
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

/// Whether there is a tick that the controller may be firing at this moment, or has held back.
fn awaits_scheduled_time(cron_job: &CronJob, now: Timestamp) -> bool {
    let Some(spec) = cron_job.spec.as_ref().filter(|spec| !spec.suspend.unwrap_or_default()) else { return false };
    let Ok(schedule) = Schedule::parse(&spec.schedule, spec.time_zone.as_deref().unwrap_or("UTC")) else {
        return false;
    };
    let made = cron_job.metadata.creation_timestamp.as_ref();
    let since = last_fired(cron_job).or(made.map(|time| time.0)).unwrap_or(Timestamp::UNIX_EPOCH);
    // What is too late is not fired any more.
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let since = deadline.and_then(|deadline| now.checked_sub(deadline).ok()).map_or(since, |first| since.max(first));
    schedule.latest_between(since, now + TICK_AHEAD).is_some()
}

fn not_deployed(run: &ExecutionSpec) -> Problem {
    Problem::unavailable(
        format!("The run {} was not started.", run.id),
        format!("The CronJob {} is not in the cluster.", run.deployment_spec.job_name),
    )
    .follows("The deployment is made again, and then the start is tried again.")
    .fix("Nothing.")
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
                // The quarter past there is half past here.
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
            // Held back by a run until now.
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
