//! Opens the configured database, and waits for a server that is not available yet.

use std::{error::Error, net::TcpListener as StdListener, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use api::{MemoryBudget, ServerLimits, WebPage};
use clock::SystemClock;
use model::clock::SharedClock;
use secrecy::{ExposeSecret, SecretString};
use store::{
    Db, PostgresOptions, StoreError,
    inspection::{self, PostgresFacts},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{DatabaseUrl, PostgresUrl, Settings, Value},
    data_folder::Use,
};

/// The first and the longest pause between attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// How often the same reason is logged.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Whether other instances may use the data folder.
pub(crate) fn folder_use(settings: &Settings) -> Use {
    match settings.database_url {
        DatabaseUrl::Sqlite => Use::Alone,
        DatabaseUrl::Postgres(_) => Use::Together,
    }
}

/// Opens the database: SQLite's `file`, or the server that the settings name.
///
/// # Errors
/// If it can't be reached or used, or rejects the user.
pub(crate) async fn open(settings: &Settings, file: &Path) -> anyhow::Result<Db> {
    let clock: SharedClock = Arc::new(SystemClock);
    open_once(settings, file, &clock).await?.with_context(|| describe(settings, file))
}

/// Opens the database, and waits for a server that can't be reached. Until then, `listener` responds that the service is not
/// ready.
///
/// # Errors
/// If waiting would not help: the database can't be used, or rejects the user.
pub(crate) async fn open_or_wait(
    settings: &Settings,
    file: &Path,
    listener: StdListener,
    limits: ServerLimits,
    memory: &MemoryBudget,
    clock: &SharedClock,
    page: Arc<WebPage>,
) -> anyhow::Result<Db> {
    let mut error = match open_once(settings, file, clock).await? {
        Err(error) if error.is_transient() => error,
        done => return done.with_context(|| describe(settings, file)),
    };
    let stop = CancellationToken::new();
    let listener = TcpListener::from_std(listener)?;
    let answering = tokio::spawn({
        let (stop, memory, clock) = (stop.clone(), memory.clone(), Arc::clone(clock));
        async move { api::serve(listener, api::waiting_router(page), limits, memory, clock, stop).await }
    });
    let _stop = stop.drop_guard_ref();
    let mut said: Option<(String, Duration)> = None;
    let mut pause = PAUSE.0;
    loop {
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        if !said.as_ref().is_some_and(|(before, at)| *before == cause && clock.boot().saturating_sub(*at) < SAY_AGAIN) {
            let database = settings.database_url.shown();
            tracing::warn!(%database, cause, "the database can't be reached; the service waits for it");
            said = Some((cause, clock.boot()));
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
        match open_once(settings, file, clock).await? {
            Err(again) if again.is_transient() => error = again,
            done => {
                stop.cancel();
                // Callers that hang on are not waited for.
                let mut answering = answering;
                if clock.timeout(Duration::from_secs(1), &mut answering).await.is_err() {
                    answering.abort();
                }
                return done.with_context(|| describe(settings, file));
            }
        }
    }
}

async fn open_once(settings: &Settings, file: &Path, clock: &SharedClock) -> anyhow::Result<Result<Db, StoreError>> {
    let DatabaseUrl::Postgres(url) = &settings.database_url else {
        return Ok(Db::open_sqlite(file, Arc::clone(clock)).await);
    };
    let (whole, options) = server(settings, url)?;
    Ok(Db::open(whole.expose_secret(), &options, Arc::clone(clock)).await)
}

/// Asks the server about itself, without a change.
///
/// # Errors
/// When the file of the password can't be read.
pub(crate) async fn inspect(
    settings: &Settings,
    url: &PostgresUrl,
    clock: &SharedClock,
) -> anyhow::Result<Result<PostgresFacts, StoreError>> {
    let (whole, options) = server(settings, url)?;
    Ok(inspection::postgres(whole.expose_secret(), &options, &**clock).await)
}

/// Rollouts with a problem and executions that ended as platform errors, newest first, one per line. Nothing is changed.
///
/// # Errors
/// When the database can't be read.
pub(crate) async fn problems(settings: &Settings, limit: i64, clock: &SharedClock) -> anyhow::Result<Vec<String>> {
    let found = match &settings.database_url {
        DatabaseUrl::Sqlite => inspection::sqlite_problems(&settings.data_dir.join("holdfast.db"), limit).await,
        DatabaseUrl::Postgres(url) => {
            let (whole, options) = server(settings, url)?;
            inspection::postgres_problems(whole.expose_secret(), &options, limit, &**clock).await
        }
    };
    found.context("The database can't be read.")
}

/// The URL with its password, and how the server is used.
fn server(settings: &Settings, url: &PostgresUrl) -> anyhow::Result<(SecretString, PostgresOptions)> {
    // Read each time: it may be the cause, and may be corrected meanwhile.
    let password: Option<SecretString> = settings.database_password()?;
    let whole = url.with_password(password.as_ref());
    let connections = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let options = PostgresOptions {
        callers: connections(settings.database_connections.count()),
        loops: connections(settings.database_sync_connections.count()),
        direct_url: settings
            .database_direct_url
            .as_ref()
            .map(|url| url.with_password(password.as_ref()).expose_secret().to_owned()),
        ..PostgresOptions::default()
    };
    Ok((whole, options))
}

fn describe(settings: &Settings, file: &Path) -> String {
    match &settings.database_url {
        DatabaseUrl::Sqlite => format!("The database {} can't be opened.", file.display()),
        DatabaseUrl::Postgres(url) => {
            format!("The database {} can't be used.", url.shown().as_str().unwrap_or_default())
        }
    }
}
