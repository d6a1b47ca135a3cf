//! The epoch of the leader, where the cluster sees it: on what is written, and in a ConfigMap that each leader raises at the
//! start of its term. A policy of the operator's (`deploy/kubernetes/fencing.yaml`) compares the two, and refuses what a
//! former leader still sends. Without the policy nothing depends on it.
//!
//! The annotation is on the metadata of the object itself: in a spec or in what is hashed, each take-over would write every
//! CronJob anew.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use model::{Problem, clock::SharedClock};

use super::{
    MANAGER,
    fault::{Fault, call},
    names,
};

/// The name of the ConfigMap, and of what it holds.
const CONFIG_MAP: &str = "holdfast-epoch";
const KEY: &str = "epoch";

/// How often the ConfigMap is written that others keep overtaking.
const TRIES: usize = 4;

/// The epoch under which this instance writes.
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

    /// From now on, what is written names this epoch.
    pub(crate) fn begin(&self, epoch: i64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// The annotation of what is written.
    pub(crate) fn annotation(&self) -> (String, String) {
        (names::EPOCH.to_owned(), self.epoch.load(Ordering::Relaxed).to_string())
    }

    pub(crate) fn mark(&self, metadata: &mut ObjectMeta) {
        metadata.annotations.get_or_insert_default().extend([self.annotation()]);
    }

    /// Raises the epoch that the cluster knows. It is never lowered.
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
        Err(Problem::unavailable(what, format!("Others changed the ConfigMap {CONFIG_MAP} at the same time. {why}")))
    }

    /// The epoch that the cluster knows after it.
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
        // It has the resource version that was read.
        call(&*self.clock, self.config_maps.replace(CONFIG_MAP, &params, &live)).await.map(|_| epoch)
    }
}

fn outdated(epoch: i64, known: i64) -> Problem {
    Problem::conflict(
        "The cluster was not told that this instance leads.",
        format!("Its epoch is {epoch}, and the ConfigMap {CONFIG_MAP} has {known}: another instance has led later."),
    )
    .follows("Where the policy of fencing.yaml is in force, the cluster refuses what this instance writes.")
    .fix(format!(
        "If the database was restored from a backup, and no instance with the former one is left, delete the ConfigMap \
         {CONFIG_MAP}."
    ))
}
