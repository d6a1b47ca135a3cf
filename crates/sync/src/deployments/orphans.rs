//! What this service made and its database does not know: it is told and left alone, and goes when somebody asks for it by
//! name. After a database was restored from an older backup, or put up empty, that may be the whole fleet.

use std::collections::BTreeSet;

use model::{
    Problem,
    runtime::{KnownDeployment, Runtime},
};
use store::{Db, StoreError};

/// Jobs that are looked up at once.
const PAGE: usize = 500;

/// The most names in a line of the log.
const NAMED_MAX: usize = 10;

/// What exists of deployments that no row of the database has, by name.
///
/// # Errors
/// The outer one when the database fails, the inner one when the place can't be seen.
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
    // A deployment that is removed loses its object first and its row afterwards: what went meanwhile was no orphan.
    Ok(runtime.deployments().await.map(|now| {
        unknown.retain(|orphan| now.contains(orphan));
        unknown.into_iter().collect()
    }))
}

/// Tells what was found, once for each change of it.
pub(super) fn report(found: &[KnownDeployment], before: &[KnownDeployment]) {
    if found == before {
        return;
    }
    if found.is_empty() {
        tracing::info!("the database knows all that stands under this service's mark again");
        return;
    }
    let names: Vec<_> = found.iter().take(NAMED_MAX).map(|orphan| orphan.job_name.as_str()).collect();
    tracing::warn!(
        count = found.len(),
        names = names.join(", "),
        "this service made what its database does not know. It is left alone, and its schedules go on. `holdfast orphans list` \
         shows all of it, `holdfast orphans remove` removes what is named"
    );
}
