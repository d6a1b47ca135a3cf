//! Writes the CronJob of a deployment, and its secrets.
//!
//! An update is a PUT of the whole rendered object with the uid and the resource version that were read: additions of others
//! to the spec are removed, and a concurrent change causes another read instead of being lost. Additions of others to the
//! *metadata* stay, because no execution depends on them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
};
use model::{
    Problem,
    artifact::LastApplied,
    clock::{Clock, SharedClock},
    deployment::Deployment,
    name::{JobId, JobName},
    problem::Code,
    runtime::{Observed, Target},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    MANAGER,
    fault::{Fault, call},
    fence::Fence,
    field_conflict::{Reverts, carry_over},
    names,
    view::{self, CronJobView, job_id},
    watch::Namespace,
};

/// The most attempts of an update that conflicts with other writers.
const TRIES: usize = 4;

/// The last applied state of a CronJob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppliedObject {
    uid: String,
    generation: i64,
    /// Of the spec in the response, so that defaults of the server are no drift.
    spec_hash: String,
    inputs_hash: String,
    /// Whether it uses values from the secret of the options file.
    #[serde(default)]
    pub(crate) has_options: bool,
    /// The reverted changes of others.
    #[serde(default)]
    reverts: Reverts,
}

impl AppliedObject {
    fn of(object: &CronJob, spec_hash: String, reverts: Reverts) -> Self {
        Self {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            spec_hash,
            inputs_hash: inputs_hash(object).unwrap_or_default().to_owned(),
            has_options: has_options(object),
            reverts,
        }
    }

    pub(crate) fn read(mark: &LastApplied) -> Option<Self> {
        serde_json::from_str(mark.as_str()).ok()
    }

    fn mark(&self) -> LastApplied {
        LastApplied::new(serde_json::to_string(self).unwrap_or_default())
    }
}

fn inputs_hash(object: &CronJob) -> Option<&str> {
    object.annotations().get(names::INPUTS_HASH).map(String::as_str)
}

fn has_options(object: &CronJob) -> bool {
    let metadata = object.spec.as_ref().and_then(|spec| spec.job_template.metadata.as_ref());
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
    annotations.is_some_and(|annotations| annotations.contains_key(names::OPTIONS_HASH))
}

fn spec_of(object: &CronJob) -> Value {
    serde_json::to_value(&object.spec).unwrap_or_default()
}

/// A CronJob whose spec equals the last applied one although others have changed its generation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Equal {
    uid: String,
    generation: i64,
    spec_hash: String,
}

/// The desired content of a secret.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content<'a> {
    /// Exactly these values; `None` when the secret only has to exist and others fill it.
    pub(crate) data: Option<&'a BTreeMap<String, String>>,
    /// Whether values that are not in `data` stay.
    pub(crate) keeps_more: bool,
}

/// CronJobs and the secrets beside them.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) cron_jobs: Api<CronJob>,
    pub(crate) secrets: Api<Secret>,
    /// Fields of a CronJob's spec that others own, as JSON pointers into the spec.
    pub(crate) ignored: Vec<String>,
    /// Whether CronJobs that another Control Service made for a job of the same name are taken over.
    pub(crate) adopts: bool,
    /// The time zone of the controller, which applies to CronJobs without one.
    pub(crate) controller_zone: String,
    pub(crate) clock: SharedClock,
    pub(crate) fence: Fence,
    /// CronJobs by name that need no read at each full resync. Kept as long as this process runs.
    pub(crate) equal: EqualCronJobs,
}

/// See [`Writer::equal`].
#[derive(Debug, Clone, Default)]
pub(crate) struct EqualCronJobs(Arc<Mutex<HashMap<String, Equal>>>);

impl EqualCronJobs {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Equal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the watched state of a CronJob is one that was found equal to the last applied one.
    fn has(&self, written: &AppliedObject, seen: &CronJobView, target: &Target) -> bool {
        self.all().get(target.job_name.as_str()).is_some_and(|equal| {
            equal.uid == seen.uid
                && seen.generation <= equal.generation
                && equal.spec_hash == written.spec_hash
                && seen.job_id == Some(target.job_id)
        })
    }
}

