//! A Kubernetes cluster for tests: real servers, one real node, and one node that runs pods in name only. Linux, and root
//! for the real node. `testcluster/README.md` says what it is made of.
//!
//! Everything is built once into the cache. [`shared`] is what tests ask for.

mod building;
mod client;
mod lifetime;
mod needs;
mod products;

use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow};

use crate::environment::{variable, workspace};

pub use building::Building;
pub use client::{Administrator, Cluster, Namespace, is_own};
pub use lifetime::{Options, default_state, down, down_unless_used, fault, is_up};
pub use needs::{Need, needs};
pub use products::{build, helm};

/// Starts a cluster, or its missing parts, and waits until its nodes are ready. Its products are built first.
///
/// # Errors
/// As [`build`]; when this is not root and a real node is wanted; when there is no free port or network; when a server does
/// not come up within five minutes. The last lines of the script are in the message, and name the folder of the logs.
pub fn up(options: &Options) -> Result<Cluster> {
    let up = lifetime::up(options)?;
    Cluster::of(&up.state, Some(Arc::new(up.in_use)))
}

/// The cluster that tests share: the one that `HOLDFAST_TEST_KUBECONFIG` names, or this checkout's, which is brought up
/// when it is not there. The first call of a process may take long, further ones give what it gave.
///
/// A named cluster's registry has to be named too, in `HOLDFAST_TEST_REGISTRY` (`host:port`, the same name for this machine
/// and for pods, plain HTTP), and the address of this machine that its pods reach, in `HOLDFAST_TEST_HOST_ADDRESS`, unless
/// the cluster is one that `cargo xtask cluster up` made: see [`is_own`].
///
/// # Errors
/// As [`up`]; when a named cluster does not answer, or its registry has no name or does not answer.
pub fn shared() -> Result<Cluster> {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let found = match variable("HOLDFAST_TEST_KUBECONFIG") {
            Some(kubeconfig) => client::named(&workspace().join(kubeconfig)),
            None => up(&Options::default()),
        };
        found.map_err(|error| format!("there is no test cluster: {error:#}"))
    });
    shared.clone().map_err(|error| anyhow!(error))
}
