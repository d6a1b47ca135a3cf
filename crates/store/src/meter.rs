//! Counts the bytes of rows while they are read, so that a list ends before it holds more memory than it may.

use model::Problem;

/// Takes note of the bytes that rows hold.
pub trait Meter: Send + Sync + std::fmt::Debug {
    /// Adds the bytes of a row that was read.
    ///
    /// # Errors
    /// When these are too many: the statement is given up.
    fn add(&self, bytes: usize) -> Result<(), Problem>;
}

/// A row that knows roughly how many bytes it holds.
pub(crate) trait RowBytes {
    /// The bytes of its texts; [`ROW_BYTES`] come on top.
    fn text_bytes(&self) -> usize;
}

/// Memory of a row without its texts: numbers, pointers, and the overhead of allocations.
const ROW_BYTES: usize = 512;

/// A meter's refusal on its way through the database library.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) Problem);

/// Counts a row with the meter, if there is one.
pub(crate) fn count(meter: Option<&dyn Meter>, row: &impl RowBytes) -> sqlx::Result<()> {
    match meter.map(|meter| meter.add(ROW_BYTES + row.text_bytes())) {
        Some(Err(problem)) => Err(sqlx::Error::Decode(Box::new(Refused(problem)))),
        Some(Ok(())) | None => Ok(()),
    }
}

/// Reads the rows of a statement, counting each with the meter of the transaction.
macro_rules! metered_rows {
    ($tx:expr, $statement:expr) => {{
        let meter = $tx.meter();
        $crate::db::on!($tx, c => {
            let mut stream = $statement.fetch(c);
            let mut rows = Vec::new();
            let read = async {
                while let Some(row) = futures::TryStreamExt::try_next(&mut stream).await? {
                    $crate::meter::count(meter.as_deref(), &row)?;
                    rows.push(row);
                }
                Ok::<(), sqlx::Error>(())
            };
            read.await.map(|()| rows)
        })
    }};
}
pub(crate) use metered_rows;

/// The bytes of texts that may be absent.
pub(crate) fn bytes_of<'a>(texts: impl IntoIterator<Item = Option<&'a String>>) -> usize {
    texts.into_iter().flatten().map(String::len).sum()
}

/// The bytes of a JSON text together with the lists of texts that are made of it: many short ones take more than the text.
pub(crate) fn bytes_of_json(text: &str) -> usize {
    const ELEMENT_BYTES: usize = 96;
    text.len() + text.matches(',').count() * ELEMENT_BYTES
}
