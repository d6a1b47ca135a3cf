//! Checks the end of a ZIP archive before anything is allocated by what it says.
//!
//! The `zip` library looks for the end record backwards through the whole file, tries every candidate until one fits, and
//! reserves memory for the number of entries that a candidate claims. So the record is found here first, by one rule, and
//! the library gets a [`View`] in which no other one can be found: while it opens the archive, all bytes before the
//! central directory are zero, and the directory was searched for a second record.

use std::{
    cell::Cell,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    rc::Rc,
};

use model::{Problem, source::ArchiveLimits};
use zip::{
    ZipArchive,
    read::{ArchiveOffset, Config},
};

use super::{refused, too_large};

/// Bytes of an end record without its comment.
const END_BYTES: usize = 22;
const END_MAGIC: [u8; 4] = *b"PK\x05\x06";
/// Bytes of a ZIP64 end record without its extensible data, which is refused.
const END64_BYTES: usize = 56;
const END64_MAGIC: [u8; 4] = *b"PK\x06\x06";
/// Bytes of the record that says where the ZIP64 end record is.
const LOCATOR_BYTES: usize = 20;
const LOCATOR_MAGIC: [u8; 4] = *b"PK\x06\x07";
/// Bytes of a central directory header without its name, extra field and comment.
const HEADER_BYTES: u64 = 46;

/// The checked content of the end record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    /// Entries of the central directory.
    entries: u64,
    /// Where the directory begins.
    directory_start: u64,
    /// Where the end record begins.
    position: u64,
}

/// An archive whose directory was read within the limits.
pub(super) type Archive = ZipArchive<View>;

