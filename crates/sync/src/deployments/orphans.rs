//! Orphans: objects that carry the marks of this service but are unknown to its database. They are reported and left alone,
//! and removed only by name on request: with a database that is empty or restored from an older backup, every deployment is an
//! orphan.

use std::collections::BTreeSet;

use model::{
    Problem,
    runtime::{KnownDeployment, Runtime},
};
use store::{Db, StoreError};

/// Jobs per query.
const PAGE: usize = 500;

/// The most names in a line of the log.
const NAMED_MAX: usize = 10;

/// Returns the names of objects of deployments that are in no row of the database.
///
/// # Errors
/// The outer error if the database fails, the inner one if the runtime can't be read.
pub async fn orphans(db: &Db, runtime: &dyn Runtime) -> Result<Result<Vec<KnownDeployment>, Problem>, StoreError> {
    let before = match runtime.deployments().await {
        Ok(before) => before,
        Err(problem) => return Ok(Err(problem)),
    };
    let mut unknown: BTreeSet<_> = before.iter().cloned().collect();
    for page in before.chunks(PAGE) {
        let jobs: Vec<_> = page.iter().map(|known| known.job_id).collect();
        let mut tx = db.read().await?;
        let having = store::deployments::having(&mut tx, &jobs).await?;
        unknown.retain(|known| !having.contains(&known.job_id));
    }
    if unknown.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    // The object of a removed deployment is deleted before its row, so an object that is gone by now was no orphan.
    Ok(runtime.deployments().await.map(|now| {
        unknown.retain(|orphan| now.contains(orphan));
        unknown.into_iter().collect()
    }))
}

/// Logs the orphans, once per change.
pub(super) fn report(found: &[KnownDeployment], before: &[KnownDeployment]) {
    if found == before {
        return;
    }
    if found.is_empty() {
        tracing::info!("no orphaned CronJob is left");
        return;
    }
    let names: Vec<_> = found.iter().take(NAMED_MAX).map(|orphan| orphan.job_name.as_str()).collect();
    tracing::warn!(
        count = found.len(),
        names = names.join(", "),
        "found orphaned CronJobs: they have Holdfast's label and are unknown to the database. They are not touched, and their \
         schedules continue. See `holdfast orphans list` and `holdfast orphans remove`"
    );
}
