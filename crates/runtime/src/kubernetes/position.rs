//! The position in a log, so that a stream that broke off continues without gaps and duplicates. Pure.
//!
//! A node sends lines with the instants of their writing, from a whole second on. The lines of the last seconds are counted: a
//! later stream from that second on begins with as many known lines. If it begins with another line, the node has truncated its
//! file, and lines may be lost.

use std::collections::VecDeque;

use jiff::Timestamp;

/// The seconds whose lines are counted. Two outputs of a container are written by two writers, so that a line may be a little
/// older than the one before it.
const SECONDS_COUNTED: i64 = 2;

/// The longest timestamp at the beginning of a line, with the space behind it.
const STAMP_MAX_BYTES: usize = 40;

/// The mark in place of lost lines.
pub(crate) const BROKEN_OFF: &str = "[... the log broke off here ...]\n";

/// The beginning of the message that nodes send in place of a log that they no longer have.
pub(crate) const APOLOGY: &str = "unable to retrieve container logs for ";

/// The part of a log that was read.
#[derive(Debug, Default)]
pub(crate) struct Position {
    /// Lines by the second of their writing, in the order of arrival.
    seconds: VecDeque<Second>,
    /// The newest instant of a line.
    newest: Option<Timestamp>,
    /// The incomplete last line.
    open: Option<Open>,
    /// Bytes of text that were read.
    taken_bytes: u64,
}

#[derive(Debug)]
struct Second {
    /// Since 1970.
    at: i64,
    lines: u64,
    first: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    at: Timestamp,
    taken_bytes: u64,
}

impl Position {
    /// The instant from which the log has to be requested; absent for the whole log.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        let second = self.newest?.as_second() - (SECONDS_COUNTED - 1);
        Timestamp::from_second(second).ok()
    }

    /// The number of bytes of the log that were read.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// Continues with a stream that was requested from [`Self::since`] on.
    pub(crate) fn stream(&mut self) -> Continued<'_> {
        let since = self.since().map(Timestamp::as_second);
        let counted = || self.seconds.iter().filter(|second| since.is_some_and(|since| second.at >= since));
        let known_lines = counted().map(|second| second.lines).sum();
        let first = counted().next().map(|second| second.first).or(self.open.map(|open| open.at));
        let state = first.map_or(State::Taking, State::Beginning);
        Continued {
            position: self,
            state,
            known_lines,
            head: Vec::new(),
            line: None,
            is_first: true,
            has_apologised: false,
        }
    }

    fn begin_line(&mut self, at: Timestamp) {
        self.newest = self.newest.max(Some(at));
        self.open = Some(Open { at, taken_bytes: 0 });
    }

    fn end_line(&mut self) {
        let Some(Open { at, .. }) = self.open.take() else { return };
        let second = at.as_second();
        match self.seconds.iter_mut().find(|known| known.at == second) {
            Some(known) => known.lines += 1,
            None => self.seconds.push_back(Second { at: second, lines: 1, first: at }),
        }
        let newest = self.newest.map_or(second, Timestamp::as_second);
        self.seconds.retain(|known| known.at > newest - SECONDS_COUNTED);
    }
}

/// The treatment of the lines of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first line has this timestamp, unless lines are lost.
    Beginning(Timestamp),
    /// They are known.
    Skipping,
    /// They are new.
    Taking,
    /// Lines are lost; those after the newest that was read are new.
    AfterGap,
}

/// The current line of a stream.
#[derive(Debug, Clone, Copy)]
enum Line {
    Known,
    /// Neither counted nor added, because its beginning was read before.
    Rest,
    /// New, except for this number of bytes at its beginning.
    New(u64),
}

/// See [`Position::stream`].
#[derive(Debug)]
pub(crate) struct Continued<'a> {
    position: &'a mut Position,
    state: State,
    known_lines: u64,
    /// The beginning of a line, up to the end of its timestamp.
    head: Vec<u8>,
    line: Option<Line>,
    is_first: bool,
    has_apologised: bool,
}

