//! Makes what runs follow what is wanted: one key at a time for each deployment, many deployments at once.

mod orphans;
mod queue;
mod reconcile;
mod resync;
mod subject;
mod wave;

use tokio::sync::watch;

pub use self::orphans::orphans;
pub(crate) use self::{resync::make_due_what_is_out_of_step, subject::fingerprint as fingerprint_of};

use self::{queue::look_at_due, resync::sweep_again_and_again, wave::Concerned};
use crate::{Synchronizer, Term};

/// Looks at each deployment that is due until the term is over.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    let (swept, waves) = watch::channel(Concerned::default());
    tokio::join!(look_at_due(sync, term), sweep_again_and_again(sync, term, &swept), wave::run(sync, term, waves));
}
