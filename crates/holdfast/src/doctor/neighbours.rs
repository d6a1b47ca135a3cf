//! Checks of the systems that the service depends on. Nothing is changed there.

use std::time::Duration;

use jiff::Timestamp;
use model::clock::SharedClock;
use store::{
    StoreError,
    inspection::{self, OLDEST_POSTGRES, PostgresFacts},
};

use super::verdict::Verdict;
use crate::{
    authentication, cluster,
    config::{DatabaseUrl, RuntimeName, Settings, Value},
    database,
};

/// The time limit for the registries.
const REGISTRY_MAX: Duration = Duration::from_secs(60);

/// Whether the database can be used, and the time of its server.
pub(super) async fn database(settings: &Settings, clock: &SharedClock) -> (Verdict, Option<Timestamp>) {
    let DatabaseUrl::Postgres(url) = &settings.database_url else {
        return (sqlite(settings).await, None);
    };
    let shown = url.shown().as_str().unwrap_or_default().to_owned();
    let facts = match database::inspect(settings, url, clock).await {
        Ok(facts) => facts,
        Err(error) => return (Verdict::wrong(error.to_string(), "correct database_password_file"), None),
    };
    match facts {
        Ok(facts) => (judge(&facts, &shown), Some(facts.now)),
        Err(error) => (unusable(&error, &shown), None),
    }
}

async fn sqlite(settings: &Settings) -> Verdict {
    let file = settings.data_dir.join("holdfast.db");
    let shown = file.display();
    if !file.exists() {
        return Verdict::ok(format!("SQLite: {shown} will be created"));
    }
    let restore = "restore the backup of the data folder: docs/operations/backup-and-keys.md";
    match inspection::sqlite_fault(&file).await {
        Ok(None) => Verdict::ok(format!("SQLite: {shown} is intact")),
        Ok(Some(fault)) => Verdict::wrong(format!("{shown} is damaged: {fault}"), restore),
        Err(error) => Verdict::wrong(format!("{shown} can't be read: {}", causes(&error)), restore),
    }
}

fn judge(facts: &PostgresFacts, shown: &str) -> Verdict {
    let PostgresFacts { version, encoding, user, schema, .. } = facts;
    if *version < OLDEST_POSTGRES {
        return Verdict::wrong(
            format!("{shown} is PostgreSQL {version}; {OLDEST_POSTGRES} is the oldest that is supported"),
            format!("upgrade the server to PostgreSQL {OLDEST_POSTGRES} or later"),
        );
    }
    if encoding != "UTF8" {
        return Verdict::wrong(
            format!("the encoding of {shown} is {encoding}"),
            "create database holdfast encoding 'UTF8' template template0",
        );
    }
    if facts.is_replica {
        return Verdict::wrong(
            format!("{shown} is a replica, which can't be written to"),
            "set database_url to the primary server",
        );
    }
    if !facts.may_create {
        let schema = schema.as_deref().unwrap_or("public");
        return Verdict::wrong(
            format!("the user {user} may not create tables in the schema {schema} of {shown}"),
            format!("grant usage, create on schema {schema} to \"{user}\""),
        );
    }
    Verdict::ok(format!("PostgreSQL {version} at {shown}; no extension is needed"))
}

fn unusable(error: &StoreError, shown: &str) -> Verdict {
    let fix = if error.is_transient() {
        "pg_isready with the host and port of database_url shows whether the server is up; check network and firewall"
    } else {
        "psql with the same URL shows the same error; correct user, password, database and sslmode in database_url"
    };
    Verdict::wrong(format!("{shown} can't be used: {}", causes(error)), fix)
}

/// An error with its causes, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// Whether the cluster can be reached, and lets the service do what it does.
pub(super) async fn cluster(settings: &Settings, clock: &SharedClock) -> Verdict {
    if settings.runtime != RuntimeName::Kubernetes {
        return Verdict::skipped("jobs run on this machine");
    }
    let plan = match cluster::plan(settings, clock).await {
        Ok(plan) => plan,
        Err(error) => {
            return Verdict::wrong(
                format!("{error:#}"),
                "kubectl config get-contexts lists contexts; set KUBECONFIG and kubernetes.context",
            );
        }
    };
    let connection = plan.connection();
    let (server, namespace) = (&connection.server, &connection.namespace);
    match runtime::kubernetes::missing_rights(connection, clock).await {
        Ok(missing) if missing.is_empty() => {
            Verdict::ok(format!("every right in the namespace {namespace} of {server}"))
        }
        Ok(missing) => Verdict::wrong(
            format!("rights are missing in the namespace {namespace} of {server}: {}", missing.join(", ")),
            format!(
                "bind the Role of docs/operations/kubernetes.md to the service account in the namespace {namespace}"
            ),
        ),
        Err(why) => Verdict::wrong(
            format!("the API server at {server} can't be asked: {why}"),
            "kubectl get --raw /readyz with the same kubeconfig shows the same error",
        ),
    }
}

/// Whether the base images of jobs can be read.
pub(super) async fn registry(settings: &Settings, clock: &SharedClock) -> Verdict {
    if settings.runtime != RuntimeName::Kubernetes || !cluster::is_embedded(settings) {
        return Verdict::skipped("Holdfast assembles no images");
    }
    let checks = async { cluster::base_images(settings, clock)?.check().await };
    match clock.timeout(REGISTRY_MAX, checks).await {
        Ok(Ok(images)) => Verdict::ok(format!("the base images can be read: {}", images.join(", "))),
        Ok(Err(error)) => Verdict::wrong(
            format!("{error:#}"),
            "correct image.base_images, image.registry_credentials_file, image.registry_ca_file or image.registry_plain_http",
        ),
        Err(_) => Verdict::wrong(
            format!("the registries did not respond within {} seconds", REGISTRY_MAX.as_secs()),
            "check network and firewall between this machine and the registries of image.base_images",
        ),
    }
}