impl Continued<'_> {
    /// Whether the node reported that it no longer has the log.
    pub(crate) fn has_apologised(&self) -> bool {
        self.has_apologised
    }

    /// Reads bytes of the stream, and appends new text to `text`.
    pub(crate) fn take(&mut self, mut bytes: &[u8], text: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let Some(line) = &mut self.line else {
                let end = bytes.iter().position(|byte| matches!(byte, b' ' | b'\n'));
                let head_end = end.map_or(bytes.len(), |end| end + 1);
                self.head.extend_from_slice(&bytes[..head_end]);
                bytes = &bytes[head_end..];
                if end.is_some() || self.head.len() > STAMP_MAX_BYTES {
                    self.begin_line(text);
                }
                continue;
            };
            let end = bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
            let (of_line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            bytes = rest;
            if let Line::New(known_bytes) = line {
                let known = usize::try_from(*known_bytes).unwrap_or(usize::MAX).min(of_line.len());
                *known_bytes -= known as u64;
                self.position.add(&of_line[known..], text);
            }
            if end.is_some() {
                self.end_line();
            }
        }
    }

    /// Decides about the line that begins with the collected bytes.
    fn begin_line(&mut self, text: &mut Vec<u8>) {
        let head = std::mem::take(&mut self.head);
        let is_first = std::mem::replace(&mut self.is_first, false);
        let stamp = head.strip_suffix(b" ").and_then(|stamp| std::str::from_utf8(stamp).ok()?.parse().ok());
        let Some(at) = stamp else {
            // Text without a timestamp is either the rest of a line that began before the requested instant, or a message of the
            // node.
            self.has_apologised |= is_first && APOLOGY.as_bytes().starts_with(&head);
            let is_known = self.has_apologised || (is_first && self.state != State::Taking);
            self.line = Some(if is_known { Line::Rest } else { Line::New(0) });
            if !is_known {
                self.position.add(&head, text);
            }
            if head.ends_with(b"\n") {
                self.line = None;
            }
            return;
        };
        if let State::Beginning(expected) = self.state {
            self.state = if at != expected {
                self.lose(text);
                State::AfterGap
            } else if self.known_lines > 0 {
                State::Skipping
            } else {
                State::Taking
            };
        }
        let line = match self.state {
            State::AfterGap if self.position.newest.is_some_and(|newest| at <= newest) => Line::Known,
            State::Skipping => Line::Known,
            State::Beginning(_) | State::Taking | State::AfterGap => {
                self.state = State::Taking;
                match self.position.open {
                    Some(open) if open.at == at => Line::New(open.taken_bytes),
                    open => {
                        if open.is_some() {
                            self.lose(text);
                        }
                        self.position.begin_line(at);
                        Line::New(0)
                    }
                }
            }
        };
        self.line = Some(line);
    }

    fn end_line(&mut self) {
        match self.line.take() {
            Some(Line::New(_)) => self.position.end_line(),
            Some(Line::Known) if self.state == State::Skipping => {
                self.known_lines -= 1;
                if self.known_lines == 0 {
                    self.state = State::Taking;
                }
            }
            Some(Line::Known | Line::Rest) | None => {}
        }
    }

    fn lose(&mut self, text: &mut Vec<u8>) {
        if self.position.open.take().is_some_and(|open| open.taken_bytes > 0) {
            text.push(b'\n');
        }
        text.extend_from_slice(BROKEN_OFF.as_bytes());
    }
}

