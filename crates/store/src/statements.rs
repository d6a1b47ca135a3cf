//! The durations of statements, and the spans around them.

use std::{future::Future, sync::Arc, time::Duration};

use futures::FutureExt;
use model::clock::SharedClock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tracing::{Instrument, Span};

use crate::postgres::answered;

/// Upper bounds of the buckets, in seconds. There are few, because each operation has all of them.
const BUCKETS_SECONDS: [f64; 6] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOperation {
    operation: &'static str,
}

/// The durations of a database's statements by operation, the name of the function that sends them: from when a statement
/// was sent until its rows were read or its caller gave up.
#[derive(Debug, Clone)]
pub struct Statements {
    durations: Family<ByOperation, Histogram, fn() -> Histogram>,
    clock: SharedClock,
}

impl Statements {
    /// None yet.
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self { durations: Family::new_with_constructor(|| Histogram::new(BUCKETS_SECONDS)), clock }
    }

    /// The clock that they are timed by.
    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Shows the series in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "holdfast_database_statement_duration",
            "Duration of database statements, by operation",
            Unit::Seconds,
            self.durations.clone(),
        );
    }

    /// Takes the time of a statement from now on.
    pub(crate) fn begin(&self, operation: &'static str) -> Timing {
        Timing {
            histogram: self.durations.get_or_create_owned(&ByOperation { operation }),
            begun: self.clock.boot(),
            clock: Arc::clone(&self.clock),
            span: tracing::debug_span!("statement", operation),
        }
    }
}

/// A statement in progress; its duration counts when this is dropped.
#[derive(Debug)]
pub(crate) struct Timing {
    histogram: Histogram,
    /// On the boot clock.
    begun: Duration,
    clock: SharedClock,
    span: Span,
}

impl Timing {
    /// Waits for a statement on a server, and fails if the server does not respond within the time limit.
    pub(crate) fn of_server<T, F: Future<Output = sqlx::Result<T>>>(
        self,
        statement: F,
    ) -> impl Future<Output = sqlx::Result<T>> {
        let statement = answered(&*self.clock, statement);
        self.of(statement)
    }

    /// Waits for the statement.
    pub(crate) fn of<T, F: Future<Output = T>>(self, statement: F) -> impl Future<Output = T> {
        // An `async` block would hold the statement twice.
        statement.instrument(self.span.clone()).map(move |answer| {
            drop(self);
            answer
        })
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        self.histogram.observe(self.clock.boot().saturating_sub(self.begun).as_secs_f64());
    }
}

/// The name of the operation of the function around it.
macro_rules! operation {
    () => {{
        fn here() {}
        static NAME: std::sync::LazyLock<String> =
            std::sync::LazyLock::new(|| $crate::statements::name_of(std::any::type_name_of_val(&here)));
        NAME.as_str()
    }};
}
pub(crate) use operation;

/// The name of the operation of the function within which a path leads to an item: its noun and its verb.
pub(crate) fn name_of(path: &str) -> String {
    // Files that one noun is written in.
    const PARTS: [&str; 2] = ["list", "transitions"];
    let is_name = |segment: &&str| {
        segment.starts_with(|first: char| first.is_ascii_lowercase() || first == '_') && !PARTS.contains(segment)
    };
    let mut names: Vec<_> = path.split("::").skip(1).filter(is_name).collect();
    names.pop();
    names.join(".")
}

#[cfg(test)]
mod tests {
    use clock::SystemClock;

    use super::*;

    struct Row;

    impl Row {
        async fn find() -> &'static str {
            let find = async || operation!();
            find().await
        }
    }

    #[tokio::test]
    async fn an_operation_is_named_after_the_function_whatever_it_is_nested_in() {
        assert_eq!(Row::find().await, "statements.tests.find");
        assert_eq!(name_of("store::executions::transitions::finish::{{closure}}::here"), "executions.finish");
        assert_eq!(name_of("store::jobs::list::page_of::{{closure}}::{{closure}}::here"), "jobs.page_of");
        assert_eq!(name_of("store::jobs::deleted::find::{{closure}}::here"), "jobs.deleted.find");
        assert_eq!(name_of("store::db::Db::ping::{{closure}}::here"), "db.ping");
    }

    #[tokio::test]
    async fn statements_are_counted_by_operation_and_never_by_text() {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::Db::open_sqlite(&folder.path().join("test.db"), Arc::new(SystemClock)).await.unwrap();
        let mut registry = Registry::default();
        db.statements().register(&mut registry);
        let mut tx = db.write().await.unwrap();
        for limit in [1, 2] {
            let query = crate::jobs::JobQuery { names: vec!["Dorothy".into()], limit, ..Default::default() };
            assert_eq!(crate::jobs::page(&mut tx, &query).await.unwrap(), []);
        }
        tx.commit().await.unwrap();
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for (operation, count) in [("jobs.page_of", 2), ("transaction.commit", 3), ("jobs.search_index.complete", 1)] {
            let line =
                format!("holdfast_database_statement_duration_seconds_count{{operation=\"{operation}\"}} {count}\n");
            assert!(page.contains(&line), "{line}{page}");
        }
        assert!(!page.contains("select") && !page.contains("orothy"), "{page}");
    }
}
