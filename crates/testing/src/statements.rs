//! The statements of a request, read where the driver logs them.

use std::{
    fmt,
    pin::Pin,
    sync::{Mutex, PoisonError},
};

use store::Db;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

static HEARD: Mutex<Vec<Statement>> = Mutex::new(Vec::new());
/// The log is the whole process's: one test counts at a time.
static COUNTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Enough transactions to hold every connection that reads SQLite.
const READERS: usize = 4;

/// A statement that was sent.
#[derive(Debug, Clone, Default)]
pub struct Statement {
    /// Its first words.
    pub words: String,
    /// How many rows it returned.
    pub rows: u64,
}

/// Hears every statement of the process, on whatever thread it runs.
#[derive(Debug)]
pub struct Statements {
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Statements {
    /// Begins to hear; other tests of the process that want to wait until this one is dropped.
    pub async fn heard() -> Self {
        let alone = COUNTING.lock().await;
        let _ = tracing::subscriber::set_global_default(StatementListener);
        Self { _alone: alone }
    }

    /// The result of a request, and the first words of its statements.
    ///
    /// # Panics
    /// When the database does not answer.
    pub fn of<'a, T: 'a>(
        &'a self,
        db: &'a Db,
        request: impl Future<Output = T> + 'a,
    ) -> Pin<Box<dyn Future<Output = (T, Vec<Statement>)> + 'a>> {
        let request = Box::pin(request);
        Box::pin(async move {
            settle(db).await;
            take();
            let answer = request.await;
            settle(db).await;
            (answer, take())
        })
    }
}

/// Waits until SQLite's threads have told all that was asked of them, and have no more connection to open: each connection
/// of the pools is held once, which needs its answer to what was sent before. PostgreSQL's driver tells within the request.
async fn settle(db: &Db) {
    if db.is_exclusive() {
        let mut held = vec![db.write().await.expect("the database answers")];
        for _ in 0..READERS {
            held.push(db.read().await.expect("the database answers"));
        }
    }
}

fn take() -> Vec<Statement> {
    std::mem::take(&mut HEARD.lock().unwrap_or_else(PoisonError::into_inner))
}

struct StatementListener;

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "summary" {
            value.clone_into(&mut self.words);
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "rows_returned" {
            self.rows = value;
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl Subscriber for StatementListener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut statement = Statement::default();
        event.record(&mut statement);
        HEARD.lock().unwrap_or_else(PoisonError::into_inner).push(statement);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