/// Whether the keys of each issuer can be read.
pub(super) async fn issuer(settings: &Settings, clock: &SharedClock) -> Verdict {
    let (_, issuers) = match authentication::of(settings, clock) {
        Ok(Some(found)) => found,
        Ok(None) => return Verdict::skipped("authentication is off (auth.issuers is empty)"),
        Err(error) => return Verdict::wrong(format!("{error:#}"), "correct the settings auth.…"),
    };
    let problems = issuers.warm_up().await;
    if problems.is_empty() {
        return Verdict::ok(format!("the keys of {} can be read", settings.auth_issuers.0.join(", ")));
    }
    let described: Vec<_> = problems.iter().map(|problem| format!("{} {}", problem.what, problem.why)).collect();
    Verdict::wrong(
        described.join("\n"),
        "curl with `/.well-known/openid-configuration` behind the issuer's URL shows the same error; correct auth.issuers or \
         auth.jwks_urls",
    )
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use ::clock::SystemClock;

    use super::*;
    use crate::config::{Flags, ProcessEnvironment, load};

    fn is_wrong(verdict: &Verdict, found: &str, fix: &str) {
        let Verdict::Wrong { found: is, fix: by } = verdict else { panic!("{verdict:?}") };
        assert!(is.contains(found) && by.contains(fix), "{verdict:?}");
    }

    fn clock() -> SharedClock {
        Arc::new(SystemClock)
    }

    fn settings(home: &Path, variables: &[(&str, &str)]) -> Settings {
        let environment = ProcessEnvironment {
            variables: variables.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            folder: home.into(),
            home: Some(home.into()),
            cores: 1,
        };
        load(&environment, &Flags::default()).unwrap().settings
    }

    #[tokio::test]
    async fn a_damaged_file_and_a_server_that_is_down_are_wrong() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let local = settings(home.path(), &[("HOLDFAST_DATA_DIR", data.to_str().unwrap())]);
        let (fresh, no_time) = database(&local, &clock()).await;
        assert!(matches!(fresh, Verdict::Ok { .. }) && no_time.is_none(), "{fresh:?}");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("holdfast.db"), "this is no database, however long it may be; it has no header")
            .unwrap();
        is_wrong(&database(&local, &clock()).await.0, "holdfast.db can't be read", "backup");
        let down = settings(home.path(), &[("HOLDFAST_DATABASE_URL", "postgres://me:hunter2@127.0.0.1:9/x")]);
        let (down, _) = database(&down, &clock()).await;
        is_wrong(&down, "postgres://me:***@127.0.0.1:9/x can't be used", "pg_isready");
        assert!(!format!("{down:?}").contains("hunter2"));
    }

    #[test]
    fn a_server_that_is_too_old_or_does_not_let_the_user_write_is_wrong() {
        let well = PostgresFacts {
            version: OLDEST_POSTGRES,
            encoding: "UTF8".into(),
            now: Timestamp::UNIX_EPOCH,
            user: "ann".into(),
            schema: Some("jobs".into()),
            may_create: true,
            is_replica: false,
        };
        assert!(matches!(judge(&well, "db"), Verdict::Ok { .. }));
        is_wrong(&judge(&PostgresFacts { version: 13, ..well.clone() }, "db"), "is PostgreSQL 13", "upgrade");
        is_wrong(
            &judge(&PostgresFacts { encoding: "LATIN1".into(), ..well.clone() }, "db"),
            "LATIN1",
            "create database",
        );
        is_wrong(&judge(&PostgresFacts { is_replica: true, ..well.clone() }, "db"), "replica", "primary");
        let denied = PostgresFacts { may_create: false, ..well };
        is_wrong(&judge(&denied, "db"), "ann may not create tables", "create on schema jobs to \"ann\"");
    }

    #[tokio::test]
    async fn an_issuer_and_a_registry_that_are_down_are_wrong() {
        let home = tempfile::tempdir().unwrap();
        let off = settings(home.path(), &[]);
        assert!(matches!(issuer(&off, &clock()).await, Verdict::Skipped { .. }));
        assert!(matches!(registry(&off, &clock()).await, Verdict::Skipped { .. }));
        assert!(matches!(cluster(&off, &clock()).await, Verdict::Skipped { .. }));
        let down = [("HOLDFAST_AUTH_ISSUERS", "http://127.0.0.1:9"), ("HOLDFAST_AUTH_AUDIENCES", "holdfast")];
        is_wrong(&issuer(&settings(home.path(), &down), &clock()).await, "127.0.0.1:9", "openid-configuration");
        let down = [
            ("HOLDFAST_RUNTIME", "kubernetes"),
            ("HOLDFAST_IMAGE_BASE_IMAGES", "3.11=127.0.0.1:9/python:3.11"),
            ("HOLDFAST_IMAGE_REGISTRY_PLAIN_HTTP", "127.0.0.1:9"),
            ("HOLDFAST_REGISTRY_URL", "127.0.0.1:9/jobs"),
        ];
        is_wrong(&registry(&settings(home.path(), &down), &clock()).await, "127.0.0.1:9", "image.base_images");
    }
}
