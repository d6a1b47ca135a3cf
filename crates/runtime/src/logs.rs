//! The log of a run: bounded on disk, head and tail kept.
//!
//! It is kept in pieces of half the limit, each in a file with the offset of its first byte as its name. The first piece
//! stays; of the later ones the last two do. Gaps between pieces follow from their names alone, so
//! that no counter has to be kept in step, and a reader needs no word with the writer.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use model::log::{LogChunk, LogPart};
use rustix::fs::{FallocateFlags, fallocate};

const PREFIX: &str = "log.";
/// Reserved space that is released when the disk is full, so that the job's messages about that are kept.
const RESERVE: &str = "reserve.log";
const RESERVE_BYTES: u64 = 64 * 1024;

fn piece(folder: &Path, offset: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{offset:020}"))
}

/// Writes a log. Never fails: unwritable parts are left out and marked.
#[derive(Debug)]
pub(crate) struct LogWriter {
    folder: PathBuf,
    piece_max_bytes: u64,
    position: u64,
    open: Option<(File, u64)>,
    later: VecDeque<u64>,
    /// The last bytes were left out.
    is_cut: bool,
}

impl LogWriter {
    pub(crate) fn new(folder: PathBuf, log_max_bytes: u64) -> Self {
        let reserve = folder.join(RESERVE);
        let _ = File::create(&reserve).map(|file| fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES));
        Self {
            folder,
            piece_max_bytes: (log_max_bytes / 2).max(1),
            position: 0,
            open: None,
            later: VecDeque::new(),
            is_cut: false,
        }
    }

    pub(crate) fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Ok(written) = self.write_some(bytes) else {
                self.open = None;
                if fs::remove_file(self.folder.join(RESERVE)).is_ok() {
                    continue;
                }
                self.position += bytes.len() as u64;
                self.is_cut = true;
                return;
            };
            self.position += written as u64;
            self.is_cut = false;
            bytes = &bytes[written..];
        }
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some((file, written)) = &mut self.open else { return self.open_piece(bytes) };
        let room = usize::try_from(self.piece_max_bytes - *written).unwrap_or(usize::MAX);
        let now = loop {
            match file.write(&bytes[..bytes.len().min(room)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => break n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        };
        *written += now as u64;
        if *written >= self.piece_max_bytes {
            self.open = None;
        }
        Ok(now)
    }

    /// Opens the next piece with the first byte in it, which shows whether there is room: a piece that can't be filled
    /// must not push out others.
    fn open_piece(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let path = piece(&self.folder, self.position);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        if let Err(e) = file.write_all(&bytes[..1]) {
            let _ = fs::remove_file(&path);
            return Err(e);
        }
        if self.position > 0 {
            self.later.push_back(self.position);
        }
        while self.later.len() > 2 {
            if let Some(old) = self.later.pop_front() {
                let _ = fs::remove_file(piece(&self.folder, old));
            }
        }
        self.open = (self.piece_max_bytes > 1).then_some((file, 1));
        Ok(1)
    }

    /// Closes the log. If its last bytes were left out, an empty piece marks that.
    pub(crate) fn finish(&mut self) {
        self.open = None;
        let _ = fs::remove_file(self.folder.join(RESERVE));
        if self.is_cut {
            let _ = File::create(piece(&self.folder, self.position));
        }
    }

    /// Gives up the tail, to make room on a full disk for something that matters more.
    pub(crate) fn drop_tail(&mut self) {
        self.open = None;
        for offset in self.later.drain(..) {
            let _ = fs::remove_file(piece(&self.folder, offset));
        }
    }
}

/// The bytes that are read at once from the end of a log.
const BLOCK_BYTES: u64 = 64 * 1024;

/// Reads a part of a log, of which at most half of `log_max_bytes` is kept from its beginning and as much from its end.
pub(crate) fn read_part(folder: &Path, log_max_bytes: u64, part: LogPart) -> io::Result<LogChunk> {
    let LogPart::LastLines(lines) = part else { return read(folder, log_max_bytes) };
    if let Some(text) = read_last_lines(folder, lines)? {
        return Ok(LogChunk { text, omitted_bytes: 0 });
    }
    let mut log = read(folder, log_max_bytes)?;
    log.text = log.tail(lines).to_owned();
    Ok(log)
}

