//! The log of an execution, read in pieces: from the database once it is over, and from a temporary file while it runs.

use std::{
    fs::File,
    io::{Seek, Write},
    os::unix::fs::FileExt,
    sync::Arc,
    time::Duration,
};

use model::{Problem, clock::SharedClock, log::LogChunk, name::ExecutionId, problem::Code};
use store::{Db, logs::LogPosition};

use crate::{
    memory::MemoryBudget,
    places::{PlaceLimits, Places},
    scratch::{Scratch, unwritten},
};

/// Logs of running executions that are read at once.
const AT_ONCE_MAX: usize = 4;
/// Requests that wait for one of them.
const WAITING_MAX: usize = 64;
/// How long one waits.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The most bytes of a temporary file that are in memory at once; a shorter log needs no file.
const PIECE_MAX_BYTES: usize = 64 * 1024;

/// How logs of running executions are read: a few at once, because a runtime answers a whole log. Then they are put into a
/// temporary file, so that a slow reader keeps none of it in memory.
#[derive(Debug, Clone)]
pub struct LiveLogs {
    places: Places,
    scratch: Scratch,
    memory: MemoryBudget,
    log_max_bytes: usize,
}

impl LiveLogs {
    /// Reads logs of at most `log_max_bytes`.
    pub fn new(scratch: Scratch, memory: MemoryBudget, clock: SharedClock, log_max_bytes: usize) -> Self {
        let limits = PlaceLimits {
            what: "logs of running executions",
            at_once_max: AT_ONCE_MAX,
            waiting_max: WAITING_MAX,
            wait_max: WAIT_MAX,
        };
        Self { places: Places::new(limits, clock), scratch, memory, log_max_bytes }
    }

    /// Puts the log that `read` answers into a temporary file. `None` when it answers none.
    pub(crate) async fn read(
        &self,
        principal: Option<&str>,
        tail_lines: Option<usize>,
        read: impl Future<Output = Result<Option<LogChunk>, Problem>>,
    ) -> Result<Option<LogReader>, Problem> {
        let place = self.places.take(principal).await?;
        // Twice: while a runtime puts the parts of it together. Logs larger than the budget are read one at a time.
        let bytes = self.log_max_bytes.saturating_mul(2).min(self.memory.total_bytes() / 2);
        let reserved = self.memory.reserve(bytes)?;
        let Some(log) = read.await? else { return Ok(None) };
        if log.text.len() <= PIECE_MAX_BYTES {
            let text = tail_lines.map_or(&*log.text, |lines| log.tail(lines)).to_owned();
            return Ok(Some(LogReader(Source::Text(Some(text)))));
        }
        let mut file = self.scratch.file()?;
        let written = tokio::task::spawn_blocking(move || {
            let _held = (place, reserved);
            let text = tail_lines.map_or(&*log.text, |lines| log.tail(lines));
            file.write_all(text.as_bytes())?;
            let bytes = file.stream_position()?;
            Ok::<_, std::io::Error>((file, bytes))
        });
        let (file, bytes) = written
            .await
            .map_err(|_| {
                Problem::new(
                    Code::ExecutionLogUnreadable,
                    "The log was not read.",
                    "Copying it to a temporary file failed.",
                )
                .nothing_returned()
                .fix("Retry; if it fails again, the operator checks `data_dir`.")
            })?
            .map_err(|error| unwritten(&error))?;
        Ok(Some(LogReader(Source::File { file: Arc::new(file), position: 0, bytes })))
    }
}

/// A log from its beginning to its end, in pieces.
#[derive(Debug)]
pub struct LogReader(Source);

#[derive(Debug)]
enum Source {
    Text(Option<String>),
    File { file: Arc<File>, position: u64, bytes: u64 },
    Stored { db: Box<Db>, id: ExecutionId, chunk: i64, skip_bytes: usize },
}

impl LogReader {
    /// A log without text.
    pub(crate) fn empty() -> Self {
        Self(Source::Text(None))
    }

    /// The log that is stored, or its last lines; `None` when none is stored.
    pub(crate) async fn stored(db: &Db, id: &ExecutionId, tail_lines: Option<usize>) -> Result<Option<Self>, Problem> {
        let mut tx = db.read().await?;
        let Some(last) = store::logs::last_position(&mut tx, id).await? else { return Ok(None) };
        drop(tx);
        let (chunk, skip_bytes) = match tail_lines {
            Some(lines) => tail_start(db, id, last, lines).await?,
            None => (0, 0),
        };
        Ok(Some(Self(Source::Stored { db: Box::new(db.clone()), id: id.clone(), chunk, skip_bytes })))
    }

