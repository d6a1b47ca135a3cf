//! The schema: brought up to date at the start, and checked for being one that this program can work with.
//!
//! Migrations expand first and contract a version later, so that the program before works on the schema after. A migration
//! that contracts says in `service_state`, under `schema.oldest_program`, which migration a program must know at least.
//!
//! On PostgreSQL they run while other instances serve requests: no statement of a migration makes a request wait for more
//! than [`LOCK_WAIT_MAX`], and indexes of tables that are there are built concurrently. The tests below hold every
//! migration against these rules.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use model::clock::Clock;
use sqlx::{
    AssertSqlSafe, PgConnection, SqlitePool,
    migrate::{Migrate, MigrateError, Migration, Migrator},
};

use crate::error::{Result, StoreError, corrupt, is_unavailable};

static SQLITE: LazyLock<Migrator> = LazyLock::new(|| tolerant(sqlx::migrate!("migrations/sqlite")));
static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = tolerant(sqlx::migrate!("migrations/postgres"));
    // See `turn`.
    migrator.set_locking(false);
    migrator
});

/// How long a statement of a migration waits for a lock before it is retried. Statements of requests wait behind it.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(500);

/// How long a concurrent build of an index waits for transactions that were there before it. Nobody waits behind it.
const CONCURRENT_WAIT_MAX: Duration = Duration::from_secs(600);

/// The first pause before a statement that got no lock is retried; the pauses double up to [`LOCK_RETRY_MAX`].
const LOCK_RETRY: Duration = Duration::from_secs(1);
const LOCK_RETRY_MAX: Duration = Duration::from_secs(15);

/// How long a lock is retried for in all. Then the start fails as for a database that can't be reached.
const LOCK_RETRIES_MAX: Duration = Duration::from_secs(600);

/// The pause between two tries to have the turn.
const TURN_RETRY: Duration = Duration::from_millis(100);

/// The advisory lock of the instance that migrates: "holdfast" in ASCII.
const TURN: i64 = 0x686f_6c64_6661_7374;

/// The table in which migrations that were applied are noted.
const APPLIED: &str = "_sqlx_migrations";

/// Newer migrations that this program does not know are no failure alone.
fn tolerant(mut migrator: Migrator) -> Migrator {
    migrator.set_ignore_missing(true);
    migrator
}

pub(crate) async fn sqlite(pool: &SqlitePool) -> Result<()> {
    SQLITE.run(pool).await.map_err(migration)
}

/// Applies the missing migrations on a connection of its own, which is closed afterwards.
pub(crate) async fn postgres(clock: &dyn Clock, connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("set statement_timeout = 0").execute(&mut *connection).await?;
    turn(clock, connection).await?;
    let begun = clock.boot();
    let mut pause = LOCK_RETRY;
    while let Err(error) = apply(connection).await {
        if !is_lock_missing(&error) || clock.boot().saturating_sub(begun) > LOCK_RETRIES_MAX {
            return Err(migration(error));
        }
        tracing::info!(
            retry_seconds = pause.as_secs(),
            "a migration of the database's schema got no lock in time; retrying"
        );
        clock.sleep(pause).await;
        pause = (pause * 2).min(LOCK_RETRY_MAX);
    }
    Ok(())
}

/// Waits until no other instance migrates. The lock ends with the connection.
///
/// A statement that waited for the lock would be one that a concurrent build of an index waits for: a deadlock.
async fn turn(clock: &dyn Clock, connection: &mut PgConnection) -> Result<()> {
    loop {
        let (mine,): (bool,) =
            sqlx::query_as("select pg_try_advisory_lock($1)").bind(TURN).fetch_one(&mut *connection).await?;
        if mine {
            return Ok(());
        }
        clock.sleep(TURN_RETRY).await;
    }
}