/// Reads the last lines of a log, and no more than those. `None` when they are not all in one stretch.
fn read_last_lines(folder: &Path, lines: usize) -> io::Result<Option<String>> {
    let mut text: Vec<u8> = Vec::new();
    let mut found = 0;
    let mut next = None;
    for offset in offsets(folder)?.into_iter().rev() {
        let file = match File::open(piece(folder, offset)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let bytes = file.metadata()?.len();
        if next.is_some_and(|next| offset + bytes != next) {
            return Ok(None);
        }
        next = Some(offset);
        let mut end = bytes;
        while end > 0 {
            let begin = end.saturating_sub(BLOCK_BYTES);
            let mut block = vec![0; usize::try_from(end - begin).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut block, begin)?;
            // The end of the last line is no beginning of another one.
            let is_last = text.is_empty();
            block.extend_from_slice(&text);
            let searched = block.len() - text.len() - usize::from(is_last && block.ends_with(b"\n"));
            for at in (0..searched).rev().filter(|at| block[*at] == b'\n') {
                found += 1;
                if found == lines {
                    return Ok(Some(String::from_utf8_lossy(&block[at + 1..]).into_owned()));
                }
            }
            (text, end) = (block, begin);
        }
    }
    Ok(None)
}

/// Where the pieces of a log begin.
fn offsets(folder: &Path) -> io::Result<Vec<u64>> {
    let mut offsets = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        offsets.extend(name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|n| n.parse::<u64>().ok()));
    }
    offsets.sort_unstable();
    Ok(offsets)
}