    /// The next piece; `None` after the end.
    ///
    /// # Errors
    /// Unavailable when it can't be read.
    pub async fn next_piece(&mut self) -> Result<Option<String>, Problem> {
        match &mut self.0 {
            Source::Text(text) => Ok(text.take().filter(|text| !text.is_empty())),
            Source::File { file, position, bytes } => {
                if position >= bytes {
                    return Ok(None);
                }
                let (of, at) = (Arc::clone(file), *position);
                let most = PIECE_MAX_BYTES.min(usize::try_from(*bytes - at).unwrap_or(usize::MAX));
                let read = tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; most];
                    of.read_exact_at(&mut piece, at).map(|()| piece)
                });
                let unread = || {
                    Problem::new(
                        Code::ExecutionLogUnreadable,
                        "The log was not read to its end.",
                        "Its temporary file can't be read.",
                    )
                    .follows("The log is incomplete.")
                    .fix("Retry; if it fails again, the operator checks `data_dir`.")
                };
                let mut piece = read.await.map_err(|_| unread())?.map_err(|_| unread())?;
                // The file has whole characters; only the last one of the piece may be cut.
                let whole = match std::str::from_utf8(&piece) {
                    Ok(text) => text.len(),
                    Err(error) => error.valid_up_to(),
                };
                piece.truncate(whole);
                let text = String::from_utf8(piece).ok().filter(|text| !text.is_empty()).ok_or_else(unread)?;
                *position += text.len() as u64;
                Ok(Some(text))
            }
            Source::Stored { db, id, chunk, skip_bytes } => {
                let mut tx = db.read().await?;
                let Some(mut text) = store::logs::chunk(&mut tx, id, *chunk).await? else { return Ok(None) };
                drop(tx);
                *chunk += 1;
                let skipped = std::mem::take(skip_bytes).min(text.len());
                Ok(Some(if skipped == 0 { text } else { text.split_off(skipped) }))
            }
        }
    }
}

/// Where the last `lines` lines of a stored log begin: the chunk, and how many of its bytes come before.
async fn tail_start(db: &Db, id: &ExecutionId, last: LogPosition, lines: usize) -> Result<(i64, usize), Problem> {
    let text = chunk(db, id, last.chunk).await?;
    // The end of the last line is no beginning of another one.
    let searched = text.strip_suffix('\n').unwrap_or(&text);
    let found = line_ends(searched);
    if found >= lines {
        let at = searched.rmatch_indices('\n').nth(lines.saturating_sub(1)).map_or(0, |(at, _)| at + 1);
        return Ok((last.chunk, at));
    }
    let missing = lines - found;
    match last.first_line {
        Some(before) => begin_of_line(db, id, before, missing).await,
        None => begin_of_uncounted(db, id, last.chunk, missing).await,
    }
}

/// Where the line begins that has the end so many before the last of `before` ones.
async fn begin_of_line(db: &Db, id: &ExecutionId, before: i64, missing: usize) -> Result<(i64, usize), Problem> {
    // This end of a line is the last that is not shown.
    let line = before.saturating_sub(i64::try_from(missing).unwrap_or(i64::MAX)) + 1;
    let mut tx = db.read().await?;
    let position = if line < 1 { None } else { store::logs::position_of_line(&mut tx, id, line).await? };
    drop(tx);
    let Some(LogPosition { chunk: number, first_line: Some(first_line), .. }) = position else { return Ok((0, 0)) };
    let text = chunk(db, id, number).await?;
    let nth = usize::try_from(line - first_line - 1).unwrap_or(usize::MAX);
    Ok((number, text.match_indices('\n').nth(nth).map_or(text.len(), |(at, _)| at + 1)))
}

/// The same for a log whose pieces were not counted: they are read from the last one back.
async fn begin_of_uncounted(db: &Db, id: &ExecutionId, last: i64, missing: usize) -> Result<(i64, usize), Problem> {
    let mut missing = missing;
    for number in (0..last).rev() {
        let text = chunk(db, id, number).await?;
        let found = line_ends(&text);
        if found >= missing {
            let at = text.rmatch_indices('\n').nth(missing.saturating_sub(1)).map_or(0, |(at, _)| at + 1);
            return Ok((number, at));
        }
        missing -= found;
    }
    Ok((0, 0))
}

async fn chunk(db: &Db, id: &ExecutionId, number: i64) -> Result<String, Problem> {
    let mut tx = db.read().await?;
    Ok(store::logs::chunk(&mut tx, id, number).await?.unwrap_or_default())
}

fn line_ends(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}
