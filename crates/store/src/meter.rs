//! Counts the bytes of rows while they are read, so that a list ends before it holds more memory than it may.

use model::Problem;

use crate::error::Refused;

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

/// Counts a row with the meter, if there is one.
pub(crate) fn count(meter: Option<&dyn Meter>, row: &impl RowBytes) -> sqlx::Result<()> {
    match meter.map(|meter| meter.add(ROW_BYTES + row.text_bytes())) {
        Some(Err(problem)) => Err(sqlx::Error::Decode(Box::new(Refused(problem)))),
        Some(Ok(())) | None => Ok(()),
    }
}

/// The bytes of texts that may be absent.
pub(crate) fn bytes_of<'a>(texts: impl IntoIterator<Item = Option<&'a String>>) -> usize {
    texts.into_iter().flatten().map(String::len).sum()
}

/// The bytes of a JSON text together with the lists of texts that are made of it: many short ones take more than the text.
pub(crate) fn bytes_of_json(text: &str) -> usize {
    const ELEMENT_BYTES: usize = 96;
    text.len() + text.matches(',').count() * ELEMENT_BYTES
}