impl Writer {
    /// Observes the object of a deployment.
    pub(crate) async fn observe(&self, namespace: &Namespace, target: &Target) -> Result<Observed, Fault> {
        let name = target.job_name.as_str();
        let written = target.last_applied.as_ref().and_then(AppliedObject::read);
        if let (Some(written), Some(seen)) = (&written, namespace.cron_job(name))
            && (is_as_written(written, &seen, target) || self.equal.has(written, &seen, target))
        {
            return Ok(Observed::Present { inputs_hash: written.inputs_hash.clone() });
        }
        // The first write reads the object itself, so that thousands of first reconciliations need no call here.
        if written.is_none() && namespace.cron_job(name).is_none() && namespace.is_listed() {
            return Ok(Observed::Missing);
        }
        // The watch may be behind, and the result of this method leads to a write.
        let Some(live) = call(&*self.clock, self.cron_jobs.get_opt(name)).await? else { return Ok(Observed::Missing) };
        Ok(match written {
            _ if !is_managed(&live, target, written.as_ref()) && !self.may_adopt(&live, target) => {
                Observed::Unmanaged {
                    object: format!("CronJob {}", target.job_name),
                    owner: owner(&live, &target.job_name),
                }
            }
            Some(written)
                if written.uid == live.uid().unwrap_or_default()
                    && self.spec_hash(spec_of(&live)) == written.spec_hash
                    && job_id(&live.metadata) == Some(target.job_id) =>
            {
                let generation = live.metadata.generation.unwrap_or_default();
                let equal = Equal { uid: written.uid, generation, spec_hash: written.spec_hash };
                self.equal.all().insert(name.to_owned(), equal);
                Observed::Present { inputs_hash: written.inputs_hash }
            }
            _ => Observed::Changed { by: last_writer(&live.metadata) },
        })
    }

    /// Hashes a spec without the fields that others own.
    fn spec_hash(&self, mut spec: Value) -> String {
        self.name_zone(&mut spec);
        carry_over(&mut spec, &Value::Null, &self.ignored);
        hex::encode(Sha256::digest(spec.to_string()))
    }

    /// Sets the time zone of the controller in a spec without one.
    fn name_zone(&self, spec: &mut Value) {
        if let Some(fields) = spec.as_object_mut()
            && fields.get("timeZone").is_none_or(Value::is_null)
        {
            fields.insert("timeZone".into(), self.controller_zone.clone().into());
        }
    }

    /// Writes the CronJob `wanted`, which was rendered from `deployment`. `ticks_after` is the instant from which a changed
    /// schedule is in force. Returns the state that was written, and whether the CronJob is new.
    pub(crate) async fn apply(
        &self,
        target: &Target,
        wanted: &CronJob,
        deployment: &Deployment,
        ticks_after: Timestamp,
    ) -> Result<(LastApplied, bool), Problem> {
        let what = || format!("The CronJob {} was not written.", target.job_name);
        let written = target.last_applied.as_ref().and_then(AppliedObject::read);
        let mut last = None;
        for _ in 0..TRIES {
            match self.try_apply(target, written.as_ref(), wanted, ticks_after).await {
                Ok(Ok((done, is_new))) => return Ok((done.mark(), is_new)),
                Ok(Err(problem)) => return Err(problem),
                Err(fault) if fault.is_conflict() || fault.is_taken() => last = Some(fault),
                Err(fault) => return Err(fault.into_problem_of(what(), deployment)),
            }
        }
        let why = last.map(|fault| fault.to_string()).unwrap_or_default();
        Err(Problem::new(
            Code::CronJobWriteConflict,
            what(),
            format!("Others changed it at the same time, {TRIES} times in a row. {why}"),
        )
        .not_rolled_out()
        .no_action("Holdfast retries. If it persists, find and stop the other writer of the CronJob."))
    }