/// Opens the archive in `file`, which has `bytes`. `reserve` is asked for the bytes of its directory before it is read.
///
/// # Errors
/// Invalid for a file that is no complete archive; `TooLarge` for too many entries or too large a directory.
pub(super) fn open(
    file: File,
    bytes: u64,
    limits: &ArchiveLimits,
    reserve: impl FnOnce(usize) -> Result<(), Problem>,
) -> Result<Archive, Problem> {
    let unreadable = |error: io::Error| refused(format!("The upload is not a readable ZIP archive ({error})."));
    let end = find_end(&file, bytes).map_err(unreadable)?;
    let entries_max = limits.entries_max as u64;
    if end.entries > entries_max {
        return Err(too_large(format!(
            "The archive has {} files and folders; at most {entries_max} are taken.",
            end.entries
        )));
    }
    let directory_bytes = end.position - end.directory_start;
    let directory_max_bytes = limits.directory_max_bytes as u64;
    if directory_bytes > directory_max_bytes {
        return Err(too_large(format!(
            "The archive's directory of names has {directory_bytes} bytes; at most {directory_max_bytes} are taken."
        )));
    }
    reserve(usize::try_from(directory_bytes).unwrap_or(usize::MAX))?;
    let (view, opened) = View::new(file, &end).map_err(unreadable)?;
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let zip = ZipArchive::with_config(config, view)
        .map_err(|error| refused(format!("The upload is not a readable ZIP archive ({error}).")))?;
    opened.set(true);
    if zip.len() as u64 != end.entries {
        return Err(refused("The archive names a path twice."));
    }
    Ok(zip)
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Finds the last end record whose comment fits into the file, as the library does.
fn find_end(file: &File, bytes: u64) -> io::Result<End> {
    let tail_bytes = bytes.min((END_BYTES + usize::from(u16::MAX)) as u64);
    let tail_start = bytes - tail_bytes;
    let mut tail = vec![0; usize::try_from(tail_bytes).unwrap_or_default()];
    file.read_exact_at(&mut tail, tail_start)?;
    let is_end = |at: &usize| {
        tail[*at..].starts_with(&END_MAGIC)
            && tail.len() - at >= END_BYTES
            && tail.len() - at - END_BYTES >= usize::from(u16_at(&tail, at + 20))
    };
    let at = (0..tail.len()).rev().find(is_end).ok_or_else(|| invalid("it has no end record"))?;
    let record = &tail[at..at + END_BYTES];
    let position = tail_start + at as u64;
    let (disk, directory_disk) = (u16_at(record, 4), u16_at(record, 6));
    let (on_disk, entries) = (u16_at(record, 8), u16_at(record, 10));
    let (size, start) = (u32_at(record, 12), u32_at(record, 16));
    // The library asks for a ZIP64 record on these terms, and takes the plain one where there is none.
    if (entries == u16::MAX || start == u32::MAX)
        && let Some(end) = find_end64(file, position)?
    {
        return Ok(end);
    }
    if disk != directory_disk || on_disk != entries {
        return Err(invalid("it is a part of an archive"));
    }
    checked(u64::from(entries), u64::from(start), u64::from(size), position, position)
}

/// The ZIP64 end record, if the locator before the end record at `position` names one.
fn find_end64(file: &File, position: u64) -> io::Result<Option<End>> {
    let Some(locator_at) = position.checked_sub(LOCATOR_BYTES as u64) else { return Ok(None) };
    let mut locator = [0; LOCATOR_BYTES];
    file.read_exact_at(&mut locator, locator_at)?;
    if !locator.starts_with(&LOCATOR_MAGIC) {
        return Ok(None);
    }
    let record_at = u64_at(&locator, 8);
    // Nothing between the two: no extensible data, and no bytes before the archive.
    if record_at.checked_add(END64_BYTES as u64) != Some(locator_at) || u32_at(&locator, 16) > 1 {
        return Err(invalid("its ZIP64 end record is not where it should be"));
    }
    let mut record = [0; END64_BYTES];
    file.read_exact_at(&mut record, record_at)?;
    let is_whole = record.starts_with(&END64_MAGIC)
        && u64_at(&record, 4) == END64_BYTES as u64 - 12
        && u32_at(&record, 16) == u32_at(&record, 20)
        && u64_at(&record, 24) == u64_at(&record, 32);
    if !is_whole {
        return Err(invalid("its ZIP64 end record is broken"));
    }
    let (entries, size, start) = (u64_at(&record, 32), u64_at(&record, 40), u64_at(&record, 48));
    checked(entries, start, size, record_at, position).map(Some)
}

/// The directory has to lie before `limit`, and to be as large as its entries need.
fn checked(entries: u64, start: u64, size: u64, limit: u64, position: u64) -> io::Result<End> {
    let ends = start.checked_add(size).ok_or_else(|| invalid("its directory has no end"))?;
    if ends > limit {
        return Err(invalid("its directory does not lie within it"));
    }
    if entries.checked_mul(HEADER_BYTES).is_none_or(|least| least > size) {
        return Err(invalid("its directory is too small for its entries"));
    }
    Ok(End { entries, directory_start: start, position })
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut found = [0; N];
    found.copy_from_slice(&bytes[at..at + N]);
    found
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

/// The archive as the library reads it: without the comment, and with no second end record to be found.
#[derive(Debug)]
pub(super) struct View {
    file: File,
    /// From the directory to the end record's end, its comment left out.
    directory: Vec<u8>,
    directory_start: u64,
    position: u64,
    opened: Rc<Cell<bool>>,
}

impl View {
    fn new(file: File, end: &End) -> io::Result<(Self, Rc<Cell<bool>>)> {
        let bytes = usize::try_from(end.position - end.directory_start).unwrap_or(usize::MAX);
        let mut directory = vec![0; bytes + END_BYTES];
        file.read_exact_at(&mut directory, end.directory_start)?;
        // The last two bytes of the record are the length of the comment.
        directory[bytes + END_BYTES - 2..].fill(0);
        if directory[..bytes + END_MAGIC.len() - 1].windows(END_MAGIC.len()).any(|four| four == END_MAGIC) {
            return Err(invalid("it has two end records"));
        }
        let opened = Rc::new(Cell::new(false));
        let directory_start = end.directory_start;
        Ok((Self { file, directory, directory_start, position: 0, opened: Rc::clone(&opened) }, opened))
    }

    fn len(&self) -> u64 {
        self.directory_start + self.directory.len() as u64
    }
}

impl Read for View {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = if let Some(before) = self.directory_start.checked_sub(self.position).filter(|bytes| *bytes > 0) {
            let most = buffer.len().min(usize::try_from(before).unwrap_or(usize::MAX));
            if self.opened.get() {
                self.file.read_at(&mut buffer[..most], self.position)?
            } else {
                buffer[..most].fill(0);
                most
            }
        } else {
            let from = usize::try_from(self.position - self.directory_start).unwrap_or(usize::MAX);
            let rest = self.directory.get(from..).unwrap_or_default();
            let most = buffer.len().min(rest.len());
            buffer[..most].copy_from_slice(&rest[..most]);
            most
        };
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for View {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| invalid("a position before its beginning"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use model::problem::Kind;
    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn archive(entries: usize) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for number in 0..entries {
            writer.start_file(format!("a/{number}"), SimpleFileOptions::default()).unwrap();
            writer.write_all(b"content").unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn opened(bytes: &[u8], limits: &ArchiveLimits) -> Result<usize, Problem> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        open(file, bytes.len() as u64, limits, |_| Ok(())).map(|zip| zip.len())
    }

    fn limits() -> ArchiveLimits {
        ArchiveLimits { entries_max: 5, ..ArchiveLimits::default() }
    }

    /// The end record, with what it says of the number of entries and of the directory's size and beginning.
    fn end(entries: u16, size: u32, start: u32, comment: u16) -> Vec<u8> {
        let mut record = END_MAGIC.to_vec();
        record.extend([0; 4]);
        record.extend([entries.to_le_bytes(), entries.to_le_bytes()].concat());
        record.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
        record.extend(comment.to_le_bytes());
        record
    }

    fn end64(entries: u64, size: u64, start: u64, record_at: u64) -> Vec<u8> {
        let mut record = END64_MAGIC.to_vec();
        record.extend((END64_BYTES as u64 - 12).to_le_bytes());
        record.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        record.extend([entries, entries, size, start].map(u64::to_le_bytes).concat());
        record.extend(LOCATOR_MAGIC);
        record.extend([0; 4]);
        record.extend(record_at.to_le_bytes());
        record.extend(1_u32.to_le_bytes());
        record.extend(end(u16::MAX, u32::MAX, u32::MAX, 0));
        record
    }

    /// The archive without its end record, and where its directory begins.
    fn without_end(entries: usize) -> (Vec<u8>, u64) {
        let mut bytes = archive(entries);
        let at = bytes.len() - END_BYTES;
        let start = u64::from(u32_at(&bytes, at + 16));
        bytes.truncate(at);
        (bytes, start)
    }

    #[test]
    fn an_archive_is_opened_by_its_end_record_with_and_without_a_comment() {
        assert_eq!(opened(&archive(5), &limits()), Ok(5));
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer.start_file("a/1", SimpleFileOptions::default()).unwrap();
        writer.set_comment("a comment");
        assert_eq!(opened(&writer.finish().unwrap().into_inner(), &limits()), Ok(1));
    }

    #[test]
    fn a_zip64_end_record_is_believed_as_much_as_a_plain_one() {
        let (bytes, start) = without_end(3);
        let (size, at) = (bytes.len() as u64 - start, bytes.len() as u64);
        let zip64 = |entries: u64, size: u64, start: u64, record_at: u64| {
            [bytes.clone(), end64(entries, size, start, record_at)].concat()
        };
        assert_eq!(opened(&zip64(3, size, start, at), &limits()), Ok(3));
        for (what, bytes, kind) in [
            ("too many", zip64(6, size, start, at), Kind::Invalid),
            ("endless", zip64(u64::MAX, size, start, at), Kind::Invalid),
            ("a directory without end", zip64(3, u64::MAX, start, at), Kind::Invalid),
            ("a directory outside", zip64(3, size, at, at), Kind::Invalid),
            ("a record elsewhere", zip64(3, size, start, at - 1), Kind::Invalid),
            ("a record before the beginning", zip64(3, size, start, u64::MAX), Kind::Invalid),
        ] {
            assert_eq!(opened(&bytes, &limits()).expect_err(what).kind, kind, "{what}");
        }
        let (many, start) = without_end(6);
        let (size, at) = (many.len() as u64 - start, many.len() as u64);
        let many = [many, end64(6, size, start, at)].concat();
        assert_eq!(opened(&many, &limits()).unwrap_err().kind, Kind::TooLarge);
    }

    #[test]
    fn entries_and_bytes_of_the_directory_are_limited_before_it_is_read() {
        let many = opened(&archive(6), &limits()).unwrap_err();
        assert_eq!(many.kind, Kind::TooLarge);
        assert!(many.why.contains("6 files and folders; at most 5"), "{}", many.why);
        let small = ArchiveLimits { directory_max_bytes: 200, ..limits() };
        let large = opened(&archive(5), &small).unwrap_err();
        assert_eq!(large.kind, Kind::TooLarge);
        assert!(large.why.contains("at most 200"), "{}", large.why);
        // The directory counts as long as it is, and not as long as the record says.
        let (mut bytes, start) = without_end(5);
        bytes.extend(end(1, 60, u32::try_from(start).unwrap(), 0));
        assert_eq!(opened(&bytes, &small).unwrap_err().kind, Kind::TooLarge);
    }

    #[test]
    fn a_second_end_record_is_never_the_one_that_counts() {
        // Before the directory, where the library would take it if the last one does not fit.
        let whole = archive(3);
        let start = u32::try_from(whole.len()).unwrap();
        let broken = [whole.clone(), vec![0; 46], end(1, 46, start, 0)].concat();
        assert_eq!(ZipArchive::new(Cursor::new(&broken)).unwrap().len(), 3);
        assert_eq!(opened(&broken, &limits()).unwrap_err().kind, Kind::Invalid);
        // In the directory itself: a comment of an entry.
        let (mut comment, start) = without_end(3);
        comment.extend(end(3, 60, 0, 0));
        let size = u32::try_from(comment.len() as u64 - start).unwrap();
        comment.extend(end(3, size, u32::try_from(start).unwrap(), 0));
        let two = opened(&comment, &limits()).unwrap_err();
        assert!(two.why.contains("two end records"), "{}", two.why);
        // In the comment of the archive: one that fits into the file is the last one.
        let (bytes, start) = without_end(5);
        let size = u32::try_from(bytes.len() as u64 - start).unwrap();
        let start = u32::try_from(start).unwrap();
        let commented = [bytes, end(5, size, start, 22), end(1, size, start, 0)].concat();
        assert!(opened(&commented, &limits()).unwrap_err().why.contains("two end records"));
    }

    #[test]
    fn what_is_no_archive_and_what_was_cut_is_refused() {
        for bytes in [&b""[..], b"PK", b"hello", &END_MAGIC, &end(0, 0, 0, 1), &archive(3)[..100]] {
            assert_eq!(opened(bytes, &limits()).unwrap_err().kind, Kind::Invalid, "{bytes:?}");
        }
        let mut part = archive(3);
        let at = part.len() - END_BYTES;
        part[at + 4] = 1;
        assert_eq!(opened(&part, &limits()).unwrap_err().kind, Kind::Invalid);
    }

    #[test]
    fn a_path_that_the_directory_names_twice_is_refused() {
        let mut bytes = archive(2);
        for at in (0..bytes.len() - 3).rev() {
            if &bytes[at..at + 3] == b"a/1" {
                bytes[at + 2] = b'0';
            }
        }
        let twice = opened(&bytes, &limits()).unwrap_err();
        assert!(twice.why.contains("twice"), "{}", twice.why);
    }
}
