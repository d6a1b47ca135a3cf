//! Tells the place where jobs run which term of leadership this is, so that it can refuse what an earlier leader still sends.

use std::time::Duration;

use crate::{Synchronizer, Term};

/// The pause before it is told again after that failed.
const RETRY: Duration = Duration::from_secs(10);

/// Tries until it is told, or the term is over. No other loop waits for it: the rows are fenced by the database.
pub(crate) async fn run(sync: &Synchronizer, term: &Term) {
    let mut said = None;
    while let Err(problem) = sync.runtime.lead(term.epoch.0).await {
        if said.as_ref() != Some(&problem) {
            tracing::warn!(
                epoch = term.epoch.0,
                problem = format!("{problem:#}"),
                "the place where jobs run does not know of this term"
            );
            said = Some(problem);
        }
        if !term.pause(RETRY).await {
            return;
        }
    }
}