    async fn try_apply(
        &self,
        target: &Target,
        written: Option<&AppliedObject>,
        wanted: &CronJob,
        ticks_after: Timestamp,
    ) -> Result<Result<(AppliedObject, bool), Problem>, Fault> {
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let name = target.job_name.as_str();
        let mut object = wanted.clone();
        self.fence.mark(&mut object.metadata);
        let Some(live) = call(&*self.clock, self.cron_jobs.get_opt(name)).await? else {
            let made = call(&*self.clock, self.cron_jobs.create(&params, &object)).await?;
            return Ok(Ok((AppliedObject::of(&made, self.spec_hash(spec_of(&made)), Reverts::default()), true)));
        };
        let is_adopted = !is_managed(&live, target, written);
        if is_adopted && !self.may_adopt(&live, target) {
            return Ok(Err(name_taken(&target.job_name, &live)));
        }
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(Err(Problem::new(
                Code::CronJobBeingDeleted,
                format!("The CronJob {name} was not written."),
                "The CronJob is being deleted and is not gone yet.",
            )
            .follows("The deployment waits.")
            .no_action("Holdfast recreates the CronJob when it is gone.")));
        }
        let before = spec_of(&live);
        let mut reverts = written.map(|written| written.reverts.clone()).unwrap_or_default();
        // A new deployment is written even if the former one had a field conflict.
        let reverts_fields = written.is_some_and(|written| {
            Some(written.inputs_hash.as_str()) == inputs_hash(wanted)
                && self.spec_hash(before.clone()) != written.spec_hash
        });
        let mut compared = before.clone();
        self.name_zone(&mut compared);
        if reverts_fields && let Some(field) = reverts.field_conflict(&compared, self.clock.now()) {
            return Ok(Err(field_conflict(&target.job_name, &field, &live.metadata)));
        }
        if !self.ignored.is_empty() {
            let mut spec = spec_of(wanted);
            carry_over(&mut spec, &before, &self.ignored);
            object.spec = serde_json::from_value(spec).unwrap_or(object.spec);
        }
        // Its history is unknown: a tick may be due that the controller would start after the next write.
        let live = if is_adopted || self.fires_otherwise(live.spec.as_ref(), object.spec.as_ref()) {
            self.forget_ticks(live, ticks_after).await?
        } else {
            live
        };
        keep_metadata(&mut object.metadata, &live.metadata);
        let done = call(&*self.clock, self.cron_jobs.replace(name, &params, &object)).await?;
        let after = spec_of(&done);
        if reverts_fields {
            reverts.add(&compared, &after, self.clock.now());
        }
        Ok(Ok((AppliedObject::of(&done, self.spec_hash(after), reverts), false)))
    }

    /// Whether the two specs start executions at different times.
    fn fires_otherwise(&self, live: Option<&CronJobSpec>, wanted: Option<&CronJobSpec>) -> bool {
        let when = |spec: &CronJobSpec| {
            let zone = spec.time_zone.clone().unwrap_or_else(|| self.controller_zone.clone());
            (spec.schedule.clone(), zone, spec.suspend.unwrap_or_default())
        };
        live.map(when) != wanted.map(when)
    }

    /// Whether an unmanaged CronJob is to be taken over.
    fn may_adopt(&self, live: &CronJob, target: &Target) -> bool {
        self.adopts && is_another_services(live, &target.job_name)
    }

    /// Sets the last scheduled time to at least `ticks_after`, so that the controller does not make up for earlier ticks of the
    /// new schedule.
    async fn forget_ticks(&self, live: CronJob, ticks_after: Timestamp) -> Result<CronJob, Fault> {
        if last_fired(&live).is_some_and(|last| last >= ticks_after) {
            return Ok(live);
        }
        patch_status(
            &*self.clock,
            &self.cron_jobs,
            &live,
            serde_json::json!({ "lastScheduleTime": seconds(ticks_after) }),
        )
        .await
    }

    /// Removes the CronJob of a deployment. Its executions continue.
    pub(crate) async fn remove(&self, target: &Target) -> Result<(), Fault> {
        let name = target.job_name.as_str();
        let written = target.last_applied.as_ref().and_then(AppliedObject::read);
        let Some(live) = call(&*self.clock, self.cron_jobs.get_opt(name)).await? else { return Ok(()) };
        if !is_managed(&live, target, written.as_ref()) || live.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let params = DeleteParams {
            // Otherwise active executions would be deleted with the CronJob.
            propagation_policy: Some(PropagationPolicy::Orphan),
            preconditions: Some(Preconditions { uid: live.uid(), resource_version: live.resource_version() }),
            ..DeleteParams::default()
        };
        match call(&*self.clock, self.cron_jobs.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_missing() => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Writes a secret with exactly these values. Without `data` it only has to exist, and may be unmanaged. An unmanaged secret
    /// that has to contain values is left alone, and an error names it. Returns whether the secret was created.
    pub(crate) async fn keep_secret(
        &self,
        target: &Target,
        name: &str,
        Content { data, keeps_more }: Content<'_>,
    ) -> Result<bool, Fault> {
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(BTreeMap::from([
                    (names::JOB_ID.to_owned(), target.job_id.to_string()),
                    (names::NAME.to_owned(), target.job_name.to_string()),
                ])),
                ..ObjectMeta::default()
            },
            string_data: data.cloned(),
            type_: Some("Opaque".into()),
            ..Secret::default()
        };
        // Before the first write, the attempt to create it shows whether it exists.
        let is_reported_by_create = data.is_none() && target.last_applied.is_none();
        let live =
            if is_reported_by_create { None } else { call(&*self.clock, self.secrets.get_metadata_opt(name)).await? };
        match live {
            None => match call(&*self.clock, self.secrets.create(&params, &secret)).await {
                Err(fault) if is_reported_by_create && fault.is_taken() => Ok(false),
                made => made.map(|_| true),
            },
            // Pods of earlier executions may still read values that are no longer in the data.
            Some(live) if keeps_more && job_id(&live.metadata) == Some(target.job_id) => {
                let patch = serde_json::json!({
                    "metadata": { "uid": live.metadata.uid, "resourceVersion": live.metadata.resource_version },
                    "stringData": data,
                });
                let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
                call(&*self.clock, self.secrets.patch(name, &params, &Patch::Merge(&patch))).await.map(|_| false)
            }
            // A secret of a deleted job with the same name now belongs to this job.
            Some(live) if data.is_some() && job_id(&live.metadata).is_some() => {
                secret.metadata.resource_version = live.metadata.resource_version;
                secret.metadata.uid = live.metadata.uid;
                call(&*self.clock, self.secrets.replace(name, &params, &secret)).await.map(|_| false)
            }
            Some(_) if data.is_some() => Err(Fault::Foreign(name.to_owned())),
            Some(_) => Ok(false),
        }
    }

    /// Keeps a secret from being removed, or recreates it: a removal that was decided before fails on the new resource version.
    pub(crate) async fn touch_secret(&self, target: &Target, name: &str, content: Content<'_>) -> Result<(), Fault> {
        if content.data.is_some() {
            return self.keep_secret(target, name, content).await.map(drop);
        }
        let Some(live) = call(&*self.clock, self.secrets.get_metadata_opt(name)).await? else {
            return self.keep_secret(target, name, content).await.map(drop);
        };
        // An unmanaged secret is never removed.
        if job_id(&live.metadata).is_none() {
            return Ok(());
        }
        let patch = serde_json::json!({
            "metadata": {
                "uid": live.metadata.uid,
                "resourceVersion": live.metadata.resource_version,
                "annotations": { names::KEPT_AT: self.clock.now().to_string() },
            },
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match call(&*self.clock, self.secrets.patch_metadata(name, &params, &Patch::Merge(&patch))).await {
            Ok(_) => Ok(()),
            // Its resource version changed, which is enough.
            Err(fault) if fault.is_conflict() => Ok(()),
            Err(fault) if fault.is_missing() => self.keep_secret(target, name, content).await.map(drop),
            Err(fault) => Err(fault),
        }
    }

    /// Removes a managed secret, unless its job has a CronJob.
    pub(crate) async fn forget_secret(&self, job_id: JobId, job: &JobName, name: &str) -> Result<(), Fault> {
        // In this order: a CronJob that is created after this read has touched the secret, so that the removal fails.
        let Some(live) = call(&*self.clock, self.secrets.get_metadata_opt(name)).await? else { return Ok(()) };
        let cron_job = call(&*self.clock, self.cron_jobs.get_metadata_opt(job.as_str())).await?;
        // A CronJob that is being deleted does not keep the secret.
        let stays = cron_job.is_some_and(|cron_job| cron_job.metadata.deletion_timestamp.is_none());
        if stays || view::job_id(&live.metadata) != Some(job_id) {
            return Ok(());
        }
        self.delete_secret(name, live.metadata).await
    }

    /// Removes a secret of a job that its CronJob no longer refers to.
    pub(crate) async fn drop_secret(&self, job_id: JobId, name: &str) -> Result<(), Fault> {
        match call(&*self.clock, self.secrets.get_metadata_opt(name)).await? {
            Some(live) if view::job_id(&live.metadata) == Some(job_id) => self.delete_secret(name, live.metadata).await,
            _ => Ok(()),
        }
    }

    /// Removes a secret, unless it changed since it was read.
    async fn delete_secret(&self, name: &str, read: ObjectMeta) -> Result<(), Fault> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: read.uid, resource_version: read.resource_version }),
            ..DeleteParams::default()
        };
        match call(&*self.clock, self.secrets.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_missing() || fault.is_conflict() => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

/// Whether the watched state of a CronJob is the last applied one. The watch may be older than the last write, but a newer
/// state always has a higher generation.
fn is_as_written(written: &AppliedObject, seen: &CronJobView, target: &Target) -> bool {
    seen.uid == written.uid && seen.generation <= written.generation && seen.job_id == Some(target.job_id)
}

/// Whether a CronJob is managed: it has the job's id, or this service wrote it and the label was removed.
fn is_managed(live: &CronJob, target: &Target, written: Option<&AppliedObject>) -> bool {
    job_id(&live.metadata) == Some(target.job_id)
        || written.is_some_and(|written| live.uid().as_deref() == Some(&written.uid))
}

/// Whether another Control Service made a CronJob for a job of this name, by its labels.
fn is_another_services(live: &CronJob, job: &JobName) -> bool {
    let labels = || live.spec.as_ref()?.job_template.metadata.as_ref()?.labels.as_ref();
    let has = |name: &str, value: &str| labels().and_then(|labels| labels.get(name)).is_some_and(|v| v == value);
    job_id(&live.metadata).is_none() && has(names::TYPE.0, names::TYPE.1) && has(names::NAME, job.as_str())
}

fn name_taken(job: &JobName, live: &CronJob) -> Problem {
    Problem::new(
        Code::CronJobUnmanaged,
        format!("The CronJob {job} was not written."),
        format!("That CronJob exists and is not managed by Holdfast (owner: {}).", owner(live, job)),
    )
    .follows("Holdfast retries until the name is free.")
    .fix(format!("Delete or rename the CronJob {job}, or let Holdfast adopt it (`kubernetes.adopt`)."))
}

fn field_conflict(job: &JobName, field: &str, metadata: &ObjectMeta) -> Problem {
    Problem::new(
        Code::CronJobFieldConflict,
        format!("{field} of the CronJob {job} differs."),
        format!(
            "{} keeps changing it; Holdfast reverted it three times in ten minutes.",
            last_writer(metadata).as_deref().unwrap_or("An unknown field manager")
        ),
    )
    .follows("Holdfast stops reverting it for now.")
    .fix("Stop that writer, or add the field to `kubernetes.ignore_paths`.")
}

/// The owner of an object with a job's name, as far as known, and what can be done about it.
fn owner(live: &CronJob, job: &JobName) -> String {
    let metadata = &live.metadata;
    let managed_by = metadata.labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/managed-by"));
    let first_writer = || metadata.managed_fields.as_ref()?.first()?.manager.as_ref();
    let name = managed_by.or_else(first_writer).map_or("unknown", String::as_str);
    if let Some(other) = job_id(metadata) {
        return format!(
            "{name}, for another job of this name, whose id is {other}. If that is a job that the database does not know, \
             `holdfast orphans remove {job}` removes it"
        );
    }
    if is_another_services(live, job) {
        format!(
            "{name}; another Control Service for data jobs. Once that is shut down, kubernetes.adopt has it taken over"
        )
    } else {
        name.to_owned()
    }
}

/// The last field manager of an object besides this service and status writers. Clients choose these names.
fn last_writer(metadata: &ObjectMeta) -> Option<String> {
    metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| entry.subresource.is_none() && entry.manager.as_deref() != Some(MANAGER))
        .max_by_key(|entry| entry.time.as_ref().map(|time| time.0))
        .and_then(|entry| entry.manager.clone())
}