async fn apply(connection: &mut PgConnection) -> Result<(), MigrateError> {
    wait_for_locks(connection, LOCK_WAIT_MAX).await?;
    connection.ensure_migrations_table(APPLIED).await?;
    let applied = connection.list_applied_migrations(APPLIED).await?;
    let applied: BTreeSet<i64> = applied.into_iter().map(|migration| migration.version).collect();
    rebuild_invalid_indexes(connection, &applied).await?;
    for migration in POSTGRES.iter().filter(|migration| !applied.contains(&migration.version)) {
        if migration.no_tx {
            tracing::info!(
                migration = migration.version,
                "building or dropping an index of the database; writes continue"
            );
        }
        wait_for_locks(connection, if migration.no_tx { CONCURRENT_WAIT_MAX } else { LOCK_WAIT_MAX }).await?;
        POSTGRES.run_to(migration.version, &mut *connection).await?;
    }
    // Also where nothing is missing: it finds migrations that were edited after they were applied.
    POSTGRES.run(&mut *connection).await
}

async fn wait_for_locks(connection: &mut PgConnection, most: Duration) -> Result<(), MigrateError> {
    let sql = format!("set lock_timeout = {}", most.as_millis());
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// Drops indexes whose concurrent build failed, which would count as there; builds those again that no migration still to
/// come builds.
async fn rebuild_invalid_indexes(connection: &mut PgConnection, applied: &BTreeSet<i64>) -> Result<(), MigrateError> {
    let ours: Vec<(&Migration, &str)> =
        POSTGRES.iter().filter_map(|migration| Some((migration, concurrent_index(migration.sql.as_str())?))).collect();
    let names: Vec<String> = ours.iter().map(|(_, name)| (*name).to_owned()).collect();
    let invalid: Vec<(String,)> = sqlx::query_as(
        "select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid
         join pg_namespace n on n.oid = c.relnamespace
         where not i.indisvalid and n.nspname = any (current_schemas(false)) and c.relname = any ($1)",
    )
    .bind(names)
    .fetch_all(&mut *connection)
    .await?;
    for (migration, name) in ours {
        if !invalid.iter().any(|(invalid,)| invalid == name) {
            continue;
        }
        tracing::warn!(index = name, "dropping an index whose build failed, and building it again");
        wait_for_locks(connection, CONCURRENT_WAIT_MAX).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("drop index concurrently if exists {name}")))
            .execute(&mut *connection)
            .await?;
        if applied.contains(&migration.version) {
            sqlx::raw_sql(migration.sql.clone()).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

/// The index that a migration builds concurrently.
fn concurrent_index(sql: &str) -> Option<&str> {
    let (_, after) = sql.split_once("index concurrently if not exists ")?;
    after.split_whitespace().next()
}

/// Whether a statement of a migration ended because it got a lock not in time, or met another one that waited for it.
fn is_lock_missing(error: &MigrateError) -> bool {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error else { return false };
    let sqlx::Error::Database(cause) = cause else { return false };
    cause.code().is_some_and(|code| matches!(&*code, "55P03" | "40P01"))
}

fn migration(error: MigrateError) -> StoreError {
    use MigrateError::{Execute, ExecuteMigration};
    match error {
        Execute(cause) | ExecuteMigration(cause, _) if is_unavailable(&cause) => StoreError::Unavailable(cause),
        error => StoreError::Migration(error),
    }
}

/// The newest migration that this program knows.
pub(crate) fn known() -> i64 {
    POSTGRES.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Compares the program version that a schema requires with this one.
pub(crate) fn check(oldest_program: Option<String>) -> Result<()> {
    let Some(needed) = oldest_program else { return Ok(()) };
    let needed = needed.parse().map_err(|_| corrupt("the oldest program of the schema"))?;
    let known = known();
    if known < needed { Err(StoreError::SchemaTooNew { needed, known }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    /// The last migration from before the rules.
    const LAST_OFFLINE: i64 = 59;

    #[test]
    fn both_databases_have_the_same_migrations() {
        let names = |m: &Migrator| m.iter().map(|m| (m.version, m.description.to_string())).collect::<Vec<_>>();
        assert_eq!(names(&SQLITE), names(&POSTGRES));
    }

    /// The definition of an index: its table, its columns in any order, and its condition.
    type IndexOf = (String, BTreeSet<String>, String);

    /// The name of an index, and what it is of.
    fn index(statement: &str) -> Option<(&str, IndexOf)> {
        let (create, of) = statement.split_once(" on ")?;
        let (table, columns) = of.split_once('(')?;
        let (columns, condition) = columns.split_once(')')?;
        let columns = columns.split(',').map(|column| column.trim().to_owned()).collect();
        Some((create.split(' ').next_back()?, (table.trim().to_owned(), columns, condition.trim().to_owned())))
    }

    /// The statements of a migration without comments and without what functions and triggers do, in lower case, each on one line.
    fn statements(sql: &str) -> Vec<String> {
        let code: String =
            sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
        // Between two signs of PostgreSQL, and from the `begin` of a trigger of SQLite to its `end`.
        let mut code: String = code.split("$$").step_by(2).collect::<Vec<_>>().join(" ").to_lowercase();
        while let Some((before, after)) = code.split_once(" begin ") {
            let (_, after) = after.split_once(" end;").expect("an `end` after each `begin`");
            code = format!("{before}; {after}");
        }
        code.split(';')
            .map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|statement| !statement.is_empty())
            .collect()
    }

    /// Whether the migrations have another unique index with the same columns as the one of this name, in any order.
    fn has_twin(dialect: Dialect, name: &str) -> bool {
        let migrator: &Migrator = if dialect == Dialect::Postgres { &POSTGRES } else { &SQLITE };
        let all: Vec<String> = migrator.iter().flat_map(|migration| statements(migration.sql.as_str())).collect();
        let unique = || all.iter().filter(|one| one.starts_with("create unique index")).filter_map(|one| index(one));
        let own: Vec<_> = unique().filter(|(other, _)| *other == name).map(|(_, of)| of).collect();
        unique().any(|(other, of)| other != name && own.contains(&of))
    }

    /// The statements of a migration that break the rules of decision 0090: they would stop requests, or the program before.
    fn objections(dialect: Dialect, sql: &str) -> Vec<String> {
        let contracts = sql.contains("schema.oldest_program");
        let statements = statements(sql);
        let no_transaction = sql.starts_with("-- no-transaction");
        let mut new_tables: Vec<&str> = Vec::new();
        let mut found = Vec::new();
        let mut concurrent = 0;
        for statement in &statements {
            let words: Vec<&str> = statement.split(' ').collect();
            let after = |word: &str| words.iter().position(|w| *w == word).and_then(|at| words.get(at + 1).copied());
            let objection = match words.as_slice() {
                ["create", "table", name, ..] => {
                    new_tables.push(name);
                    None
                }
                ["create", "index", ..] | ["create", "unique", "index", ..]
                    if after("on").is_some_and(|table| new_tables.contains(&table)) =>
                {
                    None
                }
                ["drop", "index", "concurrently", "if", "exists", name] if has_twin(dialect, name) => {
                    concurrent += 1;
                    None
                }
                ["drop", "index", name] if dialect == Dialect::Sqlite && has_twin(dialect, name) => None,
                // Nothing is unique that was not before, if the index has a twin.
                ["create", "unique", "index", ..]
                    if !contracts && !index(statement).is_some_and(|(name, _)| has_twin(dialect, name)) =>
                {
                    Some("it refuses rows that the program before may write")
                }
                ["create", "index", ..] | ["create", "unique", "index", ..] if dialect == Dialect::Sqlite => None,
                ["create", "index", "concurrently", "if", "not", "exists", ..]
                | ["create", "unique", "index", "concurrently", "if", "not", "exists", ..] => {
                    concurrent += 1;
                    None
                }
                ["create", "index", ..] | ["create", "unique", "index", ..] => {
                    Some("writes wait for it: build it by `create index concurrently if not exists`")
                }
                ["alter", "table", _, "add", "column", ..] => {
                    let is_given = statement.contains(" default ") && !statement.contains('(');
                    let bad = ["references", "unique", "primary key", "check", "generated"];
                    if statement.contains(" not null") && !is_given {
                        Some("the program before writes rows without it")
                    } else if bad.iter().any(|word| statement.contains(&format!(" {word}"))) {
                        Some("it refuses rows that the program before may write")
                    } else if statement.contains(" default ") && !is_given {
                        Some("the whole table is written again")
                    } else {
                        None
                    }
                }
                // Writes wait only until a trigger is there. One that runs before a row is written could refuse or change it.
                ["insert", "into", "service_state", ..]
                | ["create", "trigger", _, "after", ..]
                | ["create", "function", ..] => None,
                _ if contracts => None,
                _ => Some("it is not known to be additive and quick"),
            };
            found.extend(objection.map(|why| format!("{statement}: {why}")));
        }
        if dialect == Dialect::Postgres && (concurrent > 0) != no_transaction {
            found.push(
                "`-- no-transaction` is the first line where an index is built or dropped concurrently, and there alone"
                    .into(),
            );
        }
        if no_transaction && statements.len() != 1 {
            found.push("several statements outside of a transaction: a failure in between is not noted".into());
        }
        found
    }

    #[test]
    fn migrations_are_additive_and_make_no_request_wait() {
        let mut seen = 0;
        for (dialect, migrator) in [(Dialect::Postgres, &*POSTGRES), (Dialect::Sqlite, &*SQLITE)] {
            for migration in migrator.iter().filter(|migration| migration.version > LAST_OFFLINE) {
                let found = objections(dialect, migration.sql.as_str());
                assert!(found.is_empty(), "{} on {dialect:?}: {}", migration.version, found.join("\n"));
                seen += 1;
            }
        }
        assert!(seen >= 6, "{seen}");
    }

    #[test]
    fn what_would_stop_requests_or_the_program_before_is_found() {
        for good in [
            "create table t (a bigint not null unique); create unique index i on t (a);",
            "alter table data_job add column a text collate \"C\";",
            "alter table data_job add column a boolean not null default false;",
            "-- no-transaction\n-- Why.\ncreate index concurrently if not exists i on data_job (a);",
            "insert into service_state (name, value) values ('schema.oldest_program', '70'); drop table t;",
            "-- no-transaction\ndrop index concurrently if exists data_job_execution_tick;",
            "create function f() returns trigger language plpgsql as $$\nbegin\n    update t set a = 1;\nend\n$$;
             create trigger t after insert on data_job for each row execute function f();",
        ] {
            assert_eq!(objections(Dialect::Postgres, good), Vec::<String>::new(), "{good}");
        }
        for bad in [
            "create index i on data_job (a);",
            "-- no-transaction\ncreate index concurrently i on data_job (a);",
            "create index concurrently if not exists i on data_job (a);",
            "-- no-transaction\ncreate index concurrently if not exists i on data_job (a); alter table t add column b text;",
            "-- no-transaction\ncreate unique index concurrently if not exists i on data_job (a);",
            "alter table data_job add column a text not null;",
            "alter table data_job add column a uuid default gen_random_uuid();",
            "alter table data_job add column a bigint references t (a);",
            "alter table data_job drop column a;",
            "alter table data_job rename column a to b;",
            "alter table data_job add constraint c check (a > 0);",
            "update data_job set a = 1;",
            "drop table t;",
            "drop index data_job_execution_tick;",
            "create trigger t before insert on data_job for each row execute function f();",
            "create function f() returns void as $$ begin end $$; update data_job set a = 1;",
            "-- no-transaction\ndrop index concurrently if exists data_job_execution_slot;",
        ] {
            assert!(!objections(Dialect::Postgres, bad).is_empty(), "{bad}");
        }
        assert_eq!(objections(Dialect::Sqlite, "create index i on data_job (a);"), Vec::<String>::new());
    }

    #[test]
    fn the_index_of_a_concurrent_migration_is_known_by_name() {
        assert_eq!(
            concurrent_index("-- no-transaction\ncreate index concurrently if not exists a_b on t (c)"),
            Some("a_b")
        );
        assert_eq!(concurrent_index("create index a_b on t (c)"), None);
    }
}
