//! The leader epoch in the cluster: in an annotation of written objects, and in a ConfigMap that each new leader updates. The
//! optional policy of the chart (`fencing.enabled`) compares the two and rejects writes of a former leader. Without the policy
//! the epoch has no effect.
//!
//! The annotation is in the metadata of the object itself: in the spec or in the hashed part, each take-over would rewrite
//! every CronJob.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use model::{Problem, clock::SharedClock, problem::Code};

use super::{
    MANAGER,
    fault::{Fault, call},
    names,
};

/// The name of the ConfigMap, and its key.
const CONFIG_MAP: &str = "holdfast-epoch";
const KEY: &str = "epoch";

/// The most attempts to write the ConfigMap while others change it.
const TRIES: usize = 4;

/// The epoch of this instance.
#[derive(Debug, Clone)]
pub(crate) struct Fence {
    config_maps: Api<ConfigMap>,
    clock: SharedClock,
    epoch: Arc<AtomicI64>,
}

impl Fence {
    pub(crate) fn new(config_maps: Api<ConfigMap>, clock: SharedClock) -> Self {
        Self { config_maps, clock, epoch: Arc::default() }
    }

    /// Sets the epoch for all further writes.
    pub(crate) fn begin(&self, epoch: i64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// Adds the annotation to an object.
    pub(crate) fn annotation(&self) -> (String, String) {
        (names::EPOCH.to_owned(), self.epoch.load(Ordering::Relaxed).to_string())
    }

    pub(crate) fn mark(&self, metadata: &mut ObjectMeta) {
        metadata.annotations.get_or_insert_default().extend([self.annotation()]);
    }

    /// Raises the epoch in the ConfigMap. It is never lowered.
    pub(crate) async fn raise(&self, epoch: i64) -> Result<(), Problem> {
        let what = "The cluster was not told which instance leads.";
        let mut last = None;
        for _ in 0..TRIES {
            match self.try_raise(epoch).await {
                Ok(known) if known > epoch => return Err(outdated(epoch, known)),
                Ok(_) => return Ok(()),
                Err(fault) if fault.is_conflict() || fault.is_taken() => last = Some(fault),
                Err(fault) => return Err(fault.into_problem(what)),
            }
        }
        let why = last.map(|fault| fault.to_string()).unwrap_or_default();
        Err(Problem::new(
            Code::LeaderEpochWriteConflict,
            what,
            format!("Others changed the ConfigMap {CONFIG_MAP} at the same time. {why}"),
        )
        .follows("The cluster knows the former epoch.")
        .no_action("Holdfast retries. If it persists, find the other writer of the ConfigMap."))
    }

    /// Writes the epoch, and returns the one that is in the ConfigMap afterwards.
    async fn try_raise(&self, epoch: i64) -> Result<i64, Fault> {
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let Some(mut live) = call(&*self.clock, self.config_maps.get_opt(CONFIG_MAP)).await? else {
            let fresh = ConfigMap {
                metadata: ObjectMeta { name: Some(CONFIG_MAP.into()), ..ObjectMeta::default() },
                data: Some(BTreeMap::from([(KEY.to_owned(), epoch.to_string())])),
                ..ConfigMap::default()
            };
            return call(&*self.clock, self.config_maps.create(&params, &fresh)).await.map(|_| epoch);
        };
        let data = live.data.get_or_insert_default();
        if let Some(known) = data.get(KEY).and_then(|text| text.parse().ok()).filter(|known| *known >= epoch) {
            return Ok(known);
        }
        data.insert(KEY.to_owned(), epoch.to_string());
        // It contains the resource version that was read.
        call(&*self.clock, self.config_maps.replace(CONFIG_MAP, &params, &live)).await.map(|_| epoch)
    }
}

fn outdated(epoch: i64, known: i64) -> Problem {
    Problem::new(
        Code::LeaderEpochOutdated,
        "The epoch was not published.",
        format!("Its epoch is {epoch}; the ConfigMap {CONFIG_MAP} has {known}: another instance leads."),
    )
    .follows("The fencing policy, if installed, rejects its writes.")
    .fix(format!(
        "After a restore of the database, delete the ConfigMap {CONFIG_MAP} once no \
            former instance runs."
    ))
}
