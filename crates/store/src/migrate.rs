//! The schema: brought up to date at the start, and checked for being one that this program can work with.
//!
//! Migrations expand first and contract a version later, so that the program before works on the schema after. A migration
//! that contracts says in `service_state`, under `schema.oldest_program`, which migration a program must know at least.

use std::sync::LazyLock;

use sqlx::{PgConnection, SqlitePool, migrate::Migrator};

use crate::error::{Result, StoreError, corrupt, is_unavailable};

static SQLITE: LazyLock<Migrator> = LazyLock::new(|| tolerant(sqlx::migrate!("migrations/sqlite")));
static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| tolerant(sqlx::migrate!("migrations/postgres")));

/// Newer migrations that this program does not know are no failure by themselves.
fn tolerant(mut migrator: Migrator) -> Migrator {
    migrator.set_ignore_missing(true);
    migrator
}

pub(crate) async fn sqlite(pool: &SqlitePool) -> Result<()> {
    SQLITE.run(pool).await.map_err(migration)
}

pub(crate) async fn postgres(connection: &mut PgConnection) -> Result<()> {
    POSTGRES.run(connection).await.map_err(migration)
}

fn migration(error: sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    match error {
        Execute(cause) | ExecuteMigration(cause, _) if is_unavailable(&cause) => StoreError::Unavailable(cause),
        error => StoreError::Migration(error),
    }
}

/// The newest migration that this program knows.
pub(crate) fn known() -> i64 {
    POSTGRES.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Compares what a schema asks of programs with what this one knows.
pub(crate) fn check(oldest_program: Option<String>) -> Result<()> {
    let Some(needed) = oldest_program else { return Ok(()) };
    let needed = needed.parse().map_err(|_| corrupt("the oldest program of the schema"))?;
    let known = known();
    if known < needed { Err(StoreError::SchemaTooNew { needed, known }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_have_the_same_migrations() {
        let names = |m: &Migrator| m.iter().map(|m| (m.version, m.description.to_string())).collect::<Vec<_>>();
        assert_eq!(names(&SQLITE), names(&POSTGRES));
    }
}
