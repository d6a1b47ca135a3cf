//! `holdfast take-over`: makes this data folder the host of local executions, because the former host is lost.

use std::{io::Write, time::Duration};

use anyhow::{anyhow, bail};
use clock::SystemClock;
use model::clock::Clock;
use store::{
    hosts,
    leases::{self, SYNCHRONIZER},
};

use crate::{
    config::{DatabaseUrl, Settings},
    data_folder::DataFolder,
    database,
};

/// The pause between two checks of the leader's lease renewals.
const LOOK: Duration = Duration::from_millis(500);

/// Names this data folder as the host of the runs.
///
/// # Errors
/// When an instance leads, so that the host is not lost.
pub(crate) async fn run(settings: &Settings, out: &mut dyn Write) -> anyhow::Result<()> {
    if matches!(settings.database_url, DatabaseUrl::Sqlite) {
        bail!("With SQLite, local executions are always in the data folder: there is no other host to replace.");
    }
    let folder = DataFolder::open(&settings.data_dir, database::folder_use(settings))?;
    let db = database::open(settings, &folder.database()).await?;
    let here = {
        let startup_lock = folder.startup_lock().await?;
        folder.host(&db, &SystemClock, &startup_lock).await?
    };
    let named = hosts::claim(&db, &here).await?;
    if named == here {
        writeln!(out, "This data folder is the host already: {}.", folder.path().display())?;
        return Ok(());
    }
    let find = async || {
        let mut tx = db.read().await?;
        hosts::find(&mut tx).await
    };
    let from = find().await?.ok_or_else(|| anyhow!("The database names no host; run this command again."))?;
    let seen = leases::find(&db, SYNCHRONIZER).await?;
    if seen.as_ref().is_some_and(|lease| !lease.holder.is_empty()) {
        let wait = settings.lease_seconds.seconds();
        writeln!(out, "Waiting {} seconds for a lease renewal by an instance of the other host …", wait.as_secs())?;
        out.flush()?;
        let (clock, begun): (&dyn Clock, _) = (&SystemClock, SystemClock.boot());
        while clock.boot().saturating_sub(begun) < wait {
            clock.sleep(LOOK).await;
            if leases::find(&db, SYNCHRONIZER).await? != seen {
                bail!(
                    "Another instance (host {named}) still renews the lease. Nothing was changed. Stop that instance and its \
                     running jobs, then run this command again."
                );
            }
        }
    }
    if hosts::take_over(&db, SYNCHRONIZER, &from, seen.as_ref(), &here).await?.is_none() {
        bail!(
            "An instance of the other host renewed the lease at this moment. Nothing was changed. Stop it, then run this \
             command again."
        );
    }
    let left = match find().await? {
        Some(host) => hosts::abandoned(&mut db.read().await?, &host).await?,
        None => 0,
    };
    writeln!(out, "Jobs run in this data folder from now on: {}.", folder.path().display())?;
    writeln!(
        out,
        "Executions in progress on the former host: {left}. They end as platform errors and are not repeated. If that \
         machine comes back, its instances don't lead; end the processes of these executions there."
    )?;
    db.close().await;
    Ok(())
}