impl Position {
    fn add(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        text.extend_from_slice(bytes);
        self.taken_bytes += bytes.len() as u64;
        if let Some(open) = &mut self.open {
            open.taken_bytes += bytes.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of a node's file: its instant in milliseconds, and its text.
    type Written = (i64, &'static str);

    const FILE: [Written; 9] = [
        (10_000, "one"),
        (10_400, "two"),
        // The other output of the container was a little late.
        (10_399, "three"),
        (11_000, "four"),
        (11_000, "four"),
        (10_999, "five"),
        (12_500, "six, which is longer"),
        (12_500, ""),
        (19_000, "seven"),
    ];

    /// The part of a file that a node sends: the lines that are not older than the instant.
    fn sent(file: &[Written], since: Option<Timestamp>) -> String {
        let at = |millis: i64| Timestamp::from_millisecond(millis).unwrap();
        let lines = file.iter().filter(|(millis, _)| since.is_none_or(|since| at(*millis) >= since));
        lines.fold(String::new(), |sent, (millis, text)| sent + &format!("{:.9} {text}\n", at(*millis)))
    }

    fn text_of(file: &[Written]) -> String {
        file.iter().fold(String::new(), |all, (_, text)| all + text + "\n")
    }

    #[test]
    fn a_log_that_breaks_off_anywhere_twice_is_continued_without_a_gap_and_without_doubles() {
        let all = sent(&FILE, None);
        for first in 0..=all.len() {
            for second in (0..=all.len()).step_by(7) {
                let (mut position, mut text) = (Position::default(), Vec::new());
                position.stream().take(&all.as_bytes()[..first], &mut text);
                let more = sent(&FILE, position.since());
                // In pieces of three bytes.
                let mut stream = position.stream();
                for piece in more.as_bytes()[..second.min(more.len())].chunks(3) {
                    stream.take(piece, &mut text);
                }
                let rest = sent(&FILE, position.since());
                position.stream().take(rest.as_bytes(), &mut text);
                assert_eq!(String::from_utf8(text).unwrap(), text_of(&FILE), "broken off after {first} and {second}");
                assert_eq!(position.taken_bytes(), text_of(&FILE).len() as u64);
            }
        }
    }

    #[test]
    fn a_line_that_continues_behind_a_break_is_continued_where_it_broke_off() {
        let (mut position, mut text) = (Position::default(), Vec::new());
        position.stream().take(b"1970-01-01T00:00:10.5Z begun, and g", &mut text);
        assert_eq!(position.since(), Some(Timestamp::from_second(9).unwrap()));
        position.stream().take(b"1970-01-01T00:00:10.5Z begun, and goes on\n", &mut text);
        assert_eq!(text, b"begun, and goes on\n");
    }

    #[test]
    fn lines_that_the_node_threw_away_are_marked_where_they_were() {
        let (mut position, mut text) = (Position::default(), Vec::new());
        let all = sent(&FILE, None);
        position.stream().take(&all.as_bytes()[..all.find("five").unwrap() + 5], &mut text);
        // The node begins a new file after the line before the last.
        let rest = sent(&FILE[7..], position.since());
        position.stream().take(rest.as_bytes(), &mut text);
        let expected = format!("{}{BROKEN_OFF}\nseven\n", text_of(&FILE[..6]));
        assert_eq!(String::from_utf8(text).unwrap(), expected);

        // In the middle of a line.
        let (mut position, mut text) = (Position::default(), Vec::new());
        position.stream().take(&all.as_bytes()[..all.find("which").unwrap()], &mut text);
        position.stream().take(sent(&FILE[8..], None).as_bytes(), &mut text);
        let expected = format!("{}six, \n{BROKEN_OFF}seven\n", text_of(&FILE[..6]));
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn words_of_the_node_are_no_part_of_a_log() {
        let (mut position, mut text) = (Position::default(), Vec::new());
        let mut stream = position.stream();
        stream.take(b"unable to retrieve container logs for containerd://c84892ee4a39", &mut text);
        assert!(stream.has_apologised());
        assert!(text.is_empty());
        // The rest of a line whose beginning is older than what was asked for, and was read.
        position.stream().take(sent(&FILE[..1], None).as_bytes(), &mut text);
        position.stream().take(format!("rest\n{}", sent(&FILE[..2], None)).as_bytes(), &mut text);
        assert_eq!(text, b"one\ntwo\n");
    }
}