/// Reads a log: at most half of `log_max_bytes` from its beginning and as much from its end.
fn read(folder: &Path, log_max_bytes: u64) -> io::Result<LogChunk> {
    let half = usize::try_from((log_max_bytes / 2).max(1)).unwrap_or(usize::MAX);
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    for offset in offsets(folder)? {
        let mut bytes = Vec::new();
        match File::open(piece(folder, offset)).and_then(|f| f.take(half as u64).read_to_end(&mut bytes)) {
            Ok(_) => pieces.push((offset, bytes)),
            // Pushed out by newer ones since the folder was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    let tail_bytes: usize = pieces.iter().skip(1).map(|(_, bytes)| bytes.len()).sum();
    let mut surplus = tail_bytes.saturating_sub(half);
    for (offset, bytes) in pieces.iter_mut().skip(1) {
        let cut = surplus.min(bytes.len());
        bytes.drain(..cut);
        *offset += cut as u64;
        surplus -= cut;
    }
    // Bytes of a single piece, which have no cut inside.
    let mut stretches: Vec<(u64, Vec<u8>)> = Vec::new();
    for (offset, bytes) in pieces {
        match stretches.last_mut() {
            Some((from, before)) if *from + before.len() as u64 == offset => before.extend(bytes),
            _ => stretches.push((offset, bytes)),
        }
    }
    let mut text = Vec::new();
    let mut position = 0;
    let mut omitted_bytes = 0;
    for (mut offset, bytes) in stretches {
        let mut bytes = bytes.as_slice();
        if offset > position {
            trim_cut_character(&mut text, &mut position);
            while let Some((first, rest)) = bytes.split_first()
                && first & 0b1100_0000 == 0b1000_0000
            {
                bytes = rest;
                offset += 1;
            }
            let missing = offset - position;
            omitted_bytes += missing;
            if !text.is_empty() && !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            text.extend_from_slice(format!("[... {missing} bytes of the log were left out here ...]\n").as_bytes());
        }
        text.extend_from_slice(bytes);
        position = offset + bytes.len() as u64;
    }
    // A log is large, and most are text already.
    let text = String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    Ok(LogChunk { text, omitted_bytes })
}

/// Drops the beginning of a character whose rest was left out.
fn trim_cut_character(text: &mut Vec<u8>, position: &mut u64) {
    let at_most = text.len().min(3);
    for back in 1..=at_most {
        let byte = text[text.len() - back];
        let needs = match byte {
            0b1100_0000..=0b1101_1111 => 2,
            0b1110_0000..=0b1110_1111 => 3,
            0b1111_0000..=0b1111_0111 => 4,
            0b1000_0000..=0b1011_1111 => continue,
            _ => return,
        };
        if needs > back {
            text.truncate(text.len() - back);
            *position -= back as u64;
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(limit: u64, writes: &[&[u8]]) -> (tempfile::TempDir, LogChunk) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::new(folder.path().to_owned(), limit);
        for bytes in writes {
            writer.append(bytes);
        }
        writer.finish();
        let chunk = read(folder.path(), limit).unwrap();
        (folder, chunk)
    }

    #[test]
    fn a_log_within_its_limit_is_kept_whole() {
        let (_folder, chunk) = log_of(22, &[b"one\n", b"two\n", b"three\n", "f\u{fc}nf\n".as_bytes()]);
        assert_eq!(chunk.text, "one\ntwo\nthree\nf\u{fc}nf\n");
        assert_eq!(chunk.omitted_bytes, 0);
    }

    #[test]
    fn a_log_above_its_limit_keeps_head_and_tail_and_says_what_is_missing() {
        let lines: String = "0123456789abcde\n".repeat(600);
        let (folder, chunk) = log_of(100, &[lines.as_bytes()]);
        assert!(chunk.text.starts_with("0123456789abcde\n"), "{}", chunk.text);
        assert!(chunk.text.ends_with("\n0123456789abcde\n"), "{}", chunk.text);
        assert_eq!(chunk.omitted_bytes, lines.len() as u64 - 100);
        assert!(
            chunk.text.contains(&format!("\n[... {} bytes of the log were left out here ...]\n", chunk.omitted_bytes))
        );
        let on_disk: u64 = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(on_disk <= 150, "{on_disk}");
    }

    #[test]
    fn the_last_lines_of_a_log_are_read_alone_wherever_they_begin() {
        // Of 100 kB some lines are longer than a block; the limits put the pieces at other places.
        for limit in [300_000, 130_000] {
            let lines: Vec<String> =
                (0..200).map(|n| format!("{n} {}\n", "x".repeat(if n == 190 { 70_000 } else { n }))).collect();
            let (folder, whole) = log_of(limit, &[lines.concat().as_bytes()]);
            for count in [0, 1, 2, 5, 12, 40, 199, 200, 1000] {
                let part = read_part(folder.path(), limit, LogPart::LastLines(count)).unwrap();
                assert_eq!(part.text, whole.tail(count), "{count} of {limit}");
            }
        }
        let (folder, _) = log_of(1000, &[b"one\ntwo"]);
        assert_eq!(read_last_lines(folder.path(), 1).unwrap().as_deref(), Some("two"));
        // Of a large piece only its end is read.
        fs::write(piece(folder.path(), 0), format!("{}\nlast\n", "y".repeat(1_000_000))).unwrap();
        assert_eq!(read_last_lines(folder.path(), 1).unwrap().as_deref(), Some("last\n"));
        let (folder, whole) = log_of(100, &["0123456789abcde\n".repeat(600).as_bytes()]);
        assert_eq!(read_part(folder.path(), 100, LogPart::LastLines(9)).unwrap().text, whole.tail(9), "over the gap");
        assert_eq!(read_last_lines(folder.path(), 9).unwrap(), None);
    }

    #[test]
    fn a_character_is_never_cut_in_half() {
        let text = "\u{20ac}".repeat(100);
        let (_folder, chunk) = log_of(20, &[text.as_bytes()]);
        assert!(!chunk.text.contains('\u{fffd}'), "{}", chunk.text);
        let kept = chunk.text.matches('\u{20ac}').count() * 3;
        assert_eq!(chunk.omitted_bytes + kept as u64, 300);
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced() {
        let (_folder, chunk) = log_of(20, &[b"a\xffb"]);
        assert_eq!(chunk.text, "a\u{fffd}b");
    }

    #[test]
    fn what_a_full_disk_swallows_shows_as_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::new(folder.path().to_owned(), 100);
        writer.append(b"before\n");
        let real = std::mem::replace(&mut writer.folder, folder.path().join("no such folder"));
        writer.open = None;
        writer.append(b"lost\n");
        writer.folder = real;
        writer.append(b"after\n");
        let chunk = read(folder.path(), 100).unwrap();
        assert_eq!(chunk.text, "before\n[... 5 bytes of the log were left out here ...]\nafter\n");
        assert_eq!(chunk.omitted_bytes, 5);

        let real = std::mem::replace(&mut writer.folder, folder.path().join("no such folder"));
        writer.open = None;
        writer.append(b"the last\n");
        writer.folder = real;
        writer.finish();
        let chunk = read(folder.path(), 100).unwrap();
        assert!(chunk.text.ends_with("after\n[... 9 bytes of the log were left out here ...]\n"), "{}", chunk.text);
        assert_eq!(chunk.omitted_bytes, 14);
    }
}