/// The last tick that the controller counts as started.
pub(crate) fn last_fired(cron_job: &CronJob) -> Option<Timestamp> {
    Some(cron_job.status.as_ref()?.last_schedule_time.as_ref()?.0)
}

/// Changes the status of a CronJob, unless the object changed since it was read.
pub(crate) async fn patch_status(
    clock: &dyn Clock,
    cron_jobs: &Api<CronJob>,
    live: &CronJob,
    status: Value,
) -> Result<CronJob, Fault> {
    let patch = serde_json::json!({
        "metadata": { "resourceVersion": live.resource_version(), "uid": live.uid() },
        "status": status,
    });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    call(clock, cron_jobs.patch_status(&live.name_any(), &params, &Patch::Merge(&patch))).await
}

/// Keeps the metadata of others, and sets the uid and resource version that were read.
fn keep_metadata(metadata: &mut ObjectMeta, live: &ObjectMeta) {
    let ours = |name: &str| name.starts_with("holdfast/") || name.starts_with("com.vmware.taurus/");
    let merged = |own: &mut Option<BTreeMap<String, String>>, live: &Option<BTreeMap<String, String>>| {
        for (name, value) in live.iter().flatten().filter(|(name, _)| !ours(name)) {
            own.get_or_insert_default().entry(name.clone()).or_insert_with(|| value.clone());
        }
    };
    merged(&mut metadata.labels, &live.labels);
    merged(&mut metadata.annotations, &live.annotations);
    metadata.uid.clone_from(&live.uid);
    metadata.resource_version.clone_from(&live.resource_version);
    metadata.owner_references.clone_from(&live.owner_references);
    metadata.finalizers.clone_from(&live.finalizers);
}

/// An instant in the format of the API server: whole seconds, rounded down.
fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}
